//! What happens to messages for a peer that reads more slowly than they are emitted.

/// What happens when more would wait for a connection than
/// [`Builder::max_outbox`](crate::Builder::max_outbox) allows.
///
/// A message of which the peer has received the beginning is always finished, and pings, pongs and
/// the close frame are never dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowReader {
    /// The connection is closed with 1008 and fails with
    /// [`Error::SlowConsumer`](crate::Error::SlowConsumer): nothing is lost silently.
    #[default]
    Disconnect,
    /// The message is refused with [`EmitError::Full`](crate::EmitError::Full); what waits stays.
    DropNewest,
    /// The messages that have waited longest are dropped, so many that this one has room.
    DropOldest,
}

impl SlowReader {
    /// Whether there is a moment for it to act, with so many bytes that may wait.
    pub(crate) fn can_act_at(self, max_outbox: usize) -> bool {
        self == Self::Disconnect || max_outbox < usize::MAX
    }
}

/// Messages that were not sent because their reader was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Refused, because there was no room: [`SlowReader::DropNewest`], and in the other policies
    /// what had no room even so.
    pub newest: u64,
    /// Dropped while they waited, to make room for others: [`SlowReader::DropOldest`].
    pub oldest: u64,
    /// Replaced while they waited, by a later one with the same key: [`Latest`](crate::Latest).
    pub replaced: u64,
}

impl Dropped {
    /// Each cause by its name, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [("newest", self.newest), ("oldest", self.oldest), ("replaced", self.replaced)].into_iter()
    }
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.newest += other.newest;
        self.oldest += other.oldest;
        self.replaced += other.replaced;
    }
}
