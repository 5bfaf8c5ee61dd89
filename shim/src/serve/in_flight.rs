//! Requests in flight of one service, for how long requests have been in flight, each counted on its own, and the CPU
//! time that they take: what scaling is decided by. Beginnings and ends in, readings out; one atomic addition each, no
//! lock. Pure but for the clock's type.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Low bits of the word, which hold the number of requests: more than all connections of a port have streams.
const NUMBER: u32 = 22;
/// The time's bits, once they are shifted down: 50 days of requests go by before they begin anew.
const TIME: u64 = u64::MAX >> NUMBER;

/// How many requests are in flight now, and for how long they and earlier ones have been.
pub(crate) struct InFlight {
    origin: Instant,
    /// The number, and above it the sum of the ends minus the sum of the beginnings, in microseconds since `origin`. In
    /// one word, so that a reading never has a request's beginning and not the request. Carries of the time leave the
    /// word at its top, which is what begins anew; the number has none.
    word: AtomicU64,
    begun: AtomicU64,
    /// Nanoseconds of CPU.
    cpu: AtomicU64,
}

/// One look at a service's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Requests in flight.
    pub(crate) in_flight: u32,
    /// Requests that have begun.
    pub(crate) begun: u64,
    /// Microseconds that requests have been in flight.
    pub(crate) busy: u64,
    /// Microseconds of CPU that their instances have taken.
    pub(crate) cpu: u64,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { origin: Instant::now(), word: AtomicU64::new(0), begun: AtomicU64::new(0), cpu: AtomicU64::new(0) }
    }
}

impl InFlight {
    /// A request begins.
    pub(crate) fn begin(&self, now: Instant) {
        self.word.fetch_add(1u64.wrapping_sub(self.micros(now) << NUMBER), Relaxed);
        self.begun.fetch_add(1, Relaxed);
    }

    /// A request ends that has begun.
    pub(crate) fn end(&self, now: Instant) {
        self.word.fetch_add((self.micros(now) << NUMBER).wrapping_sub(1), Relaxed);
    }

    /// An instance has taken this much CPU time.
    pub(crate) fn took(&self, time: Duration) {
        self.cpu.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// CPU time that instances have taken.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// How many there are.
    pub(crate) fn now(&self) -> u32 {
        number(self.word.load(Relaxed))
    }

    /// Reads everything. A request that begins or ends at this very moment may be counted a moment too late; the time
    /// that was read `before`, when this was read last, never goes back for that.
    pub(crate) fn read(&self, before: u64, now: Instant) -> Reading {
        let word = self.word.load(Relaxed);
        let in_flight = number(word);
        let busy = (word >> NUMBER).wrapping_add(u64::from(in_flight).wrapping_mul(self.micros(now)));
        let ahead = busy.wrapping_sub(before) & TIME;
        let ahead = if ahead > TIME / 2 { 0 } else { ahead };
        let cpu = self.cpu.load(Relaxed) / 1000;
        Reading { in_flight, begun: self.begun.load(Relaxed), busy: before + ahead, cpu }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}

fn number(word: u64) -> u32 {
    (word & ((1 << NUMBER) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_counts_from_its_beginning_to_its_end() {
        let requests = InFlight::default();
        let at = |millis| requests.origin + Duration::from_millis(millis);
        requests.begin(at(10));
        requests.begin(at(20));
        assert_eq!(requests.read(0, at(50)), Reading { in_flight: 2, begun: 2, busy: 70_000, cpu: 0 });
        requests.end(at(60));
        assert_eq!(requests.read(70_000, at(100)), Reading { in_flight: 1, begun: 2, busy: 130_000, cpu: 0 });
        requests.end(at(100));
        assert_eq!(requests.read(130_000, at(9_000)), Reading { in_flight: 0, begun: 2, busy: 130_000, cpu: 0 });
    }

    #[test]
    fn an_end_that_is_seen_late_takes_nothing_back() {
        let requests = InFlight::default();
        let at = |millis| requests.origin + Duration::from_millis(millis);
        requests.begin(at(0));
        let early = requests.read(0, at(50));
        requests.end(at(40));
        let late = requests.read(early.busy, at(60));
        assert_eq!((early.busy, late.busy), (50_000, 50_000));
        requests.begin(at(60));
        assert_eq!(requests.read(late.busy, at(80)).busy, 60_000, "only what was too much is missing");
    }

    #[test]
    fn more_than_the_word_holds_is_counted_on() {
        let requests = InFlight::default();
        let day = Duration::from_secs(24 * 3600);
        let mut read = Reading::default();
        (0..10).for_each(|_| requests.begin(requests.origin));
        for days in 1..=20u32 {
            read = requests.read(read.busy, requests.origin + day * days);
        }
        assert_eq!(u128::from(read.busy), (day * 20 * 10).as_micros());
    }

    proptest! {
        #[test]
        fn any_requests_add_up(
            spans in prop::collection::vec((0..10_000_000u64, 0..10_000_000u64), 0..50),
            look in 0..25_000_000u64,
        ) {
            let requests = InFlight::default();
            let at = |micros| requests.origin + Duration::from_micros(micros);
            let (mut in_flight, mut begun, mut busy) = (0, 0, 0);
            for (begin, length) in spans.into_iter().filter(|(begin, _)| *begin <= look) {
                requests.begin(at(begin));
                begun += 1;
                if begin + length <= look {
                    requests.end(at(begin + length));
                } else {
                    in_flight += 1;
                }
                busy += length.min(look - begin);
            }
            prop_assert_eq!(requests.read(0, at(look)), Reading { in_flight, begun, busy, cpu: 0 });
            prop_assert_eq!(requests.now(), in_flight);
        }
    }
}
