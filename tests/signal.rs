//! A wait that a signal interrupts is an empty turn. Alone in its file, because signals belong to
//! the whole process.
#![cfg(target_os = "linux")]

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ikisocket::{Server, Turn};

/// Sends SIGUSR1 to this thread again and again, until it is dropped.
struct Signals(Child);

impl Signals {
    fn to_this_thread() -> Self {
        let path = std::fs::read_link("/proc/thread-self").unwrap();
        let thread = path.file_name().unwrap().to_str().unwrap().to_owned();
        let script = format!("while kill -USR1 {thread}; do sleep 0.02; done");
        Self(Command::new("sh").args(["-c", &script]).spawn().unwrap())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_wait_that_a_signal_interrupts_is_an_empty_turn() {
    let caught = Arc::new(AtomicUsize::new(0));
    signal_hook::flag::register_usize(signal_hook::consts::SIGUSR1, caught.clone(), 1).unwrap();
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    let signals = Signals::to_this_thread();
    let started = std::time::Instant::now();
    // No client connects: only a signal can end this wait early.
    assert_eq!(server.poll(Some(Duration::from_secs(10))), Ok(Turn::default()));
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(signals);
    assert_eq!(caught.load(Ordering::Relaxed), 1);
}
