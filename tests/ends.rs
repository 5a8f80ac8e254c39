//! The rules of ends: a peer that reads at a fair rate gets everything, and no connection stays.
//!
//! What the kernel has taken is not what the peer has read. So a slow reader is alive while its
//! socket takes bytes, a connection that ends has the time that its bytes need at the closing rate,
//! and at the end of that time it is reset, whatever the peer does. The tests set the time.

mod common;

use std::time::Duration;

use common::{Diary, enter, frame, memory_server_with, with_socket};
use ikisocket::testing::{Client, Faults, Harness, Received, Upgrade};
use ikisocket::{Builder, Error, Response, Server, Shutdown, SlowReader};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
/// The time that the defaults allow a full outbox of 1 MiB: 5 s, the time of 1 MiB and the kernel's
/// 256 KiB at 32 KiB a second, and 5 s for the peer's FIN.
const FULL_OUTBOX_ENDS: Duration = Duration::from_secs(50);

fn harness(settings: Builder) -> Harness<Diary> {
    let mut server = memory_server_with(settings);
    server.route("/:name", enter).unwrap();
    common::harness(server)
}

fn reader(test: &mut Harness<Diary>, name: &str, window: usize, bytes_per_second: u32) -> Client {
    let faults = Faults::none().window(window).reads_per_second(bytes_per_second);
    test.connect(Upgrade::to(format!("/{name}")).faults(faults)).unwrap()
}

/// The number of messages that a client has received, and everything behind them.
fn messages_and_rest(test: &mut Harness<Diary>, client: Client) -> (usize, Vec<Received>) {
    let received = test.received(client);
    let messages = received.iter().take_while(|each| matches!(each, Received::Binary(_))).count();
    (messages, received[messages..].to_vec())
}

/// Emits more than the policy's limit.
fn fill(test: &mut Harness<Diary>, name: &str) {
    with_socket(test.server(), name, |kws| {
        for _ in 0..200 {
            kws.emit(vec![0; 8 * KIB]);
        }
    });
}

// While it is open.

#[test]
fn a_slow_reader_of_a_feed_stays_however_much_the_kernel_holds() {
    for (window, rate) in [
        (4 * MIB, 80_000),
        (256 * KIB, 80_000),
        (4 * MIB, 40_000),
        (256 * KIB, 10_000),
        (MIB, 12_000),
    ] {
        let mut test = harness(Server::builder().slow_reader(SlowReader::DropOldest));
        let ann = reader(&mut test, "ann", window, rate);
        test.server().set_interval(Duration::from_millis(50), |_, sockets| {
            sockets.broadcast(vec![0; 20_000]);
        });
        for _ in 0..18 {
            test.advance(10 * SECOND);
            assert!(!test.state().is_gone("ann"), "window {window}, {rate} bytes a second");
        }
        assert!(messages_and_rest(&mut test, ann).0 > 50);
    }
}

#[test]
fn a_backlog_that_is_read_slowly_is_read_to_its_end() {
    let mut test = harness(Server::builder().max_outbox(8 * MIB));
    let ann = reader(&mut test, "ann", 4 * MIB, 60_000);
    with_socket(test.server(), "ann", |kws| {
        (0..6).for_each(|_| assert!(kws.emit(vec![0; 1_000_000]).ok().is_ok()))
    });
    test.advance(110 * SECOND);
    let received = test.received(ann);
    assert_eq!(received.iter().filter(|each| matches!(each, Received::Binary(_))).count(), 6);
    assert!(!test.state().is_gone("ann"));
}

#[test]
fn what_a_socket_takes_at_once_is_no_sign_of_life() {
    let mut test = harness(Server::builder());
    test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    test.server().set_interval(SECOND, |_, sockets| {
        sockets.broadcast("tick");
    });
    test.advance(44 * SECOND);
    assert!(!test.state().is_gone("ann"));
    test.advance(SECOND);
    assert_eq!(test.state().errors("ann"), [Error::Silent(45 * SECOND)]);
}

#[test]
fn a_host_that_vanishes_is_noticed_though_its_kernel_took_something() {
    let mut test = harness(Server::builder().slow_reader(SlowReader::DropOldest));
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(256 * KIB))).unwrap();
    test.stop_reading(ann);
    test.server().set_interval(SECOND / 10, |_, sockets| {
        sockets.broadcast(vec![0; 20_000]);
    });
    test.advance(32 * SECOND);
    assert_eq!(test.state().errors("ann"), [Error::Stalled(30 * SECOND)]);
}

#[test]
fn progress_ends_an_unanswered_ping_also_when_the_outbox_is_empty_by_then() {
    let mut test = harness(Server::builder());
    // It takes 40 s to read the bytes that the kernel holds, and never sends anything.
    let faults = Faults::none().window(400 * KIB).reads_per_second(10_000);
    test.connect(Upgrade::to("/ann").faults(faults).unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| {
        (0..41).for_each(|_| {
            kws.emit(vec![0; 10 * KIB]);
        })
    });
    // The ping of 25 s is asked for again 25 s after the outbox was emptied at about 21 s, at 46 s;
    // then there are 20 s for the answer.
    test.advance(60 * SECOND);
    assert!(!test.state().is_gone("ann"));
    test.advance(7 * SECOND);
    assert_eq!(test.state().errors("ann"), [Error::Silent(45 * SECOND)]);
}

// A peer that reads at the closing rate gets everything.

#[test]
fn everything_emitted_before_a_close_arrives_at_the_closing_rate() {
    for rate in [33_000, 40_000, 200_000] {
        for (outbox, count, len) in
            [(8 * MIB, 40, 100_000), (MIB, 9, 100_000), (MIB, 112, 8_000), (8 * MIB, 6, MIB)]
        {
            let mut test = harness(Server::builder().max_outbox(outbox));
            let ann = reader(&mut test, "ann", 256 * KIB, rate);
            with_socket(test.server(), "ann", |kws| {
                (0..count).for_each(|_| assert!(kws.emit(vec![7; len]).ok().is_ok()));
                kws.close();
            });
            test.advance(Duration::from_secs((count * len / rate as usize + 2) as u64));
            let (messages, rest) = messages_and_rest(&mut test, ann);
            assert_eq!(messages, count, "{count} messages of {len} bytes at {rate} bytes a second");
            assert_eq!(rest, [Received::close(1000, "Connection closed"), Received::Fin]);
            let disconnect = test.state().only("ann", "disconnect");
            assert_eq!((disconnect.clean, disconnect.bytes_dropped), (true, 0));
            assert_eq!(test.server().stats().cut_short, 0);
        }
    }
}

#[test]
fn a_shutdown_leaves_the_same_time_and_its_deadline_wins() {
    for (deadline, whole) in [(300, true), (20, false)] {
        let mut test = harness(Server::builder().max_outbox(8 * MIB));
        let ann = reader(&mut test, "ann", 256 * KIB, 40_000);
        with_socket(test.server(), "ann", |kws| {
            (0..40).for_each(|_| {
                kws.emit(vec![7; 100_000]);
            })
        });
        let shutdown = Shutdown::default().deadline(Duration::from_secs(deadline));
        test.server().sockets().shutdown(shutdown).unwrap();
        test.advance(Duration::from_secs(deadline.min(110)));
        assert_eq!(test.state().only("ann", "disconnect").clean, whole);
        assert_eq!(messages_and_rest(&mut test, ann).0 == 40, whole);
        let finished = test.server().finished().unwrap();
        assert_eq!(finished.remained, usize::from(!whole));
        assert_eq!(test.server().stats().cut_short, u64::from(!whole));
        assert_eq!(test.state().only("ann", "disconnect").bytes_dropped > 0, !whole);
    }
}

#[test]
fn a_shutdown_awaits_the_fin_of_a_peer_that_the_kernel_holds_bytes_for() {
    let mut test = harness(Server::builder());
    let ann = reader(&mut test, "ann", 256 * KIB, 33_000);
    with_socket(test.server(), "ann", |kws| kws.emit(vec![7; 300 * KIB]));
    // The violation is answered with 1007, which lies behind 300 KiB that are read slowly.
    test.write(ann, &frame(1, &[0xff]));
    test.advance(2 * SECOND);
    assert!(test.state().is_gone("ann"));
    let shutdown = Shutdown::default().deadline(60 * SECOND);
    test.server().sockets().shutdown(shutdown).unwrap();
    while !test.server().is_finished() {
        test.advance(SECOND / 10);
    }
    let (messages, rest) = messages_and_rest(&mut test, ann);
    assert_eq!(messages, 1);
    assert!(
        matches!(&rest[..], [Received::Close { code: Some(code), .. }, Received::Fin] if u16::from(*code) == 1007)
    );
}

#[test]
fn a_page_arrives_at_the_closing_rate() {
    let mut server = memory_server_with(Server::builder());
    server.get("/big", |_, _, _| Response::new(200).with_body(vec![b'x'; MIB])).unwrap();
    let mut test = common::harness(server);
    let page = test.dial(Faults::none().reads_per_second(33_000)).unwrap();
    test.write(page, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    test.advance(33 * SECOND);
    assert!(test.read(page).len() > MIB);
    assert_eq!(test.received(page), [Received::Fin]);
    assert_eq!(test.server().stats().cut_short, 0);
}

#[test]
fn a_socket_that_was_never_full_leaves_time_for_what_its_kernel_took() {
    for before in [true, false] {
        let mut test = harness(Server::builder());
        let ann = reader(&mut test, "ann", 256 * KIB, 33_000);
        with_socket(test.server(), "ann", |kws| kws.emit(vec![7; 200_000]));
        if before {
            test.settle();
        }
        with_socket(test.server(), "ann", |kws| kws.close());
        test.advance(12 * SECOND);
        assert_eq!(messages_and_rest(&mut test, ann).0, 1);
        assert!(test.state().only("ann", "disconnect").clean);
    }
}

#[test]
fn a_shutdown_awaits_the_fin_of_a_peer_that_is_still_sending() {
    let mut test = harness(Server::builder());
    let ann = test.connect(Upgrade::to("/ann").unresponsive()).unwrap();
    test.write(ann, &frame(1, &[0xff]));
    test.settle();
    test.server().sockets().shutdown(Shutdown::default()).unwrap();
    test.write(ann, &[0; 1000]);
    test.settle();
    assert!(!test.server().is_finished());
    test.finish(ann);
    test.settle();
    assert!(test.server().is_finished());
}

// No connection stays.

/// What a hostile peer sends every 50 ms.
enum Sends {
    Nothing,
    Messages,
    Pings,
    Garbage,
}

fn hostile_ends(test: &mut Harness<Diary>, ann: Client, sends: &Sends) {
    let flood = match sends {
        Sends::Nothing => vec![],
        Sends::Messages => frame(2, &[0; 100]).repeat(100),
        Sends::Pings => frame(9, b"still here").repeat(100),
        Sends::Garbage => vec![0xff; 10_000],
    };
    let mut waited = Duration::ZERO;
    while waited < FULL_OUTBOX_ENDS {
        test.write(ann, &flood);
        test.advance(SECOND / 20);
        waited += SECOND / 20;
    }
    let stats = test.server().stats();
    assert_eq!((stats.closing, stats.draining, stats.closed), (0, 0, 1));
    assert!(!test.state().only("ann", "disconnect").clean);
}

#[test]
fn a_close_ends_in_time_whatever_the_peer_reads_and_sends() {
    for rate in [80, 1, 0, 20_000] {
        for sends in [Sends::Nothing, Sends::Messages, Sends::Pings, Sends::Garbage] {
            let mut test = harness(Server::builder());
            let ann = reader(&mut test, "ann", 256 * KIB, rate);
            with_socket(test.server(), "ann", |kws| {
                while kws.waiting_bytes() < MIB - 10 * KIB {
                    assert!(kws.emit(vec![0; 8 * KIB]).ok().is_ok());
                }
                kws.close_with(1008, "too much").unwrap();
            });
            assert_eq!(test.server().stats().closing, 1);
            hostile_ends(&mut test, ann, &sends);
            assert!(test.state().only("ann", "disconnect").bytes_dropped > 0);
            assert_eq!(test.server().stats().cut_short, 1);
        }
    }
}

#[test]
fn a_slow_consumer_ends_in_time_whatever_the_peer_reads_and_sends() {
    for rate in [80, 1, 0] {
        for sends in [Sends::Nothing, Sends::Messages, Sends::Garbage] {
            let mut test = harness(Server::builder());
            let ann = reader(&mut test, "ann", 256 * KIB, rate);
            fill(&mut test, "ann");
            assert!(matches!(test.state().errors("ann")[..], [Error::SlowConsumer { .. }]));
            hostile_ends(&mut test, ann, &sends);
            assert!(test.state().only("ann", "disconnect").bytes_dropped > 0);
        }
    }
}

#[test]
fn a_page_that_is_not_read_ends_in_time_and_is_counted() {
    for rate in [0, 1, 80, 20_000] {
        let mut server = memory_server_with(Server::builder());
        server.get("/big", |_, _, _| Response::new(200).with_body(vec![b'x'; MIB])).unwrap();
        let mut test = common::harness(server);
        let page = test.dial(Faults::none().reads_per_second(rate)).unwrap();
        test.write(page, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        test.settle();
        assert_eq!(test.server().stats().draining, 1);
        test.advance(FULL_OUTBOX_ENDS);
        let stats = test.server().stats();
        assert_eq!((stats.draining, stats.closed, stats.cut_short), (0, 1, 1));
        assert!(stats.bytes_dropped > 0);
    }
}

#[test]
fn nothing_moves_an_end_that_is_fixed() {
    let mut test = harness(Server::builder());
    let ann = test
        .connect(Upgrade::to("/ann").faults(Faults::none().window(KIB)).unresponsive())
        .unwrap();
    test.stop_reading(ann);
    with_socket(test.server(), "ann", |kws| {
        kws.emit(vec![0; 96 * KIB]);
        kws.close();
    });
    // 5 s, and 96 KiB at 32 KiB a second.
    for _ in 0..79 {
        test.read_more(ann, 100);
        test.advance(SECOND / 10);
    }
    assert!(!test.state().is_gone("ann"));
    test.advance(SECOND);
    assert!(test.state().is_gone("ann"));
}

#[test]
fn an_end_that_passed_between_turns_costs_a_peer_that_reads_nothing() {
    let mut test = harness(Server::builder());
    let ann = reader(&mut test, "ann", 256 * KIB, 1_000_000);
    with_socket(test.server(), "ann", |kws| {
        (0..9).for_each(|_| {
            kws.emit(vec![0; 100_000]);
        });
        kws.close();
    });
    test.advance(SECOND / 5);
    test.skip(300 * SECOND);
    test.advance(3 * SECOND);
    assert_eq!(messages_and_rest(&mut test, ann).0, 9);
    assert!(test.state().only("ann", "disconnect").clean);
}
