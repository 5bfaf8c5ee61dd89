//! What needs no registry: an image whose meaning is known, of which the cache has the machine code, or gets it back from
//! where it is used. IO on the cache only.

use podless_engine::Recipe;

use super::{
    build::{Pipeline, Wanted, blocking, refuse_revoked},
    receive::{ReceiveError, Receiving},
    reference::ImageReference,
    rejection::Rejection,
    resolve::ResolvedImage,
    sealed::SealedArtifact,
    store::StoreError,
};

/// What a reference was found to mean. Who says so has seen it in the registry, or trusts who has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    /// Digest of the manifest, or of the index.
    pub digest: &'a str,
    /// Digest of the manifest that the index leads to, if it is one.
    pub manifest: Option<&'a str>,
    /// Digest of the component.
    pub component: &'a str,
    /// Size of the component, in bytes.
    pub size: u64,
}

impl Pipeline {
    /// The artifact of an image that is pinned, if the cache has its machine code: audited by today's grants, and sealed.
    /// Without it, or when a signature is required that was not seen yet, the registry must be asked.
    pub async fn kept(&self, wanted: Wanted<'_>, pin: Pin<'_>) -> Result<Option<SealedArtifact>, Rejection> {
        let reference = ImageReference::parse(wanted.image, Some(pin.digest))?;
        let resolved = ResolvedImage::pinned(&reference, pin);
        if !self.verified().has_all(pin.digest, wanted.signatures) {
            return Ok(None);
        }
        refuse_revoked(&resolved, wanted.revoked)?;
        match self.cached(&resolved, wanted.recipe).await? {
            Some(entry) => self.reuse(&resolved, entry, wanted.grants).map(Some),
            None => Ok(None),
        }
    }

    /// Whether the cache seems to have the machine code of a component: nothing is hashed to find out.
    pub async fn seems_kept(&self, component: &str, recipe: Recipe) -> Result<bool, StoreError> {
        let (store, component) = (self.store().clone(), component.to_owned());
        blocking(move || Ok(store.seems_there(&component, recipe))).await
    }

    /// Begins to take back the machine code of a component. Who calls this knows that the note is one that this operator,
    /// or one before it, has given away: see [`SealedArtifact::note`].
    pub fn receive(&self, note: &[u8], component: &str, recipe: Recipe) -> Result<Receiving, ReceiveError> {
        Receiving::begin(self.store().clone(), note, component, recipe)
    }
}
