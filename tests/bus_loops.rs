//! Several loops on threads with a bus over a real redis-server: any loop publishes, and the first
//! one holds the connection. Without a redis-server these tests say so and pass.
#![cfg(unix)]

mod common;
#[path = "common/loops.rs"]
mod kit;
#[path = "common/redis_process.rs"]
mod redis_process;

use std::sync::mpsc;

use ikisocket::{
    BuildError, Bus, BusEvent, BusSent, BusStats, Event, GapFrom, Loops, LoopsHandle, Running,
    Server, Uuid,
};
use kit::{Member, Notes, end, on, room, until};
use redis_process::Redis;

/// Two loops on the bus of this Redis, whose servers note what happens on the bus.
fn start(redis: &Redis) -> Running<Notes> {
    start_with(redis, |_| {})
}

fn start_with(redis: &Redis, change: fn(&mut Server<Notes>)) -> Running<Notes> {
    let address = format!("redis+unix://{}", redis.socket().display());
    let bus = Bus::redis(&address).unwrap().prefix("test");
    let build = move |index, builder| {
        let mut server = room(index, builder)?;
        server.on_bus(|notes, _, event| {
            notes.0.push(match event {
                BusEvent::Up { .. } => "up".to_owned(),
                BusEvent::Down { .. } => "down".to_owned(),
                BusEvent::Gap { from: GapFrom::Node(_), topic, lost: Some(lost), .. } => {
                    format!("gap {} {lost}", topic.as_deref().unwrap_or("-"))
                }
                event => format!("{event:?}"),
            });
        });
        change(&mut server);
        Ok::<_, BuildError>(server)
    };
    Loops::new(2).bus(bus).listen("127.0.0.1:0").unwrap().start(build).unwrap()
}

fn figures(handle: &LoopsHandle<Notes>, index: usize) -> BusStats {
    on(handle, index, |_, sockets| sockets.stats().bus.unwrap())
}

/// Waits until the bus of both is up, each knows the other, and Redis has confirmed these
/// subscriptions.
fn meet(nodes: [&LoopsHandle<Notes>; 2], subscriptions: u64) {
    until(|| {
        nodes.iter().all(|handle| {
            let bus = figures(handle, 0);
            bus.is_up && bus.nodes == 1 && bus.subscriptions == subscriptions
        })
    });
}

fn member_on(running: &Running<Notes>, index: usize) -> Member {
    let address = running.local_addr().unwrap();
    let mut members: Vec<Member> = (0..2).map(|_| Member::connect(address)).collect();
    let at = members.iter().position(|member| member.on == index).unwrap();
    members.swap_remove(at)
}

#[test]
fn any_loop_reaches_the_members_of_all_loops_of_all_servers() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [a, b] = [start(&redis), start(&redis)];
    let [of_a, of_b] = [a.handle(), b.handle()];
    let mut members: Vec<Member> = [&a, &b]
        .iter()
        .flat_map(|node| {
            let address = node.local_addr().unwrap();
            (0..4).map(move |_| Member::connect(address))
        })
        .collect();
    meet([&of_a, &of_b], 3);
    for (handle, index) in [(&of_a, 0), (&of_a, 1), (&of_b, 0), (&of_b, 1)] {
        let text = format!("from loop {index}");
        let sent = text.clone();
        let bus =
            on(handle, index, move |_, sockets| sockets.everywhere().publish("room", sent).bus);
        assert_eq!(bus, BusSent::Queued);
        for member in &mut members {
            assert_eq!(member.text(), text);
        }
    }
    // By uuid, from each loop of one server to a connection on each loop of the other.
    for from in 0..2 {
        for to in 0..2 {
            let member = members[4..].iter_mut().find(|member| member.on == to).unwrap();
            let uuid = member.uuid;
            on(&of_a, from, move |_, sockets| {
                sockets.everywhere().emit_to(uuid, "you").unwrap();
            });
            assert_eq!(member.text(), "you");
        }
    }
    // A question of the loop that does not hold the connection.
    let (tell, told) = mpsc::channel();
    on(&of_b, 1, move |_, sockets| {
        sockets.everywhere().count(move |_, _, open| tell.send(open).unwrap());
    });
    let open = told.recv_timeout(kit::PATIENCE).unwrap();
    assert_eq!((open.value, open.is_complete()), (8, true), "{open:?}");
    // What one loop has published comes once to each: nothing is left.
    for member in &mut members {
        member.expect_echo("nothing before this");
    }
    for handle in [&of_a, &of_b] {
        let stats: Vec<_> = (0..2).map(|index| figures(handle, index)).collect();
        assert!(stats.iter().all(|bus| bus.is_up && bus.refused == 0));
        assert_eq!((stats[0].lost, stats[0].duplicates, stats[0].unreadable), (0, 0, 0));
    }
    members.into_iter().for_each(Member::close);
    end(a);
    end(b);
}

#[test]
fn a_topic_is_subscribed_while_any_loop_has_members() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [a, b] = [start(&redis), start(&redis)];
    let [of_a, of_b] = [a.handle(), b.handle()];
    meet([&of_a, &of_b], 2);
    // The member is on the loop that does not hold the connection.
    let member = member_on(&a, 1);
    until(|| figures(&of_a, 0).subscriptions == 3);
    member.close();
    until(|| figures(&of_a, 0).subscriptions == 2);
    assert_eq!(figures(&of_b, 0).subscriptions, 2);
    // So is a uuid of the program.
    let member = member_on(&b, 1);
    until(|| figures(&of_b, 0).subscriptions == 3);
    let (was, own) = (member.uuid, Uuid::from_u128(7));
    on(&of_b, 1, move |_, sockets| sockets.get(was).unwrap().set_uuid(own).unwrap());
    until(|| figures(&of_b, 0).subscriptions == 4);
    let mut member = member;
    on(&of_a, 1, move |_, sockets| _ = sockets.everywhere().emit_to(own, "found").unwrap());
    assert_eq!(member.text(), "found");
    member.close();
    end(a);
    end(b);
}

#[test]
fn all_loops_are_told_that_the_bus_is_down_and_up_again() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let [a, b] = [start(&redis), start(&redis)];
    let [of_a, of_b] = [a.handle(), b.handle()];
    meet([&of_a, &of_b], 2);
    redis.kill();
    let lines = |index| on(&of_a, index, |notes, _| notes.0.clone());
    until(|| (0..2).all(|index| lines(index) == ["up", "down"]));
    let bus = on(&of_a, 1, |_, sockets| sockets.everywhere().publish("room", "x").bus);
    assert!(matches!(bus, BusSent::Refused(_)), "{bus:?}");
    redis.start_again(&[]);
    until(|| (0..2).all(|index| lines(index) == ["up", "down", "up"]));
    meet([&of_a, &of_b], 2);
    end(a);
    end(b);
}

#[test]
fn the_last_words_of_each_loop_reach_other_servers() {
    let Some(redis) = Redis::start(&[]) else { return };
    let b = start(&redis);
    let of_b = b.handle();
    let mut listener = Member::connect(b.local_addr().unwrap());
    let uuid = listener.uuid;
    on(&of_b, listener.on, move |_, sockets| {
        sockets.get(uuid).unwrap().join("farewell").unwrap();
    });
    for round in 0..20 {
        let a = start_with(&redis, |server| {
            server.on(Event::Disconnect, |_, ep| {
                let left = format!("left loop {}", ep.kws.sockets().loop_index());
                ep.kws.sockets().everywhere().publish("farewell", left);
            });
        });
        let of_a = a.handle();
        until(|| figures(&of_a, 0).is_up && figures(&of_b, 0).subscriptions == 4);
        let members: Vec<Member> =
            (0..2).map(|_| Member::connect(a.local_addr().unwrap())).collect();
        // Each answers the close of the shutdown.
        let closing: Vec<_> = members
            .into_iter()
            .map(|mut member| std::thread::spawn(move || _ = member.closed()))
            .collect();
        end(a);
        closing.into_iter().for_each(|thread| thread.join().unwrap());
        let mut words = [listener.text(), listener.text()];
        words.sort_unstable();
        assert_eq!(words, ["left loop 0", "left loop 1"], "in round {round}");
    }
    listener.close();
    end(b);
}

#[test]
fn all_that_was_queued_before_a_shutdown_arrives_also_with_small_turns() {
    // More than the sockets take.
    const EACH: usize = 40;
    const LEN: usize = 100_000;
    let Some(redis) = Redis::start(&[]) else { return };
    let b = start(&redis);
    let of_b = b.handle();
    let mut listener = Member::connect(b.local_addr().unwrap());
    let address = format!("redis+unix://{}", redis.socket().display());
    let bus = Bus::redis(&address).unwrap().prefix("test");
    let build = |index, builder: ikisocket::Builder| {
        let mut server = room(index, builder.work_per_turn(64))?;
        server.on(Event::Disconnect, |_, ep| {
            for _ in 0..EACH {
                let sent = ep.kws.sockets().everywhere().publish("room", "x".repeat(LEN));
                assert_eq!(sent.bus, BusSent::Queued);
            }
        });
        Ok::<_, BuildError>(server)
    };
    let a = Loops::new(2).bus(bus).listen("127.0.0.1:0").unwrap().start(build).unwrap();
    let of_a = a.handle();
    until(|| figures(&of_a, 0).is_up && figures(&of_b, 0).subscriptions == 3);
    let members: Vec<Member> = (0..2).map(|_| Member::connect(a.local_addr().unwrap())).collect();
    let closing: Vec<_> = members
        .into_iter()
        .map(|mut member| std::thread::spawn(move || _ = member.closed()))
        .collect();
    let listening = std::thread::spawn(move || {
        for _ in 0..2 * EACH {
            assert_eq!(listener.text().len(), LEN);
        }
        listener.close();
    });
    end(a);
    closing.into_iter().for_each(|thread| thread.join().unwrap());
    listening.join().unwrap();
    assert_eq!(figures(&of_b, 0).lost, 0);
    end(b);
}
