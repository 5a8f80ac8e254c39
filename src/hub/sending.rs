//! Sending to one connection: which frame its outbox takes, and what happens if there is no room.
//!
//! `flushing` decides when an outbox is offered to its socket; `broadcast` sends to many
//! connections.

use slab::Slab;

use super::connection::Connection;
use super::phase::Phase;
use super::{Hub, Notification, named};
use crate::config::{Dropped, SlowReader};
use crate::error::{EmitError, Error};
use crate::outbox::{Encoding, Flushed, Outgoing, Room, STAGE_SHARE, SendOptions, WRITE_THROUGH};
use crate::protocol::{CloseCode, FrameKind, Opcode, encode_close, encode_header};
use crate::token::{Recipient, Token};

/// The result of sending a message.
///
/// The result of [`Socket::emit`](crate::Socket::emit) may be ignored. `emit_to` returns the same
/// as a [`Result`], in which `Ok` is never `Refused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emitted {
    /// The message is queued, and will be offered to the socket before the loop waits again. By
    /// [`Everywhere::emit_to`](crate::Everywhere::emit_to) it may also be queued for another loop
    /// or for the bus.
    Queued,
    /// The message is queued, but the peer reads more slowly than the server writes: its socket
    /// takes nothing at the moment.
    Pressure,
    /// The message is not queued, for this reason.
    Refused(EmitError),
}

impl Emitted {
    /// Returns the refusal as an error, for `?`.
    ///
    /// # Errors
    ///
    /// The reason why the message was refused.
    pub fn ok(self) -> Result<Self, EmitError> {
        match self {
            Self::Queued | Self::Pressure => Ok(self),
            Self::Refused(error) => Err(error),
        }
    }
}

/// The connection that a token names, if it is open.
#[inline]
pub(super) fn open(connections: &mut Slab<Connection>, token: Token) -> Option<&mut Connection> {
    let is_open =
        |c: &&mut Connection| c.generation == token.generation && matches!(c.phase, Phase::Open);
    connections.get_mut(token.index as usize).filter(is_open)
}

/// Puts a connection on the list of those with something to write, unless it is on the list already
/// or is flushed anyway.
#[inline]
pub(super) fn schedule_flush(
    connection: &mut Connection,
    token: Token,
    dirty: &mut Vec<Token>,
    active: Option<u32>,
) {
    if !connection.dirty && active != Some(token.index) {
        connection.dirty = true;
        dirty.push(token);
    }
}

impl Hub {
    #[inline]
    pub(crate) fn emit(
        &mut self,
        token: Token,
        opcode: Opcode,
        payload: &[u8],
        options: &SendOptions,
    ) -> Emitted {
        let Some(connection) = open(&mut self.connections, token) else {
            self.stats.emits_refused.closed += 1;
            return Emitted::Refused(EmitError::Closed);
        };
        let most = self.limits.max_outbox.min(STAGE_SHARE);
        if payload.len() < WRITE_THROUGH
            && connection.compression.is_none()
            && connection.outbox.stage_frame(&mut self.stage, opcode, payload, most)
        {
            self.stats.messages_out += 1;
            schedule_flush(connection, token, &mut self.dirty, self.active);
            return Emitted::Queued;
        }
        self.emit_more(token, opcode, payload, options)
    }

    /// Handles an emit that the fast path cannot handle.
    #[inline(never)]
    fn emit_more(
        &mut self,
        token: Token,
        opcode: Opcode,
        payload: &[u8],
        options: &SendOptions,
    ) -> Emitted {
        let emitted = self.queue(token, opcode, payload, options);
        match emitted {
            Emitted::Queued | Emitted::Pressure => self.stats.messages_out += 1,
            Emitted::Refused(error) => self.stats.emits_refused.count(error),
        }
        emitted
    }

    /// Sends a ping of the user's. It is not counted as a message.
    pub(crate) fn ping(&mut self, token: Token, payload: &[u8]) -> Emitted {
        if !self.is_open(token) {
            return Emitted::Refused(EmitError::Closed);
        }
        self.queue(token, Opcode::Ping, payload, &SendOptions::USUAL)
    }

    /// Queues a frame that the fast path cannot stage: it is large, the log is full, the socket
    /// takes no more, or compression was agreed on. The connection is open.
    #[inline]
    fn queue(
        &mut self,
        token: Token,
        opcode: Opcode,
        payload: &[u8],
        options: &SendOptions,
    ) -> Emitted {
        if self.stage.is_full() {
            self.flush_staged();
            if !self.is_open(token) {
                return Emitted::Refused(EmitError::Closed);
            }
        }
        let connection = &mut self.connections[token.index as usize];
        let limit = self.limits.max_outbox;
        if payload.len() > limit {
            return Emitted::Refused(EmitError::TooLarge { len: payload.len(), limit });
        }
        match connection.encoding(payload.len(), options.compress && !opcode.is_control()) {
            Encoding::Plain => self.emit_frame(token, opcode.plain(), payload, options.key),
            Encoding::Shared(kind) => match self.common.deflate(kind, payload, &mut self.work) {
                Some(deflated) => {
                    let emitted =
                        self.emit_frame(token, opcode.compressed(), &deflated, options.key);
                    self.common.recycle(deflated);
                    emitted
                }
                None => self.emit_frame(token, opcode.plain(), payload, options.key),
            },
            Encoding::Dedicated => {
                if !connection.outbox.is_blocked() {
                    self.work += connection.late_work(payload.len());
                }
                self.emit_frame(token, opcode.compressed(), payload, options.key)
            }
        }
    }

    fn emit_frame(
        &mut self,
        token: Token,
        kind: FrameKind,
        payload: &[u8],
        key: Option<u64>,
    ) -> Emitted {
        let len = encode_header(kind, payload.len()).len() + payload.len();
        if let Err(error) = self.make_room(token, len, key) {
            return Emitted::Refused(error);
        }
        let connection = &mut self.connections[token.index as usize];
        let (stage, now) = (&mut self.stage, self.now);
        // Not before there is room: making room may end the queue.
        if connection.compresses_late() {
            connection.outbox.use_queue(stage);
        }
        if connection.outbox.is_blocked() {
            self.queue_behind(token, kind, payload, key);
            return Emitted::Pressure;
        }
        let mut offered = Ok(Flushed::All);
        if payload.len() >= WRITE_THROUGH && !connection.compresses_late() {
            let written = stage.written;
            offered =
                connection.outbox.write_through(stage, kind, payload, &mut connection.stream, now);
            connection.count_taken(stage, written);
            connection.was_blocked |= connection.outbox.is_blocked();
        } else {
            connection.outbox.push_frame(stage, kind, payload);
            if connection.outbox.waiting() >= STAGE_SHARE {
                offered = connection.flush(stage, &mut self.common, now);
            }
        }
        match offered {
            Ok(_) if self.is_blocked(token) => {
                self.note_pressure(token);
                Emitted::Pressure
            }
            Ok(_) => {
                self.schedule_flush(token);
                Emitted::Queued
            }
            Err(error) => {
                self.socket_failed(token, error);
                Emitted::Refused(EmitError::Closed)
            }
        }
    }

    /// Queues a frame behind data that a full socket does not take.
    fn queue_behind(&mut self, token: Token, kind: FrameKind, payload: &[u8], key: Option<u64>) {
        let outbox = &mut self.connections[token.index as usize].outbox;
        match key {
            _ if kind == FrameKind::PING => outbox.push_control(&mut self.stage, kind, payload),
            Some(key) => {
                let replaced = outbox.push_latest(&mut self.stage, kind, payload, key);
                self.count_dropped(
                    token,
                    Dropped { replaced: replaced.into(), ..Dropped::default() },
                );
            }
            None => outbox.push_frame(&mut self.stage, kind, payload),
        }
        self.note_pressure(token);
    }

    /// Makes room for a frame of `len` bytes, by the connection's policy.
    pub(super) fn make_room(
        &mut self,
        token: Token,
        len: usize,
        key: Option<u64>,
    ) -> Result<(), EmitError> {
        let limit = self.limits.max_outbox;
        let connection = &mut self.connections[token.index as usize];
        if !connection.outbox.lacks_room(len, limit, key) {
            return Ok(());
        }
        // An event reports when a full socket takes bytes again. Only a socket whose connection
        // would be disconnected is tried once more.
        if !connection.outbox.is_blocked() || connection.slow_reader == SlowReader::Disconnect {
            if let Err(error) = connection.flush(&mut self.stage, &mut self.common, self.now) {
                self.socket_failed(token, error);
                return Err(EmitError::Closed);
            }
            self.arm(token.index);
        }
        let connection = &mut self.connections[token.index as usize];
        let mut dropped = Dropped::default();
        if connection.slow_reader == SlowReader::DropOldest
            && connection.outbox.lacks_room(len, limit, key)
        {
            dropped.oldest = connection.outbox.drop_oldest(len, limit, key);
        }
        let has_room = !connection.outbox.lacks_room(len, limit, key);
        if !has_room && connection.slow_reader == SlowReader::Disconnect {
            let Room { held: waiting, needed: frame } = connection.outbox.room(len, key);
            self.fail(token, Error::SlowConsumer { frame, waiting, limit });
            return Err(EmitError::Full);
        }
        dropped.newest = u64::from(!has_room);
        self.count_dropped(token, dropped);
        if has_room { Ok(()) } else { Err(EmitError::Full) }
    }

    pub(super) fn count_dropped(&mut self, token: Token, dropped: Dropped) {
        if dropped != Dropped::default() {
            self.stats.dropped += dropped;
            *self.dropped_by.entry(token.index).or_default() += dropped;
        }
    }

    /// Counts of messages that were not sent to a connection because it is slow.
    pub(crate) fn dropped_of(&self, token: Token) -> Dropped {
        self.dropped_by.get(&token.index).copied().unwrap_or_default()
    }

    /// The number of messages that wait for a connection.
    pub(crate) fn waiting_messages(&self, token: Token) -> usize {
        self.get(token).map_or(0, |connection| connection.outbox.messages(&self.stage))
    }

    /// Whether bytes wait for a connection whose socket takes none at the moment.
    #[inline]
    pub(super) fn is_blocked(&self, token: Token) -> bool {
        self.get(token).is_some_and(|connection| connection.outbox.is_blocked())
    }

    /// Records that more bytes wait for a socket that takes nothing.
    pub(super) fn note_pressure(&mut self, token: Token) {
        self.arm(token.index);
        let high = self.limits.high_water;
        let connection = &mut self.connections[token.index as usize];
        if !connection.over_high_water && connection.outbox.waiting() >= high {
            connection.over_high_water = true;
            self.notifications.push_back((token, Notification::Pressure));
        }
    }

    /// Whether listeners are to be called with a `pressure` or `relief` that was recorded earlier.
    /// They are not if its opposite has been recorded since then, nor with `pressure` if no more
    /// than the low-water mark waits any more. So the two events alternate, beginning with
    /// `pressure`.
    pub(super) fn confirm(&mut self, token: Token, pressure: bool) -> bool {
        let low = self.limits.low_water;
        let Some(connection) = named(&mut self.connections, token) else { return false };
        if pressure && !connection.pressure_fired && connection.outbox.waiting() <= low {
            connection.over_high_water = false;
        }
        let confirmed =
            connection.over_high_water == pressure && connection.pressure_fired != pressure;
        connection.pressure_fired ^= confirmed;
        confirmed
    }

    pub(crate) fn emit_to(
        &mut self,
        to: Recipient,
        message: &Outgoing<'_>,
    ) -> Result<Emitted, EmitError> {
        let Some(token) = self.recipient(to) else {
            let error = EmitError::Gone(to);
            self.stats.emits_refused.count(error);
            return Err(error);
        };
        let Outgoing { message, options } = message;
        self.emit(token, message.payload().opcode(), message.as_bytes(), options).ok()
    }

    fn recipient(&self, to: Recipient) -> Option<Token> {
        match to {
            Recipient::Uuid(uuid) => self.find(uuid),
            Recipient::Id(id) => Some(id.0).filter(|&token| self.is_open(token)),
        }
    }

    pub(super) fn push_close(&mut self, token: Token, close: Option<(CloseCode, &str)>) {
        let mut payload = Vec::new();
        encode_close(close, &mut payload);
        self.connections[token.index as usize].outbox.push_frame(
            &mut self.stage,
            Opcode::Close,
            &payload,
        );
        self.schedule_flush(token);
    }

    pub(super) fn push_control(&mut self, token: Token, opcode: Opcode, payload: &[u8]) {
        self.connections[token.index as usize].outbox.push_control(
            &mut self.stage,
            opcode,
            payload,
        );
        self.schedule_flush(token);
    }

    /// Notes that a connection has something to write. It is offered to its socket soon, unless the
    /// socket takes nothing at the moment.
    pub(super) fn schedule_flush(&mut self, token: Token) {
        let connection = &mut self.connections[token.index as usize];
        if !connection.outbox.is_blocked() {
            schedule_flush(connection, token, &mut self.dirty, self.active);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Audience;
    use crate::hub::test_kit::{hub, notifications, open};
    use crate::outbox::Latest;

    #[test]
    fn a_longer_replacement_keeps_its_place_and_drops_the_oldest() {
        let mut hub = hub();
        hub.limits.max_outbox = 10_000;
        let (token, far) = open(&mut hub, 0);
        hub.get_mut(token).unwrap().slow_reader = SlowReader::DropOldest;
        let latest = |len| Outgoing::from(Latest(7, vec![2; len]));
        // The socket is found full.
        assert_eq!(hub.emit(token, Opcode::Binary, &[0; 10], &SendOptions::USUAL), Emitted::Queued);
        hub.flush_dirty();
        assert_eq!(hub.broadcast(Audience::All, None, &latest(5000)), 1);
        for _ in 0..4 {
            assert_eq!(
                hub.emit(token, Opcode::Binary, &[1; 1000], &SendOptions::USUAL),
                Emitted::Pressure
            );
        }
        assert_eq!(hub.broadcast(Audience::All, None, &latest(6500)), 1);
        assert_eq!(hub.dropped_of(token), Dropped { newest: 0, oldest: 2, replaced: 1 });
        far.make_room(usize::MAX);
        hub.writable(token);
        let (received, _) = far.receive(usize::MAX);
        assert_eq!(received.len(), 6500 + 4 + 3 * (1000 + 4));
        assert_eq!(received[..5], [0x82, 126, 0x19, 0x64, 2], "the replaced one comes first");
    }

    #[test]
    fn short_messages_with_ever_new_keys_take_little_more_than_the_limit() {
        let mut hub = hub();
        hub.limits.max_outbox = 100_000;
        let (token, _) = open(&mut hub, 0);
        hub.get_mut(token).unwrap().slow_reader = SlowReader::DropNewest;
        hub.emit(token, Opcode::Binary, b"x", &SendOptions::USUAL);
        hub.flush_dirty();
        let emit = |hub: &mut Hub, key| {
            hub.emit(
                token,
                Opcode::Binary,
                b"x",
                &SendOptions { key: Some(key), ..SendOptions::USUAL },
            )
        };
        let kept = (0..).take_while(|&key| emit(&mut hub, key) == Emitted::Pressure).count();
        assert_eq!(kept, 100_000 / (128 + 3));
        // A value that replaces another has room.
        assert_eq!(emit(&mut hub, 5), Emitted::Pressure);
    }

    #[test]
    fn pressure_fires_when_the_socket_does_not_take_what_was_emitted() {
        let mut hub = hub();
        hub.limits.high_water = 500;
        let (ann, far) = open(&mut hub, 0);
        let (bob, _) = open(&mut hub, 0);
        assert_eq!(hub.broadcast(Audience::All, Some(bob), &Outgoing::from(&[0; 600])), 1);
        assert_eq!(hub.emit(bob, Opcode::Binary, &[0; 100], &SendOptions::USUAL), Emitted::Queued);
        hub.flush_dirty();
        assert_eq!(notifications(&mut hub), ["pressure"]);
        far.make_room(1000);
        hub.writable(ann);
        assert_eq!(notifications(&mut hub), ["relief"]);
    }

    #[test]
    fn pressure_that_passed_before_a_listener_was_called_does_not_fire() {
        let mut hub = hub();
        hub.limits.high_water = 500;
        let (token, far) = open(&mut hub, 0);
        let press = |hub: &mut Hub| {
            assert_eq!(
                hub.emit(token, Opcode::Binary, &[0; 600], &SendOptions::USUAL),
                Emitted::Queued
            );
            hub.flush_dirty();
        };
        press(&mut hub);
        far.make_room(1000);
        hub.writable(token);
        assert_eq!(notifications(&mut hub), [""; 0]);
        // An abort drops what waits, too.
        far.make_room(0);
        press(&mut hub);
        hub.abort(token);
        assert_eq!(notifications(&mut hub), ["disconnect None None"]);
    }

    #[test]
    fn pressure_and_relief_alternate_and_pressure_is_true_when_it_fires() {
        let mut seed = 11_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let policies = [SlowReader::Disconnect, SlowReader::DropNewest, SlowReader::DropOldest];
        let (mut fired, mut passed) = (0, 0);
        for round in 0..300 {
            let mut hub = hub();
            (hub.limits.max_outbox, hub.limits.high_water, hub.limits.low_water) =
                (4000, 1000, 250);
            let (token, far) = open(&mut hub, 0);
            hub.get_mut(token).unwrap().slow_reader = policies[round % 3];
            let mut last = "relief";
            for _ in 0..100 {
                let len = random(600);
                match random(6) {
                    0 | 1 => {
                        let _ = hub.emit(token, Opcode::Binary, &vec![0; len], &SendOptions::USUAL);
                    }
                    2 => {
                        let key = Some(random(3) as u64);
                        hub.emit(
                            token,
                            Opcode::Binary,
                            &vec![0; len],
                            &SendOptions { key, ..SendOptions::USUAL },
                        );
                    }
                    3 => {
                        hub.broadcast(Audience::All, None, &Outgoing::from(&vec![0; len][..]));
                    }
                    4 => {
                        far.make_room(random(2000));
                        hub.writable(token);
                    }
                    _ => hub.flush_dirty(),
                }
                passed += hub
                    .notifications
                    .iter()
                    .filter(|(_, record)| matches!(record, Notification::Relief))
                    .count();
                // Listeners are called only sometimes.
                while random(3) == 0
                    && let Some((_, record)) = hub.next_notification()
                {
                    let now = match record {
                        Notification::Pressure => "pressure",
                        Notification::Relief => "relief",
                        _ => continue,
                    };
                    assert_ne!(now, last);
                    assert!(now == "relief" || hub.get(token).unwrap().outbox.waiting() > 250);
                    last = now;
                    fired += 1;
                }
            }
            // In the end listeners know the true state.
            let told = notifications(&mut hub);
            if let Some(connection) = hub.get(token).filter(|connection| connection.is_open()) {
                let last = told
                    .iter()
                    .rfind(|each| *each == "pressure" || *each == "relief")
                    .map_or(last, |each| each);
                assert_eq!(last == "pressure", connection.over_high_water);
            }
        }
        assert!(fired > 500 && passed > 500, "{fired} fired, {passed} passed");
    }

    #[test]
    fn a_socket_is_tried_once_more_before_its_connection_fails() {
        let mut hub = hub();
        let (token, far) = open(&mut hub, 0);
        for _ in 0..5 {
            assert_ne!(
                hub.emit(token, Opcode::Binary, &[0; 190], &SendOptions::USUAL),
                Emitted::Refused(EmitError::Full)
            );
            hub.flush_dirty();
        }
        far.make_room(usize::MAX); // The event about that is not handled yet.
        assert_eq!(
            hub.emit(token, Opcode::Binary, &[0; 190], &SendOptions::USUAL),
            Emitted::Queued
        );
        assert!(hub.is_open(token));
    }

    #[test]
    fn a_connection_inherits_no_count_of_dropped_messages_with_its_slot() {
        let mut hub = hub();
        let (token, _) = open(&mut hub, 0);
        hub.get_mut(token).unwrap().slow_reader = SlowReader::DropNewest;
        for _ in 0..10 {
            hub.emit(token, Opcode::Binary, &[0; 500], &SendOptions::USUAL);
            hub.flush_dirty();
        }
        assert!(hub.dropped_of(token).newest > 0);
        hub.abort(token);
        hub.remove_dead();
        let (next, _) = open(&mut hub, 0);
        assert_eq!(next.index, token.index);
        assert_eq!(hub.dropped_of(next), Dropped::default());
    }

    #[test]
    fn a_message_of_16_kib_is_offered_at_once_and_a_shorter_one_waits() {
        let mut hub = hub();
        hub.limits.max_outbox = 1024 * 1024;
        let (token, far) = open(&mut hub, usize::MAX);
        for (len, offered) in [(16 * 1024 - 1, false), (16 * 1024, true)] {
            hub.flush_dirty();
            far.receive(usize::MAX);
            assert_eq!(
                hub.emit(token, Opcode::Binary, &vec![1; len], &SendOptions::USUAL),
                Emitted::Queued
            );
            assert_eq!(!far.receive(usize::MAX).0.is_empty(), offered, "{len} bytes");
        }
    }

    #[test]
    fn a_ping_passes_the_messages_that_wait_for_a_full_socket() {
        let mut hub = hub();
        let (token, far) = open(&mut hub, 0);
        assert_eq!(hub.emit(token, Opcode::Binary, b"one", &SendOptions::USUAL), Emitted::Queued);
        hub.flush_dirty();
        assert_eq!(hub.emit(token, Opcode::Binary, b"two", &SendOptions::USUAL), Emitted::Pressure);
        hub.ping(token, b"ping");
        far.make_room(usize::MAX);
        hub.writable(token);
        assert_eq!(far.receive(usize::MAX).0, b"\x89\x04ping\x82\x03one\x82\x03two");
    }

    #[test]
    fn pressure_does_not_fire_below_the_high_water_mark() {
        let mut hub = hub();
        hub.limits.high_water = 800;
        let (token, _far) = open(&mut hub, 0);
        for (len, fires) in [(300, false), (300, false), (300, true), (100, false)] {
            hub.emit(token, Opcode::Binary, &vec![1; len], &SendOptions::USUAL);
            hub.flush_dirty();
            let fired = std::iter::from_fn(|| hub.next_notification())
                .any(|(_, record)| matches!(record, Notification::Pressure));
            assert_eq!(fired, fires, "{} bytes wait", hub.get(token).unwrap().outbox.waiting());
        }
    }
}
