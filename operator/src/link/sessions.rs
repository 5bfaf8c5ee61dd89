//! Who is connected, what each shim knows and what it should be told next. Pure: time is an argument; the lock around
//! it and the streams are in `session` and `mod`.
//!
//! A shim is kept by the uid of its pod: during an upgrade two of them share a node. What it knows is remembered after
//! it has disconnected, because it goes on serving.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use podless_link::{histogram, v1};
use tokio::sync::Notify;

use super::{auth::Identity, content::Assigned};

/// A shim could not load a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Generation of the assignment.
    pub generation: u64,
    /// The shim's stable name for it.
    pub reason: String,
    /// The shim's sentence.
    pub message: String,
    /// When it said so.
    pub at: Instant,
}

/// A shim, connected or remembered.
pub struct Shim {
    /// Who it is, from its token.
    pub identity: Identity,
    /// What it runs.
    pub hello: v1::Hello,
    /// Whether its stream is open, and since when it is so or not.
    pub connected: bool,
    /// When it connected or disconnected.
    pub since: Instant,
    /// Assignment generation that it serves, by service uid.
    pub known: HashMap<String, u64>,
    /// What it could not load, by service uid.
    pub failed: HashMap<String, Failure>,
    /// What it said last about itself; the services are in `measured`.
    pub report: Option<v1::Report>,
    /// What it said last, by service uid.
    pub measured: HashMap<String, v1::ServiceReport>,
    session: u64,
    /// Assignment generation that was sent last, by service uid.
    told: HashMap<String, u64>,
    dirty: BTreeSet<String>,
    /// Services that must have been planned with this shim in view before it is told that it has everything.
    awaits: HashSet<String>,
    joined: u64,
    synced: bool,
    notify: Arc<Notify>,
}

/// One stream of one shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKey {
    /// Uid of the shim's pod.
    pub pod_uid: String,
    session: u64,
}

/// What a shim is told next.
#[derive(Clone, Debug)]
pub enum Next {
    /// An assignment with the shim's budget.
    Assign(Arc<Assigned>, u32),
    /// The service is gone.
    Withdraw {
        /// Its uid.
        service: String,
        /// The highest generation that anyone has seen.
        generation: u64,
    },
    /// Everything has been said.
    Synced,
}

/// Everything about shims that is not in Kubernetes.
#[derive(Default)]
pub struct Sessions {
    fingerprint: String,
    shims: HashMap<String, Shim>,
    services: HashMap<String, Arc<Assigned>>,
    /// Services that are gone for certain, with the highest generation that anyone has seen.
    buried: HashMap<String, u64>,
    loads: BTreeMap<String, u64>,
    epoch: u64,
}

impl Sessions {
    /// For an operator that compiles for this engine fingerprint.
    pub fn new(fingerprint: String) -> Self {
        Self { fingerprint, ..Self::default() }
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
        let known: HashMap<_, _> = hello.known.iter().map(|k| (k.service_uid.clone(), k.generation)).collect();
        let notify = Arc::new(Notify::new());
        notify.notify_one();
        let mut shim = Shim {
            identity,
            connected: true,
            since: now,
            told: HashMap::new(),
            failed: HashMap::new(),
            report: None,
            measured: HashMap::new(),
            session: self.epoch,
            dirty: known.keys().cloned().collect(),
            awaits: services,
            joined: self.epoch,
            synced: false,
            notify: notify.clone(),
            known,
            hello: v1::Hello { known: vec![], ..hello },
        };
        shim.dirty
            .extend(self.services.values().filter(|a| a.budgets.contains_key(&pod_uid)).map(|a| a.service.uid.clone()));
        let key = SessionKey { pod_uid: pod_uid.clone(), session: self.epoch };
        self.shims.insert(pod_uid, shim);
        (key, notify)
    }

    fn shim(&mut self, key: &SessionKey) -> Option<&mut Shim> {
        self.shims.get_mut(&key.pod_uid).filter(|shim| shim.session == key.session)
    }

    /// The stream has ended; a newer one of the same shim stays.
    pub fn close(&mut self, key: &SessionKey, now: Instant) {
        if let Some(shim) = self.shim(key) {
            (shim.connected, shim.since) = (false, now);
            shim.dirty.clear();
        }
    }

    /// Whether this stream is still the shim's one.
    pub fn is_current(&self, key: &SessionKey) -> bool {
        self.shims.get(&key.pod_uid).is_some_and(|shim| shim.connected && shim.session == key.session)
    }

    /// The pod is gone: so is what its shim knew.
    pub fn forget_pod(&mut self, pod_uid: &str) {
        if self.shims.get(pod_uid).is_some_and(|shim| !shim.connected) {
            self.shims.remove(pod_uid);
        }
    }

    /// A shim has acknowledged something.
    pub fn ack(&mut self, key: &SessionKey, ack: v1::Ack, now: Instant) {
        let Some(shim) = self.shim(key) else { return };
        let v1::Ack { service_uid, generation, outcome } = ack;
        match outcome {
            Some(v1::ack::Outcome::Loaded(_)) => {
                shim.failed.remove(&service_uid);
                shim.known.insert(service_uid, generation);
            }
            Some(v1::ack::Outcome::Failed(v1::Failed { reason, message })) => {
                shim.failed.insert(service_uid, Failure { generation, reason, message, at: now });
            }
            Some(v1::ack::Outcome::Withdrawn(_)) => {
                shim.known.remove(&service_uid);
                shim.failed.remove(&service_uid);
                shim.told.remove(&service_uid);
            }
            None => {}
        }
    }

    /// A shim has reported. Buckets that there are not are dropped: what comes from a node is not believed blindly.
    pub fn report(&mut self, key: &SessionKey, mut report: v1::Report) {
        for phases in report.services.iter_mut().filter_map(|s| s.phases.as_mut()) {
            let v1::Phases { fetch, load, link, instantiate, first_byte } = phases;
            for histogram in [fetch, load, link, instantiate, first_byte].into_iter().flatten() {
                histogram.counts.retain(|bucket, _| (*bucket as usize) < histogram::BUCKETS);
            }
        }
        if let Some(shim) = self.shim(key) {
            shim.measured = report.services.drain(..).map(|s| (s.service_uid.clone(), s)).collect();
            shim.report = Some(report);
        }
    }

    /// What a service should be on each shim from now on.
    pub fn assign(&mut self, assigned: Assigned) {
        let uid = assigned.service.uid.clone();
        self.count(&uid, false);
        for pod_uid in assigned.budgets.keys() {
            self.touch(pod_uid, &uid);
        }
        self.services.insert(uid.clone(), Arc::new(assigned));
        self.count(&uid, true);
    }

    /// Adds a service's budgets to the loads of its nodes, or takes them away.
    fn count(&mut self, uid: &str, add: bool) {
        let Some(assigned) = self.services.get(uid) else { return };
        for (node, replicas) in &assigned.replicas {
            let budget = u64::from(*replicas) * u64::from(assigned.content.concurrency);
            let load = self.loads.entry(node.clone()).or_default();
            *load = if add { load.saturating_add(budget) } else { load.saturating_sub(budget) };
        }
    }

    fn touch(&mut self, pod_uid: &str, service: &str) {
        if let Some(shim) = self.shims.get_mut(pod_uid).filter(|shim| shim.connected) {
            shim.dirty.insert(service.to_owned());
            shim.notify.notify_one();
        }
    }

    /// The service is gone for certain (see `tombstone`): whoever knows it is told to let it go.
    pub fn bury(&mut self, service: &str) {
        self.count(service, false);
        let assigned = self.services.remove(service).map_or(0, |a| a.generation);
        let seen = self.shims.values().map(|shim| shim.highest(service)).fold(assigned, u64::max);
        self.buried.insert(service.to_owned(), seen);
        let pods: Vec<_> = self.shims.keys().cloned().collect();
        for pod in pods {
            if let Some(shim) = self.shims.get_mut(&pod) {
                shim.awaits.remove(service);
            }
            self.touch(&pod, service);
        }
    }

    /// A service has been planned with every shim in view that had connected at `epoch` or before.
    pub fn settle(&mut self, service: &str, epoch: u64) {
        for shim in self.shims.values_mut().filter(|shim| !shim.synced && shim.joined <= epoch) {
            shim.awaits.remove(service);
            shim.notify.notify_one();
        }
    }

    /// A shim that could not load this long ago is told again.
    pub fn retry_failed(&mut self, service: &str, now: Instant, after: std::time::Duration) {
        for shim in self.shims.values_mut() {
            if shim.failed.get(service).is_some_and(|f| now.duration_since(f.at) >= after) {
                shim.failed.remove(service);
                shim.told.remove(service);
                shim.dirty.insert(service.to_owned());
                shim.notify.notify_one();
            }
        }
    }

    /// What to tell next on this stream; `None` when there is nothing for now.
    pub fn next(&mut self, key: &SessionKey) -> Option<Next> {
        let Self { fingerprint, shims, services, buried, .. } = self;
        let shim = shims.get_mut(&key.pod_uid).filter(|shim| shim.session == key.session)?;
        let matches = shim.hello.fingerprint == *fingerprint;
        while let Some(uid) = shim.dirty.pop_first() {
            if let Some(&seen) = buried.get(&uid) {
                if shim.known.contains_key(&uid) || shim.told.contains_key(&uid) {
                    return Some(Next::Withdraw { service: uid, generation: seen });
                }
                continue;
            }
            // Code for another engine would only be refused.
            let Some((assigned, budget)) =
                services.get(&uid).filter(|_| matches).and_then(|a| Some((a, *a.budgets.get(&key.pod_uid)?)))
            else {
                continue;
            };
            if shim.highest(&uid) == assigned.generation {
                continue;
            }
            shim.told.insert(uid, assigned.generation);
            return Some(Next::Assign(assigned.clone(), budget));
        }
        // A shim that cannot be given anything must not become ready and replace one that serves.
        if !shim.synced && shim.awaits.is_empty() && matches {
            shim.synced = true;
            return Some(Next::Synced);
        }
        None
    }

    /// The service as it is assigned now.
    pub fn assigned(&self, service: &str) -> Option<Arc<Assigned>> {
        self.services.get(service).cloned()
    }

    /// The machine code with this SHA-256, if the shim is to have it.
    pub fn code_for(&self, pod_uid: &str, sha256: &str) -> Option<Arc<Assigned>> {
        self.services.values().find(|a| a.content.code.sha256 == sha256 && a.budgets.contains_key(pod_uid)).cloned()
    }

    /// Requests in flight that services other than this one may put on each node.
    pub fn loads_without(&self, service: &str) -> BTreeMap<String, u64> {
        let mut loads = self.loads.clone();
        if let Some(assigned) = self.services.get(service) {
            for (node, replicas) in &assigned.replicas {
                let budget = u64::from(*replicas) * u64::from(assigned.content.concurrency);
                if let Some(load) = loads.get_mut(node) {
                    *load = load.saturating_sub(budget);
                }
            }
        }
        loads
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

    /// Whether the shim runs the engine that the operator compiles for.
    pub fn matches(&self, shim: &Shim) -> bool {
        shim.hello.fingerprint == self.fingerprint
    }

    /// Uids of all services that are assigned or that a shim knows, but for those that are buried.
    pub fn all_known(&self) -> HashSet<String> {
        let known = self.shims.values().flat_map(|shim| shim.known.keys());
        self.services.keys().chain(known).filter(|uid| !self.buried.contains_key(*uid)).cloned().collect()
    }
}

impl Shim {
    /// The highest generation of a service that this shim has or was told on this stream.
    pub fn highest(&self, service: &str) -> u64 {
        let known = self.known.get(service).copied().unwrap_or(0);
        known.max(self.told.get(service).copied().unwrap_or(0))
    }
}
