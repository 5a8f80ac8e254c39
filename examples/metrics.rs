//! Metrics for Prometheus: an echo server that shows its figures at `/metrics`.
//!
//! `cargo run --example metrics [ADDR]`, then `curl http://127.0.0.1:3000/metrics`, or let a
//! Prometheus scrape it:
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: ikisocket
//!     static_configs: [{ targets: ["127.0.0.1:3000"] }]
//! ```
//!
//! Your own figures go behind those of the library, on the same page.

use std::error::Error;

use ikisocket::{Event, Server};

mod common;

fn main() -> Result<(), Box<dyn Error>> {
    let mut server = Server::builder().measure_turns(true).build(0u64)?;
    server.on(Event::Message, |longest, ep| {
        *longest = (*longest).max(ep.data.as_bytes().len() as u64);
        ep.kws.emit(ep.data);
    });
    server.route("/ws", |_, _| {})?;
    server.get("/metrics", |longest, sockets, _| {
        let mut text = sockets.stats().to_prometheus();
        text.push_str("# HELP echo_longest_message_bytes The longest message so far.\n");
        text.push_str(&format!(
            "# TYPE echo_longest_message_bytes gauge\necho_longest_message_bytes {longest}\n"
        ));
        text
    })?;
    let address = server.listen(common::address("127.0.0.1:3000"))?;
    println!("listening on {address}");
    common::run_until_interrupted(&mut server)
}
