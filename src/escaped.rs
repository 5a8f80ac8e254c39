//! Text that a peer may have chosen, for a line of a log or a terminal. Knows nothing of logs.

use std::fmt;

/// Displays a text in one line: what could end the line, move the cursor or turn the direction of
/// writing is escaped as `\n`, `\u{2028}` and so on. Everything else, backslashes too, stays as it
/// is: a peer can write `\n` itself, but that ends no line.
pub(crate) struct Escaped<'t>(pub(crate) &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_harmful) {
            let (before, from) = rest.split_at(at);
            f.write_str(before)?;
            let mut chars = from.chars();
            // Displayed one by one: `escape_debug` would leave some of them as they are.
            match chars.next() {
                Some('\n') => f.write_str("\\n")?,
                Some('\r') => f.write_str("\\r")?,
                Some('\t') => f.write_str("\\t")?,
                Some(other) => write!(f, "{}", other.escape_unicode())?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// Control characters (with U+0085, the next line), line and paragraph separators (U+2028, U+2029),
/// and what turns the direction of writing (Unicode's property Bidi_Control).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_line_is_escaped_and_text_is_not() {
        for (text, shown) in [
            ("", ""),
            ("going home", "going home"),
            ("Grüße, мир, 世界 🦀 \"C:\\n\"", "Grüße, мир, 世界 🦀 \"C:\\n\""),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\n", "\\n"),
            ("\0\x07\x08\x0b\x0c\x1b[2J\x7f", "\\u{0}\\u{7}\\u{8}\\u{b}\\u{c}\\u{1b}[2J\\u{7f}"),
            ("\u{85}\u{9b}31m", "\\u{85}\\u{9b}31m"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202e}gpj\u{2066}\u{200f}\u{61c}", "\\u{202e}gpj\\u{2066}\\u{200f}\\u{61c}"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }
}
