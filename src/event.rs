//! The built-in events and their names.

use std::fmt;

/// The built-in events. Every other name is an event of your own, called by `fire`.
///
/// For one connection they come in this order: `connect` (unless the route callback closed it),
/// then messages, pings and pongs, `pressure` and `relief`; `close` if the server closed it;
/// `error` if it failed; and always last, exactly once, `disconnect`.
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
    /// The peer reads more slowly than you write: what waits for it has reached
    /// [`Builder::high_water`](crate::Builder::high_water). If it has sunk to the low-water mark
    /// before the listeners could be called, neither this nor `relief` fires.
    Pressure,
    /// After `pressure`: what waits has sunk to [`Builder::low_water`](crate::Builder::low_water).
    Relief,
    /// The server closed the connection: `code` and `reason`.
    Close,
    /// Something failed: `error`. Either a verb of a callback (then the connection goes on) or the
    /// connection (then `disconnect` follows).
    Error,
    /// The connection is gone: `error` if it failed, `code` and `reason` if a close frame told
    /// them, `clean` if both sides said goodbye. Attributes, params and uuid still answer; emits
    /// are refused.
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

    /// The name of each, in the same order.
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
