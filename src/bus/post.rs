//! What all loops of a process share: a mailbox for each, and the tables of topics and uuids.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::batch::Batch;
use super::identity::Identity;
use super::interest::Interest;
use super::loop_set::LoopSet;
use super::set_uuids::SetUuids;
use crate::protocol::CloseCode;
use crate::transport::{Over, PeerAddress, Socket};

/// The most sockets that may wait for a loop to take them.
const MOST_SOCKETS: usize = 1024;

/// A socket that one loop has accepted for another. No byte of it was read.
pub(crate) struct HandedOver {
    pub(crate) socket: Socket,
    pub(crate) peer: PeerAddress,
    pub(crate) over: Over,
}

/// What the owner of the loops asks of each.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Shutdown { code: CloseCode, reason: String, spread: u64, deadline: u64 },
    RefuseUpgrades(bool),
    StopListening,
}

/// What all loops of a process share.
pub(crate) struct Post {
    boxes: Box<[Mailbox]>,
    pub(super) interest: Interest,
    pub(super) set_uuids: SetUuids,
    pub(super) identity: Identity,
    /// The most bytes that may wait in one lane.
    pub(super) limit: usize,
    started: Instant,
    /// When a shutdown of all loops should be over, in milliseconds since the start.
    shut_down_by: AtomicU64,
}

/// One loop's place.
pub(super) struct Mailbox {
    incoming: Mutex<Incoming>,
    waker: OnceLock<Arc<mio::Waker>>,
    /// The bytes that this loop has handled, by the loop that sent them.
    pub(super) handled: Box<[Handled]>,
    /// The connections of every kind that this loop has, with those on their way to it.
    load: AtomicUsize,
    /// When its turn began, in milliseconds since the start, and one more; 0 while it waits.
    busy_since: AtomicU64,
    taken: AtomicBool,
    ended: AtomicBool,
}

/// Alone in its cache lines: other cores write to the neighbours.
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
    pub(super) controls: Vec<Control>,
    /// The loop has been woken, or will look by itself.
    pub(super) awake: bool,
    pub(super) closed: bool,
}

impl Post {
    /// For `count` loops, with this limit for each lane in bytes. The number says which run of the
    /// process it is.
    pub(crate) fn new(count: usize, limit: usize, run: u64) -> Arc<Self> {
        let mailbox = || Mailbox {
            incoming: Mutex::new(Incoming {
                lanes: (0..count).map(|_| Batch::default()).collect(),
                ..Incoming::default()
            }),
            waker: OnceLock::new(),
            handled: (0..count).map(|_| Handled::default()).collect(),
            load: AtomicUsize::new(0),
            busy_since: AtomicU64::new(0),
            taken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        Arc::new(Self {
            boxes: (0..count).map(|_| mailbox()).collect(),
            interest: Interest::new(),
            set_uuids: SetUuids::default(),
            identity: Identity::new(run),
            limit,
            started: Instant::now(),
            shut_down_by: AtomicU64::new(u64::MAX),
        })
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
        if mailbox.taken.swap(true, Ordering::AcqRel) || mailbox.waker.set(waker).is_err() {
            return false;
        }
        // What came before found nothing to wake.
        let mut incoming = mailbox.lock();
        if std::mem::take(&mut incoming.awake) {
            mailbox.wake(incoming);
        }
        true
    }

    /// A shutdown of all loops begins, which takes this time in milliseconds. Of several, the one
    /// that ends first counts.
    pub(crate) fn shutdown_begins(&self, lasts: u64) {
        let by = self.elapsed().saturating_add(lasts).min(u64::MAX - 1);
        self.shut_down_by.fetch_min(by, Ordering::AcqRel);
    }

    /// How long ago a shutdown of all loops should have been over.
    pub(crate) fn shutdown_ended(&self) -> Option<Duration> {
        let since = self.elapsed().checked_sub(self.shut_down_by.load(Ordering::Acquire))?;
        Some(Duration::from_millis(since))
    }

    /// The loops that have members of a topic.
    pub(crate) fn loops_with_members(&self, topic: &str) -> LoopSet {
        self.interest.loops(topic)
    }

    /// A loop takes no more letters.
    pub(super) fn end(&self, index: u16) {
        let mailbox = self.mailbox(index);
        mailbox.ended.store(true, Ordering::Release);
        let mut incoming = mailbox.lock();
        incoming.closed = true;
        incoming.ready = LoopSet::default();
        incoming.controls.clear();
        incoming.lanes.iter_mut().for_each(Batch::clear);
        let sockets = std::mem::take(&mut incoming.sockets);
        drop(incoming);
        drop(sockets);
        self.interest.forget_loop(index);
        self.set_uuids.forget_loop(index);
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
        self.set_uuids
            .find(uuid)
            .or_else(|| self.identity.loop_of(uuid))
            .filter(|&index| usize::from(index) < self.len())
    }

    /// Hands letters over, and wakes the loop if it has to be.
    pub(super) fn hand_over(&self, from: u16, to: u16, batch: &mut Batch) {
        let mailbox = self.mailbox(to);
        let mut incoming = mailbox.lock();
        if incoming.closed {
            drop(incoming);
            batch.clear();
            return;
        }
        incoming.lanes[usize::from(from)].append(batch);
        incoming.ready.insert(from);
        mailbox.wake(incoming);
    }

    /// Hands a socket over; gives it back if the loop has ended or too many wait there.
    pub(super) fn hand_over_socket(&self, to: u16, socket: HandedOver) -> Result<(), HandedOver> {
        let mailbox = self.mailbox(to);
        let mut incoming = mailbox.lock();
        if incoming.closed || incoming.sockets.len() >= MOST_SOCKETS {
            return Err(socket);
        }
        incoming.sockets.push_back(socket);
        mailbox.add_load(1);
        mailbox.wake(incoming);
        Ok(())
    }

    /// Asks something of a loop, from any thread.
    pub(crate) fn control(&self, to: u16, control: Control) {
        let mailbox = self.mailbox(to);
        let mut incoming = mailbox.lock();
        if !incoming.closed {
            incoming.controls.push(control);
            mailbox.wake(incoming);
        }
    }

    /// The loops that have not ended, the one with the fewest connections first.
    pub(super) fn by_load(&self, loops: &mut Vec<(usize, u16)>) {
        loops.clear();
        let load = |index| self.mailbox(index).load.load(Ordering::Relaxed);
        loops.extend(self.alive().iter().map(|index| (load(index), index)));
        loops.sort_unstable();
    }

    /// The loop with the fewest connections.
    #[cfg(feature = "testing")]
    pub(crate) fn least_loaded(&self) -> Option<u16> {
        let load = |index: &u16| self.mailbox(*index).load.load(Ordering::Relaxed);
        self.alive().iter().min_by_key(load)
    }

    /// How long the present turn of a loop has lasted.
    pub(crate) fn busy_for(&self, index: u16) -> Option<Duration> {
        let since = self.mailbox(index).busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        (!self.has_ended(index))
            .then(|| self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// The time since the start, in milliseconds.
    pub(super) fn elapsed(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether anything waits for a loop.
    #[cfg(feature = "testing")]
    pub(crate) fn has_mail(&self, index: u16) -> bool {
        let incoming = self.mailbox(index).lock();
        !incoming.ready.is_empty() || !incoming.sockets.is_empty() || !incoming.controls.is_empty()
    }
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
