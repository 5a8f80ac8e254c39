//! The manual, in chapters: [`crate`] is its front page.
//!
//! The chapters are Markdown files beside this one. They exist for `rustdoc` alone: a build of the
//! library does not see them. Each example in them is a doc test.

// The links in the chapters are looked for here.
#[allow(unused_imports)]
use crate::*;

#[doc = include_str!("loop.md")]
pub mod the_loop {}

#[doc = include_str!("emitting.md")]
pub mod emitting {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("time_and_threads.md")]
pub mod time_and_threads {}

#[doc = include_str!("compression.md")]
pub mod compression {}

#[doc = include_str!("closing.md")]
pub mod closing {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("restarting.md")]
pub mod restarting {}

#[doc = include_str!("from_go.md")]
pub mod from_go {}

#[doc = include_str!("cookbook.md")]
pub mod cookbook {}
