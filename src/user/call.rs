//! Calling user code: which listeners run, with what, and what happens when one panics.
//!
//! Only here are callbacks called, and each is called on its own under `catch_unwind`. Only `fire` gets here from inside a callback;
//! everything else that happens there is recorded by the hub and told by `tell_records` when the outermost callback has returned.

use std::panic::{AssertUnwindSafe, catch_unwind};

use uuid::Uuid;

use super::registry::{Callback, EventPayload, Listener, Recovered, Registry, Socket, Sockets, Task};
use super::tables::schedule::TimerId;
use super::tables::sources::Readiness;
use crate::error::{Error, Escaped};
use crate::event::{Event, is_reserved};
use crate::hub::{Hub, Record, discard_payload, message_of};
use crate::protocol::{CloseCode, Message, Payload};
use crate::token::Token;

/// Listeners that fire events whose listeners fire events, at most.
const MAX_DEPTH: u32 = 64;

/// What an event tells beside its name and connection.
#[derive(Clone, Copy, Default)]
struct Details<'a> {
    data: Payload<'a>,
    error: Option<&'a Error>,
    code: Option<CloseCode>,
    reason: &'a str,
    clean: bool,
    bytes_dropped: usize,
}

/// Calls the listeners of a custom event on one connection; returns how many ran.
pub(crate) fn fire<S>(
    state: &mut S,
    hub: &mut Hub,
    registry: &Registry<S>,
    token: Token,
    event: &str,
    data: Payload<'_>,
) -> usize {
    let too_deep = hub.depth >= MAX_DEPTH;
    if too_deep || is_reserved(event) {
        let depth = too_deep.then_some(MAX_DEPTH);
        hub.verb_failed(token, Error::FireRefused { event: event.to_owned(), depth }, String::new());
        return 0;
    }
    let Some(connection) = hub.get(token) else { return 0 };
    let (uuid, route) = (connection.uuid, &registry.routes[connection.route as usize]);
    let listeners = [registry.listeners.of_custom(event), route.listeners.of_custom(event)];
    call(state, hub, registry, (token, uuid), event, listeners, Details { data, ..Details::default() })
}

/// Runs a route's callback, and `connect` unless it closed the connection.
pub(crate) fn opened<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, token: Token, route: u32) {
    let entry = &registry.routes[route as usize];
    let uuid = hub.get(token).map(|connection| connection.uuid);
    let result = guard(state, hub, registry, "route", uuid, |state, hub| {
        (entry.callback)(state, &mut Socket { hub, registry, token });
    });
    if let Err(error) = result
        && hub.is_open(token)
    {
        hub.fail(token, error);
    }
    if entry.forget_request
        && let Some(connection) = hub.get_mut(token)
    {
        connection.request = None;
    }
    if hub.is_open(token) {
        tell(state, hub, registry, token, Event::Connect, Details::default());
    }
    tell_records(state, hub, registry);
}

/// Tells of a message.
pub(crate) fn message<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, token: Token, message: &Message<'_>) {
    tell(state, hub, registry, token, Event::Message, Details { data: message.payload(), ..Details::default() });
}

/// Tells of a ping or a pong.
#[cold]
pub(crate) fn control<S>(
    state: &mut S,
    hub: &mut Hub,
    registry: &Registry<S>,
    token: Token,
    event: Event,
    data: &[u8],
) {
    tell(state, hub, registry, token, event, Details { data: Payload::Binary(data), ..Details::default() });
}

/// Calls what the next timer that is due calls, unless it was set after `newest`; whether there was one.
pub(crate) fn timer<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, newest: TimerId) -> bool {
    let Some((id, callback)) = registry.schedule.take_due(hub.now, newest) else { return false };
    match callback {
        Callback::Once(callback) => {
            let _ = guard(state, hub, registry, "timer", None, |state, hub| {
                callback(state, &mut Sockets { hub, registry });
            });
        }
        Callback::Repeated(mut callback) => {
            let _ = guard(state, hub, registry, "timer", None, |state, hub| {
                callback(state, &mut Sockets { hub, registry });
            });
            // If it has cancelled itself it is dropped here, which is user code too.
            let _ = guard(state, hub, registry, "timer", None, |_, hub| {
                registry.schedule.put_back(id, hub.now, Callback::Repeated(callback));
            });
        }
    }
    tell_records(state, hub, registry);
    true
}

/// Calls the callback of one of the user's own sources; whether it was there.
pub(crate) fn source<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, readiness: Readiness) -> bool {
    let Some(mut watched) = registry.sources.take(readiness.id) else { return false };
    let _ = guard(state, hub, registry, "source", None, |state, hub| {
        watched.ready(state, &mut Sockets { hub, registry }, readiness);
    });
    // If it was removed meanwhile it is dropped here, which is user code too.
    let _ = guard(state, hub, registry, "source", None, |_, _| {
        registry.sources.put_back(readiness.id, watched).raise(&registry.panics);
    });
    tell_records(state, hub, registry);
    true
}

/// Does what another thread has sent.
pub(crate) fn command<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, task: Task<S>) {
    let _ = guard(state, hub, registry, "command", None, |state, hub| {
        task(state, &mut Sockets { hub, registry });
    });
    tell_records(state, hub, registry);
}

/// Tells what was recorded, in order, and what is recorded meanwhile; whether there was anything.
#[inline]
pub(crate) fn tell_records<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>) -> bool {
    let mut told = false;
    while let Some((token, record)) = hub.next_record() {
        tell_record(state, hub, registry, token, &record);
        told = true;
    }
    told
}

#[cold]
fn tell_record<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, token: Token, record: &Record) {
    let usual = Details::default();
    let (event, details) = match record {
        Record::Pressure => (Event::Pressure, usual),
        Record::Relief => (Event::Relief, usual),
        Record::Close { code, reason } => (Event::Close, Details { code: Some(*code), reason, ..usual }),
        Record::Error { error, data } => {
            (Event::Error, Details { error: Some(error), data: Payload::Text(data), ..usual })
        }
        Record::Disconnect { error, code, reason, clean, dropped } => {
            let (error, code, clean, bytes_dropped) = (error.as_ref(), *code, *clean, *dropped);
            (Event::Disconnect, Details { error, code, reason, clean, bytes_dropped, ..usual })
        }
    };
    hub.telling_error = event == Event::Error;
    tell(state, hub, registry, token, event, details);
    hub.telling_error = false;
}

/// Calls the listeners of a built-in event.
fn tell<S>(state: &mut S, hub: &mut Hub, registry: &Registry<S>, token: Token, event: Event, details: Details<'_>) {
    let Some(connection) = hub.get(token) else { return };
    let (uuid, route) = (connection.uuid, &registry.routes[connection.route as usize]);
    let listeners = [registry.listeners.of(event), route.listeners.of(event)];
    call(state, hub, registry, (token, uuid), event.name(), listeners, details);
}

/// Calls the server's listeners, then the route's; returns how many ran.
fn call<S>(
    state: &mut S,
    hub: &mut Hub,
    registry: &Registry<S>,
    (token, socket_uuid): (Token, Uuid),
    name: &str,
    [servers, routes]: [&[Listener<S>]; 2],
    Details { data, error, code, reason, clean, bytes_dropped }: Details<'_>,
) -> usize {
    let mut panicked = None;
    for listener in servers.iter().chain(routes) {
        let result = guard(state, hub, registry, name, Some(socket_uuid), |state, hub| {
            let kws = Socket { hub, registry, token };
            let mut payload = EventPayload { kws, name, socket_uuid, error, data, code, reason, clean, bytes_dropped };
            listener(state, &mut payload);
        });
        if let Err(error) = result {
            panicked.get_or_insert(error);
        }
    }
    if let Some(error) = panicked {
        // A connection that is past being open has nothing more to lose.
        if hub.is_open(token) && name != Event::Error.name() {
            hub.fail(token, error);
        }
    }
    servers.len() + routes.len()
}

/// Runs one piece of user code, one level deeper than what runs already; a panic is caught, told to the recover handler, and returned.
#[inline]
pub(crate) fn guard<S, R>(
    state: &mut S,
    hub: &mut Hub,
    registry: &Registry<S>,
    event: &str,
    uuid: Option<Uuid>,
    code: impl FnOnce(&mut S, &mut Hub) -> R,
) -> Result<R, Error> {
    hub.depth += 1;
    // The state may be left half-changed, as after any panic that is caught; that is for its owner to judge, in the recover handler.
    let result = catch_unwind(AssertUnwindSafe(|| code(state, hub)));
    hub.depth -= 1;
    result.map_err(|payload| {
        let recovered = Recovered { event: event.to_owned(), message: message_of(&*payload), uuid };
        tell_recover_handler(state, registry, &recovered);
        discard_payload(payload);
        Error::Panicked { event: recovered.event, message: recovered.message }
    })
}

#[cold]
fn tell_recover_handler<S>(state: &mut S, registry: &Registry<S>, recovered: &Recovered) {
    registry.panics.set(registry.panics.get() + 1);
    #[cfg(feature = "testing")]
    registry.hand_over(recovered);
    log::error!("a callback of `{}` panicked: {}", Escaped(&recovered.event), Escaped(&recovered.message));
    let Some(recover) = &registry.recover else { return };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| recover(state, recovered))) {
        log::error!("the recover handler panicked too");
        #[cfg(feature = "testing")]
        registry.hand_over(&Recovered { event: "recover".to_owned(), message: message_of(&*payload), ..*recovered });
        discard_payload(payload);
    }
}
