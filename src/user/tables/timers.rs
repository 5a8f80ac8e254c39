//! The schedule: the user's own timers, their times and their callbacks.
//!
//! It reads no clock, and knows no connection's timeouts (`hub::deadlines` does). Nothing in it is
//! borrowed while user code runs. A callback is taken out, called by the loop and put back, so that
//! it can set and cancel timers itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;

use crate::hub::{Discarded, NEVER};

/// The id of one timer of a server. It is never reused: when the timer has ended, it names no
/// timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(u64);

struct Timer<C> {
    /// Milliseconds on the loop's clock.
    at: u64,
    /// Milliseconds from one call to the next; `None` if it runs once.
    every: Option<NonZeroU64>,
    /// `None` while it runs.
    callback: Option<C>,
}

/// The callback of a timer that was removed; `None` if it is running.
pub(crate) struct Removed<C>(pub(crate) Option<C>);

pub(crate) struct Schedule<C> {
    table: RefCell<Table<C>>,
    /// The time of the first timer: as long as that is in the future, a turn looks at nothing else.
    next: Cell<u64>,
    newest: Cell<TimerId>,
}

struct Table<C> {
    due: BTreeSet<(u64, TimerId)>,
    timers: HashMap<TimerId, Timer<C>>,
}

impl<C> Default for Schedule<C> {
    fn default() -> Self {
        let table = Table { due: BTreeSet::new(), timers: HashMap::new() };
        Self { table: RefCell::new(table), next: Cell::new(NEVER), newest: Cell::new(TimerId(0)) }
    }
}

impl<C> Schedule<C> {
    /// The time of the first timer.
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// The timer that was set last.
    pub(crate) fn newest(&self) -> TimerId {
        self.newest.get()
    }

    pub(crate) fn set(&self, at: u64, every: Option<NonZeroU64>, callback: C) -> TimerId {
        let id = TimerId(self.newest.get().0 + 1);
        self.newest.set(id);
        let mut table = self.table.borrow_mut();
        table.enter(at, id);
        table.timers.insert(id, Timer { at, every, callback: Some(callback) });
        self.next.set(table.next());
        id
    }

    /// Removes a timer. The caller drops its callback when nothing is borrowed any more.
    #[must_use = "it is user data"]
    pub(crate) fn remove(&self, id: TimerId) -> Option<Removed<C>> {
        let mut table = self.table.borrow_mut();
        let timer = table.timers.remove(&id)?;
        table.due.remove(&(timer.at, id));
        self.next.set(table.next());
        Some(Removed(timer.callback))
    }

    /// Takes the next callback, if its time has come and its timer is not newer than `newest`.
    pub(crate) fn take_due(&self, now: u64, newest: TimerId) -> Option<(TimerId, C)> {
        if self.next.get() > now {
            return None;
        }
        let mut table = self.table.borrow_mut();
        let &(_, id) = table.due.first().filter(|(_, id)| *id <= newest)?;
        table.due.pop_first();
        self.next.set(table.next());
        let timer = table.timers.get_mut(&id)?;
        let callback = timer.callback.take()?;
        if timer.every.is_none() {
            table.timers.remove(&id);
        }
        Some((id, callback))
    }

    /// Schedules an interval that has run again, unless it was cancelled meanwhile. Times that it
    /// missed are skipped.
    pub(crate) fn put_back(&self, id: TimerId, now: u64, callback: C) {
        let mut table = self.table.borrow_mut();
        let Some((timer, every)) =
            table.timers.get_mut(&id).and_then(|timer| timer.every.map(|every| (timer, every)))
        else {
            drop(table);
            return drop(callback);
        };
        let every = every.get();
        let missed = now.saturating_sub(timer.at) / every;
        timer.at = timer.at.saturating_add(every.saturating_mul(missed.saturating_add(1)));
        timer.callback = Some(callback);
        let at = timer.at;
        table.enter(at, id);
        self.next.set(table.next());
    }
}

impl<C> Drop for Schedule<C> {
    /// The callback of each timer is dropped by itself, because it is user data.
    fn drop(&mut self) {
        let mut discarded = Discarded::default();
        discarded.drop_all(std::mem::take(&mut self.table.get_mut().timers).into_values());
        discarded.count(); // No server remains to count them.
    }
}

impl<C> Table<C> {
    fn enter(&mut self, at: u64, id: TimerId) {
        if at != NEVER {
            self.due.insert((at, id));
        }
    }

    fn next(&self) -> u64 {
        self.due.first().map_or(NEVER, |&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &Schedule<()>, now: u64) -> Vec<TimerId> {
        let newest = schedule.newest();
        std::iter::from_fn(|| {
            let (id, callback) = schedule.take_due(now, newest)?;
            schedule.put_back(id, now, callback);
            Some(id)
        })
        .collect()
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time_then_of_its_setting() {
        let schedule = Schedule::default();
        let [late, first, second, never] = [20, 10, 10, NEVER].map(|at| schedule.set(at, None, ()));
        assert_eq!(schedule.next(), 10);
        assert_eq!(due(&schedule, 9), []);
        assert_eq!(due(&schedule, 20), [first, second, late]);
        assert_eq!((schedule.next(), due(&schedule, NEVER)), (NEVER, vec![]));
        assert!(schedule.remove(never).is_some() && schedule.remove(late).is_none());
    }

    #[test]
    fn an_interval_keeps_its_step_and_passes_over_what_it_missed() {
        let schedule = Schedule::default();
        let id = schedule.set(10, NonZeroU64::new(10), ());
        let next = [10, 24, 30, 99, 100].map(|now| (due(&schedule, now), schedule.next()));
        assert_eq!(next, [20, 30, 40, 100, 110].map(|next| (vec![id], next)));
    }

    #[test]
    fn an_interval_that_was_cancelled_while_it_ran_is_not_entered_again() {
        let schedule = Schedule::default();
        let id = schedule.set(10, NonZeroU64::new(10), ());
        let (taken, callback) = schedule.take_due(10, id).unwrap();
        assert!(schedule.remove(taken).is_some());
        schedule.put_back(taken, 10, callback);
        assert_eq!((schedule.next(), schedule.remove(id).is_some()), (NEVER, false));
    }

    #[test]
    fn what_was_set_since_the_turn_began_waits_for_the_next() {
        let schedule = Schedule::default();
        let newest = schedule.newest();
        let id = schedule.set(0, None, ());
        assert!(schedule.take_due(5, newest).is_none());
        assert_eq!((schedule.next(), due(&schedule, 5)), (0, vec![id]));
    }
}
