//! The argument of verbs that send: a message, whether it may be compressed, and which earlier one
//! it replaces.

use crate::protocol::Message;

/// A message that is to be sent. Every type that converts into a [`Message`] converts into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<'m> {
    pub(crate) message: Message<'m>,
    pub(crate) options: SendOptions,
}

/// The options of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendOptions {
    /// Whether it may be compressed on connections that agreed on compression.
    pub(crate) compress: bool,
    /// The key, if it replaces a waiting message with this key.
    pub(crate) key: Option<u64>,
}

impl SendOptions {
    /// The options of an ordinary message.
    pub(crate) const USUAL: Self = Self { compress: true, key: None };
}

impl<'m, M: Into<Message<'m>>> From<M> for Outgoing<'m> {
    fn from(message: M) -> Self {
        Self { message: message.into(), options: SendOptions::USUAL }
    }
}

/// A message that is sent uncompressed, also on connections that agreed on compression. Use it for
/// data that is compressed already, and for secrets beside text that a stranger can choose (RFC
/// 7692 §8).
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

/// A message of which only the latest value counts, such as a price or a position: it replaces a
/// waiting message with the same key.
///
/// `Latest(key, message)` works with every verb that sends. While a peer's socket takes nothing,
/// messages wait in its outbox. If one with the same key waits there, the new one takes its place
/// in the order. So a slow reader gets fewer messages, each of them whole, and the newest value of
/// each key. While the socket takes messages, nothing is replaced.
///
/// **Not replaced** are bytes that the socket has taken, or was being offered when it was found
/// full: these are sent. So a reader that continues after a pause gets older values first. On Linux
/// these are up to 128 KiB in the server's kernel
/// ([`Builder::notsent_lowat`](crate::Builder::notsent_lowat)), plus the bytes in flight and in the
/// peer's receive buffer. For less, set a lower `notsent_lowat`. Small messages fill these buffers
/// slowly: 26 bytes at 60 Hz are then a minute old. What to do about that is in
/// [the manual](crate::manual::emitting#where-only-the-latest-value-counts).
///
/// **Keys** are numbers, so that no key is copied: give each name a number once. A key belongs to
/// one connection. The same key on another connection replaces nothing here.
///
/// **Memory.** A waiting message with a key counts 128 bytes more than its frame against
/// [`Builder::max_outbox`](crate::Builder::max_outbox): 1000 short prices wait in 150 KiB. The
/// number of keys bounds the number of such messages.
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
