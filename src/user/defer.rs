//! Deferred requests: any thread may answer a filter's question later.
//!
//! This file holds the part that user code sees. The hub keeps the request meanwhile
//! (`Phase::Parked`), and `server::admission` continues with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::registry::{Answer, Continuation, Handle, Incoming, Sockets};
use crate::error::{AnswerError, SendError};
use crate::http::Response;
use crate::hub::Attributes;
use crate::token::Token;

/// A request that waits for its answer, from [`Sockets::defer`]. Any thread may accept or reject
/// it, once.
///
/// A `Deferred` that is dropped without an answer (for instance by a thread that panicked) answers
/// with 503. The client also gets 503 when
/// [`Builder::handshake_timeout`](crate::Builder::handshake_timeout) has passed since it connected,
/// and when the server shuts down. After that, or when the client has disconnected, no answer can
/// be sent any more: [`is_waiting`](Self::is_waiting) then returns `false`.
///
/// ```
/// use ikisocket::{Response, Server};
/// # fn ask_the_database(_: &str) -> Option<String> { None }
///
/// let mut server = Server::bind("127.0.0.1:0", ())?;
/// server.route("/ws", |_, kws| {
///     let hello = format!("Hello {}", kws.string_attribute("user").unwrap_or_default());
///     kws.emit(hello);
/// })?;
/// server.filter(|_, sockets, incoming| {
///     let cookie = incoming.cookie("session").unwrap_or_default().into_owned();
///     let deferred = sockets.defer(incoming);
///     // In a real server: a channel to a few worker threads.
///     std::thread::spawn(move || match ask_the_database(&cookie) {
///         Some(user) => deferred.accept(|attributes| attributes.set("user", user)),
///         None => deferred.reject(Response::text("Log in first.").with_status(401)),
///     });
///     Ok(())
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropped, it is answered with 503"]
pub struct Deferred<S> {
    pub(super) handle: Handle<S>,
    pub(super) token: Token,
    pub(super) waits: Arc<AtomicBool>,
    pub(super) answered: bool,
}

impl<S> Deferred<S> {
    /// Lets the request continue. The filters behind the one that deferred it run. If they agree, a
    /// WebSocket connection opens with the attributes that were set before and here, or the page is
    /// called.
    ///
    /// # Errors
    ///
    /// The same as those of [`answer`](Self::answer).
    pub fn accept<F>(self, with: F) -> Result<(), AnswerError>
    where
        F: FnOnce(&mut Attributes) + Send + 'static,
    {
        self.answer(|_, _, incoming| {
            with(&mut incoming.attributes);
            Ok(())
        })
    }

    /// Answers the request with this response, for instance with a page whose content came from
    /// another thread.
    ///
    /// ```
    /// use ikisocket::Server;
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.get("/report", |_, _, _| "")?;
    /// server.filter(|_, sockets, incoming| {
    ///     if incoming.path() == "/report" {
    ///         let deferred = sockets.defer(incoming);
    ///         std::thread::spawn(move || deferred.respond(format!("{} rows", 3)));
    ///     }
    ///     Ok(())
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`answer`](Self::answer).
    pub fn respond(self, response: impl Into<Response>) -> Result<(), AnswerError> {
        let response = response.into();
        self.answer(|_, _, _| Err(response))
    }

    /// Refuses the request with this response. It is the same as [`respond`](Self::respond), under
    /// a name that fits an upgrade.
    ///
    /// # Errors
    ///
    /// The same as those of [`answer`](Self::answer).
    pub fn reject(self, response: impl Into<Response>) -> Result<(), AnswerError> {
        self.respond(response)
    }

    /// Answers the request with the result of `go_on`, the general form of the methods above.
    /// `go_on` runs on the loop in the place of the filter, with the state and the sockets lent. It
    /// may even defer the request again.
    ///
    /// # Errors
    ///
    /// [`AnswerError::Late`] if the request does not wait any more, [`AnswerError::Gone`] if the
    /// server was dropped. `Ok` says only that the request waited at this moment. If it has ended
    /// when the loop comes to it, `go_on` is dropped.
    pub fn answer<F>(mut self, go_on: F) -> Result<(), AnswerError>
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, &mut Incoming) -> Result<(), Response>
            + Send
            + 'static,
    {
        self.send(Some(Box::new(go_on)))
    }

    /// Whether the client still waits. If it does not, the work for an answer can be saved.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    fn send(&mut self, go_on: Option<Continuation<S>>) -> Result<(), AnswerError> {
        self.answered = true;
        if !self.is_waiting() {
            return Err(if self.handle.is_gone() { AnswerError::Gone } else { AnswerError::Late });
        }
        let answer = Answer { token: self.token, waits: self.waits.clone(), go_on };
        self.handle.send_answer(answer).map_err(|error| match error {
            SendError::Gone => AnswerError::Gone,
            _ => AnswerError::Late,
        })
    }
}

impl<S> Drop for Deferred<S> {
    fn drop(&mut self) {
        if !self.answered {
            // If the request does not wait any more, no answer is needed.
            let _ = self.send(None);
        }
    }
}

impl<S> fmt::Debug for Deferred<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("waiting", &self.is_waiting()).finish_non_exhaustive()
    }
}
