//! What a session with Redis allocates: nothing for a message, in either direction; and how much
//! memory a subscription takes.

use std::alloc::System;

use ikisocket::redis::{
    Reply, ReplyLimits, Scan, Scanner, Session, SessionEvent, SessionOptions, Value, encode_command,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most bytes that a subscription may take beside its name.
const MOST_BYTES: usize = 200;

/// Answers what a session has to say, as Redis does.
fn answer(session: &mut Session) {
    let mut answers = Vec::new();
    let mut count = session.subscribed();
    let commands = session.unsent().to_vec();
    let mut rest = &commands[..];
    let limits = ReplyLimits { elements: 1000, ..ReplyLimits::default() };
    while let Ok(Scan::Complete(len)) = Scanner::default().scan(rest, &limits) {
        let Value::Array(mut args) = Reply::of(&rest[..len]).value else { panic!() };
        let mut next = || args.next().map(|arg| arg.value);
        match next() {
            Some(Value::Bulk(b"HELLO")) => answers.extend(b"%1\r\n+proto\r\n:3\r\n"),
            Some(Value::Bulk(b"PING")) => answers.extend(b"+PONG\r\n"),
            Some(Value::Bulk(b"SUBSCRIBE")) => {
                while let Some(Value::Bulk(channel)) = next() {
                    count += 1;
                    let at = answers.len();
                    encode_command(&[&[b"subscribe"], &[channel]], &mut answers);
                    answers[at..at + 2].copy_from_slice(b">3");
                    answers.extend(format!(":{count}\r\n").bytes());
                }
            }
            other => panic!("{other:?}"),
        }
        rest = &rest[len..];
    }
    session.wrote(commands.len());
    let mut input = &answers[..];
    while session.receive(0, &mut input).is_some() {}
}

fn up() -> Session {
    let options = SessionOptions::new(b"app:own");
    let mut session = Session::new("redis://localhost".parse().unwrap(), options, 1, 0);
    session.connecting(0);
    session.connected(0);
    answer(&mut session);
    answer(&mut session);
    assert!(session.is_up());
    session
}

#[test]
fn messages_allocate_nothing_and_a_subscription_takes_few_bytes() {
    let mut session = up();
    let mut push = Vec::new();
    for _ in 0..10 {
        let at = push.len();
        encode_command(&[&[b"message"], &[b"app:prices"], &[&[b'x'; 100]]], &mut push);
        push[at] = b'>';
    }
    let answers = b":1\r\n".repeat(10);
    let mut round = |cut: usize| {
        let mut received = 0;
        for piece in push.chunks(cut) {
            let mut input = piece;
            while let Some(event) = session.receive(0, &mut input) {
                assert!(matches!(event, SessionEvent::Message { .. }));
                received += 1;
            }
        }
        session.drained();
        assert_eq!(received, 10);
        for _ in 0..10 {
            session.publish(&[b"app:", b"prices"], &[b"\x01", &[b'x'; 100]]).unwrap();
        }
        let len = session.unsent().len();
        session.wrote(len);
        let mut input = &answers[..];
        assert_eq!(session.receive(0, &mut input), None);
    };
    for cut in [usize::MAX, 1000, 70] {
        round(cut);
        let region = Region::new(GLOBAL);
        (0..100).for_each(|_| round(cut));
        let change = region.change();
        assert_eq!(change.allocations + change.reallocations, 0, "in pieces of {cut}: {change:?}");
    }

    let names: Vec<String> = (0..10_000).map(|number| format!("app:{number:016}")).collect();
    let region = Region::new(GLOBAL);
    names.iter().for_each(|name| session.want(name.as_bytes()));
    while session.subscribed() < 10_001 {
        answer(&mut session);
    }
    let change = region.change();
    let bytes = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    let each = bytes / names.len() as isize - names[0].len() as isize;
    println!("{each} bytes for a subscription, beside its name");
    assert!((1..=MOST_BYTES as isize).contains(&each), "{each} bytes");
}
