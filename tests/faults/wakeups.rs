//! Wake-ups without a reason: the poll says that there is something, and there is nothing.

use std::io::Read;
use std::net::TcpStream;
use std::rc::Rc;

use std::cell::RefCell;
use std::time::Duration;

use ikisocket::{Event, Server, Turn};
use socket2::SockRef;

use crate::kit::*;
use crate::stages::{STAGES, assert_served, obliging};

#[test]
fn a_socket_that_is_said_to_be_readable_and_is_empty_changes_nothing() {
    if only_plain("bytes that are taken away break a session") {
        return;
    }
    /// The server's own ends of both connections, as another reader.
    type Ends = Rc<RefCell<Vec<TcpStream>>>;
    let ends = Ends::default();
    let mut server = server(Server::builder());
    let collect = ends.clone();
    let keep = move |_: &mut Log, kws: &mut ikisocket::Socket<'_, Log>| {
        collect
            .borrow_mut()
            .push(SockRef::from(&kws.transport().fd().unwrap()).try_clone().unwrap().into());
    };
    server.route("/ws", keep).unwrap();
    // The first listener takes the input of all other connections away, after the poll has already
    // reported it.
    let steal = ends.clone();
    server.on(Event::Message, move |log, ep| {
        for mut end in steal.borrow().iter() {
            while let Ok(read @ 1..) = end.read(&mut [0; 100]) {
                log.push(format!("{read} bytes taken away"));
            }
        }
        ep.kws.emit(ep.data);
    });
    let mut ann = Peer::open(&mut server, "/ws");
    let mut bob = Peer::open(&mut server, "/ws");
    server.state_mut().clear();
    let message = frame(TEXT, "hello");
    ann.send_at_once(&message);
    bob.send_at_once(&message);
    let turn = server.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(turn.messages, 1);
    assert_eq!(
        *server.state(),
        ["message \"hello\"".to_owned(), format!("{} bytes taken away", message.len())]
    );
    // No connection has suffered from it.
    ends.borrow_mut().clear();
    assert_served(&mut server, &mut ann, "after");
    assert_served(&mut server, &mut bob, "after");
}

#[test]
fn turns_without_a_reason_change_nothing_at_any_stage() {
    for stage in STAGES {
        let mut server = obliging(Server::builder());
        let mut peer = (stage.enter)(&mut server);
        turn(&mut server);
        let told = server.state().clone();
        for _ in 0..100 {
            let quiet = server.poll(Some(Duration::ZERO)).unwrap();
            assert_eq!(quiet, Turn::default(), "{}", stage.name);
        }
        assert_eq!(*server.state(), told, "{}", stage.name);
        assert_ne!(server.next_timeout(), Some(Duration::ZERO), "{}: the loop spins", stage.name);
        // The connection is not lost either.
        peer.finish();
        crate::stages::turn_until_let_go(&mut server, Some(&mut peer), || {});
    }
}
