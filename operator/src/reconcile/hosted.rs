//! The condition HostsAccepted: whether a service has the hosts that it asks for. In: what was decided of them, where they
//! are answered for, what there was; out: a verdict, or none where there never were any. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use podless_crds::{ConditionType, Reason, Status, WasmService};

use super::{conditions::Verdict, plan::Facts};
use crate::hosts::{Hosts, Why};

/// Hosts that a sentence names.
const NAMED: usize = 5;

/// The verdict. Without facts nothing was assigned.
pub(super) fn hosts_accepted(service: &WasmService, hosts: &Hosts, facts: Option<&Facts>) -> Option<Verdict> {
    let kind = ConditionType::HostsAccepted;
    let verdict = |status, reason, message| Some(Verdict { kind, status, reason, message });
    let old: &[Condition] = service.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let said = old.iter().find(|c| c.type_ == kind.as_str());
    if service.spec.hosts.is_empty() {
        return said.and(verdict(Status::True, Reason::Done, "it asks for no hosts".to_owned()));
    }
    if hosts.waits {
        // A new leader has not looked at all services yet: what was said of this generation holds.
        let settled = said.is_some_and(|c| c.observed_generation == service.metadata.generation);
        let waits = || verdict(Status::Unknown, Reason::Waiting, "waits for what others ask for".to_owned());
        return if settled { None } else { waits() };
    }
    if !hosts.refused.is_empty() {
        let beyond = hosts.refused.iter().any(|refused| matches!(refused.why, Why::Beyond(_)));
        let reason = if beyond { Reason::PolicyViolation } else { Reason::HostnameConflict };
        let more = hosts.refused.len().saturating_sub(NAMED);
        let named = hosts.refused.iter().take(NAMED).map(ToString::to_string);
        let more = (more > 0).then(|| format!("and {more} more"));
        return verdict(Status::False, reason, named.chain(more).collect::<Vec<_>>().join("; "));
    }
    match facts {
        Some(Facts { unhosted, placeable: true, .. }) if *unhosted > 0 => {
            let nodes = if *unhosted == 1 { "1 node has a shim" } else { &format!("{unhosted} nodes have shims") };
            let message = format!(
                "{nodes} that may not serve it, and answer 404 for its hosts: look at spec.nodeSelector, affinity and tolerations"
            );
            verdict(Status::False, Reason::NoNode, message)
        }
        _ => verdict(Status::True, Reason::Done, format!("it has {}", hosts.accepted.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use podless_crds::WasmServiceStatus;
    use serde_json::json;

    use super::*;
    use crate::hosts::Refused;

    #[test]
    fn what_is_said_of_hosts() {
        let service = |hosts: &[&str], said: Option<i64>| {
            let spec = json!({"image": "i", "hosts": hosts});
            let mut service = WasmService::new("s", serde_json::from_value(spec).expect("a spec"));
            service.metadata.generation = Some(2);
            let condition = said.map(|generation| {
                let condition = json!({
                    "type": "HostsAccepted", "status": "True", "reason": "Done", "message": "",
                    "observedGeneration": generation, "lastTransitionTime": "2026-01-31T12:00:00Z",
                });
                serde_json::from_value(condition).expect("a condition")
            });
            let conditions = condition.into_iter().collect();
            service.status = Some(WasmServiceStatus { conditions, ..Default::default() });
            service
        };
        let has = Hosts { accepted: vec!["a.test".into()], ..Hosts::default() };
        let lacks = |why| Hosts { refused: vec![Refused { host: "a.test".into(), why }], ..Hosts::default() };
        let waits = Hosts { waits: true, ..Hosts::default() };
        let partly = Facts { unhosted: 1, placeable: true, ..Facts::default() };
        let asks = ["a.test"];
        for (hosts, said, of, facts, want) in [
            (&[][..], None, &Hosts::default(), None, None),
            (&[], Some(1), &Hosts::default(), None, Some((Status::True, Reason::Done))),
            (&asks, None, &has, None, Some((Status::True, Reason::Done))),
            (&asks, None, &has, Some(&Facts::default()), Some((Status::True, Reason::Done))),
            (&asks, None, &has, Some(&partly), Some((Status::False, Reason::NoNode))),
            (&asks, None, &lacks(Why::Foreign), None, Some((Status::False, Reason::HostnameConflict))),
            (&asks, None, &lacks(Why::Taken("b".into())), None, Some((Status::False, Reason::HostnameConflict))),
            (&asks, None, &lacks(Why::Beyond("no".into())), None, Some((Status::False, Reason::PolicyViolation))),
            (&asks, None, &waits, None, Some((Status::Unknown, Reason::Waiting))),
            (&asks, Some(1), &waits, None, Some((Status::Unknown, Reason::Waiting))),
            (&asks, Some(2), &waits, None, None),
        ] {
            let verdict = hosts_accepted(&service(hosts, said), of, facts);
            assert_eq!(verdict.map(|v| (v.status, v.reason)), want, "{hosts:?} {said:?} {of:?}");
        }
        let told = hosts_accepted(&service(&asks, None), &lacks(Why::Foreign), None).expect("a verdict").message;
        assert_eq!(
            told,
            "an older WasmService of another namespace has a.test, or a wildcard over it: ask for another"
        );
    }
}
