//! The verbs for the connections of all loops of the process.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use super::call::Context;
use super::registry::{Callback, Found, Socket, Sockets};
use super::tables::queries::Query;
use super::tables::timers::Removed;
use crate::bus::{Answer, Letter, Link, LoopSet, Question, Ready, To};
use crate::error::{CloseError, EmitError};
use crate::hub::{Audience, Emitted, Hub, Stats};
use crate::outbox::Outgoing;
use crate::protocol::{CloseCode, Message};
use crate::token::Token;

/// How long the answers of other loops are awaited, in milliseconds.
const ANSWER_TIME: u64 = 1000;

/// The connections of all loops of the process: [`Sockets::everywhere`], [`Socket::everywhere`].
///
/// It has the verbs of [`Sockets`]. They act on the connections of this loop at once, as those do,
/// and queue a message for each other loop that has something to do with it. None of them waits,
/// and none calls a callback. A server that runs by itself is the only loop: then nothing is
/// queued, and the same program works.
///
/// What the verbs do on other loops happens in one of the next turns there. The messages of one
/// loop on one topic arrive in their order. What is not guaranteed is in the chapter [All
/// cores](crate::manual::all_cores).
///
/// Connections are named by their uuids here. A [`ConnectionId`](crate::ConnectionId) means nothing
/// on another loop.
pub struct Everywhere<'a, S> {
    sockets: Sockets<'a, S>,
    /// The connection whose verbs these are.
    own: Option<Token>,
}

/// What became of a message to the connections of all loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The connections of this loop that accepted it.
    pub here: usize,
    /// The number of other loops for which it was queued.
    pub queued: usize,
    /// The number of loops that do not get it because their queue was full. Another loop notices,
    /// if it still runs: [`BusEvent::Gap`](crate::BusEvent::Gap). Only
    /// [`fire`](Everywhere::fire) counts this loop too.
    pub full: usize,
    /// Whether it is longer than [`Builder::max_outbox`](crate::Builder::max_outbox). Then it
    /// reaches no connection.
    pub too_large: bool,
    full_loops: LoopSet,
}

impl Sent {
    /// Whether it is on its way to all loops that it was meant for. Single connections may have
    /// refused it all the same.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.full == 0 && !self.too_large
    }

    /// The indexes of the loops whose queue was full.
    pub fn full_loops(&self) -> impl Iterator<Item = usize> + use<> {
        self.full_loops.iter().map(usize::from)
    }

    fn count(&mut self, index: u16, queued: bool) {
        if queued {
            self.queued += 1;
        } else {
            self.full += 1;
            self.full_loops.insert(index);
        }
    }
}

/// The answers of all loops to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gathered<T> {
    /// What the loops answered, put together.
    pub value: T,
    /// The indexes of the loops that did not answer: because they have ended, because their queue
    /// or the way back was full, or because they did not come to it for a second.
    pub missing: Vec<usize>,
}

impl<T> Gathered<T> {
    /// Whether all loops have answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl<S> Everywhere<'_, S> {
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
        let (len, limit) = (message.message.len(), hub.limits.max_outbox);
        let Some((index, link)) = other_home(hub, to) else {
            return hub.emit_to(to.into(), &message);
        };
        let error = if len > limit {
            EmitError::TooLarge { len, limit }
        } else if link.send_message(index, To::One(to), "", &Ready::new(&message).share()) {
            return Ok(Emitted::Queued);
        } else {
            EmitError::LoopFull(index.into())
        };
        hub.stats.emits_refused.count(error);
        Err(error)
    }

    /// Sends a message to each connection of a list, on whatever loops they are. Unknown uuids are
    /// skipped.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        if let Some(too_large) = refuse_too_large(hub, &message) {
            return too_large;
        }
        let (mut here, mut there) = (Vec::new(), BTreeMap::<u16, Vec<Uuid>>::new());
        for &uuid in to {
            match other_home(hub, uuid) {
                Some((index, _)) => there.entry(index).or_default().push(uuid),
                None => here.push(uuid),
            }
        }
        let ready = share_if(!there.is_empty(), &message);
        let mut sent = Sent::default();
        if let Some(link) = &mut hub.link {
            for (index, uuids) in there {
                let to = To::List(uuids.into_boxed_slice());
                sent.count(index, link.send_message(index, to, "", &ready));
            }
        }
        sent.here = hub.deliver(Audience::List(&here), None, ready);
        sent
    }

    /// Sends a message to every open connection of all loops. If these are the verbs of one
    /// connection ([`Socket::everywhere`]), that connection is left out.
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Sent {
        self.broadcast_except(self.own, &message.into())
    }

    /// Sends a message to every open connection of all loops, also to the one whose verbs these
    /// are.
    pub fn broadcast_all<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Sent {
        self.broadcast_except(None, &message.into())
    }

    fn broadcast_except(&mut self, except: Option<Token>, message: &Outgoing<'_>) -> Sent {
        let hub = &mut *self.sockets.hub;
        if let Some(too_large) = refuse_too_large(hub, message) {
            return too_large;
        }
        let loops = hub.link.as_ref().map(|link| link.others()).unwrap_or_default();
        let ready = share_if(!loops.is_empty(), message);
        let mut sent = send_to(hub, loops, || To::All, "", &ready);
        sent.here = hub.deliver(Audience::All, except, ready);
        sent
    }

    /// Sends a message to the members of a topic, on whatever loops they are. Only loops with
    /// members have work with it. The members of this loop get it by an ordinary
    /// [`publish`](Sockets::publish), before the members of others. If these are the verbs of one
    /// connection ([`Socket::everywhere`]), that connection is left out.
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
        self.publish_except(self.own, topic, &message.into())
    }

    /// Sends a message to the members of a topic, also to the connection whose verbs these are.
    pub fn publish_all<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> Sent {
        self.publish_except(None, topic, &message.into())
    }

    fn publish_except(
        &mut self,
        except: Option<Token>,
        topic: &str,
        message: &Outgoing<'_>,
    ) -> Sent {
        let hub = &mut *self.sockets.hub;
        let hash = hub.topics.hash(topic);
        let (others, is_here) = match &hub.link {
            Some(link) => {
                let loops = link.loops_of(hash, topic);
                (loops.without(link.index()), loops.contains(link.index()))
            }
            None => (LoopSet::default(), true),
        };
        if message.message.len() > hub.limits.max_outbox
            && (!others.is_empty() || hub.topics.find_hashed(hash, topic).is_some())
            && let Some(too_large) = refuse_too_large(hub, message)
        {
            return too_large;
        }
        let ready = share_if(!others.is_empty(), message);
        let mut sent = send_to(hub, others, || To::Topic(hash), topic, &ready);
        // Without members here, one look-up is saved.
        if is_here {
            sent.here = hub.publish_ready(hash, topic, except, ready);
        }
        sent
    }

    /// Calls the listeners of a custom event on every open connection of all loops, as
    /// [`Sockets::fire`] does on one, in one of the next turns of each loop. No listener is called
    /// inside this call, also not on this loop: here it is a command of the
    /// [`Handle`](crate::Handle), and [`Builder::handle_queue`](crate::Builder::handle_queue)
    /// bounds how many wait.
    pub fn fire<'d>(&mut self, event: &str, data: impl Into<Message<'d>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, Outgoing::from(data.into()));
        let loops = hub.link.as_ref().map(|link| link.others()).unwrap_or_default();
        let ready = share_if(!loops.is_empty(), &message);
        let mut sent = send_to(hub, loops, || To::Listeners, event, &ready);
        let own = hub.link.as_ref().map_or(0, |link| link.index());
        let here = self.sockets.handle().fire(event, message.message.into_owned());
        if here.is_err() {
            sent.count(own, false);
        }
        sent
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
        if let Some((index, link)) = other_home(hub, uuid) {
            let queued = link.send_close(index, Letter::Close(uuid, code), reason);
            return if queued { Ok(true) } else { Err(CloseError::LoopFull(index.into())) };
        }
        let Some(token) = hub.find(uuid) else { return Ok(false) };
        hub.close(token, code, reason).map(|()| true)
    }

    // Questions.

    /// Asks all loops for the number of their open connections, and calls `then` with the sum when
    /// all have answered, or a second after this turn began. `then` never runs inside this call. If
    /// this loop ends before, it does not run.
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
            then(state, sockets, gathered(found.count, found.missing));
        });
    }

    /// Asks all loops for the number of a topic's members: see [`count`](Self::count).
    pub fn member_count<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<usize>) + 'static,
    {
        self.ask(Question::MemberCount, topic, |state, sockets, found| {
            then(state, sockets, gathered(found.count, found.missing));
        });
    }

    /// Asks all loops for the uuids of a topic's members, in no particular order: see
    /// [`count`](Self::count).
    pub fn members<F>(&mut self, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Members, topic, |state, sockets, found| {
            then(state, sockets, gathered(found.uuids, found.missing));
        });
    }

    /// Asks all loops for the uuids of their open connections, in no particular order: see
    /// [`count`](Self::count).
    pub fn uuids<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<Uuid>>) + 'static,
    {
        self.ask(Question::Uuids, "", |state, sockets, found| {
            then(state, sockets, gathered(found.uuids, found.missing));
        });
    }

    /// Asks all loops for their figures, each with the loop's index, in the order of the indexes:
    /// see [`count`](Self::count). [`Stats::loops_to_prometheus`] makes a page of them.
    pub fn stats<F>(&mut self, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Gathered<Vec<(usize, Stats)>>) + 'static,
    {
        self.ask(Question::Stats, "", |state, sockets, mut found| {
            found.stats.sort_unstable_by_key(|&(index, _)| index);
            then(state, sockets, gathered(found.stats, found.missing));
        });
    }

    fn ask<F>(&mut self, question: Question, topic: &str, then: F)
    where
        F: FnOnce(&mut S, &mut Sockets<'_, S>, Found) + 'static,
    {
        let Sockets { hub, registry } = &mut self.sockets;
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

/// The other loop that has the connection with this uuid, or had it, and what leads there.
fn other_home(hub: &mut Hub, uuid: Uuid) -> Option<(u16, &mut Link)> {
    let link = hub.link.as_mut()?;
    let index = link.home(uuid).filter(|&index| index != link.index())?;
    (!link.post().has_ended(index)).then_some((index, link))
}

/// The result for a message that is longer than any outbox.
fn refuse_too_large(hub: &mut Hub, message: &Outgoing<'_>) -> Option<Sent> {
    let is_too_large = message.message.len() > hub.limits.max_outbox;
    is_too_large.then(|| {
        hub.deliver(Audience::All, None, Ready::new(message)); // It counts the refusal.
        Sent { too_large: true, ..Sent::default() }
    })
}

/// The message; its frame is encoded now if other loops get it too.
fn share_if<'m>(others_get_it: bool, message: &'m Outgoing<'_>) -> Ready<'m> {
    let ready = Ready::new(message);
    if others_get_it { ready.share() } else { ready }
}

/// Queues a message for each of these loops.
fn send_to(
    hub: &mut Hub,
    loops: LoopSet,
    to: impl Fn() -> To,
    text: &str,
    message: &Ready<'_>,
) -> Sent {
    let mut sent = Sent::default();
    if let Some(link) = &mut hub.link {
        for index in loops.iter() {
            sent.count(index, link.send_message(index, to(), text, message));
        }
    }
    sent
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
fn gathered<T>(value: T, missing: LoopSet) -> Gathered<T> {
    Gathered { value, missing: missing.iter().map(usize::from).collect() }
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

impl<S> Sockets<'_, S> {
    /// The connections of all loops of the process, with the same verbs: see [`Everywhere`] and
    /// [`Loops`](crate::Loops).
    #[must_use]
    pub fn everywhere(&mut self) -> Everywhere<'_, S> {
        Everywhere { sockets: Sockets { hub: self.hub, registry: self.registry }, own: None }
    }

    /// The index of this loop: 0 for a server that runs by itself.
    #[must_use]
    pub fn loop_index(&self) -> usize {
        self.hub.link.as_ref().map_or(0, |link| link.index().into())
    }

    /// The number of loops of the process: 1 for a server that runs by itself.
    #[must_use]
    pub fn loop_count(&self) -> usize {
        self.hub.link.as_ref().map_or(1, |link| link.post().len())
    }

    /// Calls the callback of a question with the answers that are there.
    pub(crate) fn end_query(&mut self, state: &mut S, number: u64) {
        let Some(query) = self.registry.queries.take(number) else { return };
        let Query { callback, timer, missing, mut found } = query;
        // Not if the timer itself has brought us here.
        if let Some(Removed(timer)) = self.registry.schedule.remove(timer) {
            self.registry.discard(timer);
        }
        missing.iter().for_each(|index| found.missing.insert(index));
        let mut context = Context { state, hub: self.hub, registry: self.registry };
        let _ = context.guard("everywhere", None, |context| {
            let (state, mut sockets) = context.lend();
            callback(state, &mut sockets, found);
        });
    }
}

impl<S> Socket<'_, S> {
    /// The connections of all loops of the process, with the verbs of this connection: its
    /// [`broadcast`](Everywhere::broadcast) and [`publish`](Everywhere::publish) leave it out, as
    /// those of [`Socket`] do.
    ///
    /// ```
    /// # use ikisocket::{Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Message, |_, ep| {
    ///     ep.kws.everywhere().publish("room", ep.data); // to all others, on all loops
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn everywhere(&mut self) -> Everywhere<'_, S> {
        let own = Some(self.token);
        Everywhere { sockets: Sockets { hub: self.hub, registry: self.registry }, own }
    }
}
