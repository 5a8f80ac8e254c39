//! The public API as the manual shows it.
#![allow(clippy::collapsible_if)] // written as the manual shows it
use std::collections::HashMap;
use std::time::Duration;

use ikisocket::{Event, Server, Uuid};

#[derive(Default)]
struct Chat {
    users: HashMap<String, Uuid>,
    motto: String,
}

impl Chat {
    fn tick(&mut self) {
        self.motto.push('!');
    }
}

#[test]
fn the_sketch_compiles_and_turns() -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::bind("127.0.0.1:0", Chat::default())?;
    server.on(Event::Connect, |chat, ep| {
        println!("{:?} is the {}th", ep.kws.string_attribute("user_id"), chat.users.len())
    });
    server.on("CUSTOM_EVENT", |_chat, ep| {
        let _ = (ep.name, ep.data, &ep.kws);
    });
    server.on(Event::Message, |chat, ep| {
        ep.kws.emit(&chat.motto);
        ep.kws.fire(chat, "CUSTOM_EVENT", ep.data);
        if let Some(&to) = chat.users.get("bob") {
            if let Err(error) = ep.kws.emit_to(to, ep.data) {
                println!("{error}");
            }
        }
        for &id in chat.users.values() {
            if let Some(mut other) = ep.kws.sockets().get(id) {
                other.set_attribute("seen", 1);
            }
        }
    });
    server.route("/ws/:id", |chat, kws| {
        let id = kws.param("id").unwrap_or_default().to_owned();
        chat.users.insert(id.clone(), kws.uuid());
        kws.set_attribute("user_id", id.clone());
        kws.broadcast(format!("New user connected: {id} and UUID: {}", kws.uuid()));
        kws.emit(format!("Hello user: {id} with UUID: {}", kws.uuid()));
    })?;

    for _ in 0..3 {
        server.poll(Some(Duration::from_millis(1)))?;
        let (chat, mut sockets) = server.lend();
        chat.tick();
        sockets.broadcast(&chat.motto);
    }
    assert_eq!(server.state().motto, "!!!");
    Ok(())
}
