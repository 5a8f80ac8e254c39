//! Dropping values that user code has given to the library.
//!
//! A destructor is user code. Each value is dropped under a guard of its own: a second panic while
//! the first one unwinds would abort the process. If one value owns several others, its own type
//! has to handle that.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The panics of destructors of dropped values.
#[derive(Default)]
#[must_use]
pub(crate) struct Discarded {
    panics: u64,
    first: Option<Box<dyn Any + Send>>,
}

impl Discarded {
    /// Drops one value.
    pub(crate) fn drop<T>(&mut self, value: T) {
        self.run(|| drop(value));
    }

    /// Drops each value.
    pub(crate) fn drop_all<T>(&mut self, values: impl IntoIterator<Item = T>) {
        values.into_iter().for_each(|value| self.drop(value));
    }

    /// Runs another piece of user code that belongs to the end of a value.
    pub(crate) fn run(&mut self, code: impl FnOnce()) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(code)) else { return };
        log::error!("a destructor panicked: {}", message_of(&*payload));
        self.panics += 1;
        match self.first {
            None => self.first = Some(payload),
            Some(_) => discard_payload(payload),
        }
    }

    /// The number of destructors that panicked. The panics end here.
    pub(crate) fn count(self) -> u64 {
        self.first.into_iter().for_each(discard_payload);
        self.panics
    }

    /// Resumes the first panic, and adds the others to `counted`: for code under a guard, which
    /// counts the first.
    pub(crate) fn raise(self, counted: &Cell<u64>) {
        if let Some(first) = self.first {
            counted.set(counted.get() + self.panics - 1);
            resume_unwind(first);
        }
    }
}

/// Drops the value of a panic, which is user code too. If that panics, its value is not even
/// dropped.
pub(crate) fn discard_payload(payload: Box<dyn Any + Send>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(payload);
    }
}

/// The message of a panic.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(not a string)")
        .to_owned()
}
