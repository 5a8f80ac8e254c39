//! TLS: what the table says of connections over it, and the raw that they are compared with.

use std::error::Error;
use std::path::Path;

use lexopt::prelude::*;

use crate::programs::{Client, Programs};
use crate::server::{self, Running};
use crate::works::Work;

#[cfg(feature = "_tls")]
pub mod keys;
#[cfg(feature = "_tls")]
pub mod raw;
#[cfg(feature = "_tls")]
pub mod wire;

/// The test certificate, which the client trusts, and its key. The package does not have them: the
/// bench needs the repository.
pub const CHAIN: &str = "tests/tls/localhost.pem";
pub const KEY: &str = "tests/tls/localhost.key";

/// The goal of all rows.
const AT_MOST: f64 = 1.05;

const WORKS: [Work; 6] = [
    Work::new("echo, 100 × 20 B", AT_MOST, &["echo", "/echo", "--connections=100", "--size=20"]),
    Work::new("echo, 100 × 1 KiB", AT_MOST, &["echo", "/echo", "--connections=100", "--size=1024"]),
    Work::new("echo, 20 × 16 KiB", AT_MOST, &["echo", "/echo", "--connections=20", "--size=16384"]),
    Work::new(
        "broadcast, 64 B to 200",
        AT_MOST,
        &["broadcast", "/bcast", "--connections=200", "--size=64"],
    ),
    Work::new("full handshake, upgrade, reset", AT_MOST, &["connect", "/echo"]),
    Work::new("resumed handshake, upgrade, reset", AT_MOST, &["connect", "/echo", "--resume"]),
];

/// Prints the table. `--only TEXT` chooses works by name. `--reference PROGRAM` is another server,
/// which is started with the chain, the key and the address as its arguments.
pub fn table(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut reference, mut only) = (None, String::new());
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("reference") => reference = Some(parser.value()?.string()?),
            Long("only") => only = parser.value()?.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if !cfg!(feature = "_tls") {
        return Err("it needs TLS: cargo bench --bench limit --features tls -- --tls".into());
    }
    let programs = Programs::build()?;
    let pair = [CHAIN.to_owned(), KEY.to_owned()];
    let start = |program: &Path, before: &[&str]| -> Result<Running, Box<dyn Error>> {
        let words = before.iter().map(|&word| word.to_owned()).chain(pair.clone());
        Ok(Running::start(program, &words.collect::<Vec<_>>())?.secure())
    };
    let raw = start(&programs.this, &["raw-tls"])?;
    let second_raw = start(&programs.this, &["raw-tls"])?;
    let ours = start(&programs.echo, &["--tls"])?;
    let reference = match reference {
        None => None,
        Some(program) => {
            let program = Path::new(&program);
            Some((crate::programs::file_name(program), start(program, &[])?))
        }
    };

    println!("{}\n", server::machine());
    println!("Server CPU for each message or visit relative to raw over TLS: median and 95 %");
    println!("interval of paired slices. TLS 1.3, AES-128-GCM, X25519, a P-256 key.\n");
    let other = reference.as_ref().map(|(name, _)| format!(" {name} |")).unwrap_or_default();
    println!("| work | at most | ikisocket |{other} A/A |");
    println!("|---|---|---|{}---|", if other.is_empty() { "" } else { "---|" });
    for work in WORKS.iter().filter(|work| work.name.contains(&only)) {
        let compare = |server: &Running| -> Result<_, Box<dyn Error>> {
            Ok(programs.compare(Client::Minimal, work, server, &raw)?.0)
        };
        let ratio = compare(&ours)?;
        let above = if ratio.median > work.ceiling { " above" } else { "" };
        let mut line = format!("| {} | {:.2} | {ratio}{above} |", work.name, work.ceiling);
        if let Some((_, server)) = &reference {
            line += &format!(" {} |", compare(server)?);
        }
        let noise = compare(&second_raw)?;
        println!("{line} {:.2}–{:.2} |", noise.low, noise.high);
    }
    Ok(())
}
