//! Every limit and timeout, with unit, range and default.

use std::time::Duration;

use super::limits::Limits;
use super::slow_reader::SlowReader;
use crate::bus::Seat;
use crate::error::BuildError;
use crate::http::{HeadLimits, check_origin, is_token};
#[cfg(feature = "deflate")]
use crate::outbox::Deflate;
use crate::protocol::Rules;
use crate::transport::Options;

/// The most that Linux holds for one TCP socket with its default settings (`tcp_wmem`).
const MOST_UNSENT: usize = 4 * 1024 * 1024;
/// How many bytes may be in flight and in a slow peer's receive buffer: the default of Linux
/// (`tcp_rmem`). The buffer grows only for peers that read fast.
const IN_FLIGHT: usize = 128 * 1024;

/// Settings of a server. Each has a default that suits most servers. A timeout of [`Duration::MAX`]
/// never expires.
///
/// ```
/// use std::time::Duration;
/// use ikisocket::Server;
///
/// let mut server = Server::builder()
///     .max_message(64 * 1024)
///     .ping_after(Duration::from_secs(10))
///     .build(())?;
/// let address = server.listen("127.0.0.1:0")?;
/// assert_ne!(address.port(), 0);
/// # Ok::<(), ikisocket::BindError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    handshake_timeout: Duration,
    ping_after: Duration,
    dead_after: Duration,
    close_timeout: Duration,
    stall_timeout: Duration,
    closing_rate: usize,
    pub(crate) notsent_lowat: usize,
    max_message: usize,
    pub(crate) max_outbox: usize,
    high_water: Option<usize>,
    low_water: Option<usize>,
    pub(crate) slow_reader: SlowReader,
    max_head: usize,
    max_headers: usize,
    max_connections: usize,
    pub(crate) work_per_turn: usize,
    pub(crate) handle_queue: usize,
    max_topics: usize,
    pub(crate) receive_buffer: usize,
    pub(crate) nodelay: bool,
    pub(crate) measure_turns: bool,
    #[cfg(feature = "_tls")]
    pub(crate) handshake_time: Duration,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) origins: Vec<String>,
    #[cfg(feature = "deflate")]
    pub(crate) deflate: Option<Deflate>,
    /// The loop of the process that the server is for, if there are several.
    pub(crate) seat: Option<Seat>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            ping_after: Duration::from_secs(25),
            dead_after: Duration::from_secs(20),
            close_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            closing_rate: 32 * 1024,
            notsent_lowat: 128 * 1024,
            max_message: 1024 * 1024,
            max_outbox: 1024 * 1024,
            high_water: None,
            low_water: None,
            slow_reader: SlowReader::Disconnect,
            max_head: 16 * 1024,
            max_headers: 100,
            max_connections: usize::MAX,
            work_per_turn: 8 * 1024,
            handle_queue: 64 * 1024,
            max_topics: 1024,
            receive_buffer: 1024 * 1024,
            nodelay: true,
            measure_turns: false,
            #[cfg(feature = "_tls")]
            handshake_time: Duration::from_millis(2),
            subprotocols: Vec::new(),
            origins: Vec::new(),
            #[cfg(feature = "deflate")]
            deflate: None,
            seat: None,
        }
    }
}

impl Builder {
    /// How long a request head may take to arrive, counted from the accept. Default: 10 s.
    ///
    /// A client that has sent only a part of its head by then gets 408. One that has sent no byte
    /// gets no answer: its connection is closed, and not counted as a
    /// [refusal](crate::RequestsRefused). If a filter [defers its answer](crate::Sockets::defer),
    /// the answer must arrive within this time too, or the client gets 503.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long a peer may give no sign of life before the server sends a ping. Default: 25 s.
    /// [`Duration::MAX`]: never.
    ///
    /// A sign of life is a byte from the peer, or a byte that its socket takes after it was full.
    pub fn ping_after(mut self, silence: Duration) -> Self {
        self.ping_after = silence;
        self
    }

    /// How long the server waits for a sign of life after a ping. Then it disconnects the peer with
    /// [`Error::Silent`](crate::Error::Silent). Default: 20 s.
    ///
    /// Any byte from the peer counts as a sign of life. So does any byte that its socket takes
    /// after it was full, because the ping may wait behind data that a slow reader has not read
    /// yet. Data that a socket takes at once does not count: the kernel takes it even if the peer's
    /// host has vanished.
    pub fn dead_after(mut self, silence: Duration) -> Self {
        self.dead_after = silence;
        self
    }

    /// How long the server waits for the peer's close frame, once the kernel has taken its own. It
    /// then waits for the peer's FIN for the same time. Default: 5 s.
    ///
    /// If much may wait in front of the close frame, the peer has more time: see
    /// [`closing_rate`](Self::closing_rate).
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long a peer may take nothing while data waits for it. Then the server disconnects it.
    /// Default: 30 s.
    ///
    /// A peer's kernel does not reopen a full receive buffer for each byte that is read. On Linux,
    /// about a sixteenth of the buffer has to be free. A peer whose buffer grew to several MiB
    /// while it read fast, and which then reads about 50 KB per second, may take nothing for longer
    /// than the default.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// The rate at which a peer must read the data before a close frame, or a response, in bytes
    /// per second. Default: 32 KiB per second, at least 1. A full outbox of 1 MiB may take 45 s,
    /// and 5 s for the FIN.
    ///
    /// When a connection stops being open, and when a response is queued, the server sets a
    /// deadline for it. This is the [`close_timeout`](Self::close_timeout) and the time that all
    /// pending data takes at this rate. Pending data is:
    ///
    /// - the bytes in the outbox;
    /// - the bytes that the kernel and the peer's receive buffer may still hold. The server cannot
    ///   see them. So it counts everything that it has sent on this connection beyond the first 32
    ///   KiB, but no more than `notsent_lowat` plus 128 KiB: by default 256 KiB, which take 8 s.
    ///
    /// A peer that reads at this rate gets all of it and the close frame. A peer that reads more
    /// slowly is reset at the deadline. Its `disconnect` is then not `clean` and carries the number
    /// of bytes that were dropped, and [`Stats::cut_short`](crate::Stats::cut_short) counts it. A
    /// peer that takes nothing at all is disconnected by the [`stall_timeout`](Self::stall_timeout)
    /// if that expires first.
    ///
    /// When the kernel has taken everything, the server waits for the peer's close frame: for the
    /// close timeout and the time for the bytes that the kernel may hold, but not beyond the
    /// deadline. Then the server sends its FIN, and waits for the peer's FIN for as long, but not
    /// beyond the deadline, or beyond the close timeout from now if that is later.
    ///
    /// So the peer can move the deadline in that one way. The loop can move it too. The deadline is
    /// measured by the loop's clock, so peers lose the time in which the loop is not turned. If the
    /// loop comes to a deadline more than a second late, and the socket then takes something, the
    /// peer gets the whole time again.
    ///
    /// A peer that read fast before may have a receive buffer of several MiB. The server does not
    /// know how much data lies there, and counts no more than the above.
    pub fn closing_rate(mut self, bytes_per_second: usize) -> Self {
        self.closing_rate = bytes_per_second;
        self
    }

    /// The most bytes that the kernel takes for one TCP connection ahead of those that it has sent,
    /// on Linux and Android (`TCP_NOTSENT_LOWAT`). Default: 128 KiB, at least 4 KiB.
    ///
    /// Bytes that the kernel does not take wait in the outbox. There, pings overtake them,
    /// [`SlowReader`] and [`Latest`](crate::Latest) can act on them, and they are counted. The
    /// option does not bound the bytes in flight or in the peer's receive buffer.
    ///
    /// With a lower value, a slow reader gets fewer outdated messages. With a higher value,
    /// messages longer than it need fewer system calls. Messages of 16 KiB cost the same at any
    /// value. With messages of 1 MB, try 1 MiB: at 128 KiB an echo of 1 MB costs 1.2 to 1.6 times
    /// the CPU, and messages that go in one direction up to twice, because data that the kernel
    /// does not take is copied to the outbox. [`usize::MAX`] leaves the option to the system; Linux
    /// then takes up to 4 MiB (`tcp_wmem`).
    ///
    /// The server sets the option on listening sockets, and accepted sockets inherit it. So it also
    /// applies to every other process that accepts from a socket that was [handed
    /// over](crate::Server::listen_on). Unix sockets have no such option; they hold about 200 KiB
    /// (`wmem_default`). On other systems the setting has no effect.
    pub fn notsent_lowat(mut self, bytes: usize) -> Self {
        self.notsent_lowat = bytes;
        self
    }

    /// The longest message that is accepted, in bytes, over all its fragments. Default: 1 MiB.
    ///
    /// A longer one is refused with close code 1009 as soon as its length is known.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// The longest outbox of one connection, in bytes: messages that its socket has not taken,
    /// frame headers included. Default: 1 MiB, at least 1 KiB.
    ///
    /// It bounds how far a peer may be behind. The kernel holds at most
    /// [`notsent_lowat`](Self::notsent_lowat) bytes more, and what is in flight to the peer. So set
    /// it to the largest burst that a slow reader is to get.
    ///
    /// When a message has no room, the outbox is first offered to the socket. (With a policy other
    /// than the default, a socket that was found full is not asked again.) If there is still no
    /// room, [`slow_reader`](Self::slow_reader) says what happens. By default the connection is
    /// disconnected with [`Error::SlowConsumer`](crate::Error::SlowConsumer).
    ///
    /// A single message that is longer than this limit is refused with
    /// [`EmitError::TooLarge`](crate::EmitError::TooLarge), and the connection stays open. A
    /// message of exactly this length has room when nothing else waits; its header is not counted
    /// then.
    pub fn max_outbox(mut self, bytes: usize) -> Self {
        self.max_outbox = bytes;
        self
    }

    /// The policy when more than [`max_outbox`](Self::max_outbox) bytes would wait for a
    /// connection. Default: [`SlowReader::Disconnect`].
    ///
    /// A route or a connection may have its own policy. Policies other than the default need a
    /// limit: they cannot be used with a `max_outbox` of [`usize::MAX`].
    pub fn slow_reader(mut self, policy: SlowReader) -> Self {
        self.slow_reader = policy;
        self
    }

    /// Fires [`Event::Pressure`](crate::Event::Pressure) when a connection's outbox reaches this
    /// many bytes and its socket takes nothing.
    ///
    /// Range: 1 to [`max_outbox`](Self::max_outbox). Default: half of `max_outbox`. With all
    /// defaults that is 512 KiB.
    ///
    /// Listeners are called when the running callback has returned. If by then the outbox has sunk
    /// to [`low_water`](Self::low_water), `pressure` does not fire.
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.high_water = Some(bytes);
        self
    }

    /// Fires [`Event::Relief`](crate::Event::Relief) when the outbox of a connection for which
    /// `pressure` has fired sinks to this many bytes or fewer.
    ///
    /// Range: 0 to [`high_water`](Self::high_water) less one. Default: a quarter of `high_water`.
    /// With all defaults that is 128 KiB.
    pub fn low_water(mut self, bytes: usize) -> Self {
        self.low_water = Some(bytes);
        self
    }

    fn high(&self) -> usize {
        self.high_water.unwrap_or(self.max_outbox / 2)
    }

    fn low(&self) -> usize {
        self.low_water.unwrap_or(self.high() / 4)
    }

    /// The longest request head, in bytes; a longer one gets 431. Default: 16 KiB.
    /// Range: 256 to 65 535.
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.max_head = bytes;
        self
    }

    /// The most headers in a request; more get 431. Default: 100.
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.max_headers = headers;
        self
    }

    /// The most WebSocket connections that may be open; an upgrade beyond this number gets 503.
    /// Default: no limit but the process's file descriptors. Pages are answered in any case.
    ///
    /// With [`Loops`](crate::Loops) the limit holds for each loop.
    ///
    /// Connections that have sent no request yet, or that wait for the answer, are not counted.
    /// They end with the handshake timeout.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The budget of one turn of the loop, in units of work. The loop leaves work beyond it for the
    /// next turn, which then does not wait. Default: 8192, at least 1.
    ///
    /// One unit takes at most a microsecond on a machine of 2024, and much less where no peer is
    /// hostile. So the default bounds a turn to about 8 ms, without the time of your callbacks. A
    /// small budget suits a loop that has something else to do between turns. Under a flood it also
    /// costs throughput, because there are more turns.
    ///
    /// | work | units |
    /// |---|---|
    /// | a message, a ping or a pong that comes in | 1 |
    /// | each KiB that is read | 1 |
    /// | each KiB that a blocked socket takes | 1 |
    /// | a request | 16 |
    /// | each KiB of a request's head | 8 |
    /// | each piece in which a request comes | 4 |
    /// | an answer to a deferred request | 16 |
    /// | the end of a connection | 16 |
    /// | each topic that the connection was in | 2 |
    /// | a timeout | 4 |
    /// | a message of [another loop](crate::Loops) | 1, and 1 for each connection that it reaches |
    ///
    /// Some work has its own part of the budget:
    ///
    /// - Answers to deferred requests get an eighth of the budget in one turn.
    /// - Messages of [other loops](crate::Loops) get half of the budget, each loop an equal share
    ///   of it.
    /// - Input behind our own close frame or response gets another eighth.
    /// - Timeouts and removals get another eighth if the budget is spent.
    /// - Of commands, timers and timeouts, a turn handles at most as many as the budget has units,
    ///   and at most 1024 of each.
    ///
    /// Connections share the budget. One that sends little is served before those that have more
    /// than their share. These take turns, and have at least half of the budget.
    ///
    /// A turn may exceed the budget:
    ///
    /// - It handles at least one message whole, however much work that is.
    /// - One read of a [`receive_buffer`](Self::receive_buffer) may exceed it.
    /// - Connections that have waited since an earlier turn have their half, even if it was
    ///   exceeded in one of these ways.
    /// - A broadcast reaches all its connections in the same turn.
    /// - The work of your callbacks counts only as far as it is in the table.
    ///
    /// If the budget ends in the middle of a read, the rest of the input is kept: at most one
    /// buffer's length for the whole server, and 16 KiB for each connection, or 36 KiB for each
    /// one over TLS.
    pub fn work_per_turn(mut self, work: usize) -> Self {
        self.work_per_turn = work;
        self
    }

    /// The most commands of [handles](crate::Handle) that may wait for the loop. Default: 65 536,
    /// at least 1.
    ///
    /// Further commands are refused with [`SendError::Full`](crate::SendError::Full). Answers to
    /// [deferred](crate::Deferred) requests count, but are always accepted.
    pub fn handle_queue(mut self, commands: usize) -> Self {
        self.handle_queue = commands;
        self
    }

    /// The most topics that one connection may be in at a time; [`join`](crate::Socket::join)
    /// refuses more. Default: 1024, at least 1.
    ///
    /// If clients choose the names, this bounds the memory that one client can take: about half a
    /// KiB for each topic that has no other member, with the longest name.
    pub fn max_topics_per_connection(mut self, topics: usize) -> Self {
        self.max_topics = topics;
        self
    }

    /// The size of the one buffer into which every connection's input is read, in bytes. Default: 1
    /// MiB. Range: 1 KiB to 1 GiB.
    ///
    /// A message that arrives in one read is handled without being copied. A longer one is read in
    /// parts: over loopback, messages of 400 KB to 4 MB took up to 2.5 times the CPU in parts of
    /// 256 KiB. With a smaller buffer, a connection that has much to read delays the others less.
    ///
    /// The part of the buffer that is never used costs no memory. A server that speaks TLS has at
    /// least 36 KiB.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Whether sockets have `TCP_NODELAY`, so that small messages leave at once. Default: on.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// Whether the loop measures how long its turns take, for
    /// [`Stats::turn_durations`](crate::Stats::turn_durations). Default: off. It costs four
    /// readings of the clock for each turn.
    pub fn measure_turns(mut self, on: bool) -> Self {
        self.measure_turns = on;
        self
    }

    /// The most time that TLS handshakes take in one turn. Default: 2 ms, about 20 handshakes with
    /// a P-256 key, or 6 with RSA-2048. Any value may be set. It needs the feature `tls`.
    ///
    /// The other handshakes continue in the next turn, in their order. Open connections come before
    /// them in each turn, so a storm of handshakes delays messages by this time, and by the one
    /// handshake that is under way when it is over. At least one continues in each turn, also at
    /// zero. Handshakes that wait longer than
    /// [`handshake_timeout`](Self::handshake_timeout) are given up.
    ///
    /// With a larger value more clients connect in a second while messages come too; with a smaller
    /// one messages come more evenly.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ikisocket::Server;
    ///
    /// let server = Server::builder().handshake_time(Duration::from_micros(500)).build(())?;
    /// # Ok::<(), ikisocket::BuildError>(())
    /// ```
    #[cfg(feature = "_tls")]
    pub fn handshake_time(mut self, most: Duration) -> Self {
        self.handshake_time = most;
        self
    }

    /// The subprotocols that the server speaks, the best first: the server's order decides (RFC
    /// 6455 §4.2.2). Default: none.
    ///
    /// A route may have its own list. If the client asks for none of these subprotocols, the
    /// connection has none.
    pub fn subprotocols<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// The origins of the web pages that may connect. Default: all.
    ///
    /// An origin is written as browsers send it: scheme, host and, unless it is the scheme's
    /// default, port (`https://example.org`, `http://localhost:3000`; not
    /// `https://example.org:443`, which no browser sends). A request with another origin gets 403,
    /// and so does a request without one (RFC 6455 §10.2). `*` allows every request. To allow all
    /// hosts of a domain, check the `Origin` header in a [filter](crate::Server::filter). A route
    /// may have its own list.
    pub fn origins<N: Into<String>>(mut self, origins: impl IntoIterator<Item = N>) -> Self {
        self.origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Compression for clients that offer permessage-deflate (RFC 7692). Default: none. A route may
    /// have its own setting, or no compression.
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<Deflate>>) -> Self {
        self.deflate = deflate.into();
        self
    }

    /// The settings of the server of one loop.
    pub(crate) fn for_loop(self, seat: Seat) -> Self {
        Self { seat: Some(seat), ..self }
    }

    /// The options of sockets.
    pub(crate) fn options(&self) -> Options {
        Options { nodelay: self.nodelay, notsent_lowat: self.notsent_lowat }
    }

    /// Whether every setting is in its range.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let check = |ok, setting, expected| {
            if ok { Ok(()) } else { Err(BuildError::Setting { setting, expected }) }
        };
        for (timeout, setting) in [
            (self.handshake_timeout, "handshake_timeout"),
            (self.ping_after, "ping_after"),
            (self.dead_after, "dead_after"),
            (self.close_timeout, "close_timeout"),
            (self.stall_timeout, "stall_timeout"),
        ] {
            check(timeout >= Duration::from_millis(1), setting, "at least 1 ms")?;
        }
        check(self.closing_rate > 0, "closing_rate", "at least 1 byte per second")?;
        check(self.notsent_lowat >= 4096, "notsent_lowat", "at least 4096 bytes")?;
        check(self.max_message > 0, "max_message", "at least 1 byte")?;
        check(self.max_outbox >= 1024, "max_outbox", "at least 1024 bytes")?;
        let can_act = self.slow_reader.can_act_at(self.max_outbox);
        check(can_act, "max_outbox", "a limit that slow_reader can act at")?;
        check((1..=self.max_outbox).contains(&self.high()), "high_water", "1 byte to max_outbox")?;
        check(self.low() < self.high(), "low_water", "less than high_water")?;
        check((256..=65_535).contains(&self.max_head), "max_head", "256 to 65535 bytes")?;
        check(self.max_headers > 0, "max_headers", "at least 1")?;
        check(self.max_connections > 0, "max_connections", "at least 1")?;
        check(self.work_per_turn > 0, "work_per_turn", "at least 1")?;
        check(self.handle_queue > 0, "handle_queue", "at least 1")?;
        check(self.max_topics > 0, "max_topics_per_connection", "at least 1")?;
        check((1024..=1 << 30).contains(&self.receive_buffer), "receive_buffer", "1 KiB to 1 GiB")?;
        #[cfg(feature = "deflate")]
        if let Some(Err((setting, expected))) = self.deflate.as_ref().map(Deflate::check) {
            return Err(BuildError::Setting { setting, expected });
        }
        for origin in &self.origins {
            check_origin(origin)
                .map_err(|error| BuildError::Origin { origin: origin.clone(), error })?;
        }
        let tokens = self.subprotocols.iter().all(|name| is_token(name));
        check(tokens, "subprotocols", "names of letters, digits and `-`")
    }

    pub(crate) fn limits(&self) -> Limits {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let rules = Rules::default().max_message(self.max_message);
        Limits {
            handshake_timeout: millis(self.handshake_timeout),
            ping_after: millis(self.ping_after),
            dead_after: millis(self.dead_after),
            close_timeout: millis(self.close_timeout),
            stall_timeout: millis(self.stall_timeout),
            closing_rate: self.closing_rate as u64,
            kernel_holds: (self.notsent_lowat.min(MOST_UNSENT) + IN_FLIGHT) as u64,
            rules,
            compressed_rules: rules.compression(true),
            max_outbox: self.max_outbox,
            high_water: self.high(),
            low_water: self.low(),
            head: HeadLimits { max_bytes: self.max_head, max_headers: self.max_headers },
            max_connections: self.max_connections,
            max_topics: self.max_topics,
        }
    }
}
