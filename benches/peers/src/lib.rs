//! What the servers on tokio share: one thread, one listener, one room. How each library is set up
//! stands in its `src/bin`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;

use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The largest message that every server takes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The program's first argument: where to listen.
pub fn address() -> String {
    std::env::args().nth(1).unwrap_or_else(|| {
        eprintln!("usage: NAME ADDR");
        std::process::exit(2)
    })
}

/// Accepts at [`address`] for ever, all on this thread; `connection` is spawned for each socket.
pub fn serve<F: Future<Output = ()> + Send + 'static>(
    connection: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(address()).await?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            match listener.accept().await {
                Ok((stream, _)) if stream.set_nodelay(true).is_ok() => {
                    drop(tokio::spawn(connection(stream)))
                }
                // Gone again, or out of file descriptors: neither ends a server.
                _ => tokio::task::yield_now().await,
            }
        }
    })
}

/// The future's output if it is there already. Where it is not, the task is woken once it is worth
/// polling again.
pub async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Those that a broadcast goes to: an unbounded channel each, as in tokio-tungstenite's
/// `examples/server.rs`.
pub struct Room<T: 'static>(Mutex<Slab<UnboundedSender<T>>>);

impl<T: Clone> Room<T> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(Mutex::new(Slab::new()))
    }

    pub fn join(&'static self) -> Member<T> {
        let (sender, inbox) = unbounded_channel();
        Member { key: self.0.lock().unwrap().insert(sender.clone()), room: self, sender, inbox }
    }

    pub fn send(&self, message: &T) {
        for (_, member) in self.0.lock().unwrap().iter() {
            // It never fails: a connection that ends leaves the room first.
            let _ = member.send(message.clone());
        }
    }
}

/// One connection's place in a room, until it is dropped.
pub struct Member<T: 'static> {
    key: usize,
    room: &'static Room<T>,
    /// Sends to this connection alone.
    pub sender: UnboundedSender<T>,
    pub inbox: UnboundedReceiver<T>,
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        self.room.0.lock().unwrap().remove(self.key);
    }
}
