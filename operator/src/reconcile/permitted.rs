//! The condition Permitted: what policies say of a service. In: the judgement, the build, what there was; out: a verdict,
//! or none where no policy has anything to say. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use podless_crds::{ConditionType, Reason, Status};

use super::conditions::{Verdict, step_of};
use crate::{
    build::{BuildState, Rejection},
    policy::Judgement,
};

/// Whether it is a policy that refuses it.
pub(super) fn is_refused(build: &BuildState) -> bool {
    matches!(build, BuildState::Rejected(rejection) if is_policys(rejection.reason))
}

fn is_policys(reason: Reason) -> bool {
    use Reason::{PolicyViolation, Revoked, SignatureInvalid, SignatureMissing};
    matches!(reason, PolicyViolation | Revoked | SignatureMissing | SignatureInvalid)
}

/// The verdict. `revoked` says why what served is taken off the nodes.
pub(super) fn permitted(
    judgement: &Judgement,
    build: &BuildState,
    revoked: Option<&str>,
    old: &[Condition],
    generation: i64,
) -> Option<Verdict> {
    let verdict = |status, reason, message| Some(Verdict { kind: ConditionType::Permitted, status, reason, message });
    let said = old.iter().find(|c| c.type_ == ConditionType::Permitted.as_str());
    if let Some(message) = revoked {
        return verdict(Status::False, Reason::Revoked, message.to_owned());
    }
    if let Some(Rejection { reason, message, .. }) = refusal(build) {
        return verdict(Status::False, *reason, message.clone());
    }
    if let Some(violation) = judgement.violation() {
        let message = format!("{}. What serves goes on; a change of the revision is refused", violation.message);
        return verdict(Status::False, violation.reason, message);
    }
    if let BuildState::Ready(built) = build
        && let Some(Rejection { reason, message, .. }) = &built.unverified
    {
        let message = format!("the image's signatures cannot be looked for, what serves goes on: {message}");
        return verdict(Status::Unknown, *reason, message);
    }
    let names: Vec<_> = judgement.policies.iter().map(|name| format!("{name:?}")).collect();
    let allowed = format!("allowed by WasmPolicy {}", names.join(", "));
    match judgement.policies.as_slice() {
        _ if judgement.unknown => None,
        [] => said.and(verdict(Status::True, Reason::Done, "no WasmPolicy selects the namespace".to_owned())),
        // Until the registry has said whether there are signatures, what was said of this generation holds; but not that
        // others allow it.
        _ if !judgement.signatures.is_empty() && !is_verified(build) => {
            let settled = said
                .filter(|c| c.observed_generation == Some(generation))
                .is_some_and(|c| c.status != Status::True.as_str() || c.message == allowed);
            let waits = || verdict(Status::Unknown, Reason::Waiting, "waits for the image's signatures".to_owned());
            if settled { None } else { waits() }
        }
        _ => verdict(Status::True, Reason::Done, allowed),
    }
}

/// Why a policy refuses it, or would if it did not serve already.
fn refusal(build: &BuildState) -> Option<&Rejection> {
    let why = match build {
        BuildState::Rejected(rejection) => Some(rejection),
        BuildState::Ready(built) => built.unverified.as_ref(),
        BuildState::Pending(_) => None,
    };
    why.filter(|rejection| is_policys(rejection.reason))
}

/// Whether it has come past the signatures that policies ask for: what is audited has.
fn is_verified(build: &BuildState) -> bool {
    match build {
        BuildState::Ready(built) => built.unverified.is_none(),
        BuildState::Rejected(rejection) => step_of(rejection.reason) != ConditionType::Resolved,
        BuildState::Pending(_) => false,
    }
}
