//! What the harness for tests without sockets promises.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{Diary, ON_PURPOSE, enter, memory_server, memory_server_with, name_of, with_socket};
use ikisocket::protocol::Violation;
use ikisocket::testing::{Client, Faults, Harness, NotConnected, Received, Upgrade};
use ikisocket::{
    Deferred, EmitError, Emitted, Error, Event, PeerAddress, Response, Server, Shutdown, Turn, Uuid,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A server whose clients talk to each other, with two of them.
fn chat() -> (Harness<Diary>, Client, Client) {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        ep.kws.broadcast(ep.data);
    });
    let mut test = common::harness(server);
    let [ann, bob] = ["/ann", "/bob"].map(|path| test.connect(path).unwrap());
    (test, ann, bob)
}

// What clients send and get.

#[test]
fn what_one_client_sends_another_gets_with_its_kind() {
    let (mut test, ann, bob) = chat();
    test.send(ann, "text");
    test.send(ann, b"bytes");
    test.send(ann, "x".repeat(70_000));
    assert_eq!(
        test.received(bob),
        [Received::text("text"), Received::binary(b"bytes"), Received::text("x".repeat(70_000))]
    );
    assert!(test.received(bob).is_empty(), "each is reported once");
    assert!(test.received(ann).is_empty());
    assert_eq!(test.state().all("ann", "message").len(), 3);
}

#[test]
fn what_is_emitted_between_looks_arrives() {
    let (mut test, ann, bob) = chat();
    assert_eq!(test.server().sockets().broadcast("from the server"), 2);
    assert_eq!(test.received(ann), ["from the server"]);
    assert_eq!(test.received(bob), ["from the server"]);
}

#[test]
fn a_ping_gets_its_pong_and_a_pong_fires() {
    let (mut test, ann, _) = chat();
    test.ping(ann, "?");
    test.pong(ann, "!");
    assert_eq!(test.received(ann), [Received::Pong(b"?".to_vec())]);
    assert_eq!(test.state().events("ann"), ["connect", "ping", "pong"]);
}

#[test]
fn both_close_frames_of_a_handshake_are_seen() {
    let (mut test, ann, bob) = chat();
    test.close(ann, 4000, "enough");
    assert_eq!(test.received(ann), [Received::close(4000, ""), Received::Fin]);
    let gone = test.state().only("ann", "disconnect").clone();
    assert_eq!((gone.code, gone.reason.as_str(), gone.clean), (Some(4000), "enough", true));

    test.server().sockets().for_each(|kws| kws.close());
    assert_eq!(test.received(bob), [Received::close(1000, "Connection closed"), Received::Fin]);
    assert!(test.state().only("bob", "disconnect").clean, "the client has answered");
    assert_eq!(test.turn(), Turn::default(), "nothing is left of it");
}

#[test]
fn a_client_without_a_code_is_no_error() {
    let (mut test, ann, _) = chat();
    test.close_without_code(ann);
    assert_eq!(test.received(ann).len(), 2);
    assert_eq!(test.state().only("ann", "disconnect").error, None);
}

#[test]
fn fin_and_reset_differ_on_both_sides() {
    let (mut test, ann, bob) = chat();
    test.finish(ann);
    assert_eq!(test.received(ann), [Received::Fin]);
    assert_eq!(test.state().errors("ann"), [Error::Lost]);
    test.reset(bob);
    assert!(test.received(bob).is_empty());
    let errors = test.state().errors("bob");
    assert!(
        matches!(&errors[..], [Error::Io(error)] if error.kind == std::io::ErrorKind::ConnectionReset),
        "{errors:?}"
    );
}

#[test]
fn bytes_that_break_the_protocol_are_sent_as_they_are() {
    let (mut test, ann, _) = chat();
    test.write(ann, b"\x81\x01x");
    assert_eq!(
        test.received(ann),
        [Received::close(1002, Violation::Unmasked.to_string()), Received::Fin]
    );
    assert_eq!(test.state().errors("ann"), [Error::Protocol(Violation::Unmasked)]);
}

#[test]
fn on_a_connection_that_has_ended_nothing_more_happens() {
    let (mut test, ann, _) = chat();
    test.reset(ann);
    test.settle();
    test.send(ann, "no listener");
    test.close(ann, 1000, "");
    test.finish(ann);
    test.wake(ann);
    assert!(test.received(ann).is_empty());
    assert_eq!(test.state().events("ann"), ["connect", "error", "disconnect"]);
}

// What a failure says when something is not as expected.

/// The message that `fails` panics with.
fn failure(fails: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(fails)).unwrap_err();
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|&text| text.into()))
        .unwrap()
}

#[test]
fn what_is_expected_must_be_all_and_in_order() {
    let (mut test, ann, bob) = chat();
    for text in ["one", "two"] {
        test.send(ann, text);
    }
    test.expect(bob, ["one", "two"]);
    test.expect_nothing(bob);
    for wrong in [&["one"][..], &["two", "one"], &["one", "two", "three"], &["One", "two"], &[]] {
        test.send(ann, "one");
        test.send(ann, "two");
        failure(|| test.expect(bob, wrong.iter().copied()));
    }
}

#[test]
fn expect_goodbye_fails_if_anything_else_was_received() {
    let last_words = |words: &'static str| {
        let (mut test, ann, _) = chat();
        with_socket(test.server(), "ann", |kws| {
            if !words.is_empty() {
                kws.emit(words);
            }
            kws.close_with(4000, "enough").unwrap();
        });
        (test, ann)
    };
    let (mut test, ann) = last_words("");
    test.expect_goodbye(ann, 4000, "enough");
    for (words, code, reason) in
        [("so long", 4000, "enough"), ("", 4001, "enough"), ("", 4000, "too much")]
    {
        let (mut test, ann) = last_words(words);
        failure(|| test.expect_goodbye(ann, code, reason));
    }
}

#[test]
fn a_failure_names_the_client_what_it_got_and_where_they_differ() {
    let (mut test, ann, bob) = chat();
    test.send(ann, "hello");
    test.send(ann, b"\0\xFF");
    test.server().sockets().for_each(|kws| kws.close());
    assert_eq!(
        failure(|| test.expect(bob, ["hello", "goodbye"])),
        r#"Client(1) of /bob got something else, first at 1:
expected [Text("hello"), Text("goodbye")]
     got [Text("hello"), Binary(b"\x00\xff"), Close(1000, "Connection closed"), Fin]"#
    );
    assert_eq!(
        failure(|| test.expect_nothing(ann)),
        r#"Client(0) of /ann got something else, first at 0:
expected []
     got [Close(1000, "Connection closed"), Fin]"#
    );
}

#[test]
fn a_failure_shows_the_beginning_of_what_is_long() {
    let (mut test, ann, bob) = chat();
    test.send(ann, "é".repeat(500));
    let mut expected = "é".repeat(400);
    expected.push_str("etc");
    let shown = "é".repeat(80);
    assert_eq!(
        failure(|| test.expect(bob, [expected])),
        format!(
            "Client(1) of /bob got something else, first at 0, in byte 800:\n\
             expected [Text(\"{shown}\"... 803 bytes)]\n     got [Text(\"{shown}\"... 1000 bytes)]"
        )
    );
}

#[test]
fn unread_bytes_are_not_nothing() {
    let mut test = common::harness(memory_server());
    let raw = test.dial(Faults::none()).unwrap();
    test.write(raw, b"nonsense\r\n\r\n");
    let unread = failure(|| test.expect_nothing(raw));
    assert!(
        unread.starts_with(r#"Client(0) received bytes that were not read: b"HTTP/1.1 400 "#),
        "{unread}"
    );
    test.read(raw);
    test.expect_nothing(raw);
}

#[test]
fn a_client_of_another_harness_is_an_error_that_says_so() {
    let (mut test, _, _) = chat();
    let stranger = test.connect("/cid").unwrap();
    let (mut other, _, _) = chat();
    assert_eq!(
        failure(|| other.send(stranger, "")),
        "Client(2) is not one of this harness's 2 clients"
    );
    assert_eq!(
        failure(|| other.expect_nothing(stranger)),
        "Client(2) is not one of this harness's 2 clients"
    );
    assert_eq!(
        failure(|| _ = other.uuid(stranger)),
        "Client(2) is not one of this harness's 2 clients"
    );
}

#[test]
fn a_refusal_is_readable() {
    let mut test = common::harness(memory_server());
    let refused = failure(|| _ = test.connect("/no/where").unwrap());
    assert!(refused.contains("status: 404, headers: [("), "{refused}");
    assert!(refused.contains(r#"body: ""#), "{refused}");
}

// Panics of callbacks.

#[test]
fn a_panic_that_no_test_asked_for_fails_the_test() {
    let panicking = || {
        let mut server = Server::builder().build(()).unwrap();
        server.route("/ws", |_, _| {}).unwrap();
        server.on(Event::Message, |_, ep| assert_eq!(ep.data.as_str(), Some("hello")));
        let mut test = common::harness(server);
        let ann = test.connect("/ws").unwrap();
        test.send(ann, "hi");
        test.settle();
        (test, ann)
    };
    let hint = "\na callback of `message` has panicked: assertion `left == right` failed";
    let (test, _) = panicking();
    let dropped = failure(|| drop(test));
    assert!(
        dropped.starts_with(&format!(
            "the test did not ask for its panics (`Harness::panics`):{hint}"
        )),
        "{dropped}"
    );
    let (test, _) = panicking();
    assert!(failure(|| test.into_state()).contains(hint));

    // It is named as a cause, too.
    let (mut test, ann) = panicking();
    let unexpected = failure(|| test.expect_nothing(ann));
    assert!(
        unexpected.contains(&format!("got [Close(1011, \"internal error\"), Fin]{hint}")),
        "{unexpected}"
    );
    assert_eq!(test.panics().len(), 1);
    test.expect_nothing(ann);
    assert!(test.panics().is_empty(), "each is reported once");
}

#[test]
fn a_panic_says_where_it_was_and_of_which_connection() {
    common::quiet_panics();
    let mut server = memory_server();
    server.on(Event::Message, |_, _| panic!("{ON_PURPOSE}"));
    server.set_timer(SECOND, |_, _| panic!("{ON_PURPOSE}"));
    server.on_panic(|_, _| panic!("{ON_PURPOSE}"));
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    let uuid = test.uuid(ann);
    test.send(ann, "");
    test.advance(SECOND);
    let panics: Vec<_> =
        test.panics().into_iter().map(|panic| (panic.event, panic.message, panic.uuid)).collect();
    let expected = [("message", uuid), ("on_panic", uuid), ("timer", None), ("on_panic", None)];
    assert_eq!(
        panics,
        expected.map(|(event, uuid)| (event.to_owned(), ON_PURPOSE.to_owned(), uuid))
    );
}

// Upgrades and pages.

#[test]
fn what_comes_right_behind_the_upgrade_is_seen_in_its_order() {
    let mut server = memory_server();
    server
        .route("/closed/:name", |_, kws| {
            kws.emit("hello");
            kws.close();
        })
        .unwrap();
    let mut test = common::harness(server);
    let ann = test.connect("/closed/ann").unwrap();
    let goodbye = Received::close(1000, "Connection closed");
    assert_eq!(test.received(ann), [Received::text("hello"), goodbye, Received::Fin]);
    assert!(test.state().only("ann", "disconnect").clean);
    assert_eq!(test.server().sockets().len(), 0);
}

#[test]
fn a_filter_sees_the_request_and_its_refusal_is_seen() {
    let mut server = memory_server_with(Server::builder().subprotocols(["b", "a"]));
    server.filter(|_, _, incoming| match incoming.cookie("user") {
        Some(user) => {
            let user = user.into_owned();
            incoming.attributes.set("user", user);
            Ok(())
        }
        None => Err(Response::text("Log in first.")
            .with_status(401)
            .with_header("WWW-Authenticate", "Cookie")
            .unwrap()),
    });
    server
        .route("/:name", |diary, kws| {
            let user = kws.string_attribute("user").unwrap().to_owned();
            diary.note(format!(
                "{user} {:?} {:?} {}",
                kws.query("room"),
                kws.subprotocol(),
                kws.peer_address()
            ));
        })
        .unwrap();
    let mut test = common::harness(server);
    let NotConnected::Refused(answer) = test.connect("/ann").unwrap_err() else {
        panic!("it was answered")
    };
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Cookie")));
    assert_eq!(answer.text(), "Log in first.");
    let from = PeerAddress::Tcp(([203, 0, 113, 7], 7).into());
    let ann =
        Upgrade::to("/ann?room=1").header("Cookie", "user=ada").subprotocols("a, c").peer(from);
    test.connect(ann).unwrap();
    assert_eq!(test.state().notes, [r#"ada Some("1") Some("a") 203.0.113.7:7"#]);
    assert_eq!(test.server().sockets().len(), 1, "the refused one is gone");
}

#[test]
fn a_page_is_answered() {
    let mut server = memory_server();
    server.get("/healthz/now", |_, sockets, _| Response::text(sockets.len().to_string())).unwrap();
    let mut test = common::harness(server);
    test.connect("/ann").unwrap();
    let answer = test.get("/healthz/now").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
    assert_eq!(test.get("/no/where").unwrap().status, 404);
}

#[test]
fn a_client_that_asks_need_not_have_an_answer_yet() {
    struct Desk(Vec<Deferred<Desk>>);
    let mut server = Server::builder().build(Desk(Vec::new())).unwrap();
    server.route("/ws", |_, kws| _ = kws.emit("hello")).unwrap();
    server.filter(|desk, sockets, incoming| {
        desk.0.push(sockets.defer(incoming));
        Ok(())
    });
    let mut test = common::harness(server);
    let [ann, bob] = [(); 2].map(|()| test.ask("/ws").unwrap());
    assert_eq!((test.answer(ann), test.uuid(ann)), (None, None));
    let [for_ann, for_bob] = std::mem::take(&mut test.state().0).try_into().unwrap();
    for_ann.accept(|_| {}).unwrap();
    assert_eq!(test.answer(ann).unwrap().status, 101);
    test.expect(ann, ["hello"]);
    assert_eq!(test.answer(bob), None, "it waits still");
    for_bob.reject(Response::text("no").with_status(401)).unwrap();
    let answer = test.answer(bob).unwrap();
    assert_eq!((answer.status, &*answer.text()), (401, "no"));
    test.expect(bob, [Received::Fin]);
    assert_eq!(test.server().stats().closed, 1, "it has answered the FIN");
    // `connect` does not wait for an answer that never comes.
    assert_eq!(test.connect("/ws").unwrap_err(), NotConnected::Unanswered);
}

#[test]
fn the_response_to_an_upgrade_stays_known_in_whatever_pieces_it_came() {
    let mut server = memory_server_with(Server::builder().subprotocols(["v2", "v1"]));
    server.route("/:name", |_, kws| _ = kws.emit("hello")).unwrap();
    let mut test = common::harness(server);
    for size in 1..200 {
        let upgrade = Upgrade::to("/ann").subprotocols("v1").faults(Faults::none().writes_of(size));
        let ann = test.connect(upgrade).unwrap();
        test.expect(ann, ["hello"]);
        let answer = test.answer(ann).unwrap();
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("v1")));
        assert_eq!(answer.body, b"");
    }
}

#[test]
fn the_uuid_of_a_client_is_that_of_its_open_connection() {
    let (mut test, ann, bob) = chat();
    let [ann_id, bob_id] = [ann, bob].map(|client| test.uuid(client).unwrap());
    assert_eq!([ann_id, bob_id], ["ann", "bob"].map(|name| test.state().id(name)));
    let swapped = Uuid::from_u128(7 << 64);
    with_socket(test.server(), "bob", |kws| kws.set_uuid(swapped)).unwrap();
    assert_eq!(test.uuid(bob), Some(swapped));
    test.reset(ann);
    assert_eq!(test.uuid(ann), None);
    let cid = test.connect("/cid").unwrap();
    assert_ne!(test.uuid(cid), None, "whatever place it has");
    assert_eq!(test.uuid(ann), None);
}

#[test]
fn a_client_that_speaks_bytes_alone_sees_every_byte() {
    let mut test = common::harness(memory_server());
    let raw = test.dial(Faults::none()).unwrap();
    test.write(raw, &Upgrade::to("/ann").encode());
    assert!(test.read(raw).starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    test.write(raw, b"\x89\x80\0\0\0\0");
    assert_eq!(test.read(raw), b"\x8A\x00");
    test.write(raw, b"\x88\x80\0\0\0\0");
    assert_eq!(test.read(raw), b"\x88\x00");
    assert_eq!(test.received(raw), [Received::Fin]);
    test.finish(raw);
    assert_eq!(test.turn().closed, 1);
}

#[test]
fn a_server_that_shuts_down_accepts_no_connection() {
    let (mut test, ann, _) = chat();
    test.server().sockets().shutdown(Shutdown::default()).unwrap();
    assert_eq!(test.connect("/cid").unwrap_err(), NotConnected::Unanswered);
    assert_eq!(test.dial(Faults::none()), None);
    assert_eq!(test.received(ann), [Received::close(1001, "Server shutdown"), Received::Fin]);
    assert_eq!(test.server().finished().map(|finished| finished.remained), Some(0));
}

// Time.

#[test]
fn time_stands_still_until_moved_and_timeouts_come_to_the_millisecond() {
    let (mut test, ann, _) = chat();
    test.advance(25 * SECOND - MILLISECOND);
    assert!(test.received(ann).is_empty());
    test.advance(MILLISECOND);
    assert_eq!(test.received(ann), [Received::Ping(vec![])]);
    assert_eq!(test.state().events("ann"), ["connect", "pong"], "a proper client has answered");
}

#[test]
fn an_unresponsive_client_is_given_up_at_its_time_and_others_stay() {
    let (mut test, _, _) = chat();
    let cid = test.connect(Upgrade::to("/cid").unresponsive()).unwrap();
    test.advance(45 * SECOND - MILLISECOND);
    assert!(!test.state().is_gone("cid"));
    test.advance(MILLISECOND);
    assert_eq!(test.state().errors("cid"), [Error::Silent(45 * SECOND)]);
    assert_eq!(test.received(cid), [Received::Ping(vec![]), Received::Reset]);
    test.advance(1000 * SECOND);
    assert_eq!(test.server().sockets().len(), 2);
}

#[test]
fn timeouts_come_in_their_order_however_far_time_is_moved_at_once() {
    let server = memory_server_with(Server::builder().ping_after(4 * SECOND).dead_after(SECOND));
    let mut test = common::harness(server);
    test.server().route("/:name", enter).unwrap();
    for name in ["/ann", "/bob", "/cid"] {
        test.connect(Upgrade::to(name).unresponsive()).unwrap();
        test.advance(SECOND / 2);
    }
    test.advance(100 * SECOND);
    let gone: Vec<_> =
        test.state().entries.iter().filter(|entry| entry.event == "disconnect").collect();
    assert_eq!(
        gone.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        ["ann", "bob", "cid"]
    );
}

#[test]
fn what_was_due_while_the_loop_was_not_turned_comes_late_and_all_at_once() {
    let (mut test, ann, bob) = chat();
    test.skip(100 * SECOND);
    for client in [ann, bob] {
        assert_eq!(test.received(client), [Received::Ping(vec![])]);
    }
    assert_eq!(test.state().events("ann"), ["connect", "pong"]);
}

// Faults.

#[test]
fn the_same_messages_arrive_whatever_segments_and_faults_the_network_has() {
    for size in [1, 2, 3, 7, 100] {
        for faults in [
            Faults::none().segments(size),
            Faults::none().segments(size).interrupted(),
            Faults::none().segments(size).would_block(),
            Faults::none().segments(size).interrupted().would_block(),
            Faults::none().window(size),
        ] {
            let mut server = memory_server();
            server.on(Event::Message, |_, ep| {
                ep.kws.broadcast_all(ep.data);
            });
            let mut test = common::harness(server);
            let ann = test.connect(Upgrade::to("/ann").faults(faults.clone())).unwrap();
            let bob = test.connect("/bob").unwrap();
            let long = "long ".repeat(400);
            for client in [ann, bob] {
                test.send(client, "short");
                test.send(client, &*long);
                test.ping(client, "");
                test.settle();
            }
            test.close(ann, 1000, "");
            assert_eq!(test.received(bob).len(), 5, "{faults:?}");
            let received = test.received(ann);
            assert!(
                received.starts_with(&[Received::text("short"), Received::text(&*long)]),
                "{faults:?}: {received:?}"
            );
            assert!(
                received.ends_with(&[Received::close(1000, ""), Received::Fin]),
                "{faults:?}: {received:?}"
            );
            assert_eq!(
                test.state().events("ann"),
                ["connect", "message", "message", "ping", "disconnect"]
            );
        }
    }
}

#[test]
fn a_client_that_reads_again_gets_what_waited_behind_its_full_window() {
    if common::only_plain("it counts the bytes of a window") {
        return;
    }
    let (mut test, ann, bob) = chat();
    let slow = test.connect(Upgrade::to("/slow").faults(Faults::none().window(1000))).unwrap();
    test.stop_reading(slow);
    for _ in 0..100 {
        test.send(ann, "x".repeat(98));
    }
    assert_eq!(test.received(bob).len(), 100, "no other client waits");
    let waiting =
        |test: &mut Harness<Diary>| with_socket(test.server(), "slow", |kws| kws.waiting_bytes());
    assert_eq!(waiting(&mut test), 100 * 100 - 1000);
    test.read_more(slow, 150);
    assert_eq!(test.received(slow).len(), 1, "one and a half");
    assert_eq!(waiting(&mut test), 100 * 100 - 1150);
    test.resume_reading(slow);
    assert_eq!(test.received(slow).len(), 99);
}

#[test]
fn a_slow_consumer_is_given_up_at_its_outbox_limit_to_the_byte() {
    if common::only_plain("it counts the bytes of a window") {
        return;
    }
    let mut test = common::harness(memory_server_with(Server::builder().max_outbox(1024)));
    test.server().route("/:name", enter).unwrap();
    let slow = test.connect(Upgrade::to("/slow").faults(Faults::none().window(200))).unwrap();
    test.stop_reading(slow);
    let mut emit = |len| with_socket(test.server(), "slow", |kws| kws.emit(vec![0; len]));
    assert_eq!(emit(196), Emitted::Queued);
    assert_eq!(emit(1020), Emitted::Queued);
    assert_eq!(emit(0), Emitted::Refused(EmitError::Full), "1024 bytes wait");
    let error = Error::SlowConsumer { frame: 2, waiting: 1024, limit: 1024 };
    assert_eq!(
        error.to_string(),
        "slow consumer: a frame of 2 bytes does not fit: 1024 of 1024 bytes (max_outbox) are \
         waiting"
    );
    assert_eq!(test.state().errors("slow"), [error]);
    test.resume_reading(slow);
    let close = Received::close(1008, "too slow: messages were waiting");
    assert_eq!(test.received(slow), [Received::binary([0; 196]), close, Received::Fin]);
}

#[test]
fn a_stalled_peer_is_given_up_in_virtual_time() {
    let (mut test, _, _) = chat();
    let slow = test.connect(Upgrade::to("/slow").faults(Faults::none().window(10))).unwrap();
    test.stop_reading(slow);
    test.server().sockets().broadcast("more than ten bytes");
    test.settle();
    test.advance(30 * SECOND - MILLISECOND);
    assert!(!test.state().is_gone("slow"));
    test.advance(MILLISECOND);
    assert_eq!(test.state().errors("slow"), [Error::Stalled(30 * SECOND)]);
}

#[test]
fn a_connection_ends_where_its_faults_say() {
    let record = common::record_overhead();
    let (request, message) = (Upgrade::to("/ann").encode().len() + record, 7 + record);
    for (faults, messages) in [
        (Faults::none().fin_after_sending(request + 2 * message), 2),
        (Faults::none().fin_after_sending(request + 2 * message - 1), 1),
        (Faults::none().reset_after_sending(request + 3 * message + 6), 3),
        (Faults::none().reset_after_receiving(200), 3),
    ] {
        let mut server = memory_server();
        server.on(Event::Message, |_, ep| {
            ep.kws.emit(vec![0; 18]);
        });
        let mut test = common::harness(server);
        let ann = test.connect(Upgrade::to("/ann").faults(faults.clone())).unwrap();
        for _ in 0..10 {
            test.send(ann, "x");
            test.settle();
        }
        let told = test.state().all("ann", "message").len();
        if faults == Faults::none().reset_after_receiving(200) {
            assert!((1..10).contains(&told), "{told}");
        } else {
            assert_eq!(told, messages, "{faults:?}");
        }
        assert!(test.state().is_gone("ann"), "{faults:?}");
    }
    for at in 0..request {
        for faults in [Faults::none().fin_after_sending(at), Faults::none().reset_after_sending(at)]
        {
            let mut test = common::harness(memory_server());
            let upgrade = Upgrade::to("/ann").faults(faults);
            assert_eq!(test.connect(upgrade).unwrap_err(), NotConnected::Unanswered);
            assert!(test.state().entries.is_empty());
        }
    }
}

#[test]
fn an_event_without_a_cause_changes_nothing() {
    let (mut test, ann, bob) = chat();
    for _ in 0..10 {
        test.wake(ann);
        assert_eq!(test.turn(), Turn::default());
    }
    test.send(ann, "hello");
    assert_eq!(test.received(bob), ["hello"]);
}

// Turns.

#[test]
fn by_hand_nothing_happens_but_in_a_turn() {
    let mut test = common::harness_by_hand(memory_server());
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "one");
    test.send(ann, "two");
    assert!(!test.state().has("ann", "message"));
    assert_eq!(test.turn().messages, 2);
    test.server().sockets().broadcast("answer");
    assert!(test.received(ann).is_empty());
    test.turn();
    assert_eq!(test.received(ann), ["answer"]);
}

#[test]
fn what_callbacks_send_through_a_handle_is_done_before_a_client_looks() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        let handle = ep.kws.sockets().handle();
        handle.send(|_, sockets| sockets.handle().broadcast("done").unwrap()).unwrap();
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "do it");
    test.expect(ann, ["done"]);
}

#[test]
fn sockets_and_clients_in_memory_are_beside_each_other() {
    let mut server = memory_server();
    common::listen(&mut server);
    let mut tcp = common::Client::connect(&mut server, "/tcp");
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    assert_eq!(test.server().sockets().broadcast("to both"), 2);
    assert_eq!(test.received(ann), ["to both"]);
    assert_eq!(tcp.text(test.server()), "to both");
}

// Repetition.

/// A long run of many clients, whose steps follow from `seed` alone. Returns everything that the
/// clients and the server saw.
fn life(seed: u64) -> String {
    let mut random = seed;
    let mut below = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    let mut server = memory_server_with(Server::builder().max_outbox(4096));
    server
        .route("/:name", |diary, kws| {
            diary.note(format!("{} is {}", name_of(kws), kws.uuid()));
            kws.emit(kws.uuid().to_string());
        })
        .unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    let mut test = common::harness_by_hand(server);
    let mut clients = Vec::new();
    let mut log = String::new();
    for step in 0..500 {
        match below(10) {
            0 => {
                let faults = Faults::none().segments(1 + below(100)).window(100 + below(1000));
                let faults =
                    if below(2) == 0 { faults.interrupted().would_block() } else { faults };
                clients.extend(test.connect(Upgrade::to(format!("/{step}")).faults(faults)));
            }
            1 => test.advance(Duration::from_millis(below(20_000) as u64)),
            act if !clients.is_empty() => {
                let client = clients[below(clients.len())];
                match act {
                    2 => test.ping(client, [step as u8]),
                    3 if below(4) == 0 => test.close(client, 1000, ""),
                    4 if below(4) == 0 => test.reset(client),
                    5 => test.stop_reading(client),
                    6 => test.resume_reading(client),
                    7 | 8 => test.send(client, vec![step as u8; below(600)]),
                    _ => log.push_str(&format!("{:?}\n", test.turn())),
                }
            }
            _ => {}
        }
    }
    for client in clients {
        log.push_str(&format!("{:?}\n", test.received(client)));
    }
    let state = test.state();
    format!("{log}{:?}{:?}", state.entries, state.notes)
}

#[test]
fn the_same_test_does_the_same_to_the_byte_each_time() {
    for seed in 1..6 {
        let first = life(seed);
        assert!(first.contains("disconnect"), "it was a life");
        assert!(first == life(seed), "seed {seed}");
    }
    assert_ne!(life(1), life(2));
}

#[test]
fn what_a_listener_sends_by_a_handle_has_arrived_when_one_looks() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        let handle = ep.kws.sockets().handle();
        handle.broadcast("by a handle").unwrap();
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    assert_eq!(test.received(ann), ["by a handle"]);
}

#[test]
fn a_deferred_answer_given_at_once_is_there_when_a_client_looks() {
    let mut server = memory_server();
    server.filter(|_, sockets, incoming| {
        sockets.defer(incoming).accept(|_| {}).unwrap();
        Ok(())
    });
    let mut test = common::harness(server);
    assert!(test.connect("/ann").is_ok());
}

#[test]
fn a_rate_limit_on_the_clock_of_the_loop_and_an_attribute_can_be_tested() {
    let mut server = memory_server();
    server.on(Event::Connect, |_, ep| {
        let now = ep.kws.now();
        ep.kws.set_attribute("since", now);
        ep.kws.set_attribute("messages", 0_u32);
    });
    server.on(Event::Message, |_, ep| {
        let now = ep.kws.now();
        let since = ep.kws.attribute_mut::<Duration>("since").unwrap();
        let is_new = now.saturating_sub(*since) >= SECOND;
        if is_new {
            *since = now;
        }
        let messages = ep.kws.attribute_mut::<u32>("messages").unwrap();
        *messages = if is_new { 1 } else { *messages + 1 };
        if *messages > 2 {
            ep.kws.close();
        }
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    for _ in 0..3 {
        test.send(ann, "one");
        test.send(ann, "two");
        test.expect_nothing(ann);
        test.advance(SECOND);
    }
    (0..3).for_each(|_| test.send(ann, "too fast"));
    test.expect_goodbye(ann, 1000, "Connection closed");
}

#[test]
fn another_threads_message_is_awaited_in_real_time_up_to_the_timeout() {
    let mut test = common::harness(memory_server());
    let [ann, bob] = ["/ann", "/bob"].map(|path| test.connect(path).unwrap());
    let uuid = test.uuid(ann).unwrap();
    let handle = test.server().handle();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let worker = std::thread::spawn(move || {
        wait.recv().unwrap();
        handle.emit_to(uuid, "from a thread").unwrap();
    });
    let before = test.server().sockets().now();
    assert!(!test.wait_for(ann, Duration::ZERO), "nothing was sent");
    go.send(()).unwrap();
    assert!(test.wait_for(ann, Duration::from_secs(60)));
    worker.join().unwrap();
    test.expect(ann, ["from a thread"]);
    assert_eq!(test.server().sockets().now(), before, "the clock of the loop stands still");
    assert!(!test.wait_for(bob, Duration::ZERO), "it was for ann");
    test.close(bob, 1000, "");
    assert!(test.wait_for(bob, Duration::ZERO), "its end has come");
}
