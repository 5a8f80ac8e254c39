//! The errors of the library, one comparable enum for each domain.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use uuid::Uuid;

use crate::http::OriginError;
use crate::protocol::{CloseCode, Violation};
use crate::token::Recipient;

/// An error of the operating system, in a form that can be compared and kept. Two such errors are
/// equal if their `kind` and `os_code` are. The [`source`](std::error::Error::source) is the
/// [`io::Error`] itself.
#[derive(Clone)]
#[non_exhaustive]
pub struct IoError {
    /// The kind of the error.
    pub kind: io::ErrorKind,
    /// The operating system's own code (`errno`), if it gave one.
    pub os_code: Option<i32>,
    cause: Cause,
}

/// An [`io::Error`] that can be cloned.
enum Cause {
    /// It is no more than a code. So the end of a connection allocates nothing for it.
    Code(i32, io::Error),
    Other(Arc<io::Error>),
}

impl Cause {
    fn error(&self) -> &io::Error {
        match self {
            Self::Code(_, error) => error,
            Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self::Code(code, error),
            None => Self::Other(Arc::new(error)),
        }
    }
}

impl Clone for Cause {
    fn clone(&self) -> Self {
        match self {
            Self::Code(code, _) => Self::Code(*code, io::Error::from_raw_os_error(*code)),
            Self::Other(error) => Self::Other(Arc::clone(error)),
        }
    }
}

impl PartialEq for IoError {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.os_code) == (other.kind, other.os_code)
    }
}

impl Eq for IoError {}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.error().fmt(f)
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.error())
    }
}

impl From<io::Error> for IoError {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), os_code: error.raw_os_error(), cause: error.into() }
    }
}

impl From<IoError> for io::Error {
    fn from(error: IoError) -> Self {
        match error.os_code {
            Some(code) => Self::from_raw_os_error(code),
            None => Self::new(error.kind, error),
        }
    }
}

/// An error that `main` returns is printed with [`Debug`](fmt::Debug). For these errors, that
/// prints their text, which says what to do, and not the names of their fields.
macro_rules! debug_is_text {
    ($($error:ty),* $(,)?) => {$(
        impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

#[cfg(feature = "_tls")]
debug_is_text!(TlsError);
#[cfg(feature = "redis")]
debug_is_text!(BusError);

debug_is_text!(
    AnswerError,
    BindError,
    BuildError,
    CloseError,
    EmitError,
    IoError,
    LoopsError,
    RouteError,
    SendError,
    TopicError,
    UuidError,
);

/// A count for each cause, by name.
macro_rules! by_cause {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $cause:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $cause: u64,)*
        }

        impl $name {
            /// Each cause's name and count.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($cause), self.$cause)),*].into_iter()
            }

            /// The sum over all causes.
            #[must_use]
            pub fn total(&self) -> u64 {
                self.iter().map(|(_, count)| count).sum()
            }
        }
    };
}

pub(crate) use by_cause;

/// The reason why a connection failed, or why a verb inside a callback did: the `error` of an
/// `error` or `disconnect` event.
///
/// The text is one line, for logs. In text that a peer or a callback chose, it escapes line breaks,
/// other control characters and characters that turn the direction of writing. The fields hold the
/// original text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer broke the protocol or a limit; the close frame that it was sent has the violation's
    /// code.
    #[error("protocol violation: {0}")]
    Protocol(#[source] Violation),
    /// The peer closed with a code other than 1000 (normal) and 1001 (going away).
    #[error("closed by the peer with code {code}{}{}", if reason.is_empty() { "" } else { ": " }, Escaped(reason))]
    ClosedByPeer {
        /// The code of the peer's close frame.
        code: CloseCode,
        /// The reason in the peer's close frame; may be empty.
        reason: String,
    },
    /// The peer ended the TCP connection without a close frame (what other libraries call code
    /// 1006).
    #[error("the peer ended the connection without a close frame")]
    Lost,
    /// Reading from or writing to the socket failed.
    #[error("socket: {0}")]
    Io(#[source] IoError),
    /// The TLS session failed, or ended without close_notify. It needs the feature `tls`.
    #[cfg(feature = "_tls")]
    #[error("TLS: {0}")]
    Tls(#[source] TlsFailure),
    /// More bytes would have waited for this peer than
    /// [`Builder::max_outbox`](crate::Builder::max_outbox) allows.
    #[error(
        "slow consumer: a frame of {frame} bytes does not fit: {waiting} of {limit} bytes \
         (max_outbox) are waiting"
    )]
    SlowConsumer {
        /// The length in bytes of the frame that had no room. A message with a key counts 128 bytes
        /// more.
        frame: usize,
        /// The bytes that waited, counted in the same way.
        waiting: usize,
        /// The limit, in bytes ([`Builder::max_outbox`](crate::Builder::max_outbox)).
        limit: usize,
    },
    /// Bytes waited for the peer, and it took none of them for this long.
    #[error("stalled: the peer took nothing for {0:?}")]
    Stalled(Duration),
    /// The peer gave no sign of life for this long, not even the answer to a ping.
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    /// A callback panicked while it handled this event of the connection.
    #[error("a listener of `{}` panicked: {}", Escaped(event), Escaped(message))]
    Panicked {
        /// The event's name, or `route` for a route callback.
        event: String,
        /// The panic's message, if it was a string.
        message: String,
    },
    /// `emit_to` or `emit_to_list` named a connection that is not open, or never was. The event's
    /// data is the uuid as text, or the id.
    #[error("no open connection has the {kind} {0}", kind = .0.kind())]
    Gone(Recipient),
    /// `fire` called no listener: the name belongs to the library, or listeners fired each other
    /// too deep.
    #[error("fire(`{}`) was refused: {}", Escaped(event), match depth { Some(d) => format!("{d} nested calls are the limit"), None => "the name is a built-in event's".to_owned() })]
    FireRefused {
        /// The event's name.
        event: String,
        /// The depth that would have been exceeded, or `None` if the name is that of a built-in
        /// event.
        depth: Option<u32>,
    },
}

impl Error {
    /// The error of a connection whose socket failed.
    pub(crate) fn of_socket(error: io::Error) -> Self {
        #[cfg(feature = "_tls")]
        if let Some(failure) = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsFailure>())
        {
            return Self::Tls(failure.clone());
        }
        Self::Io(error.into())
    }
}

/// The reason why a TLS session failed: in [`Error::Tls`], and counted by cause in
/// [`TlsFailures`](crate::TlsFailures).
///
/// Where TLS has an alert for it (RFC 8446 §6.2), the peer is sent that alert. A failure before the
/// WebSocket is open fires no event, so listeners see only [`Alert`](Self::Alert),
/// [`Truncated`](Self::Truncated) and [`Other`](Self::Other).
///
/// The texts in the variants are for logs, and may change in any release.
///
/// ```
/// use ikisocket::{Error, Event, Server, TlsFailure};
///
/// let mut server = Server::builder().build(())?;
/// server.on(Event::Disconnect, |_, ep| {
///     if let Some(Error::Tls(TlsFailure::Truncated)) = ep.error {
///         println!("the last messages of {} may be missing", ep.socket_uuid);
///     }
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "_tls")]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsFailure {
    /// A plain HTTP request came to a port that speaks TLS. It got a readable 400, not encrypted.
    #[error("a plain HTTP request came to a port that speaks TLS")]
    PlainHttp,
    /// The peer's first byte begins no TLS handshake. Nothing was sent.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The client speaks neither TLS 1.2 nor 1.3. Alert: `protocol_version`.
    #[error("the client speaks neither TLS 1.2 nor 1.3")]
    Version,
    /// The client and the server have no cipher suite, key exchange or signature in common. Alert:
    /// most often `handshake_failure`.
    #[error("nothing in common with the client: {0}")]
    NothingInCommon(String),
    /// The client offered protocols (ALPN), and `http/1.1` is not among them. Alert:
    /// `no_application_protocol` (RFC 7301 §3.2).
    #[error("the client offered protocols (ALPN) without http/1.1")]
    Alpn,
    /// A client certificate is [required](crate::ClientCertificates::Required), and the client has
    /// shown none. Alert: `certificate_required`.
    #[error("the client has shown no certificate")]
    CertificateMissing,
    /// The client's certificate was not accepted, and why:
    /// [`Tls::client_certificates`](crate::Tls::client_certificates) has the checks. The alert says
    /// the same, such as `unknown_ca` or `certificate_expired`.
    #[error("the client's certificate was not accepted: {0}")]
    Certificate(String),
    /// The peer sent this alert, by its name in RFC 8446 §6.2. In a handshake it most often means
    /// that the peer does not accept the server's certificate: `unknown_ca` (it does not know the
    /// root, or a certificate is missing in the chain), `certificate_unknown`, `bad_certificate`,
    /// `certificate_expired`.
    #[error("the peer sent the alert {0}")]
    Alert(String),
    /// The peer ended the TCP connection without close_notify (RFC 8446 §6.1) and without a close
    /// frame: what it had sent last may be missing. An attacker on the way may have cut it off; far
    /// more often a program was killed. Messages that came before it are whole. Over TLS this is
    /// what [`Error::Lost`] is without.
    #[error("the peer ended the connection without close_notify")]
    Truncated,
    /// The peer broke the protocol, or something else went wrong. Most such peers get the alert
    /// `decode_error`, `illegal_parameter`, `unexpected_message` or `bad_record_mac`.
    #[error("{0}")]
    Other(String),
}

/// The reason why TLS settings were not made or changed: the error of the methods of
/// [`Tls`](crate::Tls). Its text names the file, and says what to do. No text has a part of a
/// private key in it.
///
/// ```
/// use ikisocket::Tls;
///
/// let error = Tls::pem("missing.pem", "missing.key").unwrap_err();
/// assert!(error.to_string().starts_with("cannot read missing.pem: "));
/// ```
#[cfg(feature = "_tls")]
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        error: IoError,
    },
    /// A file or text has no certificate in it.
    #[error("{from} has no certificate in it: it needs a PEM section BEGIN CERTIFICATE")]
    NoCertificate {
        /// The file, or the length of the text.
        from: String,
    },
    /// A file or text has no private key in it that can be read.
    #[error("{from} has no private key in it{}", if *encrypted { " but an encrypted one: decrypt it first, for instance with `openssl pkey`" } else { ": it needs a PEM section BEGIN PRIVATE KEY" })]
    NoKey {
        /// The file, or the length of the text.
        from: String,
        /// Whether there is one that is encrypted. The library asks for no password.
        encrypted: bool,
    },
    /// A file or text is not valid PEM, or what is in it cannot be used as a certificate or as a
    /// private key.
    #[error("{from} cannot be used: {reason}")]
    Pem {
        /// The file, or the length of the text.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key does not belong to the certificate. Perhaps one file is new and the other is
    /// not yet: try again when both are.
    #[error("the key of {key} does not belong to the first certificate of {chain}")]
    Mismatch {
        /// The file of the certificate, or the length of the text.
        chain: String,
        /// The file of the key, or the length of the text.
        key: String,
    },
    /// The name is not a DNS name, or the certificate is not valid for it.
    #[error("`{name}`: {reason}")]
    Name {
        /// The name, in lower case.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This processor cannot run the crypto provider of the feature `tls-graviola`. The [chapter on
    /// TLS](crate::manual::tls#crypto-providers) says which features it needs, and has the others.
    #[error(
        "this processor cannot run the crypto provider {provider}: use the feature `tls` instead"
    )]
    Processor {
        /// The crypto provider.
        provider: &'static str,
    },
    /// The settings contradict each other, or the system has no random numbers.
    #[error("the TLS settings cannot be used: {reason}")]
    Unusable {
        /// The reason.
        reason: String,
    },
}

/// The reason why a message was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The connection is closing or closed.
    #[error("the connection is closed")]
    Closed,
    /// `emit_to` named a connection that is not open, or never was.
    #[error("no open connection has the {kind} {0}", kind = .0.kind())]
    Gone(Recipient),
    /// The message by itself is larger than [`Builder::max_outbox`](crate::Builder::max_outbox).
    /// The connection stays open.
    #[error("a message of {len} bytes is longer than max_outbox ({limit} bytes)")]
    TooLarge {
        /// The message's length in bytes.
        len: usize,
        /// The limit, in bytes ([`Builder::max_outbox`](crate::Builder::max_outbox)).
        limit: usize,
    },
    /// The peer reads too slowly: the outbox is full and the socket took nothing more. With
    /// [`SlowReader::Disconnect`](crate::SlowReader) the connection is being disconnected with
    /// [`Error::SlowConsumer`]. With the other policies it stays open, and the message was dropped.
    #[error("the peer reads too slowly: its outbox is full")]
    Full,
    /// The connection is on this loop of the process, and the queue to that loop is full
    /// ([`Loops::queue_bytes`](crate::Loops::queue_bytes)).
    #[error("the queue to loop {0} is full: it handles its messages too slowly, or not at all")]
    LoopFull(usize),
    /// The connection may be on another server, and the bus does not take the message.
    #[error(transparent)]
    Bus(#[from] BusRefusal),
    /// A ping's payload is longer than the 125 bytes of a control frame (RFC 6455 §5.5).
    #[error("a ping carries at most 125 bytes, not {len}")]
    PingTooLong {
        /// The payload's length in bytes.
        len: usize,
    },
}

/// The reason why `set_uuid` changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UuidError {
    /// Another open connection has this uuid.
    #[error("another open connection has the uuid {0}")]
    Duplicate(Uuid),
    /// Another loop of the process has given this uuid to a connection, which may still have it.
    #[error("the uuid {0} was made by another loop of this process: set one of your own")]
    OtherLoop(Uuid),
    /// The connection is closing or closed: it could not be found under any uuid.
    #[error("the connection is closed")]
    Closed,
}

/// The reason why a [`Handle`](crate::Handle) did not accept a command.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The loop is behind: as many commands wait as are allowed.
    #[error(
        "{capacity} commands wait for the loop already: send fewer, turn the loop more often, or raise handle_queue"
    )]
    Full {
        /// The most commands that may wait
        /// ([`Builder::handle_queue`](crate::Builder::handle_queue)).
        capacity: usize,
    },
    /// The server was dropped.
    #[error("the server was dropped")]
    Gone,
    /// The command could never succeed: its close code may not be sent.
    #[error(transparent)]
    Close(CloseError),
}

/// The reason why an answer to a [`Deferred`](crate::Deferred) request was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The client has disconnected, its time was over, or the request was answered otherwise.
    #[error("the request does not wait for an answer any more")]
    Late,
    /// The server was dropped.
    #[error("the server was dropped")]
    Gone,
}

/// The reason why `join` changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The topic's name is empty. It must have at least one byte.
    #[error("a topic's name cannot be empty")]
    Empty,
    /// The name is longer than 256 bytes.
    #[error("a topic's name has at most 256 bytes, not {len}")]
    TooLong {
        /// The name's length in bytes.
        len: usize,
    },
    /// The connection is in as many topics as are allowed: leave one, or raise
    /// [`Builder::max_topics_per_connection`](crate::Builder::max_topics_per_connection).
    #[error(
        "the connection is in {limit} topics already: leave one, or raise max_topics_per_connection"
    )]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The connection is closing or closed: it would get no message of the topic.
    #[error("the connection is closed")]
    Closed,
}

/// The reason why a close was refused.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The code may not be sent in a close frame (RFC 6455 §7.4): use 1000–1003, 1007–1014 or
    /// 3000–4999.
    #[error("{0} may not be sent in a close frame: use 1000-1003, 1007-1014 or 3000-4999")]
    IllegalCode(CloseCode),
    /// The connection is on this loop of the process, and the queue to that loop is full
    /// ([`Loops::queue_bytes`](crate::Loops::queue_bytes)).
    #[error("the queue to loop {0} is full: it handles its messages too slowly, or not at all")]
    LoopFull(usize),
    /// The connection may be on another server, and the bus does not take the close.
    #[error(transparent)]
    Bus(#[from] BusRefusal),
}

/// The reason why loops were not started, or have not ended well: the error of the methods of
/// [`Loops`](crate::Loops) and [`Running`](crate::Running).
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoopsError {
    /// There may be 1 to 256 loops.
    #[error("there may be 1 to 256 loops, not {0}")]
    Count(usize),
    /// [`Loops::queue_bytes`](crate::Loops::queue_bytes) is too small.
    #[error("queue_bytes must be at least 1024, not {0}")]
    QueueBytes(usize),
    /// A setting of the bus is out of its range. It needs the feature `redis`.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The closure that builds the servers has failed or panicked.
    #[error("the server of loop {index} could not be built: {reason}")]
    Build {
        /// The index of the loop.
        index: usize,
        /// The closure's error, or the message of its panic.
        reason: String,
    },
    /// The operating system has no thread or descriptor for the loops.
    #[error("cannot start the loops: {0}")]
    System(#[source] IoError),
    /// A loop ended by an error or a panic outside of callbacks, and the others were shut down.
    #[error("loop {index} has failed: {reason}{}", Self::named("; ", remaining))]
    Failed {
        /// The index of the loop that failed first.
        index: usize,
        /// Its error, or the message of its panic.
        reason: String,
        /// The loops that have not ended in time.
        remaining: Vec<usize>,
    },
    /// Loops have not ended in time after a shutdown: most often a callback does not return.
    #[error("{}", Self::named("after the shutdown ", loops))]
    Stuck {
        /// The indexes of the loops.
        loops: Vec<usize>,
    },
}

impl LoopsError {
    /// Names loops that have not ended.
    fn named(before: &str, loops: &[usize]) -> String {
        match loops {
            [] => String::new(),
            [one] => format!("{before}loop {one} has not ended"),
            many => format!("{before}the loops {many:?} have not ended"),
        }
    }
}

/// Why a message reaches no other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusRefusal {
    /// There is no connection to the bus.
    #[error("the bus is down")]
    Down,
    /// There is no room among what waits for the bus.
    #[error("too many bytes wait for the bus")]
    Full,
    /// It is longer than everything that may wait for the bus, or the name of its event or topic is
    /// longer than 65 535 bytes.
    #[error("the message is longer than the outbox of the bus, or its name than 65535 bytes")]
    TooLarge,
}

/// The reason why a server did not take a bus: [`Server::bus`](crate::Server::bus).
#[cfg(feature = "redis")]
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusError {
    /// A setting of the bus is out of its range.
    #[error("the {setting} of the bus must be {expected}")]
    Setting {
        /// The method of [`Bus`](crate::Bus).
        setting: &'static str,
        /// The values that it accepts.
        expected: &'static str,
    },
    /// The server has, or had, connections: their uuids do not say on which server they are.
    #[error("give the server its bus before it has connections")]
    TooLate,
    /// The server belongs to [`Loops`](crate::Loops).
    #[error("this server is one of several loops: give the bus to all by Loops::bus")]
    OneOfLoops,
    /// The server has a bus.
    #[error("the server has a bus already; a BusHarness gives it one by itself")]
    Given,
}

/// The reason why a server could not be built.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of its range.
    #[error("{setting} must be {expected}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// The values that it accepts.
        expected: &'static str,
    },
    /// An origin is not one that a browser would send.
    #[error("`{origin}` is not an origin that a browser would send: {error}")]
    Origin {
        /// The origin as it was given.
        origin: String,
        /// The mistake in it, and what to do.
        #[source]
        error: OriginError,
    },
    /// The builder that [`Loops`](crate::Loops) gave for a loop has built a server before.
    #[error("loop {0} has its server already: the builder of a loop builds one")]
    LoopTaken(usize),
    /// The operating system could not create a poll.
    #[error("cannot create the poll: {0}")]
    Io(#[source] IoError),
}

/// The reason why the server could not listen on an address.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The server could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The text is neither an address nor a name that has one.
    #[error("cannot resolve the address to listen on: {reason}; give one like 127.0.0.1:3000")]
    Resolve {
        /// The resolver's message.
        reason: String,
    },
    /// The server was asked to shut down: it does not listen any more.
    #[error("the server is shut down")]
    ShutDown,
    /// The name resolved to no address at all.
    #[error("the name to listen on has no address")]
    NoAddress,
    /// The operating system refused the address, for instance because another socket listens there
    /// already.
    #[error("cannot listen on {address}: {error}{}", Self::tcp_advice(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        #[source]
        error: IoError,
    },
    /// The operating system refused the path of a Unix socket, for instance because a file is there
    /// already. The file may belong to another server, or be left by one that has crashed.
    #[error("cannot listen on {}: {error}{}", path.display(), Self::unix_advice(error))]
    ListenUnix {
        /// The path.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        error: IoError,
    },
    /// A listening socket that was handed over cannot be used.
    #[error("cannot listen on the socket that was handed over: {error}")]
    HandedOver {
        /// The operating system's error.
        #[source]
        error: IoError,
    },
    /// A socket that was handed over does not listen: listen(2) was not called on it, or it is a
    /// connection.
    #[error(
        "the socket that was handed over does not listen: call listen on it first, or let `bind` of std's listeners make it"
    )]
    NotListening,
    /// One of the descriptors of `LISTEN_FDS` is not a listening TCP or Unix stream socket.
    #[error(
        "descriptor {index} (from 0) of LISTEN_FDS is not a listening stream socket: use ListenStream= in the unit, without Accept=yes"
    )]
    ListenFd {
        /// The position of the descriptor, from 0.
        index: usize,
    },
}

impl BindError {
    /// Advice about a TCP address that cannot be listened on.
    fn tcp_advice(error: &IoError) -> &'static str {
        match error.kind {
            io::ErrorKind::AddrInUse => {
                "; another socket listens there: end its program, or choose another port (0: any \
                 free one)"
            }
            io::ErrorKind::PermissionDenied => {
                "; a port below 1024 may need a privilege: choose a higher one, or let systemd \
                 pass the socket"
            }
            io::ErrorKind::AddrNotAvailable => {
                "; this machine has no such address: 0.0.0.0 or [::] stands for all that it has"
            }
            _ => "",
        }
    }

    /// Advice about a path that cannot be listened on.
    fn unix_advice(error: &IoError) -> &'static str {
        match error.kind {
            io::ErrorKind::AddrInUse => {
                "; the file is there already: if no server listens there any more, remove it, or let listen_unix_replacing_stale do that"
            }
            io::ErrorKind::NotFound => "; make its directory first",
            io::ErrorKind::InvalidInput => "; the path of a Unix socket has 1 to 107 bytes",
            _ => "",
        }
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        let kind = match &error {
            BindError::Build(BuildError::Io(error))
            | BindError::Listen { error, .. }
            | BindError::ListenUnix { error, .. }
            | BindError::HandedOver { error } => error.kind,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

impl From<BuildError> for io::Error {
    fn from(error: BuildError) -> Self {
        BindError::from(error).into()
    }
}

/// The reason why a route or page was not added.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The pattern is not valid.
    #[error("{0}")]
    Pattern(#[from] crate::http::PatternError),
    /// There is a route or page for the same paths already.
    #[error(
        "the paths of `{pattern}` are taken already, perhaps with other names of the parameters"
    )]
    Duplicate {
        /// The pattern.
        pattern: String,
    },
    /// An origin is not one that a browser would send.
    #[error("`{origin}` is not an origin that a browser would send: {error}")]
    Origin {
        /// The origin as it was given.
        origin: String,
        /// The mistake in it, and what to do.
        #[source]
        error: OriginError,
    },
    /// A subprotocol's name is not a token (RFC 6455 §4.1): letters, digits and `-` are safe.
    #[error("`{name}` cannot be a subprotocol's name: use letters, digits and `-`")]
    Subprotocol {
        /// The name.
        name: String,
    },
    /// A setting is out of its range.
    #[error("{setting} must be {expected}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The values that it accepts.
        expected: &'static str,
    },
}

/// Displays a text in one line. Characters that could end the line, move the cursor or turn the
/// direction of writing are escaped as `\n`, `\u{2028}` and so on. Every other character, also a
/// backslash, stays unchanged: a peer can write `\n` itself, but that ends no line.
pub(crate) struct Escaped<'t>(pub(crate) &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_harmful) {
            let (before, from) = rest.split_at(at);
            f.write_str(before)?;
            let mut chars = from.chars();
            // Displayed one by one: `escape_debug` would not escape some of them.
            match chars.next() {
                Some('\n') => f.write_str("\\n")?,
                Some('\r') => f.write_str("\\r")?,
                Some('\t') => f.write_str("\\t")?,
                Some(other) => write!(f, "{}", other.escape_unicode())?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// Control characters (with U+0085, the next line), line and paragraph separators (U+2028, U+2029),
/// and characters that turn the direction of writing (Unicode's property Bidi_Control).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_line_is_escaped_and_text_is_not() {
        for (text, shown) in [
            ("", ""),
            ("going home", "going home"),
            ("Grüße, мир, 世界 🦀 \"C:\\n\"", "Grüße, мир, 世界 🦀 \"C:\\n\""),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\n", "\\n"),
            ("\0\x07\x08\x0b\x0c\x1b[2J\x7f", "\\u{0}\\u{7}\\u{8}\\u{b}\\u{c}\\u{1b}[2J\\u{7f}"),
            ("\u{85}\u{9b}31m", "\\u{85}\\u{9b}31m"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202e}gpj\u{2066}\u{200f}\u{61c}", "\\u{202e}gpj\\u{2066}\\u{200f}\\u{61c}"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn an_address_that_cannot_be_listened_on_has_advice_in_its_error() {
        for (kind, advice) in [
            (io::ErrorKind::AddrInUse, "choose another port"),
            (io::ErrorKind::PermissionDenied, "a port below 1024"),
            (io::ErrorKind::AddrNotAvailable, "this machine has no such address"),
        ] {
            let address = ([127, 0, 0, 1], 80).into();
            let error = BindError::Listen { address, error: io::Error::from(kind).into() };
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn a_clone_of_an_io_error_has_the_same_kind_code_text_and_source() {
        let custom = || io::Error::other("no certificate");
        let make: [fn() -> io::Error; 3] =
            [|| io::Error::from_raw_os_error(104), || io::ErrorKind::TimedOut.into(), custom];
        for make in make {
            let (original, error) = (make(), IoError::from(make()));
            let clone = error.clone();
            assert_eq!((&error, error.kind), (&clone, original.kind()));
            assert_eq!((clone.kind, clone.os_code), (original.kind(), original.raw_os_error()));
            assert_eq!(clone.to_string(), original.to_string());
            let source = std::error::Error::source(&clone).unwrap();
            let source = source.downcast_ref::<io::Error>().unwrap();
            assert_eq!((source.kind(), source.raw_os_error()), (clone.kind, clone.os_code));
            assert_eq!(source.to_string(), original.to_string());
        }
    }
}
