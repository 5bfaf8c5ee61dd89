//! What a registry has of signatures of a digest. In: a session and the digest; out: signatures of both of cosign's
//! formats, none of them verified. IO.
//!
//! Whoever may push there decides what is found: it is bounded in number and size, the newest first.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    judge::{Found, STATEMENT},
    simple::SimpleSignature,
};
use crate::pipeline::{
    reference::is_sha256,
    registry::{RegistryError, Session},
};

/// Most signatures of one format that are looked at.
const MOST: usize = 32;
/// Largest signature, in bytes.
const SIGNATURE_BYTES: usize = 64 << 10;
/// Largest list of them.
const LIST_BYTES: usize = 1 << 20;
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What the statement of a bundle is, as cosign says beside it.
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    manifests: Vec<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// All signatures of this digest, of both formats.
pub(super) async fn signatures(session: &mut Session<'_>, digest: &str) -> Result<Vec<Found>, RegistryError> {
    let mut found = bundles(session, digest).await?;
    found.extend(simple(session, digest).await?);
    Ok(found)
}

/// The bundles that refer to it: by the API for that, or in the index that stands in for it in older registries.
async fn bundles(session: &mut Session<'_>, digest: &str) -> Result<Vec<Found>, RegistryError> {
    // A registry that has come to the API later, or a mirror, may list nothing of what is in the index.
    let mut referrers = vec![];
    for list in [format!("referrers/{digest}"), format!("manifests/{}", digest.replace(':', "-"))] {
        if referrers.is_empty() {
            referrers = document(session, &list).await?.unwrap_or_default().manifests;
            referrers.retain(is_signature);
        }
    }
    let mut found = Vec::new();
    for referrer in referrers.iter().rev().take(MOST) {
        found.push(bundle(session, &referrer.digest).await?);
    }
    Ok(found)
}

/// Whether a referrer may be a signature; attestations are bundles too, and say so.
fn is_signature(referrer: &Descriptor) -> bool {
    let predicate = referrer.annotations.as_ref().and_then(|annotations| annotations.get(PREDICATE));
    referrer.artifact_type.starts_with(BUNDLE) && predicate.is_none_or(|predicate| predicate == STATEMENT)
}

async fn bundle(session: &mut Session<'_>, manifest: &str) -> Result<Found, RegistryError> {
    let Some(manifest) = exact(session, "manifests", manifest).await? else { return Ok(Found::Unreadable) };
    let manifest: Document = serde_json::from_slice(&manifest).unwrap_or_default();
    let [layer] = manifest.layers.as_slice() else { return Ok(Found::Unreadable) };
    if !layer.media_type.starts_with(BUNDLE) {
        return Ok(Found::Unreadable);
    }
    Ok(exact(session, "blobs", &layer.digest).await?.map_or(Found::Unreadable, Found::Bundle))
}

/// The layers of the image that is called after the digest.
async fn simple(session: &mut Session<'_>, digest: &str) -> Result<Vec<Found>, RegistryError> {
    let manifest = document(session, &format!("manifests/{}.sig", digest.replace(':', "-"))).await?;
    let mut found = Vec::new();
    let layers = manifest.unwrap_or_default().layers.into_iter().rev();
    for layer in layers.filter(|layer| layer.media_type == SIMPLE).take(MOST) {
        let payload = exact(session, "blobs", &layer.digest).await?;
        found.push(payload.map_or(Found::Unreadable, |payload| {
            Found::Simple(SimpleSignature { payload, annotations: layer.annotations.unwrap_or_default() })
        }));
    }
    Ok(found)
}

/// A list, if there is one. What a registry without the API for referrers answers is as good as nothing, and so is a list
/// that is too long: whoever may push there must not stop others by it.
async fn document(session: &mut Session<'_>, path: &str) -> Result<Option<Document>, RegistryError> {
    match session.get_small(path, ACCEPT, LIST_BYTES, None).await {
        Ok(body) => Ok(serde_json::from_slice(&body).ok()),
        Err(RegistryError::NotFound | RegistryError::TooLong(_)) => Ok(None),
        Err(RegistryError::Status(status)) if path.starts_with("referrers/") && status.is_client_error() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes that have this digest; `None` for what has another, is too long or is gone.
async fn exact(session: &mut Session<'_>, kind: &str, digest: &str) -> Result<Option<Vec<u8>>, RegistryError> {
    if !is_sha256(digest) {
        return Ok(None);
    }
    match session.get_small(&format!("{kind}/{digest}"), ACCEPT, SIGNATURE_BYTES, Some(digest)).await {
        Ok(body) => Ok(Some(body)),
        Err(RegistryError::NotFound | RegistryError::TooLong(_) | RegistryError::OtherBytes) => Ok(None),
        Err(error) => Err(error),
    }
}
