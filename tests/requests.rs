//! Requests at their limits: how long a head may be, what may come behind it, and how much of a
//! turn's work it counts.

use ikisocket::testing::{Client, Faults, Harness};
use ikisocket::{Builder, Deferred, Server};

/// The requests whose answer was deferred.
#[derive(Default)]
struct Desk(Vec<Deferred<Desk>>);

fn desk(settings: Builder) -> Harness<Desk> {
    let mut server = settings.build(Desk::default()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.filter(|desk, sockets, incoming| {
        desk.0.push(sockets.defer(incoming));
        Ok(())
    });
    Harness::by_hand(server)
}

fn open(settings: Builder) -> Harness<()> {
    let mut server = settings.build(()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    Harness::by_hand(server)
}

/// A request whose head has this length.
fn head(len: usize) -> Vec<u8> {
    let begin = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: ";
    format!("{begin}{}\r\n\r\n", "x".repeat(len - begin.len() - 4)).into_bytes()
}

fn status(test: &mut Harness<impl Sized>, client: Client) -> Option<u16> {
    test.settle();
    test.answer(client).map(|answer| answer.status)
}

#[test]
fn a_head_in_pieces_may_reach_the_limit_and_is_refused_one_byte_later() {
    for (len, expected) in [(1024, 101), (1025, 431)] {
        let mut test = open(Server::builder().max_head(1024));
        let ann = test.dial(Faults::none()).unwrap();
        let whole = head(len);
        test.write(ann, &whole[..1000]);
        assert_eq!(status(&mut test, ann), None);
        test.write(ann, &whole[1000..]);
        assert_eq!(status(&mut test, ann), Some(expected), "{len} bytes");
    }
}

#[test]
fn as_much_as_a_head_may_come_before_the_answer_and_no_byte_more() {
    for (second, refused) in [(24, None), (25, Some(400))] {
        let mut test = desk(Server::builder().max_head(1024));
        let ann = test.ask("/ws").unwrap();
        test.settle();
        for len in [1000, second] {
            test.write(ann, &vec![b'x'; len]);
            test.settle();
        }
        assert_eq!(status(&mut test, ann), refused, "{second} bytes behind a thousand");
    }
}

#[test]
fn each_byte_of_a_long_head_counts_as_eight_of_a_turns_work() {
    const LEN: usize = 8000;
    let mut test = open(Server::builder().work_per_turn(8 * LEN * 10 / 1024));
    for _ in 0..40 {
        let client = test.dial(Faults::none()).unwrap();
        test.write(client, &head(LEN));
    }
    let opened: Vec<_> = (0..40).map(|_| test.turn().opened).filter(|&opened| opened > 0).collect();
    assert_eq!(opened.iter().sum::<usize>(), 40);
    assert!(opened.iter().all(|&opened| opened <= 10), "{opened:?}");
}

#[test]
fn each_deferred_answer_counts_as_twenty_messages_of_a_turn() {
    let mut test = desk(Server::builder().work_per_turn(8 * 1024));
    for _ in 0..200 {
        test.ask("/ws").unwrap();
    }
    test.settle();
    for deferred in std::mem::take(&mut test.state().0) {
        deferred.accept(|_| {}).unwrap();
    }
    let opened: Vec<_> = (0..20).map(|_| test.turn().opened).filter(|&opened| opened > 0).collect();
    assert_eq!(opened.iter().sum::<usize>(), 200);
    // Answers have an eighth of a turn, and are taken sixteen at a time.
    assert!(
        opened.iter().all(|&opened| opened <= (1024 / 20_usize).next_multiple_of(16)),
        "{opened:?}"
    );
}
