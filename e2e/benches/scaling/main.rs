//! `make bench-scaling`: how Podless scales on a real cluster, and pods beside it on the same one. IO.
//!
//! `bench-scaling measure FOLDER` writes `FOLDER/figures/scaling.json`; `bench-scaling tell FOLDER` makes the pictures
//! beside it and `FOLDER/scaling-figures.md` from that file. QUICK=1: little of everything, to see that it works. A file for
//! each figure: [`memory`], [`fit`], [`start`], [`cold`], [`steps`], [`traces`] and [`writes`].

mod bench;
mod client;
mod cold;
mod fit;
mod kpa;
mod memory;
mod pods;
mod pss;
mod scaled;
mod shapes;
mod start;
mod steps;
mod tell;
mod traces;
mod watch;
mod writes;

use anyhow::{Context, Result};

use podless_e2e::figures::{
    command,
    machine::{self, Machine},
    plot, stats,
};

use bench::Bench;
use tell::Figures;

#[tokio::main]
async fn main() -> Result<()> {
    command::run(measure).await
}

async fn measure(quick: bool) -> Result<Figures> {
    let bench = Bench::new(quick, 7).await?;
    let machine = Machine::look(&bench.cluster, bench.quick).await?;
    // Memory comes first: what was freed is used again, and would hide what comes after.
    let memory = Box::pin(memory::measure(&bench)).await.context("memory")?;
    bench.done(&memory.line());
    let fit = Box::pin(fit::measure(&bench)).await.context("how many fit")?;
    bench.done(&fit.line());
    let start = Box::pin(start::measure(&bench)).await.context("from none to one")?;
    bench.done(&start.line());
    let cold = Box::pin(cold::measure(&bench)).await.context("cold first bytes")?;
    bench.done(&cold.line());
    let steps = Box::pin(steps::measure(&bench)).await.context("steps")?;
    bench.done(&steps::line(&steps));
    let traces = Box::pin(traces::measure(&bench)).await.context("traces")?;
    bench.done(&traces::line(&traces));
    let writes = Box::pin(writes::measure(&bench)).await.context("writes")?;
    bench.done(&writes.line());
    Ok(Figures { machine, memory, fit, start, cold, steps, traces, writes })
}
