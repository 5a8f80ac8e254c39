//! Timers and intervals of the user's own: when they are called, with what, and what they can do.

mod common;

use std::time::{Duration, Instant};

use common::{Client, Diary, ON_PURPOSE, PATIENCE, quiet_panics, server, turn_until};
use ikisocket::testing::Harness;
use ikisocket::{Event, Server, Sockets, TimerId};

const SOON: Duration = Duration::from_millis(5);

/// What a timer does to leave a trace.
fn note(what: &'static str) -> impl Fn(&mut Diary, &mut Sockets<'_, Diary>) {
    move |diary, _| diary.note(what)
}

/// Turns until the diary has so many notes.
#[track_caller]
fn notes(server: &mut Server<Diary>, enough: usize) -> &[String] {
    turn_until(server, |server| server.state().notes.len() >= enough);
    &server.state().notes
}

#[test]
fn a_timer_is_called_once_with_the_state_and_the_sockets() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    server.set_timer(SOON, |diary, sockets| {
        diary.note(format!("{} here", sockets.len()));
        sockets.broadcast("time");
    });
    assert_eq!(ann.text(&mut server), "time");
    server.set_timer(2 * SOON, note("later"));
    assert_eq!(notes(&mut server, 2), ["1 here", "later"]);
    assert_eq!(ann.try_next(), None);
}

#[test]
fn a_timer_in_the_past_comes_in_the_next_turn_and_never_inside_the_call() {
    let mut server = server();
    server.set_timer(Duration::ZERO, |diary, sockets| {
        diary.note("first");
        sockets.set_timer(Duration::ZERO, note("second"));
    });
    assert_eq!(server.state().notes.len(), 0);
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().timers, 1);
    assert_eq!(server.state().notes, ["first"]);
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().timers, 1);
    assert_eq!(server.state().notes, ["first", "second"]);
    assert_eq!(server.next_timeout(), None);
}

#[test]
fn a_wait_without_end_ends_when_a_timer_is_due() {
    let mut server = server();
    let started = Instant::now();
    server.set_timer(4 * SOON, note("due"));
    assert!(server.next_timeout().is_some_and(|timeout| timeout <= 4 * SOON));
    while server.state().notes.is_empty() {
        server.poll(None).unwrap();
    }
    // The loop's clock has whole milliseconds.
    assert!(started.elapsed() >= 4 * SOON - Duration::from_millis(1));
}

#[test]
fn listeners_set_and_cancel_timers() {
    let mut server = server();
    server.on(Event::Message, |diary, ep| {
        let who = ep.socket_uuid;
        let mut sockets = ep.kws.sockets();
        let never = sockets.set_timer(SOON, note("cancelled"));
        sockets.set_timer(SOON, move |_, sockets| {
            sockets.emit_to(who, "a little later").unwrap();
        });
        diary.note(format!("{} {}", sockets.cancel(never), sockets.cancel(never)));
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("now");
    assert_eq!(ann.text(&mut server), "a little later");
    assert_eq!(server.state().notes, ["true false"]);
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
    turn_until(&mut server, |server| server.next_timeout().is_none());
    assert_eq!(server.state().0, 3);
    assert!(!server.cancel(id));
}

#[test]
fn an_interval_that_fell_behind_is_called_once_and_keeps_its_step() {
    let mut test = Harness::new(server());
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
    let mut test = Harness::new(server());
    test.server().set_timer(Duration::from_millis(30), note("timer"));
    test.server().set_interval(Duration::from_millis(20), note("interval"));
    test.server().set_timer(Duration::MAX, note("never"));
    // Of two that are due together, the one that was set first is first.
    test.server().set_timer(Duration::from_micros(59_001), note("rounded up"));
    for (millis, notes) in [(19, 0), (1, 1), (9, 1), (1, 2), (10, 3), (19, 3), (1, 5), (3600, 185)] {
        test.advance(Duration::from_millis(millis));
        assert_eq!(test.state().notes.len(), notes);
    }
    assert_eq!(test.state().notes[..5], ["interval", "timer", "interval", "interval", "rounded up"]);
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
    let mut test = Harness::new(server);
    test.skip(2 * SOON);
    assert_eq!(test.turn().timers, 1);
    assert_eq!(test.server().next_timeout(), None);
}

#[test]
fn a_panic_in_a_timer_is_told_to_the_recover_handler_and_the_interval_goes_on() {
    quiet_panics();
    let mut server = server();
    server.recover(|diary, panic| diary.note(format!("{} {} {:?}", panic.event, panic.message, panic.uuid)));
    server.set_interval(SOON, |_, _| panic!("{ON_PURPOSE}"));
    let told = format!("timer {ON_PURPOSE} None");
    assert_eq!(notes(&mut server, 2), [&*told, &told]);
    server.set_timer(SOON, note("unharmed"));
    turn_until(&mut server, |server| server.state().notes.contains(&"unharmed".to_owned()));
}

#[test]
fn timers_get_no_more_than_their_share_of_a_turn_and_none_is_lost() {
    let mut server = server();
    for _ in 0..3000 {
        server.set_timer(Duration::ZERO, note("one"));
    }
    let mut turns = 0;
    while server.next_timeout() == Some(Duration::ZERO) {
        assert!(server.poll(Some(PATIENCE)).unwrap().timers <= 1024);
        turns += 1;
    }
    assert_eq!((server.state().notes.len(), turns), (3000, 3));
}
