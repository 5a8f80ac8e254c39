//! DEFLATE as RFC 1951 describes it, bit by bit, to see what an inflater does not tell: how far back a stream refers. It is for streams
//! that are right, and panics at others.

/// Everything that came out so far: later messages refer to it.
#[derive(Default)]
pub struct SlowInflate {
    pub out: Vec<u8>,
    pub farthest: usize,
}

/// Lengths and distances: what each code begins at, and how many bits follow it (RFC 1951 §3.2.5).
const LENGTHS: [(usize, u32); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The order of the lengths of the code lengths' own code (RFC 1951 §3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

struct Bits<'d> {
    bytes: &'d [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> usize {
        let bit = |at: usize| usize::from(self.bytes[at / 8] >> (at % 8) & 1);
        let value = (0..count as usize).map(|n| bit(self.at + n) << n).sum();
        self.at += count as usize;
        value
    }

    fn symbol(&mut self, code: &Code) -> usize {
        let (mut bits, mut first, mut before) = (0, 0, 0);
        for count in code.counts {
            bits = bits << 1 | self.take(1);
            first <<= 1;
            if bits < first + count {
                return code.symbols[before + bits - first];
            }
            first += count;
            before += count;
        }
        panic!("no code");
    }
}

/// The shorter codes come first, and those of one length in the order of their symbols (RFC 1951 §3.2.2).
struct Code {
    /// How many codes have a length of 1, 2, … bits.
    counts: [usize; 15],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let of_length =
            |length: usize| (0..lengths.len()).filter(move |&symbol| usize::from(lengths[symbol]) == length);
        Self {
            counts: std::array::from_fn(|at| of_length(at + 1).count()),
            symbols: (1..=15).flat_map(of_length).collect(),
        }
    }
}

impl SlowInflate {
    /// A message with the four bytes that were left out.
    pub fn message(&mut self, wire: &[u8]) -> &[u8] {
        let start = self.out.len();
        let bytes = [wire, &[0, 0, 0xff, 0xff]].concat();
        let mut bits = Bits { bytes: &bytes, at: 0 };
        // Less than a byte may be left that belongs to nothing.
        while bits.at + 8 <= bytes.len() * 8 {
            let last = bits.take(1);
            assert_eq!(last, 0, "a message is no end of a stream");
            match bits.take(2) {
                0 => self.stored(&mut bits),
                1 => {
                    let lengths: Vec<u8> =
                        [(8, 144), (9, 112), (7, 24), (8, 8)].into_iter().flat_map(|(bits, n)| vec![bits; n]).collect();
                    self.compressed(&mut bits, &Code::new(&lengths), &Code::new(&[5; 30]));
                }
                2 => {
                    let (literals, distances) = codes(&mut bits);
                    self.compressed(&mut bits, &literals, &distances);
                }
                _ => panic!("no kind of block"),
            }
        }
        &self.out[start..]
    }

    fn stored(&mut self, bits: &mut Bits<'_>) {
        bits.at = bits.at.next_multiple_of(8);
        let (len, not_len) = (bits.take(16), bits.take(16));
        assert_eq!(len, not_len ^ 0xffff);
        self.out.extend_from_slice(&bits.bytes[bits.at / 8..][..len]);
        bits.at += len * 8;
    }

    fn compressed(&mut self, bits: &mut Bits<'_>, literals: &Code, distances: &Code) {
        loop {
            match bits.symbol(literals) {
                literal @ 0..256 => self.out.push(literal as u8),
                256 => return,
                symbol => {
                    let (base, extra) = LENGTHS[symbol - 257];
                    let length = base + bits.take(extra);
                    let symbol = bits.symbol(distances);
                    let extra = (symbol as u32 / 2).saturating_sub(1);
                    let base = if symbol < 4 { symbol + 1 } else { ((2 + symbol % 2) << extra) + 1 };
                    let distance = base + bits.take(extra);
                    self.farthest = self.farthest.max(distance);
                    for _ in 0..length {
                        self.out.push(self.out[self.out.len() - distance]);
                    }
                }
            }
        }
    }
}

/// The codes of literals and of distances (RFC 1951 §3.2.7).
fn codes(bits: &mut Bits<'_>) -> (Code, Code) {
    let (literals, distances, own) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
    let mut lengths_of_lengths = [0; 19];
    for symbol in &ORDER[..own] {
        lengths_of_lengths[*symbol] = bits.take(3) as u8;
    }
    let code = Code::new(&lengths_of_lengths);
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match bits.symbol(&code) {
            16 => (lengths[lengths.len() - 1], 3 + bits.take(2)),
            17 => (0, 3 + bits.take(3)),
            18 => (0, 11 + bits.take(7)),
            length => (length as u8, 1),
        };
        lengths.extend(vec![length; times]);
    }
    let distances = lengths.split_off(literals);
    (Code::new(&lengths), Code::new(&distances))
}
