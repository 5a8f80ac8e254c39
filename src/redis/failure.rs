//! Why there is no connection to Redis: a name for each cause, with what to do about it. No text
//! shows a password.

use std::io::ErrorKind;

use thiserror::Error;

use super::RespError;

/// The longest text of Redis that is repeated, in characters.
const MAX_TEXT: usize = 200;

/// Why there is no connection to Redis.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BusFailure {
    /// The host name was not resolved.
    #[error("the name of the Redis host cannot be resolved")]
    NotResolved,
    /// The connection was not made.
    #[error("no connection to Redis: {0}")]
    Unreachable(ErrorKind),
    /// The connection was not made in time.
    #[error("no connection to Redis within {ms} ms")]
    ConnectTimeout {
        /// The time.
        ms: u64,
    },
    /// The connection was broken.
    #[error("the connection to Redis was broken: {0}")]
    Broken(ErrorKind),
    /// Redis has closed the connection.
    #[error("Redis has closed the connection")]
    Closed,
    /// Redis has closed the connection while much of what it had sent was not read yet.
    #[error(
        "Redis has closed the connection while this server was behind with reading. If its log says \
         \"output buffer limits\", raise `client-output-buffer-limit pubsub` there, or publish less"
    )]
    CutForSlowness {
        /// The bytes that were read in a row without an end.
        behind: usize,
    },
    /// Nothing came from Redis.
    #[error("nothing came from Redis for {ms} ms after a PING or a greeting")]
    Silent {
        /// The time.
        ms: u64,
    },
    /// Something comes from Redis, but not the answer to a PING.
    #[error("Redis has not answered a PING for {ms} ms, though it sends")]
    Unanswered {
        /// The time.
        ms: u64,
    },
    /// The server does not know RESP3.
    #[error("this Redis is too old: the bus needs RESP3, which Redis has since version 6")]
    OldServer,
    /// User and password are wrong.
    #[error("Redis refuses the user or the password")]
    WrongPassword,
    /// A password is needed.
    #[error(
        "Redis asks for a password: write redis://USER:PASSWORD@HOST or redis://:PASSWORD@HOST"
    )]
    PasswordMissing,
    /// The user may not do what the bus needs.
    #[error("the user of Redis lacks a permission: {0}")]
    NoPermission(Box<str>),
    /// Redis reads its data.
    #[error("Redis is starting: it still loads its data")]
    Loading,
    /// The server is a replica: what is published there reaches no other server.
    #[error("this Redis is a replica: publish at its master")]
    Replica,
    /// Redis has reached `maxmemory`.
    #[error("Redis is out of memory: raise `maxmemory`, or choose an eviction policy")]
    OutOfMemory,
    /// The server is part of a Redis Cluster.
    #[error(
        "this is a node of a Redis Cluster, which is not supported: use a Redis without cluster mode"
    )]
    Cluster,
    /// The server is a Sentinel.
    #[error("this is a Redis Sentinel: give the address of the Redis itself")]
    Sentinel,
    /// The number of the database is too high.
    #[error("Redis has no database of this number: raise `databases`, or choose a lower one")]
    NoSuchDatabase,
    /// Redis has too many clients.
    #[error("Redis has no room for another client: raise `maxclients`")]
    TooManyClients,
    /// Redis accepts only clients of its own machine.
    #[error("Redis is in protected mode: give it a password, or a `bind` that admits this server")]
    ProtectedMode,
    /// A script runs.
    #[error("Redis is busy with a script")]
    Busy,
    /// Redis answers with another error: its text, or the first word if the text could repeat a
    /// password.
    #[error("Redis answers: {0}")]
    Refused(Box<str>),
    /// What was published on the connection's own channel did not come back.
    #[error("a message on this server's own channel did not come back: its subscriptions are lost")]
    ProbeLost,
    /// Redis counts other subscriptions than were asked for, or has not confirmed one.
    #[error("Redis has lost subscriptions: it counts {there}, and {here} were asked for")]
    SubscriptionsLost {
        /// Those that were asked for.
        here: u64,
        /// Those that Redis has.
        there: u64,
    },
    /// The bytes are no replies of Redis.
    #[error("what came is not RESP3: {0}")]
    Nonsense(#[from] RespError),
    /// The loop that holds the connection has failed, and the others of its process shut down.
    #[error("the loop that holds the connection to Redis has failed")]
    LoopFailed,
    /// A reply that answers nothing, or not what was asked.
    #[error("an unexpected answer to {0}")]
    Unexpected(&'static str),
}

impl BusFailure {
    /// What an error reply says. The text of one that answers HELLO may repeat the password.
    pub(super) fn of_reply(line: &[u8], answers_hello: bool) -> Self {
        let text = String::from_utf8_lossy(line);
        let code = text.split([' ', '\r', '\n']).next().unwrap_or_default();
        let says = |what: &str| text.to_ascii_lowercase().contains(what);
        let printable = |text: &str| -> Box<str> {
            text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        match code {
            "WRONGPASS" => Self::WrongPassword,
            "NOAUTH" => Self::PasswordMissing,
            "NOPROTO" => Self::OldServer,
            "LOADING" => Self::Loading,
            "READONLY" | "MASTERDOWN" => Self::Replica,
            "OOM" => Self::OutOfMemory,
            "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => Self::Cluster,
            "DENIED" => Self::ProtectedMode,
            "BUSY" => Self::Busy,
            "ERR" if answers_hello && says("unknown command") => Self::OldServer,
            "ERR" if says("max number of clients") => Self::TooManyClients,
            "ERR" if says("db index") => Self::NoSuchDatabase,
            "ERR" if says("cluster mode") => Self::Cluster,
            code if answers_hello => Self::Refused(printable(code)),
            "NOPERM" => {
                Self::NoPermission(printable(text.strip_prefix("NOPERM ").unwrap_or(&text)))
            }
            _ => Self::Refused(printable(&text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_redis_has_its_name() {
        for (line, expected) in [
            ("LOADING Redis is loading the dataset in memory", BusFailure::Loading),
            ("READONLY You can't write against a read only replica.", BusFailure::Replica),
            ("MASTERDOWN Link with MASTER is down", BusFailure::Replica),
            ("OOM command not allowed when used memory > 'maxmemory'.", BusFailure::OutOfMemory),
            ("MOVED 3999 127.0.0.1:6381", BusFailure::Cluster),
            ("CROSSSLOT Keys in request don't hash to the same slot", BusFailure::Cluster),
            ("ERR SELECT is not allowed in cluster mode", BusFailure::Cluster),
            ("ERR DB index is out of range", BusFailure::NoSuchDatabase),
            ("ERR max number of clients reached", BusFailure::TooManyClients),
            ("DENIED Redis is running in protected mode", BusFailure::ProtectedMode),
            ("BUSY Redis is busy running a script.", BusFailure::Busy),
            ("ERR no\r\nmore", BusFailure::Refused("ERR no  more".into())),
            (
                "NOPERM this user has no permissions to run the 'publish' command",
                BusFailure::NoPermission(
                    "this user has no permissions to run the 'publish' command".into(),
                ),
            ),
        ] {
            assert_eq!(BusFailure::of_reply(line.as_bytes(), false), expected, "{line}");
        }
        let long = BusFailure::of_reply(&b"x".repeat(10_000), false);
        assert_eq!(long, BusFailure::Refused("x".repeat(MAX_TEXT).into()));
        assert_eq!(BusFailure::of_reply(b"\xff", false), BusFailure::Refused("\u{fffd}".into()));
    }

    #[test]
    fn an_answer_to_hello_is_never_repeated() {
        for (line, expected) in [
            ("WRONGPASS invalid username-password pair", BusFailure::WrongPassword),
            ("NOAUTH HELLO must be called with", BusFailure::PasswordMissing),
            ("NOPROTO unsupported protocol version", BusFailure::OldServer),
            (
                "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `secret`",
                BusFailure::OldServer,
            ),
            ("ERR Protocol `secret`", BusFailure::Refused("ERR".into())),
            ("NOPERM secret", BusFailure::Refused("NOPERM".into())),
        ] {
            let found = BusFailure::of_reply(line.as_bytes(), true);
            assert_eq!(found, expected);
            assert!(!format!("{found} {found:?}").contains("secret"));
        }
    }
}
