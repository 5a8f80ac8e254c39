//! Distributions of times, in HdrHistograms: three significant digits from 1 ns to 10 minutes.

use crate::clock::{Nanos, SECOND};
use hdrhistogram::Histogram;

const LONGEST: Nanos = 600 * SECOND;
const SIGNIFICANT_DIGITS: u8 = 3;

/// The percentiles of every report.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// Fewer samples have no 99th percentile.
pub const MIN_FOR_P99: u64 = 100;

#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    pub fn new() -> Latency {
        // The bounds are constants, and right: the first test would fail.
        Latency(Histogram::new_with_bounds(1, LONGEST, SIGNIFICANT_DIGITS).expect("valid bounds"))
    }

    #[inline]
    pub fn record(&mut self, time: Nanos) {
        self.0.saturating_record(time);
    }

    pub fn merge(&mut self, other: &Latency) {
        self.0 += &other.0;
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time that `percentile` % of the samples do not exceed; 0 if there is none.
    pub fn percentile(&self, percentile: f64) -> Nanos {
        if self.is_empty() { 0 } else { self.0.value_at_quantile(percentile / 100.0) }
    }

    /// Whether there are enough samples for this percentile. With fewer, no sample lies beyond it,
    /// and the maximum would be shown in its place.
    pub fn knows(&self, percentile: f64) -> bool {
        self.count() as f64 * (100.0 - percentile) >= 100.0 - 1e-6
    }

    pub fn max(&self) -> Nanos {
        if self.is_empty() { 0 } else { self.0.max() }
    }

    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Points of the curve from the median's side to the last sample: (percentile, time), evenly
    /// spread on a log axis.
    pub fn curve(&self) -> Vec<(f64, Nanos)> {
        let mut points = Vec::new();
        let mut above = 100.0; // how many percent lie above
        while above * self.count() as f64 >= 100.0 {
            points.push((100.0 - above, self.percentile(100.0 - above)));
            above /= 10f64.powf(0.05);
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_three_digits_and_nothing_is_lost() {
        let mut latency = Latency::new();
        assert_eq!((latency.percentile(99.0), latency.max()), (0, 0));
        (1..=1000).for_each(|time| latency.record(time * 1000));
        latency.record(u64::MAX); // longer than the longest: counted as that
        assert_eq!(latency.count(), 1001);
        assert!(latency.percentile(50.0).abs_diff(500_000) <= 2000);
        assert!(latency.max() >= LONGEST);
    }

    #[test]
    fn a_percentile_is_known_when_a_sample_lies_beyond_it() {
        let mut latency = Latency::new();
        for (samples, known) in
            [(1, vec![]), (2, vec![50.0]), (99, vec![50.0, 90.0]), (100, vec![50.0, 90.0, 99.0])]
        {
            (latency.count()..samples).for_each(|time| latency.record(time));
            assert_eq!(
                PERCENTILES.into_iter().filter(|&p| latency.knows(p)).collect::<Vec<_>>(),
                known,
                "{samples}"
            );
        }
        (100..10_000).for_each(|time| latency.record(time));
        assert!(latency.knows(99.99));
    }

    #[test]
    fn merging_is_as_if_recorded_in_one() {
        let (mut a, mut b) = (Latency::new(), Latency::new());
        a.record(10);
        b.record(30);
        a.merge(&b);
        assert_eq!((a.count(), a.percentile(50.0), a.max()), (2, 10, 30));
    }

    #[test]
    fn the_curve_ends_at_the_last_sample() {
        let mut latency = Latency::new();
        (1..=10_000).for_each(|time| latency.record(time));
        let curve = latency.curve();
        assert_eq!(curve[0].0, 0.0);
        let (percentile, time) = *curve.last().unwrap();
        assert!((99.98..=99.995).contains(&percentile) && time >= 9_990, "{percentile} {time}");
    }
}
