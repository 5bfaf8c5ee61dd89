//! The last step: an audited component and its machine code in, a sealed artifact out. Pure but for the signature.

use std::fs::File;

use super::{
    audit::{AuditedComponent, Import},
    evict::Held,
    resolve::ResolvedImage,
    store::Entry,
};
use crate::seal::{Seal, SealError, SealKey, Sealed};

/// What a shim may be given.
#[derive(Debug)]
pub struct SealedArtifact {
    image_digest: String,
    manifest_digest: String,
    component_size: u64,
    imports: Vec<Import>,
    seal: Seal,
    sealed: Sealed,
    compile_millis: u64,
    cache_hit: bool,
    note: String,
    held: Held,
    code: File,
}

impl SealedArtifact {
    /// Seals the code of an audited component. Both must be of the component that the image means.
    pub(crate) fn new(
        image: &ResolvedImage,
        audited: AuditedComponent,
        entry: Entry,
        cache_hit: bool,
        key: &SealKey,
    ) -> Result<Self, SealError> {
        if audited.component() != image.component() || entry.component() != image.component() {
            return Err(SealError::Malformed("audit, code and image are of different components".to_owned()));
        }
        let seal = Seal {
            component: image.component().to_owned(),
            code_sha256: entry.code_sha256().to_owned(),
            code_size: entry.code_size(),
            fingerprint: entry.fingerprint().to_owned(),
            wasmtime: podless_engine::WASMTIME_VERSION.to_owned(),
            target: entry.recipe().target.to_string(),
            http: audited.http(),
            flavour: audited.facts().flavour,
            made_at: entry.made_at().to_owned(),
        };
        Ok(Self {
            image_digest: image.digest().to_owned(),
            manifest_digest: image.manifest().to_owned(),
            component_size: image.size(),
            imports: audited.imports().to_vec(),
            sealed: key.seal(&seal)?,
            seal,
            compile_millis: entry.compile_millis(),
            cache_hit,
            note: entry.note().map_err(|error| SealError::Malformed(error.to_string()))?,
            held: entry.held(),
            code: entry.into_code(),
        })
    }

    /// Digest of the manifest that the reference was resolved to.
    pub fn image_digest(&self) -> &str {
        &self.image_digest
    }

    /// Digest of the manifest that has the component: another one, when the reference leads to an index.
    pub fn manifest_digest(&self) -> &str {
        &self.manifest_digest
    }

    /// Size of the component, in bytes.
    pub fn component_size(&self) -> u64 {
        self.component_size
    }

    /// The interfaces that the component imports, and what each was granted.
    pub fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// The facts that were sealed.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The same, signed: what a shim is given.
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    /// Milliseconds that the compilation took when it was made.
    pub fn compile_millis(&self) -> u64 {
        self.compile_millis
    }

    /// Whether nothing had to be compiled.
    pub fn cache_hit(&self) -> bool {
        self.cache_hit
    }

    /// What is given away with the code, so that [`Pipeline::receive`](super::Pipeline::receive) can take it back.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// While this lives, the cache evicts other code before this.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The machine code, open for reading only; it stays readable when the cache evicts it. Read it by offset: the
    /// position in it is shared.
    pub fn code(&self) -> &File {
        &self.code
    }

    /// The machine code alone.
    pub fn into_code(self) -> File {
        self.code
    }
}
