//! What is decided for a service, and how it is said. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
pub use podless_crds::ScalingMode as Mode;
use podless_crds::{MetricType, Scaling, ScalingStatus};

/// How many replicas there are to be: the figures are those by which it was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Their number; 0 is parked.
    pub desired: u32,
    /// Stable, Panic or Parked.
    pub mode: Mode,
    /// How much there was of what is measured.
    pub current: f64,
    /// How much of it one replica is to take.
    pub target: f64,
    /// Why it is this number.
    pub why: Why,
}

/// Why there are as many replicas as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The mean over the window wants them.
    Load,
    /// A sudden load wanted them.
    Burst,
    /// A request came while it was parked.
    Woken,
    /// Nothing is asked of it.
    Idle,
    /// There are never fewer.
    Minimum,
    /// There are never more.
    Maximum,
    /// They were there, and it is not known for long enough that fewer would do.
    Kept,
}

impl Decision {
    /// What status says of it. `last_scale_time` is when the number was last changed.
    pub fn status(&self, scaling: &Scaling, last_scale_time: Option<Time>) -> ScalingStatus {
        ScalingStatus {
            mode: self.mode,
            metric: scaling.metric.kind,
            current: amount(scaling.metric.kind, self.current),
            target: amount(scaling.metric.kind, self.target),
            reason: self.sentence(scaling),
            last_scale_time,
        }
    }

    /// Why, for people.
    pub fn sentence(&self, scaling: &Scaling) -> String {
        let kind = scaling.metric.kind;
        let unit = match kind {
            MetricType::Concurrency => "requests in flight",
            MetricType::Rps => "requests a second",
            MetricType::Cpu => "of CPU",
        };
        let (load, window) = (format!("{} {unit}", amount(kind, self.current)), scaling.window_seconds);
        let each = amount(kind, self.target);
        match self.why {
            Why::Load => format!("{load} on average over {window}s, {each} for each replica"),
            Why::Burst => format!("a burst of {load}, {each} for each replica: none goes for {window}s"),
            Why::Woken => "a request came while it was parked".to_owned(),
            Why::Idle => "nothing is asked of it: the first request loads it".to_owned(),
            Why::Minimum => format!("minReplicas; there were {load}"),
            Why::Maximum => format!("maxReplicas; there were {load}, {each} for each replica"),
            Why::Kept => "they were there, and it is not known for long enough that fewer would do".to_owned(),
        }
    }
}

/// How much of what is measured: of CPU as Kubernetes writes it.
fn amount(kind: MetricType, n: f64) -> String {
    match kind {
        MetricType::Concurrency | MetricType::Rps => figure(n),
        MetricType::Cpu => format!("{n:.0}m"),
    }
}

/// A number for people: as precise as it matters.
fn figure(n: f64) -> String {
    let text = if n < 10.0 { format!("{n:.2}") } else { format!("{n:.0}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use podless_crds::ScalingMetric;

    use super::*;

    #[test]
    fn figures_are_as_precise_as_it_matters() {
        for (n, want) in [(0.0, "0"), (0.254, "0.25"), (2.5, "2.5"), (9.999, "10"), (70.0, "70"), (1234.5, "1234")] {
            assert_eq!(figure(n), want);
        }
    }

    #[test]
    fn why_is_said_with_the_figures_that_led_to_it() {
        let said = |why, current| {
            let decision = Decision { desired: 5, mode: Mode::Stable, current, target: 70.0, why };
            decision.status(&Scaling::default(), None)
        };
        let status = said(Why::Load, 312.4);
        assert_eq!((&*status.current, &*status.target), ("312", "70"));
        assert_eq!(status.reason, "312 requests in flight on average over 60s, 70 for each replica");
        assert_eq!(
            said(Why::Burst, 9.5).reason,
            "a burst of 9.5 requests in flight, 70 for each replica: none goes for 60s"
        );
        let metric = ScalingMetric { kind: MetricType::Cpu, utilization: None, value: Some(500) };
        let scaling = Scaling { metric, ..Scaling::default() };
        let decision = Decision { desired: 3, mode: Mode::Stable, current: 1250.3, target: 500.0, why: Why::Load };
        let status = decision.status(&scaling, None);
        assert_eq!((&*status.current, &*status.target), ("1250m", "500m"));
        assert_eq!(status.reason, "1250m of CPU on average over 60s, 500m for each replica");
    }
}
