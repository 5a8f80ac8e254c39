//! The verbs of `Sockets`, the open connections.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mio::Interest;
use mio::event::Source;
use uuid::Uuid;

use super::call::Context;
use super::defer::Deferred;
use super::handle::Handle;
use super::registry::{Callback, Incoming, Socket, Sockets, SourceWithCallback};
use super::shutdown::Shutdown;
use super::tables::sources::Readiness;
use super::tables::timers::{Removed, TimerId};
use crate::config::Dropped;
use crate::error::{CloseError, EmitError, IoError};
use crate::hub::{Audience, Discarded, Emitted, NEVER, Stats, Ticket};
use crate::outbox::Outgoing;
use crate::protocol::Payload;
use crate::token::{ConnectionId, Recipient, SourceId};

impl<S> Sockets<'_, S> {
    /// How many connections are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hub.open_len()
    }

    /// The time on the loop's clock, since the server was built. In a callback it is when the
    /// turn's wait ended, or a little later: the clock is not read for each callback. It has whole
    /// milliseconds and never goes back. A test moves it (`testing::Harness::advance`), so that a
    /// rate limit that uses it can be tested.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Message, |_, ep| {
    ///     let now = ep.kws.now();
    ///     let last = ep.kws.attribute::<Duration>("last").copied();
    ///     if last.is_some_and(|last| now - last < Duration::from_millis(100)) {
    ///         return ep.kws.close(); // more than ten messages in a second
    ///     }
    ///     ep.kws.set_attribute("last", now);
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.hub.now)
    }

    /// Messages that slow readers were not sent, all connections together, since the server was
    /// built.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.hub.stats.dropped
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The uuids of the connections that are open now.
    #[must_use]
    pub fn uuids(&self) -> Vec<Uuid> {
        self.hub
            .open_tokens()
            .into_iter()
            .filter_map(|token| Some(self.hub.get(token)?.uuid))
            .collect()
    }

    /// The open connection with this uuid.
    #[must_use]
    pub fn get(&mut self, uuid: Uuid) -> Option<Socket<'_, S>> {
        let token = self.hub.find(uuid)?;
        Some(Socket { hub: self.hub, registry: self.registry, token })
    }

    /// The open connection with this id. It is borrowed from these sockets: from inside a
    /// connection, keep them in a variable first.
    ///
    /// ```
    /// # use ikisocket::{ConnectionId, Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", None::<ConnectionId>)?;
    /// server.on(Event::Message, |robot, ep| {
    ///     let mut sockets = ep.kws.sockets();
    ///     let Some(mut robot) = robot.and_then(|id| sockets.by_id(id)) else { return };
    ///     robot.emit(ep.data);
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn by_id(&mut self, id: ConnectionId) -> Option<Socket<'_, S>> {
        let is_open = self.hub.is_open(id.0);
        is_open.then_some(Socket { hub: self.hub, registry: self.registry, token: id.0 })
    }

    /// Calls `visit` with each connection that is open now, except those that it closes meanwhile.
    pub fn for_each(&mut self, mut visit: impl FnMut(&mut Socket<'_, S>)) {
        for token in self.hub.open_tokens() {
            if self.hub.is_open(token) {
                visit(&mut Socket { hub: self.hub, registry: self.registry, token });
            }
        }
    }

    /// Sends a message to one connection, by its uuid or its id.
    ///
    /// ```
    /// use ikisocket::{EmitError, Server, Uuid};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// let uuid = Uuid::new_v4();
    /// assert_eq!(server.sockets().emit_to(uuid, "hello"), Err(EmitError::Gone(uuid.into())));
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`EmitError::Gone`] if there is no such open connection; otherwise why the message was
    /// refused there.
    pub fn emit_to<'m>(
        &mut self,
        to: impl Into<Recipient>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<Emitted, EmitError> {
        self.hub.emit_to(to.into(), &message.into())
    }

    /// Sends a message to each connection of a list, as often as it stands there; returns how many
    /// took it. It is encoded once. The unknown are passed over.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::List(to), None, &message.into())
    }

    /// Sends a message to every open connection; returns how many took it. On one connection the
    /// verb of this name leaves that connection out ([`Socket::broadcast`]);
    /// [`broadcast_all`](Self::broadcast_all) means the same on both.
    ///
    /// The message is encoded once, and no reader delays another. One that is longer than
    /// [`Builder::max_outbox`](crate::Builder::max_outbox) reaches none.
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::Everybody, None, &message.into())
    }

    /// Sends a message to every open connection; returns how many took it. It is the same as
    /// [`broadcast`](Self::broadcast) here, under the name that means the same on one connection
    /// ([`Socket::broadcast_all`]).
    pub fn broadcast_all<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.broadcast(message)
    }

    /// Sends a message to the members of a topic; returns how many took it. It is encoded once, and
    /// what it costs is the number of members. To a topic that has none it does nothing.
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.publish(topic, None, &message.into())
    }

    /// The uuids of a topic's members, in no particular order.
    #[must_use]
    pub fn members(&self, topic: &str) -> Vec<Uuid> {
        self.hub.members(topic)
    }

    /// How many members a topic has. A topic is there while it has some.
    #[must_use]
    pub fn member_count(&self, topic: &str) -> usize {
        self.hub.topics.count(topic)
    }

    /// Every topic with how many members it has, in no particular order.
    pub fn topics(&self) -> impl Iterator<Item = (&str, usize)> {
        self.hub.topics.iter()
    }

    /// What is going on: connections, messages and bytes, what was refused and why. It costs a look
    /// at every connection.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.registry.add_panics(self.hub.stats())
    }

    /// Calls the listeners of an event of your own on every connection that is open now; returns
    /// how many listeners ran. Nothing is sent.
    ///
    /// A built-in event's name calls nobody, and an `error` event follows on each connection.
    pub fn fire<'d>(&mut self, state: &mut S, event: &str, data: impl Into<Payload<'d>>) -> usize {
        let data = data.into();
        let mut ran = 0;
        for token in self.hub.open_tokens() {
            if self.hub.is_open(token) {
                let mut context =
                    Context { state: &mut *state, hub: &mut *self.hub, registry: self.registry };
                ran += context.fire(token, event, data);
            }
        }
        ran
    }

    /// Asks the server to stop: it accepts nobody any more, closes everybody with a code and a
    /// reason, behind all that was emitted before, and waits for their goodbyes. It goes on being
    /// polled until [`Server::is_finished`](crate::Server::is_finished);
    /// [`Server::run`](crate::Server::run) then returns.
    ///
    /// A second call closes at once whoever was not closed yet, with its own code and reason, and
    /// changes nothing about the deadline.
    ///
    /// # Errors
    ///
    /// [`CloseError::IllegalCode`] if the code may not be sent; then nothing happens.
    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), CloseError> {
        let deadline = u64::try_from(how.deadline.as_millis()).unwrap_or(u64::MAX);
        let spread = u64::try_from(how.spread.as_millis()).unwrap_or(u64::MAX);
        self.hub.shutdown(how.code, &how.reason, spread, deadline)
    }

    /// Whether new WebSocket connections get 503 from now on. Those that are open stay.
    pub fn refuse_upgrades(&mut self, refuse: bool) {
        self.hub.refusing = refuse;
    }

    /// Whether new WebSocket connections get 503: because of
    /// [`refuse_upgrades`](Self::refuse_upgrades) or a shutdown.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        self.hub.refusing || self.hub.stopping.is_some()
    }

    /// Calls `callback` once, in the first turn of the loop that begins at least `after` from now;
    /// with [`Duration::ZERO`] that is the next turn, never this call. Timers that are due together
    /// run in the order of their times, then of their setting.
    ///
    /// "Now" is when the loop has last read its clock: in a callback, when the turn's wait ended or
    /// later. That clock and the poll have whole milliseconds, and `after` is rounded up to them:
    /// by a finer clock a timer may come up to 1 ms early. How late it comes is up to who turns the
    /// loop; on a loop that has nothing else to do it is 1 ms at most, and what the operating
    /// system adds. [`Duration::MAX`] never comes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
    /// server.on(Event::Connect, |_, ep| {
    ///     let who = ep.socket_uuid;
    ///     ep.kws.sockets().set_timer(Duration::from_secs(60), move |_, sockets| {
    ///         let _ = sockets.emit_to(who, "you have been here for a minute"); // if still there
    ///     });
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_timer<F>(&mut self, after: Duration, callback: F) -> TimerId
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        let at = self.hub.now.saturating_add(millis(after));
        self.registry.schedule.set(at, None, Callback::Once(Box::new(callback)))
    }

    /// Calls `callback` each time that `every` is over, from now on, until it is cancelled. The
    /// times do not drift: each is reckoned from the one before, not from when the callback ran.
    ///
    /// If the loop was away for several of them, the callback runs once, and the next time is the
    /// first that lies ahead. It goes on after a panic in the callback. `every` is rounded up to
    /// whole milliseconds, to one at least: a sixtieth of a second becomes 17 ms, which is 58.8
    /// times a second. For the rest see [`set_timer`](Self::set_timer).
    pub fn set_interval<F>(&mut self, every: Duration, callback: F) -> TimerId
    where
        F: FnMut(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        let every = NonZeroU64::new(millis(every)).unwrap_or(NonZeroU64::MIN);
        let at = self.hub.now.saturating_add(every.get());
        self.registry.schedule.set(at, Some(every), Callback::Repeated(Box::new(callback)))
    }

    /// Cancels a timer or an interval, which may be an interval that is just running; whether there
    /// was one. From now on it is not called, also if it is due in this turn.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let Some(Removed(callback)) = self.registry.schedule.remove(timer) else { return false };
        self.registry.discard(callback);
        true
    }

    /// Watches a source of your own, any [`mio::event::Source`]: a UDP socket, or on Unix any
    /// descriptor in an `Fd`. Whenever it is ready for what `interest` says, `callback` runs on the
    /// loop with the state, the sockets and the source lent. The mio to make sources with is
    /// [`ikisocket::mio`](crate::mio).
    ///
    /// Readiness is edge-triggered: the callback is called once, when readiness begins. Read or write
    /// until the source would block, or schedule the next call with
    /// [`wake_source`](Self::wake_source). If a callback leaves data unread without that, no further
    /// event arrives for it. A callback may also be called when there is nothing to do.
    ///
    /// The source belongs to the server until it is [removed](Self::remove_source) or the server is
    /// dropped; then it is deregistered and dropped. A panic in the callback is caught, and the
    /// source stays.
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use ikisocket::Server;
    /// use ikisocket::mio::{Interest, net::UdpSocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
    /// let feed = UdpSocket::bind("127.0.0.1:0".parse()?)?;
    /// server.add_source(feed, Interest::READABLE, |packets, sockets, feed, _| {
    ///     let mut packet = [0; 1500];
    ///     loop {
    ///         match feed.recv(&mut packet) {
    ///             Ok(len) => {
    ///                 *packets += 1;
    ///                 sockets.broadcast(&packet[..len]);
    ///             }
    ///             Err(error) if error.kind() == ErrorKind::WouldBlock => break,
    ///             Err(error) => eprintln!("feed: {error}"),
    ///         }
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the operating system said; the source is dropped. It may be of a kind that cannot be
    /// watched (a regular file), or it is watched already.
    pub fn add_source<E, F>(
        &mut self,
        source: E,
        interest: Interest,
        callback: F,
    ) -> Result<SourceId, IoError>
    where
        E: Source + 'static,
        F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness) + 'static,
    {
        self.registry
            .sources
            .add(Box::new(SourceWithCallback { source, callback }), interest)
            .map_err(|(error, watched)| {
                let mut discarded = Discarded::default();
                watched.discard(&mut discarded);
                self.registry.count_panics(discarded);
                error.into()
            })
    }

    /// Stops watching a source and drops it; whether there was one. Its own callback may do so too:
    /// then it is dropped when that has returned.
    pub fn remove_source(&mut self, source: SourceId) -> bool {
        self.registry
            .sources
            .remove(source)
            .map(|discarded| self.registry.count_panics(discarded))
            .is_some()
    }

    /// Schedules a source's callback for the next turn, as if the source were ready for everything
    /// in its interest. Returns whether there is such a source.
    ///
    /// The next turn then does not wait. Several calls before it lead to one call of the callback.
    ///
    /// There are two uses:
    ///
    /// - A callback stops before the source would block, so that others are served in between. It
    ///   calls this for its own source (`readiness.id`). If it stops without this call, no further
    ///   event arrives for the data that it left.
    /// - Another callback has produced something for the source to write.
    pub fn wake_source(&mut self, source: SourceId) -> bool {
        self.registry.sources.wake(source)
    }

    /// A handle for another thread: [`Server::handle`](crate::Server::handle).
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle::new(self.registry)
    }

    /// Puts the answer to a request off, for a [filter](crate::Server::filter) that has to ask
    /// somebody else first. The filter then returns `Ok(())`, and the request waits for the
    /// [`Deferred`], which may go to another thread. What the client sends meanwhile is kept, up to
    /// [`Builder::max_head`](crate::Builder::max_head) bytes, and handled after the upgrade; more
    /// than that is answered with 400.
    ///
    /// If the filter returns `Err` after all, that is the answer. If it defers twice, only the last
    /// [`Deferred`] counts.
    pub fn defer(&mut self, incoming: &mut Incoming) -> Deferred<S> {
        let waits = Arc::new(AtomicBool::new(true));
        incoming.ticket = Some(Ticket(waits.clone()));
        Deferred { handle: self.handle(), token: incoming.token, waits, answered: false }
    }
}

impl<S> fmt::Debug for Sockets<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Whole milliseconds, rounded up.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(NEVER)
}
