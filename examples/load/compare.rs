//! Two servers side by side: the ratio of what each pair of slices measured, its median, and how
//! sure that is.

use crate::clock::Nanos;
use crate::latency::MIN_FOR_P99;
use crate::sample::Sample;

/// What one slice says about its server.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    /// How many came in the slice's time, and how many latencies were measured in all.
    pub finished: u64,
    pub samples: u64,
    /// The server's CPU time for each, in nanoseconds.
    pub cpu_each: Option<f64>,
    pub p50: Nanos,
    pub p99: Nanos,
}

impl Figures {
    pub fn of(sample: &Sample, server_cpu: Option<Nanos>) -> Figures {
        Figures {
            per_second: sample.rate(),
            finished: sample.finished,
            samples: sample.latency.count(),
            cpu_each: server_cpu
                .filter(|_| sample.finished_at_all > 0)
                .map(|cpu| cpu as f64 / sample.finished_at_all as f64),
            p50: sample.latency.percentile(50.0),
            p99: sample.latency.percentile(99.0),
        }
    }
}

/// The ratio of A to B in one figure, over all pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    /// The median of many such pairs lies in here with a confidence of at least 95 %; unknown with
    /// fewer than six pairs.
    pub interval: Option<(f64, f64)>,
    /// In the order in which they were measured.
    pub pairs: Vec<f64>,
}

impl Ratio {
    /// `None` if a figure was not measured in some slice.
    pub fn of(
        pairs: &[(Figures, Figures)],
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<Ratio> {
        let ratio = |(a, b): &(Figures, Figures)| {
            let ratio = figure(a)? / figure(b)?;
            ratio.is_finite().then_some(ratio)
        };
        let pairs: Vec<f64> = pairs.iter().map(ratio).collect::<Option<_>>()?;
        let mut sorted = pairs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        let interval =
            outer_ranks(sorted.len()).map(|rank| (sorted[rank], sorted[sorted.len() - 1 - rank]));
        Some(Ratio { median, interval, pairs })
    }

    /// Whether the ratio is above the limit, not just by chance. Too few pairs to say so do not
    /// excuse it.
    pub fn is_above(&self, limit: f64) -> bool {
        self.interval.is_none_or(|(low, _)| low > limit)
    }
}

/// The sign test's interval for the median of `n` values, whatever their distribution: from the
/// value of this rank (counted from 0) to the one as far from the other end. Each value lies above
/// the true median with probability 1/2, so the chance that the interval misses it is that of too
/// few heads in `n` coins, twice.
fn outer_ranks(n: usize) -> Option<usize> {
    let mut probability = 0.5f64.powi(n as i32); // of exactly `rank` heads
    let mut at_most = 0.0;
    let mut best = None;
    for rank in 0..n / 2 {
        at_most += probability;
        if 2.0 * at_most > 0.05 {
            break;
        }
        best = Some(rank);
        probability *= (n - rank) as f64 / (rank + 1) as f64;
    }
    best
}

/// Two servers, compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub throughput: Option<Ratio>,
    pub time_each: Option<Ratio>,
    pub cpu_each: Option<Ratio>,
    pub p50: Option<Ratio>,
    pub p99: Option<Ratio>,
    pub at_most: Option<f64>,
    /// Both processes are known: `at_most` limits CPU time, even if reading it fails later.
    limits_cpu: bool,
}

impl Comparison {
    pub fn new(pairs: &[(Figures, Figures)], at_most: Option<f64>, limits_cpu: bool) -> Comparison {
        let per_second = |figures: &Figures| (figures.finished > 0).then_some(figures.per_second);
        let p50 = |figures: &Figures| (figures.samples > 0).then_some(figures.p50 as f64);
        let p99 =
            |figures: &Figures| (figures.samples >= MIN_FOR_P99).then_some(figures.p99 as f64);
        Comparison {
            throughput: Ratio::of(pairs, per_second),
            time_each: Ratio::of(pairs, |figures| Some(1.0 / per_second(figures)?)),
            cpu_each: Ratio::of(pairs, |figures| figures.cpu_each),
            p50: Ratio::of(pairs, p50),
            p99: Ratio::of(pairs, p99),
            at_most,
            limits_cpu,
        }
    }

    /// What `--at-most` limits: its name and its ratio.
    pub fn limited(&self) -> (&'static str, Option<&Ratio>) {
        match self.limits_cpu {
            true => ("server CPU", self.cpu_each.as_ref()),
            false => ("time", self.time_each.as_ref()),
        }
    }

    /// What came of the limit, in words.
    pub fn verdict(&self) -> &'static str {
        match self.limited() {
            (_, None) => "NOT MEASURED, which counts as exceeded",
            _ if self.is_exceeded() => "EXCEEDED",
            _ => "not exceeded with confidence",
        }
    }

    /// Whether the limit is exceeded with confidence; a ratio that could not be measured is.
    pub fn is_exceeded(&self) -> bool {
        self.at_most.is_some_and(|limit| self.limited().1.is_none_or(|ratio| ratio.is_above(limit)))
    }

    /// All ratios, each with a key, and with what it says in words.
    pub fn ratios(&self) -> [(&'static str, &'static str, Option<&Ratio>); 5] {
        [
            ("throughput", "throughput", self.throughput.as_ref()),
            ("time_each", "time for each", self.time_each.as_ref()),
            ("server_cpu_each", "server CPU for each", self.cpu_each.as_ref()),
            ("p50", "p50", self.p50.as_ref()),
            ("p99", "p99", self.p99.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ratios: &[f64]) -> Vec<(Figures, Figures)> {
        let figures = |cpu| Figures {
            per_second: 100.0,
            finished: 100,
            samples: 100,
            cpu_each: Some(cpu),
            p50: 0,
            p99: 2,
        };
        ratios.iter().map(|&ratio| (figures(ratio * 10.0), figures(10.0))).collect()
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_sign_test() {
        // From the tables of the binomial distribution; ranks counted from 0.
        for (n, rank) in
            [(5, None), (6, Some(0)), (8, Some(0)), (9, Some(1)), (20, Some(5)), (40, Some(13))]
        {
            assert_eq!(outer_ranks(n), rank, "{n}");
        }
    }

    #[test]
    fn one_bad_slice_moves_nothing() {
        let mut ratios = vec![1.0; 19];
        ratios.push(50.0);
        let ratio = Ratio::of(&pairs(&ratios), |figures| figures.cpu_each).unwrap();
        assert_eq!((ratio.median, ratio.interval), (1.0, Some((1.0, 1.0))));
    }

    #[test]
    fn the_limit_is_exceeded_only_with_confidence() {
        let noisy: Vec<f64> = (0..20).map(|i| 0.9 + 0.02 * f64::from(i)).collect();
        assert!(!Comparison::new(&pairs(&noisy), Some(1.05), true).is_exceeded());
        assert!(Comparison::new(&pairs(&noisy), Some(0.95), true).is_exceeded());
        assert!(!Comparison::new(&pairs(&noisy), None, true).is_exceeded());
        assert!(
            Comparison::new(&[], Some(1.0), true).is_exceeded(),
            "nothing measured is no success"
        );
    }

    #[test]
    fn a_figure_that_is_missing_has_no_ratio() {
        let comparison = Comparison::new(&pairs(&[1.0; 20]), None, true);
        assert!(comparison.p50.is_none(), "0 / 0");
        assert_eq!(comparison.p99.unwrap().median, 1.0);
    }

    #[test]
    fn a_slice_with_too_few_samples_leaves_no_ratio() {
        let with = |finished, samples| {
            let mut pairs = pairs(&[1.0; 20]);
            (pairs[7].1.finished, pairs[7].1.samples) = (finished, samples);
            Comparison::new(&pairs, None, true)
        };
        let silent = with(0, 0);
        assert!(silent.throughput.is_none() && silent.time_each.is_none() && silent.p99.is_none());
        let few = with(99, 99);
        assert!(few.throughput.is_some() && few.p99.is_none());
    }

    #[test]
    fn cpu_time_that_could_not_be_read_is_not_replaced_by_another_figure() {
        let mut pairs = pairs(&[1.0; 20]);
        pairs[3].0.cpu_each = None;
        let comparison = Comparison::new(&pairs, Some(2.0), true);
        assert_eq!(comparison.limited(), ("server CPU", None));
        assert!(comparison.is_exceeded() && comparison.verdict().starts_with("NOT MEASURED"));
        assert!(!Comparison::new(&pairs, Some(2.0), false).is_exceeded(), "time is as asked for");
    }
}
