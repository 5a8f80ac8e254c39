//! Servers with a bus in memory, and in virtual time: each fault with what the servers notice of
//! it, and when.

use std::time::Duration;

use ikisocket::testing::{BusHarness, Faults, NodeClient, Order, Received};
use ikisocket::{
    BuildError, Builder, Bus, BusEvent, BusRefusal, BusSent, EmitError, Event, GapFrom, Gathered,
    Loops, LoopsError, Server, Uuid,
};

const ORDERS: [Order; 3] = [Order::Ascending, Order::Descending, Order::Shuffled(7)];

/// What a loop has noticed, one line for each thing.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    counts: Vec<Gathered<usize>>,
}

type Test = BusHarness<Notes>;

/// Clients join the topic that is their path, and publish there what they send.
fn server(_: usize, _: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.build(Notes::default())?;
    server.on_bus(|notes, _, event| {
        notes.lines.push(match event {
            BusEvent::Up { was_down_for, .. } => format!("up after {}", was_down_for.as_millis()),
            BusEvent::Down { why, unconfirmed, .. } => format!("down, {unconfirmed}: {why}"),
            BusEvent::Gap { from: GapFrom::Node(node), topic, lost: Some(lost), .. } => {
                format!("gap of {lost} from {node} on {}", topic.as_deref().unwrap_or("none"))
            }
            BusEvent::Gap { topic, lost: None, .. } => {
                format!("gap on {}", topic.as_deref().unwrap_or("none"))
            }
            BusEvent::NodeGone { node, .. } => format!("{node} is gone"),
            event => format!("{event:?}"),
        });
    });
    server.on(Event::Message, |_, ep| {
        let topic = ep.kws.param("topic").unwrap_or_default().to_owned();
        ep.kws.everywhere().publish(&topic, ep.data);
    });
    let join = |_: &mut Notes, kws: &mut ikisocket::Socket<'_, Notes>| {
        let topic = kws.param("topic").unwrap_or_default().to_owned();
        kws.join(&topic).expect("it is a good topic");
    };
    server.route("/ws/:topic", join).expect("a valid pattern");
    Ok(server)
}

fn three(order: Order) -> Test {
    let mut test = BusHarness::new(3, &Loops::new(1), order, server).unwrap();
    for node in 0..3 {
        assert_eq!(lines(&mut test, node), ["up after 0"]);
    }
    test
}

/// Three nodes, each with a client in the same topic.
fn three_with_clients() -> (Test, [NodeClient; 3]) {
    let mut test = three(Order::Ascending);
    let clients = [0, 1, 2].map(|node| test.connect(node, "/ws/room").unwrap());
    (test, clients)
}

fn lines(test: &mut Test, node: usize) -> Vec<String> {
    std::mem::take(&mut test.state(node, 0).lines)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn uuid(test: &mut Test, client: NodeClient) -> Uuid {
    test.uuid(client).unwrap()
}

#[test]
fn a_message_reaches_the_members_on_all_nodes_in_every_order_of_turns() {
    for order in ORDERS {
        let mut test = three(order);
        test.faults(1, Faults::none().segments(1).interrupted().would_block().window(9));
        test.cut(1);
        let extra = test.add_node(&Loops::new(3)).unwrap();
        let mut clients = [0, 1, 2, extra].map(|node| test.connect(node, "/ws/room").unwrap());
        test.advance(ms(1000));
        let far = test.node(extra).connect_to(2, "/ws/room").unwrap();
        let far = NodeClient { node: extra, client: far };
        let outsider = test.connect(0, "/ws/other").unwrap();
        for round in 0..5 {
            for sender in clients {
                let text = format!("{round} of {}", sender.node);
                test.send(sender, &*text);
                for client in clients {
                    let expected: &[&str] = if client == sender { &[] } else { &[&text] };
                    test.expect(client, expected.iter().copied());
                }
                test.expect(far, [&*text]);
            }
            clients.reverse();
        }
        test.expect_nothing(outsider);
    }
}

#[test]
fn nodes_have_their_own_names_and_a_restarted_one_has_another() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    let name = |test: &mut Test, node: usize| {
        test.node(node).on(0).server().sockets().node().unwrap().to_string()
    };
    let before: Vec<_> = (0..3).map(|node| name(&mut test, node)).collect();
    let old = uuid(&mut test, bob);
    assert_eq!(old.simple().to_string()[..12], before[1]);
    let mut sockets = test.node(0).on(0).server().sockets();
    sockets.everywhere().emit_to(old, "hello").unwrap();
    test.expect(bob, ["hello"]);

    test.restart_node(1).unwrap();
    let after = name(&mut test, 1);
    assert!(!before.contains(&after), "{after} in {before:?}");
    let back = test.connect(1, "/ws/room").unwrap();
    let mut sockets = test.node(0).on(0).server().sockets();
    sockets.everywhere().emit_to(old, "to no connection").unwrap();
    sockets.everywhere().publish("room", "to all");
    test.expect(back, ["to all"]);
    test.expect(ann, ["to all"]);
    assert!(lines(&mut test, 0).is_empty(), "no gap");
    test.advance(ms(15_000));
    assert_eq!(lines(&mut test, 0), [format!("{} is gone", before[1])]);
}

#[test]
fn a_killed_redis_is_down_at_once_and_up_again_with_what_was_subscribed() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    test.kill_redis();
    for node in 0..3 {
        let expected = "down, 0: the connection to Redis was broken: connection reset";
        assert_eq!(lines(&mut test, node), [expected]);
    }
    let mut sockets = test.node(0).on(0).server().sockets();
    let sent = sockets.everywhere().publish("room", "here alone");
    assert_eq!((sent.here, sent.bus), (1, BusSent::Refused(BusRefusal::Down)));
    test.expect(ann, ["here alone"]);
    test.expect_nothing(bob);
    test.advance(ms(10_000));
    assert!(lines(&mut test, 0).is_empty(), "one outage is announced once");
    test.restart_redis();
    test.advance(ms(5000));
    for node in 0..3 {
        let lines = lines(&mut test, node);
        assert!(lines.len() == 1 && lines[0].starts_with("up after 1"), "{lines:?}");
        assert_eq!(test.subscriptions(node), ["room"]);
    }
    test.send(ann, "again");
    test.expect(bob, ["again"]);
    assert!(lines(&mut test, 1).is_empty(), "what was refused is no gap");
}

#[test]
fn silence_of_redis_is_announced_within_three_seconds_whenever_it_begins() {
    for begins in (0..2500).step_by(50) {
        let mut test = three(Order::Ascending);
        test.advance(ms(begins));
        test.stall_redis(true);
        test.advance(ms(2000));
        let early: Vec<_> = (0..3).flat_map(|node| lines(&mut test, node)).collect();
        assert!(early.iter().all(|line| line.contains("nothing came")), "{early:?}");
        test.advance(ms(1000));
        let late: Vec<_> = (0..3).flat_map(|node| lines(&mut test, node)).collect();
        assert_eq!(early.len() + late.len(), 3, "each node has announced it once");
        test.advance(ms(60_000));
        test.stall_redis(false);
        test.advance(ms(5000));
        for node in 0..3 {
            let lines = lines(&mut test, node);
            assert!(lines.len() == 1 && lines[0].starts_with("up after 6"), "{lines:?}");
        }
    }
}

#[test]
fn dead_subscriptions_of_a_live_connection_are_announced_in_a_second() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    test.forget_subscriptions(1);
    test.send(ann, "missed");
    test.expect_nothing(bob);
    assert!(test.subscriptions(1).is_empty() && lines(&mut test, 1).is_empty());
    test.advance(ms(1000));
    let found = lines(&mut test, 1);
    assert!(found[0].contains("its subscriptions are lost"), "{found:?}");
    test.advance(ms(1000));
    assert_eq!(test.subscriptions(1), ["room"]);
    test.send(ann, "again");
    test.expect(bob, ["again"]);
}

#[test]
fn a_dead_subscription_of_one_topic_is_announced_in_a_second() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    test.send(ann, "before");
    test.expect(bob, ["before"]);
    assert!(test.forget_subscription(1, "room") && !test.forget_subscription(1, "room"));
    test.send(ann, "missed");
    test.expect_nothing(bob);
    test.advance(ms(1000));
    let found = lines(&mut test, 1);
    assert!(found[0].contains("Redis has lost subscriptions"), "{found:?}");
    test.advance(ms(1000));
    test.send(ann, "again");
    test.expect(bob, ["again"]);
    let found = lines(&mut test, 1);
    let name = test.node(0).on(0).server().sockets().node().unwrap();
    assert_eq!(found[1..], [format!("gap of 1 from {name} on room")], "{found:?}");
}

#[test]
fn a_subscription_that_redis_ends_is_an_unknown_gap_and_begins_again() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    assert!(test.unsubscribe(1, "room") && !test.unsubscribe(1, "never"));
    assert_eq!(lines(&mut test, 1), ["gap on room"]);
    assert!(lines(&mut test, 0).is_empty() && lines(&mut test, 2).is_empty());
    assert_eq!(test.subscriptions(1), ["room"]);
    test.send(ann, "again");
    test.expect(bob, ["again"]);
    assert!(lines(&mut test, 1).is_empty());
}

#[test]
fn a_loss_is_counted_at_the_next_message_for_each_node_that_has_missed_it() {
    let (mut test, [ann, bob, eve]) = three_with_clients();
    test.send(ann, "first");
    test.expect(bob, ["first"]);
    test.expect(eve, ["first"]);
    test.cut(1);
    for text in ["second", "third"] {
        test.send(ann, text);
    }
    test.expect(eve, ["second", "third"]);
    test.advance(ms(1000));
    test.expect_nothing(bob);
    test.send(ann, "fourth");
    test.expect(bob, ["fourth"]);
    test.expect(eve, ["fourth"]);
    let name = test.node(0).on(0).server().sockets().node().unwrap();
    let found = lines(&mut test, 1);
    assert_eq!(found[0], "down, 0: Redis has closed the connection");
    assert_eq!(found[2..], [format!("gap of 2 from {name} on room")], "{found:?}");
    assert!(lines(&mut test, 2).is_empty());
}

#[test]
fn what_a_network_delivers_late_is_dropped_if_it_counts_as_lost() {
    let (mut test, [ann, bob, eve]) = three_with_clients();
    test.send(ann, "first");
    test.expect(bob, ["first"]);
    test.expect(eve, ["first"]);
    test.stall_connection(0, true);
    for text in ["late", "later"] {
        test.send(ann, text);
    }
    test.expect_nothing(bob);
    test.advance(ms(4000));
    let found = lines(&mut test, 0);
    assert!(found[0].starts_with("down, 2: nothing came"), "{found:?}");
    assert!(found[1].starts_with("up after "), "the next connection works: {found:?}");
    test.send(ann, "next");
    test.expect(bob, ["next"]);
    test.stall_connection(0, false);
    test.expect_nothing(bob);
    test.send(ann, "last");
    test.expect(bob, ["last"]);
    let name = test.node(0).on(0).server().sockets().node().unwrap();
    assert_eq!(lines(&mut test, 1), [format!("gap of 2 from {name} on room")]);
    test.expect(eve, ["next", "last"]);
}

#[test]
fn a_cut_anywhere_in_a_conversation_loses_only_what_is_announced() {
    // In both directions, at the receiver and at the sender.
    type Cut = fn(&mut Test, usize);
    let cuts: [Cut; 4] = [
        |test, at| test.cut_after(1, at),
        |test, at| test.cut_after_received(1, at),
        |test, at| test.cut_after(0, at),
        |test, at| test.cut_after_received(0, at),
    ];
    for cut in cuts {
        let mut at = 0;
        loop {
            let (mut test, [ann, bob, _]) = three_with_clients();
            test.send(ann, "first");
            test.expect(bob, ["first"]);
            cut(&mut test, at);
            for number in 0..6 {
                test.send(ann, format!("message {number}"));
                test.advance(ms(400));
            }
            for node in 0..2 {
                test.cut_after(node, usize::MAX);
                test.cut_after_received(node, usize::MAX);
            }
            test.advance(ms(1000));
            test.send(ann, "last");
            let got: Vec<_> = test.received(bob).into_iter().collect();
            assert_eq!(got.last(), Some(&Received::text("last")), "after {at} bytes");
            let lines = [0, 1].map(|node| lines(&mut test, node));
            let downs = lines.iter().flatten().filter(|line| line.starts_with("down")).count();
            let gaps = lines[1].iter().filter_map(|line| line.strip_prefix("gap of "));
            let lost: usize =
                gaps.map(|gap| gap.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
            let refused = if lines[0].is_empty() {
                0
            } else {
                test.node(0).on(0).server().stats().bus.unwrap().refused as usize
            };
            assert_eq!(got.len() + lost + refused, 7, "after {at} bytes: {got:?} {lines:?}");
            if downs == 0 {
                assert!(at > 100, "{at} bytes are less than were sent");
                break;
            }
            assert_eq!(downs, 1, "after {at} bytes: {lines:?}");
            at += 5;
        }
    }
}

#[test]
fn a_node_that_reads_too_slowly_is_cut_off_by_name() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    test.output_limit(100_000);
    test.node(1).stall(0);
    for _ in 0..400 {
        test.send(ann, "x".repeat(1000));
    }
    test.settle();
    test.node(1).resume(0);
    let found = lines(&mut test, 1);
    assert!(found[0].contains("client-output-buffer-limit"), "{found:?}");
    assert!(test.received(bob).len() > 200, "what the network held has come");
    test.advance(ms(1000));
    test.send(ann, "again");
    test.expect(bob, ["again"]);
}

#[test]
fn a_node_that_vanishes_is_announced_in_time_and_one_that_ends_is_not() {
    let (mut test, _) = three_with_clients();
    test.advance(ms(3000));
    let known = |test: &mut Test| test.node(0).on(0).server().stats().bus.unwrap().nodes;
    assert_eq!(known(&mut test), 2);
    let name = test.node(1).on(0).server().sockets().node().unwrap();
    test.stop_node(1);
    test.advance(ms(7000));
    assert_eq!(known(&mut test), 2);
    test.advance(ms(8000));
    for node in [0, 2] {
        assert_eq!(lines(&mut test, node), [format!("{name} is gone")]);
    }
    assert_eq!(known(&mut test), 1);
    test.end_node(2);
    test.settle();
    assert_eq!(known(&mut test), 0, "it has said goodbye");
    test.advance(ms(30_000));
    assert!(lines(&mut test, 0).is_empty());
}

#[test]
fn questions_name_the_nodes_that_do_not_answer() {
    let (mut test, _) = three_with_clients();
    test.advance(ms(3000));
    let ask = |test: &mut Test| {
        let mut sockets = test.node(0).on(0).server().sockets();
        sockets.everywhere().member_count("room", |notes, _, found| notes.counts.push(found));
    };
    ask(&mut test);
    let counts = std::mem::take(&mut test.state(0, 0).counts);
    assert_eq!((counts[0].value, counts[0].is_complete()), (3, true));
    let name = test.node(2).on(0).server().sockets().node().unwrap();
    test.stall_network(2, true);
    ask(&mut test);
    assert!(test.state(0, 0).counts.is_empty());
    test.advance(ms(1000));
    let counts = std::mem::take(&mut test.state(0, 0).counts);
    assert_eq!((counts[0].value, &counts[0].missing_nodes[..]), (2, &[name][..]));
}

#[test]
fn a_question_counts_on_other_nodes_from_250_ms_after_up_on() {
    let build = |node, index, builder| {
        let mut server = server(node, index, builder)?;
        server.on_bus(|_, sockets, event| {
            if let BusEvent::Up { .. } = event {
                sockets.everywhere().count(|notes, _, open| notes.counts.push(open));
            }
        });
        Ok::<_, BuildError>(server)
    };
    let counts = |test: &mut Test, node: usize, index| {
        let counts = std::mem::take(&mut test.state(node, index).counts);
        counts.iter().map(|open| (open.value, open.is_complete())).collect::<Vec<_>>()
    };
    for order in ORDERS {
        let mut test = BusHarness::new(5, &Loops::new(1), order, build).unwrap();
        test.advance(ms(3000));
        (0..5).for_each(|node| _ = test.connect(node, "/ws/room").unwrap());
        let new = test.add_node(&Loops::new(2)).unwrap();
        // Those that it does not know yet are not named.
        assert_eq!(counts(&mut test, new, 0), [(0, true)]);
        assert_eq!(counts(&mut test, new, 1), [(0, true)]);
        test.advance(ms(250));
        for index in 0..2 {
            let mut sockets = test.node(new).on(index).server().sockets();
            sockets.everywhere().count(|notes, _, open| notes.counts.push(open));
            assert_eq!(counts(&mut test, new, index), [(5, true)]);
        }
        // After an outage they are known at once.
        test.cut(new);
        test.advance(ms(5000));
        assert_eq!(counts(&mut test, new, 0), [(5, true)]);
        assert_eq!(counts(&mut test, new, 1), [(5, true)]);
    }
}

#[test]
fn a_question_does_not_wait_for_a_node_that_has_said_goodbye() {
    // The one of loop 0 holds the connection.
    for (asking, order) in ORDERS.into_iter().enumerate() {
        let mut test = BusHarness::new(1, &Loops::new(3), order, server).unwrap();
        let [slow, leaving] = [(); 2].map(|()| test.add_node(&Loops::new(1)).unwrap());
        test.advance(ms(3000));
        let name = test.node(leaving).on(0).server().sockets().node().unwrap();
        test.stall_network(slow, true);
        let mut sockets = test.node(0).on(asking).server().sockets();
        sockets.everywhere().count(|notes, _, open| notes.counts.push(open));
        test.end_node(leaving);
        assert!(test.state(0, asking).counts.is_empty(), "one has not answered");
        test.stall_network(slow, false);
        let counts = std::mem::take(&mut test.state(0, asking).counts);
        assert_eq!(counts.len(), 1, "at once");
        assert_eq!((counts[0].value, &counts[0].missing_nodes[..]), (0, &[name][..]));
    }
}

#[test]
fn a_question_that_is_asked_when_a_node_is_gone_does_not_count_on_it() {
    let build = |node, index, builder| {
        let mut server = server(node, index, builder)?;
        server.on_bus(|_, sockets, event| {
            if let BusEvent::NodeGone { .. } = event {
                sockets.everywhere().count(|notes, _, open| notes.counts.push(open));
            }
        });
        Ok::<_, BuildError>(server)
    };
    let mut test = BusHarness::new(3, &Loops::new(2), Order::Ascending, build).unwrap();
    test.advance(ms(3000));
    test.stop_node(2);
    test.advance(ms(20_000));
    for (node, index) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let counts = std::mem::take(&mut test.state(node, index).counts);
        assert_eq!(counts.len(), 1);
        assert!(counts[0].is_complete(), "{counts:?}");
    }
}

#[test]
fn an_error_of_redis_is_the_cause_of_down_and_refuses_what_follows() {
    let (mut test, [ann, bob, _]) = three_with_clients();
    test.answer_next_of(0, "PUBLISH", b"-OOM command not allowed when used memory\r\n");
    test.send(ann, "not executed");
    test.expect_nothing(bob);
    let found = lines(&mut test, 0);
    assert!(found[0].starts_with("down, 1: Redis is out of memory"), "{found:?}");
    let to = uuid(&mut test, bob);
    let mut sockets = test.node(0).on(0).server().sockets();
    let emitted = sockets.everywhere().emit_to(to, "x");
    assert_eq!(emitted, Err(EmitError::Bus(BusRefusal::Down)));
}

#[test]
fn settings_of_the_bus_are_those_of_the_loops() {
    let bus = Bus::redis("redis://nowhere").unwrap();
    let loops = Loops::new(1).bus(bus.clone().prefix("mine").outbox_bytes(1024));
    let mut test = BusHarness::new(2, &loops, Order::Ascending, server).unwrap();
    let ann = test.connect(0, "/ws/room").unwrap();
    let bob = test.connect(1, "/ws/room").unwrap();
    assert_eq!(test.subscriptions(1), ["room"]);
    test.send(ann, "x".repeat(2000));
    test.expect_nothing(bob);
    let before = test.published();
    test.send(ann, "x".repeat(200));
    test.expect(bob, ["x".repeat(200).as_str()]);
    assert_eq!(test.published(), before + 1);
    // Another prefix is another bus.
    let others = Loops::new(1).bus(bus.prefix("others"));
    let other = test.add_node(&others).unwrap();
    let eve = test.connect(other, "/ws/room").unwrap();
    test.send(ann, "ours");
    test.expect(bob, ["ours"]);
    test.expect_nothing(eve);
    let wrong = Loops::new(1).bus(Bus::redis("redis://nowhere").unwrap().prefix("a b"));
    assert!(matches!(test.add_node(&wrong), Err(LoopsError::Bus(_))));
}

#[test]
fn the_same_test_sends_the_same_bytes_each_time() {
    let transcript = || {
        let mut transcript = Vec::new();
        let mut test = three(Order::Shuffled(3));
        let clients: Vec<_> = (0..9)
            .map(|number| {
                test.connect(number % 3, format!("/ws/{}", "x".repeat(number + 1))).unwrap()
            })
            .collect();
        for (number, &client) in clients.iter().enumerate() {
            let (node, bytes) = (number % 3, number * 97 % 500);
            test.cut_after(node, bytes);
            test.cut_after_received((node + 1) % 3, bytes);
            test.send(client, format!("message {number}"));
            test.advance(ms(1300));
            transcript.push(format!("{} published", test.published()));
            for node in 0..3 {
                transcript.extend(lines(&mut test, node));
            }
            for &client in &clients {
                transcript.extend(test.received(client).iter().map(|each| format!("{each:?}")));
            }
        }
        transcript
    };
    let first = transcript();
    assert!(first.iter().filter(|line| line.starts_with("down")).count() > 5, "{first:?}");
    for _ in 0..3 {
        assert_eq!(transcript(), first);
    }
}

#[test]
fn every_loop_finds_a_client_that_has_come_back_to_another_server() {
    for order in ORDERS {
        let mut test = BusHarness::new(2, &Loops::new(3), order, server).unwrap();
        let first = test.node(0).connect_to(1, "/ws/room").unwrap();
        let uuid = test.node(0).uuid(first).unwrap();
        test.node(0).reset(first);
        let back = test.node(1).connect_to(2, "/ws/elsewhere").unwrap();
        let now = test.node(1).uuid(back).unwrap();
        let mut sockets = test.node(1).on(2).server().sockets();
        sockets.get(now).unwrap().set_uuid(uuid).unwrap();
        test.settle();
        let back = NodeClient { node: 1, client: back };
        for (node, on) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)] {
            let mut sockets = test.node(node).on(on).server().sockets();
            let mut all = sockets.everywhere();
            assert!(all.emit_to(uuid, "alone").is_ok(), "loop {on} of node {node}");
            assert!(all.emit_to_list(&[uuid, Uuid::from_u128(1)], "in a list").is_complete());
            test.settle();
            test.expect(back, ["alone", "in a list"]);
        }
        let mut sockets = test.node(0).on(2).server().sockets();
        assert_eq!(sockets.everywhere().close(uuid, 4000, "enough"), Ok(true));
        test.settle();
        test.expect(back, [Received::close(4000, "enough"), Received::Fin]);
    }
}

#[test]
fn a_question_ends_when_the_bus_goes_down() {
    let (mut test, _) = three_with_clients();
    test.stall_redis(true);
    let mut sockets = test.node(0).on(0).server().sockets();
    sockets.everywhere().count(|notes, _, open| notes.counts.push(open));
    test.settle();
    assert!(test.state(0, 0).counts.is_empty(), "the others have not answered");
    test.kill_redis();
    test.settle();
    let counts = std::mem::take(&mut test.state(0, 0).counts);
    assert_eq!((counts[0].value, counts[0].missing_nodes.len()), (1, 2));
}

/// A message of another program on a channel that all nodes have, as Redis passes it on.
fn by_hand(kind: u8, node: u64, number: u64, rest: &[u8]) -> Vec<u8> {
    let (node, number) = (node.to_be_bytes(), number.to_be_bytes());
    let frame = [&[1, kind], &node[2..], &number, rest].concat();
    let push = format!(">3\r\n$7\r\nmessage\r\n$13\r\nikisocket:all\r\n${}\r\n", frame.len());
    [push.as_bytes(), &frame, b"\r\n"].concat()
}

/// How many turns the loop of a node takes until it has handled what other programs have published.
fn turns_for(test: &mut Test, messages: &[Vec<u8>]) -> u64 {
    test.answer_next_of(0, "PING", &[&messages.concat()[..], b"+PONG\r\n"].concat());
    let before = test.node(0).on(0).server().stats().turns;
    test.advance(ms(1000));
    test.node(0).on(0).server().stats().turns - before
}

#[test]
fn what_other_programs_publish_takes_its_time_from_the_turns_budget() {
    const HEARTBEAT: u8 = 10;
    const BYE: u8 = 11;
    const TO_A_LIST: u8 = 4;
    let loops = Loops::with_settings(1, Server::builder().work_per_turn(16));
    let mut test = BusHarness::new(1, &loops, Order::Ascending, server).unwrap();
    let many: Vec<_> = (1..=50).map(|node| by_hand(HEARTBEAT, node, 0, b"")).collect();
    turns_for(&mut test, &many);

    // Servers that come and end: for each one all loops get the list of the others.
    let come_and_end = |node| [HEARTBEAT, BYE].map(|kind| by_hand(kind, node, 0, b""));
    let turns = turns_for(&mut test, &(100..300).flat_map(come_and_end).collect::<Vec<_>>());
    assert!(turns > 50, "{turns} turns for 200 servers");

    // Lists of connections that are not here.
    let list = [&1000_u32.to_be_bytes()[..], &[7; 16_000]].concat();
    let lists: Vec<_> = (0..20).map(|number| by_hand(TO_A_LIST, 1, number, &list)).collect();
    let turns = turns_for(&mut test, &lists);
    assert!(turns >= 20, "{turns} turns for 20 lists of 1000");

    // Servers that are gone, and the same time without any.
    let turns = |test: &mut Test| {
        let before = test.node(0).on(0).server().stats().turns;
        test.advance(ms(12_000));
        test.node(0).on(0).server().stats().turns - before
    };
    lines(&mut test, 0);
    let busy = turns(&mut test);
    assert_eq!(lines(&mut test, 0).len(), 50);
    let idle = turns(&mut test);
    assert!(busy > idle + 20, "{busy} turns, in which 50 servers were gone, and {idle}");
}

#[test]
fn a_node_that_has_read_all_in_several_turns_was_not_cut_off_for_slowness() {
    let loops = Loops::with_settings(1, Server::builder().work_per_turn(16));
    let mut test = BusHarness::new(1, &loops, Order::Ascending, server).unwrap();
    lines(&mut test, 0);
    let broadcasts: Vec<_> = (0..200).map(|number| by_hand(2, 7, number, &[b'x'; 1000])).collect();
    assert!(turns_for(&mut test, &broadcasts) > 20);
    assert_eq!(test.node(0).on(0).server().stats().bus.unwrap().received, 200);
    test.cut(0);
    assert_eq!(lines(&mut test, 0), ["down, 0: Redis has closed the connection"]);
}

#[test]
fn a_loop_that_stands_still_gets_each_message_or_counts_it_as_lost_once() {
    const BROADCAST: u8 = 2;
    let loops = Loops::new(2).queue_bytes(4096);
    let mut test = BusHarness::new(1, &loops, Order::Ascending, server).unwrap();
    let reader = test.node(0).connect_to(1, "/ws/room").unwrap();
    let reader = NodeClient { node: 0, client: reader };
    test.state(0, 1).lines.clear();
    test.node(0).stall(1);
    // Each second one is missing.
    let every_second = (0..500).map(|place| by_hand(BROADCAST, 7, 2 * place, b"text"));
    turns_for(&mut test, &every_second.collect::<Vec<_>>());
    test.node(0).resume(1);
    let received = test.received(reader).len();
    let gaps = std::mem::take(&mut test.state(0, 1).lines);
    let sizes = gaps.iter().filter_map(|gap| {
        let size = gap.strip_prefix("gap of ").or_else(|| gap.split("Some(").nth(1))?;
        size.split([' ', ')']).next()?.parse::<usize>().ok()
    });
    assert!((1..100).contains(&received) && gaps.len() < 100, "{received}, {gaps:?}");
    assert_eq!(received + sizes.sum::<usize>(), 999, "{gaps:?}");
}
