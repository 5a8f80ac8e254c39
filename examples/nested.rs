//! The server in another loop: here an epoll of this program's own, beside a UDP socket that is not
//! the server's.
//!
//! `cargo run --release --example nested [ADDR] [UDP-ADDR]`
//!
//! A UDP datagram goes to every client of `/notes`, and what clients send goes back to the sender
//! of the last datagram. The loop of a GUI, of a bus library or of another runtime does the same:
//! watch the server's descriptor, wait no longer than `next_timeout`, turn the server once.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ikisocket::mio::unix::SourceFd;
use ikisocket::mio::{Events, Interest, Poll, Token, net::UdpSocket};
use ikisocket::{Event, Server, Shutdown};

mod common;

const SERVER: Token = Token(0);
const CONTROL: Token = Token(1);

/// What clients have sent, until it is passed on.
type Notes = Vec<String>;

fn main() -> Result<(), Box<dyn Error>> {
    // A small budget, so that the UDP socket does not wait long, whatever the clients do.
    let mut server = Server::builder().work_per_turn(256).build(Notes::new())?;
    server.route("/notes", |_, _| {})?.on(Event::Message, |notes, ep| {
        notes.push(String::from_utf8_lossy(&ep.data).into_owned());
    });
    println!("listening on {}", server.listen(common::address("127.0.0.1:3004"))?);
    let mut control =
        UdpSocket::bind(std::env::args().nth(2).as_deref().unwrap_or("127.0.0.1:0").parse()?)?;
    println!("control is on {}", control.local_addr()?);

    let mut outer = Poll::new()?;
    outer.registry().register(&mut SourceFd(&server.as_raw_fd()), SERVER, Interest::READABLE)?;
    outer.registry().register(&mut control, CONTROL, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let interrupted = common::interrupt_flag()?;
    let (mut asker, mut stopping) = (None, false);
    while !server.is_finished() {
        // Ctrl-C interrupts the wait; the limit is for one that comes just before it.
        let timeout =
            server.next_timeout().unwrap_or(Duration::MAX).min(Duration::from_millis(250));
        match outer.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        if events.iter().any(|event| event.token() == CONTROL) {
            asker = take_datagrams(&control, &mut server)?.or(asker);
        }
        // The server was readable, or a deadline has passed, or there is work for more than one
        // turn. In all other cases a turn does nothing.
        server.poll(Some(Duration::ZERO))?;
        for note in server.state_mut().drain(..) {
            if let Some(asker) = asker {
                control.send_to(note.as_bytes(), asker)?;
            }
        }
        if !stopping && interrupted.load(Ordering::Relaxed) {
            stopping = true;
            server.sockets().shutdown(Shutdown::default())?;
        }
    }
    Ok(())
}

/// Passes on all that has come in by UDP; returns the sender of the last datagram.
fn take_datagrams(
    control: &UdpSocket,
    server: &mut Server<Notes>,
) -> io::Result<Option<SocketAddr>> {
    let (mut datagram, mut asker) = ([0; 1500], None);
    loop {
        match control.recv_from(&mut datagram) {
            Ok((len, from)) => {
                server.sockets().broadcast(String::from_utf8_lossy(&datagram[..len]));
                asker = Some(from);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(asker),
            Err(error) => return Err(error),
        }
    }
}
