//! The table of topics: their names, the members by slot, and each slot's own list.
//!
//! These lists take at most 59 bytes for a membership and 150 for a topic with its only member
//! (`tests/topics_memory.rs`). With a map of sets for each direction, a connection that is in one
//! topic takes 209 bytes for that, and a topic with its only member 256.
//!
//! It knows no connection, no uuid and no message. A slot that closes leaves every topic at once;
//! the names of its topics are kept until the slot is removed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use hashbrown::HashTable;
use slab::Slab;

use super::growth;
use crate::bus::Seat;
use crate::error::TopicError;

/// The longest name of a topic, in bytes.
pub(crate) const MAX_NAME: usize = 256;

/// With more topics than these, their tables are not made smaller: that hashes each name, at about
/// 0.1 µs.
const MOST_REHASHED: usize = 16 * 1024;

/// A list of up to this many entries is not made smaller before it is empty.
const KEEP_ENTRIES: usize = 16;
/// Tables of up to this many topics are not made smaller.
const KEEP_TOPICS: usize = 64;
/// Those tables are made smaller when no more than this share of them is in use: hysteresis, so
/// that topics that come and go around one number cost nothing.
const SHRINK_SHARE: usize = 4;

#[derive(Default)]
pub(crate) struct Topics {
    /// The topics by name. The names are in `topics`.
    by_name: HashTable<u32>,
    /// A keyed hash, because clients may choose names. All loops of a process have the same one.
    hasher: RandomState,
    topics: Slab<Topic>,
    /// Each slot's memberships: one word for a slot that has none, and nothing while no slot has
    /// any.
    #[expect(clippy::box_collection, reason = "a slot without topics costs one word")]
    by_slot: Vec<Option<Box<Vec<Membership>>>>,
    /// The topics of closed slots at their close.
    former: HashMap<u32, Vec<Rc<str>>>,
    memberships: usize,
    /// Where the loops of the process note which of them have members, if there are several.
    interest: Option<Seat>,
    /// With this many topics or fewer, memory is given back.
    shrink_at: usize,
}

/// A topic; it exists as long as it has members.
struct Topic {
    name: Rc<str>,
    members: Vec<Member>,
}

/// One membership as its topic knows it.
struct Member {
    slot: u32,
    /// Its position in the slot's list.
    at: u32,
}

/// One membership as its slot knows it.
struct Membership {
    topic: u32,
    /// Its position in the topic's list.
    at: u32,
}

impl Topics {
    /// From now on, notes which topics have members. There are none yet.
    pub(crate) fn note_interest(&mut self, seat: Seat) {
        self.hasher = seat.topic_hasher();
        self.interest = Some(seat);
    }

    /// Makes a slot a member, of at most `most` topics; returns whether it was not a member before.
    pub(crate) fn join(&mut self, slot: u32, name: &str, most: usize) -> Result<bool, TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(TopicError::TooLong { len: name.len() });
        }
        let known = self.find(name);
        if known.is_some_and(|topic| self.position(slot, topic).is_some()) {
            return Ok(false);
        }
        if self.list(slot).len() >= most {
            return Err(TopicError::TooMany { limit: most });
        }
        let topic = known.unwrap_or_else(|| self.add(name));
        let members = &mut self.topics[topic as usize].members;
        let list = slot_entry(&mut self.by_slot, slot).get_or_insert_default();
        let (at, position) = (members.len() as u32, list.len() as u32);
        push(members, Member { slot, at: position });
        push(list, Membership { topic, at });
        self.memberships += 1;
        Ok(true)
    }

    /// Ends one membership; returns whether there was one. However many members the topic has, only
    /// the two lists' last entries move.
    pub(crate) fn leave(&mut self, slot: u32, name: &str) -> bool {
        let Some(position) = self.find(name).and_then(|topic| self.position(slot, topic)) else {
            return false;
        };
        let entry = &mut self.by_slot[slot as usize];
        let Some(list) = entry else { return false };
        let membership = list.swap_remove(position);
        if let Some(moved) = list.get(position) {
            self.topics[moved.topic as usize].members[moved.at as usize].at = position as u32;
        }
        give_back(list);
        if list.is_empty() {
            *entry = None;
        }
        self.remove_member(membership);
        self.shrink_if_few();
        true
    }

    /// Ends every membership of a slot that has closed, and keeps the names until it is
    /// [forgotten](Self::forget); returns how many there were.
    pub(crate) fn leave_all(&mut self, slot: u32) -> usize {
        let Some(list) = self.by_slot.get_mut(slot as usize).and_then(Option::take) else {
            return 0;
        };
        let left = list.len();
        let names = list
            .iter()
            .map(|membership| self.topics[membership.topic as usize].name.clone())
            .collect();
        self.former.insert(slot, names);
        list.into_iter().for_each(|membership| self.remove_member(membership));
        self.shrink_if_few();
        left
    }

    /// Forgets the topics of a closed slot: another connection may take the slot. Returns how many
    /// there were.
    pub(crate) fn forget(&mut self, slot: u32) -> usize {
        if self.former.is_empty() {
            return 0;
        }
        let count = self.former.remove(&slot).map_or(0, |names| names.len());
        if self.former.is_empty() {
            self.former.shrink_to(KEEP_TOPICS);
        }
        count
    }

    /// Frees memory that grew with the number of slots and topics, if far fewer remain.
    pub(crate) fn shrink(&mut self) {
        let used = self.by_slot.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.by_slot.truncate(used);
        self.by_slot.shrink_to_fit();
        // Each name is hashed again, and each slot looked at: with many remaining, that would take
        // longer than a turn may.
        if self.by_name.len() <= MOST_REHASHED {
            self.shrink_names(0);
            self.topics.shrink_to_fit();
        }
        self.former.shrink_to_fit();
    }

    /// The topic with this name; it has members.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.find_hashed(self.hash(name), name)
    }

    /// The same for a name whose hash is known.
    pub(crate) fn find_hashed(&self, hash: u64, name: &str) -> Option<u32> {
        let is_named = |&topic: &u32| *self.topics[topic as usize].name == *name;
        self.by_name.find(hash, is_named).copied()
    }

    /// The hash of a name, which is the same on all loops.
    pub(crate) fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    /// The slots of a topic's members.
    pub(crate) fn members(&self, topic: u32) -> impl ExactSizeIterator<Item = u32> {
        self.topics
            .get(topic as usize)
            .map_or(&[][..], |topic| &topic.members)
            .iter()
            .map(|member| member.slot)
    }

    /// How many members a topic has.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.find(name).map_or(0, |topic| self.members(topic).len())
    }

    pub(crate) fn is_member(&self, slot: u32, name: &str) -> bool {
        self.find(name).is_some_and(|topic| self.position(slot, topic).is_some())
    }

    /// The names of the topics that a slot is in, or was in when it closed.
    pub(crate) fn of(&self, slot: u32) -> Vec<String> {
        if let Some(names) = self.former.get(&slot) {
            return names.iter().map(|name| (**name).to_owned()).collect();
        }
        self.list(slot)
            .iter()
            .map(|membership| (*self.topics[membership.topic as usize].name).to_owned())
            .collect()
    }

    /// Every topic with how many members it has.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.topics.iter().map(|(_, topic)| (&*topic.name, topic.members.len()))
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How many memberships there are, of all topics together.
    pub(crate) fn memberships(&self) -> usize {
        self.memberships
    }

    fn add(&mut self, name: &str) -> u32 {
        let hash = self.hash(name);
        let topic = self.topics.insert(Topic { name: name.into(), members: Vec::new() }) as u32;
        if let Some(seat) = &self.interest {
            seat.first_joined(hash, name);
        }
        let Self { by_name, topics, hasher, .. } = self;
        by_name.insert_unique(hash, topic, |&each| hasher.hash_one(&*topics[each as usize].name));
        if self.topics.len() >= self.topics.capacity() / 2 {
            self.shrink_at = self.topics.capacity() / SHRINK_SHARE;
        }
        topic
    }

    /// Frees the spare memory of the topics' tables if few topics remain. It must not be called
    /// while a list that leads to topics is taken apart: they may move.
    fn shrink_if_few(&mut self) {
        if self.topics.len() <= self.shrink_at {
            self.shrink_tables();
        }
    }

    #[cold]
    fn shrink_tables(&mut self) {
        let places = self.topics.capacity();
        if places <= KEEP_TOPICS {
            self.shrink_at = 0;
            return;
        }
        let len = self.topics.len();
        if len > MOST_REHASHED {
            // With these remaining it would take longer than a turn may.
            self.shrink_at = MOST_REHASHED;
            return;
        }
        self.shrink_names(len * 2);
        if self.memberships <= places {
            self.close_ranks();
        } else {
            // Moving the topics would cost more than the topics that ended since the peak. Their
            // places take less memory than the memberships.
            self.topics.shrink_to_fit();
        }
        // The next try is worth its cost when half of these have ended, even if no memory was freed
        // because a high place is taken.
        self.shrink_at = len / 2;
    }

    /// Frees what the table of names does not need for this number of them.
    fn shrink_names(&mut self, len: usize) {
        let Self { by_name, topics, hasher, .. } = self;
        by_name.shrink_to(len, |&each| hasher.hash_one(&*topics[each as usize].name));
    }

    /// Moves all topics to the lowest places, in a table with room for twice as many.
    fn close_ranks(&mut self) {
        let mut moved = vec![0; self.topics.capacity()];
        let mut topics = Slab::with_capacity((self.topics.len() * 2).max(KEEP_TOPICS));
        for (from, topic) in std::mem::take(&mut self.topics) {
            let to = topics.vacant_key() as u32;
            for member in &topic.members {
                if let Some(list) = &mut self.by_slot[member.slot as usize] {
                    list[member.at as usize].topic = to;
                }
            }
            moved[from] = to;
            topics.insert(topic);
        }
        self.topics = topics;
        for place in &mut self.by_name {
            *place = moved[*place as usize];
        }
    }

    fn list(&self, slot: u32) -> &[Membership] {
        self.by_slot.get(slot as usize).and_then(Option::as_deref).map_or(&[], Vec::as_slice)
    }

    /// The position of a topic in a slot's list, found in the shorter of the two lists.
    fn position(&self, slot: u32, topic: u32) -> Option<usize> {
        let (list, members) = (self.list(slot), &self.topics[topic as usize].members);
        if members.len() < list.len() {
            return members
                .iter()
                .find(|member| member.slot == slot)
                .map(|member| member.at as usize);
        }
        list.iter().position(|membership| membership.topic == topic)
    }

    /// Removes a member from its topic, which ends with its last one; the slot's list no longer has
    /// the membership.
    fn remove_member(&mut self, Membership { topic, at }: Membership) {
        let members = &mut self.topics[topic as usize].members;
        members.swap_remove(at as usize);
        if let Some(moved) = members.get(at as usize)
            && let Some(list) = &mut self.by_slot[moved.slot as usize]
        {
            list[moved.at as usize].at = at;
        }
        give_back(members);
        if members.is_empty() {
            let name = self.topics.remove(topic as usize).name;
            let hash = self.hash(&name);
            if let Ok(entry) = self.by_name.find_entry(hash, |&each| each == topic) {
                entry.remove();
            }
            if let Some(seat) = &self.interest {
                seat.last_left(hash, &name);
            }
        }
        self.memberships -= 1;
    }
}

/// A slot's place in the table, which grows up to it.
fn slot_entry<E>(table: &mut Vec<Option<E>>, slot: u32) -> &mut Option<E> {
    let slot = slot as usize;
    if slot >= table.capacity() {
        table.reserve_exact(growth::grow_by(table.len(), slot + 1));
    }
    if slot >= table.len() {
        table.resize_with(slot + 1, || None);
    }
    &mut table[slot]
}

/// Appends an entry. Most lists have only one entry, so the first one allocates no spare room.
fn push<E>(list: &mut Vec<E>, entry: E) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.push(entry);
}

/// Frees memory when most of a list has been removed. So the memory of a membership does not depend
/// on how many there were.
fn give_back<E>(list: &mut Vec<E>) {
    if list.capacity() > KEEP_ENTRIES && list.len() <= list.capacity() / 4 {
        list.shrink_to(list.capacity() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry of one table leads to its counterpart in the other.
    fn check(topics: &Topics) {
        let mut memberships = 0;
        for (index, topic) in &topics.topics {
            assert!(!topic.members.is_empty() && topics.find(&topic.name) == Some(index as u32));
            for (at, member) in topic.members.iter().enumerate() {
                let membership = &topics.list(member.slot)[member.at as usize];
                assert_eq!((membership.topic as usize, membership.at as usize), (index, at));
                memberships += 1;
            }
        }
        let of_slots: usize =
            (0..topics.by_slot.len()).map(|slot| topics.list(slot as u32).len()).sum();
        assert_eq!(
            (topics.memberships, of_slots, topics.by_name.len()),
            (memberships, memberships, topics.topics.len())
        );
        assert!(topics.by_slot.iter().flatten().all(|list| !list.is_empty()));
    }

    #[test]
    fn the_other_loops_know_which_topics_have_members_here() {
        let post = crate::bus::Post::new(3, 1024, 0);
        let mut loops = [0, 2].map(|index| {
            let mut topics = Topics::default();
            topics.note_interest(Seat { post: post.clone(), index });
            topics
        });
        let mut seed = 3_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for step in 0..20_000 {
            let topics = &mut loops[random(2) as usize];
            let (slot, name) = (random(10) as u32, random(300).to_string());
            // Joining and leaving dominate in turn, so that tables grow and shrink.
            match random(20) {
                0 => {
                    topics.leave_all(slot);
                    topics.forget(slot);
                }
                1 => topics.shrink(),
                n if (n < 12) == (step / 2000 % 2 == 0) => {
                    _ = topics.join(slot, &name, usize::MAX).unwrap();
                }
                _ => _ = topics.leave(slot, &name),
            }
            for name in [name, random(300).to_string()] {
                let has_members =
                    loops.iter().zip([0, 2]).filter(|(topics, _)| topics.find(&name).is_some());
                let expected: Vec<u16> = has_members.map(|(_, index)| index).collect();
                assert_eq!(post.loops_with_members(&name).iter().collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn both_lists_of_every_membership_agree_in_every_order_of_leaving() {
        let mut topics = Topics::default();
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for step in 0..20_000 {
            let (slot, name) = (random(40) as u32, random(60).to_string());
            // Joining and leaving dominate in turn, so that lists grow long and empty again.
            match random(10) {
                0 if random(8) == 0 => {
                    topics.leave_all(slot);
                    topics.forget(slot);
                }
                n if (n < 6) == (step / 1000 % 2 == 0) => {
                    let was = topics.is_member(slot, &name);
                    assert_eq!(topics.join(slot, &name, usize::MAX), Ok(!was));
                }
                _ => {
                    let was = topics.is_member(slot, &name);
                    assert_eq!(topics.leave(slot, &name), was);
                }
            }
            if step % 10 == 0 {
                check(&topics);
            }
        }
        let memberships = topics.memberships();
        assert_eq!((0..40).map(|slot| topics.leave_all(slot)).sum::<usize>(), memberships);
        check(&topics);
        assert_eq!((topics.len(), topics.memberships()), (0, 0));
    }

    #[test]
    fn tables_that_were_long_give_their_memory_back_whichever_topics_stay() {
        for stay in [0, 1, 7, 100] {
            for (first, step) in [(0, 1), (10_000 - stay, 1), (0, 97)] {
                let mut topics = Topics::default();
                let stays = |number: usize| {
                    number >= first
                        && (number - first).is_multiple_of(step)
                        && (number - first) / step < stay
                };
                for round in 0..2 {
                    for number in 0..10_000 {
                        let joined =
                            topics.join((number % 20) as u32, &number.to_string(), usize::MAX);
                        assert_eq!(joined, Ok(round == 0 || !stays(number)));
                    }
                    check(&topics);
                    for number in (0..10_000).filter(|&number| !stays(number)) {
                        assert!(topics.leave((number % 20) as u32, &number.to_string()));
                    }
                    check(&topics);
                    assert_eq!(topics.len(), stay);
                    let most = KEEP_TOPICS.max(SHRINK_SHARE * stay);
                    assert!(
                        topics.topics.capacity() <= most,
                        "{stay}: {} places",
                        topics.topics.capacity()
                    );
                    assert!(
                        topics.by_name.capacity() <= 2 * most,
                        "{stay}: {} names",
                        topics.by_name.capacity()
                    );
                }
            }
        }
    }

    #[test]
    fn large_topics_are_not_moved_and_churn_around_one_number_costs_nothing() {
        let mut topics = Topics::default();
        let name = |number: usize| format!("topic {number}");
        (0..1000)
            .for_each(|number| assert_eq!(topics.join(0, &name(number), usize::MAX), Ok(true)));
        for slot in 1..100 {
            (900..1000).for_each(|number| {
                assert_eq!(topics.join(slot, &name(number), usize::MAX), Ok(true))
            });
        }
        (0..900).for_each(|number| assert!(topics.leave(0, &name(number))));
        check(&topics);
        assert!(topics.topics.capacity() >= 1000, "to move them costs more than their places take");
        let (places, names) = (topics.topics.capacity(), topics.by_name.capacity());
        for round in 0..100 {
            (0..100)
                .for_each(|number| assert_eq!(topics.join(0, &name(number), usize::MAX), Ok(true)));
            (0..100).for_each(|number| assert!(topics.leave(0, &name(number))));
            // A hash table reports a capacity that varies with the traces of removed entries.
            assert_eq!(topics.topics.capacity(), places, "round {round}");
            assert!((names / 2..=2 * names).contains(&topics.by_name.capacity()), "round {round}");
        }
    }

    #[test]
    fn what_a_slot_was_in_is_known_until_it_is_forgotten() {
        let mut topics = Topics::default();
        for name in ["a", "b"] {
            topics.join(3, name, 2).unwrap();
        }
        topics.leave_all(3);
        assert_eq!(topics.of(3), ["a", "b"]);
        assert!(!topics.is_member(3, "a") && topics.len() == 0);
        topics.forget(3);
        assert!(topics.of(3).is_empty());
    }

    #[test]
    fn a_list_that_was_long_gives_its_memory_back() {
        let mut topics = Topics::default();
        for slot in 0..1000 {
            topics.join(slot, "all", 1).unwrap();
        }
        for slot in 1..1000 {
            topics.leave(slot, "all");
        }
        assert!(topics.topics[0].members.capacity() <= KEEP_ENTRIES);
        topics.leave(0, "all");
        topics.shrink();
        assert_eq!(
            (topics.by_slot.capacity(), topics.topics.capacity(), topics.by_name.capacity()),
            (0, 0, 0)
        );
    }

    /// One slot in `count` topics without other members, each named by its number.
    fn alone_in(count: usize) -> Topics {
        let mut topics = Topics::default();
        (0..count).for_each(|number| {
            assert_eq!(topics.join(0, &number.to_string(), usize::MAX), Ok(true))
        });
        topics
    }

    /// Ends the first topics of `total`, from the lowest number on, until `left` remain.
    fn leave_until(topics: &mut Topics, total: usize, left: usize) {
        (total - topics.len()..total - left)
            .for_each(|number| assert!(topics.leave(0, &number.to_string())));
    }

    #[test]
    fn tables_are_cut_to_twice_what_is_left_when_a_quarter_is_and_not_before() {
        let mut topics = alone_in(1024);
        assert_eq!(topics.topics.capacity(), 1024);
        for (left, places) in
            [(257, 1024), (256, 512), (129, 512), (128, 256), (65, 256), (64, 128)]
        {
            leave_until(&mut topics, 1024, left);
            assert_eq!(topics.topics.capacity(), places, "{left} topics are left");
            if places == 2 * left {
                let names = topics.by_name.capacity();
                assert!((places..=2 * places).contains(&names), "room for {names} names of {left}");
            }
            check(&topics);
        }
    }

    #[test]
    fn tables_are_not_shrunk_while_rehashing_them_would_take_too_long() {
        let mut topics = alone_in(8 * 16_384);
        let places = topics.topics.capacity();
        leave_until(&mut topics, 8 * 16_384, 16_384 + 1);
        assert_eq!(topics.topics.capacity(), places);
        leave_until(&mut topics, 8 * 16_384, 16_384);
        assert_eq!(topics.topics.capacity(), 2 * 16_384);
    }

    #[test]
    fn the_next_try_to_shrink_waits_until_half_of_the_topics_have_ended() {
        let mut topics = alone_in(1024);
        for slot in 1..100 {
            (1000..1024).for_each(|number| {
                assert_eq!(topics.join(slot, &number.to_string(), usize::MAX), Ok(true))
            });
        }
        leave_until(&mut topics, 1024, 256);
        assert_eq!(
            (topics.topics.capacity(), topics.shrink_at),
            (1024, 128),
            "a high place is taken"
        );
        // A new topic does not bring the next try nearer.
        assert_eq!(topics.join(0, "new", usize::MAX), Ok(true));
        assert_eq!(topics.shrink_at, 128);
    }

    #[test]
    fn memberships_outlast_that_memory_is_given_back() {
        let mut topics = Topics::default();
        topics.join(5, "a", 1).unwrap();
        topics.shrink();
        assert!(topics.is_member(5, "a"));
        check(&topics);
    }

    #[test]
    fn the_table_of_slots_takes_a_word_for_each_and_little_more() {
        let mut topics = Topics::default();
        topics.join(1000, "a", 1).unwrap();
        assert_eq!(topics.by_slot.capacity(), 1001);
        topics.join(1001, "a", 1).unwrap();
        assert_eq!(topics.by_slot.capacity(), 1001 + 1001 / 8);
    }

    #[test]
    fn a_list_is_halved_when_a_quarter_of_it_is_left_and_a_short_one_is_kept() {
        let mut list: Vec<u32> = Vec::new();
        (0..64).for_each(|entry| push(&mut list, entry));
        for (left, capacity) in [(63, 64), (17, 64), (16, 32), (9, 32), (8, 16), (1, 16)] {
            while list.len() > left {
                list.pop();
                give_back(&mut list);
            }
            assert_eq!(list.capacity(), capacity, "{left} entries are left");
        }
    }
}
