//! Settings: with any values, either the server works, or an error of `build` says what is wrong.

mod common;

use std::time::Duration;

use ikisocket::{BuildError, Builder, Event, RouteOptions, Server};

/// Every setting that is a time.
const TIMES: [fn(Builder, Duration) -> Builder; 5] = [
    Builder::handshake_timeout,
    Builder::ping_after,
    Builder::dead_after,
    Builder::close_timeout,
    Builder::stall_timeout,
];

/// Every setting that is a number.
const NUMBERS: [fn(Builder, usize) -> Builder; 11] = [
    Builder::max_message,
    Builder::max_outbox,
    Builder::high_water,
    Builder::low_water,
    Builder::max_head,
    Builder::max_headers,
    Builder::max_connections,
    Builder::work_per_turn,
    Builder::handle_queue,
    Builder::max_topics_per_connection,
    Builder::receive_buffer,
];

/// Uses a server of these settings in every way, if it can be built; what it answered.
fn try_out(settings: Builder) -> Option<String> {
    let mut server = settings.build(()).ok()?;
    server.route("/ws", |(), _| {}).unwrap();
    server.on(Event::Message, |(), ep| {
        let _ = ep.kws.join("topic");
        ep.kws.publish_all("topic", ep.data);
        ep.kws.emit(ep.data);
        let _ =
            ep.kws.sockets().handle().send(|(), sockets| _ = sockets.broadcast("from a handle"));
        ep.kws.close();
    });
    let mut test = common::harness(server);
    let Ok(client) = test.connect("/ws") else { return Some("refused".to_owned()) };
    test.advance(Duration::from_millis(10));
    test.send(client, "hello ".repeat(100));
    let answer = format!("{:?}", test.received(client));
    test.advance(Duration::from_millis(10));
    Some(answer)
}

#[test]
fn the_extremes_of_every_setting_are_served_or_refused() {
    let mut built = 0;
    for set in TIMES {
        for time in
            [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(1), Duration::MAX]
        {
            built += usize::from(try_out(set(Server::builder(), time)).is_some());
        }
    }
    assert_eq!(built, 2 * TIMES.len(), "1 ms and more");
    for (setting, set) in NUMBERS.into_iter().enumerate() {
        for number in [0, 1, 2, 1023, 1024, 65_535, u32::MAX as usize, usize::MAX - 1, usize::MAX] {
            if let Some(answer) = try_out(set(Server::builder(), number)) {
                assert!(!answer.is_empty(), "setting {setting}, {number}");
            }
        }
    }
}

#[test]
fn the_usual_settings_serve_an_echo() {
    assert!(try_out(Server::builder()).unwrap().contains("hello hello"));
}

#[cfg(feature = "deflate")]
#[test]
fn the_extremes_of_every_setting_of_compression_are_served_or_refused() {
    use ikisocket::Deflate;
    let sets: [fn(Deflate, u8) -> Deflate; 3] =
        [Deflate::level, Deflate::server_window_bits, Deflate::client_window_bits];
    for set in sets {
        for number in [0, 1, 8, 9, 15, 16, u8::MAX] {
            try_out(Server::builder().deflate(set(Deflate::dedicated(), number)));
        }
    }
    for minimum in [0, 1, u32::MAX] {
        assert!(try_out(Server::builder().deflate(Deflate::shared().minimum(minimum))).is_some());
    }
}

#[test]
fn a_receive_buffer_that_no_machine_has_is_an_error() {
    for bytes in [(1 << 30) + 1, usize::MAX] {
        let error = Server::builder().receive_buffer(bytes).build(()).unwrap_err();
        assert!(
            matches!(error, BuildError::Setting { setting: "receive_buffer", .. }),
            "{error:?}"
        );
        assert_eq!(error.to_string(), "receive_buffer must be 1 KiB to 1 GiB");
    }
}

#[test]
fn an_origin_that_no_browser_sends_is_an_error_that_says_what_to_do() {
    for (origin, advice) in [
        ("https://*.example.org", "in a filter"),
        ("https://example.org:443", "write https://example.org"),
        ("https://example.org:", "there is no colon"),
        ("https://example.org:99999", "from 1 to 65535"),
        ("wss://example.org", "write https for wss"),
        ("https://[", "write it like https://example.org"),
    ] {
        let settings = Server::builder().origins(["https://example.org", origin]);
        let error = settings.build(()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{origin}` is not an origin")) && error.contains(advice),
            "{error}"
        );
        let mut server = Server::builder().build(()).unwrap();
        let refused = server
            .route_with("/", RouteOptions::default().origins([origin]), |_, _| {})
            .unwrap_err()
            .to_string();
        assert_eq!(refused, error);
    }
}
