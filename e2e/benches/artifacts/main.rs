//! `make bench-artifacts`: what it takes to get from a component to machine code that serves. IO.
//!
//! `bench-artifacts measure FOLDER` writes `FOLDER/figures/artifacts.json`; `bench-artifacts tell FOLDER` makes the pictures
//! beside it and `FOLDER/artifact-figures.md` from that file. QUICK=1: little of everything, to see that it works. A file for
//! each figure: [`compile`], [`nodes`], [`ready`], [`load`] and [`rebuild`].

mod compile;
mod languages;
mod load;
mod nodes;
mod ready;
mod rebuild;
mod tell;

use anyhow::{Context, Result};
use podless_e2e::{
    Cluster,
    figures::{Machine, command},
};

use tell::Figures;

#[tokio::main]
async fn main() -> Result<()> {
    command::run(measure).await
}

/// The figures, each said when it is there.
async fn measure(quick: bool) -> Result<Figures> {
    let cluster = Cluster::connect().await?;
    let machine = Machine::look(&cluster, quick).await?;
    let languages = languages::built(quick)?;
    let rounds = if quick { 1 } else { 3 };
    let compile = compile::measure(&languages, rounds).await.context("compilations")?;
    eprintln!("{}", compile::line(&compile));
    let nodes = nodes::measure(if quick { 3 } else { 10 }, rounds).await.context("once or on every node")?;
    eprintln!("{}", nodes.line());
    let rebuild = rebuild::measure(if quick { 50 } else { 1000 }, rounds).await.context("the store, made again")?;
    eprintln!("{}", rebuild.line());
    let ready = Box::pin(ready::measure(&cluster, &languages, rounds)).await.context("apply to Ready")?;
    eprintln!("{}", ready::line(&ready));
    let load = Box::pin(load::measure(&cluster, &languages, if quick { 3 } else { 20 })).await.context("loading")?;
    eprintln!("{}", load::line(&load));
    Ok(Figures { machine, compile, nodes, rebuild, ready, load })
}
