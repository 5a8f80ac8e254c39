//! The settings of a server: the builder, the limits that it sets, and the policies for slow
//! readers.

mod builder;
mod limits;
mod pressure;

pub use builder::Builder;
pub(crate) use limits::{Limits, RETRY_AFTER};
pub use pressure::{Dropped, SlowReader};
