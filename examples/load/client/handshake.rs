//! The opening handshake from the client's side (RFC 6455 §4.1): the request, and whether the
//! answer agrees to it.

use super::{Failure, Url};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ikisocket::http::accept_key;

/// A longer answer is no answer to an upgrade.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// So each of our messages can be compressed once for all connections.
const OFFER: &str = "permessage-deflate; client_no_context_takeover";

/// What every upgrade request says beside its key.
#[derive(Clone, Debug, Default)]
pub struct Upgrade {
    pub subprotocol: Option<String>,
    pub headers: Vec<(String, String)>,
    /// permessage-deflate is offered, and must be taken.
    pub deflate: bool,
}

/// An answer that agrees to the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of its head, in bytes.
    pub length: usize,
    /// The server's compressed messages may refer to its earlier ones.
    pub refers_back: bool,
}

impl Upgrade {
    /// The request, with a `key` from [`new_key`].
    pub fn request(&self, url: &Url, key: &str) -> Vec<u8> {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
            url.path,
            url.authority()
        );
        if let Some(subprotocol) = &self.subprotocol {
            request += &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n");
        }
        if self.deflate {
            request += &format!("Sec-WebSocket-Extensions: {OFFER}\r\n");
        }
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        request.into_bytes()
    }

    /// Reads the answer at the beginning of `received`; `None` if it is incomplete.
    pub fn check_answer(&self, received: &[u8], key: &str) -> Result<Option<Answer>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(received) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => {
                return Err(Failure::BadUpgrade("its head is longer than 16 KiB"));
            }
            Err(_) => return Err(Failure::BadUpgrade("it is not HTTP/1.1")),
        };
        let header = |name: &str| {
            let found =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok().map(str::trim)
        };
        let code = response.code.unwrap_or_default();
        if code != 101 {
            let line =
                received.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
            let mut line = String::from_utf8_lossy(line).into_owned();
            if let (300..=399, Some(location)) = (code, header("Location")) {
                line += &format!(", Location: {location}");
            }
            // The server must not move the cursor of the terminal that shows it.
            let line = line.replace(char::is_control, "\u{FFFD}");
            return Err(Failure::Status { code, line });
        }
        if !header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
            return Err(Failure::BadUpgrade("no `Upgrade: websocket`"));
        }
        let is_upgrade = |value: &str| {
            value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        };
        if !header("Connection").is_some_and(is_upgrade) {
            return Err(Failure::BadUpgrade("no `Connection: Upgrade`"));
        }
        if header("Sec-WebSocket-Accept").map(str::as_bytes) != Some(&accept_key(key)) {
            return Err(Failure::BadUpgrade("Sec-WebSocket-Accept does not belong to the key"));
        }
        let refers_back = match header("Sec-WebSocket-Extensions").filter(|value| !value.is_empty())
        {
            None if self.deflate => return Err(Failure::NoDeflate),
            None => false,
            Some(extensions) if self.deflate => check_deflate(extensions)?,
            Some(_) => {
                return Err(Failure::BadUpgrade("it names an extension that was not offered"));
            }
        };
        match (header("Sec-WebSocket-Protocol"), &self.subprotocol) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(Failure::BadUpgrade("it does not take the --subprotocol"));
            }
            (Some(chosen), Some(offered)) if offered.split(',').any(|one| one.trim() == chosen) => {
            }
            (Some(_), _) => {
                return Err(Failure::BadUpgrade("it chose a subprotocol that was not offered"));
            }
        }
        Ok(Some(Answer { length, refers_back }))
    }
}

/// Whether the server may refer back, from its answer to our offer (RFC 7692 §7.1).
fn check_deflate(extensions: &str) -> Result<bool, Failure> {
    let mut parts = extensions.split(';').map(str::trim);
    if !parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) {
        return Err(Failure::BadUpgrade("it names an extension that was not offered"));
    }
    let mut refers_back = true;
    for part in parts {
        match part
            .split_once('=')
            .map_or(part, |(name, _)| name.trim_end())
            .to_ascii_lowercase()
            .as_str()
        {
            "server_no_context_takeover" => refers_back = false,
            "client_no_context_takeover" | "server_max_window_bits" => {}
            _ => {
                return Err(Failure::BadUpgrade(
                    "it has a parameter of permessage-deflate that was not offered",
                ));
            }
        }
    }
    Ok(refers_back)
}

/// A fresh `Sec-WebSocket-Key`: 16 random bytes in base64.
pub fn new_key() -> String {
    BASE64.encode(uuid::Uuid::new_v4().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ=="; // of RFC 6455 §1.3
    const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
                          Connection: keep-alive, Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    #[test]
    fn the_answer_of_the_rfc_is_taken_and_what_follows_is_left() {
        let answer = format!("{ANSWER}\r\n");
        let upgrade = Upgrade::default();
        assert_eq!(upgrade.check_answer(&answer.as_bytes()[..40], KEY), Ok(None));
        assert_eq!(
            upgrade.check_answer(format!("{answer}\u{1}").as_bytes(), KEY),
            Ok(Some(Answer { length: answer.len(), refers_back: false }))
        );
    }

    #[test]
    fn another_status_is_shown_as_the_server_wrote_it() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let failure = Upgrade::default().check_answer(answer, KEY).unwrap_err().of_path("/nowhere");
        assert!(
            failure.to_string().ends_with("it answered: HTTP/1.1 404 Not Found, for /nowhere"),
            "{failure}"
        );
    }

    #[test]
    fn a_redirection_says_where_to() {
        let answer = b"HTTP/1.1 302 Found\r\nlocation: /login?next=%2Fws\r\n\r\n";
        let failure = Upgrade::default().check_answer(answer, KEY).unwrap_err().of_path("/ws");
        assert!(
            failure.to_string().ends_with("HTTP/1.1 302 Found, Location: /login?next=%2Fws"),
            "{failure}"
        );
    }

    #[test]
    fn a_refusal_cannot_move_the_cursor_of_a_terminal() {
        // U+009B is the ESC [ of terminals that take 8-bit control characters.
        let answer = "HTTP/1.1 301 Moved\r\nLocation: /a\u{9b}2J\r\n\r\n".as_bytes();
        let failure = Upgrade::default().check_answer(answer, KEY).unwrap_err();
        assert!(failure.to_string().ends_with("Location: /a\u{fffd}2J"), "{failure}");
    }

    #[test]
    fn an_answer_that_agrees_to_something_else_is_refused() {
        let plain = Upgrade::default();
        let chat = Upgrade { subprotocol: Some("chat, talk".to_owned()), ..Upgrade::default() };
        let with = |line: &str| format!("{ANSWER}{line}\r\n\r\n").into_bytes();
        assert!(plain.check_answer(&with("Sec-WebSocket-Protocol: chat"), KEY).is_err());
        assert!(
            plain.check_answer(&with("Sec-WebSocket-Extensions: permessage-deflate"), KEY).is_err()
        );
        assert!(plain.check_answer(&with("X: y"), "AAAAAAAAAAAAAAAAAAAAAA==").is_err());
        assert!(chat.check_answer(&with("X: y"), KEY).is_err());
        assert!(chat.check_answer(&with("Sec-WebSocket-Protocol: talk"), KEY).is_ok());
        assert!(plain.check_answer(b"SSH-2.0-OpenSSH\r\n\r\n", KEY).is_err());
    }

    #[test]
    fn compression_must_be_taken_as_it_was_offered() {
        let upgrade = Upgrade { deflate: true, ..Upgrade::default() };
        let agreed = |extensions: &str| {
            let answer = format!("{ANSWER}Sec-WebSocket-Extensions: {extensions}\r\n\r\n");
            Ok(upgrade.check_answer(answer.as_bytes(), KEY)?.expect("a whole answer").refers_back)
        };
        assert_eq!(agreed("permessage-deflate; client_no_context_takeover"), Ok(true));
        assert_eq!(agreed("permessage-deflate; server_max_window_bits=9"), Ok(true));
        assert_eq!(agreed("Permessage-Deflate;server_no_context_takeover"), Ok(false));
        assert_eq!(agreed(""), Err(Failure::NoDeflate));
        assert!(
            agreed("permessage-deflate; client_max_window_bits=9").is_err(),
            "it was not offered"
        );
        assert!(agreed("permessage-deflate, permessage-deflate").is_err());
        assert!(agreed("x-webkit-deflate-frame").is_err());
    }

    #[test]
    fn the_request_says_what_was_asked_for() {
        let upgrade = Upgrade {
            subprotocol: Some("chat".into()),
            headers: vec![("X-Id".into(), "7".into())],
            deflate: true,
        };
        let request = upgrade.request(&Url::parse("ws://[::1]:9/a?b").unwrap(), KEY);
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /a?b HTTP/1.1\r\nHost: [::1]:9\r\n"), "{request}");
        let end = "Sec-WebSocket-Protocol: chat\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n\
                   X-Id: 7\r\n\r\n";
        assert!(request.ends_with(end), "{request}");
    }
}
