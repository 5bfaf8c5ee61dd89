//! The link itself, with tokens that the API server gave to real pods: who shows a forged one, or another's from its own
//! place, is turned away; a shim is not given what it has not been told of.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use podless_engine::Target;
use podless_link::v1::{FetchRequest, FromShim, Hello, ToShim, from_shim, link_client::LinkClient};
use podless_operator::{
    link::{
        self, Server,
        auth::{Authenticator, SHIM_SERVICE_ACCOUNT},
    },
    metrics::Metrics,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::operator::Operator;

/// A shim's pod: on a node of its own, at an address of loopback.
struct ShimPod {
    ip: Ipv4Addr,
    token: String,
}

async fn shim_pod(operator: &Operator, name: &str, ip: Ipv4Addr) -> Result<ShimPod> {
    let nodes = Api::<Node>::all(operator.kube.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    let _ = nodes.delete(name, &DeleteParams::default()).await;
    nodes.create(&PostParams::default(), &node).await?;
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": SHIM_SERVICE_ACCOUNT, "nodeName": name,
            "containers": [{"name": "none", "image": "podless.local/none", "imagePullPolicy": "Never"}],
        },
    });
    let pods = operator.api::<Pod>();
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let conditions = json!([{"type": "Ready", "status": "True"}]);
    let ips = json!([{"ip": ip.to_string()}]);
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": ips, "conditions": conditions}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": ["podless-link"], "expirationSeconds": 600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.uid()},
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{SHIM_SERVICE_ACCOUNT}/token", operator.namespace);
    let request = http::Request::post(path).header("content-type", "application/json");
    let answer: Value = operator.kube.request(request.body(serde_json::to_vec(&body)?)?).await?;
    Ok(ShimPod { ip, token: answer["status"]["token"].as_str().context("a token")?.to_owned() })
}

/// The token with other claims, under the signature of its own.
fn forged(token: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { anyhow::bail!("no JWT") };
    let mut claims: Value = serde_json::from_slice(&BASE64.decode(claims)?)?;
    change(&mut claims);
    Ok(format!("{header}.{}.{signature}", BASE64.encode(serde_json::to_vec(&claims)?)))
}

/// The link of this operator; where it is and by what it is known.
fn listen(operator: &mut Operator) -> Result<(SocketAddr, String)> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    let identity = Identity::from_pem(cert.pem(), signing_key.serialize_pem());
    // Free now, and nobody else takes any here.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = Server {
        hub: operator.context.hub.clone(),
        auth: Arc::new(Authenticator::new(operator.kube.clone(), &operator.namespace)),
        metrics: Metrics::default(),
    };
    operator.tasks.spawn(async move {
        let (_keep, certificate) = watch::channel(identity);
        let _ = link::serve(server, certificate, address).await;
    });
    Ok((address, cert.pem()))
}

async fn connect(operator: &Operator, address: SocketAddr, authority: &str, from: Ipv4Addr) -> Result<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name("localhost");
    let endpoint =
        Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.local_address(Some(IpAddr::V4(from)));
    operator.until("the link listens", async || Ok(endpoint.connect().await?)).await
}

fn with_token<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

/// What a call of Fetch comes to: the bytes, or why there are none.
async fn fetch(channel: &Channel, token: &str, sha256: &str) -> Result<Result<Vec<u8>, Code>> {
    let request = with_token(FetchRequest { sha256: sha256.to_owned() }, token)?;
    let mut stream = match LinkClient::new(channel.clone()).fetch(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status.code())),
    };
    let mut bytes = vec![];
    while let Some(chunk) = stream.message().await? {
        bytes.extend(chunk.data);
    }
    Ok(Ok(bytes))
}

/// A session of a shim that has said Hello; it ends with the sender.
async fn session(channel: &Channel, token: &str) -> Result<(mpsc::Sender<FromShim>, Streaming<ToShim>)> {
    let (says, said) = mpsc::channel(4);
    let hello = Hello {
        fingerprint: podless_engine::fingerprint(Target::default()),
        target: Target::default().to_string(),
        ..Default::default()
    };
    says.send(FromShim { body: Some(from_shim::Body::Hello(hello)) }).await?;
    let request = with_token(ReceiverStream::new(said), token)?;
    Ok((says, LinkClient::new(channel.clone()).session(request).await?.into_inner()))
}

#[tokio::test]
async fn a_shim_is_who_its_token_says() -> Result<()> {
    let mut operator = Operator::start("op-link").await?;
    let account = json!({"metadata": {"name": SHIM_SERVICE_ACCOUNT}});
    let accounts = operator.api::<ServiceAccount>();
    accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let names = ["link-a", "link-b"];
    let a = shim_pod(&operator, names[0], Ipv4Addr::new(127, 0, 0, 1)).await?;
    let b = shim_pod(&operator, names[1], Ipv4Addr::new(127, 0, 0, 2)).await?;
    let (address, authority) = listen(&mut operator)?;
    let from_a = connect(&operator, address, &authority, a.ip).await?;

    // Claims of another node, of another pod, of no end, and a token that nobody has signed.
    let to_b = |claims: &mut Value| claims["kubernetes.io"]["node"]["name"] = json!(names[1]);
    let of_b = |claims: &mut Value| claims["kubernetes.io"]["pod"]["name"] = json!(names[1]);
    let endless = |claims: &mut Value| claims["exp"] = json!(u32::MAX);
    let unsigned = {
        let claims = a.token.split('.').nth(1).context("claims")?;
        format!("{}.{claims}.", BASE64.encode(r#"{"alg":"none"}"#))
    };
    for token in [&forged(&a.token, to_b)?, &forged(&a.token, of_b)?, &forged(&a.token, endless)?, &unsigned, ""] {
        assert_eq!(fetch(&from_a, token, "good:1").await?, Err(Code::Unauthenticated), "{token}");
        let refused = session(&from_a, token).await.err().context("a session was opened")?;
        ensure!(refused.to_string().contains("not valid") || token.is_empty(), "{refused}");
    }
    assert_eq!(fetch(&from_a, &b.token, "good:1").await?, Err(Code::PermissionDenied), "b's own, shown by a");
    assert!(session(&from_a, &b.token).await.is_err());

    // Its own token lets it in; what it has not been told of, it is not given.
    operator.apply("one", json!({"image": "good:1"})).await?;
    let _session = session(&from_a, &a.token).await?;
    assert_eq!(fetch(&from_a, &a.token, "good:2").await?, Err(Code::NotFound));

    for name in names {
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        operator.api::<Pod>().delete(name, &at_once).await?;
        Api::<Node>::all(operator.kube.clone()).delete(name, &DeleteParams::default()).await?;
    }
    operator.end().await
}
