//! Handles: commands from other threads arrive once each, in order for each thread, and none is
//! lost silently.
//!
//! Tests of threads and of the poll that they wake turn the server without a harness, also without
//! sockets. Tests of what a command does to clients use clients in memory.

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{ON_PURPOSE, PATIENCE, connect, memory_server, quiet_panics, turn_until, with_socket};
use ikisocket::{CloseCode, CloseError, Event, Handle, SendError, Server, Shutdown, Turn};

/// Sends again while the queue is full.
fn insist<S: 'static>(handle: &Handle<S>, command: impl Fn(&mut S) + Send + Copy + 'static) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = handle.send(move |state, _| command(state)) {
        assert!(matches!(error, SendError::Full { .. }) && Instant::now() < deadline, "{error}");
        thread::yield_now();
    }
}

#[test]
fn commands_of_four_threads_arrive_once_each_and_in_order_for_each_thread() {
    const THREADS: usize = 4;
    const EACH: u64 = 25_000;
    /// What is expected next of each thread, and how often something else came.
    type Expected = ([u64; THREADS], u64);
    // A short queue, so that it is full now and then.
    let mut server = Server::builder().handle_queue(1000).build(([0; THREADS], 0)).unwrap();
    let workers = [0, 1, 2, 3].map(|thread| {
        let handle = server.handle();
        thread::spawn(move || {
            for number in 0..EACH {
                insist(&handle, move |(next, wrong): &mut Expected| {
                    *wrong += u64::from(next[thread] != number);
                    next[thread] += 1;
                });
            }
        })
    });
    turn_until(&mut server, |server| server.state().0 == [EACH; THREADS]);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(server.poll(Some(Duration::ZERO)).unwrap().commands, 0);
    assert_eq!(server.state().1, 0);
}

#[test]
fn a_command_wakes_a_loop_that_waits_without_end() {
    let mut server = memory_server();
    let handle = server.handle();
    let worker = thread::spawn(move || handle.send(|diary, _| diary.note("here")));
    while server.state().notes.is_empty() {
        server.poll(None).unwrap();
    }
    assert_eq!(worker.join().unwrap(), Ok(()));
}

#[test]
fn many_commands_are_one_wake_up_and_an_idle_handle_is_none() {
    let mut server = memory_server();
    let handle = server.handle();
    assert_eq!(
        (server.poll(Some(Duration::ZERO)), server.next_timeout()),
        (Ok(Turn::default()), None)
    );
    for _ in 0..100 {
        handle.send(|_, _| {}).unwrap();
    }
    assert_eq!(server.poll(Some(PATIENCE)).unwrap().commands, 100);
    // If each command woke the loop, some wake-ups would be pending now.
    assert_eq!(
        (server.poll(Some(Duration::ZERO)), server.next_timeout()),
        (Ok(Turn::default()), None)
    );
}

#[test]
fn a_turn_runs_its_share_of_the_commands_and_the_next_the_rest() {
    let mut server = memory_server();
    let handle = server.handle();
    for _ in 0..2500 {
        handle.send(|diary, _| diary.note("one")).unwrap();
    }
    let first = server.poll(Some(PATIENCE)).unwrap().commands;
    assert!((1..2500).contains(&first), "{first}");
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
    let mut sum = first;
    while sum < 2500 {
        // Nothing wakes the loop for the other commands: this must not wait.
        let commands = server.poll(Some(PATIENCE)).unwrap().commands;
        assert!(commands > 0, "{sum}");
        sum += commands;
    }
    assert_eq!((sum, server.state().notes.len()), (2500, 2500));
}

#[test]
fn a_full_queue_is_an_error_with_the_limit_and_what_waits_still_runs() {
    let mut server = Server::builder().handle_queue(3).build(0).unwrap();
    let handle = server.handle();
    let count = |count: &mut i32, _: &mut ikisocket::Sockets<'_, i32>| *count += 1;
    let results = [(); 5].map(|()| handle.send(count));
    let full = SendError::Full { capacity: 3 };
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(full), Err(full)]);
    assert!(full.to_string().starts_with("3 commands wait"));
    server.poll(Some(PATIENCE)).unwrap();
    assert_eq!((*server.state(), handle.send(count)), (3, Ok(())));
}

#[test]
fn a_handle_that_outlives_its_server_gets_errors_and_drops_its_commands() {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Token(Arc<AtomicUsize>, Handle<()>);
    impl Drop for Token {
        fn drop(&mut self) {
            // A destructor may use its handle too.
            assert_eq!(self.1.send(|(), _| {}), Err(SendError::Gone));
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let server = Server::builder().build(()).unwrap();
    let handle = server.handle();
    let token = Token(dropped.clone(), handle.clone());
    handle.send(move |(), _| drop(token)).unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    server.into_state();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!(handle.clone().broadcast("anybody?"), Err(SendError::Gone));
}

#[test]
fn the_verbs_of_a_handle_do_what_those_of_the_sockets_do() {
    let mut server = memory_server();
    server.on("own", |diary, ep| diary.note(format!("own {}", ep.data.as_str().unwrap())));
    let mut test = common::harness(server);
    let [ann, bob] = connect(&mut test, ["ann", "bob"]);
    let [ann_id, bob_id] = [ann, bob].map(|client| test.uuid(client).unwrap());
    let handle = test.server().handle();
    handle.emit_to(ann_id, "to ann").unwrap();
    handle.emit_to_list([bob_id, ann_id], "to both".to_owned()).unwrap();
    handle.broadcast("to all").unwrap();
    with_socket(test.server(), "bob", |kws| kws.join("bobs").unwrap());
    handle.publish("bobs", "to bobs").unwrap();
    handle.fire("own", "data").unwrap();
    test.expect(ann, ["to ann", "to both", "to all"]);
    test.expect(bob, ["to both", "to all", "to bobs"]);
    assert_eq!(test.state().notes, ["own data", "own data"]);

    for refuse in [true, false] {
        handle.refuse_upgrades(refuse).unwrap();
        test.turn();
        assert_eq!(test.server().sockets().is_refusing(), refuse);
    }

    let illegal = Shutdown::default().code(CloseCode::from(1005));
    let error = CloseError::IllegalCode(illegal.code);
    assert_eq!(handle.shutdown(illegal), Err(SendError::Close(error)));
    handle.shutdown(Shutdown::default()).unwrap();
    for client in [ann, bob] {
        test.expect_goodbye(client, 1001, "Server shutdown");
    }
    assert!(test.server().is_finished());
}

#[test]
fn a_command_that_a_listener_sends_runs_in_the_next_turn() {
    let mut server = memory_server();
    server.on(Event::Message, |diary, ep| {
        let sent = ep.kws.sockets().handle().send(|diary, sockets| {
            diary.note("command");
            sockets.broadcast("done");
        });
        diary.note(format!("listener {sent:?}"));
    });
    let mut test = common::harness_by_hand(server);
    let [ann] = connect(&mut test, ["ann"]);
    test.send(ann, "do it");
    assert_eq!(test.turn().commands, 0);
    assert_eq!(test.turn().commands, 1);
    test.expect(ann, ["done"]);
    assert_eq!(test.state().notes, ["listener Ok(())", "command"]);
}

#[test]
fn a_panic_in_a_command_reaches_the_panic_handler_and_the_others_run() {
    quiet_panics();
    let mut server = memory_server();
    server.on_panic(|diary, panic| diary.note(format!("{} {:?}", panic.event, panic.uuid)));
    let mut test = common::harness(server);
    let [ann] = connect(&mut test, ["ann"]);
    let handle = test.server().handle();
    handle.send(|_, _| panic!("{ON_PURPOSE}")).unwrap();
    handle.send(|diary, _| diary.note("unharmed")).unwrap();
    assert_eq!(test.state().notes, ["command None", "unharmed"]);
    assert_eq!(test.panics().len(), 1);
    with_socket(test.server(), "ann", |kws| kws.close());
    test.expect_goodbye(ann, 1000, "Connection closed");
}

/// Only closures cross the threads: the state stays.
#[test]
fn a_handle_can_be_sent_and_shared_even_if_the_state_cannot() {
    fn is_send_and_sync<T: Send + Sync + Clone>(_: &T) {}
    let mut server = Server::builder().build(Rc::new(1)).unwrap();
    let handle = server.handle();
    is_send_and_sync(&handle);
    thread::spawn(move || handle.send(|state, _| *state = Rc::new(2))).join().unwrap().unwrap();
    server.poll(Some(PATIENCE)).unwrap();
    assert_eq!(**server.state(), 2);
}
