//! A connection of the minimal client: bytes out, bytes in.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use ikisocket::protocol::{FrameHeader, Opcode, apply_mask};
use mio::Poll;

use super::wire::{Dialer, Wire};

/// What one recv takes at most.
pub const BUFFER: usize = 256 * 1024;
/// The masking key's length, by which the frame of an echo is shorter.
const KEY_LEN: usize = 4;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One message as a client sends it. Its payload is letters, which are text as well as binary.
pub fn masked_frame(size: usize, text: bool) -> Vec<u8> {
    let opcode = if text { Opcode::Text } else { Opcode::Binary };
    masked(opcode, &letters(size))
}

/// Letters of the alphabet in turn.
pub fn letters(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size).collect()
}

/// A frame as a client sends it.
pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { mask: Some(KEY), ..FrameHeader::new(opcode, payload.len() as u64) };
    let mut frame = Vec::new();
    header.encode(&mut frame);
    let begin = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[begin..], KEY, 0);
    frame
}

/// How long a frame is when it comes back.
pub fn echo_len(frame: &[u8]) -> usize {
    frame.len() - KEY_LEN
}

/// The upgrade request for a path.
pub fn request(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Whether the whole response is there; an error if it is no upgrade.
pub fn is_upgraded(response: &[u8]) -> Result<bool, Box<dyn Error>> {
    if !response.ends_with(b"\r\n\r\n") {
        return Ok(false);
    }
    if response.starts_with(b"HTTP/1.1 101 ") {
        return Ok(true);
    }
    Err(format!("no upgrade: {}", String::from_utf8_lossy(response)).into())
}

/// Whether a socket is not connected yet, or would block.
pub fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Makes the connections, and a poll that knows each by its place.
pub fn connect(
    dialer: &Dialer,
    path: &str,
    connections: usize,
) -> Result<(Poll, Vec<Peer>), Box<dyn Error>> {
    let poll = Poll::new()?;
    let peers = (0..connections).map(|token| Peer::connect(dialer, path, &poll, token));
    let peers = peers.collect::<Result<_, _>>()?;
    Ok((poll, peers))
}

pub struct Peer {
    stream: Box<dyn Wire>,
    /// Bytes that are to be sent, and where in the frames they begin.
    owed: usize,
    sent: usize,
    /// Bytes of a message whose end has not come.
    partial: usize,
}

impl Peer {
    /// Connects and upgrades, and waits for both.
    pub fn connect(
        dialer: &Dialer,
        path: &str,
        poll: &Poll,
        token: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut stream = dialer.dial(poll, token)?;
        let request = request(dialer.address(), path);
        let mut sent = 0;
        let (mut response, mut buffer) = (Vec::new(), [0; 1024]);
        let began = Instant::now();
        while !is_upgraded(&response)? {
            if began.elapsed() > super::PATIENCE {
                return Err("the server does not upgrade".into());
            }
            match stream.write(&request.as_bytes()[sent..]) {
                Ok(written) => sent += written,
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error.into()),
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Err("the server closed instead of upgrading".into()),
                Ok(read) => response.extend_from_slice(&buffer[..read]),
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self::over(stream))
    }

    /// A connection that is upgraded already.
    pub fn over(stream: Box<dyn Wire>) -> Self {
        Self { stream, owed: 0, sent: 0, partial: 0 }
    }

    /// Sends `bytes` more of the frames, which are all alike, and what the socket did not take
    /// before.
    pub fn send(&mut self, bytes: usize, frames: &[u8]) -> io::Result<()> {
        if self.owed == 0 {
            self.sent = 0; // Whole frames are out: the next ones lie in one piece from the start.
        }
        self.owed += bytes;
        self.stream.flush()?;
        while self.owed > 0 {
            let end = frames.len().min(self.sent + self.owed);
            match self.stream.write(&frames[self.sent..end]) {
                Ok(written) => {
                    self.owed -= written;
                    self.sent = (self.sent + written) % frames.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there; how many messages of the length `len` it completes.
    pub fn receive(&mut self, buffer: &mut [u8], len: usize) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.partial += read;
                    if read < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let whole = self.partial / len;
        self.partial %= len;
        Ok(whole)
    }
}
