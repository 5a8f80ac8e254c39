//! A figure of one server relative to that of another, pair by pair.

use serde_json::{Value, json};

/// The median over the pairs, and between which values it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// Of the ratios of all pairs; `None` if they are too few for the interval.
    pub fn of(mut pairs: Vec<f64>) -> Option<Self> {
        pairs.sort_by(f64::total_cmp);
        let rank = outer_rank(pairs.len())?;
        let last = pairs.len() - 1;
        let median = (pairs[last / 2] + pairs[last.div_ceil(2)]) / 2.0;
        Some(Self { median, low: pairs[rank], high: pairs[last - rank] })
    }

    pub fn read(value: &Value) -> Option<Self> {
        let figure = |name: &str| value[name].as_f64();
        Some(Self { median: figure("median")?, low: figure("low")?, high: figure("high")? })
    }

    pub fn to_json(self) -> Value {
        json!({ "median": self.median, "low": self.low, "high": self.high })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.3} ({:.2}–{:.2})", self.median, self.low, self.high);
        f.pad(&text)
    }
}

/// How far the interval's ends are from those of the sorted pairs, by the sign test. It asks how
/// many ways there are for so few pairs to lie on one side of the true median.
fn outer_rank(pairs: usize) -> Option<usize> {
    let all_ways = 2f64.powi(i32::try_from(pairs).ok()?);
    let (mut ways, mut so_few) = (1.0, 0.0);
    (0..pairs / 2)
        .take_while(|&few| {
            so_few += ways;
            ways *= (pairs - few) as f64 / (few + 1) as f64;
            2.0 * so_few / all_ways <= 0.05
        })
        .last()
}
