//! What is measured, and the goal for each: the ratio to raw that must not be exceeded.

/// One line of the table.
pub struct Work {
    pub name: &'static str,
    /// The client's scenario, the server's path and the options. Both clients know them.
    pub load: &'static [&'static str],
    /// The goal. One that is not reached yet shows as `above`.
    pub ceiling: f64,
}

impl Work {
    pub const fn new(name: &'static str, ceiling: f64, load: &'static [&'static str]) -> Self {
        Self { name, load, ceiling }
    }

    /// The path of the server that this work uses.
    pub fn path(&self) -> &'static str {
        self.load[1]
    }

    /// Whether the bench's own client can do it.
    pub fn is_minimal(&self) -> bool {
        self.load[0] != "churn"
    }
}

pub const WORKS: [Work; 14] = [
    Work::new("echo, 100 × 20 B", 1.00, &["echo", "/echo", "--connections=100", "--size=20"]),
    Work::new(
        "echo, 100 × 1 KiB text",
        1.01,
        &["echo", "/echo", "--connections=100", "--size=1024", "--text"],
    ),
    Work::new(
        "echo, 20 × 20 B, 16 in flight",
        1.05,
        &["echo", "/echo", "--connections=20", "--size=20", "--in-flight=16"],
    ),
    Work::new(
        "echo, 20 × 1 KiB, 16 in flight",
        1.10,
        &["echo", "/echo", "--connections=20", "--size=1024", "--in-flight=16"],
    ),
    Work::new("echo, 20 × 16 KiB", 1.03, &["echo", "/echo", "--connections=20", "--size=16384"]),
    // Raw is no limit here. A message of this size comes in several parts. With each recv raw
    // copies the parts that it has into its receive buffer, and back. It copies the whole frame to
    // its replies, keeps a copy of what the socket does not take, and moves the rest of that with
    // each send. A server that sends each part from where it unmasked it copies less.
    Work::new("echo, 4 × 1 MB", 0.78, &["echo", "/echo", "--connections=4", "--size=1000000"]),
    Work::new(
        "broadcast, 64 B to 100",
        1.01,
        &["broadcast", "/bcast", "--connections=100", "--size=64"],
    ),
    Work::new(
        "broadcast, 64 B to 100, 16 at once",
        1.01,
        &["broadcast", "/bcast", "--connections=100", "--size=64", "--at-once=16"],
    ),
    Work::new(
        "broadcast, 64 B to 1 000",
        1.01,
        &["broadcast", "/bcast", "--connections=1000", "--size=64"],
    ),
    Work::new(
        "broadcast, 1 KiB to 100",
        1.00,
        &["broadcast", "/bcast", "--connections=100", "--size=1024"],
    ),
    Work::new(
        "broadcast, 1 KiB to 500, 4 at once",
        1.05,
        &["broadcast", "/bcast", "--connections=500", "--size=1024", "--at-once=4"],
    ),
    Work::new(
        "broadcast, 16 KiB to 100",
        1.03,
        &["broadcast", "/bcast", "--connections=100", "--size=16384"],
    ),
    Work::new("upgrade, then reset", 1.04, &["connect", "/echo"]),
    // Raw never closes by itself; a server must answer the client's Close frame and wait for the
    // client's FIN (RFC 6455, section 7.1.1).
    Work::new("visit of one message", 1.20, &["churn", "/echo", "--messages=1"]),
];
