//! Coarse timeouts: at most one entry for each connection, none moved by traffic.
//!
//! An entry says when a connection has to be looked at, not when something has to happen to it. A
//! connection that has shown a sign of life meanwhile is entered again for a later time. So a
//! message costs nothing here.
//!
//! It is a heap in two lists. With a `BTreeSet` of times and slots an idle connection takes 214
//! bytes instead of 193 (`tests/memory.rs`), and its small nodes, freed among other connections'
//! memory, keep the allocator from giving that back: 1.15 MB instead of 1.01 MB after 5 000
//! connections (`tests/rss.rs`).

use super::growth;

/// "Never", on the loop's clock.
pub(crate) const NEVER: u64 = u64::MAX;

/// The place of a slot that has no entry.
const NOWHERE: u32 = u32::MAX;
/// The length to which a list is cut before it is freed.
const FREE_MOST: usize = 1024;

/// The times at which slots have to be looked at, in milliseconds on the loop's clock.
#[derive(Default)]
pub(crate) struct Timers {
    /// A binary heap: no entry is due before the one above it.
    heap: Vec<(u64, u32)>,
    /// By slot, the place of its entry in the heap.
    places: Vec<u32>,
}

impl Timers {
    /// Enters a slot, or moves its entry.
    pub(crate) fn set(&mut self, index: u32, at: u64) {
        self.remove(index);
        if at == NEVER {
            return;
        }
        let slot = index as usize;
        if slot >= self.places.len() {
            grow(&mut self.places, slot + 1);
            self.places.resize(slot + 1, NOWHERE);
        }
        let last = self.heap.len();
        grow(&mut self.heap, last + 1);
        self.heap.push((at, index));
        self.rise(last);
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let Some(place) = self.place(index) else { return };
        self.places[index as usize] = NOWHERE;
        let Some(last) = self.heap.pop() else { return };
        if place < self.heap.len() {
            self.heap[place] = last;
            self.rise(place);
            self.sink(place);
        }
    }

    /// The time of a slot's entry; never if it has none.
    pub(crate) fn due(&self, index: u32) -> u64 {
        self.place(index).map_or(NEVER, |place| self.heap[place].0)
    }

    /// The time of the next entry.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes out one slot whose time has come.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<u32> {
        let &(at, index) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(index);
        Some(index)
    }

    /// Frees memory that is not needed for this number of slots.
    pub(crate) fn shrink(&mut self, slots: usize) {
        let used =
            self.places.iter().rposition(|&place| place != NOWHERE).map_or(0, |last| last + 1);
        self.places.truncate(used);
        give_back(&mut self.places, slots);
        give_back(&mut self.heap, slots);
    }

    fn place(&self, index: u32) -> Option<usize> {
        self.places
            .get(index as usize)
            .filter(|&&place| place != NOWHERE)
            .map(|&place| place as usize)
    }

    /// Moves an entry up to a place where none above it is due later.
    fn rise(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 && entry < self.heap[(place - 1) / 2] {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        self.put(place, entry);
    }

    /// Moves an entry down to a place where none below it is due earlier.
    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let below = 2 * place + 1;
            let (earlier, next) = match self.heap.get(below..) {
                Some([left, right, ..]) if right < left => (below + 1, *right),
                Some([left, ..]) => (below, *left),
                _ => break,
            };
            if entry <= next {
                break;
            }
            self.put(place, next);
            place = earlier;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (u64, u32)) {
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

/// Makes room for `len` entries.
fn grow<E>(list: &mut Vec<E>, len: usize) {
    if len > list.capacity() {
        list.reserve_exact(growth::grow_by(list.len(), len));
    }
}

/// Frees the memory of all but `len` entries. A long list is first cut and then freed: see
/// `hub::shrink`.
fn give_back<E>(list: &mut Vec<E>, len: usize) {
    list.shrink_to(len.max(FREE_MOST));
    list.shrink_to(len);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(3, 30);
        timers.set(1, 10);
        timers.set(2, 20);
        timers.set(4, NEVER);
        timers.remove(2);
        assert_eq!(timers.next(), Some(10));
        assert_eq!([1, 2, 3, 4, 5].map(|index| timers.due(index)), [10, NEVER, 30, NEVER, NEVER]);
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(30), Some(1));
        assert_eq!(timers.pop_due(30), Some(3));
        assert_eq!(timers.pop_due(30), None);
    }

    /// The result is the same as that of a sorted set of all entries, whatever is entered, moved,
    /// removed and taken out.
    #[test]
    fn it_does_what_a_sorted_set_does() {
        const SLOTS: u32 = 100;
        let (mut timers, mut model) = (Timers::default(), BTreeSet::<(u64, u32)>::new());
        let mut random = 0x9e37_79b9_u32;
        let mut below = |limit: u32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random % limit
        };
        for round in 0..20_000 {
            let (index, at) = (below(SLOTS), u64::from(below(50)));
            match below(4) {
                0 | 1 => {
                    model.retain(|entry| entry.1 != index);
                    model.insert((at, index));
                    timers.set(index, at);
                }
                2 => {
                    model.retain(|entry| entry.1 != index);
                    timers.remove(index);
                }
                _ => {
                    let due = model.first().copied().filter(|entry| entry.0 <= at);
                    due.inspect(|entry| assert!(model.remove(entry)));
                    assert_eq!(timers.pop_due(at), due.map(|(_, index)| index));
                }
            }
            if round % 100 == 0 {
                timers.shrink(0);
            }
            assert_eq!(timers.next(), model.first().map(|&(at, _)| at));
            let entered = model.iter().find(|entry| entry.1 == index);
            assert_eq!(timers.due(index), entered.map_or(NEVER, |&(at, _)| at));
        }
    }

    #[test]
    fn lists_that_have_shrunk_to_nothing_hold_no_memory() {
        let mut timers = Timers::default();
        (0..1000).for_each(|index| timers.set(index, 7));
        (0..1000).for_each(|index| timers.remove(index));
        timers.shrink(0);
        assert_eq!((timers.heap.capacity(), timers.places.capacity()), (0, 0));
    }

    #[test]
    fn lists_grow_by_an_eighth_and_only_when_they_are_full() {
        let mut timers = Timers::default();
        for len in 1..=5000 {
            let before = [timers.heap.capacity(), timers.places.capacity()];
            timers.set(len as u32 - 1, 7);
            for (before, after) in
                before.into_iter().zip([timers.heap.capacity(), timers.places.capacity()])
            {
                let expected = if len <= before { before } else { before + (before / 8).max(64) };
                assert_eq!(after, expected, "for {len} entries");
            }
        }
    }
}
