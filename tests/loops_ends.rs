//! Loops that end, refuse and are behind: what holds for all of them. In memory.

use std::error::Error;
use std::time::Duration;

use ikisocket::testing::{LoopClient, LoopsHarness, Order, Received};
use ikisocket::{BuildError, Builder, Event, Loops, Server, Shutdown};

type Outcome = Result<(), Box<dyn Error>>;
type Test = LoopsHarness<()>;

fn room(_: usize, builder: Builder) -> Result<Server<()>, BuildError> {
    let mut server = builder.build(())?;
    server.on(Event::Connect, |_, ep| assert_eq!(ep.kws.join("room"), Ok(true)));
    server.on(Event::Message, |_, ep| {
        ep.kws.everywhere().publish_all("room", ep.data);
    });
    server.route("/ws", |_, _| {}).expect("the pattern is valid");
    Ok(server)
}

/// Four clients on two loops, two each.
fn two_loops() -> Result<(Test, Vec<LoopClient>), Box<dyn Error>> {
    let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, room)?;
    let clients = (0..4).map(|_| test.connect("/ws")).collect::<Result<_, _>>()?;
    Ok((test, clients))
}

fn shut_down(test: &mut Test, on: usize, reason: &str) {
    let how = Shutdown::default().reason(reason).spread(Duration::from_secs(10));
    test.on(on).server().sockets().shutdown(how).expect("the code may be sent");
}

/// The reasons of the close frames that these clients got since the last call.
fn reasons(test: &mut Test, clients: &[LoopClient]) -> Vec<String> {
    let mut reasons = Vec::new();
    for &client in clients {
        for received in test.received(client) {
            if let Received::Close { reason, .. } = received {
                reasons.push(reason);
            }
        }
    }
    reasons
}

#[test]
fn a_shutdown_on_one_loop_closes_the_connections_of_all() -> Outcome {
    let (mut test, clients) = two_loops()?;
    test.on(1).server().sockets().shutdown(Shutdown::default().reason("bye"))?;
    assert_eq!(reasons(&mut test, &clients), ["bye"; 4]);
    assert!((0..2).all(|index| test.on(index).server().is_finished()));
    Ok(())
}

#[test]
fn loops_that_shut_down_at_the_same_time_keep_the_spread() -> Outcome {
    let (mut test, clients) = two_loops()?;
    shut_down(&mut test, 0, "of 0");
    shut_down(&mut test, 1, "of 1");
    // The first close of each loop comes at once, the second after half of the spread.
    let mut first = reasons(&mut test, &clients);
    first.sort();
    assert_eq!(first, ["of 0", "of 1"]);
    test.advance(Duration::from_secs(4));
    assert_eq!(reasons(&mut test, &clients), [""; 0]);
    test.advance(Duration::from_secs(2));
    assert_eq!(reasons(&mut test, &clients).len(), 2);
    Ok(())
}

#[test]
fn loops_whose_own_timers_shut_down_start_one_shutdown() -> Outcome {
    let (mut test, clients) = two_loops()?;
    for (on, after) in [(0, 1000), (1, 1003)] {
        let how = Shutdown::default().spread(Duration::from_secs(10));
        test.on(on).server().set_timer(Duration::from_millis(after), move |_, sockets| {
            sockets.shutdown(how).expect("the code may be sent");
        });
    }
    test.advance(Duration::from_secs(2));
    assert_eq!(reasons(&mut test, &clients).len(), 2, "the others have their time");
    test.advance(Duration::from_secs(5));
    assert_eq!(reasons(&mut test, &clients).len(), 2);
    Ok(())
}

#[test]
fn a_second_shutdown_closes_what_is_left_on_all_loops() -> Outcome {
    // On the loop that began, or on another one a second later.
    for (second, after) in [(0, 0), (1, 1000)] {
        let (mut test, clients) = two_loops()?;
        shut_down(&mut test, 0, "first");
        assert_eq!(reasons(&mut test, &clients), ["first"; 2]);
        test.advance(Duration::from_millis(after));
        shut_down(&mut test, second, "second");
        assert_eq!(reasons(&mut test, &clients), ["second"; 2], "on loop {second}");
    }
    Ok(())
}

#[test]
fn what_a_handle_has_sent_before_it_shuts_down_comes_before_the_close() -> Outcome {
    for order in [Order::Ascending, Order::Descending, Order::Shuffled(3)] {
        let mut test = LoopsHarness::new(&Loops::new(3), order, room)?;
        let clients: Vec<_> = (0..3).map(|_| test.connect("/ws")).collect::<Result<_, _>>()?;
        test.handle().publish("room", "last words")?;
        test.handle().shutdown(Shutdown::default().reason("bye"))?;
        for &client in &clients {
            let received = test.received(client);
            assert_eq!(received[0], Received::Text("last words".to_owned()), "{order:?}");
            assert_eq!(received[1], Received::close(1001, "bye"), "{order:?}");
        }
    }
    Ok(())
}

#[test]
fn a_loop_that_hangs_delays_no_message_of_a_handle_to_others() -> Outcome {
    let (mut test, clients) = two_loops()?;
    let there = [clients[1], clients[3]];
    test.stall(0);
    test.handle().publish("room", "news")?;
    test.handle().shutdown(Shutdown::default().reason("bye"))?;
    for client in there {
        let received = test.received(client);
        assert_eq!(received[..2], [Received::from("news"), Received::close(1001, "bye")]);
    }
    Ok(())
}

#[test]
fn events_for_the_own_loop_are_bounded_like_commands() -> Outcome {
    let settings = Server::builder().handle_queue(10);
    let mut test = LoopsHarness::new(&Loops::with_settings(1, settings), Order::Ascending, room)?;
    let mut sockets = test.on(0).server().sockets();
    let mut everywhere = sockets.everywhere();
    let complete = (0..12).filter(|_| everywhere.fire("event", "").is_complete()).count();
    assert_eq!(complete, 10);
    assert_eq!(everywhere.fire("event", "").full_loops().collect::<Vec<_>>(), [0]);
    Ok(())
}

#[test]
fn what_was_published_before_a_shutdown_comes_before_its_close() -> Outcome {
    let (mut test, clients) = two_loops()?;
    let mut sockets = test.on(0).server().sockets();
    sockets.everywhere().publish("room", "last words");
    sockets.shutdown(Shutdown::default())?;
    for client in clients {
        let received = test.received(client);
        assert_eq!(received[0], Received::Text("last words".to_owned()), "{client:?}");
        assert!(matches!(received[1], Received::Close { .. }), "{client:?}");
    }
    Ok(())
}

#[test]
fn what_was_published_before_the_owner_shuts_down_comes_before_its_close() -> Outcome {
    let (mut test, clients) = two_loops()?;
    test.on(0).server().sockets().everywhere().publish("room", "last words");
    test.on(0).turn();
    test.handle().shutdown(Shutdown::default())?;
    for client in clients {
        let received = test.received(client);
        assert_eq!(received[0], Received::Text("last words".to_owned()), "{client:?}");
    }
    Ok(())
}

#[test]
fn all_loops_refuse_upgrades_or_none_does() -> Outcome {
    let (mut test, _clients) = two_loops()?;
    // Both at the same moment: whatever holds then, holds for both.
    test.on(0).server().sockets().refuse_upgrades(true);
    test.on(1).server().sockets().refuse_upgrades(false);
    test.settle();
    let refusing = [0, 1].map(|index| test.on(index).server().sockets().is_refusing());
    assert_eq!(refusing, [false; 2]);
    test.handle().refuse_upgrades(true);
    assert_eq!(test.connect("/ws").unwrap_err().status(), Some(503));
    Ok(())
}

#[test]
fn what_finds_no_time_in_a_turn_is_handled_in_the_next() -> Outcome {
    let settings = Server::builder().work_per_turn(1);
    let mut test = LoopsHarness::new(&Loops::with_settings(2, settings), Order::Ascending, room)?;
    let (_ann, bob) = (test.connect("/ws")?, test.connect("/ws")?);
    // Two rounds of messages before the other loop turns, and one while it is behind.
    for round in 0..2 {
        for message in 0..3 {
            let text = format!("{round}.{message}");
            test.on(0).server().sockets().everywhere().publish("room", text);
        }
        test.on(0).turn();
    }
    assert_eq!(test.on(1).turn().letters, 1);
    test.on(0).server().sockets().everywhere().publish("room", "2.0");
    test.on(0).turn();
    test.expect(bob, ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2", "2.0"]);
    Ok(())
}

#[test]
fn a_message_that_no_outbox_can_hold_goes_to_no_loop() -> Outcome {
    let settings = Server::builder().max_outbox(1024);
    let mut test = LoopsHarness::new(&Loops::with_settings(2, settings), Order::Ascending, room)?;
    let (_ann, bob) = (test.connect("/ws")?, test.connect("/ws")?);
    let there = test.uuid(bob).expect("it is open");
    let long = "x".repeat(1025);
    let mut sockets = test.on(0).server().sockets();
    let mut everywhere = sockets.everywhere();
    let sent = everywhere.publish("room", &*long);
    assert!(sent.too_large && !sent.is_complete() && sent.queued == 0, "{sent:?}");
    assert!(everywhere.broadcast(&*long).too_large);
    assert!(everywhere.emit_to_list(&[there], &*long).too_large);
    let error = everywhere.emit_to(there, &*long).unwrap_err();
    assert_eq!(error, ikisocket::EmitError::TooLarge { len: 1025, limit: 1024 });
    assert!(!everywhere.publish("empty", &*long).too_large, "it has no members");
    test.expect_nothing(bob);
    Ok(())
}

#[test]
fn the_verbs_of_a_connection_leave_it_out_and_those_for_all_do_not() -> Outcome {
    let (mut test, clients) = two_loops()?;
    let own = test.uuid(clients[0]).expect("it is open");
    let mut sockets = test.on(0).server().sockets();
    let mut kws = sockets.get(own).expect("it is here");
    kws.everywhere().publish("room", "others");
    kws.everywhere().broadcast("others");
    kws.everywhere().publish_all("room", "all");
    kws.everywhere().broadcast_all("all");
    test.expect(clients[0], ["all", "all"]);
    for &client in &clients[1..] {
        test.expect(client, ["others", "others", "all", "all"]);
    }
    Ok(())
}
