//! A session with a real redis-server, which each test starts on a Unix socket of its own. Without
//! one these tests say so and pass.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[path = "common/redis_process.rs"]
mod redis_process;

use ikisocket::redis::{BusFailure, Session, SessionEvent, SessionOptions};
use redis_process::Redis;

/// What does not happen by then fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session of its own, with this login and channel.
fn node(redis: &Redis, login: &str, own_channel: &str) -> Node {
    let path = redis.socket();
    let address = format!("redis+unix://{login}{}", path.display());
    let options = SessionOptions::new(own_channel.as_bytes());
    Node {
        session: Session::new(address.parse().unwrap(), options, 7, 0),
        path,
        socket: None,
        began: Instant::now(),
        seen: Vec::new(),
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
    let (mut a, mut b) = (node(&redis, "", "app:a"), node(&redis, "", "app:b"));
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
        redis.kill();
        redis.start_again(&[]);
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
    let mut node = node(&redis, "", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    node.seen.clear();
    assert!(redis.ask("CLIENT KILL TYPE pubsub").starts_with(":1"));
    turn_until(&mut [&mut node], 0, "Down { failure: Closed");
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn signs_of_life_pass_and_the_probe_comes_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = node(&redis, "", "app:a");
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
        (&["--requirepass", "secret"][..], "", BusFailure::PasswordMissing),
        (&["--requirepass", "secret"], ":wrong@", BusFailure::WrongPassword),
        (&["--cluster-enabled", "yes", "--port", "1"], "", BusFailure::Cluster),
        (&["--replicaof", "127.0.0.1 1"], "", BusFailure::Replica),
        (
            &["--user", "app", "on", ">pw", "~*", "&*", "+@all", "-publish"],
            "app:pw@",
            BusFailure::NoPermission("".into()),
        ),
    ] {
        let Some(redis) = Redis::start(settings) else { return };
        let mut node = node(&redis, login, "app:a");
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
    let mut node = node(&redis, ":secret@", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn a_redis_that_stands_still_is_noticed_and_found_again() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut node = node(&redis, "", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    redis.signal("-STOP");
    let stopped_at = node.now();
    turn_until(&mut [&mut node], 0, "Down { failure: Silent");
    // A second until the PING, two until it is unanswered, and the machine may be busy.
    assert!(node.now() - stopped_at >= 2000, "{:?}", node.seen);
    redis.signal("-CONT");
    node.seen.clear();
    turn_until(&mut [&mut node], 0, "Up");
}

#[test]
fn a_client_that_is_cut_for_slowness_knows_why() {
    let limit = ["--client-output-buffer-limit", "pubsub", "1mb", "0", "0"];
    let Some(redis) = Redis::start(&limit) else { return };
    let (mut a, mut b) = (node(&redis, "", "app:a"), node(&redis, "", "app:b"));
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
    let mut node = node(&redis, "", "app:a");
    turn_until(&mut [&mut node], 0, "Up");
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1"), "+OK\r\n");
    turn_until(&mut [&mut node], 0, "Down { failure: Replica");
}
