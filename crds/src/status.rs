//! What the operator answers in a `WasmService`'s status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ScalingStatus, host::accepted_hosts_schema};

/// What the operator found and measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WasmServiceStatus {
    /// Generation of the object that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Permitted (only where a policy selects the namespace), Resolved, Audited, Precompiled, Placed, HostsAccepted (only where there are spec.hosts), Available (something serves) and Ready (this generation serves).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Those of spec.hosts that it has: the shared port of every node answers for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "accepted_hosts_schema")]
    pub hosts: Vec<String>,
    /// Address inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The image that serves, pinned by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Names the revision that policies have let pass: what they come to forbid after that does not stop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted_revision: Option<String>,
    /// The interfaces that the component imports, and what each was granted: of what was audited last, also when it was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// How these imports differ from those of what served before; absent when they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imports_diff: Option<ImportsDiff>,
    /// The precompiled artifacts, one for each target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Replicas that have been placed on nodes; 0 when it is parked or stopped.
    #[serde(default)]
    pub replicas: i32,
    /// Replicas that there are to be: as many as spec.replicas says, or as the operator has decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,
    /// What the operator has decided, and by what; absent with a fixed number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// Selects what counts as a replica, in the text form that an HPA needs. There are no pods: nothing has these labels but the Service and its slices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Replicas on nodes that serve this generation.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Most instances that were live at once since the shims loaded this service, all nodes together.
    #[serde(default)]
    pub instances: i32,
    /// What the service costs in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<Density>,
    /// How long cold starts took, since the shims loaded this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// Requests that the shims turned away or ended since they loaded this service, by reason: the name in the answer's Podless-Error header. Rounded to one digit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reason"]))]
    pub shed: Vec<Shed>,
    /// The nodes with the most replicas, or those where a parked service waits: ten at most, `density.nodes` counts them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placements: Vec<PlacementStatus>,
}

/// An image, pinned: while it is here, what it means is not asked of the registry again, and its artifact is taken from the
/// operator's cache or from a node. So it is also the record that this namespace could get it: only the operator writes status.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The reference as it was written in the spec.
    pub reference: String,
    /// Digest of the manifest that the reference was resolved to, or of the index.
    pub digest: String,
    /// Digest of the manifest that the index leads to; absent when it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Size of the component in bytes.
    pub size: i64,
    /// Digest of the component, the layer of that manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Names what it was resolved for: the revision and its imagePullSecrets, or of a reference by digest the secrets alone. The tag is resolved again when that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_for: Option<String>,
    /// When the reference was first found to mean this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Time>,
}

/// One imported interface.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Import {
    /// Name of the interface, as in `wasi:http/types@0.2.3`.
    pub interface: String,
    /// What was granted.
    pub grant: Grant,
}

/// How an update's imports differ from those of what served before it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImportsDiff {
    /// Generation of the object that asked for it.
    pub generation: i64,
    /// Whether that serves by now. While it does not, an earlier one does, with what it was granted.
    pub serves: bool,
    /// What it imports beside, and what it was granted otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<Import>,
    /// What it does not import any more, and what was granted otherwise before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Import>,
}

/// What an import was granted.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Grant {
    /// It works.
    Granted,
    /// It is linked, and there is nothing behind it: no file, no terminal.
    Inert,
    /// It was refused, and so was the component.
    Denied,
}

/// One precompiled artifact.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// What the machine code is for: x86-64-v2, x86-64-v3 or aarch64.
    pub target: String,
    /// Engine fingerprint: Wasmtime's version, its settings, target and CPU features.
    pub fingerprint: String,
    /// Size of the machine code in bytes.
    pub size: i64,
    /// Milliseconds that the compilation took when it was made.
    pub compile_millis: i64,
}

/// What a service costs in memory.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Density {
    /// Nodes that hold the service.
    pub nodes: i32,
    /// Bytes resident for this service, all nodes together: its code and its live instances.
    pub resident_bytes: i64,
    /// Resident bytes of one live instance, measured at the peak; absent before the first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_instance: Option<i64>,
}

/// How long cold starts took, by phase.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ColdStart {
    /// Requests that had to load or to instantiate.
    pub count: i64,
    /// Fetching, verifying and mapping the artifact on a node, and linking it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Quantiles>,
    /// Making an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instantiate: Option<Quantiles>,
    /// From the first byte of the request received to the first byte of the answer sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Quantiles>,
}

/// Requests that were turned away or ended for one reason.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Shed {
    /// As in `busy`, `memory` or `timeout`.
    pub reason: String,
    /// How many, rounded.
    pub count: i64,
}

/// Quantiles of a duration, for people: `850µs`, `1.2ms`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Quantiles {
    /// Median.
    pub p50: String,
    /// 99th percentile.
    pub p99: String,
}

/// What was placed on one node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PlacementStatus {
    /// Name of the node.
    pub node: String,
    /// Replicas on it.
    pub replicas: i32,
    /// Whether it serves this generation.
    pub ready: bool,
}
