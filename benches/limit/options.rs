//! What the table is to show, from the command line.

use std::error::Error;
use std::path::Path;

use lexopt::prelude::*;

use crate::programs::{Build, Client, file_name};
use crate::server::Running;

pub struct Options {
    pub client: Client,
    pub builds: Vec<Build>,
    pub peers: bool,
    pub reference: Option<Reference>,
    /// Only works whose names contain this.
    pub only: String,
}

/// Any other server, measured beside ours.
pub enum Reference {
    /// A program, which is started with an address after its arguments, and says in its first line
    /// where it listens.
    Program(String),
    /// One that runs already.
    Server { url: String, pid: u32 },
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            client: Client::Load,
            builds: vec![Build::Generic],
            peers: false,
            reference: None,
            only: String::new(),
        };
        let (mut reference, mut pid) = (None, None);
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("client") => {
                    let name = parser.value()?.string()?;
                    options.client = [Client::Load, Client::Minimal]
                        .into_iter()
                        .find(|client| client.name() == name)
                        .ok_or("--client: it can be load or minimal")?;
                }
                Long("build") => options.builds = builds(&parser.value()?.string()?)?,
                Long("peers") => options.peers = true,
                Long("reference") => reference = Some(parser.value()?.string()?),
                Long("pid") => pid = Some(parser.value()?.parse()?),
                Long("only") => options.only = parser.value()?.string()?,
                other => return Err(other.unexpected().into()),
            }
        }
        options.reference = match (reference, pid) {
            (Some(url), Some(pid)) if url.starts_with("ws://") => {
                Some(Reference::Server { url, pid })
            }
            (Some(url), None) if url.starts_with("ws://") => {
                return Err(format!("--reference {url}: say --pid, the server's process id").into());
            }
            (Some(program), None) => Some(Reference::Program(program)),
            (None, None) => None,
            (_, Some(_)) => return Err("--pid is for --reference ws://…".into()),
        };
        Ok(options)
    }
}

fn builds(list: &str) -> Result<Vec<Build>, Box<dyn Error>> {
    let mut builds = Vec::new();
    for name in list.split(',') {
        let build = Build::ALL.into_iter().find(|build| build.name() == name);
        let build =
            build.ok_or("--build: it can be generic, v3 and native, with commas between")?;
        if build.runs_here() {
            builds.push(build);
        } else {
            println!("{name} is left out: this processor cannot run it");
        }
    }
    Ok(builds)
}

impl Reference {
    pub fn name(&self) -> String {
        match self {
            Self::Program(program) => file_name(Path::new(program)),
            Self::Server { url, .. } => url.trim_start_matches("ws://").to_owned(),
        }
    }

    pub fn start(&self) -> Result<Running, Box<dyn Error>> {
        match self {
            Self::Program(program) => Running::start(Path::new(program), &[]),
            Self::Server { url, pid } => Running::attach(url, *pid),
        }
    }
}
