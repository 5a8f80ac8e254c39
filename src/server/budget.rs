//! The costs that are paid from the budget of a turn, and how connections share it
//! (`Builder::work_per_turn`).

pub(super) use crate::hub::MESSAGE;

/// The largest budget, so that sums with it do not overflow.
pub(super) const MOST_WORK: usize = usize::MAX / 4;
/// The share of one connection, after which other waiting connections are served: 256 messages, or
/// 256 KiB read. It is at least one read of any length.
pub(super) const SHARE: usize = 256 * MESSAGE;
/// The share of a connection that has just become ready, when many have: all of a hundred such
/// connections are served in one turn.
pub(super) const FRESH_SHARE: usize = 64 * MESSAGE;
/// The most reads in one share, if they are not shortened: some may be interrupted.
pub(super) const READS_PER_SHARE: usize = 4;
/// While connections wait from earlier turns, connections that become ready get this part of the
/// budget: half of it.
pub(super) const FRESH_PART: usize = 2;
/// All closing connections together get this part of the budget: an eighth.
pub(super) const CLOSING_PART: usize = 8;
/// A connection that had to wait and then took this much of its turn, in bytes, has to wait when it
/// is ready again.
pub(super) const HEAVY: usize = SHARE / 8;
/// The least that a read may ask for, however much input is kept. The less it is, the less can be
/// kept for each connection, and the more reads a long message takes beside floods.
pub(super) const LEAST_READ: usize = 16 * 1024;
/// Kept input is handled in parts of this length, in bytes, because it is copied once more.
pub(super) const REST_AT_ONCE: usize = 16 * 1024;
/// The cost of the end of a connection, in bytes of a turn's work: its events and its system calls.
pub(super) const END: usize = 8 * 1024;
/// The cost of a connection that had to wait, beside its bytes and messages: its system calls.
pub(super) const READ: usize = 2 * 1024;
/// The cost of a timeout, in bytes.
pub(super) const TIMEOUT: usize = 4 * 1024;
/// The most connections that are looked at in one turn because their time may have come.
pub(super) const TIMEOUTS_PER_TURN: usize = 1024;
/// The most commands of handles, and answers to deferred requests, in one turn.
pub(super) const COMMANDS_PER_TURN: usize = 1024;
/// They are taken in parts of this length, between which the budget is checked.
pub(super) const COMMANDS_AT_ONCE: usize = 16;
/// Their results get this part of the budget: an eighth.
pub(super) const COMMANDS_PART: usize = 8;
/// The messages of other loops get this part of the budget: half of it.
pub(super) const LETTERS_PART: usize = 2;
/// The cost of a message of another server for each connection that gets it. With 50 members one
/// takes 88 instructions, an echo about 700 (`cargo bench --bench limit -- --bus`).
#[cfg(feature = "redis")]
pub(super) const DELIVERY: usize = MESSAGE / 8;
/// Servers that are found to be gone get this part of the budget: an eighth.
#[cfg(feature = "redis")]
pub(super) const GONE_PART: usize = 8;
/// The cost of looking at one connection, to answer a question of another loop, or at one server.
pub(super) const LOOK: usize = 32;
/// The cost of an answer to a deferred request, in bytes of a turn's work: an upgrade or a
/// response.
pub(super) const ANSWER: usize = 16 * 1024;
/// The most of the user's timers that are called in one turn.
pub(super) const TIMERS_PER_TURN: usize = 1024;
