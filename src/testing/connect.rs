//! The request of a client in memory, and the response if it does not become a WebSocket.

use std::fmt;

use crate::transport::PeerAddress;
use crate::transport::faults::Faults;

/// The upgrade request of a client, for [`Harness::connect`](super::Harness::connect). A path
/// alone, as `&str`, is often enough.
///
/// ```
/// use ikisocket::testing::{Faults, Upgrade};
///
/// let slow = Faults::none().segments(1);
/// let ann = Upgrade::to("/ws/ann").header("Cookie", "user=ann").faults(slow);
/// # let _ = ann;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Upgrade {
    pub(super) path: String,
    headers: String,
    pub(super) faults: Faults,
    pub(super) peer: Option<PeerAddress>,
    pub(super) answers: bool,
}

impl Upgrade {
    /// A request for a path, with its query if it has one. The text is sent unchanged.
    pub fn to(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            headers: String::new(),
            faults: Faults::none(),
            peer: None,
            answers: true,
        }
    }

    /// Adds a header. The text is sent unchanged.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Sets the subprotocols that the client speaks, the best first, separated by commas.
    pub fn subprotocols(self, names: &str) -> Self {
        self.header("Sec-WebSocket-Protocol", names)
    }

    /// Sets the faults of the network on this connection. Default: none.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Sets the client's address. Default: 192.0.2.1 (RFC 5737), each client with its own port.
    pub fn peer(mut self, peer: PeerAddress) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The client answers no ping, no close frame and no FIN. By default it answers them at once,
    /// as every correct client does.
    pub fn unresponsive(mut self) -> Self {
        self.answers = false;
        self
    }

    /// The bytes of the request. Its key is the example of RFC 6455 §1.3.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { path, headers, .. } = self;
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
        .into_bytes()
    }
}

impl From<&str> for Upgrade {
    fn from(path: &str) -> Self {
        Self::to(path)
    }
}

impl From<String> for Upgrade {
    fn from(path: String) -> Self {
        Self::to(path)
    }
}

/// An HTTP response: to an upgrade request ([`Harness::answer`](super::Harness::answer)), or to
/// [`Harness::get`](super::Harness::get).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The bytes behind the head that have arrived so far.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads the bytes of a response; `None` if its head is not complete or not valid.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(len) = response.parse(bytes).ok()? else { return None };
        let headers = response.headers.iter();
        let headers =
            headers.map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()));
        Some(Self {
            status: response.code?,
            headers: headers.collect(),
            body: bytes[len..].to_vec(),
        })
    }

    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    /// The body as text. Bytes that are not UTF-8 become replacement characters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Shows the body as text, for the failures of tests.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, headers, .. } = self;
        let body = self.text();
        f.debug_struct("Answer")
            .field("status", status)
            .field("headers", headers)
            .field("body", &body)
            .finish()
    }
}

/// The reason why there is no WebSocket connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotConnected {
    /// The server, a filter or a page sent another response.
    Refused(Answer),
    /// There was no whole response. The faults prevented it, the request is
    /// [deferred](crate::Sockets::defer) (then use [`ask`](super::Harness::ask)), or the server
    /// shuts down and accepts no more connections.
    Unanswered,
}

impl NotConnected {
    /// The status code of the response, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(answer) => Some(answer.status),
            Self::Unanswered => None,
        }
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(answer) => {
                write!(f, "refused with {}: {}", answer.status, answer.text().trim_end())
            }
            Self::Unanswered => f.write_str(
                "there was no whole response: if another thread answers, use `ask` and `wait_for`; otherwise faults cut the response, or the server is shutting down",
            ),
        }
    }
}

impl std::error::Error for NotConnected {}
