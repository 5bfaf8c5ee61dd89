//! The operator's admin port. In: its address; out: its pages, and single metrics of them. IO.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use podless_e2e::{Cluster, RELEASE_NAMESPACE};
use tokio::net::TcpStream;

/// An operator's admin port.
pub(crate) struct Admin(pub(crate) String);

impl Admin {
    /// That of an installed operator, by the name of its pod.
    pub(crate) async fn of(cluster: &Cluster, operator: &str) -> Result<Self> {
        let pod = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE).get(operator).await?;
        let ip = pod.status.and_then(|status| status.pod_ip).context("the operator has an address")?;
        Ok(Self(format!("{ip}:8080")))
    }

    /// What it answers, whatever the status.
    pub(crate) async fn page(&self, path: &str) -> Result<String> {
        let stream = TcpStream::connect(&self.0).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path).header("host", &self.0).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok(String::from_utf8(body.to_vec())?)
    }

    /// One of its metrics; 0 when it was never counted.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.page("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(|value| value.trim().parse()).transpose()?.unwrap_or(0.0))
    }
}
