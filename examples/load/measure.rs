//! From what was asked for to what was measured: the phases of a run, in order.

use crate::args::{Options, ScenarioName};
use crate::client::{Failure, Tape, Target, TargetError};
use crate::clock::{self, Nanos, nanos};
use crate::compare::{Comparison, Figures};
use crate::crew::{Crew, Lanes, WorkerLost};
use crate::process::Process;
use crate::progress::Progress;
use crate::report::{Measured, Report, ServerTime};
use crate::sample::Sample;
use crate::scenario::{Broadcast, Crowd, Echo, Scenario, Setup, Shared, Slice};
use std::io;
use std::sync::Arc;

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
}

/// Everything that a run needs.
struct Run<'o> {
    options: &'o Options,
    servers: Vec<Server>,
    crew: Crew,
    progress: Progress,
}

pub fn measure(options: &Options, shared: Arc<Shared>) -> Result<Report, MeasureError> {
    let progress = Progress::new();
    let servers = find_servers(options)?;
    let lanes = (0..options.threads).map(|thread| lanes(options, &servers, thread)).collect::<io::Result<_>>()?;
    let tick = progress.ticker();
    let crew = Crew::new(lanes, shared, tick);
    let mut run = Run { options, servers, crew, progress };
    run.open()?;
    let report = match options.against {
        Some(_) => run.compare(),
        None => run.one_server(),
    };
    run.progress.end();
    run.crew.close()?;
    report
}

fn find_servers(options: &Options) -> Result<Vec<Server>, MeasureError> {
    let mut servers = Vec::new();
    let wanted = [(Some(&options.url), options.pid), (options.against.as_ref(), options.against_pid)];
    for (url, pid) in wanted {
        let Some(url) = url else { continue };
        let process = pid.map(Process::find).transpose().map_err(MeasureError::Process)?;
        let name = match (&options.against, servers.len()) {
            (None, _) => url.to_string(),
            (Some(_), 0) => format!("A  {url}"),
            (Some(_), _) => format!("B  {url}"),
        };
        servers.push(Server { name, target: Target::find(url.clone(), options.allow_remote)?, process });
    }
    Ok(servers)
}

/// One thread's scenarios, with its share of the connections to each server.
fn lanes(options: &Options, servers: &[Server], thread: usize) -> io::Result<Lanes> {
    let threads = options.threads;
    let connections = options.connections / threads + usize::from(thread < options.connections % threads);
    let ramp_up = options.ramp_up.map(|rate| rate / threads as f64);
    let in_flight = options.in_flight.unwrap_or(if options.rate.is_some() { usize::MAX } else { 1 });
    let tape = Arc::new(Tape::new(&options.shape, in_flight));
    let lane = |server: &Server| -> io::Result<Box<dyn Scenario>> {
        let setup = Setup {
            target: server.target.clone(),
            upgrade: options.upgrade.clone(),
            shape: options.shape.clone(),
            tape: tape.clone(),
            crowd: Crowd { connections, ramp_up },
        };
        Ok(match options.scenario {
            ScenarioName::Echo | ScenarioName::Search => Box::new(Echo::new(&setup, in_flight, options.verify)?),
            ScenarioName::Broadcast | ScenarioName::SlowReader => {
                let has_slow_reader = options.scenario == ScenarioName::SlowReader;
                Box::new(Broadcast::new(&setup, options.publishers, options.at_once, options.verify, has_slow_reader)?)
            }
            _ => return Err(io::Error::other("this scenario is not there yet")),
        })
    };
    servers.iter().map(lane).collect()
}

impl Run<'_> {
    fn open(&mut self) -> Result<(), MeasureError> {
        self.progress.phase("connecting", None);
        let opened = self.crew.open()?;
        opened.map_err(|failure| MeasureError::Connect("could not set up the connections".to_owned(), failure))?;
        if self.crew.shared.is_interrupted() { Err(MeasureError::Interrupted) } else { Ok(()) }
    }

    /// Traffic to one server, and what its process did meanwhile.
    fn slice(&mut self, server: usize, slice: Slice) -> Result<(Sample, Option<ServerTime>), MeasureError> {
        let process = self.servers[server].process;
        let cpu = || process.and_then(Process::cpu);
        let (begin, cpu_before) = (clock::now(), cpu());
        let sample = self.crew.run(server, slice)?;
        let time = cpu_before.zip(cpu()).map(|(before, after)| ServerTime {
            cpu: after.saturating_sub(before),
            wall: clock::now() - begin,
            resident: process.and_then(Process::resident).unwrap_or_default(),
        });
        Ok((sample, time))
    }

    /// A slice of the scenario as it was asked for.
    fn plain(&self, length: Nanos) -> Slice {
        let rate = self.options.rate.map(|rate| rate / self.crew.threads() as f64);
        Slice { length, rate, stalled: false }
    }

    fn warm_up(&mut self) -> Result<(), MeasureError> {
        self.progress.phase("warming up", None);
        for server in 0..self.servers.len() {
            if !self.options.warm_up.is_zero() {
                self.slice(server, self.plain(nanos(self.options.warm_up)))?;
            }
        }
        Ok(())
    }

    fn one_server(&mut self) -> Result<Report, MeasureError> {
        self.warm_up()?;
        self.progress.phase("measuring", Some(self.options.duration));
        let (sample, time) = self.slice(0, self.plain(nanos(self.options.duration)))?;
        let mut report = self.report();
        report.measured.push(self.measured(0, &sample, time));
        Ok(report)
    }

    /// A B, B A, A B, …: a change of the machine's speed hits both alike.
    fn compare(&mut self) -> Result<Report, MeasureError> {
        self.warm_up()?;
        self.progress.phase("comparing", Some(self.options.slice * self.options.slices as u32));
        let slice = self.plain(nanos(self.options.slice));
        let mut pairs = Vec::new();
        let mut sums: [Option<(Sample, Option<ServerTime>)>; 2] = [None, None];
        for pair in 0..self.options.slices / 2 {
            let mut figures = [None, None];
            for server in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                let (sample, time) = self.slice(server, slice)?;
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
                break; // The pair that was cut short tells nothing.
            }
            let [Some(a), Some(b)] = figures else { break };
            pairs.push((a, b));
        }
        let mut report = self.report();
        for (server, sum) in sums.iter().enumerate() {
            if let Some((sample, time)) = sum {
                report.measured.push(self.measured(server, sample, *time));
            }
        }
        report.comparison = Some(Comparison::new(&pairs, self.options.at_most));
        Ok(report)
    }

    fn measured(&self, server: usize, sample: &Sample, time: Option<ServerTime>) -> Measured {
        let distribution = match self.options.scenario {
            ScenarioName::Connect => "handshake",
            ScenarioName::Churn => "connect to close",
            _ => "latency",
        };
        Measured::new(self.servers[server].name.clone(), distribution, sample, time)
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
        if !matches!(scenario, ScenarioName::Idle | ScenarioName::Connect) {
            settings.push(("messages", format!("{size} {kind}")));
        }
        settings.push(match options.against {
            Some(_) => ("slices", format!("{} slices of {:?}", options.slices, options.slice)),
            None => ("duration", format!("{:?}", options.duration)),
        });
        if options.threads > 1 {
            settings.push(("threads", plural(options.threads, "thread")));
        }
        Report {
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
            facts: Vec::new(),
            remarks: Vec::new(),
            was_interrupted: self.crew.shared.is_interrupted(),
        }
    }
}
