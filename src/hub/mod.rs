//! The hub: every connection by slot and by uuid. This file holds their table. Other files handle
//! the parts of their lives: input (`receiving`), output (`sending`, `broadcast`, `topics`,
//! `flushing`), phases (`transitions`), timeouts (`timeouts`).
//!
//! Bytes and the time are arguments; events for listeners are recorded as notifications, in order.
//! The hub holds no closure, knows no poll and reads no clock, so that a connection's whole life
//! can be tested in memory.
//!
//! The server is generic over the user's state, so it is compiled in the user's crate, and the hub
//! is not. For that reason, functions that are called for each message are marked `#[inline]`:
//! without that, an echo costs 63 instructions more, of 761.

mod attributes;
mod broadcast;
mod connection;
mod deadlines;
mod destructors;
mod flushing;
mod growth;
mod membership;
mod notification;
mod pending_request;
mod phase;
mod receiving;
mod sending;
mod shrink;
mod shutdown;
mod shutdown_state;
mod stats;
#[cfg(test)]
mod test_kit;
mod timeouts;
mod topics;
mod transitions;
mod uuids;

use std::collections::{HashMap, VecDeque};

use slab::Slab;
use uuid::Uuid;

use crate::bus::Link;
use crate::config::{Dropped, Limits};
use crate::error::UuidError;
use crate::outbox::{Common, Stage};
use crate::token::{MAX_CONNECTIONS, Token, next_generation};
#[cfg(feature = "_tls")]
use crate::transport::tls;
use crate::transport::{PeerAddress, Stream};
use deadlines::Timers;
use membership::Topics;
use uuids::Names;

pub use attributes::Attributes;
pub(crate) use broadcast::Audience;
pub(crate) use connection::{Connection, ReadLater, Timeout};
pub(crate) use deadlines::NEVER;
pub(crate) use destructors::{Discarded, discard_payload, message_of};
pub(crate) use notification::Notification;
pub(crate) use pending_request::{Destination, Head, Parked, Ticket};
pub(crate) use phase::Phase;
pub(crate) use receiving::{MESSAGE, Received};
pub use sending::Emitted;
pub(crate) use shutdown_state::Stopping;
pub(crate) use stats::Stopwatch;
pub use stats::{Disconnects, EmitsRefused, RequestsRefused, Stats, TurnDurations};
pub(crate) use transitions::{Resumed, Upgraded};

/// The initial capacity of a work list, which it keeps. Allocated when first needed, the list would
/// lie behind other connections' memory, and keep the allocator from giving that back.
const KEEP_ENTRIES: usize = 1024;
const KEEP_NOTIFICATIONS: usize = 64;
/// The capacity for a 101 response, which usually has a fourth of that length.
const KEEP_HEAD: usize = 512;

/// The part of the budget that timeouts, and removals of ended connections, have at least: an
/// eighth.
const ENDING_PART: usize = 8;
/// The cost of removing a connection, in bytes of a turn's work; most of it is the system call that
/// closes it.
const REMOVED: usize = 8 * 1024;
/// The cost of forgetting a topic of the connection.
const FORGET: usize = 256;

pub(crate) struct Hub {
    connections: Slab<Connection>,
    /// The open connections by uuid.
    names: Names,
    generation: u32,
    open: usize,
    stage: Stage,
    /// Compressors that connections share.
    common: Common,
    /// Connections with something to write that has not been offered to their sockets yet.
    dirty: Vec<Token>,
    /// The connection whose input is being handled. It is flushed when that is done, and need not
    /// be on the list.
    active: Option<u32>,
    /// Scratch of a broadcast: connections for which a reference to the log is not enough.
    rest: Vec<Token>,
    notifications: VecDeque<(Token, Notification)>,
    dead: Vec<Token>,
    /// Scratch of an upgrade: its response.
    pub(crate) head: Vec<u8>,
    /// With this number of connections or fewer, memory is given back.
    shrink_at: usize,
    timers: Timers,
    /// The table of topics; only open connections are members.
    pub(crate) topics: Topics,
    /// Counts of messages that slow readers were not sent, by slot: few are slow, so the counts are
    /// not kept in each connection.
    dropped_by: HashMap<u32, Dropped>,
    /// The counts; states are read only when they are asked for.
    pub(crate) stats: Stats,
    pub(crate) limits: Limits,
    /// Milliseconds on the loop's clock, as last set.
    pub(crate) now: u64,
    refusing: bool,
    pub(crate) stopping: Option<Stopping>,
    /// The work of this turn, in bytes: see `Builder::work_per_turn`.
    pub(crate) work: usize,
    /// The budget of a turn, in bytes.
    pub(crate) work_per_turn: usize,
    /// The number of callbacks that are running inside each other.
    pub(crate) depth: u32,
    pub(crate) uuids: Uuids,
    /// What leads to the other loops of the process, if there are any.
    pub(crate) link: Option<Box<Link>>,
    /// An `error` listener is running: a failure inside it is not recorded, or it might never end.
    pub(crate) in_error_listener: bool,
    /// The log has a line about a broadcast that is too large for every connection.
    warned: bool,
    /// The log has a line about a client that speaks TLS to a port without it.
    pub(crate) warned_of_tls: bool,
    /// What connections over TLS share.
    #[cfg(feature = "_tls")]
    pub(crate) tls: tls::Common,
}

/// The source of new connections' uuids.
pub(crate) enum Uuids {
    Random,
    /// The same in every run: the number of uuids so far.
    #[cfg(feature = "testing")]
    Counted(u64),
}

impl Uuids {
    /// A version 4 uuid (RFC 9562 §5.4).
    fn random(&mut self) -> Uuid {
        match self {
            Self::Random => Uuid::new_v4(),
            #[cfg(feature = "testing")]
            Self::Counted(count) => {
                *count += 1;
                uuid::Builder::from_random_bytes(u128::from(*count).to_be_bytes()).into_uuid()
            }
        }
    }
}

/// The connection that a token names, if it still exists. It borrows the slots alone, so that the
/// rest of the hub can be used beside it.
#[inline]
fn named(connections: &mut Slab<Connection>, token: Token) -> Option<&mut Connection> {
    connections.get_mut(token.index as usize).filter(|c| c.generation == token.generation)
}

/// The same, if it is not to be removed at the end of the turn.
#[inline]
fn alive(connections: &mut Slab<Connection>, token: Token) -> Option<&mut Connection> {
    named(connections, token).filter(|connection| !matches!(connection.phase, Phase::Dead))
}

impl Hub {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            connections: Slab::new(),
            names: Names::default(),
            generation: 0,
            open: 0,
            stage: Stage::default(),
            common: Common::default(),
            dirty: Vec::with_capacity(KEEP_ENTRIES),
            active: None,
            rest: Vec::with_capacity(KEEP_ENTRIES),
            notifications: VecDeque::with_capacity(KEEP_NOTIFICATIONS),
            dead: Vec::with_capacity(KEEP_ENTRIES),
            head: Vec::with_capacity(KEEP_HEAD),
            shrink_at: 0,
            timers: Timers::default(),
            topics: Topics::default(),
            dropped_by: HashMap::new(),
            stats: Stats::default(),
            limits,
            now: 0,
            refusing: false,
            stopping: None,
            work: 0,
            work_per_turn: usize::MAX,
            depth: 0,
            uuids: Uuids::Random,
            link: None,
            in_error_listener: false,
            warned: false,
            warned_of_tls: false,
            #[cfg(feature = "_tls")]
            tls: tls::Common::default(),
        }
    }

    /// Adds a peer that has just connected; `None` if there is no slot left.
    pub(crate) fn insert(&mut self, stream: Stream, peer: PeerAddress) -> Option<Token> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let slots = self.connections.len();
        if slots == self.connections.capacity() {
            self.connections.reserve_exact(growth::grow_by(slots, slots + 1));
        }
        if self.connections.len() >= self.connections.capacity() / 2 {
            self.will_shrink();
        }
        self.generation = next_generation(self.generation);
        let connection = Connection::new(stream, peer, self.generation, self.now);
        let index = self.connections.insert(connection) as u32;
        self.arm(index);
        self.stats.accepted += 1;
        Some(Token { index, generation: self.generation })
    }

    #[inline]
    pub(crate) fn get(&self, token: Token) -> Option<&Connection> {
        self.connections.get(token.index as usize).filter(|c| c.generation == token.generation)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Connection> {
        named(&mut self.connections, token)
    }

    pub(crate) fn find(&self, uuid: Uuid) -> Option<Token> {
        let index = self.names.find(&self.connections, uuid)?;
        let generation = self.connections.get(index as usize)?.generation;
        Some(Token { index, generation })
    }

    #[inline]
    pub(crate) fn is_open(&self, token: Token) -> bool {
        self.get(token).is_some_and(Connection::is_open)
    }

    /// The number of open connections.
    pub(crate) fn open_len(&self) -> usize {
        self.open
    }

    pub(crate) fn open_tokens(&self) -> Vec<Token> {
        self.tokens(Connection::is_open)
    }

    pub(crate) fn open_uuids(&self) -> Vec<Uuid> {
        let open = self.connections.iter().filter(|(_, connection)| connection.is_open());
        open.map(|(_, connection)| connection.uuid).collect()
    }

    /// The tokens of connections with this property.
    fn tokens(&self, are_like_this: impl Fn(&Connection) -> bool) -> Vec<Token> {
        let these = self.connections.iter().filter(|(_, connection)| are_like_this(connection));
        these.map(|(index, c)| Token { index: index as u32, generation: c.generation }).collect()
    }

    /// The counts and the states of this moment.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            bytes_out: self.stage.written,
            topics: self.topics.len(),
            memberships: self.topics.memberships(),
            loops: self.link.as_ref().map(|link| link.stats()).unwrap_or_default(),
            #[cfg(feature = "redis")]
            bus: self.link.as_ref().and_then(|link| link.bus_stats()),
            #[cfg(feature = "_tls")]
            tls: self.tls.stats(),
            ..self.stats.clone()
        };
        for (_, connection) in &self.connections {
            match connection.phase {
                Phase::Handshaking(_) | Phase::Parked(_) => stats.handshaking += 1,
                Phase::Open => stats.open += 1,
                Phase::Closing(_) => stats.closing += 1,
                Phase::Draining | Phase::HalfClosed { .. } => stats.draining += 1,
                Phase::Dead => {}
            }
            let waiting = connection.outbox.waiting();
            stats.blocked += usize::from(connection.outbox.is_blocked());
            stats.bytes_waiting += waiting;
            stats.most_waiting = stats.most_waiting.max(waiting);
        }
        stats
    }

    pub(crate) fn set_uuid(&mut self, token: Token, uuid: Uuid) -> Result<(), UuidError> {
        let index = token.index;
        match self.names.find(&self.connections, uuid) {
            Some(holder) if holder == index && self.is_open(token) => return Ok(()),
            Some(_) => return Err(UuidError::Duplicate(uuid)),
            None => {}
        }
        if !self.is_open(token) {
            return Err(UuidError::Closed);
        }
        if let Some(link) = &self.link {
            if link.given_by(uuid).is_some_and(|index| index != link.index()) {
                return Err(UuidError::OtherLoop(uuid));
            }
            if !link.take_uuid(uuid) {
                return Err(UuidError::Duplicate(uuid));
            }
        }
        self.leave_uuid(token);
        self.connections[index as usize].uuid = uuid;
        self.names.insert(&self.connections, index);
        Ok(())
    }

    /// A uuid for a new connection.
    fn next_uuid(&mut self) -> Uuid {
        let random = self.uuids.random();
        self.link.as_ref().map_or(random, |link| link.name(random.as_u128()))
    }

    /// Makes a connection one that is not found by its uuid.
    fn leave_uuid(&mut self, token: Token) {
        self.names.remove(&self.connections, token.index);
        if let Some(link) = &self.link {
            link.leave_uuid(self.connections[token.index as usize].uuid);
        }
    }

    /// Whether new WebSocket connections get 503 because the program wants that.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing || self.link.as_ref().is_some_and(|link| link.post().is_refusing())
    }

    pub(crate) fn set_refusing(&mut self, refuse: bool) {
        match &self.link {
            Some(link) => link.post().set_refusing(refuse),
            None => self.refusing = refuse,
        }
    }

    /// Lowers the count by which a loop is chosen for a new connection.
    pub(crate) fn connections_ended(&self, connections: usize) {
        if let Some(link) = &self.link {
            link.connections_ended(connections);
        }
    }

    /// The work that this turn may have done when timeouts or removals, which come now, are over.
    /// They have a part of the budget even if it is spent.
    pub(crate) fn ending_limit(&self) -> usize {
        self.work_per_turn.max(self.work.saturating_add(self.work_per_turn / ENDING_PART))
    }

    /// Removes dead connections, within the budget of a turn; returns how many. The others follow
    /// in the next turn.
    #[inline]
    pub(crate) fn remove_dead(&mut self) -> usize {
        if self.dead.is_empty() { 0 } else { self.remove_each_dead() }
    }

    #[inline(never)]
    fn remove_each_dead(&mut self) -> usize {
        let mut removed = 0;
        let slots = self.connections.capacity();
        let mut highest_left = false;
        // The last connection of all is kept a little longer: see `shrink`.
        let mut last = None;
        let until = self.ending_limit();
        while let Some(token) = self.dead.pop() {
            if self.work >= until {
                // The others follow in the next turn.
                self.dead.push(token);
                break;
            }
            if self.get(token).is_some() {
                let connection = &mut self.connections[token.index as usize];
                self.stats.panics += connection.attributes.discard();
                let connection = self.connections.remove(token.index as usize);
                self.timers.remove(token.index);
                self.work += REMOVED + self.topics.forget(token.index) * FORGET;
                if !self.dropped_by.is_empty() {
                    self.dropped_by.remove(&token.index);
                }
                removed += 1;
                highest_left |= token.index as usize + 1 == slots;
                if self.connections.is_empty() {
                    last = Some(connection);
                }
            }
        }
        self.stats.closed += removed as u64;
        self.connections_ended(removed);
        if self.connections.len() <= self.shrink_at || highest_left {
            self.shrink(last);
        }
        removed
    }

    /// Whether dead connections are left to be removed.
    #[inline]
    pub(crate) fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// Whether the loop has something to write or to fire before it may wait.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && !self.has_notifications()
    }

    /// Whether notifications wait.
    #[inline]
    pub(crate) fn has_notifications(&self) -> bool {
        !self.notifications.is_empty()
    }

    #[inline]
    pub(crate) fn next_notification(&mut self) -> Option<(Token, Notification)> {
        if self.has_notifications() { self.take_notification() } else { None }
    }

    /// Takes notifications until one still holds.
    #[inline(never)]
    fn take_notification(&mut self) -> Option<(Token, Notification)> {
        loop {
            let (token, record) = self.notifications.pop_front()?;
            let outdated = match record {
                Notification::Pressure => !self.confirm(token, true),
                Notification::Relief => !self.confirm(token, false),
                _ => false,
            };
            if !outdated {
                return Some((token, record));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::test_kit::{hub, insert, open};
    use crate::outbox::SendOptions;
    use crate::protocol::Opcode;

    #[test]
    fn a_connection_stands_once_on_the_list_of_those_with_something_to_write() {
        let mut hub = hub();
        let (token, _far) = open(&mut hub, 1000);
        for _ in 0..10 {
            assert_eq!(
                hub.emit(token, Opcode::Text, b"hello", &SendOptions::USUAL),
                Emitted::Queued
            );
        }
        assert_eq!(hub.dirty.len(), 1);
    }

    #[test]
    fn a_connection_that_is_flushed_anyway_is_not_listed_for_flushing() {
        let mut hub = hub();
        let (token, _far) = open(&mut hub, 1000);
        hub.active = Some(token.index);
        assert_eq!(hub.emit(token, Opcode::Text, b"hello", &SendOptions::USUAL), Emitted::Queued);
        assert!(hub.dirty.is_empty());
    }

    #[test]
    fn a_turn_without_work_left_removes_as_many_as_an_eighth_pays_for() {
        let mut hub = hub();
        hub.work_per_turn = 10 * 8 * (8 * 1024);
        hub.work = hub.work_per_turn;
        let all: Vec<_> = (0..20).map(|_| insert(&mut hub, 0).0).collect();
        all.into_iter().for_each(|token| hub.timed_out(token));
        assert_eq!(hub.remove_dead(), 10);
        assert!(hub.has_dead(), "the others have the next turn");
    }

    #[test]
    fn an_end_and_each_topic_of_it_count_as_work_of_the_turn() {
        let mut hub = hub();
        for topics in [0, 1, 3] {
            let (token, _far) = open(&mut hub, 1000);
            (0..topics).for_each(|topic| assert_eq!(hub.join(token, &topic.to_string()), Ok(true)));
            let before = hub.work;
            hub.fail(token, crate::error::Error::Lost);
            assert_eq!(hub.work - before, topics * 2 * 1024, "to leave {topics} topics");
            hub.flush_dirty();
            while hub.next_notification().is_some() {}
            let before = hub.work;
            assert_eq!(hub.remove_dead(), 1);
            assert_eq!(hub.work - before, 8 * 1024 + topics * 256, "{topics} topics");
        }
    }
}
