//! The connection to Redis: its socket, from the name of the host to reading and writing.

use std::cell::Cell;
#[cfg(feature = "testing")]
use std::io;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use crate::bus::{Arrived, Engine, Outlet, Post, Seat};
use crate::hub::NEVER;
use crate::redis::{BusFailure, Place};
use crate::server::reactor::Reactor;
use crate::server::resolving::Resolving;
#[cfg(feature = "testing")]
use crate::transport::memory;
use crate::transport::{Connecting, PlainStream, Progress, Remote};

/// How long one of several addresses may take to answer before the next is tried, in milliseconds.
const ADDRESS_TIME: u64 = 500;

/// The bus at the loop that holds its connection.
pub(crate) struct Line {
    pub(super) engine: Engine,
    /// What all loops share, to say there that the line is gone.
    post: Arc<Post>,
    socket: Socket,
    /// A name whose addresses the system has not said yet.
    pub(super) resolving: Option<Resolving>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The poll has reported the end: behind what was read there is more to be read.
    pub(super) ends: bool,
    /// The connection was found to be broken while it was written.
    pub(super) broken: Option<ErrorKind>,
    /// What was read and did not fit into the work of its turn.
    pub(super) kept: Vec<u8>,
    /// The number of messages that were published when all else of a shutdown was over.
    last_words: Cell<Option<u64>>,
    /// Why the last attempt failed, so that the log has a line for each change.
    pub(super) last_failure: Option<BusFailure>,
    /// Makes connections in memory.
    #[cfg(feature = "testing")]
    dial: Option<Dial>,
}

/// Makes a connection in memory.
#[cfg(feature = "testing")]
pub(crate) type Dial = Box<dyn Fn() -> io::Result<memory::Wire>>;

enum Socket {
    None,
    /// A socket that is being connected, and when the next address is to be tried.
    Connecting(Connecting, u64),
    Open(PlainStream),
}

impl Line {
    pub(super) fn new(outlet: &Outlet, seat: &Seat, now: u64) -> Self {
        let engine = Engine::new(&outlet.bus, seat.post.node(), seat.topic_hasher(), now);
        Self {
            engine,
            post: seat.post.clone(),
            socket: Socket::None,
            resolving: None,
            readable: false,
            writable: false,
            ends: false,
            broken: None,
            kept: Vec::new(),
            last_words: Cell::new(None),
            last_failure: None,
            #[cfg(feature = "testing")]
            dial: None,
        }
    }

    /// Begins anew at this time, with connections in memory.
    #[cfg(feature = "testing")]
    pub(crate) fn begin_in_memory(&mut self, dial: Dial, now: u64) {
        self.engine.begin_at(now);
        self.dial = Some(dial);
    }

    /// When something is to be done without an event, or [`NEVER`].
    pub(crate) fn next_deadline(&self) -> u64 {
        let next = self.engine.next_deadline().unwrap_or(NEVER);
        match &self.socket {
            Socket::Connecting(connecting, skip_at) if !connecting.is_last() => next.min(*skip_at),
            _ => next,
        }
    }

    /// Another loop has words after what were the last ones.
    pub(super) fn forget_last_words(&mut self) {
        self.last_words.set(None);
    }

    /// Whether Redis has not confirmed all messages that were published when this was first asked.
    pub(crate) fn has_last_words(&self) -> bool {
        let (published, unconfirmed) = self.engine.published_and_unconfirmed();
        let last = self.last_words.get().unwrap_or(published);
        self.last_words.set(Some(last));
        published - unconfirmed < last
    }

    pub(super) fn close(&mut self) {
        self.socket = Socket::None;
        (self.readable, self.writable, self.broken) = (false, false, None);
        self.kept = Vec::new();
        self.ends = false;
    }

    // Connecting.

    /// Begins to connect if it is time, or goes on. Returns what has failed.
    pub(super) fn connect(&mut self, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        if let Socket::None = self.socket
            && self.engine.should_connect(now)
        {
            self.engine.connecting(now);
            #[cfg(feature = "testing")]
            if let Some(dial) = &self.dial {
                return match dial() {
                    Ok(wire) => self.open(PlainStream::Memory(wire), now),
                    Err(error) => self.engine.disconnected(now, Some(error.kind())),
                };
            }
            match self.engine.address().place() {
                #[cfg(unix)]
                Place::Unix { path } => {
                    let remote = Remote::Unix(path.clone());
                    return self.dial(remote, reactor, now);
                }
                Place::Tcp { host, port } => {
                    if self.resolving.is_none() {
                        match Resolving::begin(host, *port, reactor.waker.clone()) {
                            Ok(resolving) => self.resolving = Some(resolving),
                            Err(error) => {
                                log::error!("cannot start a thread to resolve {host}: {error}");
                                return self.engine.not_resolved(now);
                            }
                        }
                    }
                }
                #[cfg(not(unix))]
                Place::Unix { .. } => {
                    return self.engine.disconnected(now, Some(ErrorKind::Unsupported));
                }
            }
        }
        if let Socket::None = self.socket
            && let Some(answer) = self.resolving.as_mut().and_then(Resolving::take)
        {
            self.resolving = None;
            // An answer that comes after the time to connect is asked for again.
            return match answer {
                Ok(addresses) if self.engine.is_connecting() => {
                    self.dial(Remote::Tcp(addresses), reactor, now)
                }
                Ok(_) => None,
                Err(error) => {
                    log::debug!("the name of the Redis host: {error}");
                    self.engine.not_resolved(now)
                }
            };
        }
        let Socket::Connecting(connecting, skip_at) = &mut self.socket else { return None };
        let progress = if *skip_at <= now && !connecting.is_last() {
            *skip_at = now + ADDRESS_TIME;
            connecting.skip()
        } else {
            connecting.check()
        };
        match progress {
            Ok(Progress::Pending) => None,
            Ok(Progress::Another) => self.register(reactor, now),
            Ok(Progress::Connected) => match std::mem::replace(&mut self.socket, Socket::None) {
                Socket::Connecting(connecting, _) => self.open(connecting.into_stream(), now),
                _ => None,
            },
            Err(error) => self.engine.disconnected(now, Some(error.kind())),
        }
    }

    fn dial(&mut self, remote: Remote, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        match Connecting::begin(remote) {
            Ok(connecting) => {
                self.socket = Socket::Connecting(connecting, now + ADDRESS_TIME);
                self.register(reactor, now)
            }
            Err(error) => self.engine.disconnected(now, Some(error.kind())),
        }
    }

    fn register(&mut self, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        let Socket::Connecting(connecting, _) = &mut self.socket else { return None };
        // A Unix socket is connected at once; then the first event says so.
        let error = reactor.register_bus(connecting.stream()).err()?;
        self.engine.disconnected(now, Some(error.kind()))
    }

    fn open(&mut self, stream: PlainStream, now: u64) -> Option<Arrived<'static>> {
        self.socket = Socket::Open(stream);
        (self.readable, self.writable, self.ends) = (true, true, false);
        self.engine.connected(now);
        None
    }

    // Reading and writing.

    /// Reads once. Returns what was read, or that the connection has ended.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Option<ErrorKind>> {
        let Socket::Open(stream) = &mut self.socket else {
            self.readable = false; // It was an event of a socket that is not connected yet.
            return Ok(0);
        };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Err(None),
                Ok(len) => {
                    self.readable = len == buffer.len() || self.ends || !stream.short_means_empty();
                    Ok(len)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(0)
                }
                Err(error) => Err(Some(error.kind())),
            };
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(super) fn write(&mut self) {
        let Socket::Open(stream) = &mut self.socket else { return };
        while self.writable && self.broken.is_none() {
            let bytes = self.engine.unsent();
            if bytes.is_empty() {
                break;
            }
            match stream.write(bytes) {
                Ok(len) => {
                    self.writable = len == bytes.len();
                    self.engine.wrote(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => self.broken = Some(error.kind()),
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // It also comes here when a turn has panicked. Nothing is logged: it may be the logger
        // that has panicked.
        let (_, unconfirmed) = self.engine.published_and_unconfirmed();
        self.post.holder_ends(unconfirmed);
        // The others need not wait for a sign of life, if the socket takes this.
        self.engine.say_goodbye();
        self.write();
    }
}
