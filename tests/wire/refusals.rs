//! Which requests are refused with which status, which refusal wins, and that it arrives.

use std::time::Duration;

use ikisocket::{Response, Server};

use crate::kit::*;

/// What can be wrong with a request, in the order in which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    MalformedLine,
    TwoHosts,
    TooLarge,
    TooManyHeaders,
    TooSlow,
    UnknownPath,
    WrongMethod,
    NoUpgrade,
    Version,
    NoKey,
    BadKey,
    Origin,
    Refusing,
    Filter,
}

use Fault::*;

const FAULTS: [Fault; 14] = [
    MalformedLine,
    TwoHosts,
    TooLarge,
    TooManyHeaders,
    TooSlow,
    UnknownPath,
    WrongMethod,
    NoUpgrade,
    Version,
    NoKey,
    BadKey,
    Origin,
    Refusing,
    Filter,
];

impl Fault {
    /// The status, a header with its value, and text that only this refusal has.
    fn answer(self) -> (u16, Option<(&'static str, &'static str)>, &'static str) {
        match self {
            MalformedLine => (400, None, "before the colon"),
            TwoHosts => (400, None, "more than one Host"),
            TooLarge => (431, None, "too large"),
            TooManyHeaders => (431, None, "too many"),
            TooSlow => (408, None, "too long to arrive"),
            UnknownPath => (404, None, "nothing at this path"),
            WrongMethod => (405, Some(("Allow", "GET, HEAD")), "not allowed"),
            NoUpgrade => (426, Some(("Upgrade", "websocket")), "WebSocket endpoint"),
            Version => (426, Some(("Sec-WebSocket-Version", "13")), "version 13"),
            NoKey | BadKey => (400, None, "Sec-WebSocket-Key"),
            Origin => (403, None, "origin"),
            Refusing => (503, Some(("Retry-After", "5")), "no new connections"),
            Filter => (418, Some(("X-Filter", "no")), "filtered"),
        }
    }
}

/// A handshake with these faults.
fn faulty(faults: &[Fault]) -> String {
    let has = |fault| faults.contains(&fault);
    let mut lines = vec![
        format!(
            "{} {} HTTP/1.1",
            if has(WrongMethod) { "POST" } else { "GET" },
            if has(UnknownPath) { "/no" } else { "/ws" }
        ),
        "Host: localhost".to_owned(),
        "Connection: Upgrade".to_owned(),
        format!("Sec-WebSocket-Version: {}", if has(Version) { 8 } else { 13 }),
        format!(
            "Origin: {}",
            if has(Origin) { "https://evil.example" } else { "https://good.example" }
        ),
    ];
    let mut add = |fault, line: &str| {
        if has(fault) {
            lines.push(line.to_owned());
        }
    };
    add(MalformedLine, "X : space before the colon");
    add(TwoHosts, "Host: two");
    add(Filter, "X-Filter: please");
    add(TooManyHeaders, &["X: a"; 101].join("\r\n"));
    if !has(NoUpgrade) {
        lines.push("Upgrade: websocket".to_owned());
    }
    match (has(NoKey), has(BadKey)) {
        (true, _) => {}
        (_, true) => lines.push("Sec-WebSocket-Key: short".to_owned()),
        _ => lines.push(format!("Sec-WebSocket-Key: {KEY}")),
    }
    if has(TooLarge) {
        lines.push(format!("X: {}", "a".repeat(16 * 1024)));
    }
    lines.join("\r\n") + if has(TooSlow) { "\r\n" } else { "\r\n\r\n" }
}

fn strict(handshake_timeout: u64) -> Server<Log> {
    // Over TLS the time counts for the client's handshake, too.
    let handshake_timeout = if over_tls() { handshake_timeout.max(500) } else { handshake_timeout };
    let settings = Server::builder().origins(["https://good.example"]);
    let mut server = echo(settings.handshake_timeout(Duration::from_millis(handshake_timeout)));
    server.filter(|_, _, incoming| match incoming.header("X-Filter") {
        Some(_) => {
            Err(Response::text("filtered").with_status(418).with_header("X-Filter", "no").unwrap())
        }
        None => Ok(()),
    });
    server
}

/// Sends a faulty handshake, and then `more` unexpected bytes; reads the whole answer.
fn refuse(server: &mut Server<Log>, faults: &[Fault], more: usize) -> Response_ {
    server.sockets().refuse_upgrades(faults.contains(&Refusing));
    let mut peer = Peer::connect(server);
    peer.send(server, faulty(faults));
    for _ in 0..more / 1000 {
        peer.send(server, [0xE5; 1000]);
    }
    let response = peer.response(server);
    response.assert_whole();
    peer.part(server);
    response
}

type Response_ = crate::kit::Response;

fn assert_refused(response: &Response_, fault: Fault, name: &str) {
    let (status, header, words) = fault.answer();
    assert_eq!(response.status(), status, "{name}: {response:?}");
    assert!(response.text().contains(words), "{name}: {response:?}");
    if let Some((header, value)) = header {
        assert_eq!(response.header(header), Some(value), "{name}: {response:?}");
    }
    if status == 426 {
        assert_eq!(response.header("Upgrade"), Some("websocket"), "{name}: {response:?}");
    }
}

/// A head whose lines have the right form, but which breaks two rules, is only judged when it is
/// complete. A head that is too large for that is not judged.
fn cannot_meet(former: Fault, latter: Fault) -> bool {
    let one_of = |a, b| former == a && latter == b;
    one_of(TwoHosts, TooLarge)
        || one_of(TwoHosts, TooSlow)
        || one_of(TooLarge, TooManyHeaders)
        || one_of(TooManyHeaders, TooSlow)
        || one_of(NoUpgrade, TooSlow)
        || one_of(NoKey, BadKey)
}

#[test]
fn every_refusal_has_its_status_and_its_header_and_nothing_is_opened() {
    let mut server = strict(50);
    for fault in FAULTS {
        let response = refuse(&mut server, &[fault], 0);
        assert_refused(&response, fault, &format!("{fault:?}"));
    }
    assert_eq!(*server.state(), [""; 0]);
    let response = {
        server.sockets().refuse_upgrades(false);
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, faulty(&[]));
        peer.head(&mut server)
    };
    assert!(response.starts_with("HTTP/1.1 101 "), "without a fault it is accepted");
}

#[test]
fn of_two_faults_the_former_wins() {
    let mut server = strict(20);
    for (at, &former) in FAULTS.iter().enumerate() {
        for &latter in &FAULTS[at + 1..] {
            if !cannot_meet(former, latter) {
                let response = refuse(&mut server, &[former, latter], 0);
                assert_refused(&response, former, &format!("{former:?} before {latter:?}"));
            }
        }
    }
}

#[test]
fn a_client_that_goes_on_sending_reads_its_refusal_and_then_fin() {
    let mut server = strict(10_000);
    for fault in FAULTS.into_iter().filter(|&fault| fault != TooSlow) {
        let response = refuse(&mut server, &[fault], 200_000);
        assert_refused(&response, fault, &format!("{fault:?}"));
    }
}

#[test]
fn http_1_0_cannot_be_upgraded() {
    let mut server = strict(10_000);
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, faulty(&[]).replace("HTTP/1.1", "HTTP/1.0"));
    assert_refused(&peer.response(&mut server), NoUpgrade, "HTTP/1.0");
}

#[test]
fn a_full_server_says_so_until_a_connection_ends() {
    let mut server = echo(Server::builder().max_connections(2));
    let first = Peer::open(&mut server, "/ws");
    let _second = Peer::open(&mut server, "/ws");
    let mut third = Peer::connect(&mut server);
    third.send(&mut server, upgrade("/ws", ""));
    let response = third.response(&mut server);
    response.assert_whole();
    assert_eq!((response.status(), response.header("Retry-After")), (503, Some("5")));
    first.reset();
    turn_until_logged(&mut server, "disconnect", 1);
    Peer::open(&mut server, "/ws");
}

#[test]
fn a_peer_silent_until_the_handshake_timeout_gets_no_reply() {
    let mut server = strict(20);
    let mut peer = Peer::connect(&mut server);
    assert_eq!(peer.end(&mut server), End::Fin);
    assert_eq!(peer.received(), b"");
    assert_eq!(*server.state(), [""; 0]);
}

#[test]
fn half_a_request_and_silence_is_answered_with_408_wherever_it_stops() {
    let mut server = strict(20);
    let head = faulty(&[]);
    let stops = [1, 3, 20, 23, 24, head.len() / 2, head.len() - 2, head.len() - 1];
    let mut peers: Vec<_> = stops.map(|_| Peer::connect(&mut server)).into();
    for (peer, stop) in peers.iter_mut().zip(stops) {
        peer.send(&mut server, &head[..stop]);
    }
    for (peer, stop) in peers.iter_mut().zip(stops) {
        let response = peer.response(&mut server);
        response.assert_whole();
        assert_refused(&response, TooSlow, &format!("{stop} bytes"));
    }
}

#[test]
fn a_head_of_a_mebibyte_is_refused_before_its_end() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::connect(&mut server);
    let head = upgrade("/ws", &format!("X: {}\r\n", "a".repeat(1 << 20)));
    peer.try_send(&mut server, head.as_bytes());
    let response = peer.response(&mut server);
    assert_eq!(response.status(), 431);
    // The server discards a limited number of bytes so that the refusal arrives, then it resets.
    assert_eq!(response.header("Content-Length").unwrap(), response.body.len().to_string());
    assert_eq!(server.sockets().len(), 0);
}

#[test]
fn head_is_refused_like_get_at_every_path_and_without_a_body() {
    let mut server = strict(10_000);
    server.get("/page", |_, _, _| Response::html("home")).unwrap();
    server.get("/ws", |_, _, _| Response::html("both")).unwrap();
    server.route("/alone", |_, _| {}).unwrap();
    let mut accepted = 0;
    for path in ["/ws", "/alone", "/nothing", "/page", "/ws/%FF"] {
        for fault in FAULTS.into_iter().map(Some).chain([None]) {
            let Some(handshake) = (match fault {
                Some(TooSlow | Filter | WrongMethod | UnknownPath) => None,
                _ => Some(faulty(fault.as_slice()).replace("/ws ", &format!("{path} "))),
            }) else {
                continue;
            };
            server.sockets().refuse_upgrades(fault == Some(Refusing));
            let [get, head] = ["GET ", "HEAD "].map(|method| {
                let mut peer = Peer::connect(&mut server);
                peer.send(&mut server, handshake.replacen("GET ", method, 1));
                let head = peer.head(&mut server);
                if head.starts_with("HTTP/1.1 101 ") {
                    peer.reset();
                    turn_until_closed(&mut server, 1);
                    return (head, Vec::new());
                }
                assert_eq!(peer.end(&mut server), End::Fin);
                let body = peer.received().to_vec();
                peer.part(&mut server);
                (head, body)
            });
            let name = format!("{fault:?} at {path}: {}", head.0);
            assert_eq!(head.1, b"", "{name}");
            if get.0.starts_with("HTTP/1.1 101 ") {
                accepted += 1;
                assert!(head.0.starts_with("HTTP/1.1 426 "), "{name}");
                assert_eq!(header(&head.0, "Upgrade"), Some("websocket"), "{name}");
            } else {
                assert_eq!(head.0, get.0, "{name}");
                assert_eq!(
                    header(&head.0, "Content-Length"),
                    Some(&*get.1.len().to_string()),
                    "{name}"
                );
            }
        }
    }
    let opened = server.state().iter().filter(|line| *line == "connect").count();
    assert_eq!(opened, accepted, "by GET alone");
}

#[test]
fn allow_lists_get_and_head_at_every_path() {
    let mut server = echo(Server::builder());
    server.get("/page", |_, _, _| Response::html("home")).unwrap();
    server.get("/both", |_, _, _| Response::html("home")).unwrap();
    server.route("/both", |_, _| {}).unwrap();
    for path in ["/ws", "/page", "/both"] {
        for handshake in [request("GET", path), upgrade(path, "")] {
            for method in ["POST", "OPTIONS", "head", "HEADX", "get"] {
                let mut peer = Peer::connect(&mut server);
                peer.send(&mut server, handshake.replacen("GET", method, 1));
                let response = peer.response(&mut server);
                response.assert_whole();
                let said = (response.status(), response.header("Allow"));
                assert_eq!(said, (405, Some("GET, HEAD")), "{method} {path}");
            }
        }
    }
}

#[test]
fn half_a_head_request_and_silence_is_answered_without_a_body() {
    let mut server = strict(20);
    for half in ["HEAD /ws HTTP/1.1\r\nHost: a\r\n", "\r\nHEAD /w"] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, half);
        let response = peer.response(&mut server);
        assert_eq!((response.status(), response.text(), response.end), (408, "", End::Fin));
        assert_ne!(response.header("Content-Length"), Some("0"));
    }
}

#[test]
fn a_refusal_to_a_head_request_has_no_body() {
    let mut server = echo(Server::builder());
    for (path, status) in [("/nothing", 404), ("/ws", 426)] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request("HEAD", path));
        let response = peer.response(&mut server);
        assert_eq!((response.status(), response.text(), response.end), (status, "", End::Fin));
        assert_ne!(response.header("Content-Length"), Some("0"), "as for GET (RFC 9110 §9.3.2)");
    }
}
