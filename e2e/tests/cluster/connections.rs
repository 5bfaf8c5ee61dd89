//! Clients that keep their connections for ever: when a service is scaled, they reach its new nodes without being lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use podless_e2e::{Cluster, Lane, Plan, Traffic, eventually};
use serde_json::json;

use crate::admin::Admin;

/// Connections of each protocol. Two thirds of all come again to a third each: with so many, chance leaves none of the
/// nodes below the least share once in a thousand times.
const KEPT: usize = 201;
/// The least share of the requests that a node is to have in the end.
const LEAST: f64 = 0.15;
/// What the spreading may take.
const SOON: Duration = Duration::from_secs(15);

/// How many requests of the service each shim has answered by 200, in the order of their nodes.
async fn answered(cluster: &Cluster, namespace: &str) -> Result<Vec<f64>> {
    let metric = format!(r#"podless_shim_requests_total{{namespace="{namespace}",service="probe",code="2xx"}}"#);
    let mut shims = cluster.shims().await?;
    shims.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut counts = vec![];
    for (node, pod) in shims {
        let ip =
            pod.status.and_then(|status| status.pod_ip).with_context(|| format!("{node}'s shim has no address"))?;
        counts.push(Admin(format!("{ip}:8081")).metric(&metric).await?);
    }
    Ok(counts)
}

/// The share of each shim while every connection is used once or more.
async fn shares(cluster: &Cluster, namespace: &str, traffic: &Traffic) -> Result<Vec<f64>> {
    let before = answered(cluster, namespace).await?;
    traffic.another(2 * KEPT).await?;
    let after = answered(cluster, namespace).await?;
    let counts: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    let all: f64 = counts.iter().sum();
    Ok(counts.into_iter().map(|count| count / all).collect())
}

#[tokio::test]
async fn connections_that_are_kept_for_ever_follow_a_service_that_is_scaled() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-connections").await?;
    let image = cluster.registry.push_guest("probe", "e2e/connections:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 1})).await?;
    let target = namespace.answers("probe").await?;
    let lanes = &[Lane::KeepAlive, Lane::Http2];
    let plan = Plan { lanes, kept: KEPT, per_connection: usize::MAX, rate: 160, ..Plan::default() };
    let traffic = Traffic::with(&target, plan)?;
    traffic.flows().await?;
    traffic.another(2 * KEPT).await?;
    let alone = shares(&cluster, &namespace.name, &traffic).await?;
    assert_eq!(alone.iter().filter(|share| **share > 0.0).count(), 1, "one replica, one node: {alone:.2?}");

    let three = json!({"spec": {"replicas": 3}});
    namespace.services().patch_scale("probe", &PatchParams::default(), &Patch::Merge(&three)).await?;
    let start = Instant::now();
    let spread = eventually("every node has its share of what is kept", SOON, async || {
        let shares = shares(&cluster, &namespace.name, &traffic).await?;
        ensure!(shares.len() == 3 && shares.iter().all(|share| *share >= LEAST), "{shares:.2?}");
        Ok(shares)
    })
    .await?;
    eprintln!("{} kept connections after {:.1?}: {alone:.2?} became {spread:.2?}", 2 * KEPT, start.elapsed());
    let seen = traffic.stop().await?;
    eprintln!("meanwhile: {seen}");
    seen.none_lost(4 * KEPT)?;
    namespace.delete().await
}
