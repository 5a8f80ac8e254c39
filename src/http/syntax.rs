//! What tokens and header values are made of (RFC 9110 §5.5 and §5.6.2).

/// Whether the text is a token (RFC 9110 §5.6.2): what header names, methods and subprotocols are
/// made of.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// A character of a token.
pub(super) fn is_tchar(byte: u8) -> bool {
    TCHARS[usize::from(byte)]
}

/// Which bytes are characters of a token: a head may consist of nothing else.
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

/// Whether this can be the value of a header (RFC 9110 §5.5): no control characters except HTAB.
pub(super) fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}
