//! Timers and intervals of the user's own: when they are called, with what, and what they can do.
//! The tests set the time, except for the wait of a poll, which only the system's clock can end.

mod common;

use std::time::{Duration, Instant};

use common::{Diary, ON_PURPOSE, PATIENCE, connect, memory_server, quiet_panics};
use ikisocket::{Event, Server, Sockets, TimerId};

const SOON: Duration = Duration::from_millis(5);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What a timer does to leave a trace.
fn note(what: &'static str) -> impl Fn(&mut Diary, &mut Sockets<'_, Diary>) {
    move |diary, _| diary.note(what)
}

#[test]
fn a_timer_is_called_once_with_the_state_and_the_sockets() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    test.server().set_timer(SOON, |diary, sockets| {
        diary.note(format!("{} here", sockets.len()));
        sockets.broadcast("time");
    });
    test.advance(SOON - MILLISECOND);
    test.expect_nothing(ann);
    test.advance(MILLISECOND);
    test.expect(ann, ["time"]);
    test.advance(10 * SOON);
    assert_eq!(test.state().notes, ["1 here"]);
    test.expect_nothing(ann);
}

#[test]
fn a_timer_in_the_past_comes_in_the_next_turn_and_never_inside_the_call() {
    let mut test = common::harness_by_hand(memory_server());
    test.server().set_timer(Duration::ZERO, |diary, sockets| {
        diary.note("first");
        sockets.set_timer(Duration::ZERO, note("second"));
    });
    assert_eq!(test.state().notes.len(), 0);
    assert_eq!(test.server().next_timeout(), Some(Duration::ZERO));
    assert_eq!(test.turn().timers, 1);
    assert_eq!(test.state().notes, ["first"]);
    assert_eq!(test.turn().timers, 1);
    assert_eq!(test.state().notes, ["first", "second"]);
    assert_eq!(test.server().next_timeout(), None);
}

#[test]
fn a_wait_without_end_ends_when_a_timer_is_due() {
    let mut server = memory_server();
    let started = Instant::now();
    server.set_timer(4 * SOON, note("due"));
    assert!(server.next_timeout().is_some_and(|timeout| timeout <= 4 * SOON));
    while server.state().notes.is_empty() {
        server.poll(None).unwrap();
    }
    // The loop's clock has whole milliseconds.
    assert!(started.elapsed() >= 4 * SOON - MILLISECOND);
}

#[test]
fn listeners_set_and_cancel_timers() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        let uuid = ep.socket_uuid;
        let mut sockets = ep.kws.sockets();
        let never = sockets.set_timer(SOON, note("cancelled"));
        sockets.set_timer(SOON, move |_, sockets| {
            sockets.emit_to(uuid, "a little later").unwrap();
        });
        diary.note(format!("{} {}", sockets.cancel(never), sockets.cancel(never)));
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "now");
    test.expect_nothing(ann);
    test.advance(SOON);
    test.expect(ann, ["a little later"]);
    assert_eq!(test.state().notes, ["true false"]);
}

#[test]
fn an_interval_goes_on_until_it_cancels_itself() {
    let mut server = Server::builder().build((0, None)).unwrap();
    let id = server.set_interval(SOON, |(ran, id): &mut (u32, Option<TimerId>), sockets| {
        *ran += 1;
        if *ran == 3 {
            assert!(sockets.cancel(id.unwrap()));
        }
    });
    server.state_mut().1 = Some(id);
    let mut test = common::harness(server);
    test.advance(10 * SOON);
    assert_eq!((test.state().0, test.server().next_timeout()), (3, None));
    assert!(!test.server().cancel(id));
}

#[test]
fn an_interval_that_fell_behind_is_called_once_and_keeps_its_step() {
    let mut test = common::harness(memory_server());
    test.server().set_interval(Duration::from_millis(10), note("tick"));
    // The owner of the loop is busy with something else.
    test.skip(Duration::from_millis(57));
    assert_eq!(test.turn().timers, 1);
    test.advance(Duration::from_millis(2));
    assert_eq!(test.state().notes.len(), 1);
    test.advance(Duration::from_millis(1));
    assert_eq!(test.state().notes.len(), 2);
}

#[test]
fn timers_come_when_they_are_due_on_the_clock_of_a_test() {
    let mut test = common::harness(memory_server());
    test.server().set_timer(Duration::from_millis(30), note("timer"));
    test.server().set_interval(Duration::from_millis(20), note("interval"));
    test.server().set_timer(Duration::MAX, note("never"));
    // Of two that are due together, the one that was set first is first.
    test.server().set_timer(Duration::from_micros(59_001), note("rounded up"));
    for (millis, notes) in [(19, 0), (1, 1), (9, 1), (1, 2), (10, 3), (19, 3), (1, 5), (3600, 185)]
    {
        test.advance(Duration::from_millis(millis));
        assert_eq!(test.state().notes.len(), notes);
    }
    assert_eq!(
        test.state().notes[..5],
        ["interval", "timer", "interval", "interval", "rounded up"]
    );
}

#[test]
fn a_timer_that_another_one_cancels_in_the_same_turn_is_not_called() {
    let mut server = Server::builder().build(Vec::new()).unwrap();
    server.set_timer(SOON, |ids: &mut Vec<TimerId>, sockets| {
        for id in std::mem::take(ids) {
            assert!(sockets.cancel(id));
        }
    });
    for _ in 0..3 {
        let id = server.set_timer(SOON, |_, _| {});
        server.state_mut().push(id);
    }
    let mut test = common::harness(server);
    test.skip(2 * SOON);
    assert_eq!(test.turn().timers, 1);
    assert_eq!(test.server().next_timeout(), None);
}

#[test]
fn a_panic_in_a_timer_reaches_the_panic_handler_and_the_interval_stays() {
    quiet_panics();
    let mut server = memory_server();
    server.on_panic(|diary, panic| {
        diary.note(format!("{} {} {:?}", panic.event, panic.message, panic.uuid))
    });
    server.set_interval(SOON, |_, _| panic!("{ON_PURPOSE}"));
    let mut test = common::harness(server);
    test.advance(2 * SOON);
    let told = format!("timer {ON_PURPOSE} None");
    assert_eq!(test.state().notes, [&*told, &told]);
    test.server().set_timer(SOON, note("unharmed"));
    test.advance(SOON);
    assert!(test.state().notes.contains(&"unharmed".to_owned()));
    assert_eq!(test.panics().len(), 3);
}

#[test]
fn timers_get_no_more_than_their_share_of_a_turn_and_none_is_lost() {
    let mut server = memory_server();
    for _ in 0..3000 {
        server.set_timer(Duration::ZERO, note("one"));
    }
    let mut turns = 0;
    while server.next_timeout() == Some(Duration::ZERO) {
        // Each poll may wait, and must not: timers are due.
        assert!(server.poll(Some(PATIENCE)).unwrap().timers <= 1024);
        turns += 1;
    }
    assert_eq!((server.state().notes.len(), turns), (3000, 3));
}
