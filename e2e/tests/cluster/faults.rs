//! Faults: a shim that dies serves again at once, and the data plane goes on without the operator.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use podless_crds::ConditionType;
use podless_e2e::{Cluster, Namespace, Plan, SUPERVISING_SHIM, Target, Traffic, all_serve, eventually, get, soak};
use serde_json::{Value, json};

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
async fn without_the_operator_all_serves_what_is_parked_wakes_and_a_killed_shim_comes_back() -> Result<()> {
    let alone_for = Duration::from_secs(if soak() { 600 } else { 15 });
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-alone").await?;
    let image = cluster.registry.push_guest("probe", "e2e/alone:1").await?;
    let nodes = cluster.nodes().await?;
    let plan = Plan { most: 2 * alone_for + 4 * PATIENCE, rate: 30, ..Plan::default() };
    let on = |node: usize, of: Value| {
        let mut spec = json!({"image": image, "nodeSelector": {"kubernetes.io/hostname": nodes[node]}});
        if let (Some(spec), Value::Object(of)) = (spec.as_object_mut(), of) {
            spec.extend(of);
        }
        spec
    };
    namespace.apply("steady", on(0, json!({"replicas": 1}))).await?;
    namespace.apply("killed", on(2, json!({"replicas": 1}))).await?;
    namespace.apply("parked", on(1, json!({"scaling": {"scaleToZeroAfterSeconds": 2, "windowSeconds": 6}}))).await?;
    let flowing = async |name: &str| {
        let traffic = Traffic::with(&namespace.target(name).await?, plan)?;
        traffic.flows().await?;
        anyhow::Ok(traffic)
    };
    namespace.ready("steady").await?;
    namespace.ready("killed").await?;
    let (steady, killed) = (flowing("steady").await?, flowing("killed").await?);
    let parked = namespace.answers("parked").await?;
    namespace.until_condition("parked", ConditionType::Ready, "True", "Parked").await?;
    let written = async |name: &str| {
        let (service, slice) = (namespace.kube_services().get(name).await?, namespace.slice(name).await?);
        anyhow::Ok((service.metadata.resource_version, slice.metadata.resource_version))
    };
    let before = (written("steady").await?, written("killed").await?);

    scale_installed(&cluster, 0).await?;
    let alone = Instant::now();
    let answer = get(&parked, "/say?awake").await?;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "awake"));
    let woken = flowing("parked").await?;
    let pid = cluster.serving_shim(&nodes[2]).await?;
    cluster.on_node(3, &format!("kill -9 {pid}")).await?;
    killed.recovers(30).await?;
    ensure!(cluster.serving_shim(&nodes[2]).await? != pid, "it was not killed");
    eventually(&format!("{alone_for:?} have passed"), 2 * alone_for, async || {
        assert_eq!(steady.lost() + woken.lost(), 0, "after {:?}", alone.elapsed());
        ensure!(alone.elapsed() > alone_for, "{:?}", alone.elapsed());
        Ok(())
    })
    .await?;

    scale_installed(&cluster, 2).await?;
    // A new leader works: what is applied now becomes Ready, and what is as it should be is not written.
    namespace.apply("after", json!({"image": image})).await?;
    namespace.ready("after").await?;
    namespace.ready("steady").await?;
    namespace.until("parked", "it is seen to be awake", |s| s.status.as_ref().is_some_and(|s| s.replicas > 0)).await?;
    assert_eq!((written("steady").await?, written("killed").await?), before, "placements survive the operator");
    let (steady, killed, woken) = (steady.stop().await?, killed.stop().await?, woken.stop().await?);
    eprintln!("without the operator: {steady}\nwoken meanwhile: {woken}\nits shim killed meanwhile: {killed}");
    steady.none_lost(300)?;
    woken.none_lost(300)?;
    assert!(killed.longest_gap < Duration::from_secs(2) && !killed.cut_short, "{killed}");
    namespace.delete().await
}
