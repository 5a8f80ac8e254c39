//! The transitions of a connection, from its upgrade to its end.
//!
//! One phase follows another only here; the table in `phase` decides which one. `timeouts` finds
//! the connections whose time has come.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroU16;

use super::attributes::Attributes;
use super::notification::Notification;
use super::pending_request::Parked;
use super::phase::{CloseState, Fires, Happened, PeerClose, Phase, Sends, State, Step, follows};
use super::sending::open;
use super::{Hub, alive, named};
use crate::config::SlowReader;
use crate::error::{CloseError, Error};
use crate::http::{Refusal, Request, Response};
use crate::outbox::Agreed;
use crate::protocol::{CloseCode, CloseFrame, Decoder, truncate_reason};
use crate::token::Token;
use crate::transport::PeerAddress;

/// The cost of leaving a topic, in bytes of a turn's work.
const LEAVE: usize = 2 * 1024;

/// The result of the handshake for a connection that opens.
pub(crate) struct Upgraded {
    /// The 101 response.
    pub(crate) head: Vec<u8>,
    /// The route of the server by which it came.
    pub(crate) route: u32,
    /// The subprotocol that was agreed on: its number in the route's list, counted from 1.
    pub(crate) subprotocol: Option<NonZeroU16>,
    pub(crate) request: Request,
    pub(crate) attributes: Attributes,
    pub(crate) compression: Option<Agreed>,
    pub(crate) slow_reader: SlowReader,
}

/// A deferred request whose answer has come.
pub(crate) struct Resumed {
    pub(crate) parked: Parked,
    pub(crate) request: Request,
    pub(crate) attributes: Attributes,
    pub(crate) peer: PeerAddress,
}

/// The output of a step, to listeners and to the peer.
#[derive(Default)]
struct Cause {
    /// The response to a request, instead of an upgrade.
    response: Vec<u8>,
    error: Option<Error>,
    code: Option<CloseCode>,
    reason: String,
    /// Bytes that were dropped before the step.
    dropped: usize,
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

/// The content of our close frame. The peer's own reason is not sent back to it.
fn echo(happened: Happened, close: &CloseState) -> Option<(CloseCode, &str)> {
    let reason = if happened == Happened::PeerClosed { "" } else { &close.reason };
    close.code.map(|code| (code, reason))
}

impl Hub {
    // Transitions of a request.

    /// Turns a peer into an open connection. It carries out the step itself: by `happen`, which
    /// moves what ends and errors need, an upgrade takes 130 instructions more.
    pub(crate) fn open(&mut self, token: Token, upgrade: Upgraded) {
        let now = self.now;
        let Some(connection) = named(&mut self.connections, token) else { return };
        if follows(connection.phase.state(), Happened::Upgraded).is_none() {
            return;
        }
        connection.time = now;
        connection.route = upgrade.route;
        connection.subprotocol = upgrade.subprotocol;
        connection.request = Some(upgrade.request);
        connection.attributes = upgrade.attributes;
        connection.compression = upgrade.compression;
        connection.slow_reader = upgrade.slow_reader;
        connection.phase = Phase::Open;
        connection.outbox.push_head(&mut self.stage, Cow::Borrowed(&upgrade.head));
        self.head = upgrade.head;
        self.connections[token.index as usize].uuid = self.next_uuid();
        while !self.names.insert(&self.connections, token.index) {
            self.connections[token.index as usize].uuid = self.next_uuid();
        }
        self.open += 1;
        self.stats.upgraded += 1;
        self.arm(token.index);
        self.schedule_flush(token);
    }

    /// Makes the request wait for its answer.
    pub(crate) fn park(
        &mut self,
        token: Token,
        request: Request,
        attributes: Attributes,
        parked: Parked,
    ) {
        let Some(connection) = self.get_mut(token) else { return };
        if follows(connection.phase.state(), Happened::Deferred).is_some() {
            connection.request = Some(request);
            connection.attributes = attributes;
            connection.phase = Phase::Parked(Box::new(parked));
        }
    }

    /// Continues a parked request whose answer has come; `None` if it does not wait any more.
    pub(crate) fn resume(&mut self, token: Token) -> Option<Resumed> {
        let connection = self.get_mut(token)?;
        follows(connection.phase.state(), Happened::Resumed)?;
        let Phase::Parked(parked) =
            std::mem::replace(&mut connection.phase, Phase::Handshaking(None))
        else {
            return None;
        };
        let (request, attributes) =
            (connection.request.take()?, std::mem::take(&mut connection.attributes));
        Some(Resumed { parked: *parked, request, attributes, peer: connection.peer.get() })
    }

    /// Answers the request with this refusal; without the text if the method is HEAD (RFC 9110
    /// §9.3.2).
    pub(crate) fn refuse(&mut self, token: Token, refusal: &Refusal, head_only: bool) {
        let Some(connection) = self.get(token) else { return };
        let parked_head =
            matches!(&connection.phase, Phase::Parked(parked) if parked.destination.is_head_only());
        log::debug!("refused {} with {}: {refusal}", connection.peer.get(), refusal.status());
        self.stats.requests_refused.count(refusal);
        self.respond(token, &refusal.response(), head_only || parked_head);
    }

    /// Answers the request with a response instead of an upgrade, and ends the connection.
    pub(crate) fn respond(&mut self, token: Token, response: &Response, head_only: bool) {
        let mut bytes = Vec::new();
        response.encode(head_only, &mut bytes);
        self.happen(token, Happened::Responded, Cause { response: bytes, ..Cause::default() });
    }

    // Transitions that end a connection.

    /// Closes from our side; does nothing on a connection that is not open.
    pub(crate) fn close(
        &mut self,
        token: Token,
        code: CloseCode,
        reason: &str,
    ) -> Result<(), CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::IllegalCode(code));
        }
        if self.is_open(token) {
            let reason = truncate_reason(reason).to_owned();
            self.happen(
                token,
                Happened::Closed,
                Cause { code: Some(code), reason, ..Cause::default() },
            );
        }
        Ok(())
    }

    /// Resets a connection: waiting bytes are dropped, and the peer sees a reset.
    pub(crate) fn abort(&mut self, token: Token) {
        self.happen(token, Happened::Aborted, Cause::default());
    }

    /// Handles the peer's close frame: a close frame answers it, behind everything that waits (RFC
    /// 6455 §5.5.1).
    #[cold]
    pub(super) fn peer_closed(&mut self, token: Token, frame: Option<CloseFrame<'_>>) {
        let Some(connection) = self.get_mut(token) else { return };
        // Nothing more is decoded.
        connection.decoder = Decoder::new();
        let (code, reason) = match frame {
            Some(frame) => (Some(frame.code), frame.reason.into_owned()),
            None => (None, String::new()),
        };
        let error = match code {
            None | Some(CloseCode::NORMAL | CloseCode::GOING_AWAY) => None,
            Some(code) => Some(Error::ClosedByPeer { code, reason: reason.clone() }),
        };
        self.happen(token, Happened::PeerClosed, Cause { error, code, reason, ..Cause::default() });
    }

    /// Handles the peer's FIN.
    #[cold]
    pub(crate) fn peer_finished(&mut self, token: Token) {
        let Some(connection) = self.get_mut(token) else { return };
        connection.finished = true;
        if connection.stream.is_ending() {
            // Our FIN ends it.
            return;
        }
        let was_open = connection.is_open();
        let error = connection.stream.lost();
        self.happen(token, Happened::PeerFinished, error.into());
        if !was_open {
            // It is flushed at once, because its timeout may be looked at next: the connection may
            // have ended in time.
            self.flush(token);
        }
    }

    /// Handles a failure of reading from or writing to the socket.
    #[cold]
    pub(crate) fn socket_failed(&mut self, token: Token, error: io::Error) {
        let error = Error::of_socket(error);
        #[cfg(feature = "_tls")]
        if let Error::Tls(failure) = &error {
            if let Some(connection) =
                self.get(token).filter(|c| c.phase.state() == State::Handshaking)
            {
                log::debug!("no TLS session with {}: {failure}", connection.peer.get());
            }
            return self.session_failed(token, error);
        }
        self.happen(token, Happened::SocketFailed, error.into());
    }

    /// Handles a failure of the TLS session: nothing more can be encrypted, so waiting bytes are
    /// dropped.
    #[cfg(feature = "_tls")]
    fn session_failed(&mut self, token: Token, error: Error) {
        let Some(connection) = alive(&mut self.connections, token) else { return };
        let dropped = connection.outbox.waiting();
        connection.outbox.clear(&mut self.stage);
        self.stats.bytes_dropped += dropped as u64;
        let cause = Cause { error: Some(error), dropped, ..Cause::default() };
        self.happen(token, Happened::SessionFailed, cause);
        self.schedule_flush(token);
    }

    /// Ends a connection that failed, or whose network did. The peer gets a close frame if that is
    /// possible.
    #[cold]
    pub(crate) fn fail(&mut self, token: Token, error: Error) {
        let mut dropped = 0;
        let close = match &error {
            Error::Protocol(violation) => Some((violation.close_code(), violation.to_string())),
            Error::Panicked { .. } => {
                Some((CloseCode::INTERNAL_ERROR, "internal error".to_owned()))
            }
            Error::SlowConsumer { .. } => {
                let Some(connection) = open(&mut self.connections, token) else { return };
                let waiting = connection.outbox.waiting();
                connection.outbox.drop_waiting(&mut self.stage);
                dropped = waiting - connection.outbox.waiting();
                self.stats.bytes_dropped += dropped as u64;
                let half_written = connection.is_mid_frame();
                (!half_written).then(|| {
                    (CloseCode::POLICY_VIOLATION, "too slow: messages were waiting".to_owned())
                })
            }
            _ => None,
        };
        let happened = if close.is_some() { Happened::Failed } else { Happened::Unreachable };
        let (code, reason) =
            close.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
        self.happen(
            token,
            happened,
            Cause { error: Some(error), code, reason, dropped, ..Cause::default() },
        );
    }

    /// Handles the end of the time for the request, or of the time to end.
    pub(crate) fn timed_out(&mut self, token: Token) {
        self.happen(token, Happened::TimedOut, Cause::default());
    }

    /// Notes that the socket of a connection that says nothing more has taken all waiting bytes.
    pub(super) fn emptied(&mut self, token: Token) {
        let Some(connection) = alive(&mut self.connections, token) else { return };
        let before = connection.phase.state();
        if !before.is_ending() {
            return;
        }
        let happened =
            if connection.finished { Happened::EmptiedAfterFin } else { Happened::Emptied };
        self.happen(token, happened, Cause::default());
        if let Some(connection) = alive(&mut self.connections, token) {
            if !matches!(before, State::HalfClosed { .. }) {
                connection.await_peer(&self.limits, self.now);
            }
            self.arm(token.index);
        }
    }

    // Carrying out a step.

    /// Carries out one step of the state machine.
    #[cold]
    fn happen(&mut self, token: Token, happened: Happened, cause: Cause) {
        let Some(connection) = named(&mut self.connections, token) else { return };
        let before = connection.phase.state();
        let Some(Step { mut next, sends, fires }) = follows(before, happened) else { return };
        let Cause { response, error, code, reason, mut dropped } = cause;
        if let (Some(error), Fires::Error | Fires::ErrorAndDisconnect) = (&error, fires) {
            log::debug!("connection {}: {error}", connection.peer.get());
        }
        let mut close = match std::mem::replace(&mut connection.phase, Phase::Dead) {
            // Its `disconnect` reports the reason for which its end began.
            Phase::Closing(close) => *close,
            _ => CloseState { peer: PeerClose::Awaited, error: None, code, reason },
        };
        if let State::Closing(peer) = next {
            close.peer = peer;
        }
        if fires == Fires::ErrorAndDisconnect || !matches!(before, State::Closing(_)) {
            close.error = error;
        }
        if before == State::Open {
            self.leave_open(token);
        }
        if self.send(token, sends, before, response, echo(happened, &close)).is_err() {
            // The peer has reset the connection: its FIN will not come.
            next = State::Dead;
        } else if next == State::Dead
            && sends == Sends::Fin
            && self.connections[token.index as usize].stream.is_ending()
        {
            // The peer's FIN has come, and ours waits for the socket.
            next = State::HalfClosed { answered: before == State::Closing(PeerClose::Answered) };
        }
        if next == State::Dead {
            dropped += self.mark_dead(token);
        }
        self.record(token, fires, happened, &mut close, dropped);
        let connection = &mut self.connections[token.index as usize];
        if let Some(phase) = next.with(close) {
            connection.phase = phase;
        }
        if next.is_ending() && !before.is_ending() {
            connection.begin_end(&self.limits, self.now);
        }
        match next {
            State::Dead => {}
            State::HalfClosed { .. } => self.arm(token.index),
            _ => {
                self.arm(token.index);
                self.schedule_flush(token);
            }
        }
    }

    /// Sends the output of a step; returns an error if the socket cannot be shut down.
    fn send(
        &mut self,
        token: Token,
        sends: Sends,
        before: State,
        response: Vec<u8>,
        close: Option<(CloseCode, &str)>,
    ) -> io::Result<()> {
        let connection = &mut self.connections[token.index as usize];
        match sends {
            Sends::Nothing => {}
            Sends::Response => connection.outbox.push_head(&mut self.stage, response.into()),
            Sends::Close => self.push_close(token, close),
            Sends::Fin => connection.stream.shutdown_write()?,
            Sends::Reset => connection.stream.reset_on_drop(),
            Sends::ResetIfShort => self.cut_short(token, before),
        }
        Ok(())
    }

    /// Records the events that a step fires.
    fn record(
        &mut self,
        token: Token,
        fires: Fires,
        happened: Happened,
        close: &mut CloseState,
        dropped: usize,
    ) {
        let CloseState { error, code, reason, .. } = close;
        if let (Fires::Close, Some(code)) = (fires, *code) {
            self.notifications
                .push_back((token, Notification::Close { code, reason: reason.clone() }));
        }
        if let (Fires::Error, Some(error)) = (fires, &error) {
            self.notifications.push_back((
                token,
                Notification::Error { error: error.clone(), data: String::new() },
            ));
        }
        let (failed, clean) = match fires {
            Fires::Disconnect { clean } => (false, clean),
            Fires::ErrorAndDisconnect => (true, false),
            Fires::Nothing | Fires::Close | Fires::Error => return,
        };
        if happened == Happened::Aborted {
            self.stats.disconnects.aborted += 1;
        } else {
            self.stats.disconnects.count(error.as_ref(), clean);
        }
        // No later phase needs them: `disconnect` is the last event.
        let (error, code, reason) = (error.take(), *code, std::mem::take(reason));
        self.notifications.push_back((
            token,
            Notification::Disconnect { failed, error, code, reason, clean, dropped },
        ));
    }

    /// Makes an open connection one that is not found, counted or reached any more.
    fn leave_open(&mut self, token: Token) {
        self.leave_uuid(token);
        self.work += self.topics.leave_all(token.index) * LEAVE;
        self.open -= 1;
    }

    /// Handles a connection whose time to end is over. If the peer may not have taken or read
    /// everything, it sees a reset.
    fn cut_short(&mut self, token: Token, before: State) {
        let connection = &mut self.connections[token.index as usize];
        let unanswered = matches!(before, State::Closing(_));
        let may_lack_something = connection.was_blocked
            || !connection.outbox.is_empty()
            || connection.stream.unsent() > 0;
        if may_lack_something {
            connection.stream.reset_on_drop();
        }
        self.stats.cut_short += u64::from(unanswered || may_lack_something);
        if let Some(stopping) = self.stopping.as_mut().filter(|_| unanswered) {
            stopping.remained += 1;
        }
    }

    /// Stops reading and writing: the connection is removed at the end of the turn. Returns the
    /// number of queued bytes that are dropped.
    fn mark_dead(&mut self, token: Token) -> usize {
        let outbox = &mut self.connections[token.index as usize].outbox;
        let dropped = outbox.waiting();
        outbox.clear(&mut self.stage);
        self.stats.bytes_dropped += dropped as u64;
        self.dead.push(token);
        dropped
    }

    /// Records that a verb failed inside a callback of this connection. Nothing is recorded when
    /// its `disconnect` is recorded already, and nothing for a failure inside an `error` listener.
    pub(crate) fn verb_failed(&mut self, token: Token, error: Error, data: String) {
        let listening =
            self.get(token).is_some_and(|c| matches!(c.phase, Phase::Open | Phase::Closing(_)));
        if listening && !self.in_error_listener {
            self.notifications.push_back((token, Notification::Error { error, data }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EmitError;
    use crate::hub::test_kit::{hub, insert, notifications, open, upgrade};
    use crate::hub::{Destination, Emitted, Head, Ticket};
    use crate::outbox::SendOptions;
    use crate::protocol::{Opcode, encode_header};
    use crate::transport::faults::End;
    use crate::transport::memory::FarEnd;

    #[test]
    fn a_slow_consumer_gets_a_close_frame_unless_a_frame_is_cut() {
        let frame = encode_header(Opcode::Binary, 200).len() + 200;
        for (room, cut) in
            [(0, false), (1, true), (frame - 1, true), (frame, false), (2 * frame, false)]
        {
            let mut hub = hub();
            let (token, far) = open(&mut hub, room);
            while hub.emit(token, Opcode::Binary, &[7; 200], &SendOptions::USUAL)
                != Emitted::Refused(EmitError::Full)
            {}
            far.make_room(1000);
            hub.flush_dirty();
            hub.writable(token);
            assert_eq!(
                far.server_end(),
                Some(if cut { End::Reset } else { End::Fin }),
                "room for {room}"
            );
            let close: &[u8] =
                if cut { b"" } else { b"\x88\x21\x03\xF0too slow: messages were waiting" };
            let (received, _) = far.receive(usize::MAX);
            assert_eq!(
                received[room..].escape_ascii().to_string(),
                close.escape_ascii().to_string()
            );
            let told = notifications(&mut hub);
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
            while hub.emit(token, Opcode::Binary, &[7; 200], &SendOptions::USUAL)
                != Emitted::Refused(EmitError::Full)
            {
                queued += frame;
            }
            let told = std::iter::from_fn(|| hub.next_notification());
            let dropped = told.filter_map(|(_, record)| match record {
                Notification::Disconnect { dropped, .. } => Some(dropped),
                _ => None,
            });
            assert_eq!(dropped.collect::<Vec<_>>(), [queued - room], "room for {room}");
            assert_eq!(hub.stats.bytes_dropped, (queued - room) as u64, "room for {room}");
        }
    }

    /// A connection in that state whose peer has received all bytes that were sent.
    fn connection_in(state: State) -> (Hub, Token, FarEnd) {
        let mut hub = hub();
        let (token, far) = match state {
            State::Handshaking | State::Parked => insert(&mut hub, 1000),
            _ => open(&mut hub, 1000),
        };
        match state {
            State::Handshaking | State::Open => {}
            State::Parked => park(&mut hub, token),
            State::Closing(peer) => {
                hub.close(token, CloseCode::NORMAL, "").unwrap();
                let Phase::Closing(close) = &mut hub.get_mut(token).unwrap().phase else {
                    panic!("it closes")
                };
                close.peer = peer;
            }
            State::Draining | State::HalfClosed { .. } | State::Dead => {
                hub.happen(token, Happened::Failed, Cause::default());
            }
        }
        let connection = &mut hub.connections[token.index as usize];
        connection.outbox.clear(&mut hub.stage);
        if let State::HalfClosed { answered } = state {
            connection.stream.shutdown_write().unwrap();
            connection.phase = Phase::HalfClosed { answered };
        }
        if state == State::Dead {
            hub.timed_out(token);
        }
        hub.dirty.clear();
        hub.connections[token.index as usize].dirty = false;
        hub.notifications.clear();
        assert_eq!(hub.get(token).unwrap().phase.state(), state);
        (hub, token, far)
    }

    fn park(hub: &mut Hub, token: Token) {
        let request =
            Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &hub.limits.head).unwrap();
        let destination = Destination::Page { page: 0, head_only: false };
        let parked = Parked {
            destination,
            filter: 0,
            early: Vec::new(),
            ticket: Ticket(Default::default()),
        };
        hub.park(token, request, Attributes::default(), parked);
    }

    #[test]
    fn every_step_in_every_state_is_that_of_the_table() {
        for (state, happened, was_blocked) in State::ALL
            .into_iter()
            .flat_map(|state| Happened::ALL.map(|happened| (state, happened)))
            .flat_map(|(state, happened)| [false, true].map(|blocked| (state, happened, blocked)))
        {
            let cell = format!("{state:?}: {happened:?}");
            let (mut hub, token, far) = connection_in(state);
            let (open_before, connection) = (hub.open_len(), hub.get_mut(token).unwrap());
            connection.was_blocked = was_blocked;
            match happened {
                Happened::Upgraded => upgrade(&mut hub, token),
                Happened::Deferred => park(&mut hub, token),
                Happened::Resumed => drop(hub.resume(token)),
                _ => hub.happen(
                    token,
                    happened,
                    Cause {
                        response: b"response".to_vec(),
                        error: Some(Error::Lost),
                        code: Some(CloseCode::NORMAL),
                        ..Cause::default()
                    },
                ),
            }
            let nothing = Step { next: state, sends: Sends::Nothing, fires: Fires::Nothing };
            let Step { next, sends, fires } = follows(state, happened).unwrap_or(nothing);
            let connection = hub.get(token).unwrap();
            assert_eq!(connection.phase.state(), next, "{cell}");
            assert_eq!(
                connection.outbox.is_empty(),
                !matches!(sends, Sends::Response | Sends::Close),
                "{cell}"
            );
            let is_offered =
                matches!(next, State::Open | State::Closing(_) | State::Draining) && next != state;
            assert_eq!(connection.dirty, is_offered, "{cell}: it is offered to its socket soon");
            if state == State::Open && next != State::Open {
                assert_eq!(
                    (hub.open_len(), hub.find(connection.uuid)),
                    (open_before - 1, None),
                    "{cell}"
                );
            }
            let end = match sends {
                Sends::Reset => Some(End::Reset),
                Sends::ResetIfShort if was_blocked => Some(End::Reset),
                Sends::Fin => Some(End::Fin),
                _ => matches!(state, State::HalfClosed { .. }).then_some(End::Fin),
            };
            assert_eq!(far.server_end(), end, "{cell}");
            let clean = matches!(fires, Fires::Disconnect { clean: true });
            let told: Vec<_> =
                std::iter::from_fn(|| hub.next_notification()).map(|(_, record)| record).collect();
            let names: Vec<_> = told
                .iter()
                .flat_map(|record| match record {
                    Notification::Close { .. } => &["close"][..],
                    Notification::Error { .. } => &["error"],
                    Notification::Disconnect { failed, clean: is_clean, .. } => {
                        assert_eq!(*is_clean, clean, "{cell}");
                        if *failed { &["error", "disconnect"][..] } else { &["disconnect"] }
                    }
                    Notification::Pressure | Notification::Relief => &["pressure"],
                })
                .copied()
                .collect();
            let expected: &[&str] = match fires {
                Fires::Nothing => &[],
                Fires::Close => &["close"],
                Fires::Error => &["error"],
                Fires::Disconnect { .. } => &["disconnect"],
                Fires::ErrorAndDisconnect => &["error", "disconnect"],
            };
            assert_eq!(names, expected, "{cell}");
            assert_eq!(hub.remove_dead(), usize::from(next == State::Dead), "{cell}");
        }
    }

    #[test]
    fn a_second_upgrade_or_answer_of_one_request_changes_nothing() {
        let (mut hub, token, _far) = connection_in(State::Open);
        let uuid = hub.get(token).unwrap().uuid;
        upgrade(&mut hub, token);
        assert_eq!((hub.open_len(), hub.find(uuid)), (1, Some(token)));

        let (mut hub, token, _far) = connection_in(State::Handshaking);
        let head = Head { received: b"GET /".to_vec(), ..Head::default() };
        hub.get_mut(token).unwrap().phase = Phase::Handshaking(Some(Box::new(head)));
        assert!(hub.resume(token).is_none());
        assert!(matches!(&hub.get(token).unwrap().phase, Phase::Handshaking(Some(_))));
    }

    #[test]
    fn a_closing_connection_that_fails_as_too_slow_keeps_its_close_frame() {
        let mut hub = hub();
        let (token, far) = open(&mut hub, 0);
        hub.emit(token, Opcode::Binary, b"one", &SendOptions::USUAL);
        hub.flush_dirty();
        hub.close(token, CloseCode::NORMAL, "").unwrap();
        hub.fail(token, Error::SlowConsumer { frame: 1, waiting: 1, limit: 1 });
        far.make_room(1000);
        hub.writable(token);
        assert_eq!(far.receive(usize::MAX).0, b"\x82\x03one\x88\x02\x03\xe8");
    }
}
