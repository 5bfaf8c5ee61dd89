//! Figure: from `kubectl apply` to Ready on the real cluster, of an image that nobody has seen and of one that is in the
//! cache. Measured: IO; told: pure.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use podless_crds::{ConditionType, WasmService};
use podless_e2e::{COMPONENT, Cluster, Namespace, figures::stats::Spread, is};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::languages::{Example, variant};

const PATIENCE: Duration = Duration::from_secs(300);

/// One example.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pulled {
    pub(crate) name: String,
    /// Milliseconds from before the apply to Ready, of an image that is new.
    pub(crate) new: Spread,
    /// The same of a second service of that image.
    pub(crate) known: Spread,
}

/// Serves all of them in turns.
pub(crate) async fn measure(cluster: &Cluster, examples: &[Example], rounds: usize) -> Result<Vec<Pulled>> {
    let namespace = cluster.namespace("bench-ready").await?;
    // Of this run: the registry of the cluster may have seen others.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let mut times = vec![(vec![], vec![]); examples.len()];
    for round in 0..rounds {
        for (number, (example, (new, known))) in examples.iter().zip(&mut times).enumerate() {
            let own = variant(&example.component, run + (round * examples.len() + number) as u64);
            let tag = format!("bench/{}:{run}-{round}", example.guest);
            let image = cluster.registry.push(&own, COMPONENT, &tag).await?;
            for (which, times) in [("new", new), ("known", known)] {
                times.push(apply(&namespace, &format!("{}-{which}", example.guest), &image).await?);
            }
            for which in ["new", "known"] {
                let name = format!("{}-{which}", example.guest);
                namespace.services().delete(&name, &Default::default()).await?;
                gone(&namespace, &name).await?;
            }
        }
    }
    namespace.delete().await?;
    let sum_up = |(example, (new, known)): (&Example, (Vec<f64>, Vec<f64>))| {
        Ok(Pulled { name: example.name.to_owned(), new: Spread::of(new)?, known: Spread::of(known)? })
    };
    examples.iter().zip(times).map(sum_up).collect()
}

/// Milliseconds from before the apply until a watch has seen it Ready.
async fn apply(namespace: &Namespace, name: &str, image: &str) -> Result<f64> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(namespace.services(), config).default_backoff().applied_objects());
    let ready = |service: &WasmService| is(service, ConditionType::Ready, "True");
    let started = Instant::now();
    namespace.apply(name, json!({"image": image})).await?;
    let waiting = async {
        while let Some(service) = changes.try_next().await? {
            if ready(&service) {
                return Ok(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
        anyhow::bail!("the watch has ended")
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{name} is Ready"))?
}

async fn gone(namespace: &Namespace, name: &str) -> Result<()> {
    podless_e2e::eventually(&format!("{name} is gone"), PATIENCE, async || {
        ensure!(namespace.services().get_opt(name).await?.is_none(), "it is there");
        Ok(())
    })
    .await
}

/// In a line.
pub(crate) fn line(all: &[Pulled]) -> String {
    let each: Vec<_> = all.iter().map(|one| format!("{} {}", one.name, one.new.tell())).collect();
    format!("apply to Ready: {}", each.join("; "))
}

/// In the page.
pub(crate) fn tell(all: &[Pulled]) -> String {
    let rows: String =
        all.iter().map(|one| format!("| {} | {} | {} |\n", one.name, one.new.tell(), one.known.tell())).collect();
    format!(
        "## From apply to Ready\n\n\
         On the cluster, in turns, {} times: pulled from the registry, audited, compiled, sealed, fetched and loaded by a node,\n\
         until a watch of the WasmService sees Ready. \"New\" has a digest that nobody has seen; \"known\" is a second service of\n\
         the same image, which is neither pulled nor compiled.\n\n\
         | | new, min / **median** / max | known |\n|---|---|---|\n{rows}\n",
        all.first().map_or(0, |one| one.new.count)
    )
}
