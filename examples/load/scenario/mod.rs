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
use crate::sample::{Fault, Sample, ToolTime};
use ikisocket::protocol::Payload;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long what is in flight may take to come back when a slice is over.
pub const DRAIN: Nanos = 2 * SECOND;
/// How long the server may take to answer our Close frames at the end, counted from the last one
/// that it answered; and to answer all.
const CLOSE_PAUSE: Nanos = 2 * SECOND;
const CLOSE_TIMEOUT: Nanos = 30 * SECOND;
/// Upgrades in flight at the same time while connections are set up: fewer than any listen queue
/// holds.
const OPENING_AT_ONCE: usize = 64;
/// To look for events and find none takes no longer; if it did, the thread was kept from its core
/// meanwhile.
const LONGEST_LOOK: Nanos = 5 * MICROSECOND;
/// The longest wait, and so the longest time until Ctrl-C is noticed.
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
    /// Closes the connections. The result has no figures, only what went wrong since the last
    /// slice: nothing can follow a server's Close frame, so what came too often shows here.
    fn close(&mut self) -> Sample;
}

/// What every scenario is made from: the server, the upgrade, and the messages.
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

/// Listens while connections are set up. It ignores what is received then, such as a greeting.
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
fn drain<L: Listener>(
    fleet: &mut Fleet<L::Data>,
    listener: &mut L,
    is_done: impl Fn(&L) -> bool,
) -> io::Result<()> {
    let end = clock::now() + DRAIN;
    while !is_done(listener) && !fleet.is_empty() && clock::now() < end {
        fleet.turn(Duration::from_millis(10), listener)?;
    }
    Ok(())
}

/// Closes all connections, waits for the server to agree, and ends those that it does not close.
/// `judge` says what is wrong with a message that comes after that.
fn close_all<T>(
    fleet: &mut Fleet<T>,
    judge: impl FnMut(&mut Connection<T>, Payload<'_>) -> Option<Fault>,
) -> Sample {
    let mut closing = Closing { judge, sample: Sample::new(), data: std::marker::PhantomData };
    let closed = try_close_all(fleet, &mut closing);
    let mut sample = closing.sample;
    if let Err(error) = closed {
        sample.failure(&error);
    }
    sample.fault(Fault::Stuck, fleet.len() as u64);
    fleet.drop_all();
    sample
}

fn try_close_all<L: Listener>(fleet: &mut Fleet<L::Data>, closing: &mut L) -> io::Result<()> {
    // A connection that the server has ended already did not end because of our Close frame.
    for _ in 0..=fleet.len() / Fleet::<L::Data>::EVENTS {
        fleet.turn(Duration::ZERO, closing)?;
    }
    let tokens: Vec<usize> = fleet.iter().map(|connection| connection.token).collect();
    for token in tokens {
        if let Some(connection) = fleet.get(token) {
            connection.close();
        }
    }
    fleet.flush(closing);
    let begin = clock::now();
    let (mut last, mut open) = (begin, fleet.len());
    while !fleet.is_empty() {
        fleet.turn(Duration::from_millis(10), closing)?;
        let now = clock::now();
        if fleet.len() < open {
            (last, open) = (now, fleet.len());
        }
        if now - last >= CLOSE_PAUSE || now - begin >= CLOSE_TIMEOUT {
            break;
        }
    }
    Ok(())
}

/// Listens while connections are closed.
struct Closing<T, F> {
    judge: F,
    sample: Sample,
    data: std::marker::PhantomData<T>,
}

impl<T, F: FnMut(&mut Connection<T>, Payload<'_>) -> Option<Fault>> Listener for Closing<T, F> {
    type Data = T;
    fn opened(&mut self, _: &mut Connection<T>, _: Nanos) {}
    fn message(&mut self, connection: &mut Connection<T>, payload: Payload<'_>, _: Nanos) {
        if let Some(fault) = (self.judge)(connection, payload) {
            self.sample.fault(fault, 1);
        }
    }
    fn gone(&mut self, _: usize, _: T, end: End, _: Nanos) {
        self.sample.ended(end);
    }
}

/// Whether a message is the echo of this frame, compared as a whole or by its kind, its length and
/// its beginning.
fn check_echo(tape: &Tape, frame: usize, payload: Payload<'_>, whole: bool, sample: &mut Sample) {
    if !tape.is_its_kind(payload) {
        sample.fault(Fault::WrongKind, 1);
    }
    if !tape.is_payload(frame, payload.as_bytes(), whole) {
        sample.fault(Fault::WrongPayload, 1);
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

    /// One turn of the fleet, which begins at `now`, waits no longer than `at_most`, and is noted
    /// in the timeline.
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
