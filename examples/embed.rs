//! A 60 Hz loop of your own with the server in it: a small simulation, shown to every client
//! that connects to `/world`.
//!
//! `cargo run --example embed [ADDR]`
//!
//! Each tick every client gets a binary message, four bytes for each ball: x and y as little-endian
//! `u16`. Any message from a client throws the balls up. Once a second it prints how the loop keeps
//! time, and (on Linux) that its own thread is the only one.

use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ikisocket::{Event, Server, Shutdown};

mod common;

/// Ticks per second.
const RATE: u32 = 60;
const TICK: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);
/// A loop that is further behind than this (a laptop slept) leaves out the ticks that it missed,
/// instead of doing them all at once.
const MOST_BEHIND: Duration = Duration::from_millis(250);

fn main() -> Result<(), Box<dyn Error>> {
    let mut server = Server::builder().build(World::new(12))?;
    server.route("/world", |_, _| {})?.on(Event::Message, |world, _| world.throw());
    println!("listening on {}", server.listen(common::address("127.0.0.1:3001"))?);

    let interrupted = common::interrupt_flag()?;
    let mut stopping = false;
    let (mut next, mut ticks, mut latest) = (Instant::now(), 0, Duration::ZERO);
    while !server.is_finished() {
        if let Some(late) = Instant::now().checked_duration_since(next) {
            // The server works in `poll` alone, so here the world is yours.
            let (world, mut sockets) = server.lend();
            world.step();
            sockets.broadcast(world.picture());
            ticks += 1;
            latest = latest.max(late);
            if ticks % RATE == 0 {
                println!(
                    "tick {ticks}: clients {}, latest tick {latest:.1?} late{}",
                    sockets.len(),
                    threads()
                );
                latest = Duration::ZERO;
            }
            // Counted from when the tick was due, not from when it came, so that the rate is right
            // in the long run.
            next = if late > MOST_BEHIND { Instant::now() } else { next } + TICK;
        }
        // The server's turn takes the time until the next tick, and no time if the loop is behind.
        server.poll(Some(next.saturating_duration_since(Instant::now())))?;
        if !stopping && interrupted.load(Ordering::Relaxed) {
            stopping = true;
            server.sockets().shutdown(Shutdown::default())?;
        }
    }
    Ok(())
}

/// Balls in a box, `0.0..=1.0` both ways.
struct World {
    balls: Vec<Ball>,
}

struct Ball {
    at: [f32; 2],
    speed: [f32; 2],
}

impl World {
    fn new(balls: u8) -> Self {
        let ball = |i| Ball {
            at: [(f32::from(i) + 0.5) / f32::from(balls), 0.5],
            speed: [0.1 + 0.02 * f32::from(i), 0.0],
        };
        Self { balls: (0..balls).map(ball).collect() }
    }

    /// One tick: always the same time, so the world does not depend on how evenly the loop turns.
    fn step(&mut self) {
        let seconds = TICK.as_secs_f32();
        for ball in &mut self.balls {
            ball.speed[1] -= seconds; // gravity
            for (at, speed) in ball.at.iter_mut().zip(&mut ball.speed) {
                *at += *speed * seconds;
                if !(0.0..=1.0).contains(at) {
                    *at = at.clamp(0.0, 1.0);
                    *speed = -*speed;
                }
            }
        }
    }

    fn throw(&mut self) {
        self.balls.iter_mut().for_each(|ball| ball.speed[1] = 1.0);
    }

    fn picture(&self) -> Vec<u8> {
        let coordinates = self.balls.iter().flat_map(|ball| ball.at);
        coordinates.flat_map(|at| ((at * f32::from(u16::MAX)) as u16).to_le_bytes()).collect()
    }
}

/// How many threads this process has, as the system says.
fn threads() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    threads.map_or(String::new(), |threads| format!(", threads {}", threads.trim()))
}
