//! A session with a real redis-server, which each test starts on a Unix socket of its own. Without
//! one these tests say so and pass.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ikisocket::redis::{Failure, Session, SessionEvent, SessionOptions};

/// What does not happen by then fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server in a folder of its own, which ends with it.
struct Redis {
    child: Child,
    folder: PathBuf,
}

impl Redis {
    /// `None` if there is no redis-server on this machine.
    fn start(settings: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("ikisocket-redis-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let child = Self::spawn(&folder, settings);
        if child.is_none() {
            println!("there is no redis-server here: nothing is tested");
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let redis = Self { child: child?, folder };
        redis.command("PING"); // It listens.
        Some(redis)
    }

    fn spawn(folder: &PathBuf, settings: &[&str]) -> Option<Child> {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no"]);
        command.args(settings).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok()
    }

    fn restart(&mut self, settings: &[&str]) {
        self.kill();
        self.child = Self::spawn(&self.folder, settings).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn node(&self, login: &str, own_channel: &str) -> Node {
        let socket = self.folder.join("s");
        let address = format!("redis+unix://{login}{}", socket.display());
        let options = SessionOptions::new(own_channel.as_bytes());
        Node {
            session: Session::new(address.parse().unwrap(), options, 7, 0),
            path: socket,
            socket: None,
            began: Instant::now(),
            seen: Vec::new(),
        }
    }

    /// One command on a connection of its own, whose answer has one line.
    fn command(&self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut socket = loop {
            match UnixStream::connect(self.folder.join("s")) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        socket.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A session with a socket and the real clock.
struct Node {
    session: Session,
    path: PathBuf,
    socket: Option<UnixStream>,
    began: Instant,
    seen: Vec<String>,
}

impl Node {
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn turn(&mut self) {
        let now = self.now();
        if self.session.should_connect(now) {
            self.session.connecting(now);
            match UnixStream::connect(&self.path) {
                Ok(socket) => {
                    // A turn waits for Redis this long at most.
                    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    self.socket = Some(socket);
                    self.session.connected(now);
                }
                Err(error) => {
                    let event = self.session.disconnected(now, Some(error.kind()));
                    see(&mut self.seen, &mut self.socket, event);
                }
            }
        }
        let mut buffer = vec![0; 16 * 1024];
        while let Some(socket) = &mut self.socket {
            let event = match socket.read(&mut buffer) {
                Ok(0) => self.session.disconnected(now, None),
                Ok(len) => {
                    let mut input = &buffer[..len];
                    while let Some(event) = self.session.receive(now, &mut input) {
                        see(&mut self.seen, &mut self.socket, Some(event));
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.session.drained();
                    break;
                }
                Err(error) => self.session.disconnected(now, Some(error.kind())),
            };
            see(&mut self.seen, &mut self.socket, event);
        }
        let event = self.session.expire(now);
        see(&mut self.seen, &mut self.socket, event);
        if let Some(socket) = &mut self.socket {
            match socket.write(self.session.unsent()) {
                Ok(len) => self.session.wrote(len),
                // The next read says the same.
                Err(_) => self.session.wrote(0),
            }
        }
    }
}

fn see(seen: &mut Vec<String>, socket: &mut Option<UnixStream>, event: Option<SessionEvent<'_>>) {
    let Some(event) = event else { return };
    if let SessionEvent::Down { .. } | SessionEvent::Failed { .. } = event {
        *socket = None;
    }
    seen.push(match event {
        SessionEvent::Message { channel, payload } => {
            format!("{}: {}", channel.escape_ascii(), payload.escape_ascii())
        }
        event => format!("{event:?}"),
    });
}

/// Turns the nodes until one has seen something that begins so.
#[track_caller]
fn turn_until(nodes: &mut [&mut Node], at: usize, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !nodes[at].seen.iter().any(|seen| seen.starts_with(what)) {
        assert!(Instant::now() < deadline, "no {what}: {:?}", nodes[at].seen);
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

#[test]
fn two_nodes_hear_each_other_before_and_after_redis_is_killed() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (redis.node("", "app:a"), redis.node("", "app:b"));
    let names: Vec<String> = (0..1200).map(|number| format!("app:{number}")).collect();
    names.iter().for_each(|name| b.session.want(name.as_bytes()));
    turn_until(&mut [&mut a, &mut b], 0, "Up");
    turn_until(&mut [&mut a, &mut b], 1, "Up");
    assert_eq!((a.session.subscribed(), b.session.subscribed()), (1, 1201));
    for round in 0..3 {
        for name in &names {
            let message = format!("of round {round}");
            a.session.publish(&[name.as_bytes()], &[message.as_bytes()]).unwrap();
        }
        turn_until(&mut [&mut a, &mut b], 1, &format!("app:1199: of round {round}"));
        let heard = b.seen.iter().filter(|seen| seen.ends_with(&format!("of round {round}")));
        assert_eq!(heard.count(), names.len(), "each once");
        a.seen.clear();
        b.seen.clear();
        redis.restart(&[]);
        for at in 0..2 {
            turn_until(&mut [&mut a, &mut b], at, "Down");
            turn_until(&mut [&mut a, &mut b], at, "Up");
        }
        let count = |what: &str| b.seen.iter().filter(|seen| seen.starts_with(what)).count();
        assert_eq!((count("Down"), count("Up")), (1, 1), "{:?}", b.seen);
    }
}

#[test]
fn a_client_that_is_killed_is_up_again() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = redis.node("", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    node.seen.clear();
    assert!(redis.command("CLIENT KILL TYPE pubsub").starts_with(":1"));
    turn_until(&mut [&mut node], 0, "Down { failure: Closed");
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn signs_of_life_pass_and_the_probe_comes_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = redis.node("", "app:a");
    node.session.want(b"app:x");
    turn_until(&mut [&mut node], 0, "Up");
    // Seven probes, and one question for the role.
    while node.now() < 7000 {
        node.turn();
    }
    assert_eq!(node.seen.len(), 1, "{:?}", node.seen);
    assert!(node.session.is_up() && node.session.round_trip().is_some());
}

#[test]
fn what_redis_refuses_has_its_name() {
    for (settings, login, expected) in [
        (&["--requirepass", "secret"][..], "", Failure::PasswordMissing),
        (&["--requirepass", "secret"], ":wrong@", Failure::WrongPassword),
        (&["--cluster-enabled", "yes", "--port", "1"], "", Failure::Cluster),
        (&["--replicaof", "127.0.0.1 1"], "", Failure::Replica),
        (
            &["--user", "app", "on", ">pw", "~*", "&*", "+@all", "-publish"],
            "app:pw@",
            Failure::NoPermission("".into()),
        ),
    ] {
        let Some(redis) = Redis::start(settings) else { return };
        let mut node = redis.node(login, "app:a");
        let name = format!("{expected:?}");
        let name = name.trim_end_matches("(\"\")");
        let deadline = Instant::now() + PATIENCE;
        let is_there = |node: &Node| node.seen.iter().any(|seen| seen.contains(name));
        while !is_there(&node) {
            assert!(Instant::now() < deadline, "no {name}: {:?}", node.seen);
            node.turn();
        }
        assert!(node.seen.iter().all(|seen| !seen.contains("secret")));
    }
    let Some(redis) = Redis::start(&["--requirepass", "secret"]) else { return };
    let mut node = redis.node(":secret@", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn a_redis_that_stands_still_is_noticed_and_found_again() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = redis.node("", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    let signal = |name: &str| {
        let pid = redis.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    let stopped_at = node.now();
    turn_until(&mut [&mut node], 0, "Down { failure: Silent");
    // A second until the PING, two until it is unanswered, and the machine may be busy.
    assert!(node.now() - stopped_at >= 2000, "{:?}", node.seen);
    signal("-CONT");
    node.seen.clear();
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn a_client_that_is_cut_for_slowness_knows_why() {
    let limit = ["--client-output-buffer-limit", "pubsub", "1mb", "0", "0"];
    let Some(redis) = Redis::start(&limit) else { return };
    let (mut a, mut b) = (redis.node("", "app:a"), redis.node("", "app:b"));
    b.session.want(b"app:x");
    turn_until(&mut [&mut a, &mut b], 0, "Up");
    turn_until(&mut [&mut a, &mut b], 1, "Up");
    for _ in 0..60 {
        a.session.publish(&[b"app:x"], &[&[b'x'; 100_000]]).unwrap();
    }
    // Meanwhile the other does not read.
    let deadline = Instant::now() + PATIENCE;
    while a.session.unconfirmed() > 0 {
        assert!(Instant::now() < deadline);
        a.turn();
    }
    turn_until(&mut [&mut b], 0, "Down { failure: CutForSlowness");
    turn_until(&mut [&mut b], 0, "Up");
}

#[test]
fn a_master_that_becomes_a_replica_is_down_by_name() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = redis.node("", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    assert_eq!(redis.command("REPLICAOF 127.0.0.1 1"), "+OK\r\n");
    turn_until(&mut [&mut node], 0, "Down { failure: Replica");
}
