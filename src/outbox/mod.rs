//! The bytes that wait for one connection's socket: every emit passes here on its way to the wire.
//!
//! It knows `io::Write`, frame boundaries and byte counts. It knows no connection, no listener and
//! no clock except the time that it is given. Bytes leave in the order in which they came, with two
//! exceptions: a control frame may overtake whole frames that still wait, and of several pongs that
//! came after the socket was found full only the latest is sent (RFC 6455 §5.5.3).
//!
//! As long as a socket takes everything, frames are appended to one log that the whole loop shares
//! (the `Stage`), and each connection remembers only its part of the log. So an echo needs no
//! buffer, and a broadcast is encoded once and sent to each from the same bytes. Only bytes that a
//! socket does not take move into the connection's own `Queue`.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write};
use std::ops::Range;

use bytes::Bytes;

#[cfg_attr(not(feature = "deflate"), path = "no_compression.rs")]
mod compression;
mod outgoing;
mod queue;
mod stage;
mod write;

use queue::Queue;
use stage::{LONGEST_LOG, REFER};
use write::{Compress, frame_start, offer, offer_one};

#[cfg(feature = "deflate")]
pub use compression::Deflate;
pub(crate) use compression::{Agreed, Common, Encoding};
pub(crate) use outgoing::SendOptions;
pub use outgoing::{Latest, Outgoing, Uncompressed};
pub(crate) use stage::{Shared, Stage, encoded};
pub(crate) use write::{Flushed, STAGE_SHARE, WRITE_THROUGH};

use crate::protocol::{FrameHeader, FrameKind, encode_frame, encode_header};

#[derive(Default)]
pub(crate) enum Outbox {
    #[default]
    Empty,
    /// Whole frames in the loop's log, offered to the socket soon.
    Staged {
        from: u32,
        to: u32,
    },
    /// A response head in the loop's log, offered to the socket soon. Behind it there is no frame.
    StagedHead {
        from: u32,
        to: u32,
    },
    Queued(Box<Queue>),
}

/// The two sides of the comparison with an outbox's limit, in bytes.
pub(crate) struct Room {
    /// The waiting bytes.
    pub(crate) held: usize,
    /// The bytes of the new frame.
    pub(crate) needed: usize,
}

impl Outbox {
    /// The number of bytes that wait here, headers included.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Staged { from, to } | Self::StagedHead { from, to } => (to - from) as usize,
            Self::Queued(queue) => queue.bytes(),
        }
    }

    /// The number of messages of which nothing was written yet.
    pub(crate) fn messages(&self, stage: &Stage) -> usize {
        match self {
            Self::Empty | Self::StagedHead { .. } => 0,
            Self::Staged { from, to } => {
                queue::messages_of(&stage.log[*from as usize..*to as usize])
            }
            Self::Queued(queue) => queue.messages(),
        }
    }

    /// Whether a frame of `len` bytes has no room beside the waiting ones, in the place of the one
    /// with the same key if there is one. A message as long as the limit may always wait alone: its
    /// header is not counted then.
    pub(crate) fn lacks_room(&self, len: usize, limit: usize, key: Option<u64>) -> bool {
        let Room { held, needed } = self.room(len, key);
        held > 0 && held + needed > limit
    }

    /// The bytes to compare with the limit: the waiting ones, and a new frame of `len` bytes, in
    /// the place of the one with the same key if there is one.
    pub(crate) fn room(&self, len: usize, key: Option<u64>) -> Room {
        match (self, key) {
            (Self::Queued(queue), Some(key)) => {
                Room { held: queue.held() - queue.held_by(key), needed: len + queue::KEYED }
            }
            (Self::Queued(queue), None) => Room { held: queue.held(), needed: len },
            _ => Room { held: self.waiting(), needed: len },
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether the socket took less than it was last offered.
    pub(crate) fn is_blocked(&self) -> bool {
        matches!(self, Self::Queued(queue) if queue.is_blocked())
    }

    /// The time at which the socket last took something, if it is blocked; milliseconds on the
    /// loop's clock.
    pub(crate) fn blocked_since(&self) -> Option<u64> {
        match self {
            Self::Queued(queue) if queue.is_blocked() => Some(queue.progress_at()),
            _ => None,
        }
    }

    /// Notes that the socket has taken something which no flush has counted.
    #[cfg(feature = "_tls")]
    pub(crate) fn note_progress(&mut self, now: u64) {
        if let Self::Queued(queue) = self {
            queue.note_progress(now);
        }
    }

    /// Whether the peer has received the beginning of a frame whose rest waits here. A head counts
    /// as begun, because no frame may come before it.
    pub(crate) fn is_mid_frame(&self) -> bool {
        matches!(self, Self::StagedHead { .. }) || self.rest_of_frame() > 0
    }

    /// The bytes that wait of a frame whose beginning the peer has received.
    pub(crate) fn rest_of_frame(&self) -> usize {
        if let Self::Queued(queue) = self { queue.rest_of_frame() } else { 0 }
    }

    /// Queues an HTTP head or response, ahead of every frame. The outbox must not hold anything
    /// else yet. A short head goes into the log, as a frame does.
    pub(crate) fn push_head(&mut self, stage: &mut Stage, head: Cow<'_, [u8]>) {
        if head.len() >= WRITE_THROUGH || stage.is_full() {
            return self.queued(stage).begin(Bytes::from(head.into_owned()));
        }
        let from = stage.log.len();
        stage.log.push_head(&head);
        stage.staged += 1;
        *self = Self::StagedHead { from: place(from), to: place(stage.log.len()) };
    }

    /// Stages a frame, the fast path: it goes into the log, behind the connection's part of it. If
    /// other connections have written behind that part, both go into a queue. `false` if the
    /// connection has a queue already, if more than `most` bytes would wait for it, or if the log
    /// is full.
    #[inline]
    pub(crate) fn stage_frame(
        &mut self,
        stage: &mut Stage,
        kind: impl Into<FrameKind>,
        payload: &[u8],
        most: usize,
    ) -> bool {
        let (kind, end) = (kind.into(), stage.log.len());
        if end >= LONGEST_LOG {
            return false;
        }
        let add = payload.len() + FrameHeader::MAX_LEN;
        let from = match *self {
            Self::Empty => end,
            Self::Staged { from, to } if to as usize == end => from as usize,
            Self::Staged { from, to } if (to - from) as usize + add <= most => {
                self.unstage(stage, kind, payload);
                return true;
            }
            _ => return false,
        };
        if end - from + add > most {
            return false;
        }
        stage.log.push(kind, payload);
        stage.staged += usize::from(matches!(self, Self::Empty));
        *self = Self::Staged { from: place(from), to: place(stage.log.len()) };
        true
    }

    /// Moves the connection's part of the log into a queue, and adds a frame there.
    #[cold]
    #[inline(never)]
    fn unstage(&mut self, stage: &mut Stage, kind: FrameKind, payload: &[u8]) {
        self.queued(stage).append(|tail| encode_frame(kind, payload, tail));
    }

    /// Refers to a frame for many connections in the log, the fast path. `false` if it cannot, or
    /// if the connection would have more than `most` bytes there.
    #[inline]
    pub(crate) fn stage_shared(&mut self, stage: &mut Stage, shared: &Shared, most: usize) -> bool {
        let Range { start, end } = shared.place;
        match self {
            // A frame without a place in the log begins at 0, where no staged part ends.
            Self::Staged { from, to } if *to as usize == start && end - *from as usize <= most => {
                *to = place(end);
            }
            Self::Empty if end > start && end - start <= most => {
                stage.staged += 1;
                *self = Self::Staged { from: place(start), to: place(end) };
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn push_frame(
        &mut self,
        stage: &mut Stage,
        kind: impl Into<FrameKind>,
        payload: &[u8],
    ) {
        let kind = kind.into();
        if self.stage_frame(stage, kind, payload, usize::MAX) {
            return;
        }
        let queue = self.queued(stage);
        if queue.is_blocked() && payload.len() >= WRITE_THROUGH {
            queue.push(encoded(kind, payload));
        } else {
            queue.append(|open| encode_frame(kind, payload, open));
        }
    }

    /// Queues a frame that was encoded once for many connections: by reference if possible.
    pub(crate) fn push_shared(&mut self, stage: &mut Stage, shared: &mut Shared) {
        if self.stage_shared(stage, shared, usize::MAX) {
            return;
        }
        let queue = self.queued(stage);
        let refers = shared.len() >= if queue.is_blocked() { REFER } else { WRITE_THROUGH };
        if shared.place.is_empty() || refers {
            queue.push(shared.frame(&stage.log));
        } else {
            queue.append(|open| open.extend_from_slice(&stage.log[shared.place.clone()]));
        }
    }

    /// Queues a ping or pong. It overtakes whole frames that wait for a blocked socket. Of the
    /// pongs that wait there only the latest is kept (RFC 6455 §5.5.3 allows it), so that a peer
    /// that pings without reading costs one frame.
    pub(crate) fn push_control(
        &mut self,
        stage: &mut Stage,
        kind: impl Into<FrameKind>,
        payload: &[u8],
    ) {
        let kind = kind.into();
        let Self::Queued(queue) = self else { return self.push_frame(stage, kind, payload) };
        if !queue.is_blocked() {
            return self.push_frame(stage, kind, payload);
        }
        queue.push_control(kind, payload);
    }

    /// Queues a message in the place of the one with the same key, if that waits for a blocked
    /// socket; returns whether it did.
    pub(crate) fn push_latest(
        &mut self,
        stage: &mut Stage,
        kind: FrameKind,
        payload: &[u8],
        key: u64,
    ) -> bool {
        match self {
            Self::Queued(queue) if queue.is_blocked() => {
                queue.push_latest(key, encoded(kind, payload))
            }
            _ => {
                self.push_frame(stage, kind, payload);
                false
            }
        }
    }

    /// The same as [`push_latest`](Self::push_latest), for a frame that was encoded once for many
    /// connections.
    pub(crate) fn push_shared_latest(
        &mut self,
        stage: &mut Stage,
        shared: &mut Shared,
        key: u64,
    ) -> bool {
        match self {
            Self::Queued(queue) if queue.is_blocked() => {
                queue.push_latest(key, shared.frame(&stage.log))
            }
            _ => {
                self.push_shared(stage, shared);
                false
            }
        }
    }

    /// Drops the messages that have waited longest, until a frame of `len` bytes has room, in the
    /// place of the one with the same key if there is one; returns how many. A frame that was
    /// written in part stays.
    pub(crate) fn drop_oldest(&mut self, len: usize, limit: usize, key: Option<u64>) -> u64 {
        let Self::Queued(queue) = self else { return 0 };
        let (replaced, more) = key.map_or((0, 0), |key| (queue.held_by(key), queue::KEYED));
        queue.drop_oldest(limit.saturating_sub(len + more) + replaced, key)
    }

    /// Offers a large frame to the socket directly from its payload, behind all waiting bytes; only
    /// the rest is copied.
    pub(crate) fn write_through(
        &mut self,
        stage: &mut Stage,
        kind: impl Into<FrameKind>,
        payload: &[u8],
        out: &mut impl Write,
        now: u64,
    ) -> io::Result<Flushed> {
        let kind = kind.into();
        let flushed = self.flush(stage, out, now)?;
        if self.is_blocked() {
            self.push_frame(stage, kind, payload);
            return Ok(flushed);
        }
        let header = encode_header(kind, payload.len());
        let written = offer(out, &[IoSlice::new(&header), IoSlice::new(payload)])?;
        stage.written += written as u64;
        if written == header.len() + payload.len() {
            return Ok(Flushed::All);
        }
        let mut frame = Vec::with_capacity(header.len() + payload.len() - written);
        frame.extend_from_slice(&header[written.min(header.len())..]);
        frame.extend_from_slice(&payload[written.saturating_sub(header.len())..]);
        let queue = self.queued(stage);
        queue.block(now);
        if written == 0 {
            queue.push(Bytes::from(frame));
        } else {
            queue.begin(Bytes::from(frame));
        }
        Ok(Flushed::Blocked)
    }

    /// Offers the socket all waiting bytes, until it has taken all or takes no more.
    #[inline]
    pub(crate) fn flush(
        &mut self,
        stage: &mut Stage,
        out: &mut impl Write,
        now: u64,
    ) -> io::Result<Flushed> {
        match self {
            Self::Empty => Ok(Flushed::All),
            Self::Staged { .. } => self.flush_staged(stage, out, now),
            Self::StagedHead { .. } => self.flush_head(stage, out, now),
            Self::Queued(_) => self.flush_queue(stage, out, now, None),
        }
    }

    /// The same as [`flush`](Self::flush), for a connection whose compressed messages refer to each
    /// other. Frames that are marked for compression are compressed just before they are offered.
    pub(crate) fn flush_compressing(
        &mut self,
        stage: &mut Stage,
        out: &mut impl Write,
        now: u64,
        compress: &mut Compress<'_>,
    ) -> io::Result<Flushed> {
        match self {
            Self::Queued(_) => self.flush_queue(stage, out, now, Some(compress)),
            _ => self.flush(stage, out, now),
        }
    }

    #[inline(always)]
    fn flush_staged(
        &mut self,
        stage: &mut Stage,
        out: &mut impl Write,
        now: u64,
    ) -> io::Result<Flushed> {
        let Self::Staged { from, to } = self else { return Ok(Flushed::All) };
        let frames = &stage.log[*from as usize..*to as usize];
        let written = offer_one(out, frames)?;
        stage.written += written as u64;
        if written == frames.len() {
            *self = Self::Empty;
            stage.leave();
            return Ok(Flushed::All);
        }
        let rest = Bytes::copy_from_slice(&frames[frame_start(frames, written)..]);
        let begun = written - frame_start(frames, written);
        stage.leave();
        let mut queue = stage.queue();
        queue.push(rest);
        queue.consume(begun);
        queue.block(now);
        *self = Self::Queued(queue);
        Ok(Flushed::Blocked)
    }

    #[inline(never)]
    fn flush_head(
        &mut self,
        stage: &mut Stage,
        out: &mut impl Write,
        now: u64,
    ) -> io::Result<Flushed> {
        let Self::StagedHead { from, to } = *self else { return Ok(Flushed::All) };
        let head = &stage.log[from as usize..to as usize];
        let written = offer_one(out, head)?;
        stage.written += written as u64;
        if written == head.len() {
            self.clear(stage);
            return Ok(Flushed::All);
        }
        let queue = self.queued(stage);
        queue.consume(written);
        queue.block(now);
        Ok(Flushed::Blocked)
    }

    #[inline(never)]
    fn flush_queue(
        &mut self,
        stage: &mut Stage,
        out: &mut impl Write,
        now: u64,
        compress: Option<&mut Compress<'_>>,
    ) -> io::Result<Flushed> {
        let Self::Queued(queue) = self else { return Ok(Flushed::All) };
        let flushed = queue.flush(out, now, compress, &mut stage.written)?;
        if queue.is_blocked() {
            return Ok(flushed);
        }
        if let Self::Queued(queue) = std::mem::take(self) {
            stage.recycle(queue);
        }
        Ok(flushed)
    }

    /// Forgets every frame of which the peer has received nothing.
    pub(crate) fn drop_waiting(&mut self, stage: &mut Stage) {
        match self {
            Self::StagedHead { .. } => {}
            Self::Queued(queue) if queue.is_mid_frame() => queue.drop_waiting(),
            _ => self.clear(stage),
        }
    }

    /// Forgets all frames.
    pub(crate) fn clear(&mut self, stage: &mut Stage) {
        match std::mem::take(self) {
            Self::Empty => {}
            Self::Staged { .. } | Self::StagedHead { .. } => stage.leave(),
            Self::Queued(queue) => stage.recycle(queue),
        }
    }

    /// Makes frames wait in the connection's own queue from now on, until it is flushed. Frames
    /// that are marked for compression still have to be compressed: see
    /// [`flush_compressing`](Self::flush_compressing).
    pub(crate) fn use_queue(&mut self, stage: &mut Stage) {
        self.queued(stage);
    }

    /// The connection's own queue, with its staged frames or head in it.
    fn queued(&mut self, stage: &mut Stage) -> &mut Queue {
        if !matches!(self, Self::Queued(_)) {
            let mut queue = stage.queue();
            match *self {
                Self::Staged { from, to } => {
                    let frames = &stage.log[from as usize..to as usize];
                    queue.append(|open| open.extend_from_slice(frames));
                }
                Self::StagedHead { from, to } => {
                    let head = &stage.log[from as usize..to as usize];
                    queue.begin(Bytes::copy_from_slice(head));
                }
                _ => {}
            }
            self.clear(stage);
            *self = Self::Queued(queue);
        }
        match self {
            Self::Queued(queue) => queue,
            _ => unreachable!("made a queue just above"),
        }
    }
}

/// A position in the log, which is much shorter than 4 GiB: see [`Stage::is_full`].
fn place(at: usize) -> u32 {
    debug_assert!(u32::try_from(at).is_ok());
    at as u32
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::ErrorKind;

    use super::queue::KEEP_PIECES;
    use super::stage::SPARE_QUEUES;
    use super::*;
    use crate::protocol::{Opcode, frame_len};

    /// The same numbers in every run (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }
    }

    /// A socket that takes a limited number of bytes at a time, would block, or is interrupted.
    struct Wire {
        random: Random,
        most: usize,
        received: Vec<u8>,
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            assert!(slices.iter().any(|slice| !slice.is_empty()), "nothing is never offered");
            match self.random.below(8) {
                0 => return Err(ErrorKind::Interrupted.into()),
                1 | 2 => return Err(ErrorKind::WouldBlock.into()),
                _ => {}
            }
            let before = self.received.len();
            let most = if self.most == 0 { 1 + self.random.below(400) } else { self.most };
            for slice in slices {
                let room = most - (self.received.len() - before);
                self.received.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            Ok(self.received.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An outbox, its socket, and the frames that have still to arrive there.
    struct Pair {
        outbox: Outbox,
        wire: Wire,
        head: Vec<u8>,
        /// Messages and Close frames, in their order.
        frames: VecDeque<Vec<u8>>,
        /// Pings and pongs.
        controls: Vec<Vec<u8>>,
        /// The pong that the next one replaces.
        latest: Option<Vec<u8>>,
        blocked_since: Option<u64>,
    }

    impl Pair {
        fn new(random: &mut Random) -> Self {
            let most = [0, 1, 2, 3, 7, 100, usize::MAX][random.below(7)];
            let wire = Wire {
                random: Random(1 + random.below(1 << 30) as u64),
                most,
                received: Vec::new(),
            };
            Self {
                outbox: Outbox::Empty,
                wire,
                head: Vec::new(),
                frames: VecDeque::new(),
                controls: Vec::new(),
                latest: None,
                blocked_since: None,
            }
        }

        /// The frame whose beginning the socket has taken: that beginning, and the rest in the
        /// outbox.
        fn begun(&self) -> Option<Vec<u8>> {
            let Outbox::Queued(queue) = &self.outbox else { return None };
            let begun = !self.wire.received.is_empty() && self.head.is_empty();
            begun.then(|| [&self.wire.received, &queue.partial[..]].concat())
        }

        fn push_control(&mut self, stage: &mut Stage, opcode: Opcode, payload: &[u8]) {
            if self.outbox.is_blocked() && opcode == Opcode::Pong {
                if let Some(older) =
                    self.latest.take().filter(|older| self.begun().as_ref() != Some(older))
                {
                    self.controls.retain(|each| *each != older);
                }
                self.latest = Some(encoded(opcode, payload).to_vec());
            }
            self.controls.push(encoded(opcode, payload).to_vec());
            self.outbox.push_control(stage, opcode, payload);
        }

        fn drop_waiting(&mut self, stage: &mut Stage) {
            let begun = self.begun();
            self.outbox.drop_waiting(stage);
            // A head counts as begun; frames follow only after all of it.
            self.frames.retain(|frame| Some(frame) == begun.as_ref());
            self.controls.retain(|frame| Some(frame) == begun.as_ref());
            self.latest = self.latest.take().filter(|frame| Some(frame) == begun.as_ref());
        }

        /// Takes whole frames off the wire and compares them; then the outbox must hold exactly the
        /// rest.
        fn check(&mut self, was_blocked: bool, progress: bool, now: u64) {
            let wire = &mut self.wire.received;
            let len = self.head.len().min(wire.len());
            assert_eq!(
                self.head.drain(..len).collect::<Vec<_>>(),
                wire.drain(..len).collect::<Vec<_>>()
            );
            while let Some(len) = frame_len(wire).filter(|&len| len <= wire.len()) {
                let frame: Vec<u8> = wire.drain(..len).collect();
                if let Some(at) = self.controls.iter().position(|each| *each == frame) {
                    self.controls.remove(at);
                    self.latest = self.latest.take().filter(|latest| *latest != frame);
                } else {
                    assert_eq!(
                        self.frames.pop_front(),
                        Some(frame),
                        "in their order, each once, uncut"
                    );
                }
            }
            if let Some(begun) = self.begun() {
                assert!(
                    self.frames.front() == Some(&begun) || self.controls.contains(&begun),
                    "nothing cuts a frame"
                );
            }
            assert_eq!(self.outbox.is_mid_frame(), self.begun().is_some() || !self.head.is_empty());
            let rest = self.frames.iter().chain(&self.controls).map(Vec::len).sum::<usize>();
            assert_eq!(self.outbox.waiting(), self.head.len() + rest - self.wire.received.len());
            assert_eq!(self.outbox.is_empty(), self.outbox.waiting() == 0);
            match (was_blocked, self.outbox.is_blocked()) {
                (_, false) => self.blocked_since = None,
                (true, true) if !progress => {}
                (_, true) => self.blocked_since = Some(now),
            }
            assert_eq!(self.outbox.blocked_since(), self.blocked_since);
            if !self.outbox.is_blocked() {
                self.latest = None;
            }
        }
    }

    /// A payload that differs from all others.
    fn payload(random: &mut Random, number: &mut u32, most: usize) -> Vec<u8> {
        *number += 1;
        let len = 4 + random.below(most - 3);
        number.to_be_bytes().into_iter().cycle().take(len).collect()
    }

    #[test]
    fn whatever_the_socket_does_frames_arrive_whole_in_order_and_counted() {
        let mut random = Random(0x0DDB_A115);
        let mut number = 0;
        let (mut begun, mut blocked, mut steps) = (0, 0, 0);
        for _ in 0..300 {
            let mut stage = Stage::default();
            let mut pairs: Vec<Pair> = (0..3).map(|_| Pair::new(&mut random)).collect();
            for pair in &mut pairs {
                if random.below(2) == 0 {
                    pair.head = vec![b'H'; 1 + random.below(40)];
                    let head = &pair.head[..];
                    pair.outbox.push_head(&mut stage, head.into());
                }
            }
            let length = 20 + random.below(200);
            for now in 0..length as u64 {
                let at = random.below(pairs.len());
                let before: Vec<_> =
                    pairs.iter().map(|p| (p.outbox.is_blocked(), p.wire.received.len())).collect();
                let all = number;
                let opcode = [Opcode::Text, Opcode::Binary, Opcode::Close][random.below(3)];
                let most = if opcode == Opcode::Close { 125 } else { 600 };
                let pair = &mut pairs[at];
                match random.below(20) {
                    0..5 => {
                        let payload = payload(&mut random, &mut number, most);
                        pair.frames.push_back(encoded(opcode, &payload).to_vec());
                        pair.outbox.push_frame(&mut stage, opcode, &payload);
                    }
                    5..9 => {
                        let large = random.below(20) == 0;
                        let payload = payload(
                            &mut random,
                            &mut number,
                            if large { 2 * WRITE_THROUGH } else { 600 },
                        );
                        let mut shared = stage.share(Opcode::Binary, &payload);
                        assert_eq!(shared.len(), encoded(Opcode::Binary, &payload).len());
                        for pair in &mut pairs {
                            if random.below(4) == 0 {
                                pair.outbox.flush(&mut stage, &mut pair.wire, now).unwrap();
                            }
                            if random.below(4) > 0 {
                                pair.frames.push_back(encoded(Opcode::Binary, &payload).to_vec());
                                pair.outbox.push_shared(&mut stage, &mut shared);
                            }
                        }
                        stage.end_share(shared);
                    }
                    9..13 => {
                        let opcode = [Opcode::Ping, Opcode::Pong][random.below(2)];
                        let payload = payload(&mut random, &mut number, 125);
                        pair.push_control(&mut stage, opcode, &payload);
                    }
                    13 | 14 => {
                        let payload = payload(&mut random, &mut number, most);
                        pair.frames.push_back(encoded(opcode, &payload).to_vec());
                        pair.outbox
                            .write_through(&mut stage, opcode, &payload, &mut pair.wire, now)
                            .unwrap();
                    }
                    15 if random.below(5) == 0 => pair.drop_waiting(&mut stage),
                    16 if random.below(5) == 0 => {
                        pair.outbox.clear(&mut stage);
                        assert!(pair.outbox.is_empty());
                        *pair = Pair::new(&mut random);
                    }
                    _ => {
                        let (was_blocked, received) = before[at];
                        let flushed = pair.outbox.flush(&mut stage, &mut pair.wire, now).unwrap();
                        let is_life = was_blocked && pair.wire.received.len() > received;
                        let expected = match (pair.outbox.is_empty(), is_life) {
                            (true, false) => Flushed::All,
                            (true, true) => Flushed::Emptied,
                            (false, false) => Flushed::Blocked,
                            (false, true) => Flushed::Progress,
                        };
                        assert_eq!(flushed, expected);
                        assert_ne!(pair.outbox.is_empty(), pair.outbox.is_blocked());
                    }
                }
                for (pair, (was_blocked, received)) in pairs.iter_mut().zip(before) {
                    let progress = pair.wire.received.len() > received;
                    pair.check(was_blocked, progress, now);
                    blocked += usize::from(pair.outbox.is_blocked());
                    begun += usize::from(number > all && pair.outbox.is_mid_frame());
                }
                steps += 1;
                let staged = pairs
                    .iter()
                    .filter(|pair| {
                        matches!(pair.outbox, Outbox::Staged { .. } | Outbox::StagedHead { .. })
                    })
                    .count();
                assert_eq!(stage.staged, staged);
                assert!(staged > 0 || stage.len() == 0, "no outbox points into the log");
            }
            // In the end everything arrives.
            for pair in &mut pairs {
                pair.wire.most = usize::MAX;
                while !pair.outbox.is_empty() {
                    pair.outbox.flush(&mut stage, &mut pair.wire, 0).unwrap();
                }
                pair.check(false, false, 0);
                assert!(pair.head.is_empty() && pair.frames.is_empty() && pair.controls.is_empty());
                assert!(pair.wire.received.is_empty());
            }
            assert!(stage.len() == 0 && stage.staged == 0);
        }
        assert!(
            blocked > steps / 2 && begun > steps / 20,
            "{blocked} and {begun} in {steps} steps"
        );
    }

    #[test]
    fn only_the_latest_waiting_pong_is_sent_and_it_overtakes_messages() {
        let mut stage = Stage::default();
        let mut outbox = Outbox::Empty;
        let mut out: &mut [u8] = &mut [0; 3];
        outbox.push_frame(&mut stage, Opcode::Text, b"one");
        outbox.push_frame(&mut stage, Opcode::Text, b"two");
        assert_eq!(outbox.flush(&mut stage, &mut out, 0).unwrap(), Flushed::Blocked);
        outbox.push_control(&mut stage, Opcode::Pong, b"a");
        outbox.push_control(&mut stage, Opcode::Ping, b"p");
        outbox.push_control(&mut stage, Opcode::Pong, b"b");
        let mut out = Vec::new();
        assert_eq!(outbox.flush(&mut stage, &mut out, 0).unwrap(), Flushed::Emptied);
        assert_eq!(out, b"ne\x89\x01p\x8A\x01b\x81\x03two");
    }

    #[test]
    fn a_broken_socket_is_reported_and_leaves_nothing_in_the_log() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut stage = Stage::default();
        let mut outbox = Outbox::Empty;
        outbox.push_frame(&mut stage, Opcode::Text, b"one");
        assert_eq!(
            outbox.flush(&mut stage, &mut Broken, 0).unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        assert_eq!(outbox.waiting(), 5, "what was not written still waits");
        outbox.clear(&mut stage);
        assert!(stage.len() == 0 && stage.staged == 0 && outbox.is_empty());
    }

    #[test]
    fn small_waiting_frames_take_little_more_memory_than_their_bytes() {
        let mut stage = Stage::default();
        let mut outbox = Outbox::Empty;
        outbox.push_frame(&mut stage, Opcode::Text, b"one");
        outbox.flush(&mut stage, &mut &mut [0; 3][..], 0).unwrap();
        let mut shared = stage.share(Opcode::Text, b"x");
        while outbox.waiting() < 1024 * 1024 {
            outbox.push_frame(&mut stage, Opcode::Text, b"y");
            outbox.push_shared(&mut stage, &mut shared);
        }
        stage.end_share(shared);
        let Outbox::Queued(queue) = &outbox else { panic!("it is blocked") };
        assert!(
            queue.waiting.len() <= 1024 * 1024 / STAGE_SHARE + 1,
            "{} pieces",
            queue.waiting.len()
        );
        let mut out = Vec::new();
        assert_eq!(outbox.flush(&mut stage, &mut out, 0).unwrap(), Flushed::Emptied);
        assert!(out[2..].chunks(6).all(|frames| b"\x81\x01y\x81\x01x".starts_with(frames)));
    }

    #[test]
    fn a_queue_that_has_held_many_pieces_is_not_kept() {
        let mut stage = Stage::default();
        let mut outbox = Outbox::Empty;
        outbox.use_queue(&mut stage);
        let mut shared = stage.share(Opcode::Binary, &[0; WRITE_THROUGH]);
        (0..4 * KEEP_PIECES).for_each(|_| outbox.push_shared(&mut stage, &mut shared));
        outbox.clear(&mut stage);
        assert!(stage.spare.is_empty());
    }

    #[test]
    fn what_the_loop_keeps_for_reuse_is_bounded_and_empty() {
        let mut stage = Stage::default();
        let mut outboxes: Vec<Outbox> = (0..2 * SPARE_QUEUES).map(|_| Outbox::Empty).collect();
        for outbox in &mut outboxes {
            outbox.push_head(&mut stage, vec![b'H'; 100].into());
            outbox.push_frame(&mut stage, Opcode::Binary, &[0; 100]);
            outbox.clear(&mut stage);
        }
        outboxes.iter_mut().for_each(|outbox| outbox.use_queue(&mut stage));
        outboxes.iter_mut().for_each(|outbox| outbox.clear(&mut stage));
        assert_eq!(stage.spare.len(), SPARE_QUEUES);
        for queue in &stage.spare {
            assert!(
                queue.partial.is_empty()
                    && queue.tail.is_empty()
                    && queue.bytes() == 0
                    && !queue.is_blocked()
            );
        }
    }

    /// An outbox whose socket took one byte, so that it is blocked.
    fn blocked(stage: &mut Stage) -> Outbox {
        let mut outbox = Outbox::Empty;
        outbox.push_frame(stage, Opcode::Binary, b"first");
        assert_eq!(outbox.flush(stage, &mut &mut [0; 1][..], 0).unwrap(), Flushed::Blocked);
        outbox
    }

    #[test]
    fn memory_kept_for_reuse_is_freed_on_request_and_kept_again_later() {
        let mut stage = Stage::default();
        for _ in 0..2 {
            let mut outboxes: Vec<Outbox> = (0..10).map(|_| Outbox::Empty).collect();
            outboxes.iter_mut().for_each(|outbox| outbox.use_queue(&mut stage));
            outboxes
                .iter_mut()
                .for_each(|outbox| outbox.push_frame(&mut stage, Opcode::Binary, &[0; 1000]));
            outboxes.iter_mut().for_each(|outbox| outbox.clear(&mut stage));
            assert_eq!(stage.spare.len(), 10);
            stage.shrink();
            assert!(stage.spare.is_empty());
        }
    }

    #[test]
    fn a_queue_is_used_again_however_often() {
        let mut stage = Stage::default();
        for _ in 0..1000 {
            let mut outbox = Outbox::Empty;
            outbox.use_queue(&mut stage);
            assert!(stage.spare.is_empty());
            outbox.push_frame(&mut stage, Opcode::Binary, &[0; 50_000]);
            outbox.clear(&mut stage);
            assert_eq!(stage.spare.len(), 1);
        }
    }

    #[test]
    fn the_queues_kept_for_reuse_take_at_most_four_megabytes_together() {
        let mut stage = Stage::default();
        let mut outboxes: Vec<Outbox> = (0..200).map(|_| Outbox::Empty).collect();
        outboxes.iter_mut().for_each(|outbox| outbox.use_queue(&mut stage));
        outboxes
            .iter_mut()
            .for_each(|outbox| outbox.push_frame(&mut stage, Opcode::Binary, &[0; 50_000]));
        outboxes.iter_mut().for_each(|outbox| outbox.clear(&mut stage));
        let room: usize = stage.spare.iter().map(|queue| queue.tail.capacity()).sum();
        assert!((4_000_000..=4 * 1_048_576).contains(&room), "{room} bytes");
    }

    #[test]
    fn messages_are_counted_and_control_frames_are_not_wherever_they_wait() {
        let mut stage = Stage::default();
        let (mut outbox, mut other) = (Outbox::Empty, Outbox::Empty);
        assert_eq!(outbox.messages(&stage), 0);
        other.push_frame(&mut stage, Opcode::Text, b"before");
        for text in ["one", "two", "three"] {
            outbox.push_frame(&mut stage, Opcode::Text, text.as_bytes());
        }
        outbox.push_control(&mut stage, Opcode::Ping, b"");
        assert!(matches!(outbox, Outbox::Staged { .. }));
        assert_eq!((outbox.messages(&stage), other.messages(&stage)), (3, 1));
        outbox.flush(&mut stage, &mut &mut [0; 3][..], 0).unwrap();
        assert_eq!(outbox.messages(&stage), 2, "the peer has the beginning of one");
    }

    #[test]
    fn what_waits_may_be_as_long_as_the_limit_and_no_longer() {
        let mut stage = Stage::default();
        let mut staged = Outbox::Empty;
        staged.push_frame(&mut stage, Opcode::Binary, &[0; 50]);
        for outbox in [staged, blocked(&mut stage)] {
            let waiting = outbox.waiting();
            assert!(!outbox.lacks_room(100, waiting + 100, None));
            assert!(outbox.lacks_room(101, waiting + 100, None));
        }
        assert!(
            !Outbox::Empty.lacks_room(101, 100, None),
            "its header is not counted when it waits alone"
        );
    }

    #[test]
    fn what_keys_take_leaves_less_room_for_messages_without_one() {
        let mut stage = Stage::default();
        let mut outbox = blocked(&mut stage);
        (0..10).for_each(|key| {
            assert!(!outbox.push_latest(&mut stage, Opcode::Binary.plain(), b"", key))
        });
        let held = outbox.waiting() + 10 * queue::KEYED;
        assert!(outbox.lacks_room(100, held + 99, None));
        assert!(!outbox.lacks_room(100, held + 100, None));
    }

    #[test]
    fn as_long_as_sockets_take_all_no_connection_needs_a_queue_of_its_own() {
        let mut stage = Stage::default();
        let (mut ann, mut bob) = (Outbox::Empty, Outbox::Empty);
        for _ in 0..3 {
            bob.push_frame(&mut stage, Opcode::Binary, &[0; 40]);
        }
        for _ in 0..3 {
            ann.push_frame(&mut stage, Opcode::Binary, &[0; 40]);
        }
        assert!(matches!((&ann, &bob), (Outbox::Staged { .. }, Outbox::Staged { .. })));
        ann.clear(&mut stage);
        bob.clear(&mut stage);
        for _ in 0..3 {
            let mut shared = stage.share(Opcode::Binary, &[0; 40]);
            ann.push_shared(&mut stage, &mut shared);
            bob.push_shared(&mut stage, &mut shared);
            stage.end_share(shared);
        }
        assert!(matches!((&ann, &bob), (Outbox::Staged { .. }, Outbox::Staged { .. })));
        assert_eq!(
            (ann.waiting(), bob.waiting(), stage.log.len()),
            (126, 126, 126),
            "both refer to the same bytes"
        );
    }

    #[test]
    fn a_connection_has_at_most_its_share_of_the_log() {
        for len in [0, 1, 100] {
            let (mut stage, mut before, mut outbox) =
                (Stage::default(), Outbox::Empty, Outbox::Empty);
            before.push_frame(&mut stage, Opcode::Binary, &[0; 3000]);
            let longest = len + FrameHeader::MAX_LEN;
            // The length of the header is not known in advance.
            assert!(!outbox.stage_frame(&mut stage, Opcode::Binary, &vec![0; len], longest - 1));
            assert!(outbox.stage_frame(&mut stage, Opcode::Binary, &vec![0; len], longest));
            let waiting = outbox.waiting();
            assert!(!outbox.stage_frame(
                &mut stage,
                Opcode::Binary,
                &vec![0; len],
                waiting + longest - 1
            ));
            assert!(outbox.stage_frame(
                &mut stage,
                Opcode::Binary,
                &vec![0; len],
                waiting + longest
            ));
            assert_eq!(outbox.waiting(), 2 * waiting);
        }
    }

    #[test]
    fn a_connection_has_at_most_its_share_of_shared_frames_in_the_log() {
        let (mut stage, mut before, mut outbox) = (Stage::default(), Outbox::Empty, Outbox::Empty);
        before.push_frame(&mut stage, Opcode::Binary, &[0; 3000]);
        for waiting in [102, 204] {
            let shared = stage.share(Opcode::Binary, &[0; 100]);
            assert!(!outbox.stage_shared(&mut stage, &shared, waiting - 1));
            assert!(outbox.stage_shared(&mut stage, &shared, waiting));
            assert_eq!(outbox.waiting(), waiting);
            stage.end_share(shared);
        }
    }

    #[test]
    fn a_message_replaces_none_before_the_socket_is_found_full() {
        let mut stage = Stage::default();
        let mut outbox = Outbox::Empty;
        outbox.push_head(&mut stage, b"head"[..].into());
        let mut shared = stage.share(Opcode::Binary, b"shared");
        for _ in 0..2 {
            assert!(!outbox.push_latest(&mut stage, Opcode::Binary.plain(), b"own", 1));
            assert!(!outbox.push_shared_latest(&mut stage, &mut shared, 1));
        }
        stage.end_share(shared);
        let mut out = Vec::new();
        outbox.flush(&mut stage, &mut out, 0).unwrap();
        assert_eq!(out, b"head\x82\x03own\x82\x06shared\x82\x03own\x82\x06shared");
    }

    #[test]
    fn a_write_that_ends_with_a_frame_has_begun_no_other() {
        let mut frames = Vec::new();
        let mut begun = vec![0];
        for payload in [&b""[..], b"1", &[2; 200], b""] {
            encode_frame(Opcode::Binary, payload, &mut frames);
            begun.push(frames.len());
        }
        for at in 0..=frames.len() {
            let last = begun.iter().copied().filter(|&start| start <= at).max();
            assert_eq!(Some(frame_start(&frames, at)), last, "{at}");
        }
    }

    #[test]
    fn a_queue_refers_to_a_shared_frame_of_16_kib() {
        let mut stage = Stage::default();
        let mut shared = stage.share(Opcode::Binary, &[0; 16 * 1024]);
        let mut outbox = Outbox::Empty;
        outbox.use_queue(&mut stage);
        outbox.push_shared(&mut stage, &mut shared);
        assert!(shared.frame.as_ref().is_some_and(|frame| !frame.is_unique()));
        stage.end_share(shared);
    }

    #[test]
    fn a_shared_payload_of_64_kib_is_not_in_the_log_and_a_shorter_one_is() {
        let mut stage = Stage::default();
        for (len, in_log) in [(64 * 1024 - 1, 64 * 1024 + 3), (64 * 1024, 0)] {
            let shared = stage.share(Opcode::Binary, &vec![0; len]);
            let header = if len > 65_535 { 10 } else { 4 };
            assert_eq!((shared.len(), stage.len()), (len + header, in_log));
            stage.end_share(shared);
        }
    }

    #[test]
    fn small_frames_wait_in_pieces_of_64_kib() {
        let mut stage = Stage::default();
        let mut outbox = blocked(&mut stage);
        while outbox.waiting() < 1_048_576 {
            outbox.push_frame(&mut stage, Opcode::Binary, b"y");
        }
        let Outbox::Queued(queue) = &outbox else { panic!("it is blocked") };
        assert!((15..=17).contains(&queue.waiting.len()), "{} pieces", queue.waiting.len());
    }

    #[test]
    fn the_log_is_full_at_four_megabytes_and_not_before() {
        let mut stage = Stage::default();
        stage.log.push(Opcode::Binary.into(), &[0; 4_194_303 - 10]);
        assert!(!stage.is_full());
        stage.log.push(Opcode::Binary.into(), &[]);
        assert!(stage.is_full());
    }

    #[test]
    fn only_a_long_head_or_one_with_a_frame_behind_it_needs_a_queue() {
        let mut stage = Stage::default();
        let is_staged = |outbox: &Outbox| matches!(outbox, Outbox::StagedHead { .. });
        for (len, staged) in [(WRITE_THROUGH - 1, true), (WRITE_THROUGH, false)] {
            let mut outbox = Outbox::Empty;
            outbox.push_head(&mut stage, vec![b'H'; len].into());
            assert_eq!(is_staged(&outbox), staged, "{len} bytes");
            let mut out = Vec::new();
            assert_eq!(outbox.flush(&mut stage, &mut out, 0).unwrap(), Flushed::All);
            assert_eq!((out.len(), outbox.is_empty(), stage.len()), (len, true, 0));
        }
        let mut outbox = Outbox::Empty;
        outbox.push_head(&mut stage, b"head"[..].into());
        outbox.push_frame(&mut stage, Opcode::Binary, b"a frame");
        assert!(!is_staged(&outbox));
        stage.log.push(Opcode::Binary.into(), &[0; LONGEST_LOG]);
        let mut outbox = Outbox::Empty;
        outbox.push_head(&mut stage, b"head"[..].into());
        assert!(!is_staged(&outbox));
    }

    #[test]
    fn a_head_is_neither_dropped_nor_cut_nor_counted_as_a_message() {
        for room in 0..4 {
            let mut stage = Stage::default();
            let mut outbox = Outbox::Empty;
            outbox.push_head(&mut stage, b"head"[..].into());
            outbox.drop_waiting(&mut stage);
            assert_eq!((outbox.messages(&stage), outbox.waiting()), (0, 4));
            let mut taken = [0; 4];
            let flushed = outbox.flush(&mut stage, &mut &mut taken[..room], 7).unwrap();
            assert_eq!((flushed, outbox.blocked_since()), (Flushed::Blocked, Some(7)));
            outbox.drop_waiting(&mut stage);
            assert!(outbox.is_mid_frame() && stage.len() == 0);
            let mut rest = Vec::new();
            outbox.flush(&mut stage, &mut rest, 8).unwrap();
            assert_eq!([&taken[..room], &rest].concat(), b"head");
        }
    }
}
