//! What a loop does in one turn for the others, however much they send: a part of the budget, with
//! a share for each of them.

use std::error::Error;
use std::time::Duration;

use ikisocket::testing::{Client, LoopsHarness, Order, Received};
use ikisocket::{BuildError, Builder, BusEvent, Event, GapFrom, Loops, Server};

type Outcome = Result<(), Box<dyn Error>>;

/// The work of a turn of each loop, in messages. Letters of others have half of it.
const BUDGET: usize = 64;
/// What each short letter with one recipient costs: itself, and the message to the recipient.
const COST: usize = 2;

/// A server whose clients are in the topic of their path, and that answers their messages.
fn echo(_: usize, builder: Builder) -> Result<Server<Vec<u64>>, BuildError> {
    let mut server = builder.work_per_turn(BUDGET).build(Vec::new())?;
    server.on(Event::Message, |_, ep| _ = ep.kws.emit(ep.data));
    server.on_bus(|gaps, sockets, event| {
        if let BusEvent::Gap { from: GapFrom::Loop(from), lost: Some(lost), .. } = event {
            sockets.publish(&format!("from {from}"), format!("gap {lost}"));
            gaps.push(*lost);
        }
    });
    server
        .route("/:topic", |_, kws| {
            let topic = format!("from {}", kws.param("topic").unwrap_or_default());
            kws.join(&topic).expect("it is open");
        })
        .expect("the pattern is valid");
    Ok(server)
}

fn start(loops: &Loops) -> Result<LoopsHarness<Vec<u64>>, Box<dyn Error>> {
    Ok(LoopsHarness::new(loops, Order::Ascending, echo)?)
}

fn publish(test: &mut LoopsHarness<Vec<u64>>, on: usize, message: &str) -> bool {
    let mut sockets = test.on(on).server().sockets();
    sockets.everywhere().publish(&format!("from {on}"), message).full == 0
}

fn texts(test: &mut LoopsHarness<Vec<u64>>, on: usize, client: Client) -> Vec<String> {
    let received = test.on(on).received(client);
    let texts = received.into_iter().map(|each| match each {
        Received::Text(text) => text,
        other => panic!("not a text: {other:?}"),
    });
    texts.collect()
}

/// Turns a loop as its thread does: it sleeps as soon as it may.
fn turn_until_it_sleeps(test: &mut LoopsHarness<Vec<u64>>, on: usize) -> usize {
    let mut turns = 0;
    loop {
        test.on(on).turn();
        turns += 1;
        if test.on(on).server().next_timeout() != Some(Duration::ZERO) {
            return turns;
        }
        assert!(turns < 100_000, "it never sleeps");
    }
}

#[test]
fn a_flood_of_one_loop_takes_at_most_half_of_a_turn_of_another() -> Outcome {
    let mut test = start(&Loops::new(2))?;
    let client = test.connect_to(1, "/0")?;
    let total = 10_000;
    (0..total).for_each(|number| assert!(publish(&mut test, 0, &number.to_string())));
    test.on(0).turn();
    let (mut handled, mut turns) = (0, 0);
    while handled < total {
        let letters = test.on(1).turn().letters;
        assert!((1..=BUDGET / 2 / COST + 1).contains(&letters), "{letters} letters in a turn");
        handled += letters;
        turns += 1;
    }
    assert!(turns <= total * (COST + 1) / (BUDGET / 2), "{turns} turns for {total} letters");
    let expected: Vec<_> = (0..total).map(|number| number.to_string()).collect();
    assert_eq!(texts(&mut test, 1, client.client), expected);
    Ok(())
}

#[test]
fn clients_and_the_letters_of_a_third_loop_do_not_wait_for_a_flood() -> Outcome {
    let mut test = start(&Loops::new(3))?;
    let own = test.connect_to(2, "/own")?;
    let third = test.connect_to(2, "/1")?;
    for number in 0..2000 {
        assert!(publish(&mut test, 0, "flood"), "without members nothing is queued");
        test.on(0).server().sockets().everywhere().broadcast(number.to_string());
    }
    test.on(0).turn();
    for round in 0..20 {
        let text = format!("round {round}");
        assert!(publish(&mut test, 1, &text));
        test.on(1).turn();
        test.send(own, &*text);
        test.on(2).turn();
        for client in [own, third] {
            let received = texts(&mut test, 2, client.client);
            assert!(received.contains(&text), "in one turn {client:?} received {received:?}");
        }
    }
    assert!(test.on(2).server().next_timeout() == Some(Duration::ZERO), "the flood is not over");
    Ok(())
}

#[test]
fn each_of_several_loops_has_the_same_share() -> Outcome {
    let mut test = start(&Loops::new(5))?;
    let clients: Vec<_> =
        (0..4).map(|from| test.connect_to(4, format!("/{from}"))).collect::<Result<_, _>>()?;
    for from in 0..4 {
        (0..500).for_each(|number| assert!(publish(&mut test, from, &number.to_string())));
        test.on(from).turn();
    }
    test.on(4).turn();
    let counts: Vec<_> =
        clients.iter().map(|client| texts(&mut test, 4, client.client).len()).collect();
    assert!(counts.iter().all(|count| (4..=5).contains(count)), "{counts:?} of each loop");
    Ok(())
}

#[test]
fn letters_behind_older_ones_are_handled_without_another_wake() -> Outcome {
    let mut test = start(&Loops::new(2))?;
    let client = test.connect_to(1, "/0")?;
    let mut expected = Vec::new();
    for round in 0..3 {
        for number in 0..BUDGET {
            assert!(publish(&mut test, 0, &format!("{round} {number}")));
            expected.push(format!("{round} {number}"));
        }
        test.on(0).turn();
        test.on(1).turn();
    }
    let turns = turn_until_it_sleeps(&mut test, 1);
    assert!(turns > 2, "there was something left in {turns} turns");
    assert_eq!(texts(&mut test, 1, client.client), expected);
    Ok(())
}

#[test]
fn a_budget_that_ends_anywhere_changes_no_message_and_no_order() -> Outcome {
    let mut seed = 5_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for limit in [2048, 16 * 1024, 1024 * 1024] {
        let mut test = start(&Loops::new(3).queue_bytes(limit))?;
        let clients = [test.connect_to(2, "/0")?, test.connect_to(2, "/1")?];
        let (mut expected, mut received) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
        let mut lost = 0;
        for number in 0..5000 {
            let from = random(2);
            for _ in 0..random(8) {
                let len = if random(10) == 0 { 2000 } else { random(60) };
                let text = format!("{number} {}", "x".repeat(random(len + 1)));
                let queued = publish(&mut test, from, &text);
                lost += u64::from(!queued);
                expected[from].push(queued.then_some(text));
            }
            if random(3) == 0 {
                test.on(from).turn();
            }
            // As many turns as a thread might have time for.
            for _ in 0..random(4) {
                test.on(2).turn();
            }
        }
        for from in 0..2 {
            test.on(from).turn();
        }
        turn_until_it_sleeps(&mut test, 2);
        for from in 0..2 {
            received[from] = texts(&mut test, 2, clients[from].client);
            // Several gaps in a row count as one.
            let mut expected = expected[from].iter().peekable();
            let mut received = received[from].iter().peekable();
            while let Some(next) = received.next() {
                if let Some(lost) = next.strip_prefix("gap ") {
                    let mut lost: usize = lost.parse()?;
                    while let Some(more) = received.peek().and_then(|n| n.strip_prefix("gap ")) {
                        lost += more.parse::<usize>()?;
                        received.next();
                    }
                    let missing = std::iter::from_fn(|| expected.next_if(|each| each.is_none()));
                    assert_eq!(missing.count(), lost, "the gap is at the place of the loss");
                } else {
                    assert_eq!(expected.next(), Some(&Some(next.clone())));
                }
            }
            assert_eq!(expected.next(), None);
        }
        assert_eq!(test.on(2).state().iter().sum::<u64>(), lost);
        match limit {
            2048 => assert!(lost > 500, "{lost} were lost with {limit} bytes"),
            16_384 => {}
            _ => assert_eq!(lost, 0, "with {limit} bytes"),
        }
        let bus: Vec<_> = (0..3).map(|on| test.on(on).server().stats().loops).collect();
        assert_eq!(bus[0].queued + bus[1].queued, bus[2].received);
        assert_eq!((bus[0].refused + bus[1].refused, bus[2].lost), (lost, lost));
    }
    Ok(())
}

#[test]
fn questions_that_look_at_every_connection_take_their_part_of_the_budget() -> Outcome {
    let mut test = start(&Loops::new(2))?;
    for _ in 0..200 {
        test.connect_to(1, "/0")?;
    }
    let questions: [fn(&mut LoopsHarness<Vec<u64>>); 3] = [
        |test| {
            test.on(0).server().sockets().everywhere().uuids(|sum, _, all| {
                sum.push(all.value.len() as u64);
            })
        },
        |test| {
            test.on(0).server().sockets().everywhere().stats(|sum, _, all| {
                sum.push(all.value[1].1.open as u64);
            })
        },
        |test| {
            test.on(0).server().sockets().everywhere().members("from 0", |sum, _, all| {
                sum.push(all.value.len() as u64);
            })
        },
    ];
    for ask in questions {
        (0..20).for_each(|_| ask(&mut test));
        test.on(0).turn();
        let mut turns = 0;
        while test.on(1).turn().letters > 0 {
            turns += 1;
        }
        assert!(turns >= 4, "20 answers with 200 connections each in {turns} turns");
        assert_eq!(std::mem::take(test.state(0)), [200; 20]);
    }
    Ok(())
}
