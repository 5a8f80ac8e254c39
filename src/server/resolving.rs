//! The addresses of a name, which a thread asks the system for, so that the loop does not wait.
//!
//! It knows names, threads and the waker. It knows no socket, no clock and no Redis.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

/// A name that is being resolved.
///
/// The system may need minutes for a name, and nothing can end that earlier. If this is dropped,
/// its thread ends by itself when the system has answered. So that there is one thread at most, the
/// caller keeps it until it [answers](Self::take), also when the connection has failed meanwhile.
#[derive(Debug)]
pub(crate) struct Resolving(State);

#[derive(Debug)]
enum State {
    Known(SocketAddr),
    Asked(Receiver<io::Result<Vec<SocketAddr>>>),
    Answered,
}

impl Resolving {
    /// Begins to resolve a name. Its answer wakes the loop. The answer for an IP address is there
    /// at once, without a thread, and wakes nothing: [`take`](Self::take) it after this call. The
    /// error is that of starting a thread.
    pub(crate) fn begin(host: &str, port: u16, waker: Arc<mio::Waker>) -> io::Result<Self> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self(State::Known(SocketAddr::new(ip, port))));
        }
        let (sender, receiver) = mpsc::channel();
        let host = host.to_owned();
        let resolve = move || {
            // Without a receiver the answer came too late: the loop need not wake.
            if sender.send(resolve(&host, port)).is_ok()
                && let Err(error) = waker.wake()
            {
                log::error!("cannot wake the loop for the addresses of {host}: {error}");
            }
        };
        thread::Builder::new().name("ikisocket-name".into()).spawn(resolve)?;
        Ok(Self(State::Asked(receiver)))
    }

    /// The addresses, in the order in which they are to be tried: there is one at least. `None`:
    /// the system has not answered yet, or the answer was taken before.
    pub(crate) fn take(&mut self) -> Option<io::Result<Vec<SocketAddr>>> {
        let answer = match &self.0 {
            State::Known(address) => Ok(vec![*address]),
            State::Asked(receiver) => match receiver.try_recv() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    Err(io::Error::other("the thread that resolves a name has panicked"))
                }
            },
            State::Answered => return None,
        };
        self.0 = State::Answered;
        Some(answer)
    }
}

/// Asks the system, which may take minutes.
fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll, Token, Waker};

    use super::*;

    fn poll() -> (Poll, Arc<Waker>) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        (poll, Arc::new(waker))
    }

    /// Waits as a loop does: only a wake makes it look. A waker that is dropped takes its wake with
    /// it, so each test keeps its own.
    fn wait(poll: &mut Poll, resolving: &mut Resolving) -> io::Result<Vec<SocketAddr>> {
        let mut events = Events::with_capacity(8);
        loop {
            poll.poll(&mut events, None).unwrap();
            if let Some(answer) = resolving.take() {
                return answer;
            }
        }
    }

    #[test]
    fn an_ip_address_is_answered_at_once_and_once() {
        let (_poll, waker) = poll();
        for (host, shown) in
            [("192.0.2.7", "192.0.2.7:6379"), ("2001:db8::7", "[2001:db8::7]:6379")]
        {
            let mut resolving = Resolving::begin(host, 6379, waker.clone()).unwrap();
            // A thread would hold the waker.
            assert_eq!(Arc::strong_count(&waker), 1);
            assert_eq!(resolving.take().unwrap().unwrap(), [shown.parse().unwrap()]);
            assert!(resolving.take().is_none());
        }
    }

    #[test]
    fn a_name_is_answered_by_a_wake() {
        let (mut poll, waker) = poll();
        let mut resolving = Resolving::begin("localhost", 6379, waker.clone()).unwrap();
        // A wake for something else does no harm.
        waker.wake().unwrap();
        let addresses = wait(&mut poll, &mut resolving).unwrap();
        assert!(!addresses.is_empty());
        let are_right = |address: &SocketAddr| address.ip().is_loopback() && address.port() == 6379;
        assert!(addresses.iter().all(are_right), "{addresses:?}");
        assert!(resolving.take().is_none());
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_an_error() {
        let (mut poll, waker) = poll();
        // No name has a label of 64 bytes (RFC 1035 §2.3.4), so no server is asked for it.
        let name = format!("{}.invalid", "a".repeat(64));
        let mut resolving = Resolving::begin(&name, 6379, waker.clone()).unwrap();
        wait(&mut poll, &mut resolving).unwrap_err();
        assert!(resolving.take().is_none());
    }

    #[test]
    fn a_thread_whose_answer_is_not_wanted_any_more_ends_by_itself() {
        let (_poll, waker) = poll();
        drop(Resolving::begin("localhost", 6379, waker.clone()).unwrap());
        // It holds the waker until it ends.
        while Arc::strong_count(&waker) > 1 {
            thread::yield_now();
        }
    }
}
