//! The examples, as they are built, and the operator's own pipeline to make code of them. IO.

use std::{env, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use podless_artifact::{ChildProgram, Grants, Options, Pipeline, SealedArtifact, seal::SealKey};
use podless_engine::Recipe;
use tempfile::TempDir;

/// An example in one language.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    /// What it is, for people.
    pub(crate) name: &'static str,
    /// The name that it is built under.
    pub(crate) guest: &'static str,
    /// The component.
    pub(crate) component: Vec<u8>,
}

const EXAMPLES: [(&str, &str); 5] = [
    ("Rust, hello (WASI 0.3)", "hello-p3"),
    ("Rust, hello", "hello"),
    ("Rust, crud", "crud"),
    ("JavaScript, hello", "hello-js"),
    ("Python, hello", "hello-python"),
];

/// The examples; of a quick run, those of Rust.
pub(crate) fn built(quick: bool) -> Result<Vec<Example>> {
    let few = if quick { 3 } else { EXAMPLES.len() };
    EXAMPLES[..few].iter().map(|(name, guest)| Ok(Example { name, guest, component: component(guest)? })).collect()
}

/// A component that is built.
pub(crate) fn component(guest: &str) -> Result<Vec<u8>> {
    let path = variable("PODLESS_TEST_ARTIFACTS")?.join(format!("{guest}.wasm"));
    fs::read(&path).with_context(|| format!("{}: run `make examples`", path.display()))
}

/// The same component under another digest: with a section that nobody reads at its end.
pub(crate) fn variant(component: &[u8], number: u64) -> Vec<u8> {
    let content = [&[5][..], b"bench", &number.to_le_bytes()].concat();
    [component, &[0, content.len() as u8], &content].concat()
}

/// A pipeline as the operator has it, with an empty cache.
pub(crate) struct Workshop {
    pub(crate) pipeline: Pipeline,
    pub(crate) folder: TempDir,
}

impl Workshop {
    /// With the program that the operator starts for each component, as it was built.
    pub(crate) fn new() -> Result<Self> {
        let path = variable("PROFILE_DIR")?.join("podless-compile");
        ensure!(path.exists(), "{} is not there: run this by `make bench-artifacts`", path.display());
        let folder = tempfile::tempdir()?;
        let options = Options::new(folder.path(), ChildProgram { path, arguments: vec![] });
        let pipeline = Pipeline::new(options, Arc::new(SealKey::from_random([1; 32])))?;
        Ok(Self { pipeline, folder })
    }

    /// Builds a component: audited, compiled, sealed and kept.
    pub(crate) async fn build(&self, component: &[u8]) -> Result<SealedArtifact> {
        let file = self.folder.path().join("component.wasm");
        fs::write(&file, component)?;
        Ok(self.pipeline.build_file(&file, Grants::ALL, Recipe::default(), |_| ()).await?)
    }
}

fn variable(name: &str) -> Result<PathBuf> {
    let value = env::var_os(name).with_context(|| format!("{name} is not set: run this by `make bench-artifacts`"))?;
    Ok(value.into())
}
