//! The test harness's access to a server: connections in memory, and a clock that it moves.

use std::time::Duration;

use super::Server;
#[cfg(feature = "redis")]
use super::bus::Dial;
use super::input::Wakeup;
use crate::hub::Uuids;
use crate::token::Token;
#[cfg(feature = "_tls")]
use crate::transport::PlainStream;
use crate::transport::memory;
#[cfg(feature = "_tls")]
use crate::transport::tls::{LEAST_BUFFER, Tls, TlsStream};
use crate::transport::{PeerAddress, Stream};
use crate::user::Caught;

/// Methods for the harness.
impl<S> Server<S> {
    /// From now on time stands still, nothing is random, and panics are handed to the harness.
    pub(crate) fn make_repeatable(&mut self, caught: Caught) {
        self.clock.stop();
        self.hub.uuids = Uuids::Counted(0);
        self.registry.caught = Some(caught);
    }

    /// Whether other threads, or callbacks through a handle, have sent commands.
    pub(crate) fn has_mail(&self) -> bool {
        self.registry.inbox.has_commands()
            || self.hub.link.as_ref().is_some_and(|link| link.post().has_mail(link.index()))
    }

    /// Makes the connection of the bus in memory, if this server holds it. Returns whether it does.
    #[cfg(feature = "redis")]
    pub(crate) fn bus_in_memory(&mut self, dial: Dial) -> bool {
        let now = self.clock();
        self.line.as_mut().is_some_and(|line| {
            line.begin_in_memory(dial, now);
            true
        })
    }

    /// Sets the readiness that the next turn sees for the connection of the bus.
    #[cfg(feature = "redis")]
    pub(crate) fn tell_bus_ready(&mut self, readiness: memory::Readiness) {
        let memory::Readiness { readable, writable, read_closed } = readiness;
        self.bus_is_ready(readable, writable, read_closed);
    }

    pub(crate) fn uuid_of(&self, token: Token) -> Option<uuid::Uuid> {
        self.hub
            .get(token)
            .filter(|connection| connection.is_open())
            .map(|connection| connection.uuid)
    }

    pub(crate) fn advance_clock(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    /// Whether it accepts connections.
    pub(crate) fn takes_in(&self) -> bool {
        self.hub.stopping.is_none()
    }

    /// Adds a connection in memory, as if it were accepted.
    pub(crate) fn take_in(&mut self, stream: Stream, peer: PeerAddress) -> Option<Token> {
        self.hub.now = self.clock();
        let token = self.hub.insert(stream, peer)?;
        if let Some(link) = &self.hub.link {
            link.connections_began(1);
        }
        Some(token)
    }

    /// The server's end of a connection over TLS in memory.
    #[cfg(feature = "_tls")]
    pub(crate) fn stream_over_tls(&mut self, socket: PlainStream, tls: &Tls) -> TlsStream {
        self.widen_buffer();
        self.reactor.tls.accept(socket, tls)
    }

    /// Continues with a handshake outside of the loop; returns whether it has failed. The loop will
    /// find that again.
    #[cfg(feature = "_tls")]
    pub(crate) fn continue_handshake(stream: &mut TlsStream) -> bool {
        let read = std::io::Read::read(stream, &mut [0; LEAST_BUFFER]);
        debug_assert!(!matches!(read, Ok(1..)), "the client has said nothing yet");
        let _ = stream.write_unsent();
        stream.fail_again()
    }

    /// Sets the readiness that the next turn sees for a connection in memory, as if the poll had
    /// reported it.
    pub(crate) fn tell_ready(&mut self, token: Token, readiness: memory::Readiness) {
        self.readiness.push((token, readiness));
    }

    #[cold]
    pub(super) fn handle_readiness(&mut self, buffer: &mut [u8]) {
        let readiness = std::mem::take(&mut self.readiness);
        self.begin_shares(readiness.len());
        for (token, readiness) in readiness {
            let memory::Readiness { readable, writable, read_closed } = readiness;
            let wakeup = Wakeup { readable, writable, read_closed, hides_more: false };
            self.serve_ready(token, wakeup, buffer);
        }
    }
}
