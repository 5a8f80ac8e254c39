//! The bytes that wait for a socket that did not take everything: whole frames in their order, the
//! rest of the frame that was written in part, and the frames that may overtake others.
//!
//! A frame is a message. So the oldest can be dropped, and a frame with a key can be replaced in
//! its place.
//!
//! Small frames are stored side by side in one list: a queue that is full of empty messages, 256
//! KiB with their headers, takes 279 KB of heap. With a `Bytes` for each frame it takes 6 552 KB
//! (`tests/outbox_memory.rs`).

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes, BytesMut};

use super::write::{Compress, Flushed, STAGE_SHARE, WRITE_THROUGH, frame_start, offer, offer_one};
use crate::protocol::{FrameHeader, FrameKind, encode_frame, frame_len};

/// Pieces handed to one vectored write; far below IOV_MAX, enough to fill a socket buffer.
const SLICES: usize = 64;
/// The capacity in pieces up to which the loop keeps a queue for reuse.
pub(super) const KEEP_PIECES: usize = 256;
/// The most bytes that a message with a key takes beside its frame: its own allocation, its piece,
/// and the entry of its key.
pub(super) const KEYED: usize = 128;

#[derive(Default)]
pub(crate) struct Queue {
    /// The rest of a frame, or of a response head, that the socket took in part. It is never cut or
    /// overtaken.
    pub(super) partial: Bytes,
    /// Pings, which overtake everything below. They are stored side by side, so that many empty
    /// ones take no more memory than they count, and adding one does not look at the others.
    urgent: BytesMut,
    /// The latest pong, which also overtakes everything below.
    pong: Bytes,
    /// Frames that are compressed already.
    ready: Bytes,
    pub(super) waiting: VecDeque<Piece>,
    /// The number of the first waiting piece; each new piece gets the next number.
    first: u64,
    /// The piece that holds the message of a key.
    latest: HashMap<u64, u64>,
    /// Whole frames behind all others, still growing. Small frames wait here side by side, because
    /// each by itself would take many times its length.
    pub(super) tail: Vec<u8>,
    bytes: usize,
    /// The socket took less than it was offered. It is offered more when the poll reports that it
    /// is writable.
    blocked: bool,
    /// The time at which the socket last took something, in milliseconds on the loop's clock.
    progress_at: u64,
}

/// One or several whole frames that wait.
pub(super) struct Piece {
    frames: Bytes,
    /// The key, if it is one frame that a later message with this key replaces.
    key: Option<u64>,
}

impl Queue {
    /// The number of bytes that wait, headers included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes that count against the limit: the waiting ones, and the memory that each
    /// key takes beside them. Without the latter, short messages with ever new keys would take far
    /// more memory than the limit says.
    pub(super) fn held(&self) -> usize {
        self.bytes + self.latest.len() * KEYED
    }

    /// The same for the message with this key, which would be replaced.
    pub(super) fn held_by(&self, key: u64) -> usize {
        let at = self.latest.get(&key).map(|number| (number - self.first) as usize);
        at.and_then(|at| self.waiting.get(at)).map_or(0, |piece| piece.frames.len() + KEYED)
    }

    /// The number of waiting messages of which the peer has received nothing. Each call counts
    /// them.
    pub(super) fn messages(&self) -> usize {
        let pieces =
            [&self.ready].into_iter().chain(self.waiting.iter().map(|piece| &piece.frames));
        let all = pieces.map(|piece| &piece[..]).chain([&self.tail[..]]);
        all.map(messages_of).sum()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn progress_at(&self) -> u64 {
        self.progress_at
    }

    #[cfg(feature = "_tls")]
    pub(super) fn note_progress(&mut self, now: u64) {
        self.progress_at = now;
    }

    pub(super) fn is_mid_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    /// The bytes that are left of the frame that is partly written.
    pub(super) fn rest_of_frame(&self) -> usize {
        self.partial.len()
    }

    /// Whether it is small enough to be kept for another connection.
    pub(super) fn is_worth_keeping(&self) -> bool {
        let pieces = self.waiting.capacity().max(self.latest.capacity());
        self.tail.capacity() <= STAGE_SHARE && pieces <= KEEP_PIECES
    }

    /// The number of bytes for which it has memory, itself not counted: frames side by side,
    /// pieces, and keys with their places.
    pub(super) fn capacity(&self) -> usize {
        let pieces = self.waiting.capacity() * size_of::<Piece>();
        self.tail.capacity() + pieces + self.latest.capacity() * size_of::<(u64, u64)>()
    }

    pub(super) fn clear(&mut self) {
        self.partial = Bytes::new();
        self.drop_waiting();
        self.blocked = false;
    }

    /// Forgets every frame of which the peer has received nothing.
    pub(super) fn drop_waiting(&mut self) {
        // These are rare, and their memory is not kept.
        self.urgent = BytesMut::new();
        self.pong = Bytes::new();
        self.ready = Bytes::new();
        self.waiting.clear();
        self.latest.clear();
        self.tail.clear();
        self.bytes = self.partial.len();
    }

    /// Sets the bytes that are sent before everything else, and in one piece.
    pub(super) fn begin(&mut self, rest: Bytes) {
        self.bytes += rest.len();
        self.partial = rest;
    }

    /// Appends whole frames behind everything else.
    pub(super) fn push(&mut self, frames: Bytes) {
        self.close_open();
        self.bytes += frames.len();
        self.waiting.push_back(Piece { frames, key: None });
    }

    /// Appends a frame behind everything else, beside the previous ones.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.len() >= STAGE_SHARE {
            self.close_open();
        }
        let before = self.tail.len();
        write(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    /// Puts a frame in the place of the one that waits with the same key, or else behind
    /// everything; returns whether it replaced one.
    pub(super) fn push_latest(&mut self, key: u64, frame: Bytes) -> bool {
        self.bytes += frame.len();
        let at = self.latest.get(&key).map(|number| (number - self.first) as usize);
        if let Some(piece) = at.and_then(|at| self.waiting.get_mut(at)) {
            self.bytes -= piece.frames.len();
            piece.frames = frame;
            return true;
        }
        self.close_open();
        self.latest.insert(key, self.first + self.waiting.len() as u64);
        self.waiting.push_back(Piece { frames: frame, key: Some(key) });
        false
    }

    /// Queues a control frame, which overtakes waiting frames. Of the waiting pongs only the latest
    /// is kept.
    pub(super) fn push_control(&mut self, kind: FrameKind, payload: &[u8]) {
        let mut frame = Vec::new();
        encode_frame(kind, payload, &mut frame);
        self.bytes += frame.len();
        if kind == FrameKind::PONG {
            self.bytes -= self.pong.len();
            self.pong = Bytes::from(frame.into_boxed_slice());
        } else {
            self.urgent.extend_from_slice(&frame);
        }
    }

    /// The number of bytes that are never dropped.
    fn undroppable(&self) -> usize {
        self.partial.len() + self.urgent.len() + self.pong.len() + self.ready.len()
    }

    /// Drops the messages that have waited longest until at most `limit` bytes are
    /// [held](Self::held), or no message is left that may be dropped; returns how many. The message
    /// with the key `spared` stays in its place. If the bytes that must stay exceed the limit,
    /// nothing is dropped.
    pub(super) fn drop_oldest(&mut self, limit: usize, spared: Option<u64>) -> u64 {
        let mut dropped = 0;
        let mut aside = None;
        if self.undroppable() > limit {
            return 0;
        }
        while self.held() + aside.as_ref().map_or(0, |_| KEYED) > limit {
            if self.waiting.is_empty() {
                self.close_open();
            }
            if spared.is_some() && self.waiting.front().is_some_and(|piece| piece.key == spared) {
                aside = self.pop_waiting();
                continue;
            }
            let Some(frame) = self.take_first() else { break };
            if is_control(&frame) {
                self.urgent.extend_from_slice(&frame);
            } else {
                self.bytes -= frame.len();
                dropped += 1;
            }
        }
        if let Some(piece) = aside
            && let Some(key) = piece.key
        {
            self.first -= 1;
            self.latest.insert(key, self.first);
            self.waiting.push_front(piece);
        }
        dropped
    }

    pub(super) fn block(&mut self, now: u64) {
        self.close_open();
        if !self.blocked {
            self.blocked = true;
            self.progress_at = now;
        }
    }

    pub(super) fn flush(
        &mut self,
        out: &mut impl Write,
        now: u64,
        mut compress: Option<&mut Compress<'_>>,
        bytes_out: &mut u64,
    ) -> io::Result<Flushed> {
        let was_blocked = self.blocked;
        let mut progress = false;
        while self.bytes > 0 {
            if let Some(compress) = &mut compress
                && self.undroppable() == 0
            {
                self.compress_next(compress);
            }
            let (offered, written) = self.offer(out, compress.is_none())?;
            *bytes_out += written as u64;
            if written > 0 {
                self.consume(written);
                self.progress_at = now;
                progress = was_blocked;
            }
            if written < offered {
                self.block(now);
                return Ok(if progress { Flushed::Progress } else { Flushed::Blocked });
            }
        }
        self.blocked = false;
        Ok(if progress { Flushed::Emptied } else { Flushed::All })
    }

    /// Removes `written` bytes from the front, in the order in which `offer` showed them.
    pub(super) fn consume(&mut self, mut written: usize) {
        if written == self.bytes {
            return self.clear();
        }
        self.bytes -= written;
        let now = written.min(self.partial.len());
        self.partial.advance(now);
        written -= now;
        written -= self.consume_urgent(written);
        while written > 0 {
            let front = match (self.ready.is_empty(), self.waiting.front_mut()) {
                (false, _) => &mut self.ready,
                (true, Some(piece)) => &mut piece.frames,
                (true, None) => {
                    self.close_open();
                    continue;
                }
            };
            if written < front.len() {
                // The frame in which the write ended is partly written from now on; the frames
                // behind it in the piece are not.
                let start = frame_start(front, written);
                front.advance(start);
                if start < written {
                    let whole = frame_len(front).unwrap_or(front.len()).min(front.len());
                    self.partial = front.split_to(whole);
                    self.partial.advance(written - start);
                }
                written = 0;
            } else {
                written -= front.len();
                front.clear();
            }
            if self.waiting.front().is_some_and(|piece| piece.frames.is_empty()) {
                self.pop_waiting();
            }
        }
    }

    /// Removes up to `written` bytes from the pings and the pong; returns how many.
    fn consume_urgent(&mut self, written: usize) -> usize {
        let whole = written.min(self.urgent.len());
        let start =
            if whole < self.urgent.len() { frame_start(&self.urgent, whole) } else { whole };
        self.urgent.advance(start);
        let mut taken = whole;
        if start < whole {
            // Copied, because a reference to a part of the buffer would keep all of it.
            let len = frame_len(&self.urgent).unwrap_or(self.urgent.len()).min(self.urgent.len());
            self.partial = Bytes::copy_from_slice(&self.urgent[whole - start..len]);
            self.urgent.advance(len);
        } else if self.urgent.is_empty() && written > whole {
            let of_pong = (written - whole).min(self.pong.len());
            self.pong.advance(of_pong);
            self.partial = std::mem::take(&mut self.pong);
            taken += of_pong;
        }
        taken
    }

    fn close_open(&mut self) {
        if !self.tail.is_empty() {
            // Without spare capacity: a piece may wait for long.
            let frames = Bytes::from(std::mem::take(&mut self.tail).into_boxed_slice());
            self.waiting.push_back(Piece { frames, key: None });
        }
    }

    fn pop_waiting(&mut self) -> Option<Piece> {
        let piece = self.waiting.pop_front()?;
        self.first += 1;
        if let Some(key) = piece.key {
            self.latest.remove(&key);
        }
        Some(piece)
    }

    /// Takes the first waiting frame of the pieces; its bytes are still counted.
    fn take_first(&mut self) -> Option<Bytes> {
        let frames = &mut self.waiting.front_mut()?.frames;
        let frame = frames.split_to(frame_len(frames).unwrap_or(frames.len()).min(frames.len()));
        if frames.is_empty() {
            self.pop_waiting();
        }
        Some(frame)
    }

    /// Moves the first waiting frames to where they are offered next, compressed if they are marked
    /// for it. From then on they must be sent, because later compressed frames refer to them. So it
    /// moves no more than a socket takes readily.
    fn compress_next(&mut self, compress: &mut Compress<'_>) {
        self.close_open();
        let (mut ready, mut payload) = (Vec::new(), Vec::new());
        while ready.len() < WRITE_THROUGH
            && let Some(frame) = self.take_first()
        {
            self.bytes -= frame.len();
            match (FrameHeader::parse(&frame), FrameKind::of(&frame)) {
                (Ok(Some((header, header_len))), Some(kind)) if header.rsv1 => {
                    payload.clear();
                    compress(&frame[header_len..], &mut payload);
                    encode_frame(kind, &payload, &mut ready);
                }
                _ => ready.extend_from_slice(&frame),
            }
        }
        self.bytes += ready.len();
        self.ready = Bytes::from(ready);
    }

    /// One vectored write of as much as fits, with waiting frames if `all`; returns how much was
    /// offered and how much was taken.
    fn offer(&self, out: &mut impl Write, all: bool) -> io::Result<(usize, usize)> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut offered = 0;
        let behind = self
            .waiting
            .iter()
            .map(|piece| &piece.frames[..])
            .chain(std::iter::once(&self.tail[..]));
        let pieces = [&self.partial[..], &self.urgent[..], &self.pong[..], &self.ready[..]]
            .into_iter()
            .chain(behind.filter(|_| all));
        for piece in pieces.filter(|piece| !piece.is_empty()).take(SLICES) {
            slices[used] = IoSlice::new(piece);
            used += 1;
            offered += piece.len();
        }
        let written = match used {
            1 => offer_one(out, &slices[0])?,
            _ => offer(out, &slices[..used])?,
        };
        Ok((offered, written))
    }
}

/// The number of messages side by side in `frames`.
pub(super) fn messages_of(mut frames: &[u8]) -> usize {
    let mut messages = 0;
    while let Some(len) = frame_len(frames) {
        messages += usize::from(!is_control(frames));
        frames = frames.get(len..).unwrap_or_default();
    }
    messages
}

fn is_control(frame: &[u8]) -> bool {
    matches!(FrameHeader::parse(frame), Ok(Some((header, _))) if header.opcode.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::encoded;
    use crate::protocol::Opcode;

    /// Takes as many bytes as it has room for.
    #[derive(Default)]
    struct Wire {
        room: usize,
        received: Vec<u8>,
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.received.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.write(&bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A slow model of the queue: one entry for each message, with the number of its bytes that are
    /// written.
    #[derive(Default)]
    struct Model {
        frames: Vec<(Vec<u8>, Option<u64>)>,
        written: usize,
        sent: Vec<u8>,
    }

    impl Model {
        fn bytes(&self) -> usize {
            self.frames.iter().map(|(frame, _)| frame.len()).sum::<usize>() - self.written
        }

        /// The first message of which nothing was written.
        fn untouched(&self) -> usize {
            usize::from(self.written > 0)
        }

        fn push_latest(&mut self, key: u64, frame: Vec<u8>) -> bool {
            let from = self.untouched();
            match self.frames[from..].iter_mut().find(|(_, each)| *each == Some(key)) {
                Some((old, _)) => {
                    *old = frame;
                    true
                }
                None => {
                    self.frames.push((frame, Some(key)));
                    false
                }
            }
        }

        fn held(&self) -> usize {
            self.bytes()
                + KEYED
                    * self.frames[self.untouched()..]
                        .iter()
                        .filter(|(_, key)| key.is_some())
                        .count()
        }

        fn drop_oldest(&mut self, limit: usize, spared: Option<u64>) -> u64 {
            let mut dropped = 0;
            let partial = self
                .frames
                .first()
                .filter(|_| self.written > 0)
                .map_or(0, |(frame, _)| frame.len() - self.written);
            while partial <= limit && self.held() > limit {
                let from = self.untouched();
                let may_go = |(_, key): &(Vec<u8>, Option<u64>)| spared.is_none() || *key != spared;
                let Some(oldest) = self.frames[from..].iter().position(may_go) else { break };
                self.frames.remove(from + oldest);
                dropped += 1;
            }
            dropped
        }

        fn write(&mut self, mut bytes: usize) {
            while bytes > 0 {
                let Some((frame, _)) = self.frames.first() else { break };
                let now = bytes.min(frame.len() - self.written);
                self.sent.extend_from_slice(&frame[self.written..self.written + now]);
                self.written += now;
                bytes -= now;
                if self.written == frame.len() {
                    self.frames.remove(0);
                    self.written = 0;
                }
            }
        }
    }

    #[test]
    fn dropping_and_replacing_never_tears_a_message_or_changes_the_order() {
        let mut seed = 3_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let (mut replaced, mut dropped) = (0, 0);
        for _ in 0..300 {
            let (mut queue, mut model, mut wire) =
                (Queue::default(), Model::default(), Wire::default());
            queue.block(0);
            for step in 0..100 {
                let payload = vec![step as u8; random(200)];
                let frame = encoded(Opcode::Binary.plain(), &payload);
                match random(8) {
                    0 => {
                        model.frames.push((frame.to_vec(), None));
                        queue.push(frame);
                    }
                    1..3 => {
                        queue.append(|open| open.extend_from_slice(&frame));
                        model.frames.push((frame.to_vec(), None));
                    }
                    3..6 => {
                        let key = random(5) as u64;
                        let held = queue.held() - queue.held_by(key) + frame.len() + KEYED;
                        let was = model.push_latest(key, frame.to_vec());
                        assert_eq!(queue.push_latest(key, frame), was);
                        assert_eq!(queue.held(), held);
                        replaced += u64::from(was);
                    }
                    6 => {
                        let (limit, spared) =
                            (random(2000), [None, Some(random(5) as u64)][random(2)]);
                        let count = model.drop_oldest(limit, spared);
                        assert_eq!(queue.drop_oldest(limit, spared), count);
                        dropped += count;
                    }
                    _ => {
                        wire.room = random(700);
                        let room = wire.room;
                        let before = wire.received.len();
                        let flushed = queue.flush(&mut wire, step, None, &mut 0).unwrap();
                        model.write(room);
                        assert_eq!(
                            wire.received.len() - before,
                            room.min(wire.received.len() - before)
                        );
                        assert_eq!(queue.is_blocked(), model.bytes() > 0);
                        let expected = match (model.bytes() > 0, wire.received.len() > before) {
                            (false, false) => Flushed::All,
                            (false, true) => Flushed::Emptied,
                            (true, false) => Flushed::Blocked,
                            (true, true) => Flushed::Progress,
                        };
                        assert_eq!(flushed, expected);
                        queue.block(step);
                    }
                }
                assert_eq!((queue.bytes(), queue.held()), (model.bytes(), model.held()));
                assert_eq!(queue.messages(), model.frames.len() - model.untouched());
                assert!(wire.received == model.sent);
            }
            wire.room = usize::MAX;
            queue.flush(&mut wire, 0, None, &mut 0).unwrap();
            model.write(usize::MAX);
            assert!(wire.received == model.sent);
        }
        assert!(replaced > 1000 && dropped > 1000, "{replaced} {dropped}");
    }

    #[test]
    fn pings_and_pongs_are_not_dropped() {
        let mut queue = Queue::default();
        queue.append(|open| encode_frame(Opcode::Pong, b"1", open));
        queue.block(0);
        queue.push_control(FrameKind::PING, b"2");
        for _ in 0..10 {
            queue.append(|open| encode_frame(Opcode::Text, b"text", open));
        }
        assert_eq!(queue.drop_oldest(2, None), 0, "more than that cannot be dropped");
        assert_eq!(queue.drop_oldest(6, None), 10);
        let mut wire = Wire { room: 100, ..Wire::default() };
        assert_eq!(queue.flush(&mut wire, 0, None, &mut 0).unwrap(), Flushed::Emptied);
        assert_eq!(wire.received, b"\x89\x012\x8a\x011");
    }

    #[test]
    fn waiting_pings_are_sent_whole_in_order_and_before_messages() {
        for room in 1..40 {
            let (mut queue, mut wire) = (Queue::default(), Wire::default());
            let mut expected = Vec::new();
            queue.block(0);
            queue.append(|open| encode_frame(Opcode::Text, b"text", open));
            queue.push_control(FrameKind::PONG, b"old");
            for ping in [&b""[..], b"1", b"22", b""] {
                queue.push_control(FrameKind::PING, ping);
                encode_frame(Opcode::Ping, ping, &mut expected);
            }
            queue.push_control(FrameKind::PONG, b"new");
            encode_frame(Opcode::Pong, b"new", &mut expected);
            encode_frame(Opcode::Text, b"text", &mut expected);
            assert_eq!((queue.bytes(), queue.messages()), (expected.len(), 1));
            for _ in 0..expected.len().div_ceil(room) {
                wire.room = room;
                queue.flush(&mut wire, 0, None, &mut 0).unwrap();
                assert_eq!(queue.bytes(), expected.len() - wire.received.len());
            }
            assert_eq!(wire.received, expected, "{room} at a time");
        }
    }

    /// A queue that counts for less than it takes would let the loop keep more than it may.
    #[test]
    fn a_queue_counts_for_all_it_has_room_for() {
        const PIECE: usize = size_of::<Piece>();
        let bounded = |queue: &Queue, least: usize| {
            let counted = queue.capacity();
            assert!((least..=4 * least).contains(&counted), "{counted} bytes for {least}");
        };
        for (bytes, pieces, keys) in
            [(10_000, 0, 0), (0, 200, 0), (0, 0, 112), (10_000, 200, 0), (10_000, 0, 112)]
        {
            let mut queue = Queue::default();
            (0..pieces).for_each(|_| queue.push(encoded(Opcode::Text, b"piece")));
            for key in 0..keys {
                queue.push_latest(key, encoded(Opcode::Text, b"key"));
            }
            queue.append(|open| open.resize(bytes, 0));
            bounded(
                &queue,
                bytes + (pieces + keys as usize) * PIECE + keys as usize * size_of::<(u64, u64)>(),
            );
        }
        assert_eq!(Queue::default().capacity(), 0);
    }

    #[test]
    fn nothing_is_dropped_if_what_must_stay_exceeds_the_limit() {
        let mut plain = |_: &[u8], _: &mut Vec<u8>| {};
        for (partial, ping, pong, ready) in (0..16).map(|n| (n & 1, n & 2, n & 4, n & 8)) {
            let mut queue = Queue::default();
            queue.block(0);
            if ready > 0 {
                // Compressed frames stay, because later compressed frames refer to them.
                queue.push(encoded(Opcode::Text, b"ready to go"));
                let full = &mut Wire::default();
                assert_eq!(
                    queue.flush(full, 0, Some(&mut plain), &mut 0).unwrap(),
                    Flushed::Blocked
                );
            }
            if partial > 0 {
                queue.begin(Bytes::from_static(b"rest"));
            }
            if ping > 0 {
                queue.push_control(FrameKind::PING, b"a ping");
            }
            if pong > 0 {
                queue.push_control(FrameKind::PONG, b"and a pong");
            }
            let stays = queue.bytes();
            for _ in 0..10 {
                queue.push(encoded(Opcode::Text, b"text"));
            }
            if stays > 0 {
                assert_eq!(queue.drop_oldest(stays - 1, None), 0);
            }
            // Each has six bytes.
            assert_eq!(queue.drop_oldest(stays + 30, None), 5, "no more than has to be");
            assert_eq!(queue.drop_oldest(stays, None), 5, "all of them, where that is enough");
            assert_eq!(queue.bytes(), stays);
            // The frames that stay are sent once and are counted.
            let mut wire = Wire { room: 1000, ..Wire::default() };
            let mut bytes_out = 7;
            queue.flush(&mut wire, 0, Some(&mut plain), &mut bytes_out).unwrap();
            assert_eq!((wire.received.len(), bytes_out), (stays, 7 + stays as u64));
        }
    }

    #[test]
    fn no_more_is_compressed_ahead_than_16_kib_and_only_what_is_marked_so() {
        let (mut queue, mut full) = (Queue::default(), Wire::default());
        let mut calls = 0;
        let mut compress = |payload: &[u8], out: &mut Vec<u8>| {
            calls += 1;
            out.extend_from_slice(payload);
        };
        queue.block(0);
        for n in 0..40 {
            let kind =
                if n % 2 == 0 { Opcode::Binary.plain() } else { Opcode::Binary.compressed() };
            queue.push(encoded(kind, &[n; 1020]));
        }
        let all = queue.bytes();
        assert_eq!(
            queue.flush(&mut full, 0, Some(&mut compress), &mut 0).unwrap(),
            Flushed::Blocked
        );
        assert_eq!((calls, queue.bytes(), queue.messages()), (8, all, 40));
        assert_eq!(queue.drop_oldest(16 * 1024, None), 24, "those behind may still be dropped");
    }
}
