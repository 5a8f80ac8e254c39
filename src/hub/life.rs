//! What follows what in a connection's life, from its upgrade to its end, and what listeners will be told of it.
//!
//! Only here does one phase follow another. It knows no bytes but the ones that say goodbye, and does not look for those whose
//! time has come: that is `time`'s.

use std::io;
use std::num::NonZeroU16;

use super::attributes::Attributes;
use super::connection::{Farewell, Phase};
use super::record::Record;
use super::stopping::Stopping;
use super::{Hub, alive, named};
use crate::config::{RETRY_AFTER, SlowReader};
use crate::error::{CloseError, Error, IoError};
use crate::http::{Refusal, Request, Response};
use crate::outbox::Agreed;
use crate::protocol::{CloseCode, CloseFrame, Decoder, truncate_reason};
use crate::token::Token;

/// What leaving a topic counts of a turn's work, in bytes.
const LEAVE: usize = 2 * 1024;
/// What a close by a shutdown counts of a turn's work, in bytes: its events and its system calls.
const CLOSE: usize = 8 * 1024;

/// What the handshake hands over for a connection that opens.
pub(crate) struct Upgraded {
    pub(crate) head: Vec<u8>,
    pub(crate) request: Request,
    pub(crate) attributes: Attributes,
    pub(crate) compression: Option<Agreed>,
    pub(crate) slow_reader: SlowReader,
}

impl Hub {
    /// The peer becomes an open connection; `head` is the 101 response.
    pub(crate) fn open(&mut self, token: Token, route: u32, subprotocol: Option<NonZeroU16>, upgrade: Upgraded) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(token.index as usize) else { return };
        connection.phase = Phase::Open;
        connection.time = now;
        connection.route = route;
        connection.subprotocol = subprotocol;
        connection.request = Some(upgrade.request);
        connection.attributes = upgrade.attributes;
        connection.compression = upgrade.compression;
        connection.slow_reader = upgrade.slow_reader;
        let head = self.stage.hold(&upgrade.head);
        connection.outbox.push_head(&mut self.stage, head);
        self.head = upgrade.head;
        let mut uuid = self.uuids.next();
        while self.names.find(&self.connections, uuid).is_some() {
            uuid = self.uuids.next();
        }
        self.connections[token.index as usize].uuid = uuid;
        self.names.insert(&self.connections, token.index);
        self.open += 1;
        self.stats.upgraded += 1;
        self.arm(token.index);
        self.mark(token);
    }

    /// The peer does not get what it asked for, but this refusal; without the text if it asked by HEAD (RFC 9110 §9.3.2).
    pub(crate) fn refuse(&mut self, token: Token, refusal: &Refusal, head_only: bool) {
        let Some(connection) = self.get(token) else { return };
        let parked_head = matches!(&connection.phase, Phase::Parked(parked) if parked.goal.is_head_only());
        log::debug!("refused {} with {}: {refusal}", connection.peer.get(), refusal.status());
        self.stats.requests_refused.count(refusal);
        self.respond(token, &refusal.response(), head_only || parked_head);
    }

    /// The peer gets a response instead of an upgrade, and is seen off.
    pub(crate) fn respond(&mut self, token: Token, response: &Response, head_only: bool) {
        let Some(connection) = named(&mut self.connections, token) else { return };
        connection.phase = Phase::Draining { shut: false, finished: false, answered: false };
        let mut bytes = Vec::new();
        response.encode(head_only, &mut bytes);
        connection.outbox.push_head(&mut self.stage, bytes.into());
        self.begin_end(token);
        self.mark(token);
    }

    /// Closes from our side; on a connection that is not open it does nothing.
    pub(crate) fn close(&mut self, token: Token, code: CloseCode, reason: &str) -> Result<(), CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::IllegalCode(code));
        }
        if self.is_open(token) {
            let reason = truncate_reason(reason).to_owned();
            let farewell = Farewell { code: Some(code), reason: reason.clone(), ..Farewell::default() };
            self.leave_open(token, Phase::Closing(Box::new(farewell)));
            self.push_close(token, Some((code, &reason)));
            self.records.push_back((token, Record::Close { code, reason }));
        }
        Ok(())
    }

    /// Cuts a connection off: what waits is dropped, and the peer sees a reset.
    pub(crate) fn abort(&mut self, token: Token) {
        let Some(connection) = alive(&mut self.connections, token) else { return };
        connection.socket.reset_on_drop();
        let farewell = match &mut connection.phase {
            Phase::Open => Farewell::default(),
            Phase::Closing(farewell) => std::mem::take(&mut **farewell),
            _ => return self.bury(token),
        };
        let over = Phase::Draining { shut: false, finished: false, answered: false };
        if connection.is_open() {
            self.leave_open(token, over);
        } else {
            connection.phase = over;
        }
        let dropped = self.waiting(token);
        self.bury(token);
        self.stats.disconnects.aborted += 1;
        let Farewell { error, code, reason, .. } = farewell;
        self.records.push_back((token, Record::Disconnect { error, code, reason, clean: false, dropped }));
    }

    /// The peer's close frame: it is answered in kind, behind everything that waits (RFC 6455 §5.5.1).
    pub(super) fn peer_closed(&mut self, token: Token, frame: Option<CloseFrame<'_>>) {
        let (code, reason) = match frame {
            Some(frame) => (Some(frame.code), frame.reason.into_owned()),
            None => (None, String::new()),
        };
        let Some(connection) = self.get_mut(token) else { return };
        // Nothing more is decoded.
        connection.decoder = Decoder::new();
        if let Phase::Closing(farewell) = &mut connection.phase {
            farewell.answered = true;
            self.mark(token);
            return;
        }
        let error = match code {
            None | Some(CloseCode::NORMAL | CloseCode::GOING_AWAY) => None,
            Some(code) => Some(Error::ClosedByPeer { code, reason: reason.clone() }),
        };
        if let Some(error) = &error {
            log::debug!("connection {}: {error}", connection.peer.get());
            self.records.push_back((token, Record::Error { error: error.clone(), data: String::new() }));
        }
        self.leave_open(
            token,
            Phase::Closing(Box::new(Farewell { error, code, reason, answered: true, ..Farewell::default() })),
        );
        self.push_close(token, code.map(|code| (code, "")));
    }

    /// The peer's FIN has come.
    pub(crate) fn peer_finished(&mut self, token: Token) {
        let Some(connection) = self.get_mut(token) else { return };
        match &mut connection.phase {
            Phase::Handshaking(_) | Phase::Parked(_) => self.bury(token),
            Phase::Open => self.fail(token, Error::Lost),
            // It has said goodbye and waits for the end of what we have to say.
            Phase::Closing(farewell) => {
                (farewell.finished, farewell.broken) = (true, !farewell.answered);
                self.flush(token);
            }
            Phase::Draining { finished, .. } => {
                *finished = true;
                self.flush(token);
            }
            Phase::Dead => {}
        }
    }

    /// Reading from or writing to the socket failed.
    pub(crate) fn socket_failed(&mut self, token: Token, error: &io::Error) {
        self.fail(token, Error::Io(IoError { kind: error.kind(), os_code: error.raw_os_error() }));
    }

    /// Ends a connection for a reason of its own making or of the network's: the peer is told if it can be.
    pub(crate) fn fail(&mut self, token: Token, error: Error) {
        let Some(connection) = self.get_mut(token) else { return };
        match &mut connection.phase {
            Phase::Open => {}
            Phase::Closing(_) if matches!(error, Error::Io(_)) => {
                self.record_end(token, false);
                return self.bury(token);
            }
            // What came instead of its close frame takes nothing from the peer that was emitted before ours.
            Phase::Closing(farewell) => {
                farewell.broken = true;
                return self.mark(token);
            }
            _ => return self.bury(token),
        }
        let mut dropped = 0;
        let close = match &error {
            Error::Protocol(violation) => Some((violation.close_code(), violation.to_string())),
            Error::Panicked { .. } => Some((CloseCode::INTERNAL_ERROR, "internal error".to_owned())),
            Error::SlowConsumer { .. } => {
                let connection = &mut self.connections[token.index as usize];
                let waiting = connection.outbox.waiting();
                connection.outbox.drop_waiting(&mut self.stage);
                dropped = waiting - connection.outbox.waiting();
                self.stats.bytes_dropped += dropped as u64;
                let half_written = connection.outbox.is_mid_frame();
                (!half_written).then(|| (CloseCode::POLICY_VIOLATION, "too slow: messages were waiting".to_owned()))
            }
            _ => None,
        };
        let finished = error == Error::Lost;
        self.leave_open(token, Phase::Draining { shut: false, finished, answered: false });
        if let Some((code, reason)) = &close {
            self.push_close(token, Some((*code, truncate_reason(reason))));
        } else if finished {
            self.mark(token);
        } else {
            // A socket that has failed has nobody left to be told.
            if !matches!(error, Error::Io(_)) {
                self.connections[token.index as usize].socket.reset_on_drop();
            }
            dropped += self.waiting(token);
            self.bury(token);
        }
        log::debug!("connection {}: {error}", self.connections[token.index as usize].peer.get());
        self.records.push_back((token, Record::Error { error: error.clone(), data: String::new() }));
        self.stats.disconnects.count(Some(&error), false);
        let (code, reason) = close.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
        self.records.push_back((token, Record::Disconnect { error: Some(error), code, reason, clean: false, dropped }));
    }

    fn waiting(&self, token: Token) -> usize {
        self.get(token).map_or(0, |connection| connection.outbox.waiting())
    }

    /// Records that a verb failed inside a callback of this connection. Nobody is told any more once its `disconnect` is
    /// on its way, nor of what fails inside an `error` listener.
    pub(crate) fn verb_failed(&mut self, token: Token, error: Error, data: String) {
        let listening = self.get(token).is_some_and(|c| matches!(c.phase, Phase::Open | Phase::Closing(_)));
        if listening && !self.telling_error {
            self.records.push_back((token, Record::Error { error, data }));
        }
    }

    /// The kernel has taken all that waited for a connection that says nothing more.
    pub(super) fn flushed(&mut self, token: Token) {
        let now = self.now;
        let Some(connection) = named(&mut self.connections, token) else { return };
        let answer = now.saturating_add(connection.answer_time(&self.limits));
        match &mut connection.phase {
            Phase::Closing(farewell) if farewell.answered || farewell.broken => {
                let clean = farewell.answered;
                self.record_end(token, clean);
                self.flush(token);
            }
            // From here on the peer's answer is awaited; nothing else that it sends gives it more time.
            Phase::Closing(_) => {
                connection.time = answer.min(connection.time);
                self.arm(token.index);
            }
            Phase::Draining { shut, finished, .. } => {
                let mut failed = false;
                if !*shut {
                    // From here on the peer's FIN is awaited.
                    connection.time = answer.min(connection.time.max(now.saturating_add(self.limits.close_timeout)));
                    *shut = true;
                    failed = connection.socket.shutdown_write().is_err();
                }
                if *finished || failed {
                    self.bury(token);
                } else {
                    self.arm(token.index);
                }
            }
            Phase::Handshaking(_) | Phase::Parked(_) | Phase::Open | Phase::Dead => {}
        }
    }

    /// Records the `disconnect` of a connection that was closing. What still waits for it is dropped.
    pub(super) fn record_end(&mut self, token: Token, clean: bool) {
        let dropped = self.waiting(token);
        let Some(connection) = self.get_mut(token) else { return };
        let Phase::Closing(farewell) = &mut connection.phase else { return };
        let Farewell { error, code, reason, finished, answered, .. } = std::mem::take(&mut **farewell);
        connection.phase = Phase::Draining { shut: false, finished, answered };
        self.stats.disconnects.count(error.as_ref(), clean);
        self.records.push_back((token, Record::Disconnect { error, code, reason, clean, dropped }));
    }

    /// An open connection stops being one: nobody finds, counts or reaches it any more.
    fn leave_open(&mut self, token: Token, phase: Phase) {
        self.names.remove(&self.connections, token.index);
        self.connections[token.index as usize].phase = phase;
        self.work += self.topics.leave_all(token.index) * LEAVE;
        self.open -= 1;
        self.begin_end(token);
    }

    fn begin_end(&mut self, token: Token) {
        self.connections[token.index as usize].begin_end(&self.limits, self.now);
        self.arm(token.index);
    }

    /// Nothing more is read or written: the connection is removed at the end of the turn.
    pub(crate) fn bury(&mut self, token: Token) {
        let Some(connection) = alive(&mut self.connections, token) else { return };
        debug_assert!(!matches!(connection.phase, Phase::Open | Phase::Closing(_)), "they are told of first");
        connection.phase = Phase::Dead;
        self.stats.bytes_dropped += connection.outbox.waiting() as u64;
        connection.outbox.clear(&mut self.stage);
        self.dead.push(token);
    }

    /// Whether all that is left is to wait for the FINs of peers that have answered our close frame. If
    /// the process ended before other FINs, the kernel could drop what such a peer has not read.
    pub(crate) fn has_said_all(&self) -> bool {
        self.connections.iter().all(|(_, connection)| match connection.phase {
            Phase::Draining { shut, answered, .. } => shut && answered && !connection.was_blocked,
            Phase::Dead => true,
            _ => false,
        })
    }

    /// Lets nobody in any more and closes every connection, one after the other over a time; what is left a while after the last close is cut
    /// off. Asked again, it closes at once whoever is left, with what it is asked for then.
    pub(crate) fn shutdown(
        &mut self,
        code: CloseCode,
        reason: &str,
        spread: u64,
        deadline: u64,
    ) -> Result<(), CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::IllegalCode(code));
        }
        match &mut self.stopping {
            Some(stopping) => (stopping.spread, stopping.code, stopping.reason) = (0, code, reason.into()),
            None => {
                log::info!("shutting down with {code}; open connections: {}", self.open);
                let waiting = self.open_tokens();
                self.stopping = Some(Stopping {
                    deadline: self.now.saturating_add(spread).saturating_add(deadline),
                    remained: 0,
                    code,
                    reason: reason.into(),
                    total: waiting.len(),
                    waiting,
                    begun: self.now,
                    spread,
                });
            }
        }
        self.close_next(self.work.saturating_add(self.work_per_turn));
        // Whoever's request is being answered just now still gets the answer.
        for token in self.tokens(|connection| matches!(connection.phase, Phase::Handshaking(_))) {
            if self.active != Some(token.index) {
                self.bury(token);
            }
        }
        for token in self.tokens(|connection| matches!(connection.phase, Phase::Parked(_))) {
            self.refuse(token, &Refusal::Refusing { retry_after: RETRY_AFTER }, false);
        }
        Ok(())
    }

    /// Closes those whose time has come in a shutdown, until the turn's work is so much; the others have the next turn.
    pub(crate) fn close_next(&mut self, until: usize) {
        while self.work < until
            && let Some(stopping) = &mut self.stopping
            && stopping.next().is_some_and(|at| at <= self.now)
            && let Some(token) = stopping.waiting.pop()
        {
            self.work += CLOSE;
            let (code, reason) = (stopping.code, stopping.reason.clone());
            let _ = self.close(token, code, &reason); // The code was looked at.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EmitError;
    use crate::hub::Emitted;
    use crate::hub::wire::{hub, open, records};
    use crate::outbox::How;
    use crate::protocol::{Opcode, encode_header};
    use crate::transport::faults::End;

    #[test]
    fn a_slow_consumer_is_told_if_no_frame_is_cut_and_reset_if_one_is() {
        let frame = encode_header(Opcode::Binary, 200).len() + 200;
        for (room, cut) in [(0, false), (1, true), (frame - 1, true), (frame, false), (2 * frame, false)] {
            let mut hub = hub();
            let (token, far) = open(&mut hub, room);
            while hub.emit(token, Opcode::Binary, &[7; 200], &How::USUAL) != Emitted::Refused(EmitError::Full) {}
            far.make_room(1000);
            hub.flush_dirty();
            hub.writable(token);
            assert_eq!(far.server_end(), Some(if cut { End::Reset } else { End::Fin }), "room for {room}");
            let close: &[u8] = if cut { b"" } else { b"\x88\x21\x03\xF0too slow: messages were waiting" };
            let (received, _) = far.receive(usize::MAX);
            assert_eq!(received[room..].escape_ascii().to_string(), close.escape_ascii().to_string());
            let told = records(&mut hub);
            assert!(told.len() == 2 && told[0].starts_with("error SlowConsumer"), "{told:?}");
            assert!(told[1].starts_with("disconnect Some(SlowConsumer"), "{told:?}");
        }
    }

    #[test]
    fn a_slow_consumer_lacks_as_many_bytes_as_its_disconnect_says() {
        let frame = encode_header(Opcode::Binary, 200).len() + 200;
        for room in [0, 1, frame - 1, frame] {
            let mut hub = hub();
            let (token, _far) = open(&mut hub, room);
            let mut queued = 0;
            while hub.emit(token, Opcode::Binary, &[7; 200], &How::USUAL) != Emitted::Refused(EmitError::Full) {
                queued += frame;
            }
            let told = std::iter::from_fn(|| hub.next_record());
            let dropped = told.filter_map(|(_, record)| match record {
                Record::Disconnect { dropped, .. } => Some(dropped),
                _ => None,
            });
            assert_eq!(dropped.collect::<Vec<_>>(), [queued - room], "room for {room}");
            assert_eq!(hub.stats.bytes_dropped, (queued - room) as u64, "room for {room}");
        }
    }

    #[test]
    fn all_is_said_when_the_close_was_answered_and_the_socket_was_never_full() {
        for (room, said_all) in [(usize::MAX, true), (0, false)] {
            let mut hub = hub();
            let (token, far) = open(&mut hub, room);
            assert!(!hub.has_said_all(), "it is open");
            hub.close(token, CloseCode::NORMAL, "").unwrap();
            hub.flush_dirty();
            far.make_room(1000);
            hub.writable(token);
            assert!(!hub.has_said_all(), "it waits for an answer");
            hub.peer_closed(token, None);
            hub.flush_dirty();
            assert_eq!(hub.has_said_all(), said_all, "room for {room}");
            hub.peer_finished(token);
            assert!(hub.has_said_all(), "it is over");
        }
    }

    #[test]
    fn a_shutdown_closes_no_more_at_once_than_the_budget_of_a_turn_allows() {
        let mut hub = hub();
        let _peers: Vec<_> = (0..5).map(|_| open(&mut hub, usize::MAX)).collect();
        (hub.work, hub.work_per_turn) = (0, 2 * (8 * 1024));
        hub.shutdown(CloseCode::GOING_AWAY, "", 0, 1000).unwrap();
        assert_eq!(hub.open_len(), 5 - 2);
    }
}
