//! A node as the test sees it: a process with orders on its input and reports on its output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::books::Ledger;
use crate::lines::{Order, Report};
use crate::redis_process::signal;

/// What has not happened by then fails the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many reports may wait for the test. A node that has more waits with its member.
const MOST_REPORTS: usize = 100_000;

/// A line of reports begins with this. Others are those of the test harness.
pub const MARK: char = '@';

/// A node. Its process is killed when this value ends.
pub struct Node {
    child: Child,
    orders: ChildStdin,
    reports: Receiver<Report>,
    /// The orders that it has to answer.
    ordered: usize,
    pub ledger: Ledger,
}

impl Node {
    /// Starts a program as a node, and waits until it is ready.
    #[track_caller]
    pub fn start(program: &mut Command) -> Self {
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, reports) = mpsc::sync_channel(MOST_REPORTS);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some(line) = line.strip_prefix(MARK) else { continue };
                let report =
                    line.parse().unwrap_or_else(|()| Report::Fault(format!("no report: {line}")));
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        let orders = child.stdin.take().unwrap();
        let mut node = Self { child, orders, reports, ordered: 0, ledger: Ledger::default() };
        node.until("ready", |ledger| ledger.is_ready);
        node
    }

    #[track_caller]
    pub fn order(&mut self, order: Order) {
        let has_answer =
            !matches!(order, Order::Join(_) | Order::Leave(_) | Order::Count | Order::End);
        self.ordered += usize::from(has_answer);
        writeln!(self.orders, "{order}").unwrap();
    }

    /// Waits until it has published and sent all that was ordered.
    #[track_caller]
    pub fn until_answered(&mut self) {
        let ordered = self.ordered;
        self.until("done with its orders", |ledger| ledger.answers == ordered);
    }

    /// Lets it count, and waits until it has.
    #[track_caller]
    pub fn until_counted(&mut self) {
        self.order(Order::Count);
        let counts = self.ledger.counts + 1;
        self.until("counted", |ledger| ledger.counts == counts);
    }

    /// Takes its reports until what they say is `done`.
    #[track_caller]
    pub fn until(&mut self, what: &str, done: impl Fn(&Ledger) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.ledger) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) => self.enter(report),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("not {what} in {PATIENCE:?}: {:?}", self.ledger)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it has ended, and is not {what}: {:?}", self.ledger)
                }
            }
        }
    }

    /// Takes its reports until this time.
    #[track_caller]
    pub fn watch_until(&mut self, end: Instant) {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.reports.recv_timeout(left) {
                Ok(report) => self.enter(report),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {:?}", self.ledger),
            }
        }
    }

    #[track_caller]
    fn enter(&mut self, report: Report) {
        if let Err(fault) = self.ledger.enter(report) {
            panic!("{fault}: {:?}", self.ledger);
        }
    }

    /// Sends it a signal: `-STOP`, `-CONT`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Kills it without a chance to say anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order.
    #[track_caller]
    pub fn end(mut self) {
        self.order(Order::End);
        self.until("ended", |ledger| ledger.has_ended);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

mod tests {
    use super::*;

    /// A program in `sh`.
    fn program(script: &str) -> Command {
        let mut program = Command::new("sh");
        program.args(["-c", script]);
        program
    }

    const READY: &str = "echo noise; echo '@ready 0a 00000000-0000-0000-0000-000000000000';";

    #[test]
    fn a_node_takes_orders_and_reports_and_ends() {
        let script = format!(
            "{READY} read order; echo \"@joined ${{order#join }}\"; echo @up 5; read order; \
             test \"$order\" = end && echo @ended"
        );
        let mut node = Node::start(&mut program(&script));
        assert_eq!(node.ledger.node, "0a");
        node.order(Order::Join("t".to_owned()));
        node.until("up", |ledger| ledger.is_up);
        assert!(node.ledger.joined.contains("t"));
        node.watch_until(Instant::now());
        node.end();
    }

    #[test]
    #[should_panic(expected = "came twice")]
    fn a_fault_of_a_node_fails_the_test() {
        let script = format!("{READY} echo '@fault it came twice'; read order");
        Node::start(&mut program(&script)).until("up", |ledger| ledger.is_up);
    }

    #[test]
    #[should_panic(expected = "no report: upp")]
    fn a_line_that_is_no_report_fails_the_test() {
        let script = format!("{READY} echo '@upp'; read order");
        Node::start(&mut program(&script)).until("up", |ledger| ledger.is_up);
    }

    #[test]
    #[should_panic(expected = "it has ended")]
    fn the_end_of_a_node_fails_the_test() {
        Node::start(&mut program(READY)).until("up", |ledger| ledger.is_up);
    }
}
