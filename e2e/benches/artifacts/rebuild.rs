//! Figure: an operator that has lost its store gets a thousand artifacts back. Bytes that shims would send are taken back as
//! they would be; each is another. Measured: IO; told: pure.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use podless_e2e::figures::stats::{Spread, mebibytes, millis};
use podless_engine::Recipe;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::languages::{Workshop, component};

/// Bytes of a message of the link.
const CHUNK: usize = 256 << 10;

/// How long it takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rebuild {
    pub(crate) artifacts: usize,
    pub(crate) code_bytes: u64,
    /// Milliseconds until the store has all of them.
    pub(crate) took: Spread,
    /// Milliseconds that one of them compiles.
    pub(crate) compile: f64,
}

/// Takes so many artifacts into an empty store, and finds each of them there.
pub(crate) async fn measure(artifacts: usize, rounds: usize) -> Result<Rebuild> {
    let made = Workshop::new()?;
    let artifact = made.build(&component("hello")?).await?;
    let note: Value = serde_json::from_str(artifact.note())?;
    let mut code = vec![0; usize::try_from(artifact.seal().code_size)?];
    std::os::unix::fs::FileExt::read_exact_at(artifact.code(), &mut code, 0)?;
    let mut took = vec![];
    for _ in 0..rounds {
        let (workshop, mut spent) = (Workshop::new()?, 0.0);
        for number in 0..artifacts {
            // Each has code of its own, and a component of its own.
            let end = code.len() - 8;
            code[end..].copy_from_slice(&number.to_le_bytes());
            let component = format!("sha256:{}", hex::encode(Sha256::digest(number.to_le_bytes())));
            let mut note = note.clone();
            set(&mut note, artifact.seal().component.as_str(), &component)?;
            set(&mut note, &artifact.seal().code_sha256, &hex::encode(Sha256::digest(&code)))?;
            let note = note.to_string();
            let started = Instant::now();
            let mut receiving = workshop.pipeline.receive(note.as_bytes(), &component, Recipe::default())?;
            code.chunks(CHUNK).try_for_each(|chunk| receiving.write(chunk))?;
            receiving.finish()?;
            spent += started.elapsed().as_secs_f64() * 1000.0;
        }
        let files = workshop.folder.path().read_dir()?.count();
        ensure!(files > artifacts, "{files} files of {artifacts} artifacts");
        took.push(spent);
    }
    let compile = artifact.compile_millis() as f64;
    Ok(Rebuild { artifacts, code_bytes: code.len() as u64, took: Spread::of(took)?, compile })
}

/// Puts another text in the place of the one field of a note that has it.
fn set(note: &mut Value, from: &str, to: &str) -> Result<()> {
    let fields = note.as_object_mut().context("a note is an object")?;
    let field = fields.values_mut().find(|value| value.as_str() == Some(from)).context("the note does not say it")?;
    *field = to.into();
    Ok(())
}

impl Rebuild {
    /// In a line.
    pub(crate) fn line(&self) -> String {
        format!("{} artifacts back in the store: {}", self.artifacts, self.took.tell())
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let each = self.took.median / self.artifacts as f64;
        format!(
            "## A store that was lost\n\n\
             An operator that begins with an empty disk takes artifacts back from the shims that have them, in place of\n\
             compiling them. {} artifacts of {} each, hashed, written and recorded, in {} rounds: {}, which is {} for each. What\n\
             the network and the shims need for it comes on top. Compiling one of them takes {}.\n\n",
            self.artifacts,
            mebibytes(self.code_bytes as f64),
            self.took.count,
            self.took.tell(),
            millis(each),
            millis(self.compile)
        )
    }
}
