//! An echo server: `/echo` answers each message with itself, `/bcast` sends each to all clients.
//! `/forgetful` is `/echo` for connections whose requests are not kept. Tests and benchmarks run
//! against it.
//!
//! `cargo run --release --example echo [ADDR] [--spin]`; with `--features deflate` it compresses
//! for clients that offer that, as `--deflate` says. With `--features tls` and `--tls CERT KEY` it
//! speaks TLS.
//!
//! With `--spin` it never sleeps: it looks for events all the time, and keeps one core busy.

use std::error::Error;

use common::certificate::Certificate;
use ikisocket::{Builder, Event, EventPayload, RouteOptions, Server};
use lexopt::prelude::*;

mod common;

const MIB: usize = 1024 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut address = "127.0.0.1:9001".to_owned();
    let (mut mode, mut tuning, mut spin) = (None, Tuning::default(), false);
    let mut certificate = Certificate::none();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => address = word.string()?,
            Long("deflate") => mode = Some(arguments.value()?.string()?),
            Long("spin") => spin = true,
            Long("tls") => {
                let [chain, key] = [arguments.value()?.string()?, arguments.value()?.string()?];
                certificate = Certificate::read(chain, key)?;
            }
            Long("window-bits") => tuning.window_bits = Some(arguments.value()?.parse()?),
            Long("level") => tuning.level = Some(arguments.value()?.parse()?),
            _ => {
                return Err("usage: echo [ADDR] [--spin] [--tls CERT KEY] [--deflate shared|dedicated|off] [--window-bits 9..15] [--level 1..9]".into());
            }
        }
    }
    // Large enough for conformance suites, and for messages of a megabyte at full speed (see
    // `Builder::notsent_lowat`); everything else is the library's default.
    let settings = Server::builder().max_message(64 * MIB).max_outbox(128 * MIB).notsent_lowat(MIB);
    let mut server = with_deflate(settings, mode.as_deref(), &tuning)?.build(())?;
    server.route("/echo", |_, _| {})?.on(Event::Message, echo);
    let forgetful = RouteOptions::default().forget_request();
    server.route_with("/forgetful", forgetful, |_, _| {})?.on(Event::Message, echo);
    server.route("/bcast", |_, _| {})?.on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    let address = certificate.listen(&mut server, &address)?;
    println!("listening on {address}");
    match spin {
        true => common::spin_with_certificate(&mut server, &certificate),
        false => common::run_with_certificate(&mut server, &certificate),
    }
}

fn echo(_: &mut (), ep: &mut EventPayload<'_, ()>) {
    ep.kws.emit(ep.data);
}

/// Settings of compression, where they are not the library's defaults.
#[derive(Default)]
struct Tuning {
    window_bits: Option<u8>,
    level: Option<u8>,
}

/// Compression in both directions, in the mode that was asked for: `dedicated` if there was none.
#[cfg(feature = "deflate")]
fn with_deflate(
    settings: Builder,
    mode: Option<&str>,
    tuning: &Tuning,
) -> Result<Builder, Box<dyn Error>> {
    use ikisocket::Deflate;

    let mut deflate = match mode {
        Some("off") => return Ok(settings),
        Some("shared") => Deflate::shared(),
        Some("dedicated") | None => Deflate::dedicated(),
        Some(other) => {
            return Err(format!("--deflate {other}: it can be shared, dedicated or off").into());
        }
    };
    if let Some(bits) = tuning.window_bits {
        deflate = deflate.server_window_bits(bits).client_window_bits(bits);
    }
    if let Some(level) = tuning.level {
        deflate = deflate.level(level);
    }
    Ok(settings.deflate(deflate))
}

#[cfg(not(feature = "deflate"))]
fn with_deflate(
    settings: Builder,
    mode: Option<&str>,
    tuning: &Tuning,
) -> Result<Builder, Box<dyn Error>> {
    match (mode, tuning) {
        (None | Some("off"), Tuning { window_bits: None, level: None }) => Ok(settings),
        _ => {
            Err("--deflate: build it with cargo run --release --features deflate --example echo"
                .into())
        }
    }
}
