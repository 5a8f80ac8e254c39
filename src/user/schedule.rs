//! The schedule: the user's own timers, when each is due and what it calls.
//!
//! It knows no connection's timeouts (those are `timer`'s) and reads no clock. Nothing of it is borrowed while user code runs: a callback is
//! taken out, called by the loop and put back, so that it can set and cancel timers itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::socket::Sockets;
use crate::hub::{Discarded, NEVER};

/// Names one timer of a server. It is never used again: when the timer is over it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(u64);

type Once<S> = Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>)>;
type Repeated<S> = Box<dyn FnMut(&mut S, &mut Sockets<'_, S>)>;

/// What a timer calls.
pub(crate) enum Callback<S> {
    Once(Once<S>),
    Repeated { every: u64, callback: Repeated<S> },
}

struct Timer<S> {
    /// Milliseconds on the loop's clock.
    at: u64,
    /// `None` while it runs.
    callback: Option<Callback<S>>,
}

pub(crate) struct Schedule<S> {
    table: RefCell<Table<S>>,
    /// When the first is due: all that a turn looks at while nothing is.
    next: Cell<u64>,
    newest: Cell<TimerId>,
}

struct Table<S> {
    due: BTreeSet<(u64, TimerId)>,
    timers: HashMap<TimerId, Timer<S>>,
}

impl<S> Default for Schedule<S> {
    fn default() -> Self {
        let table = Table { due: BTreeSet::new(), timers: HashMap::new() };
        Self { table: RefCell::new(table), next: Cell::new(NEVER), newest: Cell::new(TimerId(0)) }
    }
}

impl<S> Schedule<S> {
    /// When the first timer is due.
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// The timer that was set last.
    pub(crate) fn newest(&self) -> TimerId {
        self.newest.get()
    }

    fn set(&self, at: u64, callback: Callback<S>) -> TimerId {
        let id = TimerId(self.newest.get().0 + 1);
        self.newest.set(id);
        let mut table = self.table.borrow_mut();
        table.enter(at, id);
        table.timers.insert(id, Timer { at, callback: Some(callback) });
        self.next.set(table.next());
        id
    }

    /// Takes a timer out; what it would have called is dropped by the caller, when nothing is borrowed any more.
    fn remove(&self, id: TimerId) -> Option<Timer<S>> {
        let mut table = self.table.borrow_mut();
        let timer = table.timers.remove(&id)?;
        table.due.remove(&(timer.at, id));
        self.next.set(table.next());
        Some(timer)
    }

    /// What is to be called next, if its time has come and it is not younger than `newest`.
    pub(crate) fn take_due(&self, now: u64, newest: TimerId) -> Option<(TimerId, Callback<S>)> {
        if self.next.get() > now {
            return None;
        }
        let mut table = self.table.borrow_mut();
        let &(_, id) = table.due.first().filter(|(_, id)| *id <= newest)?;
        table.due.pop_first();
        self.next.set(table.next());
        let callback = table.timers.get_mut(&id)?.callback.take()?;
        if matches!(callback, Callback::Once(_)) {
            table.timers.remove(&id);
        }
        Some((id, callback))
    }

    /// Enters an interval that has run again, unless it was cancelled meanwhile. Times that it missed are passed over.
    pub(crate) fn put_back(&self, id: TimerId, now: u64, callback: Callback<S>) {
        let mut table = self.table.borrow_mut();
        let Callback::Repeated { every, .. } = callback else { return };
        let Some(timer) = table.timers.get_mut(&id) else {
            drop(table);
            return drop(callback);
        };
        let missed = now.saturating_sub(timer.at) / every;
        timer.at = timer.at.saturating_add(every.saturating_mul(missed.saturating_add(1)));
        timer.callback = Some(callback);
        let at = timer.at;
        table.enter(at, id);
        self.next.set(table.next());
    }
}

impl<S> Drop for Schedule<S> {
    /// What each timer would have called is dropped by itself: it is user data.
    fn drop(&mut self) {
        let mut discarded = Discarded::default();
        discarded.drop_all(std::mem::take(&mut self.table.get_mut().timers).into_values());
        discarded.count(); // No server is left that counts them.
    }
}

impl<S> Table<S> {
    fn enter(&mut self, at: u64, id: TimerId) {
        if at != NEVER {
            self.due.insert((at, id));
        }
    }

    fn next(&self) -> u64 {
        self.due.first().map_or(NEVER, |&(at, _)| at)
    }
}

impl<S> Sockets<'_, S> {
    /// Calls `callback` once, in the first turn of the loop that begins at least `after` from now; with [`Duration::ZERO`] that is the next
    /// turn, never this call. Timers that are due together run in the order of their times, then of their setting.
    ///
    /// "Now" is when the loop has last read its clock: in a callback, when the turn's wait ended or later. That clock and the poll have whole
    /// milliseconds, and `after` is rounded up to them: by a finer clock a timer may come up to 1 ms early. How late it comes is up to who turns the
    /// loop; on a loop that has nothing else to do it is 1 ms at most, and what the operating system adds. [`Duration::MAX`] never comes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
    /// server.on(Event::Connect, |_, ep| {
    ///     let who = ep.socket_uuid;
    ///     ep.kws.sockets().set_timer(Duration::from_secs(60), move |_, sockets| {
    ///         let _ = sockets.emit_to(who, "you have been here for a minute"); // if still there
    ///     });
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_timer<F>(&mut self, after: Duration, callback: F) -> TimerId
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        let at = self.hub.now.saturating_add(millis(after));
        self.registry.schedule.set(at, Callback::Once(Box::new(callback)))
    }

    /// Calls `callback` each time that `every` is over, from now on, until it is cancelled. The times do not drift: each is reckoned from the one
    /// before, not from when the callback ran.
    ///
    /// If the loop was away for several of them, the callback runs once, and the next time is the first that lies ahead. It goes on after a panic
    /// in the callback. `every` is rounded up to whole milliseconds, to one at least; for the rest see [`set_timer`](Self::set_timer).
    pub fn set_interval<F>(&mut self, every: Duration, callback: F) -> TimerId
    where
        F: FnMut(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        let every = millis(every).max(1);
        let at = self.hub.now.saturating_add(every);
        self.registry.schedule.set(at, Callback::Repeated { every, callback: Box::new(callback) })
    }

    /// Cancels a timer or an interval, which may be an interval that is just running; whether there was one. From now on it is not called, also
    /// if it is due in this turn.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let timer = self.registry.schedule.remove(timer);
        let was_there = timer.is_some();
        self.registry.discard(timer);
        was_there
    }
}

/// Whole milliseconds, rounded up.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once() -> Callback<Vec<u64>> {
        Callback::Once(Box::new(|_, _| {}))
    }

    fn every(every: u64) -> Callback<Vec<u64>> {
        Callback::Repeated { every, callback: Box::new(|_, _| {}) }
    }

    fn due(schedule: &Schedule<Vec<u64>>, now: u64) -> Vec<TimerId> {
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
        let [late, first, second, never] = [20, 10, 10, NEVER].map(|at| schedule.set(at, once()));
        assert_eq!(schedule.next(), 10);
        assert_eq!(due(&schedule, 9), []);
        assert_eq!(due(&schedule, 20), [first, second, late]);
        assert_eq!((schedule.next(), due(&schedule, NEVER)), (NEVER, vec![]));
        assert!(schedule.remove(never).is_some() && schedule.remove(late).is_none());
    }

    #[test]
    fn an_interval_keeps_its_step_and_passes_over_what_it_missed() {
        let schedule = Schedule::default();
        let id = schedule.set(10, every(10));
        let next = [10, 24, 30, 99, 100].map(|now| (due(&schedule, now), schedule.next()));
        assert_eq!(next, [20, 30, 40, 100, 110].map(|next| (vec![id], next)));
    }

    #[test]
    fn an_interval_that_was_cancelled_while_it_ran_is_not_entered_again() {
        let schedule = Schedule::default();
        let id = schedule.set(10, every(10));
        let (taken, callback) = schedule.take_due(10, id).unwrap();
        assert!(schedule.remove(taken).is_some());
        schedule.put_back(taken, 10, callback);
        assert_eq!((schedule.next(), schedule.remove(id).is_some()), (NEVER, false));
    }

    #[test]
    fn what_was_set_since_the_turn_began_waits_for_the_next() {
        let schedule = Schedule::default();
        let newest = schedule.newest();
        let id = schedule.set(0, once());
        assert!(schedule.take_due(5, newest).is_none());
        assert_eq!((schedule.next(), due(&schedule, 5)), (0, vec![id]));
    }
}
