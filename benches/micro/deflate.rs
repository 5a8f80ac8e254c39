//! Compression: what a message costs at each level, and what it saves; what decompressing it costs,
//! with a buffer of its own and without.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use ikisocket::protocol::{Deflater, Inflater};

use crate::quotes::quotes;

const SIZES: [usize; 3] = [200, 1024, 16 * 1024];
const LEVELS: [u8; 4] = [1, 2, 3, 6];
/// Messages that are sent one after the other, so that none comes again while a compressor
/// remembers it.
const MESSAGES: usize = 700;
const WINDOW_BITS: u8 = 15;
const LIMIT: usize = 1024 * 1024;

pub fn all(criterion: &mut Criterion) {
    for (name, keep) in [("deflate alone", false), ("deflate with context", true)] {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            let messages = quotes(size, MESSAGES);
            group.throughput(Throughput::Bytes(size as u64));
            for level in LEVELS {
                let mut deflater = Deflater::new(level, WINDOW_BITS);
                let compressed: usize = messages
                    .iter()
                    .map(|message| deflated(&mut deflater, message, keep).len())
                    .sum();
                let saved = 100 - 100 * compressed / (size * messages.len());
                let (mut next, mut out) = (messages.iter().cycle(), Vec::new());
                group.bench_function(
                    BenchmarkId::new(
                        format!("{size} B, level {level}"),
                        format!("{saved} % saved"),
                    ),
                    |b| {
                        b.iter(|| {
                            out.clear();
                            deflater.deflate(next.next().expect("a cycle"), keep, &mut out);
                            black_box(&out);
                        });
                    },
                );
            }
        }
    }
    let mut group = criterion.benchmark_group("inflate alone");
    for size in SIZES {
        let mut deflater = Deflater::new(1, WINDOW_BITS);
        let messages: Vec<_> = quotes(size, MESSAGES)
            .iter()
            .map(|message| deflated(&mut deflater, message, false))
            .collect();
        group.throughput(Throughput::Bytes(size as u64));
        for reuses in [false, true] {
            let (mut inflater, mut next) = (Inflater::new(WINDOW_BITS), messages.iter().cycle());
            let mut out = Vec::new();
            let buffer = if reuses { "a buffer for all" } else { "a buffer for each" };
            group.bench_function(BenchmarkId::new(buffer, size), |b| {
                b.iter(|| {
                    if reuses {
                        out.clear();
                    } else {
                        out = Vec::new();
                    }
                    inflater.reset();
                    inflater
                        .inflate(next.next().expect("a cycle"), LIMIT, &mut out)
                        .expect("a good stream");
                    black_box(&out);
                });
            });
        }
    }
}

fn deflated(deflater: &mut Deflater, message: &[u8], keep: bool) -> Vec<u8> {
    let mut out = Vec::new();
    deflater.deflate(message, keep, &mut out);
    out
}
