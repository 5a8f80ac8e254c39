//! The prose of the repository: its pages, comments, and names of tests.
//!
//! This reads the Markdown and Rust files that git tracks. Code fences and code spans are code, not
//! prose.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The longest line of prose, in characters.
const WIDTH: usize = 100;
/// The longest name of a test, in characters.
const NAME: usize = 70;

/// Words that prose here avoids. The first group is for people, but prose here speaks of
/// connections and programs. The others have shorter or plainer equivalents.
const AVOIDED: [&str; 15] = [
    "who",
    "whoever",
    "whom",
    "nobody",
    "everybody",
    "somebody",
    "anybody",
    "so many",
    "so long",
    "is told",
    "are told",
    "has gone",
    "have gone",
    "puts off",
    "put off",
];

/// Files in which these words are right, with the reason.
const SPEAK_OF_PEOPLE: [(&str, &str); 1] =
    [("examples/chat/", "a chat is between people, and its page speaks to them")];

/// Tracked files that are not prose of this repository.
const SKIPPED: [&str; 1] = ["benches/peers/node/"];

// The rules.

/// A line of prose.
struct Line<'a> {
    number: usize,
    /// Without the marker of a comment.
    text: &'a str,
    /// The line of the file.
    whole: &'a str,
}

/// A line that breaks a rule: its number, and what is wrong.
type Fault = (usize, String);

/// The prose of some lines: without code fences, tables and reference definitions.
fn prose<'a>(lines: impl IntoIterator<Item = Line<'a>>) -> Vec<Line<'a>> {
    let mut fenced = false;
    let mut next = 0;
    let mut prose = Vec::new();
    for line in lines {
        // A fence ends with its comment.
        fenced &= line.number == next;
        next = line.number + 1;
        let text = line.text.trim_start();
        let is_fence = text.starts_with("```");
        fenced ^= is_fence;
        let is_definition = text.starts_with('[') && text.contains("]: ");
        if !fenced && !is_fence && !text.starts_with('|') && !is_definition {
            prose.push(line);
        }
    }
    prose
}

fn markdown(page: &str) -> Vec<Line<'_>> {
    prose(page.lines().zip(1..).map(|(whole, number)| Line { number, text: whole, whole }))
}

fn comments(code: &str) -> Vec<Line<'_>> {
    let lines: Vec<&str> = code.lines().collect();
    prose(line_comments(code).into_iter().map(|(number, comment)| Line {
        number,
        text: comment.trim_start_matches('/').trim_start_matches('!').trim(),
        whole: lines[number - 1],
    }))
}

/// The line comments of Rust code: the number of the line, and the text from `//` on. What looks
/// like one inside a string is none.
fn line_comments(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut rest, mut number) = (code, 1);
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            let len = rest.find('\n').unwrap_or(rest.len());
            found.push((number, &rest[..len]));
            len
        } else if let Some(len) = raw_string(rest) {
            len
        } else if first == '"' {
            string(rest)
        } else if let Some(len) = character(rest) {
            len
        } else {
            first.len_utf8()
        };
        number += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    found
}

/// The length of the string that code begins with.
fn string(code: &str) -> usize {
    let mut escaped = false;
    for (at, char) in code.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The length of the raw string that code begins with, if it does.
fn raw_string(code: &str) -> Option<usize> {
    let after = code.strip_prefix('r')?;
    let inner = after.trim_start_matches('#').strip_prefix('"')?;
    let hashes = &after[..after.len() - inner.len() - 1];
    let end = inner.find(&format!("\"{hashes}")).unwrap_or(inner.len());
    Some((code.len() - inner.len() + end + 1 + hashes.len()).min(code.len()))
}

/// The length of the character that code begins with, if it does: a lifetime is none.
fn character(code: &str) -> Option<usize> {
    let inner = code.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    match first {
        '\\' => Some(3 + inner.get(2..)?.find('\'')? + 1),
        _ => inner[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2),
    }
}

/// Lines that are too long, unless a link or an address lies across the limit: it cannot be broken.
fn long_lines(lines: &[Line<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for line in lines {
        let Some((limit, _)) = line.whole.char_indices().nth(WIDTH) else { continue };
        let (before, behind) = line.whole.split_at(limit);
        let begin = before.rfind(' ').map_or(0, |at| at + 1);
        let end = limit + behind.find(' ').unwrap_or(behind.len());
        let across = &line.whole[begin..end];
        if !across.contains("://") && !across.contains("](") {
            faults.push((line.number, format!("{} columns", line.whole.chars().count())));
        }
    }
    faults
}

/// Words to avoid, also where a line ends within two of them.
fn avoided_words(lines: &[Line<'_>]) -> Vec<Fault> {
    // The words with their lines; an empty one for whatever separates them, but for spaces.
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut is_code = false;
    let mut next = 0;
    for line in lines {
        if line.number != next || line.text.trim().is_empty() {
            is_code = false;
            words.push((line.number, String::new()));
        }
        next = line.number + 1;
        let mut in_word = false;
        for char in line.text.chars() {
            is_code ^= char == '`';
            let is_part = !is_code && (char.is_alphanumeric() || char == '_');
            if is_part && !in_word || !is_part && !char.is_whitespace() {
                words.push((line.number, String::new()));
            }
            if is_part {
                words.last_mut().unwrap().1.extend(char.to_lowercase());
            }
            in_word = is_part;
        }
    }
    let mut faults = Vec::new();
    for avoided in AVOIDED {
        let parts: Vec<&str> = avoided.split(' ').collect();
        for found in words.windows(parts.len()) {
            if found.iter().zip(&parts).all(|((_, word), part)| word == part) {
                faults.push((found[0].0, format!("\"{avoided}\"")));
            }
        }
    }
    faults
}

fn long_names(code: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, number) in code.lines().zip(1..) {
        let Some((_, rest)) = line.split_once("fn ") else { continue };
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > NAME {
            faults.push((number, format!("a name of {end} characters: {}", &rest[..end])));
        }
    }
    faults
}

/// Links to files that `exists` does not know. Whether a page has the section of a link is not
/// looked at.
fn broken_links(page: &str, exists: impl Fn(&str) -> bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fenced = false;
    for (line, number) in page.lines().zip(1..) {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence {
            continue;
        }
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        let targets = inline.map(|(target, _)| target).chain(definition.map(|(_, target)| target));
        for target in targets {
            let file = target.trim().split('#').next().unwrap();
            if !file.is_empty() && !file.contains(':') && !exists(file) {
                faults.push((number, format!("no file {file}")));
            }
        }
    }
    faults
}

// The files.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown and Rust files that git tracks, with their text.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--", "*.md", "*.rs"])
        .output()
        .expect("git is there");
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).unwrap();
    names
        .split_terminator('\0')
        .filter(|name| !starts_with_any(name, &SKIPPED))
        // A file that is deleted and not yet committed is listed still.
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

fn starts_with_any(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

/// What is wrong in one file.
fn faults(name: &str, text: &str) -> Vec<Fault> {
    let is_page = name.ends_with(".md");
    let lines = if is_page { markdown(text) } else { comments(text) };
    let mut faults = long_lines(&lines);
    if !starts_with_any(name, &SPEAK_OF_PEOPLE.map(|(beginning, _)| beginning)) {
        faults.extend(avoided_words(&lines));
    }
    if !is_page {
        faults.extend(long_names(text));
    } else if !name.starts_with("src/") {
        // rustdoc resolves the links of the manual, and warns if it cannot.
        let folder = root().join(name).parent().unwrap().to_owned();
        faults.extend(broken_links(text, |file| folder.join(file).exists()));
    }
    faults.sort();
    faults
}

#[test]
fn pages_comments_and_test_names_keep_the_rules_of_prose() {
    let files = files();
    assert!(files.len() > 200, "{} files were found", files.len());
    let mut wrong = String::new();
    for (name, text) in &files {
        for (number, fault) in faults(name, text) {
            writeln!(wrong, "{name}:{number}: {fault}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{} faults:\n{wrong}", wrong.lines().count());
}

// Each rule finds what breaks it, and passes what keeps it.

#[test]
fn a_line_of_more_than_a_hundred_columns_is_found_in_prose_alone() {
    let long = "wörd ".repeat(20) + "x";
    let exact = "wörd ".repeat(19) + "words";
    assert_eq!((long.chars().count(), exact.chars().count()), (101, 100));
    assert_eq!(long_lines(&markdown(&long)), [(1, "101 columns".to_owned())]);
    let passes = [
        exact.clone(),
        format!("| {long} |"),
        format!("```text\n{long}\n```"),
        format!("[{long}]: https://example.org"),
        format!("{} [here](https://example.org/{})", "word ".repeat(15), "x".repeat(50)),
        format!("<https://example.org/{}>", "x".repeat(100)),
    ];
    for page in passes {
        assert_eq!(long_lines(&markdown(&page)), [], "{page}");
    }
    // The words behind a link can go to the next line.
    let behind = format!("[here](https://example.org/{}) {}", "x".repeat(50), "word ".repeat(15));
    assert_eq!(long_lines(&markdown(behind.trim())).len(), 1);

    let comment = format!("fn main() {{}}\n    //! {long}\nlet x = 1; // {long}");
    let lines: Vec<usize> =
        long_lines(&comments(&comment)).into_iter().map(|(number, _)| number).collect();
    assert_eq!(lines, [2, 3]);
    let passes = [
        format!("// {}", &exact[..exact.len() - 10]),
        format!("let text = \"// {long}\";"),
        format!("let text = r#\"\"\n// {long}\n\"#;"),
        format!("/// ```\n/// {long}\n/// ```"),
        format!("let quote = '\"'; let text = \"// {long}\";"),
    ];
    for code in passes {
        assert_eq!(long_lines(&comments(&code)), [], "{code}");
    }
}

#[test]
fn each_avoided_word_is_found_in_pages_and_comments_and_not_in_code() {
    for avoided in AVOIDED {
        let broken = avoided.replace(' ', "\n");
        for page in [format!("A page, {avoided}."), format!("**{}**!", broken.to_uppercase())] {
            assert_eq!(avoided_words(&markdown(&page)), [(1, format!("\"{avoided}\""))], "{page}");
        }
        let broken = avoided.replace(' ', "\n    /// ");
        let code = format!("let {avoided};\n    /// {broken}\nstruct X;");
        assert_eq!(avoided_words(&comments(&code)), [(2, format!("\"{avoided}\""))], "{code}");

        let passes = [
            format!("A span: `{avoided}`, or `two\n{avoided}\nlines`."),
            format!("```\n{avoided}\n```"),
            format!("x{avoided}x"),
            avoided.replace(' ', ", "),
            avoided.replace(' ', "\n\n"),
        ];
        for page in passes.iter().filter(|page| *page != avoided) {
            assert_eq!(avoided_words(&markdown(page)), [], "{page}");
        }
        let code = format!("let {avoided} = \"// {avoided}\"; // `{avoided}`");
        assert_eq!(avoided_words(&comments(&code)), [], "{code}");
    }
}

#[test]
fn a_name_of_more_than_seventy_characters_is_found() {
    let name = "x".repeat(71);
    let found = long_names(&format!("#[test]\nfn {name}() {{}}"));
    assert_eq!(found, [(2, format!("a name of 71 characters: {name}"))]);
    assert_eq!(long_names(&format!("    fn {}<T>() {{}}", &name[1..])), []);
}

#[test]
fn a_link_to_a_file_that_does_not_exist_is_found() {
    let page = "[a](there.md), [b](gone.md#part)\n[c]: also/gone.md\n```\n[d](code.md)\n```";
    let found = broken_links(page, |file| file == "there.md");
    assert_eq!(found, [(1, "no file gone.md".into()), (2, "no file also/gone.md".into())]);
    let page = "[a](there.md#part), [b](#part), [c](https://example.org)\n[d]: there.md";
    assert_eq!(broken_links(page, |file| file == "there.md"), []);
}
