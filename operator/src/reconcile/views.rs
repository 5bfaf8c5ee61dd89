//! Shims as one service's plan sees them: what Kubernetes says of the pod and what the link says of the shim, joined.
//! Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    link::sessions::{Failure, Sessions},
    shims::ShimPod,
};

/// One shim. By default nothing is known of it but who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShimView {
    /// Uid of its pod.
    pub pod_uid: String,
    /// Name of its pod.
    pub pod_name: String,
    /// Its node.
    pub node: String,
    /// Addresses of its pod, one for each family.
    pub ips: Vec<String>,
    /// Its pod is Ready, as the API server says.
    pub pod_ready: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Its link is up.
    pub connected: bool,
    /// It runs an engine that the operator compiles for; not known before it has connected to this leader.
    pub matches: bool,
    /// Fingerprint of its engine, as it has said.
    pub engine: String,
    /// What machine code that runs, for sentences.
    pub target: String,
    /// How long its link has been down.
    pub silent: Duration,
    /// Nobody reaches it: its node is believed to be lost.
    pub ejected: bool,
    /// It answers much more slowly than others, and gets no new connections for a while.
    pub slow: bool,
    /// It was slow since it connected, and gets connections again.
    pub pardoned: bool,
    /// Generation of this service's assignment that it serves.
    pub serves: Option<u64>,
    /// What it serves is revoked: it is to let that go, and serves nothing.
    pub lets_go: bool,
    /// It could not load this.
    pub failed: Option<Failure>,
    /// Instances that may be live at once, as it has said.
    pub slots: Option<u32>,
    /// Its memory limit in bytes.
    pub memory: Option<u64>,
}

/// Every shim there is, by the uid of its pod. A shim that has never connected to this leader counts as silent since
/// the leader began. Up to generation `withdrawn` the service is revoked.
pub fn views(
    sessions: &Sessions,
    pods: &[ShimPod],
    service: &str,
    withdrawn: u64,
    leading_since: Instant,
    now: Instant,
) -> Vec<ShimView> {
    let mut all: BTreeMap<String, ShimView> = BTreeMap::new();
    for pod in pods {
        let view = ShimView {
            pod_uid: pod.uid.clone(),
            pod_name: pod.name.clone(),
            node: pod.node.clone(),
            ips: pod.ips.clone(),
            pod_ready: pod.ready,
            terminating: pod.terminating,
            silent: now.duration_since(leading_since),
            ejected: sessions.is_ejected(&pod.uid),
            slow: sessions.slow(&pod.uid).is_some(),
            memory: pod.memory,
            ..ShimView::default()
        };
        all.insert(pod.uid.clone(), view);
    }
    for (uid, shim) in sessions.shims() {
        let identity = &shim.identity;
        // A connected shim whose pod the watch has not shown yet is there all the same; a silent one without is not.
        if !shim.connected && !all.contains_key(uid) {
            continue;
        }
        let view = all.entry(uid.clone()).or_insert_with(|| ShimView {
            pod_uid: uid.clone(),
            pod_name: identity.pod_name.clone(),
            node: identity.node.clone(),
            ips: vec![identity.ip.clone()],
            ..ShimView::default()
        });
        if shim.connected && !view.ips.contains(&identity.ip) {
            // As it was when it connected: the watch still shows what it had before its node went down.
            view.ips = vec![identity.ip.clone()];
        }
        view.connected = shim.connected;
        view.pardoned = shim.pardoned;
        view.matches = sessions.matches(shim);
        (view.engine, view.target) = (shim.hello.fingerprint.clone(), shim.hello.target.clone());
        view.silent = if shim.connected { Duration::ZERO } else { now.duration_since(shim.since) };
        let known = shim.known.get(service).copied();
        view.serves = known.filter(|generation| *generation > withdrawn);
        view.lets_go = known.is_some() && view.serves.is_none();
        view.failed = shim.failed.get(service).cloned();
        view.slots = shim.hello.capacity.as_ref().map(|capacity| capacity.instances);
    }
    all.into_values().collect()
}
