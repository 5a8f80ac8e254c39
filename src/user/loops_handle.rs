//! Handles, by which other threads reach one loop or all.

use std::fmt;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::registry::{Handle, Sockets};
use super::shutdown::Shutdown;
use crate::bus::Post;
#[cfg(unix)]
use crate::error::IoError;
use crate::error::{CloseError, SendError};
use crate::hub::Stats;
use crate::outbox::Outgoing;
use crate::protocol::Message;

/// How long the figures of a loop are awaited.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Reaches the loops of [`Loops`](crate::Loops) from any thread: clone it for each thread.
///
/// [`one`](Self::one) is the [`Handle`] of a single loop. The verbs send a command to each loop
/// that has something to do with it. The commands of one thread run on each loop in the order in
/// which it sent them, and a loop that is behind delays only its own. What is sent here and what
/// callbacks send [everywhere](crate::Sockets::everywhere) have no order between them.
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
    /// How long its present turn had lasted when it was asked:
    /// [`busy_for`](LoopsHandle::busy_for).
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

    /// Sends a message to one connection, on whatever loop it is: [`Handle::emit_to`] of that loop.
    /// If no loop can have it, or its loop has ended, nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`send_each`](Self::send_each).
    pub fn emit_to(
        &self,
        to: Uuid,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        self.check()?;
        let Some(index) = self.post.home(to) else { return Ok(()) };
        first_error(std::iter::once(self.handles[usize::from(index)].emit_to(to, message)))
    }

    /// Sends a message to each connection of a list, on whatever loops they are:
    /// [`Handle::emit_to_list`] of those loops.
    ///
    /// # Errors
    ///
    /// The same as those of [`send_each`](Self::send_each).
    pub fn emit_to_list(
        &self,
        to: impl Into<Vec<Uuid>>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        self.check()?;
        let message = message.into();
        let mut lists = vec![Vec::new(); self.len()];
        for uuid in to.into() {
            if let Some(index) = self.post.home(uuid) {
                lists[usize::from(index)].push(uuid);
            }
        }
        let all = self.handles.iter().zip(lists).filter(|(_, list)| !list.is_empty());
        first_error(all.map(|(handle, list)| handle.emit_to_list(list, message.clone())))
    }

    /// Sends a message to every open connection of all loops: [`Handle::broadcast`] of each.
    ///
    /// # Errors
    ///
    /// The same as those of [`send_each`](Self::send_each).
    pub fn broadcast(&self, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.each_alive(|handle| handle.broadcast(message.clone()))
    }

    /// Sends a message to the members of a topic, on whatever loops they are: [`Handle::publish`]
    /// of the loops that have members now.
    ///
    /// # Errors
    ///
    /// The same as those of [`send_each`](Self::send_each).
    pub fn publish(
        &self,
        topic: impl Into<String>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        self.check()?;
        let (topic, message) = (topic.into(), message.into());
        let loops = self.post.loops_with_members(&topic);
        first_error(
            loops.iter().map(|index| {
                self.handles[usize::from(index)].publish(topic.clone(), message.clone())
            }),
        )
    }

    /// Calls the listeners of a custom event on every open connection of all loops:
    /// [`Handle::fire`] of each.
    ///
    /// # Errors
    ///
    /// The same as those of [`send_each`](Self::send_each).
    pub fn fire(
        &self,
        event: impl Into<String>,
        data: impl Into<Message<'static>>,
    ) -> Result<(), SendError> {
        let (event, data) = (event.into(), data.into());
        self.each_alive(|handle| handle.fire(event.clone(), data.clone()))
    }

    /// Starts a shutdown of all loops, on each behind the commands that wait there:
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
        self.shut_down(&how, true)
    }

    /// The same for the case that a loop has failed: a loop that shuts down already goes on with
    /// that.
    pub(crate) fn shut_down_once(&self, how: &Shutdown) {
        let _ = self.shut_down(how, false); // If all have ended, it is done.
    }

    fn shut_down(&self, how: &Shutdown, may_hasten: bool) -> Result<(), SendError> {
        let (spread, deadline) = how.millis();
        self.post.shutdown_is_asked_for(spread.saturating_add(deadline));
        self.each_alive(|handle| {
            let how = how.clone();
            handle.send_unlimited(move |_, sockets| sockets.shut_down_here(&how, may_hasten))
        })
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
    /// [`Server::listening_fds`](crate::Server::listening_fds). They come in the order in which the
    /// loops began to listen, plain sockets and those for TLS alike: a successor has to know which
    /// are which. The sockets listen as long as one of the duplicates is open.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    #[cfg(unix)]
    pub fn listening_fds(&self) -> Result<Vec<OwnedFd>, IoError> {
        self.post.listening_fds().map_err(IoError::from)
    }

    /// Whether a loop is left that could do anything.
    fn check(&self) -> Result<(), SendError> {
        let all_ended = (0..self.len() as u16).all(|index| self.post.has_ended(index));
        if all_ended { Err(SendError::Gone) } else { Ok(()) }
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

    /// How long the present turn of a loop has lasted; `None` while it waits, and if it has ended.
    /// This call does not wait, so it may be used everywhere, for instance in a page that a load
    /// balancer asks for.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::{Builder, Loops, Response, Shutdown};
    ///
    /// let running = Loops::new(2).start(|_, builder: Builder| {
    ///     let mut server = builder.build(())?;
    ///     server.get("/healthz", |(), sockets, _| {
    ///         let hangs = |busy: Duration| busy > Duration::from_millis(500);
    ///         let all = sockets.loops();
    ///         match all.filter(|all| (0..all.len()).any(|i| all.busy_for(i).is_some_and(hangs))) {
    ///             Some(_) => Response::text("a loop hangs").with_status(503),
    ///             None => Response::text("ok"),
    ///         }
    ///     })?;
    ///     Ok::<_, Box<dyn std::error::Error>>(server)
    /// })?;
    /// # running.handle().shutdown(Shutdown::default())?;
    /// # running.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn busy_for(&self, index: usize) -> Option<Duration> {
        if index < self.len() { self.post.busy_for(index as u16) } else { None }
    }

    /// Asks each loop for its figures, and waits for them: a second at most. So it must not be
    /// called on a loop; there, use [`Everywhere::stats`](crate::Everywhere::stats).
    #[must_use]
    pub fn reports(&self) -> Vec<LoopReport> {
        let (sender, answers) = mpsc::channel();
        let mut asked = 0;
        let busy: Vec<_> = (0..self.len()).map(|index| self.busy_for(index)).collect();
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
            busy_for: busy[index],
            ended: self.post.has_ended(index as u16),
        };
        stats.into_iter().enumerate().map(report).collect()
    }
}

/// The first error of all, each of which is made. A loop that has ended has no connections, so it
/// is no error that nothing can be sent to it.
fn first_error(results: impl Iterator<Item = Result<(), SendError>>) -> Result<(), SendError> {
    let results: Vec<_> = results.collect();
    results.into_iter().filter(|result| *result != Err(SendError::Gone)).collect()
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
