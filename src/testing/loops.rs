//! Several loops in memory, with one clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::connect::{NotConnected, Upgrade};
use super::peer::Received;
use super::{Client, Harness, MOST_TURNS};
use crate::bus::{Post, Seat};
use crate::config::Builder;
use crate::error::LoopsError;
use crate::loops::Loops;
use crate::protocol::{CloseCode, Message};
use crate::server::Server;
use crate::user::LoopsHandle;

/// The number of the run, the same in each test: it is a part of the uuids.
const RUN: u64 = 0x0074_6573_7469_6e67;

/// The order in which loops take their turns: it decides which hand-overs come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// By their indexes. A loop sees in the same round what loops before it have handed over.
    #[default]
    Ascending,
    /// The opposite.
    Descending,
    /// In an order that seems random, and is the same for the same number. A loop may take several
    /// turns while another takes none.
    Shuffled(u64),
}

/// A client of one of the loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopClient {
    /// The index of the loop that has its connection.
    pub on: usize,
    /// The client in the harness of that loop.
    pub client: Client,
}

/// The servers of several loops and their clients, without sockets and threads: a [`Harness`] for
/// each loop, with one clock.
///
/// The loops take their turns one after the other, in an [`Order`] that the test chooses. So each
/// way in which hand-overs can overtake each other can be tested, and repeats.
///
/// ```
/// use ikisocket::testing::{LoopsHarness, Order};
/// use ikisocket::{Builder, BuildError, Event, Loops, Server};
///
/// fn chat(_index: usize, builder: Builder) -> Result<Server<()>, BuildError> {
///     let mut server = builder.build(())?;
///     server.on(Event::Connect, |_, ep| _ = ep.kws.join("room"));
///     server.on(Event::Message, |_, ep| {
///         ep.kws.sockets().everywhere().publish("room", ep.data);
///     });
///     server.route("/ws", |_, _| {}).unwrap();
///     Ok(server)
/// }
///
/// let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, chat)?;
/// let ann = test.connect("/ws")?;
/// let bob = test.connect("/ws")?; // on the loop with fewest connections
/// assert_eq!((ann.on, bob.on), (0, 1));
/// test.send(ann, "hello");
/// test.expect(ann, ["hello"]);
/// test.expect(bob, ["hello"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LoopsHarness<S> {
    loops: Vec<Turned<S>>,
    handle: LoopsHandle<S>,
    post: Arc<Post>,
    order: Order,
}

/// One of the loops.
struct Turned<S> {
    /// `None` if it has ended.
    harness: Option<Harness<S>>,
    stalls: bool,
}

impl<S> LoopsHarness<S> {
    /// Builds a server for each loop, as [`Loops::start`] does, with the number of loops and the
    /// settings of `loops`. Its listening sockets are not used.
    ///
    /// # Errors
    ///
    /// The same as those of [`Loops::start`].
    pub fn new<E: fmt::Display>(
        loops: &Loops,
        order: Order,
        build: impl Fn(usize, Builder) -> Result<Server<S>, E>,
    ) -> Result<Self, LoopsError> {
        Self::of_run(loops, RUN, order, build)
    }

    /// The same with this number of the run, which is a part of the uuids.
    pub(super) fn of_run<E: fmt::Display>(
        loops: &Loops,
        run: u64,
        order: Order,
        build: impl Fn(usize, Builder) -> Result<Server<S>, E>,
    ) -> Result<Self, LoopsError> {
        let post = loops.post(run)?;
        let harness = |index: u16| {
            let seat = Seat { post: post.clone(), index };
            let built = build(index.into(), loops.settings().for_loop(seat.clone()));
            let built = built.map_err(|error| error.to_string());
            match built.and_then(|server| server.of_loop(&seat)) {
                Ok(server) => Ok(Turned { harness: Some(Harness::by_hand(server)), stalls: false }),
                Err(reason) => Err(LoopsError::Build { index: index.into(), reason }),
            }
        };
        let mut loops: Vec<Turned<S>> =
            (0..post.len() as u16).map(harness).collect::<Result<_, _>>()?;
        let all = loops.iter_mut().flat_map(|each| &mut each.harness);
        let handles: Arc<[_]> = all.map(|each| each.server().handle()).collect();
        for each in loops.iter_mut().flat_map(|each| &mut each.harness) {
            each.server().know_loops(handles.clone());
        }
        Ok(Self { loops, handle: LoopsHandle::new(handles, post.clone()), post, order })
    }

    /// Connects a client to the loop with the fewest connections, as the loops do:
    /// [`Harness::connect`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Harness::connect`].
    pub fn connect(&mut self, upgrade: impl Into<Upgrade>) -> Result<LoopClient, NotConnected> {
        let mut by_load = Vec::new();
        self.post.by_load(&mut by_load);
        let &(.., on) = by_load.first().ok_or(NotConnected::Unanswered)?;
        self.connect_to(on.into(), upgrade)
    }

    /// Connects a client to this loop.
    ///
    /// # Errors
    ///
    /// The same as those of [`Harness::connect`].
    ///
    /// # Panics
    ///
    /// If there is no such loop, or it has ended.
    #[track_caller]
    pub fn connect_to(
        &mut self,
        on: usize,
        upgrade: impl Into<Upgrade>,
    ) -> Result<LoopClient, NotConnected> {
        let client = self.on(on).connect(upgrade)?;
        self.settle();
        Ok(LoopClient { on, client })
    }

    /// Sends a message: [`Harness::send`].
    #[track_caller]
    pub fn send<'m>(&mut self, client: LoopClient, message: impl Into<Message<'m>>) {
        self.on(client.on).send(client.client, message);
    }

    /// Asserts that a client received exactly these, after all loops have settled:
    /// [`Harness::expect`].
    ///
    /// # Panics
    ///
    /// If it received something else.
    #[track_caller]
    pub fn expect<R: Into<Received>>(
        &mut self,
        client: LoopClient,
        expected: impl IntoIterator<Item = R>,
    ) {
        self.settle();
        self.on(client.on).expect(client.client, expected);
    }

    /// Asserts that a client received only the end of the connection: [`Harness::expect_goodbye`].
    ///
    /// # Panics
    ///
    /// If it received something else.
    #[track_caller]
    pub fn expect_goodbye(&mut self, client: LoopClient, code: impl Into<CloseCode>, reason: &str) {
        self.expect(client, [Received::close(code, reason), Received::Fin]);
    }

    /// Sends a close frame: [`Harness::close`].
    #[track_caller]
    pub fn close(&mut self, client: LoopClient, code: impl Into<CloseCode>, reason: &str) {
        self.on(client.on).close(client.client, code, reason);
    }

    /// Resets a client's connection: [`Harness::reset`].
    #[track_caller]
    pub fn reset(&mut self, client: LoopClient) {
        self.on(client.on).reset(client.client);
    }

    /// Asserts that a client received nothing: [`Harness::expect_nothing`].
    ///
    /// # Panics
    ///
    /// If it received something.
    #[track_caller]
    pub fn expect_nothing(&mut self, client: LoopClient) {
        self.expect::<Received>(client, []);
    }

    /// Takes what a client received since the last call: [`Harness::received`].
    #[track_caller]
    pub fn received(&mut self, client: LoopClient) -> Vec<Received> {
        self.settle();
        self.on(client.on).received(client.client)
    }

    /// The uuid of a client's connection: [`Harness::uuid`].
    #[track_caller]
    pub fn uuid(&mut self, client: LoopClient) -> Option<Uuid> {
        self.settle();
        self.on(client.on).uuid(client.client)
    }

    /// A handle by which other threads, or the test itself, reach the loops.
    #[must_use]
    pub fn handle(&self) -> LoopsHandle<S> {
        self.handle.clone()
    }

    /// The harness of one loop: for everything else that a client can do, and to turn this loop
    /// alone. It [turns by hand](Harness::by_hand), so what it shows is not settled:
    /// [`settle`](Self::settle) first.
    ///
    /// # Panics
    ///
    /// If there is no such loop, or it has ended.
    #[must_use]
    #[track_caller]
    pub fn on(&mut self, index: usize) -> &mut Harness<S> {
        let harness = self.loops.get_mut(index).and_then(|each| each.harness.as_mut());
        harness.unwrap_or_else(|| panic!("there is no loop {index}, or it has ended"))
    }

    /// The state of one loop, after all have settled.
    ///
    /// # Panics
    ///
    /// If there is no such loop, or it has ended.
    #[must_use]
    #[track_caller]
    pub fn state(&mut self, index: usize) -> &mut S {
        self.settle();
        self.on(index).state()
    }

    /// Makes a loop take no turns until it [resumes](Self::resume), as if a callback kept its
    /// thread busy. What other loops send to it waits. [`connect_to`](Self::connect_to), and what
    /// is done [on](Self::on) it, still turn it.
    ///
    /// # Panics
    ///
    /// If there is no such loop.
    pub fn stall(&mut self, index: usize) {
        self.loops[index].stalls = true;
    }

    /// Makes a [stalled](Self::stall) loop take turns again.
    ///
    /// # Panics
    ///
    /// If there is no such loop.
    pub fn resume(&mut self, index: usize) {
        self.loops[index].stalls = false;
    }

    /// Ends a loop at once, as if its thread had ended: its connections are closed, and it takes
    /// nothing more from other loops. Returns its state.
    ///
    /// ```
    /// # use ikisocket::testing::{LoopsHarness, Order};
    /// # use ikisocket::{BuildError, Loops};
    /// let build = |_, builder: ikisocket::Builder| builder.build(Vec::new());
    /// let mut test = LoopsHarness::new(&Loops::new(2), Order::Ascending, build)?;
    /// test.end(1);
    /// test.on(0).server().sockets().everywhere().count(|state, _, open| {
    ///     state.push((open.value, open.is_complete()));
    /// });
    /// assert_eq!(test.state(0), &[(0, false)]); // loop 1 does not answer
    /// # Ok::<(), ikisocket::LoopsError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no such loop, or it has ended.
    #[track_caller]
    pub fn end(&mut self, index: usize) -> S {
        let harness = self.loops.get_mut(index).and_then(|each| each.harness.take());
        let harness =
            harness.unwrap_or_else(|| panic!("there is no loop {index}, or it has ended"));
        harness.into_state()
    }

    /// Turns the loops, in their order, until none has anything left to do at this time.
    ///
    /// # Panics
    ///
    /// If that never happens.
    pub fn settle(&mut self) {
        for _ in 0..MOST_TURNS {
            self.round();
            if !self.is_busy() {
                return;
            }
        }
        panic!("the loops and their clients find no rest in {MOST_TURNS} rounds");
    }

    /// Moves the clock of all loops, from one timeout to the next, and settles after each.
    pub fn advance(&mut self, by: Duration) {
        self.settle();
        let mut rest = by;
        while !rest.is_zero() {
            let step = self.next_step(rest);
            self.pass(step);
            rest -= step;
            self.settle();
        }
    }

    /// Lets each loop take a turn, in their order.
    pub(super) fn round(&mut self) {
        for index in self.order.next_round(self.loops.len()) {
            if let Some(harness) = self.loops[index].turning() {
                harness.turn();
            }
        }
    }

    /// Whether a loop has anything left to do at this time.
    pub(super) fn is_busy(&mut self) -> bool {
        self.loops.iter_mut().filter_map(Turned::turning).any(|each| each.is_busy())
    }

    /// The time until something may happen, at most this one.
    pub(super) fn next_step(&mut self, most: Duration) -> Duration {
        let turning = self.loops.iter_mut().filter_map(Turned::turning);
        turning.map(|each| each.next_step(most)).min().unwrap_or(most)
    }

    /// Moves the clock of all loops in one step.
    pub(super) fn pass(&mut self, step: Duration) {
        for harness in self.harnesses() {
            harness.pass(step);
        }
    }

    /// The harnesses of the loops that have not ended.
    pub(super) fn harnesses(&mut self) -> impl Iterator<Item = &mut Harness<S>> {
        self.loops.iter_mut().filter_map(|each| each.harness.as_mut())
    }
}

impl Order {
    /// The indexes of `count` things in the order of their next round.
    pub(super) fn next_round(&mut self, count: usize) -> Vec<usize> {
        match self {
            Self::Ascending => (0..count).collect(),
            Self::Descending => (0..count).rev().collect(),
            Self::Shuffled(seed) => {
                let mut draw = || {
                    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (*seed >> 33) as usize % count
                };
                (0..count).map(|_| draw()).collect()
            }
        }
    }
}

impl<S> Turned<S> {
    /// The loop, if it takes turns.
    fn turning(&mut self) -> Option<&mut Harness<S>> {
        self.harness.as_mut().filter(|_| !self.stalls)
    }
}

impl<S> fmt::Debug for LoopsHarness<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopsHarness")
            .field("loops", &self.loops.iter().map(|each| &each.harness).collect::<Vec<_>>())
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}
