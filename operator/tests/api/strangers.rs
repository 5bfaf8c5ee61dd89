//! Who is no shim is turned away, and what a stranger calls a service's is none of it.

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::{core::v1::ServiceAccount, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use podless_operator::reconcile::children::recorded_port;
use serde_json::{Value, json};

use crate::operator::{Operator, connect};

/// Who shows a token that is not a shim's is turned away by what the API server says of it.
#[tokio::test]
async fn a_stranger_is_no_shim() -> Result<()> {
    let kube = connect().await?;
    let auth = podless_operator::link::auth::Authenticator::new(kube.clone(), "default");
    let mut metadata = tonic::metadata::MetadataMap::new();
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("no bearer token")));
    metadata.insert("authorization", "Bearer nonsense".parse()?);
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("not valid")));

    // A real token for the right audience, of another account and bound to no pod.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}});
    let accounts = Api::<ServiceAccount>::namespaced(kube.clone(), "default");
    accounts.patch("stranger", &PatchParams::apply("test"), &Patch::Apply(&account)).await?;
    let request: http::Request<Vec<u8>> = http::Request::post(
        "/api/v1/namespaces/default/serviceaccounts/stranger/token",
    )
    .header("content-type", "application/json")
    .body(serde_json::to_vec(&json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["podless-link"]},
    }))?)?;
    let answer: Value = kube.request(request).await?;
    let token = answer["status"]["token"].as_str().ok_or_else(|| anyhow!("no token"))?;
    metadata.insert("authorization", format!("Bearer {token}").parse()?);
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("not the shims'")));
    Ok(())
}

/// Somebody who may make slices in one namespace gives one the owner of a service in another.
#[tokio::test]
async fn a_strangers_slice_takes_nothing_from_a_service() -> Result<()> {
    let mut operator = Operator::start("op-stranger").await?;
    let shim = operator.connect_shim("n1", &[]);
    operator.apply("mine", json!({"image": "good:1"})).await?;
    let uid = operator.serving("mine").await?.uid().context("a uid")?;
    let before = operator.slice("mine").await?;
    let port = recorded_port(&before).context("a port")?;
    let Operator { kube, namespace, context, tasks } = operator;
    drop((context, tasks, shim));

    let mut theirs = serde_json::to_value(&before)?;
    (theirs["apiVersion"], theirs["kind"]) = (json!("discovery.k8s.io/v1"), json!("EndpointSlice"));
    theirs["metadata"] = json!({
        "name": "mine-podless", "labels": before.labels(), "annotations": before.annotations(),
        "ownerReferences": before.owner_references(),
        // Kubernetes would delete it: such an owner is not there.
        "finalizers": ["podless.dev/test"],
    });
    theirs["ports"][0]["port"] = json!(port + 1);
    // Listed before the service's own.
    let elsewhere = Api::<EndpointSlice>::namespaced(kube.clone(), "default");
    elsewhere.patch("mine-podless", &PatchParams::apply("test").force(), &Patch::Apply(&theirs)).await?;

    let mut operator = Operator::again(kube, &namespace).await?;
    let _shim = operator.connect_shim("n1", &[(uid.as_str(), 1)]);
    assert_eq!(operator.context.ledger().ports.port_of(&uid), Some(port));
    operator.serving("mine").await?;
    assert_eq!(operator.slice("mine").await?.endpoints, before.endpoints);
    elsewhere.delete("mine-podless", &DeleteParams::default()).await?;
    let ends = json!({"metadata": {"finalizers": null}});
    elsewhere.patch("mine-podless", &PatchParams::default(), &Patch::Merge(&ends)).await?;
    operator.end().await
}
