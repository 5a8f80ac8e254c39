//! Reads that end before the socket is empty: at urgent data (`MSG_OOB`), on TCP and Unix sockets,
//! and at passed descriptors. What lies behind is handled at once, not with the next event. No
//! timer of the server helps: all are far away.
#![cfg(any(target_os = "linux", target_os = "android"))]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use common::{CLOSE, TEXT, frame, turn_until, upgrade_request};
use ikisocket::{Event, Server};
use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

const FAR: Duration = Duration::from_secs(3600);

/// What the server saw: messages, and the ends of connections.
type Log = Vec<String>;

/// An echo server on a TCP and a Unix socket.
struct Place {
    server: Server<Log>,
    path: PathBuf,
}

impl Place {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir()
            .join(format!("ikisocket-urgent-{test}-{}.sock", std::process::id()));
        let settings = Server::builder().handshake_timeout(FAR).ping_after(FAR);
        let mut server = settings.build(Log::new()).unwrap();
        server.listen("127.0.0.1:0").unwrap();
        server.listen_unix(&path).unwrap();
        server.route("/ws", |_, _| {}).unwrap();
        server.on(Event::Message, |log, ep| {
            log.push(ep.data.as_str().unwrap_or_default().chars().take(10).collect());
            ep.kws.emit(ep.data);
        });
        server.on(Event::Disconnect, |log, ep| log.push(format!("{:?}", ep.error)));
        Self { server, path }
    }

    /// A client that has sent nothing yet, on each kind of socket.
    fn clients(&self) -> [Peer; 2] {
        let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        tcp.connect(&self.server.local_addr().unwrap().into()).unwrap();
        tcp.set_tcp_nodelay(true).unwrap();
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        unix.connect(&SockAddr::unix(&self.path).unwrap()).unwrap();
        [tcp, unix].map(|socket| {
            socket.set_nonblocking(true).unwrap();
            Peer { socket, received: Vec::new(), ended: false }
        })
    }

    /// The same, upgraded.
    fn open(&mut self) -> [Peer; 2] {
        self.clients().map(|mut peer| {
            peer.send(&mut self.server, upgrade_request("/ws").as_bytes());
            peer.expect_upgraded(&mut self.server);
            peer
        })
    }
}

struct Peer {
    socket: Socket,
    received: Vec<u8>,
    ended: bool,
}

impl Peer {
    #[track_caller]
    fn send(&mut self, server: &mut Server<Log>, mut bytes: &[u8]) {
        turn_until(server, |_| {
            while !bytes.is_empty() {
                match self.socket.write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("{error}"),
                }
            }
            true
        });
    }

    /// Sends one urgent byte.
    #[track_caller]
    fn urge(&mut self, server: &mut Server<Log>) {
        turn_until(server, |_| match self.socket.send_out_of_band(b"!") {
            Ok(sent) => sent == 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        });
    }

    /// Turns the loop until `look` finds its pattern in everything that was received.
    #[track_caller]
    fn wait(&mut self, server: &mut Server<Log>, mut look: impl FnMut(&Self) -> bool) {
        turn_until(server, |_| {
            let mut buffer = [0; 64 * 1024];
            while !self.ended {
                match self.socket.read(&mut buffer) {
                    Ok(0) => self.ended = true,
                    Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => self.ended = true,
                }
            }
            look(self)
        });
    }

    #[track_caller]
    fn expect_upgraded(&mut self, server: &mut Server<Log>) {
        let end = |peer: &Self| {
            peer.received.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
        };
        self.wait(server, |peer| end(peer).is_some());
        assert!(self.received.starts_with(b"HTTP/1.1 101 "), "{}", self.received.escape_ascii());
        self.received.drain(..end(self).unwrap());
    }

    /// Waits until these messages have come back, and nothing else.
    #[track_caller]
    fn expect(&mut self, server: &mut Server<Log>, messages: &[&[u8]]) {
        let expected: Vec<u8> =
            messages.iter().flat_map(|message| unmasked(&frame(TEXT, message))).collect();
        self.wait(server, |peer| peer.received.len() >= expected.len());
        assert!(self.received == expected, "{}", self.received.escape_ascii());
        self.received.clear();
    }
}

/// What a server sends for a client's frame of less than 64 KiB.
fn unmasked(frame: &[u8]) -> Vec<u8> {
    let header = if frame[1] == 0xFE { 4 } else { 2 };
    let mut unmasked = frame[..header].to_vec();
    unmasked[1] &= 0x7F;
    unmasked.extend_from_slice(&frame[header + 4..]);
    unmasked
}

#[test]
fn an_urgent_byte_between_two_messages_delays_neither() {
    let mut place = Place::new("between");
    for mut peer in place.open() {
        let server = &mut place.server;
        // All of it is there before the loop turns again.
        peer.send(server, &frame(TEXT, b"one"));
        peer.urge(server);
        peer.send(server, &frame(TEXT, b"two"));
        peer.expect(server, &[b"one", b"two"]);
        // And with nothing in front of it, or behind.
        peer.urge(server);
        peer.send(server, &frame(TEXT, b"three"));
        peer.expect(server, &[b"three"]);
        peer.urge(server);
        server.poll(Some(Duration::ZERO)).unwrap();
        peer.send(server, &frame(TEXT, b"four"));
        peer.expect(server, &[b"four"]);
    }
}

#[test]
fn an_urgent_byte_anywhere_in_a_request_delays_no_answer() {
    let mut place = Place::new("head");
    let request = upgrade_request("/ws");
    for at in [0, 1, 10, request.len() / 2, request.len() - 1, request.len()] {
        for mut peer in place.clients() {
            let server = &mut place.server;
            peer.send(server, &request.as_bytes()[..at]);
            peer.urge(server);
            peer.send(server, &request.as_bytes()[at..]);
            peer.send(server, &frame(TEXT, b"one"));
            peer.expect_upgraded(server);
            peer.expect(server, &[b"one"]);
        }
    }
}

#[test]
fn an_urgent_byte_anywhere_in_a_large_message_delays_nothing_of_it() {
    let mut place = Place::new("large");
    let message = frame(TEXT, &[b'x'; 60_000]);
    for mut peer in place.open() {
        for at in [1, 4, 8, 9, 1000, 32_768, 59_999, message.len() - 1] {
            let server = &mut place.server;
            peer.send(server, &message[..at]);
            peer.urge(server);
            peer.send(server, &message[at..]);
            peer.expect(server, &[&[b'x'; 60_000]]);
        }
    }
}

#[test]
fn two_urgent_bytes_in_a_row_delay_no_message_either() {
    let mut place = Place::new("two");
    for mut peer in place.open() {
        let server = &mut place.server;
        for turns in [1, 3] {
            peer.urge(server);
            // The loop passes the first; one that it has not passed becomes part of the stream when
            // the next comes.
            (0..turns).for_each(|_| {
                server.poll(Some(Duration::ZERO)).unwrap();
            });
            peer.urge(server);
            peer.send(server, &frame(TEXT, b"one"));
            peer.send(server, &frame(TEXT, b"two"));
            peer.expect(server, &[b"one", b"two"]);
        }
    }
}

#[test]
fn of_two_urgent_bytes_the_first_is_refused_as_part_of_the_stream() {
    let mut place = Place::new("burst");
    for mut peer in place.open() {
        let server = &mut place.server;
        peer.send(server, &frame(TEXT, b"one"));
        peer.urge(server);
        peer.urge(server);
        peer.send(server, &frame(TEXT, b"two"));
        peer.wait(server, |peer| peer.received.len() > 9);
        let (echo, close) = peer.received.split_at(5);
        assert_eq!(
            (echo, close[0], &close[2..4]),
            (&b"\x81\x03one"[..], 0x80 | CLOSE, &1002_u16.to_be_bytes()[..])
        );
    }
}

#[test]
fn an_urgent_byte_before_the_end_delays_no_message_and_no_disconnect() {
    let mut place = Place::new("end");
    for mut peer in place.open() {
        let server = &mut place.server;
        peer.send(server, &frame(TEXT, b"one"));
        peer.urge(server);
        peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
        peer.expect(server, &[b"one"]);
        peer.wait(server, |peer| peer.ended);
    }
    for mut peer in place.open() {
        let server = &mut place.server;
        peer.send(server, &frame(CLOSE, &1000_u16.to_be_bytes()));
        peer.urge(server);
        peer.wait(server, |peer| peer.ended);
        assert_eq!(peer.received, b"\x88\x02\x03\xE8");
    }
    turn_until(&mut place.server, |server| server.state().len() == 6);
    assert_eq!(
        place.server.state()[..],
        ["one", "Some(Lost)", "one", "Some(Lost)", "None", "None"]
    );
}

#[test]
fn passed_descriptors_delay_no_message_and_are_closed_at_once() {
    let mut place = Place::new("rights");
    let [_tcp, mut peer] = place.open();
    let server = &mut place.server;
    let (mut kept, passed) = std::os::unix::net::UnixStream::pair().unwrap();
    kept.set_nonblocking(true).unwrap();
    // struct cmsghdr, and one descriptor: SOL_SOCKET and SCM_RIGHTS are 1 on Linux.
    let mut control = (size_of::<usize>() + 3 * size_of::<i32>()).to_ne_bytes().to_vec();
    for number in [1, 1, passed.as_raw_fd()] {
        control.extend_from_slice(&number.to_ne_bytes());
    }
    control.resize(control.len().next_multiple_of(size_of::<usize>()), 0);
    for message in [b"one", b"two"] {
        let message = frame(TEXT, message);
        let slices = [std::io::IoSlice::new(&message)];
        let header = MsgHdr::new().with_buffers(&slices).with_control(&control);
        assert_eq!(peer.socket.sendmsg(&header, 0).unwrap(), message.len());
    }
    peer.send(server, &frame(TEXT, b"three"));
    drop(passed);
    // Before the client takes an answer, because room in the socket would be an event.
    turn_until(server, |server| server.state().len() == 3);
    peer.expect(server, &[b"one", b"two", b"three"]);
    assert_eq!(kept.read(&mut [0]).unwrap(), 0, "nothing holds its other end any more");
}
