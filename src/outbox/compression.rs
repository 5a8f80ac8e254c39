//! permessage-deflate (RFC 7692) in the server: the settings, what one connection keeps for it, and
//! what all connections of a loop share.
//!
//! It knows compressors, decompressors and the agreement with the client. The outbox decides how a
//! compressed frame waits and leaves.

use std::borrow::Cow;
use std::num::NonZeroU64;

use crate::http::{DeflateParams, Request, agree_on_deflate};
use crate::protocol::{Compressed, Decompressor, Deflater, Inflation, Message, Violation, Window};

/// The capacity that is kept for the next message that is compressed for all connections.
const KEEP_CAPACITY: usize = 256 * 1024;
/// The most that decompressing a message may cost before other connections are served, in bytes of
/// a turn's budget. That is about 2.5 ms, and less than 4 ms in every stream that was measured. Few
/// messages of 1 MiB cost that much.
const PIECE: usize = 5 << 20;

/// The level of [`Deflate::dedicated`], and the window of the server, in bits. With these, the
/// shared compressor takes less time than a separate compressor for each of 100 connections took at
/// level 1. Messages of up to 16 KiB can refer to an equally long message before them.
/// `benches/limit/COMPRESSION.md` has the figures.
const DEDICATED_LEVEL: u8 = 2;
const DEDICATED_BITS: u8 = 14;

/// The settings of permessage-deflate (RFC 7692), for clients that offer it. Compression is off by
/// default; [`Builder::deflate`](crate::Builder::deflate) or
/// [`RouteOptions::deflate`](crate::RouteOptions::deflate) turns it on.
///
/// All connections of a loop share its compressors and its decompressor: up to 370 KiB for each
/// combination of level and server window in use, and 46 KiB. There are two modes:
///
/// - With [`shared`](Self::shared) no message refers to an earlier one. A connection costs about
///   130 bytes more, and a broadcast is compressed once.
/// - With [`dedicated`](Self::dedicated) each message can refer to earlier ones, which makes small
///   similar messages much smaller. For that, a connection keeps the newest bytes of its messages:
///   of the server's messages up to 16 KiB (its [window](Self::server_window_bits)), of the
///   client's up to 32 KiB (its [window](Self::client_window_bits)). The memory is allocated as
///   messages come. A broadcast is compressed for each connection.
///
/// In that window, a message of the server refers to the newest 2 KiB, or to twice its own length
/// if that is more: further references take more time and save little. A message refers to the
/// whole window if the loop has compressed for no other connection since the previous message.
///
/// Compression and decompression count against the [budget of a
/// turn](crate::Builder::work_per_turn). A message that takes long to decompress is decompressed in
/// several turns, a few milliseconds in each. Meanwhile it occupies its own decompressor (46 KiB)
/// and its compressed bytes, and nothing more is read from its connection.
///
/// A message may have at most 1000 DEFLATE blocks plus one for every 128 bytes, compressed and
/// decompressed together. One with more ends its connection with close code 1008:
/// [`Violation::TooManyBlocks`](crate::protocol::Violation::TooManyBlocks). A truncated message
/// ends it with 1007.
///
/// ```
/// use ikisocket::{Deflate, Server};
///
/// let server = Server::builder().deflate(Deflate::shared().level(1).minimum(512)).build(())?;
/// # Ok::<(), ikisocket::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Deflate {
    params: DeflateParams,
    level: u8,
    minimum: u32,
}

impl Deflate {
    /// Settings in which each message is compressed by itself; the client is asked for the same.
    pub fn shared() -> Self {
        let params = DeflateParams {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            ..DeflateParams::default()
        };
        Self { params, level: 1, minimum: 128 }
    }

    /// Settings in which messages may refer to earlier ones (context takeover), in both directions,
    /// if the client agrees.
    pub fn dedicated() -> Self {
        let params =
            DeflateParams { server_max_window_bits: DEDICATED_BITS, ..DeflateParams::default() };
        Self { params, level: DEDICATED_LEVEL, ..Self::shared() }
    }

    /// Sets whether the client's messages may refer to its earlier ones, which costs a connection
    /// up to 32 KiB. Default: no if [`shared`](Self::shared), yes if
    /// [`dedicated`](Self::dedicated).
    pub fn client_context_takeover(mut self, yes: bool) -> Self {
        self.params.client_no_context_takeover = !yes;
        self
    }

    /// Sets the effort to make messages small: 1 (fast) to 9 (small). Default: 1 if
    /// [`shared`](Self::shared), 2 if [`dedicated`](Self::dedicated). Of 1 KiB of JSON by itself,
    /// level 1 saves 51 %; level 2 saves 63 % and takes twice as long; level 6 saves 65 %. With
    /// references to earlier messages, the savings are 59, 71 and 73 %.
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Sets the length below which messages are sent uncompressed, in bytes. Default: 128.
    pub fn minimum(mut self, bytes: u32) -> Self {
        self.minimum = bytes;
        self
    }

    /// Sets how far back the server's messages may refer: the window, as a power of 2 of bytes, 9
    /// to 15. Default: 14 if [dedicated](Self::dedicated), 15 if [`shared`](Self::shared). A
    /// dedicated connection keeps this number of bytes.
    ///
    /// The client may ask for a smaller window. The response to its offer names the window only if
    /// the offer does, because some clients refuse a parameter that they did not offer. A smaller
    /// window is then used without being announced, and any client understands it.
    pub fn server_window_bits(mut self, bits: u8) -> Self {
        self.params.server_max_window_bits = bits;
        self
    }

    /// Sets how far back the client's messages may refer: the window, as a power of 2 of bytes, 9
    /// to 15. Default: 15. A connection keeps this number of bytes if the client's messages [refer
    /// to earlier ones](Self::client_context_takeover). A client that does not offer
    /// `client_max_window_bits` keeps 15.
    pub fn client_window_bits(mut self, bits: u8) -> Self {
        self.params.client_max_window_bits = bits;
        self
    }

    /// The first setting that is out of its range, and that range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        for (ok, setting, expected) in [
            ((1..=9).contains(&self.level), "deflate level", "1 to 9"),
            (
                (9..=15).contains(&self.params.server_max_window_bits),
                "deflate server_window_bits",
                "9 to 15",
            ),
            (
                (9..=15).contains(&self.params.client_max_window_bits),
                "deflate client_window_bits",
                "9 to 15",
            ),
        ] {
            if !ok {
                return Err((setting, expected));
            }
        }
        Ok(())
    }

    /// Answers a request's offer: returns the connection's settings, and the value of
    /// `Sec-WebSocket-Extensions`.
    pub(crate) fn agree(&self, request: &Request) -> Option<(Agreed, String)> {
        let (agreed, answer) = agree_on_deflate(request, &self.params)?;
        let window = |is_kept, bits| if is_kept { Window::new(bits) } else { Window::none() };
        let compression = Compression {
            kind: Kind { level: self.level, bits: agreed.server_max_window_bits },
            minimum: self.minimum,
            keeps_context: !agreed.server_no_context_takeover,
            sent: window(!agreed.server_no_context_takeover, agreed.server_max_window_bits),
            context: None,
            received: window(!agreed.client_no_context_takeover, agreed.client_max_window_bits),
            unfinished: None,
        };
        Some((Box::new(compression), answer))
    }
}

/// The kind of a compressor: connections of the same kind can be sent the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    level: u8,
    bits: u8,
}

/// The encoding of a message on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    /// Compressed now, with the same result for every connection of this kind.
    Shared(Kind),
    /// Compressed when it is offered to the socket, because the messages after it refer to it.
    Dedicated,
}

/// What one connection agreed on, in one word of memory.
pub(crate) type Agreed = Box<Compression>;

/// The compression state of one connection.
pub(crate) struct Compression {
    kind: Kind,
    minimum: u32,
    /// Whether the server's messages refer to each other.
    keeps_context: bool,
    /// The bytes to which the server's next message may refer; empty if its messages do not refer
    /// to each other.
    sent: Window,
    /// The name of the context of the server's messages, set with the first one.
    context: Option<Context>,
    /// The bytes to which the client's next message may refer; empty if its messages do not refer
    /// to each other.
    received: Window,
    /// A message of which only a part is decompressed.
    unfinished: Option<Box<Unfinished>>,
}

/// A message of which only a part is decompressed.
struct Unfinished {
    /// Used for this message only, until it is finished.
    decompressor: Box<Decompressor>,
    compressed: Compressed<'static>,
    message: Vec<u8>,
    inflation: Inflation,
}

impl Compression {
    pub(crate) fn encoding(&self, len: usize) -> Encoding {
        if len < self.minimum as usize {
            Encoding::Plain
        } else if self.keeps_context {
            Encoding::Dedicated
        } else {
            Encoding::Shared(self.kind)
        }
    }

    /// Whether the server's messages refer to each other.
    pub(crate) fn keeps_context(&self) -> bool {
        self.keeps_context
    }

    /// Appends the compressed form of the server's next message to `out`.
    pub(crate) fn deflate_next(&mut self, common: &mut Common, payload: &[u8], out: &mut Vec<u8>) {
        let context = *self.context.get_or_insert_with(|| common.name_context());
        let shared = common.deflater(self.kind);
        if shared.holds != Some(context) {
            shared.deflater.begin(&self.sent, payload.len());
            shared.holds = Some(context);
        }
        shared.deflater.deflate(payload, true, out);
        common.late_work = common.late_work.wrapping_add(self.late_work(payload.len()));
        self.sent.remember(payload);
    }

    /// The cost of [`deflate_next`](Self::deflate_next) for a message of `len` bytes, in bytes of a
    /// turn's budget.
    pub(crate) fn late_work(&self, len: usize) -> usize {
        Deflater::work(self.kind.level, len, &self.sent)
    }

    /// Decompresses a message of the peer, up to `limit` bytes. Returns `None` if the cost exceeds
    /// one piece; then [`inflate_on`](Self::inflate_on) continues. The cost is added to `work`.
    pub(crate) fn inflate(
        &mut self,
        common: &mut Common,
        compressed: Compressed<'_>,
        limit: usize,
        work: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        // A decompressor that fails is not used again.
        let mut decompressor =
            common.decompressor.take().unwrap_or_else(|| Box::new(Decompressor::new()));
        let (mut message, mut inflation) = (Vec::new(), decompressor.begin(&self.received));
        let payload = &compressed.payload;
        let result = decompressor.inflate_some(
            &self.received,
            payload,
            limit,
            &mut message,
            &mut inflation,
            PIECE,
        );
        // A refused message has cost its work too.
        *work += inflation.work;
        let is_done = result?;
        if is_done {
            common.decompressor = Some(decompressor);
            self.received.remember(&message);
            return compressed.into_message(message).map(Some);
        }
        let compressed = compressed.into_owned();
        self.unfinished =
            Some(Box::new(Unfinished { decompressor, compressed, message, inflation }));
        Ok(None)
    }

    /// Continues with an unfinished message. Returns `None` if more is left to do, or if there is
    /// none. After any other result, call [`forget_unfinished`](Self::forget_unfinished).
    pub(crate) fn inflate_on(
        &mut self,
        limit: usize,
        work: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        let Some(unfinished) = &mut self.unfinished else { return Ok(None) };
        let Unfinished { decompressor, compressed, message, inflation } = &mut **unfinished;
        let before = inflation.work;
        let payload = &compressed.payload;
        let result =
            decompressor.inflate_some(&self.received, payload, limit, message, inflation, PIECE);
        *work += inflation.work - before;
        if !result? {
            return Ok(None);
        }
        let (message, is_text) = (std::mem::take(message), compressed.is_text);
        self.received.remember(&message);
        Compressed { is_text, payload: Cow::Borrowed(&[]) }.into_message(message).map(Some)
    }

    /// Whether a message is unfinished.
    pub(crate) fn is_inflating(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Forgets the unfinished message.
    pub(crate) fn forget_unfinished(&mut self) {
        self.unfinished = None;
    }
}

/// The name of one connection's context. No other context of the loop ever has it.
type Context = NonZeroU64;

/// The compressor for the messages of all connections of a kind.
struct SharedDeflater {
    kind: Kind,
    deflater: Deflater,
    /// The connection that it compressed for last, if that keeps its context. The next message for
    /// that connection continues from there, and the window is not loaded. `None`: it is as new.
    holds: Option<Context>,
}

/// What the connections of one loop share. Empty until the first message is compressed.
#[derive(Default)]
pub(crate) struct Common {
    deflaters: Vec<SharedDeflater>,
    /// The number of contexts that were named so far.
    contexts: u64,
    decompressor: Option<Box<Decompressor>>,
    spare: Vec<u8>,
    late_work: usize,
}

impl Common {
    /// The total cost of messages that were compressed when they were offered to a socket, in bytes
    /// of a turn's budget. It wraps around.
    pub(crate) fn late_work(&self) -> usize {
        self.late_work
    }

    fn name_context(&mut self) -> Context {
        self.contexts += 1;
        Context::new(self.contexts).expect("counted from 1")
    }

    fn deflater(&mut self, kind: Kind) -> &mut SharedDeflater {
        let at = self.deflaters.iter().position(|each| each.kind == kind).unwrap_or_else(|| {
            let deflater = Deflater::new(kind.level, kind.bits);
            self.deflaters.push(SharedDeflater { kind, deflater, holds: None });
            self.deflaters.len() - 1
        });
        &mut self.deflaters[at]
    }

    /// Compresses a message for all connections of a kind. Returns `None` if that does not make it
    /// smaller. The caller must give the buffer [back](Self::recycle). The cost is added to `work`.
    pub(crate) fn deflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        work: &mut usize,
    ) -> Option<Vec<u8>> {
        let mut out = std::mem::take(&mut self.spare);
        let shared = self.deflater(kind);
        if shared.holds.take().is_some() {
            shared.deflater.begin(&Window::none(), 0);
        }
        shared.deflater.deflate(payload, false, &mut out);
        *work += Deflater::work(kind.level, payload.len(), &Window::none());
        if out.len() < payload.len() {
            return Some(out);
        }
        self.recycle(out);
        None
    }

    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(KEEP_CAPACITY);
        self.spare = buffer;
    }
}
