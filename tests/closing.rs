//! How connections end: close and its promises, and the events of every kind of end.
//!
//! Which code and reason goes out behind which messages, and which event fires when, does not
//! depend on sockets. So most of these tests have none. The tests of FIN, reset and the last
//! messages are about the system's sockets, and use TCP: "The ends of sockets". In
//! `tests/end_to_end.rs` another library's client receives a close.

mod common;

use std::time::Duration;

use common::{
    CLOSE, Client, Diary, Entry, Raw, TEXT, connect, enter, frame, memory_server, name_of, server,
    server_with, turn_until, with_socket,
};
use ikisocket::protocol::Violation;
use ikisocket::testing::{Faults, Harness, Received, Upgrade};
use ikisocket::{CloseError, EmitError, Emitted, Error, Event, Server, Shutdown, Uuid};

/// The default of [`ikisocket::Builder::close_timeout`].
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

// Close.

#[test]
fn close_sends_1000_connection_closed_and_fires_close_then_disconnect() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| kws.close());
    test.expect_goodbye(ann, 1000, "Connection closed");
    let diary = test.state();
    assert_eq!(diary.events("ann"), ["connect", "close", "disconnect"]);
    let (close, disconnect) = (diary.only("ann", "close"), diary.only("ann", "disconnect"));
    assert_eq!((close.code, &*close.reason), (Some(1000), "Connection closed"));
    assert_eq!(
        (disconnect.code, &*disconnect.reason, disconnect.clean),
        (Some(1000), "Connection closed", true)
    );
    assert_eq!(disconnect.error, None);
}

#[test]
fn twelve_closes_are_one_close_and_one_disconnect() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        for _ in 0..6 {
            ep.kws.close();
            ep.kws.close_with(3000 + 1, "another reason").unwrap();
        }
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "close me");
    test.expect_goodbye(ann, 1000, "Connection closed"); // the first one counts
    assert_eq!(test.state().events("ann"), ["connect", "message", "close", "disconnect"]);
}

#[test]
fn close_fires_after_the_running_callback() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        ep.kws.close();
        assert!(!ep.kws.is_alive());
        diary.note("callback over");
    });
    server.on(Event::Close, |diary, _| diary.note("close"));
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "go");
    assert_eq!(test.state().notes, ["callback over", "close"]);
}

#[test]
fn what_was_emitted_before_a_close_always_arrives_before_the_close_frame() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        for i in 0..5 {
            ep.kws.emit(i.to_string());
        }
        ep.kws.close();
        assert_eq!(ep.kws.emit("too late"), Emitted::Refused(EmitError::Closed));
    });
    let mut test = common::harness(server);
    // However the network cuts it.
    for size in 1..100 {
        let client = test
            .connect(Upgrade::to(format!("/{size}")).faults(Faults::none().segments(size)))
            .unwrap();
        test.send(client, "go");
        let mut expected: Vec<_> = (0..5).map(|i| Received::text(i.to_string())).collect();
        expected.extend([Received::close(1000, "Connection closed"), Received::Fin]);
        test.expect(client, expected);
    }
}

#[test]
fn a_close_with_a_full_queue_delivers_everything_first() {
    let mut test = common::harness(memory_server());
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(1000))).unwrap();
    test.stop_reading(ann);
    let mut expected = Vec::new();
    with_socket(test.server(), "ann", |kws| {
        while kws.waiting_bytes() < 900 * 1024 {
            let message = format!("{:04} {}", expected.len(), "x".repeat(10_000));
            assert!(kws.emit(&message).ok().is_ok());
            expected.push(Received::text(message));
        }
        kws.close();
    });
    test.resume_reading(ann);
    expected.extend([Received::close(1000, "Connection closed"), Received::Fin]);
    test.expect(ann, expected);
    assert!(test.state().only("ann", "disconnect").clean);
}

#[test]
fn close_with_sends_every_legal_code() {
    let mut test = common::harness(memory_server());
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let name = code.to_string();
        let client = test.connect(format!("/{name}")).unwrap();
        assert_eq!(
            with_socket(test.server(), &name, |kws| kws.close_with(code, "because")),
            Ok(())
        );
        test.expect_goodbye(client, code, "because");
        let entry = test.state().only(&name, "disconnect");
        assert_eq!((entry.code, &*entry.reason, entry.clean), (Some(code), "because", true));
    }
}

#[test]
fn an_illegal_code_is_an_error_and_nothing_happens() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert_eq!(kws.close_with(code, ""), Err(CloseError::IllegalCode(code.into())));
        }
        assert!(kws.is_alive());
        kws.emit("still open");
    });
    test.expect(ann, ["still open"]);
    assert_eq!(test.state().events("ann"), ["connect"]);
}

#[test]
fn a_reason_is_cut_to_123_bytes_between_characters() {
    let mut test = common::harness(memory_server());
    for (name, reason, arrives) in [
        ("ann", "é".repeat(100), "é".repeat(61)),
        ("bob", "x".repeat(123), "x".repeat(123)),
        ("cid", "x".repeat(124), "x".repeat(123)),
        ("dan", format!("{}🦀", "x".repeat(120)), "x".repeat(120)),
    ] {
        let [client] = connect(&mut test, [name]);
        with_socket(test.server(), name, |kws| kws.close_with(4000, &reason)).unwrap();
        test.expect_goodbye(client, 4000, &arrives);
        assert_eq!(test.state().only(name, "close").reason, arrives);
        assert_eq!(test.state().only(name, "disconnect").reason, arrives);
    }
}

#[test]
fn a_closed_connection_is_not_counted_found_or_reached_but_still_answers() {
    let mut test = common::harness(memory_server());
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    let [ann_id, bob_id] = [ann, bob].map(|client| test.uuid(client).unwrap());
    let (diary, mut sockets) = test.server().lend();
    {
        let mut kws = sockets.get(ann_id).unwrap();
        kws.set_attribute("age", 36);
        kws.close();
        assert!(!kws.is_alive());
        assert_eq!(kws.uuid(), ann_id);
        assert_eq!(kws.int_attribute("age"), Some(36));
        assert_eq!(name_of(&kws), "ann");
        assert_eq!(kws.emit("late"), Emitted::Refused(EmitError::Closed));
        assert_eq!(kws.emit_binary("late"), Emitted::Refused(EmitError::Closed));
        assert_eq!(kws.ping("late"), Emitted::Refused(EmitError::Closed));
        assert_eq!(kws.sockets().len(), 1);
    }
    assert!(sockets.get(ann_id).is_none());
    assert_eq!(sockets.uuids(), [bob_id]);
    assert_eq!(sockets.broadcast("to the living"), 1);
    assert_eq!(sockets.fire(diary, "no listener", ""), 0);
    let mut bobs = sockets.get(bob_id).unwrap();
    assert_eq!(bobs.set_uuid(ann_id), Ok(()), "the uuid is free");
    assert_eq!(bobs.emit_to(ann_id, "to the new owner"), Ok(Emitted::Queued));

    test.expect(bob, ["to the living", "to the new owner"]);
    test.expect_goodbye(ann, 1000, "Connection closed"); // and nothing before it
    assert!(test.state().is_gone("ann"));
    test.server().sockets().emit_to(ann_id, "whose end takes nothing from the new owner").unwrap();
    test.expect(bob, ["whose end takes nothing from the new owner"]);
}

#[test]
fn no_message_fires_after_a_close() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| ep.kws.close());
    let mut test = common::harness(server);
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    test.send(ann, "one");
    test.send(ann, "two");
    test.ping(ann, "ping");
    test.pong(ann, "");
    test.close(ann, 1000, "");
    assert_eq!(test.state().events("ann"), ["connect", "message", "close", "disconnect"]);
    assert!(test.state().only("ann", "disconnect").clean);
}

#[test]
fn a_flood_of_pongs_does_not_keep_a_closed_connection() {
    let mut test = common::harness(memory_server());
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| kws.close());
    for _ in 0..5 {
        assert!(!test.state().is_gone("ann"));
        test.pong(ann, "I am alive");
        test.advance(CLOSE_TIMEOUT / 5);
    }
    assert!(!test.state().only("ann", "disconnect").clean);
}

// Every end.

#[test]
fn a_normal_close_of_a_peer_is_no_error_and_has_its_code_and_reason() {
    let mut test = common::harness(memory_server());
    for code in [1000, 1001] {
        let name = code.to_string();
        let client = test.connect(format!("/{name}")).unwrap();
        test.close(client, code, "bye");
        test.expect_goodbye(client, code, ""); // answered in kind
        let Entry { error, code: told, reason, clean, .. } = test.state().only(&name, "disconnect");
        assert_eq!((error, *told, &**reason, *clean), (&None, Some(code), "bye", true));
        assert_eq!(test.state().events(&name), ["connect", "disconnect"]);
    }
}

#[test]
fn a_peer_that_closes_without_a_code_is_no_error() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    test.close_without_code(ann);
    test.expect(ann, [Received::Close { code: None, reason: String::new() }, Received::Fin]);
    let Entry { error, code, reason, clean, .. } = test.state().only("ann", "disconnect");
    assert_eq!((error, *code, &**reason, *clean), (&None, None, "", true));
    assert_eq!(test.state().events("ann"), ["connect", "disconnect"]);
}

#[test]
fn a_peer_that_closes_with_another_code_fires_error_then_disconnect() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    test.close(ann, 4321, "out of tea");
    test.expect_goodbye(ann, 4321, "");
    let told = Error::ClosedByPeer { code: 4321.into(), reason: "out of tea".to_owned() };
    let Entry { error, code, reason, clean, .. } = test.state().only("ann", "disconnect");
    assert_eq!((error, *code, &**reason), (&Some(told.clone()), Some(4321), "out of tea"));
    assert!(clean, "both sent close frames, after all");
    assert_eq!(test.state().errors("ann"), [told]);
    assert_eq!(test.state().events("ann"), ["connect", "error", "disconnect"]);
}

#[test]
fn a_close_that_the_peer_never_answers_ends_unclean_at_the_timeout() {
    let mut test = common::harness(memory_server());
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| kws.close_with(4000, "answer me")).unwrap();
    test.expect(ann, [Received::close(4000, "answer me")]);
    test.advance(CLOSE_TIMEOUT - Duration::from_millis(1));
    assert!(!test.state().is_gone("ann"));
    test.advance(Duration::from_millis(1));
    let entry = test.state().only("ann", "disconnect").clone();
    assert_eq!(
        (entry.error, entry.code, &*entry.reason, entry.clean),
        (None, Some(4000), "answer me", false)
    );
    assert_eq!(test.state().events("ann"), ["connect", "close", "disconnect"]);
    test.expect(ann, [Received::Fin]);
}

#[test]
fn a_close_that_goes_out_late_leaves_the_peer_its_time_all_the_same() {
    for flush in [false, true] {
        let mut test = common::harness_by_hand(memory_server());
        test.connect("/ann").unwrap();
        with_socket(test.server(), "ann", |kws| kws.close());
        test.skip(2 * CLOSE_TIMEOUT);
        if flush {
            test.server().flush();
        }
        test.settle();
        assert!(test.state().only("ann", "disconnect").clean);
    }
}

#[test]
fn a_close_answered_with_fin_or_reset_ends_unclean_and_without_error() {
    let mut test = common::harness(memory_server());
    for (name, end) in [("ann", Harness::finish as fn(&mut _, _)), ("bob", Harness::reset)] {
        let client = test.connect(Upgrade::to(format!("/{name}")).unresponsive()).unwrap();
        with_socket(test.server(), name, |kws| kws.close());
        test.expect(client, [Received::close(1000, "Connection closed")]);
        end(&mut test, client);
        let Entry { error, code, clean, .. } = test.state().only(name, "disconnect");
        assert_eq!((error, *code, *clean), (&None, Some(1000), false));
        assert_eq!(test.state().events(name), ["connect", "close", "disconnect"]);
    }
}

#[test]
fn when_both_close_at_once_each_close_is_the_others_answer() {
    let mut test = common::harness_by_hand(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    test.close(ann, 3000, "mine");
    with_socket(test.server(), "ann", |kws| kws.close());
    test.settle();
    test.expect_goodbye(ann, 1000, "Connection closed");
    let Entry { error, code, clean, .. } = test.state().only("ann", "disconnect");
    assert_eq!((error, *code, *clean), (&None, Some(1000), true));
    assert_eq!(test.state().events("ann"), ["connect", "close", "disconnect"]);
}

#[test]
fn disconnect_is_always_last_and_comes_exactly_once() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| ep.kws.close());
    // What a user may try in the last events: none of it may lead to another one.
    for event in [Event::Close, Event::Disconnect] {
        server.on(event, |diary, ep| {
            ep.kws.close();
            ep.kws.emit("late");
            let _ = ep.kws.emit_to(Uuid::nil(), "late");
            ep.kws.fire(diary, "connect", "late");
            assert_eq!(ep.kws.fire(diary, "no listener", ""), 0);
        });
    }
    let mut test = common::harness_by_hand(server);
    let names = ["normal", "odd", "lost", "reset", "violation", "closed", "silent"];
    let clients =
        names.map(|name| test.connect(Upgrade::to(format!("/{name}")).unresponsive()).unwrap());
    let [normal, odd, lost, reset, violation, closed, silent] = clients;
    test.close(normal, 1000, "");
    test.close(odd, 4000, "");
    test.finish(lost);
    test.reset(reset);
    test.write(violation, &frame(0x0b, b"no such opcode"));
    test.send(closed, "close me");
    test.close(closed, 1000, "");
    test.send(silent, "close me");

    test.server().sockets().shutdown(Shutdown::default()).unwrap();
    test.settle();
    assert!(!test.server().is_finished(), "one of them says nothing");
    test.advance(CLOSE_TIMEOUT);
    assert!(test.server().is_finished());
    for name in names {
        let events = test.state().events(name);
        assert_eq!(
            events.iter().filter(|&&event| event == "disconnect").count(),
            1,
            "{name}: {events:?}"
        );
        assert_eq!(events.last(), Some(&"disconnect"), "{name}: {events:?}");
    }
}

#[test]
fn a_connection_that_never_upgraded_has_no_events() {
    let mut test = common::harness(memory_server());
    let visitors = [(); 3].map(|()| test.dial(Faults::none()).unwrap());
    test.write(visitors[0], b"GET /ann HTTP/1.1\r\n");
    test.write(visitors[1], b"GET /ann HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for visitor in visitors {
        test.finish(visitor);
    }
    assert_eq!(test.server().stats().closed, 3);
    assert_eq!(test.state().entries, []);
}

// The ends of sockets.

/// Turns until the connection of this name is disconnected; returns its `disconnect`.
#[track_caller]
fn disconnect_of(server: &mut Server<Diary>, name: &str) -> Entry {
    turn_until(server, |server| server.state().is_gone(name));
    server.state().only(name, "disconnect").clone()
}

#[test]
fn a_peer_that_goes_without_a_word_is_lost() {
    let mut server = server();
    Client::connect(&mut server, "/ann").vanish();
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!((entry.error, entry.code, entry.clean), (Some(Error::Lost), None, false));
    assert_eq!(server.state().errors("ann"), [Error::Lost]);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
}

#[test]
fn a_reset_is_an_error_of_the_socket() {
    let mut server = server();
    Client::connect(&mut server, "/ann").reset();
    let entry = disconnect_of(&mut server, "ann");
    let Some(Error::Io(error)) = entry.error else { panic!("{entry:?}") };
    assert_eq!((error.kind, entry.clean), (std::io::ErrorKind::ConnectionReset, false));
    assert_eq!(server.state().errors("ann"), [Error::Io(error)]);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
}

#[test]
fn a_violation_is_answered_with_its_code_then_error_and_disconnect_fire() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    ann.send(&frame(TEXT, b"the last good message"));
    ann.send(&[0x81, 2, b'h', b'i']);
    let bytes = ann.read_to_end(&mut server).expect("FIN, not RST");
    assert_eq!((bytes[0], &bytes[2..4]), (0x80 | CLOSE, &1002_u16.to_be_bytes()[..]));
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!(
        (entry.error, entry.code, entry.clean),
        (Some(Error::Protocol(Violation::Unmasked)), Some(1002), false)
    );
    assert_eq!(server.state().errors("ann"), [Error::Protocol(Violation::Unmasked)]);
    assert_eq!(server.state().events("ann"), ["connect", "message", "error", "disconnect"]);
}

#[test]
fn a_peer_that_sends_too_much_reads_1009_and_then_fin_and_no_reset() {
    // Far more is on its way than is read before it is refused: closing now would turn into a
    // reset.
    let mut server = server_with(Server::builder().max_message(1000).receive_buffer(1024));
    server.route("/:name", enter).unwrap();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    ann.send(&frame(TEXT, &[b'x'; 60_000]));
    let bytes = ann.read_to_end(&mut server).expect("FIN, not RST");
    assert_eq!((bytes[0], &bytes[2..4]), (0x80 | CLOSE, &1009_u16.to_be_bytes()[..]));
    assert!(ann.stream.socket().take_error().unwrap().is_none(), "no RST behind the FIN either");
    ann.send(b"it may even go on for a while");
    let error = Error::Protocol(Violation::MessageTooBig { limit: 1000 });
    assert_eq!(server.state().errors("ann"), [error]);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
}

// Abort.

#[test]
fn abort_resets_at_once_and_fires_disconnect_without_a_code() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        kws.emit("never sent");
        kws.abort();
        assert!(!kws.is_alive());
        kws.abort();
        assert_eq!(kws.emit("too late"), Emitted::Refused(EmitError::Closed));
    });
    test.expect(ann, [Received::Reset]);
    assert_eq!(test.state().events("ann"), ["connect", "disconnect"]);
    let told = test.state().only("ann", "disconnect");
    assert_eq!((&told.error, told.code, told.clean), (&None, None, false));
    let stats = test.server().stats();
    assert_eq!((stats.disconnects.aborted, stats.disconnects.total(), stats.closed), (1, 1, 1));
}

#[test]
fn abort_does_not_wait_for_the_answer_to_a_close_and_tells_what_that_said() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        kws.close_with(4000, "enough").unwrap();
        kws.abort();
    });
    test.expect(ann, [Received::Reset]);
    assert_eq!(test.state().events("ann"), ["connect", "close", "disconnect"]);
    let told = test.state().only("ann", "disconnect");
    assert_eq!((told.code, &*told.reason, told.clean), (Some(4000), "enough", false));
    assert_eq!(test.server().stats().disconnects.aborted, 1);
}

#[test]
fn a_tcp_peer_that_is_cut_off_sees_a_reset() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| kws.abort());
    let error = ann.read_to_end(&mut server).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
