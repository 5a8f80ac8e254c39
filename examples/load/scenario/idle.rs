//! `idle`: connections that say nothing, or nothing more after a few messages and their echoes.
//! Pings are answered, so that the server keeps them.

use super::{
    Crowd, Measuring, Scenario, Setup, Shared, Slice, Stopwatch, check_echo, close_all, drain,
};
use crate::client::{Connection, End, Failure, Fleet, Listener, Tape};
use crate::clock::{self, Nanos};
use crate::sample::{Count, Fault, Sample};
use ikisocket::protocol::Payload;
use std::io;
use std::sync::Arc;

pub struct Idle {
    fleet: Fleet<Talk>,
    crowd: Crowd,
    /// Messages of each connection before it falls silent.
    messages: usize,
    watch: Watch,
}

/// What is kept for a connection.
#[derive(Default)]
struct Talk {
    /// Echoes that are still to come.
    left: usize,
    /// The frame of the tape that comes back next.
    expected: usize,
}

struct Watch {
    tape: Arc<Tape>,
    verify: bool,
    /// Echoes that are still to come, on all connections.
    awaited: usize,
    sample: Sample,
}

impl Idle {
    pub fn new(setup: &Setup, messages: usize, verify: bool) -> io::Result<Idle> {
        let watch = Watch { tape: setup.tape.clone(), verify, awaited: 0, sample: Sample::new() };
        Ok(Idle { fleet: setup.fleet()?, crowd: setup.crowd, messages, watch })
    }

    /// The messages, and their echoes.
    fn talk(&mut self) -> io::Result<()> {
        let tokens: Vec<usize> = self.fleet.iter().map(|connection| connection.token).collect();
        let messages = std::mem::take(&mut self.messages);
        for &token in &tokens {
            if let Some(connection) = self.fleet.get(token) {
                connection.owe(messages);
                connection.data.left = messages;
                self.watch.awaited += messages;
            }
        }
        self.fleet.flush(&mut self.watch);
        drain(&mut self.fleet, &mut self.watch, |watch| watch.awaited == 0)?;
        // What is late is counted here, and no longer awaited.
        for token in tokens {
            let left = self
                .fleet
                .get(token)
                .map_or(0, |connection| std::mem::take(&mut connection.data.left));
            self.watch.give_up(left);
        }
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
            if let Err(error) =
                watch.turn(&mut self.fleet, &mut self.watch, now, Nanos::MAX, shared)
            {
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

    /// The answer to our Close frame shows that a connection that said nothing was really there.
    fn close(&mut self) -> Sample {
        close_all(&mut self.fleet, |_, _| None)
    }
}

impl Watch {
    /// These echoes never came, or too late.
    fn give_up(&mut self, echoes: usize) {
        self.awaited -= echoes;
        self.sample.fault(Fault::Unanswered, echoes as u64);
    }
}

impl Measuring for Watch {
    fn sample(&mut self) -> &mut Sample {
        &mut self.sample
    }
}

impl Listener for Watch {
    type Data = Talk;

    fn opened(&mut self, _: &mut Connection<Talk>, _: Nanos) {}

    fn message(&mut self, connection: &mut Connection<Talk>, payload: Payload<'_>, _: Nanos) {
        let talk = &mut connection.data;
        if talk.left == 0 {
            *self.sample.counts.entry(Count::Foreign).or_default() += 1;
            return;
        }
        *self.sample.counts.entry(Count::Messages).or_default() += 1;
        check_echo(&self.tape, talk.expected, payload, self.verify, &mut self.sample);
        talk.expected = self.tape.next(talk.expected);
        talk.left -= 1;
        self.awaited -= 1;
    }

    fn gone(&mut self, _: usize, talk: Talk, end: End, _: Nanos) {
        self.give_up(talk.left);
        self.sample.ended(end);
    }
}
