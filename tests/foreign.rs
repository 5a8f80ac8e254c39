//! The loop inside another one: its descriptor, how long its turns are, and that nothing is
//! forgotten between them.
//!
//! The tests of the descriptor need sockets. The tests of how much work a turn does use a harness
//! that is turned by hand.
#![cfg(unix)]

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Client, PATIENCE, Raw, TEXT, connect, enter, frame, memory_server_with, server, server_with,
    turn_until,
};
use ikisocket::mio::unix::SourceFd;
use ikisocket::mio::{Events, Interest, Poll, Token};
use ikisocket::{Builder, Event, Server, Shutdown};

/// Another loop, which watches one server's descriptor.
struct Host {
    poll: Poll,
    events: Events,
}

impl Host {
    fn of<S>(server: &Server<S>) -> Self {
        let poll = Poll::new().unwrap();
        poll.registry()
            .register(&mut SourceFd(&server.as_raw_fd()), Token(0), Interest::READABLE)
            .unwrap();
        Self { poll, events: Events::with_capacity(8) }
    }

    /// Whether the server's descriptor became readable within `timeout`.
    fn wait(&mut self, timeout: Option<Duration>) -> bool {
        loop {
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    result.unwrap();
                    return !self.events.is_empty();
                }
            }
        }
    }

    /// Waits as the server says and turns it once, which must not wait.
    fn turn<S>(&mut self, server: &mut Server<S>) {
        self.wait(Some(server.next_timeout().unwrap_or(PATIENCE).min(PATIENCE)));
        server.poll(Some(Duration::ZERO)).unwrap();
    }
}

/// A route that echoes.
fn echo(settings: Builder) -> Server<u64> {
    let mut server = settings.build(0).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |count, ep| {
        *count += 1;
        ep.kws.emit(ep.data);
    });
    server
}

#[test]
fn its_descriptor_is_readable_only_when_there_is_something_to_do() {
    let mut server = echo(Server::builder());
    common::listen(&mut server);
    assert_eq!(server.as_fd().as_raw_fd(), server.as_raw_fd());
    let mut host = Host::of(&server);
    assert!(!host.wait(Some(Duration::ZERO)));
    let mut client = Client::connect(&mut server, "/ws");
    while host.wait(Some(Duration::ZERO)) {
        server.poll(Some(Duration::ZERO)).unwrap();
    }
    client.send("hello");
    assert!(host.wait(Some(PATIENCE)));
    assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().messages, 1);
    assert_eq!(client.try_next().unwrap().into_text().unwrap().as_str(), "hello");
    assert!(!host.wait(Some(Duration::ZERO)));
    // Commands of other threads make it readable, too.
    server.handle().send(|count, _| *count = 100).unwrap();
    assert!(host.wait(Some(PATIENCE)));
    server.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(*server.state(), 100);
}

#[test]
fn an_edge_triggered_loop_with_the_smallest_budget_forgets_nothing() {
    const MESSAGES: u64 = 2000;
    let mut server = echo(Server::builder().work_per_turn(1).receive_buffer(1024));
    server.listen("127.0.0.1:0").unwrap();
    let mut host = Host::of(&server);
    let address = server.local_addr().unwrap();
    let handle = server.handle();
    let clients = [1, 2, 3, 4].map(|number: u64| {
        thread::spawn(move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut ws, _) = tungstenite::client(format!("ws://{address}/ws"), stream).unwrap();
            for message in 0..MESSAGES {
                ws.send(format!("{number} {message}").into()).unwrap();
            }
            for message in 0..MESSAGES {
                assert_eq!(
                    ws.read().unwrap().into_text().unwrap().as_str(),
                    format!("{number} {message}")
                );
            }
        })
    });
    let waiter = thread::spawn(move || {
        clients.into_iter().for_each(|client| client.join().unwrap());
        handle.shutdown(Shutdown::default().deadline(Duration::ZERO)).unwrap();
    });
    let started = Instant::now();
    while !server.is_finished() {
        assert!(started.elapsed() < 6 * PATIENCE, "{}", server.state());
        host.turn(&mut server);
    }
    waiter.join().unwrap();
    assert_eq!(*server.state(), 4 * MESSAGES);
}

#[test]
fn a_turn_handles_its_budget_and_one_read_and_the_next_goes_on() {
    const PEERS: usize = 10;
    const EACH: usize = 50;
    let mut test = common::harness_by_hand(echo(Server::builder().work_per_turn(EACH)));
    let peers = [(); PEERS].map(|()| test.connect("/ws").unwrap());
    for peer in peers {
        (0..EACH).for_each(|_| test.send(peer, "x"));
    }
    // Each turn has one read, for its budget is one peer's messages; and none waits, though no edge
    // is left.
    for _ in 0..PEERS {
        assert_eq!(test.turn().messages, EACH);
    }
    assert_eq!(test.turn().messages, 0);
    assert_ne!(test.server().next_timeout(), Some(Duration::ZERO));
}

#[test]
fn bytes_count_too() {
    let mut server = memory_server_with(Server::builder().work_per_turn(100));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness_by_hand(server);
    let peers = connect(&mut test, ["ann", "bob", "cid", "dan"]);
    let message = frame(TEXT, &[b'x'; 60_000]);
    // Half a message each: 59 KB, of which two are more than the budget.
    peers.into_iter().for_each(|peer| test.write(peer, &message[..59_000]));
    let before = test.server().stats().bytes_in;
    for turns in 1..=2 {
        test.turn();
        assert_eq!(test.server().stats().bytes_in - before, turns * 2 * 59_000);
        // Then all are read.
        assert_eq!(test.server().next_timeout() == Some(Duration::ZERO), turns == 1);
    }
    test.settle();
    peers.into_iter().for_each(|peer| test.write(peer, &message[59_000..]));
    test.settle();
    assert!(["ann", "bob", "cid", "dan"].iter().all(|name| test.state().has(name, "message")));
}

#[test]
fn deferred_connections_come_before_those_that_had_their_share() {
    let mut server = memory_server_with(Server::builder().work_per_turn(1).receive_buffer(1024));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness_by_hand(server);
    let [ann, bob, modest] = connect(&mut test, ["ann", "bob", "modest"]);
    for greedy in [ann, bob] {
        (0..100).for_each(|_| test.send(greedy, "x".repeat(500)));
    }
    test.send(modest, "me too");
    // Each turn has one read: Ann's, Ann's again because she came first, Bob's, and the modest
    // one's; then Ann and Bob take turns.
    (0..4).for_each(|_| _ = test.turn());
    assert!(test.state().has("modest", "message"));
    (0..40).for_each(|_| _ = test.turn());
    let messages = ["ann", "bob"].map(|name| test.state().all(name, "message").len());
    assert!(messages[0].abs_diff(messages[1]) < 5, "{messages:?}");
    test.settle();
    assert!(["ann", "bob"].iter().all(|name| test.state().all(name, "message").len() == 100));
}

#[test]
fn timers_commands_and_newcomers_have_their_share_of_a_small_budget() {
    if common::only_plain("a client turns the loop for its handshake, which is then not small") {
        return;
    }
    let mut server = server_with(Server::builder().work_per_turn(2));
    server.route("/:name", enter).unwrap();
    let handle = server.handle();
    for number in 0..5 {
        handle.send(move |diary, _| diary.note(format!("command {number}"))).unwrap();
        server.set_timer(Duration::ZERO, move |diary, _| diary.note(format!("timer {number}")));
    }
    let _peers: Vec<_> = (0..5).map(|_| Raw::connect(&mut server)).collect();
    let turns: Vec<_> = (0..3).map(|_| server.poll(Some(PATIENCE)).unwrap()).collect();
    let counts: Vec<_> =
        turns.iter().map(|turn| [turn.accepted, turn.commands, turn.timers]).collect();
    assert_eq!(counts, [[2, 2, 2], [2, 2, 2], [1, 1, 1]]);
}

#[test]
fn a_loop_that_spins_serves_its_clients_and_ends_with_a_shutdown() {
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        ep.kws.sockets().shutdown(Shutdown::default()).unwrap();
    });
    let mut ann = Client::connect(&mut server, "/ann");
    ann.ws.get_ref().block(PATIENCE);
    let client = thread::spawn(move || {
        ann.send("stop");
        let goodbye = ann.ws.read().unwrap();
        let end = loop {
            if let Err(error) = ann.ws.read() {
                break error;
            }
        };
        (goodbye.is_close(), matches!(end, tungstenite::Error::ConnectionClosed))
    });
    assert_eq!(server.run_spinning().unwrap().remained, 0);
    drop(server);
    assert_eq!(client.join().unwrap(), (true, true));
}

/// An edge-triggered loop would not come back by itself for events that were not taken.
#[test]
fn a_turn_that_took_as_many_events_as_fit_is_followed_by_one_at_once() {
    if common::only_plain("with so small a budget a record counts as much as its message") {
        return;
    }
    let mut server = server_with(Server::builder().work_per_turn(4));
    server.route("/:name", enter).unwrap();
    let mut clients: Vec<_> =
        (0..4).map(|number| Client::connect(&mut server, &format!("/{number}"))).collect();
    turn_until(&mut server, |server| server.next_timeout() != Some(Duration::ZERO));
    clients.iter_mut().for_each(|client| client.send("x"));
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().messages, 4);
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
}
