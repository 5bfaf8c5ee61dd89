//! Figure: what it costs a node to load code that lies on its disk, and how much of that is the look at every byte.
//! Measured: IO; told: pure.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podless_crds::{ConditionType, WasmService};
use podless_e2e::{
    Cluster, condition, eventually,
    figures::stats::{Spread, mebibytes, millis},
    get,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::languages::{Example, Workshop};

/// One example.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) code_bytes: u64,
    /// Milliseconds of SHA-256 over the code, as it lies in the page cache.
    pub(crate) hash: Spread,
    /// Milliseconds to the answer of a request that finds the service parked: hashed, mapped, linked, started, answered.
    pub(crate) woken: Spread,
}

/// All of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Loads {
    /// Milliseconds of SHA-256 over so many bytes in memory.
    pub(crate) hashes: Vec<(usize, Spread)>,
    pub(crate) examples: Vec<Load>,
}

/// Seconds without a request after which a service is parked again.
const PARKED_AFTER: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(180);

/// Wakes each example so many times, in turns; of the languages with an interpreter, one.
pub(crate) async fn measure(cluster: &Cluster, examples: &[Example], rounds: usize) -> Result<Loads> {
    let hashes = [512 << 10, 8 << 20].map(|size| {
        let bytes = vec![1; size];
        Ok((size, Spread::of((0..rounds).map(|_| hash(&bytes)))?))
    });
    let hashes = hashes.into_iter().collect::<Result<_>>()?;
    let namespace = cluster.namespace("bench-load").await?;
    let examples: Vec<_> = examples.iter().filter(|example| example.guest != "hello-python").collect();
    let workshop = Workshop::new()?;
    let (mut loads, mut targets) = (vec![], vec![]);
    for example in &examples {
        let image = cluster.registry.push_guest(example.guest, &format!("bench/load-{}:1", example.guest)).await?;
        let scaling = json!({"windowSeconds": 6, "scaleToZeroAfterSeconds": PARKED_AFTER});
        namespace.apply_as_is(example.guest, json!({"image": image, "scaling": scaling})).await?;
        let made = workshop.build(&example.component).await?;
        let mut code = vec![0; usize::try_from(made.seal().code_size)?];
        std::os::unix::fs::FileExt::read_exact_at(made.code(), &mut code, 0)?;
        loads.push((code, vec![], vec![]));
    }
    for example in &examples {
        parked(&namespace, example.guest).await?;
        targets.push(namespace.target(example.guest).await?);
    }
    // In the first round kube-proxy hears of all of them.
    for round in 0..=rounds {
        for ((example, target), (code, hashed, woken)) in examples.iter().zip(&targets).zip(&mut loads) {
            parked(&namespace, example.guest).await?;
            let started = Instant::now();
            eventually("it answers", PATIENCE, async || get(target, "/").await).await?;
            let answered = started.elapsed();
            if round > 0 {
                hashed.push(hash(code));
                woken.push(answered.as_secs_f64() * 1000.0);
            }
            namespace.until(example.guest, "it is awake", |service| !is_parked(service)).await?;
        }
    }
    namespace.delete().await?;
    let mut measured = vec![];
    for (example, (code, hash, woken)) in examples.iter().zip(loads) {
        measured.push(Load {
            name: example.name.to_owned(),
            code_bytes: code.len() as u64,
            hash: Spread::of(hash)?,
            woken: Spread::of(woken)?,
        });
    }
    Ok(Loads { hashes, examples: measured })
}

fn hash(bytes: &[u8]) -> f64 {
    let started = Instant::now();
    std::hint::black_box(Sha256::digest(bytes));
    started.elapsed().as_secs_f64() * 1000.0
}

fn is_parked(service: &WasmService) -> bool {
    condition(service, ConditionType::Ready).is_some_and(|c| c.status == "True" && c.reason == "Parked")
}

async fn parked(namespace: &podless_e2e::Namespace, name: &str) -> Result<()> {
    namespace.until(name, "it is parked", is_parked).await.map(drop).context("parking")
}

/// In a line.
pub(crate) fn line(all: &Loads) -> String {
    let told = |one: &Load| format!("{} {} of {}", one.name, millis(one.hash.median), millis(one.woken.median));
    format!("hash of the first answer: {}", all.examples.iter().map(told).collect::<Vec<_>>().join("; "))
}

/// In the page.
pub(crate) fn tell(all: &Loads) -> String {
    let hashes: String = all
        .hashes
        .iter()
        .map(|(size, spread)| format!("| {} | {} |\n", mebibytes(*size as f64), spread.tell()))
        .collect();
    let rows: String = all
        .examples
        .iter()
        .map(|one| {
            let size = mebibytes(one.code_bytes as f64);
            format!("| {} | {size} | {} | {} |\n", one.name, one.hash.tell(), one.woken.tell())
        })
        .collect();
    format!(
        "## Looking at every byte before it is mapped\n\n\
         A node hashes code on its disk before it maps it: SHA-256, over bytes in memory, {} times.\n\n\
         | bytes | min / **median** / max |\n|---|---|\n{hashes}\n\
         The same over the machine code of the examples, and beside it the first request to a parked service, from before its connection to the whole answer, through the ClusterIP: hashed,\n\
         mapped, linked, started and answered. In turns, {} times. The hash is no part of a request to what is resident.\n\n\
         | | machine code | the hash, min / **median** / max | first answer of a parked service |\n|---|---|---|---|\n{rows}\n",
        all.hashes.first().map_or(0, |(_, spread)| spread.count),
        all.examples.first().map_or(0, |one| one.hash.count)
    )
}
