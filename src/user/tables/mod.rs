//! Tables of what user code has left with the server. None knows what the callbacks in it look
//! like, and nothing of one is borrowed while user code runs.

pub(super) mod inbox;
pub(super) mod listeners;
pub(super) mod sources;
pub(super) mod timers;
