//! Coarse timeouts: at most one entry for each connection, none moved by traffic.
//!
//! An entry says when a connection has to be looked at, not when something has to happen to it: a connection that was heard
//! from meanwhile is simply entered again for later. So a message costs nothing here.

use std::collections::BTreeSet;

/// "Never", on the loop's clock.
pub(crate) const NEVER: u64 = u64::MAX;

/// When which slot has to be looked at; times are milliseconds on the loop's clock.
#[derive(Default)]
pub(crate) struct Timers {
    entries: BTreeSet<(u64, u32)>,
}

impl Timers {
    pub(crate) fn insert(&mut self, at: u64, index: u32) {
        if at != NEVER {
            self.entries.insert((at, index));
        }
    }

    pub(crate) fn remove(&mut self, at: u64, index: u32) {
        if at != NEVER {
            self.entries.remove(&(at, index));
        }
    }

    /// When the next entry is due.
    pub(crate) fn next(&self) -> Option<u64> {
        self.entries.first().map(|&(at, _)| at)
    }

    /// Takes out one slot whose time has come.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop_first().map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_once() {
        let mut timers = Timers::default();
        timers.insert(30, 3);
        timers.insert(10, 1);
        timers.insert(20, 2);
        timers.insert(NEVER, 4);
        timers.remove(20, 2);
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(30), Some(1));
        assert_eq!(timers.pop_due(30), Some(3));
        assert_eq!(timers.pop_due(30), None);
    }
}
