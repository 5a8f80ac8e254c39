//! A shutdown: when connections are closed, which are reset in the end, and when it is finished.

use super::Hub;
use super::phase::Phase;
use super::shutdown_state::Stopping;
use crate::config::RETRY_AFTER;
use crate::error::CloseError;
use crate::http::Refusal;
use crate::protocol::CloseCode;

/// The cost of a close by a shutdown, in bytes of a turn's work: its events and its system calls.
const CLOSE: usize = 8 * 1024;
/// What happens within this time on several loops happens at once, in milliseconds.
const AT_ONCE: u64 = 1000;
/// The cost of resetting a connection, in bytes of a turn's work.
const CUT_OFF: usize = 4 * 1024;

impl Hub {
    /// Refuses new connections and closes the open ones, one after the other over `spread`.
    /// Connections that are still open `deadline` after the last close are reset. A second call
    /// closes the remaining open ones at once, with its own code and reason.
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
            Some(stopping) => {
                (stopping.spread, stopping.code, stopping.reason) = (0, code, reason.into())
            }
            None => {
                let mut what = String::new();
                if let Some(link) = &self.link {
                    link.post().shutdown_begins(spread.saturating_add(deadline));
                    what = format!("loop {}: ", link.index());
                }
                log::info!("{what}shutting down with {code}; open connections: {}", self.open);
                let waiting = self.open_tokens();
                self.stopping = Some(Stopping {
                    deadline: self.now.saturating_add(spread).saturating_add(deadline),
                    remained: 0,
                    code,
                    reason: reason.into(),
                    total: waiting.len(),
                    waiting,
                    begun: self.now,
                    of_others: false,
                    spread,
                });
            }
        }
        self.close_next(self.work.saturating_add(self.work_per_turn));
        // A request that is being answered now still gets its answer.
        for token in self.tokens(|connection| matches!(connection.phase, Phase::Handshaking(_))) {
            if self.active != Some(token.index) {
                self.timed_out(token);
            }
        }
        for token in self.tokens(|connection| matches!(connection.phase, Phase::Parked(_))) {
            self.refuse(token, &Refusal::Refusing { retry_after: RETRY_AFTER }, false);
        }
        Ok(())
    }

    /// Shuts down because another loop does; its code was checked. Loops that begin at the same
    /// time tell each other: that is a second call only if it is one there, `again`.
    pub(crate) fn shutdown_of_others(
        &mut self,
        code: CloseCode,
        reason: &str,
        spread: u64,
        deadline: u64,
        again: bool,
    ) {
        let begins = self.stopping.is_none();
        if begins || again {
            let _ = self.shutdown(code, reason, spread, deadline);
        }
        if let Some(stopping) = self.stopping.as_mut().filter(|_| begins) {
            stopping.of_others = true;
        }
    }

    /// Whether the program's call joins the shutdown that another loop has begun: each loop may
    /// call it when the same thing happens, and none of that is a second call.
    pub(crate) fn joins_shutdown(&mut self) -> bool {
        let now = self.now;
        self.stopping.as_mut().is_some_and(|stopping| {
            std::mem::take(&mut stopping.of_others) && now < stopping.begun + AT_ONCE
        })
    }

    /// Closes the connections whose time in the shutdown has come, until the turn's work reaches
    /// `until`; the others follow in the next turn.
    pub(crate) fn close_next(&mut self, until: usize) {
        while self.work < until
            && let Some(stopping) = &mut self.stopping
            && stopping.next().is_some_and(|at| at <= self.now)
            && let Some(token) = stopping.waiting.pop()
        {
            self.work += CLOSE;
            let (code, reason) = (stopping.code, stopping.reason.clone());
            let _ = self.close(token, code, &reason); // The code was checked.
        }
    }

    /// Closes the connections whose time in the shutdown has come, and resets the remaining ones
    /// when its deadline has passed, until the turn's work reaches `until`. The others follow in
    /// the next turn.
    pub(crate) fn enforce_shutdown(&mut self, until: usize) {
        let Some(stopping) = &self.stopping else { return };
        let is_over = stopping.deadline <= self.now;
        self.close_next(until);
        if !is_over {
            return;
        }
        // An open connection is closed first: in the next turn, if it is not now.
        for token in
            self.tokens(|connection| !matches!(connection.phase, Phase::Open | Phase::Dead))
        {
            if self.work >= until {
                return;
            }
            self.work += CUT_OFF;
            self.timed_out(token);
        }
    }

    /// Whether the shutdown only waits for the FINs of peers that have answered our close frame. If
    /// the process ended before other FINs, the kernel could drop bytes that such a peer has not
    /// read.
    pub(crate) fn has_said_all(&self) -> bool {
        self.connections.iter().all(|(_, connection)| match connection.phase {
            Phase::HalfClosed { answered } => {
                answered && !connection.was_blocked && connection.stream.unsent() == 0
            }
            Phase::Dead => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::test_kit::{hub, open};

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
