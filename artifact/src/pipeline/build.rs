//! All steps in their order: what a service wants in, a sealed artifact or why there is none out. IO.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};

use super::{
    audit::{Grants, audit},
    child::{ChildProgram, CompileError, Compiling, MachineCode},
    file::take,
    pull::{PulledComponent, pull},
    reference::ImageReference,
    registry::{Login, Registry, RegistryError, RegistryOptions},
    rejection::Rejection,
    resolve::{ResolvedImage, resolve},
    sandbox::Limits,
    sealed::SealedArtifact,
    store::{Entry, Store, StoreError},
};
use crate::seal::{SealKey, TrustedKeys};

/// How a pipeline works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for machine code and for what is being pulled; nobody else writes there.
    pub cache_dir: PathBuf,
    /// Most bytes of machine code that are kept.
    pub cache_bytes: u64,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The program that compiles.
    pub child: ChildProgram,
    /// What it may use.
    pub limits: Limits,
}

impl Options {
    /// The defaults, with this folder.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes: 3 << 30,
            registry: RegistryOptions::default(),
            child: ChildProgram::default(),
            limits: Limits::default(),
        }
    }
}

/// What a service wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The reference as the spec has it.
    pub image: &'a str,
    /// The digest that its tag is known to mean.
    pub pinned: Option<&'a str>,
    /// What the component is granted.
    pub grants: Grants,
    /// Who to log in as; of several for one registry, the first.
    pub logins: &'a [Login],
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
    /// It waits for its turn, or is being audited and compiled.
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
    store: Store,
    child: ChildProgram,
    limits: Limits,
    /// One child at a time: each may take the memory that is set aside for it.
    turn: Semaphore,
}

/// What a reference led to.
pub(super) enum Obtained {
    /// A component that was pulled from there before: its machine code is in the cache.
    Known(ResolvedImage, Entry),
    /// A component that was pulled now.
    Pulled(ResolvedImage, PulledComponent),
}

impl Pipeline {
    /// Opens the cache; `key` seals.
    pub fn new(options: Options, key: Arc<SealKey>) -> Result<Self, SetupError> {
        Ok(Self {
            registry: Registry::new(options.registry)?,
            store: Store::new(&options.cache_dir, options.cache_bytes, key)?,
            child: options.child,
            limits: options.limits,
            turn: Semaphore::new(1),
        })
    }

    /// From now on this key seals. What any of the trusted ones has signed in the cache stays there.
    pub async fn use_key(&self, key: Arc<SealKey>, trusted: TrustedKeys) -> Result<(), StoreError> {
        let store = self.store.clone();
        blocking(move || store.use_key(key, trusted)).await
    }

    /// From a reference to a sealed artifact. Dropping the future ends the work, the child's too.
    pub async fn build(
        &self,
        wanted: Wanted<'_>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<SealedArtifact, Rejection> {
        match self.obtain(wanted, &progress).await? {
            Obtained::Known(resolved, entry) => self.reuse(&resolved, entry, wanted.grants),
            Obtained::Pulled(resolved, pulled) => {
                progress(Progress::Compiling);
                self.make(&resolved, pulled, wanted.grants).await
            }
        }
    }

    /// From a file of this machine to a sealed artifact, by the same steps.
    pub async fn build_file(
        &self,
        path: &Path,
        grants: Grants,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<SealedArtifact, Rejection> {
        let (resolved, pulled) = self.take(path, &progress).await?;
        progress(Progress::Compiling);
        self.make(&resolved, pulled, grants).await
    }

    /// The machine code of a file of this machine, neither audited nor sealed: no shim takes it.
    pub async fn compile_file(
        &self,
        path: &Path,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<MachineCode, Rejection> {
        let (_, pulled) = self.take(path, &progress).await?;
        progress(Progress::Compiling);
        let _turn = self.turn().await?;
        let mut compiling = self.start(pulled)?;
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
        let mut session = self.registry.session(&reference, wanted.logins);
        let resolved = resolve(&reference, &mut session).await?;
        if let Some(entry) = self.cached(&resolved).await?
            && entry.came_from(resolved.repository())
        {
            return Ok(Obtained::Known(resolved, entry));
        }
        let total = resolved.size();
        let report = |done| progress(Progress::Pulling { done, total });
        report(0);
        let pulled = pull(wanted.image, &resolved, &mut session, &self.store.unfinished(), report).await?;
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
        let taking = spawn_blocking(move || take(&path, &folder));
        Ok(taking.await.map_err(|error| CompileError::Broken(error.to_string()))??)
    }

    /// From a pulled component to a sealed artifact.
    async fn make(
        &self,
        resolved: &ResolvedImage,
        pulled: PulledComponent,
        grants: Grants,
    ) -> Result<SealedArtifact, Rejection> {
        let _turn = self.turn().await?;
        // Another build may have compiled it meanwhile, or before for another repository.
        if let Some(entry) = self.cached_for(resolved).await? {
            return self.reuse(resolved, entry, grants);
        }
        let mut compiling = self.start(pulled)?;
        let audited = audit(resolved.component(), compiling.facts().await?, grants)?;
        let compiled = compiling.code(audited, &self.store.unfinished()).await?;
        let (store, repository) = (self.store.clone(), resolved.repository().to_owned());
        let (audited, entry) = blocking(move || store.insert(compiled, &repository)).await?;
        Ok(SealedArtifact::new(resolved, audited, entry, false, &self.store.key())?)
    }

    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, CompileError> {
        self.turn.acquire().await.map_err(|error| CompileError::Broken(error.to_string()))
    }

    pub(super) fn start(&self, component: PulledComponent) -> Result<Compiling, CompileError> {
        Ok(Compiling::start(&self.child, self.limits, component)?)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    async fn cached(&self, resolved: &ResolvedImage) -> Result<Option<Entry>, StoreError> {
        let (store, component) = (self.store.clone(), resolved.component().to_owned());
        blocking(move || store.open(&component)).await
    }

    /// The same of a component that was shown: its repository is remembered.
    pub(super) async fn cached_for(&self, resolved: &ResolvedImage) -> Result<Option<Entry>, StoreError> {
        let Some(entry) = self.cached(resolved).await? else { return Ok(None) };
        let (store, repository) = (self.store.clone(), resolved.repository().to_owned());
        blocking(move || store.add_repository(entry, &repository)).await.map(Some)
    }

    /// Audits what the cache knows of the component, by today's grants, and seals its code.
    fn reuse(&self, resolved: &ResolvedImage, entry: Entry, grants: Grants) -> Result<SealedArtifact, Rejection> {
        let audited = audit(resolved.component(), entry.facts().clone(), grants)?;
        Ok(SealedArtifact::new(resolved, audited, entry, true, &self.store.key())?)
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(std::io::Error::other)?
}
