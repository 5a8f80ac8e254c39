//! The numbers of messages between servers, by which a receiver knows what it has lost. It knows no
//! clock: the caller passes the time.
//!
//! Each node numbers its messages in each channel by itself:
//!
//! ```text
//!   bits   63 … 48   47 …… 0
//!         ┌───────┬─────────┐
//!         │ epoch │  count  │    one more for each message: 7|0  7|1  7|2 …
//!         └───────┴─────────┘
//! ```
//!
//! A node that publishes to ever new channels must forget old ones. If it forgot one and began
//! again with the same number, a receiver would take the message for a duplicate. So a counter
//! begins in a later epoch than any counter of its channel before.
//!
//! | what comes, after 7│5 | it is |
//! |---|---|
//! | 7│6 | the next one |
//! | 7│9 | behind three that are lost |
//! | 7│5 or 7│2 | a duplicate, or it was passed by others, and counted as lost then |
//! | 9│0 | the first of a new counter |
//! | 9│4 | behind four of a new counter that are lost |
//!
//! What was lost at the end of an old counter is not known. It was lost 10 minutes before.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A counter that was idle for this time is dropped; milliseconds.
const IDLE: u64 = 10 * 60 * 1000;

/// How many counters one sweep looks at. That takes about 2 µs, and 30 µs if it drops all of them.
const LOOKS: usize = 1024;

/// How many counters each new one looks at: so those that are idle are few beside the others,
/// however often new channels come.
const LOOKS_OF_NEW: usize = 4;

/// Tables of up to this many entries are not made smaller.
const KEEP: usize = 64;

const EPOCH_SHIFT: u32 = 48;
const COUNT_MASK: u64 = (1 << EPOCH_SHIFT) - 1;

/// What this node publishes next in each channel.
#[derive(Default)]
pub struct Numbering {
    /// The epoch in which a counter begins.
    epoch: u16,
    /// In any order, so that a sweep can continue at an index.
    counters: Vec<Counter>,
    /// The indexes of the counters, by the hash of their channel.
    indexes: HashTable<u32>,
    /// A keyed hash, because clients may choose names of topics.
    hasher: RandomState,
    /// Where the next sweep begins.
    sweep_from: usize,
}

struct Counter {
    channel: Box<[u8]>,
    hash: u64,
    next: u64,
    last_used: u64,
}

impl Numbering {
    /// The number of the next message in this channel.
    pub fn next(&mut self, channel: &[u8], now: u64) -> u64 {
        let hash = self.hasher.hash_one(channel);
        let counters = &mut self.counters;
        let is_it = |&index: &u32| *counters[index as usize].channel == *channel;
        if let Some(&index) = self.indexes.find(hash, is_it) {
            let counter = &mut counters[index as usize];
            let number = counter.next;
            // A count that has 48 bits is never full: at a million a second it takes nine years.
            counter.next = number.wrapping_add(1);
            counter.last_used = now;
            return number;
        }
        self.look(LOOKS_OF_NEW, now);
        let number = u64::from(self.epoch) << EPOCH_SHIFT;
        let counters = &mut self.counters;
        let index = counters.len() as u32;
        counters.push(Counter { channel: channel.into(), hash, next: number + 1, last_used: now });
        self.indexes.insert_unique(hash, index, |&index| counters[index as usize].hash);
        number
    }

    /// Drops counters that were idle for 10 minutes, among the next 1024.
    pub fn sweep(&mut self, now: u64) {
        self.look(LOOKS, now);
        let len = self.counters.len();
        if self.counters.capacity() > KEEP && len * 8 < self.counters.capacity() {
            self.counters.shrink_to(len * 2);
            self.indexes.shrink_to(len * 2, |&index| self.counters[index as usize].hash);
        }
    }

    /// Drops counters that were idle for 10 minutes, among the next ones.
    fn look(&mut self, looks: usize, now: u64) {
        for _ in 0..self.counters.len().min(looks) {
            if self.sweep_from >= self.counters.len() {
                self.sweep_from = 0;
            }
            let last_used = self.counters[self.sweep_from].last_used;
            if now.saturating_sub(last_used) < IDLE {
                self.sweep_from += 1;
            } else {
                self.drop_counter(self.sweep_from);
            }
        }
    }

    fn drop_counter(&mut self, index: usize) {
        let dropped = self.counters.swap_remove(index);
        if let Ok(entry) = self.indexes.find_entry(dropped.hash, |&at| at as usize == index) {
            entry.remove();
        }
        // The last counter stands in its place now.
        let last = self.counters.len();
        if let Some(moved) = self.counters.get(index)
            && let Some(at) = self.indexes.find_mut(moved.hash, |&at| at as usize == last)
        {
            *at = index as u32;
        }
        // This is so only if the epoch began 10 minutes ago or more. So it takes at least 455 days
        // until an epoch comes again. A receiver takes the new counter for the old one only if the
        // channel was silent for that time, and its next message comes within that one epoch.
        if (dropped.next >> EPOCH_SHIFT) as u16 == self.epoch {
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// The number of counters.
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// Whether there is no counter.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }
}

/// What is expected next of other nodes, in each channel that is wanted here.
///
/// It remembers each node that has published there. A node that is gone is forgotten when its place
/// is needed for another one, so that no search through all channels is needed.
#[derive(Default)]
pub struct Expected {
    channels: HashTable<Channel>,
    pairs: usize,
}

struct Channel {
    name: Box<[u8]>,
    hash: u64,
    /// Sorted by node.
    nodes: Vec<Next>,
}

struct Next {
    node: u64,
    number: u64,
}

/// What a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The channel has no members here.
    NotWanted,
    /// It is for the members.
    Deliver {
        /// How many messages in front of it are lost: less than 2⁴⁸.
        lost: u64,
    },
    /// It came before, or it counts as lost: it must not be delivered.
    Duplicate,
}

impl Expected {
    /// The first member of a channel has joined. The hash is the caller's: one channel always has
    /// the same, and a stranger cannot choose channels with one hash.
    pub fn begin(&mut self, hash: u64, channel: &[u8]) {
        let is_it = |known: &Channel| *known.name == *channel;
        if let Entry::Vacant(place) = self.channels.entry(hash, is_it, |known| known.hash) {
            place.insert(Channel { name: channel.into(), hash, nodes: Vec::new() });
        }
    }

    /// The last member of a channel has left: all that is known of it is dropped.
    pub fn end(&mut self, hash: u64, channel: &[u8]) {
        let Ok(entry) = self.channels.find_entry(hash, |known| *known.name == *channel) else {
            return;
        };
        let (ended, _) = entry.remove();
        self.pairs -= ended.nodes.len();
        let len = self.channels.len();
        if len == 0 || self.channels.capacity() > KEEP && len * 8 < self.channels.capacity() {
            self.channels.shrink_to(len * 2, |known| known.hash);
        }
    }

    /// Looks at the number of a message of another node. Nodes that do not live may be forgotten.
    pub fn check(
        &mut self,
        hash: u64,
        channel: &[u8],
        node: u64,
        number: u64,
        is_live: impl Fn(u64) -> bool,
    ) -> Verdict {
        let Some(known) = self.channels.find_mut(hash, |known| *known.name == *channel) else {
            return Verdict::NotWanted;
        };
        let nodes = &mut known.nodes;
        let following = number.wrapping_add(1);
        match nodes.binary_search_by_key(&node, |next| next.node) {
            Ok(index) => {
                let next = &mut nodes[index].number;
                let lost = if number >> EPOCH_SHIFT != *next >> EPOCH_SHIFT {
                    number & COUNT_MASK
                } else if number >= *next {
                    number - *next
                } else {
                    return Verdict::Duplicate;
                };
                *next = following;
                Verdict::Deliver { lost }
            }
            Err(mut index) => {
                if nodes.len() == nodes.capacity() {
                    let before = nodes.len();
                    nodes.retain(|next| is_live(next.node));
                    self.pairs -= before - nodes.len();
                    index = nodes.partition_point(|next| next.node < node);
                    // If many are gone, the room is for as many as are left.
                    nodes.shrink_to(2 * nodes.len());
                }
                if nodes.len() == nodes.capacity() {
                    // By half. With doubling from four places, one node takes 64 bytes, not 16.
                    nodes.reserve_exact(1 + nodes.len() / 2);
                }
                nodes.insert(index, Next { node, number: following });
                self.pairs += 1;
                Verdict::Deliver { lost: 0 }
            }
        }
    }

    /// The number of pairs of a channel and a node that has published there.
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether no node has published in a channel that is wanted.
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The number of channels that are wanted.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn number(epoch: u64, count: u64) -> u64 {
        epoch << EPOCH_SHIFT | count
    }

    fn lost(lost: u64) -> Verdict {
        Verdict::Deliver { lost }
    }

    #[test]
    fn each_channel_is_numbered_by_itself_from_0() {
        let mut numbering = Numbering::default();
        for count in 0..3 {
            assert_eq!(numbering.next(b"a", 0), count);
        }
        assert_eq!((numbering.next(b"b", 0), numbering.next(b"a", 0)), (0, 3));
    }

    #[test]
    fn an_idle_counter_begins_anew_in_a_later_epoch_and_others_go_on() {
        let mut numbering = Numbering::default();
        for channel in [b"a", b"b", b"c"] {
            numbering.next(channel, 0);
        }
        numbering.next(b"b", 1);
        numbering.sweep(IDLE - 1);
        assert_eq!(numbering.len(), 3);
        numbering.sweep(IDLE);
        assert_eq!(numbering.len(), 1);
        assert_eq!(numbering.next(b"b", IDLE), 2, "it was not idle");
        assert_eq!(numbering.next(b"a", IDLE), number(1, 0), "two that were dropped: one epoch");
        assert_eq!(numbering.next(b"a", IDLE), number(1, 1));
        numbering.sweep(2 * IDLE);
        assert_eq!((numbering.len(), numbering.epoch), (0, 2));
    }

    #[test]
    fn a_counter_of_an_earlier_epoch_does_not_end_the_present_one() {
        let mut numbering = Numbering::default();
        numbering.next(b"old", 0);
        numbering.next(b"older", 0);
        numbering.next(b"old", 1);
        numbering.sweep(IDLE);
        numbering.next(b"new", IDLE);
        numbering.sweep(IDLE + 1);
        assert_eq!((numbering.len(), numbering.epoch), (1, 1));
        assert_eq!(numbering.next(b"old", IDLE + 1), number(1, 0));
    }

    #[test]
    fn a_sweep_looks_at_few_counters_and_sweeps_come_to_all() {
        let mut numbering = Numbering::default();
        let names: Vec<String> = (0..5000).map(|name| name.to_string()).collect();
        names.iter().for_each(|name| _ = numbering.next(name.as_bytes(), 0));
        for name in names.iter().step_by(10) {
            numbering.next(name.as_bytes(), IDLE);
        }
        numbering.sweep(IDLE);
        let after_one = numbering.len();
        assert!((5000 - LOOKS..5000 - LOOKS / 2).contains(&after_one), "{after_one}");
        (0..5).for_each(|_| numbering.sweep(IDLE));
        assert_eq!(numbering.len(), 500);
        for (name, index) in names.iter().zip(0..) {
            let expected = if index % 10 == 0 { 2 } else { number(1, 0) };
            assert_eq!(numbering.next(name.as_bytes(), IDLE), expected, "{name}");
        }
    }

    #[test]
    fn memory_is_given_back_when_most_counters_are_dropped() {
        let mut numbering = Numbering::default();
        for name in 0..20_000 {
            numbering.next(name.to_string().as_bytes(), 0);
        }
        (0..20).for_each(|_| numbering.sweep(IDLE));
        assert!(numbering.is_empty());
        let room = numbering.counters.capacity().max(numbering.indexes.capacity());
        assert!(room <= KEEP, "room for {room} counters of 0");
    }

    #[test]
    fn a_gap_says_exactly_how_many_are_lost() {
        let mut expected = Expected::default();
        let mut check = |number| {
            expected.begin(1, b"a");
            expected.check(1, b"a", 7, number, |_| true)
        };
        assert_eq!(check(number(3, 5)), lost(0), "the first is the base");
        assert_eq!(check(number(3, 6)), lost(0));
        assert_eq!(check(number(3, 10)), lost(3));
        assert_eq!(check(number(3, 10)), Verdict::Duplicate);
        assert_eq!(check(number(3, 7)), Verdict::Duplicate, "it was counted as lost");
        assert_eq!(check(number(3, 11)), lost(0));
        assert_eq!(check(number(4, 0)), lost(0), "a new counter");
        assert_eq!(check(number(6, 2)), lost(2));
        assert_eq!(check(number(0, 0)), lost(0), "epochs come again");
        assert_eq!(check(u64::MAX), lost(COUNT_MASK));
        assert_eq!(check(0), lost(0), "after the last number there is the first");
    }

    #[test]
    fn nodes_and_channels_do_not_mix_even_with_one_hash() {
        let mut expected = Expected::default();
        expected.begin(1, b"a");
        expected.begin(1, b"b");
        for node in [9, 3, 5] {
            assert_eq!(expected.check(1, b"a", node, node, |_| true), lost(0));
        }
        assert_eq!(expected.check(1, b"b", 3, 100, |_| true), lost(0));
        assert_eq!(expected.check(1, b"c", 3, 0, |_| true), Verdict::NotWanted);
        for node in [3, 5, 9] {
            assert_eq!(expected.check(1, b"a", node, node + 2, |_| true), lost(1));
        }
        assert_eq!((expected.len(), expected.channels()), (4, 2));
    }

    #[test]
    fn what_is_remembered_goes_with_the_last_member() {
        let mut expected = Expected::default();
        for (hash, channel) in [(1, b"a"), (2, b"b")] {
            expected.begin(hash, channel);
            for node in 0..10 {
                expected.check(hash, channel, node, 0, |_| true);
            }
        }
        assert_eq!(expected.len(), 20);
        assert_eq!(expected.check(1, b"a", 5, 50, |_| true), lost(49));
        expected.end(1, b"a");
        expected.end(1, b"a");
        assert_eq!((expected.len(), expected.channels()), (10, 1));
        assert_eq!(expected.check(1, b"a", 5, 51, |_| true), Verdict::NotWanted);
        expected.begin(1, b"a");
        assert_eq!(expected.check(1, b"a", 5, 60, |_| true), lost(0));
        assert_eq!(expected.check(2, b"b", 5, 1, |_| true), lost(0));
        expected.end(1, b"a");
        expected.end(2, b"b");
        assert!(expected.is_empty());
    }

    #[test]
    fn nodes_that_are_gone_are_forgotten_when_others_come() {
        let mut expected = Expected::default();
        expected.begin(1, b"a");
        for first in 0..1000 {
            // Ten live, and one of them is new.
            let is_live = |node| (first..first + 10).contains(&node);
            for node in first..first + 10 {
                expected.check(1, b"a", node, first, is_live);
            }
            assert!((10..=20).contains(&expected.len()), "{}", expected.len());
        }
        // One that was silent and lives is remembered.
        assert_eq!(expected.check(1, b"a", 1005, 1009, |_| true), lost(9));
    }

    #[test]
    fn idle_counters_are_dropped_however_fast_new_ones_come() {
        let mut numbering = Numbering::default();
        let rate = 100; // a second
        for number in 0..rate * 3600_u64 {
            numbering.next(&number.to_be_bytes(), number * 1000 / rate);
        }
        let active = (rate * IDLE / 1000) as usize;
        assert!(numbering.len() < 2 * active, "{} of {active}", numbering.len());
    }

    /// Numbers that seem random, and are the same in each run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % sides
        }
    }

    const CHANNELS: usize = 5;

    /// A node, and what is true of its channels.
    struct Node {
        node: u64,
        numbering: Numbering,
        channels: [Truth; CHANNELS],
    }

    #[derive(Default)]
    struct Truth {
        published: u64,
        /// What was published in front of the present counter.
        before: u64,
        last_number: u64,
        last_used: u64,
        epochs: HashSet<u64>,
    }

    impl Node {
        fn new(node: u64) -> Self {
            Self { node, numbering: Numbering::default(), channels: Default::default() }
        }

        /// Publishes; numbers go on, or begin anew after idleness in an epoch that was never used.
        fn publish(&mut self, channel: usize, now: u64) -> Sent {
            let number = self.numbering.next(&[channel as u8], now);
            let truth = &mut self.channels[channel];
            if truth.published == 0 || number != truth.last_number + 1 {
                assert_eq!(number & COUNT_MASK, 0);
                assert!(truth.epochs.insert(number >> EPOCH_SHIFT));
                assert!(truth.published == 0 || now - truth.last_used >= IDLE);
                truth.before = truth.published;
            }
            let place = truth.published;
            truth.published += 1;
            (truth.last_number, truth.last_used) = (number, now);
            Sent { node: self.node, channel, number, place, before: truth.before }
        }
    }

    #[derive(Clone, Copy)]
    struct Sent {
        node: u64,
        channel: usize,
        number: u64,
        /// How many messages of this node were published in this channel in front of it.
        place: u64,
        /// How many of them by earlier counters.
        before: u64,
    }

    /// What the numbers should say, from what is true of each message.
    fn judge(received: &mut HashMap<(usize, u64), Sent>, sent: Sent) -> Verdict {
        let last = received.get(&(sent.channel, sent.node)).copied();
        let verdict = match last {
            Some(last) if sent.place <= last.place => return Verdict::Duplicate,
            None => lost(0),
            Some(last) => lost(sent.place - sent.before.max(last.place + 1)),
        };
        received.insert((sent.channel, sent.node), sent);
        verdict
    }

    #[test]
    fn no_loss_is_silent_between_two_messages_of_one_counter() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut nodes: Vec<Node> = (0..4).map(Node::new).collect();
        let mut expected = Expected::default();
        let mut wanted = [false; CHANNELS];
        let mut received = HashMap::new();
        let (mut now, mut new_node) = (0, nodes.len() as u64);
        let (mut duplicates, mut gaps, mut new_counters) = (0, 0, 0);
        for _ in 0..20_000 {
            let (at, channel) = (dice.roll(nodes.len()), dice.roll(CHANNELS));
            let hash = channel as u64 % 2;
            match dice.roll(20) {
                0 => {
                    nodes[at] = Node::new(new_node);
                    new_node += 1;
                }
                1 => {
                    expected.end(hash, &[channel as u8]);
                    received.retain(|&(of, _), _| of != channel);
                    wanted[channel] = false;
                }
                2..5 => {
                    expected.begin(hash, &[channel as u8]);
                    wanted[channel] = true;
                }
                5 => now += IDLE / 3,
                _ => now += 1,
            }
            nodes[at].numbering.sweep(now);
            let mut flying: Vec<Sent> = Vec::new();
            for _ in 0..dice.roll(12) {
                let sent = nodes[at].publish(channel, now);
                match dice.roll(8) {
                    0 => {}
                    1 => flying.extend([sent; 2]),
                    _ => flying.push(sent),
                }
            }
            if dice.roll(2) == 0 && flying.len() > 1 {
                let (a, b) = (dice.roll(flying.len()), dice.roll(flying.len()));
                flying.swap(a, b);
            }
            for sent in flying {
                let verdict =
                    expected.check(hash, &[channel as u8], sent.node, sent.number, |_| true);
                if !wanted[channel] {
                    assert_eq!(verdict, Verdict::NotWanted);
                    continue;
                }
                assert_eq!(verdict, judge(&mut received, sent));
                duplicates += usize::from(verdict == Verdict::Duplicate);
                gaps += usize::from(!matches!(
                    verdict,
                    Verdict::Duplicate | Verdict::Deliver { lost: 0 }
                ));
                new_counters += usize::from(sent.before > 0 && sent.before == sent.place);
            }
        }
        let rare = [duplicates, gaps, new_counters];
        assert!(rare.iter().all(|&times| times > 500), "{rare:?}");
    }
}
