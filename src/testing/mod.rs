//! Tests without sockets: your routes and listeners run in memory, with a clock that moves when the
//! test moves it.
//!
//! Turn on the feature `testing` in the test's own dependency:
//!
//! ```toml
//! [dev-dependencies]
//! ikisocket = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A [`Harness`] takes a server, built as your program builds it, and gives it clients. There are
//! no sockets and no waiting. A small test takes a millisecond in a debug build and a tenth of that
//! in a release build. It does the same each time, to the byte and to the millisecond.
//!
//! ```
//! use std::time::Duration;
//! use ikisocket::{Event, Server};
//! use ikisocket::testing::{Harness, Received};
//!
//! // The program itself uses this function too.
//! fn chat() -> Result<Server<Vec<String>>, Box<dyn std::error::Error>> {
//!     let mut server = Server::builder().build(Vec::new())?;
//!     server.route("/ws/:name", |names, kws| {
//!         names.push(kws.param("name").unwrap_or_default().to_owned());
//!     })?;
//!     server.on(Event::Message, |_, ep| {
//!         ep.kws.broadcast(ep.data);
//!     });
//!     Ok(server)
//! }
//!
//! let mut test = Harness::new(chat()?);
//! let ann = test.connect("/ws/ann")?;
//! let bob = test.connect("/ws/bob")?;
//! assert_eq!(test.state(), &["ann", "bob"]);
//!
//! test.send(ann, "hello");
//! test.expect(bob, ["hello"]);
//! test.expect_nothing(ann);
//!
//! test.advance(Duration::from_secs(25));
//! test.expect(bob, [Received::Ping(vec![])]); // answered by itself
//!
//! assert_eq!(test.connect("/nowhere").unwrap_err().status(), Some(404));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The rules
//!
//! - **A client acts at once; the server reacts when you look.** [`send`](Harness::send) and the
//!   like put bytes on the wire. [`expect`](Harness::expect), [`received`](Harness::received),
//!   [`server`](Harness::server), [`state`](Harness::state) and [`advance`](Harness::advance) first
//!   turn the loop until it has nothing left to do. To make every turn yourself, use
//!   [`Harness::by_hand`].
//! - **Time stands still** until [`advance`](Harness::advance) moves it, from one timeout to the
//!   next, so that each timeout happens at its time and in its order. It begins at the time of the
//!   server's clock when the harness took it.
//! - **The loop is the real one**, with its limits and its order, and the connections behave like
//!   TCP: edge-triggered events, short reads and writes, a window that fills up, FIN behind the
//!   bytes. [`Faults`] make them worse.
//! - **Clients are correct ones**: they read everything, answer pings, close frames and FINs.
//!   [`Upgrade::unresponsive`] and [`stop_reading`](Harness::stop_reading) change that.
//!   [`dial`](Harness::dial) makes a client that only sends and receives bytes.
//! - **No panic is lost.** The server catches panics of callbacks, also those of assertions. Panics
//!   that the test does not take ([`panics`](Harness::panics)) fail it when the harness is dropped.
//! - **Everything repeats**: the order of events, masking keys, the uuids of connections. The
//!   exception is your own code if it uses a clock, random numbers or the order of a `HashMap`.
//!
//! Two things are not imitated: the descriptor of a connection
//! ([`Transport::fd`](crate::Transport::fd) is `None`), and accepting
//! ([`Turn::accepted`](crate::Turn::accepted) counts only sockets). If the server listens on real
//! sockets, they work as usual, and each turn checks them.

#[cfg(feature = "redis")]
mod bus;
mod connect;
mod expect;
mod line;
mod loops;
mod panics;
mod peer;
#[cfg(feature = "redis")]
mod redis;

use std::time::{Duration, Instant};

use uuid::Uuid;

pub use crate::transport::faults::Faults;
#[cfg(feature = "redis")]
pub use bus::{BusHarness, NodeClient};
pub use connect::{Answer, NotConnected, Upgrade};
pub use loops::{LoopClient, LoopsHarness, Order};
pub use peer::Received;

use crate::protocol::{CloseCode, Message, Opcode};
use crate::server::{Server, Turn};
use crate::token::Token;
use crate::transport::faults::End;
use crate::transport::memory;
#[cfg(feature = "_tls")]
use crate::transport::tls::Tls;
use crate::transport::{PeerAddress, PlainStream, Stream};
use line::Line;
use panics::Panics;
use peer::Peer;

/// The longest interval between reads of a client that reads at a rate.
const READ_EVERY: Duration = Duration::from_millis(50);
/// The most turns without a rest.
const MOST_TURNS: u32 = 10_000_000;

/// One of a harness's clients. It stays valid after its connection has ended.
///
/// In another harness it names no client, or a different one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(usize);

/// A server and its clients, without sockets: see the [module's documentation](self).
pub struct Harness<S> {
    server: Server<S>,
    peers: Vec<Peer>,
    /// The server's side of connections that continue, by client.
    going_on: Vec<(usize, Token)>,
    by_hand: bool,
    panics: Panics,
    /// The settings by which clients are accepted over TLS.
    #[cfg(feature = "_tls")]
    tls: Option<Tls>,
    /// The Redis in memory, and the node that this server is there, if it holds its connection.
    #[cfg(feature = "redis")]
    bus: Option<(redis::MemoryRedis, usize)>,
}

impl<S> Harness<S> {
    /// Takes a server, stops its clock, and turns its loop whenever the test looks at a result.
    #[must_use]
    pub fn new(server: Server<S>) -> Self {
        Self::with(server, false)
    }

    /// Takes a server and stops its clock. Only [`turn`](Self::turn), [`settle`](Self::settle),
    /// [`advance`](Self::advance), [`connect`](Self::connect) and [`get`](Self::get) turn its loop.
    #[must_use]
    pub fn by_hand(server: Server<S>) -> Self {
        Self::with(server, true)
    }

    fn with(mut server: Server<S>, by_hand: bool) -> Self {
        let panics = Panics::default();
        server.make_repeatable(panics.caught());
        Self {
            server,
            peers: Vec::new(),
            going_on: Vec::new(),
            by_hand,
            panics,
            #[cfg(feature = "_tls")]
            tls: None,
            #[cfg(feature = "redis")]
            bus: None,
        }
    }

    /// Connects the server's bus, if it holds the connection, with a Redis in memory.
    #[cfg(feature = "redis")]
    fn join_bus(&mut self, redis: &redis::MemoryRedis, node: usize) {
        let dialed = redis.clone();
        if self.server.bus_in_memory(Box::new(move || dialed.dial(node))) {
            self.bus = Some((redis.clone(), node));
        }
    }

    /// Makes all clients that connect from now on speak TLS with the server, as if it listened with
    /// [`Server::listen_tls`]. It needs the feature `tls`.
    ///
    /// Use it for callbacks that look at [`Incoming::tls`](crate::Incoming::tls) or
    /// [`Socket::tls`](crate::Socket::tls). All other tests need no TLS: events, messages and
    /// closes are the same.
    ///
    /// - A client has done its handshake when it is made, without a turn of the loop and without
    ///   [faults](Faults): their bytes are counted from there on, and they are those of TLS
    ///   records. A client that has to show a certificate has none, and fails.
    /// - It speaks TLS 1.3, asks for the name `localhost`, and trusts every certificate.
    /// - [`finish`](Self::finish) sends close_notify before FIN.
    ///   [`truncate`](Self::truncate) does not.
    /// - [`dial_plain`](Self::dial_plain) makes a client whose bytes are those on the wire.
    ///
    /// Everything repeats, except for the bytes of the ciphertext, which only
    /// [`dial_plain`](Self::dial_plain) shows. The length of a handshake depends on the
    /// certificate's key: a signature by ECDSA has up to 3 bytes more or less each time.
    ///
    /// ```
    /// use ikisocket::testing::Harness;
    /// use ikisocket::{Server, Tls};
    /// # let file = |name| std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name);
    /// # let (chain, key) = (file("localhost.pem"), file("localhost.key"));
    ///
    /// let mut server = Server::builder().build(())?;
    /// server.route("/ws", |_, kws| {
    ///     let tls = kws.tls().unwrap();
    ///     kws.emit(tls.server_name.unwrap_or_default());
    /// })?;
    /// let mut test = Harness::new(server).over_tls(&Tls::pem(&chain, &key)?);
    /// let ann = test.connect("/ws")?;
    /// test.expect(ann, ["localhost"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "_tls")]
    #[must_use]
    pub fn over_tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    // Clients that connect.

    /// Connects a client, and turns the loop until the client has its response.
    ///
    /// # Errors
    ///
    /// [`NotConnected`] has the response if it does not open a WebSocket. An answer of another
    /// thread may come later: use [`ask`](Self::ask), then [`wait_for`](Self::wait_for).
    pub fn connect(&mut self, upgrade: impl Into<Upgrade>) -> Result<Client, NotConnected> {
        let client = self.ask(upgrade).ok_or(NotConnected::Unanswered)?;
        self.settle();
        let refused = match self.peers[client.0].answer() {
            Some(answer) if answer.status == 101 => return Ok(client),
            Some(answer) => NotConnected::Refused(answer),
            None => NotConnected::Unanswered,
        };
        self.reset(client);
        self.settle();
        Err(refused)
    }

    /// Connects a client like [`connect`](Self::connect), but does not wait for the
    /// [response](Self::answer). Use it for requests that are [deferred](crate::Sockets::defer),
    /// and for clients that send before they are answered. `None` if the server shuts down and
    /// accepts no more connections.
    ///
    /// ```
    /// # use ikisocket::testing::Harness;
    /// # use ikisocket::{Deferred, Response, Server};
    /// struct Desk(Option<Deferred<Desk>>);
    ///
    /// let mut server = Server::builder().build(Desk(None))?;
    /// server.route("/ws", |_, _| {})?;
    /// server.filter(|desk, sockets, incoming| {
    ///     desk.0 = Some(sockets.defer(incoming));
    ///     Ok(())
    /// });
    /// let mut test = Harness::new(server);
    /// let ann = test.ask("/ws").unwrap();
    /// assert_eq!(test.answer(ann), None);
    /// let deferred = test.state().0.take().unwrap();
    /// deferred.reject(Response::text("no").with_status(401))?;
    /// assert_eq!(test.answer(ann).unwrap().status, 401);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ask(&mut self, upgrade: impl Into<Upgrade>) -> Option<Client> {
        let upgrade = upgrade.into();
        let bytes = upgrade.encode();
        let client = self.take_in(upgrade.faults, upgrade.peer, upgrade.path)?;
        self.peers[client.0].ask(upgrade.answers);
        self.write(client, &bytes);
        Some(client)
    }

    /// Requests a page; `None` if there was no whole response.
    pub fn get(&mut self, path: &str) -> Option<Answer> {
        let client = self.dial(Faults::none())?;
        self.write(client, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.settle();
        self.reset(client);
        self.settle();
        Answer::parse(&self.peers[client.0].bytes)
    }

    /// Connects a client that sends and receives bytes, and has sent none yet. Use it for behaviour
    /// that a correct client does not show. `None` if the server shuts down and accepts no more
    /// connections.
    pub fn dial(&mut self, faults: Faults) -> Option<Client> {
        self.take_in(faults, None, "bytes".to_owned())
    }

    /// Connects a client like [`dial`](Self::dial) over TLS with these settings of the server. The
    /// bytes that the client sends and receives are those of TLS. So your test needs an
    /// implementation of TLS, or sends bytes that no implementation would send.
    ///
    /// ```no_run
    /// # use ikisocket::testing::{Faults, Harness};
    /// # use ikisocket::{Server, Tls};
    /// let tls = Tls::pem("chain.pem", "key.pem")?;
    /// let mut test = Harness::new(Server::builder().build(())?);
    /// let client = test.dial_tls(&tls, Faults::none()).unwrap();
    /// test.write(client, b"GET / HTTP/1.1\r\n\r\n");
    /// assert!(test.read(client).starts_with(b"HTTP/1.1 400 "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "_tls")]
    pub fn dial_tls(&mut self, tls: &Tls, faults: Faults) -> Option<Client> {
        if !self.server.takes_in() {
            return None;
        }
        let (wire, far) = memory::pair(faults.clone());
        let stream = self.server.stream_over_tls(PlainStream::Memory(wire), tls);
        self.add(Stream::Tls(Box::new(stream)), far.into(), &faults, None, "bytes".to_owned())
    }

    /// Connects a client like [`dial`](Self::dial), but without TLS in a harness that is
    /// [over TLS](Self::over_tls): its bytes are those on the wire, as those of a client that does
    /// not speak TLS, or breaks its rules.
    #[cfg(feature = "_tls")]
    pub fn dial_plain(&mut self, faults: Faults) -> Option<Client> {
        match self.tls.clone() {
            Some(tls) => self.dial_tls(&tls, faults),
            None => self.dial(faults),
        }
    }

    fn take_in(
        &mut self,
        faults: Faults,
        peer: Option<PeerAddress>,
        name: String,
    ) -> Option<Client> {
        if !self.server.takes_in() {
            return None;
        }
        #[cfg(feature = "_tls")]
        if let Some(tls) = &self.tls {
            let (wire, far) = memory::pair(Faults::none());
            let (mut line, mut stream) =
                (Line::from(far), self.server.stream_over_tls(PlainStream::Memory(wire), tls));
            line.begin_tls(faults.clone(), || Server::<S>::continue_handshake(&mut stream));
            return self.add(Stream::Tls(Box::new(stream)), line, &faults, peer, name);
        }
        let (wire, far) = memory::pair(faults.clone());
        self.add(PlainStream::Memory(wire).into(), far.into(), &faults, peer, name)
    }

    fn add(
        &mut self,
        stream: Stream,
        line: Line,
        faults: &Faults,
        peer: Option<PeerAddress>,
        name: String,
    ) -> Option<Client> {
        let index = self.peers.len();
        let port = 1024 + (index % 60_000) as u16;
        let peer = peer.unwrap_or(PeerAddress::Tcp(([192, 0, 2, 1], port).into()));
        let token = self.server.take_in(stream, peer)?;
        self.peers.push(Peer::new(line, name, faults.reads_per_second));
        self.going_on.push((index, token));
        Some(Client(index))
    }

    // Actions of clients. On a connection that has ended, their bytes are lost, as on a network.

    /// Sends a message: `&str` and `String` as text, bytes as binary.
    #[track_caller]
    pub fn send<'m>(&mut self, client: Client, message: impl Into<Message<'m>>) {
        let message = message.into();
        self.peer(client).send_frame(message.payload().opcode(), message.as_bytes());
    }

    /// Sends a ping. More than 125 bytes of data break the protocol (RFC 6455 §5.5), and are sent.
    #[track_caller]
    pub fn ping(&mut self, client: Client, data: impl AsRef<[u8]>) {
        self.peer(client).send_frame(Opcode::Ping, data.as_ref());
    }

    /// Sends a pong. More than 125 bytes of data break the protocol (RFC 6455 §5.5), and are sent.
    #[track_caller]
    pub fn pong(&mut self, client: Client, data: impl AsRef<[u8]>) {
        self.peer(client).send_frame(Opcode::Pong, data.as_ref());
    }

    /// Sends a close frame. The code is not checked.
    #[track_caller]
    pub fn close(&mut self, client: Client, code: impl Into<CloseCode>, reason: &str) {
        self.peer(client).send_close(Some((code.into(), reason)));
    }

    /// Sends a close frame without a code, as a browser's `close()` does.
    #[track_caller]
    pub fn close_without_code(&mut self, client: Client) {
        self.peer(client).send_close(None);
    }

    /// Sends these bytes unchanged: [`protocol::FrameHeader`](crate::protocol::FrameHeader) makes
    /// frames of every kind.
    #[track_caller]
    pub fn write(&mut self, client: Client, bytes: &[u8]) {
        self.peer(client).line.send(bytes);
    }

    /// Sends FIN: the client sends nothing more, but still reads.
    #[track_caller]
    pub fn finish(&mut self, client: Client) {
        self.peer(client).line.end(End::Fin);
    }

    /// Sends FIN without close_notify, over TLS: an attacker may have cut the connection off.
    #[cfg(feature = "_tls")]
    #[track_caller]
    pub fn truncate(&mut self, client: Client) {
        self.peer(client).line.far.end(End::Fin);
    }

    /// Resets the connection after the bytes that were sent. The client receives nothing more.
    #[track_caller]
    pub fn reset(&mut self, client: Client) {
        self.peer(client).line.end(End::Reset);
    }

    /// The client reads nothing from now on. The server's bytes wait, up to the
    /// [window](Faults::window).
    #[track_caller]
    pub fn stop_reading(&mut self, client: Client) {
        self.peer(client).allowance = 0;
    }

    /// A client that has stopped reading reads this number of bytes more.
    #[track_caller]
    pub fn read_more(&mut self, client: Client, bytes: usize) {
        let allowance = &mut self.peer(client).allowance;
        *allowance = allowance.saturating_add(bytes);
    }

    /// The client reads everything again.
    #[track_caller]
    pub fn resume_reading(&mut self, client: Client) {
        self.read_more(client, usize::MAX);
    }

    /// Makes the poll report this connection as ready, though nothing has happened.
    #[track_caller]
    pub fn wake(&mut self, client: Client) {
        self.peer(client).line.far.wake();
    }

    // Results.

    /// Takes what a client received since the last call. [`expect`](Self::expect) gives a better
    /// message if it is not what the test wants.
    #[track_caller]
    pub fn received(&mut self, client: Client) -> Vec<Received> {
        self.look();
        std::mem::take(&mut self.peer(client).received)
    }

    /// The response to a client's request, as far as it has arrived. `None` if there is none yet,
    /// and if its bytes were [read](Self::read). After an upgrade it shows the agreement:
    ///
    /// ```
    /// # use ikisocket::testing::{Harness, Upgrade};
    /// # use ikisocket::Server;
    /// let mut server = Server::builder().subprotocols(["v2", "v1"]).build(())?;
    /// server.route("/ws", |_, _| {})?;
    /// let mut test = Harness::new(server);
    /// let old = test.connect(Upgrade::to("/ws").subprotocols("v1"))?;
    /// assert_eq!(test.answer(old).unwrap().header("Sec-WebSocket-Protocol"), Some("v1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn answer(&mut self, client: Client) -> Option<Answer> {
        self.look();
        self.peer(client).answer()
    }

    /// The uuid of a client's connection, for [`Sockets::get`](crate::Sockets::get) and similar
    /// methods; `None` if it is not open.
    #[track_caller]
    pub fn uuid(&mut self, client: Client) -> Option<Uuid> {
        self.look();
        self.peer(client);
        let (_, token) = self.going_on.iter().find(|&&(index, _)| index == client.0)?;
        self.server.uuid_of(*token)
    }

    /// Takes the bytes that a client of [`dial`](Self::dial) received since the last call.
    /// [`received`](Self::received) reports how its connection ended.
    #[track_caller]
    pub fn read(&mut self, client: Client) -> Vec<u8> {
        self.look();
        std::mem::take(&mut self.peer(client).bytes)
    }

    /// The server. Effects of using it reach the clients when the test looks at one. Do not
    /// [`poll`](Server::poll) it: that waits in real time, and does not serve the clients.
    #[must_use]
    pub fn server(&mut self) -> &mut Server<S> {
        self.look();
        &mut self.server
    }

    /// The server's state.
    #[must_use]
    pub fn state(&mut self) -> &mut S {
        self.server().state_mut()
    }

    /// Returns the state, and closes all connections at once.
    pub fn into_state(self) -> S {
        self.server.into_state()
    }

    // Turns and time.

    /// Turns the loop once without waiting; then clients read, and answer.
    ///
    /// # Panics
    ///
    /// If the operating system's poll fails.
    pub fn turn(&mut self) -> Turn {
        self.turn_within(Duration::ZERO)
    }

    /// Waits until a client receives something that the test has not seen: the response to its
    /// request, a message, the end of its connection. Returns whether it did. It waits in real
    /// time, for at most `at_most`, because other threads send through a [`Handle`](crate::Handle)
    /// or a [`Deferred`](crate::Deferred). The clock of the loop stands still meanwhile.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::Server;
    /// use ikisocket::testing::Harness;
    ///
    /// let mut server = Server::builder().build(())?;
    /// server.route("/ws", |_, _| {})?;
    /// server.filter(|_, sockets, incoming| {
    ///     let deferred = sockets.defer(incoming);
    ///     std::thread::spawn(move || deferred.accept(|_| {})); // after a database query
    ///     Ok(())
    /// });
    /// let mut test = Harness::new(server);
    /// let ann = test.ask("/ws").unwrap();
    /// assert!(test.wait_for(ann, Duration::from_secs(10)));
    /// assert_eq!(test.answer(ann).unwrap().status, 101);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// As for [`settle`](Self::settle).
    #[track_caller]
    pub fn wait_for(&mut self, client: Client, at_most: Duration) -> bool {
        let started = Instant::now();
        let was_answered = self.peer(client).answer().is_some();
        loop {
            self.settle();
            let peer = self.peer(client);
            if !peer.received.is_empty() || (!was_answered && peer.answer().is_some()) {
                return true;
            }
            let Some(rest) = at_most.checked_sub(started.elapsed()) else { return false };
            self.turn_within(rest);
        }
    }

    fn turn_within(&mut self, wait: Duration) -> Turn {
        for &(index, token) in &self.going_on {
            if let Some(readiness) = self.peers[index].line.far.take_readiness() {
                self.server.tell_ready(token, readiness);
            }
        }
        #[cfg(feature = "redis")]
        if let Some((redis, node)) = &self.bus
            && let Some(readiness) = redis.take_readiness(*node)
        {
            self.server.tell_bus_ready(readiness);
        }
        let turn = self.server.poll(Some(wait)).expect("the operating system's poll works");
        self.receive();
        turn
    }

    /// Turns the loop, at least once, until neither the server nor a client has anything left to do
    /// at this time.
    ///
    /// # Panics
    ///
    /// If that never happens, because each answer causes another one.
    pub fn settle(&mut self) {
        for _ in 0..MOST_TURNS {
            self.turn();
            if !self.is_busy() {
                return;
            }
        }
        panic!("the server and its clients find no rest in {MOST_TURNS} turns");
    }

    /// Moves the clock, from one timeout to the next, and settles after each.
    pub fn advance(&mut self, by: Duration) {
        self.settle();
        let mut rest = by;
        while !rest.is_zero() {
            let step = self.next_step(rest);
            self.pass(step);
            rest -= step;
            self.settle();
        }
    }

    /// The time until something may happen, at most this one.
    fn next_step(&self, most: Duration) -> Duration {
        let step = self.server.next_timeout().map_or(most, |until| until.min(most));
        let at_a_rate = |&(index, _): &(usize, Token)| self.peers[index].reads_at_a_rate();
        if self.going_on.iter().any(at_a_rate) { step.min(READ_EVERY) } else { step }
    }

    /// Moves the clock in one step, for the server and its clients.
    fn pass(&mut self, step: Duration) {
        self.server.advance_clock(step);
        for &(index, _) in &self.going_on {
            self.peers[index].wait(step);
        }
    }

    /// Moves the clock in one step and turns nothing, as if the thread of the loop were busy with
    /// something else. Timeouts in this time are then late.
    pub fn skip(&mut self, by: Duration) {
        self.server.advance_clock(by);
    }

    fn look(&mut self) {
        if !self.by_hand {
            self.settle();
        }
    }

    fn receive(&mut self) {
        let Self { peers, going_on, .. } = self;
        going_on.retain(|&(index, _)| peers[index].receive());
    }

    fn is_busy(&self) -> bool {
        #[cfg(feature = "redis")]
        if self.bus.as_ref().is_some_and(|(redis, node)| redis.has_readiness(*node)) {
            return true;
        }
        self.going_on.iter().any(|&(index, _)| self.peers[index].line.far.has_readiness())
            || self.server.next_timeout() == Some(Duration::ZERO)
            || self.server.has_mail()
    }

    #[track_caller]
    fn peer(&mut self, client: Client) -> &mut Peer {
        let known = self.peers.len();
        self.peers
            .get_mut(client.0)
            .unwrap_or_else(|| panic!("{client:?} is not one of this harness's {known} clients"))
    }
}

impl<S> std::fmt::Debug for Harness<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness")
            .field("server", &self.server)
            .field("clients", &self.peers.len())
            .finish_non_exhaustive()
    }
}
