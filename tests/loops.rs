//! Loops: what reaches the connections of other loops, in which order, and what happens when
//! something goes wrong. In memory; threads and sockets are in `loops_threads.rs`.

use std::error::Error;

use ikisocket::testing::{LoopsHarness, Order};
use ikisocket::{BuildError, Builder, Event, Loops, Server};

type Outcome = Result<(), Box<dyn Error>>;

/// A server whose clients are all in `room`, and whose messages go to all.
fn room(_: usize, builder: Builder) -> Result<Server<Vec<String>>, BuildError> {
    let mut server = builder.build(Vec::new())?;
    server.on(Event::Connect, |_, ep| assert_eq!(ep.kws.join("room"), Ok(true)));
    server.on(Event::Message, |_, ep| {
        ep.kws.sockets().everywhere().publish("room", ep.data);
    });
    server.route("/ws", |_, _| {}).expect("the pattern is valid");
    Ok(server)
}

#[test]
fn a_message_reaches_the_members_of_all_loops() -> Outcome {
    for order in [Order::Ascending, Order::Descending, Order::Shuffled(7)] {
        let mut test = LoopsHarness::new(&Loops::new(3), order, room)?;
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(test.connect("/ws")?);
        }
        assert_eq!(clients.iter().map(|client| client.on).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        test.send(clients[4], "hello");
        for &client in &clients {
            test.expect(client, ["hello"]);
        }
    }
    Ok(())
}
