//! What a component says of itself: untrusted bytes in, its imports and HTTP export out. Pure. Reading them is the
//! feature `parse`, which the child has, and who pushes a component of their own.

use podless_engine::Flavour;
use serde::{Deserialize, Serialize};

#[cfg(feature = "parse")]
mod read;
#[cfg(feature = "parse")]
pub(crate) use self::read::facts;

/// Most imports, and most exports, that are taken: more than any component has that somebody built to be served, and few
/// enough for a status that lists them.
pub(crate) const MOST: usize = 500;
/// Longest name that is kept of an import or export.
pub(crate) const NAME_CHARS: usize = 256;

/// What a component imports and exports.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Facts {
    /// Its imports, in its own order.
    pub imports: Vec<ImportFact>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// Which engine runs it.
    pub flavour: Flavour,
}

/// One import.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ImportFact {
    /// Its name, as in `wasi:http/types@0.2.3`.
    pub name: String,
    /// Whether it brings names of types only: nothing that could be called.
    pub types_only: bool,
}

/// Why bytes are no component.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Machine code, of whichever engine.
    #[error("this is precompiled code, which is never taken: push the component itself, a .wasm file")]
    Precompiled,
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component: build it for the target wasm32-wasip2, or make it one with \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// More imports or exports than are taken.
    #[error("the component has {0} imports and exports, and may have {MOST} of each: build it with fewer")]
    TooMany(usize),
    /// Something else, or a broken file.
    #[error("this is not a valid WebAssembly component ({0}): build it again")]
    NotWebAssembly(String),
}
