//! The uuids that the program has set, with the loop of their connection: they do not say it
//! themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use uuid::Uuid;

/// The uuids are spread over this many tables, so that loops seldom wait for each other, and a
/// table that grows is short.
const TABLES: usize = 64;
/// A table with room for no more than this is not made smaller.
const KEEP: usize = 8;

type Table = HashMap<Uuid, u16>;

pub(super) struct SetUuids {
    tables: [RwLock<Table>; TABLES],
    /// A keyed hash, because programs may take uuids from clients.
    hasher: RandomState,
}

impl SetUuids {
    pub(super) fn new() -> Self {
        Self { tables: std::array::from_fn(|_| RwLock::default()), hasher: RandomState::new() }
    }

    /// Enters a uuid; returns `false` if a connection of any loop has it.
    pub(super) fn insert(&self, uuid: Uuid, index: u16) -> bool {
        match self.table_mut(uuid).entry(uuid) {
            Entry::Vacant(place) => {
                place.insert(index);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Removes a uuid; returns whether this loop had entered it.
    pub(super) fn remove(&self, uuid: Uuid, index: u16) -> bool {
        let mut table = self.table_mut(uuid);
        let is_there = table.get(&uuid) == Some(&index);
        if is_there {
            table.remove(&uuid);
            shrink(&mut table);
        }
        is_there
    }

    /// The loop whose connection has this uuid.
    pub(super) fn find(&self, uuid: Uuid) -> Option<u16> {
        let table = self.table(uuid).read().unwrap_or_else(PoisonError::into_inner);
        table.get(&uuid).copied()
    }

    /// Removes every uuid of a loop that has ended, and passes it on.
    pub(super) fn forget_loop(&self, index: u16, mut ended: impl FnMut(Uuid)) {
        for table in &self.tables {
            let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
            table.retain(|&uuid, each| {
                let has_ended = *each == index;
                if has_ended {
                    ended(uuid);
                }
                !has_ended
            });
            shrink(&mut table);
        }
    }

    fn table(&self, uuid: Uuid) -> &RwLock<Table> {
        &self.tables[self.hasher.hash_one(uuid.as_u128()) as usize % TABLES]
    }

    fn table_mut(&self, uuid: Uuid) -> RwLockWriteGuard<'_, Table> {
        self.table(uuid).write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees memory if most uuids of a table are gone.
fn shrink(table: &mut Table) {
    if table.capacity() > KEEP && table.len() * 8 < table.capacity() {
        table.shrink_to(table.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_uuid_belongs_to_one_loop_until_that_gives_it_up() {
        let uuids = SetUuids::new();
        let [a, b] = [1, 2].map(Uuid::from_u128);
        assert!(uuids.insert(a, 0) && uuids.insert(b, 1));
        assert!(!uuids.insert(a, 1), "loop 0 has it");
        assert!(!uuids.remove(a, 1));
        assert_eq!(uuids.find(a), Some(0), "only its own loop gives it up");
        assert!(uuids.remove(a, 0));
        assert_eq!((uuids.find(a), uuids.find(b)), (None, Some(1)));
        let mut ended = Vec::new();
        uuids.forget_loop(1, |uuid| ended.push(uuid));
        assert_eq!(ended, [b]);
        assert_eq!(uuids.find(b), None);
    }

    #[test]
    fn the_tables_are_small_again_when_most_uuids_are_gone() {
        let uuids = SetUuids::new();
        let all = || (0..20_000).map(Uuid::from_u128);
        all().for_each(|uuid| assert!(uuids.insert(uuid, 3)));
        all().skip(10).for_each(|uuid| assert!(uuids.remove(uuid, 3)));
        let room: usize = uuids.tables.iter().map(|table| table.read().unwrap().capacity()).sum();
        assert!(room < TABLES * 2 * KEEP, "room for {room} uuids of 10");
    }
}
