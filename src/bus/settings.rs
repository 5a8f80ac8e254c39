//! The settings of a bus.

use std::time::Duration;

use crate::error::BusError;
use crate::redis::{Address, BusAddressError};

/// The longest prefix, in bytes.
const MAX_PREFIX: usize = 64;

/// A bus that connects servers, on one machine or on many: its address and its settings. It needs
/// the feature `redis`.
///
/// Servers with the same Redis and the same prefix are one: the verbs of
/// [`everywhere()`](crate::Sockets::everywhere) reach the connections of all of them. A server by
/// itself gets the bus by [`Server::bus`](crate::Server::bus), several loops by
/// [`Loops::bus`](crate::Loops::bus). What may be relied on is in the chapter [Many
/// machines](crate::manual::many_machines).
///
/// ```
/// use ikisocket::Bus;
///
/// let bus = Bus::redis("redis://127.0.0.1:6379")?.prefix("app");
/// # let _ = bus;
/// # Ok::<(), ikisocket::BusAddressError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a server has a bus when it is given to it"]
pub struct Bus {
    pub(crate) address: Address,
    pub(crate) prefix: Box<str>,
    pub(crate) outbox_bytes: usize,
    pub(crate) ready_while_down: bool,
    pub(crate) stable_after: Duration,
}

impl Bus {
    /// A bus over the Redis at this address, of version 6 or later: `redis://HOST:PORT`,
    /// `redis://USER:PASSWORD@HOST:PORT/DATABASE` or `redis+unix:///PATH?db=DATABASE`. Nothing is
    /// connected yet.
    ///
    /// # Errors
    ///
    /// [`BusAddressError`](crate::BusAddressError) says what is wrong with the address. Its text
    /// repeats no part of it, because that may be a password.
    pub fn redis(address: &str) -> Result<Self, BusAddressError> {
        Ok(Self {
            address: address.parse()?,
            prefix: "ikisocket".into(),
            outbox_bytes: 16 * 1024 * 1024,
            ready_while_down: true,
            stable_after: Duration::from_secs(10),
        })
    }

    /// What the names of all channels in Redis begin with, from 1 to 64 of the characters `a-z A-Z
    /// 0-9 - _ .`. Programs with different prefixes share a Redis without seeing each other.
    /// Default: `ikisocket`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The most bytes that may wait to be written to Redis: messages, with about 128 bytes for each
    /// beside its own. Default: 16 MiB, from 1 KiB to 256 MiB. What finds no room is refused:
    /// [`BusRefusal::Full`](crate::BusRefusal::Full). A server takes messages of other servers up
    /// to this length or 16 MiB, if that is more: let all servers have the same setting.
    pub fn outbox_bytes(mut self, bytes: usize) -> Self {
        self.outbox_bytes = bytes;
        self
    }

    /// Whether [`Sockets::is_ready`](crate::Sockets::is_ready) is true while the bus is down.
    /// Default: `true`, because connections on the same server still reach each other.
    pub fn ready_while_down(mut self, ready: bool) -> Self {
        self.ready_while_down = ready;
        self
    }

    /// A connection that was up for this long is made again at once, any other after a pause that
    /// doubles. For tests. Default: 10 s.
    #[doc(hidden)]
    pub fn stable_after(mut self, time: Duration) -> Self {
        self.stable_after = time;
        self
    }

    /// Whether every setting is in its range.
    pub(crate) fn check(&self) -> Result<(), BusError> {
        let wrong = |setting, expected| Err(BusError::Setting { setting, expected });
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=MAX_PREFIX).contains(&self.prefix.len()) || !self.prefix.bytes().all(is_usual) {
            return wrong("prefix", "1 to 64 of the characters a-z A-Z 0-9 - _ .");
        }
        if !(1024..=256 * 1024 * 1024).contains(&self.outbox_bytes) {
            return wrong("outbox_bytes", "from 1 KiB to 256 MiB");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_their_range_are_named() {
        let bus = || Bus::redis("redis://localhost").unwrap();
        let wrong = |bus: &Bus| match bus.check() {
            Err(BusError::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        assert_eq!(bus().check(), Ok(()));
        assert_eq!(bus().prefix("my-app_2.x").check(), Ok(()));
        for prefix in ["", "a:b", "a*", "ä", &"x".repeat(65)] {
            assert_eq!(wrong(&bus().prefix(prefix)), "prefix", "{prefix}");
        }
        for bytes in [1023, 256 * 1024 * 1024 + 1] {
            assert_eq!(wrong(&bus().outbox_bytes(bytes)), "outbox_bytes");
        }
    }
}
