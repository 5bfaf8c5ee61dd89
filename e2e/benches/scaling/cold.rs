//! Figure: the first byte from a parked service, through its ClusterIP. Each service has machine code of its own, because
//! services with the same code share what is mapped. Measured: IO; told: pure.

use std::{slice, time::Duration};

use anyhow::{Context, Result, ensure};
use podless_e2e::COMPONENT;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::try_join;

use super::{
    bench::{Bench, is_awake, is_parked, names, register, targets, until},
    client::{ITEM, in_turn},
    pods::Pods,
    stats::{Spread, millis},
};

/// Seconds without a request after which a service is parked again.
const PARKED_AFTER: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(180);

/// Milliseconds from before the connection to the first byte of the answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cold {
    /// How many services were asked, each with code of its own.
    pub(crate) services: usize,
    /// The first request to a parked service.
    pub(crate) parked: Spread,
    /// A request to a service that has a replica: a fresh instance of code that is there.
    pub(crate) awake: Spread,
    /// A request to the native pod, which runs.
    pub(crate) native: Spread,
}

/// Asks parked services, waits until they are parked again, and so on.
pub(crate) async fn measure(bench: &Bench) -> Result<Cold> {
    let (services, rounds) = bench.times((30, 10), (6, 2));
    let namespace = bench.cluster.namespace("bench-cold").await?;
    let component = bench.cluster.registry.guest("crud")?;
    let (names, mut images) = (names(services), vec![]);
    for (number, name) in names.iter().enumerate() {
        let own = variant(&component, number)?;
        images.push(bench.cluster.registry.push(&own, COMPONENT, &format!("bench/{name}:1")).await?);
    }
    bench.doing("cold: building");
    let scaling = json!({"maxReplicas": 4, "windowSeconds": 6, "scaleToZeroAfterSeconds": PARKED_AFTER});
    register(&namespace, &names, |number| json!({"image": images[number], "scaling": scaling})).await?;
    until(&namespace, "parked", services, PATIENCE, is_parked).await?;
    let targets = targets(&namespace, &names).await?;
    let image = bench.cluster.registry.push_guest("crud", "bench/steady:1").await?;
    namespace.apply("steady", json!({"image": image})).await?;
    let steady = namespace.answers("steady").await?;
    let pods = Pods::create(&bench.cluster, &namespace).await?;
    pods.scale(1).await?;
    pods.until(1).await?;

    let (mut parked, mut awake, mut native) = (vec![], vec![], vec![]);
    for round in 0..=rounds {
        bench.doing(format!("cold: round {round} of {rounds}"));
        let each = |target| in_turn(slice::from_ref(target), ITEM, services);
        let asked =
            async { anyhow::Ok((in_turn(&targets, ITEM, 1).await?, each(&steady).await?, each(&pods.target).await?)) };
        let woken = until(&namespace, "awake", services + 1, PATIENCE, is_awake);
        let (of_parked, of_steady, of_pod) = try_join!(asked, woken)?.0;
        // In the first round the native pod reads its program from the disk, and kube-proxy hears of all of them.
        if round > 0 {
            parked.extend(of_parked.concat());
            awake.extend(of_steady.concat());
            native.extend(of_pod.concat());
        }
        until(&namespace, "parked again", services, PATIENCE, is_parked).await?;
    }
    namespace.delete().await?;
    Ok(Cold { services, parked: Spread::of(parked)?, awake: Spread::of(awake)?, native: Spread::of(native)? })
}

/// What the component says of a path that is none. Four letters of it are another number's in each variant.
const SAID: &[u8] = b"no such item";

/// The component with another text in it: one like it, with machine code of its own.
pub(crate) fn variant(component: &[u8], number: usize) -> Result<Vec<u8>> {
    ensure!(number < 10_000, "four digits are enough for {number}");
    let at = component.windows(SAID.len()).position(|bytes| bytes == SAID);
    let end = at.context("the component has lost its text")? + SAID.len();
    let mut own = component.to_vec();
    own[end - 4..end].copy_from_slice(format!("{number:04}").as_bytes());
    Ok(own)
}

impl Cold {
    /// In a line.
    pub(crate) fn line(&self) -> String {
        let Spread { count, median, p99, .. } = self.parked;
        format!("cold first byte, {count} times: p50 {}, p99 {}", millis(median), millis(p99))
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let row = |name: &str, spread: &Spread| {
            let Spread { count, min, median, p99, max } = *spread;
            let [min, median, p99, max] = [min, median, p99, max].map(millis);
            format!("| {name} | {count} | {min} | **{median}** | **{p99}** | {max} |\n")
        };
        format!(
            "## The first byte, cold\n\n\
             A GET of an item of 1 KB through the ClusterIP, from before the connection is made to the head of the answer.\n\
             {} services with [crud](../examples/crud) in them, each changed by four letters so that none finds the code of\n\
             another mapped. The artifact is on the node's disk, and most likely in its page cache.\n\n\
             | request | times | min | p50 | p99 | max |\n|---|---|---|---|---|---|\n{}{}{}\n",
            self.services,
            row("to a parked service: load, link, instantiate", &self.parked),
            row("to one with a replica: a fresh instance", &self.awake),
            row("to the same service as a native pod that runs", &self.native),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_differ_in_four_letters() -> Result<()> {
        let component = b"\0asm..no such item: an ID..".to_vec();
        assert_eq!(variant(&component, 7)?, b"\0asm..no such 0007: an ID..");
        assert!(variant(b"\0asm", 7).is_err() && variant(&component, 10_000).is_err());
        Ok(())
    }
}
