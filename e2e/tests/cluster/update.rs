//! Updates under load: whatever changes, no request is lost, nothing moves without need, and the new one answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podless_e2e::{COMPONENT, Cluster, Plan, Traffic, get, soak};
use serde_json::json;

/// The same component under another digest: with a custom section behind it, which means nothing to anyone.
fn another(component: &[u8], update: usize) -> Result<Vec<u8>> {
    let name = format!("update {update}");
    let length = u8::try_from(name.len())?;
    Ok([component, &[0, length + 1, length], name.as_bytes()].concat())
}

fn nodes(slice: &EndpointSlice) -> Vec<String> {
    let mut nodes: Vec<_> = slice.endpoints.iter().filter_map(|e| e.node_name.clone()).collect();
    nodes.sort();
    nodes
}

#[tokio::test]
async fn updates_lose_no_request() -> Result<()> {
    let updates = if soak() { 200 } else { 20 };
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-update").await?;
    let component = cluster.registry.guest("probe")?;
    let push = async |update: usize| {
        cluster.registry.push(&another(&component, update)?, COMPONENT, &format!("e2e/update:{update}")).await
    };
    let mut image = push(0).await?;
    let spec = |image: &str, update: usize| json!({"image": image, "replicas": 2, "env": [{"name": "UPDATE", "value": update.to_string()}]});
    namespace.apply("probe", spec(&image, 0)).await?;
    namespace.ready("probe").await?;
    let before = namespace.slice("probe").await?;
    let target = namespace.target("probe").await?;

    // A busy machine takes two seconds for each.
    let most = Duration::from_secs(4 * u64::try_from(updates)?).max(Plan::default().most);
    let traffic = Traffic::with(&target, Plan { most, ..Plan::default() })?;
    traffic.flows().await?;
    for update in 1..=updates {
        let start = Instant::now();
        // In turn: another environment alone, a component that nobody has seen yet.
        if update % 2 == 0 {
            image = push(update).await?;
        }
        namespace.apply("probe", spec(&image, update)).await?;
        let status = namespace.ready("probe").await?.status.context("a status")?;
        ensure!(status.image.is_some_and(|pinned| pinned.reference == image), "another image is Ready");
        let answer = get(&target, "/env").await?;
        assert_eq!((answer.status, answer.body.trim()), (StatusCode::OK, &*format!("UPDATE={update}")));
        traffic.another(30).await?;
        eprintln!("update {update} of {updates}: Ready after {:.1?}, {} lost", start.elapsed(), traffic.lost());
    }
    let seen = traffic.stop().await?;
    eprintln!("{updates} updates: {seen}");
    seen.none_lost(updates * 30)?;

    let after = namespace.slice("probe").await?;
    assert_eq!(before.ports, after.ports, "the port stays");
    assert_eq!(nodes(&before), nodes(&after), "nothing moves without need");
    namespace.delete().await
}

#[tokio::test]
async fn scaling_loses_no_request() -> Result<()> {
    let rounds = if soak() { 20 } else { 1 };
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-scaling").await?;
    let image = cluster.registry.push_guest("probe", "e2e/scaling:1").await?;
    let scale = async |replicas: usize| -> Result<()> {
        namespace.apply("probe", json!({"image": image, "replicas": replicas})).await?;
        namespace.ready("probe").await?;
        Ok(())
    };
    scale(1).await?;
    let plan = Plan { most: Duration::from_secs(900), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;
    // Endpoints come and go; who has a connection to one that went is served there until it ends.
    let steps = [3, 1, 2, 7, 1].repeat(rounds);
    for replicas in &steps {
        scale(*replicas).await?;
        traffic.another(90).await?; // kube-proxy hears of it meanwhile
    }
    let seen = traffic.stop().await?;
    eprintln!("scaled {} times: {seen}", steps.len());
    seen.none_lost(steps.len() * 90)?;
    namespace.delete().await
}
