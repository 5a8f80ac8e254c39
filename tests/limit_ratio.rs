//! The figure that the limit bench prints: a median and its interval.

#[path = "../benches/limit/ratio.rs"]
mod ratio;

use ratio::Ratio;

/// Pairs whose values are their ranks, so that the interval shows its ranks.
fn ranks(pairs: u32) -> Option<Ratio> {
    Ratio::of((0..pairs).rev().map(f64::from).collect())
}

#[test]
fn the_interval_has_the_ranks_of_the_sign_test() {
    // From the tables of the binomial distribution; ranks counted from 0.
    for (pairs, rank) in [(6, 0.0), (8, 0.0), (9, 1.0), (20, 5.0), (40, 13.0), (400, 179.0)] {
        let ratio = ranks(pairs).unwrap();
        assert_eq!(ratio.low, rank, "of {pairs}");
        assert_eq!(ratio.high, f64::from(pairs) - 1.0 - rank, "of {pairs}");
    }
}

#[test]
fn too_few_pairs_give_no_ratio() {
    assert_eq!(ranks(0), None);
    assert_eq!(ranks(5), None);
}

#[test]
fn the_median_is_the_middle_or_between_the_two_that_are_nearest() {
    assert_eq!(ranks(9).unwrap().median, 4.0);
    assert_eq!(ranks(20).unwrap().median, 9.5);
}

#[test]
fn one_bad_pair_moves_nothing() {
    let mut pairs = vec![1.0; 19];
    pairs.push(50.0);
    assert_eq!(Ratio::of(pairs), Some(Ratio { median: 1.0, low: 1.0, high: 1.0 }));
}

#[test]
fn figures_are_read_back_as_they_were_written() {
    let ratio = ranks(20).unwrap();
    assert_eq!(Ratio::read(&ratio.to_json()), Some(ratio));
    assert_eq!(ratio.to_string(), "9.500 (5.00–14.00)");
}
