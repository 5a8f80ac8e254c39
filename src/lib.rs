//! WebSocket server with events.

mod attributes;
mod builder;
mod connection;
mod dispatch;
mod error;
mod event;
pub mod handshake;
mod hub;
mod outbox;
pub mod protocol;
mod reactor;
mod route;
mod server;
mod socket;
mod timer;
mod token;
mod upgrade;

pub use attributes::Attributes;
pub use builder::Builder;
pub use connection::PeerAddress;
pub use error::{BindError, BuildError, CloseError, EmitError, Error, Gone, IoError, RouteError, UuidError};
pub use event::{Event, EventPayload};
pub use handshake::{HeaderError, Request, Response};
pub use protocol::{CloseCode, Message, Payload};
pub use route::{Incoming, Recovered, Route};
pub use server::{Finished, Server, Turn};
pub use socket::{Conn, Emitted, Shutdown, Socket, Sockets};
#[doc(no_inline)]
pub use uuid::Uuid;
