//! Tables of callbacks that user code has registered. No table knows the types of its callbacks,
//! and none is borrowed while user code runs.

pub(super) mod inbox;
pub(super) mod listeners;
pub(super) mod queries;
pub(super) mod sources;
pub(super) mod timers;
