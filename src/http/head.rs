//! Finds the end of a request head while it arrives, and refuses early bytes that cannot become a
//! head. It knows the shape of lines only; `request.rs` knows the meaning of headers.

use super::limits::HeadLimits;
use super::refusal::{Refusal, malformed};
use super::request::Request;
use super::syntax::position;

/// The result of [`HeadScanner::scan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The end has not arrived, and no fault was found: call again when more bytes have arrived.
    Partial,
    /// The head ends here: its length in bytes, with the blank line. The bytes behind it are not
    /// HTTP.
    Complete(usize),
}

/// The beginning of a TLS handshake: the content type and the major version of a record (RFC 8446
/// §5.1).
const TLS_HANDSHAKE: &[u8] = &[22, 3];

/// Looks for the blank line that ends a request head (RFC 9112 §2.1), each byte once.
///
/// It checks the form of each line as soon as the line is complete. So a client that speaks another
/// protocol (TLS, HTTP/2, a telnet user) is refused at once and not after the handshake timeout.
/// Lines must end with CRLF: servers differ in how they read other line ends, which allows request
/// smuggling. Empty lines before the request line are skipped (RFC 9112 §2.2); they count as bytes
/// of the head.
///
/// ```
/// use ikisocket::http::{HeadLimits, HeadScanner, Refusal, Scan};
///
/// let limits = HeadLimits::default();
/// let mut scanner = HeadScanner::default();
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost:", &limits), Ok(Scan::Partial));
/// let received = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\x81";
/// assert_eq!(scanner.scan(received, &limits), Ok(Scan::Complete(27)));
///
/// let talking = HeadScanner::default().scan(b"hello there\r\n", &limits);
/// assert!(matches!(talking, Err(Refusal::Malformed(_))));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScanner {
    /// The number of bytes that were looked at.
    seen: usize,
    /// The position at which the incomplete line begins.
    line_start: usize,
    expects: Expects,
}

/// The kind of line that is arriving.
#[derive(Debug, Clone, Copy, Default)]
enum Expects {
    #[default]
    RequestLine,
    /// A header or the blank line, after this many headers.
    FieldLine(usize),
}

impl HeadScanner {
    /// Looks at the new bytes in `received`, which holds *all* bytes of this head that have arrived
    /// so far.
    ///
    /// After `Partial` call it again with more bytes. After any other result, use a new scanner for
    /// the next head.
    ///
    /// # Errors
    ///
    /// - [`Refusal::Malformed`]: a bare CR or LF, another control character, or a line that is not
    ///   HTTP/1.
    /// - [`Refusal::HeadTooLarge`]: `limits.max_bytes` have arrived without a fault and without an
    ///   end.
    /// - [`Refusal::TooManyHeaders`]: one more header begins than `limits.max_headers`, and nothing
    ///   before it is malformed.
    pub fn scan(&mut self, received: &[u8], limits: &HeadLimits) -> Result<Scan, Refusal> {
        let limit = limits.effective_max_bytes();
        let visible = &received[..received.len().min(limit)];

        loop {
            self.check_count(visible, limits)?;
            let new = visible.get(self.seen..).unwrap_or_default();
            let Some(ahead) = position(new, is_control) else {
                self.seen = self.seen.max(visible.len());
                break;
            };
            self.seen += ahead;
            match (new[ahead], new.get(ahead + 1)) {
                (b'\r', Some(b'\n')) => {
                    self.seen += 2;
                    if self.end_of_line(&visible[self.line_start..self.seen])? {
                        return Ok(Scan::Complete(self.seen));
                    }
                    self.line_start = self.seen;
                }
                // The byte behind it decides.
                (b'\r', None) => break,
                (first, None) if self.seen == 0 && first == TLS_HANDSHAKE[0] => break,
                (b'\r', _) => return Err(Refusal::Malformed("a CR is not followed by LF")),
                (b'\n', _) => return Err(Refusal::Malformed("a line ends in LF without CR")),
                _ if received.starts_with(TLS_HANDSHAKE) => return Err(Refusal::TLS_HELLO),
                _ => return Err(Refusal::Malformed("a control character in the head")),
            }
        }

        if received.len() < limit {
            return Ok(Scan::Partial);
        }
        // A malformed head is refused as such even when it is also too large.
        let unfinished = visible.get(self.line_start..).unwrap_or_default();
        self.check_line(unfinished)?;
        Err(Refusal::HeadTooLarge)
    }

    /// Refuses a header that begins behind the last one that is allowed, so that thousands of
    /// headers cost no more than the limit.
    fn check_count(&self, visible: &[u8], limits: &HeadLimits) -> Result<(), Refusal> {
        match (self.expects, visible.get(self.line_start)) {
            (Expects::FieldLine(before), Some(&first))
                if before >= limits.max_headers && !is_control(first) =>
            {
                self.check_line(&[first])?;
                Err(Request::refuse_beginning(&visible[..self.line_start], limits))
            }
            _ => Ok(()),
        }
    }

    /// Takes a line with its CRLF; returns `true` for the blank line that ends the head.
    fn end_of_line(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        let blank = line == b"\r\n";
        let before = match self.expects {
            Expects::RequestLine if blank => return Ok(false),
            Expects::FieldLine(_) if blank => return Ok(true),
            Expects::RequestLine => 0,
            Expects::FieldLine(before) => before + 1,
        };
        self.check_line(line)?;
        self.expects = Expects::FieldLine(before);
        Ok(false)
    }

    /// Checks that a line, or the beginning of one, has the form that is expected here.
    fn check_line(&self, line: &[u8]) -> Result<(), Refusal> {
        let parsed = match self.expects {
            Expects::RequestLine => httparse::Request::new(&mut []).parse(line).map(drop),
            Expects::FieldLine(_) => {
                httparse::parse_headers(line, &mut [httparse::EMPTY_HEADER]).map(drop)
            }
        };
        parsed.map_err(malformed)
    }
}

/// Whether a head may not hold this byte, except at the end of a line: a control character other
/// than the tab.
fn is_control(byte: u8) -> bool {
    (byte < b' ') & (byte != b'\t') | (byte == 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::limits::LARGEST_HEAD;

    const LIMITS: HeadLimits = HeadLimits { max_bytes: 64, max_headers: 100 };

    #[test]
    fn the_head_ends_at_the_blank_line_and_not_at_what_follows() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n\0\n";
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(bytes, &LIMITS), Ok(Scan::Complete(29)));
        for length in 0..29 {
            let mut scanner = HeadScanner::default();
            assert_eq!(scanner.scan(&bytes[..length], &LIMITS), Ok(Scan::Partial));
        }
    }

    #[test]
    fn bytes_are_looked_at_once() {
        let mut bytes = *b"GET / HTTP/1.1\r\nHost: a";
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(&bytes, &LIMITS), Ok(Scan::Partial));
        bytes[..14].fill(0);
        assert_eq!(scanner.scan(&bytes, &LIMITS), Ok(Scan::Partial));
    }

    #[test]
    fn a_tls_handshake_is_refused_as_one_and_other_bytes_are_not() {
        let scan = |bytes: &[u8]| HeadScanner::default().scan(bytes, &LIMITS);
        assert_eq!(scan(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"), Err(Refusal::TLS_HELLO));
        for other in [&b"\x16\x04\x01"[..], b"\x15\x03\x03", b"GET \x16\x03\x01"] {
            let refusal = scan(other).unwrap_err();
            assert_eq!(refusal, Refusal::Malformed("a control character in the head"));
        }
    }

    #[test]
    fn a_head_may_be_exactly_as_large_as_the_limit() {
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(38));
        assert_eq!(head.len(), 64);
        let scan = |limit| {
            let limits = HeadLimits { max_bytes: limit, ..LIMITS };
            HeadScanner::default().scan(head.as_bytes(), &limits)
        };
        assert_eq!(scan(64), Ok(Scan::Complete(64)));
        assert_eq!(scan(63), Err(Refusal::HeadTooLarge));
        assert_eq!(scan(0), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn the_limit_is_at_most_what_a_request_can_hold() {
        let limits = HeadLimits { max_bytes: usize::MAX, ..LIMITS };
        let endless = "a".repeat(LARGEST_HEAD);
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(&endless.as_bytes()[1..], &limits), Ok(Scan::Partial));
        assert_eq!(scanner.scan(endless.as_bytes(), &limits), Err(Refusal::HeadTooLarge));
    }
}
