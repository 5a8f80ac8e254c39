//! The methods of `Socket`, one connection (the `kws` of the Go library), and of `Transport`.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use uuid::Uuid;

use super::call::Context;
use super::registry::{Socket, Sockets};
use crate::config::{Dropped, SlowReader};
use crate::error::{CloseError, EmitError, Error, TopicError, UuidError};
use crate::http::Request;
use crate::hub::{Attributes, Audience, Connection, Emitted};
use crate::outbox::{Latest, Outgoing, SendOptions};
use crate::protocol::{CloseCode, Opcode, Payload};
use crate::token::{ConnectionId, Recipient};
#[cfg(feature = "_tls")]
use crate::transport::tls::TlsInfo;
use crate::transport::{PeerAddress, PlainStream, canonical};

impl<S> Socket<'_, S> {
    fn connection(&self) -> &Connection {
        self.hub
            .get(self.token)
            .expect("a connection that is lent stays in its slot until the turn ends")
    }

    /// All open connections. They borrow this one mutably, so what an emit says about them is asked
    /// for before:
    ///
    /// ```
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Message, |_, ep| {
    ///     let open = ep.kws.sockets().len(); // it does not compile inside the call of `emit`
    ///     ep.kws.emit(format!("{open} are here"));
    /// });
    /// # Ok::<(), ikisocket::BindError>(())
    /// ```
    #[must_use]
    pub fn sockets(&mut self) -> Sockets<'_, S> {
        Sockets { hub: self.hub, registry: self.registry }
    }

    /// The time on the loop's clock: [`Sockets::now`].
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.hub.now)
    }

    // Sending.

    /// Sends a message to this connection: `&str` and `String` as text, bytes as binary. It never
    /// blocks.
    ///
    /// The message is queued. It leaves when the connection's input is handled, or when the turn
    /// ends. Emitted between turns, it leaves when the next turn begins. A large message is offered
    /// to the socket at once.
    ///
    /// The message is [refused](EmitError) if the connection is closed, if the message is longer
    /// than [`Builder::max_outbox`](crate::Builder::max_outbox), or if more than that would wait
    /// and the policy for slow readers ([`SlowReader`]) makes no room.
    pub fn emit<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Emitted {
        let Outgoing { message, options } = message.into();
        self.hub.emit(self.token, message.payload().opcode(), message.as_bytes(), &options)
    }

    /// Sends a text message.
    pub fn emit_text(&mut self, text: impl AsRef<str>) -> Emitted {
        self.hub.emit(self.token, Opcode::Text, text.as_ref().as_bytes(), &SendOptions::USUAL)
    }

    /// Sends a binary message, whatever type the data has.
    pub fn emit_binary(&mut self, data: impl AsRef<[u8]>) -> Emitted {
        self.hub.emit(self.token, Opcode::Binary, data.as_ref(), &SendOptions::USUAL)
    }

    /// Sends a message that replaces the previous one with the same key if that one still waits. It
    /// is the same as `emit(Latest(key, message))`: see [`Latest`].
    pub fn emit_latest<'m>(&mut self, key: u64, message: impl Into<Outgoing<'m>>) -> Emitted {
        self.emit(Latest(key, message))
    }

    /// Sends a ping with up to 125 bytes. When the peer's pong arrives, `pong` fires. The library
    /// also pings silent peers by itself.
    ///
    /// While the socket takes nothing, pings wait in front of the messages. All of them are sent,
    /// in their order, unless the connection ends first. They count against
    /// [`Builder::max_outbox`](crate::Builder::max_outbox). A program that numbers its pings must
    /// not expect a pong for each: a peer may answer only the latest of several (RFC 6455 §5.5.3).
    pub fn ping(&mut self, data: impl AsRef<[u8]>) -> Emitted {
        let data = data.as_ref();
        if data.len() > 125 {
            return Emitted::Refused(EmitError::PingTooLong { len: data.len() });
        }
        self.hub.ping(self.token, data)
    }

    /// Sends a message to another connection, by its uuid or its [id](Self::id). If no such
    /// connection is open, `error` fires on this connection, with that uuid or id as its data.
    ///
    /// # Errors
    ///
    /// [`EmitError::Gone`] if there is no such open connection. Otherwise the reason why that
    /// connection refused the message.
    pub fn emit_to<'m>(
        &mut self,
        to: impl Into<Recipient>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<Emitted, EmitError> {
        let result = self.hub.emit_to(to.into(), &message.into());
        if let Err(EmitError::Gone(to)) = result {
            self.is_gone(to);
        }
        result
    }

    /// Sends a message to each connection of a list; returns how many accepted it. A connection
    /// that is twice in the list gets it twice. The message is encoded once. For each unknown uuid,
    /// `error` fires on this connection.
    pub fn emit_to_list<'m>(&mut self, to: &[Uuid], message: impl Into<Outgoing<'m>>) -> usize {
        for &uuid in to {
            if self.hub.find(uuid).is_none() {
                self.is_gone(uuid.into());
            }
        }
        self.hub.broadcast(Audience::List(to), None, &message.into())
    }

    fn is_gone(&mut self, to: Recipient) {
        self.hub.verb_failed(self.token, Error::Gone(to), to.to_string());
    }

    /// Sends a message to every open connection except this one; returns how many accepted it. To
    /// include this one, use [`broadcast_all`](Self::broadcast_all) or [`Sockets::broadcast`].
    pub fn broadcast<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::All, Some(self.token), &message.into())
    }

    /// Sends a message to every open connection, this one included; returns how many accepted it.
    /// To leave this one out, use [`broadcast`](Self::broadcast).
    pub fn broadcast_all<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.broadcast(Audience::All, None, &message.into())
    }

    /// Sends a message to every member of a topic except this connection, which need not be a
    /// member; returns how many accepted it.
    ///
    /// The message is encoded once, and the cost grows with the number of members. A topic without
    /// members costs nothing. A member gets emitted, broadcast and published messages in the
    /// order of the calls; only a [`Latest`] message takes the place of the one that it replaces.
    /// Which member is served first is not guaranteed.
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.publish(topic, Some(self.token), &message.into())
    }

    /// Sends a message to every member of a topic, this connection included if it is a member;
    /// returns how many accepted it.
    pub fn publish_all<'m>(&mut self, topic: &str, message: impl Into<Outgoing<'m>>) -> usize {
        self.hub.publish(topic, None, &message.into())
    }

    /// Calls the listeners of a custom event on this connection before it returns; returns how many
    /// ran. Nothing is sent.
    ///
    /// With a built-in event's name, or if more than 64 calls are nested, it calls no listener, and
    /// `error` fires.
    pub fn fire<'d>(&mut self, state: &mut S, event: &str, data: impl Into<Payload<'d>>) -> usize {
        Context { state, hub: self.hub, registry: self.registry }.fire(
            self.token,
            event,
            data.into(),
        )
    }

    /// Closes the connection with code 1000 and "Connection closed"; see
    /// [`close_with`](Self::close_with).
    pub fn close(&mut self) {
        let _ = self.close_with(CloseCode::NORMAL, "Connection closed");
    }

    /// Closes the connection after everything that was emitted before. `close` fires next, and
    /// `disconnect` when the peer has answered or the close timeout has expired. On a connection
    /// that is closed already it does nothing.
    ///
    /// What was emitted before is sent first, unless the peer reads too slowly
    /// ([`Builder::closing_rate`](crate::Builder::closing_rate)) or the connection breaks.
    ///
    /// The reason is cut to 123 bytes at a character boundary (RFC 6455 §5.5).
    ///
    /// # Errors
    ///
    /// [`CloseError::IllegalCode`] if the code may not be sent; then nothing happens.
    pub fn close_with(
        &mut self,
        code: impl Into<CloseCode>,
        reason: &str,
    ) -> Result<(), CloseError> {
        self.hub.close(self.token, code.into(), reason)
    }

    /// Resets the connection without a close frame. Use it for peers that deserve no orderly close.
    ///
    /// Waiting data is dropped, and data that was emitted earlier in the same turn may not have
    /// been sent. The peer sees a reset (TCP) or the end of the stream. The descriptor is free at
    /// the end of the turn. `disconnect` follows, not clean, and without a code unless the
    /// connection was closing already.
    ///
    /// ```
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.on(Event::Pressure, |(), ep| ep.kws.abort());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&mut self) {
        self.hub.abort(self.token);
    }

    // Topics.

    /// Makes the connection a member of a topic; returns `false` if it is one already.
    ///
    /// A topic exists from its first member to its last. Joining twice is one membership. It ends
    /// with [`leave`](Self::leave), or by itself when the connection closes.
    ///
    /// # Errors
    ///
    /// In these cases nothing changes: [`TopicError::Empty`] and [`TopicError::TooLong`] if the
    /// name is empty or has more than 256 bytes; [`TopicError::TooMany`] if the connection is in
    /// [`Builder::max_topics_per_connection`](crate::Builder::max_topics_per_connection) topics;
    /// [`TopicError::Closed`] if it is closed.
    pub fn join(&mut self, topic: &str) -> Result<bool, TopicError> {
        self.hub.join(self.token, topic)
    }

    /// Ends the connection's membership in a topic; returns whether there was one. The topic ends
    /// with its last member.
    pub fn leave(&mut self, topic: &str) -> bool {
        self.hub.topics.leave(self.token.index, topic)
    }

    /// Whether the connection is a member of a topic, and so gets the messages published there. A
    /// closed connection is in no topic.
    #[must_use]
    pub fn is_member(&self, topic: &str) -> bool {
        self.hub.topics.is_member(self.token.index, topic)
    }

    /// The names of the topics that the connection is in, in no particular order. On a closed
    /// connection, the topics that it was in when it closed, so that a `close` or `disconnect`
    /// listener can notify the other members.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.hub.topics.of(self.token.index)
    }

    // Identity and state.

    /// The connection's id: it never changes, and no later connection has the same one. Use it as a
    /// key in your own maps. Other connections find this one by its [`uuid`](Self::uuid) too.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.token)
    }

    /// The uuid under which the connection is found. It can still be read after the connection's
    /// end. Other connections may take it as soon as this one closes.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.connection().uuid
    }

    /// Changes the uuid; the old one names no connection from now on. The connection's own uuid is
    /// accepted.
    ///
    /// # Errors
    ///
    /// In these cases nothing changes: [`UuidError::Duplicate`] if another open connection has it,
    /// [`UuidError::Closed`] if this one is closed. With [`Loops`](crate::Loops) connections of all
    /// loops count, and [`UuidError::OtherLoop`] refuses a uuid that another loop has made.
    pub fn set_uuid(&mut self, uuid: Uuid) -> Result<(), UuidError> {
        self.hub.set_uuid(self.token, uuid)
    }

    /// Whether the connection is open: neither side has closed it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.hub.is_open(self.token)
    }

    /// The number of bytes that wait for the socket, frame headers included.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.connection().outbox.waiting()
    }

    /// The number of messages that wait for the socket and of which it has taken nothing. They are
    /// counted on each call, which takes time for each message.
    #[must_use]
    pub fn waiting_messages(&self) -> usize {
        self.hub.waiting_messages(self.token)
    }

    /// Counts of messages that were not sent to this connection because it reads too slowly, since
    /// it connected.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.hub.dropped_of(self.token)
    }

    /// Changes what happens when more than [`Builder::max_outbox`](crate::Builder::max_outbox)
    /// would wait for this connection. With a `max_outbox` of [`usize::MAX`] that never happens,
    /// and the policy has no effect.
    pub fn set_slow_reader(&mut self, policy: SlowReader) {
        if let Some(connection) = self.hub.get_mut(self.token) {
            connection.slow_reader = policy;
        }
    }

    /// The subprotocol that was agreed on.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        let connection = self.connection();
        let number = usize::from(connection.subprotocol?.get());
        self.registry.routes[connection.route as usize]
            .policy
            .subprotocols
            .get(number - 1)
            .map(String::as_str)
    }

    /// The address of the peer.
    ///
    /// Behind a reverse proxy this is the proxy's address. The proxy sends the client's address in
    /// a header of the request.
    #[must_use]
    pub fn peer_address(&self) -> PeerAddress {
        self.connection().peer.get()
    }

    /// What was agreed on in the TLS handshake, and the client's certificates if it has shown any;
    /// `None` if the connection is plain, or if its TLS session has failed. It needs the feature
    /// `tls`.
    ///
    /// Each call copies the names and certificates, so it is for callbacks that run once for a
    /// connection, and not for each message.
    ///
    /// ```
    /// # let mut server = ikisocket::Server::builder().build(())?;
    /// server.route("/ws", |_, kws| {
    ///     if let Some(tls) = kws.tls() {
    ///         let hello = format!("{} with {}", tls.version, tls.cipher_suite);
    ///         kws.emit(hello);
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "_tls")]
    #[must_use]
    pub fn tls(&self) -> Option<TlsInfo> {
        self.connection().stream.tls()?.info()
    }

    /// The underlying connection.
    #[must_use]
    pub fn transport(&self) -> Transport<'_> {
        Transport { stream: self.connection().stream.socket() }
    }

    // The request.

    /// The upgrade request; `None` if the route forgets requests and its callback has returned.
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        self.connection().request.as_ref()
    }

    /// The value of a `:name` or `*name` of the route's pattern, percent-decoded.
    ///
    /// It is borrowed from the connection, as is what [`query`](Self::query),
    /// [`header`](Self::header), [`cookie`](Self::cookie), [`attribute`](Self::attribute) and
    /// [`string_attribute`](Self::string_attribute) give. While such a value is in use, the
    /// connection can neither emit nor join. A copy allows both:
    ///
    /// ```
    /// # let mut server = ikisocket::Server::bind("127.0.0.1:0", ())?;
    /// server.route("/ws/:room", |_, kws| {
    ///     let room = kws.param("room").unwrap_or_default().to_owned();
    ///     if let Err(error) = kws.join(&room) {
    ///         kws.emit(format!("cannot join {room}: {error}"));
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.request()?.param(name)
    }

    /// The last value of a query parameter, decoded. It is borrowed from the
    /// connection: see [`param`](Self::param).
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request()?.query(name)
    }

    /// The first value of a header, its name in any case. It is borrowed from the
    /// connection: see [`param`](Self::param).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request()?.header(name)
    }

    /// The value of a cookie, percent-decoded. It is borrowed from the connection: see
    /// [`param`](Self::param).
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request()?.cookie(name)
    }

    // Attributes.

    /// Keeps a value of any type under a name; it replaces the previous value.
    pub fn set_attribute(&mut self, key: impl Into<String>, value: impl Any) {
        self.attributes_mut().set(key, value);
    }

    /// The value under a name, if there is one and it is a `T`. It is borrowed from the connection:
    /// see [`param`](Self::param).
    #[must_use]
    pub fn attribute<T: Any>(&self, key: &str) -> Option<&T> {
        self.attributes().get(key)
    }

    /// The value under a name to change in place, if there is one and it is a `T`.
    ///
    /// ```
    /// use ikisocket::{Event, Server};
    ///
    /// let mut server = Server::bind("127.0.0.1:0", ())?;
    /// server.route("/ws", |_, kws| kws.set_attribute("messages", 0_u64))?;
    /// server.on(Event::Message, |_, ep| {
    ///     if let Some(messages) = ep.kws.attribute_mut::<u64>("messages") {
    ///         *messages += 1;
    ///     }
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attribute_mut<T: Any>(&mut self, key: &str) -> Option<&mut T> {
        self.attributes_mut().get_mut(key)
    }

    /// The value under a name, if it was set from a `String` or a `&'static str`. It is borrowed
    /// from the connection: see [`param`](Self::param).
    #[must_use]
    pub fn string_attribute(&self, key: &str) -> Option<&str> {
        self.attributes().string(key)
    }

    /// The value under a name, if it was set from an integer that fits.
    #[must_use]
    pub fn int_attribute(&self, key: &str) -> Option<i64> {
        self.attributes().int(key)
    }

    /// All attributes.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.connection().attributes
    }

    /// All attributes, to change.
    #[must_use]
    pub fn attributes_mut(&mut self) -> &mut Attributes {
        &mut self
            .hub
            .get_mut(self.token)
            .expect("a connection that is lent stays in its slot until the turn ends")
            .attributes
    }
}

impl<S> fmt::Debug for Socket<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.id())
            .field("uuid", &self.uuid())
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

/// The socket under a [`Socket`]. Use it for addresses and options, not to write past the framing.
#[derive(Debug)]
pub struct Transport<'a> {
    stream: &'a PlainStream,
}

impl<'a> Transport<'a> {
    /// The local address; `None` if the connection has ended or is not TCP. A peer that came by
    /// IPv4 has an IPv4 address here, also if the listener takes both.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.stream.tcp()?.local_addr().ok().map(canonical)
    }

    /// The peer's address, as in [`PeerAddress::Tcp`]; `None` if the connection has ended or is not
    /// TCP.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.tcp()?.peer_addr().ok().map(canonical)
    }

    /// The socket's descriptor, so that `socket2::SockRef` reaches every option. It is `None` only
    /// in tests without sockets. Bytes that you read from it or write to it are missing in the
    /// WebSocket stream.
    #[cfg(unix)]
    #[must_use]
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'a>> {
        self.stream.fd()
    }
}
