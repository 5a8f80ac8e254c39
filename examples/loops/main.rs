//! A chat on all cores: the people of a room are on different loops, and need not know it. Its web
//! page, at `/`, shows the loop of each person.
//!
//! `cargo run --release --example loops [ADDR] [--loops N]`, then open <http://127.0.0.1:3000> in
//! several tabs. The default is a loop for each core.
//!
//! Each loop has a server with a state of its own, [`Chat`], and a connection stays on its loop.
//! What goes further goes through `everywhere()`:
//!
//! | what | how |
//! |---|---|
//! | a message to a room | `publish`: the room is a topic |
//! | a private message | `emit_to`: the uuid says which loop has the connection |
//! | a person joined or left the room | `publish`, too |
//! | how many are online | `count`, once a second |
//! | the figures at `/metrics` | `stats`, when the page is asked for |
//! | the list of those in a room | a table that the loops share: see [`Rooms`] |
//!
//! A client connects to `/ws?room=ROOM&name=NAME`. It sends `{"text"}` to the room, or `{"to",
//! "text"}` to one person in it. From the server it gets:
//!
//! | message | meaning |
//! |---|---|
//! | `{"you": person, "loops", "online"}` | welcome. A person is `{"id", "name", "loop"}` |
//! | `{"here": [person…], "change"}` | all in the room, you included, after this change |
//! | `{"joined": person, "change"}`, `{"left": id, "change"}` | one change; ignore it if the list had it |
//! | `{"from": person, "to", "text"}` | a message to the room, or to the id `to`; also your own |
//! | `{"undelivered": text}` | your message did not reach all that it was for |
//! | `{"online"}` | the number of people in all rooms |
//! | `{"missing"}` | the server was too busy: this number of messages did not arrive |

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::page::{cut, page, query_name};
use ikisocket::{
    Builder, BusEvent, Event, EventPayload, Gathered, Incoming, Loops, Response, Server, Socket,
    Sockets, Stats, Uuid,
};
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod tests;

const PAGE: &str = include_str!("page.html");
/// The longest name of a person or room, in characters.
const MAX_NAME: usize = 30;
/// The longest message, in characters.
const MAX_TEXT: usize = 2000;

/// The state of one loop. No other loop touches it.
struct Chat {
    /// The only part that loops share.
    rooms: Arc<Mutex<Rooms>>,
    /// How many are online: the number that the clients of this loop have.
    online: usize,
}

/// The people of each room, on whatever loop they are.
///
/// Each change is entered here, and published after that, with its number. Messages of different
/// loops have no order between them: a newcomer may get its list first and older changes later. By
/// their numbers it knows that the list has them. All changes about one person come from one loop,
/// and these stay in order.
///
/// The lock is held to read or to change the table, never to send.
#[derive(Default)]
struct Rooms {
    changes: u64,
    people: HashMap<String, BTreeMap<Uuid, Person>>,
}

#[derive(Clone, Serialize)]
struct Person {
    id: String,
    name: String,
    #[serde(rename = "loop")]
    on: usize,
}

/// An attribute of each connection.
#[derive(Clone)]
struct Place {
    room: String,
    person: Person,
}

#[derive(Deserialize)]
struct Words {
    to: Option<String>,
    text: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut address = "127.0.0.1:3000".to_owned();
    let mut count = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => address = word.string()?,
            Long("loops") => count = arguments.value()?.parse()?,
            Short('h') | Long("help") => {
                println!("loops [ADDR] [--loops N]");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }

    let rooms = Arc::new(Mutex::new(Rooms::default()));
    let running = Loops::new(count)
        .listen(&address)?
        .start(move |_, builder| server(builder, Chat { rooms: rooms.clone(), online: 0 }))?;
    for address in running.local_addrs() {
        println!("listening on {address}");
    }
    println!("loops: {count}");
    common::join_or_interrupt(running)
}

/// The server of one loop. It is built on the loop's own thread.
fn server(builder: Builder, chat: Chat) -> Result<Server<Chat>, Box<dyn Error>> {
    let mut server = builder.build(chat)?;
    server.route("/ws", enter)?;
    server.on(Event::Message, on_message);
    server.on(Event::Disconnect, leave);
    server.on_bus(on_bus);
    server.set_interval(Duration::from_secs(1), |_, sockets| {
        sockets.everywhere().count(show_online);
    });
    let text =
        PAGE.replace("MAX_NAME", &MAX_NAME.to_string()).replace("MAX_TEXT", &MAX_TEXT.to_string());
    server.get("/", move |_, _, _| page(&text))?;
    server.get("/metrics", |_, _, _| "")?; // The filter answers.
    server.filter(answer_metrics);
    Ok(server)
}

/// The route's callback: a new client.
fn enter(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let [room, name] = [("room", "lobby"), ("name", "guest")]
        .map(|(key, default)| query_name(kws, key, default, MAX_NAME));
    // Before the list is made: from now on, changes arrive.
    if let Err(error) = kws.join(&room) {
        let _ = kws.close_with(1008, &error.to_string());
        return;
    }
    let (on, loops) = (kws.sockets().loop_index(), kws.sockets().loop_count());
    let person = Person { id: kws.uuid().to_string(), name, on };
    kws.set_attribute("place", Place { room: room.clone(), person: person.clone() });
    let (change, list) = chat.rooms().enter(&room, kws.uuid(), person.clone());
    kws.emit(json!({ "you": person, "loops": loops, "online": chat.online }).to_string());
    kws.emit(list.to_string());

    let joined = json!({ "joined": person, "change": change }).to_string();
    kws.everywhere().publish(&room, joined); // to all but this one
}

fn leave(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
    let Some(Place { room, person }) = place(&ep.kws) else { return };
    let change = chat.rooms().leave(&room, ep.socket_uuid);
    let left = json!({ "left": person.id, "change": change }).to_string();
    ep.kws.everywhere().publish(&room, left);
}

fn on_message(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
    let words = ep.data.as_str().and_then(|text| serde_json::from_str::<Words>(text).ok());
    let (Some(Words { to, mut text }), Some(Place { room, person })) = (words, place(&ep.kws))
    else {
        return;
    };
    cut(&mut text, MAX_TEXT);
    let message = json!({ "from": person, "to": to, "text": text }).to_string();
    let delivered = match &to {
        None => ep.kws.everywhere().publish_all(&room, message).is_complete(),
        Some(to) => {
            let to = to.parse().ok().filter(|&to| chat.rooms().has(&room, to));
            // If that person is on another loop, success means that the message is on its way.
            let sent = to.map(|to| ep.kws.everywhere().emit_to(to, &*message));
            let delivered = matches!(sent, Some(Ok(_)));
            if delivered && to != Some(ep.socket_uuid) {
                ep.kws.emit(message);
            }
            delivered
        }
    };
    if !delivered {
        ep.kws.emit(json!({ "undelivered": text }).to_string());
    }
}

/// This loop was too far behind, and other loops could not queue all that they had for it. The
/// shared table still has the truth, so its clients get the list again.
fn on_bus(chat: &mut Chat, sockets: &mut Sockets<'_, Chat>, event: &BusEvent) {
    let BusEvent::Gap { lost: Some(lost), .. } = event else { return };
    let rooms: Vec<_> = sockets.topics().map(|(room, _)| room.to_owned()).collect();
    for room in rooms {
        let list = chat.rooms().list(&room);
        sockets.publish(&room, list.to_string());
    }
    sockets.broadcast(json!({ "missing": lost }).to_string());
}

/// All loops have answered how many connections they have.
fn show_online(chat: &mut Chat, sockets: &mut Sockets<'_, Chat>, online: Gathered<usize>) {
    if online.is_complete() && online.value != chat.online {
        chat.online = online.value;
        sockets.broadcast(json!({ "online": chat.online }).to_string());
    }
}

/// Other loops answer in one of the next turns. Until then the request waits.
fn answer_metrics(
    _: &mut Chat,
    sockets: &mut Sockets<'_, Chat>,
    incoming: &mut Incoming,
) -> Result<(), Response> {
    if incoming.path() == "/metrics" {
        let request = sockets.defer(incoming);
        sockets.everywhere().stats(move |_, _, figures| {
            let page = Stats::loops_to_prometheus(&figures.value);
            let _ = request.respond(page); // The client may have left.
        });
    }
    Ok(())
}

fn place(kws: &Socket<'_, Chat>) -> Option<Place> {
    kws.attribute("place").cloned()
}

impl Chat {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Returns the number of the change, and the list.
    fn enter(&mut self, room: &str, uuid: Uuid, person: Person) -> (u64, Json) {
        self.changes += 1;
        self.people.entry(room.to_owned()).or_default().insert(uuid, person);
        (self.changes, self.list(room))
    }

    /// Returns the number of the change.
    fn leave(&mut self, room: &str, uuid: Uuid) -> u64 {
        self.changes += 1;
        if let Some(people) = self.people.get_mut(room) {
            people.remove(&uuid);
            if people.is_empty() {
                self.people.remove(room);
            }
        }
        self.changes
    }

    fn has(&self, room: &str, uuid: Uuid) -> bool {
        self.people.get(room).is_some_and(|people| people.contains_key(&uuid))
    }

    fn list(&self, room: &str) -> Json {
        let people: Vec<_> = self.people.get(room).into_iter().flat_map(BTreeMap::values).collect();
        json!({ "here": people, "change": self.changes })
    }
}
