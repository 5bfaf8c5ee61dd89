//! Policies on the real cluster: what they do not allow is refused before anything of it is pulled, what serves goes on,
//! and what is revoked is taken off every node while others serve.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use podless_crds::{
    ConditionType::{Available, Permitted, Placed, Ready},
    WasmPolicy,
};
use podless_e2e::{COMPONENT, Cluster, Guest, Plan, Traffic, eventually, get};
use serde_json::{Value, json};

/// A section of no meaning: with it a component has another digest.
const NOTE: &[u8] = b"\0\x05\x04note";

/// Applies a policy for one namespace, and waits until the operator judges by it.
pub(crate) async fn apply(cluster: &Cluster, namespace: &str, mut spec: Value) -> Result<()> {
    spec["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    let object = json!({
        "apiVersion": "podless.dev/v1alpha1", "kind": "WasmPolicy", "metadata": {"name": namespace}, "spec": spec,
    });
    let api = Api::<WasmPolicy>::all(cluster.kube.clone());
    api.patch(namespace, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await?;
    eventually("the policy is applied", Duration::from_secs(30), async || {
        let policy = api.get(namespace).await?;
        let status = policy.status.context("no status")?;
        ensure!(status.observed_generation == policy.metadata.generation, "{status:?}");
        ensure!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "{status:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    Api::<WasmPolicy>::all(cluster.kube.clone()).delete(name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn what_policies_do_not_allow_is_refused_and_what_serves_goes_on() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-policy").await?;
    let registry = &cluster.registry;
    let good = registry.push_guest("hello", "e2e/policy/hello:1").await?;
    let other = registry.push_guest("hello", "e2e/policies/hello:1").await?;
    namespace.apply("before", json!({"image": other, "replicas": 2})).await?;
    let before = namespace.answers("before").await?;
    let prefix = registry.reference("e2e/policy");
    let outbound = json!({"allowedHosts": ["https://*.example.com"]});
    let ceiling = json!({
        "images": [{"prefix": prefix}], "defaultDeny": true,
        "capabilities": {"outboundHttp": outbound}, "limits": {"memory": "64Mi", "replicas": 2},
    });
    apply(&cluster, &namespace.name, ceiling).await?;

    namespace.until_condition("before", Permitted, "False", "PolicyViolation").await?;
    namespace.ready("before").await?;
    ensure!(get(&before, "/").await.is_ok(), "it serves on");
    let fetches = |host: &str| json!({"outboundHttp": {"allowedHosts": [host]}});
    for (name, spec, field) in [
        ("image", json!({"image": other}), "spec.image"),
        ("missing", json!({"image": registry.reference("e2e/nothing:1")}), "spec.image"),
        ("memory", json!({"image": good, "instance": {"memory": "65Mi"}}), "spec.instance.memory"),
        ("logging", json!({"image": good, "capabilities": {"logging": {}}}), "spec.capabilities.logging"),
        ("hosts", json!({"image": good, "capabilities": fetches("https://*")}), "allowedHosts"),
    ] {
        namespace.apply(name, spec).await?;
        let message = namespace.until_condition(name, Ready, "False", "PolicyViolation").await?;
        ensure!(message.contains("WasmPolicy \"e2e-policy\"") && message.contains(field), "{name}: {message}");
    }
    namespace.apply("hosts", json!({"image": good, "capabilities": fetches("https://api.example.com")})).await?;
    namespace.answers("hosts").await?;
    namespace.apply("many", json!({"image": good, "replicas": 5})).await?;
    let message = namespace.until_condition("many", Placed, "False", "PolicyViolation").await?;
    ensure!(message.contains("5 are asked for, 2 are placed"), "{message}");
    namespace.until_condition("many", Available, "True", "Serving").await?;

    // Nothing but the policy was in the way.
    delete(&cluster, &namespace.name).await?;
    for name in ["image", "memory", "logging", "many", "before"] {
        namespace.ready(name).await?;
    }
    namespace.delete().await
}

#[tokio::test]
async fn what_is_revoked_is_taken_off_every_node_while_others_serve() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-revoked").await?;
    let registry = &cluster.registry;
    let good = registry.push_guest("hello", "e2e/revoked:good").await?;
    let bytes = [registry.guest("hello")?.as_slice(), NOTE].concat();
    let bad = registry.push(&bytes, COMPONENT, "e2e/revoked:bad").await?;
    let (digest, fine) = (registry.digest(&bad).await?, registry.digest(&good).await?);
    ensure!(digest != fine, "two images");

    namespace.apply("bad", json!({"image": bad, "replicas": 3})).await?;
    namespace.apply("good", json!({"image": good, "replicas": 2})).await?;
    let (bad_target, good_target) = (namespace.answers("bad").await?, namespace.answers("good").await?);
    let component = namespace.services().get("bad").await?.status.and_then(|s| s.image?.component);
    let component = component.context("the component's digest")?;
    let plan = Plan { guest: Guest::Any, most: Duration::from_secs(240), ..Plan::default() };
    let traffic = Traffic::with(&good_target, plan)?;
    traffic.flows().await?;

    // By the digest of the image, then, after it was allowed again, by that of the component.
    for revoked in [digest, component] {
        apply(&cluster, &namespace.name, json!({"revokedDigests": [revoked]})).await?;
        let message = namespace.until_condition("bad", Ready, "False", "Revoked").await?;
        ensure!(message.contains(&revoked), "{message}");
        eventually("nobody answers for it", Duration::from_secs(30), async || {
            let slice = namespace.slice("bad").await?;
            ensure!(slice.endpoints.is_empty() && get(&bad_target, "/").await.is_err(), "it answers");
            Ok(())
        })
        .await?;
        // Whoever asks for it anew is refused too, in this namespace.
        namespace.apply("again", json!({"image": bad})).await?;
        namespace.until_condition("again", Permitted, "False", "Revoked").await?;
        delete(&cluster, &namespace.name).await?;
        namespace.answers("bad").await?;
        namespace.ready("again").await?;
        namespace.services().delete("again", &DeleteParams::default()).await?;
    }
    // What is revoked makes room for another image at once.
    apply(&cluster, &namespace.name, json!({"revokedDigests": [registry.digest(&bad).await?]})).await?;
    namespace.until_condition("bad", Ready, "False", "Revoked").await?;
    namespace.apply("bad", json!({"image": good, "replicas": 3})).await?;
    namespace.answers("bad").await?;
    let seen = traffic.stop().await?;
    eprintln!("beside what was revoked three times: {seen}");
    seen.none_lost(100)?;
    delete(&cluster, &namespace.name).await?;
    namespace.delete().await
}
