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
mod machine;
mod memory;
mod plot;
mod pods;
mod pss;
mod scaled;
mod shapes;
mod start;
mod stats;
mod steps;
mod tell;
mod traces;
mod watch;
mod writes;

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};

use bench::Bench;
use machine::Machine;
use tell::Figures;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [verb, folder] = arguments.as_slice() else { bail!("usage: bench-scaling measure|tell FOLDER") };
    let folder = Path::new(folder);
    match verb.as_str() {
        "measure" => {
            let figures = measure(env::var("QUICK").is_ok_and(|quick| !quick.is_empty())).await?;
            write(&folder.join("figures/scaling.json"), &(serde_json::to_string_pretty(&figures)? + "\n"))
        }
        "tell" => tell(folder),
        other => bail!("no verb {other}: there are measure and tell"),
    }
}

async fn measure(quick: bool) -> Result<Figures> {
    let bench = Bench::new(quick, 7).await?;
    let machine = Machine::look(&bench).await?;
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

fn tell(folder: &Path) -> Result<()> {
    let measured = folder.join("figures/scaling.json");
    let text = fs::read_to_string(&measured).with_context(|| format!("reading {}", measured.display()))?;
    let figures: Figures = serde_json::from_str(&text).with_context(|| format!("reading {}", measured.display()))?;
    for (name, picture) in figures.pictures() {
        write(&folder.join(format!("figures/{name}.svg")), &picture)?;
    }
    let page = folder.join("scaling-figures.md");
    write(&page, &figures.page())?;
    eprintln!("{}", page.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
