//! The report on a turn of the loop.

/// A report on what one turn of the loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Peers that connected.
    pub accepted: usize,
    /// Connections that were upgraded to WebSocket.
    pub opened: usize,
    /// Requests that a page or a filter answered.
    pub pages: usize,
    /// Messages, pings and pongs for which events fired.
    pub messages: usize,
    /// Commands of [handles](crate::Handle) that were run.
    pub commands: usize,
    /// Messages of other loops that were handled.
    pub letters: usize,
    /// Calls of timers and intervals.
    pub timers: usize,
    /// Calls of the user's own [sources](crate::Sockets::add_source).
    pub sources: usize,
    /// Connections that ended, their descriptors closed.
    pub closed: usize,
}
