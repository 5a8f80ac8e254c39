//! Echo and broadcast on sockudo-ws 3.1. README: <https://docs.rs/crate/sockudo-ws/3.1.0>.
//!
//! - Echo: replies are queued with `feed`; `next` writes them out before it waits for input
//!   (README, "Queued-write backpressure", which gives this loop). `send` instead: the same with
//!   one message in flight, 8–10 times the CPU with 16.
//! - Broadcast: its own `PubSub` (README, "Pub/Sub System", and examples/pubsub_echo.rs). The
//!   outbox is drained with `feed`, then flushed once ("use `feed()` and then `flush()` at each
//!   batch boundary"), on the unified stream, because the writer of `split()` has `send` only: 13
//!   times the CPU with 20 messages at a time. A plain channel for each peer instead of `PubSub`
//!   costs the same within 2 %.
//! - `init_clock` before the runtime (README, "Connection Clock").
//! - `auto_ping(false)`, `idle_timeout(0)` (README, "Configuration Options"): no other server here
//!   watches idle connections, and it saves up to 4 %.
//! - `max_frame_size`: 16 MiB by default; raised, because a message of 64 MiB may come in one
//!   frame.
//! - Default features (`simd`, chosen at run time), write coalescing on (default). The feature
//!   `mimalloc`, which the README recommends for production, was tried and made no difference
//!   (0.97–1.04 of the CPU), so the allocator is the system's, as everywhere here.

use std::sync::LazyLock;

use futures_util::{SinkExt, StreamExt};
use ikisocket_peers::{MAX_MESSAGE, serve};
use sockudo_ws::handshake::server_handshake;
use sockudo_ws::{Config, Message, PubSub, Result, Role, WebSocketStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

static PUBSUB: LazyLock<PubSub> = LazyLock::new(PubSub::new);

const TOPIC: &str = "bcast";

fn main() -> std::io::Result<()> {
    sockudo_ws::init_clock();
    serve(|mut stream| async {
        let config = Config::builder()
            .max_message_size(MAX_MESSAGE)
            .max_frame_size(MAX_MESSAGE)
            .auto_ping(false)
            .idle_timeout(0)
            .build();
        let Ok(request) = server_handshake(&mut stream).await else { return };
        let mut ws =
            WebSocketStream::from_raw_with_leftover(stream, Role::Server, config, request.leftover);
        if request.path == "/bcast" {
            let (sender, mut inbox) = unbounded_channel();
            let subscriber = PUBSUB.create_subscriber(sender);
            PUBSUB.subscribe(subscriber, TOPIC);
            let _ = broadcast(&mut ws, &mut inbox).await;
            PUBSUB.remove_subscriber(subscriber);
        } else {
            let _ = echo(&mut ws).await;
        }
    })
}

async fn echo(ws: &mut WebSocketStream<TcpStream>) -> Result<()> {
    while let Some(message) = ws.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) => ws.feed(message).await?,
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

async fn broadcast(
    ws: &mut WebSocketStream<TcpStream>,
    inbox: &mut UnboundedReceiver<Message>,
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            message = ws.next() => match message.transpose()? {
                Some(message @ (Message::Text(_) | Message::Binary(_))) => drop(PUBSUB.publish(TOPIC, message)),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(_)) | None => return Ok(()),
            },
            Some(message) = inbox.recv() => {
                ws.feed(message).await?;
                while let Ok(message) = inbox.try_recv() {
                    ws.feed(message).await?;
                }
                ws.flush().await?;
            }
        }
    }
}
