//! A WebSocket server with events, for people who own their thread.
//!
//! The model is that of Go's ikisocket (later `socketio`): listeners on named events, `emit`, `emit_to`, `broadcast`, `fire`,
//! attributes, and a uuid for each connection. Underneath is one single-threaded epoll loop that you turn yourself: no async
//! runtime, no thread but yours, no lock, no `unsafe`.
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
//! The server owns your state. Every callback gets `&mut` of it as its first argument and the connection as its second, so
//! both can be used at once, with no `Rc`, `RefCell` or lock. Callbacks are `Fn`: what must change lives in the state.
//!
//! Two nouns have all the verbs. [`Sockets`] are the open connections: `emit_to`, `broadcast`, `fire`, `get`, `len`,
//! `shutdown`. [`Socket`] is one of them (`kws`), and [`Socket::sockets`] leads from one to all. Between turns
//! [`Server::lend`] gives the state and the sockets.
//!
//! # The loop
//!
//! [`Server::run`] turns the loop for you. To turn it yourself, call [`Server::poll`] as often as you like; it does nothing between
//! calls:
//!
//! ```no_run
//! # use std::time::Duration;
//! # let mut server = ikisocket::Server::bind("127.0.0.1:3000", 0u64)?;
//! loop {
//!     server.poll(Some(Duration::from_millis(1)))?;    // listeners run in here
//!     let (ticks, mut sockets) = server.lend();        // the rest of the time everything is yours
//!     *ticks += 1;
//!     sockets.broadcast(format!("tick {ticks}"));      // on the wire when the next poll begins, or at flush()
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! One turn: write what was emitted since the last one; wait; for each ready connection read, decode, call listeners and
//! write its own replies once; write to the others that got something, once each; handle timeouts; remove what is gone.
//! [`Turn`] says what was done.
//!
//! # A little of everything
//!
//! ```
//! use std::collections::HashMap;
//! use std::time::Duration;
//! use ikisocket::{Event, Response, Server, Shutdown, Uuid};
//!
//! #[derive(Default)]
//! struct Users {
//!     by_name: HashMap<String, Uuid>,
//! }
//!
//! let mut server = Server::builder().max_message(64 * 1024).build(Users::default())?;
//!
//! // Who may come in? A filter sees the request; what it sets is there on the connection.
//! server.filter(|_, _, incoming| {
//!     if incoming.path() == "/healthz" {
//!         return Ok(());
//!     }
//!     let Some(name) = incoming.cookie("user").map(|name| name.into_owned()) else {
//!         return Err(Response::text("Log in first.").with_status(401).header("WWW-Authenticate", "Cookie")?);
//!     };
//!     incoming.attributes.set("user", name);
//!     Ok(())
//! });
//! server.get("/healthz", |users, sockets, _| Response::text(format!("{} users, {} sockets", users.by_name.len(), sockets.len())))?;
//! server.route("/ws/:room", |users, kws| {
//!     let name = kws.string_attribute("user").unwrap_or_default().to_owned();
//!     users.by_name.insert(name, kws.uuid());
//! })?;
//! server.on(Event::Message, |users, ep| {
//!     // "bob hello": to bob alone. Everything else is an event of our own, for whoever listens to it.
//!     let Some((to, text)) = ep.data.as_str().and_then(|text| text.split_once(' ')) else {
//!         ep.kws.fire(users, "odd", ep.data);
//!         return;
//!     };
//!     if let Some(&to) = users.by_name.get(to) {
//!         let _ = ep.kws.emit_to(to, text); // if bob has just gone, an `error` event follows
//!     }
//! });
//! server.on("odd", |_, ep| ep.kws.close());
//! server.on(Event::Disconnect, |users, ep| users.by_name.retain(|_, uuid| *uuid != ep.socket_uuid));
//! server.recover(|_, panic| eprintln!("{} panicked: {}", panic.event, panic.message));
//! server.listen("127.0.0.1:0")?;
//!
//! // One turn for the example's sake, then goodbye to everybody.
//! server.poll(Some(Duration::ZERO))?;
//! server.lend().1.shutdown(Shutdown { reason: "maintenance".to_owned(), ..Shutdown::default() })?;
//! assert_eq!(server.run()?.remained, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The rules
//!
//! - **Only `fire` calls listeners.** Everything else that happens inside a callback (a close, a failed `emit_to`, a full outbox, a
//!   panic) is told when the outermost callback has returned, in order. A broadcast never runs your code half-way.
//! - **`disconnect` is last.** It comes exactly once for each connection whose route callback ran, and nothing comes after it. In
//!   it, the uuid, attributes and request still answer.
//! - **Nothing emitted is lost before a close.** A close frame goes out behind everything that was emitted before it. Between an
//!   emit and the wire nothing is reordered; only pings and pongs may pass messages that wait.
//! - **Nobody waits for a slow reader.** An emit never blocks. What a socket does not take waits in memory, up to
//!   [`Builder::max_outbox`]; past that the connection fails with [`Error::SlowConsumer`], and nobody else notices.
//! - **One recv, one send.** An echo costs one system call for each. Sockets are registered once.
//! - **Encode once.** A broadcast is encoded once, and sent to everybody from the same bytes.
//! - **No buffer while idle.** A connection that has nothing to say and nothing to hear owns no buffer.
//! - **Bounded everything.** Messages, outboxes, request heads, handshakes and the work of a turn have limits; see [`Builder`].
//! - **A panic stays where it was.** It is caught, [`Server::recover`] is told, and the connection it happened on is closed with 1011.
//!
//! # Compression
//!
//! With the cargo feature `deflate` the server speaks permessage-deflate (RFC 7692) with the clients that offer it, where
//! `Builder::deflate` or `Route::deflate` turn it on. There are two modes. `Deflate::shared()` compresses each message by itself: no memory for
//! a connection, and a broadcast is compressed once for all. `Deflate::dedicated()` lets messages refer to the ones before: similar small
//! messages become far smaller, a connection costs up to about 350 KiB, and a broadcast is compressed for each. Messages below a
//! minimum go as they are, and so does [`Uncompressed`]`(message)`, with every verb. Limits are of decompressed bytes, so a small message
//! that would become a large one stops at the limit. Without the feature the offer is declined.
//!
//! # What is not guaranteed
//!
//! Timeouts are coarse: they are never early, and as late as you poll late. An emit's `Queued` says that the message will be
//! offered to the socket, not that the peer has read it. A listener that takes long delays everybody: the thread is yours.
//! There is no TLS: put a reverse proxy in front.
//!
//! # The Go names
//!
//! | Go | here |
//! |---|---|
//! | `New(cb, cfg)` | [`Server::route`] |
//! | `app.Use`, `IsWebSocketUpgrade`, `ErrUpgradeRequired` | [`Server::filter`]; a plain request on a route gets 426 by itself |
//! | `Locals` | [`Incoming::attributes`], then [`Socket::attribute`] |
//! | `Params`, `Query`, `Cookies`, `Headers` | [`Socket::param`], [`query`](Socket::query), [`cookie`](Socket::cookie), [`header`](Socket::header), or all of [`Socket::request`] |
//! | `IP` | [`Socket::peer_address`] |
//! | `Config.Origins`, `Subprotocols` | [`Builder::origins`], [`Builder::subprotocols`], or a route's own ([`Route`]) |
//! | `Config.HandshakeTimeout`, buffer sizes | [`Builder::handshake_timeout`], [`Builder::receive_buffer`], [`Builder::max_outbox`] |
//! | `Config.RecoverHandler` | [`Server::recover`] |
//! | `Config.EnableCompression` | `Builder::deflate`, or a route's own, with the cargo feature `deflate` |
//! | `On(event, cb)` | [`Server::on`], [`Route::on`], [`Server::off`] |
//! | `Fire`, `kws.Fire` | [`Sockets::fire`], [`Socket::fire`] |
//! | `kws.Emit` | [`Socket::emit`], [`emit_text`](Socket::emit_text), [`emit_binary`](Socket::emit_binary) |
//! | `EmitTo`, `kws.EmitTo` | [`Sockets::emit_to`], [`Socket::emit_to`] |
//! | `EmitToList`, `kws.EmitToList` | [`Sockets::emit_to_list`], [`Socket::emit_to_list`] |
//! | `Broadcast`, `kws.Broadcast(m, true)`, `kws.Broadcast(m, false)` | [`Sockets::broadcast`], [`Socket::broadcast`], [`Socket::broadcast_all`] |
//! | `GetUUID`, `SetUUID`, `IsAlive` | [`Socket::uuid`], [`set_uuid`](Socket::set_uuid), [`is_alive`](Socket::is_alive) |
//! | `SetAttribute`, `GetAttribute`, `GetStringAttribute`, `GetIntAttribute` | [`Socket::set_attribute`], [`attribute`](Socket::attribute), [`string_attribute`](Socket::string_attribute), [`int_attribute`](Socket::int_attribute) |
//! | `Close` | [`Socket::close`], [`close_with`](Socket::close_with) |
//! | `CloseAll`, `Drain`, `IsDraining` | [`Sockets::shutdown`], [`refuse_upgrades`](Sockets::refuse_upgrades), [`is_refusing`](Sockets::is_refusing) |
//! | `kws.Conn` | [`Socket::conn`] |
//! | `EventPayload{Kws, Name, SocketUUID, SocketAttributes, Error, Data}` | [`EventPayload`], with `code`, `reason` and `clean` beside |
//! | `EventMessage` … `EventError` | [`Event`] |
//! | `TextMessage`, `BinaryMessage` | [`Message`], [`Payload`] |
//! | `PingMessage`, `PongMessage`, `CloseMessage` as a message's type | [`Socket::ping`]; pongs are sent by themselves; [`Socket::close_with`] |
//! | `ErrorUUIDDuplication`, `ErrorInvalidConnection` | [`UuidError::Duplicate`], [`Gone`] |
//! | nothing (an emit has no result) | [`Emitted`], [`EmitError`] |
//!
//! # Inside
//!
//! [`handshake`] and [`protocol`] are of use by themselves: they know no socket and no clock, and [`protocol`] speaks both roles.
//!
//! | room | what it is for | what it must not know |
//! |---|---|---|
//! | `server`, `builder`, `turn` | the user's door, and the turn of the loop | |
//! | `socket`, `event`, `route`, `attributes` | what user code touches | the poll |
//! | `dispatch`, `upgrade` | calling user code; from a request to a connection | the poll |
//! | `reactor` | the poll, and what it watches | user code |
//! | `listen`, `stream` | listening sockets and streams, each kind with its oddities | the poll's events, user code |
//! | `hub` | every connection: its life, what it gets, its time | the poll, the clock, user code |
//! | `connection`, `timer`, `token`, `limits`, `compression` | what the hub is made of | |
//! | `outbox` | from an emit to the wire | connections |
//! | `handshake`, `protocol` | bytes in, values out, and back | everything else |
//!
//! Imports run from top to bottom.

mod attributes;
mod builder;
mod clock;
#[cfg_attr(not(feature = "deflate"), path = "uncompressed.rs")]
mod compression;
mod connection;
mod dispatch;
mod error;
mod event;
pub mod handshake;
mod hub;
mod limits;
mod listen;
mod outbox;
mod outgoing;
pub mod protocol;
mod reactor;
mod route;
mod server;
mod socket;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod token;
mod turn;
mod upgrade;

pub use attributes::Attributes;
pub use builder::Builder;
#[cfg(feature = "deflate")]
pub use compression::Deflate;
pub use connection::PeerAddress;
pub use error::{BindError, BuildError, CloseError, EmitError, Error, Gone, IoError, RouteError, UuidError};
pub use event::{Event, EventPayload};
pub use handshake::{HeaderError, Request, Response};
pub use hub::Emitted;
pub use listen::ListeningSocket;
pub use outgoing::{Outgoing, Uncompressed};
pub use protocol::{CloseCode, Message, Payload};
pub use route::{Incoming, Recovered, Route};
pub use server::{Finished, Server};
pub use socket::{Conn, Shutdown, Socket, Sockets};
pub use turn::Turn;
#[doc(no_inline)]
pub use uuid::Uuid;

/// The README's examples are compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
