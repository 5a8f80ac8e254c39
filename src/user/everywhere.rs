//! The verbs for the connections of all loops of the process, and of all servers of a bus.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use super::registry::{Socket, Sockets};
use crate::bus::{BusSent, Letter, Link, LoopSet, Ready, To};
use crate::error::{BusRefusal, CloseError, EmitError};
use crate::hub::{Audience, Emitted, Hub};
use crate::outbox::Outgoing;
use crate::protocol::{CloseCode, Message};
use crate::token::Token;

/// The connections of all loops of the process, and of all servers of a bus:
/// [`Sockets::everywhere`], [`Socket::everywhere`].
///
/// It has the verbs of [`Sockets`]. They act on the connections of this loop at once, as those do,
/// and queue a message for each other loop that has something to do with it, and for the other
/// servers if there is a [bus](crate::manual::many_machines). None of them waits, and none calls a
/// callback. A server that runs by itself is the only loop: then nothing is queued, and the same
/// program works.
///
/// What the verbs do on other loops happens in one of the next turns there. The messages of one
/// loop on one topic arrive in their order. What is not guaranteed is in the chapters [All
/// cores](crate::manual::all_cores) and [Many machines](crate::manual::many_machines).
///
/// Connections are named by their uuids here. A [`ConnectionId`](crate::ConnectionId) means nothing
/// on another loop.
pub struct Everywhere<'a, S> {
    pub(super) sockets: Sockets<'a, S>,
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
    /// Whether it is on its way to the other servers of the bus.
    pub bus: BusSent,
    full_loops: LoopSet,
}

impl Sent {
    /// Whether it is on its way to all loops, and to all servers, that it was meant for. Single
    /// connections may have refused it all the same.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.full == 0 && !self.too_large && !matches!(self.bus, BusSent::Refused(_))
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

impl<S> Everywhere<'_, S> {
    /// Sends a message to one connection, on whatever loop or server it is.
    ///
    /// If it is on this loop, the result is that of [`Sockets::emit_to`]. If it is on another one,
    /// `Ok` means that the message is queued for that loop. If the connection has ended by then,
    /// nothing happens, and the other loop counts it
    /// ([`EmitsRefused::gone`](crate::EmitsRefused::gone)). If there is a bus and this process does
    /// not have the connection, `Ok` means that the message is queued for the bus.
    ///
    /// # Errors
    ///
    /// [`EmitError::Gone`] if no loop can have a connection with this uuid; with a bus, another
    /// server may have it, so that is not known;
    /// [`EmitError::LoopFull`] if the queue to its loop is full; [`EmitError::Bus`] if the bus does
    /// not take it. Otherwise those of [`Sockets::emit_to`].
    pub fn emit_to<'m>(
        &mut self,
        to: Uuid,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<Emitted, EmitError> {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        let (len, limit) = (message.message.len(), hub.limits.max_outbox);
        let Some((home, link)) = other_home(hub, to) else {
            return hub.emit_to(to.into(), &message);
        };
        let error = if len > limit {
            EmitError::TooLarge { len, limit }
        } else {
            let (to, ready) = (To::One(to), Ready::new(&message).share());
            match home {
                Home::Loop(index) => {
                    if link.send_message(index, to, "", &ready) {
                        return Ok(Emitted::Queued);
                    }
                    EmitError::LoopFull(index.into())
                }
                Home::Away => match link.send_message_away(to, "", &ready) {
                    BusSent::Refused(refusal) => EmitError::Bus(refusal),
                    _ => return Ok(Emitted::Queued),
                },
            }
        };
        hub.stats.emits_refused.count(error);
        Err(error)
    }

    /// Sends a message to each connection of a list, on whatever loops and servers they are.
    /// Unknown uuids are skipped.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, message.into());
        if let Some(too_large) = refuse_too_large(hub, &message) {
            return too_large;
        }
        let (mut here, mut there) = (Vec::new(), BTreeMap::<Home, Vec<Uuid>>::new());
        for &uuid in to {
            match other_home(hub, uuid) {
                Some((home, _)) => there.entry(home).or_default().push(uuid),
                None => here.push(uuid),
            }
        }
        let ready = share_if(!there.is_empty(), &message);
        let mut sent = Sent::default();
        if let Some(link) = &mut hub.link {
            for (home, uuids) in there {
                let to = To::List(uuids.into_boxed_slice());
                match home {
                    Home::Loop(index) => {
                        sent.count(index, link.send_message(index, to, "", &ready));
                    }
                    Home::Away => sent.bus = link.send_message_away(to, "", &ready),
                }
            }
        }
        sent.here = hub.deliver(Audience::List(&here), None, ready);
        sent
    }

    /// Sends a message to every open connection of all loops and servers. If these are the verbs of
    /// one connection ([`Socket::everywhere`]), that connection is left out.
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Sent {
        self.broadcast_except(self.own, &message.into())
    }

    /// Sends a message to every open connection of all loops and servers, also to the one whose
    /// verbs these are.
    pub fn broadcast_all<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Sent {
        self.broadcast_except(None, &message.into())
    }

    fn broadcast_except(&mut self, except: Option<Token>, message: &Outgoing<'_>) -> Sent {
        let hub = &mut *self.sockets.hub;
        if let Some(too_large) = refuse_too_large(hub, message) {
            return too_large;
        }
        let loops = hub.link.as_ref().map(|link| link.others()).unwrap_or_default();
        let ready = share_if(!loops.is_empty() || has_bus(hub), message);
        let mut sent = send_to(hub, loops, || To::All, "", &ready);
        sent.here = hub.deliver(Audience::All, except, ready);
        sent
    }

    /// Sends a message to the members of a topic, on whatever loops and servers they are. Only
    /// loops and servers with members have work with it. The members of this loop get it by an
    /// ordinary [`publish`](Sockets::publish), before the members of others. If these are the verbs
    /// of one connection ([`Socket::everywhere`]), that connection is left out.
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
        let has_bus = has_bus(hub);
        if message.message.len() > hub.limits.max_outbox
            && (has_bus || !others.is_empty() || hub.topics.find_hashed(hash, topic).is_some())
            && let Some(too_large) = refuse_too_large(hub, message)
        {
            return too_large;
        }
        let ready = share_if(has_bus || !others.is_empty(), message);
        let mut sent = send_to(hub, others, || To::Topic(hash), topic, &ready);
        // Without members here, one look-up is saved.
        if is_here {
            sent.here = hub.publish_ready(hash, topic, except, ready);
        }
        sent
    }

    /// Calls the listeners of a custom event on every open connection of all loops and servers, as
    /// [`Sockets::fire`] does on one, in one of the next turns of each loop. No listener is called
    /// inside this call, also not on this loop: here it is a command of the
    /// [`Handle`](crate::Handle), and [`Builder::handle_queue`](crate::Builder::handle_queue)
    /// bounds how many wait.
    pub fn fire<'d>(&mut self, event: &str, data: impl Into<Message<'d>>) -> Sent {
        let (hub, message) = (&mut *self.sockets.hub, Outgoing::from(data.into()));
        let loops = hub.link.as_ref().map(|link| link.others()).unwrap_or_default();
        let ready = share_if(!loops.is_empty() || has_bus(hub), &message);
        let mut sent = send_to(hub, loops, || To::Listeners, event, &ready);
        let own = hub.link.as_ref().map_or(0, |link| link.index());
        let here = self.sockets.handle().fire(event, message.message.into_owned());
        if here.is_err() {
            sent.count(own, false);
        }
        sent
    }

    /// Closes a connection with a code and a reason, on whatever loop or server it is, as
    /// [`Socket::close_with`](crate::Socket::close_with) does.
    ///
    /// `Ok(false)` means that no loop can have a connection with this uuid; with a bus, another
    /// server may have it. There or on another loop the connection may have ended meanwhile, and
    /// then nothing happens.
    ///
    /// # Errors
    ///
    /// The same as those of [`Socket::close_with`](crate::Socket::close_with),
    /// [`CloseError::LoopFull`] if the queue to the connection's loop is full, and
    /// [`CloseError::Bus`] if the bus does not take it.
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
        match other_home(hub, uuid) {
            Some((Home::Loop(index), link)) => {
                let queued = link.send_close(index, Letter::Close(uuid, code), reason);
                return if queued { Ok(true) } else { Err(CloseError::LoopFull(index.into())) };
            }
            Some((Home::Away, link)) => {
                return match link.send_close_away(uuid, code, reason) {
                    BusSent::Refused(refusal) => Err(CloseError::Bus(refusal)),
                    _ => Ok(true),
                };
            }
            None => {}
        }
        let Some(token) = hub.find(uuid) else { return Ok(false) };
        hub.close(token, code, reason).map(|()| true)
    }
}

/// Where a connection is that is not on this loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    Loop(u16),
    /// On another server, if anywhere.
    Away,
}

/// Where the connection with this uuid is, or was, if not on this loop; and what leads there.
fn other_home(hub: &mut Hub, uuid: Uuid) -> Option<(Home, &mut Link)> {
    let link = hub.link.as_ref()?;
    let home = link.home(uuid);
    // A connection that had its uuid from this loop may have come back to another server with it.
    let has_left = || home == Some(link.index()) && hub.find(uuid).is_none();
    let is_away = link.has_bus() && (home.is_none() || has_left());
    let link = hub.link.as_mut()?;
    if is_away {
        return Some((Home::Away, link));
    }
    let index = home.filter(|&index| index != link.index())?;
    (!link.post().has_ended(index)).then_some((Home::Loop(index), link))
}

/// Whether messages also go to other servers.
fn has_bus(hub: &Hub) -> bool {
    hub.link.as_ref().is_some_and(|link| link.has_bus())
}

/// The result for a message that is longer than any outbox.
fn refuse_too_large(hub: &mut Hub, message: &Outgoing<'_>) -> Option<Sent> {
    let is_too_large = message.message.len() > hub.limits.max_outbox;
    is_too_large.then(|| {
        hub.deliver(Audience::All, None, Ready::new(message)); // It counts the refusal.
        let bus = if has_bus(hub) { BusSent::Refused(BusRefusal::TooLarge) } else { BusSent::None };
        Sent { too_large: true, bus, ..Sent::default() }
    })
}

/// The message; its frame is encoded now if other loops get it too.
fn share_if<'m>(others_get_it: bool, message: &'m Outgoing<'_>) -> Ready<'m> {
    let ready = Ready::new(message);
    if others_get_it { ready.share() } else { ready }
}

/// Queues a message for each of these loops, and for the other servers if there is a bus.
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
        sent.bus = link.send_message_away(to(), text, message);
    }
    sent
}

impl<S> fmt::Debug for Everywhere<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everywhere").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl<S> Sockets<'_, S> {
    /// The connections of all loops of the process and of all servers of the bus, with the same
    /// verbs: see [`Everywhere`], [`Loops`](crate::Loops) and
    /// [the chapter on many machines](crate::manual::many_machines).
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
}

impl<S> Socket<'_, S> {
    /// The connections of all loops and servers, with the verbs of this connection: its
    /// [`broadcast`](Everywhere::broadcast) and [`publish`](Everywhere::publish) leave it out, as
    /// those of [`Socket`] do.
    ///
    /// ```
    /// # use ikisocket::{Event, Server};
    /// # let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Message, |_, ep| {
    ///     ep.kws.everywhere().publish("room", ep.data); // to all others, wherever they are
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn everywhere(&mut self) -> Everywhere<'_, S> {
        let own = Some(self.token);
        Everywhere { sockets: Sockets { hub: self.hub, registry: self.registry }, own }
    }
}
