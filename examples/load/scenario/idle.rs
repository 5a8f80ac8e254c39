//! `idle`: connections that say nothing, or nothing more after a few messages and their echoes. Pings are answered, so that the server
//! keeps them.

use super::{Crowd, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, close_all, drain};
use crate::client::{Connection, End, Failure, Fleet, Listener};
use crate::clock::{self, Nanos};
use crate::sample::{Count, Fault, Sample};
use ikisocket::protocol::Payload;
use std::io;

pub struct Idle {
    fleet: Fleet<()>,
    crowd: Crowd,
    /// Messages of each connection before it falls silent.
    messages: usize,
    watch: Watch,
}

struct Watch {
    /// Echoes that are still to come.
    awaited: usize,
    sample: Sample,
}

impl Idle {
    pub fn new(setup: &Setup, messages: usize) -> io::Result<Idle> {
        let watch = Watch { awaited: 0, sample: Sample::new() };
        Ok(Idle { fleet: setup.fleet()?, crowd: setup.crowd, messages, watch })
    }

    /// The messages, and their echoes.
    fn talk(&mut self) -> io::Result<()> {
        let tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        let messages = std::mem::take(&mut self.messages);
        for token in tokens {
            if let Some(connection) = self.fleet.get(token) {
                connection.owe(messages);
                self.watch.awaited += messages;
            }
        }
        self.fleet.flush(&mut self.watch);
        drain(&mut self.fleet, &mut self.watch, |watch| watch.awaited == 0)?;
        self.watch.sample.fault(Fault::Unanswered, std::mem::take(&mut self.watch.awaited) as u64);
        Ok(())
    }
}

impl Scenario for Idle {
    fn open(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.crowd.open(&mut self.fleet, shared)
    }

    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample {
        if let Err(error) = self.talk() {
            self.watch.sample.failure(&error);
        }
        let mut watch = Stopwatch::start(slice);
        loop {
            let now = clock::now();
            if now >= watch.deadline || shared.is_interrupted() {
                break;
            }
            if let Err(error) = watch.turn(&mut self.fleet, &mut self.watch, now, Nanos::MAX, shared) {
                self.watch.sample.failure(&error);
                break;
            }
        }
        let mut sample = std::mem::replace(&mut self.watch.sample, Sample::new());
        watch.stop_traffic(&mut sample);
        sample.finished = self.fleet.len() as u64;
        watch.finish(&mut sample);
        sample
    }

    fn close(&mut self) {
        close_all(&mut self.fleet);
    }
}

impl Measuring for Watch {
    fn sample(&mut self) -> &mut Sample {
        &mut self.sample
    }
}

impl Listener for Watch {
    type Data = ();

    fn opened(&mut self, _: &mut Connection<()>, _: Nanos) {}

    fn message(&mut self, _: &mut Connection<()>, _: Payload<'_>, _: Nanos) {
        let count = match self.awaited {
            0 => Count::Foreign,
            _ => Count::Messages,
        };
        self.awaited = self.awaited.saturating_sub(1);
        *self.sample.counts.entry(count).or_default() += 1;
    }

    fn gone(&mut self, _: usize, (): (), end: End, _: Nanos) {
        self.sample.ended(end);
    }
}
