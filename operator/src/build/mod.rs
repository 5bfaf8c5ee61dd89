//! The queue of artifact builds. In: what services want; out: what has become of it, at once. A reconcile never waits
//! for a compiler: it asks, and is woken when there is news.
//!
//! One build per service: a newer wish ends the older one, and services that want the same while they wait get it
//! together (see `turns`). What may pass by itself is tried again with exponential backoff and jitter; a user's mistake
//! waits for the user. What is pinned and kept, here or on a node (see `recall`), needs no registry; a tag may be looked up
//! again from time to time, and signatures that were not found are (see `looks`).

mod compiler;
mod looks;
mod phase;
mod pipeline;
mod pull_secret;
mod recall;
pub(crate) mod registries;
mod room;
mod turns;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use podless_artifact::{
    Held,
    seal::{Seal, Sealed},
};
use podless_crds::{Import, Reason};
use podless_engine::Target;
use tokio::{task::AbortHandle, time::Instant};

pub use compiler::compiler_options;
pub use phase::Phase;
pub use pipeline::Registry;
pub use wanted::{Pin, Wanted};

use phase::Step;
use turns::Turns;

use crate::{metrics::Metrics, schedule::stable_hash, trust::Signing, wake::Wake};

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
    /// What the cache knows of it: shims keep it beside the code, and give both back when they are lost here.
    pub note: String,
    /// The cache evicts other code before this.
    pub held: Held,
}

/// A sealed artifact and what was found on the way to it.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the image's manifest, or of its index.
    pub digest: String,
    /// Digest of the manifest that the index leads to, if it is one.
    pub manifest: Option<String>,
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
    /// Where it came from.
    pub origin: Origin,
    /// Why it is not known to have the signatures that policies have come to ask for: it is taken all the same, see
    /// `Wanted::permitted`.
    pub unverified: Option<Rejection>,
    /// The tag could not be looked up again, and why: it may mean something else by now.
    pub unsure: Option<String>,
}

impl Built {
    /// All digests by which it may be revoked.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        [self.digest.as_str(), self.seal.component.as_str()].into_iter().chain(self.manifest.as_deref())
    }
}

/// Where machine code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled.
    Compiled,
    /// It was in the operator's cache.
    Cached,
    /// A shim has given it back.
    Recalled,
}

impl Origin {
    /// Its stable name, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Cached => "cached",
            Self::Recalled => "recalled",
        }
    }
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
    /// What the audit says of the component's imports; nothing when it did not come to an audit.
    pub imports: Vec<Import>,
    /// How long the registry asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    /// A mistake: it waits for a change of the object.
    pub fn mistake(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), transient: false, imports: vec![], retry_after: None }
    }

    /// What may pass by itself.
    pub fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::mistake(reason, message) }
    }
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

/// Called while a build goes on.
pub type Progress = Arc<dyn Fn(Phase) + Send + Sync>;

/// Makes artifacts: the pipeline with a registry, or what a test puts in its place.
pub trait Artifacts: Send + Sync + 'static {
    /// From a reference to a sealed artifact. Dropping the future ends the work.
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>>;

    /// The same of what is pinned and kept, here or on a node, without asking a registry; `None` when it is not.
    fn kept(&self, _wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
        async { None }.boxed()
    }
}

struct Entry {
    wanted: Wanted,
    state: BuildState,
    step: Step,
    task: AbortHandle,
}

/// Uid of the service, and the target.
type Key = (String, Target);

/// What builds of a service may be called.
fn keys(uid: &str) -> [Key; Target::ALL.len()] {
    Target::ALL.map(|target| (uid.to_owned(), target))
}

/// All builds: of each service, one for each target.
pub struct Builds {
    turns: Arc<Turns>,
    entries: Mutex<HashMap<Key, Entry>>,
    wake: Wake,
    metrics: Metrics,
}

impl Builds {
    /// An empty queue.
    pub fn new(artifacts: Arc<dyn Artifacts>, wake: Wake, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { turns: Turns::new(artifacts, metrics.clone()), entries: Mutex::default(), wake, metrics })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of several targets the one whose build says what the image means; the others are built beside it.
    pub fn first(&self, uid: &str, image: &str, targets: &BTreeSet<Target>) -> Target {
        let entries = self.entries();
        let is_first = |target: &&Target| {
            entries.get(&(uid.to_owned(), **target)).is_some_and(|entry| entry.wanted.image == image)
        };
        targets.iter().find(is_first).or(targets.first()).copied().unwrap_or_default()
    }

    /// What has become of this wish; begins when it is new.
    pub fn ask(self: &Arc<Self>, wanted: Wanted) -> BuildState {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&wanted.key()) {
            // What was refused may be allowed by now, and what is tried again must not be any more; what there is is looked
            // at by who asks.
            let concerned = matches!(&entry.state, BuildState::Rejected(rejection)
                if rejection.reason == Reason::Revoked || rejection.transient);
            if entry.wanted.same(&wanted) && !(concerned && entry.wanted.revoked != wanted.revoked) {
                if entry.wanted.resolve_every != wanted.resolve_every {
                    entry.task.abort();
                    entry.task = tokio::spawn(self.clone().run(wanted.clone(), is_ready(&entry.state))).abort_handle();
                    entry.wanted = wanted;
                }
                return entry.state.clone();
            }
            entry.task.abort();
        }
        let task = tokio::spawn(self.clone().run(wanted.clone(), false)).abort_handle();
        let state = BuildState::Pending(Phase::Resolving);
        let entry = Entry { wanted, state: state.clone(), step: Step::first(Instant::now()), task };
        entries.insert(entry.wanted.key(), entry);
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
        let mut entries = self.entries();
        for key in keys(uid) {
            if let Some(entry) = entries.get_mut(&key)
                && let Some(Rejection { transient: true, .. }) = in_the_way(&entry.state)
            {
                entry.task.abort();
                let run = self.clone().run(entry.wanted.clone(), is_ready(&entry.state));
                entry.task = tokio::spawn(run).abort_handle();
            }
        }
    }

    /// Whether there is an artifact for what this service wants.
    pub fn has_artifact(&self, uid: &str) -> bool {
        let entries = self.entries();
        keys(uid).iter().any(|key| entries.get(key).is_some_and(|entry| is_ready(&entry.state)))
    }

    /// What has become of what this service wants: for all of its targets, or the first one that is not done.
    pub(crate) fn state(&self, uid: &str) -> Option<BuildState> {
        let entries = self.entries();
        let all = || keys(uid).into_iter().filter_map(|key| Some(&entries.get(&key)?.state));
        all().find(|state| !is_ready(state)).or_else(|| all().next()).cloned()
    }

    fn state_of(&self, wanted: &Wanted) -> Option<BuildState> {
        self.entries().get(&wanted.key()).map(|entry| entry.state.clone())
    }

    /// The service is gone.
    pub fn forget(&self, uid: &str) {
        let mut entries = self.entries();
        for entry in keys(uid).iter().filter_map(|key| entries.remove(key)) {
            entry.task.abort();
        }
    }

    /// No node has other targets any more.
    pub fn keep_only(&self, uid: &str, is_wanted: impl Fn(Target) -> bool) {
        let mut entries = self.entries();
        let unwanted = keys(uid).into_iter().filter(|(_, target)| !is_wanted(*target));
        for entry in unwanted.filter_map(|key| entries.remove(&key)) {
            entry.task.abort();
        }
    }

    async fn run(self: Arc<Self>, wanted: Wanted, is_there: bool) {
        if is_there || self.make(&wanted).await {
            tokio::join!(self.verify_again(&wanted), self.look_again(&wanted));
        }
    }

    /// Tries until there is an artifact, or a mistake. Answers whether there is one.
    async fn make(&self, wanted: &Wanted) -> bool {
        for attempt in 0.. {
            let result =
                self.watched(wanted, self.turns.build(wanted, |phase| self.progress(wanted, Some(phase)))).await;
            let retry = match result {
                Ok(built) => {
                    self.metrics.build_ended("ready");
                    self.set(wanted, BuildState::Ready(built));
                    return true;
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
                    let retry = rejection
                        .transient
                        .then(|| backoff(&wanted.service.uid, attempt).max(rejection.retry_after.unwrap_or_default()));
                    self.set(wanted, BuildState::Rejected(rejection));
                    retry
                }
            };
            match retry {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return false,
            }
        }
        false
    }

    fn set(&self, wanted: &Wanted, state: BuildState) {
        if let Some(entry) = self.entries().get_mut(&wanted.key()).filter(|e| e.wanted.same(wanted)) {
            let again =
                matches!((&entry.state, &state), (BuildState::Rejected(old), BuildState::Rejected(new)) if old == new);
            entry.state = state;
            if again {
                return;
            }
        }
        self.wake.one(&wanted.service);
    }

    /// Keeps the phase, or looks how long it has lasted; wakes the service when that is worth a line in its status. A retry
    /// is silent until it ends.
    fn progress(&self, wanted: &Wanted, phase: Option<Phase>) {
        let (mut entries, now) = (self.entries(), Instant::now());
        let entry = entries.get_mut(&wanted.key()).filter(|e| e.wanted.same(wanted));
        let Some(Entry { state: BuildState::Pending(told), step, .. }) = entry else { return };
        let news = match phase {
            Some(phase) => step.note(phase, now),
            None => step.look(now),
        };
        if let Some(news) = news {
            *told = news;
            drop(entries);
            self.wake.one(&wanted.service);
        }
    }

    /// Waits for a build, and looks each second how long its step has lasted.
    async fn watched<T>(&self, wanted: &Wanted, build: impl Future<Output = T>) -> T {
        let mut build = pin!(build);
        loop {
            match tokio::time::timeout(Duration::from_secs(1), &mut build).await {
                Ok(built) => return built,
                Err(_) => self.progress(wanted, None),
            }
        }
    }
}

/// Why there is no artifact, or one that is taken in spite of it.
fn in_the_way(state: &BuildState) -> Option<&Rejection> {
    match state {
        BuildState::Rejected(rejection) => Some(rejection),
        BuildState::Ready(built) => built.unverified.as_ref(),
        BuildState::Pending(_) => None,
    }
}

fn is_ready(state: &BuildState) -> bool {
    matches!(state, BuildState::Ready(_))
}

/// How long to wait after the `attempt`-th failure: doubling, and up to a half less by chance. The chance is a hash, so
/// that many services that failed together do not come back together.
pub(crate) fn backoff(uid: &str, attempt: u32) -> Duration {
    let full = FIRST_RETRY.saturating_mul(2u32.saturating_pow(attempt)).min(LAST_RETRY);
    let chance = stable_hash(&[uid, &attempt.to_string()]) as f64 / u64::MAX as f64;
    full.mul_f64(1.0 - chance / 2.0)
}

#[cfg(test)]
mod tests;
