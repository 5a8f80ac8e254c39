//! Peers that vanish, flood or stop half-way: nobody else notices, and the loop neither grows nor spins.

use std::time::Duration;

use ikisocket::{Response, Server};
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

/// Turns until there is nothing to do at once, or fails: a loop that always has something to do spins.
fn turn_until_quiet<S>(server: &mut Server<S>) {
    for _ in 0..100 {
        server.poll(Some(Duration::ZERO)).unwrap();
    }
    assert_ne!(server.next_timeout(), Some(Duration::ZERO), "the loop spins");
}

#[test]
fn a_reset_at_any_moment_ends_one_connection_and_disturbs_nobody() {
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
            let mut peer = Peer::connect(&server);
            peer.send(&mut server, &bytes);
            if turned {
                turn(&mut server);
            }
            peer.reset();
            turn_until_closed(&mut server, 1);
            let disconnects = server.state().iter().filter(|line| line.starts_with("disconnect")).count();
            // A reset may overtake what was sent before it: without a turn in between the connection may never have opened.
            assert!(!turned || disconnects == usize::from(opens), "{name}: {:?}", server.state());
            witness.send(&mut server, frame(TEXT, name));
            witness.expect_text(&mut server, name);
        }
    }
    turn_until(&mut server, "nobody but the witness", |server| server.lend().1.len() == 1);
    assert_serves(&mut server);
}

#[test]
fn a_fin_without_a_close_frame_is_an_error_and_what_was_sent_before_it_counts() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, frame(TEXT, "last words"));
    peer.finish();
    peer.expect_text(&mut server, "last words");
    assert_eq!(peer.end(&mut server), End::Fin);
    turn_until_logged(&mut server, "disconnect", 1);
    assert_eq!(*server.state(), ["connect", "message \"last words\"", "error Lost", "disconnect Lost"]);
}

#[test]
fn a_peer_that_pings_without_reading_costs_one_pong() {
    const BUFFER: usize = 16 * 1024;
    const PINGS: u32 = 30_000;
    let mut server = Server::builder().receive_buffer(BUFFER).build(()).unwrap();
    server.listen("127.0.0.1:0").unwrap();
    server.route("/ws", |_, kws| SockRef::from(&kws.conn().fd().unwrap()).set_send_buffer_size(4096).unwrap()).unwrap();
    let mut peer = Peer::connect_narrow(&server, 4096).upgrade(&mut server, "/ws");
    let uuid = server.lend().1.uuids()[0];
    let mut most = 0;
    let ping = |number: u32| frame(PING, [&number.to_be_bytes()[..], &[7; 121]].concat());
    for number in (0..PINGS).step_by(100) {
        peer.send(&mut server, (number..number + 100).flat_map(ping).collect::<Vec<u8>>());
        turn(&mut server);
        most = most.max(server.lend().1.get(uuid).unwrap().waiting());
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
fn a_peer_that_sends_fin_and_then_reads_slowly_does_not_make_the_loop_spin() {
    let mut server = echo(Server::builder().max_outbox(16 << 20));
    server.get("/big", |_, _, _| Response::new(200).with_body(vec![b'x'; 8 << 20])).unwrap();

    let mut page = Peer::connect_narrow(&server, 4096);
    page.send(&mut server, get("/big"));
    page.finish();
    turn_until_quiet(&mut server);
    let page = page.response(&mut server);
    page.assert_whole();

    // With and without a close frame.
    for (bytes, frames) in [(vec![], 1), (close(1000, ""), 2)] {
        let mut peer = Peer::connect_narrow(&server, 4096).upgrade(&mut server, "/ws");
        let (_, mut sockets) = server.lend();
        sockets.broadcast(vec![b'x'; 8 << 20]);
        peer.send(&mut server, bytes);
        peer.finish();
        turn_until_quiet(&mut server);
        assert_eq!(peer.end(&mut server), End::Fin);
        assert_eq!(peer.frames().len(), frames);
        turn_until(&mut server, "the end", |server| server.lend().1.is_empty());
    }
}

#[test]
fn a_peer_that_never_stops_sending_after_its_refusal_is_cut_off() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::connect(&server);
    peer.send(&mut server, upgrade("/nothing", ""));
    let mut sent = 0;
    while peer.is_connected() {
        peer.try_send(&mut server, &[0; 16 * 1024]);
        sent += 16 * 1024;
        assert!(sent < 16 << 20, "it may go on for ever");
    }
    assert!(sent >= 256 * 1024, "cut off after {sent} bytes");
    assert_serves(&mut server);
}

#[test]
fn garbage_of_any_kind_ends_one_connection_and_never_the_loop() {
    let mut server = echo(Server::builder());
    let mut random = Random(0x1BAD_5EED);
    for round in 0..300 {
        let mut peer = match round % 3 {
            0 => Peer::connect(&server),
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
    turn_until(&mut server, "the end of all", |server| server.lend().1.is_empty());
    let count = |what: &str| server.state().iter().filter(|line| line.starts_with(what)).count();
    assert_eq!((count("connect"), count("disconnect")), (200, 200));
    assert_serves(&mut server);
}

#[test]
fn nobody_waits_for_a_peer_that_sends_without_end() {
    let mut server = echo(Server::builder().receive_buffer(1024));
    let mut greedy = Peer::open(&mut server, "/ws");
    let mut modest = Peer::open(&mut server, "/ws");
    // Far more than a turn's share of it is in the socket before the other one sends.
    greedy.send_at_once(&frame(TEXT, "a lot").repeat(10_000));
    modest.send_at_once(&frame(TEXT, "me too"));
    modest.expect_text(&mut server, "me too");
    assert!(server.state().len() < 2000, "{} messages came before it", server.state().len());
    turn_until_logged(&mut server, "message", 10_001);
}
