//! The engine is replaced under load, as by an upgrade of Wasmtime: everything is compiled anew, and shims of the old and
//! the new one serve beside each other until the last old one is gone. Nothing is lost.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use http::StatusCode;
use kube::{
    Api,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use podless_crds::{ConditionType::Ready, WasmNode, WasmService};
use podless_e2e::{Cluster, Guest, Namespace, Plan, RELEASE_NAMESPACE, Traffic, condition, eventually, get, is, soak};
use serde_json::json;

use super::{leader::leader, nodes::serve};
use crate::{
    admin::Admin,
    maintenance::{gone, pods},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Services that are asked all the while.
const LOADED: [&str; 3] = ["everywhere", "single", "p3"];

/// Upgrades the release to this edition of the engine: operators and shims both at the same time.
async fn upgrade(cluster: &Cluster, edition: &str) -> Result<()> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/podless");
    let chart = chart.to_str().context("the chart's path is no text")?;
    let set = format!("engineEdition={edition}");
    let to = ["helm", "upgrade", "podless", chart, "--namespace", RELEASE_NAMESPACE];
    cluster.harness(&[&to[..], &["--reset-then-reuse-values", "--set-string", &set]].concat()).await?;
    Ok(())
}

/// The one engine that every shim runs and every service is compiled for.
async fn engine(cluster: &Cluster, namespace: &Namespace) -> Result<String> {
    let nodes = Api::<WasmNode>::all(cluster.kube.clone()).list(&ListParams::default()).await?;
    let services = namespace.services().list(&ListParams::default()).await?;
    let run = nodes.into_iter().filter_map(|node| Some(node.status?.fingerprint));
    let compiled = services.into_iter().flat_map(|service| service.status.unwrap_or_default().artifacts);
    let all: BTreeSet<_> = run.chain(compiled.map(|artifact| artifact.fingerprint)).collect();
    ensure!(all.len() == 1, "{all:?}");
    all.into_iter().next().context("one")
}

/// An error unless the leader has compiled each component once: none twice, and none that shims have for another engine.
async fn compiled_once_each(cluster: &Cluster, namespace: &Namespace) -> Result<()> {
    let components = |services: Vec<WasmService>| {
        let images = services.into_iter().filter_map(|service| service.status?.image?.component);
        images.collect::<BTreeSet<_>>().len()
    };
    let here = components(namespace.services().list(&ListParams::default()).await?.items);
    // Others may have been left by tests that failed.
    let all = components(Api::<WasmService>::all(cluster.kube.clone()).list(&ListParams::default()).await?.items);
    let admin = Admin::of(cluster, &leader(cluster).await?).await?;
    let compiled = admin.metric("podless_operator_artifacts_total{origin=\"compiled\"}").await? as usize;
    let recalled = admin.metric("podless_operator_artifacts_total{origin=\"recalled\"}").await?;
    ensure!((here..=all).contains(&compiled) && recalled == 0.0, "{compiled} of {here} to {all}, {recalled} recalled");
    let pending = admin.metric("podless_operator_inventory{state=\"pending\"}").await?;
    ensure!(pending == 0.0, "{pending} are not compiled yet");
    Ok(())
}

/// Replaces every pod by those of this edition; answers the engine that everybody has then.
async fn replace(cluster: &Cluster, namespace: &Namespace, edition: &str, before: &str) -> Result<String> {
    let (old, start) = (pods(cluster).await?, Instant::now());
    upgrade(cluster, edition).await?;
    gone(cluster, &old).await?;
    eprintln!("edition {edition:?}: all of {} pods replaced after {:.1?}", old.len(), start.elapsed());
    let nodes = cluster.nodes().await?;
    let now = eventually("everybody has another engine", PATIENCE, async || {
        let now = engine(cluster, namespace).await?;
        ensure!(now != before, "still {now}");
        Ok(now)
    })
    .await?;
    serve(namespace, LOADED[0], |ready| ready == nodes).await?;
    Ok(now)
}

/// Ends when one of the services under load is anything but Ready: answers which, and what it is.
async fn unready(namespace: &Namespace) -> String {
    let mut changes =
        watcher(namespace.services(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    loop {
        let Some(change) = changes.next().await else { return "the watch has ended".into() };
        // After an error it begins anew, and shows all of them.
        let Ok(service) = change else { continue };
        let name = service.metadata.name.as_deref().unwrap_or_default();
        if LOADED.contains(&name) && !is(&service, Ready, "True") {
            return format!("{name}: {:?}", condition(&service, Ready));
        }
    }
}

#[tokio::test]
async fn the_engine_is_replaced_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-engine").await?;
    let probe = cluster.registry.push_guest("probe", "e2e/engine:1").await?;
    let p3 = cluster.registry.push_guest("hello-p3", "e2e/engine-p3:1").await?;
    leader(&cluster).await?;
    let mut load = vec![];
    let [everywhere, single, other] = LOADED;
    for (name, image, replicas, guest) in [
        (everywhere, &probe, cluster.nodes().await?.len(), Guest::Echo),
        (single, &probe, 1, Guest::Echo),
        (other, &p3, 2, Guest::Any),
    ] {
        namespace.apply(name, json!({"image": image, "replicas": replicas})).await?;
        namespace.ready(name).await?;
        let plan = Plan { guest, rate: 30, most: Duration::from_secs(900), ..Plan::default() };
        let traffic = Traffic::with(&namespace.target(name).await?, plan)?;
        traffic.flows().await?;
        load.push((name, traffic));
    }
    let scaling = json!({"scaleToZeroAfterSeconds": 2, "windowSeconds": 6, "panicWindowSeconds": 1});
    namespace.apply("parked", json!({"image": probe, "scaling": scaling})).await?;
    let parked = namespace.answers("parked").await?;

    let mut before = engine(&cluster, &namespace).await?;
    // Names that no earlier run on this cluster has used.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    for round in 0..if soak() { 3 } else { 1 } {
        let edition = format!("test-{since_epoch}-{round}");
        namespace.apply("stopped", json!({"image": probe, "replicas": 0})).await?;
        namespace.until_condition("stopped", Ready, "True", "Stopped").await?;
        namespace.until_condition("parked", Ready, "True", "Parked").await?;
        let now = tokio::select! {
            what = unready(&namespace) => bail!("while the engine is replaced, {what}"),
            now = replace(&cluster, &namespace, &edition, &before) => now?,
        };
        eprintln!("engine {before} → {now}");
        before = now;
        eventually("everything is compiled", PATIENCE, async || compiled_once_each(&cluster, &namespace).await).await?;
        // The first request since then, and a service that nobody has served since then.
        let answer = get(&parked, "/say?awake").await?;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "awake"));
        namespace.apply("stopped", json!({"image": probe, "replicas": 1})).await?;
        namespace.answers("stopped").await?;
        for (_, traffic) in &load {
            traffic.another(60).await?;
        }
    }
    for (name, traffic) in load {
        let seen = traffic.stop().await?;
        eprintln!("engine replaced, {name}: {seen}");
        seen.none_lost(500)?;
    }
    namespace.delete().await
}
