//! UTF-8, whole or in pieces (RFC 6455 §8.1, RFC 3629). It knows nothing of frames: pieces may be
//! cut anywhere.

use super::Violation;
use std::borrow::Cow;

/// `simdutf8` works in blocks of 64 bytes and passes anything shorter on to the standard library;
/// calling that directly is faster.
const SHORT: usize = 64;

/// `bytes` as text, if they are UTF-8.
#[inline]
pub(crate) fn check(bytes: &[u8]) -> Result<&str, Violation> {
    if bytes.len() < SHORT {
        str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
    } else {
        simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
    }
}

/// Text that arrives in pieces. Each byte is checked once, when it arrives.
#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    text: String,
    /// The first bytes of an incomplete character; zeros behind `pending_len`.
    pending: [u8; 4],
    pending_len: usize,
}

impl TextBuffer {
    /// The length in bytes, with the incomplete character.
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.pending_len
    }

    /// Appends a piece; fails as soon as the text so far cannot become UTF-8, whatever follows.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        while self.pending_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            self.push_pending(byte)?;
        }
        // The incomplete character at the end is cut off first. So one fast pass over the rest
        // decides, and no search for the place where the text ended is needed.
        let (whole, begun) = piece.split_at(piece.len() - begun_character(piece));
        self.text.push_str(check(whole)?);
        for &byte in begun {
            self.push_pending(byte)?;
        }
        Ok(())
    }

    /// The text, unless a character at its end is incomplete.
    pub(super) fn finish(self) -> Result<String, Violation> {
        if self.pending_len == 0 { Ok(self.text) } else { Err(Violation::InvalidUtf8) }
    }

    /// Adds one byte to the incomplete character. It is complete or wrong after at most four bytes.
    fn push_pending(&mut self, byte: u8) -> Result<(), Violation> {
        self.pending[self.pending_len] = byte;
        self.pending_len += 1;
        match str::from_utf8(&self.pending[..self.pending_len]) {
            Ok(character) => {
                self.text.push_str(character);
                self.pending_len = 0;
                Ok(())
            }
            // Without an error length, the bytes are the beginning of some character.
            Err(error) if error.error_len().is_none() => Ok(()),
            Err(_) => Err(Violation::InvalidUtf8),
        }
    }
}

/// How many bytes at the end of `bytes` (0 to 3) begin a character without completing it.
///
/// It looks at the leading byte only; the caller checks whether the others are legal.
fn begun_character(bytes: &[u8]) -> usize {
    for (have, byte) in (1..=3).zip(bytes.iter().rev()) {
        let needed = match byte {
            // In the middle of a character: its leading byte is further left.
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            0x00..=0x7F => 1,
        };
        return if have < needed { have } else { 0 };
    }
    0
}

/// The same as [`check`], for bytes that may be owned.
#[inline]
pub(super) fn check_all(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Violation> {
    Ok(match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(check(bytes)?),
        Cow::Owned(bytes) => {
            Cow::Owned(String::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters of every length, at both ends of every range that UTF-8 treats differently.
    const VALID: &[&str] = &[
        "",
        "\0",
        "\u{7f}",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{fff}",
        "\u{1000}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10000}",
        "\u{3ffff}",
        "\u{100000}",
        "\u{10ffff}",
        "κόσμε, 水, 😀, é and plain letters",
    ];

    /// The bytes, and the number of them after which it is certain that they cannot become UTF-8.
    const INVALID: &[(&[u8], usize)] = &[
        (b"\x80", 1), // a continuation byte that continues nothing
        (b"\xbf", 1),
        (b"\xc0\xaf", 1), // overlong
        (b"\xc1\xbf", 1),
        (b"\xc2A", 2),        // broken off
        (b"\xe0\x9f\xbf", 2), // overlong
        (b"\xe1\x80A", 3),
        (b"\xed\xa0\x80", 2), // surrogates
        (b"\xed\xbf\xbf", 2),
        (b"\xf0\x8f\xbf\xbf", 2), // overlong
        (b"\xf1\x80\x80A", 4),
        (b"\xf4\x90\x80\x80", 2), // above U+10FFFF
        (b"\xf5\x80\x80\x80", 1),
        (b"\xf8\x88\x80\x80\x80", 1), // five bytes
        (b"\xff", 1),
    ];

    fn push_all(buffer: &mut TextBuffer, pieces: &[&[u8]]) -> Result<(), Violation> {
        pieces.iter().try_for_each(|piece| buffer.push(piece))
    }

    #[test]
    fn valid_text_survives_every_cut() {
        for text in VALID {
            let text = format!("{text}a{text}");
            let bytes = text.as_bytes();
            for i in 0..=bytes.len() {
                for j in i..=bytes.len() {
                    let mut buffer = TextBuffer::default();
                    let pieces = [&bytes[..i], &bytes[i..j], &bytes[j..]];
                    assert_eq!(push_all(&mut buffer, &pieces), Ok(()), "{text:?} cut at {i}, {j}");
                    assert_eq!(buffer.len(), bytes.len());
                    assert_eq!(buffer.finish(), Ok(text.clone()));
                }
            }
        }
    }

    #[test]
    fn invalid_text_fails_at_its_first_bad_byte_wherever_it_is_cut() {
        for padding in [0, 1, 61, 62, 63, 64, 65, 200] {
            for (bytes, decisive) in INVALID {
                let text = ["x".repeat(padding).as_bytes(), bytes].concat();
                let decisive = padding + decisive;
                for cut in 0..=text.len() {
                    let mut buffer = TextBuffer::default();
                    let before = buffer.push(&text[..cut]);
                    assert_eq!(
                        before.is_err(),
                        cut >= decisive,
                        "{bytes:x?} after {padding}, cut at {cut}"
                    );
                    if before.is_ok() {
                        assert_eq!(buffer.push(&text[cut..]), Err(Violation::InvalidUtf8));
                    }
                }
            }
        }
    }

    #[test]
    fn text_must_not_end_inside_a_character() {
        for text in VALID {
            for cut in (0..text.len()).filter(|cut| !text.is_char_boundary(*cut)) {
                let mut buffer = TextBuffer::default();
                assert_eq!(buffer.push(&text.as_bytes()[..cut]), Ok(()));
                assert_eq!(buffer.finish(), Err(Violation::InvalidUtf8));
            }
        }
    }
}
