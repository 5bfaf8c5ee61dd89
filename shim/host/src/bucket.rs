//! A token bucket: how much was asked for and the time in, whether it is allowed out. Pure.

use std::time::Instant;

/// Fills at `rate` a second up to `burst`.
pub(crate) struct Bucket {
    rate: u64,
    burst: u64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        Self { rate, burst, tokens: burst as f64, filled: now }
    }

    /// Takes `cost` tokens when they are there.
    pub(crate) fn take(&mut self, cost: u64, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate as f64;
        self.tokens = (self.tokens + gained).min(self.burst as f64);
        self.filled = now;
        let enough = self.tokens >= cost as f64;
        if enough {
            self.tokens -= cost as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 100, start);
        assert!(bucket.take(100, start));
        assert!(!bucket.take(1, start));
        assert!(!bucket.take(11, start + Duration::from_secs(1)));
        assert!(bucket.take(10, start + Duration::from_secs(1)));
        assert!(!bucket.take(101, start + Duration::from_secs(3600)), "never more than the burst");
        assert!(bucket.take(100, start + Duration::from_secs(3600)));
    }
}
