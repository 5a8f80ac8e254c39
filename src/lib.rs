//! A WebSocket server with events, for people who own their thread.
//!
//! The model is that of Go's ikisocket (later `socketio`): listeners on named events, `emit`,
//! `emit_to`, `broadcast`, `fire`, attributes, and a uuid for each connection. Underneath is one
//! single-threaded epoll loop that you turn yourself: no async runtime, no thread but yours, no
//! lock, no `unsafe`.
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
//!     let mut server = Server::bind("127.0.0.1:3000", Room::default())?;
//!     server.on(Event::Message, |room, ep| {
//!         room.messages += 1;
//!         ep.kws.broadcast_all(ep.data); // to everybody, with the kind that it came with
//!     });
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
//! # State is lent
//!
//! The server owns your state. Every callback gets `&mut` of it as its first argument and the
//! connection as its second, so both can be used at once, with no `Rc`, `RefCell` or lock.
//! Callbacks are `Fn`: what must change lives in the state.
//!
//! Two nouns have all the verbs. [`Sockets`] are the open connections: `emit_to`, `broadcast`,
//! `fire`, `get`, `len`, `shutdown`. [`Socket`] is one of them (`kws`), and [`Socket::sockets`]
//! leads from one to all. Between turns [`Server::lend`] gives the state and the sockets.
//!
//! # The rules
//!
//! - **Only `fire` calls listeners.** Everything else that happens inside a callback (a close, a
//!   failed `emit_to`, a full outbox, a panic) is told when the outermost callback has returned, in
//!   order. A broadcast never runs your code half-way.
//! - **`disconnect` is last.** It comes exactly once for each connection whose route callback ran,
//!   and nothing comes after it. In it, the uuid, attributes and request still answer.
//! - **Nothing emitted is lost before a close.** A close frame goes out behind everything that was
//!   emitted before it, and a peer that reads at [`Builder::closing_rate`] gets all of it. The
//!   exceptions are a full outbox (see [`SlowReader`]), [`Socket::abort`], a shutdown's deadline,
//!   and a connection that fails. Nothing is reordered between an emit and the socket; only pings
//!   and pongs may pass messages that wait.
//! - **No connection stays.** When a connection stops being open, or a response is queued, its end
//!   is fixed. Nothing that the peer does moves it.
//! - **Nobody waits for a slow reader.** An emit never blocks. What a socket does not take waits in
//!   memory, up to [`Builder::max_outbox`]; past that the connection fails with
//!   [`Error::SlowConsumer`], unless its [policy](SlowReader) is another, and nobody else notices.
//! - **One recv, one send.** An echo costs one system call for each. Sockets are registered once.
//! - **Encode once.** A broadcast is encoded once, and sent to everybody from the same bytes.
//! - **No buffer while idle.** A connection that has nothing to say and nothing to hear owns no
//!   buffer.
//! - **Gone is gone.** What grows with the number of connections is given back when most of them
//!   have gone, and what grows with the number of topics when most topics have ended.
//! - **Bounded everything.** Messages, outboxes, request heads, handshakes and the work of a turn
//!   have limits; see [`Builder`].
//! - **A panic stays where it was.** Each value that was left with the server is dropped under a
//!   guard of its own. A panic is caught, [`Server::on_panic`] is told, and the connection it
//!   happened on is closed with 1011 if it is open, but for one in an `error` listener, which
//!   closes nothing. A request whose filter or page panics gets 500.
//!
//! # What is not guaranteed
//!
//! Timeouts and timers are coarse: they have whole milliseconds, and come as late as you poll late.
//! An emit's `Queued` says that the message will be offered to the socket, not that the peer has
//! read it. A listener that takes long delays everybody: the thread is yours. Memory that is given
//! back goes to the allocator; what of it goes back to the operating system, and when, is the
//! allocator's affair. There is no TLS: put a reverse proxy in front.
//!
//! # Versions of other crates
//!
//! The public interface contains types of three other crates: [`mio`] 1 (the sources and interests
//! of [`Server::add_source`]), `uuid` 1 ([`Uuid`]) and `bytes` 1 (a [`Message`] can be made from
//! `Bytes`). This crate re-exports the first two. Log records go to `log` 0.4, and a logger
//! receives them only if it uses the same version. A new major version of one of these four is a
//! breaking change of this crate; for `log` 0.4 that is also 0.5. All other dependencies are
//! internal and may change in any release. The same holds for items that exist but are absent from
//! this documentation: this crate's own tests, benchmarks and fuzz targets use them.
//!
//! # The parts without I/O
//!
//! [`http`] and [`protocol`] are of use by themselves: they know no socket and no clock, and
//! [`protocol`] speaks both roles.
//!
//! # The manual
//!
//! The chapters are modules: [the loop](manual::the_loop), [emitting and slow readers](manual::emitting),
//! [topics](manual::topics), [time, threads and sources](manual::time_and_threads),
//! [compression](manual::compression), [closing](manual::closing), [metrics and logging](manual::metrics),
//! [testing](manual::testing), [restarting without downtime](manual::restarting),
//! [from Go](manual::from_go), [the cookbook](manual::cookbook).

mod config;
mod error;
mod event;
pub mod http;
mod hub;
// For rustdoc alone. Some of its examples use the test harness, so they run as doc tests where that
// is there.
#[cfg(any(all(doc, not(doctest)), all(doctest, feature = "testing")))]
pub mod manual;
mod outbox;
pub mod protocol;
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod transport;
mod user;

pub use config::{Builder, Dropped, SlowReader};
pub use error::{
    AnswerError, BindError, BuildError, CloseError, EmitError, Error, IoError, RouteError,
    SendError, TopicError, UuidError,
};
pub use event::Event;
pub use http::{HeaderError, Request, Response};
pub use hub::{
    Attributes, Disconnects, EmitsRefused, Emitted, RequestsRefused, Stats, TurnDurations,
};
/// The mio that sources are made with: [`Sockets::add_source`].
#[doc(no_inline)]
pub use mio;
#[cfg(feature = "deflate")]
pub use outbox::Deflate;
pub use outbox::{Latest, Outgoing, Uncompressed};
pub use protocol::{CloseCode, Message, Payload};
pub use server::{Finished, Server, Turn};
pub use token::{ConnectionId, Recipient, SourceId};
pub use transport::{ListeningSocket, PeerAddress};
#[cfg(unix)]
pub use user::Fd;
pub use user::{
    CaughtPanic, Deferred, EventPayload, Handle, Incoming, Readiness, Route, RouteOptions,
    Shutdown, Socket, Sockets, TimerId, Transport,
};
#[doc(no_inline)]
pub use uuid::Uuid;

/// The README's examples are compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
