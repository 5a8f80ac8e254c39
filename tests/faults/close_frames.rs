//! Peers that violate the order of a close: the connection still ends, and once.

use std::time::{Duration, Instant};

use ikisocket::Server;

use crate::kit::*;
use crate::stages::{assert_served, turn_until_let_go};

#[test]
fn a_close_frame_within_a_message_ends_both_and_no_listener_sees_it() {
    let mut server = echo(Server::builder());
    let mut witness = Peer::open(&mut server, "/ws");
    for (name, begun) in [
        ("a text", fragment(TEXT, "half")),
        ("a binary", fragment(BINARY, [7; 200])),
        ("half a character", fragment(TEXT, [0xF0, 0x9F])),
        (
            "several fragments",
            [fragment(TEXT, "a"), fragment(CONTINUATION, "b"), fragment(CONTINUATION, "")].concat(),
        ),
    ] {
        let rest = frame(CONTINUATION, "the rest");
        for together in [true, false] {
            server.state_mut().clear();
            let mut peer = Peer::open(&mut server, "/ws");
            let bytes = [&begun[..], &close(1000, "enough"), &rest].concat();
            if together {
                peer.send(&mut server, bytes);
            } else {
                for byte in bytes {
                    peer.send(&mut server, [byte]);
                    turn(&mut server);
                }
            }
            peer.expect_close(&mut server, 1000);
            peer.part(&mut server);
            assert_eq!(*server.state(), ["connect", "disconnect 1000 \"enough\" clean"], "{name}");
        }
    }
    assert_served(&mut server, &mut witness, "still here");
}

#[test]
fn endless_input_behind_a_close_frame_ends_in_one_disconnect() {
    let mut server = echo(Server::builder().close_timeout(Duration::from_millis(100)));
    let mut witness = Peer::open(&mut server, "/ws");
    for behind in [frame(TEXT, "late"), close(1001, "again"), frame(PING, "late"), vec![0; 16]] {
        server.state_mut().clear();
        let mut peer = Peer::open(&mut server, "/ws");
        peer.send(&mut server, close(1000, ""));
        let behind = behind.repeat(16 * 1024 / behind.len());
        let patience = Instant::now() + PATIENCE;
        while peer.is_connected() {
            peer.try_send(&mut server, &behind);
            assert!(Instant::now() < patience, "it may go on for ever");
        }
        assert_eq!(*server.state(), ["connect", "disconnect 1000 \"\" clean"]);
        assert_served(&mut server, &mut witness, "still here");
    }
}

#[test]
fn whatever_comes_behind_our_own_close_frame_but_the_peers_is_ignored() {
    for behind in [frame(TEXT, "late"), frame(PING, "late"), fragment(TEXT, "half of it")] {
        let mut server = echo(Server::builder());
        let mut peer = Peer::open(&mut server, "/ws");
        server.sockets().for_each(|kws| kws.close());
        peer.send(&mut server, [&behind[..], &close(1000, "")].concat());
        peer.expect_close(&mut server, 1000);
        peer.finish();
        turn_until_let_go(&mut server, None, || {});
        assert_eq!(
            *server.state(),
            [
                "connect",
                "close 1000 \"Connection closed\"",
                "disconnect 1000 \"Connection closed\" clean"
            ]
        );
    }
}
