//! `echo`: each message comes back to its sender. In a closed loop the echo releases the next
//! message; in an open loop messages are sent at their time, whether or not the server keeps up.

use super::{
    Crowd, DRAIN, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, check_echo, close_all,
    drain,
};
use crate::client::{Connection, End, Failure, Fleet, Listener, Tape};
use crate::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::latency::Latency;
use crate::sample::{Extra, Fault, Sample};
use ikisocket::protocol::Payload;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// In open loop, a server that is more messages than this behind will not catch up.
const MAX_BACKLOG: u64 = 1_000_000;
/// How long a backlog may take to come back before the next slice begins with the rest.
const LONGEST_DRAIN: Nanos = 10 * SECOND;
/// Sleeping is as precise as this; shorter waits are spent awake.
const SLEEP_PRECISION: Nanos = MILLISECOND + MILLISECOND / 5;

pub struct Echo {
    fleet: Fleet<Lane>,
    crowd: Crowd,
    exchange: Exchange,
}

/// What is kept for a connection.
#[derive(Default)]
struct Lane {
    /// Sent, not yet back; in order.
    flying: VecDeque<Flight>,
    /// Open loop: due since these times, but too many are flying.
    waiting: VecDeque<Nanos>,
    /// The frame of the tape that comes back next.
    expected: usize,
}

struct Flight {
    intended: Nanos,
    sent: Nanos,
}

/// Counts what comes back, and answers it with the next message.
struct Exchange {
    tape: Arc<Tape>,
    /// Messages in flight on one connection. Closed loop: always this many. Open loop: at most this
    /// many; a message that is due beyond them waits.
    in_flight: usize,
    verify: bool,
    open_loop: bool,
    /// Closed loop: whether an echo releases another message.
    is_running: bool,
    deadline: Nanos,
    /// Flying or waiting, on all connections.
    outstanding: u64,
    sample: Sample,
    uncorrected: Latency,
}

impl Echo {
    pub fn new(setup: &Setup, in_flight: usize, verify: bool) -> io::Result<Echo> {
        let exchange = Exchange {
            tape: setup.tape.clone(),
            in_flight,
            verify,
            open_loop: false,
            is_running: false,
            deadline: 0,
            outstanding: 0,
            sample: Sample::new(),
            uncorrected: Latency::new(),
        };
        Ok(Echo { fleet: setup.fleet()?, crowd: setup.crowd, exchange })
    }

    /// Waits for what is missing, as long as something comes.
    fn await_leftovers(&mut self) -> io::Result<()> {
        let end = clock::now() + LONGEST_DRAIN;
        loop {
            let before = self.exchange.outstanding;
            let until = clock::now() + DRAIN / 2;
            drain(&mut self.fleet, &mut self.exchange, |exchange| {
                exchange.outstanding == 0 || clock::now() >= until
            })?;
            if self.exchange.outstanding == 0
                || self.exchange.outstanding >= before
                || clock::now() >= end
            {
                return Ok(());
            }
        }
    }

    fn closed_loop(&mut self, watch: &mut Stopwatch, shared: &Shared) -> io::Result<()> {
        let tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        for token in tokens {
            if let Some(connection) = self.fleet.get(token) {
                self.exchange.fill(connection);
            }
        }
        self.fleet.flush(&mut self.exchange);
        loop {
            let now = clock::now();
            if now >= watch.deadline || self.fleet.is_empty() || shared.is_interrupted() {
                return Ok(());
            }
            watch.turn(&mut self.fleet, &mut self.exchange, now, Nanos::MAX, shared)?;
        }
    }

    /// Message `i` is due at `i / rate`, on one connection after the other, however the server
    /// fares.
    fn open_loop(
        &mut self,
        rate: f64,
        watch: &mut Stopwatch,
        shared: &Shared,
    ) -> io::Result<Latency> {
        let mut lag = Latency::new();
        let tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        let begin = watch.begin;
        let due_at = |message: u64| begin + (message as f64 * SECOND as f64 / rate) as Nanos;
        let (mut message, mut due) = (0, watch.begin);
        loop {
            let now = clock::now();
            while due <= now && due < watch.deadline {
                let token = tokens[message as usize % tokens.len()];
                if let Some(connection) = self.fleet.get(token) {
                    lag.record(now - due);
                    self.exchange.schedule(connection, due, now);
                }
                message += 1;
                due = due_at(message);
            }
            self.fleet.flush(&mut self.exchange);
            if now >= watch.deadline || self.fleet.is_empty() || shared.is_interrupted() {
                return Ok(lag);
            }
            if self.exchange.outstanding > MAX_BACKLOG {
                self.exchange.sample.fault(Fault::Overloaded, 1);
                return Ok(lag);
            }
            // In whole milliseconds, as epoll rounds them up.
            let sleep =
                due.saturating_sub(now).saturating_sub(SLEEP_PRECISION) / MILLISECOND * MILLISECOND;
            watch.turn(&mut self.fleet, &mut self.exchange, now, sleep, shared)?;
        }
    }
}

impl Scenario for Echo {
    fn open(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.crowd.open(&mut self.fleet, shared)?;
        let tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        for (nth, token) in tokens.into_iter().enumerate() {
            if let Some(connection) = self.fleet.get(token) {
                let start = self.exchange.tape.position(nth);
                connection.start_at(start);
                connection.data.expected = start;
            }
        }
        Ok(())
    }

    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample {
        if self.exchange.outstanding > 0 {
            // What a slice before left behind that was too much must not count in this one. What
            // goes wrong meanwhile does.
            if let Err(error) = self.await_leftovers() {
                self.exchange.sample.failure(&error);
            }
            self.exchange.sample.keep_only_faults();
            self.exchange.uncorrected = Latency::new();
        }
        let mut watch = Stopwatch::start(slice);
        self.exchange.is_running = true;
        self.exchange.open_loop = slice.rate.is_some();
        self.exchange.deadline = watch.deadline;

        let lag = match slice.rate {
            Some(_) if self.fleet.is_empty() => Ok(None),
            Some(rate) => self.open_loop(rate, &mut watch, shared).map(Some),
            None => self.closed_loop(&mut watch, shared).map(|()| None),
        };
        watch.stop_traffic(&mut self.exchange.sample);
        self.exchange.is_running = false;
        self.exchange.deadline = watch.deadline;
        let drained =
            drain(&mut self.fleet, &mut self.exchange, |exchange| exchange.outstanding == 0);
        watch.note(clock::now(), &mut self.exchange.sample, shared);

        let mut sample = std::mem::replace(&mut self.exchange.sample, Sample::new());
        sample.fault(Fault::Unanswered, self.exchange.outstanding);
        for result in [lag.as_ref().map(|_| ()), drained.as_ref().map(|_| ())] {
            if let Err(error) = result {
                sample.failure(error);
            }
        }
        if let Ok(Some(lag)) = lag {
            let uncorrected = std::mem::replace(&mut self.exchange.uncorrected, Latency::new());
            sample.extras.extend([(Extra::Lag, lag), (Extra::Uncorrected, uncorrected)]);
        }
        watch.finish(&mut sample);
        sample
    }

    fn close(&mut self) -> Sample {
        // Echoes that were missing at the end of the slice were counted there.
        let is_late = |lane: &mut Lane| lane.flying.pop_front().is_some();
        close_all(&mut self.fleet, |connection, _| {
            (!is_late(&mut connection.data)).then_some(Fault::Unexpected)
        })
    }
}

impl Exchange {
    /// Closed loop: as many messages on their way as there shall be.
    fn fill(&mut self, connection: &mut Connection<Lane>) {
        let now = clock::now();
        while connection.data.flying.len() < self.in_flight {
            self.send(connection, now, now);
            self.outstanding += 1;
        }
    }

    /// Open loop: a message is due.
    fn schedule(&mut self, connection: &mut Connection<Lane>, due: Nanos, now: Nanos) {
        self.outstanding += 1;
        if connection.data.flying.len() < self.in_flight {
            self.send(connection, due, now);
        } else {
            connection.data.waiting.push_back(due);
        }
    }

    fn send(&mut self, connection: &mut Connection<Lane>, intended: Nanos, sent: Nanos) {
        connection.data.flying.push_back(Flight { intended, sent });
        connection.owe(1);
    }
}

impl Measuring for Exchange {
    fn sample(&mut self) -> &mut Sample {
        &mut self.sample
    }
}

impl Listener for Exchange {
    type Data = Lane;

    fn opened(&mut self, _: &mut Connection<Lane>, _: Nanos) {}

    fn message(&mut self, connection: &mut Connection<Lane>, payload: Payload<'_>, now: Nanos) {
        let received = connection.received(payload);
        let lane = &mut connection.data;
        let Some(flight) = lane.flying.pop_front() else {
            return self.sample.fault(Fault::Unexpected, 1);
        };
        let sample = &mut self.sample;
        sample.latency.record(now - flight.intended);
        sample.finished_at_all += 1;
        if now < self.deadline {
            sample.finished += 1;
            sample.received(received);
        }
        check_echo(&self.tape, lane.expected, payload, self.verify, sample);
        lane.expected = self.tape.next(lane.expected);
        self.outstanding -= 1;
        if self.open_loop {
            self.uncorrected.record(now - flight.sent);
            if let Some(due) = lane.waiting.pop_front() {
                self.send(connection, due, now);
            }
        } else if self.is_running {
            self.outstanding += 1;
            self.send(connection, now, now);
        }
    }

    fn gone(&mut self, _: usize, lane: Lane, end: End, _: Nanos) {
        let unanswered = (lane.flying.len() + lane.waiting.len()) as u64;
        self.outstanding -= unanswered;
        self.sample.fault(Fault::Unanswered, unanswered);
        self.sample.ended(end);
    }
}
