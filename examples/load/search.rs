//! `search`: which rate to try next, until the highest one that passes is known to 5 %.

/// Enough to get from any first rate to any result.
const MOST_STEPS: usize = 30;
/// When the lowest rate that failed is so close to the highest one that passed, the search is over.
const CLOSE_ENOUGH: f64 = 1.05;
const HIGHEST_RATE: f64 = 10_000_000.0;

#[derive(Debug)]
pub struct Search {
    /// The highest rate that passed.
    pub best: Option<f64>,
    /// The lowest rate that failed, and how often it did since another one passed.
    failed: Option<f64>,
    next: f64,
    /// No rate below this one is tried.
    lowest: f64,
    is_second_try: bool,
    steps: usize,
}

impl Search {
    /// Tries the rate `first`, then others, of which none is below `lowest`.
    pub fn new(first: f64, lowest: f64) -> Search {
        Search { best: None, failed: None, next: first, lowest, is_second_try: false, steps: 0 }
    }

    /// The rate to try now; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        let is_in_range = (self.lowest..=HIGHEST_RATE).contains(&self.next);
        (!self.is_found() && is_in_range && self.steps < MOST_STEPS).then_some(self.next)
    }

    /// Whether that rate passed. A rate gets a second chance, for a moment in which something else
    /// used the machine is not the server's fault. True if the rate is judged now.
    pub fn tried(&mut self, passed: bool) -> bool {
        self.steps += 1;
        if !passed && !self.is_second_try {
            self.is_second_try = true;
            return false;
        }
        self.is_second_try = false;
        if passed {
            self.best = Some(self.next);
        } else {
            self.failed = Some(self.next);
        }
        self.next = match (self.best, self.failed) {
            (Some(best), Some(failed)) => (best * failed).sqrt(),
            (Some(best), None) => best * 2.0,
            (None, Some(failed)) => failed / 2.0,
            (None, None) => self.next,
        };
        true
    }

    /// Whether the highest rate is known to [`CLOSE_ENOUGH`].
    pub fn is_found(&self) -> bool {
        self.best.zip(self.failed).is_some_and(|(best, failed)| failed <= best * CLOSE_ENOUGH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that can do `limit`.
    fn found(limit: f64, first: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(first, 1.0);
        while let Some(rate) = search.next() {
            search.tried(rate <= limit);
        }
        (search.best, search.steps)
    }

    #[test]
    fn the_limit_is_found_from_above_and_from_below() {
        for (limit, first) in [(123_456.0, 1000.0), (70.0, 1000.0), (1000.0, 1000.0)] {
            let (best, steps) = found(limit, first);
            let best = best.unwrap();
            assert!(best <= limit && best * CLOSE_ENOUGH * 1.01 >= limit, "{best} of {limit}");
            assert!(steps < MOST_STEPS, "{steps}");
        }
    }

    #[test]
    fn a_server_that_never_passes_ends_the_search() {
        assert_eq!(found(0.0, 1000.0).0, None);
    }

    #[test]
    fn no_rate_is_tried_for_which_a_step_is_too_short() {
        let mut search = Search::new(150.0, 100.0);
        assert!(!search.tried(false) && search.tried(false));
        assert_eq!((search.next(), search.is_found()), (None, false), "75 is too low");
    }

    #[test]
    fn one_bad_moment_is_forgiven() {
        let mut search = Search::new(1000.0, 1.0);
        search.tried(false);
        assert_eq!(search.next(), Some(1000.0));
        search.tried(true);
        assert_eq!((search.best, search.next()), (Some(1000.0), Some(2000.0)));
    }
}
