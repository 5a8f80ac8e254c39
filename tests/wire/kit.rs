//! Raw clients beside a server that is turned by hand, all in one thread: a wait turns the loop.

#[path = "../common/tls.rs"]
#[allow(dead_code)]
mod tls;

use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ikisocket::{Builder, Event, EventPayload, Server};

#[allow(unused_imports, reason = "not every test needs all of it")]
pub use tls::{Stream, listen, only_plain, over_tls, record_overhead};

/// Nothing here takes as long as this, however slow the machine is.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The key of RFC 6455 §1.3, and the answer that it names.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The bit of the last fragment.
pub const FIN: u8 = 0x80;

// The server.

/// What happened, one line each: `connect`, `message "hi"`, `disconnect Lost`.
pub type Log = Vec<String>;

/// A server at a free port whose events are written down.
pub fn server(settings: Builder) -> Server<Log> {
    let mut server = settings.build(Log::new()).unwrap();
    listen(&mut server);
    for event in [Event::Connect, Event::Message, Event::Ping, Event::Pong] {
        server.on(event, |log, ep| log.push(line(ep)));
    }
    for event in [Event::Close, Event::Error, Event::Disconnect] {
        server.on(event, |log, ep| log.push(line(ep)));
    }
    server
}

/// The same, with a route that sends every message back.
pub fn echo(settings: Builder) -> Server<Log> {
    let mut server = server(settings);
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/ws", |_, _| {}).unwrap();
    server
}

fn line<S>(ep: &EventPayload<'_, S>) -> String {
    let data = match ep.data.as_str() {
        _ if ep.data.len() > 200 => format!(" {} bytes", ep.data.len()),
        _ if ep.name == "connect" || ep.data.is_empty() && ep.name != "message" => String::new(),
        Some(text) => format!(" {text:?}"),
        None => format!(" {:?}", ep.data.as_bytes()),
    };
    let error = ep.error.map(|error| format!(" {error:?}")).unwrap_or_default();
    let code = ep.code.map(|code| format!(" {code} {:?}", ep.reason)).unwrap_or_default();
    format!("{}{data}{error}{code}{}", ep.name, if ep.clean { " clean" } else { "" })
}

/// Turns the loop until `done`, or fails and names the condition.
pub fn turn_until<S>(
    server: &mut Server<S>,
    what: &str,
    mut done: impl FnMut(&mut Server<S>) -> bool,
) {
    let started = Instant::now();
    while !done(server) {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Turns the loop until the log has this many lines that begin so.
pub fn turn_until_logged(server: &mut Server<Log>, beginning: &str, times: usize) {
    turn_until(server, &format!("{times} × `{beginning}`"), |server| {
        server.state().iter().filter(|line| line.starts_with(beginning)).count() >= times
    });
}

/// Turns the loop until it has removed `gone` connections.
pub fn turn_until_closed<S>(server: &mut Server<S>, gone: usize) {
    let (mut closed, started) = (0, Instant::now());
    while closed < gone {
        assert!(
            started.elapsed() < PATIENCE,
            "waited in vain for the end of {gone} connections, saw {closed}"
        );
        closed += server.poll(Some(Duration::from_millis(1))).unwrap().closed;
    }
}

/// Turns the loop so that it can read the bytes that were sent so far.
pub fn turn<S>(server: &mut Server<S>) {
    for _ in 0..3 {
        server.poll(Some(Duration::ZERO)).unwrap();
    }
}

// The client.

/// How the server ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// A client that sends only the bytes of the test: it knows nothing of WebSocket.
pub struct Peer {
    stream: Stream,
    received: Vec<u8>,
    end: Option<End>,
}

impl Peer {
    /// Over TLS, the loop turns until the handshake is done.
    pub fn connect<S>(server: &mut Server<S>) -> Self {
        Self::new(Stream::connect(server))
    }

    /// A client that takes little at a time.
    pub fn connect_narrow<S>(server: &mut Server<S>, receive_buffer: usize) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(receive_buffer).unwrap();
        socket.connect(&server.local_addr().unwrap().into()).unwrap();
        Self::new(Stream::over(socket.into(), server))
    }

    fn new(stream: Stream) -> Self {
        Self { stream, received: Vec::new(), end: None }
    }

    /// A client whose connection is open: the 101 was read, and nothing behind it.
    pub fn open<S>(server: &mut Server<S>, path: &str) -> Self {
        Self::connect(server).upgrade(server, path)
    }

    pub fn upgrade<S>(mut self, server: &mut Server<S>, path: &str) -> Self {
        self.send(server, upgrade(path, ""));
        let head = self.head(server);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    /// Another handle of its socket, for a callback to look through.
    pub fn handle(&self) -> TcpStream {
        self.stream.socket().try_clone().unwrap()
    }

    /// Its stream, of which nothing is read that it has not read.
    #[allow(dead_code, reason = "the tests of faults alone need it")]
    pub fn into_stream(self) -> Stream {
        assert!(self.received.is_empty());
        self.stream
    }

    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends all bytes. The loop turns while the socket is full.
    pub fn send<S>(&mut self, server: &mut Server<S>, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        turn_until(server, "room to send", |_| {
            while !rest.is_empty() {
                match self.stream.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("cannot send: {error}"),
                }
            }
            match self.stream.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                result => result.is_ok(),
            }
        });
    }

    /// Sends all bytes into the socket's own buffer, before the loop turns again.
    pub fn send_at_once(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends as much as the server takes, which may have closed the connection.
    pub fn try_send<S>(&mut self, server: &mut Server<S>, bytes: &[u8]) {
        for piece in bytes.chunks(16 * 1024) {
            let _ = self.stream.write(piece);
            turn(server);
        }
    }

    /// Whether the server has not reset the connection.
    pub fn is_connected(&self) -> bool {
        self.stream.socket().take_error().unwrap().is_none()
            && self.stream.socket().peer_addr().is_ok()
    }

    /// Takes at most `most` of the bytes that have arrived; returns how many came.
    pub fn read_some(&mut self, most: usize) -> usize {
        let mut buffer = [0; 64 * 1024];
        let most = most.min(buffer.len());
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) => self.end = Some(End::Fin),
            Ok(read) => {
                self.received.extend_from_slice(&buffer[..read]);
                return read;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.end = Some(End::Reset),
            Err(error) => panic!("cannot read: {error}"),
        }
        0
    }

    /// Takes all that has arrived.
    fn read(&mut self) {
        while self.end.is_none() && self.read_some(usize::MAX) > 0 {}
    }

    /// Bytes that were read and not looked at yet.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Turns the loop until `whole` finds the length of something at the beginning of what has
    /// arrived.
    fn wait<S>(
        &mut self,
        server: &mut Server<S>,
        what: &str,
        whole: impl Fn(&[u8]) -> Option<usize>,
    ) -> Vec<u8> {
        let mut len = None;
        turn_until(server, what, |_| {
            self.read();
            len = whole(&self.received);
            assert!(
                len.is_some() || self.end.is_none(),
                "{:?} instead of {what}: {:?}",
                self.end,
                self.received()
            );
            len.is_some()
        });
        self.received.drain(..len.unwrap()).collect()
    }

    /// The next HTTP head, as text.
    pub fn head<S>(&mut self, server: &mut Server<S>) -> String {
        let head = self.wait(server, "an HTTP head", |received| {
            received.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
        });
        String::from_utf8(head).unwrap()
    }

    /// A whole HTTP response, which must be the last bytes, and the end of the connection.
    pub fn response<S>(&mut self, server: &mut Server<S>) -> Response {
        let head = self.head(server);
        let end = self.end(server);
        let response = Response { head, body: std::mem::take(&mut self.received), end };
        assert!(
            response.header("Connection").is_some_and(|value| value.starts_with("close")),
            "{}",
            response.head
        );
        response
    }

    /// The next frame.
    pub fn frame<S>(&mut self, server: &mut Server<S>) -> Frame {
        let frame =
            self.wait(server, "a frame", |received| Frame::parse(received).map(|(_, len)| len));
        Frame::parse(&frame).unwrap().0
    }

    /// The frames that have arrived.
    pub fn frames(&mut self) -> Vec<Frame> {
        let (mut frames, mut taken) = (Vec::new(), 0);
        while let Some((frame, len)) = Frame::parse(&self.received[taken..]) {
            frames.push(frame);
            taken += len;
        }
        self.received.drain(..taken);
        frames
    }

    /// Asserts that the next frame is a text message.
    pub fn expect_text<S>(&mut self, server: &mut Server<S>, text: &str) {
        assert_eq!(self.frame(server), Frame::text(text));
    }

    /// Asserts that a Close with this code, and then the end, is all that still comes.
    pub fn expect_close<S>(&mut self, server: &mut Server<S>, code: u16) {
        let frame = self.frame(server);
        assert_eq!((frame.opcode, frame.close_code()), (CLOSE, Some(code)), "{frame:?}");
        assert_eq!(self.end(server), End::Fin);
        assert_eq!(self.received, b"", "after the Close");
    }

    /// Reads to the end.
    pub fn end<S>(&mut self, server: &mut Server<S>) -> End {
        turn_until(server, "the end of the connection", |_| {
            self.read();
            self.end.is_some()
        });
        self.end.unwrap()
    }

    /// Sends FIN and reads on.
    pub fn finish(&self) {
        self.stream.shutdown_write().unwrap();
    }

    /// After a FIN from the server: answers it, and makes sure that no reset follows until the
    /// server has let go.
    pub fn part<S>(&mut self, server: &mut Server<S>) {
        assert_eq!(self.end, Some(End::Fin));
        self.finish();
        turn_until_closed(server, 1);
        assert!(matches!(self.stream.read(&mut [0]), Ok(0)));
        assert!(self.stream.socket().take_error().unwrap().is_none());
    }

    /// Ends with a reset.
    pub fn reset(self) {
        self.stream.reset();
    }
}

/// An HTTP response and what came after it.
#[derive(Debug)]
pub struct Response {
    pub head: String,
    pub body: Vec<u8>,
    pub end: End,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// That all of the body came, and then FIN.
    pub fn assert_whole(&self) {
        assert_eq!(self.header("Content-Length"), Some(&*self.body.len().to_string()), "{self:?}");
        assert_eq!(self.end, End::Fin, "{self:?}");
    }
}

/// The first header of this name in a head.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// A request for the upgrade, with these header lines in addition.
pub fn upgrade(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// A plain request.
pub fn get(path: &str) -> String {
    request("GET", path)
}

pub fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

// Frames.

/// A frame that the server sent; its header is in the shortest form, without mask and reserved
/// bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(40)];
        write!(f, "frame {}, {} bytes: {}", self.opcode, self.payload.len(), shown.escape_ascii())
    }
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { opcode, payload: payload.into() }
    }

    pub fn text(text: &str) -> Self {
        Self::new(TEXT, text)
    }

    /// The code of a Close.
    pub fn close_code(&self) -> Option<u16> {
        self.payload.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// The first received frame, and its length there, if it is complete.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(first & 0xF0, FIN, "the server sends whole messages, without reserved bits");
        assert_eq!(second & 0x80, 0, "the server does not mask");
        let (len, from) = match second {
            126 => {
                let len = u16::from_be_bytes(*bytes[2..].first_chunk()?);
                assert!(len > 125, "the shortest form");
                (usize::from(len), 4)
            }
            127 => {
                let len = u64::from_be_bytes(*bytes[2..].first_chunk()?);
                assert!(len > u64::from(u16::MAX), "the shortest form");
                (len as usize, 10)
            }
            len => (usize::from(len), 2),
        };
        let payload = bytes.get(from..from + len)?;
        Some((Self::new(first & 0x0F, payload), from + len))
    }
}

const MASK: [u8; 4] = [0xA1, 0x02, 0xFF, 0x40];

/// A whole message or control frame, as a client sends it.
pub fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    raw(FIN | opcode, payload.len() as u64, payload)
}

/// A fragment that is not the last.
pub fn fragment(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    raw(opcode, payload.len() as u64, payload)
}

/// A masked frame with any first byte and any declared length.
pub fn raw(first: u8, declared: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match declared {
        0..=125 => bytes.push(0x80 | declared as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(declared as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&declared.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(CLOSE, [&code.to_be_bytes()[..], reason.as_ref()].concat())
}

/// The same numbers in every run (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
