//! What a whole frame or message means to its receiver (RFC 6455 §5.5, §5.6). Knows neither headers
//! nor fragments.

use super::{CloseCode, CloseFrame, Message, Opcode, Violation, text};
use std::borrow::Cow;

/// Something complete that a [`Decoder`](super::Decoder) found. Borrowed from the input where it
/// lay there in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'i> {
    /// A whole message, its fragments put together.
    Message(Message<'i>),
    /// A whole message that is still compressed; only if [`Rules::compression`](super::Rules::compression) allows it.
    Compressed(Compressed<'i>),
    /// A Ping, to be answered with a Pong of the same bytes (§5.5.2).
    Ping(Cow<'i, [u8]>),
    /// A Pong; needs no answer (§5.5.3).
    Pong(Cow<'i, [u8]>),
    /// A Close frame, `None` if it was empty; nothing is decoded after it (§5.5.1).
    Close(Option<CloseFrame<'i>>),
}

/// A whole message as permessage-deflate compressed it (RFC 7692 §7.2.1): without the last four bytes of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed<'i> {
    /// What comes out of it must be text.
    pub is_text: bool,
    /// The DEFLATE stream.
    pub payload: Cow<'i, [u8]>,
}

impl Compressed<'_> {
    /// The same, with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> Compressed<'static> {
        Compressed { is_text: self.is_text, payload: Cow::Owned(self.payload.into_owned()) }
    }

    /// The message, given what came out of it.
    ///
    /// # Errors
    ///
    /// [`Violation::InvalidUtf8`] if it must be text and is not.
    pub fn into_message(self, decompressed: Vec<u8>) -> Result<Message<'static>, Violation> {
        if self.is_text {
            let text = String::from_utf8(decompressed).map_err(|_| Violation::InvalidUtf8)?;
            Ok(Message::Text(Cow::Owned(text)))
        } else {
            Ok(Message::Binary(Cow::Owned(decompressed)))
        }
    }
}

/// What the whole, unmasked payload of an unfragmented frame means.
#[inline]
pub(super) fn interpret(opcode: Opcode, payload: Cow<'_, [u8]>) -> Result<Decoded<'_>, Violation> {
    Ok(match opcode {
        Opcode::Text => Decoded::Message(Message::Text(check_text(payload)?)),
        Opcode::Binary => Decoded::Message(Message::Binary(payload)),
        Opcode::Continuation => return Err(Violation::UnexpectedContinuation),
        Opcode::Ping => Decoded::Ping(payload),
        Opcode::Pong => Decoded::Pong(payload),
        Opcode::Close => Decoded::Close(parse_close(payload)?),
    })
}

#[inline]
fn check_text(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Violation> {
    Ok(match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(text::check(bytes)?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?),
    })
}

/// The payload of a Close frame: nothing, or a code and a reason (RFC 6455 §5.5.1, §7.4).
fn parse_close(payload: Cow<'_, [u8]>) -> Result<Option<CloseFrame<'_>>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some(&code) = payload.first_chunk() else {
        return Err(Violation::CloseFrameTooShort);
    };
    let code = CloseCode::from(u16::from_be_bytes(code));
    if !code.is_sendable() {
        return Err(Violation::InvalidCloseCode(code.into()));
    }
    let reason = check_text(match payload {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[size_of::<CloseCode>()..]),
        Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(size_of::<CloseCode>())),
    })?;
    Ok(Some(CloseFrame { code, reason }))
}
