//! The largest request head that is accepted.

/// The largest useful [`HeadLimits::max_bytes`]: a [`Request`](super::Request) keeps lengths in 16
/// bits.
pub(super) const LARGEST_HEAD: usize = u16::MAX as usize;

/// The largest request head that is accepted.
///
/// ```
/// use ikisocket::http::HeadLimits;
///
/// let limits = HeadLimits::default().max_bytes(8 * 1024);
/// assert_eq!((limits.max_bytes, limits.max_headers), (8192, 100));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, with the blank line at its end. Default 16 384; more than 65 535
    /// counts as 65 535.
    pub max_bytes: usize,
    /// Header lines. Default 100.
    pub max_headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_bytes: 16 * 1024, max_headers: 100 }
    }
}

impl HeadLimits {
    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub const fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Sets [`max_headers`](Self::max_headers).
    #[must_use]
    pub const fn max_headers(self, max_headers: usize) -> Self {
        Self { max_headers, ..self }
    }

    pub(super) fn effective_max_bytes(&self) -> usize {
        self.max_bytes.min(LARGEST_HEAD)
    }
}
