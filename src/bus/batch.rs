//! Letters from one loop to another, in order, in memory that is used again.

use std::any::Any;
use std::collections::VecDeque;

use bytes::Bytes;
use uuid::Uuid;

use crate::outbox::{Outgoing, SendOptions, encoded};
use crate::protocol::{CloseCode, Opcode, Payload};

/// A payload from this length on travels as a ready frame that all loops share. A shorter one is
/// copied for each loop, which takes less than the two atomic counts and the memory of its own.
const SHARE: usize = 1024;

/// What a letter counts beside its text and payload, in bytes.
const LETTER: usize = 64;

/// An empty batch keeps at most this memory for its letters, and as much for their bytes. A burst
/// may need more; what comes each turn is seldom more.
const KEEP: usize = 64 * 1024;
const KEEP_LETTERS: usize = KEEP / size_of::<Entry>();

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

/// What one loop asks of another.
#[derive(Debug)]
pub(crate) enum Letter {
    Publish(Content),
    Broadcast(Content),
    EmitTo(Uuid, Content),
    EmitToList(Vec<Uuid>, Content),
    /// The text is the event.
    Fire(Content),
    /// The text is the reason.
    Close(Uuid, CloseCode),
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
    RefuseUpgrades(bool),
    StopListening,
    /// The text is the reason; times in milliseconds.
    Shutdown {
        code: CloseCode,
        spread: u64,
        deadline: u64,
    },
}

/// What one loop asks the others; the letter's text is the topic.
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

impl Letter {
    fn content(&self) -> Option<&Content> {
        match self {
            Self::Publish(content)
            | Self::Broadcast(content)
            | Self::EmitTo(_, content)
            | Self::EmitToList(_, content)
            | Self::Fire(content) => Some(content),
            _ => None,
        }
    }
}

/// A letter in a batch. The lengths say how much of the batch's bytes belongs to it.
struct Entry {
    letter: Letter,
    text: u32,
    payload: u32,
    /// What it counts against the lane's limit.
    cost: usize,
}

/// A letter that was taken from a batch.
pub(crate) struct Opened<'b> {
    pub(crate) letter: Letter,
    pub(crate) text: &'b str,
    pub(crate) payload: &'b [u8],
    pub(crate) cost: usize,
}

impl<'b> Opened<'b> {
    /// The message of a letter that has one.
    pub(crate) fn ready(&'b self) -> Option<Ready<'b>> {
        let Content { opcode, options, frame } = self.letter.content()?;
        let payload = match frame {
            Some((frame, begins)) => &frame[*begins..],
            None => self.payload,
        };
        let frame = frame.as_ref().map(|(frame, _)| frame.clone());
        Some(Ready { opcode: *opcode, payload, options: *options, frame })
    }
}

/// Letters in their order.
#[derive(Default)]
pub(crate) struct Batch {
    entries: VecDeque<Entry>,
    /// The texts and payloads of all letters, one behind the other.
    bytes: Vec<u8>,
    /// The part of `bytes` that was read.
    read: usize,
}

/// What the message of a letter would count: its bytes, wherever they are.
pub(crate) fn cost_of(text: &str, more: usize, message: Option<&Ready<'_>>) -> usize {
    LETTER + text.len() + more + message.map_or(0, |message| message.payload.len())
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a letter without a message.
    pub(crate) fn push(&mut self, letter: Letter, text: &str, cost: usize) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.entries.push_back(Entry { letter, text: text.len() as u32, payload: 0, cost });
    }

    /// Adds a letter with a message.
    pub(crate) fn push_message(
        &mut self,
        letter: impl FnOnce(Content) -> Letter,
        text: &str,
        message: &Ready<'_>,
        cost: usize,
    ) {
        let Ready { opcode, payload, options, frame } = message;
        let frame = frame.clone().map(|frame| {
            let begins = frame.len() - payload.len();
            (frame, begins)
        });
        let payload = if frame.is_some() { &[][..] } else { payload };
        let content = Content { opcode: *opcode, options: *options, frame };
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(payload);
        self.entries.push_back(Entry {
            letter: letter(content),
            text: text.len() as u32,
            payload: payload.len() as u32,
            cost,
        });
    }

    /// Notes that a letter is missing here.
    pub(crate) fn push_gap(&mut self) {
        match self.entries.back_mut() {
            Some(Entry { letter: Letter::Gap(lost), .. }) => *lost += 1,
            _ => self.push(Letter::Gap(1), "", 0),
        }
    }

    /// Moves all letters of another batch, of which none was read, behind those of this one.
    pub(crate) fn append(&mut self, later: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, later);
            return;
        }
        if let (Some(Entry { letter: Letter::Gap(lost), .. }), Some(first)) =
            (self.entries.back_mut(), later.entries.front())
            && let Letter::Gap(more) = first.letter
        {
            *lost += more;
            later.entries.pop_front();
        }
        self.entries.append(&mut later.entries);
        self.bytes.extend_from_slice(&later.bytes);
        later.clear();
    }

    /// Takes the next letter.
    pub(crate) fn next(&mut self) -> Option<Opened<'_>> {
        let Entry { letter, text, payload, cost } = self.entries.pop_front()?;
        let from = self.read;
        let middle = from + text as usize;
        self.read = middle + payload as usize;
        let text = std::str::from_utf8(&self.bytes[from..middle]).unwrap_or_default();
        Some(Opened { letter, text, payload: &self.bytes[middle..self.read], cost })
    }

    /// Drops what is left, so that the memory can be used again.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.entries.shrink_to(KEEP_LETTERS);
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Outgoing<'_> {
        Outgoing::from(text)
    }

    fn told(batch: &mut Batch) -> Vec<(String, Vec<u8>)> {
        let mut told = Vec::new();
        while let Some(opened) = batch.next() {
            let payload = opened.ready().map(|ready| ready.payload.to_vec()).unwrap_or_default();
            told.push(match opened.letter {
                Letter::Gap(lost) => (format!("gap {lost}"), payload),
                _ => (opened.text.to_owned(), payload),
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
            batch.push_message(Letter::Publish, &len.to_string(), &ready, 1);
            expected.push((len.to_string(), payload));
        }
        assert_eq!(told(&mut batch), expected);
        batch.clear();
        assert!(batch.bytes.is_empty() && batch.bytes.capacity() <= KEEP);
    }

    #[test]
    fn losses_are_told_in_their_place_and_those_in_a_row_as_one() {
        let (mut lane, mut batch) = (Batch::default(), Batch::default());
        let message = text("m");
        let ready = Ready::new(&message);
        batch.push_message(Letter::Publish, "a", &ready, 1);
        batch.push_gap();
        batch.push_gap();
        lane.append(&mut batch);
        batch.push_gap();
        batch.push_message(Letter::Publish, "b", &ready, 1);
        lane.append(&mut batch);
        batch.push_gap();
        lane.append(&mut batch);
        let order: Vec<_> = told(&mut lane).into_iter().map(|(text, _)| text).collect();
        assert_eq!(order, ["a", "gap 3", "b", "gap 1"]);
    }
}
