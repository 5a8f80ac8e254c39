//! A real redis-server on a Unix socket in a folder of its own, ended by its id.
#![allow(dead_code)] // No test file needs all of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What has not happened by then fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that ends with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A Unix socket's path has at most 107 bytes.
        let name = format!("ikisocket-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether there is a redis-server on this machine; says so if there is none.
pub fn is_here() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        // Not by `eprintln!`, which is shown of failed tests only.
        let _ = writeln!(std::io::stderr(), "there is no redis-server here: nothing is tested");
    }
    found.is_ok()
}

/// A running redis-server. It ends with this value.
pub struct Redis {
    child: Child,
    folder: Folder,
}

impl Redis {
    /// Starts one, whose settings are arguments of `redis-server`. `None` if there is none on this
    /// machine.
    pub fn start(settings: &[&str]) -> Option<Self> {
        is_here().then(|| Self::start_in(Folder::new(), settings))
    }

    /// Starts one in this folder.
    pub fn start_in(folder: Folder, settings: &[&str]) -> Self {
        let redis = Self { child: spawn(&folder, settings), folder };
        redis.ask("PING"); // It listens.
        redis
    }

    /// Kills it without a chance to say anything.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, after [`kill`](Self::kill). It may not listen yet.
    pub fn start_again(&mut self, settings: &[&str]) {
        self.child = spawn(&self.folder, settings);
    }

    /// Sends it a signal: `-STOP`, `-CONT`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Asks for one thing on a connection of its own, and returns the answer as it is on the wire,
    /// in RESP2.
    pub fn ask(&self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut socket = loop {
            match UnixStream::connect(self.socket()) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(format!("{line}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned()
    }

    /// Asks again and again until the answer is `done`.
    #[track_caller]
    pub fn ask_until(&self, line: &str, done: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(line);
            if done(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{line}: {answer}");
            // The processor is for what has to happen.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that the test has started.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn spawn(folder: &Folder, settings: &[&str]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no"]);
    command.args(settings).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
