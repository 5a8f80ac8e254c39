//! A request is kept in one allocation of exactly its length, and to read it takes no other: many
//! short-lived ones among other connections' memory keep the allocator from giving that back (a
//! counting allocator sees the whole process, so this is the only test here).

use std::alloc::System;

use ikisocket::http::{HeadLimits, Request};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations, reallocations and bytes of what is done. The least of many times, because the test
/// harness has a thread of its own.
fn allocated<T>(mut act: impl FnMut() -> T) -> (usize, usize, usize) {
    let count = |_| {
        let region = Region::new(ALLOCATOR);
        let made = act();
        let counted = region.change();
        drop(made);
        (counted.allocations, counted.reallocations, counted.bytes_allocated)
    };
    (0..20).map(count).min().unwrap()
}

#[test]
fn a_request_and_its_params_are_one_exact_allocation_each() {
    let limits = HeadLimits::default().max_headers(usize::MAX);
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ws/1?a=b HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nX:\r\nY: z\r\n\r\n",
    ] {
        let parse = || Request::parse(head.as_bytes(), &limits).unwrap();
        let request = parse();
        assert_eq!(allocated(parse), (1, 0, request.heap_bytes()), "{head}");
        let mut with_params = request.clone();
        let mut set_params = |values: &[&str]| {
            let counted = allocated(|| with_params.set_params(&["id", "rest"], values));
            assert_eq!(counted, (1, 0, with_params.heap_bytes()), "{values:?}");
        };
        set_params(&["", ""]);
        set_params(&["1", "one/and/more"]);
    }
}
