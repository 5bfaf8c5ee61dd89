//! How many replicas there are to be. In: the load, the settings, the time; out: a number and why. Pure.
//!
//! As Knative's autoscaler has it: the mean over the window decides; when a sudden load wants twice what there is, the
//! short window decides, and nobody goes for a whole window. Unlike there, a load that has no room is sudden as well.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use podless_crds::{MetricType, Scaling};

use super::{
    decision::{Decision, Mode, Why},
    target::Replica,
    window::{Means, seconds, stable_window},
};

/// The time that rates are for.
const PERIOD: Duration = Duration::from_secs(2);
/// Fewer replicas must be enough for this much more than there is: a load at the edge between two numbers is no reason
/// to change.
const MARGIN: f64 = 1.1;

/// The load of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) means: Means,
    /// Requests in flight now.
    pub(super) in_flight: u64,
    /// Since when there was no request; `None` when none was seen.
    pub(super) last_active: Option<Instant>,
    /// What some of its shims serve is not known.
    pub(super) dark: bool,
}

/// What has been decided for one service.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    desired: u32,
    /// Since when the load is known, if it was not always: nobody goes before this was a window ago.
    known_since: Option<Instant>,
    last_active: Option<Instant>,
    /// When a sudden load last wanted too much more than there was, and the most that was wanted since it first did.
    panic: Option<(Instant, u32)>,
    /// What rates are relative to, and since when.
    base: (u32, Instant),
    recent: Recent,
}

impl Scaler {
    /// Begins with the replicas that there are. Where there is none, none can go too early.
    pub(super) fn new(placed: u32, now: Instant) -> Self {
        Self {
            desired: placed,
            known_since: (placed > 0).then_some(now),
            last_active: None,
            panic: None,
            base: (placed, now),
            recent: Recent(VecDeque::from([(now, placed)])),
        }
    }

    /// The load is measured anew from now on.
    pub(super) fn measured_anew(&mut self, now: Instant) {
        self.known_since = Some(now);
    }

    /// Parked, and nothing was heard since that was decided: it would be decided again.
    pub(super) fn sleeps(&self, last_active: Option<Instant>) -> bool {
        self.desired == 0 && self.last_active == last_active
    }

    /// Decides. However often it is asked, it comes to the same.
    pub(super) fn decide(&mut self, scaling: &Scaling, replica: Replica, load: &Load, now: Instant) -> Decision {
        let before = self.desired;
        let woken = load.in_flight > 0 || load.last_active > self.last_active;
        self.last_active = self.last_active.max(load.last_active);
        let target = replica.target(scaling);
        let (mut want, mut current, mut why) = self.by_load(scaling, replica, load, now);
        let idle = self.is_idle(scaling, load, now);
        if idle {
            (want, self.panic) = (0, None);
        } else if want == 0 && (before > 0 || woken) {
            want = 1;
        }
        match (before, want) {
            (_, 0) => (current, why) = (0.0, Why::Idle),
            (0, _) => why = Why::Woken,
            _ => {}
        }
        let age = |since| now.saturating_duration_since(since);
        let known = !load.dark && self.known_since.is_none_or(|since| age(since) >= stable_window(scaling));
        let recent = self.recent.most(want, seconds(scaling.scale_down_delay_seconds), now);
        let keep = if known { recent } else { recent.max(before) };
        if want < keep {
            (want, why) = (keep, Why::Kept);
        }
        if !idle {
            want = want.max(self.base.0 / positive(scaling.scale_down_rate).max(2));
        }
        let (min, max) = (scaling.least(), scaling.most());
        if want < min {
            (want, why) = (min, Why::Minimum);
        }
        if want > max {
            (want, why) = (max, Why::Maximum);
        }
        self.desired = want;
        if want == 0 {
            self.base = (0, now);
        }
        let mode = match (want, self.panic) {
            (0, _) => Mode::Parked,
            (_, Some(_)) => Mode::Panic,
            (_, None) => Mode::Stable,
        };
        Decision { desired: want, mode, current, target, why }
    }

    /// What the load wants, no more than the rate allows, and by which figure.
    fn by_load(&mut self, scaling: &Scaling, replica: Replica, load: &Load, now: Instant) -> (u32, f64, Why) {
        let Means { stable, panic, burst } = load.means;
        let target = replica.target(scaling);
        if now.saturating_duration_since(self.base.1) >= PERIOD {
            self.base = (self.desired, now);
        }
        let most = self.base.0.max(1).saturating_mul(positive(scaling.scale_up_rate).max(2));

        // When there is more in flight than there is room for, it is too late for means; parked, there is no room.
        let room = f64::from(self.desired) * f64::from(replica.concurrency);
        let sudden = match scaling.metric.kind {
            MetricType::Concurrency if self.desired == 0 || burst > room => panic.max(burst).max(load.in_flight as f64),
            MetricType::Concurrency | MetricType::Rps | MetricType::Cpu => panic,
        };
        let by_burst = enough(sudden, target);
        // Who goes is needed neither for a tenth more over the window, nor over the short one.
        let needed = enough((stable * MARGIN).max(panic), target).min(self.desired);
        let by_window = enough(stable, target).max(needed);

        let present = self.desired.max(1);
        let twice = by_burst >= present.saturating_mul(2);
        let too_late = burst > room && by_burst > present;
        let highest = self.panic.map_or(self.desired, |(_, highest)| highest);
        if twice || too_late {
            self.panic = Some((now, highest));
        }
        self.panic = self.panic.filter(|(at, _)| now.saturating_duration_since(*at) <= stable_window(scaling));
        let Some((_, highest)) = &mut self.panic else {
            return (by_window.min(most), if self.desired == 0 { sudden } else { stable }, Why::Load);
        };
        *highest = by_window.max(by_burst).min(most).max(*highest);
        (*highest, sudden.max(stable), Why::Burst)
    }

    /// Whether nothing was asked of it for as long as it takes to be parked.
    fn is_idle(&self, scaling: &Scaling, load: &Load, now: Instant) -> bool {
        // Sooner, it would go between any two requests, and come with the next: a write to the API for each look.
        let after = seconds(scaling.scale_to_zero_after_seconds).max(PERIOD);
        let since = self.last_active.or(self.known_since);
        let over = since.is_none_or(|since| now.saturating_duration_since(since) >= after);
        scaling.min_replicas == 0 && load.in_flight == 0 && over
    }
}

/// What was wanted in the last while: the most of it counts.
#[derive(Clone, Debug)]
struct Recent(VecDeque<(Instant, u32)>);

impl Recent {
    /// The most that was wanted within this time, this one included.
    fn most(&mut self, want: u32, within: Duration, now: Instant) -> u32 {
        // What is older and less can never be the most again.
        while self.0.back().is_some_and(|&(_, less)| less <= want) {
            self.0.pop_back();
        }
        self.0.push_back((now, want));
        while self.0.front().is_some_and(|&(at, _)| now.saturating_duration_since(at) > within) {
            self.0.pop_front();
        }
        self.0.front().map_or(want, |&(_, most)| most)
    }
}

/// Replicas for a load. A millionth more than they take is a matter of rounding.
fn enough(load: f64, target: f64) -> u32 {
    (load / target - 1e-6).ceil().max(0.0) as u32
}

fn positive(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use podless_crds::ScalingMetric;
    use proptest::prelude::*;

    const REPLICA: Replica = Replica { concurrency: 100, cpu_millis: 250 };

    fn calm(mean: f64, now: Instant) -> Load {
        let means = Means { stable: mean, panic: mean, burst: mean };
        Load { means, in_flight: mean as u64, last_active: Some(now), dark: false }
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn scaling() -> impl Strategy<Value = Scaling> {
        let bounds = (0..4i32, 0..40i32, 6..90i32, 2..1000i32, 2..10i32);
        let delays = (0..20i32, 0..90i32);
        let metric = prop_oneof![
            (1..=100i32).prop_map(|n| ScalingMetric { utilization: Some(n), ..ScalingMetric::default() }),
            (1..300i32).prop_map(|n| ScalingMetric { value: Some(n), ..ScalingMetric::default() }),
            (1..300i32).prop_map(|n| ScalingMetric { kind: MetricType::Rps, utilization: None, value: Some(n) }),
            (1..300i32).prop_map(|n| ScalingMetric { kind: MetricType::Cpu, utilization: None, value: Some(n) }),
            (1..=100i32).prop_map(|n| ScalingMetric { kind: MetricType::Cpu, utilization: Some(n), value: None }),
        ];
        (bounds, delays, metric).prop_map(|((min, more, window, up, down), (delay, zero), metric)| Scaling {
            min_replicas: min,
            max_replicas: (min + more).max(1),
            metric,
            window_seconds: window,
            panic_window_seconds: None,
            scale_up_rate: up,
            scale_down_rate: down,
            scale_down_delay_seconds: delay,
            scale_to_zero_after_seconds: zero,
        })
    }

    /// Time that passes, the means, requests in flight, and whether a shim is silent.
    fn moments() -> impl Strategy<Value = Vec<(u64, [f64; 3], u64, bool)>> {
        let figure = prop_oneof![Just(0.0), 0.0..3000.0f64];
        let in_flight = prop_oneof![Just(0), 0..3000u64];
        let moment = (0..20_000u64, [figure.clone(), figure.clone(), figure], in_flight, proptest::bool::weighted(0.1));
        proptest::collection::vec(moment, 1..60)
    }

    proptest! {
        #[test]
        fn within_bounds_zero_only_when_idle_and_more_load_is_never_fewer(
            scaling in scaling(), placed in 0..30u32, moments in moments(), more in 0.0..500.0f64,
        ) {
            let start = Instant::now();
            let mut scaler = Scaler::new(placed, start);
            let (mut millis, mut last_active, mut before) = (0, None, placed);
            for (passed, [stable, panic, burst], in_flight, dark) in moments {
                millis += passed;
                let now = at(start, millis);
                let woken = in_flight > 0;
                if woken {
                    last_active = Some(now);
                }
                let load = Load { means: Means { stable, panic, burst }, in_flight, last_active, dark };
                let mut same = scaler.clone();
                let mut greater = scaler.clone();
                let decision = scaler.decide(&scaling, REPLICA, &load, now);
                prop_assert_eq!(&decision, &same.decide(&scaling, REPLICA, &load, now), "same input, same output");
                let n = decision.desired;
                let (min, max) = (scaling.min_replicas as u32, scaling.max_replicas as u32);
                prop_assert!((min..=max).contains(&n), "{decision:?}");
                prop_assert_eq!(n == 0, decision.mode == Mode::Parked);
                if n == 0 {
                    let idle = last_active.unwrap_or(start) + seconds(scaling.scale_to_zero_after_seconds) <= now;
                    prop_assert!(in_flight == 0 && (idle || before == 0), "{decision:?}");
                }
                let unseen = dark || placed > 0 && now - start < stable_window(&scaling);
                prop_assert!(!unseen || n >= before.min(max), "down without knowing: {decision:?} from {before}");
                let means = Means { stable: stable + more, panic: panic + more, burst: burst + more };
                let load = Load { means, in_flight: in_flight + more as u64, last_active: Some(now), dark };
                let m = greater.decide(&scaling, REPLICA, &load, now).desired;
                prop_assert!(m >= n, "{m} for {load:?}, but {decision:?}");
                before = n;
            }
        }

        /// Whatever has been before: what stays the same leads to one number, and to no other after it.
        #[test]
        fn a_constant_load_comes_to_rest(
            scaling in scaling(), placed in 0..30u32, moments in moments(), mean in 0.0..3000.0f64, noise in 0.0..1.0f64,
        ) {
            let start = Instant::now();
            let mut scaler = Scaler::new(placed, start);
            let mut millis = 0;
            for (passed, [stable, panic, burst], in_flight, dark) in moments {
                millis += passed;
                let now = at(start, millis);
                let last_active = (in_flight > 0).then_some(now);
                let load = Load { means: Means { stable, panic, burst }, in_flight, last_active, dark };
                scaler.decide(&scaling, REPLICA, &load, now);
            }
            // Two windows, the delay, and what rates need.
            let rest = u64::from(scaling.window_seconds as u32) * 2000 + 21_000 + 2000 * 12;
            let settled = millis + rest;
            let mut numbers = vec![];
            while millis < settled + 60_000 {
                millis += 250;
                // It trembles, around the edge between two numbers as well.
                let mean = mean * if millis % 500 == 0 { 1.0 } else { 1.0 - 0.05 * noise };
                let n = scaler.decide(&scaling, REPLICA, &calm(mean, at(start, millis)), at(start, millis)).desired;
                if millis > settled {
                    numbers.push(n);
                }
            }
            numbers.dedup();
            prop_assert_eq!(numbers.len(), 1, "{:?}", numbers);
        }
    }

    #[test]
    fn rates_hold_however_often_it_is_asked() {
        let start = Instant::now();
        let scaling = Scaling { scale_up_rate: 2, max_replicas: 100, ..Scaling::default() };
        let mut scaler = Scaler::new(0, start);
        let mut after = |load: f64, from: u64, to: u64| {
            let mut steps = vec![];
            for millis in (from..to).step_by(50) {
                let now = at(start, millis);
                steps.push(scaler.decide(&scaling, REPLICA, &calm(load, now), now).desired);
            }
            steps.dedup();
            steps
        };
        assert_eq!(after(1000.0, 0, 8000), [2, 4, 8, 15]);
        assert_eq!(after(1000.0, 8000, 70_000), [15]);
        assert_eq!(after(0.5, 70_000, 80_000), [7, 3, 1], "the panic is over, and the rate is 2");
    }

    #[test]
    fn fewer_replicas_must_be_enough_for_the_delay() {
        let start = Instant::now();
        let scaling = Scaling { scale_down_delay_seconds: 100, ..Scaling::default() };
        let mut scaler = Scaler::new(9, start);
        let mut desired = |mean: f64, second: u64| {
            let now = at(start, second * 1000);
            scaler.decide(&scaling, REPLICA, &calm(mean, now), now).desired
        };
        let expected = [(600.0, 0, 9), (600.0, 70, 9), (400.0, 90, 9), (200.0, 120, 9), (200.0, 170, 9)];
        for (mean, second, want) in expected {
            assert_eq!(desired(mean, second), want, "at {second}");
        }
        assert_eq!(desired(200.0, 171), 7, "the most that was wanted in the last 100 s: for 400 and a margin");
        assert_eq!(desired(200.0, 191), 4);
    }

    #[test]
    fn a_service_sleeps_until_something_is_heard_of_it() {
        let start = Instant::now();
        let scaling = Scaling::default();
        let mut scaler = Scaler::new(0, start);
        let nothing = Load { last_active: None, ..calm(0.0, start) };
        let decision = scaler.decide(&scaling, REPLICA, &nothing, start);
        assert_eq!((decision.desired, decision.mode, decision.why), (0, Mode::Parked, Why::Idle));
        assert!(scaler.sleeps(None) && !scaler.sleeps(Some(start)));
        // A request that came and went.
        let gone = Load { last_active: Some(at(start, 100)), ..calm(0.0, start) };
        let decision = scaler.decide(&scaling, REPLICA, &gone, at(start, 200));
        assert_eq!((decision.desired, decision.why), (1, Why::Woken));
        assert!(!scaler.sleeps(gone.last_active));
        let decision = scaler.decide(&scaling, REPLICA, &gone, at(start, 60_100));
        assert_eq!((decision.desired, decision.why), (0, Why::Idle));
    }

    #[test]
    fn nobody_is_parked_between_two_requests() {
        let start = Instant::now();
        let scaling = Scaling { scale_to_zero_after_seconds: 0, ..Scaling::default() };
        let mut scaler = Scaler::new(0, start);
        let mut desired = |millis| {
            let load = Load { last_active: Some(at(start, 100)), ..calm(0.0, start) };
            scaler.decide(&scaling, REPLICA, &load, at(start, millis)).desired
        };
        for (millis, want) in [(100, 1), (350, 1), (2099, 1), (2100, 0)] {
            assert_eq!(desired(millis), want, "at {millis}");
        }
    }

    /// Want of information takes no replica, and brings none.
    #[test]
    fn who_is_not_heard_is_not_parked() {
        let start = Instant::now();
        let mut scaler = Scaler::new(0, start);
        let mut decide = |load: Load, second: u64| {
            scaler.decide(&Scaling::default(), REPLICA, &load, at(start, second * 1000)).desired
        };
        let silence = Load { last_active: None, dark: true, ..calm(0.0, start) };
        assert_eq!(decide(silence, 0), 0, "parked is parked");
        let dark = |mean, second: u64| Load { dark: true, ..calm(mean, at(start, second * 1000)) };
        assert_eq!(decide(dark(140.0, 1), 1), 2);
        assert_eq!(decide(dark(0.0, 1), 600), 2, "nothing was heard for ten minutes");
        assert_eq!(decide(dark(340.0, 601), 601), 5, "more are not held back");
        assert_eq!(decide(Load { dark: false, ..dark(0.0, 601) }, 1200), 0);
    }
}
