//! `spec.affinity`: nodes that a service may be placed on, by expressions. Names and meanings are a Pod's.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Which nodes may serve this.
///
/// What a Pod may have beside it is pruned by the API server; were these optional, what is left would ask for nothing, unseen.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Which nodes, by what they are.
    pub node_affinity: NodeAffinity,
}

/// Which nodes, by what they are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// What a node must match to serve this. The name is a Pod's; unlike a Pod, a service also moves when its node matches no longer, as with nodeSelector.
    pub required_during_scheduling_ignored_during_execution: NodeSelector,
}

/// Terms of which a node must match one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// A node must match one of these terms.
    #[schemars(length(min = 1, max = 16))]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Requirements that a node must meet, all of them. A term without any is met by none.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// What is required of the node's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelRequirement>,
    /// What is required of the node's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_fields: Vec<FieldRequirement>,
}

/// What is required of one label.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "!(self.operator in ['In', 'NotIn']) || has(self.values) && self.values.size() > 0",
        "message": "operators In and NotIn need values",
        "fieldPath": ".values"
    },
    {
        "rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
        "message": "operators Exists and DoesNotExist take no values",
        "fieldPath": ".values"
    },
    {
        "rule": "!(self.operator in ['Gt', 'Lt']) || has(self.values) && self.values.size() == 1 && self.values[0].matches('^[0-9]{1,18}$')",
        "message": "operators Gt and Lt need one value, a whole number from 0",
        "fieldPath": ".values"
    }
])))]
pub struct LabelRequirement {
    /// Key of the label.
    #[schemars(
        length(min = 1, max = 317),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub key: String,
    /// In: the label has one of the values. NotIn: it has none of them, or is not there. Exists: it is there. DoesNotExist: it is not. Gt, Lt: it is an integer above, or below, the value.
    pub operator: LabelOperator,
    /// Values that the label is compared with: some for In and NotIn, one whole number from 0 for Gt and Lt, none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "label_values_schema")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is an integer above the value.
    Gt,
    /// It is an integer below the value.
    Lt,
}

/// What is required of a field of the Node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct FieldRequirement {
    /// Which field: metadata.name.
    pub key: NodeField,
    /// In: it is the value. NotIn: it is not.
    pub operator: FieldOperator,
    /// One value.
    #[schemars(schema_with = "field_values_schema")]
    pub values: Vec<String>,
}

/// A field of a Node by which it can be chosen.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum NodeField {
    /// Its name.
    #[serde(rename = "metadata.name")]
    Name,
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum FieldOperator {
    /// It is the value.
    In,
    /// It is not the value.
    NotIn,
}

fn label_values_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "description": "Value of the label.",
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
        }
    })
}

fn field_values_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "items": {
            "description": "Name of a node.",
            "type": "string",
            "maxLength": 253,
            "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
        }
    })
}
