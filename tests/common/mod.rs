//! The test kit: a server that is turned by hand, and clients on the same thread that turn it while
//! they wait.
//!
//! Nothing here sleeps. A function that waits turns the loop until its condition holds. It panics
//! at the caller's line when that takes longer than [`PATIENCE`].
#![allow(dead_code)] // No test file needs all of it.

pub mod tls;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Once;
use std::time::{Duration, Instant};

use ikisocket::protocol::{Decoded, Decoder, Rules};
use ikisocket::testing::{self, Harness};
use ikisocket::{Builder, CaughtPanic, Error, Event, EventPayload, Server, Socket, Uuid};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

#[allow(unused_imports)] // Nor this.
pub use tls::{Stream, harness, harness_by_hand, listen, only_plain, over_tls, record_overhead};

/// A condition that does not hold by then fails the test.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait inside one turn. Work of the server ends it sooner.
const TURN: Duration = Duration::from_millis(1);

// Turning.

/// Turns the server until `done` says so.
#[track_caller]
pub fn turn_until<S>(server: &mut Server<S>, mut done: impl FnMut(&mut Server<S>) -> bool) {
    turn_for(server, |server| done(server).then_some(()));
}

/// Turns the server until `look` finds something.
#[track_caller]
pub fn turn_for<S, R>(
    server: &mut Server<S>,
    mut look: impl FnMut(&mut Server<S>) -> Option<R>,
) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look(server) {
            return found;
        }
        assert!(Instant::now() < deadline, "it has not happened in {PATIENCE:?}");
        server.poll(Some(TURN)).unwrap();
    }
}

// The server's side: a state that keeps a diary.

/// One event as a listener saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The `:name` that the connection came with.
    pub name: String,
    pub event: String,
    pub data: String,
    pub error: Option<Error>,
    pub code: Option<u16>,
    pub reason: String,
    pub clean: bool,
    pub bytes_dropped: usize,
}

/// The state of most test servers: the connections and their events.
#[derive(Debug, Default)]
pub struct Diary {
    pub entries: Vec<Entry>,
    pub ids: HashMap<String, Uuid>,
    /// What a test writes down itself.
    pub notes: Vec<String>,
    /// Panics in callbacks that were not on purpose: an `assert!` in a listener, say. The server
    /// catches them, so the end of the diary is where they fail the test.
    panics: Vec<CaughtPanic>,
}

impl Drop for Diary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.panics, []);
        }
    }
}

impl Diary {
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn id(&self, name: &str) -> Uuid {
        self.ids[name]
    }

    /// The names of the events of one connection, in order.
    pub fn events(&self, name: &str) -> Vec<&str> {
        self.entries
            .iter()
            .filter(|entry| entry.name == name)
            .map(|entry| entry.event.as_str())
            .collect()
    }

    /// All entries of one event of one connection.
    pub fn all(&self, name: &str, event: &str) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.name == name && entry.event == event).collect()
    }

    /// The entry of an event that must have happened exactly once.
    #[track_caller]
    pub fn only(&self, name: &str, event: &str) -> &Entry {
        match self.all(name, event)[..] {
            [entry] => entry,
            _ => panic!("`{event}` of {name} did not happen exactly once: {:#?}", self.entries),
        }
    }

    pub fn has(&self, name: &str, event: &str) -> bool {
        !self.all(name, event).is_empty()
    }

    pub fn is_gone(&self, name: &str) -> bool {
        self.has(name, "disconnect")
    }

    /// The errors of one connection's `error` events, in order.
    pub fn errors(&self, name: &str) -> Vec<Error> {
        self.all(name, "error").into_iter().filter_map(|entry| entry.error.clone()).collect()
    }
}

/// A server on a free port that writes every built-in event into its diary, with a route `/:name`.
pub fn server() -> Server<Diary> {
    let mut server = server_with(Server::builder());
    server.route("/:name", enter).unwrap();
    server
}

/// The same with settings, and without the route.
pub fn server_with(settings: Builder) -> Server<Diary> {
    let mut server = memory_server_with(settings);
    listen(&mut server);
    server
}

/// The same as [`server`], without a port: for a harness.
pub fn memory_server() -> Server<Diary> {
    let mut server = memory_server_with(Server::builder());
    server.route("/:name", enter).unwrap();
    server
}

/// The same as [`server_with`], without a port: for a harness.
pub fn memory_server_with(settings: Builder) -> Server<Diary> {
    let mut server = settings.build(Diary::default()).unwrap();
    for event in [
        Event::Connect,
        Event::Message,
        Event::Ping,
        Event::Pong,
        Event::Close,
        Event::Error,
        Event::Disconnect,
    ] {
        server.on(event, write_down);
    }
    server.on_panic(note_panic);
    server
}

fn note_panic(diary: &mut Diary, caught: &CaughtPanic) {
    if caught.message != ON_PURPOSE {
        diary.panics.push(caught.clone());
    }
}

/// The route callback that enters the connection's uuid into the diary under its `:name`.
pub fn enter(diary: &mut Diary, kws: &mut Socket<'_, Diary>) {
    diary.ids.insert(name_of(kws), kws.uuid());
}

/// The `:name` of a connection's path.
pub fn name_of(kws: &Socket<'_, Diary>) -> String {
    kws.param("name").unwrap_or_default().to_owned()
}

fn write_down(diary: &mut Diary, ep: &mut EventPayload<'_, Diary>) {
    diary.entries.push(Entry {
        name: name_of(&ep.kws),
        event: ep.name.to_owned(),
        data: String::from_utf8_lossy(&ep.data).into_owned(),
        error: ep.error.cloned(),
        code: ep.code.map(Into::into),
        reason: ep.reason.to_owned(),
        clean: ep.clean,
        bytes_dropped: ep.bytes_dropped,
    });
}

/// Runs `act` on one connection, between turns.
pub fn with_socket<R>(
    server: &mut Server<Diary>,
    name: &str,
    act: impl FnOnce(&mut Socket<'_, Diary>) -> R,
) -> R {
    let (diary, mut sockets) = server.lend();
    act(&mut sockets.get(diary.id(name)).expect("this connection is open"))
}

/// The panic message of tests that panic in callbacks: see [`quiet_panics`].
pub const ON_PURPOSE: &str = "on purpose";

/// Keeps panics with the message [`ON_PURPOSE`] out of the test's output. All other panics are
/// printed.
pub fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            if text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                != Some(ON_PURPOSE)
            {
                loud(info);
            }
        }));
    });
}

// Clients in memory.

/// A client in memory for each name, connected to `/:name`.
#[track_caller]
pub fn connect<S, const N: usize>(test: &mut Harness<S>, names: [&str; N]) -> [testing::Client; N] {
    names.map(|name| test.connect(format!("/{name}")).unwrap())
}

// Clients on sockets.

/// A WebSocket client whose socket never blocks: while it waits, it turns the server.
pub struct Client {
    pub ws: WebSocket<Stream>,
}

impl Client {
    #[track_caller]
    pub fn connect<S>(server: &mut Server<S>, path: &str) -> Self {
        let address = server.local_addr().unwrap();
        Self::request(server, format!("ws://{address}{path}")).unwrap()
    }

    /// The status of the response with which an upgrade is refused.
    #[track_caller]
    pub fn refused<S>(server: &mut Server<S>, path: &str) -> u16 {
        let address = server.local_addr().unwrap();
        match Self::request(server, format!("ws://{address}{path}")) {
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("not refused, but failed: {error}"),
            Ok(_) => panic!("not refused"),
        }
    }

    /// Connects with the given request.
    #[track_caller]
    pub fn request<S>(
        server: &mut Server<S>,
        request: impl IntoClientRequest + Unpin,
    ) -> Result<Self, tungstenite::Error> {
        let request = request.into_client_request()?;
        let host: SocketAddr = request.uri().authority().unwrap().as_str().parse().unwrap();
        let stream = Stream::over(TcpStream::connect(host).unwrap(), server);
        let mut attempt = Some(tungstenite::client(request, stream));
        turn_for(server, |_| match attempt.take()? {
            Ok((ws, _)) => Some(Ok(Self { ws })),
            Err(HandshakeError::Failure(error)) => Some(Err(error)),
            Err(HandshakeError::Interrupted(unfinished)) => {
                attempt = Some(unfinished.handshake());
                None
            }
        })
    }

    /// Sends a message that fits into the socket.
    #[track_caller]
    pub fn send(&mut self, message: impl Into<Message>) {
        self.ws.send(message.into()).unwrap();
    }

    /// What has arrived, if anything has.
    #[track_caller]
    pub fn try_next(&mut self) -> Option<Message> {
        match self.ws.read() {
            Ok(message) => Some(message),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the connection has ended: {error}"),
        }
    }

    /// The next message, whatever its kind.
    #[track_caller]
    pub fn next<S>(&mut self, server: &mut Server<S>) -> Message {
        turn_for(server, |_| self.try_next())
    }

    /// The next message, which must be text.
    #[track_caller]
    pub fn text<S>(&mut self, server: &mut Server<S>) -> String {
        match self.next(server) {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("text was expected, not {other:?}"),
        }
    }

    /// The next message, which must be a close frame with a code.
    #[track_caller]
    pub fn close_frame<S>(&mut self, server: &mut Server<S>) -> (u16, String) {
        match self.next(server) {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.as_str().to_owned()),
            other => panic!("a close frame was expected, not {other:?}"),
        }
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.ws.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).unwrap();
    }

    /// Goes on until both sides have closed.
    #[track_caller]
    pub fn end<S>(mut self, server: &mut Server<S>) {
        turn_until(server, |_| match self.ws.read() {
            Ok(_) => false,
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => false,
            Err(tungstenite::Error::ConnectionClosed) => true,
            Err(error) => panic!("not a clean end: {error}"),
        });
    }

    /// Ends without a close frame: the peer sees FIN if everything was read.
    pub fn vanish(self) {
        self.ws.get_ref().shutdown_write().unwrap();
    }

    /// The same, but over TLS without close_notify.
    pub fn truncate(self) {
        self.ws.into_inner().truncate();
    }

    /// Ends with a reset.
    pub fn reset(self) {
        self.ws.into_inner().reset();
    }
}

/// A client that speaks raw bytes, for everything that a proper client would never do.
pub struct Raw {
    pub stream: Stream,
}

impl Raw {
    /// Connects, and sends nothing yet, but over TLS its part of the handshake.
    #[track_caller]
    pub fn connect<S>(server: &mut Server<S>) -> Self {
        Self { stream: Stream::connect(server) }
    }

    /// Connects and upgrades; what follows the response head stays unread.
    #[track_caller]
    pub fn upgrade<S>(server: &mut Server<S>, path: &str) -> Self {
        Self::upgrade_with(server, &upgrade_request(path)).0
    }

    /// Connects and upgrades with the given request; also returns the response head.
    #[track_caller]
    pub fn upgrade_with<S>(server: &mut Server<S>, request: &str) -> (Self, String) {
        let mut raw = Self::connect(server);
        raw.send(request.as_bytes());
        let mut head = Vec::new();
        turn_until(server, |_| {
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!((&raw.stream).read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            head.ends_with(b"\r\n\r\n")
        });
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (raw, head)
    }

    /// Sends bytes that fit into the socket.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads `len` bytes.
    #[track_caller]
    pub fn read<S>(&mut self, server: &mut Server<S>, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        turn_until(server, |_| {
            read_available(&self.stream, &mut bytes, len).unwrap();
            bytes.len() == len
        });
        bytes
    }

    /// Reads to the end of the stream: an error if that is a reset.
    #[track_caller]
    pub fn read_to_end<S>(&mut self, server: &mut Server<S>) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        turn_for(server, |_| match read_available(&self.stream, &mut bytes, usize::MAX) {
            Ok(Available::End) => Some(Ok(())),
            Ok(Available::Open) => None,
            Err(error) => Some(Err(error)),
        })?;
        Ok(bytes)
    }
}

/// What a server sends to a raw client, frame by frame.
#[derive(Default)]
pub struct Frames {
    received: Vec<u8>,
    decoder: Decoder,
}

impl Frames {
    /// What `take` makes of the next complete item, if there is one.
    pub fn next<R>(
        &mut self,
        raw: &Raw,
        rules: &Rules,
        take: impl FnOnce(Decoded<'_>) -> R,
    ) -> Option<R> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let mut input = &mut self.received[..];
            let decoded = self.decoder.decode(&mut input, rules).unwrap();
            if let Some(decoded) = decoded {
                let taken = take(decoded);
                let left = input.len();
                self.received.drain(..self.received.len() - left);
                return Some(taken);
            }
            self.received.clear(); // The decoder keeps what is incomplete.
            match (&raw.stream).read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Whether more may come.
#[derive(PartialEq)]
enum Available {
    Open,
    End,
}

/// Reads the bytes that have arrived, until `into` is `limit` bytes long.
fn read_available(
    mut stream: &Stream,
    into: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<Available> {
    let mut buffer = [0; 64 * 1024];
    while into.len() < limit {
        let room = buffer.len().min(limit - into.len());
        match stream.read(&mut buffer[..room]) {
            Ok(0) => return Ok(Available::End),
            Ok(read) => into.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Available::Open)
}

/// A request that is upgraded (the key is the RFC's example).
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A frame as a client sends it, for payloads up to 65535 bytes. The masking key is zero, so the
/// payload is unchanged.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
