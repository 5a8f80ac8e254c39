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
#[cfg(feature = "redis")]
mod engine;
mod event;
#[cfg(feature = "redis")]
mod figures;
#[cfg(feature = "redis")]
mod frame;
mod identity;
mod interest;
mod link;
mod loop_set;
mod node;
#[cfg(feature = "redis")]
mod nodes;
#[cfg(feature = "redis")]
mod numbers;
#[cfg(feature = "redis")]
mod outlet;
#[cfg_attr(not(feature = "redis"), path = "no_outward.rs")]
mod outward;
mod post;
mod sent;
mod set_uuids;
#[cfg(feature = "redis")]
mod settings;

pub(crate) use batch::{Answer, Letter, Opened, Question, Ready, To};
#[cfg(feature = "redis")]
pub(crate) use engine::{Arrived, Engine};
pub use event::{BusEvent, GapFrom};
#[cfg(feature = "redis")]
pub use figures::BusStats;
#[cfg(feature = "redis")]
pub use frame::reencode_bus_frame;
#[cfg(feature = "redis")]
pub(crate) use frame::{Body, Content, Found};
pub(crate) use identity::run_number;
pub(crate) use link::Link;
pub use link::LoopStats;
pub(crate) use loop_set::{LoopSet, MAX_LOOPS};
pub use node::Node;
#[cfg(feature = "redis")]
pub use numbers::{Expected, Numbering, Verdict};
#[cfg(feature = "redis")]
pub(crate) use outlet::{HOLDER, Outlet};
#[cfg(feature = "redis")]
pub(crate) use outward::LOOP_SHIFT;
pub(crate) use post::{HandedOver, LONG_TURN, Post, Seat};
pub use sent::BusSent;
#[cfg(feature = "redis")]
pub use settings::Bus;
