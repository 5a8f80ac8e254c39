//! The log that the whole loop shares, in which frames are staged until their sockets are offered
//! them.
//!
//! A broadcast to 50 connections takes 15 666 instructions with the log, and took 71 001
//! without (callgrind).
//!
//! ```text
//!        0          7                12         19
//!  log   ├──────────┼────────────────┼──────────┤ ◄── the next frame goes here
//!        │ to Ann   │ to all three   │ to Bob   │
//!
//!  Ann   └───────────────────────────┘              Staged { from: 0, to: 12 }
//!  Bob              └───────────────────────────┘   Staged { from: 7, to: 19 }
//!  Eve              └────────────────┘              Staged { from: 7, to: 12 }
//! ```
//!
//! An outbox refers to one piece of the log, without a gap. What goes to many lies there once. A
//! frame that does not lie just behind the outbox's piece (the next one to Ann, behind Bob's) moves
//! the piece and that frame into a queue of the connection's own.
//!
//! `staged` counts the outboxes that refer to the log. When a socket takes everything, its outbox
//! is `Empty` again; when the last of them leaves, the log is empty and its memory is used again.
//! When a socket takes a part, the rest of the piece moves into the connection's queue. So nothing
//! in the log is older than a turn.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::queue::Queue;
use crate::protocol::{FrameKind, FrameLog, encode_header};

/// When the log is as long as this, what is in it is written before more is added.
pub(super) const LONGEST_LOG: usize = 4 * 1024 * 1024;

/// Room for response heads. When all of it is taken by sockets that are slow from the beginning,
/// there is more.
pub(super) const HEADS: usize = 4 * 1024;

/// Queues that the loop keeps for reuse, at most: in one turn many connections may need one, as
/// where several topics are published to by turns.
pub(super) const SPARE_QUEUES: usize = 1024;

/// What they may take together, in bytes.
pub(super) const SPARE_BYTES: usize = 4 * 1024 * 1024;

/// A shared frame from this size on is referred to while it waits; below, a copy takes less memory
/// than the reference.
pub(super) const REFER: usize = 256;

/// A shared frame with a payload of this many bytes or more is not in the log. Of those that are,
/// each socket that takes a part has the rest copied; but where a socket takes everything, a
/// delivery of 16 KiB takes 250 instructions by the log, and 1200 by a reference in a queue.
pub(super) const ALONE: usize = 64 * 1024;

/// The log of one loop, in which frames wait for the end of the callback or turn, and the queues it
/// recycles.
pub(crate) struct Stage {
    pub(super) log: FrameLog,
    /// Where 101 responses wait until they are taken, which is soon.
    pub(super) heads: BytesMut,
    /// Who points into the log: outboxes, and a frame that is being shared. At zero the log is
    /// empty again.
    pub(super) staged: usize,
    /// Bytes that sockets took, ever.
    pub(crate) written: u64,
    #[expect(clippy::vec_box, reason = "a queue moves between here and an outbox as one word")]
    pub(super) spare: Vec<Box<Queue>>,
    /// What those have room for.
    pub(super) spare_bytes: usize,
}

/// A frame that was encoded once and goes to several connections.
pub(crate) struct Shared {
    /// Where it lies in the log; nowhere if it is too large for copies.
    pub(super) place: Range<usize>,
    /// The frame by itself: made at once if it is large, else when the first blocked connection
    /// needs to keep it.
    pub(super) frame: Option<Bytes>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            log: FrameLog::default(),
            heads: BytesMut::with_capacity(HEADS),
            staged: 0,
            written: 0,
            spare: Vec::with_capacity(SPARE_QUEUES),
            spare_bytes: 0,
        }
    }
}

impl Stage {
    /// Keeps a response head for an outbox, beside others, without an allocation for each.
    pub(crate) fn hold(&mut self, head: &[u8]) -> Bytes {
        self.heads.extend_from_slice(head);
        self.heads.split().freeze()
    }

    /// Encodes one frame for several connections.
    pub(crate) fn share(&mut self, kind: impl Into<FrameKind>, payload: &[u8]) -> Shared {
        let kind = kind.into();
        if payload.len() >= ALONE {
            return Shared { place: 0..0, frame: Some(encoded(kind, payload)) };
        }
        let from = self.log.len();
        self.log.push(kind, payload);
        self.staged += 1;
        Shared { place: from..self.log.len(), frame: None }
    }

    /// Ends what [`share`](Self::share) began: until then its bytes stay in the log, whoever else
    /// leaves it.
    pub(crate) fn end_share(&mut self, shared: Shared) {
        if !shared.place.is_empty() {
            self.leave();
        }
    }

    /// Whether what is in the log should be written before more is added. It may be in the middle
    /// of a callback: else one that emits to thousands, or thousands of times, would have to hold
    /// all of it at once.
    pub(crate) fn is_full(&self) -> bool {
        self.log.len() >= LONGEST_LOG
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.log.len()
    }

    pub(super) fn leave(&mut self) {
        self.staged -= 1;
        if self.staged == 0 {
            self.log.clear();
        }
    }

    /// Gives back what is kept for the next queues.
    pub(crate) fn shrink(&mut self) {
        self.spare.clear();
        self.spare_bytes = 0;
    }

    pub(super) fn queue(&mut self) -> Box<Queue> {
        let queue = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= queue.capacity();
        queue
    }

    pub(super) fn recycle(&mut self, mut queue: Box<Queue>) {
        let bytes = self.spare_bytes + queue.capacity();
        if self.spare.len() < SPARE_QUEUES && bytes <= SPARE_BYTES && queue.is_worth_keeping() {
            queue.clear();
            self.spare.push(queue);
            self.spare_bytes = bytes;
        }
    }
}

impl Shared {
    /// The frame's length, header included.
    pub(crate) fn len(&self) -> usize {
        self.frame.as_ref().map_or(self.place.len(), Bytes::len)
    }

    pub(super) fn frame(&mut self, log: &FrameLog) -> Bytes {
        self.frame.get_or_insert_with(|| Bytes::copy_from_slice(&log[self.place.clone()])).clone()
    }
}

pub(super) fn encoded(kind: impl Into<FrameKind>, payload: &[u8]) -> Bytes {
    let header = encode_header(kind, payload.len());
    // Without spare room: it may wait for long.
    let mut frame = Vec::with_capacity(header.len() + payload.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}
