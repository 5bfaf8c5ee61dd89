//! A node that is ten times slower than the others: it gets no new connections for a while, and then its share again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Api;
use podless_crds::WasmNode;
use podless_e2e::{Cluster, Guest, Lane, Namespace, Plan, SERVING_SHIM, Target, Traffic, eventually, get, soak};
use serde_json::json;

use crate::crashes::nodes::{ready_nodes, serve};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a slow node gets nothing the first time.
const FIRST: Duration = Duration::from_secs(30);
/// Longest that it may take to find out.
const FOUND: Duration = Duration::from_secs(20);
/// What may come on top of a time that was set: a round, a plan, a look at the slice.
const SLACK: Duration = Duration::from_secs(10);

/// Slows the process that serves on a node down to a tenth, for so many seconds: it ends by itself.
async fn slow_down(cluster: &Cluster, node: usize, seconds: u64) -> Result<()> {
    // Stopped for ninety milliseconds and let run for ten: the link's pings are answered all the while.
    let turns = format!(
        "end=$(($(date +%s) + {seconds})); while kill -STOP $0 && sleep 0.09 && [ $(date +%s) -lt $end ]; \
         do kill -CONT $0; sleep 0.01; done; kill -CONT $0"
    );
    let line = format!("setsid sh -c '{turns}' $({SERVING_SHIM}) </dev/null >/dev/null 2>&1 &");
    cluster.on_node(node, &line).await?;
    Ok(())
}

/// The time that nine of ten answers take at most, each on a connection of its own.
async fn most_take(target: &Target) -> Result<Duration> {
    let mut took = vec![];
    for _ in 0..30 {
        took.push(get(target, "/compute?millions=20").await?.first_byte);
    }
    took.sort();
    Ok(took[26])
}

/// Waits until the endpoint of a node is among those that are ready, or is not and all others are.
async fn turns(namespace: &Namespace, nodes: &[String], victim: &str, ready: bool) -> Result<()> {
    let wanted: Vec<_> = nodes.iter().filter(|node| ready || *node != victim).cloned().collect();
    serve(namespace, "probe", |ready| ready == wanted).await
}

#[tokio::test]
async fn a_node_ten_times_slower_than_the_others_gets_nothing_new_for_a_while() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-slow").await?;
    let image = cluster.registry.push_guest("probe", "e2e/slow:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    let target = namespace.answers("probe").await?;
    let nodes = cluster.nodes().await?;
    let victim = nodes.last().context("a node")?;
    turns(&namespace, &nodes, victim, true).await?;
    let plan = Plan {
        guest: Guest::Busy,
        // Every node gets its share.
        lanes: &[Lane::New],
        rate: 20,
        most: Duration::from_secs(400),
        patience: Duration::from_secs(10),
        ..Plan::default()
    };
    let traffic = Traffic::with(&target, plan)?;
    traffic.flows().await?;
    let usual = most_take(&target).await?;

    // Over before the last time is: then nothing is the matter any more. In the long form it is slow when it is back.
    let (slow_for, times) = if soak() { (100, 2) } else { (36, 1) };
    let slowed = Instant::now();
    slow_down(&cluster, cluster.number(victim).await?, slow_for).await?;
    let mut since = slowed;
    for time in 1..=times {
        turns(&namespace, &nodes, victim, false).await?;
        let (found, took) = (Instant::now(), since.elapsed());
        eprintln!("time {time}: without endpoint after {took:.1?}");
        assert!(took < FOUND, "{took:?}");
        if time == 1 {
            said(&cluster, victim).await?;
            let now = most_take(&target).await?;
            eprintln!("nine of ten answers within {usual:.0?} before, {now:.0?} without the slow node");
            assert!(now < usual * 3, "{now:?}, and {usual:?} before");
        }
        turns(&namespace, &nodes, victim, true).await?;
        let out = found.elapsed();
        eprintln!("time {time}: back after {out:.1?}");
        assert!(out + SLACK > FIRST * time && out < FIRST * time + SLACK, "{out:?}");
        since = Instant::now();
    }
    eventually("it has stayed for longer than it takes to be found", PATIENCE, async || {
        assert_eq!(ready_nodes(&namespace, "probe").await?, nodes, "after {:?}", since.elapsed());
        ensure!(since.elapsed() > FOUND, "{:?}", since.elapsed());
        Ok(())
    })
    .await?;
    let seen = traffic.stop().await?;
    eprintln!("a slow node: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

/// Waits until status and an Event tell that a node is slow.
async fn said(cluster: &Cluster, node: &str) -> Result<()> {
    let api = Api::<WasmNode>::all(cluster.kube.clone());
    eventually(&format!("the status of {node} tells"), PATIENCE, async || {
        let status = api.get(node).await?.status.context("a status")?;
        let told =
            status.conditions.iter().any(|c| c.reason == "Slow" && c.message.contains("times slower than 2 others"));
        ensure!(told, "{:?}", status.conditions);
        Ok(())
    })
    .await?;
    eventually(&format!("an Event of {node} tells"), PATIENCE, async || {
        let events = cluster.events("default", node).await?;
        ensure!(events.iter().any(|(reason, _)| reason == "Slow"), "{events:?}");
        Ok(())
    })
    .await
}
