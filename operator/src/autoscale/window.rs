//! Means of a load over the last while. In: increments; out: how much there was on average. Pure.

use std::time::{Duration, Instant};

use podless_crds::{MetricType, Scaling};

use super::load::{Counted, Increment};

/// Buckets of a window, whatever its length.
const BUCKETS: u64 = 30;
/// A load that is shorter than this is no load of the whole time.
const LEAST: Duration = Duration::from_secs(1);
/// Over which time it is seen that there is more in flight than there is room for.
const BURST: Duration = Duration::from_millis(500);
/// CPU is measured in thousandths of one.
const CPU_UNIT: u64 = 1000;

/// How much there was on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Means {
    /// Over the window, in the metric's unit.
    pub(super) stable: f64,
    /// Over the panic window, in the metric's unit.
    pub(super) panic: f64,
    /// In flight, over the last half second.
    pub(super) burst: f64,
}

/// What a service is scaled by.
#[derive(Debug)]
pub(super) struct Windows {
    metric: MetricType,
    stable: Window,
    panic: Window,
    burst: Window,
}

impl Windows {
    /// Empty ones: they begin now.
    pub(super) fn new(scaling: &Scaling, now: Instant) -> Self {
        Self {
            metric: scaling.metric.kind,
            stable: Window::new(stable_window(scaling), now),
            panic: Window::new(panic_window(scaling), now),
            burst: Window::new(BURST, now),
        }
    }

    /// Whether they are as these settings want them.
    pub(super) fn suit(&self, scaling: &Scaling) -> bool {
        self.metric == scaling.metric.kind
            && self.stable.length == stable_window(scaling)
            && self.panic.length == panic_window(scaling)
    }

    /// Adds what was counted until now.
    pub(super) fn add(&mut self, increment: &Increment, now: Instant) {
        let amount = match self.metric {
            MetricType::Concurrency => increment.busy_micros,
            MetricType::Rps => increment.requests.saturating_mul(1_000_000),
            MetricType::Cpu => increment.cpu_micros.saturating_mul(CPU_UNIT),
        };
        self.stable.add(amount, increment.over, now);
        self.panic.add(amount, increment.over, now);
        self.burst.add(increment.busy_micros, increment.over, now);
    }

    /// The means until now. What the shims have not spoken of yet is guessed.
    pub(super) fn means(&self, counted: &Counted, now: Instant) -> Means {
        let mean = |window: &Window| {
            window.mean(now, |within| match self.metric {
                MetricType::Concurrency => counted.busy_since(within, now),
                MetricType::Rps => counted.begun_since(within, now),
                MetricType::Cpu => counted.cpu_since(within, now) * CPU_UNIT as f64,
            })
        };
        Means {
            stable: mean(&self.stable),
            panic: mean(&self.panic),
            burst: self.burst.mean(now, |within| counted.busy_since(within, now)),
        }
    }
}

/// `windowSeconds`.
pub(super) fn stable_window(scaling: &Scaling) -> Duration {
    seconds(scaling.window_seconds.max(1))
}

/// `panicWindowSeconds`, or a tenth of the window, and a second at least.
fn panic_window(scaling: &Scaling) -> Duration {
    match scaling.panic_window_seconds {
        Some(n) => seconds(n.max(1)),
        None => (stable_window(scaling) / 10).max(Duration::from_secs(1)),
    }
}

/// A number of seconds from a spec.
pub(super) fn seconds(n: i32) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

/// Amounts by time, in millionths, for as long as the window is.
#[derive(Debug)]
struct Window {
    length: Duration,
    start: Instant,
    /// The newest bucket that was written, counted from the start.
    newest: u64,
    buckets: [u64; BUCKETS as usize],
}

impl Window {
    fn new(length: Duration, start: Instant) -> Self {
        Self { length, start, newest: 0, buckets: [0; BUCKETS as usize] }
    }

    /// Nanoseconds of a bucket.
    fn width(&self) -> u64 {
        (self.length.as_nanos() as u64 / BUCKETS).max(1)
    }

    /// Nanoseconds since the start.
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }

    /// Adds an amount that came evenly in this time until now. What was before the start is left out.
    fn add(&mut self, amount: u64, over: Duration, now: Instant) {
        let over = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX).max(1);
        let (width, end) = (self.width(), self.at(now));
        let newest = end / width;
        for bucket in self.newest.saturating_add(1).max(newest.saturating_sub(BUCKETS - 1))..=newest {
            self.buckets[(bucket % BUCKETS) as usize] = 0;
        }
        self.newest = self.newest.max(newest);
        // How much of it had come at a time: differences of this lose nothing to rounding.
        let come = |at: u64| {
            let left = end.saturating_sub(at).min(over);
            (u128::from(amount) * u128::from(over - left) / u128::from(over)) as u64
        };
        let first = (end.saturating_sub(over) / width).max((self.newest + 1).saturating_sub(BUCKETS));
        for bucket in first..=newest {
            let part = come(((bucket + 1) * width).min(end)) - come(bucket * width);
            let sum = &mut self.buckets[(bucket % BUCKETS) as usize];
            *sum = sum.saturating_add(part);
        }
    }

    /// The mean of what was added, and of what is not known yet, for as much of the window as there has been.
    fn mean(&self, now: Instant, unknown: impl FnOnce(Duration) -> f64) -> f64 {
        let (width, at) = (self.width(), self.at(now));
        let oldest = (at / width + 1).saturating_sub(BUCKETS);
        let kept = oldest.max((self.newest + 1).saturating_sub(BUCKETS))..=self.newest;
        let sum = kept.map(|bucket| self.buckets[(bucket % BUCKETS) as usize]).fold(0, u64::saturating_add);
        let covered = Duration::from_nanos(at - oldest * width);
        // A full window covers a bucket less than its length at least.
        let least = LEAST.min(self.length - Duration::from_nanos(width));
        (sum as f64 + unknown(covered)) / 1e6 / covered.max(least).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podless_link::v1::ServiceLoad;
    use proptest::prelude::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-3 * b.abs().max(1.0)
    }

    proptest! {
        /// However the messages come, and whenever it is asked: a constant load is what it is.
        #[test]
        fn a_constant_load_has_its_own_mean(
            in_flight in 1..500u32, gaps in proptest::collection::vec(1..900u64, 5..200), late in 0..300u64,
            window in 6..120i32,
        ) {
            let start = Instant::now();
            let scaling = Scaling { window_seconds: window, ..Scaling::default() };
            let (mut windows, mut counted) = (Windows::new(&scaling, start), Counted::default());
            let mut at = 0;
            for gap in std::iter::once(0).chain(gaps) {
                at += gap;
                let said = ServiceLoad {
                    service_uid: "s".to_owned(), in_flight, requests: at, busy_micros: at * 1000 * u64::from(in_flight),
                    at_micros: 77 + at * 1000,
                    cpu_micros: 0,
                    pace: None,
                };
                let now = start + millis(at);
                if let Some(increment) = counted.count("a", &said, now) {
                    windows.add(&increment, now);
                }
            }
            let now = start + millis(at + late);
            prop_assume!(at >= 1000);
            let means = windows.means(&counted, now);
            for mean in [means.stable, means.panic, means.burst] {
                prop_assert!(near(mean, f64::from(in_flight)), "{means:?}");
            }
        }

        /// Nothing is lost and nothing is made.
        #[test]
        fn what_is_added_is_there_until_the_window_has_passed(
            parts in proptest::collection::vec((0..1_000_000u64, 0..400u64, 1..400u64), 1..40),
        ) {
            let start = Instant::now();
            let mut window = Window::new(Duration::from_secs(60), start);
            let (mut at, mut sum) = (1000, 0);
            for (amount, gap, over) in parts {
                at += gap;
                sum += amount;
                window.add(amount, millis(over), start + millis(at));
            }
            let mean = |at| window.mean(start + millis(at), |_| 0.0);
            prop_assert!(near(mean(at) * at as f64 / 1000.0, sum as f64 / 1e6));
            prop_assert_eq!(mean(at + 60_000), 0.0);
        }
    }

    #[test]
    fn a_step_is_seen_by_the_short_windows_first() {
        let start = Instant::now();
        let (mut windows, counted) = (Windows::new(&Scaling::default(), start), Counted::default());
        let mut at = 0;
        let mut pass = |seconds: u64, in_flight: u64| {
            for _ in 0..seconds * 5 {
                at += 200;
                let busy_micros = in_flight * 200_000;
                let increment = Increment { requests: 0, busy_micros, cpu_micros: 0, over: millis(200) };
                windows.add(&increment, start + millis(at));
            }
            windows.means(&counted, start + millis(at))
        };
        // A bucket's worth is forgotten before its time.
        let about = |mean: f64, want: f64| (mean - want).abs() < 2.0;
        assert_eq!(pass(60, 0), Means { stable: 0.0, panic: 0.0, burst: 0.0 });
        let means = pass(3, 60);
        assert!(about(means.stable, 3.0) && about(means.panic, 30.0) && about(means.burst, 60.0), "{means:?}");
        let means = pass(3, 60);
        assert!(about(means.stable, 6.0) && about(means.panic, 60.0) && about(means.burst, 60.0), "{means:?}");
        let means = pass(6, 0);
        assert!(about(means.stable, 6.0) && about(means.panic, 0.0) && about(means.burst, 0.0), "{means:?}");
        let means = pass(60, 0);
        assert_eq!(means, Means { stable: 0.0, panic: 0.0, burst: 0.0 });
    }

    #[test]
    fn requests_a_second_are_counted_as_they_begin() {
        let start = Instant::now();
        let metric = podless_crds::ScalingMetric { kind: MetricType::Rps, utilization: None, value: Some(10) };
        let scaling = Scaling { metric, ..Scaling::default() };
        let (mut windows, counted) = (Windows::new(&scaling, start), Counted::default());
        for n in 1..=50 {
            let increment = Increment { requests: 8, busy_micros: 1000, cpu_micros: 0, over: millis(200) };
            windows.add(&increment, start + millis(200 * n));
        }
        let means = windows.means(&counted, start + millis(10_000));
        assert!(near(means.stable, 40.0) && near(means.panic, 40.0), "{means:?}");
        assert!(windows.suit(&scaling) && !windows.suit(&Scaling::default()));
        assert!(!windows.suit(&Scaling { panic_window_seconds: Some(3), ..scaling }));
    }

    #[test]
    fn cpu_is_measured_in_thousandths() {
        let start = Instant::now();
        let metric = podless_crds::ScalingMetric { kind: MetricType::Cpu, utilization: None, value: Some(10) };
        let scaling = Scaling { metric, ..Scaling::default() };
        let (mut windows, mut counted) = (Windows::new(&scaling, start), Counted::default());
        for n in 0..=50 {
            let service_uid = "s".to_owned();
            let (busy_micros, cpu_micros, at_micros) = (n * 800_000, n * 250_000, n * 200_000);
            let said =
                ServiceLoad { service_uid, in_flight: 4, requests: n, busy_micros, at_micros, cpu_micros, pace: None };
            if let Some(increment) = counted.count("a", &said, start + millis(200 * n)) {
                windows.add(&increment, start + millis(200 * n));
            }
        }
        let means = windows.means(&counted, start + millis(10_150));
        assert!(near(means.stable, 1250.0) && near(means.panic, 1250.0) && near(means.burst, 4.0), "{means:?}");
    }

    #[test]
    fn what_cannot_be_is_very_much_and_no_more() {
        let start = Instant::now();
        for kind in [MetricType::Concurrency, MetricType::Rps, MetricType::Cpu] {
            let metric = podless_crds::ScalingMetric { kind, utilization: None, value: Some(10) };
            let scaling = Scaling { metric, ..Scaling::default() };
            let (mut windows, counted) = (Windows::new(&scaling, start), Counted::default());
            // In one bucket, and in several.
            for at in [200, 200, 4000] {
                let [requests, busy_micros, cpu_micros] = [u64::MAX; 3];
                let increment = Increment { requests, busy_micros, cpu_micros, over: millis(200) };
                windows.add(&increment, start + millis(at));
            }
            let Means { stable, panic, .. } = windows.means(&counted, start + millis(4000));
            assert!(stable > 1e12 && panic > 1e12, "{stable} {panic}");
        }
        // A time of which the nanoseconds are 1000 more than fit: what came in it came long ago.
        let mut window = Window::new(Duration::from_secs(60), start);
        let over = Duration::from_nanos(u64::MAX) + Duration::from_nanos(1001);
        window.add(1_000_000_000, over, start + millis(1000));
        assert!(window.mean(start + millis(1000), |_| 0.0) < 1.0);
    }

    #[test]
    fn a_load_of_a_moment_is_not_the_load_of_the_first_second() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_secs(60), start);
        window.add(1_000_000, millis(10), start + millis(10));
        assert!(near(window.mean(start + millis(10), |_| 0.0), 1.0));
    }
}
