//! How many replicas a service is to have. In: what the shims count, what the services ask for, the time; out: a number
//! for each service, and why. No IO: who places them is `reconcile`.
//!
//! `load` makes increments of counters, `window` makes means of increments, `decide` makes a `decision` of means.

mod decide;
mod decision;
mod load;
#[cfg(test)]
mod traces;
mod window;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use podless_crds::{Scaling, WasmServiceSpec};
use podless_link::v1;

use decide::{Load, Scaler};
pub use decision::{Decision, Mode, Why};
use load::Counted;
use window::{Windows, stable_window};

/// The load of all services, and what has been decided by it. One for each leader: a new one begins with what is placed.
#[derive(Debug, Default)]
pub struct Autoscale {
    services: Mutex<HashMap<String, Service>>,
}

/// What is known of one service.
#[derive(Debug, Default)]
struct Service {
    /// What its shims have counted.
    counted: Counted,
    /// How it is scaled; `None` while nobody asked for it, and when its number of replicas is fixed.
    scaled: Option<Scaled>,
}

#[derive(Debug)]
struct Scaled {
    scaling: Scaling,
    /// Requests in flight that one replica takes.
    concurrency: u32,
    windows: Windows,
    scaler: Scaler,
    decision: Decision,
}

impl Autoscale {
    /// A shim has counted: the body of its message, with the uid of its pod.
    pub fn loaded(&self, pod_uid: &str, load: &v1::Load, now: Instant) {
        let mut services = self.services();
        for news in &load.services {
            let service = services.entry(news.service_uid.clone()).or_default();
            let increment = service.counted.count(pod_uid, news, now);
            if let (Some(increment), Some(scaled)) = (increment, &mut service.scaled) {
                scaled.windows.add(&increment, now);
            }
        }
    }

    /// A shim's pod is gone: nothing more will be heard from it. Not for one that has only lost its link: what that one
    /// serves is not known, and until it is, nobody has fewer replicas for want of its word.
    pub fn gone(&self, pod_uid: &str) {
        for service in self.services().values_mut() {
            service.counted.forget(pod_uid);
        }
    }

    /// What is decided for a service; `None` when its number of replicas is fixed. `placed` replicas are where it
    /// begins, if this is the first that is heard of it: 0 when it is parked, or new.
    pub fn desired(&self, uid: &str, spec: &WasmServiceSpec, placed: u32, now: Instant) -> Option<Decision> {
        let mut services = self.services();
        let Some(scaling) = spec.scaling() else {
            if let Some(service) = services.get_mut(uid) {
                service.scaled = None;
            }
            return None;
        };
        let concurrency = u32::try_from(spec.revision.concurrency).unwrap_or(0).max(1);
        let service = services.entry(uid.to_owned()).or_default();
        match &mut service.scaled {
            Some(scaled) if scaled.scaling == scaling && scaled.concurrency == concurrency => {}
            Some(scaled) => scaled.change(scaling, concurrency, &service.counted, now),
            none => *none = Some(Scaled::new(scaling, concurrency, placed, &service.counted, now)),
        }
        service.scaled.as_ref().map(|scaled| scaled.decision.clone())
    }

    /// Decides for every service; the uids of those for which something else is decided now. To be called several times
    /// a second.
    pub fn tick(&self, now: Instant) -> Vec<String> {
        let mut services = self.services();
        let changed = services.iter_mut().filter_map(|(uid, service)| {
            let scaled = service.scaled.as_mut()?;
            scaled.tick(&service.counted, now).then(|| uid.clone())
        });
        changed.collect()
    }

    /// Forgets every service but these.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.services().retain(|uid, _| uids.contains(uid));
    }

    fn services(&self) -> MutexGuard<'_, HashMap<String, Service>> {
        // Whoever panicked while it was locked left a number that is too old at worst.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scaled {
    fn new(scaling: Scaling, concurrency: u32, placed: u32, counted: &Counted, now: Instant) -> Self {
        let windows = Windows::new(&scaling, now);
        let mut scaler = Scaler::new(placed, now);
        let decision = scaler.decide(&scaling, concurrency, &load(&windows, &scaling, counted, now), now);
        Self { scaling, concurrency, windows, scaler, decision }
    }

    /// Other settings: what was measured still counts if it is measured in the same way.
    fn change(&mut self, scaling: Scaling, concurrency: u32, counted: &Counted, now: Instant) {
        if !self.windows.suit(&scaling) {
            self.windows = Windows::new(&scaling, now);
            self.scaler.measured_anew(now);
        }
        (self.scaling, self.concurrency) = (scaling, concurrency);
        self.decision = self.decide(counted, now);
    }

    /// Decides; whether it is something else. A decision that is the same keeps the figures that led to it.
    fn tick(&mut self, counted: &Counted, now: Instant) -> bool {
        // Most services are parked, and nothing was heard of them.
        if self.scaler.sleeps(counted.last_active(now)) {
            return false;
        }
        let decision = self.decide(counted, now);
        let changed = (decision.desired, decision.mode) != (self.decision.desired, self.decision.mode);
        if changed {
            self.decision = decision;
        }
        changed
    }

    fn decide(&mut self, counted: &Counted, now: Instant) -> Decision {
        let load = load(&self.windows, &self.scaling, counted, now);
        self.scaler.decide(&self.scaling, self.concurrency, &load, now)
    }
}

/// The load until now.
fn load(windows: &Windows, scaling: &Scaling, counted: &Counted, now: Instant) -> Load {
    Load {
        means: windows.means(counted, now),
        in_flight: counted.in_flight(now),
        last_active: counted.last_active(now),
        dark: counted.is_dark(stable_window(scaling), now),
    }
}
