//! Requests that two servers could read differently, and values that would end a header: nothing is
//! smuggled in, nothing split.

use ikisocket::{HeaderError, Response, RouteError, RouteOptions, Server};

use crate::kit::*;

/// A server on which every callback of the user writes down that it ran.
fn watched() -> Server<Log> {
    let mut server = echo(Server::builder());
    server.filter(|log, _, incoming| {
        log.push(format!("filter {}", incoming.path()));
        Ok(())
    });
    server.route("/watched", |log, _| log.push("route".to_owned())).unwrap();
    for path in ["/page", "/secret"] {
        server
            .get(path, move |log, _, _| {
                log.push(format!("page {path}"));
                Response::text(path)
            })
            .unwrap();
    }
    server
}

/// A handshake that is accepted, but for what a row changes.
fn good() -> String {
    upgrade("/watched", "")
}

/// The same with these lines in addition.
fn with(lines: &str) -> String {
    upgrade("/watched", lines)
}

/// The same with another request line.
fn line(line: &str) -> String {
    good().replace("GET /watched HTTP/1.1", line)
}

/// A plain request with these lines in addition.
fn plain(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

/// Every shape that is refused, and its status.
fn refused() -> Vec<(&'static str, Vec<u8>, u16)> {
    let good = good();
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let text: Vec<(&'static str, String, u16)> = vec![
        // Which host is it for?
        ("two Host", with("Host: other\r\n"), 400),
        ("the same Host twice", with("Host: localhost\r\n"), 400),
        ("Host in another case", with("hOST: other\r\n"), 400),
        ("no Host", good.replace("Host: localhost\r\n", ""), 400),
        ("two names in one Host", good.replace("Host: localhost", "Host: localhost other"), 400),
        ("a user in the Host", good.replace("Host: localhost", "Host: other@localhost"), 400),
        ("a path in the Host", good.replace("Host: localhost", "Host: localhost/secret"), 400),
        // Where does it end?
        ("both lengths", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + body, 400),
        (
            "both lengths, the other way round",
            with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + body,
            400,
        ),
        (
            "both lengths on a page",
            plain("/page", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + body,
            400,
        ),
        (
            "both lengths, in other cases",
            plain("/page", "content-length: 5\r\ntransfer-ENCODING: x\r\n") + body,
            400,
        ),
        ("Content-Length on an upgrade", with("Content-Length: 5\r\n") + "hello", 400),
        ("Transfer-Encoding on an upgrade", with("Transfer-Encoding: chunked\r\n") + body, 400),
        (
            "an unknown Transfer-Encoding on an upgrade",
            with("Transfer-Encoding: xchunked\r\n"),
            400,
        ),
        (
            "Transfer-Encoding in HTTP/1.0",
            "GET /page HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned() + body,
            400,
        ),
        ("two Content-Length", plain("/page", "Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
        ("a list of Content-Length", plain("/page", "Content-Length: 0, 5\r\n"), 400),
        ("a signed Content-Length", plain("/page", "Content-Length: +5\r\n"), 400),
        ("a negative Content-Length", plain("/page", "Content-Length: -1\r\n"), 400),
        ("a hexadecimal Content-Length", plain("/page", "Content-Length: 0x5\r\n"), 400),
        ("a Content-Length with a space inside", plain("/page", "Content-Length: 1 0\r\n"), 400),
        (
            "an endless Content-Length",
            plain("/page", "Content-Length: 18446744073709551616\r\n"),
            400,
        ),
        ("an empty Content-Length", plain("/page", "Content-Length:\r\n"), 400),
        // Where does a line end?
        ("obs-fold", with("X: a\r\n b\r\n"), 400),
        ("obs-fold with a tab", with("X: a\r\n\tb\r\n"), 400),
        ("obs-fold of a length", plain("/page", "Content-Length:\r\n 5\r\n"), 400),
        ("bare LF", with("X: a\nHost: other\r\n"), 400),
        ("bare LF at the end of the head", good.replace("\r\n\r\n", "\r\n\n"), 400),
        ("bare LF everywhere", good.replace('\r', ""), 400),
        ("bare LF before the request line", format!("\n{good}"), 400),
        ("bare CR", with("X: a\rHost: other\r\n"), 400),
        ("CR CR LF", with("X: a\r\r\n"), 400),
        ("a line of spaces before the end", good.replace("\r\n\r\n", "\r\n \r\n\r\n"), 400),
        // What is a header?
        ("NUL in a value", with("X: a\0b\r\n"), 400),
        ("NUL in a name", with("X\0: a\r\n"), 400),
        ("NUL in the target", line("GET /watched\0 HTTP/1.1"), 400),
        ("DEL", with("X: a\x7fb\r\n"), 400),
        ("a vertical tab", with("Transfer-Encoding:\x0bchunked\r\n"), 400),
        ("a space before the colon", with("Content-Length : 5\r\n"), 400),
        ("a tab before the colon", with("Content-Length\t: 5\r\n"), 400),
        ("a space before the first header", good.replace("\r\nHost", "\r\n Host"), 400),
        ("a tab before the first header", good.replace("\r\nHost", "\r\n\tHost"), 400),
        ("a space before the last header", with(" X: a\r\n"), 400),
        ("a header without a colon", with("Content-Length 5\r\n"), 400),
        ("a header without a name", with(": 5\r\n"), 400),
        ("a name outside ASCII", with("Cöntent-Length: 5\r\n"), 400),
        ("a name in quotes", with("\"Host\": other\r\n"), 400),
        // Which target does it ask for?
        ("authority form", line("GET localhost:80 HTTP/1.1"), 400),
        ("authority form of CONNECT", line("CONNECT localhost:80 HTTP/1.1"), 404),
        ("*", line("GET * HTTP/1.1"), 400),
        ("* of OPTIONS", line("OPTIONS * HTTP/1.1"), 404),
        ("absolute form of another scheme", line("GET ftp://localhost/watched HTTP/1.1"), 400),
        ("absolute form without a host", line("GET http:///watched HTTP/1.1"), 400),
        ("absolute form with a user", line("GET http://other@localhost/watched HTTP/1.1"), 400),
        ("a path without a slash", line("GET watched HTTP/1.1"), 400),
        ("a fragment", line("GET /watched#top HTTP/1.1"), 400),
        ("a backslash", line("GET \\watched HTTP/1.1"), 400),
        ("a dot segment", line("GET /page/../watched HTTP/1.1"), 404),
        ("an encoded slash", line("GET /page%2F..%2Fwatched HTTP/1.1"), 404),
        ("two slashes", line("GET //watched HTTP/1.1"), 404),
        ("an over-long target", line(&format!("GET /{} HTTP/1.1", "a".repeat(16 * 1024))), 431),
        (
            "an over-long query",
            line(&format!("GET /watched?{} HTTP/1.1", "a".repeat(16 * 1024))),
            431,
        ),
        ("a target outside ASCII", line("GET /wätched HTTP/1.1"), 404),
        // In which method and version?
        ("HTTP/1.0", line("GET /watched HTTP/1.0"), 426),
        ("HTTP/0.9", "GET /watched\r\n".to_owned(), 400),
        ("HTTP/2 in the request line", line("GET /watched HTTP/2.0"), 400),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("HTTP/1.2", line("GET /watched HTTP/1.2"), 400),
        ("HTTP/1.10", line("GET /watched HTTP/1.10"), 400),
        ("another protocol's name", line("GET /watched HTTQ/1.1"), 400),
        ("a version in lower case", line("GET /watched http/1.1"), 400),
        ("no version", line("GET /watched"), 400),
        ("a space behind the version", line("GET /watched HTTP/1.1 "), 400),
        ("two spaces", line("GET  /watched HTTP/1.1"), 400),
        ("a tab for a space", line("GET\t/watched HTTP/1.1"), 400),
        ("a space before the method", line(" GET /watched HTTP/1.1"), 400),
        ("a method in lower case", line("get /watched HTTP/1.1"), 405),
        ("POST", line("POST /watched HTTP/1.1"), 405),
        // Is it an upgrade?
        ("no upgrade at all", plain("/watched", ""), 426),
        ("Upgrade without Connection", good.replace("Connection: Upgrade\r\n", ""), 426),
        ("Connection without Upgrade", good.replace("Upgrade: websocket\r\n", ""), 426),
        ("Connection: close", good.replace("Connection: Upgrade", "Connection: close"), 426),
        ("Upgrade: h2c", good.replace("Upgrade: websocket", "Upgrade: h2c"), 426),
        ("half a word", good.replace("Upgrade: websocket", "Upgrade: websockets"), 426),
        ("a quoted word", good.replace("Upgrade: websocket", "Upgrade: \"websocket\""), 426),
        ("no version of the protocol", good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("two versions of the protocol", with("Sec-WebSocket-Version: 13\r\n"), 426),
        ("a list of versions of the protocol", good.replace("Version: 13", "Version: 13, 8"), 426),
        ("an old version of the protocol", good.replace("Version: 13", "Version: 8"), 426),
        ("two keys", with(&format!("Sec-WebSocket-Key: {KEY}\r\n")), 400),
        ("two keys in one line", good.replace(KEY, &format!("{KEY}, {KEY}")), 400),
        ("no key", good.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""), 400),
        ("an empty key", good.replace(KEY, ""), 400),
        ("a key of 15 bytes", good.replace(KEY, "dGhlIHNhbXBsZSBub25j"), 400),
        ("a key of 17 bytes", good.replace(KEY, "dGhlIHNhbXBsZSBub25jZSE="), 400),
        ("a key that is no base64", good.replace(KEY, "dGhlIHNhbXBsZSBub25j!Q=="), 400),
    ];
    let mut rows: Vec<_> =
        text.into_iter().map(|(name, text, status)| (name, text.into_bytes(), status)).collect();
    rows.push((
        "a target that is no UTF-8",
        [b"GET /\xFF\xFE HTTP/1.1\r\n", good.as_bytes()].concat(),
        400,
    ));
    rows.push((
        "a Host that is no UTF-8",
        b"GET /page HTTP/1.1\r\nHost: \xFF\r\n\r\n".to_vec(),
        400,
    ));
    // Is it HTTP at all?
    rows.push(("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".to_vec(), 400));
    rows.push(("an SSH greeting", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), 400));
    rows.push(("words", b"hello there\r\n".to_vec(), 400));
    rows.push(("zeros", vec![0; 900], 400));
    rows.push(("a WebSocket frame", frame(TEXT, "hello"), 400));
    rows
}

#[test]
fn every_smuggled_request_gets_its_status_and_runs_no_callback() {
    let mut server = watched();
    for (name, request, status) in refused() {
        for behind in [String::new(), plain("/secret", ""), good()] {
            let mut peer = Peer::connect(&mut server);
            peer.send(&mut server, [&request, behind.as_bytes()].concat());
            let response = peer.response(&mut server);
            // One response of its length, then FIN: the request behind it gets no answer.
            response.assert_whole();
            assert_eq!(response.status(), status, "{name}: {response:?}");
            peer.part(&mut server);
            assert_eq!(*server.state(), [""; 0], "{name}");
        }
    }
    assert_eq!(server.sockets().len(), 0);
}

#[test]
fn a_smuggled_request_has_the_same_status_in_whatever_pieces_it_comes() {
    let mut server = watched();
    for (name, request, status) in
        refused().into_iter().filter(|(_, request, _)| request.len() < 1000)
    {
        for pieces in [request.len(), 2] {
            let mut peer = Peer::connect(&mut server);
            for piece in request.chunks(request.len().div_ceil(pieces)) {
                // It may be refused before its end.
                peer.send(&mut server, piece);
                server.poll(Some(std::time::Duration::ZERO)).unwrap();
            }
            let response = peer.response(&mut server);
            response.assert_whole();
            assert_eq!(response.status(), status, "{name} in {pieces} pieces: {response:?}");
            peer.part(&mut server);
        }
    }
    assert_eq!(*server.state(), [""; 0]);
}

#[test]
fn what_looks_odd_and_can_be_read_in_one_way_only_is_accepted() {
    let mut server = watched();
    let good = good();
    for (name, request, path) in [
        ("absolute form", line("GET http://other/watched HTTP/1.1"), "/watched"),
        ("absolute form of ws", line("GET ws://localhost:80/watched HTTP/1.1"), "/watched"),
        ("empty lines before it", format!("\r\n\r\n{good}"), "/watched"),
        ("a length of nothing", with("Content-Length: 0\r\n"), "/watched"),
        (
            "a length of nothing, twice",
            with("Content-Length: 0\r\nContent-Length: 0\r\n"),
            "/watched",
        ),
        ("letters outside ASCII in a value", with("X: Grüße\r\n"), "/watched"),
        ("an empty value", with("X:\r\n"), "/watched"),
        ("an encoded letter", line("GET /%77atched HTTP/1.1"), "/%77atched"),
    ] {
        server.state_mut().clear();
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request);
        assert!(peer.head(&mut server).starts_with("HTTP/1.1 101 "), "{name}");
        assert_eq!(*server.state(), [&format!("filter {path}"), "route", "connect"], "{name}");
        peer.reset();
        turn_until_closed(&mut server, 1);
    }
}

#[test]
fn a_second_request_behind_an_upgrade_is_read_as_frames() {
    let mut server = watched();
    for behind in [plain("/secret", ""), good(), "POST /secret HTTP/1.1\r\n\r\n".to_owned()] {
        server.state_mut().clear();
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, good() + &behind);
        assert!(peer.head(&mut server).starts_with("HTTP/1.1 101 "));
        peer.expect_close(&mut server, 1002);
        peer.part(&mut server);
        assert!(
            !server
                .state()
                .iter()
                .any(|line| line.contains("secret") || line.starts_with("message"))
        );
        assert_eq!(server.state().iter().filter(|line| *line == "route").count(), 1);
    }
}

#[test]
fn what_follows_a_request_for_a_page_is_no_second_one() {
    let mut server = watched();
    let body = "GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (name, request) in [
        ("a pipelined request", plain("/page", "Connection: keep-alive\r\n") + body),
        (
            "a body by its length",
            plain("/page", &format!("Content-Length: {}\r\n", body.len())) + body,
        ),
        ("a body by a length that is too short", plain("/page", "Content-Length: 1\r\n") + body),
        ("a body in chunks", plain("/page", "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n" + body),
    ] {
        server.state_mut().clear();
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request);
        let page = peer.response(&mut server);
        page.assert_whole();
        assert_eq!((page.status(), page.text()), (200, "/page"), "{name}");
        peer.part(&mut server);
        assert_eq!(*server.state(), ["filter /page", "page /page"], "{name}");
    }
}

/// Values that would end a header, a head or a response if they got into one unescaped.
const SPLITTING: [&str; 8] = [
    "a\r\nSet-Cookie: stolen=1",
    "a\nSet-Cookie: stolen=1",
    "a\rSet-Cookie: stolen=1",
    "a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "\r\n",
    "\n",
    "a\0b",
    "a\x7f",
];

/// As they stand in a query.
fn encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn no_value_of_a_client_splits_a_response_of_a_filter_or_page() {
    let mut server = watched();
    server.filter(|_, _, incoming| {
        let Some(value) = incoming.query("value").map(|value| value.into_owned()) else {
            return Ok(());
        };
        // Kept unescaped: attributes never reach the wire by themselves.
        incoming.attributes.set("value", value.clone());
        match incoming.query("as").as_deref() {
            Some("value") => {
                Err(Response::text("no").with_status(403).with_header("X-Value", value)?)
            }
            Some("name") => Err(Response::text("no").with_status(403).with_header(value, "x")?),
            Some("body") => Err(Response::text(value).with_status(403)),
            _ => Ok(()),
        }
    });
    for value in SPLITTING {
        for (how, status) in [("value", 500), ("name", 500), ("body", 403)] {
            for path in ["/watched", "/page"] {
                let mut peer = Peer::connect(&mut server);
                let path = format!("{path}?as={how}&value={}", encoded(value));
                peer.send(&mut server, upgrade(&path, ""));
                let response = peer.response(&mut server);
                response.assert_whole();
                assert_eq!(
                    (response.status(), response.header("Set-Cookie")),
                    (status, None),
                    "{response:?}"
                );
                assert_eq!(response.text() == value, how == "body", "{response:?}");
                peer.part(&mut server);
            }
        }
        let mut peer = Peer::connect(&mut server);
        peer.send(
            &mut server,
            upgrade(&format!("/watched?as=attribute&value={}", encoded(value)), ""),
        );
        let head = peer.head(&mut server);
        assert_eq!(head.lines().count(), 5, "the 101 has its four lines and the blank one: {head}");
        let mut sockets = server.sockets();
        sockets.for_each(|kws| assert_eq!(kws.string_attribute("value"), Some(value)));
        peer.reset();
        turn_until_closed(&mut server, 1);
    }
}

#[test]
fn no_value_of_the_program_splits_a_response_either() {
    for value in SPLITTING {
        assert_eq!(
            Response::new(200).with_header("X", value).unwrap_err(),
            HeaderError::InvalidValue
        );
        assert_eq!(
            Response::new(200).with_header(value, "x").unwrap_err(),
            HeaderError::InvalidName
        );
        assert_eq!(
            Response::new(200).with_header("Set-Cookie", value).unwrap_err(),
            HeaderError::InvalidValue
        );
        assert!(Server::builder().subprotocols([value]).build(()).is_err());
        let mut server = watched();
        let options = RouteOptions::default().subprotocols([value]);
        let refused = server.route_with("/own", options, |_, _| {}).unwrap_err();
        assert_eq!(refused, RouteError::Subprotocol { name: value.to_owned() });
    }
    // A second length or end: the program cannot contradict the headers that the server writes.
    for name in ["Content-Length", "transfer-encoding", "CONNECTION"] {
        assert_eq!(Response::new(200).with_header(name, "0").unwrap_err(), HeaderError::Reserved);
    }
    // A response cannot be one that another response has to follow.
    for status in [100, 101, 103, 199] {
        assert_eq!(Response::new(status).status(), 500);
    }
}

#[test]
fn a_subprotocol_of_a_client_is_never_echoed_unless_it_is_the_servers_own() {
    let mut server = server(Server::builder().subprotocols(["chat"]));
    server.route("/ws", |_, _| {}).unwrap();
    for (offer, chosen) in [
        ("chat", Some("chat")),
        ("chat%0d%0aSet-Cookie: stolen=1", None),
        ("evil, chat, evil", Some("chat")),
        ("CHAT", None),
        ("chat;q=1", None),
        ("\"chat\"", None),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, upgrade("/ws", &format!("Sec-WebSocket-Protocol: {offer}\r\n")));
        let head = peer.head(&mut server);
        assert_eq!(header(&head, "Sec-WebSocket-Protocol"), chosen, "{offer}");
        assert!(!head.contains("evil") && !head.contains("stolen"), "{head}");
    }
}
