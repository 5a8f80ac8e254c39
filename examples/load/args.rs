//! The command line: what can be asked for, within which bounds.

use crate::client::{
    DEFLATE_IS_BUILT_IN, Shape, TLS_IS_BUILT_IN, TargetError, Trust, Upgrade, Url,
};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The bounds: a mistyped figure must not take the machine down, or run overnight.
const MAX_DURATION: Duration = Duration::from_secs(600);
const MAX_CONNECTIONS: usize = 100_000;
const MAX_IN_FLIGHT: usize = 10_000;
const MAX_SIZE: usize = 16 * 1024 * 1024;
const MAX_RATE: f64 = 10_000_000.0;
const MAX_THREADS: usize = 64;
/// Fewer pairs of slices allow no statement with 95 % confidence.
const MIN_SLICES: usize = 12;
const SHORTEST_SLICE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScenarioName {
    Echo,
    Broadcast,
    Idle,
    Connect,
    Churn,
    SlowReader,
    Search,
}

impl ScenarioName {
    pub const ALL: [ScenarioName; 7] = [
        ScenarioName::Echo,
        ScenarioName::Broadcast,
        ScenarioName::Idle,
        ScenarioName::Connect,
        ScenarioName::Churn,
        ScenarioName::SlowReader,
        ScenarioName::Search,
    ];

    fn find(name: &str) -> Option<ScenarioName> {
        ScenarioName::ALL.into_iter().find(|one| one.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ScenarioName::Echo => "echo",
            ScenarioName::Broadcast => "broadcast",
            ScenarioName::Idle => "idle",
            ScenarioName::Connect => "connect",
            ScenarioName::Churn => "churn",
            ScenarioName::SlowReader => "slow-reader",
            ScenarioName::Search => "search",
        }
    }

    fn default_connections(self) -> usize {
        match self {
            ScenarioName::Idle => 1000,
            ScenarioName::Connect | ScenarioName::Churn => 16,
            _ => 100,
        }
    }

    fn default_messages(self) -> usize {
        if self == ScenarioName::Churn { 10 } else { 0 }
    }

    /// In bytes.
    fn default_size(self) -> usize {
        if self.is_broadcast() { 64 } else { 20 }
    }

    /// One message concerns all connections, so they share a thread and its clock.
    pub fn is_broadcast(self) -> bool {
        matches!(self, ScenarioName::Broadcast | ScenarioName::SlowReader)
    }

    fn can_compare(self) -> bool {
        matches!(
            self,
            ScenarioName::Echo
                | ScenarioName::Broadcast
                | ScenarioName::Connect
                | ScenarioName::Churn
        )
    }

    /// Whether an option means something here.
    fn has(self, option: &str) -> bool {
        use ScenarioName::{Broadcast, Churn, Connect, Echo, Idle, Search, SlowReader};
        match option {
            "rate" | "in-flight" => matches!(self, Echo | Search),
            "publishers" | "at-once" => matches!(self, Broadcast | SlowReader),
            "messages" => matches!(self, Churn | Idle),
            "p99" | "step" => self == Search,
            "ramp-up" => !matches!(self, Connect | Churn),
            "threads" => !self.is_broadcast(),
            "verify" | "binary" | "text" | "size" => self != Connect,
            "duration" => self != Search,
            "warm-up" => !matches!(self, Search | Idle),
            "against" | "against-pid" | "against-plain" | "slices" | "slice" | "at-most" => {
                self.can_compare()
            }
            _ => true,
        }
    }

    /// The help for an option that has another meaning or default elsewhere.
    fn own_help(self, option: &str) -> Option<String> {
        use ScenarioName::{Churn, Echo, Idle, Search};
        Some(match (option, self) {
            ("connections", _) => format!("[{}]", self.default_connections()),
            ("in-flight", Echo) => {
                "messages in flight on each connection [1; with --rate: no limit]".to_owned()
            }
            ("in-flight", _) => "messages in flight on each connection [no limit]".to_owned(),
            ("rate", Search) => "the first rate to try, in messages per second [1000]".to_owned(),
            ("rate", _) => {
                "open loop: R messages per second over all connections, at their time".to_owned()
            }
            ("publishers", _) => "connections that send [1]".to_owned(),
            ("at-once", _) => "messages in flight at the same time [1]".to_owned(),
            ("messages", Churn) => "messages on each connection [10]".to_owned(),
            ("messages", Idle) => {
                "messages that each connection sends before it falls silent [0]".to_owned()
            }
            ("p99", _) => "the limit [1ms]".to_owned(),
            ("step", _) => {
                "how long each rate is tried, at least 100 messages long [1s]".to_owned()
            }
            ("size", _) => {
                format!("bytes, or random sizes from A to B; 16k = 16384 [{}]", self.default_size())
            }
            _ => return None,
        })
    }

    /// A command line that works with the echo example, behind the program's name.
    fn example(self) -> &'static str {
        match self {
            ScenarioName::Echo => "echo ws://127.0.0.1:9001/echo --rate 10000 --html e.html",
            ScenarioName::Broadcast => "broadcast ws://127.0.0.1:9001/bcast --publishers 5",
            ScenarioName::Idle => "idle ws://127.0.0.1:9001/echo --pid $(pgrep -nx echo)",
            ScenarioName::Connect => "connect ws://127.0.0.1:9001/echo --duration 5",
            ScenarioName::Churn => "churn ws://127.0.0.1:9001/echo --messages 3",
            ScenarioName::SlowReader => "slow-reader ws://127.0.0.1:9001/bcast --size 4k",
            ScenarioName::Search => "search ws://127.0.0.1:9001/echo --p99 2ms --step 0.5",
        }
    }

    /// What it measures, what it counts as wrong, and what to look at.
    fn about(self) -> &'static str {
        match self {
            ScenarioName::Echo => {
                "\
A message comes back to its sender. Closed loop: each echo releases the next message. With
--rate, open loop: messages are sent at their time, whether or not the server keeps up.
Wrong is: an echo that is missing 2 s after the end, that nothing was sent for, or that differs in
kind, length or its first 64 bytes (--verify: in any byte, and all messages differ)."
            }
            ScenarioName::Broadcast => {
                "\
What one connection sends goes to all, the sender included. When all have it, the next one is
sent. Wrong is: a delivery that is lost, comes twice, out of order, or with another length or kind
(--verify: with another byte). Messages that this run did not send are only counted."
            }
            ScenarioName::Idle => {
                "\
Connections are set up and held; pings are answered. With --pid: the server's memory before,
meanwhile, and after. Start the server anew for that: memory that it has kept from before is in no
figure. Wrong is: a connection that ends, or that does not answer our Close frame at the end."
            }
            ScenarioName::Connect => {
                "\
Upgrade storm: connect, upgrade, reset, again, on all --connections at the same time.
Wrong is: an upgrade that is refused, or not answered."
            }
            ScenarioName::Churn => {
                "\
Connect, exchange --messages, close, again, on all --connections at the same time. Wrong is:
a visit that does not end with the server's Close frame, and all that is wrong for echo."
            }
            ScenarioName::SlowReader => {
                "\
A broadcast in three phases: without a slow reader, with one more connection that has stopped
reading, and without it again, which shows the noise. What became of the slow reader is a note.
Wrong is: what is wrong for broadcast, and a slow reader that ends before it has stopped reading."
            }
            ScenarioName::Search => {
                "\
The highest rate of echoes at which the 99th percentile stays under --p99, to 5 %. A step
passes with at least 100 messages, all of them echoed, and 95 % of them in its time. A rate that
fails has a second chance. A step in which the server breaks ends the search, with exit status 1.
Exit status 3: the rate that is reported is this tool's limit, not the server's."
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// What was asked for, for the report: without files, and without the values of headers.
    pub command_line: String,
    pub scenario: ScenarioName,
    pub url: Url,
    pub pid: Option<u32>,
    pub against: Option<Url>,
    pub against_pid: Option<u32>,
    pub at_most: Option<f64>,
    pub slices: usize,
    pub slice: Duration,
    pub connections: usize,
    pub ramp_up: Option<f64>,
    pub threads: usize,
    pub spin: bool,
    pub in_flight: Option<usize>,
    pub rate: Option<f64>,
    pub publishers: usize,
    pub at_once: usize,
    pub messages: usize,
    pub against_plain: bool,
    pub p99: Duration,
    pub step: Duration,
    pub duration: Duration,
    pub warm_up: Duration,
    pub shape: Shape,
    pub verify: bool,
    pub upgrade: Upgrade,
    pub json: Option<PathBuf>,
    pub html: Option<PathBuf>,
    pub allow_remote: bool,
    pub trust: Trust,
    /// Connections continue the TLS sessions of earlier ones.
    pub resume: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Options>),
    /// About everything, or about a scenario.
    Help(Option<ScenarioName>),
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ArgsError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Url(#[from] TargetError),
}

impl From<lexopt::Error> for ArgsError {
    fn from(error: lexopt::Error) -> ArgsError {
        ArgsError::Usage(error.to_string())
    }
}

fn usage(text: impl fmt::Display) -> ArgsError {
    ArgsError::Usage(text.to_string())
}

/// Reads the command line, which begins behind the program's name.
pub fn parse<I>(args: I) -> Result<Command, ArgsError>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString>,
{
    use lexopt::prelude::*;

    let mut parser = lexopt::Parser::from_args(args);
    let mut words: Vec<String> = Vec::new();
    let (mut pid, mut against, mut against_pid, mut at_most) = (None, None, None, None);
    let (mut slices, mut slice, mut duration) = (None, Duration::from_millis(250), None);
    let (mut connections, mut ramp_up, mut threads) = (None, None, 1);
    let (mut in_flight, mut rate, mut publishers, mut at_once, mut messages) =
        (None, None, 1, 1, None);
    let (mut p99, mut step, mut warm_up) =
        (Duration::from_millis(1), Duration::from_secs(1), Duration::from_millis(500));
    let (mut text, mut sizes, mut verify, mut spin, mut against_plain) =
        (false, None, false, false, false);
    let mut upgrade = Upgrade::default();
    let (mut json, mut html, mut allow_remote) = (None, None, false);
    let (mut ca, mut insecure, mut resume) = (None, false, false);
    // Each option as it was given, with its value.
    let mut seen: Vec<(String, Option<String>)> = Vec::new();

    while let Some(arg) = parser.next()? {
        let option = match arg {
            Value(word) => {
                words.push(word.string()?);
                continue;
            }
            Short('h') => return Ok(help_wanted(words, parser)),
            Short(letter) => {
                return Err(usage(format!("there is no option -{letter}; see --help")));
            }
            Long("help") => return Ok(help_wanted(words, parser)),
            Long(option) => option.to_owned(),
        };
        seen.push((option.clone(), None));
        let mut given = |what: &str| -> Result<Given, ArgsError> {
            let text = parser.value()?.string()?;
            seen.last_mut().expect("pushed above").1 = Some(text.clone());
            Ok(Given { option: option.clone(), what: what.to_owned(), text })
        };
        match option.as_str() {
            "pid" => pid = Some(given("a process id")?.parse()?),
            "against" => against = Some(Url::parse(&given("a URL")?.text)?),
            "against-pid" => against_pid = Some(given("a process id")?.parse()?),
            "at-most" => at_most = Some(given("a ratio such as 1.05")?.within(0.01..=1000.0)?),
            "slices" => slices = Some(given("an even number")?.within(2..=10_000)?),
            "slice" => slice = given("a time")?.duration()?,
            "connections" => connections = Some(given("a number")?.within(1..=MAX_CONNECTIONS)?),
            "ramp-up" => ramp_up = Some(given("connections per second")?.within(0.1..=MAX_RATE)?),
            "threads" => threads = given("a number")?.within(1..=MAX_THREADS)?,
            "in-flight" => in_flight = Some(given("a number")?.within(1..=MAX_IN_FLIGHT)?),
            "rate" => rate = Some(given("messages per second")?.within(0.1..=MAX_RATE)?),
            "publishers" => publishers = given("a number")?.within(1..=MAX_PUBLISHERS)?,
            "at-once" => at_once = given("a number")?.within(1..=MAX_IN_FLIGHT)?,
            "messages" => messages = Some(given("a number")?.within(1..=MAX_IN_FLIGHT)?),
            "p99" => p99 = given("a time")?.duration()?,
            "step" => step = given("a time")?.duration()?,
            "duration" => duration = Some(given("a time")?.duration()?),
            "warm-up" => warm_up = given("a time")?.duration()?,
            "spin" => spin = true,
            "text" => text = true,
            "binary" => text = false,
            "size" => sizes = Some(given("a size or a range")?.sizes()?),
            "verify" => verify = true,
            "deflate" => upgrade.deflate = true,
            "against-plain" => against_plain = true,
            "subprotocol" => upgrade.subprotocol = Some(given("a name")?.header_value()?),
            "header" => upgrade.headers.push(given("a header")?.header()?),
            "json" => json = Some(given("a file")?.text.into()),
            "html" => html = Some(given("a file")?.text.into()),
            "allow-remote" => allow_remote = true,
            "ca" => ca = Some(given("a file")?.text.into()),
            "insecure" => insecure = true,
            "resume" => resume = true,
            other => return Err(usage(format!("there is no option --{other}; see --help"))),
        }
    }

    let [scenario, url] = &words[..] else {
        return Err(usage("usage: load SCENARIO URL [OPTIONS]; see --help"));
    };
    let Some(scenario) = ScenarioName::find(scenario) else {
        let all = ScenarioName::ALL.map(ScenarioName::as_str).join(", ");
        return Err(usage(format!("there is no scenario {scenario:?}; there are: {all}")));
    };
    check_options(scenario, &seen)?;
    let default_size = scenario.default_size();
    let slices = slices.unwrap_or_else(|| match duration {
        Some(duration) => duration.div_duration_f64(slice).round() as usize / 2 * 2,
        None => 40,
    });
    let url = Url::parse(url)?;
    let trust = match (ca, insecure) {
        (Some(_), true) => return Err(usage("--ca and --insecure: one of them is enough")),
        (Some(file), false) => Trust::Roots(file),
        (None, true) => Trust::Anything,
        (None, false) => Trust::Nothing,
    };
    let options = Options {
        command_line: command_line(scenario, &url, &seen),
        scenario,
        url,
        pid,
        against,
        against_pid,
        at_most,
        slices,
        slice,
        connections: connections.unwrap_or_else(|| scenario.default_connections()),
        ramp_up,
        threads,
        spin,
        in_flight,
        rate,
        publishers,
        at_once,
        messages: messages.unwrap_or_else(|| scenario.default_messages()),
        against_plain,
        p99,
        step,
        duration: duration.unwrap_or(Duration::from_secs(10)),
        warm_up,
        shape: Shape {
            text,
            sizes: sizes.unwrap_or(default_size..=default_size),
            distinct: verify,
            quotes: upgrade.deflate,
        },
        verify,
        upgrade,
        json,
        html,
        allow_remote,
        trust,
        resume,
    };
    check(&options)?;
    Ok(Command::Run(Box::new(options)))
}

/// The command line as a report shows it. A report is passed on, so that files and the values of
/// headers, which may be secrets, are left out.
fn command_line(scenario: ScenarioName, url: &Url, seen: &[(String, Option<String>)]) -> String {
    let mut out = format!("load {} {url}", scenario.as_str());
    for (option, value) in seen {
        let value = match (option.as_str(), value) {
            ("json" | "html", _) => continue,
            ("ca", _) => Some("…".to_owned()),
            ("header", Some(value)) => value.split_once(':').map(|(name, _)| format!("{name}: …")),
            (_, value) => value.clone(),
        };
        out += &format!(" --{option}");
        match value {
            Some(value) if value.contains(' ') => out += &format!(" '{value}'"),
            Some(value) => out += &format!(" {value}"),
            None => {}
        }
    }
    out
}

/// Which help is asked for, from the words before `--help` and behind it.
fn help_wanted(mut words: Vec<String>, mut parser: lexopt::Parser) -> Command {
    while let Ok(Some(arg)) = parser.next() {
        if let lexopt::Arg::Value(word) = arg {
            words.push(word.to_string_lossy().into_owned());
        }
    }
    Command::Help(words.first().and_then(|word| ScenarioName::find(word)))
}

/// Refuses options that a scenario would ignore: the report would claim what was not done.
fn check_options(
    scenario: ScenarioName,
    seen: &[(String, Option<String>)],
) -> Result<(), ArgsError> {
    // These change nothing where they mean nothing, and --against is refused with its own reason.
    const HARMLESS: [&str; 8] =
        ["warm-up", "duration", "size", "text", "binary", "threads", "slices", "slice"];
    for (option, _) in seen {
        let is_compared = option.starts_with("against") || option == "at-most";
        if !scenario.has(option) && !is_compared && !HARMLESS.contains(&option.as_str()) {
            let others: Vec<&str> = ScenarioName::ALL
                .into_iter()
                .filter(|other| other.has(option))
                .map(ScenarioName::as_str)
                .collect();
            let name = scenario.as_str();
            return Err(usage(format!(
                "{name} has no --{option}; these have: {}",
                others.join(", ")
            )));
        }
    }
    Ok(())
}

/// As many publishers as a stamp has numbers for.
const MAX_PUBLISHERS: usize = 1 << 14;

/// What fits each by itself, but not together.
fn check(options: &Options) -> Result<(), ArgsError> {
    let scenario = options.scenario;
    let name = scenario.as_str();
    if options.upgrade.deflate && !DEFLATE_IS_BUILT_IN {
        return Err(usage(
            "--deflate: this program was built without compression: cargo run --release \
             --features deflate --example load",
        ));
    }
    let speaks_tls = options.url.is_tls || options.against.as_ref().is_some_and(|url| url.is_tls);
    if speaks_tls && !TLS_IS_BUILT_IN {
        return Err(usage(
            "wss://: this program was built without TLS: cargo run --release --features tls \
             --example load",
        ));
    }
    if !speaks_tls && (options.trust != Trust::Nothing || options.resume) {
        return Err(usage("--ca, --insecure and --resume belong to a wss:// URL"));
    }
    if options.against_plain && (options.against.is_none() || !options.upgrade.deflate) {
        return Err(usage("--against-plain belongs to --against and --deflate"));
    }
    if options.against.is_none() {
        if options.against_pid.is_some() || options.at_most.is_some() {
            return Err(usage("--against-pid and --at-most belong to --against"));
        }
    } else {
        if !scenario.can_compare() {
            return Err(usage(format!(
                "{name} cannot be used with --against: echo, broadcast, connect and churn can"
            )));
        }
        if options.slices % 2 == 1 {
            return Err(usage("--slices must be even: they come in pairs"));
        }
        if options.slices < MIN_SLICES {
            return Err(usage(format!(
                "--against needs at least {MIN_SLICES} slices, else nothing is known with \
                 confidence"
            )));
        }
        if options.slice < SHORTEST_SLICE || options.slice * options.slices as u32 > MAX_DURATION {
            return Err(usage(
                "--slice must be at least 10 ms, and all slices together no longer than 10 minutes",
            ));
        }
        if options.at_most.is_some() && options.pid.is_some() != options.against_pid.is_some() {
            return Err(usage(
                "--at-most compares CPU time with both --pid and --against-pid, or time with \
                 neither",
            ));
        }
    }
    for (option, duration) in [
        ("duration", options.duration),
        ("warm-up", options.warm_up),
        ("step", options.step),
        ("p99", options.p99),
    ] {
        if duration > MAX_DURATION {
            return Err(usage(format!("--{option}: at most {} s", MAX_DURATION.as_secs())));
        }
    }
    if options.duration.is_zero() || options.step.is_zero() || options.p99.is_zero() {
        return Err(usage("--duration, --step and --p99 must be longer than nothing"));
    }
    if options.threads > options.connections {
        return Err(usage("--threads: no more than connections"));
    }
    if scenario.is_broadcast() {
        if options.threads > 1 {
            return Err(usage(format!("{name} runs on one thread: its receivers share a clock")));
        }
        if *options.shape.sizes.start() < crate::scenario::STAMP_LEN {
            let least = crate::scenario::STAMP_LEN;
            return Err(usage(format!(
                "{name} needs --size of at least {least}: each message carries its number"
            )));
        }
        if options.publishers > options.connections {
            return Err(usage("--publishers: no more than connections"));
        }
    }
    if options.verify && scenario == ScenarioName::Idle && options.messages == 0 {
        return Err(usage("idle has nothing to --verify without --messages"));
    }
    let lowest = crate::measure::lowest_rate(options.step);
    if scenario == ScenarioName::Search && options.rate.is_some_and(|rate| rate < lowest) {
        return Err(usage(format!(
            "--rate: a --step of {:?} needs a rate of at least {lowest:.0} for its 99th \
             percentile; use a longer --step",
            options.step
        )));
    }
    Ok(())
}

/// The value of an option.
struct Given {
    option: String,
    what: String,
    text: String,
}

impl Given {
    fn wrong(&self) -> ArgsError {
        usage(format!("--{} {:?}: not {}", self.option, self.text, self.what))
    }

    fn parse<V: FromStr>(&self) -> Result<V, ArgsError> {
        self.text.parse().map_err(|_| self.wrong())
    }

    fn within<V: FromStr + PartialOrd + fmt::Display>(
        &self,
        range: RangeInclusive<V>,
    ) -> Result<V, ArgsError> {
        let value = self.parse()?;
        if range.contains(&value) {
            return Ok(value);
        }
        Err(usage(format!(
            "--{} {}: it can be {} to {}",
            self.option,
            value,
            range.start(),
            range.end()
        )))
    }

    /// Seconds, or with a unit: `10`, `0.25`, `10s`, `250ms`, `500us`.
    fn duration(&self) -> Result<Duration, ArgsError> {
        let text = self.text.trim();
        let (number, unit) =
            text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
        let scale = match unit {
            "" | "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "min" | "m" => 60.0,
            _ => return Err(self.wrong()),
        };
        let seconds: f64 = number.trim().parse().map_err(|_| self.wrong())?;
        Duration::try_from_secs_f64(seconds * scale).map_err(|_| self.wrong())
    }

    /// Bytes: `20`, `16k`, `1m`, or a range of them: `20-1k`.
    fn sizes(&self) -> Result<RangeInclusive<usize>, ArgsError> {
        let size = |text: &str| {
            let lower = text.trim().to_ascii_lowercase();
            let (number, scale) = match lower.trim_end_matches("ib").strip_suffix(['k', 'm']) {
                Some(number) => (number, if lower.contains('k') { 1024 } else { 1024 * 1024 }),
                None => (lower.as_str(), 1),
            };
            let size =
                number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(scale));
            size.ok_or_else(|| self.wrong())
        };
        let (low, high) = self.text.split_once('-').unwrap_or((&self.text, &self.text));
        let (low, high) = (size(low)?, size(high)?);
        if low > high {
            return Err(self.wrong());
        }
        if high > MAX_SIZE {
            return Err(usage(format!("--size: at most {MAX_SIZE} bytes")));
        }
        Ok(low..=high)
    }

    /// `Name: value`
    fn header(&self) -> Result<(String, String), ArgsError> {
        let (name, _) = self.text.split_once(':').ok_or_else(|| self.wrong())?;
        let value = self.header_value()?[name.len() + 1..].trim().to_owned();
        if !ikisocket::http::is_token(name) {
            return Err(self.wrong());
        }
        Ok((name.to_owned(), value))
    }

    /// Something that cannot break out of its header.
    fn header_value(&self) -> Result<String, ArgsError> {
        if self.text.chars().any(char::is_control) {
            return Err(self.wrong());
        }
        Ok(self.text.clone())
    }
}

pub const HELP: &str = "\
load: load for a WebSocket server, and honest figures about it.

    cargo run --release --example load -- SCENARIO URL [OPTIONS]

SCENARIOS
    echo         a message comes back to its sender; closed loop, or open loop with --rate
    broadcast    a message goes to all connections, its sender included; loss and order are checked
    idle         hold connections; with --pid: the server's memory for each
    connect      upgrade storm: connect, upgrade, reset, again
    churn        connect, exchange --messages, close, again
    slow-reader  a broadcast without and with one reader that has stopped reading
    search       the highest rate of echoes at which the 99th percentile stays under --p99
    SCENARIO --help says more about one of them, with its options, their defaults and an example

URL              ws://host:port/path, or wss://… for TLS, in a build with --features tls

OPTIONS
  Load
    --connections N    [100; idle: 1000; connect, churn: 16]
    --in-flight N      messages in flight on each connection [1; with --rate and search: no limit]
    --rate R           open loop: R messages per second over all connections, at their time;
                       search: the first rate to try [1000]
    --publishers N     broadcast, slow-reader: connections that send [1]
    --at-once N        broadcast, slow-reader: messages in flight at the same time [1]
    --messages N       churn: messages on each connection [10];
                       idle: messages that each connection sends before it falls silent [0]
    --p99 TIME         search: the limit [1ms]
    --step TIME        search: how long each rate is tried, at least 100 messages long [1s]
    --ramp-up R        at most R new connections per second [no limit]
    --threads N        threads of this tool [1]
    --spin             never sleep. A server on the same machine pays for waking this tool, which
                       can be a fifth of its work; with --spin it does not. Needs a core for each
                       thread
  Messages
    --binary, --text   [binary]
    --size N | A-B     bytes, or random sizes from A to B; 16k = 16384 [20; broadcasts: 64]
    --verify           send messages that differ, and compare every byte that comes back. Without
                       it: the kind, the length and, of an echo, the first 64 bytes
    --deflate          offer permessage-deflate, which the server must take, and send every message
                       compressed by itself. The messages are quotes in JSON then, else random
                       letters; about half is saved from 1 KiB on. Needs a build with
                       --features deflate
    --subprotocol NAME
    --header 'Name: value'
  Time (10, 0.25, 10s, 250ms)
    --duration TIME    [10s], at most 10 minutes
    --warm-up TIME     traffic before the measurement [500ms]
  The server
    --pid PID          its process: CPU per message and memory
    --allow-remote     an address that is not loopback
  TLS (wss://)
    --ca FILE          trust what this root vouches for (PEM; it may hold several). There is no
                       other trust: for a public server it is the system's file
    --insecure         accept any certificate, such as one that vouches for itself
    --resume           resume sessions by the tickets of earlier connections, as browsers do;
                       without it each handshake is a full one
  Comparing two servers
    --against URL      a second server, in alternating slices: A B, B A, A B, ...
    --against-pid PID
    --against-plain    with --deflate: the second server gets the same messages, but no offer, and
                       none is compressed
    --slices N         slices of both servers together [40]
    --slice TIME       [250ms], behind 50 ms that are not measured
    --at-most X        exit code 1 if A's CPU per message (without pids: time per message) is, with
                       95 % confidence, more than X times B's
  Output
    --json FILE        all figures; - for stdout
    --html FILE        one page with the curves, for a browser

LATENCY is from when a message should have been sent to when its answer was read. In open loop
`uncorrected` stands beside it: from when the message was really handed to the socket, which hides
the time that it had to wait for that.

HOW FAR TO TRUST IT. The tool says when itself was the bottleneck. Give it a core of its own:
taskset -c 1 load ..., with the server on another one. On a machine that is shared, or changes its
clock, absolute figures mean little: compare two servers in one run with --against, in slices
that feel the same machine, and look at the interval of the ratio. To know the noise, compare a
server with itself.

EXIT STATUS
    0    measured, and nothing was wrong
    1    measured, but something was lost, wrong or broken (the lines with FAULT), also in the
         warm-up and while closing; or a measurement had no sample; or --at-most was exceeded;
         or no rate of a search passed
    2    not measured: a mistake in the command line, no server, no upgrade, or an interrupt
         before the first figure
    3    a search ended at the limit of this tool, not at that of the server
    130  interrupted twice
";

/// Where the text of an option begins in the help.
const TEXT_COLUMN: usize = 23;

/// What `--help` prints: everything, or what concerns one scenario.
pub fn help(scenario: Option<ScenarioName>) -> String {
    let Some(scenario) = scenario else { return HELP.to_owned() };
    let name = scenario.as_str();
    let about = scenario.about();
    let example = scenario.example();
    let mut out = format!("load {name} URL [OPTIONS]\n\n{about}\n\n");
    out += &format!("EXAMPLE\n    cargo run --release --example load -- {example}\n\n");
    let (mut heading, mut is_wanted) = (None, false);
    let begin = HELP.find("OPTIONS\n").unwrap_or_default();
    let end = HELP.find("LATENCY ").unwrap_or(HELP.len());
    for line in HELP[begin..end].lines() {
        let text = line.trim_start();
        match line.len() - text.len() {
            2 => (heading, is_wanted) = (Some(line), false),
            4 => {
                // `--binary, --text` are two of the same kind.
                let option =
                    text.trim_start_matches('-').split([' ', ',']).next().unwrap_or_default();
                is_wanted = scenario.has(option);
                if let (true, Some(own)) = (is_wanted, scenario.own_help(option)) {
                    out.extend(heading.take().into_iter().flat_map(|heading| [heading, "\n"]));
                    out += &format!("{}{own}\n", &line[..TEXT_COLUMN]);
                    is_wanted = false;
                }
            }
            0 => is_wanted = true,
            _ => {}
        }
        if is_wanted {
            out.extend(heading.take().into_iter().flat_map(|heading| [heading, "\n"]));
            out.extend([line, "\n"]);
        }
    }
    out + &HELP[HELP.find("EXIT STATUS\n").unwrap_or_default()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, ArgsError> {
        match parse(line.split_whitespace())? {
            Command::Run(options) => Ok(*options),
            Command::Help(_) => panic!("help"),
        }
    }

    fn error(line: &str) -> String {
        options(line).expect_err(line).to_string()
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let options = options("echo ws://localhost:1/").unwrap();
        assert_eq!((options.connections, options.threads, options.slices), (100, 1, 40));
        assert_eq!(
            (options.duration, options.slice),
            (Duration::from_secs(10), Duration::from_millis(250))
        );
        assert_eq!((options.shape.sizes, options.shape.text), (20..=20, false));
    }

    #[test]
    fn the_command_line_of_a_report_has_no_files_and_no_secrets() {
        let line = [
            "--html=/home/me/report.html",
            "echo",
            "ws://l",
            "--header",
            "Authorization: Bearer 7",
            "--spin",
            "--size=1k",
            "--json",
            "-",
        ];
        let Ok(Command::Run(options)) = parse(line) else { panic!("it is refused") };
        assert_eq!(
            options.command_line,
            "load echo ws://l:80/ --header 'Authorization: …' --spin --size 1k"
        );
    }

    #[test]
    fn times_and_sizes_have_units() {
        let options = options(
            "search ws://l/ --duration 1.5 --warm-up=250ms --p99 500us --size 1k-2KiB --rate 1e3",
        )
        .unwrap();
        assert_eq!(options.duration, Duration::from_millis(1500));
        assert_eq!(options.warm_up, Duration::from_millis(250));
        assert_eq!(options.p99, Duration::from_micros(500));
        assert_eq!(options.shape.sizes, 1024..=2048);
        assert_eq!(options.rate, Some(1000.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, part) in [
            ("echo", "usage"),
            ("ping ws://l/", "there is no scenario"),
            ("echo ws://l/ --conections 3", "--conections"),
            ("echo ws://l/ --connections 0", "--connections 0: it can be 1 to"),
            ("echo ws://l/ --connections x", "not a number"),
            ("echo ws://l/ --duration 11min", "at most 600 s"),
            ("echo ws://l/ --duration -1", "--duration"),
            ("echo ws://l/ --duration nan", "--duration"),
            ("echo ws://l/ --size 9-3", "--size"),
            ("echo ws://l/ --size 1g", "--size"),
            ("echo ws://l/ --header X", "--header"),
            ("echo ws://l/ --at-most 1.1", "belong to --against"),
            ("idle ws://l/ --against ws://m/", "cannot be used with --against"),
            ("echo ws://l/ --against ws://m/ --slices 13", "even"),
            ("echo ws://l/ --against ws://m/ --slices 4", "at least 12"),
            ("echo ws://l/ --against ws://m/ --at-most 1 --pid 1", "both"),
            ("broadcast ws://l/ --size 3", "carries its number"),
            ("broadcast ws://l/ --threads 2", "one thread"),
            ("connect ws://l/ --rate 5", "no --rate; these have: echo, search"),
            ("churn ws://l/ --ramp-up 5", "no --ramp-up"),
            ("echo ws://l/ --messages 5", "no --messages; these have: idle, churn"),
            ("echo ws://l/ --publishers 2", "no --publishers"),
            ("connect ws://l/ --verify", "no --verify"),
            ("idle ws://l/ --verify", "nothing to --verify without --messages"),
            ("search ws://l/ --rate 4 --step 1", "a rate of at least 100"),
            ("echo http://l/", "ws://"),
            ("echo ws://l/ --insecure", "belong to a wss:// URL"),
            ("echo ws://l/ --resume", "belong to a wss:// URL"),
            ("echo wss://l/ --ca a --insecure", "one of them"),
            #[cfg(not(feature = "tls"))]
            ("echo wss://l/ --insecure", "--features tls"),
            #[cfg(not(feature = "tls"))]
            ("echo ws://l/ --against wss://l/", "--features tls"),
            ("echo ws://l/ --against ws://m/ --against-plain", "belongs to"),
            #[cfg(not(feature = "deflate"))]
            ("echo ws://l/ --deflate", "--features deflate"),
            #[cfg(feature = "deflate")]
            ("echo ws://l/ --deflate --against-plain", "belongs to"),
        ] {
            assert!(error(line).contains(part), "{line}: {}", error(line));
        }
        let split = parse(["echo", "ws://l/", "--header", "A: b\r\nC: d"]);
        assert!(split.is_err(), "a header cannot smuggle in another one");
    }

    #[test]
    fn the_help_of_a_scenario_shows_its_own_options_only() {
        let wanted = |line: &str| match parse(line.split_whitespace()) {
            Ok(Command::Help(scenario)) => scenario.map(ScenarioName::as_str),
            other => panic!("{line}: {other:?}"),
        };
        for (line, scenario) in [
            ("--help", None),
            ("-h", None),
            ("echo --help", Some("echo")),
            ("--help idle", Some("idle")),
            ("slow-reader ws://l/ -h --size", Some("slow-reader")),
            ("nothing --help", None),
        ] {
            assert_eq!(wanted(line), scenario, "{line}");
        }
        let idle = help(Some(ScenarioName::Idle));
        assert!(
            idle.contains("--pid PID")
                && idle.contains("--messages N")
                && idle.contains("EXIT STATUS"),
            "{idle}"
        );
        for other in
            ["--rate", "--slices", "Comparing two servers", "--publishers", "fifth of its work\n\n"]
        {
            assert!(!idle.contains(other), "{other}: {idle}");
        }
        assert!(help(Some(ScenarioName::Search)).contains("how long each rate is tried"));
        for (scenario, own, of_another) in [
            (ScenarioName::Idle, "--connections N    [1000]\n", "churn:"),
            (ScenarioName::Churn, "--messages N       messages on each connection [10]\n", "idle:"),
            (ScenarioName::SlowReader, "16k = 16384 [64]\n", "broadcast, slow-reader:"),
            (ScenarioName::Search, "--rate R           the first rate to try", "open loop:"),
        ] {
            let help = help(Some(scenario));
            assert!(help.contains(own) && !help.contains(of_another), "{help}");
        }
        assert!(help(Some(ScenarioName::Echo)).contains("    --binary, --text   [binary]\n"));
    }

    #[test]
    fn the_example_of_each_scenario_is_a_command_line_of_it() {
        for scenario in ScenarioName::ALL {
            let example = scenario.example().replace("$(pgrep -nx echo)", "7");
            assert_eq!(options(&example).unwrap().scenario, scenario);
            assert!(help(Some(scenario)).contains(scenario.example()));
        }
    }

    #[test]
    fn lines_of_the_help_have_at_most_100_columns() {
        for scenario in ScenarioName::ALL.map(Some).into_iter().chain([None]) {
            let help = help(scenario);
            let long: Vec<&str> = help.lines().filter(|line| line.chars().count() > 100).collect();
            assert!(long.is_empty(), "{long:#?}");
        }
    }

    #[test]
    fn every_option_is_in_the_help() {
        let source = include_str!("args.rs");
        let options =
            source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "));
        let is_option = |name: &&str| {
            name.len() > 3 && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        let names: Vec<&str> = options
            .map(|(name, _)| name)
            .filter(is_option)
            .filter(|&name| name != "help")
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names.into_iter().filter(|&name| name != "help" && name != "min") {
            assert!(HELP.contains(&format!("--{name}")), "--{name}");
        }
    }
}
