//! The panics of callbacks that a test has not taken: they fail it.

use crate::user::{Caught, CaughtPanic};

/// The panics of callbacks. Panics that a test does not take fail it when the harness is dropped.
#[derive(Debug, Default)]
pub(super) struct Panics(pub(super) Caught);

impl Panics {
    pub(super) fn caught(&self) -> Caught {
        self.0.clone()
    }

    /// The first panic as a sentence; empty if there is none.
    pub(super) fn hint(&self) -> String {
        let caught = self.0.borrow();
        caught.first().map_or_else(String::new, |CaughtPanic { event, message, .. }| {
            format!("\na callback of `{event}` has panicked: {message}")
        })
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        let hint = self.hint();
        if !hint.is_empty() && !std::thread::panicking() {
            panic!("the test did not ask for its panics (`Harness::panics`):{hint}");
        }
    }
}
