//! The opening handshake: it reads the bytes of an HTTP/1.1 request head and writes the bytes of a
//! response.
//!
//! It knows no socket, no clock, no connection and no listener, so all of it can be used and tested
//! in memory. A request passes these steps in order:
//!
//! 1. [`HeadScanner`] finds the end of the head while it arrives, and refuses bytes that cannot
//!    become a head.
//! 2. [`Request::parse`] turns the head into an owned snapshot of the request.
//! 3. A router says which route its [`path`](Request::path) leads to; [`Request::set_params`] keeps
//!    the parameters.
//! 4. [`check_handshake`] decides whether it is a WebSocket handshake that can be accepted (RFC
//!    6455 §4.2.1); [`origin_allowed`] and [`choose_subprotocol`] check the rest of it.
//! 5. [`write_switching_protocols`] writes the 101, or a [`Refusal`] becomes a [`Response`].
//!
//! Nothing here panics, whatever bytes arrive.
//!
//! A server skips the first step for a head that arrives in one piece and has the right form. Most
//! heads do.
//!
//! The cost of a head: a usual one takes 1 to 3 µs of CPU, and half of that in a server. The most
//! expensive heads that are known take about 4 ns for each byte, so 60 µs at the default limit of
//! 16 KiB: lists of thousands of elements, and paths that consist of escapes. Each step goes
//! through the head once, and no step takes longer for a byte because of the bytes before it. Two
//! steps can take longer. `choose_subprotocol` takes about 1 ns for each offer and each of the
//! server's own names of the same length. The search for a route takes about 0.3 ns for each byte
//! of a segment and each pattern that has a parameter there and agrees with the path before it.
//! `query` and `cookie` take up to 2 ns for each byte at each call. (`cargo bench --bench micro --
//! request` measures most of them.)
//!
//! ```
//! use ikisocket::http::{
//!     HeadLimits, HeadScanner, Request, Scan, check_handshake, write_switching_protocols,
//! };
//!
//! let received = b"GET /chat?room=1 HTTP/1.1\r\n\
//!     Host: example.org\r\n\
//!     Upgrade: websocket\r\n\
//!     Connection: Upgrade\r\n\
//!     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
//!     Sec-WebSocket-Version: 13\r\n\r\n";
//!
//! let limits = HeadLimits::default();
//! let mut scanner = HeadScanner::default();
//! let Scan::Complete(length) = scanner.scan(received, &limits)? else { panic!("not all of it") };
//! let request = Request::parse(&received[..length], &limits)?;
//! assert_eq!(request.path(), "/chat");
//! assert_eq!(request.query("room").as_deref(), Some("1"));
//!
//! let key = check_handshake(&request)?;
//! let mut out = Vec::new();
//! write_switching_protocols(&key, None, None, &mut out);
//! assert!(out.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
//! # Ok::<(), ikisocket::http::Refusal>(())
//! ```
//!
//! # Patterns
//!
//! The pattern of a route or a page ([`Server::route`](crate::Server::route)) is a path. A segment
//! that begins with `:` is a parameter, which matches one segment that is not empty. A last segment
//! that begins with `*` is a catch-all, which matches the rest of the path, slashes included, and
//! also an empty rest: `/files/*rest` matches `/files/`, but not `/files`. All other segments match
//! literally, except that percent-encoding makes no difference: the pattern `/café` matches the
//! path `/caf%C3%A9`. A slash at the end and `..` have no special meaning.
//!
//! If several patterns match a path, those without a catch-all come first. Of these, the literal
//! segment is preferred to the parameter, segment by segment from the left; if that leads to no
//! match, the next choice is tried. Of several catch-alls, the one with the most segments before
//! the `*` is taken. The order in which routes were added has no influence. Two patterns that
//! differ only in the names of their parameters are the same pattern.
//!
//! [`PatternError`] lists the texts that are not patterns.

mod deflate;
mod extensions;
mod handshake;
mod head;
mod header_list;
mod limits;
mod pattern;
mod refusal;
mod request;
mod response;
mod syntax;

pub use deflate::{DeflateParams, agree_on_deflate};
pub use handshake::{
    Key, OriginError, accept_key, check_handshake, check_origin, choose_subprotocol,
    origin_allowed, write_switching_protocols,
};
pub use head::{HeadScanner, Scan};
pub use limits::HeadLimits;
pub use pattern::PatternError;
// For the fuzz targets and the benchmarks.
#[doc(hidden)]
pub use pattern::{ParamNames, Routes};
pub use refusal::Refusal;
pub use request::Request;
pub use response::{HeaderError, Response};
pub use syntax::is_token;

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

    /// The whole handshake, with bytes arriving in pieces of this many.
    fn outcome(bytes: &[u8], piece: usize) -> Result<Key, Refusal> {
        let limits = HeadLimits::default();
        let mut scanner = HeadScanner::default();
        let mut arrived = 0;
        while arrived < bytes.len() {
            arrived = bytes.len().min(arrived + piece);
            if let Scan::Complete(length) = scanner.scan(&bytes[..arrived], &limits)? {
                return check_handshake(&Request::parse(&bytes[..length], &limits)?);
            }
        }
        panic!("the head never ends: {}", String::from_utf8_lossy(bytes));
    }

    /// The whole handshake without the scanner, unless the scanner has to look at the head.
    fn at_once(bytes: &[u8]) -> Option<Result<Key, Refusal>> {
        let (request, _) = Request::in_one_piece(bytes, &HeadLimits::default())?;
        Some(request.and_then(|request| check_handshake(&request)))
    }

    fn assert_refused(name: &str, bytes: impl AsRef<[u8]>, status: u16, because: &str) {
        let bytes = bytes.as_ref();
        let refusal = outcome(bytes, bytes.len()).expect_err(name);
        assert_eq!(at_once(bytes).unwrap_or(Err(refusal.clone())), Err(refusal.clone()), "{name}");
        assert_eq!(refusal.status(), status, "{name}: {refusal}");
        assert!(refusal.to_string().contains(because), "{name}: {refusal}");
        for piece in [1, 2, 3, 7] {
            assert_eq!(outcome(bytes, piece), Err(refusal.clone()), "{name}, in pieces of {piece}");
        }
    }

    fn assert_accepted(name: &str, head: &str) {
        for piece in [head.len(), 1, 2, 3, 7] {
            assert!(outcome(head.as_bytes(), piece).is_ok(), "{name}, in pieces of {piece}");
        }
        assert!(matches!(at_once(head.as_bytes()), Some(Ok(_))), "{name}, at once");
    }

    /// A handshake that is accepted, with these header lines in addition.
    fn with(lines: &str) -> String {
        format!("GET /ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}{KEY}{VERSION}{lines}\r\n")
    }

    fn with_request_line(line: &str) -> String {
        format!("{line}\r\nHost: a\r\n{UPGRADE}{KEY}{VERSION}\r\n")
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_malformed() {
        let good = with("");
        let rows: &[(&str, String, &str)] = &[
            ("two hosts", with("Host: b\r\n"), "more than one Host"),
            ("no host", good.replace("Host: a\r\n", ""), "no Host"),
            ("host with a path", good.replace("Host: a", "Host: a/b"), "not a host name"),
            ("host with a user", good.replace("Host: a", "Host: me@a"), "not a host name"),
            ("two names in one host", good.replace("Host: a", "Host: a b"), "not a host name"),
            (
                "length and chunked",
                with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
                "together",
            ),
            ("chunked upgrade", with("Transfer-Encoding: chunked\r\n"), "with a body"),
            ("upgrade with a body", with("Content-Length: 5\r\n"), "with a body"),
            (
                "two lengths",
                with("Content-Length: 0\r\nContent-Length: 5\r\n"),
                "more than one Content-Length",
            ),
            ("a list of lengths", with("Content-Length: 0, 5\r\n"), "more than one Content-Length"),
            ("signed length", with("Content-Length: +0\r\n"), "not a number"),
            ("empty length", with("Content-Length:\r\n"), "not a number"),
            ("hexadecimal length", with("Content-Length: 0x0\r\n"), "not a number"),
            ("endless length", with("Content-Length: 99999999999999999999\r\n"), "not a number"),
            ("two keys", with(KEY), "more than one Sec-WebSocket-Key"),
            ("folded line", with("X: a\r\n b\r\n"), "folded"),
            ("fold behind the request line", good.replace("\r\nHost", "\r\n Host"), "folded"),
            ("space before the colon", with("X : a\r\n"), "before the colon"),
            ("no colon", with("X\r\n"), "Name: value"),
            ("empty name", with(": a\r\n"), "Name: value"),
            ("bare LF", with("X: a\n"), "LF without CR"),
            ("bare LF at the end", good.replace("\r\n\r\n", "\r\n\n"), "LF without CR"),
            ("bare LF before the request line", format!("\n{good}"), "LF without CR"),
            ("bare CR", with("X: a\rb\r\n"), "CR is not followed"),
            ("two CRs", with("X: a\r\r\n"), "CR is not followed"),
            ("NUL in a value", with("X: a\0b\r\n"), "control character"),
            ("NUL in a name", with("X\0: a\r\n"), "control character"),
            ("DEL", with("X: \x7f\r\n"), "control character"),
            ("letters outside ASCII in a name", with("Ü: a\r\n"), "Name: value"),
            ("authority form", with_request_line("GET a:80 HTTP/1.1"), "target"),
            ("asterisk form", with_request_line("GET * HTTP/1.1"), "target"),
            ("relative path", with_request_line("GET ws HTTP/1.1"), "target"),
            (
                "absolute form without a host",
                with_request_line("GET http:///ws HTTP/1.1"),
                "target",
            ),
            (
                "absolute form with a user",
                with_request_line("GET http://me@a/ws HTTP/1.1"),
                "target",
            ),
            ("unknown scheme", with_request_line("GET ftp://a/ws HTTP/1.1"), "target"),
            ("fragment", with_request_line("GET /ws#top HTTP/1.1"), "fragment"),
            ("two spaces", with_request_line("GET  /ws HTTP/1.1"), "request line"),
            ("tab for a space", with_request_line("GET\t/ws HTTP/1.1"), "request line"),
            ("no version", with_request_line("GET /ws"), "request line"),
            ("HTTP/2.0", with_request_line("GET /ws HTTP/2.0"), "HTTP/1.1"),
            ("lower-case version", with_request_line("GET /ws http/1.1"), "HTTP/1.1"),
            (
                "HTTP/1.0 chunked",
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                "HTTP/1.0",
            ),
        ];
        for (name, head, because) in rows {
            assert_refused(name, head, 400, because);
        }
    }

    #[test]
    fn other_protocols_are_refused_at_their_first_line() {
        assert_refused("greeting", "hello there\r\n", 400, "HTTP/1.1");
        assert_refused("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/1.1");
        assert_refused(
            "TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            400,
            "a TLS handshake",
        );
        assert_refused("HTTP/0.9", "GET /\r\n", 400, "request line");
    }

    #[test]
    fn what_is_no_acceptable_upgrade_is_refused_in_order() {
        let good = with("");
        let rows: &[(&str, String, u16, &str)] = &[
            ("plain", "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n".into(), 426, "WebSocket endpoint"),
            (
                "plain with a body",
                "POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n".into(),
                426,
                "WebSocket endpoint",
            ),
            ("HTTP/1.0", with_request_line("GET /ws HTTP/1.0"), 426, "WebSocket endpoint"),
            (
                "no Connection",
                good.replace("Connection: Upgrade\r\n", ""),
                426,
                "WebSocket endpoint",
            ),
            (
                "keep-alive only",
                good.replace("Connection: Upgrade", "Connection: keep-alive"),
                426,
                "WebSocket",
            ),
            ("no Upgrade", good.replace("Upgrade: websocket\r\n", ""), 426, "WebSocket endpoint"),
            (
                "another protocol",
                good.replace("websocket\r\n", "h2c\r\n"),
                426,
                "WebSocket endpoint",
            ),
            (
                "part of a word",
                good.replace("websocket\r\n", "websockets\r\n"),
                426,
                "WebSocket endpoint",
            ),
            ("no version", good.replace(VERSION, ""), 426, "version 13"),
            ("old version", good.replace("Version: 13", "Version: 8"), 426, "version 13"),
            ("two versions", with(VERSION), 426, "version 13"),
            (
                "version before key",
                good.replace("Version: 13", "Version: 8").replace(KEY, ""),
                426,
                "13",
            ),
            ("no key", good.replace(KEY, ""), 400, "Sec-WebSocket-Key"),
            (
                "short key",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
                400,
                "Sec-WebSocket-Key",
            ),
            (
                "17 bytes",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE="),
                400,
                "Key",
            ),
            (
                "18 bytes",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSEh"),
                400,
                "Key",
            ),
            (
                "no base64",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j!Q=="),
                400,
                "Key",
            ),
            (
                "no padding",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
                400,
                "Key",
            ),
        ];
        for (name, head, status, because) in rows {
            assert_refused(name, head, *status, because);
        }
    }

    #[test]
    fn what_clients_really_send_is_accepted() {
        let good = with("");
        let rows: &[(&str, String)] = &[
            ("plain", good.clone()),
            ("Firefox", good.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade")),
            (
                "any case",
                good.replace("Upgrade: websocket", "UPGRADE: WebSocket").replace("Host", "hOST"),
            ),
            (
                "lists on two lines",
                good.replace("Connection: Upgrade", "Connection: a\r\nconnection: b ,\tupgrade"),
            ),
            ("several protocols", good.replace("Upgrade: websocket", "Upgrade: h2c, websocket")),
            ("no space after the colon", good.replace(": ", ":")),
            ("empty lines before", format!("\r\n\r\n{good}")),
            ("absolute form", with_request_line("GET http://example.org:80/ws HTTP/1.1")),
            ("ws scheme", with_request_line("GET WS://example.org/ws HTTP/1.1")),
            ("empty body", with("Content-Length: 0\r\n")),
            ("empty host", good.replace("Host: a", "Host:")),
            ("IPv6 host", good.replace("Host: a", "Host: [::1]:80")),
            (
                "the key of RFC 6455 §4.1",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC=="),
            ),
            ("letters outside ASCII in a value", with("X: Grüße\r\n")),
            ("tab in a value", with("X: a\tb\r\n")),
        ];
        for (name, head) in rows {
            assert_accepted(name, head);
        }
    }

    #[test]
    fn too_large_is_431_and_malformed_wins() {
        let many = "X: a\r\n".repeat(96);
        assert_refused("101 headers", with(&many), 431, "too many headers");
        assert_accepted("100 headers", &with(&many[6..]));
        // The head is judged up to the header that is one too many. The text behind that is not
        // read at all.
        let early = |line: &str| with(&format!("{line}{many}"));
        assert_refused("malformed before header 101", early("X : a\r\n"), 400, "before the colon");
        assert_refused(
            "two hosts before header 101",
            early("Host: a\r\n"),
            400,
            "more than one Host",
        );
        assert_refused(
            "two lengths before header 101",
            early("Content-Length: 1, 2\r\n"),
            400,
            "Content-Length",
        );
        assert_refused(
            "no host before header 101",
            early("").replace("Host: a\r\n", "Y: a\r\n"),
            431,
            "too many",
        );
        let late = |line: &str| with(&format!("{}{line}", &many[6..]));
        assert_refused("header 101 begins with a space", late(" X: a\r\n"), 400, "folded");
        assert_refused("header 101 begins with NUL", late("\0X: a\r\n"), 400, "control character");
        assert_refused("header 101 begins with LF", late("\nX: a\r\n"), 400, "LF without CR");
        assert_refused("header 101 is malformed further on", late("X : a\r\n"), 431, "too many");
        assert_refused("header 101 is the second Host", late("Host: a\r\n"), 431, "too many");
        let begun = late("X");
        assert_refused(
            "header 101 has begun",
            begun.strip_suffix("\r\n").unwrap(),
            431,
            "too many",
        );

        let long = |length| format!("X: {}\r\n", "a".repeat(length));
        let most = 16 * 1024 - with(&long(0)).len();
        assert_accepted("as large as allowed", &with(&long(most)));
        assert_refused("one byte more", with(&long(most + 1)), 431, "too large");
        assert_refused("endless line", with(&long(1 << 17)), 431, "too large");
        assert_refused(
            "endless path",
            format!("GET /{} HTTP/1.1", "a".repeat(1 << 15)),
            431,
            "too large",
        );
        assert_refused("endless word", "a".repeat(1 << 15), 431, "too large");
        assert_refused("endless nonsense", "(".repeat(1 << 15), 400, "request line");
        assert_refused(
            "malformed, then endless",
            with(&format!("X : a\r\n{}", long(1 << 15))),
            400,
            "colon",
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let head = with("Cookie: a=%\r\nContent-Length: 0\r\n");
        let limits = HeadLimits::default();
        for at in 0..head.len() {
            for byte in [0, b'\t', b'\n', b'\r', b' ', b'%', b',', b':', b'/', b'?', 0x80, 0xff] {
                let mut bytes = head.clone().into_bytes();
                bytes[at] = byte;
                let scanned = HeadScanner::default().scan(&bytes, &limits);
                let parsed = Request::parse(&bytes, &limits);
                if let (Err(refused), Ok(_)) = (&scanned, &parsed) {
                    // A fault that only the scanner refuses would be a way around it.
                    panic!("byte {byte} at {at}: {refused}");
                }
                if let Ok(request) = parsed {
                    let _ = check_handshake(&request);
                    let _ = (request.decoded_path(), request.query("a"), request.cookie("a"));
                    let _ = Routes::<()>::default().find(request.path());
                }
                let _ = Request::parse(&bytes[..at], &limits);
            }
        }
    }
}
