//! What a client in memory asks for, and the answer that it gets if that is not a WebSocket.

use std::fmt;

use crate::transport::PeerAddress;
use crate::transport::faults::Faults;

/// The upgrade request of a client, for [`Harness::connect`](super::Harness::connect). A path
/// alone, as `&str`, will often do.
///
/// ```
/// use ikisocket::testing::{Faults, Upgrade};
///
/// let ann = Upgrade::to("/ws/ann").header("Cookie", "user=ann").faults(Faults::none().segments(1));
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
    /// A request for a path, with its query if it has one. It is sent as it is.
    pub fn to(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            headers: String::new(),
            faults: Faults::none(),
            peer: None,
            answers: true,
        }
    }

    /// One more header. It is sent as it is.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// The subprotocols that the client speaks, the best first, with commas between them.
    pub fn subprotocols(self, names: &str) -> Self {
        self.header("Sec-WebSocket-Protocol", names)
    }

    /// What the network does to this connection. Default: nothing.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Where the client is. Default: 192.0.2.1 (RFC 5737), each with a port of its own.
    pub fn peer(mut self, peer: PeerAddress) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The client answers nothing by itself: no ping, no close frame, no FIN. By default it answers
    /// them at once, as every proper client does.
    pub fn unresponsive(mut self) -> Self {
        self.answers = false;
        self
    }

    /// The request as it goes over the wire, its key the example of RFC 6455 §1.3.
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
    /// What follows the head, as far as it has come.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads the bytes of a response; `None` if its head is not complete, or is none.
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

    /// The body as text, with replacement characters for what is none.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// With the body as text, for the failures of tests.
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

/// Why there is no WebSocket connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotConnected {
    /// The server, a filter or a page answered otherwise.
    Refused(Answer),
    /// There was no whole response: the faults are in its way, it is
    /// [deferred](crate::Sockets::defer) (then [`ask`](super::Harness::ask) for it), or the server
    /// takes nobody in any more.
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
                "there was no whole response yet: of one that another thread gives, `ask` and `wait_for` wait; it may be cut by faults, or the server stops",
            ),
        }
    }
}

impl std::error::Error for NotConnected {}
