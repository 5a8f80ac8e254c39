//! No release of a dependency that a security advisory names is admitted: not by the bounds in
//! Cargo.toml, where a program's own lock file may choose the least, and not by this package's lock
//! file. No package ships the RustSec database, so the advisories are listed here; `cargo audit`,
//! where it can fetch the database, knows the newest.

use std::fs;

/// A package, the first release that the advisory names, the first that is free of it again, and
/// the advisory.
type Advisory = (&'static str, Version, Version, &'static str);
type Version = [u32; 3];

/// All that the RustSec database had of packages in this lock file on 2026-08-21, withdrawn ones
/// left out.
const ADVISORIES: [Advisory; 23] = [
    ("base64", [0, 0, 0], [0, 5, 2], "RUSTSEC-2017-0004"),
    ("bumpalo", [3, 0, 0], [3, 2, 1], "RUSTSEC-2020-0006"),
    ("bumpalo", [1, 1, 0], [3, 11, 1], "RUSTSEC-2022-0078"),
    ("bytes", [1, 2, 1], [1, 11, 1], "RUSTSEC-2026-0007"),
    ("chacha20", [0, 0, 0], [0, 2, 3], "RUSTSEC-2019-0029"),
    ("futures-task", [0, 2, 2], [0, 3, 6], "RUSTSEC-2020-0060"),
    ("futures-task", [0, 0, 0], [0, 3, 5], "RUSTSEC-2020-0061"),
    ("futures-util", [0, 3, 2], [0, 3, 7], "RUSTSEC-2020-0059"),
    ("futures-util", [0, 3, 0], [0, 3, 2], "RUSTSEC-2020-0062"),
    ("hashbrown", [0, 15, 0], [0, 15, 1], "RUSTSEC-2024-0402"),
    ("http", [0, 0, 0], [0, 1, 20], "RUSTSEC-2019-0033, RUSTSEC-2019-0034"),
    ("mio", [0, 7, 0], [0, 7, 6], "RUSTSEC-2020-0081"),
    ("mio", [0, 7, 2], [0, 8, 11], "RUSTSEC-2024-0019"),
    // Of the older rands those with the fix are not listed: none is in use here.
    ("rand", [0, 7, 0], [0, 10, 1], "RUSTSEC-2026-0097"),
    ("rand_core", [0, 0, 0], [0, 4, 2], "RUSTSEC-2019-0035"),
    ("rand_core", [0, 6, 0], [0, 6, 2], "RUSTSEC-2021-0023"),
    ("regex", [0, 0, 0], [1, 5, 5], "RUSTSEC-2022-0013"),
    ("shlex", [0, 0, 0], [1, 3, 0], "RUSTSEC-2024-0006"),
    ("slab", [0, 4, 10], [0, 4, 11], "RUSTSEC-2025-0047"),
    ("socket2", [0, 0, 0], [0, 3, 16], "RUSTSEC-2020-0079"),
    ("tungstenite", [0, 0, 0], [0, 20, 1], "RUSTSEC-2023-0065"),
    ("zerocopy", [0, 2, 2], [0, 7, 31], "RUSTSEC-2023-0074"),
    ("zlib-rs", [0, 0, 0], [0, 4, 0], "RUSTSEC-2024-0401"),
];

fn version(text: &str) -> Version {
    let mut numbers = text.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

fn read(file: &str) -> String {
    fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The text between the first quotation marks behind `key`.
fn quoted<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.split_once(key)?.1.split('"').nth(1)
}

#[test]
fn no_bound_in_the_manifest_admits_a_release_with_a_known_advisory() {
    let manifest = read("Cargo.toml");
    let mut looked_at = 0;
    let tables = manifest
        .split("\n[")
        .filter(|table| table.split(']').next().unwrap().ends_with("dependencies"));
    for line in tables.flat_map(str::lines) {
        let Some((name, value)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with('#'))
        else {
            continue;
        };
        let bound = match value.starts_with('{') {
            true => quoted(value, "version = "),
            false => quoted(line, " = "),
        };
        let Some(bound) = bound else { continue };
        looked_at += 1;
        for (_, _, free, advisory) in ADVISORIES.iter().filter(|(package, ..)| *package == name) {
            assert!(
                version(bound) >= *free,
                "{name} {bound} admits releases with {advisory}: ask for {free:?}"
            );
        }
    }
    assert!(looked_at > 20, "{looked_at} dependencies were found in Cargo.toml");
}

#[test]
fn no_release_in_the_lock_file_has_a_known_advisory() {
    let lock = read("Cargo.lock");
    let mut looked_at = 0;
    for package in lock.split("[[package]]").skip(1) {
        let (name, locked) =
            (quoted(package, "name = ").unwrap(), quoted(package, "\nversion = ").unwrap());
        looked_at += 1;
        for (_, from, free, advisory) in ADVISORIES.iter().filter(|(each, ..)| *each == name) {
            let locked = version(locked);
            assert!(
                locked < *from || locked >= *free,
                "{name} {locked:?} has {advisory}: update it to {free:?}"
            );
        }
    }
    assert!(looked_at > 50, "{looked_at} packages were found in Cargo.lock");
}
