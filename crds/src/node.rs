//! `WasmNode`: what one node's shim holds and can hold; written by the operator from the shim's reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantiles;

/// A node that runs a shim. Written by the operator; nothing here is for users to set.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[kube(
    group = "podless.dev",
    version = "v1alpha1",
    kind = "WasmNode",
    status = "WasmNodeStatus",
    shortname = "wnode",
    doc = "What the shim of one node holds: written by the operator.",
    printcolumn = r#"{"name":"Ready","type":"string","description":"Whether the shim is connected","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Services","type":"integer","description":"Services resident","jsonPath":".status.density.services"}"#,
    printcolumn = r#"{"name":"Instances","type":"integer","description":"Most instances that were live at once","jsonPath":".status.density.peakInstances"}"#,
    printcolumn = r#"{"name":"Slots","type":"integer","description":"Instances that fit","jsonPath":".status.capacity.instances"}"#,
    printcolumn = r#"{"name":"Resident","type":"integer","description":"Resident bytes of the shim","jsonPath":".status.density.residentBytes"}"#,
    printcolumn = r#"{"name":"Per Service","type":"integer","description":"Bytes resident for one service, on average","jsonPath":".status.density.bytesPerService"}"#,
    printcolumn = r#"{"name":"Per Instance","type":"integer","description":"Resident bytes of one live instance","jsonPath":".status.density.bytesPerInstance"}"#,
    printcolumn = r#"{"name":"Cold p50","type":"string","description":"Median time to the first byte of a cold start","jsonPath":".status.coldStart.firstByte.p50"}"#,
    printcolumn = r#"{"name":"Bounded By","type":"string","priority":1,"description":"What bounds the instances that fit","jsonPath":".status.capacity.boundedBy"}"#,
    printcolumn = r#"{"name":"Version","type":"string","priority":1,"jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct WasmNodeSpec {}

/// What the shim of the node reported.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WasmNodeStatus {
    /// Ready: the shim is connected and runs what the operator compiles for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Version of the shim.
    #[serde(default)]
    pub version: String,
    /// What machine code the shim runs: x86-64-v2, x86-64-v3 or aarch64.
    #[serde(default)]
    pub target: String,
    /// Engine fingerprint of the shim.
    #[serde(default)]
    pub fingerprint: String,
    /// What fits.
    #[serde(default)]
    pub capacity: NodeCapacity,
    /// What is there.
    #[serde(default)]
    pub density: NodeDensity,
    /// How long cold starts took on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<NodeColdStart>,
    /// The services with the most resident bytes: ten at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<ServiceShare>,
}

/// What fits on a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCapacity {
    /// Instances that may be live at once.
    pub instances: i32,
    /// What bounds them: `pool`, `maxMapCount`, `memory` or `addressSpace`.
    pub bounded_by: String,
    /// What to raise for more instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<String>,
    /// Services that may have a port of their own; absent when the shim does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<i32>,
}

/// What is on a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeDensity {
    /// Services resident.
    pub services: i32,
    /// Instances live when the shim reported last, rounded.
    pub live_instances: i32,
    /// Most instances that were live at once since the shim started.
    pub peak_instances: i32,
    /// Resident bytes of the shim's process.
    pub resident_bytes: i64,
    /// Of these, the bytes that cannot be attributed to one service: the shim itself, its pools and connections.
    pub unattributed_bytes: i64,
    /// Resident bytes of one service's code, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_service: Option<i64>,
    /// Resident bytes of one live instance, on average; absent before the first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_instance: Option<i64>,
}

/// How long the phases of cold starts took on a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeColdStart {
    /// Requests that had to load or to instantiate.
    pub count: i64,
    /// Receiving the artifact from the operator and verifying it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Quantiles>,
    /// Mapping the machine code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Quantiles>,
    /// Resolving the imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Quantiles>,
    /// Making an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instantiate: Option<Quantiles>,
    /// From the first byte of the request received to the first byte of the answer sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Quantiles>,
}

/// One service's share of a node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceShare {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// Bytes resident for it.
    pub resident_bytes: i64,
}
