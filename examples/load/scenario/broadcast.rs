//! `broadcast`: what one connection sends, all receive, the sender included. When all have a
//! message, the next one is sent. `slow-reader` adds one more connection, which at some time stops
//! reading.

use super::stamp::{STAMP_LEN, Stamp};
use super::{Crowd, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, close_all, drain};
use crate::client::{Connection, End, Failure, Fleet, Listener, Packer, Tape};
use crate::clock::{self, MILLISECOND, Nanos};
use crate::latency::Latency;
use crate::sample::{Count, Extra, Fault, Sample};
use ikisocket::protocol::{Opcode, Payload};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long the slow reader, when it reads again, may take to find out what became of it.
const SECOND_CHANCE: Nanos = 500 * MILLISECOND;

pub struct Broadcast {
    fleet: Fleet<Seat>,
    crowd: Crowd,
    publishers: usize,
    at_once: usize,
    slow: Slow,
    receivers: Receivers,
}

/// What is kept for a connection.
#[derive(Default)]
struct Seat {
    /// The newest number from each publisher, plus one; zero if there was none.
    newest: Vec<u64>,
}

/// The connection that reads slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Unwanted,
    /// Still reads like the others.
    Reading(usize),
    Stalled(usize),
    /// It has had its time.
    Over,
}

/// All receivers, and what is on its way to them.
struct Receivers {
    tape: Arc<Tape>,
    opcode: Opcode,
    verify: bool,
    /// The number of this run: another run may use the same broadcast.
    run: u16,
    /// Connections that publish.
    publishers: Vec<usize>,
    /// Connections that count as receivers.
    members: usize,
    /// The slow reader, and how it ended.
    slow: Option<usize>,
    slow_end: Option<End>,
    /// The broadcasts that it received, and the number of the first one that it did not read.
    slow_received: u64,
    stalled_at: u64,
    deadline: Nanos,
    /// The broadcasts from number `first` on. Those in front that all have received are no longer
    /// kept.
    flights: VecDeque<Flight>,
    first: u64,
    /// Broadcasts that at least one receiver has yet to receive.
    unfinished: usize,
    /// The message that goes out next is put together here.
    scratch: Vec<u8>,
    /// It is compressed here, with --deflate.
    packer: Option<Packer>,
    packed: Vec<u8>,
    sample: Sample,
    skew: Latency,
    last_receiver: Latency,
}

struct Flight {
    publisher: usize,
    sent: Nanos,
    first_received: Nanos,
    /// The number of receivers that have yet to receive it.
    missing: usize,
}

impl Broadcast {
    pub fn new(
        setup: &Setup,
        publishers: usize,
        at_once: usize,
        verify: bool,
        slow_reader: bool,
    ) -> io::Result<Broadcast> {
        let receivers = Receivers {
            tape: setup.tape.clone(),
            opcode: setup.shape.opcode(),
            verify,
            run: uuid::Uuid::new_v4().as_u128() as u16 & 0x3fff,
            publishers: Vec::new(),
            members: 0,
            slow: None,
            slow_end: None,
            slow_received: 0,
            stalled_at: 0,
            deadline: 0,
            flights: VecDeque::new(),
            first: 0,
            unfinished: 0,
            scratch: Vec::new(),
            packer: setup.upgrade.deflate.then(Packer::new),
            packed: Vec::new(),
            sample: Sample::new(),
            skew: Latency::new(),
            last_receiver: Latency::new(),
        };
        let mut crowd = setup.crowd;
        crowd.connections += usize::from(slow_reader);
        let slow = if slow_reader { Slow::Reading(0) } else { Slow::Unwanted };
        Ok(Broadcast { fleet: setup.fleet()?, crowd, publishers, at_once, slow, receivers })
    }

    fn traffic(&mut self, watch: &mut Stopwatch, shared: &Shared) -> io::Result<()> {
        loop {
            let now = clock::now();
            if now >= watch.deadline
                || self.receivers.publishers.is_empty()
                || shared.is_interrupted()
            {
                return Ok(());
            }
            while self.receivers.unfinished < self.at_once
                && self.receivers.publish(&mut self.fleet)
            {}
            self.fleet.flush(&mut self.receivers);
            watch.turn(&mut self.fleet, &mut self.receivers, now, Nanos::MAX, shared)?;
        }
    }

    /// Before a slice: the slow reader stops, or its time is over.
    fn set_stalled(&mut self, stalled: bool) -> io::Result<()> {
        match (self.slow, stalled) {
            (Slow::Reading(token), true) => {
                // If the server has ended it, that is known now at the latest.
                for _ in 0..=self.fleet.len() / Fleet::<Seat>::EVENTS {
                    self.fleet.turn(Duration::ZERO, &mut self.receivers)?;
                }
                if let Some(end) = self.receivers.slow_end.take() {
                    self.slow = Slow::Over;
                    self.receivers.sample.fault(Fault::SlowReaderGone, 1);
                    self.receivers.sample.ended(end);
                    return Ok(());
                }
                self.fleet.stall(token);
                self.slow = Slow::Stalled(token);
                self.receivers.stalled_at = self.receivers.next_number();
                self.receivers.slow_received = 0;
            }
            (Slow::Stalled(token), false) => {
                self.slow = Slow::Over;
                let missed = self.receivers.next_number() - self.receivers.stalled_at;
                self.fleet.resume(token, &mut self.receivers);
                let end = clock::now() + SECOND_CHANCE;
                while missed > 0 && self.receivers.slow_end.is_none() && clock::now() < end {
                    self.fleet.turn(Duration::from_millis(10), &mut self.receivers)?;
                }
                let fate = match self.receivers.slow_end.take() {
                    _ if missed == 0 => "had nothing to read: its time says nothing".to_owned(),
                    None if self.receivers.slow_received >= missed => format!(
                        "was still connected at the end, and all {missed} messages had found a \
                         place in buffers: the server may not have noticed it. Use a greater \
                         --size or a longer --duration"
                    ),
                    None => "was still connected at the end".to_owned(),
                    Some(End::Closed | End::Left) => "was closed by us".to_owned(),
                    Some(End::Failed(failure)) => {
                        // A server may end it, but not say wrong things to it.
                        if let Failure::Protocol(_) = failure {
                            self.receivers.sample.failure(&failure);
                        }
                        format!("ended: {failure}")
                    }
                };
                self.receivers.sample.remarks.push(format!("the slow reader {fate}"));
                // Through its small buffer the rest would take too long, and disturb the others.
                self.fleet.drop_one(token);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Scenario for Broadcast {
    fn open(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.crowd.open(&mut self.fleet, shared)?;
        let mut tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        if self.slow != Slow::Unwanted
            && let Some(token) = tokens.pop()
        {
            self.slow = Slow::Reading(token);
            self.receivers.slow = Some(token);
        }
        for token in tokens.iter().copied().chain(self.receivers.slow) {
            if let Some(connection) = self.fleet.get(token) {
                connection.data.newest = vec![0; self.publishers];
            }
        }
        self.receivers.members = tokens.len();
        self.receivers.publishers = tokens.into_iter().take(self.publishers).collect();
        Ok(())
    }

    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample {
        let prepared = self.set_stalled(slice.stalled);
        let mut watch = Stopwatch::start(slice);
        self.receivers.deadline = watch.deadline;

        let ran = self.traffic(&mut watch, shared);
        watch.stop_traffic(&mut self.receivers.sample);
        self.receivers.deadline = watch.deadline;
        let drained =
            drain(&mut self.fleet, &mut self.receivers, |receivers| receivers.unfinished == 0);
        watch.note(clock::now(), &mut self.receivers.sample, shared);
        self.receivers.give_up_the_rest();

        let mut sample = std::mem::replace(&mut self.receivers.sample, Sample::new());
        for error in [prepared, ran, drained].into_iter().filter_map(Result::err) {
            sample.failure(&error);
        }
        let take = |latency: &mut Latency| std::mem::replace(latency, Latency::new());
        sample.extras.insert(Extra::Skew, take(&mut self.receivers.skew));
        sample.extras.insert(Extra::LastReceiver, take(&mut self.receivers.last_receiver));
        watch.finish(&mut sample);
        sample
    }

    fn close(&mut self) -> Sample {
        let (run, slow) = (self.receivers.run, self.receivers.slow);
        close_all(&mut self.fleet, |connection, payload| {
            let stamp = Stamp::read(&payload).filter(|stamp| stamp.run == run)?;
            let newest = connection.data.newest.get_mut(usize::from(stamp.publisher));
            let Some(newest) = newest else { return Some(Fault::WrongPayload) };
            let fault = stamp.fault_after(*newest);
            *newest = (stamp.number + 1).max(*newest);
            // A late one was counted as lost in its slice; the slow reader is always late.
            fault.or((slow != Some(connection.token)).then_some(Fault::Unexpected))
        })
    }
}

impl Receivers {
    /// How many broadcasts there were so far.
    fn next_number(&self) -> u64 {
        self.first + self.flights.len() as u64
    }

    /// Gives the next message to the publisher that is next. False if there is none.
    fn publish(&mut self, fleet: &mut Fleet<Seat>) -> bool {
        let number = self.next_number();
        let publisher = (number % self.publishers.len().max(1) as u64) as usize;
        let Some(connection) = self.publishers.get(publisher).and_then(|&token| fleet.get(token))
        else {
            return false;
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(self.tape.payload(self.tape.frame_of(number)));
        Stamp { run: self.run, publisher: publisher as u16, number }.write(&mut self.scratch);
        match &mut self.packer {
            None => connection.send(self.opcode, &self.scratch),
            Some(packer) => {
                self.packed.clear();
                packer.pack(&self.scratch, &mut self.packed);
                connection.send_compressed(self.opcode, &self.packed);
            }
        }
        self.flights.push_back(Flight {
            publisher,
            sent: clock::now(),
            first_received: 0,
            missing: self.members,
        });
        self.unfinished += 1;
        *self.sample.counts.entry(Count::Broadcasts).or_default() += 1;
        true
    }

    /// A receiver has received a broadcast, or never will.
    fn settle(&mut self, index: usize) {
        let flight = &mut self.flights[index];
        flight.missing -= 1;
        if flight.missing == 0 {
            self.unfinished -= 1;
            while self.flights.front().is_some_and(|flight| flight.missing == 0) {
                self.flights.pop_front();
                self.first += 1;
            }
        }
    }

    /// What has not come by now is lost.
    fn give_up_the_rest(&mut self) {
        let lost: usize = self.flights.iter().map(|flight| flight.missing).sum();
        self.sample.fault(Fault::Lost, lost as u64);
        self.first += self.flights.len() as u64;
        self.flights.clear();
        self.unfinished = 0;
    }
}

impl Measuring for Receivers {
    fn sample(&mut self) -> &mut Sample {
        &mut self.sample
    }
}

impl Listener for Receivers {
    type Data = Seat;

    fn opened(&mut self, _: &mut Connection<Seat>, _: Nanos) {}

    fn message(&mut self, connection: &mut Connection<Seat>, payload: Payload<'_>, now: Nanos) {
        let Some(stamp) = Stamp::read(&payload).filter(|stamp| stamp.run == self.run) else {
            *self.sample.counts.entry(Count::Foreign).or_default() += 1;
            return;
        };
        let Some(newest) = connection.data.newest.get_mut(usize::from(stamp.publisher)) else {
            return self.sample.fault(Fault::WrongPayload, 1);
        };
        if let Some(fault) = stamp.fault_after(*newest) {
            return self.sample.fault(fault, 1);
        }
        *newest = stamp.number + 1;
        if !self.tape.is_its_kind(payload) {
            self.sample.fault(Fault::WrongKind, 1);
        }
        let sent = self.tape.payload(self.tape.frame_of(stamp.number));
        if payload.len() != sent.len() || (self.verify && payload[STAMP_LEN..] != sent[STAMP_LEN..])
        {
            self.sample.fault(Fault::WrongPayload, 1);
        }
        if self.slow == Some(connection.token) {
            self.slow_received += 1; // It may miss some, as the server thinks right.
            return;
        }
        let index = stamp.number.wrapping_sub(self.first) as usize;
        let Some(flight) = self.flights.get_mut(index) else {
            return self.sample.fault(Fault::Unexpected, 1);
        };

        let latency = now.saturating_sub(flight.sent);
        if flight.first_received == 0 {
            flight.first_received = now;
        }
        self.sample.latency.record(latency);
        self.sample.finished_at_all += 1;
        if now < self.deadline {
            self.sample.finished += 1;
            self.sample.received(connection.received(payload));
        }
        if flight.missing == 1 {
            self.skew.record(now - flight.first_received);
            self.last_receiver.record(latency);
        }
        self.settle(index);
    }

    fn gone(&mut self, token: usize, seat: Seat, end: End, _: Nanos) {
        if self.slow == Some(token) {
            self.slow_end = Some(end);
            return;
        }
        self.members -= 1;
        self.publishers.retain(|&publisher| publisher != token);
        let first = self.first;
        let not_received = |(index, flight): (usize, &Flight)| {
            seat.newest
                .get(flight.publisher)
                .is_some_and(|&newest| first + index as u64 >= newest)
                .then_some(index)
        };
        // From the back: settling the front moves the others.
        let lost: Vec<usize> = self.flights.iter().enumerate().filter_map(not_received).collect();
        self.sample.fault(Fault::Lost, lost.len() as u64);
        lost.into_iter().rev().for_each(|index| self.settle(index));
        self.sample.ended(end);
    }
}
