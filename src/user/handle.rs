//! Handles, by which other threads run code on the loop.
//!
//! A handle knows no connection. Of the loop it knows only the inbox in which commands wait.

use std::fmt;

use uuid::Uuid;

use super::registry::{Answer, Command, Handle, Registry, Sockets};
use super::shutdown::Shutdown;
use crate::error::{CloseError, SendError};
use crate::outbox::Outgoing;
use crate::protocol::Message;
use crate::token::Recipient;

impl<S> Handle<S> {
    pub(crate) fn new(registry: &Registry<S>) -> Self {
        Self { sender: registry.inbox.sender() }
    }

    /// Runs code on the loop, with the state and the sockets, in one of its next turns. The code
    /// never runs inside this call, also not on the loop's own thread, and this call does not wait
    /// for it. If you need a result, let the closure send it, for instance over a channel.
    ///
    /// To send a message use [`emit_to`](Self::emit_to), [`broadcast`](Self::broadcast) or
    /// [`publish`](Self::publish).
    ///
    /// A panic in the closure is caught like any other
    /// ([`Server::on_panic`](crate::Server::on_panic)). If the server is dropped before a command
    /// has run, the closure is dropped and never runs. After a [`shutdown`](Sockets::shutdown) the
    /// loop runs commands as long as it is turned.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if [`handle_queue`](crate::Builder::handle_queue) commands wait already:
    /// try again later, or skip the command. [`SendError::Gone`] if the server was dropped. In both
    /// cases the closure is dropped here.
    pub fn send<F>(&self, command: F) -> Result<(), SendError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + Send + 'static,
    {
        self.sender.send(Command::Run(Box::new(command)), true)
    }

    /// The same, however many commands wait: for what the owner of several loops asks of each.
    pub(crate) fn send_unlimited<F>(&self, command: F) -> Result<(), SendError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + Send + 'static,
    {
        self.sender.send(Command::Run(Box::new(command)), false)
    }

    pub(crate) fn stop_listening(&self) -> Result<(), SendError> {
        self.sender.send(Command::StopListening, false)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.sender.is_gone()
    }

    /// The limit does not apply: there is at most one answer for each connection.
    pub(super) fn send_answer(&self, answer: Answer<S>) -> Result<(), SendError> {
        self.sender.send(Command::Answer(answer), false)
    }

    /// Sends a message to one connection: [`Sockets::emit_to`]. If that is not open when the
    /// command runs, nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub fn emit_to(
        &self,
        to: impl Into<Recipient>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let (to, message) = (to.into(), message.into());
        self.send(move |_, sockets| {
            let _ = sockets.emit_to(to, message);
        })
    }

    /// Sends a message to each connection of a list: [`Sockets::emit_to_list`].
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
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

    /// Sends a message to every connection that is open when the command runs:
    /// [`Sockets::broadcast`].
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub fn broadcast(&self, message: impl Into<Outgoing<'static>>) -> Result<(), SendError> {
        let message = message.into();
        self.send(move |_, sockets| {
            sockets.broadcast(message);
        })
    }

    /// Sends a message to the members that a topic has when the command runs: [`Sockets::publish`].
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub fn publish(
        &self,
        topic: impl Into<String>,
        message: impl Into<Outgoing<'static>>,
    ) -> Result<(), SendError> {
        let (topic, message) = (topic.into(), message.into());
        self.send(move |_, sockets| {
            sockets.publish(&topic, message);
        })
    }

    /// Calls the listeners of a custom event on every connection that is open when the command
    /// runs: [`Sockets::fire`].
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub fn fire(
        &self,
        event: impl Into<String>,
        data: impl Into<Message<'static>>,
    ) -> Result<(), SendError> {
        let (event, data) = (event.into(), data.into());
        self.send(move |state, sockets| {
            sockets.fire(state, &event, data.payload());
        })
    }

    /// Sets whether new WebSocket connections get 503: [`Sockets::refuse_upgrades`].
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub fn refuse_upgrades(&self, refuse: bool) -> Result<(), SendError> {
        self.send(move |_, sockets| sockets.refuse_upgrades(refuse))
    }

    /// Starts a shutdown: [`Sockets::shutdown`]. With [`Loops`](crate::Loops) all loops shut down.
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send), and [`SendError::Close`] if the code may not be
    /// sent.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), SendError> {
        if !how.code.is_sendable() {
            return Err(SendError::Close(CloseError::IllegalCode(how.code)));
        }
        self.send(move |_, sockets| {
            let _ = sockets.shutdown(how); // its only error was checked above
        })
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("waiting", &self.sender.waiting())
            .field("gone", &self.sender.is_gone())
            .finish_non_exhaustive()
    }
}
