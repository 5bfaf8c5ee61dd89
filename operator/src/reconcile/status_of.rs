//! The status to write. In: what was applied or why nothing was, what the shims measured, the status there is; out: a
//! status, or `None` when it would say nothing new. Pure: the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use podless_crds::{Artifact, PlacementStatus, SERVICE_LABEL, ScalingStatus, WasmServiceStatus, set_condition};

use super::{
    apply::Applied,
    conditions::verdicts,
    demand::Demand,
    measured::Measured,
    observe::Observed,
    plan::{Rejected, Settings},
};
use crate::build::{BuildState, Built};

/// Placements that status names: the rest is counted.
const TOP: usize = 10;

/// What became of a plan.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It is true now.
    Applied(&'a Applied),
    /// There was none.
    Rejected(&'a Rejected),
}

/// The new status.
pub fn status_of(o: &Observed, outcome: &Outcome<'_>, settings: &Settings, now: &Time) -> Option<WasmServiceStatus> {
    let old = o.service.status.clone().unwrap_or_default();
    let generation = o.service.metadata.generation.unwrap_or(0);
    let mut new = old.clone();
    for v in verdicts(&o.build, outcome, &old.conditions, generation) {
        set_condition(&mut new.conditions, v.kind, v.status, v.reason, &v.message, Some(generation), now);
    }
    new.observed_generation = Some(generation);
    new.url = Some(format!("http://{}.{}.svc.{}", o.id.name, o.id.namespace, settings.cluster_domain));
    new.selector = Some(format!("{SERVICE_LABEL}={}", o.id.name));
    new.desired_replicas = Some(i32::try_from(o.demand.wanted()).unwrap_or(i32::MAX));
    new.scaling = scaling(&o.demand, new.desired_replicas, &old, now);
    if let BuildState::Ready(built) = &o.build {
        new.imports = built.imports.clone();
        new.artifacts = vec![artifact(built, &old.artifacts)];
    }
    if let Outcome::Applied(applied) = outcome {
        let facts = applied.facts();
        if let Some(image) = &facts.image {
            new.image = Some(image.clone());
        }
        let sum = |current: bool| {
            let replicas = facts.places.iter().filter(|p| p.current || !current).map(|p| p.replicas).sum::<u32>();
            i32::try_from(replicas).unwrap_or(i32::MAX)
        };
        (new.replicas, new.ready_replicas) = (sum(false), sum(true));
        let places =
            facts.places.iter().filter(|p| p.replicas > 0 || facts.parked).take(TOP).map(|p| PlacementStatus {
                node: p.node.clone(),
                replicas: i32::try_from(p.replicas).unwrap_or(i32::MAX),
                ready: p.current,
            });
        new.placements = places.collect();
    }
    let news = new != old;
    // A new leader has not heard from every shim yet: what was measured stays until it is measured anew.
    if o.measured != Measured::default() && (news || o.measured.moved_from(&Measured::of(&old))) {
        let Measured { instances, density, cold_start } = o.measured.clone();
        (new.instances, new.density, new.cold_start) = (instances, density, cold_start);
    }
    (new != old).then_some(new)
}

/// What was decided, with the figures by which it was: they move with each request, and are written with a decision.
fn scaling(demand: &Demand, desired: Option<i32>, old: &WasmServiceStatus, now: &Time) -> Option<ScalingStatus> {
    let Demand::Scaled(scaling, decision) = demand else { return None };
    let (same, written) = (old.desired_replicas == desired, old.scaling.as_ref());
    let since = match same || old.desired_replicas.is_none() {
        true => written.and_then(|old| old.last_scale_time.clone()),
        false => Some(now.clone()),
    };
    let new = decision.status(scaling, since);
    let holds =
        |old: &&ScalingStatus| same && (old.mode, old.metric, &old.target) == (new.mode, new.metric, &new.target);
    Some(written.filter(holds).cloned().unwrap_or(new))
}

/// The artifact. A new leader that has compiled the same again has no news: it took as long as it took the first time.
fn artifact(built: &Built, old: &[Artifact]) -> Artifact {
    let new = Artifact {
        target: built.seal.target.clone(),
        fingerprint: built.seal.fingerprint.clone(),
        size: i64::try_from(built.seal.code_size).unwrap_or(i64::MAX),
        compile_millis: i64::try_from(built.compile_millis).unwrap_or(i64::MAX),
    };
    let same = |old: &&Artifact| Artifact { compile_millis: new.compile_millis, ..(*old).clone() } == new;
    old.iter().find(same).cloned().unwrap_or(new)
}
