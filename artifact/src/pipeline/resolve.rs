//! Resolving: an image reference in, the digest and the one layer that it means out. IO.

use std::collections::BTreeSet;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    reference::{ImageReference, is_sha256},
    registry::{Credentials, RegistryError, Session},
};

/// Largest manifest: what the OCI distribution specification asks registries to take.
const MANIFEST_BYTES: usize = 4 << 20;
/// Largest component, in bytes. JavaScript and Python, which bring their interpreter, have 13 to 18 MB.
pub(crate) const COMPONENT_BYTES: u64 = 64 << 20;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Media types of a component's layer in the wild: the CNCF's (wkg, wash), Spin's, runwasi's, old wasmCloud's.
const COMPONENT_TYPES: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// What a reference means: one manifest with one component.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedImage {
    /// Registry and repository.
    repository: String,
    digest: String,
    component: String,
    size: u64,
}

/// What stands for the repository of a file of this machine: nothing that a reference could name.
const THIS_MACHINE: &str = "file";

impl ResolvedImage {
    /// A file of this machine: its digest stands for a manifest's.
    pub(super) fn of_file(component: String, size: u64) -> Self {
        Self { repository: THIS_MACHINE.to_owned(), digest: component.clone(), component, size }
    }

    /// Registry and repository.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// Digest of the manifest that the reference leads to.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
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
    /// An index that leads to no component.
    #[error(
        "{0} is an index without an entry for WebAssembly (platform architecture `wasm`): push the component itself \
         with `wkg oci push`"
    )]
    Index(String),
    /// Not exactly one layer of a known type.
    #[error("{image} {what}: push the component as the one layer, of media type application/wasm")]
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
    #[error("the component of {image} has {size} bytes and may have {COMPONENT_BYTES}: make it smaller")]
    TooLarge {
        /// The reference.
        image: String,
        /// Its size.
        size: u64,
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
        other => format!("cannot get {image} from its registry now: {other}; it is tried again"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

/// Asks the registry what the reference means.
pub(crate) async fn resolve(
    reference: &ImageReference,
    session: &mut Session<'_>,
) -> Result<ResolvedImage, ResolveError> {
    let image = reference.to_string();
    let (digest, mut manifest) = get(&image, reference.manifest(), session).await?;
    if let Some(entries) = manifest.manifests {
        let entry = wasm_entry(&entries).ok_or_else(|| ResolveError::Index(image.clone()))?;
        manifest = get(&image, &entry.digest, session).await?.1;
    }
    let layer = component_layer(&image, manifest.layers.unwrap_or_default())?;
    let repository = format!("{}/{}", reference.host(), reference.repository());
    Ok(ResolvedImage { repository, digest, component: layer.digest, size: layer.size })
}

async fn get(image: &str, name: &str, session: &mut Session<'_>) -> Result<(String, Manifest), ResolveError> {
    let malformed = |why: &str| ResolveError::Manifest(image.to_owned(), why.to_owned());
    if name.contains(':') && !is_sha256(name) {
        return Err(malformed("a digest in it is not sha256"));
    }
    let body = session
        .get_small(&format!("manifests/{name}"), ACCEPT, MANIFEST_BYTES)
        .await
        .map_err(|error| ResolveError::Registry { image: image.to_owned(), error })?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
    if name.contains(':') && name != digest {
        return Err(ResolveError::DigestMismatch(image.to_owned()));
    }
    Ok((digest, serde_json::from_slice(&body).map_err(|_| malformed("its manifest does not parse"))?))
}

/// The entry for WebAssembly, or the only one there is.
fn wasm_entry(entries: &[Descriptor]) -> Option<&Descriptor> {
    let is_wasm = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.architecture == "wasm");
    match entries {
        [only] if only.platform.is_none() => Some(only),
        many => many.iter().find(is_wasm),
    }
}

/// The one layer, when it can be a component.
fn component_layer(image: &str, layers: Vec<Descriptor>) -> Result<Descriptor, ResolveError> {
    let image = image.to_owned();
    if let Some(native) = layers.iter().find(|layer| is_precompiled(&layer.media_type)) {
        return Err(ResolveError::Precompiled { image, media_type: shorten(&native.media_type) });
    }
    let count = layers.len();
    let types: BTreeSet<_> = layers.iter().map(|layer| shorten(&layer.media_type)).take(5).collect();
    let types = types.into_iter().collect::<Vec<_>>().join(", ");
    let Ok([layer]) = <[Descriptor; 1]>::try_from(layers) else {
        let what = if count == 0 { "has no layer".to_owned() } else { format!("has {count} layers ({types})") };
        return Err(ResolveError::UnsupportedLayer { image, what });
    };
    if !COMPONENT_TYPES.contains(&layer.media_type.as_str()) {
        return Err(ResolveError::UnsupportedLayer { image, what: format!("has a layer of media type {types}") });
    }
    if !is_sha256(&layer.digest) {
        return Err(ResolveError::Manifest(image, "its layer has no sha256 digest".to_owned()));
    }
    if layer.size > COMPONENT_BYTES {
        return Err(ResolveError::TooLarge { image, size: layer.size });
    }
    Ok(layer)
}

/// There is no registered type for machine code; these are the words that the known ones have.
fn is_precompiled(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    ["cwasm", "precompiled", "native"].iter().any(|word| media_type.contains(word))
}

/// A stranger's text, fit for a sentence.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media_type: &str) -> Descriptor {
        let digest = format!("sha256:{}", "0".repeat(64));
        Descriptor { media_type: media_type.to_owned(), digest, size: 1, platform: None }
    }

    fn outcome(types: &[&str]) -> String {
        match component_layer("r/a:1", types.iter().map(|t| layer(t)).collect()) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn layers_in_the_wild() {
        for media_type in COMPONENT_TYPES {
            assert_eq!(outcome(&[media_type]), "taken");
        }
        for (types, says) in [
            (vec![], "no layer"),
            (vec!["application/vnd.oci.image.layer.v1.tar+gzip"], "application/vnd.oci.image.layer.v1.tar+gzip"),
            (vec!["text/plain"], "text/plain"),
            (
                vec!["application/wasm", "application/octet-stream"],
                "2 layers (application/octet-stream, application/wasm)",
            ),
            (vec!["application/vnd.example.CWASM"], "precompiled code (application/vnd.example.CWASM)"),
            (vec!["application/wasm", "application/vnd.wasm.precompiled.v1"], "precompiled code"),
        ] {
            let outcome = outcome(&types);
            assert!(outcome.contains(says), "{types:?}: {outcome}");
        }
    }

    #[test]
    fn a_size_or_a_digest_that_cannot_be_is_refused() {
        let large = Descriptor { size: COMPONENT_BYTES + 1, ..layer("application/wasm") };
        assert!(matches!(component_layer("r/a:1", vec![large]), Err(ResolveError::TooLarge { .. })));
        let elsewhere = Descriptor { digest: "sha256:../../x".into(), ..layer("application/wasm") };
        assert!(matches!(component_layer("r/a:1", vec![elsewhere]), Err(ResolveError::Manifest(..))));
    }

    #[test]
    fn the_wasm_entry_of_an_index() {
        let entry = |architecture: &str| Descriptor {
            platform: Some(Platform { architecture: architecture.into() }),
            ..layer(architecture)
        };
        let name = |entries: &[Descriptor]| wasm_entry(entries).map(|d| d.media_type.clone());
        assert_eq!(name(&[entry("amd64"), entry("wasm")]).as_deref(), Some("wasm"));
        assert_eq!(name(&[entry("amd64")]), None);
        assert_eq!(name(&[layer("only")]).as_deref(), Some("only"));
        assert_eq!(name(&[]), None);
    }
}
