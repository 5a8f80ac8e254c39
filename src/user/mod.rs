//! The types that callbacks use, the callbacks that user code has registered, and the code that
//! calls them.

mod call;
mod defer;
mod everywhere;
#[cfg(unix)]
mod fd;
mod handle;
mod loops_handle;
mod questions;
mod registry;
mod route;
mod shutdown;
mod socket;
mod sockets;
mod tables;

pub(crate) use call::Context;
pub use defer::Deferred;
pub use everywhere::{Everywhere, Sent};
#[cfg(unix)]
pub use fd::Fd;
pub use loops_handle::{LoopReport, LoopsHandle};
pub use questions::Gathered;
pub(crate) use questions::answer_here;
#[cfg(feature = "testing")]
pub(crate) use registry::Caught;
#[cfg(feature = "redis")]
pub(crate) use registry::Found;
pub(crate) use registry::{Answer, Command, Filter, Policy, Registry};
pub use registry::{CaughtPanic, EventPayload, Handle, Incoming, Socket, Sockets};
pub use route::{Route, RouteOptions};
pub use shutdown::Shutdown;
pub use socket::Transport;
pub use tables::sources::Readiness;
pub use tables::timers::TimerId;

/// These hold for every state.
const _: () = {
    const fn may_go_to_any_thread<T: Send + Sync>() {}
    may_go_to_any_thread::<Handle<*const ()>>();
    may_go_to_any_thread::<Deferred<*const ()>>();
};
