//! What the API server will not have for one object: a quota, an admission rule, a field that it does not know a value of.
//! In: its answer; out: what the user is told, or nothing when it is no matter of this object. Pure.

use std::time::Duration;

use kube::core::Status;
use podless_crds::Reason;

use super::plan::Rejected;

/// The field that older API servers refuse values of.
const DISTRIBUTION: &str = "spec.trafficDistribution";

/// What to tell of it. It is tried `again` after this.
pub fn refused(error: &kube::Error, again: impl FnOnce() -> Duration) -> Option<Rejected> {
    let kube::Error::Api(status) = error else { return None };
    if !matches!(status.code, 400 | 403 | 422) {
        return None;
    }
    let mend = match names(status, DISTRIBUTION) {
        true => {
            ". PreferSameZone and PreferSameNode need Kubernetes 1.34: \
             set spec.trafficDistribution to PreferClose, or leave it out"
        }
        false => "",
    };
    let message =
        format!("the API server refuses what this object needs, and is asked again: {}{mend}", status.message);
    Some(Rejected { reason: Reason::Refused, message, again: again() })
}

/// Whether it is this field that is refused.
fn names(status: &Status, field: &str) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.into_iter().any(|cause| cause.field == field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(answer: serde_json::Value) -> Option<String> {
        let status: Status = serde_json::from_value(answer).expect("a status");
        let again = Duration::from_secs(7);
        let rejected = refused(&kube::Error::Api(status.boxed()), || again)?;
        assert_eq!((rejected.reason, rejected.again), (Reason::Refused, again));
        Some(rejected.message)
    }

    #[test]
    fn an_old_api_server_that_does_not_know_a_distribution() {
        let said = "Service \"hello\" is invalid: spec.trafficDistribution: Unsupported value: \"PreferSameZone\": \
                    supported values: \"PreferClose\"";
        let cause = json!({"reason": "FieldValueNotSupported", "message": "Unsupported value", "field": DISTRIBUTION});
        let message = told(json!({"code": 422, "reason": "Invalid", "message": said, "details": {"causes": [cause]}}));
        let message = message.expect("refused");
        assert!(message.contains(said), "{message}");
        assert!(message.ends_with("to PreferClose, or leave it out"), "{message}");
    }

    #[test]
    fn what_is_refused_for_this_object_alone_and_what_is_not() {
        let quota = "services \"third\" is forbidden: exceeded quota: none";
        let message = told(json!({"code": 403, "reason": "Forbidden", "message": quota})).expect("refused");
        assert!(message.ends_with(quota), "{message}");
        for code in [401, 404, 409, 429, 500, 503] {
            assert_eq!(told(json!({"code": code, "message": "no"})), None);
        }
    }
}
