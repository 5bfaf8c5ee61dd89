//! Whole traces of load through [`Autoscale`], with a small model of shims that serve: every request takes its time
//! where there is room, and waits where there is none.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use podless_crds::{MetricType, Scaling, ScalingMetric, WasmServiceSpec};
use podless_link::v1::{Load, ServiceLoad};

use super::{Autoscale, Decision, Mode, Why};

const UID: &str = "service";
/// Requests in flight that a replica takes.
const CONCURRENCY: u64 = 100;
/// Milliseconds of a step of the model.
const STEP: u64 = 10;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

/// One shim's counters and requests.
#[derive(Default)]
struct Shim {
    /// When each request that is served will end.
    served: VecDeque<u64>,
    waiting: u64,
    requests: u64,
    busy_millis: u64,
    cpu_micros: u64,
    /// Requests, and those in flight, as they were sent last.
    sent: (u64, u64),
    /// Its link is down.
    cut: bool,
}

impl Shim {
    fn in_flight(&self) -> u64 {
        self.served.len() as u64 + self.waiting
    }
}

/// A service that is scaled, on two shims.
struct World {
    autoscale: Autoscale,
    spec: WasmServiceSpec,
    start: Instant,
    millis: u64,
    shims: [Shim; 2],
    /// Milliseconds that a request takes.
    takes: u64,
    /// Thousandths of a CPU that it takes meanwhile.
    burns: u64,
    /// Requests that are due, in thousandths.
    due: u64,
    /// Requests come by chance, with this state of it, or evenly.
    chance: Option<u64>,
    /// A shim that may serve is not connected.
    unheard: bool,
    decision: Decision,
    /// Every number of replicas there was, and since when.
    history: Vec<(u64, u32)>,
}

impl World {
    fn new(scaling: Scaling, placed: u32) -> Self {
        let spec = serde_json::json!({"image": "i", "concurrency": CONCURRENCY, "scaling": scaling});
        let spec: WasmServiceSpec = serde_json::from_value(spec).expect("a spec");
        let (autoscale, start) = (Autoscale::default(), Instant::now());
        let decision = autoscale.desired(UID, &spec, placed, false, start).expect("it is scaled");
        let history = vec![(0, decision.desired)];
        Self {
            autoscale,
            spec,
            start,
            millis: 0,
            shims: Default::default(),
            takes: 100,
            burns: 0,
            due: 0,
            chance: None,
            unheard: false,
            decision,
            history,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.millis)
    }

    /// Lets time pass. `rate` says how many requests a second come, by the milliseconds since it began.
    fn pass(&mut self, millis: u64, rate: impl Fn(u64) -> f64) {
        let begin = self.millis;
        while self.millis < begin + millis {
            self.millis += STEP;
            self.arrive(rate(self.millis - begin));
            for shim in 0..self.shims.len() {
                self.serve(shim);
                // At once when it is woken.
                let woken = self.desired() == 0 && self.shims[shim].sent.1 == 0;
                if woken || self.millis % 200 == 50 * shim as u64 {
                    self.send(shim);
                }
            }
            if self.millis.is_multiple_of(250) {
                self.decide();
            }
        }
    }

    fn arrive(&mut self, rate: f64) {
        let mean = rate * STEP as f64;
        self.due += match &mut self.chance {
            None => mean as u64,
            Some(state) => poisson(mean / 1000.0, state) * 1000,
        };
        while self.due >= 1000 {
            self.due -= 1000;
            let which = (self.shims[0].requests > self.shims[1].requests) as usize;
            let shim = &mut self.shims[which];
            (shim.requests, shim.waiting) = (shim.requests + 1, shim.waiting + 1);
        }
    }

    /// A shim has room for its share of all that may ever be.
    fn serve(&mut self, shim: usize) {
        let most = self.spec.scaling().map_or(0, |s| s.max_replicas as u64);
        let shim = &mut self.shims[shim];
        while shim.served.front().is_some_and(|end| *end <= self.millis) {
            shim.served.pop_front();
        }
        shim.busy_millis += shim.in_flight() * STEP;
        shim.cpu_micros += shim.served.len() as u64 * STEP * self.burns;
        while shim.waiting > 0 && (shim.served.len() as u64) < most * CONCURRENCY / 2 {
            shim.waiting -= 1;
            shim.served.push_back(self.millis + self.takes);
        }
    }

    fn send(&mut self, which: usize) {
        let now = self.now();
        let shim = &mut self.shims[which];
        let state = (shim.requests, shim.in_flight());
        if shim.cut || state.1 == 0 && state == shim.sent {
            return;
        }
        shim.sent = state;
        let news = ServiceLoad {
            service_uid: UID.to_owned(),
            in_flight: state.1 as u32,
            requests: shim.requests,
            busy_micros: shim.busy_millis * 1000,
            at_micros: self.millis * 1000,
            cpu_micros: shim.cpu_micros,
            pace: None,
        };
        self.autoscale.loaded(&format!("pod {which}"), &Load { services: vec![news] }, now);
    }

    fn decide(&mut self) {
        let changed = !self.autoscale.tick(self.now()).is_empty();
        let decision = self.autoscale.desired(UID, &self.spec, 0, self.unheard, self.now()).expect("it is scaled");
        assert_eq!(changed, decision != self.decision, "who is to be placed anew is named: {decision:?}");
        if decision.desired != self.decision.desired {
            self.history.push((self.millis, decision.desired));
        }
        self.decision = decision;
    }

    /// The numbers of replicas since then, the first of them the one there was.
    fn since(&self, millis: u64) -> Vec<u32> {
        let before = self.history.iter().rfind(|(at, _)| *at <= millis);
        before.into_iter().chain(self.history.iter().filter(|(at, _)| *at > millis)).map(|(_, n)| *n).collect()
    }

    fn desired(&self) -> u32 {
        self.decision.desired
    }
}

/// So many by chance: with the next numbers of a generator that is always the same.
fn poisson(mean: f64, state: &mut u64) -> u64 {
    let (mut n, mut p) = (0, 1.0);
    loop {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        p *= (*state >> 11) as f64 / (1u64 << 53) as f64;
        if p <= (-mean).exp() {
            return n;
        }
        n += 1;
    }
}

/// Requests a second that keep so many in flight, when each takes 100 ms.
fn in_flight(n: f64) -> f64 {
    n * 10.0
}

#[test]
fn a_step_is_taken_at_once_and_kept_and_parked_when_it_is_over() {
    let mut world = World::new(Scaling::default(), 0);
    world.pass(10 * SECOND, |_| 0.0);
    assert_eq!((world.history.len(), world.desired(), world.decision.mode), (1, 0, Mode::Parked));
    world.pass(SECOND, |_| in_flight(340.0));
    assert!(world.desired() >= 4, "room for all of it within a second: {:?}", world.history);
    assert_eq!(world.decision.mode, Mode::Panic);
    world.pass(7 * SECOND, |_| in_flight(340.0));
    assert_eq!(world.desired(), 5, "340 by 70, within the panic window: {:?}", world.history);
    let settled = world.millis;
    world.pass(10 * MINUTE, |_| in_flight(340.0));
    assert_eq!(world.since(settled), [5], "a constant load changes nothing");
    assert_eq!(world.decision.mode, Mode::Stable);
    let over = world.millis;
    world.pass(29 * SECOND, |_| 0.0);
    assert!(world.desired() > 0);
    world.pass(2 * SECOND, |_| 0.0);
    assert_eq!((world.desired(), world.decision.why), (0, Why::Idle), "{:?}", world.history);
    let way = world.since(over);
    assert!(way.is_sorted_by(|a, b| a > b), "down and never up: {way:?}");
}

#[test]
fn a_burst_finds_room_within_a_second() {
    let mut world = World::new(Scaling::default(), 0);
    world.pass(2 * MINUTE, |_| in_flight(50.0));
    assert_eq!(world.desired(), 1);
    world.pass(SECOND, |_| in_flight(500.0));
    assert!(world.desired() >= 5, "{:?}", world.history);
    world.pass(6 * SECOND, |_| in_flight(500.0));
    assert_eq!(world.desired(), 8, "500 by 70, within the panic window: {:?}", world.history);
    let settled = world.millis;
    world.pass(5 * MINUTE, |_| in_flight(500.0));
    assert_eq!(world.since(settled), [8]);
}

#[test]
fn a_thousand_at_once_are_one_step_from_zero() {
    let mut world = World::new(Scaling::default(), 0);
    world.takes = SECOND;
    world.pass(SECOND, |_| 0.0);
    world.pass(STEP, |_| 1000.0 * SECOND as f64 / STEP as f64);
    world.pass(SECOND, |_| 0.0);
    assert_eq!(world.history, [(0, 0), (1250, 15)], "1000 by 70");
}

#[test]
fn a_request_now_and_then_wakes_it_and_no_more() {
    let mut world = World::new(Scaling::default(), 0);
    for _ in 0..5 {
        world.pass(STEP, |_| 1.0 * SECOND as f64 / STEP as f64);
        world.pass(500, |_| 0.0);
        assert_eq!((world.desired(), world.decision.mode), (1, Mode::Stable), "within half a second");
        world.pass(3 * MINUTE, |_| 0.0);
        assert_eq!(world.desired(), 0);
    }
    assert_eq!(world.history.len(), 1 + 2 * 5);
}

#[test]
fn a_load_by_chance_does_not_make_it_tremble() {
    // The second is on the edge between two replicas and three.
    for (load, want) in [(150.0, vec![3]), (140.0, vec![2, 3]), (20.0, vec![1])] {
        let mut world = World::new(Scaling::default(), 0);
        world.chance = Some(1);
        world.pass(3 * MINUTE, |_| in_flight(load));
        let settled = world.millis;
        world.pass(20 * MINUTE, |_| in_flight(load));
        let numbers = world.since(settled);
        assert!(want.ends_with(&numbers) || want == numbers, "{load} in flight: {numbers:?}");
    }
}

#[test]
fn a_ramp_has_room_all_the_way_and_is_not_overshot() {
    let mut world = World::new(Scaling::default(), 0);
    let minutes = 5.0 * MINUTE as f64;
    let up = |at: u64| 1000.0 * at as f64 / minutes;
    for second in 0..300 {
        world.pass(SECOND, |at| in_flight(up(second * SECOND + at)));
        let load = up((second + 1) * SECOND);
        assert!(f64::from(world.desired()) * 100.0 >= load - 20.0, "{load}: {:?}", world.history);
    }
    world.pass(2 * MINUTE, |_| in_flight(1000.0));
    let top = world.history.len();
    assert_eq!(world.history.iter().map(|(_, n)| *n).max(), Some(15), "1000 by 70: {:?}", world.history);
    assert!(top <= 1 + 15 + 4, "about one change for each replica: {:?}", world.history);
    world.pass(5 * MINUTE, |at| in_flight(1000.0 - up(at)));
    world.pass(2 * MINUTE, |_| 0.0);
    assert_eq!(world.desired(), 0);
    assert!(world.history.len() <= top + 15, "down step by step: {:?}", world.history);
}

#[test]
fn spikes_are_held_for_a_window() {
    let mut world = World::new(Scaling::default(), 0);
    let spikes = |at: u64| if at % (20 * SECOND) < SECOND { in_flight(500.0) } else { 0.0 };
    world.pass(10 * MINUTE, spikes);
    assert_eq!(world.history.iter().map(|(_, n)| *n).max(), Some(8), "500 by 70: {:?}", world.history);
    assert!(world.history.len() <= 10 * 5, "{:?}", world.history);
    assert!(world.since(SECOND).iter().all(|n| *n > 0), "it is not idle for long enough: {:?}", world.history);
}

#[test]
fn a_load_that_flaps_is_served_and_does_not_flap_with_it() {
    let mut world = World::new(Scaling::default(), 0);
    let flaps = |at: u64| if at % (10 * SECOND) < 5 * SECOND { in_flight(300.0) } else { 0.0 };
    world.pass(10 * MINUTE, flaps);
    // It comes and goes sixty times.
    assert!(world.history.len() <= 30, "{:?}", world.history);
    assert!(world.since(2 * SECOND).iter().all(|n| (3..=5).contains(n)), "room for 300: {:?}", world.history);
}

#[test]
fn days_are_followed() {
    let mut world = World::new(Scaling::default(), 0);
    world.chance = Some(7);
    // Two days of twenty minutes: from 20 to 620 in flight and back.
    let load = |at: u64| 320.0 - 300.0 * (at as f64 / (20.0 * MINUTE as f64) * std::f64::consts::TAU).cos();
    for second in 0..40 * 60 {
        world.pass(SECOND, |at| in_flight(load(second * SECOND + at)));
        let load = load((second + 1) * SECOND);
        let room = f64::from(world.desired()) * 100.0;
        assert!(room >= load - 30.0, "{load}: {:?}", world.history);
        assert!(second < 120 || room <= load * 100.0 / 70.0 * 1.1 + 270.0, "{load}: {:?}", world.history);
    }
    // 1 to 9 and back, twice.
    assert!(world.history.len() <= 4 * 9 + 8, "{:?}", world.history);
}

#[test]
fn there_are_never_more_than_max() {
    let mut world = World::new(Scaling { max_replicas: 4, ..Scaling::default() }, 0);
    world.pass(MINUTE, |_| in_flight(600.0));
    assert_eq!((world.desired(), world.decision.why), (4, Why::Maximum));
    assert!(world.history.len() <= 4, "{:?}", world.history);
    world.pass(5 * MINUTE, |_| 0.0);
    assert_eq!(world.desired(), 0);
}

#[test]
fn requests_a_second_can_be_what_is_followed() {
    let metric = ScalingMetric { kind: MetricType::Rps, utilization: None, value: Some(100) };
    let mut world = World::new(Scaling { metric, ..Scaling::default() }, 0);
    world.pass(10 * SECOND, |_| 650.0);
    assert_eq!(world.desired(), 7, "650 by 100: {:?}", world.history);
    let settled = world.millis;
    world.pass(5 * MINUTE, |_| 650.0);
    assert_eq!(world.since(settled), [7]);
    world.pass(MINUTE, |_| 0.0);
    assert_eq!(world.desired(), 0);
}

#[test]
fn cpu_can_be_what_is_followed() {
    let metric = ScalingMetric { kind: MetricType::Cpu, utilization: None, value: Some(500) };
    let mut world = World::new(Scaling { metric, ..Scaling::default() }, 0);
    world.burns = 100;
    world.pass(10 * SECOND, |_| in_flight(24.0));
    assert_eq!(world.desired(), 5, "2400m by 500m: {:?}", world.history);
    let settled = world.millis;
    world.pass(5 * MINUTE, |_| in_flight(24.0));
    assert_eq!(world.since(settled), [5]);
    world.burns = 0;
    world.pass(2 * MINUTE, |_| in_flight(24.0));
    assert_eq!(world.desired(), 1, "as many requests that only wait: {:?}", world.history);
    world.pass(MINUTE, |_| 0.0);
    assert_eq!(world.desired(), 0);
}

#[test]
fn more_than_can_be_in_flight_is_not_believed() {
    let mut world = World::new(Scaling { max_replicas: 4, ..Scaling::default() }, 0);
    world.pass(2 * SECOND, |_| in_flight(10.0));
    world.shims[0].busy_millis += 1 << 50;
    world.pass(SECOND, |_| in_flight(10.0));
    assert_eq!((world.desired(), world.decision.why), (4, Why::Maximum));
    assert!(world.decision.current <= 4.0 * 4.0 * CONCURRENCY as f64, "{:?}", world.decision);
}

#[test]
fn a_new_leader_keeps_what_is_placed_until_it_has_seen_a_window() {
    let mut world = World::new(Scaling::default(), 5);
    world.pass(59 * SECOND, |_| in_flight(60.0));
    assert_eq!((world.since(0), world.decision.why), (vec![5], Why::Kept));
    world.pass(10 * SECOND, |_| in_flight(60.0));
    assert_eq!(world.desired(), 1);
    let mut busy = World::new(Scaling::default(), 5);
    busy.pass(5 * MINUTE, |_| in_flight(330.0));
    assert_eq!(busy.since(0), [5], "the same load, another leader: nothing changes");
    let mut idle = World::new(Scaling::default(), 5);
    idle.pass(59 * SECOND, |_| 0.0);
    assert_eq!(idle.desired(), 5);
    idle.pass(2 * SECOND, |_| 0.0);
    assert_eq!(idle.desired(), 0);
}

#[test]
fn nobody_goes_for_want_of_a_shims_word() {
    let mut world = World::new(Scaling::default(), 0);
    world.pass(3 * MINUTE, |_| in_flight(340.0));
    assert_eq!(world.desired(), 5);
    world.shims.iter_mut().for_each(|shim| shim.cut = true);
    let cut = world.millis;
    world.pass(50 * SECOND, |_| in_flight(340.0));
    world.shims.iter_mut().for_each(|shim| shim.cut = false);
    world.pass(3 * MINUTE, |_| in_flight(340.0));
    assert_eq!(world.since(cut), [5]);
    // One whose pod is gone is not waited for.
    world.shims[0].cut = true;
    world.autoscale.gone("pod 0");
    let gone = world.millis;
    world.pass(50 * SECOND, |_| in_flight(340.0));
    assert!(world.desired() < 5, "{:?}", world.since(gone));
}

#[test]
fn nobody_goes_while_a_shim_that_may_serve_is_not_connected() {
    let mut world = World::new(Scaling::default(), 5);
    world.unheard = true;
    world.pass(3 * MINUTE, |_| 0.0);
    world.unheard = false;
    world.pass(59 * SECOND, |_| 0.0);
    assert_eq!(world.since(0), [5], "its load is known from when it connects");
    world.pass(2 * SECOND, |_| 0.0);
    assert_eq!(world.desired(), 0);
    world.unheard = true;
    world.pass(3 * MINUTE, |_| 0.0);
    assert_eq!(world.since(0), [5, 0], "parked is parked");
    world.pass(10 * SECOND, |_| in_flight(340.0));
    assert!(world.desired() >= 5, "more are not held back: {:?}", world.history);
}

#[test]
fn what_was_not_heard_for_a_while_is_no_burst() {
    let mut world = World::new(Scaling::default(), 0);
    world.pass(2 * MINUTE, |_| in_flight(60.0));
    world.pass(2 * SECOND, |_| 0.0);
    let cut = world.millis;
    for (n, shim) in world.shims.iter_mut().enumerate() {
        shim.cut = true;
        world.autoscale.cut(&format!("pod {n}"));
    }
    world.pass(20 * SECOND, |_| in_flight(60.0));
    world.shims.iter_mut().for_each(|shim| shim.cut = false);
    world.pass(MINUTE, |_| in_flight(60.0));
    assert_eq!(world.since(cut), [1]);
}

#[test]
fn nothing_is_kept_of_what_nobody_asked_for() {
    let autoscale = Autoscale::default();
    let news = ServiceLoad { service_uid: "unknown".to_owned(), in_flight: 1, ..ServiceLoad::default() };
    autoscale.loaded("pod 0", &Load { services: vec![news] }, Instant::now());
    assert!(autoscale.services().is_empty());
}

#[test]
fn a_fixed_number_is_not_decided_and_settings_may_change() {
    let mut world = World::new(Scaling::default(), 0);
    world.pass(2 * MINUTE, |_| in_flight(140.0));
    assert_eq!(world.desired(), 2);
    let desired = |world: &World, spec: &WasmServiceSpec, placed| {
        world.autoscale.desired(UID, spec, placed, false, world.now()).map(|decision| decision.desired)
    };
    let changed = |scaling: Scaling| WasmServiceSpec { scaling: Some(scaling), ..world.spec.clone() };
    assert_eq!(desired(&world, &changed(Scaling { min_replicas: 4, ..Scaling::default() }), 0), Some(4));
    assert_eq!(desired(&world, &changed(Scaling { max_replicas: 1, ..Scaling::default() }), 0), Some(1));
    let metric = ScalingMetric { utilization: Some(10), ..ScalingMetric::default() };
    let tenth = changed(Scaling { metric, ..Scaling::default() });
    assert_eq!(desired(&world, &tenth, 0), Some(14), "the load is known already");
    let fixed = WasmServiceSpec { scaling: None, replicas: Some(3), ..world.spec.clone() };
    assert_eq!(desired(&world, &fixed, 3), None);
    assert!(world.autoscale.services().is_empty(), "nothing is kept of what is fixed");
    assert!(world.autoscale.tick(world.now()).is_empty());
    assert_eq!(desired(&world, &world.spec, 3), Some(3), "it begins with what is placed");
    world.autoscale.retain(&["another".to_owned()].into());
    assert_eq!(desired(&world, &world.spec, 7), Some(7), "it was forgotten");
}
