//! The messages that connections send, as frames ready for the wire, one behind the other: sending
//! the next `n` is one `write` of a slice, with nothing to format, mask or copy.

use super::Packer;
use ikisocket::protocol::{FrameHeader, Opcode, Payload, apply_mask};
use std::ops::{Range, RangeInclusive};

/// The masking key of every frame. A client that stands for browsers must use unpredictable ones
/// (RFC 6455 §5.3); for the server's work it makes no difference. Each byte is below 0x80: so ASCII
/// stays ASCII under the mask, and a server that sends payloads back still masked (such as a
/// measuring dummy) sends valid text.
pub const KEY: [u8; 4] = [0x25, 0x4b, 0x1e, 0x33];

/// How long a tape grows for the sake of coalescing and variety; a longer message is alone on its
/// tape.
const MAX_TAPE: usize = 4 * 1024 * 1024;
/// How many messages differ from each other where sizes are random or payloads verified.
const VARIETY: usize = 256;
/// No message comes again before this many bytes of other messages: a compressor that remembers
/// 32 KiB must not meet it twice.
const FORGOTTEN: usize = 128 * 1024;

/// What messages look like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub text: bool,
    pub sizes: RangeInclusive<usize>,
    /// The messages differ, so that one taken for another is noticed.
    pub distinct: bool,
    /// Quotes in JSON, which can be compressed as such texts can; else random letters, which
    /// cannot.
    pub quotes: bool,
}

impl Shape {
    pub fn opcode(&self) -> Opcode {
        if self.text { Opcode::Text } else { Opcode::Binary }
    }
}

/// Without `--verify` this much of the beginning of each echo is compared, in bytes: a fixed cost,
/// however long the messages are.
const HEAD: usize = 64;

pub struct Tape {
    text: bool,
    /// `period + burst` frames.
    frames: Vec<u8>,
    /// Where each frame begins, and where the last one ends.
    starts: Vec<usize>,
    /// The unmasked payloads of the first `period` frames.
    payloads: Vec<u8>,
    payload_ranges: Vec<Range<usize>>,
    /// The number of frames after which the tape begins again.
    period: usize,
    /// The number of frames that lie in one piece, from any position on.
    burst: usize,
}

impl Tape {
    /// A tape from which up to `in_flight` messages are sent at once, `compressed` each by itself
    /// if so wanted.
    pub fn new(shape: &Shape, in_flight: usize, compressed: bool) -> Tape {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (smallest, largest) = (*shape.sizes.start(), *shape.sizes.end());
        let room = (MAX_TAPE / (largest + FrameHeader::MAX_LEN)).max(1);
        let period = match shape {
            Shape { quotes: true, .. } => {
                (FORGOTTEN / largest.max(1)).max(VARIETY).min(room).max(2)
            }
            Shape { distinct: true, .. } => VARIETY.min(room).max(2),
            _ if smallest != largest => VARIETY.min(room).max(2),
            _ => 1,
        };
        let burst = in_flight.clamp(1, room);

        let mut tape = Tape {
            text: shape.text,
            frames: Vec::new(),
            starts: vec![0],
            payloads: Vec::new(),
            payload_ranges: Vec::new(),
            period,
            burst,
        };
        for index in 0..period {
            let size = random.within(smallest, largest);
            let start = tape.payloads.len();
            if shape.quotes {
                random.quotes(start + size, &mut tape.payloads);
            } else {
                // Printable, so that the message can be text.
                tape.payloads.extend((0..size).map(|_| b'!' + random.within(0, 93) as u8));
            }
            if shape.distinct {
                // Two messages differ whatever the dice say, if they have room for these two
                // letters.
                let letters = [b'0' + (index % 16) as u8, b'0' + (index / 16 % 16) as u8];
                for (byte, letter) in tape.payloads[start..].iter_mut().zip(letters) {
                    *byte = letter;
                }
            }
            tape.payload_ranges.push(start..start + size);
        }
        let mut packer = compressed.then(Packer::new);
        let mut packed = Vec::new();
        for index in 0..period + burst {
            let mut payload = &tape.payloads[tape.payload_ranges[index % period].clone()];
            if let Some(packer) = &mut packer {
                packed.clear();
                packer.pack(payload, &mut packed);
                payload = &packed;
            }
            encode_masked(shape.opcode(), compressed, payload, &mut tape.frames);
            tape.starts.push(tape.frames.len());
        }
        tape
    }

    /// The payload of a frame.
    pub fn payload(&self, frame: usize) -> &[u8] {
        &self.payloads[self.payload_ranges[frame].clone()]
    }

    /// Whether a message of the server is of the kind that was sent: text or binary.
    pub fn is_its_kind(&self, payload: Payload<'_>) -> bool {
        payload.is_text() == self.text
    }

    /// Whether this payload is the one of the frame. If it is not compared as a `whole`: its length
    /// and its beginning, which may still be masked, as a measuring dummy leaves it.
    pub fn is_payload(&self, frame: usize, payload: &[u8], whole: bool) -> bool {
        let sent = self.payload(frame);
        if whole || payload.len() != sent.len() {
            return payload == sent;
        }
        let (head, sent) = (&payload[..payload.len().min(HEAD)], &sent[..sent.len().min(HEAD)]);
        let is_still_masked =
            || head.iter().zip(sent).zip(KEY.iter().cycle()).all(|((a, b), key)| *a == b ^ key);
        head == sent || is_still_masked()
    }

    /// The frame that the `nth` message of all is.
    pub fn frame_of(&self, nth: u64) -> usize {
        (nth % self.period as u64) as usize
    }

    /// The frame behind this one.
    pub fn next(&self, frame: usize) -> usize {
        if frame + 1 == self.period { 0 } else { frame + 1 }
    }

    /// A position for the `nth` connection, so that not all send the same sizes at the same time.
    pub fn position(&self, nth: usize) -> usize {
        nth.wrapping_mul(7) % self.period
    }
}

/// What one connection has yet to send from the tape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// The frame to send next.
    frame: usize,
    /// How much of it is written already.
    written: usize,
    /// How many frames are to be sent, that one included.
    owed: usize,
}

impl Cursor {
    pub fn at(frame: usize) -> Cursor {
        Cursor { frame, ..Cursor::default() }
    }

    pub fn owe(&mut self, frames: usize) {
        self.owed += frames;
    }

    /// Nothing more is owed than what is begun.
    pub fn forget_unbegun(&mut self) {
        self.owed = usize::from(self.is_inside_a_frame());
    }

    pub fn is_done(&self) -> bool {
        self.owed == 0
    }

    /// Whether the stream stands inside a frame, where no other may be put.
    pub fn is_inside_a_frame(&self) -> bool {
        self.written > 0
    }

    /// The bytes to write next: as many owed frames as lie there in one piece.
    pub fn bytes<'t>(&self, tape: &'t Tape) -> &'t [u8] {
        let end = self.frame + self.owed.min(tape.burst);
        &tape.frames[tape.starts[self.frame] + self.written..tape.starts[end]]
    }

    /// The rest of the frame that was begun.
    pub fn rest_of_frame<'t>(&self, tape: &'t Tape) -> &'t [u8] {
        &tape.frames[tape.starts[self.frame] + self.written..tape.starts[self.frame + 1]]
    }

    /// `written` of these bytes are on their way.
    pub fn advance(&mut self, tape: &Tape, written: usize) {
        self.written += written;
        while self.owed > 0 {
            let frame_len = tape.starts[self.frame + 1] - tape.starts[self.frame];
            if self.written < frame_len {
                return;
            }
            self.written -= frame_len;
            self.owed -= 1;
            self.frame = tape.next(self.frame);
        }
    }
}

/// Appends a frame as a client sends it; `rsv1`: its payload is compressed.
pub fn encode_masked(opcode: Opcode, rsv1: bool, payload: &[u8], out: &mut Vec<u8>) {
    let header =
        FrameHeader { rsv1, mask: Some(KEY), ..FrameHeader::new(opcode, payload.len() as u64) };
    header.encode(out);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], KEY, 0);
}

/// splitmix64: the same messages in every run.
struct Random(u64);

impl Random {
    fn within(&mut self, low: usize, high: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        low + (z % (high - low + 1) as u64) as usize
    }

    /// Appends the quotes of a market in JSON, up to a length of `end`.
    fn quotes(&mut self, end: usize, out: &mut Vec<u8>) {
        const SYMBOLS: [&str; 12] = [
            "AAPL", "AMD", "AMZN", "BA", "GOOG", "IBM", "INTC", "META", "MSFT", "NVDA", "ORCL",
            "TSLA",
        ];
        out.push(b'[');
        while out.len() < end {
            let symbol = SYMBOLS[self.within(0, SYMBOLS.len() - 1)];
            let (bid, spread) = (self.within(1_000, 99_999), self.within(1, 30));
            let price = |cents: usize| format!("{}.{:02}", cents / 100, cents % 100);
            let quote = format!(
                "{{\"id\":{},\"symbol\":\"{symbol}\",\"bid\":{},\"ask\":{},\"size\":{},\
                 \"time\":\"14:{:02}:{:02}.{:03}\"}},",
                self.within(1_000_000, 9_999_999),
                price(bid),
                price(bid + spread),
                self.within(1, 40) * 100,
                self.within(0, 59),
                self.within(0, 59),
                self.within(0, 999),
            );
            out.extend_from_slice(quote.as_bytes());
        }
        out.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ikisocket::protocol::{Decoded, Decoder, Rules};

    /// Everything that a cursor writes, in pieces of `piece` bytes.
    fn written(tape: &Tape, cursor: &mut Cursor, piece: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !cursor.is_done() {
            let next = cursor.bytes(tape);
            let next = &next[..next.len().min(piece)];
            bytes.extend_from_slice(next);
            cursor.advance(tape, next.len());
        }
        bytes
    }

    #[test]
    fn whatever_the_pieces_the_stream_is_the_payloads_in_order() {
        for (sizes, distinct, text, quotes) in [
            (20..=20, false, false, false),
            (0..=300, true, true, false),
            (5..=5, true, false, false),
            (0..=300, false, true, true),
        ] {
            let tape = Tape::new(&Shape { text, sizes, distinct, quotes }, 16, false);
            for piece in [1, 7, 100, usize::MAX] {
                let start = tape.position(3);
                let mut cursor = Cursor::at(start);
                cursor.owe(40);
                let mut stream = written(&tape, &mut cursor, piece);
                let mut input = &mut stream[..];
                let (mut decoder, mut expected) = (Decoder::new(), start);
                for _ in 0..40 {
                    let Ok(Some(Decoded::Message(message))) =
                        decoder.decode(&mut input, &Rules::default())
                    else {
                        panic!("a message is missing");
                    };
                    assert_eq!(message.as_bytes(), tape.payload(expected));
                    assert_eq!(message.is_text(), text);
                    expected = tape.next(expected);
                }
                assert!(input.is_empty());
            }
        }
    }

    #[test]
    fn a_huge_message_makes_no_huge_tape() {
        let tape = Tape::new(
            &Shape { text: false, sizes: 1 << 20..=1 << 20, distinct: false, quotes: true },
            1000,
            false,
        );
        assert!(tape.frames.len() < 3 * MAX_TAPE);
    }

    #[test]
    fn an_echo_has_the_length_and_the_beginning_of_what_was_sent() {
        let tape = Tape::new(
            &Shape { text: false, sizes: 100..=100, distinct: false, quotes: false },
            1,
            false,
        );
        let sent = tape.payload(0).to_vec();
        let mut masked = sent.clone();
        apply_mask(&mut masked, KEY, 0);
        let mut end_differs = sent.clone();
        end_differs[99] ^= 1;
        assert!(tape.is_payload(0, &sent, true) && tape.is_payload(0, &sent, false));
        assert!(tape.is_payload(0, &masked, false) && !tape.is_payload(0, &masked, true));
        assert!(tape.is_payload(0, &end_differs, false) && !tape.is_payload(0, &end_differs, true));
        for wrong in [&b""[..], &sent[..99], &[b'x'; 100]] {
            assert!(!tape.is_payload(0, wrong, false), "{wrong:?}");
        }
        assert!(tape.is_its_kind(Payload::Binary(&sent)) && !tape.is_its_kind(Payload::Text("")));
    }

    #[test]
    fn distinct_messages_differ() {
        let tape =
            Tape::new(&Shape { text: true, sizes: 2..=2, distinct: true, quotes: false }, 1, false);
        let mut payloads: Vec<_> = (0..VARIETY).map(|frame| tape.payload(frame)).collect();
        payloads.sort();
        payloads.dedup();
        assert_eq!(payloads.len(), VARIETY);
    }

    #[test]
    fn quotes_do_not_come_again_while_a_compressor_remembers_them() {
        let tape = Tape::new(
            &Shape { text: true, sizes: 100..=100, distinct: false, quotes: true },
            1,
            false,
        );
        let mut payloads: Vec<_> = (0..tape.period).map(|frame| tape.payload(frame)).collect();
        payloads.sort();
        payloads.dedup();
        assert!(payloads.len() * 100 > 2 * 32 * 1024, "{}", payloads.len());
    }

    #[cfg(feature = "deflate")]
    #[test]
    fn compressed_frames_refer_to_no_other_and_hold_the_payloads() {
        use ikisocket::protocol::Inflater;

        let shape = Shape { text: true, sizes: 0..=3000, distinct: true, quotes: true };
        let tape = Tape::new(&shape, 4, true);
        let mut stream = tape.frames.clone();
        let (mut input, mut decoder) = (&mut stream[..], Decoder::new());
        let rules = Rules::default().compression(true);
        let mut sent = 0;
        for frame in 0..tape.period {
            let before = input.len();
            let Ok(Some(Decoded::Compressed(compressed))) = decoder.decode(&mut input, &rules)
            else {
                panic!("a compressed message is missing");
            };
            sent += before - input.len();
            let mut payload = Vec::new();
            Inflater::new(15).inflate(&compressed.payload, 3000, &mut payload).unwrap();
            assert_eq!(payload, tape.payload(frame));
        }
        assert!(sent * 2 < tape.payloads.len(), "{sent} bytes for {}", tape.payloads.len());
    }

    #[test]
    fn ascii_stays_ascii_under_the_mask() {
        assert!(KEY.iter().all(|&byte| byte != 0 && byte.is_ascii()));
    }
}
