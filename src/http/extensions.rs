//! The grammar of `Sec-WebSocket-Extensions` (RFC 6455 §9.1). It knows no extension by name.
//!
//! By §9.1 a value that does not conform to this grammar ends the handshake: the recipient "MUST
//! immediately fail the WebSocket connection", which for a server is 400 (§4.2.1). There is a
//! second reason: the end of one parameter's value decides which extensions stand behind it, and
//! these decide how every frame is read. So one malformed element affects more than itself. Two
//! points are more lenient than the grammar, and neither can be read in two ways: empty elements of
//! the list (RFC 9110 §5.6.1.2), and white space around each part, which the grammar of that time
//! implied.

use std::borrow::Cow;

use super::header_list::{elements, trim};
use super::syntax::is_tchar;

/// The kind of the last part that was read.
#[derive(Clone, Copy)]
enum At {
    /// Nothing, or a comma: an extension begins, or the value ends.
    Start,
    Name,
    /// All of a parameter's value, or white space behind a name: only a semicolon or a comma can
    /// follow.
    End,
    Semicolon,
    ParamName,
    ParamNameEnd,
    Equals,
    Value,
    OpenQuote,
    Quoted,
    Backslash,
}

/// Whether the value of one header line is a list of extensions:
///
/// ```text
/// extension = token *( ";" token [ "=" ( token | quoted-string ) ] )
/// ```
///
/// The content of a quoted string is a token too, so it never contains a comma or a semicolon. Each
/// byte is looked at once.
pub(super) fn is_well_formed(value: &[u8]) -> bool {
    use At::*;
    let mut at = Start;
    for &byte in value {
        at = match (at, byte) {
            (Start | Name, byte) if is_tchar(byte) => Name,
            (Semicolon | ParamName, byte) if is_tchar(byte) => ParamName,
            (Equals | Value, byte) if is_tchar(byte) => Value,
            (OpenQuote | Quoted | Backslash, byte) if is_tchar(byte) => Quoted,
            (Start | Semicolon | Equals | End | ParamNameEnd, b' ' | b'\t') => at,
            (Name | Value, b' ' | b'\t') => End,
            (ParamName, b' ' | b'\t') => ParamNameEnd,
            (Start | Name | End | ParamName | ParamNameEnd | Value, b',') => Start,
            (Name | End | ParamName | ParamNameEnd | Value, b';') => Semicolon,
            (ParamName | ParamNameEnd, b'=') => Equals,
            (Equals, b'"') => OpenQuote,
            (OpenQuote | Quoted, b'\\') => Backslash,
            (Quoted, b'"') => End,
            _ => return false,
        };
    }
    matches!(at, Start | Name | End | ParamName | ParamNameEnd | Value)
}

/// The offers of the extension of this name in a well-formed value, in their order. Each is the
/// text behind the name, up to the comma.
pub(super) fn offers<'v>(value: &'v [u8], name: &str) -> impl Iterator<Item = &'v [u8]> {
    elements(value).filter_map(move |extension| {
        let (first, behind) = extension.split_at_checked(name.len())?;
        let is_whole = matches!(trim(behind), [] | [b';', ..]);
        (is_whole && first.eq_ignore_ascii_case(name.as_bytes())).then_some(behind)
    })
}

/// The parameters behind an extension's name, in their order: the name, and the value if there is
/// one, without quotes and quoted pairs.
pub(super) fn params(text: &[u8]) -> impl Iterator<Item = (&[u8], Option<Cow<'_, [u8]>>)> {
    text.split(|&byte| byte == b';').skip(1).map(|param| {
        let equals = param.iter().position(|&byte| byte == b'=');
        let (name, value) = param.split_at(equals.unwrap_or(param.len()));
        (trim(name), value.strip_prefix(b"=").map(|value| unquoted(trim(value))))
    })
}

fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inside) = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    // A backslash is no part of a token.
    if inside.contains(&b'\\') {
        Cow::Owned(inside.iter().copied().filter(|&byte| byte != b'\\').collect())
    } else {
        Cow::Borrowed(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters of each offer of `a` as `|param|param=value`, or `None` if the value is
    /// malformed.
    fn read(value: &[u8]) -> Option<Vec<String>> {
        let text = |behind| {
            let mut text = String::new();
            for (name, value) in params(behind) {
                text += &format!("|{}", name.escape_ascii());
                if let Some(value) = value {
                    text += &format!("={}", value.escape_ascii());
                }
            }
            text
        };
        is_well_formed(value).then(|| offers(value, "a").map(text).collect())
    }

    #[test]
    fn what_conforms_to_the_grammar_is_read_in_one_way() {
        let rows: [(&str, &[&str]); 14] = [
            ("", &[]),
            (" ,\t, ", &[]),
            ("a", &[""]),
            ("a,b, A ,ab, ba, a", &["", "", ""]),
            (", a ,, b ,", &[""]),
            ("a;b", &["|b"]),
            ("a; b; c=1, d; e=2, a; e=2", &["|b|c=1", "|e=2"]),
            (" a\t;\tb = 1 ", &["|b=1"]),
            ("a; b=\"1\"", &["|b=1"]),
            (r#"a; b="1\2""#, &["|b=12"]),
            (r#"a; b = "\1\2" , c"#, &["|b=12"]),
            ("c; a, c; b=a, c; b=\"a\"", &[]),
            ("a;b;b", &["|b|b"]),
            ("a; !#$%&*+-.^_`|~=!", &["|!#$%&*+-.^_`|~=!"]),
        ];
        for (value, expected) in rows {
            let found = read(value.as_bytes()).expect(value);
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn what_does_not_conform_to_the_grammar_is_malformed_as_a_whole() {
        for value in [
            &b"a;"[..],
            b"a;;b",
            b"a; ,b",
            b";a",
            b"a b",
            b"a=1",
            b"a; b=",
            b"a; b= ,c",
            b"a; =1",
            b"a; b=1=2",
            b"a; b=1 2",
            b"\"a\"",
            b"a; \"b\"",
            b"a; b=\"",
            b"a; b=\"\"",
            b"a; b=\"1",
            b"a; b=\"1\\",
            b"a; b=\"1\\\"",
            b"a; b=\"1\"2",
            b"a; b=\"1, c\"",
            b"a; b=\"\\\", c, \\\"\"",
            b"a; b=1\"2\"",
            b"a; b=\\1",
            b"a/b",
            b"caf\xe9",
            b"a; b=caf\xe9",
            b"a; b=\"\xff\"",
            "\u{a0}a".as_bytes(),
            b"a; b=(1)",
        ] {
            assert_eq!(read(value), None, "{}", value.escape_ascii());
            assert_eq!(read(&[value, b", c"].concat()), None, "{}", value.escape_ascii());
            assert_eq!(read(&[b"c, ", value].concat()), None, "{}", value.escape_ascii());
        }
    }
}
