//! The methods of `Sockets`, the open connections.

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
use super::registry::{Callback, Handle, Incoming, Socket, Sockets, SourceWithCallback};
use super::shutdown::Shutdown;
use super::tables::sources::Readiness;
use super::tables::timers::{Removed, TimerId};
use crate::bus::{Letter, Node};
use crate::config::Dropped;
use crate::error::{CloseError, EmitError, IoError};
use crate::hub::{Audience, Discarded, Emitted, NEVER, Stats, Ticket};
use crate::outbox::Outgoing;
use crate::protocol::Payload;
use crate::token::{ConnectionId, Recipient, SourceId};

impl<S> Sockets<'_, S> {
    /// The number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hub.open_len()
    }

    /// The time on the loop's clock, since the server was built. In a callback it is the time at
    /// which the turn's wait ended, or a little later: the clock is not read for each callback. It
    /// has whole milliseconds and never goes back. A test can move it
    /// (`testing::Harness::advance`), so that code such as a rate limit can be tested.
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

    /// Counts of messages that were not sent because their reader was too slow, over all
    /// connections, since the server was built.
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
        self.hub.open_uuids()
    }

    /// The open connection with this uuid.
    #[must_use]
    pub fn get(&mut self, uuid: Uuid) -> Option<Socket<'_, S>> {
        let token = self.hub.find(uuid)?;
        Some(Socket { hub: self.hub, registry: self.registry, token })
    }

    /// The open connection with this id. It is borrowed from these sockets. So inside a callback of
    /// a connection, keep the result of [`Socket::sockets`] in a variable first.
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

    /// Calls `visit` with each connection that is open now, except those that `visit` closes before
    /// their turn.
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
    /// [`EmitError::Gone`] if there is no such open connection. Otherwise the reason why that
    /// connection refused the message.
    pub fn emit_to<'m>(
        &mut self,
        to: impl Into<Recipient>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<Emitted, EmitError> {
        self.hub.emit_to(to.into(), &message.into())
    }

    /// Sends a message to each connection of a list; returns how many accepted it. A connection
    /// that is twice in the list gets it twice. The message is encoded once. Unknown uuids are
    /// skipped.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::List(to), None, &message.into())
    }

    /// Sends a message to every open connection; returns how many accepted it.
    /// [`Socket::broadcast`], the method of this name on one connection, leaves that connection
    /// out; [`broadcast_all`](Self::broadcast_all) means the same on both.
    ///
    /// The message is encoded once, and no reader delays another. A message longer than
    /// [`Builder::max_outbox`](crate::Builder::max_outbox) reaches no connection.
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::All, None, &message.into())
    }

    /// Sends a message to every open connection; returns how many accepted it. It does the same as
    /// [`broadcast`](Self::broadcast), under the name that means the same on one connection
    /// ([`Socket::broadcast_all`]).
    pub fn broadcast_all<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.broadcast(message)
    }

    /// Sends a message to the members of a topic; returns how many accepted it. The message is
    /// encoded once, and the cost grows with the number of members. A topic without members costs
    /// nothing.
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.publish(topic, None, &message.into())
    }

    /// The uuids of a topic's members, in no particular order.
    #[must_use]
    pub fn members(&self, topic: &str) -> Vec<Uuid> {
        self.hub.members(topic)
    }

    /// The number of a topic's members. A topic exists as long as it has members.
    #[must_use]
    pub fn member_count(&self, topic: &str) -> usize {
        self.hub.topics.count(topic)
    }

    /// Every topic with the number of its members, in no particular order.
    pub fn topics(&self) -> impl Iterator<Item = (&str, usize)> {
        self.hub.topics.iter()
    }

    /// Whether the server is ready for clients: it accepts upgrades, and its
    /// [bus](crate::manual::many_machines) is up, unless it may be
    /// down (`Bus::ready_while_down`). For a page that a load balancer asks. It does not say that
    /// other servers are [known](crate::manual::many_machines#questions-to-all-servers).
    ///
    /// ```
    /// use ikisocket::{Response, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.get("/ready", |(), sockets, _| {
    ///     Response::new(if sockets.is_ready() { 200 } else { 503 })
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.hub.is_refusing()
            && self.hub.stopping.is_none()
            && self.hub.link.as_ref().is_none_or(|link| link.is_ready())
    }

    /// Whether this server has a [bus](crate::manual::many_machines), and it is up.
    #[must_use]
    pub fn is_bus_up(&self) -> bool {
        self.hub.link.as_ref().is_some_and(|link| link.is_bus_up())
    }

    /// The name of this server on its [bus](crate::manual::many_machines), if it has one.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.hub.link.as_ref()?.node()
    }

    /// The server's figures: connections, messages and bytes, and what was refused and why. The
    /// call looks at every connection.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.registry.add_panics(self.hub.stats())
    }

    /// Calls the listeners of a custom event on every connection that is open now; returns how many
    /// listeners ran. Nothing is sent.
    ///
    /// With a built-in event's name it calls no listener, and `error` fires on each connection.
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

    /// Starts a shutdown. The server accepts no more connections. It closes all open ones with a
    /// code and a reason, each after everything that was emitted to it before, and waits for their
    /// close frames. Keep polling the server until
    /// [`Server::is_finished`](crate::Server::is_finished) is true;
    /// [`Server::run`](crate::Server::run) then returns.
    ///
    /// Connections that are still open at the [deadline](Shutdown::deadline) are reset, and what
    /// waits for them is dropped.
    ///
    /// A second call closes the remaining open connections at once, with its own code and reason.
    /// It does not change the deadline.
    ///
    /// With [`Loops`](crate::Loops) all loops shut down. If several of them call this within a
    /// second, each of them once, that is one shutdown, with the code and reason of each.
    ///
    /// # Errors
    ///
    /// [`CloseError::IllegalCode`] if the code may not be sent; then nothing happens.
    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), CloseError> {
        let (spread, deadline) = how.millis();
        let (code, again) = (how.code, self.hub.stopping.is_some());
        if code.is_sendable() && self.hub.joins_shutdown() {
            return Ok(());
        }
        self.hub.shutdown(code, &how.reason, spread, deadline)?;
        if let Some(link) = &mut self.hub.link {
            link.tell_all(&how.reason, || Letter::Shutdown { code, spread, deadline, again });
        }
        Ok(())
    }

    /// Starts a shutdown of this loop alone, as the owner of all loops asks of each. The code was
    /// checked. If the loop shuts down already, this may be a second call, or changes nothing.
    pub(crate) fn shut_down_here(&mut self, how: &Shutdown, may_hasten: bool) {
        let goes_on = self.hub.stopping.is_some() && !may_hasten;
        if !goes_on && !self.hub.joins_shutdown() {
            let (spread, deadline) = how.millis();
            let _ = self.hub.shutdown(how.code, &how.reason, spread, deadline);
        }
    }

    /// Sets whether new WebSocket connections get 503 from now on. Open connections stay. With
    /// [`Loops`](crate::Loops) it holds for all loops.
    pub fn refuse_upgrades(&mut self, refuse: bool) {
        self.hub.set_refusing(refuse);
    }

    /// Whether new WebSocket connections get 503, because of
    /// [`refuse_upgrades`](Self::refuse_upgrades) or a shutdown.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        self.hub.is_refusing() || self.hub.stopping.is_some()
    }

    /// Calls `callback` once, in the first turn of the loop that begins at least `after` from now.
    /// With [`Duration::ZERO`] that is the next turn; `callback` never runs inside this call.
    /// Timers that are due together run in the order of their times; of equal times, the timer that
    /// was set first runs first.
    ///
    /// "Now" is the time at which the loop has last read its clock: in a callback, when the turn's
    /// wait ended or later. That clock and the poll have whole milliseconds, and `after` is rounded
    /// up to them. So by a finer clock a timer may fire up to 1 ms early. How late it fires depends
    /// on how often the loop is turned. On a loop that has nothing else to do it is 1 ms at most,
    /// plus the operating system's delay. A timer with [`Duration::MAX`] never fires.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
    /// server.on(Event::Connect, |_, ep| {
    ///     let uuid = ep.socket_uuid;
    ///     ep.kws.sockets().set_timer(Duration::from_secs(60), move |_, sockets| {
    ///         let _ = sockets.emit_to(uuid, "you have been here for a minute"); // if still there
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

    /// Calls `callback` each time that `every` has passed, from now on, until it is cancelled. The
    /// times do not drift: each is computed from the previous time, not from when the callback ran.
    ///
    /// If the loop was not turned for several of these times, the callback runs once, and the next
    /// time is the first one in the future. The interval continues after a panic in the callback.
    /// `every` is rounded up to whole milliseconds, to at least one: a sixtieth of a second becomes
    /// 17 ms, which is 58.8 times a second. [`set_timer`](Self::set_timer) describes the clock.
    pub fn set_interval<F>(&mut self, every: Duration, callback: F) -> TimerId
    where
        F: FnMut(&mut S, &mut Sockets<'_, S>) + 'static,
    {
        let every = NonZeroU64::new(millis(every)).unwrap_or(NonZeroU64::MIN);
        let at = self.hub.now.saturating_add(every.get());
        self.registry.schedule.set(at, Some(every), Callback::Repeated(Box::new(callback)))
    }

    /// Cancels a timer or an interval; returns whether there was one. It may be the interval whose
    /// callback is running. From now on the callback is not called, also if it is due in this turn.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let Some(Removed(callback)) = self.registry.schedule.remove(timer) else { return false };
        self.registry.discard(callback);
        true
    }

    /// Watches a source of your own, any [`mio::event::Source`]: a UDP socket, or on Unix any
    /// descriptor in an `Fd`. Whenever the source is ready for something in `interest`, `callback`
    /// runs on the loop with the state, the sockets and the source lent. Make mio sources with
    /// [`ikisocket::mio`](crate::mio), the version that the server uses.
    ///
    /// Readiness is edge-triggered: the callback is called once, when readiness begins. Read or
    /// write until the source would block, or schedule the next call with
    /// [`wake_source`](Self::wake_source). If a callback leaves data unread without that, no
    /// further event arrives for it. A callback may also be called when there is nothing to do.
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
    /// The operating system's error; the source is dropped. The source may be of a kind that cannot
    /// be watched (a regular file), or be watched already.
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

    /// Stops watching a source and drops it; returns whether there was one. Its own callback may
    /// call this too: then the source is dropped when that callback has returned.
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
    /// - A callback stops before the source would block, so that connections and other sources are
    ///   served in between. It calls this for its own source (`readiness.id`). If it stops without
    ///   this call, no further event arrives for the data that it left.
    /// - Another callback has produced something for the source to write.
    pub fn wake_source(&mut self, source: SourceId) -> bool {
        self.registry.sources.wake(source)
    }

    /// A handle for another thread: [`Server::handle`](crate::Server::handle).
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle::new(self.registry)
    }

    /// Defers the answer to a request, for a [filter](crate::Server::filter) that needs the answer
    /// of another thread or server first.
    ///
    /// The filter then returns `Ok(())`, and the request waits for the [`Deferred`], which may go
    /// to another thread. The server keeps what the client sends meanwhile, up to
    /// [`Builder::max_head`](crate::Builder::max_head) bytes, and handles it after the upgrade. A
    /// client that sends more gets 400.
    ///
    /// If the filter returns `Err` after all, the client gets that answer. If the filter defers
    /// twice, only the last [`Deferred`] counts.
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
