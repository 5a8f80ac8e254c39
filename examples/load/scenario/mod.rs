//! What the connections do. A scenario drives one fleet, on one thread, slice after slice.

mod broadcast;
mod churn;
mod echo;
mod idle;
mod stamp;

pub use broadcast::Broadcast;
pub use churn::Churn;
pub use echo::Echo;
pub use idle::Idle;
pub use stamp::STAMP_LEN;

use crate::client::{Connection, End, Failure, Fleet, Listener, Shape, Tape, Target, Upgrade};
use crate::clock::{self, MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::process::ThreadTime;
use crate::sample::{Sample, ToolTime};
use ikisocket::protocol::Payload;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long what is in flight may take to come back when a slice is over.
pub const DRAIN: Nanos = 2 * SECOND;
/// How long the server may take to answer our Close frames at the end.
const GOODBYE: Nanos = SECOND;
/// Upgrades under way at the same time while connections are set up: fewer than any listen queue holds.
const OPENING_AT_ONCE: usize = 64;
/// To look for events and find none takes no longer; if it did, the thread was kept from its core meanwhile.
const LONGEST_LOOK: Nanos = 5 * MICROSECOND;
/// The longest wait: so soon Ctrl-C is noticed.
const LONGEST_WAIT: Nanos = 50 * MILLISECOND;

/// A stretch of time with traffic.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub length: Nanos,
    /// Open loop: messages per second, of this thread.
    pub rate: Option<f64>,
    /// `slow-reader`: whether the slow one has stopped reading.
    pub stalled: bool,
    /// Never sleep.
    pub spins: bool,
}

/// What the threads share with the one that waits for them.
#[derive(Debug, Default)]
pub struct Shared {
    pub interrupted: Arc<AtomicBool>,
    /// Finished so far: for the progress display.
    pub finished: AtomicU64,
}

impl Shared {
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// One thread's share of the traffic to one server.
pub trait Scenario: Send {
    /// Sets up the connections.
    fn open(&mut self, shared: &Shared) -> Result<(), Failure>;
    /// Makes traffic for a while, and waits until what is in flight has come back.
    fn run(&mut self, slice: &Slice, shared: &Shared) -> Sample;
    /// Says goodbye.
    fn close(&mut self);
}

/// What every scenario is made from: whom to connect to, and with what to say.
#[derive(Clone)]
pub struct Setup {
    pub target: Target,
    pub upgrade: Upgrade,
    pub shape: Shape,
    pub tape: Arc<Tape>,
    pub crowd: Crowd,
}

impl Setup {
    fn fleet<T>(&self) -> io::Result<Fleet<T>> {
        Fleet::new(self.target.clone(), self.upgrade.clone(), self.tape.clone())
    }
}

/// Connections to set up.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub connections: usize,
    /// New connections per second; `None`: as fast as the server takes them.
    pub ramp_up: Option<f64>,
}

impl Crowd {
    /// Connects until all are there. The first one that fails is the result.
    fn open<T: Default>(&self, fleet: &mut Fleet<T>, shared: &Shared) -> Result<(), Failure> {
        let mut opening = Opening { failure: None, data: std::marker::PhantomData };
        let begin = clock::now();
        let mut begun = 0;
        while fleet.upgraded() < self.connections && !shared.is_interrupted() {
            let now = clock::now();
            let due = match self.ramp_up {
                Some(rate) => 1 + (clock::seconds(now - begin) * rate) as usize,
                None => usize::MAX,
            };
            while begun < self.connections.min(due).min(fleet.upgraded() + OPENING_AT_ONCE) {
                fleet.connect(T::default(), now)?;
                begun += 1;
            }
            fleet.turn(Duration::from_millis(1), &mut opening)?;
            fleet.expire(now, &mut opening);
            if let Some(failure) = opening.failure {
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// Listens while connections are set up: whatever is received then, such as a greeting, is of no interest.
struct Opening<T> {
    failure: Option<Failure>,
    data: std::marker::PhantomData<T>,
}

impl<T> Listener for Opening<T> {
    type Data = T;
    fn opened(&mut self, _: &mut Connection<T>, _: Nanos) {}
    fn message(&mut self, _: &mut Connection<T>, _: Payload<'_>, _: Nanos) {}
    fn gone(&mut self, _: usize, _: T, end: End, _: Nanos) {
        if let End::Failed(failure) = end {
            self.failure.get_or_insert(failure);
        }
    }
}

/// Waits until what is in flight has come back.
fn drain<L: Listener>(fleet: &mut Fleet<L::Data>, listener: &mut L, is_done: impl Fn(&L) -> bool) -> io::Result<()> {
    let end = clock::now() + DRAIN;
    while !is_done(listener) && !fleet.is_empty() && clock::now() < end {
        fleet.turn(Duration::from_millis(10), listener)?;
    }
    Ok(())
}

/// Closes all connections, and waits a moment for the server to agree.
fn close_all<T>(fleet: &mut Fleet<T>) {
    let tokens: Vec<usize> = fleet.iter().map(|connection| connection.token).collect();
    for token in tokens {
        if let Some(connection) = fleet.get(token) {
            connection.close();
        }
    }
    let mut listener = Opening { failure: None, data: std::marker::PhantomData };
    fleet.flush(&mut listener);
    let end = clock::now() + GOODBYE;
    while !fleet.is_empty() && clock::now() < end {
        if fleet.turn(Duration::from_millis(10), &mut listener).is_err() {
            return;
        }
    }
}

/// A listener that counts.
trait Measuring {
    fn sample(&mut self) -> &mut Sample;
}

/// Time and CPU of a slice, as it goes.
struct Stopwatch {
    begin: Nanos,
    /// From then on nothing new is sent.
    deadline: Nanos,
    tool_at_begin: ThreadTime,
    spins: bool,
    spun: Nanos,
    /// Finished when it was last looked at.
    seen: u64,
}

impl Stopwatch {
    fn start(slice: &Slice) -> Stopwatch {
        let begin = clock::now();
        Stopwatch {
            begin,
            deadline: begin + slice.length,
            tool_at_begin: ThreadTime::of_this_thread(),
            spins: slice.spins,
            spun: 0,
            seen: 0,
        }
    }

    /// One turn of the fleet, which begins at `now`, waits no longer than `at_most`, and is noted in the timeline.
    fn turn<L: Listener + Measuring>(
        &mut self,
        fleet: &mut Fleet<L::Data>,
        listener: &mut L,
        now: Nanos,
        at_most: Nanos,
        shared: &Shared,
    ) -> io::Result<()> {
        let until_deadline = self.deadline.saturating_sub(now);
        let wait = if self.spins { 0 } else { at_most.min(until_deadline).min(LONGEST_WAIT) };
        let anything = fleet.turn(Duration::from_nanos(wait), listener)?;
        let after = clock::now();
        if wait == 0 && !anything {
            self.spun += (after - now).min(LONGEST_LOOK);
        }
        self.note(after, listener.sample(), shared);
        Ok(())
    }

    /// For the timeline and the progress display.
    fn note(&mut self, now: Nanos, sample: &mut Sample, shared: &Shared) {
        let finished = sample.finished_at_all;
        if finished > self.seen && now < self.deadline {
            sample.timeline.add(now - self.begin, finished - self.seen);
        }
        shared.finished.fetch_add(finished - self.seen, Ordering::Relaxed);
        self.seen = finished;
    }

    /// The traffic ends: at its deadline, or before if it was cut short.
    fn stop_traffic(&mut self, sample: &mut Sample) {
        self.deadline = self.deadline.min(clock::now());
        sample.elapsed = self.deadline - self.begin;
    }

    /// Everything has come back.
    fn finish(self, sample: &mut Sample) {
        sample.tool = ToolTime {
            threads: 1,
            wall: clock::now() - self.begin,
            time: ThreadTime::of_this_thread().since(self.tool_at_begin),
            spun: self.spun,
        };
    }
}
