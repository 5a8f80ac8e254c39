//! Every verb and every event once through the whole stack: TCP, the system's poll, and tungstenite
//! as the client. Their other promises have tests without sockets, in files of their own.

mod common;

use common::{Client, Diary, enter, name_of, server, server_with, turn_until, with_socket};
use ikisocket::{Error, Event, Latest, Response, Server, Uuid};
use tungstenite::Message;

fn connect<const N: usize>(server: &mut Server<Diary>, names: [&str; N]) -> [Client; N] {
    names.map(|name| Client::connect(server, &format!("/{name}")))
}

// Verbs.

#[test]
fn every_kind_of_emit_arrives() {
    let mut server = server();
    let [mut ann] = connect(&mut server, ["ann"]);
    let large = "large".repeat(10_000);
    with_socket(&mut server, "ann", |kws| {
        kws.emit("täxt");
        kws.emit(b"bytes");
        kws.emit_text("text");
        kws.emit_binary("binary");
        kws.emit(&large);
        kws.emit_latest(1, "latest");
        kws.ping("ping").ok().unwrap();
    });
    for expected in [
        Message::text("täxt"),
        Message::binary("bytes"),
        Message::text("text"),
        Message::binary("binary"),
        Message::text(large),
        Message::text("latest"),
        Message::Ping(b"ping"[..].into()),
    ] {
        assert_eq!(ann.next(&mut server), expected);
    }
}

#[test]
fn every_way_to_reach_others_reaches_them() {
    let mut server = server();
    server.on(Event::Message, |diary, ep| {
        let [ann, bob] = ["ann", "bob"].map(|name| diary.id(name));
        ep.kws.emit_to(bob, "emit_to").unwrap();
        assert_eq!(ep.kws.emit_to_list(&[bob, ann], "emit_to_list"), 2);
        assert_eq!(ep.kws.broadcast("broadcast"), 2);
        assert_eq!(ep.kws.broadcast_all(Latest(1, "broadcast_all")), 3);
        assert_eq!(ep.kws.publish("topic", "publish"), 1);
        assert_eq!(ep.kws.publish_all("topic", "publish_all"), 2);
    });
    let [mut ann, mut bob, mut cid] = connect(&mut server, ["ann", "bob", "cid"]);
    for name in ["ann", "bob"] {
        with_socket(&mut server, name, |kws| kws.join("topic").unwrap());
    }
    ann.send("go");
    for expected in ["emit_to_list", "broadcast_all", "publish_all"] {
        assert_eq!(ann.text(&mut server), expected);
    }
    for expected in
        ["emit_to", "emit_to_list", "broadcast", "broadcast_all", "publish", "publish_all"]
    {
        assert_eq!(bob.text(&mut server), expected);
    }
    for expected in ["broadcast", "broadcast_all"] {
        assert_eq!(cid.text(&mut server), expected);
    }

    // The same from outside, a shared frame among it.
    let large = "large".repeat(10_000);
    let (diary, mut sockets) = server.lend();
    let [ann_id, bob_id] = ["ann", "bob"].map(|name| diary.id(name));
    sockets.emit_to(ann_id, "emit_to").unwrap();
    sockets.emit_to_list(&[ann_id, bob_id], "emit_to_list");
    sockets.publish("topic", "publish");
    sockets.broadcast(&large);
    for expected in ["emit_to", "emit_to_list", "publish", &large] {
        assert_eq!(ann.text(&mut server), expected);
    }
    for expected in ["emit_to_list", "publish", &large] {
        assert_eq!(bob.text(&mut server), expected);
    }
    assert_eq!(cid.text(&mut server), large);
}

#[test]
fn what_is_known_of_a_connection_comes_from_its_request_and_stays_with_it() {
    let mut server = server_with(Server::builder().subprotocols(["v2", "v1"]));
    server.get("/page", |_, sockets, _| Response::text(sockets.len().to_string())).unwrap();
    server.filter(|_, _, incoming| {
        incoming.attributes.set("user", incoming.cookie("user").unwrap_or_default().into_owned());
        Ok(())
    });
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        let user = ep.kws.string_attribute("user").unwrap().to_owned();
        let (name, room) = (name_of(&ep.kws), ep.kws.query("room").unwrap().into_owned());
        let known = format!("{name} {room} {user} {}", ep.kws.subprotocol().unwrap());
        assert_eq!(ep.kws.set_uuid(Uuid::from_u128(1)), Ok(()));
        ep.kws.emit(known);
    });
    let uri = format!("ws://{}/ann?room=a%20b", server.local_addr().unwrap()).parse().unwrap();
    let request = tungstenite::client::ClientRequestBuilder::new(uri);
    let request = request.with_header("Cookie", "user=ada").with_sub_protocol("v1");
    let mut ann = Client::request(&mut server, request).unwrap();
    ann.send("what am I?");
    assert_eq!(ann.text(&mut server), "ann a b ada v1");
    server.sockets().emit_to(Uuid::from_u128(1), "by the new uuid").unwrap();
    assert_eq!(ann.text(&mut server), "by the new uuid");
    assert_eq!(Client::refused(&mut server, "/no/where"), 404);
}

// Events.

#[test]
fn every_event_of_a_normal_connection_fires() {
    let mut server = server();
    server.on("own", |_, ep| {
        ep.kws.emit(format!("{} {}", ep.name, ep.data.as_str().unwrap()));
    });
    server.on(Event::Message, |diary, ep| {
        ep.kws.fire(diary, "own", "event");
        ep.kws.emit(ep.data);
    });
    let [mut ann] = connect(&mut server, ["ann"]);
    for message in [Message::text("täxt"), Message::binary(vec![0, 255])] {
        ann.send(message.clone());
        assert_eq!(ann.text(&mut server), "own event");
        assert_eq!(ann.next(&mut server), message);
    }
    ann.send(Message::Ping(b"ping"[..].into()));
    assert_eq!(ann.next(&mut server), Message::Pong(b"ping"[..].into()));
    with_socket(&mut server, "ann", |kws| kws.ping("pong")).ok().unwrap();
    assert_eq!(ann.next(&mut server), Message::Ping(b"pong"[..].into()));
    ann.ws.flush().unwrap();
    turn_until(&mut server, |server| server.state().has("ann", "pong"));
    assert_eq!(server.state().only("ann", "pong").data, "pong");

    with_socket(&mut server, "ann", |kws| kws.close_with(4000, "enough")).unwrap();
    assert_eq!(ann.close_frame(&mut server), (4000, "enough".to_owned()));
    ann.end(&mut server);
    let expected = ["connect", "message", "message", "ping", "pong", "close", "disconnect"];
    assert_eq!(server.state().events("ann"), expected);
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn a_peers_close_is_answered_and_fires_with_its_code_and_reason() {
    let mut server = server();
    let [mut ann, mut bob] = connect(&mut server, ["ann", "bob"]);
    ann.close(1000, "bye");
    assert_eq!(ann.close_frame(&mut server).0, 1000);
    ann.end(&mut server);
    let gone = server.state().only("ann", "disconnect");
    assert_eq!(
        (gone.error.clone(), gone.code, &*gone.reason, gone.clean),
        (None, Some(1000), "bye", true)
    );

    bob.close(4321, "out of tea");
    bob.end(&mut server);
    let error = Error::ClosedByPeer { code: 4321.into(), reason: "out of tea".to_owned() };
    assert_eq!(server.state().errors("bob"), [error]);
    assert_eq!(server.state().events("bob"), ["connect", "error", "disconnect"]);
}
