//! A transport in memory, for the tests of the hub: how much it takes is up to the test.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::{Hub, Record, Upgraded};
use crate::attributes::Attributes;
use crate::builder::Builder;
use crate::connection::{PeerAddress, Transport};
use crate::handshake::Request;
use crate::pressure::SlowReader;
use crate::token::Token;

/// The far end of a connection, as a test sees it.
#[derive(Default)]
pub(super) struct Far {
    /// Bytes that the socket takes before it would block.
    pub(super) room: usize,
    pub(super) received: Vec<u8>,
    pub(super) finished: bool,
    pub(super) reset: bool,
}

#[derive(Clone, Default)]
pub(super) struct Wire(pub(super) Rc<RefCell<Far>>);

impl io::Read for Wire {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut far = self.0.borrow_mut();
        let taken = bytes.len().min(far.room);
        far.room -= taken;
        far.received.extend_from_slice(&bytes[..taken]);
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Wire {
    fn shutdown_write(&self) -> io::Result<()> {
        self.0.borrow_mut().finished = true;
        Ok(())
    }

    fn reset_on_drop(&self) {
        self.0.borrow_mut().reset = true;
    }
}

pub(super) const STALL: u64 = 500;
pub(super) const CLOSE: u64 = 100;

pub(super) fn hub() -> Hub<Wire> {
    let millis = std::time::Duration::from_millis;
    let settings = Builder::default().max_outbox(1024).high_water(1024).ping_after(std::time::Duration::MAX);
    Hub::new(settings.stall_timeout(millis(STALL)).close_timeout(millis(CLOSE)).limits())
}

pub(super) fn insert(hub: &mut Hub<Wire>, room: usize) -> (Token, Wire) {
    let wire = Wire::default();
    wire.0.borrow_mut().room = room;
    let peer = PeerAddress::Tcp(([127, 0, 0, 1], 1).into());
    (hub.insert(wire.clone(), peer).unwrap(), wire)
}

/// A connection that is open and has written its 101; then its socket takes `room` bytes.
pub(super) fn open(hub: &mut Hub<Wire>, room: usize) -> (Token, Wire) {
    let (token, wire) = insert(hub, 1000);
    let request = Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &hub.limits.head).unwrap();
    let head = b"101".to_vec();
    hub.open(
        token,
        0,
        None,
        Upgraded {
            head,
            request,
            attributes: Attributes::default(),
            compression: None,
            slow_reader: SlowReader::Disconnect,
        },
    );
    hub.flush_dirty();
    let mut far = wire.0.borrow_mut();
    assert_eq!(std::mem::take(&mut far.received), b"101");
    far.room = room;
    drop(far);
    (token, wire)
}

pub(super) fn records(hub: &mut Hub<Wire>) -> Vec<String> {
    let told = std::iter::from_fn(|| hub.next_record());
    told.map(|(_, record)| match record {
        Record::Close { code, reason } => format!("close {code} {reason}"),
        Record::Error { error, .. } => format!("error {error:?}"),
        Record::Pressure => "pressure".to_owned(),
        Record::Relief => "relief".to_owned(),
        Record::Disconnect { error, code, .. } => format!("disconnect {error:?} {code:?}"),
    })
    .collect()
}
