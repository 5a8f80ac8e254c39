//! A whole message, owned or borrowed ([`Message`]), and a cheap view of one ([`Payload`]). It
//! knows nothing of frames.

use super::{CloseCode, CloseFrame, Opcode, Violation, text};
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// A whole text or binary message, borrowed where that is possible (RFC 6455 §5.6).
///
/// Strings become text and bytes become binary:
///
/// ```
/// use ikisocket::protocol::Message;
///
/// assert!(Message::from("hello").is_text());
/// assert!(!Message::from(b"hello").is_text());
/// assert_eq!(Message::from(vec![1, 2, 3]).as_bytes(), [1, 2, 3]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, always valid UTF-8.
    Text(Cow<'a, str>),
    /// Any bytes.
    Binary(Cow<'a, [u8]>),
}

impl Message<'_> {
    /// Returns the same message with content that it owns, to keep it or to send it to another
    /// thread. Only borrowed content is copied.
    #[must_use]
    pub fn into_owned(self) -> Message<'static> {
        match self {
            Self::Text(text) => Message::Text(Cow::Owned(text.into_owned())),
            Self::Binary(bytes) => Message::Binary(Cow::Owned(bytes.into_owned())),
        }
    }

    /// A copyable view of this message.
    #[must_use]
    pub fn payload(&self) -> Payload<'_> {
        match self {
            Self::Text(text) => Payload::Text(text),
            Self::Binary(bytes) => Payload::Binary(bytes),
        }
    }

    /// The content as bytes, whatever its kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.payload().as_bytes()
    }

    /// Length of the content in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there is no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is a text message.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Message<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<Cow<'a, str>> for Message<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self::Text(text)
    }
}

/// Does not copy if nothing else refers to the bytes.
impl From<Bytes> for Message<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(Cow::Owned(bytes.into()))
    }
}

impl<'a> From<&'a Bytes> for Message<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Message<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(Cow::Owned(bytes))
    }
}

impl<'a> From<&'a Vec<u8>> for Message<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Message<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }
}

impl<'a> From<Payload<'a>> for Message<'a> {
    fn from(payload: Payload<'a>) -> Self {
        match payload {
            Payload::Text(text) => Self::from(text),
            Payload::Binary(bytes) => Self::from(bytes),
        }
    }
}

impl<'a> From<&'a Message<'_>> for Message<'a> {
    fn from(message: &'a Message<'_>) -> Self {
        Self::from(message.payload())
    }
}

/// A borrowed message, as small as a slice and `Copy`. It derefs to its bytes and remembers its
/// kind, so that it can be passed on as the same kind.
///
/// ```
/// use ikisocket::protocol::Payload;
///
/// let payload = Payload::from("hello");
/// assert_eq!(payload.as_str(), Some("hello"));
/// assert_eq!(payload.len(), 5);
/// assert!(payload.starts_with(b"he"));
/// assert_eq!(Payload::from(b"hello").as_str(), None); // binary, though it happens to be UTF-8
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Text, always valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// The content as bytes, whatever its kind.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The content of a text message; `None` for a binary one, even if its bytes are UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Whether this is text.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Whether this is binary.
    #[must_use]
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Binary(_))
    }

    /// The opcode of the frame that carries it.
    #[must_use]
    pub fn opcode(self) -> Opcode {
        match self {
            Self::Text(_) => Opcode::Text,
            Self::Binary(_) => Opcode::Binary,
        }
    }
}

/// Shows text unchanged, and of binary data its length.
///
/// ```
/// use ikisocket::Payload;
///
/// assert_eq!(Payload::from("hello").to_string(), "hello");
/// assert_eq!(Payload::from(b"hello").to_string(), "[5 bytes]");
/// ```
impl fmt::Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Binary(bytes) => write!(f, "[{} bytes]", bytes.len()),
        }
    }
}

/// Returns an empty binary payload.
impl Default for Payload<'_> {
    fn default() -> Self {
        Self::Binary(&[])
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Payload<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Binary(bytes)
    }
}

impl<'a> From<&'a Message<'_>> for Payload<'a> {
    fn from(message: &'a Message<'_>) -> Self {
        message.payload()
    }
}

/// A complete unit that a [`Decoder`](super::Decoder) found. It is borrowed from the input if it
/// was there in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'i> {
    /// A whole message, assembled from its fragments.
    Message(Message<'i>),
    /// A whole message that is still compressed; only if
    /// [`Rules::compression`](super::Rules::compression) allows it.
    Compressed(Compressed<'i>),
    /// A Ping, to be answered with a Pong of the same bytes (§5.5.2).
    Ping(Cow<'i, [u8]>),
    /// A Pong; needs no answer (§5.5.3).
    Pong(Cow<'i, [u8]>),
    /// A Close frame, `None` if it was empty; nothing is decoded after it (§5.5.1).
    Close(Option<CloseFrame<'i>>),
}

/// A whole message as permessage-deflate compressed it (RFC 7692 §7.2.1): without the last four
/// bytes of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed<'i> {
    /// Whether the decompressed message must be text.
    pub is_text: bool,
    /// The DEFLATE stream.
    pub payload: Cow<'i, [u8]>,
}

impl Compressed<'_> {
    /// The same message with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> Compressed<'static> {
        Compressed { is_text: self.is_text, payload: Cow::Owned(self.payload.into_owned()) }
    }

    /// Makes the message from its decompressed bytes.
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

/// Interprets the whole, unmasked payload of an unfragmented frame.
#[inline]
pub(super) fn interpret(opcode: Opcode, payload: Cow<'_, [u8]>) -> Result<Decoded<'_>, Violation> {
    Ok(match opcode {
        Opcode::Text => Decoded::Message(Message::Text(text::check_all(payload)?)),
        Opcode::Binary => Decoded::Message(Message::Binary(payload)),
        Opcode::Continuation => return Err(Violation::UnexpectedContinuation),
        Opcode::Ping => Decoded::Ping(payload),
        Opcode::Pong => Decoded::Pong(payload),
        Opcode::Close => Decoded::Close(parse_close(payload)?),
    })
}

/// Parses the payload of a Close frame: nothing, or a code and a reason (RFC 6455 §5.5.1, §7.4).
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
    let reason = text::check_all(match payload {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[size_of::<CloseCode>()..]),
        Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(size_of::<CloseCode>())),
    })?;
    Ok(Some(CloseFrame { code, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_become_text_and_bytes_become_binary() {
        let (string, bytes) = (String::from("hi"), b"hi".to_vec());
        for text in [
            Message::from("hi"),
            Message::from(&string),
            Message::from(string.clone()),
            Message::from(Cow::Borrowed("hi")),
            Message::from(Payload::from(&string)),
        ] {
            assert_eq!(text, Message::Text("hi".into()));
            assert_eq!(text.payload().opcode(), Opcode::Text);
            assert_eq!(Message::from(&text), text);
            assert_eq!(Payload::from(&text), Payload::Text("hi"));
        }
        for binary in [
            Message::from(&bytes[..]),
            Message::from(&bytes),
            Message::from(bytes.clone()),
            Message::from(b"hi"),
            Message::from(Payload::from(&bytes)),
            Message::from(Payload::from(b"hi")),
        ] {
            assert_eq!(binary, Message::Binary(b"hi".into()));
            assert_eq!(binary.payload().opcode(), Opcode::Binary);
            assert_eq!(Payload::from(&binary), Payload::Binary(b"hi"));
        }
    }

    #[test]
    fn a_message_tells_its_content_and_its_kind() {
        let (text, binary) = (Message::from("hi"), Message::from(b"hi!"));
        assert_eq!((text.len(), text.is_empty(), text.is_text()), (2, false, true));
        assert_eq!((binary.len(), binary.is_empty(), binary.is_text()), (3, false, false));
        assert_eq!((text.payload().as_str(), binary.payload().as_str()), (Some("hi"), None));
        assert_eq!((text.payload().is_text(), text.payload().is_binary()), (true, false));
        assert_eq!((binary.payload().is_text(), binary.payload().is_binary()), (false, true));
        assert_eq!(&*binary.payload(), b"hi!");
    }

    #[test]
    fn a_message_that_owns_its_content_is_the_same_message() {
        let (text, bytes) = (String::from("hi"), b"hi".to_vec());
        for message in [Message::from(&text), Message::from(&bytes), Message::from("hi".to_owned())]
        {
            let owned: Message<'static> = message.clone().into_owned();
            assert_eq!(owned, message);
        }
    }

    #[test]
    fn bytes_become_binary_and_are_not_copied_if_nothing_else_refers_to_them() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        let place = bytes.as_ptr();
        assert_eq!(Message::from(&bytes), Message::Binary([1, 2, 3][..].into()));
        assert_eq!(Message::from(bytes).as_bytes().as_ptr(), place);
    }

    #[test]
    fn a_default_payload_is_empty() {
        assert!(Payload::default().is_empty());
        assert!(Payload::default().is_binary());
        assert!(Message::from(Payload::default()).is_empty());
    }
}
