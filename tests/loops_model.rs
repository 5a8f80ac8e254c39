//! Four loops against a slow model, which knows each queue and each connection. The model says for
//! each step what is returned, and for each turn what every client receives.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use ikisocket::testing::{Client, Faults, LoopsHarness, Order, Received, Upgrade};
use ikisocket::{
    BuildError, Builder, BusEvent, EmitError, Emitted, Event, GapFrom, Loops, Sent, Server, Uuid,
    UuidError,
};

const LOOPS: usize = 4;
const TOPICS: [&str; 3] = ["news", "prices", "weather"];
/// Only clients that read are in this topic.
const READERS: &str = "readers";
/// What a letter counts beside its text and payload.
const LETTER: usize = 128;

/// What callbacks have noted.
type Notes = Vec<String>;

fn server(_: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.max_outbox(8 * 1024).build(Notes::new())?;
    server.on_bus(|notes, sockets, event| {
        if let BusEvent::Gap { from: GapFrom::Loop(from), lost: Some(lost), .. } = event {
            let gap = format!("gap {from} {lost}");
            sockets.broadcast(&*gap);
            notes.push(gap);
        }
    });
    let route = server.route("/reads", |_, kws| _ = kws.join(READERS)).expect("a valid pattern");
    let route = route.on("poke", |notes: &mut Notes, ep| {
        notes.push(format!("poke {}", ep.data.as_str().unwrap_or_default()));
    });
    route.on(Event::Message, |notes, ep| {
        // The topic, and what is to be published there.
        let text = ep.data.as_str().unwrap_or_default();
        let (topic, message) = text.split_once(' ').expect("two words");
        let sent = ep.kws.everywhere().publish(topic, message);
        notes.push(told(sent));
    });
    server.route("/stops", |_, _| {}).expect("a valid pattern");
    Ok(server)
}

fn told(sent: Sent) -> String {
    format!("sent {} {:?}", sent.queued, sent.full_loops().collect::<Vec<_>>())
}

/// What one loop asks of another.
#[derive(Clone, Debug)]
enum Letter {
    Publish(&'static str, String),
    Broadcast(String),
    EmitTo(Vec<Uuid>, String),
    Poke(String),
    Close(Uuid),
    Ask(usize),
    Answer(usize, usize),
    Gap(u64),
}

#[derive(Debug, Default)]
struct Lane {
    /// Not handed over yet.
    batch: VecDeque<(Letter, usize)>,
    handed_over: VecDeque<(Letter, usize)>,
    held: usize,
}

/// Appends a letter; losses in a row are one.
fn append(letters: &mut VecDeque<(Letter, usize)>, letter: (Letter, usize)) {
    if let (Some((Letter::Gap(lost), _)), (Letter::Gap(more), _)) = (letters.back_mut(), &letter) {
        *lost += more;
    } else {
        letters.push_back(letter);
    }
}

/// What a client does before the next turn of its loop.
#[derive(Debug)]
enum Act {
    Publish(&'static str, String),
    Close,
    Reset,
}

/// The loop of a client, and the client in the harness of that loop.
#[derive(Clone, Copy, Debug, PartialEq)]
struct At {
    on: usize,
    client: Client,
}

#[derive(Debug)]
struct Member {
    client: At,
    uuid: Uuid,
    topics: BTreeSet<&'static str>,
    expected: Vec<String>,
    open: bool,
    /// It has stopped reading, so its connection may fail at any time.
    stops: bool,
    /// It was reset, so the server may find that out at any time.
    is_reset: bool,
    act: Option<Act>,
}

/// What a verb does on its own loop in the next turn.
#[derive(Debug)]
enum Next {
    Poke(String),
    /// The end of a question that no loop will answer.
    End(usize),
}

#[derive(Debug)]
struct Asked {
    on: usize,
    missing: BTreeSet<usize>,
    sum: usize,
    complete: bool,
    is_answered: bool,
}

struct Model {
    test: LoopsHarness<Notes>,
    limit: usize,
    members: Vec<Member>,
    /// By sender and receiver.
    lanes: [[Lane; LOOPS]; LOOPS],
    /// Every uuid that a loop has made.
    made: HashMap<Uuid, usize>,
    /// Those that were set, with the loop of their connection.
    set: BTreeMap<Uuid, usize>,
    notes: [Notes; LOOPS],
    asked: Vec<Asked>,
    /// What happens in the next turn of a loop, after the letters of others.
    next: [Vec<Next>; LOOPS],
    refused: [u64; LOOPS],
    /// Questions and answers among them.
    questions_refused: u64,
    lost: [u64; LOOPS],
    queued: [u64; LOOPS],
    received: [u64; LOOPS],
    /// Because they were taken, and because another loop had made them.
    uuids_refused: [u64; 2],
    seed: u64,
    numbers: u64,
}

impl Model {
    fn new(limit: usize, seed: u64) -> Self {
        let loops = Loops::new(LOOPS).queue_bytes(limit);
        Self {
            test: LoopsHarness::new(&loops, Order::Shuffled(seed), server).expect("it is valid"),
            limit,
            members: Vec::new(),
            lanes: Default::default(),
            made: HashMap::new(),
            set: BTreeMap::new(),
            notes: Default::default(),
            asked: Vec::new(),
            next: Default::default(),
            refused: [0; LOOPS],
            questions_refused: 0,
            lost: [0; LOOPS],
            queued: [0; LOOPS],
            received: [0; LOOPS],
            uuids_refused: [0; 2],
            seed,
            numbers: 0,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) as usize % below
    }

    fn topic(&mut self) -> &'static str {
        TOPICS[self.random(TOPICS.len())]
    }

    /// A message that is unlike all others.
    fn message(&mut self) -> String {
        self.numbers += 1;
        let len = match self.random(20) {
            0 => 1024 + self.random(2000),
            1..=4 => self.random(500),
            _ => 0,
        };
        format!("{} {}", self.numbers, "x".repeat(len))
    }

    fn some_open(&mut self) -> Option<usize> {
        let open: Vec<_> = (0..self.members.len()).filter(|&at| self.members[at].open).collect();
        if open.is_empty() { None } else { Some(open[self.random(open.len())]) }
    }

    fn some_uuid(&mut self) -> Uuid {
        let any = self.random(self.members.len().max(1));
        match (self.random(8), self.some_open()) {
            (0, _) => Uuid::from_u128(self.random(20) as u128),
            (1, _) if !self.members.is_empty() => self.members[any].uuid,
            (_, Some(open)) => self.members[open].uuid,
            _ => Uuid::new_v4(),
        }
    }

    // What the model knows.

    fn home(&self, uuid: Uuid) -> Option<usize> {
        self.set.get(&uuid).or_else(|| self.made.get(&uuid)).copied()
    }

    fn with_members(&self, topic: &str, except: usize) -> Vec<usize> {
        let has = |index: &usize| {
            self.members.iter().any(|m| m.open && m.client.on == *index && m.topics.contains(topic))
        };
        (0..LOOPS).filter(|&index| index != except).filter(has).collect()
    }

    fn find(&self, on: usize, uuid: Uuid) -> Option<usize> {
        self.members.iter().position(|m| m.open && m.client.on == on && m.uuid == uuid)
    }

    fn end(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.open = false;
        if self.made.get(&member.uuid) != Some(&member.client.on) {
            assert_eq!(self.set.remove(&member.uuid), Some(member.client.on));
        }
    }

    /// Puts a letter into a lane; returns whether it has room.
    fn put(&mut self, from: usize, to: usize, letter: Letter, cost: usize) -> bool {
        let cost = LETTER + cost;
        let lane = &mut self.lanes[from][to];
        if lane.held > 0 && lane.held + cost > self.limit {
            self.refused[from] += 1;
            // The loop that asks knows when answers are missing.
            if matches!(letter, Letter::Ask(_) | Letter::Answer(..)) {
                self.questions_refused += 1;
            } else {
                append(&mut lane.batch, (Letter::Gap(1), 0));
            }
            return false;
        }
        lane.held += cost;
        lane.batch.push_back((letter, cost));
        self.queued[from] += 1;
        true
    }

    /// The same for several loops; returns those that are full, and the number of the others.
    fn put_all(&mut self, from: usize, to: &[usize], letter: &Letter, cost: usize) -> String {
        let full: Vec<_> =
            to.iter().filter(|&&to| !self.put(from, to, letter.clone(), cost)).collect();
        format!("sent {} {full:?}", to.len() - full.len())
    }

    fn deliver(&mut self, on: usize, message: &str, is_for: impl Fn(&Member) -> bool) {
        for member in &mut self.members {
            if member.open && member.client.on == on && is_for(member) {
                member.expected.push(message.to_owned());
            }
        }
    }

    fn publish(&mut self, on: usize, topic: &'static str, message: &str, except: usize) -> String {
        let loops = self.with_members(topic, on);
        let except = self.members.get(except).map(|member| member.client);
        self.deliver(on, message, |m| m.topics.contains(topic) && Some(m.client) != except);
        let letter = Letter::Publish(topic, message.to_owned());
        self.put_all(on, &loops, &letter, topic.len() + message.len())
    }

    /// Connections of clients that do not read, or were reset, end when the server finds that out.
    fn look(&mut self) {
        for at in 0..self.members.len() {
            let Member { client, open, stops, is_reset, .. } = self.members[at];
            if open && (stops || is_reset) && self.test.on(client.on).uuid(client.client).is_none()
            {
                self.end(at);
            }
        }
    }

    // Turns.

    fn hand_over(&mut self, from: usize) {
        for lane in &mut self.lanes[from] {
            while let Some(letter) = lane.batch.pop_front() {
                append(&mut lane.handed_over, letter);
            }
        }
    }

    fn turn(&mut self, on: usize) {
        let turn = self.test.on(on).turn();
        self.hand_over(on);
        for at in 0..self.members.len() {
            if self.members[at].client.on == on
                && let Some(act) = self.members[at].act.take()
                && self.members[at].open
            {
                match act {
                    Act::Publish(topic, message) => {
                        let sent = self.publish(on, topic, &message, at);
                        self.notes[on].push(sent);
                    }
                    Act::Close | Act::Reset => self.end(at),
                }
            }
        }
        let mut letters = 0;
        for from in 0..LOOPS {
            while let Some((letter, cost)) = self.lanes[from][on].handed_over.pop_front() {
                self.lanes[from][on].held -= cost;
                letters += usize::from(cost > 0);
                self.handle(from, on, letter);
            }
        }
        self.received[on] += letters as u64;
        assert_eq!(turn.letters, letters, "letters of a turn of loop {on}");
        let mut next = std::mem::take(&mut self.next[on]);
        // Events of one's own are commands, and those come before timers.
        next.sort_by_key(|each| matches!(each, Next::End(_)));
        for next in next {
            match next {
                Next::Poke(data) => self.poke(on, &data),
                Next::End(asked) => self.answer(asked),
            }
        }
        self.hand_over(on);
        self.look();
        self.compare(on);
    }

    fn handle(&mut self, from: usize, on: usize, letter: Letter) {
        match letter {
            Letter::Publish(topic, message) => {
                self.deliver(on, &message, |m| m.topics.contains(topic));
            }
            Letter::Broadcast(message) => self.deliver(on, &message, |_| true),
            Letter::EmitTo(uuids, message) => {
                for uuid in uuids {
                    self.deliver(on, &message, |m| m.uuid == uuid);
                }
            }
            Letter::Poke(data) => self.poke(on, &data),
            Letter::Close(uuid) => {
                if let Some(at) = self.find(on, uuid) {
                    self.end(at);
                }
            }
            Letter::Ask(asked) => {
                let count = self.readers(on);
                self.put(on, from, Letter::Answer(asked, count), 0);
            }
            Letter::Answer(number, count) => {
                let asked = &mut self.asked[number];
                asked.sum += count;
                asked.missing.remove(&from);
                if asked.missing.is_empty() {
                    self.answer(number);
                }
            }
            Letter::Gap(lost) => {
                let gap = format!("gap {from} {lost}");
                self.deliver(on, &gap, |_| true);
                self.notes[on].push(gap);
                self.lost[on] += lost;
            }
        }
    }

    fn poke(&mut self, on: usize, data: &str) {
        let pokes = self.readers(on);
        self.notes[on].extend(std::iter::repeat_n(format!("poke {data}"), pokes));
    }

    fn readers(&self, on: usize) -> usize {
        self.members.iter().filter(|m| m.open && m.client.on == on && !m.stops).count()
    }

    fn answer(&mut self, number: usize) {
        let Asked { on, sum, complete, missing, is_answered } = &mut self.asked[number];
        assert!(!std::mem::replace(is_answered, true), "it is answered once");
        let complete = *complete && missing.is_empty();
        self.notes[*on].push(format!("readers {number} {sum} {complete}"));
    }

    /// Compares what the clients of a loop have received, and what its callbacks have noted.
    fn compare(&mut self, on: usize) {
        let notes = std::mem::take(self.test.on(on).state());
        assert_eq!(notes, std::mem::take(&mut self.notes[on]), "notes of loop {on}");
        let harness = self.test.on(on);
        for member in self.members.iter_mut().filter(|member| member.client.on == on) {
            let received = harness.received(member.client.client);
            let received: Vec<_> = received
                .into_iter()
                .filter_map(|each| match each {
                    Received::Text(text) => Some(text),
                    _ => None,
                })
                .collect();
            if member.stops || member.is_reset {
                // The rest waits, or is lost with the connection.
                assert!(member.expected.starts_with(&received), "{member:?} has {received:?}");
                member.expected.drain(..received.len());
                if !member.open {
                    member.expected.clear();
                }
            } else {
                assert_eq!(received, std::mem::take(&mut member.expected), "{:?}", member.client);
            }
        }
    }

    // Steps.

    fn connect(&mut self, on: usize) {
        if self.members.iter().filter(|m| m.open && m.client.on == on).count() > 8 {
            return;
        }
        self.turn(on);
        let stops = self.random(5) == 0;
        let upgrade = if stops {
            Upgrade::to("/stops").faults(Faults::none().window(600))
        } else {
            Upgrade::to("/reads")
        };
        let harness = self.test.on(on);
        let client = harness.connect(upgrade).expect("it is upgraded");
        let uuid = harness.uuid(client).expect("it is open");
        if stops {
            harness.stop_reading(client);
        }
        assert_eq!(self.made.insert(uuid, on), None, "a uuid is made once");
        self.members.push(Member {
            client: At { on, client },
            uuid,
            topics: BTreeSet::new(),
            expected: Vec::new(),
            open: true,
            stops,
            is_reset: false,
            act: None,
        });
    }

    fn join_or_leave(&mut self) {
        let (Some(at), topic) = (self.some_open(), self.topic()) else { return };
        let Member { client, uuid, topics, .. } = &mut self.members[at];
        let mut sockets = self.test.on(client.on).server().sockets();
        let mut kws = sockets.get(*uuid).expect("it is open");
        if topics.insert(topic) {
            assert_eq!(kws.join(topic), Ok(true));
        } else {
            topics.remove(topic);
            assert!(kws.leave(topic));
        }
    }

    fn set_uuid(&mut self) {
        let Some(at) = self.some_open() else { return };
        let uuid = self.some_uuid();
        let Member { client, uuid: old, .. } = self.members[at];
        let on = client.on;
        let made = self.made.get(&uuid).copied();
        let expected = if old == uuid {
            Ok(())
        } else if self.find(on, uuid).is_some() {
            Err(UuidError::Duplicate(uuid))
        } else if made.is_some_and(|by| by != on) {
            Err(UuidError::OtherLoop(uuid))
        } else if made.is_none() && self.set.contains_key(&uuid) {
            Err(UuidError::Duplicate(uuid))
        } else {
            Ok(())
        };
        let mut sockets = self.test.on(on).server().sockets();
        let result = sockets.get(old).expect("it is open").set_uuid(uuid);
        assert_eq!(result, expected, "loop {on} sets {uuid}");
        match result {
            Ok(()) => {}
            Err(UuidError::OtherLoop(_)) => self.uuids_refused[1] += 1,
            Err(_) => self.uuids_refused[0] += 1,
        }
        if result.is_ok() && uuid != old {
            if self.made.get(&old) != Some(&on) {
                self.set.remove(&old);
            }
            if made.is_none() {
                self.set.insert(uuid, on);
            }
            self.members[at].uuid = uuid;
        }
    }

    fn send(&mut self, on: usize) {
        let (message, topic) = (self.message(), self.topic());
        let others: Vec<_> = (0..LOOPS).filter(|&index| index != on).collect();
        match self.random(10) {
            0..=4 => {
                let mut sockets = self.test.on(on).server().sockets();
                let sent = told(sockets.everywhere().publish(topic, &*message));
                assert_eq!(sent, self.publish(on, topic, &message, usize::MAX));
            }
            5 => {
                let mut sockets = self.test.on(on).server().sockets();
                let sent = told(sockets.everywhere().broadcast(&*message));
                self.deliver(on, &message, |_| true);
                let letter = Letter::Broadcast(message.clone());
                assert_eq!(sent, self.put_all(on, &others, &letter, message.len()));
            }
            6 => {
                let uuid = self.some_uuid();
                let mut sockets = self.test.on(on).server().sockets();
                let sent = sockets.everywhere().emit_to(uuid, &*message);
                self.emit_to(on, uuid, message, sent);
            }
            7 => {
                let mut uuids: Vec<_> = (0..4).map(|_| self.some_uuid()).collect();
                uuids.push(uuids[0]);
                let mut sockets = self.test.on(on).server().sockets();
                let sent = told(sockets.everywhere().emit_to_list(&uuids, &*message));
                let mut by_loop = BTreeMap::<_, Vec<_>>::new();
                for &uuid in &uuids {
                    by_loop.entry(self.home(uuid).unwrap_or(on)).or_default().push(uuid);
                }
                for uuid in by_loop.remove(&on).unwrap_or_default() {
                    self.deliver(on, &message, |m| m.uuid == uuid);
                }
                let (mut queued, mut full) = (0, Vec::new());
                for (to, uuids) in by_loop {
                    let cost = 16 * uuids.len() + message.len();
                    if self.put(on, to, Letter::EmitTo(uuids, message.clone()), cost) {
                        queued += 1;
                    } else {
                        full.push(to);
                    }
                }
                assert_eq!(sent, format!("sent {queued} {full:?}"));
            }
            8 => {
                let mut sockets = self.test.on(on).server().sockets();
                let sent = told(sockets.everywhere().fire("poke", &*message));
                self.next[on].push(Next::Poke(message.clone()));
                let letter = Letter::Poke(message.clone());
                assert_eq!(sent, self.put_all(on, &others, &letter, "poke".len() + message.len()));
            }
            _ => self.ask(on, &others),
        }
    }

    fn emit_to(
        &mut self,
        on: usize,
        uuid: Uuid,
        message: String,
        sent: Result<Emitted, EmitError>,
    ) {
        match self.home(uuid).filter(|&home| home != on) {
            Some(home) => {
                let cost = message.len();
                let expected = if self.put(on, home, Letter::EmitTo(vec![uuid], message), cost) {
                    Ok(Emitted::Queued)
                } else {
                    Err(EmitError::LoopFull(home))
                };
                assert_eq!(sent, expected);
            }
            None => match self.find(on, uuid) {
                Some(at) => {
                    let Member { stops, is_reset, .. } = self.members[at];
                    assert!(stops || is_reset || sent == Ok(Emitted::Queued), "{sent:?}");
                    if sent.is_ok() {
                        self.members[at].expected.push(message);
                    }
                }
                None => assert_eq!(sent, Err(EmitError::Gone(uuid.into()))),
            },
        }
    }

    fn ask(&mut self, on: usize, others: &[usize]) {
        let number = self.asked.len();
        let mut sockets = self.test.on(on).server().sockets();
        sockets.everywhere().member_count(READERS, move |notes, _, found| {
            notes.push(format!("readers {number} {} {}", found.value, found.is_complete()));
        });
        let missing: BTreeSet<_> = others
            .iter()
            .copied()
            .filter(|&to| self.put(on, to, Letter::Ask(number), READERS.len()))
            .collect();
        if missing.is_empty() {
            self.next[on].push(Next::End(number));
        }
        let complete = missing.len() == others.len();
        self.asked.push(Asked { on, missing, sum: self.readers(on), complete, is_answered: false });
    }

    fn close(&mut self, on: usize) {
        let uuid = self.some_uuid();
        let mut sockets = self.test.on(on).server().sockets();
        let closed = sockets.everywhere().close(uuid, 4000, "enough");
        match self.home(uuid).filter(|&home| home != on) {
            Some(home) => {
                let has_room = self.put(on, home, Letter::Close(uuid), "enough".len());
                assert_eq!(closed.is_ok(), has_room, "{closed:?}");
            }
            None => {
                let at = self.find(on, uuid);
                assert_eq!(closed, Ok(at.is_some()));
                if let Some(at) = at {
                    self.end(at);
                }
            }
        }
    }

    /// A client does something that its loop sees in its next turn.
    fn act(&mut self) {
        let (Some(at), topic) = (self.some_open(), self.topic()) else { return };
        let message = self.message();
        let Member { client: At { on, client }, stops, .. } = self.members[at];
        if self.members[at].act.is_some() {
            return;
        }
        let way = self.random(6);
        let harness = self.test.on(on);
        let act = match way {
            0 => {
                harness.close(client, 1000, "");
                Act::Close
            }
            1 => {
                harness.reset(client);
                self.members[at].is_reset = true;
                Act::Reset
            }
            _ if !stops => {
                harness.send(client, format!("{topic} {message}"));
                Act::Publish(topic, message)
            }
            _ => return,
        };
        self.members[at].act = Some(act);
    }

    fn step(&mut self) {
        let on = self.random(LOOPS);
        match self.random(20) {
            0 => self.connect(on),
            1..=3 => self.join_or_leave(),
            4..=5 => self.set_uuid(),
            6 => self.act(),
            7 => {
                // Few, so that there are many connections.
                if self.random(4) == 0 {
                    self.close(on);
                }
            }
            _ => self.send(on),
        }
        self.look();
    }

    /// Lets everything come to rest, and compares the figures.
    fn finish(&mut self) {
        for _ in 0..4 {
            (0..LOOPS).for_each(|on| self.turn(on));
        }
        // Questions to which an answer was refused end after their time.
        self.test.advance(Duration::from_secs(1));
        for number in 0..self.asked.len() {
            if !self.asked[number].is_answered {
                self.answer(number);
            }
        }
        (0..LOOPS).for_each(|on| self.compare(on));
        let stats: Vec<_> = (0..LOOPS).map(|on| self.test.on(on).server().stats().loops).collect();
        for (on, bus) in stats.iter().enumerate() {
            let expected = (self.queued[on], self.received[on], self.refused[on], self.lost[on]);
            let counted = (bus.queued, bus.received, bus.refused, bus.lost);
            assert_eq!(counted, expected, "queued, received, refused and lost of loop {on}");
        }
        let sum = |each: [u64; LOOPS]| each.iter().sum::<u64>();
        assert_eq!(sum(self.queued), sum(self.received));
        assert_eq!(sum(self.refused), sum(self.lost) + self.questions_refused);
        for member in 0..self.members.len() {
            let Member { client, uuid, open, .. } = self.members[member];
            let found = self.test.on(client.on).server().sockets().get(uuid).is_some();
            assert_eq!(found, open || self.find(client.on, uuid).is_some());
        }
    }
}

/// Each loop takes its turns in this order; now and then one takes none for a while.
fn walk(limit: usize, order: Order, seed: u64) -> Model {
    let mut model = Model::new(limit, seed);
    let mut stalls = [0; LOOPS];
    for _ in 0..4000 {
        for _ in 0..model.random(6) {
            model.step();
        }
        let stalled = model.random(LOOPS);
        if model.random(20) == 0 {
            stalls[stalled] = model.random(30);
        }
        let round: Vec<_> = match order {
            Order::Ascending => (0..LOOPS).collect(),
            Order::Descending => (0..LOOPS).rev().collect(),
            _ => (0..LOOPS).map(|_| model.random(LOOPS)).collect(),
        };
        for on in round {
            if stalls[on] == 0 {
                model.turn(on);
            }
        }
        stalls.iter_mut().for_each(|turns: &mut usize| *turns = turns.saturating_sub(1));
    }
    model.finish();
    model
}

/// The same, and nothing that can happen has not happened.
fn eventful_walk(limit: usize, order: Order, seed: u64) {
    let mut model = walk(limit, order, seed);
    assert!(model.lost.iter().all(|&lost| lost > 50), "queues were full: {:?}", model.lost);
    let refusals = model.uuids_refused;
    assert!(refusals.iter().all(|&count| count > 50), "uuids were refused: {refusals:?}");
    assert!(model.numbers > 4000, "{} messages", model.numbers);
    for on in 0..LOOPS {
        let ends = model.test.on(on).server().stats().disconnects;
        let ends = [ends.clean, ends.io, ends.slow_consumer];
        assert!(ends.iter().all(|&count| count > 2), "connections of loop {on} ended: {ends:?}");
    }
}

#[test]
fn loops_do_what_the_slow_model_says_in_ascending_order() {
    eventful_walk(1024, Order::Ascending, 1);
}

#[test]
fn loops_do_what_the_slow_model_says_in_descending_order() {
    eventful_walk(1024, Order::Descending, 2);
}

#[test]
fn loops_do_what_the_slow_model_says_in_any_order() {
    eventful_walk(2000, Order::Shuffled(3), 3);
}

#[test]
fn with_long_queues_nothing_is_lost() {
    let model = walk(16 * 1024 * 1024, Order::Shuffled(4), 4);
    assert_eq!((model.lost, model.refused), ([0; LOOPS], [0; LOOPS]));
}
