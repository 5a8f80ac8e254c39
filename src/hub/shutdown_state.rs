//! A shutdown under way: which connections are still to be closed, and when.

use std::rc::Rc;

use crate::protocol::CloseCode;
use crate::token::Token;

/// A shutdown under way.
pub(crate) struct Stopping {
    /// When what remains is cut off; milliseconds on the loop's clock.
    pub(crate) deadline: u64,
    /// Connections that were cut off.
    pub(crate) remained: usize,
    pub(super) code: CloseCode,
    pub(super) reason: Rc<str>,
    /// Those that are still to be closed, and how many there were.
    pub(super) waiting: Vec<Token>,
    pub(super) total: usize,
    pub(super) begun: u64,
    /// Over how many milliseconds the closes are spread.
    pub(super) spread: u64,
}

impl Stopping {
    /// When the next connection is to be closed.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        let closed = (self.total - self.waiting.len()) as u128;
        let after = u128::from(self.spread) * closed / self.total as u128;
        Some(self.begun.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
    }
}
