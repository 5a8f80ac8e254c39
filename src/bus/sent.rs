//! What became of a message for other servers.

use crate::error::BusRefusal;

/// Whether a message is on its way to the other servers of the bus:
/// [`Sent::bus`](crate::Sent::bus).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusSent {
    /// The server has no bus, or the message has nothing to do with other servers.
    #[default]
    None,
    /// It is queued for the bus. It may still be lost when the bus goes down: then other servers
    /// notice it by the next message, and it counts as unconfirmed here.
    Queued,
    /// It reaches no other server.
    Refused(BusRefusal),
}
