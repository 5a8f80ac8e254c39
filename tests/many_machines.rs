//! What the chapter "Many machines" of the manual says: the user of Redis that suffices, with a
//! real redis-server, and that its table has each cause for which the bus is down. Without a
//! redis-server the first of these says so and passes.
#![cfg(unix)]

mod common;
#[path = "common/redis_process.rs"]
mod redis_process;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::PATIENCE;
use ikisocket::{Bus, BusEvent, BusFailure, BusSent, Server};
use redis_process::Redis;

/// The state is why the bus is down.
type Node = Server<Option<BusFailure>>;

fn chapter() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join("src/manual/many_machines.md")).unwrap()
}

/// A server whose user of Redis is `chat`.
fn node(redis: &Redis, prefix: &str) -> Node {
    let address = format!("redis+unix://chat:PASSWORD@{}", redis.socket().display());
    let mut server = Server::bind("127.0.0.1:0", None).unwrap();
    server.bus(Bus::redis(&address).unwrap().prefix(prefix)).unwrap();
    server.on_bus(|failure, _, event| {
        if let BusEvent::Down { why, .. } = event {
            *failure = Some(why.clone());
        }
    });
    server
}

/// Turns the servers until `done` says so.
#[track_caller]
fn turn(nodes: &mut [&mut Node], done: impl Fn(&Node) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !nodes.iter().all(|node| done(node)) {
        assert!(Instant::now() < deadline, "{:?}", nodes[0].state());
        for node in &mut *nodes {
            node.poll(Some(Duration::from_millis(1))).unwrap();
        }
    }
}

#[test]
fn the_user_of_the_manual_may_do_what_the_bus_needs_and_nothing_else() {
    let Some(redis) = Redis::start(&[]) else { return };
    let chapter = chapter();
    let line = chapter.lines().find_map(|line| line.strip_prefix("user chat ")).unwrap();
    assert_eq!(redis.ask(&format!("ACL SETUSER chat {line}")), "+OK\r\n");

    let (mut a, mut b) = (node(&redis, "chat"), node(&redis, "chat"));
    turn(&mut [&mut a, &mut b], |node| node.stats().bus.unwrap().nodes == 1);
    let sent = a.sockets().everywhere().broadcast("hello");
    assert_eq!(sent.bus, BusSent::Queued);
    turn(&mut [&mut a, &mut b], |node| {
        let bus = node.stats().bus.unwrap();
        bus.published + bus.received == 1 && bus.round_trip.is_some()
    });
    assert_eq!((a.state(), b.state()), (&None, &None));
    // Each of these needs a right that the bus does not.
    for command in ["GET x", "SET x 1", "PSUBSCRIBE chat:*", "CONFIG GET *", "PUBLISH other:all x"]
    {
        let answer = redis.ask(&format!("AUTH chat PASSWORD\r\n{command}"));
        assert!(answer.starts_with("+OK\r\n-NOPERM "), "{command}: {answer}");
    }

    let mut other = node(&redis, "other");
    turn(&mut [&mut other], |node| node.state().is_some());
    assert!(matches!(other.state(), Some(BusFailure::NoPermission(_))), "{:?}", other.state());
}

#[test]
fn each_cause_for_which_the_bus_is_down_has_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = fs::read_to_string(root.join("src/redis/failure.rs")).unwrap();
    let (_, after) = code.split_once("pub enum BusFailure {\n").unwrap();
    let (body, _) = after.split_once("\n}\n").unwrap();
    let chapter = chapter();
    let mut count = 0;
    for line in body.lines().filter_map(|line| line.strip_prefix("    ")) {
        if line.starts_with(char::is_uppercase) {
            let name: String = line.chars().take_while(|char| char.is_alphanumeric()).collect();
            assert!(chapter.contains(&format!("\n| [`{name}`][{name}] |")), "{name} has no row");
            count += 1;
        }
    }
    assert!(count > 20, "{count} causes were found");
}
