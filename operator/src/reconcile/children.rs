//! What a service owns, and what its first slice remembers for the next leader. In: what was planned; out: the Service
//! to apply; `slices` makes the others. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};
use podless_crds::{SERVICE_LABEL, WasmService};
use serde::{Deserialize, Serialize};

use crate::{schedule::Cost, wake::ServiceRef};

/// Annotation of the first slice with [`Recorded`].
pub const PLACEMENTS: &str = "podless.dev/placements";
/// `ipFamilyPolicy` of every Service: of two families, where the cluster has two.
pub(super) const PREFER_DUAL_STACK: &str = "PreferDualStack";
/// Port of every Service.
const HTTP_PORT: i32 = 80;

/// What the slice remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// Generation of the assignment.
    pub generation: u64,
    /// `metadata.generation` of the object that it was made from.
    pub service_generation: i64,
    /// Name of exactly what was assigned: content, port and placements.
    pub fingerprint: String,
    /// Generation of the first assignment of this content: placements, budgets and the engine have changed since.
    #[serde(default)]
    pub since: u64,
    /// Name of the content.
    #[serde(default)]
    pub content: String,
    /// Up to this generation it was revoked: who was away lets that go when it comes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withdrawn: u64,
    /// Every shim was told of it, for it has hosts; or has had some, and not all shims have heard that it has them no more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hosted: bool,
    /// By node.
    pub nodes: BTreeMap<String, RecordedNode>,
    /// Thousandths of a CPU that one replica requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_millis: u64,
    /// Bytes of memory that one replica requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Recorded {
    /// What the service takes of each node.
    pub fn loads(&self) -> BTreeMap<String, Cost> {
        let each = Cost { slots: 0, cpu_millis: self.cpu_millis, memory: self.memory };
        // Who has no replica somewhere may still be let in there, but nobody counts on it.
        let slots = |n: &RecordedNode| if n.replicas > 0 { u64::from(n.budget) } else { 0 };
        let load = |n: &RecordedNode| Cost { slots: slots(n), ..each.times(n.replicas) };
        self.nodes.iter().map(|(node, n)| (node.clone(), load(n))).collect()
    }
}

/// What is placed on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedNode {
    /// Replicas on it.
    pub replicas: u32,
    /// Requests in flight that each of its shims takes.
    pub budget: u32,
}

/// An object that a service may own, as it is found.
#[derive(Clone, Debug)]
pub enum Child<K> {
    /// There is none.
    Missing,
    /// It is this service's own.
    Ours(K),
    /// It belongs to a service of the same name that is gone: Kubernetes is about to delete it.
    Leftover,
    /// It is somebody else's, and stays as it is.
    Foreign,
}

impl<K: Resource> Child<K> {
    /// Whose is it?
    pub fn of(found: Option<K>, service: &ServiceRef) -> Self {
        let Some(object) = found else { return Self::Missing };
        match controller(&object) {
            Some(owner) if owner.uid == service.uid => Self::Ours(object),
            Some(owner) if is_wasm_service(owner) && owner.name == service.name => Self::Leftover,
            _ => Self::Foreign,
        }
    }

    /// The object, when it is ours.
    pub fn ours(&self) -> Option<&K> {
        match self {
            Self::Ours(object) => Some(object),
            Self::Missing | Self::Leftover | Self::Foreign => None,
        }
    }
}

/// Who controls an object.
pub fn controller(object: &impl Resource) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

fn is_wasm_service(owner: &OwnerReference) -> bool {
    owner.kind == "WasmService" && owner.api_version.starts_with("podless.dev/")
}

/// What a slice has recorded, if it can be read.
pub fn recorded(slice: &EndpointSlice) -> Option<Recorded> {
    serde_json::from_str(slice.annotations().get(PLACEMENTS)?).ok()
}

/// The service port that a slice has recorded.
pub fn recorded_port(slice: &EndpointSlice) -> Option<u16> {
    u16::try_from(slice.ports.as_ref()?.first()?.port?).ok()
}

/// Name of the first slice of a service: the one that remembers.
pub fn slice_name(service: &str) -> String {
    format!("{service}-podless")
}

/// Whose it is, and what it is called.
pub(super) fn metadata(owner: &WasmService, name: String) -> ObjectMeta {
    let label = (SERVICE_LABEL.to_owned(), owner.name_any());
    ObjectMeta {
        name: Some(name),
        namespace: owner.namespace(),
        labels: Some(BTreeMap::from([label])),
        owner_references: owner.controller_owner_ref(&()).map(|reference| vec![reference]),
        ..Default::default()
    }
}

/// The Service: no selector, for its endpoints are the shims.
pub fn service_object(owner: &WasmService, port: u16) -> core::Service {
    let http = core::ServicePort {
        name: Some("http".to_owned()),
        port: HTTP_PORT,
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some("http".to_owned()),
        ..Default::default()
    };
    let spec = core::ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        ports: Some(vec![http]),
        ip_family_policy: Some(PREFER_DUAL_STACK.to_owned()),
        traffic_distribution: owner.spec.traffic_distribution.map(|distribution| distribution.as_str().to_owned()),
        ..Default::default()
    };
    core::Service { metadata: metadata(owner, owner.name_any()), spec: Some(spec), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(kind: &str, name: &str, uid: &str) -> core::Service {
        let reference = OwnerReference {
            api_version: "podless.dev/v1alpha1".into(),
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: Some(true),
            ..Default::default()
        };
        let metadata = ObjectMeta { owner_references: Some(vec![reference]), ..Default::default() };
        core::Service { metadata, ..Default::default() }
    }

    #[test]
    fn whose_a_child_is() {
        let service = ServiceRef { uid: "u1".into(), namespace: "n".into(), name: "s".into() };
        let of = |found| Child::of(found, &service);
        assert!(matches!(of(None), Child::Missing));
        assert!(matches!(of(Some(owned("WasmService", "s", "u1"))), Child::Ours(_)));
        assert!(matches!(of(Some(owned("WasmService", "s", "u0"))), Child::Leftover));
        assert!(matches!(of(Some(owned("WasmService", "t", "u0"))), Child::Foreign));
        assert!(matches!(of(Some(owned("Deployment", "s", "u0"))), Child::Foreign));
        assert!(matches!(of(Some(core::Service::default())), Child::Foreign));
    }

    #[test]
    fn a_slice_remembers_what_was_planned() {
        let record = Recorded {
            generation: 7,
            service_generation: 3,
            fingerprint: "f".into(),
            since: 5,
            content: "c".into(),
            withdrawn: 0,
            hosted: false,
            nodes: BTreeMap::from([("node-1".to_owned(), RecordedNode { replicas: 2, budget: 200 })]),
            cpu_millis: 50,
            memory: 0,
        };
        let load = Cost { slots: 200, cpu_millis: 100, memory: 0 };
        assert_eq!(record.loads(), BTreeMap::from([("node-1".to_owned(), load)]));
    }
}
