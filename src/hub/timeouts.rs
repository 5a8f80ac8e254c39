//! The timeouts of connections: when each is due, and what then happens.
//!
//! The hub is given the time as a number: no clock is read here. The connection knows how long its
//! phase may last.

use super::connection::{Deadline, Timeout};
use super::phase::Phase;
use super::{Hub, named};
use crate::error::Error;
use crate::protocol::Opcode;
use crate::token::Token;

/// A loop that reaches a deadline later than this was not turned meanwhile, in milliseconds.
const LATE: u64 = 1000;

impl Hub {
    /// The time at which a connection has to be looked at next; milliseconds on the loop's clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let stopping = self.stopping.as_ref().filter(|_| !self.connections.is_empty());
        let stop = stopping.map(|stopping| stopping.next().unwrap_or(stopping.deadline));
        self.timers.next().into_iter().chain(stop).min()
    }

    /// The next connection whose time has come, and the reason. It looks at no more than `looks`
    /// entries, because many connections may have shown a sign of life since they were entered.
    /// Entries that it has not looked at are still due.
    pub(crate) fn pop_due(&mut self, looks: &mut usize) -> Option<(Token, Timeout)> {
        while *looks > 0 {
            *looks -= 1;
            let index = self.timers.pop_due(self.now)?;
            let connection = &self.connections[index as usize];
            if let Some(Deadline { at, timeout }) = connection.deadline(&self.limits)
                && at <= self.now
            {
                return Some((Token { index, generation: connection.generation }, timeout));
            }
            self.arm(index);
        }
        None
    }

    /// Whether the connection's time has still come, for the same reason, after its socket was
    /// offered the waiting bytes. The event that the socket has room may not have fitted into this
    /// turn.
    pub(crate) fn is_still_due(&mut self, token: Token, timeout: Timeout) -> bool {
        let unsent = self.get(token).is_some_and(|connection| connection.stream.unsent() > 0);
        if self.is_blocked(token) || unsent {
            self.writable(token);
            self.forgive_lateness(token);
        }
        let deadline = self.get(token).and_then(|connection| connection.deadline(&self.limits));
        deadline.is_some_and(|deadline| deadline.at <= self.now && deadline.timeout == timeout)
    }

    /// Gives a connection more time if its end has passed because the loop was not turned, and its
    /// full socket has taken something just now. The waiting bytes get the time that they need.
    fn forgive_lateness(&mut self, token: Token) {
        let (now, limits) = (self.now, &self.limits);
        if let Some(connection) = named(&mut self.connections, token)
            && matches!(
                connection.phase,
                Phase::Closing(_) | Phase::Draining | Phase::HalfClosed { .. }
            )
            && now.saturating_sub(connection.time) >= LATE
            && connection.outbox.blocked_since().is_none_or(|progress| progress == now)
        {
            connection.begin_end(limits, now);
        }
    }

    /// Gives a TLS handshake its time again if that has passed because the loop was not turned:
    /// what the client has sent meanwhile waits. Returns whether it did.
    pub(crate) fn forgive_late_handshake(&mut self, token: Token) -> bool {
        let (now, timeout) = (self.now, self.limits.handshake_timeout);
        let is_late = self.get_mut(token).is_some_and(|connection| {
            let is_late = connection.is_shaking_hands()
                && now.saturating_sub(connection.time.saturating_add(timeout)) >= LATE;
            if is_late {
                connection.time = now;
            }
            is_late
        });
        if is_late {
            self.rearm(token);
        }
        is_late
    }

    /// Does what is due, except for late request heads, which get a response.
    pub(crate) fn expire(&mut self, token: Token, timeout: Timeout) {
        match timeout {
            Timeout::Ping => {
                let asked = self.now.saturating_sub(self.limits.ping_after);
                if let Some(connection) = self.get_mut(token) {
                    connection.ping_sent = true;
                    // The time for the answer counts from this ping, also if the loop was turned
                    // late.
                    connection.time = asked;
                    self.push_control(token, Opcode::Ping, b"");
                }
            }
            Timeout::Silent => self.fail(token, Error::Silent(self.limits.silence())),
            Timeout::Stalled => self.fail(token, Error::Stalled(self.limits.stall())),
            Timeout::Handshake | Timeout::Close => self.timed_out(token),
        }
        self.rearm(token);
    }

    /// Enters the connection in the timers again, for its next deadline.
    pub(crate) fn rearm(&mut self, token: Token) {
        if self.get(token).is_some() {
            self.arm(token.index);
        }
    }

    /// Makes sure that the connection is looked at by its deadline. An entry that is too early
    /// stays: it costs one look.
    #[inline]
    pub(super) fn arm(&mut self, index: u32) {
        if let Some(Deadline { at, .. }) = self.connections[index as usize].deadline(&self.limits)
            && at < self.timers.due(index)
        {
            self.timers.set(index, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Response;
    use crate::hub::test_kit::{CLOSE, STALL, hub, insert, open};
    use crate::hub::{Audience, Emitted};
    use crate::outbox::{Outgoing, SendOptions};
    use crate::protocol::CloseCode;
    use crate::transport::faults::End;

    #[test]
    fn a_peer_found_stuck_by_a_broadcast_fails_after_the_stall_timeout() {
        let mut hub = hub();
        let (token, _) = open(&mut hub, 600);
        for _ in 0..6 {
            assert_eq!(hub.broadcast(Audience::All, None, &Outgoing::from(&[0; 200])), 1);
        }
        assert!(hub.get(token).unwrap().outbox.is_blocked());
        assert_eq!(hub.next_deadline(), Some(STALL));
        hub.now = STALL;
        assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Stalled)));
    }

    #[test]
    fn a_sweep_looks_at_a_limited_number_and_leaves_the_rest_due() {
        let mut hub = hub();
        hub.limits.ping_after = 1000;
        let peers: Vec<_> = (0..5).map(|_| open(&mut hub, 0)).collect();
        // All have shown a sign of life: none is due, but each has to be looked at.
        hub.now = 999;
        for (token, far) in &peers {
            far.send(b"x");
            assert_eq!(hub.read(*token, &mut [0; 8]).unwrap().unwrap(), 1);
            hub.end_input(*token);
        }
        hub.now = 1000;
        let left = [3, 3].map(|mut looks| {
            (hub.pop_due(&mut looks), hub.next_deadline().map(|next| next <= hub.now))
        });
        assert_eq!(left, [(None, Some(true)), (None, Some(false))]);
    }

    #[test]
    fn a_socket_with_room_again_prevents_a_stall_however_late_it_is_noticed() {
        for room in [0, 100] {
            let mut hub = hub();
            let (token, far) = open(&mut hub, 100);
            assert_eq!(
                hub.emit(token, Opcode::Binary, &[0; 400], &SendOptions::USUAL),
                Emitted::Queued
            );
            hub.flush_dirty();
            hub.now = 2 * STALL;
            far.make_room(room);
            assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Stalled)));
            assert_eq!(hub.is_still_due(token, Timeout::Stalled), room == 0);
        }
    }

    #[test]
    fn the_bytes_of_a_slow_request_give_it_no_more_time() {
        let mut hub = hub();
        let (token, far) = insert(&mut hub, 0);
        let late = hub.next_deadline().unwrap();
        for now in (1..late).step_by(100) {
            hub.now = now;
            far.send(b"x");
            assert_eq!(hub.read(token, &mut [0; 8]).unwrap().unwrap(), 1);
            hub.end_input(token);
            assert_eq!(hub.pop_due(&mut 1), None);
        }
        hub.now = late;
        assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Handshake)));
    }

    #[test]
    fn the_fin_after_a_response_has_the_close_timeout_once_all_is_taken() {
        let mut hub = hub();
        let (mut whole, response) = (Vec::new(), Response::text("x".repeat(100)));
        response.encode(false, &mut whole);
        let tenth = whole.len().div_ceil(10);
        let (token, far) = insert(&mut hub, tenth);
        hub.respond(token, &response, false);
        hub.flush_dirty();
        for _ in 0..9 {
            hub.now += CLOSE / 10;
            far.make_room(tenth);
            assert_eq!(hub.pop_due(&mut 1), None);
            hub.writable(token);
        }
        assert_eq!(far.receive(usize::MAX), (whole, Some(End::Fin)));
        hub.now += CLOSE - 1;
        assert_eq!(hub.pop_due(&mut 1), None);
        hub.now += 1;
        assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Close)));
    }

    #[test]
    fn a_response_taken_just_in_time_leaves_the_close_timeout_for_the_fin() {
        let mut hub = hub();
        let (token, far) = insert(&mut hub, 10);
        hub.respond(token, &Response::text("x".repeat(100)), false);
        hub.flush_dirty();
        let end = hub.get(token).unwrap().time;
        // It takes bytes often enough not to stall.
        while hub.now + STALL / 2 < end {
            hub.now += STALL / 2;
            far.make_room(1);
            hub.writable(token);
        }
        hub.now = end - 1;
        far.make_room(usize::MAX);
        hub.writable(token);
        let last = hub.now + CLOSE;
        hub.now = last - 1;
        assert_eq!(hub.pop_due(&mut 10), None);
        hub.now = last;
        assert_eq!(hub.pop_due(&mut 10), Some((token, Timeout::Close)));
    }

    #[test]
    fn an_end_is_a_reset_if_the_peer_may_lack_bytes_and_else_a_fin() {
        for (room, end) in [(10, End::Reset), (150, End::Fin)] {
            let mut hub = hub();
            let (token, far) = open(&mut hub, room);
            hub.emit(token, Opcode::Binary, &[0; 100], &SendOptions::USUAL);
            hub.close(token, CloseCode::NORMAL, "").unwrap();
            hub.flush_dirty();
            // A reader that takes a byte now and then does not stall, and is reset all the same.
            while hub.pop_due(&mut 1).is_none() {
                hub.now = hub.next_deadline().unwrap();
            }
            hub.expire(token, Timeout::Close);
            hub.remove_dead();
            assert_eq!(far.receive(usize::MAX).0.len(), room.min(102 + 4));
            assert_eq!(far.server_end(), Some(end), "room for {room} bytes");
            assert_eq!(hub.stats.cut_short, 1);
        }
    }

    #[test]
    fn what_a_full_socket_took_late_may_be_unread_so_that_the_end_is_a_reset() {
        // The longer message is offered to the socket at once, the other when the callback has
        // returned.
        for len in [100, 20_000] {
            let mut hub = hub();
            hub.limits.max_outbox = 100_000;
            let (token, far) = open(&mut hub, 10);
            hub.emit(token, Opcode::Binary, &vec![0; len], &SendOptions::USUAL);
            hub.close(token, CloseCode::NORMAL, "").unwrap();
            hub.flush_dirty();
            far.make_room(100_000);
            hub.writable(token);
            assert!(hub.get(token).unwrap().outbox.is_empty());
            hub.expire(token, Timeout::Close);
            hub.remove_dead();
            assert_eq!(far.server_end(), Some(End::Reset), "{len} bytes");
        }
    }

    #[test]
    fn the_deadline_of_a_shutdown_resets_within_the_work_of_the_turn() {
        let mut hub = hub();
        let _peers: Vec<_> = (0..5).map(|_| open(&mut hub, usize::MAX)).collect();
        hub.shutdown(CloseCode::GOING_AWAY, "", 0, CLOSE).unwrap();
        hub.flush_dirty();
        (hub.now, hub.work) = (CLOSE, 0);
        hub.enforce_shutdown(2 * (4 * 1024));
        let is_due = hub.next_deadline().is_some_and(|next| next <= hub.now);
        assert_eq!((hub.stats().closing, is_due), (5 - 2, true), "the others have the next turn");
    }

    #[test]
    fn a_fin_that_is_found_after_the_end_counts_as_one_in_time() {
        let mut hub = hub();
        let (token, far) = open(&mut hub, usize::MAX);
        hub.close(token, CloseCode::NORMAL, "").unwrap();
        hub.flush_dirty();
        hub.now = hub.next_deadline().unwrap();
        assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Close)));
        hub.peer_finished(token);
        assert!(!hub.is_still_due(token, Timeout::Close));
        assert_eq!((far.server_end(), hub.stats.cut_short), (Some(End::Fin), 0));
    }

    #[test]
    fn a_peer_that_was_sent_up_to_32_kib_has_only_the_close_timeout() {
        for (sent, end) in [(32 * 1024, CLOSE), (32 * 1024 + 1, CLOSE + 1)] {
            let mut hub = hub();
            let (token, _far) = open(&mut hub, usize::MAX);
            hub.get_mut(token).unwrap().taken = sent - 4;
            hub.close(token, CloseCode::NORMAL, "").unwrap();
            hub.flush_dirty();
            assert_eq!(hub.get(token).unwrap().taken, sent, "the close frame has four bytes");
            hub.now = end - 1;
            assert_eq!(hub.pop_due(&mut 1), None, "{sent} bytes");
            hub.now = end;
            assert_eq!(hub.pop_due(&mut 1), Some((token, Timeout::Close)), "{sent} bytes");
        }
    }

    #[test]
    fn a_peer_that_was_sent_4_gib_has_as_much_time_to_end_as_before() {
        let [less, more] = [u32::MAX - 4, u32::MAX - 2].map(|taken| {
            let mut hub = hub();
            hub.limits.kernel_holds = 1024 * 1024;
            let (token, _far) = open(&mut hub, usize::MAX);
            hub.get_mut(token).unwrap().taken = taken;
            hub.close(token, CloseCode::NORMAL, "").unwrap();
            hub.flush_dirty();
            hub.get(token).unwrap().time
        });
        assert!(less > CLOSE);
        assert_eq!(more, less);
    }
}
