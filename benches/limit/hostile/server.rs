//! The server that is attacked: default settings, an echo, and its own clock of its turns.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ikisocket::{Event, Response, Server};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

/// Topics that a connection of `/topics` is in: as many as may be.
pub const TOPICS: usize = 1024;
/// No turn is waited for longer.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Figures {
    /// Whether turns count just now, and the longest of those that did.
    counting: bool,
    longest: Duration,
    /// Connections that came by `/topics`, and those of them that have ended.
    joined: usize,
    left: usize,
    /// Where it speaks TLS.
    tls: Option<String>,
}

/// Serves until the process is ended: `/echo`; `/hostile`, where nothing is done with messages;
/// `/close`, where the first message is answered with the close code 1008; `/topics`, which is in
/// many; and the pages `/begin`, from which on turns count, `/end` and `/figures`.
pub fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let builder = Server::builder();
    #[cfg(feature = "deflate")]
    let builder = builder.deflate(ikisocket::Deflate::shared());
    let mut server = builder.build(Figures::default())?;
    server.route("/echo", |_, _| {})?.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/hostile", |_, _| {})?;
    server.route("/close", |_, _| {})?.on(Event::Message, |_, ep| {
        let _ = ep.kws.close_with(1008, "that will do");
    });
    let topics = server.route("/topics", |figures, kws| {
        figures.joined += 1;
        for topic in 0..TOPICS {
            let _ = kws.join(&format!("{} {topic}", figures.joined));
        }
    })?;
    topics.on(Event::Disconnect, |figures, _| figures.left += 1);
    for (path, counting) in [("/begin", Some(true)), ("/end", Some(false)), ("/figures", None)] {
        server.get(path, move |figures, _, _| {
            figures.counting = counting.unwrap_or(figures.counting);
            let longest = figures.longest.as_secs_f64() * 1000.0;
            let page = json!({ "longest": longest, "left": figures.left, "tls": figures.tls });
            Response::json(page.to_string())
        })?;
    }
    #[cfg(feature = "_tls")]
    {
        use crate::tls::{CHAIN, KEY};

        let address = server.listen_tls("127.0.0.1:0", &ikisocket::Tls::pem(CHAIN, KEY)?)?;
        server.state_mut().tls = Some(address.to_string());
    }
    println!("listening on {}", server.listen(address)?);
    // An outer loop turns the server's, so that a turn contains only work.
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&server.as_raw_fd()), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(1);
    let delays = Delays::of("thread-self");
    loop {
        let timeout = server.next_timeout().map_or(PATIENCE, |next| next.min(PATIENCE));
        poll.poll(&mut events, Some(timeout))?;
        let (before, began) = (delays.total(), Instant::now());
        let counted = server.state().counting;
        server.poll(Some(Duration::ZERO))?;
        let took = began.elapsed().saturating_sub(delays.total() - before);
        let figures = server.state_mut();
        // The turn of the page that ends the count counts too.
        if counted {
            figures.longest = took.max(figures.longest);
        }
    }
}

/// How long a thread was ready to run while another had its core: a wall time is too long by that.
pub struct Delays(Option<File>);

impl Delays {
    /// Of a process's first thread, or of this one: `thread-self`.
    pub fn of(process: &str) -> Self {
        Self(File::open(format!("/proc/{process}/schedstat")).ok())
    }

    /// Nothing where the system does not say it.
    pub fn total(&self) -> Duration {
        let mut text = [0; 128];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        Duration::from_nanos(
            text.split(' ').nth(1).and_then(|delay| delay.parse().ok()).unwrap_or(0),
        )
    }
}
