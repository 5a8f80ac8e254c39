//! Each figure says exactly what happened.
//!
//! The figures do not depend on sockets, so these tests have none. The tests of how long turns take
//! use the system's clock.

mod common;

use std::time::{Duration, Instant};

use common::{
    Diary, ON_PURPOSE, PING, PONG, TEXT, connect, enter, frame, memory_server, memory_server_with,
    quiet_panics, turn_for, upgrade_request, with_socket,
};
use ikisocket::testing::{Client, Faults, Harness, Upgrade};
use ikisocket::{
    Builder, EmitError, EmitsRefused, Emitted, Event, RequestsRefused, Response, Server, Stats,
    TurnDurations, Uuid,
};

/// The causes that were counted, by name.
fn causes(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counts.filter(|&(_, count)| count > 0).collect()
}

fn disconnects(test: &mut Harness<Diary>) -> Vec<(&'static str, u64)> {
    causes(test.server().stats().disconnects.iter())
}

fn harness(settings: Builder) -> Harness<Diary> {
    let mut server = memory_server_with(settings);
    server.route("/:name", enter).unwrap();
    common::harness(server)
}

/// A client that has stopped reading when `window` bytes behind the response to its request are on
/// their way to it.
fn connect_stuck(test: &mut Harness<Diary>, name: &str, window: usize) -> Client {
    let stuck = test
        .connect(Upgrade::to(format!("/{name}")).faults(Faults::none().window(window)))
        .unwrap();
    test.stop_reading(stuck);
    stuck
}

/// Sends raw bytes; returns what comes back.
fn ask(test: &mut Harness<Diary>, request: &str) -> String {
    let visitor = test.dial(Faults::none()).unwrap();
    test.write(visitor, request.as_bytes());
    String::from_utf8(test.read(visitor)).unwrap()
}

/// A client that speaks bytes and has upgraded.
fn upgrade_raw(test: &mut Harness<Diary>, path: &str) -> Client {
    let client = test.dial(Faults::none()).unwrap();
    test.write(client, upgrade_request(path).as_bytes());
    assert!(test.read(client).starts_with(b"HTTP/1.1 101 "));
    client
}

// Connections.

#[test]
fn connections_are_counted_in_the_part_of_their_life_that_they_are_in() {
    fn parts(test: &mut Harness<Diary>) -> [usize; 4] {
        let stats = test.server().stats();
        [stats.open, stats.handshaking, stats.closing, stats.draining]
    }
    let server = memory_server();
    assert_eq!(server.stats(), Stats::default());
    let mut test = common::harness(server);
    let _waiting = test.dial(Faults::none());
    connect(&mut test, ["ann"]);
    let bob = test.connect(Upgrade::to("/bob").unresponsive()).unwrap();
    assert_eq!(parts(&mut test), [2, 1, 0, 0]);
    let stats = test.server().stats();
    assert_eq!((stats.accepted, stats.upgraded, stats.closed), (3, 2, 0));

    with_socket(test.server(), "bob", |kws| kws.close());
    assert_eq!(parts(&mut test), [1, 1, 1, 0]);
    test.close(bob, 1000, "");
    assert_eq!(parts(&mut test), [1, 1, 0, 1]);
    test.finish(bob);
    assert_eq!(parts(&mut test), [1, 1, 0, 0]);
    let stats = test.server().stats();
    assert_eq!(
        (stats.accepted, stats.upgraded, stats.closed, stats.disconnects.total()),
        (3, 2, 1, 1)
    );
}

#[test]
fn every_end_of_a_connection_is_counted_under_its_cause() {
    quiet_panics();
    let mut test = harness(Server::builder().max_message(1000));
    test.server().on(Event::Message, |_, _| panic!("{ON_PURPOSE}"));
    let [_stays, _ann, bob, cid] = connect(&mut test, ["stays", "ann", "bob", "cid"]);

    with_socket(test.server(), "ann", |kws| kws.close());
    assert_eq!(disconnects(&mut test), [("clean", 1)]);
    test.close(bob, 1000, "");
    assert_eq!(disconnects(&mut test), [("clean", 2)]);
    test.close(cid, 4000, "bored");
    assert_eq!(disconnects(&mut test), [("clean", 2), ("closed_by_peer", 1)]);

    let [dan, eve, fay, gus] = connect(&mut test, ["dan", "eve", "fay", "gus"]);
    test.finish(dan);
    test.reset(eve);
    test.send(fay, "x".repeat(1001));
    test.send(gus, "bang");
    let hal = test.connect(Upgrade::to("/hal").unresponsive()).unwrap();
    with_socket(test.server(), "hal", |kws| kws.close());
    test.finish(hal);

    let expected = [
        ("clean", 2),
        ("unanswered", 1),
        ("closed_by_peer", 1),
        ("lost", 1),
        ("io", 1),
        ("protocol", 1),
        ("panicked", 1),
    ];
    assert_eq!(disconnects(&mut test), expected);
    let stats = test.server().stats();
    assert_eq!((stats.disconnects.total(), stats.upgraded, stats.open, stats.panics), (8, 9, 1, 1));
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn silent_and_stalled_peers_are_counted_as_such() {
    let day = Duration::from_secs(24 * 3600);
    let mut test = harness(Server::builder().stall_timeout(Duration::MAX));
    test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    test.advance(day);
    assert_eq!(disconnects(&mut test), [("silent", 1)]);

    let mut test = harness(Server::builder().ping_after(Duration::MAX));
    connect_stuck(&mut test, "bob", 1000);
    with_socket(test.server(), "bob", |kws| {
        assert_eq!(kws.emit(vec![0; 100_000]), Emitted::Pressure)
    });
    let stats = test.server().stats();
    // Over TLS the four records of one send are on their way.
    let on_its_way = if common::over_tls() { 64 * 1024 } else { 1000 };
    assert_eq!((stats.bytes_waiting, stats.blocked), (10 + 100_000 - on_its_way, 1));
    test.advance(day);
    let stats = test.server().stats();
    assert_eq!(disconnects(&mut test), [("stalled", 1)]);
    assert_eq!(
        (stats.bytes_waiting, stats.blocked, stats.bytes_dropped),
        (0, 0, (10 + 100_000 - on_its_way) as u64)
    );
}

// Requests.

#[test]
fn requests_are_counted_as_pages_upgrades_or_refusals_by_cause() {
    quiet_panics();
    let settings = Server::builder()
        .origins(["https://example.org"])
        .max_connections(1)
        .max_head(1000)
        .max_headers(10);
    let mut server = memory_server_with(settings);
    server.route("/ws/:name", enter).unwrap();
    server.get("/page", |_, _, _| Response::text("here")).unwrap();
    server.filter(|_, _, incoming| match incoming.query("key").as_deref() {
        Some("none") => Err(Response::text("no").with_status(401)),
        Some("bang") => panic!("{ON_PURPOSE}"),
        _ => Ok(()),
    });
    let mut test = common::harness(server);
    let upgrade =
        upgrade_request("/ws/ann").replace("\r\n\r\n", "\r\nOrigin: https://example.org\r\n\r\n");
    let refused = |test: &mut Harness<Diary>| causes(test.server().stats().requests_refused.iter());
    let rows = [
        ("nonsense\r\n\r\n".to_owned(), "malformed"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2000)), "head_too_large"),
        (
            upgrade.replace("\r\n\r\n", &format!("{}\r\n\r\n", "\r\na: b".repeat(10))),
            "too_many_headers",
        ),
        (upgrade.replace("/ws", "/nowhere"), "not_found"),
        ("POST /page HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "method_not_allowed"),
        ("GET /ws/ann HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "upgrade_required"),
        (upgrade.replace("Version: 13", "Version: 8"), "unsupported_version"),
        (upgrade.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "bad_key"),
        (upgrade.replace("example.org", "example.com"), "origin_not_allowed"),
        (upgrade.replace("/ws/ann", "/ws/ann?key=none"), "filter"),
        (upgrade.replace("/ws/ann", "/ws/ann?key=bang"), "filter"),
    ];
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for (request, cause) in &rows {
        let before = test.server().stats();
        ask(&mut test, request);
        let stats = test.server().stats();
        match counts.last_mut() {
            Some((last, count)) if last == cause => *count += 1,
            _ => counts.push((cause, 1)),
        }
        counts.sort_by_key(|(name, _)| {
            RequestsRefused::default().iter().position(|(cause, _)| cause == *name)
        });
        assert_eq!(refused(&mut test), counts, "{request:?}");
        assert_eq!(stats.accepted, before.accepted + 1);
    }
    test.connect(Upgrade::to("/ws/ann").header("Origin", "https://example.org")).unwrap();
    ask(&mut test, &upgrade);
    assert_eq!(test.server().stats().requests_refused.full, 1);
    test.server().sockets().refuse_upgrades(true);
    ask(&mut test, &upgrade);
    assert_eq!(test.server().stats().requests_refused.refusing, 1);
    assert!(ask(&mut test, "GET /page HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("here"));
    let stats = test.server().stats();
    assert_eq!((stats.pages, stats.upgraded, stats.panics), (1, 1, 1));
    assert_eq!(stats.requests_refused.total(), rows.len() as u64 + 2);
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn late_requests_are_counted_and_silent_peers_are_not() {
    let mut test = harness(Server::builder().handshake_timeout(Duration::from_secs(1)));
    let [slow, mute] = [(); 2].map(|()| test.dial(Faults::none()).unwrap());
    test.write(slow, b"GET / HT");
    test.advance(Duration::from_secs(1));
    assert_eq!(test.answer(slow).unwrap().status, 408);
    assert_eq!(test.read(mute), b"");
    assert_eq!(causes(test.server().stats().requests_refused.iter()), [("timed_out", 1)]);
}

// Messages and bytes.

#[test]
fn messages_and_bytes_are_counted_in_and_out() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| _ = ep.kws.emit(ep.data));
    let mut test = common::harness(server);
    let [ann, bob] = ["/ann", "/bob"].map(|path| upgrade_raw(&mut test, path));
    let before = test.server().stats();
    assert_eq!(
        before.bytes_in as usize,
        upgrade_request("/ann").len() + upgrade_request("/bob").len()
    );

    // Two messages, one of them in two fragments with a ping between them, and a pong.
    let mut first = frame(TEXT, b"one");
    first[0] = TEXT;
    let mut second = frame(0, b"two");
    second[0] = 0x80;
    let input =
        [first, frame(PING, b"p"), second, frame(TEXT, b"three"), frame(PONG, b"")].concat();
    test.write(ann, &input);
    assert_eq!(test.read(ann), b"\x8a\x01p\x81\x06onetwo\x81\x05three");
    let stats = test.server().stats();
    assert_eq!((stats.messages_in, stats.messages_out), (2, 2));
    assert_eq!(stats.bytes_in - before.bytes_in, input.len() as u64);
    assert_eq!(stats.bytes_out - before.bytes_out, 18);

    let before = stats;
    let (diary, mut sockets) = test.server().lend();
    let [ann_id, bob_id] = ["ann", "bob"].map(|name| diary.id(name));
    sockets.get(ann_id).unwrap().ping(b"").ok().unwrap();
    sockets.emit_to(bob_id, "to bob").unwrap();
    assert_eq!(sockets.emit_to_list(&[bob_id, bob_id, Uuid::nil()], "list"), 2);
    sockets.broadcast("all");
    sockets.get(ann_id).unwrap().broadcast("but ann");
    sockets.get(bob_id).unwrap().join("b").unwrap();
    sockets.publish("b", vec![7; 20_000]);
    let stats = sockets.stats();
    assert_eq!(stats.messages_out - before.messages_out, 1 + 2 + 2 + 1 + 1);
    assert_eq!((stats.topics, stats.memberships), (1, 1));
    assert_eq!((stats.emits_refused.gone, stats.emits_refused.total()), (1, 1));
    let [to_ann, to_bob] = [2 + 5, 8 + 6 + 6 + 5 + 9 + 20_004];
    assert_eq!((stats.bytes_waiting, stats.most_waiting), (to_ann + to_bob, to_bob));
    assert_eq!((test.read(ann).len(), test.read(bob).len()), (to_ann, to_bob));
    let stats = test.server().stats();
    assert_eq!((stats.bytes_out - before.bytes_out) as usize, to_ann + to_bob);
    assert_eq!((stats.bytes_waiting, stats.most_waiting, stats.bytes_dropped), (0, 0, 0));
}

#[test]
fn what_is_queued_is_written_or_waits_or_is_dropped_with_its_connection() {
    let mut test = harness(Server::builder().max_outbox(256 * 1024));
    connect_stuck(&mut test, "ann", 10 * (1004 + common::record_overhead()));
    // Over TLS one record more is on its way, except for its last byte.
    let (frames, withheld) = if common::over_tls() { (11, 1) } else { (10, 0) };
    let before = test.server().stats();
    let mut emits = 0;
    let refused = loop {
        match with_socket(test.server(), "ann", |kws| kws.emit(vec![7; 1000])) {
            Emitted::Refused(refused) => break refused,
            _ => emits += 1,
        }
    };
    assert_eq!(refused, EmitError::Full);
    let stats = test.server().stats();
    assert_eq!(stats.messages_out - before.messages_out, emits);
    assert_eq!(causes(stats.emits_refused.iter()), [("full", 1)]);
    assert_eq!(disconnects(&mut test), [("slow_consumer", 1)]);
    assert_eq!(stats.bytes_out - before.bytes_out, frames * 1004 - withheld);
    // A close frame waits for it, because the stream was not cut inside a message.
    assert!((1..64).contains(&stats.bytes_waiting), "{}", stats.bytes_waiting);
    assert_eq!(stats.bytes_dropped, (emits - frames) * 1004);
}

#[test]
fn a_large_message_that_the_socket_takes_at_once_counts_as_written() {
    let mut test = common::harness_by_hand(memory_server());
    connect(&mut test, ["ann"]);
    let before = test.server().stats();
    with_socket(test.server(), "ann", |kws| assert_eq!(kws.emit(vec![7; 20_000]), Emitted::Queued));
    assert_eq!(test.server().stats().bytes_out - before.bytes_out, 4 + 20_000);
}

#[test]
fn connections_that_a_broadcast_did_not_reach_count_as_refused() {
    let mut test = harness(Server::builder().max_outbox(64 * 1024));
    connect_stuck(&mut test, "stuck", 1000);
    let mut broadcasts = 0;
    while test.server().sockets().broadcast(vec![7; 10_000]) == 1 {
        broadcasts += 1;
    }
    let stats = test.server().stats();
    assert_eq!(
        (stats.messages_out, causes(stats.emits_refused.iter())),
        (broadcasts, vec![("full", 1)])
    );
}

#[test]
fn refused_emits_are_counted_by_cause() {
    let mut test = harness(Server::builder().max_outbox(1024));
    connect(&mut test, ["ann"]);
    let refused = |test: &mut Harness<Diary>| causes(test.server().stats().emits_refused.iter());
    assert_eq!(refused(&mut test), []);
    assert!(test.server().sockets().emit_to(Uuid::nil(), "to a missing one").is_err());
    assert_eq!(refused(&mut test), [("gone", 1)]);
    with_socket(test.server(), "ann", |kws| {
        assert!(kws.emit("x".repeat(2000)).ok().is_err());
        assert_eq!(kws.broadcast_all("x".repeat(2000)), 0);
        assert!(kws.ping("x".repeat(126)).ok().is_err(), "a ping is no message");
        kws.close();
        assert!(kws.emit("too late").ok().is_err());
    });
    assert_eq!(refused(&mut test), [("closed", 1), ("gone", 1), ("too_large", 2)]);
    let EmitsRefused { closed, gone, too_large, full, .. } = test.server().stats().emits_refused;
    assert_eq!(closed + gone + too_large + full, test.server().stats().emits_refused.total());
}

// The loop.

#[test]
fn turns_are_counted_and_measured_only_if_that_is_asked_for() {
    let mut server = memory_server();
    (0..5).for_each(|_| _ = server.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!((server.stats().turns, server.stats().turn_durations), (5, None));

    let mut server = memory_server_with(Server::builder().measure_turns(true));
    server.set_timer(Duration::ZERO, |_, _| busy(Duration::from_millis(5)));
    server.poll(Some(Duration::ZERO)).unwrap();
    let stats = server.stats();
    let durations = stats.turn_durations.unwrap();
    assert_eq!(durations.buckets.iter().sum::<u64>(), stats.turns);
    // The turn with the busy callback is not in a bucket up to 4.096 ms.
    assert_eq!(TurnDurations::bound(12), Some(Duration::from_micros(4096)));
    assert!(
        durations.buckets[13..].iter().sum::<u64>() >= 1
            && durations.sum >= Duration::from_millis(5)
    );

    // However long the loop waits, that is no part of the turn.
    let wait = Duration::from_millis(20);
    let (took, all) = turn_for(&mut server, |server| {
        let (before, started) = (server.stats().turn_durations?.sum, Instant::now());
        server.poll(Some(wait)).unwrap();
        let (took, all) = (server.stats().turn_durations?.sum - before, started.elapsed());
        (all >= wait).then_some((took, all))
    });
    assert!(took + wait <= all, "{took:?} of {all:?}");
}

#[test]
fn a_page_shows_the_figures_as_prometheus_reads_them() {
    let mut server = memory_server_with(Server::builder().measure_turns(true));
    server.route("/:name", enter).unwrap();
    server
        .get("/metrics", |_, sockets, _| Response::text(sockets.stats().to_prometheus()))
        .unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "hello");
    test.settle();
    let answer = test.get("/metrics").unwrap();
    assert!(answer.header("Content-Type").unwrap().starts_with("text/plain"), "{answer:?}");
    let page = answer.text();
    for line in [
        "# TYPE ikisocket_connections gauge",
        "ikisocket_connections{state=\"open\"} 1",
        "ikisocket_messages_received_total 1",
        "ikisocket_disconnects_total{cause=\"clean\"} 0",
    ] {
        assert!(page.lines().any(|each| each == line), "{line}: {page}");
    }
    let turns = page.lines().find_map(|line| line.strip_prefix("ikisocket_turns_total ")).unwrap();
    assert!(
        page.contains(&format!("ikisocket_turn_duration_seconds_bucket{{le=\"+Inf\"}} {turns}\n"))
    );
}

/// The owner of the loop is busy with something else.
fn busy(time: Duration) {
    let started = std::time::Instant::now();
    while started.elapsed() < time {
        std::hint::spin_loop();
    }
}
