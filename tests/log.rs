//! What is logged: what an operator wants to know, each at its level, and nothing for a message. Alone in its file, because there is one
//! logger for the whole process.

mod common;

use std::cell::RefCell;
use std::sync::Once;

use common::{Client, ON_PURPOSE, Raw, enter, quiet_panics, server_with, turn_until, with_socket};
use ikisocket::{Event, Server, Shutdown};
use log::{Level, Log, Metadata, Record};

/// Keeps what this thread logs.
struct Kept;

thread_local! {
    static KEPT: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ikisocket")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            KEPT.with_borrow_mut(|kept| kept.push((record.level(), record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// From now on this thread's records are kept.
fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Kept).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

fn logged() -> Vec<(Level, String)> {
    KEPT.with_borrow_mut(std::mem::take)
}

#[track_caller]
fn assert_logged<const N: usize>(expected: [(Level, &str); N]) {
    let logged = logged();
    let matches = |((level, text), (expected, begin)): (&(Level, String), &(Level, &str))| {
        level == expected && text.starts_with(begin)
    };
    assert!(logged.len() == N && logged.iter().zip(&expected).all(matches), "{logged:#?}");
}

#[test]
fn no_message_is_logged_and_everything_else_has_its_level() {
    quiet_panics();
    keep_log();
    let mut server = server_with(Server::builder().max_outbox(1024));
    assert_logged([(Level::Info, "listening on 127.0.0.1:")]);
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| match ep.data.as_str() {
        Some("bang") => panic!("{ON_PURPOSE}"),
        _ => _ = ep.kws.emit(ep.data),
    });

    let [mut ann, bob, mut cid] = ["ann", "bob", "cid"].map(|who| Client::connect(&mut server, &format!("/{who}")));
    with_socket(&mut server, "ann", |kws| kws.join("a").unwrap());
    for _ in 0..100 {
        ann.send("hello");
        server.lend().1.broadcast("to all");
        server.lend().1.publish("a", "to ann");
        with_socket(&mut server, "ann", |kws| _ = kws.ping("are you there?"));
        (0..4).for_each(|_| _ = ann.next(&mut server));
    }
    assert_logged([]);

    // What nobody got is said once, and counted each time.
    for _ in 0..100 {
        assert_eq!(server.lend().1.broadcast(vec![0; 2000]), 0);
    }
    assert_logged([(Level::Warn, "a broadcast of 2000 bytes reached nobody")]);
    assert_eq!(server.stats().emits_refused.too_large, 100);

    let mut stranger = Raw::connect(&server);
    stranger.send(b"GET / HTTP/1.0\r\n\r\n");
    stranger.read_to_end(&mut server).unwrap();
    assert_logged([(Level::Debug, "refused 127.0.0.1:")]);
    bob.vanish();
    turn_until(&mut server, |server| server.state().is_gone("bob"));
    assert_logged([(Level::Debug, "connection 127.0.0.1:")]);
    cid.send("bang");
    turn_until(&mut server, |server| server.state().is_gone("cid"));
    assert_logged([
        (Level::Error, "a callback of `message` panicked: on purpose"),
        (Level::Debug, "connection 127.0.0.1:"),
    ]);
    server.lend().1.shutdown(Shutdown::default()).unwrap();
    assert_logged([(Level::Info, "shutting down with 1001; open connections: 1")]);
    ann.end(&mut server);
    turn_until(&mut server, |server| server.is_finished());
    assert_logged([]);
}

#[cfg(unix)]
#[test]
fn every_kind_of_listening_is_logged_once() {
    keep_log();
    let mut server = Server::builder().build(()).unwrap();
    server.listen_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    assert_logged([(Level::Info, "listening on 127.0.0.1:")]);
    let path = std::env::temp_dir().join(format!("ikisocket-log-{}.sock", std::process::id()));
    server.listen_unix(&path).unwrap();
    assert_logged([(Level::Info, &format!("listening on {}", path.display()))]);
}
