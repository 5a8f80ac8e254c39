//! The registered listeners, by event, in the order of registration.

use std::collections::HashMap;

use crate::event::Event;

/// The listeners of a server or of one route, by event, in the order of registration.
pub(crate) struct Listeners<L> {
    builtin: [Vec<L>; Event::ALL.len()],
    custom: HashMap<Box<str>, Vec<L>>,
}

impl<L> Default for Listeners<L> {
    fn default() -> Self {
        Self { builtin: Default::default(), custom: HashMap::new() }
    }
}

impl<L> Listeners<L> {
    pub(crate) fn add(&mut self, event: &str, listener: L) {
        match Event::from_name(event) {
            Some(event) => self.builtin[event as usize].push(listener),
            None => self.custom.entry(event.into()).or_default().push(listener),
        }
    }

    /// Removes all listeners of an event.
    pub(crate) fn remove(&mut self, event: &str) -> Vec<L> {
        match Event::from_name(event) {
            Some(event) => std::mem::take(&mut self.builtin[event as usize]),
            None => self.custom.remove(event).unwrap_or_default(),
        }
    }

    pub(crate) fn of(&self, event: Event) -> &[L] {
        &self.builtin[event as usize]
    }

    pub(crate) fn of_custom(&self, event: &str) -> &[L] {
        self.custom.get(event).map_or(&[], Vec::as_slice)
    }
}

impl<L> IntoIterator for Listeners<L> {
    type Item = L;
    type IntoIter = std::vec::IntoIter<L>;

    /// All listeners, in no particular order.
    fn into_iter(self) -> Self::IntoIter {
        let all: Vec<_> =
            self.builtin.into_iter().chain(self.custom.into_values()).flatten().collect();
        all.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builtins_name_means_the_builtin() {
        let mut listeners = Listeners::default();
        listeners.add("message", ());
        listeners.add(Event::Message.as_ref(), ());
        listeners.add("mine", ());
        assert_eq!(listeners.of(Event::Message).len(), 2);
        assert_eq!(listeners.of_custom("mine").len(), 1);
        assert_eq!(
            ["message", "message", "mine"].map(|event| listeners.remove(event).len()),
            [2, 0, 1]
        );
    }
}
