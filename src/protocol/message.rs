//! A whole message, owned or borrowed ([`Message`]), and the cheap view of one ([`Payload`]). Knows
//! nothing of frames.

use super::Opcode;
use std::{borrow::Cow, ops::Deref};

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
    /// A copyable view of this message.
    #[must_use]
    pub fn payload(&self) -> Payload<'_> {
        match self {
            Self::Text(text) => Payload::Text(text),
            Self::Binary(bytes) => Payload::Binary(bytes),
        }
    }

    /// The content, whatever its kind.
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
/// kind, so that it can be passed on as what it was.
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
    /// The content, whatever its kind.
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

/// Empty and binary.
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
    fn a_default_payload_is_empty() {
        assert!(Payload::default().is_empty());
        assert!(Payload::default().is_binary());
        assert!(Message::from(Payload::default()).is_empty());
    }
}
