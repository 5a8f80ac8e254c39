//! Loops on threads of their own, and clients that block.
//!
//! Nothing here sleeps. What waits ends when the awaited thing happens, and panics after
//! [`PATIENCE`].
#![allow(dead_code)] // No test file needs all of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ikisocket::{
    BuildError, Builder, Event, Finished, Handle, Loops, LoopsHandle, Running, Server, Shutdown,
    Sockets, Uuid,
};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket};

/// What has not happened by then fails the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

// Loops.

/// The state of a loop: what its callbacks note.
#[derive(Debug, Default)]
pub struct Notes(pub Vec<String>);

/// A server whose clients are all in `room`. It greets each with its loop and uuid, and sends back
/// what they send.
pub fn room(_: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = builder.build(Notes::default())?;
    server.on(Event::Connect, |_, ep| {
        assert_eq!(ep.kws.join("room"), Ok(true));
        let (on, uuid) = (ep.kws.sockets().loop_index(), ep.kws.uuid());
        ep.kws.emit(format!("{on} {uuid}"));
    });
    server.on(Event::Message, |_, ep| _ = ep.kws.emit(ep.data));
    server.route("/ws", |_, _| {}).expect("the pattern is valid");
    Ok(server)
}

/// Loops with a [`room`] at two ports: at the first by [`Loops::listen`], at the second because the
/// server of loop 1 listens there by itself.
#[track_caller]
pub fn start_at_two_ports(loops: Loops) -> (Running<Notes>, [SocketAddr; 2]) {
    let (tell, own) = mpsc::channel();
    let build = move |index: usize, builder: Builder| {
        let mut server = room(index, builder)?;
        if index == 1 {
            tell.send(server.listen("127.0.0.1:0").unwrap()).unwrap();
        }
        Ok::<_, BuildError>(server)
    };
    let running = loops.listen("127.0.0.1:0").unwrap().start(build).unwrap();
    let addresses = [running.local_addr().unwrap(), own.recv_timeout(PATIENCE).unwrap()];
    (running, addresses)
}

/// Waits until the loops have no listening socket, and connects are refused at these addresses.
#[cfg(unix)]
#[track_caller]
pub fn until_closed<S>(handle: &LoopsHandle<S>, addresses: &[SocketAddr]) {
    until(|| handle.listening_fds().unwrap().is_empty());
    for address in addresses {
        // A connect may come between the loop's note of the end and the end.
        until(|| match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        });
    }
}

/// What `look` finds on the loop of this handle, in one of its next turns.
#[track_caller]
pub fn ask<S: 'static, R: Send + 'static>(
    handle: &Handle<S>,
    look: impl FnOnce(&mut S, &mut Sockets<'_, S>) -> R + Send + 'static,
) -> R {
    let (sender, answer) = mpsc::channel();
    handle.send(move |state, sockets| _ = sender.send(look(state, sockets))).unwrap();
    answer.recv_timeout(PATIENCE).expect("the loop answers")
}

/// The same on one of several loops.
#[track_caller]
pub fn on<S: 'static, R: Send + 'static>(
    handle: &LoopsHandle<S>,
    index: usize,
    look: impl FnOnce(&mut S, &mut Sockets<'_, S>) -> R + Send + 'static,
) -> R {
    ask(handle.one(index).unwrap(), look)
}

/// Looks again and again until `done`.
#[track_caller]
pub fn until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "it has not happened in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// The connections that each loop has, also those that end.
pub fn loads<S: 'static>(handle: &LoopsHandle<S>) -> Vec<usize> {
    let load = |index| {
        on(handle, index, |_, sockets| {
            let stats = sockets.stats();
            (stats.accepted - stats.closed) as usize
        })
    };
    (0..handle.len()).map(load).collect()
}

/// Shuts all loops down and waits for their end. The clients have to be closed, or gone.
#[track_caller]
pub fn end<S: 'static>(running: Running<S>) -> Finished {
    running.handle().shutdown(Shutdown::default()).unwrap();
    running.join().unwrap()
}

// Clients.

pub type Ws = WebSocket<TcpStream>;

/// A socket that waits for at most [`PATIENCE`].
#[track_caller]
pub fn socket(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Upgrades a connection over any stream.
pub fn upgrade<T: Read + Write>(
    request: impl IntoClientRequest,
    stream: T,
) -> Result<WebSocket<T>, tungstenite::Error> {
    match tungstenite::client(request, stream) {
        Ok((ws, _)) => Ok(ws),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => panic!("no response in {PATIENCE:?}"),
    }
}

/// The status with which an upgrade to `/ws` is refused; `None` if it is not.
#[track_caller]
pub fn refused(socket: TcpStream) -> Option<u16> {
    match upgrade("ws://localhost/ws", socket) {
        Ok(_) => None,
        Err(tungstenite::Error::Http(response)) => Some(response.status().as_u16()),
        Err(error) => panic!("not refused, but failed: {error}"),
    }
}

/// A client of [`room`], which knows what the server has told it.
pub struct Member<T: Read + Write = TcpStream> {
    pub ws: WebSocket<T>,
    pub on: usize,
    pub uuid: Uuid,
}

impl Member {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(socket(address))
    }
}

impl<T: Read + Write> Member<T> {
    #[track_caller]
    pub fn over(stream: T) -> Self {
        let mut ws = upgrade("ws://localhost/ws", stream).unwrap();
        let greeting = text(&mut ws);
        let (on, uuid) = greeting.split_once(' ').unwrap();
        Self { on: on.parse().unwrap(), uuid: uuid.parse().unwrap(), ws }
    }

    #[track_caller]
    pub fn send(&mut self, message: impl Into<Message>) {
        self.ws.send(message.into()).unwrap();
    }

    /// The next message, which must be text.
    #[track_caller]
    pub fn text(&mut self) -> String {
        text(&mut self.ws)
    }

    /// Asserts that the server serves it, and has sent nothing before.
    #[track_caller]
    pub fn expect_echo(&mut self, message: &str) {
        self.send(message);
        assert_eq!(self.text(), message);
    }

    /// The code and the reason with which the server closes, after all that comes before. The close
    /// is answered.
    #[track_caller]
    pub fn closed(&mut self) -> (u16, String) {
        loop {
            match self.ws.read().unwrap() {
                Message::Close(Some(frame)) => {
                    while self.ws.read().is_ok() {}
                    return (frame.code.into(), frame.reason.as_str().to_owned());
                }
                Message::Close(None) => panic!("a close without a code"),
                _ => {}
            }
        }
    }

    /// Closes, and waits for the answer.
    #[track_caller]
    pub fn close(mut self) {
        self.ws.close(None).unwrap();
        while self.ws.read().is_ok() {}
    }
}

/// The next message, which must be text.
#[track_caller]
pub fn text<T: Read + Write>(ws: &mut WebSocket<T>) -> String {
    match ws.read().unwrap() {
        Message::Text(text) => text.as_str().to_owned(),
        other => panic!("text was expected, not {other:?}"),
    }
}
