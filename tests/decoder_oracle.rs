//! The decoder against tungstenite as the oracle: random streams of a client, valid ones, ones with
//! a planted defect and ones with random damage, must mean the same to both, however they are cut.
//! Seeds are fixed: a failure repeats.
//!
//! Where the two differ by design; each line has its own test below, and the random streams keep
//! clear of it:
//!
//! - A length in more bytes than it needs: tungstenite takes it, we refuse it (RFC 6455 §5.2).
//! - A 64-bit length with its top bit set: too big (1009) to tungstenite, a protocol error (1002)
//!   to us.
//! - A close code that must not be sent: tungstenite hands out a Close frame with 1002 in its
//!   place, we fail with 1002.
//! - Close code 1014: legal to us (IANA registry), not to tungstenite.
//! - Any defect of a header but a reserved opcode or its length, and text that is not UTF-8:
//!   tungstenite waits for the whole frame, we fail at once. For a reserved opcode it waits for the
//!   whole header, we for two bytes.
//! - Of two defects in one frame, the other may be named: tungstenite looks at the length before
//!   the masking bit and the rules for control frames, and at the reason of a Close frame before
//!   its code.
//! - Empty fragments: tungstenite takes any number.
//! - After a failure: tungstenite decodes on if asked, we repeat the failure.

use ikisocket::protocol::{
    CloseCode, CloseFrame, Decoded, Decoder, FrameHeader, Message, Opcode, Rules, Violation,
    apply_mask, encode_close,
};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, WebSocket};

/// Longest message in bytes, for both: beyond the 16-bit lengths, so that all three forms of a
/// length are met.
const MAX_MESSAGE: usize = 70_000;

/// Streams per random test.
const STREAMS: u64 = 300;

#[test]
fn valid_streams_mean_the_same_to_both() {
    for seed in 1..=STREAMS {
        let mut random = Random(seed);
        let mut stream = messages(&mut random, 8);
        if random.below(4) == 0 {
            stream.extend(close(&mut random));
            stream.extend(messages(&mut random, 2)); // to be ignored
        }
        let ours = decode(&stream, &mut random);
        assert_eq!(ours.failure, None, "seed {seed}");
        assert_eq!(ours, oracle(&stream, &mut random), "seed {seed}");
    }
}

#[test]
fn streams_with_a_defect_fail_alike() {
    for seed in 1..=STREAMS {
        let mut random = Random(seed);
        let defect = DEFECTS[random.below(DEFECTS.len())];
        let mut stream = messages(&mut random, 4);
        stream.extend(defect(&mut random));
        stream.extend(messages(&mut random, 2)); // to be ignored
        let ours = decode(&stream, &mut random);
        assert!(ours.failure.is_some(), "seed {seed}");
        assert_eq!(ours, oracle(&stream, &mut random), "seed {seed}");
    }
}

/// Damage may leave a frame without its end, or add one of the differences above. Two promises hold
/// nevertheless: this decoder is never the laxer one, and everything that it decodes before it
/// fails is what tungstenite decodes.
#[test]
fn damaged_streams_pass_only_if_they_pass_tungstenite() {
    for seed in 1..=STREAMS {
        let mut random = Random(seed);
        let mut stream = messages(&mut random, 4);
        stream.extend(close(&mut random));
        for _ in 0..=random.below(2) {
            let at = random.below(stream.len().min(200));
            stream[at] ^= 1 << random.below(8);
        }
        let ours = decode(&stream, &mut random);
        let theirs = oracle(&stream, &mut random);
        match ours.failure {
            None => assert_eq!(ours, theirs, "seed {seed}"),
            Some(_) => assert!(theirs.decoded.starts_with(&ours.decoded), "seed {seed}"),
        }
    }
}

#[test]
fn only_we_refuse_a_length_that_is_not_minimal() {
    for mut stream in [vec![0x82, 0xfe, 0, 3], vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 3]] {
        stream.extend([0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(violation(&stream), Some(Violation::LengthNotMinimal));
        let theirs = oracle(&stream, &mut Random(1));
        assert_eq!(theirs.decoded, [Decoded::Message(Message::from(&[1, 2, 3]))]);
    }
}

#[test]
fn a_length_with_its_top_bit_set_is_too_big_there_and_illegal_here() {
    let stream = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(violation(&stream), Some(Violation::LengthOverflow));
    assert_eq!(oracle(&stream, &mut Random(1)).failure, Some(CloseCode::MESSAGE_TOO_BIG));
}

#[test]
fn tungstenite_replaces_an_illegal_close_code_and_we_fail() {
    let replaced = Decoded::Close(Some(CloseFrame {
        code: CloseCode::PROTOCOL_ERROR,
        reason: "Protocol violation".into(),
    }));
    for code in (0..=5001).chain([u16::MAX]) {
        let code = CloseCode::from(code);
        let stream = close_with(code, "why");
        let theirs = oracle(&stream, &mut Random(1)).decoded;
        if code.is_sendable() && code != CloseCode::BAD_GATEWAY {
            assert_eq!(theirs, decode(&stream, &mut Random(1)).decoded);
        } else {
            assert_eq!(theirs, std::slice::from_ref(&replaced));
            let expected =
                (!code.is_sendable()).then_some(Violation::InvalidCloseCode(code.into()));
            assert_eq!(violation(&stream), expected);
        }
    }
}

#[test]
fn only_we_fail_before_the_frame_is_complete() {
    let long_text = frame(Opcode::Text, true, b"\xff................");
    let late = [
        (broken_first_byte(0x40), 2, Violation::ReservedBits),
        (unmasked(Opcode::Text, b"text"), 2, Violation::Unmasked),
        (frame(Opcode::Ping, false, b"ping"), 2, Violation::FragmentedControl),
        (frame(Opcode::Ping, true, &[0; 126]), 2, Violation::ControlTooLong),
        (frame(Opcode::Continuation, true, b"more"), 2, Violation::UnexpectedContinuation),
        (long_text, 7, Violation::InvalidUtf8),
    ];
    for (stream, enough, expected) in late {
        assert_eq!(violation(&stream[..enough]), Some(expected));
        assert_eq!(oracle(&stream[..stream.len() - 1], &mut Random(1)).failure, None);
        assert_eq!(oracle(&stream, &mut Random(1)).failure, Some(expected.close_code()));
    }
    let reserved = broken_first_byte(0x02); // text becomes 3
    assert_eq!(violation(&reserved[..2]), Some(Violation::ReservedOpcode(3)));
    assert_eq!(oracle(&reserved[..5], &mut Random(1)).failure, None);
    assert_eq!(oracle(&reserved[..6], &mut Random(1)).failure, Some(CloseCode::PROTOCOL_ERROR));
}

#[test]
fn of_two_defects_the_other_is_named() {
    let too_long = vec![0; MAX_MESSAGE + 1];
    for (stream, ours, theirs) in [
        (unmasked(Opcode::Binary, &too_long), Violation::Unmasked, CloseCode::MESSAGE_TOO_BIG),
        (
            frame(Opcode::Ping, true, &too_long),
            Violation::ControlTooLong,
            CloseCode::MESSAGE_TOO_BIG,
        ),
        (
            frame(Opcode::Close, true, b"\x03\xed\xff"),
            Violation::InvalidCloseCode(1005),
            CloseCode::INVALID_PAYLOAD,
        ),
    ] {
        assert_eq!(violation(&stream), Some(ours));
        assert_eq!(oracle(&stream, &mut Random(1)).failure, Some(theirs));
    }
}

#[test]
fn only_we_limit_empty_fragments() {
    let mut stream = frame(Opcode::Text, false, b"");
    stream.extend(frame(Opcode::Continuation, false, b"").repeat(2000));
    stream.extend(frame(Opcode::Continuation, true, b"end"));
    assert_eq!(violation(&stream), Some(Violation::TooManyEmptyFragments { limit: 1000 }));
    let theirs = oracle(&stream, &mut Random(1));
    assert_eq!(theirs.decoded, [Decoded::Message(Message::from("end"))]);
}

#[test]
fn only_we_stay_failed() {
    let mut stream = frame(Opcode::Text, true, b"\xff");
    stream.extend(frame(Opcode::Text, true, b"next"));

    let mut socket = websocket();
    socket.get_mut().0.extend(&stream);
    assert!(matches!(socket.read(), Err(Error::Utf8(_))));
    assert_eq!(socket.read().unwrap(), tungstenite::Message::text("next"));

    let (mut decoder, rules) = (Decoder::new(), rules());
    let mut input = &mut stream[..];
    assert_eq!(decoder.decode(&mut input, &rules), Err(Violation::InvalidUtf8));
    assert_eq!(decoder.decode(&mut input, &rules), Err(Violation::InvalidUtf8));
}

// ---- both decoders, made comparable ----

/// What came out of a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    decoded: Vec<Decoded<'static>>,
    /// The class of the failure: the close code that names it.
    failure: Option<CloseCode>,
}

fn rules() -> Rules {
    Rules::default().max_message(MAX_MESSAGE)
}

/// The outcome of our decoder, fed in random chunks.
fn decode(stream: &[u8], random: &mut Random) -> Outcome {
    let rules = rules();
    let mut decoder = Decoder::new();
    let mut decoded = Vec::new();
    for mut chunk in random.cut(stream) {
        let mut input = &mut chunk[..];
        loop {
            match decoder.decode(&mut input, &rules) {
                Ok(Some(next)) => decoded.push(owned(next)),
                Ok(None) => break,
                Err(violation) => {
                    return Outcome { decoded, failure: Some(violation.close_code()) };
                }
            }
        }
    }
    Outcome { decoded, failure: None }
}

/// The violation that our decoder finds in a stream fed in one piece.
fn violation(stream: &[u8]) -> Option<Violation> {
    let (mut stream, mut decoder) = (stream.to_vec(), Decoder::new());
    let mut input = &mut stream[..];
    loop {
        match decoder.decode(&mut input, &rules()) {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(violation) => return Some(violation),
        }
    }
}

fn owned(decoded: Decoded<'_>) -> Decoded<'static> {
    match decoded {
        Decoded::Message(Message::Text(text)) => Decoded::Message(text.into_owned().into()),
        Decoded::Message(Message::Binary(bytes)) => Decoded::Message(bytes.into_owned().into()),
        Decoded::Compressed(_) => unreachable!("no rules here allow it"),
        Decoded::Ping(bytes) => Decoded::Ping(bytes.into_owned().into()),
        Decoded::Pong(bytes) => Decoded::Pong(bytes.into_owned().into()),
        Decoded::Close(close) => Decoded::Close(
            close.map(|c| CloseFrame { code: c.code, reason: c.reason.into_owned().into() }),
        ),
    }
}

/// A transport in memory: it gives its content, and discards what is written.
struct Memory(VecDeque<u8>);

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buf) }
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn websocket() -> WebSocket<Memory> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocket::from_raw_socket(Memory(VecDeque::new()), Role::Server, Some(config))
}

/// The outcome of tungstenite, fed in random chunks, up to a Close frame or a failure.
fn oracle(stream: &[u8], random: &mut Random) -> Outcome {
    let mut socket = websocket();
    let mut decoded = Vec::new();
    for chunk in random.cut(stream) {
        socket.get_mut().0.extend(chunk);
        loop {
            let failure = match socket.read() {
                Ok(message) => {
                    decoded.push(translate(message));
                    continue;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(Error::ConnectionClosed) => {
                    return Outcome { decoded, failure: None };
                }
                Err(Error::Utf8(_)) => CloseCode::INVALID_PAYLOAD,
                Err(Error::Capacity(_)) => CloseCode::MESSAGE_TOO_BIG,
                Err(Error::Protocol(_)) => CloseCode::PROTOCOL_ERROR,
                Err(other) => panic!("{other}"),
            };
            return Outcome { decoded, failure: Some(failure) };
        }
    }
    Outcome { decoded, failure: None }
}

fn translate(message: tungstenite::Message) -> Decoded<'static> {
    match message {
        tungstenite::Message::Text(text) => Decoded::Message(text.to_string().into()),
        tungstenite::Message::Binary(bytes) => Decoded::Message(bytes.to_vec().into()),
        tungstenite::Message::Ping(bytes) => Decoded::Ping(bytes.to_vec().into()),
        tungstenite::Message::Pong(bytes) => Decoded::Pong(bytes.to_vec().into()),
        tungstenite::Message::Close(close) => Decoded::Close(close.map(|close| CloseFrame {
            code: u16::from(close.code).into(),
            reason: close.reason.to_string().into(),
        })),
        tungstenite::Message::Frame(_) => unreachable!("is never read"),
    }
}

// ---- random streams ----

/// xorshift64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) as usize) % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Text with characters of one to four bytes.
    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = String::new();
        while text.len() + 4 <= len {
            text.push(['a', 'z', 'é', 'ß', '水', '\u{ffff}', '😀', '\u{10ffff}'][self.below(8)]);
        }
        text.extend(std::iter::repeat_n('.', len - text.len()));
        text.into_bytes()
    }

    /// Mostly small, sometimes around the lengths where the header changes.
    fn len(&mut self) -> usize {
        match self.below(40) {
            0 => 65_534 + self.below(4),
            1..=5 => 124 + self.below(5),
            6..=9 => 1000 + self.below(5000),
            10..=13 => 0,
            _ => 1 + self.below(80),
        }
    }

    /// Cuts a stream into chunks, of one size class for the whole stream.
    fn cut(&mut self, stream: &[u8]) -> Vec<Vec<u8>> {
        let largest = [1, 3, 20, 200, 5000, usize::MAX / 2][self.below(6)];
        let (mut rest, mut chunks) = (stream, Vec::new());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at((1 + self.below(largest)).min(rest.len()));
            chunks.push(chunk.to_vec());
            rest = later;
        }
        chunks
    }
}

/// A frame of a client.
fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let key = [0xa5, 0x0f, 0x00, 0x71];
    let header =
        FrameHeader { fin, mask: Some(key), ..FrameHeader::new(opcode, payload.len() as u64) };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes.extend_from_slice(payload);
    apply_mask(&mut bytes[header.encoded_len()..], key, 0);
    bytes
}

fn unmasked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameHeader::new(opcode, payload.len() as u64).encode(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A text frame with some bits of its first byte turned.
fn broken_first_byte(bits: u8) -> Vec<u8> {
    let mut bytes = frame(Opcode::Text, true, b"broken");
    bytes[0] ^= bits;
    bytes
}

fn control(random: &mut Random) -> Vec<u8> {
    let len = random.below(126);
    let opcode = [Opcode::Ping, Opcode::Pong][random.below(2)];
    frame(opcode, true, &random.bytes(len))
}

/// A message in any number of fragments, with control frames between them.
fn message(random: &mut Random, opcode: Opcode, content: &[u8]) -> Vec<u8> {
    let (mut stream, mut rest, mut opcode) = (Vec::new(), content, opcode);
    while random.below(3) == 0 {
        let (fragment, later) = rest.split_at(random.below(rest.len() + 1));
        stream.extend(frame(opcode, false, fragment));
        (rest, opcode) = (later, Opcode::Continuation);
        if random.below(3) == 0 {
            stream.extend(control(random));
        }
    }
    stream.extend(frame(opcode, true, rest));
    stream
}

/// Up to `max` messages and control frames, and at least one.
fn messages(random: &mut Random, max: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..=random.below(max) {
        let len = random.len();
        stream.extend(match random.below(5) {
            0 => control(random),
            1 | 2 => {
                let bytes = random.bytes(len);
                message(random, Opcode::Binary, &bytes)
            }
            _ => {
                let text = random.text(len);
                message(random, Opcode::Text, &text)
            }
        });
    }
    stream
}

fn close_with(code: CloseCode, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    encode_close(Some((code, reason)), &mut payload);
    frame(Opcode::Close, true, &payload)
}

fn close(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => frame(Opcode::Close, true, b""),
        n => {
            let code = [1000, 1001, 1011, 3000, 4999][random.below(5)];
            close_with(CloseCode::from(code), &"é".repeat(n * 20))
        }
    }
}

/// One defect each, in frames that are complete.
const DEFECTS: [fn(&mut Random) -> Vec<u8>; 14] = [
    |random| broken_first_byte(0x10 << random.below(3)), // reserved bit
    |random| broken_first_byte([0x02, 0x06, 0x0a, 0x0e][random.below(4)]), // opcode 3, 7, 11, 15
    |random| unmasked(Opcode::Text, &random.text(30)),
    |random| frame([Opcode::Ping, Opcode::Pong][random.below(2)], false, b"half"),
    |random| frame(Opcode::Ping, true, &vec![0; 126 + random.below(100)]),
    |_| frame(Opcode::Close, true, &[3]),
    |_| frame(Opcode::Close, true, b"\x03\xe8\xc3("), // reason
    |random| frame(Opcode::Continuation, random.below(2) == 0, b"of nothing"),
    |random| {
        let opcode = [Opcode::Text, Opcode::Binary][random.below(2)];
        [frame(Opcode::Text, false, b"unfinished"), frame(opcode, true, b"next")].concat()
    },
    |random| {
        let mut text = random.text(100);
        text[random.below(100)] = 0xff;
        message(random, Opcode::Text, &text)
    },
    |random| {
        let text = [&random.text(70)[..], b"\xed\xa0\x80", &random.text(9)].concat(); // surrogate
        message(random, Opcode::Text, &text)
    },
    |random| {
        let text = [&random.text(70)[..], "😀".as_bytes().split_at(3).0].concat(); // no end
        message(random, Opcode::Text, &text)
    },
    |_| frame(Opcode::Binary, true, &vec![0; MAX_MESSAGE + 1]),
    |_| {
        let first = frame(Opcode::Binary, false, &vec![0; MAX_MESSAGE - 1]);
        [first, frame(Opcode::Continuation, false, b"two")].concat()
    },
];
