//! The engines, started: what this machine allows in, one engine for each flavour of component and how many instances fit
//! out. IO: a thread of its own, which ticks.

use anyhow::{Context, anyhow, ensure};
use podless_engine::{Flavour, KEPT, Pool, Target, runner};
use podless_host::Linkers;
use wasmtime::Engine;

use crate::{
    node::{self, Capacity, Limits},
    serve::epoch,
};

/// What this shim runs: what it was asked to, or the best that this machine's CPU can.
pub(crate) fn target(asked: Option<Target>) -> anyhow::Result<Target> {
    choose(asked, Target::best())
}

fn choose(asked: Option<Target>, best: Option<Target>) -> anyhow::Result<Target> {
    let best = best.context("this machine's CPU is too old: it must have x86-64-v2, or be a 64-bit ARM")?;
    let target = asked.unwrap_or(best);
    ensure!(target.runs_on(best), "--target is {target}, which this machine's CPU does not run: the best is {best}");
    Ok(target)
}

/// An engine, and what may be linked on it.
pub(crate) struct Runner {
    /// The engine.
    pub(crate) engine: Engine,
    /// What may be linked.
    pub(crate) linkers: Linkers,
    /// Places of the node for each of its slots.
    pub(crate) places: u64,
}

/// One engine for each flavour of component.
pub(crate) struct Engines {
    p2: Runner,
    p3: Runner,
}

impl Engines {
    /// The one that runs components of this flavour.
    pub(crate) fn of(&self, flavour: Flavour) -> &Runner {
        match flavour {
            Flavour::P2 => &self.p2,
            Flavour::P3 => &self.p3,
        }
    }
}

/// Starts the engines for as many instances, all together, as were asked for, or as this machine allows.
pub(crate) fn start(target: Target, asked: Option<u32>, limits: Limits) -> anyhow::Result<(Engines, Capacity)> {
    let capacity = node::capacity(asked, limits);
    let start = |flavour| {
        let instances = slots(flavour, capacity.instances);
        let pool = Pool { instances, warm: warm(limits.memory).min(instances), pagemap_scan: !limits.swap };
        let runner = runner(target, flavour, pool).and_then(|engine| {
            let linkers = Linkers::new(&engine, flavour)?;
            Ok(Runner { engine, linkers, places: u64::from(capacity.instances / instances) })
        });
        runner.map_err(|error| anyhow!("{error:#}")).with_context(|| format!("the engine {flavour} cannot be started"))
    };
    let engines = Engines { p2: start(Flavour::P2)?, p3: start(Flavour::P3)? };
    epoch::start([&engines.p2.engine, &engines.p3.engine])?;
    Ok((engines, capacity))
}

/// Slots that keep memory which nobody uses: a sixteenth of all there is at most, in both pools together.
fn warm(memory: u64) -> u32 {
    u32::try_from(memory / 32 / KEPT).unwrap_or(u32::MAX).max(16)
}

/// Slots in the pool of one engine, of a node that takes so many requests at once. Slots are address space, of which both
/// have to be made: a quarter is enough for WASI 0.3, an instance of which answers several requests at once.
fn slots(flavour: Flavour, instances: u32) -> u32 {
    match flavour {
        Flavour::P2 => instances,
        Flavour::P3 => (instances / 4).max(instances.min(16)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_of_0_3_is_a_quarter_and_what_is_kept_a_sixteenth_of_the_memory() {
        assert_eq!([1, 16, 100, 10_000].map(|instances| slots(Flavour::P3, instances)), [1, 16, 25, 2_500]);
        assert_eq!(u64::from(warm(16 << 30)) * KEPT * 2, 1 << 30, "of both pools together");
        assert_eq!(warm(0), 16);
    }

    #[test]
    fn a_shim_runs_the_best_that_it_can_or_what_it_was_asked_to() {
        use Target::{Aarch64, X86_64V2, X86_64V3};
        for (asked, best, runs) in [
            (None, Some(X86_64V3), Some(X86_64V3)),
            (None, Some(Aarch64), Some(Aarch64)),
            (Some(X86_64V2), Some(X86_64V3), Some(X86_64V2)),
            (Some(X86_64V3), Some(X86_64V2), None),
            (Some(Aarch64), Some(X86_64V3), None),
            (None, None, None),
            (Some(X86_64V2), None, None),
        ] {
            assert_eq!(choose(asked, best).ok(), runs, "{asked:?} {best:?}");
        }
    }
}
