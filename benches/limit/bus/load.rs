//! The clients of the table of the bus: members of a room at one server, and one client at another
//! that publishes to that room. One thread does it for all servers, and never sleeps; see
//! `minimal`.
//!
//! Members count bytes, because all messages have the same length.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ikisocket::protocol::Opcode;
use mio::{Events, Interest, Poll, Token};

use crate::minimal::PATIENCE;
use crate::minimal::peer::{BUFFER, Peer, echo_len, is_upgraded, letters, masked, request};

/// Bytes of a message.
const SIZE: usize = 100;
/// Every message contains this once, and nothing else does.
pub const MARK: &[u8] = b"zabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
/// A server may subscribe some time after its members have joined. Until then, messages to their
/// room are lost.
const JOINING: Duration = Duration::from_millis(500);

/// What a server speaks with its clients.
#[derive(Clone, Copy, PartialEq)]
pub enum Protocol {
    WebSocket,
    SocketIo,
}

impl Protocol {
    /// What a client requests to be a member of a room.
    fn member(self, room: &str) -> String {
        match self {
            Self::WebSocket => format!("/in/{room}"),
            Self::SocketIo => format!("/socket.io/?EIO=4&transport=websocket&in={room}"),
        }
    }

    /// And to be a member of a number of them.
    fn many(self, room: &str, count: usize) -> String {
        match self {
            Self::WebSocket => format!("/many/{room}/{count}"),
            Self::SocketIo => {
                format!("/socket.io/?EIO=4&transport=websocket&in={room}&rooms={count}")
            }
        }
    }

    /// And so that all its messages go to a room.
    fn publisher(self, room: &str) -> String {
        match self {
            Self::WebSocket => format!("/to/{room}"),
            Self::SocketIo => format!("/socket.io/?EIO=4&transport=websocket&to={room}"),
        }
    }

    /// A message as a client sends it. Members get it in the same shape, unmasked.
    fn frame(self) -> Vec<u8> {
        let letters = letters(SIZE);
        match self {
            Self::WebSocket => masked(Opcode::Text, &letters),
            Self::SocketIo => {
                masked(Opcode::Text, &[b"42[\"m\",\"", &letters[..], b"\"]"].concat())
            }
        }
    }

    /// Connects, and waits until the server has greeted.
    fn connect(self, address: SocketAddr, path: &str) -> Result<TcpStream, Box<dyn Error>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request(address, path).as_bytes())?;
        let (mut response, mut byte) = (Vec::new(), [0]);
        while !is_upgraded(&response)? {
            stream.read_exact(&mut byte)?;
            response.extend(byte);
        }
        if self == Self::SocketIo {
            // The server opens with `0`, and answers the client's `40` with a `40`.
            expect(&read_frame(&mut stream)?, b"0{")?;
            stream.write_all(&masked(Opcode::Text, b"40"))?;
            expect(&read_frame(&mut stream)?, b"40{")?;
        }
        Ok(stream)
    }
}

fn expect(payload: &[u8], beginning: &[u8]) -> Result<(), Box<dyn Error>> {
    if payload.starts_with(beginning) {
        return Ok(());
    }
    Err(format!("the server says {}", payload.escape_ascii()).into())
}

/// The payload of a short frame.
fn read_frame(stream: &mut TcpStream) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut len = usize::from(head[1]);
    if len == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long)?;
        len = usize::from(u16::from_be_bytes(long));
    }
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// When messages are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// This number in each second.
    PerSecond(u32),
    /// This number together. When all members have all of them, the next ones follow.
    AtOnce(usize),
    /// This number in flight: for each that all members have, another follows.
    InFlight(usize),
}

/// The clients of a server that publishes and of one whose members receive.
pub struct Clients {
    poll: Poll,
    members: Vec<Peer>,
    publisher: Peer,
    /// As many as are sent at once.
    frames: Vec<u8>,
    frame_len: usize,
    delivery_len: usize,
}

/// The most messages that are sent together.
const MOST_AT_ONCE: usize = 256;

impl Clients {
    /// Connects `members` to one server and a publisher to another, which may be the same. It sends
    /// to the room of the members, or to another one if `room` says so.
    pub fn connect(
        protocol: Protocol,
        members: (SocketAddr, usize),
        publisher: SocketAddr,
        room: Option<&str>,
    ) -> Result<Self, Box<dyn Error>> {
        const ROOM: &str = "prices";
        let poll = Poll::new()?;
        let mut token = 0;
        let mut connect = |address, path: &str| -> Result<Peer, Box<dyn Error>> {
            let stream = protocol.connect(address, path)?;
            stream.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(token), interest)?;
            token += 1;
            Ok(Peer::over(Box::new(stream)))
        };
        let path = protocol.member(ROOM);
        let peers = (0..members.1).map(|_| connect(members.0, &path)).collect::<Result<_, _>>()?;
        let publisher = connect(publisher, &protocol.publisher(room.unwrap_or(ROOM)))?;
        let frame = protocol.frame();
        let mut clients = Self {
            poll,
            members: peers,
            publisher,
            frames: frame.repeat(MOST_AT_ONCE),
            frame_len: frame.len(),
            delivery_len: echo_len(&frame),
        };
        if room.is_none() {
            clients.wait_for_members()?;
        }
        Ok(clients)
    }

    /// Publishes now and then until all members got the same message, and nothing else follows.
    fn wait_for_members(&mut self) -> Result<(), Box<dyn Error>> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER];
        let mut wait = |clients: &mut Self| -> Result<usize, Box<dyn Error>> {
            let (end, mut got) = (Instant::now() + JOINING, 0);
            while Instant::now() < end {
                got += clients.receive(&mut events, &mut buffer)?;
            }
            Ok(got)
        };
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            self.send(1)?;
            if wait(self)? == self.members.len() && wait(self)? == 0 {
                return Ok(());
            }
        }
        Err("messages do not come to all members".into())
    }

    fn send(&mut self, messages: usize) -> Result<(), Box<dyn Error>> {
        Ok(self.publisher.send(messages * self.frame_len, &self.frames)?)
    }

    /// Reads what is there; how many messages came to members in all.
    fn receive(&mut self, events: &mut Events, buffer: &mut [u8]) -> Result<usize, Box<dyn Error>> {
        self.poll.poll(events, Some(Duration::ZERO))?;
        let mut got = 0;
        for event in &*events {
            match self.members.get_mut(event.token().0) {
                Some(member) if event.is_readable() => {
                    got += member.receive(buffer, self.delivery_len)?;
                }
                Some(_) => {}
                None => self.publisher.send(0, &self.frames)?,
            }
        }
        if got == 0 {
            // Redis and the server that publishes share this core.
            std::thread::yield_now();
        }
        Ok(got)
    }

    /// Publishes for a while, and waits until all members have everything; how many messages there
    /// were.
    pub fn run(&mut self, pace: Pace, length: Duration) -> Result<u64, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let members = self.members.len();
        let began = Instant::now();
        let (mut sent, mut delivered) = (0, 0);
        loop {
            let passed = began.elapsed();
            let in_flight = sent - delivered / members;
            let more = match pace {
                _ if passed >= length => 0,
                Pace::PerSecond(rate) => {
                    (passed.as_secs_f64() * f64::from(rate)) as usize + 1 - sent
                }
                Pace::AtOnce(count) if in_flight == 0 => count,
                Pace::AtOnce(_) => 0,
                Pace::InFlight(count) => count - in_flight,
            };
            if more > 0 {
                self.send(more)?;
                sent += more;
            } else if passed >= length && in_flight == 0 {
                return Ok(sent as u64);
            }
            if passed > length + PATIENCE {
                return Err("messages do not come to all members".into());
            }
            delivered += self.receive(&mut events, &mut buffer)?;
            if delivered > sent * members {
                return Err("more came than was sent".into());
            }
        }
    }

    /// Publishes at a steady rate to a room whose members are not here; how many messages there
    /// were.
    pub fn run_blindly(&mut self, rate: u32, length: Duration) -> Result<u64, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < length {
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as usize + 1;
            if due > sent {
                self.send(due - sent)?;
                sent = due;
            }
            if self.receive(&mut events, &mut buffer)? > 0 {
                return Err("a message came to a member of another room".into());
            }
        }
        Ok(sent as u64)
    }

    /// Publishes at a steady rate, one message at a time, and times each until the last member has
    /// it, in nanoseconds.
    pub fn round_trips(&mut self, rate: u32, length: Duration) -> Result<Vec<u64>, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let (step, began) = (Duration::from_secs(1) / rate, Instant::now());
        let mut times = Vec::new();
        let mut in_flight = VecDeque::new();
        let (mut sent, mut delivered) = (0, 0);
        while began.elapsed() < length || !in_flight.is_empty() {
            if began.elapsed() > length + PATIENCE {
                return Err("messages do not come to all members".into());
            }
            if began.elapsed() >= step * sent && began.elapsed() < length {
                in_flight.push_back(Instant::now());
                self.send(1)?;
                sent += 1;
            }
            delivered += self.receive(&mut events, &mut buffer)?;
            while delivered >= self.members.len() {
                delivered -= self.members.len();
                let began = in_flight.pop_front().ok_or("more came than was sent")?;
                times.push(began.elapsed().as_nanos() as u64);
            }
        }
        Ok(times)
    }
}

/// One client that is a member of `count` rooms, for as long as it is kept.
pub fn join_many(
    protocol: Protocol,
    address: SocketAddr,
    room: &str,
    count: usize,
) -> Result<TcpStream, Box<dyn Error>> {
    protocol.connect(address, &protocol.many(room, count))
}
