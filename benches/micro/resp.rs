//! What a message of a channel costs until its payload is found, here and in `redis-protocol`; and
//! what it costs to subscribe again after a connection has ended.

use criterion::{BenchmarkId, Criterion, Throughput};
use ikisocket::redis::{
    ChannelMessage, Reply, ReplyLimits, Scan, Scanner, Session, SessionOptions, Value,
    encode_command,
};
use redis_protocol::resp3::decode::complete::{decode, decode_range};
use std::hint::black_box;
use std::time::{Duration, Instant};

pub fn all(criterion: &mut Criterion) {
    let mut push = Vec::new();
    encode_command(&[&[b"message"], &[b"app:prices"], &[&[b'x'; 100]]], &mut push);
    push[0] = b'>';
    let limits = ReplyLimits::default();

    let mut group = criterion.benchmark_group("a message of Redis with 100 B");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::from_parameter("the short way"), |b| {
        b.iter(|| black_box(ChannelMessage::of(black_box(&push), &limits).unwrap()));
    });
    group.bench_function(BenchmarkId::from_parameter("a scan and a view"), |b| {
        b.iter(|| {
            let bytes = black_box(&push[..]);
            let Ok(Scan::Complete(len)) = Scanner::default().scan(bytes, &limits) else { panic!() };
            let Value::Push(mut push) = Reply::of(&bytes[..len]).value else { panic!() };
            black_box((push.next(), push.next(), push.next()))
        });
    });
    // It borrows too, and returns where the payload is.
    group.bench_function(BenchmarkId::from_parameter("redis-protocol, borrowed"), |b| {
        b.iter(|| black_box(decode_range(black_box(&push)).unwrap().unwrap()));
    });
    group.bench_function(BenchmarkId::from_parameter("redis-protocol, owned"), |b| {
        b.iter(|| black_box(decode(black_box(&push)).unwrap().unwrap()));
    });
    group.finish();

    let mut group = criterion.benchmark_group("PUBLISH of 100 B");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    group.bench_function(BenchmarkId::from_parameter("encoded"), |b| {
        b.iter(|| {
            out.clear();
            let payload = black_box(&[b'x'; 100]);
            encode_command(&[&[b"PUBLISH"], &[b"app:", b"prices"], &[payload]], &mut out);
            black_box(&out);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("subscribe again");
    let names: Vec<String> = (0..10_000).map(|number| format!("app:topic {number}")).collect();
    let options = SessionOptions::new(b"app:own");
    let mut session = Session::new("redis://localhost".parse().unwrap(), options, 1, 0);
    names.iter().for_each(|name| session.want(name.as_bytes()));
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function(BenchmarkId::new("channels", names.len()), |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| subscribe(&mut session)).sum());
    });
    group.finish();
}

/// Connects a session until it is up, and ends the connection. Returns the time that the session
/// took.
fn subscribe(session: &mut Session) -> Duration {
    const GREETED: &[u8] = b"%1\r\n+proto\r\n:3\r\n+PONG\r\n";
    let now = session.next_deadline().unwrap();
    session.connecting(now);
    session.connected(now);
    let (mut spent, mut count) = (Duration::ZERO, 0);
    let mut answers = GREETED.to_vec();
    loop {
        let begins = Instant::now();
        // What was asked for last is answered.
        let len = session.unsent().len();
        session.wrote(len);
        let mut input = &answers[..];
        while session.receive(now, &mut input).is_some() {}
        let asked = session.unsent();
        spent += begins.elapsed();
        if asked.is_empty() {
            break;
        }
        answers = confirmations(asked, &mut count);
    }
    assert!(session.is_up());
    session.disconnected(now, None).unwrap();
    spent
}

/// What Redis answers to SUBSCRIBE.
fn confirmations(commands: &[u8], count: &mut usize) -> Vec<u8> {
    let (mut rest, mut answers) = (commands, Vec::new());
    while let Ok(Scan::Complete(len)) = Scanner::default().scan(rest, &ReplyLimits::default()) {
        let Value::Array(args) = Reply::of(&rest[..len]).value else { panic!() };
        for channel in args.skip(1) {
            let Value::Bulk(channel) = channel.value else { panic!() };
            *count += 1;
            let at = answers.len();
            encode_command(&[&[b"subscribe"], &[channel]], &mut answers);
            answers[at..at + 2].copy_from_slice(b">3");
            answers.extend(format!(":{count}\r\n").bytes());
        }
        rest = &rest[len..];
    }
    answers
}
