//! The loop's clock: the real one, or one that a test moves.

#[cfg(any(feature = "testing", feature = "_tls"))]
use std::time::Duration;
use std::time::Instant;

/// The latest time of a virtual clock. Any time on it and any timeout make a sum that is not
/// [`NEVER`](crate::hub::NEVER), and overflows nowhere.
#[cfg(feature = "testing")]
const LATEST: Duration = Duration::from_millis(u64::MAX / 2);

/// The clock of one server.
pub(crate) enum Clock {
    /// Shows the time since this moment.
    Real(Instant),
    /// Stands still until a test moves it.
    #[cfg(feature = "testing")]
    Virtual(Duration),
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self::Real(Instant::now())
    }

    /// Whether only a test moves it.
    #[inline]
    pub(crate) fn stands_still(&self) -> bool {
        match self {
            Self::Real(_) => false,
            #[cfg(feature = "testing")]
            Self::Virtual(_) => true,
        }
    }

    /// Whole milliseconds since the start.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        let since = match self {
            Self::Real(started) => started.elapsed(),
            #[cfg(feature = "testing")]
            Self::Virtual(since) => *since,
        };
        // 64 bits of milliseconds are 584 million years.
        since.as_millis() as u64
    }

    /// The time since the start. In a harness no time passes in a turn.
    #[cfg(feature = "_tls")]
    pub(crate) fn precisely(&self) -> Duration {
        match self {
            Self::Real(started) => started.elapsed(),
            #[cfg(feature = "testing")]
            Self::Virtual(since) => *since,
        }
    }

    /// Makes it virtual, starting at the time that it shows.
    #[cfg(feature = "testing")]
    pub(crate) fn stop(&mut self) {
        *self = Self::Virtual(Duration::from_millis(self.now()));
    }

    /// Moves a virtual clock.
    #[cfg(feature = "testing")]
    pub(crate) fn advance(&mut self, by: Duration) {
        if let Self::Virtual(since) = self {
            *since = since.saturating_add(by).min(LATEST);
        }
    }
}
