//! A session with Redis, against a scripted Redis in memory and in virtual time.

#[path = "common/scripted_redis.rs"]
mod scripted;

use std::io::ErrorKind;

use ikisocket::redis::{BusFailure, NotTaken, RespError, SessionOptions};
use scripted::{HELLO, OWN, Pair, Seen};

// The greeting.

#[test]
fn the_greeting_logs_in_names_the_connection_and_chooses_the_database() {
    for (address, expected) in [
        ("redis://localhost", &["HELLO 3 SETNAME ikisocket", "PING"][..]),
        (
            "redis://:secret@localhost/3",
            &["HELLO 3 AUTH default secret SETNAME ikisocket", "SELECT 3", "PING"],
        ),
        ("redis://app:s%20e@localhost", &["HELLO 3 AUTH app s e SETNAME ikisocket", "PING"]),
    ] {
        let mut pair = Pair::new(address);
        pair.turn();
        assert_eq!(pair.redis.commands[..expected.len()], *expected);
        assert_eq!(pair.redis.commands[expected.len()], "SUBSCRIBE app:own");
        assert_eq!(pair.take_seen(), [Seen::Up(0)]);
    }
}

#[test]
fn each_refusal_of_a_greeting_has_its_name_and_shows_no_password() {
    let hello = |from: &str, to: &str| HELLO.replacen(from, to, 1);
    let unknown = "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `secret`";
    for (answer, expected) in [
        (unknown.to_owned() + "\r\n", BusFailure::OldServer),
        ("-NOPROTO unsupported protocol version\r\n".into(), BusFailure::OldServer),
        ("*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n".into(), BusFailure::OldServer),
        (hello(":3", ":2"), BusFailure::OldServer),
        ("-WRONGPASS invalid username-password pair\r\n".into(), BusFailure::WrongPassword),
        ("-NOAUTH HELLO must be called with\r\n".into(), BusFailure::PasswordMissing),
        ("-ERR max number of clients reached\r\n".into(), BusFailure::TooManyClients),
        ("-DENIED Redis is running in protected mode\r\n".into(), BusFailure::ProtectedMode),
        ("-ERR secret\r\n".into(), BusFailure::Refused("ERR".into())),
        (hello("$10\r\nstandalone", "$7\r\ncluster"), BusFailure::Cluster),
        (hello("$10\r\nstandalone", "$8\r\nsentinel"), BusFailure::Sentinel),
        (hello("$6\r\nmaster", "$7\r\nreplica"), BusFailure::Replica),
        (hello("$6\r\nmaster", "$5\r\nslave"), BusFailure::Replica),
        ("+OK\r\n".into(), BusFailure::Unexpected("HELLO")),
        ("HTTP/1.1 400 Bad Request\r\n".into(), BusFailure::Nonsense(RespError::UnknownType(b'H'))),
    ] {
        let mut pair = Pair::new("redis://app:secret@localhost");
        pair.redis.hello = answer;
        pair.turn();
        assert_eq!(pair.seen, [Seen::Down(expected.clone(), 0)]);
        assert_eq!(pair.session.last_failure(), Some(&expected));
        let shown = format!("{:?} {:?} {expected}", pair.session, pair.seen);
        assert!(!shown.contains("secret"), "{shown}");
        assert_eq!(pair.session.unsent(), b"");
    }
}

#[test]
fn a_redis_that_loads_or_has_no_such_database_is_down_by_name() {
    let mut pair = Pair::new("redis://localhost/99");
    pair.redis.ping = "-LOADING Redis is loading the dataset in memory\r\n".into();
    pair.turn();
    assert_eq!(pair.take_seen(), [Seen::Down(BusFailure::Loading, 0)]);
    pair.redis.ping = "+PONG\r\n".into();
    pair.redis.select = "-ERR DB index is out of range\r\n".into();
    pair.pass(200);
    assert!(matches!(pair.take_seen()[0], Seen::Failed(BusFailure::NoSuchDatabase, _)));
    pair.redis.select = "+OK\r\n".into();
    pair.pass(1000);
    assert!(matches!(pair.take_seen()[..], [Seen::Up(200..=1200)]));
}

// Attempts.

#[test]
fn down_is_reported_once_and_each_failed_attempt_as_failed() {
    let mut pair = Pair::up();
    pair.pass(60_000);
    assert_eq!(pair.take_seen(), []);
    pair.is_reachable = false;
    pair.close(None);
    assert_eq!(pair.take_seen(), [Seen::Down(BusFailure::Closed, 0)]);
    pair.pass(3000);
    let failed = pair.take_seen();
    let refused = BusFailure::Unreachable(ErrorKind::ConnectionRefused);
    assert!(failed.len() > 3);
    assert!(failed.iter().all(|seen| matches!(seen, Seen::Failed(why, _) if *why == refused)));
    pair.is_reachable = true;
    pair.pass(5000);
    assert!(matches!(pair.take_seen()[..], [Seen::Up(3000..=8000)]));
}

#[test]
fn attempts_wait_twice_as_long_each_time_and_at_random() {
    let delays = |seed| {
        let options = SessionOptions::new(OWN);
        let address = "redis://localhost".parse().unwrap();
        let mut session = ikisocket::redis::Session::new(address, options, seed, 0);
        let (mut now, mut delays) = (0, Vec::new());
        for attempt in 0..40 {
            assert!(session.should_connect(now));
            session.connecting(now);
            session.disconnected(now, Some(ErrorKind::ConnectionRefused)).unwrap();
            let retry_at = session.next_deadline().unwrap();
            assert!(!session.should_connect(retry_at - 1));
            let delay = retry_at - now;
            let longest = (100 << attempt.min(10)).min(5000);
            assert!((longest / 2..=longest).contains(&delay), "attempt {attempt}: {delay} ms");
            assert!((50..=5000).contains(&delay));
            delays.push(delay);
            now = retry_at;
        }
        delays
    };
    let (a, b) = (delays(1), delays(2));
    assert_eq!(a, delays(1), "the same for the same number");
    assert!(a.iter().zip(&b).filter(|(a, b)| a != b).count() > 30, "another server's are others");
    let late = &a[10..];
    assert!(late.iter().any(|&delay| delay < 3500) && late.iter().any(|&delay| delay > 4000));
}

#[test]
fn a_connection_that_ends_again_and_again_is_tried_less_and_less_often() {
    let mut pair = Pair::up();
    for _ in 0..10 {
        pair.close(None);
        pair.pass(5000);
        assert!(pair.session.is_up());
    }
    let before = pair.now;
    pair.close(None);
    assert!(pair.session.next_deadline().unwrap() >= before + 2500);
    pair.pass(5000 + 10_000);
    let stable_since = pair.now;
    pair.close(None);
    assert!(pair.session.next_deadline().unwrap() <= stable_since + 100);
}

#[test]
fn an_attempt_that_nothing_answers_ends_in_time() {
    let mut pair = Pair::new("redis://localhost");
    pair.session.connecting(0);
    assert_eq!(pair.session.expire(4999), None);
    let event = pair.session.expire(5000).map(Seen::from);
    assert_eq!(event, Some(Seen::Down(BusFailure::ConnectTimeout { ms: 5000 }, 0)));

    let mut pair = Pair::new("redis://localhost");
    pair.session.connecting(0);
    let event = pair.session.not_resolved(10).map(Seen::from);
    assert_eq!(event, Some(Seen::Down(BusFailure::NotResolved, 0)));

    let mut pair = Pair::new("redis://localhost");
    pair.redis.reads = false;
    pair.pass(1999);
    assert_eq!(pair.seen, []);
    pair.pass(1);
    assert_eq!(pair.take_seen(), [Seen::Down(BusFailure::Silent { ms: 2000 }, 0)]);
}

#[test]
fn each_end_of_a_connection_has_its_name() {
    for (error, expected) in [
        (None, BusFailure::Closed),
        (Some(ErrorKind::ConnectionReset), BusFailure::Broken(ErrorKind::ConnectionReset)),
    ] {
        let mut pair = Pair::up();
        pair.close(error);
        assert_eq!(pair.take_seen(), [Seen::Down(expected.clone(), 0)]);

        // Much was read, and then there was nothing more to read.
        let mut pair = Pair::up();
        pair.redis.message(b"app:x", &[b'x'; 200_000]);
        pair.turn();
        pair.close(error);
        assert_eq!(pair.take_seen()[1..], [Seen::Down(expected, 0)]);

        // The end comes in the middle of much.
        let mut pair = Pair::up();
        pair.redis.message(b"app:x", &[b'x'; 200_000]);
        let out = std::mem::take(&mut pair.redis.out);
        let mut input = &out[..];
        while pair.session.receive(0, &mut input).is_some() {}
        pair.close(error);
        assert_eq!(
            pair.take_seen(),
            [Seen::Down(BusFailure::CutForSlowness { behind: out.len() }, 0)]
        );
    }
}

#[test]
fn nothing_comes_out_of_a_connection_that_is_down() {
    let mut pair = Pair::up();
    pair.session.publish(&[b"app:x"], &[b"lost"]).unwrap();
    pair.close(None);
    assert_eq!(pair.session.unsent(), b"");
    let mut late = &b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"[..];
    assert_eq!(pair.session.receive(0, &mut late), None);
    assert_eq!(late, b"");
    assert_eq!(pair.session.disconnected(0, None), None);
    assert_eq!(pair.session.expire(1), None);
}

// Subscriptions.

#[test]
fn up_comes_when_all_that_is_wanted_is_confirmed() {
    let mut pair = Pair::new("redis://localhost");
    pair.want_numbered(1);
    pair.redis.confirms = false;
    pair.turn();
    assert_eq!(pair.redis.channels.len(), 2);
    assert_eq!(pair.take_seen(), [], "nothing is confirmed");
    assert_eq!(pair.session.publish(&[b"app:0"], &[b"x"]), Err(NotTaken::Down));
    pair.redis.out.extend(b">3\r\n$9\r\nsubscribe\r\n$7\r\napp:own\r\n:1\r\n");
    pair.turn();
    assert_eq!(pair.take_seen(), []);
    pair.redis.out.extend(b">3\r\n$9\r\nsubscribe\r\n$5\r\napp:0\r\n:2\r\n");
    pair.turn();
    assert_eq!(pair.take_seen(), [Seen::Up(0)]);
    assert_eq!(pair.session.subscribed(), 2);
}

#[test]
fn a_channel_that_is_confirmed_has_its_messages_before_up() {
    let mut pair = Pair::new("redis://localhost");
    pair.want_numbered(2);
    pair.redis.confirms = false;
    pair.turn();
    pair.redis.out.extend(b">3\r\n$9\r\nsubscribe\r\n$7\r\napp:own\r\n:1\r\n");
    pair.redis.out.extend(b">3\r\n$9\r\nsubscribe\r\n$5\r\napp:0\r\n:2\r\n");
    pair.redis.message(b"app:0", b"early");
    pair.redis.out.extend(b">3\r\n$9\r\nsubscribe\r\n$5\r\napp:1\r\n:3\r\n");
    pair.turn();
    let early = Seen::Message("app:0".into(), b"early".into());
    assert_eq!(pair.take_seen(), [early, Seen::Up(0)]);
}

#[test]
fn channels_are_subscribed_in_batches_of_500_again_after_each_end() {
    let mut pair = Pair::up();
    pair.want_numbered(1200);
    pair.turn();
    assert_eq!(pair.redis.took("SUBSCRIBE"), [500, 500, 200]);
    assert_eq!(pair.session.subscribed(), 1201);
    pair.session.want(b"app:7");
    pair.turn();
    assert_eq!(pair.redis.took("SUBSCRIBE"), [], "it is subscribed");
    for _ in 0..3 {
        pair.close(None);
        pair.redis.commands.clear();
        pair.pass(1000);
        assert_eq!(pair.redis.took("SUBSCRIBE"), [500, 500, 201]);
        assert_eq!(pair.redis.channels.len(), 1201);
        assert!(matches!(pair.take_seen()[..], [Seen::Down(..), Seen::Up(_)]), "one of each");
    }
}

#[test]
fn at_most_2000_confirmations_are_outstanding() {
    let mut pair = Pair::up();
    pair.want_numbered(10_000);
    pair.redis.confirms = false;
    pair.turn();
    assert_eq!(pair.redis.took("SUBSCRIBE"), [500; 4]);
    // Those of the four batches come, and so do the other batches.
    pair.redis.confirms = true;
    let mut confirmations = Vec::new();
    for number in 0..2000 {
        let name = format!("app:{number}");
        let len = name.len();
        confirmations.extend(
            format!(">3\r\n$9\r\nsubscribe\r\n${len}\r\n{name}\r\n:{}\r\n", number + 2).bytes(),
        );
    }
    pair.redis.out = confirmations;
    pair.turn();
    assert_eq!(pair.redis.took("SUBSCRIBE"), [500; 16]);
    assert_eq!((pair.session.subscribed(), pair.take_seen()), (10_001, vec![]));
}

#[test]
fn a_channel_is_given_up_two_seconds_after_it_was_last_wanted() {
    let mut pair = Pair::up();
    pair.session.want(b"app:x");
    pair.turn();
    pair.redis.commands.clear();
    pair.session.unwant(b"app:x", pair.now);
    pair.pass(1999);
    assert_eq!(pair.redis.took("UNSUBSCRIBE"), []);
    pair.redis.message(b"app:x", b"still here");
    pair.turn();
    assert_eq!(pair.take_seen(), [Seen::Message("app:x".into(), b"still here".into())]);
    pair.pass(1);
    assert_eq!(pair.redis.took("UNSUBSCRIBE"), [1]);
    assert_eq!(pair.session.subscribed(), 1);
    pair.session.want(b"app:x");
    pair.turn();
    assert_eq!(pair.redis.took("SUBSCRIBE"), [1], "it begins anew");
}

/// Whether a command is about the subscription of another channel than the own one, for which each
/// PING asks again.
fn asks_for_another(command: &str) -> bool {
    command.contains("SUBSCRIBE") && command != "SUBSCRIBE app:own"
}

#[test]
fn a_subscription_that_dies_in_silence_is_noticed_within_a_second() {
    let mut pair = Pair::up();
    pair.want_numbered(3);
    pair.turn();
    pair.pass(3000);
    assert_eq!(pair.take_seen(), []);
    pair.redis.channels.remove(&b"app:1"[..]);
    pair.pass(1000);
    let lost = BusFailure::SubscriptionsLost { here: 4, there: 3 };
    assert_eq!(pair.take_seen(), [Seen::Down(lost, 0)]);
}

#[test]
fn a_channel_that_is_wanted_again_in_time_stays_subscribed() {
    let mut pair = Pair::up();
    pair.session.want(b"app:x");
    pair.turn();
    pair.redis.commands.clear();
    for _ in 0..100 {
        pair.session.unwant(b"app:x", pair.now);
        pair.pass(1500);
        pair.session.want(b"app:x");
        pair.pass(700);
    }
    pair.pass(10_000);
    assert!(pair.redis.commands.iter().all(|command| !asks_for_another(command)));
    // Each end counts its own two seconds.
    pair.session.unwant(b"app:x", pair.now);
    pair.pass(1500);
    pair.session.want(b"app:x");
    pair.session.unwant(b"app:x", pair.now);
    pair.pass(1999);
    assert_eq!(pair.redis.took("UNSUBSCRIBE"), []);
    pair.pass(1);
    assert_eq!(pair.redis.took("UNSUBSCRIBE"), [1]);
}

#[test]
fn what_is_not_wanted_any_more_before_it_was_sent_costs_no_command() {
    let mut pair = Pair::up();
    pair.want_numbered(100);
    for number in 0..100 {
        pair.session.unwant(format!("app:{number}").as_bytes(), pair.now);
    }
    pair.pass(5000);
    assert!(pair.redis.commands.iter().all(|command| !asks_for_another(command)));
    // The same while there is no connection; and what lingers ends with its connection.
    pair.session.want(b"app:lingers");
    pair.turn();
    pair.session.unwant(b"app:lingers", pair.now);
    pair.close(None);
    pair.want_numbered(100);
    for number in 0..100 {
        pair.session.unwant(format!("app:{number}").as_bytes(), pair.now);
    }
    pair.redis.commands.clear();
    pair.pass(5000);
    assert!(pair.redis.commands.iter().all(|command| !asks_for_another(command)));
    pair.session.unwant(OWN, pair.now);
    pair.pass(5000);
    assert_eq!(pair.session.subscribed(), 1, "its own channel is always wanted");
}

#[test]
fn a_subscription_that_redis_ends_is_reported_and_asked_for_again() {
    let mut pair = Pair::up();
    pair.want_numbered(3);
    pair.turn();
    pair.redis.commands.clear();
    pair.redis.unsubscribe(b"app:1");
    pair.turn();
    assert_eq!(pair.take_seen(), [Seen::Unsubscribed("app:1".into())]);
    assert_eq!(pair.redis.took("SUBSCRIBE"), [1]);
    pair.redis.commands.clear();
    assert_eq!((pair.redis.channels.len(), pair.session.subscribed()), (4, 4));
    // One that nothing wants any more is not.
    pair.session.unwant(b"app:2", pair.now);
    pair.redis.unsubscribe(b"app:2");
    pair.pass(5000);
    assert_eq!(pair.take_seen(), []);
    assert!(pair.redis.commands.iter().all(|command| !asks_for_another(command)));
    assert!(pair.session.is_up());
}

#[test]
fn confirmations_that_do_not_fit_end_the_connection() {
    for (push, expected) in [
        (&b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:2\r\n"[..], BusFailure::Unexpected("SUBSCRIBE")),
        (b">3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:1\r\n", BusFailure::Unexpected("UNSUBSCRIBE")),
        (
            b">3\r\n$11\r\nunsubscribe\r\n$7\r\napp:own\r\n:7\r\n",
            BusFailure::SubscriptionsLost { here: 0, there: 7 },
        ),
        (b">2\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n", BusFailure::Unexpected("a subscription")),
        (b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", BusFailure::Unexpected("a subscription")),
        (b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n", BusFailure::Unexpected("a subscription")),
        (b">0\r\n", BusFailure::Unexpected("a subscription")),
    ] {
        let mut pair = Pair::up();
        pair.redis.out.extend(push);
        pair.turn();
        assert_eq!(pair.take_seen(), [Seen::Down(expected, 0)]);
    }
    // Pushes of other kinds are none of its business.
    let mut pair = Pair::up();
    pair.redis.out.extend(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n");
    pair.turn();
    assert_eq!(pair.take_seen(), []);
}

#[test]
fn a_redis_that_answers_but_confirms_nothing_is_noticed_at_its_next_pong() {
    let mut pair = Pair::up();
    pair.redis.confirms = false;
    pair.session.want(b"app:x");
    pair.pass(999);
    assert_eq!(pair.take_seen(), []);
    pair.pass(1);
    let lost = BusFailure::SubscriptionsLost { here: 2, there: 1 };
    assert_eq!(pair.take_seen(), [Seen::Down(lost, 0)]);
}

// Signs of life.

#[test]
fn a_ping_and_a_probe_go_out_each_second_and_leave_no_trace() {
    let mut pair = Pair::up();
    pair.pass(10_000);
    let count =
        |name: &str| pair.redis.commands.iter().filter(|each| each.starts_with(name)).count();
    assert_eq!((count("PING"), count("PUBLISH app:own")), (10, 10));
    assert_eq!(count("HELLO 3"), 2, "the role of the server, every five seconds");
    assert_eq!((pair.take_seen(), pair.session.round_trip()), (vec![], Some(0)));
    assert_eq!(pair.session.unconfirmed(), 0, "probes are no messages");
}

#[test]
fn silence_is_noticed_within_three_seconds_whenever_it_begins() {
    for begins in [0, 1, 500, 999, 1000, 1001, 1999] {
        let mut pair = Pair::up();
        pair.pass(5000 + begins);
        let ping = pair.redis.took("PING").len();
        assert!(ping >= 5);
        pair.redis.reads = false;
        let last_byte = pair.now / 1000 * 1000;
        pair.pass(last_byte + 2999 - pair.now);
        assert_eq!(pair.take_seen(), [], "silent since {begins}");
        pair.pass(1);
        let silent = BusFailure::Silent { ms: 2000 };
        assert!(pair.take_seen().contains(&Seen::Down(silent, 0)), "silent since {begins}");
    }
}

#[test]
fn what_comes_is_a_sign_of_life_until_a_ping_is_unanswered_for_too_long() {
    let mut pair = Pair::up();
    pair.redis.reads = false;
    let mut silent_for = 0;
    while pair.seen.iter().all(|seen| matches!(seen, Seen::Message(..))) {
        pair.redis.message(b"app:x", b"on and on");
        pair.pass(500);
        silent_for += 500;
    }
    // The first PING went out after a second.
    assert_eq!(silent_for, 11_000);
    let unanswered = BusFailure::Unanswered { ms: 10_000 };
    assert!(pair.seen.contains(&Seen::Down(unanswered, 0)));
}

#[test]
fn a_loop_that_was_busy_does_not_take_redis_for_silent() {
    let mut pair = Pair::up();
    pair.pass(1000);
    assert_eq!(pair.session.next_deadline(), Some(2000));
    pair.now = 2000;
    assert_eq!(pair.session.expire(pair.now), None);
    let unsent = pair.session.unsent().to_vec();
    pair.session.wrote(unsent.len());
    pair.redis.receive(&unsent);
    pair.now = 60_000; // Meanwhile Redis has answered.
    pair.turn();
    assert_eq!(pair.take_seen(), []);
    assert!(pair.session.is_up());
}

#[test]
fn subscriptions_that_died_on_a_live_connection_are_noticed_in_a_second() {
    let mut pair = Pair::up();
    pair.pass(3500);
    pair.redis.delivers = false;
    pair.pass(499);
    assert_eq!(pair.take_seen(), []);
    pair.pass(1);
    assert_eq!(pair.take_seen(), [Seen::Down(BusFailure::ProbeLost, 0)]);
}

#[test]
fn a_master_that_becomes_a_replica_is_noticed_in_five_seconds() {
    let mut pair = Pair::up();
    pair.pass(6000);
    pair.redis.hello = HELLO.replacen("$6\r\nmaster", "$7\r\nreplica", 1);
    pair.pass(5000);
    assert!(pair.take_seen().contains(&Seen::Down(BusFailure::Replica, 0)));
}

// Messages.

#[test]
fn what_was_taken_goes_out_in_order_whatever_the_socket_takes_at_once() {
    let mut pair = Pair::up();
    let mut sent = Vec::new();
    for number in 0..3000_usize {
        let payload = vec![b'a' + (number % 26) as u8; number];
        pair.session.publish(&[b"app:", b"x"], &[&number.to_be_bytes(), &payload]).unwrap();
        if number % 3 == 0 {
            let unsent = pair.session.unsent();
            let len = unsent.len().min(1 + number * 7 % 5000);
            sent.extend_from_slice(&unsent[..len]);
            pair.session.wrote(len);
        }
    }
    sent.extend_from_slice(pair.session.unsent());
    let len = pair.session.unsent_len();
    pair.session.wrote(len);
    assert_eq!((pair.session.unsent_len(), pair.session.unconfirmed()), (0, 3000));
    pair.session.want(b"app:x");
    pair.redis.channels.insert(b"app:x".into());
    pair.redis.receive(&sent);
    pair.turn();
    let received = pair.take_seen();
    assert_eq!(received.len(), 3000);
    for (number, seen) in received.into_iter().enumerate() {
        let mut expected = number.to_be_bytes().to_vec();
        expected.extend(vec![b'a' + (number % 26) as u8; number]);
        assert_eq!(seen, Seen::Message("app:x".into(), expected));
    }
    assert_eq!(pair.session.unconfirmed(), 0);
}

#[test]
fn beyond_its_limit_the_outbox_refuses_and_drops_nothing() {
    let mut options = SessionOptions::new(OWN);
    options.outbox_limit = 10_000;
    let mut pair = Pair::with("redis://localhost", options);
    pair.turn();
    pair.take_seen();
    let mut taken = 0;
    while pair.session.publish(&[b"app:x"], &[&[b'x'; 1100]]) == Ok(()) {
        taken += 1;
    }
    assert_eq!((taken, pair.session.unsent_len()), (8, 8 * 1137));
    assert_eq!(pair.session.publish(&[b"app:x"], &[&[b'x'; 1100]]), Err(NotTaken::Full));
    assert_eq!(pair.session.publish(&[b"app:x"], &[b"there is room for it"]), Ok(()));
    let too_large = pair.session.publish(&[b"app:x"], &[&[b'x'; 10_000]]);
    assert_eq!(too_large, Err(NotTaken::TooLarge));
    // What the session itself needs finds room: subscriptions and signs of life.
    pair.session.want(b"app:y");
    pair.pass(1000);
    assert!(pair.redis.channels.contains(&b"app:y"[..]));
    assert_eq!(pair.redis.took("PUBLISH").len(), taken + 2, "with a probe");
    assert_eq!(pair.session.publish(&[b"app:x"], &[&[b'x'; 1100]]), Ok(()));
    assert_eq!(pair.take_seen(), []);
}

#[test]
fn down_counts_what_redis_has_not_confirmed() {
    let mut pair = Pair::up();
    for _ in 0..5 {
        pair.session.publish(&[b"app:x"], &[b"answered"]).unwrap();
    }
    pair.turn();
    assert_eq!(pair.session.unconfirmed(), 0);
    for number in 0..7_u8 {
        pair.session.publish(&[b"app:x"], &[&[number]]).unwrap();
    }
    let unsent = pair.session.unsent().to_vec();
    pair.session.wrote(unsent.len());
    pair.redis.out.extend(b":0\r\n:3\r\n");
    pair.turn();
    pair.close(None);
    assert_eq!(pair.take_seen(), [Seen::Down(BusFailure::Closed, 5)]);
    assert_eq!(pair.session.unconfirmed(), 0);
    pair.pass(1000);
    pair.close(None);
    assert_eq!(pair.take_seen()[1..], [Seen::Down(BusFailure::Closed, 0)], "counted once");
}

#[test]
fn each_refusal_of_a_message_is_a_cause_of_down() {
    for (answer, expected) in [
        ("-OOM command not allowed when used memory > 'maxmemory'.", BusFailure::OutOfMemory),
        ("-READONLY You can't write against a read only replica.", BusFailure::Replica),
        ("-MASTERDOWN Link with MASTER is down", BusFailure::Replica),
        ("-LOADING Redis is loading the dataset in memory", BusFailure::Loading),
        ("-MOVED 3999 127.0.0.1:6381", BusFailure::Cluster),
        ("-CROSSSLOT Keys in request don't hash to the same slot", BusFailure::Cluster),
        ("-NOPERM no channel", BusFailure::NoPermission("no channel".into())),
        ("-BUSY a script", BusFailure::Busy),
        ("-ERR other", BusFailure::Refused("ERR other".into())),
        ("!9\r\nERR other", BusFailure::Refused("ERR other".into())),
        ("+OK", BusFailure::Unexpected("PUBLISH")),
        ("_", BusFailure::Unexpected("PUBLISH")),
    ] {
        let mut pair = Pair::up();
        pair.redis.publish = Some(format!("{answer}\r\n"));
        pair.session.publish(&[b"app:x"], &[b"x"]).unwrap();
        pair.turn();
        assert_eq!(pair.take_seen(), [Seen::Down(expected, 1)], "{answer}");
    }
}

#[test]
fn hostile_replies_end_the_connection_by_name() {
    let limit = 64 * 1024 * 1024;
    for (reply, expected) in [
        (&b"$1073741824\r\n"[..], BusFailure::Nonsense(RespError::TooLong { limit })),
        (
            b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1073741824\r\n",
            BusFailure::Nonsense(RespError::TooLong { limit }),
        ),
        (b"*1073741824\r\n", BusFailure::Nonsense(RespError::TooManyElements { limit: 1024 })),
        (b"*?\r\n", BusFailure::Nonsense(RespError::Streamed)),
        (b"\0", BusFailure::Nonsense(RespError::UnknownType(0))),
        (b"+PONG\n", BusFailure::Nonsense(RespError::NoLineEnd)),
        (b"+PONG\r\n", BusFailure::Unexpected("nothing")),
        (b":0\r\n", BusFailure::Unexpected("nothing")),
        (b"-ERR out of the blue\r\n", BusFailure::Refused("ERR out of the blue".into())),
    ] {
        for piece in [usize::MAX, 1, 3] {
            let mut pair = Pair::up();
            pair.piece = piece;
            pair.redis.out.extend(reply);
            pair.redis.out.extend(b"+more\r\n");
            pair.turn();
            assert_eq!(pair.take_seen(), [Seen::Down(expected.clone(), 0)], "pieces of {piece}");
            pair.pass(1000);
            assert!(pair.session.is_up(), "and the next connection is another");
        }
    }
}

#[test]
fn a_conversation_is_the_same_however_it_is_cut() {
    let talk = |piece: usize| {
        let mut pair = Pair::new("redis://app:pw@localhost/1");
        pair.piece = piece;
        pair.want_numbered(30);
        pair.turn();
        for round in 0..3_usize {
            pair.redis.message(b"app:1", b"");
            pair.redis.message(b"app:2", &vec![b'\r'; 100 + round]);
            pair.redis.message(OWN, b"\x01not a probe");
            pair.redis.message(b"app:3", &vec![b'\n'; 5000 * round]);
            pair.session.publish(&[b"app:4"], &[b"to itself"]).unwrap();
            pair.redis.unsubscribe(b"app:5");
            pair.session.unwant(format!("app:{round}").as_bytes(), pair.now);
            pair.pass(3000);
        }
        pair.redis.out.extend(b">3\r\n$7\r\nmessage\r\n$5\r\napp:6\r\n$3\r\nabc\r\n%x\r\n");
        pair.pass(2000);
        assert_eq!(pair.session.subscribed(), 28);
        pair.seen
    };
    let whole = talk(usize::MAX);
    assert_eq!(whole.len(), 1 + 3 * 6 + 1 + 2, "{whole:#?}");
    for piece in (1..100).chain([500, 1000, 4096, 10_000]) {
        assert!(talk(piece) == whole, "in pieces of {piece}");
    }
}
