//! Three promises:
//!
//! - A compressed message decompresses to itself at every window and level. A slow inflater agrees,
//!   and sees how far back the stream refers.
//! - Any input decompresses to at most the limit, in at most that memory. The slow inflater agrees
//!   on the output, and on whether the stream ends where it may.
//! - A slow reader of RFC 7692 §7.1 agrees on each offer.
//!
//! An input: one byte that says which of these three it is for, one for the window, one for the
//! level or the limit, and the rest.

use super::input::{Input, Random, cut};
use super::slow_inflate::{Fault, SlowInflate};
use ikisocket::http::{DeflateParams, HeadLimits, Request, agree_on_deflate};
use ikisocket::protocol::{
    Decoded, Decoder, Deflater, Inflater, Opcode, Role, Rules, Violation, encode_frame,
};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let bits = 9 + input.byte() % 7;
    let size = input.byte();
    match kind % 3 {
        0 => inflate(bits, [0, 1, 100, 511, 512, 513, 5000, 200_000][usize::from(size % 8)], input),
        1 => there_and_back(bits, 1 + size % 9, input),
        _ => offers(bits, 9 + size % 7, input),
    }
}

// ---- whatever arrives ----

/// Messages of one connection, each behind its length in two bytes.
fn inflate(bits: u8, limit: usize, mut input: Input<'_>) {
    let mut inflater = Inflater::new(bits);
    let mut slow = SlowInflate::default();
    while !input.is_empty() {
        let len = usize::from(u16::from_be_bytes(input.array()));
        let payload = input.take(len);
        let mut out = Vec::new();
        let result = inflater.inflate(payload, limit, &mut out);
        assert!(out.capacity() <= limit + 1, "{} bytes for a limit of {limit}", out.capacity());
        let expected = slow.message(payload, limit);
        // Bytes that lie outside of the window may still be there, or not; but nothing else may
        // stand in their place.
        let is_far = slow.farthest > 1 << bits;
        // Where a block ends with what is taken at once, that is not seen.
        let allowed = 1000 + (payload.len() + out.len()) / 128;
        match (result, expected) {
            (Ok(()), Ok(start)) => {
                assert!(out == slow.out[start..], "something else came out");
                assert!(slow.blocks < allowed + 40, "{} blocks", slow.blocks);
            }
            (Err(Violation::InvalidDeflate), Ok(_)) => assert!(is_far, "refused without a reason"),
            (Err(Violation::InvalidDeflate), Err(_)) => {}
            (Err(Violation::MessageTooBig { limit: named }), Err(Fault::TooLong)) => {
                assert_eq!((named, out.len()), (limit, limit + 1));
            }
            (Err(Violation::TooManyBlocks { limit }), _) => {
                assert!(slow.blocks > limit.min(allowed))
            }
            other => panic!("{other:?}"),
        }
        if result.is_err() {
            return;
        }
    }
}

// ---- there and back ----

fn there_and_back(bits: u8, level: u8, mut input: Input<'_>) {
    let mut deflater = Deflater::new(level, bits);
    let (mut inflater, mut wide) = (Inflater::new(bits), Inflater::new(15));
    let mut slowest = SlowInflate::default();
    let sizes = input.array::<3>();
    let mut before = Vec::new();
    for _ in 0..8 {
        if input.is_empty() {
            return;
        }
        let settings = input.byte();
        let keep = settings & 1 != 0;
        let message = message(settings >> 4, &before, &mut input);
        let mut wire = vec![7];
        deflater.deflate(&message, keep, &mut wire);
        assert_eq!(wire.remove(0), 7, "it is appended");
        assert!(
            wire.len() <= message.len() + message.len() / 8 + 1024,
            "{} of {}",
            wire.len(),
            message.len()
        );

        let frames = framed(&wire, settings & 2 != 0);
        let rules =
            Rules::default().role(Role::Client).compression(true).max_message(message.len());
        let arrived = decoded(&cut(&frames, &sizes), &rules);
        assert_eq!(arrived, wire);
        for inflater in [&mut inflater, &mut wide] {
            let mut out = b"before".to_vec();
            assert_eq!(inflater.inflate(&arrived, message.len(), &mut out), Ok(()));
            assert!(
                out == [b"before", &message[..]].concat(),
                "{} bytes are others",
                message.len()
            );
        }
        // A look at every bit takes its time.
        if slowest.out.len() + message.len() < 20_000 {
            let start = slowest.message(&wire, message.len()).expect("it is whole");
            assert!(slowest.out[start..] == message);
            assert!(
                slowest.farthest <= 1 << bits,
                "{} bytes back in a window of {bits} bits",
                slowest.farthest
            );
        } else {
            slowest.out.extend_from_slice(&message);
        }
        if !keep && settings & 4 != 0 {
            inflater.reset();
        }
        before = message;
    }
}

/// A message made of parts that one byte each describes: bytes from the input, from the message
/// before, equal ones, noise.
fn message(parts: u8, before: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..parts {
        let what = input.byte();
        let len = usize::from(what >> 2);
        match what & 3 {
            0 => message.extend(input.take(len)),
            1 => message.extend(before.iter().skip(len).take(len * 40)),
            2 => message.extend(vec![what; len * len * 9]),
            _ => message.extend(Random::new(u64::from(input.byte())).bytes(len * 50)),
        }
    }
    message
}

/// A compressed message in one frame, or in two with a ping between.
fn framed(wire: &[u8], in_two: bool) -> Vec<u8> {
    let mut frames = Vec::new();
    if !in_two {
        encode_frame(Opcode::Binary.compressed(), wire, &mut frames);
        return frames;
    }
    let (first, last) = wire.split_at(wire.len() / 2);
    encode_frame(Opcode::Binary.compressed(), first, &mut frames);
    frames[0] &= 0x7f;
    encode_frame(Opcode::Ping, b"!", &mut frames);
    encode_frame(Opcode::Continuation, last, &mut frames);
    frames
}

/// The compressed message in these chunks.
fn decoded(chunks: &[&[u8]], rules: &Rules) -> Vec<u8> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        while let Some(decoded) =
            decoder.decode(&mut input, rules).expect("there is nothing wrong with it")
        {
            match decoded {
                Decoded::Compressed(compressed) => messages.push(compressed.payload.into_owned()),
                other => assert_eq!(other, Decoded::Ping(b"!".into())),
            }
        }
    }
    assert!(decoder.is_idle());
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

// ---- offers ----

fn offers(server_bits: u8, client_bits: u8, mut input: Input<'_>) {
    let flags = input.byte();
    let wanted = DeflateParams {
        server_no_context_takeover: flags & 1 != 0,
        client_no_context_takeover: flags & 2 != 0,
        server_max_window_bits: server_bits,
        client_max_window_bits: client_bits,
    };
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    let mut lines = Vec::new();
    for line in input.rest().split(|&byte| byte == b'\n') {
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return;
        }
        head.extend(b"Sec-WebSocket-Extensions: ");
        head.extend(line);
        head.extend(b"\r\n");
        lines.push(line);
    }
    head.extend(b"\r\n");
    let Ok(request) = Request::parse(&head, &HeadLimits::default()) else { return };

    let agreed = agree_on_deflate(&request, &wanted);
    if !lines.iter().all(|line| super::upgrade::are_extensions(line)) {
        return assert_eq!(agreed, None, "RFC 6455 §9.1");
    }
    let lines =
        lines.iter().map(|line| str::from_utf8(line).expect("tokens are ASCII").replace('\\', ""));
    let mut offers = lines.flat_map(|line| split(&line, ','));
    assert_eq!(agreed, offers.find_map(|offer| slow_answer(&offer, &wanted)));
    let Some((agreed, answer)) = agreed else { return };
    for bits in [agreed.server_max_window_bits, agreed.client_max_window_bits] {
        assert!((9..=15).contains(&bits));
    }
    // The answer is itself an offer that comes to the same (RFC 7692 §7.1), but for a window that
    // it does not name.
    let agreed = match answer.contains("server_max_window_bits") {
        true => agreed,
        false => DeflateParams { server_max_window_bits: 15, ..agreed },
    };
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Extensions: {answer}\r\n\r\n");
    let request = Request::parse(head.as_bytes(), &HeadLimits::default())
        .expect("the answer fits into a header");
    assert_eq!(agree_on_deflate(&request, &DeflateParams::default()), Some((agreed, answer)));
}

/// The parts of a list between separators outside of quotes.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quotes = 0;
    for c in text.chars() {
        quotes += usize::from(c == '"');
        if c == separator && quotes % 2 == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("there is one").push(c);
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

fn slow_answer(offer: &str, wanted: &DeflateParams) -> Option<(DeflateParams, String)> {
    let parts = split(&offer.to_ascii_lowercase(), ';');
    if parts[0] != "permessage-deflate" {
        return None;
    }
    let mut given: Vec<(String, Option<u8>)> = Vec::new();
    for part in &parts[1..] {
        let (name, value) = match part.find('=') {
            Some(at) => (part[..at].trim_end(), Some(part[at + 1..].trim_start())),
            None => (&part[..], None),
        };
        let bits = value.and_then(|value| {
            let window = |bits: &u8| value == bits.to_string() || value == format!("\"{bits}\"");
            (8..=15).find(window)
        });
        let is_legal = match name {
            "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
            "server_max_window_bits" => bits.is_some(),
            "client_max_window_bits" => value.is_none() || bits.is_some(),
            _ => false,
        };
        if !is_legal || given.iter().any(|(each, _)| each == name) {
            return None;
        }
        given.push((name.to_owned(), bits));
    }
    let given = |name: &str| given.iter().find(|(each, _)| each == name).map(|(_, bits)| *bits);

    let mut answer = vec!["permessage-deflate".to_owned()];
    let mut flag = |name: &str, wanted: bool| {
        let agreed = wanted || given(name).is_some();
        answer.extend(agreed.then(|| name.to_owned()));
        agreed
    };
    let server_no_context_takeover =
        flag("server_no_context_takeover", wanted.server_no_context_takeover);
    let client_no_context_takeover =
        flag("client_no_context_takeover", wanted.client_no_context_takeover);
    let server =
        given("server_max_window_bits").flatten().unwrap_or(15).min(wanted.server_max_window_bits);
    if server == 8 {
        return None;
    }
    // Without a word of the client its window stays as it is (§7.1.2.2).
    let client = given("client_max_window_bits")
        .map_or(15, |bits| bits.unwrap_or(15).min(wanted.client_max_window_bits));
    // A window that the client did not ask for is no news to it.
    for (name, bits, is_offered) in
        [("server", server, given("server_max_window_bits").is_some()), ("client", client, true)]
    {
        if bits != 15 && is_offered {
            answer.push(format!("{name}_max_window_bits={bits}"));
        }
    }
    let agreed = DeflateParams {
        server_no_context_takeover,
        client_no_context_takeover,
        server_max_window_bits: server,
        client_max_window_bits: client.max(9),
    };
    Some((agreed, answer.join("; ")))
}

/// One of the three, mostly right.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let kind = random.below(3) as u8;
    let mut data = vec![kind, random.byte(), random.byte()];
    match kind {
        0 => {
            let mut deflater = Deflater::new(random.below(10) as u8, 9 + random.below(7) as u8);
            for _ in 0..=random.below(4) {
                let len = random.below(300);
                let message: Vec<u8> =
                    b"{\"bid\": 12.5, \"ask\": 13}".iter().cycle().take(len).copied().collect();
                let message = if random.one_in(3) { random.bytes(len) } else { message };
                let mut wire = Vec::new();
                deflater.deflate(&message, random.one_in(2), &mut wire);
                if random.one_in(4) {
                    wire.splice(0..0, [0x03, 0x00]); // an empty last block
                }
                if random.one_in(6) {
                    // The end that should be left out, and maybe another message.
                    wire.extend([0x00, 0x00, 0xff, 0xff]);
                    deflater.deflate(&message, true, &mut wire);
                }
                if random.one_in(8) {
                    let block = random.pick(&[
                        &[0x00, 0x00, 0x00, 0xff, 0xff][..],
                        &[0x02, 0x00],
                        &[0x03, 0x00],
                    ]);
                    wire.splice(0..0, block.repeat(900 + random.below(300)));
                }
                if random.one_in(4) {
                    wire.truncate(random.below(wire.len() + 1));
                }
                if random.one_in(4) {
                    random.damage(&mut wire);
                }
                data.extend((wire.len() as u16).to_be_bytes());
                data.extend(wire);
            }
        }
        1 => {
            data.extend(random.bytes(3));
            for _ in 0..=random.below(3) {
                let parts = random.below(4) as u8;
                data.push(parts << 4 | random.below(8) as u8);
                for _ in 0..parts {
                    let what = random.byte();
                    data.push(what);
                    data.extend(random.bytes(if what & 3 == 0 {
                        usize::from(what >> 2)
                    } else {
                        usize::from(what & 3 == 3)
                    }));
                }
            }
        }
        _ => {
            data.push(random.byte());
            for _ in 0..=random.below(3) {
                let name = random.pick(&[
                    "permessage-deflate",
                    "permessage-deflate",
                    "Permessage-Deflate ",
                    "x-webkit-deflate-frame",
                ]);
                data.extend(name.as_bytes());
                for _ in 0..random.below(4) {
                    data.extend(b"; ");
                    data.extend(random.pick(PARAMETERS).as_bytes());
                }
                data.push(random.pick(b",\n"));
            }
            if random.one_in(2) {
                random.damage(&mut data);
            }
        }
    }
    data
}

const PARAMETERS: &[&str] = &[
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits=10",
    "server_max_window_bits = \"12\"",
    "server_max_window_bits=8",
    "server_max_window_bits",
    "client_max_window_bits",
    "Client_Max_Window_Bits=9",
    "client_max_window_bits=8",
    "client_max_window_bits=16",
    "a=\"b, c; d\"",
];
