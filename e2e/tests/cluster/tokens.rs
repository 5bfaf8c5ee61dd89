//! Tokens that are none of a shim's at its own place: each is refused by what the real API server says of it, and
//! counted by its reason.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
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

use crate::{admin::Admin, crashes::leader::leader};

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
    let leader = leader(&cluster).await?;
    let pods = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let ip = pods.get(&leader).await?.status.and_then(|status| status.pod_ip).context("the leader has an address")?;
    let (admin, channel) = (Admin(format!("{ip}:8080")), channel(&cluster, &format!("{ip}:9443")).await?);
    let shims = cluster.shims().await?;

    let accounts = Api::<ServiceAccount>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let stranger = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}});
    accounts.patch("stranger", &PatchParams::apply("e2e"), &Patch::Apply(&stranger)).await?;
    let (_, shim) = &shims[0];
    // Of the shims' account, as a shim is; it is never started, and nobody takes it for one.
    let gone: Pod = serde_json::from_value(json!({
        "metadata": {"name": "gone"},
        "spec": {
            "schedulingGates": [{"name": "podless.dev/never"}], "serviceAccountName": SHIM,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "none", "image": "podless.local/none", "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    }))?;
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    // A test before this one may have failed with it.
    let _ = pods.delete("gone", &at_once).await;
    let gone = pods.create(&PostParams::default(), &gone).await?;
    let of_gone = token(&cluster, SHIM, OURS, Some(&gone)).await?;
    pods.delete("gone", &at_once).await?;
    let spec = TokenReviewSpec { audiences: Some(vec![OURS.to_owned()]), token: Some(of_gone.clone()) };
    let review = TokenReview { spec, ..Default::default() };
    eventually("the API server has heard that the pod is gone", Duration::from_secs(60), async || {
        let reviews = Api::<TokenReview>::all(cluster.kube.clone());
        let status = reviews.create(&PostParams::default(), &review).await?.status.context("a status")?;
        ensure!(status.authenticated != Some(true), "its token is good still");
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
        let before = admin.metric(&name).await?;
        assert_eq!(code(&channel, token.as_deref()).await?, *want, "{reason}");
        assert_eq!(admin.metric(&name).await?, before + 1.0, "{reason}");
    }
    eventually("the shims' own are taken", Duration::from_secs(60), async || {
        let connected = admin.metric("podless_operator_shims_connected").await?;
        ensure!(connected as usize == shims.len(), "{connected} shims");
        Ok(())
    })
    .await?;
    accounts.delete("stranger", &DeleteParams::default()).await?;
    Ok(())
}
