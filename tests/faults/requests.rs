//! Requests that take their time.

use std::time::{Duration, Instant};

use ikisocket::Server;

use crate::alone::{alone, heap};
use crate::kit::*;

const TIMEOUT: Duration = Duration::from_secs(1);
const SLOW: usize = 1000;
/// The same over TLS, where the time counts for the handshakes too.
const TIMEOUT_TLS: Duration = Duration::from_secs(4);
const SLOW_TLS: usize = 200;

#[test]
fn a_thousand_slow_requests_end_in_time_and_others_are_served_meanwhile() {
    alone(
        "requests::a_thousand_slow_requests_end_in_time_and_others_are_served_meanwhile",
        2 * SLOW as u32 + 100,
        a_thousand_slow_requests,
    );
}

fn a_thousand_slow_requests() {
    // One byte now and then is no reason to wait longer for any of them.
    let (timeout, slow_ones) = if over_tls() { (TIMEOUT_TLS, SLOW_TLS) } else { (TIMEOUT, SLOW) };
    let mut server = echo(Server::builder().handshake_timeout(timeout));
    let mut witness = Peer::open(&mut server, "/ws");
    let head = upgrade("/ws", &format!("X: {}\r\n", "a".repeat(1000)));
    let (mut rounds, started) = (0, Instant::now());
    let mut slow = Vec::with_capacity(slow_ones);
    let (before, mut most) = (heap(), 0);
    while slow.len() < slow_ones {
        let mut peer = Peer::connect(&mut server);
        peer.send_at_once(&head.as_bytes()[..1]);
        slow.push((peer, 1));
        // The system keeps only a limited number of connections until they are accepted.
        if slow.len() % 50 == 0 {
            turn(&mut server);
        }
    }
    turn_until(&mut server, "the first answer", |server| {
        for (peer, sent) in slow.iter_mut().skip(rounds % 4).step_by(4) {
            peer.send_at_once(&head.as_bytes()[*sent..=*sent]);
            *sent += 1;
        }
        witness.send_at_once(&frame(TEXT, rounds.to_string()));
        turn_until(server, "the answer to the open connection", |_| {
            witness.read_some(usize::MAX) > 0
        });
        witness.expect_text(server, &rounds.to_string());
        if rounds % 20 == 0 {
            Peer::open(server, "/ws").reset();
        }
        rounds += 1;
        most = most.max(heap() - before);
        slow.iter_mut().any(|(peer, _)| peer.read_some(usize::MAX) > 0)
    });
    // The loop's clock shows whole milliseconds.
    let (elapsed, least) = (started.elapsed(), timeout - Duration::from_millis(1));
    assert!(elapsed >= least, "{elapsed:?} is early");
    assert!(rounds > 3, "{rounds} rounds");
    for (peer, sent) in &mut slow {
        assert!(*sent < head.len());
        let response = peer.response(&mut server);
        response.assert_whole();
        assert_eq!(response.status(), 408);
    }
    drop(slow);
    turn_until(&mut server, "only the witness", |server| server.sockets().len() == 1);
    let most = most / slow_ones as isize;
    println!("{rounds} rounds, {most} bytes of live heap for each slow request");
    // Over TLS most of it is the clients'.
    assert!(over_tls() || most < 1024, "{most} bytes of live heap");
}
