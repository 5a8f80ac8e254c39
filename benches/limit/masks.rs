//! What masking 16 KiB takes, in each build and from four beginnings. A loop over chunks may become
//! a trap: for some processors the compiler makes gathers and scatters of it, which take ten times
//! as long as the loop they replace. A table for each of two ways to see that:
//!
//! - instructions, counted by callgrind: the same on every machine that the build runs on;
//! - time, relative to a plain loop of 8-byte words in the same program. Valgrind knows no AVX-512,
//!   and a gather is one instruction however long it takes. The plain loop could become a trap as
//!   well, so its own time is relative to `memcpy`, which the C library has and no build changes.
//!
//! The bench fails if a figure is above its limit.

use std::error::Error;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ikisocket::protocol::apply_mask;

use crate::CORES;
use crate::programs::Build;
use crate::ratio::Ratio;
use crate::server::pinned;

const LEN: usize = 16 * 1024;
/// Where the payload begins, counted from a multiple of `ALIGN`: aligned; wherever; and where it
/// begins in the receive buffer, behind a header of 2 + 4 bytes or one of 2 + 2 + 4.
const OFFSETS: [usize; 4] = [0, 1, 6, 8];
/// A cache line, and the widest register.
const ALIGN: usize = 64;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// How often callgrind sees it done: what the second run has more is due to the masking alone.
const ROUNDS: [u64; 2] = [10, 1010];
/// A loop needs a load, an XOR and a store for each register, and two that count the steps and jump
/// back if it is not unrolled.
const INSTRUCTIONS_PER_REGISTER: usize = 5;
/// What precedes and follows the loop: the head up to an aligned address, and the tail.
const AROUND: usize = 128;
/// A plain loop aligns nothing and is a little slower for it; a trap is ten times slower. The rest
/// is for noise.
const TIME_LIMIT: f64 = 1.5;
/// Where the pages of a process lie has made 1.7 of 1.03, with the same instructions. A trap is in
/// every process, so this many may try to be within the limit.
const PROCESSES: usize = 3;
/// What the plain loop takes of the time of `memcpy`, which uses the widest registers in any build.
const MEMCPY_LIMIT: f64 = 4.0;
const PAIRS: usize = 400;
/// Maskings that are timed together: the clock takes as long as a part of one.
const TOGETHER: usize = 50;
const ILLEGAL_INSTRUCTION: i32 = 4;

/// One of the loops, in the program of one build.
pub fn work(how: &str, offset: usize, rounds: u64) -> Result<(), Box<dyn Error>> {
    let mut buffer = vec![b'x'; LEN + 2 * ALIGN];
    let start = buffer.as_ptr().align_offset(ALIGN) + offset;
    let payload = &mut buffer[start..start + LEN];
    match how {
        "ours" => (0..rounds).for_each(|_| ours(black_box(payload))),
        "plain" => (0..rounds).for_each(|_| plain(black_box(payload))),
        "time" => print_ratio(payload, ours, plain)?,
        "plain time" => print_ratio(payload, plain, copy)?,
        _ => return Err("it can be ours, plain, time or plain time".into()),
    }
    Ok(())
}

/// Prints the time of one loop relative to another.
fn print_ratio(
    payload: &mut [u8],
    a: fn(&mut [u8]),
    b: fn(&mut [u8]),
) -> Result<(), Box<dyn Error>> {
    let mut time = |work: fn(&mut [u8])| {
        let start = Instant::now();
        (0..TOGETHER).for_each(|_| work(black_box(payload)));
        start.elapsed().as_secs_f64()
    };
    let pairs = (0..PAIRS).map(|_| time(a) / time(b)).collect();
    println!("{:#}", Ratio::of(pairs).ok_or("too few pairs")?.to_json());
    Ok(())
}

#[inline(never)]
fn ours(payload: &mut [u8]) {
    apply_mask(payload, KEY, 0);
}

/// The loop that no compiler has made slow so far.
#[inline(never)]
fn plain(payload: &mut [u8]) {
    let [a, b, c, d] = KEY;
    let key = u64::from_le_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ key).to_le_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

fn copy(payload: &mut [u8]) {
    static SOURCE: [u8; LEN] = [b'y'; LEN];
    payload.copy_from_slice(black_box(&SOURCE));
}

pub fn table() -> Result<(), Box<dyn Error>> {
    let mut programs = Vec::new();
    for build in Build::ALL {
        match build.runs_here() {
            true => programs.push((build, build.limit()?)),
            false => println!("{} is left out: this processor cannot run it", build.name()),
        }
    }
    let (mut too_many, mut is_left_out) = (Vec::new(), false);
    println!("masking {} KiB, instructions\n", LEN / 1024);
    println!("| build | at most | {}plain loop |", heads());
    println!("|---|---|{}---|", "---|".repeat(OFFSETS.len()));
    for (build, program) in &programs {
        let limit = LEN / register() * INSTRUCTIONS_PER_REGISTER + AROUND;
        let mut row = format!("| {} | {limit} |", build.name());
        let works = OFFSETS.map(|offset| ("ours", offset)).into_iter().chain([("plain", 0)]);
        for (how, offset) in works {
            let Some(instructions) = instructions(program, how, offset)? else {
                row += " – |";
                is_left_out = true;
                continue;
            };
            row += &format!(" {instructions} |");
            if how == "ours" && instructions > limit {
                too_many.push(format!("{} at {offset}: {instructions}", build.name()));
            }
        }
        println!("{row}");
    }
    if is_left_out {
        println!("\n–: valgrind knows no AVX-512, which that build uses");
    }

    println!("\nmasking {} KiB, time relative to the plain loop\n", LEN / 1024);
    println!("| build | at most | {}plain loop relative to memcpy | at most |", heads());
    println!("|---|---|{}---|---|", "---|".repeat(OFFSETS.len()));
    for (build, program) in &programs {
        let mut row = format!("| {} | {TIME_LIMIT} |", build.name());
        for offset in OFFSETS {
            let ratio = time_within(TIME_LIMIT, program, "time", offset)?;
            row += &format!(" {ratio} |");
            if ratio.low > TIME_LIMIT {
                too_many.push(format!("{} at {offset}: {ratio} × the time", build.name()));
            }
        }
        let ratio = time_within(MEMCPY_LIMIT, program, "plain time", 0)?;
        println!("{row} {ratio} | {MEMCPY_LIMIT} |");
        if ratio.low > MEMCPY_LIMIT {
            too_many.push(format!("{}, plain loop: {ratio} × the time of memcpy", build.name()));
        }
    }
    match too_many[..] {
        [] => Ok(()),
        _ => Err(format!("above the limit: {}", too_many.join("; ")).into()),
    }
}

fn heads() -> String {
    OFFSETS.iter().map(|offset| format!("at {offset} | ")).collect()
}

/// The bytes of the widest register that every build uses on this processor.
fn register() -> usize {
    if Build::V3.runs_here() { 32 } else { 16 }
}

/// The instructions of one masking; `None` if valgrind cannot run the program.
fn instructions(program: &Path, how: &str, offset: usize) -> Result<Option<usize>, Box<dyn Error>> {
    let [few, many] = ROUNDS.map(|rounds| total(program, how, offset, rounds));
    let (Some(few), Some(many)) = (few?, many?) else { return Ok(None) };
    Ok(Some(((many - few) / (ROUNDS[1] - ROUNDS[0])) as usize))
}

fn total(
    program: &Path,
    how: &str,
    offset: usize,
    rounds: u64,
) -> Result<Option<u64>, Box<dyn Error>> {
    let counts = std::env::temp_dir().join(format!("ikisocket-masks-{}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind"]);
    command.arg(format!("--callgrind-out-file={}", counts.display())).arg(program);
    command.args(["mask", how, &offset.to_string(), &rounds.to_string()]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}"))?;
    let text = std::fs::read_to_string(&counts).unwrap_or_default();
    // It is not there if valgrind wrote none.
    let _ = std::fs::remove_file(counts);
    if output.status.signal() == Some(ILLEGAL_INSTRUCTION) && has_avx512() {
        return Ok(None);
    }
    if !output.status.success() {
        return Err(
            format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(Some(total.ok_or("callgrind gave no total")?.trim().parse()?))
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// The time in the first process that is within the limit, or in the last one.
fn time_within(
    limit: f64,
    program: &Path,
    how: &str,
    offset: usize,
) -> Result<Ratio, Box<dyn Error>> {
    let mut ratio = time(program, how, offset)?;
    for _ in 1..PROCESSES {
        if ratio.low <= limit {
            break;
        }
        ratio = time(program, how, offset)?;
    }
    Ok(ratio)
}

fn time(program: &Path, how: &str, offset: usize) -> Result<Ratio, Box<dyn Error>> {
    let mut command = pinned(CORES[0], program);
    command.args(["mask", how, &offset.to_string(), "0"]);
    let output = command.stdin(Stdio::null()).output()?;
    let ratio = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(Ratio::read(&ratio).ok_or("no ratio")?)
}
