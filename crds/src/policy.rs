//! `WasmPolicy`: what the services of some namespaces may be at most, whoever writes them. Deny only: a service is held to
//! every policy that selects its namespace, so that one more policy never allows more.

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, LabelSelector},
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{OutboundHttp, host::host_ceiling_schema, scaling::not_null};

/// A ceiling for the services of some namespaces.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "podless.dev",
    version = "v1alpha1",
    kind = "WasmPolicy",
    status = "WasmPolicyStatus",
    shortname = "wpol",
    derive = "PartialEq",
    doc = "What the WasmServices of some namespaces may be at most: their images and signatures, capabilities, limits, hosts, and digests that are revoked.",
    printcolumn = r#"{"name":"Ready","type":"string","description":"Whether all of it is applied as it is written","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Default Deny","type":"boolean","description":"Whether images that it does not list are refused","jsonPath":".spec.defaultDeny"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"description":"Reason of the Ready condition","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WasmPolicySpec {
    /// Namespaces that this holds for, by their labels. Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace_selector_schema")]
    pub namespace_selector: Option<LabelSelector>,
    /// What is required of images, by the beginning of their references; the longest prefix that fits an image counts, and the others do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["prefix"]))]
    pub images: Vec<ImageRule>,
    /// Refuses images that no prefix in this policy fits. Without it, nothing is required of them.
    #[serde(default)]
    pub default_deny: bool,
    /// The capabilities that may be granted at most. Without it, all; empty, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<CapabilityCeiling>")]
    pub capabilities: Option<CapabilityCeiling>,
    /// The highest limits that may be asked for.
    #[serde(default, skip_serializing_if = "LimitCeiling::is_empty")]
    pub limits: LimitCeiling,
    /// Hosts that may be asked for in spec.hosts. Without it, all; empty, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "host_ceiling_schema")]
    pub hosts: Option<Vec<String>>,
    /// Digests of images or of components, as in `sha256:…`, that must not run: what runs is taken off all nodes, and what is asked for is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "digests_schema")]
    pub revoked_digests: Vec<String>,
}

/// What is required of images whose references begin alike.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageRule {
    /// Registry, and as much of the repository as matters, in whole parts: `registry.example.com/team` fits `registry.example.com/team/hello`, not `registry.example.com/teams`. Empty: every image.
    #[schemars(schema_with = "prefix_schema")]
    pub prefix: String,
    /// Signatures that the image must have, each of these. Without any, it need not be signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub signatures: Vec<SignatureRule>,
}

/// A signature by cosign: one of these keys or of these identities must have made it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "has(self.keys) && self.keys.size() > 0 || has(self.keyless)",
    "message": "give keys or keyless: a signature by nobody cannot be required"
}])))]
pub struct SignatureRule {
    /// Public keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub keys: Vec<PolicyText>,
    /// Identities that a certificate authority has vouched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<Keyless>")]
    pub keyless: Option<Keyless>,
}

/// A text, written here or in a Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "has(self.inline) != has(self.secretRef)",
    "message": "give exactly one of inline and secretRef"
}])))]
pub struct PolicyText {
    /// The text itself: PEM of a public key, JSON of a trust root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "inline_schema")]
    pub inline: Option<String>,
    /// A key of a Secret in the namespace that Podless is installed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<PolicySecretRef>")]
    pub secret_ref: Option<PolicySecretRef>,
}

/// A key of a Secret in the namespace that Podless is installed in.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct PolicySecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Key in its data, as in `cosign.pub`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Signatures without a key that somebody keeps: by identities that a trust root's authority has vouched for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Keyless {
    /// Who may have signed.
    #[schemars(length(min = 1, max = 16))]
    pub identities: Vec<KeylessIdentity>,
    /// Whom to believe about it: Sigstore's `trusted_root.json`, or one of your own. Nothing is asked over the network.
    pub trust_root: PolicyText,
}

/// One who may have signed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "has(self.subject) != has(self.subjectRegex)",
    "message": "give exactly one of subject and subjectRegex"
}])))]
pub struct KeylessIdentity {
    /// Who has vouched for the identity, as in `https://token.actions.githubusercontent.com`.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// The identity, as in `release@example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "subject_schema")]
    pub subject: Option<String>,
    /// A regular expression that the whole identity must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "subject_regex_schema")]
    pub subject_regex: Option<String>,
}

/// The capabilities that may be granted at most. What is not here may not be granted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CapabilityCeiling {
    /// Whether wasi:logging may be granted.
    #[serde(default)]
    pub logging: bool,
    /// Where requests may be allowed to go: each of a service's allowedHosts and allowedCidrs must lie within one of these. Without it, nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<OutboundHttp>")]
    pub outbound_http: Option<OutboundHttp>,
}

/// The highest limits that may be asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LimitCeiling {
    /// Highest spec.instance.memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "memory_schema")]
    pub memory: Option<Quantity>,
    /// Highest spec.timeoutSeconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "timeout_schema")]
    pub timeout_seconds: Option<i32>,
    /// Highest spec.concurrency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "concurrency_schema")]
    pub concurrency: Option<i32>,
    /// Most replicas of one service. Who asks for more gets these, and is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "replicas_schema")]
    pub replicas: Option<i32>,
}

impl LimitCeiling {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the operator says of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WasmPolicyStatus {
    /// Generation of the object that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: all of it is applied as it is written. What cannot be is refused to everyone whom it concerns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

// `LabelSelector` as Kubernetes has it, with bounds.
fn namespace_selector_schema(_: &mut SchemaGenerator) -> Schema {
    let key = json!({
        "description": "Key of the label.",
        "type": "string",
        "minLength": 1,
        "maxLength": 317
    });
    let value = json!({"description": "Value of the label.", "type": "string", "maxLength": 63});
    json_schema!({
        "description": "Namespaces that this holds for, by their labels. Without it, all.",
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels that a namespace must have, all of them.",
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": value
            },
            "matchExpressions": {
                "description": "What is required of a namespace's labels, all of it.",
                "type": "array",
                "maxItems": 32,
                "items": {
                    "description": "What is required of one label.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": key,
                        "operator": {
                            "description": "In: the label has one of the values. NotIn: it has none of them, or is not there. Exists: it is there. DoesNotExist: it is not.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "description": "Values that the label is compared with: some for In and NotIn, none for the others.",
                            "type": "array",
                            "maxItems": 32,
                            "items": value
                        }
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
                        "message": "operators In and NotIn need values, Exists and DoesNotExist take none"
                    }]
                }
            }
        }
    })
}

fn prefix_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Registry, and as much of the repository as matters, in whole parts: `registry.example.com/team` fits `registry.example.com/team/hello`, not `registry.example.com/teams`. Empty: every image.",
        "type": "string",
        "maxLength": 512,
        "x-kubernetes-validations": [{
            // Without a registry it would never fit, and require nothing of anybody, unseen.
            "rule": "self == '' || self.matches('^(localhost|[A-Za-z0-9][-A-Za-z0-9]*([.][-A-Za-z0-9]+)+|[A-Za-z0-9][-A-Za-z0-9.]*:[0-9]{1,5}|localhost:[0-9]{1,5})(/[a-z0-9][-a-z0-9._]*)*$')",
            "message": "begin with the registry, as in registry.example.com/team or docker.io/library; write no tag, digest or slash at the end"
        }]
    })
}

fn digests_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Digests of images or of components, as in `sha256:…`, that must not run: what runs is taken off all nodes, and what is asked for is refused.",
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "set",
        "items": {
            "description": "`sha256:` and 64 hexadecimal digits in lower case.",
            "type": "string",
            "maxLength": 71,
            "pattern": "^sha256:[0-9a-f]{64}$"
        }
    })
}

fn inline_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "The text itself: PEM of a public key, JSON of a trust root.",
        "type": "string",
        "minLength": 1,
        "maxLength": 65536
    })
}

fn subject_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "The identity, as in `release@example.com`.",
        "type": "string",
        "minLength": 1,
        "maxLength": 512
    })
}

fn subject_regex_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "A regular expression that the whole identity must match.",
        "type": "string",
        "minLength": 1,
        "maxLength": 512
    })
}

fn memory_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Highest spec.instance.memory.",
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(self) && quantity(self).compareTo(quantity('1Mi')) >= 0",
            "message": "must be a quantity from 1Mi"
        }]
    })
}

fn timeout_schema(_: &mut SchemaGenerator) -> Schema {
    limit("Highest spec.timeoutSeconds.", 1, 3600)
}

fn concurrency_schema(_: &mut SchemaGenerator) -> Schema {
    limit("Highest spec.concurrency.", 1, 10_000)
}

fn replicas_schema(_: &mut SchemaGenerator) -> Schema {
    limit("Most replicas of one service. Who asks for more gets these, and is told.", 1, 10_000)
}

// Not nullable: a null would be no limit, unseen.
fn limit(description: &str, minimum: i32, maximum: i32) -> Schema {
    json_schema!({
        "description": description,
        "type": "integer",
        "format": "int32",
        "minimum": minimum,
        "maximum": maximum
    })
}
