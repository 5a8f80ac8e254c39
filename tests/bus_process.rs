//! Two and three processes with a bus over a real redis-server, and what can happen to it. After
//! each fault, what was sent is what was received and what was counted as lost.
//!
//! The test starts each redis-server on a Unix socket of its own. Without one it says so and
//! passes. A node is this program, started again.
#![cfg(unix)]

#[path = "bus/books.rs"]
mod books;
#[path = "bus/cluster.rs"]
mod cluster;
#[path = "bus/lines.rs"]
mod lines;
#[path = "bus/node.rs"]
mod node;
#[path = "bus/node_process.rs"]
mod node_process;
#[path = "bus/proxy.rs"]
mod proxy;
#[path = "common/redis_process.rs"]
mod redis_process;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ikisocket::redis::{Reply, ReplyLimits, Scan, Scanner, Value, encode_command};

use cluster::{Cluster, TOPICS, channel, start_node, with_users};
use lines::Order;
use node_process::{Node, PATIENCE};
use proxy::{Erring, Proxy, Way};
use redis_process::{Folder, Redis};

/// The bus is down at most 3 s after its Redis has fallen silent. The rest is for the machine.
const NOTICED: Duration = Duration::from_secs(20);

#[test]
#[ignore = "the process of a node, which the tests start"]
fn node_program() {
    cluster::run_node();
}

/// A number from the environment, for runs with more than the usual.
fn amount(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |number| number.parse().unwrap())
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// The bus of these nodes goes down, in time, with this in its cause.
#[track_caller]
fn expect_down(nodes: &mut [&mut Node], downs: usize, cause: &str) {
    let began = Instant::now();
    for node in nodes {
        node.until("down", |ledger| ledger.downs.len() == downs);
        let why = &node.ledger.downs.last().unwrap().why;
        assert!(why.contains(cause), "{why}");
    }
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
}

#[test]
fn what_goes_well_is_received_once_and_in_order_and_nothing_is_lost() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 2, 1]) else { return };
    for _ in 0..10 {
        cluster.publish_everywhere(100, 200);
        cluster.emit_everywhere(10);
    }
    let summary = cluster.settle();
    assert_eq!((summary.lost, summary.refused, summary.downs), (0, 0, 0));
    // Each of three nodes to the two others, with the first and the last message.
    let topics = TOPICS.len();
    assert_eq!((summary.pairs, summary.sent), (6 * (topics + 1), 6 * (topics as u64 * 1002 + 102)));
    for node in &cluster.nodes {
        assert_eq!((node.ledger.stats.unwrap().duplicates, node.ledger.unknown_gaps), (0, 0));
    }
    cluster.end();
}

#[test]
fn a_topic_without_members_is_not_subscribed() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 1]) else { return };
    let topic = || "other".to_owned();
    let number = format!("PUBSUB NUMSUB {}", channel("other"));
    for round in 0..2 {
        cluster.redis.ask_until(&number, |answer| answer.ends_with(":0\r\n"));
        cluster.nodes[0].order(Order::Join(topic()));
        cluster.redis.ask_until(&number, |answer| answer.ends_with(":1\r\n"));
        cluster.nodes[1].order(Order::Publish { topic: topic(), count: 5, len: 0 });
        cluster.nodes[1].order(Order::Close(topic()));
        let key = (cluster.nodes[1].ledger.node.clone(), topic());
        cluster.nodes[0].until("closed", |ledger| ledger.closed.get(&key) == Some(&(round + 1)));
        cluster.nodes[0].order(Order::Count);
        cluster.nodes[0].until("counted", |ledger| ledger.counts > round as usize);
        assert_eq!(cluster.nodes[0].ledger.received[&key].number, 6);
        cluster.nodes[0].order(Order::Leave(topic()));
    }
    cluster.settle();
}

#[test]
fn a_message_that_comes_again_is_dropped_and_counted() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 1]) else { return };
    let channel = channel(TOPICS[0]);
    let mut wire = UnixStream::connect(cluster.redis.socket()).unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    let mut next = |wire: &mut UnixStream| {
        loop {
            let limits = ReplyLimits::default();
            if let Scan::Complete(len) = Scanner::default().scan(&received, &limits).unwrap() {
                let reply: Vec<u8> = received.drain(..len).collect();
                let Value::Array(mut elements) = Reply::of(&reply).value else { panic!() };
                return match elements.nth(2).unwrap().value {
                    Value::Bulk(payload) => Some(payload.to_vec()),
                    _ => None,
                };
            }
            let mut buffer = [0; 1024];
            let read = wire.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..read]);
        }
    };
    wire.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).unwrap();
    assert_eq!(next(&mut wire), None);
    let topic = TOPICS[0].to_owned();
    cluster.nodes[0].order(Order::Publish { topic, count: 3, len: 100 });
    let mut again = Vec::new();
    for _ in 0..3 {
        let payload = next(&mut wire).unwrap();
        let command: [&[&[u8]]; 3] = [&[b"PUBLISH"], &[channel.as_bytes()], &[&payload]];
        encode_command(&command, &mut again);
    }
    let mut sender = UnixStream::connect(cluster.redis.socket()).unwrap();
    sender.write_all(&again).unwrap();
    // Redis has done it: its answers say that three have got it.
    let mut answers = [0; 3 * ":3\r\n".len()];
    sender.read_exact(&mut answers).unwrap();
    assert_eq!(answers, *b":3\r\n:3\r\n:3\r\n");
    drop(wire);
    cluster.settle();
    let duplicates = cluster.nodes.iter().map(|node| node.ledger.stats.unwrap().duplicates);
    assert_eq!(duplicates.collect::<Vec<_>>(), [0, 3], "what is its own, a node passes over");
    cluster.end();
}

#[test]
fn a_redis_that_is_killed_and_started_again_is_found_again() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 2, 1]) else { return };
    for round in 1..=3 {
        cluster.order_everywhere(200, 100);
        cluster.emit_everywhere(10);
        cluster.redis.kill();
        // The kernel says so: as an end, or as an error if there was something to read.
        expect_down(&mut cluster.all(), round, "Redis");
        cluster.publish_everywhere(50, 100);
        cluster.redis.start_again(&with_users(&[]));
        cluster.until_up(round + 1);
        let summary = cluster.settle();
        assert!(summary.refused >= 50 * 9 * round as u64, "nothing waits for the next connection");
    }
    cluster.end();
}

#[test]
fn a_redis_that_stands_still_for_10_s_is_announced_and_found_again() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 1, 1]) else { return };
    let continues = Instant::now() + Duration::from_secs(10);
    cluster.order_everywhere(100, 100);
    cluster.redis.signal("-STOP");
    // More than the sockets take: the rest is dropped when the bus goes down.
    cluster.order_everywhere(2000, 500);
    expect_down(&mut cluster.all(), 1, "nothing came from Redis");
    cluster.publish_everywhere(100, 100);
    for node in &mut cluster.nodes {
        node.watch_until(continues);
        let ledger = &node.ledger;
        assert_eq!((ledger.ups, ledger.downs.len()), (1, 1), "announced once");
        assert_eq!(ledger.gone, [""; 0], "a node whose own bus is down knows nothing of others");
    }
    cluster.redis.signal("-CONT");
    cluster.until_up(2);
    cluster.settle();
    cluster.end();
}

#[test]
fn a_connection_that_is_killed_costs_only_its_own_node() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 1]) else { return };
    for round in 1..=5 {
        cluster.order_everywhere(300, 100);
        // Inside of what is published.
        assert_eq!(cluster.redis.ask("CLIENT KILL USER b"), ":1\r\n");
        expect_down(&mut [&mut cluster.nodes[1]], round, "Redis");
        cluster.nodes[1].until("up", |ledger| ledger.ups == round + 1);
        cluster.settle();
    }
    let [a, b] = &cluster.nodes[..] else { unreachable!() };
    assert_eq!(a.ledger.downs, [], "the other one is not concerned");
    let (lost, stats) = (a.ledger.lost_of(&b.ledger.node), b.ledger.stats.unwrap());
    assert!(lost <= stats.unconfirmed, "{lost} of {stats:?}");
    cluster.end();
}

#[test]
fn a_node_that_is_cut_for_slowness_knows_why() {
    let limit = ["--client-output-buffer-limit", "pubsub", "256kb", "0", "0"];
    let Some(mut cluster) = Cluster::start(&limit, &[1, 1, 1]) else { return };
    let slow = cluster.nodes.pop().unwrap();
    slow.signal("-STOP");
    let topic = TOPICS[0].to_owned();
    let number = format!("PUBSUB NUMSUB {}", channel(&topic));
    let key = (cluster.nodes[0].ledger.node.clone(), topic.clone());
    let began = Instant::now();
    while !cluster.redis.ask(&number).ends_with(":2\r\n") {
        assert!(began.elapsed() < PATIENCE);
        // Less than the limit, so that the other node is never behind that far.
        cluster.nodes[0].order(Order::Publish { topic: topic.clone(), count: 30, len: 2000 });
        cluster.nodes[0].order(Order::Close(topic.clone()));
        let closed = cluster.nodes[1].ledger.closed[&key];
        cluster.nodes[1].until("closed", |ledger| ledger.closed[&key] > closed);
    }
    slow.signal("-CONT");
    cluster.nodes.push(slow);
    expect_down(&mut [&mut cluster.nodes[2]], 1, "client-output-buffer-limit");
    cluster.nodes[2].until("up", |ledger| ledger.ups == 2);
    cluster.settle();
    let [a, b, c] = &cluster.nodes[..] else { unreachable!() };
    assert_eq!((a.ledger.downs.len(), b.ledger.downs.len()), (0, 0));
    assert_eq!(b.ledger.lost_of(&a.ledger.node), 0);
    if c.ledger.gone.is_empty() {
        assert!(c.ledger.lost_of(&a.ledger.node) > 0);
    }
    cluster.end();
}

/// Stalls one way of the second of two nodes; its bus goes down within this time.
fn stall(way: Way, noticed: Duration, causes: [&str; 2]) {
    let Some(mut cluster) = Cluster::start(&[], &[1]) else { return };
    let proxy = Proxy::start(&cluster.redis.socket(), "proxy");
    cluster.add(proxy.path(), 1);
    cluster.begin();
    cluster.order_everywhere(200, 100);
    proxy.stall(way);
    // On the way to Redis, that is more than the sockets take.
    cluster.order_everywhere(2000, 500);
    let began = Instant::now();
    cluster.nodes[1].until("down", |ledger| ledger.downs.len() == 1);
    assert!(began.elapsed() < noticed, "{:?}", began.elapsed());
    let why = &cluster.nodes[1].ledger.downs[0].why;
    assert!(causes.iter().any(|cause| why.contains(cause)), "{why}");
    cluster.publish_everywhere(50, 100);
    proxy.resume();
    cluster.nodes[1].until("up", |ledger| ledger.ups == 2);
    cluster.settle();
    assert_eq!(cluster.nodes[0].ledger.downs, []);
    cluster.end();
}

#[test]
fn a_way_from_redis_that_stalls_is_announced_and_taken_again() {
    stall(Way::ToNode, NOTICED, ["nothing came from Redis"; 2]);
}

#[test]
fn a_way_to_redis_that_stalls_is_announced_and_taken_again() {
    // Meanwhile the signs of life of the other node still come. Then it takes 30 s.
    let causes = ["nothing came from Redis", "has not answered a PING"];
    stall(Way::ToRedis, Duration::from_secs(30) + NOTICED, causes);
}

#[test]
fn a_connection_that_is_cut_at_any_byte_is_made_again() {
    let Some(mut cluster) = Cluster::start(&[], &[1]) else { return };
    let proxy = Proxy::start(&cluster.redis.socket(), "proxy");
    cluster.add(proxy.path(), 1);
    cluster.begin();
    let mut random = Random(17);
    for round in 1..=30 {
        let way = [Way::ToNode, Way::ToRedis][round % 2];
        proxy.cut_after(way, random.below(3000) as usize);
        let deadline = Instant::now() + PATIENCE;
        while proxy.cuts() < 2 * round - 1 {
            assert!(Instant::now() < deadline, "round {round}: it was not cut");
            cluster.publish_everywhere(5, random.below(300) as usize);
        }
        // Once more: inside of the greeting or of the subscriptions, or soon after them.
        proxy.cut_after([Way::ToNode, Way::ToRedis][round / 2 % 2], random.below(200) as usize);
        while proxy.cuts() < 2 * round {
            assert!(Instant::now() < deadline, "round {round}: it was not cut again");
            cluster.publish_everywhere(5, 100);
        }
        cluster.until_up_again();
        if round % 10 == 0 {
            cluster.settle();
        }
    }
    let [a, b] = &cluster.nodes[..] else { unreachable!() };
    assert_eq!(a.ledger.downs, [], "the other one is not concerned");
    let (lost, stats) = (a.ledger.lost_of(&b.ledger.node), b.ledger.stats.unwrap());
    assert!(lost <= stats.unconfirmed, "{lost} of {stats:?}");
    cluster.end();
}

#[test]
fn what_is_no_redis_or_refuses_has_its_name_and_is_tried_again() {
    if !cluster::can_test() {
        return;
    }
    let gibibyte = [&b"$1073741824\r\n"[..], &[b'x'; 100_000]].concat();
    for (answer, cause) in [
        (&b""[..], "nothing came from Redis"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RESP3"),
        (&gibibyte, "not RESP3"),
        (b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n", "too old"),
    ] {
        let folder = Folder::new();
        let path = folder.path().join("s");
        let erring = Erring::start(&path, answer);
        let mut node = start_node(&path, "a", 1);
        expect_down(&mut [&mut node], 1, cause);
        drop(erring);
        let _redis = Redis::start_in(folder, &with_users(&[]));
        node.until("up", |ledger| ledger.ups == 1);
        node.end();
    }
    let user = |password, channels| ["--user", "a", "on", password, "~*", channels, "+@all"];
    let replica = [&user(">pw", "&*")[..], &["--replicaof", "127.0.0.1 1"]].concat();
    for (settings, cause, cure) in [
        (&user(">other", "&*")[..], "refuses the user or the password", "ACL SETUSER a >pw"),
        (&user(">pw", "&other"), "lacks a permission", "ACL SETUSER a &*"),
        (&replica, "replica", "REPLICAOF NO ONE"),
    ] {
        let redis = Redis::start(settings).unwrap();
        let mut node = start_node(&redis.socket(), "a", 1);
        expect_down(&mut [&mut node], 1, cause);
        assert_eq!(redis.ask(cure), "+OK\r\n");
        node.until("up", |ledger| ledger.ups == 1);
        node.end();
    }
}

#[test]
fn a_redis_that_loads_its_data_is_named_and_taken_when_it_is_ready() {
    if !cluster::can_test() {
        return;
    }
    let mut redis = Redis::start(&["--rdbcompression", "no"]).unwrap();
    redis.ask("EVAL \"for i = 1, 2000 do redis.call('set', i, string.rep('x', 1024)) end\" 0");
    assert_eq!(redis.ask("SAVE"), "+OK\r\n");
    redis.kill();
    // Each key takes a while, and meanwhile it answers.
    redis.start_again(&with_users(&[
        "--key-load-delay",
        "50000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]));
    redis.ask_until("PING", |answer| answer.starts_with("-LOADING"));
    let mut node = start_node(&redis.socket(), "a", 1);
    expect_down(&mut [&mut node], 1, "loads its data");
    redis.ask("CONFIG SET key-load-delay 0");
    node.until("up", |ledger| ledger.ups == 1);
    node.end();
}

#[test]
fn what_goes_wrong_within_a_connection_has_its_name() {
    let Some(mut cluster) = Cluster::start(&[], &[1]) else { return };
    let proxy = Proxy::start(&cluster.redis.socket(), "proxy");
    cluster.add(proxy.path(), 1);
    cluster.begin();
    for (round, (bytes, cause)) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "not RESP3"),
        (b"$1073741824\r\nxx", "not RESP3"),
        (b"+PONG\r\n", "an unexpected answer"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "out of memory"),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.add(bytes);
        expect_down(&mut [&mut cluster.nodes[1]], round + 1, cause);
        cluster.nodes[1].until("up", |ledger| ledger.ups == round + 2);
        cluster.settle();
    }
    assert_eq!(cluster.nodes[0].ledger.downs, []);
    // A failover makes it a replica. Both notice, at their next question.
    let downs = cluster.nodes[1].ledger.downs.len();
    assert_eq!(cluster.redis.ask("REPLICAOF 127.0.0.1 1"), "+OK\r\n");
    expect_down(&mut [&mut cluster.nodes[0]], 1, "replica");
    expect_down(&mut [&mut cluster.nodes[1]], downs + 1, "replica");
    assert_eq!(cluster.redis.ask("REPLICAOF NO ONE"), "+OK\r\n");
    cluster.until_up_again();
    cluster.settle();
    cluster.end();
}

#[test]
fn a_node_that_is_killed_is_gone_and_one_that_ends_leaves_in_silence() {
    let Some(mut cluster) = Cluster::start(&[], &[1, 1, 1, 2]) else { return };
    cluster.publish_everywhere(10, 100);
    let ended = cluster.nodes.pop().unwrap();
    ended.end();
    let killed = cluster.nodes.pop().unwrap();
    let name = killed.ledger.node.clone();
    cluster.order_everywhere(10, 100);
    killed.kill();
    for node in &mut cluster.nodes {
        node.until("without one", |ledger| !ledger.gone.is_empty());
        assert_eq!(node.ledger.gone, [name.as_str()]);
    }
    cluster.settle();
    // What is started again is another node, and begins with another first message.
    let path = cluster.redis.socket();
    cluster.add(&path, 1);
    cluster.begin();
    assert_ne!(cluster.nodes[2].ledger.node, name);
    cluster.publish_everywhere(10, 100);
    let summary = cluster.settle();
    assert_eq!(summary.lost, 0);
    for node in &cluster.nodes {
        assert_eq!(node.ledger.unknown_gaps, 0);
    }
    cluster.end();
}

#[test]
fn under_random_kills_of_redis_each_message_is_received_or_counted() {
    let kills = amount("IKISOCKET_BUS_KILLS", 60);
    let soak = Duration::from_secs(amount("IKISOCKET_BUS_SOAK", 60));
    let Some(mut cluster) = Cluster::start(&[], &[1, 2, 1]) else { return };
    let mut random = Random(u64::from(std::process::id()));
    let (began, mut killed) = (Instant::now(), 0);
    while killed < kills || began.elapsed() < soak {
        for _ in 0..random.below(20) {
            cluster.publish_everywhere(random.below(50), random.below(500) as usize);
        }
        // The next kill comes when its share of the time is over, or much later.
        let due = soak.mul_f64(killed as f64 / kills as f64);
        if killed < kills && began.elapsed() >= due {
            // What is ordered is under way, or not yet.
            cluster.order_everywhere(random.below(100), random.below(500) as usize);
            cluster.redis.kill();
            killed += 1;
            for _ in 0..random.below(3) {
                cluster.publish_everywhere(random.below(50), 100);
            }
            cluster.redis.start_again(&with_users(&[]));
            if random.below(4) > 0 {
                cluster.until_up_again();
            }
        }
        if random.below(50) == 0 {
            cluster.until_up_again();
            cluster.settle();
        }
    }
    cluster.until_up_again();
    let summary = cluster.settle();
    let seconds = began.elapsed().as_secs();
    // Not by `eprintln!`, which is shown of failed tests only.
    let _ = writeln!(std::io::stderr(), "{killed} kills in {seconds} s: {summary}");
    assert!(summary.received > 0 && summary.downs > 0);
    cluster.end();
}
