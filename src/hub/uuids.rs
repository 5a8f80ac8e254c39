//! The slots of connections by uuid.
//!
//! The uuids themselves are in the connections; this is only a table of slots. With a
//! `HashMap<Uuid, u32>` instead, an idle connection takes 219 bytes instead of 193
//! (`tests/memory.rs`, with 5 000 of them).

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;
use uuid::Uuid;

use super::connection::Connection;

#[derive(Default)]
pub(super) struct Names {
    slots: HashTable<u32>,
    /// A keyed hash, because users may take uuids from clients.
    hasher: RandomState,
}

impl Names {
    /// The slot of the connection with this uuid.
    pub(super) fn find(&self, connections: &Slab<Connection>, uuid: Uuid) -> Option<u32> {
        let named = |&slot: &u32| uuid_of(connections, slot) == Some(uuid);
        self.slots.find(hash(&self.hasher, uuid), named).copied()
    }

    /// Enters a slot that is not in the table, with its connection's uuid; returns `false` if
    /// another slot has that uuid.
    pub(super) fn insert(&mut self, connections: &Slab<Connection>, slot: u32) -> bool {
        let uuid = uuid_of(connections, slot).unwrap_or_default();
        let named = |&each: &u32| uuid_of(connections, each) == Some(uuid);
        let rehash = |&each: &u32| hash_of(&self.hasher, connections, each);
        match self.slots.entry(hash(&self.hasher, uuid), named, rehash) {
            Entry::Vacant(place) => {
                place.insert(slot);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Removes a slot, whose connection must still have the uuid that it was entered with.
    pub(super) fn remove(&mut self, connections: &Slab<Connection>, slot: u32) {
        let hash = hash_of(&self.hasher, connections, slot);
        if let Ok(entry) = self.slots.find_entry(hash, |&each| each == slot) {
            entry.remove();
        }
    }

    /// Frees memory that is not needed for this number of slots.
    pub(super) fn shrink(&mut self, connections: &Slab<Connection>, len: usize) {
        let hasher = &self.hasher;
        self.slots.shrink_to(len, |&slot| hash_of(hasher, connections, slot));
    }
}

fn uuid_of(connections: &Slab<Connection>, slot: u32) -> Option<Uuid> {
    connections.get(slot as usize).map(|connection| connection.uuid)
}

fn hash_of(hasher: &RandomState, connections: &Slab<Connection>, slot: u32) -> u64 {
    hash(hasher, uuid_of(connections, slot).unwrap_or_default())
}

/// Hashes the uuid as one number: as an array, its length would be hashed too.
fn hash(hasher: &RandomState, uuid: Uuid) -> u64 {
    hasher.hash_one(uuid.as_u128())
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::hub::test_kit::{hub, open};

    #[test]
    fn the_table_of_uuids_shrinks_to_the_remaining_connections() {
        let mut hub = hub();
        let all: Vec<_> = (0..2000).map(|_| open(&mut hub, 1000).0).collect();
        assert!(hub.names.slots.capacity() >= 2000);
        for &token in &all[100..] {
            hub.fail(token, Error::Lost);
        }
        hub.flush_dirty();
        while hub.next_notification().is_some() {}
        hub.remove_dead();
        let room = hub.names.slots.capacity();
        assert!((100..400).contains(&room), "room for {room} uuids of 100");
        assert!(
            all[..100].iter().all(|&token| hub.find(hub.get(token).unwrap().uuid) == Some(token))
        );
    }
}
