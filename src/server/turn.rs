//! The turn of the loop, phase by phase, and the methods that run it.

use std::time::Duration;

use mio::Events;
use mio::event::Event;

use super::budget::{
    ANSWER, COMMANDS_AT_ONCE, COMMANDS_PART, COMMANDS_PER_TURN, SHARE, TIMEOUT, TIMEOUTS_PER_TURN,
    TIMERS_PER_TURN,
};
use super::input::{Progress, Wakeup};
use super::turn_report::Turn;
use super::{Finished, Server, admission};
use crate::error::IoError;
use crate::hub::{Connection, NEVER, Stopwatch, Timeout};
use crate::token::{Ready, SourceId};
use crate::user::{Answer, Command, Readiness, TimerId};

/// The state at the beginning of a turn.
struct Began {
    /// Timers that are set from now on do not run in this turn.
    newest_timer: TimerId,
    stopwatch: Option<Stopwatch>,
    /// The numbers of connections that had been upgraded, and of pages that had been called.
    upgraded: u64,
    pages: u64,
}

impl<S> Server<S> {
    // The loop.

    /// Turns the loop until a shutdown has finished. Without a shutdown it never returns, except
    /// with an error, also if the server listens nowhere: call [`listen`](Self::listen) before.
    ///
    /// # Errors
    ///
    /// The same as those of [`poll`](Self::poll).
    pub fn run(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(None)?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop until a shutdown has finished, and never sleeps. An event is seen at once,
    /// without the time that the operating system takes to wake a thread. It keeps one core busy
    /// all the time, also when nothing happens. On a machine where other threads need that core it
    /// is slower than [`run`](Self::run), not faster.
    ///
    /// # Errors
    ///
    /// The same as those of [`poll`](Self::poll).
    pub fn run_spinning(&mut self) -> Result<Finished, IoError> {
        loop {
            self.poll(Some(Duration::ZERO))?;
            if let Some(finished) = self.finished() {
                return Ok(finished);
            }
        }
    }

    /// Turns the loop once. It writes what was emitted since the last turn, waits for an event for
    /// at most `timeout` (`None`: without limit), rounded up to whole milliseconds, and handles it.
    /// Listeners run inside. `Some(Duration::ZERO)` never blocks.
    ///
    /// It may return early without having done anything, for instance after a signal. With `None`
    /// it returns at once when a shutdown [is finished](Self::is_finished).
    ///
    /// # Errors
    ///
    /// The error of the operating system's poll. No connection can cause it.
    ///
    /// # Panics
    ///
    /// No panic of a callback reaches the caller: panics are caught, also those in the destructors
    /// of captured values and of attributes. Each callback, source and attribute is dropped under a
    /// guard of its own. There are two exceptions. If one value owns several others, a second panic
    /// while they are dropped aborts the process, as everywhere in Rust. And a panic in a logger is
    /// not caught: after it, drop the server.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Turn, IoError> {
        let mut began = self.begin_turn();
        let settled = self.settle();
        self.wait(timeout, settled, &mut began)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let woken = self.take_woken();
        self.serve_events(&mut buffer);
        self.serve_backlog(&mut buffer);
        self.serve_others(woken);
        #[cfg(feature = "redis")]
        if self.line.is_some() {
            self.serve_bus_if_due(&mut buffer);
        }
        self.fire_timers(began.newest_timer);
        self.settle();
        self.expire(&mut buffer);
        self.settle();
        self.put_back(buffer);
        self.turn.closed = self.hub.remove_dead();
        self.resume_listeners();
        Ok(self.end_turn(began))
    }

    /// Writes what was emitted since the last turn, and does nothing else.
    pub fn flush(&mut self) {
        self.hub.now = self.clock();
        self.hub.flush_dirty();
        self.hand_letters_over();
    }

    /// The longest time for which [`poll`](Self::poll) may be deferred if nothing happens on a
    /// socket; `None`: any time. The call changes nothing. Polling later makes timeouts late.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        if !self.hub.is_settled()
            || self.has_unsent()
            || self.is_behind()
            || self.is_stopping_anew()
        {
            return Some(Duration::ZERO);
        }
        self.until_next(None)
    }

    /// Whether a [`shutdown`](crate::Sockets::shutdown) has finished: every `disconnect` has fired,
    /// and no connection has anything left to send.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished().is_some()
    }

    /// The result of a [`shutdown`](crate::Sockets::shutdown), once it has finished.
    #[must_use]
    pub fn finished(&self) -> Option<Finished> {
        let stopping = self.hub.stopping.as_ref()?;
        if !self.hub.is_settled() || self.has_unsent() || !self.hub.has_said_all() {
            return None;
        }
        // Asked last: from now on it is known which words are the last.
        #[cfg(feature = "redis")]
        if self.hub.now < stopping.deadline && self.has_last_words() {
            return None;
        }
        Some(Finished { remained: stopping.remained })
    }

    // The phases of a turn, in their order.

    #[inline]
    fn begin_turn(&mut self) -> Began {
        self.hub.work = 0;
        self.turn = Turn::default();
        Began {
            newest_timer: self.registry.schedule.newest(),
            stopwatch: self.hub.stats.turn_durations.is_some().then(Stopwatch::start),
            upgraded: self.hub.stats.upgraded,
            pages: self.hub.stats.pages,
        }
    }

    /// Waits for events, unless there is something to do; `settled` says that something was done
    /// already.
    #[inline]
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        settled: bool,
        began: &mut Began,
    ) -> Result<(), IoError> {
        // A wait without limit would never end if nothing is left to wait for.
        let at_once = settled || self.is_behind() || (timeout.is_none() && self.is_finished());
        let timeout = if at_once { Some(Duration::ZERO) } else { self.until_next(timeout) };
        if let Some(stopwatch) = &mut began.stopwatch {
            stopwatch.pause();
        }
        self.reactor.wait(timeout)?;
        if let Some(stopwatch) = &mut began.stopwatch {
            stopwatch.resume();
        }
        self.hub.now = self.clock();
        if let Some(link) = self.hub.link.as_ref().filter(|_| !self.clock.stands_still()) {
            link.turn_begins(self.hub.now);
        }
        Ok(())
    }

    /// Serves the connections that the poll reports as ready, and notes other ready tokens.
    #[inline]
    fn serve_events(&mut self, buffer: &mut [u8]) {
        let events = std::mem::replace(&mut self.reactor.events, Events::with_capacity(0));
        let ready = events.iter().count();
        self.begin_shares(ready);
        for event in &events {
            let Ready::Connection(token) = Ready::decode(event.token().0) else {
                self.note_other(event);
                continue;
            };
            let wakeup = Wakeup {
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                hides_more: event.is_priority() || self.short_may_hide(token),
            };
            self.serve_ready(token, wakeup, buffer);
        }
        self.backlog.set_events(ready == events.capacity());
        self.reactor.events = events;
        #[cfg(feature = "testing")]
        if !self.readiness.is_empty() {
            self.handle_readiness(buffer);
        }
    }

    /// The sources that are called in this turn without an event.
    #[inline]
    fn take_woken(&mut self) -> Vec<SourceId> {
        if self.registry.sources.has_woken() {
            self.registry.sources.take_woken()
        } else {
            Vec::new()
        }
    }

    /// Serves listeners, other threads, and the sources that are called without an event.
    #[inline]
    fn serve_others(&mut self, woken: Vec<SourceId>) {
        if self.backlog.has_others() || !woken.is_empty() {
            self.accept_and_run(woken);
        }
    }

    #[inline]
    fn end_turn(&mut self, began: Began) -> Turn {
        self.turn.opened = (self.hub.stats.upgraded - began.upgraded) as usize;
        self.turn.pages = (self.hub.stats.pages - began.pages) as usize;
        self.hub.stats.turns += 1;
        if let Some(link) = &self.hub.link {
            link.turn_ends();
        }
        if let Some(stopwatch) = began.stopwatch {
            stopwatch.stop(&mut self.hub.stats);
        }
        self.turn
    }

    /// Whether there is something to do without waiting for an event.
    #[inline]
    fn is_behind(&self) -> bool {
        !self.backlog.is_empty() || self.registry.sources.has_woken() || self.hub.has_dead()
    }

    /// Whether a shutdown was asked for since the last turn.
    pub(super) fn is_stopping_anew(&self) -> bool {
        self.hub.stopping.is_some() && self.reactor.is_listening()
    }

    /// Whether something waits to be handed over to another loop.
    fn has_unsent(&self) -> bool {
        #[cfg(feature = "redis")]
        if self.has_unpublished() {
            return true;
        }
        self.hub.link.as_ref().is_some_and(|link| link.has_unsent())
    }

    /// Milliseconds since the server was built.
    pub(super) fn clock(&self) -> u64 {
        self.clock.now()
    }

    /// The time until the next timeout is due, or `limit` if that is less.
    pub(super) fn until_next(&self, limit: Option<Duration>) -> Option<Duration> {
        let own = self.shortage.resume_at.min(self.registry.schedule.next());
        let next = self.hub.next_deadline().map_or(own, |next| next.min(own));
        #[cfg(feature = "redis")]
        let next = self.line.as_ref().map_or(next, |line| next.min(line.next_deadline()));
        if next == NEVER || limit == Some(Duration::ZERO) {
            return limit;
        }
        let until = Duration::from_millis(next.saturating_sub(self.clock()));
        Some(limit.map_or(until, |limit| limit.min(until)))
    }

    /// Begins a shutdown that was asked for, then fires what was recorded and writes what was
    /// emitted, until there is neither. Returns whether there was anything to fire or to begin.
    pub(super) fn settle(&mut self) -> bool {
        let mut told = self.is_stopping_anew();
        if told {
            self.stop_listening();
        }
        if !self.hub.is_settled() {
            // The answer to what goes out now is awaited from now on, however long user code has
            // run since the clock was read.
            self.hub.now = self.clock();
        }
        while !self.hub.is_settled() {
            told |= self.context().drain_notifications();
            self.hub.flush_dirty();
        }
        self.hand_letters_over();
        told
    }

    /// Notes that a token other than a connection's is ready; a source is called at once.
    #[cold]
    fn note_other(&mut self, event: &Event) {
        match Ready::decode(event.token().0) {
            Ready::Listener(listener) => self.backlog.push_listener(listener),
            Ready::Inbox => {
                self.backlog.push_commands();
                self.backlog.push_letters();
                #[cfg(feature = "redis")]
                if self.bus_resolves() {
                    self.backlog.push_bus();
                }
            }
            #[cfg(feature = "redis")]
            Ready::Bus => self.note_bus(event),
            Ready::Source(id) => self.call_source(Readiness::of(id, event)),
            Ready::Connection(_) => {}
        }
    }

    #[cold]
    fn accept_and_run(&mut self, woken: Vec<SourceId>) {
        // The callbacks of this turn may have taken long. What connects now has its whole time for
        // the handshake.
        self.hub.now = self.clock();
        for listener in self.backlog.take_listeners() {
            self.accept(listener);
        }
        // Not at the end of the turn: a callback may come before, and take long.
        if let Some(link) = &mut self.hub.link {
            link.wake_others();
        }
        // Before the commands: one of them may be a shutdown.
        if self.backlog.take_letters() {
            self.serve_letters();
        }
        if self.backlog.take_commands() {
            self.run_commands();
        }
        for id in woken {
            if let Some(readiness) = self.registry.sources.may_be_ready(id) {
                self.call_source(readiness);
            }
        }
    }

    /// Calls one of the user's own sources.
    fn call_source(&mut self, readiness: Readiness) {
        self.turn.sources += usize::from(self.context().source(readiness));
    }

    /// Continues with a request whose answer has come, and writes all results once.
    #[cold]
    fn resume(&mut self, answer: Answer<S>) {
        let token = answer.token;
        if !admission::waits(&self.hub, token, &answer.waits) {
            // The captured values are dropped here, which runs user code too.
            let _ = self.context().guard("filter", None, |_| drop(answer));
            return;
        }
        self.hub.begin_input(token);
        let mut early = admission::resume(&mut self.context(), answer);
        self.context().drain_notifications();
        match early.len() {
            0 => self.hub.end_input(token),
            before => {
                if let Progress::UsedUp = self.serve(token, before, &mut early) {
                    self.keep(token, early, self.left.start);
                }
            }
        }
    }

    /// Runs the commands that other threads have sent.
    fn run_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        let mut left = COMMANDS_PER_TURN.min(self.work_per_turn);
        let until = self.hub.work.saturating_add(self.hub.work_per_turn / COMMANDS_PART);
        loop {
            let some = left.min(COMMANDS_AT_ONCE);
            let more = self.registry.inbox.take(some, &mut commands);
            for command in commands.drain(..) {
                match command {
                    Command::Run(task) => {
                        self.context().command(task);
                        self.turn.commands += 1;
                    }
                    Command::Answer(answer) => {
                        self.hub.work += ANSWER;
                        self.resume(answer);
                    }
                    Command::StopListening => self.stop_listening(),
                }
            }
            left -= some;
            if !more {
                break;
            }
            if left == 0 || self.hub.work >= until {
                self.backlog.push_commands();
                break;
            }
        }
        self.commands = commands;
    }

    /// Calls the user's timers that are due and were set before this turn began.
    #[inline]
    fn fire_timers(&mut self, newest: TimerId) {
        if self.registry.schedule.next() <= self.hub.now {
            self.call_timers(newest);
        }
    }

    #[cold]
    fn call_timers(&mut self, newest: TimerId) {
        while self.turn.timers < TIMERS_PER_TURN.min(self.work_per_turn)
            && self.context().timer(newest)
        {
            self.turn.timers += 1;
        }
    }

    /// Handles the timeouts that are due. Before a connection is disconnected, its socket is tried
    /// once more.
    fn expire(&mut self, buffer: &mut [u8]) {
        let mut looks = TIMEOUTS_PER_TURN.min(self.work_per_turn);
        if self.hub.next_deadline().is_none_or(|next| next > self.hub.now) {
            return;
        }
        self.begin_ending();
        while !self.is_spent()
            && let Some((token, timeout)) = self.hub.pop_due(&mut looks)
        {
            self.hub.work += TIMEOUT;
            // A TLS handshake takes much time: it has its turn among the others of its kind.
            let shakes_hands = self.hub.get(token).is_some_and(Connection::is_shaking_hands);
            if shakes_hands && self.hub.forgive_late_handshake(token) {
                continue;
            }
            if timeout != Timeout::Ping && !shakes_hands {
                self.read_in_order(token, true, buffer);
                if !self.hub.is_still_due(token, timeout) {
                    self.hub.rearm(token);
                    continue;
                }
            }
            match timeout {
                Timeout::Handshake => admission::late(&mut self.hub, token),
                _ => self.hub.expire(token, timeout),
            }
            self.context().drain_notifications();
        }
        if self.hub.stopping.is_some() {
            self.begin_ending();
            self.hub.enforce_shutdown(self.limit);
        }
    }

    /// Reserves a part of the budget for work that ends connections, even if the budget is spent.
    #[inline]
    pub(super) fn begin_ending(&mut self) {
        self.limit = self.hub.ending_limit();
        self.share = SHARE.min(self.hub.work_per_turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_has_its_whole_time_however_long_callbacks_took_before() {
        let settings = Server::builder().handshake_timeout(Duration::from_secs(10));
        let mut server = settings.build(()).unwrap();
        let address = server.listen("127.0.0.1:0").unwrap();
        server.clock.stop();
        let _client = std::net::TcpStream::connect(address).unwrap();
        server.hub.now = server.clock();
        server.clock.advance(Duration::from_secs(60));
        server.backlog.push_listener(0);
        server.accept_and_run(Vec::new());
        assert_eq!(server.hub.next_deadline(), Some(server.clock() + 10_000));
    }
}
