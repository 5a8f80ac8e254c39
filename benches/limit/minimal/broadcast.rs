//! One connection sends a number of messages at once. When all connections have all of them, it
//! sends the next ones.

use std::error::Error;
use std::time::Duration;

use mio::{Events, Poll};

use super::peer::{BUFFER, Peer, connect, echo_len};
use super::{Dialer, Slice, Traffic};

pub struct Broadcast {
    poll: Poll,
    peers: Vec<Peer>,
    /// As many as are sent at once.
    frames: Vec<u8>,
    at_once: usize,
    delivery_len: usize,
}

impl Broadcast {
    pub fn new(
        dialer: &Dialer,
        path: &str,
        connections: usize,
        frame: &[u8],
        at_once: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let (poll, peers) = connect(dialer, path, connections)?;
        Ok(Self {
            poll,
            peers,
            frames: frame.repeat(at_once),
            at_once,
            delivery_len: echo_len(frame),
        })
    }
}

impl Traffic for Broadcast {
    /// Counts deliveries.
    fn run(&mut self, length: Duration) -> Result<u64, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let mut slice = Slice::of(length);
        let mut deliveries = 0;
        let mut due = 0;
        loop {
            slice.turn()?;
            if due == 0 {
                if slice.is_over {
                    return Ok(deliveries);
                }
                due = self.peers.len() * self.at_once;
                deliveries += due as u64;
                self.peers[0].send(self.frames.len(), &self.frames)?;
            }
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                let peer = &mut self.peers[event.token().0];
                if event.is_readable() {
                    due = due
                        .checked_sub(peer.receive(&mut buffer, self.delivery_len)?)
                        .ok_or("more came than was sent")?;
                }
                peer.send(0, &self.frames)?;
            }
        }
    }
}
