//! Compressed messages (RFC 7692 §7.2): one message in, the DEFLATE stream of one message out, and back. Knows no frame and no
//! negotiation.

use super::Violation;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Every message ends with an empty block of which these bytes are not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// A message of nothing: the first byte of an empty block (RFC 7692 §7.2.3.6).
const NOTHING: u8 = 0x00;
/// Streams that may end inside one message (BFINAL; RFC 7692 §7.2.3.4). Each costs work and needs only two bytes.
const MAX_ENDS: u32 = 1000;
/// The least room that is made for what comes out.
const LEAST_ROOM: usize = 512;
/// The most room that is made before anything has come out.
const MOST_ROOM: usize = 32 * 1024;

/// Compresses messages one after the other.
///
/// ```
/// use ikisocket::protocol::{Deflater, Inflater};
///
/// let mut compressed = Vec::new();
/// Deflater::new(6, 15).deflate(b"hello hello hello hello", true, &mut compressed);
/// assert!(compressed.len() < 15);
///
/// let mut message = Vec::new();
/// Inflater::new(15).inflate(&compressed, 1024, &mut message)?;
/// assert_eq!(message, b"hello hello hello hello");
/// # Ok::<(), ikisocket::protocol::Violation>(())
/// ```
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
}

impl Deflater {
    /// A compressor of a level, 1 (fast) to 9 (small), with a window of 2 to the power of `window_bits`, 9 to 15; what is
    /// outside is taken to the nearest. It allocates about 245 KiB for the smallest window and 370 KiB for the largest, whatever the level.
    #[must_use]
    pub fn new(level: u8, window_bits: u8) -> Self {
        let level = Compression::new(u32::from(level.clamp(1, 9)));
        Self { stream: Compress::new_with_window_bits(level, false, window_bits.clamp(9, 15)) }
    }

    /// Appends the compressed `payload` to `out`. With `keep` the next message may refer to this one (context takeover), else it
    /// will begin anew.
    pub fn deflate(&mut self, payload: &[u8], keep: bool, out: &mut Vec<u8>) {
        match payload {
            [] => out.push(NOTHING),
            _ => self.compress(payload, out),
        }
        if !keep {
            self.stream.reset();
        }
    }

    fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mut rest = payload;
        loop {
            out.reserve(rest.len() / 2 + 64);
            let before = self.stream.total_in();
            let status = self.stream.compress_vec(rest, out, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "compressing cannot fail");
            rest = &rest[(self.stream.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                break;
            }
        }
        debug_assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
    }
}

/// Decompresses messages one after the other.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
}

impl Inflater {
    /// A decompressor for a window of 2 to the power of `window_bits`, 9 to 15; what is outside is taken to the nearest. It allocates about
    /// 46 KiB, whatever the window.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        Self { stream: Decompress::new_with_window_bits(false, window_bits.clamp(9, 15)) }
    }

    /// Forgets the messages so far: the next one must not refer to them.
    pub fn reset(&mut self) {
        self.stream.reset(false);
    }

    /// Appends what `payload`, a compressed message, holds to `out`, at most `limit` bytes. Memory is taken only for what comes
    /// out.
    ///
    /// # Errors
    ///
    /// [`Violation::MessageTooBig`] as soon as more than `limit` bytes come out, [`Violation::InvalidDeflate`] if `payload` is no DEFLATE stream.
    /// Then this decompressor is of no more use for its connection.
    pub fn inflate(&mut self, payload: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Violation> {
        let room = payload.len().saturating_mul(4).clamp(LEAST_ROOM, MOST_ROOM);
        out.reserve_exact(room.min(limit.saturating_add(1)));
        let mut output = Output { end: out.len().saturating_add(limit), limit, ends: 0, out };
        let is_complete = payload.is_empty() || self.feed(payload, &mut output)?;
        if !is_complete {
            self.feed(&TAIL, &mut output)?;
        }
        Ok(())
    }

    /// Decompresses all of `input`; whether a stream ended with its last byte.
    fn feed(&mut self, mut input: &[u8], output: &mut Output<'_>) -> Result<bool, Violation> {
        loop {
            output.make_room();
            let (taken, given) = (self.stream.total_in(), output.out.len());
            let result = self.stream.decompress_vec(input, output.out, FlushDecompress::Sync);
            let status = result.map_err(|_| Violation::InvalidDeflate)?;
            let taken = (self.stream.total_in() - taken) as usize;
            input = &input[taken..];
            if output.out.len() > output.end {
                return Err(Violation::MessageTooBig { limit: output.limit });
            }
            if status == Status::StreamEnd {
                output.ends += 1;
                if output.ends > MAX_ENDS {
                    return Err(Violation::InvalidDeflate);
                }
                self.stream.reset(false);
                if input.is_empty() {
                    return Ok(true);
                }
            } else if input.is_empty() && output.out.len() < output.out.capacity() {
                return Ok(false);
            } else if taken == 0 && output.out.len() == given {
                return Err(Violation::InvalidDeflate);
            }
        }
    }
}

/// Where a message goes to, and how much of it is accepted.
struct Output<'o> {
    out: &'o mut Vec<u8>,
    /// The length of `out` that must not be passed.
    end: usize,
    limit: usize,
    /// Streams that have ended in this message.
    ends: u32,
}

impl Output<'_> {
    /// Room for at least one byte: doubles what there is, but never for more than one byte beyond the end.
    fn make_room(&mut self) {
        let len = self.out.len();
        if len == self.out.capacity() {
            let rest = self.end.saturating_sub(len).saturating_add(1);
            self.out.reserve_exact(len.max(LEAST_ROOM).min(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look like text, the same in every run.
    fn text(len: usize) -> Vec<u8> {
        let mut seed = 7_u32;
        let words = ["price", "volume", "bid", "ask", "{", "}", "12.5", "\"symbol\":"];
        let mut text = Vec::new();
        while text.len() < len {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.extend_from_slice(words[(seed >> 24) as usize % words.len()].as_bytes());
        }
        text.truncate(len);
        text
    }

    /// Bytes that cannot be compressed.
    fn noise(len: usize) -> Vec<u8> {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let next = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..len).map(next).collect()
    }

    fn deflated(deflater: &mut Deflater, payload: &[u8], keep: bool) -> Vec<u8> {
        let mut out = Vec::new();
        deflater.deflate(payload, keep, &mut out);
        out
    }

    fn inflated(inflater: &mut Inflater, payload: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut out = Vec::new();
        inflater.inflate(payload, 1 << 20, &mut out).map(|()| out)
    }

    #[test]
    fn what_is_compressed_comes_out_again_at_every_window_level_and_size() {
        for bits in 9..=15 {
            for level in [1, 6, 9] {
                for keep in [true, false] {
                    let (mut deflater, mut inflater) = (Deflater::new(level, bits), Inflater::new(bits));
                    for size in [0, 1, 5, 100, 512, 513, 4096, 40_000] {
                        for message in [text(size), noise(size), vec![0; size], text(size)] {
                            let wire = deflated(&mut deflater, &message, keep);
                            assert_eq!(inflated(&mut inflater, &wire), Ok(message), "{bits} {level} {keep} {size}");
                            if !keep {
                                inflater.reset();
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_context_that_is_kept_makes_the_next_message_smaller() {
        let mut deflater = Deflater::new(6, 15);
        let first = deflated(&mut deflater, &text(300), true);
        let second = deflated(&mut deflater, &text(300), true);
        assert!(second.len() * 4 < first.len(), "{} {}", first.len(), second.len());
        let mut alone = Inflater::new(15);
        assert_eq!(inflated(&mut alone, &second), Err(Violation::InvalidDeflate), "it refers to the first");
        let mut forgetful = Inflater::new(15);
        assert_eq!(inflated(&mut forgetful, &first), Ok(text(300)));
        forgetful.reset();
        assert_eq!(inflated(&mut forgetful, &second), Err(Violation::InvalidDeflate));
    }

    #[test]
    fn without_it_each_message_stands_alone() {
        let mut deflater = Deflater::new(6, 15);
        let first = deflated(&mut deflater, &text(300), false);
        assert_eq!(deflated(&mut deflater, &text(300), false), first);
        assert_eq!(inflated(&mut Inflater::new(15), &first), Ok(text(300)));
    }

    #[test]
    fn also_an_empty_message_that_is_not_kept_ends_the_context() {
        let (mut deflater, mut inflater) = (Deflater::new(6, 15), Inflater::new(15));
        let alone = deflated(&mut deflater, &text(300), true);
        let nothing = deflated(&mut deflater, b"", false);
        assert_eq!(deflated(&mut deflater, &text(300), false), alone);
        assert_eq!(inflated(&mut inflater, &nothing), Ok(vec![]));
    }

    /// RFC 7692 §7.2.3: the examples.
    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        let hello = Ok(b"Hello".to_vec());
        let mut inflater = Inflater::new(15);
        assert_eq!(inflated(&mut inflater, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), hello);
        assert_eq!(inflated(&mut inflater, &[0xf2, 0x00, 0x11, 0x00, 0x00]), hello, "it refers to the one before");
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        assert_eq!(inflated(&mut inflater, &stored), hello, "not compressed");
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        assert_eq!(inflated(&mut inflater, &last), hello, "with BFINAL");
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflated(&mut inflater, &two), hello, "in two blocks");
        assert_eq!(inflated(&mut inflater, &[0x00]), Ok(vec![]), "of nothing");
        assert_eq!(deflated(&mut Deflater::new(6, 15), b"Hello", false), [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    }

    #[test]
    fn a_bomb_costs_the_limit_and_no_more() {
        let bomb = deflated(&mut Deflater::new(9, 15), &vec![0; 64 << 20], false);
        assert!(bomb.len() < 70_000, "{}", bomb.len());
        for limit in [0, 1, 1000, 1 << 20] {
            let mut out = Vec::new();
            let result = Inflater::new(15).inflate(&bomb, limit, &mut out);
            assert_eq!(result, Err(Violation::MessageTooBig { limit }));
            assert!(out.capacity() <= limit + 1, "{} of {limit}", out.capacity());
        }
    }

    #[test]
    fn a_message_as_long_as_the_limit_is_accepted() {
        for len in [0, 1, 511, 512, 513, 5000] {
            let wire = deflated(&mut Deflater::new(6, 15), &text(len), false);
            let mut out = Vec::new();
            assert_eq!(Inflater::new(15).inflate(&wire, len, &mut out), Ok(()), "{len}");
            assert_eq!(out, text(len));
        }
    }

    #[test]
    fn streams_that_end_again_and_again_are_refused() {
        let ended = [0x03, 0x00]; // an empty last block
        assert_eq!(inflated(&mut Inflater::new(15), &ended.repeat(1000)), Ok(vec![]));
        assert_eq!(inflated(&mut Inflater::new(15), &ended.repeat(1001)), Err(Violation::InvalidDeflate));
    }

    #[test]
    fn nonsense_is_refused_or_harmless() {
        assert_eq!(inflated(&mut Inflater::new(15), &[0xff; 20]), Err(Violation::InvalidDeflate));
        for len in 0..400 {
            let _ = inflated(&mut Inflater::new(9), &noise(len));
        }
    }
}
