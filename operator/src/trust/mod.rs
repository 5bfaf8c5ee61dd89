//! Where trust begins: the operator makes its own authority, certificate and seal key, keeps them in a Secret and
//! publishes the public halves. In: the release's namespace; out: the keys. IO.

mod keys;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use podless_crds::FIELD_MANAGER;
use podless_link::{LINK_SERVICE, TRUST_CA, TRUST_CONFIG_MAP, TRUST_SEAL};
use serde_json::json;

pub use keys::{KeyError, Keys};

/// Name of the Secret.
const SECRET: &str = "podless-keys";
/// How often what is published is put right, should somebody have changed it.
const REPAIR: Duration = Duration::from_secs(30);

/// Why there is no trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The API server refused, or was away.
    #[error("the keys cannot be kept: {0}")]
    Api(#[from] kube::Error),
    /// The keys cannot be made or read.
    #[error("Secret {SECRET}: {0}")]
    Keys(#[from] KeyError),
}

/// The keys: those there are, with a fresh certificate, or new ones. Publishes their public halves.
pub async fn establish(client: &Client, namespace: &str) -> Result<Keys, TrustError> {
    let dns_name = format!("{LINK_SERVICE}.{namespace}.svc");
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut keys = match secrets.get_opt(SECRET).await? {
        Some(found) => read(found)?,
        None => create(&secrets, &dns_name).await?,
    };
    if !keys.is_fresh(&dns_name, SystemTime::now()) {
        tracing::info!("the link's certificate is made anew");
        keys.renew(&dns_name, SystemTime::now())?;
        let patch = Patch::Merge(json!({ "stringData": keys.data() }));
        secrets
            .patch(SECRET, &PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() }, &patch)
            .await?;
    }
    publish(client, namespace, &keys).await?;
    Ok(keys)
}

fn read(secret: Secret) -> Result<Keys, KeyError> {
    let text = |ByteString(bytes)| String::from_utf8(bytes).unwrap_or_default();
    Keys::read(secret.data.into_iter().flatten().map(|(name, value)| (name, text(value))).collect())
}

/// Creates the Secret; when somebody else has in the meantime, theirs counts.
async fn create(secrets: &Api<Secret>, dns_name: &str) -> Result<Keys, TrustError> {
    let keys = Keys::generate(dns_name, SystemTime::now())?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..Default::default() },
        type_: Some("Opaque".to_owned()),
        string_data: Some(keys.data()),
        ..Default::default()
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    match secrets.create(&params, &secret).await {
        Ok(_) => {
            tracing::info!("new keys were made");
            Ok(keys)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(read(secrets.get(SECRET).await?)?),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the public halves published for as long as this replica leads: no new shim starts without them.
pub async fn keep(client: Client, namespace: &str, keys: &Keys) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(REPAIR).await;
        if let Err(error) = publish(&client, namespace, keys).await {
            tracing::warn!(%error, "ConfigMap {TRUST_CONFIG_MAP} cannot be kept for now");
        }
    }
}

/// Applies the ConfigMap; what is as it should be is not written.
async fn publish(client: &Client, namespace: &str, keys: &Keys) -> Result<(), TrustError> {
    let seal = keys.seal_key()?.public_pem().map_err(KeyError::from)?;
    let data = BTreeMap::from([(TRUST_CA, keys.ca_cert.clone()), (TRUST_SEAL, seal)]);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRUST_CONFIG_MAP}, "data": data});
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    api.patch(TRUST_CONFIG_MAP, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body)).await?;
    Ok(())
}
