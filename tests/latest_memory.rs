//! What messages with keys cost while they wait for a reader that has stopped: live heap, counted
//! by the allocator. Alone in its file, because it counts the whole process.

use std::alloc::System;

use ikisocket::testing::{Faults, Harness, Upgrade};
use ikisocket::{Emitted, Latest, Server, SlowReader};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LIMIT: usize = 1024 * 1024;

#[test]
fn short_messages_with_keys_take_hardly_more_memory_than_the_limit() {
    for len in [0, 1, 100, 1000, 10_000] {
        let mut server = Server::builder()
            .max_outbox(LIMIT)
            .slow_reader(SlowReader::DropNewest)
            .build(())
            .unwrap();
        server.route("/", |(), _| {}).unwrap();
        let mut test = Harness::new(server);
        let reader = test.connect(Upgrade::to("/").faults(Faults::none().window(512))).unwrap();
        test.stop_reading(reader);
        let uuid = test.uuid(reader).unwrap();
        test.server().sockets().emit_to(uuid, &[0; 2000]).unwrap(); // more than it takes
        test.server().flush();
        let mut sockets = test.server().sockets();
        let mut kws = sockets.get(uuid).unwrap();
        let payload = vec![b'x'; len];

        let region = Region::new(ALLOCATOR);
        let mut keys = 0;
        while kws.emit(Latest(keys, &payload[..])) == Emitted::Pressure {
            keys += 1;
        }
        let counted = region.change();
        let live = counted.bytes_allocated as isize - counted.bytes_deallocated as isize;
        println!("{keys} messages of {len} bytes: {live} bytes");
        assert!(
            keys > 50 && live < (LIMIT + LIMIT / 4) as isize,
            "{keys} messages of {len} bytes: {live} bytes"
        );
    }
}
