//! A redis-server of this bench's own, and a relay before it that counts what a server receives.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::load::MARK;
use crate::server::pinned;

/// How long Redis may take to listen, to answer, and to be through with what it got.
const PATIENCE: Duration = Duration::from_secs(10);

/// A redis-server on a Unix socket in a folder of its own. Both end with this.
pub struct Redis {
    process: Child,
    folder: PathBuf,
}

impl Redis {
    /// `None` if there is none on this machine.
    pub fn start(cores: &str) -> Result<Option<Self>, Box<dyn Error>> {
        let Some(program) = program() else { return Ok(None) };
        let folder = std::env::temp_dir().join(format!("ikisocket-bus-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let mut command = pinned(cores, &program);
        command.args(["--port", "0", "--unixsocket", "redis", "--save", "", "--appendonly", "no"]);
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
        let redis = Self { process: command.spawn()?, folder };
        redis.command("PING")?;
        Ok(Some(redis))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("redis")
    }

    /// A figure of INFO, such as `used_memory`.
    pub fn figure(&self, section: &str, name: &str) -> Result<u64, Box<dyn Error>> {
        let info = self.command(&format!("INFO {section}"))?;
        let mut lines = info.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(lines.next().ok_or(format!("Redis does not say its {name}"))?.parse()?)
    }

    /// How many messages it got in all.
    pub fn published(&self) -> Result<u64, Box<dyn Error>> {
        let info = self.command("INFO commandstats")?;
        let calls = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.split(',').next()?.parse::<u64>().ok()
        };
        Ok(["cmdstat_publish:calls=", "cmdstat_spublish:calls="]
            .into_iter()
            .filter_map(calls)
            .sum())
    }

    pub fn version(&self) -> Result<String, Box<dyn Error>> {
        let info = self.command("INFO server")?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or_default().trim().to_owned())
    }

    /// One command on a connection of its own. The answer is one line or one text.
    fn command(&self, line: &str) -> Result<String, Box<dyn Error>> {
        let end = Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        // Redis closes after the answer to QUIT, which ends the reading.
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with('-') {
            return Err(format!("Redis answers {line} with {answer}").into());
        }
        Ok(answer)
    }

    /// A socket through which a server reaches this Redis.
    pub fn relay(&self, name: &str) -> io::Result<Relay> {
        Relay::start(self.folder.join(name), self.socket())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where redis-server is.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|it| it.exists())
}

/// Passes everything on, and counts what goes from Redis to a server. It ends with the process.
pub struct Relay {
    socket: PathBuf,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    /// Times that the mark of the bench's messages went by.
    marks: AtomicU64,
}

impl Relay {
    fn start(socket: PathBuf, redis: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let counted = Arc::new(Counted::default());
        let of_thread = counted.clone();
        std::thread::spawn(move || {
            // An error ends the relay, and the server that uses it then says so.
            while let Ok((server, _)) = listener.accept() {
                if relay(server, &redis, &of_thread).is_err() {
                    return;
                }
            }
        });
        Ok(Self { socket, counted })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Bytes that the server got, and the bench's messages among them.
    pub fn received(&self) -> (u64, u64) {
        let Counted { bytes, marks } = &*self.counted;
        (bytes.load(Ordering::Relaxed), marks.load(Ordering::Relaxed))
    }
}

/// Starts the threads of one connection.
fn relay(server: UnixStream, redis: &Path, counted: &Arc<Counted>) -> io::Result<()> {
    let redis = UnixStream::connect(redis)?;
    let (mut from_server, mut to_redis) = (server.try_clone()?, redis.try_clone()?);
    std::thread::spawn(move || io::copy(&mut from_server, &mut to_redis));
    let counted = counted.clone();
    std::thread::spawn(move || count(redis, server, &counted));
    Ok(())
}

fn count(mut redis: UnixStream, mut server: UnixStream, counted: &Counted) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    // The end of what went by, in which a mark may have begun.
    let mut kept = 0;
    loop {
        let read = match redis.read(&mut buffer[kept..]) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let there = kept + read;
        let marks = buffer[..there].windows(MARK.len()).filter(|&window| window == MARK).count();
        counted.bytes.fetch_add(read as u64, Ordering::Relaxed);
        counted.marks.fetch_add(marks as u64, Ordering::Relaxed);
        server.write_all(&buffer[kept..there])?;
        let keep = there.min(MARK.len() - 1);
        buffer.copy_within(there - keep..there, 0);
        kept = keep;
    }
}
