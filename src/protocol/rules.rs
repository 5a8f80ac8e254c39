//! What a decoder accepts: the limits, and which frame may stand where (RFC 6455 §5.1, §5.2, §5.4).
//! Knows no bytes but the first two of a frame.

use super::frame::HeaderStart;
use super::{Opcode, Violation};

/// Which side this endpoint is. A server takes masked frames only, a client unmasked ones only (RFC
/// 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Decodes what clients send.
    #[default]
    Server,
    /// Decodes what servers send.
    Client,
}

/// What a [`Decoder`](super::Decoder) accepts. Many decoders share one `Rules`.
///
/// ```
/// use ikisocket::protocol::{Role, Rules};
///
/// let rules = Rules::default().role(Role::Client).max_message(64 * 1024);
/// assert_eq!(rules.max_empty_fragments, 1000);
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which side we are. Default: server.
    pub role: Role,
    /// Longest message in bytes, over all its fragments; exactly so many are
    /// accepted. Default: 1 MiB.
    pub max_message: usize,
    /// How many fragments of one message may be empty. They cost work and count for nothing in
    /// [`max_message`](Self::max_message). Default: 1000.
    pub max_empty_fragments: u32,
    // permessage-deflate: whether it was agreed on belongs here; see `allow`.
}

impl Default for Rules {
    fn default() -> Self {
        Self { role: Role::Server, max_message: 1024 * 1024, max_empty_fragments: 1000 }
    }
}

impl Rules {
    /// Sets [`role`](Self::role).
    #[must_use]
    pub const fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Sets [`max_message`](Self::max_message), in bytes.
    #[must_use]
    pub const fn max_message(self, max_message: usize) -> Self {
        Self { max_message, ..self }
    }

    /// Sets [`max_empty_fragments`](Self::max_empty_fragments).
    #[must_use]
    pub const fn max_empty_fragments(self, max_empty_fragments: u32) -> Self {
        Self { max_empty_fragments, ..self }
    }

    /// Whether a frame may begin so, at this place in the stream: what can be said after two bytes.
    #[inline]
    pub(super) fn allow(&self, start: HeaderStart, message_is_open: bool) -> Result<(), Violation> {
        // permessage-deflate: RSV1 is legal on the first frame of a message once it is agreed on
        // (RFC 7692 §6).
        if start.has_reserved_bits() {
            return Err(Violation::ReservedBits);
        }
        match (self.role, start.is_masked()) {
            (Role::Server, false) => return Err(Violation::Unmasked),
            (Role::Client, true) => return Err(Violation::Masked),
            _ => {}
        }
        match (start.opcode, message_is_open) {
            (Opcode::Continuation, false) => Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, true) => Err(Violation::ExpectedContinuation),
            _ => Ok(()),
        }
    }
}
