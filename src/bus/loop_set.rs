//! A set of loops.

/// The most loops of one process.
pub(crate) const MAX_LOOPS: usize = 256;

const WORDS: usize = MAX_LOOPS / 64;

/// A set of loops, by their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoopSet([u64; WORDS]);

impl LoopSet {
    pub(crate) fn insert(&mut self, index: u16) {
        self.0[usize::from(index) / 64] |= 1 << (index % 64);
    }

    pub(crate) fn remove(&mut self, index: u16) {
        self.0[usize::from(index) / 64] &= !(1 << (index % 64));
    }

    pub(crate) fn contains(&self, index: u16) -> bool {
        self.0[usize::from(index) / 64] & (1 << (index % 64)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        // Most words are empty, and without a machine instruction for it counting bits takes long.
        let words = self.0.iter().filter(|&&word| word != 0);
        words.map(|word| word.count_ones() as usize).sum()
    }

    /// The loops of this set, in the order of their indexes.
    pub(crate) fn iter(&self) -> Indexes {
        Indexes { words: self.0, at: 0 }
    }

    /// This set without one loop.
    pub(crate) fn without(mut self, index: u16) -> Self {
        self.remove(index);
        self
    }
}

/// The indexes of a set. Each publish goes through one, so this is a plain loop.
pub(crate) struct Indexes {
    words: [u64; WORDS],
    at: usize,
}

impl Iterator for Indexes {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        while let Some(word) = self.words.get_mut(self.at) {
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                return Some((self.at * 64 + bit) as u16);
            }
            self.at += 1;
        }
        None
    }
}

impl FromIterator<u16> for LoopSet {
    fn from_iter<I: IntoIterator<Item = u16>>(indexes: I) -> Self {
        let mut set = Self::default();
        indexes.into_iter().for_each(|index| set.insert(index));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_the_loops_that_were_inserted_in_their_order() {
        let mut set: LoopSet = [200, 0, 63, 64, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 200, 255]);
        set.remove(64);
        assert_eq!((set.len(), set.contains(64), set.contains(63)), (4, false, true));
        let all: LoopSet = (0..MAX_LOOPS as u16).collect();
        assert_eq!((all.len(), all.without(7).len()), (MAX_LOOPS, MAX_LOOPS - 1));
    }
}
