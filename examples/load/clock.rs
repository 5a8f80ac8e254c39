//! Time as one number: nanoseconds since the program began. One reading costs about 25 ns, so one
//! is taken for each `recv`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds; a point in time is counted from the first call of [`now`].
pub type Nanos = u64;

pub const MICROSECOND: Nanos = 1_000;
pub const MILLISECOND: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000_000_000;

pub fn now() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as Nanos
}

pub fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos
}

pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}
