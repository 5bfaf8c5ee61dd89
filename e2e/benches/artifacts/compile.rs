//! Figure: how long a component compiles and what it becomes, by language. Measured: IO; told: pure.

use std::time::Instant;

use anyhow::{Result, ensure};
use podless_e2e::figures::{
    plot::{Chart, Draw, Ink, Line, Panel},
    stats::{Spread, mebibytes, millis},
};
use serde::{Deserialize, Serialize};

use super::languages::{Example, Workshop};

/// One example.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Compiled {
    pub(crate) name: String,
    pub(crate) component_bytes: u64,
    pub(crate) code_bytes: u64,
    /// Milliseconds from the component to a sealed artifact in the cache: the child's start, audit and hashes included.
    pub(crate) took: Spread,
    /// Milliseconds of the compilation alone, as the child counts them.
    pub(crate) compiled: Spread,
}

/// Compiles all of them in turns, each time with an empty cache.
pub(crate) async fn measure(examples: &[Example], rounds: usize) -> Result<Vec<Compiled>> {
    let mut times = vec![(vec![], vec![], 0); examples.len()];
    for _ in 0..rounds {
        for (example, (took, compiled, code)) in examples.iter().zip(&mut times) {
            let (workshop, started) = (Workshop::new()?, Instant::now());
            let made = workshop.build(&example.component).await?;
            ensure!(!made.cache_hit(), "{} was there", example.name);
            took.push(started.elapsed().as_secs_f64() * 1000.0);
            compiled.push(made.compile_millis() as f64);
            *code = made.seal().code_size;
        }
    }
    let sum_up = |(example, (took, compiled, code_bytes)): (&Example, (Vec<f64>, Vec<f64>, u64))| {
        Ok(Compiled {
            name: example.name.to_owned(),
            component_bytes: example.component.len() as u64,
            code_bytes,
            took: Spread::of(took)?,
            compiled: Spread::of(compiled)?,
        })
    };
    examples.iter().zip(times).map(sum_up).collect()
}

/// In a line.
pub(crate) fn line(all: &[Compiled]) -> String {
    let each: Vec<_> = all.iter().map(|one| format!("{} {}", one.name, millis(one.took.median))).collect();
    format!("compiled: {}", each.join("; "))
}

/// In the page.
pub(crate) fn tell(all: &[Compiled]) -> String {
    let rows: String = all
        .iter()
        .map(|one| {
            let (component, code) = (mebibytes(one.component_bytes as f64), mebibytes(one.code_bytes as f64));
            format!("| {} | {component} | {code} | {} | {} |\n", one.name, one.compiled.tell(), one.took.tell())
        })
        .collect();
    format!(
        "## Compiling, by language\n\n\
         Each example in turns, {} times, with an empty cache: the operator's own pipeline and its child behind the walls, one\n\
         thread. \"To the artifact\" is from the component on disk to sealed code in the cache.\n\n\
         | | component | machine code | compiled, min / **median** / max | to the artifact |\n|---|---|---|---|---|\n{rows}\n\
         ![By size](figures/artifacts-compile.svg)\n\n",
        all.first().map_or(0, |one| one.took.count)
    )
}

/// As a picture.
pub(crate) fn chart(all: &[Compiled]) -> Chart {
    let mut points: Vec<_> =
        all.iter().map(|one| (one.component_bytes as f64 / f64::from(1 << 20), one.took.median / 1000.0)).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    Chart {
        title: "From a component to its artifact".to_owned(),
        x: "MiB of the component".to_owned(),
        x_powers: false,
        panels: vec![Panel {
            y: "seconds".to_owned(),
            powers: false,
            lines: vec![Line { name: "median".to_owned(), ink: Ink::Ours, draw: Draw::Dots, points }],
        }],
    }
}
