//! From the bytes of a request to an open connection, a page or a refusal: finds the place, asks the filters, answers.

use std::num::NonZeroU16;

use crate::connection::{Head, Phase};
use crate::dispatch;
use crate::handshake::{self, Key, Refusal, Request, Response, Scan};
use crate::hub::{Hub, Upgraded};
use crate::route::{Incoming, Registry};
use crate::socket::Sockets;
use crate::stream::Stream;
use crate::token::Token;
use crate::turn::Turn;

/// What `Retry-After` tells those who find the server full or closing, in seconds.
const RETRY_AFTER: u32 = 5;

/// Takes the request head off the front of `input`, as far as it is there, and answers it when it is whole.
pub(crate) fn receive<S>(
    state: &mut S,
    hub: &mut Hub<Stream>,
    registry: &Registry<S>,
    token: Token,
    input: &mut &mut [u8],
    turn: &mut Turn,
) {
    let limits = hub.limits.head;
    let Some(connection) = hub.get_mut(token) else { return };
    let Phase::Handshaking(partial) = &mut connection.phase else { return };
    let request = match partial {
        None => {
            let mut head = Head::default();
            match head.scanner.scan(input, &limits) {
                Ok(Scan::Complete(len)) => {
                    let request = Request::parse(&input[..len], &limits);
                    advance(input, len);
                    request
                }
                Ok(Scan::Partial) => {
                    head.received.extend_from_slice(input);
                    *partial = Some(Box::new(head));
                    return;
                }
                Err(refusal) => Err(refusal),
            }
        }
        Some(head) => {
            let before = head.received.len();
            // One byte more than the limit is enough to see that it is passed.
            let take = input.len().min((limits.max_bytes + 1).saturating_sub(before));
            head.received.extend_from_slice(&input[..take]);
            match head.scanner.scan(&head.received, &limits) {
                Ok(Scan::Complete(len)) => {
                    advance(input, len - before);
                    Request::parse(&head.received[..len], &limits)
                }
                Ok(Scan::Partial) => return,
                Err(refusal) => Err(refusal),
            }
        }
    };
    match request {
        Ok(request) => answer(state, hub, registry, token, request, turn),
        Err(refusal) => refuse(hub, token, &refusal, false),
    }
}

/// Answers a request whose head did not come in time; if nothing came at all, there is nothing to answer.
pub(crate) fn late(hub: &mut Hub<Stream>, token: Token) {
    match hub.get(token).map(|connection| &connection.phase) {
        Some(Phase::Handshaking(None)) => hub.bury(token),
        Some(Phase::Handshaking(Some(_))) => refuse(hub, token, &Refusal::TimedOut, false),
        _ => {}
    }
}

fn answer<S>(
    state: &mut S,
    hub: &mut Hub<Stream>,
    registry: &Registry<S>,
    token: Token,
    mut request: Request,
    turn: &mut Turn,
) {
    let head_only = request.method() == "HEAD";
    let Some((place, values)) = registry.places.find(request.path()) else {
        return refuse(hub, token, &Refusal::NotFound, head_only);
    };
    let Some(peer) = hub.get(token).map(|connection| connection.peer.get()) else { return };
    match (&place.route, &place.page) {
        (Some((route, names)), page) if page.is_none() || request.asks_websocket() => {
            request.set_params(names, &values);
            let key = match check_upgrade(hub, registry, &request, *route, page.is_some()) {
                Ok(key) => key,
                Err(refusal) => return refuse(hub, token, &refusal, head_only),
            };
            let mut incoming = Incoming { request, peer, attributes: Default::default() };
            if let Err(response) = ask_filters(state, hub, registry, &mut incoming) {
                hub.stats.requests_refused.filter += 1;
                return respond(hub, token, &response, false);
            }
            // A filter may have changed that.
            if hub.stopping.is_some() {
                return refuse(hub, token, &Refusal::Refusing { retry_after: RETRY_AFTER }, head_only);
            }
            upgrade(hub, registry, token, *route, &key, incoming);
            turn.opened += 1;
            dispatch::opened(state, hub, registry, token, *route);
        }
        (_, Some((page, names))) => {
            if !head_only && request.method() != "GET" {
                return refuse(hub, token, &Refusal::MethodNotAllowed { allow: "GET, HEAD" }, head_only);
            }
            request.set_params(names, &values);
            let mut incoming = Incoming { request, peer, attributes: Default::default() };
            let response = match ask_filters(state, hub, registry, &mut incoming) {
                Err(response) => response,
                Ok(()) => call_page(state, hub, registry, *page, &incoming),
            };
            respond(hub, token, &response, head_only);
            turn.pages += 1;
            hub.stats.pages += 1;
        }
        _ => refuse(hub, token, &Refusal::NotFound, head_only),
    }
    dispatch::tell_records(state, hub, registry);
}

/// Everything about an upgrade that can be wrong, in the order in which it counts.
fn check_upgrade<S>(
    hub: &Hub<Stream>,
    registry: &Registry<S>,
    request: &Request,
    route: u32,
    has_page: bool,
) -> Result<Key, Refusal> {
    if request.method() != "GET" {
        return Err(Refusal::MethodNotAllowed { allow: if has_page { "GET, HEAD" } else { "GET" } });
    }
    let key = handshake::check(request)?;
    let origins = registry.origins(route);
    if !origins.is_empty() && !handshake::origin_allowed(request, origins) {
        return Err(Refusal::OriginNotAllowed);
    }
    if hub.refusing || hub.stopping.is_some() {
        return Err(Refusal::Refusing { retry_after: RETRY_AFTER });
    }
    if hub.open_len() >= hub.limits.max_connections {
        return Err(Refusal::Full { retry_after: RETRY_AFTER });
    }
    Ok(key)
}

fn upgrade<S>(hub: &mut Hub<Stream>, registry: &Registry<S>, token: Token, route: u32, key: &Key, incoming: Incoming) {
    let spoken = registry.subprotocols(route);
    let chosen = handshake::choose_subprotocol(&incoming.request, spoken);
    let mut head = Vec::new();
    let (compression, extensions) = registry.agree_on_compression(route, &incoming.request).unzip();
    let subprotocol = chosen.map(|chosen| spoken[chosen].as_str());
    handshake::write_switching_protocols(key, subprotocol, extensions.as_deref(), &mut head);
    let slow_reader = registry.slow_reader(route);
    let upgraded =
        Upgraded { head, request: incoming.request, attributes: incoming.attributes, compression, slow_reader };
    let number = chosen.and_then(|chosen| NonZeroU16::new(u16::try_from(chosen + 1).ok()?));
    hub.open(token, route, number, upgraded);
}

fn ask_filters<S>(
    state: &mut S,
    hub: &mut Hub<Stream>,
    registry: &Registry<S>,
    incoming: &mut Incoming,
) -> Result<(), Response> {
    for filter in &registry.filters {
        hub.depth += 1;
        let verdict = dispatch::guard(state, registry, "filter", None, |state| {
            filter(state, &mut Sockets { hub, registry }, incoming)
        });
        hub.depth -= 1;
        verdict.unwrap_or_else(|_| Err(internal_error()))?;
    }
    Ok(())
}

fn call_page<S>(
    state: &mut S,
    hub: &mut Hub<Stream>,
    registry: &Registry<S>,
    page: usize,
    incoming: &Incoming,
) -> Response {
    let page = &registry.pages[page];
    hub.depth += 1;
    let response =
        dispatch::guard(state, registry, "page", None, |state| page(state, &mut Sockets { hub, registry }, incoming));
    hub.depth -= 1;
    response.unwrap_or_else(|_| internal_error())
}

fn internal_error() -> Response {
    Response::text("Internal server error.\n").with_status(500)
}

fn refuse(hub: &mut Hub<Stream>, token: Token, refusal: &Refusal, head_only: bool) {
    hub.stats.requests_refused.count(refusal);
    log::debug!("refused with {}: {refusal}", refusal.status());
    respond(hub, token, &refusal.response(), head_only);
}

fn respond(hub: &mut Hub<Stream>, token: Token, response: &Response, head_only: bool) {
    let mut bytes = Vec::new();
    response.encode(head_only, &mut bytes);
    hub.respond(token, bytes);
}

/// Drops `len` bytes from the front.
fn advance(input: &mut &mut [u8], len: usize) {
    *input = &mut std::mem::take(input)[len..];
}
