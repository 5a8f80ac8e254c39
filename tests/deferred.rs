//! Deferred upgrades: a request waits for its answer, gets exactly one, and delays no other.
//!
//! Only one promise here depends on sockets: an answer from another thread wakes a loop that waits.
//! Its test, the first one, is over TCP.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{ON_PURPOSE, quiet_panics};
use ikisocket::testing::{Answer, Client, Faults, Harness};
use ikisocket::{AnswerError, Builder, Deferred, Event, Response, Server, Shutdown};

/// Where requests wait, and what was noted of them.
#[derive(Default)]
struct Desk {
    waiting: Vec<Deferred<Desk>>,
    notes: Vec<String>,
}

/// A server with a route and a page, whose filter defers every answer.
fn desk(settings: Builder) -> Harness<Desk> {
    let mut server = settings.build(Desk::default()).unwrap();
    server
        .route("/:name", |_, kws| {
            kws.emit(format!("hello {}", kws.string_attribute("user").unwrap_or("nobody")));
        })
        .unwrap();
    server
        .get("/:name", |_, _, incoming| {
            Response::text(incoming.attributes.string("user").unwrap_or("?"))
        })
        .unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.filter(|desk, sockets, incoming| {
        incoming.attributes.set("user", incoming.param("name").unwrap_or_default().to_owned());
        desk.waiting.push(sockets.defer(incoming));
        Ok(())
    });
    common::harness(server)
}

/// Asks for an upgrade that waits for its answer.
#[track_caller]
fn ask(test: &mut Harness<Desk>, path: &str) -> (Client, Deferred<Desk>) {
    let client = test.ask(path).unwrap();
    assert_eq!(test.answer(client), None);
    let deferred = test.state().waiting.pop().unwrap();
    assert!(deferred.is_waiting());
    (client, deferred)
}

#[track_caller]
fn status(test: &mut Harness<Desk>, client: Client) -> u16 {
    test.answer(client).unwrap().status
}

#[test]
fn a_request_that_a_thread_accepts_opens_with_the_attributes_of_both() {
    let (jobs, work) = mpsc::channel::<(String, Deferred<()>)>();
    let worker = thread::spawn(move || {
        for (name, deferred) in work {
            deferred
                .accept(move |attributes| attributes.set("rights", format!("those of {name}")))
                .unwrap();
        }
    });
    let mut server = Server::builder().build(()).unwrap();
    common::listen(&mut server);
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
        let mut client = common::Client::connect(&mut server, &format!("/{name}"));
        assert_eq!(client.text(&mut server), format!("{name}: those of {name}"));
    }
    drop(server);
    worker.join().unwrap();
}

#[test]
fn a_request_that_is_rejected_gets_that_response() {
    let mut test = desk(Server::builder());
    let (ann, deferred) = ask(&mut test, "/ann");
    deferred.reject(Response::text("no").with_status(401)).unwrap();
    let answer = test.answer(ann).unwrap();
    assert_eq!((answer.status, &*answer.text()), (401, "no"));
}

#[test]
fn no_other_request_waits_with_it() {
    let mut test = desk(Server::builder());
    let (_ann, _deferred) = ask(&mut test, "/ann");
    assert_eq!(
        test.server().next_timeout(),
        Some(Duration::from_secs(10)),
        "no more than its handshake's time limit"
    );
    let (bob, deferred) = ask(&mut test, "/bob");
    deferred.accept(|_| {}).unwrap();
    test.expect(bob, ["hello bob"]);
}

#[test]
fn an_answer_that_is_dropped_is_a_503() {
    quiet_panics();
    let mut test = desk(Server::builder());
    let (ann, deferred) = ask(&mut test, "/ann");
    drop(deferred);
    let answer = test.answer(ann).unwrap();
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")));
    // So is the answer of a thread that panicked.
    let (bob, deferred) = ask(&mut test, "/bob");
    let panicked = thread::spawn(move || {
        let _deferred = deferred;
        panic!("{ON_PURPOSE}");
    });
    assert!(panicked.join().is_err());
    assert_eq!(status(&mut test, bob), 503);
}

#[test]
fn an_answer_that_takes_too_long_is_a_503_and_then_is_late() {
    let limit = Duration::from_secs(3);
    let mut test = desk(Server::builder().handshake_timeout(limit));
    let (ann, deferred) = ask(&mut test, "/ann");
    test.advance(limit - Duration::from_millis(1));
    assert_eq!((test.answer(ann), deferred.is_waiting()), (None, true));
    test.advance(Duration::from_millis(1));
    assert_eq!((status(&mut test, ann), deferred.is_waiting()), (503, false));
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn an_answer_to_a_peer_that_left_meanwhile_is_an_error() {
    for leave in [Harness::finish, Harness::reset] {
        let mut test = desk(Server::builder());
        let (ann, deferred) = ask(&mut test, "/ann");
        leave(&mut test, ann);
        test.settle();
        assert!(!deferred.is_waiting());
        assert_eq!(deferred.reject(Response::text("")), Err(AnswerError::Late));
        // Its end and the answer come in one turn.
        let (bob, deferred) = ask(&mut test, "/bob");
        deferred.accept(|_| {}).unwrap();
        leave(&mut test, bob);
        assert_eq!((test.server().stats().closed, test.server().sockets().len()), (2, 0));
    }
}

#[test]
fn what_was_sent_before_the_answer_is_handled_after_the_upgrade_in_order() {
    let mut test = desk(Server::builder());
    let ann = test.ask("/ann").unwrap();
    test.send(ann, "one");
    test.settle();
    // Half a frame before the answer, half of it after; the masking key is zero.
    test.write(ann, b"\x81\x83\0\0");
    let deferred = test.state().waiting.pop().unwrap();
    deferred.accept(|_| {}).unwrap();
    test.write(ann, b"\0\0two");
    test.expect(ann, ["hello ann", "one", "two"]);
}

#[test]
fn a_client_that_sends_too_much_before_the_answer_gets_400() {
    let mut test = desk(Server::builder().max_head(1024));
    let (ann, deferred) = ask(&mut test, "/ann");
    test.write(ann, &[b'x'; 600]);
    assert_eq!(test.answer(ann), None);
    test.write(ann, &[b'x'; 600]);
    assert_eq!(status(&mut test, ann), 400);
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn later_filters_run_after_the_answer_and_earlier_ones_only_once() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.route("/:name", |desk, _| desk.notes.push("route".to_owned())).unwrap();
    for (name, defers) in
        [("first", false), ("second", true), ("third", false), ("fourth", true), ("fifth", false)]
    {
        server.filter(move |desk, sockets, incoming| {
            desk.notes.push(name.to_owned());
            if defers {
                desk.waiting.push(sockets.defer(incoming));
            }
            Ok(())
        });
    }
    let mut test = common::harness(server);
    let (ann, deferred) = ask(&mut test, "/ann");
    assert_eq!(test.state().notes, ["first", "second"]);
    // The general answer may defer it again.
    let again = |desk: &mut Desk| desk.notes.push("again".to_owned());
    deferred
        .answer(move |desk, sockets, incoming| {
            again(desk);
            desk.waiting.push(sockets.defer(incoming));
            Ok(())
        })
        .unwrap();
    for notes in [3, 5] {
        let deferred = test.state().waiting.pop().unwrap();
        assert_eq!(test.state().notes.len(), notes);
        deferred.accept(|_| {}).unwrap();
    }
    assert_eq!(
        test.state().notes,
        ["first", "second", "again", "third", "fourth", "fifth", "route"]
    );
    assert_eq!(status(&mut test, ann), 101);
}

#[test]
fn a_page_can_wait_for_its_answer_too() {
    let mut test = desk(Server::builder());
    let visitor = test.dial(Faults::none()).unwrap();
    test.write(visitor, b"GET /ann HTTP/1.1\r\nHost: a\r\n\r\n");
    let deferred = test.state().waiting.pop().unwrap();
    deferred.accept(|attributes| attributes.set("user", "somebody")).unwrap();
    let Answer { status, body, .. } = test.answer(visitor).unwrap();
    assert_eq!((status, &body[..]), (200, &b"somebody"[..]));
}

#[test]
fn the_loop_itself_can_answer_too() {
    let mut test = desk(Server::builder());
    let (ann, deferred) = ask(&mut test, "/ann");
    test.state().waiting.push(deferred);
    test.server().set_timer(Duration::from_secs(1), |desk, _| {
        desk.waiting.pop().unwrap().accept(|_| {}).unwrap();
    });
    test.advance(Duration::from_secs(1));
    test.expect(ann, ["hello ann"]);
}

#[test]
fn a_filter_that_refuses_after_all_has_the_last_word() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.route("/", |_, _| {}).unwrap();
    server.filter(|desk, sockets, incoming| {
        desk.waiting.push(sockets.defer(incoming));
        Err(Response::text("no").with_status(403))
    });
    let mut test = common::harness(server);
    assert_eq!(test.connect("/").unwrap_err().status(), Some(403));
    let deferred = test.state().waiting.pop().unwrap();
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn a_panic_in_an_answer_is_a_500() {
    quiet_panics();
    let mut test = desk(Server::builder());
    test.server().on_panic(|desk, panic| desk.notes.push(panic.event.clone()));
    let (ann, deferred) = ask(&mut test, "/ann");
    deferred.answer(|_, _, _| panic!("{ON_PURPOSE}")).unwrap();
    assert_eq!(status(&mut test, ann), 500);
    assert_eq!(test.state().notes, ["filter"]);
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn a_request_whose_answer_finds_the_server_full_gets_503() {
    let mut test = desk(Server::builder().max_connections(1));
    let (ann, for_ann) = ask(&mut test, "/ann");
    let (bob, for_bob) = ask(&mut test, "/bob");
    for_ann.accept(|_| {}).unwrap();
    for_bob.accept(|_| {}).unwrap();
    test.expect(ann, ["hello ann"]);
    assert_eq!(status(&mut test, bob), 503);
}

#[test]
fn a_full_queue_of_commands_delays_no_answer() {
    let mut test = desk(Server::builder().handle_queue(1));
    let (ann, deferred) = ask(&mut test, "/ann");
    let handle = test.server().handle();
    handle.broadcast("the only one").unwrap();
    assert!(handle.broadcast("one too many").is_err());
    deferred.reject(Response::text("").with_status(401)).unwrap();
    assert_eq!(status(&mut test, ann), 401);
}

#[test]
fn a_shutdown_answers_each_waiting_request() {
    let mut test = desk(Server::builder());
    let (ann, deferred) = ask(&mut test, "/ann");
    test.server().sockets().shutdown(Shutdown::default()).unwrap();
    assert_eq!(status(&mut test, ann), 503);
    assert!(test.server().is_finished());
    assert_eq!(deferred.accept(|_| {}), Err(AnswerError::Late));
}

#[test]
fn an_answer_to_a_server_that_is_gone_is_an_error() {
    let mut test = desk(Server::builder());
    let (_ann, for_ann) = ask(&mut test, "/ann");
    drop(test);
    assert_eq!(for_ann.accept(|_| {}), Err(AnswerError::Gone));
}

#[test]
fn an_answer_to_a_question_that_was_asked_anew_is_ignored() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.route("/:name", |_, _| {}).unwrap();
    server.filter(|desk, sockets, incoming| {
        // It is sent while its request waits, and arrives when another answer is awaited.
        sockets.defer(incoming).reject(Response::text("too early").with_status(418)).unwrap();
        desk.waiting.push(sockets.defer(incoming));
        Ok(())
    });
    let mut test = common::harness(server);
    let (ann, deferred) = ask(&mut test, "/ann");
    deferred.accept(|_| {}).unwrap();
    assert_eq!(status(&mut test, ann), 101);
}

#[test]
fn a_routes_own_filters_are_asked_after_the_servers_and_for_no_other_path() {
    let mut server = Server::builder().build(Desk::default()).unwrap();
    server.filter(|desk, _, incoming| {
        desk.notes.push(format!("server {}", incoming.path()));
        Ok(())
    });
    server
        .route("/own", |desk, _| desk.notes.push("open".to_owned()))
        .unwrap()
        .filter(|desk, sockets, incoming| {
            desk.notes.push("first".to_owned());
            desk.waiting.push(sockets.defer(incoming));
            Ok(())
        })
        .filter(|desk, _, incoming| {
            desk.notes.push("second".to_owned());
            let may = incoming.query("may").is_some();
            if may { Ok(()) } else { Err(Response::new(403)) }
        });
    server.route("/other", |_, _| {}).unwrap();
    server.get("/own", |_, _, _| "a page at the same path").unwrap();
    let mut test = common::harness(server);
    for (path, answer, last) in [("/own?may", 101, "open"), ("/own", 403, "second")] {
        let (client, deferred) = ask(&mut test, path);
        assert_eq!(test.state().notes, ["server /own", "first"]);
        deferred.accept(|_| {}).unwrap();
        assert_eq!(status(&mut test, client), answer);
        let notes = std::mem::take(&mut test.state().notes);
        assert_eq!(notes[2], "second", "after the one that deferred, and once");
        assert_eq!(notes.last().unwrap(), last);
        assert_eq!(notes.len(), 3 + usize::from(answer == 101));
    }
    test.connect("/other").unwrap();
    assert_eq!(test.get("/own").unwrap().text(), "a page at the same path");
    assert_eq!(test.state().notes, ["server /other", "server /own"]);
}

#[test]
fn a_page_whose_content_comes_later_is_answered_with_a_text() {
    let mut test = desk(Server::builder());
    let client = test.dial(Faults::none()).unwrap();
    test.write(client, b"GET /report HTTP/1.1\r\nHost: a\r\n\r\n");
    let deferred = test.state().waiting.pop().unwrap();
    deferred.respond("three rows").unwrap();
    let answer = Answer::parse(&test.read(client)).unwrap();
    assert_eq!((answer.status, answer.text()), (200, "three rows".to_owned()));
    assert_eq!(test.server().stats().pages, 1);
}
