//! What the thread of a loop does: it builds its server, waits for the others, and runs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use crate::bus::Seat;
use crate::hub::{discard_payload, message_of};
use crate::server::{Finished, Server};
use crate::transport::{Listener, Over};
use crate::user::Handle;

/// What a loop begins with.
pub(super) struct Begin<S> {
    /// The sockets that it listens on from the beginning.
    pub(super) listeners: Vec<(Listener, Over)>,
    /// All loops.
    pub(super) loops: Arc<[Handle<S>]>,
}

/// What a loop reports to the supervisor.
pub(super) enum Report {
    /// It has failed, for this reason, and ends.
    Failed(u16, String),
    /// Its server is gone. `None` if it has failed.
    Ended(u16, Option<Finished>),
}

/// The work of one loop's thread.
pub(super) struct Job<S> {
    pub(super) seat: Seat,
    pub(super) built: Sender<(u16, Result<Handle<S>, String>)>,
    pub(super) begin: Receiver<Begin<S>>,
    pub(super) reports: Sender<Report>,
    pub(super) spins: bool,
}

impl<S> Job<S> {
    pub(super) fn run<E: fmt::Display>(self, build: impl FnOnce() -> Result<Server<S>, E>) {
        let Self { seat, built, begin, reports, spins } = self;
        let index = seat.index;
        let server = catching(|| build().map_err(|error| error.to_string())?.of_loop(&seat));
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
        let finished = match (sent, begin.recv()) {
            (Ok(()), Ok(with)) => catching(|| serve(&mut server, &seat, with, spins)),
            _ => return drop_server(server),
        };
        let finished = match finished {
            Ok(finished) => Some(finished),
            Err(reason) => {
                let _ = reports.send(Report::Failed(index, reason));
                None
            }
        };
        // Its connections end with it.
        drop_server(server);
        let _ = reports.send(Report::Ended(index, finished));
    }
}

/// Turns the loop until the shutdown of all loops has finished. A loop without connections still
/// has timers, sources and letters, which may be of use to the others.
fn serve<S>(
    server: &mut Server<S>,
    seat: &Seat,
    Begin { listeners, loops }: Begin<S>,
    spins: bool,
) -> Result<Finished, String> {
    server.know_loops(loops);
    for (listener, over) in listeners {
        server.watch_noted(listener, over).map_err(|error| error.to_string())?;
    }
    let post = &seat.post;
    let mut finished = server.finished();
    loop {
        // At the deadline of the shutdown, no loop is waited for any more.
        let timeout = match finished {
            // What others have handed over before they finished is for other servers, perhaps.
            Some(finished)
                if (post.all_finished() && !post.has_mail(seat.index))
                    || post.shutdown_ended().is_some() =>
            {
                return Ok(finished);
            }
            _ if spins => Some(Duration::ZERO),
            Some(_) => Some(post.shutdown_lasts()),
            None => None,
        };
        server.poll(timeout).map_err(|error| error.to_string())?;
        finished = server.finished();
        if finished.is_some() {
            post.finish(seat.index);
        }
    }
}

/// Drops a server. The destructor of its state is user code.
fn drop_server<S>(server: Server<S>) {
    let dropped = catching(|| {
        drop(server);
        Ok(())
    });
    if let Err(reason) = dropped {
        // If the logger panics too, the end of the loop is reported all the same.
        let _ = catching(|| {
            log::error!("the destructor of a loop's state panicked: {reason}");
            Ok(())
        });
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
