//! Questions to all loops of the process, and to all servers of a bus.

use uuid::Uuid;

use super::call::Context;
use super::everywhere::Everywhere;
use super::registry::{Asker, Callback, Found, Sockets};
use super::tables::queries::Query;
use super::tables::timers::Removed;
use crate::bus::{Answer, BusSent, Letter, LoopSet, Node, Question};
use crate::hub::{Hub, Stats};

/// How long the answers of other loops are awaited, in milliseconds.
const ANSWER_TIME: u64 = 1000;

/// The answers of all loops to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gathered<T> {
    /// What the loops answered, put together.
    pub value: T,
    /// The indexes of the loops that did not answer: because they have ended, because their queue
    /// or the way back was full, or because they did not come to it for a second.
    pub missing: Vec<usize>,
    /// The servers of the bus that did not answer within a second, or not wholly. One that ends
    /// before it has answered is among them, and is not waited for once it has said so. If the bus
    /// is down, these are all that were known when it went down.
    pub missing_nodes: Vec<Node>,
}

impl<T> Gathered<T> {
    /// Whether all loops have answered, and all servers that were known at the question.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.missing_nodes.is_empty()
    }
}

impl<S> Everywhere<'_, S> {
    /// Asks all loops and servers for the number of their open connections, and calls `then` with
    /// the sum when all have answered, or a second after this turn began. `then` never runs inside
    /// this call. If this loop ends before, it does not run.
    ///
    /// The servers are those that this one
    /// [knows](crate::manual::many_machines#questions-to-all-servers) when it asks. Others are not
    /// in the sum, nor in [`missing_nodes`](Gathered::missing_nodes): in the first 250 ms after the
    /// bus is up, this may be all others.
    ///
    /// ```
    /// # use ikisocket::{Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", 0_usize)?;
    /// server.on(Event::Connect, |_, ep| {
    ///     ep.kws.everywhere().count(|most, _, open| {
    ///         *most = open.value.max(*most);
    ///     });
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    pub fn count<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<usize>) + 'static,
    {
        self.ask(Question::Open, "", |state, sockets, found| {
            then(state, sockets, gathered(found.count, found.missing, found.missing_nodes));
        });
    }

    /// Asks all loops and servers for the number of a topic's members: see [`count`](Self::count).
    pub fn member_count<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<usize>) + 'static,
    {
        self.ask(Question::MemberCount, topic, |state, sockets, found| {
            then(state, sockets, gathered(found.count, found.missing, found.missing_nodes));
        });
    }

    /// Asks all loops and servers for the uuids of a topic's members, in no particular order: see
    /// [`count`](Self::count).
    pub fn members<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Members, topic, |state, sockets, found| {
            then(state, sockets, gathered(found.uuids, found.missing, found.missing_nodes));
        });
    }

    /// Asks all loops and servers for the uuids of their open connections, in no particular order:
    /// see [`count`](Self::count).
    pub fn uuids<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Uuids, "", |state, sockets, found| {
            then(state, sockets, gathered(found.uuids, found.missing, found.missing_nodes));
        });
    }

    /// Asks all loops of this process for their figures, each with the loop's index, in the order
    /// of the indexes: see [`count`](Self::count). Other servers are not asked.
    /// [`Stats::loops_to_prometheus`] makes a page of them.
    pub fn stats<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<(usize, Stats)>>) + 'static,
    {
        self.ask(Question::Stats, "", |state, sockets, mut found| {
            found.stats.sort_unstable_by_key(|&(index, _)| index);
            then(state, sockets, gathered(found.stats, found.missing, Vec::new()));
        });
    }

    fn ask<F>(&mut self, question: Question, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Found) + 'static,
    {
        let asks_nodes = question != Question::Stats;
        self.sockets.ask(question, topic, asks_nodes, ANSWER_TIME, Box::new(then));
    }
}

impl<S> Sockets<'_, S> {
    /// Asks all loops, and the other servers if `asks_nodes`. The answers are awaited for `time` in
    /// milliseconds.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        topic: &str,
        asks_nodes: bool,
        time: u64,
        then: Asker<S>,
    ) {
        let Self { hub, registry } = self;
        let number = registry.queries.next();
        let own = hub.link.as_ref().map_or(0, |link| link.index());
        let mut found = Found::default();
        found.add(own, answer_here(hub, registry.panics.get(), question, topic));
        let mut missing = LoopSet::default();
        if let Some(link) = &mut hub.link {
            for index in (0..link.post().len() as u16).filter(|&index| index != own) {
                let letter = Letter::Ask { query: number, question };
                if !link.post().has_ended(index) && link.exchange(index, letter, topic) {
                    missing.insert(index);
                } else {
                    found.missing.insert(index);
                }
            }
        }
        let mut missing_nodes = Vec::new();
        if let Some(link) = hub.link.as_mut().filter(|_| asks_nodes) {
            let nodes = link.nodes();
            if !nodes.is_empty() {
                if link.ask_away(number, question, topic) == BusSent::Queued {
                    missing_nodes = nodes.to_vec();
                } else {
                    found.missing_nodes = nodes.iter().map(|&node| Node(node)).collect();
                }
            }
        }
        let after = if missing.is_empty() && missing_nodes.is_empty() { 0 } else { time };
        let timer = registry.schedule.set(
            hub.now.saturating_add(after),
            None,
            Callback::Once(Box::new(move |state, sockets| sockets.end_query(state, number))),
        );
        let query = Query { callback: then, timer, missing, missing_nodes, found };
        registry.queries.insert(number, query);
    }

    /// Calls the callback of a question with the answers that are there.
    pub(crate) fn end_query(&mut self, state: &mut S, number: u64) {
        let Some(query) = self.registry.queries.take(number) else { return };
        let Query { callback, timer, missing, missing_nodes, mut found } = query;
        // Not if the timer itself has brought us here.
        if let Some(Removed(timer)) = self.registry.schedule.remove(timer) {
            self.registry.discard(timer);
        }
        missing.iter().for_each(|index| found.missing.insert(index));
        found.missing_nodes.extend(missing_nodes.into_iter().map(Node));
        found.missing_nodes.sort_unstable();
        found.missing_nodes.dedup();
        let mut context = Context { state, hub: self.hub, registry: self.registry };
        let _ = context.guard("everywhere", None, |context| {
            let (state, mut sockets) = context.lend();
            callback(state, &mut sockets, found);
        });
    }
}

/// This loop's answer to a question.
pub(crate) fn answer_here(hub: &Hub, panics: u64, question: Question, topic: &str) -> Answer {
    match question {
        Question::Open => Answer::Count(hub.open_len()),
        Question::MemberCount => Answer::Count(hub.topics.count(topic)),
        Question::Members => Answer::Uuids(hub.members(topic)),
        Question::Uuids => Answer::Uuids(hub.open_uuids()),
        Question::Stats => {
            let mut stats = hub.stats();
            stats.panics += panics;
            Answer::Stats(Box::new(stats))
        }
    }
}

/// An answer in which those of some loops are missing.
fn gathered<T>(value: T, missing: LoopSet, missing_nodes: Vec<Node>) -> Gathered<T> {
    Gathered { value, missing: missing.iter().map(usize::from).collect(), missing_nodes }
}

impl Found {
    /// Adds the answer of one loop.
    pub(crate) fn add(&mut self, from: u16, answer: Answer) {
        match answer {
            // Another server may say any number.
            Answer::Count(count) => self.count = self.count.saturating_add(count),
            Answer::Uuids(uuids) => self.uuids.extend(uuids),
            Answer::Stats(stats) => {
                self.stats.extend(stats.downcast().map(|stats| (from.into(), *stats)).ok());
            }
        }
    }
}

#[cfg(feature = "redis")]
impl Found {
    /// Adds the answer of another server, or a part of it.
    pub(crate) fn add_node(&mut self, node: Node, is_complete: bool, answer: Answer) {
        // What loops of this process are asked for beside this has their indexes.
        self.add(0, answer);
        if !is_complete && !self.missing_nodes.contains(&node) {
            self.missing_nodes.push(node);
        }
    }

    /// The answer for another server, and whether all loops are in it.
    pub(crate) fn into_answer(self, question: Question) -> (bool, Answer) {
        let answer = match question {
            Question::Open | Question::MemberCount => Answer::Count(self.count),
            _ => Answer::Uuids(self.uuids),
        };
        (self.missing.is_empty(), answer)
    }
}
