//! Each connection keeps its number of messages in flight: for each that comes back it sends
//! another.

use std::error::Error;
use std::time::Duration;

use mio::{Events, Poll};

use super::peer::{BUFFER, Peer, connect, echo_len};
use super::{Dialer, Slice, Traffic};

pub struct Echo {
    poll: Poll,
    peers: Vec<Peer>,
    /// As many as one connection has in flight.
    frames: Vec<u8>,
    in_flight: usize,
    frame_len: usize,
    echo_len: usize,
}

impl Echo {
    pub fn new(
        dialer: &Dialer,
        path: &str,
        connections: usize,
        frame: &[u8],
        in_flight: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let (poll, peers) = connect(dialer, path, connections)?;
        Ok(Self {
            poll,
            peers,
            frames: frame.repeat(in_flight),
            in_flight,
            frame_len: frame.len(),
            echo_len: echo_len(frame),
        })
    }
}

impl Traffic for Echo {
    fn run(&mut self, length: Duration) -> Result<u64, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let mut slice = Slice::of(length);
        for peer in &mut self.peers {
            peer.send(self.frames.len(), &self.frames)?;
        }
        let mut in_flight = self.peers.len() * self.in_flight;
        let mut echoes = 0;
        while in_flight > 0 {
            slice.turn()?;
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                let peer = &mut self.peers[event.token().0];
                let mut again = 0;
                if event.is_readable() {
                    let whole = peer.receive(&mut buffer, self.echo_len)?;
                    echoes += whole as u64;
                    match slice.is_over {
                        true => in_flight -= whole,
                        false => again = whole,
                    }
                }
                peer.send(again * self.frame_len, &self.frames)?;
            }
        }
        Ok(echoes)
    }
}
