//! The built-in events and their names.

use std::fmt;

/// The built-in events. Every other name is a custom event, which `fire` fires.
///
/// For one connection the events fire in this order:
///
/// - `connect`, unless the route callback closed the connection;
/// - `message`, `ping`, `pong`, `pressure` and `relief`, as they happen;
/// - `close`, if the server closed the connection;
/// - `error`, if the connection failed;
/// - `disconnect`, always last and exactly once.
///
/// An `error` about a verb in a callback may fire at any time before `disconnect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A connection is open and its route callback has returned.
    Connect,
    /// A text or binary message arrived: `data` is its payload.
    Message,
    /// A ping arrived and its pong is queued: `data` is the ping's payload.
    Ping,
    /// A pong arrived: `data` is its payload.
    Pong,
    /// The peer reads more slowly than the server writes: the bytes that wait for it have reached
    /// [`Builder::high_water`](crate::Builder::high_water). If they have sunk to the low-water mark
    /// before the listeners could be called, neither this event nor `relief` fires.
    Pressure,
    /// After `pressure`: the bytes that wait have sunk to
    /// [`Builder::low_water`](crate::Builder::low_water).
    Relief,
    /// The server closed the connection, with `code` and `reason`.
    Close,
    /// Something failed: `error` says what. If it was a verb of a callback, the connection stays
    /// open. If it was the connection, `disconnect` follows.
    Error,
    /// The connection has ended. `error` is set if it failed, `code` and `reason` if a close frame
    /// carried them, `clean` if both sides sent a close frame. Attributes, params and uuid can
    /// still be read; emits are refused.
    Disconnect,
}

impl Event {
    pub(crate) const ALL: [Self; 9] = [
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

    /// The name of each event, in the same order.
    pub(crate) const NAMES: [&'static str; Self::ALL.len()] = [
        "connect",
        "message",
        "ping",
        "pong",
        "pressure",
        "relief",
        "close",
        "error",
        "disconnect",
    ];

    /// The event's name, as in [`EventPayload::name`](crate::EventPayload::name).
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The built-in event with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_and_reserved_names_belong_to_the_library() {
        for event in Event::ALL {
            assert!(is_reserved(event.name()));
            assert_eq!(Event::from_name(event.name()), Some(event));
        }
        assert!(is_reserved("pressure") && is_reserved("relief") && !is_reserved("CUSTOM_EVENT"));
    }
}
