//! Echo and broadcast on fastwebsockets 0.10. README:
//! <https://docs.rs/crate/fastwebsockets/0.10.0>.
//!
//! - `FragmentCollector`, hyper's upgrade, a current-thread runtime and `unconstrained` tasks: as
//!   in <https://docs.rs/crate/fastwebsockets/0.10.0/source/examples/echo_server.rs>. Vectored
//!   writes and their threshold, automatic pong and close: the defaults
//!   (<https://docs.rs/fastwebsockets/0.10.0/fastwebsockets/struct.WebSocket.html>).
//! - The bare `TcpStream` is taken out of hyper's `Upgraded` (README's first example has it bare
//!   too): no dynamic dispatch, up to 1 %.
//! - Every frame is written at once by the library, so 16 messages in flight cost 7–11 times the
//!   CPU that they need. `flush`
//!   (<https://docs.rs/fastwebsockets/0.10.0/fastwebsockets/struct.WebSocket.html#method.flush>) is
//!   for a buffered stream underneath, so there is one: [`Corked`], which writes out when the
//!   library would wait for input.
//! - Broadcast: `read_frame` must not be dropped halfway, hence split halves (feature
//!   `unstable-split`, examples/echo_server_split.rs), a channel for each peer, shared `Bytes` as
//!   borrowed payloads; a `BufWriter` is flushed when the channel is empty.
//! - `max_message_size`: 64 MiB by default, which excludes 64 MiB itself.

use std::future::{pending, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocket,
    WebSocketError, after_handshake_split,
};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ikisocket_peers::{MAX_MESSAGE, Room, serve};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

type Result<T = (), E = WebSocketError> = std::result::Result<T, E>;

static ROOM: Room<(OpCode, Bytes)> = Room::new();

const BUFFER: usize = 64 * 1024;
/// What is at least as large goes out without being copied first.
const LARGE: usize = 8 * 1024;

fn main() -> io::Result<()> {
    serve(|stream| async {
        let service = service_fn(|mut request: Request<Incoming>| async move {
            let broadcasts = request.uri().path() == "/bcast";
            let (response, upgraded) = upgrade(&mut request)?;
            tokio::spawn(unconstrained(async move {
                let _ = if broadcasts { broadcast(upgraded).await } else { echo(upgraded).await };
            }));
            Ok::<_, WebSocketError>(response)
        });
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    })
}

async fn socket(upgraded: UpgradeFut) -> Result<TcpStream> {
    let upgraded = upgraded.await?.into_inner().into_inner();
    let parts =
        upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| WebSocketError::ConnectionClosed)?;
    // A client may not send frames before it has read the response.
    if parts.read_buf.is_empty() {
        Ok(parts.io.into_inner())
    } else {
        Err(WebSocketError::ConnectionClosed)
    }
}

async fn echo(upgraded: UpgradeFut) -> Result {
    let mut ws = WebSocket::after_handshake(Corked::new(socket(upgraded).await?), Role::Server);
    ws.set_max_message_size(MAX_MESSAGE + 1);
    let mut ws = FragmentCollector::new(ws);
    loop {
        let frame = ws.read_frame().await?;
        match frame.opcode {
            OpCode::Text | OpCode::Binary => ws.write_frame(frame).await?,
            OpCode::Close => return Ok(ws.into_inner().flush().await?),
            _ => {}
        }
    }
}

async fn broadcast(upgraded: UpgradeFut) -> Result {
    let (input, output) = socket(upgraded).await?.into_split();
    let (mut input, mut output) =
        after_handshake_split(input, BufWriter::with_capacity(BUFFER, output), Role::Server);
    input.set_max_message_size(MAX_MESSAGE + 1);
    let mut input = FragmentCollectorRead::new(input);
    let mut member = ROOM.join();
    let own = member.sender.clone();
    let receive = async {
        let mut reply = |frame: Frame<'static>| {
            let _ = own.send((frame.opcode, share(frame.payload)));
            ready(Ok::<_, WebSocketError>(()))
        };
        loop {
            let frame = input.read_frame(&mut reply).await?;
            match frame.opcode {
                OpCode::Text | OpCode::Binary => ROOM.send(&(frame.opcode, share(frame.payload))),
                // The reply is in the channel; `send` ends after it.
                OpCode::Close => pending().await,
                _ => {}
            }
        }
    };
    let send = async {
        while let Some(first) = member.inbox.recv().await {
            let mut next = Some(first);
            while let Some((opcode, payload)) = next {
                output
                    .write_frame(Frame::new(true, opcode, None, Payload::Borrowed(&payload)))
                    .await?;
                next = member.inbox.try_recv().ok();
            }
            output.flush().await?;
            if output.is_closed() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! { biased; end = receive => end, end = send => end }
}

fn share(payload: Payload) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        other => Vec::from(other).into(),
    }
}

/// A socket whose small writes wait until there is nothing left to read.
struct Corked {
    socket: TcpStream,
    out: Vec<u8>,
    sent: usize,
}

impl Corked {
    fn new(socket: TcpStream) -> Self {
        Self { socket, out: Vec::new(), sent: 0 }
    }

    fn poll_drain(&mut self, cx: &mut Context) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            self.sent +=
                match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => n,
                };
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if read.is_pending()
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        let len = bytes.iter().map(|slice| slice.len()).sum::<usize>();
        if self.out.len() + len > BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        if self.out.is_empty() && len >= LARGE {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        }
        for slice in bytes {
            self.out.extend_from_slice(slice);
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
