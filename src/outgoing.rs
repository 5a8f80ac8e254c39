//! What verbs take: a message, and whether it may be compressed.

use crate::protocol::Message;

/// A message that is to be sent. Whatever becomes a [`Message`] becomes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<'m> {
    pub(crate) message: Message<'m>,
    pub(crate) compress: bool,
}

impl<'m, M: Into<Message<'m>>> From<M> for Outgoing<'m> {
    fn from(message: M) -> Self {
        Self { message: message.into(), compress: true }
    }
}

/// A message that is sent as it is, also where compression was agreed on: what is compressed already, or secret beside what a stranger can
/// choose (RFC 7692 §8).
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
        Self { message: message.0.into(), compress: false }
    }
}
