//! permessage-deflate in the handshake (RFC 7692 §5.1, §7.1): which of the client's offers can be
//! accepted, and the answer to it. It knows no compressor.

use super::extensions::{offers, params};
use super::request::Request;

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The bits of a window that no parameter names.
const DEFAULT_BITS: u8 = 15;
/// The smallest window that compressors offer; the RFC also knows 8.
const LEAST_BITS: u8 = 9;

/// The parameters of permessage-deflate (RFC 7692 §7.1): the server's wishes, or the agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// The server compresses each message by itself.
    pub server_no_context_takeover: bool,
    /// The client compresses each message by itself.
    pub client_no_context_takeover: bool,
    /// The server refers back at most 2 to this power of bytes: 9 to 15.
    pub server_max_window_bits: u8,
    /// The client refers back at most 2 to this power of bytes: 9 to 15.
    pub client_max_window_bits: u8,
}

impl Default for DeflateParams {
    fn default() -> Self {
        Self {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: DEFAULT_BITS,
            client_max_window_bits: DEFAULT_BITS,
        }
    }
}

/// Agrees on the first of the client's offers of permessage-deflate that can be accepted. Returns
/// the parameters, and the value of the response's `Sec-WebSocket-Extensions`. `None` if no offer
/// can be accepted; then the connection is not compressed.
///
/// If the header is malformed (RFC 6455 §9.1), no offer can be accepted:
/// [`check_handshake`](super::check_handshake) refuses such a request. An offer is skipped if it
/// has an unknown, repeated or illegal parameter (RFC 7692 §7). It is also skipped if it asks for a
/// server window of 8 bits, for which there is no compressor. A client's window is only made
/// smaller if the client offers that. The response names the server's window only if the client's
/// offer does; a smaller window is used in any case.
///
/// ```
/// use ikisocket::http::{DeflateParams, HeadLimits, Request, agree_on_deflate};
///
/// let head = b"GET / HTTP/1.1\r\nHost: a\r\n\
///     Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
/// let request = Request::parse(head, &HeadLimits::default())?;
///
/// let wanted = DeflateParams { client_max_window_bits: 10, ..DeflateParams::default() };
/// let (agreed, answer) = agree_on_deflate(&request, &wanted).expect("a good offer");
/// assert_eq!(agreed, wanted);
/// assert_eq!(answer, "permessage-deflate; client_max_window_bits=10");
/// # Ok::<(), ikisocket::http::Refusal>(())
/// ```
#[must_use]
pub fn agree_on_deflate(
    request: &Request,
    wanted: &DeflateParams,
) -> Option<(DeflateParams, String)> {
    if request.has_bad_extensions() {
        return None;
    }
    let mut offers =
        request.values("Sec-WebSocket-Extensions").flat_map(|value| offers(value, NAME));
    offers.find_map(|behind| Offer::parse(behind)?.accept(wanted))
}

/// One offer of permessage-deflate.
#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)`: the client can make its window smaller, and does not say how small it is.
    client_max_window_bits: Option<Option<u8>>,
}

impl Offer {
    /// Reads the parameters behind the extension's name; `None` if they are illegal.
    fn parse(behind: &[u8]) -> Option<Self> {
        let mut offer = Self::default();
        for (name, value) in params(behind) {
            let value = value.as_deref();
            let is_new = if name.eq_ignore_ascii_case(SERVER_NO_CONTEXT_TAKEOVER.as_bytes())
                && value.is_none()
            {
                !std::mem::replace(&mut offer.server_no_context_takeover, true)
            } else if name.eq_ignore_ascii_case(CLIENT_NO_CONTEXT_TAKEOVER.as_bytes())
                && value.is_none()
            {
                !std::mem::replace(&mut offer.client_no_context_takeover, true)
            } else if name.eq_ignore_ascii_case(SERVER_MAX_WINDOW_BITS.as_bytes()) {
                offer.server_max_window_bits.replace(window_bits(value?)?).is_none()
            } else if name.eq_ignore_ascii_case(CLIENT_MAX_WINDOW_BITS.as_bytes()) {
                let bits = value.map(|value| window_bits(value).ok_or(()));
                offer.client_max_window_bits.replace(bits.transpose().ok()?).is_none()
            } else {
                false
            };
            if !is_new {
                return None;
            }
        }
        Some(offer)
    }

    fn accept(&self, wanted: &DeflateParams) -> Option<(DeflateParams, String)> {
        let server =
            wanted.server_max_window_bits.min(self.server_max_window_bits.unwrap_or(DEFAULT_BITS));
        if server < LEAST_BITS {
            return None;
        }
        let client = match self.client_max_window_bits {
            Some(bits) => wanted.client_max_window_bits.min(bits.unwrap_or(DEFAULT_BITS)),
            None => DEFAULT_BITS,
        };
        let agreed = DeflateParams {
            server_no_context_takeover: self.server_no_context_takeover
                || wanted.server_no_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover
                || wanted.client_no_context_takeover,
            server_max_window_bits: server,
            client_max_window_bits: client.max(LEAST_BITS),
        };
        let mut answer = NAME.to_owned();
        for (flag, name) in [
            (agreed.server_no_context_takeover, SERVER_NO_CONTEXT_TAKEOVER),
            (agreed.client_no_context_takeover, CLIENT_NO_CONTEXT_TAKEOVER),
        ] {
            if flag {
                answer += &format!("; {name}");
            }
        }
        // If the client did not offer the parameter, it may refuse the response (§7.1.2.1 allows
        // it, nhooyr.io/websocket 1.8 does not). It also need not know the size: any window holds a
        // smaller one.
        if server < DEFAULT_BITS && self.server_max_window_bits.is_some() {
            answer += &format!("; {SERVER_MAX_WINDOW_BITS}={server}");
        }
        if client < DEFAULT_BITS {
            answer += &format!("; {CLIENT_MAX_WINDOW_BITS}={client}");
        }
        Some((agreed, answer))
    }
}

/// A window's size: 8 to 15, without a leading zero (RFC 7692 §7.1.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HeadLimits;

    fn answer(offers: &str, wanted: &DeflateParams) -> Option<String> {
        let lines: String =
            offers.lines().map(|line| format!("Sec-WebSocket-Extensions: {line}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let request = Request::parse(head.as_bytes(), &HeadLimits::default()).unwrap();
        agree_on_deflate(&request, wanted).map(|(_, answer)| answer)
    }

    /// The answer of a server with default parameters, without the extension's name.
    fn plain(offers: &str) -> Option<String> {
        let answer = answer(offers, &DeflateParams::default())?;
        Some(answer.strip_prefix(NAME).unwrap().trim_start_matches("; ").to_owned())
    }

    #[test]
    fn each_parameter_is_agreed_on_as_the_rfc_says() {
        for (offer, answer) in [
            ("permessage-deflate", ""),
            ("permessage-deflate; server_no_context_takeover", "server_no_context_takeover"),
            ("permessage-deflate; client_no_context_takeover", "client_no_context_takeover"),
            ("permessage-deflate; server_max_window_bits=9", "server_max_window_bits=9"),
            ("permessage-deflate; server_max_window_bits=\"12\"", "server_max_window_bits=12"),
            ("permessage-deflate;server_max_window_bits = 15", ""),
            ("permessage-deflate; client_max_window_bits", ""),
            ("permessage-deflate; client_max_window_bits=15", ""),
            ("permessage-deflate; client_max_window_bits=10", "client_max_window_bits=10"),
            ("permessage-deflate; client_max_window_bits=8", "client_max_window_bits=8"),
            ("Permessage-Deflate; Server_Max_Window_Bits=14", "server_max_window_bits=14"),
        ] {
            assert_eq!(plain(offer).as_deref(), Some(answer), "{offer}");
        }
    }

    #[test]
    fn an_illegal_offer_is_declined_as_a_whole() {
        for parameters in [
            "unknown",
            "server_no_context_takeover=1",
            "client_no_context_takeover=",
            "server_no_context_takeover; server_no_context_takeover",
            "server_max_window_bits",
            "server_max_window_bits=",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=0",
            "client_max_window_bits=",
            "client_max_window_bits; client_max_window_bits=10",
            "",
        ] {
            assert_eq!(plain(&format!("permessage-deflate; {parameters}")), None, "{parameters}");
        }
    }

    #[test]
    fn a_window_of_8_bits_is_declined_for_the_server_and_good_for_the_client() {
        assert_eq!(plain("permessage-deflate; server_max_window_bits=8"), None);
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\
            Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8\r\n\r\n";
        let request = Request::parse(request, &HeadLimits::default()).unwrap();
        let (agreed, _) = agree_on_deflate(&request, &DeflateParams::default()).unwrap();
        assert_eq!(agreed.client_max_window_bits, 9, "a window of 9 holds one of 8");
    }

    #[test]
    fn the_first_good_offer_of_several_is_taken() {
        let good = "permessage-deflate; server_max_window_bits=11";
        let one_line =
            format!("x-webkit-deflate-frame, permessage-deflate; what, {good}, permessage-deflate");
        assert_eq!(plain(&one_line).as_deref(), Some("server_max_window_bits=11"));
        let two_lines = format!("foo; bar=\"a\", permessage-deflate; what\n{good}");
        assert_eq!(plain(&two_lines).as_deref(), Some("server_max_window_bits=11"));
        assert_eq!(plain("foo, bar"), None);
        assert_eq!(
            plain(r#"permessage-deflate; client_max_window_bits="1\2""#).unwrap(),
            "client_max_window_bits=12"
        );
        // A malformed header also invalidates the offers before and behind the fault (RFC 6455
        // §9.1).
        for malformed in [
            r#"foo; bar="\", permessage-deflate, \"""#,
            "foo; bar=\"a, permessage-deflate\"",
            "foo;",
            "a b",
        ] {
            assert_eq!(plain(malformed), None);
            assert_eq!(plain(&format!("{good}, {malformed}")), None);
            assert_eq!(plain(&format!("{malformed}\n{good}")), None);
        }
        assert_eq!(plain(""), None);
    }

    /// RFC 7692 §7.1.1, §7.1.2.
    #[test]
    fn a_window_is_in_the_answer_only_if_it_is_in_the_offer() {
        let takeover = ["", "; server_no_context_takeover; client_no_context_takeover"];
        for (offer, server, client, windows) in [
            ("", 10, 15, ""),
            ("; client_max_window_bits", 10, 15, ""),
            ("; client_max_window_bits", 10, 11, "; client_max_window_bits=11"),
            ("; client_max_window_bits=9", 10, 9, "; client_max_window_bits=9"),
            ("; server_max_window_bits=15", 10, 15, "; server_max_window_bits=10"),
            ("; server_max_window_bits=9", 9, 15, "; server_max_window_bits=9"),
            (
                "; server_max_window_bits=12; client_max_window_bits",
                10,
                11,
                "; server_max_window_bits=10; client_max_window_bits=11",
            ),
        ] {
            // The behaviour of an endpoint without a window of earlier messages concerns no offer.
            for no_context_takeover in [false, true] {
                let wanted = DeflateParams {
                    server_no_context_takeover: no_context_takeover,
                    client_no_context_takeover: no_context_takeover,
                    server_max_window_bits: 10,
                    client_max_window_bits: client,
                };
                let head = format!(
                    "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Extensions: permessage-deflate{offer}\r\n\r\n"
                );
                let request = Request::parse(head.as_bytes(), &HeadLimits::default()).unwrap();
                let (agreed, answer) = agree_on_deflate(&request, &wanted).unwrap();
                let takeover = takeover[usize::from(no_context_takeover)];
                assert_eq!(answer, format!("permessage-deflate{takeover}{windows}"), "{offer}");
                assert_eq!(agreed.server_max_window_bits, server, "{offer}");
            }
        }
    }

    #[test]
    fn what_the_server_wants_is_in_the_answer_if_the_client_allows_it() {
        let wanted = DeflateParams {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: 10,
            client_max_window_bits: 11,
        };
        let all = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=";
        let offer = "permessage-deflate; client_max_window_bits; server_max_window_bits=9";
        assert_eq!(answer(offer, &wanted), Some(format!("{all}9; client_max_window_bits=11")));
        let offer = "permessage-deflate; client_max_window_bits=10; server_max_window_bits=12";
        assert_eq!(answer(offer, &wanted), Some(format!("{all}10; client_max_window_bits=10")));
    }
}
