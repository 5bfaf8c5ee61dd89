//! Who builds when. In: what services want; out: artifacts, made a few at once. No service waits for many others:
//! - those of a namespace that want the same, while they wait, are one build;
//! - a registry that does not answer holds up only what comes from it;
//! - nor do many of them hold up what comes from one that has answered;
//! - a namespace has its share, and no more: what it has pulled waits for a compiler in turns of the pipeline's own.

mod shares;

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
use podless_artifact::{ImageReference, docker_registry};
use podless_crds::Reason;
use tokio::sync::{Semaphore, watch};

use self::shares::Shares;
use super::{Artifacts, Built, Phase, Progress, Rejection, Wanted};
use crate::{metrics::Metrics, wake::ServiceRef};

/// Pulls at once.
const CONCURRENT: usize = 16;
/// The same, for registries that have delivered nothing yet, or did not answer when they were asked last: these wait for the
/// most part.
const STRANGERS: usize = 32;
/// Registries that are known to deliver.
const KNOWN: usize = 1024;
/// Pulls at once from one registry; and builds at once, to their end, of what one namespace has from it.
const PER_REGISTRY: usize = 4;
/// Builds at once of a namespace, to their end, from registries of either kind: more than from one, and less than there are
/// pulls. Each may hold a component on disk.
const PER_NAMESPACE: usize = 6;

type Outcome = Result<Arc<Built>, Rejection>;

/// What is the same for services that may share a build: those of one namespace. Nobody gains by what others may read, nor
/// waits for the turn of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(Wanted);

impl Key {
    /// All that is wanted, but for which service asks, for which revision, and when it is looked at again.
    fn of(wanted: &Wanted) -> Self {
        let namespace = wanted.service.namespace.clone();
        let service = ServiceRef { uid: String::new(), namespace, name: String::new() };
        Self(Wanted { service, revision: String::new(), resolve_every: None, ..wanted.clone() })
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
    /// Of a namespace and a registry.
    own: Shares<(String, String)>,
    /// Of a namespace, and whether the registry delivers.
    namespaces: Shares<(String, bool)>,
    registries: Shares<String>,
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Registries that delivered when they were asked last.
    delivering: Mutex<HashSet<String>>,
    waiting: Mutex<HashMap<Key, Waiting>>,
    metrics: Metrics,
}

impl Turns {
    pub(super) fn new(artifacts: Arc<dyn Artifacts>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            artifacts,
            metrics,
            own: Shares::new(PER_REGISTRY),
            namespaces: Shares::new(PER_NAMESPACE),
            registries: Shares::new(PER_REGISTRY),
            known: Arc::new(Semaphore::new(CONCURRENT)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            delivering: Mutex::default(),
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
        let outcome = self.make(place, wanted, say).await;
        if let Ok(built) = &outcome {
            self.metrics.artifact_made(built.origin);
        }
        outcome
    }

    async fn make(&self, place: Place, wanted: Wanted, say: watch::Sender<Phase>) -> Outcome {
        // What needs no registry waits for none. Signatures lie in one.
        if wanted.signatures.is_empty()
            && let Some(kept) = self.artifacts.kept(wanted.clone()).await
        {
            return kept.map(Arc::new);
        }
        let (namespace, registry) = (&wanted.service.namespace, registry(&wanted.image));
        // First what the namespace itself has: whoever holds what is everybody's waits for none of its own.
        let _own = self.own.take((namespace.clone(), registry.clone())).await;
        let _share = self.namespaces.take((namespace.clone(), self.delivers(&registry))).await;
        let one = self.registries.take(registry.clone()).await;
        let all = if self.delivers(&registry) { &self.known } else { &self.strangers };
        let pull = Mutex::new(Some((one, all.clone().acquire_owned().await)));
        place.begun.store(true, Ordering::Release);
        drop(place);
        let progress: Progress = Arc::new(move |phase| {
            // It is pulled: who is compiled next is not for these turns to say.
            if phase == Phase::Waiting {
                lock(&pull).take();
            }
            say.send_replace(phase);
        });
        let outcome = self.artifacts.build(wanted.clone(), progress.clone()).await.map(Arc::new);
        self.learn(registry, &outcome);
        match outcome {
            Err(rejection) if wanted.permitted && wanted.pinned.is_some() => {
                self.unverified(wanted, rejection, progress).await
            }
            outcome => outcome,
        }
    }

    /// What was permitted before goes on without the signatures that are asked for now, and says so. A registry that is
    /// away, or does not have it any more, takes nothing from who runs either.
    async fn unverified(&self, wanted: Wanted, rejection: Rejection, progress: Progress) -> Outcome {
        if rejection.reason == Reason::Revoked {
            return Err(rejection);
        }
        let unsigned = matches!(rejection.reason, Reason::SignatureMissing | Reason::SignatureInvalid);
        let is_asked_for = !wanted.signatures.is_empty();
        let bare = Wanted { signatures: vec![], ..wanted };
        let found = match self.artifacts.kept(bare.clone()).await {
            None if unsigned => Some(self.artifacts.build(bare, progress).await),
            kept => kept,
        };
        let Some(Ok(built)) = found else { return Err(rejection) };
        Ok(Arc::new(Built { unverified: is_asked_for.then_some(rejection), ..built }))
    }

    fn delivers(&self, registry: &str) -> bool {
        lock(&self.delivering).contains(registry)
    }

    /// Remembers whether the registry has delivered a component: to say no quickly is easy.
    fn learn(&self, registry: String, outcome: &Outcome) {
        let mut delivering = lock(&self.delivering);
        match outcome.as_ref().err().map(|rejection| rejection.reason) {
            Some(Reason::RegistryUnreachable) => {
                delivering.remove(&registry);
            }
            None
            | Some(
                Reason::NoHttpExport
                | Reason::ImportDenied
                | Reason::CoreModule
                | Reason::NotWebAssembly
                | Reason::CompileFailed
                | Reason::CompileLimit,
            ) => {
                if delivering.len() >= KNOWN {
                    delivering.clear();
                }
                delivering.insert(registry);
            }
            _ => {}
        }
    }
}

/// The registry of a reference. What is none asks nobody, and is over soon.
fn registry(image: &str) -> String {
    ImageReference::parse(image, None).map(|reference| docker_registry(reference.registry())).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
