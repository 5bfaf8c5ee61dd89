//! Nodes without power and links that are cut: the operator's own detection takes the endpoints of the one within six
//! seconds and none of the other's. An API server that is away stops nobody from serving.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use podless_crds::WasmNode;
use podless_e2e::{Cluster, Namespace, Plan, RELEASE_NAMESPACE, SUPERVISING_SHIM, Traffic, eventually, get, soak};
use serde_json::json;

use super::leader::{leader, node_of};

const PATIENCE: Duration = Duration::from_secs(120);
/// A new leader ejects nobody for this long, and a bit.
const GRACE: Duration = Duration::from_secs(25);

/// Nodes whose endpoint of the service is ready.
async fn ready_nodes(namespace: &Namespace, service: &str) -> Result<Vec<String>> {
    let slice = namespace.slice(service).await?;
    let ready = slice.endpoints.into_iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    let mut nodes: Vec<_> = ready.filter_map(|e| e.node_name).collect();
    nodes.sort();
    Ok(nodes)
}

/// Waits until the leader has led for long enough to eject.
async fn settled(cluster: &Cluster) -> Result<String> {
    let leader = leader(cluster).await?;
    let leases = Api::<Lease>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    eventually("the leader's grace is over", PATIENCE, async || {
        let acquired = leases.get("podless-operator").await?.spec.and_then(|s| s.acquire_time).context("a time")?;
        let led = k8s_openapi::jiff::Timestamp::now().duration_since(acquired.0).unsigned_abs();
        ensure!(led > GRACE, "{led:?}");
        Ok(())
    })
    .await?;
    Ok(leader)
}

/// Whether the operator has the link of a node's shim.
async fn linked(cluster: &Cluster, node: &str) -> Result<bool> {
    let status = Api::<WasmNode>::all(cluster.kube.clone()).get(node).await?.status.context("a status")?;
    Ok(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[tokio::test]
async fn a_node_without_power_loses_its_endpoints_within_six_seconds() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-power").await?;
    let image = cluster.registry.push_guest("probe", "e2e/power:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let leader = settled(&cluster).await?;
    let nodes = cluster.nodes().await?;
    // Where another operator is may go; the leader's own node is a matter of the lease.
    let led_from = nodes[node_of(&cluster, &leader).await? - 1].clone();
    let victim = nodes.iter().rfind(|node| **node != led_from).context("another node")?.clone();
    let number = cluster.number(&victim).await?.to_string();
    let plan = Plan { most: Duration::from_secs(400), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;
    let began = Instant::now();

    let (off, at) = (Instant::now(), began.elapsed());
    cluster.harness(&["node", "off", &number]).await?;
    eventually("its endpoint is not ready", PATIENCE, async || {
        let ready = ready_nodes(&namespace, "probe").await?;
        ensure!(!ready.contains(&victim), "{ready:?}");
        Ok(())
    })
    .await?;
    let (took, gone) = (off.elapsed(), began.elapsed());
    eprintln!("the endpoint of a node without power was gone after {took:.1?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    let moved = namespace.ready("probe").await?.status.context("a status")?;
    assert!(moved.placements.iter().all(|place| place.node != victim) && moved.ready_replicas == 3, "{moved:?}");

    cluster.harness(&["node", "on", &number]).await?;
    eventually("it serves again", PATIENCE, async || {
        let ready = ready_nodes(&namespace, "probe").await?;
        ensure!(ready == nodes, "{ready:?}");
        Ok(())
    })
    .await?;
    namespace.ready("probe").await?;
    let seen = traffic.stop().await?;
    eprintln!("node without power: {seen}");
    // kube-proxy needs a moment, and who waits on a dead connection gives up three seconds later.
    let last = gone + Duration::from_secs(5);
    let outside = seen.failed.iter().find(|loss| loss.at + Duration::from_secs(4) < at || loss.at > last);
    assert!(outside.is_none(), "lost at another time than {at:?} to {last:?}: {outside:?}");
    namespace.delete().await
}

#[tokio::test]
async fn a_shim_that_lost_nothing_but_its_link_keeps_its_endpoints() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-cut").await?;
    let image = cluster.registry.push_guest("probe", "e2e/cut:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let leader = settled(&cluster).await?;
    let nodes = cluster.nodes().await?;
    let led_from = &nodes[node_of(&cluster, &leader).await? - 1];
    let victim = nodes.iter().find(|node| *node != led_from).context("another node")?;
    let number = cluster.number(victim).await?;
    let before = namespace.slice("probe").await?.endpoints;
    let traffic = Traffic::echo(&namespace.target("probe").await?)?;
    traffic.flows().await?;

    let cut = "nft 'add table inet cut; add chain inet cut forward { type filter hook forward priority 0; }; \
               add rule inet cut forward tcp dport 9443 drop'";
    cluster.on_node(number, cut).await?;
    eventually("its link is down", PATIENCE, async || {
        ensure!(!linked(&cluster, victim).await?, "still up");
        Ok(())
    })
    .await?;
    let down = Instant::now();
    eventually("twice the time of an ejection has passed", PATIENCE, async || {
        assert_eq!(namespace.slice("probe").await?.endpoints, before, "after {:?}", down.elapsed());
        ensure!(down.elapsed() > Duration::from_secs(12), "{:?}", down.elapsed());
        Ok(())
    })
    .await?;
    cluster.on_node(number, "nft delete table inet cut").await?;
    eventually("its link is up", PATIENCE, async || {
        ensure!(linked(&cluster, victim).await?, "still down");
        Ok(())
    })
    .await?;
    assert_eq!(namespace.slice("probe").await?.endpoints, before);
    let seen = traffic.stop().await?;
    eprintln!("link cut: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

#[tokio::test]
async fn without_the_api_server_everything_serves_and_a_shim_container_comes_back() -> Result<()> {
    let away_for = Duration::from_secs(if soak() { 300 } else { 20 });
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-apiless").await?;
    let image = cluster.registry.push_guest("probe", "e2e/apiless:1").await?;
    namespace.apply("here", json!({"image": image, "replicas": 1})).await?;
    namespace.apply("there", json!({"image": image, "replicas": 1})).await?;
    let node_of = async |name: &str| -> Result<String> {
        let status = namespace.ready(name).await?.status.context("a status")?;
        Ok(status.placements.first().context("a placement")?.node.clone())
    };
    let (here, there) = (node_of("here").await?, node_of("there").await?);
    ensure!(here != there, "both services are on one node");
    let number = cluster.number(&here).await?;
    // A container that has ended before waits for as long as the kubelet has it wait.
    let bound = if cluster.shim_restarts(&here).await? == 0 { Duration::from_secs(2) } else { away_for };
    let plan = Plan { most: away_for * 2 + PATIENCE * 2, ..Plan::default() };
    let (killed, other) = (
        Traffic::with(&namespace.target("here").await?, plan)?,
        Traffic::with(&namespace.target("there").await?, plan)?,
    );
    killed.flows().await?;
    other.flows().await?;

    cluster.harness(&["apiserver", "stop"]).await?;
    let start = Instant::now();
    cluster.on_node(number, &format!("kill -9 $({SUPERVISING_SHIM})")).await?;
    eventually("it was away for long enough", away_for * 2, async || {
        ensure!(start.elapsed() > away_for, "{:?}", start.elapsed());
        Ok(())
    })
    .await?;
    cluster.harness(&["apiserver", "start"]).await?;
    eventually("somebody leads again", PATIENCE, async || leader(&cluster).await).await?;
    namespace.apply("here", json!({"image": image, "replicas": 2})).await?;
    eventually("a change takes effect", PATIENCE, async || {
        ensure!(ready_nodes(&namespace, "here").await?.len() == 2, "not yet");
        Ok(())
    })
    .await?;
    eventually("what was not touched has an endpoint", PATIENCE, async || {
        ensure!(ready_nodes(&namespace, "there").await?.len() == 1, "none");
        Ok(())
    })
    .await?;
    // kube-proxy comes back to the API server in its own time: not before that is the cluster as it was.
    namespace.apply("after", json!({"image": image, "replicas": 1})).await?;
    namespace.ready("after").await?;
    let target = namespace.target("after").await?;
    eventually("a new service is reached", PATIENCE, async || {
        let answer = get(&target, "/").await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        Ok(())
    })
    .await?;
    let (killed, other) = (killed.stop().await?, other.stop().await?);
    eprintln!("API server away; shim container killed: {killed}\nelsewhere: {other}");
    assert!(killed.longest_gap < bound, "longer than {bound:?}: {killed}");
    other.none_lost(500)?;
    namespace.delete().await
}
