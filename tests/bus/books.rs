//! What nodes have sent, received and counted as lost, and whether that adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ikisocket::Uuid;

use crate::lines::{Report, Stats, Tally};

/// The topic of messages to one member alone.
pub const ALONE: &str = "alone";

/// A message on a topic, as a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node that publishes it.
    pub node: String,
    pub topic: String,
    /// How many that node has published on this topic before, also those that the bus refused.
    pub serial: u64,
    /// How many of these were queued.
    pub queued: u64,
    /// It is reported when it comes.
    pub is_closing: bool,
}

impl Entry {
    /// The text, which has at least this length.
    pub fn text(&self, len: usize) -> String {
        let Self { node, topic, serial, queued, is_closing } = self;
        let kind = if *is_closing { "closing" } else { "usual" };
        let mut text = format!("{node} {topic} {serial} {queued} {kind} ");
        text.extend(std::iter::repeat_n('.', len.saturating_sub(text.len())));
        text
    }

    pub fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        Some(Self {
            node: next()?.to_owned(),
            topic: next()?.to_owned(),
            serial: next()?.parse().ok()?,
            queued: next()?.parse().ok()?,
            is_closing: match next()? {
                "closing" => true,
                "usual" => false,
                _ => return None,
            },
        })
    }
}

/// What one member receives.
#[derive(Debug, Default)]
pub struct Inbox {
    /// The member's own node.
    pub node: String,
    /// By node and topic.
    received: BTreeMap<(String, String), Received>,
}

#[derive(Debug, Default)]
struct Received {
    tally: Tally,
    /// The serial of the last message.
    serial: u64,
    /// How many are announced as lost.
    lost: u64,
}

impl Inbox {
    /// Takes a message, and returns the report of a closing one.
    ///
    /// # Errors
    ///
    /// If it came before, or should have come before another one, or if messages before it are
    /// missing and not announced.
    pub fn take(&mut self, text: &str) -> Result<Option<Report>, String> {
        let entry = Entry::read(text).ok_or_else(|| format!("no message: {text}"))?;
        let is_own = entry.node == self.node;
        let key = (entry.node.clone(), entry.topic.clone());
        let received = self.received.entry(key).or_default();
        let Received { tally, serial, lost } = received;
        if tally.number == 0 {
            tally.first = entry.queued;
        } else if entry.serial <= *serial || !is_own && entry.queued <= tally.last {
            return Err(format!("{entry:?} came after {received:?}"));
        }
        if !is_own && entry.queued - tally.first != tally.number + *lost {
            return Err(format!("{entry:?} came after {received:?}, and others are missing"));
        }
        tally.number += 1;
        tally.last = entry.queued;
        *serial = entry.serial;
        let Entry { node, topic, is_closing, .. } = entry;
        Ok(is_closing.then_some(Report::Closed { node, topic }))
    }

    /// Messages are announced as lost.
    pub fn take_gap(&mut self, node: &str, topic: &str, lost: u64) {
        let key = (node.to_owned(), topic.to_owned());
        self.received.entry(key).or_default().lost += lost;
    }

    /// Begins anew with the messages on this topic: its member has left.
    pub fn forget_topic(&mut self, topic: &str) {
        self.received.retain(|(_, of), _| of != topic);
    }

    pub fn reports(&self) -> impl Iterator<Item = Report> {
        self.received.iter().map(|((node, topic), received)| Report::Received {
            node: node.clone(),
            topic: topic.clone(),
            tally: received.tally,
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub queued: u64,
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    pub unconfirmed: u64,
    pub why: String,
}

/// Everything that one node has reported.
#[derive(Debug, Default)]
pub struct Ledger {
    pub node: String,
    pub member: Uuid,
    pub is_ready: bool,
    pub joined: BTreeSet<String>,
    /// By topic.
    pub published: BTreeMap<String, Published>,
    /// By member.
    pub emitted: BTreeMap<Uuid, Published>,
    pub is_up: bool,
    pub ups: usize,
    pub downs: Vec<Down>,
    /// By node and topic.
    pub lost: BTreeMap<(String, String), u64>,
    /// All that it has ever counted as lost.
    pub lost_ever: u64,
    /// Gaps of an unknown node, or of an unknown number.
    pub unknown_gaps: u64,
    pub gone: Vec<String>,
    /// How many closing messages have come, by node and topic.
    pub closed: BTreeMap<(String, String), u64>,
    /// By node and topic, since the last count.
    pub received: BTreeMap<(String, String), Tally>,
    pub stats: Option<Stats>,
    /// How often it has counted.
    pub counts: usize,
    /// How many orders to publish or to emit it has answered.
    pub answers: usize,
    pub has_ended: bool,
}

impl Ledger {
    /// # Errors
    ///
    /// If the report says that something is wrong, or cannot be.
    pub fn enter(&mut self, report: Report) -> Result<(), String> {
        match report {
            Report::Ready { node, member } => {
                (self.node, self.member, self.is_ready) = (node, member, true);
            }
            Report::Joined(topic) => _ = self.joined.insert(topic),
            Report::Left(topic) => {
                self.joined.remove(&topic);
                self.lost.retain(|(_, of), _| *of != topic);
            }
            Report::Published { topic, queued, refused } => {
                let published = self.published.entry(topic).or_default();
                published.queued += queued;
                published.refused += refused;
                self.answers += 1;
            }
            Report::Emitted { to, queued, refused } => {
                let emitted = self.emitted.entry(to).or_default();
                emitted.queued += queued;
                emitted.refused += refused;
                self.answers += 1;
            }
            Report::Up { .. } if self.is_up => return Err("up twice".to_owned()),
            Report::Up { .. } => {
                self.is_up = true;
                self.ups += 1;
            }
            Report::Down { why, .. } if !self.is_up && !self.downs.is_empty() => {
                return Err(format!("down twice: {why}, after {:?}", self.downs.last()));
            }
            Report::Down { unconfirmed, why } => {
                self.is_up = false;
                self.downs.push(Down { unconfirmed, why });
            }
            Report::Gap { node: Some(node), topic, lost: Some(lost) } => {
                let topic = topic.unwrap_or_else(|| ALONE.to_owned());
                *self.lost.entry((node, topic)).or_default() += lost;
                self.lost_ever += lost;
            }
            Report::Gap { .. } => self.unknown_gaps += 1,
            Report::NodeGone(node) => self.gone.push(node),
            Report::Closed { node, topic } => *self.closed.entry((node, topic)).or_default() += 1,
            Report::Received { node, topic, tally } => {
                self.received.insert((node, topic), tally);
            }
            Report::Stats(stats) => self.stats = Some(stats),
            Report::Counted => self.counts += 1,
            Report::Fault(fault) => return Err(fault),
            Report::Ended => self.has_ended = true,
        }
        Ok(())
    }

    /// What it has counted as lost of a node.
    pub fn lost_of(&self, node: &str) -> u64 {
        self.lost.iter().filter(|((of, _), _)| of == node).map(|(_, lost)| lost).sum()
    }
}

/// Sums over all pairs of a node that has sent something and one that has a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of pairs, each with a topic.
    pub pairs: usize,
    /// What was queued since the first message that came, times the nodes with a member.
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub refused: u64,
    pub unconfirmed: u64,
    pub downs: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, sent, received, lost, refused, unconfirmed, downs } = self;
        write!(
            f,
            "sent {sent} = received {received} + lost {lost}, over {pairs} (from, to, topic); \
             refused {refused}, unconfirmed {unconfirmed}, downs {downs}"
        )
    }
}

/// Compares what surviving nodes have sent with what they have received and counted as lost. All of
/// them have counted after a closing message on each topic.
///
/// # Errors
///
/// The first thing that does not add up.
pub fn compare(ledgers: &[&Ledger]) -> Result<Summary, String> {
    let mut summary = Summary::default();
    for ledger in ledgers {
        let published = ledger.published.values().chain(ledger.emitted.values());
        summary.refused += published.map(|published| published.refused).sum::<u64>();
        summary.downs += ledger.downs.len();
        let stats = ledger.stats.ok_or("a node has not counted")?;
        summary.unconfirmed += stats.unconfirmed;
        let expected = (ledger.lost_ever, ledger.downs.len() as u64);
        if (stats.lost, stats.downs) != expected {
            let node = &ledger.node;
            return Err(format!("node {node} counts {stats:?}, but has announced {expected:?}"));
        }
        let announced = ledger.downs.iter().map(|down| down.unconfirmed).sum();
        if stats.unconfirmed < announced {
            return Err(format!("{stats:?}, but {announced} were announced as unconfirmed"));
        }
    }
    for (to, from) in ledgers.iter().flat_map(|to| ledgers.iter().map(move |from| (to, from))) {
        let published = from.published.iter().filter(|(topic, _)| to.joined.contains(*topic));
        let alone = from.emitted.get(&to.member).map(|emitted| (ALONE, emitted));
        let published = published.map(|(topic, published)| (topic.as_str(), published));
        for (topic, published) in published.chain(alone) {
            let name = format!("from {} to {} on {topic}", from.node, to.node);
            let key = (from.node.clone(), topic.to_owned());
            let Some(&tally) = to.received.get(&key) else {
                return Err(format!("{name}: nothing has come"));
            };
            let lost = to.lost.get(&key).copied().unwrap_or_default();
            if to.node == from.node {
                let all = published.queued + published.refused;
                if tally.number != all || lost > 0 {
                    return Err(format!("{name}: {all} were published, {tally:?}, lost {lost}"));
                }
                continue;
            }
            let sent = published.queued - tally.first;
            if sent != tally.number + lost {
                return Err(format!("{name}: {published:?}, {tally:?}, lost {lost}"));
            }
            if tally.last + 1 != published.queued {
                return Err(format!("{name}: {published:?}, and the last is missing: {tally:?}"));
            }
            summary.pairs += 1;
            summary.sent += sent;
            summary.received += tally.number;
            summary.lost += lost;
        }
    }
    Ok(summary)
}

mod tests {
    use super::*;

    fn entry(node: &str, serial: u64, queued: u64) -> Entry {
        let (node, topic) = (node.to_owned(), "t".to_owned());
        Entry { node, topic, serial, queued, is_closing: false }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_has_its_length() {
        let mut entry = entry("a", 7, 5);
        for is_closing in [false, true] {
            entry.is_closing = is_closing;
            for len in [0, 100, 5000] {
                let text = entry.text(len);
                assert!(text.len() >= len);
                assert_eq!(Entry::read(&text), Some(entry.clone()));
            }
        }
        assert_eq!(Entry::read("a t 1 2 other "), None);
    }

    #[test]
    fn an_inbox_notices_what_comes_twice_or_out_of_order() {
        let mut inbox = Inbox { node: "own".to_owned(), ..Inbox::default() };
        let mut take = |node, serial, queued| inbox.take(&entry(node, serial, queued).text(0));
        assert_eq!(take("a", 3, 3), Ok(None));
        assert_eq!(take("b", 2, 2), Ok(None));
        assert_eq!(take("a", 5, 4), Ok(None), "one in between was refused");
        assert!(take("a", 5, 4).is_err(), "twice");
        assert!(take("a", 4, 3).is_err(), "out of order");
        assert!(take("a", 6, 4).is_err(), "the bus had refused one of these");
        assert_eq!(take("own", 0, 0), Ok(None));
        assert_eq!(take("own", 1, 0), Ok(None), "a node gets its own in any case");
        let mut closing = entry("a", 9, 8);
        closing.is_closing = true;
        assert!(inbox.take(&closing.text(0)).is_err(), "three are missing");
        inbox.take_gap("a", "t", 3);
        let closed = Report::Closed { node: "a".to_owned(), topic: "t".to_owned() };
        assert_eq!(inbox.take(&closing.text(0)), Ok(Some(closed)));
        let tally = Tally { first: 3, last: 8, number: 3 };
        let (node, topic) = ("a".to_owned(), "t".to_owned());
        assert_eq!(inbox.reports().next(), Some(Report::Received { node, topic, tally }));
        inbox.forget_topic("t");
        assert_eq!(inbox.reports().count(), 0);
    }

    /// Two nodes: `a` has published ten messages, of which three are lost on the way to `b`, and
    /// sent two to the member of `b` alone, of which one is lost.
    fn ledgers() -> [Ledger; 2] {
        let received = |topic: &str, tally| Report::Received {
            node: "a".to_owned(),
            topic: topic.to_owned(),
            tally,
        };
        let published =
            |queued, refused| Report::Published { topic: "t".to_owned(), queued, refused };
        let gap = |topic: Option<&str>, lost| Report::Gap {
            node: Some("a".to_owned()),
            topic: topic.map(str::to_owned),
            lost: Some(lost),
        };
        let ledger = |node: &str, member, reports: &[Report]| {
            let mut ledger = Ledger::default();
            let (node, member) = (node.to_owned(), Uuid::from_u128(member));
            ledger.enter(Report::Ready { node, member }).unwrap();
            ledger.enter(Report::Joined("t".to_owned())).unwrap();
            ledger.enter(Report::Up { was_down_for_ms: 0 }).unwrap();
            reports.iter().for_each(|report| ledger.enter(report.clone()).unwrap());
            ledger
        };
        [
            ledger(
                "a",
                1,
                &[
                    published(9, 2),
                    published(1, 0),
                    Report::Emitted { to: Uuid::from_u128(2), queued: 2, refused: 1 },
                    received("t", Tally { first: 0, last: 9, number: 12 }),
                    Report::Stats(Stats { unconfirmed: 5, ..Stats::default() }),
                ],
            ),
            ledger(
                "b",
                2,
                &[
                    Report::Down { unconfirmed: 3, why: "it is silent".to_owned() },
                    gap(Some("t"), 2),
                    gap(Some("t"), 1),
                    gap(None, 1),
                    received("t", Tally { first: 1, last: 9, number: 6 }),
                    received(ALONE, Tally { first: 0, last: 1, number: 1 }),
                    Report::Stats(Stats { duplicates: 0, lost: 4, unconfirmed: 3, downs: 1 }),
                ],
            ),
        ]
    }

    #[test]
    fn books_add_up_if_each_message_has_come_or_is_counted() {
        let [a, b] = ledgers();
        let expected = Summary {
            pairs: 2,
            sent: 11,
            received: 7,
            lost: 4,
            refused: 3,
            unconfirmed: 8,
            downs: 1,
        };
        assert_eq!(compare(&[&a, &b]), Ok(expected));
        assert_eq!(b.lost_of("a"), 4);
    }

    #[test]
    fn books_do_not_add_up_if_one_message_is_missing() {
        let changes: [fn(&mut Ledger, &mut Ledger); 9] = [
            |a, _| a.published.get_mut("t").unwrap().queued += 1,
            |a, _| a.published.get_mut("t").unwrap().refused += 1,
            |_, b| b.lost.clear(),
            |_, b| b.received.values_mut().for_each(|tally| tally.number += 1),
            |_, b| b.received.values_mut().for_each(|tally| tally.last -= 1),
            |_, b| b.received.clear(),
            |_, b| b.stats.as_mut().unwrap().lost += 1,
            |_, b| b.stats.as_mut().unwrap().unconfirmed -= 1,
            |a, _| a.emitted.values_mut().for_each(|emitted| emitted.queued += 1),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let [mut a, mut b] = ledgers();
            change(&mut a, &mut b);
            assert!(compare(&[&a, &b]).is_err(), "change {number}");
        }
    }

    #[test]
    fn a_ledger_takes_each_outage_once_and_no_fault() {
        let [_, mut b] = ledgers();
        let (up, why) = (Report::Up { was_down_for_ms: 9 }, "again".to_owned());
        assert!(b.enter(Report::Down { unconfirmed: 0, why }).is_err());
        assert_eq!(b.enter(up.clone()), Ok(()));
        assert!(b.enter(up).is_err());
        assert_eq!(b.enter(Report::Fault("x".to_owned())), Err("x".to_owned()));
    }
}
