//! How many replicas there should be, and who says so. In: the spec, and what was decided by load; out: a number, and
//! the requests in flight that each node takes. Pure.

use podless_crds::{Scaling, WasmServiceSpec};

use crate::autoscale::Decision;

/// How many replicas there should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    /// The spec says it; 0 is stopped.
    Fixed(u32),
    /// The load says it; 0 is parked.
    Scaled(Scaling, Decision),
}

impl Demand {
    /// What the spec says; where it leaves that to the load, what is decided.
    pub fn of(spec: &WasmServiceSpec, decided: Option<Decision>) -> Self {
        match spec.scaling().zip(decided) {
            Some((scaling, decision)) => Self::Scaled(scaling, decision),
            None => Self::Fixed(spec.fixed_replicas().unwrap_or(0)),
        }
    }

    /// The number.
    pub fn wanted(&self) -> u32 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Scaled(_, decision) => decision.desired,
        }
    }

    /// Whether the load says it.
    pub fn is_scaled(&self) -> bool {
        matches!(self, Self::Scaled(..))
    }

    /// The fewest replicas while it is not parked, where the load says how many.
    pub fn least(&self) -> Option<u32> {
        match self {
            Self::Fixed(_) => None,
            Self::Scaled(scaling, _) => Some(scaling.least().max(1)),
        }
    }

    /// Whether it is scaled to zero: the first request is to load it.
    pub fn is_parked(&self) -> bool {
        matches!(self, Self::Scaled(_, Decision { desired: 0, .. }))
    }

    /// Requests in flight that a node takes, which has so many of the replicas. Where the load decides, each takes all
    /// that there may ever be: load comes before replicas do, and connections do not move when they come. A share that
    /// falls with every node that joins would refuse what was served before.
    pub fn budget(&self, replicas: u32, concurrency: u32) -> u32 {
        let replicas = match self {
            Self::Fixed(_) => replicas,
            Self::Scaled(scaling, _) => scaling.most(),
        };
        replicas.saturating_mul(concurrency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscale::{Mode, Why};

    #[test]
    fn where_the_load_decides_a_node_takes_all_that_may_be() {
        let scaled = |desired, max_replicas| {
            let decision = Decision { desired, mode: Mode::Stable, current: 0.0, target: 70.0, why: Why::Load };
            Demand::Scaled(Scaling { max_replicas, ..Scaling::default() }, decision)
        };
        for (demand, replicas, want) in [
            (Demand::Fixed(3), 2, 200),
            (Demand::Fixed(0), 0, 0),
            (scaled(0, 20), 0, 2000),
            (scaled(3, 20), 1, 2000),
            (scaled(20, 20), 2, 2000),
        ] {
            assert_eq!(demand.budget(replicas, 100), want, "{demand:?}");
        }
        assert!(scaled(0, 20).is_parked() && !scaled(1, 20).is_parked() && !Demand::Fixed(0).is_parked());
    }
}
