//! `WasmService`: one WebAssembly component served over HTTP.

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// A WebAssembly component served over HTTP, without pods: the operator pulls, audits and precompiles it once, and the
/// shims of the chosen nodes serve it behind a Service of the same name.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "podless.dev",
    version = "v1alpha1",
    kind = "WasmService",
    namespaced,
    status = "WasmServiceStatus",
    shortname = "wsvc",
    category = "all",
    doc = "A WebAssembly component served over HTTP, without pods.",
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes the name of a Service: at most 63 lower-case letters, digits and '-', starting with a letter"),
    printcolumn = r#"{"name":"Ready","type":"string","description":"Whether this generation serves","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","description":"Units of capacity placed","jsonPath":".status.replicas"}"#,
    printcolumn = r#"{"name":"Instances","type":"integer","description":"Most instances that were live at once, all nodes together","jsonPath":".status.instances"}"#,
    printcolumn = r#"{"name":"Cold p50","type":"string","description":"Median time to the first byte of a cold start","jsonPath":".status.coldStart.firstByte.p50"}"#,
    printcolumn = r#"{"name":"URL","type":"string","description":"Address inside the cluster","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"description":"Reason of the Ready condition","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","priority":1,"description":"Digest of the image that serves","jsonPath":".status.image.digest"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WasmServiceSpec {
    /// What makes a revision: a change here is a new revision of the service.
    #[serde(flatten)]
    pub revision: RevisionSpec,
    /// Secrets of type kubernetes.io/dockerconfigjson, in this namespace, with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Units of capacity, each `concurrency` requests in flight, spread evenly over nodes. Not processes and not pods. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub replicas: Option<i32>,
}

impl WasmServiceSpec {
    /// `replicas`, or its default of 1.
    pub fn replicas(&self) -> u32 {
        self.replicas.and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
    }
}

/// The fields of a `WasmService` that make a revision.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    /// OCI reference of the component, by tag or digest, as in `registry.example.com/hello:1.0`. A tag is resolved once for each change of this object and pinned in status.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Environment variables of the component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// What the component may reach beyond answering requests. What is not granted here is not reachable.
    #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
    pub capabilities: Capabilities,
    /// Limits of one instance of the component.
    #[serde(default)]
    pub instance: Instance,
    /// Seconds a request may take, waiting included, before it is ended with 504.
    #[serde(default = "default_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
    /// Requests in flight that one replica takes; what exceeds replicas × concurrency waits for a short time, then gets 503 with Retry-After.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: i32,
}

fn default_timeout_seconds() -> i32 {
    30
}

fn default_concurrency() -> i32 {
    100
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct LocalObjectReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// One environment variable.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_.-]*$"))]
    pub name: String,
    /// Value of the variable.
    #[serde(default)]
    #[schemars(length(max = 32768))]
    pub value: String,
}

/// What a component is granted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Grants wasi:logging: what the component logs goes to the shim's log, as JSON lines with namespace and service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
}

impl Capabilities {
    /// True when nothing is granted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Grants wasi:logging; it has no settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Logging {}

/// Limits of one instance.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Most linear memory that one instance may have, from 1Mi to 128Mi. A request that needs more fails.
    #[serde(default = "default_memory")]
    #[schemars(schema_with = "memory_schema")]
    pub memory: Quantity,
}

impl Default for Instance {
    fn default() -> Self {
        Self { memory: default_memory() }
    }
}

fn default_memory() -> Quantity {
    Quantity("64Mi".to_owned())
}

fn memory_schema(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "description": "Most linear memory that one instance may have, from 1Mi to 128Mi. A request that needs more fails.",
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('128Mi')) <= 0",
            "message": "must be a quantity from 1Mi to 128Mi"
        }]
    })
}

/// What the operator found and measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WasmServiceStatus {
    /// Generation of the object that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Resolved, Audited, Precompiled, Placed, Available (something serves) and Ready (this generation serves).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Address inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The image that serves, pinned by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The interfaces that the component imports, and what each was granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// The precompiled artifacts, one for each target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// Replicas that have been placed on nodes.
    #[serde(default)]
    pub replicas: i32,
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
    /// The nodes with the most replicas: ten at most, `density.nodes` counts them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placements: Vec<PlacementStatus>,
}

/// An image, pinned.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Image {
    /// The reference as it was written in the spec.
    pub reference: String,
    /// Digest of the manifest that the reference was resolved to.
    pub digest: String,
    /// Size of the component in bytes.
    pub size: i64,
}

/// One imported interface.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Import {
    /// Name of the interface, as in `wasi:http/types@0.2.3`.
    pub interface: String,
    /// What was granted.
    pub grant: Grant,
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
    /// Target triple of the machine code.
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
