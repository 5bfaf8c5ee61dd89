//! Maintenance under load: nodes that are cordoned, drained, tainted and given back, shims and operators that are rolled
//! out. Nothing is lost.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use podless_e2e::{Cluster, Namespace, Plan, RELEASE_NAMESPACE, Traffic, eventually, soak};
use serde_json::{Value, json};

use crate::crashes::{
    leader::leader,
    nodes::{ready_nodes, serve},
};

/// What old pods may take to be gone: shims go one after another, and drain for twenty seconds.
const PATIENCE: Duration = Duration::from_secs(200);
/// By then a service has left a node that it may not use any more.
const MOVED: Duration = Duration::from_secs(10);
/// By then a node that is back has its share of services: half a minute is waited whether it stays, then one moves every
/// two seconds.
const REBALANCED: Duration = Duration::from_secs(90);

/// How often each thing is done.
fn rounds() -> u32 {
    if soak() { 5 } else { 1 }
}

/// Two services under load: one on every node, and one on a single node, which has nobody to stand in for it.
struct Load {
    everywhere: Traffic,
    single: Traffic,
}

impl Load {
    async fn start(cluster: &Cluster, namespace: &Namespace, image: &str) -> Result<Self> {
        let nodes = cluster.nodes().await?;
        namespace.apply("everywhere", json!({"image": image, "replicas": nodes.len()})).await?;
        namespace.apply("single", json!({"image": image, "replicas": 1})).await?;
        let plan = Plan { most: Duration::from_secs(300) * rounds(), ..Plan::default() };
        let flowing = async |name: &str| {
            namespace.ready(name).await?;
            let traffic = Traffic::with(&namespace.target(name).await?, plan)?;
            traffic.flows().await?;
            anyhow::Ok(traffic)
        };
        let load = Self { everywhere: flowing("everywhere").await?, single: flowing("single").await? };
        serve(namespace, "everywhere", |ready| ready == nodes).await?;
        Ok(load)
    }

    /// Waits until both have had so many good answers more.
    async fn another(&self, count: usize) -> Result<()> {
        self.everywhere.another(count).await?;
        self.single.another(count).await
    }

    /// An error unless each request of both had its answer.
    async fn none_lost(self, least: usize) -> Result<()> {
        let (everywhere, single) = (self.everywhere.stop().await?, self.single.stop().await?);
        eprintln!("on every node: {everywhere}\non a single one: {single}");
        everywhere.none_lost(least)?;
        single.none_lost(least)
    }
}

/// Changes a Node's spec.
async fn change(cluster: &Cluster, node: &str, spec: Value) -> Result<()> {
    let patch = json!({"spec": spec});
    Api::<Node>::all(cluster.kube.clone()).patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// The one taint of a Node.
fn taint(key: &str, effect: &str) -> Value {
    json!({"taints": [{"key": key, "effect": effect}]})
}

/// Takes back all that is done to nodes here.
async fn give_back(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes().await? {
        change(cluster, &node, json!({"taints": null, "unschedulable": null})).await?;
    }
    Ok(())
}

/// A node without an operator: who decides what moves is not to move meanwhile.
async fn spare(cluster: &Cluster) -> Result<String> {
    leader(cluster).await?;
    let (nodes, operators) = (cluster.nodes().await?, cluster.operators().await?);
    let spare = nodes.into_iter().find(|node| operators.iter().all(|(on, _)| on != node));
    spare.context("every node has an operator")
}

/// Has the single service on this node, where it stays though it may go anywhere.
async fn put(namespace: &Namespace, image: &str, node: &str) -> Result<()> {
    for selector in [json!({"kubernetes.io/hostname": node}), json!({})] {
        namespace.apply("single", json!({"image": image, "replicas": 1, "nodeSelector": selector})).await?;
        namespace.ready("single").await?;
        serve(namespace, "single", |ready| ready == [node]).await?;
    }
    Ok(())
}

/// Waits until both services are on these nodes only, in time after `start`; answers where the single one is.
async fn moved(namespace: &Namespace, nodes: &[&String], what: &str, start: Instant) -> Result<String> {
    serve(namespace, "everywhere", |ready| ready.iter().eq(nodes.iter().copied())).await?;
    serve(namespace, "single", |ready| ready.len() == 1 && nodes.contains(&&ready[0])).await?;
    let took = start.elapsed();
    eprintln!("{what}: moved after {took:.1?}");
    ensure!(took < MOVED, "{what}: moved after {took:?}");
    ready_nodes(namespace, "single").await?.pop().context("the single service is nowhere")
}

/// The shim's pod on a node, unless it is told to go.
async fn shim_on(cluster: &Cluster, node: &str) -> Result<Option<String>> {
    Ok(cluster.shims().await?.into_iter().find(|(on, _)| on == node).map(|(_, pod)| pod.name_any()))
}

/// Every pod of Podless, also those that are ending.
pub(crate) async fn pods(cluster: &Cluster) -> Result<Vec<String>> {
    let api = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let podless = ListParams::default().labels("app.kubernetes.io/component in (operator, shim)");
    Ok(api.list(&podless).await?.iter().map(|pod| pod.name_any()).collect())
}

/// Waits until none of these pods is there any more.
pub(crate) async fn gone(cluster: &Cluster, old: &[String]) -> Result<()> {
    eventually("the old pods are gone", PATIENCE, async || {
        let left: Vec<_> = pods(cluster).await?.into_iter().filter(|pod| old.contains(pod)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// One node is evicted, another is about to be taken away by the cluster autoscaler, a third is drained.
async fn maintain(cluster: &Cluster, namespace: &Namespace, image: &str, round: u32, load: &Load) -> Result<()> {
    let nodes = cluster.nodes().await?;
    let without = |away: &[&str]| nodes.iter().filter(|node| !away.contains(&node.as_str())).collect::<Vec<_>>();
    let first = spare(cluster).await?;
    put(namespace, image, &first).await?;

    // With everything else its shim has to go, which does not tolerate this: it serves on until nobody comes any more.
    let shim = shim_on(cluster, &first).await?.context("a shim")?;
    let start = Instant::now();
    change(cluster, &first, taint("e2e.podless.dev/maintenance", "NoExecute")).await?;
    let second = moved(namespace, &without(&[&first]), "a node that is evicted", start).await?;
    eventually("its shim is told to go", PATIENCE, async || {
        let there = shim_on(cluster, &first).await?;
        ensure!(there.is_none(), "{there:?}");
        Ok(())
    })
    .await?;

    let stays = shim_on(cluster, &second).await?;
    let start = Instant::now();
    change(cluster, &second, taint("ToBeDeletedByClusterAutoscaler", "NoSchedule")).await?;
    let third = moved(namespace, &without(&[&first, &second]), "a node that is to be taken away", start).await?;
    ensure!(shim_on(cluster, &second).await? == stays, "the shim of {second} went");
    load.another(60).await?;

    give_back(cluster).await?;
    serve(namespace, "everywhere", |ready| ready == nodes).await?;
    let back = ready_nodes(namespace, "single").await?;
    ensure!(back == [third.as_str()], "it moved from {third} to {back:?} without need");
    gone(cluster, &[shim]).await?;
    load.another(60).await?;

    let start = Instant::now();
    change(cluster, &third, json!({"unschedulable": true})).await?;
    moved(namespace, &without(&[&third]), "a node that is cordoned", start).await?;
    let drain = ["kubectl", "drain", &third, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"];
    cluster.harness(&drain).await?;
    // What comes meanwhile does not go there.
    let late = format!("late-{round}");
    namespace.apply(&late, json!({"image": image, "replicas": nodes.len()})).await?;
    namespace.ready(&late).await?;
    serve(namespace, &late, |ready| ready.iter().eq(without(&[&third]))).await?;
    give_back(cluster).await?;
    serve(namespace, "everywhere", |ready| ready == nodes).await?;
    load.another(120).await
}

#[tokio::test]
async fn nodes_are_evicted_taken_away_and_drained_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    // A test before this one may have been killed.
    give_back(&cluster).await?;
    let namespace = cluster.namespace("e2e-maintenance").await?;
    let image = cluster.registry.push_guest("probe", "e2e/maintenance:1").await?;
    let load = Load::start(&cluster, &namespace, &image).await?;
    for round in 1..=rounds() {
        let maintained = maintain(&cluster, &namespace, &image, round, &load).await;
        give_back(&cluster).await?;
        maintained?;
    }
    load.none_lost(500).await?;
    leader(&cluster).await?;
    namespace.delete().await
}

/// Services of one replica each, which nothing but the share of their nodes has move.
#[tokio::test]
async fn a_node_that_comes_back_gets_its_share_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    give_back(&cluster).await?;
    let namespace = cluster.namespace("e2e-rebalance").await?;
    let image = cluster.registry.push_guest("probe", "e2e/rebalance:1").await?;
    leader(&cluster).await?;
    let names: Vec<_> = (1..=12).map(|i| format!("single-{i}")).collect();
    for name in &names {
        namespace.apply(name, json!({"image": image, "replicas": 1})).await?;
    }
    for name in &names {
        namespace.ready(name).await?;
    }
    let mut traffic = vec![];
    for name in &names {
        let plan = Plan { rate: 4, most: Duration::from_secs(300), ..Plan::default() };
        let flows = Traffic::with(&namespace.target(name).await?, plan)?;
        flows.flows().await?;
        traffic.push(flows);
    }
    // How many of them each node has.
    let shares = async || {
        let mut shares: BTreeMap<_, _> = cluster.nodes().await?.into_iter().map(|node| (node, 0)).collect();
        for name in &names {
            let ready = ready_nodes(&namespace, name).await?;
            ensure!(ready.len() == 1, "{name} is on {ready:?}");
            *shares.entry(ready[0].clone()).or_default() += 1;
        }
        anyhow::Ok(shares)
    };
    let away = spare(&cluster).await?;
    change(&cluster, &away, json!({"unschedulable": true})).await?;
    eventually("the services have left the cordoned node", MOVED * 2, async || {
        let shares = shares().await?;
        ensure!(shares[&away] == 0, "{shares:?}");
        Ok(())
    })
    .await?;
    give_back(&cluster).await?;
    let back = Instant::now();
    let even = eventually("the node has its share again", REBALANCED, async || {
        let shares = shares().await?;
        ensure!(shares[&away] >= 2, "{shares:?}");
        Ok(shares)
    })
    .await?;
    eprintln!("{:.1?} after it came back: {even:?}", back.elapsed());
    // Of one, and so of all.
    traffic[0].another(20).await?;
    for (name, traffic) in names.iter().zip(traffic) {
        let seen = traffic.stop().await?;
        seen.none_lost(40).with_context(|| name.clone())?;
    }
    namespace.delete().await
}

/// As an upgrade of the chart does it: both at the same time.
#[tokio::test]
async fn shims_and_operators_are_rolled_out_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-rollout").await?;
    let image = cluster.registry.push_guest("probe", "e2e/rollout:1").await?;
    leader(&cluster).await?;
    let nodes = cluster.nodes().await?;
    let load = Load::start(&cluster, &namespace, &image).await?;
    for round in 1..=rounds() {
        let (old, start) = (pods(&cluster).await?, Instant::now());
        let both = ["deployment/podless-operator", "daemonset/podless-shim"];
        let restart = [&["kubectl", "rollout", "restart", "--namespace", RELEASE_NAMESPACE][..], &both].concat();
        cluster.harness(&restart).await?;
        // Each is told to go when the one that replaces it is there.
        gone(&cluster, &old).await?;
        eprintln!("all of {} pods replaced after {:.1?}", old.len(), start.elapsed());
        serve(&namespace, "everywhere", |ready| ready == nodes).await?;
        leader(&cluster).await?;
        let after = format!("after-{round}");
        namespace.apply(&after, json!({"image": image, "replicas": nodes.len()})).await?;
        namespace.ready(&after).await?;
        load.another(120).await?;
    }
    load.none_lost(500).await?;
    namespace.delete().await
}
