//! What all loops of a process share: a mailbox for each, and the tables of topics and uuids.

use std::collections::VecDeque;
use std::hash::BuildHasher;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::batch::Batch;
use super::identity::Identity;
use super::interest::Interest;
use super::loop_set::LoopSet;
#[cfg(feature = "redis")]
use super::outlet::Outlet;
use super::set_uuids::SetUuids;
#[cfg(feature = "redis")]
use super::settings::Bus;
use crate::transport::{Over, PeerAddress, Socket};

/// The most sockets that may wait for a loop to take them.
const MOST_SOCKETS: usize = 1024;

/// What the empty batches of one loop keep for each direction, in bytes.
const KEEP: usize = 64 * 1024;
const LEAST_KEPT: usize = 4 * 1024;

/// A turn that lasts longer than this is named, and its loop gets no new connections if others can
/// have them.
pub(crate) const LONG_TURN: Duration = Duration::from_secs(5);

/// A socket that one loop has accepted for another. No byte of it was read.
pub(crate) struct HandedOver {
    pub(crate) socket: Socket,
    pub(crate) peer: PeerAddress,
    pub(crate) over: Over,
}

/// What all loops of a process share.
pub(crate) struct Post {
    boxes: Box<[Mailbox]>,
    pub(super) interest: Interest,
    pub(super) set_uuids: SetUuids,
    pub(super) identity: Identity,
    /// What leads to other servers, if there is a bus.
    #[cfg(feature = "redis")]
    outlet: Option<Outlet>,
    /// The most bytes that may wait in one lane.
    pub(super) limit: usize,
    /// What an empty batch of a lane keeps, in bytes: the more lanes there are, the less.
    pub(super) keep: usize,
    started: Instant,
    /// When a shutdown of all loops should be over, in milliseconds since the start; 0 without one.
    shut_down_by: AtomicU64,
    /// Whether new WebSocket connections get 503.
    refusing: AtomicBool,
    /// The listening sockets of all loops, to be passed on to another process.
    #[cfg(unix)]
    listening: Mutex<Vec<(u16, OwnedFd)>>,
}

/// One loop's place. Alone in its cache lines: other cores write to the neighbours.
#[repr(align(128))]
pub(super) struct Mailbox {
    incoming: Mutex<Incoming>,
    waker: OnceLock<Arc<mio::Waker>>,
    /// The bytes that this loop has handled, by the loop that sent them.
    pub(super) handled: Box<[Handled]>,
    /// The connections of every kind that this loop has, with those on their way to it.
    load: AtomicUsize,
    /// When its turn began, in milliseconds since the start, and one more; 0 while it waits.
    busy_since: AtomicU64,
    /// Turns that were named because they lasted long.
    long_turns: AtomicU64,
    /// The shutdown of this loop has finished: it waits for the others.
    finished: AtomicBool,
    ended: AtomicBool,
}

/// Alone in its cache lines.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct Handled(pub(super) AtomicU64);

#[derive(Default)]
pub(super) struct Incoming {
    /// By sender.
    pub(super) lanes: Box<[Batch]>,
    /// The lanes that have letters.
    pub(super) ready: LoopSet,
    pub(super) sockets: VecDeque<HandedOver>,
    /// The loop has been woken, or will look by itself.
    pub(super) awake: bool,
    pub(super) closed: bool,
}

impl Post {
    /// For `count` loops, with this limit for each lane in bytes. The number says which run of the
    /// process it is.
    pub(crate) fn new(count: usize, limit: usize, run: u64) -> Arc<Self> {
        Arc::new(Self::make(count, limit, run))
    }

    /// The same with a bus to other servers.
    #[cfg(feature = "redis")]
    pub(crate) fn with_bus(count: usize, limit: usize, run: u64, bus: Bus) -> Arc<Self> {
        Arc::new(Self { outlet: Some(Outlet::new(bus)), ..Self::make(count, limit, run) })
    }

    fn make(count: usize, limit: usize, run: u64) -> Self {
        let mailbox = || Mailbox {
            incoming: Mutex::new(Incoming {
                lanes: (0..count).map(|_| Batch::default()).collect(),
                ..Incoming::default()
            }),
            waker: OnceLock::new(),
            handled: (0..count).map(|_| Handled::default()).collect(),
            load: AtomicUsize::new(0),
            busy_since: AtomicU64::new(0),
            long_turns: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        Self {
            boxes: (0..count).map(|_| mailbox()).collect(),
            interest: Interest::new(),
            set_uuids: SetUuids::new(),
            identity: Identity::new(run),
            #[cfg(feature = "redis")]
            outlet: None,
            limit,
            keep: (KEEP / count).max(LEAST_KEPT),
            started: Instant::now(),
            shut_down_by: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            #[cfg(unix)]
            listening: Mutex::default(),
        }
    }

    /// What leads to other servers, if there is a bus.
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn outlet(&self) -> Option<&Outlet> {
        self.outlet.as_ref()
    }

    /// Makes a loop look for what was handed over.
    #[cfg(feature = "redis")]
    pub(super) fn wake_for_letters(&self, index: u16) {
        let mailbox = self.mailbox(index);
        mailbox.wake(mailbox.lock());
    }

    /// The number of loops.
    pub(crate) fn len(&self) -> usize {
        self.boxes.len()
    }

    pub(super) fn mailbox(&self, index: u16) -> &Mailbox {
        &self.boxes[usize::from(index)]
    }

    /// Takes the place of a loop; returns `false` if another server has it.
    pub(super) fn sit(&self, index: u16, waker: Arc<mio::Waker>) -> bool {
        let mailbox = self.mailbox(index);
        if mailbox.waker.set(waker).is_err() {
            return false;
        }
        // What came before found nothing to wake.
        let mut incoming = mailbox.lock();
        if std::mem::take(&mut incoming.awake) {
            mailbox.wake(incoming);
        }
        true
    }

    /// A loop takes no more letters.
    pub(super) fn end(&self, index: u16) {
        let mailbox = self.mailbox(index);
        mailbox.ended.store(true, Ordering::SeqCst);
        let mut incoming = mailbox.lock();
        incoming.closed = true;
        incoming.ready = LoopSet::default();
        incoming.lanes = Box::default();
        let sockets = std::mem::take(&mut incoming.sockets);
        drop(incoming);
        drop(sockets);
        self.interest.forget_loop(index, |topic| self.look_at_topic(index, topic));
        self.set_uuids.forget_loop(index, |uuid| self.look_at_uuid(index, uuid));
        self.forget_listening(index);
        self.wake_if_all_finished();
    }

    // The shutdown of all loops.

    /// A shutdown of one loop begins, which takes this time in milliseconds. All should be over
    /// when the last is.
    pub(crate) fn shutdown_begins(&self, lasts: u64) {
        let by = self.elapsed().saturating_add(lasts).max(1);
        self.shut_down_by.fetch_max(by, Ordering::AcqRel);
    }

    /// A shutdown of all loops is asked for: it should be over after this time even if no loop
    /// begins it.
    pub(crate) fn shutdown_is_asked_for(&self, lasts: u64) {
        let by = self.elapsed().saturating_add(lasts).max(1);
        let _ = self.shut_down_by.compare_exchange(0, by, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The time until a shutdown should be over.
    pub(crate) fn shutdown_lasts(&self) -> Duration {
        let by = self.shut_down_by.load(Ordering::Acquire);
        Duration::from_millis(by.saturating_sub(self.elapsed()))
    }

    /// How long ago a shutdown of all loops should have been over.
    pub(crate) fn shutdown_ended(&self) -> Option<Duration> {
        let by = self.shut_down_by.load(Ordering::Acquire);
        (by > 0 && by <= self.elapsed()).then(|| Duration::from_millis(self.elapsed() - by))
    }

    /// The shutdown of a loop has finished. It still serves the others until theirs have.
    pub(crate) fn finish(&self, index: u16) {
        // Of two loops that finish at the same time, one sees both: so this is SeqCst.
        if !self.mailbox(index).finished.swap(true, Ordering::SeqCst) {
            self.wake_if_all_finished();
        }
    }

    /// Whether no loop has to serve others any more.
    pub(crate) fn all_finished(&self) -> bool {
        let done = |mailbox: &Mailbox| {
            mailbox.finished.load(Ordering::SeqCst) || mailbox.ended.load(Ordering::SeqCst)
        };
        self.boxes.iter().all(done)
    }

    fn wake_if_all_finished(&self) {
        if self.all_finished() {
            self.boxes.iter().for_each(|mailbox| mailbox.wake(mailbox.lock()));
        }
    }

    // Settings of all loops.

    pub(crate) fn set_refusing(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::Release);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Notes a socket on which this loop listens.
    #[cfg(unix)]
    pub(crate) fn note_listening(&self, index: u16, duplicate: OwnedFd) {
        self.lock_listening().push((index, duplicate));
    }

    /// Duplicates of the descriptors of all listening sockets.
    #[cfg(unix)]
    pub(crate) fn listening_fds(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.lock_listening().iter().map(|(_, fd)| fd.try_clone()).collect()
    }

    /// This loop does not listen any more.
    pub(crate) fn forget_listening(&self, index: u16) {
        #[cfg(unix)]
        self.lock_listening().retain(|(each, _)| *each != index);
        #[cfg(not(unix))]
        let _ = index;
    }

    #[cfg(unix)]
    fn lock_listening(&self) -> MutexGuard<'_, Vec<(u16, OwnedFd)>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_ended(&self, index: u16) -> bool {
        self.mailbox(index).ended.load(Ordering::Acquire)
    }

    /// The loops that have not ended.
    pub(super) fn alive(&self) -> LoopSet {
        (0..self.len() as u16).filter(|&index| !self.has_ended(index)).collect()
    }

    /// The loop whose connection has this uuid, or had it.
    pub(crate) fn home(&self, uuid: Uuid) -> Option<u16> {
        match self.identity.loop_of(uuid) {
            // The program cannot have set it for a connection of another loop.
            Some(index) => Some(index).filter(|&index| usize::from(index) < self.len()),
            None => self.set_uuids.find(uuid),
        }
    }

    // Letters and sockets.

    /// Hands letters over, and wakes the loop if it has to be. Returns how many were dropped,
    /// because the loop has ended.
    pub(super) fn hand_over(&self, from: u16, to: u16, batch: &mut Batch) -> usize {
        let mailbox = self.mailbox(to);
        let mut incoming = mailbox.lock();
        if incoming.closed {
            drop(incoming);
            let dropped = batch.counted();
            batch.clear(self.keep);
            return dropped;
        }
        incoming.lanes[usize::from(from)].append(batch, self.keep);
        incoming.ready.insert(from);
        mailbox.wake(incoming);
        0
    }

    /// Hands a socket over; gives it back if the loop has ended or too many wait there. Returns
    /// whether the loop has to be woken, which the caller does later: [`wake`](Self::wake).
    pub(super) fn hand_over_socket(&self, to: u16, socket: HandedOver) -> Result<bool, HandedOver> {
        let mailbox = self.mailbox(to);
        let mut incoming = mailbox.lock();
        if incoming.closed || incoming.sockets.len() >= MOST_SOCKETS {
            return Err(socket);
        }
        incoming.sockets.push_back(socket);
        mailbox.add_load(1);
        Ok(!std::mem::replace(&mut incoming.awake, true))
    }

    /// Wakes a loop for what was handed over before.
    pub(super) fn wake(&self, to: u16) {
        self.mailbox(to).wake_now();
    }

    /// The loops that have not ended, in the order in which they are to get a new connection: the
    /// one with the fewest first, and those whose turn lasts too long last.
    pub(crate) fn by_load(&self, loops: &mut Vec<(bool, usize, u16)>) {
        loops.clear();
        let long_ago = self.started.elapsed().checked_sub(LONG_TURN).map_or(0, millis);
        loops.extend(self.alive().iter().map(|index| {
            let mailbox = self.mailbox(index);
            let is_stuck = (1..=long_ago).contains(&mailbox.busy_since.load(Ordering::Relaxed));
            (is_stuck, mailbox.load.load(Ordering::Relaxed), index)
        }));
        loops.sort_unstable();
    }

    // The watch over turns.

    /// How long the present turn of a loop has lasted.
    pub(crate) fn busy_for(&self, index: u16) -> Option<Duration> {
        let since = self.mailbox(index).busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        (!self.has_ended(index))
            .then(|| self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// Counts a turn that lasts too long.
    pub(crate) fn count_long_turn(&self, index: u16) {
        self.mailbox(index).long_turns.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn long_turns(&self, index: u16) -> u64 {
        self.mailbox(index).long_turns.load(Ordering::Relaxed)
    }

    /// The time since the start, in milliseconds.
    pub(super) fn elapsed(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// The loops that have members of a topic.
    pub(crate) fn loops_with_members(&self, topic: &str) -> LoopSet {
        self.interest.loops(self.interest.hasher.hash_one(topic), topic)
    }

    /// Whether anything waits for a loop.
    pub(crate) fn has_mail(&self, index: u16) -> bool {
        let incoming = self.mailbox(index).lock();
        !incoming.ready.is_empty() || !incoming.sockets.is_empty()
    }
}

/// 64 bits of milliseconds are 584 million years.
fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Mailbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Incoming> {
        // No code that can panic runs under the lock.
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut incoming: MutexGuard<'_, Incoming>) {
        if std::mem::replace(&mut incoming.awake, true) {
            return;
        }
        drop(incoming);
        self.wake_now();
    }

    fn wake_now(&self) {
        if let Some(waker) = self.waker.get()
            && let Err(error) = waker.wake()
        {
            self.lock().awake = false;
            log::error!("cannot wake a loop: {error}");
        }
    }

    pub(super) fn add_load(&self, connections: usize) {
        self.load.fetch_add(connections, Ordering::Relaxed);
    }

    pub(super) fn take_load(&self, connections: usize) {
        self.load.fetch_sub(connections, Ordering::Relaxed);
    }

    pub(super) fn set_busy(&self, since: Option<u64>) {
        self.busy_since.store(since.map_or(0, |since| since + 1), Ordering::Relaxed);
    }
}

/// The place of one loop, for the server that is built for it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) post: Arc<Post>,
    pub(crate) index: u16,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "loop {} of {}", self.index, self.post.len())
    }
}
