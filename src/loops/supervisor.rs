//! The thread that watches over the loops: it names a loop whose turn lasts long, shuts all down if
//! one fails, and waits for all to end.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::thread::Report;
use crate::bus::{LONG_TURN, Post};
use crate::error::LoopsError;
use crate::server::Finished;
use crate::user::{LoopsHandle, Shutdown};

/// How long the supervisor waits for what.
struct Patience {
    /// A turn that lasts longer than this is named.
    long_turn: Duration,
    /// How often the turns are looked at.
    look_every: Duration,
    /// How long after the deadline of a shutdown the loops may take to end.
    grace: Duration,
}

const PATIENCE: Patience = Patience {
    long_turn: LONG_TURN,
    look_every: Duration::from_secs(1),
    grace: Duration::from_secs(10),
};

pub(super) struct Supervisor(JoinHandle<Result<Finished, LoopsError>>);

impl Supervisor {
    pub(super) fn start<S: 'static>(
        loops: LoopsHandle<S>,
        reports: Receiver<Report>,
    ) -> Result<Self, LoopsError> {
        std::thread::Builder::new()
            .name("loops".to_owned())
            .spawn(move || {
                let fail = || loops.shut_down_once(&Shutdown::default());
                watch(&loops.post, &reports, fail, &PATIENCE)
            })
            .map(Self)
            .map_err(|error| LoopsError::System(error.into()))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits until all loops have ended, or do not end in time.
    pub(super) fn join(self) -> Result<Finished, LoopsError> {
        // Only a logger can panic there.
        self.0.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Follows the reports of all loops until all have ended. If one fails, `fail` shuts all down.
fn watch(
    post: &Post,
    reports: &Receiver<Report>,
    fail: impl Fn(),
    patience: &Patience,
) -> Result<Finished, LoopsError> {
    let mut running: BTreeSet<u16> = (0..post.len() as u16).collect();
    let mut named = BTreeSet::new();
    let mut remained = 0;
    let mut failed = None;
    while !running.is_empty() {
        match reports.recv_timeout(patience.look_every) {
            Ok(Report::Failed(index, reason)) => {
                fail();
                log::error!("loop {index} has failed: {reason}; all loops shut down");
                failed.get_or_insert((index, reason));
            }
            Ok(Report::Ended(index, finished)) => {
                running.remove(&index);
                remained += finished.map_or(0, |finished| finished.remained);
            }
            // Only now, when nothing more is reported.
            Err(RecvTimeoutError::Timeout) => {
                if post.shutdown_ended().is_some_and(|since| since > patience.grace) {
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        name_long_turns(post, &running, &mut named, patience.long_turn);
    }
    let loops: Vec<usize> = running.into_iter().map(usize::from).collect();
    match failed {
        Some((index, reason)) => {
            Err(LoopsError::Failed { index: index.into(), reason, remaining: loops })
        }
        None if !loops.is_empty() => Err(LoopsError::Stuck { loops }),
        None => Ok(Finished { remained }),
    }
}

/// Counts and logs each turn that lasts long, once.
fn name_long_turns(
    post: &Post,
    running: &BTreeSet<u16>,
    named: &mut BTreeSet<u16>,
    long: Duration,
) {
    for &index in running {
        let busy = post.busy_for(index).filter(|busy| *busy > long);
        match busy {
            Some(busy) if named.insert(index) => {
                post.count_long_turn(index);
                log::warn!(
                    "a turn of loop {index} has lasted {} s: a callback does not return, or the loop has too much to do in one turn",
                    busy.as_secs()
                );
            }
            Some(_) => {}
            None => _ = named.remove(&index),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::bus::{Link, Seat};

    const NO_PATIENCE: Patience = Patience {
        long_turn: Duration::MAX,
        look_every: Duration::from_millis(1),
        grace: Duration::ZERO,
    };

    /// A loop's link, and the poll that others wake.
    fn link(post: &Arc<Post>, index: u16) -> (Link, mio::Poll) {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        (Seat { post: post.clone(), index }.sit(Arc::new(waker), 0).unwrap(), poll)
    }

    fn finished(remained: usize) -> Option<Finished> {
        Some(Finished { remained })
    }

    #[test]
    fn a_turn_that_lasts_long_is_counted_once() {
        let post = Post::new(3, 1024, 1);
        let links = [0, 1, 2].map(|index| link(&post, index));
        let (running, mut named) = ((0..3).collect(), BTreeSet::new());
        let mut look = |long| {
            // Until some time has passed since the turns began.
            while post.busy_for(1) == Some(Duration::ZERO) {}
            name_long_turns(&post, &running, &mut named, long);
            [0, 1, 2].map(|at: usize| links[at].0.stats().long_turns)
        };
        assert_eq!(look(Duration::ZERO), [0, 0, 0], "all wait");
        links[1].0.turn_begins(0);
        assert_eq!(look(Duration::MAX), [0, 0, 0], "not so long");
        assert_eq!(look(Duration::ZERO), [0, 1, 0]);
        assert_eq!(look(Duration::ZERO), [0, 1, 0], "each turn once");
        links[1].0.turn_ends();
        assert_eq!(look(Duration::ZERO), [0, 1, 0]);
        links[1].0.turn_begins(0);
        assert_eq!(look(Duration::ZERO), [0, 2, 0], "it is another turn");
    }

    #[test]
    fn a_loop_that_waits_or_has_ended_has_no_turn() {
        let post = Post::new(1, 1024, 1);
        let (link, _poll) = link(&post, 0);
        assert_eq!(post.busy_for(0), None);
        link.turn_begins(0);
        assert!(post.busy_for(0).is_some());
        drop(link);
        assert_eq!(post.busy_for(0), None);
    }

    #[test]
    fn loops_that_do_not_end_in_time_are_named() {
        let post = Post::new(3, 1024, 1);
        let (sender, reports) = channel();
        sender.send(Report::Ended(1, finished(7))).unwrap();
        post.shutdown_is_asked_for(0);
        let result = watch(&post, &reports, || unreachable!(), &NO_PATIENCE);
        assert_eq!(result, Err(LoopsError::Stuck { loops: vec![0, 2] }));
    }

    #[test]
    fn a_failure_shuts_all_down_and_is_told_with_the_loops_that_remain() {
        let post = Post::new(4, 1024, 1);
        let (sender, reports) = channel();
        let (first, second) = ("first".to_owned(), "second".to_owned());
        for report in [
            Report::Failed(2, first.clone()),
            Report::Ended(2, None),
            Report::Failed(0, second),
            Report::Ended(0, None),
            Report::Ended(3, finished(0)),
        ] {
            sender.send(report).unwrap();
        }
        let failures = Cell::new(0);
        let fail = || {
            failures.set(failures.get() + 1);
            // None of the others ever looks: the time runs all the same.
            post.shutdown_is_asked_for(0);
        };
        let failed = LoopsError::Failed { index: 2, reason: first, remaining: vec![1] };
        assert_eq!(watch(&post, &reports, fail, &NO_PATIENCE), Err(failed));
        assert_eq!(failures.get(), 2);
    }

    #[test]
    fn connections_that_remained_are_counted_over_all_loops() {
        let post = Post::new(2, 1024, 1);
        let (sender, reports) = channel();
        for (index, remained) in [(1, 5), (0, 6)] {
            sender.send(Report::Ended(index, finished(remained))).unwrap();
        }
        let result = watch(&post, &reports, || unreachable!(), &PATIENCE);
        assert_eq!(result, Ok(Finished { remained: 11 }));
    }
}
