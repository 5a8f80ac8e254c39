//! A process without descriptors, and one with many connections that have sent no request.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ikisocket::Server;
use ikisocket::testing::Harness;
use log::{Level, Log, Metadata, Record};

use crate::alone::alone;
use crate::kit::*;

#[test]
fn without_descriptors_accepting_pauses_and_resumes_and_never_spins() {
    alone(
        "descriptors::without_descriptors_accepting_pauses_and_resumes_and_never_spins",
        40,
        exhaustion,
    );
}

fn exhaustion() {
    if only_plain("without a descriptor a client has no handshake") {
        return;
    }
    let mut server = echo(Server::builder());
    let mut first = Peer::open(&mut server, "/ws");
    let second = Peer::open(&mut server, "/ws");
    // All descriptors but one are taken, and the newcomer's own socket gets that one.
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 40, "there is a limit");
    taken.pop();
    let mut newcomer = Peer::connect(&mut server);
    newcomer.send_at_once(upgrade("/ws", "").as_bytes());
    assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().accepted, 0);

    // It waits, and looks for a free one from time to time: two turns for each 250 ms.
    let started = Instant::now();
    for _ in 0..6 {
        assert_eq!(server.poll(Some(Duration::from_secs(5))).unwrap().accepted, 0);
    }
    assert!(
        started.elapsed() >= Duration::from_millis(500),
        "six turns in {:?}",
        started.elapsed()
    );

    // The open connections are served meanwhile.
    for _ in 0..20 {
        first.send_at_once(&frame(TEXT, "still here"));
        first.expect_text(&mut server, "still here");
    }
    assert_eq!(newcomer.read_some(1), 0, "the newcomer waits");

    // One connection ended: the newcomer is served, without a new event of the listener.
    second.reset();
    assert!(newcomer.head(&mut server).starts_with("HTTP/1.1 101 "));
    newcomer.send(&mut server, frame(TEXT, "at last"));
    newcomer.expect_text(&mut server, "at last");

    // A descriptor that becomes free elsewhere, while no connection ends, is found after the pause.
    taken.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    taken.pop();
    let mut last = Peer::connect(&mut server);
    last.send_at_once(upgrade("/ws", "").as_bytes());
    for _ in 0..3 {
        assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().accepted, 0);
    }
    taken.pop();
    assert!(last.head(&mut server).starts_with("HTTP/1.1 101 "));
}

#[test]
fn without_descriptors_a_crowded_listener_leaves_others_their_turn() {
    alone(
        "descriptors::without_descriptors_a_crowded_listener_leaves_others_their_turn",
        60,
        crowded,
    );
}

fn crowded() {
    if only_plain("without a descriptor a client has no handshake") {
        return;
    }
    let mut server = server(Server::builder());
    let crowded = server.local_addr().unwrap();
    let quiet = ["127.0.0.1:0"; 2].map(|address| server.listen(address).unwrap());
    let mut open: Vec<_> = (0..6).map(|_| Peer::connect(&mut server)).collect();
    turn_until(&mut server, "all to be accepted", |server| server.stats().accepted == 6);
    let connect = |to| TcpStream::connect(to).unwrap();
    let _crowd: Vec<_> = (0..10).map(|_| connect(crowded)).collect();
    let _quiet = quiet.map(|address| {
        let mut client = connect(address);
        client.write_all(get("/").as_bytes()).unwrap();
        client
    });
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 60, "there is a limit");
    assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().accepted, 0);
    // Each that ends makes room for one more: the end of the client's own socket is taken at once.
    for _ in 0..6 {
        let before = server.stats();
        open.pop().unwrap().reset();
        taken.push(File::open("/dev/null").unwrap());
        turn_until(&mut server, "one to be accepted", |server| {
            server.stats().accepted > before.accepted
        });
        for _ in 0..3 {
            turn(&mut server);
        }
    }
    assert_eq!(server.stats().requests_refused.not_found, 2, "both have had their turn");
}

#[test]
fn a_flood_of_half_open_requests_does_not_disturb_an_open_connection() {
    alone(
        "descriptors::a_flood_of_half_open_requests_does_not_disturb_an_open_connection",
        2000,
        flood,
    );
}

fn flood() {
    let mut server = echo(Server::builder().handshake_timeout(Duration::MAX));
    let mut open = Peer::open(&mut server, "/ws");
    let head = upgrade("/ws", "");
    let mut flood = Vec::new();
    let mut turns = 0;
    for number in 0..500 {
        let mut peer = Peer::connect(&mut server);
        peer.send_at_once(&head.as_bytes()[..number % head.len()]);
        flood.push(peer);
        if number % 10 == 0 {
            open.send_at_once(&frame(TEXT, number.to_string()));
            turn_until(&mut server, "its answer", |_| {
                turns += 1;
                open.read_some(usize::MAX) > 0
            });
            open.expect_text(&mut server, &number.to_string());
        }
    }
    assert!(turns < 500, "{turns} turns for 50 answers");
    assert_eq!(server.sockets().len(), 1);
    // The flood's connections are served as others are once they send a request.
    for (number, peer) in flood.iter_mut().enumerate().step_by(50) {
        peer.send_at_once(&head.as_bytes()[number % head.len()..]);
        assert!(peer.head(&mut server).starts_with("HTTP/1.1 101 "));
    }
    drop(flood);
    turn_until_closed(&mut server, 500);
    open.send(&mut server, frame(TEXT, "alone again"));
    open.expect_text(&mut server, "alone again");
}

#[test]
fn without_descriptors_the_log_says_so_once_however_many_come_and_go() {
    alone(
        "descriptors::without_descriptors_the_log_says_so_once_however_many_come_and_go",
        40,
        one_line,
    );
}

/// Counts warnings.
struct Warnings;

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ikisocket")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.level() == Level::Warn {
            assert!(record.args().to_string().starts_with("cannot accept: "), "{}", record.args());
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn one_line() {
    log::set_logger(&Warnings).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let server = echo(Server::builder());
    let address = server.local_addr().unwrap();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.pop();
    // A harness for its clock: nothing here takes time.
    let mut test = Harness::by_hand(server);
    let mut came = 0;
    let mut come_and_go = |test: &mut Harness<_>| {
        // The one that is left: the newcomer's own socket has it, and then the server's side of it.
        let newcomer = TcpStream::connect(address).unwrap();
        assert_eq!(test.turn().accepted, 0);
        drop(newcomer);
        test.skip(Duration::from_millis(250));
        while test.server().stats().closed == came {
            test.turn();
        }
        came += 1;
    };
    (0..20).for_each(|_| come_and_go(&mut test));
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 1);
    // After some time without a shortage, the next one is logged again.
    test.skip(Duration::from_secs(60));
    come_and_go(&mut test);
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 2);
}
