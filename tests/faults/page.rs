//! The tests that SECURITY.md names exist.

use std::path::Path;

/// The Rust files of a folder and those below it, one behind the other.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => std::fs::read_to_string(path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (_, table) = page.split_once("| what | test |").unwrap();
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let names: Vec<_> = table.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(
            code.contains(&format!("#[test]\nfn {name}()"))
                || code.contains(&format!("#[test]\n    fn {name}()")),
            "there is no test `{name}`"
        );
    }
}
