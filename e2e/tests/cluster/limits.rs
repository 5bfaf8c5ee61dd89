//! Limits: what one guest takes is not taken from the others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use http::StatusCode;
use podless_crds::WasmService;
use podless_e2e::{Cluster, eventually, get, post};
use serde_json::json;

#[tokio::test]
async fn a_guest_is_held_to_its_time_memory_and_concurrency() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-limits").await?;
    let image = cluster.registry.push_guest("probe", "e2e/limits:1").await?;
    let spec = json!({"image": image, "timeoutSeconds": 2, "concurrency": 2, "instance": {"memory": "16Mi"}});
    namespace.apply("probe", spec).await?;
    namespace.apply("neighbour", json!({"image": image})).await?;
    let probe = namespace.answers("probe").await?;
    let neighbour = namespace.answers("neighbour").await?;

    // Time: a guest that spins is ended, and nobody waits for it.
    let start = Instant::now();
    let spinning = tokio::spawn({
        let probe = probe.clone();
        async move { get(&probe, "/spin").await }
    });
    let answer = get(&neighbour, "/").await?;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!spinning.is_finished(), "the neighbour waited {:?}", start.elapsed());
    let ended = spinning.await??;
    assert_eq!(ended.status, StatusCode::GATEWAY_TIMEOUT, "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "ended after {:?}", start.elapsed());

    // Memory: what fits is given, what does not is refused, and the next request starts clean.
    assert_eq!(get(&probe, "/grow?mb=4").await?.status, StatusCode::OK);
    assert_eq!(get(&probe, "/grow?mb=64").await?.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(get(&probe, "/trap").await?.status, StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..5 {
        assert_eq!(get(&probe, "/fresh").await?.body.trim(), "1", "a fresh instance for each request");
    }

    // Concurrency: two at once are taken, the rest wait for a moment and are then told when to come again.
    let slow = (0..12).map(|_| get(&probe, "/slow?ms=1500"));
    let answers = try_join_all(slow).await?;
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    assert!(count(StatusCode::OK) >= 2, "{answers:?}");
    let refused = answers.iter().find(|a| a.status == StatusCode::SERVICE_UNAVAILABLE).context("nobody was refused")?;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let name = refused.headers.get("podless-error").context("it has no name")?;
    assert!(["busy", "node-busy", "namespace-busy"].contains(&name.to_str()?), "{refused:?}");
    assert_eq!(count(StatusCode::OK) + count(StatusCode::SERVICE_UNAVAILABLE), answers.len(), "{answers:?}");

    // What was turned away or ended is in status, by the same names.
    let all = ["busy", "timeout", "trapped"];
    let told = |service: &WasmService| {
        let shed = service.status.as_ref().map(|status| status.shed.as_slice()).unwrap_or_default();
        all.iter().all(|reason| shed.iter().any(|shed| shed.reason == *reason && shed.count > 0))
    };
    namespace.until("probe", "its status tells what was shed", told).await?;
    namespace.delete().await
}

#[tokio::test]
async fn bodies_and_environment_reach_the_guest_and_files_do_not() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-host").await?;
    let image = cluster.registry.push_guest("probe", "e2e/host:1").await?;
    namespace.apply("probe", json!({"image": image, "env": [{"name": "COLOUR", "value": "blue"}]})).await?;
    let probe = namespace.answers("probe").await?;
    assert_eq!(get(&probe, "/env").await?.body.trim(), "COLOUR=blue", "its own environment and nothing else");
    let answer = post(&probe, "/echo", vec![b'x'; 300_000]).await?;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 300_000));
    let big = get(&probe, "/big?bytes=1000000").await?;
    assert_eq!(big.body.len(), 1_000_000);
    let files = get(&probe, "/fs").await?.body;
    assert!(files.contains("no file") && !files.contains("is there"), "a guest has no files: {files}");
    namespace.delete().await
}

#[tokio::test]
async fn what_a_guest_says_is_logged_as_json_lines() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-logs").await?;
    let image = cluster.registry.push_guest("logger", "e2e/logs:1").await?;
    namespace.apply("logger", json!({"image": image, "capabilities": {"logging": {}}})).await?;
    let service = namespace.ready("logger").await?;
    assert_eq!(get(&namespace.answers("logger").await?, "/").await?.status, StatusCode::OK);
    let node = service.status.context("a status")?.placements[0].node.clone();
    let shims = cluster.shims().await?;
    let pod = shims.iter().find(|(n, _)| *n == node).and_then(|(_, p)| p.metadata.name.clone()).context("a shim")?;
    eventually("three streams are logged", Duration::from_secs(20), async || {
        let log = cluster.harness(&["kubectl", "logs", "-n", podless_e2e::RELEASE_NAMESPACE, &pod]).await?;
        let lines: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &serde_json::Value| line["namespace"] == "e2e-logs" && line["service"] == "logger")
            .collect();
        for stream in ["stdout", "stderr", "logging"] {
            anyhow::ensure!(lines.iter().any(|line| line["stream"] == stream), "no {stream} in {lines:?}");
        }
        Ok(())
    })
    .await?;
    namespace.delete().await
}
