//! Churn: connections that begin and end without pause leave nothing behind.

use ikisocket::Server;

use crate::alone::{alone, descriptors, heap};
use crate::kit::*;
use crate::stages::{STAGES, assert_served, obliging, turn_until_let_go};

/// How often each stage is gone through: with all stages, more than 10 000 connections.
const ROUNDS: usize = 600;
/// The same over TLS, where each connection has a handshake.
const ROUNDS_TLS: usize = 30;
/// What may be there once the buffers that are kept for reuse are, in bytes. One byte for each
/// connection would be more.
const GROWTH: isize = 4096;

#[test]
fn ten_thousand_resets_leave_no_memory_and_no_descriptor_behind() {
    alone(
        "churn::ten_thousand_resets_leave_no_memory_and_no_descriptor_behind",
        200,
        ten_thousand_resets,
    );
}

fn ten_thousand_resets() {
    let mut server = obliging(Server::builder());
    let mut witness = Peer::open(&mut server, "/ws");
    let mut round = |server: &mut Server<Log>| {
        for stage in STAGES {
            server.state_mut().clear();
            (stage.enter)(server).reset();
            turn_until_let_go(server, None, || {});
        }
        assert_served(server, &mut witness, "still here");
        server.state_mut().clear();
    };
    for _ in 0..10 {
        round(&mut server);
    }
    let before = (heap(), descriptors());
    let rounds = if over_tls() { ROUNDS_TLS } else { ROUNDS };
    for _ in 0..rounds {
        round(&mut server);
    }
    let after = (heap(), descriptors());
    assert!(ROUNDS * STAGES.len() > 10_000);
    println!("heap and descriptors: {before:?} before, {after:?} after");
    assert_eq!(after.1, before.1);
    assert!(after.0 - before.0 < GROWTH, "{before:?}, {after:?}");
    assert_eq!(server.sockets().len(), 1);
}
