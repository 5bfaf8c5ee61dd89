//! One slice as Kubernetes has it. In: what belongs in it; out: the object. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::ObjectReference,
    discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone},
};
use kube::ResourceExt;
use podless_crds::{MANAGED_BY, TrafficDistribution, WasmService};

use super::names::Family;
use crate::reconcile::children::{PLACEMENTS, Recorded, metadata};

/// One endpoint: a shim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Node of the shim.
    pub node: String,
    /// Zone of that node, if it has one.
    pub zone: Option<String>,
    /// Uid of its pod.
    pub pod_uid: String,
    /// Name of its pod.
    pub pod_name: String,
    /// Addresses of its pod, one for each family.
    pub ips: Vec<String>,
    /// It answers for the service.
    pub serving: bool,
    /// Its pod is being deleted: kube-proxy falls back on it only when nothing else is ready.
    pub terminating: bool,
    /// New connections may go to it.
    pub ready: bool,
}

impl Target {
    /// Its address of a family.
    pub fn ip(&self, family: Family) -> Option<&String> {
        self.ips.iter().find(|ip| Family::of(ip) == Some(family))
    }

    /// The endpoint, if it has an address of this family.
    fn endpoint(&self, family: Family, namespace: &str, distribution: Option<TrafficDistribution>) -> Option<Endpoint> {
        let pod = ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(self.pod_name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(self.pod_uid.clone()),
            ..Default::default()
        };
        Some(Endpoint {
            addresses: vec![self.ip(family)?.clone()],
            conditions: Some(EndpointConditions {
                ready: Some(self.ready),
                serving: Some(self.serving),
                terminating: Some(self.terminating),
            }),
            node_name: Some(self.node.clone()),
            zone: self.zone.clone(),
            hints: distribution.and_then(|distribution| self.hints(distribution)),
            target_ref: Some(pod),
            ..Default::default()
        })
    }

    /// For whom it is meant first, as Kubernetes' own controller says it: kube-proxy goes by it when all that are ready
    /// say it of their zones, or of their nodes.
    fn hints(&self, distribution: TrafficDistribution) -> Option<EndpointHints> {
        let for_zones = self.zone.iter().map(|zone| ForZone { name: zone.clone() }).collect::<Vec<_>>();
        let by_node = distribution == TrafficDistribution::PreferSameNode;
        let hints = EndpointHints {
            for_nodes: by_node.then(|| vec![ForNode { name: self.node.clone() }]),
            for_zones: Some(for_zones).filter(|zones| !zones.is_empty()),
        };
        Some(hints).filter(|hints| self.ready && *hints != EndpointHints::default())
    }
}

/// The slice of this name. The record belongs in a service's first one.
pub(super) fn slice_object<'t>(
    owner: &WasmService,
    name: String,
    port: u16,
    family: Family,
    namespace: &str,
    targets: impl IntoIterator<Item = &'t Target>,
    record: Option<&Recorded>,
) -> EndpointSlice {
    let mut metadata = metadata(owner, name);
    metadata.labels.get_or_insert_default().extend([
        ("kubernetes.io/service-name".to_owned(), owner.name_any()),
        ("endpointslice.kubernetes.io/managed-by".to_owned(), MANAGED_BY.to_owned()),
    ]);
    let record = record.and_then(|record| serde_json::to_string(record).ok());
    metadata.annotations = record.map(|record| BTreeMap::from([(PLACEMENTS.to_owned(), record)]));
    let http = EndpointPort {
        name: Some("http".to_owned()),
        port: Some(i32::from(port)),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some("http".to_owned()),
    };
    let distribution = owner.spec.traffic_distribution;
    let endpoints = targets.into_iter().filter_map(|target| target.endpoint(family, namespace, distribution));
    EndpointSlice {
        address_type: family.as_str().to_owned(),
        endpoints: endpoints.collect(),
        metadata,
        ports: Some(vec![http]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TrafficDistribution::{PreferClose, PreferSameNode, PreferSameZone};

    #[test]
    fn for_whom_an_endpoint_is_meant() {
        let target = |zone: Option<&str>, ready| Target {
            node: "n".into(),
            zone: zone.map(str::to_owned),
            pod_uid: "u".into(),
            pod_name: "p".into(),
            ips: vec!["10.0.0.1".into(), "fd00::1".into()],
            serving: true,
            terminating: false,
            ready,
        };
        for (distribution, zone, ready, want) in [
            (None, Some("west"), true, (None, None)),
            (Some(PreferClose), Some("west"), true, (Some("west"), None)),
            (Some(PreferSameZone), Some("west"), true, (Some("west"), None)),
            (Some(PreferSameNode), Some("west"), true, (Some("west"), Some("n"))),
            (Some(PreferSameNode), None, true, (None, Some("n"))),
            (Some(PreferSameZone), None, true, (None, None)),
            (Some(PreferSameNode), Some("west"), false, (None, None)),
        ] {
            for (family, ip) in [(Family::V4, "10.0.0.1"), (Family::V6, "fd00::1")] {
                let endpoint = target(zone, ready).endpoint(family, "ns", distribution).expect("an address");
                assert_eq!(endpoint.addresses, [ip]);
                let none = endpoint.hints.is_none();
                let hints = endpoint.hints.unwrap_or_default();
                let zones = hints.for_zones.map(|zones| zones.into_iter().map(|zone| zone.name).collect());
                let nodes = hints.for_nodes.map(|nodes| nodes.into_iter().map(|node| node.name).collect());
                let one = |name: Option<&str>| name.map(|name| vec![name.to_owned()]);
                let what = format!("{distribution:?} {zone:?} {ready}");
                assert_eq!((zones, nodes), (one(want.0), one(want.1)), "{what}");
                assert_eq!(none, want == (None, None), "{what}");
            }
        }
    }
}
