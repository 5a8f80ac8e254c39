//! Servers as processes: started on their core, asked for their address, ended with the bench.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::CORES;

/// A server that listens.
pub struct Running {
    /// `None`: it was there before.
    process: Option<Child>,
    pid: u32,
    address: String,
    /// Its only path, if it has not those of the echo example.
    path: Option<String>,
    is_secure: bool,
}

impl Running {
    /// Starts `program` on the servers' core, with `arguments` and an address on which it finds a
    /// port.
    pub fn start(program: &Path, arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        Self::start_on(CORES[0], program, arguments)
    }

    /// The same on other cores.
    pub fn start_on(
        cores: &str,
        program: &Path,
        arguments: &[String],
    ) -> Result<Self, Box<dyn Error>> {
        let mut command = pinned(cores, program);
        command.args(arguments).arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let running = Self::of(process, address);
        if running.address.is_empty() {
            return Err(format!("{} did not say where it listens", program.display()).into());
        }
        Ok(running)
    }

    fn of(process: Child, address: String) -> Self {
        Self { pid: process.id(), process: Some(process), address, path: None, is_secure: false }
    }

    /// One that runs already, at a URL. If that has a path, the server echoes there and does
    /// nothing else; if not, its paths are those of the echo example. It stays on its cores and
    /// outlives the bench.
    pub fn attach(url: &str, pid: u32) -> Result<Self, Box<dyn Error>> {
        let rest = url.strip_prefix("ws://").ok_or("a URL begins with ws://")?;
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = Some(path).filter(|path| !path.is_empty()).map(|path| format!("/{path}"));
        Ok(Self { process: None, pid, address: address.to_owned(), path, is_secure: false })
    }

    /// Holds `count` connections to `url`, for as long as this is kept but at most a minute.
    pub fn hold(load: &Path, url: &str, count: usize) -> Result<Self, Box<dyn Error>> {
        let mut command = pinned(CORES[1], load);
        command.args(["idle", url, "--duration=60", "--connections", &count.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self::of(command.spawn()?, String::new()))
    }

    /// Waits until the server has more than `count` descriptors open.
    pub fn wait_for_connections(&self, count: usize) -> Result<(), Box<dyn Error>> {
        for _ in 0..300 {
            if std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count() > count {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("{count} connections cannot be held: see ulimit -n").into())
    }

    /// Asks the server to end, and waits for that. A program that was started in the background
    /// may ignore SIGINT, so this is SIGTERM.
    pub fn interrupt(mut self) -> Result<(), Box<dyn Error>> {
        Command::new("kill").args(["-TERM", &self.pid()]).status()?;
        if let Some(process) = &mut self.process {
            process.wait()?;
        }
        Ok(())
    }

    /// Whether it does what the echo example does at this path.
    pub fn has(&self, path: &str) -> bool {
        self.path.is_none() || path == "/echo"
    }

    /// It speaks TLS.
    pub fn secure(mut self) -> Self {
        self.is_secure = true;
        self
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.address, self.path.as_deref().unwrap_or(path))
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> String {
        self.pid.to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended already there is nothing to end.
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A command that runs on one core only, or on those of a list. `taskset` becomes the program it
/// starts, so that the process has the same id.
pub fn pinned(cores: &str, program: &Path) -> Command {
    // Asked once: the bench may move to one core later.
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    let several = || std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if !SEVERAL.get_or_init(several) || !Path::new("/usr/bin/taskset").exists() {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// Another library's server.
pub struct Peer {
    pub name: String,
    pub program: PathBuf,
    /// What stands before the address.
    pub arguments: Vec<String>,
}

/// The other libraries' servers, as benches/peers has built them.
pub fn peers() -> Result<Vec<Peer>, Box<dyn Error>> {
    let built = Path::new("benches/peers/target/release");
    let mut peers = Vec::new();
    for name in ["fastwebsockets", "sockudo-ws", "tokio-websockets", "ws-rs", "tokio-tungstenite"] {
        let program = built.join(name);
        if !program.exists() {
            return Err(
                "build them first: cargo build --release --manifest-path benches/peers/Cargo.toml"
                    .into(),
            );
        }
        peers.push(Peer { name: name.to_owned(), program, arguments: Vec::new() });
    }
    let node = Path::new("benches/peers/node");
    if node.join("node_modules/ws").exists() {
        let arguments = vec!["node".to_owned(), node.join("server.js").display().to_string()];
        peers.push(Peer {
            name: "ws (Node)".to_owned(),
            program: "/usr/bin/env".into(),
            arguments,
        });
    } else {
        println!("ws (Node) is left out: npm install --prefix {}", node.display());
    }
    Ok(peers)
}

/// The processor, the kernel, its congestion control and the day, for the record.
pub fn machine() -> String {
    let first = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.rsplit_once(": ").map_or(line, |(_, value)| value).to_owned()
    };
    let processor = first("/proc/cpuinfo", "model name");
    let release = first("/proc/sys/kernel/osrelease", "");
    let kernel: Vec<&str> = release.split('.').take(2).collect();
    let congestion = first("/proc/sys/net/ipv4/tcp_congestion_control", "");
    let day = Command::new("date")
        .arg("+%F")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{processor}, Linux {}, congestion control {congestion}, {}",
        kernel.join("."),
        day.unwrap_or_default()
    )
}
