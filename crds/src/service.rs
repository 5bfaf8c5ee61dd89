//! `WasmService`: one WebAssembly component served over HTTP. Here is what makes a revision and what does not; the
//! parts are in files of their own.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Affinity, Capabilities, Compiler, EnvVar, ImageResolution, NodeSelector, Resources, Scaling, Toleration,
    WasmServiceStatus, host::hosts_schema, placement::node_selector_schema, scaling::not_null,
};

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
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes the name of a Service: at most 63 lower-case letters, digits and '-', starting with a letter"),
    printcolumn = r#"{"name":"Ready","type":"string","description":"Whether this generation serves","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","description":"Units of capacity placed","jsonPath":".status.replicas"}"#,
    printcolumn = r#"{"name":"Desired","type":"integer","description":"Units of capacity that there are to be","jsonPath":".status.desiredReplicas"}"#,
    printcolumn = r#"{"name":"Instances","type":"integer","description":"Most instances that were live at once, all nodes together","jsonPath":".status.instances"}"#,
    printcolumn = r#"{"name":"Cold p50","type":"string","description":"Median time to the first byte of a cold start","jsonPath":".status.coldStart.firstByte.p50"}"#,
    printcolumn = r#"{"name":"URL","type":"string","description":"Address inside the cluster","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"description":"Reason of the Ready condition","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","priority":1,"description":"Digest of the image that serves","jsonPath":".status.image.digest"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "!(has(self.replicas) && has(self.scaling))",
        "message": "give replicas (a fixed number) or scaling (as many as the load needs), not both"
    },
    {
        "rule": "!has(self.scaling) || self.scaling.metric.type != 'CPU' || has(self.scaling.metric.value) || has(self.resources) && has(self.resources.requests) && has(self.resources.requests.cpu) && quantity(string(self.resources.requests.cpu)).isGreaterThan(quantity('0'))",
        "message": "type CPU needs value: thousandths of a CPU that one replica is to take; or resources.requests.cpu, of which it takes utilization percent",
        "fieldPath": ".scaling.metric"
    }
])))]
pub struct WasmServiceSpec {
    /// What makes a revision: a change here is a new revision of the service.
    #[serde(flatten)]
    pub revision: RevisionSpec,
    /// When the registry is asked again what the image's tag means; by default, once for each revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<ImageResolution>")]
    pub image_resolution: Option<ImageResolution>,
    /// Secrets of type kubernetes.io/dockerconfigjson, in this namespace, with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Hosts that the shims' shared port answers for with this service, on every node, beside its own Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "hosts_schema")]
    pub hosts: Vec<String>,
    /// A fixed number of replicas instead of scaling: units of capacity, each `concurrency` requests in flight, spread evenly over nodes. Not processes and not pods. 0 stops the service: it keeps its address, and every request is answered 503. `kubectl scale` and an HPA write this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "replicas_schema")]
    pub replicas: Option<i32>,
    /// How the number of replicas follows the load. With neither this nor replicas it does so by the defaults, from 0 to 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<Scaling>")]
    pub scaling: Option<Scaling>,
    /// Labels that a node must have, all of them, to serve this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "node_selector_schema")]
    pub node_selector: BTreeMap<String, String>,
    /// Nodes that may serve this, by expressions, as in a Pod: affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution. A node must match this and nodeSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<Affinity>")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that this tolerates. A node with a taint NoSchedule or NoExecute that is not tolerated does not serve this; one with PreferNoSchedule is taken last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Which endpoints a client's connections prefer, as in a Service. Without it, all alike. Replicas are spread evenly all the same: who prefers what is near makes that busier than the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<TrafficDistribution>")]
    pub traffic_distribution: Option<TrafficDistribution>,
    /// What one replica takes of a node.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
}

impl WasmServiceSpec {
    /// How the number of replicas is decided; `None` exactly when it is fixed.
    pub fn scaling(&self) -> Option<Scaling> {
        self.replicas.is_none().then(|| self.scaling.clone().unwrap_or_default())
    }

    /// Time between two looks at what the image's tag means; `None`: it is resolved once for each revision.
    pub fn resolve_every(&self) -> Option<Duration> {
        self.image_resolution.as_ref()?.every()
    }

    /// The number of replicas, if it is fixed.
    pub fn fixed_replicas(&self) -> Option<u32> {
        self.replicas.map(|n| u32::try_from(n).unwrap_or(0))
    }

    /// What a node must match besides `nodeSelector`; `None`: it need not match anything.
    pub fn required_nodes(&self) -> Option<&NodeSelector> {
        Some(&self.affinity.as_ref()?.node_affinity.required_during_scheduling_ignored_during_execution)
    }
}

/// Which endpoints are preferred while they are ready: the names of Kubernetes' Services.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// Those in the client's zone; the older name of PreferSameZone.
    PreferClose,
    /// Those in the client's zone. Needs Kubernetes 1.34.
    PreferSameZone,
    /// The one on the client's node, else those in its zone. Needs Kubernetes 1.34.
    PreferSameNode,
}

impl TrafficDistribution {
    /// The name in a Service's `trafficDistribution`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreferClose => "PreferClose",
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        }
    }
}

// Not nullable, as `scaling::not_null` has it.
fn replicas_schema(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 10000})
}

/// The fields of a `WasmService` that make a revision.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    /// OCI reference of the component, by tag or digest, as in `registry.example.com/hello:1.0`. A tag is resolved once for each revision and pinned in status; see imageResolution.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Environment variables of the component; 1 MiB at most, all together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// What the component may reach beyond answering requests. What is not granted here is not reachable.
    #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
    pub capabilities: Capabilities,
    /// How the component is compiled.
    #[serde(default, skip_serializing_if = "Compiler::is_default")]
    pub compiler: Compiler,
    /// Limits of one instance of the component, and how often it is used.
    #[serde(default)]
    pub instance: Instance,
    /// Seconds a request may take, waiting included, before it is ended with 504.
    #[serde(default = "default_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
    /// Requests in flight that one replica takes. What exceeds replicas × concurrency, or with scaling maxReplicas × concurrency on a node, waits for a short time, then gets 503 with Retry-After.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: i32,
}

impl RevisionSpec {
    /// `concurrency`.
    pub fn concurrency(&self) -> u32 {
        u32::try_from(self.concurrency).unwrap_or(0).max(1)
    }
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

/// Limits of one instance, and how often it is used.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Most linear memory that one instance may have, from 1Mi to 128Mi. A request that needs more fails.
    #[serde(default = "default_memory")]
    #[schemars(schema_with = "memory_schema")]
    pub memory: Quantity,
    /// Requests that one instance answers before it is replaced. By default 1 for a component of WASI 0.2, so that no request finds what another left behind, and 128 for one of WASI 0.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_schema::<1, 1_000_000>")]
    pub max_invocations: Option<i32>,
    /// Requests that one instance of a WASI 0.3 component answers at once, by default 16: one that traps ends them all. A component of WASI 0.2 has one at a time, whatever this says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_schema::<1, 1000>")]
    pub max_concurrency: Option<i32>,
    /// Instances that each node keeps for another request, where maxInvocations allows one; by default 32. 0 keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_schema::<0, 10_000>")]
    pub pool_size: Option<i32>,
    /// Seconds that an instance is kept for another request; by default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_schema::<0, 3600>")]
    pub idle_seconds: Option<i32>,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            memory: default_memory(),
            max_invocations: None,
            max_concurrency: None,
            pool_size: None,
            idle_seconds: None,
        }
    }
}

// Not nullable, as `scaling::not_null` has it.
fn count_schema<const LEAST: i32, const MOST: i32>(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "integer", "format": "int32", "minimum": LEAST, "maximum": MOST})
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
