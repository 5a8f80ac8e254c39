//! How connections end: close and its promises, and what is told of every kind of end.

mod common;

use std::time::Duration;

use common::{
    CLOSE, Client, Diary, Entry, PONG, Raw, TEXT, enter, frame, memory_server, name_of, server, server_with,
    turn_until, with_socket,
};
use ikisocket::protocol::Violation;
use ikisocket::testing::{Harness, Received, Upgrade};
use ikisocket::{CloseError, EmitError, Emitted, Error, Event, Server, Shutdown, Uuid};

/// The default of [`ikisocket::Builder::close_timeout`].
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

// Close.

#[test]
fn close_sends_1000_and_connection_closed_and_is_told_as_close_then_disconnect() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| kws.close());
    assert_eq!(ann.close_frame(&mut server), (1000, "Connection closed".to_owned()));
    ann.end(&mut server);
    let diary = server.state();
    assert_eq!(diary.events("ann"), ["connect", "close", "disconnect"]);
    let (close, disconnect) = (diary.only("ann", "close"), diary.only("ann", "disconnect"));
    assert_eq!((close.code, &*close.reason), (Some(1000), "Connection closed"));
    assert_eq!((disconnect.code, &*disconnect.reason, disconnect.clean), (Some(1000), "Connection closed", true));
    assert_eq!(disconnect.error, None);
}

#[test]
fn twelve_closes_are_one_close_and_one_disconnect() {
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        for _ in 0..6 {
            ep.kws.close();
            ep.kws.close_with(3000 + 1, "another reason").unwrap();
        }
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("close me");
    assert_eq!(ann.close_frame(&mut server), (1000, "Connection closed".to_owned()), "the first one counts");
    ann.end(&mut server);
    assert_eq!(server.state().events("ann"), ["connect", "message", "close", "disconnect"]);
}

#[test]
fn close_is_told_after_the_running_callback() {
    let mut server = server();
    server.on(Event::Message, |diary, ep| {
        ep.kws.close();
        assert!(!ep.kws.is_alive());
        diary.note("callback over");
    });
    server.on(Event::Close, |diary, _| diary.note("close"));
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    turn_until(&mut server, |server| server.state().has("ann", "close"));
    assert_eq!(server.state().notes, ["callback over", "close"]);
}

#[test]
fn what_was_emitted_before_a_close_always_arrives_before_the_close_frame() {
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        for i in 0..5 {
            ep.kws.emit(i.to_string());
        }
        ep.kws.close();
        assert_eq!(ep.kws.emit("too late"), Emitted::Refused(EmitError::Closed));
    });
    for round in 0..100 {
        let mut client = Client::connect(&mut server, &format!("/{round}"));
        client.send("go");
        for i in 0..5 {
            assert_eq!(client.text(&mut server), i.to_string());
        }
        assert_eq!(client.close_frame(&mut server).0, 1000);
        client.end(&mut server);
    }
}

#[test]
fn a_close_with_a_full_queue_delivers_everything_first() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    let mut sent = 0;
    with_socket(&mut server, "ann", |kws| {
        socket2::SockRef::from(&kws.conn().fd().unwrap()).set_send_buffer_size(16 * 1024).unwrap();
        while kws.waiting() < 900 * 1024 {
            assert!(kws.emit(format!("{sent:04} {}", "x".repeat(10_000))).ok().is_ok());
            sent += 1;
        }
        kws.close();
    });
    for i in 0..sent {
        assert_eq!(ann.text(&mut server)[..4], format!("{i:04}"));
    }
    assert_eq!(ann.close_frame(&mut server).0, 1000);
    ann.end(&mut server);
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn close_with_sends_every_legal_code() {
    let mut server = server();
    // Raw, because tungstenite does not know 1014.
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let who = code.to_string();
        let mut client = Raw::upgrade(&mut server, &format!("/{who}"));
        assert_eq!(with_socket(&mut server, &who, |kws| kws.close_with(code, "because")), Ok(()));
        let payload = [&code.to_be_bytes()[..], b"because"].concat();
        let sent = [&[0x80 | CLOSE, payload.len() as u8], &payload[..]].concat();
        assert_eq!(client.read(&mut server, sent.len()), sent);
        client.send(&frame(CLOSE, &payload));
        assert_eq!(client.read_to_end(&mut server).unwrap(), b"");
        let entry = server.state().only(&who, "disconnect");
        assert_eq!((entry.code, &*entry.reason, entry.clean), (Some(code), "because", true));
    }
}

#[test]
fn an_illegal_code_is_an_error_and_nothing_happens() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert_eq!(kws.close_with(code, ""), Err(CloseError::IllegalCode(code.into())));
        }
        assert!(kws.is_alive());
        kws.emit("still open");
    });
    assert_eq!(ann.text(&mut server), "still open");
    assert_eq!(server.state().events("ann"), ["connect"]);
}

#[test]
fn a_reason_is_cut_to_123_bytes_between_characters() {
    let mut server = server();
    for (who, reason, arrives) in [
        ("ann", "é".repeat(100), "é".repeat(61)),
        ("bob", "x".repeat(123), "x".repeat(123)),
        ("cid", "x".repeat(124), "x".repeat(123)),
        ("dan", format!("{}🦀", "x".repeat(120)), "x".repeat(120)),
    ] {
        let mut client = Client::connect(&mut server, &format!("/{who}"));
        with_socket(&mut server, who, |kws| kws.close_with(4000, &reason)).unwrap();
        assert_eq!(client.close_frame(&mut server), (4000, arrives.clone()));
        client.end(&mut server);
        assert_eq!(server.state().only(who, "close").reason, arrives);
        assert_eq!(server.state().only(who, "disconnect").reason, arrives);
    }
}

#[test]
fn a_closed_connection_is_not_counted_found_or_reached_but_still_answers() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    let mut bob = Client::connect(&mut server, "/bob");
    let (diary, mut sockets) = server.lend();
    let [ann_id, bob_id] = ["ann", "bob"].map(|who| diary.id(who));
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
    assert_eq!(sockets.fire(diary, "nobody listens", ""), 0);
    let mut bobs = sockets.get(bob_id).unwrap();
    assert_eq!(bobs.set_uuid(ann_id), Ok(()), "the uuid is free");
    assert_eq!(bobs.emit_to(ann_id, "to the new owner"), Ok(Emitted::Queued));

    assert_eq!(bob.text(&mut server), "to the living");
    assert_eq!(bob.text(&mut server), "to the new owner");
    assert_eq!(ann.close_frame(&mut server).0, 1000, "nothing before the close frame");
    ann.end(&mut server);
    assert!(server.state().is_gone("ann"));
    server.lend().1.emit_to(ann_id, "whose end takes nothing from the new owner").unwrap();
    assert_eq!(bob.text(&mut server), "whose end takes nothing from the new owner");
}

#[test]
fn no_message_is_told_after_a_close() {
    let mut server = server();
    server.on(Event::Message, |_, ep| ep.kws.close());
    let mut ann = Raw::upgrade(&mut server, "/ann");
    let goodbye = frame(CLOSE, &1000_u16.to_be_bytes());
    ann.send(&[frame(TEXT, b"one"), frame(TEXT, b"two"), frame(9, b"ping"), frame(PONG, b""), goodbye].concat());
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_eq!(server.state().events("ann"), ["connect", "message", "close", "disconnect"]);
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn a_flood_of_pongs_does_not_keep_a_closed_connection() {
    let mut test = Harness::new(memory_server());
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

/// Turns until `who` is gone for good; returns its `disconnect`.
#[track_caller]
fn disconnect_of(server: &mut Server<Diary>, who: &str) -> Entry {
    turn_until(server, |server| server.state().is_gone(who));
    server.state().only(who, "disconnect").clone()
}

#[test]
fn a_peer_that_closes_normally_is_no_error_and_its_code_and_reason_are_told() {
    let mut server = server();
    for code in [1000, 1001] {
        let who = code.to_string();
        let mut client = Client::connect(&mut server, &format!("/{who}"));
        client.close(code, "bye");
        assert_eq!(client.close_frame(&mut server).0, code, "answered in kind");
        client.end(&mut server);
        let entry = disconnect_of(&mut server, &who);
        assert_eq!((entry.error, entry.code, &*entry.reason, entry.clean), (None, Some(code), "bye", true));
        assert_eq!(server.state().events(&who), ["connect", "disconnect"]);
    }
}

#[test]
fn a_peer_that_closes_without_a_code_is_no_error() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    ann.send(&frame(CLOSE, b""));
    assert_eq!(ann.read_to_end(&mut server).unwrap(), [0x80 | CLOSE, 0]);
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!((entry.error, entry.code, &*entry.reason, entry.clean), (None, None, "", true));
    assert_eq!(server.state().events("ann"), ["connect", "disconnect"]);
}

#[test]
fn a_peer_that_closes_with_another_code_is_told_as_error_then_disconnect() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    ann.close(4321, "out of tea");
    ann.end(&mut server);
    let error = Error::ClosedByPeer { code: 4321.into(), reason: "out of tea".to_owned() };
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!((entry.error, entry.code, &*entry.reason), (Some(error.clone()), Some(4321), "out of tea"));
    assert!(entry.clean, "both said goodbye, after all");
    assert_eq!(server.state().errors("ann"), [error]);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
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
fn a_violation_is_answered_with_its_code_then_told_as_error_and_disconnect() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    ann.send(&frame(TEXT, b"the last good message"));
    ann.send(&[0x81, 2, b'h', b'i']);
    let bytes = ann.read_to_end(&mut server).expect("FIN, not RST");
    assert_eq!((bytes[0], &bytes[2..4]), (0x80 | CLOSE, &1002_u16.to_be_bytes()[..]));
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!((entry.error, entry.code, entry.clean), (Some(Error::Protocol(Violation::Unmasked)), Some(1002), false));
    assert_eq!(server.state().errors("ann"), [Error::Protocol(Violation::Unmasked)]);
    assert_eq!(server.state().events("ann"), ["connect", "message", "error", "disconnect"]);
}

#[test]
fn a_peer_that_sends_too_much_reads_1009_and_then_fin_and_no_reset() {
    // Far more is on its way than is read before it is refused: closing now would turn into a reset.
    let mut server = server_with(Server::builder().max_message(1000).receive_buffer(1024));
    server.route("/:name", enter).unwrap();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    ann.send(&frame(TEXT, &[b'x'; 60_000]));
    let bytes = ann.read_to_end(&mut server).expect("FIN, not RST");
    assert_eq!((bytes[0], &bytes[2..4]), (0x80 | CLOSE, &1009_u16.to_be_bytes()[..]));
    assert!(ann.stream.take_error().unwrap().is_none(), "no RST behind the FIN either");
    ann.send(b"it may even go on for a while");
    let error = Error::Protocol(Violation::MessageTooBig { limit: 1000 });
    assert_eq!(server.state().errors("ann"), [error]);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
}

#[test]
fn a_close_that_nobody_answers_ends_unclean_at_the_close_timeout() {
    let mut test = Harness::new(memory_server());
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| kws.close_with(4000, "answer me")).unwrap();
    assert_eq!(test.received(ann), [Received::close(4000, "answer me")]);
    test.advance(CLOSE_TIMEOUT - Duration::from_millis(1));
    assert!(!test.state().is_gone("ann"));
    test.advance(Duration::from_millis(1));
    let entry = test.state().only("ann", "disconnect").clone();
    assert_eq!((entry.error, entry.code, &*entry.reason, entry.clean), (None, Some(4000), "answer me", false));
    assert_eq!(test.state().events("ann"), ["connect", "close", "disconnect"]);
    assert_eq!(test.received(ann), [Received::Fin]);
}

#[test]
fn a_close_that_goes_out_late_leaves_the_peer_its_time_all_the_same() {
    for flush in [false, true] {
        let mut test = Harness::by_hand(memory_server());
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
fn a_close_that_is_answered_with_fin_or_reset_ends_unclean_and_without_error() {
    let mut server = server();
    for (who, end) in [("ann", Client::vanish as fn(Client)), ("bob", Client::reset)] {
        let client = Client::connect(&mut server, &format!("/{who}"));
        with_socket(&mut server, who, |kws| kws.close());
        end(client);
        let entry = disconnect_of(&mut server, who);
        assert_eq!((entry.error, entry.code, entry.clean), (None, Some(1000), false));
        assert_eq!(server.state().events(who), ["connect", "close", "disconnect"]);
    }
}

#[test]
fn when_both_close_at_once_each_close_is_the_others_answer() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    ann.close(3000, "mine");
    with_socket(&mut server, "ann", |kws| kws.close());
    let entry = disconnect_of(&mut server, "ann");
    assert_eq!((entry.error, entry.code, entry.clean), (None, Some(1000), true));
    assert_eq!(server.state().events("ann"), ["connect", "close", "disconnect"]);
    ann.end(&mut server);
}

#[test]
fn disconnect_is_always_last_and_comes_exactly_once() {
    let mut server = server_with(Server::builder().max_message(1000).close_timeout(Duration::from_millis(50)));
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| ep.kws.close());
    // What a user may try in the last events: none of it may lead to another one.
    for event in [Event::Close, Event::Disconnect] {
        server.on(event, |diary, ep| {
            ep.kws.close();
            ep.kws.emit("late");
            let _ = ep.kws.emit_to(Uuid::nil(), "late");
            ep.kws.fire(diary, "connect", "late");
            assert_eq!(ep.kws.fire(diary, "nobody listens", ""), 0);
        });
    }
    let names = ["normal", "odd", "lost", "reset", "violation", "closed", "silent"];
    let mut clients = names.map(|name| Raw::upgrade(&mut server, &format!("/{name}"))).into_iter();
    let mut next = || clients.next().unwrap();
    next().send(&frame(CLOSE, &1000_u16.to_be_bytes()));
    next().send(&frame(CLOSE, &4000_u16.to_be_bytes()));
    drop(next());
    socket2::SockRef::from(&next().stream).set_linger(Some(Duration::ZERO)).unwrap();
    next().send(&frame(0x0b, b"no such opcode"));
    next().send(&[frame(TEXT, b"close me"), frame(CLOSE, &1000_u16.to_be_bytes())].concat());
    let mut silent = next();
    silent.send(&frame(TEXT, b"close me"));

    server.lend().1.shutdown(Shutdown::default()).unwrap();
    turn_until(&mut server, |server| server.is_finished());
    for name in names {
        let events = server.state().events(name);
        assert_eq!(events.iter().filter(|&&event| event == "disconnect").count(), 1, "{name}: {events:?}");
        assert_eq!(events.last(), Some(&"disconnect"), "{name}: {events:?}");
    }
    drop(silent);
}

#[test]
fn who_never_upgraded_has_no_events() {
    let mut server = server();
    Raw::connect(&server).send(b"GET /ann HTTP/1.1\r\n");
    Raw::connect(&server).send(b"GET /ann HTTP/1.1\r\nHost: localhost\r\n\r\n");
    drop(Raw::connect(&server));
    let mut closed = 0;
    while closed < 3 {
        closed += server.poll(Some(common::PATIENCE)).unwrap().closed;
    }
    assert_eq!(server.state().entries, []);
}

// Abort.

#[test]
fn abort_cuts_off_at_once_and_is_told_as_a_disconnect_without_a_code() {
    let mut server = server();
    let mut ann = Raw::upgrade(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| {
        kws.emit("never sent");
        kws.abort();
        assert!(!kws.is_alive());
        kws.abort();
        assert_eq!(kws.emit("too late"), Emitted::Refused(EmitError::Closed));
    });
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_eq!(server.state().events("ann"), ["connect", "disconnect"]);
    let told = server.state().only("ann", "disconnect");
    assert_eq!((&told.error, told.code, told.clean), (&None, None, false));
    let error = ann.read_to_end(&mut server).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let stats = server.stats();
    assert_eq!((stats.disconnects.aborted, stats.disconnects.total(), stats.closed), (1, 1, 1));
}

#[test]
fn abort_does_not_wait_for_the_answer_to_a_close_and_tells_what_that_said() {
    let mut server = server();
    let _ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| {
        kws.close_with(4000, "enough").unwrap();
        kws.abort();
    });
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_eq!(server.state().events("ann"), ["connect", "close", "disconnect"]);
    let told = server.state().only("ann", "disconnect");
    assert_eq!((told.code, &*told.reason, told.clean), (Some(4000), "enough", false));
    assert_eq!(server.stats().disconnects.aborted, 1);
}
