//! Listeners that could not accept: when they try again, and what the log has of it.

use crate::hub::NEVER;

/// When there is no descriptor for another connection, accepting is tried again after this time, in
/// milliseconds, or when a connection ends.
pub(super) const ACCEPT_PAUSE: u64 = 250;
/// A listener that cannot accept is in the log once, and again when it could for so long, in
/// milliseconds.
const ACCEPT_QUIET: u64 = 60_000;

/// Listeners that could not accept, most often because there are no descriptors left.
pub(super) struct Shortage {
    /// Those that wait until a descriptor is free.
    paused: Vec<usize>,
    /// When they try again in any case; milliseconds on the loop's clock.
    pub(super) resume_at: u64,
    /// Those that have lost a connection, and when that was last.
    failing: Vec<(usize, u64)>,
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
        self.resume_at = now.saturating_add(ACCEPT_PAUSE);
    }

    /// Those that are to try again.
    #[cold]
    pub(super) fn resume(&mut self) -> Vec<usize> {
        self.resume_at = NEVER;
        std::mem::take(&mut self.paused)
    }

    /// Notes that a connection could not be taken in by this listener; whether that is the first
    /// one for a while. While descriptors are short, each connection that ends makes room for one
    /// that comes: a line in the log for each helps no reader.
    #[cold]
    pub(super) fn begins(&mut self, listener: usize, now: u64) -> bool {
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
        assert_eq!(shortage.resume_at, 30 + ACCEPT_PAUSE);
        assert_eq!((shortage.resume(), shortage.resume_at), (vec![3, 5], NEVER));
        assert!(shortage.resume().is_empty());
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
            assert_eq!(shortage.begins(listener, now), begins, "{listener} at {now}");
        }
    }
}
