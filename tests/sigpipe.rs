//! No write raises SIGPIPE, which would end a host that does not ignore it: a program in another
//! language, for instance. Alone in its file, because signals belong to the whole process.
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{turn_until, upgrade_request};
use ikisocket::Server;
use socket2::SockRef;

/// Goes away with a reset behind a FIN: the state in which a write fails with EPIPE.
fn finish_and_reset(client: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

fn upgrade(server: &mut Server<()>, client: &mut (impl Read + Write)) {
    client.write_all(upgrade_request("/").as_bytes()).unwrap();
    turn_until(server, |server| server.sockets().len() == 1);
}

#[test]
fn no_write_to_a_peer_that_is_gone_raises_a_signal() {
    let raised = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, raised.clone()).unwrap();
    let path = std::env::temp_dir().join(format!("ikisocket-sigpipe-{}", std::process::id()));
    let mut server = Server::builder().build(()).unwrap();
    let address = server.listen("127.0.0.1:0").unwrap();
    server.listen_unix(&path).unwrap();
    server.route("/", |_, _| {}).unwrap();
    // In one slice, and in two: a header and a large payload.
    for size in [20, 20_000] {
        for over_tcp in [true, false] {
            if over_tcp {
                let mut client = TcpStream::connect(address).unwrap();
                upgrade(&mut server, &mut client);
                finish_and_reset(client);
            } else {
                let mut client = UnixStream::connect(&path).unwrap();
                upgrade(&mut server, &mut client);
            }
            // The loop has not seen the end yet, so it writes.
            let failed = (0..1000).any(|_| {
                server.sockets().broadcast(vec![0; size]);
                server.flush();
                server.sockets().is_empty()
            });
            assert!(failed, "{size} bytes, over TCP: {over_tcp}");
            assert!(!raised.load(Ordering::Relaxed), "{size} bytes, over TCP: {over_tcp}");
        }
    }
}
