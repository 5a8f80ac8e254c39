//! Loops that run.

use std::fmt;
use std::net::SocketAddr;

use super::supervisor::Supervisor;
use crate::error::LoopsError;
use crate::server::Finished;
use crate::user::LoopsHandle;

/// Loops that run: [`Loops::start`](crate::Loops::start).
///
/// If it is dropped, the loops continue, as threads do.
#[must_use = "the process ends when `main` returns: wait with `join`"]
pub struct Running<S> {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) handle: LoopsHandle<S>,
    pub(super) supervisor: Supervisor,
}

impl<S> Running<S> {
    /// The first TCP address of [`Loops::listen`](crate::Loops::listen) and its like, with the port
    /// that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// All these addresses.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle by which other threads reach the loops. There may be any number of them.
    #[must_use]
    pub fn handle(&self) -> LoopsHandle<S> {
        self.handle.clone()
    }

    /// Whether all loops have ended, or did not end in time: then [`join`](Self::join) does not
    /// wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// Waits until all loops have ended. They end after a shutdown, which any loop or handle may
    /// start. If one loop fails, the others shut down too: with code 1001, and 10 s for the peers,
    /// unless they shut down already.
    ///
    /// # Errors
    ///
    /// [`LoopsError::Failed`] with the loop that failed, and why;
    /// [`LoopsError::Stuck`] with the loops that have not ended 10 s after the deadline of the
    /// shutdown. Their threads are left alone.
    pub fn join(self) -> Result<Finished, LoopsError> {
        self.supervisor.join()
    }
}

impl<S> fmt::Debug for Running<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("addresses", &self.addresses)
            .field("loops", &self.handle.len())
            .finish_non_exhaustive()
    }
}
