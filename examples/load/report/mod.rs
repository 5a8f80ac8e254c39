//! What is reported when all is measured: the figures by name, once for all forms of report.

mod chart;
mod html;
mod json;
mod text;

pub use html::to_html;
pub use json::to_json;
pub use text::{grouped, to_text};

use crate::clock::Nanos;
use crate::compare::Comparison;
use crate::conditions::Conditions;
use crate::latency::Latency;
use crate::sample::{Count, Extra, Fault, Sample, Timeline};

/// A figure with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// For programs.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    pub value: f64,
    pub unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    PerSecond,
    Bytes,
    BytesPerSecond,
    Nanos,
    /// A part of a whole, 0 to 1.
    Share,
    Times,
}

/// A distribution with its name.
#[derive(Clone)]
pub struct Distribution {
    pub key: &'static str,
    pub label: &'static str,
    pub latency: Latency,
}

/// Finished per second, in one stretch of time after the other.
#[derive(Clone, Debug, Default)]
pub struct OverTime {
    pub step: Nanos,
    pub rates: Vec<f64>,
}

/// A rate that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub rate: f64,
    pub achieved: f64,
    pub p50: Nanos,
    pub p99: Nanos,
    /// How many messages came back.
    pub samples: u64,
    pub verdict: Verdict,
}

/// What a rate that was tried came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The server did not keep up.
    Failed,
    /// Too few messages for a 99th percentile.
    TooFew,
    /// It failed, but this tool was itself late, at work all the time, or kept from a core.
    ToolLimit,
    /// Something went wrong that is not explained by too much load.
    Broken,
}

impl Verdict {
    pub fn passed(self) -> bool {
        self == Verdict::Passed
    }

    pub fn describe(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::TooFew => "too few messages",
            Verdict::ToolLimit => "failed; this tool was the limit",
            Verdict::Broken => "broken",
        }
    }
}

/// What was measured of one server, or in one phase.
#[derive(Clone)]
pub struct Measured {
    pub name: String,
    pub facts: Vec<Fact>,
    /// The main one first.
    pub distributions: Vec<Distribution>,
    pub over_time: OverTime,
    /// What should not have happened, and how often.
    pub faults: Vec<(String, u64)>,
    /// What is to be known to read the figures right.
    pub remarks: Vec<String>,
}

pub struct Report {
    pub conditions: Conditions,
    pub scenario: &'static str,
    /// What is counted, such as "messages" or "deliveries".
    pub unit: &'static str,
    /// What was asked for, in words.
    pub settings: Vec<(&'static str, String)>,
    pub measured: Vec<Measured>,
    pub comparison: Option<Comparison>,
    /// `search`: what was tried, in that order.
    pub steps: Vec<Step>,
    /// What follows from all measurements together.
    pub facts: Vec<Fact>,
    pub remarks: Vec<String>,
    /// Something that was asked for was not reached.
    pub has_failed: bool,
    /// `search`: what ended it was this tool, not the server.
    pub tool_was_the_limit: bool,
    pub was_interrupted: bool,
}

/// What a run that measured something comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    /// Something was wrong, or what was asked for was not reached.
    DoesNotHold,
    /// What was asked for was not reached, or no further, because of this tool.
    ToolWasTheLimit,
}

impl Report {
    pub fn outcome(&self) -> Outcome {
        let is_clean = self.measured.iter().all(|measured| measured.faults.is_empty());
        if !is_clean || self.comparison.as_ref().is_some_and(Comparison::is_exceeded) {
            Outcome::DoesNotHold
        } else if self.tool_was_the_limit {
            Outcome::ToolWasTheLimit
        } else if self.has_failed {
            Outcome::DoesNotHold
        } else {
            Outcome::Holds
        }
    }

    /// Whether everything that exit status 0 promises holds.
    pub fn holds(&self) -> bool {
        self.outcome() == Outcome::Holds
    }

    /// Adds what went wrong with a server outside of what was measured.
    pub fn add_faults(&mut self, server: usize, name: &str, faults: Vec<(String, u64)>) {
        if faults.is_empty() {
            return;
        }
        let own =
            if self.comparison.is_some() { server } else { self.measured.len().saturating_sub(1) };
        match self.measured.get_mut(own) {
            Some(measured) => measured.faults.extend(faults),
            None => self.measured.push(Measured::without_figures(name.to_owned(), faults)),
        }
    }
}

/// What the server's process did meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTime {
    pub cpu: Nanos,
    /// Over how long.
    pub wall: Nanos,
    /// Resident memory afterwards, in bytes.
    pub resident: u64,
}

impl ServerTime {
    /// The part of a core that it used.
    pub fn cores(self) -> f64 {
        self.cpu as f64 / self.wall.max(1) as f64
    }

    /// This, and what it did later.
    pub fn and(self, later: ServerTime) -> ServerTime {
        ServerTime {
            cpu: self.cpu + later.cpu,
            wall: self.wall + later.wall,
            resident: later.resident,
        }
    }
}

impl Measured {
    /// Only what went wrong.
    fn without_figures(name: String, faults: Vec<(String, u64)>) -> Measured {
        let (facts, distributions, over_time) = (Vec::new(), Vec::new(), OverTime::default());
        Measured { name, facts, distributions, over_time, faults, remarks: Vec::new() }
    }

    /// All that a sample says; `distribution` names what its main one is.
    pub fn new(
        name: String,
        distribution: &'static str,
        sample: &Sample,
        server: Option<ServerTime>,
    ) -> Measured {
        let fact = |key, label, value, unit| Fact { key, label, value, unit };
        let mut facts = vec![
            fact("per_second", "throughput", sample.rate(), Unit::PerSecond),
            fact("finished", "finished", sample.finished as f64, Unit::Count),
        ];
        if sample.finished_at_all == 0 || sample.finished == 0 {
            facts.clear(); // Connections were only held, or all came too late for a throughput.
        }
        if sample.bytes > 0 {
            facts.push(fact(
                "bytes_per_second",
                "payload received",
                sample.bandwidth(),
                Unit::BytesPerSecond,
            ));
            facts.push(fact(
                "wire_bytes_per_second",
                "received on the wire",
                sample.wire_bandwidth(),
                Unit::BytesPerSecond,
            ));
        }
        for (&count, &times) in &sample.counts {
            let (key, label) = count.names();
            facts.push(fact(key, label, times as f64, Unit::Count));
        }
        if let Some(server) = server {
            if sample.finished_at_all > 0 && server.cpu > 0 {
                let each = server.cpu as f64 / sample.finished_at_all as f64;
                facts.push(fact("server_cpu_each_ns", "server CPU for each", each, Unit::Nanos));
            }
            facts.push(fact("server_cores", "server, cores in use", server.cores(), Unit::Times));
            facts.push(fact(
                "server_resident_bytes",
                "server memory",
                server.resident as f64,
                Unit::Bytes,
            ));
        }
        facts.push(fact("tool_busy", "this tool at work", sample.tool.busy(), Unit::Share));
        facts.push(fact("tool_waited", "tool kept from a core", sample.tool.waited(), Unit::Share));

        let mut distributions = Vec::new();
        if !sample.latency.is_empty() {
            distributions.push(Distribution {
                key: "latency",
                label: distribution,
                latency: sample.latency.clone(),
            });
        }
        for (&extra, latency) in sample.extras.iter().filter(|(_, latency)| !latency.is_empty()) {
            let (key, label) = extra.names();
            distributions.push(Distribution { key, label, latency: latency.clone() });
        }
        let mut measured = Measured {
            name,
            facts,
            distributions,
            over_time: OverTime {
                step: Timeline::BIN,
                rates: sample.timeline.rates(sample.elapsed),
            },
            faults: sample.wrongs().collect(),
            remarks: sample.remarks.clone(),
        };
        measured.remarks.extend(self_check(sample, server));
        measured
    }
}

/// What a part of the time is worth mentioning.
pub const BUSY: f64 = 0.9;
pub const KEPT_WAITING: f64 = 0.1;

/// Whether the figures are those of the server, or of this tool.
fn self_check(sample: &Sample, server: Option<ServerTime>) -> Vec<String> {
    let mut remarks = Vec::new();
    if sample.finished_at_all > 0 && sample.finished == 0 {
        remarks.push(
            "nothing came back in time: there is no throughput. Use a longer time".to_owned(),
        );
    }
    if sample.finished_at_all > 0 && server.is_some_and(|server| server.cpu == 0) {
        remarks.push(
            "the process of --pid used no CPU time: it is not the server, or the time \
             was too short"
                .to_owned(),
        );
    }
    let percent = |share: f64| (share * 100.0).round();
    let server_cores = server.map(ServerTime::cores);
    let (busy, waited) = (sample.tool.busy(), sample.tool.waited());
    if busy >= BUSY {
        remarks.push(match server_cores {
            Some(cores) if cores >= BUSY => format!(
                "both were at their limit: this tool at work for {} % of the time, the server's \
                 core for {} %",
                percent(busy),
                percent(cores)
            ),
            _ => format!(
                "THIS TOOL WAS THE BOTTLENECK (at work for {} % of the time): the server can do \
                 more. Use --threads",
                percent(busy)
            ),
        });
    }
    if waited >= KEPT_WAITING {
        remarks.push(format!(
            "this tool was kept from a core for {} % of the time: latencies contain that. Give it \
             a core of its own (taskset)",
            percent(waited)
        ));
    }
    if let Some(lag) = sample.extras.get(&Extra::Lag) {
        let (lag, latency) = (lag.percentile(99.0), sample.latency.percentile(99.0));
        if lag * 4 > latency {
            remarks.push(format!(
                "this tool was late: 1 % of the messages were sent {} or more after their time, \
                 which is in the latency",
                text::time(lag as f64)
            ));
        }
    }
    remarks
}

impl Count {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Count::Broadcasts => ("broadcasts", "broadcasts sent"),
            Count::Messages => ("messages", "messages"),
            Count::Foreign => ("foreign_messages", "messages of others"),
        }
    }
}

impl Extra {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Extra::Uncorrected => ("latency_uncorrected", "uncorrected"),
            Extra::Lag => ("scheduling_lag", "this tool's lag"),
            Extra::Skew => ("fan_out_skew", "first to last receiver"),
            Extra::LastReceiver => ("last_receiver", "to the last receiver"),
            Extra::Handshake => ("handshake", "handshake"),
            Extra::RoundTrip => ("round_trip", "message"),
        }
    }
}

impl Fault {
    pub fn describe(self) -> &'static str {
        match self {
            Fault::Unanswered => "messages were not answered",
            Fault::Unexpected => "messages came that were not expected",
            Fault::WrongPayload => "messages came back with another payload",
            Fault::Lost => "deliveries were lost",
            Fault::OutOfOrder => "deliveries came out of order",
            Fault::Duplicate => "deliveries came twice",
            Fault::Stuck => "connections were still not closed in the end",
            Fault::Overloaded => "times the server was so far behind that the run was ended early",
            Fault::WrongKind => "text messages came back as binary ones, or the other way round",
            Fault::SlowReaderGone => {
                "slow reader ended before it had stopped reading: it was not measured"
            }
            Fault::NoSample => "measurement without a single sample: nothing came back in its time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            conditions: Conditions::default(),
            scenario: "search",
            unit: "messages",
            settings: Vec::new(),
            measured: Vec::new(),
            comparison: None,
            steps: Vec::new(),
            facts: Vec::new(),
            remarks: Vec::new(),
            has_failed: false,
            tool_was_the_limit: false,
            was_interrupted: false,
        }
    }

    #[test]
    fn a_fault_of_the_server_weighs_more_than_the_limit_of_the_tool() {
        let mut report = report();
        assert_eq!(report.outcome(), Outcome::Holds);
        report.has_failed = true;
        assert_eq!(report.outcome(), Outcome::DoesNotHold);
        report.tool_was_the_limit = true;
        assert_eq!(report.outcome(), Outcome::ToolWasTheLimit);
        report.add_faults(0, "ws://a", vec![("lost".to_owned(), 1)]);
        assert_eq!(report.outcome(), Outcome::DoesNotHold);
    }

    #[test]
    fn a_figure_of_which_nothing_is_known_is_not_shown() {
        let mut sample = Sample::new();
        sample.latency.record(1000);
        sample.finished_at_all = 1;
        let idle = ServerTime { cpu: 0, wall: 1000, resident: 0 };
        let measured = Measured::new("ws://a".to_owned(), "latency", &sample, Some(idle));
        let has = |key| measured.facts.iter().any(|fact| fact.key == key);
        assert!(!has("per_second") && !has("finished") && !has("server_cpu_each_ns"));
        let remarks = measured.remarks.join("\n");
        assert!(
            remarks.contains("there is no throughput") && remarks.contains("used no CPU time"),
            "{remarks}"
        );
    }

    #[test]
    fn faults_outside_of_the_measurements_are_in_every_form_of_report() {
        let mut report = report();
        report.add_faults(0, "ws://a", Vec::new());
        assert!(report.measured.is_empty());
        report.add_faults(0, "ws://a", vec![("at the end: reset".to_owned(), 2)]);
        assert!(to_text(&report).contains("FAULT: 2 × at the end: reset"));
        assert!(to_html(&report).contains("at the end: reset"));
        assert_eq!(to_json(&report)["measured"][0]["faults"]["at the end: reset"], 2);
    }
}
