//! From what was asked for to what was measured: the phases of a run, in order.

use crate::args::{Options, ScenarioName};
use crate::client::{Failure, Tape, Target, TargetError, Upgrade};
use crate::clock::{self, Nanos, nanos};
use crate::compare::{Comparison, Figures};
use crate::conditions::Conditions;
use crate::crew::{Crew, Lanes, WorkerLost};
use crate::latency::MIN_FOR_P99;
use crate::process::Process;
use crate::progress::Progress;
use crate::report::{BUSY, Fact, Measured, OverTime, Report, ServerTime, Step, Unit, Verdict};
use crate::sample::{Extra, Fault, Sample};
use crate::scenario::{Broadcast, Churn, Crowd, Echo, Idle, Scenario, Setup, Shared, Slice};
use crate::search::Search;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A process gives memory back a moment after it has closed its sockets, if at all.
const MEMORY_SETTLES: Duration = Duration::from_millis(300);
/// Traffic before each slice of a comparison that is not measured. TCP acknowledges the first 16
/// segments after a pause one by one, which the server pays for: a server that had just been silent
/// looked up to 7 % slower than one that had not.
const LEAD_IN: Duration = Duration::from_millis(50);
/// What `search` tries first, in messages per second.
const FIRST_RATE: f64 = 1000.0;
/// How much shorter the traffic of a slice may be than it was to be, as a part of it.
const CUT_SHORT: f64 = 0.99;
/// A server that finishes less than this part of what it is sent within the time does not keep up.
const KEPT_UP: f64 = 0.95;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0}: {1}")]
    Connect(String, Failure),
    #[error("{0}")]
    Process(String),
    #[error("cannot set up: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerLost),
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// A server, and its process if that is known.
struct Server {
    name: String,
    target: Target,
    process: Option<Process>,
    /// What went wrong outside of what was measured: in the warm-up, and when all was closed.
    outside: Sample,
    /// What there is to say about it before anything is measured.
    remarks: Vec<String>,
}

/// Everything that a run needs.
struct Run<'o> {
    options: &'o Options,
    servers: Vec<Server>,
    crew: Crew,
    progress: Progress,
    begin: SystemTime,
    is_closed: bool,
}

pub fn measure(options: &Options, shared: Arc<Shared>) -> Result<Report, MeasureError> {
    let progress = Progress::new();
    let servers = find_servers(options)?;
    let lanes = (0..options.threads)
        .map(|thread| lanes(options, &servers, thread))
        .collect::<io::Result<_>>()?;
    let tick = progress.ticker();
    let crew = Crew::new(lanes, shared, tick);
    let begin = SystemTime::now();
    let mut run = Run { options, servers, crew, progress, begin, is_closed: false };
    let mut report = match options.scenario {
        ScenarioName::Idle => run.idle(),
        ScenarioName::SlowReader => run.slow_reader(),
        ScenarioName::Search => run.search(),
        _ if options.against.is_some() => run.compare(),
        _ => run.one_server(),
    };
    if let Ok(report) = &mut report {
        run.close()?;
        run.hand_over(report);
    }
    run.progress.end();
    run.crew.dismiss()?;
    report
}

fn find_servers(options: &Options) -> Result<Vec<Server>, MeasureError> {
    let mut servers = Vec::new();
    let wanted =
        [(Some(&options.url), options.pid), (options.against.as_ref(), options.against_pid)];
    for (url, pid) in wanted {
        let Some(url) = url else { continue };
        let process = pid.map(Process::find).transpose().map_err(MeasureError::Process)?;
        let name = match (&options.against, servers.len()) {
            (None, _) => url.to_string(),
            (Some(_), 0) => format!("A  {url}"),
            (Some(_), _) => format!("B  {url}"),
        };
        let target =
            Target::find(url.clone(), options.allow_remote, &options.trust, options.resume)?;
        let port = target.address.port();
        let sockets = process.and_then(|process| process.sockets(port));
        let mut remarks = Vec::new();
        if sockets.is_some_and(|sockets| !sockets.is_listening) {
            remarks.push(format!(
                "process {} does not listen on port {port}: if it is not the server, its figures \
                 mean nothing",
                pid.unwrap_or_default()
            ));
        }
        if let (ScenarioName::Idle, Some(connections @ 1..)) =
            (options.scenario, sockets.map(|sockets| sockets.connections))
        {
            let plural = if connections == 1 { "" } else { "s" };
            remarks.push(format!(
                "the server already had {connections} other connection{plural}: their memory is \
                 in the figures before, during and after, and what it frees of theirs hides the \
                 memory of new ones. Start the server anew"
            ));
        }
        servers.push(Server { name, target, process, outside: Sample::new(), remarks });
    }
    Ok(servers)
}

/// One thread's scenarios, with its share of the connections to each server.
fn lanes(options: &Options, servers: &[Server], thread: usize) -> io::Result<Lanes> {
    let threads = options.threads;
    let connections =
        options.connections / threads + usize::from(thread < options.connections % threads);
    let ramp_up = options.ramp_up.map(|rate| rate / threads as f64);
    let is_open_loop = options.rate.is_some() || options.scenario == ScenarioName::Search;
    let in_flight = options.in_flight.unwrap_or(if is_open_loop { usize::MAX } else { 1 });
    let tape = |deflate| Arc::new(Tape::new(&options.shape, in_flight, deflate));
    let usual = tape(options.upgrade.deflate);
    let lane = |(index, server): (usize, &Server)| -> io::Result<Box<dyn Scenario>> {
        let is_plain = options.against_plain && index == 1;
        let setup = Setup {
            target: server.target.clone(),
            upgrade: Upgrade {
                deflate: options.upgrade.deflate && !is_plain,
                ..options.upgrade.clone()
            },
            shape: options.shape.clone(),
            tape: if is_plain { tape(false) } else { usual.clone() },
            crowd: Crowd { connections, ramp_up },
        };
        Ok(match options.scenario {
            ScenarioName::Echo | ScenarioName::Search => {
                Box::new(Echo::new(&setup, in_flight, options.verify)?)
            }
            ScenarioName::Broadcast | ScenarioName::SlowReader => {
                let has_slow_reader = options.scenario == ScenarioName::SlowReader;
                Box::new(Broadcast::new(
                    &setup,
                    options.publishers,
                    options.at_once,
                    options.verify,
                    has_slow_reader,
                )?)
            }
            ScenarioName::Connect => Box::new(Churn::new(&setup, 0, options.verify)?),
            ScenarioName::Churn => Box::new(Churn::new(&setup, options.messages, options.verify)?),
            ScenarioName::Idle => Box::new(Idle::new(&setup, options.messages, options.verify)?),
        })
    };
    servers.iter().enumerate().map(lane).collect()
}

/// The lowest rate, in messages per second, at which a step has enough messages for its 99th
/// percentile.
pub fn lowest_rate(step: Duration) -> f64 {
    MIN_FOR_P99 as f64 / step.as_secs_f64()
}

/// Whether a rate may have failed because of this tool: it was late, or had no time for more,
/// being at work or kept from a core. A server that is known to fill its core is at its own limit.
fn is_limited_by_tool(sample: &Sample, server: Option<ServerTime>, limit: Nanos) -> bool {
    let lag = sample.extras.get(&Extra::Lag).map_or(0, |lag| lag.percentile(99.0));
    let server_is_full = server.is_some_and(|server| server.cores() >= BUSY);
    let has_no_time = sample.tool.busy() + sample.tool.waited() >= BUSY;
    lag * 2 > limit || (has_no_time && !server_is_full)
}

impl Run<'_> {
    fn open(&mut self) -> Result<(), MeasureError> {
        self.progress.phase("connecting", None);
        let opened = self.crew.open()?;
        opened.map_err(|failure| {
            MeasureError::Connect("could not set up the connections".to_owned(), failure)
        })?;
        if self.crew.shared.is_interrupted() { Err(MeasureError::Interrupted) } else { Ok(()) }
    }

    /// Traffic to one server, and what its process did meanwhile.
    fn slice(
        &mut self,
        server: usize,
        slice: Slice,
    ) -> Result<(Sample, Option<ServerTime>), MeasureError> {
        let process = self.servers[server].process;
        let cpu = || process.and_then(Process::cpu);
        let (begin, cpu_before) = (clock::now(), cpu());
        let mut sample = self.crew.run(server, slice)?;
        let is_short = (sample.elapsed as f64) < slice.length as f64 * CUT_SHORT;
        if is_short && self.options.against.is_none() && !self.crew.shared.is_interrupted() {
            sample.remarks.push(format!(
                "the traffic ended after {:.3} of {:.3} s",
                clock::seconds(sample.elapsed),
                clock::seconds(slice.length)
            ));
        }
        let time = cpu_before.zip(cpu()).map(|(before, after)| ServerTime {
            cpu: after.saturating_sub(before),
            wall: clock::now() - begin,
            resident: process.and_then(Process::resident).unwrap_or_default(),
        });
        Ok((sample, time))
    }

    /// A slice with figures for the report. It is an error if there are none.
    fn measurement(
        &mut self,
        server: usize,
        slice: Slice,
    ) -> Result<(Sample, Option<ServerTime>), MeasureError> {
        let (mut sample, time) = self.slice(server, slice)?;
        let is_empty = match self.options.scenario {
            ScenarioName::Idle => sample.finished == 0,
            _ => sample.latency.is_empty(),
        };
        if is_empty && !self.crew.shared.is_interrupted() {
            sample.fault(Fault::NoSample, 1);
        }
        Ok((sample, time))
    }

    /// Traffic that is not measured; what goes wrong counts nevertheless.
    fn lead(&mut self, when: &str, server: usize, slice: Slice) -> Result<(), MeasureError> {
        let sample = self.crew.run(server, slice)?;
        self.servers[server].outside.blame(when, &sample);
        Ok(())
    }

    /// After an interrupt before the first figure there is nothing to report but faults.
    fn check_interrupt(&self, sample: &Sample) -> Result<(), MeasureError> {
        let is_clean =
            sample.is_clean() && self.servers.iter().all(|server| server.outside.is_clean());
        let has_nothing = sample.latency.is_empty() && sample.finished == 0 && is_clean;
        if has_nothing && self.crew.shared.is_interrupted() {
            Err(MeasureError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Closes all connections. What goes wrong with that counts too.
    fn close(&mut self) -> Result<(), MeasureError> {
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        self.progress.phase("closing", None);
        for (server, sample) in self.servers.iter_mut().zip(self.crew.close()?) {
            server.outside.blame("at the end", &sample);
        }
        Ok(())
    }

    /// Puts what went wrong outside of the measurements into the report.
    fn hand_over(&mut self, report: &mut Report) {
        for (index, server) in self.servers.iter().enumerate() {
            report.add_faults(index, &server.name, server.outside.wrongs().collect());
        }
    }

    /// A slice of the scenario as it was asked for.
    fn plain(&self, length: Nanos) -> Slice {
        let rate = self.options.rate.map(|rate| rate / self.crew.threads() as f64);
        Slice { length, rate, stalled: false, spins: self.options.spin }
    }

    fn warm_up(&mut self) -> Result<(), MeasureError> {
        self.progress.phase("warming up", None);
        for server in 0..self.servers.len() {
            if !self.options.warm_up.is_zero() {
                self.lead("warm-up", server, self.plain(nanos(self.options.warm_up)))?;
            }
        }
        self.check_interrupt(&Sample::new())
    }

    fn one_server(&mut self) -> Result<Report, MeasureError> {
        self.open()?;
        self.warm_up()?;
        self.progress.phase("measuring", Some(self.options.duration));
        let (sample, time) = self.measurement(0, self.plain(nanos(self.options.duration)))?;
        self.check_interrupt(&sample)?;
        let mut report = self.report();
        report.measured.push(self.measured(0, &sample, time));
        Ok(report)
    }

    /// A B, B A, A B, …: a change of the machine's speed hits both alike.
    fn compare(&mut self) -> Result<Report, MeasureError> {
        self.open()?;
        self.warm_up()?;
        self.progress
            .phase("comparing", Some((self.options.slice + LEAD_IN) * self.options.slices as u32));
        let slice = self.plain(nanos(self.options.slice));
        let lead_in = self.plain(nanos(LEAD_IN));
        let mut pairs = Vec::new();
        let mut sums: [Option<(Sample, Option<ServerTime>)>; 2] = [None, None];
        for pair in 0..self.options.slices / 2 {
            let mut figures = [None, None];
            for server in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                self.lead("before a slice", server, lead_in)?;
                let (sample, time) = self.measurement(server, slice)?;
                figures[server] = Some(Figures::of(&sample, time.map(|time| time.cpu)));
                match &mut sums[server] {
                    Some((sum, sum_of_time)) => {
                        sum.merge_later(&sample);
                        *sum_of_time = sum_of_time.zip(time).map(|(sum, time)| sum.and(time));
                    }
                    none => *none = Some((sample, time)),
                }
            }
            if self.crew.shared.is_interrupted() {
                break; // The pair that was cut short has no ratio.
            }
            let [Some(a), Some(b)] = figures else { break };
            pairs.push((a, b));
        }
        if pairs.is_empty() {
            sums.iter().flatten().try_for_each(|(sample, _)| self.check_interrupt(sample))?;
        }
        let mut report = self.report();
        for (server, sum) in sums.iter().enumerate() {
            if let Some((sample, time)) = sum {
                let rates = pairs.iter().map(|(a, b)| [a, b][server].per_second).collect();
                let over_time = OverTime { step: slice.length, rates };
                report
                    .measured
                    .push(Measured { over_time, ..self.measured(server, sample, *time) });
            }
        }
        let few = |figures: &Figures| (1..MIN_FOR_P99).contains(&figures.samples);
        if pairs.iter().any(|(a, b)| few(a) || few(b)) {
            report.remarks.push(format!(
                "p99 is not compared: a slice had fewer than {MIN_FOR_P99} samples. Use a longer \
                 --slice"
            ));
        }
        let limits_cpu = self.options.pid.is_some() && self.options.against_pid.is_some();
        report.comparison = Some(Comparison::new(&pairs, self.options.at_most, limits_cpu));
        Ok(report)
    }

    /// Holds connections, and looks at the server's memory before, meanwhile, and after.
    fn idle(&mut self) -> Result<Report, MeasureError> {
        let process = self.servers[0].process;
        let resident = || process.and_then(Process::resident).map(|bytes| bytes as f64);
        let before = resident();
        let begin = clock::now();
        self.open()?;
        let set_up = clock::now() - begin;
        self.progress.phase("holding", Some(self.options.duration));
        let (sample, time) = self.measurement(0, self.plain(nanos(self.options.duration)))?;
        let with = resident();
        self.close()?;
        std::thread::sleep(MEMORY_SETTLES);

        let mut report = self.report();
        let held = sample.finished as f64;
        let mut fact =
            |key, label, value, unit| report.facts.push(Fact { key, label, value, unit });
        fact("held", "connections held", held, Unit::Count);
        fact("set_up_ns", "set up within", set_up as f64, Unit::Nanos);
        if let (Some(before), Some(with), Some(after)) = (before, with, resident()) {
            fact("server_bytes_before", "server memory before", before, Unit::Bytes);
            fact("server_bytes_with", "server memory during", with, Unit::Bytes);
            fact("server_bytes_after", "server memory after", after, Unit::Bytes);
            if held > 0.0 {
                fact(
                    "server_bytes_per_connection",
                    "for each connection",
                    (with - before) / held,
                    Unit::Bytes,
                );
            }
            if with <= before {
                report.remarks.push(
                    "the server's memory did not grow: it had enough from before, so the figure \
                     for each connection says nothing"
                        .to_owned(),
                );
            }
            report.remarks.push(
                "memory is that of the process; the kernel's for each socket is not in it"
                    .to_owned(),
            );
        } else {
            report.remarks.push("with --pid you would see the server's memory".to_owned());
        }
        report.measured.push(self.measured(0, &sample, time));
        Ok(report)
    }

    /// A broadcast without the slow reader, with it, and without it again: how much the first and
    /// the last differ is noise.
    fn slow_reader(&mut self) -> Result<Report, MeasureError> {
        self.open()?;
        self.warm_up()?;
        self.progress.phase("measuring", Some(self.options.duration));
        let length = nanos(self.options.duration) / 3;
        let mut report = self.report();
        let mut latencies = Vec::new();
        for (name, stalled) in [
            ("without a slow reader", false),
            ("with one that has stopped", true),
            ("without it again", false),
        ] {
            let (sample, time) = self.measurement(0, Slice { stalled, ..self.plain(length) })?;
            if report.measured.is_empty() {
                self.check_interrupt(&sample)?;
            }
            latencies.push(sample.latency.clone());
            let mut measured = self.measured(0, &sample, time);
            measured.name = name.to_owned();
            report.measured.push(measured);
        }
        if !latencies.iter().all(|latency| latency.knows(99.0)) {
            report.remarks.push(format!(
                "p99 is not compared: a phase had fewer than {MIN_FOR_P99} samples. Use a longer \
                 --duration"
            ));
        } else if let [without, with, again] =
            latencies.iter().map(|one| one.percentile(99.0) as f64).collect::<Vec<_>>()[..]
        {
            let mut fact = |key, label, value| {
                report.facts.push(Fact { key, label, value, unit: Unit::Times })
            };
            fact("p99_with_to_without", "p99, with / without", with / without.max(1.0));
            fact("p99_again_to_without", "p99, noise", again / without.max(1.0));
        }
        report.was_interrupted = self.crew.shared.is_interrupted();
        Ok(report)
    }

    /// The highest rate at which the 99th percentile stays under the limit.
    fn search(&mut self) -> Result<Report, MeasureError> {
        self.open()?;
        let limit = nanos(self.options.p99);
        let length = nanos(self.options.step);
        let threads = self.crew.threads() as f64;
        let lowest = lowest_rate(self.options.step);
        let mut search = Search::new(self.options.rate.unwrap_or(FIRST_RATE.max(lowest)), lowest);
        let (mut best, mut steps) = (None, Vec::new());
        // The last judgement that a rate is too high is the one that the result rests on.
        let mut tool_was_the_limit = false;
        while let Some(rate) = search.next() {
            self.progress.phase("searching", None);
            let (sample, time) =
                self.measurement(0, Slice { rate: Some(rate / threads), ..self.plain(length) })?;
            if self.crew.shared.is_interrupted() {
                if steps.is_empty() {
                    self.check_interrupt(&sample)?;
                }
                break;
            }
            let [p50, p99] = [50.0, 99.0].map(|percentile| sample.latency.percentile(percentile));
            let passed = p99 <= limit && sample.is_clean() && sample.rate() >= rate * KEPT_UP;
            let verdict = match passed {
                _ if sample.is_broken() => Verdict::Broken,
                _ if !sample.latency.knows(99.0) => Verdict::TooFew,
                true => Verdict::Passed,
                false if is_limited_by_tool(&sample, time, limit) => Verdict::ToolLimit,
                false => Verdict::Failed,
            };
            steps.push(Step {
                rate,
                achieved: sample.rate(),
                p50,
                p99,
                samples: sample.latency.count(),
                verdict,
            });
            if verdict == Verdict::Broken {
                self.servers[0].outside.blame(&format!("at {rate:.0} messages/s"), &sample);
                break;
            }
            let is_judged = search.tried(verdict.passed());
            if is_judged && !verdict.passed() {
                tool_was_the_limit = verdict == Verdict::ToolLimit;
            }
            if verdict.passed() {
                best = Some((sample, time));
            }
        }
        let mut report = self.report();
        let is_whole = !report.was_interrupted
            && steps.last().is_some_and(|step| step.verdict != Verdict::Broken);
        let has_found_no_limit = is_whole && steps.iter().all(|step| step.verdict.passed());
        report.steps = steps;
        report.has_failed = best.is_none();
        report.tool_was_the_limit = is_whole && (tool_was_the_limit || has_found_no_limit);
        let found =
            Fact { key: "highest_rate", label: "highest rate", value: 0.0, unit: Unit::PerSecond };
        match (search.best, best) {
            (Some(rate), Some((sample, time))) => {
                report.facts.push(Fact { value: rate, ..found });
                report.measured.push(self.measured(0, &sample, time));
            }
            _ if !is_whole => {}
            _ => report.remarks.push(format!(
                "no rate stayed under the limit. The lowest that steps of {:?} can judge, with \
                 {MIN_FOR_P99} messages, is {lowest:.0} messages/s",
                self.options.step
            )),
        }
        if has_found_no_limit {
            report.remarks.push("no rate failed: this is the highest that is tried".to_owned());
        } else if report.tool_was_the_limit {
            report.remarks.push(
                "THE SEARCH ENDED AT THIS TOOL, not at the server: it was late itself, at work \
                 all the time, or kept from a core. Give it a core of its own, or --threads"
                    .to_owned(),
            );
        } else if is_whole && !report.has_failed && !search.is_found() {
            report
                .remarks
                .push("the search ended before the highest rate was known to 5 %".to_owned());
        }
        if !is_whole && !report.was_interrupted {
            report
                .remarks
                .push("the search ended at the step in which the server was broken".to_owned());
        }
        Ok(report)
    }

    fn measured(&self, server: usize, sample: &Sample, time: Option<ServerTime>) -> Measured {
        let distribution = match self.options.scenario {
            ScenarioName::Connect => "connect to upgrade",
            ScenarioName::Churn => "connect to close",
            _ => "latency",
        };
        let mut measured =
            Measured::new(self.servers[server].name.clone(), distribution, sample, time);
        if let Some(tls) = &self.servers[server].target.tls {
            let [full, resumed] = tls.handshakes().map(|count| count as f64);
            let fact = |key, label, value| Fact { key, label, value, unit: Unit::Count };
            measured.facts.push(fact("tls_full_handshakes", "TLS handshakes, full", full));
            measured.facts.push(fact("tls_resumed_handshakes", "TLS handshakes, resumed", resumed));
            measured.remarks.push(format!(
                "{}. Handshakes are counted from the beginning of the run; what records add to \
                 the bytes is in no figure",
                tls.agreed().unwrap_or("TLS, with which no handshake was completed")
            ));
        }
        if self.options.upgrade.deflate && sample.bytes > 0 {
            let saved = Fact {
                key: "bytes_saved",
                label: "bytes saved",
                value: sample.saved(),
                unit: Unit::Share,
            };
            measured.facts.push(saved);
            let is_plain = self.options.against_plain && server == 1;
            if sample.compressed == 0 && !is_plain {
                measured.remarks.push(
                    "THE SERVER COMPRESSED NOTHING, though it took permessage-deflate: these \
                     figures are those of uncompressed messages"
                        .to_owned(),
                );
            }
        }
        measured
    }

    /// The report without its figures.
    fn report(&self) -> Report {
        let options = self.options;
        let scenario = options.scenario;
        let (low, high) = (options.shape.sizes.start(), options.shape.sizes.end());
        let size = if low == high { format!("{low} B") } else { format!("{low} to {high} B") };
        let kind = if options.shape.text { "text" } else { "binary" };
        let plural = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });

        let mut settings = vec![("connections", plural(options.connections, "connection"))];
        if scenario.is_broadcast() {
            settings.push(("publishers", plural(options.publishers, "publisher")));
            settings.push(("at_once", format!("{} at once", options.at_once)));
        }
        match (options.rate, options.in_flight) {
            (Some(rate), _) => settings.push(("rate", format!("{rate} messages/s (open loop)"))),
            (None, in_flight) if matches!(scenario, ScenarioName::Echo) => {
                settings.push(("in_flight", format!("{} in flight", in_flight.unwrap_or(1))));
            }
            _ => {}
        }
        if options.messages > 0 {
            settings.push(("messages_each", format!("{} messages each", options.messages)));
        }
        if scenario == ScenarioName::Search {
            settings.push(("p99", format!("p99 at most {:?}", options.p99)));
        }
        if options.messages > 0 || !matches!(scenario, ScenarioName::Idle | ScenarioName::Connect) {
            settings.push(("messages", format!("{size} {kind}")));
        }
        if options.upgrade.deflate {
            let scope = if options.against_plain { " (A only)" } else { "" };
            settings.push(("deflate", format!("compressed{scope}")));
        }
        settings.push(match options.against {
            Some(_) => ("slices", format!("{} slices of {:?}", options.slices, options.slice)),
            None if scenario == ScenarioName::Search => {
                ("step", format!("steps of {:?}", options.step))
            }
            None => ("duration", format!("{:?}", options.duration)),
        });
        if options.spin {
            settings.push(("spin", "spinning".to_owned()));
        }
        if options.threads > 1 {
            settings.push(("threads", plural(options.threads, "thread")));
        }
        Report {
            conditions: Conditions::new(self.begin, &options.command_line),
            scenario: scenario.as_str(),
            unit: match scenario {
                ScenarioName::Broadcast | ScenarioName::SlowReader => "deliveries",
                ScenarioName::Connect => "upgrades",
                ScenarioName::Churn => "connections",
                _ => "messages",
            },
            settings,
            measured: Vec::new(),
            comparison: None,
            steps: Vec::new(),
            facts: Vec::new(),
            has_failed: false,
            tool_was_the_limit: false,
            remarks: self
                .servers
                .iter()
                .flat_map(|server| server.remarks.iter().cloned())
                .collect(),
            was_interrupted: self.crew.shared.is_interrupted(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{MILLISECOND, SECOND};
    use crate::latency::Latency;
    use crate::process::ThreadTime;
    use crate::sample::ToolTime;

    /// A step with this lag of the tool, and these times on a core and kept from one.
    fn step(lag: Nanos, cpu: Nanos, waited: Nanos) -> Sample {
        let mut sample = Sample::new();
        let mut lags = Latency::new();
        lags.record(lag);
        sample.extras.insert(Extra::Lag, lags);
        sample.tool =
            ToolTime { threads: 1, wall: SECOND, time: ThreadTime { cpu, waited }, spun: 0 };
        sample
    }

    #[test]
    fn a_tool_that_is_late_or_has_no_time_is_the_limit() {
        let is_limit = |sample: &Sample, server| is_limited_by_tool(sample, server, MILLISECOND);
        let full = ServerTime { cpu: SECOND, wall: SECOND, resident: 0 };
        let half = ServerTime { cpu: SECOND / 2, ..full };
        let (idle, late) = (step(0, 0, 0), step(MILLISECOND, 0, 0));
        let (busy, starved) = (step(0, SECOND, 0), step(0, SECOND / 2, SECOND / 2));
        assert!(!is_limit(&idle, None));
        assert!(is_limit(&late, None) && is_limit(&late, Some(full)));
        for has_no_time in [&busy, &starved] {
            assert!(is_limit(has_no_time, None) && is_limit(has_no_time, Some(half)));
            assert!(!is_limit(has_no_time, Some(full)), "both are at their limit");
        }
    }

    #[test]
    fn a_step_at_the_lowest_rate_has_enough_messages() {
        for step in [10, 250, 1000, 60_000].map(Duration::from_millis) {
            assert!((lowest_rate(step) * step.as_secs_f64()).round() as u64 >= MIN_FOR_P99);
        }
    }
}
