//! The user's own sources: what else the loop watches, and what it calls when something happens there.
//!
//! It knows the poll only as the place where sources are registered, and no connection. Nothing of it is borrowed while user code runs: a source is
//! taken out with its callback, called by the loop and put back, so that it can add and remove sources, itself included.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use mio::Interest;
use mio::event::{Event, Source};

use super::socket::Sockets;
use crate::error::IoError;
use crate::hub::Discarded;
use crate::token::{MAX_SOURCES, Ready, SourceId};

/// What a source is ready for, as far as the operating system says so; it may be wrong, so what would block must not be an error. The meaning of each flag,
/// and on which systems it is there, is that of [`mio::event::Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Which source it is.
    pub id: SourceId,
    /// Something can be read.
    pub readable: bool,
    /// Something can be written.
    pub writable: bool,
    /// Nothing more will come behind what can be read.
    pub read_closed: bool,
    /// Nothing more can be written.
    pub write_closed: bool,
    /// There is an error to be asked for.
    pub error: bool,
}

impl Readiness {
    pub(crate) fn of(id: SourceId, event: &Event) -> Self {
        Self {
            id,
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            write_closed: event.is_write_closed(),
            error: event.is_error(),
        }
    }
}

/// A source with its callback, whatever its type.
pub(crate) trait Watched<S> {
    fn ready(&mut self, state: &mut S, sockets: &mut Sockets<'_, S>, readiness: Readiness);
    fn source(&mut self) -> &mut dyn Source;
    /// Drops the source and the callback, each by itself.
    fn discard(self: Box<Self>, discarded: &mut Discarded);
}

struct Watch<E, F> {
    source: E,
    callback: F,
}

impl<S, E, F> Watched<S> for Watch<E, F>
where
    E: Source,
    F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness),
{
    fn ready(&mut self, state: &mut S, sockets: &mut Sockets<'_, S>, readiness: Readiness) {
        (self.callback)(state, sockets, &mut self.source, readiness);
    }

    fn source(&mut self) -> &mut dyn Source {
        &mut self.source
    }

    fn discard(self: Box<Self>, discarded: &mut Discarded) {
        let Self { source, callback } = *self;
        discarded.drop(source);
        discarded.drop(callback);
    }
}

struct Entry<S> {
    /// `None` while its callback runs.
    watched: Option<Box<dyn Watched<S>>>,
    interest: Interest,
    /// It is on the list of those that are called without an event.
    woken: bool,
}

pub(crate) struct Sources<S> {
    poll: mio::Registry,
    entries: RefCell<HashMap<SourceId, Entry<S>>>,
    /// Those that are to be called without an event.
    woken: RefCell<Vec<SourceId>>,
    newest: Cell<usize>,
}

impl<S> Sources<S> {
    pub(crate) fn new(poll: mio::Registry) -> Self {
        Self { poll, entries: RefCell::default(), woken: RefCell::default(), newest: Cell::new(0) }
    }

    fn add(
        &self,
        mut watched: Box<dyn Watched<S>>,
        interest: Interest,
    ) -> Result<SourceId, (std::io::Error, Box<dyn Watched<S>>)> {
        let mut entries = self.entries.borrow_mut();
        let free = |id: &SourceId| !entries.contains_key(id);
        // Where a word is short, names come round some day.
        let id = (1..).map(|step| SourceId((self.newest.get() + step) % MAX_SOURCES)).find(free);
        let id = id.expect("fewer sources than names");
        let token = mio::Token(Ready::Source(id).encode());
        if let Err(error) = self.poll.register(watched.source(), token, interest) {
            drop(entries);
            return Err((error, watched));
        }
        self.newest.set(id.0);
        entries.insert(id, Entry { watched: Some(watched), interest, woken: false });
        Ok(id)
    }

    /// Removes a source, and drops it unless its callback runs; `None` if there is none.
    fn remove(&self, id: SourceId) -> Option<Discarded> {
        let entry = self.entries.borrow_mut().remove(&id)?;
        Some(entry.watched.map(|watched| self.release(watched)).unwrap_or_default())
    }

    fn release(&self, mut watched: Box<dyn Watched<S>>) -> Discarded {
        let mut discarded = Discarded::default();
        discarded.run(|| {
            // It may have closed itself; then there is nothing to be deregistered.
            let _ = self.poll.deregister(watched.source());
        });
        watched.discard(&mut discarded);
        discarded
    }

    fn wake(&self, id: SourceId) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&id) else { return false };
        if !std::mem::replace(&mut entry.woken, true) {
            self.woken.borrow_mut().push(id);
        }
        true
    }

    /// Those that are to be called without an event; who asks from now on is called in the next turn.
    pub(crate) fn take_woken(&self) -> Vec<SourceId> {
        let mut entries = self.entries.borrow_mut();
        let woken = self.woken.take();
        for id in &woken {
            if let Some(entry) = entries.get_mut(id) {
                entry.woken = false;
            }
        }
        woken
    }

    /// What a source is called with when there is no event: whatever it waits for may be there.
    pub(crate) fn may_be_ready(&self, id: SourceId) -> Option<Readiness> {
        let interest = self.entries.borrow().get(&id)?.interest;
        let (readable, writable) = (interest.is_readable(), interest.is_writable());
        Some(Readiness { id, readable, writable, read_closed: false, write_closed: false, error: false })
    }

    pub(crate) fn take(&self, id: SourceId) -> Option<Box<dyn Watched<S>>> {
        self.entries.borrow_mut().get_mut(&id)?.watched.take()
    }

    /// Goes on watching a source whose callback has run, unless it was removed meanwhile.
    pub(crate) fn put_back(&self, id: SourceId, watched: Box<dyn Watched<S>>) -> Discarded {
        if let Some(entry) = self.entries.borrow_mut().get_mut(&id) {
            entry.watched = Some(watched);
            return Discarded::default();
        }
        self.release(watched)
    }
}

impl<S> Drop for Sources<S> {
    fn drop(&mut self) {
        for (_, entry) in std::mem::take(self.entries.get_mut()) {
            if let Some(watched) = entry.watched {
                self.release(watched).count(); // No server is left that counts them.
            }
        }
    }
}

impl<S> Sockets<'_, S> {
    /// Watches a source of your own, any [`mio::event::Source`]: a UDP socket, a pipe, a descriptor in [`mio::unix::SourceFd`]. Whenever it is ready for what `interest` says,
    /// `callback` runs on the loop with the state, the sockets and the source lent. The mio to make sources with is [`ikisocket::mio`](crate::mio).
    ///
    /// Readiness is edge-triggered: it is told once, when it begins. Read, or write, until it would block, or nobody tells of the rest; a callback that wants to stop
    /// before asks to be called again with [`wake_source`](Self::wake_source). There may be calls for nothing.
    ///
    /// The source belongs to the server until it is [removed](Self::remove_source) or the server is dropped; then it is deregistered and dropped. A panic in the callback is
    /// caught, and the source stays.
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use ikisocket::Server;
    /// use ikisocket::mio::{Interest, net::UdpSocket};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", 0u64)?;
    /// let feed = UdpSocket::bind("127.0.0.1:0".parse()?)?;
    /// server.add_source(feed, Interest::READABLE, |packets, sockets, feed, _| {
    ///     let mut packet = [0; 1500];
    ///     loop {
    ///         match feed.recv(&mut packet) {
    ///             Ok(len) => {
    ///                 *packets += 1;
    ///                 sockets.broadcast(&packet[..len]);
    ///             }
    ///             Err(error) if error.kind() == ErrorKind::WouldBlock => break,
    ///             Err(error) => eprintln!("feed: {error}"),
    ///         }
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the operating system said; the source is dropped. It may be of a kind that cannot be watched (a regular file), or it is watched
    /// already.
    pub fn add_source<E, F>(&mut self, source: E, interest: Interest, callback: F) -> Result<SourceId, IoError>
    where
        E: Source + 'static,
        F: FnMut(&mut S, &mut Sockets<'_, S>, &mut E, Readiness) + 'static,
    {
        self.registry.sources.add(Box::new(Watch { source, callback }), interest).map_err(|(error, watched)| {
            let mut discarded = Discarded::default();
            watched.discard(&mut discarded);
            self.registry.count_panics(discarded);
            error.into()
        })
    }

    /// Stops watching a source and drops it; whether there was one. Its own callback may do so too: then it is dropped when that has returned.
    pub fn remove_source(&mut self, source: SourceId) -> bool {
        self.registry.sources.remove(source).map(|discarded| self.registry.count_panics(discarded)).is_some()
    }

    /// Has a source's callback called in the next turn, as if all that it waits for were there; whether there is such a source. It is for a callback that stops
    /// before it would block, so that others come between, and for whoever has something for it to write.
    pub fn wake_source(&mut self, source: SourceId) -> bool {
        let is_there = self.registry.sources.wake(source);
        self.hub.more |= is_there;
        is_there
    }
}
