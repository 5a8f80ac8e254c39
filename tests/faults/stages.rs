//! FIN, RST and silence at every stage of a connection: it ends once, its events fire once and with
//! the right reason, and no other connection is disturbed.

use std::time::{Duration, Instant};

use ikisocket::{Builder, Event, Server};
use socket2::SockRef;

use crate::kit::*;

/// How long a peer may be silent in each stage except an open one.
const TIMEOUT: Duration = Duration::from_millis(40);
/// The sum of both is how long an open connection may be silent.
const PING_AFTER: Duration = Duration::from_millis(20);
const DEAD_AFTER: Duration = Duration::from_millis(30);

/// A stage of a connection, and the events that fire on the way there and at its end.
pub struct Stage {
    pub name: &'static str,
    /// Brings a new connection there.
    pub enter: fn(&mut Server<Log>) -> Peer,
    /// The events that fired on the way.
    so_far: &'static [&'static str],
    /// The beginnings of the events' lines when the peer ends the connection with FIN,
    fin: &'static [&'static str],
    /// with RST,
    reset: &'static [&'static str],
    /// or never sends or takes anything again.
    silence: &'static [&'static str],
    /// The silent peer then fails with the stall timeout, not with the silence.
    stuck: bool,
}

const NOTHING: &[&str] = &[];
const CONNECT: &[&str] = &["connect"];
const TALKED: &[&str] = &["connect", "message \"before\""];
const LOST: &[&str] = &["error Lost", "disconnect Lost"];
const RESET: &[&str] =
    &["error Io(Connection reset by peer", "disconnect Io(Connection reset by peer"];
const SILENT: &[&str] = &["error Silent(50ms)", "disconnect Silent(50ms)"];
const UNCLEAN: &[&str] = &["disconnect 1000 \"Connection closed\""];

impl Stage {
    /// No event of the connection has fired yet, or all have fired already.
    const fn without_events(
        name: &'static str,
        so_far: &'static [&'static str],
        enter: fn(&mut Server<Log>) -> Peer,
    ) -> Self {
        Self { name, enter, so_far, fin: NOTHING, reset: NOTHING, silence: NOTHING, stuck: false }
    }

    const fn open(
        name: &'static str,
        so_far: &'static [&'static str],
        enter: fn(&mut Server<Log>) -> Peer,
    ) -> Self {
        Self { name, enter, so_far, fin: LOST, reset: RESET, silence: SILENT, stuck: false }
    }
}

pub const STAGES: [Stage; 17] = [
    Stage::without_events("before it is accepted", NOTHING, Peer::connect),
    Stage::without_events("before the head", NOTHING, |server| begun(server, "")),
    Stage::without_events("in the head", NOTHING, |server| {
        begun(server, &upgrade("/ws", "")[..50])
    }),
    Stage::without_events("at the last byte of the head", NOTHING, |server| {
        let head = upgrade("/ws", "");
        begun(server, &head[..head.len() - 1])
    }),
    Stage::without_events("refused, before the refusal is read", NOTHING, |server| {
        begun(server, &upgrade("/nothing", ""))
    }),
    Stage::open("behind the head, before the 101 is read", CONNECT, |server| {
        let mut peer = Peer::connect(server);
        peer.send(server, upgrade("/ws", ""));
        turn_until_logged(server, "connect", 1);
        peer
    }),
    Stage::open("open", CONNECT, |server| Peer::open(server, "/ws")),
    Stage::open("in a frame's header", TALKED, |server| talking(server, &[0x81])),
    Stage::open("in a frame's payload", TALKED, |server| {
        talking(server, &raw(FIN | TEXT, 100, b"half"))
    }),
    Stage::open("in a control frame", TALKED, |server| {
        talking(server, &raw(FIN | PING, 9, b"half"))
    }),
    Stage::open("between two fragments", TALKED, |server| talking(server, &fragment(TEXT, "half"))),
    Stage::open("in the second fragment", TALKED, |server| {
        talking(server, &[fragment(TEXT, "half"), raw(CONTINUATION, 100, b"of it")].concat())
    }),
    Stage {
        silence: &["error Stalled(40ms)", "disconnect Stalled(40ms)"],
        stuck: true,
        ..Stage::open("open, while messages wait", &["connect", "message \"much\""], |server| {
            let peer = asking(server, "much");
            let mut waiting = 0;
            server.sockets().for_each(|kws| waiting += kws.waiting_bytes());
            assert!(waiting > 0, "nothing waits");
            peer
        })
    },
    Stage {
        fin: UNCLEAN,
        reset: UNCLEAN,
        silence: UNCLEAN,
        ..Stage::without_events(
            "closing",
            &["connect", "message \"close\"", "close 1000 \"Connection closed\""],
            |server| asking(server, "close"),
        )
    },
    Stage {
        fin: UNCLEAN,
        reset: UNCLEAN,
        silence: &["error Stalled(40ms)", "disconnect Stalled(40ms) 1000 \"Connection closed\""],
        stuck: true,
        ..Stage::without_events(
            "closing, while messages wait",
            &["connect", "message \"much, and close\"", "close 1000 \"Connection closed\""],
            |server| asking(server, "much, and close"),
        )
    },
    Stage::without_events(
        "draining behind its own close",
        &["connect", "disconnect 1000 \"\" clean"],
        |server| {
            let mut peer = Peer::open(server, "/ws");
            peer.send(server, close(1000, ""));
            turn_until_logged(server, "disconnect", 1);
            peer
        },
    ),
    Stage::without_events(
        "draining behind a violation",
        &["connect", "error Protocol(Unmasked)", "disconnect Protocol(Unmasked) 1002"],
        |server| {
            let mut peer = Peer::open(server, "/ws");
            peer.send(server, [0x81, 0]);
            turn_until_logged(server, "disconnect", 1);
            peer
        },
    ),
];

/// A connection that has been accepted and has sent this.
fn begun(server: &mut Server<Log>, bytes: &str) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(server, bytes);
    turn(server);
    peer
}

/// An open connection that has sent a message and then this, in one piece: when the message has
/// come back, so has the rest come in.
fn talking(server: &mut Server<Log>, bytes: &[u8]) -> Peer {
    let mut peer = Peer::open(server, "/ws");
    peer.send_at_once(&[&frame(TEXT, "before"), bytes].concat());
    peer.expect_text(server, "before");
    peer
}

/// An open connection with little room in the system's buffers that has asked for this.
fn asking(server: &mut Server<Log>, what: &str) -> Peer {
    let mut peer = Peer::connect_narrow(server, 4096).upgrade(server, "/ws");
    peer.send(server, frame(TEXT, what));
    turn_until_logged(server, "message", 1);
    peer
}

/// An echo server that also does what some messages ask for.
pub fn obliging(settings: Builder) -> Server<Log> {
    let mut server = server(settings);
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |_, ep| {
        let text = ep.data.as_str().unwrap_or_default();
        if ["much", "much, and close"].contains(&text) {
            SockRef::from(&ep.kws.transport().fd().unwrap()).set_send_buffer_size(4096).unwrap();
            for number in 0..60 {
                ep.kws.emit(vec![number; 10_000]);
            }
        }
        if ["close", "much, and close"].contains(&text) {
            ep.kws.close();
        }
        if text != "much" {
            ep.kws.emit(ep.data);
        }
    });
    server
}

/// Turns the loop until it has removed one connection. `peer` reads everything that comes.
pub fn turn_until_let_go(
    server: &mut Server<Log>,
    mut peer: Option<&mut Peer>,
    mut meanwhile: impl FnMut(),
) {
    let (mut closed, started) = (0, Instant::now());
    while closed == 0 {
        assert!(started.elapsed() < PATIENCE, "waited in vain for the end of one connection");
        meanwhile();
        if let Some(peer) = &mut peer {
            peer.read_some(usize::MAX);
        }
        closed = server.poll(Some(Duration::from_millis(1))).unwrap().closed;
    }
    assert_eq!(closed, 1);
}

/// Asserts that the connection which stayed open is served.
pub fn assert_served(server: &mut Server<Log>, witness: &mut Peer, text: &str) {
    witness.send(server, frame(TEXT, text));
    turn_until(server, "the answer", |_| {
        witness.read_some(usize::MAX);
        witness.frames().contains(&Frame::text(text))
    });
}

/// Asserts which events fired, except the pongs of the connection which stayed open.
fn assert_fired(server: &mut Server<Log>, name: &str, expected: &[&[&str]]) {
    let expected = expected.concat();
    server.state_mut().retain(|line| line != "pong");
    let fired = server.state();
    let same = fired.len() == expected.len()
        && fired.iter().zip(&expected).all(|(fired, line)| fired.starts_with(line));
    assert!(same, "{name}: {fired:#?} fired instead of {expected:#?}");
    let clean = fired
        .iter()
        .zip(&expected)
        .all(|(fired, line)| fired.ends_with("clean") == line.ends_with("clean"));
    assert!(clean, "{name}: {fired:#?}");
}

#[test]
fn a_fin_at_any_stage_fires_once_and_everything_before_it_arrives() {
    let mut server = obliging(Server::builder());
    let mut witness = Peer::open(&mut server, "/ws");
    for stage in STAGES {
        server.state_mut().clear();
        let mut peer = (stage.enter)(&mut server);
        peer.finish();
        turn_until_let_go(&mut server, Some(&mut peer), || {});
        assert_eq!(peer.end(&mut server), End::Fin, "{}", stage.name);
        assert_fired(&mut server, stage.name, &[stage.so_far, stage.fin]);
        assert_eq!(server.sockets().len(), 1, "{}", stage.name);
        assert_served(&mut server, &mut witness, stage.name);
    }
}

#[test]
fn a_reset_at_any_stage_fires_once_and_disturbs_no_other_connection() {
    let mut server = obliging(Server::builder());
    let mut witness = Peer::open(&mut server, "/ws");
    for stage in STAGES {
        server.state_mut().clear();
        let peer = (stage.enter)(&mut server);
        peer.reset();
        turn_until_let_go(&mut server, None, || {});
        assert_fired(&mut server, stage.name, &[stage.so_far, stage.reset]);
        assert_eq!(server.sockets().len(), 1, "{}", stage.name);
        assert_served(&mut server, &mut witness, stage.name);
    }
}

/// A half-open peer: its machine vanished, and the server gets no sign of that.
#[test]
fn a_peer_that_vanishes_at_any_stage_is_removed_at_that_stages_timeout() {
    for stage in STAGES {
        let settings = Server::builder()
            .handshake_timeout(TIMEOUT)
            .close_timeout(TIMEOUT)
            .stall_timeout(TIMEOUT);
        let settings = match stage.stuck {
            true => settings.ping_after(Duration::MAX),
            false => settings.ping_after(PING_AFTER).dead_after(DEAD_AFTER),
        };
        let mut server = obliging(settings);
        let mut witness = Peer::open(&mut server, "/ws");
        server.state_mut().clear();
        let mut peer = (stage.enter)(&mut server);
        turn_until_let_go(&mut server, None, || witness.send_at_once(&frame(PONG, "")));
        assert_fired(&mut server, stage.name, &[stage.so_far, stage.silence]);
        assert_eq!(server.sockets().len(), 1, "{}", stage.name);
        assert_served(&mut server, &mut witness, stage.name);
        // A peer that has sent a part of its request reads what was wrong.
        peer.read_some(usize::MAX);
        let late = peer.received().starts_with(b"HTTP/1.1 408 ");
        assert_eq!(
            late,
            ["in the head", "at the last byte of the head"].contains(&stage.name),
            "{}",
            stage.name
        );
    }
}
