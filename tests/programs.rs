//! The cores of five programs, as their authors would write them, and what their users see.

use std::error::Error;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Quotes by symbol. A client that reads slowly gets fewer of them, but current ones.
mod market {
    use std::collections::HashMap;

    use ikisocket::testing::{Faults, Harness, Upgrade};
    use ikisocket::{Event, Handle, Latest, SendError, Server, SlowReader, Socket, Sockets};

    use super::Outcome;

    #[derive(Default)]
    struct Market {
        quotes: HashMap<String, Quote>,
    }

    struct Quote {
        /// Of the quotes with the same key only the latest waits for a slow reader.
        key: u64,
        text: String,
    }

    impl Market {
        fn take(&mut self, symbol: &str, price: f64, sockets: &mut Sockets<'_, Self>) {
            let key = self.quotes.len() as u64;
            let text = format!("{symbol} {price:.2}");
            let quote =
                self.quotes.entry(symbol.to_owned()).or_insert(Quote { key, text: String::new() });
            quote.text = text;
            sockets.publish(symbol, Latest(quote.key, &quote.text));
        }

        fn subscribe(&self, kws: &mut Socket<'_, Self>, symbol: &str) {
            if let Err(error) = kws.join(symbol) {
                kws.emit(format!("cannot subscribe to {symbol:?}: {error}"));
            } else if let Some(quote) = self.quotes.get(symbol) {
                kws.emit(Latest(quote.key, &quote.text));
            }
        }
    }

    /// What the feed's thread calls. If the loop does not keep up, a newer quote will come.
    fn tick(feed: &Handle<Market>, symbol: &'static str, price: f64) -> Result<(), SendError> {
        match feed.send(move |market, sockets| market.take(symbol, price, sockets)) {
            Err(SendError::Full { .. }) => Ok(()),
            sent => sent,
        }
    }

    fn gateway() -> Outcome<Server<Market>> {
        let mut server = Server::builder()
            .max_outbox(64 * 1024)
            .slow_reader(SlowReader::DropOldest)
            .max_topics_per_connection(3)
            .build(Market::default())?;
        let route = server.route("/quotes", |market, kws| {
            let symbols = kws.query("symbols").unwrap_or_default().into_owned();
            for symbol in symbols.split_terminator(',') {
                market.subscribe(kws, symbol);
            }
        })?;
        route.on(Event::Message, |market, ep| {
            let text = ep.data.as_str().unwrap_or_default();
            match text.strip_prefix('-') {
                Some(symbol) => _ = ep.kws.leave(symbol),
                None => market.subscribe(&mut ep.kws, text),
            }
        });
        Ok(server)
    }

    #[test]
    fn a_slow_reader_gets_the_latest_quote_of_each_symbol_others_get_all() -> Outcome {
        let mut test = Harness::new(gateway()?);
        let feed = test.server().handle();
        tick(&feed, "ACME", 1.0)?;
        tick(&feed, "INIT", 10.0)?;

        let fast = test.connect("/quotes?symbols=ACME,INIT")?;
        test.expect(fast, ["ACME 1.00", "INIT 10.00"]);
        let narrow = Faults::none().window(12); // one quote
        let slow = test.connect(Upgrade::to("/quotes?symbols=ACME,INIT").faults(narrow))?;
        test.expect(slow, ["ACME 1.00", "INIT 10.00"]);
        test.stop_reading(slow);
        for step in 2..=9 {
            tick(&feed, "ACME", step.into())?;
            tick(&feed, "INIT", (10 * step).into())?;
            test.expect(fast, [format!("ACME {step}.00"), format!("INIT {step}0.00")]);
        }
        test.resume_reading(slow); // the socket had the first two when it was found full
        test.expect(slow, ["ACME 2.00", "INIT 20.00", "ACME 9.00", "INIT 90.00"]);

        test.send(fast, "-INIT");
        test.send(fast, "");
        test.expect(fast, ["cannot subscribe to \"\": a topic's name cannot be empty"]);
        tick(&feed, "INIT", 100.0)?;
        tick(&feed, "ACME", 10.0)?;
        test.expect(fast, ["ACME 10.00"]);
        test.expect(slow, ["INIT 100.00", "ACME 10.00"]);
        Ok(())
    }
}

/// A world that goes on about 60 times a second, whether or not players are there.
mod game {
    use std::collections::HashMap;
    use std::time::Duration;

    use ikisocket::testing::Harness;
    use ikisocket::{ConnectionId, Event, EventPayload, Latest, Server, Socket};

    use super::Outcome;

    /// The loop has whole milliseconds: a sixtieth of a second would become 17 of them.
    const TICK: Duration = Duration::from_millis(16);
    const SECOND: Duration = Duration::from_secs(1);
    const INPUTS_PER_SECOND: u32 = 3;

    #[derive(Default)]
    struct World {
        tick: u64,
        /// Where each player is.
        players: HashMap<ConnectionId, i64>,
    }

    struct Allowance {
        since: Duration,
        inputs: u32,
    }

    impl World {
        fn picture(&self) -> String {
            let mut places: Vec<_> = self.players.values().collect();
            places.sort();
            format!("{}: {places:?}", self.tick)
        }
    }

    fn enter(world: &mut World, kws: &mut Socket<'_, World>) {
        world.players.insert(kws.id(), 0);
        let since = kws.now();
        kws.set_attribute("allowance", Allowance { since, inputs: 0 });
    }

    fn play(world: &mut World, ep: &mut EventPayload<'_, World>) {
        let now = ep.kws.now();
        let Some(allowance) = ep.kws.attribute_mut::<Allowance>("allowance") else { return };
        if now - allowance.since >= SECOND {
            *allowance = Allowance { since: now, inputs: 0 };
        }
        allowance.inputs += 1;
        if allowance.inputs > INPUTS_PER_SECOND {
            let _ = ep.kws.close_with(1008, "too many inputs");
            return;
        }
        let Some(place) = world.players.get_mut(&ep.id) else { return };
        match ep.data.as_str() {
            Some("left") => *place -= 1,
            Some("right") => *place += 1,
            _ => _ = ep.kws.close_with(1007, "left or right"),
        }
    }

    fn game() -> Outcome<Server<World>> {
        let mut server = Server::builder().build(World::default())?;
        server
            .route("/play", enter)?
            .on(Event::Message, play)
            .on(Event::Disconnect, |world, ep| _ = world.players.remove(&ep.id));
        server.set_interval(TICK, |world, sockets| {
            world.tick += 1;
            sockets.broadcast(Latest(0, world.picture())); // a slow client sees fewer ticks
        });
        Ok(server)
    }

    #[test]
    fn each_tick_shows_all_inputs_once_and_a_player_with_too_many_is_closed() -> Outcome {
        let mut test = Harness::new(game()?);
        let (ann, bob) = (test.connect("/play")?, test.connect("/play")?);
        test.send(ann, "left");
        test.send(bob, "right");
        test.send(bob, "right");
        test.expect_nothing(ann);
        test.advance(TICK);
        for player in [ann, bob] {
            test.expect(player, ["1: [-1, 2]"]);
        }

        test.advance(SECOND); // and with it a new allowance
        assert_eq!(test.received(ann).len(), 62);
        test.received(bob);
        for _ in 0..INPUTS_PER_SECOND {
            test.send(ann, "left");
        }
        test.advance(TICK);
        for player in [ann, bob] {
            test.expect(player, ["64: [-4, 2]"]);
        }
        test.send(ann, "left");
        test.expect_goodbye(ann, 1008, "too many inputs");
        test.advance(TICK);
        test.expect(bob, ["65: [2]"]);
        Ok(())
    }
}

/// A chat behind nginx, which names the client; another thread knows the sessions.
mod chat {
    use std::collections::HashMap;
    use std::sync::mpsc;
    use std::time::Duration;

    use ikisocket::testing::{Client, Harness, Received, Upgrade};
    use ikisocket::{
        ConnectionId, Deferred, Event, EventPayload, Response, RouteOptions, Server, Shutdown,
        Socket,
    };

    use super::Outcome;

    const SPREAD: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct Chat {
        names: HashMap<String, ConnectionId>,
    }

    /// A session to look up, and the request that waits for it.
    type Login = (String, Deferred<Chat>);

    /// The thread that asks the database.
    fn sessions() -> mpsc::Sender<Login> {
        let (logins, waiting) = mpsc::channel::<Login>();
        std::thread::spawn(move || {
            for (session, login) in waiting {
                // An error says that the client has left meanwhile.
                let _ = match session.strip_prefix("session of ") {
                    Some(name) => {
                        let name = name.to_owned();
                        login.accept(|attributes| attributes.set("name", name))
                    }
                    None => login.reject(Response::text("log in first").with_status(401)),
                };
            }
        });
        logins
    }

    fn server() -> Outcome<Server<Chat>> {
        let mut server = Server::builder().build(Chat::default())?;
        let logins = sessions();
        server.filter(move |_, sockets, incoming| {
            if incoming.path() == "/health" {
                return Ok(());
            }
            let session = incoming.cookie("session").unwrap_or_default().into_owned();
            let login = sockets.defer(incoming);
            logins.send((session, login)).map_err(|_| Response::new(503))
        });
        server.get("/health", |chat, sockets, _| match sockets.is_refusing() {
            false => Response::text(format!("{} here", chat.names.len())),
            true => Response::text("stopping").with_status(503),
        })?;
        let options =
            RouteOptions::default().subprotocols(["chat"]).origins(["https://chat.example.org"]);
        server
            .route_with("/chat", options, join)?
            .on(Event::Message, whisper)
            .on(Event::Disconnect, |chat, ep| chat.names.retain(|_, id| *id != ep.id));
        Ok(server)
    }

    fn join(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
        if kws.subprotocol().is_none() {
            let _ = kws.close_with(1002, "speak chat");
            return;
        }
        let name = kws.string_attribute("name").unwrap_or_default().to_owned();
        let address = kws.header("X-Real-IP").unwrap_or("nowhere");
        kws.emit(format!("welcome {name} from {address}"));
        // The second login of a user takes the name along.
        if let Some(before) = chat.names.insert(name, kws.id())
            && let Some(mut before) = kws.sockets().by_id(before)
        {
            let _ = before.close_with(4000, "you are elsewhere");
        }
    }

    /// `bob: hello` goes to bob alone.
    fn whisper(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
        let Some((to, text)) = ep.data.as_str().and_then(|text| text.split_once(": ")) else {
            ep.kws.emit("write `name: text`");
            return;
        };
        let from = ep.kws.string_attribute("name").unwrap_or_default();
        let message = format!("{from}: {text}");
        match chat.names.get(to).map(|&id| ep.kws.emit_to(id, message)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => _ = ep.kws.emit(format!("{to} did not get it: {error}")),
            None => _ = ep.kws.emit(format!("{to} is not here")),
        }
    }

    fn log_in(test: &mut Harness<Chat>, session: &str) -> Outcome<(Client, u16)> {
        let request = Upgrade::to("/chat")
            .subprotocols("chat")
            .header("Origin", "https://chat.example.org")
            .header("X-Real-IP", "203.0.113.7")
            .header("Cookie", &format!("session={}", session.replace(' ', "%20")));
        let client = test.ask(request).ok_or("shut down")?;
        assert!(test.wait_for(client, Duration::from_secs(10)));
        Ok((client, test.answer(client).ok_or("no answer")?.status))
    }

    #[test]
    fn logged_in_users_whisper_by_name_and_a_restart_spreads_the_closes() -> Outcome {
        let mut test = Harness::new(server()?);
        let other = Upgrade::to("/chat").header("Origin", "https://example.net");
        assert_eq!(test.connect(other).unwrap_err().status(), Some(403));
        assert_eq!(log_in(&mut test, "forged")?.1, 401);

        let [ann, bob] = ["session of ann", "session of bob"].map(|it| log_in(&mut test, it));
        let ((ann, _), (bob, _)) = (ann?, bob?);
        test.expect(ann, ["welcome ann from 203.0.113.7"]);
        test.expect(bob, ["welcome bob from 203.0.113.7"]);
        test.send(ann, "bob: hello");
        test.expect(bob, ["ann: hello"]);
        test.send(bob, "eve: hello");
        test.expect(bob, ["eve is not here"]);
        test.expect_nothing(ann);
        assert_eq!(test.get("/health").ok_or("no page")?.text(), "2 here");

        test.server().sockets().refuse_upgrades(true); // nginx looks elsewhere from now on
        assert_eq!(test.get("/health").ok_or("no page")?.status, 503);
        let restart = Shutdown::default().code(1012).reason("back soon").spread(SPREAD);
        test.server().sockets().shutdown(restart)?;
        let goodbye = [Received::close(1012, "back soon"), Received::Fin];
        let goodbyes = |test: &mut Harness<Chat>| {
            [ann, bob].into_iter().filter(|&client| test.received(client) == goodbye).count()
        };
        assert_eq!(goodbyes(&mut test), 1); // which one is first is not promised
        test.advance(SPREAD);
        assert_eq!(goodbyes(&mut test), 1);
        assert_eq!(test.server().finished().ok_or("not finished")?.remained, 0);
        Ok(())
    }
}

/// One robot and its operators. What they say to each other is passed on as it is.
mod robot {
    use ikisocket::testing::{Harness, Received, Upgrade};
    use ikisocket::{ConnectionId, Event, EventPayload, Server, Socket};

    use super::Outcome;

    const OPERATORS: &str = "operators";

    #[derive(Default)]
    struct Relay {
        robot: Option<ConnectionId>,
        volts: u32,
        faults: Vec<String>,
    }

    fn relay() -> Outcome<Server<Relay>> {
        let mut server = Server::builder().build(Relay::default())?;
        server.filter(|_, _, incoming| {
            let pilot = incoming.query("key").as_deref() == Some("secret");
            incoming.attributes.set("pilot", pilot);
            Ok(())
        });
        server
            .route("/robot", robot_comes)?
            .on(Event::Message, robot_says)
            .on(Event::Disconnect, robot_goes);
        server
            .route("/operate", |relay, kws| match kws.join(OPERATORS) {
                Ok(_) => _ = kws.emit(format!("robot: {}", relay.robot.is_some())),
                Err(error) => _ = kws.emit(error.to_string()),
            })?
            .on(Event::Message, operator_says);
        server.on_panic(|relay, panic| {
            relay.faults.push(format!("{}: {}", panic.event, panic.message));
        });
        Ok(server)
    }

    fn robot_comes(relay: &mut Relay, kws: &mut Socket<'_, Relay>) {
        if relay.robot.is_some() {
            let _ = kws.close_with(4001, "there is a robot");
            return;
        }
        relay.robot = Some(kws.id());
        kws.publish(OPERATORS, "robot: true");
    }

    fn robot_says(relay: &mut Relay, ep: &mut EventPayload<'_, Relay>) {
        if let Some(text) = ep.data.as_str() {
            relay.volts = text.parse().expect("the robot says its volts"); // and if it does not?
        }
        ep.kws.publish(OPERATORS, ep.data);
    }

    fn robot_goes(relay: &mut Relay, ep: &mut EventPayload<'_, Relay>) {
        if relay.robot == Some(ep.id) {
            relay.robot = None;
            ep.kws.publish(OPERATORS, "robot: false");
        }
    }

    fn operator_says(relay: &mut Relay, ep: &mut EventPayload<'_, Relay>) {
        if ep.kws.attribute("pilot") != Some(&true) {
            ep.kws.emit("you may only look");
            return;
        }
        let mut sockets = ep.kws.sockets();
        match relay.robot.and_then(|robot| sockets.by_id(robot)) {
            Some(mut robot) => _ = robot.emit(ep.data),
            None => _ = ep.kws.emit("robot: false"),
        }
    }

    #[test]
    fn frames_pass_unchanged_between_the_robot_and_its_controllers() -> Outcome {
        let mut test = Harness::new(relay()?);
        let pilot = test.connect(Upgrade::to("/operate?key=secret"))?;
        let guest = test.connect("/operate")?;
        let robot = test.connect("/robot")?;
        for operator in [pilot, guest] {
            test.expect(operator, ["robot: false", "robot: true"]);
        }
        let second = test.connect("/robot")?;
        test.expect_goodbye(second, 4001, "there is a robot");

        test.send(guest, &[1, 2]);
        test.expect(guest, ["you may only look"]);
        test.send(pilot, &[0, 255, 7]);
        test.expect(robot, [Received::binary([0, 255, 7])]);
        test.send(robot, &[9; 3]);
        test.send(robot, "24");
        test.send(robot, "low");
        for operator in [pilot, guest] {
            let seen = [Received::binary([9; 3]), Received::text("24")];
            test.expect(operator, seen.into_iter().chain([Received::text("robot: false")]));
        }
        test.expect_goodbye(robot, 1011, "internal error");
        test.send(pilot, &[1]);
        test.expect(pilot, ["robot: false"]);
        assert_eq!((test.panics().len(), test.state().volts), (1, 24));
        let fault = "message: the robot says its volts: ParseIntError { kind: InvalidDigit }";
        assert_eq!(test.state().faults, [fault]);
        Ok(())
    }
}

/// The example of the Go library: the client named `to` gets the very message, and `event` is
/// fired.
mod go {
    use std::collections::HashMap;

    use ikisocket::testing::Harness;
    use ikisocket::{Event, EventPayload, Server, Socket, Uuid};
    use serde::Deserialize;

    use super::Outcome;

    #[derive(Default)]
    struct Chat {
        clients: HashMap<String, Uuid>,
        log: Vec<String>,
    }

    #[derive(Deserialize)]
    struct Message {
        to: String,
        event: String,
        data: String,
    }

    fn server() -> Outcome<Server<Chat>> {
        let mut server = Server::builder().build(Chat::default())?;
        server.on(Event::Connect, log);
        server.on("CUSTOM_EVENT", log);
        server.on(Event::Message, |chat, ep| {
            log(chat, ep);
            if let Err(error) = pass_on(chat, ep) {
                chat.log.push(error.to_string());
            }
        });
        for event in [Event::Disconnect, Event::Close] {
            server.on(event, |chat, ep| {
                log(chat, ep);
                chat.clients.retain(|_, uuid| *uuid != ep.socket_uuid);
            });
        }
        server.on(Event::Error, log);
        server.route("/ws/:id", join)?;
        Ok(server)
    }

    fn join(chat: &mut Chat, kws: &mut Socket<'_, Chat>) {
        let id = kws.param("id").unwrap_or_default().to_owned();
        let uuid = kws.uuid();
        kws.set_attribute("user_id", id.clone());
        kws.broadcast(format!("New user connected: {id} and UUID: {uuid}"));
        kws.emit(format!("Hello user: {id} with UUID: {uuid}"));
        chat.clients.insert(id, uuid);
    }

    fn log(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) {
        let user = ep.kws.string_attribute("user_id").unwrap_or_default();
        let data = String::from_utf8_lossy(&ep.data);
        chat.log.push(format!("{} - {user} - {data}", ep.name));
    }

    fn pass_on(chat: &mut Chat, ep: &mut EventPayload<'_, Chat>) -> Outcome {
        let message: Message = serde_json::from_slice(&ep.data)?;
        if !message.event.is_empty() {
            ep.kws.fire(chat, &message.event, &message.data);
        }
        let to = chat.clients.get(&message.to).copied().unwrap_or_default(); // no client is nil
        ep.kws.emit_to(to, ep.data)?;
        Ok(())
    }

    #[test]
    fn a_message_reaches_the_names_in_it_and_fires_its_event_as_in_go() -> Outcome {
        let mut test = Harness::new(server()?);
        let ann = test.connect("/ws/ann")?;
        let bob = test.connect("/ws/bob")?;
        let [anns, bobs] = [ann, bob].map(|client| test.uuid(client).unwrap_or_default());
        test.expect(
            ann,
            [
                format!("Hello user: ann with UUID: {anns}"),
                format!("New user connected: bob and UUID: {bobs}"),
            ],
        );
        test.expect(bob, [format!("Hello user: bob with UUID: {bobs}")]);

        let hello = r#"{"from":"ann","to":"bob","event":"CUSTOM_EVENT","data":"hello"}"#;
        test.send(ann, hello);
        test.expect(bob, [hello]);
        let lost = r#"{"from":"ann","to":"eve","event":"","data":"hello"}"#;
        test.send(ann, lost);
        test.expect_nothing(ann);
        test.close(bob, 1000, "");
        test.expect_goodbye(bob, 1000, "");
        let missing = Uuid::nil();
        let log = [
            "connect - ann - ".to_owned(),
            "connect - bob - ".to_owned(),
            format!("message - ann - {hello}"),
            "CUSTOM_EVENT - ann - hello".to_owned(),
            format!("message - ann - {lost}"),
            format!("no open connection has the uuid {missing}"),
            format!("error - ann - {missing}"),
            "disconnect - bob - ".to_owned(),
        ];
        assert_eq!(test.state().log, log);
        assert_eq!(test.state().clients, HashMap::from([("ann".to_owned(), anns)]));
        Ok(())
    }
}
