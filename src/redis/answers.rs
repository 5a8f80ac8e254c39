//! What Redis will answer: it answers commands in their order.

use std::collections::VecDeque;

/// An answer that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Hello,
    Select,
    Ping,
    /// Whether the server still is a master.
    Role,
    /// To a probe, or another message whose loss does no harm.
    Probe,
    Publish,
}

#[derive(Default)]
pub(super) struct Answers {
    /// Answers of one kind in a row, and their number.
    expected: VecDeque<(Expected, u64)>,
    /// The messages whose answer has not come.
    unconfirmed: u64,
}

impl Answers {
    pub(super) fn expect(&mut self, answer: Expected) {
        self.unconfirmed += u64::from(answer == Expected::Publish);
        match self.expected.back_mut() {
            Some((last, count)) if *last == answer => *count += 1,
            _ => self.expected.push_back((answer, 1)),
        }
    }

    pub(super) fn next(&self) -> Option<Expected> {
        self.expected.front().map(|&(next, _)| next)
    }

    pub(super) fn take(&mut self) -> Option<Expected> {
        let (next, count) = self.expected.front_mut()?;
        let next = *next;
        *count -= 1;
        if *count == 0 {
            self.expected.pop_front();
        }
        Some(next)
    }

    /// A message is answered.
    pub(super) fn confirm(&mut self) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
    }

    /// The number of messages whose answer has not come.
    pub(super) fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }
}
