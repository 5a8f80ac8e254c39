//! Calling user code: which listeners run, with what, and what happens when one panics.
//!
//! Each callback is called on its own under `catch_unwind`. Only `fire` gets here from inside a
//! callback. Everything else that happens there is recorded by the hub, and fires when the
//! outermost callback has returned (`drain_notifications`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use uuid::Uuid;

use super::registry::{
    Callback, CaughtPanic, EventPayload, Listener, Registry, Socket, Sockets, Task,
};
use super::tables::sources::Readiness;
use super::tables::timers::TimerId;
#[cfg(feature = "redis")]
use crate::bus::Node;
use crate::bus::{Answer, BusEvent};
use crate::error::{Error, Escaped};
use crate::event::{Event, is_reserved};
use crate::hub::{Hub, Notification, discard_payload, message_of};
use crate::protocol::{CloseCode, Message, Payload};
use crate::token::{ConnectionId, Token};

/// The most levels of listeners that fire events whose listeners fire events.
const MAX_DEPTH: u32 = 64;

/// The details of an event beside its name and connection.
#[derive(Clone, Copy)]
struct Details<'a> {
    data: Payload<'a>,
    error: Option<&'a Error>,
    code: Option<CloseCode>,
    reason: &'a str,
    clean: bool,
    bytes_dropped: usize,
}

impl Details<'_> {
    /// The details of events that have none.
    const NONE: Self = Self {
        data: Payload::Binary(&[]),
        error: None,
        code: None,
        reason: "",
        clean: false,
        bytes_dropped: 0,
    };
}

/// The number of an event's listeners that have been called, and the first panic among them.
#[derive(Default)]
struct Called {
    count: usize,
    panicked: Option<Error>,
}

/// What user code is called with: the state, the connections, and what is registered.
pub(crate) struct Context<'a, S> {
    pub(crate) state: &'a mut S,
    pub(crate) hub: &'a mut Hub,
    pub(crate) registry: &'a Registry<S>,
}

impl<S> Context<'_, S> {
    /// The state and the open connections, both to use at once.
    pub(crate) fn lend(&mut self) -> (&mut S, Sockets<'_, S>) {
        (self.state, Sockets { hub: self.hub, registry: self.registry })
    }

    /// Calls the listeners of a custom event on one connection; returns how many ran.
    pub(crate) fn fire(&mut self, token: Token, event: &str, data: Payload<'_>) -> usize {
        let too_deep = self.hub.depth >= MAX_DEPTH;
        if too_deep || is_reserved(event) {
            let depth = too_deep.then_some(MAX_DEPTH);
            self.hub.verb_failed(
                token,
                Error::FireRefused { event: event.to_owned(), depth },
                String::new(),
            );
            return 0;
        }
        let Some(connection) = self.hub.get(token) else { return 0 };
        let route = &self.registry.routes[connection.route as usize];
        let listeners =
            [self.registry.listeners.of_custom(event), route.listeners.of_custom(event)];
        let details = Details { data, ..Details::NONE };
        self.call(token, event, listeners, Called::default(), details)
    }

    /// Calls the callback of a connection's route, and fires `connect` unless it closed the
    /// connection.
    pub(crate) fn opened(&mut self, token: Token) {
        let Some(connection) = self.hub.get(token) else { return };
        let entry = &self.registry.routes[connection.route as usize];
        let result = self.guard("route", Some(token), |context| {
            let Context { state, hub, registry } = context;
            (entry.callback)(state, &mut Socket { hub, registry, token });
        });
        if let Err(error) = result
            && self.hub.is_open(token)
        {
            self.hub.fail(token, error);
        }
        if entry.forget_request
            && let Some(connection) = self.hub.get_mut(token)
        {
            connection.request = None;
        }
        if self.hub.is_open(token) {
            self.notify(token, Event::Connect, Details::NONE);
        }
        self.drain_notifications();
    }

    /// Fires `message` for each whole message at the front of `input`, as long as no other event
    /// has to fire between two of them and the turn's work is less than `until`.
    ///
    /// One guard serves all of them, and the listeners are looked up once. Doing both for each
    /// message took 86 of an echo's 457 instructions, with 16 in flight.
    #[inline]
    pub(crate) fn messages(&mut self, token: Token, input: &mut &mut [u8], until: usize) {
        const NAME: &str = Event::Message.name();
        let Some(route) = self.hub.route_of_open(token) else { return };
        let listeners = self.registry.listeners_of(route, Event::Message);
        let [servers, routes] = listeners;
        // The message that listeners are called with, and how many were called: a panic ends the
        // guard.
        let (mut details, mut called) = (Details::NONE, 0);
        let result = self.catch(|context| {
            while let Some((message, uuid)) = context.hub.next_message(token, input) {
                details.data = message;
                servers.iter().chain(routes).for_each(|listener| {
                    // The previous listener may have changed it.
                    let uuid = if called == 0 { uuid } else { context.uuid(token) };
                    called += 1;
                    context.tell(listener, (token, uuid), NAME, details);
                });
                called = 0;
                if context.hub.has_notifications() || context.hub.work >= until {
                    break;
                }
            }
        });
        if let Err(panic) = result {
            if called == 0 {
                // No listener ran, so the panic is not in user code.
                resume_unwind(panic);
            }
            let panicked = Some(self.caught(NAME, Some(token), panic));
            self.call(token, NAME, listeners, Called { count: called, panicked }, details);
        }
    }

    /// Fires `message` for a message that arrived in pieces or compressed.
    #[cold]
    pub(crate) fn message(&mut self, token: Token, message: &Message<'_>) {
        self.notify(token, Event::Message, Details { data: message.payload(), ..Details::NONE });
    }

    /// Fires `ping` or `pong`.
    #[cold]
    pub(crate) fn control(&mut self, token: Token, event: Event, data: &[u8]) {
        self.notify(token, event, Details { data: Payload::Binary(data), ..Details::NONE });
    }

    /// Calls the callback of the next due timer, unless it was set after `newest`; returns whether
    /// there was one.
    pub(crate) fn timer(&mut self, newest: TimerId) -> bool {
        let Some((id, callback)) = self.registry.schedule.take_due(self.hub.now, newest) else {
            return false;
        };
        match callback {
            Callback::Once(callback) => {
                let _ = self.guard("timer", None, |context| {
                    let (state, mut sockets) = context.lend();
                    callback(state, &mut sockets);
                });
            }
            Callback::Repeated(mut callback) => {
                let _ = self.guard("timer", None, |context| {
                    let (state, mut sockets) = context.lend();
                    callback(state, &mut sockets);
                });
                // If the interval has cancelled itself, its callback is dropped here, which is user
                // code too.
                let _ = self.guard("timer", None, |context| {
                    context.registry.schedule.put_back(
                        id,
                        context.hub.now,
                        Callback::Repeated(callback),
                    );
                });
            }
        }
        self.drain_notifications();
        true
    }

    /// Calls the callback of one of the user's own sources; returns whether the source was there.
    pub(crate) fn source(&mut self, readiness: Readiness) -> bool {
        let Some(mut watched) = self.registry.sources.take(readiness.id) else { return false };
        let _ = self.guard("source", None, |context| {
            let (state, mut sockets) = context.lend();
            watched.ready(state, &mut sockets, readiness);
        });
        // If the source was removed meanwhile, it is dropped here, which is user code too.
        let _ = self.guard("source", None, |context| {
            context
                .registry
                .sources
                .put_back(readiness.id, watched)
                .raise(&context.registry.panics);
        });
        self.drain_notifications();
        true
    }

    /// Calls the handler of the bus.
    pub(crate) fn bus_event(&mut self, event: &BusEvent) {
        #[cfg(feature = "redis")]
        if let BusEvent::Down { .. } = event {
            self.give_up_nodes(None);
        }
        let Some(handler) = &self.registry.on_bus else { return };
        let _ = self.guard("on_bus", None, |context| {
            let (state, mut sockets) = context.lend();
            handler(state, &mut sockets, event);
        });
        self.drain_notifications();
    }

    /// Adds the answer of another loop to a question, and calls the callback if none is missing.
    pub(crate) fn answered(&mut self, query: u64, from: u16, answer: Answer) {
        if self.registry.queries.add(query, from, |found| found.add(from, answer)) {
            let (state, mut sockets) = self.lend();
            sockets.end_query(state, query);
            self.drain_notifications();
        }
    }

    /// Waits no more for the answers of this server, which has left. Without a number it waits for
    /// no server: the bus is down, and a part of each answer may be lost.
    #[cfg(feature = "redis")]
    pub(crate) fn give_up_nodes(&mut self, node: Option<u64>) {
        let mut over = self.registry.queries.give_up_nodes(node, |found, nodes| {
            found.missing_nodes.extend(nodes.into_iter().map(Node));
        });
        over.sort_unstable();
        for query in over {
            let (state, mut sockets) = self.lend();
            sockets.end_query(state, query);
            self.drain_notifications();
        }
    }

    /// Adds the answer of another server, or a part of it, and calls the callback if none is
    /// missing.
    #[cfg(feature = "redis")]
    pub(crate) fn answered_by_node(
        &mut self,
        query: u64,
        node: u64,
        is_last: bool,
        is_complete: bool,
        answer: Answer,
    ) {
        let is_over = self.registry.queries.add_node(query, node, is_last, |found| {
            found.add_node(Node(node), is_complete, answer);
        });
        if is_over {
            let (state, mut sockets) = self.lend();
            sockets.end_query(state, query);
            self.drain_notifications();
        }
    }

    /// Runs a task that another thread has sent.
    pub(crate) fn command(&mut self, task: Task<S>) {
        let _ = self.guard("command", None, |context| {
            let (state, mut sockets) = context.lend();
            task(state, &mut sockets);
        });
        self.drain_notifications();
    }

    /// Fires the recorded notifications in order, also those recorded meanwhile; returns whether
    /// there were any.
    #[inline]
    pub(crate) fn drain_notifications(&mut self) -> bool {
        let mut any = false;
        while let Some((token, notification)) = self.hub.next_notification() {
            self.fire_recorded(token, &notification);
            any = true;
        }
        any
    }

    #[cold]
    fn fire_recorded(&mut self, token: Token, notification: &Notification) {
        let usual = Details::NONE;
        let (event, details) = match notification {
            Notification::Pressure => (Event::Pressure, usual),
            Notification::Relief => (Event::Relief, usual),
            Notification::Close { code, reason } => {
                (Event::Close, Details { code: Some(*code), reason, ..usual })
            }
            Notification::Error { error, data } => return self.fire_error(token, error, data),
            Notification::Disconnect { failed, error, code, reason, clean, dropped } => {
                if let (true, Some(error)) = (failed, error) {
                    self.fire_error(token, error, "");
                }
                let (error, code, clean, bytes_dropped) = (error.as_ref(), *code, *clean, *dropped);
                (Event::Disconnect, Details { error, code, reason, clean, bytes_dropped, ..usual })
            }
        };
        self.notify(token, event, details);
    }

    fn fire_error(&mut self, token: Token, error: &Error, data: &str) {
        let details = Details { error: Some(error), data: Payload::Text(data), ..Details::NONE };
        self.hub.in_error_listener = true;
        self.notify(token, Event::Error, details);
        self.hub.in_error_listener = false;
    }

    /// Fires a built-in event on a connection, if it is still there.
    fn notify(&mut self, token: Token, event: Event, details: Details<'_>) {
        let Some(connection) = self.hub.get(token) else { return };
        let listeners = self.registry.listeners_of(connection.route, event);
        // Most events have none.
        if listeners.iter().any(|each| !each.is_empty()) {
            self.call(token, event.name(), listeners, Called::default(), details);
        }
    }

    /// Calls the server's listeners, then the route's, after the first `called` of them; returns
    /// how many there are in all.
    fn call(
        &mut self,
        token: Token,
        name: &str,
        [servers, routes]: [&[Listener<S>]; 2],
        Called { mut count, mut panicked }: Called,
        details: Details<'_>,
    ) -> usize {
        let all = servers.len() + routes.len();
        while count < all {
            let result = self.guard(name, Some(token), |context| {
                servers.iter().chain(routes).skip(count).for_each(|listener| {
                    count += 1;
                    context.tell(listener, (token, context.uuid(token)), name, details);
                });
            });
            if let Err(error) = result {
                panicked.get_or_insert(error);
            }
        }
        if let Some(error) = panicked {
            // A connection that is no longer open cannot fail any more.
            if self.hub.is_open(token) && name != Event::Error.name() {
                self.hub.fail(token, error);
            }
        }
        all
    }

    /// The uuid that a connection has now.
    fn uuid(&self, token: Token) -> Uuid {
        self.hub.get(token).map_or(Uuid::nil(), |connection| connection.uuid)
    }

    /// Calls one listener.
    #[inline]
    fn tell(
        &mut self,
        listener: &Listener<S>,
        (token, socket_uuid): (Token, Uuid),
        name: &str,
        details: Details<'_>,
    ) {
        let Self { state, hub, registry } = self;
        let Details { data, error, code, reason, clean, bytes_dropped } = details;
        let mut payload = EventPayload {
            kws: Socket { hub, registry, token },
            name,
            id: ConnectionId(token),
            socket_uuid,
            error,
            data,
            code,
            reason,
            clean,
            bytes_dropped,
        };
        listener(state, &mut payload);
    }

    /// Runs one piece of user code, one level deeper than what runs already. A panic is caught,
    /// handed to the panic handler, and returned.
    #[inline]
    pub(crate) fn guard<R>(
        &mut self,
        event: &str,
        on: Option<Token>,
        code: impl FnOnce(&mut Self) -> R,
    ) -> Result<R, Error> {
        self.catch(code).map_err(|panic| self.caught(event, on, panic))
    }

    /// Runs code one level deeper than what runs already, and catches its panic.
    #[inline]
    fn catch<R>(&mut self, code: impl FnOnce(&mut Self) -> R) -> thread::Result<R> {
        self.hub.depth += 1;
        // The state may be left half-changed, as after any panic that is caught. The panic handler,
        // which gets the state, has to judge that.
        let result = catch_unwind(AssertUnwindSafe(|| code(self)));
        self.hub.depth -= 1;
        result
    }

    /// Hands a panic to the panic handler; returns it as an error.
    #[cold]
    fn caught(&mut self, event: &str, on: Option<Token>, panic: Box<dyn Any + Send>) -> Error {
        let uuid = on.and_then(|token| self.hub.get(token)).map(|connection| connection.uuid);
        let caught = CaughtPanic { event: event.to_owned(), message: message_of(&*panic), uuid };
        self.report_panic(&caught);
        discard_payload(panic);
        Error::Panicked { event: caught.event, message: caught.message }
    }

    /// Calls the panic handler.
    #[cold]
    fn report_panic(&mut self, caught: &CaughtPanic) {
        let registry = self.registry;
        registry.panics.set(registry.panics.get() + 1);
        #[cfg(feature = "testing")]
        registry.hand_over(caught);
        log::error!(
            "a callback of `{}` panicked: {}",
            Escaped(&caught.event),
            Escaped(&caught.message)
        );
        let Some(handler) = &registry.on_panic else { return };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| handler(self.state, caught))) {
            log::error!("the panic handler panicked too");
            #[cfg(feature = "testing")]
            registry.hand_over(&CaughtPanic {
                event: "on_panic".to_owned(),
                message: message_of(&*payload),
                ..*caught
            });
            discard_payload(payload);
        }
    }
}
