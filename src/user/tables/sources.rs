//! The user's own sources, which the loop watches too, and their callbacks.
//!
//! It knows no connection, and the poll only as the place where sources are registered. Nothing in
//! it is borrowed while user code runs. A source is taken out with its callback, called by the loop
//! and put back, so that the callback can add and remove sources, itself included.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use mio::Interest;
use mio::event::{Event, Source};

use crate::hub::Discarded;
use crate::token::{MAX_SOURCES, Ready, SourceId};

/// The readiness of a source, as the operating system reports it. The report may be wrong, so code
/// must not treat "would block" as an error. [`mio::event::Event`] describes each flag, and on
/// which systems it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// The source.
    pub id: SourceId,
    /// The source may have data to read.
    pub readable: bool,
    /// The source may accept data.
    pub writable: bool,
    /// The source has no further data behind what can be read now.
    pub read_closed: bool,
    /// The source accepts no data any more.
    pub write_closed: bool,
    /// The source has an error, which can be asked for.
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

/// The table's view of a source, whatever its type.
pub(crate) trait Watch {
    fn source(&mut self) -> &mut dyn Source;
    /// Drops the source and its callback, each by itself.
    fn discard(self: Box<Self>, discarded: &mut Discarded);
}

struct Entry<W: ?Sized> {
    /// `None` while its callback runs.
    watched: Option<Box<W>>,
    interest: Interest,
    /// It is in the list of sources to be called without an event.
    woken: bool,
}

pub(crate) struct Sources<W: Watch + ?Sized> {
    poll: mio::Registry,
    entries: RefCell<HashMap<SourceId, Entry<W>>>,
    /// Sources to be called without an event.
    woken: RefCell<Vec<SourceId>>,
    newest: Cell<usize>,
}

impl<W: Watch + ?Sized> Sources<W> {
    pub(crate) fn new(poll: mio::Registry) -> Self {
        Self { poll, entries: RefCell::default(), woken: RefCell::default(), newest: Cell::new(0) }
    }

    /// Watches a source; with an error the source is returned.
    pub(crate) fn add(
        &self,
        mut watched: Box<W>,
        interest: Interest,
    ) -> Result<SourceId, (std::io::Error, Box<W>)> {
        let mut entries = self.entries.borrow_mut();
        let free = |id: &SourceId| !entries.contains_key(id);
        // If a word is short, ids are reused some day.
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

    /// Removes a source, and drops it unless its callback is running; `None` if there is no such
    /// source.
    pub(crate) fn remove(&self, id: SourceId) -> Option<Discarded> {
        let entry = self.entries.borrow_mut().remove(&id)?;
        Some(entry.watched.map(|watched| self.release(watched)).unwrap_or_default())
    }

    fn release(&self, mut watched: Box<W>) -> Discarded {
        let mut discarded = Discarded::default();
        discarded.run(|| {
            // The source may have closed its descriptor; then there is nothing to deregister.
            let _ = self.poll.deregister(watched.source());
        });
        watched.discard(&mut discarded);
        discarded
    }

    /// Schedules a call of a source without an event; returns whether there is such a source.
    pub(crate) fn wake(&self, id: SourceId) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&id) else { return false };
        if !std::mem::replace(&mut entry.woken, true) {
            self.woken.borrow_mut().push(id);
        }
        true
    }

    /// Whether sources are to be called without an event.
    #[inline]
    pub(crate) fn has_woken(&self) -> bool {
        !self.woken.borrow().is_empty()
    }

    /// Takes the list of sources to be called without an event. A source that is woken from now on
    /// is called in the next turn.
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

    /// The readiness with which a source is called without an event: it may be ready for everything
    /// in its interest.
    pub(crate) fn may_be_ready(&self, id: SourceId) -> Option<Readiness> {
        let interest = self.entries.borrow().get(&id)?.interest;
        let (readable, writable) = (interest.is_readable(), interest.is_writable());
        Some(Readiness {
            id,
            readable,
            writable,
            read_closed: false,
            write_closed: false,
            error: false,
        })
    }

    pub(crate) fn take(&self, id: SourceId) -> Option<Box<W>> {
        self.entries.borrow_mut().get_mut(&id)?.watched.take()
    }

    /// Continues to watch a source whose callback has run, unless it was removed meanwhile.
    pub(crate) fn put_back(&self, id: SourceId, watched: Box<W>) -> Discarded {
        if let Some(entry) = self.entries.borrow_mut().get_mut(&id) {
            entry.watched = Some(watched);
            return Discarded::default();
        }
        self.release(watched)
    }
}

impl<W: Watch + ?Sized> Drop for Sources<W> {
    fn drop(&mut self) {
        for (_, entry) in std::mem::take(self.entries.get_mut()) {
            if let Some(watched) = entry.watched {
                self.release(watched).count(); // No server remains to count them.
            }
        }
    }
}
