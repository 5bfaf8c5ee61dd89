//! An API server that has older data than before: etcd is restored from a copy. What serves goes on serving, what is
//! there again is served again, and what has been made since goes, as its object has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use podless_e2e::{Cluster, Namespace, Plan, Traffic, eventually, get};
use serde_json::{Value, json};

use super::{leader::leader, nodes::proxies_again};

/// After an outage of the API server everybody finds it again in their own time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Address and port of a service on one of its nodes: there it is known whether that node's shim serves it.
async fn door(namespace: &Namespace, service: &str) -> Result<String> {
    let slice = namespace.slice(service).await?;
    let address = slice.endpoints.into_iter().find_map(|endpoint| endpoint.addresses.into_iter().next());
    let port = slice.ports.into_iter().flatten().find_map(|port| port.port);
    Ok(format!("{}:{}", address.context("an endpoint")?, port.context("a port")?))
}

/// Whether somebody answers there.
async fn answers(cluster: &Cluster, door: &str) -> Result<bool> {
    let ask = format!("curl --silent --max-time 2 http://{door} >/dev/null && echo yes || echo no");
    Ok(cluster.on_node(1, &ask).await? == "yes")
}

async fn until_answers(cluster: &Cluster, what: &str, door: &str, wanted: bool) -> Result<()> {
    eventually(what, PATIENCE, async || {
        ensure!(answers(cluster, door).await? == wanted, "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn etcd_is_restored_from_an_older_copy_and_nothing_that_is_there_is_stopped() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-restored").await?;
    let image = cluster.registry.push_guest("probe", "e2e/restored:1").await?;
    leader(&cluster).await?;
    let spec = |version: &str| -> Value {
        json!({"image": image, "replicas": 3, "env": [{"name": "VERSION", "value": version}]})
    };
    let becomes = async |name: &str, version: &str| {
        let target = namespace.target(name).await?;
        eventually(&format!("{name} is version {version}"), PATIENCE, async || {
            let answer = get(&target, "/env").await?;
            ensure!(answer.body.trim() == format!("VERSION={version}"), "{answer:?}");
            Ok(())
        })
        .await
    };
    for name in ["same", "changed", "deleted"] {
        namespace.apply(name, spec("1")).await?;
        namespace.ready(name).await?;
    }
    let plan = Plan { most: Duration::from_secs(400), ..Plan::default() };
    let same = Traffic::with(&namespace.target("same").await?, plan)?;
    let changed = Traffic::with(&namespace.target("changed").await?, plan)?;
    same.flows().await?;
    changed.flows().await?;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("etcd.db");
    let copy = copy.to_str().context("a path")?;
    cluster.harness(&["etcd", "save", copy]).await?;

    for name in ["changed", "deleted", "made"] {
        namespace.apply(name, spec("2")).await?;
        namespace.ready(name).await?;
        becomes(name, "2").await?;
    }
    let (deleted, made) = (door(&namespace, "deleted").await?, door(&namespace, "made").await?);
    namespace.services().delete("deleted", &DeleteParams::default()).await?;
    until_answers(&cluster, "the shims have let it go", &deleted, false).await?;
    ensure!(answers(&cluster, &made).await?, "nobody answers at {made}");

    let start = Instant::now();
    cluster.harness(&["etcd", "restore", copy]).await?;
    let back = start.elapsed();
    becomes("changed", "1").await?;
    eprintln!(
        "the API server had its old data after {back:.1?}, what was changed is as then after {:.1?}",
        start.elapsed()
    );
    // Its status says that it is Ready, as it was then: who looks is not believed before a shim answers.
    eventually("what was deleted is served again", PATIENCE, async || {
        let there = door(&namespace, "deleted").await?;
        ensure!(answers(&cluster, &there).await?, "nobody answers at {there}");
        Ok(())
    })
    .await?;
    eprintln!("what was deleted serves again after {:.1?}", start.elapsed());
    until_answers(&cluster, "what was made since is gone", &made, false).await?;
    eprintln!("what was made since is gone after {:.1?}", start.elapsed());
    // What is changed now takes effect.
    leader(&cluster).await?;
    namespace.apply("changed", spec("3")).await?;
    becomes("changed", "3").await?;
    namespace.ready("changed").await?;
    same.another(120).await?;
    changed.another(120).await?;
    let (same, changed) = (same.stop().await?, changed.stop().await?);
    eprintln!("etcd restored: what stayed the same: {same}\nwhat was changed: {changed}");
    same.none_lost(500)?;
    changed.none_lost(500)?;

    namespace.apply("made", spec("4")).await?;
    namespace.ready("made").await?;
    proxies_again(&cluster, &namespace.target("made").await?).await?;
    becomes("deleted", "1").await?;
    namespace.ready("deleted").await?;
    namespace.delete().await
}
