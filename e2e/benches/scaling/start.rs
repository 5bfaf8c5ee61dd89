//! Figure: from no replica to the first byte, in turns: a native pod, a stopped WasmService, a parked one. Measured: IO;
//! told: pure.

use std::{slice, time::Instant};

use anyhow::Result;
use kube::api::{Patch, PatchParams};
use podless_crds::ConditionType::Ready;
use podless_e2e::{COMPONENT, Namespace, Target};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::try_join;

use super::{
    bench::{Bench, is_awake, is_parked, names},
    client::{ITEM, in_turn, until_served},
    cold::variant,
    plot::{Chart, Draw, Ink, Line, Panel},
    pods::Pods,
    stats::Spread,
};

/// Milliseconds to the first byte, round by round.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Start {
    /// From the PATCH of a Deployment from 0 to 1 replica.
    pub(crate) pod: Vec<f64>,
    /// From the PATCH of a WasmService from 0 to 1 replica.
    pub(crate) replica: Vec<f64>,
    /// From the request itself, to a parked WasmService.
    pub(crate) parked: Vec<f64>,
    pub(crate) pod_spread: Spread,
    pub(crate) replica_spread: Spread,
    pub(crate) parked_spread: Spread,
}

/// Interleaves the three, so that what the machine does besides meets all of them.
pub(crate) async fn measure(bench: &Bench) -> Result<Start> {
    let rounds = bench.times(10, 3);
    let namespace = bench.cluster.namespace("bench-start").await?;
    let image = bench.cluster.registry.push_guest("crud", "bench/start:1").await?;
    let pods = Pods::create(&bench.cluster, &namespace).await?;
    let names = names(2);
    let (stopped, parks) = (names[0].as_str(), names[1].as_str());
    namespace.apply_as_is(stopped, json!({"image": image, "replicas": 0})).await?;
    let scaling = json!({"windowSeconds": 6, "scaleToZeroAfterSeconds": 2});
    // With code of its own: while another service has the same mapped, waking would be no load.
    let own = variant(&bench.cluster.registry.guest("crud")?, 1)?;
    let own = bench.cluster.registry.push(&own, COMPONENT, "bench/start-parked:1").await?;
    namespace.apply_as_is(parks, json!({"image": own, "scaling": scaling})).await?;
    namespace.until(parks, "it is parked", is_parked).await?;
    namespace.until_condition(stopped, Ready, "True", "Stopped").await?;
    let (to_stopped, to_parked) = (namespace.target(stopped).await?, namespace.target(parks).await?);

    let (mut pod, mut replica, mut parked) = (vec![], vec![], vec![]);
    // The first round unpacks the image and is not counted.
    for round in 0..=rounds {
        bench.doing(format!("start: round {round} of {rounds}"));
        let of_pod = first_byte(&pods.target, pods.scale(1)).await?;
        pods.scale(0).await?;
        let of_replica = first_byte(&to_stopped, scale(&namespace, stopped, 1)).await?;
        scale(&namespace, stopped, 0).await?;
        namespace.until(parks, "it is parked", is_parked).await?;
        let of_parked = in_turn(slice::from_ref(&to_parked), ITEM, 1).await?.concat();
        if round > 0 {
            pod.push(of_pod);
            replica.push(of_replica);
            parked.extend(of_parked);
        }
        namespace.until(parks, "it is awake", is_awake).await?;
        namespace.until_condition(stopped, Ready, "True", "Stopped").await?;
        pods.until(0).await?;
    }
    namespace.delete().await?;
    Ok(Start {
        pod_spread: Spread::of(pod.clone())?,
        replica_spread: Spread::of(replica.clone())?,
        parked_spread: Spread::of(parked.clone())?,
        pod,
        replica,
        parked,
    })
}

async fn scale(namespace: &Namespace, name: &str, replicas: usize) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    namespace.services().patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Milliseconds from before a change is sent to the first byte that the client gets, which asks all the time.
async fn first_byte(target: &Target, change: impl Future<Output = Result<()>>) -> Result<f64> {
    let begin = Instant::now();
    let (served, ()) = try_join!(until_served(target, ITEM), change)?;
    Ok((served - begin).as_secs_f64() * 1000.0)
}

impl Start {
    fn ratio(&self) -> f64 {
        self.pod_spread.median / self.replica_spread.median
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        format!(
            "0 to 1: pod {}, WasmService {}, parked {}",
            self.pod_spread.tell(),
            self.replica_spread.tell(),
            self.parked_spread.tell()
        )
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        format!(
            "## From none to one\n\n\
             The same service three ways, in turns, {} times each: [crud](../examples/crud) as a WasmService, and its code in\n\
             a native axum server in a pod (`e2e/peers/crud-axum`). From before the PATCH to the first byte that a client gets\n\
             through the ClusterIP, which asks every 2 ms; of the parked one, from the request itself, as nothing is scaled\n\
             for it. Image and artifact are on the nodes before. The pod has no probe, no mounts and no limits: it serves as\n\
             soon as it runs.\n\n\
             | | min / **median** / max |\n|---|---|\n\
             | Deployment, `replicas` 0 → 1 | {} |\n| WasmService, `replicas` 0 → 1 | {} |\n| WasmService, parked | {} |\n\n\
             A pod takes {:.0} times as long as a replica of a WasmService, by the medians.\n\n\
             ![Each round](figures/start.svg)\n\n",
            self.pod.len(),
            self.pod_spread.tell(),
            self.replica_spread.tell(),
            self.parked_spread.tell(),
            self.ratio(),
        )
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |name: &str, ink, values: &[f64]| Line {
            name: name.to_owned(),
            ink,
            draw: Draw::Dots,
            points: values.iter().enumerate().map(|(round, value)| ((round + 1) as f64, *value)).collect(),
        };
        Chart {
            title: "From no replica to the first byte, through the ClusterIP".to_owned(),
            x: "round".to_owned(),
            x_powers: false,
            panels: vec![Panel {
                y: "ms".to_owned(),
                powers: true,
                lines: vec![
                    line("native pod, 0 → 1", Ink::Other, &self.pod),
                    line("WasmService, 0 → 1", Ink::Ours, &self.replica),
                    line("WasmService, parked", Ink::OursToo, &self.parked),
                ],
            }],
        }
    }
}
