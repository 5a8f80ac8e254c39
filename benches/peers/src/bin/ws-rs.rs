//! Echo and broadcast on ws 0.9 (ws-rs), one mio loop on the main thread.
//!
//! - Echo: `out.send(message)` in the handler, broadcast: `out.broadcast(message)`
//!   (<https://docs.rs/ws/0.9.2/ws/struct.Sender.html#method.broadcast>), which reaches every
//!   connection of the server, `/echo` too. Routes: `Handler::on_request`, as in
//!   examples/router.rs.
//! - `max_connections`: "the default setting is low and should be increased when expecting more"
//!   (<https://docs.rs/ws/0.9.2/ws/struct.Settings.html>, as every setting below;
//!   examples/bench-server.rs raises this one and no other).
//! - `in_buffer_capacity`, `out_buffer_capacity`: "a larger buffer uses more memory but will allow
//!   for fewer reallocations". Tried 2, 16 and 64 KiB: 64 saves 5–10 % on echoes from 1 KiB. It
//!   costs up to 5 % on broadcasts, and 4 KiB of resident memory for each idle connection (9 KB
//!   instead of 5).
//! - `fragment_size`: 64 KiB by default; raised, because splitting a large message copies it once
//!   more.
//! - `max_fragment_size`: unlimited by default; the same limit as everywhere here.
//! - `panic_on_internal(false)`: "production applications should consider setting it to false".
//! - `tcp_nodelay`: off by default.

use ikisocket_peers::{MAX_MESSAGE, address};
use ws::{Builder, Error, Handler, Message, Request, Response, Result, Sender, Settings};

struct Connection {
    out: Sender,
    broadcasts: bool,
}

impl Handler for Connection {
    fn on_request(&mut self, request: &Request) -> Result<Response> {
        self.broadcasts = request.resource() == "/bcast";
        Response::from_request(request)
    }

    fn on_message(&mut self, message: Message) -> Result<()> {
        if self.broadcasts { self.out.broadcast(message) } else { self.out.send(message) }
    }

    fn on_error(&mut self, _: Error) {}
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let settings = Settings {
        max_connections: 20_000,
        in_buffer_capacity: 64 * 1024,
        out_buffer_capacity: 64 * 1024,
        fragment_size: MAX_MESSAGE,
        max_fragment_size: MAX_MESSAGE,
        panic_on_internal: false,
        tcp_nodelay: true,
        ..Settings::default()
    };
    let server = Builder::new()
        .with_settings(settings)
        .build(|out| Connection { out, broadcasts: false })?;
    let server = server.bind(address())?;
    println!("listening on {}", server.local_addr()?);
    server.run()?;
    Ok(())
}
