//! Handles, by which other threads reach one loop or all.

use std::fmt;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::registry::{Handle, Sockets};
use super::shutdown::Shutdown;
use crate::bus::{LONG_TURN, Post};
#[cfg(unix)]
use crate::error::IoError;
use crate::error::{CloseError, SendError};
use crate::hub::Stats;
use crate::outbox::Outgoing;
use crate::protocol::Message;

/// How long a loop waits for another one to tell it of a shutdown.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the figures of a loop are awaited.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Reaches the loops of [`Loops`](crate::Loops) from any thread: clone it for each thread.
///
/// [`one`](Self::one) is the [`Handle`] of a single loop. The verbs are those of
/// [`Everywhere`](crate::Everywhere). They run as a command on one loop: on the first, as long as
/// it has not ended and no turn of it has lasted more than 5 s, otherwise on the next. The commands
/// that one thread sends to one loop run in the order in which it sent them.
pub struct LoopsHandle<S> {
    handles: Arc<[Handle<S>]>,
    pub(crate) post: Arc<Post>,
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
    /// These loops, by their indexes.
    pub(crate) fn new(handles: Arc<[Handle<S>]>, post: Arc<Post>) -> Self {
        Self { handles, post }
    }

    /// The handles of the loops, by their indexes.
    pub(crate) fn handles(&self) -> Arc<[Handle<S>]> {
        self.handles.clone()
    }

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

    /// Runs a command on each loop that has not ended: [`Handle::send`].
    ///
    /// # Errors
    ///
    /// The first error of [`Handle::send`]; the other loops run the command all the same.
    /// [`SendError::Gone`] if all loops have ended.
    pub fn send_each<F>(&self, command: F) -> Result<(), SendError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + Clone + Send + 'static,
    {
        self.each_alive(|handle| handle.send(command.clone()))
    }

    /// Sends a message to one connection, on whatever loop it is:
    /// [`Everywhere::emit_to`](crate::Everywhere::emit_to). If no loop has it, nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn emit_to(
        &self,
        to: Uuid,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let message = message.into();
        self.handles[self.any()].send(move |_, sockets| {
            let _ = sockets.everywhere().emit_to(to, message);
        })
    }

    /// Sends a message to each connection of a list, on whatever loops they are:
    /// [`Everywhere::emit_to_list`](crate::Everywhere::emit_to_list).
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn emit_to_list(
        &self,
        to: impl Into<Vec<Uuid>>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let (to, message) = (to.into(), message.into());
        self.handles[self.any()].send(move |_, sockets| {
            sockets.everywhere().emit_to_list(&to, message);
        })
    }

    /// Sends a message to every open connection of all loops:
    /// [`Everywhere::broadcast`](crate::Everywhere::broadcast).
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn broadcast(&self, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.handles[self.any()].send(move |_, sockets| {
            sockets.everywhere().broadcast(message);
        })
    }

    /// Sends a message to the members of a topic, on whatever loops they are:
    /// [`Everywhere::publish`](crate::Everywhere::publish).
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn publish(
        &self,
        topic: impl Into<String>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let (topic, message) = (topic.into(), message.into());
        self.handles[self.any()].send(move |_, sockets| {
            sockets.everywhere().publish(&topic, message);
        })
    }

    /// Calls the listeners of a custom event on every open connection of all loops:
    /// [`Everywhere::fire`](crate::Everywhere::fire).
    ///
    /// # Errors
    ///
    /// The same as those of [`Handle::send`].
    pub fn fire(
        &self,
        event: impl Into<String>,
        data: impl Into<Message<'static>>,
    ) -> Result<(), SendError> {
        let (event, data) = (event.into(), data.into());
        self.handles[self.any()].send(move |_, sockets| {
            sockets.everywhere().fire(&event, data);
        })
    }

    /// Starts a shutdown of all loops, behind the commands that wait there:
    /// [`Sockets::shutdown`].
    ///
    /// # Errors
    ///
    /// [`SendError::Close`] if the code may not be sent, [`SendError::Gone`] if all loops have
    /// ended.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), SendError> {
        if !how.code.is_sendable() {
            return Err(SendError::Close(CloseError::IllegalCode(how.code)));
        }
        let (spread, deadline) = how.millis();
        self.post.shutdown_is_asked_for(spread.saturating_add(deadline));
        // The loop that has sent what came from here before tells the others, behind it. They wait
        // for that, but not for ever: it may be stuck, or fail.
        let first = self.any();
        self.each_alive(|handle| {
            let how = how.clone();
            handle.send_unlimited(move |_, sockets| {
                if sockets.loop_index() == first {
                    let _ = sockets.shutdown(how); // Its code was checked.
                } else {
                    sockets.set_timer(PATIENCE, move |_, sockets| sockets.shut_down_once(&how));
                }
            })
        })
    }

    /// The same at once on each loop, for the case that one has failed. A loop that shuts down
    /// already goes on with that.
    pub(crate) fn shut_all_down(&self, how: &Shutdown) {
        let (spread, deadline) = how.millis();
        self.post.shutdown_is_asked_for(spread.saturating_add(deadline));
        for handle in &*self.handles {
            let how = how.clone();
            // A loop that has ended needs no shutdown.
            let _ = handle.send_unlimited(move |_, sockets| sockets.shut_down_once(&how));
        }
    }

    /// Sets whether new WebSocket connections get 503 on all loops: [`Sockets::refuse_upgrades`].
    pub fn refuse_upgrades(&self, refuse: bool) {
        self.post.set_refusing(refuse);
    }

    /// Stops listening on all loops, behind the commands that wait there:
    /// [`Server::stop_listening`](crate::Server::stop_listening).
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] if all loops have ended.
    pub fn stop_listening(&self) -> Result<(), SendError> {
        self.each_alive(Handle::stop_listening)
    }

    /// Duplicates of the descriptors of all listening sockets, to pass them on to another process:
    /// [`Server::listening_fds`](crate::Server::listening_fds). The sockets listen as long as one
    /// of the duplicates is open.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    #[cfg(unix)]
    pub fn listening_fds(&self) -> Result<Vec<OwnedFd>, IoError> {
        self.post.listening_fds().map_err(IoError::from)
    }

    /// The index of the loop on which the verbs run.
    fn any(&self) -> usize {
        let runs = |index: &usize| !self.post.has_ended(*index as u16);
        let is_stuck =
            |index: usize| self.post.busy_for(index as u16).is_some_and(|busy| busy > LONG_TURN);
        let mut running = (0..self.len()).filter(runs);
        let first = running.next().unwrap_or(0);
        if !is_stuck(first) {
            return first;
        }
        running.find(|&index| !is_stuck(index)).unwrap_or(first)
    }

    /// Sends something to each loop that has not ended. The first error counts.
    fn each_alive(
        &self,
        send: impl Fn(&Handle<S>) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let results: Vec<_> = self.handles.iter().map(send).collect();
        let reached = results.iter().any(Result::is_ok);
        let gone = |result: &Result<(), SendError>| *result == Err(SendError::Gone);
        results.into_iter().filter(|result| !(reached && gone(result))).collect()
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
}

impl<S> Sockets<'_, S> {
    /// The loops of the process, to run code on another one or on all: [`LoopsHandle::one`],
    /// [`LoopsHandle::send_each`]. `None` for a server that runs by itself, and until all loops
    /// are built.
    ///
    /// ```
    /// use ikisocket::{Builder, BuildError, Event, Server};
    ///
    /// // Each loop has a copy of all scores.
    /// fn scores(_: usize, builder: Builder) -> Result<Server<Vec<u32>>, BuildError> {
    ///     let mut server = builder.build(Vec::new())?;
    ///     server.on(Event::Message, |_, ep| {
    ///         let (score, sockets) = (ep.data.len() as u32, ep.kws.sockets());
    ///         if let Some(loops) = sockets.loops() {
    ///             let _ = loops.send_each(move |scores, _| scores.push(score)); // here, too
    ///         }
    ///     });
    ///     Ok(server)
    /// }
    /// # let _ = scores;
    /// ```
    #[must_use]
    pub fn loops(&self) -> Option<LoopsHandle<S>> {
        let (handles, link) = (self.registry.loops.get()?, self.hub.link.as_ref()?);
        Some(LoopsHandle::new(handles.clone(), link.post().clone()))
    }
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
