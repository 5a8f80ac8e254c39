//! raw: the program that servers are compared with. It makes the system calls that no server can
//! avoid, one recv and one send for each readable socket. One of its calls can be avoided: it
//! accepts until accept(2) finds no connection, as uWebSockets does. It finds where frames end, and
//! rewrites their headers. It does not unmask, validate or dispatch. It understands only clients
//! that keep to the protocol.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use ikisocket::http::{Key, write_switching_protocols};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

pub const ACCEPT: Token = Token(usize::MAX);
pub const BUFFER: usize = 512 * 1024;

struct Peer {
    stream: TcpStream,
    stage: Stage,
    /// The beginning of something whose end has not come.
    partial: Vec<u8>,
    /// Bytes that the socket did not take.
    unsent: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Stage {
    Upgrading,
    Echo,
    Broadcast,
}

impl Peer {
    fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        let sent = if self.unsent.is_empty() { taken(self.stream.write(frames))? } else { 0 };
        self.unsent.extend_from_slice(&frames[sent..]);
        Ok(())
    }

    fn send_rest(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = taken(self.stream.write(&self.unsent))?;
            if sent == 0 {
                break;
            }
            self.unsent.drain(..sent);
        }
        Ok(())
    }
}

/// Appends the response to a request; `None` if that is not understood.
pub fn upgrade(head: &[u8], response: &mut Vec<u8>) -> Option<Stage> {
    let head = std::str::from_utf8(head).ok()?;
    let header = |line: &str| {
        line.get(..18).is_some_and(|name| name.eq_ignore_ascii_case("sec-websocket-key:"))
    };
    let key = head.lines().find(|line| header(line))?[18..].trim();
    write_switching_protocols(&Key::parse(key).ok()?, None, None, response);
    Some(if head.starts_with("GET /bcast ") { Stage::Broadcast } else { Stage::Echo })
}

/// Serves `/echo` and `/bcast` on `address` until the process is ended.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, ACCEPT, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let mut peers: Slab<Peer> = Slab::new();
    let mut input = vec![0; BUFFER];
    let mut replies = Vec::with_capacity(BUFFER);
    let mut for_all = Vec::new();
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == ACCEPT {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let slot = peers.vacant_entry();
                    poll.registry().register(
                        &mut stream,
                        Token(slot.key()),
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                    slot.insert(Peer {
                        stream,
                        stage: Stage::Upgrading,
                        partial: Vec::new(),
                        unsent: Vec::new(),
                    });
                }
                continue;
            }
            let Some(peer) = peers.get_mut(event.token().0) else { continue };
            let mut served = if event.is_writable() { peer.send_rest() } else { Ok(()) };
            while served.is_ok() && event.is_readable() {
                match turn(peer, &mut input, &mut replies, &mut for_all) {
                    Ok(more) if more || event.is_read_closed() => {}
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => served = Err(error),
                }
            }
            if served.is_err() {
                peers.remove(event.token().0);
            }
        }
        if !for_all.is_empty() {
            for (_, peer) in &mut peers {
                if peer.stage == Stage::Broadcast {
                    // A connection that ended is noticed when its event comes.
                    let _ = peer.send(&for_all);
                }
            }
            for_all.clear();
        }
    }
}

/// One recv, and what it brought; whether there may be more to read.
fn turn(
    peer: &mut Peer,
    input: &mut Vec<u8>,
    replies: &mut Vec<u8>,
    for_all: &mut Vec<u8>,
) -> io::Result<bool> {
    let kept = peer.partial.len();
    if input.len() < kept + BUFFER / 2 {
        input.resize(kept + BUFFER, 0);
    }
    input[..kept].copy_from_slice(&peer.partial);
    peer.partial.clear();
    let read = match peer.stream.read(&mut input[kept..]) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(error) => {
            peer.partial.extend_from_slice(&input[..kept]);
            return Err(error);
        }
    };
    let all = kept + read == input.len();
    let received = &input[..kept + read];
    match peer.stage {
        Stage::Upgrading if received.ends_with(b"\r\n\r\n") => {
            replies.clear();
            peer.stage = upgrade(received, replies).ok_or(ErrorKind::InvalidData)?;
            peer.send(replies)?;
        }
        Stage::Upgrading => peer.partial.extend_from_slice(received),
        Stage::Echo | Stage::Broadcast => {
            replies.clear();
            let used = turn_round(received, replies);
            peer.partial.extend_from_slice(&received[used..]);
            match peer.stage {
                Stage::Broadcast => for_all.extend_from_slice(replies),
                _ if !replies.is_empty() => peer.send(replies)?,
                _ => {}
            }
        }
    }
    Ok(all)
}

/// Turns every whole frame from a client into one from a server, its payload untouched; returns how
/// much was used.
pub fn turn_round(received: &[u8], replies: &mut Vec<u8>) -> usize {
    let mut used = 0;
    while let [first, second, rest @ ..] = &received[used..] {
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < length_bytes + 4 {
            break;
        }
        let long = rest[..length_bytes].iter().fold(0, |long, &byte| long << 8 | usize::from(byte));
        let len = if length_bytes == 0 { usize::from(second & 0x7f) } else { long };
        let Some(payload) = rest[length_bytes + 4..].get(..len) else { break };
        replies.extend_from_slice(&[*first, second & 0x7f]);
        replies.extend_from_slice(&rest[..length_bytes]);
        replies.extend_from_slice(payload);
        used += 2 + length_bytes + 4 + len;
    }
    used
}

pub fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
