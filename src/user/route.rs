//! Routes and pages: adding them, and what is a route's own.

use super::registry::{EventPayload, Listener, Page, Policy, Registry, RouteCallback, RouteEntry};
use super::tables::listeners::Listeners;
use crate::config::SlowReader;
use crate::error::RouteError;
use crate::http::{Request, check_origin, is_token};
use crate::outbox::Agreed;
#[cfg(feature = "deflate")]
use crate::outbox::Deflate;

impl<S> Registry<S> {
    pub(crate) fn add_route(
        &mut self,
        pattern: &str,
        callback: RouteCallback<S>,
    ) -> Result<Route<'_, S>, RouteError> {
        let index = self.routes.len();
        let (place, names) = self.places.slot(pattern)?;
        if place.route.is_some() {
            return Err(RouteError::Duplicate { pattern: pattern.to_owned() });
        }
        place.route = Some((index as u32, names));
        self.routes.push(RouteEntry {
            callback,
            listeners: Listeners::default(),
            policy: self.policy.clone(),
            forget_request: false,
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
}

impl Policy {
    /// What a request's offer of compression comes to: what the connection keeps, and the answer.
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
    /// Calls `listener` on an event of this route's connections, after the server's own listeners
    /// of that event.
    pub fn on<F>(self, event: impl AsRef<str>, listener: F) -> Self
    where
        F: Fn(&mut S, &mut EventPayload<'_, S>) + 'static,
    {
        let listener: Listener<S> = Box::new(listener);
        self.entry.listeners.add(event.as_ref(), listener);
        self
    }

    /// The subprotocols of this route, the best first, instead of the server's:
    /// [`Builder::subprotocols`](crate::Builder::subprotocols).
    ///
    /// # Errors
    ///
    /// [`RouteError::Subprotocol`] if a name cannot stand in a header; then the route keeps what it
    /// had.
    pub fn subprotocols<N: Into<String>>(
        self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, RouteError> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if let Some(name) = names.iter().find(|name| !is_token(name)) {
            return Err(RouteError::Subprotocol { name: name.clone() });
        }
        self.entry.policy.subprotocols = names;
        Ok(self)
    }

    /// The web pages that may connect to this route, instead of the server's:
    /// [`Builder::origins`](crate::Builder::origins).
    ///
    /// # Errors
    ///
    /// [`RouteError::Origin`] if one is written as no browser would; then the route keeps what it
    /// had.
    pub fn origins<N: Into<String>>(
        self,
        origins: impl IntoIterator<Item = N>,
    ) -> Result<Self, RouteError> {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        for origin in &origins {
            check_origin(origin)
                .map_err(|error| RouteError::Origin { origin: origin.clone(), error })?;
        }
        self.entry.policy.origins = origins;
        Ok(self)
    }

    /// Compression on this route, instead of the server's:
    /// [`Builder::deflate`](crate::Builder::deflate). `None` is none.
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
        self.entry.policy.deflate = deflate;
        Ok(self)
    }

    /// What happens to slow readers on this route, instead of the server's policy:
    /// [`Builder::slow_reader`](crate::Builder::slow_reader).
    ///
    /// # Errors
    ///
    /// [`RouteError::Setting`] if the policy needs a limit and
    /// [`Builder::max_outbox`](crate::Builder::max_outbox) is none; then the route keeps what it
    /// had.
    pub fn slow_reader(self, policy: SlowReader) -> Result<Self, RouteError> {
        if !policy.can_act_at(self.max_outbox) {
            let expected = "a limit that slow_reader can act at";
            return Err(RouteError::Setting { setting: "max_outbox", expected });
        }
        self.entry.policy.slow_reader = policy;
        Ok(self)
    }

    /// Drops each connection's request when the route callback has returned, to save its memory:
    /// from then on `request`, `param`, `query`, `header` and `cookie` answer `None`.
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
