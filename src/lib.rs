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
//! # The loop
//!
//! [`Server::run`] turns the loop for you. To turn it yourself, call [`Server::poll`] as often as
//! you like; it does nothing between calls:
//!
//! ```no_run
//! # use std::time::Duration;
//! # let mut server = ikisocket::Server::bind("127.0.0.1:3000", 0u64)?;
//! loop {
//!     server.poll(Some(Duration::from_millis(1)))?;    // listeners run in here
//!     let (ticks, mut sockets) = server.lend();        // the rest of the time everything is yours
//!     *ticks += 1;
//!     sockets.broadcast(format!("tick {ticks}"));      // written when the next poll begins, or at flush()
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! One turn: write what was emitted since the last one; wait; for each ready connection read,
//! decode, call listeners and write its own replies once; accept, do what other threads have sent,
//! call timers; write to the others that got something, once each; handle timeouts; remove what is
//! gone. [`Turn`] says what was done. A connection that sends little is served before those that
//! wait with more than their share, and those before the ones that are closing.
//!
//! # Time
//!
//! [`Server::set_timer`] and [`set_interval`](Server::set_interval) call you back from the loop,
//! with the state and the sockets lent; listeners set timers through [`Sockets`]. No message costs
//! more because timers wait.
//!
//! ```
//! # use std::time::Duration;
//! # let mut server = ikisocket::Server::bind("127.0.0.1:0", 0u64)?;
//! server.set_interval(Duration::from_millis(16), |frame, sockets| {
//!     *frame += 1;
//!     sockets.broadcast(format!("frame {frame}"));
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The loop's clock and its poll have whole milliseconds. A loop that is turned late calls late, an
//! interval that missed some of its times is called once for all of them, and what is due in the
//! past comes in the next turn.
//!
//! # Other threads
//!
//! [`Server::handle`] gives a [`Handle`] that may go to any thread. It sends closures to the loop,
//! which run there with the state and the sockets lent; `emit_to`, `broadcast` and the like are
//! short forms. Each thread's commands run in its order; many of them wake the loop once.
//!
//! ```
//! # let mut server = ikisocket::Server::bind("127.0.0.1:0", 0u64)?;
//! let handle = server.handle();
//! std::thread::spawn(move || {
//!     let sum = (1..=1000).sum(); // long work, far from the loop
//!     handle.send(move |state, sockets| {
//!         *state = sum;
//!         sockets.broadcast(format!("it is {sum}"));
//!     })
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A filter that has to ask somebody else who may come in, a database for instance, puts its answer
//! off with [`Sockets::defer`]. The [`Deferred`] goes to whoever finds the answer, and accepts or
//! rejects from there; nobody else waits meanwhile.
//!
//! The queue is bounded ([`Builder::handle_queue`]): when the loop does not keep up,
//! [`SendError::Full`] says so. A handle whose server is gone gets [`SendError::Gone`].
//!
//! # Your own sources
//!
//! Whatever mio can watch can be in the loop too: [`Server::add_source`] takes a UDP socket, a
//! pipe, a timerfd or any other descriptor, and calls you when it is ready, with the state, the
//! sockets and the source lent. So a feed is read and passed on in the same turn, by the same
//! thread. `examples/feed` is one. The versions agree if you make sources with
//! [`ikisocket::mio`](mio).
//!
//! Readiness is edge-triggered: read until it would block, or ask to be called again with
//! [`Sockets::wake_source`]. What a callback leaves unread without that, nobody announces.
//!
//! # Busy polling
//!
//! [`Server::run_spinning`], or [`Server::poll`] with [`Duration::ZERO`](std::time::Duration::ZERO)
//! in a loop of your own, never sleeps: what has arrived is seen without the time that the
//! operating system takes to wake a thread. The price is a core that is busy all the time. It pays
//! if that core is the thread's own; where others need it, they and the server slow each other
//! down.
//!
//! # In another loop
//!
//! If the thread has a loop already, of a GUI, a bus or another library, the server is one more
//! descriptor in it ([`AsFd`](std::os::fd::AsFd), on Unix). Watch it for reading, wait no longer
//! than [`Server::next_timeout`], then turn the server once without waiting:
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn wait_for(_: std::os::fd::BorrowedFd<'_>, _: Option<Duration>) {}
//! # use std::os::fd::AsFd;
//! # let mut server = ikisocket::Server::bind("127.0.0.1:3000", ())?;
//! loop {
//!     wait_for(server.as_fd(), server.next_timeout()); // and for whatever else there is
//!     server.poll(Some(Duration::ZERO))?;
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! That holds whether the other loop sees levels or edges: when more is left than one turn does,
//! `next_timeout` is zero. How much that is, [`Builder::work_per_turn`] says. After anything else
//! that has something done later ([`Server::lend`], a timer) ask `next_timeout` again.
//! `examples/nested` is such a loop.
//!
//! # A little of everything
//!
//! ```
//! use std::collections::HashMap;
//! use std::time::Duration;
//! use ikisocket::{ConnectionId, Event, Response, Server, Shutdown};
//!
//! #[derive(Default)]
//! struct Users {
//!     by_name: HashMap<String, ConnectionId>,
//! }
//!
//! let mut server = Server::builder().max_message(64 * 1024).build(Users::default())?;
//!
//! server.get("/healthz", |users, sockets, _| format!("{} users, {} sockets", users.by_name.len(), sockets.len()))?;
//! server
//!     .route("/ws/:room", |users, kws| {
//!         let name = kws.string_attribute("user").unwrap_or_default().to_owned();
//!         users.by_name.insert(name, kws.id());
//!     })?
//!     // A filter sees the request before; what it sets is there on the connection.
//!     .filter(|_, _, incoming| {
//!         let Some(name) = incoming.cookie("user").map(|name| name.into_owned()) else {
//!             let login = Response::text("Log in first.").with_status(401);
//!             return Err(login.with_header("WWW-Authenticate", "Cookie")?);
//!         };
//!         incoming.attributes.set("user", name);
//!         Ok(())
//!     });
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
//! server.on(Event::Disconnect, |users, ep| users.by_name.retain(|_, id| *id != ep.id));
//! server.on_panic(|_, panic| eprintln!("{} panicked: {}", panic.event, panic.message));
//! server.listen("127.0.0.1:0")?;
//!
//! // One turn for the example's sake, then goodbye to everybody.
//! server.poll(Some(Duration::ZERO))?;
//! server.sockets().shutdown(Shutdown::default().reason("maintenance"))?;
//! assert_eq!(server.run()?.remained, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Topics
//!
//! A topic is a name that connections [join](Socket::join); what is [published](Socket::publish)
//! there goes to its members. Nothing has to be set up: a topic comes with its first member and
//! goes with its last.
//!
//! ```
//! # use ikisocket::{Event, Server};
//! # let mut server = Server::bind("127.0.0.1:0", ())?;
//! server.on(Event::Message, |_, ep| {
//!     // "+rust" and "-rust" come and go; everything else is for the other members of all that one is in.
//!     let text = ep.data.as_str().unwrap_or_default();
//!     if let Some(topic) = text.strip_prefix('+') {
//!         if let Err(error) = ep.kws.join(topic) {
//!             ep.kws.emit(error.to_string()); // an empty name, one of more than 256 bytes, or too many
//!         }
//!     } else if let Some(topic) = text.strip_prefix('-') {
//!         ep.kws.leave(topic);
//!     } else {
//!         for topic in ep.kws.topics() {
//!             ep.kws.publish(&topic, ep.data);
//!         }
//!     }
//! });
//! // Leaving is automatic. `disconnect` is still told what the connection was in.
//! server.on(Event::Disconnect, |_, ep| {
//!     for topic in ep.kws.topics() {
//!         ep.kws.publish(&topic, "somebody left");
//!     }
//! });
//! let sockets = server.sockets();
//! assert_eq!((sockets.member_count("rust"), sockets.topics().count()), (0, 0));
//! # Ok::<(), ikisocket::BindError>(())
//! ```
//!
//! A publish is encoded once and costs the number of members, whoever else is connected. A
//! connection is a member from `join` until it leaves, or stops being open: when either side closes
//! it or it fails, and before any listener is told. Each member gets all that is sent to it in one
//! order; which member is served first is not guaranteed. Joining costs no more than a look through
//! the shorter of two lists, the topic's members and the connection's topics; leaving moves two
//! entries. A membership takes at most 64 bytes, a topic about 200.
//!
//! # What is going on
//!
//! [`Server::stats`] and [`Sockets::stats`] give a [`Stats`]: connections by the part of their
//! life, bytes that wait, messages and bytes in and out, and by cause what was refused, dropped and
//! disconnected. Counting costs an addition here and there; what can be summed up when somebody
//! asks is not counted at all. [`Stats::to_prometheus`] is the same as text, for a page
//! (`examples/metrics.rs`):
//!
//! ```
//! # use ikisocket::{Response, Server};
//! let mut server = Server::builder().measure_turns(true).build(())?; // a histogram of how long turns take: off unless asked for
//! server.get("/metrics", |(), sockets, _| Response::text(sockets.stats().to_prometheus()))?;
//! let stats = server.stats();
//! println!("{} open, {} bytes wait, {} were too slow", stats.open, stats.bytes_waiting, stats.disconnects.slow_consumer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [`log`](https://docs.rs/log) records, none of which is for a message that is handled well:
//! `error` if a callback panicked or gave a response that cannot be sent; `warn` if peers cannot be
//! accepted or watched, once for each listening socket until it went well for a minute, and at the
//! first broadcast that is too large for everybody; `info` at listening and at shutdown; `debug`
//! for each connection that failed or was closed by its peer with an error's code, and each request
//! that was refused, with the reason.
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
//! # Slow readers
//!
//! What a socket does not take waits, up to [`Builder::max_outbox`] bytes for each connection.
//! [`Builder::slow_reader`], [`RouteOptions::slow_reader`] and [`Socket::set_slow_reader`] say what
//! happens then: the connection is given up (the default), the new message is refused, or the
//! oldest are dropped. Where only the latest value counts, emit [`Latest`]`(key, message)`, with
//! any verb: a waiting message with the same key is replaced in its place, so that a slow reader
//! sees fewer values, but current ones, and memory is bounded by the number of keys. What the
//! kernel and the peer's receive buffer hold comes before: see [`Builder::notsent_lowat`]. A
//! message under way is never cut; pings and pongs pass what waits; the close frame goes last.
//! [`Event::Pressure`] and [`Event::Relief`] fire at high and low water, by turns and beginning
//! with `pressure`; [`Socket::waiting_bytes`], [`waiting_messages`](Socket::waiting_messages) and
//! [`dropped`](Socket::dropped) say what waits and what was not sent, [`Sockets::dropped`] for all.
//!
//! ```no_run
//! use ikisocket::{Event, Latest, Server, SlowReader};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = Server::builder().max_outbox(256 * 1024).slow_reader(SlowReader::DropOldest).build(())?;
//! server.route("/prices", |_, _| {})?;
//! server.on(Event::Pressure, |_, ep| eprintln!("{}: {} bytes wait", ep.socket_uuid, ep.kws.waiting_bytes()));
//! let mut sockets = server.sockets();
//! for (symbol, price) in [(7, "1.0857"), (8, "0.8432")] {
//!     sockets.broadcast(Latest(symbol, price));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A peer is alive while bytes come from it, and while its socket takes bytes after it was full. It
//! is dead after 20 s ([`Builder::dead_after`]) in which no byte came from the peer and a blocked
//! socket took none; those begin with a ping, which goes out after 25 s of the same
//! ([`Builder::ping_after`]). A peer that takes nothing at all while something waits has 30 s
//! ([`Builder::stall_timeout`]).
//!
//! # Closing
//!
//! A close takes its time, because what the kernel has taken is not what the peer has read. From
//! [`Socket::close`], a failure or a response on, a connection has an absolute end: the close
//! timeout of 5 s, and the time that what waits for it takes at 32 KiB per second
//! ([`Builder::closing_rate`]). What was sent before counts too as far as the kernel and the peer's
//! receive buffer may hold it, up to 256 KiB. So:
//!
//! | the peer | its connection |
//! |---|---|
//! | reads at the closing rate or faster | gets everything, the close frame too, and answers: `disconnect` is clean |
//! | has nothing waiting and does not answer | ends after 5 s, or up to 8 s later if more than 32 KiB were sent to it |
//! | takes nothing of what waits | ends after 30 s, with [`Error::Stalled`], or at its end if that comes first |
//! | reads more slowly, with a full outbox of 1 MiB | is reset after 45 s; `disconnect` carries [`bytes_dropped`](EventPayload::bytes_dropped) |
//! | answers at the last moment and sends no FIN | is closed at most 5 s later |
//! | goes on sending | is read and ignored meanwhile, after all open connections and in an eighth of a turn's work |
//!
//! The last row lets a client that is still sending learn why it was closed: a reset would overtake
//! the close frame or the response (RFC 6455 §7.1.1, RFC 9112 §9.6). [`Stats`] shows `closing` and
//! `draining` connections, and counts those that were [`cut_short`](Stats::cut_short).
//!
//! # Compression
//!
//! With the cargo feature `deflate` the server speaks permessage-deflate (RFC 7692) with the
//! clients that offer it, where `Builder::deflate` or `RouteOptions::deflate` turn it on. There are
//! two modes. `Deflate::shared()` compresses each message by itself: no memory for a connection,
//! and a broadcast is compressed once for all. `Deflate::dedicated()` lets messages refer to the
//! ones before: similar small messages become far smaller, a connection costs up to 48 KiB for what
//! they refer to, and a broadcast is compressed for each. Messages below a minimum go as they are, and so does
//! [`Uncompressed`]`(message)`, with every verb. Limits are of decompressed bytes, so a small
//! message that would become a large one stops at the limit. Without the feature the offer is
//! declined.
//!
//! What is compressed and decompressed counts against a turn's budget ([`Builder::work_per_turn`]).
//! A message that takes long to decompress is decompressed in several turns. One with more than
//! 1000 DEFLATE blocks, and one more for every 128 bytes (compressed and decompressed together), is
//! closed with 1008; one that is cut is closed with 1007.
//!
//! # Where it listens
//!
//! [`Server::listen`] binds TCP addresses, [`listen_unix`](Server::listen_unix) Unix sockets,
//! [`listen_on`](Server::listen_on) takes a socket that was made elsewhere, and with the feature
//! `listenfd` `Server::listen_fds` takes those that systemd passes. One server may do all of it.
//!
//! To replace a server by its successor without refusing anybody, let both have the same listening
//! socket: systemd's, or a duplicate that the one hands to the other. When the successor listens,
//! [`Server::stop_listening`] gives it all that comes; the old one serves those that it has, and
//! stops with [`Sockets::shutdown`] when they have had their time.
//!
//! # Testing without sockets
//!
//! With the feature `testing` there is the module `ikisocket::testing`: a `Harness` takes the
//! server that your program builds and gives it clients in memory and a clock that moves when the
//! test says so. Nothing is waited for, and each run does the same. What fails says which client
//! got what instead, and an assertion in a callback fails the test too, although the server catches
//! it.
//!
#![cfg_attr(feature = "testing", doc = "```")]
#![cfg_attr(not(feature = "testing"), doc = "```ignore")]
//! use std::time::Duration;
//! use ikisocket::testing::{Harness, Received};
//! use ikisocket::{Event, Server};
//!
//! let mut server = Server::builder().build(0)?;
//! server.route("/ws", |_, _| {})?;
//! server.on(Event::Message, |count, ep| {
//!     *count += 1;
//!     ep.kws.emit(format!("{} was message {count}", ep.data.as_str().unwrap_or_default()));
//! });
//!
//! let mut test = Harness::new(server);
//! let ann = test.connect("/ws")?;
//! test.send(ann, "hello");
//! test.expect(ann, ["hello was message 1"]);
//! test.advance(Duration::from_secs(25));
//! test.expect(ann, [Received::Ping(vec![])]);
//! test.close(ann, 1000, "");
//! test.expect_goodbye(ann, 1000, "");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Faults of the network are said beforehand (`testing::Faults`): segments of one byte, calls that
//! would block, a peer that does not read, FIN or reset after so many bytes.
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
//! # The Go names
//!
//! | Go | here |
//! |---|---|
//! | `New(cb, cfg)` | [`Server::route`] |
//! | `app.Use`, `IsWebSocketUpgrade`, `ErrUpgradeRequired` | [`Server::filter`]; a plain request on a route gets 426 by itself |
//! | `Locals` | [`Incoming::attributes`], then [`Socket::attribute`] |
//! | `Params`, `Query`, `Cookies`, `Headers` | [`Socket::param`], [`query`](Socket::query), [`cookie`](Socket::cookie), [`header`](Socket::header), or all of [`Socket::request`] |
//! | `IP` | [`Socket::peer_address`] |
//! | `Config.Origins`, `Subprotocols` | [`Builder::origins`], [`Builder::subprotocols`], or a route's own ([`RouteOptions`]) |
//! | `Config.HandshakeTimeout`, buffer sizes | [`Builder::handshake_timeout`], [`Builder::receive_buffer`], [`Builder::max_outbox`] |
//! | `Config.RecoverHandler` | [`Server::on_panic`] |
//! | `Config.EnableCompression` | `Builder::deflate`, or a route's own, with the cargo feature `deflate` |
//! | `On(event, cb)` | [`Server::on`], [`Route::on`], [`Server::off`] |
//! | `Fire`, `kws.Fire` | [`Sockets::fire`], [`Socket::fire`] |
//! | `kws.Emit` | [`Socket::emit`], [`emit_text`](Socket::emit_text), [`emit_binary`](Socket::emit_binary) |
//! | `EmitTo`, `kws.EmitTo` | [`Sockets::emit_to`], [`Socket::emit_to`] |
//! | `EmitToList`, `kws.EmitToList` | [`Sockets::emit_to_list`], [`Socket::emit_to_list`] |
//! | `Broadcast`, `kws.Broadcast(m, true)`, `kws.Broadcast(m, false)` | [`Sockets::broadcast`], [`Socket::broadcast`], [`Socket::broadcast_all`] |
//! | `GetUUID`, `SetUUID`, `IsAlive` | [`Socket::uuid`], [`set_uuid`](Socket::set_uuid), [`is_alive`](Socket::is_alive) |
//! | `SetAttribute`, `GetAttribute`, `GetStringAttribute`, `GetIntAttribute` | [`Socket::set_attribute`], [`attribute`](Socket::attribute), [`string_attribute`](Socket::string_attribute), [`int_attribute`](Socket::int_attribute) |
//! | `Close` | [`Socket::close`], [`close_with`](Socket::close_with); without a goodbye [`abort`](Socket::abort) |
//! | `CloseAll`, `Drain`, `IsDraining` | [`Sockets::shutdown`], [`refuse_upgrades`](Sockets::refuse_upgrades), [`is_refusing`](Sockets::is_refusing) |
//! | `kws.Conn` | [`Socket::transport`] |
//! | `EventPayload{Kws, Name, SocketUUID, SocketAttributes, Error, Data}` | [`EventPayload`], with `code`, `reason` and `clean` beside |
//! | `EventMessage` … `EventError` | [`Event`] |
//! | `TextMessage`, `BinaryMessage` | [`Message`], [`Payload`] |
//! | `PingMessage`, `PongMessage`, `CloseMessage` as a message's type | [`Socket::ping`]; pongs are sent by themselves; [`Socket::close_with`] |
//! | `ErrorUUIDDuplication`, `ErrorInvalidConnection` | [`UuidError::Duplicate`], [`EmitError::Gone`] |
//! | nothing (an emit has no result) | [`Emitted`], [`EmitError`] |
//!
//! # The parts without I/O
//!
//! [`http`] and [`protocol`] are of use by themselves: they know no socket and no clock, and
//! [`protocol`] speaks both roles.

mod config;
mod error;
mod event;
pub mod http;
mod hub;
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
