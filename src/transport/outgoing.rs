//! A connection to another process that is being made, without waiting for it.
//!
//! It knows sockets, addresses and the errors of connecting. It knows no poll, no clock and no
//! names: the caller registers each stream, and asks at its events.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;

use super::plain::PlainStream;

/// Where to connect.
#[derive(Clone, Debug)]
pub(crate) enum Remote {
    /// At one of these addresses: each is tried until one answers.
    Tcp(Vec<SocketAddr>),
    #[cfg(unix)]
    Unix(PathBuf),
}

/// A connection that is being made.
///
/// 1. The caller registers [`stream`](Self::stream) for reading and writing, edge-triggered.
/// 2. At each event of it the caller calls [`check`](Self::check), until that is not
///    [`Progress::Pending`]. A check without an event does no harm.
/// 3. After [`Progress::Another`] it goes on with 1: the previous stream is closed.
/// 4. After [`Progress::Connected`] it takes the stream by [`into_stream`](Self::into_stream). The
///    stream stays registered.
#[derive(Debug)]
pub(crate) struct Connecting {
    stream: PlainStream,
    /// The addresses that were not tried.
    rest: std::vec::IntoIter<SocketAddr>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The peer has not answered. An event follows when it does.
    Pending,
    Connected,
    /// The last address has failed. There is a new stream to the next one, to be registered.
    Another,
}

impl Connecting {
    /// Begins to connect. The error is that of the last address; a Unix socket whose backlog is
    /// full is [`ErrorKind::WouldBlock`].
    pub(crate) fn begin(remote: Remote) -> io::Result<Self> {
        match remote {
            Remote::Tcp(addresses) => {
                let mut rest = addresses.into_iter();
                let stream = first(&mut rest, ErrorKind::AddrNotAvailable.into())?;
                Ok(Self { stream, rest })
            }
            #[cfg(unix)]
            Remote::Unix(path) => {
                let stream = PlainStream::Unix(UnixStream::connect(path)?);
                Ok(Self { stream, rest: Vec::new().into_iter() })
            }
        }
    }

    /// The stream to the present address.
    pub(crate) fn stream(&mut self) -> &mut PlainStream {
        &mut self.stream
    }

    /// Looks whether the connection is made. The error is that of the last address.
    pub(crate) fn check(&mut self) -> io::Result<Progress> {
        match is_connected(&self.stream) {
            Ok(true) => Ok(Progress::Connected),
            Ok(false) => Ok(Progress::Pending),
            Err(error) => self.go_on(error),
        }
    }

    /// Whether no other address is left to be tried.
    pub(crate) fn is_last(&self) -> bool {
        self.rest.as_slice().is_empty()
    }

    /// Goes on with the next address, because the present one does not answer. Without another
    /// address the error is [`ErrorKind::TimedOut`].
    pub(crate) fn skip(&mut self) -> io::Result<Progress> {
        self.go_on(ErrorKind::TimedOut.into())
    }

    /// The stream, once it is connected.
    pub(crate) fn into_stream(self) -> PlainStream {
        self.stream
    }

    fn go_on(&mut self, error: io::Error) -> io::Result<Progress> {
        self.stream = first(&mut self.rest, error)?;
        Ok(Progress::Another)
    }
}

/// A stream to the first of these addresses at which the system does not refuse at once. `error` is
/// what comes out if there is no address.
fn first(
    addresses: &mut std::vec::IntoIter<SocketAddr>,
    mut error: io::Error,
) -> io::Result<PlainStream> {
    for address in addresses {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(PlainStream::Tcp(stream)),
            Err(failure) => error = failure,
        }
    }
    Err(error)
}

/// Whether a stream is connected; the error if it never will be.
fn is_connected(stream: &PlainStream) -> io::Result<bool> {
    match stream {
        PlainStream::Tcp(tcp) => {
            if let Some(error) = tcp.take_error()? {
                return Err(error);
            }
            let Some(peer) = connected(tcp.peer_addr())? else { return Ok(false) };
            // A system may choose the very port that it is asked to connect to, if no process
            // listens there: then the socket is connected to itself. It would keep the port from
            // the process that should listen there.
            if tcp.local_addr()? == peer {
                stream.reset_on_drop();
                return Err(ErrorKind::ConnectionRefused.into());
            }
            // Windows takes this option only when the stream is connected.
            tcp.set_nodelay(true)?;
            Ok(true)
        }
        #[cfg(unix)]
        PlainStream::Unix(unix) => match unix.take_error()? {
            Some(error) => Err(error),
            None => Ok(connected(unix.peer_addr())?.is_some()),
        },
        // It is made with its peer.
        #[cfg(feature = "testing")]
        PlainStream::Memory(_) => Ok(true),
    }
}

/// The peer's address, unless the stream has no peer yet.
fn connected<A>(peer: io::Result<A>) -> io::Result<Option<A>> {
    match peer {
        Ok(address) => Ok(Some(address)),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    use mio::{Events, Interest, Poll, Token};
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    /// Registers the present stream.
    fn register(poll: &Poll, connecting: &mut Connecting) {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match connecting.stream() {
            PlainStream::Tcp(tcp) => poll.registry().register(tcp, Token(0), interest),
            #[cfg(unix)]
            PlainStream::Unix(unix) => poll.registry().register(unix, Token(0), interest),
            #[cfg(feature = "testing")]
            PlainStream::Memory(_) => unreachable!(),
        }
        .unwrap();
    }

    /// Connects as a loop does.
    fn finish(mut connecting: Connecting) -> io::Result<PlainStream> {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(8);
        register(&poll, &mut connecting);
        loop {
            poll.poll(&mut events, None).unwrap();
            match connecting.check()? {
                Progress::Pending => {}
                Progress::Connected => return Ok(connecting.into_stream()),
                Progress::Another => register(&poll, &mut connecting),
            }
        }
    }

    fn connect(remote: Remote) -> io::Result<PlainStream> {
        finish(Connecting::begin(remote)?)
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A port at which no process listens. The socket keeps it from every other process.
    fn refusing() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// Whether bytes go from one end to the other.
    #[track_caller]
    fn assert_carries(stream: &mut PlainStream, mut peer: impl Read) {
        assert_eq!(stream.write(b"hello").unwrap(), 5);
        let mut read = [0; 5];
        peer.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
    }

    #[test]
    fn it_connects_to_a_listener_and_sends_small_writes_at_once() {
        let (listener, address) = listener();
        let mut stream = connect(Remote::Tcp(vec![address])).unwrap();
        assert_carries(&mut stream, listener.accept().unwrap().0);
        assert!(stream.tcp().unwrap().nodelay().unwrap());
    }

    #[test]
    fn if_one_address_refuses_the_next_is_tried() {
        let ((_kept, refuses), (_kept_too, refuses_too)) = (refusing(), refusing());
        let (listener, address) = listener();
        let (_unused, never_tried) = self::listener();
        let remote = Remote::Tcp(vec![refuses, refuses_too, address, never_tried]);
        let mut stream = connect(remote).unwrap();
        assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), address);
        assert_carries(&mut stream, listener.accept().unwrap().0);
    }

    #[test]
    fn if_all_addresses_fail_the_error_of_the_last_comes_out() {
        let ((_kept, refuses), (_kept_too, refuses_too)) = (refusing(), refusing());
        let error = connect(Remote::Tcp(vec![refuses, refuses_too])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = connect(Remote::Tcp(Vec::new())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_address_that_does_not_answer_can_be_skipped() {
        // Linux answers no SYN while more connections than its backlog wait to be accepted.
        let (silent, address) = refusing();
        silent.listen(0).unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        let (listener, answers) = listener();
        let mut connecting = Connecting::begin(Remote::Tcp(vec![address, answers])).unwrap();
        assert_eq!(connecting.check().unwrap(), Progress::Pending);
        assert!(!connecting.is_last());
        assert_eq!(connecting.skip().unwrap(), Progress::Another);
        assert!(connecting.is_last());
        let mut stream = finish(connecting).unwrap();
        assert_carries(&mut stream, listener.accept().unwrap().0);

        let mut last = Connecting::begin(Remote::Tcp(vec![address])).unwrap();
        assert_eq!(last.check().unwrap(), Progress::Pending);
        assert_eq!(last.skip().unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_that_is_connected_to_itself_was_refused() {
        let (socket, address) = refusing();
        socket.connect(&address.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let itself = PlainStream::Tcp(TcpStream::from_std(socket.into()));
        let mut connecting = Connecting { stream: itself, rest: Vec::new().into_iter() };
        assert_eq!(connecting.check().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(connecting);
        // The port is free at once for the process that should listen there.
        TcpListener::bind(address).unwrap();
    }

    #[cfg(unix)]
    mod unix {
        use super::*;

        /// A folder of this test alone.
        struct Folder(PathBuf);

        impl Folder {
            fn new(name: &str) -> Self {
                let name = format!("ikisocket-outgoing-{name}-{}", std::process::id());
                let path = std::env::temp_dir().join(name);
                std::fs::create_dir(&path).unwrap();
                Self(path)
            }
        }

        impl Drop for Folder {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }

        #[test]
        fn it_connects_to_a_unix_socket() {
            let folder = Folder::new("connects");
            let path = folder.0.join("socket");
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let mut stream = connect(Remote::Unix(path)).unwrap();
            assert_carries(&mut stream, listener.accept().unwrap().0);
        }

        #[test]
        fn a_path_without_a_socket_and_one_without_a_listener_are_named() {
            let folder = Folder::new("named");
            let path = folder.0.join("socket");
            let error = connect(Remote::Unix(path.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let error = connect(Remote::Unix(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }

        #[test]
        #[cfg(target_os = "linux")]
        fn a_full_backlog_is_a_failure_and_not_a_connection_in_progress() {
            let folder = Folder::new("full");
            let path = folder.0.join("socket");
            let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            listener.listen(0).unwrap();
            let _first = connect(Remote::Unix(path.clone())).unwrap();
            let error = Connecting::begin(Remote::Unix(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
}
