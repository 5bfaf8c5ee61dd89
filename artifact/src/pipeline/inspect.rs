//! Looking at a component without serving it: a reference or a file in, what it says of itself and its sizes out. IO.
//!
//! The bytes go the way of any other: parsed and compiled in the child. What could be served once it is granted
//! everything is kept in the cache, so that serving it finds it there; of what could not, only the sizes are kept.

use std::path::Path;

use jiff::Timestamp;
use podless_engine::Recipe;

use super::{
    audit::{Grants, audit},
    build::{Next, Obtained, Pipeline, Progress, Wanted, blocking},
    facts::Facts,
    pull::PulledComponent,
    rejection::Rejection,
    resolve::ResolvedImage,
    store::Entry,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Digest of the manifest that the reference leads to; of a file, the component's.
    pub digest: String,
    /// Digest of the component.
    pub component: String,
    /// Its size, in bytes.
    pub component_size: u64,
    /// What it says of itself.
    pub facts: Facts,
    /// Size of its machine code, in bytes.
    pub code_size: u64,
    /// Milliseconds that the compilation took when it was made.
    pub compile_millis: u64,
}

impl Inspection {
    fn new(resolved: &ResolvedImage, facts: Facts, code_size: u64, compile_millis: u64) -> Self {
        Self {
            digest: resolved.digest().to_owned(),
            component: resolved.component().to_owned(),
            component_size: resolved.size(),
            facts,
            code_size,
            compile_millis,
        }
    }

    fn of_entry(resolved: &ResolvedImage, entry: &Entry) -> Self {
        Self::new(resolved, entry.facts().clone(), entry.code_size(), entry.compile_millis())
    }
}

impl Pipeline {
    /// Looks at what a reference means; `wanted.grants` does not matter.
    pub async fn inspect(
        &self,
        wanted: Wanted<'_>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Inspection, Rejection> {
        match self.obtain(wanted, &progress).await? {
            Obtained::Known(resolved, entry) => Ok(Inspection::of_entry(&resolved, &entry)),
            Obtained::Pulled(resolved, pulled) => self.look(&resolved, pulled, wanted.recipe, &progress).await,
        }
    }

    /// Looks at a file of this machine.
    pub async fn inspect_file(
        &self,
        path: &Path,
        recipe: Recipe,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Inspection, Rejection> {
        let (resolved, pulled) = self.take(path, &progress).await?;
        self.look(&resolved, pulled, recipe, &progress).await
    }

    async fn look(
        &self,
        resolved: &ResolvedImage,
        pulled: PulledComponent,
        recipe: Recipe,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Inspection, Rejection> {
        let work = match self.next(resolved, "", recipe, progress).await? {
            Next::Known(entry) => return Ok(Inspection::of_entry(resolved, &entry)),
            Next::Compile(work) => work,
        };
        let mut compiling = self.start(pulled, recipe)?;
        let facts = work.tell(compiling.facts().await)?;
        let folder = self.store().unfinished();
        let Ok(audited) = audit(resolved.component(), facts.clone(), Grants::ALL) else {
            let code = work.tell(compiling.machine_code(&folder).await)?;
            return Ok(Inspection::new(resolved, facts, code.size(), code.millis()));
        };
        let compiled = work.tell(compiling.code(audited, &folder).await)?;
        let (store, repository) = (self.store().clone(), resolved.repository().to_owned());
        let (_, entry) = blocking(move || store.insert(compiled, recipe, &repository, Timestamp::now())).await?;
        Ok(Inspection::of_entry(resolved, &entry))
    }
}
