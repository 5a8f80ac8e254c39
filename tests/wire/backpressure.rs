//! Peers that read slowly or not at all: nothing is lost, doubled or cut, and no other waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ikisocket::{EmitError, Emitted, Event, Server, Socket};
use socket2::SockRef;

use crate::kit::*;

const KIB: usize = 1024;
/// Less than this is not kept in the kernel: the rest waits in the outbox.
const NARROW: usize = 16 * KIB;

/// What was emitted to one peer and must arrive: messages in their order, pings somewhere between
/// them.
#[derive(Default)]
struct Expected {
    messages: VecDeque<Frame>,
    pings: Vec<Frame>,
}

/// What is emitted next, and what was.
struct Source {
    random: Random,
    left: usize,
    slow: Expected,
    quick: Expected,
    pressure: usize,
}

impl Source {
    fn payload(&mut self) -> Vec<u8> {
        let len = match self.random.below(100) {
            0..10 => 0,
            10..70 => self.random.below(300),
            70..88 => self.random.below(8 * KIB),
            88..98 => 15 * KIB + self.random.below(50 * KIB),
            _ => 200 * KIB,
        };
        let number = self.left as u8;
        (0..len).map(|at| number.wrapping_add(at as u8)).collect()
    }

    /// Emits a few messages on the slow connection, some of them to all connections, while they fit
    /// into the outbox.
    fn emit(&mut self, kws: &mut Socket<'_, Source>) {
        for _ in 0..1 + self.random.below(30) {
            if self.left == 0 || kws.waiting_bytes() > 700 * KIB {
                return;
            }
            self.left -= 1;
            let payload = self.payload();
            let emitted = match self.random.below(10) {
                0 => {
                    let data = &payload[..payload.len().min(125)];
                    self.slow.pings.push(Frame::new(PING, data));
                    kws.ping(data)
                }
                1 | 2 => {
                    assert_eq!(kws.broadcast_all(&payload), 2);
                    self.quick.messages.push_back(Frame::new(BINARY, &payload[..]));
                    self.slow.messages.push_back(Frame::new(BINARY, payload));
                    Emitted::Queued
                }
                3 => {
                    let text = "é".repeat(payload.len() / 2);
                    self.slow.messages.push_back(Frame::text(&text));
                    kws.emit(text)
                }
                _ => {
                    let emitted = kws.emit(&payload);
                    self.slow.messages.push_back(Frame::new(BINARY, payload));
                    emitted
                }
            };
            self.pressure += usize::from(emitted == Emitted::Pressure);
            assert!(!matches!(emitted, Emitted::Refused(_)), "{emitted:?}");
        }
    }
}

impl Expected {
    fn take(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            if frame.opcode == PING {
                let at = self.pings.iter().position(|ping| *ping == frame);
                self.pings
                    .remove(at.unwrap_or_else(|| panic!("{frame:?} came, which is not to come")));
            } else {
                let next = self.messages.pop_front();
                assert!(next.as_ref() == Some(&frame), "{frame:?} came, {next:?} was to come");
            }
        }
    }

    fn is_met(&self) -> bool {
        self.messages.is_empty() && self.pings.is_empty()
    }
}

#[test]
fn nothing_is_lost_doubled_or_cut_however_slowly_it_is_read() {
    let random = Random(0xDEFA_CE0F_F1CE);
    let source = Source {
        random,
        left: 1500,
        slow: Expected::default(),
        quick: Expected::default(),
        pressure: 0,
    };
    let mut server = Server::builder().build(source).unwrap();
    listen(&mut server);
    server
        .route("/slow", |_, kws| {
            SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(NARROW).unwrap()
        })
        .unwrap();
    server.route("/quick", |_, _| {}).unwrap();
    server.on(Event::Message, |source, ep| source.emit(&mut ep.kws));
    server.on(Event::Error, |_, ep| panic!("{:?}", ep.error));
    let mut slow = Peer::connect_narrow(&mut server, NARROW).upgrade(&mut server, "/slow");
    let uuid = server.sockets().uuids()[0];
    let mut quick = Peer::open(&mut server, "/quick");
    let mut random = Random(77);
    turn_until(&mut server, "everything", |server| {
        for _ in 0..20 {
            match random.below(6) {
                // Inside a callback.
                0 => slow.send(server, frame(TEXT, "")),
                // Between two turns.
                1 => {
                    let (source, mut sockets) = server.lend();
                    source.emit(&mut sockets.get(uuid).unwrap());
                }
                2 => server.flush(),
                3 => turn(server),
                // A few bytes, or a few more.
                _ => {
                    let most = if random.below(3) == 0 { 20_000 } else { 50 };
                    slow.read_some(1 + random.below(most));
                    quick.read_some(usize::MAX);
                }
            }
        }
        let source = server.state_mut();
        source.slow.take(slow.frames());
        source.quick.take(quick.frames());
        source.left == 0 && source.slow.is_met() && source.quick.is_met()
    });
    assert!(server.state().pressure > 100, "it was slow: {}", server.state().pressure);
    assert_eq!(server.sockets().get(uuid).unwrap().waiting_bytes(), 0);
    assert_eq!((slow.received(), quick.received()), (&b""[..], &b""[..]));
}

/// A server whose connections have small buffers, and one that does not read.
/// The outbox relies on this event: without it the waiting bytes would never be offered again.
#[cfg(target_os = "linux")]
#[test]
fn a_short_write_is_followed_by_an_event_at_any_unsent_limit() {
    use mio::net::{TcpListener, TcpStream};
    use mio::{Events, Interest, Poll, Token};
    use std::io::{ErrorKind, Read, Write};

    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(8);
    let mut random = Random(0x0E70);
    for lowat in [4 * KIB, 32 * KIB, 128 * KIB, 1024 * KIB] {
        SockRef::from(&listener).set_tcp_notsent_lowat(lowat as u32).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = accept(&listener);
        assert_eq!(
            SockRef::from(&server).tcp_notsent_lowat().unwrap(),
            lowat as u32,
            "it is inherited"
        );
        poll.registry().register(&mut server, Token(0), Interest::WRITABLE).unwrap();
        let (chunk, mut buffer) = (vec![0; 256 * KIB], vec![0; 64 * KIB]);
        for _ in 0..200 {
            // Edge-triggered events from before the short write do not report it.
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            loop {
                let len = 1 + random.below(chunk.len());
                match server.write(&chunk[..len]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    written => {
                        if written.unwrap() < len {
                            break;
                        }
                    }
                }
            }
            let most = if random.below(4) == 0 { 1 + random.below(2000) } else { buffer.len() };
            let patience = Instant::now() + PATIENCE;
            loop {
                match peer.read(&mut buffer[..most]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    read => assert!(read.unwrap() > 0),
                }
                poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
                if events.iter().any(|event| event.is_writable()) {
                    break;
                }
                assert!(Instant::now() < patience, "a limit of {lowat}: the event is lost");
            }
        }
    }

    fn accept(listener: &TcpListener) -> (TcpStream, std::net::SocketAddr) {
        loop {
            match listener.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                accepted => return accepted.unwrap(),
            }
        }
    }
}

fn stuck(settings: ikisocket::Builder) -> (Server<Log>, Peer) {
    let mut server = server(settings);
    server
        .route("/ws", |_, kws| {
            SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(4 * KIB).unwrap()
        })
        .unwrap();
    let peer = Peer::connect_narrow(&mut server, 4 * KIB).upgrade(&mut server, "/ws");
    (server, peer)
}

#[test]
fn a_slow_consumer_gets_1008_behind_whole_frames_or_a_reset() {
    let (mut closed, mut reset) = (0, 0);
    for (len, to_all) in [
        (0, false),
        (1, false),
        (1000, false),
        (20 * KIB, false),
        (0, true),
        (1000, true),
        (20 * KIB, true),
    ] {
        let (mut server, mut peer) = stuck(Server::builder().max_outbox(64 * KIB));
        let mut witness = Peer::open(&mut server, "/ws");
        let uuid = server.sockets().uuids()[0];
        let message = vec![b'x'; len];
        let mut taken = 0;
        loop {
            let mut sockets = server.sockets();
            let Some(mut kws) = sockets.get(uuid) else { break };
            match to_all {
                false => match kws.emit(&message) {
                    Emitted::Refused(error) => {
                        assert_eq!(error, EmitError::Full);
                        break;
                    }
                    _ => taken += 1,
                },
                true => {
                    taken += usize::from(sockets.broadcast(&message) == 2);
                    witness.read_some(usize::MAX);
                    server.poll(Some(Duration::ZERO)).unwrap();
                }
            }
            assert!(taken < 10_000_000, "{len}: the outbox never fills");
        }
        turn_until_logged(&mut server, "disconnect", 1);
        let name = format!("{len} bytes, {to_all}: {:?}", server.state());
        assert!(server.state()[2].starts_with("error SlowConsumer { frame: "), "{name}");
        assert!(server.state()[3].starts_with("disconnect SlowConsumer { frame: "), "{name}");
        assert_eq!(server.state().len(), 4, "{name}");

        let end = peer.end(&mut server);
        let mut frames = peer.frames();
        let last = frames.last().and_then(Frame::close_code);
        match end {
            End::Fin => {
                assert_eq!((last, frames.pop().unwrap().opcode), (Some(1008), CLOSE), "{name}");
                assert_eq!(peer.received(), b"", "{name}");
                closed += 1;
            }
            End::Reset => {
                assert_eq!(frames.iter().find(|frame| frame.opcode == CLOSE), None, "{name}");
                reset += 1;
            }
        }
        assert!(
            frames.len() < taken && frames.iter().all(|frame| frame.payload == message),
            "{name}"
        );

        // The other one has everything and lives on.
        witness.send(&mut server, frame(PING, "there"));
        turn_until(&mut server, "the pong", |_| {
            witness.read_some(usize::MAX);
            witness.frames().iter().any(|frame| frame.opcode == PONG)
        });
    }
    // Over TLS, what was encrypted for one send arrives whole, and here that is whole frames.
    assert!(
        closed > 0 && (reset > 0 || over_tls()),
        "both were seen: {closed} closed, {reset} reset"
    );
}

#[test]
fn a_message_larger_than_the_outbox_is_refused_and_smaller_ones_pass() {
    let (mut server, mut peer) = stuck(Server::builder().max_outbox(2000));
    let mut sockets = server.sockets();
    let uuid = sockets.uuids()[0];
    let mut kws = sockets.get(uuid).unwrap();
    let refused = Emitted::Refused(EmitError::TooLarge { len: 2001, limit: 2000 });
    assert_eq!(kws.emit(vec![0; 2001]), refused);
    assert_eq!(kws.emit(vec![0; 2000]), Emitted::Queued, "exactly as large as allowed");
    assert_eq!(kws.broadcast_all(vec![0; 2001]), 0);
    assert_eq!(sockets.broadcast(vec![0; 2001]), 0);
    assert_eq!(sockets.emit_to(uuid, "small").unwrap(), Emitted::Queued);
    assert_eq!(peer.frame(&mut server).payload.len(), 2000);
    peer.expect_text(&mut server, "small");
    assert_eq!(*server.state(), ["connect"]);
}

#[test]
fn before_an_outbox_counts_as_full_the_socket_is_offered_what_waits() {
    let mut server = echo(Server::builder().max_outbox(1024));
    server.on(Event::Message, |_, ep| {
        for number in 0..1000 {
            assert_eq!(ep.kws.emit(format!("{number:0100}")), Emitted::Queued);
        }
    });
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, frame(TEXT, "go"));
    peer.expect_text(&mut server, "go");
    for number in 0..1000 {
        peer.expect_text(&mut server, &format!("{number:0100}"));
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_after_the_stall_timeout() {
    let timeout = Duration::from_millis(30);
    for to_all in [false, true] {
        let (mut server, mut peer) =
            stuck(Server::builder().stall_timeout(timeout).ping_after(Duration::MAX));
        let mut sockets = server.sockets();
        let uuid = sockets.uuids()[0];
        // Far more than the sockets keep, and less than the outbox.
        for _ in 0..100 {
            let message = vec![0; 10_000];
            if to_all {
                sockets.broadcast(message)
            } else {
                usize::from(sockets.emit_to(uuid, message).is_ok())
            };
        }
        turn_until_logged(&mut server, "disconnect", 1);
        assert_eq!(*server.state(), ["connect", "error Stalled(30ms)", "disconnect Stalled(30ms)"]);
        assert_eq!(peer.end(&mut server), End::Reset);
    }
}

#[test]
fn a_close_comes_behind_everything_that_was_emitted_before() {
    let (mut server, mut peer) = stuck(Server::builder());
    let mut sockets = server.sockets();
    let uuid = sockets.uuids()[0];
    let mut kws = sockets.get(uuid).unwrap();
    for number in 0..80 {
        assert!(kws.emit(vec![number; 10_000]).ok().is_ok());
    }
    kws.close_with(4000, "enough").unwrap();
    assert_eq!(kws.emit("late"), Emitted::Refused(EmitError::Closed));
    for number in 0..80 {
        assert!(peer.frame(&mut server) == Frame::new(BINARY, [number; 10_000]));
    }
    assert_eq!(
        peer.frame(&mut server),
        Frame::new(CLOSE, [&4000_u16.to_be_bytes()[..], b"enough"].concat())
    );
    peer.send(&mut server, close(4000, ""));
    assert_eq!(peer.end(&mut server), End::Fin);
    peer.part(&mut server);
    assert_eq!(
        *server.state(),
        ["connect", "close 4000 \"enough\"", "disconnect 4000 \"enough\" clean"]
    );
}

#[test]
fn what_follows_a_peers_close_is_ignored_also_while_its_answer_waits() {
    let (mut server, mut peer) = stuck(Server::builder());
    for number in 0..80 {
        server.sockets().broadcast(vec![number; 10_000]);
    }
    peer.send(&mut server, [close(4001, "bye"), frame(TEXT, "late")].concat());
    turn(&mut server);
    peer.send(&mut server, [0xFF; 1000]);
    turn(&mut server);
    for number in 0..80 {
        assert!(peer.frame(&mut server) == Frame::new(BINARY, [number; 10_000]));
    }
    peer.expect_close(&mut server, 4001);
    peer.part(&mut server);
    assert!(server.state().last().unwrap().ends_with("4001 \"bye\" clean"), "{:?}", server.state());
    assert_eq!(server.state().len(), 3, "{:?}", server.state());
}

#[test]
fn a_reset_while_messages_wait_ends_the_connection_once() {
    for closing in [false, true] {
        let (mut server, peer) = stuck(Server::builder());
        let mut sockets = server.sockets();
        for number in 0..80 {
            sockets.broadcast(vec![number; 10_000]);
        }
        if closing {
            sockets.for_each(|kws| kws.close());
        }
        turn(&mut server);
        peer.reset();
        turn_until_closed(&mut server, 1);
        let ends = server
            .state()
            .iter()
            .filter(|line| line.starts_with("disconnect") && !line.ends_with("clean"));
        assert_eq!(ends.count(), 1, "{:?}", server.state());
        assert!(server.state().last().unwrap().starts_with("disconnect"), "{:?}", server.state());
    }
}

#[test]
fn one_stuck_reader_delays_no_other_connection() {
    let (mut server, _stuck) = stuck(Server::builder());
    let mut quick = Peer::open(&mut server, "/ws");
    for number in 0..60 {
        assert_eq!(server.sockets().broadcast(vec![number; 10_000]), 2);
        assert!(quick.frame(&mut server) == Frame::new(BINARY, [number; 10_000]));
    }
}
