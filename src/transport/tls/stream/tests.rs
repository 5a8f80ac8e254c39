//! A stream over TLS between a pipe with faults and a client of rustls.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ServerConfig;
use rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite,
    SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite, version,
};

use super::*;
use crate::outbox::{Outbox, Stage, WRITE_THROUGH};
use crate::protocol::{FrameHeader, Opcode, encode_frame, frame_len};
use crate::transport::faults::{End as PipeEnd, Faults};
use crate::transport::memory::{FarEnd, Readiness, pair};
use crate::transport::tls::provider;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// The same numbers in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    /// Faults, and whether they let only a few bytes through at a time.
    fn faults(&mut self) -> (Faults, bool) {
        let small = self.one_in(3);
        let (writes, window) = match small {
            true => (self.of(&[1, 3, 30]), self.of(&[1, 30, usize::MAX])),
            false => (
                self.of(&[1460, 16_000, usize::MAX, usize::MAX]),
                self.of(&[2000, 17_000, 100_000, usize::MAX]),
            ),
        };
        let reads = self.of(&[1, 2, 5, 100, 1460, usize::MAX, usize::MAX]);
        let mut faults = Faults::none().reads_of(reads).writes_of(writes).window(window);
        if self.one_in(3) {
            faults = faults.interrupted();
        }
        if self.one_in(3) {
            faults = faults.would_block();
        }
        (faults, small)
    }
}

fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls() -> Tls {
    Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap()
}

/// Both sides of a connection.
struct Sides {
    stream: TlsStream,
    far: FarEnd,
    client: ClientConnection,
    /// The client's ciphertext that it has not sent.
    to_send: VecDeque<u8>,
    /// What the poll has reported.
    readable: bool,
    /// A reply follows to each read, and takes along what the session has to send.
    replies: bool,
    /// The socket was full, and the poll has not reported that it has room again.
    blocked: bool,
    /// Plaintext that has arrived.
    at_server: Vec<u8>,
    at_client: Vec<u8>,
    /// The end of the client's input as the server has seen it.
    ended: bool,
    /// The server's end, as the client has seen it.
    end: Option<PipeEnd>,
    buffer: Vec<u8>,
}

impl Sides {
    fn new(faults: Faults, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(faults, version, &tls())
    }

    fn with(faults: Faults, version: &'static SupportedProtocolVersion, tls: &Tls) -> Self {
        let (wire, far) = pair(faults);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("root.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider::chosen().unwrap()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        client.set_buffer_limit(None);
        Self {
            stream: Common::default().accept(PlainStream::Memory(wire), tls),
            far,
            client,
            to_send: VecDeque::new(),
            readable: false,
            replies: false,
            blocked: false,
            at_server: Vec::new(),
            at_client: Vec::new(),
            ended: false,
            end: None,
            buffer: vec![0; LEAST_BUFFER],
        }
    }

    /// A connection that has shaken hands, without faults until then.
    fn open(version: &'static SupportedProtocolVersion) -> Self {
        let mut sides = Self::new(Faults::none(), version);
        sides.exchange();
        assert!(!sides.client.is_handshaking() && !sides.stream.is_handshaking());
        sides
    }

    /// Moves bytes until nothing moves any more.
    fn exchange(&mut self) {
        for _ in 0..100 {
            self.client_sends(usize::MAX);
            self.serve();
            self.client_receives(usize::MAX);
        }
    }

    fn client_writes(&mut self, plaintext: &[u8]) {
        self.client.writer().write_all(plaintext).unwrap();
    }

    /// The client's ciphertext goes on its way, up to `most` bytes of it.
    fn client_sends(&mut self, most: usize) {
        let mut output = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut output).unwrap();
        }
        self.to_send.extend(output);
        let now: Vec<u8> = self.to_send.drain(..most.min(self.to_send.len())).collect();
        self.far.send(&now);
    }

    fn client_receives(&mut self, most: usize) {
        let (bytes, end) = self.far.receive(most);
        let mut input = &bytes[..];
        while !input.is_empty() {
            self.client.read_tls(&mut input).unwrap();
            self.client.process_new_packets().unwrap();
            let _ = self.client.reader().read_to_end(&mut self.at_client);
        }
        self.end = self.end.or(end);
    }

    /// Handles what the poll reports, as the loop does: reads until a read is short, and sends what
    /// waits.
    fn serve(&mut self) {
        if let Some(Readiness { readable, writable, .. }) = self.far.take_readiness() {
            self.readable |= readable;
            if writable {
                self.blocked = false;
                self.stream.write_unsent().unwrap();
            }
        }
        while std::mem::take(&mut self.readable) {
            self.readable = match self.stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    false
                }
                Ok(read) => {
                    self.at_server.extend_from_slice(&self.buffer[..read]);
                    if self.stream.is_unoffered() && !self.replies {
                        self.stream.write_unsent().unwrap();
                    }
                    self.stream.has_more()
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    !self.stream.has_read() || self.stream.has_more()
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    false
                }
            };
        }
    }

    /// Offers plaintext, as an outbox does: a piece of it if everything is not taken at once, and
    /// nothing more before the poll reports room. Returns how much was taken.
    fn server_writes(&mut self, slices: &[&[u8]]) -> usize {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.blocked || offered == 0 {
            return 0;
        }
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let taken = match self.stream.write_vectored(&slices) {
            Ok(taken) => taken,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                0
            }
        };
        self.blocked = taken < offered;
        taken
    }

    fn is_at_rest(&self) -> bool {
        !self.readable && !self.far.has_readiness() && self.to_send.is_empty()
    }
}

/// Cuts bytes into slices, some of them empty.
fn cut<'b>(random: &mut Random, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut slices = Vec::new();
    while !bytes.is_empty() && slices.len() < 10 {
        let most = random.of(&[1, 2, 10, 1000, 20_000, 70_000]);
        let len = random.below(most + 1).min(bytes.len());
        slices.push(&bytes[..len]);
        bytes = &bytes[len..];
    }
    slices
}

#[test]
fn whatever_the_pipe_does_plaintext_arrives_whole_and_in_order() {
    let (mut blocked, mut withheld, mut in_between) = (0, 0, 0);
    for round in 0..40 {
        let mut random = Random(0x7E15_0001 + round);
        let (faults, small) = random.faults();
        let version = VERSIONS[random.below(2)];
        let mut sides = Sides::new(faults.clone(), version);
        sides.replies = random.one_in(2);
        let most = if small { 2000 } else { 80_000 };
        let upward: Vec<u8> = (0..random.below(most)).map(|_| random.below(256) as u8).collect();
        let downward: Vec<u8> = (0..random.below(most)).map(|_| random.below(256) as u8).collect();
        let (mut sent, mut taken) = (0, 0);
        let mut steps = 0;
        while sent < upward.len()
            || taken < downward.len()
            || sides.at_server.len() < upward.len()
            || sides.stream.is_handshaking()
        {
            steps += 1;
            assert!(steps < 2_000_000, "round {round} with {faults:?} does not end");
            match random.below(8) {
                0 if random.one_in(8) && !sides.client.is_handshaking() => {
                    // A read stops between short records when there are many.
                    for _ in 0..400.min(upward.len() - sent) {
                        sides.client_writes(&upward[sent..=sent]);
                        sent += 1;
                    }
                }
                0 if sent < upward.len() => {
                    let most = random.of(&[1, 20, 3000, 40_000]);
                    let len = (1 + random.below(most)).min(upward.len() - sent);
                    sides.client_writes(&upward[sent..sent + len]);
                    sent += len;
                }
                1 if random.one_in(4)
                    && !sides.client.is_handshaking()
                    && version.version == rustls::ProtocolVersion::TLSv1_3
                    && sent < upward.len() =>
                {
                    sides.client.refresh_traffic_keys().unwrap();
                    // A peer that sends only these is cut off.
                    sides.client_writes(&upward[sent..sent + 1]);
                    sent += 1;
                }
                2 | 3 => {
                    let most = random.of(&[1, 7, 500, usize::MAX]);
                    sides.client_sends(most);
                }
                4 => {
                    let most = random.of(&[1, 100, 5000, usize::MAX]);
                    sides.client_receives(most);
                }
                5 if !sides.stream.is_handshaking() => {
                    let most = random.of(&[1, 2, 50, 40_000, 200_000]);
                    let end = downward.len().min(taken + 1 + random.below(most));
                    let slices = cut(&mut random, &downward[taken..end]);
                    taken += sides.server_writes(&slices);
                    blocked += usize::from(sides.blocked);
                    withheld += usize::from(sides.stream.withheld);
                    in_between +=
                        usize::from(!sides.stream.unsent.is_empty() && !sides.stream.withheld);
                }
                _ => sides.serve(),
            }
            assert!(upward.starts_with(&sides.at_server), "round {round} with {faults:?}");
            assert!(downward.starts_with(&sides.at_client), "round {round} with {faults:?}");
            assert!(
                sides.at_client.len() <= taken + usize::from(sides.stream.withheld),
                "what has arrived is not forgotten"
            );
            assert!(sides.stream.kept.memory.len() <= LONGEST_RECORD);
            assert!(sides.stream.unsent.len() <= AT_ONCE + 2 * LONGEST_RECORD);
        }
        // All was taken: without another call of the stream, all of it arrives.
        assert!(!sides.stream.withheld);
        sides.client_receives(usize::MAX);
        assert!(sides.at_client == downward, "round {round} with {faults:?}: an end is missing");

        // The ends, in either order.
        let first = random.one_in(2);
        if first {
            sides.client.send_close_notify();
        }
        sides.stream.shutdown_write().unwrap();
        if !first {
            sides.client.send_close_notify();
        }
        for _ in 0..100_000 {
            if sides.end.is_some() && sides.is_at_rest() {
                break;
            }
            sides.client_sends(usize::MAX);
            sides.serve();
            let most = random.of(&[1, 10, usize::MAX]);
            sides.client_receives(most);
        }
        assert_eq!(sides.end, Some(PipeEnd::Fin), "round {round} with {faults:?}");
        let state = sides.client.process_new_packets().unwrap();
        assert!(state.peer_has_closed(), "FIN came without close_notify in front");
        assert!(!sides.stream.is_truncated());
        sides.far.end(PipeEnd::Fin);
        for _ in 0..4 {
            sides.serve();
        }
        assert!(sides.ended);
    }
    assert!(
        blocked > 1000 && withheld > 100 && in_between > 100,
        "{blocked} blocked, {withheld} withheld, {in_between} in between"
    );
}

/// The frames that a client has received.
fn frames(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut frames = Vec::new();
    while let Some(len) = frame_len(bytes).filter(|&len| len <= bytes.len()) {
        FrameHeader::parse(bytes).expect("a frame begins here");
        frames.push(bytes[..len].to_vec());
        bytes = &bytes[len..];
    }
    (frames, bytes.to_vec())
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(opcode, payload, &mut frame);
    frame
}

#[test]
fn a_frame_whose_first_byte_ends_a_record_is_not_overtaken_or_dropped() {
    for (before, version) in
        [AT_ONCE - 2, AT_ONCE - 1, AT_ONCE].into_iter().zip(VERSIONS.into_iter().cycle())
    {
        for window in [0, 1, 100, RECORD, AT_ONCE, AT_ONCE + 60, AT_ONCE + 120] {
            let mut sides = Sides::open(version);
            sides.far.make_room(window);
            let mut stage = Stage::default();
            let mut outbox = Outbox::Empty;
            let long = frame(Opcode::Binary, &vec![7; before - 4]);
            assert_eq!(long.len(), before);
            let behind = frame(Opcode::Text, &[b'b'; 2 * SHORT_TAIL]);
            outbox.push_frame(&mut stage, Opcode::Binary, &long[4..]);
            outbox.push_frame(&mut stage, Opcode::Text, &behind[4..]);
            outbox.flush(&mut stage, &mut sides.stream, 0).unwrap();
            assert!(outbox.is_blocked(), "{window}");
            outbox.push_control(&mut stage, Opcode::Ping, b"ping");
            outbox.drop_oldest(0, 0, None);
            sides.far.make_room(usize::MAX);
            outbox.flush(&mut stage, &mut sides.stream, 0).unwrap();
            assert!(outbox.is_empty());
            sides.client_receives(usize::MAX);
            let (mut received, rest) = frames(&sides.at_client);
            assert!(rest.is_empty());
            assert!(received.contains(&frame(Opcode::Ping, b"ping")), "{before} into {window}");
            received.retain(|each| each[0] != frame(Opcode::Ping, b"")[0]);
            assert!(received.iter().all(|each| *each == long || *each == behind));
        }
    }
}

/// The number in front of a payload.
fn number(frame: &[u8]) -> u32 {
    let (header, len) = FrameHeader::parse(frame).unwrap().unwrap();
    assert!(header.fin);
    u32::from_be_bytes(frame[len..len + 4].try_into().unwrap())
}

#[test]
fn whatever_the_pipe_does_frames_of_an_outbox_arrive_whole() {
    let (mut arrived, mut replaced, mut dropped, mut overtook, mut begun) = (0, 0, 0, 0, 0);
    for round in 0..40 {
        let mut random = Random(0x0DDB_A115 + round);
        let (faults, small) = random.faults();
        let mut sides = Sides::new(faults.clone(), VERSIONS[random.below(2)]);
        let (mut stage, mut outbox) = (Stage::default(), Outbox::Empty);
        let compresses = random.one_in(3);
        let mut compressed = 0u32;
        // Every payload begins with its number, and each byte of it is that number's.
        let mut next = 0u32;
        let mut messages = 0;
        let (mut lost, mut steps) = (0, 0);
        while sides.stream.is_handshaking() {
            sides.client_sends(usize::MAX);
            sides.serve();
            sides.client_receives(usize::MAX);
        }
        let length = 100 + random.below(300);
        loop {
            steps += 1;
            assert!(steps < 2_000_000, "round {round} with {faults:?} does not end");
            let ends = steps > length;
            if ends && outbox.is_empty() {
                break;
            }
            let most = if small { 40 } else { random.of(&[4, 40, 2000, 17_000]) };
            let mut len = 4 + random.below(most);
            if !small && random.one_in(4) {
                // The next frame begins with the last bytes of a record, or of a send.
                let length = random.of(&[RECORD, AT_ONCE]);
                let left = length - (outbox.waiting() % length);
                len = left.saturating_sub(4 + random.below(3)).max(4);
            }
            let payload: Vec<u8> = next.to_be_bytes().into_iter().cycle().take(len).collect();
            let control: Vec<u8> = payload[..len.min(100)].to_vec();
            let opcode = random.of(&[Opcode::Text, Opcode::Binary]);
            let step = if ends { 20 } else { random.below(24) };
            match step {
                0..4 => {
                    next += 1;
                    messages += 1;
                    match compresses && random.one_in(2) {
                        true => {
                            outbox.use_queue(&mut stage);
                            outbox.push_frame(&mut stage, opcode.compressed(), &payload);
                        }
                        false => outbox.push_frame(&mut stage, opcode, &payload),
                    }
                }
                4 | 5 => {
                    next += 1;
                    messages += 1;
                    let mut shared = stage.share(opcode, &payload);
                    outbox.push_shared(&mut stage, &mut shared);
                    stage.end_share(shared);
                }
                6..9 => {
                    next += 1;
                    let opcode = random.of(&[Opcode::Ping, Opcode::Pong]);
                    overtook += usize::from(outbox.is_blocked());
                    outbox.push_control(&mut stage, opcode, &control);
                }
                9..12 => {
                    next += 1;
                    messages += 1;
                    let key = random.below(3) as u64;
                    let kind = opcode.into();
                    let over = outbox.push_latest(&mut stage, kind, &payload, key);
                    lost += usize::from(over);
                    replaced += usize::from(over);
                }
                12 if !compresses && !small => {
                    next += 1;
                    messages += 1;
                    let bytes = (next - 1).to_be_bytes().into_iter().cycle();
                    let payload: Vec<u8> = bytes.take(WRITE_THROUGH + len).collect();
                    let flushed =
                        outbox.write_through(&mut stage, opcode, &payload, &mut sides.stream, 0);
                    flushed.unwrap();
                }
                13 if random.one_in(3) => {
                    let limit = random.below(40_000);
                    let some = outbox.drop_oldest(len, limit, None) as usize;
                    lost += some;
                    dropped += some;
                }
                14 if !compresses && random.one_in(5) => {
                    // What has begun stays.
                    let before = outbox.messages(&stage);
                    begun += usize::from(outbox.is_mid_frame());
                    outbox.drop_waiting(&mut stage);
                    lost += before - outbox.messages(&stage);
                }
                15 | 16 => {
                    let most = random.of(&[1, 100, 5000, usize::MAX]);
                    sides.client_receives(most);
                }
                17 => {
                    sides.client_writes(b"to the server");
                    sides.client_sends(usize::MAX);
                }
                _ => {
                    sides.serve();
                    if !outbox.is_blocked() || !sides.blocked {
                        let mut compress = |payload: &[u8], out: &mut Vec<u8>| {
                            out.extend_from_slice(&compressed.to_be_bytes());
                            out.extend_from_slice(payload);
                            compressed += 1;
                        };
                        let flushed = match compresses {
                            true => outbox.flush_compressing(
                                &mut stage,
                                &mut sides.stream,
                                0,
                                &mut compress,
                            ),
                            false => outbox.flush(&mut stage, &mut sides.stream, 0),
                        };
                        flushed.unwrap();
                    }
                    sides.blocked = outbox.is_blocked();
                    if ends {
                        sides.client_receives(usize::MAX);
                    }
                }
            }
        }
        // The outbox is empty: without another call of the stream, everything arrives.
        sides.client_receives(usize::MAX);
        let (received, rest) = frames(&sides.at_client);
        assert!(rest.is_empty(), "round {round} with {faults:?}: a frame is cut");
        let mut last = [None; 2];
        let mut came = 0;
        let mut context = 0;
        let mut seen = std::collections::HashSet::new();
        for mut frame in received {
            let (header, len) = FrameHeader::parse(&frame).unwrap().unwrap();
            let mut payload = frame.split_off(len);
            if header.rsv1 {
                // A compressed frame refers to those before it.
                assert_eq!(payload[..4], u32::to_be_bytes(context), "round {round}");
                context += 1;
                payload.drain(..4);
            }
            let own = number(&[&[0x82, 4], &payload[..4]].concat());
            let whole: Vec<u8> =
                own.to_be_bytes().into_iter().cycle().take(payload.len()).collect();
            assert!(payload == whole, "round {round} with {faults:?}: a frame is mixed");
            assert!(seen.insert(own), "round {round} with {faults:?}: {own} came twice");
            if header.opcode == Opcode::Pong || header.opcode == Opcode::Ping {
                continue;
            }
            came += 1;
            // A message with a key may stand in the place of an older one.
            let order = &mut last[0];
            *order = Some(own);
        }
        assert_eq!(came + lost, messages, "round {round} with {faults:?}");
        arrived += came;
    }
    assert!(
        arrived > 1000 && replaced > 100 && dropped > 100 && overtook > 1000 && begun > 20,
        "{arrived} arrived, {replaced} replaced, {dropped} dropped, {overtook} overtook, {begun} begun"
    );
}

/// The bytes that reads of all connections have left.
fn left(sides: &Sides) -> usize {
    sides.stream.common.0.borrow().left
}

#[test]
fn what_a_read_has_left_is_not_counted_any_more_when_it_is_forgotten() {
    for version in VERSIONS {
        for end in 0..6 {
            let mut sides = Sides::open(version);
            for _ in 0..1000 {
                sides.client_writes(b"a");
            }
            if end == 0 {
                sides.client.send_close_notify();
            }
            sides.client_sends(usize::MAX);
            if end == 1 {
                sides.far.send(&[0xff; 100]);
            }
            let read = sides.stream.read(&mut sides.buffer).unwrap();
            assert!((1..1000).contains(&read) && sides.stream.has_more());
            assert!(left(&sides) > 10_000);
            let common = sides.stream.common.clone();
            match end {
                // It is read to its end.
                0 | 1 => {
                    while sides.stream.read(&mut sides.buffer).is_ok_and(|read| read > 0) {}
                    assert_eq!(common.0.borrow().left, 0);
                }
                2 => sides.stream.shutdown_write().unwrap(),
                3 => sides.stream.reset_on_drop(),
                4 => {
                    sides.far.end(PipeEnd::Reset);
                    sides.stream.write(b"broken").unwrap_err();
                }
                _ => {}
            }
            drop(sides);
            assert_eq!(common.0.borrow().left, 0, "{end}");
        }
    }
}

#[test]
fn a_client_that_only_sends_takes_little_memory() {
    let mut sides = Sides::open(&version::TLS13);
    sides.far.make_room(0);
    for _ in 0..500 {
        // An answer to new keys waits for the next record.
        sides.client.refresh_traffic_keys().unwrap();
        sides.client_writes(b"a");
        sides.client_sends(usize::MAX);
        sides.serve();
        sides.server_writes(&[b"to a client that does not read"]);
        assert!(sides.stream.unsent.len() < 200 && sides.stream.kept.memory.is_empty());
    }
    assert_eq!(sides.at_server, vec![b'a'; 500]);
}

#[test]
fn a_client_that_reads_nothing_of_the_handshake_takes_little_memory() {
    for version in VERSIONS {
        let mut sides = Sides::new(Faults::none().window(0), version);
        for _ in 0..10 {
            sides.client_sends(usize::MAX);
            sides.serve();
        }
        assert!(sides.stream.is_handshaking());
        assert!((500..4000).contains(&sides.stream.unsent.len()), "{}", sides.stream.unsent.len());
        sides.stream.shutdown_write().unwrap();
        assert!(sides.stream.is_ending());
    }
}

/// The suites with keys that may encrypt `records` records.
fn short_lived(records: u64, suites: &[SupportedCipherSuite]) -> Vec<SupportedCipherSuite> {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: records,
    };
    let short = |suite: &SupportedCipherSuite| match *suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: None,
            })))
        }
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            })))
        }
    };
    suites.iter().map(short).collect()
}

#[test]
fn keys_that_are_used_up_are_renewed_or_end_the_connection() {
    const RECORDS: usize = 20;
    for version in VERSIONS {
        for faults in [Faults::none(), Faults::none().window(100), Faults::none().writes_of(1)] {
            let mut sides = Sides::new(faults, version);
            let config = tls().config().0;
            let mut provider = provider::chosen().unwrap();
            provider.cipher_suites = short_lived(RECORDS as u64, &provider.cipher_suites);
            let config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&config.cert_resolver));
            sides.stream.session = State::New(Config(Arc::new(config)));
            while sides.stream.is_handshaking() {
                sides.client_sends(usize::MAX);
                sides.serve();
                sides.client_receives(usize::MAX);
            }
            let sent: Vec<u8> = (0..200).collect();
            let mut taken = 0;
            let failed = loop {
                let Some(byte) = sent.get(taken..taken + 1) else { break None };
                sides.serve();
                // Two bytes: a writer never offers fewer at the beginning of a frame.
                let two = [byte, &[byte[0]]].concat();
                match sides.stream.write(&two) {
                    Ok(2) => taken += 1,
                    Ok(_) => {
                        while sides.stream.withheld {
                            sides.client_receives(usize::MAX);
                            sides.serve();
                            match sides.stream.write(&two[1..]) {
                                Ok(1) => taken += 1,
                                result => {
                                    assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock)
                                }
                            }
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => break Some(error),
                }
                sides.client_receives(usize::MAX);
            };
            sides.client_receives(usize::MAX);
            let whole: Vec<u8> = sent[..taken].iter().flat_map(|&byte| [byte, byte]).collect();
            assert!(sides.at_client == whole);
            if version.version == rustls::ProtocolVersion::TLSv1_3 {
                assert!(failed.is_none() && taken == sent.len());
            } else {
                assert_eq!(failed.unwrap().kind(), ErrorKind::InvalidData);
                assert!((RECORDS - 3..=RECORDS).contains(&taken), "{taken}");
            }
        }
    }
}
