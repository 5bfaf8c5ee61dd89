//! Keys that change while traffic runs: certificate, authority and seal key, each by the annotation of the Secret.
//! Nothing is lost, shims connect again by themselves, and what they keep for a restart is sealed anew.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use podless_e2e::{Cluster, Plan, RELEASE_NAMESPACE, SUPERVISING_SHIM, Traffic, eventually};
use serde_json::json;

use super::operator::{Operator, scale_installed};

const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds between two steps of a change: kubelets are told to look at once, and this is what they may take.
const OVERLAP: u64 = 8;

/// How many authorities and seal keys are published.
async fn published(cluster: &Cluster) -> Result<(usize, usize)> {
    let trust = Api::<ConfigMap>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE).get("podless-trust").await?;
    let count = |key: &str| trust.data.as_ref().and_then(|d| d.get(key)).map_or(0, |pem| pem.matches("BEGIN").count());
    Ok((count("ca.crt"), count("seal.pub")))
}

/// A kubelet looks at a pod that has changed at once, and brings its ConfigMaps up to date.
async fn hurry_kubelets(cluster: &Cluster) -> Result<()> {
    let pods = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"test/looked-at": now}}}));
    for (_, pod) in cluster.shims().await? {
        pods.patch(&pod.name_any(), &PatchParams::default(), &patch).await?;
    }
    Ok(())
}

/// An error unless every shim sees so many authorities and seal keys.
async fn seen_by_shims(cluster: &Cluster, want: (usize, usize)) -> Result<()> {
    let count = |file: &str| {
        format!("cat $(find /var/lib/kubelet/pods/*/volumes/kubernetes.io~configmap/trust/{file}) | grep -c BEGIN")
    };
    for number in 1..=cluster.nodes().await?.len() {
        let ca = cluster.on_node(number, &count("ca.crt")).await?;
        let seal = cluster.on_node(number, &count("seal.pub")).await?;
        ensure!((ca.parse::<usize>()?, seal.parse::<usize>()?) == want, "node {number} has {ca} and {seal}");
    }
    Ok(())
}

/// Waits until so many authorities and seal keys are published, and every shim sees them.
async fn becomes(cluster: &Cluster, what: &str, want: (usize, usize)) -> Result<()> {
    eventually(what, PATIENCE, async || {
        let published = published(cluster).await?;
        ensure!(published == want, "{published:?}");
        Ok(())
    })
    .await?;
    eventually(&format!("shims see that {what}"), PATIENCE, async || {
        // Again each time: a kubelet may look before it has heard of the ConfigMap.
        hurry_kubelets(cluster).await?;
        seen_by_shims(cluster, want).await
    })
    .await
}

#[tokio::test]
async fn keys_change_while_traffic_runs_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-keys").await?;
    let image = cluster.registry.push_guest("probe", "e2e/keys:1").await?;
    scale_installed(&cluster, 0).await?;
    let operator = Operator::start(&cluster, OVERLAP).await?;
    let shims = cluster.shims().await?.len();
    operator.leads(shims).await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let plan = Plan { most: Duration::from_secs(500), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;
    let secrets = Api::<Secret>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let rotate = async |what: &str| -> Result<()> {
        let wish = Patch::Merge(json!({"metadata": {"annotations": {"podless.dev/rotate": what}}}));
        secrets.patch("podless-keys", &PatchParams::default(), &wish).await?;
        Ok(())
    };
    let value = async |key: &str| -> Result<Vec<u8>> {
        let data = secrets.get("podless-keys").await?.data.context("data")?;
        Ok(data.get(key).context("the key")?.0.clone())
    };
    // Every shim connects anew: to the certificate, and by the authorities, of now.
    let reconnect = async || -> Result<()> {
        operator.again().await?;
        operator.leads(shims).await
    };

    let tls = value("tls.crt").await?;
    rotate("tls").await?;
    eventually("another certificate", PATIENCE, async || {
        ensure!(value("tls.crt").await? != tls, "still the old one");
        ensure!(!secrets.get("podless-keys").await?.annotations().contains_key("podless.dev/rotate"), "wished still");
        Ok(())
    })
    .await?;
    eventually("it is counted", PATIENCE, async || {
        let renewed = operator.admin.metric("podless_operator_key_renewals_total{key=\"tls\"}").await?;
        ensure!(renewed == 1.0, "{renewed}");
        Ok(())
    })
    .await?;
    reconnect().await?;

    let (ca, seal) = (value("ca.crt").await?, value("seal.key").await?);
    let generation = namespace.slice("probe").await?.annotations()["podless.dev/placements"].clone();
    rotate("ca,seal").await?;
    becomes(&cluster, "the next ones are announced", (2, 2)).await?;
    eventually("they are used", PATIENCE, async || {
        ensure!(value("ca.crt").await? != ca && value("seal.key").await? != seal, "not yet");
        Ok(())
    })
    .await?;
    eventually("everything is sealed anew", PATIENCE, async || {
        ensure!(namespace.slice("probe").await?.annotations()["podless.dev/placements"] != generation, "not yet");
        Ok(())
    })
    .await?;
    namespace.ready("probe").await?;
    reconnect().await?;
    becomes(&cluster, "the old ones are forgotten", (1, 1)).await?;
    reconnect().await?;

    let seen = traffic.stop().await?;
    eprintln!("keys changed: {seen}");
    seen.none_lost(500)?;
    // What a shim keeps is good without the operator and by the new key alone.
    operator.stop().await?;
    let first = &cluster.nodes().await?[0];
    let restarts = cluster.shim_restarts(first).await?;
    cluster.on_node(1, &format!("kill -9 $({SUPERVISING_SHIM})")).await?;
    cluster.shim_is_back(first, restarts).await?;
    let after = Traffic::echo(&namespace.target("probe").await?)?;
    after.flows().await?;
    after.another(300).await?;
    after.stop().await?.none_lost(300)?;
    scale_installed(&cluster, 2).await?;
    namespace.delete().await
}

#[tokio::test]
async fn a_leaked_key_is_forgotten_as_fast_as_shims_learn_of_the_next_one() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-leaked").await?;
    let image = cluster.registry.push_guest("probe", "e2e/leaked:1").await?;
    scale_installed(&cluster, 0).await?;
    // By the clock it would take until tomorrow.
    let operator = Operator::start(&cluster, 86_400).await?;
    operator.leads(cluster.shims().await?.len()).await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let plan = Plan { most: Duration::from_secs(400), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;

    let trust = async || -> Result<String> {
        let trust = Api::<ConfigMap>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE).get("podless-trust").await?;
        trust.data.and_then(|mut data| data.remove("seal.pub")).context("the seal keys")
    };
    let leaked = trust().await?;
    let secrets = Api::<Secret>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let wish = Patch::Merge(json!({"metadata": {"annotations": {"podless.dev/rotate": "seal!"}}}));
    secrets.patch("podless-keys", &PatchParams::default(), &wish).await?;
    let start = std::time::Instant::now();
    eventually("the leaked key is forgotten", PATIENCE * 2, async || {
        hurry_kubelets(&cluster).await?;
        let now = trust().await?;
        ensure!(!now.contains(leaked.trim()) && published(&cluster).await? == (1, 1), "{now}");
        ensure!(!secrets.get("podless-keys").await?.annotations().contains_key("podless.dev/rotate"), "wished still");
        seen_by_shims(&cluster, (1, 1)).await
    })
    .await?;
    eprintln!("forgotten after {:.0?}", start.elapsed());
    namespace.ready("probe").await?;
    let seen = traffic.stop().await?;
    seen.none_lost(500)?;
    operator.stop().await?;
    scale_installed(&cluster, 2).await?;
    namespace.delete().await
}
