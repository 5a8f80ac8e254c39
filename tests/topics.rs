//! Topics: who is in one gets what is published there, and nobody else does.

mod common;

use common::{Client, Diary, enter, name_of, server, server_with, turn_until, with_socket};
use ikisocket::{CloseCode, Error, Event, Server, Shutdown, Socket, TopicError, Uuid};
use tungstenite::Message;

/// A server whose clients say where they want to be: `+prices`, `-prices`, and `prices hello` to tell its members.
fn topic_server() -> Server<Diary> {
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        let text = ep.data.as_str().unwrap_or_default();
        match (text.strip_prefix('+'), text.strip_prefix('-'), text.split_once(' ')) {
            (Some(topic), ..) => assert_eq!(ep.kws.join(topic), Ok(true)),
            (_, Some(topic), _) => assert!(ep.kws.leave(topic)),
            (_, _, Some((topic, text))) => _ = ep.kws.publish(topic, text),
            _ => panic!("{text}"),
        }
    });
    server
}

fn connect<const N: usize>(server: &mut Server<Diary>, names: [&str; N]) -> [Client; N] {
    names.map(|who| Client::connect(server, &format!("/{who}")))
}

fn join(server: &mut Server<Diary>, who: &str, topic: &str) {
    assert_eq!(with_socket(server, who, |kws| kws.join(topic)), Ok(true));
}

/// A topic's members by name, sorted.
fn members(server: &mut Server<Diary>, topic: &str) -> Vec<String> {
    let mut names: Vec<_> = server.lend().1.members(topic);
    names.sort_by_key(|uuid| name_by_uuid(server.state(), *uuid));
    names.into_iter().map(|uuid| name_by_uuid(server.state(), uuid)).collect()
}

fn name_by_uuid(diary: &Diary, uuid: Uuid) -> String {
    diary.ids.iter().find(|(_, id)| **id == uuid).unwrap().0.clone()
}

/// What a connection can still say of its topics.
fn topics_of(kws: &Socket<'_, Diary>) -> Vec<String> {
    let mut topics = kws.topics();
    topics.sort();
    topics
}

#[test]
fn a_publish_reaches_all_members_but_oneself_and_publish_all_oneself_too() {
    let mut server = topic_server();
    let [mut ann, mut bob, mut cid] = connect(&mut server, ["ann", "bob", "cid"]);
    join(&mut server, "ann", "prices");
    join(&mut server, "bob", "prices");
    with_socket(&mut server, "ann", |kws| {
        assert_eq!(kws.publish("prices", "from ann to bob"), 1);
        assert_eq!(kws.publish_all("prices", &b"from ann to both"[..]), 2);
    });
    // Who publishes need not be a member.
    assert_eq!(with_socket(&mut server, "cid", |kws| kws.publish("prices", "from cid")), 2);
    assert_eq!(server.lend().1.publish("prices", "from the server"), 2);
    server.lend().1.broadcast("the end");
    assert_eq!(bob.text(&mut server), "from ann to bob");
    for member in [&mut ann, &mut bob] {
        assert_eq!(member.next(&mut server), Message::binary("from ann to both"));
        assert_eq!(member.text(&mut server), "from cid");
        assert_eq!(member.text(&mut server), "from the server");
    }
    for client in [&mut ann, &mut bob, &mut cid] {
        assert_eq!(client.text(&mut server), "the end");
    }
}

#[test]
fn members_come_and_go_by_their_own_messages() {
    let mut server = topic_server();
    let [mut ann, mut bob] = connect(&mut server, ["ann", "bob"]);
    ann.send("+a");
    turn_until(&mut server, |server| members(server, "a") == ["ann"]);
    bob.send("a first");
    assert_eq!(ann.text(&mut server), "first");
    bob.send("+a");
    turn_until(&mut server, |server| members(server, "a") == ["ann", "bob"]);
    ann.send("-a");
    turn_until(&mut server, |server| members(server, "a") == ["bob"]);
    ann.send("a second");
    assert_eq!(bob.text(&mut server), "second");
    server.lend().1.broadcast("end");
    assert_eq!(ann.text(&mut server), "end");
}

#[test]
fn joining_twice_is_one_membership() {
    let mut server = server();
    let [mut ann] = connect(&mut server, ["ann"]);
    with_socket(&mut server, "ann", |kws| {
        assert!(!kws.is_member("a"));
        assert_eq!([kws.join("a"), kws.join("a")], [Ok(true), Ok(false)]);
        assert!(kws.is_member("a"));
        assert_eq!((kws.topics(), kws.sockets().member_count("a")), (vec!["a".to_owned()], 1));
        assert_eq!(kws.publish_all("a", "once"), 1);
        assert_eq!([kws.leave("a"), kws.leave("a")], [true, false]);
        assert!(!kws.is_member("a"));
    });
    server.lend().1.broadcast("end");
    assert_eq!([ann.text(&mut server), ann.text(&mut server)], ["once", "end"]);
}

#[test]
fn a_topic_is_there_while_it_has_members() {
    let mut server = server();
    let _clients = connect(&mut server, ["ann", "bob"]);
    for (who, topic) in [("ann", "a"), ("ann", "b"), ("bob", "b")] {
        join(&mut server, who, topic);
    }
    let sockets = server.lend().1;
    let mut topics: Vec<_> = sockets.topics().collect();
    topics.sort();
    assert_eq!(topics, [("a", 1), ("b", 2)]);
    assert_eq!((sockets.member_count("a"), sockets.member_count("b"), sockets.member_count("c")), (1, 2, 0));
    assert!(with_socket(&mut server, "ann", |kws| kws.leave("a")));
    assert_eq!(server.lend().1.topics().collect::<Vec<_>>(), [("b", 2)]);
    assert_eq!(server.lend().1.members("a"), Vec::<Uuid>::new());
    assert_eq!(server.lend().1.publish("a", "nobody"), 0);
}

#[test]
fn a_name_that_is_empty_or_too_long_is_refused_and_nothing_changes() {
    let mut server = server();
    let _clients = connect(&mut server, ["ann"]);
    with_socket(&mut server, "ann", |kws| {
        assert_eq!(kws.join(""), Err(TopicError::Empty));
        assert_eq!(kws.join(&"x".repeat(256)), Ok(true));
        assert_eq!(kws.join(&"x".repeat(257)), Err(TopicError::TooLong { len: 257 }));
        let huge = "x".repeat(10 * 1024 * 1024);
        let error = kws.join(&huge).unwrap_err();
        assert_eq!(error.to_string(), "a topic's name has at most 256 bytes, not 10485760");
        assert_eq!((kws.publish_all(&huge, "to nobody"), kws.is_member(&huge), kws.leave(&huge)), (0, false, false));
        assert_eq!(kws.topics().len(), 1);
    });
}

#[test]
fn a_connection_may_be_in_so_many_topics_and_no_more() {
    let mut server = server_with(Server::builder().max_topics_per_connection(2));
    server.route("/:name", enter).unwrap();
    let _clients = connect(&mut server, ["ann", "bob"]);
    with_socket(&mut server, "ann", |kws| {
        assert_eq!([kws.join("a"), kws.join("b")], [Ok(true); 2]);
        assert_eq!(kws.join("c"), Err(TopicError::TooMany { limit: 2 }));
        assert_eq!(kws.join("a"), Ok(false), "it is there already");
        assert!(kws.leave("a"));
        assert_eq!(kws.join("c"), Ok(true));
        assert_eq!(topics_of(kws), ["b", "c"]);
    });
    join(&mut server, "bob", "d");
    assert!(Server::builder().max_topics_per_connection(0).build(()).is_err());
}

#[test]
fn each_member_gets_emits_broadcasts_and_publishes_in_the_order_in_which_they_were_made() {
    let mut server = server();
    let mut clients = connect(&mut server, ["ann", "bob", "cid"]);
    for who in ["ann", "bob", "cid"] {
        join(&mut server, who, "a");
        join(&mut server, who, "b");
    }
    let large = "x".repeat(100_000);
    let (diary, mut sockets) = server.lend();
    for round in 0..20 {
        assert_eq!(sockets.publish("a", format!("a {round}")), 3);
        for uuid in diary.ids.values() {
            sockets.emit_to(*uuid, format!("own {round}")).unwrap();
        }
        assert_eq!(sockets.publish("b", &large), 3);
        sockets.broadcast(format!("all {round}"));
    }
    for client in &mut clients {
        for round in 0..20 {
            for expected in [format!("a {round}"), format!("own {round}"), large.clone(), format!("all {round}")] {
                assert_eq!(client.text(&mut server), expected);
            }
        }
    }
}

// The end of a connection.

#[test]
fn a_closed_connection_is_in_no_topic_from_that_moment_on() {
    let mut server = server();
    let [_ann, mut bob] = connect(&mut server, ["ann", "bob"]);
    join(&mut server, "ann", "a");
    join(&mut server, "bob", "a");
    with_socket(&mut server, "ann", |kws| {
        kws.close();
        assert!(!kws.is_member("a") && !kws.leave("a"));
        assert_eq!(kws.join("b"), Err(TopicError::Closed));
        assert_eq!(kws.publish_all("a", "without ann"), 1);
        assert_eq!(kws.sockets().member_count("a"), 1);
    });
    assert_eq!(members(&mut server, "a"), ["bob"]);
    assert_eq!(bob.text(&mut server), "without ann");
}

#[test]
fn in_disconnect_a_connection_says_what_it_was_in_and_can_tell_the_others() {
    let mut server = server();
    server.on(Event::Disconnect, |diary, ep| {
        let (who, topics) = (name_of(&ep.kws), topics_of(&ep.kws));
        for topic in &topics {
            ep.kws.publish(topic, format!("{who} left {topic}"));
        }
        diary.note(format!("{who}: {}", topics.join(" ")));
    });
    let [ann, mut bob, cid] = connect(&mut server, ["ann", "bob", "cid"]);
    for (who, topic) in [("ann", "a"), ("ann", "b"), ("bob", "b"), ("cid", "b"), ("ann", "own")] {
        join(&mut server, who, topic);
    }
    ann.vanish();
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    cid.reset();
    turn_until(&mut server, |server| server.state().is_gone("cid"));
    assert_eq!(server.state().notes, ["ann: a b own", "cid: b"]);
    assert_eq!([bob.text(&mut server), bob.text(&mut server)], ["ann left b", "cid left b"]);
    assert_eq!(server.lend().1.topics().collect::<Vec<_>>(), [("b", 1)]);
}

#[test]
fn whoever_comes_into_a_freed_place_is_in_none_of_its_topics() {
    let mut server = server();
    let [ann] = connect(&mut server, ["ann"]);
    join(&mut server, "ann", "a");
    ann.reset();
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    let [_bob] = connect(&mut server, ["bob"]);
    with_socket(&mut server, "bob", |kws| {
        assert_eq!(kws.topics(), Vec::<String>::new());
        assert_eq!(kws.publish_all("a", "nobody"), 0);
    });
}

#[test]
fn a_shutdown_ends_every_topic() {
    let mut server = server();
    let clients = connect(&mut server, ["ann", "bob"]);
    join(&mut server, "ann", "a");
    join(&mut server, "bob", "b");
    let mut sockets = server.lend().1;
    sockets.shutdown(Shutdown::default()).unwrap();
    assert_eq!(sockets.topics().count(), 0);
    for client in clients {
        client.end(&mut server);
    }
}

#[test]
fn a_member_that_reads_too_slowly_is_given_up_and_the_others_miss_nothing() {
    let mut server = server_with(Server::builder().max_outbox(64 * 1024));
    server.route("/:name", enter).unwrap();
    let [mut ann, _stuck, mut bob] = connect(&mut server, ["ann", "stuck", "bob"]);
    for who in ["ann", "stuck", "bob"] {
        join(&mut server, who, "a");
    }
    let mut number = 0;
    while server.lend().1.member_count("a") == 3 {
        let text = format!("{number:06}{}", "x".repeat(20_000));
        let reached = server.lend().1.publish("a", &text);
        assert!(reached == 3 || server.lend().1.member_count("a") == reached);
        server.flush();
        for reader in [&mut ann, &mut bob] {
            assert_eq!(reader.text(&mut server), text);
        }
        number += 1;
        assert!(number < 10_000, "it takes everything");
    }
    turn_until(&mut server, |server| server.state().is_gone("stuck"));
    assert!(matches!(server.state().errors("stuck")[..], [Error::SlowConsumer { .. }]));
    assert_eq!(members(&mut server, "a"), ["ann", "bob"]);
}

#[test]
fn a_new_uuid_changes_no_membership() {
    let mut server = server();
    let [mut ann] = connect(&mut server, ["ann"]);
    join(&mut server, "ann", "a");
    let new = Uuid::from_u128(1);
    with_socket(&mut server, "ann", |kws| kws.set_uuid(new).unwrap());
    assert_eq!(server.lend().1.members("a"), [new]);
    server.lend().1.publish("a", "still there");
    assert_eq!(ann.text(&mut server), "still there");
}

#[test]
fn the_route_callback_may_join_and_close_listeners_still_know_the_topics() {
    let mut server = server_with(Server::builder());
    server
        .route("/:name", |diary: &mut Diary, kws| {
            enter(diary, kws);
            kws.join("all").unwrap();
        })
        .unwrap()
        .on(Event::Close, |diary, ep| diary.note(ep.kws.topics().concat()));
    let [ann] = connect(&mut server, ["ann"]);
    assert_eq!(members(&mut server, "all"), ["ann"]);
    with_socket(&mut server, "ann", |kws| kws.close_with(CloseCode::GOING_AWAY, "").unwrap());
    ann.end(&mut server);
    assert_eq!(server.state().notes, ["all"]);
}
