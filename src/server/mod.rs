//! The server: the user's door, and the turn of the loop that everything happens in.

mod backlog;
mod clock;
mod reactor;
mod report;
mod upgrade;

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::{Events, Interest};

use crate::config::Builder;
use crate::error::{BindError, BuildError, IoError, RouteError};
use crate::http::Response;
#[cfg(feature = "testing")]
use crate::hub::Uuids;
use crate::hub::{Due, Hub, NEVER, Phase, ReadLater, Received, Stats, Stopwatch};
use crate::token::{Ready, SourceId, Token};
#[cfg(feature = "testing")]
use crate::transport::PeerAddress;
#[cfg(feature = "testing")]
use crate::transport::memory::{self, Wire};
use crate::transport::{Accepted, Listener, ListeningSocket, Options, Stream};
#[cfg(feature = "testing")]
use crate::user::Caught;
use crate::user::{
    Answer, Command, EventPayload, Handle, Incoming, Readiness, Recovered, Registry, Route, Socket, Sockets, TimerId,
    call,
};
use backlog::{Backlog, Rest};
use clock::Clock;
use reactor::Reactor;
pub use report::Turn;

/// What a message, a ping or a pong counts of a turn's work, in bytes: as much as a KiB that is read.
const MESSAGE: usize = 1024;
/// A budget is no larger, so that sums with it are numbers still.
const MOST_WORK: usize = usize::MAX / 4;
/// What one connection may have done before the others that wait have their turn: 256 messages, or
/// 256 KiB read.
const SHARE: usize = 256 * MESSAGE;
/// The same of one that has just become ready, when many have: all of a hundred such connections are served in one turn.
const FRESH_SHARE: usize = 64 * MESSAGE;
/// Reads in one share, at most: some may be interrupted.
const READS_PER_SHARE: usize = 4;
/// While connections wait from earlier turns, those that become ready get this part of the budget: half of it.
const FRESH_PART: usize = 2;
/// All connections that are closing get this part of the budget together: an eighth.
const CLOSING_PART: usize = 8;
/// The least part of the budget that is left for timeouts: an eighth.
const ENDING_PART: usize = 8;
/// A connection that had to wait and then took so much of its turn, in bytes, has to wait when it is ready again.
const HEAVY: usize = SHARE / 8;
/// The shortest frame of a client: two bytes of header and the masking key (RFC 6455 §5.2).
const SHORTEST_FRAME: usize = 6;
/// Kept input is handled in parts of this length, in bytes: it is copied once more.
const REST_AT_ONCE: usize = 16 * 1024;
/// What the end of a connection counts of a turn's work, in bytes: its events and its system calls.
const END: usize = 8 * 1024;
/// What a timeout counts, in bytes.
const TIMEOUT: usize = 4 * 1024;
/// What a connection that had to wait counts beside its bytes and messages: its system calls.
const READ: usize = 2 * 1024;
/// Connections accepted from one listener in one turn, at most.
const ACCEPTS_PER_TURN: usize = 64;
/// Connections looked at in one turn because their time may have come, at most.
const TIMEOUTS_PER_TURN: usize = 1024;
/// Commands of handles and answers to deferred requests in one turn, at most.
const ERRANDS_PER_TURN: usize = 1024;
/// They are taken in parts of this length, between which the budget is looked at.
const ERRANDS_AT_ONCE: usize = 16;
/// What they cause gets this part of the budget: an eighth.
const ERRANDS_PART: usize = 8;
/// What an answer to a deferred request counts of a turn's work, in bytes: an upgrade or a response.
const ANSWER: usize = 16 * 1024;
/// The user's timers called in one turn, at most.
const TIMERS_PER_TURN: usize = 1024;
/// When there is no descriptor for another connection, accepting is tried again after this time, in milliseconds, or when a connection ends.
const ACCEPT_PAUSE: u64 = 250;
/// A listener that cannot accept is in the log once, and again when it could for so long, in milliseconds.
const ACCEPT_QUIET: u64 = 60_000;

/// What the poll says of a connection.
#[derive(Clone, Copy)]
struct Wakeup {
    readable: bool,
    writable: bool,
    /// The end of the stream may be behind what there is.
    read_closed: bool,
    /// A short read does not say that nothing more is there.
    hides_more: bool,
}

/// What a shutdown left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// WebSocket connections that were cut off because their goodbye had not come when the close timeout or the deadline did.
    pub remained: usize,
}

/// A WebSocket server with the user's state `S` in it, on one loop that its owner turns: [`run`](Self::run) or [`poll`](Self::poll).
///
/// It stays on the thread that built it, starts no other, and does nothing between calls. Dropping it closes every connection at once;
/// [`Sockets::shutdown`] closes them in good order.
pub struct Server<S> {
    state: S,
    hub: Hub<Stream>,
    registry: Registry<S>,
    reactor: Reactor,
    /// The one buffer that all input is read into.
    buffer: Vec<u8>,
    buffer_len: usize,
    /// What other threads have sent for this turn; empty between turns.
    commands: Vec<Command<S>>,
    /// The most work of each kind in one turn.
    work_per_turn: usize,
    /// How much of it may be done in this part of the turn.
    limit: usize,
    /// The same for connections that are read in the usual way: none is while something is kept of others' input.
    usual_limit: usize,
    /// What one connection may have done now before the others have their turn, like all work in bytes.
    share: usize,
    /// Connections that used up their share of a turn, or came when it was used up, and may have more.
    backlog: Backlog,
    /// What of the buffer the last read has left, if it has left anything.
    left: Range<usize>,
    /// How much is read at once: what is kept of others' input is not longer than the buffer altogether.
    most_read: usize,
    /// Listeners that may have more.
    accepting: Vec<usize>,
    /// Other threads have sent something.
    mail: bool,
    /// Sources that are called without an event.
    woken: Vec<SourceId>,
    /// One of the last three has something.
    others: bool,
    /// Listeners that wait for a free descriptor.
    paused: Vec<usize>,
    resume_at: u64,
    /// Listeners by which somebody could not be taken in, and when that was last.
    failing: Vec<(usize, u64)>,
    clock: Clock,
    options: Options,
    /// What a harness tells of connections in memory.
    #[cfg(feature = "testing")]
    readiness: Vec<(Token, memory::Readiness)>,
}

/// What became of a read.
#[derive(Clone, Copy)]
enum Progress {
    /// There is nothing more for now, or ever.
    Over,
    /// It was short: the socket is drained, but for the end of the stream.
    Drained,
    /// There may be more.
    Full,
    /// It was not read: see [`Hub::read_usual`].
    Unusual,
    /// The connection's share was used up, perhaps before its input was.
    UsedUp,
}

impl Server<()> {
    /// The settings, to change them before a server is built.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Builds a server that owns `state` and listens nowhere yet: [`Server::listen`].
    ///
    /// # Errors
    ///
    /// [`BuildError::Setting`] if a setting is out of its range, [`BuildError::Io`] if the operating system gives no poll.
    pub fn build<S>(self, state: S) -> Result<Server<S>, BuildError> {
        self.check()?;
        Server::new(state, &self).map_err(|error| BuildError::Io(error.into()))
    }
}

impl<S> Server<S> {
    fn new(state: S, settings: &Builder) -> std::io::Result<Self> {
        let mut hub = Hub::new(settings.limits());
        hub.stats.turn_durations = settings.measure_turns.then(Default::default);
        hub.work_per_turn = settings.work_per_turn.saturating_mul(MESSAGE).min(MOST_WORK);
        let reactor = Reactor::new(settings.work_per_turn)?;
        Ok(Self {
            state,
            hub,
            registry: Registry::new(settings, reactor.registry()?, reactor.waker()?),
            reactor,
            buffer: vec![0; settings.receive_buffer],
            buffer_len: settings.receive_buffer,
            commands: Vec::new(),
            work_per_turn: settings.work_per_turn,
            limit: 0,
            usual_limit: 0,
            share: SHARE,
            backlog: Backlog::default(),
            left: 0..0,
            most_read: settings.receive_buffer,
            accepting: Vec::new(),
            mail: false,
            woken: Vec::new(),
            others: false,
            paused: Vec::new(),
            resume_at: NEVER,
            failing: Vec::new(),
            clock: Clock::start(),
            options: Options { nodelay: settings.nodelay, notsent_lowat: settings.notsent_lowat },
            #[cfg(feature = "testing")]
            readiness: Vec::new(),
        })
    }

    /// A server with default settings that owns `state` and listens on `address`; port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen) and [`Builder::build`].
    pub fn bind(address: impl ToSocketAddrs, state: S) -> Result<Self, BindError> {
        let mut server = Builder::default().build(state)?;
        server.listen(address)?;
        Ok(server)
    }

    /// Listens on one more address and returns it, with the port that the system chose if it was 0. Of a name with several addresses
    /// it is the first that can be listened on.
    ///
    /// # Errors
    ///
    /// [`BindError::Listen`] names the address and what the operating system said; [`BindError::Resolve`] and
    /// [`BindError::NoAddress`] if there is no address to try; [`BindError::ShutDown`] after a shutdown was asked for.
    pub fn listen(&mut self, address: impl ToSocketAddrs) -> Result<SocketAddr, BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        let mut last = BindError::NoAddress;
        for address in address.to_socket_addrs().map_err(|error| BindError::Resolve { reason: error.to_string() })? {
            let listening = Listener::bind(address, self.options).and_then(|listener| {
                let address = listener.address().unwrap_or(address);
                self.reactor.listen(listener).map(|()| address)
            });
            match listening {
                Ok(address) => return Ok(address),
                Err(error) => last = BindError::Listen { address, error: error.into() },
            }
        }
        Err(last)
    }

    /// Listens on a Unix socket at `path` too. The socket's file is made here, and removed when the server stops listening or is dropped, unless
    /// another file has taken its place.
    ///
    /// A file that is there already is never removed, because another server may be listening on it: after a crash, remove it
    /// before. Who may connect is decided by the permissions of its directory, and by those of the file, which are up to the process's umask.
    ///
    /// Two things differ from TCP. A connection that fails in the middle of a message ends without
    /// a reset: the message is not whole, but only its length tells so. And a Unix socket is read
    /// until it would block, which costs one more system call for each event: a read ends at passed
    /// descriptors (`SCM_RIGHTS`), and no event tells that more lies behind them. The descriptors
    /// are closed at once.
    ///
    /// # Errors
    ///
    /// [`BindError::ListenUnix`] names the path and what the operating system said; [`BindError::ShutDown`] after a shutdown was asked for.
    #[cfg(unix)]
    pub fn listen_unix(&mut self, path: impl AsRef<Path>) -> Result<(), BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        let path = path.as_ref();
        Listener::bind_unix(path)
            .and_then(|listener| self.reactor.listen(listener))
            .map_err(|error| BindError::ListenUnix { path: path.to_owned(), error: error.into() })
    }

    /// Listens on a socket that was made elsewhere too: a [`std::net::TcpListener`] or a [`std::os::unix::net::UnixListener`]. A Unix socket's
    /// file stays when the server stops.
    ///
    /// If several processes hold a socket, whoever comes first accepts a connection, and none is refused while one of them lives: so a
    /// server can be replaced by its successor without losing an attempt to connect.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use ikisocket::{Server, Shutdown};
    ///
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// let mut old = Server::builder().build(())?;
    /// old.listen_on(socket.try_clone()?)?;
    ///
    /// let mut new = Server::builder().build(())?; // the successor, usually in a process of its own
    /// new.listen_on(socket)?;
    /// old.stop_listening(); // all new connections go to the successor, those that are here go on
    /// old.lend().1.shutdown(Shutdown::default())?; // whenever they have had the time that they need
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BindError::NotListening`] if nobody has called listen(2) on the socket, as far as the system tells (Linux, Android and FreeBSD do);
    /// [`BindError::HandedOver`] if the operating system cannot use the socket so; [`BindError::ShutDown`] after a shutdown was asked for.
    pub fn listen_on(&mut self, socket: impl Into<ListeningSocket>) -> Result<(), BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        let socket = socket.into();
        let handed_over = |error: std::io::Error| BindError::HandedOver { error: error.into() };
        if !socket.is_listening().map_err(handed_over)? {
            return Err(BindError::NotListening);
        }
        Listener::from_made(socket, self.options)
            .and_then(|listener| self.reactor.listen(listener))
            .map_err(handed_over)
    }

    /// Listens on every socket that systemd passes to this process (`LISTEN_PID`, `LISTEN_FDS`, descriptors from 3 on; see
    /// sd_listen_fds(3)), TCP or Unix, and returns how many there are: 0 if the process was started in another way or `LISTEN_PID` is missing,
    /// and from the second call on. With the feature `listenfd`.
    ///
    /// It removes both variables from the environment: call it before other threads are started.
    ///
    /// ```no_run
    /// let mut server = ikisocket::Server::builder().build(())?;
    /// if server.listen_fds()? == 0 {
    ///     server.listen("127.0.0.1:3000")?;
    /// }
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BindError::ListenFd`] names the first descriptor that is no listening stream socket, as far as the system tells (see [`listen_on`](Self::listen_on)).
    /// Then none is listened on, and every stream socket among them is closed. [`BindError::HandedOver`] if the operating system cannot use one of
    /// them; those before it are listened on. [`BindError::ShutDown`] after a shutdown was asked for.
    #[cfg(all(unix, feature = "listenfd"))]
    pub fn listen_fds(&mut self) -> Result<usize, BindError> {
        let passed = ListeningSocket::take_passed()?;
        let count = passed.len();
        for socket in passed {
            self.listen_on(socket)?;
        }
        Ok(count)
    }

    /// Stops listening, on every socket; the connections that are here go on, and requests that have come in by them are answered. Afterwards it may
    /// listen again. Without a listening socket it does nothing.
    ///
    /// Its own copies of the sockets are closed, and the files of those that [`listen_unix`](Self::listen_unix) made are removed. If nobody else holds a socket,
    /// whoever waits there to be accepted is refused by the operating system. If a successor does ([`listen_on`](Self::listen_on),
    /// `listen_fds`), nobody is refused: start it, wait until it listens, then stop here. From then on every new
    /// connection is the successor's, and this server serves those that it has for as long as they need. A [`shutdown`](Sockets::shutdown) stops
    /// listening too, and closes them.
    pub fn stop_listening(&mut self) {
        self.reactor.stop_listening();
        self.accepting.clear();
        self.paused.clear();
        self.failing.clear();
        self.resume_at = NEVER;
    }

    /// The first TCP address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.reactor.addresses().next()
    }

    /// All TCP addresses that are listened on.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.reactor.addresses().collect()
    }

    // What user code registers.

    /// Calls `listener` on an event of any connection: an [`Event`](crate::Event), or a name of your own that `fire` calls. Several listeners run in the
    /// order of registration. A listener returns nothing: what `emit` says is ignored with a semicolon.
    pub fn on<F>(&mut self, event: impl AsRef<str>, listener: F) -> &mut Self
    where
        F: Fn(&mut S, &mut EventPayload<'_, S>) + 'static,
    {
        self.registry.listeners.add(event.as_ref(), Box::new(listener));
        self
    }

    /// Removes all listeners of an event, those of routes too; returns how many there were. A misspelt name has none.
    pub fn off(&mut self, event: impl AsRef<str>) -> usize {
        self.registry.off(event.as_ref())
    }

    /// Accepts WebSocket connections at a path; `callback` runs once for each, right after the upgrade, before `connect`.
    ///
    /// `/ws/:id` has a parameter for one segment, `/files/*rest` one for all that follows; a static segment beats a parameter.
    ///
    /// # Errors
    ///
    /// [`RouteError::Pattern`] if the pattern cannot be understood, [`RouteError::Duplicate`] if its paths are taken.
    pub fn route<F>(&mut self, pattern: &str, callback: F) -> Result<Route<'_, S>, RouteError>
    where
        F: Fn(&mut S, &mut Socket<'_, S>) + 'static,
    {
        self.registry.add_route(pattern, Box::new(callback))
    }

    /// Answers plain GET and HEAD requests at a path. It may be a route's path too: the upgrade decides. The connection is closed after the
    /// response (`Connection: close`).
    ///
    /// # Errors
    ///
    /// As [`route`](Self::route).
    pub fn get<F>(&mut self, pattern: &str, page: F) -> Result<(), RouteError>
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &Incoming) -> Response + 'static,
    {
        self.registry.add_page(pattern, Box::new(page))
    }

    /// Asks `filter` before each upgrade and page, after everything else was found right; `Err` is the answer that the client gets
    /// instead. Several filters are asked in the order of registration, until one refuses. One that has to ask somebody else first
    /// [puts the answer off](Sockets::defer).
    pub fn filter<F>(&mut self, filter: F) -> &mut Self
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response> + 'static,
    {
        self.registry.filters.push(Box::new(filter));
        self
    }

    /// Tells `handler` of every panic in a callback. The panic is caught in any case, and the connection that it happened on is closed with 1011 if
    /// it is open, unless it was in an `error` listener; a request whose filter or page panics gets 500. Whether the state can still be used is for the handler to judge. With `panic = "abort"` nothing can be caught.
    pub fn recover<F>(&mut self, handler: F) -> &mut Self
    where
        F: Fn(&mut S, &Recovered) + 'static,
    {
        let replaced = self.registry.recover.replace(Box::new(handler));
        self.registry.discard(replaced);
        self
    }

    // What user code wants to be called for later.

    /// Calls `callback` once, `after` from now: [`Sockets::set_timer`].
    pub fn set_timer<F>(&mut self, after: Duration, callback: F) -> TimerId
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        self.lend().1.set_timer(after, callback)
    }

    /// Calls `callback` each time that `every` is over: [`Sockets::set_interval`].
    pub fn set_interval<F>(&mut self, every: Duration, callback: F) -> TimerId
    where
        F: FnMut(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        self.lend().1.set_interval(every, callback)
    }

    /// Cancels a timer or an interval; whether there was one: [`Sockets::cancel`].
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.lend().1.cancel(timer)
    }

    /// Watches a source of your own, and calls `callback` when it is ready: [`Sockets::add_source`].
    ///
    /// # Errors
    ///
    /// What the operating system said; the source is dropped.
    pub fn add_source<E, F>(&mut self, source: E, interest: Interest, callback: F) -> Result<SourceId, IoError>
    where
        E: Source + 'static,
        F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness) + 'static,
    {
        self.lend().1.add_source(source, interest, callback)
    }

    /// Stops watching a source and drops it; whether there was one: [`Sockets::remove_source`].
    pub fn remove_source(&mut self, source: SourceId) -> bool {
        self.lend().1.remove_source(source)
    }

    /// A handle for other threads, to have something done on the loop. Make as many as you like.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle::new(&self.registry)
    }

    // The state and the connections, between turns.

    /// The state and the open connections, both to use at once.
    pub fn lend(&mut self) -> (&mut S, Sockets<'_, S>) {
        self.hub.now = self.clock();
        (&mut self.state, Sockets { hub: &mut self.hub, registry: &self.registry })
    }

    /// What is going on: connections, messages and bytes, what was refused and why. It costs a look at every connection.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.registry.add_panics(self.hub.stats())
    }

    /// The state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The state, to change.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Gives the state back and closes everything at once.
    pub fn into_state(self) -> S {
        self.state
    }

    // The loop.

    /// Turns the loop until a shutdown has finished. Without one it never returns.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn run(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(None)?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop until a shutdown has finished, and never sleeps: an event is seen as soon as it is there, without the time that the
    /// operating system takes to wake a thread. It keeps one core busy all the time, also when nothing happens; on a machine where others need that core it is
    /// slower than [`run`](Self::run), not faster.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn run_spinning(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(Some(Duration::ZERO))?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop once: writes what was emitted since the last turn, waits for something to happen, at most for `timeout` (`None`: as long
    /// as it takes), and handles it. Listeners run inside. `Some(Duration::ZERO)` never blocks.
    ///
    /// It may return early with nothing done, for instance after a signal. With `None` it returns at once when a shutdown
    /// [is finished](Self::is_finished).
    ///
    /// # Errors
    ///
    /// What the operating system's poll said. No connection can cause it.
    ///
    /// # Panics
    ///
    /// Panics in callbacks are caught, and so are those in the destructors of what they have
    /// captured and of attributes. Each callback, source and attribute is dropped under a guard of
    /// its own. Inside one value that owns several others a second panic aborts the process, as
    /// everywhere in Rust. A panic in a logger is not caught: after it, drop the server.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Turn, IoError> {
        let mut turn = Turn::default();
        self.hub.work = 0;
        let newest_timer = self.registry.schedule.newest();
        let mut stopwatch = self.hub.stats.turn_durations.is_some().then(Stopwatch::start);
        let told = self.settle();
        // Without an end to the wait nobody would learn that there is nothing left to wait for.
        let at_once = told || self.hub.more || (timeout.is_none() && self.is_finished());
        let timeout = if at_once { Some(Duration::ZERO) } else { self.until_next(timeout) };
        if let Some(stopwatch) = &mut stopwatch {
            stopwatch.pause();
        }
        self.reactor.wait(timeout)?;
        if let Some(stopwatch) = &mut stopwatch {
            stopwatch.resume();
        }
        self.hub.now = self.clock();
        let mut buffer = std::mem::take(&mut self.buffer);
        if std::mem::take(&mut self.hub.more) {
            self.note_woken();
        }
        let events = std::mem::replace(&mut self.reactor.events, Events::with_capacity(0));
        let ready = events.iter().count();
        self.begin_shares(ready);
        for event in &events {
            let Ready::Connection(token) = Ready::decode(event.token().0) else {
                self.note_other(event, &mut turn);
                continue;
            };
            let wakeup = Wakeup {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                hides_more: event.is_priority() || self.short_may_hide(token),
            };
            self.serve_ready(token, wakeup, &mut buffer, &mut turn);
        }
        // There may be more than were taken.
        self.hub.more |= ready == events.capacity();
        self.reactor.events = events;
        #[cfg(feature = "testing")]
        if !self.readiness.is_empty() {
            self.handle_readiness(&mut buffer, &mut turn);
        }
        if !self.backlog.is_empty() {
            self.serve_backlog(&mut buffer, &mut turn);
        }
        if std::mem::take(&mut self.others) {
            self.serve_others(&mut turn);
        }
        if self.registry.schedule.next() <= self.hub.now {
            self.fire_timers(newest_timer, &mut turn);
        }
        self.settle();
        self.expire(&mut buffer, &mut turn);
        self.buffer = buffer;
        self.settle();
        self.hub.more |= !self.backlog.is_empty();
        turn.closed = self.hub.reap();
        if turn.closed > 0 || self.resume_at <= self.hub.now {
            self.resume_at = NEVER;
            for listener in std::mem::take(&mut self.paused) {
                self.accept_again(listener);
            }
        }
        self.hub.stats.turns += 1;
        if let Some(stopwatch) = stopwatch {
            stopwatch.stop(&mut self.hub.stats);
        }
        Ok(turn)
    }

    /// Writes what was emitted since the last turn, and does nothing else.
    pub fn flush(&mut self) {
        self.hub.now = self.clock();
        self.hub.flush_dirty();
    }

    /// How long [`poll`](Self::poll) may be put off if nothing happens on a socket; `None`: as long as you like. Asking is harmless; polling
    /// later makes timeouts late.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        if !self.hub.is_settled() || self.hub.more || self.is_stopping_anew() {
            return Some(Duration::ZERO);
        }
        self.until_next(None)
    }

    /// Whether a [`shutdown`](Sockets::shutdown) has run its course: every `disconnect` is told, and nothing more is to be said to
    /// anybody.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished().is_some()
    }

    /// What a [`shutdown`](Sockets::shutdown) left, once it has run its course.
    #[must_use]
    pub fn finished(&self) -> Option<Finished> {
        let stopping = self.hub.stopping.as_ref()?;
        (self.hub.is_settled() && self.hub.has_said_all()).then_some(Finished { remained: stopping.remained })
    }

    /// Whether a shutdown was asked for since the last turn.
    fn is_stopping_anew(&self) -> bool {
        self.hub.stopping.is_some() && self.reactor.is_listening()
    }

    /// Milliseconds since the server was built.
    fn clock(&self) -> u64 {
        self.clock.now()
    }

    /// The time until the next timeout is due, or `limit` if that is less.
    fn until_next(&self, limit: Option<Duration>) -> Option<Duration> {
        let own = self.resume_at.min(self.registry.schedule.next());
        let next = self.hub.next_deadline().map_or(own, |next| next.min(own));
        if next == NEVER || limit == Some(Duration::ZERO) {
            return limit;
        }
        let until = Duration::from_millis(next.saturating_sub(self.clock()));
        Some(limit.map_or(until, |limit| limit.min(until)))
    }

    /// Tells what was recorded and writes what was emitted, until there is nothing left of either, and begins a shutdown that was asked for; whether
    /// there was anything to tell or to begin.
    fn settle(&mut self) -> bool {
        let mut told = self.is_stopping_anew();
        if told {
            self.stop_listening();
        }
        if !self.hub.is_settled() {
            // What goes out now is answered from now on, however long user code has run since the clock was read last.
            self.hub.now = self.clock();
        }
        while !self.hub.is_settled() {
            told |= call::tell_records(&mut self.state, &mut self.hub, &self.registry);
            self.hub.flush_dirty();
        }
        told
    }

    /// Tells what was recorded.
    fn tell(&mut self) {
        call::tell_records(&mut self.state, &mut self.hub, &self.registry);
    }

    fn accept(&mut self, listener: usize, turn: &mut Turn) {
        if self.hub.stopping.is_some() {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN.min(self.work_per_turn) {
            match self.reactor.accept(listener) {
                Accepted::None => return,
                Accepted::Stream(stream, peer) => {
                    turn.accepted += 1;
                    let Some(token) = self.hub.insert(stream, peer) else { continue };
                    let Some(connection) = self.hub.get_mut(token) else { continue };
                    if let Err(error) = self.reactor.register(&mut connection.socket, token) {
                        self.hub.bury(token);
                        if self.begins_to_fail(listener) {
                            log::warn!("cannot watch the connection from {peer}: {error}; it is closed");
                        }
                    }
                }
                Accepted::Exhausted(error) => {
                    if self.begins_to_fail(listener) {
                        log::warn!(
                            "cannot accept: {error}; trying again when a connection ends, or in {ACCEPT_PAUSE} ms"
                        );
                    }
                    if !self.paused.contains(&listener) {
                        self.paused.push(listener);
                    }
                    self.resume_at = self.hub.now.saturating_add(ACCEPT_PAUSE);
                    return;
                }
            }
        }
        self.accept_again(listener);
    }

    /// Notes that somebody could not be taken in by this listener; whether that is the first time for a while. While descriptors are short, each
    /// connection that ends makes room for one that comes: nobody wants to read about each.
    #[cold]
    fn begins_to_fail(&mut self, listener: usize) -> bool {
        let now = self.hub.now;
        match self.failing.iter_mut().find(|(each, _)| *each == listener) {
            Some((_, last)) => now.saturating_sub(std::mem::replace(last, now)) >= ACCEPT_QUIET,
            None => {
                self.failing.push((listener, now));
                true
            }
        }
    }

    /// Accepts from a listener in the next turn.
    fn accept_again(&mut self, listener: usize) {
        if !self.accepting.contains(&listener) {
            self.accepting.push(listener);
        }
        (self.others, self.hub.more) = (true, true);
    }

    /// Whether a short read from this connection leaves open what lies behind it, whatever its
    /// event says.
    #[inline]
    fn short_may_hide(&self, token: Token) -> bool {
        self.reactor.short_may_hide && self.hub.get(token).is_some_and(|c| !c.socket.short_means_empty())
    }

    /// Sets the share of each of the `ready` connections: half of what each could have, because what is
    /// read counts too.
    #[inline]
    fn begin_shares(&mut self, ready: usize) {
        let (waiting, all) = (self.backlog.waiting(), self.hub.work_per_turn);
        self.limit = if waiting == 0 { all } else { all / FRESH_PART };
        self.usual_limit = if self.backlog.kept() == 0 { self.limit } else { 0 };
        self.share = match ready + waiting {
            0 | 1 => self.limit,
            several => (self.limit / several / 2).max(FRESH_SHARE).min(all),
        };
    }

    /// Serves a connection that is ready: to be read, to be written, and to be read to the end of its stream.
    ///
    /// An open one that does not wait for its turn already, and did not take much of the last one, comes before all others: one that sends
    /// little is served in the same turn, whatever they send. Requests and ends come behind it.
    #[inline]
    fn serve_ready(&mut self, token: Token, wakeup: Wakeup, buffer: &mut [u8], turn: &mut Turn) {
        if wakeup.readable && !wakeup.read_closed && self.hub.work < self.usual_limit {
            match self.serve(token, 0, buffer, turn) {
                Progress::Drained if !wakeup.hides_more => return,
                Progress::Unusual => {}
                progress => return self.read_on(token, progress, wakeup.hides_more, buffer, turn),
            }
        }
        self.serve_unusual(token, wakeup, buffer, turn);
    }

    #[cold]
    fn serve_unusual(&mut self, token: Token, wakeup: Wakeup, buffer: &mut [u8], turn: &mut Turn) {
        let Wakeup { readable, writable, read_closed, hides_more } = wakeup;
        let to_the_end = read_closed || hides_more;
        if self.is_spent() && (readable || writable) {
            return self.put_off(token, to_the_end);
        }
        if writable {
            self.offer(token);
        }
        let Some(connection) = self.hub.get(token) else { return };
        if readable && !read_closed && connection.is_open() && connection.read_later == ReadLater::No {
            self.read(token, hides_more, buffer, turn);
        } else if readable {
            self.put_off(token, to_the_end);
        }
    }

    /// Offers a connection's socket what it did not take before. What it takes counts as what is read does.
    fn offer(&mut self, token: Token) {
        let before = self.hub.written();
        self.hub.writable(token);
        self.hub.work += (self.hub.written() - before) as usize;
    }

    /// Reads what a connection has to say, up to its share of the turn. With `to_the_end` a short read is not the last: the end of the
    /// stream, or what follows urgent data, may be behind it.
    #[cold]
    fn read(&mut self, token: Token, to_the_end: bool, buffer: &mut [u8], turn: &mut Turn) {
        debug_assert!(!self.hub.is_inflating(token), "what comes next would overtake its message");
        let progress = self.read_once(token, buffer, turn);
        self.read_on(token, progress, to_the_end, buffer, turn);
    }

    /// Goes on after a read: reads more while the share lasts, and leaves what there is beyond it for later.
    #[cold]
    fn read_on(&mut self, token: Token, mut progress: Progress, to_the_end: bool, buffer: &mut [u8], turn: &mut Turn) {
        let until = self.hub.work.saturating_add(self.share.saturating_sub(buffer.len()));
        for reads in 1.. {
            match progress {
                Progress::Over => return,
                Progress::Drained if !to_the_end => return,
                // The end of the stream may be in the socket already.
                Progress::UsedUp if !self.left.is_empty() => {
                    return self.keep(token, buffer[self.left.clone()].to_vec(), 0);
                }
                Progress::UsedUp => return self.put_off(token, true),
                Progress::Drained | Progress::Full | Progress::Unusual => {}
            }
            if reads == READS_PER_SHARE || self.hub.work >= until || self.is_spent() {
                break;
            }
            progress = self.read_once(token, buffer, turn);
        }
        self.put_off(token, to_the_end);
    }

    /// Reads once from a connection in any state, and handles what came until its share is used up.
    #[cold]
    fn read_once(&mut self, token: Token, buffer: &mut [u8], turn: &mut Turn) -> Progress {
        let buffer = &mut buffer[..self.most_read];
        match self.hub.read(token, buffer) {
            Some(Ok(read @ 1..)) => {
                self.hub.work += read;
                self.serve(token, read, buffer, turn)
            }
            end => self.stop_reading(token, end),
        }
    }

    /// Handles the first `read` bytes of `buffer` until the connection's share is used up. If there are none it reads them, if the
    /// connection is in its usual state.
    #[inline(never)]
    fn serve(&mut self, token: Token, mut read: usize, buffer: &mut [u8], turn: &mut Turn) -> Progress {
        if read == 0 {
            match self.hub.read_usual(token, buffer) {
                Some(Ok(some @ 1..)) => {
                    self.hub.work += some;
                    read = some;
                }
                None => return Progress::Unusual,
                end => return self.stop_reading(token, end),
            }
        }
        let until = self.hub.work + self.share;
        if let Err(left) = self.handle_input(token, until, &mut buffer[..read], turn) {
            self.left = read - left..read;
            return Progress::UsedUp;
        }
        if read == buffer.len() { Progress::Full } else { Progress::Drained }
    }

    #[cold]
    fn stop_reading(&mut self, token: Token, end: Option<std::io::Result<usize>>) -> Progress {
        match end {
            None => return Progress::Over,
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return Progress::Over,
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => return Progress::Full,
            Some(Ok(_)) => self.hub.peer_finished(token),
            Some(Err(error)) => self.hub.socket_failed(token, &error),
        }
        self.hub.work += END;
        self.tell();
        Progress::Over
    }

    /// Keeps input that was read, from a byte on, until the connection has its turn again.
    #[cold]
    fn keep(&mut self, token: Token, bytes: Vec<u8>, from: usize) {
        self.put_off(token, true);
        if self.hub.get(token).is_some_and(|connection| connection.read_later > ReadLater::Heavy) {
            self.backlog.keep(token, Rest { bytes, from });
            self.set_most_read();
        }
    }

    /// Reads of a share that is used up to its last frame leave no rest.
    fn set_most_read(&mut self) {
        self.usual_limit = 0;
        let room = self.buffer_len.saturating_sub(self.backlog.kept());
        self.most_read = room.max(SHARE * SHORTEST_FRAME).min(self.buffer_len);
    }

    /// Reads from a connection later: in this turn if its budget goes so far, or in the next.
    #[cold]
    fn put_off(&mut self, token: Token, to_the_end: bool) {
        let Some(connection) = self.hub.get_mut(token) else { return };
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        if connection.read_later <= ReadLater::Heavy {
            let closing = connection.is_closing();
            self.backlog.push(token, closing);
        }
        let how = if to_the_end { ReadLater::ToTheEnd } else { ReadLater::UntilShort };
        connection.read_later = connection.read_later.max(how);
    }

    /// Whether connections have had what this part of the turn has for all of them.
    #[inline]
    fn is_spent(&self) -> bool {
        self.hub.work >= self.limit
    }

    /// Notes the sources that are to be called though no event says so.
    #[cold]
    fn note_woken(&mut self) {
        self.woken = self.registry.sources.take_woken();
        self.others |= !self.woken.is_empty();
    }

    /// Reads from the connections that wait, the first first and each its share, as often as the budget allows; then from those that are
    /// closing, for an eighth of it.
    #[cold]
    fn serve_backlog(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        self.limit = self.hub.work_per_turn;
        while !self.is_spent()
            && let Some(token) = self.backlog.pop_waiting()
        {
            let Some(connection) = self.hub.get_mut(token) else {
                self.drop_rest(token);
                continue;
            };
            if connection.is_closing() {
                self.backlog.push(token, true);
                continue;
            }
            self.share = ((self.limit - self.hub.work) / (self.backlog.waiting() + 1)).max(SHARE).min(self.limit);
            self.read_waiting(token, buffer, turn);
        }
        self.limit = self.hub.work.saturating_add(self.hub.work_per_turn / CLOSING_PART);
        self.share = SHARE.min(self.hub.work_per_turn);
        while !self.is_spent()
            && let Some(token) = self.backlog.pop_closing()
        {
            self.read_waiting(token, buffer, turn);
        }
        self.limit = self.hub.work_per_turn;
    }

    fn drop_rest(&mut self, token: Token) {
        self.backlog.take_rest(token);
        self.set_most_read();
    }

    /// Handles what was kept of a connection's input, and reads more if it has its share still.
    fn read_waiting(&mut self, token: Token, buffer: &mut [u8], turn: &mut Turn) {
        self.hub.work += READ;
        let Some(connection) = self.hub.get_mut(token) else { return self.drop_rest(token) };
        let to_the_end = std::mem::take(&mut connection.read_later) == ReadLater::ToTheEnd;
        let before = self.hub.work;
        self.offer(token);
        self.read_in_order(token, to_the_end, buffer, turn);
        if self.hub.work - before >= HEAVY
            && let Some(connection) = self.hub.get_mut(token)
        {
            connection.read_later = connection.read_later.max(ReadLater::Heavy);
        }
    }

    /// Handles what was kept of a connection's input, a part of it at a time; whether that was all.
    fn handle_rest(&mut self, token: Token, buffer: &mut [u8], turn: &mut Turn) -> bool {
        let Some(Rest { bytes, mut from }) = self.backlog.take_rest(token) else { return true };
        self.set_most_read();
        while from < bytes.len() {
            let part = &bytes[from..];
            let part = &part[..part.len().min(REST_AT_ONCE).min(buffer.len())];
            buffer[..part.len()].copy_from_slice(part);
            self.hub.begin_input(token);
            from += part.len();
            if let Progress::UsedUp = self.serve(token, part.len(), buffer, turn) {
                from -= self.left.len();
                if from < bytes.len() {
                    self.keep(token, bytes, from);
                } else {
                    self.put_off(token, true);
                }
                return false;
            }
        }
        true
    }

    /// Notes that something else than a connection is ready, or serves it.
    #[cold]
    fn note_other(&mut self, event: &Event, turn: &mut Turn) {
        self.others = true;
        match Ready::decode(event.token().0) {
            // It has one share of the turn, also if it was left over from the last one.
            Ready::Listener(listener) if self.accepting.contains(&listener) => {}
            Ready::Listener(listener) => self.accepting.push(listener),
            Ready::Inbox => self.mail = true,
            Ready::Source(id) => self.call_source(Readiness::of(id, event), turn),
            Ready::Connection(_) => {}
        }
    }

    /// Serves listeners, other threads, and the sources that are to be called without an event.
    #[cold]
    fn serve_others(&mut self, turn: &mut Turn) {
        for listener in std::mem::take(&mut self.accepting) {
            self.accept(listener, turn);
        }
        if std::mem::take(&mut self.mail) {
            self.run_commands(turn);
        }
        for id in std::mem::take(&mut self.woken) {
            if let Some(readiness) = self.registry.sources.may_be_ready(id) {
                self.call_source(readiness, turn);
            }
        }
    }

    /// Handles what was read from one connection, and writes its replies once. If its share is used up, the error is how many bytes are left.
    #[inline(always)]
    fn handle_input(&mut self, token: Token, until: usize, mut input: &mut [u8], turn: &mut Turn) -> Result<(), usize> {
        let mut used_up = false;
        let Self { state, hub, registry, .. } = self;
        let messages = hub.stats.messages_in;
        while !input.is_empty() {
            match hub.receive(token, &mut input) {
                Some(Received::Request) => upgrade::receive(state, hub, registry, token, &mut input, turn),
                Some(Received::Message(message)) => {
                    hub.work += MESSAGE;
                    call::message(state, hub, registry, token, &message);
                }
                Some(Received::Control(event, data)) => {
                    turn.messages += 1;
                    hub.work += MESSAGE;
                    call::control(state, hub, registry, token, event, &data);
                }
                Some(Received::Unfinished) => used_up = true,
                // What comes behind a close frame or a refusal is read and discarded until the peer's
                // FIN: closing earlier would send a reset, which can overtake what was said last.
                None => input = &mut [],
            }
            call::tell_records(state, hub, registry);
            used_up |= hub.work >= until;
            if used_up {
                break;
            }
        }
        turn.messages += (hub.stats.messages_in - messages) as usize;
        hub.end_input(token);
        call::tell_records(state, hub, registry);
        if used_up { Err(input.len()) } else { Ok(()) }
    }

    /// Reads a connection, after what was read of it before: a message that was decompressed in part, then what was kept.
    fn read_in_order(&mut self, token: Token, to_the_end: bool, buffer: &mut [u8], turn: &mut Turn) {
        if self.inflate_on(token, turn) && self.handle_rest(token, buffer, turn) {
            self.read(token, to_the_end, buffer, turn);
        }
    }

    /// Goes on with a message that was decompressed in part; whether that is done.
    #[cold]
    fn inflate_on(&mut self, token: Token, turn: &mut Turn) -> bool {
        if !self.hub.is_inflating(token) {
            return true;
        }
        self.hub.begin_input(token);
        let Self { state, hub, registry, .. } = self;
        match hub.inflate_on(token) {
            Some(Received::Unfinished) => {
                hub.end_input(token);
                self.put_off(token, true);
                return false;
            }
            Some(Received::Message(message)) => {
                turn.messages += 1;
                hub.work += MESSAGE;
                call::message(state, hub, registry, token, &message);
            }
            _ => {}
        }
        call::tell_records(state, hub, registry);
        hub.forget_unfinished(token);
        hub.end_input(token);
        call::tell_records(state, hub, registry);
        true
    }

    /// Calls one of the user's own sources.
    fn call_source(&mut self, readiness: Readiness, turn: &mut Turn) {
        turn.sources += usize::from(call::source(&mut self.state, &mut self.hub, &self.registry, readiness));
    }

    /// Goes on with a request whose answer has come, and writes what follows from it once.
    #[cold]
    fn resume(&mut self, answer: Answer<S>, turn: &mut Turn) {
        let Self { state, hub, registry, .. } = self;
        let token = answer.token;
        if !upgrade::waits(hub, token, &answer.waits) {
            // What it has captured is dropped here, which is user code too.
            let _ = call::guard(state, hub, registry, "filter", None, |_, _| drop(answer));
            return;
        }
        hub.begin_input(token);
        let mut early = upgrade::resume(state, hub, registry, answer, turn);
        self.tell();
        match early.len() {
            0 => self.hub.end_input(token),
            before => {
                if let Progress::UsedUp = self.serve(token, before, &mut early, turn)
                    && !self.left.is_empty()
                {
                    self.keep(token, early, self.left.start);
                }
            }
        }
    }

    /// Does what other threads have sent.
    fn run_commands(&mut self, turn: &mut Turn) {
        let mut commands = std::mem::take(&mut self.commands);
        let mut left = ERRANDS_PER_TURN.min(self.work_per_turn);
        let until = self.hub.work.saturating_add(self.hub.work_per_turn / ERRANDS_PART);
        loop {
            let some = left.min(ERRANDS_AT_ONCE);
            let more = self.registry.inbox.take(some, &mut commands);
            for command in commands.drain(..) {
                match command {
                    Command::Run(task) => {
                        call::command(&mut self.state, &mut self.hub, &self.registry, task);
                        turn.commands += 1;
                    }
                    Command::Answer(answer) => {
                        self.hub.work += ANSWER;
                        self.resume(answer, turn);
                    }
                }
            }
            left -= some;
            if !more {
                break;
            }
            if left == 0 || self.hub.work >= until {
                (self.mail, self.others, self.hub.more) = (true, true, true);
                break;
            }
        }
        self.commands = commands;
    }

    /// Calls the user's timers that are due and were set before this turn began.
    #[cold]
    fn fire_timers(&mut self, newest: TimerId, turn: &mut Turn) {
        while turn.timers < TIMERS_PER_TURN.min(self.work_per_turn)
            && call::timer(&mut self.state, &mut self.hub, &self.registry, newest)
        {
            turn.timers += 1;
        }
    }

    /// Handles the timeouts that are due. Before a connection is given up, its socket is asked once more.
    fn expire(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        let mut looks = TIMEOUTS_PER_TURN.min(self.work_per_turn);
        if self.hub.next_deadline().is_none_or(|next| next > self.hub.now) {
            return;
        }
        self.begin_ending();
        while !self.is_spent()
            && let Some((token, due)) = self.hub.pop_due(&mut looks)
        {
            self.hub.work += TIMEOUT;
            if due != Due::Ping {
                self.read_in_order(token, true, buffer, turn);
                if !self.hub.is_still_due(token, due) {
                    self.hub.rearm(token);
                    continue;
                }
            }
            match due {
                Due::Handshake => upgrade::late(&mut self.hub, token),
                _ => self.hub.expire(token, due),
            }
            self.tell();
        }
        if self.hub.stopping.is_some() {
            self.begin_ending();
            self.hub.enforce_shutdown(self.limit);
        }
    }

    /// Leaves a part of the budget for what ends connections, also if it is spent.
    #[inline]
    fn begin_ending(&mut self) {
        let all = self.hub.work_per_turn;
        self.limit = all.max(self.hub.work.saturating_add(all / ENDING_PART));
        self.share = SHARE.min(self.hub.work_per_turn);
    }
}

/// The descriptor of the poll, for another loop to watch: it is readable when something has happened here. Take nothing from it; call
/// [`poll`](Server::poll) with [`Duration::ZERO`]. See the manual's section "In another loop".
#[cfg(unix)]
impl<S> AsFd for Server<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

/// As [`AsFd`].
#[cfg(unix)]
impl<S> AsRawFd for Server<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// What a harness needs.
#[cfg(feature = "testing")]
impl<S> Server<S> {
    /// From here on time stands still, nothing is left to chance, and panics are handed over.
    pub(crate) fn make_repeatable(&mut self, caught: Caught) {
        self.clock.stop();
        self.hub.uuids = Uuids::Counted(0);
        self.registry.caught = Some(caught);
    }

    /// Whether other threads, or callbacks through a handle, have sent something.
    pub(crate) fn has_mail(&self) -> bool {
        self.registry.inbox.has_commands()
    }

    pub(crate) fn uuid_of(&self, token: Token) -> Option<uuid::Uuid> {
        self.hub.get(token).filter(|connection| connection.is_open()).map(|connection| connection.uuid)
    }

    pub(crate) fn advance_clock(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    /// Takes in a connection in memory, as if it were accepted; `None` if nobody is.
    pub(crate) fn take_in(&mut self, wire: Wire, peer: PeerAddress) -> Option<Token> {
        if self.hub.stopping.is_some() {
            return None;
        }
        self.hub.now = self.clock();
        self.hub.insert(Stream::Memory(wire), peer)
    }

    /// Tells the next turn what a poll would tell of a connection in memory.
    pub(crate) fn tell_ready(&mut self, token: Token, readiness: memory::Readiness) {
        self.readiness.push((token, readiness));
    }

    #[cold]
    fn handle_readiness(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        let readiness = std::mem::take(&mut self.readiness);
        self.begin_shares(readiness.len());
        for (token, readiness) in readiness {
            let memory::Readiness { readable, writable, read_closed } = readiness;
            let wakeup = Wakeup { readable, writable, read_closed, hides_more: false };
            self.serve_ready(token, wakeup, buffer, turn);
        }
    }
}

impl<S> std::fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.local_addrs())
            .field("open", &self.hub.open_len())
            .finish_non_exhaustive()
    }
}
