//! What happens when something fails: peers that vanish, flood or never read, and a process that
//! runs out of descriptors. Every test asserts the same three things: the events of a failed
//! connection fire once, nothing of it stays, and no other connection notices.

mod alone;
mod churn;
mod close_frames;
mod descriptors;
mod floods;
#[path = "../wire/kit.rs"]
#[allow(dead_code, reason = "the tests of the wire need the rest of it")]
mod kit;
mod page;
mod requests;
mod stages;
mod storm;
mod wakeups;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
