//! The server of the table of loops: one program, on several loops or without them.

use std::error::Error;
use std::net::TcpListener;
use std::process::Command;

use ikisocket::{
    Builder, Event, EventPayload, Finished, Incoming, Loops, Response, Server, Sockets, Stats,
};
use serde_json::{Value, json};

/// Rooms at `/room`: each loop of two has one, and a server that runs alone has both.
const ROOMS: usize = 2;

/// The state of one loop.
struct Place {
    loops: usize,
    index: usize,
    /// Connections that have come to a room.
    came: usize,
}

impl Place {
    /// The room of the next connection.
    fn next_room(&mut self) -> String {
        let of_loop = if self.loops == ROOMS { self.index } else { self.came % ROOMS };
        self.came += 1;
        room(of_loop)
    }
}

fn room(index: usize) -> String {
    format!("room {index}")
}

/// Serves until the process is ended. `loops` is the number of loops, or 0 for a server without
/// them, or `apart` for two servers that know nothing of each other. If `cores` says `each`, each
/// loop or server has the core of its index.
///
/// | path | what a message does |
/// |---|---|
/// | `/echo` | it comes back |
/// | `/all` | it is published everywhere, to all connections there |
/// | `/room` | it is published everywhere, to the room of the connection, which is on one loop |
/// | `/across/TIMES` | it is published that often to the members on the other loop |
/// | `/here/TIMES` | it is published that often to those on this loop, by it alone |
/// | `/member` | nothing: these are the members |
pub fn serve(loops: &str, cores: &str, address: &str) -> Result<(), Box<dyn Error>> {
    let has_core_each = cores == "each";
    if loops == "apart" {
        let listeners = [TcpListener::bind(address)?, TcpListener::bind(address)?];
        let [first, second] = listeners.each_ref().map(TcpListener::local_addr);
        println!("listening on {},{}", first?, second?);
        let [first, second] = listeners;
        std::thread::spawn(move || {
            serve_apart(1, has_core_each, second).expect("the second server runs");
        });
        return serve_apart(0, has_core_each, first);
    }
    let loops: usize = loops.parse()?;
    let Finished { .. } = if loops == 0 {
        let mut server = build(Server::builder(), loops, 0)?;
        println!("listening on {}", server.listen(address)?);
        server.run()?
    } else {
        let running = Loops::new(loops).listen(address)?.start(move |index, builder| {
            if has_core_each {
                move_to_core(index)?;
            }
            build(builder, loops, index)
        })?;
        println!("listening on {}", running.local_addr().ok_or("it has no address")?);
        running.join()?
    };
    Ok(())
}

/// Serves as one of two.
fn serve_apart(index: usize, has_core: bool, listener: TcpListener) -> Result<(), Box<dyn Error>> {
    if has_core {
        move_to_core(index)?;
    }
    let mut server = build(Server::builder(), ROOMS, index)?;
    server.listen_on(listener)?;
    server.run()?;
    Ok(())
}

fn build(builder: Builder, loops: usize, index: usize) -> Result<Server<Place>, Box<dyn Error>> {
    let mut server = builder.build(Place { loops, index, came: 0 })?;
    server.route("/echo", |_, _| {})?.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/all", |_, kws| _ = kws.join("all"))?.on(Event::Message, |_, ep| {
        ep.kws.sockets().everywhere().publish("all", ep.data);
    });
    server
        .route("/room", |place, kws| {
            let room = place.next_room();
            let _ = kws.join(&room);
            kws.set_attribute("room", room);
        })?
        .on(Event::Message, |_, ep| {
            let room = ep.kws.string_attribute("room").unwrap_or_default().to_owned();
            ep.kws.sockets().everywhere().publish(&room, ep.data);
        });
    server.route("/member", |place, kws| _ = kws.join(&room(place.index)))?;
    server.route("/across/:times", |_, _| {})?.on(Event::Message, |place, ep| {
        let other = room(1 - place.index);
        for _ in 0..times(ep) {
            ep.kws.sockets().everywhere().publish(&other, ep.data);
        }
    });
    server.route("/here/:times", |_, _| {})?.on(Event::Message, |place, ep| {
        let own = room(place.index);
        for _ in 0..times(ep) {
            ep.kws.sockets().publish(&own, ep.data);
        }
    });
    server.get("/loops", |_, _, _| "")?; // The filter answers.
    server.filter(answer_loops);
    Ok(server)
}

fn times(ep: &EventPayload<'_, Place>) -> usize {
    ep.kws.param("times").and_then(|times| times.parse().ok()).unwrap_or_default()
}

/// Answers with the figures of each loop.
fn answer_loops(
    _: &mut Place,
    sockets: &mut Sockets<'_, Place>,
    incoming: &mut Incoming,
) -> Result<(), Response> {
    if incoming.path() == "/loops" {
        let request = sockets.defer(incoming);
        sockets.everywhere().stats(move |_, _, found| {
            let loops: Vec<Value> = found.value.iter().map(|(_, stats)| figures(stats)).collect();
            let _ = request.respond(Response::json(json!(loops).to_string()));
        });
    }
    Ok(())
}

fn figures(stats: &Stats) -> Value {
    json!({
        "open": stats.open,
        "turns": stats.turns,
        "received": stats.loops.received,
        "refused": stats.loops.refused,
        "handed_over": stats.loops.handed_over,
    })
}

/// Lets the calling thread run on one core only.
fn move_to_core(core: usize) -> Result<(), Box<dyn Error>> {
    let this = std::fs::read_link("/proc/thread-self")?; // PID/task/TID
    let id = this.file_name().ok_or("the thread has no id")?;
    let mut taskset = Command::new("taskset");
    let output = taskset.args(["-c", "-p", &core.to_string()]).arg(id).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
