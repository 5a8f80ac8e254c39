//! One connection sends a number of messages at once. When all connections have all of them, it
//! sends the next ones. There may be several rooms, to which connections come in turn: then the
//! first connection of each room does so.

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
    rooms: usize,
    delivery_len: usize,
}

impl Broadcast {
    pub fn new(
        dialer: &Dialer,
        path: &str,
        connections: usize,
        frame: &[u8],
        at_once: usize,
        rooms: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let (poll, peers) = connect(dialer, path, connections)?;
        Ok(Self {
            poll,
            peers,
            frames: frame.repeat(at_once),
            at_once,
            rooms,
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
        let each = self.peers.len() / self.rooms * self.at_once;
        let mut due = vec![0; self.rooms];
        loop {
            slice.turn()?;
            for (room, due) in due.iter_mut().enumerate() {
                if *due == 0 && !slice.is_over {
                    *due = each;
                    deliveries += each as u64;
                    self.peers[room].send(self.frames.len(), &self.frames)?;
                }
            }
            if slice.is_over && due.iter().all(|&due| due == 0) {
                return Ok(deliveries);
            }
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                let token = event.token().0;
                let (peer, due) = (&mut self.peers[token], &mut due[token % self.rooms]);
                if event.is_readable() {
                    *due = due
                        .checked_sub(peer.receive(&mut buffer, self.delivery_len)?)
                        .ok_or("more came than was sent")?;
                }
                peer.send(0, &self.frames)?;
            }
        }
    }
}
