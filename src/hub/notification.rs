//! What happened to a connection. It becomes an event when the outermost callback has returned.

use crate::error::Error;
use crate::protocol::CloseCode;

/// Something that listeners have to be told of as soon as no other callback is running.
pub(crate) enum Notification {
    Close {
        code: CloseCode,
        reason: String,
    },
    Error {
        error: Error,
        data: String,
    },
    Pressure,
    Relief,
    Disconnect {
        error: Option<Error>,
        code: Option<CloseCode>,
        reason: String,
        clean: bool,
        /// Bytes that were queued, and dropped when this was recorded.
        dropped: usize,
    },
}
