//! What the library promises of TLS, over sockets: settings, agreement, failures, ends.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use common::tls::certificates::{certificate, client, file, tls_as};
use common::{Diary, PATIENCE, enter, memory_server_with, turn_for, turn_until};
use ikisocket::{
    ClientCertificates, Error, Event, Server, Tls, TlsError, TlsFailure, TlsInfo, TlsVersion,
};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use tungstenite::{HandshakeError, Message, WebSocket};

/// A server that speaks TLS at a free port, with a diary and a route `/:name` that sends each
/// message back.
fn server(tls: &Tls) -> Server<Diary> {
    let mut server = memory_server_with(Server::builder().max_message(4 << 20).max_outbox(4 << 20));
    server.route("/:name", enter).unwrap();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.listen_tls("127.0.0.1:0", tls).unwrap();
    server
}

// The client.

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// The settings of a client that trusts the root of the tests, perhaps with a certificate.
fn settings(own: Option<&str>) -> ClientConfig {
    client(rustls::ALL_VERSIONS, "root", own)
}

fn stream<S>(server: &Server<S>, settings: &Arc<ClientConfig>, name: &str) -> Stream {
    let socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(settings), name).unwrap(), socket)
}

/// The result of an attempt that would block, if it has one.
fn settled<R>(result: std::io::Result<R>) -> Option<std::io::Result<R>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

/// Connects to `/ann`.
fn try_connect<S>(
    server: &mut Server<S>,
    settings: &Arc<ClientConfig>,
    name: &str,
) -> Result<WebSocket<Stream>, tungstenite::Error> {
    let stream = stream(server, settings, name);
    let mut attempt = Some(tungstenite::client(format!("ws://{name}/ann"), stream));
    turn_for(server, |_| match attempt.take()? {
        Ok((ws, _)) => Some(Ok(ws)),
        Err(HandshakeError::Failure(error)) => Some(Err(error)),
        Err(HandshakeError::Interrupted(unfinished)) => {
            attempt = Some(unfinished.handshake());
            None
        }
    })
}

#[track_caller]
fn connect<S>(server: &mut Server<S>, settings: &Arc<ClientConfig>) -> WebSocket<Stream> {
    try_connect(server, settings, "localhost").unwrap()
}

fn next<S>(server: &mut Server<S>, ws: &mut WebSocket<Stream>) -> Message {
    turn_for(server, |_| match ws.read() {
        Ok(message) => Some(message),
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    })
}

/// Sends a message and waits until it has come back.
fn echo<S>(server: &mut Server<S>, ws: &mut WebSocket<Stream>, message: Message) {
    ws.write(message.clone()).unwrap();
    turn_until(server, |_| match ws.flush() {
        Ok(()) => true,
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    });
    assert!(next(server, ws) == message, "another message came back");
}

/// The certificate that the server has shown.
fn shown(ws: &WebSocket<Stream>) -> CertificateDer<'static> {
    ws.get_ref().conn.peer_certificates().unwrap()[0].clone()
}

/// What the server's only connection knows of its session.
fn info(server: &mut Server<Diary>) -> TlsInfo {
    let (diary, mut sockets) = server.lend();
    sockets.get(diary.id("ann")).unwrap().tls().unwrap()
}

/// Sends bytes to the server and reads what it answers, to the end.
fn answer(server: &mut Server<Diary>, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.write_all(bytes).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut answer = Vec::new();
    turn_for(server, |_| settled(socket.read_to_end(&mut answer))).unwrap();
    answer
}

// Messages.

#[test]
fn messages_of_all_lengths_come_back_over_both_versions() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut server = server(&tls_as("localhost"));
        let settings = client(&[version], "root", None);
        let mut ws = connect(&mut server, &Arc::new(settings));
        for len in [0, 1, 20, 125, 126, 16_000, 16_384, 16_385, 65_536, 1 << 20] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            echo(&mut server, &mut ws, Message::from(payload));
        }
        let stats = server.stats().tls;
        let expected = if info(&mut server).version == TlsVersion::Tls12 { (1, 0) } else { (0, 1) };
        assert_eq!((stats.tls12, stats.tls13), expected);
    }
}

#[test]
fn one_server_speaks_tls_at_one_port_and_plain_at_another() {
    let mut server = server(&tls_as("localhost"));
    let plain = server.listen("127.0.0.1:0").unwrap();
    let settings = Arc::new(settings(None));
    let mut over_tls = connect(&mut server, &settings);
    let mut without = common::Client::request(&mut server, format!("ws://{plain}/bob")).unwrap();
    server.sockets().broadcast("to both");
    assert_eq!(next(&mut server, &mut over_tls), Message::from("to both"));
    assert_eq!(without.text(&mut server), "to both");
    let (diary, mut sockets) = server.lend();
    assert!(sockets.get(diary.id("bob")).unwrap().tls().is_none());
}

#[test]
#[cfg(unix)]
fn handed_over_and_unix_sockets_speak_tls() {
    let mut server = memory_server_with(Server::builder());
    server.route("/:name", enter).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.listen_on_tls(listener, &tls_as("localhost")).unwrap();
    let settings = Arc::new(settings(None));
    connect(&mut server, &settings);

    let path = std::env::temp_dir().join(format!("ikisocket-tls-{}", std::process::id()));
    server.listen_unix_tls(&path, &tls_as("localhost")).unwrap();
    let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(settings, name).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    turn_for(&mut server, |_| settled(stream.write_all(b"GET / HTTP/1.1\r\n\r\n"))).unwrap();
    let mut head = [0; 12];
    turn_for(&mut server, |_| settled(stream.read(&mut head))).unwrap();
    assert_eq!(&head, b"HTTP/1.1 400");
}

// Certificates.

#[test]
fn each_name_has_its_certificate_and_other_names_have_the_first() {
    let tls = tls_as("localhost");
    tls.name("Chat.example", &file("example.pem"), &file("example.key")).unwrap();
    tls.name("*.example.org.", &file("example.pem"), &file("example.key")).unwrap();
    let mut server = server(&tls);
    let settings = Arc::new(settings(None));
    for (name, expected) in [
        ("localhost", "localhost"),
        ("chat.example", "example"),
        ("CHAT.EXAMPLE", "example"),
        ("any.example.org", "example"),
        ("127.0.0.1", "localhost"),
    ] {
        let ws = try_connect(&mut server, &settings, name).unwrap();
        assert_eq!(shown(&ws), certificate(expected), "{name}");
        let asked = (name != "127.0.0.1").then(|| name.to_ascii_lowercase());
        assert_eq!(info(&mut server).server_name, asked);
    }
    // A star stands for one label.
    for name in ["example.org", "a.b.example.org", "elsewhere.example"] {
        assert!(try_connect(&mut server, &settings, name).is_err(), "{name}");
    }
    assert!(tls.forget_name("chat.EXAMPLE"));
    assert!(!tls.forget_name("chat.example"));
    let fresh = Arc::new(self::settings(None)); // without a ticket
    assert!(try_connect(&mut server, &fresh, "chat.example").is_err());
}

#[test]
fn a_replaced_certificate_is_shown_to_new_connections_alone() {
    let tls = tls_as("localhost");
    let mut server = server(&tls);
    let client = Arc::new(settings(None));
    let mut old = connect(&mut server, &client);
    assert_eq!(shown(&old), certificate("localhost"));
    let error = tls.replace(&file("renewed.pem"), &file("localhost.key")).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    let fresh = || Arc::new(settings(None));
    assert_eq!(shown(&connect(&mut server, &fresh())), certificate("localhost"));

    tls.replace(&file("renewed.pem"), &file("renewed.key")).unwrap();
    assert_eq!(shown(&connect(&mut server, &fresh())), certificate("renewed"));
    echo(&mut server, &mut old, Message::from("still there"));
    // Its ticket is valid too.
    let resumed = connect(&mut server, &client);
    assert_eq!(resumed.get_ref().conn.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let key = &file("localhost.key");
    let chain = &file("localhost.pem");
    let stranger = include_bytes!("tls/bob.key");
    let encrypted =
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    for (result, text) in [
        (Tls::pem("/nowhere.pem", key), "cannot read /nowhere.pem: No such file"),
        (Tls::pem(key, key), "localhost.key has no certificate in it: it needs a PEM section"),
        (Tls::pem(chain, chain), "localhost.pem has no private key in it: it needs a PEM section"),
        (Tls::pem(chain, encrypted), "an encrypted one: decrypt it first"),
        (Tls::pem(chain, stranger), "does not belong to the first certificate of"),
        (Tls::pem(b"-----BEGIN CERTIFICATE-----\n", key), "a text of 28 bytes cannot be used"),
    ] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(format!("{error:?}"), error.to_string(), "as `main` prints it");
    }
    let tls = tls_as("localhost");
    for (name, text) in [
        ("chat.example", "`chat.example`: the certificate is not valid for it"),
        ("*.example.org", "`*.example.org`: the certificate is not valid for it"),
        ("127.0.0.1", "`127.0.0.1`: it is not a DNS name"),
        ("", "``: it is not a DNS name"),
    ] {
        assert_eq!(tls.name(name, chain, key).unwrap_err().to_string(), text);
    }
}

// The clients' certificates.

#[test]
fn a_required_certificate_is_shown_to_filters_or_the_client_is_refused() {
    let tls = tls_as("localhost");
    tls.client_certificates(&file("root.pem"), ClientCertificates::Required).unwrap();
    let mut server = server(&tls);
    server.filter(|diary, _, incoming| {
        let tls = incoming.tls().unwrap();
        diary.note(format!("{} certificates", tls.certificates.len()));
        Ok(())
    });
    let known = Arc::new(settings(Some("ann")));
    let mut ws = connect(&mut server, &known);
    echo(&mut server, &mut ws, Message::from("hello"));
    assert_eq!(info(&mut server).certificates, [certificate("ann").to_vec()]);
    // A resumed session has the certificate of the first.
    let ws = connect(&mut server, &known);
    assert_eq!(ws.get_ref().conn.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(server.state().notes, ["1 certificates", "1 certificates"]);

    for (own, alert) in [(None, "CertificateRequired"), (Some("bob"), "UnknownCA")] {
        let error = try_connect(&mut server, &Arc::new(settings(own)), "localhost").unwrap_err();
        assert!(error.to_string().contains(alert), "{error}");
    }
    let failures = server.stats().tls.failures;
    assert_eq!((failures.certificate_missing, failures.certificate), (1, 1));
    assert_eq!(failures.total(), 2);
}

#[test]
fn a_requested_certificate_may_be_missing_but_not_be_a_strangers() {
    let tls = tls_as("localhost");
    tls.client_certificates(&file("root.pem"), ClientCertificates::Requested).unwrap();
    let mut server = server(&tls);
    connect(&mut server, &Arc::new(settings(None)));
    assert!(info(&mut server).certificates.is_empty());
    connect(&mut server, &Arc::new(settings(Some("ann"))));
    assert_eq!(info(&mut server).certificates.len(), 1);
    assert!(try_connect(&mut server, &Arc::new(settings(Some("bob"))), "localhost").is_err());
}

#[test]
fn other_roots_end_the_validity_of_tickets() {
    let tls = tls_as("localhost");
    let mut server = server(&tls);
    let settings = Arc::new(settings(Some("ann")));
    let kinds = |ws: WebSocket<Stream>| ws.get_ref().conn.handshake_kind();
    connect(&mut server, &settings);
    assert_eq!(kinds(connect(&mut server, &settings)), Some(HandshakeKind::Resumed));
    tls.client_certificates(&file("root.pem"), ClientCertificates::Required).unwrap();
    assert_eq!(kinds(connect(&mut server, &settings)), Some(HandshakeKind::Full));
    assert_eq!(info(&mut server).certificates.len(), 1);
}

// Agreement.

#[test]
fn what_was_agreed_on_is_known_and_counted() {
    let mut server = server(&tls_as("localhost"));
    let mut client = settings(None);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Arc::new(client);
    connect(&mut server, &client);
    let first = info(&mut server);
    assert_eq!(first.version, TlsVersion::Tls13);
    assert!(first.cipher_suite.starts_with("TLS_AES_"), "{}", first.cipher_suite);
    assert_eq!(first.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(first.server_name.as_deref(), Some("localhost"));
    assert!(!first.resumed);
    connect(&mut server, &client);
    assert!(info(&mut server).resumed);
    let stats = server.stats();
    assert_eq!((stats.tls.tls13, stats.tls.tls12, stats.tls.resumed), (2, 0, 1));
    assert_eq!(stats.tls.failures.total(), 0);
    let page = stats.to_prometheus();
    assert!(page.contains("ikisocket_tls_handshakes_total{version=\"1.3\"} 2\n"), "{page}");
    assert!(page.contains("ikisocket_tls_resumed_total 1\n"), "{page}");
}

#[test]
fn a_client_that_speaks_only_http_2_is_refused() {
    let mut server = server(&tls_as("localhost"));
    let mut client = settings(None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let error = try_connect(&mut server, &Arc::new(client), "localhost").unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    assert_eq!(server.stats().tls.failures.alpn, 1);
}

#[test]
fn early_data_is_refused() {
    let mut server = server(&tls_as("localhost"));
    let mut client = settings(None);
    client.enable_early_data = true;
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    connect(&mut server, &client);
    let mut second = stream(&server, &client, "localhost");
    assert!(second.conn.early_data().is_none(), "the ticket allows none");
    turn_for(&mut server, |_| settled(second.conn.complete_io(&mut second.sock))).unwrap();
    assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed));
}

// What is no TLS.

#[test]
fn a_plain_request_at_a_tls_port_gets_a_readable_400() {
    let mut server = server(&tls_as("localhost"));
    let text =
        String::from_utf8(answer(&mut server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(body.contains("https:// or wss://"), "{body}");
    assert_eq!(server.stats().tls.failures.plain_http, 1);
}

#[test]
fn a_plain_head_request_at_a_tls_port_gets_the_400_without_a_body() {
    let mut server = server(&tls_as("localhost"));
    let text =
        String::from_utf8(answer(&mut server, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
    assert!(text.contains("\r\nContent-Length: 51\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn bytes_that_are_no_tls_end_the_connection_and_are_counted() {
    let mut server = server(&tls_as("localhost"));
    assert_eq!(answer(&mut server, b"\x00\x01\x02"), b"");
    assert_eq!(server.stats().tls.failures.not_tls, 1);
    // A handshake that begins with `finished` gets an alert: type 21, level fatal.
    let alert = answer(&mut server, b"\x16\x03\x01\x00\x05\x14\x00\x00\x01x");
    assert_eq!((alert[0], alert[5]), (21, 2), "{alert:?}");
    assert_eq!(server.stats().tls.failures.other, 1);
}

#[test]
fn an_alert_of_the_client_is_counted_by_its_name() {
    let mut server = server(&tls_as("localhost"));
    let client = client(rustls::ALL_VERSIONS, "stranger", None);
    let error = try_connect(&mut server, &Arc::new(client), "localhost").unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    turn_until(&mut server, |server| server.stats().tls.failures.alert == 1);
}

// Ends.

#[test]
fn a_close_frame_is_followed_by_close_notify_and_fin() {
    let mut server = server(&tls_as("localhost"));
    let mut ws = connect(&mut server, &Arc::new(settings(None)));
    ws.close(None).unwrap();
    turn_until(&mut server, |_| match ws.read() {
        Err(tungstenite::Error::ConnectionClosed) => true,
        Err(tungstenite::Error::Io(error)) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            false
        }
        other => {
            assert!(matches!(other, Ok(Message::Close(_))), "{other:?}");
            false
        }
    });
    // rustls reports FIN without close_notify as an error.
    let mut rest = Vec::new();
    turn_for(&mut server, |_| settled(ws.get_mut().read_to_end(&mut rest))).unwrap();
    assert!(rest.is_empty());
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    assert!(server.state().only("ann", "disconnect").clean);
}

#[test]
fn fin_without_close_notify_is_reported_as_truncation() {
    let mut server = server(&tls_as("localhost"));
    let settings = Arc::new(settings(None));
    for (notify, expected) in [(false, Error::Tls(TlsFailure::Truncated)), (true, Error::Lost)] {
        let mut ws = connect(&mut server, &settings);
        echo(&mut server, &mut ws, Message::from("hello"));
        if notify {
            ws.get_mut().conn.send_close_notify();
            turn_for(&mut server, |_| settled(ws.get_mut().flush())).unwrap();
        }
        ws.get_ref().sock.shutdown(Shutdown::Write).unwrap();
        turn_until(&mut server, |server| server.state().is_gone("ann"));
        let gone = server.state().only("ann", "disconnect");
        assert_eq!(gone.error, Some(expected));
        server.state_mut().entries.clear();
    }
    let gone = server.stats().disconnects;
    assert_eq!((gone.tls, gone.lost), (1, 1));
}

#[test]
fn a_broken_record_ends_the_connection_with_an_alert_and_an_error() {
    let mut server = server(&tls_as("localhost"));
    let mut ws = connect(&mut server, &Arc::new(settings(None)));
    echo(&mut server, &mut ws, Message::from("hello"));
    let mut record = vec![23, 3, 3, 0, 40];
    record.extend([7; 40]);
    ws.get_mut().sock.write_all(&record).unwrap();
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    let error = server.state().only("ann", "disconnect").error.clone();
    assert!(matches!(error, Some(Error::Tls(TlsFailure::Other(_)))), "{error:?}");
    let mut rest = Vec::new();
    let end = turn_for(&mut server, |_| settled(ws.get_mut().read_to_end(&mut rest)));
    assert!(end.unwrap_err().to_string().contains("BadRecordMac"));
}

#[test]
fn a_shutdown_closes_connections_over_tls_with_close_frames() {
    let mut server = server(&tls_as("localhost"));
    let mut ws = connect(&mut server, &Arc::new(settings(None)));
    server.sockets().shutdown(ikisocket::Shutdown::default()).unwrap();
    assert!(matches!(next(&mut server, &mut ws), Message::Close(Some(_))));
    let started = std::time::Instant::now();
    while !server.is_finished() {
        let _ = ws.read();
        server.poll(Some(std::time::Duration::from_millis(1))).unwrap();
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(server.finished().unwrap().remained, 0);
}

// Changes while it runs.

#[test]
fn no_connection_fails_while_the_certificate_is_replaced_again_and_again() {
    const CLIENTS: usize = 4;
    const CONNECTIONS: usize = 40;
    let tls = tls_as("localhost");
    let (sender, receiver) = std::sync::mpsc::channel();
    let settings_of_server = tls.clone();
    let thread = std::thread::spawn(move || {
        let mut server = Server::builder().build(()).unwrap();
        server.route("/ws", |_, kws| _ = kws.emit("welcome")).unwrap();
        let address = server.listen_tls("127.0.0.1:0", &settings_of_server).unwrap();
        sender.send((address, server.handle())).unwrap();
        server.run().unwrap();
        server.stats().tls
    });
    let (address, handle) = receiver.recv().unwrap();
    let client = move || {
        let mut seen = [0; 2];
        for _ in 0..CONNECTIONS {
            let socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connection = ClientConnection::new(Arc::new(settings(None)), name).unwrap();
            let stream = StreamOwned::new(connection, socket);
            let (mut ws, _) = tungstenite::client("ws://localhost/ws", stream).unwrap();
            assert_eq!(ws.read().unwrap(), Message::from("welcome"));
            seen[usize::from(shown(&ws) == certificate("renewed"))] += 1;
        }
        seen
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| std::thread::spawn(client)).collect();
    let mut replaced = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        let name = ["renewed", "localhost"][replaced % 2];
        let (chain, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        tls.replace(&chain, &key).unwrap();
        replaced += 1;
    }
    let seen = clients.into_iter().map(|client| client.join().unwrap());
    let seen = seen.fold([0; 2], |sum, seen| [sum[0] + seen[0], sum[1] + seen[1]]);
    assert_eq!(seen[0] + seen[1], CLIENTS * CONNECTIONS);
    assert!(replaced > 1 && seen[1] > 0, "{replaced} times, {seen:?}");
    handle.shutdown(ikisocket::Shutdown::default()).unwrap();
    let stats = thread.join().unwrap();
    assert_eq!((stats.tls13, stats.failures.total()), ((CLIENTS * CONNECTIONS) as u64, 0));
}

// What the environment decides: each in a process of its own.

fn child(name: &str, variable: &str, value: &std::path::Path) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--ignored"]).env(variable, value);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_secrets_of_sessions_are_logged_for_debugging_if_that_is_asked_for() {
    let log = std::env::temp_dir().join(format!("ikisocket-keys-{}", std::process::id()));
    child("serves_with_a_key_log", "SSLKEYLOGFILE", &log);
    let lines = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert!(lines.contains("SERVER_TRAFFIC_SECRET_0 "), "{lines}");
}

#[test]
#[ignore = "the child of another test"]
fn serves_with_a_key_log() {
    let tls = tls_as("localhost");
    let mut server = server(&tls);
    let log = std::env::var_os("SSLKEYLOGFILE").unwrap();
    connect(&mut server, &Arc::new(settings(None)));
    assert!(!std::fs::exists(&log).unwrap(), "it was not asked for");
    tls.key_log().unwrap();
    connect(&mut server, &Arc::new(settings(None)));
}
