//! A complete HTTP/1.1 response, after which the connection closes. It knows no request and no
//! connection.

use std::borrow::Cow;

use super::syntax::{is_field_value, is_token};

/// Headers that [`Response::encode`] writes itself: a second one would contradict it.
const OWN_HEADERS: [&str; 3] = ["Content-Length", "Transfer-Encoding", "Connection"];

/// An HTTP response: status, headers, body (RFC 9112 §2).
///
/// It is always the last response on its connection: encoding adds `Connection: close` and
/// `Content-Length`. No header can hold a line break, so no user-supplied text in a header can
/// split the response. There is no `Date`, because this module has no clock. A server with a clock
/// may add the header (RFC 9110 §6.6.1).
///
/// ```
/// use ikisocket::http::Response;
///
/// let response = Response::html("<p>Hello")
///     .with_header("Set-Cookie", "seen=1")?
///     .with_header("Cache-Control", "no-store")?;
/// let mut out = Vec::new();
/// response.encode(false, &mut out);
/// assert!(out.starts_with(b"HTTP/1.1 200 OK\r\n"));
/// # Ok::<(), ikisocket::http::HeaderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a response is sent only if it is returned or encoded"]
pub struct Response {
    status: u16,
    headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    body: Vec<u8>,
}

/// The reason why [`Response::with_header`] refused a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is not a token (RFC 9110 §5.1): it is empty, or has a space, a colon, a non-ASCII
    /// character or the like.
    #[error("a header name is letters, digits and hyphens, without spaces or a colon")]
    InvalidName,
    /// The value holds a line break or another control character (RFC 9110 §5.5).
    #[error("a header value holds no line breaks and no control characters")]
    InvalidValue,
    /// The header is `Content-Length`, `Transfer-Encoding` or `Connection`: the server sets these
    /// itself.
    #[error("Content-Length, Transfer-Encoding and Connection are set by the server itself")]
    Reserved,
}

/// Allows `?` after [`Response::with_header`] in a filter. It becomes 500: a header that cannot be
/// sent is the server's own fault.
impl From<HeaderError> for Response {
    fn from(error: HeaderError) -> Self {
        log::error!("a response is replaced by 500: {error}");
        Self::text("Internal server error.\n").with_status(500)
    }
}

/// 200 with plain text, as [`Response::text`].
impl From<String> for Response {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// 200 with plain text, as [`Response::text`].
impl From<&str> for Response {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

/// The response of the `Ok` or of the `Err`, so that a page may use `?`.
impl<T: Into<Response>, E: Into<Response>> From<Result<T, E>> for Response {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(Into::into, Into::into)
    }
}

impl Response {
    /// A response with this status, no headers and no body.
    ///
    /// A status that cannot end an exchange (outside 200..=599) becomes 500.
    pub fn new(status: u16) -> Self {
        Self { status: final_status(status), headers: Vec::new(), body: Vec::new() }
    }

    /// 200 with plain text in UTF-8.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(200)
            .with_own_header("Content-Type", "text/plain; charset=utf-8")
            .with_body(body.into())
    }

    /// 200 with an HTML page in UTF-8.
    pub fn html(body: impl Into<String>) -> Self {
        Self::new(200)
            .with_own_header("Content-Type", "text/html; charset=utf-8")
            .with_body(body.into())
    }

    /// 200 with JSON that is already text. (JSON is always UTF-8 and its media type has no
    /// `charset`, RFC 8259 §11.)
    pub fn json(body: impl Into<String>) -> Self {
        Self::new(200).with_own_header("Content-Type", "application/json").with_body(body.into())
    }

    /// 200 with bytes of this media type (for instance `image/png`). A type that cannot stand in a
    /// header becomes `application/octet-stream`.
    ///
    /// ```
    /// use ikisocket::Response;
    ///
    /// let response = Response::bytes("text/csv; charset=utf-8", "a,b\n1,2\n");
    /// assert_eq!(response.header("Content-Type"), Some("text/csv; charset=utf-8"));
    /// let response = Response::bytes("no\ntype", vec![0, 1]);
    /// assert_eq!(response.header("Content-Type"), Some("application/octet-stream"));
    /// ```
    pub fn bytes(content_type: impl Into<Cow<'static, str>>, body: impl Into<Vec<u8>>) -> Self {
        let content_type = content_type.into();
        let is_type = !content_type.is_empty() && is_field_value(&content_type);
        let known = if is_type { content_type } else { "application/octet-stream".into() };
        Self::new(200).with_own_header("Content-Type", known).with_body(body)
    }

    /// The same response with another status; see [`Response::new`] for statuses that are not
    /// allowed.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = final_status(status);
        self
    }

    /// The same response with another body. Its `Content-Type` does not change.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header. A second `Content-Type` replaces the first; every other header may occur
    /// several times (`Set-Cookie`).
    ///
    /// # Errors
    ///
    /// [`HeaderError`] if the name or the value cannot stand in a header, or the server sets it
    /// itself.
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Result<Self, HeaderError> {
        let (name, value) = (name.into(), value.into());
        if !is_token(&name) {
            return Err(HeaderError::InvalidName);
        }
        if !is_field_value(&value) {
            return Err(HeaderError::InvalidValue);
        }
        if OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(HeaderError::Reserved);
        }
        if name.eq_ignore_ascii_case("Content-Type") {
            self.headers.retain(|(old, _)| !old.eq_ignore_ascii_case("Content-Type"));
        }
        self.headers.push((name, value));
        Ok(self)
    }

    /// Adds a header of this module's own, known to be well-formed.
    pub(super) fn with_own_header(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        let value = value.into();
        debug_assert!(is_token(name) && is_field_value(&value));
        self.headers.push((Cow::Borrowed(name), value));
        self
    }

    /// The status code, 200..=599.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body, also in cases in which [`Response::encode`] leaves it out.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The first header of this name, in any case. Headers that are only added when encoding are
    /// not found.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(each, _)| each.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Appends the response to `out` in its wire format.
    ///
    /// `head_only` is for a HEAD request: all headers as for GET, with its `Content-Length`, but no
    /// body (RFC 9110 §9.3.2). 204, 205 and 304 never carry a body (RFC 9110 §15.3.5, §15.3.6,
    /// §15.4.5).
    pub fn encode(&self, head_only: bool, out: &mut Vec<u8>) {
        let (body, has_length) = match self.status {
            204 | 304 => (&[][..], false),
            205 => (&[][..], true),
            _ => (&self.body[..], true),
        };
        let mut line = |parts: &[&str]| {
            parts.iter().for_each(|p| out.extend_from_slice(p.as_bytes()));
            out.extend_from_slice(b"\r\n");
        };

        line(&["HTTP/1.1 ", &self.status.to_string(), " ", reason(self.status)]);
        for (name, value) in &self.headers {
            line(&[name, ": ", value]);
        }
        if has_length {
            line(&["Content-Length: ", &body.len().to_string()]);
        }
        // RFC 9110 §7.8: a sender of Upgrade also names it in Connection.
        let connection = match self.header("Upgrade") {
            Some(_) => "close, Upgrade",
            None => "close",
        };
        line(&["Connection: ", connection]);
        line(&[]);
        if !head_only {
            out.extend_from_slice(body);
        }
    }
}

fn final_status(status: u16) -> u16 {
    if (200..=599).contains(&status) { status } else { 500 }
}

/// The reason phrase (RFC 9110 §15; 428, 429, 431, 511: RFC 6585). It may be empty (RFC 9112 §4).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: &Response, head_only: bool) -> String {
        let mut out = Vec::new();
        response.encode(head_only, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_complete_and_the_last_one() {
        assert_eq!(
            encoded(&Response::text("hé"), false),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 3\r\nConnection: close\r\n\r\nhé"
        );
    }

    #[test]
    fn head_gets_the_length_of_get_and_no_body() {
        let get = encoded(&Response::html("page"), false);
        assert_eq!(encoded(&Response::html("page"), true), get.strip_suffix("page").unwrap());
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        for (status, length) in [(204, false), (205, true), (304, false)] {
            let text = encoded(&Response::text("body").with_status(status), false);
            assert!(text.ends_with("\r\n\r\n"), "{text}");
            assert_eq!(text.contains("Content-Length: 0\r\n"), length, "{text}");
            assert_eq!(text.contains("Content-Length"), length, "{text}");
        }
    }

    #[test]
    fn a_status_that_ends_nothing_becomes_500() {
        for status in [0, 99, 100, 101, 199, 600, u16::MAX] {
            assert_eq!(Response::new(status).status(), 500);
            assert_eq!(Response::text("").with_status(status).status(), 500);
        }
        assert_eq!(Response::new(200).status(), 200);
        assert!(encoded(&Response::new(599), false).starts_with("HTTP/1.1 599 \r\n"));
    }

    #[test]
    fn every_status_that_is_in_use_has_a_reason_phrase() {
        let registered = [
            200..=206,
            300..=304,
            307..=308,
            400..=406,
            408..=417,
            421..=422,
            426..=426,
            428..=429,
            431..=431,
        ];
        let registered = registered.into_iter().chain([500..=505, 511..=511]);
        let registered: Vec<u16> = registered.flatten().collect();
        for status in 200..=599 {
            assert_eq!(!reason(status).is_empty(), registered.contains(&status), "{status}");
        }
    }

    #[test]
    fn a_header_cannot_split_the_answer() {
        let header = |name: &'static str, value: &'static str| {
            Response::new(200).with_header(name, value).err()
        };
        for value in ["a\r\nX: b", "a\nb", "a\rb", "a\0b", "\x7f"] {
            assert_eq!(header("X", value), Some(HeaderError::InvalidValue), "{value:?}");
        }
        for name in ["", "X:", "X Y", "X\r\nY", "Ü"] {
            assert_eq!(header(name, "a"), Some(HeaderError::InvalidName), "{name:?}");
        }
        for name in ["content-length", "Transfer-Encoding", "CONNECTION"] {
            assert_eq!(header(name, "1"), Some(HeaderError::Reserved), "{name:?}");
        }
        assert_eq!(header("X", "tab\tand ü"), None);
    }

    #[test]
    fn cookies_add_up_and_the_content_type_is_replaced() {
        let response = Response::text("a,b")
            .with_header("content-type", "text/csv")
            .and_then(|r| r.with_header("Set-Cookie", "a=1"))
            .and_then(|r| r.with_header("Set-Cookie", String::from("b=2")))
            .unwrap();
        let text = encoded(&response, false);
        assert!(!text.contains("text/plain"), "{text}");
        assert!(text.contains("\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"), "{text}");
        assert_eq!(response.header("CONTENT-TYPE"), Some("text/csv"));
    }

    #[test]
    fn a_result_of_what_can_be_a_response_is_one_whatever_it_is() {
        let ok: Result<&str, HeaderError> = Ok("fine");
        let err: Result<String, HeaderError> = Err(HeaderError::InvalidName);
        assert_eq!(Response::from(ok), Response::text("fine"));
        assert_eq!(Response::from(err).status(), 500);
        let nested: Result<Response, Result<&str, String>> = Err(Ok("inner"));
        assert_eq!(Response::from(nested), Response::text("inner"));
    }
}
