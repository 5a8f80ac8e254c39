//! Listening sockets, and the connections that they accept.

use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::BorrowedFd;
#[cfg(unix)]
use std::path::Path;

use super::Server;
use super::paused_listeners::{ACCEPT_PAUSE, Shortage};
use crate::bus::HandedOver;
use crate::error::BindError;
#[cfg(feature = "_tls")]
use crate::transport::tls::{LEAST_BUFFER, Tls};
use crate::transport::{Accepted, Listener, ListeningSocket, Over, PlainStream};

/// The most connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;

impl<S> Server<S> {
    /// Listens on one more address. Returns the address, with the port that the system chose if it
    /// was 0. If a name has several addresses, the server listens on the first that the operating
    /// system accepts.
    ///
    /// As many connections may wait to be accepted as the system allows: on Linux that is
    /// `net.core.somaxconn`, 4096 by default. A socket that is made elsewhere
    /// ([`listen_on`](Self::listen_on)) keeps its own limit, which is 128 for a
    /// [`std::net::TcpListener`].
    ///
    /// # Errors
    ///
    /// [`BindError::Listen`] with the address and the operating system's error;
    /// [`BindError::Resolve`] and [`BindError::NoAddress`] if there is no address to try;
    /// [`BindError::ShutDown`] after a shutdown was asked for.
    pub fn listen(&mut self, address: impl ToSocketAddrs) -> Result<SocketAddr, BindError> {
        self.listen_at(address, Over::Plain)
    }

    fn listen_at(
        &mut self,
        address: impl ToSocketAddrs,
        over: Over,
    ) -> Result<SocketAddr, BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        let listener = Listener::bind_first(address, self.options)?;
        let address = listener.address().ok_or(BindError::NoAddress)?;
        match self.watch(listener, over) {
            Ok(()) => Ok(address),
            Err(error) => Err(BindError::Listen { address, error: error.into() }),
        }
    }

    /// Listens on a Unix socket at `path`, in addition to other sockets. The call makes the
    /// socket's file. The file is removed when the server stops listening or is dropped, unless
    /// another file has taken its place.
    ///
    /// An existing file is never removed, because another server may be listening on it: after a
    /// crash, remove it first. The permissions of the directory and of the file decide which
    /// processes may connect; the file's permissions depend on the process's umask.
    ///
    /// Two things differ from TCP. First, a connection that fails in the middle of a message ends
    /// without a reset: the message is incomplete, and the peer can only see that from its length.
    /// Second, a Unix socket is read until it would block, which costs one more system call for
    /// each event. The reason is that a read ends at passed descriptors (`SCM_RIGHTS`), and no
    /// event reports that more data lies behind them. The descriptors are closed at once.
    ///
    /// # Errors
    ///
    /// [`BindError::ListenUnix`] with the path and the operating system's error;
    /// [`BindError::ShutDown`] after a shutdown was asked for.
    #[cfg(unix)]
    pub fn listen_unix(&mut self, path: impl AsRef<Path>) -> Result<(), BindError> {
        self.listen_at_path(path.as_ref(), Listener::bind_unix, Over::Plain)
    }

    /// Listens on a Unix socket like [`listen_unix`](Self::listen_unix), but first removes the file
    /// of a socket at which no process answers, left by a server that has crashed.
    ///
    /// Several servers may do this at one path at the same time: they take turns, by a lock on a
    /// file beside it with `.lock` behind its name. That file stays. A file that is not a socket is
    /// never removed. What is not guaranteed: a program that binds the path in another way, and has
    /// not called listen(2) yet, does not answer either.
    ///
    /// # Errors
    ///
    /// The same as those of [`listen_unix`](Self::listen_unix), and the operating system's error
    /// about the lock's file.
    #[cfg(unix)]
    pub fn listen_unix_replacing_stale(&mut self, path: impl AsRef<Path>) -> Result<(), BindError> {
        let bind = Listener::bind_unix_replacing_stale;
        self.listen_at_path(path.as_ref(), bind, Over::Plain)
    }

    #[cfg(unix)]
    fn listen_at_path(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> std::io::Result<Listener>,
        over: Over,
    ) -> Result<(), BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        bind(path)
            .and_then(|listener| self.watch(listener, over))
            .map_err(|error| BindError::ListenUnix { path: path.to_owned(), error: error.into() })
    }

    /// Listens on a socket that was made elsewhere: a [`std::net::TcpListener`] or a
    /// [`std::os::unix::net::UnixListener`]. A Unix socket's file stays when the server stops.
    ///
    /// If several processes hold a socket, the first process that accepts a connection gets it, and
    /// no connection is refused as long as one of them lives. So one server can be replaced by
    /// another without a refused connection.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use ikisocket::{Server, Shutdown};
    ///
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// let mut old = Server::builder().build(())?;
    /// old.listen_on(socket.try_clone()?)?;
    ///
    /// // The second server, usually in a process of its own.
    /// let mut new = Server::builder().build(())?;
    /// new.listen_on(socket)?;
    /// // The new server gets all new connections; open ones continue on the old server.
    /// old.stop_listening();
    /// // Later: end the remaining connections.
    /// old.sockets().shutdown(Shutdown::default())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BindError::NotListening`] if listen(2) was not called on the socket, as far as the system
    /// reports it (Linux, Android and FreeBSD do); [`BindError::HandedOver`] if the operating
    /// system cannot use the socket; [`BindError::ShutDown`] after a shutdown was asked for.
    pub fn listen_on(&mut self, socket: impl Into<ListeningSocket>) -> Result<(), BindError> {
        self.listen_on_made(socket.into(), Over::Plain)
    }

    fn listen_on_made(&mut self, socket: ListeningSocket, over: Over) -> Result<(), BindError> {
        if self.hub.stopping.is_some() {
            return Err(BindError::ShutDown);
        }
        let listener = Listener::handed_over(socket, self.options)?;
        self.watch(listener, over).map_err(|error| BindError::HandedOver { error: error.into() })
    }

    /// Listens on every socket that systemd passes to this process (`LISTEN_PID`, `LISTEN_FDS`,
    /// descriptors from 3 on; see sd_listen_fds(3)), TCP or Unix. Returns how many there are. That
    /// is 0 if the process was started in another way, if `LISTEN_PID` is missing, and from the
    /// second call on. It needs the feature `listenfd`.
    ///
    /// It removes both variables from the environment: call it before other threads start.
    ///
    /// ```no_run
    /// let mut server = ikisocket::Server::builder().build(())?;
    /// if server.listen_fds()? == 0 {
    ///     server.listen("127.0.0.1:3000")?;
    /// }
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BindError::ListenFd`] with the first descriptor that is not a listening stream socket, as
    /// far as the system reports it (see [`listen_on`](Self::listen_on)). Then the server listens
    /// on none of them, and every stream socket among them is closed. [`BindError::HandedOver`] if
    /// the operating system cannot use one of them; the server then listens on those before it.
    /// [`BindError::ShutDown`] after a shutdown was asked for.
    #[cfg(all(unix, feature = "listenfd"))]
    pub fn listen_fds(&mut self) -> Result<usize, BindError> {
        self.listen_on_passed(Over::Plain)
    }

    #[cfg(all(unix, feature = "listenfd"))]
    fn listen_on_passed(&mut self, over: Over) -> Result<usize, BindError> {
        let passed = ListeningSocket::take_passed()?;
        let count = passed.len();
        for socket in passed {
            self.listen_on_made(socket, over.clone())?;
        }
        Ok(count)
    }

    // The same over TLS.

    /// Listens on one more address like [`listen`](Self::listen), for connections over TLS
    /// (`wss://` and `https://`). Other sockets of the same server may be plain, or have other
    /// settings. It needs the feature `tls`; see the [chapter on TLS](crate::manual::tls).
    ///
    /// The server keeps a clone of `tls`: what is changed in it later, for instance by
    /// [`Tls::replace`], holds for this address too.
    ///
    /// The handshake and the request together have
    /// [`Builder::handshake_timeout`](crate::Builder::handshake_timeout), and
    /// [`Builder::handshake_time`](crate::Builder::handshake_time) says how much of a turn
    /// handshakes take. If one fails, no event fires: [`Stats::tls`](crate::Stats::tls) counts it,
    /// and the log has a line of level `debug`. A plain HTTP request at this address gets a
    /// readable 400.
    ///
    /// A server that speaks TLS has a receive buffer of at least 36 KiB, also if
    /// [`Builder::receive_buffer`](crate::Builder::receive_buffer) is less, because a record is
    /// decrypted whole.
    ///
    /// ```
    /// use ikisocket::{Server, Tls};
    ///
    /// # let (chain, key) = ("tests/tls/localhost.pem", "tests/tls/localhost.key");
    /// let tls = Tls::pem(chain, key)?;
    /// let mut server = Server::bind("127.0.0.1:0", ())?; // plain, for a health check
    /// let address = server.listen_tls("127.0.0.1:0", &tls)?;
    /// assert_eq!(server.local_addrs()[1], address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`listen`](Self::listen). What can be wrong with certificates is an
    /// error of [`Tls::pem`] already.
    #[cfg(feature = "_tls")]
    pub fn listen_tls(
        &mut self,
        address: impl ToSocketAddrs,
        tls: &Tls,
    ) -> Result<SocketAddr, BindError> {
        self.listen_at(address, Over::Tls(tls.clone()))
    }

    /// Listens on a Unix socket like [`listen_unix`](Self::listen_unix), for connections over TLS
    /// ([`listen_tls`](Self::listen_tls)): for a proxy that passes encrypted connections on as they
    /// are. To replace the file of a server that has crashed, bind the path yourself and use
    /// [`listen_on_tls`](Self::listen_on_tls).
    ///
    /// ```no_run
    /// # let tls = ikisocket::Tls::pem("chain.pem", "key.pem")?;
    /// # let mut server = ikisocket::Server::builder().build(())?;
    /// server.listen_unix_tls("/run/chat/tls.sock", &tls)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`listen_unix`](Self::listen_unix).
    #[cfg(all(unix, feature = "_tls"))]
    pub fn listen_unix_tls(&mut self, path: impl AsRef<Path>, tls: &Tls) -> Result<(), BindError> {
        self.listen_at_path(path.as_ref(), Listener::bind_unix, Over::Tls(tls.clone()))
    }

    /// Listens on a Unix socket like
    /// [`listen_unix_replacing_stale`](Self::listen_unix_replacing_stale), for connections over
    /// TLS. It needs the feature `tls`.
    ///
    /// # Errors
    ///
    /// The same as those of [`listen_unix_replacing_stale`](Self::listen_unix_replacing_stale).
    #[cfg(all(unix, feature = "_tls"))]
    pub fn listen_unix_replacing_stale_tls(
        &mut self,
        path: impl AsRef<Path>,
        tls: &Tls,
    ) -> Result<(), BindError> {
        let bind = Listener::bind_unix_replacing_stale;
        self.listen_at_path(path.as_ref(), bind, Over::Tls(tls.clone()))
    }

    /// Listens on a socket that was made elsewhere like [`listen_on`](Self::listen_on), for
    /// connections over TLS ([`listen_tls`](Self::listen_tls)). If another process accepts from the
    /// same socket, it has to speak TLS too. Its tickets have other keys, so clients that reach it
    /// make a full handshake.
    ///
    /// ```
    /// # use ikisocket::{Server, Tls};
    /// # let tls = Tls::pem("tests/tls/localhost.pem", "tests/tls/localhost.key")?;
    /// # let mut server = Server::builder().build(())?;
    /// server.listen_on_tls(std::net::TcpListener::bind("127.0.0.1:0")?, &tls)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`listen_on`](Self::listen_on).
    #[cfg(feature = "_tls")]
    pub fn listen_on_tls(
        &mut self,
        socket: impl Into<ListeningSocket>,
        tls: &Tls,
    ) -> Result<(), BindError> {
        self.listen_on_made(socket.into(), Over::Tls(tls.clone()))
    }

    /// Listens on every socket that systemd passes like [`listen_fds`](Self::listen_fds), for
    /// connections over TLS ([`listen_tls`](Self::listen_tls)). It also needs the feature
    /// `listenfd`. All sockets of the unit speak TLS then; a plain one needs an address of its own.
    ///
    /// ```no_run
    /// # let tls = ikisocket::Tls::pem("chain.pem", "key.pem")?;
    /// # let mut server = ikisocket::Server::builder().build(())?;
    /// if server.listen_fds_tls(&tls)? == 0 {
    ///     server.listen_tls("127.0.0.1:3443", &tls)?; // started by hand
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`listen_fds`](Self::listen_fds).
    #[cfg(all(unix, feature = "listenfd", feature = "_tls"))]
    pub fn listen_fds_tls(&mut self, tls: &Tls) -> Result<usize, BindError> {
        self.listen_on_passed(Over::Tls(tls.clone()))
    }

    /// Lets the poll watch a listening socket.
    fn watch(&mut self, socket: Listener, over: Over) -> std::io::Result<()> {
        #[cfg(unix)]
        let duplicate =
            self.hub.link.as_ref().map(|_| socket.fd().try_clone_to_owned()).transpose()?;
        self.watch_noted(socket, over)?;
        #[cfg(unix)]
        if let (Some(link), Some(duplicate)) = (&self.hub.link, duplicate) {
            link.post().note_listening(link.index(), duplicate);
        }
        Ok(())
    }

    /// The same for a socket that the loops of the process have noted.
    pub(crate) fn watch_noted(&mut self, socket: Listener, over: Over) -> std::io::Result<()> {
        #[cfg(feature = "_tls")]
        if let Over::Tls(_) = over {
            self.widen_buffer();
        }
        self.reactor.listen(socket, over)
    }

    /// Makes the buffer as long as TLS needs it. In a turn, that happens at its end.
    #[cfg(feature = "_tls")]
    pub(super) fn widen_buffer(&mut self) {
        self.least_buffer = LEAST_BUFFER;
        if !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            self.put_back(buffer);
        }
    }

    /// Puts the buffer back that a turn has used.
    #[inline]
    pub(super) fn put_back(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
        #[cfg(feature = "_tls")]
        if self.buffer_len < self.least_buffer {
            self.buffer.resize(self.least_buffer, 0);
            self.buffer_len = self.least_buffer;
            self.set_most_read();
        }
    }

    /// Stops listening on every socket. Open connections continue, and requests on accepted
    /// connections are answered. Afterwards the server may listen again. Without a listening socket
    /// the call does nothing.
    ///
    /// The server closes its own copies of the sockets, and removes the files of sockets that
    /// [`listen_unix`](Self::listen_unix) made. What happens to connections that wait to be
    /// accepted depends on other holders of the socket.
    ///
    /// - If no other process holds the socket, the operating system refuses them.
    /// - If a second server does ([`listen_on`](Self::listen_on), `listen_fds`), none is refused:
    ///   start that server, wait until it listens, then stop here. From then on it gets every new
    ///   connection, and this server serves its own as long as they last.
    ///
    /// A [`shutdown`](crate::Sockets::shutdown) also stops listening, and closes the connections.
    pub fn stop_listening(&mut self) {
        if let Some(link) = &self.hub.link {
            link.post().forget_listening(link.index());
        }
        self.reactor.stop_listening();
        self.backlog.take_listeners();
        self.shortage = Shortage::default();
    }

    /// The descriptors of all listening sockets, also of those that were handed over, to pass them
    /// on to another process. [`try_clone_to_owned`](BorrowedFd::try_clone_to_owned) makes a
    /// descriptor that may outlive the server.
    ///
    /// ```
    /// use ikisocket::Server;
    ///
    /// let mut old = Server::bind("127.0.0.1:0", ())?;
    /// let socket = old.listening_fds().next().unwrap().try_clone_to_owned()?;
    /// let mut new = Server::builder().build(())?; // the successor
    /// new.listen_on(std::net::TcpListener::from(socket))?;
    /// assert_eq!(new.local_addr(), old.local_addr());
    /// old.stop_listening();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(unix)]
    pub fn listening_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.reactor.listening_fds()
    }

    /// The first TCP address on which the server listens.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.reactor.addresses().next()
    }

    /// All TCP addresses on which the server listens.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.reactor.addresses().collect()
    }

    pub(super) fn accept(&mut self, listener: usize) {
        if self.hub.stopping.is_some() {
            return;
        }
        let now = self.hub.now;
        for _ in 0..ACCEPTS_PER_TURN.min(self.work_per_turn) {
            match self.reactor.accept(listener) {
                Accepted::None => return,
                Accepted::Stream(socket, peer) => {
                    self.turn.accepted += 1;
                    let over = self.reactor.over(listener).clone();
                    let accepted = HandedOver { socket, peer, over };
                    let own = match &mut self.hub.link {
                        Some(link) => link.assign(accepted),
                        None => Some(accepted),
                    };
                    if let Some(own) = own {
                        self.begin(own, Some(listener));
                    }
                }
                Accepted::Exhausted(error) => {
                    if self.shortage.begins(Some(listener), now) {
                        log::warn!(
                            "cannot accept: {error}; trying again when a connection ends, or in {ACCEPT_PAUSE} ms"
                        );
                    }
                    return self.shortage.pause(listener, now);
                }
            }
            if !self.reactor.may_accept_more(listener) {
                return;
            }
        }
        self.backlog.push_listener(listener);
    }

    /// Begins the connection of a socket that was accepted, here or by another loop.
    pub(super) fn begin(&mut self, accepted: HandedOver, listener: Option<usize>) {
        let HandedOver { socket, peer, over } = accepted;
        #[cfg(feature = "_tls")]
        if let Over::Tls(_) = over {
            self.widen_buffer();
        }
        let socket = PlainStream::from(socket);
        self.reactor.short_may_hide |= !socket.short_means_empty();
        let stream = self.reactor.stream(socket, &over);
        let Some(token) = self.hub.insert(stream, peer) else {
            self.hub.connections_ended(1);
            return;
        };
        let Some(connection) = self.hub.get_mut(token) else { return };
        if let Err(error) = self.reactor.register(connection.stream.socket_mut(), token) {
            if self.shortage.begins(listener, self.hub.now) {
                log::warn!("cannot watch the connection from {peer}: {error}; it is closed");
            }
            self.hub.socket_failed(token, error);
        }
    }

    /// Makes listeners that found no free descriptor try again in the next turn, if there may be
    /// one now.
    #[inline]
    pub(super) fn resume_listeners(&mut self) {
        if self.turn.closed > 0 || self.shortage.resume_at <= self.hub.now {
            for listener in self.shortage.resume() {
                self.backlog.push_listener(listener);
            }
        }
    }
}
