//! What all loops of a process share of the bus to other servers: whether it is up, how much waits
//! for it, and what the loop that holds the connection has to look at.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::settings::Bus;
use crate::error::BusRefusal;

/// The loop that holds the connection.
pub(crate) const HOLDER: u16 = 0;

pub(crate) struct Outlet {
    pub(crate) bus: Bus,
    is_up: AtomicBool,
    /// The bytes that wait in letters for the loop that holds the connection.
    in_letters: AtomicUsize,
    /// The bytes that wait in the outbox of the connection.
    unsent: AtomicUsize,
    /// The nodes that live, for questions.
    nodes: Mutex<Arc<[u64]>>,
    changed: Mutex<Changed>,
    has_changed: AtomicBool,
}

/// Topics and uuids whose first or last member in the process has come or gone. Whether there is
/// one is looked at, so the order of such changes on several loops does not matter. They are looked
/// at in the order of their names, so that tests repeat.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) topics: BTreeSet<Box<str>>,
    pub(crate) uuids: BTreeSet<Uuid>,
}

impl Outlet {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            is_up: AtomicBool::new(false),
            in_letters: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            nodes: Mutex::new(Arc::default()),
            changed: Mutex::default(),
            has_changed: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// Returns whether the bus was up before.
    pub(crate) fn set_up(&self, is_up: bool) -> bool {
        self.is_up.swap(is_up, Ordering::AcqRel)
    }

    /// Whether a server with this bus is ready for clients.
    pub(crate) fn is_ready(&self) -> bool {
        self.bus.ready_while_down || self.is_up()
    }

    // What waits.

    /// Takes the room for a letter of this length.
    pub(super) fn take_room(&self, len: usize) -> Result<(), BusRefusal> {
        if !self.is_up() {
            return Err(BusRefusal::Down);
        }
        if len > self.bus.outbox_bytes {
            return Err(BusRefusal::TooLarge);
        }
        // Several loops may do this at the same time: each adds its own first, so none is missed.
        let before = self.in_letters.fetch_add(len, Ordering::AcqRel);
        if before + len + self.unsent.load(Ordering::Acquire) > self.bus.outbox_bytes {
            self.give_room(len);
            return Err(BusRefusal::Full);
        }
        Ok(())
    }

    /// A letter of this length was handled, or dropped.
    pub(crate) fn give_room(&self, len: usize) {
        self.in_letters.fetch_sub(len, Ordering::AcqRel);
    }

    /// So much waits in the connection's outbox. The letters that it came from are counted until
    /// this is said.
    pub(crate) fn set_unsent(&self, unsent: usize) {
        self.unsent.store(unsent, Ordering::Release);
    }

    /// The bytes that wait for the bus.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.in_letters.load(Ordering::Acquire) + self.unsent.load(Ordering::Acquire)
    }

    // Other servers.

    pub(crate) fn nodes(&self) -> Arc<[u64]> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_nodes(&self, nodes: Arc<[u64]>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    // What has changed.

    /// Notes a topic that has got its first member or lost its last. Returns whether nothing had
    /// changed before.
    pub(super) fn note_topic(&self, topic: &str) -> bool {
        self.note(|changed| {
            if !changed.topics.contains(topic) {
                changed.topics.insert(topic.into());
            }
        })
    }

    /// Notes a uuid that the program has set, or that is free again. Returns whether nothing had
    /// changed before.
    pub(super) fn note_uuid(&self, uuid: Uuid) -> bool {
        self.note(|changed| _ = changed.uuids.insert(uuid))
    }

    fn note(&self, note: impl FnOnce(&mut Changed)) -> bool {
        let mut changed = self.lock();
        note(&mut changed);
        !self.has_changed.swap(true, Ordering::AcqRel)
    }

    #[inline]
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::Acquire)
    }

    /// Takes what has changed.
    pub(crate) fn take_changed(&self) -> Changed {
        let mut changed = self.lock();
        self.has_changed.store(false, Ordering::Release);
        std::mem::take(&mut changed)
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet() -> Outlet {
        Outlet::new(Bus::redis("redis://localhost").unwrap().outbox_bytes(100))
    }

    #[test]
    fn no_more_waits_than_the_limit_and_a_letter_counts_until_its_bytes_do() {
        let outlet = outlet();
        assert_eq!(outlet.take_room(1), Err(BusRefusal::Down));
        outlet.set_up(true);
        assert_eq!(outlet.take_room(101), Err(BusRefusal::TooLarge));
        assert_eq!(outlet.take_room(60), Ok(()));
        assert_eq!(outlet.take_room(41), Err(BusRefusal::Full));
        assert_eq!(outlet.take_room(40), Ok(()));
        outlet.set_unsent(50);
        outlet.give_room(60);
        assert_eq!((outlet.take_room(11), outlet.take_room(10)), (Err(BusRefusal::Full), Ok(())));
        assert_eq!(outlet.queue_bytes(), 100);
        outlet.set_up(false);
        assert_eq!(outlet.take_room(1), Err(BusRefusal::Down));
    }

    #[test]
    fn what_changes_twice_is_looked_at_once() {
        let outlet = outlet();
        assert!(outlet.note_topic("a") && !outlet.note_topic("a"));
        assert!(!outlet.note_uuid(Uuid::nil()) && outlet.has_changed());
        let changed = outlet.take_changed();
        assert_eq!((changed.topics.len(), changed.uuids.len()), (1, 1));
        assert!(!outlet.has_changed() && outlet.note_topic("a"));
    }
}
