//! What Linux shows of processes and threads in /proc: CPU time and resident memory. Elsewhere
//! everything is unknown.

use crate::clock::Nanos;
use std::collections::HashSet;
use std::fs;

/// The unit of utime and stime (USER_HZ): 100 per second on every Linux that counts.
const TICK: Nanos = 10_000_000;

/// A process to watch: the server.
#[derive(Clone, Copy, Debug)]
pub struct Process(u32);

impl Process {
    /// The process `pid`, if there is one that can be watched.
    pub fn find(pid: u32) -> Result<Process, String> {
        let process = Process(pid);
        match (process.cpu(), process.resident()) {
            (Some(_), Some(_)) => Ok(process),
            _ => Err(format!("cannot read /proc/{pid}: no such process, or not Linux")),
        }
    }

    /// CPU time of all its threads that live. To the nanosecond from the scheduler (exact for
    /// threads that sleep now), else utime + stime in steps of 10 ms.
    pub fn cpu(self) -> Option<Nanos> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).ok()?;
        let mut total = 0;
        for thread in threads.flatten() {
            match fs::read_to_string(thread.path().join("schedstat")) {
                Ok(text) => total += parse_schedstat(&text)?.cpu,
                Err(_) if thread.path().exists() => return self.cpu_in_ticks(),
                Err(_) => {} // It ended while we looked.
            }
        }
        if total == 0 { self.cpu_in_ticks() } else { Some(total) }
    }

    fn cpu_in_ticks(self) -> Option<Nanos> {
        parse_stat(&fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?)
    }

    /// Resident memory in bytes.
    pub fn resident(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

/// What a process has to do with a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    pub is_listening: bool,
    /// Established connections of others to that port.
    pub connections: usize,
}

impl Process {
    /// Its TCP sockets at a port of its own; `None` if that cannot be read.
    pub fn sockets(self, port: u16) -> Option<Sockets> {
        let is_socket = |target: &std::path::Path| {
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse::<u64>().ok()
        };
        let files = fs::read_dir(format!("/proc/{}/fd", self.0)).ok()?;
        let inodes: HashSet<u64> = files
            .flatten()
            .filter_map(|file| is_socket(&fs::read_link(file.path()).ok()?))
            .collect();
        let mut sockets = Sockets::default();
        for table in ["tcp", "tcp6"] {
            let text =
                fs::read_to_string(format!("/proc/{}/net/{table}", self.0)).unwrap_or_default();
            for socket in text.lines().filter_map(parse_socket) {
                if socket.port == port && inodes.contains(&socket.inode) {
                    sockets.is_listening |= socket.state == LISTEN;
                    sockets.connections += usize::from(socket.state == ESTABLISHED);
                }
            }
        }
        Some(sockets)
    }
}

/// States of /proc/net/tcp.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// A line of /proc/net/tcp: the local port, the state and the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    port: u16,
    state: u8,
    inode: u64,
}

fn parse_socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// What a thread did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// On a core.
    pub cpu: Nanos,
    /// Ready to run, but no core was free.
    pub waited: Nanos,
}

impl ThreadTime {
    /// Of the calling thread, up to now; zero where that is unknown.
    pub fn of_this_thread() -> ThreadTime {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        parse_schedstat(&text).unwrap_or_default()
    }

    pub fn since(self, earlier: ThreadTime) -> ThreadTime {
        ThreadTime {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

/// `cpu waited slices`, the first two in nanoseconds.
fn parse_schedstat(text: &str) -> Option<ThreadTime> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok());
    Some(ThreadTime { cpu: fields.next()??, waited: fields.next()?? })
}

/// utime and stime are fields 14 and 15; the second one, a name in brackets, may contain anything.
fn parse_stat(text: &str) -> Option<Nanos> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        assert_eq!(
            parse_schedstat("35474254 2686041 84\n"),
            Some(ThreadTime { cpu: 35_474_254, waited: 2_686_041 })
        );
        assert_eq!(parse_schedstat(""), None);
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 2 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(stat), Some(42 * TICK));
        assert_eq!(parse_stat("7 (x"), None);
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt \
                    uid  timeout inode";
        assert_eq!(parse_socket(head), None);
        let line = "   0: 0100007F:2329 00000000:0000 0A 00000000:00000000 00:00000000 \
                    00000000  1000        0 4711 1 0";
        assert_eq!(parse_socket(line), Some(Socket { port: 9001, state: LISTEN, inode: 4711 }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_watched_and_no_process_cannot() {
        let this = Process::find(std::process::id()).unwrap();
        assert!(this.resident().unwrap() > 100_000);
        assert!(this.cpu().is_some());
        assert!(Process::find(u32::MAX).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_known_by_the_port_that_it_listens_on() {
        use std::net::{TcpListener, TcpStream};

        let this = Process::find(std::process::id()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(
            this.sockets(address.port()),
            Some(Sockets { is_listening: true, connections: 0 })
        );
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(
            this.sockets(address.port()),
            Some(Sockets { is_listening: true, connections: 1 })
        );
        drop((listener, client, accepted));
        assert!(!this.sockets(address.port()).unwrap().is_listening);
    }
}
