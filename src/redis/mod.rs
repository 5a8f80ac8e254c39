//! Redis without I/O: its protocol, RESP3, and its address.
//!
//! It knows no socket, no clock, no topic, and nothing of what a message says.

mod address;
mod resp;

pub use address::{Address, AddressError, Place};
pub use resp::{
    ChannelMessage, Elements, MAX_DEPTH, Missing, Reply, ReplyLimits, RespError, Scan, Scanner,
    Value, command_len, encode_command,
};
