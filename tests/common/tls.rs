//! The same tests over TLS: with the feature `tls` and `IKISOCKET_TEST_TLS=1` in the environment,
//! servers listen with TLS, and clients speak it.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ikisocket::Server;
use ikisocket::testing::Harness;
use socket2::SockRef;

/// Whether the tests run over TLS.
pub fn over_tls() -> bool {
    cfg!(feature = "tls") && std::env::var_os("IKISOCKET_TEST_TLS").is_some_and(|set| set == "1")
}

/// Whether a test has nothing to test over TLS. It says so, with the reason.
#[must_use]
pub fn only_plain(reason: &str) -> bool {
    if over_tls() {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        // Not by `eprintln!`, which is shown of failed tests only.
        let _ = writeln!(io::stderr(), "{name}: nothing was tested over TLS, {reason}");
    }
    over_tls()
}

/// The bytes that a record of TLS 1.3 adds to what is written at once; 0 without TLS.
pub fn record_overhead() -> usize {
    if over_tls() { 22 } else { 0 }
}

thread_local! {
    /// The addresses at which servers of this test speak TLS.
    static SPEAK_TLS: RefCell<Vec<SocketAddr>> = const { RefCell::new(Vec::new()) };
}

/// Makes a server listen on a free port.
pub fn listen<S>(server: &mut Server<S>) {
    #[cfg(feature = "tls")]
    if over_tls() {
        let address = server.listen_tls("127.0.0.1:0", &session::settings()).unwrap();
        return SPEAK_TLS.with_borrow_mut(|addresses| addresses.push(address));
    }
    server.listen("127.0.0.1:0").unwrap();
}

/// A harness of a server: see [`Harness::new`].
pub fn harness<S>(server: Server<S>) -> Harness<S> {
    secured(Harness::new(server))
}

/// A harness of a server: see [`Harness::by_hand`].
pub fn harness_by_hand<S>(server: Server<S>) -> Harness<S> {
    secured(Harness::by_hand(server))
}

fn secured<S>(harness: Harness<S>) -> Harness<S> {
    #[cfg(feature = "tls")]
    if over_tls() {
        return harness.over_tls(&session::settings());
    }
    harness
}

/// A client's socket that never blocks, plain or with TLS on it.
///
/// A write takes bytes although the socket has not taken all of the record; the rest is written by
/// the next call. The end of the input is an error if close_notify has not come before it.
pub struct Stream {
    socket: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<RefCell<session::Session>>,
}

impl Stream {
    /// A client of a server. Over TLS the loop turns until the handshake is done.
    pub fn connect<S>(server: &mut Server<S>) -> Self {
        Self::over(TcpStream::connect(server.local_addr().unwrap()).unwrap(), server)
    }

    /// The same on a socket that is connected. It speaks TLS if [`listen`] chose that for its
    /// server.
    pub fn over<S>(socket: TcpStream, server: &mut Server<S>) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = server;
        let address = socket.peer_addr().unwrap();
        let speaks_tls = SPEAK_TLS.with_borrow(|addresses| addresses.contains(&address));
        debug_assert!(over_tls() || !speaks_tls);
        Self {
            #[cfg(feature = "tls")]
            tls: speaks_tls.then(|| session::Session::begin(&socket, server).into()),
            socket,
        }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// From now on it blocks until there is something to read, for at most this time.
    pub fn block(&self, at_most: Duration) {
        self.socket.set_nonblocking(false).unwrap();
        self.socket.set_read_timeout(Some(at_most)).unwrap();
    }

    /// Sends FIN; over TLS, close_notify before it.
    pub fn shutdown_write(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.borrow_mut().close(&self.socket);
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Sends FIN; over TLS, without close_notify.
    pub fn truncate(mut self) {
        self.forget_session();
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends with a reset.
    pub fn reset(mut self) {
        self.forget_session();
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Prevents the end of the session.
    fn forget_session(&mut self) {
        #[cfg(feature = "tls")]
        drop(self.tls.take());
    }
}

/// Dropped, it sends FIN, and over TLS close_notify before it.
#[cfg(feature = "tls")]
impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().close(&self.socket);
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().read(&self.socket, into);
        }
        (&self.socket).read(into)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().write(&self.socket, bytes);
        }
        (&self.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.borrow_mut().flush(&self.socket);
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self).read(into)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

#[cfg(feature = "tls")]
#[path = "certificates.rs"]
pub mod certificates;

#[cfg(feature = "tls")]
mod session {
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::sync::{Arc, LazyLock};
    use std::time::{Duration, Instant};

    use ikisocket::{Server, Tls};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection};

    use super::certificates;

    /// The most plaintext of one write.
    const RECORD: usize = 16 * 1024;
    /// The tickets that a server sends behind a handshake.
    const TICKETS: u32 = 2;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The settings of the server.
    pub fn settings() -> Tls {
        static TLS: LazyLock<Tls> = LazyLock::new(|| certificates::tls_as("localhost"));
        TLS.clone()
    }

    /// A client's settings: it trusts the test's root, and begins each session anew.
    fn config() -> Arc<ClientConfig> {
        static CONFIG: LazyLock<Arc<ClientConfig>> =
            LazyLock::new(|| certificates::forgetful(rustls::ALL_VERSIONS, None));
        CONFIG.clone()
    }

    pub struct Session(ClientConnection);

    impl Session {
        /// A session whose handshake is done, and whose tickets have been read: an unread byte
        /// would turn the client's close into a reset.
        pub fn begin<S>(socket: &TcpStream, server: &mut Server<S>) -> Self {
            let name = ServerName::try_from("localhost").unwrap();
            let mut session = Self(ClientConnection::new(config(), name).unwrap());
            let started = Instant::now();
            while session.0.is_handshaking() || session.0.tls13_tickets_received() < TICKETS {
                assert!(started.elapsed() < PATIENCE, "the handshake is not done in {PATIENCE:?}");
                session.flush(socket).or_else(if_would_block).unwrap();
                session.take_in(socket, usize::MAX).or_else(if_would_block).unwrap();
                server.poll(Some(Duration::from_millis(1))).unwrap();
            }
            session
        }

        /// Reads from the socket once, up to `most` bytes; returns whether that was the end.
        fn take_in(&mut self, socket: &TcpStream, most: usize) -> io::Result<bool> {
            let read = self.0.read_tls(&mut socket.take(most as u64))?;
            self.0.process_new_packets().map_err(io::Error::other)?;
            Ok(read == 0)
        }

        pub fn read(&mut self, mut socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
            let _ = self.flush(socket);
            loop {
                match self.0.reader().read(into) {
                    // close_notify: FIN comes behind it.
                    Ok(0) => {
                        let behind = socket.read(&mut [0])?;
                        assert_eq!(behind, 0, "a byte behind close_notify");
                        return Ok(0);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => return result,
                }
                // A client that reads little takes little from the socket, but not single bytes.
                if self.take_in(socket, into.len().max(1024))? {
                    return self.0.reader().read(into);
                }
            }
        }

        pub fn write(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
            self.flush(socket)?;
            let written = self.0.writer().write(&bytes[..bytes.len().min(RECORD)])?;
            match self.flush(socket) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                _ => Ok(written),
            }
        }

        /// Writes the rest of earlier records.
        pub fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
            while self.0.wants_write() {
                self.0.write_tls(&mut socket)?;
            }
            Ok(())
        }

        /// Sends close_notify, if the socket takes it.
        pub fn close(&mut self, socket: &TcpStream) {
            if self.0.process_new_packets().is_ok() {
                self.0.send_close_notify();
            }
            let _ = self.flush(socket);
        }
    }

    fn if_would_block<R: Default>(error: io::Error) -> io::Result<R> {
        match error.kind() {
            ErrorKind::WouldBlock => Ok(R::default()),
            _ => Err(error),
        }
    }
}
