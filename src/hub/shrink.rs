//! Gives memory back when far fewer connections are open than before.
//!
//! Without it, 992 KB of live heap remain after 5 000 connections have ended, with it 33 KB
//! (`tests/memory.rs`).
//!
//! Long lists are first cut in place, down to almost nothing, and then freed. glibc's malloc takes
//! the length of a freed mapping as a hint (`M_MMAP_THRESHOLD` in mallopt(3)): from then on it puts
//! lists of that length among small memory, and keeps up to twice that much free memory for good.

use super::connection::Connection;
use super::{Hub, KEEP_ENTRIES, KEEP_NOTIFICATIONS};

/// The number of slots up to which no memory is given back: a server with few connections does not
/// call the allocator each time that one comes or ends.
const KEEP_SLOTS: usize = 128;
/// Memory is given back when at most one in this many slots is taken. This is hysteresis: churn
/// around one number does not reallocate.
const SHRINK_SHARE: usize = 4;

impl Hub {
    /// Notes that enough connections are open to give memory back when most of them have ended.
    pub(super) fn will_shrink(&mut self) {
        self.shrink_at = self.connections.capacity() / SHRINK_SHARE;
    }

    /// Frees the memory that the remaining connections do not need; `last` is the last one if none
    /// remains.
    #[cold]
    pub(super) fn shrink(&mut self, last: Option<Connection>) {
        let slots = self.connections.capacity();
        if slots <= KEEP_SLOTS || self.connections.len() > slots / SHRINK_SHARE {
            return;
        }
        if let Some(last) = last {
            // An empty slab would be freed.
            self.connections.clear();
            let index = self.connections.insert(last);
            self.connections.shrink_to_fit();
            self.connections.remove(index);
        } else {
            // This keeps the slots up to the highest one that is taken.
            self.connections.shrink_to_fit();
        }
        let len = self.connections.len();
        // If a high slot is taken, little memory was freed. The next try is worth its cost when
        // half of the other connections have ended too, or when that slot is free. From then on the
        // lowest free slots are taken first.
        self.shrink_at = len / 2;
        self.timers.shrink(len);
        self.names.shrink(&self.connections, len);
        self.stage.shrink();
        self.dirty.shrink_to(KEEP_ENTRIES);
        self.dead.shrink_to(KEEP_ENTRIES);
        self.rest.shrink_to(KEEP_ENTRIES);
        self.notifications.shrink_to(KEEP_NOTIFICATIONS);
        self.dropped_by.shrink_to(len);
        self.topics.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::test_kit::{hub, insert, open};
    use crate::token::Token;

    /// Ends a connection.
    fn leave(hub: &mut Hub, token: Token) {
        hub.peer_finished(token);
        hub.flush_dirty();
        while hub.next_notification().is_some() {}
        assert_eq!(hub.remove_dead(), 1);
    }

    #[test]
    fn when_all_have_ended_hardly_any_slots_remain() {
        let mut hub = hub();
        for _ in 0..2 {
            let tokens: Vec<_> = (0..20 * KEEP_SLOTS).map(|_| open(&mut hub, 1000).0).collect();
            tokens.iter().for_each(|&token| leave(&mut hub, token));
            assert!(hub.connections.capacity() <= KEEP_SLOTS);
            // A new connection must not be confused with an old one.
            let (token, _far) = insert(&mut hub, 0);
            assert!(tokens.iter().all(|&gone| hub.get(gone).is_none()) && hub.get(token).is_some());
            hub.timed_out(token);
            assert_eq!((hub.remove_dead(), hub.next_deadline()), (1, None));
        }
    }

    #[test]
    fn remaining_connections_keep_their_slots_however_many_end() {
        let mut hub = hub();
        let all: Vec<_> = (0..20 * KEEP_SLOTS).map(|_| open(&mut hub, 1000)).collect();
        // The connection that came last has the highest slot.
        let (early, late) = (all[7].0, all[all.len() - 1].0);
        let uuids = [early, late].map(|token| hub.get(token).unwrap().uuid);
        for &(token, _) in all.iter().filter(|(token, _)| ![early, late].contains(token)) {
            leave(&mut hub, token);
        }
        assert_eq!([early, late].map(|token| hub.is_open(token)), [true; 2]);
        assert_eq!(uuids.map(|uuid| hub.find(uuid)), [Some(early), Some(late)]);
        assert!(hub.connections.capacity() > late.index as usize, "no connection is moved");
        leave(&mut hub, late);
        assert_eq!(uuids.map(|uuid| hub.find(uuid)), [Some(early), None]);
        let more: Vec<_> = (0..3 * KEEP_SLOTS).map(|_| open(&mut hub, 1000)).collect();
        assert!(
            more.iter().all(|&(token, _)| hub.find(hub.get(token).unwrap().uuid) == Some(token))
        );
        assert_eq!(hub.find(uuids[0]), Some(early));
    }

    #[test]
    fn the_slots_of_a_peak_are_given_back_while_others_come_and_end() {
        let mut hub = hub();
        let mut all: Vec<_> = (0..40 * KEEP_SLOTS).map(|_| open(&mut hub, 1000)).collect();
        let mut random = 7_usize;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        for step in 0..500 * KEEP_SLOTS {
            let (token, _) = all.swap_remove(below(all.len()));
            leave(&mut hub, token);
            if step >= 39 * KEEP_SLOTS {
                all.push(open(&mut hub, 1000));
            }
        }
        assert_eq!(all.len(), KEEP_SLOTS);
        assert!(
            hub.connections.capacity() <= 4 * KEEP_SLOTS,
            "{} slots",
            hub.connections.capacity()
        );
        assert!(all.iter().all(|&(token, _)| hub.is_open(token)));
    }

    #[test]
    fn churn_around_one_number_reallocates_nothing() {
        let mut hub = hub();
        let mut all: Vec<_> = (0..20 * KEEP_SLOTS).map(|_| open(&mut hub, 1000)).collect();
        let before = hub.connections.capacity();
        for _ in 0..3 {
            all.drain(all.len() / 2..).for_each(|(token, _)| leave(&mut hub, token));
            all.extend((all.len()..20 * KEEP_SLOTS).map(|_| open(&mut hub, 1000)));
            assert_eq!(hub.connections.capacity(), before);
        }
    }

    /// A hub whose slots are all taken, at least `slots`. The connection in the lowest slot comes
    /// first.
    fn full(slots: usize) -> (Hub, Vec<Token>) {
        let mut hub = hub();
        let mut all = Vec::new();
        while all.len() < slots || hub.connections.len() < hub.connections.capacity() {
            all.push(open(&mut hub, 1000).0);
        }
        (hub, all)
    }

    /// Whether memory is given back when one connection ends: a scratch list that has grown shows
    /// it.
    fn is_given_back_when_one_leaves(hub: &mut Hub, token: Token) -> bool {
        hub.rest.reserve_exact(2 * KEEP_ENTRIES);
        leave(hub, token);
        hub.rest.capacity() == KEEP_ENTRIES
    }

    #[test]
    fn a_few_slots_are_kept_even_when_all_leave() {
        let (mut hub, all) = full(KEEP_SLOTS);
        assert_eq!(hub.connections.capacity(), KEEP_SLOTS);
        assert!(all.into_iter().all(|token| !is_given_back_when_one_leaves(&mut hub, token)));
        assert_eq!(hub.connections.capacity(), KEEP_SLOTS);
    }

    #[test]
    fn slots_are_given_back_when_a_quarter_is_taken_and_not_before() {
        let (mut hub, mut all) = full(8 * KEEP_SLOTS);
        let slots = all.len();
        while let Some(token) = all.pop_if(|_| hub.connections.len() > slots / 4 + 1) {
            leave(&mut hub, token);
            assert_eq!(hub.connections.capacity(), slots, "{} are left", all.len());
        }
        leave(&mut hub, all.pop().unwrap());
        assert_eq!(hub.connections.capacity(), slots / 4);
    }

    #[test]
    fn with_a_high_slot_taken_the_next_try_waits_until_half_have_ended() {
        let (mut hub, all) = full(8 * KEEP_SLOTS);
        let slots = all.len();
        let mut lowest_first = all.into_iter();
        let mut tries = Vec::new();
        while hub.connections.len() > slots / 16 {
            let given_back = is_given_back_when_one_leaves(&mut hub, lowest_first.next().unwrap());
            if given_back {
                tries.push(hub.connections.len());
                // A connection that comes and ends does not bring the next try nearer.
                let (token, _far) = open(&mut hub, 1000);
                assert!(
                    hub.connections.len() <= slots / 16
                        || !is_given_back_when_one_leaves(&mut hub, token)
                );
            }
        }
        assert_eq!(tries, [slots / 4, slots / 8, slots / 16]);
        assert_eq!(hub.connections.capacity(), slots);
    }
}
