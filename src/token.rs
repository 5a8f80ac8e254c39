//! Tokens: the names of connections, listeners and other sources between the poll and the tables.
//!
//! A token carries the generation of its slot. So a late event or a stale token for a reused slot
//! finds no connection.

use std::fmt;

use uuid::Uuid;

/// Names one connection for as long as its slot is not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The id of a connection of a server: [`Socket::id`](crate::Socket::id). Unlike a uuid it never
/// changes, and no later connection has the same one. It means nothing to another server.
///
/// The exception: two connections of a server could have the same id if more than 2³² others (on
/// 32-bit systems 2¹¹) had come between them.
///
/// ```
/// use std::collections::HashMap;
/// use ikisocket::{ConnectionId, Event, Server};
///
/// let mut server = Server::bind("127.0.0.1:0", HashMap::<ConnectionId, String>::new())?;
/// server.route("/ws/:name", |names, kws| {
///     names.insert(kws.id(), kws.param("name").unwrap_or_default().to_owned());
/// })?;
/// server.on(Event::Disconnect, |names, ep| _ = names.remove(&ep.id));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) Token);

/// Shows the place in the table, and how many connections had used that place before.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.index, self.0.generation)
    }
}

/// The connection that a message goes to, by its uuid or by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recipient {
    /// The open connection that has this uuid now.
    Uuid(Uuid),
    /// The connection with this id, whatever uuid it has.
    Id(ConnectionId),
}

impl Recipient {
    /// The kind of name, for errors.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Uuid(_) => "uuid",
            Self::Id(_) => "id",
        }
    }
}

impl From<Uuid> for Recipient {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl From<ConnectionId> for Recipient {
    fn from(id: ConnectionId) -> Self {
        Self::Id(id)
    }
}

/// Shows the uuid, or the id.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Names one source of a server, as long as it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(crate) usize);

/// The thing that a poll token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Connection(Token),
    Listener(usize),
    /// One of the user's own sources.
    Source(SourceId),
    /// Another thread has sent something.
    Inbox,
    /// The connection of the bus.
    #[cfg(feature = "redis")]
    Bus,
}

/// The lowest bit is set if the token is not a connection's; then the next two bits say what it is.
const KIND_BITS: u32 = 1;
const OTHER_BITS: u32 = 3;
const LISTENER: usize = 0b001;
const INBOX: usize = 0b011;
const SOURCE: usize = 0b101;
#[cfg(feature = "redis")]
const BUS: usize = 0b111;
/// 2³¹ slots where `usize` has 64 bits, 2²⁰ where it has 32; the rest of the word is the
/// generation.
const INDEX_BITS: u32 = if usize::BITS == 64 { 31 } else { 20 };
const GENERATION_BITS: u32 = if usize::BITS == 64 { 32 } else { 11 };

/// The number of the user's sources that tokens can tell apart.
pub(crate) const MAX_SOURCES: usize = 1 << (usize::BITS - OTHER_BITS);

/// The number of connections that one server can hold at a time.
pub(crate) const MAX_CONNECTIONS: usize = 1 << INDEX_BITS;

/// The generation after `generation`, within the bits that a token has for it.
pub(crate) fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1) & (u32::MAX >> (32 - GENERATION_BITS))
}

impl Ready {
    pub(crate) fn encode(self) -> usize {
        match self {
            Self::Connection(token) => {
                ((token.generation as usize) << (INDEX_BITS + KIND_BITS))
                    | ((token.index as usize) << KIND_BITS)
            }
            Self::Listener(index) => (index << OTHER_BITS) | LISTENER,
            Self::Source(SourceId(id)) => (id << OTHER_BITS) | SOURCE,
            Self::Inbox => INBOX,
            #[cfg(feature = "redis")]
            Self::Bus => BUS,
        }
    }

    pub(crate) fn decode(word: usize) -> Self {
        if word & 1 == 1 {
            return match word & ((1 << OTHER_BITS) - 1) {
                LISTENER => Self::Listener(word >> OTHER_BITS),
                SOURCE => Self::Source(SourceId(word >> OTHER_BITS)),
                #[cfg(feature = "redis")]
                BUS => Self::Bus,
                _ => Self::Inbox,
            };
        }
        Self::Connection(Token {
            index: ((word >> KIND_BITS) & (MAX_CONNECTIONS - 1)) as u32,
            generation: (word >> (INDEX_BITS + KIND_BITS)) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_trip_through_the_poll() {
        let last = u32::MAX >> (32 - GENERATION_BITS);
        for generation in [0, 1, last] {
            for index in [0, 1, (MAX_CONNECTIONS - 1) as u32] {
                let ready = Ready::Connection(Token { index, generation });
                assert_eq!(Ready::decode(ready.encode()), ready);
            }
        }
        let sources = [0, 1, MAX_SOURCES - 1].map(|id| Ready::Source(SourceId(id)));
        for other in
            sources.into_iter().chain([Ready::Listener(0), Ready::Listener(3), Ready::Inbox])
        {
            assert_eq!(Ready::decode(other.encode()), other);
        }
        assert_eq!(next_generation(last), 0);
    }
}
