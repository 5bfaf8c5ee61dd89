//! The components, as machine code: those of `make guests`, and as many variants of each as a figure needs. IO: reads files.

use std::{env, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use podless_artifact::seal::HttpWorld;
use podless_engine::Flavour;
use sha2::{Digest, Sha256};

/// A component of this benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// The name that it is built under.
    pub(crate) name: &'static str,
    world: HttpWorld,
}

/// Greets.
pub(crate) const HELLO: Guest = Guest { name: "hello", world: HttpWorld::P2 };
/// The same with 8 MB of code.
pub(crate) const BULKY: Guest = Guest { name: "bulky", world: HttpWorld::P2 };
/// Reads, checks and writes items of 1 KB.
pub(crate) const CRUD: Guest = Guest { name: "crud", world: HttpWorld::P2 };
/// The same by WASI 0.3.
pub(crate) const CRUD_P3: Guest = Guest { name: "crud-p3", world: HttpWorld::P3 };
/// Gives bodies back as they come.
pub(crate) const SPLICE_P3: Guest = Guest { name: "splice-p3", world: HttpWorld::P3 };
/// Gives bodies back, waits, or computes for ever, by its path.
pub(crate) const PROBE: Guest = Guest { name: "probe", world: HttpWorld::P2 };

/// Machine code of a component, or a variant of it.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    guest: Guest,
    original: Arc<Vec<u8>>,
    number: Option<u64>,
    sha256: String,
}

impl Guest {
    /// The component itself.
    pub(crate) fn component(self) -> Result<PathBuf> {
        self.file("wasm")
    }

    /// Its machine code.
    pub(crate) fn code(self) -> Result<Code> {
        let path = self.file("cwasm")?;
        let original = fs::read(&path).with_context(|| format!("{}: run `make guests`", path.display()))?;
        let sha256 = hex::encode(Sha256::digest(&original));
        Ok(Code { guest: self, original: original.into(), number: None, sha256 })
    }

    fn file(self, extension: &str) -> Result<PathBuf> {
        let folder =
            env::var_os("PODLESS_TEST_ARTIFACTS").context("PODLESS_TEST_ARTIFACTS is not set: `make bench`")?;
        Ok(PathBuf::from(folder).join(format!("{}.{extension}", self.name)))
    }
}

impl Code {
    /// The same code as another artifact: with bytes after its end, where nothing reads.
    pub(crate) fn variant(&self, number: u64) -> Self {
        let sha256 = Sha256::new().chain_update(&*self.original).chain_update(number.to_le_bytes()).finalize();
        Self { number: Some(number), sha256: hex::encode(sha256), ..self.clone() }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let number = self.number.map(u64::to_le_bytes);
        [self.original.as_slice(), number.as_ref().map_or(&[], |number| number)].concat()
    }

    pub(crate) fn size(&self) -> usize {
        self.original.len() + self.number.map_or(0, |_| size_of::<u64>())
    }

    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn world(&self) -> HttpWorld {
        self.guest.world
    }

    pub(crate) fn flavour(&self) -> Flavour {
        match self.guest.world {
            HttpWorld::P2 => Flavour::P2,
            HttpWorld::P3 => Flavour::P3,
        }
    }
}
