//! Loops that fail, and loops that do not end. Alone in its file, because there is one logger for
//! the whole process, and here it panics.

mod common;
#[path = "common/loops.rs"]
mod kit;
#[cfg(unix)]
#[path = "common/redis_process.rs"]
mod redis_process;

use std::cell::Cell;
use std::sync::{Condvar, Mutex, Once, mpsc};
use std::time::Duration;

use common::{ON_PURPOSE, quiet_panics};
#[cfg(unix)]
use ikisocket::{BuildError, Bus, BusEvent, BusRefusal, BusSent};
use ikisocket::{Loops, LoopsError, LoopsHandle, SendError, Shutdown};
use kit::{Member, PATIENCE, end, loads, on, room, until};
use log::{Log, Metadata, Record};

/// Keeps what is logged, and panics on threads that want it.
struct Logger {
    kept: Mutex<Vec<String>>,
    news: Condvar,
}

static LOGGER: Logger = Logger { kept: Mutex::new(Vec::new()), news: Condvar::new() };

thread_local! {
    /// How often the logger panics on this thread.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ikisocket")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        self.kept.lock().unwrap().push(record.args().to_string());
        self.news.notify_all();
        let panics = PANICS.get();
        PANICS.set(panics.saturating_sub(1));
        assert!(panics == 0, "{}", ON_PURPOSE);
    }

    fn flush(&self) {}
}

fn install_logger() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOGGER).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// Waits until a line is logged that begins like this.
#[track_caller]
fn await_line(begin: &str) {
    let is_missing = |kept: &mut Vec<String>| !kept.iter().any(|line| line.starts_with(begin));
    let kept = LOGGER.kept.lock().unwrap();
    let (kept, waited) = LOGGER.news.wait_timeout_while(kept, PATIENCE, is_missing).unwrap();
    assert!(!waited.timed_out(), "`{begin}` is missing in {kept:#?}");
}

fn count_lines(begin: &str) -> usize {
    LOGGER.kept.lock().unwrap().iter().filter(|line| line.starts_with(begin)).count()
}

/// A panic outside of callbacks: the logger panics when it logs one that was caught.
fn let_fail<S: 'static>(handle: &LoopsHandle<S>, index: usize, panics: usize) {
    let fail = move |_: &mut S, _: &mut ikisocket::Sockets<'_, S>| {
        PANICS.set(panics);
        panic!("{}", ON_PURPOSE);
    };
    handle.one(index).unwrap().send(fail).unwrap();
}

#[test]
fn if_one_loop_fails_all_shut_down_and_join_says_which_and_why() {
    quiet_panics();
    install_logger();
    // The first one accepts. A logger may also panic whenever it is called.
    for (failing, panics) in [(0, 1), (2, 1), (1, usize::MAX)] {
        let running = Loops::new(3).listen("127.0.0.1:0").unwrap().start(room).unwrap();
        let (handle, address) = (running.handle(), running.local_addr().unwrap());
        let mut clients: Vec<_> = (0..6).map(|_| Member::connect(address)).collect();
        let_fail(&handle, failing, panics);
        for client in &mut clients {
            if client.on == failing {
                // Its connection ends with its loop.
                let end = client.ws.read();
                assert!(!matches!(end, Ok(_) | Err(tungstenite::Error::ConnectionClosed)));
            } else {
                assert_eq!(client.closed(), (1001, "Server shutdown".to_owned()));
            }
        }
        let reason = "it panicked: on purpose".to_owned();
        let failed = LoopsError::Failed { index: failing, reason, remaining: Vec::new() };
        assert_eq!(running.join(), Err(failed));
        await_line(&format!("loop {failing} has failed: it panicked: on purpose"));
        assert_eq!(handle.broadcast(""), Err(SendError::Gone));
    }
}

#[test]
fn a_handle_takes_no_loop_for_all_when_one_has_failed() {
    quiet_panics();
    install_logger();
    let running = Loops::new(2).listen("127.0.0.1:0").unwrap().start(room).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients: Vec<_> = (0..2).map(|_| Member::connect(address)).collect();
    let uuids: Vec<_> = clients.iter().map(|client| client.uuid).collect();
    let_fail(&handle, 1, 1);
    until(|| handle.one(1).unwrap().send(|_, _| {}) == Err(SendError::Gone));
    // Loop 0 waits for its client.
    assert_eq!(handle.emit_to(uuids[1], "to a connection that has ended"), Ok(()));
    assert_eq!(handle.emit_to_list(uuids.clone(), "to both"), Ok(()));
    assert_eq!(clients[0].closed().0, 1001);
    assert!(running.join().is_err());
    assert_eq!(handle.emit_to(uuids[0], "to nothing"), Err(SendError::Gone));
    assert_eq!(handle.emit_to_list(uuids, "to nothing"), Err(SendError::Gone));
}

#[cfg(unix)]
#[test]
fn after_a_failure_of_the_first_loop_no_socket_of_any_loop_listens() {
    quiet_panics();
    install_logger();
    let (running, addresses) = kit::start_at_two_ports(Loops::new(2));
    let handle = running.handle();
    let clients: Vec<_> =
        addresses.iter().flat_map(|&address| [(); 2].map(|()| Member::connect(address))).collect();
    let duplicates = handle.listening_fds().unwrap();
    assert_eq!(duplicates.len(), 2);
    let_fail(&handle, 0, 1);
    until(|| handle.listening_fds().unwrap().is_empty());
    // The duplicates still listen.
    for address in addresses {
        kit::socket(address);
    }
    drop(duplicates);
    kit::until_closed(&handle, &addresses);
    // Not because it has ended: loop 1 still waits for its clients.
    assert!(on(&handle, 1, |_, sockets| sockets.is_refusing()));
    let (left, lost): (Vec<_>, Vec<_>) = clients.into_iter().partition(|each| each.on == 1);
    assert_eq!((left.len(), lost.len()), (2, 2));
    left.into_iter().for_each(|mut client| assert_eq!(client.closed().0, 1001));
    assert!(matches!(running.join(), Err(LoopsError::Failed { index: 0, .. })));
    assert!(handle.listening_fds().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn after_a_failure_of_the_first_loop_the_others_know_that_the_bus_is_down() {
    quiet_panics();
    install_logger();
    let Some(redis) = redis_process::Redis::start(&[]) else { return };
    let address = format!("redis+unix://{}", redis.socket().display());
    let build = |index, builder| {
        let mut server = room(index, builder)?;
        server.on_bus(|notes, _, event| {
            notes.0.push(match event {
                BusEvent::Up { .. } => "up".to_owned(),
                BusEvent::Down { why, unconfirmed, .. } => format!("down, {unconfirmed}: {why}"),
                event => format!("{event:?}"),
            });
        });
        Ok::<_, BuildError>(server)
    };
    let loops = Loops::new(3).bus(Bus::redis(&address).unwrap());
    let running = loops.listen("127.0.0.1:0").unwrap().start(build).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let clients: Vec<_> = (0..3).map(|_| Member::connect(address)).collect();
    let lines = |index| on(&handle, index, |notes, _| notes.0.clone());
    until(|| (0..3).all(|index| lines(index) == ["up"]));
    let_fail(&handle, 0, 1);
    let down = "down, 0: the loop that holds the connection to Redis has failed";
    for index in [1, 2] {
        // They wait for their clients.
        until(|| lines(index) == ["up", down]);
        let bus = on(&handle, index, |_, sockets| sockets.everywhere().publish("room", "x").bus);
        assert_eq!(bus, BusSent::Refused(BusRefusal::Down));
    }
    for mut client in clients.into_iter().filter(|client| client.on != 0) {
        assert_eq!(client.closed().0, 1001);
    }
    assert!(matches!(running.join(), Err(LoopsError::Failed { index: 0, .. })));
}

/// Lets a loop fail while the connections are closed one after the other. Returns whether some were
/// open after that, which depends on the machine; all else is asserted.
fn fails_in_the_middle(spread: Duration) -> bool {
    // No other test here has as many loops.
    const FAILING: usize = 3;
    const FAILED: &str = "loop 3 has failed: ";
    let running = Loops::new(4).listen("127.0.0.1:0").unwrap().start(room).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let clients: Vec<_> = (0..12).map(|_| Member::connect(address)).collect();
    let how = Shutdown::default().code(4321).reason("good night");
    handle.shutdown(how.spread(spread).deadline(PATIENCE)).unwrap();
    let is_stopping = |index| on(&handle, index, |_, sockets| sockets.is_refusing());
    until(|| (0..4).all(is_stopping));
    let failures = count_lines(FAILED);
    let_fail(&handle, FAILING, 1);
    // Then the others have got their commands.
    until(|| count_lines(FAILED) > failures);
    let open = |index| on(&handle, index, |_, sockets| sockets.len());
    let some_are_open = (0..FAILING).all(|index| open(index) > 0);
    for mut client in clients {
        if client.on != FAILING {
            assert_eq!(client.closed(), (4321, "good night".to_owned()));
        }
    }
    let reason = "it panicked: on purpose".to_owned();
    let failed = LoopsError::Failed { index: FAILING, reason, remaining: Vec::new() };
    assert_eq!(running.join(), Err(failed));
    some_are_open
}

#[test]
fn if_a_loop_fails_in_a_shutdown_the_others_keep_its_code_and_reason() {
    quiet_panics();
    install_logger();
    let mut spreads = [1, 4, 16].map(Duration::from_secs).into_iter();
    assert!(spreads.any(fails_in_the_middle), "all were closed before the failure");
}

#[test]
fn a_loop_has_ended_even_if_its_state_and_the_logger_panic_at_the_end() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            PANICS.set(usize::MAX);
            panic!("{}", ON_PURPOSE);
        }
    }
    quiet_panics();
    install_logger();
    let running = Loops::new(2).start(|_, builder| builder.build(Bomb)).unwrap();
    assert_eq!(end(running).remained, 0);
}

/// Keeps a loop busy until the result is dropped.
fn keep_busy<S: 'static>(handle: &LoopsHandle<S>, index: usize) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (busy, is_busy) = mpsc::channel();
    let work = move |_: &mut S, _: &mut ikisocket::Sockets<'_, S>| {
        let _ = busy.send(());
        let _ = released.recv();
    };
    handle.one(index).unwrap().send(work).unwrap();
    is_busy.recv_timeout(PATIENCE).unwrap();
    release
}

#[test]
fn a_loop_that_does_not_end_is_named_and_the_others_end_without_it() {
    install_logger();
    let running = Loops::new(3).listen("127.0.0.1:0").unwrap().start(room).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let release = keep_busy(&handle, 1);
    await_line("a turn of loop 1 has lasted ");
    let report = &handle.reports()[1];
    assert!(report.busy_for.unwrap() >= Duration::from_secs(5), "{report:?}");
    // The others get its connections.
    let clients: Vec<_> = (0..4).map(|_| Member::connect(address)).collect();
    assert_eq!(clients.iter().map(|each| each.on).collect::<Vec<_>>(), [0, 2, 0, 2]);
    clients.into_iter().for_each(Member::close);
    until(|| [0, 2].map(|index| on(&handle, index, |_, sockets| sockets.len())) == [0, 0]);

    handle.shutdown(Shutdown::default().deadline(Duration::ZERO)).unwrap();
    assert_eq!(running.join(), Err(LoopsError::Stuck { loops: vec![1] }));
    let ended: Vec<_> = handle.reports().into_iter().map(|each| each.ended).collect();
    assert_eq!(ended, [true, false, true]);
    // Its thread ends when it can.
    drop(release);
    until(|| handle.send_each(|_, _| {}) == Err(SendError::Gone));
}

#[test]
fn while_the_first_loop_is_stuck_handles_use_the_next() {
    install_logger();
    let running = Loops::new(2).listen("127.0.0.1:0").unwrap().start(room).unwrap();
    let (handle, address) = (running.handle(), running.local_addr().unwrap());
    let mut clients: Vec<_> = (0..2).map(|_| Member::connect(address)).collect();
    let release = keep_busy(&handle, 0);
    await_line("a turn of loop 0 has lasted ");
    handle.publish("room", "from the other loop").unwrap();
    assert_eq!(clients[1].text(), "from the other loop");
    clients[1].expect_echo("it is served");
    drop(release);
    assert_eq!(clients[0].text(), "from the other loop", "in its turn");
    assert_eq!(on(&handle, 0, |_, sockets| sockets.stats().loops.long_turns), 1);
    clients.into_iter().for_each(Member::close);
    until(|| loads(&handle) == [0, 0]);
    assert_eq!(end(running).remained, 0);
}
