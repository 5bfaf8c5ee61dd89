//! How many replicas a service is to have. In: what the shims count, what the services ask for, the time; out: a number
//! for each service, and why. No IO: who places them is `reconcile`.
//!
//! `load` makes increments of counters, `window` makes means of increments, `decide` makes a `decision` of means and of
//! the `target`.

mod decide;
mod decision;
mod load;
mod target;
#[cfg(test)]
mod traces;
mod window;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use podless_crds::{Scaling, WasmServiceSpec};
use podless_link::v1;

use crate::link::sessions::BUDGETS;
use decide::{Load, Scaler};
pub use decision::{Decision, Mode, Why};
use load::Counted;
use target::Replica;
use window::{Windows, stable_window};

/// The load of all services, and what has been decided by it. One for each leader: a new one begins with what is placed.
#[derive(Debug, Default)]
pub struct Autoscale {
    services: Mutex<HashMap<String, Service>>,
}

/// What is known of one service that is scaled.
#[derive(Debug)]
struct Service {
    /// What its shims have counted.
    counted: Counted,
    /// Some of its shims cannot tell this leader what they count.
    unheard: bool,
    scaling: Scaling,
    replica: Replica,
    windows: Windows,
    scaler: Scaler,
    decision: Decision,
}

impl Autoscale {
    /// A shim has counted: the body of its message, with the uid of its pod. Of a service that nobody has asked for
    /// nothing is kept.
    pub fn loaded(&self, pod_uid: &str, load: &v1::Load, now: Instant) {
        let mut services = self.services();
        for news in &load.services {
            let Some(service) = services.get_mut(&news.service_uid) else { continue };
            if let Some(increment) = service.counted.count(pod_uid, news, now) {
                service.windows.add(&increment.at_most(service.most_in_flight()), now);
            }
        }
    }

    /// A shim's stream has ended: what it tells next, it has counted all the while.
    pub fn cut(&self, pod_uid: &str) {
        for service in self.services().values_mut() {
            service.counted.cut(pod_uid);
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
    /// begins, if this is the first that is heard of it: 0 when it is parked, or new. `unheard`: some node that has
    /// replicas of it may serve, and no shim there is connected to this leader.
    pub fn desired(
        &self,
        uid: &str,
        spec: &WasmServiceSpec,
        placed: u32,
        unheard: bool,
        now: Instant,
    ) -> Option<Decision> {
        let mut services = self.services();
        let Some(scaling) = spec.scaling() else {
            services.remove(uid);
            return None;
        };
        let replica = Replica::of(spec);
        let service = match services.entry(uid.to_owned()) {
            Entry::Occupied(known) => {
                let service = known.into_mut();
                service.hear(unheard, now);
                service.change(scaling, replica, now);
                service
            }
            Entry::Vacant(new) => new.insert(Service::new(scaling, replica, placed, unheard, now)),
        };
        Some(service.decision.clone())
    }

    /// Decides for every service; the uids of those for which something else is decided now. To be called several times
    /// a second.
    pub fn tick(&self, now: Instant) -> Vec<String> {
        let mut services = self.services();
        let changed = services.iter_mut().filter_map(|(uid, service)| service.tick(now).then(|| uid.clone()));
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

impl Service {
    fn new(scaling: Scaling, replica: Replica, placed: u32, unheard: bool, now: Instant) -> Self {
        let (windows, counted) = (Windows::new(&scaling, now), Counted::default());
        let mut scaler = Scaler::new(placed, now);
        let load = load(&windows, &scaling, &counted, unheard, now);
        let decision = scaler.decide(&scaling, replica, &load, now);
        Self { counted, unheard, scaling, replica, windows, scaler, decision }
    }

    /// Whether some of its shims are not heard. When all are again, the load is known from then on.
    fn hear(&mut self, unheard: bool, now: Instant) {
        if self.unheard && !unheard {
            self.scaler.measured_anew(now);
        }
        self.unheard = unheard;
    }

    /// Requests that one shim can have in flight: each takes all that there may ever be.
    fn most_in_flight(&self) -> u64 {
        [self.scaling.most(), self.replica.concurrency, BUDGETS].map(u64::from).iter().product()
    }

    /// Other settings: what was measured still counts if it is measured in the same way.
    fn change(&mut self, scaling: Scaling, replica: Replica, now: Instant) {
        if self.scaling == scaling && self.replica == replica {
            return;
        }
        if !self.windows.suit(&scaling) {
            self.windows = Windows::new(&scaling, now);
            self.scaler.measured_anew(now);
        }
        (self.scaling, self.replica) = (scaling, replica);
        self.decision = self.decide(now);
    }

    /// Decides; whether it is something else. A decision that is the same keeps the figures that led to it.
    fn tick(&mut self, now: Instant) -> bool {
        // Most services are parked, and nothing was heard of them.
        if self.scaler.sleeps(self.counted.last_active(now)) {
            return false;
        }
        let decision = self.decide(now);
        let changed = (decision.desired, decision.mode) != (self.decision.desired, self.decision.mode);
        if changed {
            self.decision = decision;
        }
        changed
    }

    fn decide(&mut self, now: Instant) -> Decision {
        let load = load(&self.windows, &self.scaling, &self.counted, self.unheard, now);
        self.scaler.decide(&self.scaling, self.replica, &load, now)
    }
}

/// The load until now.
fn load(windows: &Windows, scaling: &Scaling, counted: &Counted, unheard: bool, now: Instant) -> Load {
    Load {
        means: windows.means(counted, now),
        in_flight: counted.in_flight(now),
        last_active: counted.last_active(now),
        dark: unheard || counted.is_dark(stable_window(scaling), now),
    }
}
