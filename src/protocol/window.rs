//! The window of one direction: the newest bytes of its messages, to which the next message may
//! refer (RFC 7692 §7.1.2). It knows no DEFLATE.

use std::collections::VecDeque;

/// The newest bytes of a sequence of messages, up to a size. Memory is allocated as they come.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Window {
    /// A window of 2 to the power of `bits` bytes.
    pub(crate) fn new(bits: u8) -> Self {
        Self { bytes: VecDeque::new(), size: 1 << bits }
    }

    /// A window that remembers nothing.
    pub(crate) const fn none() -> Self {
        Self { bytes: VecDeque::new(), size: 0 }
    }

    /// The number of bytes that it remembers.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds the bytes of the next message.
    pub(crate) fn remember(&mut self, message: &[u8]) {
        let message = &message[message.len().saturating_sub(self.size)..];
        let excess = (self.bytes.len() + message.len()).saturating_sub(self.size);
        self.bytes.drain(..excess);
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len + message.len() > capacity {
            // `VecDeque` would allocate at least the next power of 2, which may be twice the size.
            let wanted = (capacity * 2).clamp(len + message.len(), self.size);
            self.bytes.reserve_exact(wanted - len);
        }
        self.bytes.extend(message);
    }

    /// The newest bytes, at most `most`, in two parts; the first is the older one.
    pub(crate) fn newest(&self, most: usize) -> [&[u8]; 2] {
        let (older, newer) = self.bytes.as_slices();
        let newer = &newer[newer.len().saturating_sub(most)..];
        let older = &older[older.len().saturating_sub(most - newer.len())..];
        [older, newer]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept_and_no_more_memory_than_they_may_have() {
        for bits in [9, 10, 15] {
            let (mut window, mut all, size) = (Window::new(bits), Vec::new(), 1_usize << bits);
            for round in 0..300_usize {
                let len = [0, 1, 3, 200, 511, 512, 513, 1000, 5000][round % 9] + round % 7;
                let message: Vec<u8> = (0..len).map(|byte| (byte * round) as u8).collect();
                window.remember(&message);
                all.extend_from_slice(&message);
                for most in [0, 1, 100, size - 1, size, usize::MAX] {
                    let expected = &all[all.len() - all.len().min(size).min(most)..];
                    assert!(window.newest(most).concat() == expected, "round {round}, {most}");
                }
                assert_eq!(window.len(), all.len().min(size));
                assert!(window.bytes.capacity() <= size);
            }
            window.clear();
            assert_eq!((window.newest(usize::MAX).concat(), window.len()), (vec![], 0));
        }
    }

    #[test]
    fn memory_is_taken_as_the_bytes_come() {
        let mut window = Window::new(15);
        for message in 1..=32 {
            window.remember(&[0; 1024]);
            assert!(window.bytes.capacity() <= 2 * 1024 * message, "after {message} KiB");
        }
    }

    #[test]
    fn a_window_of_nothing_takes_no_memory() {
        let mut window = Window::none();
        window.remember(&[1; 5000]);
        assert_eq!((window.len(), window.bytes.capacity()), (0, 0));
        assert_eq!(window.newest(10), [&[0; 0]; 2]);
    }
}
