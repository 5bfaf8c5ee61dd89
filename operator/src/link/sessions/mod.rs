//! Who is connected, what each shim knows and what it should be told. Pure: time is an argument; the lock around it and
//! the streams are in `session` and the parent.
//!
//! `shim` is what is kept of one of them, `tell` what it is told next, `probes` what it is asked about others, `spread`
//! whose connections are to come again elsewhere, `believe` what of its counts is taken, and `slow` how quickly it answers.

mod believe;
mod probes;
mod shim;
mod slow;
mod spread;
mod tell;
mod withdraw;

#[cfg(test)]
mod artifacts;
#[cfg(test)]
mod heard;
#[cfg(test)]
mod strange;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use podless_engine::Target;
use podless_link::v1;
use tokio::sync::Notify;

pub use believe::BUDGETS;
pub use shim::{Failure, HIGHEST_BELIEVED, SessionKey, Shim};
pub use spread::Growth;
pub use tell::Next;

use super::{auth::Identity, content::Assigned};
use crate::{build::Code, eject::Slow};

/// The dead are remembered for this long at least: whoever planned one just before it was buried comes too late.
const REST: Duration = Duration::from_secs(600);

/// A service that is gone for certain.
struct Buried {
    /// The highest generation that anyone has seen.
    seen: u64,
    since: Instant,
}

/// Everything about shims that is not in Kubernetes.
#[derive(Default)]
pub struct Sessions {
    /// What the operator compiles for, by fingerprint.
    engines: BTreeMap<String, Target>,
    shims: HashMap<String, Shim>,
    services: HashMap<String, Arc<Assigned>>,
    buried: HashMap<String, Buried>,
    /// Services of which something was revoked, with the highest generation that is: see `withdraw`.
    withdrawn: HashMap<String, u64>,
    /// Pods of shims that nobody reaches; see `eject`.
    ejected: HashSet<String>,
    /// Pods of shims that are much slower than others, and why they are said to be; see `eject`.
    slow: HashMap<String, Slow>,
    last_probe: u64,
    epoch: u64,
}

impl Sessions {
    /// For an operator that compiles for engines of these fingerprints.
    pub fn new(engines: impl IntoIterator<Item = (String, Target)>) -> Self {
        Self { engines: engines.into_iter().collect(), ..Self::default() }
    }

    /// A shim has said Hello. `services` are the uids of all services there are.
    pub fn open(
        &mut self,
        identity: Identity,
        hello: v1::Hello,
        services: HashSet<String>,
        now: Instant,
    ) -> (SessionKey, Arc<Notify>) {
        self.epoch += 1;
        let pod_uid = identity.pod_uid.clone();
        self.ejected.remove(&pod_uid);
        let mut shim = Shim::new(identity, hello, services, self.epoch, now);
        shim.dirty
            .extend(self.services.values().filter(|a| a.share(&pod_uid).is_some()).map(|a| a.service.uid.clone()));
        let (key, notify) = (SessionKey { pod_uid: pod_uid.clone(), session: self.epoch }, shim.notify.clone());
        if let Some(replaced) = self.shims.insert(pod_uid, shim) {
            // Its stream sees that it is not the one any more.
            replaced.notify.notify_one();
        }
        (key, notify)
    }

    fn shim(&mut self, key: &SessionKey) -> Option<&mut Shim> {
        self.shims.get_mut(&key.pod_uid).filter(|shim| shim.session == key.session)
    }

    /// The stream has ended; a newer one of the same shim stays.
    pub fn close(&mut self, key: &SessionKey, now: Instant) {
        let Some(shim) = self.shim(key) else { return };
        shim.disconnected(now);
        if shim.gone {
            self.shims.remove(&key.pod_uid);
        }
    }

    /// Whether this stream is still the shim's one.
    pub fn is_current(&self, key: &SessionKey) -> bool {
        self.shims.get(&key.pod_uid).is_some_and(|shim| shim.connected && shim.session == key.session)
    }

    /// The pod is gone: so is what its shim knew, as soon as its stream has ended.
    pub fn forget_pod(&mut self, pod_uid: &str) {
        let Some(shim) = self.shims.get_mut(pod_uid) else { return };
        shim.gone = true;
        if !shim.connected {
            self.shims.remove(pod_uid);
        }
    }

    /// A shim has acknowledged something. Answers whether it claimed a higher generation than it can have: then the one
    /// that it can have counts.
    pub fn ack(&mut self, key: &SessionKey, ack: v1::Ack, now: Instant) -> bool {
        // It may have been told on an earlier stream, which `told` does not remember.
        let assigned = self.services.get(&ack.service_uid).filter(|a| a.share(&key.pod_uid).is_some());
        let assigned = assigned.map_or(0, |a| a.generation);
        if self.withdrawn.contains_key(&ack.service_uid) {
            // What it has let go makes room for what is assigned since.
            self.touch(&key.pod_uid, &ack.service_uid);
        }
        self.shim(key).is_some_and(|shim| shim.acknowledged(ack, assigned, now))
    }

    /// A shim has reported.
    pub fn report(&mut self, key: &SessionKey, report: v1::Report) {
        if let Some(shim) = self.shim(key) {
            shim.reported(report);
        }
    }

    /// What a service should be on each shim from now on.
    pub fn assign(&mut self, assigned: Assigned) {
        let uid = assigned.service.uid.clone();
        // Planned before its end was known.
        if self.buried.contains_key(&uid) {
            return;
        }
        for pod_uid in assigned.budgets.keys().chain(assigned.beside.keys()) {
            self.touch(pod_uid, &uid);
        }
        self.services.insert(uid, Arc::new(assigned));
    }

    /// The service is gone for certain (see `tombstone`): whoever knows it is told to let it go.
    pub fn bury(&mut self, service: &str, now: Instant) {
        let assigned = self.services.remove(service).map_or(0, |a| a.generation);
        let seen = self.shims.values().map(|shim| shim.highest(service)).fold(assigned, u64::max);
        self.buried.insert(service.to_owned(), Buried { seen, since: now });
        self.withdrawn.remove(service);
        let pods: Vec<_> = self.shims.keys().cloned().collect();
        for pod in pods {
            if let Some(shim) = self.shims.get_mut(&pod) {
                shim.awaits.remove(service);
            }
            self.touch(&pod, service);
        }
    }

    /// Forgets the dead whom no shim knows any more. Who connects later and knows one has it buried once more.
    pub fn forget_buried(&mut self, now: Instant) {
        let shims = &self.shims;
        self.buried.retain(|uid, buried| {
            now.saturating_duration_since(buried.since) < REST || shims.values().any(|shim| shim.highest(uid) > 0)
        });
    }

    /// The buried that are among the services there are, and so were brought back by an API server that was restored: they
    /// are the living again. Answers whether there was one.
    pub fn exhume(&mut self, services: &HashSet<String>) -> bool {
        let before = self.buried.len();
        self.buried.retain(|uid, _| !services.contains(uid));
        self.buried.len() < before
    }

    /// The service as it is assigned now.
    pub fn assigned(&self, service: &str) -> Option<Arc<Assigned>> {
        self.services.get(service).cloned()
    }

    /// Every service that is assigned.
    pub fn all_assigned(&self) -> impl Iterator<Item = &Arc<Assigned>> {
        self.services.values()
    }

    /// The machine code with this SHA-256, if the shim is to have it.
    pub fn code_for(&self, pod_uid: &str, sha256: &str) -> Option<Arc<Code>> {
        let given = self.services.values().filter(|a| a.share(pod_uid).is_some());
        let mut codes = given.flat_map(|a| a.content.artifacts.values()).map(|artifact| &artifact.code);
        codes.find(|code| code.sha256 == sha256).cloned()
    }

    /// Connected shims of the engine of this fingerprint that serve this service, by the uids of their pods.
    pub fn holders(&self, service: &str, engine: &str) -> Vec<String> {
        let runs = |shim: &Shim| shim.connected && shim.hello.fingerprint == engine;
        let holds = |shim: &Shim| runs(shim) && shim.known.contains_key(service);
        self.shims.iter().filter(|(_, shim)| holds(shim)).map(|(pod_uid, _)| pod_uid.clone()).collect()
    }

    /// Whether a shim that is connected serves this service with an engine that the operator does not compile for.
    pub fn is_served_by_another_engine(&self, service: &str) -> bool {
        self.shims.values().any(|shim| shim.connected && shim.known.contains_key(service) && !self.matches(shim))
    }

    /// Asks a shim for machine code. Answers whether it is there to be asked.
    pub fn recall(&mut self, pod_uid: &str, recall: v1::Recall) -> bool {
        let Some(shim) = self.shims.get_mut(pod_uid).filter(|shim| shim.connected) else { return false };
        shim.recalls.push_back(recall);
        shim.notify.notify_one();
        true
    }

    /// What all shims have measured of a service; `None` while one that serves it has not reported yet, because half
    /// of the numbers would look like a change.
    pub fn reports_of(&self, service: &str) -> Option<Vec<&v1::ServiceReport>> {
        let missing =
            |shim: &&Shim| shim.connected && shim.known.contains_key(service) && !shim.measured.contains_key(service);
        if self.shims.values().any(|shim| missing(&shim)) {
            return None;
        }
        Some(self.shims.values().filter_map(|shim| shim.measured.get(service)).collect())
    }

    /// How many streams were ever opened: what [`Sessions::settle`] is told.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Every shim, by the uid of its pod.
    pub fn shims(&self) -> &HashMap<String, Shim> {
        &self.shims
    }

    /// Whether the shim runs an engine that the operator compiles for.
    pub fn matches(&self, shim: &Shim) -> bool {
        self.engines.contains_key(&shim.hello.fingerprint)
    }

    /// The nodes of shims that the operator compiles for, and for what: of those that are away for a moment too.
    pub fn targets(&self) -> impl Iterator<Item = (&str, Target)> {
        let target = |shim: &Shim| self.engines.get(&shim.hello.fingerprint).copied();
        self.shims.values().filter_map(move |shim| Some((shim.identity.node.as_str(), target(shim)?)))
    }

    /// Whether every connected shim says that it trusts this, and there is one.
    pub fn all_trust(&self, trust: &str) -> bool {
        let mut connected = self.shims.values().filter(|shim| shim.connected).peekable();
        let trusts = |shim: &Shim| shim.report.as_ref().is_some_and(|report| report.trust == trust);
        connected.peek().is_some() && connected.all(trusts)
    }

    /// Uids of all services that are assigned, known to a shim or waited for by one, but for those that are buried.
    pub fn all_known(&self) -> HashSet<String> {
        let known = self.shims.values().flat_map(|shim| shim.known.keys().chain(shim.awaits.keys()));
        self.services.keys().chain(known).filter(|uid| !self.buried.contains_key(*uid)).cloned().collect()
    }
}
