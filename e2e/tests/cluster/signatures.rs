//! Images that a policy wants signed, by the real cosign, in both of its formats.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use podless_crds::{ConditionType::Permitted, WasmPolicy};
use podless_e2e::{COMPONENT, Cluster, eventually, get};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

const POLICY: &str = "e2e-signatures";
const NAMESPACE: &str = "e2e-signatures";

/// cosign, and a folder with two keys: `release` and `other`.
pub(crate) struct Cosign {
    program: PathBuf,
    folder: TempDir,
}

impl Cosign {
    pub(crate) async fn with_keys(cluster: &Cluster) -> Result<Self> {
        let this = Self { program: cluster.harness(&["cosign"]).await?.into(), folder: TempDir::new()? };
        for key in ["release", "other"] {
            this.run(&["generate-key-pair", "--output-key-prefix", key]).await?;
        }
        Ok(this)
    }

    /// Signs an image as one does without Sigstore's services; `format` is a flag.
    pub(crate) async fn sign(&self, key: &str, format: &str, image: &str) -> Result<()> {
        let key = format!("{key}.key");
        let offline = ["--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--yes"];
        self.run(&[&["sign", "--key", &key, format][..], &offline, &[image]].concat()).await
    }

    async fn run(&self, args: &[&str]) -> Result<()> {
        let mut cosign = Command::new(&self.program);
        let output = cosign.args(args).current_dir(&self.folder).env("COSIGN_PASSWORD", "test").output().await?;
        ensure!(output.status.success(), "cosign {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(crate) fn public_key(&self, key: &str) -> Result<String> {
        std::fs::read_to_string(self.folder.path().join(format!("{key}.pub"))).context("the public key")
    }
}

/// The formats, by the flag that chooses them: the newer one is a referrer, the older one a tag.
pub(crate) const FORMATS: [(&str, &str); 2] =
    [("bundle", "--new-bundle-format=true"), ("simple", "--new-bundle-format=false")];

#[tokio::test]
async fn only_what_the_key_has_signed_is_served() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace(NAMESPACE).await?;
    let cosign = Cosign::with_keys(&cluster).await?;
    let hello = cluster.registry.guest("hello")?;
    // A digest that is signed is signed wherever it lies: each image is one of its own.
    let push = async |name: &str| -> Result<(String, String)> {
        let component = [&hello, &custom_section(name)[..]].concat();
        let image = cluster.registry.push(&component, COMPONENT, &format!("e2e/signed/{name}")).await?;
        let digest = cluster.registry.digest(&image).await?;
        let (repository, _) = image.rsplit_once(':').context("a tag")?;
        Ok((format!("{repository}@{digest}"), image))
    };
    require(&cluster, &cosign.public_key("release")?).await?;

    let mut others = Vec::new();
    for (name, format) in FORMATS {
        let (digest, image) = push(&format!("{name}:1")).await?;
        cosign.sign("release", format, &digest).await?;
        namespace.apply(name, json!({"image": image})).await?;

        let other = format!("{name}-other");
        let (digest, image) = push(&format!("{other}:1")).await?;
        cosign.sign("other", format, &digest).await?;
        namespace.apply(&other, json!({"image": image})).await?;
        others.push((other, format, digest));
    }
    let (unsigned, image) = push("unsigned:1").await?;
    namespace.apply("unsigned", json!({"image": image})).await?;

    let message = namespace.until_condition("unsigned", Permitted, "False", "SignatureMissing").await?;
    assert!(message.contains(POLICY) && message.contains(&format!("cosign sign --key … {unsigned}")), "{message}");
    for (name, format) in FORMATS {
        let target = namespace.answers(name).await?;
        // An update that nobody has signed is refused, and what served goes on.
        let (digest, image) = push(&format!("{name}:2")).await?;
        namespace.apply(name, json!({"image": image})).await?;
        namespace.until_condition(name, Permitted, "False", "SignatureMissing").await?;
        get(&target, "/").await?;
        // Nobody touches the object: the signature is found.
        cosign.sign("release", format, &digest).await?;
        namespace.ready(name).await?;
        get(&target, "/").await?;
    }
    // The right signature beside another's.
    for (name, format, digest) in others {
        let message = namespace.until_condition(&name, Permitted, "False", "SignatureInvalid").await?;
        assert!(message.contains(POLICY) && message.contains("by somebody else"), "{message}");
        cosign.sign("release", format, &digest).await?;
        namespace.answers(&name).await?;
    }

    policies(&cluster).delete(POLICY, &DeleteParams::default()).await?;
    namespace.delete().await
}

fn policies(cluster: &Cluster) -> Api<WasmPolicy> {
    Api::all(cluster.kube.clone())
}

/// A policy of this test's images alone; that of an earlier run is gone then.
async fn require(cluster: &Cluster, key: &str) -> Result<()> {
    let api = policies(cluster);
    if api.get_opt(POLICY).await?.is_some() {
        api.delete(POLICY, &DeleteParams::default()).await?;
        eventually("the policy of an earlier run is gone", Duration::from_secs(30), async || {
            ensure!(api.get_opt(POLICY).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
    }
    let policy = serde_json::from_value(json!({
        "apiVersion": "podless.dev/v1alpha1", "kind": "WasmPolicy", "metadata": {"name": POLICY},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
            "images": [{
                "prefix": cluster.registry.reference("e2e/signed"),
                "signatures": [{"keys": [{"inline": key}]}],
            }],
        },
    }))?;
    api.create(&PostParams::default(), &policy).await?;
    eventually("the policy is known", Duration::from_secs(30), async || {
        let status = api.get(POLICY).await?.status.unwrap_or_default();
        ensure!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "{status:?}");
        Ok(())
    })
    .await
}

/// A section that changes nothing but the digest.
pub(crate) fn custom_section(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX).min(100);
    [&[0, length + 1, length][..], &name.as_bytes()[..length.into()]].concat()
}
