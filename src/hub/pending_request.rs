//! A request without an answer yet: the part of its head that has arrived, and the state that is
//! kept while its answer is deferred.

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
    /// The filter that runs next.
    pub(crate) filter: usize,
    /// The bytes that arrived behind the request head.
    pub(crate) early: Vec<u8>,
    pub(crate) ticket: Ticket,
}

/// The result of a request to which no filter objects.
pub(crate) enum Destination {
    Connection { route: u32, key: Key },
    Page { page: usize, head_only: bool },
}

impl Destination {
    /// Whether the method is HEAD: the response then has no body.
    pub(crate) fn is_head_only(&self) -> bool {
        matches!(self, Self::Page { head_only: true, .. })
    }
}

/// Shows the holder of a [`Deferred`](crate::Deferred) that its request still waits, until the
/// ticket is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(pub(crate) Arc<AtomicBool>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
