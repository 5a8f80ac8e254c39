//! The settings of a shutdown.

use std::time::Duration;

use crate::protocol::CloseCode;

/// The settings of a shutdown: [`Sockets::shutdown`](crate::Sockets::shutdown). Before a restart,
/// set a spread, so that clients which reconnect do not overload the next server. Code 1012 says
/// restart, but some clients take it for an error: [close codes](crate::manual::close_codes).
///
/// ```
/// use std::time::Duration;
/// use ikisocket::Shutdown;
///
/// let at_once = Shutdown::default().deadline(Duration::from_millis(100));
/// assert_eq!(at_once.code.to_string(), "1001");
///
/// let spread = Duration::from_secs(30);
/// let restart = Shutdown::default().reason("back soon").spread(spread);
/// # let _ = restart;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it is handed to `shutdown`"]
pub struct Shutdown {
    /// The close code for all connections. Default: 1001, going away.
    pub code: CloseCode,
    /// The reason for all connections, cut to 123 bytes. Default: "Server shutdown".
    pub reason: String,
    /// The time over which the closes are spread evenly, so that clients do not all reconnect at
    /// once. Default: none, all connections are closed at once. The first is closed at once; the
    /// order is not guaranteed. Each connection is served as before until it is closed.
    pub spread: Duration,
    /// The time after the end of the spread at which the connections that have not ended are reset.
    /// Default: 10 s.
    pub deadline: Duration,
}

impl Shutdown {
    /// Sets [`code`](Self::code).
    pub fn code(self, code: impl Into<CloseCode>) -> Self {
        Self { code: code.into(), ..self }
    }

    /// Sets [`reason`](Self::reason).
    pub fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Sets [`spread`](Self::spread).
    pub fn spread(self, spread: Duration) -> Self {
        Self { spread, ..self }
    }

    /// Sets [`deadline`](Self::deadline).
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}

impl Shutdown {
    /// The spread and the deadline in milliseconds.
    pub(crate) fn millis(&self) -> (u64, u64) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        (millis(self.spread), millis(self.deadline))
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            code: CloseCode::GOING_AWAY,
            reason: "Server shutdown".to_owned(),
            spread: Duration::ZERO,
            deadline: Duration::from_secs(10),
        }
    }
}
