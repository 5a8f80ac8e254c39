//! A Redis in memory that does as much as a session needs, and errs on demand; and a session beside
//! it, in virtual time.
#![allow(dead_code)] // No test file needs all of it.

use std::collections::BTreeSet;

use ikisocket::redis::{
    BusFailure, Reply, ReplyLimits, Scan, Scanner, Session, SessionEvent, SessionOptions, Value,
    encode_command,
};

pub const OWN: &[u8] = b"app:own";

/// The answer of a master to HELLO 3.
pub const HELLO: &str = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n\
    $5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n\
    $4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";

/// What comes out of a session, without a borrow.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Up(u64),
    Down(BusFailure, u64),
    Failed(BusFailure, u64),
    Message(String, Vec<u8>),
    Unsubscribed(String),
}

impl From<SessionEvent<'_>> for Seen {
    fn from(event: SessionEvent<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match event {
            SessionEvent::Up { was_down_for, .. } => Self::Up(was_down_for),
            SessionEvent::Down { failure, unconfirmed, .. } => Self::Down(failure, unconfirmed),
            SessionEvent::Failed { failure, retry_in, .. } => Self::Failed(failure, retry_in),
            SessionEvent::Message { channel, payload } => {
                Self::Message(text(channel), payload.to_vec())
            }
            SessionEvent::Unsubscribed { channel } => Self::Unsubscribed(text(channel)),
            _ => unreachable!(),
        }
    }
}

/// A Redis with one client.
pub struct Redis {
    received: Vec<u8>,
    /// What it has to send.
    pub out: Vec<u8>,
    /// Each command, its arguments joined by spaces.
    pub commands: Vec<String>,
    pub channels: BTreeSet<Vec<u8>>,
    pub hello: String,
    pub select: String,
    pub ping: String,
    /// `None`: it does what it should.
    pub publish: Option<String>,
    /// It confirms subscriptions.
    pub confirms: bool,
    /// It hands messages to subscribers.
    pub delivers: bool,
    /// It reads commands.
    pub reads: bool,
}

impl Redis {
    pub fn new() -> Self {
        Self {
            received: Vec::new(),
            out: Vec::new(),
            commands: Vec::new(),
            channels: BTreeSet::new(),
            hello: HELLO.into(),
            select: "+OK\r\n".into(),
            ping: "+PONG\r\n".into(),
            publish: None,
            confirms: true,
            delivers: true,
            reads: true,
        }
    }

    /// The client's connection has ended.
    pub fn cut(&mut self) {
        self.received.clear();
        self.out.clear();
        self.channels.clear();
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        let limits = ReplyLimits { elements: 100_000, ..ReplyLimits::default() };
        while let Scan::Complete(len) = Scanner::default().scan(rest, &limits).unwrap() {
            let Value::Array(args) = Reply::of(&rest[..len]).value else { panic!("no command") };
            let args: Vec<Vec<u8>> = args
                .map(|arg| if let Value::Bulk(arg) = arg.value { arg.to_vec() } else { panic!() })
                .collect();
            self.execute(&args);
            rest = &rest[len..];
        }
        self.received = rest.to_vec();
    }

    fn execute(&mut self, args: &[Vec<u8>]) {
        self.commands.push(
            args.iter().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" "),
        );
        match &args[0][..] {
            b"HELLO" => self.out.extend(self.hello.bytes()),
            b"SELECT" => self.out.extend(self.select.bytes()),
            b"PING" => self.out.extend(self.ping.bytes()),
            b"PUBLISH" => match self.publish.clone() {
                Some(answer) => self.out.extend(answer.bytes()),
                None => {
                    let is_subscribed = self.channels.contains(&args[1]) && self.delivers;
                    if is_subscribed {
                        self.message(&args[1], &args[2]);
                    }
                    self.out.extend(format!(":{}\r\n", u8::from(is_subscribed)).bytes());
                }
            },
            b"SUBSCRIBE" => args[1..].iter().for_each(|channel| {
                self.channels.insert(channel.clone());
                self.confirm("subscribe", channel);
            }),
            b"UNSUBSCRIBE" => args[1..].iter().for_each(|channel| {
                self.channels.remove(channel);
                self.confirm("unsubscribe", channel);
            }),
            other => panic!("{:?}", other.escape_ascii().to_string()),
        }
    }

    fn confirm(&mut self, what: &str, channel: &[u8]) {
        if self.confirms {
            self.push(&[what.as_bytes(), channel]);
            // The count is no bulk string.
            self.out.extend(format!(":{}\r\n", self.channels.len()).bytes());
        }
    }

    /// Another client publishes.
    pub fn message(&mut self, channel: &[u8], payload: &[u8]) {
        self.push(&[b"message", channel, payload]);
    }

    /// It ends a subscription that nothing has asked it to end.
    pub fn unsubscribe(&mut self, channel: &[u8]) {
        self.channels.remove(channel);
        self.confirm("unsubscribe", channel);
    }

    fn push(&mut self, elements: &[&[u8]]) {
        let parts: Vec<[&[u8]; 1]> = elements.iter().map(|&element| [element]).collect();
        let parts: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
        let at = self.out.len();
        encode_command(&parts, &mut self.out);
        self.out[at..at + 2].copy_from_slice(b">3");
    }

    /// The commands of this name since the last call, and how many arguments each had.
    pub fn took(&mut self, name: &str) -> Vec<usize> {
        let commands = std::mem::take(&mut self.commands);
        let of_name = commands.iter().filter(|each| each.split(' ').next() == Some(name));
        of_name.map(|each| each.split(' ').count() - 1).collect()
    }
}

/// A session and its Redis.
pub struct Pair {
    pub session: Session,
    pub redis: Redis,
    pub now: u64,
    pub seen: Vec<Seen>,
    /// Redis can be reached.
    pub is_reachable: bool,
    /// The most bytes that arrive at once.
    pub piece: usize,
    is_connected: bool,
}

impl Pair {
    pub fn new(address: &str) -> Self {
        Self::with(address, SessionOptions::new(OWN))
    }

    pub fn with(address: &str, options: SessionOptions) -> Self {
        Self {
            session: Session::new(address.parse().unwrap(), options, 1, 0),
            redis: Redis::new(),
            now: 0,
            seen: Vec::new(),
            is_reachable: true,
            piece: usize::MAX,
            is_connected: false,
        }
    }

    /// One that is up.
    pub fn up() -> Self {
        let mut pair = Self::new("redis://localhost");
        pair.turn();
        assert_eq!(pair.take_seen(), [Seen::Up(0)]);
        pair.redis.commands.clear();
        pair
    }

    pub fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    fn see(&mut self, event: SessionEvent<'_>) {
        let seen = Seen::from(event);
        if let Seen::Down(..) | Seen::Failed(..) = seen {
            self.is_connected = false;
            self.redis.cut();
        }
        self.seen.push(seen);
    }

    /// Everything that can happen at this time.
    pub fn turn(&mut self) {
        loop {
            if self.session.should_connect(self.now) {
                self.session.connecting(self.now);
                if self.is_reachable {
                    self.session.connected(self.now);
                    self.is_connected = true;
                } else {
                    let refused = Some(std::io::ErrorKind::ConnectionRefused);
                    let event = self.session.disconnected(self.now, refused).unwrap();
                    self.see(event);
                }
            }
            self.read();
            if let Some(event) = self.session.expire(self.now) {
                self.see(event);
            }
            let unsent = self.session.unsent();
            let len = if self.redis.reads { unsent.len() } else { 0 };
            self.redis.receive(&unsent[..len]);
            self.session.wrote(len);
            if self.redis.out.is_empty() && len == 0 {
                return;
            }
        }
    }

    fn read(&mut self) {
        let out = std::mem::take(&mut self.redis.out);
        let now = self.now;
        for piece in out.chunks(self.piece.min(out.len()).max(1)) {
            let mut input = piece;
            while let Some(event) = self.session.receive(now, &mut input) {
                let seen = Seen::from(event);
                let is_down = matches!(seen, Seen::Down(..) | Seen::Failed(..));
                self.seen.push(seen);
                if is_down {
                    self.is_connected = false;
                    self.redis.cut();
                    return;
                }
            }
            assert!(input.is_empty(), "all is consumed");
        }
        self.session.drained();
    }

    /// Redis closes the connection.
    pub fn close(&mut self, error: Option<std::io::ErrorKind>) {
        let event = self.session.disconnected(self.now, error).unwrap();
        self.see(event);
    }

    /// Time passes; what is due at a time happens then.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        self.turn();
        while let Some(at) = self.session.next_deadline().filter(|&at| at <= until) {
            assert!(at > self.now, "what was due at {at} is done");
            self.now = at;
            self.turn();
        }
        self.now = until;
        self.turn();
    }

    pub fn want_numbered(&mut self, count: usize) {
        (0..count).for_each(|number| self.session.want(format!("app:{number}").as_bytes()));
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected
    }
}
