//! An event of a connection that is recorded and fires when the outermost callback has returned.

use crate::error::Error;
use crate::protocol::CloseCode;

/// An event that fires as soon as no other callback is running.
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
        /// `error` fires just before it, with the same error. A notification of its own would need
        /// a clone of the error.
        failed: bool,
        error: Option<Error>,
        code: Option<CloseCode>,
        reason: String,
        clean: bool,
        /// Queued bytes that were dropped when this was recorded.
        dropped: usize,
    },
}
