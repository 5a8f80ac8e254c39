//! What the thread of a loop does: it builds its server, waits for the others, and runs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};

use crate::bus::{Control, Seat};
use crate::hub::{discard_payload, message_of};
use crate::server::{Finished, Server};
use crate::transport::{Listener, Over};
use crate::user::{Handle, Shutdown};

/// What a loop begins with.
pub(super) struct Begin {
    pub(super) listeners: Vec<(Listener, Over)>,
}

/// How a loop has ended: with the result of the shutdown, or with the reason why it failed.
pub(super) type Ended = (u16, Result<Finished, String>);

/// The work of one loop's thread.
pub(super) struct Job<S> {
    pub(super) seat: Seat,
    pub(super) built: Sender<(u16, Result<Handle<S>, String>)>,
    pub(super) begin: Receiver<Begin>,
    pub(super) ended: Sender<Ended>,
    pub(super) spins: bool,
}

impl<S> Job<S> {
    pub(super) fn run<E: fmt::Display>(self, build: impl FnOnce() -> Result<Server<S>, E>) {
        let Self { seat, built, begin, ended, spins } = self;
        let index = seat.index;
        let server = catching(|| build().map_err(|error| error.to_string())).and_then(|server| {
            let is_this_loops = server.is_of(&seat);
            is_this_loops
                .then_some(server)
                .ok_or_else(|| "the server was not built from the builder of its loop".to_owned())
        });
        let mut server = match server {
            Ok(server) => server,
            Err(reason) => {
                let _ = built.send((index, Err(reason)));
                return;
            }
        };
        let sent = built.send((index, Ok(server.handle())));
        drop(built);
        // If another loop could not be built, nothing comes.
        let (Ok(()), Ok(Begin { listeners })) = (sent, begin.recv()) else { return };
        let result = catching(|| {
            for (listener, over) in listeners {
                server.adopt(listener, over).map_err(|error| error.to_string())?;
            }
            let result = if spins { server.run_spinning() } else { server.run() };
            result.map_err(|error| error.to_string())
        });
        if let Err(reason) = &result {
            log::error!("loop {index} has failed: {reason}; all loops shut down");
            shut_others_down(&seat);
        }
        // Its connections end with it.
        let dropped = catching(|| {
            drop(server);
            Ok(())
        });
        let result = result.and_then(|finished| dropped.map(|()| finished));
        let _ = ended.send((index, result));
    }
}

/// Starts the shutdown of all loops but this one.
fn shut_others_down(seat: &Seat) {
    let how = Shutdown::default();
    let (spread, deadline) = how.millis();
    let Shutdown { code, reason, .. } = how;
    seat.post.shutdown_begins(spread.saturating_add(deadline));
    for other in (0..seat.post.len() as u16).filter(|&other| other != seat.index) {
        let control = Control::Shutdown { code, reason: reason.clone(), spread, deadline };
        seat.post.control(other, control);
    }
}

/// Runs code of the user or of a loop; a panic becomes an error.
fn catching<R>(code: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
        let message = message_of(&*panic);
        discard_payload(panic);
        Err(format!("it panicked: {message}"))
    })
}
