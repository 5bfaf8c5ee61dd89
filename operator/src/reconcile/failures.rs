//! How often services have failed in a row. In: failures and successes; out: how long to wait before the next try.
//! No IO.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::build::backoff;

/// Failures in a row, by the uid of the service.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    fn counts(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait after one more failure of this service.
    pub fn next_wait(&self, uid: &str) -> Duration {
        let mut counts = self.counts();
        let failures = counts.entry(uid.to_owned()).or_default();
        *failures = failures.saturating_add(1);
        backoff(uid, *failures - 1)
    }

    /// The next failure is the first again.
    pub fn succeeded(&self, uid: &str) {
        self.counts().remove(uid);
    }

    /// Forgets services that are not there any more.
    pub fn retain(&self, there: &HashSet<String>) {
        self.counts().retain(|uid, _| there.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_it_succeeds_and_who_is_gone_is_forgotten() {
        let failures = Failures::default();
        let waits: Vec<_> = (0..5).map(|_| failures.next_wait("u")).collect();
        assert_eq!(waits, (0..5).map(|attempt| backoff("u", attempt)).collect::<Vec<_>>());
        failures.succeeded("u");
        assert_eq!(failures.next_wait("u"), waits[0]);
        failures.next_wait("v");
        failures.retain(&HashSet::from(["v".to_owned()]));
        assert_eq!(failures.next_wait("u"), waits[0], "forgotten");
        assert_eq!(failures.next_wait("v"), backoff("v", 1), "still there");
    }
}
