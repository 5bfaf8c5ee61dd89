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
    /// Its pod is gone: forgotten when its stream has ended too.
    gone: bool,
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
            gone: false,
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
        (shim.connected, shim.since) = (false, now);
        shim.dirty.clear();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{build::Code, link::content::Content, wake::ServiceRef};
    use podless_crds::Image;
    use std::time::Duration;

    fn identity(pod: &str) -> Identity {
        Identity { pod_uid: pod.into(), pod_name: pod.into(), node: format!("node of {pod}"), ip: "10.0.0.1".into() }
    }

    fn assigned(service: &str, generation: u64, pods: &[&str]) -> Assigned {
        let code = Code { sha256: format!("code of {service}"), size: 0, file: tempfile::tempfile().expect("a file") };
        let content = Content {
            service_generation: 1,
            image: Image { reference: "r".into(), digest: "d".into(), size: 1 },
            sealed: "{}".into(),
            code: Arc::new(code),
            env: vec![],
            logging: false,
            instance_memory: 1,
            timeout_millis: 1,
            concurrency: 10,
        };
        Assigned {
            service: ServiceRef { uid: service.into(), namespace: "n".into(), name: service.into() },
            generation,
            port: 20_000,
            content: Arc::new(content),
            replicas: pods.iter().map(|pod| (format!("node of {pod}"), 2)).collect(),
            budgets: pods.iter().map(|pod| ((*pod).to_owned(), 20)).collect(),
        }
    }

    fn hello(fingerprint: &str, known: &[(&str, u64)]) -> v1::Hello {
        let known =
            known.iter().map(|(uid, generation)| v1::Known { service_uid: (*uid).into(), generation: *generation });
        v1::Hello { fingerprint: fingerprint.into(), known: known.collect(), ..Default::default() }
    }

    /// All that is to be said now, as text.
    fn drain(sessions: &mut Sessions, key: &SessionKey) -> Vec<String> {
        let said = |next| match next {
            Next::Assign(a, budget) => format!("assign {} {} {budget}", a.service.uid, a.generation),
            Next::Withdraw { service, generation } => format!("withdraw {service} {generation}"),
            Next::Synced => "synced".to_owned(),
        };
        std::iter::from_fn(|| sessions.next(key)).map(said).collect()
    }

    fn loaded(sessions: &mut Sessions, key: &SessionKey, service: &str, generation: u64) {
        let outcome = Some(v1::ack::Outcome::Loaded(v1::Loaded {}));
        sessions.ack(key, v1::Ack { service_uid: service.into(), generation, outcome }, Instant::now());
    }

    fn open(sessions: &mut Sessions, pod: &str, hello: v1::Hello, services: &[&str]) -> SessionKey {
        let services = services.iter().map(|s| (*s).to_owned()).collect();
        sessions.open(identity(pod), hello, services, Instant::now()).0
    }

    #[test]
    fn only_differences_are_told_and_synced_comes_after_all_of_them() {
        let mut sessions = Sessions::new("f".into());
        sessions.assign(assigned("a", 3, &["p"]));
        let key = open(&mut sessions, "p", hello("f", &[("a", 3), ("b", 1)]), &["a", "b", "c"]);
        assert!(drain(&mut sessions, &key).is_empty(), "it has a, and the rest is not planned yet");
        let epoch = sessions.epoch();
        sessions.assign(assigned("b", 2, &["p"]));
        sessions.settle("b", epoch);
        assert_eq!(drain(&mut sessions, &key), ["assign b 2 20"]);
        sessions.settle("a", epoch - 1);
        sessions.settle("c", epoch);
        assert!(drain(&mut sessions, &key).is_empty(), "a was planned before this shim was there");
        sessions.settle("a", epoch);
        assert_eq!(drain(&mut sessions, &key), ["synced"]);
        assert!(drain(&mut sessions, &key).is_empty(), "once");
        loaded(&mut sessions, &key, "b", 2);
        sessions.assign(assigned("b", 2, &["p"]));
        assert!(drain(&mut sessions, &key).is_empty(), "nothing has changed");
        sessions.assign(assigned("b", 3, &["q"]));
        assert!(drain(&mut sessions, &key).is_empty(), "it has moved: this shim answers for it still");
    }

    #[test]
    fn a_shim_of_another_engine_is_told_of_deletions_only() {
        let mut sessions = Sessions::new("f".into());
        let key = open(&mut sessions, "p", hello("old", &[("a", 3)]), &[]);
        sessions.assign(assigned("a", 4, &["p"]));
        assert!(drain(&mut sessions, &key).is_empty(), "nor does it become ready and replace one that serves");
        sessions.bury("a");
        assert_eq!(drain(&mut sessions, &key), ["withdraw a 4"]);
    }

    #[test]
    fn the_dead_are_withdrawn_from_whoever_knows_them_whenever_it_comes() {
        let mut sessions = Sessions::new("f".into());
        let (p, q) = (open(&mut sessions, "p", hello("f", &[]), &[]), open(&mut sessions, "q", hello("f", &[]), &[]));
        sessions.assign(assigned("a", 1, &["p"]));
        assert_eq!(drain(&mut sessions, &p), ["assign a 1 20", "synced"]);
        sessions.bury("a");
        assert_eq!(
            (drain(&mut sessions, &p), drain(&mut sessions, &q)),
            (vec!["withdraw a 1".into()], vec!["synced".into()])
        );
        let late = open(&mut sessions, "late", hello("f", &[("a", 1)]), &[]);
        assert_eq!(drain(&mut sessions, &late), ["withdraw a 1", "synced"]);
        assert!(sessions.loads_without("").values().all(|load| *load == 0) && sessions.all_known().is_empty());
    }

    #[test]
    fn a_new_stream_takes_the_place_of_the_old_one() {
        let mut sessions = Sessions::new("f".into());
        sessions.assign(assigned("a", 1, &["p"]));
        let old = open(&mut sessions, "p", hello("f", &[]), &[]);
        assert_eq!(drain(&mut sessions, &old), ["assign a 1 20", "synced"]);
        let new = open(&mut sessions, "p", hello("f", &[]), &[]);
        assert!(!sessions.is_current(&old) && drain(&mut sessions, &old).is_empty());
        sessions.close(&old, Instant::now());
        assert!(sessions.is_current(&new), "the end of the old one is not the end of the shim");
        assert_eq!(drain(&mut sessions, &new), ["assign a 1 20", "synced"], "what was not acknowledged is told again");
        loaded(&mut sessions, &old, "a", 1);
        assert_eq!(sessions.shims()["p"].known.get("a"), None, "nor is its word");
        sessions.close(&new, Instant::now());
        sessions.forget_pod("p");
        assert!(sessions.shims().is_empty());
        // The API server may say that the pod is gone before the stream ends.
        let last = open(&mut sessions, "p", hello("f", &[]), &[]);
        sessions.forget_pod("p");
        assert!(sessions.is_current(&last));
        sessions.close(&last, Instant::now());
        assert!(sessions.shims().is_empty());
    }

    #[test]
    fn what_could_not_be_loaded_is_told_again_after_a_while() {
        let mut sessions = Sessions::new("f".into());
        sessions.assign(assigned("a", 1, &["p"]));
        let key = open(&mut sessions, "p", hello("f", &[]), &[]);
        assert_eq!(drain(&mut sessions, &key), ["assign a 1 20", "synced"]);
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let failed = v1::Failed { reason: "disk".into(), message: "full".into() };
        let outcome = Some(v1::ack::Outcome::Failed(failed));
        sessions.ack(&key, v1::Ack { service_uid: "a".into(), generation: 1, outcome }, start);
        sessions.retry_failed("a", start, minute);
        assert!(drain(&mut sessions, &key).is_empty());
        sessions.retry_failed("a", start + minute, minute);
        assert_eq!(drain(&mut sessions, &key), ["assign a 1 20"]);
    }

    #[test]
    fn code_is_for_those_who_are_to_have_it() {
        let mut sessions = Sessions::new("f".into());
        sessions.assign(assigned("a", 1, &["p"]));
        assert!(sessions.code_for("p", "code of a").is_some());
        assert!(sessions.code_for("q", "code of a").is_none());
        assert!(sessions.code_for("p", "code of b").is_none());
    }

    #[test]
    fn loads_are_those_of_the_others() {
        let mut sessions = Sessions::new("f".into());
        sessions.assign(assigned("a", 1, &["p", "q"]));
        sessions.assign(assigned("b", 1, &["p"]));
        sessions.assign(assigned("a", 2, &["p"]));
        let loads = sessions.loads_without("b");
        assert_eq!((loads.get("node of p"), loads.get("node of q")), (Some(&20), Some(&0)));
    }

    #[test]
    fn half_a_measurement_is_none_and_made_up_buckets_are_dropped() {
        let mut sessions = Sessions::new("f".into());
        let p = open(&mut sessions, "p", hello("f", &[("a", 1)]), &[]);
        let q = open(&mut sessions, "q", hello("f", &[("a", 1)]), &[]);
        let counts = HashMap::from([(3, 1), (u32::MAX, 1)]);
        let phases = v1::Phases { fetch: Some(v1::Histogram { counts }), ..Default::default() };
        let service = v1::ServiceReport { service_uid: "a".into(), phases: Some(phases), ..Default::default() };
        let report = v1::Report { services: vec![service], ..Default::default() };
        sessions.report(&p, report.clone());
        assert!(sessions.reports_of("a").is_none(), "q has not said anything yet");
        sessions.report(&q, report);
        let reports = sessions.reports_of("a").expect("both have");
        let fetch = reports[0].phases.as_ref().and_then(|p| p.fetch.as_ref()).expect("a histogram");
        assert_eq!((reports.len(), fetch.counts.len()), (2, 1));
    }
}
