//! Which other nodes live, by when each was last heard, and when the own heartbeat is due.
//!
//! It knows no clock: every time is an argument, in milliseconds of any clock that does not go
//! back. It knows no channel, and nothing of what a node says.

use std::collections::HashMap;

/// The time between two heartbeats of a node, in milliseconds: this, and up to a quarter more at
/// random, so that nodes that came up together do not send together for ever.
const HEARTBEAT: u64 = 2000;
const JITTER: u64 = HEARTBEAT / 4;
/// A new node learns of this one within this time, in milliseconds.
const WELCOME: u64 = 250;
/// A node that was silent for this time is gone, in milliseconds: at least three of its heartbeats
/// are missing.
const SILENCE: u64 = 10_000;
/// The time between two searches for silent nodes, in milliseconds. So no deadline is kept for each
/// node, and a message changes one number.
const SEARCH: u64 = 1000;
/// A search that comes later than this was held up, in milliseconds, and so was what should have
/// been heard.
const LATE: u64 = 1000;

/// The other nodes, by their numbers.
///
/// It begins without a bus, as after [`down`](Self::down). After [`up`](Self::up) a node is
/// announced once by [`next_gone`](Self::next_gone), between 10 and 12 seconds after it was last
/// heard, if the loop is turned at each [`next_deadline`](Self::next_deadline).
#[derive(Debug)]
pub(crate) struct Nodes {
    /// When each node was last heard.
    heard: HashMap<u64, u64>,
    /// The last entry of the above that was written, because messages of one node often come
    /// together.
    last: Option<(u64, u64)>,
    /// While the own bus is up.
    due: Option<Due>,
    random: u64,
}

/// What is due when.
#[derive(Clone, Copy, Debug)]
struct Due {
    heartbeat: u64,
    search: u64,
    /// Whether the last search was delayed.
    is_delayed: bool,
}

impl Nodes {
    /// `seed` is any number, another one for each node: it spreads their heartbeats.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            heard: HashMap::new(),
            last: None,
            due: None,
            // xorshift needs a number other than zero.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// A message of this node has come. Returns whether the node was not known.
    pub(crate) fn heard(&mut self, node: u64, now: u64) -> bool {
        if self.last == Some((node, now)) {
            return false;
        }
        self.last = Some((node, now));
        let is_new = self.heard.insert(node, now).is_none();
        if is_new {
            // The new node does not know this one. All others have the same reason to speak. One
            // heartbeat is for all that come until then: the least of many random times would be
            // at once, again and again.
            let soon = now + self.random() % WELCOME;
            if let Some(due) = &mut self.due
                && due.heartbeat > now + WELCOME
            {
                due.heartbeat = soon;
            }
        }
        is_new
    }

    /// A node says that it ends. Returns whether it was known.
    pub(crate) fn left(&mut self, node: u64) -> bool {
        self.last = None;
        self.heard.remove(&node).is_some()
    }

    /// The own bus is up: from now on nodes may be gone. The silence of all begins now, and a
    /// heartbeat is due.
    pub(crate) fn up(&mut self, now: u64) {
        self.heard.values_mut().for_each(|heard| *heard = now);
        self.due = Some(Due { heartbeat: now, search: now + SEARCH, is_delayed: false });
    }

    /// The own bus is down: no node can be heard, so none is gone.
    pub(crate) fn down(&mut self) {
        self.due = None;
    }

    /// Whether to send a heartbeat. If so, the next one is due later.
    pub(crate) fn is_heartbeat_due(&mut self, now: u64) -> bool {
        if self.due.is_none_or(|due| due.heartbeat > now) {
            return false;
        }
        let next = now + HEARTBEAT + self.random() % (JITTER + 1);
        if let Some(due) = &mut self.due {
            due.heartbeat = next;
        }
        true
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// A node that was silent for too long; it is forgotten. Call it until it returns `None`, after
    /// what has come was read.
    ///
    /// A search that was held up is delayed once: after a stop of the process a turn may have no
    /// budget for all that has come meanwhile. It is not delayed twice in a row, because a loop may
    /// be late all the time.
    pub(crate) fn next_gone(&mut self, now: u64) -> Option<u64> {
        let due = self.due.as_mut().filter(|due| due.search <= now)?;
        if now - due.search > LATE && !due.is_delayed {
            due.is_delayed = true;
            due.search = now + SEARCH;
            return None;
        }
        let is_silent = |_: &u64, heard: &mut u64| *heard + SILENCE <= now;
        if let Some((node, _)) = self.heard.extract_if(is_silent).next() {
            // The next call goes on with the same search.
            return Some(node);
        }
        due.is_delayed = false;
        due.search = now + SEARCH;
        None
    }

    /// When to ask for a heartbeat and for nodes that are gone; `None` while the own bus is down.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.due.map(|due| due.heartbeat.min(due.search))
    }

    pub(crate) fn lives(&self, node: u64) -> bool {
        self.heard.contains_key(&node)
    }

    /// The nodes that live, in no order.
    pub(crate) fn live(&self) -> impl Iterator<Item = u64> {
        self.heard.keys().copied()
    }

    /// The number of nodes that live.
    pub(crate) fn len(&self) -> usize {
        self.heard.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A loop in virtual time: it is turned at each deadline, and at no other time.
    struct Loop {
        nodes: Nodes,
        now: u64,
        heartbeats: Vec<u64>,
        /// Which node was announced, and when.
        gone: Vec<(u64, u64)>,
    }

    impl Loop {
        /// A loop whose bus is up.
        fn up(seed: u64, now: u64) -> Self {
            let mut nodes = Nodes::new(seed);
            nodes.up(now);
            Self { nodes, now, heartbeats: Vec::new(), gone: Vec::new() }
        }

        fn turn(&mut self) {
            if self.nodes.is_heartbeat_due(self.now) {
                self.heartbeats.push(self.now);
            }
            while let Some(node) = self.nodes.next_gone(self.now) {
                self.gone.push((node, self.now));
            }
            let next = self.nodes.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "{next:?} at {}", self.now);
        }

        fn run_until(&mut self, end: u64) {
            while let Some(next) = self.nodes.next_deadline().filter(|&next| next <= end) {
                self.now = next.max(self.now);
                self.turn();
            }
            self.now = end;
        }

        fn hear(&mut self, node: u64) -> bool {
            self.nodes.heard(node, self.now)
        }

        fn live(&self) -> BTreeSet<u64> {
            let live: BTreeSet<u64> = self.nodes.live().collect();
            assert_eq!(live.len(), self.nodes.len());
            live
        }
    }

    #[test]
    fn a_new_node_is_told_of_this_one_within_a_quarter_of_a_second() {
        for seed in 0..100 {
            let mut looping = Loop::up(seed, 0);
            looping.run_until(100);
            assert_eq!(looping.heartbeats.len(), 1);
            looping.hear(7);
            looping.run_until(100 + WELCOME);
            assert_eq!(looping.heartbeats.len(), 2, "for the new node");
            looping.hear(7);
            looping.run_until(100 + WELCOME + 1000);
            assert_eq!(looping.heartbeats.len(), 2, "it is not new any more");
        }
    }

    #[test]
    fn nodes_that_come_without_end_are_told_by_few_heartbeats() {
        for seed in 0..10 {
            let mut looping = Loop::up(seed, 0);
            for now in 0..2000 {
                looping.run_until(now);
                (0..10).for_each(|node| _ = looping.hear(now * 10 + node));
            }
            // One each 125 ms, on the average.
            let heartbeats = looping.heartbeats.len();
            assert!((8..=40).contains(&heartbeats), "{heartbeats} in 2 s");
            let waits = looping.heartbeats.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(waits.max() <= Some(WELCOME), "a new node is told within {WELCOME} ms");
        }
    }

    #[test]
    fn a_silent_node_is_announced_once_after_10_and_within_12_seconds() {
        for seed in 0..100 {
            let mut looping = Loop::up(seed, 5);
            let mut last_heard = Vec::new();
            // Every node falls silent at another time, up to a search's period apart.
            for node in 0..200 {
                looping.run_until(5 + node * 7);
                assert!(looping.hear(node));
                last_heard.push(looping.now);
            }
            looping.run_until(60_000);
            assert_eq!(looping.gone.len(), 200);
            for &(node, at) in &looping.gone {
                let silence = at - last_heard[node as usize];
                assert!((10_000..=12_000).contains(&silence), "{node} after {silence} ms");
            }
            let announced: BTreeSet<u64> = looping.gone.iter().map(|(node, _)| *node).collect();
            assert_eq!(announced.len(), 200);
            assert_eq!(looping.nodes.len(), 0);
        }
    }

    #[test]
    fn a_node_that_is_heard_lives() {
        let mut looping = Loop::up(1, 0);
        for now in (0..100_000).step_by(9_999) {
            looping.run_until(now);
            // Several messages of two nodes in one turn: the first of each makes it known.
            let is_first = now == 0;
            let known = [7, 7, 8, 7].map(|node| looping.hear(node));
            assert_eq!(known, [is_first, false, is_first, false]);
        }
        assert_eq!(looping.gone, []);
        assert_eq!(looping.live(), [7, 8].into());
    }

    #[test]
    fn none_is_announced_while_the_own_bus_is_down_and_silence_begins_at_up() {
        let mut looping = Loop::up(1, 0);
        assert!(looping.hear(7));
        looping.run_until(9_900);
        looping.nodes.down();
        assert_eq!(looping.nodes.next_deadline(), None);
        for now in (9_900..40_000).step_by(100) {
            looping.now = now;
            looping.turn();
        }
        assert_eq!((looping.gone.len(), looping.live()), (0, [7].into()));
        let heartbeats = looping.heartbeats.len();

        looping.nodes.up(40_000);
        looping.run_until(40_000);
        assert_eq!(looping.heartbeats.len(), heartbeats + 1, "a heartbeat is due at once");
        looping.run_until(49_999);
        assert_eq!(looping.gone, []);
        looping.run_until(52_000);
        assert_eq!(looping.gone.len(), 1);
    }

    #[test]
    fn nothing_is_due_before_the_bus_is_up_for_the_first_time() {
        let mut nodes = Nodes::new(1);
        assert!(nodes.heard(7, 0));
        assert_eq!(nodes.next_deadline(), None);
        assert!(!nodes.is_heartbeat_due(60_000));
        assert_eq!(nodes.next_gone(60_000), None);
    }

    #[test]
    fn a_node_that_returns_is_live_again_and_can_be_gone_again() {
        let mut looping = Loop::up(1, 0);
        assert!(looping.hear(7));
        looping.run_until(20_000);
        assert_eq!((looping.gone.len(), looping.live()), (1, [].into()));
        assert!(looping.hear(7));
        assert_eq!(looping.live(), [7].into());
        looping.run_until(40_000);
        assert_eq!(looping.gone.len(), 2);

        // In the very millisecond in which it was gone, and in which it has left.
        assert!(looping.hear(8));
        assert!(looping.nodes.left(8));
        assert!(looping.hear(8));
        assert!(!looping.hear(8));
        assert_eq!(looping.live(), [8].into());
        let mut nodes = Nodes::new(1);
        nodes.up(0);
        nodes.heard(9, 0);
        nodes.next_gone(10_000);
        assert_eq!(nodes.next_gone(11_000), Some(9));
        assert!(nodes.heard(9, 11_000));
        assert_eq!(nodes.next_gone(11_000), None);
    }

    #[test]
    fn a_node_that_has_left_is_not_announced() {
        let mut looping = Loop::up(1, 0);
        looping.hear(7);
        assert!(looping.nodes.left(7));
        assert!(!looping.nodes.left(7), "it has left");
        assert!(!looping.nodes.left(8), "it was never heard");
        looping.run_until(60_000);
        assert_eq!((looping.gone.len(), looping.live()), (0, [].into()));
    }

    #[test]
    fn a_loop_that_was_stopped_hears_first_and_one_always_late_announces() {
        let mut looping = Loop::up(1, 0);
        looping.hear(7);
        looping.hear(8);
        looping.run_until(1_000);
        looping.now = 31_000;
        looping.turn();
        assert_eq!(looping.gone, [], "its messages may wait to be read");
        looping.hear(7);
        looping.hear(8);
        looping.run_until(40_000);
        assert_eq!(looping.gone, []);

        // Each turn lasts 2.5 seconds.
        for _ in 0..6 {
            looping.now += 2_500;
            looping.turn();
        }
        assert_eq!(looping.gone.len(), 2);
        assert_eq!(looping.gone[0].1, looping.gone[1].1, "one search finds both");
    }

    #[test]
    fn heartbeats_are_2_to_2_5_seconds_apart_and_those_of_nodes_spread() {
        let mut second_beats = BTreeSet::new();
        for seed in 0..100 {
            let mut looping = Loop::up(seed, 1_000);
            looping.run_until(101_000);
            assert_eq!(looping.heartbeats[0], 1_000);
            for pair in looping.heartbeats.windows(2) {
                assert!((2_000..=2_500).contains(&(pair[1] - pair[0])), "{pair:?}");
            }
            second_beats.insert(looping.heartbeats[1] / 50);
        }
        // The tenths of the quarter by which they differ.
        assert!(second_beats.len() >= 10, "{second_beats:?}");
    }

    #[test]
    fn a_late_loop_sends_one_heartbeat_and_no_row_of_them() {
        let mut looping = Loop::up(1, 0);
        looping.run_until(0);
        looping.now = 60_000;
        looping.turn();
        looping.turn();
        assert_eq!(looping.heartbeats, [0, 60_000]);
    }
}
