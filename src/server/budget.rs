//! What the budget of a turn is spent on, and how it is shared (`Builder::work_per_turn`).

pub(super) use crate::hub::MESSAGE;

/// A budget is no larger, so that sums with it are numbers still.
pub(super) const MOST_WORK: usize = usize::MAX / 4;
/// What one connection may have done before the others that wait have their turn: 256 messages, or
/// 256 KiB read.
pub(super) const SHARE: usize = 256 * MESSAGE;
/// The same of one that has just become ready, when many have: all of a hundred such connections
/// are served in one turn.
pub(super) const FRESH_SHARE: usize = 64 * MESSAGE;
/// Reads in one share, at most: some may be interrupted.
pub(super) const READS_PER_SHARE: usize = 4;
/// While connections wait from earlier turns, those that become ready get this part of the budget:
/// half of it.
pub(super) const FRESH_PART: usize = 2;
/// All connections that are closing get this part of the budget together: an eighth.
pub(super) const CLOSING_PART: usize = 8;
/// A connection that had to wait and then took so much of its turn, in bytes, has to wait when it
/// is ready again.
pub(super) const HEAVY: usize = SHARE / 8;
/// The shortest frame of a client: two bytes of header and the masking key (RFC 6455 §5.2).
pub(super) const SHORTEST_FRAME: usize = 6;
/// Kept input is handled in parts of this length, in bytes: it is copied once more.
pub(super) const REST_AT_ONCE: usize = 16 * 1024;
/// What the end of a connection counts of a turn's work, in bytes: its events and its system calls.
pub(super) const END: usize = 8 * 1024;
/// What a connection that had to wait counts beside its bytes and messages: its system calls.
pub(super) const READ: usize = 2 * 1024;
/// What a timeout counts, in bytes.
pub(super) const TIMEOUT: usize = 4 * 1024;
/// Connections looked at in one turn because their time may have come, at most.
pub(super) const TIMEOUTS_PER_TURN: usize = 1024;
/// Commands of handles and answers to deferred requests in one turn, at most.
pub(super) const COMMANDS_PER_TURN: usize = 1024;
/// They are taken in parts of this length, between which the budget is looked at.
pub(super) const COMMANDS_AT_ONCE: usize = 16;
/// What they cause gets this part of the budget: an eighth.
pub(super) const COMMANDS_PART: usize = 8;
/// What an answer to a deferred request counts of a turn's work, in bytes: an upgrade or a
/// response.
pub(super) const ANSWER: usize = 16 * 1024;
/// The user's timers called in one turn, at most.
pub(super) const TIMERS_PER_TURN: usize = 1024;
