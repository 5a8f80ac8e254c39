//! Routes and pages: adding them, and the settings of one route.

use super::registry::{
    EventPayload, Incoming, Listener, Page, Policy, Registry, RouteCallback, RouteEntry, Sockets,
};
use super::tables::listeners::Listeners;
use crate::config::SlowReader;
use crate::error::RouteError;
use crate::http::{Request, Response, check_origin, is_token};
use crate::outbox::Agreed;
#[cfg(feature = "deflate")]
use crate::outbox::Deflate;

impl<S> Registry<S> {
    pub(crate) fn add_route(
        &mut self,
        pattern: &str,
        options: RouteOptions,
        callback: RouteCallback<S>,
    ) -> Result<Route<'_, S>, RouteError> {
        let forget_request = options.forget_request;
        let policy = options.over(&self.policy, self.max_outbox)?;
        let index = self.routes.len();
        let (place, names) = self.places.slot(pattern)?;
        if place.route.is_some() {
            return Err(RouteError::Duplicate { pattern: pattern.to_owned() });
        }
        place.route = Some((index as u32, names));
        let (listeners, filters) = (Listeners::default(), Vec::new());
        self.routes.push(RouteEntry { callback, listeners, filters, policy, forget_request });
        Ok(Route { entry: &mut self.routes[index] })
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
}

impl Policy {
    /// The result of a request's offer of compression: the connection's settings, and the answer.
    #[cfg(feature = "deflate")]
    pub(crate) fn agree_on_compression(&self, request: &Request) -> Option<(Agreed, String)> {
        self.deflate?.agree(request)
    }

    /// Every offer of compression is declined.
    #[cfg(not(feature = "deflate"))]
    pub(crate) fn agree_on_compression(&self, _: &Request) -> Option<(Agreed, String)> {
        None
    }
}

/// Settings of one route that replace the server's ([`Builder`](crate::Builder)). Settings that are
/// not made here are the server's. [`Server::route_with`](crate::Server::route_with) checks them.
///
/// ```
/// use ikisocket::{Event, RouteOptions, Server};
///
/// let mut server = Server::bind("127.0.0.1:0", 0)?;
/// let options = RouteOptions::default()
///     .subprotocols(["ticks-2", "ticks-1"])
///     .origins(["https://example.org"])
///     .forget_request();
/// server
///     .route_with("/prices", options, |_, _| {})?
///     .on(Event::Message, |count, _| *count += 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it is handed to `route_with`"]
pub struct RouteOptions {
    subprotocols: Option<Vec<String>>,
    origins: Option<Vec<String>>,
    slow_reader: Option<SlowReader>,
    /// `Some(None)`: no compression, whatever the server's setting.
    #[cfg(feature = "deflate")]
    deflate: Option<Option<Deflate>>,
    forget_request: bool,
}

impl RouteOptions {
    /// The subprotocols of this route, the best first, instead of the server's:
    /// [`Builder::subprotocols`](crate::Builder::subprotocols).
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.subprotocols = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The web pages that may connect to this route, instead of the server's:
    /// [`Builder::origins`](crate::Builder::origins).
    pub fn origins<N: Into<String>>(mut self, origins: impl IntoIterator<Item = N>) -> Self {
        self.origins = Some(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Compression on this route, instead of the server's:
    /// [`Builder::deflate`](crate::Builder::deflate). `None` turns it off.
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<Deflate>>) -> Self {
        self.deflate = Some(deflate.into());
        self
    }

    /// The policy for slow readers on this route, instead of the server's:
    /// [`Builder::slow_reader`](crate::Builder::slow_reader).
    pub fn slow_reader(mut self, policy: SlowReader) -> Self {
        self.slow_reader = Some(policy);
        self
    }

    /// Drops each connection's request when the route callback has returned, to save its memory.
    /// From then on `request`, `param`, `query`, `header` and `cookie` return `None`.
    pub fn forget_request(mut self) -> Self {
        self.forget_request = true;
        self
    }

    /// These settings, completed by the server's.
    fn over(self, server: &Policy, max_outbox: usize) -> Result<Policy, RouteError> {
        let mut policy = server.clone();
        if let Some(names) = self.subprotocols {
            if let Some(name) = names.iter().find(|name| !is_token(name)) {
                return Err(RouteError::Subprotocol { name: name.clone() });
            }
            policy.subprotocols = names;
        }
        if let Some(origins) = self.origins {
            for origin in &origins {
                check_origin(origin)
                    .map_err(|error| RouteError::Origin { origin: origin.clone(), error })?;
            }
            policy.origins = origins;
        }
        if let Some(slow_reader) = self.slow_reader {
            if !slow_reader.can_act_at(max_outbox) {
                let expected = "a limit that slow_reader can act at";
                return Err(RouteError::Setting { setting: "max_outbox", expected });
            }
            policy.slow_reader = slow_reader;
        }
        #[cfg(feature = "deflate")]
        if let Some(deflate) = self.deflate {
            if let Some(Err((setting, expected))) = deflate.as_ref().map(Deflate::check) {
                return Err(RouteError::Setting { setting, expected });
            }
            policy.deflate = deflate;
        }
        Ok(policy)
    }
}

/// A route that was just added. It takes listeners and filters of its own.
pub struct Route<'r, S> {
    entry: &'r mut RouteEntry<S>,
}

impl<S> Route<'_, S> {
    /// Calls `listener` when an event fires on one of this route's connections, after the server's
    /// own listeners of that event.
    pub fn on<F>(self, event: impl AsRef<str>, listener: F) -> Self
    where
        F: Fn(&mut S, &mut EventPayload<'_, S>) + 'static,
    {
        let listener: Listener<S> = Box::new(listener);
        self.entry.listeners.add(event.as_ref(), listener);
        self
    }

    /// Calls `filter` before each upgrade on this route, after the server's own filters
    /// ([`Server::filter`](crate::Server::filter)).
    ///
    /// ```
    /// use ikisocket::{Response, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.get("/health", |_, _, _| "fine")?; // without a login
    /// server.route("/chat", |_, _| {})?.filter(|_, _, incoming| {
    ///     let user = incoming.cookie("user").ok_or(Response::new(401))?.into_owned();
    ///     incoming.attributes.set("user", user);
    ///     Ok(())
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn filter<F>(self, filter: F) -> Self
    where
        F: Fn(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response> + 'static,
    {
        self.entry.filters.push(Box::new(filter));
        self
    }
}

impl<S> std::fmt::Debug for Route<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}
