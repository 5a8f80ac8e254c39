//! What verbs take: a message, whether it may be compressed, and which earlier one it replaces.

use crate::protocol::Message;

/// A message that is to be sent. Whatever becomes a [`Message`] becomes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<'m> {
    pub(crate) message: Message<'m>,
    pub(crate) options: SendOptions,
}

/// How a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendOptions {
    /// It may be compressed, where that was agreed on.
    pub(crate) compress: bool,
    /// It replaces a waiting message with this key.
    pub(crate) key: Option<u64>,
}

impl SendOptions {
    /// As any message.
    pub(crate) const USUAL: Self = Self { compress: true, key: None };
}

impl<'m, M: Into<Message<'m>>> From<M> for Outgoing<'m> {
    fn from(message: M) -> Self {
        Self { message: message.into(), options: SendOptions::USUAL }
    }
}

/// A message that is sent as it is, also where compression was agreed on: what is compressed
/// already, or secret beside what a stranger can choose (RFC 7692 §8).
///
/// ```
/// # fn listener<S>(kws: &mut ikisocket::Socket<'_, S>, jpeg: &[u8]) {
/// use ikisocket::Uncompressed;
///
/// kws.emit(Uncompressed(jpeg));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncompressed<M>(pub M);

impl<'m, M: Into<Message<'m>>> From<Uncompressed<M>> for Outgoing<'m> {
    fn from(message: Uncompressed<M>) -> Self {
        Self {
            message: message.0.into(),
            options: SendOptions { compress: false, ..SendOptions::USUAL },
        }
    }
}

/// A message that makes the ones before it with the same key worthless, as a price or a position
/// does: while a peer's socket takes nothing, a waiting message with this key is replaced, in its
/// place. A slow reader gets fewer messages, but current ones, and each one whole.
///
/// What the socket has taken, or was being offered when it was found full, is sent; so a reader
/// that goes on gets older values first. Linux takes up to 4 MiB for a TCP socket: where that is
/// too much, give it a smaller `SO_SNDBUF` ([`Socket::transport`](crate::Socket::transport)). Keys
/// are numbers, so that none is copied: give each name a number once. They belong to one
/// connection. What waits with a key takes more memory than its bytes, and counts 128 bytes more
/// against [`Builder::max_outbox`](crate::Builder::max_outbox): 1000 short prices wait in 150 KiB.
///
/// ```
/// # fn listener<S>(kws: &mut ikisocket::Socket<'_, S>) {
/// use ikisocket::Latest;
///
/// const EURUSD: u64 = 7;
/// kws.emit(Latest(EURUSD, "1.0857"));
/// kws.broadcast(Latest(EURUSD, "1.0858"));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest<M>(pub u64, pub M);

impl<'m, M: Into<Outgoing<'m>>> From<Latest<M>> for Outgoing<'m> {
    fn from(latest: Latest<M>) -> Self {
        let Outgoing { message, options } = latest.1.into();
        Self { message, options: SendOptions { key: Some(latest.0), ..options } }
    }
}
