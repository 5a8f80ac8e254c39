//! How a server stops.

use std::time::Duration;

use crate::protocol::CloseCode;

/// How a server stops: [`Sockets::shutdown`](crate::Sockets::shutdown). Before a restart, 1012 and
/// a spread keep the successor from being overrun:
///
/// ```
/// use std::time::Duration;
/// use ikisocket::Shutdown;
///
/// let at_once = Shutdown::default().deadline(Duration::from_millis(100));
/// assert_eq!(at_once.code.to_string(), "1001");
///
/// let restart = Shutdown::default().code(1012).reason("back soon").spread(Duration::from_secs(30));
/// # let _ = restart;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it is handed to `shutdown`"]
pub struct Shutdown {
    /// The close code for everybody. Default: 1001, going away.
    pub code: CloseCode,
    /// The reason for everybody, cut to 123 bytes. Default: "Server shutdown".
    pub reason: String,
    /// The closes are spread evenly over this time, the first at once, in no particular order, so
    /// that clients do not all come back at once; until it is closed, each connection is served as
    /// before. Default: none, all are closed at once.
    pub spread: Duration,
    /// What has not said goodbye so long after the last close is cut off. Default: 10 s.
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
