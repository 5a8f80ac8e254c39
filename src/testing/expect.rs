//! The assertions of a test, and the messages of those that fail.
//!
//! It knows what clients received and which callbacks panicked, and nothing of how that happened.

use super::peer::Received;
use super::{Client, Harness};
use crate::protocol::CloseCode;
use crate::user::CaughtPanic;

impl<S> Harness<S> {
    /// Asserts that a client received exactly these since its last check, in this order: `&str` and
    /// `String` are texts, everything else is a [`Received`].
    ///
    /// ```
    /// # use ikisocket::testing::{Harness, Received};
    /// # let mut server = ikisocket::Server::builder().build(())?;
    /// # server.route("/ws", |_, kws| { kws.emit("hello"); kws.emit("world"); })?;
    /// # let mut test = Harness::new(server);
    /// let ann = test.connect("/ws")?;
    /// test.expect(ann, ["hello", "world"]);
    /// test.ping(ann, "are you there?");
    /// test.expect(ann, [Received::Pong(b"are you there?".to_vec())]);
    /// test.expect_nothing(ann);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If it received something else, or bytes that were not [read](Self::read). The message names
    /// the client, lists what it received, and shows where the difference begins:
    ///
    /// ```text
    /// Client(1) of /ws/bob got something else, first at 1:
    /// expected [Text("hello"), Text("goodbye")]
    ///      got [Text("hello"), Close(1011, "internal error"), Fin]
    /// a callback of `message` has panicked: index out of bounds: the len is 0 but the index is 0
    /// ```
    #[track_caller]
    pub fn expect<R: Into<Received>>(
        &mut self,
        client: Client,
        expected: impl IntoIterator<Item = R>,
    ) {
        let expected: Vec<Received> = expected.into_iter().map(Into::into).collect();
        let got = self.received(client);
        if let Some(unread) = self.peers[client.0].unread() {
            panic!("{client:?} received bytes that were not read: {unread}");
        }
        if got != expected {
            let at =
                got.iter().zip(&expected).take_while(|(got, expected)| got == expected).count();
            let byte =
                got.get(at).zip(expected.get(at)).map(|(got, expected)| got.differs_at(expected));
            let byte = byte.flatten().map_or_else(String::new, |byte| format!(", in byte {byte}"));
            let (name, hint) = (&self.peers[client.0].name, self.panics.hint());
            panic!(
                "{client:?} of {name} got something else, first at {at}{byte}:\nexpected {expected:?}\n     got {got:?}{hint}"
            );
        }
    }

    /// Asserts that a client received nothing since its last check.
    ///
    /// # Panics
    ///
    /// If it received something, with the same message as [`expect`](Self::expect).
    #[track_caller]
    pub fn expect_nothing(&mut self, client: Client) {
        self.expect::<Received>(client, []);
    }

    /// Asserts that since its last check a client received only the end of the connection: a close
    /// frame with this code and reason, then FIN. If the client closed first, the server's close
    /// frame has the client's code and an empty reason.
    ///
    /// # Panics
    ///
    /// If it received something else, with the same message as [`expect`](Self::expect).
    #[track_caller]
    pub fn expect_goodbye(&mut self, client: Client, code: impl Into<CloseCode>, reason: &str) {
        self.expect(client, [Received::close(code, reason), Received::Fin]);
    }

    /// Takes the panics of callbacks that were caught since the last call. Panics that the test
    /// does not take fail it when the harness is dropped; otherwise an assertion in a callback
    /// would have no effect.
    ///
    /// ```
    /// # use ikisocket::testing::Harness;
    /// # use ikisocket::{Event, Server};
    /// let mut server = Server::builder().build(())?;
    /// server.route("/ws", |_, _| {})?;
    /// server.on(Event::Message, |_, ep| assert!(!ep.data.is_empty(), "say something"));
    /// let mut test = Harness::new(server);
    /// let ann = test.connect("/ws")?;
    /// test.send(ann, "");
    /// test.expect_goodbye(ann, 1011, "internal error");
    /// let panics = test.panics();
    /// assert_eq!((panics.len(), &*panics[0].event), (1, "message"));
    /// assert_eq!(panics[0].message, "say something");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn panics(&mut self) -> Vec<CaughtPanic> {
        self.look();
        self.panics.0.take()
    }
}
