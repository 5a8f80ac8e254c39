//! The bus at the loop that holds its connection: one more source of the loop. What comes by it is
//! delivered in `delivery`; its socket is in `line`.

mod delivery;
mod line;

use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;

use super::Server;
use super::budget::{GONE_PART, LETTERS_PART, LOOK, MESSAGE};
use crate::bus::{
    Arrived, Bus, BusEvent, GapFrom, HOLDER, Letter, Link, Node, Opened, Post, Seat, run_number,
};
use crate::error::BusError;
#[cfg(feature = "testing")]
pub(crate) use line::Dial;
pub(super) use line::Line;

/// The bytes that wait for the loops of a server by itself, which has no other loops.
const NO_LANES: usize = 1024;

impl<S> Server<S> {
    /// Connects the server with other servers by a bus: the verbs of
    /// [`everywhere()`](crate::Sockets::everywhere) reach the connections of all servers with the
    /// same Redis and the same [prefix](Bus::prefix). Call it before the server has connections.
    /// Several loops get their bus by [`Loops::bus`](crate::Loops::bus). It needs the feature
    /// `redis`.
    ///
    /// Nothing is waited for: the connection is made while the loop turns, and made again whenever
    /// it ends. Meanwhile the verbs say that the bus is down, and
    /// [`on_bus`](Self::on_bus) announces each change. See the chapter [Many
    /// machines](crate::manual::many_machines).
    ///
    /// ```no_run
    /// use ikisocket::{Bus, BusEvent, Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:3000", ())?;
    /// server.bus(Bus::redis("redis://127.0.0.1:6379")?.prefix("chat"))?;
    /// server.on_bus(|_, sockets, event| match event {
    ///     BusEvent::Down { why, .. } => _ = sockets.broadcast(format!("alone: {why}")),
    ///     BusEvent::Up { .. } => _ = sockets.broadcast("together again"),
    ///     _ => {}
    /// });
    /// server.route("/ws", |_, kws| _ = kws.join("room"))?;
    /// server.on(Event::Message, |_, ep| _ = ep.kws.everywhere().publish("room", ep.data));
    /// server.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BusError`]: a setting is out of its range, or the server has connections or a bus, or is
    /// one of several loops. That Redis cannot be reached is no error here, but
    /// [`BusEvent::Down`].
    pub fn bus(&mut self, bus: Bus) -> Result<&mut Self, BusError> {
        bus.check()?;
        match &self.hub.link {
            Some(link) if link.has_bus() && link.post().len() == 1 => return Err(BusError::Given),
            Some(_) => return Err(BusError::OneOfLoops),
            None if self.hub.stats.accepted > 0 => return Err(BusError::TooLate),
            None => {}
        }
        let post = Post::with_bus(1, NO_LANES, run_number(), bus);
        let taken = self.join_loops(Seat { post, index: 0 });
        debug_assert!(taken.is_ok(), "the place is new");
        Ok(self)
    }

    /// Takes the connection of the bus, if there is one and this loop holds it.
    pub(super) fn join_bus(&mut self, seat: &Seat) {
        if let Some(outlet) = seat.post.outlet().filter(|_| seat.index == HOLDER) {
            log::info!(
                "the bus: {}, prefix {}, this node is {}",
                outlet.bus.address,
                outlet.bus.prefix,
                Node(seat.post.node())
            );
            self.line = Some(Box::new(Line::new(outlet, seat, self.clock())));
            self.backlog.push_bus();
        }
    }

    /// Notes an event of the connection.
    #[cold]
    pub(super) fn note_bus(&mut self, event: &Event) {
        self.bus_is_ready(event.is_readable(), event.is_writable(), event.is_read_closed());
    }

    pub(super) fn bus_is_ready(&mut self, readable: bool, writable: bool, read_closed: bool) {
        if let Some(line) = &mut self.line {
            line.readable |= readable || read_closed;
            line.writable |= writable;
            line.ends |= read_closed;
            self.backlog.push_bus();
        }
    }

    /// Whether the answer of the system to a name may have come.
    pub(super) fn bus_resolves(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.resolving.is_some())
    }

    /// Serves the bus if it has something to do.
    #[cold]
    pub(super) fn serve_bus_if_due(&mut self, buffer: &mut [u8]) {
        let now = self.hub.now;
        if self.backlog.take_bus()
            || self.line.as_ref().is_some_and(|line| line.next_deadline() <= now)
        {
            // If the connection has ended, these are among what is not confirmed.
            self.flush_bus();
            self.serve_bus(buffer);
        }
    }

    /// Connects, reads and handles what has come, and does what is due.
    fn serve_bus(&mut self, buffer: &mut [u8]) {
        let Some(mut line) = self.line.take() else { return };
        let now = self.hub.now;
        let until = self.hub.work.saturating_add(self.hub.work_per_turn / LETTERS_PART);
        // What has come counts as a sign of life.
        line.readable |= line.next_deadline() <= now;
        self.receive_by_bus(&mut line, buffer, until);
        // After what Redis has said before its end.
        if let Some(kind) = line.broken
            && let Some(ended) = line.engine.disconnected(now, Some(kind))
        {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        if let Some(ended) = line.engine.expire(now) {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        // Some in each turn, because one takes the longer the more there are. Then the deadline of
        // the search is still due.
        let enough = self.hub.work.saturating_add(self.hub.work_per_turn / GONE_PART);
        while self.hub.work < enough
            && let Some(node) = line.engine.next_gone(now)
        {
            log::warn!("the bus: node {} has given no sign of life for 10 s", Node(node));
            self.node_has_left(&mut line, node);
            self.tell_loops(BusEvent::NodeGone { node: Node(node) });
        }
        if let Some(ended) = line.connect(&self.reactor, now) {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        // At once: the time of a PING runs, and user code may run before the end of the turn.
        line.write();
        if !line.kept.is_empty() || line.readable || line.broken.is_some() {
            self.backlog.push_bus();
        }
        if let Some(link) = &mut self.hub.link {
            note_nodes(&mut line, link);
            link.set_bus_stats(line.engine.stats());
        }
        self.line = Some(line);
    }

    /// Reads and handles what has come, until the turn's work reaches `until`.
    fn receive_by_bus(&mut self, line: &mut Line, buffer: &mut [u8], until: usize) {
        let kept = std::mem::take(&mut line.kept);
        if !kept.is_empty() {
            self.handle_bus_input(line, &kept, until);
        }
        while line.readable && line.kept.is_empty() && self.hub.work < until {
            match line.read(buffer) {
                Ok(len) => {
                    self.hub.work += len;
                    self.handle_bus_input(line, &buffer[..len], until);
                }
                Err(kind) => {
                    let ended = line.engine.disconnected(self.hub.now, kind);
                    line.close();
                    if let Some(ended) = ended {
                        self.bus_ended(line, ended);
                    }
                }
            }
        }
        // Also if the last of it was kept from a turn before.
        if !line.readable && line.kept.is_empty() {
            line.engine.drained();
        }
    }

    fn handle_bus_input(&mut self, line: &mut Line, mut input: &[u8], until: usize) {
        let now = self.hub.now;
        while let Some(arrived) = line.engine.receive(now, &mut input) {
            match arrived {
                Arrived::Nothing => {}
                Arrived::Message { node, topic, lost, body } => {
                    self.hub.work += MESSAGE;
                    self.handle_bus_message(node, topic, lost, &body);
                    self.context().drain_notifications();
                }
                Arrived::Left { node } => self.node_has_left(line, node),
                Arrived::Unsubscribed { topic } => {
                    log::warn!("the bus: Redis has ended a subscription by itself");
                    self.announce_gap(GapFrom::Unknown, topic, None);
                }
                Arrived::Up { was_down_for } => self.bus_is_up(line, was_down_for),
                Arrived::Down { failure, unconfirmed } => {
                    line.close();
                    self.bus_ended(line, Arrived::Down { failure, unconfirmed });
                    return;
                }
                Arrived::Failed { failure, retry_in } => {
                    line.close();
                    self.bus_ended(line, Arrived::Failed { failure, retry_in });
                    return;
                }
            }
            if self.hub.work >= until && !input.is_empty() {
                line.kept = input.to_vec();
                return;
            }
        }
    }

    fn bus_is_up(&mut self, line: &mut Line, was_down_for: u64) {
        log::info!("the bus is up");
        line.last_failure = None;
        if let Some(outlet) = self.hub.link.as_ref().and_then(|link| link.outlet()) {
            outlet.set_up(true);
        }
        self.tell_loops(BusEvent::Up { was_down_for: Duration::from_millis(was_down_for) });
    }

    /// A node has said that it ends, or is gone: no question of any loop waits for it.
    fn node_has_left(&mut self, line: &mut Line, node: u64) {
        self.hub.work += MESSAGE + LOOK * line.engine.nodes();
        let Some(link) = &mut self.hub.link else { return };
        // First: a question that is asked from now on does not count on it. Each one that was asked
        // before is there when its loop handles the letter.
        note_nodes(line, link);
        for index in link.others().iter() {
            // Without room there, a question of that loop waits until its time is over.
            link.tell(index, Letter::NodeLeft(node));
        }
        self.context().give_up_nodes(Some(node));
    }

    /// The connection has ended, or could not be made.
    fn bus_ended(&mut self, line: &mut Line, ended: Arrived<'static>) {
        if let Some(outlet) = self.hub.link.as_ref().and_then(|link| link.outlet()) {
            outlet.set_up(false);
            outlet.set_unsent(0);
        }
        match ended {
            Arrived::Down { failure, unconfirmed } => {
                log::warn!("the bus is down: {failure}; unconfirmed messages: {unconfirmed}");
                line.last_failure = Some(failure.clone());
                self.tell_loops(BusEvent::Down { why: failure, unconfirmed });
            }
            Arrived::Failed { failure, retry_in } => {
                if line.last_failure.as_ref() == Some(&failure) {
                    log::debug!("the bus: {failure}; the next attempt comes in {retry_in} ms");
                } else {
                    log::warn!("the bus is still down: {failure}");
                    line.last_failure = Some(failure);
                }
            }
            _ => {}
        }
    }

    /// Calls the handler of the bus on all loops.
    fn tell_loops(&mut self, event: BusEvent) {
        if let Some(link) = &mut self.hub.link {
            link.tell_all("", || Letter::Bus(event.clone()));
        }
        self.context().bus_event(&event);
    }

    /// Messages of other servers are missing. With a topic, this concerns loops with members.
    fn announce_gap(&mut self, from: GapFrom, topic: Option<&str>, lost: Option<u64>) {
        let Some(link) = &mut self.hub.link else { return };
        let event = BusEvent::Gap { from, topic: topic.map(Arc::from), lost };
        let own = link.index();
        let loops = topic.map(|topic| link.post().loops_with_members(topic));
        for index in loops.map_or(link.others(), |loops| loops.without(own)).iter() {
            link.tell_gap(index, event.clone(), lost.unwrap_or(1));
        }
        if loops.is_none_or(|loops| loops.contains(own)) {
            self.context().bus_event(&event);
        }
    }

    // What this process has for other servers.

    /// Publishes a letter of another loop.
    pub(super) fn publish_away(&mut self, letter: &Opened<'_>) {
        let Some(line) = &mut self.line else { return };
        line.forget_last_words();
        line.engine.publish(letter, self.hub.now);
        if let Some(outlet) = self.hub.link.as_ref().and_then(|link| link.outlet()) {
            outlet.set_unsent(line.engine.unsent_len());
            outlet.give_room(letter.cost);
        }
    }

    /// Publishes what this loop has, and writes what waits.
    pub(super) fn flush_bus(&mut self) {
        let (Some(line), Some(link)) = (&mut self.line, &mut self.hub.link) else { return };
        if link.has_outward() {
            Self::publish_outward(line, link, self.hub.now);
        }
        line.write();
        if let Some(outlet) = link.outlet() {
            outlet.set_unsent(line.engine.unsent_len());
        }
        if line.broken.is_some() {
            self.backlog.push_bus();
        }
    }

    /// Looks at what has changed, and publishes what this loop has.
    fn publish_outward(line: &mut Line, link: &mut Link, now: u64) {
        let post = link.post().clone();
        let Some(outlet) = post.outlet() else { return };
        if outlet.has_changed() {
            let changed = outlet.take_changed();
            for topic in &changed.topics {
                let has_members = !post.loops_with_members(topic).is_empty();
                line.engine.look_at_topic(topic, has_members, now);
            }
            for &uuid in &changed.uuids {
                line.engine.look_at_uuid(uuid, post.has_set_uuid(uuid), now);
            }
        }
        let mut letters = link.take_outward();
        while let Some(letter) = letters.next() {
            line.engine.publish(&letter, now);
            outlet.set_unsent(line.engine.unsent_len());
            outlet.give_room(letter.cost);
        }
        link.put_outward_back(letters);
    }

    /// Whether something is on its way to other servers, or has not reached Redis.
    pub(super) fn has_last_words(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.has_last_words())
            || self.line.is_some() && self.hub.link.as_ref().is_some_and(|link| link.is_behind())
    }

    /// Whether something waits to be published.
    pub(super) fn has_unpublished(&self) -> bool {
        self.line.is_some() && self.hub.link.as_ref().is_some_and(|link| link.has_outward())
    }
}

/// Tells all loops which nodes live, if these are others than before.
fn note_nodes(line: &mut Line, link: &Link) {
    if let (Some(nodes), Some(outlet)) = (line.engine.take_new_nodes(), link.outlet()) {
        outlet.set_nodes(nodes);
    }
}
