//! The real thing: artifacts from registries, by the pipeline. In: what a service wants; out: a sealed artifact, or the
//! API's reason why not. IO.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    thread::available_parallelism,
};

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use kube::Client;
use podless_artifact::{
    self as artifact, ChildProgram, Limits, Login, Options, Pipeline, Walls,
    seal::{SealKey, TrustedKeys},
};
use podless_crds::{Grant, Import, Reason};
use podless_engine::Recipe;
use tokio::sync::Semaphore;

use super::{
    Artifacts, Built, Code, Origin, Phase, Progress, Rejection, Wanted,
    pull_secret::{PullSecretError, logins},
    recall::recall,
    registries::{self, DefaultLogins},
    room,
};
use crate::{
    cli::{CompilerArgs, RunArgs},
    link::Hub,
    metrics::Metrics,
    policy::revoked as revoked_by,
};

/// Pinned artifacts that are read from the cache at once.
const KEPT: usize = 8;
/// Artifacts that are brought back from shims at once.
const RECALLED: usize = 8;

/// Makes artifacts from what is in registries.
pub struct Registry {
    client: Client,
    pipeline: Arc<Pipeline>,
    /// Who to log in as when a service has no login of its own.
    defaults: Arc<DefaultLogins>,
    /// Whose assignments are believed, when shims show them.
    trusted: Arc<RwLock<TrustedKeys>>,
    /// Who is asked for what was lost; nobody until it is set.
    hub: Arc<OnceLock<Arc<Hub>>>,
    kept: Arc<Semaphore>,
    recalled: Arc<Semaphore>,
}

impl Registry {
    /// Opens the cache; `key` seals.
    pub fn new(client: Client, args: &RunArgs, key: SealKey) -> anyhow::Result<Self> {
        let child = ChildProgram::beside().context("this program does not know where it is")?;
        let mut options = Options::new(&args.cache_dir, child);
        (options.limits, options.parallelism) = compilers(&args.compiler);
        options.cache_bytes = args.cache_size / 4 * 3;
        options.component_bytes = args.component_size_limit;
        options.registry = registries::options(&args.registry)?;
        let defaults = Arc::new(DefaultLogins::new(&args.registry)?);
        let trusted = Arc::new(RwLock::new(TrustedKeys::from_pem(&key.public_pem()?)?));
        let pipeline = Arc::new(Pipeline::new(options, Arc::new(key))?);
        let (kept, recalled) = (Arc::new(Semaphore::new(KEPT)), Arc::new(Semaphore::new(RECALLED)));
        Ok(Self { client, pipeline, defaults, trusted, hub: Arc::default(), kept, recalled })
    }

    /// Tells which walls stand around those who compile.
    pub async fn tell_walls(&self, metrics: &Metrics) {
        let walls = self.pipeline.walls().await;
        match &walls {
            Ok(Walls { seccomp, landlock }) => {
                tracing::info!(seccomp, landlock, "components are compiled behind walls")
            }
            Err(error) => tracing::error!("components cannot be compiled: {error}"),
        }
        metrics.walls(walls.unwrap_or_default());
    }

    /// From now on these shims are asked for what was lost.
    pub fn recall_from(&self, hub: Arc<Hub>) {
        // It is set once.
        let _ = self.hub.set(hub);
    }

    /// From now on this key seals. What any of the trusted ones has signed in the cache need not be compiled again.
    pub async fn use_key(&self, key: SealKey, trusted: TrustedKeys) {
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = trusted.clone();
        if let Err(error) = self.pipeline.use_key(Arc::new(key), trusted).await {
            tracing::warn!(%error, "the artifact cache cannot be signed anew: some of it will be compiled again");
        }
    }
}

impl Artifacts for Registry {
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let (client, pipeline, defaults) = (self.client.clone(), self.pipeline.clone(), self.defaults.clone());
        async move {
            if let Some(rest) = after_credentials(&wanted.image) {
                return Err(holds_credentials(rest));
            }
            let logins = logins(&client, &wanted.service.namespace, &wanted.pull_secrets).await?;
            let (defaults, revoked) = (defaults.now(), digests(&wanted));
            let asked = wanted_of(&wanted, &logins, &defaults, &revoked);
            let sealed = pipeline.build(asked, |step| progress(phase(step))).await;
            let sealed = sealed.map_err(|error| rejection(error, &wanted))?;
            let origin = if sealed.cache_hit() { Origin::Cached } else { Origin::Compiled };
            Ok(built(sealed, origin))
        }
        .boxed()
    }

    fn kept(&self, wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
        let (pipeline, kept, hub) = (self.pipeline.clone(), self.kept.clone(), self.hub.clone());
        let (trusted, recalled) = (self.trusted.clone(), self.recalled.clone());
        async move {
            let pin = wanted.pinned.as_ref()?;
            let origin = find(&pipeline, &hub, &trusted, &recalled, &wanted).await?;
            // It is never closed.
            let _turn = kept.acquire().await;
            let manifest = pin.manifest.as_deref();
            let pin = artifact::Pin { digest: &pin.digest, manifest, component: &pin.component, size: pin.size };
            let revoked = digests(&wanted);
            let sealed = pipeline.kept(wanted_of(&wanted, &[], &[], &revoked), pin).await.transpose()?;
            Some(sealed.map(|sealed| built(sealed, origin)).map_err(|error| rejection(error, &wanted)))
        }
        .boxed()
    }
}

/// Sees to it that the cache has the code of what is pinned, if anybody has. What it has waits for no shim.
async fn find(
    pipeline: &Arc<Pipeline>,
    hub: &OnceLock<Arc<Hub>>,
    trusted: &RwLock<TrustedKeys>,
    recalled: &Semaphore,
    wanted: &Wanted,
) -> Option<Origin> {
    let (component, recipe) = (&wanted.pinned.as_ref()?.component, recipe_of(wanted));
    // A cache that does not work is told by the build.
    if pipeline.seems_kept(component, recipe).await.ok()? {
        return Some(Origin::Cached);
    }
    // It is never closed.
    let _turn = recalled.acquire().await;
    // Another service of the same component may have brought it back meanwhile.
    if pipeline.seems_kept(component, recipe).await.ok()? {
        return Some(Origin::Cached);
    }
    let keys = trusted.read().unwrap_or_else(PoisonError::into_inner).clone();
    recall(hub.get()?, pipeline, &keys, &wanted.service, component, recipe).await.then_some(Origin::Recalled)
}

/// Of what was revoked it is said by whom.
fn rejection(error: artifact::Rejection, wanted: &Wanted) -> Rejection {
    match &error {
        artifact::Rejection::Revoked(digest) => revoked_by(&wanted.revoked, digest).unwrap_or(error.into()),
        _ => error.into(),
    }
}

/// The digests that must not be used, whoever has revoked them.
fn digests(wanted: &Wanted) -> Vec<Arc<BTreeSet<String>>> {
    wanted.revoked.iter().map(|by| by.digests.clone()).collect()
}

fn wanted_of<'a>(
    wanted: &'a Wanted,
    logins: &'a [Login],
    default_logins: &'a [Login],
    revoked: &'a [Arc<BTreeSet<String>>],
) -> artifact::Wanted<'a> {
    artifact::Wanted {
        tenant: &wanted.service.namespace,
        image: &wanted.image,
        recipe: recipe_of(wanted),
        pinned: wanted.pinned.as_ref().map(|pin| pin.digest.as_str()),
        grants: wanted.grants,
        logins,
        default_logins,
        signatures: &wanted.signatures,
        revoked,
    }
}

/// What each compiler may use, and how many there may be at once.
fn compilers(args: &CompilerArgs) -> (Limits, usize) {
    let CompilerArgs { cpu_seconds, memory, parallelism } = *args;
    // Within the quota of this container, if it has one.
    let cpus = available_parallelism().map_or(1, NonZeroUsize::get);
    let at_once = room::at_once(parallelism, memory, room::memory(), cpus);
    if at_once < parallelism {
        tracing::warn!(
            asked = parallelism,
            at_once,
            "fewer components are compiled at once than asked for: more do not fit into the memory limit"
        );
    }
    tracing::info!(at_once, memory, cpu_seconds, "components are compiled within these limits");
    (Limits { memory_bytes: memory, cpu_seconds }, at_once)
}

fn recipe_of(wanted: &Wanted) -> Recipe {
    Recipe { target: wanted.target, options: wanted.compiler }
}

/// What stands after the credentials of `user:password@registry/…`; `None` when there are none. A digest is none.
fn after_credentials(image: &str) -> Option<&str> {
    let digest = image
        .rfind("@sha")
        .filter(|at| image[at + 4..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(':'));
    let (_, rest) = image[..digest.unwrap_or(image.len())].rsplit_once('@')?;
    Some(&image[image.len() - rest.len() - digest.map_or(0, |at| image.len() - at)..])
}

/// Such a reference never parses: who says why must not repeat the password.
fn holds_credentials(rest: &str) -> Rejection {
    let message = format!(
        "the image reference has credentials before {rest:?}: take them out, change them, and name a secret with them in \
         spec.imagePullSecrets"
    );
    Rejection::mistake(Reason::InvalidReference, message)
}

fn phase(step: artifact::Progress) -> Phase {
    match step {
        artifact::Progress::Resolving => Phase::Resolving,
        artifact::Progress::Pulling { done, total } => Phase::Pulling { done, total, seconds: None },
        artifact::Progress::Waiting => Phase::Waiting,
        artifact::Progress::Compiling => Phase::Compiling { seconds: None },
    }
}

fn import(import: &artifact::Import) -> Import {
    let grant = match import.grant {
        artifact::Grant::Granted => Grant::Granted,
        artifact::Grant::Inert => Grant::Inert,
        artifact::Grant::Denied => Grant::Denied,
    };
    Import { interface: import.interface.clone(), grant }
}

fn built(artifact: artifact::SealedArtifact, origin: Origin) -> Built {
    Built {
        origin,
        unverified: None,
        unsure: None,
        manifest: Some(artifact.manifest_digest())
            .filter(|manifest| *manifest != artifact.image_digest())
            .map(str::to_owned),
        digest: artifact.image_digest().to_owned(),
        component_size: artifact.component_size(),
        imports: artifact.imports().iter().map(import).collect(),
        seal: artifact.seal().clone(),
        sealed: artifact.sealed().clone(),
        compile_millis: artifact.compile_millis(),
        code: Arc::new(Code {
            sha256: artifact.seal().code_sha256.clone(),
            size: artifact.seal().code_size,
            note: artifact.note().to_owned(),
            held: artifact.held(),
            file: artifact.into_code(),
        }),
    }
}

impl From<artifact::Rejection> for Rejection {
    fn from(error: artifact::Rejection) -> Self {
        Self {
            reason: Reason::from_name(error.reason()).unwrap_or(Reason::InternalError),
            transient: error.is_transient(),
            message: error.to_string(),
            imports: error.imports().iter().map(import).collect(),
            retry_after: error.retry_after(),
        }
    }
}

/// Whatever is wrong with a secret, the object need not change for it to be mended.
impl From<PullSecretError> for Rejection {
    fn from(error: PullSecretError) -> Self {
        let reason = match error {
            PullSecretError::Name(_)
            | PullSecretError::Missing(_)
            | PullSecretError::Type(_)
            | PullSecretError::Malformed(_) => Reason::PullSecretInvalid,
            PullSecretError::Api(..) => Reason::InternalError,
        };
        Self::passing(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use sha2::{Digest, Sha256};
    use tokio::time::timeout;

    use super::*;
    use crate::build::{Pin, tests::wanted};

    #[tokio::test]
    async fn what_the_cache_has_waits_for_no_shim() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SealKey::from_random([7; 32]);
        let trusted = RwLock::new(TrustedKeys::from_pem(&key.public_pem().expect("PEM")).expect("a key"));
        let options = Options::new(folder.path(), ChildProgram::subcommand("none"));
        let pipeline = Arc::new(Pipeline::new(options, Arc::new(key)).expect("a pipeline"));
        let component = "sha256:2".to_owned();
        let pin = Pin { digest: "sha256:1".into(), manifest: None, component: component.clone(), size: 1 };
        let wanted = Wanted { pinned: Some(pin), ..wanted("r/a:1", 1) };
        let recipe = recipe_of(&wanted);
        let note = json!({
            "component": component, "recipe": recipe, "fingerprint": recipe.fingerprint(), "made_at": "then",
            "code_sha256": hex::encode(Sha256::digest(b"code")), "code_size": 4, "compile_millis": 1,
            "facts": {"imports": [], "exports": [], "flavour": "p2"}, "repositories": [],
        });
        let mut coming = pipeline.receive(note.to_string().as_bytes(), &component, recipe).expect("its note");
        coming.write(b"code").expect("written");
        coming.finish().expect("whole");
        // All who may ask shims wait for one that does not answer.
        let (hub, recalled) = (OnceLock::new(), Semaphore::new(0));
        let finding = find(&pipeline, &hub, &trusted, &recalled, &wanted);
        let found = timeout(Duration::from_secs(30), finding).await.expect("it waits for nobody");
        assert!(matches!(found, Some(Origin::Cached)), "{found:?}");
    }

    #[test]
    fn every_reason_of_the_pipeline_is_one_of_the_api() {
        // Those that `Rejection::reason` may answer; a name that the API does not have would become InternalError.
        for name in [
            "InvalidReference",
            "ImageNotFound",
            "Unauthorized",
            "RegistryUnreachable",
            "DigestMismatch",
            "UnsupportedLayer",
            "SignatureMissing",
            "SignatureInvalid",
            "Revoked",
            "PrecompiledLayer",
            "TooLarge",
            "NoHttpExport",
            "ImportDenied",
            "CoreModule",
            "NotWebAssembly",
            "CompileFailed",
            "CompileLimit",
            "InternalError",
        ] {
            assert_eq!(Reason::from_name(name).map(Reason::as_str), Some(name));
        }
    }

    #[test]
    fn credentials_in_a_reference_are_found() {
        let digest = "@sha256:0123";
        for (image, want) in [
            ("r/a:1".to_owned(), None),
            (format!("r:5000/a{digest}"), None),
            ("r/a@sha512:0123".to_owned(), None),
            ("u:p@r:5000/a:1".to_owned(), Some("r:5000/a:1".to_owned())),
            ("u:p@r:5000".to_owned(), Some("r:5000".to_owned())),
            ("https://u:p@r/a".to_owned(), Some("r/a".to_owned())),
            ("u:p/@@w@r/a".to_owned(), Some("r/a".to_owned())),
            (format!("u:p@r/a{digest}"), Some(format!("r/a{digest}"))),
        ] {
            assert_eq!(after_credentials(&image).map(str::to_owned), want, "{image}");
        }
    }
}
