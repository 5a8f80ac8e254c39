//! `idle`: connections that say nothing. Pings are answered, so that the server keeps them.

use super::{Crowd, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, close_all};
use crate::client::{Connection, End, Failure, Fleet, Listener};
use crate::clock::{self, Nanos};
use crate::sample::{Count, Sample};
use ikisocket::protocol::Payload;
use std::io;

pub struct Idle {
    fleet: Fleet<()>,
    crowd: Crowd,
    watch: Watch,
}

struct Watch {
    sample: Sample,
}

impl Idle {
    pub fn new(setup: &Setup) -> io::Result<Idle> {
        Ok(Idle { fleet: setup.fleet()?, crowd: setup.crowd, watch: Watch { sample: Sample::new() } })
    }
}

impl Scenario for Idle {
    fn open(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.crowd.open(&mut self.fleet, shared)
    }

    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample {
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
        *self.sample.counts.entry(Count::Foreign).or_default() += 1;
    }

    fn gone(&mut self, _: usize, (): (), end: End, _: Nanos) {
        self.sample.ended(end);
    }
}
