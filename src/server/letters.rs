//! What comes from the other loops of the process: sockets, letters, and what the owner of the
//! loops asks for.

use std::sync::Arc;

use super::Server;
use super::budget::{LETTERS_PART, MESSAGE};
use crate::bus::{BusEvent, Control, Letter, Opened, Seat};
use crate::error::BuildError;
use crate::hub::Audience;
use crate::user::answer_here;

impl<S> Server<S> {
    /// Takes its place among the loops of the process.
    pub(super) fn join_loops(&mut self, seat: Seat) -> Result<(), BuildError> {
        let link = seat.sit(self.reactor.waker.clone(), self.clock());
        let link = link.ok_or(BuildError::LoopTaken(seat.index.into()))?;
        self.hub.link = Some(Box::new(link));
        self.hub.topics.note_interest(seat);
        Ok(())
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
        while let Some(control) = self.hub.link.as_mut().and_then(|link| link.next_control()) {
            self.obey(control);
        }
        while let Some(socket) = self.hub.link.as_mut().and_then(|link| link.next_socket()) {
            if self.hub.stopping.is_some() {
                self.hub.connections_ended(1);
            } else {
                self.begin(socket, usize::MAX);
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
            count += 1;
            self.hub.work += MESSAGE + letter.cost;
            self.handle_letter(from, letter);
            self.context().drain_notifications();
            if self.hub.work >= until {
                break;
            }
        }
        self.turn.letters += count;
        if let Some(link) = &mut self.hub.link {
            link.stats.received += count as u64;
            link.put_back(from, letters, cost);
        }
    }

    fn handle_letter(&mut self, from: u16, opened: Opened<'_>) {
        let text = opened.text;
        let Some(message) = opened.ready() else {
            return self.handle_other_letter(from, opened.letter, text);
        };
        let reached = match &opened.letter {
            Letter::Publish(_) => self.hub.publish_ready(text, None, message),
            Letter::Broadcast(_) => self.hub.deliver(Audience::All, None, message),
            Letter::EmitTo(to, _) => self.hub.deliver(Audience::List(&[*to]), None, message),
            Letter::EmitToList(to, _) => self.hub.deliver(Audience::List(to), None, message),
            Letter::Fire(_) => {
                let (state, mut sockets) = self.lend();
                sockets.fire(state, text, message.to_payload())
            }
            // The others have no message.
            _ => 0,
        };
        self.hub.work += reached * MESSAGE;
    }

    fn handle_other_letter(&mut self, from: u16, letter: Letter, text: &str) {
        match letter {
            Letter::Close(uuid, code) => {
                if let Some(token) = self.hub.find(uuid) {
                    let _ = self.hub.close(token, code, text); // The sender has checked the code.
                }
            }
            Letter::Ask { query, question } => {
                let panics = self.registry.panics.get();
                let answer = answer_here(&self.hub, panics, question, text);
                if let Some(link) = &mut self.hub.link {
                    link.answer(from, query, answer);
                }
            }
            Letter::Answer { query, answer } => self.context().answered(query, from, answer),
            Letter::Gap(lost) => {
                if let Some(link) = &mut self.hub.link {
                    link.stats.lost += lost;
                }
                log::warn!("{lost} messages of loop {from} found no room: this loop is behind");
                self.context().bus_event(&BusEvent::Gap { from: from.into(), lost });
            }
            Letter::RefuseUpgrades(refuse) => self.hub.refusing = refuse,
            Letter::StopListening => self.stop_listening_here(),
            Letter::Shutdown { code, spread, deadline } => {
                let _ = self.hub.shutdown(code, text, spread, deadline); // Its code was checked.
            }
            // These have a message.
            Letter::Publish(_)
            | Letter::Broadcast(_)
            | Letter::EmitTo(..)
            | Letter::EmitToList(..)
            | Letter::Fire(_) => {}
        }
    }

    /// Does what the owner of the loops asks of each.
    fn obey(&mut self, control: Control) {
        match control {
            Control::Shutdown { code, reason, spread, deadline } => {
                let _ = self.hub.shutdown(code, &reason, spread, deadline); // Its code was checked.
            }
            Control::RefuseUpgrades(refuse) => self.hub.refusing = refuse,
            Control::StopListening => self.stop_listening_here(),
        }
    }
}
