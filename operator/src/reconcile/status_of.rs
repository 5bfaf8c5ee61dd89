//! The status to write. In: what was applied or why nothing was, what the shims measured, the status there is; out: a
//! status, or `None` when it would say nothing new. Pure: the time is an argument.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use podless_crds::{Artifact, Image, PlacementStatus, SERVICE_LABEL, ScalingStatus, WasmServiceStatus, set_condition};
use podless_engine::Target;

use super::{
    apply::Applied,
    conditions::verdicts,
    demand::Demand,
    hosted::hosts_accepted,
    imports,
    measured::Measured,
    observe::Observed,
    plan::{Rejected, Settings},
};
use crate::{
    autoscale::Why,
    build::{BuildState, Built},
    policy::revision,
};

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
    let facts = match outcome {
        Outcome::Applied(applied) => Some(applied.facts()),
        Outcome::Rejected(_) => None,
    };
    let steps = verdicts(&o.judgement, &o.build, &o.other_targets, outcome, &old.conditions, generation);
    for v in steps.into_iter().chain(hosts_accepted(&o.service, &o.hosts, facts)) {
        set_condition(&mut new.conditions, v.kind, v.status, v.reason, &v.message, Some(generation), now);
    }
    new.observed_generation = Some(generation);
    new.hosts = o.hosts.accepted.clone();
    new.url = Some(format!("http://{}.{}.svc.{}", o.id.name, o.id.namespace, settings.cluster_domain));
    new.selector = Some(format!("{SERVICE_LABEL}={}", o.id.name));
    new.desired_replicas = Some(i32::try_from(o.demand.wanted()).unwrap_or(i32::MAX));
    new.scaling = scaling(o, new.desired_replicas, &old, now);
    let serves = matches!(outcome, Outcome::Applied(applied) if applied.facts().endpoints_current);
    if let Some(audited) = imports::audited(&o.build) {
        new.imports_diff = imports::diff(&old, audited, generation, serves);
        new.imports = audited.to_vec();
    }
    if let BuildState::Ready(built) = &o.build {
        new.artifacts = artifacts(built, &o.other_targets, &old.artifacts);
    }
    if let (Outcome::Applied(_), BuildState::Ready(built)) = (outcome, &o.build)
        && built.unverified.is_none()
        && o.judgement.violations.is_empty()
    {
        new.permitted_revision = Some(revision(&o.service));
    }
    if let Outcome::Applied(applied) = outcome {
        let facts = applied.facts();
        if let Some(image) = &facts.image {
            new.image = Some(resolved(image, old.image.as_ref(), now));
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
        let Measured { instances, density, cold_start, shed } = o.measured.clone();
        (new.instances, new.density, new.cold_start, new.shed) = (instances, density, cold_start, shed);
    }
    (new != old).then_some(new)
}

/// The image, and since when its reference is known to mean it.
fn resolved(image: &Image, old: Option<&Image>, now: &Time) -> Image {
    let same = old.filter(|old| (&old.reference, &old.digest) == (&image.reference, &image.digest));
    let resolved_at = same.and_then(|old| old.resolved_at.clone()).unwrap_or_else(|| now.clone());
    Image { resolved_at: Some(resolved_at), ..image.clone() }
}

/// What was decided, with the figures by which it was: they move with each request, and are written with a decision.
fn scaling(o: &Observed, desired: Option<i32>, old: &WasmServiceStatus, now: &Time) -> Option<ScalingStatus> {
    let Demand::Scaled(scaling, decision) = &o.demand else { return None };
    let (same, written) = (old.desired_replicas == desired, old.scaling.as_ref());
    let since = match same || old.desired_replicas.is_none() {
        true => written.and_then(|old| old.last_scale_time.clone()),
        false => Some(now.clone()),
    };
    let mut new = decision.status(scaling, since);
    // Not the spec's own, which is higher.
    let capped =
        o.judgement.cap.as_ref().filter(|cap| o.service.spec.scaling().is_some_and(|s| s.max_replicas > cap.replicas));
    if let Some(cap) = capped.filter(|_| decision.why == Why::Maximum) {
        new.reason = format!("{cap}: {}", new.reason);
    }
    let holds =
        |old: &&ScalingStatus| same && (old.mode, old.metric, &old.target) == (new.mode, new.metric, &new.target);
    Some(written.filter(holds).cloned().unwrap_or(new))
}

/// An artifact for each target. What is not made again yet is there still.
fn artifacts(built: &Built, others: &BTreeMap<Target, BuildState>, old: &[Artifact]) -> Vec<Artifact> {
    let beside = others.iter().filter_map(|(target, state)| match state {
        BuildState::Ready(other) => Some(artifact(other, old)),
        BuildState::Pending(_) | BuildState::Rejected(_) => {
            old.iter().find(|old| old.fingerprint == podless_engine::fingerprint(*target)).cloned()
        }
    });
    [artifact(built, old)].into_iter().chain(beside).collect()
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
