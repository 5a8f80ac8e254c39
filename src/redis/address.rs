//! The address of a Redis: where it is, and how to log in. It resolves no name, and its texts show
//! no password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// The port of Redis.
const PORT: u16 = 6379;

/// The address of a Redis.
///
/// | form | |
/// |---|---|
/// | `redis://host` | port 6379, database 0 |
/// | `redis://host:port/2` | database 2 |
/// | `redis://user:password@host` | a user of its own (ACL) |
/// | `redis://:password@host` | the password of the default user (`requirepass`) |
/// | `redis://[::1]:6379` | IPv6 |
/// | `redis+unix:///run/redis.sock?db=2` | a Unix socket |
///
/// User, password and path are percent-decoded: an `@` in a password is written `%40`.
///
/// ```
/// use ikisocket::redis::{Address, Place};
///
/// let address: Address = "redis://app:s%40fe@cache.internal/2".parse()?;
/// assert_eq!(address.place(), &Place::Tcp { host: "cache.internal".into(), port: 6379 });
/// assert_eq!(address.to_string(), "redis://cache.internal:6379/2"); // without the password
/// # Ok::<(), ikisocket::redis::BusAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    place: Place,
    user: Option<Box<str>>,
    password: Option<Password>,
    database: u32,
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// At a port of a host.
    Tcp {
        /// A name or an IP address, that of IPv6 without its brackets.
        host: Box<str>,
        /// The port.
        port: u16,
    },
    /// At a Unix socket.
    Unix {
        /// The path of the socket.
        path: PathBuf,
    },
}

/// A password, which no text shows.
#[derive(Clone, PartialEq, Eq)]
struct Password(Box<str>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// What is wrong with the text of an [`Address`]. The texts of these errors repeat nothing of it,
/// because any part of a wrong address may be a password.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum BusAddressError {
    /// There is no `://`.
    #[error("the address of Redis has no scheme: write redis://HOST:PORT or redis+unix:///PATH")]
    NoScheme,
    /// The scheme is none of the two.
    #[error(
        "the scheme of the address of Redis is unknown: write redis://HOST:PORT or redis+unix:///PATH"
    )]
    UnknownScheme,
    /// `rediss://`, Redis over TLS.
    #[error(
        "rediss:// (TLS) is not supported: run stunnel beside this server, with its `connect` to \
         Redis and its `accept` on a port of 127.0.0.1, and write redis://127.0.0.1:PORT"
    )]
    Tls,
    /// The host is missing.
    #[error(
        "the address of Redis has no host: write redis://HOST:PORT. A / ? # or @ in a password is \
         written %2F %3F %23 %40"
    )]
    NoHost,
    /// The host has a character that no name and no IP address has.
    #[error(
        "the host in the address of Redis is neither a name nor an IP address: write an IPv6 \
         address in brackets, and / ? # @ in a password as %2F %3F %23 %40"
    )]
    InvalidHost,
    /// The port is no number from 1 to 65535.
    #[error(
        "the port in the address of Redis is not a number from 1 to 65535. A / ? # or @ in a \
         password is written %2F %3F %23 %40"
    )]
    InvalidPort,
    /// There is a user and no password.
    #[error(
        "the address of Redis has a user and no password: write redis://USER:PASSWORD@HOST, or \
         redis://:PASSWORD@HOST for a password alone"
    )]
    NoPassword,
    /// A percent sign begins no byte, or the bytes are no UTF-8.
    #[error("a user, a password or a path in the address of Redis is not percent-encoded UTF-8")]
    InvalidEncoding,
    /// The database is no number.
    #[error(
        "the database in the address of Redis is not a number: write redis://HOST/2, or \
         redis+unix:///PATH?db=2"
    )]
    InvalidDatabase,
    /// Something follows that has no meaning here.
    #[error(
        "the address of Redis has parameters that are not known: a Unix socket may have ?db=NUMBER, \
         and other settings have methods"
    )]
    UnknownParameter,
    /// A path of a Unix socket is missing or is relative.
    #[error("the path of a Unix socket is absolute: write redis+unix:///run/redis.sock")]
    InvalidPath,
}

/// An error that `main` returns is printed with [`Debug`](fmt::Debug): the text says what to do.
impl fmt::Debug for BusAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Address {
    /// Where the Redis is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The number of the database. Channels do not belong to one, but a user may be restricted to
    /// it.
    #[must_use]
    pub fn database(&self) -> u32 {
        self.database
    }

    /// User and password, readable, if there is a password. Redis names the user of a password
    /// alone `default`.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &str)> {
        let password = self.password.as_ref()?;
        Some((self.user.as_deref().unwrap_or("default"), &password.0))
    }
}

impl FromStr for Address {
    type Err = BusAddressError;

    fn from_str(text: &str) -> Result<Self, BusAddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(BusAddressError::NoScheme)?;
        let is_unix = match &*scheme.to_ascii_lowercase() {
            "redis" => false,
            "redis+unix" | "unix" => true,
            "rediss" => return Err(BusAddressError::Tls),
            _ => return Err(BusAddressError::UnknownScheme),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        if rest.contains('#') || query.is_some_and(|query| query.contains('#')) {
            return Err(BusAddressError::UnknownParameter);
        }
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        // Whether the place is right is looked at before the login: a password that is not encoded
        // makes the place wrong.
        let (place, database) =
            if is_unix { unix(host, path, query)? } else { tcp(host, path, query)? };
        let (user, password) = login.map_or(Ok((None, None)), self::login)?;
        Ok(Self { place, user, password, database })
    }
}

fn tcp(host: &str, path: &str, query: Option<&str>) -> Result<(Place, u32), BusAddressError> {
    if host.is_empty() {
        return Err(BusAddressError::NoHost);
    }
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(BusAddressError::InvalidHost)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| BusAddressError::InvalidHost)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(BusAddressError::InvalidHost)?),
            };
            (host, port)
        }
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let port = match port {
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            port.parse().ok().filter(|&port| port > 0).ok_or(BusAddressError::InvalidPort)?
        }
        Some(_) => return Err(BusAddressError::InvalidPort),
        None => PORT,
    };
    if host.is_empty() {
        return Err(BusAddressError::NoHost);
    }
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if !host.bytes().all(is_usual) {
        return Err(BusAddressError::InvalidHost);
    }
    if query.is_some() {
        return Err(BusAddressError::UnknownParameter);
    }
    let database = match path.strip_prefix('/') {
        None | Some("") => 0,
        Some(database) => number(database)?,
    };
    Ok((Place::Tcp { host: host.into(), port }, database))
}

fn unix(host: &str, path: &str, query: Option<&str>) -> Result<(Place, u32), BusAddressError> {
    if !host.is_empty() || path.len() < 2 {
        return Err(BusAddressError::InvalidPath);
    }
    let database = match query {
        None => 0,
        Some(query) => number(query.strip_prefix("db=").ok_or(BusAddressError::UnknownParameter)?)?,
    };
    Ok((Place::Unix { path: decoded(path)?.into() }, database))
}

fn number(text: &str) -> Result<u32, BusAddressError> {
    match text.bytes().all(|digit| digit.is_ascii_digit()) {
        true => text.parse().map_err(|_| BusAddressError::InvalidDatabase),
        false => Err(BusAddressError::InvalidDatabase),
    }
}

/// The user and the password.
fn login(text: &str) -> Result<(Option<Box<str>>, Option<Password>), BusAddressError> {
    let (user, password) = text.split_once(':').ok_or(BusAddressError::NoPassword)?;
    if password.is_empty() {
        return if user.is_empty() { Ok((None, None)) } else { Err(BusAddressError::NoPassword) };
    }
    let password = Password(decoded(password)?.into());
    let user = if user.is_empty() { None } else { Some(decoded(user)?.into()) };
    Ok((user, Some(password)))
}

fn decoded(text: &str) -> Result<String, BusAddressError> {
    let encoded = text.split('%').skip(1);
    let is_hex = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    if !encoded.into_iter().all(is_hex) {
        return Err(BusAddressError::InvalidEncoding);
    }
    let bytes = percent_decode_str(text).decode_utf8();
    bytes.map(Into::into).map_err(|_| BusAddressError::InvalidEncoding)
}

/// The address without user and password, for logs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "redis://[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "redis://{host}:{port}"),
            Place::Unix { path } => write!(f, "redis+unix://{}", Path::new(path).display()),
        }?;
        match (&self.place, self.database) {
            (_, 0) => Ok(()),
            (Place::Tcp { .. }, database) => write!(f, "/{database}"),
            (Place::Unix { .. }, database) => write!(f, "?db={database}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp { host: host.into(), port }
    }

    #[track_caller]
    fn read(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[track_caller]
    fn error(text: &str) -> BusAddressError {
        text.parse::<Address>().unwrap_err()
    }

    #[test]
    fn hosts_ports_and_databases_are_read() {
        for (text, place, database, shown) in [
            ("redis://localhost", tcp("localhost", 6379), 0, "redis://localhost:6379"),
            ("redis://localhost/", tcp("localhost", 6379), 0, "redis://localhost:6379"),
            ("REDIS://10.0.0.7:7000/15", tcp("10.0.0.7", 7000), 15, "redis://10.0.0.7:7000/15"),
            ("redis://[::1]", tcp("::1", 6379), 0, "redis://[::1]:6379"),
            ("redis://[fe80::1]:80/1", tcp("fe80::1", 80), 1, "redis://[fe80::1]:80/1"),
            ("redis://my-cache_1.a.b:1", tcp("my-cache_1.a.b", 1), 0, "redis://my-cache_1.a.b:1"),
        ] {
            let address = read(text);
            assert_eq!((address.place(), address.database()), (&place, database), "{text}");
            assert_eq!(address.login(), None, "{text}");
            assert_eq!(address.to_string(), shown);
            assert_eq!(read(shown), address);
        }
    }

    #[test]
    fn unix_sockets_are_read() {
        let place = |path: &str| Place::Unix { path: path.into() };
        let address = read("redis+unix:///run/redis.sock");
        assert_eq!((address.place(), address.database()), (&place("/run/redis.sock"), 0));
        let address = read("unix:///a%20b/c?db=3");
        assert_eq!((address.place(), address.database()), (&place("/a b/c"), 3));
        assert_eq!(address.to_string(), "redis+unix:///a b/c?db=3");
        let address = read("redis+unix://app:pw@/run/redis.sock");
        assert_eq!(address.login().unwrap().0, "app");
    }

    #[test]
    fn users_and_passwords_are_decoded() {
        for (text, user, password) in [
            ("redis://app:secret@host", "app", "secret"),
            ("redis://:secret@host", "default", "secret"),
            ("redis://a%3Ab:%40%2F%25%C3%A9@host", "a:b", "@/%é"),
            ("redis://app:a:b@c@host", "app", "a:b@c"),
        ] {
            let address = read(text);
            assert_eq!(address.login(), Some((user, password)), "{text}");
            assert_eq!(address.place(), &tcp("host", 6379));
        }
        assert_eq!(read("redis://:@host").login(), None);
    }

    #[test]
    fn no_text_shows_a_password() {
        let address = read("redis://app:secret@host");
        for shown in [format!("{address:?}"), format!("{address:#?}"), address.to_string()] {
            assert!(!shown.contains("secret"), "{shown}");
        }
        for wrong in [
            "redis://app:se/cret@host",
            "redis://app:se?cret@host",
            "redis://app:se#cret@host",
            "redis://app:se%cret@host",
            "redis://:se/cret@host",
            "redis://secret@host",
            "rediss://app:secret@host",
            "redis://app:secret@",
            "app:secret@host",
            "secret://host",
        ] {
            let error = error(wrong);
            for shown in [format!("{error:?}"), error.to_string()] {
                let shown = shown.to_lowercase();
                assert!(!shown.contains("secret") && !shown.contains("cret@"), "{shown}");
            }
        }
    }

    #[test]
    fn each_mistake_has_an_error_that_says_what_to_write() {
        for (text, expected, says) in [
            ("localhost:6379", BusAddressError::NoScheme, "redis://HOST:PORT"),
            ("", BusAddressError::NoScheme, "redis+unix:///PATH"),
            ("http://host", BusAddressError::UnknownScheme, "redis://HOST:PORT"),
            ("redis-sentinel://host", BusAddressError::UnknownScheme, "redis://HOST:PORT"),
            ("rediss://host:6380", BusAddressError::Tls, "stunnel"),
            ("redis://", BusAddressError::NoHost, "redis://HOST:PORT"),
            ("redis://:6379", BusAddressError::NoHost, "redis://HOST:PORT"),
            ("redis://app:secret@", BusAddressError::NoHost, "redis://HOST:PORT"),
            ("redis:///0", BusAddressError::NoHost, "redis://HOST:PORT"),
            ("redis://::1:6379", BusAddressError::InvalidPort, "65535"),
            ("redis://[::1", BusAddressError::InvalidHost, "brackets"),
            ("redis://[host]", BusAddressError::InvalidHost, "brackets"),
            ("redis://[::1]6379", BusAddressError::InvalidHost, "brackets"),
            ("redis://my host", BusAddressError::InvalidHost, "name"),
            ("redis://host:0", BusAddressError::InvalidPort, "65535"),
            ("redis://host:65536", BusAddressError::InvalidPort, "65535"),
            ("redis://host:+1", BusAddressError::InvalidPort, "65535"),
            ("redis://host:", BusAddressError::InvalidPort, "65535"),
            ("redis://app:a/b@host", BusAddressError::InvalidPort, "%2F"),
            ("redis://app@host", BusAddressError::NoPassword, "redis://:PASSWORD@HOST"),
            ("redis://app:@host", BusAddressError::NoPassword, "redis://:PASSWORD@HOST"),
            ("redis://app:%f@host", BusAddressError::InvalidEncoding, "percent-encoded"),
            ("redis://app:%ff@host", BusAddressError::InvalidEncoding, "UTF-8"),
            ("redis://host/x", BusAddressError::InvalidDatabase, "redis://HOST/2"),
            ("redis://host/-1", BusAddressError::InvalidDatabase, "?db=2"),
            ("redis://host/4294967296", BusAddressError::InvalidDatabase, "?db=2"),
            ("redis://host?db=1", BusAddressError::UnknownParameter, "?db=NUMBER"),
            ("redis://host/1#x", BusAddressError::UnknownParameter, "?db=NUMBER"),
            ("redis+unix:///a?database=1", BusAddressError::UnknownParameter, "?db=NUMBER"),
            ("redis+unix:///a?db=x", BusAddressError::InvalidDatabase, "?db=2"),
            ("redis+unix://run/redis.sock", BusAddressError::InvalidPath, "absolute"),
            ("redis+unix:///", BusAddressError::InvalidPath, "absolute"),
        ] {
            let found = error(text);
            assert_eq!(found, expected, "{text}");
            assert!(found.to_string().contains(says), "{found}");
        }
    }
}
