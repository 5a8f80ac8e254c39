//! What callbacks touch, what they have registered, and calling them.

mod call;
mod defer;
mod handle;
mod registry;
mod route;
mod shutdown;
mod socket;
mod sockets;
mod tables;

pub(crate) use call::Context;
pub use defer::Deferred;
pub use handle::Handle;
#[cfg(feature = "testing")]
pub(crate) use registry::Caught;
pub(crate) use registry::{Answer, Command, Policy, Registry};
pub use registry::{CaughtPanic, EventPayload, Incoming, Socket, Sockets};
pub use route::Route;
pub use shutdown::Shutdown;
pub use socket::Transport;
pub use tables::sources::Readiness;
pub use tables::timers::TimerId;
