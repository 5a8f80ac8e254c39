//! How a server ends: shutdown and its deadline, refusing upgrades, and being dropped.
//!
//! What a shutdown sends, and when it is finished, does not depend on sockets. So most of these
//! tests have none, and they set the time. Three promises have tests over TCP: no connection is
//! accepted any more, a loop that waits returns, and sockets are closed.

mod common;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{
    Client, PATIENCE, Raw, connect, enter, memory_server, memory_server_with, server, turn_until,
    with_socket,
};
use ikisocket::testing::{Faults, Harness, Received, Upgrade};
use ikisocket::{BindError, CloseCode, CloseError, Event, Response, Server, Shutdown};
use tungstenite::Message;

fn within(deadline: Duration) -> Shutdown {
    Shutdown::default().deadline(deadline)
}

fn is_refused_at(address: std::net::SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_shutdown_sends_1001_behind_all_emits_and_empties_the_server() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let mut clients: Vec<_> =
        (0..10).map(|i| Client::connect(&mut server, &format!("/{i}"))).collect();
    assert_eq!((server.is_finished(), server.finished()), (false, None));

    let mut sockets = server.sockets();
    sockets.broadcast("the last message");
    sockets.shutdown(Shutdown::default()).unwrap();
    assert!(sockets.is_empty() && sockets.is_refusing());
    assert_eq!(sockets.broadcast("too late"), 0);
    assert!(!server.is_finished(), "it is a request");

    for client in &mut clients {
        assert_eq!(client.text(&mut server), "the last message");
        assert_eq!(client.close_frame(&mut server), (1001, "Server shutdown".to_owned()));
    }
    assert!(is_refused_at(address));
    for client in clients {
        client.end(&mut server);
    }
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(server.finished().unwrap().remained, 0);
    for i in 0..10 {
        assert_eq!(server.state().events(&i.to_string()), ["connect", "close", "disconnect"]);
        let entry = server.state().only(&i.to_string(), "disconnect");
        assert_eq!((entry.error.clone(), entry.code, entry.clean), (None, Some(1001), true));
    }
}

#[test]
fn a_shutdown_has_the_code_and_the_reason_that_are_asked_for() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    let how = Shutdown::default().code(CloseCode::SERVICE_RESTART).reason("é".repeat(100));
    test.server().sockets().shutdown(how).unwrap();
    test.expect_goodbye(ann, 1012, &"é".repeat(61));
}

#[test]
fn a_shutdown_with_an_illegal_code_does_nothing() {
    let mut test = common::harness(memory_server());
    let [ann] = connect(&mut test, ["ann"]);
    let how = Shutdown::default().code(1006);
    assert_eq!(test.server().sockets().shutdown(how), Err(CloseError::IllegalCode(1006.into())));
    assert!(!test.server().sockets().is_refusing());
    connect(&mut test, ["bob"]);
    test.expect_nothing(ann);
    assert_eq!(test.server().sockets().len(), 2);
    assert_eq!(test.server().finished(), None);
}

#[test]
fn a_shutdown_of_an_empty_server_is_finished_after_one_turn() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    server.sockets().shutdown(Shutdown::default()).unwrap();
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
    let started = Instant::now();
    server.poll(Some(PATIENCE)).unwrap();
    assert!(started.elapsed() < PATIENCE, "there is nothing left to wait for");
    assert!(is_refused_at(address));
    assert_eq!(server.finished().unwrap().remained, 0);
    assert_eq!(server.run(), Ok(server.finished().unwrap()));
}

#[test]
fn the_deadline_resets_and_counts_peers_that_never_answer() {
    // The deadline comes before the close timeout.
    let (deadline, moment) = (Duration::from_secs(1), Duration::from_millis(1));
    let mut test = common::harness(memory_server());
    for path in ["/deaf1", "/deaf2"] {
        test.connect(Upgrade::to(path).unresponsive()).unwrap();
    }
    let [polite] = connect(&mut test, ["polite"]);
    test.server().sockets().shutdown(within(deadline)).unwrap();
    test.expect_goodbye(polite, 1001, "Server shutdown");
    test.advance(deadline - moment);
    assert!(!test.server().is_finished());
    test.advance(moment);
    assert_eq!(test.server().finished().unwrap().remained, 2);
    for name in ["deaf1", "deaf2"] {
        assert_eq!(test.state().events(name), ["connect", "close", "disconnect"]);
        assert!(!test.state().only(name, "disconnect").clean);
    }
    assert!(test.state().only("polite", "disconnect").clean);
}

#[test]
fn the_deadline_wakes_a_loop_that_waits_without_a_limit() {
    let mut server = server();
    let _deaf = Raw::upgrade(&mut server, "/deaf");
    server.sockets().shutdown(within(Duration::from_millis(50))).unwrap();
    assert_eq!(server.run().unwrap().remained, 1);
}

#[test]
fn with_no_time_at_all_each_peer_still_gets_the_close_frame() {
    let mut test = common::harness_by_hand(memory_server());
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    test.server().sockets().shutdown(within(Duration::ZERO)).unwrap();
    test.turn();
    assert_eq!(test.server().finished().unwrap().remained, 1);
    test.expect_goodbye(ann, 1001, "Server shutdown");
}

#[test]
fn a_second_shutdown_changes_nothing_about_the_deadline() {
    let deadline = Duration::from_secs(1);
    let mut test = common::harness(memory_server());
    let deaf = test.connect(Upgrade::to("/deaf").unresponsive()).unwrap();
    test.server().sockets().shutdown(within(deadline)).unwrap();
    let later = within(Duration::from_secs(3600)).code(CloseCode::SERVICE_RESTART);
    test.server().sockets().shutdown(later).unwrap();
    test.advance(deadline);
    assert!(test.server().is_finished());
    assert_eq!(test.state().events("deaf"), ["connect", "close", "disconnect"]);
    assert_eq!(test.received(deaf)[0], Received::close(1001, "Server shutdown"));
}

#[test]
fn run_returns_when_a_listener_asked_for_a_shutdown_and_all_are_gone() {
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit("good night");
        ep.kws.sockets().shutdown(Shutdown::default()).unwrap();
        assert!(!ep.kws.is_alive());
    });
    let mut ann = Client::connect(&mut server, "/ann");
    let bob = Client::connect(&mut server, "/bob");
    ann.send("stop");
    let leaving = [ann, bob].map(|client| {
        std::thread::spawn(move || {
            let Client { mut ws } = client;
            ws.get_ref().block(PATIENCE);
            let mut heard = Vec::new();
            loop {
                match ws.read() {
                    Ok(message) => heard.push(message),
                    Err(tungstenite::Error::ConnectionClosed) => return heard,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    assert_eq!(server.run().unwrap().remained, 0);
    let [ann, bob] = leaving.map(|client| client.join().unwrap());
    assert_eq!(ann[0], Message::text("good night"));
    assert!(matches!(ann[1..], [Message::Close(_)]), "{ann:?}");
    assert!(matches!(bob[..], [Message::Close(_)]), "{bob:?}");
}

#[test]
fn a_shutdown_in_a_route_callback_closes_the_newcomer_too() {
    let mut server = memory_server_with(Server::builder());
    server
        .route("/:name", |diary, kws| {
            enter(diary, kws);
            kws.sockets().shutdown(Shutdown::default()).unwrap();
        })
        .unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.expect_goodbye(ann, 1001, "Server shutdown");
    assert!(test.server().is_finished());
    assert_eq!(test.state().events("ann"), ["close", "disconnect"]);
}

#[test]
fn a_shutdown_waits_for_no_connection_before_its_upgrade() {
    let mut test = common::harness(memory_server());
    let visitor = test.dial(Faults::none()).unwrap();
    test.write(visitor, b"GET /visitor HTTP/1.1\r\n");
    test.settle();
    test.server().sockets().shutdown(within(Duration::from_secs(3600))).unwrap();
    assert_eq!(test.server().finished().unwrap().remained, 0);
    assert_eq!(test.state().entries, []);
}

#[test]
fn a_page_or_a_filter_that_asks_for_a_shutdown_is_answered_in_full() {
    let length = 8 * 1024 * 1024;
    let response = move || Response::text("x".repeat(length));
    for path in ["/page", "/filter"] {
        let mut server = memory_server();
        server
            .get("/page", move |_, sockets, _| {
                sockets.shutdown(Shutdown::default()).unwrap();
                response()
            })
            .unwrap();
        server.filter(move |_, sockets, incoming| {
            if incoming.path() != "/filter" {
                return Ok(());
            }
            sockets.shutdown(Shutdown::default()).unwrap();
            Err(response())
        });
        let mut test = common::harness(server);
        let ann = test.ask(path).unwrap();
        assert_eq!(test.answer(ann).unwrap().body.len(), length, "{path}");
        assert!(test.server().is_finished());
    }
}

#[test]
fn refused_upgrades_get_503_while_the_open_ones_and_the_pages_live_on() {
    let mut server = memory_server();
    server.get("/page", |_, _, _| Response::text("hello")).unwrap();
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.server().sockets().refuse_upgrades(true);
    assert!(test.server().sockets().is_refusing());
    assert_eq!(test.connect("/bob").unwrap_err().status(), Some(503));
    assert_eq!(test.get("/page").unwrap().status, 200);
    with_socket(test.server(), "ann", |kws| kws.emit("you stay"));
    test.expect(ann, ["you stay"]);

    test.server().sockets().refuse_upgrades(false);
    assert!(!test.server().sockets().is_refusing());
    connect(&mut test, ["bob"]);
    assert_eq!(test.server().sockets().len(), 2);
}

#[test]
fn dropping_the_server_closes_everything_at_once() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let visitor = Raw::connect(&mut server);
    while server.stats().accepted == 0 {
        server.poll(Some(PATIENCE)).unwrap();
    }
    let open = Raw::upgrade(&mut server, "/ann");
    drop(server);
    assert!(is_refused_at(address));
    for mut client in [visitor, open] {
        client.stream.block(PATIENCE);
        assert_eq!(client.stream.read(&mut [0; 100]).unwrap(), 0);
    }
}

#[test]
fn connections_that_the_close_timeout_resets_are_counted_too() {
    let timeout = Duration::from_secs(2);
    let mut server = memory_server_with(Server::builder().close_timeout(timeout));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness(server);
    test.connect(Upgrade::to("/silent").unresponsive()).unwrap();
    test.server().sockets().shutdown(within(2 * timeout)).unwrap();
    test.advance(timeout);
    assert_eq!(test.server().finished().unwrap().remained, 1);
}

#[test]
fn a_server_that_is_shut_down_listens_no_more() {
    let mut server = server();
    server.sockets().shutdown(Shutdown::default()).unwrap();
    assert_eq!(server.listen("127.0.0.1:0"), Err(BindError::ShutDown));
}

#[test]
fn a_shutdown_spreads_its_closes_evenly_and_serves_the_others_meanwhile() {
    let mut server = Server::builder().build(()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    let mut test = common::harness(server);
    let clients: Vec<_> = (0..10).map(|_| test.connect("/ws").unwrap()).collect();
    let spread = Duration::from_secs(10);
    let how = Shutdown::default().code(CloseCode::SERVICE_RESTART).spread(spread);
    test.server().sockets().shutdown(how).unwrap();
    test.settle();
    let mut open = clients;
    for left in (1..10).rev() {
        open.retain(|&client| !is_closed(&mut test, client, 1012));
        assert_eq!(
            (open.len(), test.server().sockets().len()),
            (left, left),
            "one a second, the first at once"
        );
        assert!(test.connect("/ws").is_err(), "no new connection comes in");
        test.send(open[0], "still there?");
        test.expect(open[0], ["still there?"]);
        test.advance(Duration::from_secs(1));
    }
    assert!(is_closed(&mut test, open[0], 1012) && test.server().is_finished());
}

/// Whether a client got a close frame with this code and FIN; otherwise it must have got nothing.
fn is_closed(test: &mut Harness<()>, client: ikisocket::testing::Client, code: u16) -> bool {
    match &test.received(client)[..] {
        [] => false,
        all => {
            assert_eq!(*all, [Received::close(code, "Server shutdown"), Received::Fin]);
            true
        }
    }
}

#[test]
fn a_second_shutdown_closes_the_remaining_connections_at_once() {
    let mut server = Server::builder().build(()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    let mut test = common::harness(server);
    let clients = [(); 3].map(|()| test.connect("/ws").unwrap());
    let how = Shutdown::default().spread(Duration::from_secs(3600));
    test.server().sockets().shutdown(how.clone()).unwrap();
    assert_eq!(test.server().sockets().len(), 2);
    assert!(clients.into_iter().any(|client| is_closed(&mut test, client, 1001)));
    // The remaining connections get the code and reason of the second call.
    test.server().sockets().shutdown(how.code(CloseCode::SERVICE_RESTART)).unwrap();
    test.settle();
    assert!(test.server().is_finished());
    assert_eq!(clients.into_iter().filter(|&client| is_closed(&mut test, client, 1012)).count(), 2);
}
