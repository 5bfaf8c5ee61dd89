//! Faults: the data plane goes on without the operator, and a shim comes back by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use podless_e2e::{Cluster, RELEASE_NAMESPACE, Traffic, eventually, get};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_killed_shim_serves_again_from_its_volume_within_two_seconds() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-kill").await?;
    let image = cluster.registry.push_guest("hello", "e2e/kill:1").await?;
    namespace.apply("hello", json!({"image": image, "replicas": 1})).await?;
    let service = namespace.ready("hello").await?;
    let node = service.status.context("a status")?.placements[0].node.clone();
    let number = cluster.nodes().await?.iter().position(|n| *n == node).context("its node")? + 1;
    let target = namespace.target("hello").await?;

    let traffic = Traffic::start(&target)?;
    get(&target, "/").await?;
    let pid = cluster.on_node(number, "pgrep -x podless-shim | head -1").await?;
    cluster.on_node(number, &format!("kill -9 {pid}")).await?;
    eventually("another process serves", PATIENCE, async || {
        let now = cluster.on_node(number, "pgrep -x podless-shim | head -1").await?;
        ensure!(now != pid, "still the old one");
        ensure!(get(&target, "/").await?.status == StatusCode::OK, "not yet");
        Ok(())
    })
    .await?;
    let seen = traffic.stop().await?;
    assert!(seen.longest_gap < Duration::from_secs(2), "out for {:?}", seen.longest_gap);
    eprintln!("shim killed: out for {:?}, {} of {} requests failed", seen.longest_gap, seen.failed.len(), seen.sent);
    namespace.ready("hello").await?;
    namespace.delete().await
}

#[tokio::test]
async fn traffic_goes_on_for_a_minute_without_the_operator() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-alone").await?;
    let image = cluster.registry.push_guest("hello", "e2e/alone:1").await?;
    namespace.apply("hello", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("hello").await?;
    let slice = namespace.slice("hello").await?;
    let target = namespace.target("hello").await?;
    let operator = Api::<Deployment>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let name = operator
        .list(&kube::api::ListParams::default().labels("app.kubernetes.io/component=operator"))
        .await?
        .items
        .into_iter()
        .find_map(|d| d.metadata.name)
        .context("the operator's Deployment")?;
    let scale = async |replicas: usize| -> Result<()> {
        operator.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": replicas}}))).await?;
        eventually(&format!("{replicas} operators"), PATIENCE, async || {
            let pods = cluster.operators().await?;
            ensure!(pods.len() == replicas, "{} operators", pods.len());
            Ok(())
        })
        .await
    };

    let traffic = Traffic::start(&target)?;
    scale(0).await?;
    let alone = Instant::now();
    eventually("a minute has passed and every answer was good", Duration::from_secs(90), async || {
        let answer = get(&target, "/").await?;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        ensure!(alone.elapsed() > Duration::from_secs(60), "{:?}", alone.elapsed());
        Ok(())
    })
    .await?;
    scale(2).await?;
    // A new leader works: what is applied now becomes Ready.
    namespace.apply("after", json!({"image": image})).await?;
    namespace.ready("after").await?;
    namespace.ready("hello").await?;
    let seen = traffic.stop().await?;
    assert!(seen.failed.is_empty() && seen.sent > 500, "{seen:?}");
    let now = namespace.slice("hello").await?;
    assert_eq!(slice.endpoints, now.endpoints, "placements survive the operator");
    assert_eq!(slice.ports, now.ports);
    namespace.delete().await
}
