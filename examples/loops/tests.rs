//! The chat without sockets and threads: the order in which loops take their turns is an argument.

use std::collections::BTreeMap;

use ikisocket::testing::{Client, LoopsHarness, Order, Received};

use super::*;

type Outcome = Result<(), Box<dyn Error>>;

fn harness(loops: Loops, order: Order) -> Result<LoopsHarness<Chat>, Box<dyn Error>> {
    let rooms = Arc::new(Mutex::new(Rooms::default()));
    Ok(LoopsHarness::new(&loops, order, |_, builder| {
        server(builder, Chat { rooms: rooms.clone(), online: 0 })
    })?)
}

/// A client that keeps the list of its room as the page does.
struct Guest {
    on: usize,
    client: Client,
    name: String,
    here: BTreeMap<String, String>,
    change: u64,
}

impl Guest {
    /// It connects, and only its own loop takes turns meanwhile.
    fn enter(test: &mut LoopsHarness<Chat>, on: usize, name: &str) -> Result<Self, Box<dyn Error>> {
        let client = test.on(on).connect(&*format!("/ws?name={name}"))?;
        Ok(Self { on, client, name: name.to_owned(), here: BTreeMap::new(), change: 0 })
    }

    /// Takes what has come when all loops have settled. Returns all but the changes of the list.
    fn receive(&mut self, test: &mut LoopsHarness<Chat>) -> Vec<Json> {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let pair = |person: &Json| (text(&person["id"]), text(&person["name"]));
        let mut others = Vec::new();
        test.settle();
        for received in test.on(self.on).received(self.client) {
            let Received::Text(message) = received else { continue };
            let message: Json = serde_json::from_str(&message).expect("the server sends JSON");
            let change = message["change"].as_u64().unwrap_or_default();
            if let Some(here) = message["here"].as_array() {
                (self.here, self.change) = (here.iter().map(pair).collect(), change);
            } else if change == 0 {
                others.push(message);
            } else if change > self.change {
                match message.get("joined") {
                    Some(person) => self.here.extend([pair(person)]),
                    None => _ = self.here.remove(&text(&message["left"])),
                }
            }
        }
        others
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.here.values().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// Numbers that seem random.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn all_see_the_same_room_in_whatever_order_the_loops_take_their_turns() -> Outcome {
    for seed in 0..200 {
        let mut draw = Draw(seed);
        // Each turn handles one message of each other loop: so they wait long.
        let slow = Server::builder().work_per_turn(1);
        let mut test = harness(Loops::with_settings(3, slow), Order::Shuffled(seed))?;
        let mut guests: Vec<Guest> = Vec::new();
        for number in 0..60 {
            let on = draw.below(3);
            match draw.below(6) {
                0 => {
                    guests.push(Guest::enter(&mut test, on, &format!("guest-{number:02}"))?);
                }
                1 if !guests.is_empty() => {
                    let gone = guests.swap_remove(draw.below(guests.len()));
                    test.on(gone.on).reset(gone.client);
                }
                2 if !guests.is_empty() => {
                    let talks = &guests[draw.below(guests.len())];
                    test.on(talks.on).send(talks.client, r#"{"text":"hello"}"#);
                }
                _ => _ = test.on(on).turn(),
            }
        }
        let mut names: Vec<_> = guests.iter().map(|guest| guest.name.clone()).collect();
        names.sort();
        for guest in &mut guests {
            guest.receive(&mut test);
            assert_eq!(guest.names(), names, "{} with seed {seed}", guest.name);
        }
    }
    Ok(())
}

#[test]
fn a_loop_that_was_too_far_behind_gets_the_list_again() -> Outcome {
    let mut test = harness(Loops::new(2).queue_bytes(1024), Order::Ascending)?;
    let mut ann = Guest::enter(&mut test, 0, "ann")?;
    let mut bob = Guest::enter(&mut test, 1, "bob")?;
    assert!(ann.receive(&mut test).len() == 1 && bob.receive(&mut test).len() == 1, "welcomes");

    // Loop 1 takes no turn, and its queue gets full.
    for _ in 0..3 {
        test.on(0).send(ann.client, json!({ "text": "x".repeat(1000) }).to_string());
        test.on(0).settle();
    }
    let mut carla = Guest::enter(&mut test, 0, "carla")?;
    let undelivered = ann.receive(&mut test).into_iter().filter(|it| it.get("from").is_none());
    let refused = undelivered.count();
    let heard = bob.receive(&mut test);
    assert_eq!(heard.iter().filter(|it| it.get("from").is_some()).count(), 3 - refused);
    assert_eq!(heard.last(), Some(&json!({ "missing": refused + 1 })), "carla came, too");
    carla.receive(&mut test);
    for guest in [ann, bob, carla] {
        assert_eq!(guest.names(), ["ann", "bob", "carla"]);
    }
    Ok(())
}
