//! raw over TLS: the least that rustls's unbuffered API allows on the same loop. It makes the
//! system calls of raw, one recv and one send, or one for each 64 KiB. The buffers
//! for ciphertext, plaintext and records belong to the loop. A record's plaintext goes from rustls
//! to the replies without a copy of its own, and the replies are encrypted in the state that ends
//! the reading.
//!
//! Like raw it does not unmask, validate or dispatch, and understands only clients that keep to the
//! protocol. It never closes by itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use slab::Slab;

use super::keys;
use crate::raw::{ACCEPT, BUFFER, Stage, taken, turn_round, upgrade};

/// The most plaintext of a record.
const RECORD: usize = 16 * 1024;
/// What encryption adds to a record.
const OVERHEAD: usize = 32;
/// Records are sent together until they have this many bytes, and a short last one together with
/// them: what was fastest.
const AT_ONCE: usize = 4 * RECORD;
const SHORT_TAIL: usize = 1024;

struct Peer {
    stream: TcpStream,
    session: UnbufferedServerConnection,
    stage: Stage,
    /// Ciphertext that the session has not consumed.
    kept: Vec<u8>,
    /// The beginning of something whose end has not come.
    partial: Partial,
    /// Ciphertext that the socket did not take.
    unsent: Vec<u8>,
}

/// What all connections share.
struct Shared {
    input: Vec<u8>,
    replies: Vec<u8>,
    records: Records,
    for_all: Vec<u8>,
}

/// Serves `/echo` and `/bcast` on `address` until the process is ended.
pub fn serve(
    chain: &str,
    key: &str,
    address: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = keys::server(chain, key)?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, ACCEPT, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let mut peers: Slab<Peer> = Slab::new();
    let mut shared = Shared {
        input: vec![0; BUFFER],
        replies: Vec::with_capacity(BUFFER),
        records: Records { memory: Vec::new(), len: 0 },
        for_all: Vec::new(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == ACCEPT {
                while let Ok((stream, _)) = listener.accept() {
                    accept(stream, &config, &poll, &mut peers)?;
                }
                continue;
            }
            let Some(peer) = peers.get_mut(event.token().0) else { continue };
            let mut served = if event.is_writable() { peer.send_rest() } else { Ok(()) };
            while served.is_ok() && event.is_readable() {
                match peer.turn(&mut shared) {
                    Ok(more) if more || event.is_read_closed() => {}
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => served = Err(error),
                }
            }
            if served.is_err() {
                peers.remove(event.token().0);
            }
        }
        if !shared.for_all.is_empty() {
            let Shared { for_all, records, .. } = &mut shared;
            for (_, peer) in &mut peers {
                if peer.stage == Stage::Broadcast {
                    // A connection that ended is noticed when its event comes.
                    let _ = peer.send(for_all, records);
                }
            }
            for_all.clear();
        }
    }
}

fn accept(
    mut stream: TcpStream,
    config: &Arc<ServerConfig>,
    poll: &Poll,
    peers: &mut Slab<Peer>,
) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nodelay(true)?;
    let slot = peers.vacant_entry();
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut stream, Token(slot.key()), interest)?;
    slot.insert(Peer {
        stream,
        session: UnbufferedServerConnection::new(Arc::clone(config))?,
        stage: Stage::Upgrading,
        kept: Vec::new(),
        partial: Partial::default(),
        unsent: Vec::new(),
    });
    Ok(())
}

impl Peer {
    /// One recv, and what it brought; whether there may be more to read.
    fn turn(&mut self, shared: &mut Shared) -> io::Result<bool> {
        let Shared { input, replies, records, for_all } = shared;
        let kept = self.kept.len();
        if input.len() < kept + BUFFER / 2 {
            input.resize(kept + BUFFER, 0);
        }
        input[..kept].copy_from_slice(&self.kept);
        self.kept.clear();
        let read = match self.stream.read(&mut input[kept..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) => {
                self.kept.extend_from_slice(&input[..kept]);
                return Err(error);
            }
        };
        let all = kept + read == input.len();
        let received = &mut input[..kept + read];
        let mut consumed = 0;
        replies.clear();
        records.clear();
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.session.process_tls_records(&mut received[consumed..]);
            let mut done = true;
            match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        match self.stage {
                            Stage::Broadcast => self.partial.take(record.payload, for_all),
                            Stage::Echo => self.partial.take(record.payload, replies),
                            Stage::Upgrading => {
                                let head = self.partial.head(record.payload);
                                if let Some(stage) = head.and_then(|head| upgrade(head, replies)) {
                                    self.stage = stage;
                                    self.partial.0.clear();
                                }
                            }
                        }
                    }
                    done = false;
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    records.append(0, |into| match data.encode(into) {
                        Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                        result => Ok(result.unwrap_or_default()),
                    });
                    done = false;
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    done = false;
                }
                ConnectionState::WriteTraffic(traffic) => {
                    encrypt(traffic, replies, records, &mut self.stream, &mut self.unsent)?;
                }
                ConnectionState::PeerClosed => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            consumed += discard;
            if done {
                break;
            }
        }
        send(&mut self.stream, &mut self.unsent, records)?;
        self.kept.extend_from_slice(&received[consumed..]);
        Ok(all)
    }

    /// Encrypts frames and sends them.
    fn send(&mut self, frames: &[u8], records: &mut Records) -> io::Result<()> {
        records.clear();
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut self.kept);
        let Ok(ConnectionState::WriteTraffic(traffic)) = state else {
            return Err(ErrorKind::NotConnected.into());
        };
        encrypt(traffic, frames, records, &mut self.stream, &mut self.unsent)?;
        send(&mut self.stream, &mut self.unsent, records)
    }

    fn send_rest(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = taken(self.stream.write(&self.unsent))?;
            if sent == 0 {
                break;
            }
            self.unsent.drain(..sent);
        }
        Ok(())
    }
}

/// Encrypts frames behind the records that are there. All records but the last ones are sent.
fn encrypt(
    mut traffic: WriteTraffic<'_, ServerConnectionData>,
    frames: &[u8],
    records: &mut Records,
    stream: &mut TcpStream,
    unsent: &mut Vec<u8>,
) -> io::Result<()> {
    for (begin, plaintext) in (0..).step_by(RECORD).zip(frames.chunks(RECORD)) {
        if records.len >= AT_ONCE && frames.len() - begin > SHORT_TAIL {
            send(stream, unsent, records)?;
            records.clear();
        }
        records.append(plaintext.len() + OVERHEAD, |into| match traffic.encrypt(plaintext, into) {
            Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
            result => Ok(result.unwrap_or_default()),
        });
    }
    Ok(())
}

fn send(stream: &mut TcpStream, unsent: &mut Vec<u8>, records: &Records) -> io::Result<()> {
    let bytes = &records.memory[..records.len];
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = if unsent.is_empty() { taken(stream.write(bytes))? } else { 0 };
    unsent.extend_from_slice(&bytes[sent..]);
    Ok(())
}

/// The beginning of a frame or of a request whose end has not come.
#[derive(Default)]
struct Partial(Vec<u8>);

impl Partial {
    /// Turns the frames round that are whole now.
    fn take(&mut self, plaintext: &[u8], replies: &mut Vec<u8>) {
        if self.0.is_empty() {
            let used = turn_round(plaintext, replies);
            self.0.extend_from_slice(&plaintext[used..]);
        } else {
            self.0.extend_from_slice(plaintext);
            let used = turn_round(&self.0, replies);
            self.0.drain(..used);
        }
    }

    /// The request, if it is whole.
    fn head(&mut self, plaintext: &[u8]) -> Option<&[u8]> {
        self.0.extend_from_slice(plaintext);
        Some(&*self.0).filter(|head| head.ends_with(b"\r\n\r\n"))
    }
}

/// Records on their way out. The memory is cleared only once.
struct Records {
    memory: Vec<u8>,
    len: usize,
}

impl Records {
    fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends what `write` writes into as many bytes as it asks for.
    fn append(
        &mut self,
        mut needed: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>,
    ) {
        loop {
            if self.memory.len() < self.len + needed {
                self.memory.resize(self.len + needed, 0);
            }
            match write(&mut self.memory[self.len..]) {
                Ok(written) => return self.len += written,
                Err(more) => needed = more,
            }
        }
    }
}
