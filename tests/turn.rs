//! The loop: what a turn does and reports, when it blocks, where it listens, and what a server is
//! built from.
//!
//! Tests of when a poll waits, what it accepts, and which edges the system reports use sockets.
//! Tests of what a turn does with its input use a harness that is turned by hand.

mod common;

use std::collections::HashMap;
use std::error::Error as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{
    Client, PATIENCE, PING, PONG, Raw, TEXT, connect, enter, frame, memory_server,
    memory_server_with, server, server_with, turn_until, upgrade_request, with_socket,
};
use ikisocket::testing::{Harness, Received, Upgrade};
use ikisocket::{
    BindError, BuildError, Builder, Deferred, Event, Response, Server, Shutdown, Turn, Uuid,
};
use tungstenite::Message;

/// Turns until the sum of all turns is `enough`. Each turn may wait without a limit: a wait for an
/// event that never comes fails the test.
#[track_caller]
fn turns<S>(server: &mut Server<S>, enough: impl Fn(&Turn) -> bool) -> Turn {
    let started = Instant::now();
    let mut sum = Turn::default();
    while !enough(&sum) {
        let turn = server.poll(Some(PATIENCE)).unwrap();
        sum.accepted += turn.accepted;
        sum.opened += turn.opened;
        sum.pages += turn.pages;
        sum.messages += turn.messages;
        sum.closed += turn.closed;
        assert!(started.elapsed() < PATIENCE, "only {sum:?}");
    }
    sum
}

fn counts(turn: Turn) -> [usize; 5] {
    [turn.accepted, turn.opened, turn.pages, turn.messages, turn.closed]
}

#[test]
fn poll_returns_what_the_turn_did() {
    let mut server = server();
    server.get("/page", |_, _, _| Response::text("hello")).unwrap();
    let mut ann = Raw::connect(&mut server);
    // A client over TLS has turned the loop for its handshake.
    let accepted = usize::from(!common::over_tls());
    assert_eq!(
        counts(turns(&mut server, |turn| turn.accepted == accepted)),
        [accepted, 0, 0, 0, 0]
    );
    ann.send(upgrade_request("/ann").as_bytes());
    assert_eq!(counts(turns(&mut server, |turn| turn.opened == 1)), [0, 1, 0, 0, 0]);
    ann.send(&[frame(TEXT, b"text"), frame(PING, b""), frame(PONG, b"")].concat());
    assert_eq!(counts(turns(&mut server, |turn| turn.messages == 3)), [0, 0, 0, 3, 0]);
    Raw::connect(&mut server).send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(counts(turns(&mut server, |turn| turn.closed == 1)), [accepted, 0, 1, 0, 1]);
    drop(ann);
    assert_eq!(counts(turns(&mut server, |turn| turn.closed == 1)), [0, 0, 0, 0, 1]);
}

#[test]
fn poll_with_zero_never_blocks() {
    let mut server = server();
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(server.poll(Some(Duration::ZERO)), Ok(Turn::default()));
    }
    let _ann = Client::connect(&mut server, "/ann");
    for _ in 0..100 {
        assert_eq!(server.poll(Some(Duration::ZERO)), Ok(Turn::default()));
    }
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn poll_without_a_limit_ends_when_a_timer_is_due() {
    let mut server = server_with(Server::builder().ping_after(Duration::from_millis(20)));
    server.route("/:name", enter).unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    loop {
        server.poll(None).unwrap();
        if let Some(message) = ann.try_next() {
            assert_eq!(message, Message::Ping(b""[..].into()));
            break;
        }
    }
}

#[test]
fn flush_alone_writes_what_was_emitted() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    with_socket(&mut server, "ann", |kws| kws.emit("flushed"));
    assert_eq!(ann.try_next(), None);
    server.flush();
    assert_eq!(ann.try_next(), Some(Message::text("flushed")));
}

#[test]
fn what_is_emitted_between_turns_is_on_the_wire_before_the_next_wait() {
    let mut server = server();
    let ann = Client::connect(&mut server, "/ann");
    ann.ws.get_ref().block(PATIENCE);
    let answering = std::thread::spawn(move || {
        let mut ann = ann;
        let heard = ann.ws.read().unwrap();
        ann.ws.send(heard).unwrap();
        ann
    });
    server.sockets().broadcast("hello");
    // If the message were written after the wait, this would wait for an answer to it for ever.
    turns(&mut server, |turn| turn.messages == 1);
    assert_eq!(server.state().only("ann", "message").data, "hello");
    drop(answering.join().unwrap());
}

#[test]
fn replies_and_broadcasts_of_a_turn_are_written_in_that_turn() {
    let mut server = memory_server();
    server.on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    let mut test = common::harness_by_hand(server);
    let clients = connect(&mut test, ["ann", "bob"]);
    test.send(clients[0], "to all");
    assert_eq!(test.turn().messages, 1);
    for client in clients {
        test.expect(client, ["to all"]);
    }
}

#[test]
fn next_timeout_is_none_or_the_next_timer_or_zero_with_work_to_do() {
    let mut test = common::harness_by_hand(memory_server());
    assert_eq!(test.server().next_timeout(), None);
    connect(&mut test, ["ann"]);
    let soonest = |test: &mut Harness<_>| test.server().next_timeout().unwrap();
    // At the latest when the ping is due.
    let later = Duration::from_millis(1)..=Duration::from_secs(25);
    assert!(later.contains(&soonest(&mut test)));

    with_socket(test.server(), "ann", |kws| kws.emit("something to write"));
    assert_eq!(soonest(&mut test), Duration::ZERO);
    test.server().flush();
    assert!(later.contains(&soonest(&mut test)));

    with_socket(test.server(), "ann", |kws| kws.emit_to(Uuid::nil(), "").unwrap_err());
    assert_eq!(soonest(&mut test), Duration::ZERO, "something to tell");
    test.turn();
    assert!(test.state().has("ann", "error"));
    assert!(later.contains(&soonest(&mut test)));
}

#[test]
fn a_peer_that_sends_much_gets_its_share_of_a_turn_and_loses_nothing() {
    if common::only_plain("the share of a read of 1 KiB is tested, and TLS needs longer ones") {
        return;
    }
    const MESSAGES: usize = 60;
    let mut server =
        memory_server_with(Server::builder().receive_buffer(1024).work_per_turn(MESSAGES / 2));
    server.route("/:name", enter).unwrap();
    let mut test = common::harness_by_hand(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    (0..MESSAGES).for_each(|_| test.send(ann, "x".repeat(1000)));
    test.send(bob, "me too");
    let first = test.turn();
    assert!(first.messages < MESSAGES / 2, "{first:?}");
    assert!(test.state().has("bob", "message"), "he need not wait for her");
    assert_eq!(test.server().next_timeout(), Some(Duration::ZERO), "there is more to read");
    // No event announces the rest of the input: the server must remember it.
    test.settle();
    assert_eq!(test.state().all("ann", "message").len(), MESSAGES);
}

/// How many messages came by each path, and what became of connections of each.
#[derive(Default)]
struct Counts {
    messages: HashMap<String, usize>,
    ended: HashMap<String, usize>,
    /// Messages that came after their connection's end.
    late: usize,
}

/// A server with so much work in a turn that counts, closes `/closed` with 1008, and has those of
/// `/topics/:name` join a hundred.
fn counting(settings: Builder) -> Harness<Counts> {
    let mut server = settings.build(Counts::default()).unwrap();
    server.route("/:name", |_, _| {}).unwrap();
    server
        .route("/topics/:name", |_, kws| {
            let name = kws.param("name").unwrap().to_owned();
            (0..100).for_each(|topic| assert_eq!(kws.join(&format!("{name} {topic}")), Ok(true)));
        })
        .unwrap();
    server.on(Event::Message, |counts: &mut Counts, ep| {
        let name = ep.kws.param("name").unwrap().to_owned();
        counts.late += usize::from(counts.ended.contains_key(&name));
        *counts.messages.entry(name.clone()).or_default() += 1;
        if name.starts_with("closed") {
            ep.kws.close_with(1008, "that will do").unwrap();
        }
    });
    server.on(Event::Disconnect, |counts, ep| {
        let name = ep.kws.param("name").unwrap().to_owned();
        *counts.ended.entry(name).or_default() += 1;
    });
    common::harness_by_hand(server)
}

fn messages(test: &mut Harness<Counts>, name: &str) -> usize {
    test.state().messages.get(name).copied().unwrap_or(0)
}

fn has_more(test: &mut Harness<Counts>) -> bool {
    test.server().next_timeout() == Some(Duration::ZERO)
}

#[test]
fn a_quiet_connection_is_served_in_its_turn_beside_a_hundred_floods() {
    const FLOOD: usize = 1200;
    let mut test = counting(Server::builder());
    let flooders: Vec<_> =
        (0..100).map(|number| test.connect(format!("/flood{number}").as_str()).unwrap()).collect();
    // It is the last to become ready.
    let quiet = test.connect("/quiet").unwrap();
    for (round, kind) in [TEXT, PING, TEXT].into_iter().enumerate() {
        let flood = frame(kind, b"").repeat(FLOOD);
        flooders.iter().for_each(|&flooder| test.write(flooder, &flood));
        for question in 0..5 {
            test.send(quiet, "?");
            let turn = test.turn();
            assert_eq!(
                messages(&mut test, "quiet"),
                5 * round + question + 1,
                "in turn {question} of round {round}"
            );
            assert!(turn.messages <= 8192 + 256, "{turn:?}");
            assert!(has_more(&mut test));
        }
    }
    test.settle();
    assert!((0..100).all(|number| messages(&mut test, &format!("flood{number}")) == 2 * FLOOD));
}

#[test]
fn bursts_of_a_hundred_idle_connections_do_not_delay_a_quiet_one() {
    let mut test = counting(Server::builder());
    let bursting: Vec<_> =
        (0..100).map(|number| test.connect(format!("/burst{number}").as_str()).unwrap()).collect();
    let quiet = test.connect("/quiet").unwrap();
    for round in 1..4 {
        bursting.iter().for_each(|&peer| test.write(peer, &frame(TEXT, b"").repeat(500)));
        test.send(quiet, "?");
        test.turn();
        assert_eq!(messages(&mut test, "quiet"), round);
        test.settle();
        assert!(
            (0..100).all(|number| messages(&mut test, &format!("burst{number}")) == 500 * round)
        );
    }
}

#[test]
fn deferred_connections_and_ones_newly_ready_are_all_served() {
    const OTHERS: usize = 120;
    // A record costs something too.
    let budget = if common::over_tls() { 150 } else { 100 };
    let mut test = counting(Server::builder().work_per_turn(budget));
    let flooder = test.connect("/flood").unwrap();
    let others: Vec<_> = (0..OTHERS)
        .map(|number| test.connect(format!("/other{number}").as_str()).unwrap())
        .collect();
    test.write(flooder, &frame(TEXT, b"").repeat(20_000));
    test.turn();
    for _ in 0..3 {
        let before: Vec<_> =
            (0..OTHERS).map(|number| messages(&mut test, &format!("other{number}"))).collect();
        let flooded = messages(&mut test, "flood");
        for _ in 0..60 {
            others.iter().for_each(|&other| test.send(other, "!"));
            let turn = test.turn();
            assert!(turn.messages <= 2 * budget, "{turn:?}");
        }
        assert!(messages(&mut test, "flood") > flooded, "the flooder starves");
        for (number, before) in before.into_iter().enumerate() {
            assert!(messages(&mut test, &format!("other{number}")) > before, "{number} starves");
        }
    }
    // One that asks for an upgrade comes in, too.
    let newcomer = test.ask("/newcomer").unwrap();
    let mut turns = 0;
    while test.answer(newcomer).is_none() {
        others.iter().for_each(|&other| test.send(other, "!"));
        test.turn();
        turns += 1;
        assert!(turns < 60, "the newcomer starves");
    }
    test.settle();
    assert_eq!(messages(&mut test, "flood"), 20_000);
}

#[test]
fn a_connection_that_waits_has_its_turn_however_much_others_read_at_once() {
    for work in [2, 8, 64, 128] {
        let mut test = counting(Server::builder().work_per_turn(work));
        let [waiting, other] = connect(&mut test, ["waiting", "other"]);
        test.write(waiting, &frame(TEXT, b"").repeat(2000));
        test.turn();
        // With its message the other connection has used the whole budget of a turn.
        let whole = vec![b'x'; work * 1024];
        for round in 0..5 {
            let before = messages(&mut test, "waiting");
            // Over TLS the rest of a long message waits too, and then has a turn of its own.
            for _ in 0..2 {
                test.send(other, &whole);
                test.turn();
            }
            let after = messages(&mut test, "waiting");
            assert!(after > before, "it starves in round {round} with a budget of {work}");
        }
    }
}

#[test]
fn beside_floods_whose_input_is_kept_long_messages_have_their_share() {
    const TURNS: usize = 10;
    let mut test = counting(Server::builder().receive_buffer(64 * 1024));
    let flooders: Vec<_> =
        (0..20).map(|number| test.connect(format!("/flood{number}").as_str()).unwrap()).collect();
    let other = test.connect("/other").unwrap();
    let flood = frame(TEXT, b"").repeat(20_000);
    flooders.iter().for_each(|&flooder| test.write(flooder, &flood));
    test.write(other, &frame(TEXT, &vec![b'x'; 32 * 1024]).repeat(10 * TURNS));
    for _ in 0..TURNS {
        test.turn();
    }
    // It is read as much as a receive buffer holds, but the end of it may be half a message.
    let least = 2 * TURNS - 2;
    let came = messages(&mut test, "other");
    assert!(came >= least, "{came} messages of 32 KiB in {TURNS} turns");
}

#[test]
fn a_turn_over_its_budget_stops_within_a_read_and_the_next_continues() {
    for work in [1, 7, 100] {
        let mut test = counting(Server::builder().work_per_turn(work));
        let peer = test.connect("/peer").unwrap();
        test.write(peer, &frame(TEXT, b"").repeat(1000));
        let mut turns = 0;
        while messages(&mut test, "peer") < 1000 {
            let turn = test.turn();
            assert!((1..=work).contains(&turn.messages), "{turn:?} with a budget of {work}");
            turns += 1;
            assert_eq!(
                has_more(&mut test),
                messages(&mut test, "peer") < 1000 || turn.messages == work
            );
        }
        assert!(turns >= 1000 / work);
        // What was kept is handled before what comes behind it, and the end last.
        test.write(peer, &frame(TEXT, b"").repeat(500));
        test.turn();
        test.write(peer, &frame(TEXT, b"").repeat(500));
        test.finish(peer);
        test.settle();
        assert_eq!(
            (messages(&mut test, "peer"), test.state().late, test.state().ended["peer"]),
            (2000, 0, 1)
        );
    }
}

#[test]
fn input_that_was_kept_comes_before_input_that_is_read_later() {
    for work in [7, 100] {
        let mut server = memory_server_with(Server::builder().work_per_turn(work));
        server.route("/:name", enter).unwrap();
        let mut test = common::harness_by_hand(server);
        let [ann] = connect(&mut test, ["ann"]);
        let mut sent = Vec::new();
        for _ in 0..20 {
            for _ in 0..50 {
                sent.push(sent.len().to_string());
                test.send(ann, sent.last().unwrap().as_str());
            }
            // Each turn begins with the readiness of what was sent just now.
            test.turn();
        }
        test.settle();
        let came: Vec<&str> =
            test.state().all("ann", "message").iter().map(|entry| entry.data.as_str()).collect();
        assert_eq!(came, sent, "with a budget of {work}");
    }
}

#[test]
fn input_kept_of_an_ended_connection_never_reaches_the_next_in_its_slot() {
    let mut test = counting(Server::builder().work_per_turn(10));
    for round in 0..20 {
        let gone = test.connect(format!("/gone{round}").as_str()).unwrap();
        test.write(gone, &frame(TEXT, b"").repeat(100));
        test.turn();
        let uuid = test.uuid(gone).unwrap();
        test.server().sockets().get(uuid).unwrap().abort();
        test.turn();
        let heir = test.connect(format!("/heir{round}").as_str()).unwrap();
        test.send(heir, "mine");
        test.settle();
        assert_eq!(messages(&mut test, &format!("heir{round}")), 1);
        assert!(messages(&mut test, &format!("gone{round}")) <= 10);
        assert_eq!(test.state().late, 0);
    }
}

#[test]
fn no_turn_waits_while_ended_connections_are_to_be_removed() {
    let mut test = counting(Server::builder().work_per_turn(10));
    for number in 0..40 {
        test.connect(format!("/{number}").as_str()).unwrap();
    }
    test.settle();
    assert_ne!(test.server().next_timeout(), Some(Duration::ZERO));
    test.server().sockets().for_each(|kws| kws.abort());
    let (mut closed, mut turns) = (0, 0);
    while closed < 40 {
        assert_eq!(test.server().next_timeout(), Some(Duration::ZERO), "{closed} are removed");
        closed += test.turn().closed;
        turns += 1;
    }
    assert!(turns > 10, "{turns} turns");
}

#[test]
fn disconnects_are_spread_over_turns_and_each_fires_once_and_last() {
    const PEERS: usize = 60;
    let mut test = counting(Server::builder().work_per_turn(1000));
    let peers: Vec<_> = (0..PEERS)
        .map(|number| test.connect(format!("/topics/peer{number}").as_str()).unwrap())
        .collect();
    assert_eq!(test.server().stats().memberships, 100 * PEERS);
    for (number, &peer) in peers.iter().enumerate() {
        test.send(peer, "last words");
        match number % 3 {
            0 => test.finish(peer),
            1 => test.reset(peer),
            _ => test.close(peer, 1000, ""),
        }
    }
    let (mut left, mut turns) = (100 * PEERS, 0);
    while left > 0 {
        test.turn();
        let now = test.server().stats().memberships;
        assert!(
            left - now <= 1000 + 1000 / 8 + 100,
            "{} memberships ended in one turn",
            left - now
        );
        assert!(now == 0 || has_more(&mut test));
        left = now;
        turns += 1;
    }
    assert!(turns >= 6, "{turns}");
    test.settle();
    assert_eq!(test.state().late, 0);
    assert!((0..PEERS).all(|number| test.state().ended[&format!("peer{number}")] == 1));
    let heard =
        (0..PEERS).filter(|number| messages(&mut test, &format!("peer{number}")) == 1).count();
    assert_eq!(heard, PEERS, "all messages before the end fired");
}

#[test]
fn the_closes_of_a_shutdown_are_spread_over_turns_and_so_is_its_deadline() {
    const PEERS: usize = 60;
    for answers in [true, false] {
        let mut test = counting(Server::builder().work_per_turn(1000));
        let peers: Vec<_> = (0..PEERS)
            .map(|number| {
                let upgrade = Upgrade::to(format!("/topics/peer{number}"));
                test.connect(if answers { upgrade } else { upgrade.unresponsive() }).unwrap()
            })
            .collect();
        let shutdown = Shutdown::default().deadline(Duration::from_secs(1));
        test.server().sockets().shutdown(shutdown).unwrap();
        let mut left = test.server().stats().memberships;
        assert!((100 * PEERS - left) <= 1100, "{left} are left at once");
        while left > 0 {
            test.turn();
            let now = test.server().stats().memberships;
            assert!(
                left - now <= 1000 + 1000 / 8 + 100,
                "{} memberships ended in one turn",
                left - now
            );
            assert!(now < left);
            left = now;
        }
        test.advance(Duration::from_secs(1));
        test.settle();
        assert!((0..PEERS).all(|number| test.state().ended[&format!("peer{number}")] == 1));
        assert_eq!(test.server().finished().unwrap().remained, if answers { 0 } else { PEERS });
        for peer in peers {
            let received = test.received(peer);
            assert!(matches!(&received[..], [Received::Close { .. }, ..]), "{received:?}");
        }
    }
}

#[test]
fn the_end_of_many_whose_time_has_come_is_spread_over_turns() {
    const PEERS: usize = 60;
    let mut test = counting(Server::builder().work_per_turn(1000));
    for number in 0..PEERS {
        test.connect(Upgrade::to(format!("/topics/peer{number}")).unresponsive()).unwrap();
    }
    test.advance(Duration::from_secs(44));
    assert_eq!(test.server().stats().memberships, 100 * PEERS);
    test.skip(Duration::from_secs(2));
    let mut left = 100 * PEERS;
    while left > 0 {
        test.turn();
        let now = test.server().stats().memberships;
        assert!(
            left - now <= 1000 + 100 && now < left,
            "{} memberships ended in one turn",
            left - now
        );
        left = now;
    }
    test.settle();
    assert!((0..PEERS).all(|number| test.state().ended[&format!("peer{number}")] == 1));
}

#[test]
fn requests_that_are_completed_at_once_are_answered_over_turns() {
    let mut test = counting(Server::builder().work_per_turn(200));
    let clients: Vec<_> =
        (0..60).map(|number| test.ask(format!("/peer{number}").as_str()).unwrap()).collect();
    let (mut opened, mut turns) = (0, 0);
    while opened < 60 {
        let turn = test.turn();
        // Each counts sixteen messages, and its length.
        assert!((1..=200 / 16).contains(&turn.opened), "{turn:?}");
        opened += turn.opened;
        assert_eq!(has_more(&mut test), opened < 60);
        turns += 1;
    }
    assert!(turns >= 5);
    assert!(clients.into_iter().all(|client| test.answer(client).unwrap().status == 101));
}

#[test]
fn input_behind_our_close_frame_is_read_last_in_an_eighth_of_a_turn() {
    const WORK: usize = 512;
    const BUFFER: usize = 16 * 1024;
    let mut test = counting(Server::builder().work_per_turn(WORK).receive_buffer(BUFFER));
    let closed: Vec<_> = (0..5)
        .map(|number| test.connect(Upgrade::to(format!("/closed{number}")).unresponsive()).unwrap())
        .collect();
    let open = test.connect("/open").unwrap();
    closed.iter().for_each(|&peer| test.send(peer, "close me"));
    test.settle();
    closed.iter().for_each(|&peer| test.write(peer, &frame(TEXT, &[b'x'; 10_000]).repeat(30)));
    let bytes_in = |test: &mut Harness<Counts>| test.server().stats().bytes_in as usize;
    let mut before = bytes_in(&mut test);
    for question in 1..=10 {
        test.send(open, "?");
        test.turn();
        assert_eq!(messages(&mut test, "open"), question);
        let now = bytes_in(&mut test);
        assert!(
            (1..=WORK * 1024 / 8 + BUFFER).contains(&(now - before)),
            "{} bytes in a turn",
            now - before
        );
        before = now;
        assert!(has_more(&mut test));
    }
    // Each has its turn, and each close runs its course when the peer's close frame comes.
    closed.iter().for_each(|&peer| test.close(peer, 1000, ""));
    test.settle();
    assert!((0..5).all(|number| test.state().ended[&format!("closed{number}")] == 1));
    assert!((0..5).all(|number| messages(&mut test, &format!("closed{number}")) == 1));
}

#[test]
fn a_rush_of_newcomers_gets_no_more_than_its_share_of_each_turn() {
    let mut server = server();
    let address = server.local_addr().unwrap();
    let mut clients = Vec::new();
    let mut accepted = 0;
    while accepted < 300 {
        while clients.len() < accepted + 100 {
            clients.push(std::net::TcpStream::connect(address).unwrap());
        }
        let turn = server.poll(Some(PATIENCE)).unwrap();
        assert!(turn.accepted <= 64, "{turn:?}");
        accepted += turn.accepted;
    }
}

#[test]
fn readiness_of_an_ended_connection_does_not_harm_the_next_in_its_slot() {
    let mut server = server_with(Server::builder().receive_buffer(1024));
    server.route("/:name", enter).unwrap();
    for round in 0..30 {
        // It ends with input unread, while it is still on the list of connections with more input.
        let mut gone = Raw::upgrade(&mut server, &format!("/gone{round}"));
        gone.send(&frame(TEXT, &[b'x'; 1000]).repeat(20));
        server.poll(Some(Duration::ZERO)).unwrap();
        gone.stream.reset();
        let mut heir = Client::connect(&mut server, &format!("/heir{round}"));
        turn_until(&mut server, |server| server.state().is_gone(&format!("gone{round}")));
        let mut next = Client::connect(&mut server, &format!("/next{round}"));
        server.sockets().broadcast("you are yourself");
        for client in [&mut heir, &mut next] {
            assert_eq!(client.text(&mut server), "you are yourself");
        }
        for name in [format!("heir{round}"), format!("next{round}")] {
            assert_eq!(server.state().events(&name), ["connect"]);
            with_socket(&mut server, &name, |kws| kws.close());
        }
        heir.end(&mut server);
        next.end(&mut server);
    }
}

// Addresses.

#[test]
fn port_0_becomes_a_port_and_every_address_is_listened_on() {
    if common::only_plain("it is about addresses") {
        return;
    }
    let mut server = Server::builder().build(0).unwrap();
    server.route("/", |opened, _| *opened += 1).unwrap();
    assert_eq!((server.local_addr(), server.local_addrs()), (None, vec![]));
    let addresses: Vec<SocketAddr> =
        (0..3).map(|_| server.listen("127.0.0.1:0").unwrap()).collect();
    assert!(addresses.iter().all(|address| address.port() != 0));
    assert_eq!(server.local_addr(), Some(addresses[0]));
    assert_eq!(server.local_addrs(), addresses);
    for address in addresses {
        Client::request(&mut server, format!("ws://{address}/")).unwrap();
    }
    assert_eq!(*server.state(), 3);
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_address() {
    let first = Server::bind("127.0.0.1:0", ()).unwrap();
    let taken = first.local_addr().unwrap();
    let error = Server::bind(taken, ()).unwrap_err();
    let BindError::Listen { address, error: cause } = &error else { panic!("{error:?}") };
    assert_eq!((*address, cause.kind), (taken, ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(error.to_string().contains("another socket listens there"), "{error}");
    assert_eq!(format!("{error:?}"), error.to_string(), "`main` prints it with Debug");
    let cause = error.source().and_then(|cause| cause.source()).unwrap();
    assert_eq!(cause.downcast_ref::<std::io::Error>().unwrap().kind(), ErrorKind::AddrInUse);
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::AddrInUse);
}

#[test]
fn of_several_addresses_the_first_that_can_be_had_is_listened_on() {
    let first = Server::bind("127.0.0.1:0", ()).unwrap();
    let taken = first.local_addr().unwrap();
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let second = Server::bind(&[taken, free][..], ()).unwrap();
    assert_eq!(second.local_addrs().len(), 1);
    assert_ne!(second.local_addr(), Some(taken));
}

#[test]
fn a_name_that_is_no_address_is_an_error() {
    assert!(matches!(Server::bind("no port here", ()), Err(BindError::Resolve { .. })));
    assert!(matches!(Server::bind(&[][..] as &[SocketAddr], ()), Err(BindError::NoAddress)));
}

#[test]
fn several_servers_share_a_thread() {
    let mut servers = ["one", "two", "three"].map(|name| {
        let mut server = Server::builder().build(name).unwrap();
        common::listen(&mut server);
        server.route("/", |_, _| {}).unwrap();
        server.on(Event::Message, |name, ep| {
            ep.kws.emit(*name);
        });
        server
    });
    let mut clients: Vec<_> =
        servers.iter_mut().map(|server| Client::connect(server, "/")).collect();
    clients.iter_mut().for_each(|client| client.send("which are you?"));
    for (server, client) in servers.iter_mut().zip(&mut clients) {
        let name = *server.state();
        assert_eq!(client.text(server), name);
    }
}

// Settings, and the type itself.

#[test]
fn a_setting_out_of_range_is_an_error_that_names_it() {
    type Spoil = fn(Builder) -> Builder;
    let cases: [(&str, Spoil); 15] = [
        ("handshake_timeout", |builder| builder.handshake_timeout(Duration::ZERO)),
        ("ping_after", |builder| builder.ping_after(Duration::ZERO)),
        ("dead_after", |builder| builder.dead_after(Duration::ZERO)),
        ("close_timeout", |builder| builder.close_timeout(Duration::ZERO)),
        ("stall_timeout", |builder| builder.stall_timeout(Duration::ZERO)),
        ("max_message", |builder| builder.max_message(0)),
        ("max_outbox", |builder| builder.max_outbox(1023)),
        ("max_head", |builder| builder.max_head(255)),
        ("max_head", |builder| builder.max_head(65_536)),
        ("max_headers", |builder| builder.max_headers(0)),
        ("max_connections", |builder| builder.max_connections(0)),
        ("work_per_turn", |builder| builder.work_per_turn(0)),
        ("handle_queue", |builder| builder.handle_queue(0)),
        ("receive_buffer", |builder| builder.receive_buffer(1023)),
        ("subprotocols", |builder| builder.subprotocols(["fine", "not fine"])),
    ];
    for (name, spoil) in cases {
        let error = spoil(Server::builder()).build(()).unwrap_err();
        let BuildError::Setting { setting, .. } = error else { panic!("{name}: {error:?}") };
        assert_eq!(setting, name);
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn the_longest_timeouts_and_the_smallest_sizes_work() {
    let never = Duration::MAX;
    let settings = Server::builder()
        .handshake_timeout(never)
        .ping_after(never)
        .dead_after(never)
        .close_timeout(never)
        .stall_timeout(never)
        .max_message(1)
        .max_outbox(1024)
        .max_head(256)
        .receive_buffer(1024)
        .max_connections(1);
    let mut server = memory_server_with(settings);
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
        ep.kws.close();
    });
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    assert_eq!(test.server().next_timeout(), None);
    assert_eq!(test.connect("/bob").unwrap_err().status(), Some(503));
    test.send(ann, "x");
    test.expect(
        ann,
        [Received::text("x"), Received::close(1000, "Connection closed"), Received::Fin],
    );
    assert!(test.state().is_gone("ann"));
}

#[test]
fn the_state_belongs_to_its_owner_between_turns() {
    let mut server = Server::bind("127.0.0.1:0", vec![1]).unwrap();
    server.state_mut().push(2);
    server.lend().0.push(3);
    assert_eq!(server.state(), &[1, 2, 3]);
    assert_eq!(server.into_state(), [1, 2, 3]);
}

/// A server stays on its thread, even if its state could move. Were `Server` to become `Send`, both
/// implementations would fit the call below, and this file would not compile.
#[test]
fn a_server_is_not_send() {
    trait NotSend<Why> {
        fn holds() {}
    }
    struct BecauseItIs;
    impl<T> NotSend<()> for T {}
    impl<T: Send> NotSend<BecauseItIs> for T {}
    <Server<()> as NotSend<_>>::holds();
}

#[test]
fn answers_to_deferred_requests_that_come_at_once_are_given_over_turns() {
    struct Desk(Vec<Deferred<Desk>>);
    const REQUESTS: usize = 200;
    let mut server = Server::builder().build(Desk(Vec::new())).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.filter(|desk, sockets, incoming| {
        desk.0.push(sockets.defer(incoming));
        Ok(())
    });
    let mut test = common::harness_by_hand(server);
    for _ in 0..REQUESTS {
        test.ask("/ws").unwrap();
    }
    test.settle();
    for deferred in std::mem::take(&mut test.state().0) {
        deferred.accept(|_| {}).unwrap();
    }
    // An event of the poll says that something was sent; in a harness the turns are made by hand.
    let opened: Vec<_> = (0..20).map(|_| test.turn().opened).filter(|&opened| opened > 0).collect();
    assert_eq!(opened.iter().sum::<usize>(), REQUESTS);
    assert!(opened.len() > 1 && opened.iter().all(|&opened| opened < 100), "{opened:?}");
}
