//! What a request head costs until its 101 or its refusal, without sockets: two usual ones, and
//! those of 16 KiB that cost most.

use criterion::{BenchmarkId, Criterion, Throughput};
use ikisocket::http::{
    DeflateParams, HeadLimits, HeadScanner, ParamNames, Refusal, Request, Routes, Scan,
    agree_on_deflate, check_handshake, choose_subprotocol, origin_allowed,
    write_switching_protocols,
};
use std::hint::black_box;

const SUBPROTOCOLS: [&str; 8] = ["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"];
/// The default limit of a head, in bytes.
const LARGEST: usize = 16 * 1024;

pub fn all(criterion: &mut Criterion) {
    let mut routes: Routes<()> = Routes::default();
    let mut names = ParamNames::default();
    for pattern in ["/ws", "/ws/:id", "/:a/:b/:c", "/ws/*rest"] {
        names = routes.slot(pattern).unwrap().1;
    }

    let mut group = criterion.benchmark_group("a request head");
    for (name, head) in heads() {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| drop(black_box(answer(black_box(&head), &routes, &names))));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("look up in a request of 16 KiB");
    for (name, head) in [
        ("query a&", full("/ws?", "a&", "")),
        ("query %61&", full("/ws?", "%61&", "")),
        ("cookie ;", full("/ws", ";", "Cookie")),
        ("cookie sie=;", full("/ws", "sie=;", "Cookie")),
    ] {
        let request = Request::parse(&head, &HeadLimits::default()).unwrap();
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                black_box(&request).query("token").is_some()
                    | black_box(&request).cookie("sid").is_some()
            });
        });
    }
    group.finish();
}

/// All steps of the handshake, as a server takes them.
fn answer(head: &[u8], routes: &Routes<()>, names: &ParamNames) -> Result<Vec<u8>, Refusal> {
    let mut request = read(head)?;
    let (_, values) = routes.find(request.path()).ok_or(Refusal::NotFound)?;
    request.set_params(names, &values);
    let key = check_handshake(&request)?;
    let _ = origin_allowed(&request, &["https://example.org"]);
    let subprotocol =
        choose_subprotocol(&request, &SUBPROTOCOLS).map(|chosen| SUBPROTOCOLS[chosen]);
    let extensions =
        agree_on_deflate(&request, &DeflateParams::default()).map(|(_, answer)| answer);
    let mut out = Vec::new();
    write_switching_protocols(&key, subprotocol, extensions.as_deref(), &mut out);
    Ok(out)
}

/// Most heads come in one piece and have the right form: the scanner sees the others.
fn read(head: &[u8]) -> Result<Request, Refusal> {
    let limits = HeadLimits::default();
    if let Some((request, _)) = Request::in_one_piece(head, &limits) {
        return request;
    }
    match HeadScanner::default().scan(head, &limits)? {
        Scan::Complete(len) => Request::parse(&head[..len], &limits),
        Scan::Partial => Err(Refusal::TimedOut),
    }
}

fn heads() -> Vec<(&'static str, Vec<u8>)> {
    let browser = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0\r\n\
        Pragma: no-cache\r\nCache-Control: no-cache\r\nOrigin: https://example.org\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: theme=dark; sid=0123456789\r\n\
        Sec-WebSocket-Protocol: v1, v2\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let many_offers = "permessage-deflate; client_max_window_bits=0,";
    vec![
        ("the shortest", upgrade("/ws", "")),
        ("a browser's", upgrade("/ws?room=1", browser)),
        ("4000 headers", upgrade("/ws", &"a:\r\n".repeat(4000))),
        (
            "95 long headers",
            upgrade("/ws", &format!("X-Header: {}\r\n", "v".repeat(155)).repeat(95)),
        ),
        ("one long header", full("/ws", "v", "X")),
        ("empty lines before it", [b"\r\n".repeat(8000), upgrade("/ws", "")].concat()),
        ("Connection: ,,,", full("/ws", ",", "Connection")),
        ("Connection: a,a,a", full("/ws", "a,", "Connection")),
        ("Content-Length: 0,0,0", full("/ws", "0,", "Content-Length")),
        ("Sec-WebSocket-Protocol: v9,v9", full("/ws", "v9,", "Sec-WebSocket-Protocol")),
        ("Sec-WebSocket-Extensions: a,a", full("/ws", "a,", "Sec-WebSocket-Extensions")),
        (
            "Sec-WebSocket-Extensions of permessage-deflate",
            full("/ws", many_offers, "Sec-WebSocket-Extensions"),
        ),
        ("/%41%41", full("/ws/", "%41", "")),
        ("/%2F%2F", full("/ws/", "%2F", "")),
        ("/%C3%A9%C3%A9", full("/ws/", "%C3%A9", "")),
        ("/éé", full("/ws/", "é", "")),
        ("/a/a/a", full("/ws/", "a/", "")),
    ]
}

fn upgrade(path: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\n{lines}Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A head as large as is allowed: filled with a unit that is the value of a header, or part of the
/// path.
fn full(path: &str, unit: &str, header: &str) -> Vec<u8> {
    let filled = |times| match (header, unit.repeat(times)) {
        ("", filler) => upgrade(&format!("{path}{filler}"), ""),
        (header, filler) => upgrade(path, &format!("{header}: {filler}\r\n")),
    };
    filled((LARGEST - filled(0).len()) / unit.len())
}
