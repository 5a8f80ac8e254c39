//! What messages between servers allocate: nothing, once their channel is known; and how much
//! memory their numbers take.

use std::alloc::System;
use std::hash::{BuildHasher, RandomState};

use ikisocket::bus_messages::{Expected, Numbering, Verdict, reencode_bus_frame};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most bytes for each pair of a channel and a node that has published there.
const MOST_BYTES: usize = 48;

fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(GLOBAL);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

/// The bytes that are allocated since, and not freed.
fn kept(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated as isize - change.bytes_deallocated as isize
}

/// A message of this kind and the rest of its bytes.
fn message(kind: u8, rest: &[&[u8]]) -> Vec<u8> {
    [&[&[1, kind][..], &[0; 14]], rest].concat().concat()
}

// One test, because others would allocate at the same time.
#[test]
fn messages_allocate_nothing_and_their_numbers_take_few_bytes() {
    let messages = [
        message(0x01, &[&[b'x'; 100]]),
        message(0xe2, &[&[7; 8], &[0xff; 3000]]),
        message(0x04, &[&[0, 0, 0, 9], &[5; 9 * 16], "é".as_bytes()]),
        message(0x05, &[b"\0\x05event", b"text"]),
        message(0x06, &[&[5; 16], b"\x03\xe8\0\x03bye"]),
        message(0x07, &[&[5; 8], b"\x03\0\x06prices"]),
        message(0x09, &[&[5; 8], b"\x01", &[5; 20 * 16]]),
        message(0x0c, &[b"an unknown kind"]),
    ];
    let mut out = Vec::with_capacity(4096);
    let allocated = allocations(|| {
        for bytes in &messages {
            out.clear();
            let is_readable = reencode_bus_frame(bytes, &mut out).is_ok();
            assert_eq!((is_readable, &out == bytes), (bytes[1] != 0x0c, is_readable));
        }
    });
    assert_eq!(allocated, 0, "allocations of messages");

    let hasher = RandomState::new();
    let names: Vec<String> = (0..1000).map(|topic| format!("ikisocket:t:{topic:08}")).collect();
    let channels: Vec<(u64, &[u8])> =
        names.iter().map(|name| (hasher.hash_one(name), name.as_bytes())).collect();

    let mut numbering = Numbering::default();
    channels.iter().for_each(|(_, name)| _ = numbering.next(name, 0));
    let allocated =
        allocations(|| channels.iter().for_each(|(_, name)| _ = numbering.next(name, 1)));
    assert_eq!(allocated, 0, "allocations of numbers");

    for nodes in [1, 2, 3, 5, 20, 100] {
        let region = Region::new(GLOBAL);
        let mut expected = Expected::default();
        channels.iter().for_each(|&(hash, name)| expected.begin(hash, name));
        let of_channels = kept(&region);
        let check_all = |expected: &mut Expected, number| {
            for node in 0..nodes {
                for &(hash, name) in &channels {
                    let verdict = expected.check(hash, name, node, number, |_| true);
                    assert_eq!(verdict, Verdict::Deliver { lost: 0 });
                }
            }
        };
        check_all(&mut expected, 0);
        let pairs = nodes as usize * channels.len();
        assert_eq!(expected.len(), pairs);
        let (all, of_pairs) = (kept(&region), kept(&region) - of_channels);
        let each = of_pairs as usize / pairs;
        assert!((16..=MOST_BYTES).contains(&each), "{each} bytes for each of {nodes} nodes");
        if nodes >= 20 {
            assert!(all as usize <= pairs * MOST_BYTES, "{all} bytes for {pairs} pairs");
        }
        let allocated = allocations(|| check_all(&mut expected, 1));
        assert_eq!(allocated, 0, "allocations of checks");

        channels.iter().for_each(|&(hash, name)| expected.end(hash, name));
        assert_eq!(kept(&region), 0, "all is freed with the last members");
        // Here, because the harness keeps it in memory.
        println!(
            "{nodes} nodes: {each} bytes for each pair, {} for each channel with its name, \
             {} for both by pair",
            of_channels as usize / channels.len(),
            all as usize / pairs
        );
    }
}
