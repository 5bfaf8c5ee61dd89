//! From zero to the cluster and back, by load alone: nothing is lost, and status tells why.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use http::StatusCode;
use podless_crds::{ConditionType, WasmService, WasmServiceStatus};
use podless_e2e::{Cluster, Guest, Namespace, Plan, Target, Traffic, eventually, get, soak};
use serde_json::{Value, json};

/// A service that follows its load quickly: parked after two seconds without a request.
fn quick(image: &str, target: u32, most: u32) -> Value {
    json!({
        "image": image,
        "scaling": {
            "maxReplicas": most, "metric": {"value": target},
            "windowSeconds": 6, "panicWindowSeconds": 1, "scaleToZeroAfterSeconds": 2,
        },
    })
}

pub(crate) async fn parked(namespace: &Namespace, name: &str) -> Result<WasmServiceStatus> {
    namespace.until_condition(name, ConditionType::Ready, "True", "Parked").await?;
    status(namespace, name, "it has no replicas", |status| status.replicas == 0).await
}

pub(crate) async fn status(
    namespace: &Namespace,
    name: &str,
    what: &str,
    holds: impl Fn(&WasmServiceStatus) -> bool,
) -> Result<WasmServiceStatus> {
    let service: WasmService =
        namespace.until(name, what, |service| service.status.as_ref().is_some_and(&holds)).await?;
    service.status.context("a status")
}

/// Waits until kube-proxy knows the way; the service is parked again after that.
pub(crate) async fn reachable(target: &Target) -> Result<()> {
    eventually("the Service answers", Duration::from_secs(20), async || {
        ensure!(get(target, "/").await?.status == StatusCode::OK);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_goes_to_zero_and_back_and_nothing_is_lost() -> Result<()> {
    let rounds = if soak() { 100 } else { 5 };
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-zero").await?;
    let image = cluster.registry.push_guest("probe", "e2e/zero:1").await?;
    namespace.apply("probe", quick(&image, 10, 30)).await?;
    let status_of = parked(&namespace, "probe").await?;
    assert_eq!((status_of.desired_replicas, status_of.ready_replicas), (Some(0), 0));
    assert_eq!(status_of.placements.len(), 2, "it waits on two nodes");
    let target = namespace.target("probe").await?;
    reachable(&target).await?;
    let (mut first_bytes, mut asked) = (vec![], rounds);
    for round in 1..=rounds {
        parked(&namespace, "probe").await?;
        let answer = get(&target, "/say?awake").await?;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "awake"), "round {round}");
        first_bytes.push(answer.first_byte);
        status(&namespace, "probe", "it is awake", |status| status.replicas > 0).await?;
        // Whatever is asked while it falls asleep is answered too.
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            assert_eq!(get(&target, "/").await?.status, StatusCode::OK, "round {round}");
            asked += 1;
        }
    }
    first_bytes.sort();
    eprintln!(
        "{rounds} times from zero and back: 0 of {asked} requests lost; first byte min {:.1?}, median {:.1?}, max {:.1?}",
        first_bytes[0],
        first_bytes[rounds / 2],
        first_bytes[rounds - 1]
    );
    let events = cluster.events(&namespace.name, "probe").await?;
    for reason in ["Parked", "ScaledUp"] {
        assert!(events.iter().any(|(r, _)| r == reason), "no Event {reason}: {events:?}");
    }
    namespace.delete().await
}

#[tokio::test]
async fn a_thousand_first_requests_at_once_are_all_answered() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-herd").await?;
    let image = cluster.registry.push_guest("probe", "e2e/herd:1").await?;
    namespace.apply("probe", quick(&image, 70, 20)).await?;
    parked(&namespace, "probe").await?;
    let target = namespace.target("probe").await?;
    reachable(&target).await?;
    parked(&namespace, "probe").await?;
    let start = Instant::now();
    let answers = join_all((0..1000).map(|_| get(&target, "/"))).await;
    let lost: Vec<_> = answers.iter().filter(|a| !a.as_ref().is_ok_and(|a| a.status == StatusCode::OK)).collect();
    eprintln!("1000 first requests at once: {} lost, all done in {:.2?}", lost.len(), start.elapsed());
    assert!(lost.is_empty(), "{} lost, as {:?}", lost.len(), lost.first());
    namespace.delete().await
}

#[tokio::test]
async fn a_step_of_load_is_followed_to_all_nodes_and_back() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-step").await?;
    let image = cluster.registry.push_guest("probe", "e2e/step:1").await?;
    namespace.apply("probe", quick(&image, 2, 9)).await?;
    parked(&namespace, "probe").await?;
    let target = namespace.target("probe").await?;
    reachable(&target).await?;
    let watched = Traffic::with(&target, Plan { rate: 20, ..Plan::default() })?;
    watched.flows().await?;
    let start = Instant::now();
    // Twelve in flight at any time ask for six replicas.
    let pressed = Traffic::with(&target, Plan { guest: Guest::Slow, rate: 24, ..Plan::default() })?;
    let scaled = status(&namespace, "probe", "six replicas or more", |status| status.ready_replicas >= 6).await?;
    let took = start.elapsed();
    assert_eq!(scaled.placements.len(), 3, "on every node: {:?}", scaled.placements);
    assert!(scaled.desired_replicas.is_some_and(|n| n <= 9), "{scaled:?}");
    let decided = scaled.scaling.context("a decision")?;
    eprintln!("12 in flight: {} replicas after {took:.1?}: {}", scaled.replicas, decided.reason);
    let slow = pressed.stop().await?;
    slow.none_lost(24)?;
    status(&namespace, "probe", "fewer replicas", |status| status.desired_replicas.is_some_and(|n| n <= 2)).await?;
    let seen = watched.stop().await?;
    eprintln!("beside it: {seen}");
    seen.none_lost(60)?;
    parked(&namespace, "probe").await?;
    namespace.delete().await
}
