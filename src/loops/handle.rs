//! Handles, by which other threads reach one loop or all.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::bus::{Control, Post};
use crate::error::{CloseError, SendError};
use crate::hub::Stats;
use crate::outbox::Outgoing;
use crate::protocol::Message;
use crate::user::{Handle, Shutdown, Sockets};

/// How long the figures of a loop are awaited.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Reaches the loops of [`Loops`](crate::Loops) from any thread: clone it for each thread.
///
/// [`one`](Self::one) is the [`Handle`] of a single loop. The verbs send a command to each loop
/// that has something to do with it. The commands of one thread run on each loop in the order in
/// which it sent them. What is sent here and what callbacks publish
/// [everywhere](crate::Sockets::everywhere) have no order between them.
///
/// If a loop refuses its command, the other loops get theirs all the same, and the error is that of
/// the first loop that refused.
pub struct LoopsHandle<S> {
    pub(super) handles: Arc<[Handle<S>]>,
    pub(super) post: Arc<Post>,
}

/// One loop and its figures: [`LoopsHandle::reports`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopReport {
    /// The index of the loop.
    pub index: usize,
    /// Its figures; `None` if it has ended, or did not answer for a second.
    pub stats: Option<Stats>,
    /// How long its present turn has lasted; `None` while it waits. More than a few milliseconds
    /// say that a callback takes long.
    pub busy_for: Option<Duration>,
    /// Whether it has ended.
    pub ended: bool,
}

impl<S> LoopsHandle<S> {
    /// The number of loops.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// The handle of one loop, by its index.
    #[must_use]
    pub fn one(&self, index: usize) -> Option<&Handle<S>> {
        self.handles.get(index)
    }

    /// Runs a command on each loop: [`Handle::send`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn send_each<F>(&self, command: F) -> Result<(), SendError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + Clone + Send + 'static,
    {
        self.each(|handle| handle.send(command.clone()))
    }

    /// Sends a message to one connection, on whatever loop it is: [`Handle::emit_to`]. If no loop
    /// has it, nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn emit_to(
        &self,
        to: Uuid,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        match self.post.home(to) {
            Some(index) => self.handles[usize::from(index)].emit_to(to, message),
            None => Ok(()),
        }
    }

    /// Sends a message to each connection of a list, on whatever loops they are:
    /// [`Handle::emit_to_list`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn emit_to_list(
        &self,
        to: &[Uuid],
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let message = message.into();
        let mut lists = vec![Vec::new(); self.len()];
        for &uuid in to {
            if let Some(index) = self.post.home(uuid) {
                lists[usize::from(index)].push(uuid);
            }
        }
        first_error(
            self.handles
                .iter()
                .zip(lists)
                .filter(|(_, list)| !list.is_empty())
                .map(|(handle, list)| handle.emit_to_list(list, message.clone())),
        )
    }

    /// Sends a message to every open connection of all loops: [`Handle::broadcast`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn broadcast(&self, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.each(|handle| handle.broadcast(message.clone()))
    }

    /// Sends a message to the members of a topic, on whatever loops they are: [`Handle::publish`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn publish(
        &self,
        topic: &str,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let message = message.into();
        let loops = self.post.loops_with_members(topic);
        first_error(
            loops
                .iter()
                .map(|index| self.handles[usize::from(index)].publish(topic, message.clone())),
        )
    }

    /// Calls the listeners of a custom event on every open connection of all loops:
    /// [`Handle::fire`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn fire(&self, event: &str, data: impl Into<Message<'static>>) -> Result<(), SendError> {
        let data = data.into();
        self.each(|handle| handle.fire(event, data.clone()))
    }

    /// Starts a shutdown of all loops: [`Sockets::shutdown`].
    ///
    /// # Errors
    ///
    /// [`SendError::Close`] if the code may not be sent.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), SendError> {
        if !how.code.is_sendable() {
            return Err(SendError::Close(CloseError::IllegalCode(how.code)));
        }
        let (spread, deadline) = how.millis();
        let Shutdown { code, reason, .. } = how;
        self.post.shutdown_begins(spread.saturating_add(deadline));
        self.control(|| Control::Shutdown { code, reason: reason.clone(), spread, deadline });
        Ok(())
    }

    /// Sets whether new WebSocket connections get 503 on all loops:
    /// [`Sockets::refuse_upgrades`].
    pub fn refuse_upgrades(&self, refuse: bool) {
        self.control(|| Control::RefuseUpgrades(refuse));
    }

    /// Stops listening on all loops: [`Server::stop_listening`](crate::Server::stop_listening).
    pub fn stop_listening(&self) {
        self.control(|| Control::StopListening);
    }

    fn control(&self, control: impl Fn() -> Control) {
        (0..self.len() as u16).for_each(|index| self.post.control(index, control()));
    }

    /// Asks each loop for its figures, and waits for them: a second at most. So it must not be
    /// called on a loop; there, use [`Everywhere::stats`](crate::Everywhere::stats).
    #[must_use]
    pub fn reports(&self) -> Vec<LoopReport> {
        let (sender, answers) = mpsc::channel();
        let mut asked = 0;
        for (index, handle) in self.handles.iter().enumerate() {
            let sender = sender.clone();
            let sent = handle.send(move |_, sockets| _ = sender.send((index, sockets.stats())));
            asked += usize::from(sent.is_ok());
        }
        let until = Instant::now() + ANSWER_TIME;
        let mut stats = vec![None; self.len()];
        for _ in 0..asked {
            let rest = until.saturating_duration_since(Instant::now());
            let Ok((index, answer)) = answers.recv_timeout(rest) else { break };
            stats[index] = Some(answer);
        }
        let report = |(index, stats)| LoopReport {
            index,
            stats,
            busy_for: self.post.busy_for(index as u16),
            ended: self.post.has_ended(index as u16),
        };
        stats.into_iter().enumerate().map(report).collect()
    }

    fn each(&self, send: impl Fn(&Handle<S>) -> Result<(), SendError>) -> Result<(), SendError> {
        first_error(self.handles.iter().map(send))
    }
}

/// The first error of all, each of which is made.
fn first_error(results: impl Iterator<Item = Result<(), SendError>>) -> Result<(), SendError> {
    let results: Vec<_> = results.collect();
    results.into_iter().collect()
}

impl<S> Clone for LoopsHandle<S> {
    fn clone(&self) -> Self {
        Self { handles: self.handles.clone(), post: self.post.clone() }
    }
}

impl<S> fmt::Debug for LoopsHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopsHandle").field("loops", &self.len()).finish_non_exhaustive()
    }
}

/// This holds for every state.
const _: () = {
    const fn may_go_to_any_thread<T: Send + Sync>() {}
    may_go_to_any_thread::<LoopsHandle<*const ()>>();
};
