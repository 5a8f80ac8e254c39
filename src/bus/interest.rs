//! Which loops have members of which topic.
//!
//! A loop enters a topic when its first local member joins, and leaves it with its last one. So a
//! message visits only loops with members, and a member that has joined before a message is
//! published gets it, whatever loop it is on.

use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::loop_set::LoopSet;

/// Topics are spread over this many tables, so that loops seldom wait for each other.
const TABLES: usize = 64;

pub(super) struct Interest {
    tables: Box<[Table]>,
    /// A keyed hash, because clients may choose names.
    pub(super) hasher: RandomState,
}

/// Alone in its cache lines: other cores write to the neighbours.
#[repr(align(128))]
#[derive(Default)]
struct Table(RwLock<HashTable<(Box<str>, LoopSet)>>);

impl Interest {
    pub(super) fn new() -> Self {
        Self { tables: (0..TABLES).map(|_| Table::default()).collect(), hasher: RandomState::new() }
    }

    /// The loops that have members of this topic, whose hash the caller knows.
    pub(super) fn loops(&self, hash: u64, topic: &str) -> LoopSet {
        let table = self.table(hash);
        let table = table.0.read().unwrap_or_else(PoisonError::into_inner);
        table.find(hash, |(name, _)| **name == *topic).map_or(LoopSet::default(), |found| found.1)
    }

    /// The first member on this loop has joined. Returns whether it is the first in the process.
    pub(super) fn begin(&self, hash: u64, topic: &str, index: u16) -> bool {
        let table = self.table(hash);
        let mut table = table.0.write().unwrap_or_else(PoisonError::into_inner);
        let rehash = |(name, _): &(Box<str>, LoopSet)| self.hasher.hash_one(&**name);
        match table.entry(hash, |(name, _)| **name == *topic, rehash) {
            Entry::Occupied(mut found) => {
                found.get_mut().1.insert(index);
                false
            }
            Entry::Vacant(place) => {
                place.insert((topic.into(), [index].into_iter().collect()));
                true
            }
        }
    }

    /// The last member on this loop has left. Returns whether it was the last in the process.
    pub(super) fn end(&self, hash: u64, topic: &str, index: u16) -> bool {
        let table = self.table(hash);
        let mut table = table.0.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(mut found) = table.find_entry(hash, |(name, _)| **name == *topic) else {
            return false;
        };
        let loops = &mut found.get_mut().1;
        loops.remove(index);
        let is_last = loops.is_empty();
        if is_last {
            found.remove();
            self.shrink(&mut table);
        }
        is_last
    }

    /// A loop has ended: it has no members any more. The topics without other members are passed
    /// on.
    pub(super) fn forget_loop(&self, index: u16, mut ended: impl FnMut(&str)) {
        for table in &self.tables {
            let mut table = table.0.write().unwrap_or_else(PoisonError::into_inner);
            table.retain(|(name, loops)| {
                loops.remove(index);
                if loops.is_empty() {
                    ended(name);
                }
                !loops.is_empty()
            });
            self.shrink(&mut table);
        }
    }

    /// Frees memory if most topics of a table have ended.
    fn shrink(&self, table: &mut HashTable<(Box<str>, LoopSet)>) {
        if table.capacity() > 64 && table.len() * 8 < table.capacity() {
            table.shrink_to(table.len() * 2, |(name, _)| self.hasher.hash_one(&**name));
        }
    }

    fn table(&self, hash: u64) -> &Table {
        // The lowest bits choose the place in the table.
        &self.tables[(hash >> 32) as usize % TABLES]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.tables.iter().map(|table| table.0.read().unwrap().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_known_as_long_as_a_loop_has_members() {
        let interest = Interest::new();
        let hash = interest.hasher.hash_one("prices");
        assert!(interest.begin(hash, "prices", 3), "the first of the process");
        assert!(!interest.begin(hash, "prices", 200));
        assert_eq!(interest.loops(hash, "prices").iter().collect::<Vec<_>>(), [3, 200]);
        assert!(!interest.end(hash, "prices", 3));
        assert!(!interest.end(hash, "prices", 3));
        assert_eq!(interest.loops(hash, "prices").iter().collect::<Vec<_>>(), [200]);
        let mut ended = Vec::new();
        interest.forget_loop(200, |name| ended.push(name.to_owned()));
        assert_eq!(ended, ["prices"]);
        interest.begin(hash, "prices", 1);
        assert!(interest.end(hash, "prices", 1), "the last of the process");
        assert!(interest.loops(hash, "prices").is_empty());
        assert_eq!(interest.len(), 0);
    }

    #[test]
    fn the_tables_are_small_again_when_most_topics_have_ended() {
        let interest = Interest::new();
        let names: Vec<String> = (0..20_000).map(|topic| topic.to_string()).collect();
        let hash = |name: &String| interest.hasher.hash_one(&**name);
        names.iter().for_each(|name| assert!(interest.begin(hash(name), name, 0)));
        assert_eq!(interest.len(), names.len());
        names[10..].iter().for_each(|name| assert!(interest.end(hash(name), name, 0)));
        let room: usize =
            interest.tables.iter().map(|table| table.0.read().unwrap().capacity()).sum();
        assert!(room < 64 * 65, "room for {room} topics of 10");
    }
}
