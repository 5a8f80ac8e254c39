//! What user code has registered: listeners, routes, pages and filters, and which path leads where.

use std::cell::Cell;
#[cfg(feature = "testing")]
use std::{cell::RefCell, rc::Rc};

use uuid::Uuid;

use super::handle::Mailbox;
use super::listeners::{EventPayload, Listener, Listeners};
use super::schedule::Schedule;
use super::socket::{Socket, Sockets};
use super::source::Sources;
use crate::config::{Builder, SlowReader};
use crate::error::RouteError;
use crate::http::{ParamNames, Request, Response, Routes, check_origin, is_token};
use crate::hub::{Attributes, Discarded, Stats, Ticket};
use crate::outbox::Agreed;
#[cfg(feature = "deflate")]
use crate::outbox::Deflate;
use crate::token::Token;
use crate::transport::PeerAddress;

/// A request before it is answered: what filters and pages see. It derefs to [`Request`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Incoming {
    /// The request.
    pub request: Request,
    /// Where the peer is. Behind a reverse proxy this is the proxy.
    pub peer: PeerAddress,
    /// What filters have found out; the connection has these attributes from the start.
    pub attributes: Attributes,
    pub(crate) token: Token,
    /// A filter has put the answer off.
    pub(crate) ticket: Option<Ticket>,
}

impl std::ops::Deref for Incoming {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

/// The panics that a harness has not been asked for yet.
#[cfg(feature = "testing")]
pub(crate) type Caught = Rc<RefCell<Vec<Recovered>>>;

/// What the recover handler is told of a panic that was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// What panicked: an event's name, or `route`, `filter` (also when its answer was put off), `page`, `timer`, `source` or `command`.
    pub event: String,
    /// The panic's message, if it was a string.
    pub message: String,
    /// The connection that it happened on; `None` in what belongs to no connection.
    pub uuid: Option<Uuid>,
}

pub(crate) type RouteCallback<S> = Box<dyn Fn(&mut S, &mut Socket<'_, S>)>;
pub(crate) type Page<S> = Box<dyn Fn(&mut S, &mut Sockets<'_, S>, &Incoming) -> Response>;
pub(crate) type Filter<S> = Box<dyn Fn(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response>>;
pub(crate) type RecoverHandler<S> = Box<dyn Fn(&mut S, &Recovered)>;

/// One WebSocket route.
pub(crate) struct RouteEntry<S> {
    pub(crate) callback: RouteCallback<S>,
    pub(crate) listeners: Listeners<S>,
    pub(crate) subprotocols: Option<Vec<String>>,
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) forget_request: bool,
    pub(crate) slow_reader: Option<SlowReader>,
    /// `Some(None)`: not compressed, whatever the server's setting.
    #[cfg(feature = "deflate")]
    pub(crate) deflate: Option<Option<Deflate>>,
}

/// What is to be found at a path.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) route: Option<(u32, ParamNames)>,
    pub(crate) page: Option<(usize, ParamNames)>,
}

pub(crate) struct Registry<S> {
    pub(crate) listeners: Listeners<S>,
    pub(crate) places: Routes<Place>,
    pub(crate) routes: Vec<RouteEntry<S>>,
    pub(crate) pages: Vec<Page<S>>,
    pub(crate) filters: Vec<Filter<S>>,
    pub(crate) recover: Option<RecoverHandler<S>>,
    pub(crate) schedule: Schedule<S>,
    pub(crate) mailbox: Mailbox<S>,
    pub(crate) sources: Sources<S>,
    /// Panics that were caught.
    pub(crate) panics: Cell<u64>,
    /// The same for a harness, which asks for them.
    #[cfg(feature = "testing")]
    pub(crate) caught: Option<Caught>,
    subprotocols: Vec<String>,
    origins: Vec<String>,
    slow_reader: SlowReader,
    /// The limit that policies for slow readers act at.
    max_outbox: usize,
    #[cfg(feature = "deflate")]
    deflate: Option<Deflate>,
}

impl<S> Registry<S> {
    /// The poll and its waker are those of the loop that these callbacks will run on.
    pub(crate) fn new(settings: &Builder, poll: mio::Registry, waker: mio::Waker) -> Self {
        Self {
            listeners: Listeners::default(),
            places: Routes::default(),
            routes: Vec::new(),
            pages: Vec::new(),
            filters: Vec::new(),
            recover: None,
            schedule: Schedule::default(),
            mailbox: Mailbox::new(waker, settings.handle_queue),
            sources: Sources::new(poll),
            panics: Cell::new(0),
            #[cfg(feature = "testing")]
            caught: None,
            subprotocols: settings.subprotocols.clone(),
            origins: settings.origins.clone(),
            slow_reader: settings.slow_reader,
            max_outbox: settings.max_outbox,
            #[cfg(feature = "deflate")]
            deflate: settings.deflate,
        }
    }

    /// Adds the panics that were caught here to those that the hub has caught.
    pub(crate) fn add_panics(&self, stats: Stats) -> Stats {
        Stats { panics: stats.panics + self.panics.get(), ..stats }
    }

    /// Drops pieces of user data whose time is over; panics of their destructors are counted.
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
    pub(crate) fn hand_over(&self, panic: &Recovered) {
        if let Some(caught) = &self.caught {
            caught.borrow_mut().push(panic.clone());
        }
    }

    pub(crate) fn add_route(&mut self, pattern: &str, callback: RouteCallback<S>) -> Result<Route<'_, S>, RouteError> {
        let index = self.routes.len();
        let (place, names) = self.places.slot(pattern)?;
        if place.route.is_some() {
            return Err(RouteError::Duplicate { pattern: pattern.to_owned() });
        }
        place.route = Some((index as u32, names));
        self.routes.push(RouteEntry {
            callback,
            listeners: Listeners::default(),
            subprotocols: None,
            origins: None,
            forget_request: false,
            slow_reader: None,
            #[cfg(feature = "deflate")]
            deflate: None,
        });
        Ok(Route { entry: &mut self.routes[index], max_outbox: self.max_outbox })
    }

    pub(crate) fn add_page(&mut self, pattern: &str, page: Page<S>) -> Result<(), RouteError> {
        let (place, names) = self.places.slot(pattern)?;
        if place.page.is_some() {
            return Err(RouteError::Duplicate { pattern: pattern.to_owned() });
        }
        place.page = Some((self.pages.len(), names));
        self.pages.push(page);
        Ok(())
    }

    /// Removes an event's listeners, those of routes included; returns how many there were.
    pub(crate) fn off(&mut self, event: &str) -> usize {
        let mut removed = self.listeners.remove(event);
        for route in &mut self.routes {
            removed.append(&mut route.listeners.remove(event));
        }
        let count = removed.len();
        self.discard(removed);
        count
    }

    pub(crate) fn subprotocols(&self, route: u32) -> &[String] {
        self.routes[route as usize].subprotocols.as_deref().unwrap_or(&self.subprotocols)
    }

    /// What a request's offer of compression comes to: what the connection keeps, and the answer.
    #[cfg(feature = "deflate")]
    pub(crate) fn agree_on_compression(&self, route: u32, request: &Request) -> Option<(Agreed, String)> {
        self.routes[route as usize].deflate.unwrap_or(self.deflate)?.agree(request)
    }

    /// Every offer of compression is declined.
    #[cfg(not(feature = "deflate"))]
    pub(crate) fn agree_on_compression(&self, _: u32, _: &Request) -> Option<(Agreed, String)> {
        None
    }

    pub(crate) fn slow_reader(&self, route: u32) -> SlowReader {
        self.routes[route as usize].slow_reader.unwrap_or(self.slow_reader)
    }

    pub(crate) fn origins(&self, route: u32) -> &[String] {
        self.routes[route as usize].origins.as_deref().unwrap_or(&self.origins)
    }
}

impl<S> Drop for Registry<S> {
    /// Each callback is dropped by itself: what it has captured is user data. Timers, sources and
    /// the mailbox see to theirs.
    fn drop(&mut self) {
        let mut discarded = Discarded::default();
        for RouteEntry { callback, listeners, .. } in self.routes.drain(..) {
            discarded.drop(callback);
            discarded.drop_all(listeners);
        }
        discarded.drop_all(std::mem::take(&mut self.listeners));
        discarded.drop_all(self.pages.drain(..));
        discarded.drop_all(self.filters.drain(..));
        discarded.drop_all(self.recover.take());
        discarded.count(); // No server is left that counts them.
    }
}

/// A route that was just added, for what is its own.
///
/// ```
/// use ikisocket::{Event, Server};
///
/// let mut server = Server::bind("127.0.0.1:0", 0)?;
/// server
///     .route("/prices", |_, _| {})?
///     .subprotocols(["ticks-2", "ticks-1"])?
///     .origins(["https://example.org"])?
///     .forget_request()
///     .on(Event::Message, |count, _| *count += 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Route<'r, S> {
    entry: &'r mut RouteEntry<S>,
    max_outbox: usize,
}

impl<S> Route<'_, S> {
    /// Calls `listener` on an event of this route's connections, after the server's own listeners of that event.
    pub fn on<F>(self, event: impl AsRef<str>, listener: F) -> Self
    where
        F: Fn(&mut S, &mut EventPayload<'_, S>) + 'static,
    {
        let listener: Listener<S> = Box::new(listener);
        self.entry.listeners.add(event.as_ref(), listener);
        self
    }

    /// The subprotocols of this route, the best first, instead of the server's: [`Builder::subprotocols`].
    ///
    /// # Errors
    ///
    /// [`RouteError::Subprotocol`] if a name cannot stand in a header; then the route keeps what it had.
    pub fn subprotocols<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Result<Self, RouteError> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if let Some(name) = names.iter().find(|name| !is_token(name)) {
            return Err(RouteError::Subprotocol { name: name.clone() });
        }
        self.entry.subprotocols = Some(names);
        Ok(self)
    }

    /// The web pages that may connect to this route, instead of the server's: [`Builder::origins`].
    ///
    /// # Errors
    ///
    /// [`RouteError::Origin`] if one is written as no browser would; then the route keeps what it had.
    pub fn origins<N: Into<String>>(self, origins: impl IntoIterator<Item = N>) -> Result<Self, RouteError> {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        for origin in &origins {
            check_origin(origin).map_err(|error| RouteError::Origin { origin: origin.clone(), error })?;
        }
        self.entry.origins = Some(origins);
        Ok(self)
    }

    /// Compression on this route, instead of the server's: [`Builder::deflate`]. `None` is none.
    ///
    /// # Errors
    ///
    /// [`RouteError::Setting`] if a setting is out of its range; then the route keeps what it had.
    #[cfg(feature = "deflate")]
    pub fn deflate(self, deflate: impl Into<Option<Deflate>>) -> Result<Self, RouteError> {
        let deflate = deflate.into();
        if let Some(Err((setting, expected))) = deflate.as_ref().map(Deflate::check) {
            return Err(RouteError::Setting { setting, expected });
        }
        self.entry.deflate = Some(deflate);
        Ok(self)
    }

    /// What happens to slow readers on this route, instead of the server's policy: [`Builder::slow_reader`].
    ///
    /// # Errors
    ///
    /// [`RouteError::Setting`] if the policy needs a limit and [`Builder::max_outbox`] is none; then the route keeps what it had.
    pub fn slow_reader(self, policy: SlowReader) -> Result<Self, RouteError> {
        if !policy.can_act_at(self.max_outbox) {
            let expected = "a limit that slow_reader can act at";
            return Err(RouteError::Setting { setting: "max_outbox", expected });
        }
        self.entry.slow_reader = Some(policy);
        Ok(self)
    }

    /// Drops each connection's request when the route callback has returned, to save its memory: from then on `request`, `param`,
    /// `query`, `header` and `cookie` answer `None`.
    pub fn forget_request(self) -> Self {
        self.entry.forget_request = true;
        self
    }
}

impl<S> std::fmt::Debug for Route<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}
