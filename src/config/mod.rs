//! The settings of a server: the builder, the limits that it sets, and the policies for slow
//! readers.

mod builder;
mod limits;
mod slow_reader;

pub use builder::Builder;
pub(crate) use limits::{Limits, RETRY_AFTER};
pub use slow_reader::{Dropped, SlowReader};
