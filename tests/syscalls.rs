//! What an echo and a connection cost in system calls, counted by strace on the echo example: one
//! recv and one send for each message, no epoll_ctl once a connection is registered, and one accept
//! for each connection. Without strace the tests say so and do nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use ikisocket::protocol::{FrameHeader, Opcode};

const CONNECTIONS: usize = 100;
const ROUNDS: usize = 50;
const MESSAGES: usize = CONNECTIONS * ROUNDS;

/// The example beside this test: `cargo test` builds both.
fn echo() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/echo")
}

/// How often the example made each system call, from its start to its end.
struct Calls {
    table: String,
}

impl Calls {
    /// Counts while `work` runs, which gets the address and returns the clients that are still
    /// connected. `None` if nothing can be counted here.
    fn during(work: impl FnOnce(&str) -> Vec<TcpStream>) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ikisocket-syscalls-{}-{number}", std::process::id());
        let counts = std::env::temp_dir().join(name);
        let strace = Command::new("strace")
            .arg("-c")
            .arg("-o")
            .arg(&counts)
            .arg(echo())
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut strace) = strace else {
            // Not by `eprintln!`, which is shown of failed tests only.
            let _ = writeln!(std::io::stderr(), "nothing was counted: there is no strace");
            return None;
        };
        let mut line = String::new();
        BufReader::new(strace.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let _ = strace.wait();
            let _ = writeln!(std::io::stderr(), "nothing was counted: strace may not trace here");
            return None;
        };
        let clients = work(address);
        // strace does not pass the signal on, so it goes to strace's child.
        let children = format!("/proc/{0}/task/{0}/children", strace.id());
        let child = std::fs::read_to_string(children).unwrap();
        assert!(Command::new("kill").args(["-TERM", child.trim()]).status().unwrap().success());
        // Each client gets a close frame and answers: one more recv for its answer, one for FIN.
        for mut client in clients {
            client.read_exact(&mut [0; 4]).unwrap();
        }
        strace.wait().unwrap();
        let table = std::fs::read_to_string(&counts).unwrap();
        std::fs::remove_file(&counts).unwrap();
        Some(Self { table })
    }

    fn of(&self, name: &str) -> usize {
        let line = self.table.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.map_or(0, |line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
    }
}

#[test]
fn an_echo_costs_one_recv_and_one_send_and_no_second_registration() {
    let calls = Calls::during(|address| {
        let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(address)).collect();
        let mut message = Vec::new();
        let header = FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Binary, 20) };
        header.encode(&mut message);
        message.extend_from_slice(&[b'x'; 20]);
        for _ in 0..ROUNDS {
            clients.iter_mut().for_each(|client| client.write_all(&message).unwrap());
            clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 22]).unwrap());
        }
        clients
    });
    let Some(calls) = calls else { return };
    let table = &calls.table;
    // Beside the messages: an upgrade and a closing handshake for each connection.
    let (recv, send) = (calls.of("recvfrom"), calls.of("sendto"));
    assert!(
        (MESSAGES..=MESSAGES + 3 * CONNECTIONS).contains(&recv),
        "{recv} for {MESSAGES} messages\n{table}"
    );
    assert!(
        (MESSAGES..=MESSAGES + 2 * CONNECTIONS).contains(&send),
        "{send} for {MESSAGES} messages\n{table}"
    );
    let others = 3; // The waker, and the listener, which is taken off again when the server stops.
    assert_eq!(calls.of("epoll_ctl"), CONNECTIONS + others, "each connection once\n{table}");
}

#[test]
fn a_connection_costs_one_accept_and_none_that_finds_nothing() {
    // Each waits for its answer, so none comes while another is accepted.
    let connect_all = |address: &str| (0..CONNECTIONS).map(|_| connect(address)).collect();
    let Some(calls) = Calls::during(connect_all) else { return };
    assert_eq!(calls.of("accept4"), CONNECTIONS, "{}", calls.table);
}

fn connect(address: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    let request = "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let (mut response, mut byte) = (Vec::new(), [0]);
    while !response.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        response.push(byte[0]);
    }
    client
}
