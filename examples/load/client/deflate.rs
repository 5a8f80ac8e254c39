//! permessage-deflate's messages (RFC 7692 §7.2) at the client: ours compressed each by itself, the
//! server's decompressed. Knows no frame and nothing of what was agreed.

use ikisocket::protocol::{Compressed, Deflater, Inflater, Message, Violation};

/// Whether this build can do it.
pub const IS_BUILT_IN: bool = true;

/// Ours cost the server the same whatever their level.
const LEVEL: u8 = 6;
/// What a server may refer back to when nothing was said about it; enough when less was agreed.
const WINDOW_BITS: u8 = 15;

/// Compresses messages that refer to no other.
pub struct Packer(Deflater);

impl Packer {
    pub fn new() -> Packer {
        Packer(Deflater::new(LEVEL, WINDOW_BITS))
    }

    /// Appends the compressed form of `payload` to `out`.
    pub fn pack(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.0.deflate(payload, false, out);
    }
}

/// Decompresses messages, each of which may refer to the ones before.
pub struct Unpacker(Inflater);

impl Unpacker {
    pub fn new() -> Unpacker {
        Unpacker(Inflater::new(WINDOW_BITS))
    }

    /// The next message is another connection's, or refers to no other.
    pub fn forget(&mut self) {
        self.0.reset();
    }

    /// The message that was compressed, of at most `limit` bytes.
    pub fn unpack(
        &mut self,
        compressed: Compressed<'_>,
        limit: usize,
    ) -> Result<Message<'static>, Violation> {
        let mut message = Vec::new();
        self.0.inflate(&compressed.payload, limit, &mut message)?;
        compressed.into_message(message)
    }
}
