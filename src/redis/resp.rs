//! RESP3, the protocol of Redis, without I/O: commands written, replies found and read. It knows no
//! socket, no clock and no command's meaning.
//!
//! A reply is read in two steps. [`Scanner`] finds its end, and checks it on the way. It continues
//! where it stopped when more bytes have come. [`Reply`] is then a view of the bytes that were
//! checked. Neither allocates, and nothing is copied.

use std::fmt;

use thiserror::Error;

/// The containers that may be open in each other: arrays, maps, sets, pushes and attributes.
pub const MAX_DEPTH: usize = 16;

/// The longest line in bytes, without its type and its end. Redis cuts its error lines, and its
/// status lines are short.
const MAX_LINE: usize = 64 * 1024;
/// The longest number in bytes, and the longest length: one sign and the digits of any `i64`.
const MAX_NUMBER: usize = 20;
/// The end of each line, and of each payload.
const CRLF: &[u8; 2] = b"\r\n";
/// What each message of a channel begins with.
const MESSAGE: &[u8; 17] = b">3\r\n$7\r\nmessage\r\n";

/// What is wrong with the bytes of a reply.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RespError {
    /// The first byte of a reply or of an element is none of RESP3's types.
    #[error("byte {0:#04x} begins no type of RESP3: is this server a Redis?")]
    UnknownType(u8),
    /// A type whose length comes later, in pieces.
    #[error("a streamed reply, which no Redis sends")]
    Streamed,
    /// A line or a payload does not end with CR LF.
    #[error("a line or a payload does not end with CR LF")]
    NoLineEnd,
    /// A line has more bytes than any line of Redis.
    #[error("a line is longer than 64 KiB")]
    LineTooLong,
    /// A length or a number of elements is no decimal number.
    #[error("a length is not a number")]
    InvalidLength,
    /// An integer, a big number or a double does not look like one, or does not fit.
    #[error("a number is not a number, or does not fit into its type")]
    InvalidNumber,
    /// A boolean that is neither `t` nor `f`.
    #[error("a boolean is neither true nor false")]
    InvalidBoolean,
    /// Null with something in its line.
    #[error("a null with content")]
    InvalidNull,
    /// A verbatim string without its three letters of format and a colon.
    #[error("a verbatim string does not say its format")]
    InvalidVerbatim,
    /// A push message inside of another reply.
    #[error("a push message inside of another reply")]
    NestedPush,
    /// Attributes between attributes and their value.
    #[error("attributes of attributes")]
    StackedAttributes,
    /// The reply is, or says that it will be, longer than [`ReplyLimits::bytes`].
    #[error("a reply is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The reply has, or says that it will have, more elements than [`ReplyLimits::elements`].
    #[error("a reply has more than {limit} elements")]
    TooManyElements {
        /// The limit.
        limit: u32,
    },
    /// More containers are open in each other than [`MAX_DEPTH`].
    #[error("a reply is nested deeper than {MAX_DEPTH} containers")]
    TooDeep,
}

/// How large a reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// The most bytes of a reply. Default 64 MiB.
    pub bytes: usize,
    /// The most elements of all its containers together. Default 1024: the longest reply that is
    /// asked for here is that to HELLO, which has about 14, and about 10 for each module.
    pub elements: u32,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { bytes: 64 * 1024 * 1024, elements: 1024 }
    }
}

// Commands.

/// Appends a command: an array of bulk strings. Each argument is the concatenation of its parts, so
/// a name with a prefix needs no memory of its own.
///
/// ```
/// use ikisocket::redis::encode_command;
///
/// let mut out = Vec::new();
/// encode_command(&[&[b"PUBLISH"], &[b"app:", b"prices"], &[b"1.0857"]], &mut out);
/// assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$10\r\napp:prices\r\n$6\r\n1.0857\r\n");
/// ```
pub fn encode_command(args: &[&[&[u8]]], out: &mut Vec<u8>) {
    out.reserve(command_len(args));
    encode_start(args.len(), out);
    for parts in args {
        encode_argument(parts, out);
    }
}

/// The number of bytes that [`encode_command`] appends.
#[must_use]
pub fn command_len(args: &[&[&[u8]]]) -> usize {
    let header = |number: usize| 1 + digits(number) + CRLF.len();
    let argument = |parts: &&[&[u8]]| {
        let len = parts.iter().map(|part| part.len()).sum();
        header(len) + len + CRLF.len()
    };
    header(args.len()) + args.iter().map(argument).sum::<usize>()
}

/// Appends the beginning of a command that has this number of arguments, its name counted.
pub(super) fn encode_start(args: usize, out: &mut Vec<u8>) {
    encode_header(b'*', args, out);
}

/// Appends one argument of a command.
pub(super) fn encode_argument(parts: &[&[u8]], out: &mut Vec<u8>) {
    encode_header(b'$', parts.iter().map(|part| part.len()).sum(), out);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(CRLF);
}

fn encode_header(kind: u8, number: usize, out: &mut Vec<u8>) {
    out.push(kind);
    let mut bytes = [0; MAX_NUMBER];
    let mut begins = bytes.len();
    let mut rest = number;
    loop {
        begins -= 1;
        bytes[begins] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&bytes[begins..]);
    out.extend_from_slice(CRLF);
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

// Replies: where they end.

/// Whether the bytes have a whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The reply has this many bytes.
    Complete(usize),
    /// The reply does not end in these bytes.
    Partial(Missing),
}

/// What of a reply has not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// At least the end of a line.
    Line,
    /// At least this many bytes, of a payload and its end.
    Bytes(usize),
}

/// Finds the end of a reply, and checks all of it.
///
/// It remembers how far it has looked. So a reply that arrives in many pieces is looked at once,
/// however many they are.
///
/// ```
/// use ikisocket::redis::{Missing, Reply, ReplyLimits, Scan, Scanner, Value};
///
/// let limits = ReplyLimits::default();
/// let mut scanner = Scanner::default();
/// let partial = scanner.scan(b"$5\r\nhel", &limits);
/// assert_eq!(partial, Ok(Scan::Partial(Missing::Bytes(4))));
///
/// let bytes = b"$5\r\nhello\r\n:7\r\n"; // the same bytes, and more
/// assert_eq!(scanner.scan(bytes, &limits), Ok(Scan::Complete(11)));
/// assert_eq!(Reply::of(&bytes[..11]).value, Value::Bulk(b"hello"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// The bytes before are checked. A reply, an element or a payload begins here.
    at: usize,
    /// The payload that begins at `at` has this length.
    payload: Option<usize>,
    /// The bytes of an unfinished line that hold no end.
    searched: usize,
    /// How many elements each open container lacks.
    open: [u32; MAX_DEPTH],
    /// A bit for each open container: whether it is one of attributes, whose last element is the
    /// value that has them.
    attributes: u32,
    depth: usize,
    elements: u32,
}

impl Scanner {
    /// Looks for the end of the reply that `bytes` begin with. As long as that is not found, call
    /// it again with the same bytes and more behind them. When it is found, the scanner is ready
    /// for the next reply.
    ///
    /// # Errors
    ///
    /// A [`RespError`], as soon as the bytes decide it: a reply that will be too long is refused at
    /// its length. Every later call with the same bytes returns the same error.
    pub fn scan(&mut self, bytes: &[u8], limits: &ReplyLimits) -> Result<Scan, RespError> {
        loop {
            if let Some(missing) = self.step(bytes, limits)? {
                return Ok(Scan::Partial(missing));
            }
            if self.payload.is_none() && self.depth == 0 {
                let len = self.at;
                *self = Self::default();
                return Ok(Scan::Complete(len));
            }
        }
    }

    /// Looks at one line or one payload; returns what is missing of it.
    fn step(&mut self, bytes: &[u8], limits: &ReplyLimits) -> Result<Option<Missing>, RespError> {
        if let Some(len) = self.payload {
            let ends = self.at + len;
            // The end is looked at as soon as it comes.
            match bytes.get(ends..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {}
                [] | [b'\r'] => {
                    return Ok(Some(Missing::Bytes(ends + CRLF.len() - bytes.len())));
                }
                _ => return Err(RespError::NoLineEnd),
            }
            self.payload = None;
            self.at = ends + CRLF.len();
            self.element_ends();
            return Ok(None);
        }
        let Some((&kind, rest)) = bytes.get(self.at..).and_then(<[u8]>::split_first) else {
            return Ok(Some(Missing::Line));
        };
        let kind_of_line = Kind::of(kind)?;
        let Some(room) = limits.bytes.checked_sub(self.at + 1 + CRLF.len()) else {
            return Err(RespError::TooLong { limit: limits.bytes });
        };
        let Some(len) = find_end(rest, self.searched, kind_of_line, room, limits)? else {
            self.searched = rest.len().saturating_sub(1);
            return Ok(Some(Missing::Line));
        };
        let header = Header::parse(kind, &rest[..len])?;
        let after = self.at + 1 + len + CRLF.len();
        match header {
            Header::Whole => {
                self.at = after;
                self.searched = 0;
                self.element_ends();
            }
            Header::Payload(len) => {
                let ends = after.checked_add(len).and_then(|ends| ends.checked_add(CRLF.len()));
                if ends.is_none_or(|ends| ends > limits.bytes) {
                    return Err(RespError::TooLong { limit: limits.bytes });
                }
                self.at = after;
                self.searched = 0;
                self.payload = Some(len);
            }
            Header::Container { elements } => {
                let all = self.elements.checked_add(elements);
                let Some(all) = all.filter(|&all| all <= limits.elements) else {
                    return Err(RespError::TooManyElements { limit: limits.elements });
                };
                if kind == b'>' && self.depth > 0 {
                    return Err(RespError::NestedPush);
                }
                if kind == b'|' && self.awaits_value() {
                    return Err(RespError::StackedAttributes);
                }
                if elements > 0 && self.depth == MAX_DEPTH {
                    return Err(RespError::TooDeep);
                }
                self.elements = all;
                self.at = after;
                self.searched = 0;
                if elements == 0 {
                    self.element_ends();
                } else {
                    let bit = 1 << self.depth;
                    self.attributes =
                        if kind == b'|' { self.attributes | bit } else { self.attributes & !bit };
                    self.open[self.depth] = elements;
                    self.depth += 1;
                }
            }
        }
        Ok(None)
    }

    /// Whether the next element is the value of attributes.
    fn awaits_value(&self) -> bool {
        let innermost = self.depth.checked_sub(1);
        innermost.is_some_and(|at| self.open[at] == 1 && self.attributes & 1 << at != 0)
    }

    /// An element is complete, and so is each container whose last one it is.
    fn element_ends(&mut self) {
        while let Some(lacking) = self.open[..self.depth].last_mut() {
            *lacking -= 1;
            if *lacking > 0 {
                return;
            }
            self.depth -= 1;
        }
    }
}

/// What a first byte begins.
#[derive(Clone, Copy)]
enum Kind {
    Line,
    Number,
    Length,
}

impl Kind {
    fn of(first: u8) -> Result<Self, RespError> {
        match first {
            // A double may have many digits.
            b'+' | b'-' | b'(' | b',' => Ok(Self::Line),
            b':' | b'_' | b'#' => Ok(Self::Number),
            b'$' | b'!' | b'=' | b'*' | b'%' | b'~' | b'>' | b'|' => Ok(Self::Length),
            b';' | b'.' => Err(RespError::Streamed),
            other => Err(RespError::UnknownType(other)),
        }
    }

    /// The longest line of this kind in bytes, and what is wrong with a longer one.
    fn max_line(self) -> (usize, RespError) {
        match self {
            Self::Line => (MAX_LINE, RespError::LineTooLong),
            Self::Number => (MAX_NUMBER, RespError::InvalidNumber),
            Self::Length => (MAX_NUMBER, RespError::InvalidLength),
        }
    }
}

/// The length of the line that `bytes` begin with, of which the first `searched` bytes are known
/// not to end it. `None` if its end has not come. The reply has room for `room` bytes of it.
fn find_end(
    bytes: &[u8],
    searched: usize,
    kind: Kind,
    room: usize,
    limits: &ReplyLimits,
) -> Result<Option<usize>, RespError> {
    let (most, error) = kind.max_line();
    let too_long = RespError::TooLong { limit: limits.bytes };
    // The smaller limit is the first that a line in pieces meets.
    let (most, error) = if room < most { (room, too_long) } else { (most, error) };
    let unsearched = &bytes[searched..bytes.len().min(most.saturating_add(1)).max(searched)];
    let found = unsearched.iter().position(|&byte| matches!(byte, b'\r' | b'\n'));
    let len = found.map_or(bytes.len(), |found| searched + found);
    if len > most {
        return Err(error);
    }
    match bytes[len..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(len)),
        _ => Err(RespError::NoLineEnd),
    }
}

/// What a line says of the bytes behind it.
enum Header {
    /// The line is the whole element.
    Whole,
    /// A payload of this length follows.
    Payload(usize),
    /// This many elements follow.
    Container { elements: u32 },
}

impl Header {
    fn parse(kind: u8, line: &[u8]) -> Result<Self, RespError> {
        match kind {
            b'+' | b'-' => {}
            b':' => _ = integer(line)?,
            b',' => _ = double(line)?,
            b'(' if is_integer(line) => {}
            b'(' => return Err(RespError::InvalidNumber),
            b'_' if line.is_empty() => {}
            b'_' => return Err(RespError::InvalidNull),
            b'#' if matches!(line, b"t" | b"f") => {}
            b'#' => return Err(RespError::InvalidBoolean),
            // The nulls of RESP2, which answer a command that comes before HELLO.
            b'$' | b'*' if line == b"-1" => {}
            b'$' | b'!' => return Ok(Self::Payload(length(line)?)),
            b'=' => {
                let len = length(line)?;
                // Three letters and a colon.
                return if len < 4 {
                    Err(RespError::InvalidVerbatim)
                } else {
                    Ok(Self::Payload(len))
                };
            }
            b'*' | b'~' | b'>' => return Self::container(length(line)?, 1, 0),
            b'%' => return Self::container(length(line)?, 2, 0),
            // The value that has the attributes comes behind them.
            _ => return Self::container(length(line)?, 2, 1),
        }
        Ok(Self::Whole)
    }

    fn container(len: usize, each: usize, more: usize) -> Result<Self, RespError> {
        // A number that does not fit is beyond any limit of elements.
        let elements = len.saturating_mul(each).saturating_add(more);
        Ok(Self::Container { elements: elements.try_into().unwrap_or(u32::MAX) })
    }
}

/// A length or a number of elements.
fn length(line: &[u8]) -> Result<usize, RespError> {
    if line == b"?" {
        return Err(RespError::Streamed);
    }
    if line.is_empty() || !line.iter().all(u8::is_ascii_digit) {
        return Err(RespError::InvalidLength);
    }
    // What does not fit is beyond any limit.
    let digit =
        |len: usize, &digit: &u8| len.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
    Ok(line.iter().fold(0, digit))
}

fn is_integer(line: &[u8]) -> bool {
    let digits = line.strip_prefix(b"-").or_else(|| line.strip_prefix(b"+")).unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn integer(line: &[u8]) -> Result<i64, RespError> {
    let text = std::str::from_utf8(line).map_err(|_| RespError::InvalidNumber)?;
    text.parse().map_err(|_| RespError::InvalidNumber)
}

fn double(line: &[u8]) -> Result<f64, RespError> {
    // Redis writes these three; other words that Rust takes are no RESP.
    let is_word = matches!(line, b"inf" | b"-inf" | b"nan" | b"-nan");
    let mut letters = line.iter().filter(|byte| byte.is_ascii_alphabetic());
    if !is_word && !letters.all(|letter| matches!(letter, b'e' | b'E')) {
        return Err(RespError::InvalidNumber);
    }
    let text = std::str::from_utf8(line).map_err(|_| RespError::InvalidNumber)?;
    text.parse().map_err(|_| RespError::InvalidNumber)
}

// Replies: what they say.

/// A reply, or an element of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<'b> {
    /// Keys and values in turn, if the reply has attributes.
    pub attributes: Option<Elements<'b>>,
    /// The reply itself.
    pub value: Value<'b>,
}

/// The value of a reply. Payloads are borrowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'b> {
    /// `+`: a status.
    Simple(&'b [u8]),
    /// `-`: an error in one line.
    Error(&'b [u8]),
    /// `:`: an integer.
    Integer(i64),
    /// `$`: bytes.
    Bulk(&'b [u8]),
    /// `_`, and `$-1` and `*-1` of RESP2.
    Null,
    /// `#`: true or false.
    Boolean(bool),
    /// `,`: a floating point number.
    Double(f64),
    /// `(`: the digits of a number of any size, with its sign.
    BigNumber(&'b [u8]),
    /// `!`: an error of any bytes.
    BulkError(&'b [u8]),
    /// `=`: a text, and three letters that say of which format.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: &'b [u8],
    },
    /// `*`: an array.
    Array(Elements<'b>),
    /// `%`: a map: keys and values in turn.
    Map(Elements<'b>),
    /// `~`: a set.
    Set(Elements<'b>),
    /// `>`: what comes without having been asked for.
    Push(Elements<'b>),
}

impl<'b> Reply<'b> {
    /// Reads a reply that a [`Scanner`] has found complete: these are its bytes.
    ///
    /// # Panics
    ///
    /// It may panic if they are something else.
    #[must_use]
    pub fn of(bytes: &'b [u8]) -> Self {
        Self::read(bytes).0
    }

    /// Reads the element at the beginning of checked bytes; returns the bytes behind it too. Those
    /// behind a container are its elements.
    fn read(bytes: &'b [u8]) -> (Self, &'b [u8]) {
        let (mut attributes, mut rest) = (None, bytes);
        if let [b'|', ..] = *rest {
            let (len, behind) = split_line(rest);
            let elements = Elements { rest: behind, left: checked_len(len) * 2 };
            rest = elements.behind();
            attributes = Some(elements);
        }
        let (value, rest) = Value::read(rest);
        (Self { attributes, value }, rest)
    }
}

impl<'b> Value<'b> {
    fn read(bytes: &'b [u8]) -> (Self, &'b [u8]) {
        let (line, rest) = split_line(bytes);
        let elements = |each| Elements { rest, left: checked_len(line) * each };
        let payload = || {
            let (payload, rest) = rest.split_at(checked_len(line));
            (payload, &rest[CRLF.len()..])
        };
        let value = match bytes[0] {
            b'+' => Self::Simple(line),
            b'-' => Self::Error(line),
            b':' => Self::Integer(integer(line).unwrap_or_default()),
            b',' => Self::Double(double(line).unwrap_or_default()),
            b'(' => Self::BigNumber(line),
            b'#' => Self::Boolean(line == b"t"),
            b'$' if line != b"-1" => {
                let (payload, rest) = payload();
                return (Self::Bulk(payload), rest);
            }
            b'!' => {
                let (payload, rest) = payload();
                return (Self::BulkError(payload), rest);
            }
            b'=' => {
                let (payload, rest) = payload();
                let format = [payload[0], payload[1], payload[2]];
                return (Self::Verbatim { format, text: &payload[4..] }, rest);
            }
            b'*' if line != b"-1" => Self::Array(elements(1)),
            b'%' => Self::Map(elements(2)),
            b'~' => Self::Set(elements(1)),
            b'>' => Self::Push(elements(1)),
            _ => Self::Null,
        };
        (value, rest)
    }
}

/// The line behind the type that checked bytes begin with, and what follows it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let line = bytes.split_first().map_or(bytes, |(_, line)| line);
    let len = line.iter().position(|&byte| byte == b'\r').unwrap_or(line.len());
    (&line[..len], line.get(len + CRLF.len()..).unwrap_or_default())
}

fn checked_len(line: &[u8]) -> usize {
    length(line).unwrap_or_default()
}

/// The elements of a container, one after the other.
#[derive(Clone)]
pub struct Elements<'b> {
    rest: &'b [u8],
    left: usize,
}

impl<'b> Elements<'b> {
    /// The bytes behind the last element.
    fn behind(&self) -> &'b [u8] {
        // Elements of elements count too: a container's own are read as if they stood beside it.
        let (mut rest, mut left) = (self.rest, self.left);
        while left > 0 {
            let (reply, behind) = Reply::read(rest);
            rest = behind;
            left -= 1;
            if let Value::Array(inner)
            | Value::Map(inner)
            | Value::Set(inner)
            | Value::Push(inner) = reply.value
            {
                left += inner.left;
            }
        }
        rest
    }
}

impl<'b> Iterator for Elements<'b> {
    type Item = Reply<'b>;

    fn next(&mut self) -> Option<Reply<'b>> {
        self.left = self.left.checked_sub(1)?;
        let (reply, behind) = Reply::read(self.rest);
        self.rest = match &reply.value {
            Value::Array(inner) | Value::Map(inner) | Value::Set(inner) | Value::Push(inner) => {
                inner.behind()
            }
            _ => behind,
        };
        Some(reply)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Elements<'_> {}

impl PartialEq for Elements<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.clone().eq(other.clone())
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

// Messages of channels.

/// A message of a channel, as it lies in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMessage<'b> {
    /// The channel's name.
    pub channel: &'b [u8],
    /// The message.
    pub payload: &'b [u8],
    /// The number of bytes of the whole push.
    pub len: usize,
}

impl<'b> ChannelMessage<'b> {
    /// The message that `bytes` begin with, if it is there whole and within the limits. In all
    /// other cases a [`Scanner`] says what is there. With 100 bytes it takes a tenth of the time
    /// of a scan and a view (`cargo bench --bench micro -- 'of Redis'`).
    #[must_use]
    #[inline]
    pub fn of(bytes: &'b [u8], limits: &ReplyLimits) -> Option<Self> {
        let rest = bytes.strip_prefix(MESSAGE)?;
        let (channel, rest) = take_bulk(rest)?;
        let (payload, rest) = take_bulk(rest)?;
        let len = bytes.len() - rest.len();
        (len <= limits.bytes && limits.elements >= 3).then_some(Self { channel, payload, len })
    }
}

/// The bulk string that `bytes` begin with, if it is there whole.
#[inline]
fn take_bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes.strip_prefix(b"$")?;
    let mut len = 0_usize;
    // Nine digits fit into 32 bits; a greater length has no business here.
    for read in 0..10 {
        let (&byte, behind) = rest.split_first()?;
        rest = behind;
        match byte {
            b'0'..=b'9' if read < 9 => len = len * 10 + usize::from(byte - b'0'),
            b'\r' if read > 0 => {
                let (payload, behind) = rest.strip_prefix(b"\n")?.split_at_checked(len)?;
                return Some((payload, behind.strip_prefix(CRLF)?));
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ReplyLimits = ReplyLimits { bytes: 1 << 20, elements: 1000 };

    /// Scans in pieces that end at these places; returns what the last scan says.
    fn scan_at(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Result<Scan, RespError> {
        let mut scanner = Scanner::default();
        let mut last = Ok(Scan::Partial(Missing::Line));
        for end in ends {
            last = scanner.scan(&bytes[..end], &LIMITS);
            if !matches!(last, Ok(Scan::Partial(_))) {
                break;
            }
        }
        last
    }

    /// The reply that the bytes are, found in one piece and byte by byte.
    #[track_caller]
    fn reply(bytes: &[u8]) -> Reply<'_> {
        let whole = Ok(Scan::Complete(bytes.len()));
        assert_eq!(scan_at(bytes, [bytes.len()]), whole);
        assert_eq!(scan_at(bytes, 0..=bytes.len()), whole);
        for cut in 0..bytes.len() {
            assert!(matches!(scan_at(bytes, [cut]), Ok(Scan::Partial(_))), "cut at {cut}");
            assert_eq!(scan_at(bytes, [cut, bytes.len()]), whole, "cut at {cut}");
        }
        Reply::of(bytes)
    }

    #[track_caller]
    fn value(bytes: &[u8]) -> Value<'_> {
        let Reply { attributes, value } = reply(bytes);
        assert_eq!(attributes, None);
        value
    }

    /// The bytes fail with the last of these, and not before.
    #[track_caller]
    fn assert_fails_at(bytes: &[u8], at: usize, error: RespError) {
        for end in 0..bytes.len() {
            let scanned = scan_at(bytes, [end]);
            if end < at {
                assert!(matches!(scanned, Ok(Scan::Partial(_))), "{scanned:?} after {end} bytes");
            } else {
                assert_eq!(scanned, Err(error), "after {end} bytes");
            }
        }
        assert_eq!(scan_at(bytes, [bytes.len()]), Err(error));
        assert_eq!(scan_at(bytes, 0..=bytes.len()), Err(error), "byte by byte");
        let mut scanner = Scanner::default();
        for _ in 0..2 {
            assert_eq!(scanner.scan(bytes, &LIMITS), Err(error), "it fails for good");
        }
    }

    #[test]
    fn every_type_is_read_wherever_it_is_cut() {
        assert_eq!(value(b"+OK\r\n"), Value::Simple(b"OK"));
        assert_eq!(value(b"+\r\n"), Value::Simple(b""));
        assert_eq!(value(b"-ERR no\r\n"), Value::Error(b"ERR no"));
        assert_eq!(value(b":-42\r\n"), Value::Integer(-42));
        assert_eq!(value(b":+9223372036854775807\r\n"), Value::Integer(i64::MAX));
        assert_eq!(value(b"$5\r\nhe\r\no\r\n"), Value::Bulk(b"he\r\no"));
        assert_eq!(value(b"$0\r\n\r\n"), Value::Bulk(b""));
        assert_eq!(value(b"_\r\n"), Value::Null);
        assert_eq!(value(b"$-1\r\n"), Value::Null);
        assert_eq!(value(b"*-1\r\n"), Value::Null);
        assert_eq!(value(b"#t\r\n"), Value::Boolean(true));
        assert_eq!(value(b"#f\r\n"), Value::Boolean(false));
        assert_eq!(value(b",-1.5e3\r\n"), Value::Double(-1500.0));
        assert_eq!(value(b",-inf\r\n"), Value::Double(f64::NEG_INFINITY));
        assert!(matches!(value(b",nan\r\n"), Value::Double(nan) if nan.is_nan()));
        let digits = b"(-3492890328409238509324850943850943825024385\r\n";
        assert_eq!(value(digits), Value::BigNumber(&digits[1..digits.len() - 2]));
        assert_eq!(value(b"!7\r\nERR \r\n.\r\n"), Value::BulkError(b"ERR \r\n.".as_slice()));
        let verbatim = Value::Verbatim { format: *b"mkd", text: b"*a*" };
        assert_eq!(value(b"=7\r\nmkd:*a*\r\n"), verbatim);
        for empty in [&b"*0\r\n"[..], b"%0\r\n", b"~0\r\n", b">0\r\n"] {
            let (Value::Array(elements)
            | Value::Map(elements)
            | Value::Set(elements)
            | Value::Push(elements)) = value(empty)
            else {
                panic!("{empty:?}")
            };
            assert_eq!(elements.len(), 0);
        }
    }

    #[test]
    fn containers_are_read_in_each_other() {
        let bytes = b"%2\r\n+a\r\n*2\r\n~1\r\n:1\r\n_\r\n+b\r\n%1\r\n+c\r\n*0\r\n";
        let Value::Map(mut map) = value(bytes) else { panic!() };
        assert_eq!(map.len(), 4);
        let mut next = || map.next().map(|reply| reply.value);
        assert_eq!(next(), Some(Value::Simple(b"a")));
        let Some(Value::Array(mut array)) = next() else { panic!() };
        let Some(Value::Set(set)) = array.next().map(|reply| reply.value) else { panic!() };
        assert_eq!(set.map(|reply| reply.value).collect::<Vec<_>>(), [Value::Integer(1)]);
        assert_eq!(array.next().map(|reply| reply.value), Some(Value::Null));
        assert_eq!(array.next(), None);
        assert_eq!(next(), Some(Value::Simple(b"b")));
        let Some(Value::Map(inner)) = next() else { panic!() };
        assert_eq!(format!("{inner:?}").matches("value").count(), 2);
        assert_eq!(next(), None);
    }

    #[test]
    fn attributes_belong_to_the_value_behind_them() {
        let bytes = b"*2\r\n|1\r\n+ttl\r\n*1\r\n:9\r\n$1\r\nx\r\n:1\r\n";
        let Value::Array(mut array) = value(bytes) else { panic!() };
        let with = array.next().unwrap();
        assert_eq!(with.value, Value::Bulk(b"x"));
        let mut attributes = with.attributes.unwrap();
        assert_eq!(attributes.next().map(|reply| reply.value), Some(Value::Simple(b"ttl")));
        assert!(matches!(attributes.next().map(|reply| reply.value), Some(Value::Array(_))));
        assert_eq!(attributes.next(), None);
        assert_eq!(array.next(), Some(Reply { attributes: None, value: Value::Integer(1) }));
        assert_eq!(array.next(), None);

        let of_a_key = reply(b"|1\r\n|1\r\n+a\r\n+b\r\n+c\r\n+d\r\n#t\r\n");
        assert_eq!(of_a_key.value, Value::Boolean(true));
        let key = of_a_key.attributes.unwrap().next().unwrap();
        assert_eq!((key.value, key.attributes.unwrap().len()), (Value::Simple(b"c"), 2));
        assert_eq!(reply(b"|0\r\n#f\r\n").value, Value::Boolean(false));
    }

    #[test]
    fn nonsense_fails_at_the_first_byte_that_decides_it() {
        assert_fails_at(b"HTTP/1.1 400\r\n", 1, RespError::UnknownType(b'H'));
        assert_fails_at(b"\x16\x03\x01", 1, RespError::UnknownType(0x16));
        assert_fails_at(b"*1\r\n?1\r\n", 5, RespError::UnknownType(b'?'));
        for streamed in [&b"$?\r\n"[..], b"*?\r\n", b"%?\r\n", b"~?\r\n", b">?\r\n"] {
            assert_fails_at(streamed, 4, RespError::Streamed);
        }
        assert_fails_at(b";4\r\n", 1, RespError::Streamed);
        assert_fails_at(b".\r\n", 1, RespError::Streamed);
        assert_fails_at(b"+OK\n+OK\r\n", 4, RespError::NoLineEnd);
        assert_fails_at(b"+OK\rx", 5, RespError::NoLineEnd);
        assert_fails_at(b"$2\r\nabc\r\n", 7, RespError::NoLineEnd);
        assert_fails_at(b"$2\r\nab\rc", 8, RespError::NoLineEnd);
        for length in [&b"$\r\n"[..], b"*x\r\n", b"$+1\r\n", b"%-1\r\n", b"$1 \r\n", b">1.0\r\n"] {
            assert_fails_at(length, length.len(), RespError::InvalidLength);
        }
        assert_fails_at(b"$000000000000000000001\r\n", 22, RespError::InvalidLength);
        for number in
            [&b":\r\n"[..], b":1.5\r\n", b":9223372036854775808\r\n", b",\r\n", b",infinity\r\n"]
        {
            assert_fails_at(number, number.len(), RespError::InvalidNumber);
        }
        for number in [&b"(\r\n"[..], b"(-\r\n", b"(1e3\r\n", b",1.5.5\r\n", b",0x1\r\n"] {
            assert_fails_at(number, number.len(), RespError::InvalidNumber);
        }
        assert_fails_at(b":000000000000000000001\r\n", 22, RespError::InvalidNumber);
        assert_fails_at(b"#x\r\n", 4, RespError::InvalidBoolean);
        assert_fails_at(b"_x\r\n", 4, RespError::InvalidNull);
        assert_fails_at(b"=3\r\ntxt\r\n", 4, RespError::InvalidVerbatim);
        assert_fails_at(b"*1\r\n>1\r\n+x\r\n", 8, RespError::NestedPush);
        let stacked = b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n#t\r\n";
        assert_fails_at(stacked, 16, RespError::StackedAttributes);
        assert_fails_at(b"*1\r\n|0\r\n|0\r\n:1\r\n", 12, RespError::StackedAttributes);
    }

    #[test]
    fn a_reply_of_a_gibibyte_is_refused_at_its_length() {
        let too_long = RespError::TooLong { limit: LIMITS.bytes };
        assert_fails_at(b"$1073741824\r\n", 13, too_long);
        assert_fails_at(b"!1073741824\r\n", 13, too_long);
        assert_fails_at(b"$99999999999999999999\r\n", 23, too_long);
        assert_fails_at(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1073741824\r\n", 37, too_long);
        let sum = [&b"*2\r\n$600000\r\n"[..], &[b'x'; 600_000], b"\r\n$600000\r\n"].concat();
        assert_eq!(scan_at(&sum, [sum.len() - 1]), Ok(Scan::Partial(Missing::Line)));
        assert_eq!(scan_at(&sum, [sum.len()]), Err(too_long), "two payloads count together");
    }

    #[test]
    fn a_reply_of_the_limit_passes_and_one_byte_more_fails() {
        let limits = |bytes| ReplyLimits { bytes, ..LIMITS };
        for bytes in [
            &b"$3\r\nabc\r\n"[..],
            b"+abcdef\r\n",
            b"*2\r\n:1\r\n:2\r\n",
            b"*2\r\n_\r\n_\r\n",
            b"+\r\n",
        ] {
            let len = bytes.len();
            assert_eq!(Scanner::default().scan(bytes, &limits(len)), Ok(Scan::Complete(len)));
            let error = Err(RespError::TooLong { limit: len - 1 });
            assert_eq!(Scanner::default().scan(bytes, &limits(len - 1)), error);
        }
    }

    #[test]
    fn elements_nesting_and_lines_have_limits() {
        let too_many = RespError::TooManyElements { limit: LIMITS.elements };
        assert_fails_at(b"*1001\r\n", 7, too_many);
        assert_fails_at(b"%501\r\n", 6, too_many);
        assert_fails_at(b"*99999999999999999999\r\n", 23, too_many);
        assert_fails_at(b"*1\r\n*1000\r\n", 11, too_many);
        let full = [&b"*1000\r\n"[..], &b"_\r\n".repeat(1000)].concat();
        assert_eq!(scan_at(&full, [full.len()]), Ok(Scan::Complete(full.len())));

        let deepest = [&b"*1\r\n".repeat(MAX_DEPTH)[..], b":7\r\n"].concat();
        assert!(matches!(reply(&deepest).value, Value::Array(_)));
        let deeper = b"*1\r\n".repeat(MAX_DEPTH + 1);
        assert_fails_at(&deeper, deeper.len(), RespError::TooDeep);
        let attributes = b"|1\r\n".repeat(MAX_DEPTH + 1);
        assert_fails_at(&attributes, attributes.len(), RespError::TooDeep);

        let line = [&b"+"[..], &[b'x'; MAX_LINE], b"\r\n"].concat();
        assert_eq!(scan_at(&line, [line.len()]), Ok(Scan::Complete(line.len())));
        let longer = [&b"-"[..], &[b'x'; MAX_LINE + 1]].concat();
        assert_eq!(scan_at(&longer, [longer.len() - 1]), Ok(Scan::Partial(Missing::Line)));
        assert_eq!(scan_at(&longer, [longer.len()]), Err(RespError::LineTooLong));
    }

    #[test]
    fn a_partial_reply_says_what_is_missing() {
        let partial = |bytes| scan_at(bytes, [bytes.len()]);
        assert_eq!(partial(b""), Ok(Scan::Partial(Missing::Line)));
        assert_eq!(partial(b"$100"), Ok(Scan::Partial(Missing::Line)));
        assert_eq!(partial(b"$100\r\n"), Ok(Scan::Partial(Missing::Bytes(102))));
        assert_eq!(partial(b"$1\r\nx\r"), Ok(Scan::Partial(Missing::Bytes(1))));
        assert_eq!(partial(b"*2\r\n:1\r\n"), Ok(Scan::Partial(Missing::Line)));
    }

    #[test]
    fn replies_behind_each_other_are_found_one_by_one() {
        let bytes = b"+OK\r\n:1\r\n>2\r\n+a\r\n+b\r\n_\r\n";
        let (mut scanner, mut rest, mut found) = (Scanner::default(), &bytes[..], Vec::new());
        while let Ok(Scan::Complete(len)) = scanner.scan(rest, &LIMITS) {
            found.push(len);
            rest = &rest[len..];
        }
        assert_eq!((found, rest.len()), (vec![5, 4, 12, 3], 0));
    }

    #[test]
    fn a_message_is_the_same_by_the_short_way_and_by_a_scan() {
        for len in [0, 1, 9, 10, 99, 100, 9999, 10_000, 100_000] {
            let payload = vec![b'\r'; len];
            let mut push = b">3\r\n$7\r\nmessage\r\n$6\r\nprices\r\n".to_vec();
            encode_argument(&[&payload], &mut push);
            push.extend(b":1\r\n");
            let whole = push.len() - 4;
            let message = ChannelMessage::of(&push, &LIMITS).unwrap();
            assert_eq!((message.channel, message.payload), (&b"prices"[..], &payload[..]));
            assert_eq!(message.len, whole);
            assert_eq!(scan_at(&push, [push.len()]), Ok(Scan::Complete(whole)));
            for cut in (0..whole).step_by(1 + len / 100) {
                assert_eq!(ChannelMessage::of(&push[..cut], &LIMITS), None, "cut at {cut}");
            }
            let exact = ReplyLimits { bytes: whole, ..LIMITS };
            assert!(ChannelMessage::of(&push, &exact).is_some());
            let short = ReplyLimits { bytes: whole - 1, ..LIMITS };
            assert_eq!(ChannelMessage::of(&push, &short), None);
        }
        for other in [
            &b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"[..],
            b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n+x\r\n",
            b">3\r\n$7\r\nmessage\r\n$x\r\na\r\n",
            b">3\r\n$7\r\nmessage\r\n$\r\na\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nab\r\n$1\r\nb\r\n",
            b">3\r\n$7\r\nmessage\r\n$9999999999\r\na\r\n",
        ] {
            assert_eq!(ChannelMessage::of(other, &LIMITS), None);
        }
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings_of_known_length() {
        let mut out = b"before".to_vec();
        let long = [b'x'; 1000];
        let args: [&[&[u8]]; 4] = [&[b"SET"], &[], &[b"a", b"", b"\r\nb"], &[&long]];
        encode_command(&args, &mut out);
        let mut expected = b"before*4\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n$1000\r\n".to_vec();
        expected.extend(long);
        expected.extend(CRLF);
        assert_eq!(out, expected);
        assert_eq!(command_len(&args), expected.len() - 6);
        assert!(matches!(value(&out[6..]), Value::Array(elements) if elements.len() == 4));
        for number in [0, 9, 10, 99, 100, usize::MAX] {
            assert_eq!(digits(number), number.to_string().len());
        }
    }
}
