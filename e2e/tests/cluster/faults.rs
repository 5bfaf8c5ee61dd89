//! Faults: a shim that dies serves again at once, and the data plane goes on without the operator.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use podless_e2e::{Cluster, Namespace, Plan, SUPERVISING_SHIM, Target, Traffic, all_serve, eventually, get, soak};
use serde_json::json;

use crate::crashes::operator::scale_installed;

const PATIENCE: Duration = Duration::from_secs(60);

/// The node that has the first replica of a service.
async fn node_of(namespace: &Namespace, service: &str) -> Result<String> {
    let status = namespace.ready(service).await?.status.context("a status")?;
    Ok(status.placements.first().context("a placement")?.node.clone())
}

/// Services of one replica each, by the node that has it.
async fn spread_out(namespace: &Namespace, image: &str, count: usize) -> Result<BTreeMap<String, Vec<Target>>> {
    let start = Instant::now();
    let named = stream::iter(0..count).map(async |number| {
        let name = format!("probe-{number}");
        namespace.apply(&name, json!({"image": image, "replicas": 1, "concurrency": 10})).await?;
        anyhow::Ok((node_of(namespace, &name).await?, namespace.target(&name).await?))
    });
    let mut by_node: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    for (node, target) in named.buffer_unordered(16).try_collect::<Vec<_>>().await? {
        by_node.entry(node).or_default().push(target);
    }
    eprintln!("{count} services Ready after {:.1?}", start.elapsed());
    Ok(by_node)
}

#[tokio::test]
async fn a_shim_killed_twice_in_a_row_serves_all_its_services_within_two_seconds() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-killed").await?;
    let image = cluster.registry.push_guest("probe", "e2e/killed:1").await?;
    let by_node = spread_out(&namespace, &image, if soak() { 200 } else { 30 }).await?;
    let (node, here) = by_node.iter().max_by_key(|(_, targets)| targets.len()).context("no node has any")?;
    let elsewhere = by_node.iter().find(|(other, _)| *other != node).context("all are on one node")?.1;
    let every = by_node.values().flatten().cloned().collect::<Vec<_>>();
    all_serve(&every, PATIENCE).await?;
    let restarts = cluster.shim_restarts(node).await?;

    let (here_seen, elsewhere_seen) = (Traffic::echo(&here[0])?, Traffic::echo(&elsewhere[0])?);
    here_seen.flows().await?;
    elsewhere_seen.flows().await?;
    for kill in 1..=2 {
        let pid = cluster.serving_shim(node).await?;
        let start = Instant::now();
        cluster.on_node(cluster.number(node).await?, &format!("kill -9 {pid}")).await?;
        all_serve(here, Duration::from_secs(2).saturating_sub(start.elapsed())).await?;
        eprintln!("kill {kill}: all {} services of {node} serve after {:.0?}", here.len(), start.elapsed());
        ensure!(cluster.serving_shim(node).await? != pid, "it was not killed");
        here_seen.another(30).await?;
    }
    let (here_seen, elsewhere_seen) = (here_seen.stop().await?, elsewhere_seen.stop().await?);
    eprintln!("there: {here_seen}\nelsewhere: {elsewhere_seen}");
    assert!(here_seen.longest_gap < Duration::from_secs(2), "{here_seen}");
    elsewhere_seen.none_lost(20)?;
    assert_eq!(cluster.shim_restarts(node).await?, restarts, "the kubelet's back-off has no part in it");
    namespace.delete().await
}

#[tokio::test]
async fn a_shim_container_serves_from_its_volume_within_two_seconds_of_its_start() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-restart").await?;
    let image = cluster.registry.push_guest("probe", "e2e/restart:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 1})).await?;
    let node = node_of(&namespace, "probe").await?;
    let target = namespace.target("probe").await?;
    let (number, restarts) = (cluster.number(&node).await?, cluster.shim_restarts(&node).await?);

    let traffic = Traffic::echo(&target)?;
    traffic.flows().await?;
    // The first process of the container: with it go all others.
    let kill = format!("kill -9 $({SUPERVISING_SHIM})");
    let killed = Instant::now();
    cluster.on_node(number, &kill).await?;
    eventually("another container serves", PATIENCE, async || {
        ensure!(cluster.shim_restarts(&node).await? > restarts, "still the old one");
        ensure!(get(&target, "/").await?.status == StatusCode::OK, "not yet");
        Ok(())
    })
    .await?;
    // How long the kubelet waits depends on what happened to the container before, and is not the shim's.
    let waited = killed.elapsed().saturating_sub(cluster.shim_age(number).await?);
    traffic.another(60).await?;
    let seen = traffic.stop().await?;
    eprintln!("container started {waited:.0?} after its end: {seen}");
    assert!(seen.longest_gap < waited + Duration::from_secs(2), "{seen}");
    namespace.ready("probe").await?;
    namespace.delete().await
}

#[tokio::test]
async fn traffic_goes_on_without_the_operator() -> Result<()> {
    let alone_for = Duration::from_secs(if soak() { 300 } else { 10 });
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-alone").await?;
    let image = cluster.registry.push_guest("probe", "e2e/alone:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let slice = namespace.slice("probe").await?;
    let plan = Plan { most: 2 * alone_for + 4 * PATIENCE, ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;
    scale_installed(&cluster, 0).await?;
    let alone = Instant::now();
    eventually(&format!("{alone_for:?} have passed"), 2 * alone_for, async || {
        assert_eq!(traffic.lost(), 0, "after {:?}", alone.elapsed());
        ensure!(alone.elapsed() > alone_for, "{:?}", alone.elapsed());
        Ok(())
    })
    .await?;
    scale_installed(&cluster, 2).await?;
    // A new leader works: what is applied now becomes Ready.
    namespace.apply("after", json!({"image": image})).await?;
    namespace.ready("after").await?;
    namespace.ready("probe").await?;
    let seen = traffic.stop().await?;
    eprintln!("without the operator: {seen}");
    seen.none_lost(500)?;
    let now = namespace.slice("probe").await?;
    assert_eq!(slice.endpoints, now.endpoints, "placements survive the operator");
    assert_eq!(slice.ports, now.ports);
    namespace.delete().await
}
