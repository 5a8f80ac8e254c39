//! The log: what an operator wants to know, each record at its level, and none for a message.
//! Alone in its file, because there is one logger for the whole process.

mod common;

use std::cell::RefCell;
use std::sync::Once;

use common::{
    Client, ON_PURPOSE, Raw, enter, over_tls, quiet_panics, server_with, turn_until, with_socket,
};
use ikisocket::{Error, Event, Server, Shutdown};
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
    if common::only_plain("a part of it is about ports without TLS") {
        return;
    }
    quiet_panics();
    keep_log();
    let mut server = server_with(Server::builder().max_outbox(1024));
    assert_logged([(Level::Info, "listening on 127.0.0.1:")]);
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| match ep.data.as_str() {
        Some("bang") => panic!("{ON_PURPOSE}"),
        _ => _ = ep.kws.emit(ep.data),
    });

    let [mut ann, bob, mut cid] =
        ["ann", "bob", "cid"].map(|name| Client::connect(&mut server, &format!("/{name}")));
    with_socket(&mut server, "ann", |kws| kws.join("a").unwrap());
    for _ in 0..100 {
        ann.send("hello");
        server.sockets().broadcast("to all");
        server.sockets().publish("a", "to ann");
        with_socket(&mut server, "ann", |kws| _ = kws.ping("are you there?"));
        (0..4).for_each(|_| _ = ann.next(&mut server));
    }
    assert_logged([]);

    // A broadcast that no connection got is logged once, and counted each time.
    for _ in 0..100 {
        assert_eq!(server.sockets().broadcast(vec![0; 2000]), 0);
    }
    assert_logged([(Level::Warn, "a broadcast of 2000 bytes reached no connection")]);
    assert_eq!(server.stats().emits_refused.too_large, 100);

    let mut stranger = Raw::connect(&mut server);
    stranger.send(b"GET / HTTP/1.0\r\n\r\n");
    stranger.read_to_end(&mut server).unwrap();
    assert_logged([(Level::Debug, "refused 127.0.0.1:")]);
    // The beginning of a ClientHello. A port without TLS says so to its operator once.
    let plain = !over_tls();
    for logs in [true, false].into_iter().filter(|_| plain) {
        let mut confused = Raw::connect(&mut server);
        confused.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
        let answer = String::from_utf8(confused.read_to_end(&mut server).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("a TLS handshake"));
        match logs {
            true => {
                assert_logged([(Level::Warn, "127.0.0.1:"), (Level::Debug, "refused 127.0.0.1:")])
            }
            false => assert_logged([(Level::Debug, "refused 127.0.0.1:")]),
        }
    }
    assert_eq!(server.stats().requests_refused.malformed, if plain { 2 } else { 0 });
    bob.vanish();
    turn_until(&mut server, |server| server.state().is_gone("bob"));
    assert_logged([(Level::Debug, "connection 127.0.0.1:")]);
    cid.send("bang");
    turn_until(&mut server, |server| server.state().is_gone("cid"));
    assert_logged([
        (Level::Error, "a callback of `message` panicked: on purpose"),
        (Level::Debug, "connection 127.0.0.1:"),
    ]);
    server.sockets().shutdown(Shutdown::default()).unwrap();
    assert_logged([(Level::Info, "shutting down with 1001; open connections: 1")]);
    ann.end(&mut server);
    turn_until(&mut server, |server| server.is_finished());
    assert_logged([]);
}

#[test]
#[cfg(feature = "_tls")]
fn a_tls_handshake_that_fails_is_logged_with_its_cause() {
    if common::only_plain("its clients speak something else") {
        return;
    }
    keep_log();
    let file = |name| format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let tls = ikisocket::Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap();
    let mut server = Server::builder().build(()).unwrap();
    server.listen_tls("127.0.0.1:0", &tls).unwrap();
    logged();
    for (bytes, cause) in [
        (&b"\x00\x01\x02"[..], "the peer does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "a plain HTTP request came to a port that speaks TLS"),
    ] {
        let mut client = Raw::connect(&mut server);
        client.send(bytes);
        client.read_to_end(&mut server).unwrap();
        let records = logged();
        assert_eq!(records.len(), 1, "{records:#?}");
        let (level, text) = &records[0];
        assert_eq!(*level, Level::Debug);
        assert!(text.contains(" 127.0.0.1:") && text.ends_with(cause), "{text}");
    }
}

/// Whether this is one line for every reader: a log file, a terminal, a viewer in a browser.
fn is_one_line(text: &str) -> bool {
    let forges = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    !text.contains(forges)
}

#[test]
fn nothing_that_a_peer_chooses_forges_a_line() {
    quiet_panics();
    keep_log();
    let forged = "x\nERROR forged\r\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\x1b[2K\0";
    let escaped = r"x\nERROR forged\r\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{1b}[2K\u{0}";
    let mut server = server_with(Server::builder().subprotocols(["v1"]));
    server.filter(|_, _, incoming| match incoming.query("refuse") {
        Some(why) => Err(ikisocket::Response::text(why.into_owned()).with_status(403)),
        None => Ok(()),
    });
    server.route("/:name", enter).unwrap();
    server.on_panic(|_, _| {});
    server.on(Event::Message, |_, ep| panic!("no such thing: {}", ep.data.as_str().unwrap()));
    logged();

    let query: String = forged.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (path, line) in
        [(format!("/a?refuse={query}"), "a filter refused"), (format!("/no/{query}"), "refused")]
    {
        Client::refused(&mut server, &path);
        let records = logged();
        assert!(
            records.len() == 1 && records[0].1.starts_with(line) && is_one_line(&records[0].1),
            "{records:#?}"
        );
    }

    let mut ann = Client::connect(&mut server, "/ann");
    ann.close(4000, forged);
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    let records = logged();
    assert!(records.iter().all(|(_, text)| is_one_line(text)), "{records:#?}");
    assert!(
        records[0].1.ends_with(&format!("closed by the peer with code 4000: {escaped}")),
        "{records:#?}"
    );
    // Values that are not for logs are unchanged.
    let left = server.state().only("ann", "disconnect");
    assert_eq!(left.reason, forged);
    assert!(
        matches!(left.error.as_ref().unwrap(), Error::ClosedByPeer { reason, .. } if reason == forged)
    );

    let mut bob = Client::connect(&mut server, "/bob");
    bob.send(forged);
    turn_until(&mut server, |server| server.state().is_gone("bob"));
    let records = logged();
    assert!(records.iter().all(|(_, text)| is_one_line(text)), "{records:#?}");
    assert_eq!(records[0].1, format!("a callback of `message` panicked: no such thing: {escaped}"));
}

#[test]
fn the_text_of_an_error_is_one_line() {
    let text = "a\nb\u{2028}c";
    let (event, message, reason) = (text.to_owned(), text.to_owned(), text.to_owned());
    for error in [
        Error::ClosedByPeer { code: 4000.into(), reason },
        Error::Panicked { event: event.clone(), message },
        Error::FireRefused { event, depth: None },
    ] {
        assert!(is_one_line(&error.to_string()), "{error}");
    }
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
