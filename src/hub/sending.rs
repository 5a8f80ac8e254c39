//! What goes out: who is given which frame, and whose outbox is offered to its socket when.
//!
//! How a frame waits and reaches the wire is the outbox's affair; what an empty or a full one means for its connection is `life`'s. It
//! knows nothing of what peers send.

use uuid::Uuid;

use super::Hub;
use crate::compression::{Common, Way};
use crate::connection::{Phase, Transport};
use crate::error::{EmitError, Error, Gone};
use crate::outbox::{Flushed, STAGE_SHARE, Shared, Stage, WRITE_THROUGH};
use crate::outgoing::Outgoing;
use crate::protocol::{CloseCode, FrameKind, Opcode, encode_close, encode_header};
use crate::token::Token;

/// What became of an emit; may be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emitted {
    /// It is queued, and will be offered to the socket before the loop waits again.
    Queued,
    /// It is queued, but the peer reads more slowly than you write: its socket takes nothing for now.
    Pressure,
    /// It is not queued, for this reason.
    Refused(EmitError),
}

impl Emitted {
    /// The refusal as an error, for `?`.
    ///
    /// # Errors
    ///
    /// Why the message was refused.
    pub fn ok(self) -> Result<(), EmitError> {
        match self {
            Self::Queued | Self::Pressure => Ok(()),
            Self::Refused(error) => Err(error),
        }
    }
}

/// A message for several connections, encoded once for each way in which it goes out.
struct Forms<'m> {
    opcode: Opcode,
    payload: &'m [u8],
    compress: bool,
    plain: Shared,
    /// Made when the first connection needs it; `None` if the plain form is no larger.
    others: Vec<(Way, Option<Shared>)>,
}

impl<'m> Forms<'m> {
    fn new(outgoing: &'m Outgoing<'_>, stage: &mut Stage) -> Self {
        let (opcode, payload) = (outgoing.message.payload().opcode(), outgoing.message.as_bytes());
        let plain = stage.share(opcode, payload);
        Self { opcode, payload, compress: outgoing.compress, plain, others: Vec::new() }
    }

    fn get(&mut self, way: Way, stage: &mut Stage, common: &mut Common) -> &mut Shared {
        if way == Way::Plain {
            return &mut self.plain;
        }
        let at = self.others.iter().position(|(each, _)| *each == way).unwrap_or_else(|| {
            let shared = match way {
                Way::Shared(kind) => common.deflate(kind, self.payload).map(|deflated| {
                    let shared = stage.share(self.opcode.compressed(), &deflated);
                    common.recycle(deflated);
                    shared
                }),
                Way::Own | Way::Plain => Some(stage.share(self.opcode.compressed(), self.payload)),
            };
            self.others.push((way, shared));
            self.others.len() - 1
        });
        self.others[at].1.as_mut().unwrap_or(&mut self.plain)
    }

    fn end(self, stage: &mut Stage) {
        let others = self.others.into_iter().filter_map(|(_, shared)| shared);
        for shared in others.chain([self.plain]) {
            stage.end_share(shared);
        }
    }
}

impl<T: Transport> Hub<T> {
    #[inline]
    pub(crate) fn emit(&mut self, token: Token, opcode: Opcode, payload: &[u8], compress: bool) -> Emitted {
        let connection = self.connections.get_mut(token.index as usize);
        let Some(connection) = connection.filter(|c| c.generation == token.generation && c.is_open()) else {
            return Emitted::Refused(EmitError::Closed);
        };
        let most = self.limits.max_outbox.min(STAGE_SHARE);
        if payload.len() < WRITE_THROUGH
            && !self.stage.is_full()
            && connection.compression.is_none()
            && connection.outbox.stage_frame(&mut self.stage, opcode, payload, most)
        {
            self.mark(token);
            return Emitted::Queued;
        }
        self.emit_more(token, opcode, payload, compress)
    }

    /// An emit that is large, or of which there is more than the log takes, or to a socket that takes no more, or where compression was
    /// agreed on.
    #[inline(never)]
    fn emit_more(&mut self, token: Token, opcode: Opcode, payload: &[u8], compress: bool) -> Emitted {
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
        match connection.way(payload.len(), compress && !opcode.is_control()) {
            Way::Plain => self.emit_frame(token, opcode.plain(), payload),
            Way::Shared(kind) => match self.common.deflate(kind, payload) {
                Some(deflated) => {
                    let emitted = self.emit_frame(token, opcode.compressed(), &deflated);
                    self.common.recycle(deflated);
                    emitted
                }
                None => self.emit_frame(token, opcode.plain(), payload),
            },
            Way::Own => self.emit_frame(token, opcode.compressed(), payload),
        }
    }

    fn emit_frame(&mut self, token: Token, kind: FrameKind, payload: &[u8]) -> Emitted {
        let connection = &mut self.connections[token.index as usize];
        let limit = self.limits.max_outbox;
        let len = encode_header(kind, payload.len()).len() + payload.len();
        let (stage, now) = (&mut self.stage, self.now);
        let mut offered = Ok(Flushed::All);
        if connection.outbox.lacks_room(len, limit) {
            offered = connection.flush(stage, now);
            let waiting = connection.outbox.waiting();
            if offered.is_ok() && connection.outbox.lacks_room(len, limit) {
                self.fail(token, Error::SlowConsumer { waiting, limit });
                return Emitted::Refused(EmitError::Full);
            }
        }
        if offered.is_ok() {
            if kind == FrameKind::PING {
                connection.outbox.push_control(stage, kind, payload);
            } else if payload.len() >= WRITE_THROUGH && !connection.outbox.is_blocked() && !connection.compresses_late()
            {
                offered = connection.outbox.write_through(stage, kind, payload, &mut connection.socket, now);
            } else {
                // Not before: a flush ends the queue.
                if connection.compresses_late() {
                    connection.outbox.use_queue(stage);
                }
                connection.outbox.push_frame(stage, kind, payload);
                if connection.outbox.waiting() >= STAGE_SHARE && !connection.outbox.is_blocked() {
                    offered = connection.flush(stage, now);
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

    pub(crate) fn emit_to(&mut self, uuid: Uuid, message: &Outgoing<'_>) -> Result<Emitted, Gone> {
        let token = self.find(uuid).ok_or(Gone { uuid })?;
        let Outgoing { message, compress } = message;
        Ok(self.emit(token, message.payload().opcode(), message.as_bytes(), *compress))
    }

    /// Encodes a message once and gives it to every open connection but one; returns how many got it.
    pub(crate) fn broadcast(&mut self, except: Option<Token>, outgoing: &Outgoing<'_>) -> usize {
        let payload = outgoing.message.as_bytes();
        let limit = self.limits.max_outbox;
        if payload.len() > limit {
            log::warn!("a broadcast of {} bytes reached nobody: the outbox limit is {limit} bytes", payload.len());
            return 0;
        }
        if self.stage.is_full() {
            self.flush_staged();
        }
        let mut forms = Forms::new(outgoing, &mut self.stage);
        let mut rest = std::mem::take(&mut self.rest);
        let mut reached = self.stage_for_all(except, &forms.plain, &mut rest);
        for token in rest.drain(..) {
            reached += usize::from(self.emit_shared(token, &mut forms));
        }
        self.rest = rest;
        forms.end(&mut self.stage);
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
            if connection.compression.is_some() || !connection.outbox.stage_shared(stage, shared, limits.max_outbox) {
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
    fn emit_shared(&mut self, token: Token, forms: &mut Forms<'_>) -> bool {
        let connection = &mut self.connections[token.index as usize];
        let way = connection.way(forms.payload.len(), forms.compress);
        let shared = forms.get(way, &mut self.stage, &mut self.common);
        let (len, limit) = (shared.len(), self.limits.max_outbox);
        if connection.outbox.lacks_room(len, limit) {
            if let Err(error) = connection.flush(&mut self.stage, self.now) {
                self.socket_failed(token, &error);
                return false;
            }
            if connection.outbox.lacks_room(len, limit) {
                let waiting = connection.outbox.waiting();
                self.fail(token, Error::SlowConsumer { waiting, limit });
                return false;
            }
        }
        // Not before: a flush ends the queue.
        if way == Way::Own {
            connection.outbox.use_queue(&mut self.stage);
        }
        connection.outbox.push_shared(&mut self.stage, shared);
        if connection.outbox.is_blocked() {
            self.arm(token.index);
        }
        self.mark(token);
        true
    }

    pub(super) fn push_close(&mut self, token: Token, close: Option<(CloseCode, &str)>) {
        let mut payload = Vec::new();
        encode_close(close, &mut payload);
        self.connections[token.index as usize].outbox.push_frame(&mut self.stage, Opcode::Close, &payload);
        self.mark(token);
    }

    pub(super) fn push_control(&mut self, token: Token, opcode: Opcode, payload: &[u8]) {
        self.connections[token.index as usize].outbox.push_control(&mut self.stage, opcode, payload);
        self.mark(token);
    }

    /// Puts a connection on the list of those with something to write, unless it is flushed anyway.
    pub(super) fn mark(&mut self, token: Token) {
        let connection = &mut self.connections[token.index as usize];
        if !connection.dirty && !connection.outbox.is_blocked() && self.active != Some(token.index) {
            connection.dirty = true;
            self.dirty.push(token);
        }
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
        match connection.flush(&mut self.stage, now) {
            Ok(Flushed::All) => {
                if !connection.is_open() {
                    self.flushed(token, waited);
                }
            }
            Ok(Flushed::Blocked) => self.arm(token.index),
            Err(error) => self.socket_failed(token, &error),
        }
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

    /// The socket has room again.
    pub(crate) fn writable(&mut self, token: Token) {
        if self.get(token).is_some_and(|c| c.outbox.is_blocked()) {
            self.flush(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::wire::{hub, open};

    #[test]
    fn however_much_is_emitted_between_turns_the_log_stays_short() {
        let mut hub = hub();
        hub.limits.max_outbox = 1024 * 1024;
        let (ann, far) = open(&mut hub, usize::MAX);
        let (bob, _) = open(&mut hub, usize::MAX);
        let (_, stuck) = open(&mut hub, 0);
        hub.begin_input(bob);
        for _ in 0..2000 {
            assert!(hub.broadcast(None, &Outgoing::from(&[1; 10_000])) >= 2);
            for token in [ann, bob] {
                assert_eq!(hub.emit(token, Opcode::Binary, &[2; 10_000], true), Emitted::Queued);
            }
            assert!(hub.stage.len() < 5 * 1024 * 1024, "{}", hub.stage.len());
        }
        hub.end_input(bob);
        hub.flush_dirty();
        assert_eq!(hub.stage.len(), 0);
        assert_eq!(far.receive(usize::MAX).0.len(), 2000 * 2 * (10_000 + 4));
        assert!(stuck.receive(usize::MAX).0.is_empty());
    }
}
