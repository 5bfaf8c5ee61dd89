//! Compiling, as a user sees it: how it goes on, whose turn it is, and what may be chosen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use podless_crds::{
    ConditionType::{self, Precompiled, Resolved},
    WasmService,
};
use podless_e2e::{COMPONENT, Cluster, Namespace, condition, eventually, get};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{admin::Admin, components, crashes::leader::leader};

const PATIENCE: Duration = Duration::from_secs(120);

/// What a service's conditions say of its build until it is compiled, each message once, in order.
pub(crate) struct Told(JoinHandle<Result<Vec<String>>>);

impl Told {
    /// Begins to listen.
    pub(crate) fn of(namespace: &Namespace, name: &str) -> Self {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let changes = watcher(namespace.services(), only).applied_objects();
        Self(tokio::spawn(async move {
            let mut told: Vec<String> = vec![];
            let mut changes = std::pin::pin!(changes);
            while let Some(service) = changes.next().await.transpose()? {
                for kind in [Resolved, Precompiled] {
                    if let Some(message) = message(&service, kind).filter(|message| !told.contains(message)) {
                        told.push(message.clone());
                    }
                }
                if condition(&service, Precompiled).is_some_and(|c| c.status == "True") {
                    break;
                }
            }
            Ok(told)
        }))
    }

    /// Everything, when it is compiled.
    pub(crate) async fn all(self) -> Result<Vec<String>> {
        tokio::time::timeout(PATIENCE, self.0).await.context("it is not compiled")??
    }
}

fn message(service: &WasmService, kind: ConditionType) -> Option<&String> {
    condition(service, kind).map(|condition| &condition.message)
}

/// Seconds that a message tells: `compiling for 8 s`.
pub(crate) fn seconds(message: &str) -> Option<u64> {
    message.strip_prefix("compiling for ")?.strip_suffix(" s")?.parse().ok()
}

async fn says(namespace: &Namespace, name: &str, what: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
    eventually(&format!("{name} {what}"), PATIENCE, async || {
        let service = namespace.services().get(name).await?;
        let said = message(&service, Precompiled).context("it says nothing")?;
        ensure!(holds(said), "{said}");
        Ok(said.clone())
    })
    .await
}

/// The hello component with a section of its own: nobody has compiled it before.
fn own_hello(cluster: &Cluster) -> Result<Vec<u8>> {
    let name = format!("{}", std::process::id());
    let mut section = vec![0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?];
    section.extend(name.bytes());
    Ok([cluster.registry.guest("hello")?, section].concat())
}

/// There is room for one compiler in the operator's container, as the chart has it.
#[tokio::test]
async fn who_waits_is_told_so_and_who_compiles_for_how_long() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (hog, other) = (cluster.namespace("e2e-compile-hog").await?, cluster.namespace("e2e-compile").await?);
    let slow = cluster.registry.push(&components::needs_time(), COMPONENT, "e2e/compile:slow").await?;
    let hello = cluster.registry.push(&own_hello(&cluster)?, COMPONENT, "e2e/compile:hello").await?;
    hog.apply("slow", json!({"image": slow})).await?;
    let first = says(&hog, "slow", "tells for how long", |said| seconds(said).is_some()).await?;
    other.apply("hello", json!({"image": hello})).await?;
    says(&other, "hello", "waits for its turn", |said| said.contains("waits for its turn")).await?;
    let later = says(&hog, "slow", "tells again", |said| seconds(said) > seconds(&first)).await?;
    ensure!(seconds(&later) >= seconds(&first).map(|first| first + 5), "{first}, {later}: too often");
    eventually("an Event tells that it takes long", PATIENCE, async || {
        let events = cluster.events(&hog.name, "slow").await?;
        ensure!(events.iter().any(|(reason, note)| reason == "Compiling" && note.contains(" s")), "{events:?}");
        Ok(())
    })
    .await?;
    // Nobody wants it any more: its compiler goes, and the next one's turn comes.
    hog.services().delete("slow", &Default::default()).await?;
    other.answers("hello").await?;
    hog.delete().await?;
    other.delete().await
}

#[tokio::test]
async fn code_of_each_option_is_served_and_the_walls_stand() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-compiler-options").await?;
    let image = cluster.registry.push_guest("hello", "e2e/compiler-options:1").await?;
    let mut sizes = vec![];
    for (name, compiler) in [
        ("speed", json!({})),
        ("size", json!({"optimize": "SpeedAndSize"})),
        ("fast", json!({"optimize": "Fast"})),
        ("inlined", json!({"inlining": true})),
    ] {
        namespace.apply(name, json!({"image": image, "compiler": compiler})).await?;
        let target = namespace.answers(name).await?;
        ensure!(get(&target, "/").await?.status == 200, "{name}");
        let status = namespace.services().get(name).await?.status.context("a status")?;
        sizes.push(status.artifacts.first().context("an artifact")?.size);
    }
    ensure!(sizes[2] > sizes[0], "what is not optimised is larger: {sizes:?}");

    let admin = Admin::of(&cluster, &leader(&cluster).await?).await?;
    ensure!(admin.metric(r#"podless_operator_sandbox{wall="seccomp"}"#).await? == 1.0, "no filter of system calls");
    namespace.delete().await
}
