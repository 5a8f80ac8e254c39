//! As many open files as a test needs.

use std::io::Write;

/// Says why nothing was measured; not by `eprintln!`, which is shown of failed tests only.
fn skipped(why: &str) -> bool {
    let _ = writeln!(std::io::stderr(), "nothing was measured: {why}");
    false
}

/// Runs this test again in a process that may open `needed` descriptors, if this one may not.
pub fn with_descriptors(needed: usize) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let mut limits = files.split_whitespace().map(|limit| limit.parse().unwrap_or(usize::MAX));
    let (Some(soft), Some(hard)) = (limits.next(), limits.next()) else {
        return skipped("this system does not say how many files may be open");
    };
    if soft >= needed {
        return true;
    }
    if hard < needed {
        return skipped(&format!("{needed} open files are needed, {hard} are allowed"));
    }
    let again = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -n {needed} && exec \"$0\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    assert!(again.success(), "see above");
    false
}
