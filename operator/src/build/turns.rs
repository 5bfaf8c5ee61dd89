//! Who builds when. In: what services want; out: artifacts, made a few at once. No service waits for many others:
//! - those that want the same, while they wait, are one build;
//! - a registry that does not answer holds up only what comes from it;
//! - nor do many of them hold up what comes from one that has answered.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use podless_crds::Reason;
use tokio::sync::{Semaphore, watch};

use super::{Artifacts, Built, Phase, Rejection, Wanted};

/// Builds at once: they mostly wait for registries; the pipeline itself compiles one at a time. Each may hold a
/// component on disk.
const CONCURRENT: usize = 16;
/// The same, for registries that have not answered yet, or did not when they were asked last: these wait for the most part.
const STRANGERS: usize = 32;
/// Registries that are known to answer.
const KNOWN: usize = 1024;
/// The same, for one registry.
const PER_REGISTRY: usize = 4;

type Outcome = Result<Arc<Built>, Rejection>;

/// What is the same for services that may share a build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    pinned: Option<String>,
    /// With the namespace that they are in: nobody gains by what others may read.
    pull_secrets: Option<(String, Vec<String>)>,
    logging: bool,
    outbound_http: bool,
}

impl Key {
    fn of(wanted: &Wanted) -> Self {
        let Wanted { service, image, generation: _, pinned, pull_secrets, logging, outbound_http } = wanted.clone();
        let pull_secrets = (!pull_secrets.is_empty()).then_some((service.namespace, pull_secrets));
        Self { image, pinned, pull_secrets, logging, outbound_http }
    }
}

/// A build that has not begun, and may be joined: whoever joins it sees what the registry has after that.
struct Waiting {
    begun: Arc<AtomicBool>,
    phase: watch::Receiver<Phase>,
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
}

/// A place among those that may be joined; it is given up when the build begins, or when nobody waits for it any more.
struct Place {
    turns: Arc<Turns>,
    key: Key,
    begun: Arc<AtomicBool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.turns.waiting);
        if waiting.get(&self.key).is_some_and(|other| Arc::ptr_eq(&other.begun, &self.begun)) {
            waiting.remove(&self.key);
        }
    }
}

/// Makes artifacts, a few at once.
pub(super) struct Turns {
    artifacts: Arc<dyn Artifacts>,
    known: Semaphore,
    strangers: Semaphore,
    /// Registries that answered when they were asked last.
    answering: Mutex<HashSet<String>>,
    registries: Mutex<HashMap<String, Arc<Semaphore>>>,
    waiting: Mutex<HashMap<Key, Waiting>>,
}

impl Turns {
    pub(super) fn new(artifacts: Arc<dyn Artifacts>) -> Arc<Self> {
        Arc::new(Self {
            artifacts,
            known: Semaphore::new(CONCURRENT),
            strangers: Semaphore::new(STRANGERS),
            answering: Mutex::default(),
            registries: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// Builds, when it is this one's turn. The work ends when everyone who waits for it is gone.
    pub(super) async fn build(self: &Arc<Self>, wanted: &Wanted, progress: impl Fn(Phase)) -> Outcome {
        let (mut outcome, mut phase) = self.join(wanted);
        loop {
            tokio::select! {
                biased;
                outcome = &mut outcome => return outcome,
                // Its other end goes with the build.
                Ok(()) = phase.changed() => progress(*phase.borrow_and_update()),
            }
        }
    }

    fn join(self: &Arc<Self>, wanted: &Wanted) -> (Shared<BoxFuture<'static, Outcome>>, watch::Receiver<Phase>) {
        let key = Key::of(wanted);
        let mut waiting = lock(&self.waiting);
        if let Some(Waiting { begun, phase, outcome }) = waiting.get(&key)
            && !begun.load(Ordering::Acquire)
            && let Some(outcome) = outcome.upgrade()
        {
            return (outcome, phase.clone());
        }
        let (say, phase) = watch::channel(Phase::Resolving);
        let begun = Arc::new(AtomicBool::new(false));
        let place = Place { turns: self.clone(), key: key.clone(), begun: begun.clone() };
        let outcome = self.clone().turn(place, wanted.clone(), say).boxed().shared();
        if let Some(weak) = outcome.downgrade() {
            waiting.insert(key, Waiting { begun, phase: phase.clone(), outcome: weak });
        }
        (outcome, phase)
    }

    async fn turn(self: Arc<Self>, place: Place, wanted: Wanted, say: watch::Sender<Phase>) -> Outcome {
        let host = host(&wanted.image).to_owned();
        let registry = self.registry(&host);
        // Neither is ever closed.
        let _one = registry.acquire().await;
        let answers = lock(&self.answering).contains(&host);
        let _all = if answers { &self.known } else { &self.strangers }.acquire().await;
        place.begun.store(true, Ordering::Release);
        drop(place);
        let progress = Arc::new(move |phase| {
            say.send_replace(phase);
        });
        let outcome = self.artifacts.build(wanted, progress).await.map(Arc::new);
        self.learn(host, &outcome);
        outcome
    }

    /// Remembers whether the registry has answered.
    fn learn(&self, host: String, outcome: &Outcome) {
        let mut answering = lock(&self.answering);
        match outcome.as_ref().err().map(|rejection| rejection.reason) {
            Some(Reason::RegistryUnreachable) => {
                answering.remove(&host);
            }
            // It was not asked, or nobody knows.
            Some(Reason::InvalidReference | Reason::PullSecretInvalid | Reason::InternalError) => {}
            _ => {
                if answering.len() >= KNOWN {
                    answering.clear();
                }
                answering.insert(host);
            }
        }
    }

    /// The turns of one registry; those that nobody waits for are forgotten.
    fn registry(&self, host: &str) -> Arc<Semaphore> {
        let mut registries = lock(&self.registries);
        registries.retain(|_, turns| Arc::strong_count(turns) > 1);
        registries.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PER_REGISTRY))).clone()
    }
}

/// The registry of a reference, or its first part: what is no registry is one of its own.
fn host(image: &str) -> &str {
    image.split('/').next().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{build::Progress, wake::ServiceRef};
    use std::time::Duration;

    /// Says no, after a second; or nothing, when the registry is called `dead`. Remembers what it was asked.
    #[derive(Default)]
    struct Slow(Mutex<Vec<String>>);

    impl Artifacts for Slow {
        fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
            lock(&self.0).push(wanted.image.clone());
            async move {
                progress(Phase::Pulling(50));
                tokio::time::sleep(Duration::from_secs(1)).await;
                if wanted.image.starts_with("dead") {
                    std::future::pending::<()>().await;
                }
                Err(Rejection { reason: Reason::CoreModule, message: "no".into(), transient: false })
            }
            .boxed()
        }
    }

    fn wanted(service: usize, image: &str) -> Wanted {
        let service = ServiceRef { uid: service.to_string(), namespace: "n".into(), name: service.to_string() };
        let (image, pull_secrets) = (image.to_owned(), vec![]);
        Wanted { service, image, generation: 1, pinned: None, pull_secrets, logging: false, outbound_http: false }
    }

    fn ask(turns: &Arc<Turns>, wanted: Wanted) -> tokio::task::JoinHandle<(bool, Vec<Phase>)> {
        let turns = turns.clone();
        tokio::spawn(async move {
            let phases = Mutex::new(vec![]);
            let outcome = turns.build(&wanted, |phase| lock(&phases).push(phase)).await;
            (outcome.is_ok(), phases.into_inner().expect("no panic"))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_never_answers_holds_up_nobody_else() {
        let slow = Arc::new(Slow::default());
        let turns = Turns::new(slow.clone());
        let dead: Vec<_> = (0..500).map(|i| ask(&turns, wanted(i, &format!("dead/a:{i}")))).collect();
        let good = ask(&turns, wanted(1000, "alive/a:1"));
        assert_eq!(good.await.expect("no panic").1, [Phase::Pulling(50)]);
        let asked = lock(&slow.0).clone();
        assert_eq!(asked.iter().filter(|image| image.starts_with("dead/")).count(), PER_REGISTRY, "{asked:?}");
        dead.iter().for_each(tokio::task::JoinHandle::abort);
        for dead in dead {
            assert!(dead.await.is_err_and(|error| error.is_cancelled()));
        }
        // Their turns are free again.
        assert_eq!(turns.registry("dead").available_permits(), PER_REGISTRY);

        // Five hundred such registries: who comes from one that has answered does not wait.
        let _dead: Vec<_> = (0..500).map(|i| ask(&turns, wanted(i, &format!("dead-{i}/a:1")))).collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        ask(&turns, wanted(1000, "alive/a:2")).await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_the_same_while_it_waits_is_served_together() {
        let slow = Arc::new(Slow::default());
        let turns = Turns::new(slow.clone());
        let first = ask(&turns, wanted(0, "r/a:1"));
        // It has begun: what the registry had then may not be what others want now.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let rest: Vec<_> = (1..500).map(|i| ask(&turns, wanted(i, "r/a:1"))).collect();
        for other in [first].into_iter().chain(rest) {
            assert_eq!(other.await.expect("no panic"), (false, vec![Phase::Pulling(50)]));
        }
        let asked = lock(&slow.0).len();
        assert!(asked <= PER_REGISTRY + 1, "{asked} builds for 500 services");
        let private = |i, namespace: &str| {
            let mut wanted = wanted(i, "r/a:1");
            wanted.service.namespace = namespace.to_owned();
            wanted.pull_secrets = vec!["regcred".to_owned()];
            wanted
        };
        for other in [private(0, "a"), private(1, "b"), private(2, "b")].map(|wanted| ask(&turns, wanted)) {
            other.await.expect("no panic");
        }
        assert_eq!(lock(&slow.0).len(), asked + 3, "what one namespace may read is not for another");
        assert!(lock(&turns.waiting).is_empty());
    }
}
