//! What other servers have sent, to the connections of this process.

use uuid::Uuid;

use crate::bus::{
    Answer, Body, Content, Found, GapFrom, LOOP_SHIFT, Letter, Link, Node, Ready, To,
};
use crate::hub::Audience;
use crate::protocol::CloseCode;
use crate::server::Server;
use crate::server::budget::{DELIVERY, LOOK};
use crate::user::{self, Sockets};

/// How long the answers of this server's own loops to a question of another server are awaited, in
/// milliseconds: less than the time that server waits.
const ANSWER_TIME: u64 = 700;
/// While this many questions are open, none of another server is taken.
const MOST_QUESTIONS: usize = 64;

impl<S> Server<S> {
    pub(super) fn handle_bus_message(
        &mut self,
        node: u64,
        topic: Option<(u64, &str)>,
        lost: u64,
        body: &Body<'_>,
    ) {
        if lost > 0 {
            let topic = topic.map(|(_, topic)| topic);
            self.announce_gap(GapFrom::Node(Node(node)), topic, Some(lost));
        }
        let reached = match body {
            Body::Publish(content) => {
                let Some((hash, topic)) = topic else { return };
                self.publish_from_bus(hash, topic, content)
            }
            Body::Broadcast(content) => {
                let ready = self.pass_on_to_all(|| To::All, "", content);
                self.hub.deliver(Audience::All, None, ready)
            }
            Body::Fire(event, content) => {
                let ready = self.pass_on_to_all(|| To::Listeners, event, content);
                let (state, mut sockets) = self.lend();
                sockets.fire(state, event, ready.to_payload())
            }
            &Body::Emit(uuid, content) => self.emit_from_bus(&[uuid], &content),
            Body::EmitList(uuids, content) => {
                let uuids: Vec<_> = uuids.iter().collect();
                self.emit_from_bus(&uuids, content)
            }
            &Body::Close(uuid, code, reason) => {
                self.close_from_bus(uuid, code, reason);
                1
            }
            // Its server finds that an answer is missing.
            Body::Ask { .. } if self.registry.queries.len() >= MOST_QUESTIONS => 0,
            &Body::Ask { query, question, topic } => {
                self.hub.work += LOOK * self.looks_for(question, topic);
                let answer = move |_: &mut S, sockets: &mut Sockets<'_, S>, found: user::Found| {
                    let (is_complete, answer) = found.into_answer(question);
                    if let Some(link) = &mut sockets.hub.link {
                        link.answer_away(node, query, is_complete, answer);
                    }
                };
                let mut sockets = self.sockets();
                sockets.ask(question, topic, false, ANSWER_TIME, Box::new(answer));
                1
            }
            Body::Answer { query, is_complete, found } => {
                self.pass_answer_on(node, *query, *is_complete, found);
                1
            }
            Body::Heartbeat | Body::Bye => 0,
        };
        self.hub.work += reached * DELIVERY;
    }

    /// Gives a message of another server to the members of a topic, on all loops.
    fn publish_from_bus(&mut self, hash: u64, topic: &str, content: &Content<'_>) -> usize {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return 0 };
        let others = link.loops_of(hash, topic).without(link.index());
        if !others.is_empty() {
            ready = ready.share();
            for index in others.iter() {
                link.send_message(index, To::Topic(hash), topic, &ready);
            }
        }
        self.hub.publish_ready(hash, topic, None, ready)
    }

    /// Queues a message of another server for all other loops.
    fn pass_on_to_all<'m>(
        &mut self,
        to: impl Fn() -> To,
        text: &str,
        content: &Content<'m>,
    ) -> Ready<'m> {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return ready };
        let others = link.others();
        if !others.is_empty() {
            ready = ready.share();
            for index in others.iter() {
                link.send_message(index, to(), text, &ready);
            }
        }
        ready
    }

    /// Gives a message of another server to the connections with these uuids. Returns how many were
    /// looked for, which takes as long if they are not here.
    fn emit_from_bus(&mut self, uuids: &[Uuid], content: &Content<'_>) -> usize {
        let mut ready = content.to_ready();
        let Some(link) = &mut self.hub.link else { return 0 };
        let own = link.index();
        let home = |link: &Link, uuid| link.home(uuid).unwrap_or(own);
        if uuids.iter().all(|&uuid| home(link, uuid) == own) {
            self.hub.deliver(Audience::List(uuids), None, ready);
            return uuids.len();
        }
        ready = ready.share();
        let mut by_loop: Vec<(u16, Uuid)> =
            uuids.iter().map(|&uuid| (home(link, uuid), uuid)).collect();
        by_loop.sort_by_key(|&(index, _)| index);
        let mut here = Vec::new();
        for same in by_loop.chunk_by(|(a, _), (b, _)| a == b) {
            let uuids: Vec<_> = same.iter().map(|&(_, uuid)| uuid).collect();
            if same[0].0 == own {
                here = uuids;
            } else {
                link.send_message(same[0].0, To::Here(uuids.into()), "", &ready);
            }
        }
        self.hub.deliver(Audience::List(&here), None, ready);
        uuids.len()
    }

    fn close_from_bus(&mut self, uuid: Uuid, code: CloseCode, reason: &str) {
        let Some(link) = &mut self.hub.link else { return };
        match link.home(uuid) {
            Some(index) if index != link.index() => {
                link.send_close(index, Letter::CloseHere(uuid, code), reason);
            }
            _ => {
                if let Some(token) = self.hub.find(uuid) {
                    let _ = self.hub.close(token, code, reason); // The code was checked.
                }
            }
        }
    }

    /// Gives the answer of another server to the loop that has asked.
    fn pass_answer_on(&mut self, node: u64, query: u64, is_complete: bool, found: &Found<'_>) {
        let index = (query >> LOOP_SHIFT) as u16;
        let query = query & ((1 << LOOP_SHIFT) - 1);
        let (is_last, answer) = match found {
            Found::Count(count) => (true, Answer::Count(*count as usize)),
            Found::Uuids { uuids, more } => (!more, Answer::Uuids(uuids.iter().collect())),
        };
        let Some(link) = &mut self.hub.link else { return };
        if index == link.index() {
            self.context().answered_by_node(query, node, is_last, is_complete, answer);
        } else if usize::from(index) < link.post().len() {
            let letter = Letter::NodeAnswer { query, node, is_last, is_complete, answer };
            if !link.exchange(index, letter, "") {
                // That loop must not take the rest for all of it. If this finds no room either, a
                // program floods the bus, and may answer in any name.
                let (is_last, is_complete, answer) = (true, false, Answer::Count(0));
                link.tell(index, Letter::NodeAnswer { query, node, is_last, is_complete, answer });
            }
        }
    }
}
