//! What a message of a channel costs until its payload is found, here and in `redis-protocol`.

use criterion::{BenchmarkId, Criterion, Throughput};
use ikisocket::redis::{ChannelMessage, Reply, ReplyLimits, Scan, Scanner, Value, encode_command};
use redis_protocol::resp3::decode::complete::{decode, decode_range};
use std::hint::black_box;

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
}
