//! What should be. In: everything that was observed; out: the objects and assignments to make true, and the facts of
//! it for status; or why nothing may be touched. Pure.
//!
//! `place` says where, `content` what, `generation` whether it is new, and `shims` who is told and who gets
//! connections. `drained` is the plan of what is revoked, `growth` says whose connections are to follow, `settled` what
//! all that means for a shim that joins.

mod content;
mod drained;
mod generation;
mod growth;
mod place;
mod settled;
mod shims;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use podless_crds::{Image, Reason};

use super::{
    children::{Child, Recorded, RecordedNode, service_object, slice_name},
    observe::Observed,
    slices::{Common, Families, Family, SlicePlan, ours},
    targets::{may_be_on, while_cordoned},
    views::ShimView,
};
use crate::{
    build::{BuildState, Built},
    hosts::created_at,
    link::{content::Assigned, sessions::Growth},
    nodes::facts::ZONE,
    schedule::Cost,
};
use content::{amounts, content_of};
use drained::drained;
use generation::{content_name, fingerprint, next_generation, seen};
use growth::growth;
use place::{Places, place, stay};
use shims::{Before, Shims, takers};

pub(crate) use place::nodes_of;
pub use settled::{Settled, settled};

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
    /// The first family of the pods' addresses.
    pub family: Family,
    /// On how many nodes a service that is scaled to zero waits for its first request.
    pub activation_nodes: usize,
    /// A secret that is the same for every leader: see [`salt`].
    pub salt: Vec<u8>,
}

/// What names of assignments are salted with: known to whoever has the seal key, and to nobody else.
pub fn salt(key: &podless_artifact::seal::SealKey) -> Vec<u8> {
    key.sign(b"podless fingerprint v1\0", b"").to_vec()
}

/// What to make true.
#[derive(Debug)]
pub struct Plan {
    /// The Service.
    pub service: core::Service,
    /// Its endpoints.
    pub slices: SlicePlan,
    /// What shims are to be told; nothing when there is nothing new to say.
    pub assigned: Option<Assigned>,
    /// Its endpoints are more than before, or one is slow: long-lived connections are to follow.
    pub growth: Vec<Growth>,
    /// What the service takes of each node.
    pub loads: BTreeMap<String, Cost>,
    /// For status.
    pub facts: Facts,
}

/// What is true when the plan is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Replicas that were asked for.
    pub wanted: u32,
    /// There are none because nobody asks: the first request loads it.
    pub parked: bool,
    /// Where the load decides, replicas that are enough: the fewest that there are to be while it is not parked.
    pub least: Option<u32>,
    /// Places, those with most replicas first.
    pub places: Vec<Place>,
    /// Why not all replicas have a place.
    pub short: Option<String>,
    /// Why there is no environment; what was assigned before stays.
    pub env: Option<String>,
    /// Why what served was taken off all nodes.
    pub revoked: Option<String>,
    /// Why there are fewer replicas than the spec has.
    pub over: Option<String>,
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
    /// There is something to place.
    pub placeable: bool,
    /// There is, and a shim could be given it if there were machine code for it.
    pub unmade: bool,
    /// Nodes with a shim that may not answer for its hosts, if it has some.
    pub unhosted: usize,
    /// The image that was assigned, when this leader knows it.
    pub image: Option<Image>,
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
    /// The load has brought the service here, and nothing of it serves here yet: others do.
    pub joins: bool,
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

/// Plans one service, beside what others take of the nodes.
pub fn plan(o: &Observed, loads: &BTreeMap<String, Cost>, settings: &Settings) -> Result<Plan, Rejected> {
    let name = &o.id.name;
    may_touch(&o.child, "Service", name)?;
    // Without the first one it is not known what is served.
    let first = slice_name(name);
    may_touch(o.slices.get(&first).unwrap_or(&Child::Missing), "EndpointSlice", &first)?;
    let amounts = amounts(&o.service)?;
    let port = o.port.ok_or_else(|| Rejected {
        reason: Reason::NoPort,
        message: "every service port is taken: delete services that are not needed".to_owned(),
        again: Duration::from_secs(30),
    })?;

    if let Some(why) = o.revoked() {
        return Ok(drained(o, port, why, settings));
    }

    let generation = o.service.metadata.generation.unwrap_or(0);
    let record = o.record.clone();
    let before = Before::of(ours(&o.slices));
    let assigned = o.assigned.as_deref();
    let content = match (&o.build, &o.env) {
        (BuildState::Ready(built), Ok(env)) => {
            Some(Arc::new(content_of(&o.service, built, o.built_beside(built), env, amounts)))
        }
        // What served goes on serving, with its own artifact and settings, while the new one is not there.
        _ => o.kept.clone(),
    };

    let mut shims = Shims::sort(&o.shims, &before, assigned, content.as_deref());
    let current = assigned.map(|a| a.replicas.clone()).or_else(|| record.as_ref().map(Recorded::replicas));
    let current = current.unwrap_or_default();
    let Places { replicas, short } = match content {
        // Few would have it all and keep it, while the others are about to connect.
        Some(_) if current.is_empty() && before.is_empty() && awaits_shims(o) => Places::default(),
        Some(_) => place(o, &shims, loads, amounts.each, &current, settings.activation_nodes),
        // A new leader that has not made the artifact yet moves nothing.
        None => Places { replicas: stay(&current, &shims), short: None },
    };
    shims.choose(&replicas);
    let hosts = o.hosts.accepted.clone();
    let told = record.as_ref().is_some_and(|record| record.hosted);
    let tolerations = while_cordoned(&o.service.spec);
    shims.host(!hosts.is_empty(), told, |node| may_be_on(&o.service, &o.id.uid, &tolerations, node, &o.nodes));

    let families = Families::of(&o.child, &o.slices, name, settings.family);
    let mut targets = shims.targets(&replicas, &before);
    targets.retain(|target| families.served.iter().any(|family| target.ip(*family).is_some()));
    for target in &mut targets {
        target.zone = o.nodes.get(&target.node).and_then(|node| node.labels.get(ZONE).cloned());
    }
    let next = content.as_ref().filter(|_| !replicas.is_empty()).map(|content| {
        let budget = |n: u32| o.demand.budget(n, content.concurrency);
        let nodes = replicas.iter().map(|(node, &n)| (node.clone(), RecordedNode { replicas: n, budget: budget(n) }));
        let (nodes, parked) = (nodes.collect(), o.demand.is_parked());
        let name = content_name(&settings.salt, content, port);
        let print = fingerprint(&name, &content.made(), &hosts, &nodes, parked);
        let seen = seen(shims.given(&before, assigned)).max(o.withdrawn);
        // A restored API server has an older record than that of what shims serve. But the same content may have been
        // assigned anew without being recorded: see `resealed`.
        let told =
            || assigned.is_some_and(|a| a.generation >= seen && content_name(&settings.salt, &a.content, port) == name);
        let outdated = |r: &Recorded| r.generation < seen && !told();
        let generation = next_generation(&print, assigned, record.as_ref(), seen);
        let record = Recorded {
            generation,
            service_generation: content.service_generation,
            fingerprint: print.clone(),
            since: record.as_ref().filter(|r| r.content == name && !outdated(r)).map_or(generation, |r| r.since),
            content: name,
            withdrawn: o.withdrawn,
            hosted: !hosts.is_empty() || shims.hosts_still(generation),
            nodes,
            cpu_millis: amounts.each.cpu_millis,
            memory: amounts.each.memory,
        };
        let budgets = shims.chosen.iter().map(|s| (s.pod_uid.clone(), budget(replicas[&s.node]))).collect();
        // One replica's worth, for connections that are still open and for the shared port; nothing where it is stopped.
        let beside = shims
            .beside(&targets, &before, assigned)
            .into_iter()
            .map(|s| (s.pod_uid.clone(), budget(o.demand.wanted().min(1))));
        let assigned = Assigned {
            service: o.id.clone(),
            generation,
            port,
            content: content.clone(),
            fingerprint: print,
            hosts: hosts.clone(),
            created_at: created_at(&o.service),
            replicas: replicas.clone(),
            parked,
            budgets,
            beside: beside.collect(),
        };
        (record, assigned)
    });
    let (record, next) = match next {
        Some((record, next)) => (Some(record), Some(next)),
        None => (record, None),
    };

    // A service whose nodes are all away has its place when they are back: others must not take it.
    let held = match replicas.is_empty() {
        true => record.as_ref().map(Recorded::replicas).unwrap_or_default(),
        false => replicas.clone(),
    };

    // From which assignment on is it this generation of the object? Where it is, and for which engine, changes after that.
    let wanted = record.as_ref().filter(|r| r.service_generation == generation).map(|r| r.since);
    let believed = o.was_ready() && wanted.is_some();
    let serves_current = |shim: &ShimView| match shim.serves {
        Some(serves) => wanted.is_some_and(|wanted| serves >= wanted),
        // A new leader has not heard of this shim yet: what was written is believed until it is.
        None => !shim.connected && believed && before.serves(shim),
    };
    let mut places: Vec<_> = replicas
        .iter()
        .map(|(node, &replicas)| Place {
            node: node.clone(),
            replicas,
            current: shims.chosen.iter().any(|shim| shim.node == *node && serves_current(shim)),
            joins: o.demand.is_scaled() && !shims.chosen.iter().any(|s| s.node == *node && before.serves(s)),
        })
        .collect();
    places.sort_by(|a, b| b.replicas.cmp(&a.replicas).then_with(|| a.node.cmp(&b.node)));
    let failures = shims.chosen.iter().filter_map(|shim| {
        let failed = shim.failed.as_ref().filter(|f| wanted.is_some_and(|wanted| f.generation >= wanted))?;
        Some((shim.node.clone(), failed.message.clone()))
    });
    let takers = takers(&targets);
    let facts = Facts {
        wanted: o.demand.wanted(),
        parked: o.demand.is_parked(),
        least: o.demand.least(),
        places,
        short,
        env: o.env.as_ref().err().map(ToString::to_string),
        revoked: None,
        over: o.judgement.over(&o.service.spec),
        endpoints: takers.len(),
        endpoints_current: o.shims.iter().any(|s| takers.contains(s.pod_uid.as_str()) && serves_current(s)),
        failures: failures.collect(),
        usable_shims: o.shims.iter().filter(|s| s.assignable()).count(),
        patience: o.patience,
        placeable: content.is_some(),
        unmade: !shims.unmade.is_empty(),
        unhosted: if hosts.is_empty() { 0 } else { shims.unhosted() },
        image: next.as_ref().map(|n| n.content.image.clone()),
    };
    let common = Common { owner: &o.service, port, namespace: &settings.namespace, families: &families };
    let slices = common.plan(&o.slices, &targets, record.as_ref());
    for wanted in slices.wanted.iter().map(ResourceExt::name_any) {
        may_touch(o.slices.get(&wanted).unwrap_or(&Child::Missing), "EndpointSlice", &wanted)?;
    }
    Ok(Plan {
        service: service_object(&o.service, port),
        slices,
        assigned: next,
        growth: growth(&o.shims, &before, &takers),
        loads: held.iter().map(|(node, n)| (node.clone(), taken(o, node, amounts.each.times(*n)))).collect(),
        facts,
    })
}

/// What is assigned, sealed by another key than before: of a service for which there is no plan, and which serves on.
/// Shims must have it before the old key is forgotten, or could not start it again. The next plan counts on from it.
pub fn resealed(o: &Observed) -> Option<Assigned> {
    let (assigned, kept) = (o.assigned.as_deref()?, o.kept.as_ref()?);
    if kept.made() == assigned.content.made() || o.revoked().is_some() {
        return None;
    }
    let given = o.shims.iter().filter(|shim| assigned.share(&shim.pod_uid).is_some());
    let generation = next_generation("", Some(assigned), None, seen(given));
    Some(Assigned { generation, content: kept.clone(), ..assigned.clone() })
}

/// A new leader knows of shims that have had no time yet to connect to it.
fn awaits_shims(o: &Observed) -> bool {
    let awaited = |s: &ShimView| !s.connected && s.pod_ready && !s.terminating && !s.ejected && s.silent < GRACE;
    !o.patience.is_zero() && o.shims.iter().any(awaited)
}

/// What replicas take of a node. Nobody can take more slots than there are: who asks for absurdly many must not make
/// the node look full to all others.
fn taken(o: &Observed, node: &str, cost: Cost) -> Cost {
    let slots = o.shims.iter().filter(|shim| shim.node == node).filter_map(|shim| shim.slots).max();
    Cost { slots: slots.map_or(cost.slots, |slots| cost.slots.min(u64::from(slots))), ..cost }
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

impl Recorded {
    fn replicas(&self) -> BTreeMap<String, u32> {
        self.nodes.iter().map(|(node, n)| (node.clone(), n.replicas)).collect()
    }
}

impl Observed {
    /// The same component for other targets, as far as it is built.
    fn built_beside<'a>(&'a self, built: &'a Built) -> impl Iterator<Item = &'a Built> {
        let ready = self.other_targets.values().filter_map(|state| match state {
            BuildState::Ready(other) => Some(other.as_ref()),
            BuildState::Pending(_) | BuildState::Rejected(_) => None,
        });
        ready.filter(|other| other.seal.component == built.seal.component)
    }

    /// Status said that this generation serves.
    fn was_ready(&self) -> bool {
        let ready = self.service.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Ready");
        ready.is_some_and(|c| c.status == "True" && c.observed_generation == self.service.metadata.generation)
    }
}
