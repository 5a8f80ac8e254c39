//! What comes from the other loops of the process: sockets and letters.

use std::sync::Arc;

use uuid::Uuid;

use super::Server;
use super::budget::{LETTERS_PART, LOOK, MESSAGE};
use crate::bus::{BusEvent, BusSent, GapFrom, Letter, Link, Opened, Question, Seat, To};
use crate::error::BuildError;
use crate::hub::Audience;
use crate::user::{Handle, answer_here};

impl<S> Server<S> {
    /// Takes its place among the loops of the process.
    pub(super) fn join_loops(&mut self, seat: Seat) -> Result<(), BuildError> {
        let link = seat.sit(self.reactor.waker.clone(), self.clock());
        let link = link.ok_or(BuildError::LoopTaken(seat.index.into()))?;
        self.hub.link = Some(Box::new(link));
        #[cfg(feature = "redis")]
        self.join_bus(&seat);
        self.hub.topics.note_interest(seat);
        Ok(())
    }

    /// Gives callbacks the handles of all loops.
    pub(crate) fn know_loops(&mut self, loops: Arc<[Handle<S>]>) {
        let _ = self.registry.loops.set(loops); // They begin once.
    }

    /// This server, if it is that of this loop. The error says why it is not.
    pub(crate) fn of_loop(self, seat: &Seat) -> Result<Self, String> {
        let link = self.hub.link.as_ref();
        let is_of_loop =
            |link: &Link| link.index() == seat.index && Arc::ptr_eq(link.post(), &seat.post);
        match link {
            Some(link) if is_of_loop(link) => Ok(self),
            _ => {
                Err("build the server from the builder that the closure gets, not from another one"
                    .to_owned())
            }
        }
    }

    /// Hands over what this turn had for other loops and servers.
    #[inline]
    pub(super) fn hand_letters_over(&mut self) {
        if let Some(link) = &mut self.hub.link {
            if link.has_unsent() {
                link.hand_over();
            }
            self.flush_bus();
        }
    }

    /// Takes what other loops have handed over, and handles it within a part of the budget.
    #[cold]
    pub(super) fn serve_letters(&mut self) {
        let Some(link) = &mut self.hub.link else { return };
        link.collect();
        while let Some(socket) = self.hub.link.as_mut().and_then(|link| link.next_socket()) {
            if self.hub.stopping.is_some() {
                self.hub.connections_ended(1);
            } else {
                self.begin(socket, None);
            }
        }
        let Some(link) = &self.hub.link else { return };
        let lanes = link.unread();
        // Each lane has its share, so that no loop waits for another.
        let share = self.hub.work_per_turn / LETTERS_PART / lanes.len().max(1);
        for from in lanes.iter() {
            self.handle_letters(from, self.hub.work.saturating_add(share));
        }
        if self.hub.link.as_ref().is_some_and(|link| link.is_behind()) {
            self.backlog.push_letters();
        }
    }

    /// Handles letters of one loop, at least one, until the turn's work reaches `until`.
    fn handle_letters(&mut self, from: u16, until: usize) {
        let Some(link) = &mut self.hub.link else { return };
        let mut letters = link.take_letters(from);
        let (mut cost, mut count) = (0, 0);
        while let Some(letter) = letters.next() {
            self.hub.work += MESSAGE + letter.cost;
            if letter.away {
                self.publish_away(&letter);
            } else {
                cost += letter.cost;
                // Gaps and shutdowns cost nothing, and are no messages.
                count += usize::from(letter.cost > 0);
                self.handle_letter(from, letter);
            }
            self.context().drain_notifications();
            if self.hub.work >= until {
                break;
            }
        }
        self.turn.letters += count;
        if let Some(link) = &mut self.hub.link {
            link.put_back(from, letters, count as u64, cost);
        }
    }

    fn handle_letter(&mut self, from: u16, opened: Opened<'_>) {
        let text = opened.text;
        match &opened.letter {
            Letter::Message(to, content) => {
                let message = opened.ready(content);
                let reached = match to {
                    &To::Topic(hash) => self.hub.publish_ready(hash, text, None, message),
                    To::All => self.hub.deliver(Audience::All, None, message),
                    &To::One(uuid) if self.has_left(uuid) => {
                        self.send_on(|link| link.send_message_away(To::One(uuid), "", &message))
                    }
                    To::One(uuid) => self.hub.deliver(Audience::List(&[*uuid]), None, message),
                    To::List(uuids) if uuids.iter().any(|&uuid| self.has_left(uuid)) => {
                        let (away, here): (Vec<_>, Vec<_>) =
                            uuids.iter().partition(|&&uuid| self.has_left(uuid));
                        let to = To::List(away.into());
                        self.send_on(|link| link.send_message_away(to, "", &message));
                        self.hub.deliver(Audience::List(&here), None, message)
                    }
                    To::List(uuids) => self.hub.deliver(Audience::List(uuids), None, message),
                    #[cfg(feature = "redis")]
                    To::Here(uuids) => {
                        self.hub.deliver(Audience::List(uuids), None, message);
                        // Any program may have sent it: what is not here takes as long.
                        uuids.len()
                    }
                    To::Listeners => {
                        let (state, mut sockets) = self.lend();
                        sockets.fire(state, text, message.to_payload())
                    }
                };
                self.hub.work += reached * MESSAGE;
            }
            Letter::Close(uuid, code) => {
                if let Some(token) = self.hub.find(*uuid) {
                    let _ = self.hub.close(token, *code, text); // The sender has checked the code.
                } else if self.has_left(*uuid) {
                    self.send_on(|link| link.send_close_away(*uuid, *code, text));
                }
            }
            #[cfg(feature = "redis")]
            Letter::CloseHere(uuid, code) => {
                if let Some(token) = self.hub.find(*uuid) {
                    let _ = self.hub.close(token, *code, text); // It was checked when it came.
                }
            }
            &Letter::Ask { query, question } => self.answer(from, query, question, text),
            Letter::Answer { .. } => {
                if let Letter::Answer { query, answer } = opened.letter {
                    self.context().answered(query, from, answer);
                }
            }
            &Letter::Gap(lost) => self.lost(from, lost),
            #[cfg(feature = "redis")]
            Letter::Bus(event) => self.context().bus_event(event),
            #[cfg(feature = "redis")]
            &Letter::NodeLeft(node) => self.context().give_up_nodes(Some(node)),
            #[cfg(feature = "redis")]
            Letter::NodeAnswer { .. } => {
                if let Letter::NodeAnswer { query, node, is_last, is_complete, answer } =
                    opened.letter
                {
                    self.context().answered_by_node(query, node, is_last, is_complete, answer);
                }
            }
            &Letter::Shutdown { code, spread, deadline, again } => {
                self.hub.shutdown_of_others(code, text, spread, deadline, again);
            }
        }
    }

    /// Whether a connection of this loop may have come back to another server, with the uuid that
    /// it had here.
    fn has_left(&self, uuid: Uuid) -> bool {
        self.hub.link.as_ref().is_some_and(|link| link.has_bus()) && self.hub.find(uuid).is_none()
    }

    /// Queues what another loop has sent for other servers. Returns how many connections here it
    /// reaches: none.
    fn send_on(&mut self, send: impl FnOnce(&mut Link) -> BusSent) -> usize {
        if let Some(link) = &mut self.hub.link
            && let BusSent::Refused(_) = send(link)
        {
            self.hub.stats.emits_refused.gone += 1;
        }
        0
    }

    #[cfg(not(feature = "redis"))]
    fn publish_away(&mut self, _: &Opened<'_>) {}

    #[cfg(not(feature = "redis"))]
    fn flush_bus(&mut self) {}

    fn answer(&mut self, to: u16, query: u64, question: Question, topic: &str) {
        let answer = answer_here(&self.hub, self.registry.panics.get(), question, topic);
        self.hub.work += LOOK * self.looks_for(question, topic);
        if let Some(link) = &mut self.hub.link {
            link.exchange(to, Letter::Answer { query, answer }, "");
        }
    }

    /// How many connections are looked at for this question.
    pub(super) fn looks_for(&self, question: Question, topic: &str) -> usize {
        match question {
            Question::Uuids | Question::Stats => self.hub.open_len(),
            Question::Members => self.hub.topics.count(topic),
            Question::Open | Question::MemberCount => 0,
        }
    }

    /// Messages of a loop are missing here.
    fn lost(&mut self, from: u16, lost: u64) {
        let now = self.hub.now;
        if let Some(link) = &mut self.hub.link
            && link.count_lost(lost, now)
        {
            log::warn!(
                "{lost} messages of loop {from} found no room: loop {} is behind. This is logged once a minute",
                link.index()
            );
        }
        let from = GapFrom::Loop(from.into());
        self.context().bus_event(&BusEvent::Gap { from, topic: None, lost: Some(lost) });
    }
}
