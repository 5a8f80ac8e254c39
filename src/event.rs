//! Events: their names, what a listener is told, and which listeners there are in which order.

use std::collections::HashMap;
use std::fmt;

use uuid::Uuid;

use crate::attributes::Attributes;
use crate::error::Error;
use crate::protocol::{CloseCode, Payload};
use crate::socket::Socket;

/// The built-in events. Every other name is an event of your own, called by `fire`.
///
/// For one connection they come in this order: `connect` (unless the route callback closed it), then messages, pings and pongs, `pressure` and `relief`;
/// `close` if the server closed it; `error` if it failed; and always last, exactly once, `disconnect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A connection is open and its route callback has run.
    Connect,
    /// A text or binary message arrived: `data`.
    Message,
    /// A ping arrived and its pong is queued: `data` is the ping's.
    Ping,
    /// A pong arrived: `data`.
    Pong,
    /// The peer reads more slowly than you write: what waits for it has reached [`Builder::high_water`](crate::Builder::high_water).
    Pressure,
    /// After `pressure`: what waits has sunk to [`Builder::low_water`](crate::Builder::low_water).
    Relief,
    /// The server closed the connection: `code` and `reason`.
    Close,
    /// Something failed: `error`. Either a verb of a callback (then the connection goes on) or the connection (then `disconnect` follows).
    Error,
    /// The connection is gone: `error` if it failed, `code` and `reason` if a close frame told them, `clean` if both sides
    /// said goodbye. Attributes, params and uuid still answer; emits are refused.
    Disconnect,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::Connect,
        Self::Message,
        Self::Ping,
        Self::Pong,
        Self::Pressure,
        Self::Relief,
        Self::Close,
        Self::Error,
        Self::Disconnect,
    ];

    /// The event's name, as in [`EventPayload::name`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Message => "message",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Pressure => "pressure",
            Self::Relief => "relief",
            Self::Close => "close",
            Self::Error => "error",
            Self::Disconnect => "disconnect",
        }
    }

    /// The built-in event with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "connect" => Some(Self::Connect),
            "message" => Some(Self::Message),
            "ping" => Some(Self::Ping),
            "pong" => Some(Self::Pong),
            "pressure" => Some(Self::Pressure),
            "relief" => Some(Self::Relief),
            "close" => Some(Self::Close),
            "error" => Some(Self::Error),
            "disconnect" => Some(Self::Disconnect),
            _ => None,
        }
    }
}

impl AsRef<str> for Event {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether only the library may fire an event of this name.
pub(crate) fn is_reserved(name: &str) -> bool {
    Event::from_name(name).is_some()
}

/// What a listener is told: which event, on which connection, with what.
#[non_exhaustive]
pub struct EventPayload<'a, S> {
    /// The connection.
    pub kws: Socket<'a, S>,
    /// The event's name.
    pub name: &'a str,
    /// The connection's uuid; it answers in `disconnect` too.
    pub socket_uuid: Uuid,
    /// What failed, in `error` and perhaps in `disconnect`.
    pub error: Option<&'a Error>,
    /// The message, with its kind; the payload of a ping, pong or custom event. Empty where there is none.
    pub data: Payload<'a>,
    /// The close code, in `close` and `disconnect`: that of whoever closed first. If a failure ended the connection, the one that the
    /// peer was told.
    pub code: Option<CloseCode>,
    /// The reason that came with `code`.
    pub reason: &'a str,
    /// In `disconnect`: whether both sides sent a close frame.
    pub clean: bool,
}

impl<S> EventPayload<'_, S> {
    /// The connection's attributes; they answer in `disconnect` too.
    #[must_use]
    pub fn socket_attributes(&self) -> &Attributes {
        self.kws.attributes()
    }
}

impl<S> fmt::Debug for EventPayload<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPayload")
            .field("name", &self.name)
            .field("socket_uuid", &self.socket_uuid)
            .field("error", &self.error)
            .field("data", &self.data)
            .field("code", &self.code)
            .field("reason", &self.reason)
            .field("clean", &self.clean)
            .finish_non_exhaustive()
    }
}

/// A listener: the state is lent to it, and it may not keep anything of its own that changes.
pub(crate) type Listener<S> = Box<dyn Fn(&mut S, &mut EventPayload<'_, S>)>;

/// The listeners of a server or of one route, by event, in the order of registration.
pub(crate) struct Listeners<S> {
    builtin: [Vec<Listener<S>>; Event::ALL.len()],
    custom: HashMap<Box<str>, Vec<Listener<S>>>,
}

impl<S> Default for Listeners<S> {
    fn default() -> Self {
        Self { builtin: Default::default(), custom: HashMap::new() }
    }
}

impl<S> Listeners<S> {
    pub(crate) fn add(&mut self, event: &str, listener: Listener<S>) {
        match Event::from_name(event) {
            Some(event) => self.builtin[event as usize].push(listener),
            None => self.custom.entry(event.into()).or_default().push(listener),
        }
    }

    /// Removes all listeners of an event and returns how many there were.
    pub(crate) fn remove(&mut self, event: &str) -> usize {
        match Event::from_name(event) {
            Some(event) => std::mem::take(&mut self.builtin[event as usize]).len(),
            None => self.custom.remove(event).map_or(0, |listeners| listeners.len()),
        }
    }

    pub(crate) fn of(&self, event: Event) -> &[Listener<S>] {
        &self.builtin[event as usize]
    }

    pub(crate) fn of_custom(&self, event: &str) -> &[Listener<S>] {
        self.custom.get(event).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builtins_name_means_the_builtin() {
        let mut listeners = Listeners::<()>::default();
        listeners.add("message", Box::new(|(), _| {}));
        listeners.add(Event::Message.as_ref(), Box::new(|(), _| {}));
        listeners.add("mine", Box::new(|(), _| {}));
        assert_eq!(listeners.of(Event::Message).len(), 2);
        assert_eq!(listeners.of_custom("mine").len(), 1);
        assert_eq!(listeners.remove("message"), 2);
        assert_eq!(listeners.remove("message"), 0);
        assert_eq!(listeners.remove("mine"), 1);
    }

    #[test]
    fn builtin_and_reserved_names_belong_to_the_library() {
        for event in Event::ALL {
            assert!(is_reserved(event.name()));
            assert_eq!(Event::from_name(event.name()), Some(event));
        }
        assert!(is_reserved("pressure") && is_reserved("relief") && !is_reserved("CUSTOM_EVENT"));
    }
}
