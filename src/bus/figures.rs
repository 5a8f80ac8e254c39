//! The figures of a bus.

use std::time::Duration;

/// What went between this process and the other servers of a bus, since the bus was given to it:
/// [`Stats::bus`](crate::Stats::bus).
///
/// With [`Loops`](crate::Loops), `published` and `refused` count for the loop that is asked, and
/// all others but `is_up` are those of the first loop, which holds the connection; on other loops
/// they are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusStats {
    /// Whether the bus is up.
    pub is_up: bool,
    /// The other servers that live.
    pub nodes: usize,
    /// The subscriptions that Redis has confirmed.
    pub subscriptions: u64,
    /// The bytes that wait for Redis.
    pub queue_bytes: usize,
    /// The time between the last PING and its answer, in whole milliseconds.
    pub round_trip: Option<Duration>,

    /// Messages, events and closes that were queued for other servers.
    pub published: u64,
    /// Those that were refused: see [`BusRefusal`](crate::BusRefusal).
    pub refused: u64,
    /// Those that were queued, and whose fate is not known because the bus went down.
    pub unconfirmed: u64,
    /// Messages, events and closes of other servers.
    pub received: u64,
    /// The [gaps](crate::BusEvent::Gap) between messages of other servers.
    pub gaps: u64,
    /// The messages that are missing in these gaps, as far as their number is known.
    pub lost: u64,
    /// Messages that came twice or too late, and were dropped.
    pub duplicates: u64,
    /// Messages on the channels of the bus that are not readable: of a newer version, or not of a
    /// server at all.
    pub unreadable: u64,
    /// How often the bus went down.
    pub downs: u64,
    /// Servers that have vanished without a goodbye.
    pub nodes_gone: u64,
}
