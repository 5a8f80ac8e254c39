//! TLS: records and handshakes in any pieces, damaged, delayed and forged, from clients in memory
//! whose reads and writes fail. What holds:
//!
//! - no input makes the server panic, and each turn of its loop ends;
//! - the memory that a connection takes has a limit, whatever it is made of;
//! - a client that keeps to the protocol gets back what it sends, whole and in order, and
//!   close_notify in front of FIN.
//!
//! An input: settings, then one thing to do after the other. The sessions have random keys, so one
//! input may take different ways.

use std::sync::Arc;
use std::time::Duration;

use super::input::{Input, Random, cut};
use super::tls_client::{
    ALERT, APPLICATION_DATA, Forger, HANDSHAKE, TlsClient, client_config, handshake_message,
    plain_record, server_settings,
};
use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::testing::{Client, Faults, Harness, Received, Upgrade};
use ikisocket::{Event, Latest, Server};
use rustls::{ClientConfig, SupportedProtocolVersion, version};

const MOST_CLIENTS: usize = 3;
const MOST_STEPS: usize = 60;
/// The most bytes that one step sends.
const MOST_SENT: usize = 100_000;
/// The most bytes that a server and its clients take, those included that are on their way.
pub const MOST_MEMORY: usize = 8 * 1024 * 1024;

/// What the server's callbacks have seen.
#[derive(Default)]
struct State {
    opened: u64,
    disconnected: u64,
    /// A message was refused, or a connection was closed from this side.
    closed: bool,
    /// Time has passed.
    waited: bool,
}

/// The client's end of one connection.
struct Far {
    client: Client,
    speaks: Speaks,
    /// Ciphertext that it has not sent.
    held: Vec<u8>,
    /// It has sent nothing but what rustls has made, whole and in order.
    is_proper: bool,
    /// Its faults make its socket look full when it is not, so that what is sent at the end of its
    /// time may be lost.
    blocks: bool,
    /// The network loses nothing.
    is_safe: bool,
    /// The number of bytes that it may still send: few if few pass at a time.
    allowance: usize,
    /// The payload of each message that it has sent.
    sent: Vec<Vec<u8>>,
    asked: bool,
    /// New keys since the last data.
    updates: u32,
    closes: bool,
}

enum Speaks {
    Tls(Box<TlsClient>),
    Forged(Forger),
    Bytes,
}

pub fn run(data: &[u8]) {
    run_measured(data, || 0);
}

/// `memory` is the number of bytes that are allocated now.
pub fn run_measured(data: &[u8], memory: impl Fn() -> usize) {
    let mut input = Input::new(data);
    let settings = input.byte();
    let config = Arc::new(client_config(VERSIONS[usize::from(settings & 1)]));
    server_settings();
    let before = memory();
    let mut harness = Harness::new(server(settings));
    let mut fars: Vec<Far> = Vec::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        if fars.is_empty() || (what < 16 && fars.len() < MOST_CLIENTS) {
            fars.push(dial(&mut harness, &config, &mut input));
            continue;
        }
        let at = usize::from(what >> 5) % fars.len();
        act(&mut harness, &mut fars[at], what & 31, &mut input);
        let taken = memory().saturating_sub(before);
        assert!(taken <= MOST_MEMORY, "{taken} bytes are taken");
    }
    end(harness, fars, settings >> 3 & 1 == 1);
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

fn server(settings: u8) -> Server<State> {
    let mut server = Server::builder()
        .max_outbox([5000, 300_000][usize::from(settings >> 1 & 1)])
        .max_message(100_000)
        .receive_buffer([1024, 80_000][usize::from(settings >> 2 & 1)])
        .build(State::default())
        .expect("the settings are in range");
    server.route("/ws", |state, _| state.opened += 1).expect("it is a pattern");
    let latest = settings >> 3 & 1 == 1;
    server.on(Event::Message, move |state, ep| {
        let emitted = match latest {
            true => ep.kws.emit(Latest(u64::from(ep.data.len() as u8 & 1), ep.data)),
            false => ep.kws.emit(ep.data),
        };
        state.closed |= emitted.ok().is_err();
    });
    server.on(Event::Disconnect, |state, _| state.disconnected += 1);
    server
}

fn dial(harness: &mut Harness<State>, config: &Arc<ClientConfig>, input: &mut Input<'_>) -> Far {
    let [settings, number] = input.array();
    let number = usize::from(number);
    let mut faults = Faults::none();
    if settings & 1 != 0 {
        faults = faults.segments(1 + number * 8);
    }
    if settings & 2 != 0 {
        faults = faults.interrupted();
    }
    if settings & 4 != 0 {
        faults = faults.would_block();
    }
    if settings & 8 != 0 {
        faults = faults.window(1 + number * 64);
    }
    let is_safe = settings & 16 == 0;
    match settings >> 4 & 7 {
        1 => faults = faults.fin_after_sending(number * 8),
        3 => faults = faults.reset_after_sending(number * 8),
        5 => faults = faults.reset_after_receiving(number * 8),
        _ => {}
    }
    let speaks = match settings >> 7 {
        0 => Speaks::Tls(Box::new(TlsClient::new(config))),
        _ => Speaks::Bytes,
    };
    let client = harness.dial_tls(server_settings(), faults).expect("it does not shut down");
    Far {
        client,
        is_proper: matches!(speaks, Speaks::Tls(_)),
        speaks,
        held: Vec::new(),
        blocks: settings & 12 != 0,
        is_safe,
        allowance: if settings & 9 != 0 && number < 32 { 10_000 } else { 400_000 },
        sent: Vec::new(),
        asked: false,
        updates: 0,
        closes: false,
    }
}

/// Whether both sides have shaken hands, and the client has asked for a WebSocket.
fn act(harness: &mut Harness<State>, far: &mut Far, what: u8, input: &mut Input<'_>) {
    match what {
        0..4 => exchange(harness, far),
        4..7 => {
            if let (Speaks::Tls(tls), false) = (&mut far.speaks, far.closes) {
                if !std::mem::replace(&mut far.asked, true) {
                    tls.write(&Upgrade::to("/ws").encode());
                }
                let [len, times] = input.array();
                let len = usize::from(len) << (times & 7);
                for time in 0..=times >> 5 {
                    if len > far.allowance {
                        break;
                    }
                    far.allowance -= len;
                    far.updates = 0;
                    let payload = vec![time ^ len as u8; len];
                    tls.write(&frame(Opcode::Binary, &payload));
                    far.sent.push(payload);
                }
            }
        }
        // What the client has to send goes out in pieces, and is seen in pieces.
        7 | 8 => {
            collect(far);
            let sizes = input.array::<4>();
            let held = std::mem::take(&mut far.held);
            for piece in cut(&held, &sizes).into_iter().take(200) {
                harness.write(far.client, piece);
                harness.turn();
                far.held.drain(..0);
            }
            let sent: usize =
                cut(&held, &sizes).into_iter().take(200).map(|piece| piece.len()).sum();
            far.held.extend_from_slice(&held[sent..]);
        }
        // The first bytes go out, the rest later.
        9 => {
            collect(far);
            let len = usize::from(input.byte()).min(far.held.len());
            let first: Vec<u8> = far.held.drain(..len).collect();
            harness.write(far.client, &first);
        }
        // A byte is turned, taken out or put in.
        10 | 11 => {
            collect(far);
            let [how, high, low, byte] = input.array();
            let at = usize::from(u16::from_be_bytes([high, low])) % far.held.len().max(1);
            if at < far.held.len() {
                far.is_proper = false;
                match how & 3 {
                    0 => far.held[at] ^= byte | 1,
                    1 => drop(far.held.remove(at)),
                    2 => far.held.insert(at, byte),
                    _ => far.held.truncate(at),
                }
            }
        }
        // Handshake records without encryption are cut into small ones.
        12 => {
            collect(far);
            if let Some(messages) = far.held.strip_prefix(&[HANDSHAKE, 3, 1])
                && let Some((len, rest)) = messages.split_at_checked(2)
            {
                let len = usize::from(u16::from_be_bytes([len[0], len[1]])).min(rest.len());
                let sizes = input.array::<2>();
                let mut records = Vec::new();
                for piece in cut(&rest[..len], &sizes) {
                    records.extend_from_slice(&plain_record(HANDSHAKE, piece));
                }
                records.extend_from_slice(&rest[len..]);
                far.held = records;
            }
        }
        13 => {
            let len = usize::from(input.byte());
            send_raw(harness, far, input.take(len).to_vec());
        }
        // The closing handshake, in which nothing more comes back.
        14 => {
            harness.state().closed = true;
            let close = frame(Opcode::Close, b"\x03\xe8");
            match &mut far.speaks {
                Speaks::Tls(tls) if far.asked => tls.write(&close),
                Speaks::Forged(forger) => {
                    let record = forger.record(APPLICATION_DATA, &close);
                    harness.write(far.client, &record);
                }
                Speaks::Tls(_) | Speaks::Bytes => {}
            }
        }
        15 => {
            let [content_type, len] = input.array();
            let payload = input.take(usize::from(len)).to_vec();
            let record = record(far, content_type, &payload);
            send_raw(harness, far, record);
        }
        // A handshake message in many pieces, with empty ones between them.
        16 | 17 => {
            let [message_type, high, low, size, empty, times] = input.array();
            let len = u32::from_be_bytes([0, 0, high, low]);
            let body = vec![size; (usize::from(times) * 64).min(MOST_SENT / 64)];
            let mut records = Vec::new();
            for piece in cut(&handshake_message(message_type, len, &body), &[size]) {
                for _ in 0..empty % 12 {
                    records.extend_from_slice(&record(far, HANDSHAKE, b""));
                }
                records.extend_from_slice(&record(far, HANDSHAKE, piece));
            }
            records.truncate(MOST_SENT);
            send_raw(harness, far, records);
        }
        // Records without data, between records that have little.
        18 => {
            let [content_type, times] = input.array();
            let mut records = Vec::new();
            for _ in 0..times {
                records.extend_from_slice(&record(far, content_type, b""));
                records.extend_from_slice(&record(far, APPLICATION_DATA, &[times]));
            }
            send_raw(harness, far, records);
        }
        19 => {
            let [level, description] = input.array();
            let alert = record(far, ALERT, &[level, description]);
            send_raw(harness, far, alert);
        }
        20 | 21 => {
            // The keys of a client, for what rustls does not send.
            exchange(harness, far);
            if let Speaks::Tls(tls) = std::mem::replace(&mut far.speaks, Speaks::Bytes) {
                far.is_proper = false;
                if let Some(forger) = tls.into_forger() {
                    far.speaks = Speaks::Forged(forger);
                }
            }
        }
        22 => {
            if let (Speaks::Tls(tls), false) = (&mut far.speaks, far.closes) {
                for _ in 0..=input.byte() & 31 {
                    let _ = tls.connection.refresh_traffic_keys();
                    far.updates += 1;
                }
                // A peer that sends no data between them is cut off.
                far.is_proper &= far.updates < 30;
            }
        }
        23 => {
            if let Speaks::Tls(tls) = &mut far.speaks {
                far.is_proper &= !tls.connection.is_handshaking();
                tls.connection.send_close_notify();
                far.closes = true;
                collect(far);
            }
        }
        24 => harness.stop_reading(far.client),
        25 => harness.read_more(far.client, usize::from(input.byte())),
        26 => {
            harness.resume_reading(far.client);
        }
        27 => {
            harness.state().waited = true;
            harness.advance(Duration::from_millis(u64::from(input.byte()) * 100))
        }
        28 => {
            let (_, mut sockets) = harness.server().lend();
            sockets.for_each(|kws| {
                let _ = kws.ping("are you there?");
            });
        }
        29 => {
            far.is_safe = false;
            if input.byte() & 1 == 1 {
                // Behind it FIN comes at once.
                far.is_proper = false;
                let record = record(far, HANDSHAKE, &handshake_message(99, 3, b"abc"));
                harness.write(far.client, &record);
            }
            harness.finish(far.client);
        }
        30 if input.byte() < 64 => {
            let (_, mut sockets) = harness.server().lend();
            for uuid in sockets.uuids() {
                sockets.get(uuid).expect("it is open").close();
            }
            harness.state().closed = true;
        }
        _ => drop(harness.turn()),
    }
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let header =
        FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(opcode, payload.len() as u64) };
    let mut frame = Vec::new();
    header.encode(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// Adds what the client has to send to what is held.
fn collect(far: &mut Far) {
    if let Speaks::Tls(tls) = &mut far.speaks {
        far.held.extend(tls.take_output());
    }
}

/// Bytes move both ways until nothing moves.
fn exchange(harness: &mut Harness<State>, far: &mut Far) {
    for _ in 0..20 {
        collect(far);
        let sends = !far.held.is_empty();
        harness.write(far.client, &std::mem::take(&mut far.held));
        let bytes = harness.read(far.client);
        // A second alert would be an assertion of the client's rustls.
        if let Speaks::Tls(tls) = &mut far.speaks
            && (far.is_proper || !far.closes)
        {
            tls.hear(&bytes);
        }
        if !sends && bytes.is_empty() {
            return;
        }
    }
}

/// A record: with the client's keys if there are any.
fn record(far: &mut Far, content_type: u8, payload: &[u8]) -> Vec<u8> {
    match &mut far.speaks {
        Speaks::Forged(forger) => forger.record(content_type, payload),
        _ => plain_record(content_type, payload),
    }
}

/// Sends bytes that rustls has not made.
fn send_raw(harness: &mut Harness<State>, far: &mut Far, bytes: Vec<u8>) {
    collect(far);
    let bytes = &bytes[..bytes.len().min(far.allowance)];
    far.allowance -= bytes.len();
    far.is_proper &= bytes.is_empty();
    harness.write(far.client, &std::mem::take(&mut far.held));
    harness.write(far.client, bytes);
    harness.turn();
}

/// What was held arrives, and what a proper client has sent comes back.
fn end(mut harness: Harness<State>, fars: Vec<Far>, latest: bool) {
    for mut far in fars {
        harness.resume_reading(far.client);
        exchange(&mut harness, &mut far);
        exchange(&mut harness, &mut far);
        let ended = harness.received(far.client);
        harness.finish(far.client);
        let rest = harness.read(far.client);
        let Speaks::Tls(tls) = &mut far.speaks else { continue };
        if !far.is_proper {
            continue;
        }
        assert!(!tls.failed, "the server has broken the protocol");
        let came = messages(&tls.plaintext);
        if latest {
            assert!(came.iter().all(|payload| far.sent.contains(payload)), "a message is mixed");
        } else {
            let mut sent = far.sent.iter();
            assert!(
                came.iter().all(|payload| sent.any(|each| each == payload)),
                "a message is mixed"
            );
            let is_whole = ended.is_empty() && far.is_safe && !harness.state().closed;
            assert!(!is_whole || came.len() == far.sent.len(), "a message is missing");
        }
        tls.hear(&rest);
        let ended = [ended, harness.received(far.client)].concat();
        if far.is_safe
            && !(far.blocks && harness.state().waited)
            && tls.plaintext.starts_with(b"HTTP/1.1 101 ")
            && ended.contains(&Received::Fin)
        {
            let state = tls.connection.process_new_packets().expect("it has not failed");
            assert!(state.peer_has_closed(), "FIN came without close_notify");
        }
    }
    let stats = harness.server().stats();
    let left = stats.open + stats.handshaking + stats.closing + stats.draining;
    assert_eq!(left, 0, "each connection ends at once behind FIN: {stats:?}");
    let state = harness.state();
    assert_eq!(state.opened, state.disconnected, "each connection ends");
}

/// The messages behind the response.
fn messages(plaintext: &[u8]) -> Vec<Vec<u8>> {
    let Some(head) = plaintext.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Vec::new();
    };
    let mut rest = &plaintext[head + 4..];
    let mut messages = Vec::new();
    while let Some((header, len)) = FrameHeader::parse(rest).expect("frames follow each other") {
        let end = len + header.len as usize;
        let Some(payload) = rest.get(len..end) else { break };
        if header.opcode == Opcode::Binary {
            messages.push(payload.to_vec());
        }
        rest = &rest[end..];
    }
    messages
}

/// An input of the shape that `run` reads.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let mut input = vec![random.byte()];
    let style = random.below(3);
    for _ in 0..1 + random.below(3) {
        input.push(0);
        let settings = random.byte();
        input.push(if style < 2 { settings & 0x0f } else { settings });
        input.push(random.byte());
        if style == 1 {
            // A WebSocket is open, and its records are forged from now on.
            input.extend([0x24, 1, 1, 0x20, 0x34]);
        }
        for _ in 0..random.below(16) {
            let what = match style {
                0 => random.pick(&[0, 1, 4, 5, 6, 7, 8, 9, 14, 22, 24, 25, 26, 27, 28, 31]),
                1 => random.pick(&[0, 13, 14, 15, 16, 17, 18, 19, 24, 26, 27, 28, 29, 30, 31]),
                _ => random.below(32) as u8,
            };
            input.push(what | (random.byte() & 0xe0));
            let len = random.below(8);
            input.extend(random.bytes(len));
        }
    }
    input
}
