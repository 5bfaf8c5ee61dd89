//! What to say of a service, condition by condition. In: the build, the applied plan or the rejection, the conditions
//! there are; out: a verdict for each type. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use podless_crds::{ConditionType, Grant, Reason, Status};
use podless_engine::Target;

use super::{
    permitted::{is_refused, permitted},
    plan::{Facts, Rejected},
    status_of::Outcome,
};
use crate::{
    build::{BuildState, Built, Phase, Rejection},
    policy::Judgement,
};

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which condition.
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: Status,
    /// The stable name.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
}

fn verdict(kind: ConditionType, status: Status, reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict { kind, status, reason, message: message.into() }
}

/// Every condition, in order.
pub fn verdicts(
    judgement: &Judgement,
    build: &BuildState,
    others: &BTreeMap<Target, BuildState>,
    outcome: &Outcome<'_>,
    old: &[Condition],
    generation: i64,
) -> Vec<Verdict> {
    let revoked = match outcome {
        Outcome::Applied(applied) => applied.facts().revoked.as_deref(),
        Outcome::Rejected(_) => None,
    };
    let permitted = permitted(judgement, build, revoked, old, generation);
    let mut all = steps(build, others, outcome, old, generation);
    // What goes on though it would not be permitted any more is ready all the same.
    let first = permitted.clone().filter(|_| is_refused(build));
    all.splice(0..0, first.clone());
    all.push(placed(outcome, old, generation));
    let (available, ready) = serving(outcome, &all, old, generation);
    if first.is_none() {
        all.splice(0..0, permitted);
    }
    all.extend([available, ready]);
    all
}

/// What the build goes through.
const STEPS: [ConditionType; 3] = [ConditionType::Resolved, ConditionType::Audited, ConditionType::Precompiled];

/// Resolved, Audited and Precompiled.
fn steps(
    build: &BuildState,
    others: &BTreeMap<Target, BuildState>,
    outcome: &Outcome<'_>,
    old: &[Condition],
    generation: i64,
) -> Vec<Verdict> {
    use ConditionType::{Audited, Precompiled, Resolved};
    if let Outcome::Rejected(Rejected { reason: Reason::InvalidSpec, message, .. }) = outcome {
        return failed(Resolved, Reason::InvalidSpec, message);
    }
    // A new leader makes again what status says was made: that is no news, nor is a registry that is away meanwhile.
    let made = || kept(old, &[Resolved, Audited, Precompiled], generation);
    // Nor is it news that it tries again what was refused.
    let decided = || {
        let said: Option<Vec<_>> = STEPS.iter().map(|kind| said(old, *kind, generation)).collect();
        said.filter(|said| said.iter().any(|v| v.status == Status::False))
    };
    match build {
        BuildState::Ready(built) => done(built, others),
        BuildState::Rejected(_) if is_refused(build) => {
            let waits = |kind| verdict(kind, Status::Unknown, Reason::Waiting, "waits for Permitted");
            STEPS.into_iter().map(waits).collect()
        }
        BuildState::Pending(phase) => made().or_else(decided).unwrap_or_else(|| pending(*phase)),
        BuildState::Rejected(Rejection { reason, message, transient, imports: _, retry_after: _ }) => {
            let made = if *transient { made() } else { None };
            made.unwrap_or_else(|| failed(step_of(*reason), *reason, message))
        }
    }
}

/// Said again and again while it goes on: a step that takes long tells for how long.
fn pending(phase: Phase) -> Vec<Verdict> {
    use ConditionType::{Audited, Precompiled, Resolved};
    use Status::{True, Unknown};
    let lasting = |seconds: Option<u64>| seconds.map(|seconds| format!(" for {seconds} s")).unwrap_or_default();
    let pulled = || verdict(Resolved, True, Reason::Done, "the component was pulled");
    let resolved = match phase {
        Phase::Resolving => verdict(Resolved, Unknown, Reason::Resolving, "the registry is being asked"),
        Phase::Pulling { done, total, seconds } => {
            let message = format!("pulling {}{}", of(done, total), lasting(seconds));
            verdict(Resolved, Unknown, Reason::Pulling, message)
        }
        Phase::Waiting => {
            let turn = "waits for its turn: other components are being compiled";
            let waiting = [Audited, Precompiled].map(|kind| verdict(kind, Unknown, Reason::Waiting, turn));
            return [pulled()].into_iter().chain(waiting).collect();
        }
        Phase::Compiling { seconds } => {
            return vec![
                pulled(),
                verdict(Audited, Unknown, Reason::Compiling, "the component is being audited"),
                verdict(Precompiled, Unknown, Reason::Compiling, format!("compiling{}", lasting(seconds))),
            ];
        }
    };
    vec![
        resolved,
        verdict(Audited, Unknown, Reason::Waiting, "waits for the component"),
        verdict(Precompiled, Unknown, Reason::Waiting, "waits for the audit"),
    ]
}

/// So much of that, in the same unit: `3 of 18 MB`.
fn of(done: u64, total: u64) -> String {
    let (unit, name) = if total < 1_000_000 { (1000, "kB") } else { (1_000_000, "MB") };
    format!("{} of {} {name}", done / unit, total.div_ceil(unit))
}

fn done(built: &Built, others: &BTreeMap<Target, BuildState>) -> Vec<Verdict> {
    use ConditionType::{Audited, Precompiled, Resolved};
    let inert = built.imports.iter().filter(|i| i.grant == Grant::Inert).count();
    let audited = match inert {
        0 => format!("{} imports, all granted", built.imports.len()),
        _ => format!("{} imports granted, {inert} linked with nothing behind them", built.imports.len() - inert),
    };
    let resolved = match &built.unsure {
        Some(why) => format!("{}, as long as nothing else is known: {why}", built.digest),
        None => built.digest.clone(),
    };
    let size = |built: &Built| format!("{} bytes for {}", built.seal.code_size, built.seal.target);
    // Some nodes wait for the others; the service does not.
    let beside = others.iter().map(|(target, state)| match state {
        BuildState::Ready(other) => size(other),
        BuildState::Pending(_) => format!("being made for {target}"),
        BuildState::Rejected(rejection) => format!("none for {target}: {}", rejection.message),
    });
    let compiled = [size(built)].into_iter().chain(beside).collect::<Vec<_>>().join(", ");
    vec![
        verdict(Resolved, Status::True, Reason::Done, resolved),
        verdict(Audited, Status::True, Reason::Done, audited),
        verdict(Precompiled, Status::True, Reason::Done, compiled),
    ]
}

/// The step that failed, those before it as done, those after it as waiting.
fn failed(kind: ConditionType, reason: Reason, message: &str) -> Vec<Verdict> {
    let at = STEPS.iter().position(|step| *step == kind).unwrap_or(0);
    let each = STEPS.into_iter().enumerate().map(|(i, step)| match i.cmp(&at) {
        std::cmp::Ordering::Less => verdict(step, Status::True, Reason::Done, "done"),
        std::cmp::Ordering::Equal => verdict(step, Status::False, reason, message),
        std::cmp::Ordering::Greater => {
            verdict(step, Status::Unknown, Reason::Waiting, format!("waits for {}", STEPS[at].as_str()))
        }
    });
    each.collect()
}

/// The step that a rejection ends.
pub(super) fn step_of(reason: Reason) -> ConditionType {
    match reason {
        Reason::PrecompiledLayer
        | Reason::NotWebAssembly
        | Reason::CoreModule
        | Reason::NoHttpExport
        | Reason::ImportDenied => ConditionType::Audited,
        Reason::CompileFailed | Reason::CompileLimit => ConditionType::Precompiled,
        _ => ConditionType::Resolved,
    }
}

/// The conditions as they are, if all of them are True for this generation.
fn kept(old: &[Condition], kinds: &[ConditionType], generation: i64) -> Option<Vec<Verdict>> {
    kinds.iter().map(|kind| is_true(old, *kind, generation)).collect()
}

fn is_true(old: &[Condition], kind: ConditionType, generation: i64) -> Option<Verdict> {
    said(old, kind, generation).filter(|v| v.status == Status::True)
}

/// What the condition says of this generation.
fn said(old: &[Condition], kind: ConditionType, generation: i64) -> Option<Verdict> {
    let condition = old.iter().find(|c| c.type_ == kind.as_str() && c.observed_generation == Some(generation))?;
    let status = [Status::True, Status::False, Status::Unknown].into_iter().find(|s| s.as_str() == condition.status)?;
    Some(verdict(kind, status, Reason::from_name(&condition.reason)?, condition.message.clone()))
}

fn placed(outcome: &Outcome<'_>, old: &[Condition], generation: i64) -> Verdict {
    let kind = ConditionType::Placed;
    let facts = match outcome {
        Outcome::Applied(applied) => applied.facts(),
        Outcome::Rejected(Rejected { reason: Reason::InvalidSpec, .. }) => {
            return verdict(kind, Status::Unknown, Reason::Waiting, "waits for Precompiled");
        }
        Outcome::Rejected(Rejected { reason: Reason::Waiting, message, .. }) => {
            return verdict(kind, Status::Unknown, Reason::Waiting, message.clone());
        }
        Outcome::Rejected(Rejected { reason, message, .. }) => {
            return verdict(kind, Status::False, *reason, message.clone());
        }
    };
    if let Some(message) = &facts.revoked {
        return verdict(kind, Status::False, Reason::Revoked, message.clone());
    }
    if let Some(message) = &facts.env {
        return verdict(kind, Status::False, Reason::EnvInvalid, message.clone());
    }
    if let Some(message) = facts.over.as_ref().filter(|_| !facts.places.is_empty()) {
        return verdict(kind, Status::False, Reason::PolicyViolation, message.clone());
    }
    let Facts { wanted, parked, places, short, usable_shims, patience, placeable, .. } = facts;
    let total: u32 = places.iter().map(|p| p.replicas).sum();
    let nodes = count(places.len() as u32, "node");
    if *parked && !places.is_empty() && short.is_none() {
        return verdict(kind, Status::True, Reason::Done, format!("parked: {nodes} wait for the first request"));
    }
    if *wanted == 0 && !parked && total == 0 && (!places.is_empty() || *placeable && patience.is_zero()) {
        return verdict(kind, Status::True, Reason::Done, format!("stopped: {nodes} answer that it is"));
    }
    if short.is_none() && !places.is_empty() && total >= *wanted {
        return verdict(kind, Status::True, Reason::Done, format!("{} on {nodes}", count(total, "replica")));
    }
    if places.is_empty() && *usable_shims == 0 && patience.is_zero() {
        let message = "no node has a shim that is connected and runs this operator's engine: \
             look at `kubectl get wasmnodes` and at the pods of DaemonSet podless-shim";
        return verdict(kind, Status::False, Reason::NoNode, message);
    }
    if *placeable && patience.is_zero() {
        return verdict(kind, Status::False, Reason::NoNode, short.clone().unwrap_or_default());
    }
    // A new leader that does not know everything yet says what was said.
    let waits = if *placeable { "waits for the shims to connect to the operator" } else { "waits for Precompiled" };
    said(old, kind, generation).unwrap_or_else(|| verdict(kind, Status::Unknown, Reason::Waiting, waits))
}

/// Available and Ready.
fn serving(outcome: &Outcome<'_>, before: &[Verdict], old: &[Condition], generation: i64) -> (Verdict, Verdict) {
    use ConditionType::{Available, Ready};
    let facts = match outcome {
        Outcome::Applied(applied) => applied.facts(),
        // Nothing was touched: what served still does.
        Outcome::Rejected(Rejected { reason, message, .. }) => {
            let serves = old.iter().any(|c| c.type_ == Available.as_str() && c.status == "True");
            let available = match serves {
                true => verdict(Available, Status::True, Reason::EarlierGeneration, "what was assigned before serves"),
                false => verdict(Available, Status::False, Reason::NothingServes, "nothing serves yet"),
            };
            let status = if *reason == Reason::Waiting { Status::Unknown } else { Status::False };
            return (available, verdict(Ready, status, *reason, message.clone()));
        }
    };
    let Facts { wanted, parked, least, places, endpoints, endpoints_current, failures, .. } = facts;
    let replicas: u32 = places.iter().map(|p| p.replicas).sum();
    let current: u32 = places.iter().filter(|p| p.current).map(|p| p.replicas).sum();
    let shims = count(*endpoints as u32, "shim");
    let stopped = "spec.replicas is 0: every request is answered 503";
    let waits = format!("scaled to zero: the first request to any of {shims} loads it");
    let available = match (*endpoints, *endpoints_current) {
        _ if *wanted == 0 && !parked => verdict(Available, Status::False, Reason::Stopped, stopped),
        (0, _) => verdict(Available, Status::False, Reason::NothingServes, "no shim serves it"),
        (_, false) => verdict(
            Available,
            Status::True,
            Reason::EarlierGeneration,
            format!("an earlier generation serves on {shims}"),
        ),
        _ if *parked => verdict(Available, Status::True, Reason::Parked, waits.clone()),
        _ => verdict(Available, Status::True, Reason::Serving, format!("serves on {shims}")),
    };
    let step = |status| before.iter().find(|v| v.status == status);
    let progress = format!("{current} of {} serve generation {generation}", count(replicas, "replica"));
    let whole = *endpoints_current && places.iter().all(|p| p.current || p.joins);
    let serves = *wanted > 0 && replicas > 0 && (current == replicas || whole) && *endpoints > 0;
    let rests = *parked && !places.is_empty() && whole;
    // That the load wants more than the nodes have is told by Placed: what serves is ready.
    let excused = serves && least.is_some_and(|least| replicas >= least);
    let unplaced = before.iter().find(|v| v.kind == ConditionType::Placed && v.status == Status::False);
    let unplaced = unplaced.filter(|v| !(excused && v.reason == Reason::NoNode));
    let ready = if let Some(step) = unplaced {
        verdict(Ready, Status::False, step.reason, step.message.clone())
    } else if rests {
        verdict(Ready, Status::True, Reason::Parked, waits)
    } else if serves {
        verdict(Ready, Status::True, Reason::Serving, progress)
    } else if let Some(step) = step(Status::False) {
        verdict(Ready, Status::False, step.reason, step.message.clone())
    } else if let Some((node, message)) = failures.first() {
        let more = if failures.len() > 1 { format!(" (and {} more)", failures.len() - 1) } else { String::new() };
        verdict(Ready, Status::False, Reason::LoadFailed, format!("node {node}{more}: {message}"))
    } else if let Some(step) = step(Status::Unknown) {
        verdict(Ready, Status::Unknown, step.reason, step.message.clone())
    } else if *wanted == 0 && !parked && places.iter().all(|p| p.current) {
        verdict(Ready, Status::True, Reason::Stopped, stopped)
    } else {
        verdict(Ready, Status::Unknown, Reason::Loading, progress)
    };
    (available, ready)
}

fn count(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
