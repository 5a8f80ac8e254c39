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

/// How often the turns are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after the deadline of a shutdown the loops may take to end.
const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Supervisor(JoinHandle<Result<Finished, LoopsError>>);

impl Supervisor {
    pub(super) fn start<S: 'static>(
        loops: LoopsHandle<S>,
        reports: Receiver<Report>,
    ) -> Result<Self, LoopsError> {
        std::thread::Builder::new()
            .name("loops".to_owned())
            .spawn(move || {
                let fail = || {
                    let _ = loops.shut_down_once(Shutdown::default()); // Its code may be sent.
                };
                watch(&loops.post, &reports, fail)
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
fn watch(post: &Post, reports: &Receiver<Report>, fail: impl Fn()) -> Result<Finished, LoopsError> {
    let mut running: BTreeSet<u16> = (0..post.len() as u16).collect();
    let mut named = BTreeSet::new();
    let mut remained = 0;
    let mut failed = None;
    while !running.is_empty() {
        match reports.recv_timeout(LOOK_EVERY) {
            Ok(Report::Failed(index, reason)) => {
                fail();
                log::error!("loop {index} has failed: {reason}; all loops shut down");
                failed.get_or_insert((index, reason));
            }
            Ok(Report::Ended(index, finished)) => {
                running.remove(&index);
                remained += finished.map_or(0, |finished| finished.remained);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        name_long_turns(post, &running, &mut named);
        if post.shutdown_ended().is_some_and(|since| since > GRACE) {
            break;
        }
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
fn name_long_turns(post: &Post, running: &BTreeSet<u16>, named: &mut BTreeSet<u16>) {
    for &index in running {
        let busy = post.busy_for(index).filter(|busy| *busy > LONG_TURN);
        match busy {
            Some(busy) if named.insert(index) => {
                post.count_long_turn(index);
                log::warn!(
                    "a turn of loop {index} has lasted {} s: a callback does not return, or the loop has far too much to do",
                    busy.as_secs()
                );
            }
            Some(_) => {}
            None => _ = named.remove(&index),
        }
    }
}
