//! The programs that are run: built as a user would build them, for one processor or another, and
//! driven by one client or the other.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::CORES;
use crate::ratio::Ratio;
use crate::server::{Running, pinned};
use crate::works::Work;

/// For which processor a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// For any of its kind, as cargo does by itself.
    Generic,
    /// For those of the last ten years: AVX2, FMA, BMI2.
    V3,
    /// For the one at hand.
    Native,
}

impl Build {
    pub const ALL: [Self; 3] = [Self::Generic, Self::V3, Self::Native];

    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::V3 => "v3",
            Self::Native => "native",
        }
    }

    /// The rustc option `target-cpu`, if this needs it.
    fn target_cpu(self) -> Option<&'static str> {
        match self {
            Self::Generic => None,
            Self::V3 => Some("x86-64-v3"),
            Self::Native => Some("native"),
        }
    }

    /// Whether the processor at hand runs programs of this build.
    pub fn runs_here(self) -> bool {
        self != Self::V3 || has_v3()
    }

    /// Runs `cargo WORDS` for this build; its output, one JSON object a line. Each build has a
    /// target directory of its own, or they would overwrite each other.
    fn cargo(self, words: &[&str]) -> Result<String, Box<dyn Error>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(words).arg("--message-format=json-render-diagnostics");
        if let Some(cpu) = self.target_cpu() {
            let this = std::env::current_exe()?;
            // Benches lie in target/release/deps.
            let target =
                this.ancestors().nth(3).ok_or("this program lies in no target directory")?;
            command.arg("--target-dir").arg(target.join(format!("limit-{}", self.name())));
            command.env("RUSTFLAGS", format!("-C target-cpu={cpu}"));
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        }
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("cargo {} failed: see above", words.join(" ")).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The echo example.
    pub fn echo(self) -> Result<PathBuf, Box<dyn Error>> {
        let mut words = vec!["build", "--release", "--example", "echo"];
        words.extend(features());
        executable(&self.cargo(&words)?, "echo")
    }

    /// This bench itself.
    pub fn limit(self) -> Result<PathBuf, Box<dyn Error>> {
        match self {
            Self::Generic => Ok(std::env::current_exe()?),
            _ => executable(&self.cargo(&["bench", "--no-run", "--bench", "limit"])?, "limit"),
        }
    }
}

/// The features of the level x86-64-v3 beyond those that every processor with AVX2 has.
#[cfg(target_arch = "x86_64")]
fn has_v3() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_v3() -> bool {
    false
}

/// The features of this bench, for the examples.
fn features() -> Vec<&'static str> {
    [
        (cfg!(feature = "deflate"), "deflate"),
        (cfg!(feature = "tls-aws-lc-rs"), "tls-aws-lc-rs"),
        (cfg!(feature = "tls-ring"), "tls-ring"),
        (cfg!(feature = "tls-graviola"), "tls-graviola"),
    ]
    .into_iter()
    .filter(|(is_on, _)| *is_on)
    .flat_map(|(_, name)| ["--features", name])
    .collect()
}

/// The program that cargo says it built of the target `name`.
fn executable(messages: &str, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    Ok(programs.next().ok_or_else(|| format!("cargo does not say where {name} is"))?)
}

/// Which client makes the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The load tool, which measures latencies and checks every byte.
    Load,
    /// `minimal`, which does neither.
    Minimal,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Minimal => "minimal",
        }
    }
}

/// What is run.
pub struct Programs {
    /// This one: it is raw, and the minimal client, too.
    pub this: PathBuf,
    pub echo: PathBuf,
    pub load: PathBuf,
}

impl Programs {
    /// Builds the examples as a user would.
    pub fn build() -> Result<Self, Box<dyn Error>> {
        let mut words = vec!["build", "--release", "--example", "echo", "--example", "load"];
        words.extend(features());
        let built = Build::Generic.cargo(&words)?;
        Ok(Self {
            this: std::env::current_exe()?,
            echo: executable(&built, "echo")?,
            load: executable(&built, "load")?,
        })
    }

    /// Runs one work against two servers in turn; the ratios of the servers' CPU for each message,
    /// and of the 99th percentiles if the client measures them.
    pub fn compare(
        &self,
        client: Client,
        work: &Work,
        a: &Running,
        b: &Running,
    ) -> Result<(Ratio, Option<Ratio>), Box<dyn Error>> {
        let figures = match client {
            Client::Load => self.figures(work.load, a, b)?,
            Client::Minimal => {
                let mut command = pinned(CORES[1], &self.this);
                command.arg("minimal");
                paired(command, work.load, a, b)?
            }
        };
        let ratio = |name: &str| Ratio::read(&figures["comparison"][name]);
        let cpu = ratio("server_cpu_each").ok_or("the client gave no ratio of the servers' CPU")?;
        Ok((cpu, ratio("p99")))
    }

    /// What the load tool says of two servers in turn; `load` is its scenario, the servers' path
    /// and the options.
    pub fn figures(
        &self,
        load: &[&str],
        a: &Running,
        b: &Running,
    ) -> Result<Value, Box<dyn Error>> {
        let mut command = pinned(CORES[1], &self.load);
        command.args(["--spin", "--json=-"]);
        paired(command, load, a, b)
    }

    /// What the load tool says of a server that holds connections, each of which has had `messages`
    /// and their echoes.
    pub fn held(
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
    pub fn load(&self, scenario: &[&str], options: &[&str]) -> Result<Value, Box<dyn Error>> {
        let mut load = pinned(CORES[1], &self.load);
        load.args(scenario).args(options);
        read(load)
    }
}

/// Runs a client against two servers in turn.
fn paired(
    mut client: Command,
    load: &[&str],
    a: &Running,
    b: &Running,
) -> Result<Value, Box<dyn Error>> {
    let [scenario, path, options @ ..] = load else {
        unreachable!("every work has a scenario and a path")
    };
    client.args([scenario, &*a.url(path), "--pid", &a.pid()]);
    client.args(["--against", &b.url(path), "--against-pid", &b.pid()]);
    client.args(["--slices=40", "--slice=0.15", "--warm-up=0.3"]).args(options);
    read(client)
}

/// Runs a client and reads its figures.
pub fn read(mut client: Command) -> Result<Value, Box<dyn Error>> {
    let Output { status, stdout, stderr } = client.stdin(Stdio::null()).output()?;
    let figures = serde_json::from_slice(&stdout).map_err(|_| {
        format!("the client ended with {status}: {}", String::from_utf8_lossy(&stderr).trim())
    })?;
    Ok(figures)
}

/// The last part of a program's path.
pub fn file_name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
