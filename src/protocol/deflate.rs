//! Compressed messages (RFC 7692 §7.2): turns one message into the DEFLATE stream of one message,
//! and back. It knows no frame and no negotiation.

use std::fmt;

use super::{Violation, Window};
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateError, InflateFlush, Status};

/// Every message ends with an empty block of which these bytes are not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// The tail and one byte more, which is not consumed if a block ends with the tail.
const TAIL_AND_MORE: [u8; 5] = [0x00, 0x00, 0xff, 0xff, 0x00];
/// An empty message: the first byte of an empty block (RFC 7692 §7.2.3.6).
const NOTHING: u8 = 0x00;
/// The largest window that DEFLATE has, in bytes (RFC 1951 §2).
const MOST_WINDOW: usize = 1 << 15;
/// The number of blocks that a message may have, whatever its length.
const MAX_BLOCKS: usize = 1000;
/// A message may have one more block for this many bytes, compressed and decompressed together. The
/// smallest blocks of a real compressor hold 127 symbols (zlib at `memLevel` 1); a block of
/// incompressible symbols takes 259 bytes.
const BYTES_PER_BLOCK: usize = 128;
/// The least room that is made for decompressed bytes, in bytes.
const LEAST_ROOM: usize = 512;
/// The most room that is made before any byte has come out, in bytes.
const MOST_ROOM: usize = 32 * 1024;
/// The most bytes that the inflater takes, and gives, between two checks of its cost. Each piece
/// costs a copy of the window.
const PIECE_IN: usize = 64 * 1024;
const PIECE_OUT: usize = 128 * 1024;
/// A message of this many compressed bytes or fewer is decompressed without a check at the end of
/// each block. It cannot have too many.
const SHORT: usize = 256;

// The costs of work, in bytes of the budget of a turn; each stands for half a nanosecond. They were
// measured with release builds, in CPU time, the best of 15 runs, with messages of 1 MiB. No stream
// cost more than 1.2 times the estimate. Stored blocks and long repetitions cost much less.
/// A byte that is decompressed: 4 ns. A message that consists of literals cost 2.2 ns for each byte
/// if they are equally likely, and 8 ns if codes of 1 and 11 bits alternate at random.
const WORK_IN: usize = 8;
/// A byte that comes out: 2 ns. Matches of three bytes cost that.
const WORK_OUT: usize = 4;
/// Each of the first bytes of a block: 100 ns. Blocks that consist mostly of code lengths cost 32
/// to 105 ns for each byte, and up to 5 µs for each block.
const WORK_HEADER: usize = 200;
const HEADER: usize = 48;
/// Bytes of the window that are copied when a stream begins, for one byte of the budget: 32 KiB
/// count as 4 µs. They took 0.5 µs from the cache and, for 5000 connections in turn, 2.5 µs from
/// memory, or 5 to 10 µs while other programs kept the memory busy.
const COPIED: usize = 4;
/// A message that is compressed: 6 µs. The stream begins with an empty table of 128 KiB, which
/// takes 2 µs, and from level 2 on each message has its own codes. Without a window, 20 bytes cost
/// 2 µs at level 1 and 4 µs from level 2 on, and 200 bytes 3 and 8 µs.
const WORK_DEFLATE: usize = 12 * 1024;
/// A byte of the window to which it may refer: 1 ns.
const WORK_KNOWN: usize = 2;

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
pub struct Deflater {
    stream: Deflate,
}

/// A message refers to this many times its own length of the bytes before it, and to at least
/// [`LEAST_REACH`]. A further byte costs 1 ns for every message, while a byte of the message costs
/// 4 to 15 ns, and saves little. Quotes in JSON of 1 KiB became smaller by 71.0 % with the 2 KiB
/// before them, and by 71.8 % with 16 KiB, which took 1.6 times as long.
const REACH: usize = 2;
const LEAST_REACH: usize = 2 * 1024;

impl Deflater {
    /// A compressor of a level, 1 (fast) to 9 (small), with a window of 2 to the power of
    /// `window_bits`, 9 to 15. Values outside become the nearest one inside. It allocates about 245
    /// KiB for the smallest window and 370 KiB for the largest, whatever the level.
    #[must_use]
    pub fn new(level: u8, window_bits: u8) -> Self {
        Self { stream: Deflate::new(level.clamp(1, 9).into(), false, window_bits.clamp(9, 15)) }
    }

    /// Appends the compressed `payload` to `out`. With `keep` the next message may refer to this
    /// one (context takeover), otherwise it will start afresh.
    pub fn deflate(&mut self, payload: &[u8], keep: bool, out: &mut Vec<u8>) {
        match payload {
            [] => out.push(NOTHING),
            _ => self.compress(payload, out),
        }
        if !keep {
            self.stream.reset();
        }
    }

    /// Begins a stream whose next message may refer to the newest bytes of `window`: to as many as
    /// are worth their time for a message of `len` bytes.
    ///
    /// For the peer this stream continues the previous one: each message ends at a byte boundary,
    /// and the window holds what the peer has decompressed.
    pub(crate) fn begin(&mut self, window: &Window, len: usize) {
        self.stream.reset();
        for known in window.newest(Self::reach(len)) {
            let result = self.stream.set_dictionary(known);
            debug_assert!(result.is_ok(), "a stream without a header takes any dictionary");
        }
    }

    /// The most bytes before it to which a message of `len` bytes refers.
    fn reach(len: usize) -> usize {
        len.saturating_mul(REACH).max(LEAST_REACH)
    }

    fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mut rest = payload;
        loop {
            let start = out.len();
            out.resize(start + rest.len() / 2 + 64, 0);
            let (taken, given) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.compress(rest, &mut out[start..], DeflateFlush::SyncFlush);
            debug_assert!(status.is_ok(), "compressing cannot fail");
            rest = &rest[(self.stream.total_in() - taken) as usize..];
            let end = start + (self.stream.total_out() - given) as usize;
            let has_room = end < out.len();
            out.truncate(end);
            if rest.is_empty() && has_room {
                break;
            }
        }
        debug_assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
    }

    /// The cost of compressing a message of `len` bytes at a level, behind a window, in bytes of a
    /// turn's budget: 6 µs, for each byte 10 ns (level 1), 20 ns or 40 ns (from level 6 on), and 1
    /// ns for each byte of the window that it may refer to.
    pub(crate) fn work(level: u8, len: usize, window: &Window) -> usize {
        let each = match level {
            ..=1 => 20,
            2..=5 => 40,
            6.. => 80,
        };
        let known = window.len().min(Self::reach(len));
        (WORK_DEFLATE + known * WORK_KNOWN).saturating_add(len.saturating_mul(each))
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}

/// Decompresses messages one after the other.
pub struct Inflater {
    decompressor: Decompressor,
    window: Window,
}

impl Inflater {
    /// A decompressor for a window of 2 to the power of `window_bits`, 9 to 15. Values outside
    /// become the nearest one inside. It allocates about 46 KiB, whatever the window, and also as
    /// many bytes as have come out, up to the window's size.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        Self { decompressor: Decompressor::new(), window: Window::new(window_bits.clamp(9, 15)) }
    }

    /// Forgets the messages so far: the next one must not refer to them.
    pub fn reset(&mut self) {
        self.window.clear();
        self.decompressor.begin(&self.window);
    }

    /// Decompresses `payload`, a compressed message, and appends at most `limit` bytes to `out`.
    /// Memory is allocated only for bytes that come out.
    ///
    /// With the four bytes that its sender left out, the message must be a whole number of blocks
    /// (RFC 7692 §7.2.2), and no byte may come out of these four. A message that ends with a block
    /// that is marked as the last (BFINAL) is accepted without the byte that should follow it
    /// (§7.2.3.4), and so is a payload of no bytes.
    ///
    /// # Errors
    ///
    /// [`Violation::MessageTooBig`] as soon as more than `limit` bytes come out.
    /// [`Violation::TooManyBlocks`] if there are more blocks than 1000 plus one for every 128
    /// bytes, compressed and decompressed together. [`Violation::InvalidDeflate`] if `payload` is
    /// not a DEFLATE stream or does not end where it may. After an error the decompressor must not
    /// be used for its connection any more.
    pub fn inflate(
        &mut self,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        let mut inflation = Inflation { start: out.len(), ..Inflation::default() };
        let Self { decompressor, window } = self;
        let is_done =
            decompressor.inflate_some(window, payload, limit, out, &mut inflation, usize::MAX)?;
        debug_assert!(is_done);
        window.remember(&out[inflation.start..]);
        Ok(())
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// A decompressor for messages of any connection, given the connection's window. The stream has a
/// window too, but forgets it when it ends (BFINAL).
pub(crate) struct Decompressor {
    stream: Inflate,
    /// The stream has not begun.
    is_new: bool,
}

impl Decompressor {
    pub(crate) fn new() -> Self {
        Self { stream: Inflate::new(false, 15), is_new: true }
    }

    /// Begins a message that may refer to `window`. The window must stay unchanged until the
    /// message is decompressed, and then has to [remember](Window::remember) it.
    pub(crate) fn begin(&mut self, window: &Window) -> Inflation {
        Inflation { work: self.restart(window, &[]), ..Inflation::default() }
    }

    /// Takes some of `input` and fills some of `room`; returns the stream's status, and how much of
    /// each. With [`InflateFlush::Block`] it stops at the end of a block.
    fn step(
        &mut self,
        input: &[u8],
        room: &mut [u8],
        flush: InflateFlush,
    ) -> (Result<Status, InflateError>, usize, usize) {
        if std::mem::take(&mut self.is_new) && flush == InflateFlush::Block {
            // It also stops before the first block, as if one had ended.
            let status = self.stream.decompress(&[], room, flush);
            debug_assert_eq!(status, Ok(Status::BufError));
        }
        let (taken, given) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, room, flush);
        let (taken, given) = (self.stream.total_in() - taken, self.stream.total_out() - given);
        (status, taken as usize, given as usize)
    }

    /// Continues with a message until it is done or has cost `most` more; returns whether it is
    /// done. Until then, `out` ends with bytes that have no meaning.
    pub(crate) fn inflate_some(
        &mut self,
        window: &Window,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
        inflation: &mut Inflation,
        most: usize,
    ) -> Result<bool, Violation> {
        let result = self.advance(
            window,
            payload,
            limit,
            out,
            inflation,
            inflation.work.saturating_add(most),
        );
        if result != Ok(false) {
            out.truncate(inflation.start + inflation.given);
        }
        result
    }

    fn advance(
        &mut self,
        window: &Window,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
        so_far: &mut Inflation,
        until: usize,
    ) -> Result<bool, Violation> {
        while !payload.is_empty() {
            let filled = so_far.start + so_far.given;
            make_room(out, filled, so_far, payload.len(), so_far.start.saturating_add(limit));
            let rest = &payload[so_far.taken..];
            let (input, has_more) = (&rest[..rest.len().min(PIECE_IN)], rest.len() > PIECE_IN);
            let room = &mut out[filled..];
            let room_len = room.len();
            let (flush, header) = if payload.len() <= SHORT {
                (InflateFlush::SyncFlush, SHORT)
            } else {
                (InflateFlush::Block, HEADER)
            };
            let (status, taken, given) = self.step(input, room, flush);
            so_far.taken += taken;
            so_far.given += given;
            so_far.work += taken * WORK_IN + taken.min(header) * WORK_HEADER + given * WORK_OUT;
            if so_far.given > limit {
                return Err(Violation::MessageTooBig { limit });
            }
            match status {
                Err(_) => return Err(Violation::InvalidDeflate),
                Ok(Status::StreamEnd) => {
                    let message = &out[so_far.start..so_far.start + so_far.given];
                    so_far.work += self.restart(window, message);
                    if taken == rest.len() {
                        return Ok(true);
                    }
                }
                Ok(_) if given == room_len => {}
                Ok(_) if taken < input.len() => {
                    so_far.blocks += 1;
                    let most = MAX_BLOCKS + (payload.len() + so_far.given) / BYTES_PER_BLOCK;
                    if so_far.blocks > most {
                        return Err(Violation::TooManyBlocks { limit: most });
                    }
                    if taken == 0 && given == 0 {
                        return Err(Violation::InvalidDeflate);
                    }
                }
                Ok(_) if has_more => {}
                Ok(_) => {
                    self.end(window, &out[so_far.start..so_far.start + so_far.given])?;
                    return Ok(true);
                }
            }
            if so_far.work >= until {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks the end of a whole message: the bytes left out are read as the rest of an empty
    /// block, and no byte may come out of them (RFC 7692 §7.2.2).
    fn end(&mut self, window: &Window, message: &[u8]) -> Result<(), Violation> {
        match self.step(&TAIL_AND_MORE, &mut [0; 8], InflateFlush::Block) {
            (Ok(Status::StreamEnd), 0, 0) => {
                self.restart(window, message);
            }
            (Ok(_), 4, 0) => {}
            _ => return Err(Violation::InvalidDeflate),
        }
        Ok(())
    }

    /// Begins a stream that may refer to the bytes before, of this message and of earlier ones;
    /// returns the cost, in bytes of a turn's budget.
    fn restart(&mut self, window: &Window, message: &[u8]) -> usize {
        self.stream.reset(false);
        let message = &message[message.len().saturating_sub(MOST_WINDOW)..];
        let [older, newer] = window.newest(MOST_WINDOW - message.len());
        let mut copied = 0;
        for known in [older, newer, message] {
            let result = self.stream.set_dictionary(known);
            debug_assert!(result.is_ok(), "a stream without a header takes any dictionary");
            copied += known.len();
        }
        self.is_new = true;
        copied / COPIED
    }
}

/// The progress of a message's decompression.
#[derive(Debug, Default)]
pub(crate) struct Inflation {
    /// The position in the output at which the message begins.
    start: usize,
    taken: usize,
    given: usize,
    blocks: usize,
    /// The cost so far, in bytes of a turn's budget.
    pub(crate) work: usize,
}

/// Makes room for at least one byte behind the first `filled`. At first it allocates for a part of
/// what a message of this length may hold, then as much again as there is, but never more than one
/// byte beyond `end`.
fn make_room(out: &mut Vec<u8>, filled: usize, so_far: &Inflation, compressed: usize, end: usize) {
    if filled < out.len() {
        return;
    }
    let wanted = match so_far.given {
        0 => compressed.saturating_mul(4).clamp(LEAST_ROOM, MOST_ROOM),
        given => given.max(LEAST_ROOM),
    };
    let wanted = wanted.min(end.saturating_sub(filled).saturating_add(1));
    if filled == out.capacity() {
        out.reserve_exact(wanted);
    }
    let room = wanted.min(out.capacity() - filled).min(PIECE_OUT);
    out.resize(filled + room, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
    use zlib_rs::DeflateConfig;

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
                    let (mut deflater, mut inflater) =
                        (Deflater::new(level, bits), Inflater::new(bits));
                    for size in [0, 1, 5, 100, 512, 513, 4096, 40_000] {
                        for message in [text(size), noise(size), vec![0; size], text(size)] {
                            let wire = deflated(&mut deflater, &message, keep);
                            assert_eq!(
                                inflated(&mut inflater, &wire),
                                Ok(message),
                                "{bits} {level} {keep} {size}"
                            );
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
        assert_eq!(
            inflated(&mut alone, &second),
            Err(Violation::InvalidDeflate),
            "it refers to the first"
        );
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
        assert_eq!(
            inflated(&mut inflater, &[0xf2, 0x00, 0x11, 0x00, 0x00]),
            hello,
            "it refers to the one before"
        );
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        assert_eq!(inflated(&mut inflater, &stored), hello, "not compressed");
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        assert_eq!(inflated(&mut inflater, &last), hello, "with BFINAL");
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflated(&mut inflater, &two), hello, "in two blocks");
        assert_eq!(inflated(&mut inflater, &[0x00]), Ok(vec![]), "of nothing");
        assert_eq!(
            deflated(&mut Deflater::new(6, 15), b"Hello", false),
            [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]
        );
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

    /// A fast level with small blocks: at most this number of symbols in each, and a flush of a
    /// kind after every `every` bytes.
    fn in_blocks(message: &[u8], mem_level: i32, flush: DeflateFlush, every: usize) -> Vec<u8> {
        let config =
            DeflateConfig { level: 1, window_bits: -15, mem_level, ..DeflateConfig::default() };
        let mut stream = Deflate::new_with_config(config);
        let mut out = vec![0; message.len() * 3 + 1000];
        let mut len = 0;
        for piece in message.chunks(every) {
            let (taken, given) = (stream.total_in(), stream.total_out());
            stream.compress(piece, &mut out[len..], flush).unwrap();
            assert_eq!(stream.total_in() - taken, piece.len() as u64);
            len += (stream.total_out() - given) as usize;
        }
        stream.compress(&[], &mut out[len..], DeflateFlush::SyncFlush).unwrap();
        out.truncate(stream.total_out() as usize);
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
        out
    }

    /// RFC 7692 §7.2.2.
    #[test]
    fn a_message_that_is_cut_inside_a_block_is_refused_at_every_byte() {
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        let zeros = [0x00, 0x06, 0x00, 0xf9, 0xff, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00];
        let ended = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let fixed = deflated(&mut Deflater::new(6, 15), b"Hello, hello", false);
        let dynamic = deflated(&mut Deflater::new(6, 15), &text(3000), false);
        let noise = deflated(&mut Deflater::new(6, 15), &noise(300), false);
        let two = [&fixed[..], &TAIL, &dynamic].concat();
        // Without the empty block behind it, a message of no bytes is an empty message; so is the
        // first byte of a stored block.
        for (name, wire, whole) in [
            ("stored", &stored[..], &[0, 1][..]),
            ("stored, with bytes like those that are added", &zeros, &[0, 1]),
            ("fixed", &fixed, &[0]),
            ("fixed, marked as the last", &ended, &[0, 7]),
            ("dynamic", &dynamic, &[0]),
            ("noise", &noise, &[0, 1]),
            ("fixed, an empty one, dynamic", &two, &[0, fixed.len()]),
        ] {
            assert!(inflated(&mut Inflater::new(15), wire).is_ok(), "{name}");
            for cut in 0..wire.len() {
                let result = inflated(&mut Inflater::new(15), &wire[..cut]);
                assert_eq!(result.is_ok(), whole.contains(&cut), "{name}, {cut} bytes: {result:?}");
                assert!(
                    result.is_ok() || result == Err(Violation::InvalidDeflate),
                    "{name}, {cut} bytes"
                );
            }
            let more = [wire, &TAIL].concat();
            let result = inflated(&mut Inflater::new(15), &more);
            assert_eq!(
                result,
                Err(Violation::InvalidDeflate),
                "{name}, with what should be left out"
            );
        }
    }

    /// RFC 7692 §7.2.3.4: the window reaches beyond a block that is marked as the last.
    #[test]
    fn a_message_may_refer_beyond_the_end_of_a_stream() {
        let again = [0xf2, 0x00, 0x11, 0x00, 0x00]; // "Hello", 5 bytes back
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let hello = || Ok(b"Hello".to_vec());
        for end in [&[0x00][..], &[]] {
            let mut inflater = Inflater::new(9);
            assert_eq!(inflated(&mut inflater, &[&last, end].concat()), hello());
            assert_eq!(inflated(&mut inflater, &again), hello());
            // An empty stream that ends at once, before a message that refers to earlier ones, and
            // behind it.
            assert_eq!(inflated(&mut inflater, &[&[0x03, 0x00], &again[..]].concat()), hello());
            assert_eq!(
                inflated(
                    &mut inflater,
                    &[&again[..], &[0x00, 0x00, 0xff, 0xff, 0x03, 0x00], end].concat()
                ),
                hello()
            );
            assert_eq!(inflated(&mut inflater, &again), hello());
            inflater.reset();
            assert_eq!(
                inflated(&mut inflater, &again),
                Err(Violation::InvalidDeflate),
                "it was reset"
            );
        }
    }

    #[test]
    fn the_whole_window_is_kept_beyond_the_end_of_a_stream_and_no_more() {
        for bits in [9, 12, 15] {
            let (mut deflater, mut inflater) = (Deflater::new(6, bits), Inflater::new(bits));
            for round in 0..200_usize {
                let message = match round % 4 {
                    0 => noise(round * 40 % 900),
                    1 => noise(40_000)[round * 7..][..1000].to_vec(),
                    2 => text(round * 97 % 3000),
                    _ => noise(700),
                };
                let mut wire = deflated(&mut deflater, &message, true);
                if round % 3 == 0 {
                    wire.splice(0..0, [0x03, 0x00]);
                }
                assert!(
                    inflated(&mut inflater, &wire) == Ok(message),
                    "window {bits}, round {round}"
                );
                assert!(inflater.window.len() <= 1 << bits);
            }
        }
    }

    #[test]
    fn a_message_of_many_blocks_that_hold_little_is_refused() {
        // A block of dynamic codes without content: the code lengths 18 and 1, the end of the block
        // has one bit.
        let dynamic = [
            0x04, 0xc0, 0x81, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0xff, 0x6b, 0x00, 0x00, 0x00,
            0xff, 0xff,
        ];
        for (name, unit, blocks) in [
            ("empty stored", &[0x00, 0x00, 0x00, 0xff, 0xff][..], 1),
            ("stored with a byte", &[0x00, 0x01, 0x00, 0xfe, 0xff, 0x07], 1),
            ("empty fixed, then stored", &[0x02, 0x00, 0x00, 0x00, 0xff, 0xff], 2),
            ("empty dynamic, then stored", &dynamic, 2),
            ("an end of the stream", &[0x03, 0x00], 1),
        ] {
            let message = |times: usize| [&unit.repeat(times)[..], &[0x00]].concat();
            let most = 1000 / blocks;
            assert!(inflated(&mut Inflater::new(15), &message(most)).is_ok(), "{name}");
            let result = inflated(&mut Inflater::new(15), &message(most * 2));
            assert!(
                matches!(result, Err(Violation::TooManyBlocks { limit: 1000.. })),
                "{name}: {result:?}"
            );
        }
    }

    #[test]
    fn the_blocks_of_compressors_are_no_reason_to_refuse_a_message() {
        use DeflateFlush::{FullFlush, NoFlush, SyncFlush};
        for message in
            [noise(500_000), text(500_000), [noise(100), text(100)].concat().repeat(1000)]
        {
            for (mem_level, flush, every) in [
                (1, NoFlush, 500_000),
                (5, NoFlush, 500_000),
                (8, SyncFlush, 256),
                (8, FullFlush, 256),
                (1, SyncFlush, 512),
            ] {
                let wire = in_blocks(&message, mem_level, flush, every);
                let result = inflated(&mut Inflater::new(15), &wire);
                assert!(
                    result.as_ref() == Ok(&message),
                    "{mem_level} {flush:?} {every}: {:?}",
                    result.err()
                );
            }
        }
    }

    #[test]
    fn a_message_is_the_same_however_often_its_decompression_is_put_off() {
        let message = [noise(50_000), text(200_000), vec![0; 300_000]].concat();
        let wire =
            [&[0x03, 0x00][..], &in_blocks(&message, 1, DeflateFlush::SyncFlush, 5000)].concat();
        for most in [0, 1, 100_000, 10_000_000] {
            let (mut decompressor, window) = (Decompressor::new(), Window::none());
            let mut inflation = decompressor.begin(&window);
            let (mut out, mut pieces, limit) = (Vec::new(), 1, message.len());
            while !decompressor
                .inflate_some(&window, &wire, limit, &mut out, &mut inflation, most)
                .unwrap()
            {
                pieces += 1;
            }
            assert!(out == message);
            assert_eq!(pieces > 1, most < 10_000_000, "{pieces} pieces of {most}");
        }
    }

    #[test]
    fn nonsense_is_refused_or_harmless() {
        assert_eq!(inflated(&mut Inflater::new(15), &[0xff; 20]), Err(Violation::InvalidDeflate));
        for len in 0..400 {
            let _ = inflated(&mut Inflater::new(9), &noise(len));
        }
    }

    /// The messages of several connections in random order: empty and short ones, longer than the
    /// windows, similar to earlier ones, and incompressible ones.
    fn mixed(connections: usize, count: usize) -> impl Iterator<Item = (usize, Vec<u8>)> {
        let (text, noise) = (text(70_000), noise(70_000));
        let mut seed = 99_u64;
        let mut below = move |end: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % end
        };
        (0..count).map(move |round| {
            let most = if round % 16 == 0 { 40_000 } else { 900 };
            let len = [0, 1, 2, 3, 4, below(60), below(most), below(most)][below(8)];
            let from = below(3000);
            let message = match below(4) {
                0 => vec![7; len],
                1 => noise[from..from + len].to_vec(),
                2 => [&noise[..len / 2], &text[from..from + len / 2]].concat(),
                _ => text[from..from + len].to_vec(),
            };
            (below(connections), message)
        })
    }

    /// Decompresses a message with one continuing stream, in pieces, so that only its window holds
    /// earlier bytes.
    fn streamed(stream: &mut Decompress, mut wire: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let (mut piece, taken, given) = ([0; 500], stream.total_in(), stream.total_out());
            stream.decompress(wire, &mut piece, FlushDecompress::Sync).unwrap();
            let given = (stream.total_out() - given) as usize;
            out.extend_from_slice(&piece[..given]);
            wire = &wire[(stream.total_in() - taken) as usize..];
            if wire.is_empty() && given < piece.len() {
                return out;
            }
        }
    }

    /// RFC 7692 §7.2.1: the peer has one stream for all messages, and never starts afresh.
    #[test]
    fn connections_that_share_a_compressor_each_have_a_stream_that_goes_on() {
        const CONNECTIONS: usize = 4;
        for bits in 9..=15 {
            for level in 1..=9 {
                let mut deflater = Deflater::new(level, bits);
                let mut sent: Vec<_> = (0..CONNECTIONS).map(|_| Window::new(bits)).collect();
                let peer = |_| Decompress::new_with_window_bits(false, bits);
                let mut peers: Vec<_> = (0..CONNECTIONS).map(peer).collect();
                let mut held = None;
                for (round, (to, message)) in mixed(CONNECTIONS, 150).enumerate() {
                    if held != Some(to) || round % 3 == 0 {
                        deflater.begin(&sent[to], message.len());
                        held = Some(to);
                    }
                    let wire = [&deflated(&mut deflater, &message, true)[..], &TAIL].concat();
                    sent[to].remember(&message);
                    let came = streamed(&mut peers[to], &wire);
                    assert!(came == message, "window {bits}, level {level}, message {round}");
                }
            }
        }
    }

    #[test]
    fn connections_that_share_a_decompressor_each_have_a_stream_that_goes_on() {
        const CONNECTIONS: usize = 4;
        for bits in 9..=15 {
            for level in [1, 2, 6, 9] {
                let mut decompressor = Decompressor::new();
                let mut received: Vec<_> = (0..CONNECTIONS).map(|_| Window::new(bits)).collect();
                let peer = |_| Compress::new_with_window_bits(Compression::new(level), false, bits);
                let mut peers: Vec<_> = (0..CONNECTIONS).map(peer).collect();
                for (round, (from, message)) in mixed(CONNECTIONS, 150).enumerate() {
                    let mut wire = Vec::with_capacity(message.len() * 2 + 1000);
                    peers[from].compress_vec(&message, &mut wire, FlushCompress::Sync).unwrap();
                    match message[..] {
                        [] => wire = vec![NOTHING],
                        _ => wire.truncate(wire.len() - TAIL.len()),
                    }
                    if round % 5 == 0 {
                        // An empty stream that ends at once (BFINAL).
                        wire.splice(0..0, [0x03, 0x00]);
                    }
                    let window = &mut received[from];
                    let mut inflation = decompressor.begin(window);
                    let mut came = Vec::new();
                    while !decompressor
                        .inflate_some(window, &wire, message.len(), &mut came, &mut inflation, 1)
                        .unwrap()
                    {}
                    window.remember(&came);
                    assert!(came == message, "window {bits}, level {level}, message {round}");
                }
            }
        }
    }

    #[test]
    fn a_message_refers_to_the_window_that_its_stream_begins_behind() {
        let mut deflater = Deflater::new(2, 15);
        let alone = deflated(&mut deflater, &text(300), false);
        let mut window = Window::new(15);
        window.remember(&text(300));
        deflater.begin(&window, 300);
        let behind = deflated(&mut deflater, &text(300), true);
        assert!(behind.len() * 4 < alone.len(), "{} {}", alone.len(), behind.len());
        deflater.begin(&Window::none(), 300);
        assert_eq!(deflated(&mut deflater, &text(300), true), alone, "nothing is left of it");
    }

    #[test]
    fn what_a_window_costs_is_counted() {
        let mut decompressor = Decompressor::new();
        let (mut short, mut long) = (Window::new(15), Window::new(15));
        short.remember(&noise(1000));
        long.remember(&noise(40_000));
        assert!(decompressor.begin(&long).work > 10 * decompressor.begin(&short).work);
        let work = |len, window: &Window| Deflater::work(2, len, window);
        assert!(work(1000, &short) > work(1000, &Window::none()));
        assert!(work(1000, &long) > work(1000, &short), "of twice its length, the message's");
        assert_eq!(work(1000, &long) - work(1000, &short), WORK_KNOWN * 1048);
        // Each end of a stream copies the window once more.
        let ends = [0x03, 0x00].repeat(100);
        let cost = |window: &Window| {
            let (mut decompressor, mut out) = (Decompressor::new(), Vec::new());
            let mut inflation = decompressor.begin(window);
            let done =
                decompressor.inflate_some(window, &ends, 0, &mut out, &mut inflation, usize::MAX);
            assert_eq!(done, Ok(true));
            inflation.work
        };
        assert!(cost(&long) > cost(&Window::none()) + 100 * (1 << 15) / COPIED);
    }
}
