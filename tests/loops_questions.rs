//! Questions to all loops: which of them answer, when the callback is called, and what happens
//! when something goes wrong.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use ikisocket::testing::{Harness, LoopsHarness, Order};
use ikisocket::{BuildError, Builder, Loops, Server, Sockets, Uuid};

type Outcome = Result<(), Box<dyn Error>>;
type Notes = Vec<String>;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A server whose clients are all in `room`.
fn room(_: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.build(Notes::new())?;
    server
        .route("/ws", |_, kws| assert_eq!(kws.join("room"), Ok(true)))
        .expect("the pattern is valid");
    Ok(server)
}

/// This many loops with a client on each.
fn start(count: usize) -> Result<LoopsHarness<Notes>, Box<dyn Error>> {
    let mut test = LoopsHarness::new(&Loops::new(count), Order::Ascending, room)?;
    for on in 0..count {
        test.connect_to(on, "/ws")?;
    }
    Ok(test)
}

fn ask_for_count(sockets: &mut Sockets<'_, Notes>) {
    sockets.everywhere().count(|notes, _, open| {
        notes.push(format!("{} {}", open.value, open.is_complete()));
    });
}

/// Asks all five questions; each notes its answer.
fn ask_everything(sockets: &mut Sockets<'_, Notes>) {
    let mut everywhere = sockets.everywhere();
    everywhere.count(|notes, _, found| {
        notes.push(format!("count {} {}", found.value, found.is_complete()));
    });
    everywhere.member_count("room", |notes, _, found| {
        notes.push(format!("member_count {} {}", found.value, found.is_complete()));
    });
    let sorted = |mut uuids: Vec<Uuid>| {
        uuids.sort();
        uuids
    };
    everywhere.members("room", move |notes, _, found| {
        let complete = found.is_complete();
        notes.push(format!("members {:?} {complete}", sorted(found.value)));
    });
    everywhere.uuids(move |notes, _, found| {
        let complete = found.is_complete();
        notes.push(format!("uuids {:?} {complete}", sorted(found.value)));
    });
    everywhere.stats(|notes, _, found| {
        let open: Vec<_> = found.value.iter().map(|(index, stats)| (index, stats.open)).collect();
        notes.push(format!("stats {open:?} {}", found.is_complete()));
    });
}

#[test]
fn each_question_is_answered_by_all_loops() -> Outcome {
    for order in [Order::Ascending, Order::Descending, Order::Shuffled(3)] {
        let mut test = LoopsHarness::new(&Loops::new(3), order, room)?;
        let mut uuids = Vec::new();
        for on in [0, 1, 1, 2] {
            let client = test.connect_to(on, "/ws")?;
            uuids.extend(test.uuid(client));
        }
        uuids.sort();
        ask_everything(&mut test.on(1).server().sockets());
        assert!(test.on(1).state().is_empty(), "no callback is called inside the question");
        test.settle();
        let mut notes = std::mem::take(test.state(1));
        notes.sort();
        assert_eq!(
            notes,
            [
                "count 4 true".to_owned(),
                "member_count 4 true".to_owned(),
                format!("members {uuids:?} true"),
                "stats [(0, 1), (1, 2), (2, 1)] true".to_owned(),
                format!("uuids {uuids:?} true"),
            ]
        );
        assert!(test.state(0).is_empty() && test.state(2).is_empty());
        test.advance(2 * SECOND);
        assert!(test.state(1).is_empty(), "each callback is called once");
    }
    Ok(())
}

#[test]
fn the_only_loop_answers_in_its_next_turn() -> Outcome {
    let mut alone = Harness::by_hand(room(0, Server::builder())?);
    let mut loops = LoopsHarness::new(&Loops::new(1), Order::Ascending, room)?;
    for harness in [&mut alone, loops.on(0)] {
        let client = harness.connect("/ws")?;
        let uuid = harness.uuid(client).ok_or("it is open")?;
        ask_everything(&mut harness.server().sockets());
        assert!(harness.state().is_empty());
        harness.turn();
        assert_eq!(
            *harness.state(),
            [
                "count 1 true".to_owned(),
                "member_count 1 true".to_owned(),
                format!("members [{uuid}] true"),
                format!("uuids [{uuid}] true"),
                "stats [(0, 1)] true".to_owned(),
            ]
        );
    }
    Ok(())
}

#[test]
fn after_exactly_a_second_the_answer_of_a_stalled_loop_is_missing() -> Outcome {
    let mut test = start(3)?;
    test.stall(2);
    ask_for_count(&mut test.on(0).server().sockets());
    test.advance(SECOND - MILLISECOND);
    assert!(test.state(0).is_empty(), "it is awaited");
    test.advance(MILLISECOND);
    assert_eq!(*test.state(0), ["2 false"]);

    test.resume(2);
    test.advance(2 * SECOND);
    assert_eq!(*test.state(0), ["2 false"], "the late answer changes nothing");
    ask_for_count(&mut test.on(0).server().sockets());
    assert_eq!(*test.state(0), ["2 false", "3 true"], "the next question is a new one");
    Ok(())
}

#[test]
fn late_answers_are_not_those_of_the_next_question() -> Outcome {
    let mut test = start(2)?;
    test.stall(1);
    test.on(0).server().sockets().everywhere().members("nowhere", |notes, _, found| {
        notes.push(format!("{} {}", found.value.len(), found.is_complete()));
    });
    test.advance(SECOND);
    ask_for_count(&mut test.on(0).server().sockets());
    test.resume(1);
    assert_eq!(*test.state(0), ["0 false", "2 true"]);
    Ok(())
}

#[test]
fn a_loop_that_has_ended_is_not_awaited() -> Outcome {
    let mut test = start(3)?;
    test.end(2);
    ask_for_count(&mut test.on(0).server().sockets());
    assert_eq!(*test.state(0), ["2 false"]);
    Ok(())
}

#[test]
fn a_loop_that_ends_before_it_answers_is_awaited_for_a_second() -> Outcome {
    let mut test = start(3)?;
    test.stall(2);
    ask_for_count(&mut test.on(0).server().sockets());
    test.settle();
    test.end(2);
    test.advance(SECOND - MILLISECOND);
    assert!(test.state(0).is_empty());
    test.advance(MILLISECOND);
    assert_eq!(*test.state(0), ["2 false"]);
    Ok(())
}

#[test]
fn a_loop_whose_queue_is_full_is_not_awaited() -> Outcome {
    let loops = Loops::new(3).queue_bytes(1024);
    let mut test = LoopsHarness::new(&loops, Order::Ascending, room)?;
    for on in 0..3 {
        test.connect_to(on, "/ws")?;
    }
    test.stall(2);
    let uuid = test.on(2).server().sockets().uuids()[0];
    let mut sockets = test.on(0).server().sockets();
    sockets.everywhere().emit_to(uuid, "x".repeat(950))?;
    ask_for_count(&mut sockets);
    assert_eq!(*test.state(0), ["2 false"]);
    Ok(())
}

#[test]
fn an_answer_that_finds_no_room_is_missing_after_a_second() -> Outcome {
    let loops = Loops::new(2).queue_bytes(1024);
    let mut test = LoopsHarness::new(&loops, Order::Ascending, room)?;
    for on in 0..2 {
        test.connect_to(on, "/ws")?;
    }
    ask_for_count(&mut test.on(0).server().sockets());
    test.on(0).turn();
    // Before loop 1 answers, it fills the lane to loop 0.
    let uuid = test.on(0).server().sockets().uuids()[0];
    test.on(1).server().sockets().everywhere().emit_to(uuid, "x".repeat(950))?;
    test.on(1).turn();
    test.settle();
    assert!(test.state(0).is_empty(), "loop 0 does not know that the answer was refused");
    test.advance(SECOND);
    assert_eq!(*test.state(0), ["1 false"]);
    // The loop that asked knows: that is no gap.
    assert_eq!(test.on(0).server().stats().loops.lost, 0);
    assert_eq!(test.on(1).server().stats().loops.refused, 1);
    Ok(())
}

#[test]
fn a_panic_in_the_callback_of_a_question_is_caught_in_all_cases() -> Outcome {
    let mut test = start(2)?;
    // Answered, late, and without any other loop that could answer.
    for case in 0..3 {
        match case {
            1 => test.stall(1),
            2 => drop(test.end(1)),
            _ => {}
        }
        let mut sockets = test.on(0).server().sockets();
        sockets.everywhere().count(|_, _, _| panic!("no"));
        ask_for_count(&mut sockets);
        test.advance(SECOND);
        let panics = test.on(0).panics();
        let events: Vec<_> = panics.iter().map(|panic| (&*panic.event, &*panic.message)).collect();
        assert_eq!(events, [("everywhere", "no")]);
        assert_eq!(panics[0].uuid, None);
        let answer = ["2 true", "1 false", "1 false"][case];
        assert_eq!(std::mem::take(test.state(0)), [answer], "the loop goes on");
        assert_eq!(test.on(0).server().stats().panics, case as u64 + 1);
    }
    Ok(())
}

#[test]
fn the_callback_of_a_question_may_use_all_verbs_and_ask_again() -> Outcome {
    let mut test = LoopsHarness::new(&Loops::new(2), Order::Descending, room)?;
    let clients = [test.connect_to(0, "/ws")?, test.connect_to(1, "/ws")?];
    test.on(0).server().sockets().everywhere().count(|_, sockets, open| {
        sockets.everywhere().publish("room", format!("{} are open", open.value));
        sockets.everywhere().member_count("room", |notes, sockets, members| {
            notes.push(format!("{} {}", members.value, members.is_complete()));
            sockets.everywhere().broadcast("that is all");
        });
    });
    for client in clients {
        test.expect(client, ["2 are open", "that is all"]);
    }
    assert_eq!(*test.state(0), ["2 true"]);
    Ok(())
}

/// Counts that it was dropped, and panics if it should.
struct Dropped(Rc<Cell<usize>>, bool);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        assert!(!self.1, "it panics while it is dropped");
    }
}

#[test]
fn a_server_that_ends_drops_each_pending_callback_under_a_guard() -> Outcome {
    let mut test = start(2)?;
    let dropped = Rc::new(Cell::new(0));
    test.stall(1);
    for panics in [false, true, false, true] {
        let captured = Dropped(dropped.clone(), panics);
        test.on(0).server().sockets().everywhere().count(move |notes, _, _| {
            notes.push(format!("called with {}", captured.0.get()));
        });
    }
    test.settle();
    assert_eq!(dropped.get(), 0);
    assert!(test.end(0).is_empty(), "none was called");
    assert_eq!(dropped.get(), 4);
    Ok(())
}

#[test]
fn a_thousand_questions_at_once_are_answered_each_with_its_own_answer() -> Outcome {
    let mut test = start(4)?;
    for number in 0..1000 {
        let mut sockets = test.on(number % 4).server().sockets();
        sockets.everywhere().count(move |notes, _, open| {
            notes.push(format!("{number} {} {}", open.value, open.is_complete()));
        });
    }
    test.settle();
    for on in 0..4 {
        let mut notes = std::mem::take(test.state(on));
        notes.sort();
        let mut expected: Vec<_> =
            (on..1000).step_by(4).map(|number| format!("{number} 4 true")).collect();
        expected.sort();
        assert_eq!(notes, expected);
    }
    Ok(())
}
