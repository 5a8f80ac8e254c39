//! Loops on real threads, with real sockets: how they start, share connections, reach each other
//! and end. In memory and in virtual time, see `loops.rs`.

mod common;
#[path = "common/descriptors.rs"]
mod descriptors;
#[path = "common/loops.rs"]
mod kit;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{ON_PURPOSE, TEXT, frame, quiet_panics, upgrade_request};
use ikisocket::{
    BuildError, Builder, BusEvent, CloseError, EmitError, Event, Finished, GapFrom, Loops,
    LoopsError, LoopsHandle, Running, SendError, Server, Shutdown, Sockets, Uuid,
};
use kit::{Member, Notes, PATIENCE, ask, end, loads, on, refused, room, socket, until};
use socket2::SockRef;
use tungstenite::Message;

const ANY_PORT: &str = "127.0.0.1:0";

/// A number from the environment, for runs with more than the usual.
fn amount(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |number| number.parse().unwrap())
}

/// Loops with a [`room`] at a free port.
#[track_caller]
fn start(loops: Loops) -> (Running<Notes>, SocketAddr) {
    let running = loops.listen(ANY_PORT).unwrap().start(room).unwrap();
    let address = running.local_addr().unwrap();
    (running, address)
}

#[track_caller]
fn members(address: SocketAddr, count: usize) -> Vec<Member> {
    (0..count).map(|_| Member::connect(address)).collect()
}

#[track_caller]
fn close_all(members: impl IntoIterator<Item = Member>) {
    members.into_iter().for_each(Member::close);
}

/// The member on this loop, of members that are one on each.
fn on_loop(members: &mut [Member], index: usize) -> &mut Member {
    members.iter_mut().find(|member| member.on == index).unwrap()
}

// The start.

#[test]
fn each_server_is_built_and_runs_on_a_thread_named_after_its_loop() {
    /// It may be shared by callbacks, but not with other threads.
    struct State {
        thread: Rc<Cell<Option<std::thread::ThreadId>>>,
    }
    let build = |index: usize, builder: Builder| {
        let thread = std::thread::current();
        assert_eq!(thread.name(), Some(format!("loop {index}").as_str()));
        builder.build(State { thread: Rc::new(Cell::new(Some(thread.id()))) })
    };
    let running = Loops::new(3).start(build).unwrap();
    let handle = running.handle();
    let mut threads = BTreeSet::new();
    for index in 0..3 {
        let (loop_index, name, built_here) = on(&handle, index, |state, sockets| {
            let thread = std::thread::current();
            let built_here = state.thread.get() == Some(thread.id());
            (sockets.loop_index(), thread.name().map(str::to_owned), built_here)
        });
        assert_eq!((loop_index, built_here), (index, true));
        threads.insert(name.unwrap());
    }
    assert_eq!(threads.into_iter().collect::<Vec<_>>(), ["loop 0", "loop 1", "loop 2"]);
    assert_eq!(end(running).remained, 0);
}

#[test]
fn if_one_server_cannot_be_built_no_loop_runs_and_no_thread_stays() {
    /// Counts the states that were made and dropped. The last one that is dropped, with the
    /// threads that hold `build`, ends the channel.
    struct State {
        dropped: Arc<AtomicUsize>,
        _lives: mpsc::Sender<()>,
    }
    impl Drop for State {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
    quiet_panics();
    for (failing, panics) in [(0, false), (1, true), (2, false), (3, true)] {
        let (lives, all_gone) = mpsc::channel();
        let lives = Mutex::new(lives);
        let [made, dropped, turned] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
        let (made_here, dropped_here, turned_here) =
            (made.clone(), dropped.clone(), turned.clone());
        let build = move |index: usize, builder: Builder| {
            if index == failing {
                assert!(!panics, "{}", ON_PURPOSE);
                return Err("no database".to_owned());
            }
            made_here.fetch_add(1, Ordering::AcqRel);
            let _lives = lives.lock().unwrap().clone();
            let state = State { dropped: dropped_here.clone(), _lives };
            let mut server = builder.build(state).map_err(|error| error.to_string())?;
            let turned = turned_here.clone();
            server.sockets().set_timer(Duration::ZERO, move |_, _| {
                turned.fetch_add(1, Ordering::AcqRel);
            });
            Ok(server)
        };
        let loops = Loops::new(4).listen(ANY_PORT).unwrap();
        let address = loops.local_addrs()[0];
        let error = loops.start(build).unwrap_err();
        let reason = if panics { "it panicked: on purpose" } else { "no database" };
        assert_eq!(error, LoopsError::Build { index: failing, reason: reason.to_owned() });
        assert_eq!(
            TcpStream::connect(address).unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "nothing listens"
        );
        let end = all_gone.recv_timeout(PATIENCE);
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected), "all threads have ended");
        let [made, dropped, turned] =
            [made, dropped, turned].map(|count| count.load(Ordering::Acquire));
        assert_eq!((made, turned), (dropped, 0));
        assert!(made <= 3);
    }
}

#[test]
fn a_server_that_was_built_elsewhere_is_refused() {
    let build = |index: usize, builder: Builder| {
        if index == 1 { Server::builder().build(()) } else { builder.build(()) }
    };
    let reason =
        "build the server from the builder that the closure gets, not from another one".to_owned();
    assert_eq!(
        Loops::new(2).start(build).unwrap_err(),
        LoopsError::Build { index: 1, reason: reason.clone() }
    );
    // Also if it is for another loop.
    let (give, take) = mpsc::channel::<Builder>();
    let take = Mutex::new(take);
    let give = Mutex::new(give);
    let (done, is_done) = mpsc::channel::<()>();
    let (done, is_done) = (Mutex::new(Some(done)), Mutex::new(is_done));
    let build = move |index: usize, builder: Builder| {
        if index == 0 {
            give.lock().unwrap().send(builder.clone()).unwrap();
            // Until the other thread has its server.
            let _ = is_done.lock().unwrap().recv();
            return builder.build(());
        }
        let server = take.lock().unwrap().recv().unwrap().build(());
        drop(done.lock().unwrap().take());
        server
    };
    match Loops::new(2).start(build).unwrap_err() {
        LoopsError::Build { index: 0, reason } => {
            assert_eq!(reason, BuildError::LoopTaken(0).to_string());
        }
        LoopsError::Build { index: 1, reason: why } => assert_eq!(why, reason),
        error => panic!("{error}"),
    }
}

#[test]
fn a_builder_builds_the_server_of_its_loop_once() {
    let build = |index: usize, builder: Builder| {
        let server = room(index, builder.clone())?;
        let again = builder.build(()).map(drop);
        assert_eq!(again, Err(BuildError::LoopTaken(index)));
        Ok::<_, BuildError>(server)
    };
    let running = Loops::new(2).listen(ANY_PORT).unwrap().start(build).unwrap();
    let address = running.local_addr().unwrap();
    let mut clients = members(address, 2);
    clients.iter_mut().for_each(|client| client.expect_echo("the first one serves"));
    close_all(clients);
    end(running);
    // It is not given back by a server that was dropped.
    let build = |_: usize, builder: Builder| {
        drop(builder.clone().build(()));
        builder.build(())
    };
    let reason = BuildError::LoopTaken(0).to_string();
    assert_eq!(Loops::new(1).start(build).unwrap_err(), LoopsError::Build { index: 0, reason });
}

#[test]
fn counts_and_queues_out_of_range_are_refused_before_anything_is_built() {
    let never = |_: usize, _: Builder| -> Result<Server<()>, BuildError> { unreachable!() };
    for count in [0, 257, usize::MAX] {
        assert_eq!(Loops::new(count).start(never).unwrap_err(), LoopsError::Count(count));
    }
    for bytes in [0, 10, 1023] {
        let loops = Loops::new(2).queue_bytes(bytes);
        assert_eq!(loops.start(never).unwrap_err(), LoopsError::QueueBytes(bytes));
    }
    let least = Loops::new(1).queue_bytes(1024).start(|_, builder| builder.build(()));
    assert_eq!(end(least.unwrap()).remained, 0);
}

#[test]
fn loops_continue_if_running_is_dropped_and_handles_go_to_any_thread() {
    fn may_go_to_any_thread<T: Send + Sync>(_: &T) {}
    let (running, address) = start(Loops::new(2));
    let handle = running.handle();
    may_go_to_any_thread(&handle);
    drop(running);
    let mut clients = members(address, 4);
    clients.iter_mut().for_each(|client| client.expect_echo("still here"));
    let shared = handle.clone();
    std::thread::spawn(move || shared.shutdown(Shutdown::default())).join().unwrap().unwrap();
    for client in &mut clients {
        assert_eq!(client.closed(), (1001, "Server shutdown".to_owned()));
    }
    until(|| handle.send_each(|_, _| {}) == Err(SendError::Gone));
}

#[test]
fn spinning_loops_serve_and_end_like_others() {
    let (running, address) = start(Loops::new(2).spinning(true));
    let mut clients = members(address, 4);
    clients.iter_mut().for_each(|client| client.expect_echo("round and round"));
    close_all(clients);
    assert_eq!(end(running).remained, 0);
}

// Connections.

#[test]
fn while_none_closes_the_loops_differ_by_at_most_one_connection() {
    const LOOPS: usize = 4;
    let connections = amount("IKISOCKET_TEST_CONNECTIONS", 1000);
    if !descriptors::with_descriptors(2 * connections + 500) {
        return;
    }
    let (running, address) = start(Loops::new(LOOPS));
    let mut clients = Vec::new();
    let mut count = [0; LOOPS];
    while clients.len() < connections {
        let client = Member::connect(address);
        count[client.on] += 1;
        clients.push(client);
        let (least, most) = (count.iter().min().unwrap(), count.iter().max().unwrap());
        assert!(most - least <= 1, "{count:?}");
    }
    let handle = running.handle();
    assert_eq!(loads(&handle), count);
    let handed_over = on(&handle, 0, |_, sockets| sockets.stats().loops.handed_over);
    assert_eq!(handed_over as usize, connections - count[0]);
    // All at once, they are shared in the same way.
    let more: Vec<_> = (0..4 * LOOPS).map(|_| socket(address)).collect();
    until(|| loads(&handle).iter().sum::<usize>() == connections + more.len());
    let loads = loads(&handle);
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
    drop(more);
    close_all(clients);
    end(running);
}

#[test]
fn after_closes_the_next_connections_go_to_the_emptiest_loop() {
    let (running, address) = start(Loops::new(3));
    let handle = running.handle();
    let mut clients = members(address, 15);
    for leaves in [1, 2, 0] {
        let (gone, stay): (Vec<_>, _) = clients.into_iter().partition(|each| each.on == leaves);
        clients = stay;
        assert_eq!(gone.len(), 5);
        close_all(gone);
        until(|| loads(&handle)[leaves] == 0);
        for _ in 0..5 {
            let next = Member::connect(address);
            assert_eq!(next.on, leaves);
            clients.push(next);
        }
    }
    close_all(clients);
    end(running);
}

#[test]
fn not_a_byte_is_lost_that_clients_send_with_their_connect() {
    let loops = Loops::new(4).listen(ANY_PORT).unwrap();
    let address = loops.local_addrs()[0];
    // The loops do not run yet: all that these send waits in the sockets.
    let sockets: Vec<_> = (0..100)
        .map(|index: usize| {
            let mut socket = socket(address);
            let mut bytes = upgrade_request("/ws").into_bytes();
            let messages = [index.to_string(), "x".repeat(30_000), "last".to_owned()];
            messages.iter().for_each(|text| bytes.extend(frame(TEXT, text.as_bytes())));
            socket.write_all(&bytes).unwrap();
            (socket, messages)
        })
        .collect();
    let running = loops.start(room).unwrap();
    let mut on = [0; 4];
    let mut open = Vec::new();
    for (mut socket, messages) in sockets {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let role = tungstenite::protocol::Role::Client;
        let mut ws = tungstenite::WebSocket::from_raw_socket(socket, role, None);
        let greeting = kit::text(&mut ws);
        on[greeting.split_once(' ').unwrap().0.parse::<usize>().unwrap()] += 1;
        assert_eq!([(); 3].map(|()| kit::text(&mut ws)), messages);
        open.push(ws);
    }
    assert_eq!(on, [25; 4]);
    drop(open);
    end(running);
}

#[cfg(unix)]
#[test]
fn connections_of_a_unix_socket_are_handed_over_too() {
    use std::os::unix::net::UnixStream;

    let path = std::env::temp_dir().join(format!("ikisocket-loops-{}", std::process::id()));
    let listens_at = path.clone();
    // By any of the servers, or by the loops.
    let build = move |index: usize, builder: Builder| {
        let mut server = room(index, builder)?;
        if index == 0 {
            server.listen_unix(&listens_at).unwrap();
        }
        Ok::<_, BuildError>(server)
    };
    let other_path = path.with_extension("other");
    let loops = Loops::new(3).listen_unix(&other_path).unwrap();
    let running = loops.start(build).unwrap();
    let mut clients: Vec<_> = (0..9)
        .map(|number| {
            let path = if number % 2 == 0 { &path } else { &other_path };
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Member::over(stream)
        })
        .collect();
    assert_eq!(clients.iter().map(|each| each.on).collect::<Vec<_>>(), [0, 1, 2].repeat(3));
    for client in &mut clients {
        client.expect_echo(&"over a file".repeat(10_000));
    }
    running.handle().stop_listening().unwrap();
    until(|| !path.exists() && !other_path.exists());
    drop(clients);
    end(running);
}

#[test]
fn sockets_are_handed_over_by_the_thousands() {
    const CLIENTS: usize = 2;
    const LOOPS: usize = 4;
    let wanted = amount("IKISOCKET_TEST_HAND_OVERS", 4_000);
    let (running, address) = start(Loops::new(LOOPS));
    let handle = running.handle();
    let handed_over = AtomicUsize::new(0);
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while handed_over.load(Ordering::Acquire) < wanted {
                    let mut client = Member::connect(address);
                    client.expect_echo(&client.uuid.to_string());
                    total.fetch_add(1, Ordering::AcqRel);
                    if client.on != 0 {
                        handed_over.fetch_add(1, Ordering::AcqRel);
                    }
                    // A reset, so that its port is free again.
                    SockRef::from(client.ws.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
                }
            });
        }
    });
    let (total, handed_over) = (total.into_inner(), handed_over.into_inner());
    until(|| loads(&handle) == [0; LOOPS]);
    let stats: Vec<_> =
        (0..LOOPS).map(|index| on(&handle, index, |_, sockets| sockets.stats())).collect();
    assert_eq!(stats.iter().map(|each| each.upgraded).sum::<u64>(), total as u64);
    assert_eq!(stats[0].loops.handed_over, handed_over as u64);
    assert!(stats[1..].iter().all(|each| each.loops.handed_over == 0));
    end(running);
}

// Verbs that reach all loops.

/// What one loop sends to all: this many messages on each topic, and of each other kind.
const ROUNDS: usize = 1000;
const LOOPS: usize = 4;

/// What the storm of one loop has to know.
#[derive(Clone)]
struct Storm {
    uuids: Arc<[Uuid]>,
    round: usize,
}

/// Sends some messages of each kind, and goes on in the next turn.
fn storm(sockets: &mut Sockets<'_, Notes>, mut storm: Storm) {
    let own = sockets.loop_index();
    let mut everywhere = sockets.everywhere();
    for _ in 0..7 {
        let round = storm.round;
        for topic in ["room", "rare"] {
            let sent = everywhere.publish(topic, format!("{topic} {own} {round}"));
            assert_eq!(sent.full, 0);
        }
        assert_eq!(everywhere.broadcast(format!("all {own} {round}")).full, 0);
        assert_eq!(everywhere.fire("storm", format!("{own} {round}")).full, 0);
        let uuid = storm.uuids[round % storm.uuids.len()];
        everywhere.emit_to(uuid, format!("one {own} {round}")).unwrap();
        let list: Vec<_> = storm.uuids.iter().copied().step_by(2).collect();
        assert_eq!(everywhere.emit_to_list(&list, format!("list {own} {round}")).full, 0);
        storm.round += 1;
        if storm.round == ROUNDS {
            everywhere.broadcast(format!("end {own} 0"));
            return;
        }
    }
    sockets.set_timer(Duration::ZERO, move |_, sockets| self::storm(sockets, storm));
}

#[test]
fn what_all_loops_send_at_once_reaches_all_once_and_in_the_order_of_each() {
    const MEMBERS: usize = 2 * LOOPS;
    let build = |index: usize, builder: Builder| {
        let mut server = room(index, builder.max_outbox(64 << 20).high_water(64 << 20))?;
        server.on("storm", |notes: &mut Notes, ep| {
            let event = format!("{} {}", ep.kws.uuid(), String::from_utf8_lossy(&ep.data));
            notes.0.push(event);
        });
        Ok::<_, BuildError>(server)
    };
    let running = Loops::new(LOOPS).listen(ANY_PORT).unwrap().start(build).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients = members(address, MEMBERS);
    let uuids: Arc<[Uuid]> = clients.iter().map(|each| each.uuid).collect();
    // Two loops have a member of the other topic.
    let rare = [1, 2];
    for index in rare {
        let uuid = uuids[index];
        assert_eq!(clients[index].on, index);
        on(&handle, index, move |_, sockets| sockets.get(uuid).unwrap().join("rare")).unwrap();
    }
    for index in 0..LOOPS {
        let uuids = uuids.clone();
        let sends = handle.one(index).unwrap();
        sends.send(move |_, sockets| storm(sockets, Storm { uuids, round: 0 })).unwrap();
    }
    let got: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(|| read_storm(client))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    for (member, got) in got.iter().enumerate() {
        for from in 0..LOOPS {
            let numbers =
                |kind: &str| got.get(&(kind.to_owned(), from)).cloned().unwrap_or_default();
            let all: Vec<_> = (0..ROUNDS).collect();
            assert!(numbers("room") == all, "member {member}, from loop {from}: in their order");
            assert!(numbers("all") == all, "member {member}, from loop {from}: in their order");
            let expected = if rare.contains(&member) { all.clone() } else { Vec::new() };
            assert!(numbers("rare") == expected, "member {member}, from loop {from}");
            // These have no order among the others.
            let mut one = numbers("one");
            one.sort_unstable();
            let mine = |round: &usize| round % MEMBERS == member;
            assert_eq!(one, all.iter().copied().filter(mine).collect::<Vec<_>>());
            let mut list = numbers("list");
            list.sort_unstable();
            assert!(list == if member % 2 == 0 { all } else { Vec::new() });
        }
    }
    // Every open connection has got every event, in the order of each loop.
    for index in 0..LOOPS {
        let mut events = BTreeMap::<(String, usize), Vec<usize>>::new();
        for note in on(&handle, index, |notes, _| std::mem::take(&mut notes.0)) {
            let [uuid, from, round] = note.split(' ').collect::<Vec<_>>()[..] else { panic!() };
            let key = (uuid.to_owned(), from.parse().unwrap());
            events.entry(key).or_default().push(round.parse().unwrap());
        }
        assert_eq!(events.len(), LOOPS * MEMBERS / LOOPS);
        assert!(events.values().all(|rounds| rounds.iter().copied().eq(0..ROUNDS)));
    }
    // Each loop closes the members of the next, and says so.
    for index in 0..LOOPS {
        let next = (index + 1) % LOOPS;
        let theirs: Vec<_> =
            clients.iter().filter(|each| each.on == next).map(|each| each.uuid).collect();
        let code = 4000 + index as u16;
        let closed = on(&handle, index, move |_, sockets| {
            let mut everywhere = sockets.everywhere();
            theirs.into_iter().map(|uuid| everywhere.close(uuid, code, "moved")).collect::<Vec<_>>()
        });
        assert_eq!(closed, [Ok(true); MEMBERS / LOOPS]);
    }
    for client in &mut clients {
        let code = 4000 + ((client.on + LOOPS - 1) % LOOPS) as u16;
        assert_eq!(client.closed(), (code, "moved".to_owned()));
    }
    let panics: u64 =
        (0..LOOPS).map(|at| on(&handle, at, |_, sockets| sockets.stats().panics)).sum();
    assert_eq!(panics, 0);
    end(running);
}

/// What one client reads until all loops have ended their storm: the numbers by kind and loop.
fn read_storm(client: &mut Member) -> BTreeMap<(String, usize), Vec<usize>> {
    let mut got = BTreeMap::<_, Vec<_>>::new();
    let mut ends = 0;
    while ends < LOOPS {
        let text = client.text();
        let [kind, from, number] = text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{text} was not sent")
        };
        ends += usize::from(kind == "end");
        let key = (kind.to_owned(), from.parse().unwrap());
        got.entry(key).or_default().push(number.parse().unwrap());
    }
    got
}

#[test]
fn all_loops_may_ask_all_others_at_once() {
    let (running, address) = start(Loops::new(LOOPS));
    let handle = running.handle();
    let clients = members(address, 10);
    let uuids: BTreeSet<_> = clients.iter().map(|each| each.uuid).collect();
    type Answers = (usize, usize, Vec<Uuid>, Vec<Uuid>, Vec<(usize, usize)>);
    let (sender, answers) = mpsc::channel::<Option<Answers>>();
    let ask_all = |index: usize| {
        let sender = sender.clone();
        let asks = handle.one(index).unwrap();
        asks.send(move |_, sockets| {
            sockets.everywhere().count(move |_, sockets, open| {
                sockets.everywhere().member_count("room", move |_, sockets, count| {
                    sockets.everywhere().members("room", move |_, sockets, members| {
                        sockets.everywhere().uuids(move |_, sockets, uuids| {
                            sockets.everywhere().stats(move |_, _, stats| {
                                let complete = open.is_complete()
                                    && count.is_complete()
                                    && members.is_complete()
                                    && uuids.is_complete()
                                    && stats.is_complete();
                                let stats = stats.value.iter().map(|(at, stats)| (*at, stats.open));
                                let answers = (
                                    open.value,
                                    count.value,
                                    members.value,
                                    uuids.value,
                                    stats.collect(),
                                );
                                let _ = sender.send(complete.then_some(answers));
                            });
                        });
                    });
                });
            });
        })
        .unwrap();
    };
    let mut missing = 20 * LOOPS;
    (0..missing).for_each(|asked| ask_all(asked % LOOPS));
    while missing > 0 {
        let answer = answers.recv_timeout(PATIENCE).unwrap();
        // On a busy machine a second may pass without an answer: then it is asked again.
        let Some((open, count, members, found, stats)) = answer else {
            ask_all(missing % LOOPS);
            continue;
        };
        missing -= 1;
        assert_eq!((open, count), (10, 10));
        assert_eq!((members.len(), found.len()), (10, 10));
        assert_eq!(members.into_iter().collect::<BTreeSet<_>>(), uuids);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), uuids);
        assert_eq!(stats, [(0, 3), (1, 3), (2, 2), (3, 2)]);
    }
    close_all(clients);
    end(running);
}

// A loop that is stuck.

/// A loop whose callback does not return before this is dropped.
struct Stuck {
    _release: mpsc::Sender<()>,
}

impl Stuck {
    fn new<S: 'static>(handle: &LoopsHandle<S>, index: usize) -> Self {
        let (release, released) = mpsc::channel();
        let (stuck, is_stuck) = mpsc::channel();
        handle
            .one(index)
            .unwrap()
            .send(move |_, _| {
                let _ = stuck.send(());
                let _ = released.recv();
            })
            .unwrap();
        is_stuck.recv_timeout(PATIENCE).unwrap();
        Self { _release: release }
    }
}

/// A room whose loops tell their clients of gaps, at their place.
fn room_with_gaps(index: usize, builder: Builder) -> Result<Server<Notes>, BuildError> {
    let mut server = room(index, builder)?;
    server.on_bus(|notes, sockets, event| match event {
        BusEvent::Gap { from: GapFrom::Loop(from), lost: Some(lost), .. } => {
            notes.0.push(format!("{from} {lost}"));
            sockets.publish("room", format!("gap {from} {lost}"));
        }
        event => panic!("{event:?}"),
    });
    Ok(server)
}

#[test]
fn a_stuck_loop_makes_no_other_wait_and_learns_what_it_has_missed() {
    let loops = Loops::new(3).queue_bytes(4096).listen(ANY_PORT).unwrap();
    let running = loops.start(room_with_gaps).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients = members(address, 3);
    let far = on_loop(&mut clients, 1).uuid;
    let stuck = Stuck::new(&handle, 1);
    // Both others publish more than finds room.
    let mut queued = [0; 3];
    let mut refused = [0; 3];
    for from in [0, 2] {
        for turn in 0..10 {
            let sent = on(&handle, from, move |_, sockets| {
                let mut everywhere = sockets.everywhere();
                let publish = |number| {
                    let sent =
                        everywhere.publish("room", format!("{from}: {}", 10 * turn + number));
                    assert_eq!((sent.here, sent.queued + sent.full), (1, 2));
                    (sent.full, sent.full_loops().collect::<Vec<_>>())
                };
                (0..10).map(publish).collect::<Vec<_>>()
            });
            for (full, full_loops) in sent {
                assert!(full == 0 || full_loops == [1], "{full_loops:?}");
                assert!(full == 1 || refused[from] == 0, "later ones are refused too");
                *(if full == 1 { &mut refused } else { &mut queued }).get_mut(from).unwrap() += 1;
            }
            // The others serve each other and their clients.
            for index in [0, 2] {
                let client = on_loop(&mut clients, index);
                for number in 0..10 {
                    assert_eq!(client.text(), format!("{from}: {}", 10 * turn + number));
                }
            }
        }
        assert!(queued[from] > 10 && refused[from] > 10, "{queued:?} {refused:?}");
    }
    for index in [0, 2] {
        let client = on_loop(&mut clients, index);
        client.expect_echo("nothing to wait for");
    }
    // Nothing else has room.
    let (emit, close, sent) = on(&handle, 0, move |_, sockets| {
        let mut everywhere = sockets.everywhere();
        // Longer than what may be left there.
        let long = "x".repeat(100);
        let emit = everywhere.emit_to(far, &long[..]);
        let close = everywhere.close(far, 4000, &long);
        let broadcast = everywhere.broadcast(&long[..]);
        let fired = everywhere.fire("event", &long[..]);
        let list = everywhere.emit_to_list(&[far], &long[..]);
        (emit, close, [broadcast, fired, list].map(|sent| (sent.here, sent.queued, sent.full)))
    });
    assert_eq!(emit, Err(EmitError::LoopFull(1)));
    assert_eq!(close, Err(CloseError::LoopFull(1)));
    assert_eq!(sent, [(1, 1, 1), (0, 1, 1), (0, 0, 1)]);
    refused[0] += 5;
    // A question is refused too.
    let (sender, answer) = mpsc::channel();
    let asks = handle.one(0).unwrap();
    asks.send(move |_, sockets| {
        let topic = "x".repeat(100);
        sockets.everywhere().member_count(&topic, move |_, _, found| _ = sender.send(found));
    })
    .unwrap();
    assert!(answer.recv_timeout(PATIENCE).unwrap().missing.contains(&1));
    // The question counts where it was refused. It is no message that is missing there.
    for (index, full) in [(0, refused[0] + 1), (2, refused[2])] {
        let bus = on(&handle, index, |_, sockets| sockets.stats().loops);
        assert_eq!(bus.refused, full);
    }
    for index in [0, 2] {
        assert_eq!(on_loop(&mut clients, index).text(), "x".repeat(100));
    }
    let reports = handle.reports();
    assert!(reports[1].busy_for.is_some() && reports[1].stats.is_none() && !reports[1].ended);
    assert!(reports[0].stats.is_some() && reports[2].stats.is_some());

    drop(stuck);
    let client = on_loop(&mut clients, 1);
    // What had room comes in its order, then the gap; each from its loop.
    let mut next = [0; 3];
    let mut gaps = BTreeMap::new();
    while gaps.len() < 2 {
        let text = client.text();
        if let Some(gap) = text.strip_prefix("gap ") {
            let (from, lost) = gap.split_once(' ').unwrap();
            let from: usize = from.parse().unwrap();
            assert_eq!(next[from], queued[from], "all that had room came before");
            assert_eq!(gaps.insert(from, lost.parse().unwrap()), None);
        } else {
            let (from, number) = text.split_once(": ").unwrap();
            let from: usize = from.parse().unwrap();
            assert_eq!(number.parse(), Ok(next[from]));
            next[from] += 1;
        }
    }
    assert_eq!(gaps, BTreeMap::from([(0, refused[0]), (2, refused[2])]));
    let stats = on(&handle, 1, |_, sockets| sockets.stats());
    assert_eq!(stats.loops.lost, refused[0] + refused[2]);
    // There is room again.
    let sent = on(&handle, 0, |_, sockets| sockets.everywhere().publish("room", "again"));
    assert_eq!((sent.here, sent.queued, sent.full), (1, 2, 0));
    clients.iter_mut().for_each(|client| assert_eq!(client.text(), "again"));
    close_all(clients);
    end(running);
}

#[test]
fn a_stuck_loop_gets_its_new_connections_when_it_goes_on() {
    let (running, address) = start(Loops::new(2));
    let handle = running.handle();
    let stuck = Stuck::new(&handle, 1);
    // The first loop accepts for both.
    let sockets: Vec<_> = (0..6).map(|_| socket(address)).collect();
    until(|| on(&handle, 0, |_, sockets| sockets.stats().loops.handed_over) == 3);
    drop(stuck);
    let mut clients: Vec<_> = sockets.into_iter().map(Member::over).collect();
    assert_eq!(clients.iter().map(|each| each.on).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1]);
    clients.iter_mut().for_each(|client| client.expect_echo("at last"));
    close_all(clients);
    end(running);
}

#[test]
fn a_stuck_loop_is_given_no_more_sockets_than_may_wait_for_it() {
    /// The most sockets that wait for one loop.
    const WAIT: usize = 1024;
    const MORE: usize = 20;
    if !descriptors::with_descriptors(4 * WAIT + 1000) {
        return;
    }
    let (running, address) = start(Loops::new(2));
    let handle = running.handle();
    let stuck = Stuck::new(&handle, 1);
    let counts = || {
        let stats = on(&handle, 0, |_, sockets| sockets.stats());
        (stats.accepted as usize, stats.loops.handed_over as usize)
    };
    let mut sockets = Vec::new();
    while sockets.len() < 2 * WAIT + MORE {
        sockets.push(socket(address));
        // No more than the operating system keeps until they are accepted.
        if sockets.len() % 50 == 0 {
            until(|| counts().0 + counts().1 == sockets.len());
        }
    }
    until(|| counts().0 + counts().1 == sockets.len());
    let (kept, handed_over) = counts();
    // They are fewer if 5 s have passed.
    assert!(handed_over <= WAIT, "{handed_over}");
    drop(stuck);
    let mut count = [0; 2];
    let clients: Vec<_> = sockets.into_iter().map(Member::over).collect();
    clients.iter().for_each(|client| count[client.on] += 1);
    assert_eq!(count, [kept, handed_over], "all are served");
    drop(clients);
    until(|| loads(&handle) == [0, 0]);
    end(running);
}

// Handles.

#[test]
fn the_verbs_of_a_handle_reach_the_connections_of_all_loops() {
    let build = |index: usize, builder: Builder| {
        let mut server = room(index, builder)?;
        server.on("news", |_, ep| _ = ep.kws.emit(format!("news: {}", ep.data.len())));
        Ok::<_, BuildError>(server)
    };
    let running = Loops::new(3).listen(ANY_PORT).unwrap().start(build).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    assert_eq!((handle.len(), handle.one(2).is_some(), handle.one(3).is_none()), (3, true, true));
    let mut clients = members(address, 6);
    let uuids: Vec<_> = clients.iter().map(|each| each.uuid).collect();
    handle.broadcast("to all").unwrap();
    handle.publish("room", "to the room").unwrap();
    handle.publish("empty", "lost").unwrap();
    for client in &mut clients {
        assert_eq!([(); 2].map(|()| client.text()), ["to all", "to the room"]);
    }
    handle.fire("news", "four").unwrap();
    clients.iter_mut().for_each(|client| assert_eq!(client.text(), "news: 4"));
    handle.send_each(|_, sockets| _ = sockets.broadcast("of each")).unwrap();
    clients.iter_mut().for_each(|client| assert_eq!(client.text(), "of each"));
    for (client, &uuid) in clients.iter_mut().zip(&uuids) {
        handle.emit_to(uuid, uuid.to_string()).unwrap();
        assert_eq!(client.text(), uuid.to_string());
    }
    handle.emit_to(Uuid::from_u128(1), "to none").unwrap();
    let some = [uuids[0], uuids[1], uuids[4], Uuid::from_u128(1)];
    handle.emit_to_list(some, "to some").unwrap();
    for index in [0, 1, 4] {
        assert_eq!(clients[index].text(), "to some");
    }
    clients.iter_mut().for_each(|client| client.expect_echo("nothing else has come"));
    // A uuid that the program sets is found too.
    let (own, old) = (Uuid::from_u128(7), uuids[2]);
    on(&handle, 2, move |_, sockets| sockets.get(old).unwrap().set_uuid(own)).unwrap();
    handle.emit_to(own, "by its other name").unwrap();
    assert_eq!(clients[2].text(), "by its other name");
    assert_eq!(
        handle.shutdown(Shutdown::default().code(1005)),
        Err(SendError::Close(CloseError::IllegalCode(1005.into())))
    );
    clients.iter_mut().for_each(|client| client.expect_echo("nothing was shut down"));
    let reports = handle.reports();
    assert_eq!(reports.iter().map(|each| each.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(reports.iter().all(|each| !each.ended));
    assert!(reports.iter().flat_map(|each| &each.stats).all(|stats| stats.open == 2));
    close_all(clients);
    end(running);

    // Nothing is left.
    let gone = Err(SendError::Gone);
    assert_eq!(handle.send_each(|_, _| unreachable!()), gone);
    assert_eq!(handle.emit_to(uuids[0], ""), gone);
    assert_eq!(handle.emit_to(own, ""), gone);
    assert_eq!(handle.emit_to_list(uuids, ""), gone);
    assert_eq!(handle.broadcast(""), gone);
    assert_eq!(handle.publish("room", ""), gone);
    assert_eq!(handle.fire("news", ""), gone);
    assert_eq!(handle.one(1).unwrap().broadcast(""), gone);
    assert_eq!(handle.shutdown(Shutdown::default()), gone);
    assert_eq!(handle.stop_listening(), gone);
    let reports = handle.reports();
    let ended = |each: &ikisocket::LoopReport| {
        each.ended && each.stats.is_none() && each.busy_for.is_none()
    };
    assert!(reports.len() == 3 && reports.iter().all(ended), "{reports:?}");
}

#[test]
fn the_commands_of_one_thread_run_on_each_loop_in_their_order() {
    let (running, _) = start(Loops::new(3));
    let handle = running.handle();
    for number in 0..1000 {
        handle.send_each(move |notes, _| notes.0.push(number.to_string())).unwrap();
    }
    let expected: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
    for index in 0..3 {
        assert!(on(&handle, index, |notes, _| std::mem::take(&mut notes.0)) == expected);
    }
    end(running);
}

// The end.

#[test]
fn a_shutdown_from_anywhere_ends_all_loops_with_its_code_and_reason() {
    type Begin = fn(&LoopsHandle<Notes>, Shutdown);
    let from_all: Begin = |handle, how| handle.shutdown(how).unwrap();
    let from_one: Begin = |handle, how| handle.one(2).unwrap().shutdown(how).unwrap();
    let from_a_callback: Begin = |handle, how| {
        on(handle, 1, |_, sockets| sockets.shutdown(how)).unwrap();
    };
    for begin in [from_all, from_one, from_a_callback] {
        for spread in [Duration::ZERO, Duration::from_millis(20)] {
            let (running, address) = start(Loops::new(3));
            let mut clients = members(address, 9);
            let how = Shutdown::default().code(4321).reason("good night").spread(spread);
            begin(&running.handle(), how.deadline(PATIENCE));
            for client in &mut clients {
                assert_eq!(client.closed(), (4321, "good night".to_owned()));
            }
            assert_eq!(running.join().unwrap().remained, 0);
            let refused = TcpStream::connect(address).map_err(|error| error.kind());
            assert_eq!(refused.unwrap_err(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn a_shutdown_in_the_middle_of_connects_ends_all_loops() {
    for _ in 0..10 {
        let (running, address) = start(Loops::new(3));
        let clients: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut upgraded = 0;
                    // Until nothing listens any more. A socket that waits then may be reset.
                    while let Ok(socket) = TcpStream::connect(address) {
                        socket.set_read_timeout(Some(PATIENCE)).unwrap();
                        let Ok(mut ws) = kit::upgrade("ws://localhost/ws", socket) else {
                            continue;
                        };
                        upgraded += 1;
                        ws.close(None).unwrap();
                        while ws.read().is_ok() {}
                    }
                    upgraded
                })
            })
            .collect();
        let handle = running.handle();
        until(|| on(&handle, 2, |_, sockets| sockets.stats().upgraded) > 0);
        let how = Shutdown::default().deadline(PATIENCE);
        on(&handle, 1, |_, sockets| sockets.shutdown(how)).unwrap();
        running.join().unwrap();
        let upgraded = clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>();
        assert!(upgraded > 0);
    }
}

#[test]
fn loops_without_connections_end_at_once() {
    for count in [1, 2, 5] {
        let (running, _) = start(Loops::new(count));
        assert_eq!(end(running).remained, 0);
    }
}

#[test]
fn the_connections_that_remained_are_counted_over_all_loops() {
    let (running, address) = start(Loops::new(3));
    // Their clients never answer.
    let clients = members(address, 6);
    let at_once = Shutdown::default().deadline(Duration::ZERO);
    running.handle().shutdown(at_once).unwrap();
    let finished: Finished = running.join().unwrap();
    assert_eq!(finished.remained, clients.len());
}

#[test]
fn upgrades_are_refused_on_all_loops_and_pages_are_not() {
    let build = |index: usize, builder: Builder| {
        let mut server = room(index, builder)?;
        server.get("/page", |_, sockets, _| sockets.loop_index().to_string()).unwrap();
        Ok::<_, BuildError>(server)
    };
    let running = Loops::new(3).listen(ANY_PORT).unwrap().start(build).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients = members(address, 3);
    let all_refuse = |refuse: bool| {
        until(|| {
            (0..3).all(|index| on(&handle, index, |_, sockets| sockets.is_refusing()) == refuse)
        });
        until(|| loads(&handle) == [1; 3]);
        // The next three come to different loops.
        for socket in [(); 3].map(|()| socket(address)) {
            assert_eq!(refused(socket), refuse.then_some(503));
        }
    };
    handle.refuse_upgrades(true);
    all_refuse(true);
    on(&handle, 2, |_, sockets| sockets.refuse_upgrades(false));
    all_refuse(false);
    ask(handle.one(1).unwrap(), |_, sockets| sockets.refuse_upgrades(true));
    all_refuse(true);
    until(|| loads(&handle) == [1; 3]);
    let mut pages = [(); 3].map(|()| socket(address)).map(|mut socket| {
        socket.write_all(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        page.pop()
    });
    pages.sort_unstable();
    assert_eq!(pages, [Some('0'), Some('1'), Some('2')]);
    clients.iter_mut().for_each(|client| client.expect_echo("still open"));
    close_all(clients);
    end(running);
}

#[test]
fn after_a_stop_of_listening_open_connections_continue_on_all_loops() {
    let (running, address) = start(Loops::new(3));
    let handle = running.handle();
    let mut clients = members(address, 6);
    handle.stop_listening().unwrap();
    until(|| match TcpStream::connect(address) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    });
    clients.iter_mut().for_each(|client| client.expect_echo("still open"));
    close_all(clients);
    end(running);
}

#[cfg(unix)]
#[test]
fn after_a_stop_or_a_shutdown_no_socket_of_any_loop_listens() {
    type Stop = fn(&LoopsHandle<Notes>);
    let stop: Stop = |handle| handle.stop_listening().unwrap();
    let shut_down: Stop = |handle| {
        handle.shutdown(Shutdown::default().deadline(PATIENCE)).unwrap();
    };
    for begin in [stop, shut_down] {
        let (running, addresses) = kit::start_at_two_ports(Loops::new(3));
        let handle = running.handle();
        let clients: Vec<_> = addresses.iter().flat_map(|&address| members(address, 3)).collect();
        assert_eq!(handle.listening_fds().unwrap().len(), 2);
        begin(&handle);
        // The clients are still there.
        kit::until_closed(&handle, &addresses);
        close_all(clients);
        // They may have ended by then.
        let _ = handle.shutdown(Shutdown::default());
        assert_eq!(running.join().unwrap().remained, 0);
        assert!(handle.listening_fds().unwrap().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_duplicate_of_a_listening_socket_accepts_after_all_loops_have_ended() {
    let (running, addresses) = kit::start_at_two_ports(Loops::new(2));
    let handle = running.handle();
    let mut listeners: Vec<_> =
        handle.listening_fds().unwrap().into_iter().map(TcpListener::from).collect();
    handle.stop_listening().unwrap();
    until(|| handle.listening_fds().unwrap().is_empty());
    assert_eq!(end(running).remained, 0);
    for address in addresses {
        let at = listeners.iter().position(|each| each.local_addr().unwrap() == address);
        let listener = listeners.remove(at.expect("it has a duplicate"));
        listener.set_nonblocking(true).unwrap();
        let client = socket(address);
        let own = client.local_addr().unwrap();
        until(|| match listener.accept() {
            Ok((_, peer)) => peer == own,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        });
    }
    assert!(listeners.is_empty());
    // It was the last holder of the sockets.
    kit::until_closed(&handle, &addresses);
}

/// Members on one of two loops, and on the other one nothing but an interval, which publishes ticks
/// to them. A tick says how many there were, and whether that loop shuts down.
fn tick_for_others(ticks_on: usize) -> (Running<Notes>, Vec<Member>) {
    let (running, address) = start(Loops::new(2));
    let handle = running.handle();
    let (gone, stay): (Vec<_>, Vec<_>) =
        members(address, 8).into_iter().partition(|each| each.on == ticks_on);
    close_all(gone);
    until(|| loads(&handle)[ticks_on] == 0);
    on(&handle, ticks_on, |_, sockets| {
        let mut number = 0;
        sockets.set_interval(Duration::from_millis(1), move |_, sockets| {
            let tick = format!("{number} {}", sockets.is_refusing());
            sockets.everywhere().publish("room", tick);
            number += 1;
        });
    });
    (running, stay)
}

/// What a member reads of [`tick_for_others`], or how it was closed.
enum Tick {
    Came { number: usize, shuts_down: bool },
    Closed(u16),
}

#[track_caller]
fn next_tick(client: &mut Member) -> Tick {
    match client.ws.read().unwrap() {
        Message::Text(tick) => {
            let (number, shuts_down) = tick.split_once(' ').unwrap();
            let shuts_down = shuts_down == "true";
            Tick::Came { number: number.parse().unwrap(), shuts_down }
        }
        Message::Close(frame) => {
            while client.ws.read().is_ok() {}
            Tick::Closed(frame.unwrap().code.into())
        }
        other => panic!("a tick was expected, not {other:?}"),
    }
}

/// More ticks than a loop may publish in the turn in which its shutdown finishes.
const LATE_TICKS: usize = 50;

/// Reads ticks of a loop that shuts down: [`LATE_TICKS`], or as many as come before the close. Then
/// it returns the code.
fn close_within_late_ticks(client: &mut Member) -> Option<u16> {
    let mut late = 0;
    while late < LATE_TICKS {
        match next_tick(client) {
            Tick::Came { shuts_down, .. } => late += usize::from(shuts_down),
            Tick::Closed(code) => return Some(code),
        }
    }
    None
}

#[test]
fn a_loop_that_has_finished_works_for_the_others_until_they_have_too() {
    for ticks_on in [0, 1] {
        let (running, mut clients) = tick_for_others(ticks_on);
        let handle = running.handle();
        // One is closed at once. The others have long to wait.
        let ages = Duration::from_secs(1_000_000);
        handle.shutdown(Shutdown::default().spread(ages).deadline(PATIENCE)).unwrap();
        let mut codes: Vec<_> = clients.iter_mut().map(close_within_late_ticks).collect();
        assert!(codes.iter().filter(|code| code.is_some()).count() <= 1, "{codes:?}");
        // A second shutdown does not wait.
        handle.shutdown(Shutdown::default().code(4321)).unwrap();
        for (code, client) in codes.iter_mut().zip(&mut clients) {
            code.get_or_insert_with(|| client.closed().0);
        }
        codes.sort_unstable();
        assert_eq!(codes, [1001, 4321, 4321, 4321].map(Some));
        until(|| running.is_finished());
        assert_eq!(running.join().unwrap().remained, 0);
    }
}

/// Whether the member that is closed last has got ticks of a loop that had finished. That is seen
/// only if the machine comes to it within the spread; all else is asserted.
fn has_ticks_until_the_close(ticks_on: usize, spread: Duration) -> bool {
    let (running, clients) = tick_for_others(ticks_on);
    let ages = Duration::from_secs(1_000_000);
    running.handle().shutdown(Shutdown::default().spread(spread).deadline(ages)).unwrap();
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let (mut numbers, mut late) = (Vec::new(), 0);
                loop {
                    match next_tick(&mut client) {
                        Tick::Came { number, shuts_down } => {
                            numbers.push(number);
                            late += usize::from(shuts_down);
                        }
                        Tick::Closed(code) => {
                            assert_eq!(code, 1001);
                            return (numbers, late);
                        }
                    }
                }
            })
        })
        .collect();
    let late = readers.into_iter().map(|reader| {
        let (numbers, late) = reader.join().unwrap();
        assert!(numbers.iter().copied().eq(0..numbers.len()), "none is missing: {numbers:?}");
        late
    });
    let late = late.max().unwrap();
    // Long before the deadline.
    until(|| running.is_finished());
    assert_eq!(running.join().unwrap().remained, 0);
    late >= LATE_TICKS
}

#[test]
fn loops_that_wait_for_the_last_one_end_as_soon_as_it_has_finished() {
    let (running, address) = start(Loops::new(3));
    let handle = running.handle();
    let (stay, gone): (Vec<_>, Vec<_>) =
        members(address, 6).into_iter().partition(|each| each.on == 1);
    close_all(gone);
    until(|| loads(&handle) == [0, 2, 0]);
    let ages = Duration::from_secs(1_000_000);
    handle.shutdown(Shutdown::default().deadline(ages)).unwrap();
    // They have nothing to do, and nothing wakes them but the end of the other one.
    for index in [0, 2] {
        until(|| on(&handle, index, |_, sockets| sockets.is_refusing()));
    }
    assert!(!running.is_finished());
    stay.into_iter().for_each(|mut client| assert_eq!(client.closed().0, 1001));
    until(|| running.is_finished());
    assert_eq!(running.join().unwrap().remained, 0);
}

#[test]
fn loops_end_when_the_last_connection_of_a_spread_has_and_not_later() {
    for ticks_on in [0, 1] {
        let spreads = [1, 4, 16].map(Duration::from_secs);
        assert!(spreads.into_iter().any(|spread| has_ticks_until_the_close(ticks_on, spread)));
    }
}

#[test]
fn new_loops_take_over_the_socket_and_no_connection_is_refused() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let address = listener.local_addr().unwrap();
    let begin = |name: &'static str| {
        let loops = Loops::new(2).listen_on(listener.try_clone().unwrap()).unwrap();
        let build = move |_: usize, builder: Builder| {
            let mut server = builder.build(())?;
            server.on(Event::Connect, move |_, ep| _ = ep.kws.emit(name));
            server.route("/ws", |_, _| {}).expect("the pattern is valid");
            Ok::<_, BuildError>(server)
        };
        loops.start(build).unwrap()
    };
    let old = begin("old");
    let (tell, told) = mpsc::channel();
    /// Stops the clients, also if the test fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&stopped);
        for _ in 0..2 {
            let tell = tell.clone();
            scope.spawn(|| {
                let tell = tell;
                while !stopped.load(Ordering::Acquire) {
                    // Each attempt succeeds: a refusal fails the test.
                    let mut ws = kit::upgrade("ws://localhost/ws", socket(address)).unwrap();
                    tell.send(kit::text(&mut ws)).unwrap();
                    ws.close(None).unwrap();
                    while ws.read().is_ok() {}
                }
            });
        }
        let next = || told.recv_timeout(PATIENCE).unwrap();
        (0..100).for_each(|_| assert_eq!(next(), "old"));
        let new = begin("new");
        old.handle().stop_listening().unwrap();
        until(|| next() == "new");
        let handle = old.handle();
        until(|| loads(&handle) == [0, 0]);
        assert_eq!(end(old).remained, 0);
        // A client tells what it was told before it closes.
        while told.try_recv().is_ok() {}
        (0..100).for_each(|_| assert_eq!(next(), "new"));
        drop(stop);
        // The clients' last messages.
        drop(tell);
        while told.recv_timeout(PATIENCE).is_ok() {}
        let handle = new.handle();
        until(|| loads(&handle) == [0, 0]);
        assert_eq!(end(new).remained, 0);
    });
}

#[test]
fn a_panic_of_a_callback_ends_its_connection_and_no_loop() {
    quiet_panics();
    let build = |index: usize, builder: Builder| {
        let mut server = room(index, builder)?;
        server.on(Event::Message, |_, ep| assert!(&ep.data[..] != b"panic", "{}", ON_PURPOSE));
        server.on_bus(|_, _, _| {});
        Ok::<_, BuildError>(server)
    };
    let running = Loops::new(2).listen(ANY_PORT).unwrap().start(build).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients = members(address, 4);
    for index in [0, 1] {
        let mut client = clients.remove(0);
        assert_eq!(client.on, index);
        client.send("panic");
        assert_eq!(client.closed().0, 1011);
        let panic_in_a_command = handle.one(index).unwrap();
        panic_in_a_command.send(|_, _| panic!("{}", ON_PURPOSE)).unwrap();
    }
    clients.iter_mut().for_each(|client| client.expect_echo("still open"));
    for index in [0, 1] {
        assert_eq!(on(&handle, index, |_, sockets| sockets.stats().panics), 2);
    }
    close_all(clients);
    end(running);
}
