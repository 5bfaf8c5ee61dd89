//! Events on services and nodes: one when something turns, none while it stays. In: the conditions before and after;
//! out: what to publish. Pure, but for `publish`.

use std::cmp::Ordering;

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::runtime::events::{Event, EventType, Recorder};
use podless_crds::{ConditionType, Reason, WasmServiceStatus};

use crate::said;

/// Longest note that the API server takes, in bytes.
const NOTE: usize = 1024;

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody has to act.
    pub warning: bool,
    /// The stable name.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// The condition's type, or what was done.
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
        // Ready repeats the reason of the step that failed, and Placed that of what is revoked.
        let told = all.iter().any(|notice| notice.reason == condition.reason);
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
    all.extend(long(old, new));
    all
}

/// Steps that take long: one Event when that is seen, and one when the step is done.
fn long(old: &[Condition], new: &[Condition]) -> Vec<Notice> {
    let steps = [(ConditionType::Resolved, Reason::Pulled), (ConditionType::Precompiled, Reason::Compiled)];
    let each = steps.into_iter().filter_map(|(kind, done)| {
        let find = |all: &[Condition]| all.iter().find(|c| c.type_ == kind.as_str()).cloned();
        let was_long = find(old).is_some_and(|old| takes_long(&old));
        let now = find(new)?;
        let reason = match (was_long, takes_long(&now)) {
            (false, true) => now.reason,
            (true, false) if now.status == "True" => done.as_str().to_owned(),
            _ => return None,
        };
        Some(Notice { warning: false, reason, message: now.message, about: now.type_ })
    });
    each.collect()
}

/// Whether the condition tells for how long the step has lasted.
fn takes_long(condition: &Condition) -> bool {
    let goes_on = [Reason::Pulling, Reason::Compiling].iter().any(|reason| reason.as_str() == condition.reason);
    goes_on && condition.message.ends_with(" s")
}

/// The number of replicas was changed by the load. That there are none is told by Ready.
pub fn scaled(old: Option<&WasmServiceStatus>, new: &WasmServiceStatus) -> Option<Notice> {
    let (from, to) = (old?.desired_replicas?, new.desired_replicas?);
    let why = &new.scaling.as_ref()?.reason;
    let reason = match from.cmp(&to) {
        Ordering::Less => Reason::ScaledUp,
        Ordering::Greater if to > 0 => Reason::ScaledDown,
        _ => return None,
    };
    let message = format!("from {from} to {to} replicas: {why}");
    // What is done alike is one Event, with the first one's note: each way is told by itself.
    let about = format!("From{from}To{to}");
    Some(Notice { warning: false, reason: reason.as_str().to_owned(), message, about })
}

/// Publishes; an Event that is lost is only logged.
pub async fn publish(recorder: &Recorder, object: &ObjectReference, notices: Vec<Notice>) {
    for Notice { warning, reason, mut message, about } in notices {
        if message.len() > NOTE {
            message.truncate((0..=NOTE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0));
        }
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let event = Event { type_, reason, note: Some(message), action: about, secondary: None };
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!(error = said::api(&error), "an Event could not be published");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use podless_crds::{MetricType, ScalingMode, ScalingStatus};

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
    fn changes_of_the_number_are_told() {
        let status = |desired: i32, scales: bool| WasmServiceStatus {
            desired_replicas: Some(desired),
            scaling: scales.then(|| ScalingStatus {
                mode: ScalingMode::Stable,
                metric: MetricType::Concurrency,
                current: "300".into(),
                target: "70".into(),
                reason: "300 requests".into(),
                last_scale_time: None,
            }),
            ..Default::default()
        };
        let told = |from, to, scales| scaled(Some(&status(from, scales)), &status(to, scales));
        let notice = told(0, 5, true).expect("news");
        assert_eq!((&*notice.reason, &*notice.message), ("ScaledUp", "from 0 to 5 replicas: 300 requests"));
        assert_ne!(notice.about, told(5, 9, true).expect("news").about, "it has an Event of its own");
        assert_eq!(told(5, 2, true).expect("news").reason, "ScaledDown");
        assert_eq!(told(5, 5, true), None);
        assert_eq!(told(5, 0, true), None, "Ready tells");
        assert_eq!(told(1, 2, false), None, "a user has done it");
        assert_eq!(scaled(None, &status(3, true)), None);
    }

    #[test]
    fn what_takes_long_is_told_when_it_does_and_when_it_is_done() {
        let saying = |status, reason, message: &str| {
            let mut all = conditions(&[("Precompiled", status, reason)]);
            all[0].message = message.into();
            all
        };
        let short = saying("Unknown", "Compiling", "compiling");
        let (three, eight) =
            (saying("Unknown", "Compiling", "compiling for 3 s"), saying("Unknown", "Compiling", "compiling for 8 s"));
        let done = saying("True", "Done", "9 bytes");
        let failed = saying("False", "CompileFailed", "it does not compile");
        for (old, new, want) in [
            (&short, &three, vec!["Compiling: compiling for 3 s"]),
            (&three, &eight, vec![]),
            (&eight, &done, vec!["Compiled: 9 bytes"]),
            (&short, &done, vec![]),
            (&done, &done, vec![]),
            (&eight, &failed, vec!["CompileFailed: it does not compile"]),
        ] {
            let got = notices(old, new).into_iter().map(|n| format!("{}: {}", n.reason, n.message));
            assert_eq!(got.collect::<Vec<_>>(), want, "{old:?} → {new:?}");
        }
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
