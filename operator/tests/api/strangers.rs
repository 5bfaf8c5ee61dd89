//! Who is no shim is turned away.

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::operator::connect;

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
