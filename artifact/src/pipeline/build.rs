//! All steps in their order: what a service wants in, a sealed artifact or why there is none out. IO.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use podless_engine::Recipe;
use tokio::task::spawn_blocking;

use super::{
    audit::{Grants, audit},
    child::{ChildProgram, CompileError, Compiling, MachineCode},
    docker::Login,
    file::take,
    pull::{PulledComponent, pull},
    reference::ImageReference,
    registry::{Logins, Registry, RegistryError, RegistryOptions},
    rejection::Rejection,
    resolve::{COMPONENT_BYTES, ResolvedImage, resolve},
    sealed::SealedArtifact,
    signature::{self, SignatureRequirement, Verified},
    store::{Entry, Store, StoreError},
    turns::{Flight, Flights, Turn, Turns},
};
use crate::compiler::{Limits, Walls};
use crate::seal::{SealKey, TrustedKeys};

/// How a pipeline works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for machine code and for what is being pulled; nobody else writes there.
    pub cache_dir: PathBuf,
    /// Most bytes that are kept: machine code, and what is known of it.
    pub cache_bytes: u64,
    /// Largest component, in bytes.
    pub component_bytes: u64,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The program that compiles.
    pub child: ChildProgram,
    /// What each may use.
    pub limits: Limits,
    /// How many compile at once.
    pub parallelism: usize,
}

impl Options {
    /// The defaults, with this folder, and this program to compile.
    pub fn new(cache_dir: impl Into<PathBuf>, child: ChildProgram) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes: 3 << 30,
            component_bytes: COMPONENT_BYTES,
            registry: RegistryOptions::default(),
            child,
            limits: Limits::default(),
            parallelism: 1,
        }
    }
}

/// What a service wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Who takes turns with others in compiling: a namespace.
    pub tenant: &'a str,
    /// The reference as the spec has it.
    pub image: &'a str,
    /// The digest that its tag is known to mean.
    pub pinned: Option<&'a str>,
    /// What the component is granted.
    pub grants: Grants,
    /// What is made of it.
    pub recipe: Recipe,
    /// Who to log in as: those that are for the image are tried in this order.
    pub logins: &'a [Login],
    /// The same for everybody, tried after them.
    pub default_logins: &'a [Login],
    /// Whose signatures the image must have: all of these.
    pub signatures: &'a [SignatureRequirement],
    /// Digests, of images or of components, of which nothing is pulled or used.
    pub revoked: &'a [Arc<BTreeSet<String>>],
}

/// How far a build has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The registry is being asked.
    Resolving,
    /// The component comes in.
    Pulling {
        /// Bytes that are there.
        done: u64,
        /// Bytes of the component.
        total: u64,
    },
    /// It waits for its turn to be compiled.
    Waiting,
    /// It is being audited and compiled.
    Compiling,
}

/// Why there is no pipeline.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The registry options cannot be meant so.
    #[error("cannot make a client for registries: {0}")]
    Registry(#[from] RegistryError),
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The steps, and what they share.
pub struct Pipeline {
    registry: Registry,
    component_bytes: u64,
    verified: Verified,
    store: Store,
    child: ChildProgram,
    limits: Limits,
    /// A child for each turn: each may take the memory that is set aside for it.
    turns: Turns,
    /// What is being compiled.
    flights: Flights<Code>,
}

/// What machine code is of: the component's digest, and what is made of it.
type Code = (String, Recipe);

/// The right to compile something, and the duty to say so when it cannot be.
pub(super) struct Work {
    flight: Flight<Code>,
    _turn: Turn,
}

impl Work {
    /// An error of the compiler is that of all who wait for the same.
    pub(super) fn tell<T>(&self, outcome: Result<T, CompileError>) -> Result<T, CompileError> {
        outcome.inspect_err(|error| self.flight.failed(error))
    }
}

/// What there is to do about a component that was shown.
pub(super) enum Next {
    /// Nothing: its machine code is in the cache.
    Known(Entry),
    /// To compile it.
    Compile(Work),
}

/// What a reference led to.
pub(super) enum Obtained {
    /// A component that was pulled from there before: its machine code is in the cache.
    Known(ResolvedImage, Box<Entry>),
    /// A component that was pulled now.
    Pulled(ResolvedImage, PulledComponent),
}

impl Pipeline {
    /// Opens the cache; `key` seals.
    pub fn new(options: Options, key: Arc<SealKey>) -> Result<Self, SetupError> {
        Ok(Self {
            registry: Registry::new(options.registry)?,
            component_bytes: options.component_bytes,
            verified: Verified::default(),
            store: Store::new(&options.cache_dir, options.cache_bytes, key)?,
            child: options.child,
            limits: options.limits,
            turns: Turns::new(options.parallelism),
            flights: Flights::new(),
        })
    }

    /// Whether registries can be reached so, as far as that is known before one is asked.
    pub fn check(options: RegistryOptions) -> Result<(), SetupError> {
        Registry::new(options)?;
        Ok(())
    }

    /// From now on this key seals. What any of the trusted ones has signed in the cache stays there.
    pub async fn use_key(&self, key: Arc<SealKey>, trusted: TrustedKeys) -> Result<(), StoreError> {
        let store = self.store.clone();
        blocking(move || store.use_key(key, trusted)).await
    }

    /// Which walls stand around the children, as one of them says.
    pub async fn walls(&self) -> Result<Walls, CompileError> {
        self.child.walls().await
    }

    /// From a reference to a sealed artifact. Dropping the future ends the work, the child's too.
    pub async fn build(
        &self,
        wanted: Wanted<'_>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<SealedArtifact, Rejection> {
        match self.obtain(wanted, &progress).await? {
            Obtained::Known(resolved, entry) => self.reuse(&resolved, *entry, wanted.grants),
            Obtained::Pulled(resolved, pulled) => self.make(&resolved, pulled, wanted, &progress).await,
        }
    }

    /// From a file of this machine to a sealed artifact, by the same steps.
    pub async fn build_file(
        &self,
        path: &Path,
        grants: Grants,
        recipe: Recipe,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<SealedArtifact, Rejection> {
        let (resolved, pulled) = self.take(path, &progress).await?;
        let wanted = Wanted {
            tenant: "",
            image: "",
            pinned: None,
            grants,
            recipe,
            logins: &[],
            default_logins: &[],
            signatures: &[],
            revoked: &[],
        };
        self.make(&resolved, pulled, wanted, &progress).await
    }

    /// The machine code of a file of this machine, neither audited nor sealed: no shim takes it.
    pub async fn compile_file(
        &self,
        path: &Path,
        recipe: Recipe,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<MachineCode, Rejection> {
        let (_, pulled) = self.take(path, &progress).await?;
        progress(Progress::Waiting);
        let _turn = self.turns.take("").await?;
        progress(Progress::Compiling);
        let mut compiling = self.start(pulled, recipe)?;
        compiling.facts().await?;
        Ok(compiling.machine_code(&self.store.unfinished()).await?)
    }

    /// What a reference means; pulled unless it was pulled from there before.
    pub(super) async fn obtain(
        &self,
        wanted: Wanted<'_>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Obtained, Rejection> {
        progress(Progress::Resolving);
        let reference = ImageReference::parse(wanted.image, wanted.pinned)?;
        let mut session =
            self.registry.session(&reference, Logins { own: wanted.logins, defaults: wanted.default_logins });
        let resolved = resolve(&reference, &mut session, self.component_bytes).await?;
        refuse_revoked(&resolved, wanted.revoked)?;
        let signed =
            signature::verify(wanted.image, &resolved, wanted.signatures, &mut session, &self.verified).await?;
        if let Some(entry) = self.cached(&resolved, wanted.recipe).await?
            && entry.came_from(resolved.repository())
        {
            return Ok(Obtained::Known(resolved, Box::new(entry)));
        }
        let total = resolved.size();
        let report = |done| progress(Progress::Pulling { done, total });
        report(0);
        let pulled = pull(wanted.image, signed, &mut session, &self.store.unfinished(), report).await?;
        Ok(Obtained::Pulled(resolved, pulled))
    }

    /// A file of this machine, as if it had been pulled.
    pub(super) async fn take(
        &self,
        path: &Path,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(ResolvedImage, PulledComponent), Rejection> {
        progress(Progress::Resolving);
        let (path, folder) = (path.to_owned(), self.store.unfinished());
        let most = self.component_bytes;
        let taking = spawn_blocking(move || take(&path, &folder, most));
        Ok(taking.await.map_err(|error| CompileError::Broken(error.to_string()))??)
    }

    /// From a pulled component to a sealed artifact.
    async fn make(
        &self,
        resolved: &ResolvedImage,
        pulled: PulledComponent,
        wanted: Wanted<'_>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<SealedArtifact, Rejection> {
        let Wanted { grants, recipe, .. } = wanted;
        let work = match self.next(resolved, wanted.tenant, recipe, progress).await? {
            Next::Known(entry) => return self.reuse(resolved, entry, grants),
            Next::Compile(work) => work,
        };
        let mut compiling = self.start(pulled, recipe)?;
        let audited = audit(resolved.component(), work.tell(compiling.facts().await)?, grants)?;
        let compiled = work.tell(compiling.code(audited, &self.store.unfinished()).await)?;
        let (store, repository) = (self.store.clone(), resolved.repository().to_owned());
        let (audited, entry) = blocking(move || store.insert(compiled, recipe, &repository, Timestamp::now())).await?;
        Ok(SealedArtifact::new(resolved, audited, entry, false, &self.store.key())?)
    }

    /// Waits until it is clear who compiles a component that was shown: another, which has put it into the cache then, or
    /// this one.
    pub(super) async fn next(
        &self,
        resolved: &ResolvedImage,
        tenant: &str,
        recipe: Recipe,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Next, Rejection> {
        progress(Progress::Waiting);
        let code = (resolved.component().to_owned(), recipe);
        let mut work = None;
        loop {
            // It may have come there meanwhile, or before from another repository.
            if let Some(entry) = self.cached_for(resolved, recipe).await? {
                return Ok(Next::Known(entry));
            }
            if let Some(work) = work {
                progress(Progress::Compiling);
                return Ok(Next::Compile(work));
            }
            let other = match self.flights.other(&code) {
                Some(other) => Some(other),
                None => {
                    let turn = self.turns.take(tenant).await?;
                    match self.flights.begin(&code) {
                        Ok(flight) => {
                            work = Some(Work { flight, _turn: turn });
                            None
                        }
                        Err(other) => Some(other),
                    }
                }
            };
            if let Some(other) = other {
                progress(Progress::Compiling);
                other.ended().await?;
            }
        }
    }

    pub(super) fn start(&self, component: PulledComponent, recipe: Recipe) -> Result<Compiling, CompileError> {
        Ok(Compiling::start(&self.child, self.limits, recipe, component)?)
    }

    pub(super) fn verified(&self) -> &Verified {
        &self.verified
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) async fn cached(&self, resolved: &ResolvedImage, recipe: Recipe) -> Result<Option<Entry>, StoreError> {
        let (store, component) = (self.store.clone(), resolved.component().to_owned());
        blocking(move || store.open(&component, recipe)).await
    }

    /// The same of a component that was shown: its repository is remembered.
    pub(super) async fn cached_for(
        &self,
        resolved: &ResolvedImage,
        recipe: Recipe,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(entry) = self.cached(resolved, recipe).await? else { return Ok(None) };
        let (store, repository) = (self.store.clone(), resolved.repository().to_owned());
        blocking(move || store.add_repository(entry, &repository)).await.map(Some)
    }

    /// Audits what the cache knows of the component, by today's grants, and seals its code.
    pub(super) fn reuse(
        &self,
        resolved: &ResolvedImage,
        entry: Entry,
        grants: Grants,
    ) -> Result<SealedArtifact, Rejection> {
        let audited = audit(resolved.component(), entry.facts().clone(), grants)?;
        Ok(SealedArtifact::new(resolved, audited, entry, true, &self.store.key())?)
    }
}

/// Nothing of what was revoked is used, by whatever digest.
pub(super) fn refuse_revoked(resolved: &ResolvedImage, revoked: &[Arc<BTreeSet<String>>]) -> Result<(), Rejection> {
    let mut digests = [resolved.digest(), resolved.manifest(), resolved.component()].into_iter();
    let found = digests.find(|digest| revoked.iter().any(|all| all.contains(*digest)));
    found.map_or(Ok(()), |digest| Err(Rejection::Revoked(digest.to_owned())))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(std::io::Error::other)?
}
