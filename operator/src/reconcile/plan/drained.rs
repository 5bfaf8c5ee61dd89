//! What is revoked, taken off all nodes. In: what was observed; out: whether what serves is revoked, and then a plan
//! without a place. Pure.

use std::collections::BTreeMap;

use super::{Facts, Plan, Recorded, Settings};
use crate::reconcile::{
    children::service_object,
    observe::Observed,
    slices::{Common, Families, ours},
};

impl Observed {
    /// Why what serves must not: what this leader has assigned, or what status names, while a shim may have it. An update
    /// waits until it is gone: a node that could not load the new one would serve it on.
    pub(crate) fn revoked(&self) -> Option<String> {
        let image = match &self.assigned {
            Some(assigned) => &assigned.content.image,
            None if self.is_out() => self.service.status.as_ref()?.image.as_ref()?,
            None => return None,
        };
        let inner = [&image.manifest, &image.component].into_iter().flatten();
        let digests = inner.chain([&image.digest]).map(String::as_str);
        self.judgement.revokes(digests).map(|revoked| revoked.message)
    }

    /// A shim serves it, or new connections are sent to one.
    fn is_out(&self) -> bool {
        self.shims.iter().any(|shim| shim.connected && (shim.serves.is_some() || shim.lets_go))
            || ours(&self.slices).any(|slice| !slice.endpoints.is_empty())
    }
}

/// No endpoint, no place and nothing assigned. What is assigned after this is new to everybody, and the record says so to
/// the next leader.
pub(super) fn drained(o: &Observed, port: u16, why: String, settings: &Settings) -> Plan {
    let families = Families::of(&o.child, &o.slices, &o.id.name, settings.family);
    let assigned = o.assigned.as_ref().map_or(0, |assigned| assigned.generation);
    let record = o.record.clone().map(|r| Recorded {
        fingerprint: String::new(),
        withdrawn: r.generation.max(assigned).max(o.withdrawn),
        nodes: BTreeMap::new(),
        ..r
    });
    let common = Common { owner: &o.service, port, namespace: &settings.namespace, families: &families };
    Plan {
        service: service_object(&o.service, port),
        slices: common.plan(&o.slices, &[], record.as_ref()),
        assigned: None,
        growth: vec![],
        loads: BTreeMap::new(),
        facts: Facts {
            wanted: o.demand.wanted(),
            parked: o.demand.is_parked(),
            least: o.demand.least(),
            usable_shims: o.shims.iter().filter(|shim| shim.assignable()).count(),
            revoked: Some(why),
            ..Facts::default()
        },
    }
}
