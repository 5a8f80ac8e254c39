//! Listening sockets, made here or handed over, TCP or Unix, and the connections that they accept.
//!
//! It knows sockets, their files and the errors of both. It knows no events of the poll and no
//! connection.

use std::fmt;
#[cfg(unix)]
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt;
#[cfg(unix)]
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::{UnixListener, UnixStream};
#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(unix)]
use rustix::io::Errno;
use socket2::SockRef;
#[cfg(unix)]
use socket2::{Domain, SockAddr, Type};

use super::plain::{SHORT_MEANS_EMPTY, Socket};
use crate::error::BindError;
use crate::transport::{PeerAddress, canonical};

/// The number of successive peers that may fail during accept before the listening socket itself is
/// suspected.
const FAILURES: u32 = 64;

/// The most connections that may wait to be accepted: systems lower it to their own limit
/// (`net.core.somaxconn`, which is 4096 since Linux 5.4).
const BACKLOG: i32 = i32::MAX;

/// A listening socket that was made elsewhere, for [`Server::listen_on`](crate::Server::listen_on).
/// It is made from a [`std::net::TcpListener`], or on Unix from a
/// [`std::os::unix::net::UnixListener`].
///
/// The socket becomes non-blocking, which also affects every holder of a duplicate of it.
#[derive(Debug)]
pub struct ListeningSocket(Made);

#[derive(Debug)]
enum Made {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl From<std::net::TcpListener> for ListeningSocket {
    fn from(socket: std::net::TcpListener) -> Self {
        Self(Made::Tcp(socket))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for ListeningSocket {
    fn from(socket: std::os::unix::net::UnixListener) -> Self {
        Self(Made::Unix(socket))
    }
}

impl ListeningSocket {
    /// Whether listen(2) was called on it. The type that it was made from does not guarantee that:
    /// it may hold any descriptor.
    pub(crate) fn is_listening(&self) -> io::Result<bool> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        return match &self.0 {
            Made::Tcp(socket) => SockRef::from(socket).is_listener(),
            Made::Unix(socket) => SockRef::from(socket).is_listener(),
        };
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
        Ok(true)
    }

    /// Takes the sockets that systemd has passed: all of them, or none.
    #[cfg(all(unix, feature = "listenfd"))]
    pub(crate) fn take_passed() -> Result<Vec<Self>, BindError> {
        // Without it they may be meant for another process, and the numbers may be any descriptors
        // of this one.
        if std::env::var_os("LISTEN_PID").is_none_or(|pid| pid.is_empty()) {
            return Ok(Vec::new());
        }
        let mut passed = listenfd::ListenFd::from_env();
        // A descriptor that was taken is closed when it is dropped; the others stay open.
        let taken: Vec<_> = (0..passed.len())
            .map(|index| match passed.take_tcp_listener(index) {
                Ok(socket) => socket.map(Self::from),
                Err(_) => passed.take_unix_listener(index).ok().flatten().map(Self::from),
            })
            .collect();
        let listening = |(index, socket): (usize, Option<Self>)| {
            socket
                .filter(|socket| socket.is_listening().unwrap_or(false))
                .ok_or(BindError::ListenFd { index })
        };
        taken.into_iter().enumerate().map(listening).collect()
    }
}

/// Refuses an empty path: Linux would listen under a name of its own choice, which no client knows
/// (unix(7), autobind).
#[cfg(unix)]
fn refuse_empty(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path is empty"));
    }
    Ok(())
}

/// Whether this is the file of a socket at which no process answers.
#[cfg(unix)]
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = || {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // If the process at the other end has many connections to accept, connecting would wait:
        // that process is alive.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && refused().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The options of TCP connections.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) nodelay: bool,
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    pub(crate) notsent_lowat: usize,
}

impl Options {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn set_notsent_lowat<'s, S>(self, socket: &'s S) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        // 0 restores the system's default: an earlier server may have set the option on a shared
        // socket.
        let bytes = i32::try_from(self.notsent_lowat).unwrap_or(0);
        SockRef::from(socket).set_tcp_notsent_lowat(bytes.unsigned_abs())
    }
}

/// A socket on which the server listens.
pub(crate) enum Listener {
    Tcp {
        socket: TcpListener,
        address: SocketAddr,
        options: Options,
    },
    #[cfg(unix)]
    Unix {
        /// The socket's file, if it was made here: then it is removed before the socket is closed.
        _file: Option<SocketFile>,
        socket: UnixListener,
    },
}

/// The result of one attempt to accept.
pub(crate) enum Accepted {
    Stream(Socket, PeerAddress),
    /// No connection is waiting.
    None,
    /// The process or the system has no descriptor or memory left for another connection, or the
    /// listener itself is broken.
    Exhausted(io::Error),
}

impl Listener {
    fn bind(address: SocketAddr, options: Options) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        // mio allows 128. While more wait, because many connect or a callback takes long, Linux
        // drops each SYN, and its client tries again after a second.
        SockRef::from(&socket).listen(BACKLOG)?;
        Self::of_tcp(socket, options)
    }

    /// Listens on the first address of a name that the operating system accepts.
    pub(crate) fn bind_first(
        addresses: impl ToSocketAddrs,
        options: Options,
    ) -> Result<Self, BindError> {
        let mut last = BindError::NoAddress;
        for address in addresses
            .to_socket_addrs()
            .map_err(|error| BindError::Resolve { reason: error.to_string() })?
        {
            match Self::bind(address, options) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = BindError::Listen { address, error: error.into() },
            }
        }
        Err(last)
    }

    /// Listens on a socket that was made elsewhere.
    pub(crate) fn handed_over(
        socket: ListeningSocket,
        options: Options,
    ) -> Result<Self, BindError> {
        let handed_over = |error: io::Error| BindError::HandedOver { error: error.into() };
        if !socket.is_listening().map_err(handed_over)? {
            return Err(BindError::NotListening);
        }
        Self::from_made(socket, options).map_err(handed_over)
    }

    #[cfg(unix)]
    pub(crate) fn bind_unix(path: &Path) -> io::Result<Self> {
        refuse_empty(path)?;
        let socket = UnixListener::bind(path)?;
        Ok(Self::Unix { _file: SocketFile::at(path), socket })
    }

    /// Listens at a path, in one of these ways.
    #[cfg(unix)]
    pub(crate) fn at_path(
        path: &Path,
        bind: impl FnOnce(&Path) -> io::Result<Self>,
    ) -> Result<Self, BindError> {
        bind(path)
            .map_err(|error| BindError::ListenUnix { path: path.to_owned(), error: error.into() })
    }

    /// The same as [`bind_unix`](Self::bind_unix), but a socket's file at which no process answers
    /// is removed first.
    #[cfg(unix)]
    pub(crate) fn bind_unix_replacing_stale(path: &Path) -> io::Result<Self> {
        refuse_empty(path)?;
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(lock)?;
        // Servers that do this at the same time take turns: none removes a file that another has
        // just made. Closing the file unlocks it.
        lock.lock()?;
        match Self::bind_unix(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(path) => {
                log::info!("no process answers at {}: it is replaced", path.display());
                std::fs::remove_file(path)?;
                Self::bind_unix(path)
            }
            result => result,
        }
    }

    fn from_made(socket: ListeningSocket, options: Options) -> io::Result<Self> {
        match socket.0 {
            Made::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Self::of_tcp(TcpListener::from_std(socket), options)
            }
            #[cfg(unix)]
            Made::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Self::Unix { _file: None, socket: UnixListener::from_std(socket) })
            }
        }
    }

    fn of_tcp(socket: TcpListener, options: Options) -> io::Result<Self> {
        let address = canonical(socket.local_addr()?);
        // On Linux an accepted socket inherits these options, which saves system calls for each
        // connection.
        #[cfg(target_os = "linux")]
        {
            SockRef::from(&socket).set_tcp_nodelay(options.nodelay)?;
            if let Err(error) = options.set_notsent_lowat(&socket) {
                log::warn!("cannot set TCP_NOTSENT_LOWAT of {address}: {error}");
            }
        }
        Ok(Self::Tcp { socket, address, options })
    }

    /// Its TCP address, if it is a TCP socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { address, .. } => Some(*address),
            #[cfg(unix)]
            Self::Unix { .. } => None,
        }
    }

    /// Whether every short read from its connections means that the socket is empty: see
    /// `PlainStream::short_means_empty`.
    pub(crate) fn short_means_empty(&self) -> bool {
        match self {
            Self::Tcp { .. } => SHORT_MEANS_EMPTY,
            #[cfg(unix)]
            Self::Unix { .. } => false,
        }
    }

    /// Its descriptor.
    #[cfg(unix)]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { socket, .. } => socket.as_fd(),
            Self::Unix { socket, .. } => socket.as_fd(),
        }
    }

    /// The source that the poll watches.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp { socket, .. } => socket,
            #[cfg(unix)]
            Self::Unix { socket, .. } => socket,
        }
    }

    pub(crate) fn accept(&self) -> Accepted {
        let mut failures = 0;
        loop {
            match self.accept_one() {
                Ok((stream, peer)) => return Accepted::Stream(stream, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Accepted::None,
                Err(error) if is_exhaustion(&error) || failures == FAILURES => {
                    return Accepted::Exhausted(error);
                }
                // An error of the peer that was to be accepted, not of the listener: the peer has
                // disconnected already (accept(2)).
                Err(_) => failures += 1,
            }
        }
    }

    /// Whether another connection may be waiting.
    ///
    /// accept(2) would say it too, but takes 3.6 µs if there is none, because Linux makes a socket
    /// and a file before it looks. poll(2) takes 0.3 µs.
    pub(crate) fn may_accept_more(&self) -> bool {
        #[cfg(unix)]
        {
            let fd = self.fd();
            let mut listener = [PollFd::new(&fd, PollFlags::IN)];
            // If poll(2) fails, accept(2) has the answer.
            !matches!(poll(&mut listener, Some(&Timespec::default())), Ok(0))
        }
        #[cfg(not(unix))]
        true
    }

    fn accept_one(&self) -> io::Result<(Socket, PeerAddress)> {
        match self {
            Self::Tcp { socket, options, .. } => {
                let (stream, peer) = socket.accept()?;
                if cfg!(not(target_os = "linux")) {
                    let _ = stream.set_nodelay(options.nodelay);
                    #[cfg(target_os = "android")]
                    let _ = options.set_notsent_lowat(&stream);
                }
                Ok((Socket::Tcp(stream), PeerAddress::Tcp(canonical(peer))))
            }
            #[cfg(unix)]
            Self::Unix { socket, .. } => {
                // Not mio's accept: it panics if a client has bound a path of 108 bytes. The kernel
                // reports a length of one byte more than `sockaddr_un` has (unix(7)).
                let (stream, _) = SockRef::from(socket).accept()?;
                let stream = std::os::unix::net::UnixStream::from(stream);
                stream.set_nonblocking(true)?;
                Ok((Socket::Unix(UnixStream::from_std(stream)), PeerAddress::Unix))
            }
        }
    }
}

/// Shows the address or path on which it listens.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            #[cfg(unix)]
            Self::Unix { socket, .. } => {
                match socket.local_addr().ok().as_ref().and_then(|a| a.as_pathname()) {
                    Some(path) => path.display().fmt(f),
                    None => f.write_str("a Unix socket without a path"),
                }
            }
        }
    }
}

/// The file of a Unix socket. It is removed when the server stops listening. If another program has
/// put a different file in its place, that file stays.
#[cfg(unix)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode. While the socket is open, the inode's number is given to no other file.
    id: (u64, u64),
}

#[cfg(unix)]
impl SocketFile {
    fn at(path: &Path) -> Option<Self> {
        // The process may have changed its directory by the time the file is removed.
        let path = std::path::absolute(path).ok()?;
        let id = Self::id_of(&path)?;
        Some(Self { path, id })
    }

    fn id_of(path: &Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::id_of(&self.path) == Some(self.id)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove the socket file {}: {error}", self.path.display());
        }
    }
}

/// Whether accepting has to wait until a descriptor or memory is free.
#[cfg(unix)]
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(not(unix))]
fn is_exhaustion(error: &io::Error) -> bool {
    error.kind() == ErrorKind::OutOfMemory
}
