//! Plain HTTP: pages on the same port as the WebSocket routes.

use std::sync::mpsc;
use std::time::Duration;

use ikisocket::{Response, Server, Shutdown};

use crate::kit::*;

const BIG: usize = 5 * 1024 * 1024;

fn big() -> Vec<u8> {
    (0..BIG).map(|at| (at % 251) as u8).collect()
}

fn site() -> Server<Log> {
    let mut server = echo(Server::builder());
    let pages = [("/", "home"), ("/about", "us")];
    for (path, text) in pages {
        server.get(path, move |_, _, _| Response::html(text)).unwrap();
    }
    server.get("/count", |_, sockets, _| Response::json(sockets.len().to_string())).unwrap();
    server.get("/big", |_, _, _| Response::new(200).with_body(big())).unwrap();
    server.get("/panic", |_, _, _| -> Response { panic!("on purpose") }).unwrap();
    server.on_panic(|log, caught| log.push(format!("{} panicked", caught.event)));
    server
}

fn ask(server: &mut Server<Log>, request: impl AsRef<[u8]>) -> crate::kit::Response {
    let mut peer = Peer::connect(server);
    peer.send(server, request);
    let response = peer.response(server);
    assert_eq!(response.end, End::Fin);
    peer.part(server);
    response
}

#[test]
fn a_page_is_answered_and_the_connection_closed() {
    let mut server = site();
    let _open = Peer::open(&mut server, "/ws");
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", "home"),
        ("/about?x=y", "text/html; charset=utf-8", "us"),
        ("http://localhost/about", "text/html; charset=utf-8", "us"),
        ("http://localhost", "text/html; charset=utf-8", "home"),
        ("/count", "application/json", "1"),
    ] {
        let page = ask(&mut server, get(path));
        page.assert_whole();
        assert_eq!(
            (page.status(), page.text(), page.header("Content-Type")),
            (200, body, Some(kind)),
            "{path}"
        );
        assert_eq!(page.header("Connection"), Some("close"));
    }
}

#[test]
fn a_head_request_that_waited_is_always_refused_without_a_body() {
    for cause in ["no decision", "a shutdown", "a filter", "the time"] {
        for method in ["HEAD", "GET"] {
            let mut server = echo(Server::builder().handshake_timeout(Duration::from_millis(30)));
            server.get("/", |_, _, _| Response::html("home")).unwrap();
            let (put_off, put_offs) = mpsc::channel();
            server.filter(move |_, sockets, incoming| {
                put_off.send(sockets.defer(incoming)).unwrap();
                Ok(())
            });
            let mut peer = Peer::connect(&mut server);
            peer.send(&mut server, request(method, "/"));
            let mut waiting = None;
            turn_until(&mut server, "the request waits", |_| {
                waiting = put_offs.try_recv().ok();
                waiting.is_some()
            });
            match cause {
                "no decision" => waiting = None,
                "a shutdown" => server.sockets().shutdown(Shutdown::default()).unwrap(),
                "a filter" => {
                    waiting.take().unwrap().reject(Response::new(503).with_body("no")).unwrap()
                }
                _ => {}
            }
            let page = peer.response(&mut server);
            drop(waiting);
            assert_eq!(page.status(), 503, "{cause}");
            assert_eq!(page.body.is_empty(), method == "HEAD", "{cause}: {}", page.text());
        }
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let mut server = site();
    for path in ["/", "/about", "/big"] {
        let page = ask(&mut server, request("HEAD", path));
        assert_eq!((page.status(), page.body.len()), (200, 0));
        let heads = (page.head, ask(&mut server, get(path)).head);
        assert_eq!(heads.0, heads.1);
    }
}

#[test]
fn what_is_not_there_or_not_allowed_is_said() {
    let mut server = site();
    for path in ["/nothing", "/about/", "//", "/a/../about"] {
        let page = ask(&mut server, get(path));
        page.assert_whole();
        assert_eq!(page.status(), 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "X"] {
        let page = ask(&mut server, request(method, "/about"));
        page.assert_whole();
        assert_eq!((page.status(), page.header("Allow")), (405, Some("GET, HEAD")), "{method}");
    }
    assert_eq!(ask(&mut server, request("OPTIONS", "*")).status(), 404);
    assert_eq!(ask(&mut server, request("CONNECT", "localhost:80")).status(), 404);
}

#[test]
fn old_and_busy_clients_are_served_too() {
    let mut server = site();
    let two = [get("/about"), get("/")].concat();
    for (name, request) in [
        ("HTTP/1.0 without Host", "GET /about HTTP/1.0\r\n\r\n".to_owned()),
        ("Connection: close", get("/about").replace("Host", "Connection: close\r\nHost")),
        ("Connection: keep-alive", get("/about").replace("Host", "Connection: keep-alive\r\nHost")),
        ("a second request behind it", two),
        (
            "a body that the server does not read",
            get("/about").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        ("empty lines before", format!("\r\n\r\n{}", get("/about"))),
    ] {
        let page = ask(&mut server, request);
        page.assert_whole();
        assert_eq!((page.status(), page.text()), (200, "us"), "{name}");
    }
}

#[test]
fn a_client_that_has_said_all_it_had_to_say_gets_its_page() {
    let mut server = site();
    for path in ["/about", "/big"] {
        let mut peer = Peer::connect(&mut server);
        peer.send(&mut server, get(path));
        peer.finish();
        let page = peer.response(&mut server);
        page.assert_whole();
        assert_eq!(page.status(), 200);
    }
}

#[test]
fn a_large_page_reaches_a_slow_reader_whole_and_delays_no_other() {
    let mut server = site();
    let mut slow = Peer::connect_narrow(&mut server, 16 * 1024);
    slow.send(&mut server, get("/big"));
    let mut quick = Peer::open(&mut server, "/ws");
    let mut turns = 0;
    turn_until(&mut server, "the page", |_| {
        turns += 1;
        slow.read_some(50_000) == 0 && slow.received().len() > BIG
    });
    assert!(turns > 20, "it was slow");
    quick.send(&mut server, frame(TEXT, "still here"));
    quick.expect_text(&mut server, "still here");
    let page = slow.response(&mut server);
    page.assert_whole();
    assert!(page.body == big());
    slow.part(&mut server);
}

#[test]
fn a_page_that_panics_is_500_and_the_others_go_on() {
    let mut server = site();
    let page = ask(&mut server, get("/panic"));
    page.assert_whole();
    assert_eq!((page.status(), &server.state()[..]), (500, &["page panicked".to_owned()][..]));
    assert_eq!(ask(&mut server, get("/about")).text(), "us");
}
