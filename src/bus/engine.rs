//! The bus over one connection to Redis, without I/O: channels, numbers and nodes. Bytes, times and
//! letters go in, bytes and messages come out.
//!
//! ```text
//!   PREFIX:t:TOPIC   what is published on a topic; subscribed while it has members here
//!   PREFIX:all       broadcasts, events, signs of life, questions
//!   PREFIX:n:NODE    for the connections whose uuids this node has made, and for itself
//!   PREFIX:u:UUID    for a connection whose uuid the program has set
//! ```

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::batch::{Answer, Letter, Opened, Ready, To};
use super::figures::BusStats;
use super::frame::{Body, Content, Found, Frame, Unreadable, UuidList, decode, encode_head};
use super::nodes::Nodes;
use super::numbers::{Expected, Numbering, Verdict};
use super::outward::{UuidChannel, channel_of};
use super::settings::Bus;
use crate::redis::{Address, BusFailure, ReplyLimits, Session, SessionEvent, SessionOptions};

const ALL: &[u8] = b"all";
/// The most uuids in one part of an answer.
const UUIDS_AT_ONCE: usize = 4096;
/// A bus has no more servers than this: numbers that a broken publisher invents would take memory.
const MOST_NODES: usize = 4096;
/// A table of uuids with room for no more than this is not made smaller.
const KEEP_UUIDS: usize = 64;
/// What is received may be as long as this, in bytes, whatever may be sent.
const LEAST_REPLY: usize = 16 * 1024 * 1024;
/// A message on the wire is longer than its payload by less than this.
const OVERHEAD: usize = 128 * 1024;

pub(crate) struct Engine {
    session: Session,
    node: u64,
    /// With the colon.
    prefix: Box<[u8]>,
    /// The channel of this node, without the prefix.
    own_channel: Box<[u8]>,
    /// The one of topics.
    hasher: RandomState,
    numbering: Numbering,
    expected: Expected,
    nodes: Nodes,
    has_new_nodes: bool,
    /// The log has a line about it.
    has_too_many_nodes: bool,
    /// The uuids that the program has set, as far as this was looked into.
    set_uuids: HashSet<Uuid>,
    /// Other nodes that have made some of these uuids, with their number: clients may come back to
    /// another server than before, with the uuid that they had there.
    adopted: HashMap<u64, usize>,
    /// Scratch: a channel without the prefix, and the head of a message.
    channel: Vec<u8>,
    head: Vec<u8>,
    published: u64,
    stats: BusStats,
}

/// What has come from Redis.
#[derive(Debug)]
pub(crate) enum Arrived<'e> {
    /// Nothing that this node has anything to do with.
    Nothing,
    Up {
        was_down_for: u64,
    },
    /// Close the socket.
    Down {
        failure: BusFailure,
        unconfirmed: u64,
    },
    /// Another attempt has failed. Close the socket.
    Failed {
        failure: BusFailure,
        retry_in: u64,
    },
    /// Redis has ended the subscription of a topic, or of another channel.
    Unsubscribed {
        topic: Option<&'e str>,
    },
    /// A node that was known has said that it ends.
    Left {
        node: u64,
    },
    Message {
        node: u64,
        /// The topic, with its hash, if the message was published on one.
        topic: Option<(u64, &'e str)>,
        /// The number of messages before this one that are missing.
        lost: u64,
        body: Body<'e>,
    },
}

impl Engine {
    pub(crate) fn new(bus: &Bus, node: u64, hasher: RandomState, now: u64) -> Self {
        let prefix: Box<[u8]> = [bus.prefix.as_bytes(), b":"].concat().into();
        let mut own = Vec::new();
        write_channel(UuidChannel::Node(node), &mut own);
        let mut options = SessionOptions::new(&[&*prefix, &own].concat());
        // What waits is bounded before it comes here.
        options.outbox_limit = usize::MAX;
        let bytes = bus.outbox_bytes.max(LEAST_REPLY) + OVERHEAD;
        options.reply_limits = ReplyLimits { bytes, ..ReplyLimits::default() };
        options.stable_after = bus.stable_after.as_millis() as u64;
        let mut engine = Self {
            session: Session::new(bus.address.clone(), options, node, now),
            node,
            prefix,
            own_channel: Box::default(),
            hasher,
            numbering: Numbering::default(),
            expected: Expected::default(),
            nodes: Nodes::new(node),
            has_new_nodes: false,
            has_too_many_nodes: false,
            set_uuids: HashSet::new(),
            adopted: HashMap::new(),
            channel: Vec::new(),
            head: Vec::new(),
            published: 0,
            stats: BusStats::default(),
        };
        // The session subscribes to it by itself.
        engine.expected.begin(engine.hasher.hash_one(&own[..]), &own);
        engine.own_channel = own.into();
        engine.begin_channel(ALL);
        engine
    }

    /// The session begins at this time, and not before.
    #[cfg(feature = "testing")]
    pub(crate) fn begin_at(&mut self, now: u64) {
        self.session.begin_at(now);
    }

    // The connection: see `Session`.

    pub(crate) fn address(&self) -> &Address {
        self.session.address()
    }

    pub(crate) fn should_connect(&self, now: u64) -> bool {
        self.session.should_connect(now)
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.session.is_connecting()
    }

    pub(crate) fn connecting(&mut self, now: u64) {
        self.session.connecting(now);
    }

    pub(crate) fn connected(&mut self, now: u64) {
        self.session.connected(now);
    }

    /// The connection could not be made, or has ended.
    pub(crate) fn disconnected(
        &mut self,
        now: u64,
        error: Option<std::io::ErrorKind>,
    ) -> Option<Arrived<'static>> {
        let event = self.session.disconnected(now, error)?;
        Some(ended(event, &mut self.nodes, &mut self.stats))
    }

    pub(crate) fn not_resolved(&mut self, now: u64) -> Option<Arrived<'static>> {
        let event = self.session.not_resolved(now)?;
        Some(ended(event, &mut self.nodes, &mut self.stats))
    }

    /// The bytes to be written next.
    pub(crate) fn unsent(&mut self) -> &[u8] {
        self.session.unsent()
    }

    pub(crate) fn wrote(&mut self, len: usize) {
        self.session.wrote(len);
    }

    pub(crate) fn unsent_len(&self) -> usize {
        self.session.unsent_len()
    }

    /// The number of messages that were published, and of those that Redis has not confirmed.
    pub(crate) fn published_and_unconfirmed(&self) -> (u64, u64) {
        (self.published, self.session.unconfirmed())
    }

    /// The socket has nothing more to read, and all that was read is handled.
    pub(crate) fn drained(&mut self) {
        self.session.drained();
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let session = self.session.next_deadline();
        let nodes = self.nodes.next_deadline();
        session.into_iter().chain(nodes).min()
    }

    /// Does what is due, after all that has come was read.
    pub(crate) fn expire(&mut self, now: u64) -> Option<Arrived<'static>> {
        if let Some(event) = self.session.expire(now) {
            return Some(ended(event, &mut self.nodes, &mut self.stats));
        }
        if self.session.is_up() && self.nodes.is_heartbeat_due(now) {
            self.publish_unnumbered(ALL, &Body::Heartbeat);
            self.numbering.sweep(now);
        }
        None
    }

    /// Takes a node that has vanished.
    pub(crate) fn next_gone(&mut self, now: u64) -> Option<u64> {
        let node = self.nodes.next_gone(now)?;
        self.has_new_nodes = true;
        self.stats.nodes_gone += 1;
        Some(node)
    }

    /// The nodes that live, if there are others than at the last call.
    pub(crate) fn take_new_nodes(&mut self) -> Option<Arc<[u64]>> {
        std::mem::take(&mut self.has_new_nodes).then(|| self.nodes.live().collect())
    }

    /// The number of nodes that live.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn stats(&self) -> BusStats {
        BusStats {
            nodes: self.nodes.len(),
            subscriptions: self.session.subscribed(),
            round_trip: self.session.round_trip().map(Duration::from_millis),
            ..self.stats
        }
    }

    // Topics and uuids.

    /// A topic has members here, or has none any more.
    pub(crate) fn look_at_topic(&mut self, topic: &str, has_members: bool, now: u64) {
        let hash = self.hasher.hash_one(topic);
        self.channel.clear();
        self.channel.extend_from_slice(b"t:");
        self.channel.extend_from_slice(topic.as_bytes());
        let channel = std::mem::take(&mut self.channel);
        if has_members {
            self.expected.begin(hash, &channel);
            self.session.want(&[&*self.prefix, &channel].concat());
        } else {
            self.expected.end(hash, &channel);
            self.session.unwant(&[&*self.prefix, &channel].concat(), now);
        }
        self.channel = channel;
    }

    /// A connection of this process has a uuid that the program has set, or has it no more.
    pub(crate) fn look_at_uuid(&mut self, uuid: Uuid, is_set: bool, now: u64) {
        let is_new =
            if is_set { self.set_uuids.insert(uuid) } else { self.set_uuids.remove(&uuid) };
        if !is_new {
            return;
        }
        let (len, room) = (self.set_uuids.len(), self.set_uuids.capacity());
        if !is_set && room > KEEP_UUIDS && len * 8 < room {
            self.set_uuids.shrink_to(len * 2);
        }
        let of = channel_of(uuid);
        if let UuidChannel::Node(node) = of {
            let count = self.adopted.entry(node).or_default();
            *count = if is_set { *count + 1 } else { *count - 1 };
            let count = *count;
            if count == 0 {
                self.adopted.remove(&node);
            }
            if node == self.node || count != usize::from(is_set) {
                return;
            }
        }
        let mut channel = std::mem::take(&mut self.channel);
        write_channel(of, &mut channel);
        if is_set {
            self.begin_channel(&channel);
        } else {
            self.expected.end(self.hasher.hash_one(&channel[..]), &channel);
            self.session.unwant(&[&*self.prefix, &channel].concat(), now);
        }
        self.channel = channel;
    }

    fn begin_channel(&mut self, channel: &[u8]) {
        self.expected.begin(self.hasher.hash_one(channel), channel);
        self.session.want(&[&*self.prefix, channel].concat());
    }

    // Messages to other servers.

    /// Publishes a letter.
    pub(crate) fn publish(&mut self, opened: &Opened<'_>, now: u64) {
        let text = opened.text;
        let mut channel = std::mem::take(&mut self.channel);
        match &opened.letter {
            Letter::Message(to, content) => {
                let ready = opened.ready(content);
                let (opcode, options, payload) = (ready.opcode, ready.options, ready.payload);
                let content = Content { opcode, options, payload };
                match to {
                    To::Topic(_) => {
                        channel.clear();
                        channel.extend_from_slice(b"t:");
                        channel.extend_from_slice(text.as_bytes());
                        self.publish_to(&channel, &Body::Publish(content), now);
                    }
                    To::All => self.publish_to(ALL, &Body::Broadcast(content), now),
                    To::Listeners => self.publish_to(ALL, &Body::Fire(text, content), now),
                    &To::One(uuid) => {
                        write_channel(channel_of(uuid), &mut channel);
                        self.publish_to(&channel, &Body::Emit(uuid, content), now);
                    }
                    To::List(uuids) | To::Here(uuids) => {
                        let mut uuids: Vec<(UuidChannel, Uuid)> =
                            uuids.iter().map(|&uuid| (channel_of(uuid), uuid)).collect();
                        // Stable: those of one node keep their order.
                        uuids.sort_by_key(|&(of, _)| of);
                        for same in uuids.chunk_by(|(a, _), (b, _)| a == b) {
                            write_channel(same[0].0, &mut channel);
                            let uuids: Vec<_> = same.iter().map(|&(_, uuid)| uuid).collect();
                            let body = Body::EmitList(UuidList::Uuids(&uuids), content);
                            self.publish_to(&channel, &body, now);
                        }
                    }
                }
            }
            &Letter::Close(uuid, code) => {
                write_channel(channel_of(uuid), &mut channel);
                self.publish_to(&channel, &Body::Close(uuid, code, text), now);
            }
            &Letter::Ask { query, question } => {
                self.publish_unnumbered(ALL, &Body::Ask { query, question, topic: text });
            }
            Letter::NodeAnswer { query, node, is_complete, answer, .. } => {
                write_channel(UuidChannel::Node(*node), &mut channel);
                let (query, is_complete) = (*query, *is_complete);
                let mut tell = |found| {
                    let body = Body::Answer { query, is_complete, found };
                    self.publish_unnumbered(&channel, &body);
                };
                match answer {
                    Answer::Count(count) => tell(Found::Count(*count as u64)),
                    Answer::Uuids(uuids) => {
                        let mut rest = &uuids[..];
                        loop {
                            let (part, others) = rest.split_at(rest.len().min(UUIDS_AT_ONCE));
                            let more = !others.is_empty();
                            tell(Found::Uuids { uuids: part.into(), more });
                            rest = others;
                            if !more {
                                break;
                            }
                        }
                    }
                    // Figures are asked of one process.
                    Answer::Stats(_) => {}
                }
            }
            // The others are for loops of one process.
            _ => {}
        }
        self.channel = channel;
    }

    fn publish_to(&mut self, channel: &[u8], body: &Body<'_>, now: u64) {
        // A message that comes too late, because the bus went down after its verb, has a number all
        // the same: so the others see that it is missing.
        let number = self.numbering.next(channel, now);
        self.encode(number, body);
        let message = [&self.head[..], body.payload()];
        match self.session.publish(&[&self.prefix, channel], &message) {
            Ok(()) => self.published += 1,
            Err(_) => self.stats.unconfirmed += 1,
        }
    }

    /// Publishes something whose loss needs not be seen.
    fn publish_unnumbered(&mut self, channel: &[u8], body: &Body<'_>) {
        self.encode(0, body);
        let message = [&self.head[..], body.payload()];
        let _ = self.session.tell(&[&self.prefix, channel], &message);
    }

    fn encode(&mut self, number: u64, body: &Body<'_>) {
        self.head.clear();
        encode_head(self.node, number, body, &mut self.head);
    }

    /// Tells the other servers that this one ends.
    pub(crate) fn say_goodbye(&mut self) {
        self.publish_unnumbered(ALL, &Body::Bye);
    }

    // Messages of other servers.

    /// Handles what was read, up to the next thing that has come. `input` is advanced. Call it
    /// until it returns `None`; then all of `input` is consumed.
    pub(crate) fn receive<'e, 'i: 'e>(
        &'e mut self,
        now: u64,
        input: &mut &'i [u8],
    ) -> Option<Arrived<'e>> {
        let Self { session, expected, nodes, stats, prefix, own_channel, hasher, .. } = self;
        let (channel, payload) = match session.receive(now, input)? {
            SessionEvent::Message { channel, payload } => (channel, payload),
            SessionEvent::Up { was_down_for, .. } => {
                nodes.up(now);
                return Some(Arrived::Up { was_down_for });
            }
            SessionEvent::Unsubscribed { channel } => {
                stats.gaps += 1;
                let topic = channel.strip_prefix(&**prefix).and_then(topic_of);
                return Some(Arrived::Unsubscribed { topic });
            }
            event => return Some(ended(event, nodes, stats)),
        };
        let Some(channel) = channel.strip_prefix(&**prefix) else {
            return Some(Arrived::Nothing);
        };
        let Frame { node, number, body } = match decode(payload) {
            Ok(frame) => frame,
            // The probe of a server whose uuid a connection of this one has.
            Err(Unreadable::Version(0)) => return Some(Arrived::Nothing),
            Err(_) => {
                // Once, because other programs may publish here again and again.
                if stats.unreadable == 0 {
                    log::warn!(
                        "a message on the bus is not readable: a server may have another version"
                    );
                }
                stats.unreadable += 1;
                return Some(Arrived::Nothing);
            }
        };
        if node == self.node {
            return Some(Arrived::Nothing); // Redis sends it to its publisher too.
        }
        if let Body::Bye = body {
            let was_known = nodes.left(node);
            self.has_new_nodes |= was_known;
            return Some(if was_known { Arrived::Left { node } } else { Arrived::Nothing });
        }
        if nodes.len() >= MOST_NODES && !nodes.lives(node) {
            if !std::mem::replace(&mut self.has_too_many_nodes, true) {
                log::warn!("the bus has more than {MOST_NODES} servers: some are not heard");
            }
            stats.unreadable += 1;
            return Some(Arrived::Nothing);
        }
        self.has_new_nodes |= nodes.heard(node, now);
        let topic = topic_of(channel).map(|topic| (hasher.hash_one(topic), topic));
        let mut lost = 0;
        match body {
            Body::Heartbeat => return Some(Arrived::Nothing),
            Body::Ask { .. } => {}
            // Those on another server's channel are for its own questions.
            Body::Answer { .. } if *channel != **own_channel => return Some(Arrived::Nothing),
            Body::Answer { .. } => {}
            _ => {
                let hash = topic.map_or_else(|| hasher.hash_one(channel), |(hash, _)| hash);
                match expected.check(hash, channel, node, number, |node| nodes.lives(node)) {
                    Verdict::NotWanted => return Some(Arrived::Nothing),
                    Verdict::Duplicate => {
                        stats.duplicates += 1;
                        return Some(Arrived::Nothing);
                    }
                    Verdict::Deliver { lost: missing } => lost = missing,
                }
                stats.received += 1;
                stats.gaps += u64::from(lost > 0);
                stats.lost = stats.lost.saturating_add(lost);
            }
        }
        Some(Arrived::Message { node, topic, lost, body })
    }
}

impl<'f> Content<'f> {
    /// The message, to be sent by this server.
    pub(crate) fn to_ready(self) -> Ready<'f> {
        let Self { opcode, options, payload } = self;
        Ready { opcode, payload, options, frame: None }
    }
}

/// What the end of a connection, or of an attempt, means for the nodes.
fn ended(event: SessionEvent<'_>, nodes: &mut Nodes, stats: &mut BusStats) -> Arrived<'static> {
    match event {
        SessionEvent::Down { failure, unconfirmed, .. } => {
            nodes.down();
            stats.downs += 1;
            stats.unconfirmed += unconfirmed;
            Arrived::Down { failure, unconfirmed }
        }
        SessionEvent::Failed { failure, retry_in, .. } => Arrived::Failed { failure, retry_in },
        _ => Arrived::Nothing,
    }
}

/// The topic of a channel without the prefix.
fn topic_of(channel: &[u8]) -> Option<&str> {
    std::str::from_utf8(channel.strip_prefix(b"t:")?).ok()
}

/// Writes the channel of a uuid, without the prefix.
fn write_channel(of: UuidChannel, channel: &mut Vec<u8>) {
    channel.clear();
    match of {
        UuidChannel::Node(node) => {
            channel.extend_from_slice(b"n:");
            for digit in (0..12).rev() {
                channel.push(b"0123456789abcdef"[(node >> (digit * 4)) as usize & 15]);
            }
        }
        UuidChannel::Own(uuid) => {
            channel.extend_from_slice(b"u:");
            let mut buffer = Uuid::encode_buffer();
            channel.extend_from_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_set_uuids_is_small_again_when_most_are_gone() {
        let bus = Bus::redis("redis://localhost").unwrap();
        let mut engine = Engine::new(&bus, 1, RandomState::new(), 0);
        for (uuids, is_set) in [(0..20_000, true), (10..20_000, false)] {
            uuids.map(Uuid::from_u128).for_each(|uuid| engine.look_at_uuid(uuid, is_set, 0));
        }
        let room = engine.set_uuids.capacity();
        assert!(room <= 2 * KEEP_UUIDS, "room for {room} uuids of 10");
    }
}
