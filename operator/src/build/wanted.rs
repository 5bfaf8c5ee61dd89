//! What a service wants built, and what its image was found to mean. Pure.

use std::time::Duration;

use podless_artifact::{Grants, SignatureRequirement};
use podless_engine::{CompilerOptions, Target};

use super::{Built, Key};
use crate::{policy::RevokedBy, wake::ServiceRef};

/// What a service wants built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// For whom.
    pub service: ServiceRef,
    /// The reference as it is in the spec.
    pub image: String,
    /// Names the revision: a tag is resolved once for each.
    pub revision: String,
    /// What the reference was found to mean for this revision, as status says.
    pub pinned: Option<Pin>,
    /// Time between two looks at what the tag means, when there is to be a second one.
    pub resolve_every: Option<Duration>,
    /// Names of secrets with credentials.
    pub pull_secrets: Vec<String>,
    /// What the component is granted.
    pub grants: Grants,
    /// Whose signatures the image must have.
    pub signatures: Vec<SignatureRequirement>,
    /// Policies have let this revision pass before, as what is pinned: signatures that they ask for since then do not stop
    /// it.
    pub permitted: bool,
    /// What must not be used.
    pub revoked: Vec<RevokedBy>,
    /// How it is compiled.
    pub compiler: CompilerOptions,
    /// For which machines: for others it is another build.
    pub target: Target,
}

impl Wanted {
    pub(super) fn key(&self) -> Key {
        (self.service.uid.clone(), self.target)
    }

    /// The same component for other machines. Its image is named by digest: what the tag means is looked up once, for all.
    pub fn beside(self, built: &Built, target: Target) -> Self {
        let image = match self.image.contains('@') {
            true => self.image,
            false => format!("{}@{}", self.image, built.digest),
        };
        let pinned = Pin {
            digest: built.digest.clone(),
            manifest: built.manifest.clone(),
            component: built.seal.component.clone(),
            size: built.component_size,
        };
        Self { image, pinned: Some(pinned), resolve_every: None, target, ..self }
    }

    /// Whether the same artifact answers both. A pin is where this very wish has led to, so it makes no other.
    pub(super) fn same(&self, other: &Self) -> bool {
        // A digest means the same in every revision.
        let revision = self.revision == other.revision || self.image.contains('@');
        let Self {
            service,
            image,
            revision: _,
            pinned: _,
            resolve_every: _,
            pull_secrets,
            grants,
            signatures,
            permitted: _,
            revoked: _,
            compiler,
            target,
        } = other;
        revision
            && (service, image, pull_secrets, grants) == (&self.service, &self.image, &self.pull_secrets, &self.grants)
            && (signatures, compiler, target) == (&self.signatures, &self.compiler, &self.target)
    }
}

/// What an image was found to mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    /// Digest of the manifest, or of the index.
    pub digest: String,
    /// Digest of the manifest that the index leads to, if it is one.
    pub manifest: Option<String>,
    /// Digest of the component.
    pub component: String,
    /// Size of the component in bytes.
    pub size: u64,
}
