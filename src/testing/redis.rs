//! A Redis in memory with a client for each server of a test, without I/O and without a clock.
//!
//! It does what the bus needs, with the replies of Redis 7.0: `HELLO 3`, `SELECT`, `PING`,
//! `SUBSCRIBE`, `UNSUBSCRIBE` and `PUBLISH`. All other commands are unknown to it. It speaks RESP3
//! from the first byte, and has one user without a password.
//!
//! ```text
//!   a server's end           the network            Redis
//!
//!   Wire ────────────────► up to the window ──────► received: whole commands are executed
//!        ◄──────────────── up to NETWORK    ◄────── out: replies and messages, up to a limit
//! ```

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::rc::Rc;

use crate::redis::{Reply, ReplyLimits, Scan, Scanner, Value};
use crate::transport::faults::{End, Faults};
use crate::transport::memory::{self, FarEnd, Readiness, Wire};

/// The most bytes between Redis and a server that does not read: what sockets hold.
const NETWORK: usize = 256 * 1024;
/// Redis reads this number of bytes from a client, then from the next one.
const READ_AT_ONCE: usize = 16 * 1024;
/// The hard limit of `client-output-buffer-limit pubsub`, as Redis has it by default.
const OUTPUT_LIMIT: usize = 32 * 1024 * 1024;
/// What Redis accepts of one command by default.
const COMMAND_LIMITS: ReplyLimits = ReplyLimits { bytes: 512 * 1024 * 1024, elements: 1024 * 1024 };
/// The number of databases that Redis has by default.
const DATABASES: i32 = 16;
/// Redis repeats this number of bytes of an unknown command, and of its arguments.
const REPEATED: usize = 128;

/// A Redis in memory, shared by the servers of a test. A server is a *node* here, with a number
/// that the test chooses.
#[derive(Clone)]
pub(crate) struct MemoryRedis(Rc<RefCell<Redis>>);

struct Redis {
    /// In the order in which they were made. A node may have several: Redis does not know yet that
    /// the node has given up the others.
    connections: Vec<Connection>,
    nodes: BTreeMap<usize, Node>,
    is_killed: bool,
    is_stalled: bool,
    output_limit: usize,
    next_id: u64,
    published: u64,
}

/// The faults of one node's connections, the later ones included.
#[derive(Default)]
struct Node {
    faults: Faults,
    is_stalled: bool,
    /// The bytes after which its connection is cut, by their direction.
    sent_until_cut: Option<usize>,
    received_until_cut: Option<usize>,
    answers: VecDeque<Answer>,
}

/// An answer that Redis gives instead of executing a command.
struct Answer {
    /// The name of the command; `None`: the next command, whatever it is.
    to: Option<Vec<u8>>,
    reply: Vec<u8>,
}

/// A connection, as the network sees it.
struct Connection {
    node: usize,
    far: FarEnd,
    /// A node sees no event before its connection is made.
    is_made: bool,
    /// What Redis has of it; `None` when it has ended there.
    client: Option<Client>,
    /// Whether it delivers nothing, as with a network that does not.
    is_stalled: bool,
    /// The end that the node will see when it delivers again.
    late_end: Option<End>,
}

/// A connection, as Redis sees it.
struct Client {
    id: u64,
    received: Vec<u8>,
    scanner: Scanner,
    out: Vec<u8>,
    channels: BTreeSet<Vec<u8>>,
}

impl MemoryRedis {
    /// A Redis that runs.
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Redis {
            connections: Vec::new(),
            nodes: BTreeMap::new(),
            is_killed: false,
            is_stalled: false,
            output_limit: OUTPUT_LIMIT,
            next_id: 1,
            published: 0,
        })))
    }

    fn redis(&self) -> RefMut<'_, Redis> {
        self.0.borrow_mut()
    }

    // For the servers.

    /// A new connection of a node: the node's end. The connection is made when
    /// [`take_readiness`](Self::take_readiness) says that it is writable, at once or when the
    /// node's network delivers again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ConnectionRefused`] while the Redis is killed, unless the node's network
    /// delivers no refusal either.
    pub(crate) fn dial(&self, node: usize) -> io::Result<Wire> {
        let mut redis = self.redis();
        let is_cut_off = redis.node(node).is_stalled;
        if redis.is_killed && !is_cut_off {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (wire, far) = memory::pair(redis.node(node).faults.clone());
        let client = (!redis.is_killed).then(|| redis.new_client());
        let late_end = client.is_none().then_some(End::Reset);
        redis.connections.push(Connection {
            node,
            far,
            is_made: !is_cut_off,
            client,
            is_stalled: is_cut_off,
            late_end,
        });
        Ok(wire)
    }

    /// Takes the events that the node's poll would report for its newest connection.
    pub(crate) fn take_readiness(&self, node: usize) -> Option<Readiness> {
        let redis = self.redis();
        redis.newest(node).and_then(|connection| connection.far.take_readiness())
    }

    /// Whether there are such events.
    pub(crate) fn has_readiness(&self, node: usize) -> bool {
        let redis = self.redis();
        redis.newest(node).is_some_and(|connection| connection.far.has_readiness())
    }

    /// Moves all bytes that can move, and executes commands. Returns whether anything has happened.
    pub(crate) fn serve(&self) -> bool {
        let mut redis = self.redis();
        let mut serves = false;
        while redis.serve_each_once() {
            serves = true;
        }
        serves
    }

    // Faults of the Redis.

    /// Ends it at once: all connections are reset. What has not left it is lost, and dials are
    /// refused.
    pub(crate) fn kill(&self) {
        let mut redis = self.redis();
        (redis.is_killed, redis.is_stalled) = (true, false);
        (0..redis.connections.len()).for_each(|at| redis.end(at, End::Reset));
    }

    /// Starts it, without subscriptions. One that runs is killed before.
    pub(crate) fn restart(&self) {
        self.kill();
        let mut redis = self.redis();
        (redis.is_killed, redis.next_id) = (false, 1);
    }

    /// Stops the process, or lets it go on: meanwhile nothing is read, executed or sent, and the
    /// connections stay.
    pub(crate) fn stall(&self, on: bool) {
        let mut redis = self.redis();
        redis.is_stalled = on && !redis.is_killed;
    }

    /// A client for which more than this number of bytes wait in Redis is cut off, as by
    /// `client-output-buffer-limit`. What the network holds, 256 KiB, does not count.
    pub(crate) fn output_limit(&self, bytes: usize) {
        self.redis().output_limit = bytes;
    }

    // Faults of one node.

    /// The faults of the node's connections from the next one on: short reads and writes, the
    /// window, interruptions.
    pub(crate) fn faults(&self, node: usize, faults: Faults) {
        self.redis().node(node).faults = faults;
    }

    /// Stops the node's network, or lets it go on. Meanwhile it delivers nothing in either
    /// direction, not even ends. What either side has sent is delivered later, unless the node has
    /// reset its connection.
    pub(crate) fn stall_client(&self, node: usize, on: bool) {
        self.redis().node(node).is_stalled = on;
        self.stall_connections(node, on);
    }

    /// The same for the connections that the node has now, or had when they were stopped. Later
    /// ones are not affected. So what was sent on one may come after what was sent on the next.
    pub(crate) fn stall_connections(&self, node: usize, on: bool) {
        let mut redis = self.redis();
        for connection in redis.connections.iter_mut().filter(|each| each.node == node) {
            connection.is_stalled = on;
            if !on {
                connection.go_on();
            }
        }
        redis.connections.retain(Connection::is_known);
    }

    /// The process of the node has ended: what it has written is sent, and nothing more.
    pub(crate) fn vanish(&self, node: usize) {
        let redis = self.redis();
        let of_node = redis.connections.iter().filter(|each| each.node == node);
        of_node.for_each(|each| each.far.end_server());
    }

    /// Redis closes the node's connection, as by `CLIENT KILL`.
    pub(crate) fn cut(&self, node: usize) {
        let mut redis = self.redis();
        for at in 0..redis.connections.len() {
            if redis.connections[at].node == node {
                // A socket with unread bytes ends with a reset (RFC 2525 §2.17).
                let is_read = redis.connections[at].far.unread_by_peer() == 0;
                redis.end(at, if is_read { End::Fin } else { End::Reset });
            }
        }
    }

    /// The node's connection is reset when it has got this number of bytes more, be it the present
    /// one or a later one.
    pub(crate) fn cut_after(&self, node: usize, sent: usize) {
        self.redis().node(node).sent_until_cut = Some(sent);
    }

    /// The node's connection is reset when Redis has received this number of bytes more from it.
    pub(crate) fn cut_after_received(&self, node: usize, received: usize) {
        self.redis().node(node).received_until_cut = Some(received);
    }

    /// Redis ends a subscription of the node that was not asked to end, and says so. Returns
    /// whether there was one.
    pub(crate) fn unsubscribe(&self, node: usize, channel: &[u8]) -> bool {
        let mut redis = self.redis();
        let Some(client) = redis.client(node) else { return false };
        let was_there = client.channels.contains(channel);
        if was_there {
            client.unsubscribe(channel);
        }
        was_there
    }

    /// The same without a word: the node takes the subscription for alive.
    pub(crate) fn forget_subscription(&self, node: usize, channel: &[u8]) -> bool {
        self.redis().client(node).is_some_and(|client| client.channels.remove(channel))
    }

    /// The same for all subscriptions of the node.
    pub(crate) fn forget_subscriptions(&self, node: usize) {
        if let Some(client) = self.redis().client(node) {
            client.channels.clear();
        }
    }

    /// The node's next command is not executed, and gets this reply. More calls are for the
    /// commands after it.
    pub(crate) fn answer_next(&self, node: usize, reply: &[u8]) {
        self.redis().node(node).answers.push_back(Answer { to: None, reply: reply.into() });
    }

    /// The node's next command of this name, in capitals, is not executed, and gets this reply.
    pub(crate) fn answer_next_of(&self, node: usize, command: &[u8], reply: &[u8]) {
        let answer = Answer { to: Some(command.into()), reply: reply.into() };
        self.redis().node(node).answers.push_back(answer);
    }

    // Figures.

    /// The channels that the node's newest connection is subscribed to, in their order.
    pub(crate) fn subscriptions(&self, node: usize) -> Vec<Vec<u8>> {
        let mut redis = self.redis();
        redis
            .client(node)
            .map(|client| client.channels.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The number of connections that Redis has.
    #[cfg(test)]
    pub(crate) fn clients(&self) -> usize {
        self.redis().connections.iter().filter(|each| each.client.is_some()).count()
    }

    /// The number of messages that were published.
    pub(crate) fn published(&self) -> u64 {
        self.redis().published
    }
}

impl Redis {
    fn node(&mut self, node: usize) -> &mut Node {
        self.nodes.entry(node).or_default()
    }

    fn new_client(&mut self) -> Client {
        let id = self.next_id;
        self.next_id += 1;
        let (received, out) = (Vec::new(), Vec::new());
        Client { id, received, scanner: Scanner::default(), out, channels: BTreeSet::new() }
    }

    /// The connection that the node itself uses, once it is made.
    fn newest(&self, node: usize) -> Option<&Connection> {
        let newest = self.connections.iter().rfind(|each| each.node == node)?;
        (newest.is_made && !newest.far.is_server_gone()).then_some(newest)
    }

    /// The client of the node's newest connection.
    fn client(&mut self, node: usize) -> Option<&mut Client> {
        self.connections.iter_mut().rfind(|each| each.node == node)?.client.as_mut()
    }

    /// Redis forgets a client. The node sees the end when its network delivers it.
    fn end(&mut self, at: usize, end: End) {
        let connection = &mut self.connections[at];
        if connection.client.take().is_none() {
            return;
        }
        if connection.is_stalled {
            connection.late_end = Some(end);
        } else {
            connection.far.end(end);
        }
    }

    /// Reads from each client and executes its commands; then sends to each.
    fn serve_each_once(&mut self) -> bool {
        if self.is_stalled {
            return false;
        }
        let mut moved = false;
        for at in 0..self.connections.len() {
            moved |= self.read(at);
        }
        for at in 0..self.connections.len() {
            moved |= self.send(at);
        }
        self.connections.retain(Connection::is_known);
        moved
    }

    fn read(&mut self, at: usize) -> bool {
        let Connection { node, far, client: Some(client), is_stalled: false, .. } =
            &mut self.connections[at]
        else {
            return false;
        };
        let Node { received_until_cut, .. } = self.nodes.entry(*node).or_default();
        let most = received_until_cut.map_or(READ_AT_ONCE, |most| most.min(READ_AT_ONCE));
        let (bytes, end) = far.receive(most);
        let is_over = end.is_some() || (bytes.is_empty() && far.is_server_gone());
        let is_cut = received_until_cut.as_mut().is_some_and(|rest| {
            *rest -= bytes.len();
            *rest == 0
        });
        if is_cut {
            *received_until_cut = None;
        }
        client.received.extend_from_slice(&bytes);
        // What a late client has sent was received at once when its network went on.
        let executes = !client.received.is_empty() && self.execute_received(at);
        if is_cut {
            self.end(at, End::Reset);
        } else if is_over {
            self.connections[at].client = None;
        }
        executes || !bytes.is_empty() || is_cut || is_over
    }

    /// Executes the whole commands among what was received; returns whether there was one.
    fn execute_received(&mut self, at: usize) -> bool {
        let mut executes = false;
        let Some(client) = &mut self.connections[at].client else { return false };
        let received = std::mem::take(&mut client.received);
        let mut scanner = std::mem::take(&mut client.scanner);
        let mut rest = &received[..];
        loop {
            let scanned = match rest.first() {
                None | Some(b'*') => scanner.scan(rest, &COMMAND_LIMITS),
                // A command in one line, which is for people.
                Some(_) => return self.refuse(at),
            };
            match scanned {
                Ok(Scan::Partial(_)) => break,
                Err(_) => return self.refuse(at),
                Ok(Scan::Complete(len)) => {
                    let (command, behind) = rest.split_at(len);
                    let Some(args) = arguments(command) else { return self.refuse(at) };
                    self.execute(at, &args);
                    (rest, executes) = (behind, true);
                }
            }
        }
        let rest = rest.to_vec();
        if let Some(client) = &mut self.connections[at].client {
            (client.received, client.scanner) = (rest, scanner);
        }
        executes
    }

    /// Ends the connection of a client that does not speak the protocol.
    fn refuse(&mut self, at: usize) -> bool {
        if let Some(client) = &mut self.connections[at].client {
            client.out.extend_from_slice(b"-ERR Protocol error\r\n");
        }
        self.send(at);
        self.end(at, End::Fin);
        true
    }

    fn send(&mut self, at: usize) -> bool {
        let output_limit = self.output_limit;
        let Connection { node, far, client: Some(client), is_stalled, .. } =
            &mut self.connections[at]
        else {
            return false;
        };
        let Node { sent_until_cut, .. } = self.nodes.entry(*node).or_default();
        let mut len = 0;
        let mut is_cut = false;
        if !*is_stalled {
            let room = NETWORK.saturating_sub(far.unread_by_server());
            len = client.out.len().min(room).min(sent_until_cut.unwrap_or(usize::MAX));
            far.send(&client.out[..len]);
            client.out.drain(..len);
            if let Some(rest) = sent_until_cut {
                *rest -= len;
                is_cut = *rest == 0;
            }
        }
        if is_cut {
            *sent_until_cut = None;
            self.end(at, End::Reset);
        } else if client.out.len() > output_limit {
            self.end(at, End::Reset);
            is_cut = true;
        }
        len > 0 || is_cut
    }

    // Commands.

    fn execute(&mut self, at: usize, args: &[&[u8]]) {
        let Some((name, rest)) = args.split_first() else { return };
        let command = name.to_ascii_uppercase();
        let Connection { node, client: Some(client), .. } = &mut self.connections[at] else {
            return;
        };
        let answers = &mut self.nodes.entry(*node).or_default().answers;
        let is_meant = |answer: &Answer| answer.to.as_ref().is_none_or(|to| *to == command);
        if let Some(found) = answers.iter().position(is_meant)
            && let Some(answer) = answers.remove(found)
        {
            client.out.extend(answer.reply);
            return;
        }
        match (&command[..], rest) {
            (b"HELLO", options) => client.hello(options),
            (b"SELECT", [database]) => client.reply(select(database)),
            (b"PING", []) => client.reply("+PONG"),
            (b"PING", [text]) => client.bulk(text),
            (b"PUBLISH", [channel, message]) => self.publish(at, channel, message),
            (b"SUBSCRIBE", channels @ [_, ..]) => {
                channels.iter().for_each(|channel| client.subscribe(channel));
            }
            (b"UNSUBSCRIBE", []) => client.unsubscribe_all(),
            (b"UNSUBSCRIBE", channels) => {
                channels.iter().for_each(|channel| client.unsubscribe(channel));
            }
            (b"SELECT" | b"PING" | b"PUBLISH" | b"SUBSCRIBE", _) => {
                let name = String::from_utf8_lossy(&command).to_ascii_lowercase();
                client.reply(&format!("-ERR wrong number of arguments for '{name}' command"));
            }
            _ => client.unknown(name, rest),
        }
    }

    fn publish(&mut self, at: usize, channel: &[u8], message: &[u8]) {
        self.published += 1;
        let clients = self.connections.iter_mut().filter_map(|each| each.client.as_mut());
        let mut receivers = 0;
        for client in clients.filter(|client| client.channels.contains(channel)) {
            client.push(b"message", channel);
            client.bulk(message);
            receivers += 1;
        }
        if let Some(client) = &mut self.connections[at].client {
            client.reply(&format!(":{receivers}"));
        }
    }
}

impl Connection {
    /// Whether one of its sides still knows it.
    fn is_known(&self) -> bool {
        self.client.is_some() || !self.far.is_server_gone()
    }

    /// It delivers again.
    fn go_on(&mut self) {
        self.is_made = true;
        if let Some(end) = self.late_end.take() {
            self.far.end(end);
        }
        if let Some(client) = &mut self.client
            && self.far.is_server_gone()
        {
            match self.far.receive(usize::MAX) {
                (_, Some(End::Reset)) => self.client = None,
                (bytes, _) => client.received.extend(bytes),
            }
        }
    }
}

impl Client {
    /// Appends a reply of one line.
    fn reply(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn bulk(&mut self, bytes: &[u8]) {
        _ = write!(self.out, "${}\r\n", bytes.len()); // A vector takes everything.
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Begins a push message of three elements. The last one is left.
    fn push(&mut self, kind: &[u8], channel: &[u8]) {
        self.reply(">3");
        self.bulk(kind);
        self.bulk(channel);
    }

    fn subscribe(&mut self, channel: &[u8]) {
        self.channels.insert(channel.to_vec());
        self.push(b"subscribe", channel);
        self.reply(&format!(":{}", self.channels.len()));
    }

    fn unsubscribe(&mut self, channel: &[u8]) {
        self.channels.remove(channel);
        self.push(b"unsubscribe", channel);
        self.reply(&format!(":{}", self.channels.len()));
    }

    fn unsubscribe_all(&mut self) {
        if self.channels.is_empty() {
            self.reply(">3");
            self.bulk(b"unsubscribe");
            self.reply("_");
            self.reply(":0");
        }
        while let Some(channel) = self.channels.first().cloned() {
            self.unsubscribe(&channel);
        }
    }

    fn hello(&mut self, options: &[&[u8]]) {
        if let Err(error) = check_hello(options) {
            return self.reply(&error);
        }
        let id = self.id;
        self.reply("%7");
        self.bulk(b"server");
        self.bulk(b"redis");
        self.bulk(b"version");
        self.bulk(b"7.0.15");
        self.bulk(b"proto");
        self.reply(":3");
        self.bulk(b"id");
        self.reply(&format!(":{id}"));
        self.bulk(b"mode");
        self.bulk(b"standalone");
        self.bulk(b"role");
        self.bulk(b"master");
        self.bulk(b"modules");
        self.reply("*0");
    }

    fn unknown(&mut self, name: &[u8], args: &[&[u8]]) {
        let cut = |bytes: &[u8], most: usize| bytes[..bytes.len().min(most)].to_vec();
        let mut shown = Vec::new();
        for arg in args {
            if shown.len() >= REPEATED {
                break;
            }
            shown.push(b'\'');
            shown.extend(cut(arg, REPEATED - shown.len() + 1));
            shown.extend(b"' ");
        }
        let mut line = b"ERR unknown command '".to_vec();
        line.extend(cut(name, REPEATED));
        line.extend(b"', with args beginning with: ");
        line.extend(shown);
        line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
        self.out.push(b'-');
        self.out.extend(line);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// The arguments of a command, if it is one.
fn arguments(command: &[u8]) -> Option<Vec<&[u8]>> {
    let Value::Array(args) = Reply::of(command).value else { return None };
    args.map(|arg| if let Value::Bulk(arg) = arg.value { Some(arg) } else { None }).collect()
}

/// A number as Redis reads it: without spaces, a plus or leading zeros.
fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

fn select(database: &[u8]) -> &'static str {
    match number(database).map(i32::try_from) {
        None => "-ERR value is not an integer or out of range",
        Some(Err(_)) => "-ERR value is out of range, value must between -2147483648 and 2147483647",
        Some(Ok(0..DATABASES)) => "+OK",
        Some(Ok(_)) => "-ERR DB index is out of range",
    }
}

fn check_hello(options: &[&[u8]]) -> Result<(), String> {
    let Some((version, mut rest)) = options.split_first() else { return Ok(()) };
    match number(version) {
        Some(3) => {}
        Some(_) => return Err("-NOPROTO unsupported protocol version".into()),
        None => return Err("-ERR Protocol version is not an integer or out of range".into()),
    }
    while let Some((option, values)) = rest.split_first() {
        rest = match (&option.to_ascii_uppercase()[..], values) {
            (b"AUTH", [user, _, after @ ..]) => {
                if *user != b"default" {
                    let error = "-WRONGPASS invalid username-password pair or user is disabled.";
                    return Err(error.into());
                }
                after
            }
            (b"SETNAME", [name, after @ ..]) => {
                if !name.iter().all(|byte| matches!(byte, b'!'..=b'~')) {
                    return Err("-ERR Client names cannot contain spaces, newlines or special \
                                characters."
                        .into());
                }
                after
            }
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(format!("-ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::redis::{BusFailure, Session, SessionEvent, SessionOptions, encode_command};

    #[derive(Clone, Debug, PartialEq)]
    enum Seen {
        Up,
        Down(BusFailure, u64),
        Failed(BusFailure),
        /// The channel, a space, and the payload.
        Message(String),
        Unsubscribed(String),
    }

    impl From<SessionEvent<'_>> for Seen {
        fn from(event: SessionEvent<'_>) -> Self {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            match event {
                SessionEvent::Up { .. } => Self::Up,
                SessionEvent::Down { failure, unconfirmed } => Self::Down(failure, unconfirmed),
                SessionEvent::Failed { failure, .. } => Self::Failed(failure),
                SessionEvent::Message { channel, payload } => {
                    Self::Message(format!("{} {}", text(channel), text(payload)))
                }
                SessionEvent::Unsubscribed { channel } => Self::Unsubscribed(text(channel)),
            }
        }
    }

    /// A session that reads and writes as its poll says.
    struct Server {
        node: usize,
        session: Session,
        wire: Option<Wire>,
        is_connected: bool,
        may_write: bool,
        seen: Vec<Seen>,
    }

    impl Server {
        fn new(node: usize) -> Self {
            let options = SessionOptions::new(format!("n:{node}").as_bytes());
            let address = "redis://localhost".parse().unwrap();
            let mut session = Session::new(address, options, node as u64 + 1, 0);
            session.want(b"t");
            let (wire, is_connected, may_write) = (None, false, false);
            Self { node, session, wire, is_connected, may_write, seen: Vec::new() }
        }

        /// Returns whether the connection has ended.
        fn see(&mut self, seen: Seen) -> bool {
            let ends = matches!(seen, Seen::Down(..) | Seen::Failed(_));
            self.seen.push(seen);
            if ends {
                (self.wire, self.is_connected, self.may_write) = (None, false, false);
            }
            ends
        }

        /// Returns whether something has happened.
        fn turn(&mut self, redis: &MemoryRedis, now: u64) -> bool {
            let before = self.seen.len();
            if self.session.should_connect(now) {
                self.session.connecting(now);
                match redis.dial(self.node) {
                    Ok(wire) => self.wire = Some(wire),
                    Err(error) => self.disconnected(now, Some(error.kind())),
                }
            }
            let readiness = self.wire.as_ref().and_then(|_| redis.take_readiness(self.node));
            if let Some(readiness) = readiness {
                self.may_write |= readiness.writable;
                if !std::mem::replace(&mut self.is_connected, true) {
                    self.session.connected(now);
                }
                if readiness.readable {
                    self.read(now);
                }
            }
            if let Some(event) = self.session.expire(now).map(Seen::from) {
                self.see(event);
            }
            let wrote = self.write();
            wrote || readiness.is_some() || self.seen.len() > before
        }

        fn disconnected(&mut self, now: u64, error: Option<ErrorKind>) {
            let event = self.session.disconnected(now, error).map(Seen::from).unwrap();
            self.see(event);
        }

        fn read(&mut self, now: u64) {
            let mut buffer = [0; 700];
            loop {
                let len = match self.wire.as_mut().unwrap().read(&mut buffer) {
                    Ok(0) => return self.disconnected(now, None),
                    Ok(len) => len,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return self.session.drained();
                    }
                    Err(error) => return self.disconnected(now, Some(error.kind())),
                };
                let mut input = &buffer[..len];
                while let Some(event) = self.session.receive(now, &mut input).map(Seen::from) {
                    if self.see(event) {
                        return;
                    }
                }
            }
        }

        fn write(&mut self) -> bool {
            let mut wrote = false;
            while self.may_write
                && !self.session.unsent().is_empty()
                && let Some(wire) = &mut self.wire
            {
                match wire.write(self.session.unsent()) {
                    Ok(len) => {
                        self.session.wrote(len);
                        wrote = true;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // The read finds the end of a broken connection.
                    Err(_) => self.may_write = false,
                }
            }
            wrote
        }

        fn publish(&mut self, message: &str) {
            self.session.publish(&[b"t"], &[message.as_bytes()]).unwrap();
        }

        fn take_seen(&mut self) -> Vec<Seen> {
            std::mem::take(&mut self.seen)
        }

        /// The messages among what it saw, without their channel.
        fn messages(&self) -> Vec<String> {
            let of = |seen: &Seen| match seen {
                Seen::Message(message) => message.strip_prefix("t ").map(str::to_owned),
                _ => None,
            };
            self.seen.iter().filter_map(of).collect()
        }
    }

    /// Three servers, their Redis, and a clock.
    struct Three {
        redis: MemoryRedis,
        servers: Vec<Server>,
        now: u64,
    }

    impl Three {
        fn new(faults: &Faults) -> Self {
            let redis = MemoryRedis::new();
            (0..3).for_each(|node| redis.faults(node, faults.clone()));
            Self { redis, servers: (0..3).map(Server::new).collect(), now: 0 }
        }

        /// All are up.
        fn up() -> Self {
            let mut three = Self::new(&Faults::none());
            three.settle();
            three.servers.iter_mut().for_each(|each| assert_eq!(each.take_seen(), [Seen::Up]));
            three
        }

        fn settle(&mut self) {
            let Self { redis, servers, now } = self;
            loop {
                let mut moves = redis.serve();
                for server in &mut *servers {
                    moves |= server.turn(redis, *now) || redis.has_readiness(server.node);
                }
                if !moves && !redis.serve() {
                    return;
                }
            }
        }

        fn pass(&mut self, ms: u64) {
            let until = self.now + ms;
            self.settle();
            loop {
                let next = self.servers.iter().filter_map(|each| each.session.next_deadline());
                let Some(next) = next.min().filter(|&at| at <= until) else { break };
                assert!(next > self.now, "what was due is done");
                self.now = next;
                self.settle();
            }
            self.now = until;
            self.settle();
        }

        fn take_seen(&mut self) -> Vec<Vec<Seen>> {
            self.servers.iter_mut().map(Server::take_seen).collect()
        }
    }

    fn message(text: &str) -> Seen {
        Seen::Message(format!("t {text}"))
    }

    fn is_down(seen: &[Seen]) -> bool {
        matches!(seen, [Seen::Down(..), ..])
    }

    // As Redis.

    /// What each of three clients says in turn. All commands get the same answers from Redis 7.0.
    const CONVERSATION: &[(usize, &[&[u8]])] = &[
        (0, &[b"HELLO", b"3", b"SETNAME", b"app"]),
        (0, &[b"PING"]),
        (0, &[b"SUBSCRIBE", b"n:0"]),
        (0, &[b"SUBSCRIBE", b"a", b"b", b"a", b""]),
        (0, &[b"PUBLISH", b"n:0", b"\0\0\0\0\0\0\0\0\x01"]),
        (1, &[b"HELLO", b"3", b"AUTH", b"default", b"any", b"SETNAME", b""]),
        (1, &[b"SELECT", b"15"]),
        (1, &[b"PUBLISH", b"a", b"from another database"]),
        (2, &[b"HELLO", b"3", b"AUTH", b"app", b"any", b"SETNAME", b"x"]),
        (2, &[b"HELLO", b"3"]),
        (2, &[b"hello"]),
        (2, &[b"SUBSCRIBE", b"a", b"c"]),
        (0, &[b"PUBLISH", b"a", b"to two"]),
        (0, &[b"PUBLISH", b"b", b"\r\n"]),
        (0, &[b"PUBLISH", b"c", b""]),
        (0, &[b"PUBLISH", b"d", b"to none"]),
        (0, &[b"UNSUBSCRIBE", b"a", b"never"]),
        (1, &[b"PUBLISH", b"a", b"to one"]),
        (0, &[b"UNSUBSCRIBE", b"", b"b", b"n:0"]),
        (0, &[b"UNSUBSCRIBE"]),
        (0, &[b"SUBSCRIBE", b"x"]),
        (0, &[b"UNSUBSCRIBE"]),
        (1, &[b"SELECT", b"16"]),
        (1, &[b"SELECT", b"-1"]),
        (1, &[b"SELECT", b"+1"]),
        (1, &[b"SELECT", b"4294967296"]),
        (1, &[b"SELECT"]),
        (1, &[b"PING", b"text"]),
        (1, &[b"PING", b"", b""]),
        (1, &[b"PUBLISH", b"a"]),
        (1, &[b"SUBSCRIBE"]),
        (1, &[b"HELLO", b"4"]),
        (1, &[b"HELLO", b"03"]),
        (1, &[b"HELLO", b"3", b"SETNAME"]),
        (1, &[b"HELLO", b"3", b"SETNAME", b"a b"]),
        (1, &[b"HELLO", b"3", b"AUTH", b"default"]),
        (1, &[b"HELLO", b"3", b"more"]),
        (1, &[b"WHAT", b"is", b"this\r\n"]),
        (1, &[b"WHAT"]),
        (1, &[b"what", &[b'x'; 200], b"not shown"]),
        (1, &[b"what", &[b'x'; 100], &[b'y'; 100], b"not shown"]),
        (1, &[b"what", &[b'x'; 126], b"y"]),
        (2, &[b"PING"]),
    ];

    /// What each client gets for each of these commands.
    fn in_memory() -> Vec<[Vec<u8>; 3]> {
        let redis = MemoryRedis::new();
        let mut wires: Vec<Wire> = (0..3).map(|node| redis.dial(node).unwrap()).collect();
        let got = CONVERSATION.iter().map(|&(client, args)| {
            wires[client].write_all(&command(args)).unwrap();
            redis.serve();
            std::array::from_fn(|client| {
                let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(len @ 1..) = wires[client].read(&mut buffer) {
                    got.extend(&buffer[..len]);
                }
                got
            })
        });
        got.collect()
    }

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let parts: Vec<[&[u8]; 1]> = args.iter().map(|&arg| [arg]).collect();
        let parts: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
        let mut bytes = Vec::new();
        encode_command(&parts, &mut bytes);
        bytes
    }

    /// An answer without what differs between servers of version 7.0: in that to HELLO, the last
    /// number of the version, and the number of the client.
    fn comparable(bytes: &[u8]) -> String {
        let mut text = bytes.escape_ascii().to_string();
        for before in [r"\r\n7.0.", r"$2\r\nid\r\n:"] {
            if let Some(at) = text.find(before) {
                let rest = text.split_off(at + before.len());
                text += rest.trim_start_matches(char::is_numeric);
            }
        }
        text
    }

    /// A redis-server in a folder of its own, which ends with it.
    struct RealRedis {
        child: Child,
        folder: PathBuf,
    }

    impl RealRedis {
        /// `None` if there is no redis-server on this machine.
        fn start() -> Option<Self> {
            let name = format!("ikisocket-memory-redis-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            let mut command = Command::new("redis-server");
            command.args(["--port", "0", "--unixsocket", "s", "--save", ""]).current_dir(&folder);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            if child.is_err() {
                fs::remove_dir_all(&folder).unwrap();
            }
            Some(Self { child: child.ok()?, folder })
        }
    }

    impl Drop for RealRedis {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn three_clients_get_the_bytes_that_redis_7_0_sends() {
        let Some(real) = RealRedis::start() else {
            println!("there is no redis-server here: nothing is compared");
            return;
        };
        let began = Instant::now();
        let connect = || loop {
            match UnixStream::connect(real.folder.join("s")) {
                Ok(client) => {
                    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    return client;
                }
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
        };
        let mut clients = [connect(), connect(), connect()];
        let version = |answer: &str| answer.contains(r"version\r\n$6\r\n7.0.");
        let mut is_7_0 = true;
        for (&(sender, args), expected) in CONVERSATION.iter().zip(in_memory()) {
            clients[sender].write_all(&command(args)).unwrap();
            let shown = comparable(&command(args));
            for (client, expected) in clients.iter_mut().zip(expected) {
                let mut got = vec![0; expected.len()];
                if let Err(error) = client.read_exact(&mut got) {
                    panic!("{shown}: {} did not come: {error}", expected.escape_ascii());
                }
                let (got, expected) = (comparable(&got), comparable(&expected));
                is_7_0 &= version(&got) || !version(&expected);
                if !is_7_0 {
                    break;
                }
                assert_eq!(got, expected, "{shown}");
            }
            if !is_7_0 {
                println!("this is no Redis 7.0: nothing is compared");
                break;
            }
        }
        // And not one byte more.
        for client in clients.iter_mut().filter(|_| is_7_0) {
            client.write_all(&command(&[b"PING", b"the end"])).unwrap();
            let mut got = [0; 13];
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, *b"$7\r\nthe end\r\n");
        }
    }

    #[test]
    fn a_client_that_does_not_speak_the_protocol_is_cut_off() {
        for nonsense in [&b"PING\r\n"[..], b"*1\r\n:1\r\n", b"*x\r\n", b"$4\r\nPING\r\n"] {
            let redis = MemoryRedis::new();
            let mut wire = redis.dial(0).unwrap();
            wire.write_all(nonsense).unwrap();
            redis.serve();
            let mut got = Vec::new();
            wire.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"-ERR Protocol error\r\n");
            assert_eq!(redis.clients(), 0);
        }
    }

    // Sessions.

    #[test]
    fn all_servers_get_what_one_publishes_in_order() {
        for faults in [
            Faults::none(),
            Faults::none().segments(1),
            Faults::none().segments(3).interrupted().would_block().window(5),
        ] {
            let mut three = Three::new(&faults);
            three.settle();
            for number in 0..100 {
                let from = number % 3;
                three.servers[from].publish(&format!("{number} of {from}"));
                if number % 7 == 0 {
                    three.settle();
                }
            }
            three.pass(60_000);
            let seen = three.take_seen();
            assert!(seen[1] == seen[0] && seen[2] == seen[0], "Redis has one order: {seen:?}");
            assert_eq!((seen[0].len(), &seen[0][0]), (101, &Seen::Up), "{seen:?}");
            for from in 0..3 {
                let is_from = |seen: &&Seen| matches!(seen, Seen::Message(text) if text.ends_with(&format!("of {from}")));
                let expected = (from..100).step_by(3);
                let expected = expected.map(|number| message(&format!("{number} of {from}")));
                assert!(seen[0].iter().filter(is_from).cloned().eq(expected), "{seen:?}");
            }
            assert_eq!(three.redis.subscriptions(1), [b"n:1".to_vec(), b"t".to_vec()]);
            assert!(three.redis.published() >= 100 + 3 * 59, "the probes count too");
        }
    }

    #[test]
    fn a_killed_redis_refuses_and_a_restarted_one_is_subscribed_again() {
        let mut three = Three::up();
        three.servers[0].publish("before");
        three.settle();
        assert_eq!(three.take_seen(), vec![[message("before")]; 3]);
        three.servers[0].publish("lost");
        three.servers[0].write();
        three.redis.kill();
        three.pass(3000);
        let seen = three.take_seen();
        let reset = BusFailure::Broken(ErrorKind::ConnectionReset);
        for (seen, unconfirmed) in seen.iter().zip([1, 0, 0]) {
            assert_eq!(seen[0], Seen::Down(reset.clone(), unconfirmed));
            let refused = BusFailure::Unreachable(ErrorKind::ConnectionRefused);
            assert!(seen.len() > 3);
            assert!(seen[1..].iter().all(|each| *each == Seen::Failed(refused.clone())));
        }
        assert_eq!((three.redis.clients(), three.redis.subscriptions(0)), (0, vec![]));
        three.redis.restart();
        three.pass(5000);
        assert_eq!(three.take_seen(), vec![[Seen::Up]; 3]);
        three.servers[2].publish("after");
        three.settle();
        assert_eq!(three.take_seen(), vec![[message("after")]; 3]);
        // One that runs is restarted too.
        three.redis.restart();
        three.pass(5000);
        for seen in three.take_seen() {
            assert_eq!(seen, [Seen::Down(reset.clone(), 0), Seen::Up]);
        }
    }

    #[test]
    fn a_stalled_redis_is_silent_and_later_does_what_came_meanwhile() {
        let mut three = Three::up();
        three.pass(100);
        three.redis.stall(true);
        three.servers[0].publish("late");
        three.pass(1500);
        assert_eq!(three.take_seen(), vec![vec![]; 3]);
        three.redis.stall(false);
        three.settle();
        assert_eq!(three.take_seen(), vec![[message("late")]; 3]);

        three.redis.stall(true);
        three.servers[0].publish("too late");
        three.pass(3000);
        for (seen, unconfirmed) in three.take_seen().into_iter().zip([1, 0, 0]) {
            assert_eq!(seen[0], Seen::Down(BusFailure::Silent { ms: 2000 }, unconfirmed));
        }
        assert!(three.redis.clients() > 3, "it does not know yet which connections have ended");
        three.redis.stall(false);
        three.pass(5000);
        assert_eq!(three.take_seen(), vec![[Seen::Up]; 3]);
        assert_eq!(three.redis.clients(), 3);
    }

    #[test]
    fn a_network_that_delivers_nothing_delivers_late_what_was_sent() {
        let mut three = Three::up();
        three.redis.stall_client(0, true);
        three.servers[0].publish("late");
        three.servers[1].publish("to 1 and 2");
        three.pass(10_000);
        let seen = three.take_seen();
        assert_eq!(seen[1..], vec![[message("to 1 and 2")]; 2]);
        assert_eq!(seen[0][0], Seen::Down(BusFailure::Silent { ms: 2000 }, 1));
        assert_eq!(seen[0][1], Seen::Failed(BusFailure::ConnectTimeout { ms: 5000 }), "{seen:?}");
        assert_eq!(three.redis.subscriptions(0).len(), 0, "of its newest connection");
        three.redis.stall_client(0, false);
        three.pass(10_000);
        let seen = three.take_seen();
        assert_eq!(seen[1..], vec![[message("late")]; 2], "its first connection ended with FIN");
        assert_eq!(seen[0].last(), Some(&Seen::Up));
        assert_eq!(three.redis.clients(), 3);

        // A node learns only from its network that Redis is gone.
        three.redis.stall_client(0, true);
        three.redis.kill();
        three.settle();
        let seen = three.take_seen();
        assert_eq!(seen[0], []);
        assert!(is_down(&seen[1]) && is_down(&seen[2]));
        three.redis.stall_client(0, false);
        three.settle();
        let reset = BusFailure::Broken(ErrorKind::ConnectionReset);
        assert_eq!(three.take_seen()[0], [Seen::Down(reset, 0)]);
    }

    #[test]
    fn a_reset_loses_what_the_network_had_not_delivered() {
        let redis = MemoryRedis::new();
        let mut wire = redis.dial(0).unwrap();
        let mut other = redis.dial(1).unwrap();
        other.write_all(&command(&[b"SUBSCRIBE", b"t"])).unwrap();
        redis.serve();
        redis.stall_client(0, true);
        wire.write_all(&command(&[b"PUBLISH", b"t", b"lost"])).unwrap();
        wire.reset_on_drop();
        drop(wire);
        redis.serve();
        assert_eq!(redis.clients(), 2);
        redis.stall_client(0, false);
        redis.serve();
        assert_eq!((redis.clients(), redis.published()), (1, 0));
    }

    #[test]
    fn a_client_that_is_killed_comes_back() {
        let mut three = Three::up();
        three.redis.cut(1);
        three.settle();
        assert_eq!(three.take_seen(), [vec![], vec![Seen::Down(BusFailure::Closed, 0)], vec![]]);
        three.servers[0].publish("missed");
        three.pass(1000);
        let seen = three.take_seen();
        assert_eq!(seen, [vec![message("missed")], vec![Seen::Up], vec![message("missed")]]);
    }

    #[test]
    fn a_cut_at_each_byte_loses_only_what_was_behind_it() {
        let numbers = |seen: &[String]| -> Vec<u32> {
            seen.iter().map(|text| text.parse().unwrap()).collect()
        };
        let walk = |sent: bool, at: usize| {
            let mut three = Three::new(&Faults::none());
            if sent {
                three.redis.cut_after(1, at);
            } else {
                three.redis.cut_after_received(1, at);
            }
            // Numbers go from 1 to the others, and from 0 to all. The cut is at node 1.
            let mut published = [Vec::new(), Vec::new()];
            let mut refused = 0;
            for number in 0..8 {
                for (from, published) in published.iter_mut().enumerate() {
                    let server = &mut three.servers[from];
                    let number = 2 * number + from as u32;
                    let text = number.to_string();
                    match server.session.publish(&[b"t"], &[text.as_bytes()]) {
                        Ok(()) => published.push(number),
                        Err(_) => refused += 1,
                    }
                }
                three.pass(30);
            }
            three.pass(10_000);
            let cuts = three.servers[1].seen.iter().filter(|each| matches!(each, Seen::Down(..)));
            let cuts: Vec<_> = cuts.cloned().collect();
            let unconfirmed = match cuts[..] {
                [] => 0,
                [Seen::Down(BusFailure::Broken(ErrorKind::ConnectionReset), unconfirmed)] => {
                    unconfirmed as usize
                }
                _ => panic!("{cuts:?} after {at}"),
            };
            for (node, server) in three.servers.iter().enumerate() {
                assert!(server.session.is_up(), "node {node} after {at}");
                let got = numbers(&server.messages());
                for from in 0..2 {
                    let got: Vec<_> = got.iter().copied().filter(|n| n % 2 == from).collect();
                    let sent = &published[from as usize];
                    let lost = sent.iter().filter(|&n| !got.contains(n)).count();
                    assert!(got.is_sorted_by(|a, b| a < b), "{got:?} of {from}, after {at}");
                    assert!(got.iter().all(|n| sent.contains(n)));
                    let most = match (node, from) {
                        (1, _) if !cuts.is_empty() => sent.len(),
                        (_, 1) => unconfirmed,
                        _ => 0,
                    };
                    assert!(lost <= most, "{lost} of {from} at {node} after {at}");
                }
            }
            let others: Vec<_> = [0, 2].map(|node| three.servers[node].take_seen()).into();
            assert_eq!(others[0], others[1]);
            assert!(!others[0].iter().any(|seen| matches!(seen, Seen::Down(..))));
            // What comes after the outage comes everywhere.
            three.redis.cut_after(1, usize::MAX);
            three.redis.cut_after_received(1, usize::MAX);
            three.servers[1].take_seen();
            three.servers[1].publish("after");
            three.settle();
            assert_eq!(three.take_seen(), vec![[message("after")]; 3]);
            (cuts.len(), unconfirmed, refused)
        };
        for sent in [true, false] {
            let walks: Vec<_> =
                (1..).map(|at| walk(sent, at)).take_while(|each| each.0 > 0).collect();
            assert!(walks.len() > 800, "the conversation has {} bytes", walks.len());
            assert!(walks.iter().any(|each| each.1 > 0), "a cut in front of an answer");
            assert!(walks.iter().any(|each| each.2 > 0), "a cut that lasted");
        }
    }

    #[test]
    fn a_subscription_that_ends_is_seen_at_once_and_a_dead_one_in_a_second() {
        let mut three = Three::up();
        assert!(three.redis.unsubscribe(1, b"t"));
        assert!(!three.redis.unsubscribe(1, b"never"));
        three.settle();
        assert_eq!(three.take_seen(), [vec![], vec![Seen::Unsubscribed("t".into())], vec![]]);
        three.servers[0].publish("again");
        three.settle();
        assert_eq!(three.take_seen(), vec![[message("again")]; 3]);

        assert!(three.redis.forget_subscription(1, b"t"));
        assert!(!three.redis.forget_subscription(1, b"t"));
        three.servers[0].publish("missed");
        assert_eq!(three.take_seen()[1], [], "its own channel is alive");
        three.pass(5000);
        let lost = BusFailure::SubscriptionsLost { here: 2, there: 1 };
        assert_eq!(three.take_seen()[1], [Seen::Down(lost, 0), Seen::Up]);
        assert!(three.redis.forget_subscription(1, b"n:1"));
        three.pass(5000);
        assert_eq!(three.take_seen()[1], [Seen::Down(BusFailure::ProbeLost, 0), Seen::Up]);
    }

    #[test]
    fn an_answer_that_the_test_gives_comes_instead_of_redis_own() {
        let mut three = Three::up();
        three.redis.answer_next_of(0, b"PUBLISH", b"-OOM command not allowed.\r\n");
        three.servers[0].publish("not executed");
        three.settle();
        assert_eq!(
            three.take_seen(),
            [vec![Seen::Down(BusFailure::OutOfMemory, 1)], vec![], vec![]]
        );
        three.redis.answer_next(0, b"-LOADING\r\n");
        three.redis.answer_next(1, b"+nonsense\r\n");
        three.pass(5000);
        let seen = three.take_seen();
        assert_eq!(seen[0], [Seen::Failed(BusFailure::Loading), Seen::Up]);
        assert!(is_down(&seen[1]) && seen[1][1] == Seen::Up, "{seen:?}");
    }

    #[test]
    fn a_client_that_is_behind_the_output_limit_is_cut_off() {
        let mut three = Three::up();
        three.redis.output_limit(100_000);
        let text = "x".repeat(1000);
        // Server 1 does not read meanwhile.
        for sent in 0..1000 {
            three.servers[0].publish(&text);
            for node in [0, 2] {
                three.redis.serve();
                three.servers[node].turn(&three.redis, 0);
            }
            three.redis.serve();
            if three.redis.clients() < 3 {
                assert!((350..360).contains(&sent), "{sent}: the network and the limit hold them");
                break;
            }
        }
        three.settle();
        let seen = three.take_seen();
        let Some(Seen::Down(BusFailure::CutForSlowness { behind }, 0)) = seen[1].last() else {
            panic!("{:?}", seen[1].last())
        };
        assert!((200_000..300_000).contains(behind), "{behind}");
        assert!(seen[0].iter().chain(&seen[2]).all(|each| *each == message(&text)));
    }
}
