//! The server: its parts, and the methods of its owner. Its loop is in `turn`.

mod accept;
mod admission;
mod backlog;
mod budget;
#[cfg(feature = "redis")]
mod bus;
mod clock;
#[cfg(feature = "testing")]
mod harness;
mod input;
mod letters;
mod paused_listeners;
mod reactor;
#[cfg(feature = "redis")]
mod resolving;
mod turn;
mod turn_report;

use std::marker::PhantomData;
use std::net::ToSocketAddrs;
use std::ops::Range;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use mio::Interest;
use mio::event::Source;

use crate::bus::BusEvent;
use crate::config::Builder;
use crate::error::{BindError, BuildError, IoError, RouteError};
use crate::http::Response;
use crate::hub::{Hub, Stats};
use crate::token::SourceId;
#[cfg(feature = "testing")]
use crate::token::Token;
use crate::transport::Options;
#[cfg(feature = "testing")]
use crate::transport::memory;
use crate::user::{
    CaughtPanic, Command, Context, EventPayload, Handle, Incoming, Readiness, Registry, Route,
    RouteOptions, Socket, Sockets, TimerId,
};
use backlog::Backlog;
use budget::{MESSAGE, MOST_WORK, SHARE};
use clock::Clock;
use paused_listeners::Shortage;
use reactor::Reactor;
pub use turn_report::Turn;

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// WebSocket connections that were reset because the peer's close frame had not arrived at the
    /// close timeout or the deadline.
    pub remained: usize,
}

/// An object of this trait cannot be sent to another thread. The compiler's first line names it.
trait StaysOnTheThreadThatBuiltIt {}

/// A WebSocket server with the user's state `S` in it, on one loop that its owner turns with
/// [`run`](Self::run) or [`poll`](Self::poll).
///
/// A server stays on the thread that built it, starts no other thread, and does nothing between
/// calls. To run it on a thread of its own, build it there, and send a [`Handle`] back. Dropping
/// the server closes every connection at once; [`Sockets::shutdown`] closes them with close frames.
///
/// ```
/// use std::sync::mpsc;
/// use std::thread;
/// use ikisocket::{Handle, Server, Shutdown};
///
/// let (sender, handles) = mpsc::channel::<Handle<()>>();
/// let server = thread::spawn(move || {
///     let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
///     sender.send(server.handle()).unwrap();
///     server.run()
/// });
/// handles.recv()?.shutdown(Shutdown::default())?;
/// server.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A server cannot be moved to another thread afterwards: its callbacks need not be `Send`.
///
/// ```compile_fail,E0277
/// let mut server = ikisocket::Server::bind("127.0.0.1:0", ())?;
/// std::thread::spawn(move || server.run());
/// # Ok::<(), ikisocket::BindError>(())
/// ```
pub struct Server<S> {
    /// The first field, so that the compiler names this field when a server is sent to another
    /// thread.
    _stays: PhantomData<dyn StaysOnTheThreadThatBuiltIt>,
    /// The connection of the bus, if this loop holds it. It is dropped before user code of the
    /// state runs, so that other loops know soon that it is gone.
    #[cfg(feature = "redis")]
    line: Option<Box<bus::Line>>,
    state: S,
    hub: Hub,
    registry: Registry<S>,
    reactor: Reactor,
    /// The one buffer that all input is read into.
    buffer: Vec<u8>,
    buffer_len: usize,
    /// What TLS needs of it, if connections over TLS may come.
    #[cfg(feature = "_tls")]
    least_buffer: usize,
    /// The commands that other threads have sent for this turn; empty between turns.
    commands: Vec<Command<S>>,
    /// The most work of each kind in one turn.
    work_per_turn: usize,
    /// The most work in this part of the turn.
    limit: usize,
    /// The same for connections that take the fast path. It is 0 while input of other connections
    /// is kept.
    usual_limit: usize,
    /// The most work for the current connection before others are served, like all work in bytes.
    share: usize,
    backlog: Backlog,
    /// The part of the buffer that the last read has left unhandled.
    left: Range<usize>,
    /// The length of one read. It keeps the kept input of all connections within the buffer's
    /// length.
    most_read: usize,
    shortage: Shortage,
    /// The most time of a turn that TLS handshakes take, if it is more than one.
    #[cfg(feature = "_tls")]
    handshake_time: Duration,
    /// What this turn has done so far.
    turn: Turn,
    clock: Clock,
    options: Options,
    /// Readiness that a harness reports for connections in memory.
    #[cfg(feature = "testing")]
    readiness: Vec<(Token, memory::Readiness)>,
}

impl Server<()> {
    /// The settings of a server to be built.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// Builds a server that owns `state`. It does not listen yet: see [`Server::listen`].
    ///
    /// # Errors
    ///
    /// [`BuildError::Setting`] if a setting is out of its range, [`BuildError::Io`] if the
    /// operating system cannot create a poll.
    pub fn build<S>(self, state: S) -> Result<Server<S>, BuildError> {
        self.check()?;
        let mut server = Server::new(state, &self).map_err(|error| BuildError::Io(error.into()))?;
        if let Some(seat) = self.seat {
            server.join_loops(seat)?;
        }
        Ok(server)
    }
}

impl<S> Server<S> {
    fn new(state: S, settings: &Builder) -> std::io::Result<Self> {
        let mut hub = Hub::new(settings.limits());
        hub.stats.turn_durations = settings.measure_turns.then(Default::default);
        hub.work_per_turn = settings.work_per_turn.saturating_mul(MESSAGE).min(MOST_WORK);
        let reactor = Reactor::new(settings.work_per_turn)?;
        #[cfg(feature = "_tls")]
        {
            hub.tls = reactor.tls.clone();
        }
        Ok(Self {
            _stays: PhantomData,
            state,
            hub,
            registry: Registry::new(settings, reactor.registry()?, reactor.waker.clone()),
            reactor,
            buffer: vec![0; settings.receive_buffer],
            buffer_len: settings.receive_buffer,
            #[cfg(feature = "_tls")]
            least_buffer: 0,
            #[cfg(feature = "redis")]
            line: None,
            commands: Vec::new(),
            work_per_turn: settings.work_per_turn,
            limit: 0,
            usual_limit: 0,
            share: SHARE,
            backlog: Backlog::default(),
            left: 0..0,
            most_read: settings.receive_buffer,
            shortage: Shortage::default(),
            #[cfg(feature = "_tls")]
            handshake_time: settings.handshake_time,
            turn: Turn::default(),
            clock: Clock::start(),
            options: settings.options(),
            #[cfg(feature = "testing")]
            readiness: Vec::new(),
        })
    }

    /// Builds a server with default settings that owns `state` and listens on `address`. With port
    /// 0 the system chooses a port.
    ///
    /// # Errors
    ///
    /// The same as those of [`listen`](Self::listen) and [`Builder::build`].
    pub fn bind(address: impl ToSocketAddrs, state: S) -> Result<Self, BindError> {
        let mut server = Builder::default().build(state)?;
        server.listen(address)?;
        Ok(server)
    }

    // Registration.

    /// Calls `listener` whenever an event fires on any connection: an [`Event`](crate::Event), or a
    /// custom name that `fire` uses. Several listeners run in the order of registration. A listener
    /// returns nothing: end an `emit` with a semicolon to ignore its result.
    pub fn on<F>(&mut self, event: impl AsRef<str>, listener: F) -> &mut Self
    where
        F: Fn(&mut S, &mut EventPayload<'_, S>) + 'static,
    {
        self.registry.listeners.add(event.as_ref(), Box::new(listener));
        self
    }

    /// Removes all listeners of an event, also those of routes; returns how many there were. For a
    /// misspelt name that is 0.
    pub fn off(&mut self, event: impl AsRef<str>) -> usize {
        self.registry.off(event.as_ref())
    }

    /// Accepts WebSocket connections at a path. `callback` runs once for each connection, right
    /// after the upgrade and before `connect` fires.
    ///
    /// `/ws/:id` has a parameter for one segment, `/files/*rest` one for the rest of the path. A
    /// literal segment takes precedence over a parameter. All rules are in
    /// [`http`](crate::http#patterns).
    ///
    /// # Errors
    ///
    /// [`RouteError::Pattern`] if the pattern is not valid, [`RouteError::Duplicate`] if there is a
    /// route for the same paths.
    pub fn route<F>(&mut self, pattern: &str, callback: F) -> Result<Route<'_, S>, RouteError>
    where
        F: Fn(&mut S, &mut Socket<'_, S>) + 'static,
    {
        self.route_with(pattern, RouteOptions::default(), callback)
    }

    /// Accepts WebSocket connections at a path like [`route`](Self::route), with the route's own
    /// settings instead of the server's.
    ///
    /// # Errors
    ///
    /// The same as those of [`route`](Self::route), and [`RouteError::Subprotocol`],
    /// [`RouteError::Origin`] or [`RouteError::Setting`] if a setting is wrong. Then no route is
    /// added.
    pub fn route_with<F>(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        callback: F,
    ) -> Result<Route<'_, S>, RouteError>
    where
        F: Fn(&mut S, &mut Socket<'_, S>) + 'static,
    {
        self.registry.add_route(pattern, options, Box::new(callback))
    }

    /// Answers plain GET and HEAD requests at a path with the result of `page`: a [`Response`], a
    /// text, or a [`Result`] of two such types. A route may have the same path: it gets the
    /// upgrades, the page all other requests. The connection is closed after the response
    /// (`Connection: close`).
    ///
    /// ```
    /// use ikisocket::{Response, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0_u64)?;
    /// server.get("/health", |_, _, _| "fine")?;
    /// server.get("/visits", |visits, _, incoming| {
    ///     let key = incoming.query("key").ok_or(Response::new(401))?;
    ///     *visits += u64::from(key == "secret");
    ///     Ok::<_, Response>(visits.to_string())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`route`](Self::route).
    pub fn get<F, R>(&mut self, pattern: &str, page: F) -> Result<&mut Self, RouteError>
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &Incoming) -> R + 'static,
        R: Into<Response>,
    {
        let page = move |state: &mut S, sockets: &mut Sockets<'_, S>, incoming: &Incoming| {
            page(state, sockets, incoming).into()
        };
        self.registry.add_page(pattern, Box::new(page))?;
        Ok(self)
    }

    /// Calls `filter` before each upgrade and page, after all other checks. If it returns `Err`,
    /// the client gets that response instead. Several filters run in the order of registration
    /// until one refuses, then those of the route ([`Route::filter`]). A filter that needs the
    /// answer of another thread or server [defers its answer](Sockets::defer).
    pub fn filter<F>(&mut self, filter: F) -> &mut Self
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response> + 'static,
    {
        self.registry.filters.push(Box::new(filter));
        self
    }

    /// Calls `handler` after every panic in a callback.
    ///
    /// The panic is caught in any case. If it happened on an open connection, that is closed with
    /// 1011, except after a panic in an `error` listener. A request whose filter or page panics
    /// gets 500. The callback may have changed the state in part: the handler can check and repair
    /// it, or end the process. With `panic = "abort"` no panic can be caught.
    pub fn on_panic<F>(&mut self, handler: F) -> &mut Self
    where
        F: Fn(&mut S, &CaughtPanic) + 'static,
    {
        let replaced = self.registry.on_panic.replace(Box::new(handler));
        self.registry.discard(replaced);
        self
    }

    /// Calls `handler` when something happens between the loops of the process, or the servers of a
    /// bus: messages for this loop are missing, or the bus goes down or up. A server that runs by
    /// itself without a bus has no such events. The handler may use all verbs.
    ///
    /// ```
    /// use ikisocket::{BusEvent, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0_u64)?;
    /// server.on_bus(|missed, sockets, event| {
    ///     if let BusEvent::Gap { lost, .. } = event {
    ///         *missed += lost.unwrap_or(1);
    ///         sockets.broadcast("some messages are missing: please reload");
    ///     }
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    pub fn on_bus<F>(&mut self, handler: F) -> &mut Self
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &BusEvent) + 'static,
    {
        let replaced = self.registry.on_bus.replace(Box::new(handler));
        self.registry.discard(replaced);
        self
    }

    // Timers, sources and handles.

    /// Calls `callback` once, `after` from now: [`Sockets::set_timer`].
    pub fn set_timer<F>(&mut self, after: Duration, callback: F) -> TimerId
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        self.sockets().set_timer(after, callback)
    }

    /// Calls `callback` each time that `every` has passed: [`Sockets::set_interval`].
    pub fn set_interval<F>(&mut self, every: Duration, callback: F) -> TimerId
    where
        F: FnMut(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        self.sockets().set_interval(every, callback)
    }

    /// Cancels a timer or an interval; returns whether there was one: [`Sockets::cancel`].
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.sockets().cancel(timer)
    }

    /// Watches a source of your own, and calls `callback` when it is ready:
    /// [`Sockets::add_source`].
    ///
    /// # Errors
    ///
    /// The operating system's error; the source is dropped.
    pub fn add_source<E, F>(
        &mut self,
        source: E,
        interest: Interest,
        callback: F,
    ) -> Result<SourceId, IoError>
    where
        E: Source + 'static,
        F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness) + 'static,
    {
        self.sockets().add_source(source, interest, callback)
    }

    /// Stops watching a source and drops it; returns whether there was one:
    /// [`Sockets::remove_source`].
    pub fn remove_source(&mut self, source: SourceId) -> bool {
        self.sockets().remove_source(source)
    }

    /// A handle by which other threads run code on the loop. There may be any number of them.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle::new(&self.registry)
    }

    // The state and the connections, between turns.

    /// The state and the open connections, to use both at once. For one of the two there are
    /// [`state_mut`](Self::state_mut) and [`sockets`](Self::sockets).
    #[must_use]
    pub fn lend(&mut self) -> (&mut S, Sockets<'_, S>) {
        self.hub.now = self.clock();
        (&mut self.state, Sockets { hub: &mut self.hub, registry: &self.registry })
    }

    /// The open connections, as callbacks have them.
    ///
    /// ```
    /// use ikisocket::Server;
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.sockets().broadcast("tick"); // written when the next `poll` begins, or at `flush`
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn sockets(&mut self) -> Sockets<'_, S> {
        self.lend().1
    }

    /// The context that callbacks are called with.
    #[inline]
    fn context(&mut self) -> Context<'_, S> {
        Context { state: &mut self.state, hub: &mut self.hub, registry: &self.registry }
    }

    /// The server's figures: connections, messages and bytes, and what was refused and why. The
    /// call looks at every connection.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.registry.add_panics(self.hub.stats())
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The state, mutably.
    #[must_use]
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Returns the state and closes all connections at once.
    pub fn into_state(self) -> S {
        self.state
    }
}

/// The descriptor of the poll, to be watched by another loop: it is readable when something has
/// happened here. Do not read from it; call [`poll`](Server::poll) with [`Duration::ZERO`]. See the
/// manual's section "In another loop".
#[cfg(unix)]
impl<S> AsFd for Server<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

/// The same as with [`AsFd`].
#[cfg(unix)]
impl<S> AsRawFd for Server<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
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
