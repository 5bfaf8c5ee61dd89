//! The engine, started: what this machine allows in, an engine whose epochs tick and how many instances fit out. IO: a
//! thread of its own.

use anyhow::{Context, anyhow, ensure};
use podless_engine::{Pool, Target, runner};
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

/// Starts an engine for as many instances as were asked for, or as this machine allows.
pub(crate) fn start(target: Target, asked: Option<u32>, limits: Limits) -> anyhow::Result<(Engine, Capacity)> {
    let capacity = node::capacity(asked, limits);
    let pool = Pool { instances: capacity.instances, pagemap_scan: !limits.swap };
    let engine = runner(target, pool).map_err(|error| anyhow!("{error:#}")).context("the engine cannot be started")?;
    epoch::start(&engine)?;
    Ok((engine, capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

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
