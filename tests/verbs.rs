//! What user code can do with connections: emit, emit_to, broadcast, attributes, uuids, and the
//! same between turns.
//!
//! None of it depends on sockets, so these tests have none. The one exception is the test of random
//! uuids, which a harness replaces by counted ones. `tests/end_to_end.rs` uses each verb over TCP.

mod common;

use std::collections::HashSet;

use common::{ON_PURPOSE, connect, enter, memory_server, memory_server_with, name_of, with_socket};
use ikisocket::testing::{Faults, Received};
use ikisocket::{EmitError, Emitted, Error, Event, Server, Uuid, UuidError};

/// A uuid that no connection of a harness has by itself.
const NEW: Uuid = Uuid::from_u128(1 << 64);

/// A small frame is copied, a large one is shared.
fn small_and_large() -> [String; 2] {
    ["small".to_owned(), "large".repeat(20_000)]
}

// Emit.

#[test]
fn strings_arrive_as_text_and_bytes_as_binary_unless_said_otherwise() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        kws.emit("text");
        kws.emit(String::from("text"));
        kws.emit(b"bytes");
        kws.emit(vec![1, 2]);
        kws.emit_text("text");
        kws.emit_binary("bytes");
    });
    let (text, bytes) = (Received::text("text"), Received::binary("bytes"));
    test.expect(
        ann,
        [text.clone(), text.clone(), bytes.clone(), Received::binary([1, 2]), text, bytes],
    );
}

#[test]
fn a_message_larger_than_the_outbox_is_refused_and_closes_no_connection() {
    let mut server = memory_server_with(Server::builder().max_outbox(1024));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    let too_large = Emitted::Refused(EmitError::TooLarge { len: 1025, limit: 1024 });
    with_socket(test.server(), "ann", |kws| {
        assert_eq!(kws.emit(vec![0; 1025]), too_large);
        assert_eq!(kws.sockets().broadcast(vec![0; 1025]), 0);
        assert_eq!(kws.emit(vec![7; 1024]), Emitted::Queued, "it just fits");
    });
    test.expect(ann, [Received::binary([7; 1024])]);
    assert_eq!(test.state().events("ann"), ["connect"]);
}

#[test]
fn a_ping_longer_than_a_control_frame_is_refused() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        assert_eq!(kws.ping([0; 126]), Emitted::Refused(EmitError::PingTooLong { len: 126 }));
        assert_eq!(kws.ping([1; 125]), Emitted::Queued);
    });
    test.expect(ann, [Received::Ping(vec![1; 125])]);
}

// Emit to others.

#[test]
fn emit_to_reaches_the_one_that_is_named() {
    let mut test = common::harness(memory_server());
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    let [ann_id, bob_id] = [ann, bob].map(|client| test.uuid(client).unwrap());
    let mut sockets = test.server().sockets();
    assert_eq!(sockets.emit_to(bob_id, "from outside"), Ok(Emitted::Queued));
    assert_eq!(sockets.get(bob_id).unwrap().emit_to(ann_id, "from bob"), Ok(Emitted::Queued));
    test.expect(bob, ["from outside"]);
    test.expect(ann, ["from bob"]);
}

#[test]
fn emit_to_a_missing_or_closed_one_is_an_error_that_names_it() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    let id = test.uuid(ann).unwrap();
    let mut sockets = test.server().sockets();
    assert_eq!(sockets.emit_to(Uuid::nil(), ""), Err(EmitError::Gone(Uuid::nil().into())));
    sockets.get(id).unwrap().close();
    assert_eq!(sockets.emit_to(id, ""), Err(EmitError::Gone(id.into())), "closed but not gone yet");
    assert!(test.state().is_gone("ann"));
    assert_eq!(test.server().sockets().emit_to(id, ""), Err(EmitError::Gone(id.into())));
    assert!(!test.state().has("ann", "error"), "the global form records nothing");
    test.expect_goodbye(ann, 1000, "Connection closed");
}

#[test]
fn an_emit_to_a_missing_connection_fires_error_after_the_callback() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        assert_eq!(ep.kws.emit_to(NEW, "hello?"), Err(EmitError::Gone(NEW.into())));
        assert!(!diary.has("ann", "error"));
        diary.note("callback over");
    });
    server.on(Event::Error, |diary, _| diary.note("error"));
    let mut test = common::harness(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    test.send(ann, "go");
    assert_eq!(test.state().notes, ["callback over", "error"]);
    let error = test.state().only("ann", "error");
    assert_eq!(error.data, NEW.to_string());
    assert_eq!(error.error, Some(Error::Gone(NEW.into())));
    assert_eq!(test.state().events("bob"), ["connect"], "no other connection gets an event");

    test.server().sockets().broadcast("both are open still");
    test.expect(ann, ["both are open still"]);
    test.expect(bob, ["both are open still"]);
}

#[test]
fn emit_to_list_counts_what_it_reached_and_a_socket_gets_the_errors() {
    let mut test = common::harness(memory_server());
    let clients = connect(&mut test, ["ann", "bob"]);
    let missing = [NEW, Uuid::nil()];
    let ids = clients.map(|client| test.uuid(client).unwrap());
    let list = [ids[0], missing[0], ids[1], missing[1]];

    assert_eq!(test.server().sockets().emit_to_list(&list, "global"), 2);
    assert_eq!(test.server().sockets().emit_to_list(&[], "to none"), 0);
    clients.into_iter().for_each(|client| test.expect(client, ["global"]));
    assert!(!test.state().has("ann", "error"));

    assert_eq!(with_socket(test.server(), "ann", |kws| kws.emit_to_list(&list, "from ann")), 2);
    clients.into_iter().for_each(|client| test.expect(client, ["from ann"]));
    assert_eq!(test.state().errors("ann"), missing.map(|uuid| Error::Gone(uuid.into())));
    assert_eq!(test.state().events("bob"), ["connect"]);
}

#[test]
fn a_connection_that_is_in_a_list_twice_gets_the_message_twice() {
    let mut test = common::harness(memory_server());
    let clients = connect(&mut test, ["ann", "bob"]);
    let [ann, bob] = clients.map(|client| test.uuid(client).unwrap());
    for message in small_and_large() {
        assert_eq!(test.server().sockets().emit_to_list(&[ann, bob, ann], &message), 3);
        test.server().sockets().broadcast("next");
        test.expect(clients[0], [&*message, &message, "next"]);
        test.expect(clients[1], [&*message, "next"]);
    }
}

// Broadcast.

#[test]
fn a_global_broadcast_reaches_each_connection_exactly_once() {
    let mut test = common::harness(memory_server());
    let clients: Vec<_> = (0..50).map(|i| test.connect(format!("/{i}")).unwrap()).collect();
    for message in small_and_large() {
        assert_eq!(test.server().sockets().broadcast(&message), 50);
        assert_eq!(test.server().sockets().broadcast("next"), 50);
        for &client in &clients {
            test.expect(client, [&*message, "next"]);
        }
    }
}

#[test]
fn broadcast_reaches_all_but_the_sender_and_broadcast_all_the_sender_too() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        assert_eq!(ep.kws.broadcast("from ann to the others"), 2);
        assert_eq!(ep.kws.broadcast_all("from ann to all"), 3);
    });
    let mut test = common::harness(server);
    let [ann, bob, cid] = connect(&mut test, ["ann", "bob", "cid"]);
    test.send(ann, "go");
    test.expect(ann, ["from ann to all"]);
    for other in [bob, cid] {
        test.expect(other, ["from ann to the others", "from ann to all"]);
    }
}

#[test]
fn a_connection_before_its_upgrade_is_not_counted_and_gets_no_broadcast() {
    let mut test = common::harness(memory_server());
    let visitor = test.dial(Faults::none()).unwrap();
    connect(&mut test, ["ann"]);
    assert_eq!(test.uuid(visitor), None);
    assert_eq!(test.server().sockets().len(), 1);
    assert_eq!(test.server().sockets().broadcast("to the open ones"), 1);
    test.write(visitor, b"nonsense\r\n\r\n");
    assert_eq!(test.answer(visitor).unwrap().status, 400);
}

// Attributes.

#[test]
fn an_attribute_answers_for_its_type_and_none_for_a_wrong_or_missing_one() {
    let mut test = common::harness(memory_server());
    connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        kws.set_attribute("name", "Ada");
        kws.set_attribute("age", 36_u8);
        kws.set_attribute("scores", vec![1.5, 2.5]);
        assert_eq!(kws.string_attribute("name"), Some("Ada"));
        assert_eq!(kws.int_attribute("age"), Some(36));
        assert_eq!(kws.attribute::<Vec<f64>>("scores"), Some(&vec![1.5, 2.5]));

        assert_eq!(kws.int_attribute("name"), None);
        assert_eq!(kws.string_attribute("age"), None);
        assert_eq!(kws.attribute::<Vec<f32>>("scores"), None);
        assert_eq!(kws.string_attribute("missing"), None);
        assert_eq!(kws.int_attribute("missing"), None);
        assert_eq!(kws.attribute::<u8>("missing"), None);

        kws.set_attribute("age", "unknown");
        assert_eq!(
            (kws.int_attribute("age"), kws.string_attribute("age")),
            (None, Some("unknown"))
        );
    });
}

#[test]
fn what_a_filter_finds_out_is_an_attribute_from_the_start() {
    let mut server = memory_server_with(Server::builder());
    server.filter(|_, _, incoming| {
        let user = incoming.query("user").unwrap_or_default().into_owned();
        incoming.attributes.set("user", user);
        Ok(())
    });
    server
        .route("/:name", |diary, kws| {
            enter(diary, kws);
            assert_eq!(kws.string_attribute("user"), Some("Ada"));
        })
        .unwrap();
    let mut test = common::harness(server);
    connect(&mut test, ["ann?user=Ada"]);
    with_socket(test.server(), "ann", |kws| assert_eq!(kws.string_attribute("user"), Some("Ada")));
}

#[test]
fn attributes_belong_to_one_connection_and_stay_from_turn_to_turn() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        let seen = ep.kws.int_attribute("seen").unwrap_or(0) + 1;
        ep.kws.set_attribute("seen", seen);
        ep.kws.emit(seen.to_string());
    });
    let mut test = common::harness(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    for expected in ["1", "2", "3"] {
        test.send(ann, "count");
        test.expect(ann, [expected]);
    }
    test.send(bob, "count");
    test.expect(bob, ["1"]);
}

// Uuids.

#[test]
fn set_uuid_moves_the_connection_and_the_old_uuid_finds_none_at_once() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    let old = test.uuid(ann).unwrap();
    let mut sockets = test.server().sockets();
    let mut kws = sockets.get(old).unwrap();
    assert_eq!(kws.set_uuid(NEW), Ok(()));
    assert_eq!(kws.uuid(), NEW);
    assert!(sockets.get(old).is_none());
    assert!(sockets.emit_to(old, "to the old").is_err());
    assert_eq!(sockets.uuids(), [NEW]);
    assert_eq!(sockets.emit_to(NEW, "to the new"), Ok(Emitted::Queued));
    test.expect(ann, ["to the new"]);
    assert_eq!(test.uuid(ann), Some(NEW));
}

#[test]
fn set_uuid_to_that_of_another_changes_nothing_and_to_its_own_is_fine() {
    let mut test = common::harness(memory_server());
    let [ann, bob] = connect(&mut test, ["ann", "bob"]).map(|client| test.uuid(client).unwrap());
    let mut sockets = test.server().sockets();
    let mut kws = sockets.get(ann).unwrap();
    assert_eq!(kws.set_uuid(bob), Err(UuidError::Duplicate(bob)));
    assert_eq!(kws.set_uuid(ann), Ok(()));
    assert_eq!(kws.uuid(), ann);
    assert_eq!(name_of(&sockets.get(ann).unwrap()), "ann");
    assert_eq!(name_of(&sockets.get(bob).unwrap()), "bob");
    assert_eq!(sockets.len(), 2);
}

#[test]
fn a_uuid_that_was_given_up_is_free_for_others() {
    let mut test = common::harness(memory_server());
    let [ann, bob] = connect(&mut test, ["ann", "bob"]).map(|client| test.uuid(client).unwrap());
    let mut sockets = test.server().sockets();
    sockets.get(ann).unwrap().set_uuid(NEW).unwrap();
    assert_eq!(sockets.get(bob).unwrap().set_uuid(ann), Ok(()));
    assert_eq!(name_of(&sockets.get(ann).unwrap()), "bob");
    assert_eq!(name_of(&sockets.get(NEW).unwrap()), "ann");
}

#[test]
fn a_closed_connection_cannot_change_its_uuid() {
    let mut test = common::harness(memory_server());
    connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        let own = kws.uuid();
        kws.close();
        assert_eq!(kws.set_uuid(NEW), Err(UuidError::Closed));
        assert_eq!(kws.set_uuid(own), Err(UuidError::Closed));
        assert_eq!(kws.uuid(), own);
        assert!(kws.sockets().get(NEW).is_none(), "no zombie");
    });
}

#[test]
fn every_connection_has_a_random_uuid_of_its_own() {
    let mut server = common::server();
    let _clients: Vec<_> =
        (0..20).map(|i| common::Client::connect(&mut server, &format!("/{i}"))).collect();
    let mut uuids = server.sockets().uuids();
    assert!(uuids.iter().all(|uuid| uuid.get_version_num() == 4));
    uuids.sort();
    uuids.dedup();
    assert_eq!(uuids.len(), 20);
}

// All of them.

#[test]
fn lend_gives_the_state_and_the_sockets_together() {
    let mut test = common::harness(memory_server());
    let [ann, _] = connect(&mut test, ["ann", "bob"]);
    let (diary, mut sockets) = test.server().lend();
    assert_eq!((sockets.len(), sockets.is_empty()), (2, false));
    let mut uuids = sockets.uuids();
    let mut known: Vec<_> = diary.ids.values().copied().collect();
    uuids.sort();
    known.sort();
    assert_eq!(uuids, known);
    diary.note("from both");
    sockets.broadcast(&diary.notes[0]);
    assert!(sockets.get(Uuid::nil()).is_none());
    test.expect(ann, ["from both"]);
}

#[test]
fn for_each_visits_each_open_connection_and_none_that_it_closed() {
    let mut test = common::harness(memory_server());
    connect(&mut test, ["ann", "bob", "cid"]);
    let mut visited = Vec::new();
    test.server().sockets().for_each(|kws| visited.push(name_of(kws)));
    visited.sort();
    assert_eq!(visited, ["ann", "bob", "cid"]);

    let mut visits = 0;
    test.server().sockets().for_each(|kws| {
        visits += 1;
        kws.sockets().for_each(|other| other.close());
    });
    assert_eq!((visits, test.server().sockets().len()), (1, 0));
}

#[test]
fn a_listener_reaches_another_connection_and_the_state_at_once() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        for id in diary.ids.values() {
            if let Some(mut other) = ep.kws.sockets().get(*id) {
                other.set_attribute("greeted", true);
                other.emit(&*ep.data);
            }
        }
    });
    let mut test = common::harness(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    test.send(ann, "hi");
    for client in [ann, bob] {
        test.expect(client, [Received::binary("hi")]);
    }
    assert_eq!(
        with_socket(test.server(), "bob", |kws| kws.attribute("greeted").copied()),
        Some(true)
    );
}

#[test]
fn an_id_stays_and_no_later_connection_has_the_same_one() {
    let mut test = common::harness(memory_server());
    let mut ids = Vec::new();
    for _ in 0..100 {
        let ann = test.connect("/ann").unwrap();
        let uuid = test.uuid(ann).unwrap();
        let mut sockets = test.server().sockets();
        let mut kws = sockets.get(uuid).unwrap();
        let id = kws.id();
        kws.set_uuid(NEW).unwrap();
        assert_eq!(kws.id(), id);
        assert_eq!(sockets.by_id(id).unwrap().uuid(), NEW);
        assert_eq!(sockets.emit_to(id, "by id"), Ok(Emitted::Queued));
        test.expect(ann, ["by id"]);
        test.close(ann, 1000, "");
        let mut sockets = test.server().sockets();
        assert!(sockets.by_id(id).is_none());
        let gone = sockets.emit_to(id, "late").unwrap_err();
        assert_eq!(gone, EmitError::Gone(id.into()));
        assert_eq!(gone.to_string(), format!("no open connection has the id {id}"));
        ids.push(id);
    }
    let different: HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "they all had the same slot");
}

#[test]
fn listeners_and_the_panic_handler_see_the_uuid_of_the_moment() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        ep.kws.set_uuid(NEW).unwrap();
        panic!("{ON_PURPOSE}");
    });
    server.on(Event::Message, |diary, ep| {
        assert_eq!(ep.socket_uuid, NEW);
        diary.notes.push("seen".to_owned());
    });
    server.on_panic(|diary, caught| diary.notes.push(format!("{:?}", caught.uuid)));
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "hello");
    let handler = format!("{:?}", Some(NEW));
    assert_eq!(test.state().notes, [handler, "seen".to_owned()]);
    test.panics();
}

#[test]
fn disconnect_carries_its_own_id_though_its_uuid_has_a_new_owner() {
    let mut server = memory_server();
    server.on(Event::Disconnect, |diary, ep| {
        diary.notes.push(format!("{:?} {}", ep.id, ep.socket_uuid == NEW));
    });
    let mut test = common::harness(server);
    let [old, new] = ["/old", "/new"].map(|path| test.connect(path).unwrap());
    let [old_uuid, new_uuid] = [old, new].map(|client| test.uuid(client).unwrap());
    let mut sockets = test.server().sockets();
    let mut kws = sockets.get(old_uuid).unwrap();
    kws.set_uuid(NEW).unwrap();
    let id = kws.id();
    kws.close();
    sockets.get(new_uuid).unwrap().set_uuid(NEW).unwrap();
    test.expect_goodbye(old, 1000, "Connection closed");
    assert_eq!(test.state().notes, [format!("{id:?} true")]);
    assert_eq!(test.uuid(new), Some(NEW));
}
