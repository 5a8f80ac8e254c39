//! The elements of headers that are lists (RFC 9110 §5.6.1), as bytes. It knows no header by name.

/// Removes the white space that may surround the parts of a header (RFC 9110 §5.6.3). No other
/// characters count, whatever Unicode calls white space: if one reader removes a character and
/// another does not, one name becomes two.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The elements between commas, without white space around them and without the empty ones.
///
/// None of the lists that are read this way may hold a quoted string. If one does, the string is
/// part of an element that matches nothing, commas included, up to the end of the line if it is not
/// closed. So an element is only found if readers with and without quoted strings both see it.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return None;
        }
        let mut end =
            rest.iter().position(|byte| matches!(byte, b',' | b'"')).unwrap_or(rest.len());
        if rest.get(end) == Some(&b'"') {
            end = end_with_quotes(rest);
        }
        let (element, after) = rest.split_at(end);
        rest = after;
        Some(trim(element))
    })
}

/// The end of an element that contains quotes.
fn end_with_quotes(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let ends = list.iter().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    });
    ends.unwrap_or(list.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_apart_at_commas_that_no_reader_takes_for_text() {
        let rows: [(&str, &[&str]); 16] = [
            ("", &[]),
            (" , ,\t,", &[]),
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            (" a\t ,, b c ,", &["a", "b c"]),
            ("\u{a0}a\u{a0}, b", &["\u{a0}a\u{a0}", "b"]),
            ("\"a\", b", &["\"a\"", "b"]),
            ("\"a, b\", c", &["\"a, b\"", "c"]),
            ("a, \"b, c", &["a", "\"b, c"]),
            ("a\"b, c\"d, e", &["a\"b, c\"d", "e"]),
            (r#""\", a, \"", b"#, &[r#""\", a, \"""#, "b"]),
            (r#""a\\", b"#, &[r#""a\\""#, "b"]),
            (r#""a\"#, &[r#""a\"#]),
            (r"a\, b", &[r"a\", "b"]),
            (r#"a\", b", c"#, &[r#"a\", b""#, "c"]),
            ("\"\",a", &["\"\"", "a"]),
        ];
        for (value, expected) in rows {
            let found: Vec<_> =
                elements(value.as_bytes()).map(|each| str::from_utf8(each).unwrap()).collect();
            assert_eq!(found, expected, "{value}");
        }
        let found: Vec<_> = elements(b"v1, caf\xe9,\xff").collect();
        assert_eq!(found, [&b"v1"[..], b"caf\xe9", b"\xff"]);
    }
}
