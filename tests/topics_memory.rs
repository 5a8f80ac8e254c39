//! What topics cost: live heap, counted by the allocator. Alone in its file, because it counts the
//! whole process.

mod common;

use std::alloc::System;

use common::{Client, Diary, enter, server_with};
use ikisocket::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most that one connection's being in one topic may cost, in bytes.
const PER_MEMBERSHIP: usize = 64;
/// The most that a topic itself may cost, with a name of 16 bytes.
const PER_TOPIC: usize = 160;

fn server(connections: usize) -> (Server<Diary>, Vec<Client>) {
    let mut server = server_with(Server::builder().max_topics_per_connection(10_000));
    server.route("/:name", enter).unwrap();
    let clients =
        (0..connections).map(|name| Client::connect(&mut server, &format!("/{name}"))).collect();
    (server, clients)
}

/// Bytes that are live after `topics` joins of each connection and were not before; the names begin
/// with what `prefix` says of the connection's number.
fn cost(server: &mut Server<Diary>, topics: usize, prefix: impl Fn(usize) -> usize) -> usize {
    let mut sockets = server.sockets();
    let uuids = sockets.uuids();
    let mut names: Vec<Vec<String>> = Vec::new();
    for connection in 0..uuids.len() {
        names.push(
            (0..topics).map(|topic| format!("{:08}{topic:08}", prefix(connection))).collect(),
        );
    }
    let region = Region::new(ALLOCATOR);
    for (&uuid, names) in uuids.iter().zip(&names) {
        let mut kws = sockets.get(uuid).unwrap();
        names.iter().for_each(|name| assert_eq!(kws.join(name), Ok(true)));
    }
    let counted = region.change();
    counted.bytes_allocated - counted.bytes_deallocated
}

#[test]
fn a_membership_costs_64_bytes_a_topic_160_and_no_topic_one_word() {
    let mut worst = (0, 0);
    for connections in [1, 2, 5, 65, 129, 257] {
        for topics in [1, 2, 5, 33, 65] {
            let (mut server, _clients) = server(connections);
            // All connections in the same topics.
            let cost = cost(&mut server, topics, |_| 0);
            let memberships = connections * topics;
            // 1024 bytes for the tables' least sizes, which matter for small numbers.
            let most = memberships * PER_MEMBERSHIP + topics * PER_TOPIC + 1024;
            assert!(cost <= most, "{connections} connections in {topics} topics: {cost} bytes");
            if connections == 257 {
                worst.0 =
                    worst.0.max(cost.saturating_sub(topics * PER_TOPIC).div_ceil(memberships));
            }
        }
    }
    for topics in [129, 1025, 2049, 4097, 7169] {
        let (mut server, _client) = server(1);
        // Each alone in its topic.
        let cost = cost(&mut server, topics, |_| 0);
        assert!(
            cost <= topics * (PER_MEMBERSHIP + PER_TOPIC) + 1024,
            "{topics} topics of one: {cost} bytes"
        );
        worst.1 = worst.1.max(cost.div_ceil(topics));
    }
    let (mut server, _clients) = server(200);
    let own = cost(&mut server, 1, |connection| connection);
    assert!(
        own <= 200 * (PER_MEMBERSHIP + PER_TOPIC) + 1024,
        "each in a topic of its own: {own} bytes"
    );

    let (mut server, _clients) = self::server(257);
    let mut sockets = server.sockets();
    let last = sockets.uuids()[256];
    let region = Region::new(ALLOCATOR);
    sockets.get(last).unwrap().join("alone").unwrap();
    let counted = region.change();
    let word = (counted.bytes_allocated - counted.bytes_deallocated) / 257;
    assert!(word <= 10, "one in a topic costs each of the 256 others {word} bytes");

    connections_that_stay_and_have_left_their_topics_keep_hardly_anything();

    assert!(worst.0 <= PER_MEMBERSHIP && worst.1 <= PER_MEMBERSHIP + PER_TOPIC, "{worst:?}");
    println!(
        "a membership costs at most {} bytes, a topic with its one membership {}",
        worst.0, worst.1
    );
}

/// Not a test of its own: the allocator counts all that runs.
fn connections_that_stay_and_have_left_their_topics_keep_hardly_anything() {
    let (mut server, _clients) = server(20);
    let uuids = server.sockets().uuids();
    let name = |connection: usize, topic: usize| format!("{connection:08}{topic:08}");
    let region = Region::new(ALLOCATOR);
    let live = || {
        let counted = region.change();
        counted.bytes_allocated as isize - counted.bytes_deallocated as isize
    };
    for _ in 0..2 {
        for (connection, &uuid) in uuids.iter().enumerate() {
            let mut sockets = server.sockets();
            let mut kws = sockets.get(uuid).unwrap();
            (0..5000).for_each(|topic| assert_eq!(kws.join(&name(connection, topic)), Ok(true)));
        }
        let peak = live();
        // Of 100 000 topics 20 are left, and those in the highest places.
        for (connection, &uuid) in uuids.iter().enumerate() {
            let mut sockets = server.sockets();
            let mut kws = sockets.get(uuid).unwrap();
            (0..4999).for_each(|topic| assert!(kws.leave(&name(connection, topic))));
        }
        let left = live();
        println!("of {peak} bytes for 100 000 topics {left} are left for 20");
        assert!(left < 32 * 1024, "{left} of {peak} bytes are left");
        for (connection, &uuid) in uuids.iter().enumerate() {
            let mut sockets = server.sockets();
            assert!(sockets.get(uuid).unwrap().leave(&name(connection, 4999)));
        }
    }
}
