//! The topics of connections: open connections may join, and a message is published to the members.
//!
//! `membership` holds the table of members; a connection that closes leaves its topics in
//! `transitions`.

use uuid::Uuid;

use super::{Audience, Hub};
use crate::bus::Ready;
use crate::error::TopicError;
use crate::outbox::Outgoing;
use crate::token::Token;

impl Hub {
    /// Makes an open connection a member of a topic; returns whether it was not a member before.
    pub(crate) fn join(&mut self, token: Token, topic: &str) -> Result<bool, TopicError> {
        if !self.is_open(token) {
            return Err(TopicError::Closed);
        }
        self.topics.join(token.index, topic, self.limits.max_topics)
    }

    /// The uuids of a topic's members.
    pub(crate) fn members(&self, topic: &str) -> Vec<Uuid> {
        let members =
            self.topics.find(topic).into_iter().flat_map(|topic| self.topics.members(topic));
        members.filter_map(|index| Some(self.connections.get(index as usize)?.uuid)).collect()
    }

    /// Gives a message to the members of a topic except one; returns how many accepted it.
    pub(crate) fn publish(
        &mut self,
        topic: &str,
        except: Option<Token>,
        message: &Outgoing<'_>,
    ) -> usize {
        self.publish_ready(self.topics.hash(topic), topic, except, Ready::new(message))
    }

    /// The same for a topic whose hash is known, and a message whose frame may be encoded already.
    pub(crate) fn publish_ready(
        &mut self,
        hash: u64,
        topic: &str,
        except: Option<Token>,
        message: Ready<'_>,
    ) -> usize {
        // This may close connections, and a topic ends with its last member.
        if self.stage.is_full() {
            self.flush_staged();
        }
        let Some(topic) = self.topics.find_hashed(hash, topic) else { return 0 };
        self.deliver(Audience::Topic(topic), except, message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::hub::test_kit::{hub, open};
    use crate::protocol::{CloseCode, Opcode, encode_frame};
    use crate::transport::memory::FarEnd;

    /// A slow model of the table: each topic's members by uuid.
    #[derive(Default)]
    struct Model {
        topics: HashMap<String, BTreeSet<Uuid>>,
    }

    impl Model {
        fn join(&mut self, topic: &str, uuid: Uuid) -> bool {
            self.topics.entry(topic.to_owned()).or_default().insert(uuid)
        }

        fn leave(&mut self, topic: &str, uuid: Uuid) -> bool {
            let left = self.topics.get_mut(topic).is_some_and(|members| members.remove(&uuid));
            self.topics.retain(|_, members| !members.is_empty());
            left
        }

        fn leave_all(&mut self, uuid: Uuid) {
            for topic in self.of(uuid) {
                self.leave(&topic, uuid);
            }
        }

        fn of(&self, uuid: Uuid) -> BTreeSet<String> {
            let of = self.topics.iter().filter(|(_, members)| members.contains(&uuid));
            of.map(|(topic, _)| topic.clone()).collect()
        }

        fn members(&self, topic: &str) -> BTreeSet<Uuid> {
            self.topics.get(topic).cloned().unwrap_or_default()
        }
    }

    struct Peer {
        token: Token,
        uuid: Uuid,
        wire: FarEnd,
        received: Vec<u8>,
        expected: Vec<u8>,
    }

    impl Peer {
        fn received(&mut self) -> &[u8] {
            self.received.extend(self.wire.receive(usize::MAX).0);
            &self.received
        }
    }

    #[test]
    fn memberships_and_deliveries_are_those_of_the_slow_model() {
        let mut hub = hub();
        let mut model = Model::default();
        let mut peers: Vec<Peer> = Vec::new();
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let (mut joined, mut published, mut closed) = (0, 0, 0);
        for step in 0..20_000_u32 {
            if peers.len() < 3 || (peers.len() < 30 && random(20) == 0) {
                let (token, wire) = open(&mut hub, usize::MAX);
                peers.push(Peer {
                    token,
                    uuid: hub.get(token).unwrap().uuid,
                    wire,
                    received: Vec::new(),
                    expected: Vec::new(),
                });
            }
            let at = random(peers.len());
            let Peer { token, uuid, .. } = peers[at];
            let topic = random(12).to_string();
            match random(16) {
                0..6 => {
                    let new = model.join(&topic, uuid);
                    joined += usize::from(new);
                    assert_eq!(hub.join(token, &topic), Ok(new));
                }
                6..10 => {
                    assert_eq!(hub.topics.leave(token.index, &topic), model.leave(&topic, uuid))
                }
                10..14 => {
                    let mut members = model.members(&topic);
                    let except = (random(2) == 0).then_some(token);
                    if except.is_some() {
                        members.remove(&uuid);
                    }
                    let payload = step.to_be_bytes();
                    assert_eq!(
                        hub.publish(&topic, except, &Outgoing::from(&payload[..])),
                        members.len()
                    );
                    for peer in peers.iter_mut().filter(|peer| members.contains(&peer.uuid)) {
                        encode_frame(Opcode::Binary, &payload, &mut peer.expected);
                        published += 1;
                    }
                }
                14 => {
                    let new = Uuid::from_u128(step.into());
                    hub.set_uuid(token, new).unwrap();
                    for topic in model.of(uuid) {
                        model.leave(&topic, uuid);
                        model.join(&topic, new);
                    }
                    peers[at].uuid = new;
                }
                _ => {
                    let mut peer = peers.swap_remove(at);
                    let was = model.of(uuid);
                    model.leave_all(uuid);
                    if random(2) == 0 {
                        hub.close(token, CloseCode::NORMAL, "").unwrap();
                    } else {
                        hub.peer_finished(token);
                    }
                    assert_eq!(
                        hub.topics.of(token.index).into_iter().collect::<BTreeSet<_>>(),
                        was
                    );
                    assert_eq!(hub.join(token, &topic), Err(TopicError::Closed));
                    hub.flush_dirty();
                    let expected = std::mem::take(&mut peer.expected);
                    assert!(peer.received().starts_with(&expected));
                    while hub.next_notification().is_some() {}
                    if random(2) == 0 {
                        hub.peer_finished(token);
                        while hub.next_notification().is_some() {}
                        hub.remove_dead();
                    }
                    closed += 1;
                }
            }
            let told: HashMap<_, _> =
                hub.topics.iter().map(|(name, members)| (name.to_owned(), members)).collect();
            assert_eq!(
                told,
                model.topics.iter().map(|(name, members)| (name.clone(), members.len())).collect()
            );
            assert_eq!(
                hub.members(&topic).into_iter().collect::<BTreeSet<_>>(),
                model.members(&topic)
            );
            for peer in &peers {
                assert_eq!(
                    hub.topics.is_member(peer.token.index, &topic),
                    model.members(&topic).contains(&peer.uuid)
                );
            }
            if step % 16 == 0 {
                hub.flush_dirty();
                for peer in &mut peers {
                    assert!(
                        peer.received().len() == peer.expected.len()
                            && peer.received == peer.expected
                    );
                    let topics: BTreeSet<_> = hub.topics.of(peer.token.index).into_iter().collect();
                    assert_eq!(topics, model.of(peer.uuid));
                }
            }
        }
        assert!(joined > 1000 && published > 1000 && closed > 100, "{joined} {published} {closed}");
    }
}
