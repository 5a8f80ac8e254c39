//! Hostile clients over TLS. What they send was made before, so that a server has more to do with
//! it than they have.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ikisocket::protocol::Opcode;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;

use super::load::{A_WHILE, DURATION, PATIENCE, PAUSE, Quiet, frame, request};
use crate::tls::keys;

/// Connections that have sent half a hello, at most.
const HALVES: usize = 1000;
const DRIPS: usize = 100;
const STORM: usize = 500;
const BURSTS: usize = 50;
const RECORDS: usize = 10_000;
const UPDATES: usize = 5000;
/// More of them without data between are an error of the protocol, for rustls.
const UPDATES_IN_A_ROW: usize = 30;
/// How often bursts are made and sent.
const ROUNDS: usize = 5;
/// A handshake message in records of one byte: just less than what is refused.
const PIECES: usize = 10_000;

/// Makes the load of this name.
pub fn make(name: &str, address: &str, quiet: &Quiet) -> Result<(), Box<dyn Error>> {
    let text = frame(Opcode::Text, false, b"");
    match name {
        "tls-nothing" => {
            quiet.ready()?;
            quiet.measure(|| {
                std::thread::sleep(DURATION);
                Ok(())
            })
        }
        "tls-halves" => halves(quiet, address),
        "tls-drips" => drips(quiet, address),
        "tls-pieces" => pieces(quiet, address),
        "tls-hellos" => hellos(quiet, address),
        "tls-records" => bursts(quiet, address, |session, out| {
            for &byte in text.iter().cycle().take(RECORDS) {
                session.writer().write_all(&[byte])?;
                take(session, out)?;
            }
            Ok(())
        }),
        "tls-updates" => bursts(quiet, address, |session, out| {
            for &byte in text.iter().cycle().take(UPDATES / UPDATES_IN_A_ROW) {
                for _ in 0..UPDATES_IN_A_ROW {
                    session.refresh_traffic_keys()?;
                }
                session.writer().write_all(&[byte])?;
                take(session, out)?;
            }
            Ok(())
        }),
        _ => Err(format!("there is no load {name}").into()),
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn session() -> Result<ClientConnection, Box<dyn Error>> {
    let name = ServerName::try_from("localhost")?;
    let mut session = ClientConnection::new(keys::client(false)?, name)?;
    session.set_buffer_limit(None);
    Ok(session)
}

fn dial(address: &str) -> Result<TcpStream, Box<dyn Error>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The same for many that come and go: the end is a reset, which leaves no port in TIME_WAIT.
fn dial_shortly(address: &str) -> Result<TcpStream, Box<dyn Error>> {
    let stream = dial(address)?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

/// A connection that is upgraded.
pub fn connect(address: &str, path: &str) -> Result<Stream, Box<dyn Error>> {
    let mut stream = StreamOwned::new(session()?, dial(address)?);
    write!(stream, "{}\r\n", request(path))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
    }
    Ok(stream)
}

/// Moves the records that a session has made.
fn take(session: &mut ClientConnection, out: &mut Vec<u8>) -> std::io::Result<()> {
    while session.wants_write() {
        session.write_tls(out)?;
    }
    Ok(())
}

/// The same hello for all: a server has to answer each.
fn hello() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut hello = Vec::new();
    take(&mut session()?, &mut hello)?;
    Ok(hello)
}

/// Half a hello each, and nothing more.
fn halves(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let hello = hello()?;
    let half = &hello[..hello.len() / 2];
    quiet.ready()?;
    quiet.measure(|| {
        let (began, mut open) = (Instant::now(), VecDeque::new());
        while began.elapsed() < DURATION {
            let mut stream = dial_shortly(address)?;
            stream.write_all(half)?;
            open.push_back(stream);
            if open.len() > HALVES {
                open.pop_front();
            }
        }
        Ok(())
    })
}

/// A byte for each connection in turn; a whole hello is answered, and its connection begins anew.
fn drips(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let hello = hello()?;
    let mut streams = (0..DRIPS)
        .map(|_| Ok((dial_shortly(address)?, 0)))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    quiet.ready()?;
    quiet.measure(|| {
        let began = Instant::now();
        while began.elapsed() < DURATION {
            for (stream, sent) in &mut streams {
                stream.write_all(&hello[*sent..=*sent])?;
                *sent += 1;
                if *sent == hello.len() {
                    (*stream, *sent) = (dial_shortly(address)?, 0);
                }
            }
        }
        Ok(())
    })
}

/// A long handshake message in the shortest records, as much of it as may wait, and the end.
fn pieces(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let message = [&[1, 0, 0xff, 0xff][..], &[0; PIECES]].concat();
    let records: Vec<u8> = message.iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect();
    quiet.ready()?;
    quiet.measure(|| {
        let began = Instant::now();
        while began.elapsed() < DURATION {
            let mut streams =
                (0..DRIPS).map(|_| dial_shortly(address)).collect::<Result<Vec<_>, _>>()?;
            streams.iter_mut().try_for_each(|stream| stream.write_all(&records))?;
            std::thread::sleep(A_WHILE / 10);
        }
        Ok(())
    })
}

/// Hellos that come at once and are answered, again and again.
fn hellos(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let hello = hello()?;
    quiet.ready()?;
    quiet.measure(|| {
        let began = Instant::now();
        while began.elapsed() < DURATION {
            let mut streams =
                (0..STORM).map(|_| dial_shortly(address)).collect::<Result<Vec<_>, _>>()?;
            streams.iter_mut().try_for_each(|stream| stream.write_all(&hello))?;
            streams.iter_mut().try_for_each(|stream| stream.read_exact(&mut [0]))?;
        }
        Ok(())
    })
}

/// Connections that send at once what `make` has made for each.
fn bursts(
    quiet: &Quiet,
    address: &str,
    make: impl Fn(&mut ClientConnection, &mut Vec<u8>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for _ in 0..ROUNDS {
        let mut streams = Vec::new();
        for _ in 0..BURSTS {
            let mut stream = connect(address, "/hostile")?;
            let mut records = Vec::new();
            make(&mut stream.conn, &mut records)?;
            stream.sock.set_nonblocking(true)?;
            streams.push((stream.sock, records, 0));
        }
        quiet.ready()?;
        quiet.measure(|| {
            while !streams.is_empty() {
                let mut at = 0;
                while let Some((socket, records, sent)) = streams.get_mut(at) {
                    match socket.write(&records[*sent..]) {
                        Ok(more) => *sent += more,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                    if *sent == records.len() {
                        // It ends when the server has read everything.
                        socket.shutdown(std::net::Shutdown::Write)?;
                        socket.set_nonblocking(false)?;
                        let (mut socket, ..) = streams.swap_remove(at);
                        std::thread::spawn(move || socket.read_to_end(&mut Vec::new()));
                    } else {
                        at += 1;
                    }
                }
                std::thread::sleep(PAUSE);
            }
            // What is in the sockets is read by then.
            std::thread::sleep(A_WHILE);
            Ok(())
        })?;
    }
    Ok(())
}
