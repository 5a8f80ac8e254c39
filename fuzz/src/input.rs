//! How a target reads the bytes of an input, and how inputs are generated. Knows no target.

/// An input, read from its front. Behind its end every byte is zero.
pub struct Input<'d>(&'d [u8]);

impl<'d> Input<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.take(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// The next bytes, as many as there are up to `len`.
    pub fn take(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn rest(&mut self) -> &'d [u8] {
        self.take(usize::MAX)
    }
}

/// Cuts bytes into chunks of the sizes that `sizes` name one after the other, again and again; each
/// is one more than its number.
pub fn cut<'s>(stream: &'s [u8], sizes: &[u8]) -> Vec<&'s [u8]> {
    let mut sizes = sizes.iter().cycle().map(|&size| usize::from(size) + 1);
    let (mut rest, mut chunks) = (stream, Vec::new());
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(usize::MAX);
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

/// xorshift64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) as usize) % n
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Damages an input in a few places: bytes turned, cut out, doubled, put in.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1));
            let end = bytes.len().min(at + 1 + self.below(8));
            match self.below(6) {
                _ if bytes.is_empty() => bytes.push(self.byte()),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => {
                    bytes[at] = self.pick(&[
                        0, 1, 0x7d, 0x7e, 0x7f, 0x80, 0xff, b'\r', b'\n', b' ', b',', b';', b'"',
                    ])
                }
                2 => drop(bytes.drain(at..end)),
                3 => bytes.insert(at, self.byte()),
                4 => bytes.truncate(at),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
    }
}
