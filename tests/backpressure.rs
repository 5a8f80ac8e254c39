//! What happens when a peer reads more slowly than the server writes: nothing, to everybody else.

mod common;

use std::io::Read;
use std::time::Duration;

use common::{CLOSE, Client, Diary, Raw, enter, memory_server, server_with, turn_until, with_socket};
use ikisocket::testing::{Faults, Harness, Upgrade};
use ikisocket::{EmitError, Emitted, Error, Server, Socket};
use tungstenite::Message;

const KIB: usize = 1024;
/// The default of [`ikisocket::Builder::stall_timeout`].
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A route callback that leaves the connection little room in the system's buffers, so that it is full soon.
fn enter_narrow(diary: &mut Diary, kws: &mut Socket<'_, Diary>) {
    socket2::SockRef::from(&kws.conn().fd().unwrap()).set_send_buffer_size(16 * KIB).unwrap();
    enter(diary, kws);
}

fn narrow_server(max_outbox: usize) -> Server<Diary> {
    let mut server = server_with(Server::builder().max_outbox(max_outbox));
    server.route("/:name", enter).unwrap();
    server.route("/narrow/:name", enter_narrow).unwrap();
    server
}

#[test]
fn a_reader_that_stopped_delays_no_broadcast_and_is_given_up_as_slow() {
    let mut server = narrow_server(256 * KIB);
    let mut readers: Vec<_> = (0..5).map(|i| Client::connect(&mut server, &format!("/{i}"))).collect();
    let stopped = Client::connect(&mut server, "/narrow/stopped");
    let mut others: Vec<_> = (5..10).map(|i| Client::connect(&mut server, &format!("/{i}"))).collect();
    readers.append(&mut others);

    let mut number = 0;
    while !server.state().is_gone("stopped") {
        let text = format!("{number:05}{}", "x".repeat(8 * KIB));
        let reached = server.lend().1.broadcast(&text);
        assert!(reached == 11 || reached == 10, "everybody, with or without the slow one");
        // Everybody else has it at once: nobody is turned for, only the outboxes are offered.
        server.flush();
        for reader in &mut readers {
            assert_eq!(reader.try_next(), Some(Message::text(&*text)));
        }
        server.poll(Some(Duration::ZERO)).unwrap();
        number += 1;
        assert!(number < 10_000, "it takes everything");
    }
    let errors = server.state().errors("stopped");
    let [Error::SlowConsumer { waiting, limit }] = errors[..] else { panic!("{errors:?}") };
    assert_eq!(limit, 256 * KIB);
    assert!(waiting > 200 * KIB && waiting <= limit, "{waiting}");
    assert_eq!(server.state().events("stopped"), ["connect", "error", "disconnect"]);
    assert_eq!(server.lend().1.len(), 10);
    drop(stopped);
}

#[test]
fn a_slow_consumer_is_told_so_in_the_callback_and_reads_whole_frames_then_1008_or_a_reset() {
    let mut server = narrow_server(64 * KIB);
    let mut ann = Raw::upgrade(&mut server, "/narrow/ann");
    let full = with_socket(&mut server, "ann", |kws| {
        loop {
            match kws.emit(vec![7; 1000]) {
                Emitted::Refused(refusal) => break refusal,
                _ => assert!(kws.waiting() <= 64 * KIB),
            }
        }
    });
    assert_eq!(full, EmitError::Full);
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    let (mut bytes, mut buffer) = (Vec::new(), [0; 64 * KIB]);
    let mut reset = false;
    turn_until(&mut server, |_| match ann.stream.read(&mut buffer) {
        Ok(0) => true,
        Ok(read) => {
            bytes.extend_from_slice(&buffer[..read]);
            false
        }
        Err(error) => {
            reset = error.kind() == std::io::ErrorKind::ConnectionReset;
            reset
        }
    });
    let mut frames = bytes.chunks(4 + 1000).peekable();
    while frames.next_if(|frame| frame.len() == 1004 && frame[..4] == [0x82, 126, 3, 232]).is_some() {}
    match frames.next() {
        Some(last) if !reset => assert_eq!((last[0], &last[2..4]), (0x80 | CLOSE, &1008_u16.to_be_bytes()[..])),
        last => assert!(reset, "the stream ends with FIN after {last:?}"),
    }
}

#[test]
fn emit_says_when_there_is_pressure_and_everything_arrives_all_the_same() {
    let mut server = narrow_server(KIB * KIB);
    let mut ann = Client::connect(&mut server, "/narrow/ann");
    let mut sent = 0;
    with_socket(&mut server, "ann", |kws| {
        while kws.emit(format!("{sent:05}{}", "x".repeat(2000))) == Emitted::Queued {
            sent += 1;
        }
        assert!(kws.waiting() > 0);
        for _ in 0..20 {
            sent += 1;
            assert_eq!(kws.emit(format!("{sent:05}")), Emitted::Pressure);
        }
    });
    for number in 0..=sent {
        assert_eq!(ann.text(&mut server)[..5], format!("{number:05}"));
    }
    assert_eq!(with_socket(&mut server, "ann", |kws| kws.waiting()), 0);
    assert_eq!(with_socket(&mut server, "ann", |kws| kws.emit("room again")), Emitted::Queued);
}

#[test]
fn a_storm_of_100_000_emits_in_the_route_callback_does_not_block_and_arrives_whole() {
    let mut server = server_with(Server::builder());
    server
        .route("/", |_, kws| {
            for i in 0..100_000 {
                assert!(kws.emit(format!("{i}")).ok().is_ok());
            }
        })
        .unwrap();
    let mut client = Client::connect(&mut server, "/");
    for i in 0..100_000 {
        assert_eq!(client.text(&mut server), i.to_string());
    }
}

#[test]
fn a_large_message_passes_a_narrow_socket_whole_and_in_order() {
    let mut server = narrow_server(4 * KIB * KIB);
    let mut ann = Client::connect(&mut server, "/narrow/ann");
    let large: Vec<u8> = (0..3 * KIB * KIB).map(|i| (i % 251) as u8).collect();
    with_socket(&mut server, "ann", |kws| {
        kws.emit("before");
        kws.emit(&large);
        kws.emit("after");
    });
    assert_eq!(ann.text(&mut server), "before");
    assert!(ann.next(&mut server) == Message::binary(large));
    assert_eq!(ann.text(&mut server), "after");
}

#[test]
fn a_peer_that_takes_nothing_while_something_waits_is_disconnected_as_stalled() {
    let mut test = Harness::new(memory_server());
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(KIB))).unwrap();
    test.stop_reading(ann);
    with_socket(test.server(), "ann", |kws| kws.emit(vec![0; 20 * KIB]));
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    // A single byte that it takes gives it the same time again. What it says has nothing to do with that, but keeps it from being silent.
    test.read_more(ann, 1);
    test.pong(ann, "");
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect", "pong"]);
    test.advance(MILLISECOND);
    assert_eq!(test.state().errors("ann"), [Error::Stalled(STALL_TIMEOUT)]);
    assert_eq!(test.state().events("ann"), ["connect", "pong", "error", "disconnect"]);
}

#[test]
fn what_waits_before_a_close_is_given_up_at_the_stall_timeout_and_not_at_the_close_timeout() {
    let mut test = Harness::new(memory_server());
    let ann = test.connect(Upgrade::to("/ann").faults(Faults::none().window(KIB))).unwrap();
    test.stop_reading(ann);
    // A second one, whose close is on the wire at once, and that does not answer it.
    test.connect(Upgrade::to("/bob").unresponsive()).unwrap();
    with_socket(test.server(), "ann", |kws| {
        kws.emit(vec![7; 512 * KIB]);
        kws.close();
    });
    with_socket(test.server(), "bob", |kws| kws.close());
    test.settle();
    test.advance(STALL_TIMEOUT - MILLISECOND);
    assert_eq!(test.state().events("bob"), ["connect", "close", "disconnect"]);
    assert_eq!(test.state().events("ann"), ["connect", "close"]);
    test.advance(MILLISECOND);
    assert_eq!(test.state().events("ann"), ["connect", "close", "error", "disconnect"]);
    let disconnect = test.state().only("ann", "disconnect");
    assert_eq!((disconnect.error.clone(), disconnect.clean), (Some(Error::Stalled(STALL_TIMEOUT)), false));
}
