//! One loop's end of the lanes to and from the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::batch::{Batch, Letter, Ready, To, cost_of};
use super::loop_set::LoopSet;
use super::post::{HandedOver, Post, Seat};

/// What went between a loop and the others, since the server was built: [`Stats::loops`].
///
/// [`Stats::loops`]: crate::Stats::loops
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopStats {
    /// Messages, events, closes, questions and answers that were queued for other loops, one for
    /// each loop.
    pub queued: u64,
    /// Those that came from other loops and were handled.
    pub received: u64,
    /// Those that were refused because the queue of the other loop was full, or were dropped
    /// because that loop had ended; one for each loop.
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
            reading: (0..count).map(|_| Batch::default()).collect(),
            unread: LoopSet::default(),
            untaken: false,
            sockets: VecDeque::new(),
            clock_began: post.elapsed().saturating_sub(now),
            by_load: Vec::with_capacity(count),
            gap_logged_at: None,
            stats: LoopStats::default(),
        })
    }

    /// The first local member of a topic has joined.
    pub(crate) fn first_joined(&self, topic: &str) {
        self.post.interest.begin(topic, self.index);
    }

    /// The last local member of a topic has left.
    pub(crate) fn last_left(&self, topic: &str) {
        self.post.interest.end(topic, self.index);
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
        self.given_by(uuid) == Some(self.index) || self.post.set_uuids.insert(uuid, self.index)
    }

    /// A connection does not have this uuid any more.
    pub(crate) fn leave_uuid(&self, uuid: Uuid) {
        if self.given_by(uuid) != Some(self.index) {
            self.post.set_uuids.remove(uuid, self.index);
        }
    }

    /// The other loops that have members of a topic.
    pub(crate) fn loops_of(&self, topic: &str) -> LoopSet {
        self.post.interest.loops(topic).without(self.index)
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
        let list = if let To::List(uuids) = &to { size_of_val(&uuids[..]) } else { 0 };
        let cost = cost_of(text, list + message.payload.len());
        let has_room = self.take_room(index, cost);
        let lane = self.open(index);
        if has_room {
            lane.push_message(to, text, message, cost);
        } else {
            lane.push_gap();
        }
        has_room
    }

    /// Queues the close of a connection; returns `false` if there is no room for it.
    pub(crate) fn send_close(&mut self, index: u16, letter: Letter, reason: &str) -> bool {
        let cost = cost_of(reason, 0);
        let has_room = self.take_room(index, cost);
        let lane = self.open(index);
        if has_room {
            lane.push(letter, reason, cost);
        } else {
            lane.push_gap();
        }
        has_room
    }

    /// Queues a question or an answer; returns `false` if there is no room for it. The loop that
    /// asks notices that by itself, so no gap is noted.
    pub(crate) fn converse(&mut self, index: u16, letter: Letter, text: &str) -> bool {
        let more = if let Letter::Answer { answer, .. } = &letter { answer.len() } else { 0 };
        let cost = cost_of(text, more);
        let has_room = self.take_room(index, cost);
        if has_room {
            self.open(index).push(letter, text, cost);
        }
        has_room
    }

    /// Queues a letter for all other loops, whatever waits there.
    pub(crate) fn tell_all(&mut self, text: &str, letter: impl Fn() -> Letter) {
        for index in self.others().iter() {
            self.open(index).push(letter(), text, 0);
        }
    }

    /// The batch for a loop, which is handed over at the end of the turn.
    fn open(&mut self, index: u16) -> &mut Batch {
        self.unsent.insert(index);
        &mut self.outgoing[usize::from(index)].batch
    }

    /// Takes the room for a letter of this cost in a lane, if there is any.
    fn take_room(&mut self, index: u16, cost: usize) -> bool {
        let mailbox = self.post.mailbox(index);
        let handled = mailbox.handled[usize::from(self.index)].0.load(Ordering::Acquire);
        let lane = &mut self.outgoing[usize::from(index)];
        let held = (lane.put - handled) as usize;
        // A letter that is longer than the limit may wait alone.
        let has_room = held == 0 || held + cost <= self.post.limit;
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
            let dropped = self.post.hand_over(self.index, to, &mut lane.batch) as u64;
            self.stats.queued -= dropped;
            self.stats.refused += dropped;
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
                Ok(()) => {
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
        self.stats.lost += lost;
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

    /// The loop has stopped waiting, at this time on its clock.
    #[inline]
    pub(crate) fn turns(&self, now: u64) {
        self.post.mailbox(self.index).set_busy(Some(self.clock_began + now));
    }

    /// The turn has ended.
    #[inline]
    pub(crate) fn waits(&self) {
        self.post.mailbox(self.index).set_busy(None);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.post.end(self.index);
    }
}
