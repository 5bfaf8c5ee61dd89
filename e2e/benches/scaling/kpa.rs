//! A simulated Knative: its autoscaler (KPA) over pods that take a while to start. In: a load; out: its pods and how
//! long each request took. Pure, and no measurement: every caption says "simulated".
//!
//! The decision is that of knative/serving `pkg/autoscaler/scaling/autoscaler.go`: every two seconds, the mean in flight
//! over a stable and a panic window, divided by the target; twice as many as are ready is a panic, in which no pod goes
//! until a stable window has passed. What it is spared: requests wait in one queue and find a free pod at once, as with an
//! ideal activator; endpoints, proxies and the network take no time; a first request makes it decide at once.

use std::collections::VecDeque;

use super::stats::Sent;

/// Seconds between two decisions.
const TICK: f64 = 2.0;
/// Seconds of a step of the simulation.
const STEP: f64 = 0.01;
/// Seconds for which it goes on after the load has ended, for what still waits.
const AFTER: f64 = 30.0;

/// How it is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kpa {
    /// Requests that a pod takes at once: `containerConcurrency`.
    pub(crate) concurrency: f64,
    /// Of these, what it is to have on average.
    pub(crate) target: f64,
    /// Seconds of the stable window.
    pub(crate) stable: f64,
    /// Seconds of the panic window.
    pub(crate) panic: f64,
    /// Most pods: `max-scale`.
    pub(crate) most: u32,
    /// Seconds from a decision to a pod that is ready.
    pub(crate) pod_start: f64,
}

/// What it did.
#[derive(Debug, Default)]
pub(crate) struct Simulated {
    /// Every number of ready pods there was, and since when, in seconds.
    pub(crate) pods: Vec<(f64, u32)>,
    /// Every request.
    pub(crate) sent: Vec<Sent>,
}

#[derive(Default)]
struct World {
    now: f64,
    ready: u32,
    /// When the pods that are starting will be ready.
    starting: VecDeque<f64>,
    /// When the requests that wait were sent.
    waiting: VecDeque<f64>,
    /// When the requests that are served end.
    serving: VecDeque<f64>,
    /// Mean in flight of each step since the first request.
    in_flight: Vec<f64>,
    /// Since when there is a panic, and the most pods in it.
    panic: Option<(f64, u32)>,
    done: Simulated,
}

/// Lets a load of `rate` requests a second, of `takes` seconds each, come for so many seconds.
pub(crate) fn simulate(kpa: &Kpa, seconds: f64, takes: f64, rate: impl Fn(f64) -> f64) -> Simulated {
    let mut world = World::default();
    world.done.pods.push((0.0, 0));
    let (mut due, mut next_tick) = (0.0, TICK);
    for step in 1.. {
        world.now = f64::from(step) * STEP;
        let over = world.now >= seconds && world.waiting.is_empty() && world.serving.is_empty();
        if over || world.now >= seconds + AFTER {
            break;
        }
        if world.now < seconds {
            due += rate(world.now) * STEP;
        }
        while due > 0.0 {
            due -= 1.0;
            world.waiting.push_back(world.now);
        }
        world.serve(kpa, takes);
        let woken = !world.waiting.is_empty() && world.ready == 0 && world.starting.is_empty();
        if woken || world.now >= next_tick {
            let desired = world.decide(kpa).max(u32::from(woken)).min(kpa.most);
            world.scale(desired, kpa.pod_start);
        }
        if world.now >= next_tick {
            next_tick += TICK;
        }
    }
    world.done
}

impl World {
    /// Pods become ready, requests end, and those that wait take their places.
    fn serve(&mut self, kpa: &Kpa, takes: f64) {
        let before = self.ready;
        while self.starting.pop_front_if(|at| *at <= self.now).is_some() {
            self.ready += 1;
        }
        if self.ready > before {
            self.done.pods.push((self.now, self.ready));
        }
        while self.serving.pop_front_if(|end| *end <= self.now).is_some() {}
        while (self.serving.len() as f64) < f64::from(self.ready) * kpa.concurrency {
            let Some(sent) = self.waiting.pop_front() else { break };
            self.serving.push_back(self.now + takes);
            self.done.sent.push(Sent { at: sent, took: Ok((self.now + takes - sent) * 1000.0) });
        }
        let in_flight = (self.serving.len() + self.waiting.len()) as f64;
        if in_flight > 0.0 || !self.in_flight.is_empty() {
            self.in_flight.push(in_flight);
        }
    }

    /// The mean in flight over a window, or since the first request when that is not as long ago.
    fn mean(&self, window: f64) -> f64 {
        let steps = ((window / STEP) as usize).min(self.in_flight.len());
        let last = &self.in_flight[self.in_flight.len() - steps..];
        last.iter().sum::<f64>() / (steps.max(1) as f64)
    }

    fn decide(&mut self, kpa: &Kpa) -> u32 {
        let pods = |window| (self.mean(window) / kpa.target).ceil();
        let (stable, panic, ready) = (pods(kpa.stable), pods(kpa.panic), f64::from(self.ready.max(1)));
        if stable == 0.0 {
            self.in_flight.clear(); // a window without a request is forgotten
        }
        // By default at most a thousand times more, and half as many.
        let bound = |wanted: f64| wanted.max((ready / 2.0).floor()).min(ready * 1000.0) as u32;
        match self.panic {
            _ if panic / ready >= 2.0 => self.panic = Some((self.now, self.panic.map_or(0, |(_, most)| most))),
            Some((since, _)) if since + kpa.stable < self.now => self.panic = None,
            _ => {}
        }
        let desired = bound(stable);
        let Some((_, most)) = &mut self.panic else { return desired };
        *most = desired.max(bound(panic)).max(*most).max(self.ready);
        *most
    }

    fn scale(&mut self, desired: u32, pod_start: f64) {
        while self.ready + (self.starting.len() as u32) < desired {
            self.starting.push_back(self.now + pod_start);
        }
        while self.ready + (self.starting.len() as u32) > desired && self.starting.pop_back().is_some() {}
        if self.ready > desired {
            self.ready = desired;
            self.done.pods.push((self.now, self.ready));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KPA: Kpa = Kpa { concurrency: 10.0, target: 7.0, stable: 12.0, panic: 2.0, most: 50, pod_start: 2.0 };
    /// Seconds that a request takes.
    const TAKES: f64 = 0.2;

    fn load(in_flight: impl Fn(f64) -> f64) -> Simulated {
        simulate(&KPA, 60.0, TAKES, |at| in_flight(at) / TAKES)
    }

    fn slowest(simulated: &Simulated, from: f64) -> f64 {
        let took = simulated.sent.iter().filter(|sent| sent.at >= from).filter_map(|sent| sent.took.clone().ok());
        took.fold(0.0, f64::max)
    }

    #[test]
    fn a_step_waits_for_a_pod_and_settles_at_the_target() {
        let simulated = load(|at| if at >= 5.0 { 34.0 } else { 0.0 });
        let (first, _) = simulated.pods[1];
        assert!((7.0..7.1).contains(&first), "two seconds after the first request: {:?}", simulated.pods);
        assert!(slowest(&simulated, 0.0) >= 2000.0 + TAKES * 1000.0);
        assert!(slowest(&simulated, 30.0) <= 1.2 * TAKES * 1000.0, "it has caught up");
        assert_eq!(simulated.pods.last().map(|(_, pods)| *pods), Some(5), "34 by 7: {:?}", simulated.pods);
        assert!((simulated.sent.len() as f64 - 55.0 * 34.0 / TAKES).abs() < 2.0, "each is answered once");
    }

    #[test]
    fn nothing_goes_in_a_panic_and_all_go_when_nobody_asks() {
        let simulated = load(|at| if (5.0..8.0).contains(&at) { 60.0 } else { 0.0 });
        let most = simulated.pods.iter().map(|(_, pods)| *pods).max().unwrap();
        let gone = simulated.pods.iter().position(|(_, pods)| *pods == most).unwrap();
        let (left, _) = simulated.pods[gone + 1];
        assert!(left >= 8.0 + KPA.stable, "{:?}", simulated.pods);
        let ended = load(|at| if at < 5.0 { 5.0 } else { 0.0 });
        assert_eq!(ended.pods.last().map(|(_, pods)| *pods), Some(0), "{:?}", ended.pods);
    }

    #[test]
    fn there_are_never_more_than_may_be() {
        let simulated = simulate(&Kpa { most: 3, ..KPA }, 60.0, TAKES, |_| 100.0 / TAKES);
        assert_eq!(simulated.pods.iter().map(|(_, pods)| *pods).max(), Some(3));
    }

    #[test]
    fn no_load_is_no_pod() {
        assert_eq!(load(|_| 0.0).pods, [(0.0, 0)]);
    }
}
