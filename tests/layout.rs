//! What ARCHITECTURE.md says of the layout: each folder of `src/` is a layer, and imports run
//! downwards, between the folders and inside each.
//!
//! This reads the paths in the code. A method that is called on a value leaves no path, so it is
//! not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers, the highest first. `flat` stands for the files that lie in `src/` itself.
const LAYERS: [&str; 13] = [
    "testing",
    "loops",
    "server",
    "user",
    "hub",
    "config",
    "bus",
    "outbox",
    "transport",
    "flat",
    "http",
    "redis",
    "protocol",
];

/// The files that lie in `src/` itself, beside `lib.rs`: what every layer names.
const FLAT: [&str; 3] = ["error", "event", "token"];

/// The library's files by module path (`hub::sending`; a folder's `mod.rs` is the folder's name).
fn files() -> BTreeMap<String, String> {
    fn walk(folder: &Path, module: &str, files: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let inner =
                if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
            if inner == "manual" {
                // Chapters: text for rustdoc, no code.
            } else if path.is_dir() {
                walk(&path, &inner, files);
            } else if name == "mod" {
                files.insert(module.to_owned(), fs::read_to_string(path).unwrap());
            } else if name != "lib" {
                files.insert(inner, fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    // Each declared for tests alone; what they import does not matter.
    let for_tests: Vec<String> = files
        .iter()
        .flat_map(|(module, text)| {
            let after = text.split("#[cfg(test)]\nmod ").skip(1);
            after.filter_map(move |rest| Some(format!("{module}::{}", rest.split_once(';')?.0)))
        })
        .collect();
    files.retain(|module, _| !for_tests.contains(module));
    files
}

/// A file's code: without comments, and without its unit tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The paths that a piece of code begins with `prefix`, with what stands in braces written out.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == ':' {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let end =
            rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        let path = &rest[..end];
        match rest[end..].strip_prefix('{') {
            Some(list) if path.is_empty() || path.ends_with("::") => {
                let list = list.split_once('}').unwrap().0;
                paths.extend(list.split(',').map(|item| format!("{path}{}", item.trim())));
            }
            _ => paths.push(path.to_owned()),
        }
    }
    paths.retain(|path| !path.is_empty() && !path.ends_with("::"));
    paths
}

/// The file that a path leads to: the one that defines the name, where a folder's `mod.rs` only
/// re-exports it.
fn resolve(path: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let names: Vec<&str> = path.split("::").collect();
    let depth =
        (1..=names.len()).rev().find(|&depth| files.contains_key(&names[..depth].join("::")))?;
    let module = names[..depth].join("::");
    let Some(name) = names
        .get(depth)
        .filter(|_| files.keys().any(|file| file.starts_with(&format!("{module}::"))))
    else {
        return Some(module);
    };
    let from_child = passed_on(&module, files).into_iter().find(|(passed, _)| passed == name);
    Some(from_child.map_or(module, |(_, child)| child))
}

/// The names that a folder's `mod.rs` re-exports from its files: `pub use child::{A, B};`.
fn passed_on(module: &str, files: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for item in code(&files[module]).split(';') {
        let Some((before, path)) = item.split_once("use ") else { continue };
        let child = format!("{module}::{}", path.split("::").next().unwrap());
        // `pub` or `pub(crate)`
        if before.trim_end().ends_with(['b', ')']) && files.contains_key(&child) {
            let path = path.replace('\n', " ");
            names.extend(
                paths(&format!("@{path}"), "@")
                    .iter()
                    .map(|path| (path.rsplit("::").next().unwrap().to_owned(), child.clone())),
            );
        }
    }
    names
}

/// Which file imports which.
fn imports() -> BTreeSet<(String, String)> {
    let files = files();
    let mut imports = BTreeSet::new();
    for (module, text) in &files {
        let is_folder = files.keys().any(|file| file.starts_with(&format!("{module}::")));
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let code = code(text);
        // A re-export of a folder is no import of its own.
        let own: String = code
            .split_inclusive(';')
            .filter(|item| !item.contains("pub use") && !item.contains("pub(crate) use"))
            .collect();
        let mut named = paths(&own, "crate::");
        named.extend(
            paths(&own, "super::")
                .into_iter()
                .map(|path| format!("{parent}::{path}").trim_start_matches("::").to_owned()),
        );
        if is_folder {
            named.extend(paths(&own, "use ").into_iter().map(|path| format!("{module}::{path}")));
        }
        // Nor is a name that it re-exports, unless its own code uses it too.
        if is_folder {
            for (name, child) in passed_on(module, &files) {
                if own.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name) {
                    imports.insert((module.clone(), child));
                }
            }
        }
        for path in named {
            if let Some(to) = resolve(&path, &files).filter(|to| to != module) {
                imports.insert((module.clone(), to));
            }
        }
    }
    imports
}

fn layer(module: &str) -> &str {
    let first = module.split("::").next().unwrap();
    if FLAT.contains(&first) { "flat" } else { first }
}

#[test]
fn every_file_stands_in_a_layer() {
    let files = files();
    let folders: BTreeSet<&str> = files.keys().map(|module| layer(module)).collect();
    assert_eq!(folders, LAYERS.into());
}

#[test]
fn imports_between_layers_run_downwards() {
    let rank = |module: &str| LAYERS.iter().position(|&each| each == layer(module)).unwrap();
    let imports = imports();
    let upward: Vec<_> = imports.iter().filter(|(from, to)| rank(to) < rank(from)).collect();
    assert!(upward.is_empty(), "{upward:#?}");
    assert!(imports.len() > 100, "{} imports were found", imports.len());
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let imports = imports();
    let mut reaches: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in &imports {
        reaches.entry(from).or_default().insert(to);
    }
    loop {
        let before: usize = reaches.values().map(BTreeSet::len).sum();
        for from in reaches.keys().copied().collect::<Vec<_>>() {
            let further: Vec<&str> =
                reaches[from].iter().filter_map(|to| reaches.get(to)).flatten().copied().collect();
            reaches.get_mut(from).unwrap().extend(further);
        }
        if reaches.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    let circular: Vec<_> = imports
        .iter()
        .filter(|(from, to)| {
            reaches.get(to.as_str()).is_some_and(|reached| reached.contains(from.as_str()))
        })
        .collect();
    assert!(circular.is_empty(), "{circular:#?}");
}

#[test]
fn each_file_that_the_architecture_names_exists_and_each_layer_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let named: Vec<&str> = page
        .split('`')
        .filter(|text| text.starts_with("src/") || text.starts_with("tests/"))
        .collect();
    let missing: Vec<_> = named.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named.len() > 30, "{named:?}");
    for layer in LAYERS.iter().filter(|&&layer| layer != "flat") {
        assert!(page.lines().any(|line| line.starts_with(&format!("  {layer} "))), "{layer}");
    }
}

/// The Markdown files in a folder of the manual, as `mod.rs` names them.
fn chapters(folder: &Path, prefix: &str) -> Vec<String> {
    let mut chapters = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            chapters.extend(self::chapters(&path, &format!("{name}/")));
        } else if name.ends_with(".md") {
            chapters.push(name);
        }
    }
    chapters
}

#[test]
fn each_chapter_is_included_in_the_manual_and_linked_from_its_contents() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |name: &str| fs::read_to_string(source.join(name)).unwrap();
    let (manual, front, cookbook) =
        (read("manual/mod.rs"), read("lib.rs"), read("manual/cookbook.md"));
    let chapters = chapters(&source.join("manual"), "");
    for chapter in &chapters {
        let include = format!("include_str!(\"{chapter}\")");
        let (_, after) = manual.split_once(&include).unwrap_or_else(|| panic!("{chapter}"));
        let (_, declaration) = after.split_once("pub mod ").unwrap();
        let module = declaration.split([' ', ';']).next().unwrap();
        let (contents, link) = match chapter.starts_with("cookbook/") {
            true => (&cookbook, format!("](cookbook::{module})")),
            false => (&front, format!("](manual::{module})")),
        };
        assert!(contents.contains(&link), "{chapter} is not linked");
    }
    assert!(chapters.len() > 20, "{chapters:?}");
}

#[test]
fn the_front_page_of_the_manual_has_at_most_150_lines() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let lines = page.unwrap().lines().filter(|line| line.starts_with("//!")).count();
    assert!((50..=150).contains(&lines), "{lines}");
}
