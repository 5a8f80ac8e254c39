//! The thread that watches over the loops: it names a loop whose turn lasts long, and waits for all
//! to end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::thread::Ended;
use crate::bus::Post;
use crate::error::LoopsError;
use crate::server::Finished;

/// A turn that lasts longer than this is named.
const LONG_TURN: Duration = Duration::from_secs(5);
/// How often the turns are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after the deadline of a shutdown the loops may take to end.
const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Supervisor(JoinHandle<Result<Finished, LoopsError>>);

impl Supervisor {
    pub(super) fn start(post: Arc<Post>, ended: Receiver<Ended>) -> Result<Self, LoopsError> {
        std::thread::Builder::new()
            .name("loops".to_owned())
            .spawn(move || watch(&post, &ended))
            .map(Self)
            .map_err(|error| LoopsError::Thread(error.into()))
    }

    /// Waits until all loops have ended, or do not end in time.
    pub(super) fn join(self) -> Result<Finished, LoopsError> {
        self.0.join().unwrap_or_else(|_| {
            Err(LoopsError::Stuck { loops: Vec::new() }) // It has no code that panics.
        })
    }
}

fn watch(post: &Post, ended: &Receiver<Ended>) -> Result<Finished, LoopsError> {
    let mut running: BTreeSet<u16> = (0..post.len() as u16).collect();
    let mut named = BTreeSet::new();
    let mut remained = 0;
    let mut failed = None;
    while !running.is_empty() {
        match ended.recv_timeout(LOOK_EVERY) {
            Ok((index, result)) => {
                running.remove(&index);
                match result {
                    Ok(finished) => remained += finished.remained,
                    Err(reason) => _ = failed.get_or_insert((index, reason)),
                }
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

/// Logs each turn that lasts long once.
fn name_long_turns(post: &Post, running: &BTreeSet<u16>, named: &mut BTreeSet<u16>) {
    for &index in running {
        match post.busy_for(index) {
            Some(busy) if busy > LONG_TURN => {
                if named.insert(index) {
                    log::warn!(
                        "a turn of loop {index} has lasted {} s: a callback does not return, or the loop has far too much to do",
                        busy.as_secs()
                    );
                }
            }
            _ => _ = named.remove(&index),
        }
    }
}
