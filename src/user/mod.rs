//! What callbacks touch, what they have registered, and calling them.

pub(crate) mod call;
mod defer;
mod handle;
mod listeners;
mod route;
mod schedule;
mod socket;
mod source;

pub(crate) use defer::Answer;
pub use defer::Deferred;
pub(crate) use handle::Errand;
pub use handle::Handle;
pub use listeners::EventPayload;
#[cfg(feature = "testing")]
pub(crate) use route::Caught;
pub(crate) use route::Registry;
pub use route::{Incoming, Recovered, Route};
pub use schedule::TimerId;
pub use socket::{Conn, Shutdown, Socket, Sockets};
pub use source::Readiness;
