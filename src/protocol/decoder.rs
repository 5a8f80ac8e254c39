//! Decodes received bytes into whole messages and control frames (RFC 6455 §5.4–§5.6, §8.1). It
//! knows no socket, no clock and no connection. Its input is whatever arrived, in any pieces; its
//! output is whatever is complete.

use super::assembly::Assembly;
use super::frame::{HeaderStart, KEY_LEN};
use super::message::interpret;
use super::{
    Compressed, Decoded, FrameHeader, Opcode, Payload, Rules, Violation, apply_mask, text,
};
use std::borrow::Cow;

/// Decodes the stream of one connection.
///
/// A decoder is one pointer wide and holds no memory between messages: it keeps only the bytes of
/// something incomplete. Frames that arrive whole are unmasked in place and returned as borrowed
/// data, without a copy or an allocation.
///
/// ```
/// use ikisocket::protocol::{Decoded, Decoder, Message, Role, Rules};
///
/// let rules = Rules::default().role(Role::Client);
/// let mut decoder = Decoder::new();
///
/// let mut received = *b"\x89\x01!\x81\x05hel"; // a ping, and the beginning of a text message
/// let mut input = &mut received[..];
/// assert_eq!(decoder.decode(&mut input, &rules), Ok(Some(Decoded::Ping(b"!".into()))));
/// assert_eq!(decoder.decode(&mut input, &rules), Ok(None));
///
/// let mut received = *b"lo";
/// let mut input = &mut received[..];
/// let hello = Decoded::Message(Message::from("hello"));
/// assert_eq!(decoder.decode(&mut input, &rules), Ok(Some(hello)));
/// assert!(decoder.is_idle());
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    /// `None` between messages, so that an idle connection costs one word.
    state: Option<Box<State>>,
}

#[derive(Debug)]
enum State {
    /// The stream is in the middle of a message, or of a frame.
    Assembling(Assembly),
    /// A violation was found: the stream cannot be understood any more.
    Failed(Violation),
    /// The peer's Close frame was decoded.
    Closed,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: None }
    }

    /// Takes the bytes of the next complete unit from the front of `input`, and returns that unit.
    ///
    /// `Ok(None)` means that all of `input` was consumed, and the decoder keeps the bytes of
    /// anything incomplete. Call it until then. `input` is advanced, and unmasking overwrites the
    /// bytes that were consumed.
    ///
    /// After a Close frame all further input is consumed and ignored (RFC 6455 §5.5.1).
    ///
    /// # Errors
    ///
    /// A [`Violation`], at the first byte that decides it: a header's first two bytes, its length,
    /// or the first byte that is not UTF-8, even if the frame is incomplete. Every later call
    /// returns the same violation. It is not specified how much of `input` was then consumed.
    #[inline]
    pub fn decode<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: &Rules,
    ) -> Result<Option<Decoded<'i>>, Violation> {
        if self.state.is_none()
            && let Some((header, payload)) = take_whole_frame(input, rules)
        {
            let payload = Cow::Borrowed(&*payload);
            if header.rsv1 {
                let is_text = header.opcode == Opcode::Text;
                return Ok(Some(Decoded::Compressed(Compressed { is_text, payload })));
            }
            let result = interpret(header.opcode, payload);
            match &result {
                Err(violation) => self.end(State::Failed(*violation)),
                Ok(Decoded::Close(_)) => self.end(State::Closed),
                Ok(_) => {}
            }
            return result.map(Some);
        }
        self.decode_in_pieces(input, rules)
    }

    /// The message at the front of `input`, if it is there whole, in one frame, and not compressed.
    /// The result is the same as that of [`decode`](Self::decode), in half as many instructions. In
    /// all other cases nothing is consumed.
    #[inline]
    pub(crate) fn whole_message<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: &Rules,
    ) -> Option<Result<Payload<'i>, Violation>> {
        if self.state.is_some() {
            return None;
        }
        let start = HeaderStart::of_message(input, rules.role)?;
        let payload = match start.short_masked_len() {
            Some(len) if len <= rules.max_message => take_short_frame(input, len)?,
            _ => take_frame(input, start, rules)?.1,
        };
        if start.opcode == Opcode::Binary {
            return Some(Ok(Payload::Binary(payload)));
        }
        match text::check(payload) {
            Ok(text) => Some(Ok(Payload::Text(text))),
            Err(violation) => {
                self.end(State::Failed(violation));
                Some(Err(violation))
            }
        }
    }

    /// Decodes everything that is not a whole frame between messages, and everything illegal.
    #[inline(never)]
    fn decode_in_pieces<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: &Rules,
    ) -> Result<Option<Decoded<'i>>, Violation> {
        if self.state.is_none() && input.is_empty() {
            return Ok(None);
        }
        let state =
            self.state.get_or_insert_with(|| Box::new(State::Assembling(Assembly::default())));
        let assembly = match &mut **state {
            State::Assembling(assembly) => assembly,
            State::Failed(violation) => return Err(*violation),
            State::Closed => {
                *input = &mut [];
                return Ok(None);
            }
        };
        let result = assembly.advance(input, rules);
        match &result {
            Err(violation) => **state = State::Failed(*violation),
            Ok(Some(Decoded::Close(_))) => **state = State::Closed,
            Ok(_) if assembly.is_empty() => self.state = None,
            Ok(_) => {}
        }
        result
    }

    #[cold]
    fn end(&mut self, state: State) {
        self.state = Some(Box::new(state));
    }

    /// Whether the stream is between two messages: no frame and no message has begun, and it has
    /// not ended by a Close frame or a violation. Then the decoder holds no memory.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state.is_none()
    }

    /// The number of received bytes that are held: of incomplete headers, payloads and messages.
    /// Capacity reserved for their growth is not counted; it is at most about the same number
    /// again.
    #[must_use]
    pub fn buffered(&self) -> usize {
        match self.state.as_deref() {
            Some(State::Assembling(assembly)) => assembly.buffered(),
            Some(State::Failed(_) | State::Closed) | None => 0,
        }
    }
}

/// The next frame of `input`, unmasked, if it is unfragmented, legal, and there in full. In all
/// other cases `input` stays unchanged, and [`Assembly`] finds out what is wrong or missing.
#[inline]
fn take_whole_frame<'i>(
    input: &mut &'i mut [u8],
    rules: &Rules,
) -> Option<(FrameHeader, &'i mut [u8])> {
    let start = HeaderStart::parse(input).ok()??;
    start.check(rules, false).ok()?;
    take_frame(input, start, rules)
}

/// The payload of a masked frame of at most 125 bytes, unmasked, if the frame is there in full.
/// [`take_frame`] takes 20 instructions more for such a frame.
#[inline]
fn take_short_frame<'i>(input: &mut &'i mut [u8], len: usize) -> Option<&'i mut [u8]> {
    let frame = input.split_off_mut(..HeaderStart::LEN + KEY_LEN + len)?;
    let (key, payload) = frame[HeaderStart::LEN..].split_first_chunk_mut()?;
    apply_mask(payload, *key, 0);
    Some(payload)
}

/// The same as [`take_whole_frame`] for a frame whose start was read and is legal.
#[inline]
fn take_frame<'i>(
    input: &mut &'i mut [u8],
    start: HeaderStart,
    rules: &Rules,
) -> Option<(FrameHeader, &'i mut [u8])> {
    let (header, header_len) = start.parse_rest(input).ok()??;
    let most = rules.max_message.min(input.len() - header_len);
    if !header.fin || header.len > most as u64 {
        return None;
    }
    let frame = input.split_off_mut(..header_len + header.len as usize)?;
    let payload = &mut frame[header_len..];
    if let Some(key) = header.mask {
        apply_mask(payload, key, 0);
    }
    Some((header, payload))
}

#[cfg(test)]
mod tests {
    use super::Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    use super::*;
    use crate::protocol::assembly::{Body, OpenMessage};
    use crate::protocol::{CloseCode, CloseFrame, FrameHeader, Message, Role, encode_close};

    const KEY: [u8; 4] = [0x11, 0x82, 0x7f, 0xe0];
    const LAST: bool = true;
    const MORE: bool = false;

    /// One frame as a client sends it.
    fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        frame_to(Role::Server, opcode, fin, payload)
    }

    /// One frame as `role` expects it.
    fn frame_to(role: Role, opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mask = (role == Role::Server).then_some(KEY);
        let header = FrameHeader { fin, mask, ..FrameHeader::new(opcode, payload.len() as u64) };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.extend_from_slice(payload);
        apply_mask(&mut bytes[header.encoded_len()..], mask.unwrap_or_default(), 0);
        bytes
    }

    fn close_frame(code: u16, reason: &str) -> Vec<u8> {
        let mut payload = Vec::new();
        encode_close(Some((code.into(), reason)), &mut payload);
        frame(Close, LAST, &payload)
    }

    fn text(text: &str) -> Decoded<'static> {
        Decoded::Message(Message::from(text.to_owned()))
    }

    fn binary(bytes: &[u8]) -> Decoded<'static> {
        Decoded::Message(Message::from(bytes.to_owned()))
    }

    fn ping(bytes: &[u8]) -> Decoded<'static> {
        Decoded::Ping(bytes.to_owned().into())
    }

    fn owned(decoded: Decoded<'_>) -> Decoded<'static> {
        match decoded {
            Decoded::Message(Message::Text(text)) => Decoded::Message(text.into_owned().into()),
            Decoded::Message(Message::Binary(bytes)) => Decoded::Message(bytes.into_owned().into()),
            Decoded::Ping(bytes) => Decoded::Ping(bytes.into_owned().into()),
            Decoded::Pong(bytes) => Decoded::Pong(bytes.into_owned().into()),
            Decoded::Compressed(Compressed { is_text, payload }) => {
                Decoded::Compressed(Compressed { is_text, payload: payload.into_owned().into() })
            }
            Decoded::Close(close) => Decoded::Close(
                close.map(|c| CloseFrame { code: c.code, reason: c.reason.into_owned().into() }),
            ),
        }
    }

    type Step<'i> = Result<Option<Decoded<'i>>, Violation>;

    /// Everything that comes out of a stream: the decoded units, and the violation if there was
    /// one.
    type Outcome = (Vec<Decoded<'static>>, Option<Violation>);

    /// Feeds `chunk` and collects the outcome.
    fn feed(decoder: &mut Decoder, chunk: &[u8], rules: &Rules) -> Outcome {
        feed_by(decoder, chunk, |decoder, input| decoder.decode(input, rules))
    }

    /// The same for a decoder that is asked for whole messages first.
    fn feed_messages(decoder: &mut Decoder, chunk: &[u8], rules: &Rules) -> Outcome {
        feed_by(decoder, chunk, |decoder, input| {
            let before = input.len();
            match decoder.whole_message(input, rules) {
                Some(result) => result.map(|message| Some(Decoded::Message(message.into()))),
                None => {
                    assert_eq!(input.len(), before, "nothing is taken");
                    decoder.decode(input, rules)
                }
            }
        })
    }

    fn feed_by(
        decoder: &mut Decoder,
        chunk: &[u8],
        mut decode: impl for<'i> FnMut(&mut Decoder, &mut &'i mut [u8]) -> Step<'i>,
    ) -> Outcome {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        let mut decoded = Vec::new();
        loop {
            match decode(decoder, &mut input) {
                Ok(Some(next)) => decoded.push(owned(next)),
                Ok(None) => {
                    assert!(input.is_empty(), "None means that everything was consumed");
                    return (decoded, None);
                }
                Err(violation) => {
                    assert_eq!(decode(decoder, &mut input), Err(violation), "failed for good");
                    return (decoded, Some(violation));
                }
            }
        }
    }

    /// Feeds a stream in chunks of the sizes that `size` gives.
    fn outcome_in(stream: &[u8], rules: &Rules, mut size: impl FnMut() -> usize) -> Outcome {
        let mut decoder = Decoder::new();
        let (mut rest, mut all) = (stream, Vec::new());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(size().min(rest.len()));
            rest = later;
            let (decoded, violation) = feed(&mut decoder, chunk, rules);
            all.extend(decoded);
            if violation.is_some() {
                return (all, violation);
            }
        }
        (all, None)
    }

    /// The outcome of a stream, which is the same for every cut of it.
    fn outcome(stream: &[u8], rules: &Rules) -> Outcome {
        let whole = outcome_in(stream, rules, || usize::MAX);
        assert_eq!(feed_messages(&mut Decoder::new(), stream, rules), whole, "whole messages");
        for size in [1, 2, 3, 5, 7, 13, 14, 15, 64, 1000] {
            assert_eq!(outcome_in(stream, rules, || size), whole, "in chunks of {size}");
        }
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..20 {
            let size = || {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                1 + (random % 23) as usize
            };
            assert_eq!(outcome_in(stream, rules, size), whole, "in random chunks");
        }
        whole
    }

    /// Asserts that the stream fails with `violation` when its byte number `decisive` (from 1)
    /// arrives, and not before.
    fn assert_fails_at(stream: &[u8], decisive: usize, violation: Violation, rules: &Rules) {
        let mut decoder = Decoder::new();
        for (i, byte) in stream.iter().enumerate() {
            let (_, found) = feed(&mut decoder, &[*byte], rules);
            let expected = (i + 1 >= decisive).then_some(violation);
            assert_eq!(found, expected, "at byte {} of {stream:x?}", i + 1);
        }
        assert!(!decoder.is_idle());
        assert_eq!(decoder.buffered(), 0, "a failed decoder keeps nothing");
        assert_eq!(outcome(stream, rules).1, Some(violation));
    }

    #[test]
    fn a_decoder_is_one_pointer_wide() {
        assert_eq!(size_of::<Decoder>(), size_of::<usize>());
    }

    #[test]
    fn every_length_survives_in_both_roles() {
        for role in [Role::Server, Role::Client] {
            let rules = Rules::default().role(role);
            for len in [0, 1, 63, 64, 125, 126, 127, 65_535, 65_536] {
                let payload = vec![b'a'; len];
                let stream = [
                    frame_to(role, Binary, LAST, &payload),
                    frame_to(role, Text, LAST, &payload),
                    frame_to(role, Text, MORE, &payload),
                    frame_to(role, Continuation, LAST, &payload),
                ]
                .concat();
                let string = String::from_utf8(payload.clone()).unwrap();
                let expected = vec![binary(&payload), text(&string), text(&string.repeat(2))];
                assert_eq!(outcome(&stream, &rules), (expected, None), "{role:?} {len}");
            }
        }
    }

    #[test]
    fn a_whole_frame_is_borrowed_from_the_input() {
        let rules = Rules::default();
        let mut stream = [
            frame(Text, LAST, b"hello"),
            frame(Ping, LAST, b"!"),
            frame(Binary, MORE, b"1"),
            frame(Pong, LAST, b"?"), // even between fragments
            close_frame(1000, "bye"),
        ]
        .concat();
        let mut input = &mut stream[..];
        let mut decoder = Decoder::new();
        let mut next = || decoder.decode(&mut input, &rules).unwrap().unwrap();
        assert!(matches!(next(), Decoded::Message(Message::Text(Cow::Borrowed("hello")))));
        assert!(matches!(next(), Decoded::Ping(Cow::Borrowed(b"!"))));
        assert!(matches!(next(), Decoded::Pong(Cow::Borrowed(b"?"))));
        assert!(matches!(
            next(),
            Decoded::Close(Some(CloseFrame { reason: Cow::Borrowed("bye"), .. }))
        ));
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let stream = [
            frame(Ping, LAST, b"before"),
            frame(Text, MORE, "hé".as_bytes()),
            frame(Ping, LAST, b"1"),
            frame(Continuation, MORE, b""),
            frame(Pong, LAST, &[7; 125]),
            frame(Ping, LAST, b""),
            frame(Continuation, LAST, "llo".as_bytes()),
            frame(Binary, LAST, b"next"),
        ]
        .concat();
        let expected = vec![
            ping(b"before"),
            ping(b"1"),
            Decoded::Pong(vec![7; 125].into()),
            ping(b""),
            text("héllo"),
            binary(b"next"),
        ];
        assert_eq!(outcome(&stream, &Rules::default()), (expected, None));
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let rules = Rules::default();
        let mut decoder = Decoder::new();
        let stream = [
            frame(Text, MORE, b"hello "),
            frame(Ping, LAST, b"now"),
            frame(Continuation, LAST, b"world"),
            frame(Ping, LAST, b"alone"),
        ]
        .concat();
        assert!(decoder.is_idle());
        let mut completed = 0;
        for byte in stream {
            let (decoded, _) = feed(&mut decoder, &[byte], &rules);
            completed += decoded.len();
            let message_is_open = completed < 2;
            if !decoded.is_empty() {
                assert_eq!(decoder.is_idle(), !message_is_open);
            }
        }
        assert_eq!(completed, 3);
        assert!(decoder.is_idle());
    }

    #[test]
    fn only_what_arrived_is_held() {
        let rules = Rules::default().max_message(usize::MAX);
        let mut decoder = Decoder::new();
        assert_eq!(feed(&mut decoder, &[], &rules), (vec![], None));
        assert!(decoder.is_idle());
        let huge = FrameHeader { mask: Some(KEY), ..FrameHeader::new(Binary, isize::MAX as u64) };
        let mut header = Vec::new();
        huge.encode(&mut header);
        feed(&mut decoder, &header[..13], &rules);
        assert_eq!(decoder.buffered(), 13);
        feed(&mut decoder, &header[13..], &rules);
        assert_eq!(decoder.buffered(), 0);
        feed(&mut decoder, &[0; 100], &rules);
        assert_eq!(decoder.buffered(), 100);
        match decoder.state.as_deref() {
            Some(State::Assembling(Assembly {
                message: Some(OpenMessage { body: Body::Binary(bytes), .. }),
                ..
            })) => assert!(bytes.capacity() <= 200),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn violations_are_found_at_the_first_byte_that_decides_them() {
        let server = Rules::default();
        let client = server.role(Role::Client);
        let alter = |mut frame: Vec<u8>, first: u8, second: u8| {
            frame[0] ^= first;
            frame[1] ^= second;
            frame
        };
        for rsv in [0x10, 0x20, 0x40, 0x70] {
            let stream = alter(frame(Text, LAST, b"hello"), rsv, 0);
            assert_fails_at(&stream, 2, Violation::ReservedBits, &server);
        }
        for opcode in (3..=7).chain(11..=15) {
            let stream = alter(frame(Continuation, LAST, b"hello"), opcode, 0);
            assert_fails_at(&stream, 2, Violation::ReservedOpcode(opcode), &server);
        }
        for opcode in [Text, Binary, Close, Ping, Pong] {
            let unmasked = frame_to(Role::Client, opcode, LAST, b"");
            assert_fails_at(&unmasked, 2, Violation::Unmasked, &server);
            let masked = frame(opcode, LAST, b"");
            assert_fails_at(&masked, 2, Violation::Masked, &client);
        }
        for opcode in [Close, Ping, Pong] {
            let stream = frame(opcode, MORE, b"hello");
            assert_fails_at(&stream, 2, Violation::FragmentedControl, &server);
            let stream = frame(opcode, LAST, &[0; 126]);
            assert_fails_at(&stream, 2, Violation::ControlTooLong, &server);
        }
        for fin in [LAST, MORE] {
            let stream = frame(Continuation, fin, b"hello");
            assert_fails_at(&stream, 2, Violation::UnexpectedContinuation, &server);
            for opcode in [Text, Binary] {
                let first = frame(Text, MORE, b"hello");
                let stream = [&first[..], &frame(opcode, fin, b"again")].concat();
                assert_fails_at(&stream, first.len() + 2, Violation::ExpectedContinuation, &server);
            }
        }
        let stream = [0x82, 0x80 | 126, 0, 125, 1, 2, 3, 4, 5];
        assert_fails_at(&stream, 4, Violation::LengthNotMinimal, &server);
        let stream = [0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4, 5];
        assert_fails_at(&stream, 10, Violation::LengthNotMinimal, &server);
        let stream = [0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5];
        assert_fails_at(&stream, 10, Violation::LengthOverflow, &server);
    }

    #[test]
    fn a_message_of_the_limit_passes_and_one_byte_more_fails_at_its_header() {
        let rules = Rules::default().max_message(10);
        let too_big = Violation::MessageTooBig { limit: 10 };
        let ten = [
            frame(Binary, LAST, &[7; 10]),
            frame(Text, MORE, b"seven.."),
            frame(Ping, LAST, &[7; 125]), // counts for nothing
            frame(Continuation, LAST, b"and"),
        ]
        .concat();
        let expected = vec![binary(&[7; 10]), ping(&[7; 125]), text("seven..and")];
        assert_eq!(outcome(&ten, &rules), (expected, None));

        assert_fails_at(&frame(Binary, LAST, &[7; 11]), 6, too_big, &rules);
        assert_fails_at(&frame(Text, MORE, &[7; 200]), 8, too_big, &rules);
        let first = frame(Text, MORE, b"ten bytes.");
        let stream = [&first[..], &frame(Continuation, LAST, b"1")].concat();
        assert_fails_at(&stream, first.len() + 6, too_big, &rules);
        let huge = [0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4];
        assert_fails_at(&huge, 14, too_big, &rules);
    }

    #[test]
    fn a_thousand_empty_fragments_pass_and_one_more_fails() {
        let rules = Rules::default();
        let fragments = |empty: usize| {
            let mut stream = frame(Text, MORE, b"");
            for _ in 1..empty {
                stream.extend(frame(Continuation, MORE, b""));
            }
            stream
        };
        let end = frame(Continuation, LAST, b"end");
        let stream = [&fragments(1000)[..], &end].concat();
        assert_eq!(outcome(&stream, &rules), (vec![text("end")], None));

        let too_many = Violation::TooManyEmptyFragments { limit: 1000 };
        assert_fails_at(&fragments(1001), 1001 * 6, too_many, &rules);
        let empty_to_the_end = [fragments(1000), frame(Continuation, LAST, b"")].concat();
        assert_fails_at(&empty_to_the_end, 1001 * 6, too_many, &rules);
        let too_many = Violation::TooManyEmptyFragments { limit: 2 };
        assert_fails_at(&fragments(3), 3 * 6, too_many, &rules.max_empty_fragments(2));

        let unfragmented = frame(Text, LAST, b"").repeat(2000);
        assert_eq!(outcome(&unfragmented, &rules).0.len(), 2000);
    }

    #[test]
    fn the_number_of_other_fragments_is_not_limited() {
        let mut stream = frame(Binary, MORE, b"x");
        for _ in 1..65_536 {
            stream.extend(frame(Continuation, MORE, b"x"));
        }
        stream.extend(frame(Continuation, LAST, b"x"));
        let expected = (vec![binary(&[b'x'; 65_537])], None);
        let rules = Rules::default();
        assert_eq!(outcome_in(&stream, &rules, || usize::MAX), expected);
        assert_eq!(outcome_in(&stream, &rules, || 1), expected);
    }

    #[test]
    fn text_may_be_fragmented_inside_a_character() {
        let string = "aé水😀z";
        for i in 0..=string.len() {
            for j in i..=string.len() {
                let bytes = string.as_bytes();
                let stream = [
                    frame(Text, MORE, &bytes[..i]),
                    frame(Ping, LAST, b""),
                    frame(Continuation, MORE, &bytes[i..j]),
                    frame(Continuation, LAST, &bytes[j..]),
                ]
                .concat();
                let expected = (vec![ping(b""), text(string)], None);
                assert_eq!(outcome(&stream, &Rules::default()), expected);
            }
        }
    }

    #[test]
    fn invalid_text_fails_at_its_first_bad_byte_even_in_the_middle_of_a_frame() {
        let rules = Rules::default();
        // A surrogate after "κόσμε": its second byte decides, 12 bytes into the payload.
        let payload = b"\xce\xba\xcf\x8c\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
        let stream = frame(Text, LAST, payload);
        assert_fails_at(&stream, 6 + 12, Violation::InvalidUtf8, &rules);

        let first = frame(Text, MORE, &payload[..11]);
        let stream = [&first[..], &frame(Continuation, LAST, &payload[11..])].concat();
        assert_fails_at(&stream, first.len() + 6 + 1, Violation::InvalidUtf8, &rules);

        let unfinished = frame(Text, LAST, b"abc\xe6\xb0");
        assert_fails_at(&unfinished, unfinished.len(), Violation::InvalidUtf8, &rules);

        let binary_is_not_text = frame(Binary, LAST, payload);
        assert_eq!(outcome(&binary_is_not_text, &rules), (vec![binary(payload)], None));
    }

    #[test]
    fn a_close_frame_is_checked() {
        let rules = Rules::default();
        let close = |close| (vec![Decoded::Close(close)], None);
        assert_eq!(outcome(&frame(Close, LAST, b""), &rules), close(None));

        let reason = "é".repeat(61) + "!";
        let expected = CloseFrame { code: CloseCode::NORMAL, reason: reason.clone().into() };
        assert_eq!(outcome(&close_frame(1000, &reason), &rules), close(Some(expected)));

        let one_byte = frame(Close, LAST, &[3]);
        assert_fails_at(&one_byte, 7, Violation::CloseFrameTooShort, &rules);
        let not_utf8 = frame(Close, LAST, b"\x03\xe8\xff..");
        assert_fails_at(&not_utf8, 11, Violation::InvalidUtf8, &rules);
        for code in 0..=u16::MAX {
            let code = CloseCode::from(code);
            let found = outcome_in(&close_frame(code.into(), ""), &rules, || usize::MAX);
            if code.is_sendable() {
                assert_eq!(found, close(Some(CloseFrame { code, reason: "".into() })));
            } else {
                assert_eq!(found, (vec![], Some(Violation::InvalidCloseCode(code.into()))));
            }
        }
    }

    #[test]
    fn nothing_is_decoded_after_a_close_frame() {
        let close = CloseFrame { code: CloseCode::GOING_AWAY, reason: "".into() };
        for before in [frame(Text, LAST, b"1"), frame(Text, MORE, b"1")] {
            let whole = usize::from(before[0] & 0x80 != 0);
            let stream = [
                &before[..],
                &close_frame(1001, ""),
                &frame(Text, LAST, b"too late"),
                b"and not even frames \xff\xff\xff",
            ]
            .concat();
            let (decoded, violation) = outcome(&stream, &Rules::default());
            assert_eq!(violation, None);
            assert_eq!(decoded[whole..], [Decoded::Close(Some(close.clone()))]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = 1_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..500 {
            // Small numbers are likely to be opcodes and lengths, so that more than the first byte
            // is looked at.
            let stream: Vec<u8> = (0..64)
                .map(|_| match next() % 4 {
                    0 => next() as u8,
                    1 => 0x80 | (next() % 11) as u8,
                    2 => (next() % 3) as u8,
                    _ => 0x80 | (next() % 128) as u8,
                })
                .collect();
            for role in [Role::Server, Role::Client] {
                outcome(&stream, &Rules::default().role(role).max_message(usize::MAX));
            }
        }
    }
}
