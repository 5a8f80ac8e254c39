//! The load tool, as a user runs it: the built program against the echo example, and against servers that do something wrong.
//! Every run is short and bounded; no figure is judged for being fast.

use ikisocket::{Event, Message, Server};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

/// Where the examples of this test's profile lie, built and up to date. `cargo test` builds of an example that has unit tests
/// only these.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let this = std::env::current_exe().unwrap(); // target/PROFILE/deps/load-…
    let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--example", "load", "--example", "echo", "--target-dir"])
        .arg(profile.parent().unwrap());
    if cfg!(feature = "deflate") {
        cargo.args(["--features", "deflate"]);
    }
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    profile.join("examples")
});

/// The echo example, until the end of the test.
struct EchoServer {
    process: Child,
    address: String,
}

impl EchoServer {
    fn start() -> EchoServer {
        EchoServer::start_with(&[])
    }

    fn start_with(options: &[&str]) -> EchoServer {
        let mut command = Command::new(EXAMPLES.join("echo"));
        let mut process = command.arg("127.0.0.1:0").args(options).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        EchoServer { process, address }
    }

    fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server of this process with routes that misbehave, and how many messages it has received.
fn bad_server() -> (SocketAddr, Arc<AtomicU64>) {
    let (send, receive) = channel();
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    thread::spawn(move || {
        let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
        let count = move || counter.fetch_add(1, Ordering::Relaxed);
        server.route("/closes", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            let _ = ep.kws.close_with(4000, "enough");
        });
        server.route("/wrong", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            let backwards: Vec<u8> = ep.data.iter().rev().copied().collect();
            ep.kws.emit(Message::from(backwards));
        });
        server.route("/echo", |_, _| {}).unwrap().on(Event::Message, move |_, ep| {
            count();
            ep.kws.emit(ep.data);
        });
        send.send(server.local_addr().unwrap()).unwrap();
        server.run().unwrap();
    });
    (receive.recv().unwrap(), received)
}

fn load(args: &str) -> Command {
    let mut command = Command::new(EXAMPLES.join("load"));
    command.args(args.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(args: &str) -> Output {
    load(args).output().unwrap()
}

/// A run that succeeds, and what it reports.
fn report(args: &str) -> Value {
    let output = run(&format!("{args} --json -"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args}\n{stderr}\n{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stderr, "", "quiet where there is no terminal");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A run that measures nothing, and why.
fn error(args: &str) -> String {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args}: {stderr}");
    assert!(stderr.starts_with("load: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The figures that every scenario with messages has.
fn assert_sane(measured: &Value) {
    assert!(number(&measured["finished"]) > 0.0 && number(&measured["per_second"]) > 0.0, "{measured:#}");
    let latency = &measured["latency"];
    let figures: Vec<f64> = ["p50", "p90", "p99", "p99.9", "p99.99"].map(|key| number(&latency[key])).into();
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{latency:#}");
    assert!(number(&latency["count"]) >= number(&measured["finished"]));
    assert_eq!(measured["faults"], serde_json::json!({}));
}

#[test]
fn echo_in_closed_and_in_open_loop() {
    let server = EchoServer::start();
    let url = server.url("/echo");

    let closed = report(&format!("echo {url} --connections 5 --duration 0.3 --warm-up 0.1 --pid {}", server.pid()));
    assert_eq!(
        (&closed["scenario"], &closed["unit"], &closed["holds"]),
        (&"echo".into(), &"messages".into(), &true.into())
    );
    assert_sane(&closed["measured"][0]);
    assert!(number(&closed["measured"][0]["server_resident_bytes"]) > 0.0);
    assert_eq!(closed["measured"][0]["over_time"]["per_second"].as_array().unwrap().len(), 3);

    let open = report(&format!("echo {url} --connections 5 --duration 0.3 --warm-up 0 --rate 1000"));
    let measured = &open["measured"][0];
    assert_sane(measured);
    assert_eq!(measured["latency"]["count"], 300, "as many as were due, fast or not");
    assert_eq!(measured["latency_uncorrected"]["count"], 300);
    assert_eq!(measured["scheduling_lag"]["count"], 300);
    assert!(number(&measured["latency"]["max"]) * 1.01 >= number(&measured["latency_uncorrected"]["max"]));
}

#[test]
fn echo_of_every_size_and_kind_is_verified() {
    let server = EchoServer::start();
    for kind in
        ["--text --size 0-2000 --in-flight 7", "--binary --size 70k --threads 2", "--size 0 --in-flight 3 --spin"]
    {
        let report =
            report(&format!("echo {} --connections 4 --duration 0.2 --warm-up 0 --verify {kind}", server.url("/echo")));
        assert_sane(&report["measured"][0]);
    }
}

#[test]
fn broadcast_reaches_everybody_in_order() {
    let server = EchoServer::start();
    let options =
        "--connections 10 --publishers 3 --at-once 5 --duration 0.3 --warm-up 0.1 --verify --text --size 11-300";
    let report = report(&format!("broadcast {} {options}", server.url("/bcast")));
    let measured = &report["measured"][0];
    assert_sane(measured);
    assert_eq!(number(&measured["latency"]["count"]), number(&measured["broadcasts"]) * 10.0, "nothing is lost");
    assert_eq!(measured["fan_out_skew"]["count"], measured["broadcasts"]);
}

#[test]
fn connections_are_held_opened_and_churned() {
    let server = EchoServer::start();
    let url = server.url("/echo");

    let idle = report(&format!("idle {url} --connections 50 --duration 0.2 --pid {} --ramp-up 2000", server.pid()));
    assert_eq!(idle["held"], 50);
    assert!(number(&idle["server_bytes_with"]) > 0.0 && idle["server_bytes_per_connection"].is_number());

    let connect = report(&format!("connect {url} --connections 4 --duration 0.3 --warm-up 0"));
    assert_eq!(connect["unit"], "upgrades");
    assert_sane(&connect["measured"][0]);

    let talked = report(&format!("idle {url} --connections 50 --messages 3 --size 300 --duration 0.1"));
    assert_eq!((&talked["held"], &talked["measured"][0]["messages"]), (&50.into(), &150.into()));

    let churn = report(&format!("churn {url} --connections 4 --messages 3 --duration 0.3 --warm-up 0"));
    let measured = &churn["measured"][0];
    assert_sane(measured);
    assert_eq!(number(&measured["messages"]), number(&measured["latency"]["count"]) * 3.0);
    assert_eq!(measured["handshake"]["count"], measured["latency"]["count"]);
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_messages_are_verified_and_their_bytes_counted() {
    for mode in [&["--deflate", "shared"][..], &["--deflate", "dedicated"], &["--deflate=dedicated", "--window-bits=9"]]
    {
        let server = EchoServer::start_with(mode);
        let short = "--deflate --connections 5 --duration 0.2 --warm-up 0.1 --verify --text";
        for line in ["echo --size 0-3000 --in-flight 3", "broadcast --size 20-2000 --at-once 3 --publishers 2"] {
            let (scenario, options) = line.split_once(' ').unwrap();
            let path = if scenario == "echo" { "/echo" } else { "/bcast" };
            let report = report(&format!("{scenario} {} {short} {options}", server.url(path)));
            let measured = &report["measured"][0];
            assert_sane(measured);
            let (payload, wire) = (&measured["bytes_per_second"], &measured["wire_bytes_per_second"]);
            let saved = number(&measured["bytes_saved"]);
            assert!((number(wire) / number(payload) - (1.0 - saved)).abs() < 0.001);
            assert!(saved > 0.3, "{mode:?} {line}: {saved}");
        }
    }
}

#[cfg(feature = "deflate")]
#[test]
fn what_compression_costs_is_compared_with_the_same_messages_as_they_are() {
    let server = EchoServer::start();
    let url = server.url("/echo");
    let line = format!("echo {url} --against {url} --deflate --against-plain --size 1k --verify --connections 3");
    let report = report(&format!("{line} --slices 12 --slice 0.05 --warm-up 0.1"));
    let [with, without] = &report["measured"].as_array().unwrap()[..] else { panic!("two are compared") };
    assert!(number(&with["bytes_saved"]) > 0.3);
    assert!(number(&without["bytes_saved"]) <= 0.0);
}

#[cfg(feature = "deflate")]
#[test]
fn a_server_that_declines_compression_is_no_success() {
    let server = EchoServer::start_with(&["--deflate", "off"]);
    let error = error(&format!("echo {} --deflate", server.url("/echo")));
    assert!(error.contains("declined permessage-deflate"), "{error}");
}

#[cfg(not(feature = "deflate"))]
#[test]
fn without_the_feature_compression_is_refused_with_the_way_to_get_it() {
    assert!(error("echo ws://127.0.0.1:9/ --deflate").contains("--features deflate"));
}

#[test]
fn a_slow_reader_is_one_more_connection_that_stops() {
    let server = EchoServer::start();
    let report = report(&format!("slow-reader {} --connections 4 --size 4k --duration 0.6", server.url("/bcast")));
    let phases = report["measured"].as_array().unwrap();
    assert_eq!(phases.len(), 3);
    phases.iter().for_each(assert_sane);
    assert!(report["p99_with_to_without"].is_number() && report["p99_again_to_without"].is_number());
    assert!(phases[2]["remarks"][0].as_str().unwrap().starts_with("the slow reader "));
}

#[test]
fn a_search_that_finds_nothing_does_not_hold() {
    let server = EchoServer::start();
    let url = server.url("/echo");
    let output = run(&format!("search {url} --connections 2 --p99 1us --step 0.02 --rate 4 --warm-up 0 --json -"));
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rates: Vec<f64> = report["steps"].as_array().unwrap().iter().map(|step| number(&step["rate"])).collect();
    assert_eq!(rates, [4.0, 4.0, 2.0, 2.0, 1.0, 1.0], "each rate has a second chance");
    assert_eq!((&report["holds"], &report["highest_rate"]), (&false.into(), &Value::Null));
}

#[test]
fn two_servers_are_compared_and_the_limit_decides_the_exit_code() {
    let (a, b) = (EchoServer::start(), EchoServer::start());
    let line = format!(
        "echo {} --pid {} --against {} --against-pid {} --connections 3 --slices 12 --slice 0.1 --warm-up 0.1",
        a.url("/echo"),
        a.pid(),
        b.url("/echo"),
        b.pid()
    );
    let report = report(&format!("{line} --at-most 1000"));
    let names: Vec<&str> =
        report["measured"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, [format!("A  {}", a.url("/echo")), format!("B  {}", b.url("/echo"))]);
    for key in ["throughput", "time_each", "server_cpu_each", "p50", "p99"] {
        let ratio = &report["comparison"][key];
        assert_eq!(ratio["pairs"].as_array().unwrap().len(), 6, "{key}");
        assert!(
            number(&ratio["low"]) <= number(&ratio["median"]) && number(&ratio["median"]) <= number(&ratio["high"])
        );
    }
    let output = run(&format!("{line} --at-most 0.01"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--at-most 0.01 (server CPU for each): EXCEEDED"));
}

#[test]
fn reports_are_written_to_files_and_the_page_needs_nothing_else() {
    let server = EchoServer::start();
    let folder = std::env::temp_dir().join(format!("ikisocket-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (json, html) = (folder.join("report.json"), folder.join("report.html"));
    let files = format!("--json {} --html {}", json.display(), html.display());
    let output = run(&format!(
        "echo {} --connections 2 --duration 0.3 --rate 500 --warm-up 0 {files}",
        server.url("/echo?a=<b>")
    ));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("throughput"));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_sane(&json["measured"][0]);
    let page = std::fs::read_to_string(html).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "latency and throughput");
    assert!(page.contains("?a=&lt;b&gt;"), "names are text");
    for external in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(external), "{external}");
    }
}

#[test]
fn what_cannot_be_measured_is_told_in_one_line() {
    let server = EchoServer::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again
    assert!(error(&format!("echo ws://{nobody}/")).contains("refused the connection"));
    assert!(error(&format!("echo {}", server.url("/nowhere"))).contains("HTTP/1.1 404"));
    assert!(error(&format!("connect {}", server.url("/nowhere"))).contains("HTTP/1.1 404"));
    assert!(
        error(&format!("echo {} --subprotocol chat", server.url("/echo"))).contains("does not take the --subprotocol")
    );
    assert!(error("echo ws://192.0.2.1:9/").contains("--allow-remote"), "TEST-NET-1, and no packet sent");
    assert!(error("echo wss://127.0.0.1/").contains("TLS"));
    assert!(error("echo").contains("--help"));
    assert!(error(&format!("echo {} --pid 4294967295", server.url("/echo"))).contains("/proc/4294967295"));
    let help = run("--help");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("SCENARIOS"));
}

/// A run that is measured, but in which something went wrong: its faults.
fn faults(args: &str) -> serde_json::Map<String, Value> {
    let output = run(&format!("{args} --json -"));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], false);
    report["measured"][0]["faults"].as_object().unwrap().clone()
}

#[test]
fn what_the_server_does_wrong_is_counted_and_does_not_hold() {
    let (address, _) = bad_server();
    let short = "--duration 0.1 --warm-up 0 --connections 2";

    let closed = faults(&format!("echo ws://{address}/closes {short}"));
    assert_eq!(closed[r#"the server closed the connection with code 4000: "enough""#], 2, "{closed:?}");
    assert_eq!(closed["messages were not answered"], 2);

    let wrong = faults(&format!("echo ws://{address}/wrong {short} --verify --size 10"));
    assert!(number(&wrong["messages came back with another payload"]) > 0.0);

    let lost = faults(&format!("broadcast ws://{address}/echo {short}"));
    assert_eq!(lost["deliveries were lost"], 1, "it came back to its sender only");
}

#[test]
fn a_protocol_error_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| answer_with_opcode_3(stream).unwrap_or_default())
    });
    let error = error(&format!("echo ws://{address}/ --connections 1"));
    assert!(error.contains("protocol error of the server: opcode 3 is reserved"), "{error}");
}

/// Upgrades, and sends a frame that does not exist, in one write.
fn answer_with_opcode_3(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let Some(key) = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")) else {
        return Ok(()); // It only asked whether anybody listens.
    };
    let key = ikisocket::handshake::Key::parse(key).expect("a key");
    let mut answer = Vec::new();
    ikisocket::handshake::write_switching_protocols(&key, None, None, &mut answer);
    answer.extend_from_slice(&[0x83, 0x00]);
    stream.write_all(&answer)?;
    stream.read(&mut [0; 16]).map(drop)
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_with_a_report() {
    let (address, received) = bad_server();
    let mut command = load(&format!("echo ws://{address}/echo --duration 60 --warm-up 0 --connections 2 --json -"));
    let process = command.stdout(Stdio::piped()).spawn().unwrap();
    while received.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(number(&report["measured"][0]["latency"]["count"]) > 0.0);
}
