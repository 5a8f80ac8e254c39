//! The server: the user's door, and the turn of the loop that everything happens in.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::{Events, Interest};

use crate::builder::Builder;
use crate::clock::Clock;
#[cfg(feature = "testing")]
use crate::connection::PeerAddress;
use crate::connection::{Due, Phase};
use crate::defer::Answer;
use crate::dispatch;
use crate::error::{BindError, BuildError, IoError, RouteError};
use crate::handle::{Errand, Handle};
use crate::handshake::Response;
#[cfg(feature = "testing")]
use crate::hub::Uuids;
use crate::hub::{Hub, Received};
use crate::listen::{Accepted, Listener, ListeningSocket, Options};
use crate::listener::EventPayload;
use crate::reactor::Reactor;
#[cfg(feature = "testing")]
use crate::route::Caught;
use crate::route::{Incoming, Recovered, Registry, Route};
use crate::schedule::TimerId;
use crate::socket::{Socket, Sockets};
use crate::source::Readiness;
use crate::stats::{Stats, Stopwatch};
use crate::stream::Stream;
#[cfg(feature = "testing")]
use crate::testing::wire::{self, Wire};
use crate::timer::NEVER;
use crate::token::{Ready, SourceId, Token};
use crate::turn::Turn;
use crate::upgrade;

/// Full buffers read from one connection in one turn, at most: then it is somebody else's turn.
const READS_PER_TURN: usize = 4;
/// Connections accepted from one listener in one turn, at most.
const ACCEPTS_PER_TURN: usize = 64;
/// Connections looked at in one turn because their time may have come, at most.
const TIMEOUTS_PER_TURN: usize = 1024;
/// Commands of handles and answers to deferred requests in one turn, at most.
const ERRANDS_PER_TURN: usize = 1024;
/// The user's timers called in one turn, at most.
const TIMERS_PER_TURN: usize = 1024;
/// When there is no descriptor for another connection, accepting is tried again after this time, in milliseconds, or when a connection ends.
const ACCEPT_PAUSE: u64 = 250;
/// A listener that cannot accept is in the log once, and again when it could for so long, in milliseconds.
const ACCEPT_QUIET: u64 = 60_000;

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
    /// What other threads have sent for this turn; empty between turns.
    errands: Vec<Errand<S>>,
    /// The most work of each kind in one turn.
    work_per_turn: usize,
    /// Connections that used up their share of a turn, or came when it was used up, and may have more.
    again: VecDeque<Token>,
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
    readiness: Vec<(Token, wire::Readiness)>,
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
        let reactor = Reactor::new(settings.work_per_turn)?;
        Ok(Self {
            state,
            hub,
            registry: Registry::new(settings, reactor.registry()?, reactor.waker()?),
            reactor,
            buffer: vec![0; settings.receive_buffer],
            errands: Vec::new(),
            work_per_turn: settings.work_per_turn,
            again: VecDeque::new(),
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
        self.registry.mailbox.handle()
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
            self.serve_left_over(&mut buffer, &mut turn);
        }
        let events = std::mem::replace(&mut self.reactor.events, Events::with_capacity(0));
        for event in &events {
            let Ready::Connection(token) = Ready::decode(event.token().0) else {
                self.note_other(event, &mut turn);
                continue;
            };
            if event.is_writable() {
                self.hub.writable(token);
            }
            if event.is_readable() {
                let to_the_end = event.is_read_closed() || event.is_priority() || self.short_may_hide(token);
                self.read_within_budget(token, to_the_end, &mut buffer, &mut turn);
            }
        }
        // There may be more than were taken.
        self.hub.more |= events.iter().count() == events.capacity();
        self.reactor.events = events;
        #[cfg(feature = "testing")]
        if !self.readiness.is_empty() {
            self.handle_readiness(&mut buffer, &mut turn);
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
            told |= dispatch::tell_records(&mut self.state, &mut self.hub, &self.registry);
            self.hub.flush_dirty();
        }
        told
    }

    /// Tells what was recorded.
    fn tell(&mut self) {
        dispatch::tell_records(&mut self.state, &mut self.hub, &self.registry);
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

    /// Reads what a connection has to say, in the next turn if this one has done its work.
    #[inline]
    fn read_within_budget(&mut self, token: Token, to_the_end: bool, buffer: &mut [u8], turn: &mut Turn) {
        match self.is_spent(turn) {
            false => self.read(token, to_the_end, 0, buffer, turn),
            true => self.put_off(token),
        }
    }

    /// Reads what a connection has to say, up to its share of the turn. With `to_the_end` a short read is not the last: the end of the
    /// stream, or what follows urgent data, may be behind it. So many bytes at the front of
    /// `buffer` were read `before`, and their input has begun.
    fn read(&mut self, token: Token, to_the_end: bool, mut before: usize, buffer: &mut [u8], turn: &mut Turn) {
        for _ in 0..READS_PER_TURN {
            let read = match std::mem::take(&mut before) {
                0 => self.hub.read(token, buffer),
                before => Some(Ok(before)),
            };
            let Some(read) = read else { return };
            match read {
                Ok(0) => {
                    self.hub.peer_finished(token);
                    return self.tell();
                }
                Ok(read) => {
                    turn.read += read;
                    self.handle_input(token, &mut buffer[..read], turn);
                    if read < buffer.len() && !to_the_end {
                        return;
                    }
                    if self.is_spent(turn) {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.hub.socket_failed(token, &error);
                    return self.tell();
                }
            }
        }
        self.put_off(token);
    }

    /// Reads from a connection in the next turn.
    #[cold]
    fn put_off(&mut self, token: Token) {
        if let Some(connection) = self.hub.get_mut(token)
            && !connection.ready_again
            && !matches!(connection.phase, Phase::Dead)
        {
            connection.ready_again = true;
            self.again.push_back(token);
            self.hub.more = true;
        }
    }

    /// Whether connections have had what one turn has for all of them.
    fn is_spent(&self, turn: &Turn) -> bool {
        turn.messages + ((turn.read + self.hub.work) >> 10) >= self.work_per_turn
    }

    /// Reads from the connections that were put off, the first first, and takes note of the sources that are to be called.
    #[cold]
    fn serve_left_over(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        self.woken = self.registry.sources.take_woken();
        self.others |= !self.woken.is_empty();
        for _ in 0..self.again.len() {
            if self.is_spent(turn) {
                break;
            }
            let Some(token) = self.again.pop_front() else { break };
            if let Some(connection) = self.hub.get_mut(token) {
                connection.ready_again = false;
            }
            if self.inflate_on(token, turn) {
                self.read(token, true, 0, buffer, turn);
            }
        }
        self.hub.more |= !self.again.is_empty();
    }

    /// Notes that something else than a connection is ready, or serves it.
    #[cold]
    fn note_other(&mut self, event: &Event, turn: &mut Turn) {
        self.others = true;
        match Ready::decode(event.token().0) {
            // It has one share of the turn, also if it was left over from the last one.
            Ready::Listener(listener) if self.accepting.contains(&listener) => {}
            Ready::Listener(listener) => self.accepting.push(listener),
            Ready::Mailbox => self.mail = true,
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
            self.run_errands(turn);
        }
        for id in std::mem::take(&mut self.woken) {
            if let Some(readiness) = self.registry.sources.may_be_ready(id) {
                self.call_source(readiness, turn);
            }
        }
    }

    /// Handles what was read from one connection, and writes its replies once.
    fn handle_input(&mut self, token: Token, mut input: &mut [u8], turn: &mut Turn) {
        let Self { state, hub, registry, .. } = self;
        let mut unfinished = false;
        while !input.is_empty() {
            match hub.receive(token, &mut input) {
                Some(Received::Request) => upgrade::receive(state, hub, registry, token, &mut input, turn),
                Some(Received::Message(message)) => {
                    turn.messages += 1;
                    dispatch::message(state, hub, registry, token, &message);
                }
                Some(Received::Control(event, data)) => {
                    turn.messages += 1;
                    dispatch::control(state, hub, registry, token, event, &data);
                }
                Some(Received::Unfinished) => unfinished = true,
                // What comes behind a close frame or a refusal is read and discarded until the peer's
                // FIN: closing earlier would send a reset, which can overtake what was said last.
                None => input = &mut [],
            }
            dispatch::tell_records(state, hub, registry);
        }
        hub.end_input(token);
        dispatch::tell_records(state, hub, registry);
        if unfinished {
            self.put_off(token);
        }
    }

    /// Goes on with a message that was decompressed in part, and with what came behind it; whether all of that is done.
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
                self.put_off(token);
                return false;
            }
            Some(Received::Message(message)) => {
                turn.messages += 1;
                dispatch::message(state, hub, registry, token, &message);
            }
            _ => {}
        }
        dispatch::tell_records(state, hub, registry);
        let mut rest = hub.take_rest(token);
        self.handle_input(token, &mut rest, turn);
        !self.hub.is_inflating(token)
    }

    /// Calls one of the user's own sources.
    fn call_source(&mut self, readiness: Readiness, turn: &mut Turn) {
        turn.sources += usize::from(dispatch::source(&mut self.state, &mut self.hub, &self.registry, readiness));
    }

    /// Goes on with a request whose answer has come, and writes what follows from it once.
    #[cold]
    fn resume(&mut self, answer: Answer<S>, turn: &mut Turn) {
        let Self { state, hub, registry, .. } = self;
        let token = answer.token;
        if !upgrade::waits(hub, token, &answer.waits) {
            // What it has captured is dropped here, which is user code too.
            let _ = dispatch::guard(state, hub, registry, "filter", None, |_, _| drop(answer));
            return;
        }
        hub.begin_input(token);
        let mut early = upgrade::resume(state, hub, registry, answer, turn);
        self.tell();
        match early.len() {
            0 => self.hub.end_input(token),
            before => self.read(token, true, before, &mut early, turn),
        }
    }

    /// Does what other threads have sent.
    fn run_errands(&mut self, turn: &mut Turn) {
        let mut errands = std::mem::take(&mut self.errands);
        if self.registry.mailbox.take(ERRANDS_PER_TURN.min(self.work_per_turn), &mut errands) {
            (self.mail, self.others, self.hub.more) = (true, true, true);
        }
        for errand in errands.drain(..) {
            match errand {
                Errand::Command(command) => {
                    dispatch::command(&mut self.state, &mut self.hub, &self.registry, command);
                    turn.commands += 1;
                }
                Errand::Answer(answer) => self.resume(answer, turn),
            }
        }
        self.errands = errands;
    }

    /// Calls the user's timers that are due and were set before this turn began.
    #[cold]
    fn fire_timers(&mut self, newest: TimerId, turn: &mut Turn) {
        while turn.timers < TIMERS_PER_TURN.min(self.work_per_turn)
            && dispatch::timer(&mut self.state, &mut self.hub, &self.registry, newest)
        {
            turn.timers += 1;
        }
    }

    /// Handles the timeouts that are due. Before a connection is given up, its socket is asked once more.
    fn expire(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        let mut looks = TIMEOUTS_PER_TURN.min(self.work_per_turn);
        while let Some((token, due)) = self.hub.pop_due(&mut looks) {
            if due != Due::Ping {
                self.read(token, true, 0, buffer, turn);
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
        self.hub.enforce_shutdown();
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
        self.registry.mailbox.has_errands()
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
    pub(crate) fn tell_ready(&mut self, token: Token, readiness: wire::Readiness) {
        self.readiness.push((token, readiness));
    }

    #[cold]
    fn handle_readiness(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        for (token, readiness) in std::mem::take(&mut self.readiness) {
            if readiness.writable {
                self.hub.writable(token);
            }
            if readiness.readable {
                self.read_within_budget(token, readiness.read_closed, buffer, turn);
            }
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
