//! Servers with a bus over a real redis-server, turned by hand on one thread. Without a
//! redis-server these tests say so and pass.
#![cfg(unix)]

mod common;
#[path = "common/redis_process.rs"]
mod redis_process;

use std::time::{Duration, Instant};

use common::{Client, PATIENCE};
use ikisocket::{
    Bus, BusError, BusEvent, BusFailure, BusRefusal, BusSent, BusStats, EmitError, Emitted, Event,
    GapFrom, Gathered, Server, Uuid,
};
use redis_process::Redis;
use tungstenite::Message;

/// What a server has noticed, one line for each thing.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    counts: Vec<Gathered<usize>>,
    members: Vec<Gathered<Vec<Uuid>>>,
}

type Node = Server<Notes>;

/// A server on the bus of this Redis, whose clients join the topic that is their path.
fn node_with(redis: &Redis, change: impl FnOnce(Bus) -> Bus) -> Node {
    let mut server = Server::bind("127.0.0.1:0", Notes::default()).unwrap();
    let address = format!("redis+unix://{}", redis.socket().display());
    let bus = Bus::redis(&address).unwrap().prefix("test").stable_after(Duration::ZERO);
    server.bus(change(bus)).unwrap();
    server.on_bus(|notes, _, event| {
        notes.lines.push(match event {
            BusEvent::Up { .. } => "up".to_owned(),
            BusEvent::Down { why, unconfirmed, .. } => format!("down {why:?} {unconfirmed}"),
            BusEvent::Gap { from: GapFrom::Node(_), topic, lost: Some(lost), .. } => {
                format!("gap {} {lost}", topic.as_deref().unwrap_or("-"))
            }
            event => format!("{event:?}"),
        });
    });
    server.on("poke", |notes, ep| notes.lines.push(format!("poke {:?}", ep.data.as_str())));
    server
        .route("/ws/:topic", |_, kws| {
            let topic = kws.param("topic").unwrap_or_default().to_owned();
            kws.join(&topic).unwrap();
        })
        .unwrap();
    server
        .route("/as/:uuid", |_, kws| {
            let uuid = kws.param("uuid").unwrap_or_default().parse().unwrap();
            kws.set_uuid(uuid).unwrap();
        })
        .unwrap();
    server
}

fn node(redis: &Redis) -> Node {
    node_with(redis, |bus| bus)
}

/// Turns all servers until `done` says so.
#[track_caller]
fn turn_all(nodes: &mut [&mut Node], mut done: impl FnMut(&mut [&mut Node]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(nodes) {
        if Instant::now() >= deadline {
            let lines: Vec<_> = nodes.iter().map(|node| &node.state().lines).collect();
            panic!("it has not happened: {lines:#?}");
        }
        for node in &mut *nodes {
            node.poll(Some(Duration::from_millis(1))).unwrap();
        }
    }
}

fn figures(node: &Node) -> BusStats {
    node.stats().bus.unwrap()
}

fn is_up(node: &Node) -> bool {
    figures(node).is_up
}

/// Waits until the bus of all is up and each knows the others.
#[track_caller]
fn meet(nodes: &mut [&mut Node]) {
    let others = nodes.len() - 1;
    turn_all(nodes, |nodes| {
        nodes.iter().all(|node| {
            let bus = figures(node);
            bus.is_up && bus.nodes == others
        })
    });
}

/// Waits until Redis has confirmed this many subscriptions of a server.
#[track_caller]
fn subscribed(node: &mut Node, count: u64) {
    turn_all(&mut [node], |nodes| figures(nodes[0]).subscriptions == count);
}

#[track_caller]
fn next_of(client: &mut Client, nodes: &mut [&mut Node]) -> String {
    let mut found = None;
    turn_all(nodes, |_| {
        found = client.try_next();
        found.is_some()
    });
    match found {
        Some(Message::Text(text)) => text.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn uuid_of(node: &mut Node) -> Uuid {
    node.sockets().uuids()[0]
}

#[test]
fn a_message_reaches_the_members_on_both_servers() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let mut ann = Client::connect(&mut a, "/ws/prices");
    let mut bob = Client::connect(&mut b, "/ws/prices");
    subscribed(&mut a, 3);
    subscribed(&mut b, 3);
    let sent = a.sockets().everywhere().publish("prices", "1.0857");
    assert_eq!((sent.here, sent.bus, sent.is_complete()), (1, BusSent::Queued, true));
    assert_eq!(next_of(&mut ann, &mut [&mut a, &mut b]), "1.0857");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "1.0857");
    let sent = b.sockets().everywhere().publish("prices", "1.0858");
    assert_eq!((sent.here, sent.bus), (1, BusSent::Queued));
    assert_eq!(next_of(&mut ann, &mut [&mut a, &mut b]), "1.0858");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "1.0858");
    assert_eq!((ann.try_next(), bob.try_next()), (None, None), "each of them once");
    let (of_a, of_b) = (figures(&a), figures(&b));
    assert_eq!((of_a.published, of_a.received, of_b.published, of_b.received), (1, 1, 1, 1));
    assert_eq!((of_a.lost, of_a.duplicates, of_a.unreadable, of_a.refused), (0, 0, 0, 0));
}

#[test]
fn connections_of_another_server_are_reached_by_their_uuids() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let mut bob = Client::connect(&mut b, "/ws/room");
    let uuid = uuid_of(&mut b);
    assert_eq!(uuid.get_version_num(), 8);
    assert_eq!(uuid.simple().to_string()[..12], b.sockets().node().unwrap().to_string());
    let emitted = a.sockets().everywhere().emit_to(uuid, "hello");
    assert_eq!(emitted, Ok(Emitted::Queued));
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "hello");
    let sent = a.sockets().everywhere().emit_to_list(&[uuid, Uuid::from_u128(1)], "list");
    assert_eq!((sent.here, sent.bus), (0, BusSent::Queued));
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "list");
    // A uuid of the program.
    let own = Uuid::from_u128(7);
    let mut eve = Client::connect(&mut b, &format!("/as/{own}"));
    subscribed(&mut b, 4);
    assert_eq!(a.sockets().everywhere().emit_to(own, "to you"), Ok(Emitted::Queued));
    assert_eq!(next_of(&mut eve, &mut [&mut a, &mut b]), "to you");
    assert_eq!(a.sockets().everywhere().close(own, 4000, "enough"), Ok(true));
    let mut closed = None;
    turn_all(&mut [&mut a, &mut b], |_| {
        closed = eve.ws.read().ok();
        matches!(closed, Some(Message::Close(_)))
    });
    let Some(Message::Close(Some(frame))) = closed else { panic!("{closed:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4000, "enough"));
}

#[test]
fn a_client_that_comes_back_to_another_server_with_its_uuid_is_found() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let ann = Client::connect(&mut a, "/ws/room");
    let uuid = uuid_of(&mut a);
    ann.vanish();
    let mut back = Client::connect(&mut b, &format!("/as/{uuid}"));
    subscribed(&mut b, 3);
    turn_all(&mut [&mut a, &mut b], |nodes| nodes[0].stats().open == 0);
    assert_eq!(b.sockets().everywhere().emit_to(uuid, "own"), Ok(Emitted::Queued));
    assert_eq!(next_of(&mut back, &mut [&mut a, &mut b]), "own");
    let mut c = node(&redis);
    meet(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.sockets().everywhere().emit_to(uuid, "found"), Ok(Emitted::Queued));
    assert_eq!(next_of(&mut back, &mut [&mut a, &mut b, &mut c]), "found");
}

#[test]
fn broadcasts_and_events_reach_all_servers() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let mut ann = Client::connect(&mut a, "/ws/x");
    let mut bob = Client::connect(&mut b, "/ws/y");
    let sent = a.sockets().everywhere().broadcast("all");
    assert_eq!((sent.here, sent.bus), (1, BusSent::Queued));
    assert_eq!(next_of(&mut ann, &mut [&mut a, &mut b]), "all");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "all");
    b.sockets().everywhere().fire("poke", "now");
    turn_all(&mut [&mut a, &mut b], |nodes| {
        nodes.iter().all(|node| node.state().lines.contains(&"poke Some(\"now\")".to_owned()))
    });
}

#[test]
fn questions_are_answered_by_all_servers_or_name_those_that_did_not() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let _ann = Client::connect(&mut a, "/ws/room");
    let _bob = Client::connect(&mut b, "/ws/room");
    let _eve = Client::connect(&mut b, "/ws/other");
    let mut expected: Vec<Uuid> = Vec::new();
    for node in [&mut a, &mut b] {
        expected.extend(node.sockets().members("room"));
    }
    a.sockets().everywhere().count(|notes, _, open| notes.counts.push(open));
    a.sockets().everywhere().member_count("room", |notes, _, open| notes.counts.push(open));
    a.sockets().everywhere().members("room", |notes, _, open| notes.members.push(open));
    turn_all(&mut [&mut a, &mut b], |nodes| {
        let notes = nodes[0].state();
        notes.counts.len() == 2 && notes.members.len() == 1
    });
    let mut counts: Vec<_> = a.state().counts.iter().map(|open| open.value).collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3]);
    let mut members = a.state().members[0].value.clone();
    members.sort_unstable();
    expected.sort_unstable();
    assert_eq!(members, expected);
    assert!(a.state().members[0].is_complete());
    // The other server does not turn.
    a.sockets().everywhere().count(|notes, _, open| notes.counts.push(open));
    turn_all(&mut [&mut a], |nodes| nodes[0].state().counts.len() == 3);
    let gathered = &a.state().counts[2];
    assert_eq!((gathered.value, gathered.is_complete()), (1, false));
    assert_eq!(gathered.missing_nodes, [b.sockets().node().unwrap()]);
}

#[test]
fn a_bus_that_goes_down_is_announced_and_its_subscriptions_come_back() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    let early = a.sockets().everywhere().publish("room", "too early");
    assert_eq!(early.bus, BusSent::Refused(BusRefusal::Down));
    assert!(!early.is_complete());
    meet(&mut [&mut a, &mut b]);
    let mut bob = Client::connect(&mut b, "/ws/room");
    subscribed(&mut b, 3);
    a.sockets().everywhere().publish("room", "before");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "before");
    redis.kill();
    turn_all(&mut [&mut a, &mut b], |nodes| nodes.iter().all(|node| !is_up(node)));
    for node in [&mut a, &mut b] {
        let lines = &node.state().lines;
        let downs = lines.iter().filter(|line| line.starts_with("down")).count();
        assert_eq!(downs, 1, "{lines:?}");
    }
    let refused = a.sockets().everywhere().emit_to(uuid_of(&mut b), "x");
    assert_eq!(refused, Err(EmitError::Bus(BusRefusal::Down)));
    redis.start_again(&[]);
    meet(&mut [&mut a, &mut b]);
    let sent = a.sockets().everywhere().publish("room", "after");
    assert_eq!(sent.bus, BusSent::Queued);
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "after");
    let lines = &b.state().lines;
    assert!(!lines.iter().any(|line| line.starts_with("gap")), "none is missing: {lines:?}");
    assert_eq!(figures(&b).downs, 1);
}

#[test]
fn messages_that_are_lost_between_two_others_are_counted() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    let mut bob = Client::connect(&mut b, "/ws/room");
    subscribed(&mut b, 3);
    a.sockets().everywhere().publish("room", "first");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "first");
    // Redis ends the connection of the other server alone, which has one subscription more.
    let list = redis.ask("CLIENT LIST TYPE pubsub");
    let of_b = list.lines().find(|line| line.contains(" sub=3 ")).unwrap();
    let id = of_b.split("id=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert_eq!(redis.ask(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    for text in ["second", "third", "fourth"] {
        assert_eq!(a.sockets().everywhere().publish("room", text).bus, BusSent::Queued);
    }
    a.sockets().everywhere().publish("elsewhere", "of no interest to the other server");
    // They are published before the other server is back.
    a.flush();
    turn_all(&mut [&mut b], |nodes| figures(nodes[0]).downs == 1 && is_up(nodes[0]));
    a.sockets().everywhere().publish("room", "fifth");
    assert_eq!(next_of(&mut bob, &mut [&mut a, &mut b]), "fifth");
    let gaps: Vec<_> = b.state().lines.iter().filter(|line| line.starts_with("gap")).collect();
    assert_eq!(gaps, ["gap room 3"]);
    let stats = figures(&b);
    assert_eq!((stats.gaps, stats.lost, figures(&a).downs), (1, 3, 0));
}

#[test]
fn a_bus_is_refused_with_a_reason() {
    let bus = || Bus::redis("redis://127.0.0.1:1").unwrap();
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    let error = server.bus(bus().prefix("a b")).unwrap_err();
    assert!(matches!(error, BusError::Setting { setting: "prefix", .. }), "{error}");
    server.bus(bus()).unwrap();
    assert_eq!(server.bus(bus()).unwrap_err(), BusError::Given);
    let mut server = Server::bind("127.0.0.1:0", Notes::default()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    let _client = Client::connect(&mut server, "/ws");
    assert_eq!(server.bus(bus()).unwrap_err(), BusError::TooLate);
}

#[test]
fn without_a_redis_the_cause_is_named_and_the_server_works() {
    let mut server = Server::bind("127.0.0.1:0", Notes::default()).unwrap();
    server.bus(Bus::redis("redis+unix:///nowhere/redis.sock").unwrap()).unwrap();
    server.on_bus(|notes, _, event| {
        if let BusEvent::Down { why: BusFailure::Unreachable(kind), .. } = event {
            notes.lines.push(format!("{kind}"));
        }
    });
    server.route("/ws", |_, kws| _ = kws.join("room")).unwrap();
    server.on(Event::Message, |_, ep| _ = ep.kws.everywhere().publish_all("room", ep.data));
    let mut client = Client::connect(&mut server, "/ws");
    client.send("hello");
    assert_eq!(client.text(&mut server), "hello");
    assert_eq!(server.state().lines, ["entity not found"]);
}

#[test]
fn the_host_of_redis_is_resolved_and_a_port_that_refuses_is_a_named_cause() {
    // It is bound and does not listen, so no other process can take the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket_ipv4().unwrap().port();
    let mut server = Server::bind("127.0.0.1:0", Notes::default()).unwrap();
    server.bus(Bus::redis(&format!("redis://localhost:{port}")).unwrap()).unwrap();
    server.on_bus(|notes, _, event| notes.lines.push(format!("{event:?}")));
    turn_all(&mut [&mut server], |nodes| !nodes[0].state().lines.is_empty());
    assert!(server.state().lines[0].contains("ConnectionRefused"), "{:?}", server.state().lines);
    // Between two attempts it has nothing to do.
    turn_all(&mut [&mut server], |nodes| nodes[0].next_timeout() != Some(Duration::ZERO));
}

#[test]
fn a_server_sleeps_while_its_bus_has_nothing_to_do() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b) = (node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b]);
    turn_all(&mut [&mut a, &mut b], |nodes| {
        nodes.iter().all(|node| node.next_timeout().is_some_and(|time| !time.is_zero()))
    });
}

/// Publishes bytes that a server would not, as any client of Redis may.
fn publish_by_hand(redis: &Redis, channel: &str, bytes: &[u8]) {
    let bytes: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let script = format!("redis.call('publish','{channel}',string.char({}))", bytes.join(","));
    redis.ask(&format!("EVAL \"{script}\" 0"));
}

#[test]
fn what_other_programs_publish_harms_nothing_and_is_counted() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut a = node(&redis);
    turn_all(&mut [&mut a], |nodes| is_up(nodes[0]));
    let mut ann = Client::connect(&mut a, "/ws/room");
    subscribed(&mut a, 3);
    let stranger = [9; 6];
    let message = |kind: u8, rest: &[u8]| [&[1, kind], &stranger[..], &[0; 8], rest].concat();
    for bytes in [&b"hello"[..], &[], &[2; 40], &message(31, b""), &message(1, &[0xff])] {
        publish_by_hand(&redis, "test:t:room", bytes);
    }
    turn_all(&mut [&mut a], |nodes| figures(nodes[0]).unreadable == 5);
    // A sign of life makes a stranger a server, and its answers may have any number.
    publish_by_hand(&redis, "test:all", &message(10, b""));
    turn_all(&mut [&mut a], |nodes| figures(nodes[0]).nodes == 1);
    let own = format!("test:n:{}", a.sockets().node().unwrap());
    a.sockets().everywhere().count(|notes, _, open| notes.counts.push(open));
    let answer = [&[0, 0, 0, 0, 0, 0, 0, 1, 1][..], &[0xff; 8]].concat();
    publish_by_hand(&redis, &own, &message(8, &answer));
    turn_all(&mut [&mut a], |nodes| nodes[0].state().counts.len() == 1);
    assert_eq!(a.state().counts[0].value, usize::MAX);
    // A readable message reaches the members.
    publish_by_hand(&redis, "test:t:room", &message(1, b"text"));
    assert_eq!(next_of(&mut ann, &mut [&mut a]), "text");
}

#[test]
fn a_server_with_a_uuid_of_another_takes_nothing_else_that_is_for_it() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (mut a, mut b, mut c) = (node(&redis), node(&redis), node(&redis));
    meet(&mut [&mut a, &mut b, &mut c]);
    let ann = Client::connect(&mut a, "/ws/room");
    let uuid = uuid_of(&mut a);
    ann.vanish();
    let mut back = Client::connect(&mut b, &format!("/as/{uuid}"));
    subscribed(&mut b, 3);
    let _others: Vec<_> = (0..5).map(|_| Client::connect(&mut c, "/ws/other")).collect();
    turn_all(&mut [&mut a, &mut b, &mut c], |nodes| nodes[0].stats().open == 0);
    // Both have asked one question: the answers to one must not be taken for those to the other.
    a.sockets().everywhere().member_count("nothing", |notes, _, open| notes.counts.push(open));
    a.flush();
    b.sockets().everywhere().count(|notes, _, open| notes.counts.push(open));
    b.flush();
    turn_all(&mut [&mut c, &mut a, &mut b], |nodes| nodes[2].state().counts.len() == 1);
    assert_eq!(b.state().counts[0].value, 6);
    assert_eq!(figures(&b).unreadable, 0);
    // The server that has made the uuid finds the connection too.
    assert_eq!(a.sockets().everywhere().emit_to(uuid, "yours"), Ok(Emitted::Queued));
    assert_eq!(next_of(&mut back, &mut [&mut a, &mut b, &mut c]), "yours");
}

#[test]
fn an_event_whose_name_is_too_long_is_refused() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut a = node(&redis);
    turn_all(&mut [&mut a], |nodes| is_up(nodes[0]));
    let sent = a.sockets().everywhere().fire(&"x".repeat(65_536), "");
    assert_eq!(sent.bus, BusSent::Refused(BusRefusal::TooLarge));
    let sent = a.sockets().everywhere().fire(&"x".repeat(65_535), "");
    assert_eq!(sent.bus, BusSent::Queued);
}
