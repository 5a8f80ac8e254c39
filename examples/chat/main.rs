//! A chat: the Go library's own example, message for message, and a web page at `/` for the same
//! room.
//!
//! `cargo run --example chat [ADDR]`, then open <http://127.0.0.1:3000> in two tabs. Over TLS:
//! `cargo run --release --features tls --example chat -- --tls CERT KEY`, and
//! <https://localhost:3000>. `--help` says how to make a certificate for that.
//!
//! A plain client connects to `/ws/<name>`. It gets `Hello user: …`, and `New user connected: …`
//! for each client that comes later. It sends `{"from","to","event","data"}`, and the client called
//! `to` gets these very bytes. `from` is what the sender claims.
//!
//! A client that asks for the subprotocol `chat-page` gets the same lines, which the page skips
//! because they are no JSON. It gets JSON, too:
//!
//! | from the server | meaning |
//! |---|---|
//! | `{"you": name, "here": [name…]}` | welcome: this is you, and these are here, you included |
//! | `{"joined": name}`, `{"left": name}` | a person came or went, with a page or a plain client |
//! | `{"from","to","event","data"}` | a message to you, or your own, which comes back because it was delivered. Here `from` is true: the server says it |
//! | `{"undelivered": name}` | your message did not reach this name: most often no client has it |
//!
//! It sends `{"to","data"}`. An empty `to` means all clients, because no client has the empty name.
//! Pages get such a message as it is. A plain client gets an ordinary message with its own name in
//! `to`, so it gets no message that the Go example could not have sent.
//!
//! A page has to show what others send. So the server cuts a name to `MAX_NAME` characters, and a
//! message to a page to `MAX_WORDS`. A line says so to the client that sent it, and is the only one
//! that the Go example does not have. A page sees it in its own message to all, which comes back.
//!
//! The last client that comes under a name has it. A plain client that lost its name stays, as in
//! Go; a page is closed with 4000.

use std::collections::BTreeMap;
use std::error::Error;

use common::certificate::{self, Certificate};
use common::page::cut;
use ikisocket::{
    Event, EventPayload, HeaderError, Response, RouteOptions, Server, Socket, Sockets, Uuid,
};
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;

const PAGE: &str = include_str!("page.html");
const PAGE_PROTOCOL: &str = "chat-page";
/// The close code for a page whose name another client took.
const NAME_TAKEN: u16 = 4000;
/// The longest name, in characters.
const MAX_NAME: usize = 40;
/// The longest message to a page, in characters.
const MAX_WORDS: usize = 4000;

#[derive(Default)]
struct Chat {
    /// Who has which name now.
    clients: BTreeMap<String, Uuid>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct Message {
    from: String,
    to: String,
    event: String,
    data: String,
}

impl Message {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings can always be written")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut address = "127.0.0.1:3000".to_owned();
    let mut certificate = Certificate::none();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => address = word.string()?,
            Long("tls") => {
                let [chain, key] = [arguments.value()?.string()?, arguments.value()?.string()?];
                certificate = Certificate::read(chain, key)?;
            }
            Short('h') | Long("help") => {
                println!("chat [ADDR] [--tls CERT KEY]\n\n{}", certificate::HELP);
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }

    let mut server = Server::builder().build(Chat::default())?;
    server.on(Event::Connect, |_, ep| say(format!("Connection event 1 - User: {}", name(&ep.kws))));
    server.on("CUSTOM_EVENT", |_, ep| say(format!("Custom event - User: {}", name(&ep.kws))));
    server.on(Event::Message, on_message);
    server.on(Event::Disconnect, |chat, ep| {
        leave(chat, &mut ep.kws);
        say(format!("Disconnection event - User: {}", name(&ep.kws)));
    });
    server.on(Event::Close, |chat, ep| {
        leave(chat, &mut ep.kws);
        say(format!("Close event - User: {}", name(&ep.kws)));
    });
    server.on(Event::Error, |_, ep| say(format!("Error event - User: {}", name(&ep.kws))));
    let options = RouteOptions::default().subprotocols([PAGE_PROTOCOL]);
    server.route_with("/ws/:id", options, join)?;
    server.get("/", |_, _, _| page())?;
    server.get("/healthz", |_, _, _| "ok")?;
    let address = certificate.listen(&mut server, &address)?;
    println!("listening on {address}");
    common::run_with_certificate(&mut server, &certificate)
}

/// The route's callback: a new client.
fn join(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let mut id = kws.param("id").unwrap_or_default().to_owned();
    let was_cut = cut(&mut id, MAX_NAME);
    let before = chat.clients.insert(id.clone(), kws.uuid());
    kws.set_attribute("user_id", id.clone());
    kws.broadcast(format!("New user connected: {id} and UUID: {}", kws.uuid()));
    kws.emit(format!("Hello user: {id} with UUID: {}", kws.uuid()));
    if was_cut {
        kws.emit(format!("Your name was too long, it is now: {id} ({MAX_NAME} characters)"));
    }

    if is_page(kws) {
        let here: Vec<_> = chat.clients.keys().collect();
        kws.emit(json!({ "you": id, "here": here }).to_string());
    }
    let Some(before) = before else {
        return send_to_pages(&mut kws.sockets(), &json!({ "joined": id }).to_string());
    };
    if let Some(mut before) = kws.sockets().get(before)
        && is_page(&before)
    {
        let _ = before.close_with(NAME_TAKEN, "your name is used by another connection now");
    }
}

/// Forgets a connection's name, unless another connection has it by now.
fn leave(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let id = name(kws).to_owned();
    if chat.clients.get(&id) == Some(&kws.uuid()) {
        chat.clients.remove(&id);
        send_to_pages(&mut kws.sockets(), &json!({ "left": id }).to_string());
    }
}

fn on_message(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
    let mut text = String::from_utf8_lossy(&ep.data);
    say(format!("Message event - User: {} - Message: {text}", name(&ep.kws)));
    let mut message: Message = match serde_json::from_str(&text) {
        Ok(message) => message,
        Err(error) => return say(error.to_string()),
    };
    if !message.event.is_empty() {
        ep.kws.fire(chat, &message.event, &message.data);
    }

    let from_page = is_page(&ep.kws);
    if from_page && message.to.is_empty() {
        message.from = name(&ep.kws).to_owned();
        cut(&mut message.data, MAX_WORDS);
        return send_to_all(chat, &mut ep.kws.sockets(), message);
    }
    // No connection has the nil uuid: the emit fails and an `error` event follows, as in Go.
    let to = chat.clients.get(&message.to).copied().unwrap_or_default();
    let to_page = ep.kws.sockets().get(to).is_some_and(|to| is_page(&to));
    let was_cut = to_page && cut(&mut message.data, MAX_WORDS);
    if from_page || to_page {
        message.from = name(&ep.kws).to_owned();
        text = message.to_json().into();
    }
    match ep.kws.emit_to(to, &*text) {
        Ok(_) => {
            // What comes back to a page was delivered.
            if from_page && to != ep.socket_uuid {
                ep.kws.emit(&*text);
            }
            if was_cut {
                let to = &message.to;
                ep.kws
                    .emit(format!("Your message to {to} was cut: it gets {MAX_WORDS} characters"));
            }
        }
        Err(error) => {
            say(error.to_string());
            if from_page {
                ep.kws.emit(json!({ "undelivered": message.to }).to_string());
            }
        }
    }
}

/// A page's message to all: one text for the pages, an ordinary message for each plain client.
fn send_to_all(chat: &Chat, sockets: &mut Sockets<'_, Chat>, mut message: Message) {
    send_to_pages(sockets, &message.to_json());
    for (id, &uuid) in &chat.clients {
        if let Some(mut client) = sockets.get(uuid)
            && !is_page(&client)
        {
            message.to.clone_from(id);
            client.emit(message.to_json());
        }
    }
}

fn send_to_pages(sockets: &mut Sockets<'_, Chat>, text: &str) {
    sockets.for_each(|each| {
        if is_page(each) {
            each.emit(text);
        }
    });
}

fn is_page(kws: &Socket<'_, Chat>) -> bool {
    kws.subprotocol() == Some(PAGE_PROTOCOL)
}

fn name<'k>(kws: &'k Socket<'_, Chat>) -> &'k str {
    kws.string_attribute("user_id").unwrap_or_default()
}

/// Prints a line. Names and messages must not move the terminal's cursor.
fn say(line: String) {
    println!("{}", line.replace(char::is_control, "\u{FFFD}"));
}

/// The page.
///
/// `maxlength` counts UTF-16 units, and each character has one or two. So the server cuts nothing
/// that was typed into the page.
fn page() -> Result<Response, HeaderError> {
    let page = PAGE
        .replace("MAX_NAME", &MAX_NAME.to_string())
        .replace("MAX_WORDS", &MAX_WORDS.to_string());
    common::page::page(&page)
}
