//! Loops: what reaches the connections of other loops, in which order, and what happens when
//! something goes wrong. In memory; threads and sockets are in `loops_threads.rs`.

use std::error::Error;
use std::time::Duration;

use ikisocket::protocol::Message;
use ikisocket::testing::{
    Faults, Harness, LoopClient, LoopsHarness, NotConnected, Order, Received, Upgrade,
};
use ikisocket::{
    BuildError, Builder, BusEvent, CloseError, EmitError, EmitsRefused, Emitted, Event, GapFrom,
    Latest, Loops, LoopsError, Sent, Server, Shutdown, Socket, Uuid, UuidError,
};

type Outcome = Result<(), Box<dyn Error>>;
type Notes = Vec<String>;
type Test = LoopsHarness<Notes>;

const MAX_OUTBOX: usize = 1024 * 1024;

/// A server whose clients are all in `room`. It notes events.
fn room(_: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.max_outbox(MAX_OUTBOX).build(Notes::new())?;
    server.on(Event::Connect, |_, ep| assert_eq!(ep.kws.join("room"), Ok(true)));
    server.on(Event::Message, |_, ep| {
        ep.kws.sockets().everywhere().publish("room", ep.data);
    });
    server.on(Event::Error, |notes, ep| notes.push(format!("error {:?}", ep.error)));
    server.on("poke", |notes, ep| notes.push(format!("poke {:?}", ep.data.as_str())));
    server.on_bus(|notes, _, event| {
        if let BusEvent::Gap { from: GapFrom::Loop(from), lost: Some(lost), .. } = event {
            notes.push(format!("gap {from} {lost}"));
        }
    });
    server.route("/ws", |_, _| {}).expect("the pattern is valid");
    server.route("/stays-out", |_, kws| _ = kws.leave("room")).expect("the pattern is valid");
    Ok(server)
}

/// This many loops with a client on each.
fn start(count: usize) -> Result<(Test, Vec<LoopClient>), Box<dyn Error>> {
    start_with(&Loops::new(count), count)
}

fn start_with(loops: &Loops, count: usize) -> Result<(Test, Vec<LoopClient>), Box<dyn Error>> {
    let mut test = LoopsHarness::new(loops, Order::Ascending, room)?;
    let clients = (0..count).map(|on| test.connect_to(on, "/ws")).collect::<Result<_, _>>()?;
    Ok((test, clients))
}

/// Uses the verbs for all loops, on one of them and between its turns.
fn on<R>(
    test: &mut Test,
    index: usize,
    verbs: impl FnOnce(&mut ikisocket::Everywhere<'_, Notes>) -> R,
) -> R {
    verbs(&mut test.on(index).server().sockets().everywhere())
}

fn figures(sent: Sent) -> (usize, usize, usize) {
    (sent.here, sent.queued, sent.full)
}

/// What a client has received, without a turn of any loop.
fn so_far(test: &mut Test, client: LoopClient) -> Vec<Received> {
    test.on(client.on).received(client.client)
}

fn is_open(test: &mut Test, client: LoopClient) -> bool {
    test.on(client.on).uuid(client.client).is_some()
}

// Verbs.

#[test]
fn a_message_reaches_the_members_of_all_loops() -> Outcome {
    for order in [Order::Ascending, Order::Descending, Order::Shuffled(7)] {
        let mut test = LoopsHarness::new(&Loops::new(3), order, room)?;
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(test.connect("/ws")?);
        }
        assert_eq!(clients.iter().map(|client| client.on).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        test.send(clients[4], "hello");
        for &client in &clients {
            test.expect(client, ["hello"]);
        }
    }
    Ok(())
}

#[test]
fn local_members_get_a_message_at_once_and_others_when_their_loop_turns() -> Outcome {
    let verbs: [fn(&mut Test) -> Sent; 2] = [
        |test| on(test, 0, |all| all.publish("room", "hello")),
        |test| on(test, 0, |all| all.broadcast("hello")),
    ];
    for verb in verbs {
        let (mut test, clients) = start(3)?;
        assert_eq!(figures(verb(&mut test)), (1, 2, 0));
        test.on(0).turn();
        assert_eq!(so_far(&mut test, clients[0]), ["hello"].map(Received::from));
        assert!(clients[1..].iter().all(|&client| so_far(&mut test, client).is_empty()));
        for &client in &clients[1..] {
            test.on(client.on).turn();
            assert_eq!(so_far(&mut test, client), ["hello"].map(Received::from));
        }
    }
    Ok(())
}

#[test]
fn a_publish_visits_only_loops_with_members() -> Outcome {
    let (mut test, clients) = start(4)?;
    for loops in [vec![], vec![2], vec![0, 2, 3]] {
        for &index in &loops {
            let uuid = test.uuid(clients[index]).ok_or("it is open")?;
            let mut sockets = test.on(index).server().sockets();
            let mut kws = sockets.get(uuid).ok_or("it is open")?;
            assert!(kws.join("some").is_ok());
        }
        let before = test.on(1).server().stats().loops.received;
        let sent = on(&mut test, 1, |all| all.publish("some", "x"));
        assert_eq!(figures(sent), (0, loops.len(), 0));
        test.settle();
        for (index, &client) in clients.iter().enumerate() {
            assert_eq!(so_far(&mut test, client).len(), usize::from(loops.contains(&index)));
        }
        assert_eq!(test.on(1).server().stats().loops.received, before);
    }
    Ok(())
}

#[test]
fn a_message_reaches_members_that_joined_before_it_and_have_not_left() -> Outcome {
    let (mut test, clients) = start(2)?;
    let uuid = test.uuid(clients[1]).ok_or("it is open")?;
    let member = |test: &mut Test, change: fn(&mut Socket<'_, Notes>)| {
        change(&mut test.on(1).server().sockets().get(uuid).expect("it is open"));
    };
    member(&mut test, |kws| _ = kws.join("late"));
    assert_eq!(on(&mut test, 0, |all| all.publish("late", "first")).queued, 1);
    test.expect(clients[1], ["first"]);
    on(&mut test, 0, |all| all.publish("late", "lost"));
    member(&mut test, |kws| _ = kws.leave("late"));
    assert_eq!(on(&mut test, 0, |all| all.publish("late", "not even queued")).queued, 0);
    test.expect_nothing(clients[1]);
    Ok(())
}

#[test]
fn emit_to_finds_a_connection_on_whatever_loop_it_is() -> Outcome {
    let (mut test, clients) = start(3)?;
    let uuids: Vec<_> = clients.iter().filter_map(|&client| test.uuid(client)).collect();
    for from in 0..3 {
        for (to, &client) in clients.iter().enumerate() {
            let text = format!("from {from} to {to}");
            let sent = on(&mut test, from, |all| all.emit_to(uuids[to], &*text));
            assert_eq!(sent, Ok(Emitted::Queued));
            test.expect(client, [text]);
        }
    }
    clients.iter().for_each(|&client| test.expect_nothing(client));
    let unknown = Uuid::new_v4();
    let gone = Err(EmitError::Gone(unknown.into()));
    assert_eq!(on(&mut test, 0, |all| all.emit_to(unknown, "x")), gone);
    assert_eq!(test.on(0).server().stats().emits_refused.gone, 1);
    Ok(())
}

#[test]
fn a_message_to_a_connection_that_has_ended_is_counted_where_it_was() -> Outcome {
    let (mut test, clients) = start(2)?;
    let uuid = test.uuid(clients[1]).ok_or("it is open")?;
    test.on(1).reset(clients[1].client);
    test.settle();
    // Its uuid still names its loop.
    assert_eq!(on(&mut test, 0, |all| all.emit_to(uuid, "x")), Ok(Emitted::Queued));
    assert_eq!(on(&mut test, 0, |all| all.close(uuid, 1000, "")), Ok(true));
    let sent = on(&mut test, 0, |all| all.emit_to_list(&[uuid, uuid], "x"));
    assert_eq!(figures(sent), (0, 1, 0));
    test.settle();
    assert_eq!(test.on(1).server().stats().emits_refused.gone, 3);
    assert_eq!(test.on(0).server().stats().emits_refused, EmitsRefused::default());
    // Nor does a loop that has ended have connections.
    test.end(1);
    assert_eq!(on(&mut test, 0, |all| all.emit_to(uuid, "x")), Err(EmitError::Gone(uuid.into())));
    assert_eq!(on(&mut test, 0, |all| all.close(uuid, 1000, "")), Ok(false));
    let sent = on(&mut test, 0, |all| all.emit_to_list(&[uuid], "x"));
    assert_eq!(figures(sent), (0, 0, 0));
    assert_eq!(figures(on(&mut test, 0, |all| all.broadcast("x"))), (1, 0, 0));
    assert_eq!(figures(on(&mut test, 0, |all| all.publish("room", "x"))), (1, 0, 0));
    Ok(())
}

#[test]
fn a_list_is_sent_once_to_each_loop_however_long_it_is() -> Outcome {
    let (mut test, clients) = start(3)?;
    let second = test.connect_to(2, "/ws")?;
    let uuids: Vec<_> = clients.iter().filter_map(|&client| test.uuid(client)).collect();
    let list =
        [uuids[2], uuids[0], Uuid::new_v4(), uuids[2], test.uuid(second).ok_or("it is open")?];
    let sent = on(&mut test, 0, |all| all.emit_to_list(&list, "x"));
    assert_eq!(figures(sent), (1, 1, 0));
    test.expect(clients[0], ["x"]);
    test.expect_nothing(clients[1]);
    test.expect(clients[2], ["x", "x"]);
    test.expect(second, ["x"]);
    assert_eq!(test.on(0).server().stats().loops.queued, 1);
    Ok(())
}

#[test]
fn an_event_fires_on_all_loops_and_never_inside_the_call() -> Outcome {
    let (mut test, _) = start(3)?;
    test.connect_to(0, "/ws")?;
    let sent = on(&mut test, 0, |all| all.fire("poke", "data"));
    assert_eq!((sent.here, sent.full), (0, 0));
    assert!(test.on(0).state().is_empty());
    for (index, connections) in [(0, 2), (1, 1), (2, 1)] {
        test.on(index).turn();
        assert_eq!(*test.on(index).state(), vec!["poke Some(\"data\")"; connections]);
    }
    test.settle();
    assert_eq!(test.state(0).len(), 2);
    Ok(())
}

#[test]
fn a_built_in_event_is_not_fired_but_an_error_on_each_connection() -> Outcome {
    let (mut test, clients) = start(2)?;
    on(&mut test, 0, |all| all.fire(Event::Message.name(), "data"));
    test.settle();
    for (index, &client) in clients.iter().enumerate() {
        let notes = test.state(index);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("error Some(FireRefused"), "{notes:?}");
        test.expect_nothing(client);
    }
    Ok(())
}

#[test]
fn a_panic_in_an_event_of_another_loop_ends_one_connection() -> Outcome {
    let build = |index, builder| {
        let mut server = room(index, builder)?;
        server.on("bad", |_, ep| assert!(ep.kws.param("who").is_none(), "bad"));
        server.route("/ws/:who", |_, _| {}).expect("the pattern is valid");
        Ok::<_, BuildError>(server)
    };
    let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, build)?;
    let fails = test.connect_to(1, "/ws/bob")?;
    let stays = test.connect_to(1, "/ws")?;
    on(&mut test, 0, |all| {
        all.publish("room", "before");
        all.fire("bad", "");
        all.publish("room", "after");
        all.fire("poke", "");
    });
    test.expect(stays, ["before", "after"]);
    let end = Received::close(1011, "internal error");
    test.expect(fails, [Received::from("before"), end, Received::Fin]);
    let notes = std::mem::take(test.state(1));
    assert!(notes[0].starts_with("error Some(Panicked"), "{notes:?}");
    assert_eq!(notes[1..], ["poke Some(\"\")"]);
    assert_eq!(test.on(1).panics().len(), 1);
    Ok(())
}

#[test]
fn a_connection_is_closed_on_whatever_loop_it_is() -> Outcome {
    let (mut test, clients) = start(2)?;
    let uuids: Vec<_> = clients.iter().filter_map(|&client| test.uuid(client)).collect();
    let long = "r".repeat(200);
    for (client, uuid) in clients.into_iter().zip(uuids) {
        on(&mut test, 0, |all| all.publish("room", "last words"));
        assert_eq!(on(&mut test, 0, |all| all.close(uuid, 4001, &long)), Ok(true));
        test.settle();
        let received = so_far(&mut test, client);
        let expected =
            [Received::from("last words"), Received::close(4001, &long[..123]), Received::Fin];
        assert!(received.ends_with(&expected), "{received:?}");
    }
    assert_eq!(on(&mut test, 0, |all| all.close(Uuid::new_v4(), 4001, "")), Ok(false));
    Ok(())
}

#[test]
fn an_illegal_close_code_is_refused_on_this_loop() -> Outcome {
    let (mut test, clients) = start(2)?;
    for &client in &clients {
        let uuid = test.uuid(client).ok_or("it is open")?;
        for code in [0_u16, 999, 1005, 1006, 1015, 5000] {
            let closed = on(&mut test, 0, |all| all.close(uuid, code, ""));
            assert_eq!(closed, Err(CloseError::IllegalCode(code.into())));
        }
        test.settle();
        assert!(is_open(&mut test, client));
    }
    assert_eq!(test.on(0).server().stats().loops.queued, 0);
    Ok(())
}

#[test]
fn a_server_that_runs_by_itself_is_the_only_loop() -> Outcome {
    let mut loops = LoopsHarness::new(&Loops::new(1), Order::Ascending, room)?;
    let mut alone = Harness::by_hand(room(0, Server::builder())?);
    for test in [&mut alone, loops.on(0)] {
        let [ann, bob] = [test.connect("/ws")?, test.connect("/ws")?];
        let uuids = [ann, bob].map(|client| test.uuid(client).expect("it is open"));
        let mut sockets = test.server().sockets();
        assert_eq!((sockets.loop_index(), sockets.loop_count()), (0, 1));
        let mut all = sockets.everywhere();
        assert_eq!(figures(all.publish("room", "1")), (2, 0, 0));
        assert_eq!(figures(all.broadcast("2")), (2, 0, 0));
        assert_eq!(figures(all.emit_to_list(&[uuids[1], Uuid::nil()], "3")), (1, 0, 0));
        assert_eq!(all.emit_to(uuids[1], "4"), Ok(Emitted::Queued));
        let mut first = sockets.get(uuids[0]).ok_or("it is open")?;
        assert_eq!(figures(first.everywhere().broadcast("5")), (1, 0, 0));
        let mut all = sockets.everywhere();
        assert_eq!(all.emit_to(Uuid::nil(), "x"), Err(EmitError::Gone(Uuid::nil().into())));
        assert_eq!(figures(all.fire("poke", "p")), (0, 0, 0));
        assert_eq!(all.close(Uuid::nil(), 1000, ""), Ok(false));
        assert_eq!(all.close(uuids[0], 999, ""), Err(CloseError::IllegalCode(999.into())));
        assert_eq!(all.close(uuids[0], 1000, "bye"), Ok(true));
        assert!(test.state().is_empty(), "no callback is called inside a verb");
        test.turn();
        assert_eq!(*test.state(), ["poke Some(\"p\")"], "one connection is still open");
        test.settle();
        let bye = [Received::close(1000, "bye"), Received::Fin];
        let messages = ["1", "2"].map(Received::from);
        assert_eq!(test.received(ann), [&messages[..], &bye].concat());
        test.expect(bob, ["1", "2", "3", "4", "5"]);
    }
    assert_eq!(alone.server().stats().loops, Default::default());
    Ok(())
}

// Messages.

#[test]
fn a_message_of_any_length_and_kind_is_the_same_on_all_loops() -> Outcome {
    let (mut test, clients) = start(2)?;
    let lens = [0, 1, 125, 126, 127, 1023, 1024, 1025, 65_535, 65_536, 65_537, MAX_OUTBOX];
    for len in lens {
        let text = "é".repeat(len / 2) + &"x".repeat(len % 2);
        let bytes = vec![0xff_u8; len];
        for expected in [Received::Text(text.clone()), Received::Binary(bytes.clone())] {
            let uuids: Vec<_> = clients.iter().filter_map(|&client| test.uuid(client)).collect();
            for verb in 0..4 {
                let message: Message<'_> = match &expected {
                    Received::Text(text) => (&**text).into(),
                    Received::Binary(bytes) => (&**bytes).into(),
                    _ => unreachable!("one of the two"),
                };
                let sent = on(&mut test, 0, |all| match verb {
                    0 => figures(all.publish("room", message)),
                    1 => figures(all.broadcast(message)),
                    2 => figures(all.emit_to_list(&uuids, message)),
                    _ => {
                        let sent = uuids.iter().map(|&uuid| all.emit_to(uuid, message.clone()));
                        (sent.filter(Result::is_ok).count() - 1, 1, 0)
                    }
                });
                assert_eq!(sent, (1, 1, 0), "{len} bytes");
                for &client in &clients {
                    test.expect(client, [expected.clone()]);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_message_that_is_longer_than_an_outbox_is_counted_where_it_came_from() -> Outcome {
    let (mut test, clients) = start(2)?;
    let message = vec![1; MAX_OUTBOX + 1];
    let sent = on(&mut test, 0, |all| all.publish("room", &*message));
    assert_eq!((figures(sent), sent.too_large), ((0, 0, 0), true));
    for (&client, counted) in clients.iter().zip([1, 0]) {
        test.expect_nothing(client);
        assert_eq!(test.on(client.on).server().stats().emits_refused.too_large, counted);
        assert!(is_open(&mut test, client));
    }
    Ok(())
}

#[test]
fn events_and_closes_carry_long_and_empty_texts() -> Outcome {
    let (mut test, _) = start(2)?;
    let long = "y".repeat(5000);
    for data in ["", &*long] {
        on(&mut test, 0, |all| all.fire("poke", data));
        for index in 0..2 {
            let notes = std::mem::take(test.state(index));
            assert_eq!(notes, [format!("poke {:?}", Some(data))]);
        }
    }
    on(&mut test, 0, |all| all.fire("poke", &b"not text"[..]));
    assert!((0..2).all(|index| *test.state(index) == ["poke None"]), "binary stays binary");
    Ok(())
}

#[test]
fn a_slow_reader_on_another_loop_gets_only_the_newest_value_of_a_key() -> Outcome {
    let (mut test, _) = start(2)?;
    let slow = || Upgrade::to("/ws").faults(Faults::none().window(500));
    let slow = [test.connect_to(0, slow())?, test.connect_to(1, slow())?];
    for client in slow {
        test.on(client.on).stop_reading(client.client);
    }
    let long = "x".repeat(2000);
    on(&mut test, 0, |all| all.publish("room", &*long));
    test.settle();
    for number in 0..100 {
        for key in [1, 2] {
            on(&mut test, 0, |all| {
                all.publish("room", Latest(key, format!("{key} is {number}")));
                let text = "y".repeat(1500) + &number.to_string();
                all.broadcast(Latest(3, text));
            });
        }
    }
    test.settle();
    for client in slow {
        test.on(client.on).resume_reading(client.client);
        let newest = "y".repeat(1500) + "99";
        test.expect(client, [&*long, "1 is 99", &newest, "2 is 99"]);
        assert_eq!(test.on(client.on).server().sockets().dropped().replaced, 99 * 2 + 199);
    }
    Ok(())
}

#[cfg(feature = "deflate")]
#[test]
fn messages_are_compressed_on_other_loops_too_unless_the_sender_says_no() -> Outcome {
    for deflate in [ikisocket::Deflate::shared(), ikisocket::Deflate::dedicated()] {
        let build = |index, builder: Builder| room(index, builder.deflate(deflate));
        let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, build)?;
        let upgrade =
            || Upgrade::to("/ws").header("Sec-WebSocket-Extensions", "permessage-deflate");
        let clients = [test.connect_to(0, upgrade())?, test.connect_to(1, upgrade())?];
        for text in ["compressible ".repeat(60), "compressible ".repeat(6000)] {
            on(&mut test, 0, |all| {
                all.publish("room", &*text);
                all.publish("room", ikisocket::Uncompressed(&*text));
            });
            test.settle();
            for client in clients {
                let received = so_far(&mut test, client);
                let [Received::Compressed { is_text: true, payload }, plain] = &received[..] else {
                    panic!("{received:?}")
                };
                assert!(payload.len() * 5 < text.len());
                assert_eq!(plain, &Received::Text(text.clone()));
            }
        }
    }
    Ok(())
}

#[test]
fn topics_have_names_of_up_to_256_bytes_on_all_loops() -> Outcome {
    let (mut test, clients) = start(2)?;
    for (len, queued) in [(1, 1), (256, 1), (257, 0), (1000, 0)] {
        let topic = "t".repeat(len);
        let uuid = test.uuid(clients[1]).ok_or("it is open")?;
        let joined = test.on(1).server().sockets().get(uuid).ok_or("it is open")?.join(&topic);
        assert_eq!(joined.is_ok(), queued == 1);
        let sent = on(&mut test, 0, |all| all.publish(&topic, &*topic));
        assert_eq!(figures(sent), (0, queued, 0));
        test.expect(clients[1], vec![&*topic; queued]);
    }
    Ok(())
}

// Full queues.

#[test]
fn what_finds_no_room_is_refused_and_reported_at_its_place() -> Outcome {
    let (mut test, clients) = start_with(&Loops::new(3).queue_bytes(1024), 3)?;
    let uuid = test.uuid(clients[1]).ok_or("it is open")?;
    let text = "x".repeat(600);
    test.stall(1);
    on(&mut test, 0, |all| {
        assert_eq!(figures(all.publish("room", &*text)), (1, 2, 0));
        let sent = all.publish("room", &*text);
        assert_eq!(figures(sent), (1, 0, 2));
        assert_eq!(sent.full_loops().collect::<Vec<_>>(), [1, 2]);
    });
    test.settle();
    on(&mut test, 0, |all| {
        let sent = all.publish("room", &*text);
        assert_eq!((sent.queued, sent.full_loops().collect::<Vec<_>>()), (1, vec![1]));
        assert_eq!(all.emit_to(uuid, &*text), Err(EmitError::LoopFull(1)));
        assert_eq!(all.close(uuid, 1000, &text), Err(CloseError::LoopFull(1)));
        let sent = all.emit_to_list(&[uuid], &*text);
        assert_eq!(sent.full_loops().collect::<Vec<_>>(), [1]);
        let sent = all.broadcast(&*text);
        assert_eq!(sent.full_loops().collect::<Vec<_>>(), [1, 2]);
    });
    // A short one still finds room.
    assert_eq!(on(&mut test, 0, |all| all.publish("room", "short")).full, 0);
    test.resume(1);
    test.expect(clients[1], [&*text, "short"]);
    assert_eq!(*test.state(1), ["gap 0 6"]);
    assert_eq!(*test.state(2), ["gap 0 1", "gap 0 1"]);
    let bus = test.on(0).server().stats().loops;
    assert_eq!((bus.refused, bus.lost, bus.queued), (8, 0, 5));
    assert_eq!(test.on(0).server().stats().emits_refused.total(), 1);
    assert_eq!(test.on(1).server().stats().loops.lost, 6);
    // Afterwards there is room again.
    assert_eq!(figures(on(&mut test, 0, |all| all.publish("room", &*text))), (1, 2, 0));
    Ok(())
}

#[test]
fn a_message_that_is_longer_than_the_queue_may_wait_alone() -> Outcome {
    let (mut test, clients) = start_with(&Loops::new(2).queue_bytes(1024), 2)?;
    let long = "x".repeat(100_000);
    for _ in 0..3 {
        assert_eq!(on(&mut test, 0, |all| all.publish("room", &*long)).full, 0);
        assert_eq!(on(&mut test, 0, |all| all.publish("room", "")).full, 1);
        test.expect(clients[1], [&*long]);
        test.expect(clients[0], [&*long, ""]);
    }
    assert_eq!(*test.state(1), vec!["gap 0 1"; 3]);
    Ok(())
}

#[test]
fn settings_out_of_range_are_errors() {
    for (loops, error) in [
        (Loops::new(0), LoopsError::Count(0)),
        (Loops::new(257), LoopsError::Count(257)),
        (Loops::new(2).queue_bytes(1023), LoopsError::QueueBytes(1023)),
    ] {
        let result = LoopsHarness::new(&loops, Order::Ascending, room);
        assert_eq!(result.err(), Some(error));
    }
    assert!(LoopsHarness::new(&Loops::new(256).queue_bytes(1024), Order::Ascending, room).is_ok());
}

#[test]
fn the_handler_of_the_bus_may_use_all_verbs_and_its_panic_is_caught() -> Outcome {
    let build = |index, builder| {
        let mut server = room(index, builder)?;
        server.on_bus(|notes: &mut Notes, sockets, event| {
            let &BusEvent::Gap { from: GapFrom::Loop(from), lost: Some(lost), .. } = event else {
                return;
            };
            notes.push(format!("gap {from} {lost}"));
            sockets.everywhere().publish("room", "reload");
            sockets.everywhere().count(|notes, _, open| notes.push(open.value.to_string()));
            sockets.everywhere().fire("poke", "all");
            assert_eq!(lost, 1, "how many");
        });
        Ok::<_, BuildError>(server)
    };
    let loops = Loops::new(2).queue_bytes(1200);
    let mut test = LoopsHarness::new(&loops, Order::Ascending, build)?;
    let clients = [test.connect_to(0, "/ws")?, test.connect_to(1, "/ws")?];
    let text = "x".repeat(850);
    for lost in [1, 2] {
        on(&mut test, 0, |all| {
            (0..=lost).for_each(|_| _ = all.publish("room", &*text));
            all.publish("room", "");
        });
        let poke = "poke Some(\"all\")";
        assert_eq!(
            std::mem::take(test.state(1)),
            [&*format!("gap 0 {lost}"), poke, "2"].map(str::to_owned)
        );
        assert_eq!(std::mem::take(test.state(0)), [poke]);
        test.expect(clients[1], [&*text, "reload", ""]);
        let local = vec![&*text; lost + 1];
        test.expect(clients[0], [&local[..], &["", "reload"]].concat());
        let panics = test.on(1).panics();
        assert_eq!(panics.len(), lost - 1);
        assert!(panics.iter().all(|panic| panic.event == "on_bus" && panic.uuid.is_none()));
    }
    Ok(())
}

// Uuids.

#[test]
fn a_uuid_that_is_set_belongs_to_one_connection_of_all_loops() -> Outcome {
    let (mut test, clients) = start(3)?;
    let made: Vec<_> = clients.iter().filter_map(|&client| test.uuid(client)).collect();
    assert!(made.iter().all(|uuid| uuid.get_version_num() == 8));
    let own = Uuid::from_u128(7);
    let set = |test: &mut Test, at: usize, uuid| {
        let now = test.on(at).uuid(clients[at].client).expect("it is open");
        test.on(at).server().sockets().get(now).expect("it is open").set_uuid(uuid)
    };
    assert_eq!(set(&mut test, 0, own), Ok(()));
    assert_eq!(set(&mut test, 0, own), Ok(()), "it has it already");
    assert_eq!(set(&mut test, 1, own), Err(UuidError::Duplicate(own)));
    assert_eq!(set(&mut test, 1, made[0]), Err(UuidError::OtherLoop(made[0])));
    assert_eq!(on(&mut test, 2, |all| all.emit_to(own, "found")), Ok(Emitted::Queued));
    test.expect(clients[0], ["found"]);
    // Given back, it is free for others.
    assert_eq!(set(&mut test, 0, made[0]), Ok(()));
    assert_eq!(set(&mut test, 1, own), Ok(()));
    assert_eq!(on(&mut test, 2, |all| all.emit_to(own, "found")), Ok(Emitted::Queued));
    test.expect(clients[1], ["found"]);
    test.expect_nothing(clients[0]);
    // So is that of a loop that has ended.
    test.end(1);
    assert_eq!(set(&mut test, 2, own), Ok(()));
    Ok(())
}

#[test]
fn a_set_uuid_is_free_for_all_loops_however_its_connection_ends() -> Outcome {
    let ends: [fn(&mut Harness<Notes>, ikisocket::testing::Client, Uuid); 7] = [
        |harness, client, _| harness.close(client, 1000, ""),
        |harness, client, _| harness.reset(client),
        |harness, client, _| harness.finish(client),
        |harness, client, _| harness.write(client, &[0xff; 10]),
        |harness, _, uuid| harness.server().sockets().get(uuid).expect("it is open").close(),
        |harness, _, uuid| harness.server().sockets().get(uuid).expect("it is open").abort(),
        |harness, client, uuid| {
            harness.stop_reading(client);
            let mut sockets = harness.server().sockets();
            let mut kws = sockets.get(uuid).expect("it is open");
            while !matches!(kws.emit(vec![0; MAX_OUTBOX / 4]), Emitted::Refused(_)) {}
        },
    ];
    let (mut test, _) = start(2)?;
    let own = Uuid::from_u128(7);
    for (number, end) in ends.into_iter().enumerate() {
        let (from, to) = (number % 2, (number + 1) % 2);
        let slow = Upgrade::to("/stays-out").faults(Faults::none().window(100));
        let client = test.connect_to(from, slow)?;
        let uuid = test.uuid(client).ok_or("it is open")?;
        let set = test.on(from).server().sockets().get(uuid).ok_or("it is open")?.set_uuid(own);
        assert_eq!(set, Ok(()), "way {number}");
        let next = test.connect_to(to, "/stays-out")?;
        let uuid = test.uuid(next).ok_or("it is open")?;
        let set = |test: &mut Test| {
            test.on(to).server().sockets().get(uuid).expect("it is open").set_uuid(own)
        };
        assert_eq!(set(&mut test), Err(UuidError::Duplicate(own)));
        end(test.on(from), client.client, own);
        test.on(from).turn();
        assert_eq!(set(&mut test), Ok(()), "way {number}");
        on(&mut test, from, |all| all.close(own, 1000, ""))?;
        test.settle();
        assert!(!is_open(&mut test, next));
    }
    Ok(())
}

// All loops at once.

#[test]
fn a_shutdown_closes_all_connections_after_what_was_published() -> Outcome {
    for order in [Order::Ascending, Order::Descending, Order::Shuffled(1)] {
        let mut test = LoopsHarness::new(&Loops::new(3), order, room)?;
        let clients: Vec<_> =
            (0..3).map(|on| test.connect_to(on, "/ws")).collect::<Result<_, _>>()?;
        let mut sockets = test.on(1).server().sockets();
        sockets.everywhere().publish("room", "last words");
        sockets.shutdown(Shutdown::default().code(4002).reason("that is all"))?;
        for client in clients {
            test.expect(
                client,
                [Received::from("last words"), Received::close(4002, "that is all"), Received::Fin],
            );
            assert!(test.on(client.on).server().is_finished());
            assert_eq!(test.connect_to(client.on, "/ws").err(), Some(NotConnected::Unanswered));
        }
    }
    Ok(())
}

#[test]
fn shutdowns_that_two_loops_begin_at_once_are_one_and_keep_its_spread() -> Outcome {
    let (mut test, clients) = start(2)?;
    let more: Vec<_> =
        [0, 1].map(|on| test.connect_to(on, "/ws")).into_iter().collect::<Result<_, _>>()?;
    let how = || Shutdown::default().spread(Duration::from_secs(10));
    for on in 0..2 {
        test.on(on).server().sockets().shutdown(how())?;
    }
    test.advance(Duration::from_secs(1));
    let open = |test: &mut Test| {
        [&clients[..], &more].concat().iter().filter(|&&client| is_open(test, client)).count()
    };
    assert_eq!(open(&mut test), 2, "each loop closes its first connection at once");
    // A second call closes the others, on whatever loop.
    test.on(1).server().sockets().shutdown(how())?;
    test.settle();
    assert_eq!(open(&mut test), 0);
    assert!((0..2).all(|on| test.on(on).server().is_finished()));
    Ok(())
}

#[test]
fn a_shutdown_takes_place_on_all_loops_though_their_queues_are_full() -> Outcome {
    let (mut test, clients) = start_with(&Loops::new(2).queue_bytes(1024), 2)?;
    test.stall(1);
    on(&mut test, 0, |all| (0..20).for_each(|_| _ = all.publish("room", "x".repeat(500))));
    test.on(0).server().sockets().shutdown(Shutdown::default())?;
    test.settle();
    assert!(test.on(0).server().is_finished() && is_open(&mut test, clients[1]));
    test.resume(1);
    test.settle();
    assert!(test.on(1).server().is_finished());
    assert_eq!(*test.state(1), ["gap 0 19"]);
    Ok(())
}

#[test]
fn a_loop_without_connections_is_not_finished_before_the_others_are_told() -> Outcome {
    let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, room)?;
    let client = test.connect_to(1, "/ws")?;
    test.on(0).server().sockets().shutdown(Shutdown::default())?;
    // As a program does that turns its loop itself.
    while !test.on(0).server().is_finished() {
        test.on(0).turn();
    }
    test.end(0);
    let end = [Received::close(1001, "Server shutdown"), Received::Fin];
    test.expect(client, end);
    Ok(())
}

#[test]
fn a_shutdown_with_a_code_that_may_not_be_sent_reaches_no_loop() -> Outcome {
    let (mut test, clients) = start(2)?;
    let how = Shutdown::default().code(1006);
    let refused = test.on(0).server().sockets().shutdown(how);
    assert_eq!(refused, Err(CloseError::IllegalCode(1006.into())));
    test.advance(Duration::from_secs(1));
    assert!(clients.iter().all(|&client| is_open(&mut test, client)));
    Ok(())
}

#[test]
fn upgrades_are_refused_on_all_loops_or_none() -> Outcome {
    let (mut test, clients) = start(3)?;
    for refuse in [true, false, true] {
        test.on(2).server().sockets().refuse_upgrades(refuse);
        test.settle();
        for index in 0..3 {
            assert_eq!(test.on(index).server().sockets().is_refusing(), refuse);
            let refused = test.connect_to(index, "/ws").err().and_then(|error| error.status());
            assert_eq!(refused, refuse.then_some(503));
        }
    }
    assert!(clients.iter().all(|&client| is_open(&mut test, client)));
    Ok(())
}

#[test]
fn all_loops_stop_listening_together_and_keep_their_connections() -> Outcome {
    let build = |index, builder| {
        let mut server = room(index, builder)?;
        server.listen("127.0.0.1:0").expect("a free port");
        Ok::<_, BuildError>(server)
    };
    let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, build)?;
    let client = test.connect_to(0, "/ws")?;
    test.handle().stop_listening()?;
    test.settle();
    for index in 0..2 {
        assert_eq!(test.on(index).server().local_addr(), None);
    }
    assert!(is_open(&mut test, client));
    assert_eq!(test.on(0).server().stats().loops.received, 0, "that was no message");
    Ok(())
}

#[test]
fn the_end_of_a_loop_ends_its_memberships_and_what_waited_for_it() -> Outcome {
    let (mut test, clients) = start(3)?;
    test.stall(1);
    on(&mut test, 0, |all| (0..1000).for_each(|_| _ = all.publish("room", "waits")));
    test.settle();
    test.end(1);
    let sent = on(&mut test, 0, |all| all.publish("room", "for the others"));
    assert_eq!(figures(sent), (1, 1, 0));
    test.settle();
    assert_eq!(so_far(&mut test, clients[2]).len(), 1001);
    // A new client comes to one of the loops that are left.
    for _ in 0..4 {
        assert_ne!(test.connect("/ws")?.on, 1);
    }
    Ok(())
}

#[test]
fn loops_whose_clocks_were_moved_as_far_as_can_be_shut_down() -> Outcome {
    let (mut test, _) = start(2)?;
    for index in 0..2 {
        test.on(index).skip(Duration::MAX);
        test.on(index).skip(Duration::MAX);
    }
    // The second joins the shutdown of the first.
    for index in 0..2 {
        test.on(index).server().sockets().shutdown(Shutdown::default())?;
        test.settle();
    }
    assert!((0..2).all(|index| test.on(index).server().is_finished()));
    Ok(())
}
