//! What TLS costs the echo example as a process: system calls, counted by strace, and resident
//! memory, which includes what the crypto provider allocates in C.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ikisocket::protocol::{FrameHeader, Opcode};
use rustls::ClientConfig;
use rustls::version::TLS13;

#[path = "common/descriptors.rs"]
mod descriptors;
#[path = "common/secure.rs"]
mod secure;

use secure::certificates::file;
use secure::{Secure, config, request};

const KIB: usize = 1024;

/// Builds the example with TLS: `cargo test --test` alone does not.
fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap(); // target/PROFILE/deps/tls_process-…
    let profile = this.ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--features", "tls", "--example", "echo", "--target-dir"])
        .arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    profile.join("examples/echo")
}

/// Starts it under `command`; its address, or `None` if it does not start.
fn start(mut command: Command) -> (Child, Option<String>) {
    command.arg(build()).arg("--tls").args([file("localhost.pem"), file("localhost.key")]);
    let mut process = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (process, line.trim().strip_prefix("listening on ").map(str::to_owned))
}

/// A client that is upgraded. Its socket blocks from now on.
fn open(address: &str, config: &Arc<ClientConfig>) -> Secure {
    let mut client = Secure::connect(address.parse().unwrap(), config);
    client.socket.set_nonblocking(false).unwrap();
    client.send(request("/forgetful").as_bytes());
    while !client.is_upgraded() {
        client.session.complete_io(&mut client.socket).unwrap();
        let mut plaintext = [0; KIB];
        if let Ok(read) = client.session.reader().read(&mut plaintext) {
            client.received.extend_from_slice(&plaintext[..read]);
        } else {
            client.session.read_tls(&mut client.socket).unwrap();
            client.session.process_new_packets().unwrap();
        }
    }
    client
}

const CONNECTIONS: usize = 100;
const ROUNDS: usize = 50;
const MESSAGES: usize = CONNECTIONS * ROUNDS;

#[test]
fn over_tls_an_echo_costs_one_recv_and_one_send_too() {
    let counts =
        std::env::temp_dir().join(format!("ikisocket-tls-syscalls-{}", std::process::id()));
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        // Not by `eprintln!`, which is shown of failed tests only.
        let _ = writeln!(std::io::stderr(), "nothing was counted: there is no strace");
        return;
    }
    let mut command = Command::new("strace");
    command.arg("-c").arg("-o").arg(&counts);
    let (mut strace, Some(address)) = start(command) else {
        let _ = writeln!(std::io::stderr(), "nothing was counted: strace may not trace here");
        return;
    };
    let config = config(&TLS13, None);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| open(&address, &config)).collect();
    let mut message = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Binary, 20) }.encode(&mut message);
    message.extend_from_slice(&[b'x'; 20]);
    for _ in 0..ROUNDS {
        for client in &mut clients {
            client.send(&message);
            client.session.write_tls(&mut client.socket).unwrap();
        }
        // The record of an echo: its header, the frame, the content type and the tag.
        clients
            .iter_mut()
            .for_each(|client| client.socket.read_exact(&mut [0; 5 + 22 + 1 + 16]).unwrap());
    }
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let child = std::fs::read_to_string(children).unwrap();
    clients.iter().for_each(|client| {
        socket2::SockRef::from(&client.socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    drop(clients);
    assert!(Command::new("kill").args(["-TERM", child.trim()]).status().unwrap().success());
    strace.wait().unwrap();

    let table = std::fs::read_to_string(&counts).unwrap();
    std::fs::remove_file(&counts).unwrap();
    let calls = |name: &str| -> usize {
        let line = table.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.map_or(0, |line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
    };
    // Beside the messages: two flights of the client, one of the server, a response that the
    // tickets go out with, and the end. The end is a close frame if the signal is seen before the
    // client's reset.
    let (recv, send) = (calls("recvfrom"), calls("sendto"));
    assert!(
        (MESSAGES..=MESSAGES + 3 * CONNECTIONS).contains(&recv),
        "{recv} for {MESSAGES} messages\n{table}"
    );
    assert!(
        (MESSAGES..=MESSAGES + 3 * CONNECTIONS).contains(&send),
        "{send} for {MESSAGES} messages\n{table}"
    );
}

const IDLE_CONNECTIONS: usize = 2000;
/// The most resident memory of an idle connection. Its parts are 3.6 KiB of TLS in Rust and C, with
/// the allocator's own bookkeeping, 193 bytes of the plain connection, and the tables of both.
const IDLE: usize = 4 * KIB + KIB / 2;

#[test]
fn an_idle_connection_over_tls_takes_at_most_4608_bytes_of_the_process() {
    if !descriptors::with_descriptors(IDLE_CONNECTIONS + 200) {
        return;
    }
    let (mut process, address) = start(Command::new("env"));
    let address = address.unwrap();
    let memory = || -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon")).unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<usize>().unwrap() * KIB
    };
    let config = config(&TLS13, None);
    // The first ones make what all share.
    let mut sockets: Vec<_> = (0..100).map(|_| open(&address, &config).socket).collect();
    let before = memory();
    sockets.extend((0..IDLE_CONNECTIONS).map(|_| open(&address, &config).socket));
    let each = (memory() - before) / IDLE_CONNECTIONS;
    println!("resident memory of an idle connection over TLS: {each} bytes");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(each <= IDLE, "{each} bytes");
}
