//! An echo server: `/echo` answers each message with itself, `/bcast` sends each to everybody. Tests and benchmarks run against it.
//!
//! `cargo run --release --example echo [ADDR] [--spin]`; with `--features deflate` it compresses for clients that offer that.
//!
//! With `--spin` it never sleeps: it looks for events all the time, and keeps one core busy.

use ikisocket::{Event, Server};

mod common;

const MIB: usize = 1024 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Large enough for conformance suites; everything else is the library's default.
    let settings = Server::builder().max_message(64 * MIB).max_outbox(128 * MIB);
    #[cfg(feature = "deflate")]
    let settings = settings.deflate(ikisocket::Deflate::dedicated());
    let mut server = settings.build(())?;
    server.route("/echo", |_, _| {})?.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/bcast", |_, _| {})?.on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    let address = server.listen(common::address("127.0.0.1:9001"))?;
    println!("listening on {address}");
    match std::env::args().nth(2).as_deref() {
        Some("--spin") => common::spin_until_interrupted(&mut server),
        _ => common::run_until_interrupted(&mut server),
    }
}
