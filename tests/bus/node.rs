//! The program of a node: a server with a bus, and one member on a WebSocket connection of its own.
//!
//! All reports that have an order go to the member, among the messages, so that each is at its
//! place. A thread for the member writes them down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ikisocket::{
    BuildError, Builder, Bus, BusEvent, BusSent, EmitError, Event, GapFrom, Handle, Loops, Server,
    Shutdown, Sockets, Uuid,
};
use tungstenite::Message;

use crate::books::{ALONE, Entry, Inbox};
use crate::cluster::PREFIX;
use crate::lines::{Order, Report, Stats};
use crate::node_process::MARK;

/// More than all messages of a test.
const MAX_OUTBOX: usize = 1 << 30;

/// What all loops of the node share.
#[derive(Default)]
struct Shared {
    member: Option<Uuid>,
    /// Reports from before the member was there.
    early: Vec<Report>,
    /// By topic.
    published: BTreeMap<String, Published>,
}

#[derive(Default)]
struct Published {
    all: u64,
    queued: u64,
}

type State = Arc<Mutex<Shared>>;

/// Runs a node, until it is ordered to end.
pub fn run(loops: usize, address: &str, stable_after: Duration) {
    // What the test harness has begun is no line yet.
    println!();
    let bus = Bus::redis(address).unwrap().prefix(PREFIX).stable_after(stable_after);
    let settings = Server::builder().max_outbox(MAX_OUTBOX);
    let state = State::default();
    if loops == 1 {
        let mut server = build(&state, settings).unwrap();
        server.bus(bus).unwrap();
        let address = server.listen("127.0.0.1:0").unwrap();
        let handles = vec![server.handle()];
        let member = start_threads(address, handles);
        server.run().unwrap();
        member.join().unwrap();
    } else {
        let loops = Loops::with_settings(loops, settings).queue_bytes(MAX_OUTBOX).bus(bus);
        let loops = loops.listen("127.0.0.1:0").unwrap();
        let running = loops.start(move |_, settings| build(&state, settings)).unwrap();
        let handle = running.handle();
        let handles = (0..handle.len()).map(|index| handle.one(index).unwrap().clone()).collect();
        let member = start_threads(running.local_addr().unwrap(), handles);
        running.join().unwrap();
        member.join().unwrap();
    }
    print(&Report::Ended);
}

fn print(report: &Report) {
    println!("{MARK}{report}");
}

// The server.

fn build(state: &State, settings: Builder) -> Result<Server<State>, BuildError> {
    let mut server = settings.build(Arc::clone(state))?;
    server.route("/", |_, _| {}).unwrap();
    server.on(Event::Connect, |state, ep| {
        let member = ep.kws.uuid();
        let node = ep.kws.sockets().node().unwrap().to_string();
        let mut shared = state.lock().unwrap();
        shared.member = Some(member);
        let ready = Report::Ready { node, member };
        for report in [ready].into_iter().chain(shared.early.drain(..)) {
            ep.kws.emit(format!("{MARK}{report}"));
        }
    });
    server.on_bus(|state, sockets, event| {
        let report = match event {
            BusEvent::Up { was_down_for, .. } => {
                Report::Up { was_down_for_ms: was_down_for.as_millis() as u64 }
            }
            BusEvent::Down { why, unconfirmed, .. } => {
                Report::Down { unconfirmed: *unconfirmed, why: why.to_string() }
            }
            BusEvent::Gap { from: GapFrom::Loop(index), lost, .. } => {
                Report::Fault(format!("loop {index} had no room for {lost:?} messages"))
            }
            BusEvent::Gap { from, topic, lost, .. } => Report::Gap {
                node: if let GapFrom::Node(node) = from { Some(node.to_string()) } else { None },
                topic: topic.as_deref().map(str::to_owned),
                lost: *lost,
            },
            BusEvent::NodeGone { node, .. } => Report::NodeGone(node.to_string()),
            other => Report::Fault(format!("unknown: {other:?}")),
        };
        // The first loop has them all. Gaps of a topic belong to the loops with its members.
        let is_gap = matches!(report, Report::Gap { .. });
        let is_at_member =
            state.lock().unwrap().member.is_some_and(|uuid| sockets.get(uuid).is_some());
        if if is_gap { is_at_member } else { sockets.loop_index() == 0 } {
            tell(state, sockets, report);
        }
    });
    server.on_panic(|_, caught| print(&Report::Fault(format!("{caught:?}"))));
    Ok(server)
}

/// Sends a report to the member, which is in order with the messages.
fn tell(state: &State, sockets: &mut Sockets<'_, State>, report: Report) {
    let mut shared = state.lock().unwrap();
    match shared.member {
        None => shared.early.push(report),
        Some(member) => {
            sockets.everywhere().emit_to(member, format!("{MARK}{report}")).unwrap();
        }
    }
}

/// Carries out an order. Some orders are carried out by each loop, and answered by one.
fn execute(order: &Order, state: &State, sockets: &mut Sockets<'_, State>) {
    let member = state.lock().unwrap().member.unwrap();
    let report = match order {
        Order::Join(topic) => {
            let Some(mut member) = sockets.get(member) else { return };
            member.join(topic.as_str()).unwrap();
            Report::Joined(topic.clone())
        }
        Order::Leave(topic) => {
            let Some(mut member) = sockets.get(member) else { return };
            member.leave(topic);
            Report::Left(topic.clone())
        }
        Order::Publish { topic, count, len } => publish(state, sockets, topic, *count, *len, false),
        Order::Close(topic) => publish(state, sockets, topic, 1, 0, true),
        Order::Emit { to, count } => emit(state, sockets, *to, *count, false),
        Order::CloseAlone(to) => emit(state, sockets, *to, 1, true),
        Order::Count => {
            let bus = sockets.stats().bus.unwrap();
            let stats = Stats {
                duplicates: bus.duplicates,
                lost: bus.lost,
                unconfirmed: bus.unconfirmed,
                downs: bus.downs,
            };
            tell(state, sockets, Report::Stats(stats));
            Report::Counted
        }
        Order::End => {
            sockets.shutdown(Shutdown::default()).unwrap();
            return;
        }
    };
    tell(state, sockets, report);
}

fn publish(
    state: &State,
    sockets: &mut Sockets<'_, State>,
    topic: &str,
    count: u64,
    len: usize,
    is_closing: bool,
) -> Report {
    let node = sockets.node().unwrap().to_string();
    let mut shared = state.lock().unwrap();
    let published = shared.published.entry(topic.to_owned()).or_default();
    let before = published.queued;
    for _ in 0..count {
        let (node, topic) = (node.clone(), topic.to_owned());
        let Published { all: serial, queued } = *published;
        let entry = Entry { node, topic, serial, queued, is_closing };
        let sent = sockets.everywhere().publish(&entry.topic, entry.text(len));
        published.all += 1;
        match sent.bus {
            BusSent::Queued => published.queued += 1,
            BusSent::Refused(_) => {}
            other => return Report::Fault(format!("{other:?}")),
        }
    }
    let queued = published.queued - before;
    Report::Published { topic: topic.to_owned(), queued, refused: count - queued }
}

fn emit(
    state: &State,
    sockets: &mut Sockets<'_, State>,
    to: Uuid,
    count: u64,
    is_closing: bool,
) -> Report {
    let node = sockets.node().unwrap().to_string();
    let mut shared = state.lock().unwrap();
    let published = shared.published.entry(to.to_string()).or_default();
    let before = published.queued;
    for _ in 0..count {
        let (node, topic) = (node.clone(), ALONE.to_owned());
        let Published { all: serial, queued } = *published;
        let entry = Entry { node, topic, serial, queued, is_closing };
        published.all += 1;
        match sockets.everywhere().emit_to(to, entry.text(0)) {
            Ok(_) => published.queued += 1,
            Err(EmitError::Bus(_)) => {}
            Err(error) => return Report::Fault(error.to_string()),
        }
    }
    let queued = published.queued - before;
    Report::Emitted { to, queued, refused: count - queued }
}

// The other threads.

/// Starts the member, which ends with its connection, and a thread that takes orders.
fn start_threads(address: SocketAddr, handles: Vec<Handle<State>>) -> thread::JoinHandle<()> {
    let member = thread::spawn(move || {
        let (mut socket, _) = tungstenite::connect(format!("ws://{address}/")).unwrap();
        let mut inbox = Inbox::default();
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                take(&mut inbox, &text);
            }
        }
    });
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let Ok(order) = line.parse::<Order>() else {
                print(&Report::Fault(format!("no order: {line}")));
                return;
            };
            let loops = match &order {
                Order::Join(_) | Order::Leave(_) => 0..handles.len(),
                Order::Count | Order::End => 0..1,
                // Each topic has a loop that publishes on it.
                Order::Publish { topic, .. } | Order::Close(topic) => one_of(&handles, topic),
                Order::Emit { to, .. } | Order::CloseAlone(to) => one_of(&handles, &to.to_string()),
            };
            for handle in &handles[loops] {
                let order = order.clone();
                handle.send(move |state, sockets| execute(&order, state, sockets)).unwrap();
            }
        }
        // The test has ended.
        std::process::exit(1);
    });
    member
}

fn one_of(handles: &[Handle<State>], name: &str) -> std::ops::Range<usize> {
    let index = name.bytes().map(usize::from).sum::<usize>() % handles.len();
    index..index + 1
}

/// What the member does with a text.
fn take(inbox: &mut Inbox, text: &str) {
    let Some(line) = text.strip_prefix(MARK) else {
        match inbox.take(text) {
            Ok(Some(closed)) => print(&closed),
            Ok(None) => {}
            Err(fault) => print(&Report::Fault(fault)),
        }
        return;
    };
    let report = line.parse().unwrap();
    match &report {
        Report::Ready { node, .. } => inbox.node = node.clone(),
        Report::Gap { node: Some(node), topic, lost: Some(lost) } => {
            inbox.take_gap(node, topic.as_deref().unwrap_or(ALONE), *lost);
        }
        Report::Left(topic) => inbox.forget_topic(topic),
        Report::Counted => inbox.reports().for_each(|report| print(&report)),
        _ => {}
    }
    print(&report);
}
