//! What an echo costs in system calls, counted by strace on the echo example: one recv and one send
//! for each message, and no epoll_ctl once a connection is registered. Without strace the test says
//! so and does nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ikisocket::protocol::{FrameHeader, Opcode};

const CONNECTIONS: usize = 100;
const ROUNDS: usize = 50;
const MESSAGES: usize = CONNECTIONS * ROUNDS;

/// The example beside this test: `cargo test` builds both.
fn echo() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/echo")
}

#[test]
fn an_echo_costs_one_recv_and_one_send_and_no_second_registration() {
    let counts = std::env::temp_dir().join(format!("ikisocket-syscalls-{}", std::process::id()));
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
        return;
    };
    let mut line = String::new();
    BufReader::new(strace.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        let _ = strace.wait();
        let _ = writeln!(std::io::stderr(), "nothing was counted: strace may not trace here");
        return;
    };

    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    let mut message = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Binary, 20) }.encode(&mut message);
    message.extend_from_slice(&[b'x'; 20]);
    for _ in 0..ROUNDS {
        clients.iter_mut().for_each(|client| client.write_all(&message).unwrap());
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 22]).unwrap());
    }
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
    let calls = |name: &str| -> usize {
        let line = table.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.map_or(0, |line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
    };
    // Beside the messages: an upgrade and a closing handshake for each connection.
    let (recv, send) = (calls("recvfrom"), calls("sendto"));
    assert!(
        (MESSAGES..=MESSAGES + 3 * CONNECTIONS).contains(&recv),
        "{recv} for {MESSAGES} messages\n{table}"
    );
    assert!(
        (MESSAGES..=MESSAGES + 2 * CONNECTIONS).contains(&send),
        "{send} for {MESSAGES} messages\n{table}"
    );
    let others = 3; // The waker, and the listener, which is taken off again when the server stops.
    assert_eq!(calls("epoll_ctl"), CONNECTIONS + others, "each connection once\n{table}");
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
