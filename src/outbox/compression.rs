//! permessage-deflate (RFC 7692) in the server: the settings, what one connection keeps for it, and
//! what all connections of a loop share.
//!
//! It knows compressors, decompressors and what was agreed on. How a compressed frame waits and
//! goes out is the outbox's affair.

use std::borrow::Cow;

use crate::http::{DeflateParams, Request, agree_on_deflate};
use crate::protocol::{Compressed, Deflater, Inflater, Inflation, Message, Violation};

/// What is kept for the next message that is compressed for all.
const KEEP_CAPACITY: usize = 256 * 1024;
/// What a message's decompression may cost before the others have their turn, in bytes of a turn's
/// budget: about 2.5 ms, and less than 4 ms in every stream that was measured. Few messages of 1
/// MiB cost that.
const PIECE: usize = 5 << 20;

/// How messages are compressed with permessage-deflate (RFC 7692), for clients that offer it. Off
/// by default; on with [`Builder::deflate`](crate::Builder::deflate) or
/// [`RouteOptions::deflate`](crate::RouteOptions::deflate).
///
/// With [`shared`](Self::shared) no message refers to an earlier one: all connections of a loop
/// share one compressor and one decompressor, a connection costs about 50 bytes more, and a
/// broadcast is compressed once. With [`dedicated`](Self::dedicated) each message can refer to the
/// 32 KiB before it, which makes small similar messages much smaller; a connection costs about 370
/// KiB once it sends (245 KiB with the smallest [window](Self::server_window_bits)) and 46 KiB once
/// it receives, with up to 32 KiB more for what it has received (its
/// [window](Self::client_window_bits), which outlives a block that is marked as the last, RFC 7692
/// §7.2.3.4), and a broadcast is compressed for each.
///
/// What is compressed and decompressed counts of the [budget of a
/// turn](crate::Builder::work_per_turn). A message that takes long to decompress is decompressed in
/// several turns, a few milliseconds in each. Meanwhile it takes a decompressor of its own (46 KiB)
/// and its compressed bytes, and nothing more is read from its connection. A message with more than
/// 1000 DEFLATE blocks, and one for every 128 bytes, compressed and decompressed together, ends its
/// connection with close code 1008:
/// [`Violation::TooManyBlocks`](crate::protocol::Violation::TooManyBlocks). One that is cut ends it
/// with 1007.
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
    /// Each message by itself; the client is asked for the same.
    pub fn shared() -> Self {
        let params = DeflateParams {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            ..DeflateParams::default()
        };
        Self { params, level: 1, minimum: 128 }
    }

    /// Messages may refer to earlier ones (context takeover), in both directions, if the client
    /// agrees.
    pub fn dedicated() -> Self {
        Self { params: DeflateParams::default(), ..Self::shared() }
    }

    /// Whether the client's messages may refer to its earlier ones; that costs a connection 46 to
    /// 78 KiB. Default: no if [`shared`](Self::shared), yes if [`dedicated`](Self::dedicated).
    pub fn client_context_takeover(mut self, yes: bool) -> Self {
        self.params.client_no_context_takeover = !yes;
        self
    }

    /// How much work is put into making messages small: 1 (fast) to 9 (small). Default: 1. Of 1 KiB
    /// of JSON by itself, 1 saves 51 %; 2 saves 63 % and takes twice as long; 6 saves 65 %.
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Shorter messages, in bytes, are sent as they are. Default: 128.
    pub fn minimum(mut self, bytes: u32) -> Self {
        self.minimum = bytes;
        self
    }

    /// How far back our messages refer, at most, as a power of 2 of bytes: 9 to 15. Default: 15.
    /// The client may ask for less. The answer to its offer names the window only if the offer
    /// does, because some clients refuse a parameter that they did not offer; a smaller window is
    /// used without a word then, and any client understands it.
    pub fn server_window_bits(mut self, bits: u8) -> Self {
        self.params.server_max_window_bits = bits;
        self
    }

    /// How far back the client's messages may refer, as a power of 2 of bytes: 9 to 15. Default:
    /// 15. It is no more than a wish to clients that do not offer `client_max_window_bits`.
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

    /// What a request's offer comes to: what the connection keeps, and the value of
    /// `Sec-WebSocket-Extensions`.
    pub(crate) fn agree(&self, request: &Request) -> Option<(Agreed, String)> {
        let (agreed, answer) = agree_on_deflate(request, &self.params)?;
        let compression = Compression {
            kind: Kind { level: self.level, bits: agreed.server_max_window_bits },
            minimum: self.minimum,
            keeps_context: !agreed.server_no_context_takeover,
            deflater: None,
            inflater_bits: (!agreed.client_no_context_takeover)
                .then_some(agreed.client_max_window_bits),
            inflater: None,
            unfinished: None,
        };
        Some((Box::new(compression), answer))
    }
}

/// Which compressor: connections of the same kind can be sent the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    level: u8,
    bits: u8,
}

/// How a message goes out on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    /// Compressed now, as for every other connection of this kind.
    Shared(Kind),
    /// Compressed when it goes to the socket, because the messages after it refer to it.
    Dedicated,
}

/// What a connection keeps of what was agreed on: a word.
pub(crate) type Agreed = Box<Compression>;

/// What one connection keeps for permessage-deflate.
pub(crate) struct Compression {
    kind: Kind,
    minimum: u32,
    /// Our messages refer to each other: they are compressed by `deflater`, which is made for the
    /// first one.
    keeps_context: bool,
    deflater: Option<Box<Deflater>>,
    /// The client's messages refer to each other, this far back; `inflater` is made for the first
    /// one.
    inflater_bits: Option<u8>,
    inflater: Option<Box<Inflater>>,
    /// A message of which only a part is decompressed. Then `inflater` is its own, also if messages
    /// do not refer to each other.
    unfinished: Option<Box<Unfinished>>,
}

/// A message of which only a part is decompressed.
struct Unfinished {
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

    /// Whether our messages refer to each other.
    pub(crate) fn keeps_context(&self) -> bool {
        self.keeps_context
    }

    /// Appends the compressed form of our next message to `out`.
    pub(crate) fn deflate_next(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let Kind { level, bits } = self.kind;
        let deflater = self.deflater.get_or_insert_with(|| Box::new(Deflater::new(level, bits)));
        deflater.deflate(payload, true, out);
    }

    /// What [`deflate_next`](Self::deflate_next) costs for a message of `len` bytes, in bytes of a
    /// turn's budget.
    pub(crate) fn late_work(&self, len: usize) -> usize {
        Deflater::work(self.kind.level, len)
    }

    /// Decompresses what the peer has sent, up to `limit` bytes; `None` if that costs more than is
    /// done at once. Then [`inflate_on`](Self::inflate_on) goes on. What it costs is added to
    /// `work`.
    pub(crate) fn inflate(
        &mut self,
        common: &mut Common,
        compressed: Compressed<'_>,
        limit: usize,
        work: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        let mut inflater = match self.inflater_bits {
            Some(bits) => self.inflater.take().unwrap_or_else(|| Box::new(Inflater::new(bits))),
            None => {
                let mut inflater =
                    common.inflater.take().unwrap_or_else(|| Box::new(Inflater::new(15)));
                inflater.reset();
                inflater
            }
        };
        let (mut message, mut inflation) = (Vec::new(), Inflation::default());
        let result =
            inflater.inflate_some(&compressed.payload, limit, &mut message, &mut inflation, PIECE);
        // What is refused has cost as much.
        *work += inflation.work;
        let is_done = result?;
        if is_done {
            self.end_inflate(common, inflater, &message);
            return compressed.into_message(message).map(Some);
        }
        let compressed = compressed.into_owned();
        self.inflater = Some(inflater);
        self.unfinished = Some(Box::new(Unfinished { compressed, message, inflation }));
        Ok(None)
    }

    /// Goes on with an unfinished message; `None` if there is more to do, or if there is none. It
    /// is to be followed by [`forget_unfinished`](Self::forget_unfinished) otherwise.
    pub(crate) fn inflate_on(
        &mut self,
        common: &mut Common,
        limit: usize,
        work: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        let (Some(inflater), Some(unfinished)) = (&mut self.inflater, &mut self.unfinished) else {
            return Ok(None);
        };
        let Unfinished { compressed, message, inflation, .. } = &mut **unfinished;
        let before = inflation.work;
        let result = inflater.inflate_some(&compressed.payload, limit, message, inflation, PIECE);
        *work += inflation.work - before;
        if !result? {
            return Ok(None);
        }
        let (message, is_text) = (std::mem::take(message), compressed.is_text);
        if let Some(inflater) = self.inflater.take() {
            self.end_inflate(common, inflater, &message);
        }
        Compressed { is_text, payload: Cow::Borrowed(&[]) }.into_message(message).map(Some)
    }

    /// Puts an inflater back to where it is used next.
    fn end_inflate(&mut self, common: &mut Common, mut inflater: Box<Inflater>, message: &[u8]) {
        if self.inflater_bits.is_some() {
            inflater.remember(message);
            self.inflater = Some(inflater);
        } else {
            common.inflater = Some(inflater);
        }
    }

    /// Whether a message is unfinished.
    pub(crate) fn is_inflating(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Forgets a message that was unfinished.
    pub(crate) fn forget_unfinished(&mut self) {
        self.unfinished = None;
    }
}

/// What the connections of one loop share. Empty until the first message is compressed.
#[derive(Default)]
pub(crate) struct Common {
    deflaters: Vec<(Kind, Deflater)>,
    inflater: Option<Box<Inflater>>,
    spare: Vec<u8>,
}

impl Common {
    /// Compresses a message for all connections of a kind; `None` if that does not make it smaller.
    /// The buffer is to be given [back](Self::recycle). What it costs is added to `work`.
    pub(crate) fn deflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        work: &mut usize,
    ) -> Option<Vec<u8>> {
        let at = self.deflaters.iter().position(|(each, _)| *each == kind).unwrap_or_else(|| {
            self.deflaters.push((kind, Deflater::new(kind.level, kind.bits)));
            self.deflaters.len() - 1
        });
        let mut out = std::mem::take(&mut self.spare);
        self.deflaters[at].1.deflate(payload, false, &mut out);
        *work += Deflater::work(kind.level, payload.len());
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
