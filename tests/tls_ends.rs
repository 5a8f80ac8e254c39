//! The ends of connections over TLS, wherever they are: in the handshake, in a record, behind a
//! failure. The tests have no sockets, except where the promise is about TCP's resets.

mod common;

use std::time::Duration;

use common::tls::certificates::{file, forgetful, tls_as};
use common::{Diary, enter, frame, memory_server, memory_server_with, with_socket};
use ikisocket::testing::{Client, Faults, Harness, Received, Upgrade};
use ikisocket::{Emitted, Error, Event, Server, Shutdown, Tls, TlsFailure};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The type of an alert's record before there are keys.
const ALERT: u8 = 21;
/// A record with a message of a handshake that no client sends: a ServerHello without content.
const WRONG: [u8; 9] = [22, 3, 1, 0, 4, 2, 0, 0, 0];

fn over_tls(server: Server<Diary>) -> Harness<Diary> {
    Harness::new(server).over_tls(&tls_as("localhost"))
}

fn harness() -> Harness<Diary> {
    over_tls(memory_server())
}

/// A client of its own, whose bytes the test moves.
fn session() -> ClientConnection {
    let config = forgetful(rustls::ALL_VERSIONS, None);
    ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap()
}

/// What the session has to send.
fn output(session: &mut ClientConnection) -> Vec<u8> {
    let mut output = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut output).unwrap();
    }
    output
}

/// Moves bytes between the session and the server until neither has more.
fn talk(test: &mut Harness<Diary>, client: Client, session: &mut ClientConnection) {
    loop {
        let sent = output(session);
        test.write(client, &sent);
        let received = test.read(client);
        let mut rest = &received[..];
        while !rest.is_empty() {
            session.read_tls(&mut rest).unwrap();
            session.process_new_packets().unwrap();
        }
        if sent.is_empty() && received.is_empty() {
            return;
        }
    }
}

/// What the session's peer has written.
fn plaintext(session: &mut ClientConnection) -> Vec<u8> {
    let mut plaintext = Vec::new();
    // The error is that there is nothing more.
    let _ = std::io::Read::read_to_end(&mut session.reader(), &mut plaintext);
    plaintext
}

// The handshake.

#[test]
fn a_handshake_comes_through_whatever_the_network_does_to_it() {
    for faults in [
        Faults::none().segments(1),
        Faults::none().segments(7).interrupted().would_block(),
        Faults::none().segments(1000).would_block(),
        Faults::none().window(1),
        Faults::none().window(100).interrupted(),
    ] {
        let mut test = harness();
        let client = test.dial_plain(faults.clone()).unwrap();
        let mut session = session();
        std::io::Write::write_all(&mut session.writer(), &Upgrade::to("/ann").encode()).unwrap();
        talk(&mut test, client, &mut session);
        assert!(plaintext(&mut session).starts_with(b"HTTP/1.1 101 "), "{faults:?}");
        assert_eq!(test.server().stats().tls.tls13, 1);
    }
}

#[test]
fn a_handshake_that_ends_anywhere_leaves_nothing_and_fires_nothing() {
    let hello = output(&mut session());
    for at in (0..hello.len()).step_by(37).chain([1, 5, hello.len() - 1, hello.len()]) {
        for faults in [Faults::none().fin_after_sending(at), Faults::none().reset_after_sending(at)]
        {
            let mut test = harness();
            let client = test.dial_plain(faults.clone()).unwrap();
            test.write(client, &hello);
            test.settle();
            let stats = test.server().stats();
            assert_eq!((stats.handshaking, stats.closed), (0, 1), "{faults:?}");
            assert!(test.state().entries.is_empty(), "{faults:?}");
        }
    }
}

#[test]
fn a_handshake_has_the_handshake_timeout_and_no_byte_gives_it_more() {
    let hello = output(&mut session());
    for at in [0, 1, 5, 100, hello.len() - 1, hello.len()] {
        let mut test =
            over_tls(memory_server_with(Server::builder().handshake_timeout(HANDSHAKE_TIMEOUT)));
        let client = test.dial_plain(Faults::none()).unwrap();
        let half = HANDSHAKE_TIMEOUT / 2;
        test.write(client, &hello[..at / 2]);
        test.advance(half);
        test.write(client, &hello[at / 2..at]);
        test.advance(HANDSHAKE_TIMEOUT - half - Duration::from_millis(1));
        assert_eq!(test.server().stats().handshaking, 1, "{at}");
        test.advance(Duration::from_millis(1));
        assert_eq!(test.server().stats().closed, 1, "{at}");
        test.read(client);
        test.expect(client, [Received::Fin]);
    }
}

#[test]
fn a_peer_that_never_reads_its_handshake_is_closed_in_time() {
    for window in [0, 1, 100] {
        let mut test =
            over_tls(memory_server_with(Server::builder().handshake_timeout(HANDSHAKE_TIMEOUT)));
        let client = test.dial_plain(Faults::none().window(window)).unwrap();
        test.stop_reading(client);
        test.write(client, &output(&mut session()));
        test.settle();
        test.advance(HANDSHAKE_TIMEOUT - Duration::from_millis(1));
        assert_eq!(test.server().stats().handshaking, 1);
        test.advance(Duration::from_millis(1));
        assert_eq!((test.server().stats().handshaking, test.server().stats().closed), (0, 1));
    }
}

#[test]
fn a_shutdown_does_not_wait_for_a_handshake() {
    let hello = output(&mut session());
    for at in [0, 1, 100, hello.len()] {
        let mut test = harness();
        let client = test.dial_plain(Faults::none()).unwrap();
        test.write(client, &hello[..at]);
        test.settle();
        test.server().sockets().shutdown(Shutdown::default()).unwrap();
        test.settle();
        assert!(test.server().is_finished(), "{at}");
        assert_eq!(test.server().finished().unwrap().remained, 0);
    }
}

#[test]
fn what_is_no_handshake_is_answered_and_then_fin_comes() {
    for (bytes, begins) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &b"HTTP/1.1 400 "[..]),
        // An HTTP request with more behind it than one read takes.
        (&[&b"POST / HTTP/1.1\r\n\r\n"[..], &[b'x'; 200 * KIB]].concat(), b"HTTP/1.1 400 "),
        (&[0, 1, 2, 3], b""),
        (&WRONG, &[ALERT]),
    ] {
        let mut test = harness();
        let client = test.dial_plain(Faults::none()).unwrap();
        test.write(client, bytes);
        let answer = test.read(client);
        assert!(answer.starts_with(begins), "{}", answer.escape_ascii());
        assert_eq!(test.server().stats().draining, 1, "it discards what comes, until the FIN");
        test.expect(client, [Received::Fin]);
        test.write(client, bytes);
        test.finish(client);
        assert_eq!(test.server().stats().closed, 1);
        test.expect_nothing(client);
        assert!(test.state().entries.is_empty());
    }
}

#[test]
fn a_peer_that_stays_behind_a_failed_session_is_closed_in_time() {
    let mut test =
        over_tls(memory_server_with(Server::builder().close_timeout(Duration::from_secs(2))));
    let client = test.dial_plain(Faults::none()).unwrap();
    test.write(client, &WRONG);
    test.settle();
    test.advance(Duration::from_secs(2));
    assert_eq!(test.server().stats().closed, 1);
}

// A session that is up.

#[test]
fn a_fin_alone_is_truncation_and_one_behind_close_notify_is_not() {
    for (end, error) in [
        (Harness::finish as fn(&mut Harness<Diary>, Client), Error::Lost),
        (Harness::truncate, Error::Tls(TlsFailure::Truncated)),
    ] {
        let mut test = harness();
        let [ann] = common::connect(&mut test, ["ann"]);
        end(&mut test, ann);
        test.expect(ann, [Received::Fin]);
        assert_eq!(test.state().errors("ann"), [error]);
        assert_eq!(test.state().events("ann"), ["connect", "error", "disconnect"]);
    }
}

#[test]
fn a_record_that_the_end_cuts_is_truncation_whatever_came_of_it() {
    // The request is a record of its own; so is the message.
    let request = Upgrade::to("/ann").encode().len() + 22;
    let message = frame(1, b"hello").len() + 22;
    for at in 0..=message {
        let faults = Faults::none().fin_after_sending(request + at);
        let mut test = harness();
        let ann = test.connect(Upgrade::to("/ann").faults(faults)).unwrap();
        test.send(ann, "hello");
        test.settle();
        assert_eq!(test.state().has("ann", "message"), at == message, "{at}");
        assert_eq!(test.state().errors("ann"), [Error::Tls(TlsFailure::Truncated)], "{at}");
        test.expect(ann, [Received::Fin]);
    }
}

#[test]
fn a_session_that_a_forged_record_breaks_ends_with_an_alert_and_fin() {
    for waits in [false, true] {
        let mut test = harness();
        let client = test.dial_plain(Faults::none()).unwrap();
        let mut session = session();
        std::io::Write::write_all(&mut session.writer(), &Upgrade::to("/ann").encode()).unwrap();
        talk(&mut test, client, &mut session);
        plaintext(&mut session);
        if waits {
            test.stop_reading(client);
            let emitted = with_socket(test.server(), "ann", |kws| kws.emit(vec![7; 900 * KIB]));
            assert_eq!(emitted, Emitted::Pressure);
            test.settle();
        }
        // It has the length of one, and more comes behind it.
        test.write(client, &[&[23, 3, 3, 0, 30][..], &[9; 100 * KIB]].concat());
        test.settle();
        assert_eq!(test.state().events("ann"), ["connect", "error", "disconnect"]);
        assert!(matches!(test.state().errors("ann")[..], [Error::Tls(TlsFailure::Other(_))]));
        let dropped = test.state().only("ann", "disconnect").bytes_dropped;
        assert_eq!(dropped > 0, waits, "{dropped}");
        test.resume_reading(client);
        let received = test.read(client);
        let mut rest = &received[..];
        let failure = loop {
            session.read_tls(&mut rest).unwrap();
            match session.process_new_packets() {
                Err(failure) => break failure,
                Ok(_) => drop(plaintext(&mut session)),
            }
        };
        let alert = rustls::AlertDescription::BadRecordMac;
        assert_eq!(failure, rustls::Error::AlertReceived(alert));
        test.expect(client, [Received::Fin]);
        test.finish(client);
        assert_eq!(test.server().stats().closed, 1);
    }
}

#[test]
fn a_client_without_the_certificate_that_it_needs_gets_the_alert() {
    let tls = Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap();
    tls.client_certificates(&file("root.pem"), ikisocket::ClientCertificates::Required).unwrap();
    let mut test = Harness::new(memory_server()).over_tls(&tls);
    let ann = test.ask("/ann").unwrap();
    let alert = TlsFailure::Alert("certificate_required".to_owned());
    test.expect(ann, [Received::Tls(alert), Received::Fin]);
    assert_eq!(test.server().stats().tls.failures.iter().map(|(_, n)| n).sum::<u64>(), 1);
}

#[test]
fn a_dropped_server_says_close_notify() {
    let mut test = harness();
    let client = test.dial_plain(Faults::none()).unwrap();
    let mut session = session();
    std::io::Write::write_all(&mut session.writer(), &Upgrade::to("/ann").encode()).unwrap();
    talk(&mut test, client, &mut session);
    let server = std::mem::replace(test.server(), memory_server());
    drop(server);
    talk(&mut test, client, &mut session);
    assert!(session.process_new_packets().unwrap().peer_has_closed());
}

// Records that wait.

/// A client that reads nothing, behind a window that a record does not fit into.
fn stuck(test: &mut Harness<Diary>, window: usize) -> Client {
    let faults = Faults::none().window(window);
    let ann = test.connect(Upgrade::to("/ann").faults(faults)).unwrap();
    test.stop_reading(ann);
    ann
}

#[test]
fn what_a_record_holds_arrives_and_what_waits_behind_it_is_dropped() {
    // The 64 KiB of one send end somewhere in a frame, for 1 byte behind the frame's first byte.
    for len in [1, 124, 16_380, 70_000] {
        for window in [1, 30_000] {
            let mut server = memory_server_with(Server::builder().max_outbox(160 * KIB));
            server.route("/:name", enter).unwrap();
            let mut test = over_tls(server);
            let ann = stuck(&mut test, window);
            let emit = |test: &mut Harness<Diary>, most: usize| {
                with_socket(test.server(), "ann", |kws| {
                    while kws.waiting_bytes() < most && kws.emit(vec![7; len]).is_taken() {}
                });
            };
            // The window is full, and more than one send waits. Then there is room again.
            emit(&mut test, 80 * KIB);
            test.settle();
            emit(&mut test, 80 * KIB);
            test.read_more(ann, 70 * KIB);
            emit(&mut test, usize::MAX);
            assert!(test.state().is_gone("ann"), "{len}");
            test.resume_reading(ann);
            let received = test.received(ann);
            let messages = received.iter().take_while(|each| **each == message(len)).count();
            let close = Received::close(1008, "too slow: messages were waiting");
            let cut = [Received::Reset];
            assert!(
                received[messages..] == [close, Received::Fin] || received[messages..] == cut,
                "{len} behind {window}: {:?}",
                &received[messages..]
            );
        }
    }
}

fn message(len: usize) -> Received {
    Received::binary(vec![7; len])
}

trait IsTaken {
    fn is_taken(&self) -> bool;
}

impl IsTaken for Emitted {
    fn is_taken(&self) -> bool {
        matches!(self, Self::Queued | Self::Pressure)
    }
}

#[test]
fn a_reader_of_a_byte_now_and_then_is_slow_but_not_stalled() {
    let mut test = harness();
    let ann = stuck(&mut test, KIB);
    with_socket(test.server(), "ann", |kws| kws.emit(vec![7; 16 * KIB]));
    test.settle();
    // A record takes longer than the stall timeout of 30 s.
    for _ in 0..50 {
        test.read_more(ann, 100);
        test.advance(SECOND);
    }
    assert_eq!(test.state().errors("ann"), []);
    test.resume_reading(ann);
    let received = test.received(ann);
    assert_eq!(received.iter().filter(|each| **each == message(16 * KIB)).count(), 1);
}

#[test]
fn the_close_frame_and_close_notify_come_behind_all_that_waits() {
    for window in [1, 10, 100, 1000, 20_000] {
        let mut test = harness();
        let ann = stuck(&mut test, window);
        with_socket(test.server(), "ann", |kws| {
            (0..40).for_each(|_| _ = kws.emit(vec![7; 5000]));
            kws.close();
        });
        test.settle();
        test.resume_reading(ann);
        let received = test.received(ann);
        assert!(received[..40].iter().all(|each| *each == message(5000)), "{window}");
        let end = [Received::close(1000, "Connection closed"), Received::Fin];
        assert_eq!(received[40..], end, "{window}");
        assert!(test.state().only("ann", "disconnect").clean);
    }
}

#[test]
fn an_end_whose_close_notify_waits_ends_in_time() {
    let mut test = harness();
    let ann = stuck(&mut test, 30);
    // The close frame fits into the window, and close_notify does not.
    with_socket(test.server(), "ann", |kws| kws.close_with(1000, "").unwrap());
    test.settle();
    test.close(ann, 1000, "");
    test.settle();
    assert_eq!(test.state().events("ann"), ["connect", "close", "disconnect"]);
    assert_eq!(test.server().stats().closed, 0, "it waits for room and for the FIN");
    test.advance(11 * SECOND);
    let stats = test.server().stats();
    assert_eq!((stats.closed, stats.cut_short), (1, 1));
}

// Over TCP.

#[test]
fn an_alert_arrives_though_more_input_is_on_its_way() {
    use std::io::{ErrorKind, Read, Write};

    let mut server = Server::builder().build(()).unwrap();
    let tls = Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap();
    server.listen_tls("127.0.0.1:0", &tls).unwrap();
    server.on(Event::Error, |(), _| unreachable!("no connection is open"));
    for bytes in [WRONG.to_vec(), b"POST / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut socket = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        // More than one read takes.
        socket.write_all(&[bytes, vec![b'x'; 200 * KIB]].concat()).unwrap();
        let mut received = Vec::new();
        common::turn_until(&mut server, |_| match socket.read_to_end(&mut received) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "a reset would destroy the answer");
                false
            }
        });
        assert!([ALERT, b'H'].contains(&received[0]), "{}", received.escape_ascii());
    }
}
