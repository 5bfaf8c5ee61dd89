//! How much one replica is to take of what is measured. In: the settings, and what a replica is; out: a number in the
//! metric's unit. Pure.

use podless_crds::{MetricType, Scaling, WasmServiceSpec};

use crate::reconcile::quantity;

/// Percent that one replica is to take, if nothing else is said.
const UTILIZATION: i32 = 70;

/// What one replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// Requests in flight that it takes.
    pub(super) concurrency: u32,
    /// Thousandths of a CPU that are requested for it; 0 when none are.
    pub(super) cpu_millis: u64,
}

impl Replica {
    /// A replica of a service.
    pub(super) fn of(spec: &WasmServiceSpec) -> Self {
        let cpu = spec.resources.requests.cpu.as_ref();
        // What is no quantity is told where the service is planned.
        let cpu_millis = cpu.and_then(|cpu| quantity::millis(&cpu.0)).unwrap_or(0);
        Self { concurrency: spec.revision.concurrency(), cpu_millis }
    }

    /// How much it is to take: requests in flight, requests a second, or thousandths of a CPU.
    pub(super) fn target(self, scaling: &Scaling) -> f64 {
        let metric = &scaling.metric;
        let concurrency = f64::from(self.concurrency);
        let value = metric.value.map(|value| f64::from(value.max(1)));
        let percent = f64::from(metric.utilization.unwrap_or(UTILIZATION).clamp(1, 100)) / 100.0;
        match metric.kind {
            MetricType::Concurrency => value.map_or(concurrency * percent, |value| value.min(concurrency)),
            MetricType::Rps => value.unwrap_or(1.0),
            // The API server has seen to it that there is a value or a request.
            MetricType::Cpu => value.unwrap_or((self.cpu_millis.max(1)) as f64 * percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use podless_crds::ScalingMetric;

    use super::*;

    #[test]
    fn what_one_replica_is_to_take() {
        let metric = |kind, utilization, value| ScalingMetric { kind, utilization, value };
        for (metric, want) in [
            (ScalingMetric::default(), 70.0),
            (metric(MetricType::Concurrency, Some(50), None), 50.0),
            (metric(MetricType::Concurrency, None, Some(7)), 7.0),
            (metric(MetricType::Concurrency, None, Some(700)), 100.0),
            (metric(MetricType::Rps, None, Some(700)), 700.0),
            (metric(MetricType::Cpu, None, Some(700)), 700.0),
            (metric(MetricType::Cpu, Some(50), None), 125.0),
            (metric(MetricType::Cpu, None, None), 175.0),
        ] {
            let spec = serde_json::json!({
                "image": "i", "concurrency": 100, "resources": {"requests": {"cpu": "250m"}},
                "scaling": Scaling { metric, ..Scaling::default() },
            });
            let spec: WasmServiceSpec = serde_json::from_value(spec).expect("a spec");
            let scaling = spec.scaling().expect("it is scaled");
            assert!((Replica::of(&spec).target(&scaling) - want).abs() < 1e-9, "{scaling:?}");
        }
    }
}
