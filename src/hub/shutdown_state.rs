//! A shutdown in progress: the connections still to be closed, and their times.

use std::rc::Rc;

use crate::protocol::CloseCode;
use crate::token::Token;

/// A shutdown in progress.
pub(crate) struct Stopping {
    /// When the remaining connections are reset; milliseconds on the loop's clock.
    pub(crate) deadline: u64,
    /// The number of connections that were reset.
    pub(crate) remained: usize,
    pub(super) code: CloseCode,
    pub(super) reason: Rc<str>,
    /// The connections still to be closed, and how many there were at first.
    pub(super) waiting: Vec<Token>,
    pub(super) total: usize,
    pub(super) begun: u64,
    /// Another loop has begun it, and the program has not called for it on this one.
    pub(super) of_others: bool,
    /// The time over which the closes are spread, in milliseconds.
    pub(super) spread: u64,
}

impl Stopping {
    /// The time at which the next connection is to be closed.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        let closed = (self.total - self.waiting.len()) as u128;
        let after = u128::from(self.spread) * closed / self.total as u128;
        Some(self.begun.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
    }
}
