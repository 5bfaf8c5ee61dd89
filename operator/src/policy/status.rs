//! Whether a policy can be applied as it is written. In: the policy, and what of it cannot be meant so; out: its status,
//! or `None` when it would say nothing new. Pure: the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use podless_crds::{ConditionType, Reason, Status, WasmPolicy, WasmPolicyStatus, set_condition};

/// The new status.
pub(super) fn status_of(policy: &WasmPolicy, mistakes: &[String], now: &Time) -> Option<WasmPolicyStatus> {
    let old = policy.status.clone().unwrap_or_default();
    let mut new = WasmPolicyStatus { observed_generation: policy.metadata.generation, ..old.clone() };
    let (status, reason, message) = match mistakes {
        [] => (Status::True, Reason::Done, "applied as it is written".to_owned()),
        _ => {
            let message = format!("{}. Until then, what needs it is refused", mistakes.join("; "));
            (Status::False, Reason::PolicyInvalid, message)
        }
    };
    let generation = policy.metadata.generation;
    set_condition(&mut new.conditions, ConditionType::Ready, status, reason, &message, generation, now);
    (new != old).then_some(new)
}
