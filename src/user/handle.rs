//! Handles: what other threads hold to have something done on the loop, and the mailbox that it waits in.
//!
//! The lock is held for as long as it takes to move an entry, never while user code runs, not even a destructor. It knows no
//! connection, and of the loop only how to wake it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::defer::Answer;
use super::socket::{Shutdown, Sockets};
use crate::error::{CloseError, SendError};
use crate::hub::Discarded;
use crate::outbox::Outgoing;
use crate::protocol::Message;

/// Has things done on a server's loop, from any thread: clone it for each that needs one. Its one primitive is [`send`](Self::send); the verbs beside
/// it are short forms. It is [`Send`] and [`Sync`] whatever the state is, because only closures cross the threads.
///
/// A command waits in a queue ([`Builder::handle_queue`](crate::Builder::handle_queue)) until the loop turns. The commands of one thread run in the order
/// in which it sent them, each of them once. Many commands wake the loop once. A handle that nobody uses costs the loop nothing.
///
/// ```
/// use std::time::Duration;
/// use ikisocket::{SendError, Server, Shutdown};
///
/// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
/// let handle = server.handle();
/// let worker = std::thread::spawn(move || {
///     for price in 0..100u64 {
///         handle.send(move |latest, sockets| {
///             *latest = price;
///             sockets.broadcast(format!("{price}"));
///         })?;
///     }
///     handle.shutdown(Shutdown::default())
/// });
/// server.run()?;
/// assert_eq!(*server.state(), 99);
/// worker.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handle<S> {
    shared: Arc<Shared<S>>,
}

pub(crate) type Command<S> = Box<dyn FnOnce(&mut S, &mut Sockets<'_, S>) + Send>;

/// What the loop is asked for.
pub(crate) enum Errand<S> {
    Command(Command<S>),
    Answer(Answer<S>),
}

/// The loop's end of the queue.
pub(crate) struct Mailbox<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    queue: Mutex<Queue<S>>,
    waker: mio::Waker,
}

struct Queue<S> {
    errands: VecDeque<Errand<S>>,
    capacity: usize,
    /// The loop has been woken, or will come back by itself: it need not be woken again.
    awake: bool,
    /// The server is gone.
    closed: bool,
}

impl<S> Queue<S> {
    fn new(capacity: usize) -> Self {
        Self { errands: VecDeque::new(), capacity, awake: false, closed: false }
    }

    /// Whether this one can be taken. Answers always are: there is one for each connection at most.
    fn check(&self, errand: &Errand<S>) -> Result<(), SendError> {
        match errand {
            _ if self.closed => Err(SendError::Gone),
            Errand::Command(_) if self.errands.len() >= self.capacity => {
                Err(SendError::Full { capacity: self.capacity })
            }
            _ => Ok(()),
        }
    }

    /// Adds one; whether the loop has to be woken for it.
    fn push(&mut self, errand: Errand<S>) -> bool {
        self.errands.push_back(errand);
        !std::mem::replace(&mut self.awake, true)
    }

    /// Moves up to `most` to `taken`; whether some are left.
    fn take(&mut self, most: usize, taken: &mut Vec<Errand<S>>) -> bool {
        let most = most.min(self.errands.len());
        taken.extend(self.errands.drain(..most));
        self.awake = !self.errands.is_empty();
        self.awake
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        // Nothing that can panic runs under the lock, so a poisoned queue is still a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, errand: Errand<S>) -> Result<(), SendError> {
        let mut queue = self.lock();
        if let Err(error) = queue.check(&errand) {
            drop(queue);
            drop(errand);
            return Err(error);
        }
        let wake = queue.push(errand);
        drop(queue);
        if wake && let Err(error) = self.waker.wake() {
            self.lock().awake = false;
            log::error!("cannot wake the loop: {error}");
        }
        Ok(())
    }
}

impl<S> Mailbox<S> {
    pub(crate) fn new(waker: mio::Waker, capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { queue: Mutex::new(Queue::new(capacity)), waker }) }
    }

    pub(crate) fn handle(&self) -> Handle<S> {
        Handle { shared: self.shared.clone() }
    }

    /// Moves up to `most` errands to `taken`; whether some are left, for which nobody will wake the loop.
    pub(crate) fn take(&self, most: usize, taken: &mut Vec<Errand<S>>) -> bool {
        self.shared.lock().take(most, taken)
    }

    /// Whether something waits that the next turn would do.
    #[cfg(feature = "testing")]
    pub(crate) fn has_errands(&self) -> bool {
        !self.shared.lock().errands.is_empty()
    }
}

impl<S> Drop for Mailbox<S> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        let unrun = std::mem::take(&mut queue.errands);
        drop(queue);
        if !unrun.is_empty() {
            log::debug!("{} commands that had not run were dropped with the server", unrun.len());
        }
        let mut discarded = Discarded::default();
        discarded.drop_all(unrun);
        discarded.count(); // No server is left that counts them.
    }
}

impl<S> Handle<S> {
    /// Has `command` run on the loop, with the state and the sockets, in one of its next turns; never inside this call, also not on the loop's own
    /// thread. It does not wait for that. If something must come back, let the closure send it, over a channel for instance.
    ///
    /// A panic in the closure is caught like any other ([`Server::recover`](crate::Server::recover)). What has not run when the server is dropped never does: the closure is
    /// dropped. After a [`shutdown`](Sockets::shutdown) the loop takes commands for as long as it is turned.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if [`handle_queue`](crate::Builder::handle_queue) commands wait already: try again later, or do without.
    /// [`SendError::Gone`] if the server was dropped. In both cases the closure is dropped here.
    pub fn send<F>(&self, command: F) -> Result<(), SendError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + Send + 'static,
    {
        self.send_errand(Errand::Command(Box::new(command)))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.shared.lock().closed
    }

    pub(crate) fn send_errand(&self, errand: Errand<S>) -> Result<(), SendError> {
        self.shared.send(errand)
    }

    /// Sends a message to one connection: [`Sockets::emit_to`]. If it is gone by then, nothing happens.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn emit_to(&self, to: Uuid, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.send(move |_, sockets| {
            let _ = sockets.emit_to(to, message);
        })
    }

    /// Sends a message to each connection of a list: [`Sockets::emit_to_list`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn emit_to_list(
        &self,
        to: impl Into<Vec<Uuid>>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let (to, message) = (to.into(), message.into());
        self.send(move |_, sockets| {
            sockets.emit_to_list(&to, message);
        })
    }

    /// Sends a message to every connection that is open by then: [`Sockets::broadcast`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn broadcast(&self, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.send(move |_, sockets| {
            sockets.broadcast(message);
        })
    }

    /// Sends a message to the members that a topic has by then: [`Sockets::publish`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn publish(&self, topic: impl Into<String>, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let (topic, message) = (topic.into(), message.into());
        self.send(move |_, sockets| {
            sockets.publish(&topic, message);
        })
    }

    /// Calls the listeners of an event of your own on every connection that is open by then: [`Sockets::fire`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn fire(&self, event: impl Into<String>, data: impl Into<Message<'static>>) -> Result<(), SendError> {
        let (event, data) = (event.into(), data.into());
        self.send(move |state, sockets| {
            sockets.fire(state, &event, data.payload());
        })
    }

    /// Asks the server to stop: [`Sockets::shutdown`].
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); and [`SendError::Close`] if the code may not be sent.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), SendError> {
        if !how.code.is_sendable() {
            return Err(SendError::Close(CloseError::IllegalCode(how.code)));
        }
        self.send(move |_, sockets| {
            let _ = sockets.shutdown(how); // whose only error was looked for
        })
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.shared.lock();
        f.debug_struct("Handle")
            .field("waiting", &queue.errands.len())
            .field("gone", &queue.closed)
            .finish_non_exhaustive()
    }
}

impl<S> Sockets<'_, S> {
    /// A handle for another thread: [`Server::handle`](crate::Server::handle).
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.registry.mailbox.handle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Errand<()> {
        Errand::Command(Box::new(|(), _| {}))
    }

    #[test]
    fn of_many_commands_only_the_first_wakes_the_loop() {
        let mut queue = Queue::new(100);
        let woken = |queue: &mut Queue<()>, commands| (0..commands).filter(|_| queue.push(command())).count();
        assert_eq!(woken(&mut queue, 60), 1);
        let mut taken = Vec::new();
        assert!(queue.take(50, &mut taken));
        assert_eq!(woken(&mut queue, 30), 0, "ten are left: the loop comes back by itself");
        assert!(!queue.take(50, &mut taken));
        assert_eq!((taken.len(), woken(&mut queue, 30)), (90, 1));
    }
}
