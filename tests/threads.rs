//! A server starts no thread. Alone in its file, so that no other test's threads are counted.
#![cfg(target_os = "linux")]

mod common;

use std::time::Duration;

use common::{Client, server, turn_until};
use ikisocket::{Event, Shutdown};

fn threads() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("Threads:")).unwrap().to_owned()
}

#[test]
fn building_and_running_a_server_starts_no_thread() {
    let before = threads();
    let mut server = server();
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(threads());
    });
    assert_eq!(threads(), before);
    let mut ann = Client::connect(&mut server, "/ann");
    ann.send("how many?");
    assert_eq!(ann.text(&mut server), before);
    server.poll(Some(Duration::ZERO)).unwrap();
    server.sockets().shutdown(Shutdown::default()).unwrap();
    ann.end(&mut server);
    turn_until(&mut server, |server| server.is_finished());
    assert_eq!(threads(), before);
}
