//! Where a service may be placed and what it takes there: fields that make no revision.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) fn node_selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Labels that a node must have, all of them, to serve this.",
        "type": "object",
        "maxProperties": 32,
        "x-kubernetes-map-type": "atomic",
        "additionalProperties": {
            "description": "Value of the label.",
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
        }
    })
}

/// A taint that is tolerated, as in a Pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "self.operator == 'Exists' || has(self.key) && self.key != ''",
        "message": "give a key, or operator Exists for every taint"
    },
    {
        "rule": "self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "message": "operator Exists takes no value"
    }
])))]
pub struct Toleration {
    /// Key of the taint. Without it, and with operator Exists, every taint is tolerated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 317),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
    )]
    pub key: String,
    /// Equal: the taint has this value. Exists: it may have any.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63), regex(pattern = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"))]
    pub value: String,
    /// Effect of the taint; without it, every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a toleration's value is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum TolerationOperator {
    /// The taint has this value.
    #[default]
    Equal,
    /// It may have any.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum TaintEffect {
    /// Keeps away what does not tolerate it.
    NoSchedule,
    /// The same, if there is another node.
    PreferNoSchedule,
    /// Keeps away what does not tolerate it, and moves away what is there.
    NoExecute,
}

impl TaintEffect {
    /// The name in a taint's `effect`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// What one replica takes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
pub struct Resources {
    /// What one replica is sure to get: the scheduler places no more on a node than there is. CPU is counted against what the node can allocate, memory against the memory limit of its shim. Without it, a replica takes nothing but room for its requests in flight.
    #[serde(default, skip_serializing_if = "Requests::is_empty")]
    pub requests: Requests,
}

impl Resources {
    /// True when nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// Amounts for one replica.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
pub struct Requests {
    /// CPUs, as in `50m` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cpu_schema")]
    pub cpu: Option<Quantity>,
    /// Bytes of memory, as in `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "memory_schema")]
    pub memory: Option<Quantity>,
}

impl Requests {
    /// True when nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none()
    }
}

fn cpu_schema(_: &mut SchemaGenerator) -> Schema {
    amount_schema("CPUs, as in `50m` or `2`.", "1k")
}

fn memory_schema(_: &mut SchemaGenerator) -> Schema {
    amount_schema("Bytes of memory, as in `128Mi`.", "1Ti")
}

/// A quantity as Kubernetes takes it: `2` and `"2"` are the same.
fn amount_schema(description: &str, most: &str) -> Schema {
    json_schema!({
        "description": description,
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": format!("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0 && quantity(string(self)).compareTo(quantity('{most}')) <= 0"),
            "message": format!("must be a quantity from 0 to {most}")
        }]
    })
}
