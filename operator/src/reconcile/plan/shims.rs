//! The shims by what a service may do with them, and so its endpoints. In: the shims, what the slices said before, the
//! places; out: who is told, and who is sent connections. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::GRACE;
use crate::{
    link::content::{Assigned, Content},
    reconcile::{slices::Target, views::ShimView},
};

/// What the slices said before this plan.
pub(super) struct Before<'a>(BTreeMap<&'a str, (bool, bool)>);

impl<'a> Before<'a> {
    pub(super) fn of(slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let mut all = BTreeMap::new();
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            let uid = endpoint.target_ref.as_ref().and_then(|pod| pod.uid.as_deref());
            let (Some(conditions), Some(uid)) = (&endpoint.conditions, uid) else { continue };
            let ready = conditions.ready.unwrap_or(true);
            // It may be in several: one for each family, and two while it moves.
            let (was_ready, was_serving) = all.entry(uid).or_insert((false, false));
            *was_ready |= ready;
            *was_serving |= conditions.serving.unwrap_or(ready);
        }
        Self(all)
    }

    /// The pods that kube-proxy has been sending new connections to.
    pub(super) fn takers(&self) -> BTreeSet<&'a str> {
        self.0.iter().filter(|(_, (ready, _))| *ready).map(|(pod, _)| *pod).collect()
    }

    /// Nothing serves it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn listed(&self, shim: &ShimView) -> bool {
        self.0.contains_key(shim.pod_uid.as_str())
    }

    pub(super) fn ready(&self, shim: &ShimView) -> bool {
        self.0.get(shim.pod_uid.as_str()).is_some_and(|(ready, _)| *ready)
    }

    /// It served, and got no new connections.
    pub(super) fn waits(&self, shim: &ShimView) -> bool {
        self.0.get(shim.pod_uid.as_str()) == Some(&(false, true))
    }

    /// It serves, as far as it can be known.
    pub(super) fn serves(&self, shim: &ShimView) -> bool {
        shim.serves.is_some()
            || !shim.connected && self.0.get(shim.pod_uid.as_str()).is_some_and(|(_, serving)| *serving)
    }
}

impl ShimView {
    /// It can be given something new.
    pub(crate) fn assignable(&self) -> bool {
        self.connected && self.matches && !self.terminating
    }

    /// It may be away for a moment only.
    pub(crate) fn held(&self) -> bool {
        !self.terminating && !self.ejected && (self.connected || self.pod_ready || self.silent < GRACE)
    }

    /// Nothing has been heard of it, and nobody has looked for it in vain.
    fn out_of_sight(&self) -> bool {
        !self.terminating && !self.ejected && !self.held()
    }
}

/// Whether nothing is heard of more than half of the nodes. That says more about whoever listens: after an outage of the
/// API server many Nodes are NotReady that serve. Those that nobody reaches are ejected, half of all at most, and do not
/// count here: when most nodes are lost indeed, what ran there is moved all the same.
fn most_are_out_of_sight(all: &[ShimView]) -> bool {
    let nodes: BTreeSet<_> = all.iter().map(|s| &s.node).collect();
    let accounted_for: BTreeSet<_> = all.iter().filter(|s| !s.out_of_sight()).map(|s| &s.node).collect();
    (nodes.len() - accounted_for.len()) * 2 > nodes.len()
}

/// The shims by what this service may do with them.
pub(super) struct Shims<'a> {
    all: &'a [ShimView],
    pub(super) usable: Vec<&'a ShimView>,
    pub(super) chosen: Vec<&'a ShimView>,
    /// Those that could be given it, if there were machine code for them.
    pub(super) unmade: Vec<&'a ShimView>,
    /// Those that answer for its hosts.
    pub(super) hosted: Vec<&'a ShimView>,
    /// Nodes with a shim that may answer for its hosts; none when it has and had none.
    may: BTreeSet<&'a str>,
    /// All of these were told of it, for it had hosts.
    told: bool,
}

impl<'a> Shims<'a> {
    pub(super) fn sort(
        all: &'a [ShimView],
        before: &Before<'_>,
        assigned: Option<&Assigned>,
        content: Option<&Content>,
    ) -> Self {
        let runs = |s: &ShimView| content.is_none_or(|content| content.runs_on(&s.engine));
        let placed = |s: &ShimView| before.listed(s) || assigned.is_some_and(|a| a.budgets.contains_key(&s.pod_uid));
        let blind = most_are_out_of_sight(all);
        let stays = |s: &ShimView| s.held() || blind && s.out_of_sight();
        let mut usable: Vec<_> = all.iter().filter(|s| s.assignable() && runs(s) || placed(s) && stays(s)).collect();
        if usable.is_empty() {
            // Who has lost sight of every shim at once moves none.
            usable = all.iter().filter(|s| placed(s) && !s.terminating).collect();
        }
        let unmade = all.iter().filter(|s| s.assignable() && !runs(s)).collect();
        Self { all, usable, chosen: vec![], unmade, hosted: vec![], may: BTreeSet::new(), told: false }
    }

    /// Every usable shim of a chosen node: while one replaces another, both.
    pub(super) fn choose(&mut self, replicas: &BTreeMap<String, u32>) {
        self.chosen = self.usable.iter().filter(|s| replicas.contains_key(&s.node)).copied().collect();
    }

    fn nodes(&self) -> BTreeSet<&'a str> {
        self.all.iter().map(|s| s.node.as_str()).collect()
    }

    /// Clients of the shared port come to any shim: each that may serve it answers for its hosts, replicas there or not. All
    /// of these that were `told` before are told when it has none any more: others never were, whatever they say.
    pub(super) fn host(&mut self, has: bool, told: bool, may: impl Fn(&str) -> bool) {
        self.may = self.nodes().into_iter().filter(|node| (has || told) && may(node)).collect();
        let answers = |s: &ShimView| has && s.assignable() && self.may.contains(s.node.as_str());
        self.hosted = self.usable.iter().filter(|s| answers(s)).copied().collect();
        self.told = told;
    }

    /// Nodes with a shim that may not answer for its hosts. That one is away for a moment does not matter.
    pub(super) fn unhosted(&self) -> usize {
        self.nodes().difference(&self.may).count()
    }

    /// Whether one of the shims may still answer for hosts that it has no more: it has not heard of this generation.
    pub(super) fn hosts_still(&self, generation: u64) -> bool {
        let unheard = |s: &ShimView| !s.connected || s.serves.is_some_and(|serves| serves < generation);
        self.told && self.all.iter().any(|s| !s.terminating && self.may.contains(s.node.as_str()) && unheard(s))
    }

    fn is_told(&self, shim: &ShimView, before: &Before<'_>, assigned: Option<&Assigned>) -> bool {
        self.told && self.may.contains(shim.node.as_str())
            || before.listed(shim)
            || assigned.is_some_and(|a| a.share(&shim.pod_uid).is_some())
    }

    /// Shims that were given the service, or are to be. What others say that they serve of it is no reason for anything:
    /// they would be told nothing that they could refuse.
    pub(super) fn given(&self, before: &Before<'_>, assigned: Option<&Assigned>) -> impl Iterator<Item = &'a ShimView> {
        let new: BTreeSet<&str> = self.chosen.iter().chain(&self.hosted).map(|s| s.pod_uid.as_str()).collect();
        self.all.iter().filter(move |s| new.contains(s.pod_uid.as_str()) || self.is_told(s, before, assigned))
    }

    /// Shims that were given the service and that nothing sends new connections to any more, and those that only answer for
    /// its hosts. That one says that it has it is not enough: it would be told what it must not know.
    pub(super) fn beside(
        &self,
        targets: &[Target],
        before: &Before<'_>,
        assigned: Option<&Assigned>,
    ) -> Vec<&'a ShimView> {
        let chosen = self.chosen.iter().map(|s| s.pod_uid.as_str());
        let stay: BTreeSet<&str> = targets.iter().map(|t| t.pod_uid.as_str()).chain(chosen).collect();
        let hosted: BTreeSet<_> = self.hosted.iter().map(|s| s.pod_uid.as_str()).collect();
        let left = |s: &ShimView| s.serves.is_some() && self.is_told(s, before, assigned);
        let beside = |s: &&ShimView| s.assignable() && !stay.contains(s.pod_uid.as_str());
        self.all.iter().filter(beside).filter(|s| hosted.contains(s.pod_uid.as_str()) || left(s)).collect()
    }

    pub(super) fn targets(&self, replicas: &BTreeMap<String, u32>, before: &Before<'_>) -> Vec<Target> {
        let chosen: BTreeSet<&str> = self.chosen.iter().map(|s| s.pod_uid.as_str()).collect();
        // That its pod is Ready keeps an endpoint that is there; it brings back none: of a node that has just been switched
        // on again, the kubelet says so before its network is there.
        let alive = |s: &ShimView| s.connected || s.pod_ready && !s.ejected && before.ready(s);
        let all_serve = replicas.keys().all(|n| self.chosen.iter().any(|s| s.node == *n && before.serves(s)));
        let able: Vec<_> = self.chosen.iter().filter(|s| before.serves(s) && alive(s)).collect();
        // The others must be able to take it over: half of them stay, however slow they are.
        let spared = able.iter().filter(|s| s.slow).count() * 2 <= able.len();
        let targets = self.all.iter().filter_map(|shim| {
            let serving = before.serves(shim);
            let target = |ready, terminating| target_of(shim, ready, serving, terminating);
            if chosen.contains(shim.pod_uid.as_str()) {
                // It is slow, or Kubernetes says that it is down: no new connections, unless there is nobody else to take them.
                let takes = alive(shim) && !(shim.slow && spared);
                Some(target(serving && (takes || able.is_empty()), false))
            } else if shim.terminating {
                (serving && before.listed(shim)).then(|| target(false, true))
            } else {
                // It leaves when everyone who takes over has loaded the service.
                (serving && before.listed(shim) && shim.held() && !all_serve).then(|| target(true, false))
            }
        });
        let mut targets: Vec<_> = targets.filter(|t| !t.ips.is_empty()).collect();
        if !targets.iter().any(|t| t.ready) {
            // Nobody is there to take over: who served may still, whatever is said of it.
            let last = self.all.iter().filter(|s| before.ready(s) && before.serves(s) && !s.terminating);
            for shim in last {
                targets.retain(|t| t.pod_uid != shim.pod_uid);
                targets.push(target_of(shim, true, true, false));
            }
        }
        targets.sort();
        targets
    }
}

/// The pods that kube-proxy sends new connections to.
pub(super) fn takers(targets: &[Target]) -> BTreeSet<&str> {
    let of = |take: fn(&Target) -> bool| targets.iter().filter(|t| take(t)).map(|t| t.pod_uid.as_str()).collect();
    let ready: BTreeSet<_> = of(|t| t.ready);
    if ready.is_empty() { of(|t| t.serving && t.terminating) } else { ready }
}

fn target_of(shim: &ShimView, ready: bool, serving: bool, terminating: bool) -> Target {
    Target {
        node: shim.node.clone(),
        zone: None,
        pod_uid: shim.pod_uid.clone(),
        pod_name: shim.pod_name.clone(),
        ips: shim.ips.clone(),
        serving,
        terminating,
        ready,
    }
}
