//! Figure: what a service takes that waits, one that is loaded, and an instance at work; and how many fit. Measured: IO;
//! told: pure.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use podless_e2e::figures::plot::{Chart, Draw, Ink, Line, Panel};
use podless_link::v1::Assignment;
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    cores::on,
    guests::{HELLO, PROBE},
    load::{self, first_bytes, request},
    operator::Operator,
    shim::{Shim, address},
    table::{Aim, Row, short},
};

/// Bytes, supervisor and serving process together.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// Services that are parked, more and more of them, and why no more.
    pub(crate) parked: Vec<Parked>,
    pub(crate) ended: String,
    /// By services that are loaded, each with code of its own: pages that are no file's.
    pub(crate) resident: Vec<(usize, f64)>,
    /// By instances that have a request in flight: all pages, and page tables.
    pub(crate) live: Vec<(usize, f64)>,
    pub(crate) quick: bool,
}

/// So many services that nobody asks.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parked {
    pub(crate) services: usize,
    /// Of both processes.
    pub(crate) bytes: f64,
    /// Of the kernel, for sockets.
    pub(crate) kernel: f64,
    /// Until the last was taken.
    pub(crate) seconds: f64,
}

/// Steps that fleets grow in: a slope of each.
const STEPS: usize = 4;
/// Artifacts of the services that are parked.
const ARTIFACTS: usize = 50;
const FIRST: u16 = 20_000;

/// Grows three fleets.
pub(crate) async fn measure(bench: &Bench) -> Result<Memory> {
    let (parked, ended) = parked(bench).await.context("parked")?;
    let resident = resident(bench).await.context("resident")?;
    let live = live(bench).await.context("live instances")?;
    Ok(Memory { parked, ended, resident, live, quick: bench.quick })
}

/// Services that are asked once, more and more of them.
async fn resident(bench: &Bench) -> Result<Vec<(usize, f64)>> {
    let operator = Operator::start().await?;
    let shim = Shim::start(&operator, None).await?;
    let step = bench.times(500, 100);
    let code = HELLO.code()?;
    let services = (0..(STEPS + 1) * step).map(|number| {
        let port = FIRST + number as u16;
        let assignment = operator.assignment(&format!("s-{number}"), &code.variant(number as u64), port)?;
        Ok(Assignment { parked: true, ..assignment })
    });
    operator.assign(&services.collect::<Result<Vec<_>>>()?).await?;
    let mut measured = vec![];
    for number in 0..=STEPS {
        let ports: Vec<_> = (number * step..(number + 1) * step).map(|number| FIRST + number as u16).collect();
        let ask = |port| first_bytes(address(port), &request("GET", "/", b""), 1).map(drop);
        on(None, move || ports.into_iter().try_for_each(ask)).await?;
        measured.push(((number + 1) * step, shim.process.memory()?.anonymous));
    }
    Ok(measured)
}

/// Requests that wait inside their instances, more and more of them, as far as the shim has room.
async fn live(bench: &Bench) -> Result<Vec<(usize, f64)>> {
    let operator = Operator::start().await?;
    let shim = Shim::start(&operator, None).await?;
    let page = on(None, || load::get(super::shim::admin(), "/metrics")).await?;
    let limit = page.lines().find_map(|line| line.strip_prefix("podless_shim_instances_limit "));
    let limit: usize = limit.context("a limit of instances")?.parse()?;
    let step = limit.min(bench.times(10_000, 500)) / (STEPS + 1);
    let code = PROBE.code()?;
    // A service each: one port takes no more than its share of connections.
    let services = (0..=STEPS).map(|number| {
        let assignment = operator.assignment(&format!("live-{number}"), &code, FIRST + number as u16)?;
        Ok(Assignment { budget: u32::try_from(step)?, timeout_millis: 120_000, ..assignment })
    });
    operator.assign(&services.collect::<Result<Vec<_>>>()?).await?;
    let (mut measured, mut held) = (vec![], vec![]);
    for number in 0..=STEPS {
        let address = address(FIRST + number as u16);
        held.extend(on(None, move || load::hold(address, &request("GET", "/slow?ms=100000", b""), step)).await?);
        let count = (number + 1) * step;
        instances(count).await?;
        let memory = shim.process.memory()?;
        measured.push((count, memory.proportional + memory.tables));
    }
    Ok(measured)
}

/// Waits until the shim counts so many live instances.
async fn instances(count: usize) -> Result<()> {
    let line = format!("podless_shim_instances_live {count}\n");
    podless_e2e::eventually("instances are live", Duration::from_secs(60), async || {
        let page = on(None, || load::get(super::shim::admin(), "/metrics")).await?;
        anyhow::ensure!(page.contains(&line), "no {line}");
        Ok(())
    })
    .await
}

/// Parked services until there are enough or no more are taken.
async fn parked(bench: &Bench) -> Result<(Vec<Parked>, String)> {
    let operator = Operator::start().await?;
    let shim = Shim::start(&operator, None).await?;
    let (most, step) = (bench.times(30_000, 5000), bench.times(2000, 1000));
    let code = HELLO.code()?;
    let codes: Vec<_> = (0..ARTIFACTS).map(|number| code.variant(number as u64)).collect();
    let (mut measured, started) = (vec![], Instant::now());
    for first in (0..most).step_by(step) {
        let services = (first..first + step).map(|number| {
            let port = FIRST + number as u16;
            let assignment = operator.assignment(&format!("d-{number}"), &codes[number % ARTIFACTS], port)?;
            Ok(Assignment { parked: true, ..assignment })
        });
        if let Err(error) = operator.assign(&services.collect::<Result<Vec<_>>>()?).await {
            return Ok((measured, format!("beyond {}: {error:#}", short(first as f64))));
        }
        measured.push(Parked {
            services: first + step,
            seconds: started.elapsed().as_secs_f64(),
            bytes: shim.process.memory()?.proportional,
            kernel: sockets()?,
        });
    }
    Ok((measured, "no more were asked for".to_owned()))
}

/// Bytes of the kernel for sockets and what they are known by. Where nobody may look, nothing.
fn sockets() -> Result<f64> {
    const CACHES: [&str; 5] = ["TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi"];
    let Ok(text) = fs::read_to_string("/proc/slabinfo") else { return Ok(0.0) };
    let mut bytes = 0.0;
    for line in text.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [name, active, _, size, ..] = fields.as_slice()
            && CACHES.contains(name)
        {
            bytes += active.parse::<f64>()? * size.parse::<f64>()?;
        }
    }
    Ok(bytes)
}

/// Bytes of one more, from each size to the next.
fn slopes(points: &[(usize, f64)]) -> Vec<f64> {
    points.windows(2).map(|two| (two[1].1 - two[0].1) / (two[1].0 - two[0].0) as f64).collect()
}

impl Memory {
    fn parked(&self, of: impl Fn(&Parked) -> f64) -> Vec<(usize, f64)> {
        self.parked.iter().map(|parked| (parked.services, of(parked))).collect()
    }

    /// For the table.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let (own, kernel) = (self.parked(|parked| parked.bytes), self.parked(|parked| parked.kernel));
        let mut rows = vec![];
        for (figure, points, aim) in [
            ("a parked service: the shim's own", &own, Aim::Most(2.0, 1.0)),
            ("a parked service: the kernel's, by port", &kernel, Aim::Most(4.0, 0.0)),
            ("a resident idle service: private", &self.resident, Aim::Most(84.0, 64.0)),
            ("a live instance after use: all in", &self.live, Aim::Most(60.0, 48.0)),
        ] {
            let kibibytes = slopes(points).into_iter().map(|bytes| bytes / 1024.0);
            rows.push(Row::new(&format!("memory of {figure}, KiB"), kibibytes, aim)?);
        }
        // A quick run does not try.
        if !self.quick {
            let registered = self.parked.last().map(|parked| parked.services as f64);
            rows.push(Row::new("services registered, by port", registered, Aim::Least(20_000.0, 30_000.0))?);
            let live = self.live.last().map(|(count, _)| *count as f64);
            rows.push(Row::new("instances live at once", live, Aim::Least(10_000.0, 20_000.0))?);
        }
        Ok(rows)
    }

    /// In the page.
    pub(crate) fn tell(&self) -> String {
        let last = self.parked.last();
        let (count, seconds) = last.map_or((0, 0.0), |last| (last.services, last.seconds));
        let most = |points: &[(usize, f64)]| short(points.last().map_or(0.0, |(count, _)| *count as f64));
        format!(
            "## Memory\n\n\
             Supervisor and serving process together, as the kernel counts them; what one takes is the difference between two\n\
             fleets by the difference of their sizes. {} services, which share {ARTIFACTS} artifacts, were taken in {seconds:.0} s and are\n\
             parked, each with a port; why it ends there: {}. Of the kernel, the objects of listening sockets. Up to {}\n\
             services, each with machine code of its own, are asked once and stay resident: of that what is no file's, for code\n\
             is the page cache's. Up to {} instances have a request in flight: with their connections and page tables.\n\n\
             ![Density](figures/density.svg)\n\n",
            short(count as f64),
            self.ended,
            most(&self.resident),
            most(&self.live),
        )
    }

    /// As a picture.
    pub(crate) fn chart(&self) -> Chart {
        let line = |name: &str, ink, points: Vec<(usize, f64)>| Line {
            name: name.to_owned(),
            ink,
            draw: Draw::Dots,
            points: points.into_iter().map(|(count, value)| (count as f64, value)).collect(),
        };
        let mebibytes = |points: &[(usize, f64)]| -> Vec<(usize, f64)> {
            points.iter().map(|(count, bytes)| (*count, bytes / f64::from(1 << 20))).collect()
        };
        let panel = |y: &str, lines| Panel { y: y.to_owned(), powers: false, lines };
        Chart {
            title: "Services on one node".to_owned(),
            x: "services".to_owned(),
            x_powers: false,
            panels: vec![
                panel(
                    "MiB",
                    vec![
                        line("parked", Ink::Ours, mebibytes(&self.parked(|parked| parked.bytes))),
                        line("resident", Ink::OursToo, mebibytes(&self.resident)),
                        line("live instances", Ink::Other, mebibytes(&self.live)),
                    ],
                ),
                panel("seconds until taken", vec![line("parked", Ink::Ours, self.parked(|parked| parked.seconds))]),
            ],
        }
    }
}
