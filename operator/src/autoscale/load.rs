//! What the shims of one service have counted. In: their messages, and when they came; out: increments, and what is
//! taken to be in flight since. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use podless_link::v1::ServiceLoad;

/// How often a shim speaks of a service that has requests in flight. Of one that had none it speaks at most this long
/// after one has begun.
const CADENCE: Duration = Duration::from_millis(200);
/// How long a shim that had requests in flight and says nothing is taken to go on as before.
const SILENCE: Duration = Duration::from_secs(2);
/// More CPUs than any node has: more is not believed.
const CPUS: u64 = 1024;

/// What one shim has counted since it spoke last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Increment {
    /// Requests that have begun.
    pub(super) requests: u64,
    /// Microseconds that requests have been in flight, each counted on its own.
    pub(super) busy_micros: u64,
    /// Microseconds of CPU that instances have taken.
    pub(super) cpu_micros: u64,
    /// In how much time, until now.
    pub(super) over: Duration,
}

impl Increment {
    /// The same, had no more than this been in flight all the while.
    pub(super) fn at_most(self, in_flight: u64) -> Self {
        Self { busy_micros: self.busy_micros.min(micros(self.over).saturating_mul(in_flight)), ..self }
    }
}

/// The counters of one service, by the uids of the shims' pods.
#[derive(Debug, Default)]
pub(super) struct Counted {
    shims: HashMap<String, Last>,
    /// When a shim spoke of it last: it does so only when there were requests.
    spoken: Option<Instant>,
}

/// What a shim said last.
#[derive(Debug)]
struct Last {
    said: ServiceLoad,
    came: Instant,
    /// Requests that began in a second, by the increment.
    begun: f64,
    /// CPUs that instances took, by the increment.
    cpus: f64,
    /// Its stream has ended since: what it would have said is lost.
    cut: bool,
}

impl Counted {
    /// Takes a message. `None` when nothing precedes it that it could be compared with.
    pub(super) fn count(&mut self, pod_uid: &str, said: &ServiceLoad, now: Instant) -> Option<Increment> {
        self.spoken = self.spoken.max(Some(now));
        let increment = self.shims.get(pod_uid).and_then(|last| increment(last, said, now));
        let begun = increment.map_or(0.0, |i| i.requests as f64 / i.over.as_secs_f64());
        let cpus = increment.map_or(0.0, |i| i.cpu_micros as f64 / 1e6 / i.over.as_secs_f64());
        self.shims.insert(pod_uid.to_owned(), Last { said: said.clone(), came: now, begun, cpus, cut: false });
        increment
    }

    /// This shim's stream has ended.
    pub(super) fn cut(&mut self, pod_uid: &str) {
        if let Some(last) = self.shims.get_mut(pod_uid) {
            last.cut = true;
        }
    }

    /// Nothing more will come from this shim.
    pub(super) fn forget(&mut self, pod_uid: &str) {
        self.shims.remove(pod_uid);
    }

    /// Requests in flight.
    pub(super) fn in_flight(&self, now: Instant) -> u64 {
        let heard = self.shims.values().filter(|last| last.age(now) <= SILENCE);
        heard.map(|last| u64::from(last.said.in_flight)).fold(0, u64::saturating_add)
    }

    /// Since when there was no request; `None` when there has been none yet.
    pub(super) fn last_active(&self, now: Instant) -> Option<Instant> {
        let busy = self.shims.values().filter(|last| last.said.in_flight > 0);
        busy.map(|last| now.min(last.came + SILENCE)).max().max(self.spoken)
    }

    /// Whether a shim that had requests in flight has fallen silent, a window ago at most: what it serves is not known.
    pub(super) fn is_dark(&self, window: Duration, now: Instant) -> bool {
        let mut silent = self.shims.values().filter(|last| last.said.in_flight > 0 && last.age(now) > SILENCE);
        silent.any(|last| last.age(now) <= SILENCE + window)
    }

    /// Microseconds of requests in flight that the shims have not spoken of yet, within this time until now: each is
    /// taken to have as many in flight as it said.
    pub(super) fn busy_since(&self, within: Duration, now: Instant) -> f64 {
        self.since(within, now, |last| f64::from(last.said.in_flight))
    }

    /// Millionths of requests that the shims have not spoken of yet, within this time until now: at each they are taken
    /// to begin as often as they did.
    pub(super) fn begun_since(&self, within: Duration, now: Instant) -> f64 {
        self.since(within, now, |last| last.begun)
    }

    /// Microseconds of CPU that the shims have not spoken of yet, within this time until now: each is taken to go on as
    /// it did.
    pub(super) fn cpu_since(&self, within: Duration, now: Instant) -> f64 {
        self.since(within, now, |last| last.cpus)
    }

    fn since(&self, within: Duration, now: Instant, rate: impl Fn(&Last) -> f64) -> f64 {
        let guess = |last: &Last| {
            let age = last.age(now);
            let ended = age.saturating_sub(if last.said.in_flight > 0 { SILENCE } else { CADENCE });
            let overlap = age.min(within).saturating_sub(ended.min(within));
            rate(last) * overlap.as_secs_f64() * 1e6
        };
        self.shims.values().map(guess).sum()
    }
}

impl Last {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.came)
    }
}

/// What was counted between two messages of a shim.
fn increment(last: &Last, said: &ServiceLoad, now: Instant) -> Option<Increment> {
    let before = &last.said;
    let anew =
        said.requests < before.requests || said.busy_micros < before.busy_micros || said.cpu_micros < before.cpu_micros;
    let (requests, busy_micros, cpu_micros, passed) = match anew {
        // Another process: it has counted from zero, and that since it was heard of last, or it is not believed.
        true if Duration::from_micros(said.at_micros) > last.age(now) + SILENCE => return None,
        true => (said.requests, said.busy_micros, said.cpu_micros, last.age(now)),
        false => (
            said.requests - before.requests,
            said.busy_micros - before.busy_micros,
            said.cpu_micros - before.cpu_micros,
            Duration::from_micros(said.at_micros.checked_sub(before.at_micros)?),
        ),
    };
    // Who had nothing in flight spoke as soon as a request had begun: it was idle before that, if nothing is lost of
    // what it said.
    let over = if before.in_flight == 0 && !last.cut { passed.min(CADENCE) } else { passed };
    let cpu_micros = cpu_micros.min(micros(over).saturating_mul(CPUS));
    (!over.is_zero()).then_some(Increment { requests, busy_micros, cpu_micros, over })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(in_flight: u32, requests: u64, busy_millis: u64, at_millis: u64) -> ServiceLoad {
        let service_uid = "s".to_owned();
        let (busy_micros, at_micros) = (busy_millis * 1000, at_millis * 1000);
        ServiceLoad { service_uid, in_flight, requests, busy_micros, at_micros, cpu_micros: 0, pace: None }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn increments_are_differences_over_the_time_that_the_shim_tells() {
        let start = Instant::now();
        let first = said(2, 1000, 50_000, 7000);
        for (next, arrives, want) in [
            (said(3, 1010, 50_400, 7200), 230, Some((10, 400, 200))),
            (said(3, 1000, 50_400, 17_000), 10_000, Some((0, 400, 10_000))),
            // Another process of the same shim.
            (said(1, 4, 100, 90), 300, Some((4, 100, 300))),
            (said(1, 1001, 100, 90), 300, Some((1001, 100, 300))),
            (said(1, 4, 100, 2300), 300, Some((4, 100, 300))),
            // It was there when the shim was heard of last: its counters cannot have begun since.
            (said(1, 4, 100, 2301), 300, None),
            (said(1, 999, u64::MAX / 1000, 7200), 300, None),
            // The same again, or out of order.
            (first.clone(), 10, None),
            (said(2, 1000, 50_000, 6000), 10, None),
        ] {
            let mut counted = Counted::default();
            assert_eq!(counted.count("a", &first, start), None, "nothing to compare it with");
            let got = counted.count("a", &next, start + millis(arrives));
            assert_eq!(got.map(|i| (i.requests, i.busy_micros / 1000, i.over.as_millis())), want, "{next:?}");
        }
    }

    #[test]
    fn who_was_idle_has_counted_just_now() {
        let start = Instant::now();
        let mut counted = Counted::default();
        counted.count("a", &said(0, 5, 100, 1000), start);
        let got = counted.count("a", &said(4, 9, 900, 61_000), start + millis(60_000));
        assert_eq!(got, Some(Increment { requests: 4, busy_micros: 800_000, cpu_micros: 0, over: CADENCE }));
        assert_eq!(counted.count("b", &said(1, 9, 900, 61_000), start), None, "shims are not mixed up");
    }

    #[test]
    fn counters_that_are_not_believed_are_what_the_next_are_compared_with() {
        let start = Instant::now();
        let mut counted = Counted::default();
        counted.count("a", &said(1, 1000, 50_000, 7000), start);
        assert_eq!(counted.count("a", &said(1, 4, 100, 7200), start + millis(200)), None);
        let got = counted.count("a", &said(1, 6, 300, 7400), start + millis(400));
        assert_eq!(got, Some(Increment { requests: 2, busy_micros: 200_000, cpu_micros: 0, over: millis(200) }));
    }

    #[test]
    fn what_was_lost_with_the_link_was_counted_all_the_while() {
        let start = Instant::now();
        let mut counted = Counted::default();
        counted.count("a", &said(0, 5, 100, 1000), start);
        counted.cut("a");
        counted.cut("nobody");
        let got = counted.count("a", &said(0, 305, 30_100, 31_000), start + millis(30_000));
        let lost = Increment { requests: 300, busy_micros: 30_000_000, cpu_micros: 0, over: millis(30_000) };
        assert_eq!(got, Some(lost));
        let got = counted.count("a", &said(1, 306, 30_150, 61_000), start + millis(60_000));
        let increment = Increment { requests: 1, busy_micros: 50_000, cpu_micros: 0, over: CADENCE };
        assert_eq!(got, Some(increment), "nothing was lost since");
    }

    #[test]
    fn what_was_in_flight_goes_on_until_the_shim_speaks_but_not_for_long() {
        let start = Instant::now();
        let mut counted = Counted::default();
        assert_eq!(counted.last_active(start), None);
        counted.count("a", &said(4, 0, 0, 0), start);
        counted.count("b", &said(6, 0, 0, 0), start + millis(1000));
        let seconds = |within, at| counted.busy_since(millis(within), start + millis(at)) / 1e6;
        for (within, at, want) in [
            (10_000, 1000, 4.0),
            (10_000, 1500, 4.0 * 1.5 + 6.0 * 0.5),
            (500, 1500, 10.0 * 0.5),
            (10_000, 9000, 4.0 * 2.0 + 6.0 * 2.0),
            (7000, 9000, 4.0 * 0.0 + 6.0 * 1.0),
            (1000, 9000, 0.0),
        ] {
            assert!((seconds(within, at) - want).abs() < 1e-9, "{within} ms at {at}: {}", seconds(within, at));
        }
        for (at, in_flight, active, dark) in [
            (1500, 10, 1500, false),
            (2500, 6, 2500, true),
            (9000, 0, 3000, true),
            (63_000, 0, 3000, true),
            (63_001, 0, 3000, false),
        ] {
            let now = start + millis(at);
            assert_eq!(counted.in_flight(now), in_flight, "at {at}");
            assert_eq!(counted.last_active(now), Some(start + millis(active)), "at {at}");
            assert_eq!(counted.is_dark(millis(60_000), now), dark, "at {at}");
        }
        counted.forget("a");
        counted.forget("b");
        assert_eq!(counted.in_flight(start + millis(1500)), 0);
        assert_eq!(counted.last_active(start + millis(9000)), Some(start + millis(1000)), "they have spoken");
        assert!(!counted.is_dark(millis(60_000), start + millis(9000)), "it is known that they are gone");
    }

    #[test]
    fn cpu_is_counted_and_taken_to_go_on_and_more_than_a_node_has_is_not_believed() {
        let start = Instant::now();
        let cpu =
            |in_flight, cpu_millis, at| ServiceLoad { cpu_micros: cpu_millis * 1000, ..said(in_flight, 1, 0, at) };
        for (next, want) in [
            (cpu(2, 900, 7200), Some(400)),
            (cpu(2, 500, 7200), Some(0)),
            // Another process: its requests may be as many by now.
            (cpu(2, 40, 90), Some(40)),
            (cpu(2, u64::MAX / 1000, 7200), Some(1024 * 200)),
        ] {
            let mut counted = Counted::default();
            counted.count("a", &cpu(2, 500, 7000), start);
            let got = counted.count("a", &next, start + millis(200));
            assert_eq!(got.map(|i| i.cpu_micros / 1000), want, "{next:?}");
        }
        let mut counted = Counted::default();
        counted.count("a", &cpu(2, 500, 7000), start);
        counted.count("a", &cpu(2, 900, 7200), start + millis(200));
        let seconds = |at| counted.cpu_since(millis(10_000), start + millis(at)) / 1e6;
        assert!((seconds(700) - 1.0).abs() < 1e-9, "two CPUs for 500 ms: {}", seconds(700));
        assert!((seconds(9000) - 4.0).abs() < 1e-9, "and for two seconds at most: {}", seconds(9000));
    }

    #[test]
    fn requests_are_taken_to_begin_as_often_as_they_did() {
        let start = Instant::now();
        let mut counted = Counted::default();
        counted.count("a", &said(1, 0, 0, 0), start);
        counted.count("a", &said(0, 10, 0, 200), start + millis(200));
        let begun = |at| counted.begun_since(millis(1000), start + millis(at)) / 1e6;
        assert!((begun(300) - 5.0).abs() < 1e-9, "50 a second for 100 ms: {}", begun(300));
        assert!((begun(900) - 10.0).abs() < 1e-9, "nothing is in flight: it would have spoken of more: {}", begun(900));
    }
}
