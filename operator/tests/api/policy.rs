//! Policies on a real API server: who is held to them, when they come and go, and what a policy that cannot be read does.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{Namespace, Secret},
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use podless_crds::{ConditionType, WasmPolicy};
use serde_json::{Value, json};

use crate::operator::{Operator, told};

const PERMITTED: ConditionType = ConditionType::Permitted;
/// The public half of a key that was made for this.
const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGbzrracJOLTkMEvbbKOi4PmR73Gl\n\
    3khKk3kjsmVBnltpM8Nc4F0oNUIwkGNKgd7AChuh1YrQt9c+dc/bKcGfFg==\n\
    -----END PUBLIC KEY-----\n";

fn api(operator: &Operator) -> Api<WasmPolicy> {
    Api::all(operator.kube.clone())
}

/// Applies a policy for the namespaces with the operator's label, and waits until it is seen.
async fn apply(operator: &Operator, name: &str, mut spec: Value, ready: &str) -> Result<WasmPolicy> {
    spec["namespaceSelector"] = json!({"matchLabels": {"policy": operator.namespace}});
    let object =
        json!({"apiVersion": "podless.dev/v1alpha1", "kind": "WasmPolicy", "metadata": {"name": name}, "spec": spec});
    let params = PatchParams::apply("test").force();
    api(operator).patch(name, &params, &Patch::Apply(&object)).await?;
    seen(operator, name, ready).await
}

/// Waits until the present generation of a policy is Ready, or not.
async fn seen(operator: &Operator, name: &str, ready: &str) -> Result<WasmPolicy> {
    operator
        .until(&format!("policy {name} is {ready}"), async || {
            let policy = api(operator).get(name).await?;
            let status = policy.status.clone().context("no status")?;
            ensure!(status.observed_generation == policy.metadata.generation, "of an earlier generation");
            let condition = status.conditions.first().context("no condition")?;
            ensure!(format!("{} {}", condition.status, condition.reason) == ready, "{condition:?}");
            Ok(policy)
        })
        .await
}

async fn label(operator: &Operator, value: Option<&str>) -> Result<()> {
    let patch = json!({"metadata": {"labels": {"policy": value}}});
    let namespaces = Api::<Namespace>::all(operator.kube.clone());
    namespaces.patch(&operator.namespace, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn clear(operator: &Operator, names: &[&str]) -> Result<()> {
    for name in names {
        // Of an earlier run that failed, or of this one.
        if api(operator).get_opt(name).await?.is_some() {
            api(operator).delete(name, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_service_is_held_to_the_policies_that_select_its_namespace() -> Result<()> {
    let mut operator = Operator::start("op-policy").await?;
    let shim = operator.connect_shim("n1", &[]);
    clear(&operator, &["op-policy"]).await?;
    let quiet = json!({"capabilities": {"outboundHttp": {"allowedHosts": ["https://*.example.com"]}}});
    apply(&operator, "op-policy", quiet.clone(), "True Done").await?;

    // It does not select the namespace yet.
    let logs = json!({"image": "good:1", "capabilities": {"logging": {}}});
    operator.apply("logs", logs.clone()).await?;
    operator.serving("logs").await?;
    // Now it does: what serves goes on and says so, and what is new is refused.
    label(&operator, Some("op-policy")).await?;
    let service = operator.says("logs", PERMITTED, "False PolicyViolation").await?;
    let message = service.status.context("a status")?.conditions;
    let message = &message.iter().find(|c| c.type_ == "Permitted").context("the condition")?.message;
    ensure!(
        message.starts_with("WasmPolicy \"op-policy\" does not allow logging (spec.capabilities.logging)"),
        "{message}"
    );
    operator.serving("logs").await?;
    operator.apply("new", logs.clone()).await?;
    operator.says("new", ConditionType::Ready, "False PolicyViolation").await?;
    let fetches = |host: &str| json!({"image": "good:1", "capabilities": {"outboundHttp": {"allowedHosts": [host]}}});
    operator.apply("far", fetches("https://evil.example")).await?;
    operator.says("far", PERMITTED, "False PolicyViolation").await?;
    operator.apply("far", fetches("https://api.example.com")).await?;
    operator.serving("far").await?;
    // Scaling is no new revision; another revision is one.
    let mut scaled = logs.clone();
    scaled["replicas"] = 2.into();
    operator.apply("logs", scaled.clone()).await?;
    operator.serving("logs").await?;
    scaled["timeoutSeconds"] = 7.into();
    operator.apply("logs", scaled).await?;
    operator.says("logs", ConditionType::Ready, "False PolicyViolation").await?;
    ensure!(operator.slice("logs").await?.endpoints.len() == 1, "what served goes on");
    operator
        .until("an Event names it", async || {
            let events = operator.api::<Event>().list(&Default::default()).await?;
            ensure!(events.iter().any(|e| e.reason.as_deref() == Some("PolicyViolation")), "no Event");
            Ok(())
        })
        .await?;

    // A service may come before the labels of its namespace are known; without the policy everything is as before.
    clear(&operator, &["op-policy"]).await?;
    operator.serving("new").await?;
    operator.serving("logs").await?;
    ensure!(!told(&shim).iter().any(|told| told.starts_with("withdraw")), "nothing was taken away");
    operator.end().await
}

#[tokio::test]
async fn replicas_are_capped_and_digests_revoked_while_it_serves() -> Result<()> {
    let mut operator = Operator::start("op-revoked").await?;
    label(&operator, Some("op-revoked")).await?;
    let (one, two) = (operator.connect_shim("n1", &[]), operator.connect_shim("n2", &[]));
    clear(&operator, &["op-revoked", "op-cap"]).await?;
    // The tests' artifacts are digested by their name.
    let (bad, good) = ("a".repeat(64), "b".repeat(64));
    operator.apply("hello", json!({"image": bad, "replicas": 4})).await?;
    operator.apply("other", json!({"image": good})).await?;
    operator.serving("hello").await?;
    operator.serving("other").await?;

    apply(&operator, "op-cap", json!({"limits": {"replicas": 3}}), "True Done").await?;
    let capped = operator.says("hello", ConditionType::Placed, "False PolicyViolation").await?;
    ensure!(capped.status.context("a status")?.replicas == 3, "it has as many as it may");
    clear(&operator, &["op-cap"]).await?;
    operator.serving("hello").await?;

    apply(&operator, "op-revoked", json!({"revokedDigests": [format!("sha256:{bad}")]}), "True Done").await?;
    operator.says("hello", ConditionType::Ready, "False Revoked").await?;
    operator
        .until("both nodes have let it go", async || {
            ensure!(
                [&one, &two].iter().all(|shim| told(shim).iter().any(|told| told.starts_with("withdraw"))),
                "not yet"
            );
            ensure!(operator.slice("hello").await?.endpoints.is_empty(), "it has endpoints");
            Ok(())
        })
        .await?;
    operator.serving("other").await?;
    // Another image serves; the old one is refused.
    operator.apply("hello", json!({"image": good, "replicas": 4})).await?;
    operator.serving("hello").await?;
    operator.apply("hello", json!({"image": bad, "replicas": 4})).await?;
    operator.says("hello", PERMITTED, "False Revoked").await?;
    ensure!(!operator.slice("hello").await?.endpoints.is_empty(), "what served goes on");
    // Until it is revoked no more.
    clear(&operator, &["op-revoked"]).await?;
    operator.serving("hello").await?;
    operator.end().await
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_refuses_whom_it_concerns() -> Result<()> {
    let mut operator = Operator::start("op-keys").await?;
    label(&operator, Some("op-keys")).await?;
    operator.connect_shim("n1", &[]);
    clear(&operator, &["op-keys"]).await?;
    let key = json!({"secretRef": {"name": "keys", "key": "cosign.pub"}});
    let rule = json!({"prefix": "registry.local/signed", "signatures": [{"keys": [key]}]});
    apply(&operator, "op-keys", json!({"images": [rule]}), "False PolicyInvalid").await?;
    operator.apply("signed", json!({"image": "registry.local/signed/a:1"})).await?;
    operator.apply("other", json!({"image": "registry.local/other/a:1"})).await?;
    operator.says("signed", ConditionType::Ready, "False PolicyViolation").await?;
    operator.serving("other").await?;
    operator
        .until("an Event on the policy", async || {
            let events = Api::<Event>::namespaced(operator.kube.clone(), "default").list(&Default::default()).await?;
            let of = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.clone()).as_deref() == Some("op-keys");
            ensure!(events.iter().any(|e| of(e) && e.reason.as_deref() == Some("PolicyInvalid")), "no Event");
            Ok(())
        })
        .await?;

    // The Secret comes: nobody has to touch anything else. These artifacts are made of nothing, and signed by nobody.
    let secret = json!({"metadata": {"name": "keys"}, "stringData": {"cosign.pub": KEY}});
    operator.api::<Secret>().create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    seen(&operator, "op-keys", "True Done").await?;
    operator.serving("signed").await?;
    operator.api::<Secret>().delete("keys", &DeleteParams::default()).await?;
    seen(&operator, "op-keys", "False PolicyInvalid").await?;
    operator.says("signed", PERMITTED, "False PolicyViolation").await?;
    operator.serving("signed").await?;
    clear(&operator, &["op-keys"]).await?;
    operator.end().await
}

#[tokio::test]
async fn what_a_policy_may_not_say_is_refused_by_its_field() -> Result<()> {
    let operator = Operator::start("op-words").await?;
    let images = |image: Value| json!({"images": [image]});
    let signed = |rule: Value| images(json!({"prefix": "registry.local/a", "signatures": [rule]}));
    let keyless =
        |identity: Value| signed(json!({"keyless": {"identities": [identity], "trustRoot": {"inline": "{}"}}}));
    let selector = |expression: Value| json!({"namespaceSelector": {"matchExpressions": [expression]}});
    for (spec, refused) in [
        (json!({}), None),
        (json!({"defaultDeny": true}), None),
        (images(json!({"prefix": ""})), None),
        (images(json!({"prefix": "docker.io/library"})), None),
        (images(json!({"prefix": "localhost:5000/a/b"})), None),
        (images(json!({"prefix": "registry"})), Some("prefix")),
        (images(json!({"prefix": "library/hello"})), Some("prefix")),
        (images(json!({"prefix": "registry.local/a/"})), Some("prefix")),
        (images(json!({"prefix": "registry.local/a:1.0"})), Some("prefix")),
        (images(json!({"prefix": "https://registry.local"})), Some("prefix")),
        (json!({"images": [{"prefix": "a.b"}, {"prefix": "a.b"}]}), Some("images")),
        (signed(json!({"keys": [{"inline": KEY}]})), None),
        (signed(json!({})), Some("signatures")),
        (signed(json!({"keys": []})), Some("signatures")),
        (signed(json!({"keys": [{}]})), Some("keys")),
        (signed(json!({"keys": [{"inline": KEY, "secretRef": {"name": "s", "key": "k"}}]})), Some("keys")),
        (signed(json!({"keys": [{"secretRef": {"name": "../s", "key": "k"}}]})), Some("name")),
        (keyless(json!({"issuer": "i", "subject": "s"})), None),
        (keyless(json!({"issuer": "i"})), Some("identities")),
        (keyless(json!({"issuer": "i", "subject": "s", "subjectRegex": "s"})), Some("identities")),
        (selector(json!({"key": "a", "operator": "In", "values": ["b"]})), None),
        (selector(json!({"key": "a", "operator": "In"})), Some("matchExpressions")),
        (selector(json!({"key": "a", "operator": "Gt", "values": ["1"]})), Some("operator")),
        (json!({"capabilities": {}}), None),
        (json!({"capabilities": {"outboundHttp": {"allowedHosts": ["example.com"]}}}), Some("allowedHosts")),
        (json!({"limits": {"memory": "32Mi", "replicas": 1}}), None),
        (json!({"limits": {"memory": "some"}}), Some("memory")),
        (json!({"limits": {"replicas": 0}}), Some("replicas")),
        (json!({"limits": {"replicas": null}}), Some("replicas")),
        (json!({"revokedDigests": [format!("sha256:{}", "0".repeat(64))]}), None),
        (json!({"revokedDigests": [format!("sha256:{}", "A".repeat(64))]}), Some("revokedDigests")),
        (json!({"revokedDigest": []}), Some("revokedDigest")),
    ] {
        let object = json!({
            "apiVersion": "podless.dev/v1alpha1", "kind": "WasmPolicy", "metadata": {"name": "op-words"}, "spec": spec,
        });
        let object: kube::api::DynamicObject = serde_json::from_value(object)?;
        let kind = kube::api::ApiResource::erase::<WasmPolicy>(&());
        let api = Api::<kube::api::DynamicObject>::all_with(operator.kube.clone(), &kind);
        let params = PatchParams::apply("test").validation_strict().dry_run().force();
        let answer = api.patch("op-words", &params, &Patch::Apply(&object)).await;
        match (answer, refused) {
            (Ok(_), None) => {}
            (Err(kube::Error::Api(status)), Some(field)) => {
                ensure!(status.message.contains(field), "{spec}: {}", status.message);
            }
            (answer, _) => anyhow::bail!("{spec}: {answer:?}"),
        }
    }
    operator.end().await
}
