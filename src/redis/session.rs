//! One connection to Redis as a state machine: greeting, subscriptions, signs of life, attempts to
//! connect again. Bytes and times go in, bytes and events come out.
//!
//! It knows no socket and no clock: every time is an argument, in milliseconds of any clock that
//! does not go back. It knows no topic, and nothing of what a message says.
//!
//! ```text
//!            should_connect           connected            greeted           all confirmed
//!   Offline ───────────────► Connecting ──────► Greeting ──────► Subscribing ──────► Up
//!      ▲                         │                 │                  │              │
//!      └─────────────────────────┴───── a failure, with its name ─────┴──────────────┘
//! ```

use std::fmt;
use std::io::ErrorKind;

use super::address::Address;
use super::answers::{Answers, Expected};
use super::failure::BusFailure;
use super::life::Life;
use super::outbox::Outbox;
use super::resp::{
    ChannelMessage, Elements, Missing, Reply, ReplyLimits, Scan, Scanner, Value, command_len,
    encode_command,
};
use super::subscriptions::{Ask, Confirmed, Subscriptions};

/// A connection that is not made within this time has failed, in milliseconds.
const CONNECT_TIME: u64 = 5000;
/// The shortest and the longest time until the next attempt, in milliseconds.
const LEAST_DELAY: u64 = 50;
const MOST_DELAY: u64 = 5000;
/// Redis has cut the connection for slowness if this many bytes were read in a row before its end:
/// more than a socket holds while its reader keeps up.
const BEHIND: usize = 128 * 1024;

/// What a session needs to know beside the address.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// The name of the connection in `CLIENT LIST` of Redis, without spaces. Default `ikisocket`.
    pub name: Box<str>,
    /// The channel of this connection alone. It is always subscribed, and the probes go there. Its
    /// messages must not begin with a zero byte.
    pub own_channel: Box<[u8]>,
    /// The most bytes of messages that may wait to be written. Default 16 MiB.
    pub outbox_limit: usize,
    /// How large a reply may be.
    pub reply_limits: ReplyLimits,
    /// A connection that was up for this long, in milliseconds, was no failed attempt: the next
    /// attempt comes at once. Default 10 000.
    pub stable_after: u64,
}

impl SessionOptions {
    /// The defaults, with this channel of its own.
    #[must_use]
    pub fn new(own_channel: &[u8]) -> Self {
        Self {
            name: "ikisocket".into(),
            own_channel: own_channel.into(),
            outbox_limit: 16 * 1024 * 1024,
            reply_limits: ReplyLimits::default(),
            stable_after: 10_000,
        }
    }
}

/// What happened on a connection to Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent<'e> {
    /// The connection is made, and all that is wanted is subscribed.
    #[non_exhaustive]
    Up {
        /// The time since the last `Down`, or since the session began, in milliseconds.
        was_down_for: u64,
    },
    /// The connection has ended, or the first attempt has failed. Close the socket. What other
    /// servers publish in a channel from now on does not come here until that is confirmed again,
    /// which may be before `Up`, nor does an unknown part of what they have published before.
    #[non_exhaustive]
    Down {
        /// Why.
        failure: BusFailure,
        /// The number of messages that Redis has not confirmed. Each may have reached other
        /// servers, or not.
        unconfirmed: u64,
    },
    /// Another attempt to connect has failed. Close the socket.
    #[non_exhaustive]
    Failed {
        /// Why.
        failure: BusFailure,
        /// The time until the next attempt, in milliseconds.
        retry_in: u64,
    },
    /// A message of a channel. It may be a channel that is not wanted any more.
    Message {
        /// The channel.
        channel: &'e [u8],
        /// The message.
        payload: &'e [u8],
    },
    /// Redis has ended a subscription by itself. It is asked for again. What was published
    /// meanwhile is lost.
    Unsubscribed {
        /// The channel.
        channel: &'e [u8],
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotTaken {
    /// There is no connection.
    Down,
    /// There is no room among what waits to be written.
    Full,
    /// It is longer than everything that may wait.
    TooLarge,
}

/// One connection to Redis. The caller has the socket and the clock:
///
/// 1. When [`should_connect`](Self::should_connect), it begins to connect and calls
///    [`connecting`](Self::connecting), then [`connected`](Self::connected), or
///    [`disconnected`](Self::disconnected).
/// 2. What it reads goes to [`receive`](Self::receive) until that returns `None`, and
///    [`drained`](Self::drained) says that there was nothing more to read.
/// 3. After each turn it writes [`unsent`](Self::unsent), and says by [`wrote`](Self::wrote) how
///    much of it the socket took.
/// 4. At [`next_deadline`](Self::next_deadline) it calls [`expire`](Self::expire), after it has
///    read: what has come counts as a sign of life.
///
/// After [`Down`](SessionEvent::Down) and [`Failed`](SessionEvent::Failed) it closes the socket.
pub struct Session {
    address: Address,
    options: SessionOptions,
    phase: Phase,
    subscriptions: Subscriptions,
    outbox: Outbox,
    /// The beginning of a reply whose end has not come, and how much of it was handled.
    inbox: Vec<u8>,
    is_handled: bool,
    scanner: Scanner,
    answers: Answers,
    life: Life,
    /// The bytes that came since there was last nothing more to read.
    behind: usize,
    /// Attempts since the last connection that was stable.
    attempts: u32,
    down_since: u64,
    /// Whether `Down` was ever reported: each later one ends an `Up`.
    is_reported: bool,
    last_failure: Option<BusFailure>,
    random: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline { retry_at: u64 },
    Connecting { since: u64 },
    Greeting { since: u64 },
    Subscribing,
    Up { since: u64 },
}

/// What a reply has led to; what it borrows is looked up again.
enum Outcome {
    Nothing,
    Message,
    Unsubscribed,
    Up,
    Failed(BusFailure),
}

impl Session {
    /// A session that may connect at once. `seed` is any number, another one for each server: it
    /// spreads their attempts.
    #[must_use]
    pub fn new(address: Address, options: SessionOptions, seed: u64, now: u64) -> Self {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(&options.own_channel);
        Self {
            address,
            options,
            phase: Phase::Offline { retry_at: now },
            subscriptions,
            outbox: Outbox::default(),
            inbox: Vec::new(),
            is_handled: false,
            scanner: Scanner::default(),
            answers: Answers::default(),
            life: Life::default(),
            behind: 0,
            attempts: 0,
            down_since: now,
            is_reported: false,
            last_failure: None,
            // xorshift needs a number other than zero.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// A session that was just made begins at this time.
    #[cfg(feature = "testing")]
    pub(crate) fn begin_at(&mut self, now: u64) {
        self.phase = Phase::Offline { retry_at: now };
        self.down_since = now;
    }

    // Connecting.

    /// The address of the Redis.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it is time to connect.
    #[must_use]
    pub fn should_connect(&self, now: u64) -> bool {
        matches!(self.phase, Phase::Offline { retry_at } if retry_at <= now)
    }

    /// The caller begins to connect, with the resolution of the name.
    pub fn connecting(&mut self, now: u64) {
        if let Phase::Offline { .. } = self.phase {
            self.phase = Phase::Connecting { since: now };
        }
    }

    /// Whether the caller is connecting.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// The connection is made.
    pub fn connected(&mut self, now: u64) {
        let Phase::Connecting { .. } = self.phase else { return };
        self.phase = Phase::Greeting { since: now };
        self.life.begin(now);
        let out = self.outbox.end();
        let name: &[&[u8]] = &[self.options.name.as_bytes()];
        match self.address.login() {
            None => encode_command(&[&[b"HELLO"], &[b"3"], &[b"SETNAME"], name], out),
            Some((user, password)) => {
                let (user, password) = (user.as_bytes(), password.as_bytes());
                let auth: [&[&[u8]]; 7] =
                    [&[b"HELLO"], &[b"3"], &[b"AUTH"], &[user], &[password], &[b"SETNAME"], name];
                encode_command(&auth, out);
            }
        }
        self.answers.expect(Expected::Hello);
        if self.address.database() != 0 {
            let database = self.address.database().to_string();
            encode_command(&[&[b"SELECT"], &[database.as_bytes()]], out);
            self.answers.expect(Expected::Select);
        }
        // While Redis loads its data, it answers HELLO as usual, and PING with an error.
        encode_command(&[&[b"PING"]], out);
        self.answers.expect(Expected::Ping);
    }

    /// The connection could not be made, or has ended: with an error, or because Redis has closed
    /// it.
    pub fn disconnected(
        &mut self,
        now: u64,
        error: Option<ErrorKind>,
    ) -> Option<SessionEvent<'static>> {
        let failure = match (self.phase, error) {
            (Phase::Offline { .. }, _) => return None,
            (Phase::Connecting { .. }, Some(kind)) => BusFailure::Unreachable(kind),
            _ if self.behind >= BEHIND => BusFailure::CutForSlowness { behind: self.behind },
            (_, Some(kind)) => BusFailure::Broken(kind),
            (_, None) => BusFailure::Closed,
        };
        Some(self.fail(now, failure))
    }

    /// The name of the host could not be resolved.
    pub fn not_resolved(&mut self, now: u64) -> Option<SessionEvent<'static>> {
        let is_connecting = matches!(self.phase, Phase::Connecting { .. });
        is_connecting.then(|| self.fail(now, BusFailure::NotResolved))
    }

    /// Ends the connection with this failure.
    fn fail(&mut self, now: u64, failure: BusFailure) -> SessionEvent<'static> {
        let was_up = matches!(self.phase, Phase::Up { .. });
        if let Phase::Up { since } = self.phase {
            self.down_since = now;
            if now.saturating_sub(since) >= self.options.stable_after {
                self.attempts = 0;
            }
        }
        let retry_in = self.delay();
        self.attempts += 1;
        self.phase = Phase::Offline { retry_at: now + retry_in };
        self.subscriptions.close();
        self.outbox.clear();
        self.inbox = Vec::new();
        self.is_handled = false;
        self.scanner = Scanner::default();
        self.behind = 0;
        self.last_failure = Some(failure.clone());
        let unconfirmed = std::mem::take(&mut self.answers).unconfirmed();
        if was_up || !self.is_reported {
            self.is_reported = true;
            SessionEvent::Down { failure, unconfirmed }
        } else {
            SessionEvent::Failed { failure, retry_in }
        }
    }

    /// The time until the next attempt: it doubles, and a random half of it is taken off, so that
    /// servers that were cut off together do not come back together.
    fn delay(&mut self) -> u64 {
        let longest = ((2 * LEAST_DELAY) << self.attempts.min(16)).min(MOST_DELAY);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        longest - random % (longest / 2 + 1)
    }

    // Channels and messages.

    /// Subscribes to a channel, now and after each `Up`, until [`unwant`](Self::unwant).
    pub fn want(&mut self, channel: &[u8]) {
        self.subscriptions.want(channel);
    }

    /// A channel is not wanted any more. Its subscription ends two seconds later, unless it is
    /// wanted again by then. Its messages may come until then.
    pub fn unwant(&mut self, channel: &[u8], now: u64) {
        if *channel != *self.options.own_channel {
            self.subscriptions.unwant(channel, now);
        }
    }

    /// Queues a message for a channel. Name and message are the concatenations of their parts.
    ///
    /// # Errors
    ///
    /// [`NotTaken`]: then nothing of it is sent. What was taken is never dropped, except by
    /// [`Down`](SessionEvent::Down).
    pub fn publish(&mut self, channel: &[&[u8]], message: &[&[u8]]) -> Result<(), NotTaken> {
        self.publish_expecting(Expected::Publish, channel, message)
    }

    /// Queues a message like [`publish`](Self::publish) whose loss does no harm: it does not count
    /// as unconfirmed.
    ///
    /// # Errors
    ///
    /// The same as those of [`publish`](Self::publish).
    pub fn tell(&mut self, channel: &[&[u8]], message: &[&[u8]]) -> Result<(), NotTaken> {
        self.publish_expecting(Expected::Probe, channel, message)
    }

    fn publish_expecting(
        &mut self,
        answer: Expected,
        channel: &[&[u8]],
        message: &[&[u8]],
    ) -> Result<(), NotTaken> {
        if !self.is_up() {
            return Err(NotTaken::Down);
        }
        let command: [&[&[u8]]; 3] = [&[b"PUBLISH"], channel, message];
        let (len, limit) = (command_len(&command), self.options.outbox_limit);
        if len > limit {
            return Err(NotTaken::TooLarge);
        }
        if self.outbox.len() + len > limit {
            return Err(NotTaken::Full);
        }
        encode_command(&command, self.outbox.end());
        self.answers.expect(answer);
        Ok(())
    }

    // Writing.

    /// The bytes to be written next. Commands of the session itself are among them, whatever waits:
    /// they have at most about 1 MiB.
    pub fn unsent(&mut self) -> &[u8] {
        if matches!(self.phase, Phase::Subscribing | Phase::Up { .. }) {
            self.subscriptions.encode(self.outbox.end());
        }
        self.outbox.unsent()
    }

    /// The socket has taken this many bytes of [`unsent`](Self::unsent).
    pub fn wrote(&mut self, len: usize) {
        self.outbox.wrote(len);
    }

    // Reading.

    /// Handles what was read, up to the next event. `input` is advanced. Call it until it returns
    /// `None`; then all of `input` is consumed.
    pub fn receive<'e, 'i: 'e>(
        &'e mut self,
        now: u64,
        input: &mut &'i [u8],
    ) -> Option<SessionEvent<'e>> {
        if !input.is_empty() {
            self.life.hears(now);
        }
        loop {
            if matches!(self.phase, Phase::Offline { .. } | Phase::Connecting { .. }) {
                *input = &[];
                return None;
            }
            if std::mem::take(&mut self.is_handled) {
                self.inbox.clear();
                self.inbox.shrink_to(Outbox::KEEP);
            }
            let limits = self.options.reply_limits;
            if self.inbox.is_empty()
                && let Some(message) = ChannelMessage::of(input, &limits)
            {
                let ChannelMessage { channel, payload, len } = message;
                self.take(input, len);
                if self.life.is_probe(&self.options.own_channel, channel, payload) {
                    continue;
                }
                return Some(SessionEvent::Message { channel, payload });
            }
            let is_held = !self.inbox.is_empty();
            let bytes = if is_held { &self.inbox[..] } else { *input };
            let outcome = match self.scanner.scan(bytes, &limits) {
                Ok(Scan::Complete(len)) if is_held => {
                    debug_assert_eq!(len, self.inbox.len(), "no byte behind a reply is held");
                    self.is_handled = true;
                    let held = std::mem::take(&mut self.inbox);
                    let outcome = self.handle(now, Reply::of(&held).value);
                    self.inbox = held;
                    outcome
                }
                Ok(Scan::Complete(len)) => {
                    let reply = self.take(input, len);
                    let outcome = self.handle(now, Reply::of(reply).value);
                    match (outcome, Reply::of(reply).value) {
                        (Outcome::Message, value) => return message_of(value),
                        (Outcome::Unsubscribed, value) => return unsubscribed_of(value),
                        (outcome, _) => outcome,
                    }
                }
                Ok(Scan::Partial(_)) if input.is_empty() => return None,
                Ok(Scan::Partial(missing)) => {
                    let len = wanted(missing, input, is_held);
                    let more = self.take(input, len);
                    self.inbox.extend_from_slice(more);
                    continue;
                }
                Err(error) => Outcome::Failed(error.into()),
            };
            match outcome {
                Outcome::Nothing => {}
                Outcome::Message => return message_of(Reply::of(&self.inbox).value),
                Outcome::Unsubscribed => return unsubscribed_of(Reply::of(&self.inbox).value),
                Outcome::Up => {
                    self.phase = Phase::Up { since: now };
                    let was_down_for = now.saturating_sub(self.down_since);
                    return Some(SessionEvent::Up { was_down_for });
                }
                Outcome::Failed(failure) => {
                    *input = &[];
                    return Some(self.fail(now, failure));
                }
            }
        }
    }

    /// The socket has nothing more to read.
    pub fn drained(&mut self) {
        self.behind = 0;
    }

    /// Takes bytes from the front of the input.
    fn take<'i>(&mut self, input: &mut &'i [u8], len: usize) -> &'i [u8] {
        let (taken, rest) = input.split_at(len);
        *input = rest;
        self.behind += len;
        taken
    }

    fn handle(&mut self, now: u64, value: Value<'_>) -> Outcome {
        match value {
            Value::Push(elements) => self.handle_push(elements),
            Value::Error(text) | Value::BulkError(text) => {
                let answers_hello = self.answers.next() == Some(Expected::Hello);
                Outcome::Failed(BusFailure::of_reply(text, answers_hello))
            }
            value => {
                let Some(expected) = self.answers.take() else {
                    return Outcome::Failed(BusFailure::Unexpected("nothing"));
                };
                self.handle_answer(now, expected, value).unwrap_or_else(Outcome::Failed)
            }
        }
    }

    fn handle_push(&mut self, mut elements: Elements<'_>) -> Outcome {
        let unexpected = Outcome::Failed(BusFailure::Unexpected("a subscription"));
        let mut next = || elements.next().map(|reply| reply.value);
        let Some(Value::Bulk(kind) | Value::Simple(kind)) = next() else { return unexpected };
        let ask = match kind {
            b"subscribe" => Ask::Subscribe,
            b"unsubscribe" => Ask::Unsubscribe,
            b"message" => {
                let (Some(Value::Bulk(channel)), Some(Value::Bulk(payload)), None) =
                    (next(), next(), next())
                else {
                    return unexpected;
                };
                let own_channel = &self.options.own_channel;
                let is_probe = self.life.is_probe(own_channel, channel, payload);
                return if is_probe { Outcome::Nothing } else { Outcome::Message };
            }
            // Redis may have pushes that were not asked for: a client has to ignore them.
            _ => return Outcome::Nothing,
        };
        let (Some(Value::Bulk(channel)), Some(Value::Integer(count)), None) =
            (next(), next(), next())
        else {
            return unexpected;
        };
        match self.subscriptions.confirm(ask, channel, count.try_into().unwrap_or(u64::MAX)) {
            Err(failure) => Outcome::Failed(failure),
            Ok(Confirmed::Ended) => Outcome::Unsubscribed,
            Ok(Confirmed::Asked) => {
                let is_up = self.phase == Phase::Subscribing && self.subscriptions.is_settled();
                if is_up { Outcome::Up } else { Outcome::Nothing }
            }
        }
    }

    fn handle_answer(
        &mut self,
        now: u64,
        expected: Expected,
        value: Value<'_>,
    ) -> Result<Outcome, BusFailure> {
        match (expected, value) {
            (Expected::Hello | Expected::Role, Value::Map(elements)) => greet(elements)?,
            // A server that answers HELLO like this speaks RESP2.
            (Expected::Hello, Value::Array(_)) => return Err(BusFailure::OldServer),
            (Expected::Hello | Expected::Role, _) => return Err(BusFailure::Unexpected("HELLO")),
            (Expected::Select, Value::Simple(b"OK")) => {}
            (Expected::Select, _) => return Err(BusFailure::Unexpected("SELECT")),
            (Expected::Ping, Value::Simple(b"PONG")) => self.pong(now)?,
            (Expected::Ping, _) => return Err(BusFailure::Unexpected("PING")),
            (Expected::Probe, Value::Integer(_)) => {}
            (Expected::Publish, Value::Integer(_)) => self.answers.confirm(),
            (Expected::Probe | Expected::Publish, _) => {
                return Err(BusFailure::Unexpected("PUBLISH"));
            }
        }
        Ok(Outcome::Nothing)
    }

    /// A PING is answered.
    fn pong(&mut self, now: u64) -> Result<(), BusFailure> {
        if let Phase::Greeting { .. } = self.phase {
            self.phase = Phase::Subscribing;
            self.subscriptions.open(&self.options.own_channel);
            self.life.greeted(now);
            return Ok(());
        }
        self.life.answered(now, self.subscriptions.asked_and_confirmed().1)
    }

    // Time.

    /// When [`expire`](Self::expire) or [`should_connect`](Self::should_connect) has something to
    /// do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Offline { retry_at } => Some(retry_at),
            Phase::Connecting { since } => Some(since + CONNECT_TIME),
            Phase::Greeting { since } => Some(self.life.silence_ends(since).0),
            Phase::Subscribing | Phase::Up { .. } => {
                let next = self.life.next_deadline();
                Some(self.subscriptions.next_deadline().map_or(next, |other| next.min(other)))
            }
        }
    }

    /// Does what is due at this time. Call it after all that has come was read at least once, so
    /// that a loop that was busy does not take Redis for silent.
    pub fn expire(&mut self, now: u64) -> Option<SessionEvent<'static>> {
        let (ends, failure) = match self.phase {
            Phase::Offline { .. } => return None,
            Phase::Connecting { since } => {
                (since + CONNECT_TIME, BusFailure::ConnectTimeout { ms: CONNECT_TIME })
            }
            Phase::Greeting { since } => self.life.silence_ends(since),
            Phase::Subscribing | Phase::Up { .. } => {
                self.subscriptions.expire(now);
                match self.life.unanswered() {
                    Some(sent_at) => self.life.silence_ends(sent_at),
                    None => {
                        if self.life.next_deadline() <= now {
                            self.ping(now);
                        }
                        return None;
                    }
                }
            }
        };
        (ends <= now).then(|| self.fail(now, failure))
    }

    fn ping(&mut self, now: u64) {
        let out = self.outbox.end();
        // What was asked for before the PING is in front of it.
        self.subscriptions.encode(out);
        // The connection's own channel is subscribed before all others.
        let own_channel =
            (self.subscriptions.confirmed() > 0).then_some(&*self.options.own_channel);
        let (asked, _) = self.subscriptions.asked_and_confirmed();
        self.life.ping(now, asked, own_channel, out, &mut self.answers);
        // Behind the probe, which would come back by a new subscription too.
        self.subscriptions.ask_again(&self.options.own_channel, out);
    }

    // Figures.

    /// Whether messages can be published.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// Why the last connection or attempt has failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<&BusFailure> {
        self.last_failure.as_ref()
    }

    /// The bytes that wait to be written.
    #[must_use]
    pub fn unsent_len(&self) -> usize {
        self.outbox.len()
    }

    /// The number of messages that Redis has not confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.answers.unconfirmed()
    }

    /// The number of channels that Redis has confirmed, its own among them.
    #[must_use]
    pub fn subscribed(&self) -> u64 {
        self.subscriptions.confirmed()
    }

    /// The time between the last PING and its answer, in milliseconds.
    #[must_use]
    pub fn round_trip(&self) -> Option<u64> {
        self.life.round_trip()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: a greeting has the password.
        f.debug_struct("Session")
            .field("address", &self.address)
            .field("phase", &self.phase)
            .field("channels", &self.subscriptions.len())
            .field("unsent", &self.outbox.len())
            .field("unconfirmed", &self.unconfirmed())
            .finish_non_exhaustive()
    }
}

/// How much of the input belongs to the reply that lacks this.
fn wanted(missing: Missing, input: &[u8], is_held: bool) -> usize {
    match missing {
        // All of it was scanned.
        _ if !is_held => input.len(),
        Missing::Bytes(len) => len.min(input.len()),
        Missing::Line => {
            let end = input.iter().position(|&byte| byte == b'\n');
            end.map_or(input.len(), |end| end + 1)
        }
    }
}

fn message_of(value: Value<'_>) -> Option<SessionEvent<'_>> {
    let (channel, payload) = second_and_third(value)?;
    let Value::Bulk(payload) = payload else { return None };
    Some(SessionEvent::Message { channel, payload })
}

fn unsubscribed_of(value: Value<'_>) -> Option<SessionEvent<'_>> {
    let (channel, _) = second_and_third(value)?;
    Some(SessionEvent::Unsubscribed { channel })
}

fn second_and_third(value: Value<'_>) -> Option<(&[u8], Value<'_>)> {
    let Value::Push(mut elements) = value else { return None };
    let Value::Bulk(channel) = elements.nth(1)?.value else { return None };
    Some((channel, elements.next()?.value))
}

/// What HELLO says of the server.
fn greet(mut elements: Elements<'_>) -> Result<(), BusFailure> {
    let mut speaks_resp3 = false;
    while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
        let (Value::Bulk(key) | Value::Simple(key)) = key.value else { continue };
        match (key, value.value) {
            (b"proto", Value::Integer(3)) => speaks_resp3 = true,
            (b"mode", Value::Bulk(b"cluster") | Value::Simple(b"cluster")) => {
                return Err(BusFailure::Cluster);
            }
            (b"mode", Value::Bulk(b"sentinel") | Value::Simple(b"sentinel")) => {
                return Err(BusFailure::Sentinel);
            }
            (
                b"role",
                Value::Bulk(b"replica" | b"slave") | Value::Simple(b"replica" | b"slave"),
            ) => {
                return Err(BusFailure::Replica);
            }
            _ => {}
        }
    }
    if speaks_resp3 { Ok(()) } else { Err(BusFailure::OldServer) }
}
