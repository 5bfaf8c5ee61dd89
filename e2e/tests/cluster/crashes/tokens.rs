//! Tokens that are none of a shim's at its own place: each is refused by what the real API server says of it, and
//! counted by its reason.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use podless_e2e::{Cluster, RELEASE_NAMESPACE, eventually};
use podless_link::v1::{FetchRequest, link_client::LinkClient};
use serde_json::{Value, json};
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::operator::{Operator, scale_installed};

const SHIM: &str = "podless-shim";
const OURS: &str = "podless-link";

/// A token as the API server gives it: of an account, for an audience, bound to a pod or to nothing.
async fn token(cluster: &Cluster, account: &str, audience: &str, pod: Option<&Pod>) -> Result<String> {
    let mut spec = json!({"audiences": [audience], "expirationSeconds": 600});
    if let Some(pod) = pod {
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    }
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{RELEASE_NAMESPACE}/serviceaccounts/{account}/token");
    let request =
        http::Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(&body)?)?;
    let answer: Value = cluster.kube.request(request).await?;
    Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
}

async fn channel(cluster: &Cluster, link: &str) -> Result<Channel> {
    let trust = Api::<ConfigMap>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE).get("podless-trust").await?;
    let ca = trust.data.and_then(|mut data| data.remove("ca.crt")).context("ca.crt")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(format!("podless-link.{RELEASE_NAMESPACE}.svc"));
    Ok(Endpoint::from_shared(format!("https://{link}"))?.tls_config(tls)?.connect().await?)
}

async fn code(channel: &Channel, token: Option<&str>) -> Result<Code> {
    let mut request = Request::new(FetchRequest { sha256: String::new() });
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    let answer = LinkClient::new(channel.clone()).fetch(request).await;
    Ok(answer.err().context("it was answered")?.code())
}

#[tokio::test]
async fn tokens_that_are_none_of_a_shims_at_its_place_are_refused_and_counted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    scale_installed(&cluster, 0).await?;
    let operator = Operator::start(&cluster, 300).await?;
    let shims = cluster.shims().await?;
    operator.leads(shims.len()).await?;
    let channel = channel(&cluster, &operator.link).await?;

    let accounts = Api::<ServiceAccount>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let stranger = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}});
    accounts.patch("stranger", &PatchParams::apply("e2e"), &Patch::Apply(&stranger)).await?;
    let pods = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let (node, shim) = &shims[0];
    // Of the shims' account and on a node, as a shim is; what it runs does not matter.
    let gone: Pod = serde_json::from_value(json!({
        "metadata": {"name": "gone"},
        "spec": {
            "nodeName": node, "serviceAccountName": SHIM, "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "none", "image": "podless.local/none", "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    }))?;
    let gone = pods.create(&PostParams::default(), &gone).await?;
    let of_gone = token(&cluster, SHIM, OURS, Some(&gone)).await?;
    pods.delete("gone", &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await?;
    eventually("the pod is gone", Duration::from_secs(30), async || {
        ensure!(pods.get_opt("gone").await?.is_none(), "still there");
        Ok(())
    })
    .await?;

    // What it says of itself is believed for the reason only: the API server refuses it whatever it says.
    let expired = "eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDAsImF1ZCI6WyJwb2RsZXNzLWxpbmsiXX0.c2lnbmF0dXJl".to_owned();
    let table = [
        ("no-token", None, Code::Unauthenticated),
        ("expired", Some(expired), Code::Unauthenticated),
        ("audience", Some(token(&cluster, SHIM, "https://elsewhere", Some(shim)).await?), Code::Unauthenticated),
        ("invalid", Some(of_gone), Code::Unauthenticated),
        ("account", Some(token(&cluster, "stranger", OURS, None).await?), Code::PermissionDenied),
        ("unbound", Some(token(&cluster, SHIM, OURS, None).await?), Code::PermissionDenied),
        // A shim's own, shown from elsewhere.
        ("address", Some(token(&cluster, SHIM, OURS, Some(shim)).await?), Code::PermissionDenied),
    ];
    for (reason, token, want) in &table {
        let name = format!("podless_operator_link_refusals_total{{reason=\"{reason}\"}}");
        let before = operator.metric(&name).await?;
        assert_eq!(code(&channel, token.as_deref()).await?, *want, "{reason}");
        assert_eq!(operator.metric(&name).await?, before + 1.0, "{reason}");
    }
    operator.leads(shims.len()).await?;
    accounts.delete("stranger", &DeleteParams::default()).await?;
    operator.stop().await?;
    scale_installed(&cluster, 2).await
}
