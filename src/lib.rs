//! A WebSocket server with events, for programs that own their thread.
//!
//! The model is that of Go's package ikisocket, which is now called `socketio` and is not
//! Socket.IO: listeners on named events, `emit`, `emit_to`, `broadcast`, `fire`, attributes, and a
//! uuid for each connection. Underneath is one single-threaded epoll loop that you turn yourself,
//! or [one for each core](manual::all_cores); a [bus](manual::many_machines) joins machines. There
//! is no async runtime, no thread that you did not ask for, and no `unsafe` in this crate.
//!
//! ```no_run
//! use ikisocket::{Event, Server};
//!
//! #[derive(Default)]
//! struct Room {
//!     messages: u64,
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut server = Server::bind("127.0.0.1:3000", Room::default())?; // it owns the state
//!     server.on(Event::Message, |room, ep| {
//!         room.messages += 1;
//!         ep.kws.broadcast_all(ep.data); // to all connections, as text or binary, as it came
//!     });
//!     // Runs once for each connection, right after the upgrade.
//!     server.route("/ws/:name", |room, kws| {
//!         let name = kws.param("name").unwrap_or_default().to_owned();
//!         kws.emit(format!("Hello {name}, {} messages so far", room.messages));
//!         kws.set_attribute("name", name);
//!     })?;
//!     server.run()?;
//!     Ok(())
//! }
//! ```
//!
//! `kws` is one connection, a [`Socket`]. `ep` is an [`EventPayload`]: the connection (`ep.kws`),
//! the message (`ep.data`), and the event's other fields. Five cargo features are off by default:
//! `tls` (`wss://`; also `tls-ring` and `tls-graviola`), `deflate` (compression), `redis` (many
//! machines), `listenfd` (sockets from systemd) and `testing`.
//!
//! # The model
//!
//! **State is lent.** The server owns your state, a value of any type. The first argument of each
//! callback is `&mut` of it. The second is an event with its connection (for a listener), one
//! connection (for a route), or all connections (for the other callbacks below). The state and the
//! connections can be used at the same time, with no `Rc`, `RefCell` or lock. Between turns of the
//! loop [`Server::lend`] gives the state and the connections.
//!
//! **Callbacks are closures.** Listeners, routes, filters and pages are `Fn`: what they change
//! lives in the state. A filter may refuse a request, a page answers a plain GET, and both get the
//! request as their third argument. A timer, and a command that another thread sends, run once and
//! are `FnOnce`. Intervals are `FnMut`. So is the callback of a source, a descriptor of yours that
//! the loop watches; its third argument is the source.
//!
//! **One connection is a [`Socket`], all open ones are [`Sockets`].** `Sockets` has `emit_to`,
//! `broadcast`, `fire`, `get`, `for_each`, `len`, `shutdown`. [`Socket::sockets`] leads from one
//! connection to all of them. A [`Handle`] sends to them from other threads.
//! [`Sockets::everywhere`] has the connections of all [`Loops`] and machines.
//!
//! # The rules
//!
//! Each rule has tests. Its exceptions stand beside it.
//!
//! - **Only `fire` runs listeners inside a callback.** Everything else that happens there (a close,
//!   a failed `emit_to`, a full outbox, a panic) is recorded. Its events fire in order when the
//!   outermost callback has returned. So no listener runs in the middle of a broadcast.
//! - **`disconnect` is last.** It fires exactly once for each connection whose route callback ran,
//!   and no other event of the library fires after it. In it, the uuid, the attributes and the
//!   request can still be read (the request unless the route
//!   [forgets](RouteOptions::forget_request) it). Exception: a server that is dropped fires nothing
//!   more.
//! - **Nothing emitted is lost before a close.** The close frame goes out behind everything that
//!   was emitted before it, and a peer that reads at the [closing rate](Builder::closing_rate) (32
//!   KiB/s) or faster gets all of it. Messages keep their order. Only pings and pongs may pass
//!   messages that wait, and a message in [`Latest`] takes the position of the waiting message that
//!   it replaces. Exceptions:
//!   - a message that was [refused](Emitted), and what a [`SlowReader`] policy or [`Latest`] drops;
//!   - a message for another [loop](manual::all_cores) or machine that comes there after the close;
//!   - [`Socket::abort`], the deadline of a shutdown, and a server that is dropped;
//!   - a connection that fails: reset, stalled, silent, or too slow.
//! - **No closing connection stays for ever.** When a WebSocket connection begins to close, or the
//!   response to a plain request is queued, its [deadline](manual::closing) is set, and the peer
//!   cannot delay it. Exceptions: the wait for the peer's FIN may last 5 s beyond the deadline; and
//!   if you turn the loop late, the connection may get its whole time once more. An open connection
//!   does not end for being idle while its peer answers pings.
//! - **No connection waits for a slow reader.** An emit never blocks. What a socket does not take
//!   waits in memory, up to [`Builder::max_outbox`]. Beyond that the connection fails with
//!   [`Error::SlowConsumer`], unless it has another [policy](SlowReader). Other connections are not
//!   affected. Exception: a message that by itself is longer than `max_outbox` is refused under
//!   every policy, and the connection stays open.
//! - **One recv, one send.** An echo costs one `recv` and one `send`, and a socket is registered
//!   with epoll once. Exceptions: Unix sockets need one more read, and large messages need several
//!   of each.
//! - **Encode once.** A broadcast is encoded once and sent to all connections from the same bytes.
//!   Exceptions: [loops](manual::all_cores) may encode it once each. With
//!   [compression](manual::compression), `Deflate::shared` compresses it once for each window size
//!   and level in use, and `Deflate::dedicated` once for each connection. Over [TLS](manual::tls)
//!   each connection encrypts it for itself.
//! - **No buffer while idle.** A connection with nothing to send and nothing half received owns no
//!   buffer. Exception: with `Deflate::dedicated` it keeps the newest bytes of its messages.
//! - **Memory is given back.** What grows with the number of connections is freed when most of them
//!   have ended, and what grows with the number of topics when most topics have ended.
//! - **Everything is bounded.** Messages, outboxes, request heads, handshakes, queues and the work
//!   of a turn have [limits](manual::limits). The number of connections has none by default. How
//!   often a client sends has none: [limit it yourself](manual::cookbook::rate_limit).
//! - **A panic costs one connection at most.** It is caught, [`Server::on_panic`] is called, and
//!   its connection is closed with 1011 if it is open. A panic in an `error` listener closes
//!   nothing. A request whose filter or page panics gets 500. If the `drop` of a value that you
//!   gave to the server panics, that panic is caught too, and the other values are dropped all the
//!   same. With `panic = "abort"` nothing is caught.
//!
//! # What is not guaranteed
//!
//! Timeouts and timers have whole milliseconds, and come late if you poll late. An emit's
//! [`Queued`](Emitted::Queued) says that the message will be offered to the socket, not that the
//! peer has read it. A listener that runs for a long time delays all connections of its loop.
//! Between loops and machines, messages of different senders have no common order. There is no
//! POST, no HTTP beyond small GET pages, no HTTP/2 and no client.
//!
//! # The manual
//!
//! | chapter | |
//! |---|---|
//! | [The loop](manual::the_loop) | `run`, `poll`, what a turn does |
//! | [Events and their order](manual::events) | which events fire when, as tables |
//! | [Emitting and slow readers](manual::emitting) | the verbs that send, backpressure, `Latest` |
//! | [Topics](manual::topics) | groups, rooms, publish and subscribe |
//! | [Requests, filters, pages](manual::requests) | routes, logins, health checks, refusals |
//! | [Time, threads, sources](manual::time_and_threads) | timers, other threads, foreign loops, busy polling |
//! | [All cores](manual::all_cores) | a server on each of several threads, messages between them |
//! | [Many machines](manual::many_machines) | a bus over Redis, with every loss announced |
//! | [Compression](manual::compression) | permessage-deflate, and clients with faults |
//! | [TLS](manual::tls) | certificates, clients' certificates, crypto providers, failures |
//! | [Close codes](manual::close_codes) | which code to send, what a code means |
//! | [Closing and its rates](manual::closing) | how long a close takes |
//! | [Limits and memory](manual::limits) | every limit with its default |
//! | [Metrics and logging](manual::metrics) | `Stats`, Prometheus, the log |
//! | [Testing](manual::testing) | your server in memory, with a clock that you move |
//! | [Restarting without downtime](manual::restarting) | listening sockets, handover |
//! | [From Go](manual::from_go) | the functions of Go's package, and what replaces them |
//! | [The cookbook](manual::cookbook) | tested functions and programs: JSON, login, rooms, certbot, nginx, systemd |
//!
//! # Other crates, and the parts without I/O
//!
//! The public interface has types of three other crates: [`mio`] 1 (sources and interests), `uuid`
//! 1 ([`Uuid`]) and `bytes` 1 (a [`Message`] can be made from `Bytes`). This crate re-exports the
//! first two. Log records go to `log` 0.4, and a logger needs the same version. A new major version
//! of one of these four (for `log` also 0.5) is a breaking change of this crate. All other
//! dependencies may change in any release, and so may items that this documentation does not have.
//!
//! [`http`] and [`protocol`] are of use by themselves, without a socket or a clock. [`protocol`]
//! has the frames of both sides, server and client.

mod bus;
mod config;
mod error;
mod event;
pub mod http;
mod hub;
mod loops;
// For rustdoc alone. Some of its examples use the test harness, so they run as doc tests where that
// is there.
#[cfg(any(all(doc, not(doctest)), all(doctest, feature = "testing")))]
pub mod manual;
mod outbox;
pub mod protocol;
#[cfg(feature = "redis")]
#[doc(hidden)] // For the tests, the benches and the fuzz targets of this crate.
pub mod redis;
/// Messages between servers.
#[cfg(feature = "redis")]
#[doc(hidden)] // For the tests and the fuzz targets of this crate.
pub mod bus_messages {
    pub use crate::bus::{Expected, Numbering, Verdict, reencode_bus_frame};
}
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod transport;
mod user;

#[cfg(feature = "redis")]
pub use bus::{Bus, BusStats};
pub use bus::{BusEvent, BusSent, GapFrom, LoopStats, Node};
pub use config::{Builder, Dropped, SlowReader};
#[cfg(feature = "redis")]
pub use error::BusError;
pub use error::{
    AnswerError, BindError, BuildError, BusRefusal, CloseError, EmitError, Error, IoError,
    LoopsError, RouteError, SendError, TopicError, UuidError,
};
#[cfg(feature = "_tls")]
pub use error::{TlsError, TlsFailure};
pub use event::Event;
pub use http::{HeaderError, Request, Response};
pub use hub::{
    Attributes, Disconnects, EmitsRefused, Emitted, RequestsRefused, Stats, TurnDurations,
};
pub use loops::{Loops, Running};
/// The mio that sources are made with: [`Sockets::add_source`].
#[doc(no_inline)]
pub use mio;
#[cfg(feature = "deflate")]
pub use outbox::Deflate;
pub use outbox::{Latest, Outgoing, Uncompressed};
pub use protocol::{CloseCode, Message, Payload};
#[cfg(feature = "redis")]
pub use redis::{BusAddressError, BusFailure, RespError};
pub use server::{Finished, Server, Turn};
pub use token::{ConnectionId, Recipient, SourceId};
#[cfg(feature = "_tls")]
pub use transport::tls::{
    ClientCertificates, Pem, Tls, TlsFailures, TlsInfo, TlsStats, TlsVersion,
};
pub use transport::{ListeningSocket, PeerAddress};
#[cfg(unix)]
pub use user::Fd;
pub use user::{
    CaughtPanic, Deferred, EventPayload, Everywhere, Gathered, Handle, Incoming, LoopReport,
    LoopsHandle, Readiness, Route, RouteOptions, Sent, Shutdown, Socket, Sockets, TimerId,
    Transport,
};
#[doc(no_inline)]
pub use uuid::Uuid;

/// The README's examples are compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
