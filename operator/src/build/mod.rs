//! The queue of artifact builds. In: what services want; out: what has become of it, at once. A reconcile never waits
//! for a compiler: it asks, and is woken when there is news.
//!
//! One build per service: a newer wish ends the older one, and services that want the same while they wait get it
//! together (see `turns`). What may pass by itself is tried again with exponential backoff and jitter; a user's mistake
//! waits for the user.

mod pipeline;
mod pull_secret;
mod turns;

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use podless_artifact::seal::{Seal, Sealed};
use podless_crds::{Import, Reason};
use tokio::task::AbortHandle;

pub use pipeline::Registry;

use turns::Turns;

use crate::{
    metrics::Metrics,
    schedule::stable_hash,
    trust::Signing,
    wake::{ServiceRef, Wake},
};

/// Wait before the first retry; it doubles from one to the next.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two retries.
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(300);

/// Machine code in the operator's cache, open.
#[derive(Debug)]
pub struct Code {
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// The file: it can be read even after the cache has evicted it.
    pub file: File,
}

/// A sealed artifact and what was found on the way to it.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the image's manifest.
    pub digest: String,
    /// Size of the component in bytes.
    pub component_size: u64,
    /// The component's imports, with what was granted.
    pub imports: Vec<Import>,
    /// The facts that were sealed.
    pub seal: Seal,
    /// The same, signed: what a shim is given.
    pub sealed: Sealed,
    /// Milliseconds that the compilation took when it was made.
    pub compile_millis: u64,
    /// The machine code.
    pub code: Arc<Code>,
}

/// Why there is no artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The stable name.
    pub reason: Reason,
    /// A sentence that tells the user what to do.
    pub message: String,
    /// Whether it may pass by itself, without a change of the object.
    pub transient: bool,
}

/// How far a build has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn, or the registry is being asked.
    Resolving,
    /// The component comes in: percent.
    Pulling(u8),
    /// It is being audited and compiled.
    Compiling,
}

/// What has become of a wish.
#[derive(Clone, Debug)]
pub enum BuildState {
    /// Not done yet.
    Pending(Phase),
    /// There is an artifact.
    Ready(Arc<Built>),
    /// There is none.
    Rejected(Rejection),
}

/// What a service wants built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For whom.
    pub service: ServiceRef,
    /// The reference as it is in the spec.
    pub image: String,
    /// `metadata.generation`: a tag is resolved once for each.
    pub generation: i64,
    /// The digest that an earlier leader resolved this generation's reference to.
    pub pinned: Option<String>,
    /// Names of secrets with credentials.
    pub pull_secrets: Vec<String>,
    /// Whether wasi:logging is granted.
    pub logging: bool,
    /// Whether requests to other servers are granted.
    pub outbound_http: bool,
}

impl Wanted {
    /// Whether the same artifact answers both. A pin is where this very wish has led to, so it makes no other.
    fn same(&self, other: &Self) -> bool {
        // A digest means the same in every generation.
        let generation = self.generation == other.generation || self.image.contains('@');
        let Self { service, image, generation: _, pinned: _, pull_secrets, logging, outbound_http } = other;
        generation
            && (service, image, pull_secrets) == (&self.service, &self.image, &self.pull_secrets)
            && (logging, outbound_http) == (&self.logging, &self.outbound_http)
    }
}

/// Called while a build goes on.
pub type Progress = Arc<dyn Fn(Phase) + Send + Sync>;

/// Makes artifacts: the pipeline with a registry, or what a test puts in its place.
pub trait Artifacts: Send + Sync + 'static {
    /// From a reference to a sealed artifact. Dropping the future ends the work.
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>>;
}

struct Entry {
    wanted: Wanted,
    state: BuildState,
    task: AbortHandle,
}

/// All builds, by the uid of the service.
pub struct Builds {
    turns: Arc<Turns>,
    entries: Mutex<HashMap<String, Entry>>,
    wake: Wake,
    metrics: Metrics,
}

impl Builds {
    /// An empty queue.
    pub fn new(artifacts: Arc<dyn Artifacts>, wake: Wake, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { turns: Turns::new(artifacts), entries: Mutex::default(), wake, metrics })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has become of this wish; begins when it is new.
    pub fn ask(self: &Arc<Self>, wanted: Wanted) -> BuildState {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&wanted.service.uid) {
            if entry.wanted.same(&wanted) {
                return entry.state.clone();
            }
            entry.task.abort();
        }
        let task = tokio::spawn(self.clone().run(wanted.clone())).abort_handle();
        let state = BuildState::Pending(Phase::Resolving);
        entries.insert(wanted.service.uid.clone(), Entry { wanted, state: state.clone(), task });
        state
    }

    /// Seals what there is with the present key, and wakes the services for which that is news.
    pub fn reseal(&self, signing: &Signing) {
        for Entry { wanted, state, .. } in self.entries().values_mut() {
            let BuildState::Ready(built) = state else { continue };
            // A key that was read can always seal; what it cannot is left for the next look.
            match signing.reseal((**built).clone()) {
                Ok(resealed) if resealed.sealed != built.sealed => {
                    *built = Arc::new(resealed);
                    self.wake.one(&wanted.service);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Something that a service names has changed: what was refused and may pass is tried at once.
    pub fn again(self: &Arc<Self>, uid: &str) {
        if let Some(entry) = self.entries().get_mut(uid)
            && matches!(&entry.state, BuildState::Rejected(rejection) if rejection.transient)
        {
            entry.task.abort();
            entry.task = tokio::spawn(self.clone().run(entry.wanted.clone())).abort_handle();
        }
    }

    /// Whether there is an artifact for what this service wants.
    pub fn has_artifact(&self, uid: &str) -> bool {
        self.entries().get(uid).is_some_and(|entry| matches!(entry.state, BuildState::Ready(_)))
    }

    /// The service is gone.
    pub fn forget(&self, uid: &str) {
        if let Some(entry) = self.entries().remove(uid) {
            entry.task.abort();
        }
    }

    async fn run(self: Arc<Self>, wanted: Wanted) {
        for attempt in 0.. {
            let result = self.turns.build(&wanted, |phase| self.progress(&wanted, phase)).await;
            let retry = match result {
                Ok(built) => {
                    self.metrics.build_ended("ready");
                    self.set(&wanted, BuildState::Ready(built));
                    None
                }
                Err(rejection) => {
                    self.metrics.build_ended(rejection.reason.as_str());
                    tracing::info!(
                        namespace = wanted.service.namespace,
                        service = wanted.service.name,
                        reason = rejection.reason.as_str(),
                        transient = rejection.transient,
                        "no artifact: {}",
                        rejection.message
                    );
                    let retry = rejection.transient.then(|| backoff(&wanted.service.uid, attempt));
                    self.set(&wanted, BuildState::Rejected(rejection));
                    retry
                }
            };
            match retry {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return,
            }
        }
    }

    fn set(&self, wanted: &Wanted, state: BuildState) {
        if let Some(entry) = self.entries().get_mut(&wanted.service.uid).filter(|e| e.wanted.same(wanted)) {
            let again =
                matches!((&entry.state, &state), (BuildState::Rejected(old), BuildState::Rejected(new)) if old == new);
            entry.state = state;
            if again {
                return;
            }
        }
        self.wake.one(&wanted.service);
    }

    /// Keeps the phase, and wakes the service when it is worth a line in its status. A retry is silent until it ends.
    fn progress(&self, wanted: &Wanted, phase: Phase) {
        let mut entries = self.entries();
        let entry = entries.get_mut(&wanted.service.uid).filter(|e| e.wanted.same(wanted));
        let Some(Entry { state: BuildState::Pending(old), .. }) = entry else { return };
        let news = match (*old, phase) {
            (Phase::Pulling(old), Phase::Pulling(new)) => new >= old.saturating_add(20),
            (old, new) => old != new,
        };
        if news {
            *old = phase;
            drop(entries);
            self.wake.one(&wanted.service);
        }
    }
}

/// How long to wait after the `attempt`-th failure: doubling, and up to a half less by chance. The chance is a hash, so
/// that many services that failed together do not come back together.
pub(crate) fn backoff(uid: &str, attempt: u32) -> Duration {
    let full = FIRST_RETRY.saturating_mul(2u32.saturating_pow(attempt)).min(LAST_RETRY);
    let chance = stable_hash(&[uid, &attempt.to_string()]) as f64 / u64::MAX as f64;
    full.mul_f64(1.0 - chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(image: &str, generation: i64) -> Wanted {
        let service = ServiceRef { uid: "u".into(), namespace: "n".into(), name: "s".into() };
        let image = image.to_owned();
        Wanted { service, image, generation, pinned: None, pull_secrets: vec![], logging: false, outbound_http: false }
    }

    #[test]
    fn a_tag_is_resolved_once_per_generation_and_a_digest_once() {
        let pinned = Wanted { pinned: Some("sha256:1".into()), ..wanted("r/a:1", 1) };
        assert!(wanted("r/a:1", 1).same(&pinned));
        assert!(!wanted("r/a:1", 1).same(&wanted("r/a:1", 2)));
        assert!(wanted("r/a@sha256:1", 1).same(&wanted("r/a@sha256:1", 2)));
        assert!(!wanted("r/a:1", 1).same(&Wanted { logging: true, ..wanted("r/a:1", 1) }));
    }

    #[test]
    fn backoff_grows_to_its_limit_and_differs_by_service() {
        for attempt in 0..40 {
            let full = FIRST_RETRY.saturating_mul(2u32.saturating_pow(attempt)).min(LAST_RETRY);
            let wait = backoff("u", attempt);
            assert!(wait <= full && wait >= full / 2, "{attempt}: {wait:?}");
        }
        assert_ne!(backoff("u", 3), backoff("v", 3));
    }

    /// Answers what it is told to, one answer after another.
    struct Scripted(Mutex<Vec<Result<Built, Rejection>>>);

    impl Artifacts for Scripted {
        fn build(&self, _: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
            progress(Phase::Pulling(50));
            let answer = self.0.lock().expect("no panic").pop().expect("another answer");
            Box::pin(async { answer })
        }
    }

    fn rejection(reason: Reason, transient: bool) -> Rejection {
        Rejection { reason, message: "do something".into(), transient }
    }

    #[tokio::test(start_paused = true)]
    async fn transient_trouble_is_tried_again_and_a_mistake_waits_for_a_change() {
        let (wake, mut woken) = Wake::new();
        // The last answer comes first.
        let script = vec![Err(rejection(Reason::CoreModule, false)), Err(rejection(Reason::RegistryUnreachable, true))];
        let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
        assert!(matches!(builds.ask(wanted("a", 1)), BuildState::Pending(Phase::Resolving)));
        loop {
            woken.one.recv().await.expect("woken");
            match builds.ask(wanted("a", 1)) {
                BuildState::Rejected(r) if r.reason == Reason::CoreModule => break,
                BuildState::Rejected(r) => assert_eq!(r.reason, Reason::RegistryUnreachable),
                BuildState::Pending(phase) => assert_eq!(phase, Phase::Pulling(50)),
                BuildState::Ready(_) => panic!("nothing was built"),
            }
        }
        // No third answer is taken from the script by waiting.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(matches!(builds.ask(wanted("a", 1)), BuildState::Rejected(r) if r.reason == Reason::CoreModule));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_at_once_when_something_it_names_has_changed() {
        let (wake, mut woken) = Wake::new();
        let script = vec![Err(rejection(Reason::CoreModule, false)), Err(rejection(Reason::PullSecretInvalid, true))];
        let builds = Builds::new(Arc::new(Scripted(Mutex::new(script))), wake, Metrics::default());
        let reason = || match builds.ask(wanted("a", 1)) {
            BuildState::Rejected(rejection) => Some(rejection.reason),
            _ => None,
        };
        while reason() != Some(Reason::PullSecretInvalid) {
            woken.one.recv().await.expect("woken");
        }
        let start = tokio::time::Instant::now();
        builds.again("u");
        while reason() != Some(Reason::CoreModule) {
            woken.one.recv().await.expect("woken");
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "without the backoff");
        // No third answer is taken from the script.
        builds.again("u");
        tokio::task::yield_now().await;
        assert_eq!(reason(), Some(Reason::CoreModule));
    }
}
