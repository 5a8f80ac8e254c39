//! Frames: what is understood, what is answered, and what breaks the protocol.

use ikisocket::Server;

use crate::kit::*;

#[test]
fn messages_of_every_length_come_back_as_they_were() {
    let mut server = echo(Server::builder().max_message(1 << 21).max_outbox(1 << 22));
    let mut peer = Peer::open(&mut server, "/ws");
    for len in [0, 1, 125, 126, 127, 4096, 65_535, 65_536, 65_537, 300_000, 1 << 20, 1 << 21] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 253) as u8).collect();
        peer.send(&mut server, frame(BINARY, &bytes));
        assert!(peer.frame(&mut server) == Frame::new(BINARY, bytes), "{len} bytes");
        let text = "é".repeat(len / 2);
        peer.send(&mut server, frame(TEXT, &text));
        assert!(peer.frame(&mut server) == Frame::text(&text), "{len} bytes of text");
    }
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    for bytes in [frame(TEXT, "ünï→🦀"), frame(BINARY, [7; 200]), frame(PING, "p")] {
        for byte in bytes {
            peer.send(&mut server, [byte]);
            turn(&mut server);
        }
    }
    peer.expect_text(&mut server, "ünï→🦀");
    assert_eq!(peer.frame(&mut server), Frame::new(BINARY, [7; 200]));
    assert_eq!(peer.frame(&mut server), Frame::new(PONG, "p"));
}

#[test]
fn five_hundred_messages_in_one_segment_are_five_hundred_messages() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    let all: Vec<u8> = (0..500).flat_map(|number| frame(TEXT, number.to_string())).collect();
    peer.send(&mut server, all);
    for number in 0..500 {
        peer.expect_text(&mut server, &number.to_string());
    }
    assert_eq!(server.state().len(), 501);
}

#[test]
fn fragments_are_one_message_and_control_frames_may_stand_between_them() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    let crab = "🦀".as_bytes();
    let pieces = [
        fragment(TEXT, &crab[..1]),
        frame(PING, "one"),
        fragment(CONTINUATION, &crab[1..3]),
        fragment(CONTINUATION, ""),
        frame(PONG, "two"),
        frame(CONTINUATION, [&crab[3..], b"!"].concat()),
        fragment(BINARY, [1, 2]),
        frame(PING, ""),
        frame(CONTINUATION, [3]),
    ];
    for together in [true, false] {
        server.state_mut().clear();
        if together {
            peer.send(&mut server, pieces.concat());
        }
        for piece in pieces.iter().filter(|_| !together) {
            peer.send(&mut server, piece);
            turn(&mut server);
        }
        assert_eq!(peer.frame(&mut server), Frame::new(PONG, "one"));
        peer.expect_text(&mut server, "🦀!");
        assert_eq!(peer.frame(&mut server), Frame::new(PONG, ""));
        assert_eq!(peer.frame(&mut server), Frame::new(BINARY, [1, 2, 3]));
        let told = [
            "ping [111, 110, 101]",
            "pong [116, 119, 111]",
            "message \"🦀!\"",
            "ping",
            "message [1, 2, 3]",
        ];
        assert_eq!(server.state()[..], told);
    }
}

#[test]
fn the_pong_has_the_pings_data_and_precedes_what_the_listener_emits() {
    let mut server = echo(Server::builder());
    server.on("ping", |_, ep| _ = ep.kws.emit("after the pong"));
    let mut peer = Peer::open(&mut server, "/ws");
    for data in [&[][..], b"x", &[0xFF; 125]] {
        peer.send(&mut server, frame(PING, data));
        assert_eq!(peer.frame(&mut server), Frame::new(PONG, data));
        peer.expect_text(&mut server, "after the pong");
    }
}

/// What a peer does wrong, and the close code that it gets.
fn violations() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let unmasked = [0x81, 2, b'h', b'i'].to_vec();
    let control = |first: u8| raw(first, 126, &[0; 126]);
    let long = |len: u64| raw(FIN | BINARY, len, b"");
    vec![
        ("unmasked", unmasked, 1002, "Unmasked"),
        ("unmasked close", vec![0x88, 0], 1002, "Unmasked"),
        ("RSV1", raw(0xC1, 2, b"hi"), 1002, "ReservedBits"),
        ("RSV2", raw(0xA1, 2, b"hi"), 1002, "ReservedBits"),
        ("RSV3", raw(0x91, 2, b"hi"), 1002, "ReservedBits"),
        ("RSV1 on a ping", raw(0xC9, 0, b""), 1002, "ReservedBits"),
        ("opcode 3", raw(0x83, 0, b""), 1002, "ReservedOpcode(3)"),
        ("opcode 7", raw(0x87, 1, b"x"), 1002, "ReservedOpcode(7)"),
        ("opcode 11", raw(0x8B, 0, b""), 1002, "ReservedOpcode(11)"),
        ("opcode 15", raw(0x8F, 0, b""), 1002, "ReservedOpcode(15)"),
        ("2^63 bytes", long(1 << 63), 1002, "LengthOverflow"),
        ("2^64 - 1 bytes", long(u64::MAX), 1002, "LengthOverflow"),
        ("2^63 - 1 bytes", long((1 << 63) - 1), 1009, "MessageTooBig { limit: 1000 }"),
        ("one byte too long", long(1001), 1009, "MessageTooBig { limit: 1000 }"),
        (
            "a length in too many bytes",
            vec![0x82, 0xFE, 0, 5, 0, 0, 0, 0],
            1002,
            "LengthNotMinimal",
        ),
        (
            "a length in far too many bytes",
            [&[0x82, 0xFF][..], &[0; 12]].concat(),
            1002,
            "LengthNotMinimal",
        ),
        ("a long ping", control(FIN | PING), 1002, "ControlTooLong"),
        ("a long pong", control(FIN | PONG), 1002, "ControlTooLong"),
        ("a long close", control(FIN | CLOSE), 1002, "ControlTooLong"),
        ("a fragmented ping", fragment(PING, "x"), 1002, "FragmentedControl"),
        ("a fragmented close", fragment(CLOSE, ""), 1002, "FragmentedControl"),
        ("nothing to continue", frame(CONTINUATION, "x"), 1002, "UnexpectedContinuation"),
        (
            "nothing to continue, not the last",
            fragment(CONTINUATION, "x"),
            1002,
            "UnexpectedContinuation",
        ),
        (
            "text inside a message",
            [fragment(TEXT, "a"), frame(TEXT, "b")].concat(),
            1002,
            "ExpectedContinuation",
        ),
        (
            "binary inside a message",
            [fragment(BINARY, "a"), fragment(BINARY, "b")].concat(),
            1002,
            "ExpectedContinuation",
        ),
        (
            "fragments too long together",
            [fragment(BINARY, [0; 999]), raw(FIN, 2, b"")].concat(),
            1009,
            "MessageTooBig { limit: 1000 }",
        ),
        ("text that is none", frame(TEXT, [b'a', 0xFF]), 1007, "InvalidUtf8"),
        ("a surrogate", frame(TEXT, [0xED, 0xA0, 0x80]), 1007, "InvalidUtf8"),
        ("an overlong slash", frame(TEXT, [0xC0, 0xAF]), 1007, "InvalidUtf8"),
        ("half a character at the end", frame(TEXT, [0xE2, 0x82]), 1007, "InvalidUtf8"),
        (
            "half a character at the end of the last fragment",
            [fragment(TEXT, [0xE2]), frame(CONTINUATION, [0x82])].concat(),
            1007,
            "InvalidUtf8",
        ),
        ("a close of one byte", frame(CLOSE, [3]), 1002, "CloseFrameTooShort"),
        ("a reason that is no text", close(1000, [0xC3, 0x28]), 1007, "InvalidUtf8"),
    ]
}

#[test]
fn what_breaks_the_protocol_is_answered_with_its_code_and_fires_once() {
    let mut server = echo(Server::builder().max_message(1000));
    for (name, bytes, code, violation) in violations() {
        for piecemeal in [false, true] {
            server.state_mut().clear();
            let mut peer = Peer::open(&mut server, "/ws");
            peer.send(&mut server, [fragment(TEXT, "bef"), frame(CONTINUATION, "ore")].concat());
            if piecemeal {
                for byte in &bytes {
                    // It may be refused before its end.
                    peer.try_send(&mut server, &[*byte]);
                }
            } else {
                peer.send(&mut server, [&bytes[..], &frame(TEXT, "behind")].concat());
            }
            peer.expect_text(&mut server, "before");
            let told = peer.frame(&mut server);
            assert_eq!((told.opcode, told.close_code()), (CLOSE, Some(code)), "{name}");
            assert_eq!(peer.end(&mut server), End::Fin, "{name}");
            assert_eq!(peer.received(), b"", "{name}");
            peer.part(&mut server);
            let reason = str::from_utf8(&told.payload[2..]).unwrap();
            let error = format!("Protocol({violation})");
            let events = [
                "connect",
                "message \"before\"",
                &format!("error {error}"),
                &format!("disconnect {error} {code} {reason:?}"),
            ];
            assert_eq!(server.state()[..], events, "{name}");
        }
    }
}

#[test]
fn what_came_in_the_same_segment_before_a_violation_is_answered_first() {
    let mut server = echo(Server::builder());
    for first in [0xC1, 0x87, 0x8F] {
        let mut peer = Peer::open(&mut server, "/ws");
        let bad = raw(first, 13, b"Hello, world!");
        peer.send_at_once(&[frame(TEXT, "Hello, world!"), bad, frame(PING, "")].concat());
        peer.expect_text(&mut server, "Hello, world!");
        peer.expect_close(&mut server, 1002);
    }
}

#[test]
fn codes_that_may_not_be_sent_are_refused_and_the_others_echoed() {
    let mut server = echo(Server::builder());
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let mut peer = Peer::open(&mut server, "/ws");
        peer.send(&mut server, close(code, ""));
        peer.expect_close(&mut server, 1002);
        peer.part(&mut server);
        assert_eq!(server.state()[1], format!("error Protocol(InvalidCloseCode({code}))"));
        server.state_mut().clear();
    }
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        let mut peer = Peer::open(&mut server, "/ws");
        peer.send(&mut server, close(code, "because"));
        peer.expect_close(&mut server, code);
        peer.part(&mut server);
        let error = format!("ClosedByPeer {{ code: CloseCode({code}), reason: \"because\" }}");
        let told = match code {
            1000 | 1001 => {
                vec!["connect".to_owned(), format!("disconnect {code} \"because\" clean")]
            }
            _ => vec![
                "connect".to_owned(),
                format!("error {error}"),
                format!("disconnect {error} {code} \"because\" clean"),
            ],
        };
        assert_eq!(*server.state(), told);
        server.state_mut().clear();
    }
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    let mut server = echo(Server::builder());
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, frame(CLOSE, ""));
    assert_eq!(peer.frame(&mut server), Frame::new(CLOSE, ""));
    assert_eq!(peer.end(&mut server), End::Fin);
    peer.part(&mut server);
    assert_eq!(*server.state(), ["connect", "disconnect clean"]);
}

#[test]
fn what_follows_a_close_frame_is_ignored() {
    let mut server = echo(Server::builder());
    for behind in [
        frame(TEXT, "late"),
        frame(PING, "late"),
        close(1001, "again"),
        vec![0xFF; 1000],
        vec![0; 150_000],
    ] {
        let mut peer = Peer::open(&mut server, "/ws");
        peer.send(&mut server, [close(1000, ""), behind.clone()].concat());
        peer.try_send(&mut server, &behind);
        peer.expect_close(&mut server, 1000);
        peer.part(&mut server);
        assert_eq!(*server.state(), ["connect", "disconnect 1000 \"\" clean"]);
        server.state_mut().clear();
    }
}

#[test]
fn a_thousand_empty_fragments_are_a_message_and_one_more_is_too_many() {
    let mut server = echo(Server::builder());
    for (empty, code) in [(1000, None), (1001, Some(1008))] {
        let mut peer = Peer::open(&mut server, "/ws");
        let fragments = [
            fragment(TEXT, "a"),
            fragment(CONTINUATION, "").repeat(empty),
            frame(CONTINUATION, "b"),
        ]
        .concat();
        peer.send(&mut server, fragments);
        match code {
            None => peer.expect_text(&mut server, "ab"),
            Some(code) => peer.expect_close(&mut server, code),
        }
    }
    let told =
        server.state().iter().filter(|line| line.contains("TooManyEmptyFragments { limit: 1000 }"));
    assert_eq!(told.count(), 2, "error and disconnect");
}

#[test]
fn text_fails_at_its_first_bad_byte_and_not_at_its_end() {
    let mut server = echo(Server::builder());
    for fragmented in [false, true] {
        let mut peer = Peer::open(&mut server, "/ws");
        let begun = raw(
            if fragmented { TEXT } else { FIN | TEXT },
            500_000,
            b"good so far \xFF and then nothing for now",
        );
        peer.send(&mut server, begun);
        peer.expect_close(&mut server, 1007);
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_by_its_header_alone() {
    let mut server = echo(Server::builder().max_message(100_000));
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, frame(BINARY, vec![0; 100_000]));
    assert_eq!(peer.frame(&mut server).payload.len(), 100_000, "exactly as long as allowed");
    peer.send(&mut server, raw(FIN | BINARY, 100_001, b""));
    peer.expect_close(&mut server, 1009);
    // A message in fragments is refused by the first header that makes it too long.
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(
        &mut server,
        [fragment(BINARY, vec![0; 60_000]), raw(CONTINUATION, 40_001, b"")].concat(),
    );
    peer.expect_close(&mut server, 1009);
}

#[test]
fn a_peer_that_sends_too_much_and_goes_on_sending_still_reads_why() {
    let mut server = echo(Server::builder().max_message(1000));
    let mut peer = Peer::open(&mut server, "/ws");
    peer.send(&mut server, raw(FIN | BINARY, 1 << 30, b""));
    for _ in 0..200 {
        peer.send(&mut server, [0; 1000]);
    }
    peer.expect_close(&mut server, 1009);
    peer.part(&mut server);
}
