//! A market feed, fanned out: prices come as UDP datagrams, and subscribers get those of their
//! symbols.
//!
//! `cargo run --release --example feed [ADDR] [UDP-ADDR]`
//!
//! `/prices/ACME` is one symbol, `/prices` all of them. A slow reader gets fewer prices, but
//! current ones: of each symbol, only the latest waits.
//!
//! A datagram is a line of text, `SYMBOL PRICE`; anything else is counted and passed over. Without
//! a UDP address of yours a thread plays the market. To send a price yourself:
//! `echo ACME 99.5 | nc -uw0 HOST PORT`.

use std::collections::HashMap;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use ikisocket::mio::{Interest, net::UdpSocket};
use ikisocket::{Latest, Readiness, Server, Socket, Sockets};

mod common;

/// Datagrams read in one go; then the connections have their turn.
const AT_ONCE: usize = 64;
/// Symbols that are remembered at most, because the feed is not trusted to have few of them.
const MOST_SYMBOLS: usize = 10_000;
/// The topic of the clients that want every symbol. No symbol has a space in it.
const ALL: &str = "all symbols";

#[derive(Default)]
struct Market {
    /// The number of each symbol, for which a slow reader's waiting price is replaced.
    symbols: HashMap<String, u64>,
    published: u64,
    malformed: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args().nth(2);
    let feed = UdpSocket::bind(given.as_deref().unwrap_or("127.0.0.1:0").parse()?)?;
    let address = feed.local_addr()?;

    let mut server = Server::builder().build(Market::default())?;
    server.route("/prices", |market, kws| subscribe(market, kws, ALL))?;
    server.route("/prices/:symbol", |market, kws| {
        let symbol = kws.param("symbol").unwrap_or_default().to_owned();
        subscribe(market, kws, &symbol);
    })?;
    server.add_source(feed, Interest::READABLE, receive)?;
    println!("listening on {}", server.listen(common::address("127.0.0.1:3003"))?);
    println!("prices are taken on {address}");
    if given.is_none() {
        thread::spawn(move || play_the_market(address));
    }
    common::run_until_interrupted(&mut server)
}

fn subscribe(market: &mut Market, kws: &mut Socket<'_, Market>, topic: &str) {
    match kws.join(topic) {
        Ok(_) => kws.emit(format!(
            "{topic}: {} prices so far, {} malformed",
            market.published, market.malformed
        )),
        Err(error) => kws.emit(error.to_string()),
    };
}

/// Takes the datagrams that have come in. It is called once for new datagrams, so it reads until
/// there are none, or asks for another call.
fn receive(
    market: &mut Market,
    sockets: &mut Sockets<'_, Market>,
    feed: &mut UdpSocket,
    ready: Readiness,
) {
    let mut datagram = [0; 1500];
    for _ in 0..AT_ONCE {
        match feed.recv(&mut datagram) {
            Ok(len) => market.take(&datagram[..len], sockets),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // What UDP reports here belongs to one datagram, not to the feed.
            Err(error) => eprintln!("feed: {error}"),
        }
    }
    sockets.wake_source(ready.id);
}

impl Market {
    fn take(&mut self, datagram: &[u8], sockets: &mut Sockets<'_, Self>) {
        match parse(datagram) {
            Some((symbol, price))
                if self.symbols.len() < MOST_SYMBOLS || self.symbols.contains_key(symbol) =>
            {
                self.published += 1;
                let next = self.symbols.len() as u64;
                let key = *self.symbols.entry(symbol.to_owned()).or_insert(next);
                let text = format!("{symbol} {price:.2}");
                for topic in [symbol, ALL] {
                    sockets.publish(topic, Latest(key, &*text));
                }
            }
            _ => self.malformed += 1,
        }
    }
}

fn parse(datagram: &[u8]) -> Option<(&str, f64)> {
    let (symbol, price) = str::from_utf8(datagram).ok()?.trim_end().split_once(' ')?;
    Some((symbol, price.parse().ok()?))
}

/// Sends prices that wander about, a hundred a second.
fn play_the_market(feed: SocketAddr) -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut prices = [("ACME", 100.0), ("INIT", 50.0), ("HOOL", 200.0)];
    let mut seed = 1u32;
    loop {
        for (symbol, price) in &mut prices {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *price *= 1.0 + (f64::from(seed >> 16) / 65_535.0 - 0.5) / 100.0;
            socket.send_to(format!("{symbol} {price}").as_bytes(), feed)?;
            thread::sleep(Duration::from_millis(10));
        }
    }
}
