//! The user's own sources in the loop: which is called when, with what, and for how long.
#![cfg(unix)]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::{Client, Diary, ON_PURPOSE, PATIENCE, quiet_panics, server, turn_until};
use ikisocket::mio::event::Source;
use ikisocket::mio::net::UdpSocket;
use ikisocket::mio::{Interest, Registry, Token};
use ikisocket::{Fd, Readiness, Server, Sockets, SourceId};

/// A UDP socket that says by its count of owners whether it is still there.
struct Feed {
    socket: UdpSocket,
    _alive: Rc<()>,
}

impl Source for Feed {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}

impl Feed {
    fn bind() -> (Self, SocketAddr, Rc<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, alive) = (socket.local_addr().unwrap(), Rc::new(()));
        (Self { socket, _alive: alive.clone() }, address, alive)
    }

    /// The next datagram, if there is one.
    fn next(&mut self) -> Option<String> {
        let mut packet = [0; 1500];
        match self.socket.recv(&mut packet) {
            Ok(len) => Some(String::from_utf8_lossy(&packet[..len]).into_owned()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }
}

/// Sends datagrams; over the loopback they are there when this returns.
fn send(to: SocketAddr, datagrams: &[&str]) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in datagrams {
        socket.send_to(datagram.as_bytes(), to).unwrap();
    }
}

/// A callback that notes every datagram.
fn note_all(diary: &mut Diary, _: &mut Sockets<'_, Diary>, feed: &mut Feed, _: Readiness) {
    while let Some(datagram) = feed.next() {
        diary.note(datagram);
    }
}

#[track_caller]
fn notes(server: &mut Server<Diary>, enough: usize) -> Vec<String> {
    turn_until(server, |server| server.state().notes.len() >= enough);
    std::mem::take(&mut server.state_mut().notes)
}

#[test]
fn a_source_is_called_with_the_state_and_the_sockets_and_can_broadcast() {
    let mut server = server();
    let mut ann = Client::connect(&mut server, "/ann");
    let (feed, address, _) = Feed::bind();
    let id = server
        .add_source(feed, Interest::READABLE, |diary: &mut Diary, sockets, feed, ready| {
            diary.note(format!("{:?} {}", ready.id, ready.readable));
            while let Some(datagram) = feed.next() {
                sockets.broadcast(datagram);
            }
        })
        .unwrap();
    send(address, &["one", "two"]);
    assert_eq!([(); 2].map(|()| ann.text(&mut server)), ["one", "two"]);
    assert_eq!(server.state().notes[0], format!("{id:?} true"));
}

#[test]
fn a_source_ends_a_wait_without_end() {
    let mut server = server();
    let (feed, address, _) = Feed::bind();
    server.add_source(feed, Interest::READABLE, note_all).unwrap();
    let sender = std::thread::spawn(move || send(address, &["wake up"]));
    while server.state().notes.is_empty() {
        server.poll(None).unwrap();
    }
    sender.join().unwrap();
    assert_eq!(server.state().notes, ["wake up"]);
}

#[test]
fn a_source_that_stops_early_can_ask_for_another_call_after_the_others() {
    let mut server = server();
    let (feed, address, _) = Feed::bind();
    server
        .add_source(feed, Interest::READABLE, |diary: &mut Diary, sockets, feed, ready| {
            assert!(ready.readable && !ready.writable);
            if let Some(datagram) = feed.next() {
                diary.note(datagram);
                assert!(sockets.wake_source(ready.id));
            }
        })
        .unwrap();
    let mut ann = Client::connect(&mut server, "/ann");
    send(address, &["one", "two", "three"]);
    ann.send("between");
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().sources, 1);
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
    // No event announces the other datagrams, so these turns must not wait. The last finds none.
    for _ in 0..3 {
        assert_eq!(server.poll(Some(PATIENCE)).unwrap().sources, 1);
    }
    assert_eq!(server.state().notes, ["one", "two", "three"]);
    assert!(server.state().has("ann", "message"));
    assert_ne!(server.next_timeout(), Some(Duration::ZERO));
}

#[test]
fn a_source_that_is_removed_is_dropped_and_not_called_any_more() {
    let mut server = server();
    let (feed, address, alive) = Feed::bind();
    let id = server.add_source(feed, Interest::READABLE, note_all).unwrap();
    send(address, &["before"]);
    assert_eq!(notes(&mut server, 1), ["before"]);
    send(address, &["too late"]);
    assert!(server.remove_source(id));
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().sources, 0);
    assert!(!server.remove_source(id) && !server.sockets().wake_source(id));
}

#[test]
fn a_source_can_remove_itself_in_its_own_callback() {
    let mut server = server();
    let (feed, address, alive) = Feed::bind();
    server
        .add_source(feed, Interest::READABLE, |diary: &mut Diary, sockets, feed, ready| {
            assert!(sockets.remove_source(ready.id) && !sockets.remove_source(ready.id));
            diary.note(feed.next().expect("it is still there"));
        })
        .unwrap();
    send(address, &["one", "two"]);
    assert_eq!(notes(&mut server, 1), ["one"]);
    assert_eq!((Rc::strong_count(&alive), server.next_timeout()), (1, None));
}

#[test]
fn a_source_that_another_removed_in_the_same_turn_is_not_called() {
    let mut server = Server::builder().build(Vec::new()).unwrap();
    // Whichever comes first removes all the others.
    let only_me =
        |ids: &mut Vec<SourceId>, sockets: &mut Sockets<'_, _>, _: &mut Feed, ready: Readiness| {
            ids.retain(|&id| id == ready.id || !sockets.remove_source(id));
        };
    let mut addresses = Vec::new();
    for _ in 0..5 {
        let (feed, address, _) = Feed::bind();
        let id = server.add_source(feed, Interest::READABLE, only_me).unwrap();
        server.state_mut().push(id);
        addresses.push(address);
    }
    addresses.iter().for_each(|&address| send(address, &["x"]));
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().sources, 1);
    assert_eq!(server.state().len(), 1);
}

#[test]
fn a_source_can_add_another() {
    let mut server = server();
    let (first, to_first, _) = Feed::bind();
    server
        .add_source(first, Interest::READABLE, |diary: &mut Diary, sockets, feed, _| {
            while feed.next().is_some() {
                let (second, address, _) = Feed::bind();
                sockets.add_source(second, Interest::READABLE, note_all).unwrap();
                send(address, &["from the second"]);
                diary.note("from the first");
            }
        })
        .unwrap();
    send(to_first, &["go"]);
    assert_eq!(notes(&mut server, 2), ["from the first", "from the second"]);
}

#[test]
fn sources_connections_and_listeners_are_never_taken_for_each_other() {
    let mut server = server();
    let mut addresses = Vec::new();
    let mut clients = Vec::new();
    for number in 0..20 {
        let (feed, address, _) = Feed::bind();
        let expected = number.to_string();
        server
            .add_source(feed, Interest::READABLE, move |diary: &mut Diary, _, feed, _| {
                while let Some(datagram) = feed.next() {
                    assert_eq!(datagram, expected);
                    diary.note(datagram);
                }
            })
            .unwrap();
        addresses.push(address);
        clients.push(Client::connect(&mut server, &format!("/{number}")));
    }
    for (number, (address, client)) in addresses.iter().zip(&mut clients).enumerate() {
        send(*address, &[&number.to_string()]);
        client.send(format!("message {number}"));
    }
    assert_eq!(notes(&mut server, 20).len(), 20);
    turn_until(&mut server, |server| {
        (0..20).all(|number| server.state().has(&number.to_string(), "message"))
    });
    for number in 0..20 {
        assert_eq!(
            server.state().only(&number.to_string(), "message").data,
            format!("message {number}")
        );
    }
}

#[test]
fn a_panic_in_a_source_reaches_the_panic_handler_and_the_source_stays() {
    quiet_panics();
    let mut server = server();
    server.on_panic(|diary, panic| diary.note(format!("{} {:?}", panic.event, panic.uuid)));
    let (feed, address, _) = Feed::bind();
    server
        .add_source(feed, Interest::READABLE, |diary: &mut Diary, _, feed, _| {
            while let Some(datagram) = feed.next() {
                assert!(datagram != "bad", "{ON_PURPOSE}");
                diary.note(datagram);
            }
        })
        .unwrap();
    send(address, &["bad"]);
    assert_eq!(notes(&mut server, 1), ["source None"]);
    send(address, &["good"]);
    assert_eq!(notes(&mut server, 1), ["good"]);
}

#[test]
fn the_sources_of_a_server_go_with_it() {
    let mut server = server();
    let (feed, _, alive) = Feed::bind();
    server.add_source(feed, Interest::READABLE | Interest::WRITABLE, note_all).unwrap();
    assert_eq!(Rc::strong_count(&alive), 2);
    drop(server);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_watched_is_an_error() {
    let mut server = server();
    let file = Fd::new(std::fs::File::open(std::env::current_exe().unwrap()).unwrap());
    let error = server.add_source(file, Interest::READABLE, |_, _, _, _| {}).unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
}

#[test]
fn any_descriptor_can_be_a_source_and_is_closed_when_it_is_removed() {
    let mut server = server();
    let (reader, mut writer) = io::pipe().unwrap();
    let pipe = Fd::nonblocking(reader).unwrap();
    let id = server.add_source(pipe, Interest::READABLE, |diary, _, pipe, _| {
        let mut text = Vec::new();
        let end = pipe.read_to_end(&mut text);
        assert_eq!(end.unwrap_err().kind(), ErrorKind::WouldBlock);
        diary.notes.push(String::from_utf8(text).unwrap());
    });
    writer.write_all(b"through").unwrap();
    assert_eq!(notes(&mut server, 1), ["through"]);
    writer.write_all(b"a pipe").unwrap();
    assert_eq!(notes(&mut server, 1), ["a pipe"]);
    assert!(server.remove_source(id.unwrap()));
    assert_eq!(writer.write(b"?").unwrap_err().kind(), ErrorKind::BrokenPipe);
}
