//! Other threads and the loop: four of them send it ten million commands, and one decides which
//! clients may connect.
//!
//! `cargo run --release --example threads [ADDR] [COMMANDS]`
//!
//! Clients of `/work?user=NAME` get the progress, and at the end whether each command came once and
//! in order. A client without a name gets 401 from a thread that takes 50 ms to decide. No other
//! client waits for that.

use std::error::Error;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ikisocket::{Deferred, Handle, Response, SendError, Server, Sockets};

mod common;

const WORKERS: usize = 4;
/// How long the deciding thread takes, in place of a question to a database.
const DECISION: Duration = Duration::from_millis(50);

struct Work {
    started: Instant,
    /// The number that is expected next from each worker, and how often it was another one.
    next: [u64; WORKERS],
    wrong: u64,
    finished: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let commands: u64 = std::env::args().nth(2).map_or(Ok(10_000_000), |count| count.parse())?;
    let work = Work { started: Instant::now(), next: [0; WORKERS], wrong: 0, finished: 0 };
    let mut server = Server::builder().build(work)?;
    let gate = gatekeeper();
    server.filter(move |_, sockets, incoming| {
        let user = incoming.query("user").unwrap_or_default().into_owned();
        // If that thread had ended, the request would be dropped, and the client would get 503.
        let _ = gate.send((user, sockets.defer(incoming)));
        Ok(())
    });
    server.route("/work", |work, kws| {
        let welcome = format!(
            "welcome {}, {}",
            kws.string_attribute("user").unwrap_or_default(),
            work.report()
        );
        kws.emit(welcome);
    })?;
    println!("listening on {}", server.listen(common::address("127.0.0.1:3002"))?);
    for worker in 0..WORKERS {
        let handle = server.handle();
        let share = commands / WORKERS as u64;
        thread::spawn(move || count(worker, share, &handle));
    }
    common::run_until_interrupted(&mut server)
}

/// The thread that decides which clients may connect. It gets the requests over a channel.
fn gatekeeper() -> mpsc::Sender<(String, Deferred<Work>)> {
    let (gate, requests) = mpsc::channel::<(String, Deferred<Work>)>();
    thread::spawn(move || {
        for (user, deferred) in requests {
            if !deferred.is_waiting() {
                continue; // the client has left meanwhile
            }
            thread::sleep(DECISION);
            // An error means that the client has just left. There is nothing to do then.
            let _ = match user.is_empty() {
                true => deferred
                    .reject(Response::text("Who are you? Try /work?user=NAME.\n").with_status(401)),
                false => deferred.accept(|attributes| attributes.set("user", user)),
            };
        }
    });
    gate
}

/// What one worker does: it sends its numbers, each once.
fn count(worker: usize, share: u64, handle: &Handle<Work>) {
    for number in 0..share {
        insist(handle, move |work, sockets| work.take(worker, number, sockets));
    }
    insist(handle, |work, sockets| {
        work.finished += 1;
        if work.finished == WORKERS {
            println!("{}", work.report());
            sockets.broadcast(work.report());
        }
    });
}

/// Sends again while the queue is full: this producer waits rather than lose a command.
fn insist(
    handle: &Handle<Work>,
    command: impl FnOnce(&mut Work, &mut Sockets<'_, Work>) + Send + Copy + 'static,
) {
    while let Err(SendError::Full { .. }) = handle.send(command) {
        thread::yield_now();
    }
}

impl Work {
    fn take(&mut self, worker: usize, number: u64, sockets: &mut Sockets<'_, Work>) {
        self.wrong += u64::from(self.next[worker] != number);
        self.next[worker] = number + 1;
        if number.is_multiple_of(250_000) {
            sockets.broadcast(format!("worker {worker} is at {number}"));
        }
    }

    fn report(&self) -> String {
        let (count, seconds) =
            (self.next.iter().sum::<u64>(), self.started.elapsed().as_secs_f64());
        format!(
            "{count} commands of {WORKERS} threads in {seconds:.1} s, {} out of order",
            self.wrong
        )
    }
}
