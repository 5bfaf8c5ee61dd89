//! Counters of one service, kept across its generations: written on the hot path without locks, read by reports and
//! metrics.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use podless_link::{
    SHED,
    histogram::{BUCKETS, bucket_of},
    v1,
};

use super::{in_flight::InFlight, lanes::Habit, pace::Pace, refusal::Refusal};
use podless_host::outbound::Counts;

/// A histogram of durations.
#[derive(Default)]
pub(crate) struct Histogram {
    /// Made for the first duration: most of what is parked never has one.
    counts: OnceLock<Box<[AtomicU32]>>,
    /// Microseconds, all together.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let counts = self.counts.get_or_init(|| (0..BUCKETS).map(|_| AtomicU32::new(0)).collect());
        if let Some(count) = counts.get(bucket_of(micros)) {
            count.fetch_add(1, Relaxed);
            self.sum.fetch_add(micros, Relaxed);
        }
    }

    /// Counts by bucket, without the empty ones.
    pub(crate) fn counts(&self) -> HashMap<u32, u64> {
        let counts = self
            .counts
            .get()
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(bucket, count)| (bucket as u32, count.load(Relaxed).into()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// All durations together.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_micros(self.sum.load(Relaxed))
    }

    fn message(&self) -> Option<v1::Histogram> {
        Some(v1::Histogram { counts: self.counts() })
    }
}

/// How many there are now, and were at most.
#[derive(Default)]
pub(crate) struct Level {
    now: AtomicU32,
    peak: AtomicU32,
}

impl Level {
    /// One more.
    pub(crate) fn up(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        // Reading first spares the write in the usual case.
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    /// One less.
    pub(crate) fn down(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    /// How many there are.
    pub(crate) fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// Most that there were at once.
    pub(crate) fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }
}

/// What is counted for one service since the process started.
#[derive(Default)]
pub(crate) struct Stats {
    /// Requests being answered, waiting included.
    pub(crate) in_flight: InFlight,
    /// How quickly they are answered.
    pub(crate) pace: Pace,
    /// Whether its requests compute for long.
    pub(crate) habit: Habit,
    /// Live instances.
    pub(crate) instances: Level,
    /// Answers by class of their code: 1xx to 5xx.
    pub(crate) answers: [AtomicU64; 5],
    /// Answers of the shim's own, by the number of the refusal, once there is one.
    refused: OnceLock<Box<[AtomicU64; Refusal::ALL.len()]>>,
    /// Loads that a request to the parked service had begun.
    pub(crate) wakes: AtomicU64,
    /// Bytes of linear memory that its live instances have.
    pub(crate) memory: Arc<AtomicU64>,
    /// Requests of its own to other servers.
    pub(crate) outbound: Arc<Counts>,
    /// Requests that had to load or to instantiate.
    pub(crate) cold_starts: AtomicU64,
    /// Durations of the cold starts' phases.
    pub(crate) fetch: Histogram,
    /// Mapping the machine code.
    pub(crate) load: Histogram,
    /// Resolving the imports.
    pub(crate) link: Histogram,
    /// Making an instance.
    pub(crate) instantiate: Histogram,
    /// From the first byte of the request received to the first byte of the answer sent.
    pub(crate) first_byte: Histogram,
}

impl Stats {
    /// Answers of all classes.
    pub(crate) fn requests(&self) -> u64 {
        self.answers.iter().map(|class| class.load(Relaxed)).sum()
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, code: http::StatusCode) {
        if let Some(class) = self.answers.get(usize::from(code.as_u16() / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
    }

    /// Counts an answer of the shim's own.
    pub(crate) fn refused(&self, refusal: Refusal) {
        if let Some(count) = self.refused.get_or_init(Box::default).get(refusal as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Answers of the shim's own, by refusal.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        let counts = self.refused.get().map(|counts| counts.each_ref().map(|count| count.load(Relaxed)));
        Refusal::ALL.into_iter().zip(counts.unwrap_or_default())
    }

    /// Requests that were turned away for want of capacity.
    pub(crate) fn rejected(&self) -> u64 {
        self.refusals().filter(|(refusal, _)| refusal.is_rejection()).map(|(_, count)| count).sum()
    }

    /// What the operator is told of them.
    pub(crate) fn shed(&self) -> HashMap<String, u64> {
        let told = self.refusals().map(|(refusal, count)| (refusal.facts().name, count));
        told.filter(|(name, count)| *count > 0 && SHED.contains(name)).map(|(name, n)| (name.to_owned(), n)).collect()
    }

    /// The phases as the link's message.
    pub(crate) fn phases(&self) -> v1::Phases {
        v1::Phases {
            fetch: self.fetch.message(),
            load: self.load.message(),
            link: self.link.message(),
            instantiate: self.instantiate.message(),
            first_byte: self.first_byte.message(),
        }
    }
}

#[cfg(test)]
mod tests {
    use podless_link::histogram::quantile;

    use super::*;

    #[test]
    fn a_level_knows_its_peak() {
        let level = Level::default();
        level.up();
        level.up();
        level.down();
        assert_eq!((level.now(), level.peak()), (1, 2));
    }

    #[test]
    fn durations_come_back_as_quantiles() {
        let histogram = Histogram::default();
        for micros in 1..=100 {
            histogram.record(Duration::from_micros(micros * 10));
        }
        let p50 = quantile(&histogram.counts(), 0.5).expect("counted");
        assert!((p50 - 500.0).abs() < 35.0, "{p50}");
        assert_eq!(histogram.sum(), Duration::from_micros(50_500));
        histogram.record(Duration::MAX);
        assert_eq!(histogram.counts().values().sum::<u64>(), 101);
    }

    #[test]
    fn answers_count_by_class() {
        let stats = Stats::default();
        for code in [200, 204, 503] {
            stats.answered(http::StatusCode::from_u16(code).expect("a code"));
        }
        assert_eq!((stats.requests(), stats.answers[1].load(Relaxed), stats.answers[4].load(Relaxed)), (3, 2, 1));
    }
}
