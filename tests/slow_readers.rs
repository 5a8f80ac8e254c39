//! Which messages a peer gets that reads more slowly than they are emitted, by policy.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{
    CLOSE, Client, Diary, Frames, PING, Raw, enter, frame, server_with, turn_for, turn_until,
    with_socket,
};
use ikisocket::protocol::{Decoded, Message, Role, Rules};
use ikisocket::{
    Builder, EmitError, Emitted, Error, Event, Latest, RouteOptions, Server, SlowReader, Socket,
};

const KIB: usize = 1024;
const LIMIT: usize = 64 * KIB;

/// A route callback that leaves the connection little room in the system's buffers, so that it is
/// full soon.
fn enter_narrow(diary: &mut Diary, kws: &mut Socket<'_, Diary>) {
    socket2::SockRef::from(&kws.transport().fd().unwrap()).set_send_buffer_size(8 * KIB).unwrap();
    enter(diary, kws);
}

fn server_of(settings: Builder) -> Server<Diary> {
    let mut server = server_with(settings.max_outbox(LIMIT));
    server.route("/:name", enter_narrow).unwrap();
    server
}

/// A client that reads when it is asked to.
struct Reader {
    raw: Raw,
    frames: Frames,
}

impl Reader {
    fn connect(server: &mut Server<Diary>, path: &str) -> Self {
        Self { raw: Raw::upgrade(server, path), frames: Frames::default() }
    }

    fn try_next(&mut self) -> Option<String> {
        let rules = Rules::default().role(Role::Client);
        self.frames.next(&self.raw, &rules, |decoded| match decoded {
            Decoded::Message(Message::Text(text)) => text.into_owned(),
            Decoded::Ping(_) => "ping".to_owned(),
            Decoded::Pong(_) => "pong".to_owned(),
            Decoded::Close(close) => {
                format!("close {}", close.map_or(1005, |close| close.code.into()))
            }
            other => panic!("{other:?}"),
        })
    }

    /// Reads until `last` comes.
    #[track_caller]
    fn read_to(&mut self, server: &mut Server<Diary>, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        turn_until(server, |_| {
            while let Some(next) = self.try_next() {
                all.push(next);
                if all.last().is_some_and(|came| came == last) {
                    return true;
                }
            }
            false
        });
        all
    }
}

/// A message of about a KiB that says its number.
fn numbered(number: usize) -> String {
    format!("{number:06}{}", "x".repeat(KIB))
}

fn number_of(message: &str) -> usize {
    message[..6].parse().unwrap()
}

/// Emits many more numbered messages than the socket and the outbox take together; returns their
/// number.
fn overwhelm(server: &mut Server<Diary>, name: &str) -> usize {
    let mut emitted = 0;
    let mut since_pressure = 0;
    while since_pressure < 1000 {
        let result = with_socket(server, name, |kws| kws.emit(numbered(emitted)));
        emitted += 1;
        since_pressure += usize::from(result != Emitted::Queued);
        let waiting = with_socket(server, name, |kws| kws.waiting_bytes());
        assert!(waiting <= LIMIT, "{waiting}");
        if emitted % 16 == 0 {
            server.flush();
        }
    }
    emitted
}

#[test]
fn drop_newest_refuses_what_has_no_room_and_keeps_what_waits() {
    let mut server = server_of(Server::builder().slow_reader(SlowReader::DropNewest));
    let mut ann = Reader::connect(&mut server, "/ann");
    let emitted = overwhelm(&mut server, "ann");
    assert_eq!(
        with_socket(&mut server, "ann", |ann| ann.emit(numbered(0))),
        Emitted::Refused(EmitError::Full)
    );
    let dropped = with_socket(&mut server, "ann", |ann| ann.dropped());
    assert_eq!((dropped.oldest, dropped.replaced), (0, 0));
    assert_eq!(server.sockets().dropped(), dropped);

    let kept = emitted + 1 - dropped.newest as usize;
    let numbers: Vec<_> = (0..kept)
        .map(|_| turn_for(&mut server, |_| ann.try_next()))
        .map(|m| number_of(&m))
        .collect();
    assert!(numbers.iter().copied().eq(0..kept), "the first ones, without a gap");
    assert_eq!(with_socket(&mut server, "ann", |ann| ann.emit("again")), Emitted::Queued);
    assert_eq!(ann.read_to(&mut server, "again"), ["again"]);
    assert_eq!(server.state().errors("ann"), []);
}

#[test]
fn drop_oldest_makes_room_for_what_is_new() {
    let mut server = server_of(Server::builder().slow_reader(SlowReader::DropOldest));
    let mut ann = Reader::connect(&mut server, "/ann");
    let emitted = overwhelm(&mut server, "ann");
    let dropped = with_socket(&mut server, "ann", |ann| ann.dropped());
    assert_eq!((dropped.newest, dropped.replaced), (0, 0));
    with_socket(&mut server, "ann", |ann| ann.emit("last"));
    let all = ann.read_to(&mut server, "last");
    let numbers: Vec<_> = all[..all.len() - 1].iter().map(|message| number_of(message)).collect();
    assert!(numbers.windows(2).all(|two| two[0] < two[1]), "in order");
    assert_eq!(*numbers.last().unwrap(), emitted - 1, "the newest is there");
    let gaps = numbers.windows(2).filter(|two| two[0] + 1 != two[1]).count();
    assert_eq!(gaps, 1, "what was under way, then what waited last");
    let late = with_socket(&mut server, "ann", |ann| ann.dropped()).oldest as usize;
    assert_eq!(numbers.len() + late, emitted);
}

#[test]
fn disconnect_is_the_default() {
    let mut server = server_of(Server::builder());
    let _ann = Reader::connect(&mut server, "/ann");
    for number in 0.. {
        if with_socket(&mut server, "ann", |ann| ann.emit(numbered(number)))
            == Emitted::Refused(EmitError::Full)
        {
            break;
        }
    }
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert!(matches!(server.state().errors("ann")[..], [Error::SlowConsumer { .. }]));
}

#[test]
fn a_slow_reader_of_latest_values_gets_fewer_but_current_ones() {
    for broadcast in [false, true] {
        let mut server = server_of(Server::builder());
        let mut ann = Reader::connect(&mut server, "/ann");
        let mut bob = Client::connect(&mut server, "/bob");
        let keys = 50;
        let value = |key: u64, round: usize| format!("{key:02}={round:06}{}", "x".repeat(500));
        for round in 0..400 {
            for key in 0..keys {
                let message = Latest(key, value(key, round));
                if broadcast {
                    assert_eq!(server.sockets().broadcast(message), 2);
                } else {
                    with_socket(&mut server, "ann", |ann| ann.emit(message.clone()));
                    with_socket(&mut server, "bob", |bob| bob.emit(message));
                }
            }
            server.flush();
            for key in 0..keys {
                assert_eq!(
                    bob.text(&mut server),
                    value(key, round),
                    "a reader that keeps up gets all"
                );
            }
        }
        let (waiting, dropped) =
            with_socket(&mut server, "ann", |ann| (ann.waiting_messages(), ann.dropped()));
        assert!(waiting < 3 * keys as usize, "{waiting}");
        assert!(dropped.replaced > 10_000, "{dropped:?}");
        assert_eq!((dropped.newest, dropped.oldest), (0, 0));

        with_socket(&mut server, "ann", |ann| ann.emit("last"));
        let all = ann.read_to(&mut server, "last");
        assert_eq!(all.len() as u64 + dropped.replaced, keys * 400 + 1);
        for key in 0..keys {
            let of_key: Vec<_> =
                all.iter().filter(|message| message.starts_with(&format!("{key:02}="))).collect();
            assert_eq!(**of_key.last().unwrap(), value(key, 399), "the current one, and whole");
            assert!(of_key.windows(2).all(|two| two[0] < two[1]), "in order");
        }
        assert_eq!(server.state().errors("ann"), []);
    }
}

#[test]
fn a_latest_value_keeps_its_place_among_the_others() {
    let mut server = server_of(Server::builder().slow_reader(SlowReader::DropNewest));
    let mut ann = Reader::connect(&mut server, "/ann");
    overwhelm(&mut server, "ann");
    // Room for the next messages: it reads until the socket took some bytes, and then stops.
    turn_until(&mut server, |server| {
        ann.try_next();
        with_socket(server, "ann", |ann| ann.waiting_bytes()) < LIMIT / 2
    });
    assert!(with_socket(&mut server, "ann", |ann| ann.waiting_bytes()) > 0);
    with_socket(&mut server, "ann", |ann| {
        for message in ["first", "second"] {
            assert_eq!(ann.emit_latest(7, format!("{message} of 7")), Emitted::Pressure);
            assert_eq!(ann.emit(format!("after the {message}")), Emitted::Pressure);
        }
        ann.emit("last");
    });
    let all = ann.read_to(&mut server, "last");
    assert_eq!(
        all[all.len() - 4..],
        ["second of 7", "after the first", "after the second", "last"]
    );
}

#[test]
fn pongs_pass_what_waits_and_the_close_frame_goes_last() {
    if common::only_plain("one send of TLS takes all that waits here") {
        return;
    }
    for policy in [SlowReader::DropNewest, SlowReader::DropOldest] {
        let mut server = server_of(Server::builder().slow_reader(policy));
        let mut ann = Reader::connect(&mut server, "/ann");
        overwhelm(&mut server, "ann");
        ann.raw.send(&frame(PING, b"?"));
        turn_until(&mut server, |server| server.state().has("ann", "ping"));
        with_socket(&mut server, "ann", |ann| ann.close());
        let all = ann.read_to(&mut server, "close 1000");
        let pong = all.iter().position(|message| message == "pong").unwrap();
        assert!(
            pong < all.len() - 2,
            "{pong} of {}: messages that waited come after it",
            all.len()
        );
        ann.raw.send(&frame(CLOSE, &[3, 232]));
        turn_until(&mut server, |server| server.state().is_gone("ann"));
        assert!(server.state().only("ann", "disconnect").clean);
    }
}

#[test]
fn pressure_and_relief_fire_in_turn_at_their_marks() {
    let mut server = server_of(
        Server::builder().slow_reader(SlowReader::DropOldest).high_water(40_000).low_water(10_000),
    );
    let told = Rc::new(RefCell::new(Vec::new()));
    for event in [Event::Pressure, Event::Relief] {
        let told = told.clone();
        server.on(event, move |_, ep| {
            let waiting = ep.kws.waiting_bytes();
            match event {
                Event::Pressure => assert!(waiting >= 40_000, "{waiting}"),
                _ => assert!(waiting <= 10_000, "{waiting}"),
            }
            told.borrow_mut().push(event);
        });
    }
    let mut ann = Reader::connect(&mut server, "/ann");
    for _ in 0..3 {
        overwhelm(&mut server, "ann");
        with_socket(&mut server, "ann", |ann| ann.emit("last"));
        ann.read_to(&mut server, "last");
        turn_until(&mut server, |_| told.borrow().len() % 2 == 0);
    }
    assert_eq!(*told.borrow(), [Event::Pressure, Event::Relief].repeat(3));
}

#[test]
fn routes_and_connections_have_policies_of_their_own() {
    let mut server = server_of(Server::builder().slow_reader(SlowReader::DropNewest));
    let own = RouteOptions::default().slow_reader(SlowReader::DropOldest);
    server.route_with("/own/:name", own, enter_narrow).unwrap();
    let _readers = ["/ann", "/bob", "/own/cid"].map(|path| Reader::connect(&mut server, path));
    with_socket(&mut server, "bob", |bob| bob.set_slow_reader(SlowReader::DropOldest));
    for (name, newest, oldest) in [("ann", true, false), ("bob", false, true), ("cid", false, true)]
    {
        overwhelm(&mut server, name);
        let dropped = with_socket(&mut server, name, |kws| kws.dropped());
        assert_eq!((dropped.newest > 0, dropped.oldest > 0), (newest, oldest), "{name}");
    }
}

#[test]
fn a_policy_without_a_limit_and_marks_out_of_order_are_refused() {
    let build = |settings: Builder| settings.build(()).err().unwrap().to_string();
    let limitless = Server::builder().slow_reader(SlowReader::DropOldest).max_outbox(usize::MAX);
    assert_eq!(build(limitless), "max_outbox must be a limit that slow_reader can act at");
    let mut server = Server::builder().max_outbox(usize::MAX).build(()).unwrap();
    let mut with = |policy| {
        server.route_with("/", RouteOptions::default().slow_reader(policy), |_, _| {}).map(drop)
    };
    let error = with(SlowReader::DropNewest).unwrap_err();
    assert_eq!(error.to_string(), "max_outbox must be a limit that slow_reader can act at");
    assert_eq!(with(SlowReader::Disconnect), Ok(()), "the refused one took no path");
    let marks = Server::builder().max_outbox(LIMIT);
    assert_eq!(
        build(marks.clone().high_water(LIMIT + 1)),
        "high_water must be 1 byte to max_outbox"
    );
    assert_eq!(build(marks.clone().high_water(0)), "high_water must be 1 byte to max_outbox");
    assert_eq!(
        build(marks.high_water(100).low_water(100)),
        "low_water must be less than high_water"
    );
}
