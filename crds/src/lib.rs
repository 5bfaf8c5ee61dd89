//! The API types of `podless.dev/v1alpha1`: what users write and what the operator answers. No IO.
//!
//! Every field's documentation is what `kubectl explain` prints. The YAML beside this crate is made from these types
//! by `make generate`; CI fails when the two differ.

mod affinity;
mod capabilities;
mod compiler;
mod condition;
mod env;
mod host;
mod node;
mod placement;
mod policy;
mod resolution;
mod scaling;
mod service;
mod status;

pub use affinity::{
    Affinity, FieldOperator, FieldRequirement, LabelOperator, LabelRequirement, NodeAffinity, NodeField, NodeSelector,
    NodeSelectorTerm,
};
pub use capabilities::{Capabilities, Logging, OutboundHttp};
pub use compiler::{Compiler, Optimize};
pub use condition::{ConditionType, Reason, Status, set_condition};
pub use env::{EnvVar, EnvVarSource, KeyRef};
pub use host::Host;
pub use node::{NodeCapacity, NodeColdStart, NodeDensity, ServiceShare, WasmNode, WasmNodeSpec, WasmNodeStatus};
pub use placement::{Requests, Resources, TaintEffect, Toleration, TolerationOperator};
pub use policy::{
    CapabilityCeiling, ImageRule, Keyless, KeylessIdentity, LimitCeiling, PolicySecretRef, PolicyText, SignatureRule,
    WasmPolicy, WasmPolicySpec, WasmPolicyStatus,
};
pub use resolution::{ImageResolution, ResolutionPolicy};
pub use scaling::{MetricType, Scaling, ScalingMetric, ScalingMode, ScalingStatus};
pub use service::{Instance, LocalObjectReference, RevisionSpec, TrafficDistribution, WasmService, WasmServiceSpec};
pub use status::{
    Artifact, ColdStart, Density, Grant, Image, Import, ImportsDiff, PlacementStatus, Quantiles, Shed,
    WasmServiceStatus,
};

/// API group of every Podless kind.
pub const GROUP: &str = "podless.dev";
/// The one field manager under which the operator applies objects.
pub const FIELD_MANAGER: &str = "podless";
/// Label on everything the operator makes for a service; its value is the service's name.
pub const SERVICE_LABEL: &str = "podless.dev/service";
/// Value of `endpointslice.kubernetes.io/managed-by` on the slices that the operator owns.
pub const MANAGED_BY: &str = "podless.dev";
