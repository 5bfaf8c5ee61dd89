//! Scaled by CPU: what computes gets more replicas, what waits does not.

use anyhow::{Context, Result};
use podless_e2e::{Cluster, Guest, Plan, Traffic};
use serde_json::json;

use crate::scaling::{parked, reachable, status};

#[tokio::test]
async fn what_computes_is_followed_and_what_waits_is_not() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-cpu").await?;
    let image = cluster.registry.push_guest("probe", "e2e/cpu:1").await?;
    let spec = json!({
        "image": image,
        "scaling": {
            "maxReplicas": 9, "metric": {"type": "CPU", "value": 100},
            "windowSeconds": 6, "panicWindowSeconds": 2, "scaleToZeroAfterSeconds": 2,
        },
    });
    namespace.apply("probe", spec).await?;
    parked(&namespace, "probe").await?;
    let target = namespace.target("probe").await?;
    reachable(&target).await?;

    let waits = Traffic::with(&target, Plan { guest: Guest::Slow, rate: 20, ..Plan::default() })?;
    waits.flows().await?;
    // For longer than the window.
    waits.another(200).await?;
    let seen = status(&namespace, "probe", "it is awake", |status| status.replicas > 0).await?;
    assert_eq!(seen.desired_replicas, Some(1), "ten requests wait at any time: {seen:?}");
    waits.stop().await?.none_lost(200)?;

    let computes = Traffic::with(&target, Plan { guest: Guest::Busy(12), rate: 20, ..Plan::default() })?;
    let scaled = status(&namespace, "probe", "three replicas or more", |status| status.ready_replicas >= 3).await?;
    assert!(scaled.desired_replicas.is_some_and(|n| n <= 9), "{scaled:?}");
    let decided = scaled.scaling.context("a decision")?;
    eprintln!("20 requests a second that compute: {} replicas: {}", scaled.replicas, decided.reason);
    assert!(decided.current.ends_with('m') && decided.target == "100m", "{decided:?}");
    computes.another(40).await?;
    let busy = computes.stop().await?;
    eprintln!("meanwhile: {busy}");
    busy.none_lost(40)?;
    status(&namespace, "probe", "one replica or none", |status| status.desired_replicas.is_some_and(|n| n <= 1))
        .await?;
    parked(&namespace, "probe").await?;
    namespace.delete().await
}
