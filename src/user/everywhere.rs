//! The verbs for the connections of all loops of the process.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use super::registry::Callback;
use super::registry::{Found, Sockets};
use super::tables::queries::Query;
use super::tables::timers::Removed;
use crate::bus::{Answer, Letter, LoopSet, Passed, Question, Ready};
use crate::error::{CloseError, EmitError};
use crate::hub::{Audience, Emitted, Hub, Stats};
use crate::outbox::Outgoing;
use crate::protocol::{CloseCode, Message};
use crate::token::{ConnectionId, Token};

/// How long the answers of other loops are awaited, in milliseconds.
const ANSWER_TIME: u64 = 1000;

/// The connections of all loops of the process: [`Sockets::everywhere`].
///
/// It has the verbs of [`Sockets`]. They act on the connections of this loop at once, as those do,
/// and queue a message for each other loop that has something to do with it. None of them waits,
/// and none calls a callback. A server that runs by itself is the only loop: then nothing is
/// queued, and the same program works.
///
/// What the verbs do on other loops happens in one of the next turns there. The messages of one
/// loop on one topic arrive in their order. What is not guaranteed is in the chapter [All
/// cores](crate::manual::all_cores).
pub struct Everywhere<'a, S> {
    sockets: Sockets<'a, S>,
    except: Option<Token>,
}

/// What became of a message to the connections of all loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The connections of this loop that accepted it.
    pub here: usize,
    /// The other loops for which it was queued.
    pub queued: usize,
    /// The other loops that do not get it because their queue was full. Each of them is told by
    /// [`BusEvent::Gap`](crate::BusEvent::Gap).
    pub full: usize,
    full_loops: LoopSet,
}

impl Sent {
    fn new(here: usize, Passed { queued, full }: Passed) -> Self {
        Self { here, queued: queued.len(), full: full.len(), full_loops: full }
    }

    /// The indexes of the loops whose queue was full.
    pub fn full_loops(&self) -> impl Iterator<Item = usize> + use<> {
        self.full_loops.iter().map(usize::from)
    }
}

/// The answers of all loops to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gathered<T> {
    /// What the loops answered, put together.
    pub value: T,
    /// Whether all loops have answered. `false` if one has ended, if its queue was full, or if it
    /// did not answer for a second.
    pub complete: bool,
}

impl<S> Everywhere<'_, S> {
    /// Leaves one connection of this loop out of the next
    /// [`broadcast`](Self::broadcast) or [`publish`](Self::publish): most often the one that the
    /// message came from.
    ///
    /// ```
    /// # use ikisocket::{Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Message, |_, ep| {
    ///     let id = ep.id;
    ///     ep.kws.sockets().everywhere().except(id).publish("room", ep.data);
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn except(mut self, id: ConnectionId) -> Self {
        self.except = Some(id.0);
        self
    }

    /// Sends a message to one connection, on whatever loop it is.
    ///
    /// If it is on this loop, the result is that of [`Sockets::emit_to`]. If it is on another one,
    /// `Ok` means that the message is queued for that loop. If the connection has ended by then,
    /// nothing happens, and the other loop counts it
    /// ([`EmitsRefused::gone`](crate::EmitsRefused::gone)).
    ///
    /// # Errors
    ///
    /// [`EmitError::Gone`] if no loop can have a connection with this uuid;
    /// [`EmitError::LoopFull`] if the queue to its loop is full. Otherwise those of
    /// [`Sockets::emit_to`].
    pub fn emit_to<'m>(
        &mut self,
        to: Uuid,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<Emitted, EmitError> {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        let Some(index) = other_home(hub, to) else { return hub.emit_to(to.into(), &message) };
        let Some(link) = &mut hub.link else { return Err(EmitError::Gone(to.into())) };
        let ready = Ready::new(&message).share();
        let only = LoopSet::from_iter([index]);
        let passed = link.send_message(only, "", &ready, |content| Letter::EmitTo(to, content));
        if passed.full.is_empty() {
            return Ok(Emitted::Queued);
        }
        let error = EmitError::LoopFull(index.into());
        hub.stats.emits_refused.count(error);
        Err(error)
    }

    /// Sends a message to each connection of a list, on whatever loops they are. Unknown uuids are
    /// skipped.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        let ready = Ready::new(&message).share();
        let (mut here, mut there) = (Vec::new(), BTreeMap::<u16, Vec<Uuid>>::new());
        for &uuid in to {
            match other_home(hub, uuid) {
                Some(index) => there.entry(index).or_default().push(uuid),
                None => here.push(uuid),
            }
        }
        let mut passed = Passed::default();
        if let Some(link) = &mut hub.link {
            for (index, uuids) in there {
                let queued = link.send_to_list(index, uuids, &ready);
                if queued { &mut passed.queued } else { &mut passed.full }.insert(index);
            }
        }
        Sent::new(hub.deliver(Audience::List(&here), None, ready), passed)
    }

    /// Sends a message to every open connection of all loops.
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        let ready = Ready::new(&message);
        let Some(link) = &mut hub.link else {
            return Sent::new(hub.deliver(Audience::All, self.except, ready), Passed::default());
        };
        let ready = ready.share();
        let passed = link.send_message(link.others(), "", &ready, Letter::Broadcast);
        Sent::new(hub.deliver(Audience::All, self.except, ready), passed)
    }

    /// Sends a message to the members of a topic, on whatever loops they are. Only loops with
    /// members have work with it. The members of this loop get it by an ordinary
    /// [`publish`](Sockets::publish), before the members of others.
    ///
    /// ```
    /// use ikisocket::Server;
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?; // the only loop
    /// let sent = server.sockets().everywhere().publish("prices", "1.0857");
    /// assert_eq!((sent.here, sent.queued, sent.full), (0, 0, 0)); // the topic has no members
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        let mut ready = Ready::new(&message);
        let mut passed = Passed::default();
        if let Some(link) = &mut hub.link {
            let loops = link.loops_of(topic);
            if !loops.is_empty() {
                ready = ready.share();
                passed = link.send_message(loops, topic, &ready, Letter::Publish);
            }
        }
        Sent::new(hub.publish_ready(topic, self.except, ready), passed)
    }

    /// Calls the listeners of a custom event on every open connection of all loops, as
    /// [`Sockets::fire`] does on one, in the next turn of each loop. No listener is called inside
    /// this call, also not on this loop.
    pub fn fire<'d>(&mut self, event: &str, data: impl Into<Message<'d>>) -> Sent {
        let message = Outgoing::from(data.into());
        let ready = Ready::new(&message).share();
        let Some(link) = &mut self.sockets.hub.link else {
            let (event, message) = (event.to_owned(), message.message.into_owned());
            self.sockets.set_timer(std::time::Duration::ZERO, move |state, sockets| {
                sockets.fire(state, &event, message.payload());
            });
            return Sent::default();
        };
        let mut loops = link.others();
        loops.insert(link.index());
        Sent::new(0, link.send_message(loops, event, &ready, Letter::Fire))
    }

    /// Closes a connection with a code and a reason, on whatever loop it is, as
    /// [`Socket::close_with`](crate::Socket::close_with) does.
    ///
    /// `Ok(false)` means that no loop can have a connection with this uuid. On another loop the
    /// connection may have ended meanwhile, and then nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`Socket::close_with`](crate::Socket::close_with), and
    /// [`CloseError::LoopFull`] if the queue to the connection's loop is full.
    pub fn close(
        &mut self,
        uuid: Uuid,
        code: impl Into<CloseCode>,
        reason: &str,
    ) -> Result<bool, CloseError> {
        let (hub, code) = (&mut *self.sockets.hub, code.into());
        if !code.is_sendable() {
            return Err(CloseError::IllegalCode(code));
        }
        let Some(index) = other_home(hub, uuid) else {
            let Some(token) = hub.find(uuid) else { return Ok(false) };
            return hub.close(token, code, reason).map(|()| true);
        };
        let Some(link) = &mut hub.link else { return Ok(false) };
        let only = LoopSet::from_iter([index]);
        if link.send(only, reason, || Letter::Close(uuid, code)).full.is_empty() {
            return Ok(true);
        }
        Err(CloseError::LoopFull(index.into()))
    }

    // Questions.

    /// Asks all loops for the number of their open connections, and calls `then` with the sum when
    /// all have answered, or after a second. `then` never runs inside this call.
    ///
    /// ```
    /// # use ikisocket::{Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", 0_usize)?;
    /// server.on(Event::Connect, |_, ep| {
    ///     ep.kws.sockets().everywhere().count(|most, _, open| {
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
            then(state, sockets, Gathered { value: found.count, complete: found.complete });
        });
    }

    /// Asks all loops for the number of a topic's members: see [`count`](Self::count).
    pub fn member_count<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<usize>) + 'static,
    {
        self.ask(Question::MemberCount, topic, |state, sockets, found| {
            then(state, sockets, Gathered { value: found.count, complete: found.complete });
        });
    }

    /// Asks all loops for the uuids of a topic's members, in no particular order: see
    /// [`count`](Self::count).
    pub fn members<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Members, topic, |state, sockets, found| {
            then(state, sockets, Gathered { value: found.uuids, complete: found.complete });
        });
    }

    /// Asks all loops for the uuids of their open connections, in no particular order: see
    /// [`count`](Self::count).
    pub fn uuids<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Uuids, "", |state, sockets, found| {
            then(state, sockets, Gathered { value: found.uuids, complete: found.complete });
        });
    }

    /// Asks all loops for their figures, each with the loop's index, in the order of the indexes:
    /// see [`count`](Self::count).
    pub fn stats<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<(usize, Stats)>>) + 'static,
    {
        self.ask(Question::Stats, "", |state, sockets, mut found| {
            found.stats.sort_unstable_by_key(|&(index, _)| index);
            then(state, sockets, Gathered { value: found.stats, complete: found.complete });
        });
    }

    fn ask<F>(&mut self, question: Question, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Found) + 'static,
    {
        let Sockets { hub, registry } = &mut self.sockets;
        let number = registry.queries.next();
        let own = hub.link.as_ref().map_or(0, |link| link.index());
        let mut found = Found { complete: true, ..Found::default() };
        found.add(own, answer_here(hub, registry.panics.get(), question, topic));
        let mut missing = LoopSet::default();
        if let Some(link) = &mut hub.link {
            let others = link.others();
            let passed = link.send(others, topic, || Letter::Ask { query: number, question });
            missing = passed.queued;
            // A loop that has ended cannot answer.
            found.complete = missing.len() + 1 == link.post().len();
        }
        let after = if missing.is_empty() { 0 } else { ANSWER_TIME };
        let timer = registry.schedule.set(
            hub.now.saturating_add(after),
            None,
            Callback::Once(Box::new(move |state, sockets| sockets.end_query(state, number))),
        );
        let query = Query { callback: Box::new(then) as _, timer, missing, found };
        registry.queries.insert(number, query);
    }
}

impl<S> Sockets<'_, S> {
    /// Calls the callback of a question with the answers that are there.
    pub(crate) fn end_query(&mut self, state: &mut S, number: u64) {
        let Some(query) = self.registry.queries.take(number) else { return };
        // Not if the timer itself has brought us here.
        if let Some(Removed(timer)) = self.registry.schedule.remove(query.timer) {
            self.registry.discard(timer);
        }
        let mut found = query.found;
        found.complete &= query.missing.is_empty();
        (query.callback)(state, self, found);
    }
}

/// The other loop that has the connection with this uuid, or had it.
fn other_home(hub: &Hub, uuid: Uuid) -> Option<u16> {
    let link = hub.link.as_ref()?;
    link.home(uuid).filter(|&index| index != link.index() && !link.post().has_ended(index))
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

impl Found {
    /// Adds the answer of one loop.
    pub(crate) fn add(&mut self, from: u16, answer: Answer) {
        match answer {
            Answer::Count(count) => self.count += count,
            Answer::Uuids(uuids) => self.uuids.extend(uuids),
            Answer::Stats(stats) => {
                self.stats.extend(stats.downcast().map(|stats| (from.into(), *stats)).ok());
            }
        }
    }
}

impl<S> fmt::Debug for Everywhere<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everywhere").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl<'a, S> Sockets<'a, S> {
    /// The connections of all loops of the process, with the same verbs: see [`Everywhere`] and
    /// [`Loops`](crate::Loops).
    #[must_use]
    pub fn everywhere(&mut self) -> Everywhere<'_, S> {
        let sockets = Sockets { hub: &mut *self.hub, registry: self.registry };
        Everywhere { sockets, except: None }
    }

    /// The index of this loop: 0 for a server that runs by itself.
    #[must_use]
    pub fn loop_index(&self) -> usize {
        self.hub.link.as_ref().map_or(0, |link| link.index().into())
    }
}
