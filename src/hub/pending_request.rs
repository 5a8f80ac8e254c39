//! A request that is not answered yet: what has arrived of its head, and what is kept while its
//! answer is deferred.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::{HeadScanner, Key};

/// A request head that is not complete yet.
#[derive(Default)]
pub(crate) struct Head {
    pub(crate) received: Vec<u8>,
    pub(crate) scanner: HeadScanner,
}

/// A request that waits for its answer.
pub(crate) struct Parked {
    pub(crate) destination: Destination,
    /// The filter that is asked next.
    pub(crate) filter: usize,
    /// What came behind the request head.
    pub(crate) early: Vec<u8>,
    pub(crate) ticket: Ticket,
}

/// What a request becomes when no filter objects.
pub(crate) enum Destination {
    Connection { route: u32, key: Key },
    Page { page: usize, head_only: bool },
}

impl Destination {
    /// Whether it was asked for by HEAD: the answer has no body then.
    pub(crate) fn is_head_only(&self) -> bool {
        matches!(self, Self::Page { head_only: true, .. })
    }
}

/// Tells the holder of a [`Deferred`](crate::Deferred) that its request still waits, until the
/// ticket is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(pub(crate) Arc<AtomicBool>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
