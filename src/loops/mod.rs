//! Several loops in one process, each with its server on a thread of its own.

mod running;
mod supervisor;
mod thread;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

#[cfg(feature = "redis")]
use crate::bus::Bus;
use crate::bus::{MAX_LOOPS, Post, Seat, run_number};
use crate::config::Builder;
use crate::error::{BindError, LoopsError};
use crate::server::Server;
#[cfg(feature = "_tls")]
use crate::transport::tls::Tls;
use crate::transport::{Listener, ListeningSocket, Over};
use crate::user::LoopsHandle;
pub use running::Running;
use supervisor::Supervisor;
use thread::{Begin, Job};

/// The bytes that may wait in one lane, unless the program says otherwise.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Servers on several threads, which share their listening sockets and act as one: for a program
/// whose connections need more than one core.
///
/// Each loop has a server with a state of its own, built on the loop's thread by the closure that
/// is given to [`start`](Self::start). The first loop accepts, and gives each new connection to the
/// loop with the fewest. Callbacks of different loops run at the same time, each with its own
/// state. What reaches beyond the loop is [`Sockets::everywhere`](crate::Sockets::everywhere).
///
/// ```no_run
/// use ikisocket::{Builder, BuildError, Event, Loops, Server};
///
/// struct Room;
///
/// fn chat(_index: usize, builder: Builder) -> Result<Server<Room>, BuildError> {
///     let mut server = builder.build(Room)?;
///     server.on(Event::Connect, |_, ep| _ = ep.kws.join("room"));
///     server.on(Event::Message, |_, ep| {
///         ep.kws.sockets().everywhere().publish("room", ep.data);
///     });
///     // Its routes come here.
///     Ok(server)
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     Loops::new(4).listen("127.0.0.1:3000")?.start(chat)?.join()?;
///     Ok(())
/// }
/// ```
///
/// What a program on several loops may rely on is in the chapter [All
/// cores](crate::manual::all_cores).
#[must_use = "loops run when they are started"]
pub struct Loops {
    count: usize,
    settings: Builder,
    listeners: Vec<(Listener, Over)>,
    queue_bytes: usize,
    spins: bool,
    #[cfg(feature = "redis")]
    bus: Option<Bus>,
}

impl Loops {
    /// The most loops: 256.
    pub const MAX: usize = MAX_LOOPS;

    /// This many loops, from 1 to [`MAX`](Self::MAX), with default settings. The number of cores is
    /// [`std::thread::available_parallelism`]; leave one to what else the machine does.
    pub fn new(count: usize) -> Self {
        Self::with_settings(count, Builder::default())
    }

    /// This many loops, whose servers have these settings. Limits such as
    /// [`Builder::max_connections`] hold for each loop.
    pub fn with_settings(count: usize, settings: Builder) -> Self {
        Self {
            count,
            settings,
            listeners: Vec::new(),
            queue_bytes: QUEUE_BYTES,
            spins: false,
            #[cfg(feature = "redis")]
            bus: None,
        }
    }

    /// The most bytes that may wait from one loop to another: messages, with about 128 bytes for
    /// each beside its own. Default: 16 MiB, at least 1 KiB. What finds no room is refused and
    /// counted, and the other loop notices ([`BusEvent::Gap`](crate::BusEvent::Gap)). A message
    /// that is longer than this may wait alone.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Makes the loops never sleep, as by [`Server::run_spinning`]: each keeps its core busy all
    /// the time.
    pub fn spinning(mut self, spinning: bool) -> Self {
        self.spins = spinning;
        self
    }

    /// Connects the loops with other servers by a bus: [`Server::bus`]. The first loop holds the
    /// connection. It needs the feature `redis`.
    #[cfg(feature = "redis")]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// The same number of loops with the same settings and this bus, if they have none; without
    /// listening sockets.
    #[cfg(all(feature = "redis", feature = "testing"))]
    pub(crate) fn with_bus_or(&self, bus: Bus) -> Self {
        Self {
            listeners: Vec::new(),
            bus: Some(self.bus.clone().unwrap_or(bus)),
            ..Self::with_settings(self.count, self.settings.clone())
        }
        .queue_bytes(self.queue_bytes)
    }

    /// What the names of the bus's channels begin with.
    #[cfg(all(feature = "redis", feature = "testing"))]
    pub(crate) fn bus_prefix(&self) -> &str {
        self.bus.as_ref().map_or("", |bus| &bus.prefix)
    }

    // Listening sockets.

    /// Listens on one more address: [`Server::listen`]. The first loop accepts there. Until it
    /// runs, connections wait.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen`].
    pub fn listen(self, address: impl ToSocketAddrs) -> Result<Self, BindError> {
        self.listen_at(address, Over::Plain)
    }

    fn listen_at(self, address: impl ToSocketAddrs, over: Over) -> Result<Self, BindError> {
        let listener = Listener::bind_first(address, self.settings.options())?;
        Ok(self.with_listener(listener, over))
    }

    /// Listens on a Unix socket: [`Server::listen_unix`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_unix`].
    #[cfg(unix)]
    pub fn listen_unix(self, path: impl AsRef<Path>) -> Result<Self, BindError> {
        let listener = Listener::at_path(path.as_ref(), Listener::bind_unix)?;
        Ok(self.with_listener(listener, Over::Plain))
    }

    /// Listens on a Unix socket, in the place of one that a crashed process has left:
    /// [`Server::listen_unix_replacing_stale`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_unix_replacing_stale`].
    #[cfg(unix)]
    pub fn listen_unix_replacing_stale(self, path: impl AsRef<Path>) -> Result<Self, BindError> {
        let listener = Listener::at_path(path.as_ref(), Listener::bind_unix_replacing_stale)?;
        Ok(self.with_listener(listener, Over::Plain))
    }

    /// Listens on a socket that was made elsewhere: [`Server::listen_on`].
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_on`].
    pub fn listen_on(self, socket: impl Into<ListeningSocket>) -> Result<Self, BindError> {
        let listener = Listener::handed_over(socket.into(), self.settings.options())?;
        Ok(self.with_listener(listener, Over::Plain))
    }

    /// Listens on every socket that systemd passes to this process: [`Server::listen_fds`]. Call it
    /// before other threads start. Also returns how many sockets there are. It needs the feature
    /// `listenfd`.
    ///
    /// ```no_run
    /// # use ikisocket::{Builder, Loops};
    /// let (mut loops, passed) = Loops::new(4).listen_fds()?;
    /// if passed == 0 {
    ///     loops = loops.listen("127.0.0.1:3000")?; // started by hand
    /// }
    /// # loops.start(|_, builder: Builder| builder.build(()))?.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_fds`].
    #[cfg(all(unix, feature = "listenfd"))]
    pub fn listen_fds(self) -> Result<(Self, usize), BindError> {
        self.listen_on_passed(&Over::Plain)
    }

    #[cfg(all(unix, feature = "listenfd"))]
    fn listen_on_passed(mut self, over: &Over) -> Result<(Self, usize), BindError> {
        let passed = ListeningSocket::take_passed()?;
        let count = passed.len();
        for socket in passed {
            let listener = Listener::handed_over(socket, self.settings.options())?;
            self = self.with_listener(listener, over.clone());
        }
        Ok((self, count))
    }

    // The same over TLS. The loops share the certificates, and the keys of tickets.

    /// Listens on one more address, for connections over TLS: [`Server::listen_tls`]. The loops
    /// share the certificates and the keys of tickets. The handshake is made on the loop that gets
    /// the connection. It needs the feature `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_tls`].
    #[cfg(feature = "_tls")]
    pub fn listen_tls(self, address: impl ToSocketAddrs, tls: &Tls) -> Result<Self, BindError> {
        self.listen_at(address, Over::Tls(tls.clone()))
    }

    /// Listens on a Unix socket, for connections over TLS: [`Server::listen_unix_tls`]. It needs
    /// the feature `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_unix_tls`].
    #[cfg(all(unix, feature = "_tls"))]
    pub fn listen_unix_tls(self, path: impl AsRef<Path>, tls: &Tls) -> Result<Self, BindError> {
        let listener = Listener::at_path(path.as_ref(), Listener::bind_unix)?;
        Ok(self.with_listener(listener, Over::Tls(tls.clone())))
    }

    /// Listens on a Unix socket, in the place of one that a crashed process has left, for
    /// connections over TLS: [`Server::listen_unix_replacing_stale_tls`]. It needs the feature
    /// `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_unix_replacing_stale_tls`].
    #[cfg(all(unix, feature = "_tls"))]
    pub fn listen_unix_replacing_stale_tls(
        self,
        path: impl AsRef<Path>,
        tls: &Tls,
    ) -> Result<Self, BindError> {
        let listener = Listener::at_path(path.as_ref(), Listener::bind_unix_replacing_stale)?;
        Ok(self.with_listener(listener, Over::Tls(tls.clone())))
    }

    /// Listens on a socket that was made elsewhere, for connections over TLS:
    /// [`Server::listen_on_tls`]. It needs the feature `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_on_tls`].
    #[cfg(feature = "_tls")]
    pub fn listen_on_tls(
        self,
        socket: impl Into<ListeningSocket>,
        tls: &Tls,
    ) -> Result<Self, BindError> {
        let listener = Listener::handed_over(socket.into(), self.settings.options())?;
        Ok(self.with_listener(listener, Over::Tls(tls.clone())))
    }

    /// Listens on every socket that systemd passes, for connections over TLS:
    /// [`listen_fds`](Self::listen_fds). It needs the features `listenfd` and `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`Server::listen_fds_tls`].
    #[cfg(all(unix, feature = "listenfd", feature = "_tls"))]
    pub fn listen_fds_tls(self, tls: &Tls) -> Result<(Self, usize), BindError> {
        self.listen_on_passed(&Over::Tls(tls.clone()))
    }

    fn with_listener(mut self, listener: Listener, over: Over) -> Self {
        self.listeners.push((listener, over));
        self
    }

    /// The TCP addresses on which it listens.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(listener, _)| listener.address()).collect()
    }

    /// Starts one thread for each loop. On each of them `build` is called with the index of the
    /// loop, from 0, and the builder from which its server has to be built. When all servers are
    /// built, the loops run, and the first one accepts connections.
    ///
    /// `build` runs on the loop's thread, so it may also set that thread's core and priority. The
    /// state need not be [`Send`]. A closure with `?` in it has to name its error: let it end with
    /// `Ok::<_, Box<dyn std::error::Error>>(server)`.
    ///
    /// # Errors
    ///
    /// [`LoopsError::Count`] if the number of loops is not from 1 to 256,
    /// [`LoopsError::QueueBytes`] if the limit of the queues is too small, [`LoopsError::Build`]
    /// with the error of the first `build` that failed or panicked, and [`LoopsError::System`] if
    /// the operating system has no thread or descriptor left. Then no loop runs, and all threads
    /// have ended: it waits for closures that still build.
    pub fn start<S, E, F>(self, build: F) -> Result<Running<S>, LoopsError>
    where
        S: 'static,
        E: fmt::Display,
        F: Fn(usize, Builder) -> Result<Server<S>, E> + Send + Sync + 'static,
    {
        let addresses = self.local_addrs();
        let post = self.post(run_number())?;
        #[cfg(unix)]
        for (listener, _) in &self.listeners {
            let duplicate = listener.fd().try_clone_to_owned();
            post.note_listening(0, duplicate.map_err(|error| LoopsError::System(error.into()))?);
        }
        let build = Arc::new(build);
        let (built, all_built) = mpsc::channel();
        let (reports, all_reports) = mpsc::channel();
        let mut threads = Threads(Vec::with_capacity(self.count));
        for index in 0..self.count as u16 {
            let (begin, may_begin) = mpsc::channel();
            let seat = Seat { post: post.clone(), index };
            let builder = self.settings.clone().for_loop(seat.clone());
            let (built, reports, spins) = (built.clone(), reports.clone(), self.spins);
            let job = Job { seat, built, begin: may_begin, reports, spins };
            let build = build.clone();
            let thread = std::thread::Builder::new()
                .name(format!("loop {index}"))
                .spawn(move || job.run(|| build(usize::from(index), builder)))
                .map_err(|error| LoopsError::System(error.into()))?;
            threads.0.push((begin, thread));
        }
        drop((built, reports));
        let mut handles: Vec<_> = (0..self.count).map(|_| None).collect();
        for (index, result) in all_built {
            let failed = |reason| LoopsError::Build { index: index.into(), reason };
            handles[usize::from(index)] = Some(result.map_err(failed)?);
        }
        if let Some(index) = handles.iter().position(Option::is_none) {
            // Only a logger can have panicked there.
            return Err(LoopsError::Build { index, reason: "its thread has ended".to_owned() });
        }
        let handle = LoopsHandle::new(handles.into_iter().flatten().collect(), post);
        let supervisor = Supervisor::start(handle.clone(), all_reports)?;
        threads.begin(self.listeners, &handle);
        Ok(Running { addresses, handle, supervisor })
    }

    /// The settings of each server.
    #[cfg(feature = "testing")]
    pub(crate) fn settings(&self) -> Builder {
        self.settings.clone()
    }

    /// What the loops share.
    pub(crate) fn post(&self, run: u64) -> Result<Arc<Post>, LoopsError> {
        if !(1..=MAX_LOOPS).contains(&self.count) {
            return Err(LoopsError::Count(self.count));
        }
        if self.queue_bytes < 1024 {
            return Err(LoopsError::QueueBytes(self.queue_bytes));
        }
        #[cfg(feature = "redis")]
        if let Some(bus) = self.bus.clone() {
            bus.check()?;
            return Ok(Post::with_bus(self.count, self.queue_bytes, run, bus));
        }
        Ok(Post::new(self.count, self.queue_bytes, run))
    }
}

/// Threads that have not been told to begin. If they are dropped, they end, and are waited for.
struct Threads<S>(Vec<(mpsc::Sender<Begin<S>>, JoinHandle<()>)>);

impl<S> Threads<S> {
    fn begin(mut self, mut listeners: Vec<(Listener, Over)>, loops: &LoopsHandle<S>) {
        for (begin, _) in self.0.drain(..) {
            // Only the first loop listens.
            let listeners = std::mem::take(&mut listeners);
            let _ = begin.send(Begin { listeners, loops: loops.handles() });
        }
    }
}

impl<S> Drop for Threads<S> {
    fn drop(&mut self) {
        for (begin, thread) in self.0.drain(..) {
            drop(begin);
            let _ = thread.join(); // Its panics were caught.
        }
    }
}

impl fmt::Debug for Loops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loops")
            .field("count", &self.count)
            .field("addresses", &self.local_addrs())
            .finish_non_exhaustive()
    }
}
