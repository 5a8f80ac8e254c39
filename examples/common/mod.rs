//! What every example needs: its address, and a shutdown at Ctrl-C.
#![allow(dead_code)] // None needs all of it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ikisocket::{Server, Shutdown};
use signal_hook::consts::{SIGINT, SIGTERM};

/// The address to listen on: the first argument, or `default`.
#[allow(dead_code)] // An example with options of its own has no use for it.
pub fn address(default: &str) -> String {
    std::env::args().nth(1).unwrap_or_else(|| default.to_owned())
}

/// A flag that Ctrl-C raises. A second Ctrl-C ends the process at once.
pub fn interrupt_flag() -> Result<Arc<AtomicBool>, Box<dyn Error>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

/// Turns the loop until Ctrl-C, then closes all connections with 1001.
pub fn run_until_interrupted<S>(server: &mut Server<S>) -> Result<(), Box<dyn Error>> {
    // The signal wakes the poll; the timeout is for one that comes just before it.
    turn_until_interrupted(server, Duration::from_millis(250))
}

/// The same without ever sleeping, as [`Server::run_spinning`] does, until Ctrl-C.
pub fn spin_until_interrupted<S>(server: &mut Server<S>) -> Result<(), Box<dyn Error>> {
    turn_until_interrupted(server, Duration::ZERO)
}

fn turn_until_interrupted<S>(
    server: &mut Server<S>,
    timeout: Duration,
) -> Result<(), Box<dyn Error>> {
    let interrupted = interrupt_flag()?;
    let mut stopping = false;
    while !server.is_finished() {
        server.poll(Some(timeout))?;
        if !stopping && interrupted.load(Ordering::Relaxed) {
            stopping = true;
            server.sockets().shutdown(Shutdown::default())?;
        }
    }
    Ok(())
}
