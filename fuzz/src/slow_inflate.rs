//! DEFLATE as RFC 1951 describes it, bit by bit, and as RFC 7692 §7.2.2 uses it. It is the oracle,
//! and it reports what an inflater does not: how far back a stream refers, and how many blocks it
//! has.

/// Everything that came out so far: later messages refer to it.
#[derive(Default)]
pub struct SlowInflate {
    pub out: Vec<u8>,
    /// How far back the last message refers.
    pub farthest: usize,
    /// The blocks of the last message.
    pub blocks: usize,
    /// The last block was marked as such (BFINAL).
    has_ended: bool,
    /// What is left of the last message's last byte, with the number of the first bit.
    carried: Option<(u8, usize)>,
}

/// Why a message cannot be decompressed. Its connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is longer than it may be.
    TooLong,
    /// It is no DEFLATE stream, or ends where it must not.
    Broken,
}

/// What is left out at the end of a message (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

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
    /// Where the message ends, and what was left out begins: nothing comes out of that.
    end: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Result<usize, Fault> {
        let mut value = 0;
        for n in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(Fault::Broken)?;
            value |= usize::from(byte >> (self.at % 8) & 1) << n;
            self.at += 1;
        }
        Ok(value)
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, Fault> {
        let (mut bits, mut first, mut before) = (0, 0, 0);
        for count in code.counts {
            bits = bits << 1 | self.take(1)?;
            first <<= 1;
            if bits < first + count {
                return Ok(code.symbols[before + bits - first]);
            }
            first += count;
            before += count;
        }
        Err(Fault::Broken)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

/// The shorter codes come first, and those of one length in the order of their symbols (RFC 1951
/// §3.2.2).
struct Code {
    /// How many codes have a length of 1, 2, … bits.
    counts: [usize; 15],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let of_length = |length: usize| {
            (0..lengths.len()).filter(move |&symbol| usize::from(lengths[symbol]) == length)
        };
        Self {
            counts: std::array::from_fn(|at| of_length(at + 1).count()),
            symbols: (1..=15).flat_map(of_length).collect(),
        }
    }

    /// Whether every sequence of bits begins with one code, or there is but one code, of one bit
    /// (RFC 1951 §3.2.7), or none.
    fn check(self, may_be_one: bool) -> Result<Self, Fault> {
        let mut left = 1_usize;
        for count in self.counts {
            left = (left * 2).checked_sub(count).ok_or(Fault::Broken)?;
        }
        let is_one = self.symbols.is_empty() || (self.symbols.len() == 1 && self.counts[0] == 1);
        if left == 0 || (may_be_one && is_one) { Ok(self) } else { Err(Fault::Broken) }
    }
}

impl SlowInflate {
    /// A message, of which at most `limit` bytes may come out; where it begins in all that came
    /// out.
    pub fn message(&mut self, wire: &[u8], limit: usize) -> Result<usize, Fault> {
        let start = self.out.len();
        (self.farthest, self.blocks) = (0, 0);
        if wire.is_empty() {
            return Ok(start);
        }
        let (carried, from) = match self.carried.take() {
            Some((byte, from)) => (vec![byte], from),
            None => (Vec::new(), 0),
        };
        let bytes = [&carried[..], wire, &TAIL].concat();
        let end = (bytes.len() - TAIL.len()) * 8;
        let mut bits = Bits { bytes: &bytes, at: from, end };
        let most = start + limit;
        loop {
            if std::mem::take(&mut self.has_ended) {
                bits.align();
                if bits.at == end {
                    return Ok(start);
                }
            }
            self.has_ended = bits.take(1)? == 1;
            match bits.take(2)? {
                0 => self.stored(&mut bits, most)?,
                1 => {
                    let lengths: Vec<u8> = [(8, 144), (9, 112), (7, 24), (8, 8)]
                        .into_iter()
                        .flat_map(|(bits, n)| vec![bits; n])
                        .collect();
                    self.compressed(&mut bits, &Code::new(&lengths), &Code::new(&[5; 32]), most)?;
                }
                2 => {
                    let (literals, distances) = codes(&mut bits)?;
                    self.compressed(&mut bits, &literals, &distances, most)?;
                }
                _ => return Err(Fault::Broken),
            }
            self.blocks += 1;
            // A block ends in the last byte that was added, or before the first.
            if bits.at > end + 24 {
                self.carried =
                    (!bits.at.is_multiple_of(8)).then(|| (bytes[bytes.len() - 1], bits.at % 8));
                return Ok(start);
            }
            if bits.at > end {
                return Err(Fault::Broken);
            }
        }
    }

    /// A byte that comes out.
    fn push(&mut self, byte: u8, bits: &Bits<'_>, most: usize) -> Result<(), Fault> {
        if bits.at > bits.end {
            return Err(Fault::Broken);
        }
        if self.out.len() >= most {
            return Err(Fault::TooLong);
        }
        self.out.push(byte);
        Ok(())
    }

    fn stored(&mut self, bits: &mut Bits<'_>, most: usize) -> Result<(), Fault> {
        bits.align();
        let (len, not_len) = (bits.take(16)?, bits.take(16)?);
        if len != not_len ^ 0xffff {
            return Err(Fault::Broken);
        }
        for _ in 0..len {
            let byte = bits.take(8)? as u8;
            self.push(byte, bits, most)?;
        }
        Ok(())
    }

    fn compressed(
        &mut self,
        bits: &mut Bits<'_>,
        literals: &Code,
        distances: &Code,
        most: usize,
    ) -> Result<(), Fault> {
        loop {
            match bits.symbol(literals)? {
                literal @ 0..256 => self.push(literal as u8, bits, most)?,
                256 => return Ok(()),
                symbol => {
                    let (base, extra) = *LENGTHS.get(symbol - 257).ok_or(Fault::Broken)?;
                    let length = base + bits.take(extra)?;
                    let symbol = bits.symbol(distances)?;
                    if symbol >= 30 {
                        return Err(Fault::Broken);
                    }
                    let extra = (symbol as u32 / 2).saturating_sub(1);
                    let base =
                        if symbol < 4 { symbol + 1 } else { ((2 + symbol % 2) << extra) + 1 };
                    let distance = base + bits.take(extra)?;
                    self.farthest = self.farthest.max(distance);
                    for _ in 0..length {
                        let from = self.out.len().checked_sub(distance).ok_or(Fault::Broken)?;
                        self.push(self.out[from], bits, most)?;
                    }
                }
            }
        }
    }
}

/// The codes of literals and of distances (RFC 1951 §3.2.7).
fn codes(bits: &mut Bits<'_>) -> Result<(Code, Code), Fault> {
    let (literals, distances, own) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
    if literals > 286 || distances > 30 {
        return Err(Fault::Broken);
    }
    let mut lengths_of_lengths = [0; 19];
    for symbol in &ORDER[..own] {
        lengths_of_lengths[*symbol] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths_of_lengths).check(false)?;
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match bits.symbol(&code)? {
            16 => (*lengths.last().ok_or(Fault::Broken)?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.extend(vec![length; times]);
    }
    if lengths.len() > literals + distances || lengths[256] == 0 {
        return Err(Fault::Broken);
    }
    let distances = lengths.split_off(literals);
    Ok((Code::new(&lengths).check(true)?, Code::new(&distances).check(true)?))
}
