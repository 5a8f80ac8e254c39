//! Heads with one bad element: where that is safe only the element is ignored. A head that can be
//! read in two ways is refused.

use ikisocket::{Builder, Server, Socket};

use crate::kit::*;

/// A handshake for a path, with these lines in addition, in bytes.
fn handshake(path: &str, lines: &[u8]) -> Vec<u8> {
    let head = upgrade(path, "");
    [head.strip_suffix("\r\n").unwrap().as_bytes(), lines, b"\r\n"].concat()
}

/// The same, with another value of one of its headers.
fn replaced(from: &str, to: &[u8]) -> Vec<u8> {
    let head = upgrade("/ws", "");
    let (before, behind) = head.split_once(from).unwrap();
    [before.as_bytes(), to, behind.as_bytes()].concat()
}

/// A server whose route writes down what `seen` finds.
fn probe(settings: Builder, seen: impl Fn(&Socket<'_, Log>) -> String + 'static) -> Server<Log> {
    let mut server = settings.build(Log::new()).unwrap();
    listen(&mut server);
    let seen = std::rc::Rc::new(seen);
    for pattern in ["/ws", "/ws/:id", "/files/*rest"] {
        let seen = seen.clone();
        server.route(pattern, move |log, kws| log.push(seen(kws))).unwrap();
    }
    server
}

/// The head of the response.
fn answered(server: &mut Server<Log>, request: impl AsRef<[u8]>) -> String {
    server.state_mut().clear();
    let mut peer = Peer::connect(server);
    peer.send(server, request);
    let head = peer.head(server);
    peer.reset();
    turn(server);
    head
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[track_caller]
fn assert_statuses(server: &mut Server<Log>, rows: Vec<(&str, Vec<u8>, u16)>) {
    for (name, request, expected) in rows {
        let head = answered(server, request);
        assert_eq!(status(&head), expected, "{name}: {head}");
        assert_eq!(
            server.state().len(),
            usize::from(expected == 101),
            "{name}: {:?}",
            server.state()
        );
    }
}

#[test]
fn a_cookie_that_is_no_text_costs_itself_and_only_blanks_are_trimmed() {
    let mut server = probe(Server::builder(), |kws| {
        let cookies: Vec<_> = kws.request().unwrap().cookies().collect();
        let cookies: Vec<_> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{:?} {:?} of {cookies:?}",
            kws.cookie("sid").as_deref(),
            kws.cookie("theme").as_deref()
        )
    });
    for (lines, seen) in [
        (&b"Cookie: theme=caf\xe9; sid=abc\r\n"[..], r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: sid=abc; theme=caf\xe9\r\n", r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: theme=caf\xe9\r\nCookie: sid=abc\r\n", r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: \xff=1; sid=abc; \xfe\r\n", r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: sid=\xff; sid=abc\r\n", r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: theme=%FF; sid=abc\r\n", r#"Some("abc") None of ["sid=abc"]"#),
        (b"Cookie: sid=%FF; theme=%FE\r\n", "None None of []"),
        (
            b"Cookie: theme=caf\xc3\xa9; sid=%C3%A9\r\n",
            r#"Some("é") Some("café") of ["theme=café", "sid=é"]"#,
        ),
        // What another reader takes for part of the name is no white space here.
        (
            b"Cookie: \xc2\xa0sid=evil; sid=abc\r\n",
            r#"Some("abc") None of ["\u{a0}sid=evil", "sid=abc"]"#,
        ),
        (b"Cookie: \xe2\x80\x83sid=evil\r\n", r#"None None of ["\u{2003}sid=evil"]"#),
        (b"Cookie: sid=abc\xc2\xa0\r\n", r#"Some("abc\u{a0}") None of ["sid=abc\u{a0}"]"#),
        (b"Cookie: ;; \tsid\t = abc\t;;=;\r\n", r#"Some("abc") None of ["sid=abc", "="]"#),
        (
            b"Cookie: a=\"x; sid=abc; b=y\"\r\n",
            r#"Some("abc") None of ["a=\"x", "sid=abc", "b=y\""]"#,
        ),
        (b"Cookie: sid=\"a,b\"\r\n", r#"Some("a,b") None of ["sid=a,b"]"#),
        (b"Cookie: SID=1; sid=2; sid=3\r\n", r#"Some("2") None of ["SID=1", "sid=2", "sid=3"]"#),
        (b"Cookie:\r\n", "None None of []"),
    ] {
        let head = answered(&mut server, handshake("/ws", lines));
        assert_eq!(status(&head), 101);
        assert_eq!(*server.state(), [seen], "{}", lines.escape_ascii());
    }
}

#[test]
fn a_subprotocol_that_is_no_token_costs_itself() {
    let mut server = probe(Server::builder().subprotocols(["v1", "v2"]), |_| String::new());
    for (lines, chosen) in [
        (&b"Sec-WebSocket-Protocol: v1, caf\xe9\r\n"[..], Some("v1")),
        (b"Sec-WebSocket-Protocol: caf\xe9, v1\r\n", Some("v1")),
        (b"Sec-WebSocket-Protocol: \xff\r\nSec-WebSocket-Protocol: v2\r\n", Some("v2")),
        (b"Sec-WebSocket-Protocol: ,, ,v2 ,\t,\r\n", Some("v2")),
        (b"Sec-WebSocket-Protocol: v2,v2, v1 ,v1\r\n", Some("v1")),
        (b"Sec-WebSocket-Protocol: v1\xff\r\n", None),
        (b"Sec-WebSocket-Protocol: \xc2\xa0v1\r\n", None),
        (b"Sec-WebSocket-Protocol: v1 v2\r\n", None),
        (b"Sec-WebSocket-Protocol: \"v1\"\r\n", None),
        (b"Sec-WebSocket-Protocol: \"x, v1, y\"\r\n", None),
        (b"Sec-WebSocket-Protocol: \"x, v1, y\", v2\r\n", Some("v2")),
        (b"Sec-WebSocket-Protocol: \"x, v1\r\n", None),
        (b"Sec-WebSocket-Protocol: V1, v2\r\n", Some("v2")),
    ] {
        let head = answered(&mut server, handshake("/ws", lines));
        assert_eq!(
            (status(&head), header(&head, "Sec-WebSocket-Protocol")),
            (101, chosen),
            "{}",
            lines.escape_ascii()
        );
    }
}

#[test]
fn two_origin_lines_of_any_bytes_are_refused_where_origins_are_restricted() {
    let rows = |refused| {
        vec![
            ("one", handshake("/ws", b"Origin: https://ok.example\r\n"), 101),
            (
                "no text behind it",
                handshake("/ws", b"Origin: https://ok.example\r\nOrigin: \xff\r\n"),
                refused,
            ),
            (
                "no text before it",
                handshake("/ws", b"Origin: \xff\r\nOrigin: https://ok.example\r\n"),
                refused,
            ),
            (
                "nothing behind it",
                handshake("/ws", b"Origin: https://ok.example\r\norigin:\r\n"),
                refused,
            ),
            (
                "twice the same",
                handshake("/ws", b"Origin: https://ok.example\r\n".repeat(2).as_slice()),
                refused,
            ),
            (
                "a list",
                handshake("/ws", b"Origin: https://ok.example, https://ok.example\r\n"),
                refused,
            ),
            (
                "two words",
                handshake("/ws", b"Origin: https://ok.example https://evil.example\r\n"),
                refused,
            ),
            ("no text in it", handshake("/ws", b"Origin: https://ok.example\xff\r\n"), refused),
            (
                "no ASCII space",
                handshake("/ws", b"Origin: \xc2\xa0https://ok.example\r\n"),
                refused,
            ),
        ]
    };
    assert_statuses(
        &mut probe(Server::builder().origins(["https://ok.example"]), |_| String::new()),
        rows(403),
    );
    // Where they are not, nothing reads them.
    assert_statuses(&mut probe(Server::builder(), |_| String::new()), rows(101));
    assert_statuses(&mut probe(Server::builder().origins(["*"]), |_| String::new()), rows(101));
}

#[test]
fn extensions_that_rfc_6455_section_9_1_forbids_are_refused_entirely() {
    let extension =
        |value: &[u8]| handshake("/ws", &[b"Sec-WebSocket-Extensions: ", value, b"\r\n"].concat());
    let rows = vec![
        ("commas in a quoted string", extension(br#"foo; bar="\", permessage-deflate, \"""#), 400),
        ("commas in plain quotes", extension(br#"foo; bar="a, permessage-deflate""#), 400),
        ("an open quote", extension(br#"foo; bar="a, permessage-deflate"#), 400),
        (
            "a quote that a second line closes",
            handshake(
                "/ws",
                b"Sec-WebSocket-Extensions: a; b=\"1\r\nSec-WebSocket-Extensions: 2\"\r\n",
            ),
            400,
        ),
        ("a quote behind a token", extension(br#"foo; bar=a"b, c""#), 400),
        ("a backslash outside quotes", extension(br"foo; bar=a\, permessage-deflate"), 400),
        ("an empty parameter", extension(b"permessage-deflate;"), 400),
        ("an empty value", extension(b"permessage-deflate; client_max_window_bits="), 400),
        ("a value without a name", extension(b"permessage-deflate; =15"), 400),
        ("two words", extension(b"permessage deflate"), 400),
        ("no text", extension(b"permessage-deflate, caf\xe9"), 400),
        (
            "no text in a value",
            extension(b"permessage-deflate; client_max_window_bits=\"\xff\""),
            400,
        ),
        ("no ASCII space", extension(b"\xc2\xa0permessage-deflate"), 400),
        (
            "a good line and a bad one",
            handshake(
                "/ws",
                b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: ;\r\n",
            ),
            400,
        ),
        ("another one", extension(b"x-webkit-deflate-frame; a; b=1"), 101),
        ("empty elements", extension(b", ,permessage-deflate ,\t,"), 101),
        ("nothing", extension(b""), 101),
    ];
    assert_statuses(&mut probe(Server::builder(), |_| String::new()), rows);
}

#[cfg(feature = "deflate")]
#[test]
fn an_offer_is_read_as_its_quoted_strings_say() {
    use ikisocket::Deflate;

    let mut server = probe(Server::builder().deflate(Deflate::dedicated()), |_| String::new());
    for (value, answer) in [
        (
            r#"permessage-deflate; client_max_window_bits="1\2""#,
            Some("permessage-deflate; client_max_window_bits=12"),
        ),
        (
            r#"permessage-deflate; client_max_window_bits = "\1\2""#,
            Some("permessage-deflate; client_max_window_bits=12"),
        ),
        (
            r#"permessage-deflate; client_max_window_bits="12""#,
            Some("permessage-deflate; client_max_window_bits=12"),
        ),
        (r#"foo; bar="\a", permessage-deflate"#, Some("permessage-deflate")),
        (
            r#"PERMESSAGE-DEFLATE; Client_Max_Window_Bits="12""#,
            Some("permessage-deflate; client_max_window_bits=12"),
        ),
        (r#"permessage-deflate; client_max_window_bits="1 2""#, None),
        (r#"foo; bar="\", permessage-deflate, \"""#, None),
        ("permessage-deflate; client_max_window_bits=012, foo", None),
    ] {
        let head = answered(
            &mut server,
            upgrade("/ws", &format!("Sec-WebSocket-Extensions: {value}\r\n")),
        );
        assert_eq!(header(&head, "Sec-WebSocket-Extensions"), answer, "{value}: {head}");
    }
}

#[test]
fn a_path_that_is_no_text_is_refused_and_paths_never_share_a_parameter() {
    let mut server =
        probe(Server::builder(), |kws| format!("{:?} {:?}", kws.param("id"), kws.param("rest")));
    server
        .get("/page/:id", |_, _, _| -> ikisocket::Response { unreachable!("it is refused") })
        .unwrap();
    for path in [
        "/ws/%FF",
        "/ws/%FE",
        "/ws/%ff",
        "/ws/a%C3",
        "/ws/%C3%28",
        "/ws/%ED%A0%80",
        "/ws/%C0%AF",
        "/ws/%F4%90%80%80",
        "/files/%FF",
        "/files/a/%C3/%A9",
        "/files/%C3%2F%A9",
        "/page/%FF",
        "/nothing/%FF",
        "http://localhost/ws/%FF",
    ] {
        for request in [handshake(path, b""), get(path).into_bytes()] {
            let head = answered(&mut server, request);
            assert_eq!((status(&head), server.state().len()), (400, 0), "{path}: {head}");
        }
    }
    for (path, seen) in [
        ("/ws/%EF%BF%BD", "Some(\"\u{fffd}\") None"),
        ("/ws/%C3%A9", r#"Some("é") None"#),
        ("/ws/é", r#"Some("é") None"#),
        ("/ws/%41%2F%25%00", r#"Some("A/%\0") None"#),
        ("/files/%C3%A9/%2B+", r#"None Some("é/++")"#),
        ("/ws/7?%FF=%FE", r#"Some("7") None"#),
    ] {
        assert_eq!(status(&answered(&mut server, handshake(path, b""))), 101, "{path}");
        assert_eq!(*server.state(), [seen], "{path}");
    }
}

#[test]
fn a_pair_of_the_query_that_is_no_text_costs_itself() {
    let mut server = probe(Server::builder(), |kws| {
        let pairs: Vec<_> = kws
            .request()
            .unwrap()
            .query_pairs()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        format!("{:?} of {pairs:?}", kws.query("a").as_deref())
    });
    for (query, seen) in [
        ("a=%FF", "None of []"),
        ("a=%FE", "None of []"),
        ("a=%FF&b=1", r#"None of ["b=1"]"#),
        ("%FF=1&a=2", r#"Some("2") of ["a=2"]"#),
        ("a=1&a=%FF", r#"Some("1") of ["a=1"]"#),
        ("a=%C3%A9&b=%C3", r#"Some("é") of ["a=é"]"#),
        ("a=%EF%BF%BD", "Some(\"\u{fffd}\") of [\"a=\u{fffd}\"]"),
        ("a=1&&=&%61=+2%2B&b", r#"Some(" 2+") of ["a=1", "=", "a= 2+", "b="]"#),
        ("a=%2&a%=%zz", r#"Some("%2") of ["a=%2", "a%=%zz"]"#),
    ] {
        assert_eq!(
            status(&answered(&mut server, handshake(&format!("/ws?{query}"), b""))),
            101,
            "{query}"
        );
        assert_eq!(*server.state(), [seen], "{query}");
    }
}

#[test]
fn every_header_that_is_read_has_one_meaning_or_none() {
    let rows = vec![
        // A bad element of `Upgrade` and `Connection` is ignored ...
        (
            "Upgrade with another element",
            replaced("Upgrade: websocket", b"Upgrade: websocket, caf\xe9"),
            101,
        ),
        (
            "Connection with another element",
            replaced("Connection: Upgrade", b"Connection: \xff, upgrade"),
            101,
        ),
        (
            "Connection with a quoted string",
            replaced("Connection: Upgrade", b"Connection: \"a, b\", upgrade"),
            101,
        ),
        (
            "Connection with tabs and empty elements",
            replaced("Connection: Upgrade", b"Connection: ,\t,\tUPGRADE\t, ,"),
            101,
        ),
        ("Connection in two lines, one no text", handshake("/ws", b"Connection: \xff\r\n"), 101),
        // ... and is found by all readers or none.
        (
            "Upgrade with an element that is no text",
            replaced("Upgrade: websocket", b"Upgrade: websocket\xff"),
            426,
        ),
        (
            "Connection: upgrade in a quoted string",
            replaced("Connection: Upgrade", b"Connection: \"a, upgrade, b\""),
            426,
        ),
        (
            "Connection: upgrade behind an open quote",
            replaced("Connection: Upgrade", b"Connection: \"a, upgrade"),
            426,
        ),
        (
            "Connection: a quoted pair",
            replaced("Connection: Upgrade", br#"Connection: "\", upgrade, \"""#),
            426,
        ),
        (
            "Upgrade behind a space that is none",
            replaced("Upgrade: websocket", b"Upgrade: \xc2\xa0websocket"),
            426,
        ),
        (
            "Connection before a space that is none",
            replaced("Connection: Upgrade", b"Connection: upgrade\xe2\x80\x83"),
            426,
        ),
        // Exactly one line, of any bytes.
        (
            "a second version that is no text",
            handshake("/ws", b"Sec-WebSocket-Version: \xff\r\n"),
            426,
        ),
        ("a second version that is empty", handshake("/ws", b"Sec-WebSocket-Version:\r\n"), 426),
        (
            "a version behind a space that is none",
            replaced("Version: 13", b"Version: \xc2\xa013"),
            426,
        ),
        ("a version behind tabs", replaced("Version: 13", b"Version:\t13\t"), 101),
        ("a second key that is no text", handshake("/ws", b"Sec-WebSocket-Key: \xff\r\n"), 400),
        ("a key that is no text", replaced(KEY, b"dGhlIHNhbXBsZSBub25j\xff\xff=="), 400),
        ("a second Host that is no text", handshake("/ws", b"Host: \xff\r\n"), 400),
        ("a Host that is no text", replaced("Host: localhost", b"Host: \xff"), 400),
        ("a Host in another alphabet", replaced("Host: localhost", "Host: bücher".as_bytes()), 400),
        (
            "a Host behind a space that is none",
            replaced("Host: localhost", b"Host: \xc2\xa0localhost"),
            400,
        ),
        // Where the body ends.
        ("a length that is no text", handshake("/ws", b"Content-Length: \xff\r\n"), 400),
        (
            "a length behind a space that is none",
            handshake("/ws", b"Content-Length: \xc2\xa00\r\n"),
            400,
        ),
        ("a length in two spellings", handshake("/ws", b"Content-Length: 0, 00\r\n"), 400),
        ("a length with an empty element", handshake("/ws", b"Content-Length: 0,\r\n"), 400),
        ("a quoted length", handshake("/ws", b"Content-Length: \"0\"\r\n"), 400),
        (
            "the same length several times",
            handshake("/ws", b"Content-Length: 0 ,0\r\ncontent-length:\t0\r\n"),
            101,
        ),
        ("an encoding that is no text", handshake("/ws", b"Transfer-Encoding: \xff\r\n"), 400),
        ("an empty encoding", handshake("/ws", b"Transfer-Encoding:\r\n"), 400),
        // No body, so nothing to expect.
        ("Expect", handshake("/ws", b"Expect: 100-continue\r\n"), 101),
        ("Expect that is no text", handshake("/ws", b"Expect: \xff\r\n"), 101),
    ];
    assert_statuses(&mut probe(Server::builder(), |_| String::new()), rows);
}
