//! One connection makes the server publish a message many times, to members of a topic on another
//! loop or on the same one. When they have all of them, it asks again.

use std::error::Error;
use std::time::Duration;

use mio::{Events, Poll};

use super::peer::{BUFFER, Peer, echo_len};
use super::{Dialer, Slice, Traffic};

pub struct Hop {
    poll: Poll,
    asking: Peer,
    /// On two loops, in turn.
    members: Vec<Peer>,
    frame: Vec<u8>,
    times: usize,
}

impl Hop {
    /// The server has two loops, so there are twice `members`, half of which get nothing.
    pub fn new(
        dialer: &Dialer,
        path: &str,
        members: usize,
        frame: Vec<u8>,
        times: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let poll = Poll::new()?;
        let asking = Peer::connect(dialer, &format!("{path}/{times}"), &poll, 2 * members)?;
        let members = (0..2 * members).map(|token| Peer::connect(dialer, "/member", &poll, token));
        let members = members.collect::<Result<_, _>>()?;
        Ok(Self { poll, asking, members, frame, times })
    }
}

impl Traffic for Hop {
    /// Counts messages, however many members get them.
    fn run(&mut self, length: Duration) -> Result<u64, Box<dyn Error>> {
        let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
        let mut slice = Slice::of(length);
        let len = echo_len(&self.frame);
        let (mut messages, mut due) = (0, 0);
        loop {
            slice.turn()?;
            if due == 0 {
                if slice.is_over {
                    return Ok(messages);
                }
                due = self.members.len() / 2 * self.times;
                messages += self.times as u64;
                self.asking.send(self.frame.len(), &self.frame)?;
            }
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                if let Some(member) = self.members.get_mut(event.token().0)
                    && event.is_readable()
                {
                    due = due
                        .checked_sub(member.receive(&mut buffer, len)?)
                        .ok_or("more came than was published")?;
                }
            }
        }
    }
}
