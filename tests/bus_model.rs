//! Three servers with a bus in memory, against a model that knows each message and each fault: what
//! each client gets, which losses are announced and where, and when the bus goes down and up.
//!
//! `BUS_MODEL_STEPS` sets the number of steps of each walk, and `BUS_MODEL_WALKS` the number of
//! further walks, each with another seed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ikisocket::testing::{BusHarness, Faults, LoopClient, Order, Received};
use ikisocket::{
    BuildError, Builder, Bus, BusEvent, BusRefusal, BusSent, BusStats, CloseError, EmitError,
    GapFrom, Gathered, Loops, Server, Socket, Uuid,
};

const NODES: usize = 3;
/// A member of each of these is on each node as long as that runs.
const TOPICS: [&str; 2] = ["news", "prices"];
/// Clients join and leave this one.
const DRIFT: &str = "drift";
/// Clients in this one may be closed by others.
const GUESTS: &str = "guests";
/// What was severed is announced by then, in milliseconds.
const DOWN_WITHIN: u64 = 3000;
/// A node that is announced as gone was silent for this time at least: 10 s, less the time between
/// two of its signs of life, in milliseconds.
const SILENT: u64 = 7500;
/// Questions are answered by then, in milliseconds.
const ANSWER_TIME: u64 = 1000;

/// What a loop has noticed since the test last looked.
#[derive(Default)]
struct Notes {
    events: Vec<BusEvent>,
    pokes: Vec<u64>,
    /// The answers to questions, by their numbers.
    answers: Vec<(usize, Gathered<usize>)>,
}

fn server(_: usize, _: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.build(Notes::default())?;
    server.on_bus(|notes, sockets, event| {
        // Clients get a message at the place of the event.
        match event {
            BusEvent::Gap { from: GapFrom::Node(node), topic: Some(topic), lost, .. } => {
                sockets.publish(topic, format!("gap {node} {}", lost.expect("it is known")));
            }
            BusEvent::NodeGone { node, .. } => _ = sockets.broadcast(format!("gone {node}")),
            _ => {}
        }
        notes.events.push(event.clone());
    });
    server.on("poke", |notes, ep| {
        notes.pokes.push(ep.data.as_str().unwrap_or_default().parse().expect("a number"));
    });
    let join = |_: &mut Notes, kws: &mut Socket<'_, Notes>| {
        let topic = kws.param("topic").unwrap_or_default().to_owned();
        kws.join(&topic).expect("it is a good topic");
    };
    server.route("/in/:topic", join).expect("a valid pattern");
    let take_uuid = |_: &mut Notes, kws: &mut Socket<'_, Notes>| {
        let uuid = kws.param("uuid").unwrap_or_default().parse().expect("a uuid");
        kws.set_uuid(uuid).expect("it is free");
    };
    server.route("/as/:uuid", take_uuid).expect("a valid pattern");
    Ok(server)
}

/// The uuid that the program sets for a client of this node.
fn own_uuid(node: usize) -> Uuid {
    Uuid::from_u128(0xa11ce + node as u128)
}

/// One start of a node, as others name it.
type Name = String;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Topic(&'static str),
    All,
    Uuid,
}

/// What is known of a message.
#[derive(Clone, Debug)]
struct Sent {
    by: Name,
    on: usize,
    way: Way,
    /// Its place among those on its topic that the bus took from its node. Of a node with several
    /// loops it is not known.
    place: Option<u64>,
}

/// A client.
#[derive(Debug)]
struct Watcher {
    client: LoopClient,
    uuid: Uuid,
    topic: Option<&'static str>,
    /// It stays as long as its node.
    stays: bool,
    /// Another client has asked for its end.
    is_closed: bool,
    /// The newest message of each loop, by the way on which it came.
    newest: HashMap<(Name, usize, Way), u64>,
    /// What it has got in this step.
    got: Vec<u64>,
    ended: bool,
}

/// What happened at a node since the last closing.
#[derive(Debug, Default)]
struct Account {
    /// Faults that concern it.
    faults: u64,
    /// What the bus took, by topic; for all; and for the connections of each node.
    queued: BTreeMap<&'static str, u64>,
    queued_for_all: u64,
    queued_for: [u64; NODES],
    /// What came on topics, and what was announced as lost there, by its node.
    received: BTreeMap<(Name, &'static str), u64>,
    lost: BTreeMap<(Name, &'static str), u64>,
    /// What came on any topic, each message once.
    on_topics: HashSet<u64>,
    lost_elsewhere: u64,
    /// Gaps of an unknown size, and how often Redis was made to end a subscription.
    unknown: u64,
    unsubscribed: u64,
    gone: BTreeSet<Name>,
    /// What was counted at the last closing.
    stats: BusStats,
}

#[derive(Debug, Default)]
struct Node {
    loops: usize,
    is_running: bool,
    name: Name,
    watchers: Vec<Watcher>,
    /// What each loop last heard of the bus.
    is_up: Vec<Option<bool>>,
    down_at: u64,
    /// Since when nothing can come and go; since when its present connection stalls; since when its
    /// subscriptions are dead.
    severed_since: Option<u64>,
    held_since: Option<u64>,
    dead_since: Option<u64>,
    /// When it was last up and had no fault.
    well_at: u64,
    is_cut_off: bool,
    /// Its connection is about to end, when is not known.
    is_marked: bool,
    account: Account,
    /// The next place of another node's messages on a topic, and what was announced as lost before
    /// it.
    next: HashMap<(Name, &'static str), u64>,
    announced: HashMap<(Name, &'static str), u64>,
}

#[derive(Debug)]
struct Asked {
    node: usize,
    name: Name,
    at: u64,
    /// What it must be, if that is known.
    expected: Option<usize>,
    is_answered: bool,
}

/// How often something happened: a walk on which nothing happens tests nothing.
#[derive(Debug, Default)]
struct Tally {
    received: u64,
    lost: u64,
    lost_elsewhere: u64,
    downs: u64,
    gone: u64,
    unknown: u64,
    duplicates: u64,
    refused_down: u64,
    refused_full: u64,
    closings: u64,
    restarts: u64,
    complete: u64,
    incomplete: u64,
    closed: u64,
    /// The sums that were compared: on topics, and elsewhere.
    sums: u64,
    sums_elsewhere: u64,
    causes: BTreeSet<String>,
}

struct Model {
    test: BusHarness<Notes>,
    now: u64,
    nodes: Vec<Node>,
    is_killed: bool,
    is_stalled: bool,
    sent: HashMap<u64, Sent>,
    /// What must come in this step: the node and its client.
    due: Vec<(usize, LoopClient, u64)>,
    due_pokes: Vec<(usize, u64)>,
    newest_poke: HashMap<(usize, usize, Name, usize), u64>,
    asked: Vec<Asked>,
    numbers: u64,
    seed: u64,
    tally: Tally,
    /// The last steps, for a failure.
    log: Vec<String>,
}

impl Model {
    fn new(loops: [usize; NODES], order: Order, seed: u64) -> Self {
        let settings = |count| {
            let bus = Bus::redis("redis://memory").unwrap().prefix("model").outbox_bytes(6000);
            Loops::new(count).bus(bus)
        };
        let mut test = BusHarness::new(0, &settings(1), order, server).unwrap();
        // What is written by a node and not read waits there early.
        test.faults(0, Faults::none().window(1024));
        test.faults(1, Faults::none().window(2048).segments(700));
        test.faults(2, Faults::none().window(1024).interrupted().would_block());
        for count in loops {
            test.add_node(&settings(count)).unwrap();
        }
        let mut model = Self {
            test,
            now: 0,
            nodes: loops.map(|loops| Node { loops, ..Node::default() }).into(),
            is_killed: false,
            is_stalled: false,
            sent: HashMap::new(),
            due: Vec::new(),
            due_pokes: Vec::new(),
            newest_poke: HashMap::new(),
            asked: Vec::new(),
            numbers: 0,
            seed,
            tally: Tally::default(),
            log: Vec::new(),
        };
        (0..NODES).for_each(|node| model.begin(node));
        model.closing();
        model
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) as usize % below
    }

    fn say(&mut self, what: String) {
        self.log.push(format!("{:>8} {what}", self.now));
    }

    // What is known.

    fn running(&self) -> Vec<usize> {
        (0..NODES).filter(|&node| self.nodes[node].is_running).collect()
    }

    fn some_running(&mut self) -> usize {
        let running = self.running();
        running[self.random(running.len())]
    }

    fn is_severed(&self, node: usize) -> bool {
        self.is_killed || self.is_stalled || self.nodes[node].is_cut_off
    }

    /// Whether all that it sends and gets comes at once.
    fn is_well(&self, node: usize) -> bool {
        let Node { is_running, is_up, dead_since, held_since, is_marked, .. } = &self.nodes[node];
        *is_running
            && !self.is_severed(node)
            && !*is_marked
            && dead_since.is_none()
            && held_since.is_none()
            && is_up.iter().all(|&is_up| is_up == Some(true))
    }

    fn bus_stats(&mut self, node: usize) -> BusStats {
        self.test.node(node).on(0).server().stats().bus.expect("it has a bus")
    }

    fn node_of(&self, name: &str) -> Option<usize> {
        (0..NODES).find(|&node| self.nodes[node].is_running && self.nodes[node].name == name)
    }

    /// The node to which a message for this uuid goes.
    fn home(&self, uuid: Uuid) -> Option<usize> {
        let set = (0..NODES).find(|&node| uuid == own_uuid(node));
        let set = set.filter(|&node| self.nodes[node].is_running);
        set.or_else(|| self.node_of(&uuid.simple().to_string()[..12]))
    }

    fn find(&self, uuid: Uuid) -> Option<(usize, LoopClient)> {
        (0..NODES).find_map(|node| {
            let watcher = self.nodes[node].watchers.iter().find(|each| each.uuid == uuid)?;
            Some((node, watcher.client))
        })
    }

    // Nodes and clients.

    /// Notes a node that has just started, and gives it its clients.
    fn begin(&mut self, node: usize) {
        let name = self.test.node(node).on(0).server().sockets().node().unwrap().to_string();
        let loops = self.nodes[node].loops;
        self.nodes[node] = Node {
            loops,
            is_running: true,
            name,
            is_up: vec![None; loops],
            down_at: self.now,
            is_cut_off: self.nodes[node].is_cut_off,
            is_marked: self.nodes[node].is_marked,
            severed_since: self.is_severed(node).then_some(self.now),
            account: Account { faults: 1, ..Account::default() },
            ..Node::default()
        };
        for (index, topic) in TOPICS.into_iter().enumerate() {
            self.connect(node, (node + index) % loops, Some(topic), true);
        }
        self.connect(node, 0, None, true);
    }

    fn connect(&mut self, node: usize, on: usize, topic: Option<&'static str>, stays: bool) {
        let path = match topic {
            Some(topic) => format!("/in/{topic}"),
            None => format!("/as/{}", own_uuid(node)),
        };
        let client = self.test.node(node).connect_to(on, &*path).unwrap();
        let uuid = self.test.node(node).uuid(client).unwrap();
        self.nodes[node].watchers.push(Watcher {
            client,
            uuid,
            topic,
            stays,
            is_closed: false,
            newest: HashMap::new(),
            got: Vec::new(),
            ended: false,
        });
    }

    fn stop(&mut self, node: usize, says_goodbye: bool) {
        if says_goodbye {
            self.test.end_node(node);
        } else {
            self.test.stop_node(node);
        }
        let Node { is_running, watchers, account, name, .. } = &mut self.nodes[node];
        *is_running = false;
        account.faults += 1;
        watchers.clear();
        for asked in self.asked.iter_mut().filter(|asked| asked.name == *name) {
            asked.is_answered = true; // It will never be.
        }
        self.due.retain(|due| due.0 != node);
    }

    // Verbs.

    /// A message that is unlike all others.
    fn message(&mut self) -> (u64, String) {
        let kind = self.random(20);
        self.message_of(kind)
    }

    fn message_of(&mut self, kind: usize) -> (u64, String) {
        self.numbers += 1;
        let len = match kind {
            0 => 700 + self.random(300),
            1..=6 => self.random(500),
            _ => 0,
        };
        (self.numbers, format!("{} {}", self.numbers, "x".repeat(len)))
    }

    /// Whether what the verb says of the bus can be so; and whether the bus took it.
    fn took(&mut self, node: usize, on: usize, bus: BusSent) -> bool {
        let is_up = self.nodes[node].is_up[on] == Some(true);
        match bus {
            BusSent::Queued => assert!(is_up, "the bus is down"),
            BusSent::Refused(BusRefusal::Down) => {
                assert!(!is_up, "the bus is up");
                self.tally.refused_down += 1;
            }
            BusSent::Refused(BusRefusal::Full) => {
                assert!(!self.is_well(node), "nothing waits");
                self.tally.refused_full += 1;
            }
            other => panic!("{other:?}"),
        }
        bus == BusSent::Queued
    }

    /// The nodes that get a message at once.
    fn at_once(&self, from: usize, took: bool) -> Vec<usize> {
        let gets = |&node: &usize| node == from || took && self.is_well(from) && self.is_well(node);
        (0..NODES).filter(|&node| self.nodes[node].is_running).filter(gets).collect()
    }

    fn note(&mut self, number: u64, node: usize, on: usize, way: Way, place: Option<u64>) {
        let by = self.nodes[node].name.clone();
        self.sent.insert(number, Sent { by, on, way, place });
    }

    /// A message comes at once to the clients of these nodes that are in this.
    fn expect(&mut self, nodes: &[usize], number: u64, topic: Option<&'static str>) {
        for &node in nodes {
            let watchers = self.nodes[node].watchers.iter();
            let get_it =
                watchers.filter(|each| !each.is_closed && (topic.is_none() || each.topic == topic));
            self.due.extend(get_it.map(|each| (node, each.client, number)));
        }
    }

    fn publish(&mut self, node: usize, on: usize, topic: &'static str) {
        let message = self.message();
        self.publish_message(node, on, topic, message);
    }

    fn publish_message(
        &mut self,
        node: usize,
        on: usize,
        topic: &'static str,
        (number, text): (u64, String),
    ) {
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let bus = sockets.everywhere().publish(topic, &*text).bus;
        self.say(format!("{node}.{on} publishes {number} on {topic}: {bus:?}"));
        let took = self.took(node, on, bus);
        let count = self.nodes[node].account.queued.entry(topic).or_default();
        *count += u64::from(took);
        let place = *count;
        let place = (took && self.nodes[node].loops == 1).then_some(place);
        self.note(number, node, on, Way::Topic(topic), place);
        let nodes = self.at_once(node, took);
        self.expect(&nodes, number, Some(topic));
    }

    fn broadcast(&mut self, node: usize, on: usize) {
        let (number, text) = self.message();
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let bus = sockets.everywhere().broadcast(&*text).bus;
        self.say(format!("{node}.{on} broadcasts {number}: {bus:?}"));
        let took = self.took(node, on, bus);
        self.nodes[node].account.queued_for_all += u64::from(took);
        self.note(number, node, on, Way::All, None);
        let nodes = self.at_once(node, took);
        self.expect(&nodes, number, None);
    }

    fn fire(&mut self, node: usize, on: usize) {
        self.numbers += 1;
        let number = self.numbers;
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let bus = sockets.everywhere().fire("poke", number.to_string()).bus;
        self.say(format!("{node}.{on} fires {number}: {bus:?}"));
        let took = self.took(node, on, bus);
        self.nodes[node].account.queued_for_all += u64::from(took);
        self.note(number, node, on, Way::All, None);
        self.due_pokes = self.at_once(node, took).into_iter().map(|node| (node, number)).collect();
    }

    fn some_uuid(&mut self) -> Uuid {
        let all: Vec<_> =
            self.nodes.iter().flat_map(|node| &node.watchers).map(|each| each.uuid).collect();
        match self.random(10) {
            0 => Uuid::from_u128(self.random(5) as u128),
            _ => all[self.random(all.len())],
        }
    }

    /// Notes that the bus took something for the connections of this uuid's node.
    fn count_for(&mut self, from: usize, uuid: Uuid) {
        if let Some(home) = self.home(uuid) {
            self.nodes[from].account.queued_for[home] += 1;
        }
    }

    fn emit_to(&mut self, node: usize, on: usize, uuid: Uuid) {
        let (number, text) = self.message();
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let result = sockets.everywhere().emit_to(uuid, &*text);
        self.say(format!("{node}.{on} emits {number} to {uuid}: {result:?}"));
        self.note(number, node, on, Way::Uuid, None);
        let found = self.find(uuid);
        let is_here = self.home(uuid) == Some(node);
        match result {
            Ok(_) if is_here => {}
            Err(EmitError::Gone(_)) if is_here && found.is_none() => return,
            Ok(_) => {
                assert!(self.took(node, on, BusSent::Queued));
                self.count_for(node, uuid);
                if !self.at_once(node, true).contains(&found.map_or(node, |found| found.0)) {
                    return;
                }
            }
            Err(EmitError::Bus(refusal)) if !is_here => {
                assert!(!self.took(node, on, BusSent::Refused(refusal)));
                return;
            }
            Err(error) => panic!("{error}"),
        }
        if let Some((home, client)) = found {
            self.due.push((home, client, number));
        }
    }

    fn emit_to_list(&mut self, node: usize, on: usize) {
        let mut uuids: Vec<_> = (0..4).map(|_| self.some_uuid()).collect();
        uuids.sort_unstable();
        uuids.dedup();
        let (number, text) = self.message();
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let bus = sockets.everywhere().emit_to_list(&uuids, &*text).bus;
        self.say(format!("{node}.{on} emits {number} to {uuids:?}: {bus:?}"));
        self.note(number, node, on, Way::Uuid, None);
        let away: Vec<_> =
            uuids.iter().copied().filter(|&uuid| self.home(uuid) != Some(node)).collect();
        let took = if away.is_empty() {
            assert_eq!(bus, BusSent::None);
            false
        } else {
            self.took(node, on, bus)
        };
        if took {
            // One message for all that a node has named, and one for each that the program has.
            let is_set = |uuid: Uuid| uuid.get_version_num() != 8;
            let mut named = BTreeSet::new();
            for &uuid in &away {
                if is_set(uuid) || named.insert(self.home(uuid)) {
                    self.count_for(node, uuid);
                }
            }
        }
        let nodes = self.at_once(node, took);
        for uuid in uuids {
            if let Some((home, client)) = self.find(uuid).filter(|(home, _)| nodes.contains(home)) {
                self.due.push((home, client, number));
            }
        }
    }

    /// Closes a guest.
    fn close(&mut self, node: usize, on: usize) {
        let guests = self.nodes.iter().flat_map(|node| &node.watchers);
        let guests: Vec<_> = guests
            .filter(|each| each.topic == Some(GUESTS) && !each.is_closed)
            .map(|each| each.uuid)
            .collect();
        if guests.is_empty() {
            return;
        }
        let uuid = guests[self.random(guests.len())];
        let mut sockets = self.test.node(node).on(on).server().sockets();
        let result = sockets.everywhere().close(uuid, 4000, "enough");
        self.say(format!("{node}.{on} closes {uuid}: {result:?}"));
        let home = self.home(uuid).unwrap();
        match result {
            Ok(true) if home == node => {}
            Ok(true) => {
                assert!(self.took(node, on, BusSent::Queued));
                self.count_for(node, uuid);
            }
            Err(CloseError::Bus(refusal)) if home != node => {
                assert!(!self.took(node, on, BusSent::Refused(refusal)));
                return;
            }
            other => panic!("{other:?}"),
        }
        let comes_at_once = self.at_once(node, true).contains(&home);
        let watchers = &mut self.nodes[home].watchers;
        watchers.iter_mut().filter(|each| each.uuid == uuid).for_each(|each| each.is_closed = true);
        if comes_at_once {
            self.test.settle();
            self.look();
            assert!(self.find(uuid).is_none(), "{uuid} is closed at once");
        }
    }

    fn ask(&mut self, node: usize, on: usize) {
        let number = self.asked.len();
        let mut sockets = self.test.node(node).on(on).server().sockets();
        sockets.everywhere().count(move |notes, _, open| notes.answers.push((number, open)));
        let running = self.running();
        let knows_all = self.bus_stats(node).nodes == running.len() - 1;
        let is_known = knows_all && running.iter().all(|&node| self.is_well(node));
        let expected = is_known.then(|| self.nodes.iter().map(|node| node.watchers.len()).sum());
        self.say(format!("{node}.{on} asks {number}, {expected:?}"));
        let name = self.nodes[node].name.clone();
        self.asked.push(Asked { node, name, at: self.now, expected, is_answered: false });
    }

    fn drift(&mut self) {
        let node = self.some_running();
        let on = self.random(self.nodes[node].loops);
        let topic = if self.random(2) == 0 { DRIFT } else { GUESTS };
        let leaver = self.nodes[node].watchers.iter().position(|each| each.topic == Some(DRIFT));
        match leaver {
            Some(at) if self.random(2) == 0 => {
                let watcher = &mut self.nodes[node].watchers[at];
                watcher.is_closed = true;
                let client = watcher.client;
                self.say(format!("a client of {node} leaves"));
                self.test.node(node).close(client, 1000, "");
            }
            _ if self.nodes[node].watchers.len() < 12 => {
                self.say(format!("a client of {node}.{on} joins {topic}"));
                self.connect(node, on, Some(topic), false);
            }
            _ => {}
        }
    }

    // Faults.

    fn has_fault(&mut self, node: usize) {
        self.nodes[node].account.faults += 1;
    }

    fn have_faults(&mut self) {
        (0..NODES).for_each(|node| self.has_fault(node));
    }

    fn fault(&mut self) {
        let node = self.random(NODES);
        match self.random(24) {
            0 if self.is_killed => {}
            0 => {
                self.say("kill".into());
                self.test.kill_redis();
                (self.is_killed, self.is_stalled) = (true, false);
                self.have_faults();
            }
            1 => self.restart_redis(),
            2..=3 if !self.is_killed => {
                let on = self.random(2) == 0;
                self.stall_redis(on);
            }
            4..=5 => {
                let on = self.random(2) == 0;
                self.cut_network(node, on);
            }
            6 if self.nodes[node].is_running && self.nodes[node].is_up[0] == Some(true) => {
                self.say(format!("the connection of {node} stalls"));
                self.test.stall_connection(node, true);
                self.has_fault(node);
                self.nodes[node].held_since.get_or_insert(self.now);
            }
            7..=8 => {
                self.say(format!("cut {node}"));
                self.test.cut(node);
                self.has_fault(node);
            }
            9..=11 => {
                let bytes = self.random(600);
                self.say(format!("cut {node} after {bytes} to it"));
                self.test.cut_after(node, bytes);
                self.mark(node);
            }
            12..=14 => {
                let bytes = self.random(600);
                self.say(format!("cut {node} after {bytes} from it"));
                self.test.cut_after_received(node, bytes);
                self.mark(node);
            }
            15..=16 => {
                let topic = TOPICS[self.random(TOPICS.len())];
                let is_well = self.is_well(node);
                if self.test.unsubscribe(node, topic) {
                    self.say(format!("unsubscribe {node} from {topic}"));
                    self.has_fault(node);
                    self.nodes[node].account.unsubscribed += 1;
                    let before = self.nodes[node].account.unknown;
                    self.test.settle();
                    self.look();
                    let announced = self.nodes[node].account.unknown - before;
                    assert!(!is_well || announced == 1, "{announced} announced");
                }
            }
            17 => {
                if self.nodes[node].is_running && self.nodes[node].is_up[0] == Some(true) {
                    self.say(format!("{node} is forgotten"));
                    self.test.forget_subscriptions(node);
                    self.has_fault(node);
                    // If its connection has ended meanwhile, it will notice that too.
                    self.nodes[node].dead_since.get_or_insert(self.now);
                }
            }
            18 => {
                self.say(format!("an answer to {node}"));
                self.test.answer_next(node, b"-OOM command not allowed\r\n");
                self.mark(node);
            }
            19 if self.nodes[node].is_running
                && self.running().len() > 1
                && self.random(3) == 0 =>
            {
                let says_goodbye = self.random(3) == 0;
                self.say(format!("stop {node}, {says_goodbye}"));
                self.stop(node, says_goodbye);
            }
            20 if self.random(4) == 0 => self.restart_node(node),
            21 if !self.nodes[node].is_cut_off => self.let_go_on(node),
            _ => {
                // Faults end more often than they begin.
                self.stall_redis(false);
                self.cut_network(node, false);
                if self.is_killed {
                    self.restart_redis();
                }
                if !self.nodes[node].is_running {
                    self.restart_node(node);
                }
            }
        }
    }

    fn mark(&mut self, node: usize) {
        self.nodes[node].is_marked = true;
        self.has_fault(node);
    }

    fn restart_redis(&mut self) {
        self.say("restart".into());
        self.test.restart_redis();
        (self.is_killed, self.is_stalled) = (false, false);
        self.have_faults();
    }

    fn stall_redis(&mut self, on: bool) {
        if self.is_stalled != on {
            self.say(format!("stall {on}"));
            self.test.stall_redis(on);
            self.is_stalled = on;
            self.have_faults();
        }
    }

    fn cut_network(&mut self, node: usize, on: bool) {
        if self.nodes[node].is_cut_off != on {
            self.say(format!("network of {node} stalls {on}"));
            self.test.stall_network(node, on);
            self.nodes[node].is_cut_off = on;
            self.nodes[node].held_since = None;
            self.has_fault(node);
        }
    }

    fn let_go_on(&mut self, node: usize) {
        self.say(format!("the connections of {node} go on"));
        self.test.stall_connection(node, false);
        self.nodes[node].held_since = None;
    }

    fn restart_node(&mut self, node: usize) {
        self.say(format!("start {node}"));
        if self.nodes[node].is_running {
            self.stop(node, false);
        }
        self.test.restart_node(node).unwrap();
        self.begin(node);
        self.tally.restarts += 1;
    }

    // Looking.

    /// Lets everything come to rest, and compares.
    fn check(&mut self) {
        for node in 0..NODES {
            let severed = self.is_severed(node);
            let since = &mut self.nodes[node].severed_since;
            *since = severed.then(|| since.unwrap_or(self.now));
        }
        self.test.settle();
        self.look();
        for (node, client, number) in std::mem::take(&mut self.due) {
            let watcher = self.nodes[node].watchers.iter().find(|each| each.client == client);
            let got = watcher.is_none_or(|watcher| watcher.got.contains(&number));
            assert!(got, "{number} comes to {client:?} of node {node} at once");
        }
        for node in 0..NODES {
            self.nodes[node].watchers.iter_mut().for_each(|each| each.got.clear());
            if self.is_well(node) {
                self.nodes[node].well_at = self.now;
            }
            let Node { is_running, severed_since, held_since, dead_since, is_up, .. } =
                &self.nodes[node];
            let is_late =
                |since: &Option<u64>| since.is_some_and(|at| at + DOWN_WITHIN <= self.now);
            if *is_running && [severed_since, held_since, dead_since].into_iter().any(is_late) {
                let is_down = is_up.iter().all(|&is_up| is_up == Some(false));
                let since = (severed_since, held_since, dead_since);
                assert!(is_down, "node {node} is down: {since:?}, {is_up:?}");
            }
        }
        for (number, asked) in self.asked.iter().enumerate() {
            let is_due = asked.at + ANSWER_TIME <= self.now || asked.expected.is_some();
            assert!(asked.is_answered || !is_due, "question {number} is answered: {asked:?}");
        }
    }

    /// Takes what all loops have noted and all clients have got.
    fn look(&mut self) {
        for node in self.running() {
            for on in 0..self.nodes[node].loops {
                let notes = std::mem::take(self.test.node(node).on(on).state());
                for event in notes.events {
                    self.bus_event(node, on, event);
                }
                let mut pokes = notes.pokes;
                pokes.dedup();
                for &number in &pokes {
                    let Sent { by, on: sender, .. } = &self.sent[&number];
                    let key = (node, on, by.clone(), *sender);
                    let newest = self.newest_poke.insert(key, number);
                    assert!(newest < Some(number), "{number} after {newest:?} at {node}.{on}");
                }
                let is_used = self.nodes[node].watchers.iter().any(|each| each.client.on == on);
                for &(_, number) in self.due_pokes.iter().filter(|due| due.0 == node && is_used) {
                    assert!(pokes.contains(&number), "{number} is fired at {node}.{on} at once");
                }
                for (number, open) in notes.answers {
                    self.answered(node, number, &open);
                }
            }
            for at in 0..self.nodes[node].watchers.len() {
                let client = self.nodes[node].watchers[at].client;
                for received in self.test.node(node).on(client.on).received(client.client) {
                    match received {
                        Received::Text(text) => self.text(node, at, &text),
                        Received::Ping(_) => {}
                        Received::Close { .. } | Received::Fin => {
                            let watcher = &mut self.nodes[node].watchers[at];
                            assert!(watcher.is_closed, "{watcher:?}");
                            watcher.ended = true;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            let before = self.nodes[node].watchers.len();
            self.nodes[node].watchers.retain(|each| !each.ended);
            self.tally.closed += (before - self.nodes[node].watchers.len()) as u64;
        }
        self.due_pokes.clear();
    }

    fn bus_event(&mut self, node: usize, on: usize, event: BusEvent) {
        let now = self.now;
        self.say(format!("{node}.{on}: {event:?}"));
        let from = match &event {
            BusEvent::Gap { from: GapFrom::Node(from), .. } => self.node_of(&from.to_string()),
            _ => None,
        };
        let is_faulty = self.nodes[node].account.faults > 0
            || from.is_some_and(|from| self.nodes[from].account.faults > 0);
        let this = &mut self.nodes[node];
        match event {
            BusEvent::Up { was_down_for, .. } => {
                assert_ne!(this.is_up[on].replace(true), Some(true), "up twice");
                let was_down_for = was_down_for.as_millis() as u64;
                assert!(was_down_for.abs_diff(now - this.down_at) <= 500, "{was_down_for}");
            }
            BusEvent::Down { why, .. } => {
                let was_up = this.is_up[on].replace(false);
                assert_ne!(was_up, Some(false), "down twice");
                assert!(is_faulty, "down without a fault: {why}");
                (this.dead_since, this.held_since) = (None, None);
                // One that was never up was down since its start.
                if was_up.is_some() {
                    this.down_at = now;
                }
                if on == 0 {
                    self.tally.downs += 1;
                    self.tally.causes.insert(format!("{why:?}"));
                }
            }
            BusEvent::Gap { from: GapFrom::Unknown, topic, lost, .. } => {
                assert_eq!(lost, None);
                let topic = topic.unwrap();
                let of_topic =
                    |each: &&Watcher| each.topic.is_some_and(|topic_of| *topic_of == *topic);
                assert!(this.watchers.iter().filter(of_topic).any(|each| each.client.on == on));
                this.account.unknown += 1;
                assert!(this.account.unknown <= this.account.unsubscribed);
                self.tally.unknown += 1;
            }
            BusEvent::Gap { from: GapFrom::Node(name), topic, lost, .. } => {
                assert!(is_faulty, "a gap without a fault");
                let lost = lost.unwrap();
                assert!(lost > 0);
                if topic.is_none() && on == 0 {
                    this.account.lost_elsewhere += lost;
                    self.tally.lost_elsewhere += lost;
                }
                assert_ne!(name.to_string(), this.name);
            }
            BusEvent::NodeGone { node: name, .. } => {
                let name = name.to_string();
                this.account.gone.insert(name.clone());
                if let Some(other) = self.node_of(&name) {
                    let well_at = self.nodes[other].well_at;
                    assert!(well_at + SILENT <= now, "it was well at {well_at}");
                }
                self.tally.gone += u64::from(on == 0);
            }
            other => panic!("{other:?}"),
        }
    }

    fn text(&mut self, node: usize, at: usize, text: &str) {
        let words: Vec<_> = text.split(' ').collect();
        let Node { watchers, next, announced, account, name, .. } = &mut self.nodes[node];
        let watcher = &mut watchers[at];
        let fixed = watcher.topic.filter(|_| watcher.stays);
        let number: u64 = match words[..] {
            ["gap", by, lost] => {
                if let Some(topic) = fixed {
                    let lost: u64 = lost.parse().unwrap();
                    *announced.entry((by.to_owned(), topic)).or_default() += lost;
                    *account.lost.entry((by.to_owned(), topic)).or_default() += lost;
                    self.tally.lost += lost;
                }
                return;
            }
            ["gone", by] => {
                if let Some(topic) = fixed {
                    next.remove(&(by.to_owned(), topic));
                }
                return;
            }
            [number, ..] => number.parse().unwrap(),
            [] => panic!("an empty message"),
        };
        let sent = &self.sent[&number];
        watcher.got.push(number);
        let newest = watcher.newest.insert((sent.by.clone(), sent.on, sent.way), number);
        assert!(newest < Some(number), "{number} after {newest:?} at {watcher:?}");
        let Way::Topic(topic) = sent.way else { return };
        assert_eq!(watcher.topic, Some(topic));
        if sent.by == *name {
            return;
        }
        account.on_topics.insert(number);
        self.tally.received += 1;
        if fixed.is_none() {
            return;
        }
        let key = (sent.by.clone(), topic);
        *account.received.entry(key.clone()).or_default() += 1;
        let announced = announced.remove(&key).unwrap_or_default();
        if let Some(place) = sent.place {
            let before = next.insert(key, place + 1);
            let expected = before.map_or(place, |before| before + announced);
            assert_eq!(place, expected, "{number}: {announced} were announced as lost");
        }
    }

    fn answered(&mut self, node: usize, number: usize, open: &Gathered<usize>) {
        self.say(format!("answer to {number}: {open:?}"));
        let asked = &mut self.asked[number];
        assert!(!std::mem::replace(&mut asked.is_answered, true), "it is answered once");
        assert_eq!(asked.node, node);
        assert!(self.now <= asked.at + ANSWER_TIME + 500);
        if let Some(expected) = asked.expected.take() {
            assert_eq!((open.value, open.is_complete()), (expected, true), "question {number}");
        }
        if open.is_complete() {
            self.tally.complete += 1;
        } else {
            self.tally.incomplete += 1;
        }
    }

    // Time and steps.

    fn pass(&mut self, ms: u64) {
        let mut rest = ms;
        while rest > 0 {
            let step = rest.min(500);
            self.test.advance(Duration::from_millis(step));
            self.now += step;
            rest -= step;
            self.check();
        }
    }

    /// All faults end. Then each node sends something on each way, and the sums are compared.
    fn closing(&mut self) {
        self.say("closing".into());
        self.stall_redis(false);
        if self.is_killed {
            self.restart_redis();
        }
        for node in 0..NODES {
            self.cut_network(node, false);
            self.let_go_on(node);
            self.test.cut_after(node, usize::MAX);
            self.test.cut_after_received(node, usize::MAX);
        }
        // All are up, and all know which others live.
        self.pass(26_000);
        let running = self.running();
        for &node in &running {
            self.nodes[node].is_marked = false;
            assert!(self.is_well(node), "{:#?}", self.nodes[node]);
            let stats = self.bus_stats(node);
            assert_eq!(stats.nodes, running.len() - 1, "the others of {node}");
        }
        for &node in &running {
            for topic in [TOPICS[0], TOPICS[1], DRIFT] {
                self.publish(node, 0, topic);
                self.check();
            }
            self.broadcast(node, 0);
            self.check();
            for to in self.running() {
                let uuids: Vec<_> = self.nodes[to].watchers.iter().map(|each| each.uuid).collect();
                for uuid in uuids {
                    self.emit_to(node, 0, uuid);
                    self.check();
                }
            }
            self.ask(node, 0);
            self.check();
        }
        for &node in &running {
            self.compare(node, &running);
        }
        for node in 0..NODES {
            let stats = if self.nodes[node].is_running {
                let stats = self.bus_stats(node);
                self.tally.duplicates +=
                    stats.duplicates - self.nodes[node].account.stats.duplicates;
                stats
            } else {
                BusStats::default()
            };
            let this = &mut self.nodes[node];
            this.account = Account { stats, ..Account::default() };
            // A place is counted from each closing on.
            this.next.clear();
        }
        for node in running.iter().copied() {
            for from in running.iter().copied().filter(|&from| from != node) {
                for topic in TOPICS {
                    let name = self.nodes[from].name.clone();
                    if self.nodes[from].loops == 1 {
                        self.nodes[node].next.insert((name, topic), 1);
                    }
                }
            }
        }
        self.sent.clear();
        self.asked.clear();
        self.log.clear();
        self.tally.closings += 1;
    }

    /// For each sender and topic: sent = received + lost. The same for all else together.
    fn compare(&mut self, node: usize, running: &[usize]) {
        let stats = self.bus_stats(node);
        let this = &self.nodes[node];
        // A node that has started since has no base to count from.
        if this.account.stats == BusStats::default() {
            return;
        }
        let mut sent_elsewhere = 0;
        let mut is_known = this.account.gone.is_empty();
        for &from in running.iter().filter(|&&from| from != node) {
            let sender = &self.nodes[from];
            if sender.account.stats == BusStats::default() {
                is_known = false;
                continue;
            }
            sent_elsewhere += sender.account.queued_for_all + sender.account.queued_for[node];
            if this.account.gone.contains(&sender.name) {
                continue;
            }
            for topic in TOPICS {
                let count = |map: &BTreeMap<(Name, &'static str), u64>| {
                    map.get(&(sender.name.clone(), topic)).copied().unwrap_or_default()
                };
                let (sent, received) =
                    (sender.account.queued[topic], count(&this.account.received));
                let lost = count(&this.account.lost);
                assert_eq!(sent, received + lost, "{received} of {from} on {topic} came to {node}");
                self.tally.sums += 1;
            }
        }
        // Another node that has ended since has sent what is not counted here.
        is_known &= running.len() == NODES;
        if is_known {
            let received = stats.received - this.account.stats.received;
            let received = received - this.account.on_topics.len() as u64;
            let lost = this.account.lost_elsewhere;
            assert_eq!(sent_elsewhere, received + lost, "{received} elsewhere came to {node}");
            self.tally.sums_elsewhere += 1;
        }
    }

    fn step(&mut self) {
        let node = self.some_running();
        let on = self.random(self.nodes[node].loops);
        match self.random(100) {
            0..40 => {
                let topics = [TOPICS[0], TOPICS[1], DRIFT];
                let topic = topics[self.random(3)];
                self.publish(node, on, topic);
            }
            40..48 => self.broadcast(node, on),
            48..53 => self.fire(node, on),
            53..63 => {
                let uuid = self.some_uuid();
                self.emit_to(node, on, uuid);
            }
            63..68 => self.emit_to_list(node, on),
            68..71 => self.close(node, on),
            71..74 => self.ask(node, on),
            74..79 => self.drift(),
            79..83 => self.fault(),
            83..86 if !self.is_well(node) => {
                // What waits for the bus becomes too much.
                for _ in 0..12 {
                    let message = self.message_of(0);
                    self.publish_message(node, on, TOPICS[0], message);
                }
            }
            83..96 => {
                let ms = self.random(300);
                self.pass(ms as u64);
            }
            96..99 => {
                let ms = self.random(3000);
                self.pass(ms as u64);
            }
            _ => {
                if self.random(10) == 0 {
                    self.pass(12_000);
                }
            }
        }
        self.check();
    }
}

fn walk(loops: [usize; NODES], order: Order, seed: u64) -> Tally {
    let steps = std::env::var("BUS_MODEL_STEPS").map_or(2000, |steps| steps.parse().unwrap());
    let mut model = Model::new(loops, order, seed);
    let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 1..=steps {
            model.step();
            if step == steps / 2 && model.running().len() == NODES {
                model.stop(0, false);
            }
            if step % 100 == 0 {
                model.closing();
            }
        }
        model.closing();
    }));
    if let Err(panic) = walked {
        let from = model.log.len().saturating_sub(60);
        eprintln!("seed {seed}, {loops:?}, {order:?}:\n{}", model.log[from..].join("\n"));
        std::panic::resume_unwind(panic);
    }
    println!("seed {seed}: {} messages, {:?}", model.numbers, model.tally);
    model.tally
}

/// A walk on which all that can happen has happened.
fn eventful_walk(loops: [usize; NODES], order: Order, seed: u64) {
    let tally = walk(loops, order, seed);
    let Tally { received, lost, lost_elsewhere, downs, gone, unknown, .. } = tally;
    assert!(received > 500 && lost > 20 && lost_elsewhere > 5, "{tally:?}");
    assert!(downs > 20 && gone > 0 && unknown > 0 && tally.causes.len() > 3, "{tally:?}");
    assert!(tally.refused_down > 20 && tally.refused_full > 5, "{tally:?}");
    assert!(tally.complete > 20 && tally.incomplete > 2, "{tally:?}");
    assert!(tally.sums > 50 && tally.sums_elsewhere > 10, "{tally:?}");
}

#[test]
fn servers_of_one_loop_do_what_the_model_says_in_ascending_order() {
    eventful_walk([1, 1, 1], Order::Ascending, 1);
}

#[test]
fn servers_of_one_loop_do_what_the_model_says_in_descending_order() {
    eventful_walk([1, 1, 1], Order::Descending, 2);
}

#[test]
fn servers_of_one_and_two_loops_do_what_the_model_says() {
    eventful_walk([1, 2, 1], Order::Shuffled(3), 3);
}

#[test]
fn servers_of_two_loops_do_what_the_model_says_in_any_order() {
    eventful_walk([2, 2, 2], Order::Shuffled(4), 4);
}

#[test]
fn further_walks_do_what_the_model_says() {
    let walks = std::env::var("BUS_MODEL_WALKS").map_or(0, |walks| walks.parse().unwrap());
    for seed in 100..100 + walks {
        let loops = [1 + seed as usize % 2, 1 + seed as usize / 2 % 2, 1];
        let order = match seed % 3 {
            0 => Order::Ascending,
            1 => Order::Descending,
            _ => Order::Shuffled(seed),
        };
        walk(loops, order, seed);
    }
}
