//! Each server starts, echoes, broadcasts, answers pings and Close, and ends on SIGTERM.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ikisocket_peers::MAX_MESSAGE;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

#[test]
fn fastwebsockets() {
    check(Command::new(env!("CARGO_BIN_EXE_fastwebsockets")));
}

#[test]
fn sockudo_ws() {
    check(Command::new(env!("CARGO_BIN_EXE_sockudo-ws")));
}

#[test]
fn tokio_tungstenite() {
    check(Command::new(env!("CARGO_BIN_EXE_tokio-tungstenite")));
}

#[test]
fn tokio_websockets() {
    check(Command::new(env!("CARGO_BIN_EXE_tokio-websockets")));
}

#[test]
fn ws_rs() {
    check(Command::new(env!("CARGO_BIN_EXE_ws-rs")));
}

#[test]
fn node() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
    if !folder.join("node_modules/ws").exists() {
        match Command::new("npm").arg("install").current_dir(&folder).status() {
            Ok(status) if status.success() => {}
            Ok(status) => return eprintln!("node: nothing done, `npm install` failed: {status}"),
            Err(error) => return eprintln!("node: nothing done, no npm: {error}"),
        }
    }
    let mut command = Command::new("node");
    command.arg(folder.join("server.js"));
    check(command);
}

fn check(command: Command) {
    let server = Server::start(command);
    echo(&server);
    broadcast(&server);
    server.end();
}

fn echo(server: &Server) {
    let mut client = server.connect("/echo");
    let text = Message::text("a text, mäßig lang ✓");
    let binary = Message::binary(vec![0, 1, 2, 253, 254, 255]);
    for message in [text, binary, Message::text(""), Message::text("ü".repeat(512 * 1024))] {
        client.send(message.clone()).unwrap();
        assert_eq!(client.read().unwrap(), message);
    }
    for len in [125, 126, 1024, 16 * 1024, 65_535, 65_536, 1024 * 1024, MAX_MESSAGE] {
        let message = Message::binary((0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        client.send(message.clone()).unwrap();
        assert!(client.read().unwrap() == message, "{len} bytes");
    }

    // Many at once, of several sizes: all come back, in order.
    let burst: Vec<_> =
        (0..400).map(|i| Message::binary(vec![i as u8; [20, 200, 1500][i % 3]])).collect();
    for message in &burst {
        client.write(message.clone()).unwrap();
    }
    client.flush().unwrap();
    for message in &burst {
        assert_eq!(&client.read().unwrap(), message);
    }

    // One message in two frames, and a ping between them.
    let first = Frame::message("two ", OpCode::Data(Data::Text), false);
    let second = Frame::message("frames", OpCode::Data(Data::Continue), true);
    client.send(Message::Frame(first)).unwrap();
    client.send(Message::Ping("are you there?".into())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong("are you there?".into()));
    client.send(Message::Frame(second)).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("two frames"));

    close(client);
}

fn broadcast(server: &Server) {
    let mut clients: Vec<_> = (0..3).map(|_| server.connect("/bcast")).collect();
    // A server may let a connection into the room only after it has answered the upgrade.
    for client in &mut clients {
        client.send(Message::Ping("here".into())).unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong("here".into()));
    }
    let large = Message::binary(vec![7; 1024 * 1024]);
    for message in [Message::text("to all"), Message::binary(vec![1, 2, 3]), large] {
        for from in 0..clients.len() {
            clients[from].send(message.clone()).unwrap();
            for client in &mut clients {
                assert!(client.read().unwrap() == message);
            }
        }
    }

    let burst: Vec<_> = (0..100).map(|i| Message::text(format!("message {i}"))).collect();
    for message in &burst {
        clients[1].write(message.clone()).unwrap();
    }
    clients[1].flush().unwrap();
    for client in &mut clients {
        for message in &burst {
            assert_eq!(&client.read().unwrap(), message);
        }
    }

    // A connection that ended gets no more messages.
    close(clients.remove(0));
    clients[0].send(Message::text("still here")).unwrap();
    for mut client in clients {
        assert_eq!(client.read().unwrap(), Message::text("still here"));
        close(client);
    }
}

fn close(mut client: WebSocket<TcpStream>) {
    client.close(None).unwrap();
    assert!(client.read().unwrap().is_close());
}

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut process = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").expect("the address").trim().to_owned();
        Self { process, address }
    }

    fn connect(&self, path: &str) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let config = WebSocketConfig::default().max_frame_size(None);
        let url = format!("ws://{}{path}", self.address);
        tungstenite::client::client_with_config(url, stream, Some(config)).unwrap().0
    }

    fn end(mut self) {
        let status = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(status.success());
        assert_eq!(self.process.wait().unwrap().signal(), Some(15));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
