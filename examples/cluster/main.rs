//! A chat over several processes, on one machine or on many: a bus over Redis connects them. Each
//! process says when it is alone, why, and what is missing.
//!
//! Start a Redis and two processes, and open <http://127.0.0.1:3001> and <http://127.0.0.1:3002>:
//!
//! ```sh
//! cargo run --release --example cluster --features redis -- 127.0.0.1:3001 --redis redis://127.0.0.1:6379
//! cargo run --release --example cluster --features redis -- 127.0.0.1:3002 --redis redis://127.0.0.1:6379
//! ```
//!
//! The processes share no memory and no table. What goes from one to another is published through
//! `everywhere()`, and each room has two topics:
//!
//! | topic | what is published there | if some of it is lost |
//! |---|---|---|
//! | `said:ROOM` | the messages of people | the others see how many are missing |
//! | `here:ROOM` | each process: a list of its own people, at each change and each second | the next list repairs it |
//!
//! A client connects to `/ws?room=ROOM&name=NAME`, and sends texts. From the server it gets:
//!
//! | message | meaning |
//! |---|---|
//! | `{"you": person, "alone"}` | welcome. A person is `{"id", "name", "process"}` |
//! | `{"process", "people": [person…]}` | all people of one process; forget them if no such list comes for 5 s |
//! | `{"id", "from": person, "text"}` | a message, also your own. No two have the same id |
//! | `{"only_here": id}` | that message of yours did not reach other processes |
//! | `{"alone": why}` | the bus is down: no other process can be reached |
//! | `{"together": ms}` | it is up again, after this time |
//! | `{"missing"}` | just here this number of messages was lost; null if the number is not known |
//! | `{"gone": process}` | this process has given no sign of life for 10 s |

use std::error::Error;
use std::time::Duration;

use common::page::{cut, page, query_name};
use ikisocket::{Bus, BusEvent, Event, EventPayload, Response, Server, Socket, Sockets};
use lexopt::prelude::*;
use serde::Serialize;
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;

const PAGE: &str = include_str!("page.html");
/// The longest name of a person or room, in characters.
const MAX_NAME: usize = 30;
/// The longest message, in characters.
const MAX_TEXT: usize = 2000;

/// The state of this process.
struct Chat {
    /// Why no other process can be reached, if it is so.
    alone: Option<String>,
    /// The number of messages that people of this process have sent.
    sent: u64,
}

#[derive(Clone, Serialize)]
struct Person {
    id: String,
    name: String,
    process: String,
}

/// An attribute of each connection.
#[derive(Clone)]
struct Place {
    room: String,
    person: Person,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut address = "127.0.0.1:3001".to_owned();
    let mut redis = "redis://127.0.0.1:6379".to_owned();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => address = word.string()?,
            Long("redis") => redis = arguments.value()?.string()?,
            Short('h') | Long("help") => {
                println!("cluster [ADDR] [--redis redis://HOST:PORT]");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    // An address with a mistake ends the program. That no Redis answers there does not: the chat
    // works within this process, and says so until one does.
    let bus = Bus::redis(&redis).map_err(|error| format!("--redis: {error}"))?;
    let mut server = server(bus)?;
    let address = server.listen(&address).map_err(|error| format!("{address}: {error}"))?;
    println!("listening on {address}");
    common::run_until_interrupted(&mut server)
}

fn server(bus: Bus) -> Result<Server<Chat>, Box<dyn Error>> {
    let alone = Some("Redis has not answered yet".to_owned());
    let mut server = Server::builder().build(Chat { alone, sent: 0 })?;
    server.bus(bus.prefix("chat"))?; // Programs with another prefix can use the same Redis.
    server.on_bus(on_bus);
    server.route("/ws", enter)?;
    server.on(Event::Message, on_message);
    server.on(Event::Disconnect, |_, ep| {
        if let Some(Place { room, .. }) = place(&ep.kws) {
            publish_people(&mut ep.kws.sockets(), &room);
        }
    });
    server.set_interval(Duration::from_secs(1), |_, sockets| {
        let topics = sockets.topics().filter_map(|(topic, _)| topic.strip_prefix("here:"));
        let rooms: Vec<_> = topics.map(str::to_owned).collect();
        for room in rooms {
            publish_people(sockets, &room);
        }
    });
    let text =
        PAGE.replace("MAX_NAME", &MAX_NAME.to_string()).replace("MAX_TEXT", &MAX_TEXT.to_string());
    server.get("/", move |_, _, _| page(&text))?;
    server.get("/metrics", |_, sockets, _| sockets.stats().to_prometheus())?;
    // A process that is alone is still ready: `Bus::ready_while_down` changes that.
    server.get("/ready", |chat, sockets, _| {
        let why = chat.alone.as_ref().map_or(String::new(), |why| format!("alone: {why}\n"));
        Response::new(if sockets.is_ready() { 200 } else { 503 }).with_body(why)
    })?;
    Ok(server)
}

/// The route's callback: a new client.
fn enter(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let [room, name] = [("room", "lobby"), ("name", "guest")]
        .map(|(key, default)| query_name(kws, key, default, MAX_NAME));
    for topic in [format!("said:{room}"), format!("here:{room}")] {
        if let Err(error) = kws.join(&topic) {
            let _ = kws.close_with(1008, &error.to_string());
            return;
        }
    }
    let person = Person { id: kws.uuid().to_string(), name, process: process(&kws.sockets()) };
    kws.emit(json!({ "you": person, "alone": chat.alone }).to_string());
    kws.set_attribute("place", Place { room: room.clone(), person });
    publish_people(&mut kws.sockets(), &room);
}

fn on_message(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
    let (Some(text), Some(Place { room, person })) = (ep.data.as_str(), place(&ep.kws)) else {
        return;
    };
    let mut text = text.to_owned();
    cut(&mut text, MAX_TEXT);
    chat.sent += 1;
    let id = format!("{}-{}", person.process, chat.sent);
    let message = json!({ "id": id, "from": person, "text": text }).to_string();
    // The members of this process get it even if the bus does not take it.
    let sent = ep.kws.everywhere().publish_all(&format!("said:{room}"), message);
    if !sent.is_complete() {
        ep.kws.emit(json!({ "only_here": id }).to_string());
    }
}

/// What the bus announces: it is logged, and the people of this process see it.
fn on_bus(chat: &mut Chat, sockets: &mut Sockets<'_, Chat>, event: &BusEvent) {
    match event {
        BusEvent::Down { why, unconfirmed, .. } => {
            println!("alone: {why}; messages that may be lost: {unconfirmed}");
            chat.alone = Some(why.to_string());
            sockets.broadcast(json!({ "alone": why.to_string() }).to_string());
        }
        BusEvent::Up { was_down_for, .. } => {
            println!("together with the others, as process {}", process(sockets));
            chat.alone = None;
            sockets.broadcast(json!({ "together": was_down_for.as_millis() }).to_string());
        }
        BusEvent::Gap { topic: Some(topic), lost, .. } => {
            let number = lost.map_or("unknown".to_owned(), |lost| lost.to_string());
            println!("missing on {topic:?}: {number}"); // Quoted: people choose names of rooms.
            if topic.starts_with("said:") {
                sockets.publish(topic, json!({ "missing": lost }).to_string());
            }
        }
        BusEvent::NodeGone { node, .. } => {
            println!("process {node} is gone");
            sockets.broadcast(json!({ "gone": node.to_string() }).to_string());
        }
        other => println!("{other:?}"),
    }
}

/// Publishes which people of this process are in a room. It does so each second, which is simple
/// and repairs itself. With thousands in a room, publish changes instead, as the example `loops`
/// does.
fn publish_people(sockets: &mut Sockets<'_, Chat>, room: &str) {
    let topic = format!("here:{room}");
    let mut people = Vec::new();
    for uuid in sockets.members(&topic) {
        people.extend(sockets.get(uuid).and_then(|kws| place(&kws)).map(|place| place.person));
    }
    let list = json!({ "process": process(sockets), "people": people }).to_string();
    sockets.everywhere().publish(&topic, list);
}

fn place(kws: &Socket<'_, Chat>) -> Option<Place> {
    kws.attribute("place").cloned()
}

/// The name of this process on the bus.
fn process(sockets: &Sockets<'_, Chat>) -> String {
    sockets.node().map_or(String::new(), |node| node.to_string())
}
