//! What every example needs: its address, and a shutdown at Ctrl-C.
#![allow(dead_code)] // None needs all of it.

pub mod certificate;
pub mod page;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certificate::Certificate;
use ikisocket::{Running, Server, Shutdown};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The longest wait for events. A signal wakes the poll; this is for one that comes just before it.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The address to listen on: the first argument, or `default`.
#[allow(dead_code)] // An example with options of its own has no use for it.
pub fn address(default: &str) -> String {
    let mut arguments = std::env::args();
    let (program, address) = (arguments.next().unwrap_or_default(), arguments.next());
    if address.as_ref().is_some_and(|word| word.starts_with('-')) {
        eprintln!("usage: {program} [ADDR]   (default: {default})");
        std::process::exit(2);
    }
    address.unwrap_or_else(|| default.to_owned())
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
    turn_until_interrupted(server, LONGEST_WAIT, &Certificate::none())
}

/// The same, and SIGHUP makes it read the certificate again.
pub fn run_with_certificate<S>(
    server: &mut Server<S>,
    certificate: &Certificate,
) -> Result<(), Box<dyn Error>> {
    turn_until_interrupted(server, LONGEST_WAIT, certificate)
}

/// The same without ever sleeping, as [`Server::run_spinning`] does.
pub fn spin_with_certificate<S>(
    server: &mut Server<S>,
    certificate: &Certificate,
) -> Result<(), Box<dyn Error>> {
    turn_until_interrupted(server, Duration::ZERO, certificate)
}

fn turn_until_interrupted<S>(
    server: &mut Server<S>,
    timeout: Duration,
    certificate: &Certificate,
) -> Result<(), Box<dyn Error>> {
    let interrupted = interrupt_flag()?;
    let mut stopping = false;
    while !server.is_finished() {
        server.poll(Some(timeout))?;
        certificate.renew();
        if !stopping && interrupted.load(Ordering::Relaxed) {
            stopping = true;
            server.sockets().shutdown(Shutdown::default())?;
        }
    }
    Ok(())
}

/// Waits until the loops have ended. At Ctrl-C they close all connections with 1001, and end.
pub fn join_or_interrupt<S: 'static>(running: Running<S>) -> Result<(), Box<dyn Error>> {
    interrupt_flag()?; // for the second Ctrl-C
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let loops = running.handle();
    std::thread::spawn(move || {
        signals.forever().next();
        loops.shutdown(Shutdown::default())
    });
    running.join()?;
    Ok(())
}
