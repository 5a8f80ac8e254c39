//! Liveness: pings after silence, and the end of peers that answer nothing. The tests set the time.

mod common;

use std::time::Duration;

use common::{Diary, enter, memory_server_with, with_socket};
use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::testing::{Client, Faults, Harness, Received, Upgrade};
use ikisocket::{Error, Server};

const PING_AFTER: Duration = Duration::from_secs(25);
const DEAD_AFTER: Duration = Duration::from_secs(20);
const MILLISECOND: Duration = Duration::from_millis(1);

fn harness() -> Harness<Diary> {
    let mut server = memory_server_with(Server::builder());
    server.route("/:name", enter).unwrap();
    common::harness(server)
}

/// A client that gives no sign of life by itself.
fn mute(test: &mut Harness<Diary>, path: &str) -> Client {
    test.connect(Upgrade::to(path).unresponsive()).unwrap()
}

fn pinged() -> [Received; 1] {
    [Received::Ping(vec![])]
}

#[test]
fn a_quiet_client_that_answers_its_pings_stays() {
    let mut test = harness();
    let ann = test.connect("/ann").unwrap();
    for _ in 0..4 {
        test.advance(PING_AFTER - MILLISECOND);
        test.expect_nothing(ann); // not before its time
        test.advance(MILLISECOND);
        test.expect(ann, pinged());
    }
    assert_eq!(test.state().events("ann"), ["connect", "pong", "pong", "pong", "pong"]);
}

#[test]
fn a_silent_peer_is_disconnected_and_one_that_talks_without_pongs_is_not() {
    let mut test = harness();
    let talker = mute(&mut test, "/talker");
    let silent = mute(&mut test, "/silent");
    test.advance(PING_AFTER);
    test.expect(talker, pinged()); // and it gives no pong
    test.send(talker, "blah");
    test.advance(DEAD_AFTER - MILLISECOND);
    assert!(!test.state().is_gone("silent"));
    test.advance(MILLISECOND);
    let silence = || Error::Silent(PING_AFTER + DEAD_AFTER);
    assert_eq!(test.state().errors("silent"), [silence()]);
    assert_eq!(test.state().only("silent", "disconnect").error, Some(silence()));
    assert_eq!(test.state().events("silent"), ["connect", "error", "disconnect"]);
    test.expect(silent, [Received::Ping(vec![]), Received::Reset]);
    for _ in 0..10 {
        test.send(talker, "blah");
        test.advance(PING_AFTER + DEAD_AFTER - MILLISECOND);
    }
    assert!(!test.state().has("talker", "error") && !test.state().has("talker", "disconnect"));
}

#[test]
fn half_a_message_is_a_sign_of_life_too() {
    let mut test = harness();
    let slow = mute(&mut test, "/slow");
    let mut header = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Binary, 60_000) }
        .encode(&mut header);
    test.write(slow, &header);
    for _ in 0..10 {
        test.advance(PING_AFTER + DEAD_AFTER - MILLISECOND);
        test.write(slow, b"x");
    }
    assert_eq!(test.state().events("slow"), ["connect"]);
}

#[test]
fn no_peer_is_declared_dead_in_a_turn_that_left_input_unread() {
    let mut test = harness();
    let ann = mute(&mut test, "/ann");
    test.advance(PING_AFTER);
    test.send(ann, "in time");
    // The owner of the loop is busy for longer than Ann may be silent.
    test.skip(2 * (PING_AFTER + DEAD_AFTER));
    assert_eq!(test.state().events("ann"), ["connect", "message"]);
}

#[test]
fn a_late_ping_leaves_as_much_time_for_its_answer_as_one_in_time() {
    let mut test = harness();
    let ann = mute(&mut test, "/ann");
    // The owner of the loop is busy until both the ping and the answer would have been due.
    test.skip(2 * (PING_AFTER + DEAD_AFTER));
    test.expect(ann, pinged());
    test.advance(DEAD_AFTER - MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect"]);
    test.pong(ann, "");
    test.advance(MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect", "pong"]);
}

#[test]
fn without_a_ping_timeout_no_peer_is_pinged_or_disconnected() {
    let mut server = memory_server_with(Server::builder().ping_after(Duration::MAX));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    let ann = mute(&mut test, "/ann");
    test.advance(1_000_000 * PING_AFTER);
    test.expect_nothing(ann);
    assert_eq!(test.server().next_timeout(), None);
    assert_eq!(test.state().events("ann"), ["connect"]);
}

#[test]
fn a_peer_whose_input_was_deferred_is_read_before_it_is_declared_dead() {
    let mut server = memory_server_with(Server::builder().work_per_turn(2));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness_by_hand(server);
    let ann = mute(&mut test, "/ann");
    let bob = mute(&mut test, "/bob");
    test.advance(PING_AFTER);
    test.send(ann, "uses up");
    test.send(ann, "the turn");
    test.send(bob, "in time");
    test.skip(DEAD_AFTER);
    test.turn();
    assert_eq!(test.state().events("bob"), ["connect", "message"]);
}

#[test]
fn a_peer_whose_input_is_handled_late_is_not_taken_for_silent() {
    let mut server = memory_server_with(Server::builder().work_per_turn(2));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness_by_hand(server);
    let ann = mute(&mut test, "/ann");
    let mut message = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Text, 0) }.encode(&mut message);
    test.write(ann, &message.repeat(20));
    test.turn();
    // What she sends now waits behind them.
    test.send(ann, "still here");
    while test.state().events("ann").len() < 22 {
        test.skip(PING_AFTER);
        test.turn();
        assert!(!test.state().is_gone("ann"), "{:?}", test.state().events("ann"));
    }
    // From then on she is silent.
    test.skip(PING_AFTER);
    test.turn();
    test.skip(DEAD_AFTER);
    test.turn();
    assert_eq!(test.state().errors("ann"), [Error::Silent(PING_AFTER + DEAD_AFTER)]);
}

#[test]
fn after_an_answered_ping_the_next_is_due_in_time() {
    let mut server =
        memory_server_with(Server::builder().ping_after(PING_AFTER).dead_after(10 * PING_AFTER));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    for _ in 0..3 {
        test.advance(PING_AFTER);
        test.expect(ann, pinged());
    }
}

#[test]
fn after_progress_has_ended_a_ping_the_next_is_due_in_time() {
    // Once the socket is full again, and once it has taken everything.
    for (messages, reads) in [(20, 60 * 1024), (7, 60 * 1024)] {
        let settings = Server::builder().ping_after(PING_AFTER).dead_after(10 * PING_AFTER);
        let mut server = memory_server_with(settings.stall_timeout(Duration::MAX));
        server.route("/:name", enter).unwrap();
        let mut test = common::harness(server);
        let faults = Faults::none().window(64 * 1024);
        let ann = test.connect(Upgrade::to("/ann").faults(faults).unresponsive()).unwrap();
        test.stop_reading(ann);
        with_socket(test.server(), "ann", |kws| {
            (0..messages).for_each(|_| _ = kws.emit(vec![0; 10_000]))
        });
        test.advance(PING_AFTER);
        test.read_more(ann, reads);
        test.settle();
        test.advance(PING_AFTER);
        test.resume_reading(ann);
        let pings =
            test.received(ann).iter().filter(|each| matches!(each, Received::Ping(_))).count();
        assert_eq!(pings, 2);
    }
}
