//! `churn`: connect, exchange messages, close, again; and `connect`, an upgrade storm: connect,
//! upgrade, and a reset in place of all the rest, so that nothing but the upgrade is measured. At
//! any time there are as many visits as connections.

use super::{
    Crowd, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, check_echo, close_all, drain,
};
use crate::client::{Connection, End, Failure, Fleet, Listener, Tape};
use crate::clock::{self, MILLISECOND, Nanos};
use crate::latency::Latency;
use crate::sample::{Count, Extra, Fault, Sample};
use ikisocket::protocol::Payload;
use std::io;
use std::sync::Arc;

/// How often it is looked whether an upgrade takes too long.
const EXPIRY: Nanos = 100 * MILLISECOND;

pub struct Churn {
    fleet: Fleet<Visit>,
    /// Visits at the same time.
    visitors: usize,
    door: Door,
}

/// What is kept for a connection.
#[derive(Default)]
struct Visit {
    begin: Nanos,
    /// When the message was sent to which the echo is due.
    sent: Nanos,
    /// Echoes that are still to come.
    left: usize,
    /// The frame of the tape that comes back next.
    expected: usize,
}

struct Door {
    tape: Arc<Tape>,
    verify: bool,
    /// Messages in each visit.
    messages: usize,
    deadline: Nanos,
    /// Visits that are to be begun in place of those that ended.
    vacant: usize,
    sample: Sample,
    handshake: Latency,
    round_trip: Latency,
}

impl Churn {
    pub fn new(setup: &Setup, messages: usize, verify: bool) -> io::Result<Churn> {
        let door = Door {
            tape: setup.tape.clone(),
            verify,
            messages,
            deadline: 0,
            vacant: 0,
            sample: Sample::new(),
            handshake: Latency::new(),
            round_trip: Latency::new(),
        };
        Ok(Churn { fleet: setup.fleet()?, visitors: setup.crowd.connections, door })
    }

    fn traffic(&mut self, watch: &mut Stopwatch, shared: &Shared) -> Result<(), Failure> {
        let mut expiry = watch.begin + EXPIRY;
        self.door.vacant = self.visitors;
        loop {
            let now = clock::now();
            if now >= watch.deadline || shared.is_interrupted() {
                return Ok(());
            }
            while self.door.vacant > 0 {
                let begin = clock::now();
                self.fleet.connect(
                    Visit { begin, left: self.door.messages, ..Visit::default() },
                    begin,
                )?;
                self.door.vacant -= 1;
            }
            watch.turn(&mut self.fleet, &mut self.door, now, Nanos::MAX, shared)?;
            if now >= expiry {
                self.fleet.expire(now, &mut self.door);
                expiry = now + EXPIRY;
            }
        }
    }
}

impl Scenario for Churn {
    /// One visit, to see whether the server upgrades at all.
    fn open(&mut self, shared: &Shared) -> Result<(), Failure> {
        Crowd { connections: 1, ramp_up: None }.open(&mut self.fleet, shared)?;
        // How it ends is of no interest yet: each visit is judged.
        close_all(&mut self.fleet, |_, _| None);
        Ok(())
    }

    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample {
        let mut watch = Stopwatch::start(slice);
        self.door.deadline = watch.deadline;
        let ran = self.traffic(&mut watch, shared);
        watch.stop_traffic(&mut self.door.sample);
        self.door.deadline = watch.deadline;
        let drained = drain(&mut self.fleet, &mut self.door, |_| false);
        watch.note(clock::now(), &mut self.door.sample, shared);

        let mut sample = std::mem::replace(&mut self.door.sample, Sample::new());
        sample.fault(Fault::Stuck, self.fleet.len() as u64);
        self.fleet.drop_all();
        for failure in [ran.err(), drained.err().map(Failure::from)].into_iter().flatten() {
            sample.failure(&failure);
        }
        let take = |latency: &mut Latency| std::mem::replace(latency, Latency::new());
        if self.door.messages > 0 {
            sample.extras.insert(Extra::Handshake, take(&mut self.door.handshake));
            sample.extras.insert(Extra::RoundTrip, take(&mut self.door.round_trip));
        }
        watch.finish(&mut sample);
        sample
    }

    fn close(&mut self) -> Sample {
        self.fleet.drop_all();
        Sample::new() // Each visit was closed, and judged, in its slice.
    }
}

impl Door {
    fn count(&mut self, latency: Nanos, now: Nanos) {
        self.sample.latency.record(latency);
        self.sample.finished_at_all += 1;
        self.sample.finished += u64::from(now < self.deadline);
    }
}

impl Measuring for Door {
    fn sample(&mut self) -> &mut Sample {
        &mut self.sample
    }
}

impl Listener for Door {
    type Data = Visit;

    fn opened(&mut self, connection: &mut Connection<Visit>, now: Nanos) {
        let latency = now - connection.data.begin;
        if self.messages == 0 {
            self.count(latency, now);
            connection.leave();
        } else {
            self.handshake.record(latency);
            connection.data.sent = now;
            connection.owe(1);
        }
    }

    fn message(&mut self, connection: &mut Connection<Visit>, payload: Payload<'_>, now: Nanos) {
        let received = connection.received(payload);
        let visit = &mut connection.data;
        if visit.left == 0 {
            return self.sample.fault(Fault::Unexpected, 1);
        }
        self.round_trip.record(now - visit.sent);
        *self.sample.counts.entry(Count::Messages).or_default() += 1;
        if now < self.deadline {
            self.sample.received(received);
        }
        check_echo(&self.tape, visit.expected, payload, self.verify, &mut self.sample);
        visit.expected = self.tape.next(visit.expected);
        visit.left -= 1;
        if visit.left == 0 {
            connection.close();
        } else {
            visit.sent = now;
            connection.owe(1);
        }
    }

    fn gone(&mut self, _: usize, visit: Visit, end: End, now: Nanos) {
        self.vacant += 1;
        if self.messages > 0 && end == End::Closed {
            self.count(now - visit.begin, now);
        }
        self.sample.ended(end);
    }
}
