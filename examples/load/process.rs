//! What Linux tells about processes and threads in /proc: CPU time and resident memory. Elsewhere everything is unknown.

use crate::clock::Nanos;
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

    /// CPU time of all its threads that live. To the nanosecond from the scheduler (exact for threads that sleep now), else
    /// utime + stime in steps of 10 ms.
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
        ThreadTime { cpu: self.cpu.saturating_sub(earlier.cpu), waited: self.waited.saturating_sub(earlier.waited) }
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
        assert_eq!(parse_schedstat("35474254 2686041 84\n"), Some(ThreadTime { cpu: 35_474_254, waited: 2_686_041 }));
        assert_eq!(parse_schedstat(""), None);
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 2 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(stat), Some(42 * TICK));
        assert_eq!(parse_stat("7 (x"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_watched_and_no_process_cannot() {
        let this = Process::find(std::process::id()).unwrap();
        assert!(this.resident().unwrap() > 100_000);
        assert!(this.cpu().is_some());
        assert!(Process::find(u32::MAX).is_err());
    }
}
