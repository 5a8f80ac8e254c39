//! permessage-deflate (RFC 7692) on the wire: what is agreed on, what is compressed, and what a
//! peer can do wrong with it.
#![cfg(feature = "deflate")]

mod common;

use common::{
    Diary, Frames, PING, Raw, TEXT, enter, frame, server_with, turn_for, turn_until,
    upgrade_request, with_socket,
};
use ikisocket::protocol::{Decoded, Deflater, FrameHeader, Inflater, Message, Opcode, Role, Rules};
use ikisocket::testing::{self, Harness, Upgrade};
use ikisocket::{Builder, Deflate, Event, RouteOptions, Server, Socket, Uncompressed};

const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0;
const FIN: u8 = 0x80;
const MIB: usize = 1024 * 1024;

/// A client that agreed on compression.
struct Client {
    raw: Raw,
    frames: Frames,
    inflater: Inflater,
    deflater: Deflater,
    /// The value of the answer's `Sec-WebSocket-Extensions`.
    answer: Option<String>,
}

/// What came in, and whether it was compressed.
type Came = (bool, String);

impl Client {
    #[track_caller]
    fn connect(server: &mut Server<Diary>, path: &str, offer: &str) -> Self {
        let plain = upgrade_request(path);
        let request = format!("{}\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n", plain.trim_end());
        let (raw, head) = Raw::upgrade_with(server, &request);
        let answer = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned));
        Self {
            raw,
            frames: Frames::default(),
            inflater: Inflater::new(15),
            deflater: Deflater::new(6, 15),
            answer,
        }
    }

    /// Whether this was agreed on.
    fn agreed_on(&self, parameter: &str) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.contains(parameter))
    }

    /// The compressed form of a message; the next one refers to it unless that was agreed not to
    /// be.
    fn deflated(&mut self, payload: &[u8]) -> Vec<u8> {
        let keep = !self.agreed_on("client_no_context_takeover");
        let mut out = Vec::new();
        self.deflater.deflate(payload, keep, &mut out);
        out
    }

    fn send_compressed(&mut self, payload: &[u8]) {
        let payload = self.deflated(payload);
        self.raw.send(&compressed_frame(TEXT, &payload));
    }

    /// The next message, if it is there.
    fn try_next(&mut self) -> Option<Came> {
        let rules = Rules::default().role(Role::Client).compression(true).max_message(64 * MIB);
        let forgets = self.agreed_on("server_no_context_takeover");
        let Self { raw, frames, inflater, .. } = self;
        frames.next(raw, &rules, |decoded| match decoded {
            Decoded::Message(Message::Text(text)) => (false, text.into_owned()),
            Decoded::Compressed(compressed) => {
                let mut out = Vec::new();
                inflater.inflate(&compressed.payload, 64 * MIB, &mut out).unwrap();
                if forgets {
                    inflater.reset();
                }
                (true, String::from_utf8(out).unwrap())
            }
            Decoded::Pong(data) => (false, format!("pong {}", String::from_utf8_lossy(&data))),
            Decoded::Ping(data) => (false, format!("ping {}", String::from_utf8_lossy(&data))),
            Decoded::Close(close) => {
                (false, format!("close {}", close.map_or(1005, |close| close.code.into())))
            }
            other => panic!("{other:?}"),
        })
    }

    #[track_caller]
    fn next(&mut self, server: &mut Server<Diary>) -> Came {
        turn_for(server, |_| self.try_next())
    }
}

fn compressed_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[0] |= RSV1;
    frame
}

/// A server whose every connection gets its messages back.
fn echo(settings: Builder) -> Server<Diary> {
    let mut server = server_with(settings);
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server
}

fn with(deflate: Deflate) -> Builder {
    Server::builder().deflate(deflate)
}

/// Something that can be compressed, of at least `len` bytes.
fn prices(len: usize) -> String {
    let mut text = String::new();
    for n in 0_u32.. {
        text += &format!(
            "{{\"symbol\":\"S{}\",\"bid\":{},\"ask\":{}}}",
            n % 7,
            1000 + n * 37 % 91,
            1100 + n * 53 % 97
        );
        if text.len() >= len {
            break;
        }
    }
    text
}

#[test]
fn a_message_is_echoed_compressed_in_both_modes() {
    for deflate in
        [Deflate::shared(), Deflate::dedicated(), Deflate::dedicated().server_window_bits(9)]
    {
        let mut server = echo(with(deflate));
        let mut ann =
            Client::connect(&mut server, "/ann", "permessage-deflate; client_max_window_bits");
        assert!(ann.answer.as_ref().unwrap().starts_with("permessage-deflate"));
        for len in [128, 300, 5000, 70_000, 400_000] {
            let text = prices(len);
            let wire = ann.deflated(text.as_bytes());
            if wire.len() < 65_536 {
                ann.raw.send(&compressed_frame(TEXT, &wire));
                assert_eq!(ann.next(&mut server), (true, text), "{len} {deflate:?}");
            }
        }
    }
}

#[test]
fn only_what_the_client_offers_and_the_route_allows_is_compressed() {
    let mut server = server_with(with(Deflate::shared()));
    server.route("/:name", enter).unwrap();
    server.route_with("/plain/:name", RouteOptions::default().deflate(None), enter).unwrap();
    let window = RouteOptions::default().deflate(Deflate::dedicated().server_window_bits(10));
    server.route_with("/window/:name", window, enter).unwrap();
    let answer = |server: &mut _, path, offer| Client::connect(server, path, offer).answer;

    let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer(&mut server, "/a", "permessage-deflate").as_deref(), Some(both));
    assert_eq!(answer(&mut server, "/b", "x-webkit-deflate-frame"), None);
    assert_eq!(answer(&mut server, "/c", "permessage-deflate; mode=fast"), None);
    assert_eq!(answer(&mut server, "/plain/d", "permessage-deflate"), None);
    assert_eq!(
        answer(&mut server, "/window/e", "permessage-deflate").as_deref(),
        Some("permessage-deflate")
    );
    let window = "permessage-deflate; server_max_window_bits=10";
    let offer = "permessage-deflate; server_max_window_bits=15";
    assert_eq!(answer(&mut server, "/window/f", offer).as_deref(), Some(window));

    let mut plain = Server::builder().build(()).unwrap();
    plain.route_with("/on", RouteOptions::default().deflate(Deflate::shared()), |_, _| {}).unwrap();
    plain.route("/off", |_, _| {}).unwrap();
}

#[test]
fn a_setting_out_of_its_range_is_refused_by_name() {
    for (deflate, says) in [
        (Deflate::shared().level(0), "deflate level must be 1 to 9"),
        (Deflate::shared().level(10), "deflate level must be 1 to 9"),
        (Deflate::shared().server_window_bits(8), "deflate server_window_bits must be 9 to 15"),
        (Deflate::shared().client_window_bits(16), "deflate client_window_bits must be 9 to 15"),
    ] {
        assert_eq!(with(deflate).build(()).err().unwrap().to_string(), says);
        let mut server = Server::builder().build(()).unwrap();
        let options = RouteOptions::default().deflate(deflate);
        let error = server.route_with("/", options, |_, _| {}).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}

#[test]
fn what_is_short_or_not_to_be_compressed_goes_as_it_is() {
    for deflate in [Deflate::shared(), Deflate::dedicated()] {
        let mut server = echo(with(deflate.minimum(100)));
        let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
        let (short, long) = ("x".repeat(99), "x".repeat(100));
        with_socket(&mut server, "ann", |ann: &mut Socket<'_, Diary>| {
            ann.emit(&short);
            ann.emit(&long);
            ann.emit(Uncompressed(&long));
            ann.ping("x");
            ann.emit(&long);
            ann.close();
        });
        let expected =
            [(false, &*short), (true, &long), (false, &long), (false, "ping x"), (true, &long)];
        for (compressed, text) in expected {
            assert_eq!(ann.next(&mut server), (compressed, text.to_owned()));
        }
        assert_eq!(ann.next(&mut server), (false, "close 1000".to_owned()));
    }
}

#[test]
fn what_does_not_get_smaller_alone_goes_as_it_is() {
    let mut server = echo(with(Deflate::shared().minimum(1)));
    let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    with_socket(&mut server, "ann", |ann| ann.emit("qz7"));
    assert_eq!(ann.next(&mut server), (false, "qz7".to_owned()));
}

#[test]
fn a_broadcast_reaches_each_client_in_the_agreed_form_and_in_order() {
    let mut server = server_with(with(Deflate::shared()));
    server.route("/:name", enter).unwrap();
    let own = RouteOptions::default().deflate(Deflate::dedicated());
    server.route_with("/own/:name", own, enter).unwrap();
    let mut plain = common::Client::connect(&mut server, "/plain");
    let mut compressed: Vec<_> = [
        ("/ann", "permessage-deflate"),
        ("/bob", "permessage-deflate"),
        ("/cid", "permessage-deflate; server_max_window_bits=9"),
        ("/own/dan", "permessage-deflate"),
        ("/own/eve", "permessage-deflate; server_max_window_bits=10"),
    ]
    .map(|(path, offer)| Client::connect(&mut server, path, offer))
    .into();

    let texts: Vec<_> = [200, 3000, 40_000, 200_000].map(prices).into();
    let names = ["plain", "ann", "bob", "cid", "dan", "eve"];
    for text in &texts {
        for name in names {
            with_socket(&mut server, name, |kws| kws.emit(format!("for {name}")));
        }
        assert_eq!(server.sockets().broadcast(text), 6);
        assert_eq!(server.sockets().broadcast(Uncompressed("plain for all")), 6);
    }
    for text in &texts {
        for expected in ["for plain", text, "plain for all"] {
            assert_eq!(plain.text(&mut server), expected);
        }
        for (client, name) in compressed.iter_mut().zip(&names[1..]) {
            assert_eq!(client.next(&mut server), (false, format!("for {name}")));
            assert_eq!(client.next(&mut server), (true, text.clone()), "{name}");
            assert_eq!(client.next(&mut server), (false, "plain for all".to_owned()));
        }
    }
}

#[test]
fn messages_that_waited_for_a_slow_reader_arrive_whole_and_in_order() {
    for deflate in [Deflate::shared(), Deflate::dedicated()] {
        let mut server = server_with(with(deflate.minimum(10)).max_outbox(64 * MIB));
        let narrow = |diary: &mut Diary, kws: &mut Socket<'_, Diary>| {
            socket2::SockRef::from(&kws.transport().fd().unwrap())
                .set_send_buffer_size(8 * 1024)
                .unwrap();
            enter(diary, kws);
        };
        server.route("/:name", narrow).unwrap();
        let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
        // Hard to compress, so that the socket is soon full.
        let mut seed = 1_u32;
        let mut texts = Vec::new();
        for number in 0..3000 {
            let mut text = format!("{number}:");
            for _ in 0..100 + number % 900 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push(char::from(b' ' + (seed >> 24) as u8 % 90));
            }
            texts.push(text);
        }
        for (number, text) in texts.iter().enumerate() {
            match number % 3 {
                0 => assert_eq!(server.sockets().broadcast(text), 1),
                _ => assert_ne!(
                    with_socket(&mut server, "ann", |ann| ann.emit(text)).ok(),
                    Err(ikisocket::EmitError::Full)
                ),
            }
            if number % 100 == 0 {
                server.flush();
            }
        }
        let waiting = with_socket(&mut server, "ann", |ann| ann.waiting_bytes());
        assert!(waiting > MIB / 2, "{waiting}");
        ann.raw.send(&frame(PING, b"?"));
        let mut pong_at = None;
        for (number, text) in texts.iter().enumerate() {
            let mut came = ann.next(&mut server).1;
            if came == "pong ?" {
                pong_at = Some(number);
                came = ann.next(&mut server).1;
            }
            assert_eq!(came, *text);
        }
        assert!(
            pong_at.is_some_and(|at| at < texts.len() - 100),
            "it passes what waits: {pong_at:?}"
        );
        assert_eq!(with_socket(&mut server, "ann", |ann| ann.waiting_bytes()), 0);
    }
}

/// Connections share the compressors of their loop. The messages of one connection must not show in
/// those of another.
#[test]
fn connections_that_talk_in_turn_each_keep_their_context() {
    let dedicated = Deflate::dedicated().minimum(20);
    let mut server = echo(with(dedicated));
    for (path, deflate) in [
        ("/alone/:name", Deflate::shared().level(2)),
        ("/best/:name", dedicated.level(9)),
        ("/fast/:name", dedicated.level(1)),
    ] {
        server.route_with(path, RouteOptions::default().deflate(deflate), enter).unwrap();
    }
    let mut clients: Vec<_> = [
        ("/ann", "permessage-deflate"),
        ("/bob", "permessage-deflate"),
        ("/cid", "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9"),
        ("/dan", "permessage-deflate; client_no_context_takeover"),
        ("/eve", "permessage-deflate; server_no_context_takeover"),
        // The same kind of compressor as ann's and bob's.
        ("/alone/fay", "permessage-deflate; server_max_window_bits=14"),
        ("/best/gus", "permessage-deflate"),
        ("/fast/hal", "permessage-deflate"),
    ]
    .map(|(path, offer)| Client::connect(&mut server, path, offer))
    .into();
    clients[2].deflater = Deflater::new(6, 9);
    let text = prices(40_000);
    let mut seed = 1_u32;
    let mut below = |end: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % end
    };
    for round in 0..600 {
        let index = below(clients.len());
        let most = [30, 800, 800, 6000, 30_000][below(5)];
        let (len, from) = (below(most), below(10_000));
        let message = format!("{index} {round} {}", &text[from..from + len]);
        if round % 10 == 0 {
            assert_eq!(server.sockets().broadcast(&message), clients.len());
            for client in &mut clients {
                assert!(client.next(&mut server).1 == message, "round {round}");
            }
        }
        let times = 1 + below(3);
        for _ in 0..times {
            clients[index].send_compressed(message.as_bytes());
            // An uncompressed message is in no window.
            clients[index].raw.send(&frame(TEXT, b"as it is"));
        }
        for _ in 0..times {
            assert!(clients[index].next(&mut server).1 == message, "round {round}, {len} bytes");
            assert_eq!(clients[index].next(&mut server), (false, "as it is".to_owned()));
        }
    }
}

#[test]
fn a_message_for_which_room_had_to_be_made_is_compressed_too() {
    let mut server = server_with(with(Deflate::dedicated()).max_outbox(40_000));
    server.route("/:name", enter).unwrap();
    let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    let text = prices(15_000);
    // The third finds no room until the socket has taken the first two.
    with_socket(&mut server, "ann", |ann| assert!((0..3).all(|_| ann.emit(&text).ok().is_ok())));
    for _ in 0..3 {
        assert_eq!(ann.next(&mut server), (true, text.clone()));
    }
    assert!((0..3).all(|_| server.sockets().broadcast(&text) == 1));
    for _ in 0..3 {
        assert_eq!(ann.next(&mut server), (true, text.clone()));
    }
}

#[test]
fn a_message_in_fragments_is_decompressed_as_one() {
    let mut server = echo(with(Deflate::dedicated()));
    let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    let text = prices(10_000);
    for size in [1, 7, 13] {
        let wire = ann.deflated(text.as_bytes());
        let pieces: Vec<&[u8]> = wire.chunks(size).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let opcode = if index == 0 { TEXT | RSV1 } else { CONTINUATION };
            let mut bytes = frame(opcode, piece);
            if index + 1 < pieces.len() {
                bytes[0] &= !FIN;
            }
            ann.raw.send(&bytes);
            if index == 0 {
                ann.raw.send(&frame(PING, b"between"));
            }
        }
        assert_eq!(ann.next(&mut server), (false, "pong between".to_owned()));
        assert_eq!(ann.next(&mut server), (true, text.clone()), "in pieces of {size}");
    }
}

#[test]
fn what_breaks_a_rule_is_closed_with_its_code() {
    let bomb = {
        let mut out = Vec::new();
        Deflater::new(9, 15).deflate(&vec![b'x'; 2 * MIB], false, &mut out);
        out
    };
    let bad_text = {
        let mut out = Vec::new();
        Deflater::new(6, 15).deflate(&[0xff; 200], false, &mut out);
        out
    };
    let stored = [&[0x00, 0x05, 0x00, 0xfa, 0xff][..], b"Hel"].concat();
    let rows: [(&str, Vec<u8>, u16); 8] = [
        ("cut inside a stored block", compressed_frame(TEXT, &stored), 1007),
        (
            "blocks of nothing",
            compressed_frame(TEXT, &[0x00, 0x00, 0x00, 0xff, 0xff].repeat(2000)),
            1008,
        ),
        ("more than the limit comes out", compressed_frame(TEXT, &bomb), 1009),
        ("no DEFLATE stream", compressed_frame(TEXT, &[0xff; 10]), 1007),
        ("no UTF-8 comes out", compressed_frame(TEXT, &bad_text), 1007),
        ("a compressed ping", compressed_frame(PING, b"x"), 1002),
        ("a compressed continuation", compressed_frame(CONTINUATION, b"x"), 1002),
        (
            "RSV2 too",
            {
                let mut f = compressed_frame(TEXT, b"x");
                f[0] |= 0x20;
                f
            },
            1002,
        ),
    ];
    for deflate in [Deflate::shared(), Deflate::dedicated()] {
        for (what, bytes, code) in &rows {
            let mut server = echo(with(deflate));
            let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
            ann.raw.send(bytes);
            assert_eq!(ann.next(&mut server), (false, format!("close {code}")), "{what}");
            turn_until(&mut server, |server| server.state().is_gone("ann"));
        }
    }
    let mut server = echo(Server::builder());
    let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    assert_eq!(ann.answer, None);
    ann.raw.send(&compressed_frame(TEXT, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]));
    assert_eq!(ann.next(&mut server), (false, "close 1002".to_owned()), "it was not agreed on");
}

#[test]
fn the_limit_is_of_decompressed_bytes() {
    let mut server = echo(with(Deflate::shared()).max_message(10_000));
    let mut ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    let text = "x".repeat(10_000);
    ann.send_compressed(text.as_bytes());
    assert_eq!(ann.next(&mut server), (true, text.clone()));
    ann.send_compressed(format!("{text}x").as_bytes());
    assert_eq!(ann.next(&mut server), (false, "close 1009".to_owned()));
}

#[test]
fn with_takeover_what_waits_is_counted_uncompressed() {
    let mut server = server_with(with(Deflate::dedicated()));
    server.route("/:name", enter).unwrap();
    let ann = Client::connect(&mut server, "/ann", "permessage-deflate");
    assert!(!ann.agreed_on("server_no_context_takeover"));
    with_socket(&mut server, "ann", |ann| {
        ann.emit("x".repeat(1000));
        ann.emit("x".repeat(1000));
        assert_eq!(ann.waiting_bytes(), 2 * (1000 + 4));
    });
}

// Costs. These tests are about turns, so they have no sockets.

/// Messages that came in: the name of the sender, and the length.
type Log = Vec<(String, usize)>;

/// A server that notes what comes in; its route is `/:name`.
fn noting(settings: Builder) -> Server<Log> {
    let mut server = settings.build(Log::new()).unwrap();
    server.route("/:name", |_, _| {}).unwrap();
    server.on(Event::Message, |log: &mut Log, ep| {
        log.push((ep.kws.param("name").unwrap_or_default().to_owned(), ep.data.len()));
    });
    server
}

/// The same client of many, by number.
fn join(test: &mut Harness<Log>, name: &str) -> testing::Client {
    let offer = "permessage-deflate";
    test.connect(Upgrade::to(format!("/{name}")).header("Sec-WebSocket-Extensions", offer)).unwrap()
}

/// A compressed message in a frame of any length.
fn long_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = FrameHeader {
        rsv1: true,
        mask: Some([0; 4]),
        ..FrameHeader::new(opcode, payload.len() as u64)
    };
    header.encode(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// Bytes that cannot be compressed.
fn noise(len: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let next = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..len).map(next).collect()
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(6, 15).deflate(payload, false, &mut out);
    out
}

fn count(test: &mut Harness<Log>, name: &str) -> usize {
    test.state().iter().filter(|(sender, _)| sender == name).count()
}

#[test]
fn others_have_their_turn_before_all_that_one_peer_sent_is_decompressed() {
    // 1 MiB in about a kilobyte.
    let frame = long_frame(Opcode::Binary, &deflated(&vec![0; MIB]));
    assert!(frame.len() < 1100, "{}", frame.len());
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        // Each read brings one frame.
        let mut test = common::harness_by_hand(noting(with(mode).receive_buffer(frame.len())));
        let peers: Vec<_> = (0..30).map(|_| join(&mut test, "mallory")).collect();
        let ann = join(&mut test, "ann");
        for peer in &peers {
            test.write(*peer, &frame.repeat(10));
        }
        test.send(ann, "hello");
        let mut messages = 0;
        while messages < 301 {
            let turn = test.turn();
            messages += turn.messages;
            assert!(
                (1..=8).contains(&turn.messages),
                "{} messages of 1 MiB in one turn",
                turn.messages
            );
        }
        let before_ann = test.state().iter().take_while(|(sender, _)| sender == "mallory").count();
        assert!(before_ann < 150, "{before_ann}");
    }
}

#[test]
fn what_is_refused_for_its_blocks_is_work_of_the_turn_too() {
    // Empty stored blocks: few bytes to read, and many beginnings of blocks.
    let frame = long_frame(Opcode::Binary, &[0x00, 0x00, 0x00, 0xff, 0xff].repeat(1100));
    let mut test = common::harness_by_hand(noting(with(Deflate::shared()).work_per_turn(2000)));
    let peers: Vec<_> = (0..20).map(|_| join(&mut test, "mallory")).collect();
    test.settle();
    peers.iter().for_each(|peer| test.write(*peer, &frame));
    let mut turns = 0;
    while test.server().stats().disconnects.protocol < 20 {
        test.turn();
        turns += 1;
    }
    assert!(turns > 5, "{turns} turns");
}

#[test]
fn what_listeners_compress_is_work_of_the_turn() {
    let text = prices(200_000);
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        for (name, is_broadcast) in [("emit", false), ("broadcast", true)] {
            let mut server = noting(with(mode).max_outbox(64 * MIB));
            let text = text.clone();
            server.on(Event::Message, move |_, ep| {
                if is_broadcast {
                    assert_eq!(ep.kws.sockets().broadcast(&text), 30);
                } else {
                    assert!(ep.kws.emit(&text).ok().is_ok());
                }
            });
            let mut test = common::harness_by_hand(server);
            let peers: Vec<_> =
                (0..30).map(|number| join(&mut test, &number.to_string())).collect();
            for peer in &peers {
                test.send(*peer, "?");
            }
            let mut turns = 0;
            while test.state().len() < 30 {
                let turn = test.turn();
                assert!(turn.messages <= 5, "{} in one turn: {name}, {mode:?}", turn.messages);
                turns += 1;
            }
            assert!(turns > 5);
        }
    }
}

/// 300 peers with a full window, 32 KiB, send a byte each that is decompressed behind it.
#[test]
fn the_windows_of_peers_that_send_little_are_work_of_the_turn() {
    let least_turns = |fill: usize| {
        let mut test =
            common::harness_by_hand(noting(with(Deflate::dedicated()).work_per_turn(500)));
        let peers: Vec<_> = (0..300).map(|_| join(&mut test, "mallory")).collect();
        let mut deflater = Deflater::new(6, 15);
        let mut wire = Vec::new();
        deflater.deflate(&noise(fill), true, &mut wire);
        peers.iter().for_each(|peer| test.write(*peer, &long_frame(Opcode::Binary, &wire)));
        test.settle();
        assert_eq!(test.state().len(), 300);
        peers.iter().for_each(|peer| test.write(*peer, &compressed_frame(TEXT, &deflated(b"?"))));
        let mut turns = 0;
        while test.state().len() < 600 {
            test.turn();
            turns += 1;
        }
        turns
    };
    let (empty, full) = (least_turns(10), least_turns(40_000));
    assert!(full >= 3 * empty, "{full} turns, and {empty} with windows of next to nothing");
}

#[test]
fn what_is_compressed_when_a_slow_reader_reads_again_is_work_of_that_turn() {
    let mut server = noting(with(Deflate::dedicated()));
    let message = noise(50_000);
    server.on(Event::Message, move |_, ep| {
        if ep.data == ikisocket::Payload::Text("all") {
            ep.kws.sockets().broadcast(&message);
        }
    });
    let mut test = common::harness_by_hand(server);
    let slow: Vec<_> = (0..20).map(|_| join(&mut test, "slow")).collect();
    slow.iter().for_each(|client| test.stop_reading(*client));
    let ann = join(&mut test, "ann");
    for _ in 0..20 {
        test.send(ann, "all");
        test.settle();
    }
    assert_eq!(test.server().stats().blocked, slow.len());
    slow.iter().for_each(|client| test.resume_reading(*client));
    test.turn(); // they read what their sockets hold
    for client in &slow {
        test.send(*client, "?");
    }
    let before = test.state().len();
    test.turn();
    assert!(test.state().len() < before + 10, "{}", test.state().len() - before);
    test.settle();
    assert_eq!(test.state().len(), before + 20);
}

#[test]
fn a_costly_message_is_decompressed_in_several_turns_beside_others() {
    let payload = noise(MIB);
    let wire = long_frame(Opcode::Binary, &deflated(&payload));
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        let mut test = common::harness_by_hand(noting(with(mode).receive_buffer(4 * MIB)));
        let names = ["mallory", "ann"];
        let [mallory, ann] = names.map(|name| join(&mut test, name));
        // In the same read there is more behind it.
        test.write(
            mallory,
            &[&wire[..], &compressed_frame(TEXT, &deflated(b"behind it")), &frame(TEXT, b"!")]
                .concat(),
        );
        let mut turns = 0;
        while count(&mut test, "mallory") == 0 {
            test.send(ann, "hello");
            test.turn();
            turns += 1;
            assert_eq!(count(&mut test, "ann"), turns, "it is served in each turn");
        }
        assert!(turns > 1, "one piece");
        test.settle();
        let sent: Vec<_> = test
            .state()
            .iter()
            .filter(|(sender, _)| sender == "mallory")
            .map(|(_, len)| *len)
            .collect();
        assert_eq!(sent, [MIB, 9, 1], "in order");
        assert_eq!(test.server().stats().messages_in, turns as u64 + 3);
        // It is served as any other from then on.
        test.send(mallory, "later");
        test.finish(mallory);
        test.settle();
        assert_eq!((count(&mut test, "mallory"), test.server().stats().open), (4, 1));
    }
}

#[test]
fn a_costly_message_before_a_deferred_answer_is_decompressed_to_its_end() {
    const LEN: usize = 16 * MIB;
    let wire = long_frame(Opcode::Binary, &deflated(&vec![0; LEN]));
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        for behind in [&b""[..], &frame(TEXT, b"!")] {
            let mut server = noting(with(mode).max_message(LEN).max_head(60_000));
            let (deferred, waiting) = std::sync::mpsc::channel();
            server.filter(move |_, sockets, incoming| {
                deferred.send(sockets.defer(incoming)).unwrap();
                Ok(())
            });
            let mut test = common::harness(server);
            let upgrade =
                Upgrade::to("/ann").header("Sec-WebSocket-Extensions", "permessage-deflate");
            let ann = test.ask(upgrade).unwrap();
            test.write(ann, &[&wire, behind].concat());
            test.settle();
            waiting.recv().unwrap().accept(|_| {}).unwrap();
            test.settle();
            let came: Vec<_> = test.state().iter().map(|(_, len)| *len).collect();
            assert_eq!(came, [LEN, 1][..1 + behind.len().min(1)], "{mode:?}");
        }
    }
}

#[test]
fn a_compressed_message_behind_our_close_frame_does_not_fire() {
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        let mut server = noting(with(mode));
        server.on(Event::Message, |_, ep| ep.kws.close());
        let mut test = common::harness(server);
        let ann = join(&mut test, "ann");
        test.write(ann, &compressed_frame(TEXT, &deflated(b"hello")).repeat(3));
        test.write(ann, &compressed_frame(TEXT, &deflated(b"hello")));
        test.settle();
        assert_eq!(count(&mut test, "ann"), 1);
    }
}

#[test]
fn a_connection_may_end_while_its_message_is_decompressed() {
    let wire = long_frame(Opcode::Text, &deflated(&noise(MIB)));
    let close = frame(common::CLOSE, &1000_u16.to_be_bytes());
    for mode in [Deflate::shared(), Deflate::dedicated()] {
        for who_ends in ["peer", "server", "reset", "bad text", "shutdown"] {
            let mut server = noting(with(mode).receive_buffer(4 * MIB));
            server.on(Event::Disconnect, |log: &mut Log, ep| {
                log.push(("gone".to_owned(), usize::from(ep.clean)))
            });
            let mut test = common::harness_by_hand(server);
            let mallory = join(&mut test, "mallory");
            test.write(mallory, &[&wire[..], &close].concat());
            test.turn();
            let uuid = test.uuid(mallory);
            match who_ends {
                "peer" => test.finish(mallory),
                "server" => {
                    let mut sockets = test.server().sockets();
                    sockets.get(uuid.unwrap()).unwrap().close();
                }
                "reset" => test.reset(mallory),
                "shutdown" => {
                    test.server().sockets().shutdown(ikisocket::Shutdown::default()).unwrap()
                }
                _ => {}
            }
            test.settle();
            let clean = who_ends == "server" || who_ends == "shutdown";
            assert_eq!(
                *test.state(),
                [("gone".to_owned(), usize::from(clean))],
                "{who_ends} {mode:?}"
            );
            if who_ends == "bad text" {
                let closed = testing::Received::close(1007, "text is not valid UTF-8");
                assert_eq!(test.received(mallory), [closed, testing::Received::Fin]);
            }
        }
    }
}

#[test]
fn a_peer_whose_message_is_decompressed_slowly_is_not_taken_for_silent() {
    let wire = long_frame(Opcode::Binary, &deflated(&noise(MIB)));
    let mut test = common::harness_by_hand(noting(with(Deflate::shared()).receive_buffer(4 * MIB)));
    let peers: Vec<_> = (0..40).map(|number| join(&mut test, &number.to_string())).collect();
    let behind =
        [&compressed_frame(TEXT, &deflated(b"behind it")), &frame(TEXT, b"!")[..]].concat();
    for peer in &peers {
        test.write(*peer, &[&wire[..], &behind].concat());
    }
    // Each turn takes five seconds: most peers wait longer than a silent one may.
    for turn in 0..200 {
        test.skip(std::time::Duration::from_secs(5));
        test.turn();
        if turn == 2 {
            peers.iter().for_each(|&peer| test.send(peer, "and more"));
        }
    }
    assert_eq!(test.server().stats().open, peers.len());
    for number in 0..peers.len() {
        let came = test
            .state()
            .iter()
            .filter(|(sender, _)| *sender == number.to_string())
            .map(|(_, len)| *len);
        assert_eq!(came.collect::<Vec<_>>(), [MIB, 9, 1, 8], "from {number}, in order");
    }
}
