//! A stream of Redis's replies means the same for every cut, and what the protocol says: the
//! scanner and the views of replies are compared with a slow parser that looks at a whole stream.
//! Messages of channels are the same by the short way. What is decoded as a command is encoded and
//! decoded again.
//!
//! An input: one byte of settings, four sizes of chunks, the stream.

use super::input::{Input, Random, cut};
use ikisocket::redis::{
    ChannelMessage, MAX_DEPTH, Missing, Reply, ReplyLimits, RespError, Scan, Scanner, Value,
    command_len, encode_command,
};

/// A reply, or an element of one.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    /// A reply without elements: its type, and what it says.
    Leaf(u8, Vec<u8>),
    Container(u8, Vec<Tree>),
    /// Attributes, and the value that has them.
    WithAttributes(Vec<Tree>, Box<Tree>),
}

#[derive(Debug, PartialEq)]
struct Outcome {
    replies: Vec<Tree>,
    error: Option<RespError>,
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.byte();
    let limits = ReplyLimits {
        bytes: [64 << 20, 70_000, 300, 16][usize::from(settings & 3)],
        elements: [1024, 100, 3, 0][usize::from(settings >> 2 & 3)],
    };
    let sizes = input.array::<4>();
    let stream = input.rest();

    let expected = slow(stream, &limits);
    assert_eq!(scanned(&[stream], &limits), expected, "in one piece");
    assert_eq!(scanned(&cut(stream, &sizes), &limits), expected, "in chunks of {sizes:?}");
    if stream.len() < 2000 {
        assert_eq!(scanned(&cut(stream, &[0]), &limits), expected, "byte by byte");
    }
    for reply in &expected.replies {
        assert_survives_encoding(reply);
    }
}

/// What the scanner finds if the stream arrives in these chunks.
fn scanned(chunks: &[&[u8]], limits: &ReplyLimits) -> Outcome {
    let mut outcome = Outcome { replies: Vec::new(), error: None };
    let mut scanner = Scanner::default();
    let mut buffer = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        let mut rest = &buffer[..];
        loop {
            match scanner.scan(rest, limits) {
                Ok(Scan::Complete(len)) => {
                    assert!(len <= limits.bytes);
                    let reply = Reply::of(&rest[..len]);
                    assert_short_way(rest, len, &reply, limits);
                    outcome.replies.push(tree(&reply));
                    rest = &rest[len..];
                }
                Ok(Scan::Partial(missing)) => {
                    assert_ne!(missing, Missing::Bytes(0));
                    assert_eq!(ChannelMessage::of(rest, limits), None);
                    break;
                }
                Err(error) => {
                    assert_eq!(scanner.scan(rest, limits), Err(error), "failed for good");
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        buffer = rest.to_vec();
    }
    outcome
}

/// The short way leads to the same message, or to none.
fn assert_short_way(bytes: &[u8], len: usize, reply: &Reply<'_>, limits: &ReplyLimits) {
    let message = ChannelMessage::of(bytes, limits);
    let Value::Push(elements) = &reply.value else { return assert_eq!(message, None) };
    let elements: Vec<Value<'_>> = elements.clone().map(|reply| reply.value).collect();
    match (message, &elements[..]) {
        (Some(message), [Value::Bulk(b"message"), Value::Bulk(channel), Value::Bulk(payload)]) => {
            assert_eq!(message, ChannelMessage { channel, payload, len });
        }
        (None, _) => {}
        other => panic!("{other:?}"),
    }
}

fn tree(reply: &Reply<'_>) -> Tree {
    let leaf = |kind, bytes: &[u8]| Tree::Leaf(kind, bytes.to_vec());
    let container = |kind, elements: &ikisocket::redis::Elements<'_>| {
        assert_eq!(elements.len(), elements.clone().count());
        Tree::Container(kind, elements.clone().map(|each| tree(&each)).collect())
    };
    let value = match &reply.value {
        Value::Simple(text) => leaf(b'+', text),
        Value::Error(text) => leaf(b'-', text),
        Value::Integer(number) => leaf(b':', number.to_string().as_bytes()),
        Value::Bulk(bytes) => leaf(b'$', bytes),
        Value::Null => leaf(b'_', b""),
        Value::Boolean(is_true) => leaf(b'#', if *is_true { b"t" } else { b"f" }),
        Value::Double(number) => leaf(b',', number.to_string().as_bytes()),
        Value::BigNumber(digits) => leaf(b'(', digits),
        Value::BulkError(bytes) => leaf(b'!', bytes),
        Value::Verbatim { format, text } => leaf(b'=', &[&format[..], text].concat()),
        Value::Array(elements) => container(b'*', elements),
        Value::Map(elements) => container(b'%', elements),
        Value::Set(elements) => container(b'~', elements),
        Value::Push(elements) => container(b'>', elements),
    };
    match &reply.attributes {
        None => value,
        Some(attributes) => Tree::WithAttributes(
            attributes.clone().map(|each| tree(&each)).collect(),
            Box::new(value),
        ),
    }
}

/// One reply after the other from the beginning of the whole stream.
fn slow(stream: &[u8], limits: &ReplyLimits) -> Outcome {
    let mut outcome = Outcome { replies: Vec::new(), error: None };
    let mut rest = stream;
    loop {
        let mut slow = Slow { rest, taken: 0, elements: 0, limits };
        match slow.reply(0, false) {
            Ok(Some(reply)) => {
                outcome.replies.push(reply);
                rest = slow.rest;
            }
            Ok(None) => return outcome,
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        }
    }
}

struct Slow<'s> {
    rest: &'s [u8],
    taken: usize,
    elements: u64,
    limits: &'s ReplyLimits,
}

impl<'s> Slow<'s> {
    /// `None` if the stream ends before.
    fn reply(&mut self, depth: usize, is_value: bool) -> Result<Option<Tree>, RespError> {
        let Some((&kind, _)) = self.rest.split_first() else { return Ok(None) };
        let numbers = b"$!=*%~>|";
        let (most, error) = match kind {
            b'+' | b'-' | b'(' | b',' => (65_536, RespError::LineTooLong),
            b':' | b'_' | b'#' => (20, RespError::InvalidNumber),
            _ if numbers.contains(&kind) => (20, RespError::InvalidLength),
            b';' | b'.' => return Err(RespError::Streamed),
            _ => return Err(RespError::UnknownType(kind)),
        };
        self.take(1);
        let Some(line) = self.line(most, error)? else { return Ok(None) };
        let leaf = |kind, bytes: &[u8]| Ok(Some(Tree::Leaf(kind, bytes.to_vec())));
        let text = std::str::from_utf8(line).unwrap_or("?");
        match kind {
            b'+' | b'-' => return leaf(kind, line),
            b':' => {
                let number: i64 = text.parse().map_err(|_| RespError::InvalidNumber)?;
                return leaf(kind, number.to_string().as_bytes());
            }
            b',' => {
                let is_word = ["inf", "-inf", "nan", "-nan"].contains(&text);
                let has_words = text.to_lowercase().contains(['n', 'i']);
                let number: Result<f64, _> = text.parse();
                return match number {
                    Ok(number) if is_word || !has_words => {
                        leaf(kind, number.to_string().as_bytes())
                    }
                    _ => Err(RespError::InvalidNumber),
                };
            }
            b'(' => {
                let digits = text.trim_start_matches(['+', '-']);
                let is_number = text.len() - digits.len() < 2
                    && !digits.is_empty()
                    && digits.bytes().all(|digit| digit.is_ascii_digit());
                return if is_number { leaf(kind, line) } else { Err(RespError::InvalidNumber) };
            }
            b'_' if line.is_empty() => return leaf(b'_', b""),
            b'_' => return Err(RespError::InvalidNull),
            b'#' if line == b"t" || line == b"f" => return leaf(kind, line),
            b'#' => return Err(RespError::InvalidBoolean),
            b'$' | b'*' if line == b"-1" => return leaf(b'_', b""),
            _ => {}
        }
        if line == b"?" {
            return Err(RespError::Streamed);
        }
        if line.is_empty() || line.iter().any(|digit| !digit.is_ascii_digit()) {
            return Err(RespError::InvalidLength);
        }
        let len: u128 = text.parse().expect("it has at most 20 digits");
        if kind == b'=' && len < 4 {
            return Err(RespError::InvalidVerbatim);
        }
        if matches!(kind, b'$' | b'!' | b'=') {
            let Some(payload) = self.payload(len)? else { return Ok(None) };
            return match kind {
                b'=' => leaf(kind, &[&payload[..3], &payload[4..]].concat()),
                _ => leaf(kind, payload),
            };
        }
        self.container(kind, len, depth, is_value)
    }

    fn container(
        &mut self,
        kind: u8,
        len: u128,
        depth: usize,
        is_value: bool,
    ) -> Result<Option<Tree>, RespError> {
        let len = if matches!(kind, b'%' | b'|') { 2 * len } else { len };
        let counted = len + u128::from(kind == b'|');
        if u128::from(self.elements) + counted > u128::from(self.limits.elements) {
            return Err(RespError::TooManyElements { limit: self.limits.elements });
        }
        if kind == b'>' && depth > 0 {
            return Err(RespError::NestedPush);
        }
        if kind == b'|' && is_value {
            return Err(RespError::StackedAttributes);
        }
        if counted > 0 && depth == MAX_DEPTH {
            return Err(RespError::TooDeep);
        }
        self.elements += counted as u64;
        let mut elements = Vec::new();
        for _ in 0..len {
            let Some(element) = self.reply(depth + 1, false)? else { return Ok(None) };
            elements.push(element);
        }
        if kind != b'|' {
            return Ok(Some(Tree::Container(kind, elements)));
        }
        let Some(value) = self.reply(depth + 1, true)? else { return Ok(None) };
        Ok(Some(Tree::WithAttributes(elements, Box::new(value))))
    }

    fn take(&mut self, len: usize) -> &'s [u8] {
        let (taken, rest) = self.rest.split_at(len);
        (self.rest, self.taken) = (rest, self.taken + len);
        taken
    }

    fn line(&mut self, most: usize, error: RespError) -> Result<Option<&'s [u8]>, RespError> {
        let too_long = RespError::TooLong { limit: self.limits.bytes };
        let Some(room) = self.limits.bytes.checked_sub(self.taken + 2) else {
            return Err(too_long);
        };
        let end = self.rest.iter().position(|byte| b"\r\n".contains(byte));
        let len = end.unwrap_or(self.rest.len());
        if len > room.min(most) {
            return Err(if room < most { too_long } else { error });
        }
        match &self.rest[len..] {
            [] | [b'\r'] => Ok(None),
            [b'\r', b'\n', ..] => {
                let line = self.take(len);
                self.take(2);
                Ok(Some(line))
            }
            _ => Err(RespError::NoLineEnd),
        }
    }

    fn payload(&mut self, len: u128) -> Result<Option<&'s [u8]>, RespError> {
        if self.taken as u128 + len + 2 > self.limits.bytes as u128 {
            return Err(RespError::TooLong { limit: self.limits.bytes });
        }
        let len = len as usize;
        match self.rest.get(len..) {
            None | Some([] | [b'\r']) => Ok(None),
            Some([b'\r', b'\n', ..]) => {
                let payload = self.take(len);
                self.take(2);
                Ok(Some(payload))
            }
            Some(_) => Err(RespError::NoLineEnd),
        }
    }
}

/// An array of bulk strings is a command.
fn assert_survives_encoding(reply: &Tree) {
    let Tree::Container(b'*', elements) = reply else { return };
    let args: Option<Vec<&[u8]>> = elements
        .iter()
        .map(|each| if let Tree::Leaf(b'$', bytes) = each { Some(&bytes[..]) } else { None })
        .collect();
    let Some(args) = args else { return };
    // Each in two parts.
    let parts: Vec<[&[u8]; 2]> =
        args.iter().map(|arg| arg.split_at(arg.len() / 2).into()).collect();
    let parts: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
    let mut command = Vec::new();
    encode_command(&parts, &mut command);
    assert_eq!(command.len(), command_len(&parts));
    let limits = ReplyLimits { bytes: usize::MAX, elements: u32::MAX };
    let again = scanned(&[&command], &limits);
    assert_eq!(again, Outcome { replies: vec![reply.clone()], error: None });
}

/// A stream of replies that are mostly right.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let mut data = vec![if random.one_in(3) { random.byte() } else { 0 }];
    let largest = random.pick(&[1, 4, 40, 256]);
    data.extend((0..4).map(|_| random.below(largest) as u8));
    for _ in 0..=random.below(6) {
        match random.below(4) {
            0 => {
                let len = random.below(40);
                encode_command(
                    &[&[b"message"], &[b"app:", b"prices"], &[&random.bytes(len)]],
                    &mut data,
                );
                // A push instead of an array.
                let at = data.windows(4).rposition(|at| at == b"*3\r\n").expect("it was encoded");
                data[at] = b'>';
            }
            _ => reply(random, &mut data, 0),
        }
    }
    if random.one_in(2) {
        random.damage(&mut data);
    }
    data
}

fn reply(random: &mut Random, data: &mut Vec<u8>, depth: usize) {
    let kinds: &[u8] = if depth < 18 { b"+-:$_#,(!=*%~|>*$" } else { b"+-:$_#,(!=" };
    let kind = random.pick(kinds);
    if kind == b'>' && depth > 0 {
        return reply(random, data, depth);
    }
    let mut line = |line: &str| {
        data.push(kind);
        data.extend(line.bytes());
        data.extend(b"\r\n");
    };
    match kind {
        b'+' | b'-' => line(random.pick(&["OK", "", "ERR no", "LOADING Redis is loading"])),
        b':' => line(random.pick(&["0", "-1", "+7", "9223372036854775807", "9223372036854775808"])),
        b',' => line(random.pick(&["1.5", "-inf", "inf", "nan", "1e-7", "-0", ".5", "infinity"])),
        b'(' => line(random.pick(&["1", "-99999999999999999999999", "+0", "-"])),
        b'_' => line(""),
        b'#' => line(random.pick(&["t", "f", "t", "f", "x"])),
        b'$' | b'!' | b'=' => {
            let len = if random.one_in(40) { 66_000 } else { 4 + random.below(20) };
            line(&len.to_string());
            data.extend(random.bytes(len));
            data.extend(b"\r\n");
        }
        _ => {
            let len = random.below(3);
            line(&len.to_string());
            let each = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            for _ in 0..len * each + usize::from(kind == b'|') {
                reply(random, data, depth + 1);
            }
        }
    }
}
