//! The cluster: its API, its nodes and the verbs of the harness. IO.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::{Api, Client, api::ListParams};
use serde_json::json;
use tokio::process::Command;

use crate::{Namespace, RELEASE_NAMESPACE, Registry, env, eventually};

/// A shell line that prints the id of the process that serves on a node: its parent holds the sockets.
pub const SERVING_SHIM: &str = "pgrep -x podless-serve";
/// A shell line that prints the id of that parent, the first process of the shim's container.
pub const SUPERVISING_SHIM: &str = "pgrep -x podless-shim | head -1";

/// A handle on the test cluster.
pub struct Cluster {
    /// A client with all rights.
    pub kube: Client,
    /// The registry beside the cluster.
    pub registry: Registry,
    harness: Vec<String>,
}

impl Cluster {
    /// Connects to the cluster that `make test-cluster` brought up.
    pub async fn connect() -> Result<Self> {
        // Two providers are linked; the first one to be installed is the one that is used.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        env("KUBECONFIG")?;
        let kube = Client::try_default().await.context("the cluster of KUBECONFIG does not answer")?;
        let harness = env("PODLESS_CLUSTER")?.split_whitespace().map(str::to_owned).collect();
        Ok(Self { kube, registry: Registry::new(env("REGISTRY")?)?, harness })
    }

    /// A new, empty namespace; what is in it goes when the test ends well and stays to be looked at when it fails.
    pub async fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(self.kube.clone(), name).await
    }

    /// Runs a verb of the harness, as in `["node", "exec", "1", "--", "true"]`; answers what it printed.
    pub async fn harness(&self, verb: &[&str]) -> Result<String> {
        let [program, args @ ..] = self.harness.as_slice() else { bail!("PODLESS_CLUSTER is empty") };
        let output = Command::new(program).args(args).args(verb).stdin(Stdio::null()).output().await?;
        ensure!(
            output.status.success(),
            "{} {}: {}",
            self.harness.join(" "),
            verb.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs a shell line inside the node of this number, in all of its namespaces.
    pub async fn on_node(&self, node: usize, line: &str) -> Result<String> {
        self.harness(&["node", "exec", &node.to_string(), "--", "sh", "-c", line]).await
    }

    /// Names of the nodes, in the harness's order: node 1 first.
    pub async fn nodes(&self) -> Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.kube.clone()).list(&ListParams::default()).await?;
        let mut names: Vec<_> = nodes.into_iter().filter_map(|n| n.metadata.name).collect();
        names.sort();
        Ok(names)
    }

    /// A further address of the registry: `basic` wants a password, `bearer` a token, `tls` speaks TLS, `private`
    /// wants a token by TLS, and `corrupt` sends other bytes than were asked for by their digest.
    pub async fn gate(&self, kind: &str) -> Result<String> {
        self.harness(&["registry", kind]).await
    }

    /// A secret's `.dockerconfigjson` with the login for an address of the registry.
    pub async fn login(&self, address: &str) -> Result<String> {
        let credentials = self.harness(&["registry", "credentials"]).await?;
        let (username, password) = credentials.split_once(':').context("user:password")?;
        Ok(json!({"auths": {address: {"username": username, "password": password}}}).to_string())
    }

    /// The harness's number of the node of this name.
    pub async fn number(&self, node: &str) -> Result<usize> {
        let position = self.nodes().await?.iter().position(|name| name == node);
        Ok(position.with_context(|| format!("no node {node}"))? + 1)
    }

    /// The process that serves on a node, as the node counts processes.
    pub async fn serving_shim(&self, node: &str) -> Result<String> {
        self.on_node(self.number(node).await?, SERVING_SHIM).await
    }

    /// How long the first process of the shim's container on the node of this number has been running.
    pub async fn shim_age(&self, node: usize) -> Result<Duration> {
        let ask = format!("cut -d' ' -f1 /proc/uptime; cut -d' ' -f22 /proc/$({SUPERVISING_SHIM})/stat");
        let answer = self.on_node(node, &ask).await?;
        let (uptime, started) = answer.split_once('\n').context("two numbers")?;
        // proc_pid_stat(5) counts in ticks, a hundred to the second.
        Ok(Duration::try_from_secs_f64(uptime.parse::<f64>()? - started.parse::<f64>()? / 100.0)?)
    }

    /// How often the shim's container on a node was started again.
    pub async fn shim_restarts(&self, node: &str) -> Result<i32> {
        Ok(self.shim_container(node).await?.restart_count)
    }

    /// Waits until the shim's container on a node was started more often than this, and serves all that it did.
    pub async fn shim_is_back(&self, node: &str, restarts: i32) -> Result<()> {
        eventually(&format!("the shim of {node} is back"), Duration::from_secs(120), async || {
            let container = self.shim_container(node).await?;
            ensure!(container.restart_count > restarts && container.ready, "{container:?}");
            Ok(())
        })
        .await
    }

    async fn shim_container(&self, node: &str) -> Result<ContainerStatus> {
        let (_, pod) =
            self.shims().await?.into_iter().find(|(on, _)| on == node).with_context(|| format!("no shim on {node}"))?;
        let container = pod.status.and_then(|status| status.container_statuses?.into_iter().next());
        container.context("the shim's container has no status")
    }

    /// Every Event about an object of this name.
    pub async fn events(&self, namespace: &str, name: &str) -> Result<Vec<(String, String)>> {
        use k8s_openapi::api::events::v1::Event;
        let events = Api::<Event>::namespaced(self.kube.clone(), namespace).list(&ListParams::default()).await?;
        Ok(events
            .into_iter()
            .filter(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name))
            .map(|e| (e.reason.unwrap_or_default(), e.note.unwrap_or_default()))
            .collect())
    }

    /// The shim pods: (node, pod).
    pub async fn shims(&self) -> Result<Vec<(String, Pod)>> {
        self.release_pods("app.kubernetes.io/component=shim").await
    }

    /// The operator pods: (node, pod).
    pub async fn operators(&self) -> Result<Vec<(String, Pod)>> {
        self.release_pods("app.kubernetes.io/component=operator").await
    }

    async fn release_pods(&self, selector: &str) -> Result<Vec<(String, Pod)>> {
        let api = Api::<Pod>::namespaced(self.kube.clone(), RELEASE_NAMESPACE);
        let pods = api.list(&ListParams::default().labels(selector)).await?;
        Ok(pods
            .into_iter()
            .filter(|p| p.metadata.deletion_timestamp.is_none())
            .filter_map(|p| Some((p.spec.as_ref()?.node_name.clone()?, p)))
            .collect())
    }
}
