//! What peers may do to a connection over TLS, and what it may cost the server: in memory, with a
//! client that also makes records which no implementation would send.

#[cfg(target_os = "linux")]
mod common;
#[path = "../fuzz/src/tls_client.rs"]
mod tls_client;

use std::sync::Arc;
use std::time::Duration;

use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::testing::{Client, Faults, Harness, Received, Upgrade};
use ikisocket::{Builder, Error, Event, Server, Shutdown, TlsFailure};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tls_client::{
    ALERT, APPLICATION_DATA, Forger, HANDSHAKE, TlsClient, client_config, handshake_message,
    plain_record, server_settings,
};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// The type of a handshake message that asks for new keys (RFC 8446 §4.6.3).
const KEY_UPDATE: u8 = 24;
/// The type of a client's first message (RFC 8446 §4.1.2).
const CLIENT_HELLO: u8 = 1;
/// The number of a ClientHello's version, beyond which no list of extensions is that long.
const UNKNOWN: u8 = 99;

/// What the listeners have seen.
#[derive(Default)]
struct Seen {
    messages: Vec<Vec<u8>>,
    /// The error of each `disconnect`.
    ends: Vec<Option<Error>>,
}

type Test = Harness<Seen>;

fn listeners(builder: Builder) -> Server<Seen> {
    let mut server = builder.build(Seen::default()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |seen, ep| {
        seen.messages.push(ep.data.to_vec());
        ep.kws.emit(ep.data);
    });
    server.on(Event::Disconnect, |seen, ep| seen.ends.push(ep.error.cloned()));
    server
}

fn server(builder: Builder) -> Test {
    Harness::new(listeners(builder))
}

fn config(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(client_config(version))
}

/// A frame as a client sends it, with a key of zeros.
fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let header =
        FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(opcode, payload.len() as u64) };
    let mut frame = Vec::new();
    header.encode(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// Moves bytes both ways until nothing moves any more.
fn exchange(test: &mut Test, client: Client, tls: &mut TlsClient) {
    loop {
        let output = tls.take_output();
        test.write(client, &output);
        test.settle();
        let input = test.read(client);
        tls.hear(&input);
        if output.is_empty() && input.is_empty() {
            return;
        }
    }
}

/// A client whose WebSocket is open.
fn open(
    test: &mut Test,
    version: &'static SupportedProtocolVersion,
    faults: Faults,
) -> (Client, TlsClient) {
    let client = test.dial_tls(server_settings(), faults).unwrap();
    let mut tls = TlsClient::new(&config(version));
    tls.write(&Upgrade::to("/ws").encode());
    exchange(test, client, &mut tls);
    assert!(tls.plaintext.starts_with(b"HTTP/1.1 101 "), "{}", tls.plaintext.escape_ascii());
    tls.plaintext.clear();
    (client, tls)
}

/// The same; from now on its records are forged.
fn forge(test: &mut Test, version: &'static SupportedProtocolVersion) -> (Client, Forger) {
    let (client, tls) = open(test, version, Faults::none());
    (client, tls.into_forger().unwrap())
}

/// The first bytes that a client sends.
fn hello(version: &'static SupportedProtocolVersion) -> Vec<u8> {
    TlsClient::new(&config(version)).take_output()
}

fn connections(test: &mut Test) -> usize {
    let stats = test.server().stats();
    stats.open + stats.handshaking + stats.closing + stats.draining
}

/// The connections on which the server would say something more. Behind an alert it only waits for
/// the peer's end.
fn talking(test: &mut Test) -> usize {
    connections(test) - test.server().stats().draining
}

fn other_failures(test: &mut Test) -> u64 {
    test.server().stats().tls.failures.other
}

#[test]
fn a_session_in_pieces_of_one_byte_is_a_session() {
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let faults = Faults::none().segments(1).interrupted().would_block();
        let (client, mut tls) = open(&mut test, version, faults);
        tls.write(&frame(Opcode::Binary, &[7; 300]));
        exchange(&mut test, client, &mut tls);
        assert_eq!(tls.plaintext, [&[0x82, 126, 1, 44], &[7; 300][..]].concat());
        tls.write(&frame(Opcode::Close, b"\x03\xe8"));
        exchange(&mut test, client, &mut tls);
        let state = tls.connection.process_new_packets().unwrap();
        assert!(state.peer_has_closed());
        test.expect(client, [Received::Fin]);
    }
}

#[test]
fn fin_behind_a_part_of_the_handshake_ends_the_connection_at_once() {
    let whole = hello(&TLS13);
    for len in [1, 5, 100, whole.len() - 1, whole.len()] {
        let mut test = server(Server::builder());
        let client = test.dial_tls(server_settings(), Faults::none()).unwrap();
        test.write(client, &whole[..len]);
        test.finish(client);
        test.settle();
        assert_eq!(connections(&mut test), 0, "{len} of {}", whole.len());
    }
}

#[test]
fn fin_behind_a_part_of_a_record_ends_the_connection_at_once() {
    for version in VERSIONS {
        for len in [1, 5, 20] {
            let mut test = server(Server::builder());
            let (client, mut tls) = open(&mut test, version, Faults::none());
            tls.write(&frame(Opcode::Text, b"it is never whole"));
            let record = tls.take_output();
            test.write(client, &record[..len]);
            test.finish(client);
            assert_eq!(test.state().ends, [Some(Error::Tls(TlsFailure::Truncated))]);
            assert_eq!(connections(&mut test), 0);
        }
    }
}

#[test]
fn fin_behind_what_broke_the_session_ends_the_connection_at_once() {
    for version in VERSIONS {
        for behind in [0, 100, 300_000] {
            // In the handshake, and when it is open.
            for is_open in [false, true] {
                let mut test = server(Server::builder());
                let client = match is_open {
                    false => test.dial_tls(server_settings(), Faults::none()).unwrap(),
                    true => open(&mut test, version, Faults::none()).0,
                };
                let mut bytes = plain_record(HANDSHAKE, &handshake_message(UNKNOWN, 3, b"abc"));
                bytes.resize(bytes.len() + behind, 0);
                test.write(client, &bytes);
                test.finish(client);
                test.settle();
                assert_eq!(connections(&mut test), 0, "{is_open}, {behind} bytes behind it");
                assert_eq!(other_failures(&mut test), 1);
                // The alert, and FIN: no reset overtakes it.
                assert!(!test.read(client).is_empty());
                assert_eq!(test.received(client), [Received::Fin]);
            }
        }
    }
}

#[test]
fn what_came_before_the_end_in_the_same_read_is_handled_before_it() {
    for version in VERSIONS {
        let message = frame(Opcode::Text, b"before");
        for (level, description) in [(1, 0), (2, 80)] {
            let mut test = server(Server::builder());
            let (client, mut forger) = forge(&mut test, version);
            let mut bytes = forger.record(APPLICATION_DATA, &message);
            bytes.extend(forger.record(ALERT, &[level, description]));
            bytes.extend(forger.record(APPLICATION_DATA, &frame(Opcode::Text, b"behind")));
            test.write(client, &bytes);
            assert_eq!(test.state().messages, [b"before"]);
            let error = match description {
                0 => Error::Lost,
                _ => Error::Tls(TlsFailure::Alert("internal_error".to_owned())),
            };
            assert_eq!(test.state().ends, [Some(error)]);
        }
        let mut test = server(Server::builder());
        let (client, mut forger) = forge(&mut test, version);
        let mut bytes = forger.record(APPLICATION_DATA, &message);
        let mut broken = forger.record(APPLICATION_DATA, &message);
        broken[20] ^= 1;
        bytes.extend(broken);
        bytes.extend(forger.record(APPLICATION_DATA, &message));
        test.write(client, &bytes);
        assert_eq!(test.state().messages, [b"before"]);
        assert!(matches!(test.state().ends[..], [Some(Error::Tls(TlsFailure::Other(_)))]));
        assert_eq!(talking(&mut test), 0);
    }
}

#[test]
fn records_behind_our_close_notify_are_not_looked_at() {
    for version in VERSIONS {
        for answers in [false, true] {
            let mut test = server(Server::builder());
            let (client, mut forger) = forge(&mut test, version);
            test.write(
                client,
                &forger.record(APPLICATION_DATA, &frame(Opcode::Close, b"\x03\xe8")),
            );
            assert!(!test.read(client).is_empty());
            test.expect(client, [Received::Fin]);
            let mut broken = forger.record(APPLICATION_DATA, b"too late");
            broken[10] ^= 1;
            test.write(client, &broken);
            test.write(client, &[0xff; 100]);
            test.settle();
            assert_eq!(connections(&mut test), 1, "its FIN is awaited");
            match answers {
                true => test.finish(client),
                false => test.advance(Duration::from_secs(60)),
            }
            test.settle();
            assert_eq!(connections(&mut test), 0);
            assert_eq!(test.state().ends, [None]);
            assert_eq!(other_failures(&mut test), 0);
        }
    }
}

#[test]
fn close_notify_arrives_also_if_it_has_to_wait_for_the_socket() {
    for version in VERSIONS {
        // With FIN of the client, its input is at its end already.
        for finishes in [false, true] {
            let mut test = server(Server::builder());
            let (client, mut tls) = open(&mut test, version, Faults::none().would_block());
            tls.write(&frame(Opcode::Binary, &[7; 20_000]));
            tls.write(&frame(Opcode::Close, b"\x03\xe8"));
            test.write(client, &tls.take_output());
            if finishes {
                test.finish(client);
            }
            tls.hear(&test.read(client));
            assert_eq!(tls.plaintext.len(), 20_000 + 4 + 4);
            let state = tls.connection.process_new_packets().unwrap();
            assert!(state.peer_has_closed(), "{finishes}");
            assert_eq!(test.received(client), [Received::Fin]);
            test.finish(client);
            test.settle();
            assert_eq!(connections(&mut test), 0);
            assert_eq!(test.state().ends, [None]);
        }
    }
}

#[test]
fn close_notify_is_sent_to_a_client_that_does_not_answer_a_close() {
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let (client, mut tls) = open(&mut test, version, Faults::none());
        let (_, mut sockets) = test.server().lend();
        sockets.for_each(|kws| kws.close());
        test.advance(Duration::from_secs(60));
        tls.hear(&test.read(client));
        assert!(tls.connection.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(test.received(client), [Received::Fin]);
    }
}

#[test]
fn a_fatal_alert_while_messages_wait_ends_the_connection() {
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let (client, tls) = open(&mut test, version, Faults::none().window(1000));
        test.stop_reading(client);
        let mut forger = tls.into_forger().unwrap();
        test.write(client, &forger.record(APPLICATION_DATA, &frame(Opcode::Binary, &[7; 10_000])));
        test.settle();
        assert_eq!(test.server().stats().blocked, 1);
        test.write(client, &forger.record(ALERT, &[2, 80]));
        let alert = TlsFailure::Alert("internal_error".to_owned());
        assert_eq!(test.state().ends, [Some(Error::Tls(alert))]);
        assert_eq!(talking(&mut test), 0);
        assert_eq!(test.server().stats().bytes_waiting, 0);
    }
}

#[test]
fn what_a_handshake_message_in_tiny_pieces_takes_is_bounded() {
    let pieces = |empty: usize, record: &mut dyn FnMut(&[u8]) -> Vec<u8>| {
        let mut bytes = Vec::new();
        for byte in handshake_message(UNKNOWN, 60_000, &[0; 59_000]) {
            for _ in 0..empty {
                bytes.extend(record(b""));
            }
            bytes.extend(record(&[byte]));
            if bytes.len() >= 66_000 {
                break;
            }
        }
        bytes
    };
    // In a handshake: without encryption, where no record is empty.
    let mut test = server(Server::builder());
    let client = test.dial_tls(server_settings(), Faults::none()).unwrap();
    let bytes = pieces(0, &mut |piece| plain_record(HANDSHAKE, piece));
    for piece in bytes[..60_000].chunks(1000) {
        test.write(client, piece);
        test.settle();
        assert_eq!(talking(&mut test), 1);
    }
    test.write(client, &bytes[60_000..66_000]);
    test.settle();
    assert_eq!((talking(&mut test), other_failures(&mut test)), (0, 1));

    // Later, where no message is long.
    for version in VERSIONS {
        for empty in [0, 9] {
            let mut test = server(Server::builder());
            let (client, mut forger) = forge(&mut test, version);
            let bytes = pieces(empty, &mut |piece| forger.record(HANDSHAKE, piece));
            for piece in bytes[..18_000].chunks(1000) {
                test.write(client, piece);
                test.settle();
                assert_eq!(talking(&mut test), 1);
            }
            test.write(client, &bytes[18_000..19_000]);
            test.settle();
            assert_eq!((talking(&mut test), other_failures(&mut test)), (0, 1));
        }
    }
}

#[test]
fn empty_handshake_records_between_messages_do_not_gather() {
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let (client, mut forger) = forge(&mut test, version);
        let mut rounds = 0;
        while talking(&mut test) == 1 && rounds < 10_000 {
            rounds += 1;
            let mut bytes = forger.record(HANDSHAKE, b"");
            bytes.extend(forger.record(APPLICATION_DATA, &frame(Opcode::Pong, b"")));
            test.write(client, &bytes);
        }
        // rustls keeps each of them: the connection ends when they are 18 KiB.
        assert!((500..1000).contains(&rounds), "{rounds}");
        assert_eq!(other_failures(&mut test), 1);
    }
}

#[test]
fn new_keys_without_end_end_the_connection() {
    let mut test = server(Server::builder());
    let (client, mut tls) = open(&mut test, &TLS13, Faults::none());
    for _ in 0..100 {
        tls.connection.refresh_traffic_keys().unwrap();
    }
    test.write(client, &tls.take_output());
    test.settle();
    assert_eq!((talking(&mut test), other_failures(&mut test)), (0, 1));
}

#[test]
fn new_keys_between_messages_are_answered_and_messages_come_back() {
    let mut test = server(Server::builder());
    let (client, mut tls) = open(&mut test, &TLS13, Faults::none().segments(30));
    for round in 0..200u32 {
        tls.connection.refresh_traffic_keys().unwrap();
        tls.write(&frame(Opcode::Binary, &round.to_be_bytes()));
        if round % 7 == 0 {
            exchange(&mut test, client, &mut tls);
        }
    }
    exchange(&mut test, client, &mut tls);
    let sent = (0..200u32).flat_map(|round| [&[0x82, 4], &round.to_be_bytes()[..]].concat());
    assert_eq!(tls.plaintext, sent.collect::<Vec<_>>());
}

#[test]
fn a_second_renegotiation_of_tls_1_2_ends_the_connection() {
    let mut test = server(Server::builder());
    let (client, mut forger) = forge(&mut test, &TLS12);
    let hello = hello(&TLS12)[5..].to_vec();
    test.write(client, &forger.record(HANDSHAKE, &hello));
    test.settle();
    assert_eq!(talking(&mut test), 1, "it is declined with a warning");
    assert!(!test.read(client).is_empty());
    test.write(client, &forger.record(APPLICATION_DATA, &frame(Opcode::Text, b"still open")));
    assert_eq!(test.state().messages, [b"still open"]);
    test.write(client, &forger.record(HANDSHAKE, &hello));
    test.settle();
    assert_eq!((talking(&mut test), other_failures(&mut test)), (0, 1));
}

#[test]
fn warnings_without_end_end_the_connection() {
    const USER_CANCELED: u8 = 90;
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let (client, mut forger) = forge(&mut test, version);
        for round in 0..5 {
            assert_eq!(talking(&mut test), 1, "{round}");
            test.write(client, &forger.record(ALERT, &[1, USER_CANCELED]));
            test.settle();
        }
        assert_eq!((talking(&mut test), other_failures(&mut test)), (0, 1));
    }
}

#[test]
fn a_record_of_every_kind_in_every_phase_does_no_harm() {
    let messages = [
        handshake_message(CLIENT_HELLO, 0, b""),
        handshake_message(CLIENT_HELLO, 70_000, &[0; 100]),
        handshake_message(KEY_UPDATE, 1, &[7]),
        handshake_message(UNKNOWN, 3, b"abc"),
        handshake_message(20, 32, &[0; 32]),
        vec![1, 0],
        vec![2, 20],
        vec![7, 255],
        vec![1],
        vec![],
        vec![0; 16_384],
    ];
    for version in VERSIONS {
        for content_type in [0, 20, ALERT, HANDSHAKE, APPLICATION_DATA, 24, 255] {
            for message in &messages {
                // In front of everything, behind the first message, and when it is open, with keys
                // and without.
                for phase in 0..4 {
                    let mut test = server(Server::builder());
                    let client = match phase {
                        0 | 1 => {
                            let client = test.dial_tls(server_settings(), Faults::none()).unwrap();
                            if phase == 1 {
                                test.write(client, &hello(version));
                            }
                            test.write(client, &plain_record(content_type, message));
                            client
                        }
                        2 => {
                            let (client, _) = open(&mut test, version, Faults::none());
                            test.write(client, &plain_record(content_type, message));
                            client
                        }
                        _ => {
                            let (client, mut forger) = forge(&mut test, version);
                            for _ in 0..2 {
                                test.write(client, &forger.record(content_type, message));
                                test.settle();
                            }
                            client
                        }
                    };
                    test.settle();
                    test.finish(client);
                    test.settle();
                    test.advance(Duration::from_secs(60));
                    assert_eq!(connections(&mut test), 0);
                    assert!(test.panics().is_empty());
                }
            }
        }
    }
}

#[test]
fn a_part_of_a_record_is_a_sign_of_life() {
    for version in VERSIONS {
        let builder = Server::builder()
            .ping_after(Duration::from_secs(10))
            .dead_after(Duration::from_secs(10));
        let mut test = server(builder);
        let (client, mut tls) = open(&mut test, version, Faults::none());
        tls.write(&frame(Opcode::Binary, &[7; 100]));
        let record = tls.take_output();
        for byte in &record {
            test.advance(Duration::from_secs(9));
            test.write(client, &[*byte]);
            test.settle();
        }
        assert_eq!(test.state().messages, [[7; 100]]);
        assert!(test.read(client).len() < 200, "no ping is due");
    }
}

#[test]
fn records_that_are_kept_are_no_work_in_each_turn() {
    for version in VERSIONS {
        let mut test = Harness::by_hand(listeners(Server::builder()));
        let mut keepers = Vec::new();
        for _ in 0..30 {
            let (keeper, mut forger) = forge(&mut test, version);
            let mut kept = Vec::new();
            for byte in handshake_message(UNKNOWN, 60_000, &[0; 59_000]) {
                kept.extend(forger.record(HANDSHAKE, &[byte]));
                if kept.len() > 17_000 {
                    break;
                }
            }
            test.write(keeper, &kept);
            test.settle();
            keepers.push((keeper, forger.record(HANDSHAKE, &[0; 60])));
        }
        let (client, mut tls) = open(&mut test, version, Faults::none());
        // In each turn comes one byte more of the next record.
        for at in 0..60 {
            for (keeper, record) in &keepers {
                test.write(*keeper, &record[at..=at]);
            }
            let before = test.state().messages.len();
            tls.write(&frame(Opcode::Text, b"in between"));
            test.write(client, &tls.take_output());
            test.turn();
            assert_eq!(test.state().messages.len(), before + 1, "{at}");
        }
        assert_eq!(connections(&mut test), 31);
    }
}

#[test]
fn hellos_byte_by_byte_do_not_hold_up_connections_that_close() {
    let mut test = Harness::by_hand(listeners(Server::builder()));
    // A hello whose rest does not come, in records of its own for each byte.
    let records = handshake_message(CLIENT_HELLO, 60_000, &[0; 10_000]);
    let records = records.iter().flat_map(|byte| plain_record(HANDSHAKE, &[*byte]));
    let records: Vec<u8> = records.collect();
    let mut halves = Vec::new();
    for _ in 0..40 {
        let half = test.dial_tls(server_settings(), Faults::none()).unwrap();
        test.write(half, &records[..60_000]);
        test.settle();
        halves.push(half);
    }
    let (client, mut tls) = open(&mut test, &TLS13, Faults::none());
    let (_, mut sockets) = test.server().lend();
    sockets.for_each(|kws| kws.close());
    test.settle();
    tls.write(&frame(Opcode::Close, b"\x03\xe8"));
    test.write(client, &tls.take_output());
    for byte in &records[60_000..60_003] {
        for half in &halves {
            test.write(*half, &[*byte]);
        }
        test.turn();
    }
    assert_eq!(test.state().ends, [None]);
    assert_eq!(connections(&mut test), 41);
}

#[test]
fn clients_in_every_phase_do_not_hold_up_a_shutdown() {
    for version in VERSIONS {
        let mut test = server(Server::builder());
        let silent = test.dial_tls(server_settings(), Faults::none()).unwrap();
        let half = test.dial_tls(server_settings(), Faults::none()).unwrap();
        test.write(half, &hello(version)[..50]);
        let deaf = test.dial_tls(server_settings(), Faults::none().window(0)).unwrap();
        test.write(deaf, &hello(version));
        let waiting = test.dial_tls(server_settings(), Faults::none()).unwrap();
        let mut tls = TlsClient::new(&config(version));
        exchange(&mut test, waiting, &mut tls);
        let (open, mut tls) = open(&mut test, version, Faults::none());
        let (stuck, mut other) = self::open(&mut test, version, Faults::none().window(1000));
        test.stop_reading(stuck);
        other.write(&frame(Opcode::Binary, &[7; 10_000]));
        test.write(stuck, &other.take_output());
        assert_eq!(connections(&mut test), 6);

        let (_, mut sockets) = test.server().lend();
        sockets.shutdown(Shutdown::default().deadline(Duration::from_secs(5))).unwrap();
        tls.hear(&test.read(open));
        assert_eq!((tls.plaintext[0], &tls.plaintext[2..4]), (0x88, &[3, 0xe9][..]));
        test.advance(Duration::from_secs(6));
        assert!(test.server().is_finished());
        assert_eq!(connections(&mut test), 0);
        for client in [silent, half, deaf, waiting] {
            assert_eq!(test.received(client).len(), 1, "its end");
        }
    }
}

#[test]
fn a_client_that_reads_nothing_of_the_handshake_is_gone_after_its_time() {
    for version in VERSIONS {
        let builder = Server::builder().handshake_timeout(Duration::from_secs(5));
        let mut test = server(builder);
        let client = test.dial_tls(server_settings(), Faults::none().window(0)).unwrap();
        test.write(client, &hello(version));
        test.advance(Duration::from_secs(4));
        assert_eq!(connections(&mut test), 1);
        // The close timeout of a response follows if the session can already write.
        test.advance(Duration::from_secs(30));
        assert_eq!(connections(&mut test), 0);
    }
}

#[test]
fn a_handshake_goes_on_that_the_loop_was_too_busy_for() {
    let limit = Duration::from_secs(5);
    for version in VERSIONS {
        let mut test = server(Server::builder().handshake_timeout(limit));
        let client = test.dial_tls(server_settings(), Faults::none()).unwrap();
        test.settle();
        test.skip(3 * limit);
        let mut tls = TlsClient::new(&config(version));
        tls.write(&Upgrade::to("/ws").encode());
        exchange(&mut test, client, &mut tls);
        assert!(tls.plaintext.starts_with(b"HTTP/1.1 101 "), "{}", tls.plaintext.escape_ascii());
    }
}

#[test]
fn records_of_one_byte_leave_other_connections_their_share() {
    let work = 1 << 20;
    let builder = Server::builder().work_per_turn(work).receive_buffer(1 << 20);
    let mut test = Harness::by_hand(listeners(builder));
    let (flood, mut forger) = forge(&mut test, &TLS13);
    let (client, mut tls) = open(&mut test, &TLS13, Faults::none());
    // Of each frame three records: its header, its key, its payload.
    let mut bytes = Vec::new();
    let records = 30_000;
    for _ in 0..records / 6 {
        for byte in frame(Opcode::Pong, b"") {
            bytes.extend(forger.record(APPLICATION_DATA, &[byte]));
        }
    }
    test.write(flood, &bytes);
    tls.write(&frame(Opcode::Text, b"in between"));
    test.write(client, &tls.take_output());
    let mut turns = 0;
    while test.state().messages.is_empty() {
        turns += 1;
        test.turn();
    }
    assert!(turns <= 2, "{turns}");
}

/// A read from a Unix socket ends at passed descriptors, and no event tells that more lies behind.
#[cfg(target_os = "linux")]
#[test]
fn passed_descriptors_delay_neither_a_handshake_nor_a_message() {
    use std::io::{IoSlice, Read as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use socket2::{MsgHdr, SockRef};

    let folder = std::env::temp_dir().join(format!("ikisocket-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for version in VERSIONS {
        let path = folder.join("socket");
        let mut server = listeners(Server::builder());
        server.listen_unix_tls(&path, server_settings()).unwrap();
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        // struct cmsghdr, and one descriptor: SOL_SOCKET and SCM_RIGHTS are 1 on Linux.
        let mut control = (size_of::<usize>() + 3 * size_of::<i32>()).to_ne_bytes().to_vec();
        for number in [1, 1, socket.as_raw_fd(), 0] {
            control.extend_from_slice(&number.to_ne_bytes());
        }
        let mut tls = TlsClient::new(&config(version));
        tls.write(&Upgrade::to("/ws").encode());
        let mut exchange = |server: &mut Server<Seen>, tls: &mut TlsClient| {
            // Each piece has descriptors of its own, so each is read by itself.
            for piece in tls.take_output().chunks(50) {
                let slices = [IoSlice::new(piece)];
                let header = MsgHdr::new().with_buffers(&slices).with_control(&control);
                assert_eq!(SockRef::from(&socket).sendmsg(&header, 0).unwrap(), piece.len());
            }
            common::turn_for(server, |_| {
                let mut bytes = vec![0; 100_000];
                let read = socket.read(&mut bytes).ok()?;
                tls.hear(&bytes[..read]);
                (tls.connection.wants_write() || !tls.plaintext.is_empty()).then_some(())
            });
        };
        while tls.plaintext.is_empty() {
            exchange(&mut server, &mut tls);
        }
        assert!(tls.plaintext.starts_with(b"HTTP/1.1 101 "));
        tls.plaintext.clear();
        tls.write(&frame(Opcode::Binary, &[7; 200]));
        while tls.plaintext.len() < 204 {
            exchange(&mut server, &mut tls);
        }
        assert_eq!(server.state().messages, [[7; 200]]);
        server.stop_listening();
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
