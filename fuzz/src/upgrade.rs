//! A request head means the same for every cut, and what RFC 9112 and RFC 6455 say: the handshake
//! is compared with a slow parser that looks at the whole head. No value of a client adds a line to
//! an answer.
//!
//! An input: one byte of settings, four sizes of chunks, what arrives.

use super::input::{Input, Random, cut};
use ikisocket::http::{
    HeadLimits, HeadScanner, Refusal, Request, Response, Routes, Scan, accept_key, check_handshake,
    choose_subprotocol, origin_allowed, write_switching_protocols,
};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = limits(input.byte());
    let sizes = input.array::<4>();
    let received = input.rest();

    let expected = slow_scan(received, &limits);
    assert_eq!(scan(&[received], &limits), expected, "in one piece");
    assert_eq!(scan(&cut(received, &sizes), &limits), expected, "in chunks of {sizes:?}");
    assert_eq!(scan(&cut(received, &[0]), &limits), expected, "byte by byte");

    let at_once = Request::in_one_piece(received, &limits);
    assert_eq!(at_once.as_ref().map(|(_, length)| *length), expected.ok().flatten(), "at once");

    let parsed = Request::parse(received, &limits);
    match expected {
        Ok(Some(length)) => {
            let head = &received[..length];
            assert_eq!(
                parsed,
                Request::parse(head, &limits),
                "what follows the head plays no role"
            );
            assert_eq!(at_once.map(|(request, _)| request), Some(parsed.clone()), "at once");
            assert_same(parsed, slow_parse(head, &limits, true));
        }
        Ok(None) => assert!(parsed.is_err(), "half a head is none"),
        Err(_) => {
            assert!(parsed.is_err(), "what only the scanner refuses would be a way around it")
        }
    }
}

fn limits(settings: u8) -> HeadLimits {
    HeadLimits::default()
        .max_bytes([16 * 1024, usize::MAX, 300, 60, 20, 1, 0, 200][usize::from(settings & 7)])
        .max_headers([100, usize::MAX, 6, 1, 0, 5, 7, 70][usize::from(settings >> 3 & 7)])
}

/// The length of the head, or the status that refuses it.
type Scanned = Result<Option<usize>, u16>;

fn scan(chunks: &[&[u8]], limits: &HeadLimits) -> Scanned {
    let mut scanner = HeadScanner::default();
    let mut received = Vec::new();
    // Also before anything has arrived.
    for chunk in [&[][..]].iter().chain(chunks) {
        received.extend_from_slice(chunk);
        match scanner.scan(&received, limits) {
            Ok(Scan::Partial) => {}
            Ok(Scan::Complete(length)) => return Ok(Some(length)),
            Err(refusal) => {
                assert_is_one_answer(refusal.response(), refusal.status());
                return Err(refusal.status());
            }
        }
    }
    Ok(None)
}

/// RFC 9112 §2.1, §2.2, §3, §5: line by line.
fn slow_scan(received: &[u8], limits: &HeadLimits) -> Scanned {
    let limit = limits.max_bytes.min(65_535);
    let visible = &received[..received.len().min(limit)];
    let mut rest = visible;
    let mut has_request_line = false;
    let mut headers = 0;
    loop {
        let is_control = |byte: u8| !has_only_allowed_bytes(&[byte]);
        // Of a header too many only the first byte is looked at.
        if let Some(&first) = rest.first().filter(|&&first| has_request_line && !is_control(first))
            && headers >= limits.max_headers
        {
            let beginning = &visible[..visible.len() - rest.len()];
            return Err(if is_tchar(first) {
                slow_parse(beginning, limits, false).err().unwrap_or(431)
            } else {
                400
            });
        }
        let Some(at) = rest.windows(2).position(|two| two == b"\r\n") else { break };
        let line = &rest[..at];
        if !has_only_allowed_bytes(line) {
            return Err(400);
        }
        rest = &rest[at + 2..];
        match (has_request_line, line.is_empty()) {
            (false, true) => {}
            (true, true) => return Ok(Some(visible.len() - rest.len())),
            (false, false) if request_line(line).is_some() => has_request_line = true,
            (true, false) if field_line(line).is_some() => headers += 1,
            _ => return Err(400),
        }
    }
    let line = rest.strip_suffix(b"\r").unwrap_or(rest);
    if !has_only_allowed_bytes(line) {
        return Err(400);
    }
    if received.len() < limit {
        return Ok(None);
    }
    let begins_well = match (has_request_line, line.len() < rest.len()) {
        (_, true) if line.is_empty() => true,
        (false, true) => request_line(line).is_some(),
        (true, true) => field_line(line).is_some(),
        (false, false) => begins_request_line(line),
        (true, false) => {
            line.is_empty() || field_line(line).is_some() || line.iter().all(|&byte| is_tchar(byte))
        }
    };
    Err(if begins_well { 431 } else { 400 })
}

fn has_only_allowed_bytes(line: &[u8]) -> bool {
    line.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_tchar(byte))
}

fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| byte > b' ' && byte != 0x7f)
}

/// Method, target and minor version.
fn request_line(line: &[u8]) -> Option<(&str, &str, u8)> {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else { return None };
    let minor = [&b"HTTP/1.0"[..], b"HTTP/1.1"].iter().position(|each| *each == version)?;
    if !is_token(method) || !is_target(target) {
        return None;
    }
    Some((str::from_utf8(method).ok()?, str::from_utf8(target).ok()?, minor as u8))
}

fn begins_request_line(line: &[u8]) -> bool {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    match parts[..] {
        [method] => method.is_empty() || is_token(method),
        [method, target] => is_token(method) && (target.is_empty() || is_target(target)),
        [method, target, version] => {
            is_token(method)
                && is_target(target)
                && str::from_utf8(target).is_ok()
                && (b"HTTP/1.0".starts_with(version) || b"HTTP/1.1".starts_with(version))
        }
        _ => false,
    }
}

/// Name, and value without white space around it.
fn field_line(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    is_token(name).then(|| str::from_utf8(name).ok())?.map(|name| (name, without_space(value)))
}

/// A request as the slow parser sees it.
struct Slow<'h> {
    method: &'h str,
    target: &'h str,
    minor: u8,
    headers: Vec<(&'h str, &'h [u8])>,
}

impl<'h> Slow<'h> {
    fn values(&self, name: &str) -> Vec<&'h [u8]> {
        let with_name = self.headers.iter().filter(|(each, _)| each.eq_ignore_ascii_case(name));
        with_name.map(|(_, value)| *value).collect()
    }

    fn texts(&self, name: &str) -> Vec<&'h str> {
        self.values(name).into_iter().filter_map(|value| str::from_utf8(value).ok()).collect()
    }

    /// The elements of a list: both with and without an eye for quoted strings they are there.
    fn elements(&self, name: &str) -> Vec<Vec<u8>> {
        self.values(name)
            .into_iter()
            .flat_map(|line| split(line, b','))
            .filter(|each| !each.is_empty())
            .collect()
    }

    fn lists(&self, name: &str, element: &str) -> bool {
        self.elements(name).iter().any(|each| each.eq_ignore_ascii_case(element.as_bytes()))
    }

    fn asks_websocket(&self) -> bool {
        self.lists("Upgrade", "websocket") && self.lists("Connection", "upgrade")
    }
}

/// The parts between separators that stand in no quoted string, without white space around them.
fn split(line: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let (mut parts, mut quoted, mut escaped) = (vec![Vec::new()], false, false);
    for &byte in line {
        if byte == separator && !quoted {
            parts.push(Vec::new());
            continue;
        }
        (quoted, escaped) = match byte {
            b'"' if !escaped => (!quoted, false),
            b'\\' => (quoted, quoted && !escaped),
            _ => (quoted, false),
        };
        parts.last_mut().expect("there is one").push(byte);
    }
    parts.iter().map(|part| without_space(part).to_vec()).collect()
}

fn without_space(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// The request, or the status that refuses it. Its lines were found to be good; in a mere beginning
/// no `Host` is missed.
fn slow_parse<'h>(head: &'h [u8], limits: &HeadLimits, is_whole: bool) -> Result<Slow<'h>, u16> {
    let text: Vec<&[u8]> = head
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect();
    let mut lines = text.into_iter().filter(|line| !line.is_empty());
    let (method, target, minor) = lines.next().and_then(request_line).expect("it was scanned");
    let headers = lines.map(|line| field_line(line).expect("it was scanned")).collect();
    let slow = Slow { method, target, minor, headers };

    if !is_good_target(method, target)
        || String::from_utf8(unescaped_bytes(path_and_query(target).0)).is_err()
    {
        return Err(400);
    }
    match slow.values("host")[..] {
        [] if minor == 0 || !is_whole => {}
        [host] if is_host(host) => {}
        _ => return Err(400),
    }
    let chunked = !slow.values("transfer-encoding").is_empty();
    let lengths = slow.values("content-length").join(&b',');
    let mut body = chunked;
    if !slow.values("content-length").is_empty() {
        let number = |text: &[u8]| -> Option<u64> {
            let digits = text.trim_ascii();
            let is_number = !digits.is_empty() && digits.iter().all(|byte| byte.is_ascii_digit());
            is_number.then(|| str::from_utf8(digits).ok()?.parse().ok())?
        };
        let all: Vec<_> = lengths.split(|&byte| byte == b',').map(without_space).collect();
        if all.iter().any(|each| number(each).is_none() || *each != all[0]) || chunked {
            return Err(400);
        }
        body |= number(all[0]) != Some(0);
    }
    if (chunked && minor == 0)
        || (slow.asks_websocket() && body)
        || slow.values("sec-websocket-key").len() > 1
    {
        return Err(400);
    }
    if slow.headers.len() > limits.max_headers {
        return Err(431);
    }
    Ok(slow)
}

/// RFC 9112 §3.2.
fn is_good_target(method: &str, target: &str) -> bool {
    if target.contains('#') {
        return false;
    }
    if target.starts_with('/') || (method == "OPTIONS" && target == "*") {
        return true;
    }
    match target.find("://") {
        Some(at) => {
            let host = target[at + 3..].split(['/', '?']).next().unwrap_or_default();
            let scheme = target[..at].to_ascii_lowercase();
            ["http", "https", "ws", "wss"].contains(&&*scheme)
                && !host.is_empty()
                && is_host(host.as_bytes())
        }
        None => method == "CONNECT" && is_host(target.as_bytes()),
    }
}

fn is_host(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|&byte| (b'!'..=b'~').contains(&byte) && !"/?#@\\\"<>^`{|}".contains(char::from(byte)))
}

fn assert_same(parsed: Result<Request, Refusal>, slow: Result<Slow<'_>, u16>) {
    let (mut request, slow) = match (parsed, slow) {
        (Ok(request), Ok(slow)) => (request, slow),
        (Err(refusal), Err(status)) => return assert_eq!(refusal.status(), status, "{refusal}"),
        (parsed, slow) => panic!("{parsed:?}, and the slow one says {:?}", slow.map(|_| "good")),
    };
    assert_eq!(
        (request.method(), request.target(), request.http_minor()),
        (slow.method, slow.target, slow.minor)
    );
    assert!(request.headers().eq(slow.headers.iter().copied()));
    for name in ["Host", "cookie", "Sec-WebSocket-Protocol", "X"] {
        assert!(request.header_values(name).eq(slow.texts(name)));
        assert_eq!(request.header_bytes(name), slow.values(name).first().copied());
    }
    assert_path(&request);
    assert_found(&request);
    assert_cookies(&request, &slow);

    let before = request.clone();
    request.set_params(&["a", "b"], &["1", slow.target]);
    assert_eq!((request.param("a"), request.param("b")), (Some("1"), Some(slow.target)));
    assert!(request.headers().eq(before.headers()));
    request.set_params(&[] as &[&str], &[] as &[&str]);
    assert_eq!(request, before);

    assert_eq!(request.asks_websocket(), slow.asks_websocket());
    assert_eq!(
        check_handshake(&request)
            .map(|key| key.as_str().to_owned())
            .map_err(|refusal| refusal.status()),
        slow_check(&slow)
    );
    if let Ok(key) = check_handshake(&request) {
        assert_is_101(&request, &key, &slow);
    }
    for allowed in [&["https://example.org", "null"][..], &["*"], &[]] {
        let any_origin = allowed.is_empty() || allowed == ["*"];
        let named = match slow.values("origin")[..] {
            [origin] => {
                allowed.iter().any(|each: &&str| each.as_bytes().eq_ignore_ascii_case(origin))
            }
            _ => false,
        };
        assert_eq!(origin_allowed(&request, allowed), any_origin || named);
    }
    assert_is_one_answer(
        Response::text(slow.target)
            .with_header("X", slow.target.to_owned())
            .unwrap_or_else(Response::from),
        200,
    );
}

/// RFC 6455 §4.2.1.
fn slow_check(slow: &Slow<'_>) -> Result<String, u16> {
    if slow.minor == 0 || !slow.asks_websocket() || slow.values("sec-websocket-version") != [b"13"]
    {
        return Err(426);
    }
    // 22 characters stand for 132 bits, of which 128 count.
    let key = slow.values("sec-websocket-key").first().copied().unwrap_or_default();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/';
    match key.strip_suffix(b"==") {
        Some(digits) if digits.len() == 22 && digits.iter().all(is_base64) => {
            match slow.values("sec-websocket-extensions").into_iter().all(are_extensions) {
                true => Ok(key.iter().copied().map(char::from).collect()),
                false => Err(400),
            }
        }
        _ => Err(400),
    }
}

/// RFC 6455 §9.1.
pub fn are_extensions(line: &[u8]) -> bool {
    split(line, b',').iter().all(|each| each.is_empty() || is_extension(each))
}

fn is_extension(text: &[u8]) -> bool {
    let parts = split(text, b';');
    is_token(&parts[0])
        && parts[1..].iter().all(|part| {
            let Some(equals) = part.iter().position(|&byte| byte == b'=') else {
                return is_token(part);
            };
            let (name, value) =
                (without_space(&part[..equals]), without_space(&part[equals + 1..]));
            let value = match value {
                [b'"', inside @ .., b'"'] => {
                    let (mut value, mut bytes) = (Vec::new(), inside.iter());
                    while let Some(&byte) = bytes.next() {
                        value.push(if byte == b'\\' {
                            *bytes.next().unwrap_or(&b' ')
                        } else {
                            byte
                        });
                    }
                    value
                }
                value => value.to_vec(),
            };
            is_token(name) && is_token(&value)
        })
}

fn assert_is_101(request: &Request, key: &ikisocket::http::Key, slow: &Slow<'_>) {
    let ours = ["chat", "superchat"];
    let chosen = choose_subprotocol(request, &ours);
    let expected = ours.iter().position(|name| {
        slow.elements("sec-websocket-protocol").iter().any(|offer| *offer == name.as_bytes())
    });
    assert_eq!(chosen, expected);
    // What the client offered may be anything: it must not become a line of the answer.
    let offered = request.header("sec-websocket-protocol");
    let mut out = Vec::new();
    write_switching_protocols(key, offered, request.header("sec-websocket-extensions"), &mut out);
    let text = String::from_utf8(out).expect("what is not UTF-8 is no text");
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "HTTP/1.1 101 Switching Protocols");
    assert_eq!(lines[lines.len() - 2..], ["", ""]);
    assert_eq!(lines.iter().filter(|line| line.is_empty()).count(), 2);
    let accept: String = accept_key(key.as_str()).into_iter().map(char::from).collect();
    assert!(lines.contains(&&*format!("Sec-WebSocket-Accept: {accept}")));
    assert!(lines.len() <= 8, "{text}");
}

/// An answer ends where it says.
fn assert_is_one_answer(response: Response, status: u16) {
    let mut out = Vec::new();
    response.encode(false, &mut out);
    let end = out.windows(4).position(|four| four == b"\r\n\r\n").expect("a head has an end") + 4;
    let head = str::from_utf8(&out[..end]).expect("headers are text");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", out.len() - end)), "{head}");
}

/// RFC 3986 §3: what of the target is the path, and what the query.
fn assert_path(request: &Request) {
    let (path, query) = path_and_query(request.target());
    assert_eq!((request.path(), request.query_string()), (path, query));
    assert_eq!(Some(request.decoded_path().into_owned()), unescaped(path));

    let pairs: Vec<_> =
        query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    let pairs = pairs.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs: Vec<_> = pairs.filter_map(|(key, value)| Some((form(key)?, form(value)?))).collect();
    let found: Vec<_> =
        request.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    assert_eq!(found, pairs);
    let last = pairs.iter().rev().find(|(key, _)| key == "q").map(|(_, value)| value);
    assert_eq!(request.query("q").as_deref(), last.map(String::as_str));
}

fn path_and_query(target: &str) -> (&str, Option<&str>) {
    let after_authority = match target.find("://") {
        _ if target.starts_with('/') => target,
        Some(at) => {
            let rest = &target[at + 3..];
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        None => "",
    };
    let (path, query) = match after_authority.find('?') {
        Some(at) => (&after_authority[..at], Some(&after_authority[at + 1..])),
        None => (after_authority, None),
    };
    (if path.is_empty() && target.contains("://") { "/" } else { path }, query)
}

fn form(text: &str) -> Option<String> {
    unescaped(&text.replace('+', " "))
}

/// Percent-decoded, if that is UTF-8.
fn unescaped(text: &str) -> Option<String> {
    String::from_utf8(unescaped_bytes(text)).ok()
}

fn unescaped_bytes(text: &str) -> Vec<u8> {
    unescaped_from(text.as_bytes())
}

fn unescaped_from(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

/// RFC 6265 §5.4.
fn assert_cookies(request: &Request, slow: &Slow<'_>) {
    let mut expected = Vec::new();
    let all = slow.values("cookie").join(&b';');
    for part in all.split(|&byte| byte == b';') {
        let Some(equals) = part.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = (without_space(&part[..equals]), without_space(&part[equals + 1..]));
        let value = match value {
            [b'"', inside @ .., b'"'] => inside,
            value => value,
        };
        if let (Ok(name), Ok(value)) =
            (str::from_utf8(name), String::from_utf8(unescaped_from(value)))
        {
            expected.push((name, value));
        }
    }
    let found: Vec<_> = request.cookies().map(|(name, value)| (name, value.into_owned())).collect();
    assert_eq!(found, expected);
    let first = expected.iter().find(|(name, _)| *name == "a").map(|(_, value)| value.as_str());
    assert_eq!(request.cookie("a").as_deref(), first);
}

/// From the one that wins over all others to the one that wins over none.
const PATTERNS: [&str; 11] = [
    "/ws",
    "/ws/",
    "/ws/a",
    "/ws/é%2Fx",
    "/ws/:id",
    "/ws/:id/a",
    "/:room/b",
    "/:room/:id",
    "/ws/:id/*rest",
    "/ws/*rest",
    "/*rest",
];

/// The first pattern that matches, segment by segment.
fn assert_found(request: &Request) {
    let mut routes: Routes<Option<usize>> = Routes::default();
    for at in [4, 9, 0, 10, 7, 2, 8, 1, 6, 3, 5] {
        *routes.slot(PATTERNS[at]).expect("they are patterns").0 = Some(at);
    }
    let found =
        routes.find(request.path()).map(|(place, values)| (place.expect("it was set"), values));
    let mut matching = PATTERNS.iter().enumerate();
    let expected = matching
        .find_map(|(at, pattern)| matched(pattern, request.path()).map(|values| (at, values)));
    assert_eq!(found, expected);
}

fn matched(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let mut values = Vec::new();
    for part in pattern[1..].split('/') {
        if part.starts_with('*') {
            let rest: Vec<_> = segments.by_ref().collect();
            // Of nothing behind the slash is still a segment, and of no slash at all is none.
            if rest.is_empty() {
                return None;
            }
            values.push(unescaped(&rest.join("/"))?);
            return Some(values);
        }
        let segment = segments.next()?;
        if part.starts_with(':') {
            if segment.is_empty() {
                return None;
            }
            values.push(unescaped(segment)?);
        } else if unescaped_bytes(part) != unescaped_bytes(segment) {
            return None;
        }
    }
    segments.next().is_none().then_some(values)
}

/// A head that is mostly right.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let settings = if random.one_in(4) { random.byte() } else { 0 };
    let mut data = vec![settings];
    let largest = random.pick(&[1, 4, 40, 256]);
    data.extend((0..4).map(|_| random.below(largest) as u8));
    if random.one_in(10) {
        data.extend(b"\r\n");
    }
    data.extend(
        random
            .pick(&["GET ", "GET ", "GET ", "GET ", "POST ", "OPTIONS ", "CONNECT ", "G\u{e9}T "])
            .as_bytes(),
    );
    data.extend(random.pick(TARGETS).as_bytes());
    data.extend(
        random
            .pick(&[
                " HTTP/1.1\r\n",
                " HTTP/1.1\r\n",
                " HTTP/1.1\r\n",
                " HTTP/1.0\r\n",
                " HTTP/2\r\n",
            ])
            .as_bytes(),
    );
    let mut lines: Vec<&str> = UPGRADE.to_vec();
    for _ in 0..random.below(4) {
        lines.insert(random.below(lines.len() + 1), random.pick(LINES));
    }
    if random.one_in(4) {
        lines.remove(random.below(lines.len()));
    }
    if random.one_in(40) {
        lines = lines.repeat(14);
    }
    for line in lines {
        data.extend(line.as_bytes());
        data.extend(b"\r\n");
    }
    data.extend(b"\r\n\x81\x80");
    if random.one_in(2) {
        random.damage(&mut data);
    }
    data
}

const UPGRADE: &[&str] = &[
    "Host: example.org",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

const LINES: &[&str] = &[
    "Host: a",
    "Host: [::1]:80",
    "host: a b",
    "Content-Length: 0",
    "Content-Length: 0, 0",
    "Content-Length: 5",
    "Content-Length: +0",
    "Transfer-Encoding: chunked",
    "Origin: https://Example.org",
    "Origin: null",
    "Cookie: a=1; b=\"%C3%BC\"; a=2",
    "Cookie: a=\"",
    "Cookie: b=%FF; a=%fe; a=\u{a0}c\u{a0}; \u{2003}a=d",
    "Sec-WebSocket-Protocol: \"x, chat\", \u{fc}, superchat",
    "Sec-WebSocket-Extensions: a; b=\"\\c\", permessage-deflate",
    "Sec-WebSocket-Extensions: foo; bar=\"\\\", permessage-deflate, \\\"\"",
    "Connection: \"a, upgrade\", \u{a0}upgrade",
    "Content-Length: 0,00",
    "Sec-WebSocket-Protocol: superchat, chat",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==",
    "Sec-WebSocket-Version: 8",
    "Connection: close",
    "Upgrade: h2c",
    "X: \u{fc}\tb ",
    "X:",
    " folded",
    "X : a",
    "X",
];

const TARGETS: &[&str] = &[
    "/",
    "/ws",
    "/ws/",
    "/ws/a",
    "/ws/%61",
    "/ws/b",
    "/ws//",
    "/ws/b/a",
    "/ws/b/c/d",
    "/ws/%C3%A9%2fx",
    "/r/b",
    "/r/%2F",
    "/r//",
    "/?q=a+b&q=%26&&q",
    "/a%2?q=%ff",
    "/ws?q=1&q=%ff&%ff=2&%71=+",
    "/ws/%FF",
    "/ws/%C3/%A9",
    "/a#b",
    "*",
    "a:80",
    "http://a",
    "ws://a?q=/",
    "HTTP://a:1/ws/7?q",
    "ftp://a/",
    "http:///",
    "http://me@a/",
    "/\u{e9}",
];
