//! Patterns such as `/ws/:id` and `/files/*rest`, and the places that paths lead to. It knows paths
//! only, neither requests nor the content of a place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use matchit::Router;
use percent_encoding::percent_decode_str;

/// Places, each found by a pattern.
///
/// The rules are those of [Patterns](super#patterns).
///
/// ```
/// use ikisocket::http::Routes;
///
/// let mut routes: Routes<&str> = Routes::default();
/// let (place, names) = routes.slot("/ws/:id")?;
/// *place = "one socket";
/// assert_eq!(*names, ["id".into()]);
///
/// let (place, values) = routes.find("/ws/J%C3%BCrgen").unwrap();
/// assert_eq!((*place, values), ("one socket", vec!["Jürgen".to_owned()]));
/// assert!(routes.find("/ws/").is_none());
/// # Ok::<(), ikisocket::http::PatternError>(())
/// ```
pub struct Routes<T> {
    places: Vec<Place<T>>,
    /// Patterns without a catch-all → index in `places`.
    exact: Router<usize>,
    /// The part before a catch-all, by the number of slashes in it → index in `places`.
    catch_alls: BTreeMap<usize, Router<usize>>,
}

/// The names of a pattern's parameters, in the pattern's order.
pub type ParamNames = Box<[Box<str>]>;

struct Place<T> {
    key: Key,
    value: T,
}

/// A pattern without the names of its parameters: patterns of the same place have the same key.
#[derive(PartialEq)]
struct Key {
    /// The pattern in matchit's syntax; of a catch-all only the part before the `*`.
    path: String,
    /// For a catch-all, the number of slashes before the `*`.
    catch_all: Option<usize>,
}

/// The reason why a text is not a pattern, and what to write instead. The rules are those of
/// [Patterns](super#patterns).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The text does not begin with `/`.
    #[error("a pattern starts with `/`: write `/chat`, not `chat`")]
    NoLeadingSlash,
    /// A segment that begins with `:` or `*` has no name after it.
    #[error("`:` and `*` begin a parameter and need a name: write `/:id` or `/*rest`")]
    EmptyName,
    /// A name has other characters than letters, digits, `_` and `-`.
    #[error(
        "`{0}` is not a parameter's name: a parameter is a whole segment, its name letters, digits, `_` and `-`"
    )]
    BadName(
        /// The name as it was written.
        String,
    ),
    /// Two parameters have the same name.
    #[error("two parameters are called `{0}`: give each its own name")]
    DuplicateName(
        /// The name that occurs twice.
        String,
    ),
    /// A catch-all is not the last segment.
    #[error("a catch-all stands for the rest of the path: nothing can follow `*{0}`")]
    CatchAllNotLast(
        /// The name of the catch-all.
        String,
    ),
    /// A parameter is written in the syntax of other routers. A literal `{id}` can be written
    /// `/%7Bid%7D`.
    #[error("a parameter is written `:id` and a catch-all `*rest`, not `{0}`")]
    Braces(
        /// The segment as it was written.
        String,
    ),
    /// The text contains a `?` or `#`. Only the path is compared.
    #[error("a pattern is a path without `?` and `#`: read the query from the request")]
    QueryOrFragment,
    /// The text contains white space or a control character, which no path can hold. A space can be
    /// written `%20`.
    #[error("no path holds white space or control characters: write `%20` for a space")]
    Whitespace,
    /// The text is not UTF-8 after percent-decoding: a request for such a path is refused.
    #[error(
        "a pattern must be UTF-8 after percent-decoding: write `/caf%C3%A9` or `/café`, not `/caf%E9`"
    )]
    NotUtf8,
    /// The pattern is valid but conflicts with an earlier one. No such combination is known.
    #[error("this pattern is in conflict with another one")]
    Conflict,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { places: Vec::new(), exact: Router::new(), catch_alls: BTreeMap::new() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Routes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places.iter().map(|place| (&place.key.path, &place.value));
        f.debug_map().entries(places).finish()
    }
}

impl<T> Routes<T> {
    /// Returns the place of a pattern, made if it is new, and the names of its parameters as
    /// written here.
    ///
    /// # Errors
    ///
    /// [`PatternError`] if the text is not a pattern. Then nothing has changed.
    pub fn slot(&mut self, pattern: &str) -> Result<(&mut T, ParamNames), PatternError>
    where
        T: Default,
    {
        let (key, names) = parse(pattern)?;
        let index = match self.places.iter().position(|place| place.key == key) {
            Some(index) => index,
            None => self.add(key)?,
        };
        Ok((&mut self.places[index].value, names))
    }

    fn add(&mut self, key: Key) -> Result<usize, PatternError>
    where
        T: Default,
    {
        let index = self.places.len();
        let router = match key.catch_all {
            None => &mut self.exact,
            Some(slashes) => self.catch_alls.entry(slashes).or_default(),
        };
        router.insert(key.path.as_str(), index).map_err(|_| PatternError::Conflict)?;
        let value = T::default();
        self.places.push(Place { key, value });
        Ok(index)
    }

    /// The place that a path leads to, and the values of its parameters, percent-decoded, in the
    /// order of the pattern.
    ///
    /// `path` is a path as in a request, still percent-encoded
    /// ([`Request::path`](super::Request::path)).
    ///
    /// A path that is not UTF-8 after percent-decoding leads to no place: its parameters could not
    /// be distinguished from others. [`Request::parse`](super::Request::parse) refuses it.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<(&T, Vec<String>)> {
        let path = canonical(path)?;
        let (index, values) = self.find_exact(&path).or_else(|| self.find_catch_all(&path))?;
        let decode = |value: &str| {
            if value.contains('%') {
                percent_decode_str(value).decode_utf8_lossy().into_owned()
            } else {
                value.to_owned()
            }
        };
        Some((&self.places[index].value, values.into_iter().map(decode).collect()))
    }

    fn find_exact<'p>(&self, path: &'p str) -> Option<(usize, Vec<&'p str>)> {
        look_up(&self.exact, path)
    }

    fn find_catch_all<'p>(&self, path: &'p str) -> Option<(usize, Vec<&'p str>)> {
        self.catch_alls.iter().rev().find_map(|(&slashes, router)| {
            let (last_slash, _) = path.match_indices('/').nth(slashes - 1)?;
            let (before, rest) = path.split_at(last_slash + 1);
            let (index, mut values) = look_up(router, before)?;
            values.push(rest);
            Some((index, values))
        })
    }
}

fn look_up<'p>(router: &Router<usize>, path: &'p str) -> Option<(usize, Vec<&'p str>)> {
    let found = router.at(path).ok()?;
    let values = found.params.iter().map(|(_, value)| value).collect();
    Some((*found.value, values))
}

/// The one spelling of all paths with the same meaning (RFC 3986 §6.2.2). All escapes are decoded
/// except those of `/`, which is then no separator, and of `%`, which must stay distinct from the
/// beginning of an escape. `None` if the result is not UTF-8.
fn canonical(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    // A `%` that begins no escape is encoded.
    let mut decoded = Vec::with_capacity(path.len() + 16);
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let mut byte = b'%';
        if let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            (byte, rest) = ((high << 4 | low) as u8, after);
        }
        match byte {
            b'/' => decoded.extend_from_slice(b"%2F"),
            b'%' => decoded.extend_from_slice(b"%25"),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// Splits a pattern into its key and the names of its parameters.
fn parse(pattern: &str) -> Result<(Key, ParamNames), PatternError> {
    let segments = pattern.strip_prefix('/').ok_or(PatternError::NoLeadingSlash)?;
    if pattern.contains(['?', '#']) {
        return Err(PatternError::QueryOrFragment);
    }
    if pattern.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(PatternError::Whitespace);
    }

    let mut path = String::new();
    let mut names: Vec<Box<str>> = Vec::new();
    let mut catch_all = None;
    for segment in segments.split('/') {
        if catch_all.is_some() {
            let name = names.pop().unwrap_or_default();
            return Err(PatternError::CatchAllNotLast(name.into()));
        }
        path.push('/');
        if let Some(name) = segment.strip_prefix(':') {
            path.push_str(&format!("{{p{}}}", names.len()));
            names.push(new_name(name, &names)?);
        } else if let Some(name) = segment.strip_prefix('*') {
            catch_all = Some(path.matches('/').count());
            names.push(new_name(name, &names)?);
        } else if segment.starts_with('{') && segment.ends_with('}') {
            return Err(PatternError::Braces(segment.to_owned()));
        } else {
            // matchit takes doubled braces literally.
            let literal = canonical(segment)
                .ok_or(PatternError::NotUtf8)?
                .replace('{', "{{")
                .replace('}', "}}");
            path.push_str(&literal);
        }
    }
    Ok((Key { path, catch_all }, names.into_boxed_slice()))
}

fn new_name(name: &str, earlier: &[Box<str>]) -> Result<Box<str>, PatternError> {
    if name.is_empty() {
        return Err(PatternError::EmptyName);
    }
    if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
        return Err(PatternError::BadName(name.to_owned()));
    }
    if earlier.iter().any(|each| **each == *name) {
        return Err(PatternError::DuplicateName(name.to_owned()));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Routes whose places hold the pattern that made them.
    fn routes(patterns: &[&str]) -> Routes<String> {
        let mut routes = Routes::default();
        for pattern in patterns {
            let (place, _): (&mut String, _) = routes.slot(pattern).unwrap();
            *place = (*pattern).to_owned();
        }
        routes
    }

    fn assert_leads(patterns: &[&str], path: &str, to: Option<(&str, &[&str])>) {
        let routes = routes(patterns);
        let found = routes.find(path);
        let found = found.as_ref().map(|(place, values)| (place.as_str(), values));
        let to = to.map(|(place, values)| {
            (place, values.iter().map(|v| v.to_string()).collect::<Vec<_>>())
        });
        assert_eq!(
            found,
            to.as_ref().map(|(place, values)| (*place, values)),
            "{path} in {patterns:?}"
        );
    }

    #[test]
    fn debug_output_names_the_places() {
        assert!(format!("{:?}", routes(&["/ws/a"])).contains("/ws/a"));
    }

    #[test]
    fn a_param_is_one_segment_that_is_not_empty() {
        assert_leads(&["/ws/:id"], "/ws/7", Some(("/ws/:id", &["7"])));
        for path in ["/ws", "/ws/", "/ws/7/", "/ws/7/8", "/ws//", "", "ws/7", "//ws/7"] {
            assert_leads(&["/ws/:id"], path, None);
        }
        assert_leads(&["/:a/x/:b"], "/1/x/2", Some(("/:a/x/:b", &["1", "2"])));
    }

    #[test]
    fn a_catch_all_is_the_rest_also_when_there_is_none() {
        let files = &["/files/*rest"];
        assert_leads(files, "/files/", Some(("/files/*rest", &[""])));
        assert_leads(files, "/files/a", Some(("/files/*rest", &["a"])));
        assert_leads(files, "/files/a//b/", Some(("/files/*rest", &["a//b/"])));
        assert_leads(files, "/files", None);
        assert_leads(files, "/filesx/a", None);
        assert_leads(&["/*all"], "/", Some(("/*all", &[""])));
        assert_leads(&["/:a/*all"], "/x/y/z", Some(("/:a/*all", &["x", "y/z"])));
    }

    #[test]
    fn literal_beats_param_beats_catch_all_and_dead_ends_are_left() {
        let all = &["/a/:x/c", "/a/b/d", "/a/*rest", "/:one", "/", "/*rest", "/a/b/*more"];
        assert_leads(all, "/a/b/c", Some(("/a/:x/c", &["b"])));
        assert_leads(all, "/a/b/d", Some(("/a/b/d", &[])));
        assert_leads(all, "/a/b/e", Some(("/a/b/*more", &["e"])));
        assert_leads(all, "/a/x/d", Some(("/a/*rest", &["x/d"])));
        assert_leads(all, "/x", Some(("/:one", &["x"])));
        assert_leads(all, "/", Some(("/", &[])));
        assert_leads(all, "/x/y", Some(("/*rest", &["x/y"])));
        assert_leads(&["/:x", "/*rest"], "/y", Some(("/:x", &["y"])));
        assert_leads(&["/:x/*rest", "/*rest"], "/y/", Some(("/:x/*rest", &["y", ""])));
    }

    #[test]
    fn percent_encoding_makes_no_difference_to_literals() {
        for path in ["/caf%C3%A9/1", "/caf%c3%a9/1", "/café/1", "/%63af%C3%A9/%31"] {
            assert_leads(&["/café/:x"], path, Some(("/café/:x", &["1"])));
            assert_leads(&["/caf%C3%A9/:x"], path, Some(("/caf%C3%A9/:x", &["1"])));
        }
        assert_leads(&["/100%"], "/100%25", Some(("/100%", &[])));
        assert_leads(&["/100%"], "/100%", Some(("/100%", &[])));
        assert_leads(&["/a/b"], "/a%2Fb", None);
        assert_leads(&["/a%2Fb"], "/a%2fb", Some(("/a%2Fb", &[])));
        assert_leads(&["/a%2525"], "/a%25", None);
        assert_leads(&["/%3Aid"], "/:id", Some(("/%3Aid", &[])));
        assert_leads(&["/%3Aid"], "/7", None);
        assert_leads(&["/%2A", "/*x"], "/*", Some(("/%2A", &[])));
    }

    #[test]
    fn values_are_decoded_once() {
        let values: &[&str] = &["ü/ %20"];
        assert_leads(&["/:x"], "/%C3%BC%2F%20%2520", Some(("/:x", values)));
        assert_leads(&["/:x"], "/%00%zz%", Some(("/:x", &["\0%zz%"])));
        assert_leads(&["/*x"], "/a%2fb/%EF%BF%BD", Some(("/*x", &["a/b/\u{fffd}"])));
    }

    #[test]
    fn what_is_not_utf8_leads_nowhere() {
        for patterns in [&["/:x"][..], &["/*x"], &["/:x", "/*x", "/:x/*y"]] {
            for path in [
                "/%FF",
                "/%ff",
                "/a%C3",
                "/%C3/%A9",
                "/%C3%2F%A9",
                "/%ED%A0%80",
                "/%C0%AF",
                "/a/%E9",
                "/é%A9",
            ] {
                assert_leads(patterns, path, None);
            }
        }
    }

    #[test]
    fn braces_are_literal_where_they_are_no_param() {
        assert_leads(&["/a{b}c"], "/a%7Bb%7Dc", Some(("/a{b}c", &[])));
        assert_leads(&["/%7Bid%7D"], "/{id}", Some(("/%7Bid%7D", &[])));
        assert_leads(&["/%7Bid%7D"], "/7", None);
        assert_leads(&["/%7B*x%7D"], "/7", None);
        assert_leads(&["/{"], "/{", Some(("/{", &[])));
    }

    #[test]
    fn patterns_that_differ_in_names_are_one_place_and_keep_their_names() {
        let mut routes: Routes<u32> = Routes::default();
        for (pattern, name) in [("/ws/:id", "id"), ("/ws/:name", "name")] {
            let (place, names) = routes.slot(pattern).unwrap();
            *place += 1;
            assert_eq!(*names, [name.into()]);
        }
        assert_eq!(routes.find("/ws/x"), Some((&2, vec!["x".to_owned()])));
        let other: [&str; 4] = ["/ws/*id", "/ws/", "/ws/:a/", "/ws"];
        for pattern in other {
            assert_eq!(routes.slot(pattern).unwrap().0, &0, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_with_a_hint() {
        let rows = [
            ("", PatternError::NoLeadingSlash),
            ("/caf%E9", PatternError::NotUtf8),
            ("/:a/%C3/%A9", PatternError::NotUtf8),
            ("chat", PatternError::NoLeadingSlash),
            ("/:", PatternError::EmptyName),
            ("/a/*", PatternError::EmptyName),
            ("/:id.json", PatternError::BadName("id.json".into())),
            ("/:a:b", PatternError::BadName("a:b".into())),
            ("/:a/:a", PatternError::DuplicateName("a".into())),
            ("/:a/*a", PatternError::DuplicateName("a".into())),
            ("/*a/b", PatternError::CatchAllNotLast("a".into())),
            ("/*a/", PatternError::CatchAllNotLast("a".into())),
            ("/ws/{id}", PatternError::Braces("{id}".into())),
            ("/{*rest}", PatternError::Braces("{*rest}".into())),
            ("/a?b", PatternError::QueryOrFragment),
            ("/a#b", PatternError::QueryOrFragment),
            ("/:id?", PatternError::QueryOrFragment),
            ("/a b", PatternError::Whitespace),
            ("/a\0", PatternError::Whitespace),
        ];
        let mut routes: Routes<()> = Routes::default();
        for (pattern, error) in rows {
            assert_eq!(routes.slot(pattern).unwrap_err(), error, "{pattern:?}");
        }
        assert!(routes.find("/").is_none());
    }

    /// The rule of [`Routes`] in its plainest form: try every pattern, take the best match.
    fn best<'p>(patterns: &[&'p str], path: &str) -> Option<&'p str> {
        let rank = |pattern: &str| -> Option<Vec<usize>> {
            let wanted: Vec<_> = pattern.split('/').collect();
            let given: Vec<_> = path.split('/').collect();
            let catch_all = wanted.last()?.starts_with('*');
            let fixed = wanted.len() - usize::from(catch_all);
            if given.len() < wanted.len() || (!catch_all && given.len() > wanted.len()) {
                return None;
            }
            let mut rank = vec![if catch_all { usize::MAX - fixed } else { 0 }];
            for (wanted, given) in wanted[..fixed].iter().zip(given) {
                match wanted.starts_with(':') {
                    true if !given.is_empty() => rank.push(1),
                    false if *wanted == given => rank.push(0),
                    _ => return None,
                }
            }
            Some(rank)
        };
        let ranked = patterns.iter().filter_map(|pattern| Some((rank(pattern)?, *pattern)));
        ranked.min().map(|(_, pattern)| pattern)
    }

    /// All sequences of up to `depth` of these segments, as paths.
    fn paths(segments: &[&str], depth: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut last = vec![String::new()];
        for _ in 0..depth {
            last = last
                .iter()
                .flat_map(|path| segments.iter().map(move |segment| format!("{path}/{segment}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    #[test]
    fn any_three_patterns_follow_the_rule_in_any_order() {
        let mut patterns = paths(&["a", "ab", ":0"], 3);
        patterns.retain(|pattern| pattern.matches(':').count() < 3);
        let catch_alls: Vec<_> =
            paths(&["a", ":0"], 2).iter().map(|path| format!("{path}/*r")).collect();
        patterns.extend(catch_alls);
        patterns.extend(["/".to_owned(), "/*r".to_owned(), "/a/".to_owned()]);
        // Each parameter needs its own name.
        let patterns: Vec<_> =
            patterns.iter().map(|pattern| pattern.replacen(":0", ":1", 1)).collect();
        let paths = paths(&["a", "ab", "x", ""], 3);

        for (i, first) in patterns.iter().enumerate() {
            for (j, second) in patterns.iter().enumerate().filter(|&(j, _)| j != i) {
                let third = &patterns[(i * 7 + j * 13) % patterns.len()];
                let three = [first.as_str(), second, third];
                let routes = routes(&three);
                for path in &paths {
                    let found = routes.find(path).map(|(place, _)| place.as_str());
                    assert_eq!(found, best(&three, path), "{path} in {three:?}");
                }
            }
        }
    }
}
