//! How close the server comes to the limit: the CPU that our `echo` example spends on a message, as
//! it stands, relative to `raw` (see `raw.rs`), which spends what nobody can save.
//!
//! ```sh
//! cargo bench --bench limit                        # about three minutes; a table, and figures.json
//! cargo bench --bench limit -- --peers             # the other libraries beside it: build benches/peers first
//! cargo bench --bench limit -- --reference PROGRAM # our raw against another program of its kind, to see that it is no slower
//! cargo bench --bench limit -- --idle             # whether a message costs more when 15 000 others are idle
//! cargo bench --bench limit --features deflate -- --deflate # what compression costs and saves
//! cargo bench --bench limit -- --instructions     # what an echo costs beside its system calls, counted by callgrind, of valgrind
//! cargo bench --bench limit --features deflate -- --hostile # what another client waits beside hostile ones, and how long turns take
//! cargo bench --bench limit -- --conflation       # what one stalled reader among 500 costs, by what is done about it
//! cargo bench --bench limit -- --draw              # the picture of the README, from figures.json
//! ```
//!
//! Two servers share one core and the load tool has the other; slices of 0.15 s alternate between
//! the servers, so that a change of the machine's speed hits both alike, and the ratio is taken
//! pair by pair. The column `A/A` is raw against a second raw: what is smaller than its interval is
//! noise.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

mod conflation;
mod deflate;
mod hostile;
mod instructions;
mod picture;
mod raw;
mod server;

use server::{Running, pinned};

/// The core of the servers, and that of the load.
const CORES: [&str; 2] = ["0", "1"];
/// Connections that do nothing while others are measured. Both ends need a descriptor: see
/// `ulimit -n`.
const IDLE: usize = 15_000;
const FIGURES: &str = "benches/limit/figures.json";
const PICTURE: &str = "benches/limit/figures.svg";

/// One line of the table.
struct Work {
    name: &'static str,
    /// The load tool's scenario, the server's path and the options.
    load: &'static [&'static str],
    /// The ratio that must not be exceeded.
    ceiling: f64,
}

const WORKS: [Work; 11] = [
    Work {
        name: "echo, 100 × 20 B",
        load: &["echo", "/echo", "--connections=100", "--size=20"],
        ceiling: 1.02,
    },
    Work {
        name: "echo, 100 × 1 KiB text",
        load: &["echo", "/echo", "--connections=100", "--size=1024", "--text"],
        ceiling: 1.03,
    },
    Work {
        name: "echo, 20 × 20 B, 16 in flight",
        load: &["echo", "/echo", "--connections=20", "--size=20", "--in-flight=16"],
        ceiling: 1.06,
    },
    Work {
        name: "echo, 20 × 1 KiB, 16 in flight",
        load: &["echo", "/echo", "--connections=20", "--size=1024", "--in-flight=16"],
        ceiling: 1.10,
    },
    Work {
        name: "echo, 20 × 16 KiB",
        load: &["echo", "/echo", "--connections=20", "--size=16384"],
        ceiling: 1.08,
    },
    Work {
        name: "echo, 4 × 1 MB",
        load: &["echo", "/echo", "--connections=4", "--size=1000000"],
        ceiling: 1.10,
    },
    Work {
        name: "broadcast, 64 B to 200",
        load: &["broadcast", "/bcast", "--connections=200", "--size=64"],
        ceiling: 1.05,
    },
    Work {
        name: "broadcast, 64 B to 200, 20 at once",
        load: &["broadcast", "/bcast", "--connections=200", "--size=64", "--at-once=20"],
        ceiling: 1.05,
    },
    Work {
        name: "broadcast, 1 KiB to 500, 4 at once",
        load: &["broadcast", "/bcast", "--connections=500", "--size=1024", "--at-once=4"],
        ceiling: 1.05,
    },
    Work { name: "upgrades", load: &["connect", "/echo"], ceiling: 1.10 },
    // Raw never closes by itself; a server must say goodbye and wait for the client's FIN (RFC
    // 6455, section 7.1.1).
    Work {
        name: "visits of one message",
        load: &["churn", "/echo", "--messages=1"],
        ceiling: 1.20,
    },
];

/// A paired ratio: the median over the pairs, and between which values it lies with 95 %
/// confidence.
#[derive(Clone, Copy)]
struct Ratio {
    median: f64,
    low: f64,
    high: f64,
}

impl Ratio {
    fn read(value: &Value) -> Option<Self> {
        let figure = |name: &str| value[name].as_f64();
        Some(Self { median: figure("median")?, low: figure("low")?, high: figure("high")? })
    }

    fn to_json(self) -> Value {
        json!({ "median": self.median, "low": self.low, "high": self.high })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.3} ({:.2}–{:.2})", self.median, self.low, self.high);
        f.pad(&text)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["raw", address] => Ok(raw::serve(address.parse()?)?),
        ["feed", keeping, readers, address] => conflation::feed::serve(keeping, readers.parse()?, address),
        ["readers", address, pid, healthy, stalls] => {
            conflation::readers::read(address, pid, healthy.parse()?, stalls.parse()?)
        }
        ["hostile-server", address] => hostile::server::serve(address),
        ["hostile-load", name, address, server] => hostile::load::make(name, address, server),
        ["--draw"] => Ok(fs::write(PICTURE, picture::draw(&serde_json::from_str(&fs::read_to_string(FIGURES)?)?))?),
        [] => table(false),
        ["--peers"] => table(true),
        ["--idle"] => idle(),
        ["--deflate"] => deflate::table(&Programs::build()?),
        ["--hostile"] => hostile::table(),
        ["--conflation"] => conflation::table(),
        ["--instructions"] => instructions::table(&Programs::build()?),
        ["--reference", program] => reference(Path::new(program)),
        _ => Err("unknown arguments: nothing, --peers, --idle, --hostile, --conflation, --deflate, --instructions, --draw or \
                  --reference PROGRAM"
            .into()),
    }
}

/// Measures every work, prints the table and keeps the figures.
fn table(peers: bool) -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    let raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let second_raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let ours = Running::start(&programs.echo, &[])?;
    let mut others = Vec::new();
    if peers {
        for peer in server::peers()? {
            let running = Running::start(&peer.program, &peer.arguments)?;
            others.push((peer.name, running));
        }
    }
    println!(
        "server CPU for each message relative to raw: median and 95 % interval of paired slices; p99 likewise\n"
    );
    println!("{:36} {:22} {:>7} {:22} {:>9}", "work", "ikisocket", "at most", "A/A", "p99");
    let mut rows = Vec::new();
    let mut missed = 0;
    for work in &WORKS {
        let (cpu, p99) = programs.compare(work, &ours, &raw)?;
        let (noise, _) = programs.compare(work, &second_raw, &raw)?;
        let verdict = if cpu.median <= work.ceiling { "" } else { "  above" };
        missed += usize::from(cpu.median > work.ceiling);
        println!(
            "{:36} {cpu:22} {:7.2} {noise:22} {:9.2}{verdict}",
            work.name, work.ceiling, p99.median
        );
        let mut servers = json!({ "ikisocket": cpu.to_json() });
        for (name, other) in &others {
            let ratio = match programs.compare(work, other, &raw) {
                Ok((ratio, _)) => ratio,
                Err(error) => {
                    println!("    {name}: {error}");
                    continue;
                }
            };
            println!("    {name:32} {ratio}");
            servers[name] = ratio.to_json();
        }
        rows.push(json!({
            "work": work.name, "at_most": work.ceiling, "servers": servers, "noise": noise.to_json(), "p99": p99.to_json(),
        }));
    }
    fs::write(
        FIGURES,
        serde_json::to_string_pretty(&json!({ "machine": server::machine(), "rows": rows }))?
            + "\n",
    )?;
    println!(
        "\n{} of {} within their ceilings; figures in {FIGURES}",
        WORKS.len() - missed,
        WORKS.len()
    );
    Ok(())
}

/// Measures our raw against another: it must not be slower, or our ratios would flatter us.
fn reference(program: &Path) -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    let raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let reference = Running::start(program, &[])?;
    println!("server CPU for each message: our raw relative to {}\n", program.display());
    for work in &WORKS {
        let (cpu, _) = programs.compare(work, &raw, &reference)?;
        println!("{:36} {cpu}", work.name);
    }
    Ok(())
}

/// Measures our echo with many idle connections against our echo with few.
fn idle() -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    let few = Running::start(&programs.echo, &[])?;
    let many = Running::start(&programs.echo, &[])?;
    let noise = programs.compare(&WORKS[0], &many, &few)?.0;
    println!("server CPU for each message, {}: {noise} with nobody idle at either", WORKS[0].name);
    let mut holders = Vec::new();
    for (server, count) in [(&few, 10), (&many, IDLE)] {
        holders.push(Running::hold(&programs.load, &server.url("/echo"), count)?);
        server.wait_for_connections(count)?;
    }
    let ratio = programs.compare(&WORKS[0], &many, &few)?.0;
    println!("{ratio} with {IDLE} idle at one and 10 at the other");
    Ok(())
}

/// What is run.
struct Programs {
    /// This one: it is raw, too.
    this: PathBuf,
    echo: PathBuf,
    load: PathBuf,
}

impl Programs {
    /// Builds the examples as a user would.
    fn build() -> Result<Self, Box<dyn Error>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--example", "echo", "--example", "load"]);
        if cfg!(feature = "deflate") {
            build.args(["--features", "deflate"]);
        }
        if !build.status()?.success() {
            return Err("the examples do not build: see above".into());
        }
        // Benches lie in target/release/deps, examples beside that.
        let this = std::env::current_exe()?;
        let examples = this
            .ancestors()
            .nth(2)
            .ok_or("this program lies in no target directory")?
            .join("examples");
        Ok(Self { this, echo: examples.join("echo"), load: examples.join("load") })
    }

    /// Runs one work against two servers in turn; the ratios of the servers' CPU for each message,
    /// and of the 99th percentiles.
    fn compare(
        &self,
        work: &Work,
        a: &Running,
        b: &Running,
    ) -> Result<(Ratio, Ratio), Box<dyn Error>> {
        let figures = self.figures(work.load, a, b)?;
        let ratio = |name: &str| Ratio::read(&figures["comparison"][name]);
        let cpu =
            ratio("server_cpu_each").ok_or("the load tool gave no ratio of the servers' CPU")?;
        Ok((cpu, ratio("p99").unwrap_or(Ratio { median: f64::NAN, low: f64::NAN, high: f64::NAN })))
    }

    /// What the load tool says of two servers in turn; `load` is its scenario, the servers' path
    /// and the options.
    fn figures(&self, load: &[&str], a: &Running, b: &Running) -> Result<Value, Box<dyn Error>> {
        let [scenario, path, options @ ..] = load else {
            unreachable!("every work has a scenario and a path")
        };
        let mut load = pinned(CORES[1], &self.load);
        load.args([
            *scenario,
            &a.url(path),
            "--pid",
            &a.pid(),
            "--against",
            &b.url(path),
            "--against-pid",
            &b.pid(),
        ]);
        load.args(["--slices=40", "--slice=0.15", "--warm-up=0.3", "--spin", "--json=-"])
            .args(options);
        read(load)
    }

    /// What the load tool says of a server that holds connections, each of which has had `messages`
    /// and their echoes.
    fn held(
        &self,
        server: &Running,
        connections: usize,
        messages: usize,
        options: &[&str],
    ) -> Result<Value, Box<dyn Error>> {
        let several = [format!("--connections={connections}"), format!("--messages={messages}")];
        let several = several.each_ref().map(String::as_str);
        let fixed =
            ["idle", &server.url("/echo"), "--pid", &server.pid(), "--duration=0.5", "--json=-"];
        self.load(&fixed, &[&several, options].concat())
    }

    /// What the load tool says when it is run like this.
    fn load(&self, scenario: &[&str], options: &[&str]) -> Result<Value, Box<dyn Error>> {
        let mut load = pinned(CORES[1], &self.load);
        load.args(scenario).args(options);
        read(load)
    }
}

/// Runs the load tool and reads its figures.
fn read(mut load: Command) -> Result<Value, Box<dyn Error>> {
    let Output { status, stdout, stderr } = load.stdin(Stdio::null()).output()?;
    let figures = serde_json::from_slice(&stdout).map_err(|_| {
        format!("the load tool ended with {status}: {}", String::from_utf8_lossy(&stderr).trim())
    })?;
    Ok(figures)
}
