//! What comes from the other loops of the process: sockets and letters.

use std::sync::Arc;

use super::Server;
use super::budget::{LETTERS_PART, LOOK, MESSAGE};
use crate::bus::{BusEvent, Letter, Opened, Question, Seat, To};
use crate::error::BuildError;
use crate::hub::Audience;
use crate::user::{Handle, answer_here};

impl<S> Server<S> {
    /// Takes its place among the loops of the process.
    pub(super) fn join_loops(&mut self, seat: Seat) -> Result<(), BuildError> {
        let link = seat.sit(self.reactor.waker.clone(), self.clock());
        let link = link.ok_or(BuildError::LoopTaken(seat.index.into()))?;
        self.hub.link = Some(Box::new(link));
        self.hub.topics.note_interest(seat);
        Ok(())
    }

    /// Gives callbacks the handles of all loops.
    pub(crate) fn know_loops(&mut self, loops: Arc<[Handle<S>]>) {
        let _ = self.registry.loops.set(loops); // They begin once.
    }

    /// Whether it is the server of this loop.
    pub(crate) fn is_of(&self, seat: &Seat) -> bool {
        let link = self.hub.link.as_ref();
        link.is_some_and(|link| link.index() == seat.index && Arc::ptr_eq(link.post(), &seat.post))
    }

    /// Hands over what this turn had for other loops.
    #[inline]
    pub(super) fn hand_letters_over(&mut self) {
        if let Some(link) = &mut self.hub.link
            && link.has_unsent()
        {
            link.hand_over();
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
            cost += letter.cost;
            // Those that tell something of the loops themselves cost nothing.
            count += usize::from(letter.cost > 0);
            self.hub.work += MESSAGE + letter.cost;
            self.handle_letter(from, letter);
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
                    To::One(uuid) => self.hub.deliver(Audience::List(&[*uuid]), None, message),
                    To::List(uuids) => self.hub.deliver(Audience::List(uuids), None, message),
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
                }
            }
            &Letter::Ask { query, question } => self.answer(from, query, question, text),
            Letter::Answer { .. } => {
                if let Letter::Answer { query, answer } = opened.letter {
                    self.context().answered(query, from, answer);
                }
            }
            &Letter::Gap(lost) => self.lost(from, lost),
            &Letter::Shutdown { code, spread, deadline, again } => {
                // Loops that begin to shut down at the same time tell each other: that is no second
                // call.
                if again || self.hub.stopping.is_none() {
                    let _ = self.hub.shutdown(code, text, spread, deadline); // It was checked.
                }
            }
        }
    }

    fn answer(&mut self, to: u16, query: u64, question: Question, topic: &str) {
        let answer = answer_here(&self.hub, self.registry.panics.get(), question, topic);
        self.hub.work += LOOK
            * match question {
                Question::Uuids | Question::Stats => self.hub.open_len(),
                Question::Members => self.hub.topics.count(topic),
                Question::Open | Question::MemberCount => 0,
            };
        if let Some(link) = &mut self.hub.link {
            link.converse(to, Letter::Answer { query, answer }, "");
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
        self.context().bus_event(&BusEvent::Gap { from: from.into(), lost });
    }
}
