//! The signs of life of a connection to Redis: what is sent to get one, and when there is none.

use super::answers::{Answers, Expected};
use super::failure::BusFailure;
use super::resp::encode_command;

/// A PING and a probe are sent this often, in milliseconds.
const PING_INTERVAL: u64 = 1000;
/// After a PING or a greeting, something must come within this time, in milliseconds.
const SILENCE: u64 = 2000;
/// A PING must be answered within this time even if Redis sends other things, in milliseconds.
/// What Redis had to send before takes less.
const ANSWER_TIME: u64 = 10_000;
/// One PING of this number also asks whether the server still is a master.
const ROLE_INTERVAL: u64 = 5;
/// The first byte of a probe on the connection's own channel.
const PROBE: u8 = 0;
/// The length of a probe: that byte and a number.
const PROBE_LEN: usize = 9;

#[derive(Default)]
pub(super) struct Life {
    /// When the last byte came.
    heard_at: u64,
    next_ping: u64,
    /// The PING that is not answered.
    ping: Option<Ping>,
    pings: u64,
    /// The probe that has not come back.
    probe: Option<u64>,
    /// The number of probes. It goes on over connections, so that none is taken for another.
    probes: u64,
    /// The time between the last PING and its answer, in milliseconds.
    round_trip: Option<u64>,
}

struct Ping {
    sent_at: u64,
    /// How often something had been asked of the subscriptions before.
    asked: u64,
}

impl Life {
    /// A connection begins.
    pub(super) fn begin(&mut self, now: u64) {
        let probes = self.probes;
        *self = Self { heard_at: now, next_ping: now, probes, ..Self::default() };
    }

    /// Bytes have come.
    pub(super) fn hears(&mut self, now: u64) {
        self.heard_at = now;
    }

    /// The greeting is answered, with its PING.
    pub(super) fn greeted(&mut self, now: u64) {
        self.next_ping = now + PING_INTERVAL;
    }

    /// Appends a probe to this channel, if there is one, and a PING, and sometimes the question for
    /// the role of the server. Before them, something was asked of the subscriptions this often.
    pub(super) fn ping(
        &mut self,
        now: u64,
        asked: u64,
        own_channel: Option<&[u8]>,
        out: &mut Vec<u8>,
        answers: &mut Answers,
    ) {
        if let Some(own_channel) = own_channel {
            self.probes += 1;
            self.probe = Some(self.probes);
            let number = self.probes.to_be_bytes();
            encode_command(&[&[b"PUBLISH"], &[own_channel], &[&[PROBE], &number]], out);
            answers.expect(Expected::Probe);
        }
        self.pings += 1;
        if self.pings.is_multiple_of(ROLE_INTERVAL) {
            encode_command(&[&[b"HELLO"], &[b"3"]], out);
            answers.expect(Expected::Role);
        }
        encode_command(&[&[b"PING"]], out);
        answers.expect(Expected::Ping);
        self.ping = Some(Ping { sent_at: now, asked });
        self.next_ping = now + PING_INTERVAL;
    }

    /// Whether a message is a probe on the connection's own channel. Then it is handled.
    pub(super) fn is_probe(&mut self, own_channel: &[u8], channel: &[u8], payload: &[u8]) -> bool {
        if payload.len() != PROBE_LEN || payload[0] != PROBE || channel != own_channel {
            return false;
        }
        let number = payload[1..].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        if self.probe == Some(number) {
            self.probe = None;
        }
        true
    }

    /// A PING is answered. Redis answers in order: what was sent before is answered too, and the
    /// probe has come back. So often has it confirmed something of the subscriptions.
    pub(super) fn answered(&mut self, now: u64, confirmed: u64) -> Result<(), BusFailure> {
        let Some(ping) = self.ping.take() else { return Ok(()) };
        self.round_trip = Some(now.saturating_sub(ping.sent_at));
        if confirmed < ping.asked {
            return Err(BusFailure::SubscriptionsLost { here: ping.asked, there: confirmed });
        }
        match self.probe.take() {
            Some(_) => Err(BusFailure::ProbeLost),
            None => Ok(()),
        }
    }

    /// When the PING was sent that is not answered.
    pub(super) fn unanswered(&self) -> Option<u64> {
        self.ping.as_ref().map(|ping| ping.sent_at)
    }

    /// When something that was sent then has been without an answer for too long, and why.
    pub(super) fn silence_ends(&self, sent_at: u64) -> (u64, BusFailure) {
        let silent = sent_at.max(self.heard_at) + SILENCE;
        let unanswered = sent_at + ANSWER_TIME;
        if silent <= unanswered {
            (silent, BusFailure::Silent { ms: SILENCE })
        } else {
            (unanswered, BusFailure::Unanswered { ms: ANSWER_TIME })
        }
    }

    /// When the next PING is due, or the answer to the last one.
    pub(super) fn next_deadline(&self) -> u64 {
        match &self.ping {
            Some(ping) => self.silence_ends(ping.sent_at).0,
            None => self.next_ping,
        }
    }

    /// The time between the last PING and its answer, in milliseconds.
    pub(super) fn round_trip(&self) -> Option<u64> {
        self.round_trip
    }
}
