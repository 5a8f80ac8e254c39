//! Each figure says exactly what happened.

mod common;

use std::time::{Duration, Instant};

use common::{
    CLOSE, Client, Diary, ON_PURPOSE, Raw, TEXT, enter, frame, quiet_panics, server, server_with, turn_for, turn_until,
    upgrade_request, with_socket,
};
use ikisocket::{
    EmitError, EmitsRefused, Emitted, Event, RequestsRefused, Response, Server, Stats, TurnDurations, Uuid,
};

/// The causes that were counted, by name.
fn causes(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counts.filter(|&(_, count)| count > 0).collect()
}

fn disconnects(server: &Server<Diary>) -> Vec<(&'static str, u64)> {
    causes(server.stats().disconnects.iter())
}

fn gone(server: &mut Server<Diary>, who: &str) {
    turn_until(server, |server| server.state().is_gone(who));
}

/// Sends raw bytes and waits for the end of the response.
fn ask(server: &mut Server<Diary>, request: &str) -> String {
    let mut raw = Raw::connect(server);
    raw.send(request.as_bytes());
    String::from_utf8(raw.read_to_end(server).unwrap()).unwrap()
}

// Connections.

#[test]
fn connections_are_counted_in_the_part_of_their_life_that_they_are_in() {
    let mut server = server();
    assert_eq!(server.stats(), Stats::default());
    let _waiting = Raw::connect(&server);
    let _ann = Client::connect(&mut server, "/ann");
    let mut bob = Raw::upgrade(&mut server, "/bob");
    turn_until(&mut server, |server| server.stats().accepted == 3);
    let stats = server.stats();
    assert_eq!((stats.open, stats.handshaking, stats.closing, stats.draining), (2, 1, 0, 0));
    assert_eq!((stats.upgraded, stats.closed), (2, 0));

    with_socket(&mut server, "bob", |kws| kws.close());
    let stats = server.lend().1.stats();
    assert_eq!((stats.open, stats.handshaking, stats.closing, stats.draining), (1, 1, 1, 0));
    bob.send(&frame(CLOSE, &1000_u16.to_be_bytes()));
    gone(&mut server, "bob");
    let stats = server.stats();
    assert_eq!((stats.open, stats.handshaking, stats.closing, stats.draining), (1, 1, 0, 1));
    drop(bob);
    turn_until(&mut server, |server| server.stats().closed == 1);
    let stats = server.stats();
    assert_eq!((stats.open, stats.handshaking, stats.closing, stats.draining), (1, 1, 0, 0));
    assert_eq!((stats.accepted, stats.upgraded, stats.disconnects.total()), (3, 2, 1));
}

#[test]
fn every_end_of_a_connection_is_counted_under_its_cause() {
    quiet_panics();
    let mut server = server_with(Server::builder().max_message(1000));
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, _| panic!("{ON_PURPOSE}"));
    let _stays = Client::connect(&mut server, "/stays");

    let ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| kws.close());
    ann.end(&mut server);
    assert_eq!(disconnects(&server), [("clean", 1)]);

    let mut bob = Client::connect(&mut server, "/bob");
    bob.close(1000, "");
    bob.end(&mut server);
    assert_eq!(disconnects(&server), [("clean", 2)]);

    let mut cid = Client::connect(&mut server, "/cid");
    cid.close(4000, "bored");
    cid.end(&mut server);
    assert_eq!(disconnects(&server), [("clean", 2), ("closed_by_peer", 1)]);

    Client::connect(&mut server, "/dan").vanish();
    gone(&mut server, "dan");
    Client::connect(&mut server, "/eve").reset();
    gone(&mut server, "eve");
    let mut fay = Raw::upgrade(&mut server, "/fay");
    fay.send(&frame(TEXT, &[b'x'; 1001]));
    gone(&mut server, "fay");
    let mut gus = Client::connect(&mut server, "/gus");
    gus.send("bang");
    gone(&mut server, "gus");
    let hal = Raw::upgrade(&mut server, "/hal");
    with_socket(&mut server, "hal", |kws| kws.close());
    hal.stream.shutdown(std::net::Shutdown::Write).unwrap();
    gone(&mut server, "hal");

    let expected = [
        ("clean", 2),
        ("unanswered", 1),
        ("closed_by_peer", 1),
        ("lost", 1),
        ("io", 1),
        ("protocol", 1),
        ("panicked", 1),
    ];
    assert_eq!(disconnects(&server), expected);
    let stats = server.stats();
    assert_eq!((stats.disconnects.total(), stats.upgraded, stats.open, stats.panics), (8, 9, 1, 1));
}

#[test]
fn silent_and_stalled_peers_are_counted_as_such() {
    let soon = Duration::from_millis(1);
    let settings = Server::builder().ping_after(soon).dead_after(soon).stall_timeout(Duration::MAX);
    let mut server = server_with(settings);
    server.route("/:name", enter).unwrap();
    let _ann = Raw::upgrade(&mut server, "/ann");
    gone(&mut server, "ann");
    assert_eq!(disconnects(&server), [("silent", 1)]);

    let settings = Server::builder().ping_after(Duration::MAX).stall_timeout(soon).max_outbox(64 * 1024 * 1024);
    let mut server = server_with(settings);
    server.route("/:name", enter).unwrap();
    let _bob = Raw::upgrade(&mut server, "/bob");
    with_socket(&mut server, "bob", |kws| {
        socket2::SockRef::from(&kws.conn().fd().unwrap()).set_send_buffer_size(16 * 1024).unwrap();
        assert_eq!(kws.emit(vec![0; 16 * 1024 * 1024]), Emitted::Pressure);
    });
    let waiting = server.stats().bytes_waiting as u64;
    assert!(waiting > 0 && server.stats().blocked == 1);
    gone(&mut server, "bob");
    let stats = server.stats();
    assert_eq!(disconnects(&server), [("stalled", 1)]);
    assert_eq!((stats.bytes_waiting, stats.blocked), (0, 0));
    assert!(stats.bytes_dropped > 0 && stats.bytes_dropped <= waiting, "it may have taken some more before");
}

// Requests.

#[test]
fn requests_are_counted_as_pages_upgrades_or_refusals_by_cause() {
    quiet_panics();
    let settings = Server::builder().origins(["https://example.org"]).max_connections(1).max_head(1000).max_headers(10);
    let mut server = server_with(settings);
    server.route("/ws/:name", enter).unwrap();
    server.get("/page", |_, _, _| Response::text("here")).unwrap();
    server.filter(|_, _, incoming| match incoming.query("key").as_deref() {
        Some("none") => Err(Response::text("no").with_status(401)),
        Some("bang") => panic!("{ON_PURPOSE}"),
        _ => Ok(()),
    });
    let upgrade = upgrade_request("/ws/ann").replace("\r\n\r\n", "\r\nOrigin: https://example.org\r\n\r\n");
    let refused = |server: &Server<Diary>| causes(server.stats().requests_refused.iter());
    let rows = [
        ("nonsense\r\n\r\n".to_owned(), "malformed"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2000)), "head_too_large"),
        (upgrade.replace("\r\n\r\n", &format!("{}\r\n\r\n", "\r\na: b".repeat(10))), "too_many_headers"),
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
        let before = server.stats();
        ask(&mut server, request);
        let stats = server.stats();
        match counts.last_mut() {
            Some((last, count)) if last == cause => *count += 1,
            _ => counts.push((cause, 1)),
        }
        counts.sort_by_key(|(name, _)| RequestsRefused::default().iter().position(|(cause, _)| cause == *name));
        assert_eq!(refused(&server), counts, "{request:?}");
        assert_eq!(stats.accepted, before.accepted + 1);
    }
    let _ann = {
        let mut ann = Raw::connect(&server);
        ann.send(upgrade.as_bytes());
        turn_until(&mut server, |server| server.stats().open == 1);
        ann
    };
    ask(&mut server, &upgrade);
    assert_eq!(server.stats().requests_refused.full, 1);
    server.lend().1.refuse_upgrades(true);
    ask(&mut server, &upgrade);
    assert_eq!(server.stats().requests_refused.refusing, 1);
    assert!(ask(&mut server, "GET /page HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("here"));
    let stats = server.stats();
    assert_eq!((stats.pages, stats.upgraded, stats.panics), (1, 1, 1));
    assert_eq!(stats.requests_refused.total(), rows.len() as u64 + 2);
}

#[test]
fn a_request_that_comes_too_late_is_counted_and_a_peer_that_says_nothing_is_not() {
    let mut server = server_with(Server::builder().handshake_timeout(Duration::from_millis(1)));
    let mut slow = Raw::connect(&server);
    slow.send(b"GET / HT");
    let mut mute = Raw::connect(&server);
    assert!(slow.read_to_end(&mut server).unwrap().starts_with(b"HTTP/1.1 408"));
    assert_eq!(mute.read_to_end(&mut server).unwrap(), b"");
    assert_eq!(causes(server.stats().requests_refused.iter()), [("timed_out", 1)]);
}

// Messages and bytes.

#[test]
fn messages_and_bytes_are_counted_in_and_out() {
    let mut server = server();
    server.on(Event::Message, |_, ep| _ = ep.kws.emit(ep.data));
    let mut ann = Raw::upgrade(&mut server, "/ann");
    let mut bob = Raw::upgrade(&mut server, "/bob");
    let before = server.stats();
    assert_eq!(before.bytes_in as usize, upgrade_request("/ann").len() + upgrade_request("/bob").len());

    // Two messages, one of them in two fragments with a ping between them, and a pong.
    let mut first = frame(TEXT, b"one");
    first[0] = TEXT;
    let mut second = frame(0, b"two");
    second[0] = 0x80;
    let input = [first, frame(common::PING, b"p"), second, frame(TEXT, b"three"), frame(common::PONG, b"")].concat();
    ann.send(&input);
    assert_eq!(ann.read(&mut server, 3 + 2 + 6 + 2 + 5), b"\x8a\x01p\x81\x06onetwo\x81\x05three");
    let stats = server.stats();
    assert_eq!((stats.messages_in, stats.messages_out), (2, 2));
    assert_eq!(stats.bytes_in - before.bytes_in, input.len() as u64);
    assert_eq!(stats.bytes_out - before.bytes_out, 18);

    let before = stats;
    let (diary, mut sockets) = server.lend();
    let [ann_id, bob_id] = ["ann", "bob"].map(|who| diary.id(who));
    sockets.get(ann_id).unwrap().ping(b"").ok().unwrap();
    sockets.emit_to(bob_id, "to bob").unwrap();
    sockets.emit_to_list(&[bob_id, bob_id, Uuid::nil()], "list").to_string();
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
    ann.read(&mut server, to_ann);
    bob.read(&mut server, to_bob);
    let stats = server.stats();
    assert_eq!((stats.bytes_out - before.bytes_out) as usize, to_ann + to_bob);
    assert_eq!((stats.bytes_waiting, stats.most_waiting, stats.bytes_dropped), (0, 0, 0));
}

#[test]
fn what_is_queued_is_written_or_waits_or_is_dropped_with_its_connection() {
    let mut server = server_with(Server::builder().max_outbox(256 * 1024));
    server.route("/:name", enter).unwrap();
    let _ann = Raw::upgrade(&mut server, "/ann");
    let before = server.stats();
    let mut emits = 0;
    let refused = with_socket(&mut server, "ann", |kws| {
        loop {
            match kws.emit(vec![7; 1000]) {
                Emitted::Refused(refused) => break refused,
                _ => emits += 1,
            }
        }
    });
    assert_eq!(refused, EmitError::Full);
    let stats = server.stats();
    assert_eq!(stats.messages_out - before.messages_out, emits);
    assert_eq!(causes(stats.emits_refused.iter()), [("full", 1)]);
    assert_eq!(disconnects(&server), [("slow_consumer", 1)]);
    let written = stats.bytes_out - before.bytes_out;
    // A close frame, if the stream was not cut inside a message.
    let last_words = stats.bytes_waiting as u64;
    assert!(last_words < 64 && stats.bytes_dropped > 200_000);
    assert_eq!(written + stats.bytes_dropped, emits * 1004);
}

#[test]
fn a_large_message_is_counted_as_written_when_it_goes_to_the_socket_at_once() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    let before = server.stats();
    let large = vec![7; 20_000];
    with_socket(&mut server, "ann", |kws| assert_eq!(kws.emit(&large), Emitted::Queued));
    assert_eq!(server.stats().bytes_out - before.bytes_out, 4 + 20_000);
    ann.read(&mut server, 4 + 20_000);
}

#[test]
fn whom_a_broadcast_did_not_reach_is_counted_as_refused() {
    let mut server = server_with(Server::builder().max_outbox(64 * 1024));
    server.route("/:name", enter).unwrap();
    let _stuck = Raw::upgrade(&mut server, "/stuck");
    let mut broadcasts = 0;
    while server.lend().1.broadcast(vec![7; 10_000]) == 1 {
        broadcasts += 1;
    }
    let stats = server.stats();
    assert_eq!((stats.messages_out, causes(stats.emits_refused.iter())), (broadcasts, vec![("full", 1)]));
}

#[test]
fn refused_emits_are_counted_by_cause() {
    let mut server = server_with(Server::builder().max_outbox(1024));
    server.route("/:name", enter).unwrap();
    let _ann = Client::connect(&mut server, "/ann");
    let refused = |server: &Server<Diary>| causes(server.stats().emits_refused.iter());
    assert_eq!(refused(&server), []);
    assert!(server.lend().1.emit_to(Uuid::nil(), "to nobody").is_err());
    assert_eq!(refused(&server), [("gone", 1)]);
    with_socket(&mut server, "ann", |kws| {
        assert!(kws.emit("x".repeat(2000)).ok().is_err());
        assert_eq!(kws.broadcast_all("x".repeat(2000)), 0);
        assert!(kws.ping("x".repeat(126)).ok().is_err(), "a ping is no message");
        kws.close();
        assert!(kws.emit("too late").ok().is_err());
    });
    assert_eq!(refused(&server), [("closed", 1), ("gone", 1), ("too_large", 2)]);
    let EmitsRefused { closed, gone, too_large, full, .. } = server.stats().emits_refused;
    assert_eq!(closed + gone + too_large + full, server.stats().emits_refused.total());
}

// The loop.

#[test]
fn turns_are_counted_and_measured_only_if_that_is_asked_for() {
    let mut server = server();
    (0..5).for_each(|_| _ = server.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!((server.stats().turns, server.stats().turn_durations), (5, None));

    let mut server = server_with(Server::builder().measure_turns(true));
    server.route("/:name", |_, _| busy(Duration::from_millis(5))).unwrap();
    let _ann = Client::connect(&mut server, "/ann");
    let stats = server.stats();
    let durations = stats.turn_durations.unwrap();
    assert_eq!(durations.buckets.iter().sum::<u64>(), stats.turns);
    // The turn with the busy callback is not in a bucket up to 4.096 ms.
    assert_eq!(TurnDurations::bound(12), Some(Duration::from_micros(4096)));
    assert!(durations.buckets[13..].iter().sum::<u64>() >= 1 && durations.sum >= Duration::from_millis(5));

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
    let mut server = server_with(Server::builder().measure_turns(true));
    server.route("/:name", enter).unwrap();
    server.get("/metrics", |_, sockets, _| Response::text(sockets.stats().to_prometheus())).unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("hello");
    turn_until(&mut server, |server| server.state().has("ann", "message"));
    let response = ask(&mut server, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(response.contains("\r\nContent-Type: text/plain"), "{response}");
    for line in [
        "# TYPE ikisocket_connections gauge",
        "ikisocket_connections{state=\"open\"} 1",
        "ikisocket_messages_received_total 1",
        "ikisocket_disconnects_total{cause=\"clean\"} 0",
    ] {
        assert!(response.lines().any(|each| each == line), "{line}: {response}");
    }
    let turns = response.lines().find_map(|line| line.strip_prefix("ikisocket_turns_total ")).unwrap();
    assert!(response.contains(&format!("ikisocket_turn_duration_seconds_bucket{{le=\"+Inf\"}} {turns}\n")));
}

/// The owner of the loop is busy with something else.
fn busy(time: Duration) {
    let started = std::time::Instant::now();
    while started.elapsed() < time {
        std::hint::spin_loop();
    }
}
