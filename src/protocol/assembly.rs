//! Assembles input that arrives in pieces: a header, a frame, a fragmented message (RFC 6455 §5.4).
//! It exists only while something is incomplete; complete input never passes here.

use super::frame::HeaderStart;
use super::message::interpret;
use super::text::TextBuffer;
use super::{Compressed, Decoded, FrameHeader, Message, Opcode, Rules, Violation, apply_mask};
use std::borrow::Cow;

/// The incomplete part of a stream.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    stage: Stage,
    /// The message whose last fragment is incomplete.
    pub(super) message: Option<OpenMessage>,
}

/// The position of the stream in a frame.
#[derive(Debug)]
enum Stage {
    Header(HeaderBytes),
    /// In a text, binary or continuation frame: its payload goes to the open message.
    Data(OpenFrame),
    /// In a Close, Ping or Pong, with the part of its payload that has arrived, at most 125 bytes.
    Control(OpenFrame, Vec<u8>),
}

impl Default for Stage {
    fn default() -> Self {
        Self::Header(HeaderBytes::default())
    }
}

impl Assembly {
    pub(super) fn is_empty(&self) -> bool {
        self.message.is_none() && matches!(&self.stage, Stage::Header(bytes) if bytes.len == 0)
    }

    pub(super) fn buffered(&self) -> usize {
        let message = self.message.as_ref().map_or(0, OpenMessage::len);
        message
            + match &self.stage {
                Stage::Header(bytes) => bytes.len,
                Stage::Data(_) => 0,
                Stage::Control(_, payload) => payload.len(),
            }
    }

    /// Goes through `input` until something is complete or the input ends.
    pub(super) fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        rules: &Rules,
    ) -> Result<Option<Decoded<'i>>, Violation> {
        loop {
            match &mut self.stage {
                Stage::Header(bytes) => {
                    let Some(header) = bytes.complete(input, rules, self.message.is_some())? else {
                        return Ok(None);
                    };
                    self.begin_frame(&header, rules)?;
                }
                Stage::Data(frame) => {
                    let piece = frame.take_payload(input);
                    if let Some(message) = &mut self.message {
                        message.push(piece)?;
                    }
                    if frame.remaining > 0 {
                        return Ok(None);
                    }
                    let fin = frame.fin;
                    self.stage = Stage::default();
                    if fin && let Some(message) = self.message.take() {
                        return message.finish().map(Some);
                    }
                }
                Stage::Control(frame, held) => {
                    let piece = frame.take_payload(input);
                    if frame.remaining > 0 {
                        held.extend_from_slice(piece);
                        return Ok(None);
                    }
                    let payload = if held.is_empty() {
                        Cow::Borrowed(&*piece)
                    } else {
                        held.extend_from_slice(piece);
                        Cow::Owned(std::mem::take(held))
                    };
                    let opcode = frame.opcode;
                    self.stage = Stage::default();
                    return interpret(opcode, payload).map(Some);
                }
            }
        }
    }

    /// Opens or continues a message, unless its length would break a rule. A control frame does not
    /// affect the message.
    fn begin_frame(&mut self, header: &FrameHeader, rules: &Rules) -> Result<(), Violation> {
        // The cast is safe where it matters: a message is checked against `max_message` below, and
        // a control frame has 125 bytes.
        let frame = OpenFrame {
            opcode: header.opcode,
            fin: header.fin,
            mask: header.mask,
            done: 0,
            remaining: header.len as usize,
        };
        match header.opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                self.stage = Stage::Control(frame, Vec::new());
                return Ok(());
            }
            Opcode::Text | Opcode::Binary if header.rsv1 => {
                let is_text = header.opcode == Opcode::Text;
                self.message =
                    Some(OpenMessage::new(Body::Compressed { is_text, bytes: Vec::new() }));
            }
            Opcode::Text => {
                self.message = Some(OpenMessage::new(Body::Text(TextBuffer::default())))
            }
            Opcode::Binary => self.message = Some(OpenMessage::new(Body::Binary(Vec::new()))),
            Opcode::Continuation => {}
        }
        if let Some(message) = &mut self.message {
            message.admit(header, rules)?;
        }
        self.stage = Stage::Data(frame);
        Ok(())
    }
}

/// The bytes of an incomplete header.
#[derive(Debug, Default)]
struct HeaderBytes {
    bytes: [u8; FrameHeader::MAX_LEN],
    len: usize,
}

impl HeaderBytes {
    /// Takes the missing bytes of the header from `input`. `None`: all of `input` was taken, and
    /// more is needed.
    fn complete(
        &mut self,
        input: &mut &mut [u8],
        rules: &Rules,
        message_is_open: bool,
    ) -> Result<Option<FrameHeader>, Violation> {
        let held = self.len;
        let copied = input.len().min(self.bytes.len() - held);
        self.bytes[held..held + copied].copy_from_slice(&input[..copied]);
        self.len += copied;

        let bytes = &self.bytes[..self.len];
        let header = match HeaderStart::parse(bytes)? {
            Some(start) => {
                start.check(rules, message_is_open)?;
                start.parse_rest(bytes)?
            }
            None => None,
        };
        // The bytes held before did not suffice, so a complete header is longer than they are.
        let taken = header.map_or(copied, |(_, header_len)| header_len - held);
        let _ = input.split_off_mut(..taken);
        if header.is_some() {
            self.len = 0;
        }
        Ok(header.map(|(header, _)| header))
    }
}

/// A frame whose payload is arriving.
#[derive(Debug)]
struct OpenFrame {
    opcode: Opcode,
    fin: bool,
    mask: Option<[u8; 4]>,
    /// Payload bytes already taken.
    done: usize,
    /// Payload bytes still to come.
    remaining: usize,
}

impl OpenFrame {
    /// Takes this frame's payload from `input`, as much as there is, and unmasks it.
    fn take_payload<'i>(&mut self, input: &mut &'i mut [u8]) -> &'i mut [u8] {
        let available = self.remaining.min(input.len());
        let piece = input.split_off_mut(..available).unwrap_or_default();
        if let Some(key) = self.mask {
            apply_mask(piece, key, self.done);
        }
        self.done += piece.len();
        self.remaining -= piece.len();
        piece
    }
}

/// An incomplete message: the part that has arrived.
#[derive(Debug)]
pub(super) struct OpenMessage {
    pub(super) body: Body,
    empty_fragments: u32,
}

#[derive(Debug)]
pub(super) enum Body {
    Text(TextBuffer),
    Binary(Vec<u8>),
    Compressed { is_text: bool, bytes: Vec<u8> },
}

impl OpenMessage {
    fn new(body: Body) -> Self {
        Self { body, empty_fragments: 0 }
    }

    fn len(&self) -> usize {
        match &self.body {
            Body::Text(text) => text.len(),
            Body::Binary(bytes) | Body::Compressed { bytes, .. } => bytes.len(),
        }
    }

    /// Checks that the limits allow the frame of this header; all earlier frames are counted
    /// already.
    fn admit(&mut self, header: &FrameHeader, rules: &Rules) -> Result<(), Violation> {
        let longest = match self.body {
            Body::Compressed { .. } => rules.max_compressed(),
            _ => rules.max_message,
        };
        if header.len > longest.saturating_sub(self.len()) as u64 {
            return Err(Violation::MessageTooBig { limit: rules.max_message });
        }
        let is_fragment = !header.fin || header.opcode == Opcode::Continuation;
        if is_fragment && header.len == 0 {
            self.empty_fragments += 1;
            if self.empty_fragments > rules.max_empty_fragments {
                return Err(Violation::TooManyEmptyFragments { limit: rules.max_empty_fragments });
            }
        }
        Ok(())
    }

    /// Appends unmasked payload. Memory grows with the bytes that arrived, never with the length
    /// that a header declares, because declaring costs a peer nothing.
    fn push(&mut self, piece: &[u8]) -> Result<(), Violation> {
        match &mut self.body {
            Body::Text(text) => text.push(piece),
            Body::Binary(bytes) | Body::Compressed { bytes, .. } => {
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Decoded<'static>, Violation> {
        Ok(match self.body {
            Body::Text(text) => Decoded::Message(Message::from(text.finish()?)),
            Body::Binary(bytes) => Decoded::Message(Message::from(bytes)),
            Body::Compressed { is_text, bytes } => {
                Decoded::Compressed(Compressed { is_text, payload: Cow::Owned(bytes) })
            }
        })
    }
}
