//! A stream of frames means the same for every cut, and what RFC 6455 says: the decoder is compared
//! with a slow one that looks at the whole stream. Decoded messages are encoded and decoded again.
//!
//! An input: one byte of settings, four sizes of chunks, the stream.

use super::input::{Input, Random, cut};
use ikisocket::protocol::{
    CloseCode, CloseFrame, Compressed, Decoded, Decoder, FrameHeader, Message, Opcode, Role, Rules,
    Violation, apply_mask, encode_close, encode_frame, frame_len,
};

/// What came out of a stream, and where the decoder stands behind it.
#[derive(Debug, PartialEq)]
struct Outcome {
    decoded: Vec<Decoded<'static>>,
    violation: Option<Violation>,
    is_idle: bool,
    buffered: usize,
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let rules = rules(input.byte());
    let sizes = input.array::<4>();
    let stream = input.rest();

    let expected = slow(stream, &rules);
    assert_eq!(decode(&[stream], &rules), expected, "in one piece");
    assert_eq!(decode(&cut(stream, &sizes), &rules), expected, "in chunks of {sizes:?}");
    if stream.len() < 2000 {
        assert_eq!(decode(&cut(stream, &[0]), &rules), expected, "byte by byte");
    }
    assert_survives_encoding(expected.decoded, &rules);
}

fn rules(settings: u8) -> Rules {
    Rules::default()
        .role(if settings & 1 == 0 { Role::Server } else { Role::Client })
        .compression(settings & 2 != 0)
        .max_message(
            [usize::MAX, 1 << 20, 70_000, 300, 125, 16, 1, 0][usize::from(settings >> 2 & 7)],
        )
        .max_empty_fragments([1000, 2, 1, 0][usize::from(settings >> 5 & 3)])
}

fn decode(chunks: &[&[u8]], rules: &Rules) -> Outcome {
    let mut decoder = Decoder::new();
    let mut decoded = Vec::new();
    let mut arrived = 0;
    let mut violation = None;
    'stream: for chunk in chunks {
        arrived += chunk.len();
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            let result = decoder.decode(&mut input, rules);
            match result {
                Ok(Some(next)) => {
                    assert!(
                        !matches!(decoded.last(), Some(Decoded::Close(_))),
                        "{next:?} after a Close frame"
                    );
                    decoded.push(owned(next));
                }
                Ok(None) => {
                    assert!(input.is_empty(), "None means that everything was consumed");
                    break;
                }
                Err(found) => {
                    assert_eq!(decoder.decode(&mut input, rules), Err(found), "failed for good");
                    violation = Some(found);
                    break 'stream;
                }
            }
        }
        assert!(decoder.buffered() <= arrived, "more is held than has arrived");
    }
    Outcome { decoded, violation, is_idle: decoder.is_idle(), buffered: decoder.buffered() }
}

fn owned(decoded: Decoded<'_>) -> Decoded<'static> {
    match decoded {
        Decoded::Message(Message::Text(text)) => Decoded::Message(text.into_owned().into()),
        Decoded::Message(Message::Binary(bytes)) => Decoded::Message(bytes.into_owned().into()),
        Decoded::Compressed(Compressed { is_text, payload }) => {
            Decoded::Compressed(Compressed { is_text, payload: payload.into_owned().into() })
        }
        Decoded::Ping(bytes) => Decoded::Ping(bytes.into_owned().into()),
        Decoded::Pong(bytes) => Decoded::Pong(bytes.into_owned().into()),
        Decoded::Close(close) => Decoded::Close(
            close.map(|c| CloseFrame { code: c.code, reason: c.reason.into_owned().into() }),
        ),
    }
}

/// What a server would write decodes to what it was for a client.
fn assert_survives_encoding(decoded: Vec<Decoded<'static>>, rules: &Rules) {
    let mut stream = Vec::new();
    for each in &decoded {
        let start = stream.len();
        match each {
            Decoded::Message(message) => {
                encode_frame(message.payload().opcode(), message.as_bytes(), &mut stream)
            }
            Decoded::Compressed(Compressed { is_text, payload }) => {
                let opcode = if *is_text { Opcode::Text } else { Opcode::Binary };
                encode_frame(opcode.compressed(), payload, &mut stream);
            }
            Decoded::Ping(bytes) => encode_frame(Opcode::Ping, bytes, &mut stream),
            Decoded::Pong(bytes) => encode_frame(Opcode::Pong, bytes, &mut stream),
            Decoded::Close(close) => {
                let mut payload = Vec::new();
                encode_close(
                    close.as_ref().map(|close| (close.code, &*close.reason)),
                    &mut payload,
                );
                encode_frame(Opcode::Close, &payload, &mut stream);
            }
        }
        assert_eq!(frame_len(&stream[start..]), Some(stream.len() - start));
    }
    let again = decode(&[&stream], &rules.role(Role::Client));
    assert_eq!((again.decoded, again.violation), (decoded, None), "encoded and decoded again");
}

/// A message of which fragments are missing.
struct Open {
    opcode: u8,
    compressed: bool,
    bytes: Vec<u8>,
    empty_fragments: u32,
}

/// RFC 6455 §5 to §8, one frame after the other from the beginning of the whole stream.
fn slow(stream: &[u8], rules: &Rules) -> Outcome {
    let mut decoded = Vec::new();
    let mut open = None;
    let mut rest = stream;
    let end = loop {
        match slow_frame(rest, &mut open, rules) {
            Ok(Some((len, what))) => {
                rest = &rest[len..];
                decoded.extend(what);
                if let Some(Decoded::Close(_)) = decoded.last() {
                    break Err(None);
                }
            }
            Ok(None) => break Ok(()),
            Err(violation) => break Err(Some(violation)),
        }
    };
    let (violation, is_idle, buffered) = match end {
        Ok(()) => {
            let begun = rest.len() - payload_of_data(rest);
            (
                None,
                rest.is_empty() && open.is_none(),
                begun + open.map_or(0, |open| open.bytes.len()),
            )
        }
        Err(violation) => (violation, false, 0),
    };
    Outcome { decoded, violation, is_idle, buffered }
}

/// Of an incomplete frame: how many bytes are no longer needed as such. The payload of a data frame
/// is counted in its message, headers are forgotten as soon as they are complete.
fn payload_of_data(rest: &[u8]) -> usize {
    match FrameHeader::parse(rest) {
        Ok(Some((header, header_len))) if header.opcode.is_control() => header_len,
        Ok(Some(_)) => rest.len(),
        _ => 0,
    }
}

/// The frame that `rest` begins with: its length and what is complete by it. `None`: it is not
/// there in full; what is there of its payload is then in `open`.
fn slow_frame(
    rest: &[u8],
    open: &mut Option<Open>,
    rules: &Rules,
) -> Result<Option<(usize, Option<Decoded<'static>>)>, Violation> {
    let [first, second, ..] = *rest else { return Ok(None) };
    let (fin, rsv, opcode) = (first >= 0x80, first >> 4 & 7, first & 15);
    let (masked, short_len) = (second >= 0x80, second & 127);
    let is_control = match opcode {
        0..=2 => false,
        8..=10 => true,
        _ => return Err(Violation::ReservedOpcode(opcode)),
    };
    if is_control && !fin {
        return Err(Violation::FragmentedControl);
    }
    if is_control && short_len > 125 {
        return Err(Violation::ControlTooLong);
    }
    let compressed = rsv == 4 && rules.compression && (opcode == 1 || opcode == 2);
    if rsv != 0 && !compressed {
        return Err(Violation::ReservedBits);
    }
    match rules.role {
        Role::Server if !masked => return Err(Violation::Unmasked),
        Role::Client if masked => return Err(Violation::Masked),
        _ => {}
    }
    if opcode == 0 && open.is_none() {
        return Err(Violation::UnexpectedContinuation);
    }
    if (opcode == 1 || opcode == 2) && open.is_some() {
        return Err(Violation::ExpectedContinuation);
    }

    let width = match short_len {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(long_len) = rest.get(2..2 + width) else { return Ok(None) };
    let long_len = long_len.iter().fold(0_u64, |len, &byte| len << 8 | u64::from(byte));
    let len = match width {
        0 => u64::from(short_len),
        2 if long_len < 126 => return Err(Violation::LengthNotMinimal),
        8 if long_len < 65_536 => return Err(Violation::LengthNotMinimal),
        8 if long_len >> 63 == 1 => return Err(Violation::LengthOverflow),
        _ => long_len,
    };
    let header_len = 2 + width + if masked { 4 } else { 0 };
    let Some(key) = rest.get(2 + width..header_len) else { return Ok(None) };
    let key = if masked { key } else { &[0] };

    let there = &rest[header_len..];
    let is_whole = there.len() as u64 >= len;
    let there = if is_whole { &there[..len as usize] } else { there };
    let payload: Vec<u8> =
        there.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let frame_len = header_len + payload.len();

    if is_control {
        let decoded =
            if is_whole { Some((frame_len, Some(slow_control(opcode, payload)?))) } else { None };
        return Ok(decoded);
    }
    let message =
        open.get_or_insert(Open { opcode, compressed, bytes: Vec::new(), empty_fragments: 0 });
    let mut limit = rules.max_message as u128;
    if message.compressed {
        limit += limit / 8 + 1024;
    }
    if message.bytes.len() as u128 + u128::from(len) > limit.min(usize::MAX as u128) {
        return Err(Violation::MessageTooBig { limit: rules.max_message });
    }
    if len == 0 && !(fin && opcode != 0) {
        message.empty_fragments += 1;
        if message.empty_fragments > rules.max_empty_fragments {
            return Err(Violation::TooManyEmptyFragments { limit: rules.max_empty_fragments });
        }
    }
    message.bytes.extend(payload);
    let is_plain_text = message.opcode == 1 && !message.compressed;
    match str::from_utf8(&message.bytes) {
        // A character that is only begun may go on in the next fragment, if there is one.
        Err(error) if is_plain_text && (error.error_len().is_some() || is_whole && fin) => {
            return Err(Violation::InvalidUtf8);
        }
        _ => {}
    }
    if !is_whole {
        return Ok(None);
    }
    let done = if fin { open.take() } else { None };
    let decoded = done.map(|Open { opcode, compressed, bytes, .. }| match (compressed, opcode) {
        (true, _) => {
            Decoded::Compressed(Compressed { is_text: opcode == 1, payload: bytes.into() })
        }
        (false, 1) => Decoded::Message(String::from_utf8(bytes).expect("it was checked").into()),
        (false, _) => Decoded::Message(bytes.into()),
    });
    Ok(Some((frame_len, decoded)))
}

fn slow_control(opcode: u8, payload: Vec<u8>) -> Result<Decoded<'static>, Violation> {
    Ok(match (opcode, &payload[..]) {
        (9, _) => Decoded::Ping(payload.into()),
        (10, _) => Decoded::Pong(payload.into()),
        (_, []) => Decoded::Close(None),
        (_, [_]) => return Err(Violation::CloseFrameTooShort),
        (_, [high, low, reason @ ..]) => {
            let code = u16::from(*high) * 256 + u16::from(*low);
            // §7.4, and the registry of IANA.
            if code < 1000
                || (1004..=1006).contains(&code)
                || (1015..3000).contains(&code)
                || code > 4999
            {
                return Err(Violation::InvalidCloseCode(code));
            }
            let reason = String::from_utf8(reason.to_vec()).map_err(|_| Violation::InvalidUtf8)?;
            Decoded::Close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() }))
        }
    })
}

/// A stream of frames that are mostly right.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let settings = if random.one_in(3) { random.byte() } else { random.byte() & 0b0000_1011 };
    let mut data = vec![settings];
    let largest = random.pick(&[1, 4, 40, 256]);
    data.extend((0..4).map(|_| random.below(largest) as u8));
    let mut is_open = false;
    for _ in 0..=random.below(8) {
        let is_control = random.one_in(4);
        let is_odd = random.one_in(30);
        let fin = is_control || random.one_in(2);
        let opcode = if is_control {
            random.pick(&[Opcode::Ping, Opcode::Pong, Opcode::Ping, Opcode::Pong, Opcode::Close])
        } else if is_open {
            Opcode::Continuation
        } else {
            random.pick(&[Opcode::Text, Opcode::Binary])
        };
        if !is_control {
            is_open = !fin;
        }
        let payload = payload(random, opcode);
        let key = random.pick(&[[0; 4], [1, 2, 3, 4], [0x37, 0xfa, 0x21, 0x3d]]);
        let is_masked = (settings & 1 == 0) != (is_odd && random.one_in(4));
        let header = FrameHeader {
            fin: fin != (is_odd && random.one_in(4)),
            rsv1: settings & 2 != 0
                && !is_control
                && opcode != Opcode::Continuation
                && random.one_in(2),
            rsv2: is_odd && random.one_in(4),
            mask: is_masked.then_some(key),
            ..FrameHeader::new(opcode, payload.len() as u64)
        };
        header.encode(&mut data);
        let start = data.len();
        data.extend(payload);
        if let Some(key) = header.mask {
            apply_mask(&mut data[start..], key, 0);
        }
    }
    if random.one_in(2) {
        random.damage(&mut data);
    }
    data
}

fn payload(random: &mut Random, opcode: Opcode) -> Vec<u8> {
    let len = match random.below(30) {
        0 => 125 + random.below(3),
        1 if random.one_in(8) => 65_535 + random.below(2),
        2..=8 => 0,
        _ => random.below(40),
    };
    let len = if opcode.is_control() { len.min(125) } else { len };
    match opcode {
        Opcode::Close if len >= 2 => {
            let mut payload = random
                .pick(&[1000_u16, 1001, 1004, 1005, 1014, 1015, 3000, 4999, 5000])
                .to_be_bytes()
                .to_vec();
            payload.extend("bye é".bytes().take(len - 2));
            payload
        }
        Opcode::Binary => random.bytes(len),
        // Cut anywhere, so that the next fragment has to go on inside a character.
        _ => "aé水😀z\u{10ffff}".bytes().cycle().skip(random.below(14)).take(len).collect(),
    }
}
