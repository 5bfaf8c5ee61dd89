//! Which services are reconciled first. In: a service that is due; out: a permit, when it is its turn. No IO.
//!
//! Many that are new or broken must not hold up one that serves or is about to: some turns are kept for those.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Reconciles at once.
const ALL: usize = 16;
/// Further ones, for services that have an artifact.
const KEPT: usize = 8;

/// The turns.
pub struct Lanes {
    all: Semaphore,
    kept: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { all: Semaphore::new(ALL), kept: Semaphore::new(KEPT) }
    }
}

impl Lanes {
    /// Waits for a turn; `None` never comes, for the lanes are never closed.
    pub async fn turn(&self, has_artifact: bool) -> Option<SemaphorePermit<'_>> {
        if !has_artifact {
            return self.all.acquire().await.ok();
        }
        tokio::select! {
            biased;
            permit = self.all.acquire() => permit.ok(),
            permit = self.kept.acquire() => permit.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_has_an_artifact_does_not_wait_for_many_who_have_none() {
        let lanes = Lanes::default();
        let mut held = vec![];
        for _ in 0..ALL {
            held.push(lanes.turn(false).now_or_never().expect("a turn"));
        }
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(lanes.turn(false))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()), "they wait");
        for _ in 0..KEPT {
            held.push(lanes.turn(true).now_or_never().expect("a turn"));
        }
        assert!(lanes.turn(true).now_or_never().is_none(), "they are bounded, too");
        drop(waiting);
        held.clear();
        assert!(lanes.turn(false).now_or_never().is_some());
    }
}
