//! Figure: the serving process is killed; all its services are back from the local disk. Measured: IO; told: pure.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podless_e2e::figures::stats::{Spread, millis};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Bench,
    cold::Size,
    cores::on,
    guests::HELLO,
    load::{first_bytes, request},
    operator::Operator,
    shim::{Shim, address},
    table::{Aim, Row, short},
};

/// Milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Restart {
    pub(crate) services: usize,
    /// From the kill until the last of all has answered, and until the process has said hello.
    pub(crate) all: Vec<f64>,
    pub(crate) hello: Vec<f64>,
    /// To load one: its code is hashed, and what its first request takes longer than a later one.
    pub(crate) one: f64,
}

/// Kills and waits, with both cores.
pub(crate) async fn measure(bench: &Bench, cold: &Size) -> Result<Restart> {
    let operator = Operator::start().await?;
    let shim = Shim::start(&operator, None).await?;
    let services = bench.times(1000, 200);
    let code = HELLO.code()?;
    let assignments = (0..services).map(|number| {
        operator.assignment(&format!("r-{number}"), &code.variant(number as u64), 20_000 + number as u16)
    });
    operator.assign(&assignments.collect::<Result<Vec<_>>>()?).await?;
    let (mut all, mut hello) = (vec![], vec![]);
    for round in 0..bench.times(5, 3) {
        let started = Instant::now();
        shim.process.kill_children()?;
        let answered = on(None, move || {
            // The ports stay open: each first request waits for its own service.
            for number in 0..services {
                answer(20_000 + number as u16)?;
            }
            Ok(started.elapsed())
        });
        let greeted = async {
            operator.greeted(round + 2).await?;
            Ok(started.elapsed())
        };
        let (answered, greeted) = tokio::join!(answered, greeted);
        let greeted: Result<Duration> = greeted;
        all.push(answered.context("answers")?.as_secs_f64() * 1000.0);
        hello.push(greeted?.as_secs_f64() * 1000.0);
    }
    let bytes = code.bytes();
    let hashes = (0..10).map(|_| {
        let started = Instant::now();
        std::hint::black_box(Sha256::digest(&bytes));
        started.elapsed().as_secs_f64() * 1000.0
    });
    Ok(Restart { services, all, hello, one: Spread::of(hashes)?.median + cold.load()? })
}

/// One answer; a connection that the old process had accepted is made anew.
fn answer(port: u16) -> Result<()> {
    const TRIES: usize = 100;
    let mut last = None;
    for _ in 0..TRIES {
        match first_bytes(address(port), &request("GET", "/", b""), 1) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    ensure!(last.is_none(), "port {port} does not answer: {last:?}");
    Ok(())
}

impl Restart {
    /// For the table.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let ratios = self.all.iter().map(|all| all / (self.one * self.services as f64));
        let figure = format!("restart with {} services ÷ loading one as often", short(self.services as f64));
        Ok(vec![Row::new(&figure, ratios, Aim::Most(1.5, 0.7))?])
    }

    /// In the page.
    pub(crate) fn tell(&self) -> Result<String> {
        let (all, hello) = (Spread::of(self.all.iter().copied())?, Spread::of(self.hello.iter().copied())?);
        Ok(format!(
            "## Restart\n\n\
             The process that serves {} services, each with code of its own, is killed; its supervisor starts another, which\n\
             hashes, maps and links from the local disk, on both cores. Meanwhile one client after the other asks each service.\n\
             Until all have answered: {}; until the process said hello: {}. To load one takes {}: its hash, and\n\
             what its first request takes longer than a later one.\n\n",
            short(self.services as f64),
            all.tell(),
            hello.tell(),
            millis(self.one)
        ))
    }
}
