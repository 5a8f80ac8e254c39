//! What a test and a node, which is a process of its own, say to each other: one line each.
//!
//! A node is named by its number, as the bus names it. A topic is one word.

use std::fmt;
use std::str::FromStr;

use ikisocket::Uuid;

/// What a test orders a node to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its member joins a topic.
    Join(String),
    Leave(String),
    /// It publishes this many messages on a topic. `Published` answers.
    Publish {
        topic: String,
        count: u64,
        /// The least length of each.
        len: usize,
    },
    /// It publishes one message on a topic, whose arrival is reported as `Closed`. `Published`
    /// answers.
    Close(String),
    /// It sends this many messages to a connection. `Emitted` answers.
    Emit {
        to: Uuid,
        count: u64,
    },
    /// It sends one message to a connection, whose arrival is reported as `Closed`. `Emitted`
    /// answers.
    CloseAlone(Uuid),
    /// It reports everything it has counted, up to `Counted`.
    Count,
    /// It shuts down.
    End,
}

/// What a node reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It has begun, with a member that has this uuid.
    Ready {
        node: String,
        member: Uuid,
    },
    Joined(String),
    Left(String),
    /// What became of the messages of one order.
    Published {
        topic: String,
        queued: u64,
        refused: u64,
    },
    Emitted {
        to: Uuid,
        queued: u64,
        refused: u64,
    },
    Up {
        was_down_for_ms: u64,
    },
    Down {
        unconfirmed: u64,
        why: String,
    },
    /// Its member has lost messages of a node, or of an unknown one: those on a topic, or to itself
    /// alone; an unknown number, if there is none.
    Gap {
        node: Option<String>,
        topic: Option<String>,
        lost: Option<u64>,
    },
    NodeGone(String),
    /// The closing message of a node on a topic has come.
    Closed {
        node: String,
        topic: String,
    },
    /// What its member has received of a node on a topic.
    Received {
        node: String,
        topic: String,
        tally: Tally,
    },
    /// What the bus itself counts.
    Stats(Stats),
    Counted,
    /// Something that must not happen.
    Fault(String),
    /// It ends.
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub duplicates: u64,
    pub lost: u64,
    pub unconfirmed: u64,
    pub downs: u64,
}

/// The messages of one node on one topic, as a member got them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many had been queued before the first one.
    pub first: u64,
    /// How many had been queued before the last one.
    pub last: u64,
    pub number: u64,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(topic) => write!(f, "join {topic}"),
            Self::Leave(topic) => write!(f, "leave {topic}"),
            Self::Publish { topic, count, len } => write!(f, "publish {topic} {count} {len}"),
            Self::Close(topic) => write!(f, "close {topic}"),
            Self::Emit { to, count } => write!(f, "emit {to} {count}"),
            Self::CloseAlone(to) => write!(f, "close-alone {to}"),
            Self::Count => f.write_str("count"),
            Self::End => f.write_str("end"),
        }
    }
}

impl FromStr for Order {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = Words(line.split(' '));
        let order = match words.next()? {
            "join" => Self::Join(words.parse()?),
            "leave" => Self::Leave(words.parse()?),
            "publish" => {
                Self::Publish { topic: words.parse()?, count: words.parse()?, len: words.parse()? }
            }
            "close" => Self::Close(words.parse()?),
            "emit" => Self::Emit { to: words.parse()?, count: words.parse()? },
            "close-alone" => Self::CloseAlone(words.parse()?),
            "count" => Self::Count,
            "end" => Self::End,
            _ => return Err(()),
        };
        words.end().map(|()| order)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { node, member } => write!(f, "ready {node} {member}"),
            Self::Joined(topic) => write!(f, "joined {topic}"),
            Self::Left(topic) => write!(f, "left {topic}"),
            Self::Published { topic, queued, refused } => {
                write!(f, "published {topic} {queued} {refused}")
            }
            Self::Emitted { to, queued, refused } => write!(f, "emitted {to} {queued} {refused}"),
            Self::Up { was_down_for_ms } => write!(f, "up {was_down_for_ms}"),
            Self::Down { unconfirmed, why } => write!(f, "down {unconfirmed} {why}"),
            Self::Gap { node, topic, lost } => {
                let (node, topic) = (Known(node.as_ref()), Known(topic.as_ref()));
                write!(f, "gap {node} {topic} {}", Known(lost.as_ref()))
            }
            Self::NodeGone(node) => write!(f, "gone {node}"),
            Self::Closed { node, topic } => write!(f, "closed {node} {topic}"),
            Self::Received { node, topic, tally: Tally { first, last, number } } => {
                write!(f, "received {node} {topic} {first} {last} {number}")
            }
            Self::Stats(Stats { duplicates, lost, unconfirmed, downs }) => {
                write!(f, "stats {duplicates} {lost} {unconfirmed} {downs}")
            }
            Self::Counted => f.write_str("counted"),
            Self::Fault(fault) => write!(f, "fault {fault}"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

impl FromStr for Report {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = Words(line.split(' '));
        let report = match words.next()? {
            "ready" => Self::Ready { node: words.parse()?, member: words.parse()? },
            "joined" => Self::Joined(words.parse()?),
            "left" => Self::Left(words.parse()?),
            "published" => Self::Published {
                topic: words.parse()?,
                queued: words.parse()?,
                refused: words.parse()?,
            },
            "emitted" => Self::Emitted {
                to: words.parse()?,
                queued: words.parse()?,
                refused: words.parse()?,
            },
            "up" => Self::Up { was_down_for_ms: words.parse()? },
            "down" => Self::Down { unconfirmed: words.parse()?, why: words.rest() },
            "gap" => {
                Self::Gap { node: words.known()?, topic: words.known()?, lost: words.known()? }
            }
            "gone" => Self::NodeGone(words.parse()?),
            "closed" => Self::Closed { node: words.parse()?, topic: words.parse()? },
            "received" => Self::Received {
                node: words.parse()?,
                topic: words.parse()?,
                tally: Tally {
                    first: words.parse()?,
                    last: words.parse()?,
                    number: words.parse()?,
                },
            },
            "stats" => Self::Stats(Stats {
                duplicates: words.parse()?,
                lost: words.parse()?,
                unconfirmed: words.parse()?,
                downs: words.parse()?,
            }),
            "counted" => Self::Counted,
            "fault" => Self::Fault(words.rest()),
            "ended" => Self::Ended,
            _ => return Err(()),
        };
        words.end().map(|()| report)
    }
}

/// What is not known is a dash.
struct Known<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => write!(f, "{known}"),
            None => f.write_str("-"),
        }
    }
}

struct Words<'l>(std::str::Split<'l, char>);

impl<'l> Words<'l> {
    fn next(&mut self) -> Result<&'l str, ()> {
        self.0.next().filter(|word| !word.is_empty()).ok_or(())
    }

    fn parse<T: FromStr>(&mut self) -> Result<T, ()> {
        self.next()?.parse().map_err(|_| ())
    }

    fn known<T: FromStr>(&mut self) -> Result<Option<T>, ()> {
        match self.next()? {
            "-" => Ok(None),
            known => known.parse().map(Some).map_err(|_| ()),
        }
    }

    fn rest(&mut self) -> String {
        self.0.by_ref().collect::<Vec<_>>().join(" ")
    }

    fn end(&mut self) -> Result<(), ()> {
        if self.0.next().is_none() { Ok(()) } else { Err(()) }
    }
}

mod tests {
    use super::*;

    #[test]
    fn each_line_is_read_as_it_was_written() {
        let word = || "word".to_owned();
        let uuid = Uuid::from_u128(7);
        for order in [
            Order::Join(word()),
            Order::Leave(word()),
            Order::Publish { topic: word(), count: 1, len: 2 },
            Order::Close(word()),
            Order::Emit { to: uuid, count: 3 },
            Order::CloseAlone(uuid),
            Order::Count,
            Order::End,
        ] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        let node = || "00ff".to_owned();
        let tally = Tally { first: 1, last: 2, number: 3 };
        for report in [
            Report::Ready { node: node(), member: uuid },
            Report::Joined(word()),
            Report::Left(word()),
            Report::Published { topic: word(), queued: 1, refused: 2 },
            Report::Emitted { to: uuid, queued: 1, refused: 2 },
            Report::Up { was_down_for_ms: 1 },
            Report::Down { unconfirmed: 1, why: "it is  silent".to_owned() },
            Report::Gap { node: Some(node()), topic: Some(word()), lost: Some(1) },
            Report::Gap { node: Some(node()), topic: None, lost: Some(1) },
            Report::Gap { node: None, topic: Some(word()), lost: None },
            Report::NodeGone(node()),
            Report::Closed { node: node(), topic: word() },
            Report::Received { node: node(), topic: word(), tally },
            Report::Stats(Stats { duplicates: 1, lost: 2, unconfirmed: 3, downs: 4 }),
            Report::Counted,
            Report::Fault("a fault".to_owned()),
            Report::Ended,
        ] {
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        for wrong in ["", "join", "join a b", "publish a b c", "gone ", "up -1"] {
            assert_eq!((wrong.parse::<Order>(), wrong.parse::<Report>()), (Err(()), Err(())));
        }
    }
}
