//! Nodes of two kinds: the shims go over, one node after another and under load, to what older machines run, and back. In
//! between each kind serves with machine code of its own. Nothing is lost.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{Api, api::ListParams};
use podless_crds::WasmNode;
use podless_e2e::{Cluster, Guest, Namespace, Plan, RELEASE_NAMESPACE, Traffic, eventually};
use serde_json::json;

use super::{leader::leader, nodes::serve};

const PATIENCE: Duration = Duration::from_secs(240);
const SERVICE: &str = "everywhere";

/// Has every shim run this target; the best that it can, when it is empty.
async fn run(cluster: &Cluster, target: &str) -> Result<()> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/podless");
    let chart = chart.to_str().context("the chart's path is no text")?;
    let set = format!("shim.target={target}");
    let to = ["helm", "upgrade", "podless", chart, "--namespace", RELEASE_NAMESPACE];
    cluster.harness(&[&to[..], &["--reset-then-reuse-values", "--set-string", &set]].concat()).await?;
    Ok(())
}

/// What the shims run, and what the service is compiled for.
async fn targets(cluster: &Cluster, namespace: &Namespace) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let nodes = Api::<WasmNode>::all(cluster.kube.clone()).list(&ListParams::default()).await?;
    let artifacts = namespace.services().get(SERVICE).await?.status.unwrap_or_default().artifacts;
    let run = nodes.into_iter().filter_map(|node| Some(node.status?.target));
    Ok((run.collect(), artifacts.into_iter().map(|artifact| artifact.target).collect()))
}

#[tokio::test]
async fn each_kind_of_node_serves_with_code_of_its_own() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-targets").await?;
    let probe = cluster.registry.push_guest("probe", "e2e/targets:1").await?;
    leader(&cluster).await?;
    let nodes = cluster.nodes().await?;
    namespace.apply(SERVICE, json!({"image": probe, "replicas": nodes.len()})).await?;
    namespace.ready(SERVICE).await?;
    let plan = Plan { guest: Guest::Echo, rate: 30, most: Duration::from_secs(900), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target(SERVICE).await?, plan)?;
    traffic.flows().await?;
    let (best, _) = targets(&cluster, &namespace).await?;
    ensure!(!best.contains("x86-64-v2"), "nodes that run nothing better cannot show it");

    for (set, want) in [("x86-64-v2", BTreeSet::from(["x86-64-v2".to_owned()])), ("", best)] {
        run(&cluster, set).await?;
        if set == "x86-64-v2" {
            eventually("nodes are of two kinds, and it is compiled for both", PATIENCE, async || {
                let (run, made) = targets(&cluster, &namespace).await?;
                ensure!(run.len() == 2 && run == made, "{run:?}, compiled for {made:?}");
                Ok(())
            })
            .await?;
        }
        eventually("all nodes are of one kind again", PATIENCE, async || {
            let (run, made) = targets(&cluster, &namespace).await?;
            ensure!(run == want && made == want, "{run:?}, compiled for {made:?}");
            Ok(())
        })
        .await?;
        serve(&namespace, SERVICE, |ready| ready == nodes).await?;
        traffic.another(60).await?;
    }
    let seen = traffic.stop().await?;
    eprintln!("targets changed: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}
