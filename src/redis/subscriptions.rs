//! The channels that are wanted, and those that Redis has confirmed: what is to be asked for, and
//! what each confirmation means. It writes commands, and knows no connection.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::failure::BusFailure;
use super::resp::{encode_argument, encode_start};

/// The most channels of one command.
pub(super) const BATCH: usize = 500;
/// The most confirmations that may be outstanding: with these Redis has at most about 600 KB to
/// send, far below the limit at which it cuts a client off.
const MOST_ASKED: usize = 4 * BATCH;
/// How long a channel stays subscribed without being wanted, in milliseconds: topics that end and
/// begin again cost nothing meanwhile.
pub(super) const LINGER: u64 = 2000;

/// Tables of up to this many channels are not made smaller.
const KEEP: usize = 64;

/// A name, shared between the tables here.
type Name = Rc<[u8]>;

#[derive(Default)]
pub(super) struct Subscriptions {
    channels: HashMap<Name, Channel>,
    /// Channels for which a command may be due, each once.
    due: VecDeque<Name>,
    /// Channels that are not wanted any more, by the time at which they are given up.
    lingering: BTreeSet<(u64, Name)>,
    /// What was asked for and is not confirmed. Redis confirms in this order.
    asked: VecDeque<(Ask, Name)>,
    /// The number of channels that Redis has confirmed.
    confirmed: u64,
    /// How often something was asked for on this connection.
    total_asked: u64,
    /// How many channels were to be asked for when the connection began.
    first: u64,
    /// Whether there is a connection on which to ask.
    is_open: bool,
}

/// What is known of a channel.
struct Channel {
    wish: Wish,
    /// Whether it is in `due`.
    is_due: bool,
    /// Whether the last command about it subscribes to it.
    is_asked: bool,
    /// Whether Redis has confirmed it.
    is_confirmed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Wanted,
    /// Not wanted any more, and given up at this time.
    Until(u64),
    Unwanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Subscribe,
    Unsubscribe,
}

/// What a confirmation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It was asked for.
    Asked,
    /// Redis has ended a subscription that was not to end. It is asked for again.
    Ended,
}

impl Subscriptions {
    /// Wants a channel.
    pub(super) fn want(&mut self, name: &[u8]) {
        if let Some((name, channel)) = self.channels.get_key_value(name) {
            let (name, wish) = (name.clone(), channel.wish);
            if let Wish::Until(at) = wish {
                self.lingering.remove(&(at, name.clone()));
            }
            self.set(&name, Wish::Wanted);
        } else {
            let name = Name::from(name);
            let channel =
                Channel { wish: Wish::Wanted, is_due: false, is_asked: false, is_confirmed: false };
            self.channels.insert(name.clone(), channel);
            self.set(&name, Wish::Wanted);
        }
    }

    /// A channel is not wanted any more.
    pub(super) fn unwant(&mut self, name: &[u8], now: u64) {
        let Some((name, channel)) = self.channels.get_key_value(name) else { return };
        if channel.wish != Wish::Wanted {
            return;
        }
        let name = name.clone();
        if channel.is_asked {
            let until = now + LINGER;
            self.lingering.insert((until, name.clone()));
            self.set(&name, Wish::Until(until));
        } else {
            self.set(&name, Wish::Unwanted);
        }
    }

    /// Gives up the channels whose time has come.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some((until, _)) = self.lingering.first()
            && *until <= now
            && let Some((_, name)) = self.lingering.pop_first()
        {
            self.set(&name, Wish::Unwanted);
        }
    }

    /// When a channel is to be given up.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.lingering.first().map(|&(until, _)| until)
    }

    fn set(&mut self, name: &Name, wish: Wish) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.wish = wish;
        if !self.is_open {
            if wish != Wish::Wanted {
                self.forget(name);
            }
        } else if (wish != Wish::Unwanted) != channel.is_asked && !channel.is_due {
            channel.is_due = true;
            self.due.push_back(name.clone());
        }
    }

    /// A connection begins: all that is wanted is to be asked for, this channel first.
    pub(super) fn open(&mut self, first: &[u8]) {
        self.is_open = true;
        let first = self.channels.get_key_value(first).map(|(name, _)| name.clone());
        let others = self.channels.keys().filter(|&name| Some(name) != first.as_ref());
        let mut others: Vec<Name> = others.cloned().collect();
        // Few have an order, so that tests repeat.
        if others.len() < BATCH {
            others.sort_unstable();
        }
        self.due = first.into_iter().chain(others).collect();
        self.channels.values_mut().for_each(|channel| channel.is_due = true);
        self.first = self.due.len() as u64;
    }

    /// The connection has ended, and all subscriptions with it.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.due = VecDeque::new();
        self.asked = VecDeque::new();
        self.lingering.clear();
        (self.confirmed, self.total_asked) = (0, 0);
        self.channels.retain(|_, channel| {
            (channel.is_due, channel.is_asked, channel.is_confirmed) = (false, false, false);
            channel.wish == Wish::Wanted
        });
    }

    /// Appends the commands that are due, as far as confirmations are not outstanding.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>) {
        while self.asked.len() < MOST_ASKED && !self.due.is_empty() {
            let begins = self.asked.len();
            let mut ask = None;
            while self.asked.len() - begins < BATCH
                && let Some(name) = self.due.front()
            {
                let Some(channel) = self.channels.get_mut(name) else {
                    self.due.pop_front();
                    continue;
                };
                let is_wanted = channel.wish != Wish::Unwanted;
                let differs = is_wanted != channel.is_asked;
                let own = if is_wanted { Ask::Subscribe } else { Ask::Unsubscribe };
                if differs && *ask.get_or_insert(own) != own {
                    break;
                }
                channel.is_due = false;
                channel.is_asked = is_wanted;
                let is_over = !differs && !is_wanted && !channel.is_confirmed;
                let Some(name) = self.due.pop_front() else { break };
                if differs {
                    self.asked.push_back((own, name));
                } else if is_over {
                    self.forget(&name);
                }
            }
            let Some(ask) = ask else { continue };
            let batch = self.asked.range(begins..);
            self.total_asked += batch.len() as u64;
            encode_start(1 + batch.len(), out);
            encode_argument(&[ask.command()], out);
            batch.for_each(|(_, name)| encode_argument(&[name], out));
        }
        if self.due.is_empty() {
            self.due.shrink_to(KEEP);
        }
    }

    /// Asks once more for a channel that is confirmed. The answer says how many subscriptions Redis
    /// has: so one that has died in silence is noticed.
    pub(super) fn ask_again(&mut self, name: &[u8], out: &mut Vec<u8>) {
        let Some((name, channel)) = self.channels.get_key_value(name) else { return };
        if channel.is_confirmed && channel.is_asked {
            self.asked.push_back((Ask::Subscribe, name.clone()));
            self.total_asked += 1;
            encode_start(2, out);
            encode_argument(&[Ask::Subscribe.command()], out);
            encode_argument(&[name], out);
        }
    }

    /// Removes a channel, and frees memory if most are gone.
    fn forget(&mut self, name: &[u8]) {
        self.channels.remove(name);
        if self.channels.capacity() > KEEP && self.channels.len() * 8 < self.channels.capacity() {
            self.channels.shrink_to(self.channels.len() * 2);
        }
    }

    /// Redis has confirmed something, and counts this number of subscriptions.
    pub(super) fn confirm(
        &mut self,
        ask: Ask,
        name: &[u8],
        there: u64,
    ) -> Result<Confirmed, BusFailure> {
        let was_asked = self.asked.front().is_some_and(|first| first.0 == ask && *first.1 == *name);
        if was_asked {
            self.asked.pop_front();
        }
        let channel = self.channels.get_mut(name);
        let is_confirmed = channel.as_ref().is_some_and(|channel| channel.is_confirmed);
        let ends = ask == Ask::Unsubscribe && is_confirmed;
        if !(was_asked || ends) {
            return Err(BusFailure::Unexpected(match ask {
                Ask::Subscribe => "SUBSCRIBE",
                Ask::Unsubscribe => "UNSUBSCRIBE",
            }));
        }
        match ask {
            // It was asked for again.
            Ask::Subscribe if is_confirmed => {}
            Ask::Subscribe => self.confirmed += 1,
            Ask::Unsubscribe => self.confirmed = self.confirmed.saturating_sub(1),
        }
        if there != self.confirmed {
            return Err(BusFailure::SubscriptionsLost { here: self.confirmed, there });
        }
        let Some(channel) = channel else { return Ok(Confirmed::Asked) };
        channel.is_confirmed = ask == Ask::Subscribe;
        if was_asked {
            if !channel.is_confirmed && !channel.is_asked && channel.wish == Wish::Unwanted {
                self.forget(name);
            }
            return Ok(Confirmed::Asked);
        }
        channel.is_asked = false;
        match channel.wish {
            Wish::Wanted => {
                self.set(&Name::from(name), Wish::Wanted);
                return Ok(Confirmed::Ended);
            }
            Wish::Until(at) => _ = self.lingering.remove(&(at, Name::from(name))),
            Wish::Unwanted => {}
        }
        self.forget(name);
        Ok(Confirmed::Asked)
    }

    /// Whether all that was wanted when the connection began is confirmed. What is wanted since is
    /// behind that, so that ever new channels cannot delay it.
    pub(super) fn is_settled(&self) -> bool {
        let confirmed = self.asked_and_confirmed().1;
        confirmed >= self.first || self.due.is_empty() && self.asked.is_empty()
    }

    /// How often something was asked for on this connection, and how often that was confirmed.
    pub(super) fn asked_and_confirmed(&self) -> (u64, u64) {
        (self.total_asked, self.total_asked - self.asked.len() as u64)
    }

    /// The number of channels that Redis has confirmed.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The number of channels that are known.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }
}

impl Ask {
    fn command(self) -> &'static [u8] {
        match self {
            Self::Subscribe => b"SUBSCRIBE",
            Self::Unsubscribe => b"UNSUBSCRIBE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("{number:08}")).collect()
    }

    /// Redis does all that is asked, and confirms it.
    fn settle(subscriptions: &mut Subscriptions) {
        while !(subscriptions.due.is_empty() && subscriptions.asked.is_empty()) {
            subscriptions.encode(&mut Vec::new());
            while let Some((ask, name)) = subscriptions.asked.front().cloned() {
                let there = match ask {
                    Ask::Subscribe => subscriptions.confirmed + 1,
                    Ask::Unsubscribe => subscriptions.confirmed - 1,
                };
                assert_eq!(subscriptions.confirm(ask, &name, there), Ok(Confirmed::Asked));
            }
        }
    }

    #[test]
    fn ever_new_channels_do_not_delay_those_of_the_beginning() {
        let mut subscriptions = Subscriptions::default();
        let names = names(3000);
        names.iter().for_each(|name| subscriptions.want(name.as_bytes()));
        subscriptions.open(b"");
        let mut new = 0;
        while !subscriptions.is_settled() {
            subscriptions.encode(&mut Vec::new());
            let (ask, name) = subscriptions.asked.pop_front().unwrap();
            subscriptions.asked.push_front((ask, name.clone()));
            subscriptions.confirm(ask, &name, subscriptions.confirmed + 1).unwrap();
            new += 1;
            subscriptions.want(format!("new {new}").as_bytes());
        }
        assert_eq!((subscriptions.confirmed(), subscriptions.len()), (3000, 6000));
    }

    #[test]
    fn few_channels_are_asked_for_in_the_order_of_their_names() {
        let mut subscriptions = Subscriptions::default();
        let names = names(BATCH);
        names.iter().rev().for_each(|name| subscriptions.want(name.as_bytes()));
        subscriptions.open(names[7].as_bytes());
        subscriptions.encode(&mut Vec::new());
        let asked: Vec<_> = subscriptions.asked.iter().map(|(_, name)| name.to_vec()).collect();
        let others = names.iter().filter(|&name| *name != names[7]);
        let expected: Vec<_> = [&names[7]].into_iter().chain(others).collect();
        assert!(asked.iter().eq(expected.iter().map(|name| name.as_bytes())));
    }

    #[test]
    fn the_tables_are_small_again_when_most_channels_are_given_up() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.open(b"");
        let names = names(20_000);
        names.iter().for_each(|name| subscriptions.want(name.as_bytes()));
        settle(&mut subscriptions);
        assert_eq!((subscriptions.len(), subscriptions.confirmed()), (20_000, 20_000));
        names[10..].iter().for_each(|name| subscriptions.unwant(name.as_bytes(), 0));
        assert_eq!(subscriptions.next_deadline(), Some(LINGER));
        subscriptions.expire(LINGER);
        settle(&mut subscriptions);
        assert_eq!((subscriptions.len(), subscriptions.confirmed()), (10, 10));
        let room = subscriptions.channels.capacity();
        assert!(room <= 2 * KEEP, "room for {room} channels of 10");
        assert!(subscriptions.due.capacity() <= KEEP);
    }

    #[test]
    fn wishes_that_change_at_random_end_as_redis_has_them() {
        let mut random = 1_u64;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
        };
        let mut subscriptions = Subscriptions::default();
        let names = names(20);
        let mut wanted = BTreeSet::new();
        let mut there = BTreeSet::new();
        let mut under_way = VecDeque::new();
        let (mut now, mut out) = (0, Vec::new());
        for _ in 0..50_000 {
            let name = &names[below(20) as usize];
            match below(16) {
                0..5 => {
                    subscriptions.want(name.as_bytes());
                    wanted.insert(name.clone());
                }
                5..9 => {
                    subscriptions.unwant(name.as_bytes(), now);
                    wanted.remove(name);
                }
                9 => now += below(3000),
                10 => subscriptions.expire(now),
                11 if below(50) == 0 => {
                    subscriptions.close();
                    there.clear();
                    under_way.clear();
                    subscriptions.open(b"00000003");
                }
                11 | 12 => {
                    let before = subscriptions.asked.len();
                    subscriptions.encode(&mut out);
                    under_way.extend(subscriptions.asked.range(before..).cloned());
                }
                _ => {
                    let Some((ask, name)) = under_way.pop_front() else { continue };
                    match ask {
                        Ask::Subscribe => assert!(there.insert(name.clone()), "asked for twice"),
                        Ask::Unsubscribe => assert!(there.remove(&name), "given up twice"),
                    }
                    let count = there.len() as u64;
                    assert_eq!(subscriptions.confirm(ask, &name, count), Ok(Confirmed::Asked));
                }
            }
        }
        subscriptions.close();
        subscriptions.open(b"");
        assert_eq!(subscriptions.len(), wanted.len());
        settle(&mut subscriptions);
        assert_eq!(subscriptions.confirmed(), wanted.len() as u64);
    }
}
