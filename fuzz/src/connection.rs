//! Whole connections, driven in memory: what clients send in any pieces, reads and writes that
//! fail, timers, and verbs inside and outside of callbacks, in any order. What holds:
//!
//! - `disconnect` comes exactly once for each connection whose route callback ran, and nothing
//!   comes after it;
//! - no message fires after a close of ours;
//! - listeners get what a well-behaved client sent, in order;
//! - a client receives what was emitted to it and not refused, in order. The only gaps are messages
//!   that are counted as dropped. It receives all of it unless the connection failed;
//! - the bytes that wait for a socket keep to the limit of its outbox.
//!
//! An input: the settings of the server, then one thing to do after the other.

use super::input::{Input, Random};
#[cfg(feature = "deflate")]
use ikisocket::Deflate;
use ikisocket::protocol::{
    CloseCode, Decoded, Decoder, FrameHeader, Message, Opcode, Role, Rules, apply_mask,
    encode_close,
};
#[cfg(feature = "deflate")]
use ikisocket::protocol::{Deflater, Inflater};
use ikisocket::testing::{Client, Faults, Harness};
use ikisocket::{
    Dropped, EmitError, Emitted, Error, Event, EventPayload, Latest, PeerAddress, Server, Shutdown,
    SlowReader, Socket, Sockets, Uncompressed,
};
use std::time::Duration;

const MOST_CLIENTS: usize = 4;
const MOST_STEPS: usize = 80;
/// The first port of a harness's clients.
const FIRST_PORT: u16 = 1024;
/// What may wait beside messages: the response, and control frames, each with its header.
const BESIDE: usize = 1024;

const EVENTS: [Event; 9] = [
    Event::Connect,
    Event::Message,
    Event::Ping,
    Event::Pong,
    Event::Pressure,
    Event::Relief,
    Event::Close,
    Event::Error,
    Event::Disconnect,
];

/// A message, by its kind.
type Sent = (bool, Vec<u8>);

/// What the server's callbacks know.
struct State {
    /// By client.
    sides: Vec<Side>,
    max_outbox: usize,
    policy: SlowReader,
    emits: u32,
    /// What failed in a callback, where the server catches it.
    failures: Vec<String>,
}

/// One connection as the server's callbacks see it.
#[derive(Default)]
struct Side {
    opened: bool,
    closed: bool,
    /// The messages that waited for it were dropped.
    is_too_slow: bool,
    disconnected: bool,
    heard: Vec<Sent>,
    emitted: Vec<Sent>,
    /// Of each of them, the key of which it is the latest.
    keys: Vec<Option<u64>>,
    dropped: Dropped,
}

/// One connection as its client sees it.
struct Far {
    client: Client,
    request: Vec<u8>,
    /// It sent nothing but whole frames that are right.
    is_proper: bool,
    /// The network does nothing to it that loses bytes.
    is_safe: bool,
    sent: Vec<Sent>,
    pinged: Vec<Vec<u8>>,
    /// Messages that have come and were not compared yet.
    received: Vec<Sent>,
    /// The number of messages that have come.
    count: usize,
    /// The index, among those that were emitted, behind the last that has come.
    next: usize,
    /// The network gives it few bytes at a time.
    is_slow: bool,
    /// Its faults make its socket look full when it is not.
    blocks: bool,
    head: Vec<u8>,
    is_upgraded: bool,
    is_compressed: bool,
    is_closed: bool,
    close_sent: bool,
    decoder: Decoder,
    #[cfg(feature = "deflate")]
    deflate: (Deflater, Inflater, bool),
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut harness = Harness::by_hand(server(&mut input));
    let mut fars: Vec<Far> = Vec::new();
    let mut shut_down = false;
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        if what < 20 || fars.is_empty() {
            dial(&mut harness, &mut fars, &mut input);
        } else if what < 60 {
            let turns = u32::from(what % 4);
            for _ in 0..=turns {
                harness.turn();
            }
        } else if what < 70 {
            harness.advance(Duration::from_millis(u64::from(input.byte()) * 250));
        } else if what < 110 {
            let (state, mut sockets) = harness.server().lend();
            let open = sockets.uuids();
            if let Some(&uuid) = open.get(usize::from(what) % open.len().max(1)) {
                act(state, &mut sockets.get(uuid).expect("it is open"), &mut input);
            }
        } else if what == 110 || (what == 111 && shut_down) {
            harness.server().flush();
        } else if what == 111 {
            shut_down = true;
            let deadline = Duration::from_millis(u64::from(input.byte()) * 100);
            let (state, mut sockets) = harness.server().lend();
            let open = clients(&mut sockets);
            sockets.shutdown(Shutdown::default().deadline(deadline)).expect("the code may be sent");
            open.into_iter().for_each(|client| state.sides[client].closed = true);
        } else {
            let at = usize::from(what) % fars.len();
            do_something(&mut harness, &mut fars[at], what, &mut input);
        }
        check(&mut harness, &mut fars);
    }
    end(&mut harness, &mut fars);
}

fn server(input: &mut Input<'_>) -> Server<State> {
    let settings = input.byte();
    let policy = [SlowReader::Disconnect, SlowReader::DropNewest, SlowReader::DropOldest]
        [usize::from(input.byte() % 3)];
    let max_outbox = [1024, 5000, 40_000, 200_000][usize::from(settings & 3)];
    let builder = Server::builder()
        .max_outbox(max_outbox)
        .slow_reader(policy)
        .max_message([300, 3000, 40_000, 1 << 20][usize::from(settings >> 2 & 3)])
        .receive_buffer([1024, 20_000][usize::from(settings >> 4 & 1)]);
    #[cfg(feature = "deflate")]
    let builder = builder.deflate(match settings >> 5 & 3 {
        0 => None,
        1 => Some(Deflate::shared().minimum(10)),
        2 => Some(Deflate::dedicated().minimum(0)),
        _ => Some(Deflate::dedicated().client_context_takeover(false).server_window_bits(9)),
    });
    let mut server = builder
        .build(State { sides: Vec::new(), max_outbox, policy, emits: 0, failures: Vec::new() })
        .expect("the settings are in range");
    let greets = settings >> 7 == 1;
    let opened = move |state: &mut State, kws: &mut Socket<'_, State>| {
        let side = &mut state.sides[client_of(kws)];
        assert!(!std::mem::replace(&mut side.opened, true), "a connection opens once");
        if greets {
            act(state, kws, &mut Input::new(b"\x00\x05"));
        }
    };
    server.route("/:name", opened).expect("it is a pattern");
    server.on_panic(|state, panic| {
        state.failures.push(format!("in {}: {}", panic.event, panic.message))
    });
    for event in EVENTS {
        server.on(event, move |state, ep| heard(state, ep, event));
    }
    server.on("fired", |state, ep| {
        assert!(!state.sides[client_of(&ep.kws)].disconnected, "nothing comes after disconnect");
        act(state, &mut ep.kws, &mut Input::new(&[0x00, 9]));
    });
    server
}

fn client_of(kws: &Socket<'_, State>) -> usize {
    match kws.peer_address() {
        PeerAddress::Tcp(address) => usize::from(address.port() - FIRST_PORT),
        other => panic!("{other}"),
    }
}

/// The clients whose connections are open.
fn clients(sockets: &mut Sockets<'_, State>) -> Vec<usize> {
    let mut clients = Vec::new();
    sockets.for_each(|kws| clients.push(client_of(kws)));
    clients
}

/// The clients whose connections are open, each with how many messages it was refused.
fn refusals(sockets: &mut Sockets<'_, State>) -> Vec<(usize, u64)> {
    let mut refusals = Vec::new();
    sockets.for_each(|kws| refusals.push((client_of(kws), kws.dropped().newest)));
    refusals
}

fn heard(state: &mut State, ep: &mut EventPayload<'_, State>, event: Event) {
    let side = &mut state.sides[client_of(&ep.kws)];
    side.dropped = ep.kws.dropped();
    assert!(side.opened, "{event} on a connection that is not open");
    assert!(!side.disconnected, "{event} after disconnect");
    match event {
        Event::Message | Event::Ping | Event::Pong => {
            assert!(!side.closed && ep.kws.is_alive(), "{event} after a close");
        }
        Event::Error => side.is_too_slow |= matches!(ep.error, Some(Error::SlowConsumer { .. })),
        Event::Disconnect => side.disconnected = true,
        _ => {}
    }
    if event == Event::Message {
        side.heard.push((ep.data.is_text(), ep.data.to_vec()));
        // What to do stands in the message.
        let data = ep.data.to_vec();
        let mut input = Input::new(&data);
        for _ in 0..3 {
            if !input.is_empty() {
                act(state, &mut ep.kws, &mut input);
            }
        }
    } else if event == Event::Disconnect {
        assert!(!ep.kws.is_alive());
        assert_eq!(ep.kws.emit("too late"), Emitted::Refused(EmitError::Closed));
    }
}

/// One verb on one connection.
fn act(state: &mut State, kws: &mut Socket<'_, State>, input: &mut Input<'_>) {
    let own = client_of(kws);
    let (verb, len) = (input.byte(), input.byte());
    match verb & 15 {
        0..=5 => {
            let message = message(state, verb, len);
            let (alive, before) = (kws.is_alive(), kws.dropped().replaced);
            let key = (verb & 15 < 2).then_some(u64::from(verb & 1));
            let emitted = match (key, verb & 64) {
                (Some(key), 0) => kws.emit(Latest(key, &message)),
                (Some(key), _) => kws.emit(Latest(key, Uncompressed(&message))),
                (None, 0) => kws.emit(&message),
                (None, _) => kws.emit(Uncompressed(&message)),
            };
            is_as_it_must_be(state, alive, &message, emitted);
            if kws.dropped().replaced == before {
                note(state, own, &message, key, emitted);
            } else {
                let side = &mut state.sides[own];
                let at = side
                    .keys
                    .iter()
                    .rposition(|each| *each == key)
                    .expect("it replaces one with its key");
                side.emitted[at] = (message.is_text(), message.as_bytes().to_vec());
            }
        }
        6 | 7 => {
            let message = message(state, verb, len);
            let mut before = refusals(&mut kws.sockets());
            let reached = match verb & 1 {
                0 => kws.broadcast(&message),
                _ => kws.broadcast_all(&message),
            };
            if verb & 1 == 0 {
                before.retain(|&(client, _)| client != own);
            }
            // Each connection that is still open and has refused nothing.
            let after = refusals(&mut kws.sockets());
            let got = before
                .into_iter()
                .filter(|each| after.contains(each) && message.len() <= state.max_outbox);
            let got: Vec<(usize, u64)> = got.collect();
            assert_eq!(reached, got.len(), "broadcast counts the connections that it reached");
            got.into_iter()
                .for_each(|(client, _)| note(state, client, &message, None, Emitted::Queued));
        }
        8 => {
            let alive = kws.is_alive();
            let emitted = kws.ping(vec![len; usize::from(len) / 2]);
            if alive && len / 2 > 125 {
                assert!(
                    matches!(emitted, Emitted::Refused(EmitError::PingTooLong { .. })),
                    "{emitted:?}"
                );
            }
        }
        9 => {
            let code = [1000, 1005, 3000, 1008][usize::from(len % 4)];
            let is_legal = kws.close_with(code, "goodbye").is_ok();
            assert_eq!(is_legal, code != 1005);
            state.sides[own].closed |= is_legal;
        }
        10 | 11 => {
            let open = kws.sockets().uuids();
            let Some(&to) = open.get(usize::from(len) % open.len().max(1)) else { return };
            let client = client_of(&kws.sockets().get(to).expect("it is open"));
            let message = message(state, verb, len);
            let emitted = kws.emit_to(to, &message).unwrap_or_else(Emitted::Refused);
            assert!(!matches!(emitted, Emitted::Refused(EmitError::Gone(_))), "it is open");
            is_as_it_must_be(state, true, &message, emitted);
            note(state, client, &message, None, emitted);
        }
        12 => drop(kws.fire(state, "fired", "data")),
        13 => drop(kws.set_uuid(ikisocket::Uuid::from_u128(u128::from(len % 3)))),
        14 => drop(kws.emit_to(ikisocket::Uuid::from_u128(99), "to a missing one")),
        _ => drop(kws.fire(state, "message", "refused")),
    }
}

/// A message that no client sends twice, small or large.
fn message(state: &mut State, verb: u8, len: u8) -> Message<'static> {
    state.emits += 1;
    let len = match verb >> 4 & 3 {
        0 | 1 => usize::from(len),
        2 => usize::from(len) * 16,
        _ => 16_000 + usize::from(len) * 8,
    };
    let mut text = format!("{} ", state.emits);
    while text.len() < len {
        text.push_str("and so on, ");
    }
    match verb >> 7 {
        0 => Message::from(text),
        _ => Message::from(text.into_bytes()),
    }
}

fn is_as_it_must_be(state: &State, alive: bool, message: &Message<'_>, emitted: Emitted) {
    let limit = state.max_outbox;
    match emitted {
        Emitted::Queued | Emitted::Pressure => {
            assert!(alive && message.len() <= limit, "{emitted:?}")
        }
        Emitted::Refused(EmitError::TooLarge { len, .. }) => {
            assert!(alive && len == message.len() && len > limit)
        }
        Emitted::Refused(EmitError::Full) => assert!(alive),
        Emitted::Refused(EmitError::Closed) => {}
        other => panic!("{other:?}"),
    }
}

fn note(
    state: &mut State,
    client: usize,
    message: &Message<'_>,
    key: Option<u64>,
    emitted: Emitted,
) {
    if emitted.ok().is_ok() {
        state.sides[client].keys.push(key);
        state.sides[client].emitted.push((message.is_text(), message.as_bytes().to_vec()));
    }
}

fn dial(harness: &mut Harness<State>, fars: &mut Vec<Far>, input: &mut Input<'_>) {
    let [settings, number] = input.array();
    if fars.len() == MOST_CLIENTS {
        return;
    }
    let number = usize::from(number);
    let mut faults = Faults::none();
    let mut is_safe = true;
    if settings & 1 != 0 {
        faults = faults.segments(1 + number);
    }
    if settings & 2 != 0 {
        faults = faults.interrupted();
    }
    if settings & 4 != 0 {
        faults = faults.would_block();
    }
    if settings & 8 != 0 {
        faults = faults.window(number * 32);
    }
    match settings >> 4 & 7 {
        1 => (faults, is_safe) = (faults.fin_after_sending(150 + number), false),
        2 => (faults, is_safe) = (faults.reset_after_sending(150 + number), false),
        3 => (faults, is_safe) = (faults.reset_after_receiving(number * 8), false),
        _ => {}
    }
    is_safe &= settings & 8 == 0 || number > 0;
    // Before the server can take it in.
    harness.state().sides.push(Side::default());
    let Some(client) = harness.dial(faults) else {
        harness.state().sides.pop();
        return;
    };
    let offers = ["", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"];
    let offer = offers[usize::from(settings >> 7)];
    let request = format!(
        "GET /{number} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
    );
    fars.push(Far {
        client,
        request: request.into_bytes(),
        is_proper: true,
        is_safe,
        sent: Vec::new(),
        pinged: Vec::new(),
        received: Vec::new(),
        count: 0,
        next: 0,
        is_slow: settings & 1 != 0 && number < 64,
        blocks: settings & (1 | 4 | 8) != 0,
        head: Vec::new(),
        is_upgraded: false,
        is_compressed: false,
        is_closed: false,
        close_sent: false,
        decoder: Decoder::new(),
        #[cfg(feature = "deflate")]
        deflate: (Deflater::new(1, 15), Inflater::new(15), true),
    });
    if number % 4 != 3 {
        let far = fars.last_mut().expect("it was just added");
        harness.write(client, &std::mem::take(&mut far.request));
        harness.turn();
    }
}

/// One thing that a client does.
fn do_something(harness: &mut Harness<State>, far: &mut Far, what: u8, input: &mut Input<'_>) {
    let len = usize::from(input.byte());
    if !far.request.is_empty() {
        let rest = far.request.split_off(len.min(far.request.len()));
        harness.write(far.client, &std::mem::replace(&mut far.request, rest));
        return;
    }
    // 112 to 255: the upper bits choose the action, all bits choose the client.
    match (what - 112) / 8 {
        0..=6 => {
            let content = input.take(len).to_vec();
            far.send_message(harness, what & 4 != 0, content, what & 2 != 0);
        }
        7 => {
            far.pinged.push(vec![what; len / 2]);
            far.is_proper &= len / 2 <= 125;
            far.send_frame(harness, Opcode::Ping, true, false, &vec![what; len / 2]);
        }
        8 => far.send_frame(harness, Opcode::Pong, true, false, &[]),
        9 => {
            let mut payload = Vec::new();
            let code = CloseCode::from([1000, 1001, 3000, 1005][len % 4]);
            far.is_proper &= code.is_sendable();
            encode_close((len < 128).then_some((code, "bye")), &mut payload);
            far.send_frame(harness, Opcode::Close, true, false, &payload);
            far.close_sent = true;
        }
        10 => {
            far.is_proper = false;
            harness.write(far.client, input.take(len));
        }
        11 => harness.stop_reading(far.client),
        12 => harness.read_more(far.client, len * 8),
        13 => harness.resume_reading(far.client),
        14 => harness.wake(far.client),
        15 => {
            far.is_safe = false;
            harness.finish(far.client);
        }
        16 => {
            far.is_safe = false;
            harness.reset(far.client);
        }
        // Long enough for large reads, and for the message limit.
        _ => far.send_message(
            harness,
            true,
            vec![b'z'; len * if far.is_slow { 2 } else { 200 }],
            what & 2 != 0,
        ),
    }
}

impl Far {
    /// In one frame, or in three with a pong between.
    fn send_message(
        &mut self,
        harness: &mut Harness<State>,
        in_pieces: bool,
        content: Vec<u8>,
        compress: bool,
    ) {
        // Before the answer the client does not know whether there is compression.
        let is_text = str::from_utf8(&content).is_ok();
        let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
        let wire = if compress && self.is_compressed { self.deflated(&content) } else { None };
        let (wire, compressed) = (wire.as_ref().unwrap_or(&content), wire.is_some());
        if in_pieces {
            let (first, rest) = wire.split_at(wire.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            self.send_frame(harness, opcode, false, compressed, first);
            self.send_frame(harness, Opcode::Continuation, false, false, second);
            self.send_frame(harness, Opcode::Pong, true, false, b"between");
            self.send_frame(harness, Opcode::Continuation, true, false, third);
        } else {
            self.send_frame(harness, opcode, true, compressed, wire);
        }
        if !self.close_sent {
            self.sent.push((is_text, content));
        }
    }

    #[cfg(feature = "deflate")]
    fn deflated(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        let (deflater, _, keep) = &mut self.deflate;
        let mut out = Vec::new();
        deflater.deflate(content, *keep, &mut out);
        Some(out)
    }

    #[cfg(not(feature = "deflate"))]
    fn deflated(&mut self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn send_frame(
        &mut self,
        harness: &mut Harness<State>,
        opcode: Opcode,
        fin: bool,
        rsv1: bool,
        payload: &[u8],
    ) {
        let key = [1, 2, 3, payload.len() as u8];
        let header = FrameHeader {
            fin,
            rsv1,
            mask: Some(key),
            ..FrameHeader::new(opcode, payload.len() as u64)
        };
        let mut frame = Vec::new();
        header.encode(&mut frame);
        frame.extend_from_slice(payload);
        apply_mask(&mut frame[header.encoded_len()..], key, 0);
        harness.write(self.client, &frame);
    }

    /// Understands what the server has written.
    fn receive(&mut self, bytes: Vec<u8>) {
        if self.is_upgraded {
            return self.understand(bytes);
        }
        self.head.extend(bytes);
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        let rest = self.head.split_off(end + 4);
        let head = str::from_utf8(&self.head).expect("an answer is text");
        if !head.starts_with("HTTP/1.1 101 ") {
            assert!(
                !self.is_proper
                    || head.starts_with("HTTP/1.1 408 ")
                    || head.starts_with("HTTP/1.1 503 "),
                "{head}"
            );
            return;
        }
        self.is_upgraded = true;
        self.is_compressed = head.contains("permessage-deflate");
        #[cfg(feature = "deflate")]
        {
            self.deflate.2 = !head.contains("client_no_context_takeover");
        }
        self.understand(rest);
    }

    fn understand(&mut self, mut bytes: Vec<u8>) {
        let rules = Rules::default().role(Role::Client).compression(self.is_compressed);
        let mut input = &mut bytes[..];
        assert!(!self.is_closed || input.is_empty(), "bytes behind the close frame");
        while let Some(decoded) =
            self.decoder.decode(&mut input, &rules).expect("the server's frames are right")
        {
            match decoded {
                Decoded::Message(message) => {
                    self.received.push((message.is_text(), message.as_bytes().to_vec()))
                }
                #[cfg(feature = "deflate")]
                Decoded::Compressed(compressed) => {
                    let mut message = Vec::new();
                    let inflated =
                        self.deflate.1.inflate(&compressed.payload, 1 << 20, &mut message);
                    inflated.expect("the server's messages can be decompressed");
                    let message = compressed.into_message(message).expect("text stays text");
                    self.received.push((message.is_text(), message.as_bytes().to_vec()));
                }
                Decoded::Pong(data) if self.is_proper => {
                    let at = self.pinged.iter().position(|ping| **ping == *data);
                    self.pinged.remove(at.expect("a pong answers a ping, and one answers one"));
                }
                Decoded::Close(_) => {
                    assert!(input.is_empty(), "bytes behind the close frame");
                    self.is_closed = true;
                }
                _ => {}
            }
        }
    }
}

/// What holds at all times.
fn check(harness: &mut Harness<State>, fars: &mut [Far]) {
    for (at, far) in fars.iter_mut().enumerate() {
        let bytes = harness.read(far.client);
        far.receive(bytes);
        let state = harness.state();
        let side = &state.sides[at];
        for message in far.received.drain(..) {
            let mut rest = side.emitted.iter().skip(far.next);
            let gap = rest
                .position(|each| *each == message)
                .expect("what is received was emitted, in this order");
            assert!(
                gap == 0 || state.policy == SlowReader::DropOldest,
                "client {at} misses a message"
            );
            far.next += gap + 1;
            far.count += 1;
        }
        if far.is_proper {
            assert!(
                far.sent.starts_with(&side.heard),
                "listeners got a message that client {at} did not send"
            );
        }
        assert!(!far.is_upgraded || side.opened, "client {at} was upgraded without its route");
    }
    let (state, mut sockets) = harness.server().lend();
    assert_eq!(state.failures, [""; 0]);
    let most = state.max_outbox + BESIDE;
    sockets.for_each(|kws| {
        assert!(kws.waiting_bytes() <= most, "{} bytes wait", kws.waiting_bytes());
        state.sides[client_of(kws)].dropped = kws.dropped();
    });
    let open = clients(&mut sockets);
    assert_eq!(open.len(), sockets.len());
    for client in open {
        assert!(state.sides[client].opened && !state.sides[client].disconnected);
    }
}

/// All clients read what there is, then all clients leave.
fn end(harness: &mut Harness<State>, fars: &mut [Far]) {
    for far in fars.iter() {
        harness.resume_reading(far.client);
    }
    harness.settle();
    check(harness, fars);
    let open = clients(&mut harness.server().sockets());
    for (at, far) in fars.iter().enumerate() {
        let side = &harness.state().sides[at];
        let is_open = open.contains(&at);
        if far.is_safe && far.is_upgraded && !side.is_too_slow && (is_open || far.is_closed) {
            let due = side.emitted.len() - side.dropped.oldest as usize;
            assert_eq!(far.count, due, "client {at} did not get all that was emitted");
        }
        if far.is_safe && far.is_proper && far.is_upgraded && is_open {
            assert_eq!(
                side.heard.len(),
                far.sent.len(),
                "listeners did not hear all that client {at} sent"
            );
        }
    }
    for (at, far) in fars.iter().enumerate() {
        // What a full socket takes later is a sign of life: those would stay as long as they are
        // pinged.
        if at % 2 == 0 || far.blocks {
            harness.reset(far.client);
        }
    }
    harness.advance(Duration::from_secs(300));
    check(harness, fars);
    for (at, side) in harness.state().sides.iter().enumerate() {
        assert_eq!(side.opened, side.disconnected, "client {at}");
    }
    assert!(harness.server().sockets().is_empty());
}

/// A server, a client, and things to do.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let mut data = vec![random.byte(), random.byte()];
    for _ in 0..=random.below(3) {
        let settings = if random.one_in(2) { random.byte() & 0x80 } else { random.byte() };
        data.extend([0, settings, random.byte()]);
    }
    for _ in 0..random.below(50) {
        let what = match random.below(10) {
            0 => random.byte(),
            5 | 6 => 168 + random.below(88) as u8,
            1 | 2 => 20 + random.below(40) as u8,
            3 | 4 => 70 + random.below(40) as u8,
            _ => 112 + random.below(56) as u8,
        };
        data.push(what);
        match what {
            0..=19 => data.extend([random.byte(), random.byte()]),
            60..=69 | 111 => data.push(random.byte()),
            70..=109 => data.extend([random.byte(), random.byte()]),
            112..=167 => {
                let len = 2 * random.below(4);
                let content = random.bytes(len);
                data.push(content.len() as u8);
                data.extend(content);
            }
            192..=199 => {
                let len = random.below(20);
                let content = random.bytes(len);
                data.push(content.len() as u8);
                data.extend(content);
            }
            168..=191 | 200.. => data.push(random.byte()),
            _ => {}
        }
    }
    data
}
