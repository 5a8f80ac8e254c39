//! A panic in user code costs the one connection that it happened on, and nothing else.

mod common;

use common::{Client, Diary, ON_PURPOSE, Raw, enter, quiet_panics, server_with, turn_until, with_socket};
use ikisocket::{Error, Event, EventPayload, Response, Server};

/// A server that notes what its recover handler is told.
fn server() -> Server<Diary> {
    quiet_panics();
    let mut server = server_with(Server::builder());
    server.recover(|diary, recovered| diary.note(format!("{} {}", recovered.event, recovered.message)));
    server
}

fn panic_on_purpose(_: &mut Diary, _: &mut EventPayload<'_, Diary>) {
    panic!("{ON_PURPOSE}");
}

fn panicked(event: &str) -> Error {
    Error::Panicked { event: event.to_owned(), message: ON_PURPOSE.to_owned() }
}

/// Bob, who was there all the time, is served as before.
#[track_caller]
fn assert_unharmed(server: &mut Server<Diary>, bob: &mut Client) {
    with_socket(server, "bob", |kws| kws.emit("the show goes on"));
    assert_eq!(bob.text(server), "the show goes on");
    assert_eq!(server.state().events("bob"), ["connect"]);
}

#[test]
fn a_panic_in_a_listener_is_told_the_others_run_and_the_connection_closes_with_1011() {
    let mut server = server();
    server.on(Event::Message, panic_on_purpose);
    server.on(Event::Message, |diary, _| diary.note("the next listener"));
    server.on(Event::Message, panic_on_purpose);
    server.route("/:name", enter).unwrap().on(Event::Message, |diary, _| diary.note("the route's listener"));
    let mut bob = Client::connect(&mut server, "/bob");
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
    ann.end(&mut server);
    let notes = ["message on purpose", "the next listener", "message on purpose", "the route's listener"];
    assert_eq!(server.state().notes, notes);
    assert_eq!(server.state().events("ann"), ["connect", "message", "error", "disconnect"]);
    assert_eq!(server.state().errors("ann"), [panicked("message")]);
    let entry = server.state().only("ann", "disconnect");
    assert_eq!((entry.error.clone(), entry.code, entry.clean), (Some(panicked("message")), Some(1011), false));
    assert_unharmed(&mut server, &mut bob);
}

#[test]
fn what_was_emitted_before_a_panic_arrives() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit("last words");
        panic!("{ON_PURPOSE}");
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    assert_eq!(ann.text(&mut server), "last words");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
}

#[test]
fn messages_behind_one_that_panicked_are_not_told() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, panic_on_purpose);
    let mut ann = Client::connect(&mut server, "/ann");
    for _ in 0..3 {
        ann.send("go");
    }
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_eq!(server.state().events("ann"), ["connect", "message", "error", "disconnect"]);
}

#[test]
fn a_panic_in_a_fired_listener_comes_back_to_who_fired() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on("mine", panic_on_purpose);
    server.on("mine", |diary, _| diary.note("the next listener"));
    server.on(Event::Message, |diary, ep| {
        assert_eq!(ep.kws.fire(diary, "mine", ""), 2);
        diary.note("back");
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
    assert_eq!(server.state().notes, ["mine on purpose", "the next listener", "back"]);
    assert_eq!(server.state().errors("ann"), [panicked("mine")]);
}

#[test]
fn a_panic_deep_inside_nested_fires_leaves_the_depth_as_it_was() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on("deep", |diary, ep| {
        let depth: u32 = String::from_utf8_lossy(&ep.data).parse().unwrap();
        match depth {
            60 => panic!("{ON_PURPOSE}"),
            _ => ep.kws.fire(diary, "deep", &*(depth + 1).to_string()),
        };
    });
    for who in ["ann", "bob", "cid"] {
        let _client = Client::connect(&mut server, &format!("/{who}"));
        let (diary, mut sockets) = server.lend();
        let id = diary.id(who);
        assert_eq!(sockets.get(id).unwrap().fire(diary, "deep", "1"), 1);
        turn_until(&mut server, |server| server.state().is_gone(who));
        assert_eq!(server.state().errors(who), [panicked("deep")], "not too deep");
    }
}

#[test]
fn a_panic_in_the_route_callback_closes_with_1011_and_there_is_no_connect() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.route("/bad/:name", |_, _| panic!("{ON_PURPOSE}")).unwrap();
    let mut bob = Client::connect(&mut server, "/bob");
    let mut ann = Client::connect(&mut server, "/bad/ann");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
    ann.end(&mut server);
    assert_eq!(server.state().notes, ["route on purpose"]);
    assert_eq!(server.state().events("ann"), ["error", "disconnect"]);
    assert_eq!(server.state().errors("ann"), [panicked("route")]);
    assert_eq!(server.lend().1.len(), 1, "no zombie");
    assert_unharmed(&mut server, &mut bob);
}

#[test]
fn a_panic_in_a_connect_listener_closes_with_1011() {
    let mut server = server();
    server.route("/:name", enter).unwrap().on(Event::Connect, panic_on_purpose);
    let mut ann = Client::connect(&mut server, "/ann");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
    ann.end(&mut server);
    assert_eq!(server.state().events("ann"), ["connect", "error", "disconnect"]);
}

#[test]
fn a_panic_in_a_filter_or_a_page_is_answered_with_500() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.get("/page", |_, _, _| panic!("{ON_PURPOSE}")).unwrap();
    server.get("/good", |_, _, _| Response::text("fine")).unwrap();
    server.filter(|_, _, incoming| {
        assert!(incoming.query("panic").is_none(), "{ON_PURPOSE}");
        Ok(())
    });
    let mut bob = Client::connect(&mut server, "/bob");
    assert_eq!(Client::refused(&mut server, "/ann?panic"), 500);
    let mut status_of = |path: &str| {
        let mut visitor = Raw::connect(&server);
        visitor.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        String::from_utf8(visitor.read_to_end(&mut server).unwrap()).unwrap()[..12].to_owned()
    };
    assert_eq!(status_of("/page"), "HTTP/1.1 500");
    assert_eq!(status_of("/good?panic"), "HTTP/1.1 500");
    assert_eq!(status_of("/good"), "HTTP/1.1 200");
    assert_eq!(server.state().notes, ["filter on purpose", "page on purpose", "filter on purpose"]);
    assert_eq!(server.state().events("ann"), [""; 0]);
    assert_unharmed(&mut server, &mut bob);
}

#[test]
fn a_panic_in_a_close_error_or_disconnect_listener_is_told_to_the_recover_handler_only() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    for event in [Event::Close, Event::Error, Event::Disconnect] {
        server.on(event, panic_on_purpose);
    }
    let mut bob = Client::connect(&mut server, "/bob");
    let mut ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| kws.fire(&mut Diary::default(), "error", ""));
    with_socket(&mut server, "ann", |kws| kws.emit("an error listener's panic closes nothing"));
    assert_eq!(ann.text(&mut server), "an error listener's panic closes nothing");
    with_socket(&mut server, "ann", |kws| kws.close());
    assert_eq!(ann.close_frame(&mut server).0, 1000);
    ann.end(&mut server);
    assert_eq!(server.state().events("ann"), ["connect", "error", "close", "disconnect"]);
    assert_eq!(server.state().notes, ["error on purpose", "close on purpose", "disconnect on purpose"]);
    assert!(server.state().only("ann", "disconnect").clean);
    assert_unharmed(&mut server, &mut bob);
}

#[test]
fn a_panic_in_the_recover_handler_is_caught_too() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, panic_on_purpose);
    server.recover(|diary, recovered| {
        diary.note(recovered.event.clone());
        panic!("{ON_PURPOSE}");
    });
    let mut bob = Client::connect(&mut server, "/bob");
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    assert_eq!(ann.close_frame(&mut server).0, 1011);
    ann.end(&mut server);
    assert_eq!(server.state().notes, ["message"]);
    assert_eq!(server.state().events("ann"), ["connect", "message", "error", "disconnect"]);
    assert_unharmed(&mut server, &mut bob);
}

#[test]
fn a_panic_without_a_recover_handler_and_without_a_message_is_caught_as_well() {
    let mut server = Server::builder().build(Vec::new()).unwrap();
    server.listen("127.0.0.1:0").unwrap();
    server.route("/", |_, _| {}).unwrap();
    server.on(Event::Message, |_, _| std::panic::resume_unwind(Box::new(7)));
    server.on(Event::Disconnect, |errors, ep| errors.extend(ep.error.cloned()));
    let mut client = Client::connect(&mut server, "/");
    client.send("go");
    turn_until(&mut server, |server| !server.state().is_empty());
    let [Error::Panicked { event, .. }] = &server.state()[..] else { panic!("{:?}", server.state()) };
    assert_eq!(event, "message");
}

#[test]
fn a_panic_after_a_close_changes_nothing_about_the_close() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.close();
        panic!("{ON_PURPOSE}");
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("go");
    assert_eq!(ann.close_frame(&mut server).0, 1000);
    ann.end(&mut server);
    assert_eq!(server.state().events("ann"), ["connect", "message", "close", "disconnect"]);
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn a_panic_after_a_close_in_the_route_callback_changes_nothing_about_the_close() {
    let mut server = server();
    server
        .route("/:name", |diary, kws| {
            enter(diary, kws);
            kws.close();
            panic!("{ON_PURPOSE}");
        })
        .unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    assert_eq!(ann.close_frame(&mut server).0, 1000);
    ann.end(&mut server);
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_eq!(server.state().events("ann"), ["close", "disconnect"]);
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_is_caught_as_well() {
    struct Spiteful;
    impl Drop for Spiteful {
        fn drop(&mut self) {
            std::panic::panic_any(ON_PURPOSE);
        }
    }
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, _| std::panic::panic_any(Spiteful));
    let mut ann = Client::connect(&mut server, "/ann");
    let mut bob = Client::connect(&mut server, "/bob");
    ann.send("go");
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert_unharmed(&mut server, &mut bob);
}
