//! The upgrade: how a request may arrive, and what the callbacks see of it.

use std::io::ErrorKind;
use std::net::TcpStream;

use ikisocket::http::PatternError;
use ikisocket::{Event, Response, RouteError, RouteOptions, Server};

use crate::kit::*;

/// A route that writes down what it sees of its request, and again when it ends.
fn witness(pattern: &str) -> Server<Log> {
    let mut server = server(Server::builder());
    server
        .route(pattern, |log, kws| {
            log.push(format!("{:?}", kws.request().unwrap().params().collect::<Vec<_>>()))
        })
        .unwrap();
    server
}

#[test]
fn a_request_may_be_split_anywhere_and_the_frames_behind_it_are_kept() {
    let mut server = echo(Server::builder());
    let head = upgrade("/ws", "Cookie: a=b\r\n");
    let all = [head.as_bytes(), &frame(TEXT, "one"), &frame(PING, "two"), &frame(BINARY, "three")]
        .concat();
    for split in 1..all.len() {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, &all[..split]);
        turn(&mut server);
        peer.send(&mut server, &all[split..]);
        assert_eq!(
            header(&peer.head(&mut server), "Sec-WebSocket-Accept"),
            Some(ACCEPT),
            "split at {split}"
        );
        assert_eq!(peer.frame(&mut server), Frame::text("one"), "split at {split}");
        assert_eq!(peer.frame(&mut server), Frame::new(PONG, "two"), "split at {split}");
        assert_eq!(peer.frame(&mut server), Frame::new(BINARY, "three"), "split at {split}");
        peer.reset();
    }
}

#[test]
fn a_request_and_its_first_frame_may_come_byte_by_byte() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::connect(&mut server);
    for byte in upgrade("/ws", "").into_bytes().into_iter().chain(frame(TEXT, "slowly")) {
        peer.send(&mut server, [byte]);
        turn(&mut server);
    }
    peer.head(&mut server);
    peer.expect_text(&mut server, "slowly");
}

#[test]
fn a_request_and_everything_else_may_come_at_once() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::connect(&mut server);
    let head = upgrade("/ws", "");
    peer.send(&mut server, [head.as_bytes(), &frame(TEXT, "all"), &close(1000, "bye")].concat());
    peer.head(&mut server);
    peer.expect_text(&mut server, "all");
    peer.expect_close(&mut server, 1000);
    assert_eq!(*server.state(), ["connect", "message \"all\"", "disconnect 1000 \"bye\" clean"]);
}

#[test]
fn the_101_and_the_welcome_arrive_in_one_write() {
    let mut server = Server::builder().build(None::<TcpStream>).unwrap();
    listen(&mut server);
    fn nothing_came(client: &Option<TcpStream>) -> bool {
        client
            .as_ref()
            .unwrap()
            .peek(&mut [0])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
    server
        .route("/ws", |client, kws| {
            kws.emit("welcome");
            assert!(nothing_came(client));
        })
        .unwrap();
    server.on(Event::Connect, |client, ep| {
        assert!(nothing_came(client));
        ep.kws.emit("and hello");
        assert!(nothing_came(client));
    });
    let mut peer = Peer::connect(&mut server);
    *server.state_mut() = Some(peer.handle());
    peer.send(&mut server, upgrade("/ws", ""));
    turn_until(&mut server, "the first bytes", |_| peer.read_some(usize::MAX) > 0);
    let received = peer.received();
    assert!(received.starts_with(b"HTTP/1.1 101 "));
    assert!(
        received.ends_with(b"\r\n\r\n\x81\x07welcome\x81\x09and hello"),
        "{}",
        received.escape_ascii()
    );
}

#[test]
fn the_101_says_what_the_rfc_wants_and_declines_all_extensions() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::connect(&mut server);
    let offers = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                  Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\nSec-WebSocket-Protocol: chat\r\n";
    peer.send(&mut server, upgrade("/ws", offers));
    let head = peer.head(&mut server);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert_eq!(header(&head, "Upgrade"), Some("websocket"));
    assert_eq!(header(&head, "Connection"), Some("Upgrade"));
    assert_eq!(header(&head, "Sec-WebSocket-Accept"), Some(ACCEPT));
    assert_eq!(header(&head, "Sec-WebSocket-Extensions"), None);
    assert_eq!(header(&head, "Sec-WebSocket-Protocol"), None);
}

#[test]
fn what_clients_really_send_is_accepted() {
    let mut server = echo(Server::builder());
    let usual = upgrade("/ws", "");
    for (name, request) in [
        (
            "lower case",
            usual.replace("Upgrade: ", "upgrade: ").replace("Sec-WebSocket-", "sec-websocket-"),
        ),
        (
            "upper case",
            usual
                .replace("Host", "HOST")
                .replace("Connection", "CONNECTION")
                .replace("Sec-WebSocket-Key", "SEC-WEBSOCKET-KEY"),
        ),
        (
            "values in any case",
            usual
                .replace("Upgrade: websocket", "Upgrade: WebSocket")
                .replace("n: Upgrade", "n: uPGRADE"),
        ),
        ("Firefox", usual.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade")),
        (
            "two Connection lines",
            usual.replace("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
        ),
        ("several protocols", usual.replace("Upgrade: websocket", "Upgrade: h2c, websocket")),
        ("no space", usual.replace(": ", ":")),
        ("absolute form", upgrade("http://localhost:80/ws", "")),
        ("absolute form, ws", upgrade("ws://localhost/ws", "")),
        ("a query", upgrade("/ws?a=b", "")),
        ("a path in another spelling", upgrade("/%77s", "")),
        ("a hundred headers", upgrade("/ws", &"X: a\r\n".repeat(95))),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request);
        let head = peer.head(&mut server);
        assert!(head.starts_with("HTTP/1.1 101 "), "{name}: {head}");
        peer.send(&mut server, frame(TEXT, name));
        peer.expect_text(&mut server, name);
    }
}

#[test]
fn the_servers_order_of_subprotocols_wins_and_a_route_may_have_its_own() {
    let mut server = server(Server::builder().subprotocols(["v2", "v1"]));
    let note = |log: &mut Log, kws: &mut ikisocket::Socket<'_, Log>| {
        log.push(format!("{:?}", kws.subprotocol()))
    };
    server.route("/ws", note).unwrap();
    server.route_with("/own", RouteOptions::default().subprotocols(["own"]), note).unwrap();
    server.route_with("/none", RouteOptions::default().subprotocols([""; 0]), note).unwrap();
    for (path, offers, chosen) in [
        ("/ws", "Sec-WebSocket-Protocol: v1, v2\r\n", Some("v2")),
        (
            "/ws",
            "Sec-WebSocket-Protocol: x\r\nSec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: y\r\n",
            Some("v1"),
        ),
        ("/ws", "Sec-WebSocket-Protocol: v1\r\nsec-websocket-protocol: v2\r\n", Some("v2")),
        ("/ws", "Sec-WebSocket-Protocol: V1, v3\r\n", None),
        ("/ws", "", None),
        ("/own", "Sec-WebSocket-Protocol: v1, own\r\n", Some("own")),
        ("/own", "Sec-WebSocket-Protocol: v1, v2\r\n", None),
        ("/none", "Sec-WebSocket-Protocol: v1, v2\r\n", None),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, upgrade(path, offers));
        let head = peer.head(&mut server);
        assert_eq!(header(&head, "Sec-WebSocket-Protocol"), chosen, "{path} {offers}");
        let seen = server.state().iter().rfind(|line| !line.starts_with("connect"));
        assert_eq!(seen.unwrap(), &format!("{chosen:?}"), "{path} {offers}");
    }
}

#[test]
fn origins_are_checked_and_a_route_may_have_its_own() {
    let mut server = echo(Server::builder().origins(["https://example.org"]));
    let own = RouteOptions::default().origins(["https://own.example"]);
    server.route_with("/own", own, |_, _| {}).unwrap();
    server.route_with("/all", RouteOptions::default().origins(["*"]), |_, _| {}).unwrap();
    for (path, origin, status) in [
        ("/ws", "Origin: https://example.org\r\n", 101),
        ("/ws", "Origin: HTTPS://Example.Org\r\n", 101),
        ("/ws", "Origin: https://example.org:8443\r\n", 403),
        ("/ws", "Origin: https://own.example\r\n", 403),
        ("/ws", "Origin: null\r\n", 403),
        ("/ws", "", 403),
        ("/own", "Origin: https://own.example\r\n", 101),
        ("/own", "Origin: https://example.org\r\n", 403),
        ("/all", "Origin: null\r\n", 101),
        ("/all", "", 101),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, upgrade(path, origin));
        let head = peer.head(&mut server);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {origin}: {head}");
    }
}

#[test]
fn the_request_answers_in_the_route_callback_and_still_in_disconnect() {
    fn seen(kws: &ikisocket::Socket<'_, Log>) -> String {
        let pairs: Vec<_> = kws
            .request()
            .unwrap()
            .query_pairs()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {pairs:?}",
            kws.param("id"),
            kws.param("other"),
            kws.query("q").as_deref(),
            kws.cookie("name").as_deref(),
            kws.header("x-real-ip"),
            kws.query("none").as_deref(),
        )
    }
    let mut server = server(Server::builder());
    server.route("/ws/:id", |log, kws| log.push(seen(kws))).unwrap();
    server.on(Event::Disconnect, |log, ep| log.push(seen(&ep.kws)));
    let mut peer = Peer::connect(&mut server);
    let lines = "Cookie: a=1; name=J%C3%BCrgen%3B; b=2\r\nX-Real-IP: 10.0.0.1\r\n";
    peer.send(
        &mut server,
        upgrade("/ws/caf%C3%A9%2F%20?q=first&x=a%26b&q=two+words%21&empty=", lines),
    );
    peer.head(&mut server);
    peer.send(&mut server, close(1000, ""));
    peer.expect_close(&mut server, 1000);
    peer.part(&mut server);
    let expected = r#"Some("café/ ") None Some("two words!") Some("Jürgen;") Some("10.0.0.1") None ["q=first", "x=a&b", "q=two words!", "empty="]"#;
    assert_eq!(*server.state(), [expected, "connect", "disconnect 1000 \"\" clean", expected]);
}

#[test]
fn a_route_may_forget_the_request_when_its_callback_has_returned() {
    let mut server = server(Server::builder());
    let seen = |kws: &ikisocket::Socket<'_, Log>| {
        format!(
            "{:?} {:?} {:?} {}",
            kws.param("id"),
            kws.query("q"),
            kws.header("host"),
            kws.request().is_some()
        )
    };
    let options = RouteOptions::default().forget_request();
    server.route_with("/ws/:id", options, move |log, kws| log.push(seen(kws))).unwrap();
    server.on(Event::Connect, move |log, ep| log.push(seen(&ep.kws)));
    Peer::open(&mut server, "/ws/7?q=1");
    let forgotten = "None None None false";
    assert_eq!(
        *server.state(),
        [r#"Some("7") Some("1") Some("localhost") true"#, "connect", forgotten]
    );
}

#[test]
fn a_path_leads_to_the_most_literal_route() {
    let mut server = server(Server::builder());
    for pattern in ["/ws/:id", "/ws/all", "/files/*rest", "/ws/:id/of/:room", "/"] {
        let routed = move |log: &mut Log, kws: &mut ikisocket::Socket<'_, Log>| {
            let params: Vec<_> = kws
                .request()
                .unwrap()
                .params()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            log.push(format!("{pattern} {}", params.join(" ")));
        };
        server.route(pattern, routed).unwrap();
    }
    server.off(Event::Connect);
    for (path, leads_to) in [
        ("/", "/ "),
        ("/ws/7", "/ws/:id id=7"),
        ("/ws/all", "/ws/all "),
        ("/ws/al", "/ws/:id id=al"),
        ("/ws/a/of/b", "/ws/:id/of/:room id=a room=b"),
        ("/files/", "/files/*rest rest="),
        ("/files/a/b//c.txt?x", "/files/*rest rest=a/b//c.txt"),
    ] {
        let peer = Peer::open(&mut server, path);
        assert_eq!(server.state().last().unwrap(), leads_to);
        peer.reset();
        turn_until_closed(&mut server, 1);
    }
    for path in ["/ws", "/ws/", "/ws/7/", "/files", "/WS/7", "/ws/7/of/"] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, upgrade(path, ""));
        assert_eq!(peer.response(&mut server).status(), 404, "{path}");
    }
}

#[test]
fn get_and_route_may_share_a_path_and_the_upgrade_decides() {
    let mut server = witness("/both/:id");
    server
        .get("/both/:name", |_, _, incoming| {
            Response::text(format!("page {:?}", incoming.param("name")))
        })
        .unwrap();
    Peer::open(&mut server, "/both/1");
    assert_eq!(server.state()[0], r#"[("id", "1")]"#);
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, get("/both/2"));
    let page = peer.response(&mut server);
    assert_eq!((page.status(), page.text()), (200, r#"page Some("2")"#));
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, upgrade("/both/3", "").replace("13", "8"));
    assert_eq!(peer.response(&mut server).status(), 426, "it asks for an upgrade that cannot be");
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, upgrade("/both/3", "").replace("GET", "POST"));
    assert_eq!(peer.response(&mut server).header("Allow"), Some("GET, HEAD"));
}

#[test]
fn filters_run_in_order_with_the_state_and_set_lasting_attributes() {
    let mut server = server(Server::builder());
    server.filter(|log, sockets, incoming| {
        log.push(format!("first {} {} of {}", incoming.method(), incoming.path(), sockets.len()));
        let token = incoming.query("token").map(|token| token.into_owned());
        let Some(token) = token else {
            return Err(Response::text("No token.")
                .with_status(401)
                .with_header("WWW-Authenticate", "Bearer")
                .unwrap());
        };
        incoming.attributes.set("user", token);
        Ok(())
    });
    server.filter(|log, _, incoming| {
        log.push(format!(
            "second {:?} {:?}",
            incoming.attributes.string("user"),
            incoming.param("id")
        ));
        incoming.attributes.set("from", incoming.peer_address().to_string());
        if incoming.header("x-bad").is_some() { Err(Response::new(418)) } else { Ok(()) }
    });
    server
        .route("/ws/:id", |log, kws| log.push(format!("route {:?}", kws.string_attribute("user"))))
        .unwrap();
    server
        .get("/page", |log, _, incoming| {
            log.push("page".to_owned());
            Response::text(incoming.attributes.string("user").unwrap())
        })
        .unwrap();
    server.off(Event::Connect);

    let peer = Peer::open(&mut server, "/ws/7?token=ada");
    assert_eq!(
        server.state()[..],
        ["first GET /ws/7 of 0", r#"second Some("ada") Some("7")"#, r#"route Some("ada")"#]
    );
    let mut sockets = server.sockets();
    let uuid = sockets.uuids()[0];
    assert_eq!(
        sockets.get(uuid).unwrap().string_attribute("from").unwrap(),
        peer.address().to_string()
    );
    server.state_mut().clear();

    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, upgrade("/ws/7", ""));
    let refused = peer.response(&mut server);
    refused.assert_whole();
    assert_eq!((refused.status(), refused.text()), (401, "No token."));
    assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer"));
    assert_eq!(server.state()[..], ["first GET /ws/7 of 1"], "the second is not asked");
    server.state_mut().clear();

    for request in [
        upgrade("/ws/7?token=ada", "X-Bad: 1\r\n"),
        get("/page?token=ada").replace("Host", "X-Bad: 1\r\nHost"),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request);
        let refused = peer.response(&mut server);
        refused.assert_whole();
        assert_eq!(refused.status(), 418);
        assert_eq!(server.state().len(), 2);
        server.state_mut().clear();
    }

    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, get("/page?token=grace"));
    assert_eq!(peer.response(&mut server).text(), "grace");
    assert_eq!(server.state().last().unwrap(), "page");
}

#[test]
fn a_filter_is_not_asked_about_a_request_that_is_refused_anyway() {
    let mut server = echo(Server::builder());
    server.filter(|log, _, incoming| {
        log.push(format!("asked about {}", incoming.path()));
        Ok(())
    });
    for request in [
        get("/nothing"),
        get("/ws"),
        upgrade("/ws", "").replace(KEY, "short"),
        upgrade("/ws", "").replace("GET", "PUT"),
    ] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, request);
        peer.response(&mut server);
    }
    assert_eq!(*server.state(), [""; 0]);
}

#[test]
fn a_filter_that_panics_refuses_with_500() {
    let mut server = echo(Server::builder());
    server.filter(|_, _, _| panic!("on purpose"));
    server.on_panic(|log, caught| log.push(format!("{caught:?}")));
    let mut peer = Peer::connect(&mut server);
    peer.send(&mut server, upgrade("/ws", ""));
    let refused = peer.response(&mut server);
    refused.assert_whole();
    assert_eq!(refused.status(), 500);
    assert_eq!(
        *server.state(),
        [r#"CaughtPanic { event: "filter", message: "on purpose", uuid: None }"#]
    );
}

#[test]
fn a_pattern_that_cannot_be_is_refused_and_so_is_one_that_is_taken() {
    let mut server = echo(Server::builder());
    for (pattern, why) in [
        ("ws", PatternError::NoLeadingSlash),
        ("", PatternError::NoLeadingSlash),
        ("/:", PatternError::EmptyName),
        ("/*", PatternError::EmptyName),
        ("/:a/:a", PatternError::DuplicateName("a".into())),
        ("/*rest/x", PatternError::CatchAllNotLast("rest".into())),
        ("/{id}", PatternError::Braces("{id}".into())),
        ("/a?b", PatternError::QueryOrFragment),
        ("/a b", PatternError::Whitespace),
    ] {
        let why = RouteError::Pattern(why);
        assert_eq!(server.route(pattern, |_, _| {}).unwrap_err(), why);
        assert_eq!(server.get(pattern, |_, _, _| Response::new(204)).unwrap_err(), why);
    }
    let taken = |pattern: &str| RouteError::Duplicate { pattern: pattern.to_owned() };
    assert_eq!(server.route("/ws", |_, _| {}).unwrap_err(), taken("/ws"));
    assert_eq!(server.route("/%77s", |_, _| {}).unwrap_err(), taken("/%77s"));
    server.route("/a/:x", |_, _| {}).unwrap();
    assert_eq!(server.route("/a/:y", |_, _| {}).unwrap_err(), taken("/a/:y"));
    server.get("/ws", |_, _, _| Response::new(204)).unwrap();
    assert_eq!(server.get("/ws", |_, _, _| Response::new(204)).unwrap_err(), taken("/ws"));
    let options = RouteOptions::default().subprotocols(["two words"]);
    let bad = server.route_with("/b", options, |_, _| {}).unwrap_err();
    assert_eq!(bad, RouteError::Subprotocol { name: "two words".to_owned() });
}
