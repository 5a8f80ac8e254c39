//! Violations of the protocol on the wire, and the close code that RFC 6455 names for each. This
//! module knows no connection and takes no action: the decoder's caller decides what to send.

use super::CloseCode;

/// A violation of RFC 6455, or of one of our limits, found while decoding.
///
/// Violations are comparable, so a test can say `assert_eq!(outcome, Err(Violation::Unmasked))`.
/// More variants may be added.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// RSV1, RSV2 or RSV3 is set and no extension that was agreed on gives it a meaning there
    /// (§5.2).
    #[error("a reserved header bit is set, and no agreed extension uses it")]
    ReservedBits,
    /// The opcode is one of 3–7 or 11–15 (§5.2).
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// A client sent a frame without a masking key (§5.1).
    #[error("a frame from a client is not masked")]
    Unmasked,
    /// A server sent a frame with a masking key (§5.1).
    #[error("a frame from a server is masked")]
    Masked,
    /// A Close, Ping or Pong without FIN (§5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A Close, Ping or Pong with more than 125 bytes of payload (§5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// The payload length is written in more bytes than it needs (§5.2).
    #[error("a payload length is written in more bytes than it needs")]
    LengthNotMinimal,
    /// The top bit of a 64-bit payload length is set (§5.2).
    #[error("a payload length has its most significant bit set")]
    LengthOverflow,
    /// A continuation frame while no message is open (§5.4).
    #[error("a continuation frame continues nothing")]
    UnexpectedContinuation,
    /// A text or binary frame before the fragmented message in progress was finished (§5.4).
    #[error("a new message begins before the last one is finished")]
    ExpectedContinuation,
    /// Text, or the reason in a Close frame, is not UTF-8 (§8.1).
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A Close frame carries a code that must not be sent (§7.4).
    #[error("close code {0} must not be sent")]
    InvalidCloseCode(u16),
    /// A Close frame with a payload of one byte, where a code needs two (§5.5.1).
    #[error("a close frame is too short for its code")]
    CloseFrameTooShort,
    /// A compressed message is not a DEFLATE stream, or not a whole number of its blocks (RFC 7692
    /// §7.2.2, RFC 1951).
    #[error("a compressed message is not a DEFLATE stream, or was cut inside a block")]
    InvalidDeflate,
    /// A compressed message has more DEFLATE blocks than 1000 plus one for every 128 bytes,
    /// compressed and decompressed together. The RFC allows it, but each block can cost as much as
    /// a kilobyte of data. Compressors that are not flushed after every few bytes stay below the
    /// limit, also with the smallest blocks that zlib can be set to (`memLevel` 1).
    #[error(
        "a compressed message has more than {limit} blocks for its length: flush the compressor less often"
    )]
    TooManyBlocks {
        /// The limit, in blocks of this message.
        limit: usize,
    },
    /// A message is, or says that it will be, longer than
    /// [`Rules::max_message`](super::Rules::max_message).
    #[error("a message is longer than {limit} bytes")]
    MessageTooBig {
        /// The limit in bytes.
        limit: usize,
    },
    /// More fragments without payload than
    /// [`Rules::max_empty_fragments`](super::Rules::max_empty_fragments).
    #[error("a message has more than {limit} empty fragments")]
    TooManyEmptyFragments {
        /// The limit, in fragments of one message.
        limit: u32,
    },
}

impl Violation {
    /// The code to put into the Close frame that answers this (RFC 6455 §7.4.1).
    ///
    /// ```
    /// use ikisocket::protocol::{CloseCode, Violation};
    ///
    /// assert_eq!(Violation::InvalidUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
    /// assert_eq!(Violation::Unmasked.close_code(), CloseCode::PROTOCOL_ERROR);
    /// ```
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::InvalidDeflate => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            // The RFC allows these, so they are not protocol errors but violations of our policy.
            Self::TooManyEmptyFragments { .. } | Self::TooManyBlocks { .. } => {
                CloseCode::POLICY_VIOLATION
            }
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_has_the_close_code_of_the_rfc() {
        use Violation::*;
        for (violation, code) in [
            (ReservedBits, 1002),
            (ReservedOpcode(3), 1002),
            (Unmasked, 1002),
            (Masked, 1002),
            (FragmentedControl, 1002),
            (ControlTooLong, 1002),
            (LengthNotMinimal, 1002),
            (LengthOverflow, 1002),
            (UnexpectedContinuation, 1002),
            (ExpectedContinuation, 1002),
            (InvalidUtf8, 1007),
            (InvalidDeflate, 1007),
            (TooManyBlocks { limit: 1 }, 1008),
            (InvalidCloseCode(1005), 1002),
            (CloseFrameTooShort, 1002),
            (MessageTooBig { limit: 1 }, 1009),
            (TooManyEmptyFragments { limit: 1 }, 1008),
        ] {
            assert_eq!(u16::from(violation.close_code()), code, "{violation:?}");
            assert!(violation.close_code().is_sendable());
        }
    }
}
