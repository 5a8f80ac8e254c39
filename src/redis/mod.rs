//! Redis without I/O: its protocol, RESP3.
//!
//! It knows no socket, no clock, no topic, and nothing of what a message says.

mod resp;

pub use resp::{
    ChannelMessage, Elements, MAX_DEPTH, Missing, Reply, ReplyLimits, RespError, Scan, Scanner,
    Value, command_len, encode_command,
};
