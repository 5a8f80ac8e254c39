//! The client: many connections to one server, on one mio poll, without a thread of its own. It
//! says what happens to a [`Listener`]; what to send, and when, is the scenario's.
//!
//! A message costs one `recv`; what a turn gave a connection to send costs one `send`.

mod connection;
#[cfg_attr(not(feature = "deflate"), path = "uncompressed.rs")]
mod deflate;
mod failure;
mod handshake;
mod tape;
mod target;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

pub use connection::{Connection, End};
pub use deflate::{IS_BUILT_IN as DEFLATE_IS_BUILT_IN, Packer};
pub use failure::Failure;
pub use handshake::Upgrade;
pub use tape::{KEY, Shape, Tape};
pub use target::{Target, TargetError, Trust, Url};
pub use tls::{IS_BUILT_IN as TLS_IS_BUILT_IN, Tls};

use crate::clock::{self, Nanos, SECOND};
use connection::Terms;
use deflate::Unpacker;
use ikisocket::protocol::{Payload, Role, Rules};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::SockRef;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// One buffer for all connections: what a socket holds usually fits, so one `recv` empties it.
const RECEIVE_BUFFER: usize = 512 * 1024;
/// The longest message that is taken from the server, in bytes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// How long a server may take from connect(2) to its answer.
const HANDSHAKE_TIMEOUT: u64 = 5;
/// The receive buffer of a connection that will not read: little fits, so the server feels it soon.
const SMALL_RECEIVE_BUFFER: usize = 4096;

/// Called for what happens to the connections of a fleet.
pub trait Listener {
    /// What is kept with each connection.
    type Data;
    /// The server upgraded the connection.
    fn opened(&mut self, connection: &mut Connection<Self::Data>, now: Nanos);
    /// A message was received at `now`. What the connection is given to send goes out right after.
    fn message(
        &mut self,
        connection: &mut Connection<Self::Data>,
        payload: Payload<'_>,
        now: Nanos,
    );
    /// The connection has ended.
    fn gone(&mut self, token: usize, data: Self::Data, end: End, now: Nanos);
}

/// The connections to one server.
pub struct Fleet<T> {
    target: Target,
    upgrade: Upgrade,
    tape: Arc<Tape>,
    rules: Rules,
    /// For connections with messages that refer to no other; made for the first one.
    unpacker: Option<Unpacker>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    /// What was decrypted of that.
    plaintext: Vec<u8>,
    connections: Slab<Connection<T>>,
    /// Those to which something was given outside of their own turn.
    dirty: Vec<usize>,
    upgraded: usize,
}

impl<T> Fleet<T> {
    /// Connections looked at in one turn; the others come in the next.
    pub const EVENTS: usize = 1024;

    pub fn new(target: Target, upgrade: Upgrade, tape: Arc<Tape>) -> io::Result<Fleet<T>> {
        let rules = Rules::default()
            .role(Role::Client)
            .max_message(MAX_MESSAGE)
            .compression(upgrade.deflate);
        Ok(Fleet {
            target,
            upgrade,
            tape,
            rules,
            unpacker: None,
            poll: Poll::new()?,
            events: Events::with_capacity(Self::EVENTS),
            buffer: vec![0; RECEIVE_BUFFER],
            plaintext: Vec::new(),
            connections: Slab::new(),
            dirty: Vec::new(),
            upgraded: 0,
        })
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Connection<T>> {
        self.connections.iter().map(|(_, connection)| connection)
    }

    /// Begins one more connection; returns its token.
    pub fn connect(&mut self, data: T, now: Nanos) -> Result<usize, Failure> {
        let address = self.target.address;
        let mut stream =
            TcpStream::connect(address).map_err(|error| Failure::of_connect(&error, address))?;
        stream.set_nodelay(true)?;
        let entry = self.connections.vacant_entry();
        let token = entry.key();
        self.poll.registry().register(
            &mut stream,
            Token(token),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let connection = Connection::new(stream, token, &self.target, &self.upgrade, data, now)?;
        entry.insert(connection);
        Ok(token)
    }

    /// How many connections were upgraded so far.
    pub fn upgraded(&self) -> usize {
        self.upgraded
    }

    /// The connection, to give it something to send: at the next [`flush`](Self::flush).
    pub fn get(&mut self, token: usize) -> Option<&mut Connection<T>> {
        let connection = self.connections.get_mut(token)?;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(token);
        }
        Some(connection)
    }

    /// Writes to all that [`get`](Self::get) gave out.
    pub fn flush(&mut self, listener: &mut impl Listener<Data = T>) {
        while let Some(token) = self.dirty.pop() {
            if let Some(connection) = self.connections.get_mut(token) {
                connection.is_dirty = false;
                if let Err(error) = connection.flush(&self.tape) {
                    self.end(token, error.into(), listener);
                }
            }
        }
    }

    /// Ends all connections without a word.
    pub fn drop_all(&mut self) {
        for connection in self.connections.drain() {
            reset_on_drop(&connection.stream);
        }
    }

    /// Ends one connection without a word.
    pub fn drop_one(&mut self, token: usize) {
        if let Some(connection) = self.connections.try_remove(token) {
            reset_on_drop(&connection.stream);
        }
    }

    /// From now on this connection does not read, and its kernel buffer takes only little.
    pub fn stall(&mut self, token: usize) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.is_stalled = true;
            let _ = SockRef::from(&connection.stream).set_recv_buffer_size(SMALL_RECEIVE_BUFFER);
        }
    }

    /// It reads again; everything that waited is received now.
    pub fn resume(&mut self, token: usize, listener: &mut impl Listener<Data = T>) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.is_stalled = false;
            self.read(token, true, listener);
        }
    }

    /// Waits for something to happen, at most for `timeout`, and takes what did. Returns whether
    /// anything did.
    pub fn turn(
        &mut self,
        timeout: Duration,
        listener: &mut impl Listener<Data = T>,
    ) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        }
        // Taken out for the loop, which needs the rest of the fleet; no allocation.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let token = event.token().0;
            if event.is_error() {
                self.fail(token, listener);
                continue;
            }
            if event.is_writable() {
                self.write(token, listener);
            }
            if event.is_readable() {
                self.read(token, event.is_read_closed(), listener);
            }
        }
        self.events = events;
        Ok(!self.events.is_empty())
    }

    fn write(&mut self, token: usize, listener: &mut impl Listener<Data = T>) {
        if let Some(connection) = self.connections.get_mut(token)
            && let Err(error) = connection.flush(&self.tape)
        {
            self.end(token, error.into(), listener);
        }
    }

    /// Receives, and sends what came of it. Only a full buffer, or a stream that ends, asks for
    /// another `recv`.
    fn read(&mut self, token: usize, to_the_end: bool, listener: &mut impl Listener<Data = T>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.is_stalled {
            return;
        }
        loop {
            let received = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.end(token, Failure::Eof.into(), listener),
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return self.end(token, e.into(), listener),
            };
            let was_open = connection.is_open();
            self.plaintext.clear();
            let input = match connection.decrypt(&self.buffer[..received], &mut self.plaintext) {
                Ok(true) => &mut self.plaintext[..],
                Ok(false) => &mut self.buffer[..received],
                Err(failure) => {
                    // The server learns why, if the socket takes it.
                    let _ = connection.flush(&self.tape);
                    return self.end(token, failure.into(), listener);
                }
            };
            let terms = Terms {
                upgrade: &self.upgrade,
                path: &self.target.url.path,
                rules: &self.rules,
                unpacker: &mut self.unpacker,
            };
            let result = connection.receive(input, clock::now(), terms, listener);
            if let Err(end) = result {
                return self.end(token, end, listener);
            }
            self.upgraded += usize::from(!was_open && connection.is_open());
            if received < self.buffer.len() && !to_the_end {
                break;
            }
        }
        if let Err(error) = connection.flush(&self.tape) {
            self.end(token, error.into(), listener);
        }
    }

    /// The socket reports an error: a connect(2) that failed, or a reset.
    fn fail(&mut self, token: usize, listener: &mut impl Listener<Data = T>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let failure = match connection.stream.take_error() {
            Ok(Some(error)) | Err(error) if connection.opening_since().is_some() => {
                Failure::of_connect(&error, self.target.address)
            }
            Ok(Some(error)) | Err(error) => error.into(),
            Ok(None) => Failure::Eof,
        };
        self.end(token, failure.into(), listener);
    }

    /// Gives up the connections that have waited too long for the upgrade.
    pub fn expire(&mut self, now: Nanos, listener: &mut impl Listener<Data = T>) {
        let is_late = |c: &Connection<T>| {
            c.opening_since()
                .is_some_and(|since| now.saturating_sub(since) > HANDSHAKE_TIMEOUT * SECOND)
        };
        let late: Vec<usize> = self.iter().filter(|c| is_late(c)).map(|c| c.token).collect();
        for token in late {
            self.end(token, Failure::HandshakeTimeout(HANDSHAKE_TIMEOUT).into(), listener);
        }
    }

    fn end(&mut self, token: usize, end: End, listener: &mut impl Listener<Data = T>) {
        if let Some(connection) = self.connections.try_remove(token) {
            reset_on_drop(&connection.stream);
            listener.gone(token, connection.data, end, clock::now());
        }
    }
}

/// Reset instead of FIN: else each connection that ends would hold a local port for a minute
/// (TIME_WAIT).
fn reset_on_drop(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
