//! The backlog: connections, listeners, commands and events that are to be served without waiting.
//!
//! Most entries are connections that wait to be read, and their input that was read and is not
//! handled yet. The backlog knows no budget and no socket: the server decides what is deferred, and
//! how much of it is done at a time.

use std::collections::{HashMap, VecDeque};

use crate::hub::Connection;
use crate::token::Token;

/// The most entries for which an empty list keeps its memory.
const KEEP_ENTRIES: usize = 1024;

/// Input that was read and is not handled yet; never empty.
pub(crate) struct Rest {
    pub(crate) bytes: Vec<u8>,
    /// The position of the first unhandled byte.
    pub(crate) from: usize,
}

/// The list in which a connection waits to be read.
#[derive(Clone, Copy)]
pub(crate) enum Queue {
    Waiting,
    #[cfg(feature = "_tls")]
    Handshakes,
    Closing,
}

impl Queue {
    /// The list for a connection in its present state.
    pub(crate) fn of(connection: &Connection) -> Self {
        #[cfg(feature = "_tls")]
        if connection.is_shaking_hands() {
            return Self::Handshakes;
        }
        if connection.is_closing() { Self::Closing } else { Self::Waiting }
    }
}

#[derive(Default)]
pub(crate) struct Backlog {
    /// Connections that wait to be read, in the order in which they are served.
    waiting: VecDeque<Token>,
    /// The same for connections whose TLS handshake is not complete.
    #[cfg(feature = "_tls")]
    handshakes: VecDeque<Token>,
    /// The same for connections behind our close frame or response: they are read last.
    closing: VecDeque<Token>,
    /// Only a connection of one of these lists has a rest.
    rests: HashMap<Token, Rest>,
    /// The memory of the rests, in bytes.
    kept: usize,
    /// Listeners that may have more connections.
    accepting: Vec<usize>,
    /// Whether other threads have sent commands.
    commands: bool,
    /// Whether other loops have sent letters.
    letters: bool,
    /// Whether the connection of the bus has something to read, or to do.
    #[cfg(feature = "redis")]
    bus: bool,
    /// Whether the poll may have more events than were taken.
    events: bool,
}

impl Backlog {
    /// Whether there is nothing to do without waiting.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_connections() && !self.has_others() && !self.events
    }

    /// Whether connections wait to be read.
    #[inline]
    pub(crate) fn has_connections(&self) -> bool {
        #[cfg(feature = "_tls")]
        if !self.handshakes.is_empty() {
            return true;
        }
        !self.waiting.is_empty() || !self.closing.is_empty()
    }

    /// Whether listeners or other threads wait.
    #[inline]
    pub(crate) fn has_others(&self) -> bool {
        self.commands || self.letters || !self.accepting.is_empty()
    }

    // Connections.

    /// The number of waiting connections that are neither closing nor in a TLS handshake.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn push(&mut self, token: Token, queue: Queue) {
        match queue {
            Queue::Waiting => self.waiting.push_back(token),
            #[cfg(feature = "_tls")]
            Queue::Handshakes => self.handshakes.push_back(token),
            Queue::Closing => self.closing.push_back(token),
        }
    }

    pub(crate) fn pop_waiting(&mut self) -> Option<Token> {
        pop(&mut self.waiting)
    }

    #[cfg(feature = "_tls")]
    pub(crate) fn pop_handshake(&mut self) -> Option<Token> {
        pop(&mut self.handshakes)
    }

    pub(crate) fn pop_closing(&mut self) -> Option<Token> {
        pop(&mut self.closing)
    }

    pub(crate) fn keep(&mut self, token: Token, rest: Rest) {
        self.kept += rest.bytes.capacity();
        self.rests.insert(token, rest);
    }

    pub(crate) fn take_rest(&mut self, token: Token) -> Option<Rest> {
        // Most of the time there is none, and a look-up would hash the token.
        if self.rests.is_empty() {
            return None;
        }
        let rest = self.rests.remove(&token)?;
        self.kept -= rest.bytes.capacity();
        if self.rests.is_empty() {
            self.rests = HashMap::new();
        }
        Some(rest)
    }

    /// The memory of the rests, in bytes.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    // Listeners, other threads, the poll.

    /// Makes a listener accept. It has one share of a turn, also if it was left from the previous
    /// turn.
    pub(crate) fn push_listener(&mut self, listener: usize) {
        if !self.accepting.contains(&listener) {
            self.accepting.push(listener);
        }
    }

    pub(crate) fn take_listeners(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.accepting)
    }

    pub(crate) fn push_commands(&mut self) {
        self.commands = true;
    }

    pub(crate) fn push_letters(&mut self) {
        self.letters = true;
    }

    #[cfg(feature = "redis")]
    pub(crate) fn push_bus(&mut self) {
        self.bus = true;
        // So that nothing else has to be looked at in each turn.
        self.letters = true;
    }

    #[cfg(feature = "redis")]
    pub(crate) fn take_bus(&mut self) -> bool {
        std::mem::take(&mut self.bus)
    }

    pub(crate) fn take_letters(&mut self) -> bool {
        std::mem::take(&mut self.letters)
    }

    pub(crate) fn take_commands(&mut self) -> bool {
        std::mem::take(&mut self.commands)
    }

    /// Notes whether the poll may have more events than were taken.
    #[inline]
    pub(crate) fn set_events(&mut self, more: bool) {
        self.events = more;
    }
}

/// Takes the first entry. A list that had many and has none is freed: it may lie behind the memory
/// of the connections that have ended, and keep the allocator from giving that back.
fn pop(list: &mut VecDeque<Token>) -> Option<Token> {
    let token = list.pop_front();
    if list.is_empty() && list.capacity() > KEEP_ENTRIES {
        *list = VecDeque::new();
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_rest_is_counted_as_long_as_it_is_kept() {
        let [ann, bob] = [0, 1].map(|index| Token { index, generation: 0 });
        let mut backlog = Backlog::default();
        assert_eq!(backlog.kept(), 0);
        for (token, len) in [(ann, 100), (bob, 2000)] {
            backlog.keep(token, Rest { bytes: vec![0; len], from: 50 });
        }
        assert_eq!(backlog.kept(), 2100);
        for left in [2000, 2000] {
            backlog.take_rest(ann);
            assert_eq!(backlog.kept(), left);
        }
        backlog.take_rest(bob);
        assert_eq!(backlog.kept(), 0);
    }
}
