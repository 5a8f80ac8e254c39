//! One connection to Redis, without I/O: the protocol RESP3, the address, and the state machine of
//! a connection that publishes and subscribes. Bytes and times go in, bytes and events come out.
//!
//! It knows no socket, no clock, no topic, and nothing of what a message says.

mod address;
mod answers;
mod failure;
mod life;
mod outbox;
mod resp;
mod session;
mod subscriptions;

pub use address::{Address, BusAddressError, Place};
pub use failure::BusFailure;
pub use resp::{
    ChannelMessage, Elements, MAX_DEPTH, Missing, Reply, ReplyLimits, RespError, Scan, Scanner,
    Value, command_len, encode_command,
};
pub use session::{NotTaken, Session, SessionEvent, SessionOptions};
