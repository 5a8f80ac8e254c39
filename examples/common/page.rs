//! Web pages of the examples, whose people write to each other.

use ikisocket::{HeaderError, Response, Socket, Uuid};

/// What the pages of rooms have in common.
const ROOM_STYLE: &str = include_str!("room.css");
const ROOM_SCRIPT: &str = include_str!("room.js");

/// A page. Only scripts and styles with the nonce run, and markup in a message cannot know it. In
/// the page's text, NONCE stands for it, and ROOM_STYLE and ROOM_SCRIPT for those of rooms.
pub fn page(text: &str) -> Result<Response, HeaderError> {
    let nonce = Uuid::new_v4().simple();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let text = text.replace("ROOM_STYLE", ROOM_STYLE).replace("ROOM_SCRIPT", ROOM_SCRIPT);
    Response::html(text.replace("NONCE", &nonce.to_string()))
        .with_header("Content-Security-Policy", policy)?
        .with_header("X-Content-Type-Options", "nosniff")?
        .with_header("Referrer-Policy", "no-referrer")?
        .with_header("Cache-Control", "no-store")
}

/// Shortens a text to `most` characters, of which the last is an ellipsis then. Returns whether it
/// was longer.
pub fn cut(text: &mut String, most: usize) -> bool {
    let is_longer = text.chars().nth(most).is_some();
    if is_longer && let Some((end, _)) = text.char_indices().nth(most - 1) {
        text.truncate(end);
        text.push('…');
    }
    is_longer
}

/// A name that the query of the client's request has: at most `most` characters of it, or `default`
/// if it has none.
pub fn query_name<S>(kws: &Socket<'_, S>, key: &str, default: &str, most: usize) -> String {
    let mut name = kws.query(key).unwrap_or_default().trim().to_owned();
    cut(&mut name, most);
    if name.is_empty() { default.to_owned() } else { name }
}
