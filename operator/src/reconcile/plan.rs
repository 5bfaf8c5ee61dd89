//! What should be. In: everything that was observed; out: the objects and assignments to make true, and the facts of
//! it for status; or why nothing may be touched. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use podless_crds::{Image, Reason, WasmService};
use sha2::{Digest, Sha256};

use super::{
    children::{Child, Recorded, RecordedNode, Target, recorded, service_object, slice_object},
    observe::Observed,
    quantity,
    views::ShimView,
};
use crate::{
    build::{BuildState, Built},
    link::content::{Assigned, Content},
    schedule,
};

/// How long a shim whose link is down keeps its places whatever its pod's state: a killed shim is back in a second.
pub const GRACE: Duration = Duration::from_secs(10);
/// A new leader gives shims this long to connect before it says that they have not.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is the same for every service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the shims.
    pub namespace: String,
    /// Domain of the cluster, for URLs.
    pub cluster_domain: String,
    /// `IPv4` or `IPv6`: the family of the pods' addresses.
    pub address_type: &'static str,
}

/// What to make true.
#[derive(Debug)]
pub struct Plan {
    /// The Service.
    pub service: core::Service,
    /// Its endpoints.
    pub slice: EndpointSlice,
    /// What shims are to be told; nothing when there is nothing new to say.
    pub assigned: Option<Assigned>,
    /// For status.
    pub facts: Facts,
}

/// What is true when the plan is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Places, those with most replicas first.
    pub places: Vec<Place>,
    /// Endpoints that new connections go to: the ready ones; when there is none, those that serve while they end.
    pub endpoints: usize,
    /// One of them serves this generation.
    pub endpoints_current: bool,
    /// Nodes that could not load this generation, with what their shims say.
    pub failures: Vec<(String, String)>,
    /// Shims whose link is up and that run what the operator compiles for.
    pub usable_shims: usize,
    /// How much longer shims may take to connect to a new leader.
    pub patience: Duration,
    /// The image that was assigned, when this leader knows it.
    pub image: Option<Image>,
    /// What served before is not made anew yet: a shim that joins must wait for it.
    pub unsettled: bool,
}

/// Replicas on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// Replicas on it.
    pub replicas: u32,
    /// It serves this generation.
    pub current: bool,
}

/// Nothing may be touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The stable name.
    pub reason: Reason,
    /// A sentence that tells what to do.
    pub message: String,
    /// When to look again: what is in the way is not ours, and nobody tells us when it goes.
    pub again: Duration,
}

/// Plans one service.
pub fn plan(o: &Observed, settings: &Settings) -> Result<Plan, Rejected> {
    let name = &o.id.name;
    may_touch(&o.child, "Service", name)?;
    may_touch(&o.slice, "EndpointSlice", &super::children::slice_name(name))?;
    let memory = memory_of(&o.service)?;
    let port = o.port.ok_or_else(|| Rejected {
        reason: Reason::NoPort,
        message: "every service port is taken: delete services that are not needed".to_owned(),
        again: Duration::from_secs(30),
    })?;

    let generation = o.service.metadata.generation.unwrap_or(0);
    let found = o.slice.ours();
    let record = found.and_then(recorded);
    let before = Before::of(found);
    let assigned = o.assigned.as_deref();
    let content = match &o.build {
        BuildState::Ready(built) => Some(Arc::new(content_of(&o.service, built, memory))),
        // What served goes on serving, with its own artifact and settings, while the new one is not there.
        BuildState::Pending(_) | BuildState::Rejected(_) => assigned.map(|a| a.content.clone()),
    };

    let mut shims = Shims::sort(&o.shims, &before, assigned);
    let current = assigned.map(|a| a.replicas.clone()).or_else(|| record.as_ref().map(Recorded::replicas));
    let current = current.unwrap_or_default();
    let nodes = shims.nodes(&o.loads);
    let replicas = match content {
        Some(_) => schedule::spread(&o.id.uid, o.service.spec.replicas(), &nodes, &current),
        // A new leader that has not made the artifact yet moves nothing.
        None => current.into_iter().filter(|(node, _)| nodes.contains_key(node)).collect(),
    };
    shims.choose(&replicas);

    let next = content.as_ref().filter(|_| !replicas.is_empty()).map(|content| {
        let print = fingerprint(content, port, &replicas);
        let generation = next_generation(&print, assigned, record.as_ref(), &o.shims);
        let budget = |replicas: u32| replicas.saturating_mul(content.concurrency);
        let nodes = replicas.iter().map(|(node, &n)| (node.clone(), RecordedNode { replicas: n, budget: budget(n) }));
        let record = Recorded {
            generation,
            service_generation: content.service_generation,
            fingerprint: print,
            nodes: nodes.collect(),
        };
        let budgets = shims.chosen.iter().map(|s| (s.pod_uid.clone(), budget(replicas[&s.node]))).collect();
        let (service, content) = (o.id.clone(), content.clone());
        (record, Assigned { service, generation, port, content, replicas: replicas.clone(), budgets })
    });
    let (record, next) = match next {
        Some((record, next)) => (Some(record), Some(next)),
        None => (record, None),
    };

    // Which assignment generation is this generation of the object?
    let wanted = record.as_ref().filter(|r| r.service_generation == generation).map(|r| r.generation);
    let believed = o.was_ready() && wanted.is_some();
    let serves_current = |shim: &ShimView| match shim.serves {
        Some(serves) => Some(serves) == wanted,
        // A new leader has not heard of this shim yet: what was written is believed until it is.
        None => !shim.connected && believed && before.serves(shim),
    };
    let targets = shims.targets(&replicas, &before);
    let mut places: Vec<_> = replicas
        .iter()
        .map(|(node, &replicas)| Place {
            node: node.clone(),
            replicas,
            current: shims.chosen.iter().any(|shim| shim.node == *node && serves_current(shim)),
        })
        .collect();
    places.sort_by(|a, b| b.replicas.cmp(&a.replicas).then_with(|| a.node.cmp(&b.node)));
    let failures = shims.chosen.iter().filter_map(|shim| {
        let failed = shim.failed.as_ref().filter(|f| Some(f.generation) == wanted)?;
        Some((shim.node.clone(), failed.message.clone()))
    });
    let takers = takers(&targets);
    let facts = Facts {
        places,
        endpoints: takers.len(),
        endpoints_current: o.shims.iter().any(|s| takers.contains(s.pod_uid.as_str()) && serves_current(s)),
        failures: failures.collect(),
        usable_shims: o.shims.iter().filter(|s| s.assignable()).count(),
        patience: o.patience,
        image: next.as_ref().map(|n| n.content.image.clone()),
        unsettled: matches!(o.build, BuildState::Pending(_)) && record.is_some() && assigned.is_none(),
    };
    Ok(Plan {
        service: service_object(&o.service, port),
        slice: slice_object(&o.service, port, settings.address_type, &settings.namespace, &targets, record.as_ref()),
        assigned: next,
        facts,
    })
}

fn may_touch<K>(child: &Child<K>, kind: &str, name: &str) -> Result<(), Rejected> {
    match child {
        Child::Missing | Child::Ours(_) => Ok(()),
        Child::Leftover => Err(Rejected {
            reason: Reason::Waiting,
            message: format!("{kind} {name:?} of an earlier object of this name is being deleted"),
            again: Duration::from_secs(1),
        }),
        Child::Foreign => Err(Rejected {
            reason: Reason::ServiceConflict,
            message: format!(
                "a {kind} {name:?} that is not this object's is in the namespace: delete it, or give this object another name"
            ),
            again: Duration::from_secs(15),
        }),
    }
}

fn memory_of(service: &WasmService) -> Result<u64, Rejected> {
    let memory = &service.spec.revision.instance.memory.0;
    quantity::bytes(memory).ok_or_else(|| Rejected {
        reason: Reason::InvalidSpec,
        message: format!("spec.instance.memory is {memory:?}: write a whole number of bytes, as in 64Mi"),
        again: Duration::from_secs(3600),
    })
}

fn content_of(service: &WasmService, built: &Built, instance_memory: u64) -> Content {
    let spec = &service.spec.revision;
    Content {
        service_generation: service.metadata.generation.unwrap_or(0),
        image: Image {
            reference: spec.image.clone(),
            digest: built.digest.clone(),
            size: i64::try_from(built.component_size).unwrap_or(i64::MAX),
        },
        // A seal is two strings: it is always JSON.
        sealed: serde_json::to_string(&built.sealed).unwrap_or_default(),
        code: built.code.clone(),
        env: spec.env.iter().map(|e| (e.name.clone(), e.value.clone())).collect(),
        logging: spec.capabilities.logging.is_some(),
        instance_memory,
        timeout_millis: u64::try_from(spec.timeout_seconds).unwrap_or(0) * 1000,
        concurrency: u32::try_from(spec.concurrency).unwrap_or(1),
    }
}

/// Name of exactly what is assigned.
fn fingerprint(content: &Content, port: u16, replicas: &BTreeMap<String, u32>) -> String {
    let mut hash = Sha256::new();
    hash.update(content.fingerprint());
    hash.update(port.to_le_bytes());
    for (node, replicas) in replicas {
        hash.update(format!("\0{node}\0{replicas}"));
    }
    hex::encode(&hash.finalize()[..8])
}

/// The same generation while nothing changes; else one more than anybody has seen, so that neither a new leader nor a
/// restored API server can send what the shims would refuse as old.
fn next_generation(print: &str, assigned: Option<&Assigned>, record: Option<&Recorded>, shims: &[ShimView]) -> u64 {
    let seen = shims.iter().filter_map(|s| s.serves.max(s.failed.as_ref().map(|f| f.generation))).max().unwrap_or(0);
    let (now, now_print) = match (assigned, record) {
        (Some(a), _) => (a.generation, fingerprint(&a.content, a.port, &a.replicas)),
        (None, Some(r)) => (r.generation, r.fingerprint.clone()),
        (None, None) => return seen + 1,
    };
    if now_print == print && now >= seen { now } else { now.max(seen) + 1 }
}

/// What the slice said before this plan.
struct Before<'a>(BTreeMap<&'a str, (bool, bool)>);

impl<'a> Before<'a> {
    fn of(slice: Option<&'a EndpointSlice>) -> Self {
        let endpoints = slice.into_iter().flat_map(|s| &s.endpoints);
        Self(
            endpoints
                .filter_map(|e| {
                    let conditions = e.conditions.as_ref()?;
                    let ready = conditions.ready.unwrap_or(true);
                    let uid = e.target_ref.as_ref()?.uid.as_deref()?;
                    Some((uid, (ready, conditions.serving.unwrap_or(ready))))
                })
                .collect(),
        )
    }

    fn listed(&self, shim: &ShimView) -> bool {
        self.0.contains_key(shim.pod_uid.as_str())
    }

    fn ready(&self, shim: &ShimView) -> bool {
        self.0.get(shim.pod_uid.as_str()).is_some_and(|(ready, _)| *ready)
    }

    /// It serves, as far as it can be known.
    fn serves(&self, shim: &ShimView) -> bool {
        shim.serves.is_some()
            || !shim.connected && self.0.get(shim.pod_uid.as_str()).is_some_and(|(_, serving)| *serving)
    }
}

impl ShimView {
    /// It can be given something new.
    fn assignable(&self) -> bool {
        self.connected && self.matches && !self.terminating
    }

    /// It may be away for a moment only.
    fn held(&self) -> bool {
        !self.terminating && (self.connected || self.pod_ready || self.silent < GRACE)
    }
}

impl Recorded {
    fn replicas(&self) -> BTreeMap<String, u32> {
        self.nodes.iter().map(|(node, n)| (node.clone(), n.replicas)).collect()
    }
}

/// The shims by what this service may do with them.
struct Shims<'a> {
    all: &'a [ShimView],
    usable: Vec<&'a ShimView>,
    chosen: Vec<&'a ShimView>,
}

impl<'a> Shims<'a> {
    fn sort(all: &'a [ShimView], before: &Before<'_>, assigned: Option<&Assigned>) -> Self {
        let placed = |s: &ShimView| before.listed(s) || assigned.is_some_and(|a| a.budgets.contains_key(&s.pod_uid));
        let mut usable: Vec<_> = all.iter().filter(|s| s.assignable() || placed(s) && s.held()).collect();
        if usable.is_empty() {
            // Who has lost sight of every shim at once moves none.
            usable = all.iter().filter(|s| placed(s) && !s.terminating).collect();
        }
        Self { all, usable, chosen: vec![] }
    }

    fn nodes(&self, loads: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        self.usable.iter().map(|s| (s.node.clone(), loads.get(&s.node).copied().unwrap_or(0))).collect()
    }

    /// Every usable shim of a chosen node: while one replaces another, both.
    fn choose(&mut self, replicas: &BTreeMap<String, u32>) {
        self.chosen = self.usable.iter().filter(|s| replicas.contains_key(&s.node)).copied().collect();
    }

    fn targets(&self, replicas: &BTreeMap<String, u32>, before: &Before<'_>) -> Vec<Target> {
        let chosen: BTreeSet<&str> = self.chosen.iter().map(|s| s.pod_uid.as_str()).collect();
        let alive = |s: &ShimView| s.connected || s.pod_ready;
        let all_serve = replicas.keys().all(|n| self.chosen.iter().any(|s| s.node == *n && before.serves(s)));
        let someone_else = self.chosen.iter().any(|s| before.serves(s) && alive(s));
        let targets = self.all.iter().filter_map(|shim| {
            let serving = before.serves(shim);
            let target = |ready, terminating| target_of(shim, ready, serving, terminating);
            if chosen.contains(shim.pod_uid.as_str()) {
                // Kubernetes says that it is down: no new connections, unless there is nobody else to take them.
                Some(target(serving && (alive(shim) || !someone_else), false))
            } else if shim.terminating {
                (serving && before.listed(shim)).then(|| target(false, true))
            } else {
                // It leaves when everyone who takes over has loaded the service.
                (serving && before.listed(shim) && shim.held() && !all_serve).then(|| target(true, false))
            }
        });
        let mut targets: Vec<_> = targets.filter(|t| !t.ip.is_empty()).collect();
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
fn takers(targets: &[Target]) -> BTreeSet<&str> {
    let of = |take: fn(&Target) -> bool| targets.iter().filter(|t| take(t)).map(|t| t.pod_uid.as_str()).collect();
    let ready: BTreeSet<_> = of(|t| t.ready);
    if ready.is_empty() { of(|t| t.serving && t.terminating) } else { ready }
}

fn target_of(shim: &ShimView, ready: bool, serving: bool, terminating: bool) -> Target {
    Target {
        node: shim.node.clone(),
        pod_uid: shim.pod_uid.clone(),
        pod_name: shim.pod_name.clone(),
        ip: shim.ip.clone(),
        serving,
        terminating,
        ready,
    }
}

impl Observed {
    /// Status said that this generation serves.
    fn was_ready(&self) -> bool {
        let ready = self.service.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Ready");
        ready.is_some_and(|c| c.status == "True" && c.observed_generation == self.service.metadata.generation)
    }
}
