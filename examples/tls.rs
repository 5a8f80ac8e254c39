//! TLS: certificates by name, client certificates, and a certificate that is replaced while the
//! server runs.
//!
//! `cargo run --features tls --example tls -- [ADDR] --tls CERT KEY [--name NAME CERT KEY]
//! [--clients ROOTS] [--required]`
//!
//! The page at `/` says what was agreed on with the client that asks for it, and `/ws` says it once
//! and then echoes. `--name` adds a certificate for clients that ask for that name, and `--clients`
//! asks clients for a certificate that these roots vouch for. With `--required` a client without
//! one is refused. SIGHUP makes it read CERT and KEY again.

use std::error::Error;

use common::certificate::{self, Certificate};
use ikisocket::{ClientCertificates, Event, Server, TlsInfo};
use lexopt::prelude::*;

mod common;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut address, mut certificate) = ("127.0.0.1:3443".to_owned(), Certificate::none());
    let (mut names, mut roots) = (Vec::new(), None);
    let mut demand = ClientCertificates::Requested;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) => address = word.string()?,
            Long("tls") => {
                certificate = Certificate::read(value(&mut arguments)?, value(&mut arguments)?)?;
            }
            Long("name") => {
                let mut next = || value(&mut arguments);
                names.push([next()?, next()?, next()?]);
            }
            Long("clients") => roots = Some(value(&mut arguments)?),
            Long("required") => demand = ClientCertificates::Required,
            Short('h') | Long("help") => {
                let options = "[--name NAME CERT KEY] [--clients ROOTS] [--required]";
                println!("tls [ADDR] --tls CERT KEY {options}\n\n{}", certificate::HELP);
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let tls = certificate.tls().ok_or("--tls CERT KEY is missing; see --help")?;
    for [name, chain, key] in &names {
        tls.name(name, chain, key)?;
    }
    if let Some(roots) = &roots {
        tls.client_certificates(roots, demand)?;
    }

    let mut server = Server::builder().build(())?;
    server.get("/", |_, _, incoming| incoming.tls().map(describe).unwrap_or_default())?;
    server.route("/ws", |_, kws| {
        let agreed = kws.tls().as_ref().map(describe).unwrap_or_default();
        kws.emit(agreed);
    })?;
    server.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    println!("listening on {}", certificate.listen(&mut server, &address)?);
    common::run_with_certificate(&mut server, &certificate)
}

fn value(arguments: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    arguments.value()?.string()
}

/// What was agreed on, one thing in each line.
fn describe(info: &TlsInfo) -> String {
    format!(
        "version: {}\nsuite: {}\nname: {}\nalpn: {}\nresumed: {}\nclient certificates: {}\n",
        info.version,
        info.cipher_suite,
        info.server_name.as_deref().unwrap_or("none"),
        info.alpn.as_deref().unwrap_or("none"),
        info.resumed,
        info.certificates.len(),
    )
}
