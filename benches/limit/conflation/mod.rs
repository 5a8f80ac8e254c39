//! What one stalled reader among many costs, with conflation and without: a feed of updates
//! (`feed`), readers of which one stalls for some seconds and then reads on (`readers`), and what
//! became of it, of the server's memory and of the others. The table is ready for the README.

use std::error::Error;
use std::process::Stdio;

use crate::CORES;
use crate::server::{Running, pinned};

pub mod feed;
pub mod readers;

use feed::{KEYS, PACE, Update};
use readers::{CURRENT, RECOVERY, STALL, TOTAL, WARM_UP};

const HEALTHY: usize = 500;

/// The name of each row, what the feed does about slow readers, and whether there is one.
const ROWS: [(&str, &str, bool); 5] = [
    ("no reader stalls", "default", false),
    ("`Disconnect`, the default", "default", true),
    ("`Disconnect`, `max_outbox` of 1 GiB", "large", true),
    ("`Latest`", "latest", true),
    ("`Latest`, `SO_SNDBUF` of 32 KiB", "latest-small", true),
];

pub fn table() -> Result<(), Box<dyn Error>> {
    let stalls =
        [WARM_UP, WARM_UP + STALL, WARM_UP + STALL + RECOVERY, TOTAL].map(|updates| updates / PACE);
    println!(
        "{PACE} updates/s of {} bytes over {KEYS} keys, to {HEALTHY} readers and to one that reads nothing between seconds {stalls:?}",
        Update::FRAME,
    );
    println!("an update is current for {} ms\n", CURRENT / 1_000_000);
    println!(
        "| | the one that stalls gets | server's memory: before, most, after | waits for it | first, old updates | current after | then age: p50, max \
         | the others: updates/s | age: p50, p99 | CPU for each delivery |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let this = std::env::current_exe()?;
    for (name, keeping, stalls) in ROWS {
        let connections = HEALTHY + usize::from(stalls);
        let server = Running::start(
            &this,
            &["feed".to_owned(), keeping.to_owned(), connections.to_string()],
        )?;
        let mut readers = pinned(CORES[1], &this);
        readers.args([
            "readers",
            server.address(),
            &server.pid(),
            &HEALTHY.to_string(),
            &stalls.to_string(),
        ]);
        let cells = readers.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !cells.status.success() {
            return Err(format!("{name}: see above").into());
        }
        println!("| {name} {}", String::from_utf8_lossy(&cells.stdout).trim());
    }
    Ok(())
}
