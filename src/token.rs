//! Tokens: what stands for a connection, a listener or another source between the poll and the
//! tables.
//!
//! A token carries the generation of its slot, so that a late event or a stale token for a reused
//! slot finds nobody.

use std::fmt;

use uuid::Uuid;

/// Names one connection for as long as its slot is not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Which connection of a server it is: [`Socket::id`](crate::Socket::id). Unlike its uuid it never
/// changes, and no later connection has the same one. It means nothing to another server.
///
/// Two connections of a server could have the same id if more than 2³² others (on 32-bit systems
/// 2¹¹) had come between them.
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

/// By its place in the table, and how many connections had come before it.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.index, self.0.generation)
    }
}

/// To which connection a message goes: by its uuid, or by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recipient {
    /// The open connection that has this uuid now.
    Uuid(Uuid),
    /// This connection, whatever uuid it has.
    Id(ConnectionId),
}

impl Recipient {
    /// What it names a connection by.
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

/// The uuid, or the id.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Names one source of a server, for as long as it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(crate) usize);

/// What a poll token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Connection(Token),
    Listener(usize),
    /// One of the user's own sources.
    Source(SourceId),
    /// Another thread has sent something.
    Inbox,
}

/// The lowest bit says that it is no connection; then the next two say what it is.
const KIND_BITS: u32 = 1;
const OTHER_BITS: u32 = 3;
const LISTENER: usize = 0b001;
const INBOX: usize = 0b011;
const SOURCE: usize = 0b101;
/// 2³¹ slots where `usize` has 64 bits, 2²⁰ where it has 32; the rest of the word is the
/// generation.
const INDEX_BITS: u32 = if usize::BITS == 64 { 31 } else { 20 };
const GENERATION_BITS: u32 = if usize::BITS == 64 { 32 } else { 11 };

/// So many names of the user's sources can be told apart.
pub(crate) const MAX_SOURCES: usize = 1 << (usize::BITS - OTHER_BITS);

/// As many connections as one server can hold at a time.
pub(crate) const MAX_CONNECTIONS: usize = 1 << INDEX_BITS;

/// The generation after `generation`, as far as a token can tell them apart.
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
        }
    }

    pub(crate) fn decode(word: usize) -> Self {
        if word & 1 == 1 {
            return match word & ((1 << OTHER_BITS) - 1) {
                LISTENER => Self::Listener(word >> OTHER_BITS),
                SOURCE => Self::Source(SourceId(word >> OTHER_BITS)),
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
