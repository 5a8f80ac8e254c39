//! What goes between the loops of one process: plain values, collected during a turn and handed
//! over under one lock, with one wake.
//!
//! Each pair of loops has a lane, with a limit in bytes. A sender knows by itself how much waits in
//! a lane: it counts what it has put in, and the receiver publishes how much it has handled. So a
//! verb is refused at once, and takes no lock. What was refused is announced in the lane, at the
//! place where it is missing.
//!
//! ```text
//!   loop 0                                    loop 1
//!   verbs ──► batch ───── one lock ─────►  lane 0→1 ──► letters, in order
//!             (a turn)     one wake            │
//!       ▲                                      ▼
//!       └────────────── handled: bytes ────────┘
//! ```
//!
//! It knows no connection and no callback. It reads a clock only to see how long turns last, and
//! whether a shutdown is over.

mod batch;
mod event;
#[cfg(feature = "redis")]
mod frame;
mod identity;
mod interest;
mod link;
mod loop_set;
#[cfg(feature = "redis")]
mod nodes;
#[cfg(feature = "redis")]
mod numbers;
mod post;
mod set_uuids;

pub(crate) use batch::{Answer, Letter, Opened, Question, Ready, To};
pub use event::BusEvent;
#[cfg(feature = "redis")]
pub use frame::reencode_bus_frame;
pub(crate) use link::Link;
pub use link::LoopStats;
pub(crate) use loop_set::{LoopSet, MAX_LOOPS};
#[cfg(feature = "redis")]
pub(crate) use nodes::Nodes;
#[cfg(feature = "redis")]
pub use numbers::{Expected, Numbering, Verdict};
pub(crate) use post::{HandedOver, LONG_TURN, Post, Seat};
