//! The server's figures: counts since the server was built, and states that are read when they are
//! asked for. The code that does something counts it here. No decision depends on these figures.

use std::fmt::{Display, Write};
use std::time::{Duration, Instant};

#[cfg(feature = "redis")]
use crate::bus::BusStats;
use crate::bus::LoopStats;
use crate::config::Dropped;
use crate::error::{EmitError, Error, by_cause};
use crate::http::Refusal;
#[cfg(feature = "_tls")]
use crate::transport::tls::TlsStats;

/// A server's figures: [`Server::stats`](crate::Server::stats),
/// [`Sockets::stats`](crate::Sockets::stats).
///
/// The figures up to `memberships` describe the moment of the call, which looks at every
/// connection. All others are counts since the server was built and never fall, except the first
/// five of a [bus](crate::manual::many_machines#metrics-and-log), from `is_up` to `round_trip`.
///
/// ```
/// use ikisocket::{Response, Server};
///
/// let mut server = Server::bind("127.0.0.1:0", ())?;
/// server.get("/metrics", |(), sockets, _| Response::text(sockets.stats().to_prometheus()))?;
/// let stats = server.stats();
/// assert_eq!((stats.open, stats.messages_in, stats.disconnects.total()), (0, 0, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// WebSocket connections that are open.
    pub open: usize,
    /// Peers whose request has not arrived or is being answered.
    pub handshaking: usize,
    /// WebSocket connections that one side has closed and the other has not answered yet.
    pub closing: usize,
    /// Connections on which the server says nothing more: waiting bytes are written, then the
    /// server waits for the peer to end the connection.
    pub draining: usize,
    /// Connections whose socket takes nothing at the moment.
    pub blocked: usize,
    /// Bytes that wait for sockets, over all connections.
    pub bytes_waiting: usize,
    /// Bytes that wait for one socket, of the connection with the most.
    pub most_waiting: usize,
    /// Topics with members.
    pub topics: usize,
    /// Memberships in topics, over all connections.
    pub memberships: usize,

    /// Peers that connected.
    pub accepted: u64,
    /// Connections that were upgraded to WebSocket.
    pub upgraded: u64,
    /// Requests for pages that were answered, by the page or by a filter.
    pub pages: u64,
    /// Requests that were refused, by cause.
    pub requests_refused: RequestsRefused,
    /// WebSocket connections that ended, by cause; the sum is the number of `disconnect` events.
    pub disconnects: Disconnects,
    /// Connections of every kind that have ended, their descriptors closed.
    pub closed: u64,
    /// Connections of every kind whose deadline passed before they ended by themselves. At that
    /// time the peer had not answered the close frame, or the socket had not taken everything, or
    /// the socket had been full at some time and the peer's FIN had not come: see
    /// [`Builder::closing_rate`](crate::Builder::closing_rate).
    pub cut_short: u64,

    /// Messages that arrived whole; pings and pongs are not counted.
    pub messages_in: u64,
    /// Messages that were queued, one for each connection that a broadcast or publish reached;
    /// pings and pongs are not counted.
    pub messages_out: u64,
    /// Bytes that were read, including requests and control frames.
    pub bytes_in: u64,
    /// Bytes that were written, including responses and control frames.
    pub bytes_out: u64,
    /// Bytes that were queued and not written, because their connection ended first.
    pub bytes_dropped: u64,
    /// Messages that were not queued, by cause.
    pub emits_refused: EmitsRefused,
    /// Messages that were not sent because their reader was too slow, by cause.
    pub dropped: Dropped,

    /// Panics in callbacks, and in the destructors of values that user code gave to the server:
    /// attributes, listeners, timers, sources.
    pub panics: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// The durations of turns, if [`Builder::measure_turns`](crate::Builder::measure_turns) is on.
    pub turn_durations: Option<TurnDurations>,
    /// What went between this loop and the others of the process, with
    /// [`Loops`](crate::Loops).
    pub loops: LoopStats,
    /// What went between this process and the other servers of a [bus](crate::Server::bus), if it
    /// has one. It needs the feature `redis`.
    #[cfg(feature = "redis")]
    pub bus: Option<BusStats>,
    /// TLS handshakes, by their result. It needs the feature `tls`.
    #[cfg(feature = "_tls")]
    pub tls: TlsStats,
}

by_cause! {
    /// Messages that were not queued, by cause: see [`EmitError`].
    EmitsRefused {
        /// The connection was closed.
        closed,
        /// No open connection had this uuid or id.
        gone,
        /// The message by itself was larger than the outbox limit. A broadcast, publish or list
        /// counts once.
        too_large,
        /// The outbox was full: see [`SlowReader`](crate::SlowReader).
        full,
        /// The queue to the connection's loop was full: see
        /// [`Everywhere::emit_to`](crate::Everywhere::emit_to).
        loop_full,
        /// The connection may be on another server, and the bus did not take the message: see
        /// [`BusRefusal`](crate::BusRefusal).
        bus,
    }
}

by_cause! {
    /// WebSocket connections that ended, by cause: see [`Error`].
    Disconnects {
        /// Both sides sent a close frame. If the peer closed first, its code was 1000 or 1001, or
        /// it sent none.
        clean,
        /// The peer did not answer our close frame.
        unanswered,
        /// The peer closed with another code: [`Error::ClosedByPeer`].
        closed_by_peer,
        /// The connection ended without a close frame: [`Error::Lost`].
        lost,
        /// The socket failed, most often by a reset: [`Error::Io`].
        io,
        /// The TLS session failed, or ended without close_notify; 0 without the feature `tls`.
        tls,
        /// The peer broke the protocol or a limit: [`Error::Protocol`].
        protocol,
        /// Too many bytes waited: [`Error::SlowConsumer`].
        slow_consumer,
        /// The peer took nothing for too long: [`Error::Stalled`].
        stalled,
        /// The peer gave no sign of life for too long: [`Error::Silent`].
        silent,
        /// A listener panicked: [`Error::Panicked`].
        panicked,
        /// Your code reset it: [`Socket::abort`](crate::Socket::abort).
        aborted,
    }
}

by_cause! {
    /// Requests that were refused, by cause: see [`Refusal`].
    RequestsRefused {
        /// 400: a request that RFC 9112 does not allow, or a list of extensions that RFC 6455 does
        /// not allow.
        malformed,
        /// 431: the head has too many bytes.
        head_too_large,
        /// 431: the head has too many headers.
        too_many_headers,
        /// 408: the head was not complete in time.
        timed_out,
        /// 404: no route or page has this path.
        not_found,
        /// 405: the path does not allow this method.
        method_not_allowed,
        /// 426: a plain request on a WebSocket route.
        upgrade_required,
        /// 426: another version of WebSocket.
        unsupported_version,
        /// 400: `Sec-WebSocket-Key` is missing or wrong.
        bad_key,
        /// 403: the origin of the web page is not allowed.
        origin_not_allowed,
        /// 503: [`Builder::max_connections`](crate::Builder::max_connections).
        full,
        /// 503: [`Sockets::refuse_upgrades`](crate::Sockets::refuse_upgrades), or a shutdown.
        refusing,
        /// 503: a filter deferred its answer, and the answer did not come, or not in time.
        undecided,
        /// A filter answered the upgrade, or panicked in it.
        filter,
    }
}

impl EmitsRefused {
    #[cold]
    pub(crate) fn count(&mut self, error: EmitError) {
        match error {
            EmitError::Closed => self.closed += 1,
            EmitError::Gone(_) => self.gone += 1,
            EmitError::TooLarge { .. } => self.too_large += 1,
            EmitError::Full => self.full += 1,
            EmitError::LoopFull(_) => self.loop_full += 1,
            EmitError::Bus(_) => self.bus += 1,
            EmitError::PingTooLong { .. } => {} // no message
        }
    }
}

impl Disconnects {
    pub(crate) fn count(&mut self, error: Option<&Error>, clean: bool) {
        *match error {
            None if clean => &mut self.clean,
            None => &mut self.unanswered,
            Some(Error::ClosedByPeer { .. }) => &mut self.closed_by_peer,
            Some(Error::Lost) => &mut self.lost,
            Some(Error::Io(_)) => &mut self.io,
            #[cfg(feature = "_tls")]
            Some(Error::Tls(_)) => &mut self.tls,
            Some(Error::Protocol(_)) => &mut self.protocol,
            Some(Error::SlowConsumer { .. }) => &mut self.slow_consumer,
            Some(Error::Stalled(_)) => &mut self.stalled,
            Some(Error::Silent(_)) => &mut self.silent,
            Some(Error::Panicked { .. }) => &mut self.panicked,
            // Verbs fail with these errors; no connection ends by them.
            Some(Error::Gone(_) | Error::FireRefused { .. }) => return,
        } += 1;
    }
}

impl RequestsRefused {
    pub(crate) fn count(&mut self, refusal: &Refusal) {
        *match refusal {
            Refusal::Malformed(_) | Refusal::BadExtensions => &mut self.malformed,
            Refusal::HeadTooLarge => &mut self.head_too_large,
            Refusal::TooManyHeaders => &mut self.too_many_headers,
            Refusal::TimedOut => &mut self.timed_out,
            Refusal::NotFound => &mut self.not_found,
            Refusal::MethodNotAllowed { .. } => &mut self.method_not_allowed,
            Refusal::UpgradeRequired => &mut self.upgrade_required,
            Refusal::UnsupportedVersion => &mut self.unsupported_version,
            Refusal::BadKey => &mut self.bad_key,
            Refusal::OriginNotAllowed => &mut self.origin_not_allowed,
            Refusal::Full { .. } => &mut self.full,
            Refusal::Refusing { .. } => &mut self.refusing,
            Refusal::Undecided { .. } => &mut self.undecided,
        } += 1;
    }
}

/// A histogram of the durations of the loop's turns, without the waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnDurations {
    /// The number of turns that took at most [`bound(i)`](Self::bound) and more than the previous
    /// bound.
    pub buckets: [u64; Self::BUCKETS],
    /// The sum of all durations.
    pub sum: Duration,
}

impl TurnDurations {
    /// Up to 1 µs, 2 µs, 4 µs and so on to 2²⁰ µs, and longer.
    const BUCKETS: usize = 22;

    /// The longest duration that bucket `i` counts: 2ⁱ µs. The last one has no bound.
    #[must_use]
    pub fn bound(i: usize) -> Option<Duration> {
        (i + 1 < Self::BUCKETS).then(|| Duration::from_micros(1 << i))
    }

    fn count(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = micros
            .max(1)
            .checked_next_power_of_two()
            .map_or(usize::MAX, |bound| bound.ilog2() as usize);
        self.buckets[bucket.min(Self::BUCKETS - 1)] += 1;
        self.sum += took;
    }
}

/// Measures the durations of turns without their waits.
pub(crate) struct Stopwatch {
    since: Instant,
    spent: Duration,
}

impl Stopwatch {
    #[cold]
    pub(crate) fn start() -> Self {
        Self { since: Instant::now(), spent: Duration::ZERO }
    }

    #[cold]
    pub(crate) fn pause(&mut self) {
        self.spent += self.since.elapsed();
    }

    #[cold]
    pub(crate) fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// Counts the turn.
    #[cold]
    pub(crate) fn stop(mut self, stats: &mut Stats) {
        self.pause();
        stats.turn_durations.get_or_insert_default().count(self.spent);
    }
}

impl Stats {
    /// The figures as a page in Prometheus' text format 0.0.4. Every name begins with `ikisocket_`,
    /// sizes are in bytes, times in seconds.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        page(vec![(None, self)])
    }

    /// The figures of several loops as one such page, in which each value has the label `loop`. See
    /// [`Everywhere::stats`](crate::Everywhere::stats).
    #[must_use]
    pub fn loops_to_prometheus(loops: &[(usize, Self)]) -> String {
        page(loops.iter().map(|(index, stats)| (Some(*index), stats)).collect())
    }
}

/// A page in Prometheus' text format, of one loop or of several.
fn page(loops: Vec<(Option<usize>, &Stats)>) -> String {
    let mut text = Text { page: String::with_capacity(8 * 1024 * loops.len()), loops };
    text.head("connections", "gauge", "Connections by the part of their life that they are in.");
    text.lines("connections", |stats| {
        [
            ("open", stats.open),
            ("handshaking", stats.handshaking),
            ("closing", stats.closing),
            ("draining", stats.draining),
        ]
        .map(|(state, connections)| (Some(("state", state)), connections))
    });
    text.one(
        "connections_blocked",
        "gauge",
        "Connections whose socket takes nothing for now.",
        |stats| stats.blocked,
    );
    text.one("waiting_bytes", "gauge", "Bytes that wait for sockets.", |stats| stats.bytes_waiting);
    text.one("most_waiting_bytes", "gauge", "Bytes that wait for the slowest reader.", |stats| {
        stats.most_waiting
    });
    text.one("topics", "gauge", "Topics with members.", |stats| stats.topics);
    text.one("topic_memberships", "gauge", "Memberships in topics.", |stats| stats.memberships);

    text.one("connections_accepted_total", "counter", "Peers that connected.", |stats| {
        stats.accepted
    });
    text.one(
        "connections_upgraded_total",
        "counter",
        "Connections that were upgraded to WebSocket.",
        |stats| stats.upgraded,
    );
    text.one("pages_total", "counter", "Requests for pages that were answered.", |stats| {
        stats.pages
    });
    text.causes("requests_refused_total", "Requests that were refused.", |stats| {
        stats.requests_refused.iter()
    });
    text.causes("disconnects_total", "WebSocket connections that ended.", |stats| {
        stats.disconnects.iter()
    });
    text.one(
        "connections_closed_total",
        "counter",
        "Connections of every kind that have ended.",
        |stats| stats.closed,
    );
    text.one(
        "connections_cut_short_total",
        "counter",
        "Connections whose time to end was over.",
        |stats| stats.cut_short,
    );

    text.one("messages_received_total", "counter", "Messages that came in.", |stats| {
        stats.messages_in
    });
    text.one(
        "messages_sent_total",
        "counter",
        "Messages that were queued for a connection.",
        |stats| stats.messages_out,
    );
    text.one("received_bytes_total", "counter", "Bytes that were read from sockets.", |stats| {
        stats.bytes_in
    });
    text.one("sent_bytes_total", "counter", "Bytes that were written to sockets.", |stats| {
        stats.bytes_out
    });
    text.one(
        "dropped_bytes_total",
        "counter",
        "Bytes whose connection ended before them.",
        |stats| stats.bytes_dropped,
    );
    text.causes("emits_refused_total", "Messages that were not queued.", |stats| {
        stats.emits_refused.iter()
    });
    text.causes("messages_dropped_total", "Messages that slow readers were not sent.", |stats| {
        stats.dropped.iter()
    });

    #[cfg(feature = "_tls")]
    {
        text.head("tls_handshakes_total", "counter", "TLS handshakes that were completed.");
        text.lines("tls_handshakes_total", |stats| {
            [("1.2", stats.tls.tls12), ("1.3", stats.tls.tls13)]
                .map(|(version, handshakes)| (Some(("version", version)), handshakes))
        });
        text.one(
            "tls_resumed_total",
            "counter",
            "TLS handshakes that resumed an earlier session.",
            |stats| stats.tls.resumed,
        );
        text.causes("tls_failures_total", "TLS sessions that failed.", |stats| {
            stats.tls.failures.iter()
        });
    }

    text.one("loops_queued_total", "counter", "Messages queued for other loops.", |stats| {
        stats.loops.queued
    });
    text.one("loops_received_total", "counter", "Messages of other loops.", |stats| {
        stats.loops.received
    });
    text.one("loops_refused_total", "counter", "Messages for which a queue was full.", |stats| {
        stats.loops.refused
    });
    text.one("loops_lost_total", "counter", "Messages for this loop that were refused.", |stats| {
        stats.loops.lost
    });
    text.one("loops_sockets_total", "counter", "Sockets given to other loops.", |stats| {
        stats.loops.handed_over
    });
    text.one("loops_long_turns_total", "counter", "Turns of more than 5 s.", |stats| {
        stats.loops.long_turns
    });

    #[cfg(feature = "redis")]
    if text.loops.iter().any(|(_, stats)| stats.bus.is_some()) {
        text.bus();
    }

    text.one("panics_total", "counter", "Panics in callbacks and destructors.", |stats| {
        stats.panics
    });
    text.one("turns_total", "counter", "Turns of the loop.", |stats| stats.turns);
    let loops = text.loops.clone();
    if loops.iter().any(|(_, stats)| stats.turn_durations.is_some()) {
        text.head(
            "turn_duration_seconds",
            "histogram",
            "How long turns of the loop took, without the wait.",
        );
    }
    for (index, stats) in loops {
        let Some(durations) = &stats.turn_durations else { continue };
        let mut turns = 0;
        for (i, count) in durations.buckets.iter().enumerate() {
            turns += count;
            let bound = TurnDurations::bound(i)
                .map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            text.line("turn_duration_seconds_bucket", index, Some(("le", &bound)), turns);
        }
        let sum = durations.sum.as_secs_f64();
        text.line("turn_duration_seconds_sum", index, None, sum);
        text.line("turn_duration_seconds_count", index, None, turns);
    }
    text.page
}

/// Prometheus' text format: two lines on each metric, and one line for each of its values.
struct Text<'s> {
    page: String,
    /// The loops and their figures. The only loop has no number.
    loops: Vec<(Option<usize>, &'s Stats)>,
}

impl Text<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!(
            "# HELP ikisocket_{name} {help}\n# TYPE ikisocket_{name} {kind}\n"
        ));
    }

    fn line(
        &mut self,
        name: &str,
        index: Option<usize>,
        label: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.write(format_args!("ikisocket_{name}"));
        match (index, label) {
            (None, None) => {}
            (Some(index), None) => self.write(format_args!("{{loop=\"{index}\"}}")),
            (None, Some((label, of))) => self.write(format_args!("{{{label}=\"{of}\"}}")),
            (Some(index), Some((label, of))) => {
                self.write(format_args!("{{loop=\"{index}\",{label}=\"{of}\"}}"));
            }
        }
        self.write(format_args!(" {value}\n"));
    }

    /// The lines of one metric: those of one loop after the other.
    fn lines<'l, I, V>(&mut self, name: &str, values: impl Fn(&Stats) -> I)
    where
        I: IntoIterator<Item = (Option<(&'l str, &'l str)>, V)>,
        V: Display,
    {
        for (index, stats) in self.loops.clone() {
            for (label, value) in values(stats) {
                self.line(name, index, label, value);
            }
        }
    }

    fn one<V: Display>(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Stats) -> V) {
        self.head(name, kind, help);
        self.lines(name, |stats| [(None, value(stats))]);
    }

    #[cfg(feature = "redis")]
    fn bus(&mut self) {
        let mut one = |name: &str, kind: &str, help: &str, value: fn(&BusStats) -> u64| {
            let name = format!("bus_{name}");
            self.one(&name, kind, help, |stats| stats.bus.as_ref().map_or(0, value));
        };
        one("up", "gauge", "Whether the bus is up: 1 or 0.", |bus| bus.is_up.into());
        one("nodes", "gauge", "Other servers of the bus that live.", |bus| bus.nodes as u64);
        one("subscriptions", "gauge", "Subscriptions that Redis has confirmed.", |bus| {
            bus.subscriptions
        });
        one("queue_bytes", "gauge", "Bytes that wait for Redis.", |bus| bus.queue_bytes as u64);
        one("published_total", "counter", "Messages queued for other servers.", |bus| {
            bus.published
        });
        one("refused_total", "counter", "Messages that the bus did not take.", |bus| bus.refused);
        one(
            "unconfirmed_total",
            "counter",
            "Messages whose fate is not known because the bus went down.",
            |bus| bus.unconfirmed,
        );
        one("received_total", "counter", "Messages of other servers.", |bus| bus.received);
        one("gaps_total", "counter", "Gaps between messages of other servers.", |bus| bus.gaps);
        one("lost_total", "counter", "Messages that are missing in gaps.", |bus| bus.lost);
        one("duplicates_total", "counter", "Messages that came twice or too late.", |bus| {
            bus.duplicates
        });
        one("unreadable_total", "counter", "Messages that are not readable.", |bus| bus.unreadable);
        one("downs_total", "counter", "How often the bus went down.", |bus| bus.downs);
        one("nodes_gone_total", "counter", "Servers that have vanished.", |bus| bus.nodes_gone);
        self.head("bus_round_trip_seconds", "gauge", "The time that Redis took for a PING.");
        self.lines("bus_round_trip_seconds", |stats| {
            let trip = stats.bus.as_ref().and_then(|bus| bus.round_trip);
            trip.map(|trip| (None, trip.as_secs_f64()))
        });
    }

    fn causes<I: Iterator<Item = (&'static str, u64)>>(
        &mut self,
        name: &str,
        help: &str,
        causes: impl Fn(&Stats) -> I,
    ) {
        self.head(name, "counter", help);
        self.lines(name, |stats| {
            causes(stats).map(|(cause, count)| (Some(("cause", cause)), count))
        });
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        let _ = self.page.write_fmt(what); // Writing to a string does not fail.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_where_its_bound_is_the_first_that_is_not_shorter() {
        let rows =
            [(0, 0), (1, 0), (1_000, 0), (1_001, 1), (2_000, 1), (2_001, 2), (1_000_000, 10)];
        for (nanos, bucket) in rows {
            let mut durations = TurnDurations::default();
            durations.count(Duration::from_nanos(nanos));
            assert_eq!(
                durations.buckets.iter().position(|&count| count == 1),
                Some(bucket),
                "{nanos} ns"
            );
            assert_eq!(durations.sum, Duration::from_nanos(nanos));
        }
        for (took, bucket) in [
            (Duration::from_micros(1 << 20), 20),
            (Duration::from_micros((1 << 20) + 1), 21),
            (Duration::MAX, 21),
        ] {
            let mut durations = TurnDurations::default();
            durations.count(took);
            assert_eq!(durations.buckets[bucket], 1, "{took:?}");
        }
        assert_eq!(TurnDurations::bound(20), Some(Duration::from_micros(1 << 20)));
        assert_eq!(TurnDurations::bound(21), None);
    }

    #[test]
    fn a_page_of_several_loops_has_the_lines_of_each_below_one_head() {
        let loops = [3, 4].map(|open| Stats { open, ..Stats::default() });
        let [first, second] = loops;
        let text = Stats::loops_to_prometheus(&[(0, first), (7, second)]);
        assert!(text.contains("ikisocket_connections{loop=\"0\",state=\"open\"} 3\n"), "{text}");
        assert!(text.contains("ikisocket_connections{loop=\"7\",state=\"open\"} 4\n"), "{text}");
        assert!(text.contains("ikisocket_turns_total{loop=\"7\"} 0\n"), "{text}");
        assert_eq!(text.matches("# TYPE ikisocket_turns_total counter\n").count(), 1);
    }

    #[test]
    fn every_metric_has_help_type_and_value_and_buckets_are_cumulative() {
        let mut stats = Stats { open: 3, messages_in: 5, ..Stats::default() };
        stats.disconnects.lost = 2;
        let mut durations = TurnDurations::default();
        for micros in [1, 2, 2, 5_000_000] {
            durations.count(Duration::from_micros(micros));
        }
        stats.turn_durations = Some(durations);
        let text = stats.to_prometheus();
        for lines in [
            "# HELP ikisocket_connections Connections by the part of their life that they are in.\n\
             # TYPE ikisocket_connections gauge\nikisocket_connections{state=\"open\"} 3\n",
            "# TYPE ikisocket_messages_received_total counter\nikisocket_messages_received_total 5\n",
            "\nikisocket_disconnects_total{cause=\"lost\"} 2\n",
            "# TYPE ikisocket_turn_duration_seconds histogram\nikisocket_turn_duration_seconds_bucket{le=\"0.000001\"} 1\n\
             ikisocket_turn_duration_seconds_bucket{le=\"0.000002\"} 3\n",
            "{le=\"1.048576\"} 3\nikisocket_turn_duration_seconds_bucket{le=\"+Inf\"} 4\n\
             ikisocket_turn_duration_seconds_sum 5.000005\nikisocket_turn_duration_seconds_count 4\n",
        ] {
            assert!(text.contains(lines), "{lines}\nis not in\n{text}");
        }
        let mut typed = None;
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", _, _, ..] => {}
                ["#", "TYPE", name, kind] => typed = Some((name, kind)),
                [sample, value] => {
                    let (name, kind) = typed.expect("the type stands first");
                    assert!(sample.starts_with(name) && value.parse::<f64>().is_ok(), "{line}");
                    assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                }
                _ => panic!("{line}"),
            }
        }
    }
}
