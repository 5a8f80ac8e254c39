//! The types that refer to each other: what callbacks get, the callbacks themselves, and the
//! registry of a server. Most of their methods are in other files.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "testing")]
use std::{cell::RefCell, rc::Rc};

use mio::event::Source;
use uuid::Uuid;

use super::tables::inbox::{Inbox, Sender};
use super::tables::listeners::Listeners;
use super::tables::queries::Queries;
use super::tables::sources::{Readiness, Sources, Watch};
use super::tables::timers::Schedule;
use crate::bus::{BusEvent, LoopSet, Node};
use crate::config::{Builder, SlowReader};
use crate::error::Error;
use crate::event::Event;
use crate::http::{ParamNames, Request, Response, Routes};
use crate::hub::{Attributes, Discarded, Hub, Stats, Ticket};
#[cfg(feature = "deflate")]
use crate::outbox::Deflate;
use crate::protocol::{CloseCode, Payload};
use crate::token::{ConnectionId, Token};
use crate::transport::PeerAddress;
#[cfg(feature = "_tls")]
use crate::transport::tls::TlsInfo;

/// The open connections of a server.
pub struct Sockets<'a, S> {
    pub(crate) hub: &'a mut Hub,
    pub(crate) registry: &'a Registry<S>,
}

/// One connection.
///
/// A callback may get a connection that has closed meanwhile. Its state can still be read; emits
/// are refused.
pub struct Socket<'a, S> {
    pub(crate) hub: &'a mut Hub,
    pub(crate) registry: &'a Registry<S>,
    pub(crate) token: Token,
}

/// The argument of a listener: which event fired, on which connection, with which data.
#[non_exhaustive]
pub struct EventPayload<'a, S> {
    /// The connection.
    pub kws: Socket<'a, S>,
    /// The event's name.
    pub name: &'a str,
    /// The connection's id: see [`ConnectionId`].
    pub id: ConnectionId,
    /// The connection's uuid at the time of the call; it is set in `disconnect` too. By then
    /// another connection may have the same uuid: a uuid is free as soon as its connection closes.
    pub socket_uuid: Uuid,
    /// The failure, in `error` and perhaps in `disconnect`.
    pub error: Option<&'a Error>,
    /// The message with its kind, or the payload of a ping, pong or custom event. In an `error`
    /// about a recipient that is not open ([`Error::Gone`]): its uuid or id as text. Otherwise
    /// empty.
    pub data: Payload<'a>,
    /// The close code, in `close` and `disconnect`, of the side that closed first. If a failure
    /// ended the connection, it is the code that the server sent to the peer.
    pub code: Option<CloseCode>,
    /// The reason that came with `code`.
    pub reason: &'a str,
    /// In `disconnect`: whether both sides sent a close frame.
    pub clean: bool,
    /// In `disconnect`: the number of bytes that were queued for the peer and dropped by then,
    /// frame headers included; 0 in other events.
    ///
    /// Bytes that the kernel had taken are not counted, whether or not the peer has read them. If a
    /// failure is reported to the peer in a close frame, waiting bytes are still written after the
    /// event. If that is cut short, only [`Stats::bytes_dropped`](crate::Stats::bytes_dropped)
    /// counts them.
    pub bytes_dropped: usize,
}

impl<S> EventPayload<'_, S> {
    /// The connection's attributes; they can be read in `disconnect` too.
    #[must_use]
    pub fn socket_attributes(&self) -> &Attributes {
        self.kws.attributes()
    }
}

impl<S> fmt::Debug for EventPayload<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPayload")
            .field("name", &self.name)
            .field("id", &self.id)
            .field("socket_uuid", &self.socket_uuid)
            .field("error", &self.error)
            .field("data", &self.data)
            .field("code", &self.code)
            .field("reason", &self.reason)
            .field("clean", &self.clean)
            .field("bytes_dropped", &self.bytes_dropped)
            .finish_non_exhaustive()
    }
}

/// A listener. The state is lent to it, and it may not have mutable state of its own.
pub(crate) type Listener<S> = Box<dyn Fn(&mut S, &mut EventPayload<'_, S>)>;

/// A request before it is answered, as filters and pages see it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Incoming {
    /// The results of filters; the connection has these attributes from the start.
    pub attributes: Attributes,
    pub(crate) request: Request,
    pub(crate) peer: PeerAddress,
    #[cfg(feature = "_tls")]
    pub(crate) tls: Option<Box<TlsInfo>>,
    pub(crate) token: Token,
    /// Set when a filter has deferred the answer.
    pub(crate) ticket: Option<Ticket>,
}

impl Incoming {
    /// The whole request.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The peer's address. Behind a reverse proxy this is the proxy's.
    #[must_use]
    pub fn peer_address(&self) -> PeerAddress {
        self.peer
    }

    /// What was agreed on in the TLS handshake, and the client's certificates if it has shown any;
    /// `None` if the connection is plain. It needs the feature `tls`. Later it is
    /// [`Socket::tls`].
    #[cfg(feature = "_tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_deref()
    }

    /// The method: GET or HEAD for a page, GET for an upgrade.
    #[must_use]
    pub fn method(&self) -> &str {
        self.request.method()
    }

    /// The path as it was sent: [`Request::path`].
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// The value of a `:name` or `*name` of the pattern, percent-decoded: [`Request::param`].
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.request.param(name)
    }

    /// The last value of a query parameter, decoded: [`Request::query`].
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.query(name)
    }

    /// The first value of a header, its name in any case: [`Request::header`].
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.header(name)
    }

    /// The value of a cookie, percent-decoded: [`Request::cookie`].
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.cookie(name)
    }
}

/// The panics that a harness has not been asked for yet.
#[cfg(feature = "testing")]
pub(crate) type Caught = Rc<RefCell<Vec<CaughtPanic>>>;

/// A caught panic, as the panic handler gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaughtPanic {
    /// The code that panicked: an event's name, or `route`, `filter` (also for its deferred
    /// answer), `page`, `timer`, `source`, `command`, `on_bus`, or `everywhere` for the callback of
    /// a question to all loops.
    pub event: String,
    /// The panic's message, if it was a string.
    pub message: String,
    /// The connection on which it happened; `None` for code that belongs to no connection.
    pub uuid: Option<Uuid>,
}

pub(crate) type RouteCallback<S> = Box<dyn Fn(&mut S, &mut Socket<'_, S>)>;

pub(crate) type Page<S> = Box<dyn Fn(&mut S, &mut Sockets<'_, S>, &Incoming) -> Response>;

pub(crate) type Filter<S> =
    Box<dyn Fn(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response>>;

pub(crate) type PanicHandler<S> = Box<dyn Fn(&mut S, &CaughtPanic)>;

pub(crate) type BusHandler<S> = Box<dyn Fn(&mut S, &mut Sockets<'_, S>, &BusEvent)>;

/// What is called with the answers of all loops.
pub(crate) type Asker<S> = Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>, Found)>;

/// The answers of the loops to a question so far.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) count: usize,
    pub(crate) uuids: Vec<Uuid>,
    pub(crate) stats: Vec<(usize, Stats)>,
    /// The loops that could not be asked, and in the end those that did not answer.
    pub(crate) missing: LoopSet,
    /// The same for other servers.
    pub(crate) missing_nodes: Vec<Node>,
}

/// One WebSocket route.
pub(crate) struct RouteEntry<S> {
    pub(crate) callback: RouteCallback<S>,
    pub(crate) listeners: Listeners<Listener<S>>,
    /// The route's own filters; the server's run first.
    pub(crate) filters: Vec<Filter<S>>,
    pub(crate) policy: Policy,
    pub(crate) forget_request: bool,
}

/// Which upgrades a route accepts, and how their connections are treated. Each route has its own
/// copy of the server's policy and may change it.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(crate) subprotocols: Vec<String>,
    pub(crate) origins: Vec<String>,
    pub(crate) slow_reader: SlowReader,
    /// `None`: every offer of compression is declined.
    #[cfg(feature = "deflate")]
    pub(crate) deflate: Option<Deflate>,
}

/// The route and the page at a path.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) route: Option<(u32, ParamNames)>,
    pub(crate) page: Option<(usize, ParamNames)>,
}

type Once<S> = Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>)>;

type Repeated<S> = Box<dyn FnMut(&mut S, &mut Sockets<'_, S>)>;

/// What a timer calls.
pub(crate) enum Callback<S> {
    Once(Once<S>),
    Repeated(Repeated<S>),
}

/// What a handle sends.
pub(crate) type Task<S> = Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>) + Send>;

/// What another thread asks the loop for.
pub(crate) enum Command<S> {
    Run(Task<S>),
    Answer(Answer<S>),
    StopListening,
}

/// The effect of an answer on the loop: the rest of the filter that deferred the request.
pub(crate) type Continuation<S> =
    Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response> + Send>;

/// The answer to one deferred request, on its way to the loop.
pub(crate) struct Answer<S> {
    pub(crate) token: Token,
    /// It answers the request with this ticket, and no other of that connection.
    pub(crate) waits: Arc<AtomicBool>,
    /// `None` if the `Deferred` was dropped without an answer.
    pub(crate) go_on: Option<Continuation<S>>,
}

/// A source with its callback, whatever its type.
pub(crate) trait Watched<S>: Watch {
    fn ready(&mut self, state: &mut S, sockets: &mut Sockets<'_, S>, readiness: Readiness);
}

pub(super) struct SourceWithCallback<E, F> {
    pub(super) source: E,
    pub(super) callback: F,
}

impl<S, E, F> Watched<S> for SourceWithCallback<E, F>
where
    E: Source,
    F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness),
{
    fn ready(&mut self, state: &mut S, sockets: &mut Sockets<'_, S>, readiness: Readiness) {
        (self.callback)(state, sockets, &mut self.source, readiness);
    }
}

impl<E: Source, F> Watch for SourceWithCallback<E, F> {
    fn source(&mut self) -> &mut dyn Source {
        &mut self.source
    }

    fn discard(self: Box<Self>, discarded: &mut Discarded) {
        let Self { source, callback } = *self;
        discarded.drop(source);
        discarded.drop(callback);
    }
}

/// Runs code on a server's loop, from any thread: clone it for each thread. Its one primitive is
/// [`send`](Self::send); the other methods are short forms of it. It is [`Send`] and [`Sync`]
/// whatever the state is, because only closures cross the threads.
///
/// A command waits in a queue ([`Builder::handle_queue`](crate::Builder::handle_queue)) until the
/// loop turns. The commands of one thread run in the order in which it sent them, each of them at
/// most once. Many commands wake the loop once. An unused handle costs the loop nothing.
///
/// ```
/// use std::time::Duration;
/// use ikisocket::{SendError, Server, Shutdown};
///
/// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
/// let handle = server.handle();
/// let worker = std::thread::spawn(move || {
///     for price in 0..100u64 {
///         handle.send(move |latest, sockets| {
///             *latest = price;
///             sockets.broadcast(format!("{price}"));
///         })?;
///     }
///     handle.shutdown(Shutdown::default())
/// });
/// server.run()?;
/// assert_eq!(*server.state(), 99);
/// worker.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handle<S> {
    pub(super) sender: Sender<Command<S>>,
}

pub(crate) struct Registry<S> {
    pub(crate) listeners: Listeners<Listener<S>>,
    pub(crate) places: Routes<Place>,
    pub(crate) routes: Vec<RouteEntry<S>>,
    pub(crate) pages: Vec<Page<S>>,
    pub(crate) filters: Vec<Filter<S>>,
    pub(crate) on_panic: Option<PanicHandler<S>>,
    pub(crate) on_bus: Option<BusHandler<S>>,
    /// The loops of the process, this one included, if there are several and all are built.
    pub(crate) loops: OnceCell<Arc<[Handle<S>]>>,
    /// Questions to other loops.
    pub(crate) queries: Queries<Asker<S>, Found>,
    pub(crate) schedule: Schedule<Callback<S>>,
    pub(crate) inbox: Inbox<Command<S>>,
    pub(crate) sources: Sources<dyn Watched<S>>,
    /// Panics that were caught.
    pub(crate) panics: Cell<u64>,
    /// The same panics for a harness, which takes them.
    #[cfg(feature = "testing")]
    pub(crate) caught: Option<Caught>,
    /// The policy that new routes start with.
    pub(super) policy: Policy,
    /// The limit at which policies for slow readers act.
    pub(super) max_outbox: usize,
}

impl<S> Registry<S> {
    /// The poll and its waker are those of the loop that these callbacks will run on.
    pub(crate) fn new(settings: &Builder, poll: mio::Registry, waker: Arc<mio::Waker>) -> Self {
        Self {
            listeners: Listeners::default(),
            places: Routes::default(),
            routes: Vec::new(),
            pages: Vec::new(),
            filters: Vec::new(),
            on_panic: None,
            on_bus: None,
            loops: OnceCell::new(),
            queries: Queries::default(),
            schedule: Schedule::default(),
            inbox: Inbox::new(waker, settings.handle_queue),
            sources: Sources::new(poll),
            panics: Cell::new(0),
            #[cfg(feature = "testing")]
            caught: None,
            policy: Policy {
                subprotocols: settings.subprotocols.clone(),
                origins: settings.origins.clone(),
                slow_reader: settings.slow_reader,
                #[cfg(feature = "deflate")]
                deflate: settings.deflate,
            },
            max_outbox: settings.max_outbox,
        }
    }

    /// The listeners of an event on connections of a route: the server's, then the route's.
    #[inline]
    pub(crate) fn listeners_of(&self, route: u32, event: Event) -> [&[Listener<S>]; 2] {
        [self.listeners.of(event), self.routes[route as usize].listeners.of(event)]
    }

    /// Adds the panics that were caught here to those that the hub has counted.
    pub(crate) fn add_panics(&self, stats: Stats) -> Stats {
        Stats { panics: stats.panics + self.panics.get(), ..stats }
    }

    /// Drops pieces of user data that are no longer needed; panics of their destructors are
    /// counted.
    pub(crate) fn discard<T>(&self, values: impl IntoIterator<Item = T>) {
        let mut discarded = Discarded::default();
        discarded.drop_all(values);
        self.count_panics(discarded);
    }

    pub(crate) fn count_panics(&self, discarded: Discarded) {
        self.panics.set(self.panics.get() + discarded.count());
    }

    /// Hands a panic over to the harness, if there is one.
    #[cfg(feature = "testing")]
    pub(crate) fn hand_over(&self, panic: &CaughtPanic) {
        if let Some(caught) = &self.caught {
            caught.borrow_mut().push(panic.clone());
        }
    }
}

impl<S> Drop for Registry<S> {
    /// Each callback is dropped by itself, because it has captured user data. Timers, sources and
    /// the inbox drop theirs in the same way.
    fn drop(&mut self) {
        let mut discarded = Discarded::default();
        for RouteEntry { callback, listeners, filters, .. } in self.routes.drain(..) {
            discarded.drop(callback);
            discarded.drop_all(listeners);
            discarded.drop_all(filters);
        }
        discarded.drop_all(std::mem::take(&mut self.listeners));
        discarded.drop_all(self.pages.drain(..));
        discarded.drop_all(self.filters.drain(..));
        discarded.drop_all(self.on_panic.take());
        discarded.drop_all(self.on_bus.take());
        discarded.drop_all(self.queries.take_all());
        discarded.count(); // No server remains to count them.
    }
}
