//! The hub: every connection by slot and by uuid, what happens to each, and what is written to whom.
//!
//! Bytes and the time come in as arguments; what user code has to be told of goes out as records, in order. It holds no
//! closure, knows no poll and reads no clock, so that a connection's whole life can be driven in memory.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::io;

use slab::Slab;
use uuid::Uuid;

use crate::attributes::Attributes;
use crate::builder::Limits;
use crate::connection::{Connection, Due, Farewell, PeerAddress, Phase, Transport};
use crate::error::{CloseError, EmitError, Error, Gone, UuidError};
use crate::handshake::Request;
use crate::outbox::{Flushed, STAGE_SHARE, Shared, Stage, WRITE_THROUGH};
use crate::protocol::{CloseCode, CloseFrame, Decoded, Message, Opcode, encode_close, encode_header, truncate_reason};
use crate::socket::Emitted;
use crate::timer::{NEVER, Timers};
use crate::token::{MAX_CONNECTIONS, Token, next_generation};

/// Input that is read and thrown away after the last word was said to a peer, at most, in bytes.
const MAX_DISCARDED: u32 = 256 * 1024;
/// Slots are added by this share of those there are, so that growing wastes little memory.
const GROW_SHARE: usize = 8;
const GROW_LEAST: usize = 64;

/// Something that listeners have to be told of as soon as no other callback is running.
pub(crate) enum Record {
    Close { code: CloseCode, reason: String },
    Error { error: Error, data: String },
    Disconnect { error: Option<Error>, code: Option<CloseCode>, reason: String, clean: bool },
}

/// What a peer sent, when user code has to hear of it.
pub(crate) enum Received<'i> {
    Message(Message<'i>),
    Ping(Cow<'i, [u8]>),
    Pong(Cow<'i, [u8]>),
}

/// A shutdown under way.
pub(crate) struct Stopping {
    /// When what remains is cut off; milliseconds on the loop's clock.
    pub(crate) deadline: u64,
    /// Connections that were cut off.
    pub(crate) remained: usize,
}

pub(crate) struct Hub<T> {
    connections: Slab<Connection<T>>,
    by_uuid: HashMap<Uuid, u32>,
    generation: u32,
    open: usize,
    stage: Stage,
    /// Connections with something to write that nobody has offered to their sockets yet.
    dirty: Vec<Token>,
    /// The connection whose input is being handled: it is flushed when that is done, and need not be on the list.
    active: Option<u32>,
    /// Scratch of a broadcast: who cannot simply be referred to the log.
    rest: Vec<Token>,
    records: VecDeque<(Token, Record)>,
    dead: Vec<Token>,
    timers: Timers,
    pub(crate) limits: Limits,
    /// Milliseconds on the loop's clock, as last set.
    pub(crate) now: u64,
    pub(crate) refusing: bool,
    pub(crate) stopping: Option<Stopping>,
    /// How many callbacks are running inside each other.
    pub(crate) depth: u32,
    /// An `error` listener is running: what fails inside it is not recorded, or it might never end.
    pub(crate) telling_error: bool,
}

impl<T: Transport> Hub<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            connections: Slab::new(),
            by_uuid: HashMap::new(),
            generation: 0,
            open: 0,
            stage: Stage::default(),
            dirty: Vec::new(),
            active: None,
            rest: Vec::new(),
            records: VecDeque::new(),
            dead: Vec::new(),
            timers: Timers::default(),
            limits,
            now: 0,
            refusing: false,
            stopping: None,
            depth: 0,
            telling_error: false,
        }
    }

    // Who is there.

    /// Takes in a peer that has just connected; `None` if there is no slot left.
    pub(crate) fn insert(&mut self, socket: T, peer: PeerAddress) -> Option<Token> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        if self.connections.len() == self.connections.capacity() {
            self.connections.reserve_exact((self.connections.len() / GROW_SHARE).max(GROW_LEAST));
        }
        self.generation = next_generation(self.generation);
        let connection = Connection::new(socket, peer, self.generation, self.now);
        let index = self.connections.insert(connection) as u32;
        self.arm(index);
        Some(Token { index, generation: self.generation })
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Connection<T>> {
        self.connections.get(token.index as usize).filter(|c| c.generation == token.generation)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Connection<T>> {
        self.connections.get_mut(token.index as usize).filter(|c| c.generation == token.generation)
    }

    pub(crate) fn find(&self, uuid: Uuid) -> Option<Token> {
        let &index = self.by_uuid.get(&uuid)?;
        let generation = self.connections.get(index as usize)?.generation;
        Some(Token { index, generation })
    }

    pub(crate) fn is_open(&self, token: Token) -> bool {
        self.get(token).is_some_and(Connection::is_open)
    }

    /// Connections that are open.
    pub(crate) fn open_len(&self) -> usize {
        self.open
    }

    /// Whether all that is left is to wait for the FINs of peers that have got everything, our FIN too.
    pub(crate) fn has_said_all(&self) -> bool {
        self.connections.iter().all(|(_, c)| matches!(c.phase, Phase::Draining { shut: true, .. } | Phase::Dead))
    }

    pub(crate) fn open_tokens(&self) -> Vec<Token> {
        let open = self.connections.iter().filter(|(_, c)| c.is_open());
        open.map(|(index, c)| Token { index: index as u32, generation: c.generation }).collect()
    }

    pub(crate) fn set_uuid(&mut self, token: Token, uuid: Uuid) -> Result<(), UuidError> {
        let index = token.index;
        match self.by_uuid.get(&uuid) {
            Some(&holder) if holder == index && self.is_open(token) => return Ok(()),
            Some(_) => return Err(UuidError::Duplicate(uuid)),
            None => {}
        }
        let Some(connection) = self.get_mut(token).filter(|c| c.is_open()) else { return Err(UuidError::Closed) };
        let old = std::mem::replace(&mut connection.uuid, uuid);
        self.by_uuid.remove(&old);
        self.by_uuid.insert(uuid, index);
        Ok(())
    }

    // The handshake's outcome.

    /// The peer becomes an open connection; `head` is the 101 response.
    pub(crate) fn open(&mut self, token: Token, route: u32, subprotocol: Option<u16>, upgrade: Upgraded) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(token.index as usize) else { return };
        connection.phase = Phase::Open;
        connection.since = now;
        connection.route = route;
        connection.subprotocol = subprotocol;
        connection.request = Some(upgrade.request);
        connection.attributes = upgrade.attributes;
        connection.outbox.push_head(&mut self.stage, upgrade.head);
        let mut uuid = Uuid::new_v4();
        while self.by_uuid.contains_key(&uuid) {
            uuid = Uuid::new_v4();
        }
        connection.uuid = uuid;
        self.by_uuid.insert(uuid, token.index);
        self.open += 1;
        self.arm(token.index);
        self.mark(token);
    }

    /// The peer gets a response instead, and is seen off.
    pub(crate) fn respond(&mut self, token: Token, response: Vec<u8>) {
        let Some(connection) = self.get_mut(token) else { return };
        connection.phase = Phase::Draining { shut: false, finished: false, discarded: 0 };
        let connection = &mut self.connections[token.index as usize];
        connection.outbox.push_head(&mut self.stage, response);
        self.begin_phase(token);
        self.mark(token);
    }

    // What comes in.

    /// Something has come in, a sign of life. From here to [`end_input`](Self::end_input) this connection's own replies are
    /// collected. Returns whether it is still handshaking.
    pub(crate) fn begin_input(&mut self, token: Token) -> bool {
        self.active = Some(token.index);
        let now = self.now;
        let Some(connection) = self.get_mut(token) else { return false };
        match connection.phase {
            Phase::Open => {
                connection.since = now;
                // Its entry in the timers was for its death; the next ping may be due sooner.
                if std::mem::take(&mut connection.pinged) {
                    self.arm(token.index);
                }
                false
            }
            Phase::Handshaking(_) => true,
            _ => false,
        }
    }

    /// Decodes from the front of `input` until there is something to tell; `None` when nothing more will come of it.
    pub(crate) fn receive<'i>(&mut self, token: Token, input: &mut &'i mut [u8]) -> Option<Received<'i>> {
        while !input.is_empty() {
            let connection =
                self.connections.get_mut(token.index as usize).filter(|c| c.generation == token.generation)?;
            let open = match connection.phase {
                Phase::Open => true,
                Phase::Closing(_) => false,
                _ => return None,
            };
            match connection.decoder.decode(input, &self.limits.rules) {
                Ok(None) => return None,
                Ok(Some(Decoded::Message(message))) if open => return Some(Received::Message(message)),
                Ok(Some(Decoded::Ping(data))) if open => {
                    self.push_control(token, Opcode::Pong, &data);
                    return Some(Received::Ping(data));
                }
                Ok(Some(Decoded::Pong(data))) if open => return Some(Received::Pong(data)),
                Ok(Some(Decoded::Close(frame))) => {
                    self.peer_closed(token, frame);
                    return None;
                }
                // After our own close frame only the peer's is of interest (RFC 6455 §7.1.2).
                Ok(Some(_)) => {}
                Err(violation) => {
                    self.fail(token, Error::Protocol(violation));
                    return None;
                }
            }
        }
        None
    }

    /// Counts input that nobody will look at; a peer that does not stop is cut off.
    pub(crate) fn discard(&mut self, token: Token, len: usize) {
        let Some(connection) = self.get_mut(token) else { return };
        if let Phase::Draining { discarded, .. } = &mut connection.phase {
            *discarded = discarded.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
            if *discarded > MAX_DISCARDED {
                self.bury(token);
            }
        }
    }

    /// The peer's FIN has come.
    pub(crate) fn peer_finished(&mut self, token: Token) {
        let Some(connection) = self.get_mut(token) else { return };
        match &mut connection.phase {
            Phase::Handshaking(_) => self.bury(token),
            Phase::Open => self.fail(token, Error::Lost),
            // It has said goodbye and waits for the end of what we have to say.
            Phase::Closing(farewell) => {
                farewell.finished = true;
                // Without its close frame there will never be one; with it, it waits for the end of what we have to say.
                if !farewell.answered {
                    self.end_close(token, false);
                }
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
        self.fail(token, Error::Io(crate::error::IoError { kind: error.kind(), os_code: error.raw_os_error() }));
    }

    /// The peer's close frame: it is answered in kind, behind everything that waits (RFC 6455 §5.5.1).
    fn peer_closed(&mut self, token: Token, frame: Option<CloseFrame<'_>>) {
        let (code, reason) = match frame {
            Some(frame) => (Some(frame.code), frame.reason.into_owned()),
            None => (None, String::new()),
        };
        let Some(connection) = self.get_mut(token) else { return };
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
            self.records.push_back((token, Record::Error { error: error.clone(), data: String::new() }));
        }
        self.leave_open(
            token,
            Phase::Closing(Box::new(Farewell { error, code, reason, answered: true, finished: false })),
        );
        self.push_close(token, code.map(|code| (code, "")));
    }

    // What goes out.

    #[inline]
    pub(crate) fn emit(&mut self, token: Token, opcode: Opcode, payload: &[u8]) -> Emitted {
        let connection = self.connections.get_mut(token.index as usize);
        let Some(connection) = connection.filter(|c| c.generation == token.generation && c.is_open()) else {
            return Emitted::Refused(EmitError::Closed);
        };
        let most = self.limits.max_outbox.min(STAGE_SHARE);
        if payload.len() < WRITE_THROUGH
            && !self.stage.is_full()
            && connection.outbox.stage_frame(&mut self.stage, opcode, payload, most)
        {
            self.mark(token);
            return Emitted::Queued;
        }
        self.emit_more(token, opcode, payload)
    }

    /// An emit that is large, or of which there is more than the log takes, or to a socket that takes no more.
    #[inline(never)]
    fn emit_more(&mut self, token: Token, opcode: Opcode, payload: &[u8]) -> Emitted {
        if self.stage.is_full() {
            self.flush_staged();
            if !self.is_open(token) {
                return Emitted::Refused(EmitError::Closed);
            }
        }
        let connection = &mut self.connections[token.index as usize];
        let limit = self.limits.max_outbox;
        let len = encode_header(opcode, payload.len()).len() + payload.len();
        if payload.len() > limit {
            return Emitted::Refused(EmitError::TooLarge { len: payload.len(), limit });
        }
        let (stage, now) = (&mut self.stage, self.now);
        let mut offered = Ok(Flushed::All);
        if connection.outbox.lacks_room(len, limit) {
            offered = connection.outbox.flush(stage, &mut connection.socket, now);
            let waiting = connection.outbox.waiting();
            if offered.is_ok() && connection.outbox.lacks_room(len, limit) {
                self.fail(token, Error::SlowConsumer { waiting, limit });
                return Emitted::Refused(EmitError::Full);
            }
        }
        if offered.is_ok() {
            if opcode == Opcode::Ping {
                connection.outbox.push_control(stage, opcode, payload);
            } else if payload.len() >= WRITE_THROUGH && !connection.outbox.is_blocked() {
                offered = connection.outbox.write_through(stage, opcode, payload, &mut connection.socket, now);
            } else {
                connection.outbox.push_frame(stage, opcode, payload);
                if connection.outbox.waiting() >= STAGE_SHARE && !connection.outbox.is_blocked() {
                    offered = connection.outbox.flush(stage, &mut connection.socket, now);
                }
            }
        }
        match offered {
            Ok(_) if connection.outbox.is_blocked() => {
                self.arm(token.index);
                Emitted::Pressure
            }
            Ok(_) => {
                self.mark(token);
                Emitted::Queued
            }
            Err(error) => {
                self.socket_failed(token, &error);
                Emitted::Refused(EmitError::Closed)
            }
        }
    }

    /// Encodes a message once and gives it to every open connection but one; returns how many got it.
    pub(crate) fn broadcast(&mut self, except: Option<Token>, message: &Message<'_>) -> usize {
        let (opcode, payload) = (message.payload().opcode(), message.as_bytes());
        let limit = self.limits.max_outbox;
        if payload.len() > limit {
            log::warn!("a broadcast of {} bytes reached nobody: the outbox limit is {limit} bytes", payload.len());
            return 0;
        }
        if self.stage.is_full() {
            self.flush_staged();
        }
        let mut shared = self.stage.share(opcode, payload);
        let mut rest = std::mem::take(&mut self.rest);
        let mut reached = self.stage_for_all(except, &shared, &mut rest);
        for token in rest.drain(..) {
            reached += usize::from(self.emit_shared(token, &mut shared));
        }
        self.rest = rest;
        self.stage.end_share(shared);
        reached
    }

    /// Refers every open connection but one to a frame in the log; returns how many. Those for which that is not enough are added to `rest`.
    /// This is what a broadcast costs for each connection, so nothing else is done here.
    fn stage_for_all(&mut self, except: Option<Token>, shared: &Shared, rest: &mut Vec<Token>) -> usize {
        let Self { connections, stage, dirty, active, limits, .. } = self;
        let mut reached = 0;
        for (index, connection) in connections {
            let index = index as u32;
            if !connection.is_open() || except.is_some_and(|except| except.index == index) {
                continue;
            }
            let token = Token { index, generation: connection.generation };
            if !connection.outbox.stage_shared(stage, shared, limits.max_outbox) {
                rest.push(token);
                continue;
            }
            reached += 1;
            if !connection.dirty && *active != Some(index) {
                connection.dirty = true;
                dirty.push(token);
            }
        }
        reached
    }

    /// Gives one connection a shared frame, whatever waits there; whether it took it.
    fn emit_shared(&mut self, token: Token, shared: &mut Shared) -> bool {
        let (len, limit) = (shared.len(), self.limits.max_outbox);
        let connection = &mut self.connections[token.index as usize];
        if connection.outbox.lacks_room(len, limit) {
            if let Err(error) = connection.outbox.flush(&mut self.stage, &mut connection.socket, self.now) {
                self.socket_failed(token, &error);
                return false;
            }
            if connection.outbox.lacks_room(len, limit) {
                let waiting = connection.outbox.waiting();
                self.fail(token, Error::SlowConsumer { waiting, limit });
                return false;
            }
        }
        connection.outbox.push_shared(&mut self.stage, shared);
        if connection.outbox.is_blocked() {
            self.arm(token.index);
        }
        self.mark(token);
        true
    }

    pub(crate) fn emit_to(&mut self, uuid: Uuid, message: &Message<'_>) -> Result<Emitted, Gone> {
        let token = self.find(uuid).ok_or(Gone { uuid })?;
        Ok(self.emit(token, message.payload().opcode(), message.as_bytes()))
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

    /// Ends a connection for a reason of its own making or of the network's: the peer is told if it can be.
    pub(crate) fn fail(&mut self, token: Token, error: Error) {
        let Some(connection) = self.get(token) else { return };
        match connection.phase {
            Phase::Open => {}
            Phase::Closing(_) => return self.end_close(token, false),
            _ => return self.bury(token),
        }
        let close = match &error {
            Error::Protocol(violation) => Some((violation.close_code(), violation.to_string())),
            Error::Panicked { .. } => Some((CloseCode::INTERNAL_ERROR, "internal error".to_owned())),
            Error::SlowConsumer { .. } => {
                let connection = &mut self.connections[token.index as usize];
                connection.outbox.drop_waiting(&mut self.stage);
                let half_written = connection.outbox.is_mid_frame();
                (!half_written).then(|| (CloseCode::POLICY_VIOLATION, "too slow: messages were waiting".to_owned()))
            }
            _ => None,
        };
        let finished = error == Error::Lost;
        self.leave_open(token, Phase::Draining { shut: false, finished, discarded: 0 });
        if let Some((code, reason)) = &close {
            self.push_close(token, Some((*code, truncate_reason(reason))));
        } else if finished {
            self.mark(token);
        } else {
            self.connections[token.index as usize].socket.reset_on_drop();
            self.bury(token);
        }
        log::debug!("connection {}: {error}", self.connections[token.index as usize].peer.get());
        self.records.push_back((token, Record::Error { error: error.clone(), data: String::new() }));
        let (code, reason) = close.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
        self.records.push_back((token, Record::Disconnect { error: Some(error), code, reason, clean: false }));
    }

    /// Records that a verb failed inside a callback of this connection. Nobody is told any more once its `disconnect` is
    /// on its way, nor of what fails inside an `error` listener.
    pub(crate) fn verb_failed(&mut self, token: Token, error: Error, data: String) {
        let listening = self.get(token).is_some_and(|c| matches!(c.phase, Phase::Open | Phase::Closing(_)));
        if listening && !self.telling_error {
            self.records.push_back((token, Record::Error { error, data }));
        }
    }

    pub(crate) fn next_record(&mut self) -> Option<(Token, Record)> {
        self.records.pop_front()
    }

    // The socket.

    /// Writes the replies of the connection whose input was handled.
    pub(crate) fn end_input(&mut self, token: Token) {
        self.active = None;
        self.flush(token);
    }

    /// Offers a connection's outbox to its socket, and takes the step that an empty outbox allows.
    pub(crate) fn flush(&mut self, token: Token) {
        let now = self.now;
        let Some(connection) =
            self.connections.get_mut(token.index as usize).filter(|c| c.generation == token.generation)
        else {
            return;
        };
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        let waited = !connection.outbox.is_empty();
        match connection.outbox.flush(&mut self.stage, &mut connection.socket, now) {
            Ok(Flushed::All) => {
                if !connection.is_open() {
                    self.flushed(token, waited);
                }
            }
            Ok(Flushed::Blocked) => self.arm(token.index),
            Err(error) => self.socket_failed(token, &error),
        }
    }

    /// The socket has room again.
    pub(crate) fn writable(&mut self, token: Token) {
        if self.get(token).is_some_and(|c| c.outbox.is_blocked()) {
            self.flush(token);
        }
    }

    /// The queue of a connection that says nothing more is on the wire, since just now if anything `waited`.
    fn flushed(&mut self, token: Token, waited: bool) {
        let now = self.now;
        let Some(connection) = self.get_mut(token) else { return };
        match &mut connection.phase {
            Phase::Closing(farewell) if farewell.answered => self.end_close(token, true),
            // From here on the peer's answer is waited for; nothing else that it sends gives it more time.
            Phase::Closing(_) if waited => {
                connection.since = now;
                self.arm(token.index);
            }
            Phase::Closing(_) => {}
            Phase::Draining { shut, finished, .. } => {
                let mut failed = false;
                if !*shut {
                    // From here on the peer's FIN is waited for.
                    connection.since = now;
                    *shut = true;
                    failed = connection.socket.shutdown_write().is_err();
                }
                if *finished || failed {
                    self.bury(token);
                }
            }
            Phase::Handshaking(_) | Phase::Open | Phase::Dead => {}
        }
    }

    /// A close has run its course, or was cut short.
    fn end_close(&mut self, token: Token, clean: bool) {
        let Some(connection) = self.get_mut(token) else { return };
        let Phase::Closing(farewell) = &mut connection.phase else { return };
        let Farewell { error, code, reason, finished, .. } = std::mem::take(&mut **farewell);
        connection.phase = Phase::Draining { shut: false, finished, discarded: 0 };
        self.records.push_back((token, Record::Disconnect { error, code, reason, clean }));
        self.begin_phase(token);
        self.flush(token);
    }

    /// Whether the loop has something to write or to tell before it may wait.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.records.is_empty()
    }

    /// Offers every outbox that something was added to since it was last offered.
    pub(crate) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            if let Some(connection) = self.get_mut(token) {
                connection.dirty = false;
                if !connection.outbox.is_blocked() {
                    self.flush(token);
                }
            }
        }
        // Flushing may have made others dirty; the larger list is kept.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Empties the log: whoever has something there is on the list or is active.
    #[cold]
    fn flush_staged(&mut self) {
        self.flush_dirty();
        if let Some(index) = self.active
            && let Some(connection) = self.connections.get(index as usize)
        {
            self.flush(Token { index, generation: connection.generation });
        }
        debug_assert!(!self.stage.is_full(), "somebody has something in the log and is not on the list");
    }

    // Time.

    /// When a connection has to be looked at next; milliseconds on the loop's clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let stop = self.stopping.as_ref().filter(|_| !self.connections.is_empty()).map(|stopping| stopping.deadline);
        self.timers.next().into_iter().chain(stop).min()
    }

    /// The next connection whose time has come, and for what.
    pub(crate) fn pop_due(&mut self) -> Option<(Token, Due)> {
        while let Some(index) = self.timers.pop_due(self.now) {
            let connection = &mut self.connections[index as usize];
            connection.timer = NEVER;
            if let (at, Some(due)) = connection.deadline(&self.limits)
                && at <= self.now
            {
                return Some((Token { index, generation: connection.generation }, due));
            }
            self.arm(index);
        }
        None
    }

    /// Whether the connection's time has come still, for the same thing, after its socket was offered what waits: that it has room
    /// may be one of the events that did not fit into this turn.
    pub(crate) fn is_still_due(&mut self, token: Token, due: Due) -> bool {
        self.writable(token);
        self.get(token).is_some_and(|c| {
            let (at, what) = c.deadline(&self.limits);
            at <= self.now && what == Some(due)
        })
    }

    /// Does what the time has come for, except for late request heads, which are answered.
    pub(crate) fn expire(&mut self, token: Token, due: Due) {
        match due {
            Due::Ping => {
                let asked = self.now.saturating_sub(self.limits.ping_after);
                if let Some(connection) = self.get_mut(token) {
                    connection.pinged = true;
                    // The answer's time counts from this ping, also if the loop was turned late.
                    connection.since = asked;
                    self.push_control(token, Opcode::Ping, b"");
                }
            }
            Due::Silent => self.fail(token, Error::Silent(self.limits.silence())),
            Due::Stalled => {
                let error = Error::Stalled(self.limits.stall());
                if let Some(Phase::Closing(farewell)) = self.get_mut(token).map(|connection| &mut connection.phase) {
                    farewell.error = Some(error.clone());
                    self.records.push_back((token, Record::Error { error, data: String::new() }));
                    self.cut_off(token);
                } else {
                    self.fail(token, error);
                }
            }
            Due::Handshake => self.bury(token),
            Due::Close => self.cut_off(token),
        }
        self.rearm(token);
    }

    /// Ends what is left of a connection that has had its time to end well.
    fn cut_off(&mut self, token: Token) {
        let unanswered = self.get(token).is_some_and(|connection| matches!(connection.phase, Phase::Closing(_)));
        if let Some(stopping) = self.stopping.as_mut().filter(|_| unanswered) {
            stopping.remained += 1;
        }
        self.end_close(token, false);
        if let Some(connection) = self.get(token)
            && !connection.outbox.is_empty()
        {
            connection.socket.reset_on_drop();
        }
        self.bury(token);
    }

    /// Enters the connection in the timers again, for whatever is due next.
    pub(crate) fn rearm(&mut self, token: Token) {
        if self.get(token).is_some() {
            self.arm(token.index);
        }
    }

    /// Sees to it that the connection is looked at by its deadline. An entry that is too early is left: it costs one look.
    fn arm(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let (at, _) = connection.deadline(&self.limits);
        if at < connection.timer {
            self.timers.remove(connection.timer, index);
            self.timers.insert(at, index);
            connection.timer = at;
        }
    }

    // The end.

    /// Closes every connection and lets nobody in; what is left at the deadline is cut off.
    pub(crate) fn shutdown(&mut self, code: CloseCode, reason: &str, deadline: u64) -> Result<(), CloseError> {
        if !code.is_sendable() {
            return Err(CloseError::IllegalCode(code));
        }
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { deadline: self.now.saturating_add(deadline), remained: 0 });
        }
        for token in self.open_tokens() {
            self.close(token, code, reason)?;
        }
        // Whoever's request is being answered just now still gets the answer.
        let active = self.active;
        let handshaking = self
            .connections
            .iter()
            .filter(|(index, c)| matches!(c.phase, Phase::Handshaking(_)) && active != Some(*index as u32));
        let handshaking: Vec<_> =
            handshaking.map(|(index, c)| Token { index: index as u32, generation: c.generation }).collect();
        for token in handshaking {
            self.bury(token);
        }
        Ok(())
    }

    /// Cuts off what is left when a shutdown's deadline has come.
    pub(crate) fn enforce_shutdown(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        if stopping.deadline > self.now {
            return;
        }
        let late = self.connections.iter().filter(|(_, c)| !matches!(c.phase, Phase::Dead));
        let late: Vec<_> = late.map(|(index, c)| Token { index: index as u32, generation: c.generation }).collect();
        for token in late {
            self.cut_off(token);
        }
    }

    /// Removes the dead; returns how many.
    pub(crate) fn reap(&mut self) -> usize {
        let mut reaped = 0;
        while let Some(token) = self.dead.pop() {
            if self.get(token).is_some() {
                let connection = self.connections.remove(token.index as usize);
                self.timers.remove(connection.timer, token.index);
                reaped += 1;
            }
        }
        if reaped > 0 && self.connections.is_empty() {
            self.connections.shrink_to_fit();
            self.by_uuid.shrink_to_fit();
        }
        reaped
    }

    /// Nothing more is read or written: the connection is removed at the end of the turn.
    pub(crate) fn bury(&mut self, token: Token) {
        let Some(connection) =
            self.connections.get_mut(token.index as usize).filter(|c| c.generation == token.generation)
        else {
            return;
        };
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        debug_assert!(!matches!(connection.phase, Phase::Open | Phase::Closing(_)), "they are told of first");
        connection.phase = Phase::Dead;
        connection.outbox.clear(&mut self.stage);
        self.dead.push(token);
    }

    // Small steps.

    /// An open connection stops being one: nobody finds, counts or reaches it any more.
    fn leave_open(&mut self, token: Token, phase: Phase) {
        let connection = &mut self.connections[token.index as usize];
        connection.phase = phase;
        self.by_uuid.remove(&connection.uuid);
        self.open -= 1;
        self.begin_phase(token);
    }

    fn begin_phase(&mut self, token: Token) {
        self.connections[token.index as usize].since = self.now;
        self.arm(token.index);
    }

    fn push_close(&mut self, token: Token, close: Option<(CloseCode, &str)>) {
        let mut payload = Vec::new();
        encode_close(close, &mut payload);
        self.connections[token.index as usize].outbox.push_frame(&mut self.stage, Opcode::Close, &payload);
        self.mark(token);
    }

    fn push_control(&mut self, token: Token, opcode: Opcode, payload: &[u8]) {
        self.connections[token.index as usize].outbox.push_control(&mut self.stage, opcode, payload);
        self.mark(token);
    }

    /// Puts a connection on the list of those with something to write, unless it is flushed anyway.
    fn mark(&mut self, token: Token) {
        let connection = &mut self.connections[token.index as usize];
        if !connection.dirty && !connection.outbox.is_blocked() && self.active != Some(token.index) {
            connection.dirty = true;
            self.dirty.push(token);
        }
    }
}

/// What the handshake hands over for a connection that opens.
pub(crate) struct Upgraded {
    pub(crate) head: Vec<u8>,
    pub(crate) request: Box<Request>,
    pub(crate) attributes: Attributes,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::Server;

    /// The far end of a connection, as a test sees it.
    #[derive(Default)]
    struct Far {
        /// Bytes that the socket takes before it would block.
        room: usize,
        received: Vec<u8>,
        finished: bool,
        reset: bool,
    }

    #[derive(Clone, Default)]
    struct Wire(Rc<RefCell<Far>>);

    impl io::Read for Wire {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    impl io::Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut far = self.0.borrow_mut();
            let taken = bytes.len().min(far.room);
            far.room -= taken;
            far.received.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        }

        fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.write(&bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transport for Wire {
        fn shutdown_write(&self) -> io::Result<()> {
            self.0.borrow_mut().finished = true;
            Ok(())
        }

        fn reset_on_drop(&self) {
            self.0.borrow_mut().reset = true;
        }
    }

    const STALL: u64 = 500;
    const CLOSE: u64 = 100;

    fn hub() -> Hub<Wire> {
        let millis = std::time::Duration::from_millis;
        let settings = Server::builder().max_outbox(1024).ping_after(std::time::Duration::MAX);
        Hub::new(settings.stall_timeout(millis(STALL)).close_timeout(millis(CLOSE)).limits())
    }

    fn insert(hub: &mut Hub<Wire>, room: usize) -> (Token, Wire) {
        let wire = Wire::default();
        wire.0.borrow_mut().room = room;
        let peer = PeerAddress::Tcp(([127, 0, 0, 1], 1).into());
        (hub.insert(wire.clone(), peer).unwrap(), wire)
    }

    /// A connection that is open and has written its 101; then its socket takes `room` bytes.
    fn open(hub: &mut Hub<Wire>, room: usize) -> (Token, Wire) {
        let (token, wire) = insert(hub, 1000);
        let request = Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &hub.limits.head).unwrap();
        let head = b"101".to_vec();
        hub.open(token, 0, None, Upgraded { head, request: Box::new(request), attributes: Attributes::default() });
        hub.flush_dirty();
        let mut far = wire.0.borrow_mut();
        assert_eq!(std::mem::take(&mut far.received), b"101");
        far.room = room;
        drop(far);
        (token, wire)
    }

    fn records(hub: &mut Hub<Wire>) -> Vec<String> {
        let told = std::iter::from_fn(|| hub.next_record());
        told.map(|(_, record)| match record {
            Record::Close { code, reason } => format!("close {code} {reason}"),
            Record::Error { error, .. } => format!("error {error:?}"),
            Record::Disconnect { error, code, .. } => format!("disconnect {error:?} {code:?}"),
        })
        .collect()
    }

    #[test]
    fn a_peer_that_a_broadcast_found_stuck_is_given_up_after_the_stall_timeout() {
        let mut hub = hub();
        let (token, _) = open(&mut hub, 600);
        for _ in 0..6 {
            assert_eq!(hub.broadcast(None, &Message::from(&[0; 200])), 1);
        }
        assert!(hub.get(token).unwrap().outbox.is_blocked());
        assert_eq!(hub.next_deadline(), Some(STALL));
        hub.now = STALL;
        assert_eq!(hub.pop_due(), Some((token, Due::Stalled)));
    }

    #[test]
    fn a_peer_whose_socket_has_room_again_is_not_given_up_however_late_that_is_found_out() {
        for room in [0, 100] {
            let mut hub = hub();
            let (token, wire) = open(&mut hub, 100);
            assert_eq!(hub.emit(token, Opcode::Binary, &[0; 400]), Emitted::Queued);
            hub.flush_dirty();
            hub.now = 2 * STALL;
            wire.0.borrow_mut().room = room;
            assert_eq!(hub.pop_due(), Some((token, Due::Stalled)));
            assert_eq!(hub.is_still_due(token, Due::Stalled), room == 0);
        }
    }

    #[test]
    fn however_much_is_emitted_between_turns_the_log_stays_short() {
        let mut hub = hub();
        hub.limits.max_outbox = 1024 * 1024;
        let (ann, far) = open(&mut hub, usize::MAX);
        let (bob, _) = open(&mut hub, usize::MAX);
        let (_, stuck) = open(&mut hub, 0);
        hub.begin_input(bob);
        for _ in 0..2000 {
            assert!(hub.broadcast(None, &Message::from(&[1; 10_000])) >= 2);
            for token in [ann, bob] {
                assert_eq!(hub.emit(token, Opcode::Binary, &[2; 10_000]), Emitted::Queued);
            }
            assert!(hub.stage.len() < 5 * 1024 * 1024, "{}", hub.stage.len());
        }
        hub.end_input(bob);
        hub.flush_dirty();
        assert_eq!(hub.stage.len(), 0);
        assert_eq!(far.0.borrow().received.len(), 2000 * 2 * (10_000 + 4));
        assert!(stuck.0.borrow().received.is_empty());
    }

    #[test]
    fn the_fin_that_answers_a_long_response_is_waited_for_from_its_end_on() {
        let mut hub = hub();
        let (token, wire) = insert(&mut hub, 10);
        hub.respond(token, vec![b'x'; 100]);
        hub.flush_dirty();
        // It goes on taking bytes until long after the timeout that counts from the beginning.
        for _ in 0..9 {
            hub.now += CLOSE - 1;
            wire.0.borrow_mut().room = 10;
            assert_eq!(hub.pop_due(), None);
            hub.writable(token);
        }
        assert!(wire.0.borrow().finished && wire.0.borrow().received.len() == 100);
        hub.now += CLOSE - 1;
        assert_eq!(hub.pop_due(), None);
        hub.now += 1;
        assert_eq!(hub.pop_due(), Some((token, Due::Close)));
    }

    #[test]
    fn a_slow_consumer_is_told_if_no_frame_is_cut_and_reset_if_one_is() {
        let frame = encode_header(Opcode::Binary, 200).len() + 200;
        for (room, cut) in [(0, false), (1, true), (frame - 1, true), (frame, false), (2 * frame, false)] {
            let mut hub = hub();
            let (token, wire) = open(&mut hub, room);
            while hub.emit(token, Opcode::Binary, &[7; 200]) != Emitted::Refused(EmitError::Full) {}
            wire.0.borrow_mut().room = 1000;
            hub.flush_dirty();
            hub.writable(token);
            let far = wire.0.borrow();
            assert_eq!((far.reset, far.finished), (cut, !cut), "room for {room}");
            let close: &[u8] = if cut { b"" } else { b"\x88\x21\x03\xF0too slow: messages were waiting" };
            assert_eq!(far.received[room..].escape_ascii().to_string(), close.escape_ascii().to_string());
            let told = records(&mut hub);
            assert!(told.len() == 2 && told[0].starts_with("error SlowConsumer"), "{told:?}");
            assert!(told[1].starts_with("disconnect Some(SlowConsumer"), "{told:?}");
        }
    }
}
