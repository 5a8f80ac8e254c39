//! How far a reader walks through the sources to follow a message: the files of `src/` in which a
//! function is entered for one text of 20 bytes and its echo, on a real connection.
//!
//! gdb counts them (`tests/walk/record.py`), in this program: it runs itself under gdb. There are
//! three walks: from the return of `recv` to the entry of the listener, from the entry of
//! `Socket::emit` to its return, and from the end of the input, when the replies are written, to
//! the call of `send`. The message is not the first of its connection, and compression is off.
//!
//! What is not seen: a function that was entered before `recv` returned and goes on behind it, and
//! one that is inlined even in a debug build (`#[inline(always)]`), which is a part of its caller
//! here. Where there is no gdb, or no debug information, the test says so and does nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ikisocket::{Event, EventPayload, Server};

/// The most files that a message may pass on its way to the listener.
const MOST_FILES_IN: usize = 8;
/// The most files that its echo may pass until it is queued.
const MOST_FILES_OUT: usize = 6;
/// The most files from there until it is written. One of them is where a stream is plain or over
/// TLS.
const MOST_FILES_WRITTEN: usize = 7;
/// The most lines of code in each of those files.
const MOST_LINES: usize = 400;
/// Files of a connection's slot and of counters: a reader follows a message without them.
const NOT_COUNTED: [&str; 2] = ["src/token.rs", "src/hub/stats.rs"];

const TEXT: &[u8; 20] = b"twenty bytes of text";
/// gdb needs a few seconds. A longer run hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A function that was entered.
struct Step {
    file: String,
    function: String,
}

#[test]
fn a_message_and_its_echo_lead_through_few_files_and_short_ones() {
    let Some(report) = walk() else { return };
    let coming_in = steps(&report, "in ");
    let going_out = steps(&report, "out ");
    let at = |function: &str| {
        let found = going_out.iter().position(|step| step.function.ends_with(function));
        found.unwrap_or_else(|| panic!("`{function}` was not seen\n{report}"))
    };
    // The listener's own steps before it emits are not the library's.
    let queued = &going_out[at("Socket::emit")..at("has_notifications")];
    let written = &going_out[at("Hub::end_input")..];

    let mut faults = String::new();
    let mut page = String::new();
    for (steps, most, what) in [
        (&coming_in[..], MOST_FILES_IN, "a message comes in"),
        (queued, MOST_FILES_OUT, "its echo is queued"),
        (written, MOST_FILES_WRITTEN, "it is written"),
    ] {
        assert!(!steps.is_empty(), "{what}: no function was seen\n{report}");
        let files: BTreeSet<&str> = steps.iter().map(|step| step.file.as_str()).collect();
        describe(&mut page, steps, &format!("{what}: {} files", files.len()));
        if files.len() > most {
            writeln!(faults, "{what}: {} files, and {most} at most are allowed", files.len())
                .unwrap();
        }
        for file in files {
            let lines = lines_of_code(file);
            if lines > MOST_LINES {
                writeln!(
                    faults,
                    "{what}: {file} has {lines} lines of code, and {MOST_LINES} at most are allowed"
                )
                .unwrap();
            }
        }
    }
    println!("{page}");
    // Another system call inside a walk would mean that this is not the usual path.
    let between: Vec<_> = report.lines().filter(|line| line.starts_with("before ")).collect();
    assert!(between.is_empty(), "{between:#?}");
    assert!(faults.is_empty(), "\n{faults}");
}

/// The test that gdb runs. Without gdb it tests that the three echoes arrive.
#[test]
fn the_echo_that_is_walked() {
    let mut server = Server::builder().build(()).unwrap();
    server.route("/", |_, _| {}).unwrap().on(Event::Message, listener);
    let mut client = TcpStream::connect(server.listen("127.0.0.1:0").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();

    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.extend(answer(&mut client, &mut server, 1));
    }

    // A final text frame with its masking key.
    let key = [1, 2, 3, 4];
    let mut message = vec![0x81, 0x80 | TEXT.len() as u8];
    message.extend(key);
    message.extend(TEXT.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    for round in 1..=3 {
        client.write_all(&message).unwrap();
        // The first message can take another path.
        if round == 3 {
            a_message_is_there();
        }
        let echo = answer(&mut client, &mut server, 2 + TEXT.len());
        assert_eq!(&echo[2..], TEXT);
    }
}

/// Turns the server until it has sent `len` bytes.
fn answer(client: &mut TcpStream, server: &mut Server<()>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for _ in 0..1000 {
        server.poll(Some(Duration::from_millis(10))).unwrap();
        if client.peek(&mut bytes).is_ok_and(|there| there == len) {
            client.read_exact(&mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("no answer");
}

/// Where gdb begins.
#[inline(never)]
fn a_message_is_there() {}

/// Where the first walk ends.
#[inline(never)]
fn listener(_: &mut (), ep: &mut EventPayload<'_, ()>) {
    ep.kws.emit(ep.data);
}

/// The output of the script, or `None` where it cannot run.
fn walk() -> Option<String> {
    if !cfg!(debug_assertions) {
        return skip("this is no debug build, and functions are inlined");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new("gdb");
    command
        .args([
            "-nx",
            "-batch",
            "-iex",
            "set auto-load off",
            "-iex",
            "set debuginfod enabled off",
            "-x",
        ])
        .arg(root.join("tests/walk/record.py"))
        .arg("--args")
        .arg(std::env::current_exe().unwrap())
        .args(["the_echo_that_is_walked", "--exact", "--test-threads=1"])
        .env("WALK_SOURCES", root.join("src"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer);
    let Ok(mut gdb) = command.spawn() else { return skip("there is no gdb") };
    drop(command); // It holds the pipe's other end.

    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        let _ = ended.send(String::from_utf8_lossy(&output).into_owned());
    });
    let in_time = end.recv_timeout(LIMIT);
    let _ = gdb.kill(); // Its program ends with it.
    gdb.wait().unwrap();
    let output = in_time.or_else(|_| end.recv_timeout(LIMIT)).unwrap();

    let report: String = output
        .lines()
        .filter_map(|line| line.strip_prefix("walk: "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let said = |word: &str| report.lines().any(|line| line == word);
    if output.contains("not supported in this copy of GDB") {
        return skip("gdb has no Python");
    }
    if said("blind") {
        return skip("this program has no debug information");
    }
    if !said("started") && output.contains("ptrace") {
        return skip("gdb may not trace here");
    }
    assert!(said("done"), "gdb has not come to the end\n{output}");
    Some(report)
}

fn skip(why: &str) -> Option<String> {
    // Not by `eprintln!`, which is shown of failed tests only.
    let _ = writeln!(std::io::stderr(), "nothing was walked: {why}");
    None
}

/// The functions that the script has recorded of one walk, in order.
fn steps(report: &str, walk: &str) -> Vec<Step> {
    let lines = report.lines().filter_map(|line| line.strip_prefix(walk)?.split_once(' '));
    lines
        .filter(|(file, _)| !NOT_COUNTED.contains(file))
        .map(|(file, function)| Step { file: file.to_owned(), function: function.to_owned() })
        .collect()
}

/// Adds a walk to the page: for each function that was entered its file and its name.
fn describe(page: &mut String, steps: &[Step], title: &str) {
    writeln!(page, "\n{title}").unwrap();
    let width = steps.iter().map(|step| step.file.len()).max().unwrap();
    for Step { file, function } in steps {
        writeln!(page, "  {file:width$}  {function}").unwrap();
    }
}

/// Lines of a file that are not blank, not comments, and not its unit tests.
fn lines_of_code(file: &str) -> usize {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}
