//! Which listener is called when: the order of events, `fire`, `off`, and what may not happen
//! inside a callback.
//!
//! That order does not depend on sockets. So these tests have none, and each does the same in every
//! run. Only the first test is about two hundred peers at once, and uses TCP. Every verb and every
//! event has its test over TCP in `tests/end_to_end.rs`.

mod common;

use common::{
    Client, Diary, connect, enter, memory_server, memory_server_with, name_of, server, with_socket,
};
use ikisocket::testing::{Faults, Received, Upgrade};
use ikisocket::{Error, Event, Server, Uuid};

#[test]
fn every_client_of_200_gets_the_response_of_its_event() {
    let mut server = server();
    server.on("CUSTOM_EVENT", |_, ep| {
        ep.kws.emit(format!("{} says {}", ep.name, String::from_utf8_lossy(&ep.data)));
    });
    server.on(Event::Message, |diary, ep| {
        ep.kws.fire(diary, "CUSTOM_EVENT", ep.data);
    });
    let mut clients: Vec<_> =
        (0..200).map(|i| Client::connect(&mut server, &format!("/{i}"))).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(format!("hello {i}"));
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text(&mut server), format!("CUSTOM_EVENT says hello {i}"));
    }
}

#[test]
fn a_global_fire_calls_a_listener_once_for_each_open_connection() {
    let mut server = memory_server();
    server.on("tick", |diary, ep| {
        let note = format!("{} {}", name_of(&ep.kws), String::from_utf8_lossy(&ep.data));
        diary.note(note);
    });
    let mut test = common::harness(server);
    let clients: Vec<_> = (0..20).map(|i| test.connect(format!("/{i:02}")).unwrap()).collect();
    with_socket(test.server(), "07", |kws| kws.close());
    let (diary, mut sockets) = test.server().lend();
    assert_eq!(sockets.fire(diary, "tick", "7 o'clock"), 19);
    diary.notes.sort();
    let expected: Vec<_> =
        (0..20).filter(|&i| i != 7).map(|i| format!("{i:02} 7 o'clock")).collect();
    assert_eq!(diary.notes, expected);
    test.expect_nothing(clients[0]);
}

#[test]
fn the_callback_comes_first_then_connect_then_messages_then_disconnect() {
    let mut server = memory_server_with(Server::builder());
    server
        .route("/:name", |diary, kws| {
            enter(diary, kws);
            assert!(diary.entries.is_empty());
        })
        .unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "hello");
    test.send(ann, b"x");
    test.close(ann, 1000, "");
    assert_eq!(test.state().events("ann"), ["connect", "message", "message", "disconnect"]);
}

#[test]
fn an_emit_in_the_callback_arrives_before_an_emit_in_connect() {
    let mut server = memory_server_with(Server::builder());
    server.on(Event::Connect, |_, ep| {
        ep.kws.emit("connect");
    });
    server
        .route("/:name", |_, kws| {
            kws.emit("callback");
        })
        .unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.expect(ann, ["callback", "connect"]);
}

#[test]
fn a_callback_that_closes_gets_no_connect() {
    let mut server = memory_server_with(Server::builder());
    server.route("/:name", |_, kws| kws.close()).unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.expect_goodbye(ann, 1000, "Connection closed");
    assert_eq!(test.state().events("ann"), ["close", "disconnect"]);
}

#[test]
fn a_message_fires_with_its_kind_and_is_answered_in_kind() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    for text in ["täxt", ""] {
        test.send(ann, text);
        test.expect(ann, [text]);
    }
    for data in [&[0, 255, 0][..], &[]] {
        test.send(ann, data);
        test.expect(ann, [Received::binary(data)]);
    }
}

#[test]
fn a_ping_is_answered_and_fires_and_a_pong_fires_with_its_data() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    test.ping(ann, "are you there");
    test.expect(ann, [Received::Pong(b"are you there".to_vec())]);
    assert_eq!(test.state().only("ann", "ping").data, "are you there");

    with_socket(test.server(), "ann", |kws| kws.ping("and you")).ok().unwrap();
    test.expect(ann, [Received::Ping(b"and you".to_vec())]);
    assert_eq!(test.state().only("ann", "pong").data, "and you");
}

#[test]
fn listeners_run_as_registered_the_servers_before_the_routes() {
    let mut server = memory_server_with(Server::builder());
    server.on("mine", |diary, _| diary.note("server 1"));
    server
        .route("/:name", enter)
        .unwrap()
        .on("mine", |diary, _| diary.note("route 1"))
        .on("mine", |diary, _| diary.note("route 2"));
    server.on("mine", |diary, _| diary.note("server 2"));
    server.route("/other/:name", enter).unwrap().on("mine", |diary, _| diary.note("other route"));
    let mut test = common::harness(server);
    connect(&mut test, ["ann", "other/bob"]);

    let (diary, mut sockets) = test.server().lend();
    let ann = diary.id("ann");
    assert_eq!(sockets.get(ann).unwrap().fire(diary, "mine", ""), 4);
    assert_eq!(diary.notes, ["server 1", "server 2", "route 1", "route 2"]);
}

#[test]
fn off_removes_every_listener_of_the_event_those_of_routes_too() {
    let mut server = memory_server_with(Server::builder());
    server.on("mine", |diary, _| diary.note("mine"));
    server.on("yours", |diary, _| diary.note("yours"));
    server
        .route("/:name", enter)
        .unwrap()
        .on("mine", |diary, _| diary.note("mine of the route"))
        .on(Event::Message, |diary, _| diary.note("message of the route"));
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);

    let server = test.server();
    assert_eq!(server.off("mine"), 2);
    assert_eq!(server.off("mine"), 0);
    assert_eq!(server.off(Event::Message), 2, "the diary's and the route's");
    let (diary, mut sockets) = server.lend();
    assert_eq!(sockets.fire(diary, "mine", ""), 0);
    assert_eq!(sockets.fire(diary, "yours", ""), 1);
    test.send(ann, "unheard");
    test.ping(ann, "");
    assert_eq!(test.state().events("ann"), ["connect", "ping"]);
    assert_eq!(test.state().notes, ["yours"]);
}

#[test]
fn a_builtins_name_as_a_string_means_the_builtin() {
    let mut server = memory_server();
    server.on("connect", |diary, _| diary.note("connected"));
    let mut test = common::harness(server);
    connect(&mut test, ["ann"]);
    assert_eq!(test.state().notes, ["connected"]);
}

// Fire.

#[test]
fn fire_runs_the_listeners_before_it_returns_and_inside_each_other() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        diary.note("message begins");
        assert_eq!(ep.kws.fire(diary, "outer", "data"), 2);
        diary.note("message ends");
    });
    server.on("outer", |diary, ep| {
        diary.note("outer begins");
        assert_eq!(ep.kws.fire(diary, "inner", ep.data), 1);
        assert_eq!(ep.kws.fire(diary, "no listener", ep.data), 0);
        diary.note("outer ends");
    });
    server.on("outer", |diary, _| diary.note("second outer"));
    server.on("inner", |diary, ep| {
        diary.note(format!("inner {}", String::from_utf8_lossy(&ep.data)))
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "go");
    assert_eq!(
        test.state().notes,
        [
            "message begins",
            "outer begins",
            "inner data",
            "outer ends",
            "second outer",
            "message ends"
        ]
    );
    assert_eq!(test.state().errors("ann"), []);
}

#[test]
fn a_fire_more_than_64_deep_calls_no_listener_and_records_one_error() {
    let mut server = memory_server();
    server.on("again", |diary, ep| {
        diary.note("ran");
        ep.kws.fire(diary, "again", "");
    });
    let mut test = common::harness(server);
    connect(&mut test, ["ann"]);
    let (diary, mut sockets) = test.server().lend();
    let id = diary.id("ann");
    assert_eq!(sockets.get(id).unwrap().fire(diary, "again", ""), 1);
    assert_eq!(diary.notes.len(), 64);
    assert!(!diary.has("ann", "error"), "it fires later");
    let too_deep = Error::FireRefused { event: "again".to_owned(), depth: Some(64) };
    assert_eq!(test.state().errors("ann"), [too_deep]);
    assert_eq!(test.state().events("ann"), ["connect", "error"], "and it is open still");
}

#[test]
fn a_fire_of_the_librarys_event_calls_no_listener_and_records_an_error() {
    const NAMES: [&str; 9] = [
        "connect",
        "message",
        "ping",
        "pong",
        "close",
        "error",
        "disconnect",
        "pressure",
        "relief",
    ];
    let mut server = memory_server();
    for name in ["pressure", "relief"] {
        server.on(name, |diary, _| diary.note("it ran"));
    }
    server.on(Event::Message, |diary, ep| {
        for name in NAMES {
            assert_eq!(ep.kws.fire(diary, name, "fake"), 0);
        }
        diary.note("no listener ran");
    });
    let refused = NAMES.map(|name| Error::FireRefused { event: name.to_owned(), depth: None });

    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "go");
    assert_eq!(test.state().notes, ["no listener ran"]);
    assert_eq!(test.state().errors("ann"), refused);
    assert_eq!(test.state().events("ann")[..2], ["connect", "message"]);
    assert_eq!(test.state().events("ann").len(), 2 + NAMES.len());

    let (diary, mut sockets) = test.server().lend();
    diary.entries.clear();
    assert_eq!(sockets.fire(diary, "disconnect", ""), 0, "the global form too");
    assert_eq!(test.state().events("ann"), ["error"]);
}

#[test]
fn what_fails_inside_an_error_listener_is_only_returned() {
    let mut server = memory_server();
    server.on(Event::Error, |diary, ep| {
        assert_eq!(ep.kws.fire(diary, "message", ""), 0);
        assert!(ep.kws.emit_to(Uuid::nil(), "into the void").is_err());
        assert_eq!(ep.kws.emit_to_list(&[Uuid::nil()], "into the void"), 0);
        ep.kws.emit("the end of the error listener");
    });
    server.on(Event::Message, |diary, ep| {
        ep.kws.fire(diary, "error", "");
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "go");
    test.expect(ann, ["the end of the error listener"]);
    assert_eq!(test.state().events("ann"), ["connect", "message", "error"]);
}

#[test]
fn nothing_but_fire_runs_a_listener_inside_a_callback() {
    common::quiet_panics();
    #[derive(Default)]
    struct Watch {
        inside: bool,
        nested: Vec<String>,
        told: Vec<String>,
    }
    let mut server = Server::builder().max_outbox(64 * 1024).build(Watch::default()).unwrap();
    for event in [Event::Connect, Event::Message, Event::Close, Event::Error, Event::Disconnect] {
        server.on(event, |watch, ep| {
            let line = format!("{} {}", ep.kws.param("name").unwrap_or_default(), ep.name);
            if watch.inside {
                watch.nested.push(line.clone());
            }
            watch.told.push(line);
        });
    }
    server.on(Event::Message, |watch, ep| {
        watch.inside = true;
        let _ = ep.kws.emit_to(Uuid::nil(), "");
        ep.kws.emit_to_list(&[Uuid::nil(), Uuid::nil()], "");
        ep.kws.fire(watch, "close", "");
        ep.kws.sockets().for_each(|other| {
            if other.param("name") == Some("other") {
                other.close();
                other.close();
            }
        });
        // Two remain, and one of them has stopped reading: the third of these emits disconnects it.
        for left in [1, 1, 0] {
            assert_eq!(ep.kws.broadcast(vec![0; 32 * 1024]), left);
        }
        ep.kws.close();
        panic!("{}", common::ON_PURPOSE);
    });
    server.on_panic(|watch, _| watch.inside = false);
    server.route("/:name", |_, _| {}).unwrap();

    let mut test = common::harness(server);
    let slow = test.connect(Upgrade::to("/slow").faults(Faults::none().window(32 * 1024))).unwrap();
    test.stop_reading(slow);
    let [_other, actor] = connect(&mut test, ["other", "actor"]);
    test.state().told.clear();
    test.send(actor, "go");

    let watch = test.state();
    assert_eq!(watch.nested, [""; 0]);
    let of = |name: &str| -> Vec<&str> {
        watch.told.iter().filter_map(|told| told.strip_prefix(name)).collect()
    };
    assert_eq!(
        of("actor "),
        ["message", "error", "error", "error", "error", "close", "disconnect"]
    );
    assert_eq!(of("other "), ["close", "disconnect"]);
    assert_eq!(of("slow "), ["error", "disconnect"]);
    let order = [
        "actor message",
        "actor error",
        "actor error",
        "actor error",
        "actor error",
        "other close",
        "slow error",
    ];
    assert_eq!(watch.told[..order.len()], order, "in the order in which it happened");
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn no_message_fires_on_a_connection_that_another_closed_in_the_same_turn() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        let own = ep.kws.uuid();
        ep.kws.sockets().for_each(|other| {
            if other.uuid() != own {
                other.close();
            }
        });
    });
    let mut test = common::harness_by_hand(server);
    let clients = connect(&mut test, ["ann", "bob", "cid"]);
    for client in clients {
        test.send(client, "only one of these fires");
    }
    assert_eq!(test.turn().messages, 1);
    test.settle();
    assert_eq!(test.state().entries.iter().filter(|entry| entry.event == "message").count(), 1);
    assert_eq!(["ann", "bob", "cid"].iter().filter(|name| test.state().is_gone(name)).count(), 2);
}

// What is kept with a connection.

#[test]
fn in_disconnect_the_connections_data_is_there_and_emits_are_refused() {
    let mut server = memory_server();
    server.on(Event::Connect, |_, ep| ep.kws.set_attribute("age", 36));
    server.on(Event::Disconnect, |diary, ep| {
        assert_eq!(ep.kws.uuid(), diary.id("ann"));
        assert_eq!(ep.socket_uuid, diary.id("ann"));
        assert_eq!(ep.kws.query("q").as_deref(), Some("a b"));
        assert_eq!(ep.kws.param("name"), Some("ann"));
        assert_eq!(ep.kws.header("host"), Some("localhost"));
        assert_eq!(ep.kws.int_attribute("age"), Some(36));
        assert_eq!(ep.socket_attributes().int("age"), Some(36));
        assert!(!ep.kws.is_alive());
        assert!(ep.kws.emit("too late").ok().is_err());
        assert!(ep.kws.ping("too late").ok().is_err());
        assert_eq!(ep.kws.broadcast("no other connection is here"), 0);
        diary.note("all of it was checked");
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann?q=a%20b"]);
    test.finish(ann);
    assert_eq!(test.state().notes, ["all of it was checked"]);
}

#[test]
fn no_client_ever_sees_the_request_of_another() {
    fn note(diary: &mut Diary, when: &str, kws: &ikisocket::Socket<'_, Diary>) {
        let seen = [
            kws.param("name").map(str::to_owned),
            kws.query("q").map(Into::into),
            kws.cookie("c").map(Into::into),
        ];
        diary.note(format!("{when} {seen:?} {:?}", kws.string_attribute("first seen as")));
    }
    let mut server = memory_server_with(Server::builder());
    server
        .route("/:name", |_, kws| {
            assert!(
                kws.attributes().is_empty(),
                "left over from the connection that had the slot before"
            );
            let name = name_of(kws);
            kws.set_attribute("first seen as", name);
        })
        .unwrap();
    server.on(Event::Message, |diary, ep| note(diary, "message", &ep.kws));
    server.on(Event::Disconnect, |diary, ep| note(diary, "disconnect", &ep.kws));

    let mut test = common::harness(server);
    let mut number = 0;
    for _round in 0..30 {
        let mut clients = Vec::new();
        for _ in 0..4 {
            number += 1;
            let mut upgrade = Upgrade::to(format!("/n{number}?q=q{number}"));
            // Some have no cookie: they must not see one that another left behind.
            if number % 2 == 0 {
                upgrade = upgrade.header("Cookie", &format!("c=c{number}"));
            }
            let client = test.connect(upgrade).unwrap();
            test.send(client, "hello");
            clients.push((number, client));
        }
        clients.swap(0, 3);
        clients.swap(1, 2);
        for (number, client) in clients {
            test.finish(client);
            let cookie = (number % 2 == 0).then(|| format!("c{number}"));
            let seen = [Some(format!("n{number}")), Some(format!("q{number}")), cookie];
            let line = format!("{seen:?} {:?}", Some(format!("n{number}")));
            for when in ["message", "disconnect"] {
                let expected = format!("{when} {line}");
                assert_eq!(
                    test.state().notes.iter().filter(|note| **note == expected).count(),
                    1,
                    "{expected}"
                );
            }
        }
    }
    assert_eq!(test.state().notes.len(), 2 * number);
}
