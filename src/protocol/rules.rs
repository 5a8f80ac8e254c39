//! The rules of a decoder: its role, the limits, and whether messages may be compressed.

/// The side of this endpoint. A server accepts masked frames only, a client unmasked ones only (RFC
/// 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Decodes frames from clients.
    #[default]
    Server,
    /// Decodes frames from servers.
    Client,
}

/// The rules of a [`Decoder`](super::Decoder). Many decoders share one `Rules`.
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
    /// The side of this endpoint. Default: server.
    pub role: Role,
    /// The longest message that is accepted, in bytes, over all its fragments. Default: 1 MiB.
    pub max_message: usize,
    /// The most fragments of one message that may be empty. They cost work, but add nothing to the
    /// length that [`max_message`](Self::max_message) limits. Default: 1000.
    pub max_empty_fragments: u32,
    /// Whether permessage-deflate was agreed on, so that messages may be
    /// [compressed](super::Decoded::Compressed) (RFC 7692 §6). Default: no.
    pub compression: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            role: Role::Server,
            max_message: 1024 * 1024,
            max_empty_fragments: 1000,
            compression: false,
        }
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

    /// Sets [`compression`](Self::compression).
    #[must_use]
    pub const fn compression(self, compression: bool) -> Self {
        Self { compression, ..self }
    }

    /// The longest compressed message in bytes. Incompressible data grows a little (RFC 1951
    /// §3.2.4), and more in fragments that are compressed one by one. The decompressed message is
    /// limited by `max_message`.
    pub(super) fn max_compressed(&self) -> usize {
        self.max_message.saturating_add(self.max_message / 8).saturating_add(1024)
    }
}
