//! Nodes without power and links that are cut: the operator's own detection takes the endpoints of the one within six
//! seconds and none of the other's. An API server that is away stops nobody from serving.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::DeleteParams,
    runtime::{WatchStreamExt, watcher},
};
use podless_e2e::{Cluster, Namespace, Plan, RELEASE_NAMESPACE, SUPERVISING_SHIM, Target, Traffic, eventually, soak};
use serde_json::json;
use tokio::task::JoinHandle;

use super::leader::{leader, node_of, succeeded};
use crate::admin::Admin;

const PATIENCE: Duration = Duration::from_secs(120);
/// A new leader ejects nobody for this long, and a bit.
const GRACE: Duration = Duration::from_secs(25);
/// Good answers in a row after which nothing that was sent before can still be lost: four seconds' worth, and who waits
/// for an answer gives up after three.
const AFTERWARDS: usize = 240;

/// Nodes whose endpoint of the service is ready.
pub(crate) async fn ready_nodes(namespace: &Namespace, service: &str) -> Result<Vec<String>> {
    Ok(nodes_of(namespace.slice(service).await?))
}

/// The same of a slice.
fn nodes_of(slice: EndpointSlice) -> Vec<String> {
    let ready = slice.endpoints.into_iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    let mut nodes: Vec<_> = ready.filter_map(|e| e.node_name).collect();
    nodes.sort();
    nodes
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

/// Waits until the nodes whose endpoint is ready are the right ones.
pub(crate) async fn serve(namespace: &Namespace, service: &str, right: impl Fn(&[String]) -> bool) -> Result<()> {
    eventually(&format!("other endpoints of {service}"), PATIENCE, async || {
        let ready = ready_nodes(namespace, service).await?;
        ensure!(right(&ready), "{ready:?}");
        Ok(())
    })
    .await
}

/// The address of a service's endpoint on a node.
async fn address_on(namespace: &Namespace, service: &str, node: &str) -> Result<String> {
    let endpoints = namespace.slice(service).await?.endpoints;
    let there = endpoints.into_iter().find(|endpoint| endpoint.node_name.as_deref() == Some(node));
    there.and_then(|endpoint| endpoint.addresses.into_iter().next()).context("an endpoint there")
}

/// Waits until nothing is lost any more because of a dead address; answers how much was.
///
/// Where the client comes into the cluster, a connection that was tried to that address is remembered for two minutes: who
/// gets its port meanwhile is sent there as well, also when the node is back and the address is nobody's. So it is with
/// kube-proxy, and tells nothing of Podless: it is forgotten at once.
async fn recovered(cluster: &Cluster, traffic: &Traffic, address: &str) -> Result<usize> {
    traffic.recovers(AFTERWARDS).await?;
    // 1 says that there is none.
    cluster.on_node(1, &format!("conntrack -D -p tcp --reply-src {address} >/dev/null || [ $? -eq 1 ]")).await?;
    traffic.recovers(AFTERWARDS).await
}

/// The usual load, under way, for as long as a node may need to come back.
async fn loaded(namespace: &Namespace, service: &str) -> Result<Traffic> {
    let plan = Plan { most: Duration::from_secs(400), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target(service).await?, plan)?;
    traffic.flows().await?;
    Ok(traffic)
}

/// The leader, on another node than this one: there it is told to go.
async fn leader_off(cluster: &Cluster, node: &str) -> Result<String> {
    eventually(&format!("somebody leads elsewhere than on {node}"), PATIENCE, async || {
        let leader = leader(cluster).await?;
        if cluster.number(node).await? == node_of(cluster, &leader).await? {
            let pods = Api::<Pod>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
            pods.delete(&leader, &DeleteParams::default()).await?;
            bail!("{leader} was told to go");
        }
        Ok(leader)
    })
    .await
}

/// All that a service's ready endpoints have been, one after another.
struct History {
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    watch: JoinHandle<()>,
}

impl History {
    fn of(namespace: &Namespace, service: &str) -> Self {
        let seen = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let only = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let mut slices = watcher(namespace.slices(), only).default_backoff().applied_objects().boxed();
        let told = seen.clone();
        let watch = tokio::spawn(async move {
            while let Some(slice) = slices.next().await {
                let Ok(slice) = slice else { continue };
                let (now, mut told) = (nodes_of(slice), told.lock().unwrap_or_else(PoisonError::into_inner));
                if told.last() != Some(&now) {
                    told.push(now);
                }
            }
        });
        Self { seen, watch }
    }

    fn end(self) -> Vec<Vec<String>> {
        self.watch.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// After an outage of the API server kube-proxy comes back to it in its own time, which may be a minute: started anew, at
/// once. Not before every node reaches this new service is the cluster as it was.
pub(crate) async fn proxies_again(cluster: &Cluster, new: &Target) -> Result<()> {
    let ask = format!("curl -sS --fail --max-time 2 http://{}", new.address);
    for number in 1..=cluster.nodes().await?.len() {
        for verb in ["stop", "start"] {
            cluster.harness(&["node", verb, &number.to_string(), "kube-proxy"]).await?;
        }
        eventually(&format!("node {number} reaches a new service"), PATIENCE, async || {
            cluster.on_node(number, &ask).await
        })
        .await?;
    }
    Ok(())
}

/// Waits until the leader has the links of so many shims.
async fn linked(leader: &Admin, shims: usize) -> Result<()> {
    eventually(&format!("{shims} shims are linked"), PATIENCE, async || {
        let connected = leader.metric("podless_operator_shims_connected").await?;
        ensure!(connected as usize == shims, "{connected} are");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_without_power_loses_its_endpoints_within_five_seconds() -> Result<()> {
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
    let address = address_on(&namespace, "probe", &victim).await?;
    let (traffic, off) = (loaded(&namespace, "probe").await?, Instant::now());
    cluster.harness(&["node", "off", &number]).await?;
    serve(&namespace, "probe", |ready| !ready.contains(&victim)).await?;
    let took = off.elapsed();
    eprintln!("the endpoint of a node without power was gone after {took:.1?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    namespace
        .until("probe", "its replica is on another node", |s| {
            let moved = s.status.as_ref().filter(|moved| moved.ready_replicas == 3);
            moved.is_some_and(|moved| moved.placements.iter().all(|place| place.node != victim))
        })
        .await?;
    let whole = off.elapsed();
    eprintln!("and its replica served elsewhere after {whole:.1?}");
    assert!(whole < Duration::from_secs(10), "{whole:?}");

    let lost = recovered(&cluster, &traffic, &address).await?;
    cluster.harness(&["node", "on", &number]).await?;
    serve(&namespace, "probe", |ready| ready == nodes).await?;
    namespace.ready("probe").await?;
    traffic.another(AFTERWARDS).await?;
    let seen = traffic.stop().await?;
    eprintln!("node without power: {seen}");
    assert_eq!(seen.failed.len(), lost, "its return costs nothing: {seen}");
    namespace.delete().await
}

/// With its shim the leader goes. What its successor does not see itself Kubernetes tells it.
#[tokio::test]
async fn the_leaders_own_node_without_power_loses_its_endpoints_and_nothing_flaps() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-leaderless").await?;
    let image = cluster.registry.push_guest("probe", "e2e/leaderless:1").await?;
    let nodes = cluster.nodes().await?;
    // By the first node the client comes into the cluster.
    let old = leader_off(&cluster, &nodes[0]).await?;
    let number = node_of(&cluster, &old).await?;
    let victim = &nodes[number - 1];
    let spared = nodes[1..].iter().find(|node| *node != victim).context("a third node")?;
    let pinned = json!({"image": image, "replicas": 1, "nodeSelector": {"kubernetes.io/hostname": spared}});
    namespace.apply("elsewhere", pinned).await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("elsewhere").await?;
    namespace.ready("probe").await?;
    let address = address_on(&namespace, "probe", victim).await?;
    let (traffic, elsewhere) = (loaded(&namespace, "probe").await?, loaded(&namespace, "elsewhere").await?);
    let history = History::of(&namespace, "probe");

    let off = Instant::now();
    cluster.harness(&["node", "off", &number.to_string()]).await?;
    serve(&namespace, "probe", |ready| !ready.contains(victim)).await?;
    let took = off.elapsed();
    eprintln!("the endpoint of the leader's node without power was gone after {took:.1?}");
    assert!(took < Duration::from_secs(25), "{took:?}");
    succeeded(&cluster, &old).await?;
    namespace.ready("probe").await?;

    let lost = recovered(&cluster, &traffic, &address).await?;
    cluster.harness(&["node", "on", &number.to_string()]).await?;
    serve(&namespace, "probe", |ready| ready == nodes).await?;
    namespace.ready("probe").await?;
    traffic.another(AFTERWARDS).await?;
    let (seen, elsewhere) = (traffic.stop().await?, elsewhere.stop().await?);
    eprintln!("leader's node without power: {seen}\nelsewhere: {elsewhere}");
    elsewhere.none_lost(500)?;
    assert_eq!(seen.failed.len(), lost, "its return costs nothing: {seen}");
    let without: Vec<_> = nodes.iter().filter(|node| *node != victim).cloned().collect();
    assert_eq!(history.end(), [nodes.clone(), without, nodes], "it goes once and comes back once");
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
    let (number, admin) = (cluster.number(victim).await?, Admin::of(&cluster, &leader).await?);
    linked(&admin, nodes.len()).await?;
    let before = namespace.slice("probe").await?.endpoints;
    let traffic = Traffic::echo(&namespace.target("probe").await?)?;
    traffic.flows().await?;

    let cut = "nft 'add table inet cut; add chain inet cut forward { type filter hook forward priority 0; }; \
               add rule inet cut forward tcp dport 9443 drop'";
    cluster.on_node(number, cut).await?;
    let down = Instant::now();
    linked(&admin, nodes.len() - 1).await?;
    eventually("twice the time of an ejection has passed", PATIENCE, async || {
        assert_eq!(namespace.slice("probe").await?.endpoints, before, "after {:?}", down.elapsed());
        ensure!(down.elapsed() > Duration::from_secs(13), "{:?}", down.elapsed());
        Ok(())
    })
    .await?;
    linked(&admin, nodes.len() - 1).await?;
    cluster.on_node(number, "nft delete table inet cut").await?;
    linked(&admin, nodes.len()).await?;
    assert_eq!(namespace.slice("probe").await?.endpoints, before);
    let seen = traffic.stop().await?;
    eprintln!("link cut: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

/// The API server still answers it: it leads on, and sees nobody.
#[tokio::test]
async fn an_operator_that_is_cut_off_from_every_shim_ejects_none_and_heals_by_itself() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-blind").await?;
    let image = cluster.registry.push_guest("probe", "e2e/blind:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let leader = settled(&cluster).await?;
    let (nodes, number) = (cluster.nodes().await?, node_of(&cluster, &leader).await?);
    let admin = Admin::of(&cluster, &leader).await?;
    linked(&admin, nodes.len()).await?;
    let ejections = async || admin.metric("podless_operator_ejections_total").await;
    let (before, ejected) = (namespace.slice("probe").await?.endpoints, ejections().await?);
    let traffic = loaded(&namespace, "probe").await?;

    let (ip, _) = admin.0.rsplit_once(':').context("address:port")?;
    let cut = format!(
        "nft 'add table inet cut; add chain inet cut forward {{ type filter hook forward priority 0; }}; \
         add rule inet cut forward ip daddr {ip} tcp dport 9443 drop; \
         add rule inet cut forward ip saddr {ip} tcp dport 8081 drop'"
    );
    cluster.on_node(number, &cut).await?;
    let down = Instant::now();
    linked(&admin, 0).await?;
    // Nobody is there to be told of it.
    namespace.apply("late", json!({"image": image, "replicas": 1})).await?;
    eventually("twice the time of an ejection has passed", PATIENCE, async || {
        assert_eq!(namespace.slice("probe").await?.endpoints, before, "after {:?}", down.elapsed());
        ensure!(down.elapsed() > Duration::from_secs(if soak() { 60 } else { 13 }), "{:?}", down.elapsed());
        Ok(())
    })
    .await?;
    linked(&admin, 0).await?;
    cluster.on_node(number, "nft delete table inet cut").await?;
    linked(&admin, nodes.len()).await?;
    namespace.ready("late").await?;
    assert_eq!(admin.page("/readyz").await?, "leading\n", "the same operator leads");
    assert_eq!(ejections().await?, ejected);
    assert_eq!(namespace.slice("probe").await?.endpoints, before);
    traffic.another(AFTERWARDS).await?;
    let seen = traffic.stop().await?;
    eprintln!("operator cut off from every shim: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

#[tokio::test]
async fn without_the_api_server_everything_serves_and_a_shim_container_comes_back() -> Result<()> {
    let away_for = Duration::from_secs(if soak() { 600 } else { 15 });
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-apiless").await?;
    let image = cluster.registry.push_guest("probe", "e2e/apiless:1").await?;
    let nodes = cluster.nodes().await?;
    for (name, node) in [("here", &nodes[1]), ("there", &nodes[0])] {
        let selector = json!({"kubernetes.io/hostname": node});
        namespace.apply(name, json!({"image": image, "replicas": 1, "nodeSelector": selector})).await?;
        namespace.ready(name).await?;
    }
    let plan = Plan { most: away_for * 2 + PATIENCE * 2, ..Plan::default() };
    let (killed, other) = (
        Traffic::with(&namespace.target("here").await?, plan)?,
        Traffic::with(&namespace.target("there").await?, plan)?,
    );
    killed.flows().await?;
    other.flows().await?;

    cluster.harness(&["apiserver", "stop"]).await?;
    let start = Instant::now();
    cluster.on_node(2, &format!("kill -9 $({SUPERVISING_SHIM})")).await?;
    eventually("it was away for long enough", away_for * 2, async || {
        ensure!(start.elapsed() > away_for, "{:?}", start.elapsed());
        Ok(())
    })
    .await?;
    // How long the kubelet has a container wait depends on what happened to it before, and is not the shim's.
    let waited = start.elapsed().saturating_sub(cluster.shim_age(2).await?);
    ensure!(waited < away_for, "the container was not started while the API server was away");
    cluster.harness(&["apiserver", "start"]).await?;
    // Somebody leads: a change takes effect, and what was not touched is where it was.
    namespace.apply("here", json!({"image": image, "replicas": 2})).await?;
    serve(&namespace, "here", |ready| ready.len() == 2 && ready.contains(&nodes[1])).await?;
    serve(&namespace, "there", |ready| ready == &nodes[..1]).await?;
    let (killed, other) = (killed.stop().await?, other.stop().await?);
    eprintln!("API server away; shim container killed: {killed}\nelsewhere: {other}");
    assert!(killed.longest_gap < waited + Duration::from_secs(2), "after {waited:.1?}: {killed}");
    other.none_lost(500)?;

    namespace.apply("after", json!({"image": image, "replicas": 1})).await?;
    namespace.ready("after").await?;
    proxies_again(&cluster, &namespace.target("after").await?).await?;
    namespace.delete().await
}
