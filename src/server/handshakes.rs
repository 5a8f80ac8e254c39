//! The time that TLS handshakes take in one turn. Each costs as much as hundreds of messages, and
//! the clients decide how many there are.

use std::time::Duration;

use crate::token::Token;

pub(super) struct Handshakes {
    /// The most time in one turn ([`Builder::handshake_time`](crate::Builder::handshake_time)).
    most: Duration,
    spent: Duration,
    /// Connections whose handshake continues in the next turn.
    later: Vec<Token>,
}

impl Handshakes {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, spent: Duration::ZERO, later: Vec::new() }
    }

    /// Whether a handshake may continue in this turn. Otherwise it is noted for the next one. One
    /// may always continue, however long it takes.
    pub(super) fn begin(&mut self, token: Token) -> bool {
        let may = self.spent < self.most || self.spent == Duration::ZERO;
        if !may {
            self.later.push(token);
        }
        may
    }

    pub(super) fn spend(&mut self, time: Duration) {
        self.spent += time;
    }

    /// Ends the turn; returns the connections whose handshake continues in the next one.
    pub(super) fn end(&mut self) -> Vec<Token> {
        self.spent = Duration::ZERO;
        std::mem::take(&mut self.later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_behind_the_time_of_a_turn_continue_in_the_next() {
        let tokens = [0, 1, 2].map(|index| Token { index, generation: 0 });
        let mut handshakes = Handshakes::new(Duration::from_millis(2));
        for _ in 0..2 {
            assert!(handshakes.begin(tokens[0]));
            handshakes.spend(Duration::from_millis(1));
            assert!(handshakes.begin(tokens[0]), "half of the time is left");
            handshakes.spend(Duration::from_millis(1));
            assert!(!handshakes.begin(tokens[1]));
            assert!(!handshakes.begin(tokens[2]));
            assert_eq!(handshakes.end(), tokens[1..]);
            assert!(handshakes.end().is_empty());
        }
    }

    #[test]
    fn one_handshake_continues_however_little_time_there_is() {
        let token = Token { index: 0, generation: 0 };
        let mut handshakes = Handshakes::new(Duration::ZERO);
        for _ in 0..2 {
            assert!(handshakes.begin(token));
            handshakes.spend(Duration::from_millis(100));
            assert!(!handshakes.begin(token));
            assert_eq!(handshakes.end(), [token]);
        }
    }
}
