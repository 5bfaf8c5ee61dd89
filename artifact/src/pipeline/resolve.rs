//! Resolving: an image reference in, the digest and the one layer that it means out. IO.

use super::{
    kept::Pin,
    layout::{ACCEPT, LayoutError, Manifest},
    reference::{ImageReference, is_sha256},
    registry::{Credentials, RegistryError, Session, sha256},
};

/// Largest manifest. The OCI distribution specification asks registries to take 4 MiB; a component's has a few hundred bytes.
const MANIFEST_BYTES: usize = 1 << 20;
/// Largest component by default, in bytes. JavaScript and Python, which bring their interpreter, have 13 to 18 MB.
pub(crate) const COMPONENT_BYTES: u64 = 64 << 20;

/// What a reference means: one manifest with one component.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedImage {
    /// Registry and repository.
    repository: String,
    digest: String,
    /// Digest of the manifest that has the component as its layer: another one, when the reference leads to an index.
    manifest: String,
    component: String,
    size: u64,
}

/// What stands for the repository of a file of this machine: nothing that a reference could name.
const THIS_MACHINE: &str = "file";

impl ResolvedImage {
    /// A file of this machine: its digest stands for a manifest's.
    pub(super) fn of_file(component: String, size: u64) -> Self {
        let (repository, digest, manifest) = (THIS_MACHINE.to_owned(), component.clone(), component.clone());
        Self { repository, digest, manifest, component, size }
    }

    /// What a reference is known to mean.
    pub(super) fn pinned(reference: &ImageReference, pin: Pin<'_>) -> Self {
        let repository = format!("{}/{}", reference.host(), reference.repository());
        let Pin { digest, manifest, component, size } = pin;
        let manifest = manifest.unwrap_or(digest).to_owned();
        Self { repository, digest: digest.to_owned(), manifest, component: component.to_owned(), size }
    }

    /// Registry and repository.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// Digest of the manifest that the reference leads to.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Digest of the manifest that has the component as its layer.
    pub(crate) fn manifest(&self) -> &str {
        &self.manifest
    }

    /// Digest of the layer, which is the component.
    pub(crate) fn component(&self) -> &str {
        &self.component
    }

    /// Size of the component, in bytes, as the manifest says.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Why a reference does not lead to a component.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The registry did not deliver.
    #[error("{}", registry_sentence(.image, .error))]
    Registry {
        /// The reference.
        image: String,
        /// What happened.
        error: RegistryError,
    },
    /// Other bytes than the digest promises.
    #[error("registry sent a manifest for {0} that does not have this digest: push the image again")]
    DigestMismatch(String),
    /// The manifest is not one.
    #[error("{0} is not an OCI image or artifact ({1}): push the component with `wkg oci push`")]
    Manifest(String, String),
    /// An index that leads to no component, or not to one only.
    #[error("{image} is an index that {what}: push the component itself with `wkg oci push`")]
    Index {
        /// The reference.
        image: String,
        /// What is wrong with it.
        what: String,
    },
    /// Not exactly one layer of a known type.
    #[error(
        "{image} {what}: push the component as the one layer of media type application/wasm, with `wkg oci push` or \
         `oras push IMAGE FILE:application/wasm`"
    )]
    UnsupportedLayer {
        /// The reference.
        image: String,
        /// What it has instead, with its media types.
        what: String,
    },
    /// A layer of machine code.
    #[error(
        "{image} has a layer of precompiled code ({media_type}), which is never taken from a registry: push the \
         component itself, a .wasm file"
    )]
    Precompiled {
        /// The reference.
        image: String,
        /// The layer's media type.
        media_type: String,
    },
    /// A component that is too large.
    #[error("the component of {image} has {size} bytes and may have {most}: make it smaller")]
    TooLarge {
        /// The reference.
        image: String,
        /// Its size.
        size: u64,
        /// The largest that is taken.
        most: u64,
    },
}

/// What a registry's answer means for the user.
pub(crate) fn registry_sentence(image: &str, error: &RegistryError) -> String {
    match error {
        RegistryError::NotFound => format!("the registry has no {image}: push it, or mend spec.image"),
        RegistryError::Unauthorized(Credentials::None) => format!(
            "the registry refuses to give {image} to who has not logged in: name a secret with credentials for it in \
             spec.imagePullSecrets, and check that the image exists"
        ),
        RegistryError::Unauthorized(Credentials::ForOthers { registry }) => format!(
            "the registry refuses to give {image} to who has not logged in, and the credentials in \
             spec.imagePullSecrets are for other registries: name a secret with credentials for {registry}, and check \
             that the image exists"
        ),
        RegistryError::Unauthorized(Credentials::Refused) => format!(
            "the registry refuses to give {image} to the user of spec.imagePullSecrets: check the credentials, and \
             that the image exists"
        ),
        RegistryError::Unauthorized(Credentials::DefaultsRefused) => format!(
            "the registry refuses to give {image} to the operator's own user: name a secret with credentials for it in \
             spec.imagePullSecrets, and check that the image exists"
        ),
        RegistryError::NotAsked(why) => format!("the registry of {image} is not asked: {why}; it is tried again"),
        other => format!("cannot get {image} from its registry now: {other}; it is tried again"),
    }
}

impl LayoutError {
    fn of(self, image: &str) -> ResolveError {
        let image = image.to_owned();
        match self {
            Self::Index(what) => ResolveError::Index { image, what },
            Self::Layers(what) => ResolveError::UnsupportedLayer { image, what },
            Self::Precompiled(media_type) => ResolveError::Precompiled { image, media_type },
            Self::Malformed(why) => ResolveError::Manifest(image, why.to_owned()),
        }
    }
}

/// Asks the registry what the reference means; no component may have more than `most` bytes.
pub(crate) async fn resolve(
    reference: &ImageReference,
    session: &mut Session<'_>,
    most: u64,
) -> Result<ResolvedImage, ResolveError> {
    let image = reference.to_string();
    let (digest, mut manifest) = get(&image, reference.manifest(), session).await?;
    let mut manifest_digest = digest.clone();
    if let Some(entry) = manifest.entry().map_err(|error| error.of(&image))? {
        (manifest_digest, manifest) = get(&image, &entry.digest, session).await?;
    }
    let layer = manifest.component().map_err(|error| error.of(&image))?;
    if layer.size > most {
        return Err(ResolveError::TooLarge { image, size: layer.size, most });
    }
    let repository = format!("{}/{}", reference.host(), reference.repository());
    Ok(ResolvedImage { repository, digest, manifest: manifest_digest, component: layer.digest, size: layer.size })
}

async fn get(image: &str, name: &str, session: &mut Session<'_>) -> Result<(String, Manifest), ResolveError> {
    let malformed = |why: &str| ResolveError::Manifest(image.to_owned(), why.to_owned());
    if name.contains(':') && !is_sha256(name) {
        return Err(malformed("a digest in it is not sha256"));
    }
    let digest = name.contains(':').then_some(name);
    let answer = session.get_small(&format!("manifests/{name}"), ACCEPT, MANIFEST_BYTES, digest).await;
    let body = answer.map_err(|error| match error {
        RegistryError::OtherBytes => ResolveError::DigestMismatch(image.to_owned()),
        error => ResolveError::Registry { image: image.to_owned(), error },
    })?;
    Ok((sha256(&body), serde_json::from_slice(&body).map_err(|_| malformed("its manifest does not parse"))?))
}
