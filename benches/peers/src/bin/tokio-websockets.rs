//! Echo and broadcast on tokio-websockets 0.13.
//!
//! - `frame_size(usize::MAX)`, `Limits::unlimited()`, a current-thread runtime and `unconstrained`
//!   tasks: as in the echo server that its authors measure with,
//!   <https://docs.rs/crate/tokio-websockets/0.13.3/source/examples/echo_server.rs>.
//! - Features `server` and `sha1_smol`: <https://docs.rs/crate/tokio-websockets/0.13.3> ("if no TLS
//!   is needed"). SIMD is always on, chosen at run time (same page, "SIMD").
//! - Echo: that example sends and flushes every message by itself, which costs up to ten times the
//!   CPU with 16 messages in flight. Here what has arrived is collected, fed and flushed once.
//!   (`feed` alone does nothing: reading flushes what is queued.) The same within 2 % with one
//!   message in flight. A message of [`LARGE`] bytes ends a batch: to hold it while more is read
//!   costs 10 %.
//! - `flush_threshold`:
//!   <https://docs.rs/tokio-websockets/0.13.3/tokio_websockets/proto/struct.Config.html#method.flush_threshold>,
//!   raised from 8 KiB to 64 KiB so that a batch is one system call (16 × 1 KiB in flight: 0.7 of
//!   the CPU).
//! - Broadcast: a channel for each peer and cloned messages ("cheaply clonable messages due to
//!   `Bytes`", README); the channel is drained with `feed`, then flushed once. One task and the
//!   unsplit stream: split halves cost 4–10 % more.

use std::pin::pin;

use futures_util::{SinkExt, StreamExt};
use ikisocket_peers::{Room, poll_once, serve};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder, WebSocketStream};

static ROOM: Room<Message> = Room::new();

const BATCH: usize = 64 * 1024;
const LARGE: usize = 8 * 1024;

fn main() -> std::io::Result<()> {
    serve(|stream| {
        unconstrained(async {
            let accepted = ServerBuilder::new()
                .config(Config::default().frame_size(usize::MAX).flush_threshold(BATCH))
                .limits(Limits::unlimited())
                .accept(stream)
                .await;
            let Ok((request, ws)) = accepted else { return };
            let _ =
                if request.uri().path() == "/bcast" { broadcast(ws).await } else { echo(ws).await };
        })
    })
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn echo(mut ws: WebSocketStream<TcpStream>) -> Result<(), Error> {
    let mut batch = Vec::new();
    while let Some(first) = ws.next().await {
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(message) = next {
            let message = message?;
            let len = message.as_payload().len();
            batch.push(message);
            bytes += len;
            next = match len < LARGE && bytes < BATCH {
                true => poll_once(pin!(ws.next())).await.flatten(),
                false => None,
            };
        }
        for message in batch.drain(..).filter(is_data) {
            ws.feed(message).await?;
        }
        ws.flush().await?;
    }
    Ok(())
}

async fn broadcast(mut ws: WebSocketStream<TcpStream>) -> Result<(), Error> {
    let mut member = ROOM.join();
    loop {
        tokio::select! {
            biased;
            message = ws.next() => match message.transpose()? {
                Some(message) if is_data(&message) => ROOM.send(&message),
                Some(_) => {}
                None => return Ok(()),
            },
            Some(message) = member.inbox.recv() => {
                ws.feed(message).await?;
                while let Ok(message) = member.inbox.try_recv() {
                    ws.feed(message).await?;
                }
                ws.flush().await?;
            }
        }
    }
}
