//! Deferred upgrades: a request waits for its answer, gets exactly one, and delays nobody else.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Client, ON_PURPOSE, PATIENCE, Raw, TEXT, frame, quiet_panics, turn_for, turn_until, upgrade_request};
use ikisocket::{AnswerError, Builder, Deferred, Event, Response, Server, Shutdown};

/// Where requests wait, and what was noted of them.
#[derive(Default)]
struct Desk {
    waiting: Vec<Deferred<Desk>>,
    notes: Vec<String>,
}

/// A server with a route and a page, whose filter puts every answer off.
fn desk(settings: Builder) -> Server<Desk> {
    let mut server = settings.build(Desk::default()).unwrap();
    server.listen("127.0.0.1:0").unwrap();
    server
        .route("/:name", |_, kws| {
            kws.emit(format!("hello {}", kws.string_attribute("user").unwrap_or("nobody")));
        })
        .unwrap();
    server.get("/:name", |_, _, incoming| Response::text(incoming.attributes.string("user").unwrap_or("?"))).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.filter(|desk, sockets, incoming| {
        incoming.attributes.set("user", incoming.param("name").unwrap_or_default().to_owned());
        desk.waiting.push(sockets.defer(incoming));
        Ok(())
    });
    server
}

/// Sends a request and turns until it waits.
#[track_caller]
fn ask(server: &mut Server<Desk>, request: &[u8]) -> (Raw, Deferred<Desk>) {
    let mut client = Raw::connect(server);
    client.send(request);
    let deferred = turn_for(server, |server| server.state_mut().waiting.pop());
    assert!(deferred.is_waiting());
    (client, deferred)
}

fn upgrade(path: &str) -> Vec<u8> {
    upgrade_request(path).into_bytes()
}

/// The status of the response, and all of it.
#[track_caller]
fn response(server: &mut Server<Desk>, mut client: Raw) -> (u16, String) {
    let text = String::from_utf8(client.read_to_end(server).unwrap()).unwrap();
    (text[9..12].parse().unwrap(), text)
}

/// What follows the head of a 101.
#[track_caller]
fn frames(server: &mut Server<Desk>, client: &mut Raw, len: usize) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.read(server, 1));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    String::from_utf8_lossy(&client.read(server, len)).into_owned()
}

#[test]
fn a_request_that_another_thread_accepts_opens_with_the_attributes_of_both() {
    let (jobs, work) = mpsc::channel::<(String, Deferred<()>)>();
    let worker = thread::spawn(move || {
        for (name, deferred) in work {
            deferred.accept(move |attributes| attributes.set("rights", format!("those of {name}"))).unwrap();
        }
    });
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    server.filter(move |(), sockets, incoming| {
        let name = incoming.param("name").unwrap_or_default().to_owned();
        incoming.attributes.set("user", name.clone());
        let _ = jobs.send((name, sockets.defer(incoming)));
        Ok(())
    });
    server
        .route("/:name", |(), kws| {
            let attribute = |key| kws.string_attribute(key).unwrap_or_default();
            let hello = format!("{}: {}", attribute("user"), attribute("rights"));
            kws.emit(hello);
        })
        .unwrap();
    for name in ["ann", "bob"] {
        let mut client = Client::connect(&mut server, &format!("/{name}"));
        assert_eq!(client.text(&mut server), format!("{name}: those of {name}"));
    }
    drop(server);
    worker.join().unwrap();
}

#[test]
fn a_request_that_is_rejected_gets_that_response() {
    let mut server = desk(Server::builder());
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    deferred.reject(Response::text("no").with_status(401)).unwrap();
    let (status, text) = response(&mut server, client);
    assert_eq!((status, text.ends_with("\r\n\r\nno")), (401, true), "{text}");
}

#[test]
fn nobody_else_waits_with_it() {
    let mut server = desk(Server::builder());
    let (_parked, _deferred) = ask(&mut server, &upgrade("/ann"));
    assert_eq!(server.next_timeout().map(|timeout| timeout > Duration::from_secs(1)), Some(true));
    let (mut bob, deferred) = ask(&mut server, &upgrade("/bob"));
    deferred.accept(|_| {}).unwrap();
    assert_eq!(frames(&mut server, &mut bob, 11), "\u{FFFD}\thello bob");
}

#[test]
fn an_answer_that_is_dropped_is_a_503() {
    quiet_panics();
    let mut server = desk(Server::builder());
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    drop(deferred);
    let (status, text) = response(&mut server, client);
    assert_eq!((status, text.contains("\r\nRetry-After: 5\r\n")), (503, true), "{text}");
    // So is that of a thread that panicked.
    let (client, deferred) = ask(&mut server, &upgrade("/bob"));
    thread::spawn(move || {
        let _deferred = deferred;
        panic!("{ON_PURPOSE}");
    });
    assert_eq!(response(&mut server, client).0, 503);
}

#[test]
fn an_answer_that_takes_too_long_is_a_503_and_then_is_late() {
    let mut server = desk(Server::builder().handshake_timeout(Duration::from_millis(20)));
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    assert_eq!(response(&mut server, client).0, 503);
    assert!(!deferred.is_waiting());
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn a_peer_that_goes_away_meanwhile_is_told_to_whoever_answers() {
    let mut server = desk(Server::builder());
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    drop(client);
    turn_until(&mut server, |_| !deferred.is_waiting());
    assert_eq!(deferred.reject(Response::text("")), Err(AnswerError::Late));
    // Whichever of the two the loop sees first, the connection ends.
    let (client, deferred) = ask(&mut server, &upgrade("/bob"));
    deferred.accept(|_| {}).unwrap();
    drop(client);
    while server.poll(Some(PATIENCE)).unwrap().closed == 0 {}
    assert_eq!(server.lend().1.len(), 0);
}

#[test]
fn what_was_sent_before_the_answer_is_handled_after_the_upgrade_in_order() {
    let mut server = desk(Server::builder());
    let mut request = upgrade("/ann");
    request.extend(frame(TEXT, b"one"));
    let (mut ann, deferred) = ask(&mut server, &request);
    ann.send(&frame(TEXT, b"two")[..4]);
    server.poll(Some(PATIENCE)).unwrap();
    deferred.accept(|_| {}).unwrap();
    ann.send(&frame(TEXT, b"two")[4..]);
    assert_eq!(frames(&mut server, &mut ann, 21), "\u{FFFD}\thello ann\u{FFFD}\u{3}one\u{FFFD}\u{3}two");
}

#[test]
fn whoever_sends_too_much_before_the_answer_gets_400() {
    let mut server = desk(Server::builder().max_head(1024));
    let (mut client, deferred) = ask(&mut server, &upgrade("/ann"));
    for _ in 0..2 {
        client.send(&[b'x'; 600]);
        server.poll(Some(PATIENCE)).unwrap();
    }
    assert_eq!(response(&mut server, client).0, 400);
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn the_filters_behind_it_are_asked_when_the_answer_has_come_and_those_before_only_once() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.listen("127.0.0.1:0").unwrap();
    server.route("/:name", |desk, _| desk.notes.push("route".to_owned())).unwrap();
    for (name, defers) in [("first", false), ("second", true), ("third", false), ("fourth", true), ("fifth", false)] {
        server.filter(move |desk, sockets, incoming| {
            desk.notes.push(name.to_owned());
            if defers {
                desk.waiting.push(sockets.defer(incoming));
            }
            Ok(())
        });
    }
    let (mut ann, deferred) = ask(&mut server, &upgrade("/ann"));
    assert_eq!(server.state().notes, ["first", "second"]);
    // The general answer may put it off again.
    let again = |desk: &mut Desk| desk.notes.push("again".to_owned());
    deferred
        .answer(move |desk, sockets, incoming| {
            again(desk);
            desk.waiting.push(sockets.defer(incoming));
            Ok(())
        })
        .unwrap();
    for notes in [3, 5] {
        let deferred = turn_for(&mut server, |server| server.state_mut().waiting.pop());
        assert_eq!(server.state().notes.len(), notes);
        deferred.accept(|_| {}).unwrap();
    }
    turn_until(&mut server, |server| server.state().notes.len() == 7);
    assert_eq!(server.state().notes, ["first", "second", "again", "third", "fourth", "fifth", "route"]);
    assert!(ann.read(&mut server, 12).starts_with(b"HTTP/1.1 101"));
}

#[test]
fn a_page_can_wait_for_its_answer_too() {
    let mut server = desk(Server::builder());
    let (client, deferred) = ask(&mut server, b"GET /ann HTTP/1.1\r\nHost: a\r\n\r\n");
    deferred.accept(|attributes| attributes.set("user", "somebody")).unwrap();
    let (status, text) = response(&mut server, client);
    assert_eq!((status, text.ends_with("somebody")), (200, true), "{text}");
}

#[test]
fn the_loop_itself_can_answer_too() {
    let mut server = desk(Server::builder());
    let (mut ann, deferred) = ask(&mut server, &upgrade("/ann"));
    server.state_mut().waiting.push(deferred);
    server.set_timer(Duration::from_millis(1), |desk, _| {
        desk.waiting.pop().unwrap().accept(|_| {}).unwrap();
    });
    assert_eq!(frames(&mut server, &mut ann, 11), "\u{FFFD}\thello ann");
}

#[test]
fn a_filter_that_refuses_after_all_has_the_last_word() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.listen("127.0.0.1:0").unwrap();
    server.route("/", |_, _| {}).unwrap();
    server.filter(|desk, sockets, incoming| {
        desk.waiting.push(sockets.defer(incoming));
        Err(Response::text("no").with_status(403))
    });
    assert_eq!(Client::refused(&mut server, "/"), 403);
    let deferred = server.state_mut().waiting.pop().unwrap();
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn a_panic_in_an_answer_is_a_500() {
    quiet_panics();
    let mut server = desk(Server::builder());
    server.recover(|desk, panic| desk.notes.push(panic.event.clone()));
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    deferred.answer(|_, _, _| panic!("{ON_PURPOSE}")).unwrap();
    assert_eq!(response(&mut server, client).0, 500);
    assert_eq!(server.state().notes, ["filter"]);
}

#[test]
fn whoever_finds_the_server_full_when_the_answer_comes_gets_503() {
    let mut server = desk(Server::builder().max_connections(1));
    let (mut ann, for_ann) = ask(&mut server, &upgrade("/ann"));
    let (bob, for_bob) = ask(&mut server, &upgrade("/bob"));
    for_ann.accept(|_| {}).unwrap();
    for_bob.accept(|_| {}).unwrap();
    assert_eq!(frames(&mut server, &mut ann, 11), "\u{FFFD}\thello ann");
    assert_eq!(response(&mut server, bob).0, 503);
}

#[test]
fn a_full_queue_of_commands_delays_no_answer() {
    let mut server = desk(Server::builder().handle_queue(1));
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    server.handle().broadcast("the only one").unwrap();
    assert!(server.handle().broadcast("one too many").is_err());
    deferred.reject(Response::text("").with_status(401)).unwrap();
    assert_eq!(response(&mut server, client).0, 401);
}

#[test]
fn a_shutdown_answers_whoever_waits() {
    let mut server = desk(Server::builder());
    let (client, deferred) = ask(&mut server, &upgrade("/ann"));
    server.lend().1.shutdown(Shutdown::default()).unwrap();
    assert_eq!(response(&mut server, client).0, 503);
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn an_answer_to_a_server_that_is_gone_is_an_error() {
    let mut server = desk(Server::builder());
    let (_ann, for_ann) = ask(&mut server, &upgrade("/ann"));
    drop(server);
    assert_eq!(for_ann.accept(|_| {}), Err(AnswerError::Gone));
}
