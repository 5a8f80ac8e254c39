//! The client's request, as an owned snapshot that stays with its connection. It knows HTTP only:
//! `handshake.rs` decides whether an upgrade can be accepted, and `pattern.rs` where a path leads.

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;

use percent_encoding::{percent_decode, percent_decode_str};

use super::extensions::is_well_formed;
use super::header_list::{elements, trim};
use super::limits::HeadLimits;
use super::refusal::{Refusal, malformed};
use super::syntax::{is_same, position};

/// The number of header lines that are parsed without heap memory: as many as are allowed by
/// default. Browsers send about fifteen.
const USUAL_HEADERS: usize = 100;
/// The shortest header line in bytes: `a:` and LF. (The CR is checked when the lines are known.)
const SHORTEST_HEADER: usize = 3;
/// The bytes of the length in front of each stored piece.
const LENGTH: usize = size_of::<u16>();

/// An HTTP/1.1 request without a body: method, target, headers, and the parameters of its route.
///
/// A request lives as long as its connection, so it owns its text, in one allocation. That is no
/// longer than the head that was sent, plus the route's parameters. A look-up walks through the
/// headers and decodes on the way; keep values that you need often.
///
/// All text is the text that was sent. It never holds U+FFFD in place of bytes that are not UTF-8,
/// because two different values would look the same. A path or parameter that is not UTF-8 after
/// percent-decoding is refused with 400. A header, a cookie or a pair of the query that is not
/// UTF-8 counts as absent; the others are not affected.
///
/// ```
/// use ikisocket::http::{HeadLimits, Request};
///
/// let head = b"GET /caf%C3%A9?q=a+b&q=c HTTP/1.1\r\n\
///     Host: example.org\r\nCookie: id=4%202\r\n\r\n";
/// let request = Request::parse(head, &HeadLimits::default())?;
/// assert_eq!(request.decoded_path(), "/café");
/// assert_eq!(request.query("q").as_deref(), Some("c"));
/// assert_eq!(request.header("HOST"), Some("example.org"));
/// assert_eq!(request.cookie("id").as_deref(), Some("4 2"));
/// # Ok::<(), ikisocket::http::Refusal>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Method and target with a space between them, then each header as `name:value`, then name and
    /// value of each parameter. The length of each piece is in front of it. 16 bits are enough for
    /// a length, because a head has at most 65 535 bytes. In the head a header has CR and LF where
    /// its length is here, so this is never longer than the head. All pieces are in one allocation
    /// of exactly their length: many small allocations among those of other connections would keep
    /// the allocator from giving memory back.
    pieces: Box<[u8]>,
    /// The position at which the parameters begin.
    params_at: u16,
    http_minor: u8,
    /// Determined once, in one walk through the headers: a list of options may be as long as a
    /// head.
    asks_websocket: bool,
    is_version_13: bool,
    bad_extensions: bool,
}

impl Request {
    /// Reads a head that [`HeadScanner`](super::HeadScanner) found to be complete. Bytes after its
    /// blank line are ignored.
    ///
    /// # Errors
    ///
    /// The first of these that applies:
    ///
    /// - [`Refusal::Malformed`]: the form is wrong or the head is not complete;
    /// - [`Refusal::HeadTooLarge`]: more than `limits.max_bytes`;
    /// - [`Refusal::Malformed`]: the parts contradict each other. No or two `Host` (RFC 9112 §3.2),
    ///   a target of no known form, a path that is not UTF-8 once it is percent-decoded,
    ///   `Content-Length` with `Transfer-Encoding` or without one meaning (RFC 9112 §6.3), two
    ///   `Sec-WebSocket-Key` (RFC 6455 §11.3.1), an upgrade to WebSocket with a body;
    /// - [`Refusal::TooManyHeaders`]: more than `limits.max_headers`. The rules above are applied
    ///   only to the lines before the first header that is too many.
    pub fn parse(head: &[u8], limits: &HeadLimits) -> Result<Self, Refusal> {
        match read(head, limits, true, Self::from_parsed) {
            Err(Refusal::TooManyHeaders) => {
                Err(Self::refuse_beginning(first_lines(head, limits.max_headers), limits))
            }
            read => read?.0,
        }
    }

    /// Reads a head that has arrived in one piece and has the right form, as most do. It returns
    /// the result of [`parse`](Self::parse) and the head's length in `received`. `None` if
    /// [`HeadScanner`](super::HeadScanner) has to find out whether more must arrive, or what is
    /// wrong.
    ///
    /// The scanner would find the same end: a head that it refuses does not have the right form.
    #[doc(hidden)] // for the benchmarks and the fuzz targets
    #[must_use]
    pub fn in_one_piece(
        received: &[u8],
        limits: &HeadLimits,
    ) -> Option<(Result<Self, Refusal>, usize)> {
        let visible = &received[..received.len().min(limits.effective_max_bytes())];
        read(visible, limits, true, Self::from_parsed).ok()
    }

    /// Refuses a head of which only this beginning may be looked at: whole lines, with as many
    /// headers as are allowed. The reason is a fault in them, or else that there are more.
    pub(super) fn refuse_beginning(lines: &[u8], limits: &HeadLimits) -> Refusal {
        let head = [lines, b"\r\n"].concat();
        let checked = read(&head, limits, false, |parsed| check(parsed, false).map(drop));
        checked.and_then(|(checked, _)| checked).err().unwrap_or(Refusal::TooManyHeaders)
    }

    fn from_parsed(parsed: &httparse::Request<'_, '_>) -> Result<Self, Refusal> {
        let said = check(parsed, true)?;
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        let (method, target) = (method.as_bytes(), target.as_bytes());
        let lengths =
            parsed.headers.iter().map(|header| LENGTH + header.name.len() + 1 + header.value.len());
        let length = LENGTH + method.len() + 1 + target.len() + lengths.sum::<usize>();
        let mut pieces = Vec::with_capacity(length);
        push_line(method, b' ', target, &mut pieces);
        for header in parsed.headers.iter() {
            push_line(header.name.as_bytes(), b':', header.value, &mut pieces);
        }
        Ok(Self {
            // It is no longer than the head, which has at most 65 535 bytes.
            params_at: pieces.len() as u16,
            pieces: pieces.into(),
            http_minor: parsed.version.unwrap_or_default(),
            asks_websocket: said.asks_websocket(),
            is_version_13: said.versions == 1 && said.version == b"13",
            bad_extensions: said.bad_extensions,
        })
    }

    /// The method, for instance `GET`. Methods are case-sensitive.
    #[must_use]
    pub fn method(&self) -> &str {
        as_text(self.request_line().0)
    }

    /// Whether this is the method. It avoids a check whether the bytes are text.
    pub(crate) fn has_method(&self, method: &str) -> bool {
        let line = self.pieces.get(LENGTH..).unwrap_or_default();
        line.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.starts_with(b" "))
    }

    /// The request target as it was sent (RFC 9112 §3.2).
    #[must_use]
    pub fn target(&self) -> &str {
        as_text(self.request_line().1)
    }

    /// The path as it was sent, still percent-encoded, without the query.
    ///
    /// Of an absolute target (`http://example.org/chat`) it is the path within (RFC 9112 §3.2.2).
    /// `*` and the target of CONNECT have no path: it is then empty and leads to no route.
    #[must_use]
    pub fn path(&self) -> &str {
        path_of(self.target())
    }

    /// The path, percent-decoded. A `/` in it may have been an encoded one. No replacement
    /// characters are in it: a request whose path is not UTF-8 is refused.
    #[must_use]
    pub fn decoded_path(&self) -> Cow<'_, str> {
        percent_decode_str(self.path()).decode_utf8_lossy()
    }

    /// The part of the target after the first `?`, as it was sent.
    #[must_use]
    pub fn query_string(&self) -> Option<&str> {
        let (_, query) = path_and_query(self.target()).split_once('?')?;
        Some(query)
    }

    /// The value of a query key, decoded (`%20` and `+` are spaces). Of several values the last one
    /// is returned. A pair that is not UTF-8 after decoding counts as absent;
    /// [`query_string`](Self::query_string) still contains it.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = self
            .query_string()?
            .as_bytes()
            .rsplit(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty());
        let mut with_name =
            pairs.map(split_pair).filter(|(key, _)| form_bytes(key).eq(name.bytes()));
        with_name.find_map(|(_, value)| form_decoded(value))
    }

    /// All keys and values of the query in their order, decoded, without those that are not UTF-8.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let query = self.query_string().unwrap_or_default().as_bytes();
        let pairs =
            query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(split_pair);
        pairs.filter_map(|(key, value)| Some((form_decoded(key)?, form_decoded(value)?)))
    }

    /// A parameter of the route's pattern, percent-decoded: `id` of `/ws/:id`.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut params = self.params();
        params.find(|(each, _)| *each == name).map(|(_, value)| value)
    }

    /// All parameters of the route, names and decoded values, in the order of its pattern.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut pieces = Pieces { rest: self.halves().1 }.map(as_text);
        std::iter::from_fn(move || Some((pieces.next()?, pieces.next()?)))
    }

    /// Sets the parameters that [`param`](Self::param) and [`params`](Self::params) return: the
    /// names from the route's pattern, and the percent-decoded values from the path, in the same
    /// order. The parameters of an earlier call are replaced.
    pub fn set_params(&mut self, names: &[impl AsRef<str>], values: &[impl AsRef<str>]) {
        let (before, after) = self.halves();
        if names.is_empty() && after.is_empty() {
            return;
        }
        let params = names.iter().map(AsRef::as_ref).zip(values.iter().map(AsRef::as_ref));
        let lengths = params.clone().map(|(name, value)| 2 * LENGTH + name.len() + value.len());
        let mut pieces = Vec::with_capacity(before.len() + lengths.sum::<usize>());
        pieces.extend_from_slice(before);
        for (name, value) in params {
            push_piece(name.as_bytes(), &mut pieces);
            push_piece(value.as_bytes(), &mut pieces);
        }
        self.pieces = pieces.into();
    }

    /// The first header of this name, in any case. `None` also if its value is not UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The first header of this name, in any case, as bytes.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.values(name).find(|_| !name.contains(':'))
    }

    /// The values of all headers of this name, in any case, in their order; without those that are
    /// not UTF-8. To know the number of lines, count them in [`headers`](Self::headers).
    pub fn header_values<'r>(&'r self, name: &str) -> impl Iterator<Item = &'r str> {
        let values = self.values(name).filter(|_| !name.contains(':'));
        values.filter_map(|value| str::from_utf8(value).ok())
    }

    /// All headers in their order, names as they were sent, values without the white space around
    /// them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields().map(|(name, value)| (as_text(name), value))
    }

    /// The value of a cookie, percent-decoded, without the quotes around it. Of several values the
    /// first one is returned: browsers send the one with the most specific path first (RFC 6265
    /// §5.4).
    ///
    /// A cookie counts as absent if its name or value is not UTF-8, as sent or after decoding; the
    /// cookies beside it still count. Only spaces and tabs around names and values are removed (RFC
    /// 6265 §5.2).
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut cookies = self.raw_cookies().filter(|(each, _)| *each == name.as_bytes());
        cookies.find_map(|(_, value)| cookie_value(value))
    }

    /// All cookies in their order: the name as it was sent, the value as [`Request::cookie`] gives
    /// it.
    pub fn cookies(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.raw_cookies()
            .filter_map(|(name, value)| Some((str::from_utf8(name).ok()?, cookie_value(value)?)))
    }

    /// Names and values without the white space around them. Quotes do not keep a semicolon from
    /// ending a cookie (RFC 6265 §5.2).
    fn raw_cookies(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let parts = self.values("Cookie").flat_map(|value| value.split(|&byte| byte == b';'));
        let pairs = parts.filter_map(|part| split_once(part, b'='));
        pairs.map(|(name, value)| (trim(name), trim(value)))
    }

    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0.
    #[must_use]
    pub fn http_minor(&self) -> u8 {
        self.http_minor
    }

    /// Whether the client asks to change to the WebSocket protocol: `Upgrade` lists `websocket` and
    /// `Connection` lists `upgrade` (RFC 6455 §4.2.1). The method and the version play no role
    /// here. [`check_handshake`](super::check_handshake) decides whether the upgrade can be
    /// accepted.
    #[must_use]
    pub fn asks_websocket(&self) -> bool {
        self.asks_websocket
    }

    /// Whether there is exactly one `Sec-WebSocket-Version`, and it is 13.
    pub(super) fn is_version_13(&self) -> bool {
        self.is_version_13
    }

    /// Whether a `Sec-WebSocket-Extensions` is not what RFC 6455 §9.1 allows.
    pub(super) fn has_bad_extensions(&self) -> bool {
        self.bad_extensions
    }

    /// The bytes of heap memory that the request holds.
    #[doc(hidden)] // for tests/request_memory.rs
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.pieces.len()
    }

    /// The values of all headers of this name, in any case, in their order, also those that are not
    /// UTF-8. Code that counts headers uses these. `name` must be a header name: a colon would end
    /// it.
    pub(super) fn values<'r>(&'r self, name: &str) -> impl Iterator<Item = &'r [u8]> {
        let name = name.as_bytes();
        self.lines().filter_map(move |line| {
            let value = line.get(name.len()..)?.strip_prefix(b":")?;
            is_same(&line[..name.len()], name).then_some(value)
        })
    }

    /// The method and the target. Neither has a space in it.
    fn request_line(&self) -> (&[u8], &[u8]) {
        let line = Pieces { rest: self.halves().0 }.next();
        line.and_then(|line| split_once(line, b' ')).unwrap_or_default()
    }

    /// Name and value of each header. A name has no colon in it.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines().filter_map(|line| split_once(line, b':'))
    }

    /// Each header as `name:value`.
    fn lines(&self) -> Pieces<'_> {
        let mut pieces = Pieces { rest: self.halves().0 };
        pieces.next();
        pieces
    }

    /// The request line and the headers, and the parameters.
    fn halves(&self) -> (&[u8], &[u8]) {
        self.pieces.split_at_checked(self.params_at.into()).unwrap_or_default()
    }
}

/// Reads a head or a beginning of one; returns the result of `make` on its parts, and its length.
/// An error says that its form is wrong.
fn read<T>(
    head: &[u8],
    limits: &HeadLimits,
    is_whole: bool,
    make: impl FnOnce(&httparse::Request<'_, '_>) -> T,
) -> Result<(T, usize), Refusal> {
    let mut few = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut many;
    let most = limits.max_headers.min(head.len() / SHORTEST_HEADER);
    let headers = if most <= few.len() {
        &mut few[..most]
    } else {
        many = vec![MaybeUninit::uninit(); most];
        &mut many[..]
    };

    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(head, headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            return Err(Refusal::Malformed("the head is not complete"));
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyHeaders),
        Err(error) => return Err(malformed(error)),
    };
    let head = &head[..length];
    if has_bare_lf(head) {
        return Err(Refusal::Malformed("a line ends in LF without CR"));
    }
    if is_whole && length > limits.effective_max_bytes() {
        return Err(Refusal::HeadTooLarge);
    }
    Ok((make(&parsed), length))
}

/// An iterator over the pieces of a request.
struct Pieces<'r> {
    rest: &'r [u8],
}

impl<'r> Iterator for Pieces<'r> {
    type Item = &'r [u8];

    #[inline]
    fn next(&mut self) -> Option<&'r [u8]> {
        let (length, after) = self.rest.split_first_chunk()?;
        let (piece, after) = after.split_at_checked(usize::from(u16::from_ne_bytes(*length)))?;
        self.rest = after;
        Some(piece)
    }
}

/// Shows only the request line: headers hold secrets (cookies, authorization) that must not get
/// into logs.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("target", &self.target())
            .field("http_minor", &self.http_minor)
            .finish_non_exhaustive()
    }
}

/// Decodes a cookie's value.
fn cookie_value(value: &[u8]) -> Option<Cow<'_, str>> {
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    percent_decode(quoted.unwrap_or(value)).decode_utf8().ok()
}

/// Appends a line of a head as a piece. Every line that is kept is shorter than the largest length.
#[inline(always)] // otherwise each header costs 30 instructions more
fn push_line(first: &[u8], separator: u8, second: &[u8], pieces: &mut Vec<u8>) {
    let length = (first.len() + 1 + second.len()) as u16;
    pieces.extend_from_slice(&length.to_ne_bytes());
    pieces.extend_from_slice(first);
    pieces.push(separator);
    pieces.extend_from_slice(second);
}

/// Appends a piece. The part that would not fit its length is cut off.
fn push_piece(piece: &[u8], pieces: &mut Vec<u8>) {
    let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
    pieces.extend_from_slice(&length.to_ne_bytes());
    pieces.extend_from_slice(&piece[..length.into()]);
}

/// Everything but header values was checked to be text when it arrived, so the fallback is never
/// used.
fn as_text(piece: &[u8]) -> &str {
    simdutf8::basic::from_utf8(piece).unwrap_or_default()
}

/// The target without the scheme and the host of an absolute one.
fn path_and_query(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let after_scheme = target.split_once("://").map_or("", |(_, rest)| rest);
    let host_ends = after_scheme.find(['/', '?']);
    host_ends.map_or("", |at| &after_scheme[at..])
}

/// The path of a target, without the query.
fn path_of(target: &str) -> &str {
    let both = path_and_query(target);
    match &both[..position(both.as_bytes(), |byte| byte == b'?').unwrap_or(both.len())] {
        "" if target.contains("://") => "/",
        path => path,
    }
}

/// RFC 9112 §3.2: the four forms of a target, each with the methods that may use it.
fn check_target(method: &str, target: &str) -> Result<(), Refusal> {
    if target.contains('#') {
        return Err(Refusal::Malformed("the target holds a fragment (#)"));
    }
    let well_formed = match (method, target) {
        (_, path) if path.starts_with('/') => true,
        ("OPTIONS", "*") => true,
        _ => match target.split_once("://") {
            Some((scheme, rest)) => {
                let known = ["http", "https", "ws", "wss"];
                let host = rest.split(['/', '?']).next().unwrap_or_default();
                known.iter().any(|each| scheme.eq_ignore_ascii_case(each))
                    && !host.is_empty()
                    && is_host(host.as_bytes())
            }
            None => method == "CONNECT" && is_host(target.as_bytes()),
        },
    };
    if !well_formed {
        return Err(Refusal::Malformed("the target is not a path that starts with /"));
    }
    Ok(())
}

/// Checks that no two parts of the head contradict each other; returns the facts in the headers. In
/// a beginning of a head, headers may be missing.
fn check<'h>(parsed: &httparse::Request<'_, 'h>, is_whole: bool) -> Result<Said<'h>, Refusal> {
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    check_target(method, target)?;
    let http_minor = parsed.version.unwrap_or_default();
    let said = Said::by(parsed.headers);
    said.check_host(http_minor, is_whole)?;
    said.check_body(http_minor)?;
    if said.keys > 1 {
        return Err(Refusal::Malformed("more than one Sec-WebSocket-Key"));
    }
    // The decoded path must be text, or two different paths could look the same.
    if !is_text(path_of(target)) {
        return Err(Refusal::Malformed("the path is not UTF-8 once it is percent-decoded"));
    }
    Ok(said)
}

/// The headers that decide how the request is read, found in one walk through them.
#[derive(Default)]
struct Said<'h> {
    hosts: usize,
    host: &'h [u8],
    keys: usize,
    versions: usize,
    version: &'h [u8],
    chunked: bool,
    /// The body's length as it was written, and as a number.
    length: Option<(&'h [u8], u64)>,
    bad_length: Option<Refusal>,
    bad_extensions: bool,
    /// `Upgrade` lists `websocket`.
    upgrade: bool,
    /// `Connection` lists `upgrade`.
    connection: bool,
}

impl<'h> Said<'h> {
    fn by(headers: &[httparse::Header<'h>]) -> Self {
        let mut said = Self::default();
        for &httparse::Header { name, value } in headers {
            let is = |each: &str| is_same(name.as_bytes(), each.as_bytes());
            // Most lists have no other element.
            let lists = |element: &[u8]| value == element || lists(value, element);
            // Few names are as long as one of these.
            match name.len() {
                4 if is("Host") => {
                    said.hosts += 1;
                    said.host = value;
                }
                7 if is("Upgrade") => said.upgrade = said.upgrade || lists(b"websocket"),
                10 if is("Connection") => {
                    said.connection = said.connection || lists(b"Upgrade");
                }
                14 if is("Content-Length") && said.bad_length.is_none() => {
                    said.bad_length = said.add_lengths(value).err();
                }
                17 if is("Sec-WebSocket-Key") => said.keys += 1,
                17 if is("Transfer-Encoding") => said.chunked = true,
                21 if is("Sec-WebSocket-Version") => {
                    said.versions += 1;
                    said.version = value;
                }
                24 if is("Sec-WebSocket-Extensions") => {
                    said.bad_extensions = said.bad_extensions || !is_well_formed(value);
                }
                _ => {}
            }
        }
        said
    }

    /// RFC 9110 §8.6: a list of lengths is valid if all are the same, written in the same way.
    fn add_lengths(&mut self, value: &'h [u8]) -> Result<(), Refusal> {
        for length in value.split(|&byte| byte == b',').map(trim) {
            match self.length {
                Some((first, _)) if first == length => {}
                first => {
                    let number = parse_digits(length)
                        .ok_or(Refusal::Malformed("Content-Length is not a number"))?;
                    if first.is_some() {
                        return Err(Refusal::Malformed("more than one Content-Length"));
                    }
                    self.length = Some((length, number));
                }
            }
        }
        Ok(())
    }

    fn asks_websocket(&self) -> bool {
        self.upgrade && self.connection
    }

    /// RFC 9112 §3.2: exactly one valid `Host`; HTTP/1.0 needs none.
    fn check_host(&self, http_minor: u8, is_whole: bool) -> Result<(), Refusal> {
        match self.hosts {
            0 if http_minor == 0 || !is_whole => Ok(()),
            0 => Err(Refusal::Malformed("no Host header")),
            1 if is_host(self.host) => Ok(()),
            1 => Err(Refusal::Malformed("the Host header is not a host name")),
            _ => Err(Refusal::Malformed("more than one Host header")),
        }
    }

    /// RFC 9112 §6.3: all readers must agree on where the body ends. An upgrade has no body: one
    /// server would take the bytes behind it for frames, another for a body.
    fn check_body(&self, http_minor: u8) -> Result<(), Refusal> {
        if let Some(refusal) = &self.bad_length {
            return Err(refusal.clone());
        }
        match self.length {
            Some(_) if self.chunked => {
                Err(Refusal::Malformed("Content-Length together with Transfer-Encoding"))
            }
            None if self.chunked && http_minor == 0 => {
                Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"))
            }
            length
                if self.asks_websocket()
                    && (self.chunked || length.is_some_and(|(_, number)| number > 0)) =>
            {
                Err(Refusal::Malformed("an upgrade request with a body"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a list has this element.
fn lists(value: &[u8], element: &[u8]) -> bool {
    elements(value).any(|each| each.eq_ignore_ascii_case(element))
}

/// The key and the value of a pair of an `application/x-www-form-urlencoded` query.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    split_once(pair, b'=').unwrap_or((pair, &[]))
}

/// The parts before and behind the first separator.
fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Decodes a key or value. `None` if the result is not UTF-8.
fn form_decoded(text: &[u8]) -> Option<Cow<'_, str>> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return str::from_utf8(text).ok().map(Cow::Borrowed);
    }
    String::from_utf8(form_bytes(text).collect()).ok().map(Cow::Owned)
}

/// The decoded bytes of a key or value.
fn form_bytes(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        if first == b'%'
            && let Some((&[high, low], after)) = rest.split_first_chunk()
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            rest = after;
            return Some((high << 4 | low) as u8);
        }
        Some(if first == b'+' { b' ' } else { first })
    })
}

/// Whether a path is UTF-8 after percent-decoding. Only an escape of a byte outside ASCII (`%8x` to
/// `%Fx`) can change that, and few paths have one.
fn is_text(path: &str) -> bool {
    !has_pair(path.as_bytes(), |first, second| (first == b'%') & (second >= b'8'))
        || percent_decode_str(path).decode_utf8().is_ok()
}

fn has_bare_lf(head: &[u8]) -> bool {
    head.starts_with(b"\n") || has_pair(head, |first, second| (first != b'\r') & (second == b'\n'))
}

/// Whether any two adjacent bytes are such a pair. It looks at all bytes without a branch for each,
/// so that the compiler can compare sixteen at a time.
fn has_pair(bytes: &[u8], is_pair: impl Fn(u8, u8) -> bool) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    pairs.fold(false, |any, (&first, &second)| any | is_pair(first, second))
}

/// The request line and this many headers, with the empty lines before them.
fn first_lines(head: &[u8], headers: usize) -> &[u8] {
    let before = head.iter().position(|&byte| byte != b'\r' && byte != b'\n').unwrap_or(head.len());
    let ends = head.iter().enumerate().skip(before).filter(|&(_, &byte)| byte == b'\n');
    let end = ends.map(|(at, _)| at + 1).nth(headers);
    &head[..end.unwrap_or(head.len())]
}

/// Whether this can be a host with an optional port: no spaces, no user name, nothing of a path
/// (RFC 9110 §7.2).
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|&byte| HOST_BYTES[usize::from(byte)])
}

const HOST_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        allowed[byte as usize] = !matches!(
            byte,
            b'/' | b'?'
                | b'#'
                | b'@'
                | b'\\'
                | b'"'
                | b'<'
                | b'>'
                | b'^'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
        );
        byte += 1;
    }
    allowed
};

/// `1*DIGIT`: unlike `str::parse`, no sign.
fn parse_digits(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Request {
        Request::parse(head.as_bytes(), &HeadLimits::default()).unwrap()
    }

    fn get(target: &str) -> Request {
        parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    #[test]
    fn what_was_sent_is_there_unchanged() {
        let request = parse(
            "PUT /a%20b?c=%20 HTTP/1.1\r\nHost: example.org\r\nX-Two:  one\t\r\nx-two: two\r\nEmpty:\r\n\r\nbehind",
        );
        assert_eq!(request.method(), "PUT");
        assert_eq!(request.target(), "/a%20b?c=%20");
        assert_eq!(request.path(), "/a%20b");
        assert_eq!(request.query_string(), Some("c=%20"));
        assert_eq!(request.http_minor(), 1);
        assert_eq!(request.header("HOST"), Some("example.org"));
        assert_eq!(request.header("empty"), Some(""));
        assert_eq!(request.header("absent"), None);
        assert!(request.header_values("X-TWO").eq(["one", "two"]));
        let names: Vec<_> = request.headers().map(|(name, _)| name).collect();
        assert_eq!(names, ["Host", "X-Two", "x-two", "Empty"]);
    }

    #[test]
    fn an_absolute_target_is_routed_by_its_path() {
        let rows = [
            ("http://a/ws/1?x=2", "/ws/1", Some("x=2")),
            ("https://a:1", "/", None),
            ("ws://a?x=/y", "/", Some("x=/y")),
            ("/http://a/b", "/http://a/b", None),
            ("/?u=http://a/b?c", "/", Some("u=http://a/b?c")),
            ("/a?", "/a", Some("")),
        ];
        for (target, path, query) in rows {
            let request = get(target);
            assert_eq!((request.path(), request.query_string()), (path, query), "{target}");
        }
    }

    #[test]
    fn targets_without_a_path_lead_nowhere() {
        for line in ["CONNECT a:443", "OPTIONS *"] {
            let request = parse(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!((request.path(), request.query_string()), ("", None), "{line}");
        }
    }

    #[test]
    fn the_query_is_decoded_and_the_last_of_two_wins() {
        let request = get("/?a=1+2&b=%C3%BC&a=%26&c&&%61=3&=x");
        assert_eq!(request.query("a").as_deref(), Some("3"));
        assert_eq!(request.query("b").as_deref(), Some("ü"));
        assert_eq!(request.query("c").as_deref(), Some(""));
        assert_eq!(request.query("d"), None);
        let all: Vec<_> = request.query_pairs().collect();
        let a: Vec<_> =
            all.iter().filter(|(key, _)| key == "a").map(|(_, value)| &**value).collect();
        assert_eq!((all.len(), a), (6, vec!["1 2", "&", "3"]));
        assert_eq!(get("/").query("a"), None);
    }

    #[test]
    fn cookies_are_decoded_unquoted_and_the_first_of_two_wins() {
        let request = parse(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; b=\"two\";c=%C3%BC+ ; a=2; d; e==\r\ncookie: f=\"\r\n\r\n",
        );
        let all: Vec<_> = request.cookies().collect();
        let all: Vec<_> = all.iter().map(|(name, value)| (*name, &**value)).collect();
        let expected = [("a", "1"), ("b", "two"), ("c", "ü+"), ("a", "2"), ("e", "="), ("f", "\"")];
        assert_eq!(all, expected);
        assert_eq!(request.cookie("a").as_deref(), Some("1"));
        assert_eq!(request.cookie("A"), None);
    }

    #[test]
    fn a_value_that_is_not_utf8_is_there_as_bytes() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\r\nX: b\r\n\r\n";
        let request = Request::parse(head, &HeadLimits::default()).unwrap();
        assert_eq!(request.header_bytes("x"), Some(&b"\xff"[..]));
        assert_eq!(request.header("x"), None);
        assert!(request.header_values("x").eq(["b"]));
    }

    #[test]
    fn params_are_kept_beside_the_headers_and_replaced_as_a_whole() {
        let mut request = get("/ws/1");
        assert_eq!(request.param("id"), None);
        request.set_params(&["id", "rest"], &["ünï", ""]);
        assert_eq!(request.param("id"), Some("ünï"));
        assert!(request.params().eq([("id", "ünï"), ("rest", "")]));
        assert!(request.headers().eq([("Host", &b"a"[..])]));
        assert_eq!(request.header("id"), None);
        request.set_params(&["x"], &["2"]);
        assert!(request.params().eq([("x", "2")]));
        request.set_params(&[] as &[&str], &[] as &[&str]);
        assert_eq!(request, get("/ws/1"));
    }

    #[test]
    fn values_of_every_length_are_there_as_they_were_sent() {
        for length in [0, 1, 127, 128, 255, 256, 257, 4000] {
            let value = ":".repeat(length);
            let request =
                parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\nY: 1\r\n\r\n"));
            let said = [("Host", "a"), ("X", &*value), ("Y", "1")];
            assert!(
                request.headers().eq(said.map(|(name, value)| (name, value.as_bytes()))),
                "{length}"
            );
        }
    }

    #[test]
    fn a_request_is_kept_in_no_more_memory_than_its_head_had_bytes() {
        let least = "GET /ws HTTP/1.1\r\nHost: localhost:9001\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let browser = "GET /ws HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
            Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
            Chrome/130.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://example.org\r\n\
            Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        let short_lines = format!("GET / HTTP/1.0\r\n{}\r\n", "a:\r\n".repeat(100));
        let long_lines =
            format!("GET / HTTP/1.0\r\n{}\r\n", format!("a:{}\r\n", "v".repeat(600)).repeat(20));
        for head in [least, browser, &short_lines, &long_lines] {
            let request = parse(head);
            let said =
                request.headers().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            let range = said..=head.len();
            assert!(
                range.contains(&request.heap_bytes()),
                "{} for {}",
                request.heap_bytes(),
                head.len()
            );
        }
        assert!(size_of::<Request>() <= 24);
    }

    #[test]
    fn the_largest_head_keeps_its_last_value() {
        let limits = HeadLimits { max_bytes: usize::MAX, max_headers: usize::MAX };
        let start = "GET / HTTP/1.1\r\nHost: a\r\n";
        let end = "Last: one\r\n\r\n";
        let filler = "b:\r\n".repeat((65_535 - start.len() - end.len()) / 4);
        let request = Request::parse(format!("{start}{filler}{end}").as_bytes(), &limits).unwrap();
        assert_eq!(request.header("last"), Some("one"));
        let larger = format!("{start}{filler}c: {}\r\n{end}", "c".repeat(100));
        assert_eq!(Request::parse(larger.as_bytes(), &limits), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn debug_output_holds_no_secrets() {
        let request = parse("GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n");
        assert!(
            format!("{request:?}").contains("GET") && !format!("{request:?}").contains("secret")
        );
    }

    #[test]
    fn a_path_is_text_once_it_is_decoded_or_the_request_is_refused() {
        let read = |path: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            Request::parse(head.as_bytes(), &HeadLimits::default())
        };
        for (path, decoded) in [
            ("/", "/"),
            ("/caf%C3%A9", "/café"),
            ("/%41%7f%", "/A\u{7f}%"),
            ("/9%F0%9F%98%80?%80", "/9\u{1F600}"),
        ] {
            assert_eq!(read(path).unwrap().decoded_path(), decoded);
        }
        for path in ["/%80", "/%ff", "/caf%C3", "/%C3/%A9"] {
            assert!(matches!(read(path), Err(Refusal::Malformed(_))), "{path}");
        }
    }

    #[test]
    fn only_the_allowed_number_of_headers_is_judged() {
        let limits = HeadLimits { max_headers: 2, ..HeadLimits::default() };
        for (before, headers, is_malformed) in [
            ("", "A: 1\r\nHost: a\r\nB: 2\r\n", false),
            ("\r\n\r\n", "A: 1\r\nHost: a\r\nHost: b\r\n", false),
            ("", "Host: a\r\nHost: b\r\nA: 1\r\n", true),
            ("\r\n\r\n", "Host: a\r\nHost: b\r\nA: 1\r\n", true),
            ("", "A: 1\r\nB: 2\r\nC: 3\r\n", false), // Host may come behind
        ] {
            let head = format!("{before}GET / HTTP/1.1\r\n{headers}\r\n");
            let refusal = Request::parse(head.as_bytes(), &limits).unwrap_err();
            let expected = if is_malformed {
                Refusal::Malformed("more than one Host header")
            } else {
                Refusal::TooManyHeaders
            };
            assert_eq!(refusal, expected, "{head}");
        }
    }
}
