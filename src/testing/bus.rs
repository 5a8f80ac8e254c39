//! Several servers in memory with a bus between them, and with one clock.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::connect::{NotConnected, Upgrade};
use super::loops::{LoopClient, LoopsHarness, Order};
use super::peer::Received;
use super::redis::MemoryRedis;
use super::{Faults, MOST_TURNS};
use crate::bus::Bus;
use crate::config::Builder;
use crate::error::LoopsError;
use crate::loops::Loops;
use crate::protocol::{CloseCode, Message};
use crate::server::Server;

/// A client of one of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeClient {
    /// The number of the node that has its connection.
    pub node: usize,
    /// The client there.
    pub client: LoopClient,
}

/// Several servers with a [bus](crate::Server::bus), a Redis between them, and their clients,
/// without sockets and threads: a [`LoopsHarness`] for each server, with one clock. It needs the
/// feature `redis`.
///
/// The servers are called *nodes* here and have numbers from 0. The Redis does what a real one
/// does, and errs when the test says so: it can be killed and stopped, and the connection of each
/// node can be cut off after any byte.
///
/// ```
/// use std::time::Duration;
/// use ikisocket::testing::{BusHarness, Order};
/// use ikisocket::{Builder, BuildError, BusEvent, Event, Loops, Server};
///
/// fn chat(_node: usize, _index: usize, builder: Builder) -> Result<Server<()>, BuildError> {
///     let mut server = builder.build(())?;
///     server.on(Event::Connect, |_, ep| _ = ep.kws.join("room"));
///     server.on(Event::Message, |_, ep| _ = ep.kws.everywhere().publish("room", ep.data));
///     server.on_bus(|_, sockets, event| {
///         if let BusEvent::Down { why, .. } = event {
///             sockets.broadcast(format!("alone: {why}"));
///         }
///     });
///     server.route("/ws", |_, _| {}).unwrap();
///     Ok(server)
/// }
///
/// let mut test = BusHarness::new(2, &Loops::new(1), Order::Ascending, chat)?;
/// let ann = test.connect(0, "/ws")?;
/// let bob = test.connect(1, "/ws")?;
/// test.send(ann, "hello");
/// test.expect(bob, ["hello"]);
///
/// test.kill_redis();
/// test.expect(bob, ["alone: the connection to Redis was broken: connection reset"]);
/// test.restart_redis();
/// test.advance(Duration::from_secs(5)); // the attempts to connect have pauses
/// test.send(ann, "hello again");
/// test.expect(bob, ["hello again"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # The rules
///
/// - They are those of [the module](super). Whatever is looked at by the harness itself, all nodes
///   have settled before. What is done with a [node](Self::node) alone settles that node alone: its
///   messages wait until all [settle](Self::settle).
/// - A fault does what it does at once. The nodes notice when they settle, or when time passes.
/// - A client's connection ends with its node.
pub struct BusHarness<S> {
    redis: MemoryRedis,
    nodes: Vec<Node<S>>,
    order: Order,
    build: Box<Build<S>>,
}

/// Builds the server of a node's loop.
type Build<S> = dyn Fn(usize, usize, Builder) -> Result<Server<S>, String>;

struct Node<S> {
    /// `None` while it is stopped.
    loops: Option<LoopsHarness<S>>,
    settings: Loops,
    order: Order,
    /// How often it has started.
    starts: u64,
}

impl<S> BusHarness<S> {
    /// Builds this number of nodes, each with the number of loops and the settings of `loops`, and
    /// settles: then their bus is up. `build` gets the number of the node, the index of the loop,
    /// and the builder of its server.
    ///
    /// Of a [bus](Loops::bus) that `loops` has, the settings count, and not the address. `build`
    /// does not call [`Server::bus`]: the harness gives each server its bus. Listening sockets are
    /// not used.
    ///
    /// # Errors
    ///
    /// The same as those of [`Loops::start`].
    pub fn new<E: fmt::Display>(
        nodes: usize,
        loops: &Loops,
        order: Order,
        build: impl Fn(usize, usize, Builder) -> Result<Server<S>, E> + 'static,
    ) -> Result<Self, LoopsError> {
        let build = move |node: usize, index: usize, builder: Builder| {
            build(node, index, builder).map_err(|error| error.to_string())
        };
        let (redis, build) = (MemoryRedis::new(), Box::new(build));
        let mut harness = Self { redis, nodes: Vec::new(), order, build };
        for _ in 0..nodes {
            harness.start(loops)?;
        }
        harness.settle();
        Ok(harness)
    }

    /// Adds a node, which may have another number of loops and other settings, and settles. Returns
    /// its number.
    ///
    /// # Errors
    ///
    /// The same as those of [`Loops::start`].
    pub fn add_node(&mut self, loops: &Loops) -> Result<usize, LoopsError> {
        let node = self.start(loops)?;
        self.settle();
        Ok(node)
    }

    fn start(&mut self, loops: &Loops) -> Result<usize, LoopsError> {
        let node = self.nodes.len();
        let bus = Bus::redis("redis://memory").expect("this is an address");
        let order = match self.order {
            Order::Shuffled(seed) => Order::Shuffled(seed.wrapping_add(1 + node as u64)),
            order => order,
        };
        let settings = loops.with_bus_or(bus);
        self.nodes.push(Node { loops: None, settings, order, starts: 0 });
        let started = self.begin(node);
        if started.is_err() {
            self.nodes.pop();
        }
        started.map(|()| node)
    }

    /// Starts a node that is stopped.
    fn begin(&mut self, number: usize) -> Result<(), LoopsError> {
        let node = &mut self.nodes[number];
        node.starts += 1;
        // Another one for each start, as the random number is.
        let run = node.starts << 16 | number as u64;
        let build = |index, builder| (self.build)(number, index, builder);
        let mut loops = LoopsHarness::of_run(&node.settings, run, node.order, build)?;
        loops.harnesses().for_each(|each| each.join_bus(&self.redis, number));
        node.loops = Some(loops);
        Ok(())
    }

    // Clients, as those of `LoopsHarness`.

    /// Connects a client to a node, to its loop with the fewest connections:
    /// [`LoopsHarness::connect`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Harness::connect`](super::Harness::connect).
    ///
    /// # Panics
    ///
    /// If there is no such node, or it is stopped.
    #[track_caller]
    pub fn connect(
        &mut self,
        node: usize,
        upgrade: impl Into<Upgrade>,
    ) -> Result<NodeClient, NotConnected> {
        let client = self.node(node).connect(upgrade)?;
        self.settle();
        Ok(NodeClient { node, client })
    }

    /// Sends a message: [`LoopsHarness::send`].
    #[track_caller]
    pub fn send<'m>(&mut self, client: NodeClient, message: impl Into<Message<'m>>) {
        self.node(client.node).send(client.client, message);
    }

    /// Asserts that a client received exactly these, after all nodes have settled:
    /// [`LoopsHarness::expect`].
    ///
    /// # Panics
    ///
    /// If it received something else.
    #[track_caller]
    pub fn expect<R: Into<Received>>(
        &mut self,
        client: NodeClient,
        expected: impl IntoIterator<Item = R>,
    ) {
        self.settle();
        self.node(client.node).expect(client.client, expected);
    }

    /// Asserts that a client received nothing: [`LoopsHarness::expect_nothing`].
    ///
    /// # Panics
    ///
    /// If it received something.
    #[track_caller]
    pub fn expect_nothing(&mut self, client: NodeClient) {
        self.expect::<Received>(client, []);
    }

    /// Asserts that a client received only the end of the connection:
    /// [`LoopsHarness::expect_goodbye`].
    ///
    /// # Panics
    ///
    /// If it received something else.
    #[track_caller]
    pub fn expect_goodbye(&mut self, client: NodeClient, code: impl Into<CloseCode>, reason: &str) {
        self.expect(client, [Received::close(code, reason), Received::Fin]);
    }

    /// Takes what a client received since the last call: [`LoopsHarness::received`].
    #[track_caller]
    pub fn received(&mut self, client: NodeClient) -> Vec<Received> {
        self.settle();
        self.node(client.node).received(client.client)
    }

    /// The uuid of a client's connection: [`LoopsHarness::uuid`].
    #[track_caller]
    pub fn uuid(&mut self, client: NodeClient) -> Option<Uuid> {
        self.settle();
        self.node(client.node).uuid(client.client)
    }

    /// Sends a close frame: [`LoopsHarness::close`].
    #[track_caller]
    pub fn close(&mut self, client: NodeClient, code: impl Into<CloseCode>, reason: &str) {
        self.node(client.node).close(client.client, code, reason);
    }

    /// Resets a client's connection: [`LoopsHarness::reset`].
    #[track_caller]
    pub fn reset(&mut self, client: NodeClient) {
        self.node(client.node).reset(client.client);
    }

    // Nodes.

    /// The harness of one node, for everything else. What it shows is settled at this node alone.
    ///
    /// # Panics
    ///
    /// If there is no such node, or it is stopped.
    #[must_use]
    #[track_caller]
    pub fn node(&mut self, node: usize) -> &mut LoopsHarness<S> {
        let loops = self.nodes.get_mut(node).and_then(|each| each.loops.as_mut());
        loops.unwrap_or_else(|| panic!("there is no node {node}, or it is stopped"))
    }

    /// The state of one loop of a node, after all nodes have settled.
    ///
    /// # Panics
    ///
    /// If there is no such node or loop, or it has ended.
    #[must_use]
    #[track_caller]
    pub fn state(&mut self, node: usize, index: usize) -> &mut S {
        self.settle();
        self.node(node).on(index).state()
    }

    /// Stops a node without a goodbye, as if its process were killed. What it has written is still
    /// sent. The others notice after 10 s, and [`BusEvent::NodeGone`](crate::BusEvent::NodeGone)
    /// says so. It does nothing if the node is stopped.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn stop_node(&mut self, node: usize) {
        self.redis.vanish(node);
        self.nodes[node].loops = None;
    }

    /// Ends a node as a program that ends: its servers are dropped, and say goodbye to the others.
    /// It does nothing if the node is stopped.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn end_node(&mut self, node: usize) {
        self.nodes[node].loops = None;
    }

    /// Starts a node again, as a new process, and settles. One that runs is
    /// [stopped](Self::stop_node) before.
    ///
    /// # Errors
    ///
    /// The same as those of [`Loops::start`].
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn restart_node(&mut self, node: usize) -> Result<(), LoopsError> {
        self.stop_node(node);
        self.begin(node)?;
        self.settle();
        Ok(())
    }

    // Turns and time.

    /// Turns the nodes, in their order, until none has anything left to do at this time, and
    /// nothing is under way.
    ///
    /// # Panics
    ///
    /// If that never happens.
    pub fn settle(&mut self) {
        for _ in 0..MOST_TURNS {
            let mut moves = false;
            for node in self.order.next_round(self.nodes.len()) {
                moves |= self.redis.serve();
                if let Some(loops) = &mut self.nodes[node].loops {
                    loops.round();
                }
            }
            moves |= self.redis.serve();
            let mut running = self.nodes.iter_mut().filter_map(|each| each.loops.as_mut());
            if !moves && !running.any(LoopsHarness::is_busy) {
                return;
            }
        }
        panic!("the nodes and their clients find no rest in {MOST_TURNS} rounds");
    }

    /// Moves the clock of all nodes, from one timeout to the next, and settles after each.
    pub fn advance(&mut self, by: Duration) {
        self.settle();
        let mut rest = by;
        while !rest.is_zero() {
            let mut step = rest;
            for loops in self.running() {
                step = loops.next_step(step);
            }
            self.running().for_each(|loops| loops.pass(step));
            rest -= step;
            self.settle();
        }
    }

    fn running(&mut self) -> impl Iterator<Item = &mut LoopsHarness<S>> {
        self.nodes.iter_mut().filter_map(|each| each.loops.as_mut())
    }

    // Faults of the Redis.

    /// Kills the Redis: all connections are reset, what had not left it is lost, and attempts to
    /// connect are refused.
    pub fn kill_redis(&mut self) {
        self.redis.kill();
    }

    /// Starts the Redis, without subscriptions. One that runs is killed before.
    pub fn restart_redis(&mut self) {
        self.redis.restart();
    }

    /// Stops the process of the Redis, as `SIGSTOP` does, or lets it go on. Meanwhile it reads,
    /// executes and sends nothing, and the connections stay. Then it executes what has come.
    pub fn stall_redis(&mut self, on: bool) {
        self.redis.stall(on);
    }

    /// The Redis cuts a node off for which more than this number of bytes wait, as by
    /// `client-output-buffer-limit`. What the network holds, 256 KiB, does not count. Default: 32
    /// MiB.
    pub fn output_limit(&mut self, bytes: usize) {
        self.redis.output_limit(bytes);
    }

    // Faults of one node's connection.

    /// The Redis closes the connection of a node, as by `CLIENT KILL`.
    pub fn cut(&mut self, node: usize) {
        self.redis.cut(node);
    }

    /// The connection of a node is reset when the node has got this number of bytes more, be it the
    /// present connection or a later one. `usize::MAX`: never.
    pub fn cut_after(&mut self, node: usize, bytes: usize) {
        self.redis.cut_after(node, bytes);
    }

    /// The connection of a node is reset when the Redis has received this number of bytes more from
    /// it. `usize::MAX`: never.
    pub fn cut_after_received(&mut self, node: usize, bytes: usize) {
        self.redis.cut_after_received(node, bytes);
    }

    /// Stops the network between a node and the Redis, or lets it go on. Meanwhile it delivers
    /// nothing in either direction, not even ends. What was sent is delivered then.
    pub fn stall_network(&mut self, node: usize, on: bool) {
        self.redis.stall_client(node, on);
    }

    /// Stops the connection that a node has now, or lets all that were stopped go on. A connection
    /// that the node makes meanwhile is not affected. So what was sent on the one may come after
    /// what was sent on the next, as when a network loses packets.
    pub fn stall_connection(&mut self, node: usize, on: bool) {
        self.redis.stall_connections(node, on);
    }

    /// The faults of a node's connections to the Redis, from the next one on: short reads and
    /// writes, the window, interruptions. The ends that [`Faults`] can have are counted for each
    /// connection.
    pub fn faults(&mut self, node: usize, faults: Faults) {
        self.redis.faults(node, faults);
    }

    /// The Redis ends the subscription of a node to a topic, which was not asked to end, and says
    /// so. Returns whether there was one.
    pub fn unsubscribe(&mut self, node: usize, topic: &str) -> bool {
        self.redis.unsubscribe(node, &self.channel(node, topic))
    }

    /// The same without a word: the subscription is dead, and its connection lives.
    pub fn forget_subscription(&mut self, node: usize, topic: &str) -> bool {
        self.redis.forget_subscription(node, &self.channel(node, topic))
    }

    /// The Redis forgets all subscriptions of a node, without a word.
    pub fn forget_subscriptions(&mut self, node: usize) {
        self.redis.forget_subscriptions(node);
    }

    /// The next command of a node is not executed, and gets this reply, in the bytes of RESP3. More
    /// calls are for the commands after it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ikisocket::testing::{BusHarness, Order};
    /// # use ikisocket::{BuildError, Builder, BusEvent, Loops, Server};
    /// fn build(_: usize, _: usize, builder: Builder) -> Result<Server<Vec<String>>, BuildError> {
    ///     let mut server = builder.build(Vec::new())?;
    ///     server.on_bus(|lines, _, event| {
    ///         if let BusEvent::Down { why, .. } = event {
    ///             lines.push(why.to_string());
    ///         }
    ///     });
    ///     Ok(server)
    /// }
    ///
    /// let mut test = BusHarness::new(1, &Loops::new(1), Order::Ascending, build)?;
    /// test.answer_next(0, b"-READONLY You can't write against a read only replica.\r\n");
    /// test.advance(Duration::from_secs(2)); // a sign of life is asked for each second
    /// let expected = "this Redis is a replica: publish at its master";
    /// assert_eq!(test.state(0, 0), &[expected]);
    /// # Ok::<(), ikisocket::LoopsError>(())
    /// ```
    pub fn answer_next(&mut self, node: usize, reply: &[u8]) {
        self.redis.answer_next(node, reply);
    }

    /// The next command of a node with this name, in capitals, is not executed, and gets this
    /// reply.
    pub fn answer_next_of(&mut self, node: usize, command: &str, reply: &[u8]) {
        self.redis.answer_next_of(node, command.as_bytes(), reply);
    }

    /// The topics to which the connection of a node is subscribed, in their order, as the Redis has
    /// them.
    #[must_use]
    pub fn subscriptions(&self, node: usize) -> Vec<String> {
        let begin = self.channel(node, "");
        let channels = self.redis.subscriptions(node);
        let topics = channels.iter().filter_map(|channel| channel.strip_prefix(&begin[..]));
        topics.map(|topic| String::from_utf8_lossy(topic).into_owned()).collect()
    }

    /// The number of messages that the Redis was given, signs of life among them.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.redis.published()
    }

    fn channel(&self, node: usize, topic: &str) -> Vec<u8> {
        let prefix = self.nodes.get(node).map_or("", |each| each.settings.bus_prefix());
        format!("{prefix}:t:{topic}").into_bytes()
    }
}

impl<S> fmt::Debug for BusHarness<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusHarness")
            .field("nodes", &self.nodes.iter().map(|each| &each.loops).collect::<Vec<_>>())
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}
