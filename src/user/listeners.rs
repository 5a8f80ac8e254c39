//! Listeners: what they are told, and which there are in which order.

use std::collections::HashMap;
use std::fmt;

use uuid::Uuid;

use super::socket::Socket;
use crate::error::Error;
use crate::event::Event;
use crate::hub::Attributes;
use crate::protocol::{CloseCode, Payload};

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
    /// In `disconnect`: how many bytes were queued for the peer and dropped by then, frame headers
    /// included; 0 elsewhere. What the kernel had taken is not counted, whether or not the peer has read
    /// it. After a failure that a close frame tells the peer, what waits is still written; if
    /// that is cut short, [`Stats::bytes_dropped`](crate::Stats::bytes_dropped) alone counts it.
    pub bytes_dropped: usize,
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
            .field("bytes_dropped", &self.bytes_dropped)
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

    /// Removes all listeners of an event.
    pub(crate) fn remove(&mut self, event: &str) -> Vec<Listener<S>> {
        match Event::from_name(event) {
            Some(event) => std::mem::take(&mut self.builtin[event as usize]),
            None => self.custom.remove(event).unwrap_or_default(),
        }
    }

    pub(crate) fn of(&self, event: Event) -> &[Listener<S>] {
        &self.builtin[event as usize]
    }

    pub(crate) fn of_custom(&self, event: &str) -> &[Listener<S>] {
        self.custom.get(event).map_or(&[], Vec::as_slice)
    }
}

impl<S> IntoIterator for Listeners<S> {
    type Item = Listener<S>;
    type IntoIter = std::vec::IntoIter<Listener<S>>;

    /// All of them, in no particular order.
    fn into_iter(self) -> Self::IntoIter {
        let all: Vec<_> = self.builtin.into_iter().chain(self.custom.into_values()).flatten().collect();
        all.into_iter()
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
        assert_eq!(["message", "message", "mine"].map(|event| listeners.remove(event).len()), [2, 0, 1]);
    }
}
