//! What a server is told before it starts: the builder, the limits that it sets, and what becomes
//! of slow readers.

mod builder;
mod limits;
mod pressure;

pub use builder::Builder;
pub(crate) use limits::{Limits, RETRY_AFTER};
pub use pressure::{Dropped, SlowReader};
