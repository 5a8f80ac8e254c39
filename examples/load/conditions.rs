//! What a reader needs to repeat a run, or to judge it later: when, how and on which machine. Names
//! neither hosts nor files, so that a report can be passed on.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;

/// The conditions of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub date: String,
    pub command_line: String,
    pub machine: String,
}

impl Conditions {
    /// Those of a run that began at `begin` with this command line, on this machine.
    pub fn new(begin: SystemTime, command_line: &str) -> Conditions {
        let seconds = begin.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Conditions {
            date: date(seconds),
            command_line: command_line.to_owned(),
            machine: machine(),
        }
    }
}

/// The processor, its logical cores, and the kernel.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (model, cores) = parse_cpuinfo(&cpus);
    let processor = model.unwrap_or(std::env::consts::ARCH);
    let cores = match cores {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        cores => cores,
    };
    let plural = if cores == 1 { "" } else { "s" };
    let about = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    let system = about("ostype").unwrap_or_else(|| std::env::consts::OS.to_owned());
    let release = about("osrelease").unwrap_or_default();
    let kernel = format!("{} {}", system.trim(), release.trim());
    format!("{processor}, {cores} logical core{plural}, {}", kernel.trim_end())
}

/// The model of the first processor in /proc/cpuinfo, where it has one, and their number.
fn parse_cpuinfo(text: &str) -> (Option<&str>, usize) {
    let fields =
        || text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim()));
    let model = fields().find(|&(key, value)| key == "model name" && !value.is_empty());
    (model.map(|(_, value)| value), fields().filter(|&(key, _)| key == "processor").count())
}

/// Seconds since 1970 as a date in UTC.
fn date(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / DAY, seconds % DAY / 60);
    let (mut year, mut month) = (1970, 1);
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute) = (minutes / 60, minutes % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02} UTC", days + 1)
}

fn days_of_year(year: u64) -> u64 {
    (1..=12).map(|month| days_of_month(year, month)).sum()
}

fn days_of_month(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_825_600, "2000-02-29 12:00 UTC"),
            (978_220_800, "2000-12-31 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn a_processor_without_a_model_is_counted_all_the_same() {
        let one = "processor\t: 0\nmodel name\t: Fast: 3000\n\n";
        let x86 = one.repeat(2);
        assert_eq!(parse_cpuinfo(&x86), (Some("Fast: 3000"), 2));
        assert_eq!(parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 50.00\n"), (None, 1));
        assert_eq!(parse_cpuinfo(""), (None, 0));
    }
}
