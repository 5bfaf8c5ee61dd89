//! Figure: the cycle of a request inside the process, and the same over many services. Measured by a program of the shim's
//! side, which links what shims link: IO; told: pure.

use std::{collections::HashMap, process::Command};

use anyhow::{Context, Result, ensure};
use podless_e2e::figures::stats::Spread;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    guests::HELLO,
    shim::built,
    table::{Aim, Row, short},
};

/// Microseconds of one kind in one round.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Round {
    kind: Kind,
    p50: f64,
    p99: f64,
    mean: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Shim,
    DefaultPool,
    OnDemand,
    /// The shim's pool, over many services.
    Spread,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Shim, "the shim's pool"),
    (Kind::DefaultPool, "Wasmtime's default pool"),
    (Kind::OnDemand, "no pool"),
    (Kind::Spread, "the shim's pool, at random over all services"),
];

/// All rounds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cycle {
    services: usize,
    cycles: usize,
    rounds: Vec<Round>,
}

/// Runs the program on the server's core.
pub(crate) async fn measure(bench: &Bench) -> Result<Cycle> {
    let (services, cycles, rounds) = (bench.times(2000, 500), bench.times(20_000, 2000), bench.times(5, 3));
    let code = bench.folder.path().join("cycle.cwasm");
    std::fs::write(&code, HELLO.code()?.bytes())?;
    let mut command = Command::new(built("examples/cycle")?);
    command.arg(code).args([services, cycles, rounds].map(|number| number.to_string()));
    let output = on(Some(bench.cores.server), move || Ok(command.output()?)).await?;
    ensure!(output.status.success(), "cycle: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let rounds = text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("what cycle says")?;
    Ok(Cycle { services, cycles, rounds })
}

impl Cycle {
    fn all(&self, kind: Kind, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().filter(|round| round.kind == kind).map(of).collect()
    }

    /// For the table.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let p50: HashMap<_, _> = KINDS.map(|(kind, _)| (kind, self.all(kind, |round| round.p50))).into();
        let ratios = |one, other| p50[&one].iter().zip(&p50[&other]).map(|(one, other)| one / other);
        Ok(vec![
            Row::new(
                "request cycle in process (p50): the shim's pool ÷ no pool",
                ratios(Kind::Shim, Kind::OnDemand),
                Aim::Most(0.22, 0.15),
            )?,
            Row::new(
                &format!("the same at random over {} services ÷ one", short(self.services as f64)),
                ratios(Kind::Spread, Kind::Shim),
                Aim::Most(3.5, 2.0),
            )?,
        ])
    }

    /// In the page.
    pub(crate) fn tell(&self) -> Result<String> {
        let mut rows = String::new();
        for (kind, name) in KINDS {
            let [p50, p99, mean] = [
                self.all(kind, |round| round.p50),
                self.all(kind, |round| round.p99),
                self.all(kind, |round| round.mean),
            ]
            .map(Spread::of);
            let (p50, p99, mean) = (p50?, p99?, mean?);
            let (low, middle, high) = (short(p50.min), short(p50.median), short(p50.max));
            let (p99, mean) = (short(p99.median), short(mean.median));
            rows += &format!("| {name} | {low} / **{middle}** / {high} | {p99} | {mean} |\n");
        }
        Ok(format!(
            "## The cycle of a request inside the process\n\n\
             An instance of [hello](../../examples/hello) is made, answers, and is dropped: no socket, no HTTP server. The same\n\
             machine code and the same host around it, on one core; {} services have each a file of code of their own. {} cycles\n\
             of each in turns, {} rounds. Microseconds.\n\n\
             | | p50, min / **median** / max | p99 | mean |\n|---|---|---|---|\n{rows}\n",
            short(self.services as f64),
            short(self.cycles as f64),
            self.all(Kind::Shim, |round| round.p50).len()
        ))
    }
}
