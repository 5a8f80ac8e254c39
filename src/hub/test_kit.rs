//! Connections in memory for the tests of the hub; the test decides how much the server may write.

use super::attributes::Attributes;
use super::{Hub, Notification, Upgraded};
use crate::config::{Builder, SlowReader};
use crate::http::Request;
use crate::token::Token;
use crate::transport::faults::Faults;
use crate::transport::memory::{FarEnd, pair};
use crate::transport::{PeerAddress, PlainStream};

pub(super) const STALL: u64 = 500;
pub(super) const CLOSE: u64 = 100;

pub(super) fn hub() -> Hub {
    let millis = std::time::Duration::from_millis;
    let settings =
        Builder::default().max_outbox(1024).high_water(1024).ping_after(std::time::Duration::MAX);
    Hub::new(settings.stall_timeout(millis(STALL)).close_timeout(millis(CLOSE)).limits())
}

/// A peer that has connected and whose socket takes `room` bytes.
pub(super) fn insert(hub: &mut Hub, room: usize) -> (Token, FarEnd) {
    let (wire, far) = pair(Faults::none().window(room));
    let peer = PeerAddress::Tcp(([127, 0, 0, 1], 1).into());
    (hub.insert(PlainStream::Memory(wire).into(), peer).unwrap(), far)
}

/// A connection that is open and has written its 101; then its socket takes `room` bytes.
pub(super) fn open(hub: &mut Hub, room: usize) -> (Token, FarEnd) {
    let (token, far) = insert(hub, 1000);
    upgrade(hub, token);
    hub.flush_dirty();
    assert_eq!(far.receive(usize::MAX), (b"101".to_vec(), None));
    far.make_room(room);
    (token, far)
}

/// Upgrades this connection, as if no filter objected.
pub(super) fn upgrade(hub: &mut Hub, token: Token) {
    let request = Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &hub.limits.head).unwrap();
    let head = b"101".to_vec();
    hub.open(
        token,
        Upgraded {
            head,
            route: 0,
            subprotocol: None,
            request,
            attributes: Attributes::default(),
            compression: None,
            slow_reader: SlowReader::Disconnect,
        },
    );
}

pub(super) fn notifications(hub: &mut Hub) -> Vec<String> {
    let told = std::iter::from_fn(|| hub.next_notification());
    told.flat_map(|(_, record)| match record {
        Notification::Close { code, reason } => vec![format!("close {code} {reason}")],
        Notification::Error { error, .. } => vec![format!("error {error:?}")],
        Notification::Pressure => vec!["pressure".to_owned()],
        Notification::Relief => vec!["relief".to_owned()],
        Notification::Disconnect { failed, error, code, .. } => {
            let before = error.as_ref().filter(|_| failed).map(|error| format!("error {error:?}"));
            before.into_iter().chain([format!("disconnect {error:?} {code:?}")]).collect()
        }
    })
    .collect()
}
