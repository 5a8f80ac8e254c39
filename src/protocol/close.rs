//! Close codes and the payload of a Close frame (RFC 6455 §5.5.1, §7.4). It knows nothing of
//! headers or of the closing handshake.

use std::{borrow::Cow, fmt};

/// The longest reason in bytes: 125 of a control frame, less two for the code.
const MAX_REASON: usize = 123;

/// The reason why a connection is closed: the number in a Close frame.
///
/// It can hold any `u16`. Only the codes of [`is_sendable`](Self::is_sendable) may appear on the
/// wire.
///
/// ```
/// use ikisocket::protocol::CloseCode;
///
/// assert_eq!(CloseCode::NORMAL, CloseCode::from(1000));
/// assert_eq!(CloseCode::GOING_AWAY.to_string(), "1001");
/// assert!(!CloseCode::from(1005).is_sendable());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server goes down, or the browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: the endpoint does not accept this kind of data.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1007: data that contradicts its kind, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: the message is against the endpoint's policy, or no other code fits.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message is larger than the endpoint accepts.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: the client needs an extension that the server did not offer.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: the server failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: overloaded, try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway got a bad answer from the server behind it.
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Whether this code may be put into a Close frame, and so also whether a received one is legal
    /// (§7.4): 1000–1003, 1007–1014 (1012–1014 by the IANA registry) and 3000–4999.
    #[must_use]
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content of a received Close frame that was not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The close code; always [sendable](CloseCode::is_sendable) when it comes from the decoder.
    pub code: CloseCode,
    /// The reason in words, at most 123 bytes, often empty. It is for logs: it is the peer's text,
    /// and not to be trusted.
    pub reason: Cow<'a, str>,
}

/// `reason` cut to the 123 bytes that a Close frame has room for, at a character boundary.
#[must_use]
pub(crate) fn truncate_reason(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// Appends the payload of a Close frame to `out`: nothing for `None`, else the code and the reason
/// (RFC 6455 §5.5.1). At most 125 bytes: a reason of more than 123 bytes is cut at a character
/// boundary.
///
/// It does not check whether the code [is sendable](CloseCode::is_sendable).
///
/// ```
/// use ikisocket::protocol::{CloseCode, Opcode, encode_close, encode_frame};
///
/// let mut payload = Vec::new();
/// encode_close(Some((CloseCode::NORMAL, "bye")), &mut payload);
/// let mut frame = Vec::new();
/// encode_frame(Opcode::Close, &payload, &mut frame);
/// assert_eq!(frame, b"\x88\x05\x03\xe8bye");
/// ```
pub fn encode_close(close: Option<(CloseCode, &str)>, out: &mut Vec<u8>) {
    if let Some((code, reason)) = close {
        out.extend_from_slice(&code.0.to_be_bytes());
        out.extend_from_slice(truncate_reason(reason).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_registered_and_private_codes_are_sendable() {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for code in 0..=u16::MAX {
            if CloseCode::from(code).is_sendable() {
                match ranges.last_mut() {
                    Some((_, last)) if *last + 1 == code => *last = code,
                    _ => ranges.push((code, code)),
                }
            }
        }
        assert_eq!(ranges, [(1000, 1003), (1007, 1014), (3000, 4999)]);
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(truncate_reason(""), "");
        assert_eq!(truncate_reason(&"a".repeat(123)).len(), 123);
        assert_eq!(truncate_reason(&"a".repeat(124)).len(), 123);
        for (prefix, expected) in [(119, 123), (120, 120), (121, 121), (122, 122), (123, 123)] {
            let reason = "a".repeat(prefix) + "😀";
            assert_eq!(truncate_reason(&reason).len(), expected, "{prefix}");
        }
    }

    #[test]
    fn a_close_payload_never_exceeds_a_control_frame() {
        let mut payload = Vec::new();
        encode_close(None, &mut payload);
        assert!(payload.is_empty());
        encode_close(Some((CloseCode::from(4999), &"x".repeat(1000))), &mut payload);
        assert_eq!(payload.len(), 125);
        assert_eq!(payload[..3], [0x13, 0x87, b'x']);
    }
}
