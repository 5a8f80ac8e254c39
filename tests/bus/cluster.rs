//! A redis-server with some nodes, and what is done with all of them.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::books::{ALONE, Summary, compare};
use crate::lines::Order;
use crate::node;
use crate::node_process::Node;
use crate::redis_process::{self, Redis};

/// What all channels begin with.
pub const PREFIX: &str = "app";
/// The topics that each node publishes on, and has a member in.
pub const TOPICS: [&str; 3] = ["x", "y", "z"];

/// Each node has a user of its own in Redis, so that its connection can be named there.
const USERS: [&str; 4] = ["a", "b", "c", "d"];
const MAY_ALL: [&str; 5] = ["on", ">pw", "~*", "&*", "+@all"];

/// Set in the process of a node: the number of its loops, and the address of Redis.
const NODE: &str = "IKISOCKET_BUS_NODE";

/// The channel of a topic.
pub fn channel(topic: &str) -> String {
    format!("{PREFIX}:t:{topic}")
}

/// The settings of a Redis that knows the nodes.
pub fn with_users<'s>(settings: &[&'s str]) -> Vec<&'s str> {
    let mut all = settings.to_owned();
    for user in USERS {
        all.extend(["--user", user]);
        all.extend(MAY_ALL);
    }
    all
}

/// Whether there is something to test with; says so if there is not.
pub fn can_test() -> bool {
    let over_tls = std::env::var_os("IKISOCKET_TEST_TLS").is_some_and(|set| set == "1");
    if over_tls {
        // Not by `eprintln!`, which is shown of failed tests only.
        let _ = writeln!(std::io::stderr(), "nothing was tested over TLS: the bus has none");
    }
    !over_tls && redis_process::is_here()
}

/// Starts a node with this user and number of loops, at the Redis with this socket.
#[track_caller]
pub fn start_node(socket: &Path, user: &str, loops: usize) -> Node {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "node_program", "--ignored", "--nocapture", "--test-threads=1"]);
    program.env(NODE, format!("{loops} redis+unix://{user}:pw@{}", socket.display()));
    Node::start(&mut program)
}

/// What the process of a node does.
pub fn run_node() {
    let Ok(settings) = std::env::var(NODE) else { return };
    let (loops, address) = settings.split_once(' ').unwrap();
    // Any connection was a success: the next attempt comes at once.
    node::run(loops.parse().unwrap(), address, Duration::ZERO);
}

/// A Redis and its nodes.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub redis: Redis,
}

impl Cluster {
    /// Starts a node with each of these numbers of loops, and begins. `None` if there is nothing to
    /// test with.
    #[track_caller]
    pub fn start(settings: &[&str], loops: &[usize]) -> Option<Self> {
        let redis = can_test().then(|| Redis::start(&with_users(settings)))??;
        let mut cluster = Self { nodes: Vec::new(), redis };
        let socket = cluster.redis.socket();
        loops.iter().for_each(|&loops| cluster.add(&socket, loops));
        cluster.begin();
        Some(cluster)
    }

    /// Starts one more node, whose Redis is at this socket.
    #[track_caller]
    pub fn add(&mut self, socket: &Path, loops: usize) {
        let user = USERS[self.nodes.len()];
        self.nodes.push(start_node(socket, user, loops));
    }

    /// The members of all nodes are in all topics, and each has a first message of each node.
    #[track_caller]
    pub fn begin(&mut self) {
        for node in &mut self.nodes {
            for topic in TOPICS {
                node.order(Order::Join(topic.to_owned()));
            }
            node.until("up", |ledger| ledger.is_up);
        }
        self.until_subscribed();
        self.close();
    }

    /// All nodes.
    pub fn all(&mut self) -> Vec<&mut Node> {
        self.nodes.iter_mut().collect()
    }

    /// Orders each node to publish this many messages on each topic, of at least this length.
    #[track_caller]
    pub fn order_everywhere(&mut self, count: u64, len: usize) {
        for node in &mut self.nodes {
            for topic in TOPICS {
                node.order(Order::Publish { topic: topic.to_owned(), count, len });
            }
        }
    }

    /// The same, and waits until it has been done.
    #[track_caller]
    pub fn publish_everywhere(&mut self, count: u64, len: usize) {
        self.order_everywhere(count, len);
        self.nodes.iter_mut().for_each(Node::until_answered);
    }

    /// Each node sends this many messages to the member of each node, also to its own.
    #[track_caller]
    pub fn emit_everywhere(&mut self, count: u64) {
        let members: Vec<_> = self.nodes.iter().map(|node| node.ledger.member).collect();
        for node in &mut self.nodes {
            members.iter().for_each(|&to| node.order(Order::Emit { to, count }));
        }
        self.nodes.iter_mut().for_each(Node::until_answered);
    }

    /// Waits until each node has been up this often.
    #[track_caller]
    pub fn until_up(&mut self, ups: usize) {
        self.nodes.iter_mut().for_each(|node| node.until("up", |ledger| ledger.ups == ups));
    }

    /// Waits until each node is up, whatever it has noticed so far of what has happened to Redis.
    #[track_caller]
    pub fn until_up_again(&mut self) {
        self.until_subscribed();
        for node in &mut self.nodes {
            // It is up again, or about to be: what it says from now on is true.
            node.until_counted();
            node.until("up", |ledger| ledger.is_up);
        }
    }

    /// Waits until Redis counts a subscription of each node for each topic.
    #[track_caller]
    pub fn until_subscribed(&self) {
        let count = format!(":{}\r\n", self.nodes.len());
        for topic in TOPICS {
            let question = format!("PUBSUB NUMSUB {}", channel(topic));
            self.redis.ask_until(&question, |answer| answer.ends_with(&count));
        }
    }

    /// After a fault whose ends all nodes have announced: subscriptions are there, closing messages
    /// come, and the books add up.
    #[track_caller]
    pub fn settle(&mut self) -> Summary {
        self.until_subscribed();
        self.close();
        self.nodes.iter_mut().for_each(Node::until_counted);
        let ledgers: Vec<_> = self.nodes.iter().map(|node| &node.ledger).collect();
        compare(&ledgers).unwrap_or_else(|error| panic!("{error}\n{ledgers:#?}"))
    }

    /// Lets each node send a closing message on each topic and to each member, and waits until all
    /// have come.
    #[track_caller]
    fn close(&mut self) {
        let members: Vec<_> = self.nodes.iter().map(|node| node.ledger.member).collect();
        let before: Vec<_> = self.nodes.iter().map(|node| node.ledger.closed.clone()).collect();
        let mut expected = Vec::new();
        for node in &mut self.nodes {
            TOPICS.iter().for_each(|&topic| node.order(Order::Close(topic.to_owned())));
            members.iter().for_each(|&to| node.order(Order::CloseAlone(to)));
            let topics = TOPICS.iter().chain([&ALONE]);
            expected.extend(topics.map(|&topic| (node.ledger.node.clone(), topic.to_owned())));
        }
        for (node, before) in self.nodes.iter_mut().zip(before) {
            for key in &expected {
                let closed = before.get(key).copied().unwrap_or_default();
                node.until("closed", |ledger| ledger.closed.get(key) == Some(&(closed + 1)));
            }
            node.until_answered();
        }
    }

    /// Ends all nodes.
    #[track_caller]
    pub fn end(self) {
        self.nodes.into_iter().for_each(Node::end);
    }
}
