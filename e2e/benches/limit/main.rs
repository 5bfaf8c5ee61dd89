//! `make bench`: the shim at the limit, and what it is measured beside. IO.
//!
//! `bench-limit measure FOLDER` writes `FOLDER/limit.json`; `bench-limit tell FOLDER` makes the pictures and the page beside
//! it from that file. QUICK=1: little of everything, to see that it works. ONLY=crud: this figure alone, quick and not
//! written. A file for each figure.

mod answer;
mod cold;
mod cores;
mod crud;
mod cycle;
mod guests;
mod load;
mod memory;
mod neighbour;
mod operator;
mod peers;
mod process;
mod restart;
mod shim;
mod stream;
mod table;
mod tell;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use podless_e2e::figures::{Machine, command};

use cores::Cores;
use table::Row;
use tell::Figures;

/// A run.
pub(crate) struct Bench {
    /// Only as much as shows that it works: no figures to publish.
    pub(crate) quick: bool,
    pub(crate) cores: Cores,
    /// For files of a figure.
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    /// The first number, or the second in a quick run.
    pub(crate) fn times(&self, whole: usize, quick: usize) -> usize {
        if self.quick { quick } else { whole }
    }

    /// So many seconds, or so few in a quick run.
    pub(crate) fn time(&self, whole: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { quick } else { whole })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Before anything speaks TLS: two providers may be linked, and only one is meant.
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| anyhow!("a TLS provider is set"))?;
    let bench = |quick| Ok::<_, anyhow::Error>(Bench { quick, cores: Cores::find()?, folder: tempfile::tempdir()? });
    match std::env::var("ONLY") {
        Ok(name) if !name.is_empty() => only(&name, &bench(true)?).await,
        _ => command::run(async |quick| Box::pin(measure(&bench(quick)?)).await).await,
    }
}

/// The figures, each said when it is there.
async fn measure(bench: &Bench) -> Result<Figures> {
    let machine = Machine::alone(bench.quick)?;
    let mut rows = vec![];
    let cycle = cycle::measure(bench).await.context("cycles")?;
    say(&mut rows, cycle.rows()?);
    let crud = Box::pin(crud::measure(bench)).await.context("items")?;
    say(&mut rows, crud.rows()?);
    let cold = Box::pin(cold::measure(bench)).await.context("first requests")?;
    say(&mut rows, cold::rows(&cold)?);
    let stream = Box::pin(stream::measure(bench)).await.context("streams")?;
    say(&mut rows, stream::rows(&stream)?);
    let neighbour = Box::pin(neighbour::measure(bench)).await.context("neighbours")?;
    eprintln!("{}", neighbour.line());
    let restart = Box::pin(restart::measure(bench, cold.first().context("a size")?)).await.context("restart")?;
    say(&mut rows, restart.rows()?);
    let memory = Box::pin(memory::measure(bench)).await.context("memory")?;
    say(&mut rows, memory.rows()?);
    Ok(Figures { machine, rows, cycle, crud, cold, stream, neighbour, restart, memory })
}

/// One of the figures, to work on it: no more than its rows are said.
async fn only(name: &str, bench: &Bench) -> Result<()> {
    let rows = match name {
        "cycle" => cycle::measure(bench).await?.rows()?,
        "crud" => {
            let crud = Box::pin(crud::measure(bench)).await?;
            eprintln!("{}", crud.tell()?);
            crud.rows()?
        }
        "cold" => cold::rows(&Box::pin(cold::measure(bench)).await?)?,
        "stream" => {
            let stream = Box::pin(stream::measure(bench)).await?;
            eprintln!("{}", stream::tell(&stream)?);
            stream::rows(&stream)?
        }
        "neighbour" => {
            eprintln!("{}", Box::pin(neighbour::measure(bench)).await?.line());
            vec![]
        }
        "restart" => {
            let cold = Box::pin(cold::measure(bench)).await?;
            Box::pin(restart::measure(bench, cold.first().context("a size")?)).await?.rows()?
        }
        "memory" => Box::pin(memory::measure(bench)).await?.rows()?,
        other => bail!("there is no figure {other}"),
    };
    say(&mut vec![], rows);
    Ok(())
}

fn say(rows: &mut Vec<Row>, more: Vec<Row>) {
    more.iter().for_each(|row| eprintln!("{}", row.line()));
    rows.extend(more);
}
