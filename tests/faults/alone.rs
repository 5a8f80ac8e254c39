//! Tests that need a process of their own: with its own limit of open files, or because they count
//! what the whole process holds.

use std::io::Write;
use std::process::Command;

/// Set in the process that runs one test alone.
const INSIDE: &str = "IKISOCKET_TEST_INSIDE";

/// Runs `test`, the body of the test of this name (`module::function`), in a process of its own
/// that may open at most `files` files.
pub fn alone(name: &str, files: u32, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return test();
    }
    let allowed = Command::new("sh").args(["-c", &format!("ulimit -n {files}")]).output().unwrap();
    if !allowed.status.success() {
        // Not by `eprintln!`, which is shown of failed tests only.
        let _ = writeln!(
            std::io::stderr(),
            "{name}: nothing was tested, {files} open files are more than are allowed here"
        );
        return;
    }
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
}

/// Live heap of this process, in bytes; only the difference of two says anything.
pub fn heap() -> isize {
    let counted = crate::ALLOCATOR.stats();
    // Growing by `realloc` counts in both.
    counted.bytes_allocated as isize - counted.bytes_deallocated as isize
}

/// Open descriptors of this process; 0 where the system does not say.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
