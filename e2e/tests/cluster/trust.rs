//! The whole way of a private image from a registry as registries are: TLS by an authority of the company's own, a token
//! for a password, a signature that a policy wants, and nothing of it for who has not been let in.

use anyhow::{Context, Result, ensure};
use podless_crds::ConditionType::{Audited, Permitted, Precompiled, Ready, Resolved};
use podless_e2e::{COMPONENT, Cluster, condition, get};
use serde_json::json;

use crate::{
    policy,
    signatures::{Cosign, FORMATS, custom_section},
};

#[tokio::test]
async fn a_private_image_serves_who_was_let_in_and_nobody_else() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (ours, theirs) = (cluster.namespace("e2e-trust").await?, cluster.namespace("e2e-trust-others").await?);
    let pushed = cluster.registry.push_guest("hello", "e2e/trust:1").await?;
    let digest = cluster.registry.digest(&pushed).await?;
    let private = cluster.gate("private").await?;
    let by_tag = format!("{private}/e2e/trust:1");

    // Nobody has shown a login: the registry refuses, and by TLS that holds.
    ours.apply("hello", json!({"image": by_tag})).await?;
    let message = ours.until_condition("hello", Resolved, "False", "Unauthorized").await?;
    assert!(message.contains("spec.imagePullSecrets"), "{message}");

    // With the login all of the way goes on by itself, step by step, and what serves is what was pushed.
    ours.pull_secret("login", &cluster.login(&private).await?).await?;
    ours.apply("hello", json!({"image": by_tag, "imagePullSecrets": [{"name": "login"}]})).await?;
    let target = ours.answers("hello").await?;
    assert_eq!(get(&target, "/").await?.body, "Hello from Podless\n");
    let service = ours.services().get("hello").await?;
    for step in [Resolved, Audited, Precompiled, Ready] {
        ensure!(condition(&service, step).is_some_and(|c| c.status == "True"), "{:?}", service.status);
    }
    let status = service.status.context("a status")?;
    assert_eq!(status.image.context("an image")?.digest, digest);
    assert!(!status.imports.is_empty() && !status.artifacts.is_empty());

    // The artifact is in the cache by now. Who names its tag or its digest without a login gets nothing all the same.
    for (name, image) in [("by-tag", by_tag.clone()), ("by-digest", format!("{private}/e2e/trust@{digest}"))] {
        theirs.apply(name, json!({"image": image})).await?;
        theirs.until_condition(name, Resolved, "False", "Unauthorized").await?;
    }
    // Nor does a secret of that name elsewhere help, or the reference of the one who was let in in the same namespace.
    theirs.apply("by-name", json!({"image": by_tag, "imagePullSecrets": [{"name": "login"}]})).await?;
    theirs.until_condition("by-name", Resolved, "False", "PullSecretInvalid").await?;
    ours.apply("no-secret", json!({"image": by_tag})).await?;
    ours.until_condition("no-secret", Resolved, "False", "Unauthorized").await?;
    assert_eq!(get(&target, "/").await?.body, "Hello from Podless\n");
    ours.delete().await?;
    theirs.delete().await
}

/// All of it at once, as a company has it: each of these alone is tested where it belongs.
#[tokio::test]
async fn a_signed_private_image_goes_the_whole_way() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-trust-signed").await?;
    let (private, cosign) = (cluster.gate("private").await?, Cosign::with_keys(&cluster).await?);
    let signatures = json!([{"keys": [{"inline": cosign.public_key("release")?}]}]);
    let images = json!([{"prefix": format!("{private}/e2e/trust-signed"), "signatures": signatures}]);
    policy::apply(&cluster, &namespace.name, json!({"images": images, "defaultDeny": true})).await?;
    namespace.pull_secret("login", &cluster.login(&private).await?).await?;
    let hello = cluster.registry.guest("hello")?;
    for (name, format) in FORMATS {
        let tag = format!("e2e/trust-signed:{name}");
        let component = [&hello[..], &custom_section(&tag)].concat();
        let pushed = cluster.registry.push(&component, COMPONENT, &tag).await?;
        let spec = json!({"image": format!("{private}/{tag}"), "imagePullSecrets": [{"name": "login"}]});
        namespace.apply(name, spec).await?;
        namespace.until_condition(name, Permitted, "False", "SignatureMissing").await?;

        // Who signs does so in the registry as it is inside; the signature is pulled through the same door as the image.
        let (repository, digest) =
            (pushed.trim_end_matches(&format!(":{name}")), cluster.registry.digest(&pushed).await?);
        cosign.sign("release", format, &format!("{repository}@{digest}")).await?;
        let target = namespace.answers(name).await?;
        assert_eq!(get(&target, "/").await?.body, "Hello from Podless\n");
        let service = namespace.services().get(name).await?;
        for step in [Resolved, Permitted, Audited, Precompiled, Ready] {
            ensure!(condition(&service, step).is_some_and(|c| c.status == "True"), "{:?}", service.status);
        }
        assert_eq!(service.status.and_then(|status| status.image).context("an image")?.digest, digest);
    }
    // The same component, signed, of a registry that the policy does not list.
    let elsewhere = cluster.registry.reference("e2e/trust-signed:bundle");
    namespace.apply("elsewhere", json!({"image": elsewhere})).await?;
    namespace.until_condition("elsewhere", Permitted, "False", "PolicyViolation").await?;
    policy::delete(&cluster, &namespace.name).await?;
    namespace.delete().await
}
