//! Limits of connections, in the units of the loop. The builder documents what each limit means and
//! where it comes from.

use std::time::Duration;

use crate::http::HeadLimits;
use crate::protocol::Rules;

/// The `Retry-After`, in seconds, of refusals that are due to the server's state and not to the
/// request.
pub(crate) const RETRY_AFTER: u32 = 5;

/// The limits that the hub enforces on connections; times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) handshake_timeout: u64,
    pub(crate) ping_after: u64,
    pub(crate) dead_after: u64,
    pub(crate) close_timeout: u64,
    pub(crate) stall_timeout: u64,
    /// Bytes per second.
    pub(crate) closing_rate: u64,
    /// Bytes that the kernel and the peer's receive buffer may hold when a socket is full.
    pub(crate) kernel_holds: u64,
    pub(crate) rules: Rules,
    /// The same for connections that agreed on compression.
    pub(crate) compressed_rules: Rules,
    pub(crate) max_outbox: usize,
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    pub(crate) head: HeadLimits,
    pub(crate) max_connections: usize,
    pub(crate) max_topics: usize,
}

impl Limits {
    /// How long a peer may be silent before it is disconnected.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(self.ping_after.saturating_add(self.dead_after))
    }

    /// How long a peer may take to read this number of bytes from a connection that ends.
    pub(crate) fn closing_time(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(1000).div_ceil(self.closing_rate)
    }

    /// How long a peer may take nothing before it is disconnected.
    pub(crate) fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_timeout)
    }
}
