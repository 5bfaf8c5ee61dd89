//! A node that is ten times slower than the others: it gets no new connections for a while, those that are kept leave it,
//! and then it gets its share of what is new again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Api;
use podless_crds::WasmNode;
use podless_e2e::{Cluster, Guest, Lane, Namespace, Plan, SERVING_SHIM, Target, Traffic, eventually, get, soak};
use serde_json::json;

use crate::{
    admin::Admin,
    crashes::nodes::{ready_nodes, serve},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a slow node gets nothing the first time.
const FIRST: Duration = Duration::from_secs(30);
/// Longest that it may take to find out: three windows in a row, each longer the less is answered, and what computes does so at
/// a low priority: it is slow on every node while this machine has other things to do.
const FOUND: Duration = Duration::from_secs(90);
/// How long it is watched when it is back: a slow one would have been found in this time.
const STAYS: Duration = Duration::from_secs(30);
/// What may come on top of a time that was set: a round, a plan, a look at the slice.
const SLACK: Duration = Duration::from_secs(10);
/// Connections of each protocol that are kept for ever.
const KEPT: usize = 20;
/// What kept connections may take to leave a node: their turns, and a request on each.
const LEFT: Duration = Duration::from_secs(40);
/// In the node: it is slow for as long as this is there.
const SLOW: &str = "/tmp/e2e-slow";

/// Slows the process that serves on a node down to a tenth, until [`quicken`]; after two minutes it ends by itself.
async fn slow_down(cluster: &Cluster, node: usize) -> Result<()> {
    // Stopped for ninety milliseconds and let run for ten: the link's pings are answered all the while.
    let turns = format!(
        "end=$(($(date +%s) + 120)); while kill -STOP $0 && sleep 0.09 && [ -e {SLOW} ] && [ $(date +%s) -lt $end ]; \
         do kill -CONT $0; sleep 0.01; done; kill -CONT $0"
    );
    let line = format!("touch {SLOW}; setsid sh -c '{turns}' $({SERVING_SHIM}) </dev/null >/dev/null 2>&1 &");
    cluster.on_node(node, &line).await?;
    Ok(())
}

/// Ends that.
async fn quicken(cluster: &Cluster, node: usize) -> Result<()> {
    cluster.on_node(node, &format!("rm -f {SLOW}")).await?;
    Ok(())
}

/// The share of a load's requests that one shim answers while every connection that is kept is used once or more, and no
/// other load reaches it.
async fn share(cluster: &Cluster, namespace: &str, node: &str, load: &Traffic) -> Result<f64> {
    let (_, pod) = cluster.shims().await?.into_iter().find(|(at, _)| at == node).context("a shim")?;
    let ip = pod.status.and_then(|status| status.pod_ip).context("an address")?;
    let admin = Admin(format!("{ip}:8081"));
    let metric = format!(r#"podless_shim_requests_total{{namespace="{namespace}",service="probe",code="2xx"}}"#);
    let (before, good) = (admin.metric(&metric).await?, load.good());
    load.another(2 * KEPT).await?;
    Ok((admin.metric(&metric).await? - before) / (load.good() - good) as f64)
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
        // No more than the slow node can do as well; and each longer than it is let run at a time, or it would never be slow by its
        // own clock.
        guest: Guest::Busy(25),
        rate: 3,
        most: Duration::from_secs(400),
        patience: Duration::from_secs(10),
        ..Plan::default()
    };
    let lanes = &[Lane::KeepAlive, Lane::Http2];
    let kept = Traffic::with(&target, Plan { lanes, kept: KEPT, per_connection: usize::MAX, ..plan })?;
    kept.flows().await?;
    kept.another(2 * KEPT).await?;
    let its_share = share(&cluster, &namespace.name, victim, &kept).await?;
    // Every node gets its share of what is new.
    let new = Traffic::with(&target, Plan { lanes: &[Lane::New], ..plan })?;
    new.flows().await?;
    let usual = most_take(&target).await?;

    // In the long form it is still slow when it is back.
    let times = if soak() { 2 } else { 1 };
    let number = cluster.number(victim).await?;
    let mut since = Instant::now();
    slow_down(&cluster, number).await?;
    for time in 1..=times {
        turns(&namespace, &nodes, victim, false).await?;
        let (found, took) = (Instant::now(), since.elapsed());
        if time == times {
            quicken(&cluster, number).await?;
        }
        eprintln!("time {time}: without endpoint after {took:.1?}");
        assert!(took < FOUND, "{took:?}");
        if time == 1 {
            said(&cluster, victim).await?;
            // kube-proxy may learn of it a moment later.
            let now = eventually("new connections are answered as quickly as before", LEFT, async || {
                let now = most_take(&target).await?;
                ensure!(now < usual * 3, "{now:?}, and {usual:?} before");
                Ok(now)
            })
            .await?;
            eprintln!("nine of ten answers within {usual:.0?} before, {now:.0?} without the slow node");
            let left = eventually("kept connections leave the slow node", LEFT, async || {
                let left = share(&cluster, &namespace.name, victim, &kept).await?;
                ensure!(left < its_share / 2.0, "{left:.2} of {its_share:.2}");
                Ok(left)
            })
            .await?;
            eprintln!("kept connections: {its_share:.2} of them became {left:.2} after {:.1?}", found.elapsed());
        }
        turns(&namespace, &nodes, victim, true).await?;
        let out = found.elapsed();
        eprintln!("time {time}: back after {out:.1?}");
        assert!(out + SLACK > FIRST * time && out < FIRST * time + SLACK, "{out:?}");
        since = Instant::now();
    }
    eventually("it stays", PATIENCE, async || {
        assert_eq!(ready_nodes(&namespace, "probe").await?, nodes, "after {:?}", since.elapsed());
        ensure!(since.elapsed() > STAYS, "{:?}", since.elapsed());
        Ok(())
    })
    .await?;
    for (load, which) in [(new, "new"), (kept, "kept")] {
        let seen = load.stop().await?;
        eprintln!("a slow node, {which} connections: {seen}");
        seen.none_lost(200)?;
    }
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
