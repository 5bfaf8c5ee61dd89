//! Where trust begins: the operator makes its own authority, certificate and seal key, keeps them in a Secret and
//! publishes the public halves. In: the release's namespace; out: the keys, and new ones in time. IO; `keys` and
//! `rotation` decide, `signing` hands out the key that seals.

mod keys;
mod make;
mod rotation;
mod signing;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use podless_crds::FIELD_MANAGER;
use podless_link::{LINK_SERVICE, TRUST_CA, TRUST_CONFIG_MAP, TRUST_SEAL};
use serde_json::json;
use tokio::sync::watch;
use tonic::transport::Identity;

use crate::{
    build::{Builds, Registry},
    keep,
    link::Hub,
    metrics::Metrics,
    wake::Wake,
};
pub use keys::{KeyError, Keys};
use rotation::{Asked, Turn, at_start, turn};
pub use signing::{Resealed, Signing};

/// Name of the Secret.
const SECRET: &str = "podless-keys";
/// Annotation of the Secret by which somebody asks for new keys.
const ROTATE: &str = "podless.dev/rotate";
/// In a hurry, how long shims have at least: those that were about to connect are heard.
const LEAST: Duration = Duration::from_secs(20);
/// How often Secret and ConfigMap are looked at.
const LOOK: Duration = Duration::from_secs(5);

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

/// The keys: those there are, or new ones. Publishes their public halves.
pub async fn establish(client: &Client, namespace: &str) -> Result<Keys, TrustError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let (dns_name, now) = (dns_name(namespace), SystemTime::now());
    let keys = match secrets.get_opt(SECRET).await? {
        Some(found) => {
            let keys = read(&found)?;
            let turn = at_start(&keys, &dns_name, now)?;
            if turn.keys != keys {
                write(&secrets, &found, &turn).await?;
            }
            turn.keys
        }
        None => {
            let keys = create(&secrets, Keys::generate(&dns_name, now)?).await?;
            tracing::info!("new keys were made");
            keys
        }
    };
    publish(client, namespace, &keys).await?;
    Ok(keys)
}

fn dns_name(namespace: &str) -> String {
    format!("{LINK_SERVICE}.{namespace}.svc")
}

/// Certificate and key of the link's server.
pub fn identity(keys: &Keys) -> Identity {
    Identity::from_pem(&keys.tls_cert, &keys.tls_key)
}

fn read(secret: &Secret) -> Result<Keys, KeyError> {
    let text = |ByteString(bytes): &ByteString| String::from_utf8(bytes.clone()).unwrap_or_default();
    Keys::read(secret.data.iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect())
}

/// Creates the Secret; when somebody else has in the meantime, theirs counts.
async fn create(secrets: &Api<Secret>, keys: Keys) -> Result<Keys, TrustError> {
    let data = keys.data().into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let secret = Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..Default::default() },
        type_: Some("Opaque".to_owned()),
        string_data: Some(data.collect()),
        ..Default::default()
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    match secrets.create(&params, &secret).await {
        Ok(_) => Ok(keys),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(read(&secrets.get(SECRET).await?)?),
        Err(error) => Err(error.into()),
    }
}

/// Writes what has turned, unless somebody has changed the Secret since it was read.
async fn write(secrets: &Api<Secret>, found: &Secret, turn: &Turn) -> Result<(), kube::Error> {
    let data: BTreeMap<_, _> =
        turn.keys.data().into_iter().map(|(name, value)| (name, value.map(|value| BASE64.encode(value)))).collect();
    let mut patch = json!({ "metadata": { "resourceVersion": found.resource_version() }, "data": data });
    if turn.heard {
        patch["metadata"]["annotations"] = json!({ ROTATE: null });
    }
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    secrets.patch(SECRET, &params, &Patch::Merge(&patch)).await.map(|_| ())
}

/// Applies the ConfigMap; what is as it should be is not written. Answers whether it was.
async fn publish(client: &Client, namespace: &str, keys: &Keys) -> Result<bool, kube::Error> {
    let data = BTreeMap::from([(TRUST_CA, keys.authorities()), (TRUST_SEAL, keys.seals())]);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRUST_CONFIG_MAP}, "data": data});
    keep::keep(&Api::<ConfigMap>::namespaced(client.clone(), namespace), TRUST_CONFIG_MAP, body).await
}

/// Keeps the keys for as long as this replica leads: what is published stays so, what is old or unwanted is changed.
pub struct Trust {
    /// The API server.
    pub client: Client,
    /// Namespace of the release.
    pub namespace: String,
    /// How long shims may take to learn of what was published.
    pub overlap: Duration,
    /// The shims, which say what they trust.
    pub hub: Arc<Hub>,
    /// Told of another seal key.
    pub signing: Arc<Signing>,
    /// As is the cache of artifacts.
    pub artifacts: Arc<Registry>,
    /// What is to be sealed with it.
    pub builds: Arc<Builds>,
    /// Has every service planned anew.
    pub wake: Wake,
    /// Told of another certificate.
    pub certificate: watch::Sender<Identity>,
    /// Counts.
    pub metrics: Metrics,
}

impl Trust {
    /// Begins with the keys that [`establish`] has published just now.
    pub async fn keep(self, mut keys: Keys) -> std::convert::Infallible {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look(&keys, since.elapsed()).await {
                Ok(Some(new)) => (keys, since) = (new, Instant::now()),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "keys and trust cannot be kept for now"),
            }
        }
    }

    /// One look; answers what is published from now on, when it is something else or was not so.
    async fn look(&self, keys: &Keys, since: Duration) -> Result<Option<Keys>, TrustError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let now = SystemTime::now();
        let new = match secrets.get_opt(SECRET).await? {
            Some(found) => {
                let there = read(&found)?;
                let wish = found.annotations().get(ROTATE);
                let (asked, unknown) = Asked::read(wish.map_or("", |wish| wish.as_str()));
                if !unknown.is_empty() {
                    tracing::warn!(
                        ?unknown,
                        "annotation {ROTATE} of {SECRET}: write tls, ca or seal, and ! after it when it has leaked"
                    );
                }
                // In a hurry, who is connected has to say so; who is not is left behind.
                let known = || since >= LEAST && self.hub.sessions().all_trust(&keys.trust());
                let settled = there == *keys && (since >= self.overlap || asked.at_once && known());
                let turn = turn(&there, asked, settled, &dns_name(&self.namespace), now)?;
                if turn.keys != there || wish.is_some() && turn.heard {
                    write(&secrets, &found, &turn).await?;
                    tracing::info!(made = ?turn.made, changing = turn.keys.is_changing(), "keys have changed");
                    turn.made.iter().for_each(|key| self.metrics.key_renewed(key));
                }
                turn.keys
            }
            // Shims trust these: others would cut them off.
            None => create(&secrets, keys.clone()).await?,
        };
        let written = publish(&self.client, &self.namespace, &new).await?;
        if new.tls_cert != keys.tls_cert {
            self.certificate.send_replace(identity(&new));
        }
        if new.seals() != keys.seals() {
            self.artifacts.use_key(new.seal_key()?, new.trusted_seals()?).await;
        }
        if self.signing.change(new.seal_key()?) {
            // Also those whose artifact was kept from before a mistake, and are planned with that.
            self.wake.all();
        }
        if new.is_changing() {
            // Also what was sealed in the moment of the change.
            self.builds.reseal(&self.signing);
        }
        Ok((written || new != *keys).then_some(new))
    }
}
