//! Figure: what a hundred services take, as WasmServices and as pods. Measured: IO; told: pure.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    bench::{Bench, is_awake, is_parked, names, register, targets, until},
    client::{ITEM, in_turn},
    plot::{Chart, Draw, Ink, Line, Panel},
    pods::Pods,
    pss::{self, Memory},
    stats::mebibytes,
};

const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes, all nodes together: proportional set sizes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    /// Podless with no service: its shims and operators, as whole pods.
    pub(crate) podless: Memory,
    /// By the number of services, those of the native pods.
    pub(crate) pods: Vec<(usize, Memory)>,
    /// By the number of services, how much more the pods of Podless take: none asked for yet.
    pub(crate) parked: Vec<(usize, f64)>,
    /// The same for the last of them, when each has answered a request and its code is mapped.
    pub(crate) resident: f64,
}

/// Registers WasmServices and asks each; then scales the native pod up.
pub(crate) async fn measure(bench: &Bench) -> Result<Figure> {
    let counts: &[usize] = bench.times(&[20, 50, 100], &[5, 10, 20]);
    let most = counts.last().copied().context("a number of services")?;
    let namespace = bench.cluster.namespace("bench-memory").await?;
    let image = bench.cluster.registry.push_guest("crud", "bench/memory:1").await?;
    let own = of_podless(bench).await?;
    bench.doing("memory: Podless with no service");
    let podless = settled(&own).await?;
    let names = names(most);
    let mut parked = vec![];
    for count in counts.iter().copied() {
        bench.doing(format!("memory: {count} parked"));
        let spec = |_| json!({"image": image, "scaling": {"scaleToZeroAfterSeconds": 3600}});
        register(&namespace, &names[..count], spec).await?;
        until(&namespace, "parked", count, PATIENCE, is_parked).await?;
        parked.push((count, settled(&own).await?.total() - podless.total()));
    }
    bench.doing(format!("memory: {most} awake"));
    let targets = targets(&namespace, &names).await?;
    in_turn(&targets, ITEM, 1).await?;
    until(&namespace, "awake", most, PATIENCE, is_awake).await?;
    let resident = settled(&own).await?.total() - podless.total();

    let native = Pods::create(&bench.cluster, &namespace).await?;
    let mut pods = vec![];
    for count in counts.iter().copied() {
        bench.doing(format!("memory: {count} pods"));
        native.scale(count).await?;
        native.until(count).await?;
        pods.push((count, settled(&native.uids().await?).await?));
    }
    bench.doing("memory: the pods end");
    native.scale(0).await?;
    native.until(0).await?;
    namespace.delete().await?;
    Ok(Figure { podless, pods, parked, resident })
}

/// The uids of the shims' and operators' pods.
pub(crate) async fn of_podless(bench: &Bench) -> Result<Vec<String>> {
    let (shims, operators) = (bench.cluster.shims().await?, bench.cluster.operators().await?);
    let uid = |(_, pod): (String, Pod)| pod.metadata.uid.context("a pod has a uid");
    shims.into_iter().chain(operators).map(uid).collect()
}

/// What pods take when two looks, a second apart, differ by no more than one in a hundred; after fifteen seconds, anyway.
pub(crate) async fn settled(uids: &[String]) -> Result<Memory> {
    let (begin, mut last) = (Instant::now(), pss::of_pods(uids)?);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = pss::of_pods(uids)?;
        let moved = (now.total() - last.total()).abs();
        if moved <= last.total() / 100.0 || begin.elapsed() > Duration::from_secs(15) {
            return Ok(now);
        }
        last = now;
    }
}

impl Figure {
    /// In a line.
    pub(crate) fn line(&self) -> String {
        let last = self.pods.last().map(|(count, memory)| (count, memory.total()));
        let (count, pods) = last.unwrap_or((&0, 0.0));
        let parked = self.parked.last().map_or(0.0, |(_, bytes)| *bytes);
        let [pods, parked, resident] = [pods, parked, self.resident].map(mebibytes);
        format!("memory of {count}: pods {pods}, WasmServices {parked} parked, {resident} resident")
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let mut out = String::from(
            "## Memory\n\n\
             The same service so many times, all nodes together: the proportional set size of all processes that are there for\n\
             it (`smaps_rollup`: a page that many share counts for each in part). Of a pod these are the program, the pause\n\
             container and `containerd-shim`; of WasmServices, what the pods of Podless (shims and operators, with pause and\n\
             `containerd-shim` too) take more than before. kubelets, containerd and the API server are in neither.\n\n\
             | services | pods: programs | pause | containerd-shim | pods: all | WasmServices, parked |\n|---|---|---|---|---|---|\n",
        );
        for ((count, pods), (_, parked)) in self.pods.iter().zip(&self.parked) {
            let Memory { programs, pause, runtime } = *pods;
            let [programs, pause, runtime, all, parked] =
                [programs, pause, runtime, pods.total(), *parked].map(mebibytes);
            out += &format!("| {count} | {programs} | {pause} | {runtime} | **{all}** | **{parked}** |\n");
        }
        let (count, pods) = self.pods.last().map_or((1, 0.0), |(count, pods)| (*count, pods.total()));
        let [podless, resident] = [self.podless.total(), self.resident].map(mebibytes);
        out += &format!(
            "\nAll {count} **resident**, each after one request: **{resident}**, {:.0} KB for each, beside {:.1} MB for each pod.\n\
             Podless itself, with no service on any node, takes {podless}: as much as {:.0} of these pods.\n\n\
             ![Memory](figures/memory.svg)\n\n",
            self.resident / count as f64 / 1000.0,
            pods / count as f64 / 1e6,
            self.podless.total() / (pods / count as f64),
        );
        out
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let mib = |bytes: f64| (bytes / f64::from(1 << 20)).max(0.01);
        let point = |count: usize, bytes: f64| (count as f64, mib(bytes));
        let line = |name: &str, ink, points| Line { name: name.to_owned(), ink, draw: Draw::Dots, points };
        let most = self.pods.last().map_or(0, |(count, _)| *count);
        Chart {
            title: "Memory of so many services, all nodes together".to_owned(),
            x: "services".to_owned(),
            x_powers: false,
            panels: vec![Panel {
                y: "MiB".to_owned(),
                powers: true,
                lines: vec![
                    line("native pods", Ink::Other, self.pods.iter().map(|(n, m)| point(*n, m.total())).collect()),
                    line("WasmServices, parked", Ink::Ours, self.parked.iter().map(|(n, m)| point(*n, *m)).collect()),
                    line("WasmServices, resident", Ink::OursToo, vec![point(most, self.resident)]),
                ],
            }],
        }
    }
}
