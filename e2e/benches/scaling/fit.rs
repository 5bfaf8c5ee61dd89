//! Figure: how many fit. Of pods it is computed from what the nodes allow; of WasmServices, a number is registered and
//! asked. Measured: IO; told: pure.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::ListParams};
use podless_crds::WasmNode;
use podless_link::SERVICE_PORTS;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    bench::{Bench, is_parked, names, register, targets, until},
    client::{ITEM, in_turn},
    memory::{of_podless, settled},
    stats::{Spread, mebibytes, millis},
};

/// Services that are asked.
const ASKED: usize = 50;

/// What fits, and what was tried.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fit {
    /// Pods that a node takes, and those of them that the cluster has room for.
    pub(crate) pods_each: usize,
    pub(crate) pods_free: usize,
    /// Instances that may be live at once, all nodes together, and what bounds them.
    pub(crate) instances: i32,
    pub(crate) bounded_by: String,
    /// Ports that services can have.
    pub(crate) ports: usize,
    /// WasmServices that were registered, parked.
    pub(crate) registered: usize,
    /// Seconds until all of them could be asked.
    pub(crate) seconds: f64,
    /// Bytes that the pods of Podless took more.
    pub(crate) bytes: f64,
    /// Milliseconds to the first byte of some of them.
    pub(crate) first_byte: Spread,
}

/// Registers services until it is shown that they are no matter of pods.
pub(crate) async fn measure(bench: &Bench) -> Result<Fit> {
    let registered = bench.times(1000, 100);
    let kube = &bench.cluster.kube;
    let nodes = Api::<Node>::all(kube.clone()).list(&ListParams::default()).await?;
    let allowed = nodes.into_iter().map(|node| {
        let pods = node.status.and_then(|status| status.allocatable?.get("pods").cloned());
        anyhow::Ok(pods.context("a node says how many pods it takes")?.0.parse::<usize>()?)
    });
    let allowed = allowed.collect::<Result<Vec<_>>>()?;
    let placed = Api::<Pod>::all(kube.clone()).list(&ListParams::default()).await?.items.len();
    let capacities = Api::<WasmNode>::all(kube.clone()).list(&ListParams::default()).await?.into_iter();
    let capacities: Vec<_> = capacities.filter_map(|node| Some(node.status?.capacity)).collect();

    let namespace = bench.cluster.namespace("bench-fit").await?;
    let image = bench.cluster.registry.push_guest("crud", "bench/fit:1").await?;
    let own = of_podless(bench).await?;
    let before = settled(&own).await?;
    bench.doing(format!("fit: {registered} services"));
    let (begin, names) = (Instant::now(), names(registered));
    register(&namespace, &names, |_| json!({"image": image})).await?;
    until(&namespace, "parked", registered, Duration::from_secs(400), is_parked).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = settled(&own).await?.total() - before.total();
    let asked: Vec<_> = names.iter().step_by(registered.div_ceil(ASKED)).cloned().collect();
    let first_bytes = in_turn(&targets(&namespace, &asked).await?, ITEM, 1).await?;
    namespace.delete().await?;
    Ok(Fit {
        pods_each: allowed.iter().copied().max().unwrap_or(0),
        pods_free: allowed.iter().sum::<usize>().saturating_sub(placed),
        instances: capacities.iter().map(|capacity| capacity.instances).sum(),
        bounded_by: capacities.first().map(|capacity| capacity.bounded_by.clone()).unwrap_or_default(),
        ports: SERVICE_PORTS.len(),
        registered,
        seconds,
        bytes,
        first_byte: Spread::of(first_bytes.concat())?,
    })
}

impl Fit {
    /// In a line.
    pub(crate) fn line(&self) -> String {
        let Self { registered, seconds, pods_free, .. } = self;
        format!("fit: {registered} WasmServices registered in {seconds:.0} s, where {pods_free} pods fit")
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        format!(
            "## How many fit\n\n\
             | | |\n|---|---|\n\
             | pods that a node takes (`allocatable`), computed | {} |\n\
             | pods that fit on this cluster beside what runs, computed | **{}** |\n\
             | ports that WasmServices can have, one for each: the bound, not tried | {} |\n\
             | instances live at once, all nodes together (bounded by {}), as the shims say | {} |\n\
             | WasmServices registered, parked: **measured** | **{}** |\n\
             | until the last of them could be asked | {:.1} s, {} each |\n\
             | memory of them, all nodes and operators together | {}, {:.0} KB each |\n\
             | first byte of {} of them, parked: p50 / max | {} / {} |\n\n\
             More than {} on this cluster were not tried. The registered ones are of one component; with different ones the\n\
             disk holds the machine code of each.\n\n",
            self.pods_each,
            self.pods_free,
            self.ports,
            self.bounded_by,
            self.instances,
            self.registered,
            self.seconds,
            millis(self.seconds * 1000.0 / self.registered as f64),
            mebibytes(self.bytes),
            self.bytes / self.registered as f64 / 1000.0,
            self.first_byte.count,
            millis(self.first_byte.median),
            millis(self.first_byte.max),
            self.registered,
        )
    }
}
