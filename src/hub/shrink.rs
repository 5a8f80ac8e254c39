//! When far fewer are connected than were: what has grown with their number is given back.
//!
//! Long lists are cut where they lie before they are freed, down to almost nothing. glibc's malloc takes the length of a mapping that is freed for
//! a hint (`M_MMAP_THRESHOLD` in mallopt(3)): from there on it puts lists of that length among small memory, and keeps up to twice as much of
//! free memory for good.

use super::{Hub, KEEP_ENTRIES, KEEP_RECORDS};
use crate::connection::{Connection, Transport};

/// Up to so many slots nothing is given back: a server whose few connections come and go does not ask the allocator each time.
const KEEP_SLOTS: usize = 128;
/// Memory is given back when no more than this share of the slots is taken, so that whoever comes and goes around one number costs nothing.
const SHRINK_SHARE: usize = 4;

impl<T: Transport> Hub<T> {
    /// There is room for more connections than before.
    pub(super) fn has_grown(&mut self) {
        self.shrink_at = self.connections.capacity() / SHRINK_SHARE;
    }

    /// Gives back what so few connections do not need; `last` was the last one if there is none any more.
    #[cold]
    pub(super) fn shrink(&mut self, last: Option<Connection<T>>) {
        let slots = self.connections.capacity();
        if slots <= KEEP_SLOTS {
            return;
        }
        if let Some(last) = last {
            // An empty slab would be freed.
            self.connections.clear();
            let index = self.connections.insert(last);
            self.connections.shrink_to_fit();
            self.connections.remove(index);
        } else {
            // As far as the highest slot that is taken.
            self.connections.shrink_to_fit();
        }
        let len = self.connections.len();
        // Where a high slot is taken, nothing was won: then the next try is worth its trouble when half of the others have gone, too.
        self.shrink_at = match self.connections.capacity() {
            fewer if fewer < slots => fewer / SHRINK_SHARE,
            _ => len / 2,
        };
        self.timers.shrink(len);
        self.names.shrink(&self.connections, len);
        self.stage.shrink();
        self.dirty.shrink_to(KEEP_ENTRIES);
        self.dead.shrink_to(KEEP_ENTRIES);
        self.rest.shrink_to(KEEP_ENTRIES);
        self.records.shrink_to(KEEP_RECORDS);
        self.topics.shrink();
    }
}
