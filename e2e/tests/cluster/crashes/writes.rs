//! An operator that dies between two writes, and an API server that refuses, forgets and repeats: whatever happens on the
//! way, the same comes to be, and an operator that finds everything done writes nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podless_e2e::{Cluster, Namespace, eventually, soak};

use super::{
    life::{Stages, live},
    operator::{Operator, scale_installed},
    proxy::Faults,
};

/// Nothing is due any more after this: what is woken by a change is done in a second, what is measured every ten.
const QUIET: Duration = Duration::from_secs(12);

struct Scene {
    cluster: Cluster,
    namespace: Namespace,
    images: [String; 2],
    operator: Operator,
    shims: usize,
}

impl Scene {
    async fn begin(name: &str) -> Result<Self> {
        let cluster = Cluster::connect().await?;
        let namespace = cluster.namespace(name).await?;
        let push = async |tag: &str| cluster.registry.push_guest("probe", &format!("e2e/{name}:{tag}")).await;
        let images = [push("1").await?, push("2").await?];
        scale_installed(&cluster, 0).await?;
        let operator = Operator::start(&cluster, 300).await?;
        let shims = cluster.shims().await?.len();
        operator.leads(shims).await?;
        Ok(Self { cluster, namespace, images, operator, shims })
    }

    async fn live(&self, faults: Faults) -> Result<Stages> {
        self.operator.proxy.begin(faults);
        live(&self.cluster, &self.namespace, &self.images).await
    }

    async fn end(self) -> Result<()> {
        self.operator.stop().await?;
        scale_installed(&self.cluster, 2).await?;
        self.namespace.delete().await
    }
}

#[tokio::test]
async fn killed_after_each_of_its_writes_the_operator_ends_where_it_would_have() -> Result<()> {
    let scene = Scene::begin("e2e-writes").await?;
    // Once to warm up: what is compiled is written of more often.
    scene.live(Faults::default()).await?;
    let expected = scene.live(Faults::default()).await?;
    let writes = scene.operator.proxy.writes();
    eprintln!("{} writes in a life:\n  {}", writes.len(), writes.join("\n  "));
    ensure!(writes.len() >= 6, "that cannot be all");

    let every = if soak() { 1 } else { 4 };
    for kill in (1..=writes.len()).step_by(every) {
        let (starts, start) = (scene.operator.starts(), Instant::now());
        let faults = Faults { kill_after: Some(kill), ..Faults::default() };
        let found = scene.live(faults).await.with_context(|| format!("killed after write {kill}"))?;
        assert_eq!(found, expected, "killed after write {kill}: {:?}", scene.operator.proxy.writes());
        // A life with a death in it may do with fewer writes.
        let died = scene.operator.starts() > starts;
        eprintln!("write {kill}: {} in {:.1?}", if died { "killed" } else { "not reached" }, start.elapsed());
        ensure!(died || kill > writes.len() / 2, "nobody was killed after write {kill}");
    }
    scene.end().await
}

#[tokio::test]
async fn an_operator_that_finds_everything_done_writes_nothing() -> Result<()> {
    let scene = Scene::begin("e2e-idle").await?;
    let spec = serde_json::json!({"image": scene.images[0], "replicas": 3});
    for name in ["one", "two"] {
        scene.namespace.apply(name, spec.clone()).await?;
        scene.namespace.ready(name).await?;
    }
    let written = || {
        let mut writes = scene.operator.proxy.writes();
        // What a shim measures of itself is news whoever leads.
        writes.retain(|write| !(write.contains("/wasmnodes/") && write.ends_with("/status")));
        writes
    };
    let quiet = async |what: &str| {
        let (mut last, mut since) = (written(), Instant::now());
        eventually(&format!("{what}: nothing is written"), Duration::from_secs(90), async || {
            let now = written();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() > QUIET, "{last:?}");
            Ok(last.clone())
        })
        .await
    };
    quiet("before").await?;
    scene.operator.proxy.begin(Faults::default());
    scene.operator.again().await?;
    scene.operator.leads(scene.shims).await?;
    assert_eq!(quiet("after a restart").await?, Vec::<String>::new(), "needless");
    scene.end().await
}

#[tokio::test]
async fn refusals_and_spoiled_watches_change_nothing_in_the_end() -> Result<()> {
    let scene = Scene::begin("e2e-spoiled").await?;
    let expected = scene.live(Faults::default()).await?;
    let refused = Faults { conflict_every: Some(2), ..Faults::default() };
    let too_old = Faults { gone_every: Some(3), ..Faults::default() };
    let spoilt = if soak() {
        vec![
            ("every second write refused", refused),
            ("every third watch too old", too_old),
            ("every fifth event lost", Faults { drop_every: Some(5), ..Faults::default() }),
            ("every event twice", Faults { duplicate: true, ..Faults::default() }),
        ]
    } else {
        vec![
            ("every second write refused, every event twice", Faults { duplicate: true, ..refused }),
            ("every third watch too old, every fifth event lost", Faults { drop_every: Some(5), ..too_old }),
        ]
    };
    for (what, faults) in spoilt {
        // Watches that are there are not spoiled: a new operator begins them anew.
        scene.operator.proxy.begin(faults);
        let start = Instant::now();
        scene.operator.again().await?;
        let found = scene.live(faults).await.context(what)?;
        assert_eq!(found, expected, "{what}");
        let (events, watches) = scene.operator.proxy.seen();
        eprintln!("{what}: the same in {:.1?}; so far {events} events, {watches} watches", start.elapsed());
    }
    let starts = scene.operator.starts();
    scene.operator.proxy.begin(Faults { away: true, ..Faults::default() });
    eventually("it gives up the lease that it cannot renew", Duration::from_secs(40), async || {
        ensure!(scene.operator.starts() > starts, "still there");
        Ok(())
    })
    .await?;
    assert_eq!(scene.live(Faults::default()).await.context("after the API server was away")?, expected);
    scene.end().await
}
