//! The scale on which answers are compared: logarithmic, so that of many requests the typical one counts, and neither
//! the few that take long nor a client that waits for news. Pure.

use std::time::Duration;

/// Parts of a doubling.
const PARTS: f64 = 1000.0;

/// What a request counts that was answered after this time: the logarithm to base 2 of its microseconds, in thousandths.
pub fn weight(time: Duration) -> u64 {
    let micros = time.as_secs_f64() * 1e6;
    // Not negative, and far below what the type holds.
    (micros.max(1.0).log2() * PARTS).round() as u64
}

/// The geometric mean of the times of so many requests, in microseconds, by the sum of what they count.
pub fn typical(weights: u64, requests: u64) -> f64 {
    let longest = u64::MAX as f64;
    (weights as f64 / requests.max(1) as f64 / PARTS).exp2().min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_typical_request_counts_and_not_the_few_that_take_long() {
        let of = |millis: &[f64]| {
            let weights = millis.iter().map(|&ms| weight(Duration::from_secs_f64(ms / 1e3))).sum();
            typical(weights, millis.len() as u64) / 1e3
        };
        let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.01, "{got} ms, not {want}");
        near(of(&[7.0]), 7.0);
        near(of(&[2.0, 8.0]), 4.0);
        let mut one_waits = vec![1.0; 19];
        one_waits.push(30_000.0);
        assert!(of(&one_waits) < 2.0, "{}", of(&one_waits));
        near(of(&[0.0]), 0.001);
        assert_eq!(typical(u64::MAX, 1), u64::MAX as f64, "what nobody honest says is a number all the same");
        near(typical(0, 0) / 1e3, 0.001);
    }
}
