//! What several loops cost beside their servers: live heap, counted by the allocator. One test,
//! because it counts the whole process.

use std::alloc::System;

use ikisocket::testing::{Harness, LoopsHarness, Order};
use ikisocket::{BuildError, Builder, Loops, Server, Uuid};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KIB: isize = 1024;
const CONNECTIONS: usize = 1000;
/// The most that the lane from one loop to another may cost while it is idle, in bytes.
const PER_LANE: isize = 480;
/// The most that a topic may cost beside what it costs a server by itself, in bytes.
const PER_TOPIC: isize = 128;
/// The most that a uuid may cost which the program sets, in bytes.
const PER_UUID: isize = 48;

fn build(_: usize, builder: Builder) -> Result<Server<()>, BuildError> {
    let mut server = builder.build(())?;
    server.route("/ws", |(), _| {}).expect("the pattern is valid");
    Ok(server)
}

fn start(count: usize) -> LoopsHarness<()> {
    LoopsHarness::new(&Loops::new(count), Order::Ascending, build).expect("it is valid")
}

/// Bytes that are allocated since `region` began and not freed.
fn live(region: &Region<'_, System>) -> isize {
    let counted = region.change();
    counted.bytes_allocated as isize - counted.bytes_deallocated as isize
}

/// The bytes that this leaves allocated, and its result.
fn cost_of<R>(make: impl FnOnce() -> R) -> (isize, R) {
    let region = Region::new(ALLOCATOR);
    let made = make();
    (live(&region), made)
}

/// What the lanes, tables and links of this many idle loops take.
fn of_idle_loops(count: usize) -> isize {
    let alone = || Harness::by_hand(build(0, Server::builder()).expect("it is valid"));
    let (servers, alone) = cost_of(|| (0..count).map(|_| alone()).collect::<Vec<_>>());
    drop(alone);
    let (loops, test) = cost_of(|| start(count));
    drop(test);
    loops - servers
}

/// The bytes of 1000 connections and their clients.
fn of_connections(harness: &mut Harness<()>) -> isize {
    // Tables that grow with their first entry are not counted.
    harness.connect("/ws").expect("it is upgraded");
    let connect = |harness: &mut Harness<()>| {
        (0..CONNECTIONS).for_each(|_| _ = harness.connect("/ws").expect("it is upgraded"));
    };
    cost_of(|| connect(harness)).0
}

/// The bytes of one topic with one member.
fn of_a_topic(harness: &mut Harness<()>) -> isize {
    let client = harness.connect("/ws").expect("it is upgraded");
    let uuid = harness.uuid(client).expect("it is open");
    let topics: Vec<_> = (0..1000).map(|topic| format!("{topic:016}")).collect();
    let mut sockets = harness.server().sockets();
    let mut kws = sockets.get(uuid).expect("it is open");
    let (bytes, ()) = cost_of(|| {
        topics.iter().for_each(|topic| assert_eq!(kws.join(topic), Ok(true)));
    });
    bytes / 1000
}

/// The bytes of one uuid that is set, and what is left of it afterwards.
fn of_set_uuids(test: &mut LoopsHarness<()>) -> (isize, isize) {
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| test.on(0).connect("/ws").expect("it is upgraded")).collect();
    let uuids: Vec<_> =
        clients.iter().map(|&client| test.on(0).uuid(client).expect("it is open")).collect();
    let set = |test: &mut LoopsHarness<()>, old: Uuid, new| {
        let mut sockets = test.on(0).server().sockets();
        sockets.get(old).expect("it is open").set_uuid(new).expect("it is free");
    };
    let region = Region::new(ALLOCATOR);
    for (number, &uuid) in uuids.iter().enumerate() {
        set(test, uuid, Uuid::from_u128(number as u128));
    }
    let most = live(&region);
    for (number, &uuid) in uuids.iter().enumerate() {
        set(test, Uuid::from_u128(number as u128), uuid);
    }
    (most / CONNECTIONS as isize, live(&region))
}

/// What is left of the queues after each loop had this many bytes for each other one.
fn left_of_a_burst(count: usize, bytes: usize, payload: usize) -> (isize, isize) {
    let mut test = start(count);
    let message = vec![0; payload];
    let burst = |test: &mut LoopsHarness<()>, bytes: usize| {
        for on in 0..count {
            for _ in 0..bytes / payload {
                let mut sockets = test.on(on).server().sockets();
                assert_eq!(sockets.everywhere().broadcast(&*message).full, 0);
            }
        }
        (0..count).for_each(|on| _ = test.on(on).turn());
    };
    burst(&mut test, payload);
    test.settle();
    let region = Region::new(ALLOCATOR);
    burst(&mut test, bytes);
    let most = live(&region);
    test.settle();
    (most, live(&region))
}

/// What waits for a loop that takes no turns, and what is left of it when that has ended.
fn left_of_an_end() -> (isize, isize) {
    let mut test = start(2);
    test.settle();
    let region = Region::new(ALLOCATOR);
    test.stall(1);
    for _ in 0..10_000 {
        test.on(0).server().sockets().everywhere().broadcast(&[0; 100][..]);
    }
    test.settle();
    let most = live(&region);
    test.end(1);
    (most, live(&region))
}

#[test]
fn loops_cost_little_beside_their_servers_and_give_memory_back() {
    // The process's first harness makes what all share.
    drop(start(2));
    for count in [2, 4, 16, 64] {
        let cost = of_idle_loops(count);
        println!("{count} idle loops take {cost} bytes more than {count} servers");
        let count = count as isize;
        let most = PER_LANE * count * count + KIB * count + 16 * KIB;
        assert!(cost <= most, "{cost} bytes for {count} loops");
    }

    let (mut alone, mut loops) =
        (Harness::by_hand(build(0, Server::builder()).expect("it is valid")), start(4));
    let [alone_costs, loops_cost] = [&mut alone, loops.on(0)].map(of_connections);
    println!("{CONNECTIONS} connections and clients: {alone_costs} alone, {loops_cost} with loops");
    assert!(loops_cost < alone_costs + CONNECTIONS as isize, "not a byte more for each");

    let [alone_costs, loops_cost] = [&mut alone, loops.on(0)].map(of_a_topic);
    println!("a topic with one member: {alone_costs} alone, {loops_cost} with loops");
    assert!(loops_cost <= alone_costs + PER_TOPIC);

    let (each, left) = of_set_uuids(&mut loops);
    println!("a uuid that is set: {each}, {left} are left of {CONNECTIONS}");
    // The table is one of many short ones, which keep a little each.
    assert!(each <= PER_UUID && left <= 12 * KIB, "{each} bytes each, {left} left");

    for (bytes, payload) in [(1024 * KIB, 100), (8 * 1024 * KIB, 10_000)] {
        let (most, left) = left_of_a_burst(4, bytes as usize, payload);
        println!("of {} KiB in queues {} KiB are left", most / KIB, left / KIB);
        // With pointers of 32 bits, what each message takes beside its payload is shorter.
        let least = if cfg!(target_pointer_width = "64") { 4 } else { 3 };
        assert!(most >= least * bytes, "each of 12 queues was long");
        assert!(left < 512 * KIB, "{left} bytes are left");
    }

    let (most, left) = left_of_an_end();
    println!("of {most} bytes that wait for a loop that ends {left} are left");
    assert!(most > 1000 * KIB && left <= 0, "the server of that loop is freed too");
}
