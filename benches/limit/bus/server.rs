//! The server of the table of the bus.

use std::error::Error;
use std::time::Duration;

use ikisocket::{Bus, Event, Response, Server};

/// Rooms that one connection may be in.
const MOST_ROOMS: usize = 20_000;

/// Serves until the process is ended: on the bus with this prefix, or alone if `redis` is `-`.
///
/// | path | what it is for |
/// |---|---|
/// | `/in/ROOM` | a member of the room |
/// | `/many/ROOM/COUNT` | a member of the rooms `ROOM-0`, `ROOM-1`, … |
/// | `/to/ROOM` | its messages are published to the room, on all servers if there is a bus |
/// | `/turns` | a page: how many turns the loop has made |
pub fn serve(redis: &str, prefix: &str, address: &str) -> Result<(), Box<dyn Error>> {
    let builder = Server::builder().ping_after(Duration::MAX).max_topics_per_connection(MOST_ROOMS);
    let mut server = builder.build(())?;
    let is_alone = redis == "-";
    if !is_alone {
        server.bus(Bus::redis(redis)?.prefix(prefix))?;
    }
    server.route("/in/:room", |_, kws| {
        let room = kws.param("room").unwrap_or_default().to_owned();
        kws.join(&room).expect("a room");
    })?;
    server.route("/many/:room/:count", |_, kws| {
        let room = kws.param("room").unwrap_or_default().to_owned();
        let count = kws.param("count").and_then(|count| count.parse().ok()).unwrap_or(0);
        for number in 0..count {
            kws.join(&format!("{room}-{number}")).expect("a room");
        }
    })?;
    server.route("/to/:room", |_, _| {})?.on(Event::Message, move |_, ep| {
        let room = ep.kws.param("room").unwrap_or_default().to_owned();
        match is_alone {
            true => _ = ep.kws.sockets().publish(&room, ep.data),
            false => _ = ep.kws.sockets().everywhere().publish(&room, ep.data),
        }
    });
    server.get("/turns", |_, sockets, _| Response::text(sockets.stats().turns.to_string()))?;
    println!("listening on {}", server.listen(address)?);
    server.run()?;
    Ok(())
}
