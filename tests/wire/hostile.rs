//! Peers that vanish, flood or stop half-way: no other peer notices, and the loop neither grows nor
//! spins.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use ikisocket::{Event, Response, Server};
use socket2::SockRef;

use crate::kit::*;

/// Asserts that a newcomer is served.
fn assert_serves(server: &mut Server<Log>) {
    let mut peer = Peer::open(server, "/ws");
    peer.send(server, frame(TEXT, "hello"));
    peer.expect_text(server, "hello");
    peer.send(server, close(1000, ""));
    peer.expect_close(server, 1000);
    peer.part(server);
}

/// Turns until there is nothing to do at once, or fails: a loop that always has something to do
/// spins.
fn turn_until_quiet<S>(server: &mut Server<S>) {
    for _ in 0..100 {
        server.poll(Some(Duration::ZERO)).unwrap();
    }
    assert_ne!(server.next_timeout(), Some(Duration::ZERO), "the loop spins");
}

#[test]
fn a_reset_at_any_moment_ends_one_connection_and_disturbs_no_other() {
    let mut server = echo(Server::builder());
    let mut witness = Peer::open(&mut server, "/ws");
    let head = upgrade("/ws", "");
    let head = head.as_bytes();
    let opened = |bytes: &[u8]| [head, bytes].concat();
    let moments: [(&str, Vec<u8>, bool); 10] = [
        ("before the first byte", vec![], false),
        ("in the head", head[..50].to_vec(), false),
        ("behind a refused head", upgrade("/nothing", "").into_bytes(), false),
        ("behind the head", head.to_vec(), true),
        ("in a frame's header", opened(&[0x81]), true),
        ("in a frame's payload", opened(&raw(FIN | TEXT, 100, b"half")), true),
        ("between fragments", opened(&fragment(TEXT, "half")), true),
        ("behind a message", opened(&frame(TEXT, "whole")), true),
        ("behind a ping", opened(&frame(PING, "whole")), true),
        ("behind a close", opened(&close(1000, "")), true),
    ];
    for (name, bytes, opens) in moments {
        for turned in [false, true] {
            server.state_mut().clear();
            let mut peer = Peer::connect(&mut server);
            peer.send(&mut server, &bytes);
            if turned {
                turn(&mut server);
            }
            peer.reset();
            turn_until_closed(&mut server, 1);
            let disconnects =
                server.state().iter().filter(|line| line.starts_with("disconnect")).count();
            // A reset may overtake what was sent before it: without a turn in between the
            // connection may never have opened.
            assert!(!turned || disconnects == usize::from(opens), "{name}: {:?}", server.state());
            witness.send(&mut server, frame(TEXT, name));
            witness.expect_text(&mut server, name);
        }
    }
    turn_until(&mut server, "only the witness", |server| server.sockets().len() == 1);
    assert_serves(&mut server);
}

#[test]
fn a_fin_without_a_close_frame_is_an_error_and_what_came_before_counts() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, frame(TEXT, "last words"));
    peer.finish();
    peer.expect_text(&mut server, "last words");
    assert_eq!(peer.end(&mut server), End::Fin);
    turn_until_logged(&mut server, "disconnect", 1);
    assert_eq!(
        *server.state(),
        ["connect", "message \"last words\"", "error Lost", "disconnect Lost"]
    );
}

#[test]
fn a_peer_that_pings_without_reading_costs_one_pong() {
    const BUFFER: usize = 16 * 1024;
    const PINGS: u32 = 30_000;
    let mut server = Server::builder().receive_buffer(BUFFER).build(()).unwrap();
    listen(&mut server);
    server
        .route("/ws", |_, kws| {
            SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(4096).unwrap()
        })
        .unwrap();
    let mut peer = Peer::connect_narrow(&mut server, 4096).upgrade(&mut server, "/ws");
    let uuid = server.sockets().uuids()[0];
    let mut most = 0;
    let ping = |number: u32| frame(PING, [&number.to_be_bytes()[..], &[7; 121]].concat());
    for number in (0..PINGS).step_by(100) {
        peer.send(&mut server, (number..number + 100).flat_map(ping).collect::<Vec<u8>>());
        turn(&mut server);
        most = most.max(server.sockets().get(uuid).unwrap().waiting_bytes());
    }
    assert!(most > 0, "it was blocked");
    assert!(most <= BUFFER + 127, "{most} bytes waited");
    // What arrives are whole pongs, none twice, and the one for the last ping is among them.
    peer.send(&mut server, close(1000, ""));
    let mut answered = std::collections::BTreeSet::new();
    loop {
        let frame = peer.frame(&mut server);
        if frame.opcode == CLOSE {
            break;
        }
        assert_eq!((frame.opcode, frame.payload.len()), (PONG, 125));
        assert!(answered.insert(u32::from_be_bytes(*frame.payload.first_chunk().unwrap())));
    }
    assert_eq!(answered.last(), Some(&(PINGS - 1)));
    assert!(answered.len() < PINGS as usize, "older pongs were left out");
}

#[test]
fn a_peer_that_sends_fin_and_reads_slowly_does_not_make_the_loop_spin() {
    let mut server = echo(Server::builder().max_outbox(16 << 20));
    server.get("/big", |_, _, _| Response::new(200).with_body(vec![b'x'; 8 << 20])).unwrap();

    let mut page = Peer::connect_narrow(&mut server, 4096);
    page.send(&mut server, get("/big"));
    page.finish();
    turn_until_quiet(&mut server);
    let page = page.response(&mut server);
    page.assert_whole();

    // With and without a close frame.
    for (bytes, frames) in [(vec![], 1), (close(1000, ""), 2)] {
        let mut peer = Peer::connect_narrow(&mut server, 4096).upgrade(&mut server, "/ws");
        let mut sockets = server.sockets();
        sockets.broadcast(vec![b'x'; 8 << 20]);
        peer.send(&mut server, bytes);
        peer.finish();
        turn_until_quiet(&mut server);
        assert_eq!(peer.end(&mut server), End::Fin);
        assert_eq!(peer.frames().len(), frames);
        turn_until(&mut server, "the end", |server| server.sockets().is_empty());
    }
}

#[test]
fn a_peer_that_never_stops_sending_after_its_refusal_is_cut_off() {
    let mut server = echo(Server::builder().close_timeout(Duration::from_millis(100)));
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, upgrade("/nothing", ""));
    let patience = Instant::now() + PATIENCE;
    while peer.is_connected() {
        peer.try_send(&mut server, &[0; 16 * 1024]);
        assert!(Instant::now() < patience, "it may go on for ever");
    }
    assert_serves(&mut server);
}

/// A reset would overtake the last bytes sent (RFC 6455 §7.1.1, RFC 9112 §9.6).
#[test]
fn a_client_that_is_still_sending_learns_why_it_was_closed() {
    let much = frame(BINARY, vec![0; 60_000]).repeat(60);
    let faults: [(&str, Vec<u8>, u16); 5] = [
        ("not UTF-8", frame(TEXT, [0xFF]), 1007),
        ("a reserved opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        (
            "fragments of nothing",
            [fragment(TEXT, ""), fragment(CONTINUATION, "").repeat(1001)].concat(),
            1008,
        ),
        ("too large", [&[0x82, 0xFF][..], &3_000_000_u64.to_be_bytes(), &[0; 4]].concat(), 1009),
        ("a panic", frame(TEXT, "panic"), 1011),
    ];
    for (name, fault, code) in faults {
        let mut server = echo(Server::builder().max_message(65_536));
        server.on(Event::Message, |_, ep| {
            if ep.data.as_str() == Some("panic") {
                resume_unwind(Box::new("on purpose")); // which prints nothing
            }
        });
        let mut peer = Peer::open(&mut server, "/ws");
        peer.send(&mut server, [&fault[..], &much].concat());
        if code == 1011 {
            peer.expect_text(&mut server, "panic");
        }
        peer.expect_close(&mut server, code);
        assert_eq!(peer.end(&mut server), End::Fin, "{name}");
    }
}

#[test]
fn a_client_that_sends_a_long_body_reads_its_refusal() {
    let mut server = echo(Server::builder());
    server.get("/page", |_, _, _| Response::text("a page")).unwrap();
    for (path, status) in [("/page", 405), ("/ws", 405), ("/nothing", 404)] {
        let mut peer = Peer::connect(&mut server);
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n");
        peer.send(&mut server, [head.as_bytes(), &[b'x'; 5_000_000]].concat());
        assert_eq!(peer.response(&mut server).status(), status);
    }
}

#[test]
fn garbage_of_any_kind_ends_one_connection_and_never_the_loop() {
    let mut server = echo(Server::builder());
    let mut random = Random(0x1BAD_5EED);
    for round in 0..300 {
        let mut peer = match round % 3 {
            0 => Peer::connect(&mut server),
            _ => Peer::open(&mut server, "/ws"),
        };
        let len = 1 + random.below(if round % 50 == 0 { 50_000 } else { 300 });
        let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        if round % 3 == 1 {
            // Garbage that begins well.
            bytes = [frame(TEXT, "fine"), bytes].concat();
        }
        peer.try_send(&mut server, &bytes);
        peer.reset();
    }
    turn_until(&mut server, "the end of all", |server| server.sockets().is_empty());
    let count = |what: &str| server.state().iter().filter(|line| line.starts_with(what)).count();
    assert_eq!((count("connect"), count("disconnect")), (200, 200));
    assert_serves(&mut server);
}

#[test]
fn no_connection_waits_for_a_peer_that_sends_without_end() {
    let mut server = echo(Server::builder().receive_buffer(1024));
    let mut greedy = Peer::open(&mut server, "/ws");
    let mut modest = Peer::open(&mut server, "/ws");
    // Far more than a turn's share of it is in the socket before the other one sends.
    greedy.send_at_once(&frame(TEXT, "a lot").repeat(10_000));
    modest.send_at_once(&frame(TEXT, "me too"));
    modest.expect_text(&mut server, "me too");
    let before = server.state().iter().position(|line| line.contains("me too")).unwrap();
    assert!(before < 4096, "{before} messages came before it, which is half of a turn");
    turn_until_logged(&mut server, "message", 10_001);
}
