//! A number of visitors at the same time. Each connects, upgrades, resets the connection and comes
//! again.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use mio::{Events, Poll};

use super::peer::{is_early, is_upgraded, request};
use super::wire::Wire;
use super::{Dialer, Slice, Traffic};

pub struct Upgrades {
    poll: Poll,
    dialer: Dialer,
    request: String,
    visitors: Vec<Option<Visit>>,
}

struct Visit {
    stream: Box<dyn Wire>,
    is_requested: bool,
    response: Vec<u8>,
}

impl Upgrades {
    pub fn new(dialer: Dialer, path: &str, visitors: usize) -> Result<Self, Box<dyn Error>> {
        let visitors = (0..visitors).map(|_| None).collect();
        let request = request(dialer.address(), path);
        Ok(Self { poll: Poll::new()?, dialer, request, visitors })
    }

    fn begin(&mut self, token: usize) -> Result<(), Box<dyn Error>> {
        let stream = self.dialer.dial(&self.poll, token)?;
        stream.reset_on_drop()?;
        self.visitors[token] = Some(Visit { stream, is_requested: false, response: Vec::new() });
        Ok(())
    }
}

impl Visit {
    /// Does what can be done; whether the server has upgraded it.
    fn go_on(&mut self, request: &str) -> Result<bool, Box<dyn Error>> {
        self.stream.flush()?;
        if !self.is_requested {
            match self.stream.write(request.as_bytes()) {
                Ok(written) if written == request.len() => self.is_requested = true,
                Ok(_) => return Err("a socket did not take a whole request".into()),
                Err(error) if is_early(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [0; 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err("the server closed instead of upgrading".into()),
            Ok(read) => self.response.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        is_upgraded(&self.response)
    }
}

impl Traffic for Upgrades {
    fn run(&mut self, length: Duration) -> Result<u64, Box<dyn Error>> {
        let mut events = Events::with_capacity(1024);
        let mut slice = Slice::of(length);
        for token in 0..self.visitors.len() {
            self.begin(token)?;
        }
        let mut under_way = self.visitors.len();
        let mut upgrades = 0;
        while under_way > 0 {
            slice.turn()?;
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                let token = event.token().0;
                let Some(visit) = &mut self.visitors[token] else { continue };
                if !visit.go_on(&self.request)? {
                    continue;
                }
                upgrades += 1;
                self.visitors[token] = None;
                match slice.is_over {
                    true => under_way -= 1,
                    false => self.begin(token)?,
                }
            }
        }
        Ok(upgrades)
    }
}
