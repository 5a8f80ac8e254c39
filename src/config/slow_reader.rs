//! What happens to messages for a peer that reads more slowly than they are emitted.

/// The policy for a connection when more bytes would wait for it than
/// [`Builder::max_outbox`](crate::Builder::max_outbox) allows.
///
/// A message whose beginning the peer has received is always finished. Pings, pongs and the close
/// frame are never dropped. Neither holds if the connection itself ends first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowReader {
    /// The connection is closed with 1008 and fails with
    /// [`Error::SlowConsumer`](crate::Error::SlowConsumer). So no message is lost without an event.
    #[default]
    Disconnect,
    /// The new message is refused with [`EmitError::Full`](crate::EmitError::Full); the waiting
    /// messages stay.
    DropNewest,
    /// The messages that have waited longest are dropped until the new message has room.
    DropOldest,
}

impl SlowReader {
    /// Whether the policy can ever act with this limit on waiting bytes.
    pub(crate) fn can_act_at(self, max_outbox: usize) -> bool {
        self == Self::Disconnect || max_outbox < usize::MAX
    }
}

/// Counts of messages that were not sent because their reader was too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Messages refused because there was no room: with [`SlowReader::DropNewest`], and with the
    /// other policies if even they could make no room.
    pub newest: u64,
    /// Waiting messages dropped to make room for others: [`SlowReader::DropOldest`].
    pub oldest: u64,
    /// Waiting messages replaced by a later one with the same key: [`Latest`](crate::Latest).
    pub replaced: u64,
}

impl Dropped {
    /// Each cause's name and count.
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
