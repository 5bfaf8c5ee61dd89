//! The registry beside the cluster: pushing components, and things that are none. IO.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bytes::Bytes;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    secrets::RegistryAuth,
};

use crate::env;

/// Media type of a component's layer in the CNCF layout.
pub const COMPONENT: &str = "application/wasm";

/// The registry, and the guests to push to it.
pub struct Registry {
    host: String,
    guests: PathBuf,
    client: Client,
}

impl Registry {
    pub(crate) fn new(host: String) -> Result<Self> {
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..Default::default() });
        Ok(Self { host, guests: env("PODLESS_TEST_ARTIFACTS")?.into(), client })
    }

    /// Pushes a built guest under this name and tag; answers the reference.
    pub async fn push_guest(&self, guest: &str, name_and_tag: &str) -> Result<String> {
        self.push(&self.guest(guest)?, COMPONENT, name_and_tag).await
    }

    /// The bytes of a built guest.
    pub fn guest(&self, guest: &str) -> Result<Vec<u8>> {
        let path = self.guests.join(format!("{guest}.wasm"));
        std::fs::read(&path).with_context(|| format!("the guest {} is not built", path.display()))
    }

    /// Pushes any bytes as the one layer of an artifact; answers the reference.
    pub async fn push(&self, layer: &[u8], media_type: &str, name_and_tag: &str) -> Result<String> {
        let image = self.reference(name_and_tag);
        let layer = ImageLayer::new(Bytes::copy_from_slice(layer), media_type.to_owned(), None);
        let config = Config::new(&b"{}"[..], "application/vnd.wasm.config.v0+json".to_owned(), None);
        let reference: Reference = image.parse()?;
        self.client
            .push(&reference, &[layer], config, &RegistryAuth::Anonymous, None)
            .await
            .with_context(|| format!("pushing {image}"))?;
        Ok(image)
    }

    /// The digest of an image's manifest.
    pub async fn digest(&self, image: &str) -> Result<String> {
        let digest = self.client.fetch_manifest_digest(&image.parse()?, &RegistryAuth::Anonymous).await;
        digest.with_context(|| format!("the digest of {image}"))
    }

    /// The reference of an image in this registry.
    pub fn reference(&self, name_and_tag: &str) -> String {
        format!("{}/{name_and_tag}", self.host)
    }
}
