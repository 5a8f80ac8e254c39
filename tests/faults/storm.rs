//! A storm of broadcasts beside peers that never read, and the most that one peer can make the
//! server hold.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use ikisocket::{Event, Server};
use socket2::SockRef;

use crate::alone::{alone, heap};
use crate::kit::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The outbox limit of the tests here, and what may wait for one peer that does not read.
const OUTBOX: usize = MIB;

/// What the listeners saw.
#[derive(Default)]
struct Seen {
    connects: usize,
    slow: usize,
    /// Anything else.
    others: Vec<String>,
}

/// The path says which peer it is. The slow ones get small buffers of the system.
fn stormy() -> Server<Seen> {
    let mut server = Server::builder()
        .max_outbox(OUTBOX)
        .ping_after(Duration::MAX)
        .build(Seen::default())
        .unwrap();
    listen(&mut server);
    server.route("/reads", |_, _| {}).unwrap();
    let never_reads = |_: &mut Seen, kws: &mut ikisocket::Socket<'_, Seen>| {
        SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(4 * KIB).unwrap();
    };
    server
        .route("/never-reads", never_reads)
        .unwrap()
        .on(Event::Connect, |seen, _| seen.connects += 1)
        .on(Event::Disconnect, |seen, ep| {
            seen.slow += usize::from(matches!(
                ep.error,
                Some(ikisocket::Error::SlowConsumer { limit: OUTBOX, .. })
            ));
        });
    server.on(Event::Error, |seen, ep| {
        if !matches!(ep.error, Some(ikisocket::Error::SlowConsumer { .. })) {
            seen.others.push(format!("{:?}", ep.error));
        }
    });
    server
}

/// A peer that reads each message to its end and compares it, without keeping it.
struct Reader {
    stream: Stream,
    buffer: Vec<u8>,
    /// Bytes of the message that have come, its header included.
    come: usize,
}

impl Reader {
    fn open(server: &mut Server<Seen>) -> Self {
        Self {
            stream: Peer::open(server, "/reads").into_stream(),
            buffer: vec![0; 64 * KIB],
            come: 0,
        }
    }

    /// Takes what has come of `frame`; whether that is all of it.
    fn take(&mut self, frame: &[u8]) -> bool {
        while self.come < frame.len() {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => panic!("the server has hung up"),
                Ok(read) => {
                    let piece = &self.buffer[..read];
                    assert!(
                        frame[self.come..].starts_with(piece),
                        "{} bytes of {} came well",
                        self.come,
                        frame.len()
                    );
                    self.come += read;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("cannot read: {error}"),
            }
        }
        true
    }
}

/// The frame of a broadcast of this payload.
fn frame_of(payload: &[u8], frame: &mut Vec<u8>) {
    frame.clear();
    frame.push(FIN | BINARY);
    match payload.len() {
        len @ 0..126 => frame.push(len as u8),
        len @ 126..65_536 => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
}

#[test]
fn a_storm_of_a_gibibyte_takes_one_outbox_and_reaches_all_that_read() {
    alone("storm::a_storm_of_a_gibibyte_takes_one_outbox_and_reaches_all_that_read", 200, gibibyte);
}

fn gibibyte() {
    const LENGTHS: [usize; 6] = [256 * KIB, 64 * KIB, 300, 256 * KIB, 15 * KIB, 256 * KIB];
    const READERS: usize = 2;
    let mut server = stormy();
    let mut readers: Vec<Reader> = (0..READERS).map(|_| Reader::open(&mut server)).collect();
    let mut payload: Vec<u8> = (0..256 * KIB).map(|at| (at % 251) as u8).collect();
    let mut frame = Vec::with_capacity(257 * KIB);
    let mut never_reads = None;
    let before = heap();
    let (mut sent, mut most, mut number, mut looks) = (0, 0, 0, 0);
    while sent < 1 << 30 {
        // When one has failed, the next one takes its place, so there is always one.
        if server.sockets().len() == READERS {
            never_reads = Some(
                Peer::connect_narrow(&mut server, 4 * KIB).upgrade(&mut server, "/never-reads"),
            );
        }
        payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let message = &payload[..LENGTHS[number % LENGTHS.len()]];
        frame_of(message, &mut frame);
        assert!(server.sockets().broadcast(message) >= READERS);
        most = most.max(heap() - before);
        // The server waits for no peer: the bytes were offered to the sockets once.
        server.poll(Some(Duration::ZERO)).unwrap();
        for reader in &mut readers {
            reader.come = 0;
            turn_until(&mut server, "a message", |_| {
                looks += 1;
                reader.take(&frame)
            });
        }
        most = most.max(heap() - before);
        sent += message.len();
        number += 1;
    }
    println!("{number} broadcasts, {looks} looks, {most} bytes of live heap at most");
    assert!(looks < 2 * READERS * number, "{looks} looks for {number} messages");
    // The outbox of the slow peer, the message on its way to the others, and little more.
    assert!(
        most > (OUTBOX / 2) as isize && most < (OUTBOX + 512 * KIB) as isize,
        "{most} bytes of live heap"
    );
    drop(never_reads);
    turn_until(&mut server, "the end of the last", |server| server.sockets().len() == READERS);
    let seen = server.state();
    assert!(seen.connects > 500, "{} did not read", seen.connects);
    assert!(
        seen.slow >= seen.connects - 1,
        "{} of {} ended as slow consumers",
        seen.slow,
        seen.connects
    );
    assert!(seen.others.len() <= 1, "only the last one went by itself: {:?}", seen.others);
}

#[test]
fn one_peer_can_make_the_server_hold_only_a_message_and_an_outbox() {
    alone("storm::one_peer_can_make_the_server_hold_only_a_message_and_an_outbox", 200, the_most);
}

fn the_most() {
    const PIECE: usize = 1000;
    let mut server = stormy();
    let mut peer = Peer::connect_narrow(&mut server, 4 * KIB).upgrade(&mut server, "/never-reads");
    let uuid = server.sockets().uuids()[0];
    let before = heap();
    // All but the last byte of the longest message, in many fragments.
    let pieces = MIB / PIECE;
    for number in 0..pieces {
        let opcode = if number == 0 { BINARY } else { CONTINUATION };
        peer.send(&mut server, fragment(opcode, [7; PIECE]));
    }
    peer.send(&mut server, fragment(CONTINUATION, vec![7; MIB - pieces * PIECE - 1]));
    // Pings that it reads no answers to, and messages for it of every length up to the limit.
    peer.send(&mut server, frame(PING, [7; 125]).repeat(1000));
    turn(&mut server);
    let mut sockets = server.sockets();
    let mut kws = sockets.get(uuid).unwrap();
    let mut len = 1;
    while kws.waiting_bytes() + len < OUTBOX - 200 {
        kws.emit(vec![7; len]);
        len = len % 5000 + 1;
    }
    let waiting = kws.waiting_bytes();
    turn(&mut server);
    assert!(server.sockets().get(uuid).is_some(), "{:?}", server.state().others);
    let held = (heap() - before) as usize;
    // A buffer that has grown may be twice as long as what is in it.
    assert!(
        waiting > OUTBOX - 10 * KIB && held > MIB + waiting,
        "{held} bytes held, {waiting} wait"
    );
    assert!(held < 2 * (MIB + OUTBOX), "{held} bytes held, {waiting} wait");
    peer.reset();
    turn_until(&mut server, "its end", |server| server.sockets().is_empty());
    turn(&mut server);
    let rest = heap() - before;
    assert!(rest < 256 * KIB as isize, "{rest} bytes are left");
}
