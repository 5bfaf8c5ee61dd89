//! Events on a service: one when something turns, none while it stays. In: the conditions before and after; out: what
//! to publish. Pure, but for `publish`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource,
    runtime::events::{Event, EventType, Recorder},
};
use podless_crds::{ConditionType, Reason, WasmService};

use crate::said;

/// Longest note that the API server takes, in bytes.
const NOTE: usize = 1024;

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody has to act.
    pub warning: bool,
    /// The reason of the condition.
    pub reason: String,
    /// Its sentence.
    pub message: String,
    /// Its type.
    pub about: String,
}

/// What has turned: a condition that became false or false by another reason, and Ready that became true.
pub fn notices(old: &[Condition], new: &[Condition]) -> Vec<Notice> {
    let before = |kind: &str| old.iter().find(|c| c.type_ == kind);
    let mut all: Vec<Notice> = vec![];
    for condition in new {
        let was = before(&condition.type_);
        let same = was.is_some_and(|was| was.status == condition.status && was.reason == condition.reason);
        let ready = condition.type_ == ConditionType::Ready.as_str();
        let available = condition.type_ == ConditionType::Available.as_str();
        // Nothing serves before something has served: that is no event.
        let first = available && was.is_none_or(|was| was.status != "True");
        // Ready repeats the reason of the step that failed.
        let told = ready && all.iter().any(|notice| notice.reason == condition.reason);
        // Who stops a service is told by Ready.
        let stopped = condition.reason == Reason::Stopped.as_str();
        let warning = condition.status == "False" && !first && !told && !stopped;
        let news = warning || ready && condition.status == "True";
        if same || !news {
            continue;
        }
        all.push(Notice {
            warning,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            about: condition.type_.clone(),
        });
    }
    all.retain(|notice| notice.reason != Reason::Waiting.as_str());
    all
}

/// Publishes; an Event that is lost is only logged.
pub async fn publish(recorder: &Recorder, service: &WasmService, notices: Vec<Notice>) {
    for Notice { warning, reason, mut message, about } in notices {
        if message.len() > NOTE {
            message.truncate((0..=NOTE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0));
        }
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let event = Event { type_, reason, note: Some(message), action: about, secondary: None };
        if let Err(error) = recorder.publish(&event, &service.object_ref(&())).await {
            tracing::warn!(error = said::api(&error), "an Event could not be published");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    fn conditions(all: &[(&str, &str, &str)]) -> Vec<Condition> {
        let condition = |(kind, status, reason): &(&str, &str, &str)| Condition {
            type_: (*kind).into(),
            status: (*status).into(),
            reason: (*reason).into(),
            message: "m".into(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        all.iter().map(condition).collect()
    }

    fn check(old: &[(&str, &str, &str)], new: &[(&str, &str, &str)], want: &[(bool, &str)]) {
        let notices = notices(&conditions(old), &conditions(new));
        let got: Vec<_> = notices.iter().map(|n| (n.warning, n.reason.as_str())).collect();
        assert_eq!(got, want, "{old:?} → {new:?}");
    }

    #[test]
    fn turns_are_told_once() {
        let denied = [("Audited", "False", "ImportDenied"), ("Available", "False", "NothingServes")];
        let denied_ready = [denied[0], denied[1], ("Ready", "False", "ImportDenied")];
        check(&[], &denied_ready, &[(true, "ImportDenied")]);
        check(&denied_ready, &denied_ready, &[]);
        let serving = [("Audited", "True", "Done"), ("Available", "True", "Serving"), ("Ready", "True", "Serving")];
        check(&denied_ready, &serving, &[(false, "Serving")]);
        check(&serving, &serving, &[]);
        check(&serving, &[("Available", "False", "NothingServes")], &[(true, "NothingServes")]);
        check(&serving, &[("Ready", "Unknown", "Loading")], &[]);
        check(&serving, &[("Ready", "False", "LoadFailed")], &[(true, "LoadFailed")]);
        check(&[], &[("Placed", "False", "ServiceConflict")], &[(true, "ServiceConflict")]);
        let stopped = [("Available", "False", "Stopped"), ("Ready", "True", "Stopped")];
        check(&serving, &stopped, &[(false, "Stopped")]);
        check(&stopped, &serving[1..], &[(false, "Serving")]);
    }
}
