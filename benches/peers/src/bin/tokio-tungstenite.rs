//! Echo and broadcast on tokio-tungstenite 0.30.
//!
//! - Echo: the stream is split and forwarded into its own sink, as in
//!   <https://docs.rs/crate/tokio-tungstenite/0.30.0/source/examples/echo-server.rs>. `forward`
//!   feeds what is there and flushes once nothing more is, which is what
//!   <https://docs.rs/tungstenite/0.30.0/tungstenite/protocol/struct.WebSocket.html#method.write>
//!   and tungstenite's changelog (0.20: "writing a batch of messages and flushing once, improving
//!   performance") advise. Tried against `next` and `send` (examples/autobahn-server.rs): the same
//!   with one message in flight, a quarter to a sixth of the CPU with 16.
//! - Broadcast: an unbounded channel for each peer and cloned messages (`Bytes` within), split
//!   stream, as in <https://docs.rs/crate/tokio-tungstenite/0.30.0/source/examples/server.rs>; the
//!   channel is drained with `feed`, then flushed.
//! - `read_buffer_size`:
//!   <https://docs.rs/tungstenite/0.30.0/tungstenite/protocol/struct.WebSocketConfig.html> names
//!   128 KiB (its default) for much input on few connections, 4 KiB for many connections. The
//!   buffer is zeroed before every read, so 128 KiB costs 2.4 times the CPU on 100 connections × 20
//!   bytes. Tried 4, 8, 16, 32 and 128: 16 KiB is the best over the table.
//! - `write_buffer_size`: the default of 128 KiB, which the same page calls more optimal than
//!   writing eagerly.
//! - `max_frame_size`: 16 MiB by default; raised, because a message of 64 MiB may come in one
//!   frame.

use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use ikisocket_peers::{MAX_MESSAGE, Room, serve};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Result};

static ROOM: Room<Message> = Room::new();

fn main() -> std::io::Result<()> {
    serve(|stream| async {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let mut broadcasts = false;
        #[allow(clippy::result_large_err)] // The library's own signature.
        let on_request =
            |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
                broadcasts = request.uri().path() == "/bcast";
                Ok(response)
            };
        let accepted =
            tokio_tungstenite::accept_hdr_async_with_config(stream, on_request, Some(config)).await;
        let Ok(ws) = accepted else { return };
        let _ = if broadcasts { broadcast(ws).await } else { echo(ws).await };
    })
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn echo(ws: WebSocketStream<TcpStream>) -> Result<()> {
    let (sink, stream) = ws.split();
    stream.try_filter(|message| future::ready(is_data(message))).forward(sink).await
}

async fn broadcast(ws: WebSocketStream<TcpStream>) -> Result<()> {
    let (mut sink, mut stream) = ws.split();
    let mut member = ROOM.join();
    let receive = async {
        while let Some(message) = stream.next().await {
            let message = message?;
            if is_data(&message) {
                ROOM.send(&message);
            }
        }
        Ok(())
    };
    let send = async {
        while let Some(message) = member.inbox.recv().await {
            sink.feed(message).await?;
            while let Ok(message) = member.inbox.try_recv() {
                sink.feed(message).await?;
            }
            sink.flush().await?;
        }
        Ok(())
    };
    tokio::select! { biased; end = receive => end, end = send => end }
}
