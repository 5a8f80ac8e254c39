//! A feed as a server: updates of many keys at a steady pace, made in the loop's own thread and
//! broadcast.
//!
//! Between turns of the loop, every few milliseconds, the updates that have become due since are
//! broadcast. An update says when it was due, not when it was broadcast, so a server that falls
//! behind makes its updates old.

use std::error::Error;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ikisocket::{Error as SocketError, Event, Latest, Response, Server, Sockets};
use serde_json::json;

use super::readers::TOTAL;

pub const KEYS: u64 = 1_000;
/// Updates in a second.
pub const PACE: u64 = 100_000;
/// Nanoseconds from one update to the next.
pub const STEP: u64 = 1_000_000_000 / PACE;
/// How often those that are due are broadcast.
const EVERY: Duration = Duration::from_millis(10);
/// The most updates in one batch, twice what is due each time: a feed that has fallen behind must
/// not fill every socket at once.
const MOST: u64 = 2 * EVERY.as_nanos() as u64 / STEP;
const LARGE: usize = 1024 * 1024 * 1024;
/// The size that is asked for; the kernel doubles it.
const SMALL: usize = 32 * 1024;

/// One update. All have the same length, so that readers can count them by bytes.
#[derive(Clone, Copy)]
pub struct Update {
    /// Which one it is of all, from 0. Keys come in turn.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub due: u64,
}

impl Update {
    const LEN: usize = 28;
    /// With the frame's header.
    pub const FRAME: u64 = 2 + Self::LEN as u64;

    pub fn key(self) -> u64 {
        self.number % KEYS
    }

    /// Stands for what an update is about, and shows whether it is whole.
    fn value(self) -> u64 {
        self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.due
    }

    fn write(self) -> [u8; Self::LEN] {
        let mut payload = [0; Self::LEN];
        payload[..4].copy_from_slice(&(self.key() as u32).to_be_bytes());
        for (place, part) in
            payload[4..].chunks_exact_mut(8).zip([self.number, self.due, self.value()])
        {
            place.copy_from_slice(&part.to_be_bytes());
        }
        payload
    }

    /// `None` if it is not a whole one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let part = |at: usize| Some(u64::from_be_bytes(*payload.get(at..)?.first_chunk()?));
        let update = Self { number: part(4)?, due: part(12)? };
        (payload == update.write()).then_some(update)
    }
}

pub fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64
}

struct Feed {
    latest: bool,
    /// The feed begins when this many readers are connected.
    readers: usize,
    began: Option<u64>,
    /// Updates that were broadcast.
    done: u64,
    /// When a reader was disconnected as too slow.
    lost: Option<u64>,
}

impl Feed {
    /// Broadcasts what is due; returns how long the loop may wait.
    fn broadcast_due(&mut self, sockets: &mut Sockets<'_, Self>) -> Duration {
        if self.began.is_none() && sockets.len() < self.readers {
            return EVERY;
        }
        let began = *self.began.get_or_insert_with(now);
        let due = ((now() - began) / STEP).min(TOTAL);
        let until = due.min(self.done + MOST);
        for number in self.done..until {
            let update = Update { number, due: began + number * STEP };
            let payload = update.write();
            match self.latest {
                true => sockets.broadcast(Latest(update.key(), &payload[..])),
                false => sockets.broadcast(&payload[..]),
            };
        }
        self.done = until;
        if until < due { Duration::ZERO } else { EVERY }
    }
}

/// Serves `/feed`, `/slow` for the one that stalls, and the page `/figures`, until the process is
/// ended.
///
/// What `keeping` does for a slow reader: nothing (`default`), let all wait (`large`), conflate
/// (`latest`), or conflate and give the one that stalls a small send buffer (`latest-small`).
pub fn serve(keeping: &str, readers: usize, address: &str) -> Result<(), Box<dyn Error>> {
    let (latest, small) = (keeping.starts_with("latest"), keeping == "latest-small");
    let builder = Server::builder().ping_after(Duration::MAX);
    let builder = if keeping == "large" { builder.max_outbox(LARGE) } else { builder };
    let mut server = builder.build(Feed { latest, readers, began: None, done: 0, lost: None })?;
    server.route("/feed", |_, _| {})?;
    server.route("/slow", move |_, kws| {
        if small && let Some(fd) = kws.transport().fd() {
            socket2::SockRef::from(&fd).set_send_buffer_size(SMALL).expect("a send buffer");
        }
    })?;
    server.on(Event::Error, |feed, ep| {
        if let Some(SocketError::SlowConsumer { .. }) = ep.error {
            feed.lost = Some(now());
        }
    });
    server.get("/figures", |feed, sockets, _| {
        let stats = sockets.stats();
        let (waiting, replaced) = (stats.bytes_waiting, stats.dropped.replaced);
        let page = json!({ "broadcast": feed.done, "waiting": waiting, "replaced": replaced, "lost": feed.lost });
        Response::json(page.to_string())
    })?;
    println!("listening on {}", server.listen(address)?);
    loop {
        let (feed, mut sockets) = server.lend();
        let next = Instant::now() + feed.broadcast_due(&mut sockets);
        // A turn ends early when a socket is ready. The feed does not: small batches would take
        // more system calls.
        loop {
            server.poll(Some(next.saturating_duration_since(Instant::now())))?;
            if Instant::now() >= next {
                break;
            }
        }
    }
}
