//! Writing outboxes to sockets: when a connection's outbox is offered, and what follows from what
//! the socket has taken.
//!
//! The outbox decides how frames wait and are written.

use super::sending::open;
use super::{Hub, Notification, alive};
use crate::outbox::Flushed;
use crate::token::Token;

impl Hub {
    /// Writes the replies of the connection whose input was handled.
    #[inline]
    pub(crate) fn end_input(&mut self, token: Token) {
        self.active = None;
        self.flush(token);
    }

    /// Offers a connection's outbox to its socket, and takes the step that an empty outbox allows.
    #[inline]
    pub(crate) fn flush(&mut self, token: Token) {
        let Some(connection) = open(&mut self.connections, token) else {
            return self.flush_ending(token);
        };
        let result = connection.flush(&mut self.stage, &mut self.common, self.now);
        if connection.over_high_water && connection.outbox.waiting() <= self.limits.low_water {
            connection.over_high_water = false;
            self.notifications.push_back((token, Notification::Relief));
        }
        match result {
            Ok(Flushed::All) => {}
            // If that was the sign of life after a ping, the next ping may be due sooner than the
            // entry.
            Ok(Flushed::Emptied) => self.arm(token.index),
            Ok(Flushed::Blocked | Flushed::Progress) => self.note_pressure(token),
            Err(error) => self.socket_failed(token, error),
        }
    }

    /// The same for a connection that is not open any more, if it still exists.
    #[inline(never)]
    fn flush_ending(&mut self, token: Token) {
        let Some(connection) = alive(&mut self.connections, token) else { return };
        let waited = !connection.outbox.is_empty();
        // The first offer since it stopped being open: the loop may have been turned late.
        if waited && !connection.outbox.is_blocked() {
            connection.begin_end(&self.limits, self.now);
        }
        match connection.flush(&mut self.stage, &mut self.common, self.now) {
            Ok(Flushed::All | Flushed::Emptied) => self.emptied(token),
            Ok(Flushed::Blocked | Flushed::Progress) => self.arm(token.index),
            Err(error) => self.socket_failed(token, error),
        }
    }

    /// Offers every outbox that has grown since its last offer.
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
        // Flushing may have made other connections dirty; the larger list is kept.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Empties the log: each connection with bytes in it is on the list or is active.
    #[cold]
    pub(super) fn flush_staged(&mut self) {
        self.flush_dirty();
        if let Some(index) = self.active
            && let Some(connection) = self.connections.get(index as usize)
        {
            self.flush(Token { index, generation: connection.generation });
        }
        debug_assert!(
            !self.stage.is_full(),
            "a connection has something in the log and is not on the list"
        );
    }

    /// The number of bytes that sockets have taken.
    #[inline]
    pub(crate) fn written(&self) -> u64 {
        self.stage.written
    }

    /// Handles a socket that has room again.
    pub(crate) fn writable(&mut self, token: Token) {
        if self.get(token).is_some_and(|connection| connection.outbox.is_blocked()) {
            let before = self.common.late_work();
            self.flush(token);
            self.work += self.common.late_work().wrapping_sub(before);
        } else {
            #[cfg(feature = "_tls")]
            self.write_unsent(token);
        }
    }

    /// The same if its socket was not offered it yet, and no reply went out together with it.
    #[cfg(feature = "_tls")]
    pub(crate) fn write_unoffered(&mut self, token: Token) {
        if self.get(token).and_then(|c| c.stream.tls()).is_some_and(|stream| stream.is_unoffered())
        {
            self.write_unsent(token);
        }
    }

    /// Writes what a TLS session has to send by itself.
    #[cfg(feature = "_tls")]
    fn write_unsent(&mut self, token: Token) {
        let Some(connection) = self.get_mut(token) else { return };
        let Some(stream) = connection.stream.tls_mut() else { return };
        let was_ending = stream.is_ending();
        match stream.write_unsent() {
            Err(error) => self.socket_failed(token, error),
            Ok(()) if was_ending && !stream.is_ending() && connection.finished => {
                self.peer_finished(token);
            }
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {

    use crate::hub::test_kit::{hub, open};
    use crate::hub::{Audience, Emitted};
    use crate::outbox::{Outgoing, SendOptions};
    use crate::protocol::Opcode;

    #[test]
    fn however_much_is_emitted_between_turns_the_log_stays_short() {
        let mut hub = hub();
        hub.limits.max_outbox = 1024 * 1024;
        let (ann, far) = open(&mut hub, usize::MAX);
        let (bob, _) = open(&mut hub, usize::MAX);
        let (_, stuck) = open(&mut hub, 0);
        hub.begin_input(bob);
        for _ in 0..2000 {
            assert!(hub.broadcast(Audience::All, None, &Outgoing::from(&[1; 10_000])) >= 2);
            for token in [ann, bob] {
                assert_eq!(
                    hub.emit(token, Opcode::Binary, &[2; 10_000], &SendOptions::USUAL),
                    Emitted::Queued
                );
            }
            assert!(hub.stage.len() < 5 * 1024 * 1024, "{}", hub.stage.len());
        }
        hub.end_input(bob);
        hub.flush_dirty();
        assert_eq!(hub.stage.len(), 0);
        assert_eq!(far.receive(usize::MAX).0.len(), 2000 * 2 * (10_000 + 4));
        assert!(stuck.receive(usize::MAX).0.is_empty());
    }

    #[test]
    fn waiting_messages_are_counted_before_and_after_the_first_offer() {
        let mut hub = hub();
        let (token, far) = open(&mut hub, 0);
        for sent in 1..=3 {
            assert_eq!(
                hub.emit(token, Opcode::Binary, &[0; 100], &SendOptions::USUAL),
                Emitted::Queued
            );
            assert_eq!(hub.waiting_messages(token), sent);
        }
        hub.flush_dirty();
        assert_eq!(hub.waiting_messages(token), 3);
        let before = hub.written();
        far.make_room(usize::MAX);
        hub.writable(token);
        assert_eq!(hub.waiting_messages(token), 0);
        assert_eq!(
            hub.written() - before,
            3 * (100 + 2),
            "what a socket takes is work of the turn"
        );
    }

    #[test]
    fn the_log_stays_short_however_much_is_emitted_between_turns() {
        let mut hub = hub();
        hub.limits.max_outbox = 1024 * 1024;
        let peers: Vec<_> = (0..400).map(|_| open(&mut hub, usize::MAX)).collect();
        for (token, _) in &peers {
            assert_eq!(
                hub.emit(*token, Opcode::Binary, &[1; 15_000], &SendOptions::USUAL),
                Emitted::Queued
            );
            assert!(hub.stage.len() < 5 * 1024 * 1024, "{}", hub.stage.len());
        }
    }

    #[test]
    fn what_a_socket_takes_at_once_of_a_large_message_is_work_of_the_turn() {
        for (room, written) in [(usize::MAX, 20_000 + 4), (5000, 5000)] {
            let mut hub = hub();
            hub.limits.max_outbox = 1024 * 1024;
            let (token, _far) = open(&mut hub, room);
            let before = hub.written();
            hub.emit(token, Opcode::Binary, &[1; 20_000], &SendOptions::USUAL);
            assert_eq!(hub.written() - before, written);
        }
    }
}
