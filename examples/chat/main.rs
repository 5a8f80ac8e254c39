//! A chat: the Go library's own example, message for message, and a web page at `/` for the same
//! room.
//!
//! `cargo run --example chat [ADDR]`, then open <http://127.0.0.1:3000> in two tabs.
//!
//! A plain client connects to `/ws/<name>`. It gets `Hello user: …` and, of everybody who comes
//! later, `New user connected: …`; it sends `{"from","to","event","data"}` and whoever is called
//! `to` gets these very bytes. `from` is what the sender claims.
//!
//! A client that asks for the subprotocol `chat-page` gets the same two lines (the page skips them:
//! they are no JSON) and beside them:
//!
//! | from the server | meaning |
//! |---|---|
//! | `{"you": name, "here": [name…]}` | welcome: this is you, and these are here, you included |
//! | `{"joined": name}`, `{"left": name}` | somebody came or went, perhaps a plain client |
//! | `{"from","to","event","data"}` | a message to you, or your own come back because it was delivered. Here `from` is true: the server says it |
//! | `{"undelivered": name}` | your message did not reach this name: most often because nobody has it |
//!
//! It sends `{"to","data"}`. An empty `to` is everybody (nobody's name is empty): pages see it as
//! it is, a plain client gets an ordinary message with its own name in `to`, so it never meets
//! anything that the Go example could not have sent.
//!
//! Who comes under a name that is taken has it from then on. A plain client that lost its name
//! stays, as in Go; a page is closed with 4000.

use std::collections::BTreeMap;
use std::error::Error;

use ikisocket::{
    Event, EventPayload, HeaderError, Response, RouteOptions, Server, Socket, Sockets, Uuid,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;

const PAGE: &str = include_str!("page.html");
const PAGE_PROTOCOL: &str = "chat-page";
/// The close code for a page whose name somebody else took.
const NAME_TAKEN: u16 = 4000;

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
    let address = server.listen(common::address("127.0.0.1:3000"))?;
    println!("listening on {address}");
    common::run_until_interrupted(&mut server)
}

/// The route's callback: somebody new.
fn join(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let id = kws.param("id").unwrap_or_default().to_owned();
    let before = chat.clients.insert(id.clone(), kws.uuid());
    kws.set_attribute("user_id", id.clone());
    kws.broadcast(format!("New user connected: {id} and UUID: {}", kws.uuid()));
    kws.emit(format!("Hello user: {id} with UUID: {}", kws.uuid()));

    if is_page(kws) {
        let here: Vec<_> = chat.clients.keys().collect();
        kws.emit(json!({ "you": id, "here": here }).to_string());
    }
    let Some(before) = before else {
        return tell_pages(&mut kws.sockets(), &json!({ "joined": id }).to_string());
    };
    if let Some(mut before) = kws.sockets().get(before)
        && is_page(&before)
    {
        let _ = before.close_with(NAME_TAKEN, "your name is used by another connection now");
    }
}

/// Forgets a connection's name, unless somebody else has it by now.
fn leave(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
    let id = name(kws).to_owned();
    if chat.clients.get(&id) == Some(&kws.uuid()) {
        chat.clients.remove(&id);
        tell_pages(&mut kws.sockets(), &json!({ "left": id }).to_string());
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
        return tell_everybody(chat, &mut ep.kws.sockets(), message);
    }
    // The nil uuid is nobody's: the emit fails and an `error` event follows, as in Go.
    let to = chat.clients.get(&message.to).copied().unwrap_or_default();
    if from_page || ep.kws.sockets().get(to).is_some_and(|to| is_page(&to)) {
        message.from = name(&ep.kws).to_owned();
        text = message.to_json().into();
    }
    match ep.kws.emit_to(to, &*text) {
        // What comes back to a page was delivered.
        Ok(_) if from_page && to != ep.socket_uuid => _ = ep.kws.emit(&*text),
        Ok(_) => {}
        Err(error) => {
            say(error.to_string());
            if from_page {
                ep.kws.emit(json!({ "undelivered": message.to }).to_string());
            }
        }
    }
}

/// A page's message to all: one text for the pages, an ordinary message for each plain client.
fn tell_everybody(chat: &Chat, sockets: &mut Sockets<'_, Chat>, mut message: Message) {
    tell_pages(sockets, &message.to_json());
    for (id, &uuid) in &chat.clients {
        if let Some(mut client) = sockets.get(uuid)
            && !is_page(&client)
        {
            message.to.clone_from(id);
            client.emit(message.to_json());
        }
    }
}

fn tell_pages(sockets: &mut Sockets<'_, Chat>, text: &str) {
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

/// Prints a line. What clients have a say in must not move the terminal's cursor.
fn say(line: String) {
    println!("{}", line.replace(char::is_control, "\u{FFFD}"));
}

/// The page, with scripts and styles that only it can contain: whatever a message smuggles in has
/// not the nonce.
fn page() -> Result<Response, HeaderError> {
    let nonce = Uuid::new_v4().simple();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Response::html(PAGE.replace("NONCE", &nonce.to_string()))
        .with_header("Content-Security-Policy", policy)?
        .with_header("X-Content-Type-Options", "nosniff")?
        .with_header("Referrer-Policy", "no-referrer")?
        .with_header("Cache-Control", "no-store")
}
