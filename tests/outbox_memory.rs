//! The memory of a full outbox, full of any kind of small messages: live heap, counted by the
//! allocator. Alone in its file, because it counts the whole process.

use std::alloc::System;
use std::time::Duration;

use ikisocket::testing::{Client, Faults, Harness, Upgrade};
use ikisocket::{EmitError, Emitted, Latest, Server, SlowReader, Socket};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LIMIT: usize = 256 * 1024;
/// The memory of a queue, beside that of its content.
const CONSTANT: usize = 16 * 1024;

/// A reader that takes nothing, after the server has found that out.
fn blocked(policy: SlowReader) -> (Harness<()>, Client) {
    let settings =
        Server::builder().max_outbox(LIMIT).slow_reader(policy).stall_timeout(Duration::MAX);
    let mut server = settings.build(()).unwrap();
    server.route("/", |(), _| {}).unwrap();
    let mut test = Harness::new(server);
    let reader = test.connect(Upgrade::to("/").faults(Faults::none().window(512))).unwrap();
    test.stop_reading(reader);
    let uuid = test.uuid(reader).unwrap();
    test.server().sockets().emit_to(uuid, &[0; 2000]).unwrap(); // more than it takes
    test.server().flush();
    (test, reader)
}

/// The live heap that it takes until `emit` has nothing more to do.
fn taken(
    test: &mut Harness<()>,
    reader: Client,
    mut emit: impl FnMut(&mut Socket<'_, ()>, u64) -> bool,
) -> usize {
    let uuid = test.uuid(reader).unwrap();
    let mut sockets = test.server().sockets();
    let mut kws = sockets.get(uuid).unwrap();
    let region = Region::new(ALLOCATOR);
    let mut times = 0;
    while emit(&mut kws, times) {
        times += 1;
    }
    let counted = region.change();
    counted.bytes_allocated - counted.bytes_deallocated
}

/// The smallest of each kind of thing that can wait.
type Emit = fn(&mut Socket<'_, ()>, u64) -> Emitted;
const KINDS: [(&str, Emit); 7] = [
    ("an empty ping", |kws, _| kws.ping("")),
    ("a ping of 1 byte", |kws, _| kws.ping("p")),
    ("an empty message", |kws, _| kws.emit("")),
    ("a message of 1 byte", |kws, _| kws.emit("m")),
    ("a message with a key of its own", |kws, times| kws.emit(Latest(times, "k"))),
    ("a short shared message", |kws, _| share(kws, 1)),
    ("the shortest message that is referred to", |kws, _| share(kws, 256)),
];

/// A message that is encoded once for all; here there is one.
fn share(kws: &mut Socket<'_, ()>, len: usize) -> Emitted {
    match kws.broadcast_all(&[b's'; 256][..len]) {
        0 => Emitted::Refused(EmitError::Full),
        _ => Emitted::Pressure,
    }
}

#[test]
fn a_full_outbox_of_small_frames_takes_at_most_twice_its_limit() {
    // Each alone, and each by turns with each.
    for (one, first) in KINDS {
        for (other, second) in KINDS {
            let (mut test, reader) = blocked(SlowReader::DropNewest);
            let taken = taken(&mut test, reader, |kws, times| {
                let emit = if times % 2 == 0 { first } else { second };
                emit(kws, times) == Emitted::Pressure
            });
            assert!(taken <= 2 * LIMIT + CONSTANT, "{one}, {other}: {taken} bytes");
        }
    }
    // Also where the oldest make room for ever more; pings are refused in the end, however much of
    // them waits already.
    for (one, emit) in KINDS {
        let (mut test, reader) = blocked(SlowReader::DropOldest);
        let taken = taken(&mut test, reader, |kws, times| {
            emit(kws, times) == Emitted::Pressure && times < 250_000
        });
        assert!(taken <= 2 * LIMIT + CONSTANT, "{one}: {taken} bytes");
    }
}
