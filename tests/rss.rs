//! The memory of a process when many connections have ended: resident memory of the echo
//! example, as Linux counts it, with the allocator that comes with it (glibc's).
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::SockRef;

#[path = "common/descriptors.rs"]
mod descriptors;

const CONNECTIONS: usize = 5000;
const ROUNDS: usize = 5;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// How much larger than at the start the process may be, for each path. 5 000 kept requests of the
/// shortest form take 700 KiB (144 bytes each), and glibc gives nearly none of that back: it keeps
/// some freed blocks of each size for reuse, and the memory below the highest of them stays.
const MORE: [(&str, usize); 2] = [("/echo", 1280 * KIB), ("/forgetful", 768 * KIB)];
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// The echo example of this test's profile, until the end of the test.
struct Echo {
    process: Child,
    address: String,
    /// Files that it has open without a connection.
    files: usize,
}

impl Echo {
    fn start() -> Echo {
        let mut process =
            Command::new(build()).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        let mut echo = Echo { process, address, files: 0 };
        echo.until_it_sleeps();
        echo.files = echo.open_files();
        echo
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// One of its numbers in kB, in bytes.
    fn memory(&self, name: &str) -> usize {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kilobytes: usize = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
        kilobytes * 1024
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Waits until the process sleeps: then a turn is over.
    fn until_it_sleeps(&self) {
        until(|| self.proc("stat").rsplit_once(") ").unwrap().1.starts_with('S'));
    }

    /// Waits until no client is connected, and the turn in which the last one ended is over.
    fn until_all_have_ended(&self) {
        until(|| self.open_files() == self.files);
        self.until_it_sleeps();
    }

    fn connect(&self, path: &str) -> TcpStream {
        let mut client = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        client.write_all(request.as_bytes()).unwrap();
        let (mut response, mut piece) = (Vec::new(), [0; 512]);
        while !response.ends_with(b"\r\n\r\n") {
            let read = client.read(&mut piece).unwrap();
            assert!(read > 0, "{}", response.escape_ascii());
            response.extend_from_slice(&piece[..read]);
        }
        assert!(response.starts_with(b"HTTP/1.1 101 "), "{}", response.escape_ascii());
        client
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Builds the example: `cargo test --test` alone does not.
fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap(); // target/PROFILE/deps/rss-…
    let profile = this.ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--example", "echo", "--target-dir"])
        .arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    profile.join("examples/echo")
}

fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("it never happens");
}

/// All close in order, and see the end of it.
fn close_all(mut clients: Vec<TcpStream>) {
    clients.iter_mut().for_each(|client| client.write_all(&CLOSE).unwrap());
    for client in &mut clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [0x88, 0x02, 0x03, 0xe8]);
    }
}

/// All are reset, the last one first.
fn vanish(mut clients: Vec<TcpStream>) {
    while let Some(client) = clients.pop() {
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// The whole resident memory counts: also the code that was touched for the first time meanwhile,
/// and what the allocator keeps. The requests are the shortest: longer ones leave more behind.
#[test]
fn after_five_thousand_connections_the_process_is_as_small_as_before() {
    if !descriptors::with_descriptors(CONNECTIONS + 100) {
        return;
    }
    for (path, more) in MORE {
        let echo = Echo::start();
        let (start, anonymous) = (echo.memory("VmRSS"), echo.memory("RssAnon"));
        assert!(start <= 8 * MIB, "{start} bytes before the first connection");
        for round in 1..=ROUNDS {
            let clients: Vec<_> = (0..CONNECTIONS).map(|_| echo.connect(path)).collect();
            let idle = echo.memory("VmRSS");
            match round % 2 {
                1 => close_all(clients),
                _ => vanish(clients),
            }
            echo.until_all_have_ended();
            let after = echo.memory("VmRSS");
            let heap = echo.memory("RssAnon").saturating_sub(anonymous);
            println!(
                "{path}, round {round}: {start} bytes, {idle} with all, {after} without; of that {heap} heap"
            );
            assert!(
                after <= start + more,
                "{path}, round {round}: {start} bytes before, {after} after"
            );
        }
    }
}
