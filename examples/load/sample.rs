//! What was measured in one slice of time: counts, distributions, faults, and how the tool itself
//! fared.

use crate::client::End;
use crate::clock::{MILLISECOND, Nanos, SECOND, seconds};
use crate::latency::Latency;
use crate::process::ThreadTime;
use std::collections::BTreeMap;

/// A distribution that some scenarios measure beside the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// Open loop: from when the message was handed to the socket, however late that was.
    Uncorrected,
    /// Open loop: how much later than intended the tool got to sending.
    Lag,
    /// Broadcast: from the first receiver to the last one.
    Skew,
    /// Broadcast: from sending to the last receiver.
    LastReceiver,
    /// Churn: from connect(2) to the upgrade.
    Handshake,
    /// Churn: from a message to its echo.
    RoundTrip,
}

/// How many of something there were beside the thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Messages that were sent to all connections.
    Broadcasts,
    /// Messages that came back within churn.
    Messages,
    /// Messages that this tool did not send: a greeting, or one of another client.
    Foreign,
}

/// What should not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Unanswered,
    Unexpected,
    WrongPayload,
    Lost,
    OutOfOrder,
    Duplicate,
    Stuck,
    Overloaded,
    /// Text came back as binary, or binary as text.
    WrongKind,
    /// The connection that was to stop reading ended before that.
    SlowReaderGone,
    /// A measurement without a single sample.
    NoSample,
}

impl Fault {
    /// Whether a server that is merely asked for too much shows it too.
    fn is_overload(self) -> bool {
        matches!(self, Fault::Unanswered | Fault::Overloaded)
    }
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The length of its payload, in bytes.
    pub payload: usize,
    /// What it took on the wire, in bytes.
    pub wire: usize,
    pub compressed: bool,
}

#[derive(Clone)]
pub struct Sample {
    /// How long there was traffic, without the time in which what was in flight came in.
    pub elapsed: Nanos,
    /// How many were finished in that time; of what, the scenario says.
    pub finished: u64,
    /// How many were finished at all: the server's CPU time was spent on these.
    pub finished_at_all: u64,
    /// Received payload in that time, in bytes.
    pub bytes: u64,
    /// What that took on the wire, frames and all.
    pub wire_bytes: u64,
    /// How many of the messages received in that time were compressed.
    pub compressed: u64,
    pub latency: Latency,
    pub extras: BTreeMap<Extra, Latency>,
    pub counts: BTreeMap<Count, u64>,
    pub faults: BTreeMap<Fault, u64>,
    /// Connections that ended and should not have, by reason.
    pub failures: BTreeMap<String, u64>,
    pub timeline: Timeline,
    pub tool: ToolTime,
    /// What else there is to say, in words.
    pub remarks: Vec<String>,
}

impl Sample {
    pub fn new() -> Sample {
        Sample {
            elapsed: 0,
            finished: 0,
            finished_at_all: 0,
            bytes: 0,
            wire_bytes: 0,
            compressed: 0,
            latency: Latency::new(),
            extras: BTreeMap::new(),
            counts: BTreeMap::new(),
            faults: BTreeMap::new(),
            failures: BTreeMap::new(),
            timeline: Timeline::default(),
            tool: ToolTime::default(),
            remarks: Vec::new(),
        }
    }

    /// Adds what another thread measured in the same time.
    pub fn merge_parallel(&mut self, other: &Sample) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.timeline.merge(&other.timeline);
        self.tool.threads += other.tool.threads;
        self.tool.wall = self.tool.wall.max(other.tool.wall);
        self.add(other);
    }

    /// Adds what was measured afterwards. The timeline stays that of the first.
    pub fn merge_later(&mut self, other: &Sample) {
        self.elapsed += other.elapsed;
        self.tool.threads = self.tool.threads.max(other.tool.threads);
        self.tool.wall += other.tool.wall;
        self.add(other);
    }

    fn add(&mut self, other: &Sample) {
        self.finished += other.finished;
        self.finished_at_all += other.finished_at_all;
        self.bytes += other.bytes;
        self.wire_bytes += other.wire_bytes;
        self.compressed += other.compressed;
        self.latency.merge(&other.latency);
        for (&extra, latency) in &other.extras {
            self.extras.entry(extra).or_insert_with(Latency::new).merge(latency);
        }
        add_all(&mut self.counts, &other.counts);
        add_all(&mut self.faults, &other.faults);
        add_all(&mut self.failures, &other.failures);
        self.tool.time.cpu += other.tool.time.cpu;
        self.tool.time.waited += other.tool.time.waited;
        self.tool.spun += other.tool.spun;
        self.remarks.extend_from_slice(&other.remarks);
    }

    pub fn fault(&mut self, fault: Fault, times: u64) {
        if times > 0 {
            *self.faults.entry(fault).or_default() += times;
        }
    }

    /// A connection ended: well, or by a failure.
    pub fn ended(&mut self, end: End) {
        if let End::Failed(failure) = end {
            self.failure(&failure);
        }
    }

    pub fn failure(&mut self, failure: &impl ToString) {
        *self.failures.entry(failure.to_string()).or_default() += 1;
    }

    /// Everything that went wrong, in words, and how often.
    pub fn wrongs(&self) -> impl Iterator<Item = (String, u64)> {
        let faults = self.faults.iter().map(|(fault, &times)| (fault.describe().to_owned(), times));
        faults.chain(self.failures.iter().map(|(failure, &times)| (failure.clone(), times)))
    }

    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.failures.is_empty()
    }

    /// Whether something went wrong that cannot be explained by too much load.
    pub fn is_broken(&self) -> bool {
        !self.failures.is_empty() || !self.faults.keys().all(|fault| fault.is_overload())
    }

    /// Counts here too what went wrong in `other`, and says `when` that was.
    pub fn blame(&mut self, when: &str, other: &Sample) {
        for (wrong, times) in other.wrongs() {
            *self.failures.entry(format!("{when}: {wrong}")).or_default() += times;
        }
    }

    /// Forgets all figures; what went wrong stays.
    pub fn keep_only_faults(&mut self) {
        let Sample { faults, failures, .. } = std::mem::replace(self, Sample::new());
        (self.faults, self.failures) = (faults, failures);
    }

    /// A message came in time.
    pub fn received(&mut self, received: Received) {
        self.bytes += received.payload as u64;
        self.wire_bytes += received.wire as u64;
        self.compressed += u64::from(received.compressed);
    }

    /// Finished per second.
    pub fn rate(&self) -> f64 {
        self.finished as f64 / seconds(self.elapsed).max(f64::MIN_POSITIVE)
    }

    /// Received payload, in bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / seconds(self.elapsed).max(f64::MIN_POSITIVE)
    }

    /// Received on the wire, in bytes per second.
    pub fn wire_bandwidth(&self) -> f64 {
        self.wire_bytes as f64 / seconds(self.elapsed).max(f64::MIN_POSITIVE)
    }

    /// How much shorter than the payload it was on the wire, as a part of it.
    pub fn saved(&self) -> f64 {
        1.0 - self.wire_bytes as f64 / self.bytes.max(1) as f64
    }
}

fn add_all<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key.clone()).or_default() += count;
    }
}

/// How the tool's own threads fared.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToolTime {
    pub threads: u32,
    /// From the first message to the last.
    pub wall: Nanos,
    /// CPU time of all its threads, and how long they were kept from it.
    pub time: ThreadTime,
    /// CPU time in which a thread only waited for the moment to send: sleeping is too coarse for
    /// that.
    pub spun: Nanos,
}

impl ToolTime {
    /// How much of its time a thread was at work, 0 to 1.
    pub fn busy(&self) -> f64 {
        self.share(self.time.cpu.saturating_sub(self.spun))
    }

    /// How much of its time a thread was ready to work, but had no core.
    pub fn waited(&self) -> f64 {
        self.share(self.time.waited)
    }

    fn share(&self, time: Nanos) -> f64 {
        time as f64 / (self.wall * u64::from(self.threads)).max(1) as f64
    }
}

/// How many were finished in each tenth of a second.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Vec<u64>);

impl Timeline {
    pub const BIN: Nanos = 100 * MILLISECOND;

    /// Adds what finished at this time after the beginning.
    pub fn add(&mut self, at: Nanos, finished: u64) {
        let bin = (at / Self::BIN) as usize;
        if self.0.len() <= bin {
            self.0.resize(bin + 1, 0);
        }
        self.0[bin] += finished;
    }

    /// Finished per second, bin after bin; a last one that lasted only a part of its time is left
    /// out.
    pub fn rates(&self, elapsed: Nanos) -> Vec<f64> {
        let whole = (elapsed / Self::BIN) as usize;
        let per_second = SECOND as f64 / Self::BIN as f64;
        let finished = |bin| self.0.get(bin).copied().unwrap_or(0);
        (0..whole).map(|bin| finished(bin) as f64 * per_second).collect()
    }

    fn merge(&mut self, other: &Timeline) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(finished: u64) -> Sample {
        let mut sample =
            Sample { elapsed: SECOND, finished, finished_at_all: finished, ..Sample::new() };
        sample.received(Received { payload: 100, wire: finished as usize, compressed: false });
        sample.fault(Fault::Lost, 1);
        sample.timeline.add(0, finished);
        sample
    }

    #[test]
    fn what_threads_did_at_the_same_time_adds_up_to_a_higher_rate() {
        let mut sum = sample(10);
        sum.merge_parallel(&sample(30));
        assert_eq!((sum.rate(), sum.faults[&Fault::Lost]), (40.0, 2));
        assert_eq!(sum.timeline.rates(SECOND)[..2], [400.0, 0.0]);
    }

    #[test]
    fn figures_that_are_forgotten_leave_their_faults() {
        let mut sample = sample(10);
        sample.failure(&"reset");
        sample.keep_only_faults();
        assert_eq!(
            (sample.finished, sample.faults[&Fault::Lost], sample.failures["reset"]),
            (0, 1, 1)
        );
        let mut later = Sample::new();
        later.blame("warm-up", &sample);
        assert_eq!(
            later.failures.keys().collect::<Vec<_>>(),
            ["warm-up: deliveries were lost", "warm-up: reset"]
        );
    }

    #[test]
    fn overload_is_no_proof_of_a_broken_server_but_a_lost_connection_is() {
        let mut sample = Sample::new();
        sample.fault(Fault::Unanswered, 9);
        sample.fault(Fault::Overloaded, 1);
        assert!(!sample.is_broken() && !sample.is_clean());
        sample.failure(&"reset");
        assert!(sample.is_broken());
    }

    #[test]
    fn what_came_afterwards_is_averaged() {
        let mut sum = sample(10);
        sum.merge_later(&sample(30));
        assert_eq!(sum.rate(), 20.0);
        assert_eq!(sum.saved(), 1.0 - (10.0 + 30.0) / 200.0);
    }
}
