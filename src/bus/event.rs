//! What the handler of the bus is called for.

use std::sync::Arc;
#[cfg(feature = "redis")]
use std::time::Duration;

use super::node::Node;
#[cfg(feature = "redis")]
use crate::redis::BusFailure;

/// What happened between the loops of the process, or between the servers of a bus:
/// [`Server::on_bus`](crate::Server::on_bus).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent {
    /// Messages for this loop are missing. The event comes at their place: what was sent before
    /// them is handled, what was sent later is not.
    #[non_exhaustive]
    Gap {
        /// Where they come from.
        from: GapFrom,
        /// The topic, if they were published on one by another server.
        topic: Option<Arc<str>>,
        /// The number of messages, events and closes that are missing; `None` if it is not known.
        lost: Option<u64>,
    },
    /// The bus is up: messages reach other servers, and theirs reach this one. It needs the feature
    /// `redis`.
    ///
    /// Another server is known when it is first heard, which is within 250 ms of this event, if
    /// Redis and both loops are in time. Until then a [question](crate::Everywhere::count) does not
    /// wait for it, and its answer is complete without it. A server that was known when the bus
    /// went down is known at the next `Up`.
    #[cfg(feature = "redis")]
    #[non_exhaustive]
    Up {
        /// The time since the bus went down, or since it was given to the server.
        was_down_for: Duration,
    },
    /// The bus is down: messages reach only the connections of this process. What other servers
    /// publish on a topic does not come here until Redis has confirmed the topic's subscription
    /// again. [`Up`](Self::Up) fires when all are confirmed, so a few messages, and gaps, may come
    /// before it. The event comes once, however often the connection fails to be made again. It
    /// needs the feature `redis`.
    #[cfg(feature = "redis")]
    #[non_exhaustive]
    Down {
        /// Why.
        why: BusFailure,
        /// The number of messages that Redis has not confirmed. Each may have reached other
        /// servers, or not. Those that other loops of this process have queued in the same moment
        /// are counted by [`BusStats::unconfirmed`](crate::BusStats::unconfirmed) alone.
        unconfirmed: u64,
    },
    /// A server has given no sign of life for 10 s, though the bus was up. One that shuts down is
    /// not announced. It needs the feature `redis`.
    #[cfg(feature = "redis")]
    #[non_exhaustive]
    NodeGone {
        /// Which.
        node: Node,
    },
}

/// Where the messages that are missing come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapFrom {
    /// Another loop of this process, which could not queue them because this loop was too far
    /// behind. The number is its index.
    Loop(usize),
    /// Another server of the bus.
    Node(Node),
    /// Any of the other servers: Redis has ended the subscription. The next message of each server
    /// says how many are missing.
    Unknown,
}
