//! The key that signs for now: everyone who seals or signs asks for it each time, so that it can be changed under way.
//! In: a key; out: the same to whoever asks, and artifacts sealed with it. No IO.

use std::sync::{Arc, PoisonError, RwLock};

use futures::future::{BoxFuture, FutureExt};
use podless_artifact::seal::{SealError, SealKey};
use podless_crds::Reason;

use crate::{
    build::{Artifacts, Built, Progress, Rejection, Wanted},
    link::content::{Artifact, Content},
};

/// Holds the key.
pub struct Signing(RwLock<Arc<SealKey>>);

impl Signing {
    /// With this key for now.
    pub fn new(key: SealKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    /// The key, for one signature.
    pub fn key(&self) -> Arc<SealKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this one signs. Answers whether it is another than before.
    pub fn change(&self, key: SealKey) -> bool {
        // The same key signs the same way each time.
        let signs = |key: &SealKey| key.sign(b"podless which key\0", b"");
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let other = signs(&present) != signs(&key);
        *present = Arc::new(key);
        other
    }

    /// What is assigned, sealed by the present key: the same when it is so already.
    pub fn refresh(&self, content: &Arc<Content>) -> Result<Arc<Content>, SealError> {
        let key = self.key();
        let name = key.name();
        if content.artifacts.values().all(|artifact| artifact.sealer == name) {
            return Ok(content.clone());
        }
        let resealed = content.artifacts.iter().map(|(engine, Artifact { seal, code, .. })| {
            Ok((engine.clone(), Artifact::new(seal.clone(), &key.seal(seal)?, code.clone())))
        });
        let artifacts = resealed.collect::<Result<_, SealError>>()?;
        Ok(Arc::new(Content { artifacts, ..Content::clone(content) }))
    }

    /// The same artifact, sealed by the present key: a seal is the same each time, so this changes what another key
    /// has sealed and nothing else.
    pub fn reseal(&self, built: Built) -> Result<Built, SealError> {
        let sealed = self.key().seal(&built.seal)?;
        Ok(Built { sealed, ..built })
    }
}

/// Artifacts that are sealed by the present key, whichever their maker began with.
pub struct Resealed {
    /// Who makes them.
    pub maker: Arc<dyn Artifacts>,
    /// The key.
    pub signing: Arc<Signing>,
}

impl Artifacts for Resealed {
    fn build(&self, wanted: Wanted, progress: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let (built, signing) = (self.maker.build(wanted, progress), self.signing.clone());
        async move { signing.reseal(built.await?).map_err(cannot_seal) }.boxed()
    }

    fn kept(&self, wanted: Wanted) -> BoxFuture<'static, Option<Result<Built, Rejection>>> {
        let (kept, signing) = (self.maker.kept(wanted), self.signing.clone());
        async move { Some(kept.await?.and_then(|built| signing.reseal(built).map_err(cannot_seal))) }.boxed()
    }
}

fn cannot_seal(error: SealError) -> Rejection {
    Rejection::passing(Reason::InternalError, format!("the operator cannot seal: {error}; it is tried again"))
}
