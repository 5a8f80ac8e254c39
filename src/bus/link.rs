//! One loop's end of the lanes to and from the others.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::batch::{Batch, Letter, Ready, To, cost_of};
#[cfg(feature = "redis")]
use super::event::BusEvent;
#[cfg(feature = "redis")]
use super::figures::BusStats;
use super::loop_set::LoopSet;
use super::post::{HandedOver, Post, Seat};

/// What went between a loop and the others, since the server was built: [`Stats::loops`].
///
/// [`Stats::loops`]: crate::Stats::loops
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopStats {
    /// Messages, events, closes, questions and answers that were queued for other loops, one for
    /// each loop. With a bus, also news of other servers.
    pub queued: u64,
    /// Those that came from other loops and were handled.
    pub received: u64,
    /// Those that were refused because the queue of the other loop was full, and those that were
    /// queued and dropped because that loop had ended; one for each loop.
    pub refused: u64,
    /// Messages for this loop that were refused: the sum of all [gaps](crate::BusEvent::Gap).
    pub lost: u64,
    /// Sockets that this loop has accepted and handed to other loops.
    pub handed_over: u64,
    /// Turns that have lasted more than 5 s.
    pub long_turns: u64,
}

/// The time, in milliseconds, after which a gap is logged again.
const QUIET: u64 = 60_000;

/// One loop's end of all lanes.
pub(crate) struct Link {
    index: u16,
    post: Arc<Post>,
    outgoing: Box<[Outgoing]>,
    /// The loops for which letters wait for the end of the turn.
    unsent: LoopSet,
    /// The loops that have got sockets and are not woken for them yet. If each socket woke its loop
    /// at once, a loop on the same core would run for each of them.
    unwoken: LoopSet,
    /// What was taken from the lanes, by sender.
    reading: Box<[Batch]>,
    unread: LoopSet,
    /// Lanes have letters that were not taken.
    untaken: bool,
    sockets: VecDeque<HandedOver>,
    /// The start of this loop's clock on the clock of all, in milliseconds.
    clock_began: u64,
    /// Scratch of an accept.
    by_load: Vec<(bool, usize, u16)>,
    /// When the log has last had a line about a gap.
    gap_logged_at: Option<u64>,
    stats: LoopStats,
    /// What this loop has for other servers, if it holds the connection.
    #[cfg(feature = "redis")]
    pub(super) outward: Batch,
    #[cfg(feature = "redis")]
    pub(super) bus_stats: BusStats,
}

/// The lane to one loop, at this end.
#[derive(Default)]
struct Outgoing {
    batch: Batch,
    /// The bytes that were put in so far.
    put: u64,
}

impl Seat {
    /// Takes the place; `None` if another server has it. The clock shows `now`.
    pub(crate) fn sit(&self, waker: Arc<mio::Waker>, now: u64) -> Option<Link> {
        let Self { post, index } = self;
        let count = post.len();
        post.sit(*index, waker).then(|| Link {
            index: *index,
            post: post.clone(),
            outgoing: (0..count).map(|_| Outgoing::default()).collect(),
            unsent: LoopSet::default(),
            unwoken: LoopSet::default(),
            reading: (0..count).map(|_| Batch::default()).collect(),
            unread: LoopSet::default(),
            untaken: false,
            sockets: VecDeque::new(),
            clock_began: post.elapsed().saturating_sub(now),
            by_load: Vec::with_capacity(count),
            gap_logged_at: None,
            stats: LoopStats::default(),
            #[cfg(feature = "redis")]
            outward: Batch::default(),
            #[cfg(feature = "redis")]
            bus_stats: BusStats::default(),
        })
    }

    /// The first local member of a topic has joined.
    pub(crate) fn first_joined(&self, hash: u64, topic: &str) {
        if self.post.interest.begin(hash, topic, self.index) {
            self.post.look_at_topic(self.index, topic);
        }
    }

    /// The last local member of a topic has left.
    pub(crate) fn last_left(&self, hash: u64, topic: &str) {
        if self.post.interest.end(hash, topic, self.index) {
            self.post.look_at_topic(self.index, topic);
        }
    }

    /// The hash that all loops have for topics, so that a message carries it to them.
    pub(crate) fn topic_hasher(&self) -> RandomState {
        self.post.interest.hasher.clone()
    }
}

impl Link {
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn post(&self) -> &Arc<Post> {
        &self.post
    }

    // Uuids and topics.

    /// A uuid for a new connection.
    pub(crate) fn name(&self, random: u128) -> Uuid {
        self.post.identity.name(self.index, random)
    }

    /// The loop whose connection has this uuid, or had it.
    pub(crate) fn home(&self, uuid: Uuid) -> Option<u16> {
        self.post.home(uuid)
    }

    /// The loop that this run has given the uuid to.
    pub(crate) fn given_by(&self, uuid: Uuid) -> Option<u16> {
        self.post.identity.loop_of(uuid)
    }

    /// Takes a uuid that the program sets; returns `false` if a connection of any loop has it.
    pub(crate) fn take_uuid(&self, uuid: Uuid) -> bool {
        if self.given_by(uuid) == Some(self.index) {
            return true;
        }
        let is_free = self.post.set_uuids.insert(uuid, self.index);
        if is_free {
            self.post.look_at_uuid(self.index, uuid);
        }
        is_free
    }

    /// A connection does not have this uuid any more.
    pub(crate) fn leave_uuid(&self, uuid: Uuid) {
        if self.given_by(uuid) != Some(self.index) && self.post.set_uuids.remove(uuid, self.index) {
            self.post.look_at_uuid(self.index, uuid);
        }
    }

    /// The loops that have members of a topic, this one included.
    pub(crate) fn loops_of(&self, hash: u64, topic: &str) -> LoopSet {
        self.post.interest.loops(hash, topic)
    }

    /// All other loops that have not ended.
    pub(crate) fn others(&self) -> LoopSet {
        self.post.alive().without(self.index)
    }

    // Letters to other loops.

    /// Queues a message; returns `false` if there is no room for it.
    pub(crate) fn send_message(
        &mut self,
        index: u16,
        to: To,
        text: &str,
        message: &Ready<'_>,
    ) -> bool {
        let list = match &to {
            To::List(uuids) => size_of_val(&uuids[..]),
            #[cfg(feature = "redis")]
            To::Here(uuids) => size_of_val(&uuids[..]),
            _ => 0,
        };
        let cost = cost_of(text, list + message.payload.len());
        let has_room = self.take_room(index, cost, self.post.limit);
        let lane = self.open(index);
        if has_room {
            lane.push_message(to, text, message, cost);
        } else {
            lane.push_gap(1);
        }
        has_room
    }

    /// Queues the close of a connection; returns `false` if there is no room for it.
    pub(crate) fn send_close(&mut self, index: u16, letter: Letter, reason: &str) -> bool {
        let cost = cost_of(reason, 0);
        let has_room = self.take_room(index, cost, self.post.limit);
        let lane = self.open(index);
        if has_room {
            lane.push(letter, reason, cost);
        } else {
            lane.push_gap(1);
        }
        has_room
    }

    /// Queues a question or an answer; returns `false` if there is no room for it. The loop that
    /// asks notices that by itself, so no gap is noted.
    pub(crate) fn exchange(&mut self, index: u16, letter: Letter, text: &str) -> bool {
        let more = match &letter {
            Letter::Answer { answer, .. } => answer.len(),
            #[cfg(feature = "redis")]
            Letter::NodeAnswer { answer, .. } => answer.len(),
            _ => 0,
        };
        let cost = cost_of(text, more);
        let has_room = self.take_room(index, cost, self.post.limit);
        if has_room {
            self.open(index).push(letter, text, cost);
        }
        has_room
    }

    /// Queues news of other servers for one loop. They have as much room again as messages, so a
    /// queue that is full of messages refuses none. Returns `false` if there is no room: only a
    /// program that publishes news without end gets there.
    #[cfg(feature = "redis")]
    pub(crate) fn tell(&mut self, index: u16, letter: Letter) -> bool {
        let topic = match &letter {
            Letter::Bus(BusEvent::Gap { topic: Some(topic), .. }) => topic.len(),
            _ => 0,
        };
        let cost = cost_of("", topic);
        let has_room = self.take_room(index, cost, 2 * self.post.limit);
        if has_room {
            self.open(index).push(letter, "", cost);
        }
        has_room
    }

    /// Queues the news that messages of other servers are missing. Without room for it, they are
    /// missing as those that this loop could not queue.
    #[cfg(feature = "redis")]
    pub(crate) fn tell_gap(&mut self, index: u16, gap: BusEvent, lost: u64) {
        if !self.tell(index, Letter::Bus(gap)) {
            self.open(index).push_gap(lost);
        }
    }

    /// Queues a letter for all other loops, whatever waits there.
    pub(crate) fn tell_all(&mut self, text: &str, letter: impl Fn() -> Letter) {
        for index in self.others().iter() {
            self.open(index).push(letter(), text, 0);
        }
    }

    /// The batch for a loop, which is handed over at the end of the turn.
    pub(super) fn open(&mut self, index: u16) -> &mut Batch {
        self.unsent.insert(index);
        &mut self.outgoing[usize::from(index)].batch
    }

    /// Takes the room for a letter of this cost in a lane, if it does not exceed the limit then.
    fn take_room(&mut self, index: u16, cost: usize, limit: usize) -> bool {
        let mailbox = self.post.mailbox(index);
        let handled = mailbox.handled[usize::from(self.index)].0.load(Ordering::Acquire);
        let lane = &mut self.outgoing[usize::from(index)];
        let held = (lane.put - handled) as usize;
        // A letter that is longer than the limit may wait alone.
        let has_room = held == 0 || held + cost <= limit;
        if has_room {
            lane.put += cost as u64;
            self.stats.queued += 1;
        } else {
            self.stats.refused += 1;
        }
        has_room
    }

    /// Whether letters wait for the end of the turn.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Hands all letters over: for each loop one lock, and at most one wake.
    pub(crate) fn hand_over(&mut self) {
        for to in std::mem::take(&mut self.unsent).iter() {
            let lane = &mut self.outgoing[usize::from(to)];
            let dropped = self.post.hand_over(self.index, to, &mut lane.batch);
            self.stats.refused += dropped as u64;
        }
    }

    /// Wakes the loops that have got sockets.
    pub(crate) fn wake_others(&mut self) {
        for to in std::mem::take(&mut self.unwoken).iter() {
            self.post.wake(to);
        }
    }

    // Sockets.

    /// Hands an accepted socket to the loop with the fewest connections that has room for it;
    /// returns it if that is this one.
    pub(crate) fn assign(&mut self, mut socket: HandedOver) -> Option<HandedOver> {
        let mut by_load = std::mem::take(&mut self.by_load);
        self.post.by_load(&mut by_load);
        let mut own = None;
        for &(.., index) in &by_load {
            if index == self.index {
                self.post.mailbox(index).add_load(1);
                own = Some(socket);
                break;
            }
            match self.post.hand_over_socket(index, socket) {
                Ok(wake) => {
                    if wake {
                        self.unwoken.insert(index);
                    }
                    self.stats.handed_over += 1;
                    break;
                }
                Err(refused) => socket = refused,
            }
        }
        self.by_load = by_load;
        own
    }

    /// Connections of this loop have begun otherwise.
    #[cfg(feature = "testing")]
    pub(crate) fn connections_began(&self, connections: usize) {
        self.post.mailbox(self.index).add_load(connections);
    }

    /// Connections of this loop have ended.
    pub(crate) fn connections_ended(&self, connections: usize) {
        self.post.mailbox(self.index).take_load(connections);
    }

    // What comes from other loops.

    /// Takes what was handed over, under one lock. From a lane whose last letters are not all
    /// handled yet, nothing is taken.
    pub(crate) fn collect(&mut self) {
        let mut incoming = self.post.mailbox(self.index).lock();
        for from in incoming.ready.iter() {
            if !self.unread.contains(from) {
                let lane = usize::from(from);
                std::mem::swap(&mut self.reading[lane], &mut incoming.lanes[lane]);
                self.unread.insert(from);
                incoming.ready.remove(from);
            }
        }
        self.sockets.append(&mut incoming.sockets);
        // The loop comes back for what is left there, without being woken.
        self.untaken = !incoming.ready.is_empty();
        incoming.awake = self.untaken;
    }

    pub(crate) fn next_socket(&mut self) -> Option<HandedOver> {
        self.sockets.pop_front()
    }

    /// The loops whose letters are not all handled.
    pub(crate) fn unread(&self) -> LoopSet {
        self.unread
    }

    /// Takes the letters of one loop, to handle them. They come back by
    /// [`put_back`](Self::put_back).
    pub(crate) fn take_letters(&mut self, from: u16) -> Batch {
        std::mem::take(&mut self.reading[usize::from(from)])
    }

    /// Notes that this number of letters, of this cost in all, were handled; the others come back.
    pub(crate) fn put_back(&mut self, from: u16, mut letters: Batch, count: u64, cost: usize) {
        self.stats.received += count;
        let handled = &self.post.mailbox(self.index).handled[usize::from(from)].0;
        // No other thread writes to it.
        handled.store(handled.load(Ordering::Relaxed) + cost as u64, Ordering::Release);
        if letters.is_empty() {
            letters.clear(self.post.keep);
            self.unread.remove(from);
        }
        self.reading[usize::from(from)] = letters;
    }

    /// Whether there is something that is not handled yet, and for which nothing wakes the loop.
    pub(crate) fn is_behind(&self) -> bool {
        self.untaken || !self.unread.is_empty() || !self.sockets.is_empty()
    }

    /// Counts what this loop was refused; returns whether that is to be logged now.
    pub(crate) fn count_lost(&mut self, lost: u64, now: u64) -> bool {
        self.stats.lost = self.stats.lost.saturating_add(lost);
        let is_due = self.gap_logged_at.is_none_or(|last| now.saturating_sub(last) >= QUIET);
        if is_due {
            self.gap_logged_at = Some(now);
        }
        is_due
    }

    pub(crate) fn stats(&self) -> LoopStats {
        LoopStats { long_turns: self.post.long_turns(self.index), ..self.stats }
    }

    // The watch over turns.

    /// The loop has waited, until this time on its clock.
    #[inline]
    pub(crate) fn turn_begins(&self, now: u64) {
        self.post.mailbox(self.index).set_busy(Some(self.clock_began + now));
    }

    #[inline]
    pub(crate) fn turn_ends(&self) {
        self.post.mailbox(self.index).set_busy(None);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A loop that ends in the middle of a turn may not have done it.
        self.wake_others();
        self.post.end(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use mio::{Events, Poll, Token, Waker};

    use super::super::batch::Opened;
    #[cfg(feature = "redis")]
    use super::super::{event::GapFrom, node::Node};
    use super::*;
    use crate::outbox::Outgoing as Message;
    use crate::protocol::CloseCode;

    const WAKE: Token = Token(0);

    /// A link and the poll that other links wake.
    struct Place {
        link: Link,
        poll: Poll,
    }

    fn place(post: &Arc<Post>, index: u16) -> Place {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).unwrap());
        let link = Seat { post: post.clone(), index }.sit(waker, 0).unwrap();
        Place { link, poll }
    }

    fn places<const N: usize>(limit: usize) -> [Place; N] {
        let post = Post::new(N, limit, 1);
        std::array::from_fn(|index| place(&post, index as u16))
    }

    impl Place {
        /// Whether this link was woken since the last call.
        fn was_woken(&mut self) -> bool {
            self.is_woken_within(Duration::ZERO)
        }

        fn is_woken_within(&mut self, time: Duration) -> bool {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(time)).unwrap();
            !events.is_empty()
        }

        /// Queues a message for one loop; returns whether it had room.
        fn publish(&mut self, to: u16, topic: &str, payload: &str) -> bool {
            let message = Message::from(payload);
            self.link.send_message(to, To::Topic(0), topic, &Ready::new(&message).share())
        }

        /// Handles letters of one loop, at most this many. Returns those that were handled.
        fn read(&mut self, from: u16, most: usize) -> Vec<String> {
            let mut read = Vec::new();
            let mut letters = self.link.take_letters(from);
            let (mut count, mut cost) = (0, 0);
            for _ in 0..most {
                let Some(letter) = letters.next() else { break };
                count += u64::from(letter.cost > 0);
                cost += letter.cost;
                read.push(told(&letter));
            }
            self.link.put_back(from, letters, count, cost);
            read
        }
    }

    fn told(opened: &Opened<'_>) -> String {
        match &opened.letter {
            Letter::Gap(lost) => format!("gap {lost}"),
            Letter::Message(_, content) => {
                let payload = opened.ready(content).payload;
                format!("{}:{}", opened.text, str::from_utf8(payload).unwrap())
            }
            _ => opened.text.to_owned(),
        }
    }

    /// A letter that has room in any case.
    fn shutdown() -> Letter {
        Letter::Shutdown { code: CloseCode::NORMAL, spread: 0, deadline: 0, again: false }
    }

    #[test]
    fn letters_are_handed_over_with_one_wake_and_come_in_their_order() {
        let [mut a, mut b] = places(4096);
        for text in ["one", "two", "three"] {
            assert!(a.publish(1, text, ""));
        }
        assert!(a.link.has_unsent() && !b.was_woken());
        a.link.hand_over();
        assert!(!a.link.has_unsent() && b.was_woken());
        a.publish(1, "four", "");
        a.link.hand_over();
        assert!(!b.was_woken(), "it has not looked since it was woken");
        b.link.collect();
        assert_eq!(b.link.unread().iter().collect::<Vec<_>>(), [0]);
        assert_eq!(b.read(0, 9), ["one:", "two:", "three:", "four:"]);
        assert!(!b.link.is_behind());
        a.publish(1, "five", "");
        a.link.hand_over();
        assert!(b.was_woken(), "it has looked");
    }

    #[test]
    fn a_link_is_behind_while_something_is_left_in_its_mailbox() {
        let [mut a, mut b] = places(4096);
        a.publish(1, "one", "");
        a.publish(1, "two", "");
        a.link.hand_over();
        b.link.collect();
        assert_eq!(b.read(0, 1), ["one:"]);
        a.publish(1, "three", "");
        a.link.hand_over();
        // The rest of the first letters has to be handled before the next are taken.
        b.link.collect();
        assert_eq!(b.read(0, 9), ["two:"]);
        assert!(b.link.is_behind(), "`three` waits, and nothing will wake the loop for it");
        b.link.collect();
        assert_eq!(b.read(0, 9), ["three:"]);
        assert!(!b.link.is_behind());
    }

    #[test]
    fn letters_are_whole_after_the_last_one_was_all_that_a_turn_could_handle() {
        let [mut a, mut b] = places(4096);
        // Each batch is used in turn: by the sender, in the mailbox, and by the receiver.
        for round in 0..10 {
            for letter in ["one", "two", "three"] {
                assert!(a.publish(1, letter, &format!("{letter} of {round}")));
                a.link.hand_over();
            }
            b.link.collect();
            // Exactly as many as there are: the end of the batch is not looked for.
            let expected = ["one", "two", "three"].map(|each| format!("{each}:{each} of {round}"));
            assert_eq!(b.read(0, 3), expected);
        }
    }

    #[test]
    fn a_full_lane_refuses_and_says_how_many_are_missing_in_their_place() {
        let letter = cost_of("text", 0);
        let [mut a, mut b, mut c] = places(3 * letter);
        let fits: Vec<_> = (0..5).map(|_| a.publish(1, "text", "")).collect();
        assert_eq!(fits, [true, true, true, false, false]);
        assert!(a.publish(2, "text", ""), "another lane has room");
        assert!(c.publish(1, "text", ""), "and so has the lane of another sender");
        a.link.hand_over();
        c.link.hand_over();
        b.link.collect();
        assert!(!a.publish(1, "text", ""), "what was taken is not handled yet");
        assert_eq!(b.read(0, 1), ["text:"]);
        assert!(a.publish(1, "last", ""), "one was handled");
        a.link.hand_over();
        assert_eq!(b.read(0, 9), ["text:", "text:", "gap 2"]);
        b.link.collect();
        assert_eq!(b.read(0, 9), ["gap 1", "last:"]);
        let stats = a.link.stats();
        assert_eq!((stats.queued, stats.refused), (5, 3));
        assert_eq!(b.read(2, 9), ["text:"]);
        assert_eq!(b.link.stats().received, 5);
    }

    #[test]
    fn a_letter_that_is_longer_than_the_limit_may_wait_alone() {
        let [mut a, mut b] = places(1024);
        let long = "x".repeat(5000);
        assert!(a.publish(1, "long", &long));
        assert!(!a.publish(1, "short", ""), "the lane is full");
        a.link.hand_over();
        b.link.collect();
        assert_eq!(b.read(0, 9), [format!("long:{long}"), "gap 1".to_owned()]);
        assert!(a.publish(1, "short", "") && !a.publish(1, "long", &long), "it is not alone");
    }

    #[test]
    fn what_all_loops_must_know_finds_room_in_a_full_lane_and_counts_nothing() {
        let [mut a, mut b] = places(1024);
        while a.publish(1, "full", "") {}
        a.link.tell_all("reason", shutdown);
        a.link.hand_over();
        b.link.collect();
        let read = b.read(0, 99);
        assert_eq!(read.last().map(String::as_str), Some("reason"));
        assert!(a.publish(1, "empty again", ""));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn news_of_other_servers_have_as_much_room_again_then_count_as_missing() {
        let [mut a, mut b] = places(1024);
        while a.publish(1, "full", "") {}
        let gap = || BusEvent::Gap {
            from: GapFrom::Node(Node(7)),
            topic: Some("prices".into()),
            lost: Some(3),
        };
        for _ in 0..100_000 {
            a.link.tell_gap(1, gap(), 3);
            a.link.hand_over();
        }
        assert!(!a.link.tell(1, Letter::NodeLeft(7)));
        b.link.collect();
        let mut letters = b.link.take_letters(0);
        let (mut told, mut lost, mut cost) = (0, 0, 0);
        while let Some(opened) = letters.next() {
            cost += opened.cost;
            match opened.letter {
                Letter::Bus(_) => told += 1,
                Letter::Gap(missing) => lost += missing,
                _ => assert_eq!((told, opened.text), (0, "full")),
            }
        }
        assert!((1..=8).contains(&told) && cost <= 2048, "{told} of {cost} bytes");
        assert_eq!(3 * told + lost, 300_000 + 1, "the first gap is of a message");
        b.link.put_back(0, letters, told, cost);
        assert!(a.link.tell(1, Letter::NodeLeft(7)), "it is empty again");
    }

    #[test]
    fn a_loop_that_is_woken_before_it_has_its_place_finds_what_waits() {
        let post = Post::new(2, 4096, 1);
        let mut a = place(&post, 0);
        a.publish(1, "early", "");
        a.link.hand_over();
        let mut b = place(&post, 1);
        assert!(b.was_woken(), "the wake is made up for");
        b.link.collect();
        assert_eq!(b.read(0, 9), ["early:"]);
    }

    #[test]
    fn letters_for_a_loop_that_has_ended_are_dropped() {
        let [mut a, b, mut c] = places(4096);
        a.publish(1, "late", "");
        drop(b);
        a.link.hand_over();
        assert_eq!((a.link.stats().queued, a.link.stats().refused), (1, 1));
        assert_eq!(a.link.others().iter().collect::<Vec<_>>(), [2]);
        assert_eq!(c.link.others().iter().collect::<Vec<_>>(), [0]);
        a.publish(2, "text", "");
        a.link.hand_over();
        c.link.collect();
        assert_eq!(c.read(0, 9), ["text:"]);
    }

    #[test]
    fn a_place_is_taken_once() {
        let post = Post::new(2, 4096, 1);
        let first = place(&post, 0);
        let seat = Seat { post: post.clone(), index: 0 };
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).unwrap());
        assert!(seat.sit(waker.clone(), 0).is_none());
        drop(first);
        assert!(seat.sit(waker, 0).is_none(), "also after the server of the loop has ended");
    }

    // Many threads.

    /// Numbers that seem random, and are the same in each run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % sides
        }
    }

    const THREADS: u16 = 4;
    const LIMIT: usize = 8 * 1024;
    /// A wake that has not come by then was lost.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// What one thread knows of one lane to it.
    #[derive(Default)]
    struct Seen {
        /// The number of the next letter.
        next: u64,
        received: u64,
        lost: u64,
        ended: bool,
        /// The costs of what was taken at once and is not all handled.
        taken: usize,
        letters: usize,
    }

    /// What one thread has sent to one other.
    #[derive(Clone, Copy, Default)]
    struct Given {
        queued: u64,
        refused: u64,
    }

    impl Seen {
        fn see(&mut self, from: u16, to: u16, opened: &Opened<'_>) {
            if opened.cost > 0 {
                self.taken += opened.cost;
                self.letters += 1;
            }
            assert!(self.taken <= LIMIT || self.letters == 1, "{} bytes waited", self.taken);
            match &opened.letter {
                Letter::Gap(lost) => {
                    self.lost += lost;
                    self.next += lost;
                }
                Letter::Shutdown { .. } => self.ended = true,
                Letter::Message(_, content) => {
                    assert!(!self.ended);
                    assert_eq!(opened.text, format!("{from}>{to} {}", self.next));
                    let is_ours = |&byte: &u8| byte == b'a' + (self.next % 26) as u8;
                    assert!(
                        opened.ready(content).payload.iter().all(is_ours),
                        "{} is whole",
                        opened.text
                    );
                    self.next += 1;
                    self.received += 1;
                }
                other => panic!("{other:?} was not sent"),
            }
        }
    }

    /// One loop: in each turn it reads some letters of each lane, and sends some.
    fn take_part(mut place: Place, letters: u64, done: &AtomicUsize) -> (Vec<Given>, Vec<Seen>) {
        let own = place.link.index();
        let others = place.link.post().len() as u16;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (u64::from(own) << 40) ^ 1);
        let mut given = vec![Given::default(); others.into()];
        let mut seen: Vec<_> = (0..others).map(|_| Seen::default()).collect();
        let mut sent = 0;
        let mut finished = false;
        let all_ended =
            |seen: &[Seen]| (0..others).all(|from| from == own || seen[usize::from(from)].ended);
        while !finished || !all_ended(&seen) {
            let may_wait = finished && !place.link.is_behind();
            let woken = place.is_woken_within(if may_wait { PATIENCE } else { Duration::ZERO });
            assert!(woken || !may_wait, "loop {own} was not woken");
            if woken || place.link.is_behind() {
                place.link.collect();
                for from in place.link.unread().iter() {
                    let mut letters = place.link.take_letters(from);
                    let (mut count, mut cost) = (0, 0);
                    let lane = &mut seen[usize::from(from)];
                    for _ in 0..=dice.roll(40) {
                        let Some(opened) = letters.next() else { break };
                        count += u64::from(opened.cost > 0);
                        cost += opened.cost;
                        lane.see(from, own, &opened);
                    }
                    if letters.is_empty() {
                        (lane.taken, lane.letters) = (0, 0);
                    }
                    place.link.put_back(from, letters, count, cost);
                }
            }
            for _ in 0..dice.roll(20) {
                let to = dice.roll(others.into()) as u16;
                if to == own || sent == letters {
                    continue;
                }
                sent += 1;
                let lane = &mut given[usize::from(to)];
                let number = lane.queued + lane.refused;
                let length = match dice.roll(50) {
                    0 => 2 * LIMIT,
                    1..5 => 1024 + dice.roll(1024),
                    _ => dice.roll(100),
                };
                let payload = vec![b'a' + (number % 26) as u8; length];
                let payload = str::from_utf8(&payload).unwrap();
                let queued = place.publish(to, &format!("{own}>{to} {number}"), payload);
                *(if queued { &mut lane.queued } else { &mut lane.refused }) += 1;
            }
            if sent == letters && !finished {
                finished = true;
                place.link.tell_all("", shutdown);
            }
            place.link.hand_over();
        }
        // No link ends before all have read what is for them.
        done.fetch_add(1, Ordering::AcqRel);
        while done.load(Ordering::Acquire) < others.into() {
            std::thread::yield_now();
        }
        (given, seen)
    }

    #[test]
    fn letters_of_many_threads_are_neither_lost_nor_double_nor_out_of_order() {
        let letters = std::env::var("IKISOCKET_TEST_LETTERS");
        let letters = letters.map_or(50_000, |number| number.parse().unwrap());
        let post = Post::new(THREADS.into(), LIMIT, 1);
        let done = AtomicUsize::new(0);
        let (all_given, all_seen): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|index| {
                    let (place, done) = (place(&post, index), &done);
                    scope.spawn(move || take_part(place, letters, done))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).unzip()
        });
        let mut refused = 0;
        for from in 0..usize::from(THREADS) {
            for to in 0..usize::from(THREADS) {
                let (given, seen) = (&all_given[from][to], &all_seen[to][from]);
                assert_eq!(
                    (seen.received, seen.lost),
                    (given.queued, given.refused),
                    "{from}>{to}"
                );
                refused += given.refused;
            }
        }
        assert!(refused > 0, "no lane was ever full");
    }
}
