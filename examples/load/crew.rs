//! The threads that make the traffic, and the one that starts and stops them. Each has its share of
//! the connections to each server; what they measured at the same time is added up here.

use crate::client::Failure;
use crate::sample::Sample;
use crate::scenario::{Scenario, Shared, Slice};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// One thread's scenarios: one for each server.
pub type Lanes = Vec<Box<dyn Scenario>>;

enum Order {
    Open,
    Run { server: usize, slice: Slice },
    Close,
}

enum Done {
    Opened(Result<(), Failure>),
    Ran(Box<Sample>),
    /// What went wrong, lane by lane.
    Closed(Vec<Sample>),
}

struct Worker {
    orders: Sender<Order>,
    done: Receiver<Done>,
    thread: JoinHandle<()>,
}

pub struct Crew {
    workers: Vec<Worker>,
    pub shared: Arc<Shared>,
    /// Called while the others work, a few times a second.
    tick: Box<dyn FnMut(&Shared)>,
}

/// A worker ended without an answer: it panicked, which is a bug of this tool.
#[derive(Debug, thiserror::Error)]
#[error("a thread of the load tool ended before its time; this is a bug of the tool")]
pub struct WorkerLost;

const TICK: Duration = Duration::from_millis(100);

impl Crew {
    pub fn new(
        threads: Vec<Lanes>,
        shared: Arc<Shared>,
        tick: impl FnMut(&Shared) + 'static,
    ) -> Crew {
        let hire = |lanes: Lanes| {
            let (orders, inbox) = channel();
            let (outbox, done) = channel();
            let shared = shared.clone();
            let thread = std::thread::spawn(move || work(lanes, &shared, &inbox, &outbox));
            Worker { orders, done, thread }
        };
        let workers = threads.into_iter().map(hire).collect();
        Crew { workers, shared, tick: Box::new(tick) }
    }

    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// All connections to all servers.
    pub fn open(&mut self) -> Result<Result<(), Failure>, WorkerLost> {
        let mut result = Ok(());
        for done in self.all(|| Order::Open)? {
            if let Done::Opened(Err(failure)) = done {
                result = result.and(Err(failure));
            }
        }
        Ok(result)
    }

    /// Traffic to one server, by all threads at the same time.
    pub fn run(&mut self, server: usize, slice: Slice) -> Result<Sample, WorkerLost> {
        let mut sum: Option<Sample> = None;
        for done in self.all(|| Order::Run { server, slice })? {
            if let Done::Ran(sample) = done {
                match &mut sum {
                    Some(sum) => sum.merge_parallel(&sample),
                    None => sum = Some(*sample),
                }
            }
        }
        sum.ok_or(WorkerLost)
    }

    /// Ends all connections; for each server, what went wrong since its last slice.
    pub fn close(&mut self) -> Result<Vec<Sample>, WorkerLost> {
        let mut sums: Vec<Sample> = Vec::new();
        for done in self.all(|| Order::Close)? {
            let Done::Closed(samples) = done else { continue };
            sums.resize_with(samples.len(), Sample::new);
            sums.iter_mut().zip(&samples).for_each(|(sum, sample)| sum.merge_parallel(sample));
        }
        Ok(sums)
    }

    /// Ends the threads.
    pub fn dismiss(self) -> Result<(), WorkerLost> {
        for worker in self.workers {
            drop(worker.orders); // The end of its inbox is the end of the thread.
            worker.thread.join().map_err(|_| WorkerLost)?;
        }
        Ok(())
    }

    fn all(&mut self, order: impl Fn() -> Order) -> Result<Vec<Done>, WorkerLost> {
        for worker in &self.workers {
            worker.orders.send(order()).map_err(|_| WorkerLost)?;
        }
        let mut all = Vec::new();
        for worker in &self.workers {
            all.push(loop {
                match worker.done.recv_timeout(TICK) {
                    Ok(done) => break done,
                    Err(RecvTimeoutError::Timeout) => (self.tick)(&self.shared),
                    Err(RecvTimeoutError::Disconnected) => return Err(WorkerLost),
                }
            });
        }
        Ok(all)
    }
}

fn work(mut lanes: Lanes, shared: &Shared, orders: &Receiver<Order>, done: &Sender<Done>) {
    for order in orders {
        let result = match order {
            Order::Open => Done::Opened(lanes.iter_mut().try_for_each(|lane| lane.open(shared))),
            Order::Run { server, slice } => Done::Ran(Box::new(lanes[server].run(&slice, shared))),
            Order::Close => Done::Closed(lanes.iter_mut().map(|lane| lane.close()).collect()),
        };
        if done.send(result).is_err() {
            return;
        }
    }
}
