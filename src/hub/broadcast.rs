//! Sending a message to many connections: which of them get it, and its encodings, each made once.
//!
//! `sending` sends to one connection.

use uuid::Uuid;

use super::Hub;
use super::connection::Connection;
use super::sending::{open, schedule_flush};
use crate::bus::Ready;
use crate::config::Dropped;
use crate::outbox::{Common, Encoding, Outgoing, SendOptions, Shared, Stage};
use crate::protocol::Opcode;
use crate::token::Token;

/// A message for several connections, encoded once for each encoding that they need.
struct EncodedMessage<'m> {
    opcode: Opcode,
    payload: &'m [u8],
    options: SendOptions,
    plain: Shared,
    /// Made when the first connection needs it; `None` if the plain form is no larger.
    others: Vec<(Encoding, Option<Shared>)>,
}

impl<'m> EncodedMessage<'m> {
    fn new(message: Ready<'m>, stage: &mut Stage) -> Self {
        let Ready { opcode, payload, options, frame } = message;
        let plain = stage.share_ready(opcode, payload, frame);
        Self { opcode, payload, options, plain, others: Vec::new() }
    }

    fn get(
        &mut self,
        encoding: Encoding,
        stage: &mut Stage,
        common: &mut Common,
        work: &mut usize,
    ) -> &mut Shared {
        if encoding == Encoding::Plain {
            return &mut self.plain;
        }
        let at = self.others.iter().position(|(each, _)| *each == encoding).unwrap_or_else(|| {
            let shared = match encoding {
                Encoding::Shared(kind) => {
                    common.deflate(kind, self.payload, work).map(|deflated| {
                        let shared = stage.share(self.opcode.compressed(), &deflated);
                        common.recycle(deflated);
                        shared
                    })
                }
                Encoding::Dedicated | Encoding::Plain => {
                    Some(stage.share(self.opcode.compressed(), self.payload))
                }
            };
            self.others.push((encoding, shared));
            self.others.len() - 1
        });
        self.others[at].1.as_mut().unwrap_or(&mut self.plain)
    }

    fn end(self, stage: &mut Stage) {
        let others = self.others.into_iter().filter_map(|(_, shared)| shared);
        for shared in others.chain([self.plain]) {
            stage.end_share(shared);
        }
    }
}

/// Which connections get a message that is encoded once.
#[derive(Clone, Copy)]
pub(crate) enum Audience<'a> {
    All,
    /// The members of one topic.
    Topic(u32),
    /// Each open connection of a list, once for each time that it is listed.
    List(&'a [Uuid]),
}

/// A frame in the log, on its way to the connections of an audience.
struct Staging<'h> {
    stage: &'h mut Stage,
    shared: &'h Shared,
    /// The most bytes that may wait for a connection.
    most: usize,
    /// The slot of the connection that does not get it.
    except: Option<u32>,
    active: Option<u32>,
    dirty: &'h mut Vec<Token>,
    /// Connections that need more work.
    rest: &'h mut Vec<Token>,
    reached: usize,
}

impl Staging<'_> {
    /// Refers one connection to the frame. Inlined by force: it takes 35 instructions, and 53 with
    /// a call.
    #[inline(always)]
    fn add(&mut self, index: u32, connection: &mut Connection) {
        if !connection.is_open() || self.except == Some(index) {
            return;
        }
        let token = Token { index, generation: connection.generation };
        if connection.compression.is_some()
            || !connection.outbox.stage_shared(self.stage, self.shared, self.most)
        {
            return self.rest.push(token);
        }
        self.reached += 1;
        schedule_flush(connection, token, self.dirty, self.active);
    }
}

impl Hub {
    /// Encodes a message once and gives it to all open connections of an audience except one;
    /// returns how many accepted it.
    pub(crate) fn broadcast(
        &mut self,
        to: Audience<'_>,
        except: Option<Token>,
        outgoing: &Outgoing<'_>,
    ) -> usize {
        self.deliver(to, except, Ready::new(outgoing))
    }

    /// The same for a message whose frame may be encoded already.
    pub(crate) fn deliver(
        &mut self,
        to: Audience<'_>,
        except: Option<Token>,
        message: Ready<'_>,
    ) -> usize {
        let payload = message.payload;
        let limit = self.limits.max_outbox;
        if payload.len() > limit {
            // Clients may be able to cause this: the count includes every case, the log only the
            // first.
            if !std::mem::replace(&mut self.warned, true) {
                log::warn!(
                    "a broadcast of {} bytes reached no connection: the outbox limit is {limit} bytes",
                    payload.len()
                );
            }
            self.stats.emits_refused.too_large += 1;
            return 0;
        }
        if self.stage.is_full() {
            self.flush_staged();
        }
        let mut encoded = EncodedMessage::new(message, &mut self.stage);
        let mut rest = std::mem::take(&mut self.rest);
        let mut reached = self.stage_for(to, except, &encoded.plain, &mut rest);
        for token in rest.drain(..) {
            reached += usize::from(self.emit_shared(token, &mut encoded));
        }
        self.rest = rest;
        encoded.end(&mut self.stage);
        self.stats.messages_out += reached as u64;
        reached
    }

    /// Refers each open connection of an audience except one to a frame in the log; returns how
    /// many. Connections that need more work are added to `rest`. This loop is the cost of a
    /// broadcast for each connection, so it does nothing else.
    fn stage_for(
        &mut self,
        to: Audience<'_>,
        except: Option<Token>,
        shared: &Shared,
        rest: &mut Vec<Token>,
    ) -> usize {
        let Self { connections, names, topics, stage, dirty, active, limits, stats, .. } = self;
        let except = except.map(|except| except.index);
        let most = limits.max_outbox;
        let mut staging =
            Staging { stage, shared, most, except, active: *active, dirty, rest, reached: 0 };
        match to {
            Audience::All => {
                connections.iter_mut().for_each(|(index, each)| staging.add(index as u32, each))
            }
            Audience::Topic(topic) => {
                for index in topics.members(topic) {
                    if let Some(connection) = connections.get_mut(index as usize) {
                        staging.add(index, connection);
                    }
                }
            }
            Audience::List(uuids) => {
                for uuid in uuids {
                    match names.find(connections, *uuid) {
                        Some(index) => staging.add(index, &mut connections[index as usize]),
                        None => stats.emits_refused.gone += 1,
                    }
                }
            }
        }
        staging.reached
    }

    /// Gives one connection a shared frame, whatever waits there; returns whether it accepted it.
    fn emit_shared(&mut self, token: Token, encoded: &mut EncodedMessage<'_>) -> bool {
        // A connection may be in a list twice, and have failed after the first message.
        let Some(connection) = open(&mut self.connections, token) else {
            self.stats.emits_refused.closed += 1;
            return false;
        };
        let SendOptions { compress, key } = encoded.options;
        let len = encoded.payload.len();
        let encoding = connection.encoding(len, compress);
        let shared = encoded.get(encoding, &mut self.stage, &mut self.common, &mut self.work);
        if let Err(error) = self.make_room(token, shared.len(), key) {
            self.stats.emits_refused.count(error);
            return false;
        }
        let connection = &mut self.connections[token.index as usize];
        // Not before there is room: making room may end the queue.
        if encoding == Encoding::Dedicated {
            if !connection.outbox.is_blocked() {
                self.work += connection.late_work(len);
            }
            connection.outbox.use_queue(&mut self.stage);
        }
        match key.filter(|_| connection.outbox.is_blocked()) {
            Some(key) => {
                let replaced = connection.outbox.push_shared_latest(&mut self.stage, shared, key);
                self.count_dropped(
                    token,
                    Dropped { replaced: replaced.into(), ..Dropped::default() },
                );
            }
            None => connection.outbox.push_shared(&mut self.stage, shared),
        }
        if self.is_blocked(token) {
            self.note_pressure(token);
        } else {
            self.schedule_flush(token);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Emitted;
    use crate::hub::test_kit::{hub, open};

    #[test]
    fn a_message_is_encoded_once_for_every_audience() {
        let mut hub = hub();
        let message = Outgoing::from(&[1; 100]);
        let peers = [open(&mut hub, usize::MAX), open(&mut hub, usize::MAX)];
        let uuids = peers.each_ref().map(|(token, _)| hub.get(*token).unwrap().uuid);
        for (token, _) in &peers {
            hub.join(*token, "a").unwrap();
        }
        for way in 0..3 {
            let reached = match way {
                0 => hub.broadcast(Audience::All, None, &message),
                1 => hub.broadcast(Audience::List(&uuids), None, &message),
                _ => hub.publish("a", None, &message),
            };
            assert_eq!((reached, hub.stage.len()), (2, 2 + 100));
            hub.flush_dirty();
            for (_, wire) in &peers {
                assert_eq!(wire.receive(usize::MAX).0.len(), 2 + 100);
            }
        }
    }

    #[test]
    fn a_connection_listed_twice_that_fails_first_is_then_counted_as_closed() {
        let mut hub = hub();
        let (token, _far) = open(&mut hub, 0);
        let uuid = hub.get(token).unwrap().uuid;
        assert_eq!(
            hub.emit(token, Opcode::Binary, &[0; 900], &SendOptions::USUAL),
            Emitted::Queued
        );
        hub.flush_dirty();
        let message = Outgoing {
            message: crate::protocol::Message::Binary(vec![0; 200].into()),
            options: SendOptions::USUAL,
        };
        assert_eq!(hub.broadcast(Audience::List(&[uuid, uuid]), None, &message), 0);
        let refused = hub.stats.emits_refused;
        assert_eq!((refused.full, refused.closed, hub.is_open(token)), (1, 1, false));
    }

    #[test]
    fn a_broadcast_may_be_as_long_as_an_outbox_and_no_longer() {
        let mut hub = hub();
        let (_, _far) = open(&mut hub, usize::MAX);
        let limit = hub.limits.max_outbox;
        for (len, reached) in [(limit, 1), (limit + 1, 0)] {
            let message = vec![1; len];
            assert_eq!(
                hub.broadcast(Audience::All, None, &Outgoing::from(&message[..])),
                reached,
                "{len} bytes"
            );
            hub.flush_dirty();
        }
        assert_eq!(hub.stats.emits_refused.too_large, 1);
    }
}
