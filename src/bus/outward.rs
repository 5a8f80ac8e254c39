//! What a loop has for other servers, with a bus.
//!
//! Each verb queues one letter for the loop that holds the connection. That loop numbers, encodes
//! and publishes it when it next writes. Whether there is room is known at once, on every loop.

use std::sync::Arc;

use uuid::Uuid;

use super::batch::{Answer, Batch, Letter, Question, Ready, To, cost_of};
use super::event::BusEvent;
use super::figures::BusStats;
use super::frame::LONGEST_TEXT;
use super::identity::run_of;
use super::link::Link;
use super::node::Node;
use super::outlet::{HOLDER, Outlet};
use super::post::Post;
use super::sent::BusSent;
use crate::error::BusRefusal;
use crate::protocol::CloseCode;
use crate::redis::BusFailure;

impl Post {
    /// The number of this server among those of the bus.
    pub(crate) fn node(&self) -> u64 {
        self.identity.run()
    }

    /// The connection to Redis is gone with the holder's server. If the holder has failed, the
    /// other loops go on, so their handlers are called. At the end of a shutdown they end too.
    pub(crate) fn holder_ends(&self, unconfirmed: u64) {
        let was_up = self.outlet().is_some_and(|outlet| outlet.set_up(false));
        if !was_up || self.all_finished() || self.shutdown_ended().is_some() {
            return;
        }
        for index in self.alive().without(HOLDER).iter() {
            let down = BusEvent::Down { why: BusFailure::LoopFailed, unconfirmed };
            let mut letters = Batch::default();
            letters.push(Letter::Bus(down), "", 0);
            self.hand_over(HOLDER, index, &mut letters);
        }
    }

    /// Makes the holder look whether a topic has members.
    pub(super) fn look_at_topic(&self, index: u16, topic: &str) {
        if let Some(outlet) = self.outlet()
            && outlet.note_topic(topic)
            && index != HOLDER
        {
            self.wake_for_letters(HOLDER);
        }
    }

    /// Makes the holder look whether a connection has a uuid that the program has set.
    pub(super) fn look_at_uuid(&self, index: u16, uuid: Uuid) {
        if let Some(outlet) = self.outlet()
            && outlet.note_uuid(uuid)
            && index != HOLDER
        {
            self.wake_for_letters(HOLDER);
        }
    }

    /// Whether a connection has this uuid, which the program has set.
    pub(crate) fn has_set_uuid(&self, uuid: Uuid) -> bool {
        self.set_uuids.find(uuid).is_some()
    }
}

impl Link {
    /// What leads to other servers.
    pub(crate) fn outlet(&self) -> Option<&Outlet> {
        self.post().outlet()
    }

    pub(crate) fn is_bus_up(&self) -> bool {
        self.outlet().is_some_and(Outlet::is_up)
    }

    pub(crate) fn has_bus(&self) -> bool {
        self.outlet().is_some()
    }

    /// The name of this server on the bus.
    pub(crate) fn node(&self) -> Option<Node> {
        self.outlet().map(|_| Node(self.post().node()))
    }

    /// The other servers that live.
    pub(crate) fn nodes(&self) -> Arc<[u64]> {
        self.outlet().map(Outlet::nodes).unwrap_or_default()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.outlet().is_none_or(Outlet::is_ready)
    }

    /// Queues a message for other servers.
    pub(crate) fn send_message_away(&mut self, to: To, text: &str, message: &Ready<'_>) -> BusSent {
        let cost = match &to {
            // Each uuid may be on another server, and those that the program has set have channels
            // of their own.
            To::List(uuids) => {
                let mut channels: Vec<_> = uuids.iter().map(|&uuid| channel_of(uuid)).collect();
                channels.sort_unstable();
                channels.dedup();
                channels.len() * cost_of(text, message.payload.len()) + size_of_val(&uuids[..])
            }
            _ => cost_of(text, message.payload.len()),
        };
        self.send_away(text, cost, |batch| batch.push_message(to, text, message, cost))
    }

    /// Queues the close of a connection of another server.
    pub(crate) fn send_close_away(&mut self, uuid: Uuid, code: CloseCode, reason: &str) -> BusSent {
        let cost = cost_of(reason, 0);
        self.send_away("", cost, |batch| batch.push(Letter::Close(uuid, code), reason, cost))
    }

    /// Queues a question to all other servers.
    pub(crate) fn ask_away(&mut self, query: u64, question: Question, topic: &str) -> BusSent {
        let cost = cost_of(topic, 0);
        // The answer says which loop has asked.
        let query = u64::from(self.index()) << LOOP_SHIFT | query;
        self.take_away(topic, cost, |batch| {
            batch.push(Letter::Ask { query, question }, topic, cost);
        })
    }

    /// Queues the answer to a question of another server.
    pub(crate) fn answer_away(&mut self, node: u64, query: u64, is_complete: bool, answer: Answer) {
        let cost = cost_of("", answer.len());
        let letter = Letter::NodeAnswer { query, node, is_last: true, is_complete, answer };
        self.take_away("", cost, |batch| batch.push(letter, "", cost));
    }

    /// Queues a letter for other servers, and counts it.
    fn send_away(&mut self, text: &str, cost: usize, push: impl FnOnce(&mut Batch)) -> BusSent {
        let sent = self.take_away(text, cost, push);
        match sent {
            BusSent::Queued => self.bus_stats.published += 1,
            BusSent::Refused(_) => self.bus_stats.refused += 1,
            BusSent::None => {}
        }
        sent
    }

    fn take_away(&mut self, text: &str, cost: usize, push: impl FnOnce(&mut Batch)) -> BusSent {
        let Some(outlet) = self.outlet() else { return BusSent::None };
        if text.len() > LONGEST_TEXT {
            return BusSent::Refused(BusRefusal::TooLarge);
        }
        if let Err(refusal) = outlet.take_room(cost) {
            return BusSent::Refused(refusal);
        }
        let batch = if self.index() == HOLDER { &mut self.outward } else { self.open(HOLDER) };
        push(batch);
        batch.send_away();
        BusSent::Queued
    }

    /// Whether the holder has something to do for the bus at the end of its turn.
    #[inline]
    pub(crate) fn has_outward(&self) -> bool {
        !self.outward.is_empty() || self.outlet().is_some_and(Outlet::has_changed)
    }

    /// Takes what the holder itself has for other servers. The batch comes back by
    /// [`put_outward_back`](Self::put_outward_back).
    pub(crate) fn take_outward(&mut self) -> Batch {
        std::mem::take(&mut self.outward)
    }

    /// All of it was handled.
    pub(crate) fn put_outward_back(&mut self, mut letters: Batch) {
        letters.clear(self.post().keep);
        self.outward = letters;
    }

    /// The figures of the connection, which the holder has.
    pub(crate) fn set_bus_stats(&mut self, stats: BusStats) {
        let BusStats { published, refused, .. } = self.bus_stats;
        self.bus_stats = BusStats { published, refused, ..stats };
    }

    pub(crate) fn bus_stats(&self) -> Option<BusStats> {
        let outlet = self.outlet()?;
        let queue_bytes = if self.index() == HOLDER { outlet.queue_bytes() } else { 0 };
        Some(BusStats { is_up: outlet.is_up(), queue_bytes, ..self.bus_stats })
    }
}

/// The upper bits of a question's number on the bus are the loop that asks.
pub(crate) const LOOP_SHIFT: u32 = 48;

/// The channel by which the connection with this uuid is reached: that of the server that has made
/// the uuid, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UuidChannel {
    Node(u64),
    Own(Uuid),
}

pub(crate) fn channel_of(uuid: Uuid) -> UuidChannel {
    run_of(uuid).map_or(UuidChannel::Own(uuid), UuidChannel::Node)
}
