//! Figure: bodies of 1 MB, taken and given back, by time and by CPU. Measured: IO; told: pure.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podless_e2e::figures::stats::Spread;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    guests::{PROBE, SPLICE_P3},
    load::{self, Load, request},
    operator::Operator,
    peers::{self, AXUM},
    process::Process,
    shim::{Shim, address},
    table::{Aim, Row, short},
};

/// One way of one server, MB of bodies that it took, a number for each round.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) per_second: Vec<f64>,
    pub(crate) per_cpu_second: Vec<f64>,
}

const BODY: usize = 1 << 20;
const CONNECTIONS: usize = 8;
const TAKEN: &str = "taken";
const BACK: &str = "given back";

/// Asks all in turns.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Way>> {
    let operator = Operator::start().await?;
    let axum = peers::native(AXUM, "crud-axum", 9001, bench.cores.server).await?;
    let shim = Shim::start(&operator, Some(bench.cores.server)).await?;
    let p2 = operator.assignment("p2", &PROBE.code()?, 20_000)?;
    let p3 = operator.assignment("p3", &SPLICE_P3.code()?, 20_001)?;
    operator.assign(&[p2, p3]).await?;
    let all = [
        (format!("{AXUM}, {TAKEN}"), &axum.process, axum.port, "/drain"),
        (format!("Podless 0.2, {TAKEN}"), &shim.process, 20_000, "/drain"),
        (format!("{AXUM}, {BACK}"), &axum.process, axum.port, "/splice"),
        (format!("Podless 0.2, {BACK}"), &shim.process, 20_000, "/echo"),
        (format!("Podless 0.3, {BACK}"), &shim.process, 20_001, "/"),
    ];
    let new = |name: &String| Way { name: name.clone(), per_second: vec![], per_cpu_second: vec![] };
    let mut ways: Vec<_> = all.iter().map(|(name, ..)| new(name)).collect();
    for round in 0..=bench.times(5, 3) {
        for ((name, process, port, path), way) in all.iter().zip(&mut ways) {
            let time = bench.time(2.0, 0.6);
            let (wall, cpu) = ask(bench, process, *port, path, time).await.with_context(|| name.clone())?;
            // The first is to get warm.
            if round > 0 {
                way.per_second.push(wall);
                way.per_cpu_second.push(cpu);
            }
        }
    }
    Ok(ways)
}

async fn ask(bench: &Bench, process: &Process, port: u16, path: &str, time: Duration) -> Result<(f64, f64)> {
    let request = request("POST", path, &vec![b'x'; BODY]);
    let load = Load { address: address(port), request, connections: CONNECTIONS, time };
    let before = process.cpu_seconds()?;
    let outcome = on(Some(bench.cores.client), move || load::run(&load)).await?;
    let cpu = process.cpu_seconds()? - before;
    ensure!(outcome.failures == 0, "{} of {} requests failed", outcome.failures, outcome.answers.len());
    let megabytes = (outcome.answers.len() * BODY) as f64 / 1e6;
    Ok((megabytes / outcome.seconds, megabytes / cpu.max(0.01)))
}

/// For the table.
pub(crate) fn rows(ways: &[Way]) -> Result<Vec<Row>> {
    let way = |name: &str, what: &str| ways.iter().find(|way| way.name == format!("{name}, {what}"));
    let mut rows = vec![];
    for (ours, what, wall, cpu) in [
        ("Podless 0.2", TAKEN, Aim::Least(0.95, 0.98), Aim::Least(0.6, 0.8)),
        ("Podless 0.3", BACK, Aim::Least(0.95, 0.98), Aim::Least(0.88, 0.95)),
    ] {
        let (Some(one), Some(other)) = (way(ours, what), way(AXUM, what)) else { continue };
        let ratios = |one: &[f64], other: &[f64]| -> Vec<f64> { one.iter().zip(other).map(|(a, b)| a / b).collect() };
        let figure = format!("1 MB {what}, {ours} ÷ {AXUM}");
        rows.push(Row::new(&format!("{figure}: by time"), ratios(&one.per_second, &other.per_second), wall)?);
        let by_cpu = ratios(&one.per_cpu_second, &other.per_cpu_second);
        rows.push(Row::new(&format!("{figure}: by CPU"), by_cpu, cpu)?);
    }
    Ok(rows)
}

/// In the page.
pub(crate) fn tell(ways: &[Way]) -> Result<String> {
    let mut rows = String::new();
    for way in ways {
        let [wall, cpu] = [&way.per_second, &way.per_cpu_second].map(|all| Spread::of(all.iter().copied()));
        let told =
            |spread: Spread| format!("{} / **{}** / {}", short(spread.min), short(spread.median), short(spread.max));
        rows += &format!("| {} | {} | {} |\n", way.name, told(wall?), told(cpu?));
    }
    Ok(format!(
        "## Bodies of 1 MB\n\n\
         Sent by {CONNECTIONS} connections to a server on one core; only taken, or given back as they come. In turns, {} rounds.\n\n\
         | | MB/s, min / **median** / max | MB by CPU-second |\n|---|---|---|\n{rows}\n",
        ways.first().map_or(0, |way| way.per_second.len())
    ))
}
