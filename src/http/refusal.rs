//! The reasons for which a request is refused, and the response that reports each. It does not know
//! how they are detected.

use super::response::Response;

/// The reason why a request was refused.
///
/// The variants are in order of precedence: if several apply, the first wins. [`Refusal::response`]
/// is the response for the client; the `Display` text is its body.
///
/// ```
/// use ikisocket::http::Refusal;
///
/// let refusal = Refusal::MethodNotAllowed { allow: "GET, HEAD" };
/// assert_eq!(refusal.status(), 405);
/// assert_eq!(refusal.response().header("allow"), Some("GET, HEAD"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: not a request head that RFC 9112 allows, or one that two servers could read
    /// differently.
    #[error("Malformed request: {0}.")]
    Malformed(
        /// The fault, in plain words.
        &'static str,
    ),
    /// 431: the head has more bytes than [`HeadLimits::max_bytes`](super::HeadLimits::max_bytes).
    #[error("The request head is too large. Send fewer or shorter headers and cookies.")]
    HeadTooLarge,
    /// 431: more header lines than [`HeadLimits::max_headers`](super::HeadLimits::max_headers).
    #[error("The request has too many headers. Send fewer.")]
    TooManyHeaders,
    /// 408: the head was not complete in time.
    #[error("The request took too long to arrive. Send it again.")]
    TimedOut,
    /// 404: no route has this path.
    #[error("There is nothing at this path.")]
    NotFound,
    /// 405: there is something at this path, but not for this method.
    #[error("This method is not allowed here. Allowed: {allow}.")]
    MethodNotAllowed {
        /// The value of the `Allow` header: the methods, separated by commas.
        allow: &'static str,
    },
    /// 426: the path is a WebSocket route and the request asked for no upgrade, or speaks HTTP/1.0,
    /// which has none (RFC 9110 §7.8).
    #[error(
        "This is a WebSocket endpoint. Connect with a WebSocket client: \
         HTTP/1.1 with `Connection: Upgrade` and `Upgrade: websocket`."
    )]
    UpgradeRequired,
    /// 426: `Sec-WebSocket-Version` is missing or is not 13 (RFC 6455 §4.4).
    #[error("Only WebSocket version 13 is spoken here. Send `Sec-WebSocket-Version: 13`.")]
    UnsupportedVersion,
    /// 400: `Sec-WebSocket-Key` is missing or is not the base64 of 16 bytes (RFC 6455 §4.1).
    #[error("`Sec-WebSocket-Key` is missing or is not 16 bytes in base64.")]
    BadKey,
    /// 400: `Sec-WebSocket-Extensions` is not a list of extensions as RFC 6455 §9.1 writes it.
    #[error(
        "`Sec-WebSocket-Extensions` is malformed. Send `name; parameter=value`, with commas between extensions."
    )]
    BadExtensions,
    /// 403: the origin of the page that opened the connection is not allowed (RFC 6455 §10.2).
    #[error("Connections from this origin are not allowed.")]
    OriginNotAllowed,
    /// 503: as many connections are open as the server allows.
    #[error("The server is full. Try again in {retry_after} s.")]
    Full {
        /// The value of the `Retry-After` header, in seconds.
        retry_after: u32,
    },
    /// 503: the server accepts no new connections at the moment, for instance because it shuts
    /// down.
    #[error("The server takes no new connections. Try again in {retry_after} s.")]
    Refusing {
        /// The value of the `Retry-After` header, in seconds.
        retry_after: u32,
    },
    /// 503: a filter's deferred answer did not come, or not in time.
    #[error("The server could not decide about this request. Try again in {retry_after} s.")]
    Undecided {
        /// The value of the `Retry-After` header, in seconds.
        retry_after: u32,
    },
}

impl Refusal {
    /// A client that speaks TLS to a server that does not.
    pub(crate) const TLS_HELLO: Self =
        Self::Malformed("a TLS handshake in the place of a request; TLS is not spoken here");

    /// The HTTP status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::BadKey | Self::BadExtensions => 400,
            Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::TimedOut => 408,
            Self::UpgradeRequired | Self::UnsupportedVersion => 426,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Full { .. } | Self::Refusing { .. } | Self::Undecided { .. } => 503,
        }
    }

    /// The response for the client: the status, the headers that belong to it, and the reason as
    /// plain text.
    pub fn response(&self) -> Response {
        let response = Response::text(format!("{self}\n")).with_status(self.status());
        match self {
            Self::MethodNotAllowed { allow } => response.with_own_header("Allow", *allow),
            // RFC 9110 §15.5.22: every 426 names the protocol to upgrade to.
            Self::UpgradeRequired => response.with_own_header("Upgrade", "websocket"),
            Self::UnsupportedVersion => response
                .with_own_header("Upgrade", "websocket")
                .with_own_header("Sec-WebSocket-Version", "13"),
            Self::Full { retry_after }
            | Self::Refusing { retry_after }
            | Self::Undecided { retry_after } => {
                response.with_own_header("Retry-After", retry_after.to_string())
            }
            _ => response,
        }
    }
}

/// The fault that httparse found, in words for the client.
pub(super) fn malformed(error: httparse::Error) -> Refusal {
    Refusal::Malformed(match error {
        httparse::Error::Token => "the request line is not `METHOD target HTTP/1.1`",
        httparse::Error::Version => "the request line does not end in HTTP/1.1 or HTTP/1.0",
        httparse::Error::HeaderName => {
            "a header line is not `Name: value` (no space before the colon, no folded lines)"
        }
        httparse::Error::HeaderValue => "a header value holds a character that is not allowed",
        _ => "this is not an HTTP/1.1 request head",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(refusal: &Refusal) -> String {
        let mut out = Vec::new();
        refusal.response().encode(false, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_refusal_carries_the_headers_of_its_status() {
        let rows = [
            (Refusal::Malformed("x"), "400 Bad Request", ""),
            (Refusal::BadKey, "400 Bad Request", ""),
            (Refusal::BadExtensions, "400 Bad Request", ""),
            (Refusal::OriginNotAllowed, "403 Forbidden", ""),
            (Refusal::NotFound, "404 Not Found", ""),
            (
                Refusal::MethodNotAllowed { allow: "GET, HEAD" },
                "405 Method Not Allowed",
                "\r\nAllow: GET, HEAD\r\n",
            ),
            (Refusal::TimedOut, "408 Request Timeout", ""),
            (Refusal::UpgradeRequired, "426 Upgrade Required", "\r\nUpgrade: websocket\r\n"),
            (
                Refusal::UpgradeRequired,
                "426 Upgrade Required",
                "\r\nConnection: close, Upgrade\r\n",
            ),
            (
                Refusal::UnsupportedVersion,
                "426 Upgrade Required",
                "\r\nSec-WebSocket-Version: 13\r\n",
            ),
            (Refusal::HeadTooLarge, "431 Request Header Fields Too Large", ""),
            (Refusal::TooManyHeaders, "431 Request Header Fields Too Large", ""),
            (Refusal::Full { retry_after: 5 }, "503 Service Unavailable", "\r\nRetry-After: 5\r\n"),
            (
                Refusal::Undecided { retry_after: 2 },
                "503 Service Unavailable",
                "\r\nRetry-After: 2\r\n",
            ),
            (
                Refusal::Refusing { retry_after: 1 },
                "503 Service Unavailable",
                "\r\nRetry-After: 1\r\n",
            ),
        ];
        for (refusal, status, header) in rows {
            let text = encoded(&refusal);
            assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{text}");
            assert!(text.contains(header), "{text}");
            assert!(text.ends_with(&format!("\r\n\r\n{refusal}\n")), "{text}");
        }
    }
}
