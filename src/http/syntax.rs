//! The characters of tokens and header values (RFC 9110 §5.5 and §5.6.2), and how to find and
//! compare them.

/// Whether the text is a token (RFC 9110 §5.6.2): the form of header names, methods and
/// subprotocols.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Whether the byte is a character of a token.
pub(super) fn is_tchar(byte: u8) -> bool {
    TCHARS[usize::from(byte)]
}

/// A table of the characters of a token.
const TCHARS: [bool; 256] = {
    let mut tchars = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        tchars[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    tchars
};

/// The position of the first byte of this kind. Blocks without one are skipped as a whole, which is
/// eight times as fast as byte by byte: most of a large head is one long line.
pub(super) fn position(bytes: &[u8], is_this: impl Fn(u8) -> bool) -> Option<usize> {
    if bytes.first().is_some_and(|&byte| is_this(byte)) {
        return Some(0);
    }
    let (blocks, _) = bytes.as_chunks::<16>();
    let clean = blocks
        .iter()
        .take_while(|block| !block.iter().fold(false, |any, &byte| any | is_this(byte)));
    let from = 16 * clean.count();
    bytes[from..].iter().position(|&byte| is_this(byte)).map(|at| from + at)
}

/// Whether two texts differ at most in the case of ASCII letters. Most senders write names as the
/// RFCs do, and then one comparison of all bytes is enough.
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || one.eq_ignore_ascii_case(other)
}

/// Whether this can be the value of a header (RFC 9110 §5.5): no control characters except HTAB.
pub(super) fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}
