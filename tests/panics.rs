//! A panic in user code costs the one connection that it happened on, and nothing else.

mod common;

use std::time::Duration;

use common::{
    Diary, ON_PURPOSE, connect, enter, memory_server_with, quiet_panics, upgrade_request,
    with_socket,
};
use ikisocket::mio::event::Source;
use ikisocket::mio::{Interest, Registry, Token, net::UdpSocket};
use ikisocket::testing::{Client, Harness, NotConnected, Received};
use ikisocket::{
    Attributes, Deferred, Error, Event, EventPayload, Incoming, Readiness, Response, Server,
    Sockets,
};

/// A server that notes what its panic handler is given.
fn server() -> Server<Diary> {
    quiet_panics();
    let mut server = memory_server_with(Server::builder());
    server.on_panic(|diary, caught| diary.note(format!("{} {}", caught.event, caught.message)));
    server
}

fn panic_on_purpose(_: &mut Diary, _: &mut EventPayload<'_, Diary>) {
    panic!("{ON_PURPOSE}");
}

fn panicked(event: &str) -> Error {
    Error::Panicked { event: event.to_owned(), message: ON_PURPOSE.to_owned() }
}

/// Where callbacks have panicked, in order.
fn panicked_in<S>(test: &mut Harness<S>) -> Vec<String> {
    test.panics().into_iter().map(|panic| panic.event).collect()
}

/// Asserts that Bob's connection, which was open all the time, is served as before.
#[track_caller]
fn assert_unharmed(test: &mut Harness<Diary>, bob: Client) {
    with_socket(test.server(), "bob", |kws| kws.emit("the show goes on"));
    test.expect(bob, ["the show goes on"]);
    assert_eq!(test.state().events("bob"), ["connect"]);
}

#[test]
fn a_panic_in_a_listener_closes_with_1011_and_the_other_listeners_run() {
    let mut server = server();
    server.on(Event::Message, panic_on_purpose);
    server.on(Event::Message, |diary, _| diary.note("the next listener"));
    server.on(Event::Message, panic_on_purpose);
    server
        .route("/:name", enter)
        .unwrap()
        .on(Event::Message, |diary, _| diary.note("the route's listener"));
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    test.expect_goodbye(ann, 1011, "internal error");
    let notes =
        ["message on purpose", "the next listener", "message on purpose", "the route's listener"];
    assert_eq!(test.state().notes, notes);
    assert_eq!(test.state().events("ann"), ["connect", "message", "error", "disconnect"]);
    assert_eq!(test.state().errors("ann"), [panicked("message")]);
    let entry = test.state().only("ann", "disconnect");
    assert_eq!(
        (entry.error.clone(), entry.code, entry.clean),
        (Some(panicked("message")), Some(1011), false)
    );
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["message"; 2]);
}

#[test]
fn what_was_emitted_before_a_panic_arrives() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit("last words");
        panic!("{ON_PURPOSE}");
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    test.expect(ann, ["last words".into(), Received::close(1011, "internal error"), Received::Fin]);
    assert_eq!(panicked_in(&mut test), ["message"]);
}

#[test]
fn messages_behind_one_that_panicked_do_not_fire() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, panic_on_purpose);
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    for _ in 0..3 {
        test.send(ann, "go");
    }
    assert_eq!(test.state().events("ann"), ["connect", "message", "error", "disconnect"]);
    assert_eq!(panicked_in(&mut test), ["message"]);
}

#[test]
fn fire_returns_though_a_listener_that_it_called_panicked() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on("mine", panic_on_purpose);
    server.on("mine", |diary, _| diary.note("the next listener"));
    server.on(Event::Message, |diary, ep| {
        assert_eq!(ep.kws.fire(diary, "mine", ""), 2);
        diary.note("back");
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    test.expect_goodbye(ann, 1011, "internal error");
    assert_eq!(test.state().notes, ["mine on purpose", "the next listener", "back"]);
    assert_eq!(test.state().errors("ann"), [panicked("mine")]);
    assert_eq!(panicked_in(&mut test), ["mine"]);
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
    let mut test = common::harness(server);
    for name in ["ann", "bob", "cid"] {
        test.connect(format!("/{name}")).unwrap();
        let (diary, mut sockets) = test.server().lend();
        let id = diary.id(name);
        assert_eq!(sockets.get(id).unwrap().fire(diary, "deep", "1"), 1);
        assert_eq!(test.state().errors(name), [panicked("deep")], "not too deep");
    }
    assert_eq!(panicked_in(&mut test), ["deep"; 3]);
}

#[test]
fn a_panic_in_the_route_callback_closes_with_1011_and_there_is_no_connect() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.route("/bad/:name", |_, _| panic!("{ON_PURPOSE}")).unwrap();
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    let ann = test.connect("/bad/ann").unwrap();
    test.expect_goodbye(ann, 1011, "internal error");
    assert_eq!(test.state().notes, ["route on purpose"]);
    assert_eq!(test.state().events("ann"), ["error", "disconnect"]);
    assert_eq!(test.state().errors("ann"), [panicked("route")]);
    assert_eq!(test.server().sockets().len(), 1, "no zombie");
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["route"]);
}

#[test]
fn a_panic_in_a_connect_listener_closes_with_1011() {
    let mut server = server();
    server.route("/:name", enter).unwrap().on(Event::Connect, panic_on_purpose);
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.expect_goodbye(ann, 1011, "internal error");
    assert_eq!(test.state().events("ann"), ["connect", "error", "disconnect"]);
    assert_eq!(panicked_in(&mut test), ["connect"]);
}

#[test]
fn a_panic_in_a_filter_or_a_page_is_answered_with_500() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.get("/page", |_, _, _| -> Response { panic!("{ON_PURPOSE}") }).unwrap();
    server.get("/good", |_, _, _| Response::text("fine")).unwrap();
    server.filter(|_, _, incoming| {
        assert!(incoming.query("panic").is_none(), "{ON_PURPOSE}");
        Ok(())
    });
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    assert_eq!(test.connect("/ann?panic").unwrap_err().status(), Some(500));
    for (path, status) in [("/page", 500), ("/good?panic", 500), ("/good", 200)] {
        assert_eq!(test.get(path).unwrap().status, status, "{path}");
    }
    assert_eq!(test.state().notes, ["filter on purpose", "page on purpose", "filter on purpose"]);
    assert_eq!(test.state().events("ann"), [""; 0]);
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["filter", "page", "filter"]);
}

#[test]
fn a_panic_in_a_final_event_reaches_the_panic_handler_only() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    for event in [Event::Close, Event::Error, Event::Disconnect] {
        server.on(event, panic_on_purpose);
    }
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    let ann = test.connect("/ann").unwrap();
    with_socket(test.server(), "ann", |kws| kws.fire(&mut Diary::default(), "error", ""));
    with_socket(test.server(), "ann", |kws| kws.emit("an error listener's panic closes nothing"));
    test.expect(ann, ["an error listener's panic closes nothing"]);
    with_socket(test.server(), "ann", |kws| kws.close());
    test.expect_goodbye(ann, 1000, "Connection closed");
    assert_eq!(test.state().events("ann"), ["connect", "error", "close", "disconnect"]);
    assert_eq!(
        test.state().notes,
        ["error on purpose", "close on purpose", "disconnect on purpose"]
    );
    assert!(test.state().only("ann", "disconnect").clean);
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["error", "close", "disconnect"]);
}

#[test]
fn a_panic_in_the_panic_handler_is_caught_too() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, panic_on_purpose);
    server.on_panic(|diary, caught| {
        diary.note(caught.event.clone());
        panic!("{ON_PURPOSE}");
    });
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    test.expect_goodbye(ann, 1011, "internal error");
    assert_eq!(test.state().notes, ["message"]);
    assert_eq!(test.state().events("ann"), ["connect", "message", "error", "disconnect"]);
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["message", "on_panic"]);
}

#[test]
fn a_panic_without_a_handler_and_without_a_message_is_caught_too() {
    let mut server = Server::builder().build(Vec::new()).unwrap();
    server.route("/", |_, _| {}).unwrap();
    server.on(Event::Message, |_, _| std::panic::resume_unwind(Box::new(7)));
    server.on(Event::Disconnect, |errors, ep| errors.extend(ep.error.cloned()));
    let mut test = common::harness(server);
    let client = test.connect("/").unwrap();
    test.send(client, "go");
    let [Error::Panicked { event, .. }] = &test.state()[..] else { panic!("{:?}", test.state()) };
    assert_eq!(event, "message");
    assert_eq!(panicked_in(&mut test), ["message"]);
}

#[test]
fn a_panic_after_a_close_changes_nothing_about_the_close() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.close();
        panic!("{ON_PURPOSE}");
    });
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.send(ann, "go");
    test.expect_goodbye(ann, 1000, "Connection closed");
    assert_eq!(test.state().events("ann"), ["connect", "message", "close", "disconnect"]);
    assert!(test.state().only("ann", "disconnect").clean);
    assert_eq!(panicked_in(&mut test), ["message"]);
}

#[test]
fn a_panic_after_a_close_in_the_route_callback_keeps_the_close() {
    let mut server = server();
    server
        .route("/:name", |diary, kws| {
            enter(diary, kws);
            kws.close();
            panic!("{ON_PURPOSE}");
        })
        .unwrap();
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    test.expect_goodbye(ann, 1000, "Connection closed");
    assert_eq!(test.state().events("ann"), ["close", "disconnect"]);
    assert!(test.state().only("ann", "disconnect").clean);
    assert_eq!(panicked_in(&mut test), ["route"]);
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_is_caught_as_well() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, _| std::panic::panic_any(Spiteful));
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    let bob = test.connect("/bob").unwrap();
    test.send(ann, "go");
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["message"]);
}

#[test]
fn a_panic_handler_whose_panic_panics_in_its_drop_is_harmless() {
    let mut server = memory_server_with(Server::builder());
    quiet_panics();
    server.on_panic(|_, _| std::panic::panic_any(Spiteful));
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, panic_on_purpose);
    let mut test = common::harness(server);
    let ann = test.connect("/ann").unwrap();
    let bob = test.connect("/bob").unwrap();
    test.send(ann, "go");
    assert_unharmed(&mut test, bob);
    assert_eq!(panicked_in(&mut test), ["message", "on_panic"]);
}

// Destructors.

/// Panics when it is dropped.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        std::panic::panic_any(ON_PURPOSE);
    }
}

impl Spiteful {
    /// Moves the value into the closure.
    fn keep(&self) {}
}

#[test]
fn a_panic_in_the_drop_of_an_interval_that_cancelled_itself_is_caught() {
    let mut server = server();
    let (spiteful, own) = (Spiteful, std::cell::Cell::new(None));
    let own = std::rc::Rc::new(own);
    let id = own.clone();
    let interval = server.set_interval(Duration::from_secs(1), move |diary, sockets| {
        spiteful.keep();
        diary.note("once");
        assert!(sockets.cancel(id.get().unwrap()));
    });
    own.set(Some(interval));
    let mut test = common::harness(server);
    test.advance(Duration::from_secs(5));
    assert_eq!(test.state().notes, ["once", "timer on purpose"]);
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn a_panic_in_the_drop_of_a_source_that_removed_itself_is_caught() {
    let mut server = server();
    let spiteful = Spiteful;
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let source = server
        .add_source(socket, Interest::READABLE, move |diary: &mut Diary, sockets, _, readiness| {
            spiteful.keep();
            diary.note("once");
            assert!(sockets.remove_source(readiness.id));
        })
        .unwrap();
    assert!(server.sockets().wake_source(source));
    let mut test = common::harness(server);
    assert_eq!(test.state().notes, ["once", "source on purpose"]);
    assert!(!test.server().remove_source(source), "it is gone");
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn a_panic_when_a_late_answer_is_dropped_is_caught() {
    #[derive(Default)]
    struct State {
        deferred: Option<Deferred<State>>,
        panics: Vec<String>,
    }
    quiet_panics();
    let mut server = Server::builder().build(State::default()).unwrap();
    server.on_panic(|state, caught| state.panics.push(caught.event.clone()));
    server.route("/", |_, _| {}).unwrap();
    server.filter(|state, sockets, incoming| {
        state.deferred = Some(sockets.defer(incoming));
        Ok(())
    });
    let mut test = common::harness_by_hand(server);
    let client = test.dial(Default::default()).unwrap();
    test.write(client, upgrade_request("/").as_bytes());
    test.settle();
    let deferred = test.state().deferred.take().unwrap();
    test.reset(client);
    let spiteful = Spiteful;
    deferred
        .answer(move |_, _, _| {
            spiteful.keep();
            Ok(())
        })
        .unwrap();
    test.settle();
    assert_eq!(test.state().panics, ["filter"]);
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn a_panic_in_the_destructor_of_an_attribute_is_caught() {
    let mut server = server();
    server.route("/:name", enter).unwrap();
    server.filter(|_, _, incoming| {
        incoming.attributes.set("dropped with the request or the connection", Spiteful);
        match incoming.path() {
            "/cid" => Err(Response::text("no").with_status(403)),
            _ => Ok(()),
        }
    });
    let mut test = common::harness(server);
    let clients = connect(&mut test, ["ann", "bob"]);
    let Err(NotConnected::Refused(answer)) = test.connect("/cid") else {
        panic!("cid is not let in")
    };
    assert_eq!(answer.status, 403);
    for client in clients {
        test.reset(client);
    }
    assert_eq!(test.server().stats().closed, 3);
    assert!(test.state().is_gone("ann") && test.state().is_gone("bob"));
}

/// Two values whose destructors panic.
fn two() -> [Spiteful; 2] {
    [Spiteful, Spiteful]
}

#[test]
fn two_attributes_whose_destructors_panic_are_counted_and_harmless() {
    fn set_two(attributes: &mut Attributes) {
        for (name, value) in ["one", "two"].into_iter().zip(two()) {
            attributes.set(name, value);
        }
    }
    #[derive(Default)]
    struct State {
        deferred: Option<Deferred<State>>,
    }
    quiet_panics();
    let mut server = Server::builder().build(State::default()).unwrap();
    server.route("/:name", |_, _| {}).unwrap();
    server.get("/page", |_, _, _| Response::text("fine")).unwrap();
    server.filter(|state, sockets, incoming| {
        set_two(&mut incoming.attributes);
        match incoming.path() {
            "/refused" => return Err(Response::text("no").with_status(403)),
            "/full" => sockets.refuse_upgrades(true),
            "/parked" => state.deferred = Some(sockets.defer(incoming)),
            _ => {}
        }
        Ok(())
    });
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    let panics = |test: &mut Harness<State>| test.server().stats().panics;

    let ann = test.connect("/ann").unwrap();
    test.reset(ann);
    test.settle();
    assert_eq!(panics(&mut test), 2, "a connection that ended");
    assert!(
        matches!(test.connect("/refused"), Err(NotConnected::Refused(answer)) if answer.status == 403)
    );
    assert_eq!(panics(&mut test), 4, "a request that a filter has refused");
    assert!(
        matches!(test.connect("/full"), Err(NotConnected::Refused(answer)) if answer.status == 503)
    );
    test.server().sockets().refuse_upgrades(false);
    assert_eq!(panics(&mut test), 6, "a request for which there is no room after all");
    assert_eq!(test.get("/page").unwrap().status, 200);
    assert_eq!(panics(&mut test), 8, "a page");
    for answered in [true, false] {
        let parked = test.ask("/parked").unwrap();
        test.settle();
        let deferred = test.state().deferred.take().unwrap();
        match answered {
            true => deferred.reject(Response::text("no").with_status(401)).unwrap(),
            false => test.reset(parked),
        }
        test.settle();
        test.reset(parked);
        test.settle();
    }
    assert_eq!(panics(&mut test), 12, "requests that waited");
    assert!(test.uuid(bob).is_some());
    // Bob's are dropped with the server.
    drop(test);
}

#[test]
fn listeners_that_are_removed_together_are_dropped_one_by_one() {
    let mut server = server();
    for spiteful in two() {
        server.on("mine", move |_, _| spiteful.keep());
    }
    let [one, other] = two();
    server
        .route("/:name", enter)
        .unwrap()
        .on("mine", move |_, _| one.keep())
        .on("mine", move |_, _| other.keep());
    assert_eq!((server.off("mine"), server.off("mine"), server.stats().panics), (4, 0, 4));
    let mut test = common::harness(server);
    let bob = test.connect("/bob").unwrap();
    assert_unharmed(&mut test, bob);
}

/// A source of the user's own whose end panics.
struct SpitefulSource(UdpSocket, Spiteful);

impl SpitefulSource {
    fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap(), Spiteful)
    }
}

impl Source for SpitefulSource {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        self.0.register(registry, token, interest)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        self.0.reregister(registry, token, interest)
    }

    fn deregister(&mut self, _: &Registry) -> std::io::Result<()> {
        panic!("{ON_PURPOSE}");
    }
}

#[test]
fn a_source_its_callback_and_its_deregistration_may_all_panic() {
    let mut server = server();
    let add = |server: &mut Server<Diary>, removes: bool| {
        let spiteful = Spiteful;
        let callback =
            move |_: &mut Diary, sockets: &mut Sockets<'_, Diary>, _: &mut _, ready: Readiness| {
                spiteful.keep();
                assert!(!removes || sockets.remove_source(ready.id));
            };
        server.add_source(SpitefulSource::new(), Interest::READABLE, callback).unwrap()
    };
    let source = add(&mut server, false);
    assert_eq!((server.remove_source(source), server.stats().panics), (true, 3));
    // In its own callback; the handler is called with the first.
    let source = add(&mut server, true);
    assert!(server.sockets().wake_source(source));
    let mut test = common::harness(server);
    assert_eq!(test.state().notes, ["source on purpose"]);
    assert_eq!(test.server().stats().panics, 6);
    assert_eq!(test.panics().len(), 1);
}

#[test]
fn a_timer_whose_destructor_panics_can_be_cancelled() {
    let mut server = server();
    let ids =
        two().map(|spiteful| server.set_timer(Duration::from_secs(1), move |_, _| spiteful.keep()));
    assert_eq!(ids.map(|id| server.cancel(id)), [true; 2]);
    assert_eq!(server.stats().panics, 2);
}

/// A server with two of each kind of value that it can own. All their destructors panic.
fn spiteful_server<S: 'static>(state: S) -> Server<S> {
    quiet_panics();
    let mut server = Server::builder().build(state).unwrap();
    let handle = server.handle();
    for (number, spiteful) in two().into_iter().enumerate() {
        let path = format!("/{number}");
        server.route(&path, |_, _| {}).unwrap().on("mine", move |_, _| spiteful.keep());
        let all: [Spiteful; 9] = std::array::from_fn(|_| Spiteful);
        let [route, own, page, listener, custom, filter, on_panic, timer, interval] = all;
        let [callback, command] = two();
        server.route(&format!("/route{path}"), move |_, _| route.keep()).unwrap().filter(
            move |_, _, _| {
                own.keep();
                Ok(())
            },
        );
        server
            .get(&format!("/page{path}"), move |_, _, _| {
                page.keep();
                Response::text("")
            })
            .unwrap();
        server.on(Event::Message, move |_, _| listener.keep());
        server.on("mine", move |_, _| custom.keep());
        server.filter(move |_, _, _| {
            filter.keep();
            Ok(())
        });
        server.on_panic(move |_, _| on_panic.keep());
        server.set_timer(Duration::from_secs(1), move |_, _| timer.keep());
        server.set_interval(Duration::from_secs(1), move |_, _| interval.keep());
        server
            .add_source(SpitefulSource::new(), Interest::READABLE, move |_, _, _, _| {
                callback.keep()
            })
            .unwrap();
        handle.send(move |_, _| command.keep()).unwrap();
    }
    assert_eq!(server.stats().panics, 1, "the panic handler that was replaced");
    server
}

#[test]
fn a_server_drops_though_destructors_of_its_contents_panic() {
    drop(spiteful_server(()));
    assert_eq!(spiteful_server(7).into_state(), 7);
    // A panic of the state's own destructor reaches the owner.
    let server = spiteful_server(Spiteful);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(server)));
    assert_eq!(*result.unwrap_err().downcast_ref::<&str>().unwrap(), ON_PURPOSE);
}

#[test]
fn answers_no_longer_needed_are_dropped_one_by_one_with_the_server() {
    #[derive(Default)]
    struct State {
        deferred: Vec<Deferred<State>>,
    }
    quiet_panics();
    let mut server = Server::builder().build(State::default()).unwrap();
    server.route("/", |_, _| {}).unwrap();
    server.filter(|state, sockets, incoming| {
        state.deferred.push(sockets.defer(incoming));
        Ok(())
    });
    let mut test = common::harness_by_hand(server);
    for _ in 0..2 {
        let client = test.dial(Default::default()).unwrap();
        test.write(client, upgrade_request("/").as_bytes());
    }
    test.settle();
    for (deferred, spiteful) in std::mem::take(&mut test.state().deferred).into_iter().zip(two()) {
        let keep = move |_: &mut State, _: &mut Sockets<'_, State>, _: &mut Incoming| {
            spiteful.keep();
            Ok(())
        };
        deferred.answer(keep).unwrap();
    }
}
