//! Sockets on which a server listens, other than the addresses that it binds: Unix sockets, sockets
//! from another process, and those that systemd passes.
#![cfg(unix)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{Client, Diary, Entry, enter, server_with, turn_until, upgrade_request};
use ikisocket::protocol::{Decoded, Decoder, Message, Opcode, Role, Rules};
use ikisocket::{BindError, Event, Loops, PeerAddress, Server, Shutdown};

/// A path for a socket's file that nothing else uses, and that is gone when the test has ended.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ikisocket-{test}-{}.sock", std::process::id())))
    }
}

/// The file that `listen_unix_replacing_stale` locks.
fn lock_of(place: &Place) -> PathBuf {
    place.0.with_extension("sock.lock")
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A server on a Unix socket, with a route `/:name` and a diary.
fn server_at(place: &Place) -> Server<Diary> {
    let mut server = server_with(Server::builder());
    server.listen_unix(&place.0).unwrap();
    server.route("/:name", enter).unwrap();
    server
}

/// An upgraded client of a Unix socket that never blocks.
fn connect(server: &mut Server<Diary>, place: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(place).unwrap();
    stream.write_all(upgrade_request("/ann").as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut head = Vec::new();
    turn_until(server, |_| {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        head.ends_with(b"\r\n\r\n")
    });
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

// Many at once.

#[cfg(target_os = "linux")]
#[test]
fn hundreds_of_clients_can_connect_while_the_loop_is_busy() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let server = Server::bind("127.0.0.1:0", ()).unwrap();
    let address = server.local_addr().unwrap();
    // The loop does not turn.
    let clients: Vec<_> = (0..most.trim().parse::<usize>().unwrap().min(400))
        .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).unwrap())
        .collect();
    assert!(clients.len() >= 128, "mio's own limit would be enough");
}

// Unix sockets.

#[test]
fn a_unix_socket_carries_messages_longer_than_its_buffers_both_ways() {
    let place = Place::new("echo");
    let mut server = server_at(&place);
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    let mut ann = connect(&mut server, &place.0);
    let payload: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    let mut frame = Vec::new();
    ikisocket::protocol::FrameHeader {
        mask: Some([0; 4]),
        ..ikisocket::protocol::FrameHeader::new(Opcode::Binary, payload.len() as u64)
    }
    .encode(&mut frame);
    frame.extend_from_slice(&payload);

    let rules = Rules::default().role(Role::Client);
    let (mut sent, mut decoder, mut echoed) = (0, Decoder::new(), false);
    turn_until(&mut server, |_| {
        match ann.write(&frame[sent..]) {
            Ok(more) => sent += more,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut buffer = [0; 10_000];
        if let Ok(read) = ann.read(&mut buffer) {
            let mut input = &mut buffer[..read];
            if let Some(decoded) = decoder.decode(&mut input, &rules).unwrap() {
                assert!(decoded == Decoded::Message(Message::from(&payload)));
                echoed = true;
            }
        }
        echoed
    });
}

#[test]
fn a_peer_of_a_unix_socket_has_no_address_and_its_descriptor_is_there() {
    let place = Place::new("peer");
    let mut server = server_at(&place);
    let _ann = connect(&mut server, &place.0);
    common::with_socket(&mut server, "ann", |kws| {
        assert_eq!((kws.peer_address(), kws.peer_address().ip()), (PeerAddress::Unix, None));
        assert_eq!((kws.transport().local_address(), kws.transport().peer_address()), (None, None));
        assert!(
            socket2::SockRef::from(&kws.transport().fd().unwrap()).send_buffer_size().unwrap() > 0
        );
    });
    assert_eq!(server.local_addrs().len(), 1, "only the TCP address that the kit listens on");
}

#[cfg(target_os = "linux")]
#[test]
fn a_peer_of_a_unix_socket_may_have_an_address_of_any_length() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};
    let place = Place::new("address");
    let mut server = server_at(&place);
    let listening = SocketAddrUnix::new(&place.0).unwrap();
    let folder = std::env::temp_dir();
    // All 108 bytes: then the kernel adds a null byte, and the length is one more than there is
    // room for (unix(7)).
    for len in [100, 106, 107, 108] {
        let mut own = folder.join(format!("{}-", std::process::id())).into_os_string();
        own.push("x".repeat(len - own.len()));
        let own = Place(own.into());
        let peer = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&peer, &SocketAddrUnix::new(&own.0).unwrap()).unwrap();
        connect(&peer, &listening).unwrap();
        let mut peer = UnixStream::from(peer);
        peer.write_all(upgrade_request("/ann").as_bytes()).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut answer = [0; 12];
        turn_until(&mut server, |_| peer.read(&mut answer).is_ok());
        assert_eq!(&answer, b"HTTP/1.1 101", "{len} bytes");
    }
}

// IPv4 by a socket that listens for both.

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_has_an_ipv4_address_everywhere() {
    let mut server = common::memory_server_with(Server::builder());
    if let Err(error) = server.listen("[::]:0") {
        return eprintln!("not tested: this machine has no IPv6: {error}");
    }
    let port = server.local_addr().unwrap().port();
    server.filter(|diary: &mut Diary, _, incoming| {
        diary.note(format!("filter {}", incoming.peer_address()));
        Ok(())
    });
    server.route("/:name", enter).unwrap();
    for (ip, client) in [
        ("127.0.0.1", TcpStream::connect(("127.0.0.1", port))),
        ("::1", TcpStream::connect(("::1", port))),
    ] {
        let Ok(mut client) = client else {
            eprintln!("not tested: this machine does not answer at {ip} on that socket");
            continue;
        };
        client.write_all(upgrade_request(&format!("/{ip}")).as_bytes()).unwrap();
        turn_until(&mut server, |server| server.state().has(ip, "connect"));
        let (here, there) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        common::with_socket(&mut server, ip, |kws| {
            let peer = kws.peer_address();
            assert_eq!((peer, peer.to_string()), (PeerAddress::Tcp(here), here.to_string()));
            assert!(peer.ip().unwrap().is_loopback(), "{peer}");
            assert_eq!(peer.ip().unwrap().is_ipv4(), ip == "127.0.0.1");
            assert_eq!(
                (kws.transport().peer_address(), kws.transport().local_address()),
                (Some(here), Some(there))
            );
        });
        assert!(
            server.state().notes.contains(&format!("filter {here}")),
            "{:?}",
            server.state().notes
        );
    }

    // Bound to an IPv4 address in that form it says the same of itself.
    let mut server = Server::builder().build(Diary::default()).unwrap();
    if server.listen("[::ffff:127.0.0.1]:0").is_ok() {
        assert!(server.local_addr().unwrap().is_ipv4());
    }
}

#[test]
fn a_peer_that_ends_without_a_word_is_lost_on_a_unix_socket_too() {
    let place = Place::new("lost");
    let mut server = server_at(&place);
    drop(connect(&mut server, &place.0));
    turn_until(&mut server, |server| server.state().is_gone("ann"));
    let Entry { error, clean, .. } = server.state().only("ann", "disconnect");
    assert_eq!((error, clean), (&Some(ikisocket::Error::Lost), &false));
}

#[test]
fn a_sockets_file_is_removed_at_the_end_unless_another_took_its_place() {
    let place = Place::new("file");
    let mut server = server_at(&place);
    assert!(place.0.exists());
    server.sockets().shutdown(Shutdown::default()).unwrap();
    server.run().unwrap();
    assert!(!place.0.exists(), "the server listens no more");
    assert_eq!(server.listen_unix(&place.0), Err(BindError::ShutDown));

    let server = server_at(&place);
    std::fs::remove_file(&place.0).unwrap();
    let _successor = UnixListener::bind(&place.0).unwrap();
    drop(server);
    assert!(place.0.exists(), "it is the successor's");
}

#[test]
fn a_path_where_a_file_is_already_is_an_error_that_says_what_to_do() {
    let place = Place::new("stale");
    drop(UnixListener::bind(&place.0).unwrap()); // as a crash leaves it
    let mut server = Server::builder().build(()).unwrap();
    let error = server.listen_unix(&place.0).unwrap_err();
    let BindError::ListenUnix { path, error: cause } = &error else { panic!("{error:?}") };
    assert_eq!((path, cause.kind), (&place.0, ErrorKind::AddrInUse));
    assert!(
        error.to_string().contains("if no server listens there any more, remove it"),
        "{error}"
    );
    std::fs::remove_file(&place.0).unwrap();
    server.listen_unix(&place.0).unwrap();

    let error = server.listen_unix(place.0.join("no/such/directory")).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on /"), "{error}");
}

#[test]
fn a_path_that_is_too_long_is_an_error_that_says_so() {
    let mut server = Server::builder().build(()).unwrap();
    let error = server.listen_unix("/tmp/".to_owned() + &"x".repeat(200)).unwrap_err();
    assert!(error.to_string().ends_with("has 1 to 107 bytes"), "{error}");
}

#[test]
fn an_empty_path_is_an_error_and_makes_no_file() {
    let mut server = Server::builder().build(()).unwrap();
    for listen in [Server::listen_unix, Server::listen_unix_replacing_stale] {
        let error = listen(&mut server, "").unwrap_err();
        let said = "the path is empty; the path of a Unix socket has 1 to 107 bytes";
        assert!(error.to_string().ends_with(said), "{error}");
    }
    assert!(Loops::new(1).listen_unix("").is_err());
    assert_eq!(server.listening_fds().count(), 0);
    assert!(!Path::new(".lock").exists());
}

#[test]
fn a_socket_at_which_no_process_answers_is_replaced_and_no_other_file_is() {
    let place = Place::new("replaced");
    let [mut first, mut second] = [(); 2].map(|()| Server::builder().build(()).unwrap());
    drop(UnixListener::bind(&place.0).unwrap()); // as a crash leaves it
    first.listen_unix_replacing_stale(&place.0).unwrap();
    // Now there is one that answers, though it has not accepted.
    let taken = second.listen_unix_replacing_stale(&place.0).unwrap_err();
    assert!(
        matches!(&taken, BindError::ListenUnix { error, .. } if error.kind == ErrorKind::AddrInUse)
    );
    assert!(UnixStream::connect(&place.0).is_ok(), "the first server still listens there");
    drop(first);
    assert!(!place.0.exists());
    std::fs::write(&place.0, "not a socket").unwrap();
    second.listen_unix_replacing_stale(&place.0).unwrap_err();
    assert_eq!(std::fs::read_to_string(&place.0).unwrap(), "not a socket");
    std::fs::remove_file(lock_of(&place)).unwrap();
}

#[test]
fn of_servers_that_replace_a_stale_socket_at_the_same_time_one_listens() {
    let place = Place::new("race");
    for _ in 0..20 {
        drop(UnixListener::bind(&place.0).unwrap());
        let start = Barrier::new(4);
        let listening = thread::scope(|scope| {
            let attempt = || {
                let mut server = Server::builder().build(()).unwrap();
                start.wait();
                let listens = server.listen_unix_replacing_stale(&place.0).is_ok();
                start.wait(); // No thread stops before all have tried.
                listens
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&yes| yes).count()
        });
        assert_eq!(listening, 1);
    }
    std::fs::remove_file(lock_of(&place)).unwrap();
}

#[test]
fn the_descriptors_that_a_server_listens_on_can_be_passed_on() {
    let place = Place::new("fds");
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    server.listen_unix(&place.0).unwrap();
    server.listen_on(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let passed: Vec<_> =
        server.listening_fds().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    assert_eq!(passed.len(), 3);
    let addresses = server.local_addrs();
    let mut passed = passed.into_iter();
    let mut next = || passed.next().unwrap();
    let first = TcpListener::from(next());
    let unix = UnixListener::from(next());
    let third = TcpListener::from(next());
    assert_eq!([first, third].map(|socket| socket.local_addr().unwrap()), addresses[..]);
    assert_eq!(unix.local_addr().unwrap().as_pathname(), Some(&*place.0));
}

// Sockets from another process.

#[test]
fn a_handover_to_a_successor_refuses_no_attempt_to_connect() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut old = server_with(Server::builder());
    old.route("/:name", enter).unwrap();
    old.listen_on(socket.try_clone().unwrap()).unwrap();
    assert_eq!(old.local_addrs()[1], address);
    let mut new = server_with(Server::builder());
    new.route("/:name", enter).unwrap();

    let attempt = |turn: &mut dyn FnMut()| {
        let mut client = TcpStream::connect(address).expect("never refused");
        client.write_all(upgrade_request("/ann").as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        for _ in 0..1000 {
            let mut start = [0; 12];
            turn();
            match client.peek(&mut start) {
                Ok(12) => return assert_eq!(&start, b"HTTP/1.1 101"),
                Ok(read) => panic!("{read} bytes of a response"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        panic!("never answered");
    };
    let brief = Some(std::time::Duration::from_millis(1));
    attempt(&mut || {
        old.poll(brief).unwrap();
    });
    assert_eq!(old.state().ids.len(), 1);

    // In between, an attempt that the server has not accepted yet.
    let waiting = TcpStream::connect(address).unwrap();
    old.sockets().shutdown(Shutdown::default()).unwrap();
    new.listen_on(socket).unwrap();
    for _ in 0..20 {
        attempt(&mut || {
            old.poll(Some(std::time::Duration::ZERO)).unwrap();
            new.poll(brief).unwrap();
        });
    }
    assert_eq!(
        (old.state().all("ann", "connect").len(), new.state().all("ann", "connect").len()),
        (1, 20)
    );
    drop(waiting);
    assert!(old.local_addrs().is_empty());
}

#[test]
fn a_unix_socket_that_was_handed_over_keeps_its_file() {
    let place = Place::new("handed");
    let mut server = server_with(Server::builder());
    server.route("/:name", enter).unwrap();
    server.listen_on(UnixListener::bind(&place.0).unwrap()).unwrap();
    connect(&mut server, &place.0);
    drop(server);
    assert!(place.0.exists());
}

/// A socket that is bound, and does not listen.
fn bound() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_does_not_listen_is_not_listened_on() {
    let mut server = Server::builder().build(()).unwrap();
    let connected: std::os::fd::OwnedFd = UnixStream::pair().unwrap().0.into();
    assert_eq!(server.listen_on(bound()), Err(BindError::NotListening));
    assert_eq!(server.listen_on(UnixListener::from(connected)), Err(BindError::NotListening));
    assert_eq!(server.local_addrs(), []);
}

// A server that stops listening.

#[test]
fn a_server_that_stops_listening_keeps_its_peers_and_can_listen_again() {
    if common::only_plain("its sockets are plain, and they are what it is about") {
        return;
    }
    let place = Place::new("stop");
    let mut server = server_at(&place);
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    let address = server.local_addr().unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    let _unix = connect(&mut server, &place.0);
    let mut early = common::Raw::connect(&mut server);
    early.send(&upgrade_request("/bob").as_bytes()[..20]);
    turn_until(&mut server, |server| server.stats().accepted == 3);

    server.stop_listening();
    server.stop_listening();
    assert_eq!((server.local_addr(), place.0.exists()), (None, false));
    assert!(TcpStream::connect(address).is_err(), "no server listens");
    ann.send("still here");
    assert_eq!(ann.text(&mut server), "still here");
    early.send(&upgrade_request("/bob").as_bytes()[20..]);
    assert_eq!(early.read(&mut server, 12), b"HTTP/1.1 101");
    assert_eq!(server.sockets().len(), 3);

    server.listen(address).unwrap();
    let mut cid = Client::connect(&mut server, "/cid");
    cid.send("as before");
    assert_eq!(cid.text(&mut server), "as before");
}

#[test]
fn a_successor_gets_new_connections_and_the_old_server_keeps_its_own() {
    if common::only_plain("its sockets are plain, and they are what it is about") {
        return;
    }
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let [mut old, mut new] = [(); 2].map(|()| {
        let mut server = Server::builder().build(Diary::default()).unwrap();
        server.route("/:name", enter).unwrap();
        server.listen_on(socket.try_clone().unwrap()).unwrap();
        server
    });
    let mut ann = Client::connect(&mut old, "/ann");
    drop(socket);
    old.stop_listening();
    let clients = [(); 5].map(|()| Client::connect(&mut new, "/bob"));
    old.poll(Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!((old.stats().accepted, new.stats().accepted), (1, clients.len() as u64));
    old.sockets().broadcast("still here");
    assert_eq!(ann.text(&mut old), "still here");
}

// Sockets that systemd passes.

/// Starts this test's `role` in a process of its own, as systemd would: with `socket` as its
/// descriptor 3.
fn activated(role: &str, socket: impl Into<std::os::fd::OwnedFd>) -> std::process::Child {
    activated_as("LISTEN_PID=$$ LISTEN_FDS=1", role, socket)
}

/// The same with other variables. Descriptor 4 is no socket.
fn activated_as(
    variables: &str,
    role: &str,
    socket: impl Into<std::os::fd::OwnedFd>,
) -> std::process::Child {
    let test = std::env::current_exe().unwrap();
    Command::new("sh")
        .args([
            "-c",
            &format!("exec 3<&0 4>&1 </dev/null; {variables} exec \"$0\" --exact \"$1\" --ignored --nocapture"),
        ])
        .arg(test)
        .arg(role)
        .stdin(Stdio::from(socket.into()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_sockets_that_systemd_passes_are_listened_on() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut child = activated("activated_server", socket);
    let url = format!("ws://{address}/ann");
    let (mut client, _) = tungstenite::connect(url).unwrap();
    assert_eq!(client.read().unwrap(), tungstenite::Message::text("of 1"));
    drop(client);
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "the child of another test"]
fn activated_server() {
    let mut server = Server::builder().build(0).unwrap();
    *server.state_mut() = server.listen_fds().unwrap();
    assert_eq!(server.listen_fds(), Ok(0), "they are taken");
    server
        .route("/:name", |passed, kws| {
            kws.emit(format!("of {passed}"));
        })
        .unwrap();
    server.on(Event::Disconnect, |_, ep| ep.kws.sockets().shutdown(Shutdown::default()).unwrap());
    server.run().unwrap();
}

#[test]
fn a_passed_descriptor_that_is_no_stream_socket_is_named_in_the_error() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(activated("activated_with_the_wrong_socket", socket).wait().unwrap().success());
}

#[test]
#[ignore = "the child of another test"]
fn activated_with_the_wrong_socket() {
    let error = Server::builder().build(()).unwrap().listen_fds().unwrap_err();
    assert_eq!(error, BindError::ListenFd { index: 0 });
    assert!(error.to_string().contains("ListenStream="), "{error}");
}

#[test]
fn passed_descriptors_that_do_not_listen_are_errors_and_are_closed() {
    let connected = UnixStream::pair().unwrap().0; // as with Accept=yes
    assert!(
        activated("activated_with_a_socket_that_does_not_listen", connected)
            .wait()
            .unwrap()
            .success()
    );
    assert!(
        activated("activated_with_a_socket_that_does_not_listen", bound())
            .wait()
            .unwrap()
            .success()
    );
}

#[test]
#[ignore = "the child of another test"]
fn activated_with_a_socket_that_does_not_listen() {
    let mut server = Server::builder().build(()).unwrap();
    let error = server.listen_fds().unwrap_err();
    assert_eq!(error, BindError::ListenFd { index: 0 });
    assert!(error.to_string().contains("without Accept=yes"), "{error}");
    assert!(!is_socket(3), "it is closed");
}

/// Whether this descriptor of this process is a socket, as far as the system says.
fn is_socket(descriptor: u32) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}"))
        .is_ok_and(|what| what.to_string_lossy().starts_with("socket:"))
}

#[test]
fn of_several_passed_descriptors_none_is_listened_on_if_one_is_wrong() {
    let right = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = right.local_addr().unwrap();
    let mut child =
        activated_as("LISTEN_PID=$$ LISTEN_FDS=2", "activated_with_one_wrong_socket", right);
    assert!(child.wait().unwrap().success());
    assert!(TcpStream::connect(address).is_err(), "no process holds the socket any more");
}

#[test]
#[ignore = "the child of another test"]
fn activated_with_one_wrong_socket() {
    let mut server = Server::builder().build(()).unwrap();
    assert_eq!(server.listen_fds(), Err(BindError::ListenFd { index: 1 }));
    assert_eq!(server.local_addrs(), []);
    assert!(!is_socket(3), "the first of them is closed too");
}

#[test]
fn passed_descriptors_without_a_process_that_they_are_for_are_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = activated_as("LISTEN_FDS=1", "activated_without_a_pid", socket);
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "the child of another test"]
fn activated_without_a_pid() {
    assert_eq!(Server::builder().build(()).unwrap().listen_fds(), Ok(0));
}

#[test]
fn a_server_that_was_passed_no_socket_listens_on_none() {
    assert_eq!(Server::builder().build(()).unwrap().listen_fds(), Ok(0));
}

// Beside each other.

#[test]
fn connections_of_all_kinds_reach_each_other() {
    let place = Place::new("beside");
    let mut server = server_at(&place);
    let mut unix = connect(&mut server, &place.0);
    let mut tcp = Client::connect(&mut server, "/bob");
    assert_eq!(server.sockets().broadcast("to all"), 2);
    assert_eq!(tcp.text(&mut server), "to all");
    let mut frame = [0; 8];
    turn_until(&mut server, |_| unix.read(&mut frame).is_ok());
    assert_eq!(&frame, b"\x81\x06to all");
}
