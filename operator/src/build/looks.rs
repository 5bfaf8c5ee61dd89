//! Looking again what a tag means, for who wants that from time to time; and for signatures of what goes on without. In: an
//! artifact that is there; out: another one when the tag has moved, or why it could not be looked. What there is stays
//! meanwhile. IO by the builds; when is pure.

use std::{sync::Arc, time::Duration};

use super::{BuildState, Builds, Built, LAST_RETRY, Wanted, backoff};
use crate::schedule::stable_hash;

/// Share of the interval by which looks are spread, so that services of one age do not ask together for ever.
const SPREAD: f64 = 0.1;
/// Who was told what the tag means does not know when that was looked up, and looks within this time: leaders may change
/// more often than an interval ends.
const SOON: Duration = LAST_RETRY.saturating_mul(2);

/// Between 0 and 1. It is a hash.
fn chance(uid: &str, look: u64) -> f64 {
    stable_hash(&[uid, "look", &look.to_string()]) as f64 / u64::MAX as f64
}

/// How long until the first look: the interval, where the registry has just been asked.
fn until_first(every: Duration, wanted: &Wanted) -> Duration {
    let uid = &wanted.service.uid;
    match wanted.pinned {
        Some(_) => every.min(SOON).mul_f64(1.0 - chance(uid, 0) / 2.0),
        None => until_next(every, uid, 0),
    }
}

/// How long after one look comes the next: the interval, and up to a tenth more by chance.
fn until_next(every: Duration, uid: &str, look: u64) -> Duration {
    every.mul_f64(1.0 + SPREAD * chance(uid, look))
}

impl Builds {
    /// Looks for signatures until what there is has them.
    pub(super) async fn verify_again(&self, wanted: &Wanted) {
        for attempt in 0.. {
            let Some(BuildState::Ready(old)) = self.state_of(wanted) else { return };
            let Some(missing) = &old.unverified else { return };
            let wait = backoff(&wanted.service.uid, attempt).max(missing.retry_after.unwrap_or_default());
            tokio::time::sleep(wait).await;
            let unverified = match self.turns.build(wanted, |_| ()).await {
                Ok(built) => built.unverified.clone(),
                // It is there all the same.
                Err(rejection) => Some(rejection),
            };
            self.metrics.build_ended(unverified.as_ref().map_or("ready", |rejection| rejection.reason.as_str()));
            let Some(BuildState::Ready(now)) = self.state_of(wanted) else { return };
            // The tag may have moved meanwhile.
            if now.digest == old.digest && now.unverified != unverified {
                self.set(wanted, BuildState::Ready(Arc::new(Built { unverified, ..(*now).clone() })));
            }
        }
    }

    /// Looks for as long as it is wanted.
    pub(super) async fn look_again(&self, wanted: &Wanted) {
        let Some(every) = wanted.resolve_every else { return };
        let anew = Wanted { pinned: None, ..wanted.clone() };
        let uid = &wanted.service.uid;
        let (mut wait, mut failures) = (until_first(every, wanted), 0u32);
        for look in 1.. {
            tokio::time::sleep(wait).await;
            let found = self.turns.build(&anew, |_| ()).await;
            self.metrics.build_ended(found.as_ref().map_or_else(|rejection| rejection.reason.as_str(), |_| "ready"));
            wait = until_next(every, uid, look);
            match &found {
                // What may pass by itself costs no whole interval.
                Err(rejection) if rejection.transient => {
                    wait = wait.min(backoff(uid, failures)).max(rejection.retry_after.unwrap_or_default());
                    failures = failures.saturating_add(1);
                }
                Ok(_) | Err(_) => failures = 0,
            }
            let Some(BuildState::Ready(old)) = self.state_of(wanted) else { continue };
            let new = match found {
                Ok(new) if new.digest != old.digest => {
                    let (namespace, service) = (&wanted.service.namespace, &wanted.service.name);
                    tracing::info!(namespace, service, from = old.digest, to = new.digest, "the tag has moved");
                    new
                }
                Ok(new) => Arc::new(Built { unsure: None, unverified: new.unverified.clone(), ..(*old).clone() }),
                Err(rejection) => Arc::new(Built { unsure: Some(rejection.message), ..(*old).clone() }),
            };
            if (&new.digest, &new.unsure, &new.unverified) != (&old.digest, &old.unsure, &old.unverified) {
                self.set(wanted, BuildState::Ready(new));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use podless_crds::Reason;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        build::{Artifacts, Pin, Progress, Rejection, tests::wanted},
        metrics::Metrics,
        reconcile::tests::built,
        wake::Wake,
    };

    #[test]
    fn looks_come_after_the_interval_and_are_spread() {
        let every = Duration::from_secs(600);
        for look in 0..100 {
            let wait = until_next(every, "u", look);
            assert!(wait >= every && wait <= every.mul_f64(1.1), "{look}: {wait:?}");
        }
        assert_ne!(until_next(every, "u", 1), until_next(every, "v", 1));
        assert_ne!(until_next(every, "u", 1), until_next(every, "u", 2));
    }

    /// A tag that moves, and a registry that is away at times. The last answer comes first.
    struct Moving(Mutex<Vec<Result<Built, Rejection>>>);

    impl Artifacts for Moving {
        fn build(&self, wanted: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
            assert_eq!(wanted.pinned, None, "it is to ask the registry");
            let answer = self.0.lock().expect("no panic").pop().expect("another answer");
            Box::pin(async { answer })
        }

        fn kept(&self, wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
            Box::pin(async move { wanted.pinned.map(|_| found("one")) })
        }
    }

    fn found(component: &str) -> Result<Built, Rejection> {
        let BuildState::Ready(built) = built(component) else { unreachable!("it is built") };
        Ok((*built).clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_tag_that_moves_is_followed_and_a_registry_that_is_away_changes_nothing_else() {
        let away = || Rejection::passing(Reason::RegistryUnreachable, "it is away");
        let answers = [found("one"), found("one"), Err(away()), Err(away()), found("one"), found("two"), found("none")];
        // After those in vain the next comes within seconds.
        let looks = answers.len() as u32 - 4;
        let (wake, mut woken) = Wake::new();
        let script = Arc::new(Moving(Mutex::new(answers.into_iter().rev().collect())));
        let builds = Builds::new(script.clone(), wake, Metrics::default());
        let every = Duration::from_secs(600);
        let wanted = Wanted { resolve_every: Some(every), ..wanted("r/a:1", 1) };
        let start = Instant::now();
        builds.ask(wanted.clone());
        let mut seen = vec![];
        while seen.len() < 4 {
            woken.one.recv().await.expect("woken");
            if let BuildState::Ready(built) = builds.ask(wanted.clone()) {
                seen.push((built.digest.clone(), built.unsure.clone()));
            }
        }
        let (one, two) = ("sha256:one".to_owned(), "sha256:two".to_owned());
        assert_eq!(seen, [(one.clone(), None), (one.clone(), Some("it is away".into())), (one, None), (two, None)]);
        let looks = every * looks;
        let most = looks.mul_f64(1.1) + Duration::from_secs(4);
        assert!(start.elapsed() >= looks && start.elapsed() <= most, "{:?}", start.elapsed());
        // Nobody wants to look any more: no further answer is taken.
        builds.ask(Wanted { resolve_every: None, ..wanted });
        tokio::time::sleep(every * 3).await;
        assert_eq!(script.0.lock().expect("no panic").len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_looks_soon_and_a_registry_that_is_busy_is_left_alone() {
        let (every, busy) = (Duration::from_secs(7 * 86_400), Duration::from_secs(3600));
        let away =
            Rejection { retry_after: Some(busy), ..Rejection::passing(Reason::RegistryUnreachable, "it is away") };
        let answers = vec![found("three"), found("two"), Err(away)];
        let (wake, mut woken) = Wake::new();
        let builds = Builds::new(Arc::new(Moving(Mutex::new(answers))), wake, Metrics::default());
        let pinned = Pin { digest: "sha256:one".into(), manifest: None, component: "one".into(), size: 5 };
        let wanted = Wanted { resolve_every: Some(every), pinned: Some(pinned), ..wanted("r/a:1", 1) };
        let start = Instant::now();
        builds.ask(wanted.clone());
        let mut seen = vec![];
        while seen.last().is_none_or(|(digest, _, _)| digest != "sha256:three") {
            woken.one.recv().await.expect("woken");
            if let BuildState::Ready(built) = builds.ask(wanted.clone()) {
                seen.push((built.digest.clone(), built.unsure.is_some(), start.elapsed()));
            }
        }
        let (one, two) = ("sha256:one".to_owned(), "sha256:two".to_owned());
        let said: Vec<_> = seen.iter().map(|(digest, unsure, _)| (digest.clone(), *unsure)).collect();
        assert_eq!(said[..3], [(one.clone(), false), (one, true), (two, false)]);
        let at = |look: usize| seen[look].2;
        assert!(at(1) <= SOON && at(2) >= at(1) + busy && at(2) <= at(1) + busy * 2, "{seen:?}");
        assert!(at(3) >= at(2) + every, "{seen:?}");
    }
}
