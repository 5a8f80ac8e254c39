//! Admission: from the bytes of a request to an open connection, a page or a refusal. It finds the
//! place, runs the filters, and answers.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::RETRY_AFTER;
use crate::http::{self, HeadLimits, Key, Refusal, Request, Response, Scan};
use crate::hub::{Destination, Head, Hub, Parked, Phase, Resumed, Upgraded};
use crate::token::Token;
#[cfg(feature = "_tls")]
use crate::transport::tls::TlsInfo;
use crate::user::{Answer, Context, Filter, Incoming, Policy, Registry};

/// The cost of a piece of a request, in bytes of a turn's work, beside its length.
const REQUEST: usize = 4 * 1024;
/// The further cost of a complete head: its answer, with an upgrade's allocations.
const HEAD: usize = 12 * 1024;
/// The cost of each byte of a complete head, by that of the worst known head, in which every byte
/// needs work.
const HEAD_BYTE: usize = 8;

/// A request while filters run.
struct Admission {
    incoming: Incoming,
    destination: Destination,
    /// The filter that runs next.
    filter: usize,
}

/// Takes the request head from the front of `input`, as far as it is there, and answers it when it
/// is whole.
#[cold]
pub(super) fn receive<S>(context: &mut Context<'_, S>, token: Token, input: &mut &mut [u8]) {
    let hub = &mut *context.hub;
    hub.work += REQUEST;
    let limits = hub.limits.head;
    let Some(connection) = hub.get_mut(token) else { return };
    let Phase::Handshaking(partial) = &mut connection.phase else {
        return keep_early(hub, token, input);
    };
    let Some(Whole { request, work }) = take_head(partial, input, &limits) else {
        return;
    };
    hub.work += work;
    match request {
        Ok(request) => answer(context, token, request),
        Err((refusal, head_only)) => {
            if refusal == Refusal::TLS_HELLO {
                warn_of_tls(hub, token);
            }
            hub.refuse(token, &refusal, head_only);
        }
    }
    keep_early(context.hub, token, input);
}

/// Logs that a client speaks TLS where the server does not: most often an address is wrong on one
/// of the two sides. Any client can cause it, so only the first one has a line.
fn warn_of_tls(hub: &mut Hub, token: Token) {
    let Some(connection) = hub.get(token) else { return };
    let peer = connection.peer.get();
    // TLS inside of TLS is only malformed.
    #[cfg(feature = "_tls")]
    if connection.stream.tls().is_some() {
        return;
    }
    if !std::mem::replace(&mut hub.warned_of_tls, true) {
        log::warn!(
            "{peer} speaks TLS to a port without TLS: its URL should begin with ws:// or http://, \
             or the server should listen with TLS there. This is logged once"
        );
    }
}

/// A request head that is complete, or was refused before.
struct Whole {
    /// The request, or its refusal, and whether its method is HEAD.
    request: Result<Request, (Refusal, bool)>,
    work: usize,
}

impl Whole {
    fn new(request: Result<Request, Refusal>, head: &[u8]) -> Self {
        let request = request.map_err(|refusal| (refusal, asks_head(head)));
        Self { request, work: HEAD + head.len() * HEAD_BYTE }
    }

    fn refuse(refusal: Refusal, head: &[u8]) -> Self {
        Self { request: Err((refusal, asks_head(head))), work: 0 }
    }
}

/// Takes a head from the front of `input`. An incomplete one is kept in `partial`.
fn take_head(
    partial: &mut Option<Box<Head>>,
    input: &mut &mut [u8],
    limits: &HeadLimits,
) -> Option<Whole> {
    // Most heads come whole: they are neither scanned nor copied.
    if partial.is_none()
        && let Some((request, len)) = Request::in_one_piece(input, limits)
    {
        let whole = Whole::new(request, &input[..len]);
        advance(input, len);
        return Some(whole);
    }
    let head = partial.get_or_insert_default();
    let before = head.received.len();
    // The scanner accepts no head that is longer.
    let take = input.len().min(limits.max_bytes.saturating_sub(before));
    head.received.extend_from_slice(&input[..take]);
    match head.scanner.scan(&head.received, limits) {
        Ok(Scan::Complete(len)) => {
            advance(input, len - before);
            let head = &head.received[..len];
            Some(Whole::new(Request::parse(head, limits), head))
        }
        Ok(Scan::Partial) => {
            advance(input, take);
            None
        }
        Err(refusal) => Some(Whole::refuse(refusal, &head.received)),
    }
}

/// Whether a head begins like a HEAD request, also if it is not a valid head. Its response then has
/// no body, whatever it says (RFC 9110 §9.3.2).
fn asks_head(head: &[u8]) -> bool {
    let begins = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
    head[begins..].starts_with(b"HEAD ")
}

/// Keeps input while a request waits for its answer. A client may not send anything before the
/// upgrade (RFC 6455 §4.1), so the length of a head is enough for clients that do.
fn keep_early(hub: &mut Hub, token: Token, input: &mut &mut [u8]) {
    let limit = hub.limits.head.max_bytes;
    let Some(Phase::Parked(parked)) = hub.get_mut(token).map(|connection| &mut connection.phase)
    else {
        return;
    };
    if parked.early.len() + input.len() > limit {
        return hub.refuse(
            token,
            &Refusal::Malformed("too much was sent before it was answered"),
            false,
        );
    }
    parked.early.extend_from_slice(input);
    advance(input, input.len());
}

/// Whether the request with this ticket still waits.
pub(super) fn waits(hub: &Hub, token: Token, ticket: &Arc<AtomicBool>) -> bool {
    let phase = hub.get(token).map(|connection| &connection.phase);
    matches!(phase, Some(Phase::Parked(parked)) if Arc::ptr_eq(&parked.ticket.0, ticket))
}

/// Continues with a request that waited for its answer; returns the input behind its head.
pub(super) fn resume<S>(context: &mut Context<'_, S>, answer: Answer<S>) -> Vec<u8> {
    let Answer { token, go_on, .. } = answer;
    let Some(go_on) = go_on else {
        undecided(context.hub, token);
        return Vec::new();
    };
    context.hub.work += REQUEST;
    let Some(Resumed { parked, request, attributes, peer }) = context.hub.resume(token) else {
        return Vec::new();
    };
    let Parked { destination, filter, early, ticket } = parked;
    drop(ticket);
    let mut incoming = Incoming {
        request,
        peer,
        attributes,
        #[cfg(feature = "_tls")]
        tls: tls_info(context.hub, token),
        token,
        ticket: None,
    };
    let verdict = context.guard("filter", None, |context| {
        let (state, mut sockets) = context.lend();
        go_on(state, &mut sockets, &mut incoming)
    });
    let verdict = verdict.unwrap_or_else(|_| Err(internal_error()));
    admit(context, Admission { incoming, destination, filter }, verdict);
    context.drain_notifications();
    early
}

/// Answers a request whose head did not arrive in time, or whose deferred answer did not. If no
/// byte arrived, there is nothing to answer.
pub(super) fn late(hub: &mut Hub, token: Token) {
    match hub.get(token).map(|connection| &connection.phase) {
        Some(Phase::Handshaking(None)) => hub.timed_out(token),
        Some(Phase::Handshaking(Some(head))) => {
            let head_only = asks_head(&head.received);
            hub.refuse(token, &Refusal::TimedOut, head_only);
        }
        Some(Phase::Parked(_)) => undecided(hub, token),
        _ => {}
    }
}

/// Answers a request without a decision.
fn undecided(hub: &mut Hub, token: Token) {
    hub.refuse(token, &Refusal::Undecided { retry_after: RETRY_AFTER }, false);
}

/// Finds the place at the path of a request, and runs the filters.
fn answer<S>(context: &mut Context<'_, S>, token: Token, mut request: Request) {
    let (hub, registry) = (&mut *context.hub, context.registry);
    let head_only = request.has_method("HEAD");
    let Some((place, values)) = registry.places.find(request.path()) else {
        return hub.refuse(token, &Refusal::NotFound, head_only);
    };
    let destination = match (&place.route, &place.page) {
        (Some((route, names)), page) if page.is_none() || request.asks_websocket() => {
            request.set_params(names, &values);
            check_upgrade(hub, &registry.routes[*route as usize].policy, &request, head_only)
                .map(|key| Destination::Connection { route: *route, key })
        }
        (_, Some((page, names))) => check_method(&request, head_only).map(|()| {
            request.set_params(names, &values);
            Destination::Page { page: *page, head_only }
        }),
        _ => Err(Refusal::NotFound),
    };
    let destination = match destination {
        Ok(destination) => destination,
        Err(refusal) => return hub.refuse(token, &refusal, head_only),
    };
    let Some(peer) = hub.get(token).map(|connection| connection.peer.get()) else { return };
    let incoming = Incoming {
        request,
        peer,
        attributes: Default::default(),
        #[cfg(feature = "_tls")]
        tls: tls_info(hub, token),
        token,
        ticket: None,
    };
    admit(context, Admission { incoming, destination, filter: 0 }, Ok(()));
    context.drain_notifications();
}

#[cfg(feature = "_tls")]
fn tls_info(hub: &Hub, token: Token) -> Option<Box<TlsInfo>> {
    hub.get(token)?.stream.tls()?.info().map(Box::new)
}

/// Continues after a filter: runs the others, and if none objects, opens the connection or calls
/// the page. If a filter has deferred its answer, it parks the request.
fn admit<S>(context: &mut Context<'_, S>, admission: Admission, mut verdict: Result<(), Response>) {
    let Admission { mut incoming, destination, mut filter } = admission;
    let token = incoming.token;
    while verdict.is_ok()
        && incoming.ticket.is_none()
        && let Some(next) = filter_at(context.registry, &destination, filter)
    {
        verdict = ask_filter(context, next, &mut incoming);
        filter += 1;
    }
    if let (Ok(()), Some(ticket)) = (&verdict, incoming.ticket.take()) {
        return park(
            context.hub,
            incoming,
            Parked { destination, filter, early: Vec::new(), ticket },
        );
    }
    match (destination, verdict) {
        (Destination::Connection { .. }, Err(response)) => {
            log::debug!("a filter refused {} with {}", incoming.peer, response.status());
            context.hub.stats.requests_refused.filter += 1;
            context.hub.respond(token, &response, false);
            context.hub.stats.panics += incoming.attributes.discard();
        }
        (Destination::Connection { route, key }, Ok(())) => {
            // Filters may have changed that, or the time that they took.
            if let Err(refusal) = check_room(context.hub) {
                context.hub.stats.panics += incoming.attributes.discard();
                return context.hub.refuse(token, &refusal, false);
            }
            switch_protocols(context, route, &key, incoming);
            context.opened(token);
        }
        (Destination::Page { page, head_only }, verdict) => {
            let response = match verdict {
                Err(response) => response,
                Ok(()) => call_page(context, page, &incoming),
            };
            context.hub.respond(token, &response, head_only);
            context.hub.stats.panics += incoming.attributes.discard();
            context.hub.stats.pages += 1;
        }
    }
}

fn park(hub: &mut Hub, incoming: Incoming, parked: Parked) {
    let Incoming { request, attributes, token, .. } = incoming;
    hub.park(token, request, attributes, parked);
    if hub.stopping.is_some() {
        hub.refuse(token, &Refusal::Refusing { retry_after: RETRY_AFTER }, false);
    }
}

/// Whether there is room for one more connection.
fn check_room(hub: &Hub) -> Result<(), Refusal> {
    if hub.is_refusing() || hub.stopping.is_some() {
        return Err(Refusal::Refusing { retry_after: RETRY_AFTER });
    }
    if hub.open_len() >= hub.limits.max_connections {
        return Err(Refusal::Full { retry_after: RETRY_AFTER });
    }
    Ok(())
}

/// Checks the method: HEAD is allowed where GET is, at every path (RFC 9110 §9.1).
fn check_method(request: &Request, head_only: bool) -> Result<(), Refusal> {
    if head_only || request.has_method("GET") {
        return Ok(());
    }
    Err(Refusal::MethodNotAllowed { allow: "GET, HEAD" })
}

/// Checks an upgrade for every possible fault, in their order of precedence.
///
/// HEAD gets the refusal that GET would get. If GET would be upgraded, HEAD gets 426: a handshake
/// is a GET (RFC 6455 §4.1).
fn check_upgrade(
    hub: &Hub,
    policy: &Policy,
    request: &Request,
    head_only: bool,
) -> Result<Key, Refusal> {
    check_method(request, head_only)?;
    let key = http::check_handshake(request)?;
    if !policy.origins.is_empty() && !http::origin_allowed(request, &policy.origins) {
        return Err(Refusal::OriginNotAllowed);
    }
    check_room(hub)?;
    if head_only {
        return Err(Refusal::UpgradeRequired);
    }
    Ok(key)
}

/// Answers an upgrade with 101: the connection is open.
fn switch_protocols<S>(context: &mut Context<'_, S>, route: u32, key: &Key, incoming: Incoming) {
    let Incoming { request, attributes, token, .. } = incoming;
    let policy = &context.registry.routes[route as usize].policy;
    let chosen = http::choose_subprotocol(&request, &policy.subprotocols);
    let subprotocol = chosen.map(|chosen| policy.subprotocols[chosen].as_str());
    let (compression, extensions) = policy.agree_on_compression(&request).unzip();
    let mut head = std::mem::take(&mut context.hub.head);
    head.clear();
    http::write_switching_protocols(key, subprotocol, extensions.as_deref(), &mut head);
    let subprotocol = chosen.and_then(|chosen| NonZeroU16::new(u16::try_from(chosen + 1).ok()?));
    let slow_reader = policy.slow_reader;
    let upgraded =
        Upgraded { head, route, subprotocol, request, attributes, compression, slow_reader };
    context.hub.open(token, upgraded);
}

/// The filter at this position: the server's come first, then the route's.
fn filter_at<'r, S>(
    registry: &'r Registry<S>,
    destination: &Destination,
    asked: usize,
) -> Option<&'r Filter<S>> {
    let own = match destination {
        Destination::Connection { route, .. } => &registry.routes[*route as usize].filters[..],
        Destination::Page { .. } => &[],
    };
    registry.filters.iter().chain(own).nth(asked)
}

fn ask_filter<S>(
    context: &mut Context<'_, S>,
    filter: &Filter<S>,
    incoming: &mut Incoming,
) -> Result<(), Response> {
    let verdict = context.guard("filter", None, |context| {
        let (state, mut sockets) = context.lend();
        filter(state, &mut sockets, incoming)
    });
    verdict.unwrap_or_else(|_| Err(internal_error()))
}

fn call_page<S>(context: &mut Context<'_, S>, page: usize, incoming: &Incoming) -> Response {
    let page = &context.registry.pages[page];
    let response = context.guard("page", None, |context| {
        let (state, mut sockets) = context.lend();
        page(state, &mut sockets, incoming)
    });
    response.unwrap_or_else(|_| internal_error())
}

fn internal_error() -> Response {
    Response::text("Internal server error.\n").with_status(500)
}

/// Drops `len` bytes from the front.
fn advance(input: &mut &mut [u8], len: usize) {
    *input = &mut std::mem::take(input)[len..];
}
