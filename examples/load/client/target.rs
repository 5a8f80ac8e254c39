//! Where to: the parts of a `ws://` or `wss://` URL, and the address behind it.

use super::{Failure, Tls};
use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// How long the first connection, which only asks whether the port is open, may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0:?} is no WebSocket URL: write ws://host:port/path or wss://…")]
    Scheme(String),
    #[cfg(feature = "tls")]
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    #[cfg(feature = "tls")]
    #[error(
        "wss:// needs --ca FILE, with the root that vouches for the server (PEM; for a public \
         server the system's, such as /etc/ssl/certs/ca-certificates.crt), or --insecure, which \
         accepts any certificate"
    )]
    TrustsNothing,
    #[error("{0:?} is no valid URL: {1}")]
    Invalid(String, &'static str),
    #[error("cannot resolve {0:?}: {1}")]
    Resolve(String, String),
    #[error(
        "{0} is not a loopback address: load that you are not asked for is an attack; \
         --allow-remote if you are"
    )]
    Remote(SocketAddr),
    #[error(transparent)]
    Unreachable(#[from] Failure),
}

/// Which certificates of a server are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    #[default]
    Nothing,
    /// Those that a root in this file vouches for.
    Roots(PathBuf),
    Anything,
}

/// A WebSocket URL (RFC 6455 §3), taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with a slash.
    pub path: String,
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, TargetError> {
        let invalid = |why| TargetError::Invalid(text.to_owned(), why);
        let (is_tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => (true, rest),
            _ => return Err(TargetError::Scheme(text.to_owned())),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("spaces and letters beyond ASCII must be percent-encoded"));
        }
        if rest.contains('#') {
            return Err(invalid("a fragment (#) has no meaning for a WebSocket"));
        }
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(invalid("user and password go into a --header"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                v6.split_once(']').ok_or_else(|| invalid("an IPv6 address is missing its ]"))?
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                port.parse().map_err(|_| invalid("the port is not a number up to 65535"))?
            }
            None if port.is_empty() && is_tls => 443,
            None if port.is_empty() => 80,
            None => return Err(invalid("what follows the ] is no port")),
        };
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { is_tls, host: host.to_owned(), port, path: format!("{slash}{path}") })
    }

    /// The value of the Host header.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// A server to load.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: Url,
    pub address: SocketAddr,
    pub tls: Option<Tls>,
}

impl Target {
    /// Resolves the host, and takes the first of its addresses with an open port. `resume`:
    /// connections continue the TLS sessions of earlier ones.
    pub fn find(
        url: Url,
        allow_remote: bool,
        trust: &Trust,
        resume: bool,
    ) -> Result<Target, TargetError> {
        let tls = url.is_tls.then(|| Tls::new(&url.host, trust, resume)).transpose()?;
        let resolve = |e: std::io::Error| TargetError::Resolve(url.host.clone(), e.to_string());
        let addresses = (url.host.as_str(), url.port).to_socket_addrs().map_err(resolve)?;
        let mut last = TargetError::Resolve(url.host.clone(), "the name has no address".to_owned());
        for address in addresses {
            if !allow_remote && !address.ip().to_canonical().is_loopback() {
                return Err(TargetError::Remote(address));
            }
            match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
                Ok(_) => return Ok(Target { url, address, tls }),
                Err(error) => last = Failure::of_connect(&error, address).into(),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, authority, path) in [
            ("ws://localhost:9001/echo?x=1", "localhost:9001", "/echo?x=1"),
            ("WS://127.0.0.1", "127.0.0.1:80", "/"),
            ("ws://[::1]:3/a", "[::1]:3", "/a"),
            ("ws://[::1]", "[::1]:80", "/"),
            ("ws://host?q", "host:80", "/?q"),
            ("wss://host", "host:443", "/"),
            ("wss://host:3443/a", "host:3443", "/a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.authority().as_str(), url.path.as_str()), (authority, path), "{text}");
            assert_eq!(url.is_tls, text.starts_with("wss:"));
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_a_reason() {
        for text in [
            "",
            "localhost",
            "http://a",
            "ws://",
            "ws://:80/",
            "ws://a:x",
            "ws://a:99999",
            "ws://[::1",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        for text in ["ws://a/#b", "ws://u:p@a/", "ws://a/ b", "ws://[::1]80/"] {
            assert!(matches!(Url::parse(text), Err(TargetError::Invalid(..))), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_loaded_unasked() {
        // TEST-NET-1. It is refused before anything is sent to it.
        let url = Url::parse("ws://192.0.2.1:1/").unwrap();
        assert!(matches!(
            Target::find(url, false, &Trust::Nothing, false),
            Err(TargetError::Remote(_))
        ));
    }
}
