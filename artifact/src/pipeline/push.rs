//! Pushing: a component in, an OCI artifact in the CNCF's layout out, as `wkg` and `wash` make it. IO.

use std::time::Duration;

use bytes::Bytes;
use oci_client::{
    Client, RegistryOperation,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use reqwest::header::HeaderValue;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    docker::Login,
    facts::{FactsError, facts},
    reference::{ImageReference, ReferenceError},
};

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER_TYPE: &str = "application/wasm";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The reference does not parse.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The file is no component.
    #[error(transparent)]
    Component(#[from] FactsError),
    /// The registry wants a login, or another one.
    #[error("the registry does not let who asks push {0}: log in as who may")]
    Refused(String),
    /// The registry did not take it.
    #[error("cannot push {0}: {1}")]
    Registry(String, OciDistributionError),
}

impl PushError {
    fn new(image: &str, error: OciDistributionError) -> Self {
        use OciDistributionError as Error;
        let refused = match &error {
            Error::AuthenticationFailure(_) | Error::UnauthorizedError { .. } => true,
            Error::ServerError { code, .. } => [401, 403].contains(code),
            Error::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|e| matches!(e.code, OciErrorCode::Unauthorized | OciErrorCode::Denied))
            }
            _ => false,
        };
        if refused { Self::Refused(image.to_owned()) } else { Self::Registry(image.to_owned(), error) }
    }
}

/// Pushes a component; the answer is the digest of its manifest. The same component makes the same manifest.
pub async fn push(
    component: Vec<u8>,
    image: &str,
    login: Option<Login>,
    plain_http: bool,
) -> Result<String, PushError> {
    let reference = ImageReference::parse(image, None)?;
    let facts = facts(&component)?;
    let imports: Vec<_> = facts.imports.iter().map(|import| &import.name).collect();
    let config = json!({
        // A fixed time: the same component makes the same digest.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [format!("sha256:{}", hex::encode(Sha256::digest(&component)))],
        "component": {"imports": imports, "exports": facts.exports},
    });
    let layer = ImageLayer::new(Bytes::from(component), LAYER_TYPE.to_owned(), None);
    let config = Config::new(config.to_string().into_bytes(), CONFIG_TYPE.to_owned(), None);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config.sha256_digest(), "size": config.data.len()},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.sha256_digest(), "size": layer.data.len()}],
    })
    .to_string();

    let failed = |error| PushError::new(image, error);
    let protocol = if plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
    let client = Client::try_from(ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        ..Default::default()
    })
    .map_err(failed)?;
    let auth = login.map_or(RegistryAuth::Anonymous, |login| RegistryAuth::Basic(login.username, login.password));
    let reference = reference.as_oci();
    client.auth(reference, &auth, RegistryOperation::Push).await.map_err(failed)?;
    for (digest, data) in [(layer.sha256_digest(), layer.data), (config.sha256_digest(), config.data)] {
        client.push_blob(reference, data, &digest).await.map_err(failed)?;
    }
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&manifest)));
    client.push_manifest_raw(reference, manifest, HeaderValue::from_static(MANIFEST_TYPE)).await.map_err(failed)?;
    Ok(digest)
}
