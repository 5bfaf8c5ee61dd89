//! Which shims are told that others get a service's connections as well, or instead, so that long-lived connections
//! follow. In: the pods that got them before and get them now; out: a message for each of those that may have some. Pure.

use std::collections::BTreeSet;

use podless_link::v1;

use super::Sessions;

/// A share of a service's connections is to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Uids of the pods that got them before: they have those that are open.
    before: BTreeSet<String>,
    /// How many get them now.
    after: usize,
}

impl Growth {
    /// From these pods to those, if it is one: where nobody got connections, there is none to be spread.
    pub fn between(before: &BTreeSet<&str>, after: &BTreeSet<&str>) -> Option<Self> {
        let grown = !before.is_empty() && after.len() > before.len();
        grown.then(|| Self { before: before.iter().map(|pod| (*pod).to_owned()).collect(), after: after.len() })
    }

    /// From this pod, which gets no more of them, to all of so many that can have them: as if it had been alone.
    pub fn away(pod: &str, able: usize) -> Self {
        Self { before: BTreeSet::from([pod.to_owned()]), after: able }
    }
}

impl Sessions {
    /// Tells those who may have open connections of a service that a share is to come again. A hint: who is not connected
    /// misses it, and one that was not told yet is told once, of both steps together.
    pub fn spread(&mut self, service: &str, growth: &Growth) {
        let count = |pods: usize| u32::try_from(pods).unwrap_or(u32::MAX);
        for pod in &growth.before {
            let Some(shim) = self.shims.get_mut(pod).filter(|shim| shim.connected) else { continue };
            let before = count(growth.before.len());
            let untold = shim.spreads.get(service).map_or(before, |untold| untold.before.min(before));
            let message = v1::Spread { service_uid: service.to_owned(), before: untold, after: count(growth.after) };
            shim.spreads.insert(service.to_owned(), message);
            shim.notify.notify_one();
        }
    }
}
