//! The faults of one connection in memory, set in advance.

/// The way in which one side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// The faults of the network on one connection of a [`Harness`](crate::testing::Harness). "Sending"
/// and "receiving" are from the peer's point of view.
///
/// ```
/// use ikisocket::testing::Faults;
///
/// let nasty = Faults::none().segments(1).interrupted().would_block();
/// let slow = Faults::none().window(1024);
/// # let _ = (nasty, slow);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Faults {
    pub(crate) read_at_most: usize,
    pub(crate) write_at_most: usize,
    pub(crate) interrupted: bool,
    pub(crate) would_block: bool,
    pub(crate) window: usize,
    pub(crate) reads_per_second: Option<u32>,
    pub(crate) end_after_sending: Option<(usize, End)>,
    pub(crate) reset_after_receiving: Option<usize>,
}

impl Faults {
    /// No faults: every byte arrives at once.
    pub const fn none() -> Self {
        Self {
            read_at_most: usize::MAX,
            write_at_most: usize::MAX,
            interrupted: false,
            would_block: false,
            window: 256 * 1024,
            reads_per_second: None,
            end_after_sending: None,
            reset_after_receiving: None,
        }
    }

    /// Each read and each write of the server moves at most this number of bytes; 0 counts as 1.
    pub fn segments(self, bytes: usize) -> Self {
        self.reads_of(bytes).writes_of(bytes)
    }

    /// Each read of the server gets at most this number of bytes; 0 counts as 1.
    pub fn reads_of(mut self, bytes: usize) -> Self {
        self.read_at_most = bytes.max(1);
        self
    }

    /// Each write of the server takes at most this number of bytes; 0 counts as 1.
    pub fn writes_of(mut self, bytes: usize) -> Self {
        self.write_at_most = bytes.max(1);
        self
    }

    /// Each read and write of the server that would move bytes is interrupted first.
    pub fn interrupted(mut self) -> Self {
        self.interrupted = true;
        self
    }

    /// Each read and write of the server that would move bytes would block first, and an event
    /// follows.
    pub fn would_block(mut self) -> Self {
        self.would_block = true;
        self
    }

    /// At most this number of bytes wait between the server and a peer that does not read; then the
    /// server's writes would block. Default: 256 KiB. With 0 the peer never gets anything.
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes;
        self
    }

    /// The peer reads this number of bytes in each second by which the harness
    /// [advances](crate::testing::Harness::advance), once its upgrade was answered. The kernel
    /// holds the bytes that it has taken and the peer has not read, up to the
    /// [window](Self::window). A full socket is writable again when less than half of the window is
    /// unread, as with `TCP_NOTSENT_LOWAT` on Linux.
    /// [`Harness::resume_reading`](crate::testing::Harness::resume_reading) ends the rate.
    pub fn reads_per_second(mut self, bytes: u32) -> Self {
        self.reads_per_second = Some(bytes);
        self
    }

    /// The peer's FIN comes when it has sent this number of bytes, its upgrade request included;
    /// later bytes are lost.
    pub fn fin_after_sending(mut self, bytes: usize) -> Self {
        self.end_after_sending = Some((bytes, End::Fin));
        self
    }

    /// The peer's reset comes when it has sent this number of bytes, its upgrade request included;
    /// later bytes are lost.
    pub fn reset_after_sending(mut self, bytes: usize) -> Self {
        self.end_after_sending = Some((bytes, End::Reset));
        self
    }

    /// The peer's reset comes when the server has written this number of bytes, its response
    /// included.
    pub fn reset_after_receiving(mut self, bytes: usize) -> Self {
        self.reset_after_receiving = Some(bytes);
        self
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}
