//! A peer that reads more slowly than the server writes affects no other connection.
//!
//! In memory, the tests know to the byte what is on its way and what waits. A system's socket takes
//! an unknown number of bytes at once, and makes any number of partial writes. So a large message
//! and a storm of small ones have tests over TCP.

mod common;

use std::time::Duration;

use common::{
    Client, Diary, connect, enter, memory_server, memory_server_with, server_with, with_socket,
};
use ikisocket::testing::{self, Faults, Harness, Received, Upgrade};
use ikisocket::{EmitError, Emitted, Error, Server};
use tungstenite::Message;

const KIB: usize = 1024;
/// The default of [`ikisocket::Builder::stall_timeout`].
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const MILLISECOND: Duration = Duration::from_millis(1);

fn harness(max_outbox: usize) -> Harness<Diary> {
    let mut server = memory_server_with(Server::builder().max_outbox(max_outbox));
    server.route("/:name", enter).unwrap();
    common::harness(server)
}

/// A client that has stopped reading when `window` bytes behind the response to its request are on
/// their way to it.
fn connect_stuck(test: &mut Harness<Diary>, name: &str, window: usize) -> testing::Client {
    let stuck = test
        .connect(Upgrade::to(format!("/{name}")).faults(Faults::none().window(window)))
        .unwrap();
    test.stop_reading(stuck);
    stuck
}

#[test]
fn a_reader_that_stopped_delays_no_broadcast_and_is_given_up_as_slow() {
    let mut test = harness(256 * KIB);
    let [early] = connect(&mut test, ["early"]);
    connect_stuck(&mut test, "stopped", 20 * KIB);
    let [late] = connect(&mut test, ["late"]);

    // 20 KiB are on their way to it and 256 KiB wait: 34 frames of 8 KiB and 4 bytes fit. Over TLS
    // a record is on its way as a whole, except for its last byte.
    for number in 0..40 {
        let text = format!("{number:05}{}", "x".repeat(8 * KIB - 5));
        let reached = test.server().sockets().broadcast(&text);
        assert_eq!(reached, if number < 34 { 3 } else { 2 }, "{number}");
        for reader in [early, late] {
            test.expect(reader, [&*text]);
        }
    }
    let on_its_way = if common::over_tls() { 3 * (8 * KIB + 4) - 1 } else { 20 * KIB };
    let waiting = 34 * (8 * KIB + 4) - on_its_way;
    assert_eq!(
        test.state().errors("stopped"),
        [Error::SlowConsumer { frame: 8 * KIB + 4, waiting, limit: 256 * KIB }]
    );
    assert_eq!(test.state().events("stopped"), ["connect", "error", "disconnect"]);
    assert_eq!(test.server().sockets().len(), 2);
}

#[test]
fn a_full_outbox_fails_the_emit_then_whole_frames_and_1008_or_a_reset() {
    // A window of whole frames, and one that cuts one. Over TLS a record that was offered to the
    // socket arrives whole, wherever the window ends.
    let close = [Received::close(1008, "too slow: messages were waiting"), Received::Fin];
    let ends = match common::over_tls() {
        true => [(11, close.to_vec()), (11, close.to_vec())],
        false => [(10, close.to_vec()), (10, vec![Received::Reset])],
    };
    let window = 10 * (1004 + common::record_overhead());
    for (window, (frames, end)) in [window, window + 1].into_iter().zip(ends) {
        let mut test = harness(64 * KIB);
        let ann = connect_stuck(&mut test, "ann", window);
        let full = loop {
            let emitted = with_socket(test.server(), "ann", |kws| {
                assert!(kws.waiting_bytes() <= 64 * KIB);
                kws.emit(vec![7; 1000])
            });
            if let Emitted::Refused(refusal) = emitted {
                break refusal;
            }
        };
        assert_eq!(full, EmitError::Full);
        assert!(test.state().is_gone("ann"));
        test.resume_reading(ann);
        test.expect(ann, [vec![Received::binary([7; 1000]); frames], end].concat());
    }
}

#[test]
fn emit_says_when_there_is_pressure_and_everything_arrives_all_the_same() {
    let mut test = harness(KIB * KIB);
    let ann = connect_stuck(&mut test, "ann", 16 * KIB);
    let mut sent = Vec::new();
    with_socket(test.server(), "ann", |kws| {
        let mut emit = |length| {
            sent.push(format!("{:05}{}", sent.len(), "x".repeat(length)));
            kws.emit(sent.last().unwrap())
        };
        while emit(2000) == Emitted::Queued {}
        for _ in 0..20 {
            assert_eq!(emit(0), Emitted::Pressure);
        }
        assert!(kws.waiting_bytes() > 0);
    });
    test.resume_reading(ann);
    test.expect(ann, sent);
    assert_eq!(with_socket(test.server(), "ann", |kws| kws.waiting_bytes()), 0);
    assert_eq!(with_socket(test.server(), "ann", |kws| kws.emit("room again")), Emitted::Queued);
}

#[test]
fn a_hundred_thousand_emits_in_the_route_callback_all_arrive() {
    let mut server = server_with(Server::builder());
    server
        .route("/", |_, kws| {
            for i in 0..100_000 {
                assert!(kws.emit(format!("{i}")).ok().is_ok());
            }
        })
        .unwrap();
    let mut client = Client::connect(&mut server, "/");
    for i in 0..100_000 {
        assert_eq!(client.text(&mut server), i.to_string());
    }
}

#[test]
fn a_large_message_passes_a_narrow_socket_whole_and_in_order() {
    let mut server = server_with(Server::builder().max_outbox(4 * KIB * KIB));
    server
        .route("/:name", |diary, kws| {
            // Little room in the system's buffers, so that they are full soon.
            socket2::SockRef::from(&kws.transport().fd().unwrap())
                .set_send_buffer_size(16 * KIB)
                .unwrap();
            enter(diary, kws);
        })
        .unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    let large: Vec<u8> = (0..3 * KIB * KIB).map(|i| (i % 251) as u8).collect();
    with_socket(&mut server, "ann", |kws| {
        kws.emit("before");
        kws.emit(&large);
        kws.emit("after");
    });
    assert_eq!(ann.text(&mut server), "before");
    assert!(ann.next(&mut server) == Message::binary(large));
    assert_eq!(ann.text(&mut server), "after");
}

#[test]
fn a_peer_that_takes_nothing_of_what_waits_is_disconnected_as_stalled() {
    let mut test = common::harness(memory_server());
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(KIB))).unwrap();
    test.stop_reading(ann);
    with_socket(test.server(), "ann", |kws| kws.emit(vec![0; 20 * KIB]));
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    // A single byte that it takes gives it the same time again. What it sends does not change that
    // time, but keeps it from being silent.
    test.read_more(ann, 1);
    test.pong(ann, "");
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect", "pong"]);
    test.advance(MILLISECOND);
    assert_eq!(test.state().errors("ann"), [Error::Stalled(STALL_TIMEOUT)]);
    assert_eq!(test.state().events("ann"), ["connect", "pong", "error", "disconnect"]);
}

#[test]
fn the_stall_timeout_not_the_close_timeout_drops_what_waits_for_a_close() {
    let mut test = common::harness(memory_server());
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(KIB))).unwrap();
    test.stop_reading(ann);
    // A second one, whose close is on the wire at once, and that does not answer it.
    test.connect(Upgrade::to("/bob").unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| {
        kws.emit(vec![7; 900 * KIB]);
        kws.close();
    });
    with_socket(test.server(), "bob", |kws| kws.close());
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    assert_eq!(test.state().events("bob"), ["connect", "close", "disconnect"]);
    assert_eq!(test.state().events("ann"), ["connect", "close"]);
    test.advance(MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect", "close", "error", "disconnect"]);
    let disconnect = test.state().only("ann", "disconnect");
    assert_eq!(
        (disconnect.error.clone(), disconnect.clean),
        (Some(Error::Stalled(STALL_TIMEOUT)), false)
    );
}
