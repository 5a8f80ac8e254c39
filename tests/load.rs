//! The load tool, as a user runs it: the built program against the echo example, and against
//! servers that do something wrong. Every run is short and bounded; no figure is judged for being
//! fast.

use ikisocket::protocol::{Decoded, Decoder, Opcode, Rules, encode_frame};
use ikisocket::{Event, Message, Server, Uuid};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

/// Where the examples of this test's profile lie, built and up to date. `cargo test` builds of an
/// example that has unit tests only these.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let this = std::env::current_exe().unwrap(); // target/PROFILE/deps/load-…
    let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--example", "load", "--example", "echo", "--target-dir"])
        .arg(profile.parent().unwrap());
    let features = [("deflate", cfg!(feature = "deflate")), ("tls", cfg!(feature = "tls"))];
    for (feature, _) in features.iter().filter(|(_, is_on)| *is_on) {
        cargo.args(["--features", feature]);
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
        let mut process =
            command.arg("127.0.0.1:0").args(options).stdout(Stdio::piped()).spawn().unwrap();
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

/// A server of this process, until the end of the tests.
fn server_with(set_up: impl FnOnce(&mut Server<Hostile>) + Send + 'static) -> SocketAddr {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut server = Server::bind("127.0.0.1:0", Hostile::default()).unwrap();
        set_up(&mut server);
        send.send(server.local_addr().unwrap()).unwrap();
        server.run().unwrap();
    });
    receive.recv().unwrap()
}

/// What hostile routes remember.
#[derive(Default)]
struct Hostile {
    /// Messages of each connection.
    seen: HashMap<Uuid, u64>,
    /// A message that is held back.
    held: HashMap<Uuid, Vec<u8>>,
}

impl Hostile {
    /// How many messages this connection has sent, this one included.
    fn count(&mut self, connection: Uuid) -> u64 {
        let seen = self.seen.entry(connection).or_default();
        *seen += 1;
        *seen
    }
}

/// Routes that answer, but not with an echo.
fn wrong_echoes() -> SocketAddr {
    server_with(|server| {
        server.route("/short", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            ep.kws.emit(Message::from(ep.data[..ep.data.len() - 1].to_vec()));
        });
        server.route("/fixed", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            ep.kws.emit(Message::from(b"twenty bytes of mine".to_vec()));
        });
        server.route("/text", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            ep.kws.emit_text(String::from_utf8_lossy(&ep.data));
        });
        server.route("/first-is-wrong", |_, _| {}).unwrap().on(Event::Message, |hostile, ep| {
            match hostile.count(ep.socket_uuid) {
                1 => ep.kws.emit(Message::from(vec![0; ep.data.len()])),
                _ => ep.kws.emit(ep.data),
            };
        });
        server.route("/swaps", |_, _| {}).unwrap().on(Event::Message, |hostile, ep| match hostile
            .held
            .remove(&ep.socket_uuid)
        {
            None => drop(hostile.held.insert(ep.socket_uuid, ep.data.to_vec())),
            Some(held) => {
                ep.kws.emit(ep.data);
                ep.kws.emit(Message::from(held));
            }
        });
        // To all, though each asked for an echo of its own.
        server.route("/to-all", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
            ep.kws.broadcast_all(ep.data);
        });
    })
}

/// A server that upgrades every connection, and then is as `behaviour` says.
fn raw_server(
    behaviour: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let behaviour = Arc::new(behaviour);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let behaviour = behaviour.clone();
            thread::spawn(
                move || if upgrade(&mut stream, &[])? { behaviour(stream) } else { Ok(()) },
            );
        }
    });
    address
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
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args}\n{stderr}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
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
    assert!(
        number(&measured["finished"]) > 0.0 && number(&measured["per_second"]) > 0.0,
        "{measured:#}"
    );
    let latency = &measured["latency"];
    let figures: Vec<f64> =
        ["p50", "p90", "p99", "p99.9", "p99.99"].map(|key| number(&latency[key])).into();
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{latency:#}");
    assert!(number(&latency["count"]) >= number(&measured["finished"]));
    assert_eq!(measured["faults"], serde_json::json!({}));
}

#[test]
fn echo_in_closed_and_in_open_loop() {
    let server = EchoServer::start();
    let url = server.url("/echo");

    let closed = report(&format!(
        "echo {url} --connections 5 --duration 0.3 --warm-up 0.1 --pid {}",
        server.pid()
    ));
    assert_eq!(
        (&closed["scenario"], &closed["unit"], &closed["holds"]),
        (&"echo".into(), &"messages".into(), &true.into())
    );
    assert_sane(&closed["measured"][0]);
    assert!(number(&closed["measured"][0]["server_resident_bytes"]) > 0.0);
    assert_eq!(closed["measured"][0]["over_time"]["per_second"].as_array().unwrap().len(), 3);

    let open =
        report(&format!("echo {url} --connections 5 --duration 0.3 --warm-up 0 --rate 1000"));
    let measured = &open["measured"][0];
    assert_sane(measured);
    assert_eq!(measured["latency"]["count"], 300, "as many as were due, fast or not");
    assert_eq!(measured["latency_uncorrected"]["count"], 300);
    assert_eq!(measured["scheduling_lag"]["count"], 300);
    assert!(
        number(&measured["latency"]["max"]) * 1.01
            >= number(&measured["latency_uncorrected"]["max"])
    );
}

#[test]
fn echo_of_every_size_and_kind_is_verified() {
    let server = EchoServer::start();
    for kind in [
        "--text --size 0-2000 --in-flight 7",
        "--binary --size 70k --threads 2",
        "--size 0 --in-flight 3 --spin",
    ] {
        let report = report(&format!(
            "echo {} --connections 4 --duration 0.2 --warm-up 0 --verify {kind}",
            server.url("/echo")
        ));
        assert_sane(&report["measured"][0]);
    }
}

#[test]
fn broadcast_reaches_all_connections_in_order() {
    let server = EchoServer::start();
    let options = "--connections 10 --publishers 3 --at-once 5 --duration 0.3 --warm-up 0.1 \
                   --verify --text --size 11-300";
    let report = report(&format!("broadcast {} {options}", server.url("/bcast")));
    let measured = &report["measured"][0];
    assert_sane(measured);
    assert_eq!(
        number(&measured["latency"]["count"]),
        number(&measured["broadcasts"]) * 10.0,
        "nothing is lost"
    );
    assert_eq!(measured["fan_out_skew"]["count"], measured["broadcasts"]);
}

#[test]
fn connections_are_held_opened_and_churned() {
    let server = EchoServer::start();
    let url = server.url("/echo");

    let idle = report(&format!(
        "idle {url} --connections 50 --duration 0.2 --pid {} --ramp-up 2000",
        server.pid()
    ));
    assert_eq!(idle["held"], 50);
    assert!(
        number(&idle["server_bytes_with"]) > 0.0 && idle["server_bytes_per_connection"].is_number()
    );

    let connect = report(&format!("connect {url} --connections 4 --duration 0.3 --warm-up 0"));
    assert_eq!(connect["unit"], "upgrades");
    assert_sane(&connect["measured"][0]);

    let talked =
        report(&format!("idle {url} --connections 50 --messages 3 --size 300 --duration 0.1"));
    assert_eq!((&talked["held"], &talked["measured"][0]["messages"]), (&50.into(), &150.into()));

    let churn =
        report(&format!("churn {url} --connections 4 --messages 3 --duration 0.3 --warm-up 0"));
    let measured = &churn["measured"][0];
    assert_sane(measured);
    assert_eq!(number(&measured["messages"]), number(&measured["latency"]["count"]) * 3.0);
    assert_eq!(measured["handshake"]["count"], measured["latency"]["count"]);
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_messages_are_verified_and_their_bytes_counted() {
    for mode in [
        &["--deflate", "shared"][..],
        &["--deflate", "dedicated"],
        &["--deflate=dedicated", "--window-bits=9"],
    ] {
        let server = EchoServer::start_with(mode);
        let short = "--deflate --connections 5 --duration 0.2 --warm-up 0.1 --verify --text";
        for line in [
            "echo --size 0-3000 --in-flight 3",
            "broadcast --size 20-2000 --at-once 3 --publishers 2",
        ] {
            let (scenario, options) = line.split_once(' ').unwrap();
            let path = if scenario == "echo" { "/echo" } else { "/bcast" };
            let report = report(&format!("{scenario} {} {short} {options}", server.url(path)));
            let measured = &report["measured"][0];
            assert_sane(measured);
            let (payload, wire) =
                (&measured["bytes_per_second"], &measured["wire_bytes_per_second"]);
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
    let line = format!(
        "echo {url} --against {url} --deflate --against-plain --size 1k --verify --connections 3"
    );
    let report = report(&format!("{line} --slices 12 --slice 0.05 --warm-up 0.1"));
    let [with, without] = &report["measured"].as_array().unwrap()[..] else {
        panic!("two are compared")
    };
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
    let report = report(&format!(
        "slow-reader {} --connections 4 --size 4k --duration 0.6",
        server.url("/bcast")
    ));
    let phases = report["measured"].as_array().unwrap();
    assert_eq!(phases.len(), 3);
    phases.iter().for_each(assert_sane);
    assert!(
        report["p99_with_to_without"].is_number() && report["p99_again_to_without"].is_number()
    );
    assert!(phases[2]["remarks"][0].as_str().unwrap().starts_with("the slow reader "));
}

#[test]
fn a_search_that_fails_by_its_own_lag_says_so_in_its_exit_status() {
    let server = EchoServer::start();
    let url = server.url("/echo");
    // No program sends each message within 50 ns, and no step may have less than 100 messages.
    let output =
        run(&format!("search {url} --connections 2 --p99 0.1us --step 0.05 --rate 8000 --json -"));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let rates: Vec<f64> = steps.iter().map(|step| number(&step["rate"])).collect();
    assert_eq!(
        rates,
        [8000.0, 8000.0, 4000.0, 4000.0, 2000.0, 2000.0],
        "each rate has a second chance"
    );
    assert!(steps.iter().all(|step| number(&step["samples"]) >= 100.0), "{steps:#?}");
    assert_eq!((&report["holds"], &report["highest_rate"]), (&false.into(), &Value::Null));
    assert_eq!(report["tool_was_the_limit"], true);
}

#[test]
fn a_search_judges_no_rate_by_fewer_messages_than_a_percentile_needs() {
    let server = EchoServer::start();
    let url = server.url("/echo");
    let too_slow = error(&format!("search {url} --rate 4 --step 0.02"));
    assert!(
        too_slow.contains("at least 5000") && too_slow.contains("a longer --step"),
        "{too_slow}"
    );
    let output = run(&format!("search {url} --connections 2 --p99 1s --step 0.01 --json -"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["steps"][0]["rate"], 10_000.0,
        "the first rate is one that the step can judge"
    );
    let passed = report["steps"].as_array().unwrap().iter().filter(|step| step["passed"] == true);
    assert!(passed.into_iter().all(|step| number(&step["samples"]) >= 100.0));
}

#[test]
fn a_search_ends_where_the_server_breaks() {
    let (address, _) = bad_server();
    let output = run(&format!("search ws://{address}/closes --connections 3 --step 0.1 --json -"));
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["steps"].as_array().unwrap().len(),
        1,
        "it has fewer connections from then on"
    );
    assert_eq!(report["steps"][0]["verdict"], "broken");
    let faults = &report["measured"][0]["faults"];
    assert_eq!(
        faults[r#"at 1000 messages/s: the server closed the connection with code 4000: "enough""#],
        3
    );
}

/// All faults of a run that does not hold, wherever they stand.
fn all_faults(args: &str) -> Vec<String> {
    let output = run(&format!("{args} --json -"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{args}\n{stderr}\n{stdout}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], false);
    let measured = report["measured"].as_array().unwrap().iter();
    measured.flat_map(|one| one["faults"].as_object().unwrap().keys().cloned()).collect()
}

fn assert_has(faults: &[String], part: &str) {
    assert!(faults.iter().any(|fault| fault.contains(part)), "{part:?} is not in {faults:#?}");
}

const NO_SAMPLE: &str = "measurement without a single sample";

#[test]
fn a_server_that_closes_every_connection_in_the_warm_up_is_no_success() {
    let (address, _) = bad_server();
    let url = format!("ws://{address}/closes");
    let short = "--connections 2 --warm-up 0.1";
    for line in [
        format!("echo {url} {short} --duration 0.1"),
        format!("echo {url} {short} --duration 0.1 --rate 1000"),
        format!("broadcast {url} {short} --duration 0.1"),
        format!("slow-reader {url} {short} --duration 0.3"),
        format!("churn {url} {short} --duration 0.1"),
        format!("echo {url} --against {url} {short} --slices 12 --slice 0.01"),
    ] {
        let faults = all_faults(&line);
        assert_has(&faults, NO_SAMPLE);
        assert_has(
            &faults,
            r#"warm-up: the server closed the connection with code 4000: "enough""#,
        );
    }
    let text = run(&format!("echo {url} {short} --duration 0.1"));
    assert!(
        String::from_utf8_lossy(&text.stdout)
            .contains("  FAULT: 1 × measurement without a single sample")
    );
    assert_has(
        &all_faults(&format!("idle {url} --connections 2 --messages 1 --duration 0.1")),
        NO_SAMPLE,
    );
}

#[test]
fn a_server_whose_connections_die_in_the_warm_up_is_no_success() {
    // It ends a connection that has sent something. The slow reader sends nothing, and is kept.
    let address = raw_server(|mut stream| stream.read(&mut [0; 4096]).map(drop));
    for scenario in ["echo", "broadcast", "slow-reader"] {
        let line =
            format!("{scenario} ws://{address}/ --connections 2 --duration 0.3 --warm-up 0.1");
        let faults = all_faults(&line);
        assert_has(&faults, NO_SAMPLE);
        assert_has(&faults, "warm-up: the server closed the connection without a close frame");
    }
    let output =
        run(&format!("slow-reader ws://{address}/ --connections 2 --duration 0.3 --warm-up 0.1"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("the slow reader had nothing to read") && !text.contains("still connected"),
        "{text}"
    );
}

#[test]
fn what_goes_wrong_only_in_the_warm_up_counts() {
    let address = wrong_echoes();
    let url = format!("ws://{address}/first-is-wrong");
    let wrong = "messages came back with another payload";
    for line in [
        format!("echo {url} --duration 0.1"),
        format!("echo {url} --against {url} --slices 12 --slice 0.01"),
    ] {
        let faults = all_faults(&format!("{line} --connections 2 --warm-up 0.1"));
        assert_eq!(
            faults.into_iter().collect::<std::collections::BTreeSet<_>>(),
            [format!("warm-up: {wrong}")].into()
        );
    }
}

#[test]
fn an_echo_of_another_length_kind_or_beginning_is_noticed_without_verify() {
    let address = wrong_echoes();
    let payload = "messages came back with another payload";
    let kind = "text messages came back as binary ones, or the other way round";
    for (path, fault) in [("/short", payload), ("/fixed", payload), ("/text", kind)] {
        for scenario in ["echo --warm-up 0", "churn --warm-up 0", "idle --messages 2"] {
            let (name, options) = scenario.split_once(' ').unwrap();
            let line =
                format!("{name} ws://{address}{path} {options} --connections 2 --duration 0.1");
            assert_has(&all_faults(&line), fault);
        }
    }
}

#[test]
fn every_scenario_with_echoes_verifies_them_if_that_is_asked_for() {
    let (address, _) = bad_server();
    for scenario in ["churn --warm-up 0", "idle --messages 2", "echo --warm-up 0"] {
        let (name, options) = scenario.split_once(' ').unwrap();
        let line = format!(
            "{name} ws://{address}/wrong {options} --connections 2 --duration 0.1 --verify \
             --size 200"
        );
        assert_has(&all_faults(&line), "messages came back with another payload");
    }
    let swaps = wrong_echoes();
    let line = format!(
        "echo ws://{swaps}/swaps --in-flight 2 --verify --connections 2 --duration 0.1 --warm-up 0"
    );
    assert_has(&all_faults(&line), "messages came back with another payload");
}

#[test]
fn a_message_that_comes_twice_is_noticed_at_the_end_at_the_latest() {
    let address = raw_server(repeat_the_last_before_closing);
    let short = "--connections 1 --duration 0.1 --warm-up 0";
    for options in ["echo", "echo --rate 500"] {
        let faults = all_faults(&format!(
            "{} {short}",
            options.replacen("echo", &format!("echo ws://{address}/"), 1)
        ));
        assert_eq!(faults, ["at the end: messages came that were not expected"]);
    }
    let faults = all_faults(&format!("broadcast ws://{address}/ {short}"));
    assert_eq!(faults, ["at the end: deliveries came twice"]);
}

/// Echoes, and sends the last message again just before its Close frame.
fn repeat_the_last_before_closing(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut decoder, mut buffer, mut last) = (Decoder::new(), [0; 4096], Vec::new());
    loop {
        let length = stream.read(&mut buffer)?;
        let (mut input, mut output) = (&mut buffer[..length], Vec::new());
        while let Ok(Some(decoded)) = decoder.decode(&mut input, &Rules::default()) {
            match decoded {
                Decoded::Message(message) => {
                    last.clear();
                    encode_frame(Opcode::Binary, message.as_bytes(), &mut last);
                    output.extend_from_slice(&last);
                }
                Decoded::Close(_) => {
                    output.extend_from_slice(&last);
                    encode_frame(Opcode::Close, &[], &mut output);
                }
                _ => {}
            }
        }
        stream.write_all(&output)?;
        if length == 0 {
            return Ok(());
        }
    }
}

#[test]
fn a_server_that_sends_every_message_to_all_is_no_echo() {
    let address = wrong_echoes();
    let line = format!("echo ws://{address}/to-all --connections 3 --duration 0.1 --warm-up 0");
    assert_has(&all_faults(&line), "messages came that were not expected");
}

#[test]
fn a_broadcast_of_another_length_or_kind_is_noticed_without_verify() {
    let address = wrong_echoes();
    let short = "--connections 1 --duration 0.1 --warm-up 0";
    let line = format!("broadcast ws://{address}/short {short}");
    assert_has(&all_faults(&line), "messages came back with another payload");
    let line = format!("broadcast ws://{address}/text {short}");
    assert_has(&all_faults(&line), "text messages came back as binary ones");
}

#[test]
fn connections_that_are_held_must_answer_when_they_are_closed() {
    // It upgrades, and then reads without an answer.
    let address = raw_server(|mut stream| {
        while stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    });
    let faults = all_faults(&format!("idle ws://{address}/ --connections 3 --duration 0.1"));
    assert_eq!(faults, ["at the end: connections were still not closed in the end"]);
}

#[test]
fn a_server_that_stops_answering_is_no_success() {
    let address = server_with(|server| {
        server.route("/", |_, _| {}).unwrap().on(Event::Message, |hostile, ep| {
            if hostile.count(ep.socket_uuid) <= 5 {
                ep.kws.emit(ep.data);
            }
        });
    });
    let faults =
        all_faults(&format!("echo ws://{address}/ --connections 2 --duration 0.2 --warm-up 0"));
    assert_eq!(faults, ["messages were not answered"]);
}

#[test]
fn a_slow_reader_that_ends_before_it_stops_reading_was_not_measured() {
    let address = server_with(|server| {
        server.route("/", |_, _| {}).unwrap().on(Event::Message, |hostile, ep| {
            let publisher = ep.socket_uuid;
            ep.kws.emit(ep.data);
            if hostile.count(publisher) == 1 {
                ep.kws.sockets().for_each(|socket| {
                    if socket.uuid() != publisher {
                        socket.close();
                    }
                });
            }
        });
    });
    let line = format!("slow-reader ws://{address}/ --connections 1 --duration 0.3 --warm-up 0.1");
    let faults = all_faults(&line);
    assert_has(&faults, "slow reader ended before it had stopped reading");
    assert_has(&faults, "the server closed the connection with code 1000");
}

#[test]
fn what_a_process_cannot_show_is_said() {
    let server = EchoServer::start();
    let url = server.url("/echo");
    let mut other = TcpStream::connect(&server.address).unwrap();
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    other.write_all(request.as_bytes()).unwrap();
    assert!(other.read(&mut [0; 1024]).unwrap() > 0, "it is connected");
    let remarks = |pid: String| {
        let report = report(&format!("idle {url} --connections 5 --duration 0.1 --pid {pid}"));
        report["remarks"].to_string()
    };
    if cfg!(target_os = "linux") {
        assert!(remarks(server.pid()).contains("the server already had 1 other connection:"));
        drop(other);
        let fresh = EchoServer::start();
        let line = "--connections 5 --duration 0.1 --pid";
        let report = report(&format!("idle {} {line} {}", fresh.url("/echo"), fresh.pid()));
        assert!(!report["remarks"].to_string().contains("already had"), "{report:#}");
        let wrong = remarks(std::process::id().to_string());
        assert!(wrong.contains("does not listen on port"), "{wrong}");
    }
}

#[test]
fn a_percentile_beyond_the_samples_is_a_dash() {
    let server = EchoServer::start();
    let line = format!(
        "echo {} --connections 2 --duration 0.2 --warm-up 0 --rate 1000",
        server.url("/echo")
    );
    let text = String::from_utf8(run(&line).stdout).unwrap();
    let latency = text.lines().find(|line| line.trim_start().starts_with("latency")).unwrap();
    assert_eq!(latency.matches('–').count(), 2, "200 have no p99.9 and no p99.99: {latency}");
    let report = report(&line);
    let unknown = &report["measured"][0]["latency"]["too_few_samples_for"];
    assert_eq!(*unknown, serde_json::json!(["p99.9", "p99.99"]));
}

#[test]
fn a_refused_upgrade_says_where_it_led() {
    let server = EchoServer::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream
                .write_all(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
        }
    });
    assert!(
        error(&format!("connect ws://{address}/ws"))
            .contains("HTTP/1.1 302 Found, Location: /login")
    );
    assert!(
        error(&format!("echo {}", server.url("/nowhere")))
            .contains("HTTP/1.1 404 Not Found, for /nowhere")
    );
}

#[test]
fn the_help_of_a_scenario_is_about_that_scenario() {
    let (all, idle) = (run("--help"), run("idle --help"));
    assert_eq!((all.status.code(), idle.status.code()), (Some(0), Some(0)));
    let (all, idle) =
        (String::from_utf8(all.stdout).unwrap(), String::from_utf8(idle.stdout).unwrap());
    assert!(
        idle.starts_with("load idle URL") && idle.contains("--pid") && !idle.contains("--against"),
        "{idle}"
    );
    assert!(
        idle.contains("EXAMPLE\n    cargo run --release --example load -- idle ws://"),
        "{idle}"
    );
    assert!(idle.contains("--connections N    [1000]\n"), "its own default: {idle}");
    for help in [all, idle] {
        let statuses = help.split_once("EXIT STATUS\n").unwrap().1;
        for status in ["    0  ", "    1  ", "    2  ", "    3  ", "    130  "] {
            assert!(statuses.contains(status), "{status:?} is not in {statuses}");
        }
    }
}

#[cfg(feature = "deflate")]
#[test]
fn a_server_that_compresses_nothing_is_not_measured_as_one_that_does() {
    let server = EchoServer::start();
    let short = "--deflate --connections 2 --duration 0.1 --warm-up 0";
    let remarks = |size: &str| {
        let report = report(&format!("echo {} {short} --size {size}", server.url("/echo")));
        report["measured"][0]["remarks"].to_string()
    };
    assert!(remarks("20").contains("COMPRESSED NOTHING"), "20 bytes are not worth it");
    assert!(!remarks("1k").contains("COMPRESSED NOTHING"));
}

#[test]
fn two_servers_are_compared_and_the_limit_decides_the_exit_code() {
    let (a, b) = (EchoServer::start(), EchoServer::start());
    let line = format!(
        "echo {} --pid {} --against {} --against-pid {} --connections 3 --slices 12 --slice 0.1 \
         --warm-up 0.1",
        a.url("/echo"),
        a.pid(),
        b.url("/echo"),
        b.pid()
    );
    let report = report(&format!("{line} --at-most 1000"));
    let names: Vec<&str> = report["measured"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, [format!("A  {}", a.url("/echo")), format!("B  {}", b.url("/echo"))]);
    for key in ["throughput", "time_each", "server_cpu_each", "p50", "p99"] {
        let ratio = &report["comparison"][key];
        assert_eq!(ratio["pairs"].as_array().unwrap().len(), 6, "{key}");
        assert!(
            number(&ratio["low"]) <= number(&ratio["median"])
                && number(&ratio["median"]) <= number(&ratio["high"])
        );
    }
    let output = run(&format!("{line} --at-most 0.01"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("--at-most 0.01 (server CPU for each): EXCEEDED")
    );
}

#[test]
fn reports_are_written_to_files_and_the_page_needs_nothing_else() {
    let server = EchoServer::start();
    let folder = std::env::temp_dir().join(format!("ikisocket-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (json, html) = (folder.join("report.json"), folder.join("report.html"));
    let files = format!("--json {} --html {}", json.display(), html.display());
    let mut command = load(&format!(
        "echo {} --connections 2 --duration 0.3 --rate 500 --warm-up 0 {files}",
        server.url("/echo?a=<b>")
    ));
    let output = command.args(["--header", "Authorization: secret"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("throughput"));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_sane(&json["measured"][0]);
    let page = std::fs::read_to_string(html).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "latency and throughput");
    assert!(page.contains("?a=&lt;b&gt;"), "names are text");
    for condition in [
        "<dt>Date</dt><dd>2",
        " UTC</dd>",
        "<dt>Command</dt><dd><code>load echo ws://127.0.0.1:",
        "<span>--connections 2</span> <span>--duration 0.3</span> <span>--rate 500</span>",
        "<span>--header 'Authorization: …'</span></code>",
        " logical core",
    ] {
        assert!(page.contains(condition), "{condition} is not in {page}");
    }
    for private in ["--json", "--html", "secret"] {
        assert!(!page.contains(private), "{private}");
    }
    for external in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(external), "{external}");
    }
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let server = EchoServer::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(error(&format!("echo ws://{closed}/")).contains("refused the connection"));
    assert!(error(&format!("echo {}", server.url("/nowhere"))).contains("HTTP/1.1 404"));
    assert!(error(&format!("connect {}", server.url("/nowhere"))).contains("HTTP/1.1 404"));
    assert!(
        error(&format!("echo {} --subprotocol chat", server.url("/echo")))
            .contains("does not take the --subprotocol")
    );
    assert!(
        error("echo ws://192.0.2.1:9/").contains("--allow-remote"),
        "TEST-NET-1, and no packet sent"
    );
    assert!(error("echo").contains("--help"));
    assert!(
        error(&format!("echo {} --pid 4294967295", server.url("/echo")))
            .contains("/proc/4294967295")
    );
    let help = run("--help");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("SCENARIOS"));
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_wss_is_refused_with_the_way_to_get_it() {
    assert!(error("echo wss://127.0.0.1/").contains("--features tls"));
    assert!(error("echo ws://127.0.0.1/ --against wss://127.0.0.1/").contains("--features tls"));
}

#[cfg(feature = "tls")]
fn tls_file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The echo example over TLS, with a certificate for `localhost` by the tests' root.
#[cfg(feature = "tls")]
fn tls_server() -> EchoServer {
    EchoServer::start_with(&["--tls", &tls_file("localhost.pem"), &tls_file("localhost.key")])
}

/// Full and resumed handshakes that a report counts.
#[cfg(feature = "tls")]
fn handshakes(report: &Value) -> [f64; 2] {
    ["tls_full_handshakes", "tls_resumed_handshakes"].map(|key| number(&report["measured"][0][key]))
}

#[cfg(feature = "tls")]
#[test]
fn every_scenario_runs_over_tls() {
    let server = tls_server();
    let root = tls_file("root.pem");
    let url = |path: &str| format!("wss://{}{path}", server.address);
    let tls = format!("--ca {root} --duration 0.3");
    for line in [
        "--connections 5 --size 0-3000 --in-flight 3 --text --verify --warm-up 0.1",
        "--connections 4 --size 70k --threads 2 --verify --warm-up 0",
        "--connections 5 --rate 1000 --warm-up 0",
    ] {
        let report = report(&format!("echo {} {tls} {line}", url("/echo")));
        assert_sane(&report["measured"][0]);
        let remarks = report["measured"][0]["remarks"].to_string();
        assert!(remarks.contains("TLS 1.3, TLS_AES_"), "{remarks}");
    }
    let broadcast = report(&format!(
        "broadcast {} {tls} --connections 10 --publishers 3 --at-once 5 --size 11-300 --verify",
        url("/bcast")
    ));
    assert_sane(&broadcast["measured"][0]);
    let idle = report(&format!("idle {} {tls} --connections 50 --messages 2", url("/echo")));
    assert_eq!((&idle["held"], handshakes(&idle)), (&50.into(), [50.0, 0.0]));
    let churn = report(&format!("churn {} {tls} --connections 4 --messages 3", url("/echo")));
    assert_sane(&churn["measured"][0]);
    let slow = report(&format!(
        "slow-reader {} --ca {root} --connections 4 --size 4k --duration 0.6",
        url("/bcast")
    ));
    slow["measured"].as_array().unwrap().iter().for_each(assert_sane);
    let search = run(&format!(
        "search {} --ca {root} --connections 2 --rate 8000 --step 0.05 --p99 0.1us --json -",
        url("/echo")
    ));
    assert_eq!(search.status.code(), Some(3), "{}", String::from_utf8_lossy(&search.stderr));
}

#[cfg(feature = "tls")]
#[test]
fn full_and_resumed_handshakes_are_counted() {
    let server = tls_server();
    let run = |options: &str| {
        let url = format!("wss://{}/echo", server.address);
        report(&format!("connect {url} --insecure --connections 2 --duration 0.3 {options}"))
    };
    let [full, resumed] = handshakes(&run(""));
    assert!(full > 2.0 && resumed == 0.0, "{full} and {resumed}");
    let [full, resumed] = handshakes(&run("--resume"));
    assert!(full >= 1.0 && resumed > full, "{full} and {resumed}");
}

#[cfg(feature = "tls")]
#[test]
fn tls_and_plain_are_compared_in_one_run() {
    let (plain, tls) = (EchoServer::start(), tls_server());
    let report = report(&format!(
        "echo wss://{}/echo --against {} --insecure --connections 3 --slices 12 --slice 0.05 \
         --warm-up 0.1",
        tls.address,
        plain.url("/echo")
    ));
    assert!(report["comparison"]["time_each"]["median"].is_number());
    assert!(number(&report["measured"][0]["tls_full_handshakes"]) >= 3.0);
    assert!(report["measured"][1]["tls_full_handshakes"].is_null(), "plain has none");
}

#[cfg(feature = "tls")]
#[test]
fn what_stands_in_the_way_of_tls_is_said_in_one_line() {
    let (plain, tls) = (EchoServer::start(), tls_server());
    let url = format!("wss://{}/echo", tls.address);
    let nothing = error(&format!("echo {url}"));
    assert!(nothing.contains("--ca FILE") && nothing.contains("--insecure"), "{nothing}");
    let stranger = error(&format!("echo {url} --ca {}", tls_file("stranger.pem")));
    assert!(stranger.contains("UnknownIssuer") && stranger.contains("--insecure"), "{stranger}");
    let missing = error(&format!("echo {url} --ca /nowhere/root.pem"));
    assert!(missing.contains("/nowhere/root.pem"), "{missing}");
    let no_root = error(&format!("echo {url} --ca {}", tls_file("localhost.key")));
    assert!(no_root.contains("no certificate"), "{no_root}");
    let not_tls = error(&format!("echo wss://{}/echo --insecure", plain.address));
    assert!(not_tls.contains("does the server speak TLS"), "{not_tls}");
    let not_plain = error(&format!("echo ws://{}/echo", tls.address));
    assert!(not_plain.contains("HTTP/1.1 400 Bad Request"), "{not_plain}");
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
    assert_eq!(
        closed[r#"the server closed the connection with code 4000: "enough""#], 2,
        "{closed:?}"
    );
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
        listener
            .incoming()
            .flatten()
            .for_each(|stream| answer_with_opcode_3(stream).unwrap_or_default())
    });
    let error = error(&format!("echo ws://{address}/ --connections 1"));
    assert!(error.contains("protocol error of the server: opcode 3 is reserved"), "{error}");
}

/// Upgrades, and sends a frame that does not exist, in one write.
fn answer_with_opcode_3(mut stream: TcpStream) -> std::io::Result<()> {
    if upgrade(&mut stream, &[0x83, 0x00])? {
        return stream.read(&mut [0; 16]).map(drop);
    }
    Ok(())
}

/// Agrees to an upgrade, and sends `more` in the same write. False if nothing was asked for.
fn upgrade(stream: &mut TcpStream, more: &[u8]) -> std::io::Result<bool> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let Some(key) = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
    else {
        return Ok(false); // It only asked whether the port is open.
    };
    let key = ikisocket::http::Key::parse(key).expect("a key");
    let mut answer = Vec::new();
    ikisocket::http::write_switching_protocols(&key, None, None, &mut answer);
    answer.extend_from_slice(more);
    stream.write_all(&answer)?;
    Ok(true)
}

/// A run of `echo` that is interrupted as soon as it has sent a message.
#[cfg(unix)]
fn interrupted(options: &str) -> Output {
    let (address, received) = bad_server();
    let mut command = load(&format!("echo ws://{address}/echo --connections 2 --json - {options}"));
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while received.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(kill.success());
    process.wait_with_output().unwrap()
}

#[cfg(unix)]
#[test]
fn an_interrupt_in_the_warm_up_leaves_nothing_measured() {
    let output = interrupted("--duration 60 --warm-up 60");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "load: interrupted before anything was measured\n");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_with_a_report() {
    let output = interrupted("--duration 60 --warm-up 0");
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(number(&report["measured"][0]["latency"]["count"]) > 0.0);
}
