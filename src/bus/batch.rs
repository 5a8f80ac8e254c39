//! Letters from one loop to another, in order, in memory that is used again.

use std::any::Any;
use std::collections::VecDeque;

use bytes::Bytes;
use uuid::Uuid;

#[cfg(feature = "redis")]
use super::event::BusEvent;
use crate::outbox::{Outgoing, SendOptions, encoded};
use crate::protocol::{CloseCode, Opcode, Payload};

/// A payload from this length on travels as a ready frame that all loops share. A shorter one is
/// copied for each loop, which takes less than the two atomic counts and the memory of its own.
const SHARE: usize = 1024;

/// What a letter counts beside its text and payload, in bytes: no less than it takes.
const LETTER: usize = 128;
const _: () = assert!(size_of::<Entry>() <= LETTER);

/// A message that is to be sent, and its frame if that was encoded before.
pub(crate) struct Ready<'m> {
    pub(crate) opcode: Opcode,
    pub(crate) payload: &'m [u8],
    pub(crate) options: SendOptions,
    pub(crate) frame: Option<Bytes>,
}

impl<'m> Ready<'m> {
    pub(crate) fn new(outgoing: &'m Outgoing<'_>) -> Self {
        Self {
            opcode: outgoing.message.payload().opcode(),
            payload: outgoing.message.as_bytes(),
            options: outgoing.options,
            frame: None,
        }
    }

    /// A view of the message.
    pub(crate) fn to_payload(&self) -> Payload<'m> {
        match self.opcode {
            // It was text where it came from.
            Opcode::Text => Payload::Text(std::str::from_utf8(self.payload).unwrap_or_default()),
            _ => Payload::Binary(self.payload),
        }
    }

    /// Encodes the frame of a long message, so that all loops can share it.
    pub(crate) fn share(mut self) -> Self {
        if self.payload.len() >= SHARE {
            self.frame = Some(encoded(self.opcode, self.payload));
        }
        self
    }
}

/// How the message of a letter travels.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    opcode: Opcode,
    options: SendOptions,
    /// The ready frame, and where its payload begins. Without it the payload is in the batch.
    frame: Option<(Bytes, usize)>,
}

/// What a message of another loop is for.
#[derive(Debug)]
pub(crate) enum To {
    /// The text of the letter is the topic, with this hash.
    Topic(u64),
    All,
    One(Uuid),
    List(Box<[Uuid]>),
    /// The same for a message of another server: it goes on to no server.
    #[cfg(feature = "redis")]
    Here(Box<[Uuid]>),
    /// The text of the letter is the event, whose listeners are called.
    Listeners,
}

/// What one loop wants from another.
#[derive(Debug)]
pub(crate) enum Letter {
    Message(To, Content),
    /// The text is the reason.
    Close(Uuid, CloseCode),
    /// The same for a close by another server: it goes on to no server.
    #[cfg(feature = "redis")]
    CloseHere(Uuid, CloseCode),
    Ask {
        /// The number by which the asking loop knows the question.
        query: u64,
        question: Question,
    },
    Answer {
        query: u64,
        answer: Answer,
    },
    /// This many letters would have been here, and were refused.
    Gap(u64),
    /// Something that the handler of the bus is called for.
    #[cfg(feature = "redis")]
    Bus(BusEvent),
    /// This server has left the bus: no answer of it follows.
    #[cfg(feature = "redis")]
    NodeLeft(u64),
    /// The answer of another server's loops, or of ours for another server.
    #[cfg(feature = "redis")]
    NodeAnswer {
        /// The number by which the asking server knows the question.
        query: u64,
        node: u64,
        /// Whether no other part of the answer follows.
        is_last: bool,
        /// Whether all loops of the server have answered.
        is_complete: bool,
        answer: Answer,
    },
    /// The text is the reason; times in milliseconds.
    Shutdown {
        code: CloseCode,
        spread: u64,
        deadline: u64,
        /// Whether the loop that tells it was shutting down before.
        again: bool,
    },
}

/// A question to other loops; the letter's text is the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Open,
    Uuids,
    MemberCount,
    Members,
    Stats,
}

/// One loop's answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Count(usize),
    Uuids(Vec<Uuid>),
    /// The loop's figures, of a type that this layer does not know.
    Stats(Box<dyn Any + Send>),
}

impl Answer {
    /// Its length in bytes, about.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Count(_) => 0,
            Self::Uuids(uuids) => size_of_val(&uuids[..]),
            Self::Stats(_) => 1024,
        }
    }
}

/// A letter in a batch. The lengths say how much of the batch's bytes belongs to it.
struct Entry {
    letter: Letter,
    text: u32,
    payload: u32,
    /// What it counts against the limit of the lane, or of the bus.
    cost: usize,
    /// Whether it goes on to other servers.
    away: bool,
}

/// A letter that was taken from a batch.
pub(crate) struct Opened<'b> {
    pub(crate) letter: Letter,
    pub(crate) text: &'b str,
    payload: &'b [u8],
    pub(crate) cost: usize,
    pub(crate) away: bool,
}

impl<'b> Opened<'b> {
    /// The message whose content the letter has.
    pub(crate) fn ready<'c>(&self, content: &'c Content) -> Ready<'c>
    where
        'b: 'c,
    {
        let Content { opcode, options, frame } = content;
        let payload = match frame {
            Some((frame, begins)) => &frame[*begins..],
            None => self.payload,
        };
        let frame = frame.as_ref().map(|(frame, _)| frame.clone());
        Ready { opcode: *opcode, payload, options: *options, frame }
    }
}

/// Letters in their order.
#[derive(Default)]
pub(crate) struct Batch {
    entries: VecDeque<Entry>,
    /// The texts of all letters, one behind the other, and their payloads.
    texts: String,
    payloads: Vec<u8>,
    /// The parts of them that were read.
    texts_read: usize,
    payloads_read: usize,
}

/// What a letter counts against the limit of a lane, with `more` bytes that it owns.
pub(crate) fn cost_of(text: &str, more: usize) -> usize {
    LETTER + text.len() + more
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of letters that count against the limit.
    pub(crate) fn counted(&self) -> usize {
        self.entries.iter().filter(|entry| entry.cost > 0).count()
    }

    /// Adds a letter without a message.
    pub(crate) fn push(&mut self, letter: Letter, text: &str, cost: usize) {
        self.texts.push_str(text);
        let text = text.len() as u32;
        self.entries.push_back(Entry { letter, text, payload: 0, cost, away: false });
    }

    /// Says that the last letter goes on to other servers.
    #[cfg(feature = "redis")]
    pub(super) fn send_away(&mut self) {
        if let Some(last) = self.entries.back_mut() {
            last.away = true;
        }
    }

    /// Adds a message.
    pub(crate) fn push_message(&mut self, to: To, text: &str, message: &Ready<'_>, cost: usize) {
        let Ready { opcode, payload, options, frame } = message;
        let frame = frame.clone().map(|frame| {
            let begins = frame.len() - payload.len();
            (frame, begins)
        });
        let payload = if frame.is_some() { &[][..] } else { payload };
        let content = Content { opcode: *opcode, options: *options, frame };
        self.texts.push_str(text);
        self.payloads.extend_from_slice(payload);
        self.entries.push_back(Entry {
            letter: Letter::Message(to, content),
            text: text.len() as u32,
            payload: payload.len() as u32,
            cost,
            away: false,
        });
    }

    /// Notes that this many messages are missing here.
    pub(crate) fn push_gap(&mut self, missing: u64) {
        match self.entries.back_mut() {
            Some(Entry { letter: Letter::Gap(lost), .. }) => *lost = lost.saturating_add(missing),
            _ => self.push(Letter::Gap(missing), "", 0),
        }
    }

    /// Moves all letters of another batch behind those of this one. That batch keeps at most `keep`
    /// bytes of memory for each kind of content.
    pub(crate) fn append(&mut self, later: &mut Self, keep: usize) {
        if self.is_empty() {
            std::mem::swap(self, later);
            return;
        }
        if let (Some(Entry { letter: Letter::Gap(lost), .. }), Some(first)) =
            (self.entries.back_mut(), later.entries.front())
            && let Letter::Gap(more) = first.letter
        {
            *lost = lost.saturating_add(more);
            later.entries.pop_front();
        }
        self.entries.append(&mut later.entries);
        self.texts.push_str(&later.texts[later.texts_read..]);
        self.payloads.extend_from_slice(&later.payloads[later.payloads_read..]);
        later.clear(keep);
    }

    /// Takes the next letter.
    pub(crate) fn next(&mut self) -> Option<Opened<'_>> {
        let Entry { letter, text, payload, cost, away } = self.entries.pop_front()?;
        let (from_text, from_payload) = (self.texts_read, self.payloads_read);
        self.texts_read += text as usize;
        self.payloads_read += payload as usize;
        let text = &self.texts[from_text..self.texts_read];
        let payload = &self.payloads[from_payload..self.payloads_read];
        Some(Opened { letter, text, payload, cost, away })
    }

    /// Drops what is left. At most `keep` bytes of memory are kept for the next letters, and as
    /// many for their texts and payloads.
    pub(crate) fn clear(&mut self, keep: usize) {
        self.entries.clear();
        self.entries.shrink_to(keep / size_of::<Entry>());
        self.texts.clear();
        self.texts.shrink_to(keep);
        self.payloads.clear();
        self.payloads.shrink_to(keep);
        (self.texts_read, self.payloads_read) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 1024;

    fn text(text: &str) -> Outgoing<'_> {
        Outgoing::from(text)
    }

    fn told(batch: &mut Batch) -> Vec<(String, Vec<u8>)> {
        let mut told = Vec::new();
        while let Some(opened) = batch.next() {
            told.push(match &opened.letter {
                Letter::Gap(lost) => (format!("gap {lost}"), Vec::new()),
                Letter::Message(_, content) => {
                    (opened.text.to_owned(), opened.ready(content).payload.to_vec())
                }
                letter => (format!("{letter:?}"), Vec::new()),
            });
        }
        told
    }

    #[test]
    fn letters_come_out_as_they_went_in_whatever_their_length() {
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for len in [0, 1, 125, 126, SHARE - 1, SHARE, 65_535, 65_536, 200_000] {
            let payload = vec![b'x'; len];
            let message = Outgoing::from(&payload[..]);
            let ready = Ready::new(&message).share();
            assert_eq!(ready.frame.is_some(), len >= SHARE, "{len} bytes");
            batch.push_message(To::Topic(0), &len.to_string(), &ready, 1);
            expected.push((len.to_string(), payload));
        }
        assert_eq!(told(&mut batch), expected);
        batch.clear(4096);
        assert!(batch.texts.is_empty() && batch.texts.capacity() <= 4096);
        assert!(batch.payloads.is_empty() && batch.payloads.capacity() <= 4096);
    }

    #[test]
    fn losses_are_told_in_their_place_and_those_in_a_row_as_one() {
        let (mut lane, mut batch) = (Batch::default(), Batch::default());
        let message = text("m");
        let ready = Ready::new(&message);
        batch.push_message(To::Topic(0), "a", &ready, 1);
        batch.push_gap(1);
        batch.push_gap(1);
        lane.append(&mut batch, KEPT);
        batch.push_gap(1);
        batch.push_message(To::Topic(0), "b", &ready, 1);
        lane.append(&mut batch, KEPT);
        batch.push_gap(1);
        lane.append(&mut batch, KEPT);
        let order: Vec<_> = told(&mut lane).into_iter().map(|(text, _)| text).collect();
        assert_eq!(order, ["a", "gap 3", "b", "gap 1"]);
    }

    #[test]
    fn a_batch_that_was_read_carries_nothing_into_the_next() {
        let (mut lane, mut batch) = (Batch::default(), Batch::default());
        let message = text("old");
        batch.push_message(To::Topic(0), "topic", &Ready::new(&message), 1);
        assert!(batch.next().is_some(), "read to its end, and not cleared");
        let message = text("new");
        batch.push_message(To::Topic(0), "b", &Ready::new(&message), 1);
        lane.push_message(To::Topic(0), "a", &Ready::new(&message), 1);
        lane.append(&mut batch, KEPT);
        let expected = ["a", "b"].map(|topic| (topic.to_owned(), b"new".to_vec()));
        assert_eq!(told(&mut lane), expected);
    }
}
