//! The uuids that the program has set, with the loop of their connection: they do not say it
//! themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use uuid::Uuid;

#[derive(Default)]
pub(super) struct SetUuids {
    loops: RwLock<HashMap<Uuid, u16>>,
    /// Their number. Most programs set none, and then no look-up takes the lock.
    len: AtomicUsize,
}

impl SetUuids {
    /// Enters a uuid; returns `false` if a connection of any loop has it.
    pub(super) fn insert(&self, uuid: Uuid, index: u16) -> bool {
        let mut loops = self.loops.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = match loops.entry(uuid) {
            Entry::Vacant(place) => {
                place.insert(index);
                true
            }
            Entry::Occupied(_) => false,
        };
        self.len.store(loops.len(), Ordering::Release);
        is_new
    }

    pub(super) fn remove(&self, uuid: Uuid, index: u16) {
        let mut loops = self.loops.write().unwrap_or_else(PoisonError::into_inner);
        if loops.get(&uuid) == Some(&index) {
            loops.remove(&uuid);
        }
        self.len.store(loops.len(), Ordering::Release);
    }

    /// The loop whose connection has this uuid.
    pub(super) fn find(&self, uuid: Uuid) -> Option<u16> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.loops.read().unwrap_or_else(PoisonError::into_inner).get(&uuid).copied()
    }

    /// Removes every uuid of a loop that has ended.
    pub(super) fn forget_loop(&self, index: u16) {
        let mut loops = self.loops.write().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|_, each| *each != index);
        loops.shrink_to_fit();
        self.len.store(loops.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_uuid_belongs_to_one_loop_until_that_gives_it_up() {
        let uuids = SetUuids::default();
        let [a, b] = [1, 2].map(Uuid::from_u128);
        assert!(uuids.insert(a, 0) && uuids.insert(b, 1));
        assert!(!uuids.insert(a, 1), "loop 0 has it");
        uuids.remove(a, 1);
        assert_eq!(uuids.find(a), Some(0), "only its own loop gives it up");
        uuids.remove(a, 0);
        assert_eq!((uuids.find(a), uuids.find(b)), (None, Some(1)));
        uuids.forget_loop(1);
        assert_eq!(uuids.find(b), None);
    }
}
