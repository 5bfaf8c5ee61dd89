//! `spec.scaling`: how many replicas there are when nobody says so. The meanings are those of Knative's autoscaler.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How the number of replicas follows the load, from and to zero.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "self.minReplicas <= self.maxReplicas",
        "message": "minReplicas is more than maxReplicas"
    },
    {
        "rule": "!has(self.panicWindowSeconds) || self.panicWindowSeconds <= self.windowSeconds",
        "message": "panicWindowSeconds is more than windowSeconds"
    }
])))]
pub struct Scaling {
    /// Fewest replicas. With 0 the service is parked when nothing is asked of it: it keeps its address, no memory is used, and the first request loads it.
    #[schemars(range(min = 0, max = 10000))]
    pub min_replicas: i32,
    /// Most replicas.
    #[schemars(range(min = 1, max = 10000))]
    pub max_replicas: i32,
    /// What is measured, and how much of it one replica is to take.
    pub metric: ScalingMetric,
    /// Seconds over which the load is averaged.
    #[schemars(range(min = 6, max = 3600))]
    pub window_seconds: i32,
    /// Seconds over which a sudden load is averaged: when that asks for twice the replicas there are, they come at once, and none goes for windowSeconds. Without it, a tenth of windowSeconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<i32>", range(min = 1, max = 3600))]
    pub panic_window_seconds: Option<i32>,
    /// Within two seconds, replicas become at most this many times more.
    #[schemars(range(min = 2, max = 10000))]
    pub scale_up_rate: i32,
    /// Within two seconds, replicas become at most this many times fewer.
    #[schemars(range(min = 2, max = 10000))]
    pub scale_down_rate: i32,
    /// Seconds for which fewer replicas must have been enough before there are fewer.
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_delay_seconds: i32,
    /// Seconds without a request after which the service is parked, two at least; only with minReplicas 0.
    #[schemars(range(min = 0, max = 86400))]
    pub scale_to_zero_after_seconds: i32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min_replicas: 0,
            max_replicas: 20,
            metric: ScalingMetric::default(),
            window_seconds: 60,
            panic_window_seconds: None,
            scale_up_rate: 1000,
            scale_down_rate: 2,
            scale_down_delay_seconds: 0,
            scale_to_zero_after_seconds: 30,
        }
    }
}

impl Scaling {
    /// `maxReplicas`.
    pub fn most(&self) -> u32 {
        u32::try_from(self.max_replicas).unwrap_or(0).max(1)
    }

    /// `minReplicas`.
    pub fn least(&self) -> u32 {
        u32::try_from(self.min_replicas).unwrap_or(0)
    }
}

// A null is refused by the field's name: it would be a field that is there to the rules, and none to us.
pub(crate) fn not_null<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// What is measured, and how much of it one replica is to take.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[schemars(extend("x-kubernetes-validations" = json!([
    {
        "rule": "!(has(self.utilization) && has(self.value))",
        "message": "give utilization or value, not both"
    },
    {
        "rule": "self.type != 'RPS' || has(self.value)",
        "message": "type RPS needs value: the requests a second that one replica is to take"
    },
    {
        "rule": "self.type != 'CPU' || !has(self.value) || self.value >= 10",
        "message": "value of CPU is in thousandths: 1000 is one CPU, 10 is the least",
        "fieldPath": ".value"
    }
])))]
pub struct ScalingMetric {
    /// Concurrency: requests in flight, those that wait among them. RPS: requests that begin in a second. CPU: what the instances take of CPUs.
    #[serde(rename = "type", default)]
    pub kind: MetricType,
    /// Percent that one replica is to take on average: of `concurrency`, or with type CPU of `resources.requests.cpu`; 70 when there is no value either. Not for type RPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<i32>", range(min = 1, max = 100))]
    pub utilization: Option<i32>,
    /// Requests in flight, requests a second, or thousandths of a CPU (1000 is one, 10 the least), that one replica is to take on average. More than `concurrency` in flight counts as `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "not_null::<i32>", range(min = 1, max = 1_000_000))]
    pub value: Option<i32>,
}

/// What the number of replicas follows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum MetricType {
    /// Requests in flight, those that wait among them.
    #[default]
    Concurrency,
    /// Requests that begin in a second.
    #[serde(rename = "RPS")]
    Rps,
    /// What the instances take of CPUs.
    #[serde(rename = "CPU")]
    Cpu,
}

/// What the operator has decided, and by what. It changes with a decision, not with a request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Stable: the load over the window decides. Panic: a sudden load did, and no replica goes for a window. Parked: scaled to zero.
    pub mode: ScalingMode,
    /// What was measured.
    pub metric: MetricType,
    /// How much of it there was when this was decided, all replicas together; of CPU as in `1250m`.
    pub current: String,
    /// How much of it one replica is to take.
    pub target: String,
    /// Why there are as many replicas as there are.
    pub reason: String,
    /// When their number was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
}

/// How a number of replicas came to be.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ScalingMode {
    /// The load over the window decided.
    Stable,
    /// A sudden load decided: no replica goes for a window.
    Panic,
    /// Scaled to zero: the first request loads it.
    Parked,
}
