//! The WebSocket part of the handshake (RFC 6455 §4.2): the checks, and the 101 that accepts it. It
//! knows no route, no setting and no connection.

use std::net::Ipv6Addr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};

use super::header_list::elements;
use super::refusal::Refusal;
use super::request::Request;
use super::syntax::{is_field_value, is_token};

/// The text that is appended to the client's key before hashing (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// 16 bytes in base64.
const KEY_LENGTH: usize = 24;

/// Base64 that accepts ones in the unused last bits: the example key in RFC 6455 §4.1 has them.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A `Sec-WebSocket-Key` that was found to be the base64 of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; KEY_LENGTH]);

impl Key {
    /// Checks the value of a `Sec-WebSocket-Key` header.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadKey`] if it is not the base64 of exactly 16 bytes.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Self::read(text.as_bytes())
    }

    fn read(text: &[u8]) -> Result<Self, Refusal> {
        let key: [u8; KEY_LENGTH] = text.try_into().map_err(|_| Refusal::BadKey)?;
        // 24 characters may encode 16, 17 or 18 bytes.
        let mut nonce = [0; 18];
        match LENIENT.decode_slice(key, &mut nonce) {
            Ok(16) => Ok(Self(key)),
            _ => Err(Refusal::BadKey),
        }
    }

    /// The key as the client sent it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Base64 is ASCII, so this never falls back.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Checks whether this is a handshake that a server can accept (RFC 6455 §4.2.1), whatever its
/// method and path.
///
/// # Errors
///
/// The first of these that applies:
///
/// - [`Refusal::UpgradeRequired`]: HTTP/1.0, or `Connection: Upgrade` with `Upgrade: websocket` is
///   missing;
/// - [`Refusal::UnsupportedVersion`]: not exactly one `Sec-WebSocket-Version`, or not 13;
/// - [`Refusal::BadKey`]: no `Sec-WebSocket-Key`, or not the base64 of 16 bytes;
/// - [`Refusal::BadExtensions`]: a `Sec-WebSocket-Extensions` that is not what RFC 6455 §9.1
///   allows.
pub fn check_handshake(request: &Request) -> Result<Key, Refusal> {
    if request.http_minor() == 0 || !request.asks_websocket() {
        return Err(Refusal::UpgradeRequired);
    }
    if !request.is_version_13() {
        return Err(Refusal::UnsupportedVersion);
    }
    let key = Key::read(request.values("Sec-WebSocket-Key").next().ok_or(Refusal::BadKey)?)?;
    if request.has_bad_extensions() {
        return Err(Refusal::BadExtensions);
    }
    Ok(key)
}

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`, in ASCII (RFC 6455 §4.2.2, step 5.4). The
/// key is not checked.
///
/// ```
/// use ikisocket::http::accept_key;
///
/// assert_eq!(&accept_key("dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
#[must_use]
pub fn accept_key(key: &str) -> [u8; 28] {
    accept(key.as_bytes())
}

fn accept(key: &[u8]) -> [u8; 28] {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    let written = STANDARD.encode_slice(hash, &mut accept);
    debug_assert!(matches!(written, Ok(28)), "20 bytes are 28 in base64");
    accept
}

/// Appends the head of the 101 response that accepts the handshake (RFC 6455 §4.2.2).
///
/// `subprotocol` is the one that was chosen, `extensions` the whole value of
/// `Sec-WebSocket-Extensions`. A value that cannot stand in its header (a subprotocol that is no
/// token, a line break) is left out.
pub fn write_switching_protocols(
    key: &Key,
    subprotocol: Option<&str>,
    extensions: Option<&str>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          Upgrade: websocket\r\n\
          Connection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept(&key.0));
    if let Some(subprotocol) = subprotocol.filter(|name| is_token(name)) {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    if let Some(extensions) = extensions.filter(|value| is_field_value(value)) {
        out.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        out.extend_from_slice(extensions.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Chooses the subprotocol: returns the index of the first of the server's names, in its order of
/// preference, that the client also offered. Names are compared exactly (RFC 6455 §4.2.2, step 4).
/// An offer that is not a token is ignored; the offers beside it still count.
///
/// `None` if the two have none in common: the handshake then continues without a subprotocol.
#[must_use]
pub fn choose_subprotocol(request: &Request, server: &[impl AsRef<str>]) -> Option<usize> {
    if server.is_empty() {
        return None;
    }
    let length = |name: &[u8]| 1_u64 << name.len().min(63);
    let lengths = server.iter().fold(0, |all, name| all | length(name.as_ref().as_bytes()));
    let mut best = server.len();
    // A head can hold thousands of offers. So they are walked through once, not once for each name,
    // and few are compared with names.
    for offer in request
        .values("Sec-WebSocket-Protocol")
        .flat_map(elements)
        .filter(|offer| lengths & length(offer) != 0)
    {
        let better = server[..best].iter().position(|name| {
            let name = name.as_ref().as_bytes();
            // Comparing the last bytes first avoids most comparisons of `v1` with `v2`.
            (name.len(), name.last()) == (offer.len(), offer.last()) && name == offer
        });
        best = better.unwrap_or(best);
    }
    (best < server.len()).then_some(best)
}

/// Whether the origin of the page that opened the connection is in the list (RFC 6455 §10.2). Case
/// does not matter, otherwise the comparison is exact: `https://example.org` does not allow
/// `https://example.org:8443`.
///
/// An empty list, or one with `"*"`, allows every page, and `Origin` is not looked at. With any
/// other list, a request is allowed only with exactly one `Origin` line: two are refused whatever
/// bytes they hold, even if they are equal. Only browsers send the header reliably. So the check
/// protects their users; it does not keep other clients out.
#[must_use]
pub fn origin_allowed(request: &Request, allowed: &[impl AsRef<str>]) -> bool {
    if allowed.is_empty() || allowed.iter().any(|origin| origin.as_ref() == "*") {
        return true;
    }
    let mut origins = request.values("Origin");
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return false;
    };
    let mut allowed = allowed.iter().map(AsRef::as_ref);
    allowed.any(|each: &str| each.as_bytes().eq_ignore_ascii_case(origin))
}

/// The reason why a text is not an origin that a browser would send, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// The text is not a scheme, a host and perhaps a port, as a browser writes them.
    #[error("write it like https://example.org, with nothing behind the host but perhaps a port")]
    Form,
    /// The text contains a `*` and more.
    #[error("`*` stands alone and allows every origin; allow the hosts of a domain in a filter")]
    Wildcard,
    /// The scheme is that of the connection, not of the page.
    #[error("it is the page that has an origin: write https for wss, and http for ws")]
    Scheme,
    /// The text behind the colon is not a port: 1 to 65535, without leading zeros.
    #[error("behind the colon stands a port from 1 to 65535; without one there is no colon")]
    Port,
    /// The port is the default of the scheme.
    #[error(
        "browsers leave out the scheme's default port, 443 of https and 80 of http: write https://example.org"
    )]
    DefaultPort,
}

/// Checks that [`origin_allowed`] can find the text. It must be `*`, `null`, or a scheme, a host
/// and perhaps a port, as browsers write them (RFC 6454 §6.2): without the scheme's default port,
/// without a slash at the end, and with an international name in its ASCII form.
///
/// # Errors
///
/// The fault: no request with this origin would ever arrive.
///
/// ```
/// use ikisocket::http::{OriginError, check_origin};
///
/// assert_eq!(check_origin("https://example.org"), Ok(()));
/// assert_eq!(check_origin("http://[::1]:8080"), Ok(()));
/// assert_eq!(check_origin("https://example.org/"), Err(OriginError::Form));
/// assert_eq!(check_origin("https://*.example.org"), Err(OriginError::Wildcard));
/// assert_eq!(check_origin("https://example.org:443"), Err(OriginError::DefaultPort));
/// ```
pub fn check_origin(text: &str) -> Result<(), OriginError> {
    if text == "*" || text == "null" {
        return Ok(());
    }
    if text.contains('*') {
        return Err(OriginError::Wildcard);
    }
    let (scheme, rest) =
        text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).ok_or(OriginError::Form)?;
    if ["ws", "wss"].iter().any(|each| scheme.eq_ignore_ascii_case(each)) {
        return Err(OriginError::Scheme);
    }
    // Colons are part of the host only within brackets.
    let host_end = rest.find(']').map_or(0, |end| end + 1);
    let host_end = rest[host_end..].find(':').map_or(rest.len(), |colon| host_end + colon);
    let (host, port) = rest.split_at(host_end);
    if !is_host(host) {
        return Err(OriginError::Form);
    }
    let Some(port) = port.strip_prefix(':') else { return Ok(()) };
    let own = [("http", 80), ("https", 443)]
        .into_iter()
        .find(|(each, _)| scheme.eq_ignore_ascii_case(each));
    match port.parse::<u16>() {
        Ok(number) if number == 0 || number.to_string() != port => Err(OriginError::Port),
        Ok(number) if own.is_some_and(|(_, own)| number == own) => Err(OriginError::DefaultPort),
        Ok(_) => Ok(()),
        Err(_) if port.contains('/') => Err(OriginError::Form),
        Err(_) => Err(OriginError::Port),
    }
}

/// A scheme (RFC 3986 §3.1).
fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(rest)
}

/// A name or an IPv4 address, or an IPv6 address in brackets and in its shortest form.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // The embedded IPv4 address of an IPv6 address is written in different ways.
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok_and(|address| {
            address.to_ipv4_mapped().is_some() || address.to_string().eq_ignore_ascii_case(inner)
        }),
        None => {
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"#%/:<>?@[\\]^|".contains(&byte);
            !text.is_empty() && text.bytes().all(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HeadLimits;

    fn request(lines: &str) -> Request {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        Request::parse(head.as_bytes(), &HeadLimits::default()).unwrap()
    }

    fn switching_protocols(subprotocol: Option<&str>, extensions: Option<&str>) -> String {
        let key = Key::parse("dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        let mut out = Vec::new();
        write_switching_protocols(&key, subprotocol, extensions, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_101_holds_what_the_rfc_wants_and_nothing_else() {
        assert_eq!(
            switching_protocols(None, None),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let full = switching_protocols(Some("chat"), Some("permessage-deflate"));
        assert!(
            full.ends_with("\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        );
    }

    #[test]
    fn the_101_cannot_be_split() {
        let split = switching_protocols(Some("a\r\nX: y"), Some("a\r\nX: y"));
        assert_eq!(split, switching_protocols(None, None));
    }

    #[test]
    fn the_servers_favourite_subprotocol_wins() {
        let request = request("Sec-WebSocket-Protocol: a, b\r\nsec-websocket-protocol: ,c\r\n");
        assert_eq!(choose_subprotocol(&request, &["x", "c", "a"]), Some(1));
        assert_eq!(choose_subprotocol(&request, &["b"]), Some(0));
        assert_eq!(choose_subprotocol(&request, &["A", ""]), None);
        assert_eq!(choose_subprotocol(&request, &[] as &[&str]), None);
    }

    /// A name that counts how often it is compared.
    struct Counted<'c>(&'static str, &'c std::cell::Cell<usize>);

    impl AsRef<str> for Counted<'_> {
        fn as_ref(&self) -> &str {
            self.1.set(self.1.get() + 1);
            self.0
        }
    }

    #[test]
    fn each_offer_is_compared_once_with_each_name_and_most_with_none() {
        let looks = std::cell::Cell::new(0);
        let names = ["v1", "v2", "v3", "v4"].map(|name| Counted(name, &looks));
        let offers =
            |offer: &str| request(&format!("Sec-WebSocket-Protocol: {}\r\n", offer.repeat(4000)));
        for (offer, chosen, most) in
            [("a,", None, 4), ("v5,", None, 4 + 4 * 4000), (",", None, 4), ("v1,", Some(0), 4 + 4)]
        {
            looks.set(0);
            assert_eq!(choose_subprotocol(&offers(offer), &names), chosen);
            assert!(looks.get() <= most, "{offer}: {}", looks.get());
        }
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        let list = ["https://example.org", "http://localhost:3000"];
        let allowed = |lines| origin_allowed(&request(lines), &list);
        assert!(allowed("Origin: https://Example.ORG\r\n"));
        assert!(allowed("Origin: http://localhost:3000\r\n"));
        assert!(!allowed("Origin: https://example.org:8443\r\n"));
        assert!(!allowed("Origin: http://example.org\r\n"));
        assert!(!allowed("Origin: https://example.org.evil.org\r\n"));
        assert!(!allowed("Origin: null\r\n"));
        assert!(!allowed(""));
        assert!(!allowed("Origin: https://example.org\r\nOrigin: https://evil.org\r\n"));
    }

    #[test]
    fn an_empty_list_of_origins_allows_every_origin() {
        assert!(origin_allowed(&request(""), &[] as &[&str]));
        assert!(origin_allowed(&request("Origin: null\r\n"), &["*"]));
    }

    #[test]
    fn an_origin_is_what_browsers_say() {
        for text in [
            "*",
            "null",
            "https://example.org",
            "HTTP://Example.org",
            "http://localhost:3000",
            "https://example.org:80",
            "http://example.org:443",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "http://127.0.0.1:65535",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert_eq!(check_origin(text), Ok(()), "{text:?}");
        }
        use OriginError::*;
        for (error, texts) in [
            (
                Form,
                &[
                    "",
                    "example.org",
                    "https://",
                    "://a",
                    "a b://c",
                    "1a://c",
                    "https://a/",
                    "https://a?b",
                ][..],
            ),
            (
                Form,
                &[
                    "https://a#b",
                    "https://me@a",
                    "https://a b",
                    "https://[",
                    "https://[::1",
                    "https://::1]",
                ],
            ),
            (
                Form,
                &[
                    "https://[::1]x",
                    "https://[1.2.3.4]",
                    "https://[0:0:0:0:0:0:0:1]",
                    "https://bücher.example",
                ],
            ),
            (Form, &["http://localhost:3000/", "https://:3000", "https:example.org", "http://::1"]),
            (Wildcard, &["https://*.example.org", "https://*", "*://example.org", "**"]),
            (Scheme, &["wss://example.org", "ws://example.org:3000"]),
            (
                Port,
                &[
                    "https://example.org:",
                    "http://a:b:c",
                    "https://example.org:99999",
                    "https://example.org:0",
                ],
            ),
            (Port, &["https://example.org:0443", "https://example.org:+8443", "https://[::1]:"]),
            (DefaultPort, &["https://example.org:443", "http://example.org:80", "HTTP://[::1]:80"]),
        ] {
            for text in texts {
                assert_eq!(check_origin(text), Err(error), "{text:?}");
            }
        }
    }

    #[test]
    fn a_token_is_what_the_rfc_says() {
        assert!(is_token("graphql-transport-ws") && is_token("v1.chat!#$%&'*+^_`|~"));
        for text in ["", "a b", "a,b", "a\r", "ü", "\"a\"", "a/b", "a:"] {
            assert!(!is_token(text), "{text:?}");
        }
    }
}
