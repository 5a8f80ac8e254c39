//! The examples as their users run them: each prints its address, answers clients, and closes its
//! connections at Ctrl-C.
//!
//! `cargo test` builds the programs too; `cargo test --test examples` alone does not.

#![cfg(unix)]

#[path = "common/redis_process.rs"]
mod redis_process;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ikisocket::Uuid;
use redis_process::Redis;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

/// Nothing here takes long: an answer that has not come by then fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The address of a Redis that does not run.
const NO_REDIS: &str = "redis+unix:///nowhere/redis.sock";

/// A running example; it is killed when a test leaves it behind.
struct Example {
    child: Child,
    lines: Receiver<String>,
    address: String,
}

impl Example {
    fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// With arguments behind the address.
    fn start_with(name: &str, arguments: &[&str]) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
        let mut child = Command::new(&program)
            .arg("127.0.0.1:0")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; `cargo build --examples` makes it", program.display())
            });
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut example = Self { child, lines, address: String::new() };
        let line = example.line();
        line.strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line}"))
            .clone_into(&mut example.address);
        example
    }

    /// The next line that it prints.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// Skips what it prints until this line.
    fn wait_for(&self, line: &str) {
        while self.line() != line {}
    }

    fn plain(&self, path: &str) -> Client {
        self.connect(path, None).unwrap()
    }

    fn page(&self, name: &str) -> Client {
        self.connect(&format!("/ws/{name}"), Some("chat-page")).unwrap()
    }

    fn connect(&self, path: &str, subprotocol: Option<&'static str>) -> Result<Client, String> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(subprotocol) = subprotocol {
            request
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
        }
        let (socket, _) =
            tungstenite::client(request, self.stream()).map_err(|error| error.to_string())?;
        Ok(Client { socket })
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.stream();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Ctrl-C: these clients get 1001, and the program ends well. Returns what it printed
    /// meanwhile.
    fn interrupt(mut self, clients: impl IntoIterator<Item = Client>) -> Vec<String> {
        let kill =
            Command::new("sh").args(["-c", &format!("kill -INT {}", self.child.id())]).status();
        assert!(kill.unwrap().success());
        for client in clients {
            assert_eq!(client.closed(), (1001, "Server shutdown".to_owned()));
        }
        let mut printed = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => printed.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        printed
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).unwrap();
    }

    /// The next frame. A system call with a timeout does not continue after a signal.
    fn read(&mut self) -> Result<Message, Error> {
        loop {
            match self.socket.read() {
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// The next text message.
    fn text(&mut self) -> String {
        match self.read().unwrap() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("{other:?} is no text"),
        }
    }

    fn binary(&mut self) -> Vec<u8> {
        match self.read().unwrap() {
            Message::Binary(bytes) => bytes.into(),
            other => panic!("{other:?} is not binary"),
        }
    }

    /// The next message for a page: the next that is JSON.
    fn json_text(&mut self) -> String {
        loop {
            let text = self.text();
            if text.starts_with('{') {
                return text;
            }
        }
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.json_text()).unwrap()
    }

    /// The uuid from the welcome, which must be the next message.
    fn welcome(&mut self, name: &str) -> Uuid {
        let text = self.text();
        let uuid = text
            .strip_prefix(&format!("Hello user: {name} with UUID: "))
            .unwrap_or_else(|| panic!("{text:?}"));
        uuid.parse().unwrap()
    }

    /// Passes over messages until the close frame, answers it, and waits for the end of the
    /// connection.
    fn closed(mut self) -> (u16, String) {
        let frame = loop {
            if let Message::Close(frame) = self.read().unwrap() {
                break frame.expect("a close frame with a code");
            }
        };
        assert!(matches!(self.read(), Err(Error::ConnectionClosed)));
        (frame.code.into(), frame.reason.as_str().to_owned())
    }
}

fn message(from: &str, to: &str, event: &str, data: &str) -> String {
    let [from, to, event, data] = [from, to, event, data].map(|text| json!(text));
    format!(r#"{{"from":{from},"to":{to},"event":{event},"data":{data}}}"#)
}

fn newcomer(name: &str, uuid: Uuid) -> String {
    format!("New user connected: {name} and UUID: {uuid}")
}

#[test]
fn echo_answers_and_closes_asleep_or_spinning() {
    for arguments in [&[][..], &["--spin"]] {
        let echo = Example::start_with("echo", arguments);
        let mut client = echo.plain("/echo");
        client.send("hello");
        assert_eq!(client.text(), "hello");
        echo.interrupt([client]);
    }
}

#[test]
fn embed_shows_its_world_sixty_times_a_second_on_one_thread() {
    let embed = Example::start("embed");
    let mut client = embed.plain("/world");
    client.send("up!");
    let mut before = client.binary();
    for _ in 0..60 {
        let picture = client.binary();
        assert_eq!(picture.len(), before.len());
        assert_ne!(picture, before, "balls move");
        before = picture;
    }
    let line = embed.line();
    assert!(line.starts_with("tick 60: "), "{line}");
    if cfg!(target_os = "linux") {
        assert!(line.ends_with(", threads 1"), "{line}");
    }
    embed.interrupt([client]);
}

#[test]
fn commands_of_threads_run_once_in_order_and_threads_answer_requests() {
    let example = Example::start_with("threads", &["100000"]);
    let report = example.line();
    assert!(report.starts_with("100000 commands of 4 threads in "), "{report}");
    assert!(report.ends_with(" s, 0 out of order"), "{report}");
    let mut ann = example.plain("/work?user=ann");
    assert!(ann.text().starts_with("welcome ann, 100000 commands"));
    let refused = example.connect("/work", None).err().unwrap();
    assert!(refused.contains("401"), "{refused}");
    example.interrupt([ann]);
}

#[test]
fn feed_passes_prices_from_udp_to_each_subscriber_of_the_symbol() {
    let example = Example::start_with("feed", &["127.0.0.1:0"]);
    let line = example.line();
    let feed = line.strip_prefix("prices are taken on ").unwrap();
    let [mut ann, mut bob] = [example.plain("/prices"), example.plain("/prices/INIT")];
    assert_eq!(ann.text(), "all symbols: 0 prices so far, 0 malformed");
    assert_eq!(bob.text(), "INIT: 0 prices so far, 0 malformed");
    let market = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in ["ACME 99.5", "nonsense", "INIT 7\n"] {
        market.send_to(datagram.as_bytes(), feed).unwrap();
    }
    assert_eq!([(); 2].map(|()| ann.text()), ["ACME 99.50", "INIT 7.00"]);
    assert_eq!(bob.text(), "INIT 7.00");
    let mut late = example.plain("/prices");
    assert_eq!(late.text(), "all symbols: 2 prices so far, 1 malformed");
    example.interrupt([ann, bob, late]);
}

#[test]
fn nested_serves_its_clients_and_another_socket_in_one_loop() {
    let example = Example::start("nested");
    let line = example.line();
    let control = line.strip_prefix("control is on ").unwrap();
    let mut clients = [example.plain("/notes"), example.plain("/notes")];
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"lights on", control).unwrap();
    for client in &mut clients {
        assert_eq!(client.text(), "lights on");
        client.send("done");
        let mut answer = [0; 16];
        let len = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..len], b"done");
    }
    example.interrupt(clients);
}

#[test]
fn two_plain_clients_of_the_chat_get_just_the_go_examples_messages() {
    let chat = Example::start("chat");
    let mut ann = chat.plain("/ws/ann");
    ann.welcome("ann");
    assert_eq!(chat.line(), "Connection event 1 - User: ann");
    // A page in the room changes nothing for plain clients, except that it counts as a user.
    let mut page = chat.page("page");
    let page_uuid = page.welcome("page");
    assert_eq!(chat.line(), "Connection event 1 - User: page");
    let mut bob = chat.plain("/ws/bob");
    let bob_uuid = bob.welcome("bob");
    assert_eq!(chat.line(), "Connection event 1 - User: bob");
    assert_eq!(ann.text(), newcomer("page", page_uuid));
    assert_eq!(ann.text(), newcomer("bob", bob_uuid));
    assert_eq!(page.json(), json!({ "you": "page", "here": ["ann", "page"] }));
    assert_eq!(page.json(), json!({ "joined": "page" }));
    assert_eq!(page.json(), json!({ "joined": "bob" }));

    // The message's own bytes, with their spaces, whatever sender they name.
    let words = r#"{ "from": "somebody",  "to": "bob", "event": "CUSTOM_EVENT", "data": "hello" }"#;
    ann.send(words);
    assert_eq!(bob.text(), words);
    assert_eq!(chat.line(), format!("Message event - User: ann - Message: {words}"));
    assert_eq!(chat.line(), "Custom event - User: ann");

    let words = message("bob", "nobody", "", "hello?");
    bob.send(&*words);
    assert_eq!(chat.line(), format!("Message event - User: bob - Message: {words}"));
    assert_eq!(chat.line(), format!("no open connection has the uuid {}", Uuid::nil()));
    assert_eq!(chat.line(), "Error event - User: bob");

    bob.socket.close(None).unwrap();
    drop(bob);
    assert_eq!(chat.line(), "Disconnection event - User: bob");
    assert_eq!(page.json(), json!({ "left": "bob" }));
    ann.send("still there?");
    assert_eq!(chat.line(), "Message event - User: ann - Message: still there?");
    assert!(chat.line().starts_with("expected value"));

    let mut printed = chat.interrupt([ann, page]);
    printed.sort();
    assert_eq!(
        printed,
        [
            "Close event - User: ann",
            "Close event - User: page",
            "Disconnection event - User: ann",
            "Disconnection event - User: page"
        ]
    );
}

#[test]
fn chat_pages_and_plain_clients_talk_and_pages_see_the_true_sender() {
    let chat = Example::start("chat");
    let mut page = chat.page("page");
    assert_eq!(page.json(), json!({ "you": "page", "here": ["page"] }));
    assert_eq!(page.json(), json!({ "joined": "page" }));
    let mut ann = chat.plain("/ws/ann");
    ann.welcome("ann");
    assert_eq!(page.json(), json!({ "joined": "ann" }));

    ann.send(message("the boss", "page", "", "do as I say"));
    assert_eq!(page.json_text(), message("ann", "page", "", "do as I say"));
    page.send(message("the boss", "ann", "", "no"));
    let delivered = message("page", "ann", "", "no");
    assert_eq!(ann.text(), delivered);
    assert_eq!(page.json_text(), delivered, "it comes back because it was delivered");

    page.send(r#"{"to":"","data":"hello, everybody"}"#);
    assert_eq!(ann.text(), message("page", "ann", "", "hello, everybody"));
    assert_eq!(page.json_text(), message("page", "", "", "hello, everybody"));
    page.send(r#"{"to":"page","data":"note to self"}"#);
    assert_eq!(page.json_text(), message("page", "page", "", "note to self"));
    page.send(r#"{"to":"zoe","data":"hello?"}"#);
    assert_eq!(page.json(), json!({ "undelivered": "zoe" }));

    // More than the server queues for one client: refused, and no client is disconnected for it.
    page.send(json!({ "to": "ann", "data": "x".repeat(1024 * 1024 - 26) }).to_string());
    assert_eq!(page.json(), json!({ "undelivered": "ann" }));

    // Only a page can write to all: in the Go example no client has the empty name.
    ann.send(message("ann", "", "", "hello, everybody"));
    chat.wait_for("Error event - User: ann");
    chat.interrupt([ann, page]);
}

#[test]
fn a_chat_name_that_was_taken_over_survives_the_first_connection() {
    let chat = Example::start("chat");
    let mut page = chat.page("page");
    assert_eq!(page.json()["you"], "page");
    assert_eq!(page.json(), json!({ "joined": "page" }));
    let mut first = chat.plain("/ws/bob");
    first.welcome("bob");
    assert_eq!(page.json(), json!({ "joined": "bob" }));
    let mut second = chat.plain("/ws/bob");
    let second_uuid = second.welcome("bob");
    assert_eq!(first.text(), newcomer("bob", second_uuid));

    drop(first);
    chat.wait_for("Disconnection event - User: bob");
    page.send(r#"{"to":"bob","data":"you?"}"#);
    assert_eq!(second.text(), message("page", "bob", "", "you?"));
    assert_eq!(
        page.json_text(),
        message("page", "bob", "", "you?"),
        "no user joined and none left"
    );

    // A page that loses its name gets a close whose reason its script can tell from a lost
    // connection.
    let mut other = chat.page("page");
    assert_eq!(page.closed().0, 4000);
    chat.wait_for("Disconnection event - User: page");
    assert_eq!(other.json(), json!({ "you": "page", "here": ["bob", "page"] }));
    second.send(message("bob", "page", "", "you!"));
    assert_eq!(other.json_text(), message("bob", "page", "", "you!"));
    chat.interrupt([second, other]);
}

#[test]
fn nothing_that_a_client_sends_harms_the_chat() {
    let chat = Example::start("chat");
    let mut page = chat.page("page");
    let mut mallory = chat.plain("/ws/mallory");
    mallory.welcome("mallory");
    for nonsense in [
        "",
        "{",
        "null",
        "[]",
        "7",
        r#"{"to":7}"#,
        r#"{"to":"page","to":"page"}"#,
        &"[".repeat(100_000),
    ] {
        mallory.send(nonsense);
    }
    mallory.send(vec![0xff, 0x00, 0xfe]);
    for event in ["message", "disconnect", "no such event", ""] {
        mallory.send(message("", "mallory", event, "to myself"));
        assert_eq!(mallory.text(), message("", "mallory", event, "to myself"));
    }
    // Messages that pretend to be the server's own words for a page arrive as what they are.
    mallory.send(
        r#"{"to":"page","here":[],"you":"nobody","left":"page","data":"{\"left\":\"page\"}"}"#,
    );
    while page.json_text() != message("mallory", "page", "", r#"{"left":"page"}"#) {}

    let (long, cut) = ("n".repeat(10_000), "n".repeat(39) + "…");
    for (written, name) in [
        ("%3Cscript%3E", "<script>"),
        ("a%0Ab%1B%5B2J%00", "a\nb\u{1b}[2J\0"),
        ("%F0%9F%A6%80%E2%80%AE%CC%81", "🦀\u{202e}\u{301}"),
        ("%2F..%2F", "/../"),
        (&long, &cut),
    ] {
        let mut odd = chat.plain(&format!("/ws/{written}"));
        odd.welcome(name);
        if written == long {
            let notice = format!("Your name was too long, it is now: {cut} (40 characters)");
            assert_eq!(odd.text(), notice);
        }
        assert_eq!(page.json(), json!({ "joined": name }));
        page.send(json!({ "to": name, "data": "welcome" }).to_string());
        assert_eq!(odd.text(), message("page", name, "", "welcome"));
        assert_eq!(page.json_text(), message("page", name, "", "welcome"));
        drop(odd);
        assert_eq!(page.json(), json!({ "left": name }));
        // What it prints is one line, without the terminal's control characters.
        chat.wait_for(&format!(
            "Disconnection event - User: {}",
            name.replace(char::is_control, "\u{fffd}")
        ));
    }
    // A page gets 4000 characters of a message, and its sender learns that.
    mallory.send(message("", "page", "", &"é".repeat(4001)));
    let cut = "é".repeat(3999) + "…";
    assert_eq!(page.json_text(), message("mallory", "page", "", &cut));
    while mallory.text() != "Your message to page was cut: it gets 4000 characters" {}

    assert!(chat.connect("/ws/", None).is_err_and(|error| error.contains("404")));
    chat.interrupt([mallory, page]);
}

#[test]
fn the_pages_of_the_chats_let_only_their_own_scripts_and_styles_run() {
    let cluster = &["--redis", NO_REDIS][..];
    for (name, arguments) in [("chat", &[][..]), ("loops", &[]), ("cluster", cluster)] {
        let chat = Example::start_with(name, arguments);
        let [page, again] = [chat.get("/"), chat.get("/")];
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("</html>\n"), "{page}");
        let nonce = |page: &str| {
            page.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0.to_owned()
        };
        assert_eq!(
            page.matches(&format!("nonce=\"{}\"", nonce(&page))).count(),
            2,
            "the style and the script"
        );
        assert_ne!(nonce(&page), nonce(&again));
        for placeholder in ["NONCE", "ROOM_", "MAX_"] {
            assert!(!page.contains(placeholder), "{placeholder}: {page}");
        }
        chat.interrupt([]);
    }
}

#[test]
fn the_chat_serves_its_health() {
    let chat = Example::start("chat");
    let health = chat.get("/healthz");
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok"),
        "{health}"
    );
    assert!(health.contains("Content-Type: text/plain"), "{health}");
    chat.interrupt([]);
}

/// A client of the example `loops`, which keeps to the rules in its documentation.
struct Guest {
    client: Client,
    id: String,
    on: u64,
    /// The names of those in the room, by id, and the last change that the list had when it came.
    here: BTreeMap<String, String>,
    change: u64,
    online: u64,
    /// All other messages that came and were not looked at yet.
    said: VecDeque<Value>,
}

impl Guest {
    fn enter(example: &Example, room: &str, name: &str) -> Self {
        let client = example.plain(&format!("/ws?room={room}&name={name}"));
        let mut guest = Self {
            client,
            id: String::new(),
            on: 0,
            here: BTreeMap::new(),
            change: 0,
            online: 0,
            said: VecDeque::new(),
        };
        while guest.here.is_empty() {
            guest.receive();
        }
        guest
    }

    fn receive(&mut self) {
        let message = self.client.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let is_new = message["change"].as_u64().is_some_and(|change| change > self.change);
        if let Some(you) = message.get("you") {
            (self.id, self.on) = (text(&you["id"]), you["loop"].as_u64().unwrap());
        } else if let Some(here) = message.get("here") {
            let here = here.as_array().unwrap();
            self.here = here.iter().map(|it| (text(&it["id"]), text(&it["name"]))).collect();
            self.change = message["change"].as_u64().unwrap();
        } else if let Some(joined) = message.get("joined") {
            is_new.then(|| self.here.insert(text(&joined["id"]), text(&joined["name"])));
        } else if let Some(left) = message.get("left") {
            is_new.then(|| self.here.remove(&text(left)));
        } else if let Some(online) = message.get("online") {
            self.online = online.as_u64().unwrap();
        } else {
            self.said.push_back(message);
        }
    }

    /// Waits until it sees just these names.
    fn sees(&mut self, names: &[&str]) {
        while {
            let mut here: Vec<_> = self.here.values().map(String::as_str).collect();
            here.sort_unstable();
            here != names
        } {
            self.receive();
        }
    }

    fn says(&mut self, words: Value) {
        self.client.send(words.to_string());
    }

    /// The next message that a person sent, or that says that one was not delivered.
    fn hears(&mut self) -> Value {
        while self.said.is_empty() {
            self.receive();
        }
        self.said.pop_front().unwrap()
    }

    fn message(&self, to: Option<&Self>, text: &str) -> Value {
        let from = json!({ "id": self.id, "name": self.here[&self.id], "loop": self.on });
        json!({ "from": from, "to": to.map(|to| &to.id), "text": text })
    }
}

#[test]
fn people_on_different_loops_meet_in_their_room() {
    let example = Example::start_with("loops", &["--loops", "4"]);
    assert_eq!(example.line(), "loops: 4");
    let names = ["ann", "bob", "carla", "dave"];
    let mut guests = names.map(|name| Guest::enter(&example, "lobby", name));
    let mut loops = guests.each_ref().map(|guest| guest.on);
    loops.sort_unstable();
    assert_eq!(loops, [0, 1, 2, 3]);
    let mut eve = Guest::enter(&example, "attic", "eve");
    eve.sees(&["eve"]);
    for guest in &mut guests {
        guest.sees(&names);
    }
    for guest in guests.iter_mut().chain([&mut eve]) {
        while guest.online != 5 {
            guest.receive();
        }
    }

    // To the room, and to one person.
    let [ann, bob, carla, mut dave] = guests;
    let hello = ann.message(None, "hello");
    let mut guests = [ann, bob, carla];
    guests[0].says(json!({ "text": "hello" }));
    for guest in guests.iter_mut().chain([&mut dave]) {
        assert_eq!(guest.hears(), hello);
    }
    let [ann, bob, carla] = &mut guests;
    let secret = bob.message(Some(&dave), "psst");
    bob.says(json!({ "to": dave.id, "text": "psst" }));
    assert_eq!([bob.hears(), dave.hears()], [secret.clone(), secret]);
    let note = carla.message(Some(carla), "note to self");
    carla.says(json!({ "to": carla.id, "text": "note to self" }));
    assert_eq!(carla.hears(), note);

    // To no such person, and to one in another room.
    for to in [Uuid::nil().to_string(), "dave".to_owned(), eve.id.clone()] {
        ann.says(json!({ "to": to, "text": "who?" }));
        assert_eq!(ann.hears(), json!({ "undelivered": "who?" }));
    }

    // A person leaves, and is not there any more for all others.
    let dave_id = dave.id.clone();
    drop(dave);
    for guest in &mut guests {
        guest.sees(&["ann", "bob", "carla"]);
    }
    guests[0].says(json!({ "to": dave_id, "text": "still there?" }));
    assert_eq!(guests[0].hears(), json!({ "undelivered": "still there?" }));
    let end = guests[2].message(None, "the end");
    guests[2].says(json!({ "text": "the end" }));
    for guest in &mut guests {
        assert_eq!(guest.hears(), end, "this is all that it should get");
    }
    assert!(eve.said.is_empty());

    let metrics = example.get("/metrics");
    let sum = |metric: &str| -> u64 {
        let of_loop = |index| {
            let start =
                format!("ikisocket_{metric} ").replace("LOOP", &format!("loop=\"{index}\""));
            let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&start));
            let value = values.next().unwrap_or_else(|| panic!("{start}: {metrics}"));
            value.parse::<u64>().unwrap()
        };
        (0..4).map(of_loop).sum()
    };
    assert_eq!(sum("messages_received_total{LOOP}"), 8);
    assert_eq!(sum("connections{LOOP,state=\"open\"}"), 4);

    example.interrupt(guests.into_iter().chain([eve]).map(|guest| guest.client));
}

#[test]
fn nothing_that_a_client_sends_harms_the_chat_on_all_cores() {
    let example = Example::start_with("loops", &["--loops", "2"]);
    let mut ann = Guest::enter(&example, "lobby", "ann");
    let mut mallory = Guest::enter(&example, "lobby", "%3Cscript%3E");
    ann.sees(&["<script>", "ann"]);
    for nonsense in ["", "{", "null", "[]", "{}", r#"{"to":7,"text":""}"#, &"[".repeat(100_000)] {
        mallory.client.send(nonsense);
    }
    mallory.client.send(vec![0xff, 0x00, 0xfe]);
    let forged = r#"{"from":{"name":"ann"},"left":"x","here":[],"text":"{\"here\":[]}"}"#;
    mallory.client.send(forged);
    assert_eq!(ann.hears(), mallory.message(None, r#"{"here":[]}"#));
    mallory.says(json!({ "text": "é".repeat(2001) }));
    assert_eq!(ann.hears(), mallory.message(None, &("é".repeat(1999) + "…")));

    // Names that are missing or too long.
    let blank = Guest::enter(&example, "%20", "");
    ann.sees(&["<script>", "ann", "guest"]);
    let long = Guest::enter(&example, "lobby", &"n".repeat(10_000));
    ann.sees(&["<script>", "ann", "guest", &("n".repeat(29) + "…")]);
    example.interrupt([ann, mallory, blank, long].map(|guest| guest.client));
}

#[test]
fn the_number_of_loops_must_be_one_that_can_run() {
    for (arguments, part) in [
        (["--loops", "0"], "1 to 256 loops, not 0"),
        (["--loops", "257"], "1 to 256 loops, not 257"),
        (["--loops", "many"], "many"),
        (["--loop", "4"], "--loop"),
    ] {
        let (ended_well, error) = finished("loops", &[&["127.0.0.1:0"], &arguments[..]].concat());
        assert!(!ended_well && error.contains(part), "{error}");
    }
}

/// Skips messages of the example `cluster` until one has this key.
fn find(client: &mut Client, key: &str) -> Value {
    loop {
        let message = client.json();
        if message.get(key).is_some() {
            return message;
        }
    }
}

/// Skips messages of the example `cluster` until these lists of people have come: the names, by
/// process, in the order of the processes' names.
fn sees(client: &mut Client, expected: &[&[&str]]) {
    let mut lists = BTreeMap::new();
    while lists.values().collect::<Vec<_>>() != expected.iter().collect::<Vec<_>>() {
        let list = find(client, "people");
        let name = |person: &Value| person["name"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = list["people"].as_array().unwrap().iter().map(name).collect();
        names.sort_unstable();
        lists.insert(list["process"].to_string(), names);
    }
}

#[test]
fn a_process_of_the_cluster_that_is_alone_serves_its_people_and_says_why() {
    let cluster = Example::start_with("cluster", &["--redis", NO_REDIS]);
    let why = "no connection to Redis: entity not found";
    assert_eq!(cluster.line(), format!("alone: {why}; messages that may be lost: 0"));
    let ready = cluster.get("/ready");
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains(why), "{ready}");

    let mut ann = cluster.plain("/ws?name=ann");
    let mut bob = cluster.plain("/ws?name=bob");
    let you = find(&mut ann, "you");
    assert_eq!((&you["you"]["name"], &you["alone"]), (&json!("ann"), &json!(why)));
    sees(&mut ann, &[&["ann", "bob"]]);
    ann.send("hello");
    let message = find(&mut bob, "from");
    assert_eq!((&message["from"], &message["text"]), (&you["you"], &json!("hello")));
    assert_eq!(find(&mut ann, "from"), message);
    assert_eq!(find(&mut ann, "only_here")["only_here"], message["id"]);
    let metrics = cluster.get("/metrics");
    assert!(metrics.contains("ikisocket_messages_received_total 1\n"), "{metrics}");
    cluster.interrupt([ann, bob]);
}

#[test]
fn a_process_of_the_cluster_whose_redis_refuses_says_so_and_ends_well() {
    // It is bound and does not listen, so no other process can take the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket_ipv4().unwrap().port();
    let address = format!("redis://127.0.0.1:{port}");
    let cluster = Example::start_with("cluster", &["--redis", &address]);
    let why = "no connection to Redis: connection refused";
    assert_eq!(cluster.line(), format!("alone: {why}; messages that may be lost: 0"));
    let mut ann = cluster.plain("/ws?name=ann");
    assert_eq!(find(&mut ann, "you")["alone"], why);
    cluster.interrupt([ann]);
}

#[test]
fn two_processes_of_the_cluster_are_one_chat_while_redis_runs() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let address = format!("redis+unix://{}", redis.socket().display());
    let start = || Example::start_with("cluster", &["--redis", &address]);
    let mut nodes = [start(), start()].map(|process| {
        let line = process.line();
        let name = line.strip_prefix("together with the others, as process ");
        (name.unwrap_or_else(|| panic!("{line}")).to_owned(), process)
    });
    nodes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let [(_, first), (_, second)] = &nodes;
    let mut ann = first.plain("/ws?name=ann");
    let mut bob = second.plain("/ws?name=bob");
    for client in [&mut ann, &mut bob] {
        sees(client, &[&["ann"], &["bob"]]);
    }
    let talk = |from: &mut Client, to: &mut Client, text: &str| {
        from.send(text);
        let message = find(to, "from");
        assert_eq!(message["text"], text);
        assert_eq!(find(from, "from"), message, "with the same id, and none before it");
    };
    talk(&mut ann, &mut bob, "before");
    talk(&mut bob, &mut ann, "and back");

    redis.kill();
    for client in [&mut ann, &mut bob] {
        assert!(find(client, "alone")["alone"].is_string());
    }
    ann.send("alone");
    let message = find(&mut ann, "from");
    assert_eq!(find(&mut ann, "only_here")["only_here"], message["id"]);
    redis.start_again(&[]);
    for client in [&mut ann, &mut bob] {
        assert!(find(client, "together")["together"].is_number());
    }
    talk(&mut bob, &mut ann, "after");
    talk(&mut ann, &mut bob, "and back");
    let [(_, first), (_, second)] = nodes;
    first.interrupt([ann]);
    sees(&mut bob, &[&[], &["bob"]]);
    second.interrupt([bob]);
}

#[test]
fn the_cluster_says_what_is_wrong_with_its_arguments() {
    for (arguments, part) in [
        (&["--redis", "localhost:6379"][..], "--redis: the address of Redis has no scheme"),
        (&["--redis", "rediss://localhost"], "run stunnel"),
        (&["--redis", "redis://:secret@localhost:http"], "port"),
        (&["--redis"], "--redis"),
        (&["--prefix", "x"], "--prefix"),
        (&["at home"], "at home: "),
    ] {
        let (ended_well, error) = finished("cluster", &[&["127.0.0.1:0"], arguments].concat());
        assert!(!ended_well && error.contains(part), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_metrics_are_those_of_the_server() {
    let metrics = Example::start("metrics");
    let mut client = metrics.plain("/ws");
    client.send("hello");
    assert_eq!(client.text(), "hello");
    let page = metrics.get("/metrics");
    for line in [
        "ikisocket_connections{state=\"open\"} 1",
        "ikisocket_messages_received_total 1",
        "ikisocket_messages_sent_total 1",
        "echo_longest_message_bytes 5",
    ] {
        assert!(page.lines().any(|each| each == line), "{line}: {page}");
    }
    assert!(page.contains("ikisocket_turn_duration_seconds_count "), "{page}");
    metrics.interrupt([client]);
}

/// A run that ends by itself: whether it ended well, and what it printed.
fn finished(name: &str, arguments: &[&str]) -> (bool, String) {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let output = Command::new(&program).args(arguments).output();
    let output = output
        .unwrap_or_else(|error| panic!("{program:?}: {error}: run `cargo build --examples` first"));
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

#[test]
fn the_help_of_the_chat_says_how_to_make_a_certificate() {
    let (ended_well, help) = finished("chat", &["--help"]);
    assert!(ended_well && help.contains("--tls CERT KEY") && help.contains("openssl req -x509"));
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
}

#[cfg(not(feature = "_tls"))]
#[test]
fn without_the_feature_tls_is_refused_with_the_way_to_get_it() {
    for name in ["chat", "echo"] {
        let (ended_well, error) = finished(name, &["127.0.0.1:0", "--tls", "a.pem", "a.key"]);
        assert!(!ended_well && error.contains("--features tls"), "{error}");
    }
}

#[cfg(feature = "_tls")]
#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    for name in ["chat", "echo"] {
        let (ended_well, error) = finished(name, &["127.0.0.1:0", "--tls", "/no/a.pem", "a.key"]);
        assert!(!ended_well && error.contains("/no/a.pem"), "{error}");
    }
}
