//! The bytes of one message between servers: what a node publishes into a channel of Redis. It
//! knows no channel and no connection to Redis, and decodes without copying.
//!
//! ```text
//!   0 │ 1 │ 2 …  7 │ 8 … 15 │
//!  ───┼───┼────────┼────────┼─────────┬─────────┬─────────
//!   1 │ k │  node  │ number │   key   │ by kind │ payload
//!   │   │                       8 bytes, with the flag
//!   │   └ 0x1f kind, and flags: 0x20 uncompressed, 0x40 latest: a key follows, 0x80 binary
//!   └ the version
//!
//!   kind         by kind                                      flags, key, payload
//!    1 publish   –                                            yes
//!    2 broadcast –                                            yes
//!    3 emit      uuid                                         yes
//!    4 to a list u32 count, uuids                             yes
//!    5 fire      u16 length, event                            yes
//!    6 close     uuid, u16 code, u16 length, reason           no
//!    7 ask       u64 query, u8 question, u16 length, topic    no
//!    8 count     u64 query, u8 1 if complete, u64 count       no
//!    9 uuids     u64 query, u8 1 if complete | 2 more, uuids  no
//!   10 heartbeat –                                            no
//!   11 bye       –                                            no
//! ```
//!
//! Numbers are big endian; a uuid has 16 bytes. Each message has one encoding: decoding refuses all
//! others, such as bytes behind the end, or flags where they mean nothing. So a later version can
//! give them a meaning.
//!
//! Other programs can publish into the same channels. So decoding checks all that a server relies
//! on when it sends the message to its clients: text is UTF-8, and a close code may be sent.

use std::fmt;

use uuid::Uuid;

use super::batch::Question;
use crate::outbox::SendOptions;
use crate::protocol::{CloseCode, Opcode, check_text, truncate_reason};

const VERSION: u8 = 1;

/// Version, kind, node and number.
const HEADER: usize = 16;

const KIND: u8 = 0x1f;
const UNCOMPRESSED: u8 = 0x20;
const LATEST: u8 = 0x40;
const BINARY: u8 = 0x80;

const PUBLISH: u8 = 1;
const BROADCAST: u8 = 2;
const EMIT: u8 = 3;
const EMIT_LIST: u8 = 4;
const FIRE: u8 = 5;
const CLOSE: u8 = 6;
const ASK: u8 = 7;
const COUNT: u8 = 8;
const UUIDS: u8 = 9;
const HEARTBEAT: u8 = 10;
const BYE: u8 = 11;

const COMPLETE: u8 = 1;
const MORE: u8 = 2;

const UUID: usize = 16;

/// The longest event of a [`Body::Fire`] and topic of a [`Body::Ask`], in bytes. The verbs refuse
/// longer ones.
pub(crate) const LONGEST_TEXT: usize = u16::MAX as usize;

/// A message between servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'f> {
    /// The node that has published it: 48 bits.
    pub(crate) node: u64,
    /// Its number among the messages of this node in this channel.
    pub(crate) number: u64,
    pub(crate) body: Body<'f>,
}

/// A message for connections or listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content<'f> {
    /// [`Opcode::Text`] or [`Opcode::Binary`].
    pub(crate) opcode: Opcode,
    pub(crate) options: SendOptions,
    pub(crate) payload: &'f [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body<'f> {
    /// The topic is that of the channel.
    Publish(Content<'f>),
    Broadcast(Content<'f>),
    Emit(Uuid, Content<'f>),
    EmitList(UuidList<'f>, Content<'f>),
    /// The listeners of this event are called.
    Fire(&'f str, Content<'f>),
    /// A reason is cut to what fits into a Close frame.
    Close(Uuid, CloseCode, &'f str),
    Ask {
        /// The number by which the asking node knows the question.
        query: u64,
        /// Not [`Question::Stats`]: figures are asked of one process only. No node can read it.
        question: Question,
        topic: &'f str,
    },
    Answer {
        query: u64,
        /// Whether all loops of the answering node have answered.
        is_complete: bool,
        found: Found<'f>,
    },
    Heartbeat,
    /// The node ends.
    Bye,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'f> {
    Count(u64),
    Uuids {
        uuids: UuidList<'f>,
        /// Whether another part of the same answer follows.
        more: bool,
    },
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Another version than this one; 0 is no version, but a probe of the session.
    Version(u8),
    Malformed(&'static str),
}

/// A view of uuids.
#[derive(Clone, Copy)]
pub(crate) enum UuidList<'f> {
    Uuids(&'f [Uuid]),
    /// As they were received.
    Bytes(&'f [[u8; UUID]]),
}

impl<'f> UuidList<'f> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Uuids(uuids) => uuids.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Uuid> + use<'f> {
        // One of the two is empty.
        let (uuids, bytes) = match *self {
            Self::Uuids(uuids) => (uuids, &[][..]),
            Self::Bytes(bytes) => (&[][..], bytes),
        };
        uuids.iter().copied().chain(bytes.iter().copied().map(Uuid::from_bytes))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Uuids(uuids) => uuids.iter().for_each(|uuid| out.extend(uuid.as_bytes())),
            Self::Bytes(bytes) => out.extend_from_slice(bytes.as_flattened()),
        }
    }
}

impl<'f> From<&'f [Uuid]> for UuidList<'f> {
    fn from(uuids: &'f [Uuid]) -> Self {
        Self::Uuids(uuids)
    }
}

impl fmt::Debug for UuidList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for UuidList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UuidList<'_> {}

impl<'f> Body<'f> {
    fn content(&self) -> Option<&Content<'f>> {
        match self {
            Self::Publish(content)
            | Self::Broadcast(content)
            | Self::Emit(_, content)
            | Self::EmitList(_, content)
            | Self::Fire(_, content) => Some(content),
            _ => None,
        }
    }

    /// What follows behind the head.
    pub(crate) fn payload(&self) -> &'f [u8] {
        self.content().map_or(&[], |content| content.payload)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Publish(_) => PUBLISH,
            Self::Broadcast(_) => BROADCAST,
            Self::Emit(..) => EMIT,
            Self::EmitList(..) => EMIT_LIST,
            Self::Fire(..) => FIRE,
            Self::Close(..) => CLOSE,
            Self::Ask { .. } => ASK,
            Self::Answer { found: Found::Count(_), .. } => COUNT,
            Self::Answer { found: Found::Uuids { .. }, .. } => UUIDS,
            Self::Heartbeat => HEARTBEAT,
            Self::Bye => BYE,
        }
    }
}

/// The length of what [`encode_head`] writes.
pub(crate) fn head_len(body: &Body<'_>) -> usize {
    let has_key = body.content().is_some_and(|content| content.options.key.is_some());
    let key = if has_key { 8 } else { 0 };
    let fixed = match body {
        Body::Publish(_) | Body::Broadcast(_) | Body::Heartbeat | Body::Bye => 0,
        Body::Emit(..) => UUID,
        Body::EmitList(uuids, _) => 4 + UUID * uuids.len(),
        Body::Fire(event, _) => 2 + cut(event).len(),
        Body::Close(_, _, reason) => UUID + 2 + 2 + truncate_reason(reason).len(),
        Body::Ask { topic, .. } => 8 + 1 + 2 + cut(topic).len(),
        Body::Answer { found: Found::Count(_), .. } => 8 + 1 + 8,
        Body::Answer { found: Found::Uuids { uuids, .. }, .. } => 8 + 1 + UUID * uuids.len(),
    };
    HEADER + key + fixed
}

/// Appends everything that stands in front of the payload. Of the node, 48 bits count.
///
/// An event or topic that is longer than [`LONGEST_TEXT`] would be cut, so that the message stays
/// readable: the caller refuses it before.
pub(crate) fn encode_head(node: u64, number: u64, body: &Body<'_>, head: &mut Vec<u8>) {
    head.reserve(head_len(body));
    let mut first = body.kind();
    let content = body.content();
    if let Some(content) = content {
        let flags = [
            (!content.options.compress, UNCOMPRESSED),
            (content.options.key.is_some(), LATEST),
            (content.opcode != Opcode::Text, BINARY),
        ];
        first |= flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
    }
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&node.to_be_bytes());
    header[..2].copy_from_slice(&[VERSION, first]);
    header[8..].copy_from_slice(&number.to_be_bytes());
    head.extend_from_slice(&header);
    if let Some(key) = content.and_then(|content| content.options.key) {
        head.extend_from_slice(&key.to_be_bytes());
    }
    match body {
        Body::Publish(_) | Body::Broadcast(_) | Body::Heartbeat | Body::Bye => {}
        Body::Emit(uuid, _) => head.extend_from_slice(uuid.as_bytes()),
        Body::EmitList(uuids, _) => {
            // A message of Redis has at most 512 MiB, which 32 bits of uuids exceed by far.
            head.extend_from_slice(&(uuids.len() as u32).to_be_bytes());
            uuids.encode(head);
        }
        Body::Fire(event, _) => encode_text(cut(event), head),
        Body::Close(uuid, code, reason) => {
            head.extend_from_slice(uuid.as_bytes());
            head.extend_from_slice(&u16::from(*code).to_be_bytes());
            encode_text(truncate_reason(reason), head);
        }
        Body::Ask { query, question, topic } => {
            head.extend_from_slice(&query.to_be_bytes());
            head.push(match question {
                Question::Open => 0,
                Question::Uuids => 1,
                Question::MemberCount => 2,
                Question::Members => 3,
                Question::Stats => u8::MAX,
            });
            encode_text(cut(topic), head);
        }
        Body::Answer { query, is_complete, found } => {
            head.extend_from_slice(&query.to_be_bytes());
            let complete = if *is_complete { COMPLETE } else { 0 };
            match found {
                Found::Count(count) => {
                    head.push(complete);
                    head.extend_from_slice(&count.to_be_bytes());
                }
                Found::Uuids { uuids, more } => {
                    head.push(complete | if *more { MORE } else { 0 });
                    uuids.encode(head);
                }
            }
        }
    }
}

/// Appends a text that is not too long, and its length.
fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The beginning of a text whose length can be written.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

const TOO_SHORT: Unreadable = Unreadable::Malformed("it is too short");

/// Decodes a message. Any bytes may come.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, Unreadable> {
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(Unreadable::Version(version)),
        None => return Err(TOO_SHORT),
    }
    let mut rest = Rest(bytes);
    // Version, kind and node share the first eight bytes.
    let (first, number) = (rest.number()?, rest.number()?);
    let (kind, node) = ((first >> 48) as u8, first & ((1 << 48) - 1));
    let flags = kind & !KIND;
    let body = match kind & KIND {
        PUBLISH => Body::Publish(rest.options(flags)?.content(rest)),
        BROADCAST => Body::Broadcast(rest.options(flags)?.content(rest)),
        EMIT => {
            let options = rest.options(flags)?;
            Body::Emit(rest.uuid()?, options.content(rest))
        }
        EMIT_LIST => {
            let options = rest.options(flags)?;
            let count = u32::from_be_bytes(rest.take()?);
            Body::EmitList(rest.uuids(count as usize)?, options.content(rest))
        }
        FIRE => {
            let options = rest.options(flags)?;
            Body::Fire(rest.text()?, options.content(rest))
        }
        _ if flags != 0 => return Err(Unreadable::Malformed("flags without content")),
        kind => {
            let body = rest.without_content(kind)?;
            if !rest.0.is_empty() {
                return Err(Unreadable::Malformed("bytes behind the end"));
            }
            body
        }
    };
    // Not where the payload is taken: that code is short enough to be inlined then.
    if let Some(Content { opcode: Opcode::Text, payload, .. }) = body.content() {
        checked(payload)?;
    }
    Ok(Frame { node, number, body })
}

/// What stands in front of a payload, but is said of it.
struct Options(Opcode, SendOptions);

impl Options {
    /// The rest is the payload.
    #[inline]
    fn content(self, rest: Rest<'_>) -> Content<'_> {
        Content { opcode: self.0, options: self.1, payload: rest.0 }
    }
}

fn checked(text: &[u8]) -> Result<&str, Unreadable> {
    check_text(text).map_err(|_| Unreadable::Malformed("text that is not UTF-8"))
}

/// What is not decoded yet.
struct Rest<'f>(&'f [u8]);

impl<'f> Rest<'f> {
    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn slice(&mut self, len: usize) -> Result<&'f [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn number(&mut self) -> Result<u64, Unreadable> {
        self.take().map(u64::from_be_bytes)
    }

    fn uuid(&mut self) -> Result<Uuid, Unreadable> {
        self.take().map(Uuid::from_bytes)
    }

    fn uuids(&mut self, count: usize) -> Result<UuidList<'f>, Unreadable> {
        // Elsewhere `usize` has 32 bits.
        let bytes = self.slice(count.checked_mul(UUID).ok_or(TOO_SHORT)?)?;
        Ok(UuidList::Bytes(bytes.as_chunks().0))
    }

    fn text(&mut self) -> Result<&'f str, Unreadable> {
        let len = u16::from_be_bytes(self.take()?);
        checked(self.slice(len.into())?)
    }

    #[inline]
    fn options(&mut self, flags: u8) -> Result<Options, Unreadable> {
        let opcode = if flags & BINARY == 0 { Opcode::Text } else { Opcode::Binary };
        let key = if flags & LATEST == 0 { None } else { Some(self.number()?) };
        Ok(Options(opcode, SendOptions { compress: flags & UNCOMPRESSED == 0, key }))
    }

    /// The body of a kind that has no content.
    fn without_content(&mut self, kind: u8) -> Result<Body<'f>, Unreadable> {
        Ok(match kind {
            CLOSE => {
                let uuid = self.uuid()?;
                let code = CloseCode::from(u16::from_be_bytes(self.take()?));
                let reason = self.text()?;
                if !code.is_sendable() {
                    return Err(Unreadable::Malformed("a close code that cannot be sent"));
                }
                if truncate_reason(reason).len() < reason.len() {
                    return Err(Unreadable::Malformed("a reason that is too long"));
                }
                Body::Close(uuid, code, reason)
            }
            ASK => {
                let query = self.number()?;
                let question = match self.take()? {
                    [0] => Question::Open,
                    [1] => Question::Uuids,
                    [2] => Question::MemberCount,
                    [3] => Question::Members,
                    _ => return Err(Unreadable::Malformed("an unknown question")),
                };
                Body::Ask { query, question, topic: self.text()? }
            }
            COUNT | UUIDS => {
                let query = self.number()?;
                let [bits] = self.take()?;
                let known = if kind == COUNT { COMPLETE } else { COMPLETE | MORE };
                if bits & !known != 0 {
                    return Err(Unreadable::Malformed("unknown bits of an answer"));
                }
                let found = if kind == COUNT {
                    Found::Count(self.number()?)
                } else {
                    let uuids = self.uuids(self.0.len() / UUID)?;
                    Found::Uuids { uuids, more: bits & MORE != 0 }
                };
                Body::Answer { query, is_complete: bits & COMPLETE != 0, found }
            }
            HEARTBEAT => Body::Heartbeat,
            BYE => Body::Bye,
            _ => return Err(Unreadable::Malformed("an unknown kind")),
        })
    }
}

/// Decodes a message, and appends its encoding: for the fuzz target and the tests of memory.
pub fn reencode_bus_frame<'b>(
    bytes: &'b [u8],
    out: &mut Vec<u8>,
) -> Result<impl fmt::Debug + use<'b>, impl fmt::Debug + use<>> {
    let frame = decode(bytes)?;
    encode_head(frame.node, frame.number, &frame.body, out);
    out.extend_from_slice(frame.body.payload());
    Ok::<_, Unreadable>(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: SendOptions = SendOptions::USUAL;
    const NODE: u64 = 0x0102_0304_0506;
    const NUMBER: u64 = 0x0708_090a_0b0c_0d0e;

    fn text(payload: &str) -> Content<'_> {
        Content { opcode: Opcode::Text, options: USUAL, payload: payload.as_bytes() }
    }

    fn message(body: &Body<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_head(NODE, NUMBER, body, &mut bytes);
        assert_eq!(bytes.len(), head_len(body), "{body:?}");
        bytes.extend_from_slice(body.payload());
        bytes
    }

    const UUIDS_SENT: [Uuid; 3] = [Uuid::nil(), Uuid::max(), Uuid::from_u128(7)];

    /// At least one of each kind, with and without what is optional.
    fn bodies() -> Vec<Body<'static>> {
        let (long, key) = ("é".repeat(100).leak(), Some(u64::MAX - 1));
        let all = UuidList::from(&UUIDS_SENT[..]);
        let mut bodies = vec![
            Body::Close(Uuid::max(), CloseCode::NORMAL, ""),
            Body::Close(Uuid::nil(), CloseCode::from(4999), "reason"),
            Body::Ask { query: 1, question: Question::Open, topic: "" },
            Body::Ask { query: 2, question: Question::Uuids, topic: "" },
            Body::Ask { query: 3, question: Question::MemberCount, topic: "prices" },
            Body::Ask { query: u64::MAX, question: Question::Members, topic: long },
            Body::Heartbeat,
            Body::Bye,
        ];
        for options in [
            USUAL,
            SendOptions { compress: false, key: None },
            SendOptions { compress: true, key },
            SendOptions { compress: false, key },
        ] {
            for (opcode, payload) in [
                (Opcode::Text, &b""[..]),
                (Opcode::Text, long.as_bytes()),
                (Opcode::Binary, b"\x80\xff"),
            ] {
                let content = Content { opcode, options, payload };
                bodies.extend([
                    Body::Publish(content),
                    Body::Broadcast(content),
                    Body::Emit(Uuid::from_u128(5), content),
                    Body::EmitList(all, content),
                    Body::EmitList(UuidList::from(&[][..]), content),
                    Body::Fire("", content),
                    Body::Fire("event", content),
                ]);
            }
        }
        for is_complete in [false, true] {
            let counted = Found::Count(u64::MAX - 7);
            bodies.push(Body::Answer { query: 9, is_complete, found: counted });
            for (uuids, more) in [(all, false), (all, true), (UuidList::from(&[][..]), false)] {
                let found = Found::Uuids { uuids, more };
                bodies.push(Body::Answer { query: 9, is_complete, found });
            }
        }
        bodies
    }

    #[test]
    fn each_message_comes_out_as_it_went_in() {
        for body in bodies() {
            let bytes = message(&body);
            assert_eq!(decode(&bytes), Ok(Frame { node: NODE, number: NUMBER, body }));
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_these() {
        let head = "0123456789abcdef\
                    0000000000000001";
        let bytes = |body: Body<'_>| {
            let mut bytes = Vec::new();
            // The upper bits are none of the node's.
            encode_head(0xffff_4567_89ab_cdef, 1, &body, &mut bytes);
            bytes.extend_from_slice(body.payload());
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let expect = |body, kind: &str, rest: &str| {
            let head = head.replacen("0123", &format!("01{kind}"), 1);
            assert_eq!(bytes(body), head + &rest.replace(' ', ""));
        };
        let (seven, nil) = ("00000000000000000000000000000007", "0".repeat(32));
        let options = SendOptions { compress: false, key: Some(2) };
        let binary = Content { opcode: Opcode::Binary, options, payload: b"\x80" };
        expect(Body::Publish(text("hi")), "01", "6869");
        expect(Body::Broadcast(binary), "e2", "0000000000000002 80");
        expect(Body::Emit(Uuid::from_u128(7), text("hi")), "03", &format!("{seven} 6869"));
        let list = [Uuid::nil(), Uuid::from_u128(7)];
        let expected = format!("00000002 {nil} {seven} 6869");
        expect(Body::EmitList(UuidList::from(&list[..]), text("hi")), "04", &expected);
        expect(Body::Fire("é", binary), "e5", "0000000000000002 0002 c3a9 80");
        let expected = format!("{nil} 03e8 0002 6869");
        expect(Body::Close(Uuid::nil(), CloseCode::NORMAL, "hi"), "06", &expected);
        let ask = Body::Ask { query: 3, question: Question::Members, topic: "hi" };
        expect(ask, "07", "0000000000000003 03 0002 6869");
        let found = Found::Count(4);
        let answer = Body::Answer { query: 3, is_complete: true, found };
        expect(answer, "08", "0000000000000003 01 0000000000000004");
        let found = Found::Uuids { uuids: UuidList::from(&list[..]), more: true };
        let answer = Body::Answer { query: 3, is_complete: false, found };
        expect(answer, "09", &format!("0000000000000003 02 {nil} {seven}"));
        expect(Body::Heartbeat, "0a", "");
        expect(Body::Bye, "0b", "");
    }

    #[test]
    fn only_a_payload_may_be_cut_off_or_go_on() {
        for body in bodies() {
            let mut bytes = message(&body);
            let head = head_len(&body);
            let is_list = matches!(body, Body::Answer { found: Found::Uuids { .. }, .. });
            let list_from = if is_list { HEADER + 9 } else { usize::MAX };
            for len in 0..head {
                let is_whole_list = len >= list_from && (len - list_from) % UUID == 0;
                assert_eq!(decode(&bytes[..len]).is_ok(), is_whole_list, "{body:?} of {len} bytes");
            }
            bytes.push(b'x');
            assert_eq!(decode(&bytes).is_ok(), body.content().is_some(), "{body:?}");
        }
    }

    #[test]
    fn nothing_that_a_server_must_not_send_is_read() {
        let refused = |bytes: &[u8], why| {
            assert_eq!(decode(bytes), Err(Unreadable::Malformed(why)), "{bytes:x?}");
        };
        let not_text = "text that is not UTF-8";
        for len in [1, 63, 64, 200] {
            let mut bytes = message(&Body::Publish(text(&"x".repeat(len))));
            *bytes.last_mut().unwrap() = 0xc3;
            refused(&bytes, not_text);
            bytes[1] |= BINARY;
            assert!(decode(&bytes).is_ok());
        }
        let mut bytes = message(&Body::Fire("e", text("")));
        *bytes.last_mut().unwrap() = 0xff;
        refused(&bytes, not_text);
        for code in [0, 999, 1005, 1006, 1015, 2999, 5000, u16::MAX] {
            let bytes = message(&Body::Close(Uuid::nil(), CloseCode::from(code), ""));
            refused(&bytes, "a close code that cannot be sent");
        }
        let mut bytes = message(&Body::Close(Uuid::nil(), CloseCode::NORMAL, ""));
        bytes.truncate(bytes.len() - 2);
        encode_text(&"x".repeat(124), &mut bytes);
        refused(&bytes, "a reason that is too long");
        let ask = Body::Ask { query: 1, question: Question::Stats, topic: "" };
        refused(&message(&ask), "an unknown question");
        let answer = Body::Answer { query: 1, is_complete: true, found: Found::Count(1) };
        let mut bytes = message(&answer);
        bytes[HEADER + 8] |= MORE;
        refused(&bytes, "unknown bits of an answer");
        for flag in [UNCOMPRESSED, LATEST, BINARY] {
            let mut bytes = message(&Body::Heartbeat);
            bytes[1] |= flag;
            refused(&bytes, "flags without content");
        }
        for kind in [0, BYE + 1, KIND] {
            let mut bytes = message(&Body::Heartbeat);
            bytes[1] = kind;
            refused(&bytes, "an unknown kind");
        }
        let mut bytes = message(&Body::EmitList(UuidList::from(&[][..]), text("")));
        bytes[HEADER..].fill(0xff);
        refused(&bytes, "it is too short");
    }

    #[test]
    fn another_version_is_named() {
        for version in [0, 2, 255] {
            assert_eq!(decode(&[version]), Err(Unreadable::Version(version)));
        }
        assert_eq!(decode(&[]), Err(TOO_SHORT));
    }

    #[test]
    fn a_text_that_is_too_long_leaves_the_message_readable() {
        let long = "é".repeat(40_000);
        let bytes = message(&Body::Fire(&long, text("payload")));
        let expected = Body::Fire(&long[..LONGEST_TEXT - 1], text("payload"));
        assert_eq!(decode(&bytes).unwrap().body, expected);
        let bytes = message(&Body::Close(Uuid::nil(), CloseCode::NORMAL, &long));
        let expected = Body::Close(Uuid::nil(), CloseCode::NORMAL, &long[..122]);
        assert_eq!(decode(&bytes).unwrap().body, expected);
    }
}
