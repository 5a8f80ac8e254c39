//! The WebSocket wire format without I/O (RFC 6455 §5–§8): it decodes bytes into messages and
//! encodes messages into bytes. It serves both roles, and knows no socket, no clock, no connection
//! and no listener.
//!
//! | file | what it is for |
//! |---|---|
//! | `frame` | frame headers, read and written; which may stand where; masking |
//! | `decoder` | from received bytes to whole messages and control frames |
//! | `assembly` | what is incomplete, until it is not |
//! | `rules` | role and limits |
//! | `deflate` | compressed messages (RFC 7692); with the feature of that name |
//! | `window` | to what the next compressed message may refer |
//! | `text` | UTF-8 that arrives in pieces |
//! | `message` | messages and the view of them; what comes out of a decoder |
//! | `close` | close codes, the payload of a Close frame |
//! | `violation` | what a peer can do wrong |

mod assembly;
mod close;
mod decoder;
#[cfg(feature = "deflate")]
mod deflate;
mod frame;
mod message;
mod rules;
mod text;
mod violation;
#[cfg(feature = "deflate")]
mod window;

pub(crate) use close::truncate_reason;
pub use close::{CloseCode, CloseFrame, encode_close};
pub use decoder::Decoder;
#[cfg(feature = "deflate")]
pub(crate) use deflate::{Decompressor, Inflation};
#[cfg(feature = "deflate")]
pub use deflate::{Deflater, Inflater};
// For the fuzz targets.
pub(crate) use frame::FrameLog;
#[doc(hidden)]
pub use frame::frame_len;
pub use frame::{
    EncodedHeader, FrameHeader, FrameKind, Opcode, apply_mask, encode_frame, encode_header,
};
pub use message::{Compressed, Decoded, Message, Payload};
pub use rules::{Role, Rules};
#[cfg(feature = "redis")]
pub(crate) use text::check as check_text;
pub use violation::Violation;
#[cfg(feature = "deflate")]
pub(crate) use window::Window;
