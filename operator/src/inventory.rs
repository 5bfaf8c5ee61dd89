//! How far the artifacts of all services are: after an upgrade of the engine, all of them are made anew. In: what has become
//! of each; out: a metric, and a line in the log each tenth of the way. IO; [`Inventory`] and [`tenth`] are pure.

use std::{sync::Arc, time::Duration};

use crate::{
    build::{BuildState, Builds},
    link::Hub,
    metrics::Metrics,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// Services by what has become of their artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// It is there.
    pub ready: usize,
    /// It is being made, or waits for its turn.
    pub pending: usize,
    /// There is none, and status says why.
    pub rejected: usize,
}

impl Inventory {
    /// Counts; who was not asked for yet is still to come.
    pub fn of(states: impl Iterator<Item = Option<BuildState>>) -> Self {
        let mut all = Self::default();
        for state in states {
            match state {
                Some(BuildState::Ready(_)) => all.ready += 1,
                Some(BuildState::Rejected(_)) => all.rejected += 1,
                Some(BuildState::Pending(_)) | None => all.pending += 1,
            }
        }
        all
    }

    fn total(self) -> usize {
        self.ready + self.pending + self.rejected
    }
}

/// Tenths of the way that are done: ten when nothing is to come any more.
fn tenth(inventory: Inventory) -> usize {
    let done = inventory.ready + inventory.rejected;
    (done * 10).checked_div(inventory.total()).unwrap_or(10)
}

/// Tells for as long as this replica leads; in the log, until everything has been there once.
pub async fn tell(hub: Arc<Hub>, builds: Arc<Builds>, metrics: Metrics) -> std::convert::Infallible {
    let (mut interval, mut told) = (tokio::time::interval(LOOK), 0);
    loop {
        interval.tick().await;
        let inventory = Inventory::of(hub.service_uids().iter().map(|uid| builds.state(uid)));
        metrics.inventory(inventory);
        let now = tenth(inventory);
        if now > told {
            told = now;
            let Inventory { ready, pending, rejected } = inventory;
            tracing::info!(ready, pending, rejected, "artifacts for this engine: {}%", now * 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Phase;

    #[test]
    fn who_is_waited_for_is_counted_and_tenths_are_those_of_all() {
        let pending = || Some(BuildState::Pending(Phase::Resolving));
        let inventory = Inventory::of([pending(), None, pending()].into_iter());
        assert_eq!(inventory, Inventory { pending: 3, ..Inventory::default() });
        for (ready, pending, rejected, want) in [(0, 0, 0, 10), (0, 3, 0, 0), (1, 2, 0, 3), (1, 1, 1, 6), (2, 0, 1, 10)]
        {
            assert_eq!(tenth(Inventory { ready, pending, rejected }), want);
        }
    }
}
