//! Topics: the members of one get what is published there, and no other connection does.
//!
//! None of it depends on sockets, so these tests have none. `tests/end_to_end.rs` publishes over
//! TCP.

mod common;

use common::{Diary, connect, enter, memory_server, memory_server_with, name_of, with_socket};
use ikisocket::testing::{Faults, Harness, Received, Upgrade};
use ikisocket::{CloseCode, Error, Event, Server, Shutdown, Socket, TopicError, Uuid};

/// A uuid that no connection of a harness has by itself.
const NEW: Uuid = Uuid::from_u128(1 << 64);

fn join(test: &mut Harness<Diary>, name: &str, topic: &str) {
    assert_eq!(with_socket(test.server(), name, |kws| kws.join(topic)), Ok(true));
}

/// A topic's members by name, sorted.
fn members(test: &mut Harness<Diary>, topic: &str) -> Vec<String> {
    let (diary, sockets) = test.server().lend();
    let name_of = |uuid| diary.ids.iter().find(|&(_, &id)| id == uuid).unwrap().0.clone();
    let mut names: Vec<_> = sockets.members(topic).into_iter().map(name_of).collect();
    names.sort();
    names
}

/// What a connection can still say of its topics.
fn topics_of(kws: &Socket<'_, Diary>) -> Vec<String> {
    let mut topics = kws.topics();
    topics.sort();
    topics
}

#[test]
fn a_publish_reaches_all_members_but_oneself_and_publish_all_oneself_too() {
    let mut test = common::harness(memory_server());
    let [ann, bob, cid] = connect(&mut test, ["ann", "bob", "cid"]);
    join(&mut test, "ann", "prices");
    join(&mut test, "bob", "prices");
    with_socket(test.server(), "ann", |kws| {
        assert_eq!(kws.publish("prices", "from ann to bob"), 1);
        assert_eq!(kws.publish_all("prices", &b"from ann to both"[..]), 2);
    });
    // A publisher need not be a member.
    assert_eq!(with_socket(test.server(), "cid", |kws| kws.publish("prices", "from cid")), 2);
    assert_eq!(test.server().sockets().publish("prices", "from the server"), 2);
    let to_both =
        [Received::binary("from ann to both"), "from cid".into(), "from the server".into()];
    test.expect(bob, [&["from ann to bob".into()], &to_both[..]].concat());
    test.expect(ann, to_both);
    test.expect_nothing(cid);
}

#[test]
fn members_come_and_go_by_their_own_messages() {
    let mut server = memory_server();
    // Clients join with `+prices`, leave with `-prices`, and send `prices hello` to its
    // members.
    server.on(Event::Message, |_, ep| {
        let text = ep.data.as_str().unwrap_or_default();
        match (text.strip_prefix('+'), text.strip_prefix('-'), text.split_once(' ')) {
            (Some(topic), ..) => assert_eq!(ep.kws.join(topic), Ok(true)),
            (_, Some(topic), _) => assert!(ep.kws.leave(topic)),
            (_, _, Some((topic, text))) => _ = ep.kws.publish(topic, text),
            _ => panic!("{text}"),
        }
    });
    let mut test = common::harness(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    test.send(ann, "+a");
    assert_eq!(members(&mut test, "a"), ["ann"]);
    test.send(bob, "a first");
    test.expect(ann, ["first"]);
    test.send(bob, "+a");
    assert_eq!(members(&mut test, "a"), ["ann", "bob"]);
    test.send(ann, "-a");
    assert_eq!(members(&mut test, "a"), ["bob"]);
    test.send(ann, "a second");
    test.expect(bob, ["second"]);
    test.expect_nothing(ann);
}

#[test]
fn joining_twice_is_one_membership() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        assert!(!kws.is_member("a"));
        assert_eq!([kws.join("a"), kws.join("a")], [Ok(true), Ok(false)]);
        assert!(kws.is_member("a"));
        assert_eq!((kws.topics(), kws.sockets().member_count("a")), (vec!["a".to_owned()], 1));
        assert_eq!(kws.publish_all("a", "once"), 1);
        assert_eq!([kws.leave("a"), kws.leave("a")], [true, false]);
        assert!(!kws.is_member("a"));
    });
    test.expect(ann, ["once"]);
}

#[test]
fn a_topic_is_there_while_it_has_members() {
    let mut test = common::harness(memory_server());
    connect(&mut test, ["ann", "bob"]);
    for (name, topic) in [("ann", "a"), ("ann", "b"), ("bob", "b")] {
        join(&mut test, name, topic);
    }
    let sockets = test.server().sockets();
    let mut topics: Vec<_> = sockets.topics().collect();
    topics.sort();
    assert_eq!(topics, [("a", 1), ("b", 2)]);
    assert_eq!(
        (sockets.member_count("a"), sockets.member_count("b"), sockets.member_count("c")),
        (1, 2, 0)
    );
    assert!(with_socket(test.server(), "ann", |kws| kws.leave("a")));
    let mut sockets = test.server().sockets();
    assert_eq!(sockets.topics().collect::<Vec<_>>(), [("b", 2)]);
    assert_eq!(sockets.members("a"), Vec::<Uuid>::new());
    assert_eq!(sockets.publish("a", "to none"), 0);
}

#[test]
fn a_name_that_is_empty_or_too_long_is_refused_and_nothing_changes() {
    let mut test = common::harness(memory_server());
    connect(&mut test, ["ann"]);
    with_socket(test.server(), "ann", |kws| {
        assert_eq!(kws.join(""), Err(TopicError::Empty));
        assert_eq!(kws.join(&"x".repeat(256)), Ok(true));
        assert_eq!(kws.join(&"x".repeat(257)), Err(TopicError::TooLong { len: 257 }));
        let huge = "x".repeat(10 * 1024 * 1024);
        let error = kws.join(&huge).unwrap_err();
        assert_eq!(error.to_string(), "a topic's name has at most 256 bytes, not 10485760");
        assert_eq!(
            (kws.publish_all(&huge, "to none"), kws.is_member(&huge), kws.leave(&huge)),
            (0, false, false)
        );
        assert_eq!(kws.topics().len(), 1);
    });
}

#[test]
fn a_connection_may_be_in_no_more_topics_than_the_limit() {
    let mut server = memory_server_with(Server::builder().max_topics_per_connection(2));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    connect(&mut test, ["ann", "bob"]);
    with_socket(test.server(), "ann", |kws| {
        assert_eq!([kws.join("a"), kws.join("b")], [Ok(true); 2]);
        assert_eq!(kws.join("c"), Err(TopicError::TooMany { limit: 2 }));
        assert_eq!(kws.join("a"), Ok(false), "it is there already");
        assert!(kws.leave("a"));
        assert_eq!(kws.join("c"), Ok(true));
        assert_eq!(topics_of(kws), ["b", "c"]);
    });
    join(&mut test, "bob", "d");
    assert!(Server::builder().max_topics_per_connection(0).build(()).is_err());
}

#[test]
fn each_member_gets_emits_broadcasts_and_publishes_in_their_order() {
    let mut test = common::harness(memory_server());
    let clients = connect(&mut test, ["ann", "bob", "cid"]);
    for name in ["ann", "bob", "cid"] {
        join(&mut test, name, "a");
        join(&mut test, name, "b");
    }
    let large = "x".repeat(100_000);
    let mut expected = Vec::new();
    let (diary, mut sockets) = test.server().lend();
    for round in 0..5 {
        let [topic, own, all] = ["a", "own", "all"].map(|what| format!("{what} {round}"));
        assert_eq!(sockets.publish("a", &topic), 3);
        for uuid in diary.ids.values() {
            sockets.emit_to(*uuid, &own).unwrap();
        }
        assert_eq!(sockets.publish("b", &large), 3);
        sockets.broadcast(&all);
        expected.extend([topic, own, large.clone(), all]);
    }
    for client in clients {
        test.expect(client, expected.clone());
    }
}

// The end of a connection.

#[test]
fn a_closed_connection_is_in_no_topic_from_that_moment_on() {
    let mut test = common::harness(memory_server());
    let [_, bob] = connect(&mut test, ["ann", "bob"]);
    join(&mut test, "ann", "a");
    join(&mut test, "bob", "a");
    with_socket(test.server(), "ann", |kws| {
        kws.close();
        assert!(!kws.is_member("a") && !kws.leave("a"));
        assert_eq!(kws.join("b"), Err(TopicError::Closed));
        assert_eq!(kws.publish_all("a", "without ann"), 1);
        assert_eq!(kws.sockets().member_count("a"), 1);
    });
    assert_eq!(members(&mut test, "a"), ["bob"]);
    test.expect(bob, ["without ann"]);
}

#[test]
fn in_disconnect_a_connection_says_what_it_was_in_and_can_tell_the_others() {
    let mut server = memory_server();
    server.on(Event::Disconnect, |diary, ep| {
        let (name, topics) = (name_of(&ep.kws), topics_of(&ep.kws));
        for topic in &topics {
            ep.kws.publish(topic, format!("{name} left {topic}"));
        }
        diary.note(format!("{name}: {}", topics.join(" ")));
    });
    let mut test = common::harness(server);
    let [ann, bob, cid] = connect(&mut test, ["ann", "bob", "cid"]);
    for (name, topic) in [("ann", "a"), ("ann", "b"), ("bob", "b"), ("cid", "b"), ("ann", "own")] {
        join(&mut test, name, topic);
    }
    test.finish(ann);
    test.settle();
    test.reset(cid);
    assert_eq!(test.state().notes, ["ann: a b own", "cid: b"]);
    test.expect(bob, ["ann left b", "cid left b"]);
    assert_eq!(test.server().sockets().topics().collect::<Vec<_>>(), [("b", 1)]);
}

#[test]
fn a_connection_in_a_freed_slot_is_in_none_of_its_topics() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    join(&mut test, "ann", "a");
    test.reset(ann);
    test.settle();
    connect(&mut test, ["bob"]);
    with_socket(test.server(), "bob", |kws| {
        assert_eq!(kws.topics(), Vec::<String>::new());
        assert_eq!(kws.publish_all("a", "to none"), 0);
    });
}

#[test]
fn a_shutdown_ends_every_topic() {
    let mut test = common::harness(memory_server());
    let clients = connect(&mut test, ["ann", "bob"]);
    join(&mut test, "ann", "a");
    join(&mut test, "bob", "b");
    let mut sockets = test.server().sockets();
    sockets.shutdown(Shutdown::default()).unwrap();
    assert_eq!(sockets.topics().count(), 0);
    clients.into_iter().for_each(|client| test.expect_goodbye(client, 1001, "Server shutdown"));
}

#[test]
fn a_member_that_reads_too_slowly_is_given_up_and_the_others_miss_nothing() {
    let mut server = memory_server_with(Server::builder().max_outbox(64 * 1024));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    let stuck = test.connect(Upgrade::to("/stuck").faults(Faults::none().window(1024))).unwrap();
    test.stop_reading(stuck);
    let readers = connect(&mut test, ["ann", "bob"]);
    for name in ["ann", "stuck", "bob"] {
        join(&mut test, name, "a");
    }
    // Four of these are more than one kilobyte that is on its way, and 64 that wait. Over TLS one
    // of them is on its way, and three more do not fit.
    for reached in [3, 3, 3, 2, 2] {
        let text = "x".repeat(22_000);
        assert_eq!(test.server().sockets().publish("a", &text), reached);
        readers.into_iter().for_each(|reader| test.expect(reader, [&*text]));
    }
    assert!(matches!(test.state().errors("stuck")[..], [Error::SlowConsumer { .. }]));
    assert!(test.state().is_gone("stuck"));
    assert_eq!(members(&mut test, "a"), ["ann", "bob"]);
}

#[test]
fn a_new_uuid_changes_no_membership() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    join(&mut test, "ann", "a");
    with_socket(test.server(), "ann", |kws| kws.set_uuid(NEW).unwrap());
    assert_eq!(test.server().sockets().members("a"), [NEW]);
    test.server().sockets().publish("a", "still there");
    test.expect(ann, ["still there"]);
}

#[test]
fn the_route_callback_may_join_and_close_listeners_still_know_the_topics() {
    let mut server = memory_server_with(Server::builder());
    server
        .route("/:name", |diary: &mut Diary, kws| {
            enter(diary, kws);
            kws.join("all").unwrap();
        })
        .unwrap()
        .on(Event::Close, |diary, ep| diary.note(ep.kws.topics().concat()));
    let mut test = common::harness(server);
    connect(&mut test, ["ann"]);
    assert_eq!(members(&mut test, "all"), ["ann"]);
    with_socket(test.server(), "ann", |kws| kws.close_with(CloseCode::GOING_AWAY, "").unwrap());
    assert_eq!(test.state().notes, ["all"]);
}
