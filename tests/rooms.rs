//! What the manual's section "Inside" says of the rooms: each is in the table, and imports run from top to bottom.

use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms of the manual's table, row by row.
fn table() -> Vec<Vec<String>> {
    let manual = fs::read_to_string(source().join("lib.rs")).unwrap();
    let (_, inside) = manual.split_once("//! # Inside").unwrap();
    let rows = inside.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.map(|row| {
        let (rooms, _) = row.split_once(" | ").unwrap();
        rooms.split(", ").map(|room| room.trim_matches('`').to_owned()).collect()
    })
    .collect()
}

/// The modules that a file declares, those that are for tests alone if `tests` says so, the others if not.
fn declared(file: &str, tests: bool) -> Vec<String> {
    let mut modules = Vec::new();
    let mut before = "";
    for line in file.lines() {
        let line = line.trim_start_matches("pub ");
        if let Some(module) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            && (before == "#[cfg(test)]") == tests
        {
            modules.push(module.to_owned());
        }
        before = line;
    }
    modules
}

/// Every file of the library with its room, but for what only tests have.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(source()).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let for_tests = declared(&fs::read_to_string(path.join("mod.rs")).unwrap(), true);
            for entry in fs::read_dir(&path).unwrap() {
                let path = entry.unwrap().path();
                if !for_tests.iter().any(|module| path.file_stem().unwrap() == module.as_str()) {
                    files.push((room.clone(), fs::read_to_string(path).unwrap()));
                }
            }
        } else if room != "lib" {
            let room = if room == "uncompressed" { "compression".to_owned() } else { room };
            files.push((room, fs::read_to_string(path).unwrap()));
        }
    }
    files
}

/// What follows each `crate::` in a file's code, without its tests.
fn imports(file: &str) -> impl Iterator<Item = &str> {
    let code = file.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| line.split("crate::").skip(1))
}

#[test]
fn every_room_is_in_the_table_once() {
    let mut rooms = table().concat();
    rooms.sort();
    let mut modules = declared(&fs::read_to_string(source().join("lib.rs")).unwrap(), false);
    modules.sort();
    assert_eq!(rooms, modules);
}

#[test]
fn imports_run_from_top_to_bottom_but_for_the_transport_in_memory() {
    let table = table();
    let row = |room: &str| table.iter().position(|row| row.iter().any(|each| each == room));
    let (mut upward, mut downward) = (Vec::new(), 0);
    for (room, file) in files() {
        for import in imports(&file) {
            let end = import.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(import.len());
            let is_exception = import.starts_with("testing::wire") && ["stream", "server"].contains(&room.as_str());
            let to = row(&import[..end]).unwrap_or_else(|| panic!("{room} imports {import}, which names no room"));
            match to >= row(&room).unwrap() {
                true => downward += 1,
                false if is_exception => {}
                false => upward.push(format!("{room} imports {import}")),
            }
        }
    }
    assert_eq!(upward, [""; 0]);
    assert!(downward > 100, "{downward} imports were found");
}
