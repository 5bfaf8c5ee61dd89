//! Figure: items of 1 KB, read, checked and answered: by the shim, by native servers, by hosts of components. Measured: IO;
//! told: pure.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podless_e2e::figures::{
    plot::{Chart, Draw, Ink, Line, Panel},
    stats::{Spread, millis},
};
use podless_link::v1::Assignment;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    guests::{CRUD, CRUD_P3},
    load::{self, Load, Outcome},
    operator::Operator,
    peers::{self, AXUM, SERVE},
    shim::{Shim, address},
    table::{Aim, Row, short},
};

/// One server over all rounds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Server {
    pub(crate) name: String,
    /// Requests a second, a number for each round.
    pub(crate) rates: Vec<f64>,
    /// Milliseconds, of each round.
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    /// Requests a second by connections.
    pub(crate) by_connections: Vec<(usize, f64)>,
}

/// All servers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Crud {
    pub(crate) servers: Vec<Server>,
}

pub(crate) const FRESH: &str = "Podless, fresh";
pub(crate) const REUSED: &str = "Podless, reused";
pub(crate) const P3: &str = "Podless, 0.3";
/// Connections of the table's figures.
const CONNECTIONS: usize = 32;
/// What `Podless, reused` has in `spec.instance`: maxInvocations and poolSize.
const INVOCATIONS: u32 = 100_000;
const POOL: u32 = 64;
const ITEM: &[u8] = include_bytes!("../../../examples/crud/item.json");

/// Asks all in turns.
pub(crate) async fn measure(bench: &Bench) -> Result<Crud> {
    let operator = Operator::start().await?;
    let peers = peers::start(bench.cores.server).await?;
    let _shim = Shim::start(&operator, Some(bench.cores.server)).await?;
    let fresh = operator.assignment("fresh", &CRUD.code()?, 20_000)?;
    let p3 = operator.assignment("p3", &CRUD_P3.code()?, 20_001)?;
    let reused = Assignment {
        max_invocations: Some(INVOCATIONS),
        pool_size: Some(POOL),
        ..operator.assignment("reused", &CRUD.code()?, 20_002)?
    };
    operator.assign(&[fresh, p3, reused]).await?;
    let ours = [(FRESH, 20_000), (REUSED, 20_002), (P3, 20_001)];
    let all: Vec<_> = ours.into_iter().chain(peers.iter().map(|peer| (peer.name, peer.port))).collect();
    let mut servers: Vec<_> = all
        .iter()
        .map(|(name, _)| Server {
            name: (*name).to_owned(),
            rates: vec![],
            p50: vec![],
            p99: vec![],
            by_connections: vec![],
        })
        .collect();
    for (_, port) in &all {
        ask(bench, *port, CONNECTIONS, bench.time(0.3, 0.2)).await?;
    }
    for _ in 0..bench.times(5, 3) {
        for ((name, port), server) in all.iter().zip(&mut servers) {
            let outcome = ask(bench, *port, CONNECTIONS, bench.time(3.0, 0.7)).await.context(*name)?;
            server.rates.push(outcome.rate());
            server.p50.push(outcome.quantile(0.5));
            server.p99.push(outcome.quantile(0.99));
        }
    }
    let steps: &[usize] = if bench.quick { &[1, 8, 64, 512] } else { &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512] };
    for connections in steps {
        for ((name, port), server) in all.iter().zip(&mut servers) {
            let outcome = ask(bench, *port, *connections, bench.time(1.0, 0.3)).await.context(*name)?;
            server.by_connections.push((*connections, outcome.rate()));
        }
    }
    Ok(Crud { servers })
}

/// The request.
pub(crate) fn item() -> Vec<u8> {
    load::request("POST", "/items", ITEM)
}

async fn ask(bench: &Bench, port: u16, connections: usize, time: Duration) -> Result<Outcome> {
    let load = Load { address: address(port), request: item(), connections, time };
    let outcome = on(Some(bench.cores.client), move || load::run(&load)).await?;
    ensure!(outcome.failures == 0, "{} of {} requests failed", outcome.failures, outcome.answers.len());
    Ok(outcome)
}

impl Crud {
    fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// Of each round, one divided by the other; nothing when one of them was left out.
    fn ratios(&self, ours: &str, other: &str, of: impl Fn(&Server) -> &Vec<f64>) -> Option<Vec<f64>> {
        let (ours, other) = (of(self.server(ours)?), of(self.server(other)?));
        Some(ours.iter().zip(other).map(|(ours, other)| ours / other).collect())
    }

    /// For the table.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let mut rows = vec![];
        for (ours, other, aim) in [
            (REUSED, AXUM, Aim::Least(0.63, 0.85)),
            (FRESH, AXUM, Aim::Least(0.4, 0.6)),
            (P3, AXUM, Aim::Least(0.37, 0.7)),
            (REUSED, SERVE, Aim::Least(5.0, 7.0)),
            (FRESH, SERVE, Aim::Least(3.0, 4.0)),
        ] {
            if let Some(ratios) = self.ratios(ours, other, |server| &server.rates) {
                rows.push(Row::new(&format!("CRUD, requests/s: {ours} ÷ {other}"), ratios, aim)?);
            }
        }
        if let Some(ratios) = self.ratios(FRESH, AXUM, |server| &server.p99) {
            rows.push(Row::new(&format!("CRUD, p99 at c=32: {FRESH} ÷ {AXUM}"), ratios, Aim::Most(1.5, 1.1))?);
        }
        Ok(rows)
    }

    /// In the page.
    pub(crate) fn tell(&self) -> Result<String> {
        let mut rows = String::new();
        for server in &self.servers {
            let [rate, p50, p99] = [&server.rates, &server.p50, &server.p99].map(|all| Spread::of(all.iter().copied()));
            let (rate, p50, p99) = (rate?, p50?, p99?);
            rows += &format!(
                "| {} | {} / **{}** / {} | {} | {} |\n",
                server.name,
                short(rate.min),
                short(rate.median),
                short(rate.max),
                millis(p50.median),
                millis(p99.median)
            );
        }
        Ok(format!(
            "## Items of 1 KB\n\n\
             `POST /items` of [crud](../../examples/crud): 1 KB of JSON read, checked and answered, the same code everywhere.\n\
             {CONNECTIONS} kept connections, each asks again as soon as it is answered; the server on one core, who asks on\n\
             another; in turns, {} rounds. Fresh is the default of 0.2: an instance for each request; reused has maxInvocations\n\
             {INVOCATIONS} and poolSize {POOL}; 0.3 has its defaults.\n\n\
             | server | requests/s, min / **median** / max | p50 | p99 |\n|---|---|---|---|\n{rows}\n\
             ![By connections](figures/rps.svg)\n\n",
            self.servers.first().map_or(0, |server| server.rates.len())
        ))
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |server: &Server| Line {
            name: server.name.clone(),
            ink: match server.name.as_str() {
                FRESH | REUSED => Ink::Ours,
                P3 => Ink::OursToo,
                AXUM => Ink::Given,
                _ => Ink::Other,
            },
            draw: Draw::Dots,
            points: server.by_connections.iter().map(|(count, rate)| (*count as f64, rate / 1000.0)).collect(),
        };
        Chart {
            title: "Items of 1 KB, one core".to_owned(),
            x: "connections".to_owned(),
            x_powers: true,
            panels: vec![Panel {
                y: "1000 requests/s".to_owned(),
                powers: false,
                lines: self.servers.iter().map(line).collect(),
            }],
        }
    }
}
