//! The queue of commands from other threads to the loop. A send wakes the loop if it has to.
//!
//! It knows nothing of the commands themselves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::SendError;
use crate::hub::Discarded;

/// The loop's end of the queue.
pub(crate) struct Inbox<C> {
    shared: Arc<Shared<C>>,
}

/// The end of the queue that any thread may hold.
pub(crate) struct Sender<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    queue: Mutex<Queue<C>>,
    waker: Arc<mio::Waker>,
}

struct Queue<C> {
    commands: VecDeque<C>,
    capacity: usize,
    /// The loop has been woken, or will look at the queue by itself: it need not be woken again.
    awake: bool,
    /// The server was dropped.
    closed: bool,
}

impl<C> Queue<C> {
    fn new(capacity: usize) -> Self {
        Self { commands: VecDeque::new(), capacity, awake: false, closed: false }
    }

    /// Whether one more command is accepted; a command that is not `limited` is always accepted.
    fn check(&self, limited: bool) -> Result<(), SendError> {
        if self.closed {
            Err(SendError::Gone)
        } else if limited && self.commands.len() >= self.capacity {
            Err(SendError::Full { capacity: self.capacity })
        } else {
            Ok(())
        }
    }

    /// Adds one command; returns whether the loop has to be woken for it.
    fn push(&mut self, command: C) -> bool {
        self.commands.push_back(command);
        !std::mem::replace(&mut self.awake, true)
    }

    /// Moves up to `most` commands to `taken`; returns whether more are left.
    fn take(&mut self, most: usize, taken: &mut Vec<C>) -> bool {
        let most = most.min(self.commands.len());
        taken.extend(self.commands.drain(..most));
        self.awake = !self.commands.is_empty();
        self.awake
    }
}

impl<C> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, Queue<C>> {
        // No code that can panic runs under the lock, so a poisoned queue is still consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: C, limited: bool) -> Result<(), SendError> {
        let mut queue = self.lock();
        if let Err(error) = queue.check(limited) {
            drop(queue);
            drop(command);
            return Err(error);
        }
        let wake = queue.push(command);
        drop(queue);
        if wake && let Err(error) = self.waker.wake() {
            self.lock().awake = false;
            log::error!("cannot wake the loop: {error}");
        }
        Ok(())
    }
}

impl<C> Inbox<C> {
    pub(crate) fn new(waker: Arc<mio::Waker>, capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { queue: Mutex::new(Queue::new(capacity)), waker }) }
    }

    pub(crate) fn sender(&self) -> Sender<C> {
        Sender { shared: self.shared.clone() }
    }

    /// Moves up to `most` commands to `taken`; returns whether more are left. The loop is not woken
    /// for those again.
    pub(crate) fn take(&self, most: usize, taken: &mut Vec<C>) -> bool {
        self.shared.lock().take(most, taken)
    }

    /// Whether commands wait that the next turn would run.
    #[cfg(feature = "testing")]
    pub(crate) fn has_commands(&self) -> bool {
        !self.shared.lock().commands.is_empty()
    }
}

impl<C> Drop for Inbox<C> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        let unrun = std::mem::take(&mut queue.commands);
        drop(queue);
        if !unrun.is_empty() {
            log::debug!("{} commands that had not run were dropped with the server", unrun.len());
        }
        let mut discarded = Discarded::default();
        discarded.drop_all(unrun);
        discarded.count(); // No server remains to count them.
    }
}

impl<C> Sender<C> {
    /// Sends a command to the loop. If it is not `limited`, the queue's capacity does not apply.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] and [`SendError::Gone`]; the command is dropped.
    pub(crate) fn send(&self, command: C, limited: bool) -> Result<(), SendError> {
        self.shared.send(command, limited)
    }

    /// The number of commands that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().commands.len()
    }

    /// Whether the loop's end was dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<C> Clone for Sender<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_commands_only_the_first_wakes_the_loop() {
        let mut queue = Queue::new(100);
        let woken =
            |queue: &mut Queue<()>, commands| (0..commands).filter(|_| queue.push(())).count();
        assert_eq!(woken(&mut queue, 60), 1);
        let mut taken = Vec::new();
        assert!(queue.take(50, &mut taken));
        assert_eq!(woken(&mut queue, 30), 0, "ten are left: the loop comes back by itself");
        assert!(!queue.take(50, &mut taken));
        assert_eq!((taken.len(), woken(&mut queue, 30)), (90, 1));
    }
}
