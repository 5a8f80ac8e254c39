//! Frame headers, read and written (RFC 6455 §5.2), and masking (§5.3). It knows one frame at a
//! time; the decoder knows which frame may follow which. Frames that are sent lie behind each other
//! in a log.

// Headers are read and written by hand, though `tungstenite::protocol::frame::FrameHeader` offers
// both. To parse the header of a 20-byte frame takes 38 instructions here and 227 there, to write
// it 19 and 124 (callgrind, the same loop around each). tungstenite also asks for the whole header
// before it refuses one, and accepts lengths that are not minimal.

use std::ops::{Deref, Index, Range};

use multiversion::multiversion;

use super::{Role, Rules, Violation};

/// The largest payload length that the second byte holds itself; also the longest control frame
/// (§5.5).
const MAX_SHORT_LEN: u64 = 125;
/// In the place of the length: two bytes of length follow.
const LEN_16: u8 = 126;
/// In the place of the length: eight bytes of length follow.
const LEN_64: u8 = 127;

/// The initial memory of a log, in bytes.
const LEAST_LOG: usize = 4 * 1024;
/// The memory that a log keeps when it is cleared, in bytes.
const KEEP_LOG: usize = 256 * 1024;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
const OPCODE: u8 = 0x0F;
const MASK: u8 = 0x80;
/// The length of a masking key in bytes.
pub(super) const KEY_LEN: usize = 4;

/// The type of a frame (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// 0: the next fragment of the message in progress.
    Continuation = 0,
    /// 1: a text message, or its first fragment.
    Text = 1,
    /// 2: a binary message, or its first fragment.
    Binary = 2,
    /// 8: the closing handshake.
    Close = 8,
    /// 9: asks for a Pong.
    Ping = 9,
    /// 10: answers a Ping, or is only a sign of life.
    Pong = 10,
}

impl Opcode {
    /// Whether this is Close, Ping or Pong: short, never fragmented, allowed between the fragments
    /// of a message.
    #[must_use]
    #[inline]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    /// The kind of a final frame with this opcode and no reserved bit.
    #[must_use]
    #[inline]
    pub(crate) const fn plain(self) -> FrameKind {
        FrameKind(FIN | self as u8)
    }

    /// The kind of a final frame whose payload is compressed (RSV1; RFC 7692 §6.1).
    #[must_use]
    #[inline]
    pub const fn compressed(self) -> FrameKind {
        FrameKind(FIN | RSV1 | self as u8)
    }

    #[inline]
    fn from_bits(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(Violation::ReservedOpcode(bits)),
        })
    }
}

/// The first byte of a final frame: its opcode, and whether its payload is compressed. An
/// [`Opcode`] becomes the kind of a frame that is not compressed.
///
/// ```
/// use ikisocket::protocol::{Opcode, encode_frame};
///
/// let mut frames = Vec::new();
/// encode_frame(Opcode::Text, b"", &mut frames);
/// encode_frame(Opcode::Text.compressed(), b"\0", &mut frames);
/// assert_eq!(frames, [0x81, 0, 0xc1, 1, 0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKind(u8);

impl FrameKind {
    const TEXT: Self = Opcode::Text.plain();
    const BINARY: Self = Opcode::Binary.plain();
    pub(crate) const PING: Self = Opcode::Ping.plain();
    pub(crate) const PONG: Self = Opcode::Pong.plain();

    /// The kind of the first frame in `frames`.
    pub(crate) fn of(frames: &[u8]) -> Option<Self> {
        frames.first().map(|&first| Self(first))
    }
}

impl From<Opcode> for FrameKind {
    fn from(opcode: Opcode) -> Self {
        opcode.plain()
    }
}

/// The header of a frame: everything before its payload (RFC 6455 §5.2).
///
/// A masked frame, as a client sends it:
///
/// ```
/// use ikisocket::protocol::{FrameHeader, Opcode, apply_mask};
///
/// let key = [7, 1, 9, 3]; // must be unpredictable in a real client (§5.3)
/// let header = FrameHeader { mask: Some(key), ..FrameHeader::new(Opcode::Text, 5) };
/// let mut frame = Vec::new();
/// header.encode(&mut frame);
/// frame.extend_from_slice(b"hello");
/// apply_mask(&mut frame[header.encoded_len()..], key, 0);
///
/// assert_eq!(FrameHeader::parse(&frame), Ok(Some((header, 6))));
/// assert_eq!(FrameHeader::parse(&frame[..5]), Ok(None)); // more bytes needed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message, or the only one.
    pub fin: bool,
    /// Reserved bit 1, which permessage-deflate uses.
    pub rsv1: bool,
    /// Reserved bit 2.
    pub rsv2: bool,
    /// Reserved bit 3.
    pub rsv3: bool,
    /// The type of the frame.
    pub opcode: Opcode,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Length of the payload in bytes.
    pub len: u64,
}

impl FrameHeader {
    /// The longest header in bytes: two, eight of length, four of masking key.
    pub const MAX_LEN: usize = 14;

    /// The header of an unmasked, final frame with no reserved bit set.
    #[must_use]
    pub const fn new(opcode: Opcode, len: u64) -> Self {
        Self { fin: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask: None, len }
    }

    /// Reads the header at the beginning of `bytes`; returns it and its length. `Ok(None)`: more
    /// bytes are needed.
    ///
    /// Reserved bits are reported, not checked: an extension may give them a meaning.
    ///
    /// # Errors
    ///
    /// [`ReservedOpcode`](Violation::ReservedOpcode),
    /// [`FragmentedControl`](Violation::FragmentedControl) and
    /// [`ControlTooLong`](Violation::ControlTooLong) as soon as two bytes are there;
    /// [`LengthNotMinimal`](Violation::LengthNotMinimal) and
    /// [`LengthOverflow`](Violation::LengthOverflow) as soon as the length is.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        match HeaderStart::parse(bytes)? {
            Some(start) => start.parse_rest(bytes),
            None => Ok(None),
        }
    }

    /// Appends this header to `out`, with its length in the shortest form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = |set, bit| if set { bit } else { 0 };
        let first = flag(self.fin, FIN)
            | flag(self.rsv1, RSV1)
            | flag(self.rsv2, RSV2)
            | flag(self.rsv3, RSV3)
            | self.opcode as u8;
        let mask_bit = flag(self.mask.is_some(), MASK);
        out.extend_from_slice(&EncodedHeader::new(first, mask_bit, self.len));
        if let Some(key) = self.mask {
            out.extend_from_slice(&key);
        }
    }

    /// The number of bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        EncodedHeader::new(0, 0, self.len).len() + if self.mask.is_some() { KEY_LEN } else { 0 }
    }
}

/// The first two bytes of a header, with an opcode that exists. They are enough to refuse a frame
/// before the rest of its header has arrived. They are stored as received: with each bit in a field
/// of its own, parsing a header took 55 instructions instead of 38.
#[derive(Clone, Copy)]
pub(super) struct HeaderStart {
    first: u8,
    second: u8,
    pub(super) opcode: Opcode,
}

impl HeaderStart {
    /// Its length in bytes.
    pub(super) const LEN: usize = 2;

    /// Reads the first two bytes; `Ok(None)` if they have not arrived.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        let start = Self { first, second, opcode: Opcode::from_bits(first & OPCODE)? };
        if start.opcode.is_control() {
            if !start.fin() {
                return Err(Violation::FragmentedControl);
            }
            if u64::from(start.short_len()) > MAX_SHORT_LEN {
                return Err(Violation::ControlTooLong);
            }
        }
        Ok(Some(start))
    }

    /// The start of a frame that is a whole uncompressed message, if `bytes` begin with a start
    /// that [`parse`](Self::parse) and [`check`](Self::check) accept between messages.
    #[inline]
    pub(super) fn of_message(bytes: &[u8], role: Role) -> Option<Self> {
        let &[first, second, ..] = bytes else { return None };
        let opcode = match FrameKind(first) {
            FrameKind::TEXT => Opcode::Text,
            FrameKind::BINARY => Opcode::Binary,
            _ => return None,
        };
        let start = Self { first, second, opcode };
        (start.is_masked() == matches!(role, Role::Server)).then_some(start)
    }

    #[inline]
    pub(super) fn fin(self) -> bool {
        self.first & FIN != 0
    }

    #[inline]
    fn reserved_bits(self) -> u8 {
        self.first & (RSV1 | RSV2 | RSV3)
    }

    #[inline]
    fn is_masked(self) -> bool {
        self.second & MASK != 0
    }

    #[inline]
    fn short_len(self) -> u8 {
        self.second & !MASK
    }

    /// The length of the payload, if the frame is masked and no more bytes hold its length. The
    /// masking key follows.
    #[inline]
    pub(super) fn short_masked_len(self) -> Option<usize> {
        let is_short = self.is_masked() && u64::from(self.short_len()) <= MAX_SHORT_LEN;
        is_short.then_some(self.short_len().into())
    }

    /// Checks reserved bits. RSV1 is legal on the first frame of a message if compression was
    /// agreed on (RFC 7692 §6).
    #[cold]
    fn may_be_compressed(self, rules: &Rules) -> bool {
        rules.compression
            && self.reserved_bits() == RSV1
            && matches!(self.opcode, Opcode::Text | Opcode::Binary)
    }

    /// Checks whether a frame may begin with these two bytes at this place in the stream (RFC 6455
    /// §5.1, §5.2, §5.4).
    #[inline]
    pub(super) fn check(self, rules: &Rules, message_is_open: bool) -> Result<(), Violation> {
        if self.reserved_bits() != 0 && !self.may_be_compressed(rules) {
            return Err(Violation::ReservedBits);
        }
        match (rules.role, self.is_masked()) {
            (Role::Server, false) => return Err(Violation::Unmasked),
            (Role::Client, true) => return Err(Violation::Masked),
            _ => {}
        }
        match (self.opcode, message_is_open) {
            (Opcode::Continuation, false) => Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, true) => Err(Violation::ExpectedContinuation),
            _ => Ok(()),
        }
    }

    /// Reads the length and the masking key of the header that begins with this start, at the
    /// beginning of `bytes`.
    #[inline]
    pub(super) fn parse_rest(
        self,
        bytes: &[u8],
    ) -> Result<Option<(FrameHeader, usize)>, Violation> {
        let rest = bytes.get(Self::LEN..).unwrap_or_default();
        let (len, rest) = match self.short_len() {
            LEN_16 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let len = u64::from(u16::from_be_bytes(*len));
                if len <= MAX_SHORT_LEN {
                    return Err(Violation::LengthNotMinimal);
                }
                (len, rest)
            }
            LEN_64 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let len = u64::from_be_bytes(*len);
                if len <= u64::from(u16::MAX) {
                    return Err(Violation::LengthNotMinimal);
                }
                if len > i64::MAX as u64 {
                    return Err(Violation::LengthOverflow);
                }
                (len, rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = if self.is_masked() {
            let Some((key, rest)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            (Some(*key), rest)
        } else {
            (None, rest)
        };
        let header = FrameHeader {
            fin: self.fin(),
            rsv1: self.first & RSV1 != 0,
            rsv2: self.first & RSV2 != 0,
            rsv3: self.first & RSV3 != 0,
            opcode: self.opcode,
            mask,
            len,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// The bytes of an unmasked header, on the stack; derefs to them. It serves a vectored write of
/// header and payload.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; 10],
    len: u8,
}

impl EncodedHeader {
    #[inline]
    fn new(first: u8, mask_bit: u8, len: u64) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = first;
        let header_len = match len {
            0..=MAX_SHORT_LEN => {
                bytes[1] = mask_bit | len as u8;
                2
            }
            126..=0xFFFF => {
                bytes[1] = mask_bit | LEN_16;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = mask_bit | LEN_64;
                bytes[2..].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        Self { bytes, len: header_len }
    }
}

impl Deref for EncodedHeader {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of an unmasked, final frame with a payload of `len` bytes.
///
/// ```
/// # use ikisocket::protocol::{Opcode, encode_header};
/// assert_eq!(*encode_header(Opcode::Text, 5), [0x81, 5]);
/// assert_eq!(*encode_header(Opcode::Binary, 300), [0x82, 126, 1, 44]);
/// ```
#[must_use]
#[inline]
pub fn encode_header(kind: impl Into<FrameKind>, len: usize) -> EncodedHeader {
    EncodedHeader::new(kind.into().0, 0, len as u64)
}

/// Appends one unmasked, final frame to `out`, as a server sends it.
///
/// It does not check that a control frame has at most 125 bytes, and that text is UTF-8.
#[inline]
pub fn encode_frame(kind: impl Into<FrameKind>, payload: &[u8], out: &mut Vec<u8>) {
    let header = encode_header(kind, payload.len());
    out.reserve(header.bytes.len() + payload.len());
    // All ten bytes are copied, then the length is reduced: a copy of fixed length is a few moves,
    // one of unknown length is a call.
    let start = out.len();
    out.extend_from_slice(&header.bytes);
    out.truncate(start + header.len());
    out.extend_from_slice(payload);
}

/// Writes one unmasked, final frame to the front of `out`; returns its length. `None` if `out` may
/// be too short; it is long enough if it is ten bytes longer than `payload`.
#[inline]
fn write_frame(kind: FrameKind, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let header_len = match payload.len() {
        len if len as u64 <= MAX_SHORT_LEN => {
            *out.first_chunk_mut()? = [kind.0, len as u8];
            2
        }
        len => {
            let header = encode_header(kind, len);
            // All ten bytes are copied, and the payload over those that are not needed: a copy of
            // fixed length is a few moves, one of unknown length is a call.
            *out.first_chunk_mut()? = header.bytes;
            header.len()
        }
    };
    let end = header_len + payload.len();
    out.get_mut(header_len..end)?.copy_from_slice(payload);
    Some(end)
}

/// Frames behind each other in one buffer.
///
/// Its memory is allocated from the beginning, as zeros, and `len` says how much of it is used. So
/// a frame is written into a slice, and its length is checked once. Appended to a `Vec` in two
/// parts, a frame of 20 bytes took 20 instructions more.
pub(crate) struct FrameLog {
    room: Vec<u8>,
    len: usize,
}

impl Default for FrameLog {
    fn default() -> Self {
        Self { room: vec![0; LEAST_LOG], len: 0 }
    }
}

impl FrameLog {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a frame.
    #[inline]
    pub(crate) fn push(&mut self, kind: FrameKind, payload: &[u8]) {
        match write_frame(kind, payload, &mut self.room[self.len..]) {
            Some(written) => self.len += written,
            None => self.grow_and_push(kind, payload),
        }
    }

    #[cold]
    #[inline(never)]
    fn grow_and_push(&mut self, kind: FrameKind, payload: &[u8]) {
        self.grow(FrameHeader::MAX_LEN + payload.len());
        self.push(kind, payload);
    }

    /// Appends the head of the response that comes before all frames of its connection.
    pub(crate) fn push_head(&mut self, head: &[u8]) {
        if self.room.len() - self.len < head.len() {
            self.grow(head.len());
        }
        self.room[self.len..][..head.len()].copy_from_slice(head);
        self.len += head.len();
    }

    /// Makes room for `more` bytes behind those that are used.
    fn grow(&mut self, more: usize) {
        self.room.resize((self.len + more).max(2 * self.room.len()), 0);
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
        if self.room.len() > KEEP_LOG {
            self.room = vec![0; KEEP_LOG];
        }
    }
}

impl Index<Range<usize>> for FrameLog {
    type Output = [u8];

    #[inline]
    fn index(&self, place: Range<usize>) -> &[u8] {
        &self.room[place]
    }
}

/// The length in bytes, header and payload, of the first frame in `bytes`, for walking over encoded
/// frames. `None` if its header is incomplete or illegal; the payload need not be there.
///
/// ```
/// # use ikisocket::protocol::{Opcode, encode_frame, frame_len};
/// let mut out = Vec::new();
/// encode_frame(Opcode::Text, b"hello", &mut out);
/// encode_frame(Opcode::Text, b"again", &mut out);
/// assert_eq!(frame_len(&out), Some(7));
/// assert_eq!(frame_len(&out[..2]), Some(7));
/// assert_eq!(frame_len(&out[..1]), None);
/// ```
#[must_use]
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (header, header_len) = FrameHeader::parse(bytes).ok()??;
    usize::try_from(header.len).ok()?.checked_add(header_len)
}

/// Masks or unmasks `payload` in place; the two are the same operation (RFC 6455 §5.3).
///
/// `offset` is the position of `payload[0]` in its frame's payload: 0 for a whole frame, and the
/// number of bytes done before if a frame arrives in pieces. Only `offset % 4` matters.
///
/// ```
/// use ikisocket::protocol::apply_mask;
///
/// let key = [1, 2, 3, 4];
/// let mut payload = *b"Hello, world";
/// apply_mask(&mut payload, key, 0);
/// let (head, tail) = payload.split_at_mut(5);
/// apply_mask(head, key, 0);
/// apply_mask(tail, key, 5);
/// assert_eq!(&payload, b"Hello, world");
/// ```
#[inline]
pub fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    // As a little-endian number on every machine, so that rotating right drops the first bytes of
    // the key.
    let key = u32::from_le_bytes(key).rotate_right(8 * (offset % 4) as u32);
    if payload.len() < LONG {
        xor(payload, key);
    } else {
        xor_aligned(payload, key);
    }
}

/// From this length on, in bytes, aligning a payload is worth its cost.
const LONG: usize = 256;
/// The length of a cache line, and of the widest vector, in bytes.
const LINE: usize = 64;

/// Masks the bytes before the first cache line separately, so that the rest is aligned for vectors:
/// 16 KiB behind a header took 177 ns without that, and 140 ns with it. That is with the vectors of
/// AVX2, which are used in every build if the processor has them.
#[multiversion(targets("x86_64+avx2"))]
#[inline(never)]
fn xor_aligned(payload: &mut [u8], key: u32) {
    let ahead = payload.as_ptr().align_offset(LINE).min(payload.len());
    let (head, lines) = payload.split_at_mut(ahead);
    xor(head, key);
    xor(lines, key.rotate_right(8 * (ahead % 4) as u32));
}

/// A plain loop over words, which becomes vectors in every build. A loop over chunks of 64 bytes
/// took 3060 ns for 16 KiB when it was built for a processor with AVX-512; this one takes 140 ns
/// there.
#[inline(always)] // into each version of the above
fn xor(payload: &mut [u8], key: u32) {
    let twice = u64::from(key) << 32 | u64::from(key);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ twice).to_le_bytes();
    }
    let (half, rest) = rest.split_at_mut(rest.len() & 4);
    if let Some(half) = half.first_chunk_mut() {
        *half = (u32::from_le_bytes(*half) ^ key).to_le_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPCODES: [Opcode; 6] = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];

    /// Asserts that `bytes` are refused with `violation` once `decisive` bytes have arrived, and
    /// that more are asked for before.
    fn assert_refused(bytes: &[u8], decisive: usize, violation: Violation) {
        for len in 0..=bytes.len() {
            let expected = if len < decisive { Ok(None) } else { Err(violation) };
            assert_eq!(FrameHeader::parse(&bytes[..len]), expected, "{:x?}", &bytes[..len]);
        }
    }

    #[test]
    fn every_header_survives_encoding_and_parsing() {
        let lens = [0, 1, 125, 126, 127, 65_535, 65_536, u64::from(u32::MAX) + 1, i64::MAX as u64];
        for opcode in OPCODES {
            for len in lens.into_iter().filter(|len| !opcode.is_control() || *len <= 125) {
                for flags in 0..16 {
                    for mask in [None, Some([0, 0, 0, 0]), Some([1, 2, 3, 4])] {
                        let header = FrameHeader {
                            fin: opcode.is_control() || flags & 1 != 0,
                            rsv1: flags & 2 != 0,
                            rsv2: flags & 4 != 0,
                            rsv3: flags & 8 != 0,
                            opcode,
                            mask,
                            len,
                        };
                        let mut bytes = Vec::new();
                        header.encode(&mut bytes);
                        assert_eq!(bytes.len(), header.encoded_len());
                        assert!(bytes.len() <= FrameHeader::MAX_LEN);
                        for cut in 0..bytes.len() {
                            assert_eq!(FrameHeader::parse(&bytes[..cut]), Ok(None));
                        }
                        assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, bytes.len()))));
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        let encoded = |len| encode_header(Opcode::Binary, len).to_vec();
        assert_eq!(encoded(0), [0x82, 0]);
        assert_eq!(encoded(125), [0x82, 125]);
        assert_eq!(encoded(126), [0x82, 126, 0, 126]);
        assert_eq!(encoded(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(encoded(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn lengths_must_come_in_their_shortest_form() {
        for len in [0, 1, 125] {
            assert_refused(&[0x82, 126, 0, len, 1, 2], 4, Violation::LengthNotMinimal);
            assert_refused(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, len], 10, Violation::LengthNotMinimal);
        }
        assert_refused(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 10, Violation::LengthNotMinimal);
        assert_refused(
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 9, 9],
            10,
            Violation::LengthOverflow,
        );
    }

    #[test]
    fn reserved_opcodes_are_refused_at_the_second_byte() {
        for opcode in (3..=7).chain(11..=15) {
            assert_refused(&[0x80 | opcode, 126, 0, 200], 2, Violation::ReservedOpcode(opcode));
        }
    }

    #[test]
    fn control_frames_are_short_and_whole() {
        for opcode in OPCODES.into_iter().filter(|opcode| opcode.is_control()) {
            assert_refused(&[opcode as u8, 0x80, 1, 2], 2, Violation::FragmentedControl);
            for len in [126, 127] {
                assert_refused(&[FIN | opcode as u8, len, 1, 2], 2, Violation::ControlTooLong);
            }
        }
    }

    #[test]
    fn encoded_frames_can_be_walked_over() {
        let mut out = Vec::new();
        let lens = [0, 125, 126, 65_535, 65_536];
        for len in lens {
            encode_frame(Opcode::Binary, &vec![7; len], &mut out);
        }
        let mut rest = &out[..];
        for len in lens {
            let frame_len = frame_len(rest).unwrap();
            assert_eq!(frame_len, encode_header(Opcode::Binary, len).len() + len);
            rest = &rest[frame_len..];
        }
        assert!(rest.is_empty());
        assert_eq!(frame_len(rest), None);
        assert_eq!(frame_len(&[0x82, 127, 0, 0]), None);
    }

    #[test]
    fn the_start_of_a_message_is_one_that_the_rules_let_pass() {
        for [first, second] in (0..=u16::MAX).map(u16::to_be_bytes) {
            for role in [Role::Server, Role::Client] {
                let rules = Rules::default().role(role);
                let whole = HeaderStart::parse(&[first, second]).ok().flatten().filter(|start| {
                    start.check(&rules, false).is_ok() && start.fin() && !start.opcode.is_control()
                });
                assert_eq!(
                    HeaderStart::of_message(&[first, second], role).map(|start| start.opcode),
                    whole.map(|start| start.opcode),
                    "{first:x} {second:x} {role:?}"
                );
            }
        }
        assert!(HeaderStart::of_message(&[0x81], Role::Client).is_none());
    }

    #[test]
    fn a_frame_is_written_where_there_is_room_as_it_is_appended() {
        for len in [0, 1, 20, 125, 126, 1000, 65_535, 65_536] {
            let payload = vec![7; len];
            let mut appended = Vec::new();
            encode_frame(Opcode::Text, &payload, &mut appended);
            let mut room = vec![1; len + 20];
            let written = write_frame(Opcode::Text.into(), &payload, &mut room);
            assert_eq!(written, Some(appended.len()));
            assert!(room.starts_with(&appended), "{len}");
            let short = appended.len() - 1;
            assert_eq!(write_frame(Opcode::Text.into(), &payload, &mut room[..short]), None);
        }
    }

    #[test]
    fn masking_equals_the_rfc_formula_at_every_length_and_offset() {
        let key = [0x12, 0x34, 0x56, 0x78];
        for len in (0..300).chain([1000, 1023]) {
            for offset in [0, 1, 2, 3, 4, 7, usize::MAX] {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                let mut masked = plain.clone();
                apply_mask(&mut masked, key, offset);
                for (i, (plain, masked)) in plain.iter().zip(&masked).enumerate() {
                    assert_eq!(
                        *masked,
                        plain ^ key[(offset % 4 + i) % 4],
                        "len {len} offset {offset} at {i}"
                    );
                }
            }
        }
    }

    #[test]
    fn masking_is_the_same_wherever_the_payload_lies() {
        let (key, mut bytes) = ([1, 2, 3, 4], [0x5a; 700]);
        for at in 0..130 {
            let before = bytes;
            apply_mask(&mut bytes[at..at + 500], key, 1);
            for (i, (before, after)) in before.iter().zip(bytes).enumerate() {
                let masked = (at..at + 500).contains(&i);
                let expected = if masked { before ^ key[(1 + i - at) % 4] } else { *before };
                assert_eq!(after, expected, "at {at}, byte {i}");
            }
        }
    }

    #[test]
    fn masking_in_pieces_equals_masking_at_once() {
        let key = [9, 8, 7, 6];
        for cut in 0..=130 {
            let mut whole = [0x5a; 130];
            let mut pieces = whole;
            apply_mask(&mut whole, key, 0);
            let (head, tail) = pieces.split_at_mut(cut);
            apply_mask(head, key, 0);
            apply_mask(tail, key, cut);
            assert_eq!(whole, pieces, "cut at {cut}");
        }
    }

    #[test]
    fn frames_lie_behind_each_other_however_often_the_log_grows() {
        let (mut log, mut expected) = (FrameLog::default(), Vec::new());
        for len in (0..300).chain([LEAST_LOG - 14, LEAST_LOG, 65_535, 65_536, 3 * KEEP_LOG]) {
            let payload = vec![len as u8; len];
            log.push(Opcode::Binary.into(), &payload);
            encode_frame(Opcode::Binary, &payload, &mut expected);
            assert_eq!(log.len(), expected.len());
        }
        assert!(log[0..log.len()] == expected);
    }

    #[test]
    fn a_log_that_was_long_keeps_256_kib() {
        let mut log = FrameLog::default();
        log.push(Opcode::Binary.into(), &[0; 1_000_000]);
        log.clear();
        assert_eq!((log.len(), log.room.len(), log.room.capacity()), (0, 262_144, 262_144));
    }

    #[test]
    fn a_new_log_has_room_for_the_first_messages_and_little_more() {
        let mut log = FrameLog::default();
        assert!((4000..=5000).contains(&log.room.capacity()));
        let place = log.room.as_ptr();
        log.push(Opcode::Binary.into(), &[0; 4000]);
        assert_eq!(log.room.as_ptr(), place);
    }
}
