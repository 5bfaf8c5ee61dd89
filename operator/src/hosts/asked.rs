//! What one service has of the hosts that it asks for. In: the service and what was decided; out: its hosts now. Pure.
//!
//! What has not been decided yet stays as status says: a new leader takes nothing away.

use podless_crds::WasmService;

use super::claims::{Refused, Verdict};

/// What a service has, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// What it has.
    pub accepted: Vec<String>,
    /// What it asks for and has not.
    pub refused: Vec<Refused>,
    /// Something that it asks for has not been decided yet.
    pub waits: bool,
}

impl Hosts {
    /// Of this service, of which that was decided.
    pub fn of(service: &WasmService, verdict: Option<&Verdict>) -> Self {
        let before = service.status.as_ref().map(|status| status.hosts.as_slice()).unwrap_or_default();
        let mut hosts = Self::default();
        for asked in &service.spec.hosts {
            let refused = verdict.and_then(|v| v.refused.iter().find(|refused| refused.host == *asked));
            let accepted = verdict.is_some_and(|v| v.accepted.contains(asked));
            hosts.waits |= refused.is_none() && !accepted;
            match refused {
                Some(refused) => hosts.refused.push(refused.clone()),
                None if accepted || before.contains(asked) => hosts.accepted.push(asked.clone()),
                None => {}
            }
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use podless_crds::WasmServiceStatus;
    use serde_json::json;

    use super::*;
    use crate::hosts::Why;

    #[test]
    fn what_was_not_decided_stays_as_it_was() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let spec = json!({"image": "i", "hosts": ["a.test", "b.test", "c.test"]});
        let mut service = WasmService::new("s", serde_json::from_value(spec).expect("a spec"));
        service.status =
            Some(WasmServiceStatus { hosts: texts(&["a.test", "b.test", "gone.test"]), ..Default::default() });
        let undecided = Hosts::of(&service, None);
        assert_eq!(undecided, Hosts { accepted: texts(&["a.test", "b.test"]), refused: vec![], waits: true });

        let refused = Refused { host: "b.test".into(), why: Why::Foreign };
        let verdict = Verdict { accepted: texts(&["a.test", "c.test"]), refused: vec![refused.clone()] };
        let decided = Hosts::of(&service, Some(&verdict));
        assert_eq!(decided, Hosts { accepted: texts(&["a.test", "c.test"]), refused: vec![refused], waits: false });

        service.spec.hosts.push("d.test".into());
        assert!(Hosts::of(&service, Some(&verdict)).waits, "of that nothing was decided");
    }
}
