//! Figure: the first request that a service ever gets. Its artifact is on the node and in the page cache, and nothing of it
//! is mapped. Measured: IO; told: pure.

use anyhow::{Context, Result};
use podless_e2e::figures::{
    plot::{Chart, Draw, Ink, Line, Panel},
    stats::{Spread, mebibytes, millis},
};
use podless_link::v1::Assignment;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    guests::{BULKY, Guest, HELLO},
    load::{first_bytes, request},
    operator::Operator,
    shim::{Shim, address},
    table::{Aim, Row},
};

/// Services of one size.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Size {
    pub(crate) code_bytes: usize,
    /// Milliseconds to the first byte of the first request, by round.
    pub(crate) cold: Vec<Vec<f64>>,
    /// Of later ones on the same connection, by round.
    pub(crate) warm: Vec<Vec<f64>>,
}

/// Later requests to each.
const WARM: usize = 20;

/// Asks services that nobody has asked before, then asks them again.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Size>> {
    let rounds = bench.times(5, 3);
    let (mut sizes, mut port) = (vec![], 20_000);
    for (guest, each) in [(HELLO, bench.times(100, 20)), (BULKY, bench.times(20, 5))] {
        sizes.push(of(bench, guest, rounds, each, &mut port).await.context(guest.name)?);
    }
    Ok(sizes)
}

async fn of(bench: &Bench, guest: Guest, rounds: usize, each: usize, port: &mut u16) -> Result<Size> {
    let operator = Operator::start().await?;
    let _shim = Shim::start(&operator, Some(bench.cores.server)).await?;
    let code = guest.code()?;
    let first = *port;
    let mut services = vec![];
    for number in 0..rounds * each {
        let code = code.variant(number as u64);
        let assignment = operator.assignment(&format!("{}-{number}", guest.name), &code, *port)?;
        services.push(Assignment { parked: true, ..assignment });
        *port += 1;
    }
    operator.assign(&services).await?;
    let (mut cold, mut warm) = (vec![], vec![]);
    for round in 0..rounds {
        let ports = (0..each).map(|number| first + (round * each + number) as u16);
        let ports: Vec<_> = ports.collect();
        let took = on(Some(bench.cores.client), move || {
            ports.into_iter().map(|port| first_bytes(address(port), &request("GET", "/", b""), 1 + WARM)).collect()
        });
        let took: Vec<Vec<f64>> = took.await?;
        cold.push(took.iter().filter_map(|took| took.first().copied()).collect());
        warm.push(took.iter().flat_map(|took| took.iter().skip(1).copied()).collect());
    }
    Ok(Size { code_bytes: code.size(), cold, warm })
}

impl Size {
    fn p50s(rounds: &[Vec<f64>]) -> Result<Vec<f64>> {
        rounds.iter().map(|round| Ok(Spread::of(round.iter().copied())?.median)).collect()
    }

    /// Milliseconds that the first request takes longer than a later one.
    pub(crate) fn load(&self) -> Result<f64> {
        let all = |rounds: &[Vec<f64>]| Spread::of(rounds.iter().flatten().copied());
        Ok(all(&self.cold)?.median - all(&self.warm)?.median)
    }
}

/// For the table.
pub(crate) fn rows(sizes: &[Size]) -> Result<Vec<Row>> {
    let aims = [Aim::Most(4.0, 2.0), Aim::Most(8.0, 3.0)];
    let row = |(size, aim): (&Size, Aim)| {
        let ratios = Size::p50s(&size.cold)?.into_iter().zip(Size::p50s(&size.warm)?).map(|(cold, warm)| cold / warm);
        let code = mebibytes(size.code_bytes as f64);
        Row::new(&format!("first request to a service with {code} of code ÷ a later one (p50)"), ratios, aim)
    };
    sizes.iter().zip(aims).map(row).collect()
}

/// In the page.
pub(crate) fn tell(sizes: &[Size]) -> Result<String> {
    let mut rows = String::new();
    for size in sizes {
        let [cold, warm] = [&size.cold, &size.warm].map(|rounds| Spread::of(rounds.iter().flatten().copied()));
        let (cold, warm) = (cold?, warm?);
        rows += &format!(
            "| {} | {} / **{}** / {} / {} | **{}** / {} | {} |\n",
            mebibytes(size.code_bytes as f64),
            millis(cold.min),
            millis(cold.median),
            millis(cold.p99),
            millis(cold.max),
            millis(warm.median),
            millis(warm.p99),
            cold.count
        );
    }
    Ok(format!(
        "## The first request ever\n\n\
         Parked services, each with machine code of its own on the node's disk and in the page cache; each is asked for the first\n\
         time, then {WARM} times more on the same connection, which was open before. From the request to the first byte.\n\n\
         | machine code | first, min / **p50** / p99 / max | later, **p50** / p99 | services |\n|---|---|---|---|\n{rows}\n\
         ![Distribution](figures/cold.svg)\n\n"
    ))
}

/// As a picture.
pub(crate) fn chart(sizes: &[Size]) -> Chart {
    let share = |rounds: &[Vec<f64>]| -> Vec<(f64, f64)> {
        let mut all: Vec<_> = rounds.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        let count = all.len() as f64;
        all.into_iter().enumerate().map(|(at, took)| (took * 1000.0, (at + 1) as f64 / count * 100.0)).collect()
    };
    let lines = sizes.iter().zip([Ink::Ours, Ink::OursToo]).map(|(size, ink)| Line {
        name: format!("first, {}", mebibytes(size.code_bytes as f64)),
        ink,
        draw: Draw::Joined,
        points: share(&size.cold),
    });
    let warm = sizes.first().map(|size| Line {
        name: "later".to_owned(),
        ink: Ink::Given,
        draw: Draw::Joined,
        points: share(&size.warm),
    });
    Chart {
        title: "The first request to a service".to_owned(),
        x: "microseconds to the first byte".to_owned(),
        x_powers: true,
        panels: vec![Panel { y: "% of requests".to_owned(), powers: false, lines: lines.chain(warm).collect() }],
    }
}
