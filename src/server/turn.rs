//! The turn of the loop, phase by phase, and what runs it.

use std::time::Duration;

use mio::Events;
use mio::event::Event;

use super::budget::{
    ANSWER, COMMANDS_AT_ONCE, COMMANDS_PART, COMMANDS_PER_TURN, SHARE, TIMEOUT, TIMEOUTS_PER_TURN, TIMERS_PER_TURN,
};
use super::input::{Progress, Wakeup};
use super::report::Turn;
use super::{Finished, Server, upgrade};
use crate::error::IoError;
use crate::hub::{Due, NEVER, Stopwatch};
use crate::token::Ready;
use crate::user::{Answer, Command, Readiness, TimerId, call};

impl<S> Server<S> {
    // The loop.

    /// Turns the loop until a shutdown has finished. Without one it never returns.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn run(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(None)?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop until a shutdown has finished, and never sleeps: an event is seen as soon as it is there, without the time that the
    /// operating system takes to wake a thread. It keeps one core busy all the time, also when nothing happens; on a machine where others need that core it is
    /// slower than [`run`](Self::run), not faster.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn run_spinning(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(Some(Duration::ZERO))?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop once: writes what was emitted since the last turn, waits for something to happen, at most for `timeout` (`None`: as long
    /// as it takes), and handles it. Listeners run inside. `Some(Duration::ZERO)` never blocks.
    ///
    /// It may return early with nothing done, for instance after a signal. With `None` it returns at once when a shutdown
    /// [is finished](Self::is_finished).
    ///
    /// # Errors
    ///
    /// What the operating system's poll said. No connection can cause it.
    ///
    /// # Panics
    ///
    /// Panics in callbacks are caught, and so are those in the destructors of what they have
    /// captured and of attributes. Each callback, source and attribute is dropped under a guard of
    /// its own. Inside one value that owns several others a second panic aborts the process, as
    /// everywhere in Rust. A panic in a logger is not caught: after it, drop the server.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Turn, IoError> {
        let mut turn = Turn::default();
        self.hub.work = 0;
        let newest_timer = self.registry.schedule.newest();
        let mut stopwatch = self.hub.stats.turn_durations.is_some().then(Stopwatch::start);
        let told = self.settle();
        // Without an end to the wait nobody would learn that there is nothing left to wait for.
        let at_once = told || self.hub.more || (timeout.is_none() && self.is_finished());
        let timeout = if at_once { Some(Duration::ZERO) } else { self.until_next(timeout) };
        if let Some(stopwatch) = &mut stopwatch {
            stopwatch.pause();
        }
        self.reactor.wait(timeout)?;
        if let Some(stopwatch) = &mut stopwatch {
            stopwatch.resume();
        }
        self.hub.now = self.clock();
        let mut buffer = std::mem::take(&mut self.buffer);
        if std::mem::take(&mut self.hub.more) {
            self.note_woken();
        }
        let events = std::mem::replace(&mut self.reactor.events, Events::with_capacity(0));
        let ready = events.iter().count();
        self.begin_shares(ready);
        for event in &events {
            let Ready::Connection(token) = Ready::decode(event.token().0) else {
                self.note_other(event, &mut turn);
                continue;
            };
            let wakeup = Wakeup {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                hides_more: event.is_priority() || self.short_may_hide(token),
            };
            self.serve_ready(token, wakeup, &mut buffer, &mut turn);
        }
        // There may be more than were taken.
        self.hub.more |= ready == events.capacity();
        self.reactor.events = events;
        #[cfg(feature = "testing")]
        if !self.readiness.is_empty() {
            self.handle_readiness(&mut buffer, &mut turn);
        }
        if !self.backlog.is_empty() {
            self.serve_backlog(&mut buffer, &mut turn);
        }
        if std::mem::take(&mut self.others) {
            self.serve_others(&mut turn);
        }
        if self.registry.schedule.next() <= self.hub.now {
            self.fire_timers(newest_timer, &mut turn);
        }
        self.settle();
        self.expire(&mut buffer, &mut turn);
        self.buffer = buffer;
        self.settle();
        self.hub.more |= !self.backlog.is_empty();
        turn.closed = self.hub.reap();
        if turn.closed > 0 || self.resume_at <= self.hub.now {
            self.resume_at = NEVER;
            for listener in std::mem::take(&mut self.paused) {
                self.accept_again(listener);
            }
        }
        self.hub.stats.turns += 1;
        if let Some(stopwatch) = stopwatch {
            stopwatch.stop(&mut self.hub.stats);
        }
        Ok(turn)
    }

    /// Writes what was emitted since the last turn, and does nothing else.
    pub fn flush(&mut self) {
        self.hub.now = self.clock();
        self.hub.flush_dirty();
    }

    /// How long [`poll`](Self::poll) may be put off if nothing happens on a socket; `None`: as long as you like. Asking is harmless; polling
    /// later makes timeouts late.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        if !self.hub.is_settled() || self.hub.more || self.is_stopping_anew() {
            return Some(Duration::ZERO);
        }
        self.until_next(None)
    }

    /// Whether a [`shutdown`](crate::Sockets::shutdown) has run its course: every `disconnect` is told, and nothing more is to be said to
    /// anybody.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished().is_some()
    }

    /// What a [`shutdown`](crate::Sockets::shutdown) left, once it has run its course.
    #[must_use]
    pub fn finished(&self) -> Option<Finished> {
        let stopping = self.hub.stopping.as_ref()?;
        (self.hub.is_settled() && self.hub.has_said_all()).then_some(Finished { remained: stopping.remained })
    }

    /// Whether a shutdown was asked for since the last turn.
    pub(super) fn is_stopping_anew(&self) -> bool {
        self.hub.stopping.is_some() && self.reactor.is_listening()
    }

    /// Milliseconds since the server was built.
    pub(super) fn clock(&self) -> u64 {
        self.clock.now()
    }

    /// The time until the next timeout is due, or `limit` if that is less.
    pub(super) fn until_next(&self, limit: Option<Duration>) -> Option<Duration> {
        let own = self.resume_at.min(self.registry.schedule.next());
        let next = self.hub.next_deadline().map_or(own, |next| next.min(own));
        if next == NEVER || limit == Some(Duration::ZERO) {
            return limit;
        }
        let until = Duration::from_millis(next.saturating_sub(self.clock()));
        Some(limit.map_or(until, |limit| limit.min(until)))
    }

    /// Tells what was recorded and writes what was emitted, until there is nothing left of either, and begins a shutdown that was asked for; whether
    /// there was anything to tell or to begin.
    pub(super) fn settle(&mut self) -> bool {
        let mut told = self.is_stopping_anew();
        if told {
            self.stop_listening();
        }
        if !self.hub.is_settled() {
            // What goes out now is answered from now on, however long user code has run since the clock was read last.
            self.hub.now = self.clock();
        }
        while !self.hub.is_settled() {
            told |= call::tell_records(&mut self.state, &mut self.hub, &self.registry);
            self.hub.flush_dirty();
        }
        told
    }

    /// Tells what was recorded.
    pub(super) fn tell(&mut self) {
        call::tell_records(&mut self.state, &mut self.hub, &self.registry);
    }

    /// Notes the sources that are to be called though no event says so.
    #[cold]
    pub(super) fn note_woken(&mut self) {
        self.woken = self.registry.sources.take_woken();
        self.others |= !self.woken.is_empty();
    }

    /// Notes that something else than a connection is ready, or serves it.
    #[cold]
    pub(super) fn note_other(&mut self, event: &Event, turn: &mut Turn) {
        self.others = true;
        match Ready::decode(event.token().0) {
            // It has one share of the turn, also if it was left over from the last one.
            Ready::Listener(listener) if self.accepting.contains(&listener) => {}
            Ready::Listener(listener) => self.accepting.push(listener),
            Ready::Inbox => self.mail = true,
            Ready::Source(id) => self.call_source(Readiness::of(id, event), turn),
            Ready::Connection(_) => {}
        }
    }

    /// Serves listeners, other threads, and the sources that are to be called without an event.
    #[cold]
    pub(super) fn serve_others(&mut self, turn: &mut Turn) {
        for listener in std::mem::take(&mut self.accepting) {
            self.accept(listener, turn);
        }
        if std::mem::take(&mut self.mail) {
            self.run_commands(turn);
        }
        for id in std::mem::take(&mut self.woken) {
            if let Some(readiness) = self.registry.sources.may_be_ready(id) {
                self.call_source(readiness, turn);
            }
        }
    }

    /// Calls one of the user's own sources.
    pub(super) fn call_source(&mut self, readiness: Readiness, turn: &mut Turn) {
        turn.sources += usize::from(call::source(&mut self.state, &mut self.hub, &self.registry, readiness));
    }

    /// Goes on with a request whose answer has come, and writes what follows from it once.
    #[cold]
    pub(super) fn resume(&mut self, answer: Answer<S>, turn: &mut Turn) {
        let Self { state, hub, registry, .. } = self;
        let token = answer.token;
        if !upgrade::waits(hub, token, &answer.waits) {
            // What it has captured is dropped here, which is user code too.
            let _ = call::guard(state, hub, registry, "filter", None, |_, _| drop(answer));
            return;
        }
        hub.begin_input(token);
        let mut early = upgrade::resume(state, hub, registry, answer, turn);
        self.tell();
        match early.len() {
            0 => self.hub.end_input(token),
            before => {
                if let Progress::UsedUp = self.serve(token, before, &mut early, turn)
                    && !self.left.is_empty()
                {
                    self.keep(token, early, self.left.start);
                }
            }
        }
    }

    /// Does what other threads have sent.
    pub(super) fn run_commands(&mut self, turn: &mut Turn) {
        let mut commands = std::mem::take(&mut self.commands);
        let mut left = COMMANDS_PER_TURN.min(self.work_per_turn);
        let until = self.hub.work.saturating_add(self.hub.work_per_turn / COMMANDS_PART);
        loop {
            let some = left.min(COMMANDS_AT_ONCE);
            let more = self.registry.inbox.take(some, &mut commands);
            for command in commands.drain(..) {
                match command {
                    Command::Run(task) => {
                        call::command(&mut self.state, &mut self.hub, &self.registry, task);
                        turn.commands += 1;
                    }
                    Command::Answer(answer) => {
                        self.hub.work += ANSWER;
                        self.resume(answer, turn);
                    }
                }
            }
            left -= some;
            if !more {
                break;
            }
            if left == 0 || self.hub.work >= until {
                (self.mail, self.others, self.hub.more) = (true, true, true);
                break;
            }
        }
        self.commands = commands;
    }

    /// Calls the user's timers that are due and were set before this turn began.
    #[cold]
    pub(super) fn fire_timers(&mut self, newest: TimerId, turn: &mut Turn) {
        while turn.timers < TIMERS_PER_TURN.min(self.work_per_turn)
            && call::timer(&mut self.state, &mut self.hub, &self.registry, newest)
        {
            turn.timers += 1;
        }
    }

    /// Handles the timeouts that are due. Before a connection is given up, its socket is asked once more.
    pub(super) fn expire(&mut self, buffer: &mut [u8], turn: &mut Turn) {
        let mut looks = TIMEOUTS_PER_TURN.min(self.work_per_turn);
        if self.hub.next_deadline().is_none_or(|next| next > self.hub.now) {
            return;
        }
        self.begin_ending();
        while !self.is_spent()
            && let Some((token, due)) = self.hub.pop_due(&mut looks)
        {
            self.hub.work += TIMEOUT;
            if due != Due::Ping {
                self.read_in_order(token, true, buffer, turn);
                if !self.hub.is_still_due(token, due) {
                    self.hub.rearm(token);
                    continue;
                }
            }
            match due {
                Due::Handshake => upgrade::late(&mut self.hub, token),
                _ => self.hub.expire(token, due),
            }
            self.tell();
        }
        if self.hub.stopping.is_some() {
            self.begin_ending();
            self.hub.enforce_shutdown(self.limit);
        }
    }

    /// Leaves a part of the budget for what ends connections, also if it is spent.
    #[inline]
    pub(super) fn begin_ending(&mut self) {
        self.limit = self.hub.ending_limit();
        self.share = SHARE.min(self.hub.work_per_turn);
    }
}
