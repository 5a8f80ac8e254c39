//! Reading: the order in which connections are read, how much of each is read and handled, and what
//! is kept for later.

use std::io::ErrorKind;

use super::backlog::{Queue, Rest};
use super::budget::{
    CLOSING_PART, END, FRESH_PART, FRESH_SHARE, HEAVY, LEAST_READ, READ, READS_PER_SHARE,
    REST_AT_ONCE, SHARE,
};
use super::{Server, Turn, admission};
use crate::hub::{Connection, Phase, ReadLater, Received};
use crate::token::Token;
#[cfg(feature = "_tls")]
use crate::transport::tls::LEAST_BUFFER;
use crate::user::Context;

/// The poll's report on a connection.
#[derive(Clone, Copy)]
pub(super) struct Wakeup {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The end of the stream may be behind the available bytes.
    pub(super) read_closed: bool,
    /// A short read does not mean that the socket is empty.
    pub(super) hides_more: bool,
}

/// The result of a read.
#[derive(Clone, Copy)]
pub(super) enum Progress {
    /// There are no more bytes for now, or ever.
    Over,
    /// The read was short: the socket is empty, except perhaps for the end of the stream.
    Drained,
    /// There may be more bytes.
    Full,
    /// The connection was not read: see [`Hub::read_usual`].
    Unusual,
    /// The connection's share was used up, perhaps before its input was.
    UsedUp,
}

impl<S> Server<S> {
    /// Whether more may be behind a short read from this connection, whatever its event reports.
    #[inline]
    pub(super) fn short_may_hide(&self, token: Token) -> bool {
        self.reactor.short_may_hide
            && self.hub.get(token).is_some_and(|c| !c.stream.socket().short_means_empty())
    }

    /// Sets the share of each of the `ready` connections: half of an equal part, because bytes read
    /// count too.
    #[inline]
    pub(super) fn begin_shares(&mut self, ready: usize) {
        let (waiting, all) = (self.backlog.waiting(), self.hub.work_per_turn);
        self.limit = if waiting == 0 { all } else { all / FRESH_PART };
        self.usual_limit = if self.backlog.kept() == 0 { self.limit } else { 0 };
        self.share = match ready + waiting {
            0 | 1 => self.limit,
            several => (self.limit / several / 2).max(FRESH_SHARE).min(all),
        };
    }

    /// Serves a connection that is ready: to be read, to be written, or to be read to the end of
    /// its stream.
    ///
    /// An open connection that does not wait for its turn already, and did not take much of the
    /// last one, comes before all others. So a connection that sends little is served in the same
    /// turn, whatever others send. Requests and ending connections come behind it.
    #[inline]
    pub(super) fn serve_ready(&mut self, token: Token, wakeup: Wakeup, buffer: &mut [u8]) {
        if wakeup.readable && !wakeup.read_closed && self.hub.work < self.usual_limit {
            match self.serve(token, 0, buffer) {
                Progress::Drained if !wakeup.hides_more => return,
                Progress::Unusual => {}
                progress => return self.read_on(token, progress, wakeup.hides_more, buffer),
            }
        }
        self.serve_unusual(token, wakeup, buffer);
    }

    #[cold]
    pub(super) fn serve_unusual(&mut self, token: Token, wakeup: Wakeup, buffer: &mut [u8]) {
        let Wakeup { readable, writable, read_closed, hides_more } = wakeup;
        let to_the_end = read_closed || hides_more;
        if self.is_spent() && (readable || writable) {
            return self.put_off(token, to_the_end);
        }
        if writable {
            self.offer(token);
        }
        let Some(connection) = self.hub.get(token) else { return };
        if readable
            && !read_closed
            && connection.is_open()
            && connection.read_later == ReadLater::No
        {
            self.read(token, hides_more, buffer);
        } else if readable {
            self.put_off(token, to_the_end);
        }
    }

    /// Offers a connection's socket the bytes that it did not take before. Bytes that it takes
    /// count like bytes that are read.
    pub(super) fn offer(&mut self, token: Token) {
        let before = self.hub.written();
        self.hub.writable(token);
        self.hub.work += (self.hub.written() - before) as usize;
    }

    /// Reads a connection, up to its share of the turn. With `to_the_end` it continues after a
    /// short read: the end of the stream, or data behind urgent data, may follow.
    #[cold]
    pub(super) fn read(&mut self, token: Token, to_the_end: bool, buffer: &mut [u8]) {
        debug_assert!(!self.hub.is_inflating(token), "what comes next would overtake its message");
        let progress = self.read_once(token, buffer);
        self.read_on(token, progress, to_the_end, buffer);
    }

    /// Continues after a read: reads more while the share lasts, and leaves the rest for later.
    #[cold]
    pub(super) fn read_on(
        &mut self,
        token: Token,
        mut progress: Progress,
        to_the_end: bool,
        buffer: &mut [u8],
    ) {
        let most = self.most_read_from(token);
        let until = self.hub.work.saturating_add(self.share.saturating_sub(most));
        for reads in 1.. {
            match progress {
                Progress::Over => return,
                Progress::Drained if !to_the_end => return,
                Progress::UsedUp => {
                    let left = buffer[self.left.clone()].to_vec();
                    return self.keep(token, left, 0);
                }
                Progress::Drained | Progress::Full | Progress::Unusual => {}
            }
            // Short reads may be as long as a full one together. Otherwise connections whose input
            // is kept would leave the others less than their part.
            let enough_reads = reads >= READS_PER_SHARE && reads * most >= self.buffer_len;
            if enough_reads || self.hub.work >= until || self.is_spent() {
                break;
            }
            progress = self.read_once(token, buffer);
        }
        self.put_off(token, to_the_end);
    }

    /// Reads once from a connection in any state, and handles the input until its share is used up.
    #[cold]
    pub(super) fn read_once(&mut self, token: Token, buffer: &mut [u8]) -> Progress {
        let most = self.most_read_from(token).min(buffer.len());
        let buffer = &mut buffer[..most];
        match self.hub.read(token, buffer) {
            Some(Ok(read @ 1..)) => {
                self.hub.work += read;
                let more = self.hub.has_more_over_tls(token);
                let progress = self.serve(token, read, buffer);
                #[cfg(feature = "_tls")]
                self.hub.write_unoffered(token);
                match progress {
                    Progress::Drained if more == Some(true) => Progress::Full,
                    progress => progress,
                }
            }
            // Something has come over TLS, and no plaintext.
            Some(Err(error))
                if error.kind() == ErrorKind::Interrupted
                    && self.hub.has_more_over_tls(token) == Some(false) =>
            {
                Progress::Drained
            }
            end => self.stop_reading(token, end),
        }
    }

    /// The most bytes of the next read from a connection: TLS needs room for whole records.
    fn most_read_from(&self, token: Token) -> usize {
        #[cfg(feature = "_tls")]
        if self.hub.get(token).is_some_and(|connection| connection.stream.tls().is_some()) {
            return self.most_read.max(LEAST_BUFFER);
        }
        #[cfg(not(feature = "_tls"))]
        let _ = token;
        self.most_read
    }

    /// Handles the first `read` bytes of `buffer` until the connection's share is used up. If
    /// `read` is 0, it first reads them, if the connection is on the fast path.
    #[inline(never)]
    pub(super) fn serve(&mut self, token: Token, mut read: usize, buffer: &mut [u8]) -> Progress {
        if read == 0 {
            match self.hub.read_usual(token, buffer) {
                Some(Ok(some @ 1..)) => {
                    self.hub.work += some;
                    read = some;
                }
                None => return Progress::Unusual,
                end => return self.stop_reading(token, end),
            }
        }
        let until = self.hub.work + self.share;
        if let Err(left) = self.handle_input(token, until, &mut buffer[..read]) {
            self.left = read - left..read;
            return Progress::UsedUp;
        }
        if read == buffer.len() { Progress::Full } else { Progress::Drained }
    }

    #[cold]
    pub(super) fn stop_reading(
        &mut self,
        token: Token,
        end: Option<std::io::Result<usize>>,
    ) -> Progress {
        let mut progress = Progress::Over;
        match end {
            None => return Progress::Over,
            Some(Ok(_)) => self.hub.peer_finished(token),
            Some(Err(error)) => match error.kind() {
                ErrorKind::WouldBlock => return Progress::Over,
                ErrorKind::Interrupted => return Progress::Full,
                _ => {
                    // Behind what broke a TLS session, the peer's input is discarded until its FIN,
                    // which may be in the socket already.
                    progress = match self.hub.has_more_over_tls(token) {
                        None => Progress::Over,
                        Some(false) => Progress::Drained,
                        Some(true) => Progress::Full,
                    };
                    self.hub.socket_failed(token, error);
                }
            },
        }
        self.hub.work += END;
        self.context().drain_notifications();
        progress
    }

    /// Keeps input from a byte on until the connection has its turn again. It has one also if
    /// nothing is left: a message may be decompressed in part, and the end of the stream may be in
    /// the socket already.
    #[cold]
    pub(super) fn keep(&mut self, token: Token, bytes: Vec<u8>, from: usize) {
        self.put_off(token, true);
        let waits = |connection: &Connection| connection.read_later > ReadLater::Heavy;
        if from < bytes.len() && self.hub.get(token).is_some_and(waits) {
            self.backlog.keep(token, Rest { bytes, from });
            self.set_most_read();
        }
    }

    /// Fixes the length of one read, so that little is kept beside what is kept already.
    pub(super) fn set_most_read(&mut self) {
        self.usual_limit = 0;
        let room = self.buffer_len.saturating_sub(self.backlog.kept());
        self.most_read = room.max(LEAST_READ).min(self.buffer_len);
    }

    /// Reads from a connection later: in this turn if its budget allows, otherwise in the next.
    #[cold]
    pub(super) fn put_off(&mut self, token: Token, to_the_end: bool) {
        let Some(connection) = self.hub.get_mut(token) else { return };
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        if connection.read_later <= ReadLater::Heavy {
            let queue = Queue::of(connection);
            self.backlog.push(token, queue);
        }
        let how = if to_the_end { ReadLater::ToTheEnd } else { ReadLater::UntilShort };
        connection.read_later = connection.read_later.max(how);
    }

    /// Whether all connections together have used the budget of this part of the turn.
    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.hub.work >= self.limit
    }

    /// Reads from the waiting connections, in their order and each its share, as long as the budget
    /// allows; then from closing connections, for an eighth of it.
    #[inline]
    pub(super) fn serve_backlog(&mut self, buffer: &mut [u8]) {
        if self.backlog.has_connections() {
            self.read_backlog(buffer);
        }
    }

    #[cold]
    fn read_backlog(&mut self, buffer: &mut [u8]) {
        // The part that the others have left to connections that waited before this turn is theirs,
        // also if one read or message of the others was longer than what is left.
        let all = self.hub.work_per_turn;
        self.limit = all.max(self.hub.work.saturating_add(all.saturating_sub(self.limit)));
        while !self.is_spent()
            && let Some(token) = self.backlog.pop_waiting()
        {
            let Some(connection) = self.hub.get_mut(token) else {
                self.drop_rest(token);
                continue;
            };
            if connection.is_closing() {
                self.backlog.push(token, Queue::Closing);
                continue;
            }
            self.share = ((self.limit - self.hub.work) / (self.backlog.waiting() + 1))
                .max(SHARE)
                .min(self.limit);
            self.read_waiting(token, buffer);
        }
        self.limit = self.hub.work.saturating_add(self.hub.work_per_turn / CLOSING_PART);
        self.share = SHARE.min(self.hub.work_per_turn);
        #[cfg(feature = "_tls")]
        self.shake_hands(buffer);
        while !self.is_spent()
            && let Some(token) = self.backlog.pop_closing()
        {
            self.read_waiting(token, buffer);
        }
        self.limit = self.hub.work_per_turn;
    }

    /// Continues with TLS handshakes until their time in a turn is used up: one of them costs as
    /// much as hundreds of messages, and the clients decide how many there are. At least one
    /// continues.
    #[cfg(feature = "_tls")]
    fn shake_hands(&mut self, buffer: &mut [u8]) {
        let began = self.clock.precisely();
        while let Some(token) = self.backlog.pop_handshake() {
            if self.hub.get(token).is_some_and(|connection| connection.is_closing()) {
                self.backlog.push(token, Queue::Closing);
                continue;
            }
            self.read_waiting(token, buffer);
            if self.clock.precisely() - began >= self.handshake_time {
                break;
            }
        }
        // Their limit is the time: they take nothing of the part of closing connections.
        self.limit = self.hub.work.saturating_add(self.hub.work_per_turn / CLOSING_PART);
    }

    pub(super) fn drop_rest(&mut self, token: Token) {
        self.backlog.take_rest(token);
        self.set_most_read();
    }

    /// Handles the kept input of a connection, and reads more if its share is not used up.
    pub(super) fn read_waiting(&mut self, token: Token, buffer: &mut [u8]) {
        self.hub.work += READ;
        let Some(connection) = self.hub.get_mut(token) else { return self.drop_rest(token) };
        let to_the_end = std::mem::take(&mut connection.read_later) == ReadLater::ToTheEnd;
        let before = self.hub.work;
        self.offer(token);
        self.read_in_order(token, to_the_end, buffer);
        if self.hub.work - before >= HEAVY
            && let Some(connection) = self.hub.get_mut(token)
        {
            connection.read_later = connection.read_later.max(ReadLater::Heavy);
        }
    }

    /// Handles the kept input of a connection, a part at a time; returns whether that was all.
    pub(super) fn handle_rest(&mut self, token: Token, buffer: &mut [u8]) -> bool {
        let Some(Rest { bytes, mut from }) = self.backlog.take_rest(token) else { return true };
        self.set_most_read();
        while from < bytes.len() {
            let part = &bytes[from..];
            let part = &part[..part.len().min(REST_AT_ONCE).min(buffer.len())];
            buffer[..part.len()].copy_from_slice(part);
            self.hub.begin_input(token);
            from += part.len();
            if let Progress::UsedUp = self.serve(token, part.len(), buffer) {
                self.keep(token, bytes, from - self.left.len());
                return false;
            }
        }
        true
    }

    /// Handles the input that was read from one connection, and writes its replies once. If its
    /// share is used up, the error is the number of bytes that are left.
    #[inline(always)]
    pub(super) fn handle_input(
        &mut self,
        token: Token,
        until: usize,
        mut input: &mut [u8],
    ) -> Result<(), usize> {
        let mut used_up = false;
        let Self { state, hub, registry, turn, .. } = self;
        let mut context = Context { state, hub, registry };
        let messages = context.hub.stats.messages_in;
        while !input.is_empty() {
            context.messages(token, &mut input, until);
            if !input.is_empty() && !context.hub.has_notifications() && context.hub.work < until {
                used_up = receive(&mut context, turn, token, &mut input);
            }
            context.drain_notifications();
            used_up |= context.hub.work >= until;
            if used_up {
                break;
            }
        }
        turn.messages += (context.hub.stats.messages_in - messages) as usize;
        context.hub.end_input(token);
        context.drain_notifications();
        if used_up { Err(input.len()) } else { Ok(()) }
    }

    /// Reads a connection after its earlier input: a message that was decompressed in part, then
    /// the kept input.
    pub(super) fn read_in_order(&mut self, token: Token, to_the_end: bool, buffer: &mut [u8]) {
        if self.inflate_on(token) && self.handle_rest(token, buffer) {
            self.read(token, to_the_end, buffer);
        }
    }

    /// Continues with a message that was decompressed in part; returns whether it is done.
    #[cold]
    pub(super) fn inflate_on(&mut self, token: Token) -> bool {
        if !self.hub.is_inflating(token) {
            return true;
        }
        self.hub.begin_input(token);
        match self.hub.inflate_on(token) {
            Some(Received::Unfinished) => {
                self.hub.end_input(token);
                self.put_off(token, true);
                return false;
            }
            Some(Received::Message(message)) => {
                self.turn.messages += 1;
                self.context().message(token, &message);
            }
            _ => {}
        }
        self.context().drain_notifications();
        self.hub.forget_unfinished(token);
        self.hub.end_input(token);
        self.context().drain_notifications();
        true
    }
}

/// Handles the front of `input`, whatever it is; returns whether the share is used up.
#[cold]
fn receive<S>(
    context: &mut Context<'_, S>,
    turn: &mut Turn,
    token: Token,
    input: &mut &mut [u8],
) -> bool {
    match context.hub.receive(token, input) {
        Some(Received::Request) => admission::receive(context, token, input),
        Some(Received::Message(message)) => context.message(token, &message),
        Some(Received::Control(event, data)) => {
            turn.messages += 1;
            context.control(token, event, &data);
        }
        Some(Received::Unfinished) => return true,
        // Bytes behind a close frame or a refusal are read and discarded until the peer's FIN.
        // Closing earlier would send a reset, which can overtake the last bytes that were sent.
        None => *input = &mut [],
    }
    false
}
