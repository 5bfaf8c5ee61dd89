//! Numbers of many measurements: milliseconds in, the least, the middle and the most out. Pure.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// What many measurements say, in one unit.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// What 99 of a hundred do not exceed.
    pub p99: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Sums up at least one measurement.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        ensure!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let (count, last) = (values.len(), values.len() - 1);
        Ok(Self {
            count,
            min: values[0],
            median: quantile(&values, 0.5),
            p99: quantile(&values, 0.99),
            max: values[last],
        })
    }

    /// The least, the middle and the most of milliseconds.
    pub fn tell(&self) -> String {
        format!("{} / **{}** / {}", millis(self.min), millis(self.median), millis(self.max))
    }
}

/// The smallest value that so many of the sorted ones do not exceed; 0 of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// A request that was sent: when, in seconds since the start, and the milliseconds that it took or why it was lost.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Seconds since the start.
    pub at: f64,
    /// Milliseconds, or why it was lost.
    pub took: Result<f64, String>,
}

/// How long the requests took that were sent in one stretch of time.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Stretch {
    /// Its end, in seconds since the start.
    pub at: f64,
    /// The middle, in milliseconds.
    pub median: f64,
    /// What 99 of a hundred did not exceed.
    pub p99: f64,
}

/// Latency over time, in stretches of so many seconds; those without an answer are left out.
pub fn over_time(sent: &[Sent], seconds: f64) -> Vec<Stretch> {
    let mut stretches: Vec<Vec<f64>> = vec![];
    for one in sent {
        let Ok(took) = one.took else { continue };
        let which = (one.at.max(0.0) / seconds) as usize;
        stretches.resize(stretches.len().max(which + 1), vec![]);
        stretches[which].push(took);
    }
    let sum_up = |(which, mut took): (usize, Vec<f64>)| {
        took.sort_by(f64::total_cmp);
        let at = (which + 1) as f64 * seconds;
        (!took.is_empty()).then(|| Stretch { at, median: quantile(&took, 0.5), p99: quantile(&took, 0.99) })
    };
    stretches.into_iter().enumerate().filter_map(sum_up).collect()
}

/// Milliseconds for people: `850 µs`, `1.2 ms`, `2.05 s`.
pub fn millis(millis: f64) -> String {
    match millis {
        m if m < 1.0 => format!("{:.0} µs", m * 1e3),
        m if m < 10.0 => format!("{m:.1} ms"),
        m if m < 1000.0 => format!("{m:.0} ms"),
        m => format!("{:.2} s", m / 1e3),
    }
}

/// Bytes for people, in powers of 1024.
pub fn mebibytes(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes < 10.0 { format!("{mebibytes:.1} MiB") } else { format!("{mebibytes:.0} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_nearest_rank() -> Result<()> {
        let spread = Spread::of((1..=200).rev().map(f64::from))?;
        assert_eq!(spread, Spread { count: 200, min: 1.0, median: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of([3.0])?, Spread { count: 1, min: 3.0, median: 3.0, p99: 3.0, max: 3.0 });
        assert!(Spread::of([]).is_err());
        Ok(())
    }

    #[test]
    fn stretches_have_what_was_sent_in_them() {
        let sent = [(0.1, Ok(1.0)), (0.9, Ok(3.0)), (1.0, Err("lost".to_owned())), (2.5, Ok(7.0))];
        let stretches = over_time(&sent.map(|(at, took)| Sent { at, took }), 1.0);
        let seen: Vec<_> = stretches.iter().map(|s| (s.at, s.median, s.p99)).collect();
        assert_eq!(seen, [(1.0, 1.0, 3.0), (3.0, 7.0, 7.0)], "the second had no answer");
    }

    #[test]
    fn units_are_those_of_people() {
        assert_eq!([0.85, 1.23, 45.6, 2050.0].map(millis), ["850 µs", "1.2 ms", "46 ms", "2.05 s"]);
        assert_eq!([3.5 * 1048576.0, 2e9].map(mebibytes), ["3.5 MiB", "1907 MiB"]);
    }
}
