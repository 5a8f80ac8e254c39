//! Listeners that could not accept: when they try again, and when that is logged.

use crate::hub::NEVER;

/// The time, in milliseconds, after which accepting is tried again when there was no descriptor for
/// another connection. A connection that ends makes it try earlier.
pub(super) const ACCEPT_PAUSE: u64 = 250;
/// The time without failure, in milliseconds, after which a listener's next failure is logged
/// again.
const ACCEPT_QUIET: u64 = 60_000;

/// Listeners that could not accept, mostly because no descriptors are free.
pub(super) struct Shortage {
    /// Listeners that wait until a descriptor is free.
    paused: Vec<usize>,
    /// The time at which they try again in any case; milliseconds on the loop's clock.
    pub(super) resume_at: u64,
    /// Listeners that have lost a connection, and the time of the last loss. Other loops, which
    /// have no number here, count as one.
    failing: Vec<(Option<usize>, u64)>,
}

impl Default for Shortage {
    fn default() -> Self {
        Self { paused: Vec::new(), resume_at: NEVER, failing: Vec::new() }
    }
}

impl Shortage {
    pub(super) fn pause(&mut self, listener: usize, now: u64) {
        if !self.paused.contains(&listener) {
            self.paused.push(listener);
        }
        // Others that wait already try again no later, however often this one finds no descriptor.
        self.resume_at = self.resume_at.min(now.saturating_add(ACCEPT_PAUSE));
    }

    /// Takes the listeners that are to try again. Each of them is the first in its turn: often
    /// there is one free descriptor, and the first gets it.
    #[cold]
    pub(super) fn resume(&mut self) -> Vec<usize> {
        self.resume_at = NEVER;
        let mut listeners = std::mem::take(&mut self.paused);
        if let 2.. = listeners.len() {
            listeners.rotate_left(1);
        }
        listeners
    }

    /// Notes that this listener could not accept a connection; returns whether that is the first
    /// one for a while. While descriptors are short, each connection that ends makes room for a new
    /// one: a line in the log for each helps no reader.
    #[cold]
    pub(super) fn begins(&mut self, listener: Option<usize>, now: u64) -> bool {
        match self.failing.iter_mut().find(|(each, _)| *each == listener) {
            Some((_, last)) => now.saturating_sub(std::mem::replace(last, now)) >= ACCEPT_QUIET,
            None => {
                self.failing.push((listener, now));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_that_could_not_accept_tries_again_once() {
        let mut shortage = Shortage::default();
        for (listener, now) in [(3, 10), (5, 20), (3, 30)] {
            shortage.pause(listener, now);
        }
        assert_eq!(shortage.resume_at, 10 + ACCEPT_PAUSE);
        assert_eq!((shortage.resume(), shortage.resume_at), (vec![5, 3], NEVER));
        assert!(shortage.resume().is_empty());
    }

    #[test]
    fn a_listener_tries_again_no_later_because_others_find_no_descriptor() {
        let mut shortage = Shortage::default();
        shortage.pause(3, 0);
        (1..10).for_each(|times| shortage.pause(5, times * ACCEPT_PAUSE / 10));
        assert_eq!(shortage.resume_at, ACCEPT_PAUSE);
    }

    #[test]
    fn a_shortage_begins_anew_for_a_listener_that_could_accept_for_a_minute() {
        let mut shortage = Shortage::default();
        let begins = [
            (3, 0, true),
            (5, ACCEPT_QUIET - 1, true),
            (3, ACCEPT_QUIET - 1, false),
            (3, 2 * ACCEPT_QUIET - 2, false),
            (3, 3 * ACCEPT_QUIET - 2, true),
        ];
        for (listener, now, begins) in begins {
            assert_eq!(shortage.begins(Some(listener), now), begins, "{listener} at {now}");
        }
    }
}
