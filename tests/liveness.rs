//! Who is alive: pings after silence, and the end of those who answer nothing.

mod common;

use std::time::Duration;

use common::{Client, PING, Raw, TEXT, busy, enter, frame, server_with, turn_until};
use ikisocket::{Error, Server};
use tungstenite::Message;

const PING_AFTER: Duration = Duration::from_millis(50);
const DEAD_AFTER: Duration = Duration::from_millis(400);

#[test]
fn a_quiet_client_that_answers_its_pings_stays() {
    let mut server = server_with(Server::builder().ping_after(PING_AFTER));
    server.route("/:name", enter).unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    for pongs in 1..=4 {
        assert_eq!(ann.next(&mut server), Message::Ping(b""[..].into()));
        ann.ws.flush().unwrap(); // The pong.
        turn_until(&mut server, |server| server.state().all("ann", "pong").len() == pongs);
    }
    assert_eq!(server.state().events("ann"), ["connect", "pong", "pong", "pong", "pong"]);
}

#[test]
fn a_silent_peer_is_disconnected_and_one_that_talks_but_never_pongs_is_not() {
    let mut server = server_with(Server::builder().ping_after(PING_AFTER).dead_after(DEAD_AFTER));
    server.route("/:name", enter).unwrap();
    let mut talker = Raw::upgrade(&mut server, "/talker");
    assert_eq!(talker.read(&mut server, 2), [0x80 | PING, 0], "it is asked, and gives no pong");
    let _silent = Raw::upgrade(&mut server, "/silent");
    turn_until(&mut server, |server| {
        talker.send(&frame(TEXT, b"blah"));
        server.state().is_gone("silent")
    });
    let silence = || Error::Silent(PING_AFTER + DEAD_AFTER);
    assert_eq!(server.state().errors("silent"), [silence()]);
    assert_eq!(server.state().only("silent", "disconnect").error, Some(silence()));
    assert_eq!(server.state().events("silent"), ["connect", "error", "disconnect"]);
    assert!(!server.state().has("talker", "error"));
    assert!(!server.state().has("talker", "disconnect"));
}

#[test]
fn half_a_message_is_a_sign_of_life_too() {
    let mut server = server_with(Server::builder().ping_after(PING_AFTER).dead_after(DEAD_AFTER));
    server.route("/:name", enter).unwrap();
    let mut slow = Raw::upgrade(&mut server, "/slow");
    assert_eq!(slow.read(&mut server, 2), [0x80 | PING, 0]);
    let _silent = Raw::upgrade(&mut server, "/silent");
    slow.send(&frame(TEXT, &[b'x'; 60_000])[..8]);
    turn_until(&mut server, |server| {
        slow.send(b"x");
        server.state().is_gone("silent")
    });
    assert_eq!(server.state().events("slow"), ["connect"]);
}

#[test]
fn nobody_is_declared_dead_in_a_turn_that_left_input_unread() {
    let mut server = server_with(Server::builder().ping_after(PING_AFTER).dead_after(DEAD_AFTER));
    server.route("/:name", enter).unwrap();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    assert_eq!(ann.read(&mut server, 2), [0x80 | PING, 0]);
    ann.send(&frame(TEXT, b"in time"));
    // The owner of the loop is busy for longer than Ann may be silent.
    let _silent = ann;
    busy(2 * (PING_AFTER + DEAD_AFTER));
    server.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.state().events("ann"), ["connect", "message"]);
}

#[test]
fn a_late_ping_leaves_as_much_time_for_its_answer_as_one_in_time() {
    let mut server = server_with(Server::builder().ping_after(PING_AFTER).dead_after(DEAD_AFTER));
    server.route("/:name", enter).unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    // The owner of the loop is busy until both the ping and the answer would have been due.
    busy(2 * (PING_AFTER + DEAD_AFTER));
    assert_eq!(ann.next(&mut server), Message::Ping(b""[..].into()));
    ann.ws.flush().unwrap(); // The pong.
    turn_until(&mut server, |server| server.state().has("ann", "pong"));
    assert_eq!(server.state().events("ann"), ["connect", "pong"]);
}

#[test]
fn without_a_ping_timeout_nobody_is_pinged_or_given_up() {
    let mut server =
        server_with(Server::builder().ping_after(Duration::MAX).handshake_timeout(Duration::from_millis(50)));
    server.route("/:name", enter).unwrap();
    let _ann = Raw::upgrade(&mut server, "/ann");
    // The handshake's entry in the timers is looked at once more; after that there is nothing left to wait for.
    turn_until(&mut server, |server| server.next_timeout().is_none());
    assert_eq!(server.state().events("ann"), ["connect"]);
}
