//! Floods of frames that cost work and carry no data: pings and fragments.

use ikisocket::{Builder, Server};
use socket2::SockRef;

use crate::kit::*;

/// An echo server that logs nothing, with a small send buffer for each connection.
fn quiet_echo(settings: Builder) -> Server<()> {
    let mut server = settings.build(()).unwrap();
    listen(&mut server);
    server
        .route("/ws", |_, kws| {
            SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(4096).unwrap()
        })
        .unwrap();
    server.on("message", |_, ep| _ = ep.kws.emit(ep.data));
    server
}

#[test]
fn ping_floods_cost_one_pong_for_each_peer_and_delay_no_other() {
    const BUFFER: usize = 8 * 1024;
    let mut server = quiet_echo(Server::builder().receive_buffer(BUFFER));
    let mut flooders: Vec<_> = (0..5)
        .map(|_| Peer::connect_narrow(&mut server, 4096).upgrade(&mut server, "/ws"))
        .collect();
    let mut witness = Peer::open(&mut server, "/ws");
    let mut waited = 0;
    for round in 0..30 {
        for flooder in &mut flooders {
            flooder.send(&mut server, frame(PING, [7; 125]).repeat(200));
        }
        witness.send_at_once(&frame(TEXT, round.to_string()));
        let mut turns = 0;
        turn_until(&mut server, "the answer", |server| {
            turns += 1;
            server.sockets().for_each(|kws| waited = waited.max(kws.waiting_bytes()));
            witness.read_some(usize::MAX) > 0
        });
        witness.expect_text(&mut server, &round.to_string());
        assert!(turns < 10, "{turns} turns for one answer");
    }
    assert!(waited > 0, "no peer was blocked");
    // The pongs of the one read that filled the socket, and the latest. TLS has longer reads.
    let read = if over_tls() { 36 * 1024 + 10 } else { BUFFER };
    assert!(waited <= read + 127, "{waited} bytes waited");
    assert_eq!(server.sockets().len(), 6, "it is no reason to be disconnected");
}

#[test]
fn a_message_of_65_537_fragments_is_accepted() {
    const FRAGMENTS: usize = 65_537;
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    let bytes: Vec<u8> = (0..FRAGMENTS).map(|at| (at % 251) as u8).collect();
    let mut message = fragment(BINARY, &bytes[..1]);
    for byte in &bytes[1..FRAGMENTS - 1] {
        message.extend(fragment(CONTINUATION, [*byte]));
    }
    message.extend(frame(CONTINUATION, &bytes[FRAGMENTS - 1..]));
    peer.send(&mut server, message);
    assert!(peer.frame(&mut server) == Frame::new(BINARY, bytes));
    assert_eq!(*server.state(), ["connect".to_owned(), format!("message {FRAGMENTS} bytes")]);
}

#[test]
fn empty_fragments_without_end_are_1008_after_a_thousand() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    let empty = fragment(CONTINUATION, "");
    // The answer to the ping shows that the server accepted everything before it.
    peer.send(
        &mut server,
        [fragment(TEXT, "a"), empty.repeat(1000), frame(PING, "alive")].concat(),
    );
    assert_eq!(peer.frame(&mut server), Frame::new(PONG, "alive"));
    let mut more = 0;
    turn_until(&mut server, "the end", |server| {
        peer.try_send(server, &empty);
        more += 1;
        peer.read_some(usize::MAX) > 0
    });
    assert!(more < 20, "{more} more were accepted");
    peer.try_send(&mut server, &empty.repeat(1000));
    peer.expect_close(&mut server, 1008);
    peer.part(&mut server);
    let told = "Protocol(TooManyEmptyFragments { limit: 1000 })";
    assert_eq!(server.state()[2..3], [format!("error {told}")]);
    assert!(server.state()[3].starts_with(&format!("disconnect {told} 1008")));
    assert_eq!(server.state().len(), 4, "{:?}", server.state());
}
