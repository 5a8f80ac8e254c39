//! The connection to Redis as one more source of the loop, and what comes by it.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;

use super::Server;
use super::budget::{LETTERS_PART, MESSAGE};
use super::reactor::Reactor;
use super::resolving::Resolving;
use crate::bus::{
    Answer, Arrived, Body, Bus, BusEvent, Content, Engine, Found, GapFrom, LOOP_SHIFT, Letter,
    Link, Node, Opened, Outlet, Post, Ready, Seat, To, run_number,
};
use crate::error::BusError;
use crate::hub::Audience;
use crate::redis::{Failure, Place};
use crate::transport::PlainStream;
#[cfg(feature = "testing")]
use crate::transport::memory;
use crate::transport::{Connecting, Progress, Remote};

/// How long one of several addresses may take to answer before the next is tried, in milliseconds.
const ADDRESS_TIME: u64 = 500;
/// How long the answers of this server's own loops to a question of another server are awaited, in
/// milliseconds: less than the time that server waits.
const ANSWER_TIME: u64 = 700;
/// The bytes that wait for the loops of a server by itself, which has no other loops.
const NO_LANES: usize = 1024;

/// The bus at the loop that holds its connection.
pub(super) struct Line {
    engine: Engine,
    socket: Socket,
    /// A name whose addresses the system has not said yet.
    resolving: Option<Resolving>,
    readable: bool,
    writable: bool,
    /// The connection was found to be broken while it was written.
    broken: Option<ErrorKind>,
    /// What was read and did not fit into the work of its turn, and how much of it is handled.
    kept: Vec<u8>,
    handled: usize,
    /// Why the last attempt failed, so that the log has a line for each change.
    last_failure: Option<Failure>,
    /// Makes connections in memory.
    #[cfg(feature = "testing")]
    dial: Option<Dial>,
}

/// Makes a connection in memory.
#[cfg(feature = "testing")]
pub(crate) type Dial = Box<dyn Fn() -> io::Result<memory::Wire>>;

enum Socket {
    None,
    /// A socket that is being connected, and when the next address is to be tried.
    Connecting(Connecting, u64),
    Open(PlainStream),
}

impl Line {
    fn new(outlet: &Outlet, seat: &Seat, now: u64) -> Self {
        let engine = Engine::new(&outlet.bus, seat.post.node(), seat.topic_hasher(), now);
        Self {
            engine,
            socket: Socket::None,
            resolving: None,
            readable: false,
            writable: false,
            broken: None,
            kept: Vec::new(),
            handled: 0,
            last_failure: None,
            #[cfg(feature = "testing")]
            dial: None,
        }
    }

    /// When something is to be done without an event.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let next = self.engine.next_deadline();
        match &self.socket {
            Socket::Connecting(connecting, skip_at) if !connecting.is_last() => {
                Some(next.map_or(*skip_at, |next| next.min(*skip_at)))
            }
            // The answer of the system wakes the loop.
            Socket::None if self.resolving.is_some() => next.filter(|_| !self.is_waiting_to_dial()),
            _ => next,
        }
    }

    /// Whether it would connect now if it knew the addresses.
    fn is_waiting_to_dial(&self) -> bool {
        self.engine.should_connect(u64::MAX)
    }

    /// Whether something waits to be written.
    pub(super) fn has_unsent(&self) -> bool {
        matches!(self.socket, Socket::Open(_)) && self.engine.unsent_len() > 0
    }

    fn close(&mut self) {
        self.socket = Socket::None;
        (self.readable, self.writable, self.broken) = (false, false, None);
        (self.kept, self.handled) = (Vec::new(), 0);
    }

    // Connecting.

    /// Begins to connect if it is time, or goes on. Returns what has failed.
    fn connect(&mut self, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        if let Socket::None = self.socket
            && self.engine.should_connect(now)
        {
            self.engine.connecting(now);
            #[cfg(feature = "testing")]
            if let Some(dial) = &self.dial {
                return match dial() {
                    Ok(wire) => self.open(PlainStream::Memory(wire), now),
                    Err(error) => self.engine.disconnected(now, Some(error.kind())),
                };
            }
            match self.engine.address().place() {
                #[cfg(unix)]
                Place::Unix { path } => {
                    let remote = Remote::Unix(path.clone());
                    return self.dial(remote, reactor, now);
                }
                Place::Tcp { host, port } => {
                    if self.resolving.is_none() {
                        match Resolving::begin(host, *port, reactor.waker.clone()) {
                            Ok(resolving) => self.resolving = Some(resolving),
                            Err(error) => {
                                log::error!("cannot start a thread to resolve {host}: {error}");
                                return self.engine.not_resolved(now);
                            }
                        }
                    }
                }
                #[cfg(not(unix))]
                Place::Unix { .. } => {
                    return self.engine.disconnected(now, Some(ErrorKind::Unsupported));
                }
            }
        }
        if let Socket::None = self.socket
            && let Some(answer) = self.resolving.as_mut().and_then(Resolving::take)
        {
            self.resolving = None;
            // An answer that comes after the time to connect is asked for again.
            return match answer {
                Ok(addresses) if self.engine.is_connecting() => {
                    self.dial(Remote::Tcp(addresses), reactor, now)
                }
                Ok(_) => None,
                Err(error) => {
                    log::debug!("the name of the Redis host: {error}");
                    self.engine.not_resolved(now)
                }
            };
        }
        let Socket::Connecting(connecting, skip_at) = &mut self.socket else { return None };
        let progress = if *skip_at <= now && !connecting.is_last() {
            *skip_at = now + ADDRESS_TIME;
            connecting.skip()
        } else {
            connecting.check()
        };
        match progress {
            Ok(Progress::Pending) => None,
            Ok(Progress::Another) => self.register(reactor, now),
            Ok(Progress::Connected) => match std::mem::replace(&mut self.socket, Socket::None) {
                Socket::Connecting(connecting, _) => self.open(connecting.into_stream(), now),
                _ => None,
            },
            Err(error) => self.engine.disconnected(now, Some(error.kind())),
        }
    }

    fn dial(&mut self, remote: Remote, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        match Connecting::begin(remote) {
            Ok(connecting) => {
                self.socket = Socket::Connecting(connecting, now + ADDRESS_TIME);
                self.register(reactor, now)
            }
            Err(error) => self.engine.disconnected(now, Some(error.kind())),
        }
    }

    fn register(&mut self, reactor: &Reactor, now: u64) -> Option<Arrived<'static>> {
        let Socket::Connecting(connecting, _) = &mut self.socket else { return None };
        // A Unix socket is connected at once; then the first event says so.
        let error = reactor.register_bus(connecting.stream()).err()?;
        self.engine.disconnected(now, Some(error.kind()))
    }

    fn open(&mut self, stream: PlainStream, now: u64) -> Option<Arrived<'static>> {
        self.socket = Socket::Open(stream);
        (self.readable, self.writable) = (true, true);
        self.engine.connected(now);
        None
    }

    // Reading and writing.

    /// Reads once. Returns what was read, or that the connection has ended.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Option<ErrorKind>> {
        let Socket::Open(stream) = &mut self.socket else { return Ok(0) };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Err(None),
                Ok(len) => {
                    if len < buffer.len() && stream.short_means_empty() {
                        self.readable = false;
                        self.engine.drained();
                    }
                    Ok(len)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    self.engine.drained();
                    Ok(0)
                }
                Err(error) => Err(Some(error.kind())),
            };
        }
    }

    /// Writes what waits, as far as the socket takes it.
    fn write(&mut self) {
        let Socket::Open(stream) = &mut self.socket else { return };
        while self.writable && self.broken.is_none() {
            let bytes = self.engine.unsent();
            if bytes.is_empty() {
                break;
            }
            match stream.write(bytes) {
                Ok(len) => {
                    self.writable = len == bytes.len();
                    self.engine.wrote(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => self.broken = Some(error.kind()),
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The others need not wait for a sign of life, if the socket takes this.
        self.engine.say_goodbye();
        self.write();
    }
}

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
        if let Some(outlet) = seat.post.outlet().filter(|_| seat.index == crate::bus::HOLDER) {
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
        self.bus_is_ready(event.is_readable() || event.is_read_closed(), event.is_writable());
    }

    pub(super) fn bus_is_ready(&mut self, readable: bool, writable: bool) {
        if let Some(line) = &mut self.line {
            line.readable |= readable;
            line.writable |= writable;
            self.backlog.push_bus();
        }
    }

    /// Whether the answer of the system to a name may have come.
    pub(super) fn bus_resolves(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.resolving.is_some())
    }

    /// Whether the bus has something to do because of the time.
    #[inline]
    pub(super) fn is_bus_due(&self) -> bool {
        let due = |line: &Line| line.next_deadline().is_some_and(|next| next <= self.hub.now);
        self.line.as_deref().is_some_and(due)
    }

    /// Connects, reads and handles what has come, and does what is due.
    #[cold]
    pub(super) fn serve_bus(&mut self, buffer: &mut [u8]) {
        let Some(mut line) = self.line.take() else { return };
        let now = self.hub.now;
        let until = self.hub.work.saturating_add(self.hub.work_per_turn / LETTERS_PART);
        if let Some(kind) = line.broken
            && let Some(ended) = line.engine.disconnected(now, Some(kind))
        {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        self.receive_by_bus(&mut line, buffer, until);
        if let Some(ended) = line.engine.expire(now) {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        while let Some(node) = line.engine.next_gone(now) {
            log::warn!("the bus: node {} has given no sign of life for 10 s", Node(node));
            self.tell_loops(BusEvent::NodeGone { node: Node(node) });
        }
        if let Some(ended) = line.connect(&self.reactor, now) {
            line.close();
            self.bus_ended(&mut line, ended);
        }
        if line.handled < line.kept.len() || line.readable || line.broken.is_some() {
            self.backlog.push_bus();
        }
        if let Some(link) = &mut self.hub.link {
            if let (Some(nodes), Some(outlet)) = (line.engine.take_new_nodes(), link.outlet()) {
                outlet.set_nodes(nodes);
            }
            link.set_bus_stats(line.engine.stats());
        }
        self.line = Some(line);
    }

    /// Reads and handles what has come, until the turn's work reaches `until`.
    fn receive_by_bus(&mut self, line: &mut Line, buffer: &mut [u8], until: usize) {
        let kept = std::mem::take(&mut line.kept);
        if !kept.is_empty() {
            let rest = &kept[std::mem::take(&mut line.handled)..];
            self.handle_bus_input(line, rest, until);
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

    /// Messages of other servers are missing. With a topic, only loops with members are told.
    fn announce_gap(&mut self, from: GapFrom, topic: Option<&str>, lost: Option<u64>) {
        let Some(link) = &mut self.hub.link else { return };
        let event = BusEvent::Gap { from, topic: topic.map(Arc::from), lost };
        match topic {
            None => self.tell_loops(event),
            Some(topic) => {
                let loops = link.post().loops_with_members(topic);
                for index in loops.without(link.index()).iter() {
                    link.tell(index, Letter::Bus(event.clone()));
                }
                if loops.contains(link.index()) {
                    self.context().bus_event(&event);
                }
            }
        }
    }

    fn handle_bus_message(
        &mut self,
        node: u64,
        topic: Option<(u64, &str)>,
        lost: u64,
        body: &Body<'_>,
    ) {
        if lost > 0 {
            let topic = topic.map(|(_, topic)| topic);
            self.announce_gap(GapFrom::Node(Node(node)), topic, Some(lost));
        }
        let reached = match body {
            Body::Publish(content) => {
                let Some((hash, topic)) = topic else { return };
                self.publish_from_bus(hash, topic, content)
            }
            Body::Broadcast(content) => {
                let ready = self.pass_on_to_all(|| To::All, "", content);
                self.hub.deliver(Audience::All, None, ready)
            }
            Body::Fire(event, content) => {
                let ready = self.pass_on_to_all(|| To::Listeners, event, content);
                let (state, mut sockets) = self.lend();
                sockets.fire(state, event, ready.to_payload())
            }
            &Body::Emit(uuid, content) => self.emit_from_bus(&[uuid], &content),
            Body::EmitList(uuids, content) => {
                let uuids: Vec<_> = uuids.iter().collect();
                self.emit_from_bus(&uuids, content)
            }
            &Body::Close(uuid, code, reason) => {
                self.close_from_bus(uuid, code, reason);
                1
            }
            &Body::Ask { query, question, topic } => {
                let answer = move |_: &mut S,
                                   sockets: &mut crate::user::Sockets<'_, S>,
                                   found: crate::user::Found| {
                    let (is_complete, answer) = found.into_answer(question);
                    if let Some(link) = &mut sockets.hub.link {
                        link.answer_away(node, query, is_complete, answer);
                    }
                };
                let mut sockets = self.sockets();
                sockets.ask(question, topic, false, ANSWER_TIME, Box::new(answer));
                1
            }
            Body::Answer { query, is_complete, found } => {
                self.pass_answer_on(node, *query, *is_complete, found);
                1
            }
            Body::Heartbeat | Body::Bye => 0,
        };
        self.hub.work += reached * MESSAGE;
    }

    /// Gives a message of another server to the members of a topic, on all loops.
    fn publish_from_bus(&mut self, hash: u64, topic: &str, content: &Content<'_>) -> usize {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return 0 };
        let others = link.loops_of(hash, topic).without(link.index());
        if !others.is_empty() {
            ready = ready.share();
            for index in others.iter() {
                link.send_message(index, To::Topic(hash), topic, &ready);
            }
        }
        self.hub.publish_ready(hash, topic, None, ready)
    }

    /// Queues a message of another server for all other loops.
    fn pass_on_to_all<'m>(
        &mut self,
        to: impl Fn() -> To,
        text: &str,
        content: &Content<'m>,
    ) -> Ready<'m> {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return ready };
        let others = link.others();
        if !others.is_empty() {
            ready = ready.share();
            for index in others.iter() {
                link.send_message(index, to(), text, &ready);
            }
        }
        ready
    }

    /// Gives a message of another server to the connections with these uuids.
    fn emit_from_bus(&mut self, uuids: &[uuid::Uuid], content: &Content<'_>) -> usize {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return 0 };
        let own = link.index();
        let home = |link: &Link, uuid| link.home(uuid).unwrap_or(own);
        if uuids.iter().all(|&uuid| home(link, uuid) == own) {
            return self.hub.deliver(Audience::List(uuids), None, ready);
        }
        ready = ready.share();
        let mut by_loop: Vec<(u16, uuid::Uuid)> =
            uuids.iter().map(|&uuid| (home(link, uuid), uuid)).collect();
        by_loop.sort_by_key(|&(index, _)| index);
        let mut here = Vec::new();
        for same in by_loop.chunk_by(|(a, _), (b, _)| a == b) {
            let uuids: Vec<_> = same.iter().map(|&(_, uuid)| uuid).collect();
            if same[0].0 == own {
                here = uuids;
            } else {
                link.send_message(same[0].0, To::List(uuids.into()), "", &ready);
            }
        }
        self.hub.deliver(Audience::List(&here), None, ready)
    }

    fn close_from_bus(&mut self, uuid: uuid::Uuid, code: crate::protocol::CloseCode, reason: &str) {
        let Some(link) = &mut self.hub.link else { return };
        match link.home(uuid) {
            Some(index) if index != link.index() => {
                link.send_close(index, Letter::Close(uuid, code), reason);
            }
            _ => {
                if let Some(token) = self.hub.find(uuid) {
                    let _ = self.hub.close(token, code, reason); // The code was checked.
                }
            }
        }
    }

    /// Gives the answer of another server to the loop that has asked.
    fn pass_answer_on(&mut self, node: u64, query: u64, is_complete: bool, found: &Found<'_>) {
        let index = (query >> LOOP_SHIFT) as u16;
        let query = query & ((1 << LOOP_SHIFT) - 1);
        let (is_last, answer) = match found {
            Found::Count(count) => (true, Answer::Count(*count as usize)),
            Found::Uuids { uuids, more } => (!more, Answer::Uuids(uuids.iter().collect())),
        };
        let Some(link) = &mut self.hub.link else { return };
        if index == link.index() {
            self.context().answered_by_node(query, node, is_last, is_complete, answer);
        } else if usize::from(index) < link.post().len() {
            let letter = Letter::NodeAnswer { query, node, is_last, is_complete, answer };
            link.exchange(index, letter, "");
        }
    }

    // What this process has for other servers.

    /// Publishes a letter of another loop.
    pub(super) fn publish_away(&mut self, letter: &Opened<'_>) {
        let Some(line) = &mut self.line else { return };
        line.engine.publish(letter, self.hub.now);
        if let Some(outlet) = self.hub.link.as_ref().and_then(|link| link.outlet()) {
            outlet.set_unsent(line.engine.unsent_len());
            outlet.give_room(letter.cost);
        }
    }

    /// Looks at what has changed, publishes what this loop has, and writes what waits.
    #[cold]
    pub(super) fn flush_bus(&mut self) {
        let (Some(line), Some(link)) = (&mut self.line, &mut self.hub.link) else { return };
        let now = self.hub.now;
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
        if link.has_outward() {
            let mut letters = link.take_outward();
            while let Some(letter) = letters.next() {
                line.engine.publish(&letter, now);
                outlet.set_unsent(line.engine.unsent_len());
                outlet.give_room(letter.cost);
            }
            link.put_outward_back(letters);
        }
        line.write();
        outlet.set_unsent(line.engine.unsent_len());
        if line.broken.is_some() {
            self.backlog.push_bus();
        }
    }

    /// Whether something waits to be published.
    pub(super) fn has_unpublished(&self) -> bool {
        self.line.is_some() && self.hub.link.as_ref().is_some_and(|link| link.has_outward())
    }
}
